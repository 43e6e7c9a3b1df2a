//! The flags of the settings of a training, one per row of [`SETTINGS`], and the command that gives them all.

use super::shell_quoted;
use super::views::ViewsArgs;
use clap::builder::{BoolValueParser, PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};
use fmnist_gpu::model::{Model, ModelFile, Named};
use fmnist_gpu::ops::SharedTiles;
use fmnist_gpu::run::RunConfig;
use fmnist_gpu::session::Given;
use fmnist_gpu::train::settings::{Kind, Recipe, SETTINGS, Setting, Value};
use std::path::Path;

/// Training images of Fashion-MNIST, and of the generated set unless limited.
const TRAIN_IMAGES: u64 = 60_000;

/// The flags that say what a model file may say too: how it is trained, and how it predicts.
#[derive(Clone, Debug)]
pub struct SettingFlags {
    /// The settings of `[train]` that were given, in the order of the table.
    given: Vec<(&'static Setting, Value)>,
    /// The views.
    pub views: ViewsArgs,
}

impl SettingFlags {
    /// The settings that were given, with their values.
    pub fn given(&self) -> Given<'_> {
        &self.given
    }
}

/// The flag of a setting.
pub fn flag(setting: &Setting) -> String {
    format!("--{}", setting.name.replace(['_', '.'], "-"))
}

fn argument(setting: &'static Setting) -> Arg {
    let default = (setting.get)(&Recipe::default()).map_or(String::new(), |value| format!(" [default: {value}]"));
    let argument = Arg::new(setting.name)
        .long(setting.name.replace(['_', '.'], "-"))
        .value_name(setting.placeholder)
        .help(format!("{}{default}", setting.help));
    match &setting.kind {
        Kind::Count(range) => argument.value_parser(value_parser!(u64).range(range.clone()).map(Value::Count)),
        Kind::Real(_) => argument.value_parser(|text: &str| text.parse().map(Value::Real)),
        Kind::Name(names) => {
            let names = names();
            let possible = names.iter().map(|(name, about)| PossibleValue::new(*name).help(*about));
            argument.value_parser(PossibleValuesParser::new(possible).map(move |name| {
                let known = names.iter().find(|(known, _)| *known == name);
                Value::Name(known.map_or("", |(known, _)| known))
            }))
        }
        // Alone it means yes; `=false` takes back what a model file says.
        Kind::Switch => argument
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(BoolValueParser::new().map(Value::Switch)),
        Kind::Weights => argument.value_parser(Value::weights),
    }
}

/// The settings that say what a training makes of its images, in the order of the table.
#[derive(Clone, Debug, Default)]
pub struct ImageFlags(Vec<(&'static Setting, Value)>);

/// Mixed images depend on the order of the epoch, which the number of images determines.
const OF_IMAGES: [&str; 4] = ["batch_size", "seed", "train_limit", "validation_split"];

impl ImageFlags {
    /// The settings that were given, with their values.
    pub fn given(&self) -> Given<'_> {
        &self.0
    }

    fn settings() -> impl Iterator<Item = &'static Setting> {
        SETTINGS.iter().filter(|setting| setting.name.starts_with("augment.") || OF_IMAGES.contains(&setting.name))
    }
}

impl Args for ImageFlags {
    fn augment_args(command: Command) -> Command {
        command.args(ImageFlags::settings().map(|setting| argument(setting).requires("augment")))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ImageFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(ImageFlags(given(matches, ImageFlags::settings())))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn given(matches: &ArgMatches, settings: impl Iterator<Item = &'static Setting>) -> Vec<(&'static Setting, Value)> {
    settings.filter_map(|setting| Some((setting, matches.get_one::<Value>(setting.name)?.clone()))).collect()
}

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        ViewsArgs::augment_args(command.args(SETTINGS.iter().map(argument)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let views = ViewsArgs::from_arg_matches(matches)?;
        Ok(SettingFlags { given: given(matches, SETTINGS.iter()), views })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The settings by name, those that apply: numbers as such, others as text.
pub fn as_json(recipe: &Recipe) -> serde_json::Map<String, serde_json::Value> {
    let value = |setting: &Setting| {
        let value = match (setting.get)(recipe)? {
            Value::Count(count) => count.into(),
            Value::Real(real) => real.into(),
            other => other.to_string().into(),
        };
        Some((setting.name.to_string(), value))
    };
    SETTINGS.iter().filter_map(value).collect()
}

/// The command that repeats a run.
pub fn repeat_command(config: &RunConfig) -> String {
    let model = match &config.model_file {
        _ if Model::built_in().iter().any(|model| model.computes_like(&config.model)) => config.model.name.clone(),
        Some(path) => shell_quoted(path),
        // Version 0.1 did not record the path.
        None => shell_quoted(Path::new(&format!("{}.toml", config.model.name))),
    };
    let mut command = format!("fmnist-gpu train --model {model} --dataset {}", config.dataset);
    let mut recipe = config.recipe().unwrap_or_default();
    recipe.train_limit = recipe.train_limit.filter(|&limit| limit != TRAIN_IMAGES);
    // What a built-in model says need not be said again; a file may say anything.
    let built_in = Model::built_in().into_iter().find(|model| model.computes_like(&config.model));
    if !built_in.as_ref().is_some_and(|model| model.predict == config.model.predict) {
        command.push_str(&format!(" --views {}", config.model.predict.views.name()));
    }
    let built_in = built_in.and_then(|model| recipe_of(&model.name));
    for setting in &SETTINGS {
        let is_known = |known: &Recipe| setting.in_recipe && (setting.get)(known) == (setting.get)(&recipe);
        if let Some(value) = (setting.get)(&recipe).filter(|_| !built_in.as_ref().is_some_and(is_known)) {
            let equals = if matches!(setting.kind, Kind::Switch) { "=" } else { " " };
            command.push_str(&format!(" {}{equals}{value}", flag(setting)));
        }
    }
    if config.safe {
        command.push_str(" --safe");
    }
    if config.tiles == Some(SharedTiles::default()) {
        command.push_str(" --no-autotune");
    }
    command
}

/// The recipe of a built-in model.
fn recipe_of(name: &str) -> Option<Recipe> {
    let mut recipe = Recipe::default();
    recipe.read(&ModelFile::load(name).ok()?.train).ok().map(|()| recipe)
}
