//! The flags of the settings of a training: one per row of [`SETTINGS`].

use anyhow::{Result, anyhow};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};
use fmnist_gpu::train::settings::{Kind, Method, Recipe, SETTINGS, Setting, SettingError, Value};

/// The settings that were given, in the order of the table.
#[derive(Clone, Debug, Default)]
pub struct SettingFlags(Vec<(&'static Setting, Value)>);

impl SettingFlags {
    /// The settings that were given, with their values.
    pub fn given(&self) -> impl Iterator<Item = (&'static Setting, Value)> {
        self.0.iter().copied()
    }

    /// The value given for a setting.
    pub fn value(&self, name: &str) -> Option<Value> {
        self.given().find(|(setting, _)| setting.name == name).map(|(_, value)| value)
    }

    /// Takes them over into a recipe.
    pub fn apply(&self, recipe: &mut Recipe) -> Result<()> {
        self.given().try_for_each(|(setting, value)| setting.set(recipe, value).map_err(explained))
    }
}

/// An error of a setting, by its flag.
pub fn explained(error: SettingError) -> anyhow::Error {
    anyhow!("{} is {}; {}", flag(error.setting), error.value, error.reason)
}

/// The flag of a setting.
pub fn flag(setting: &Setting) -> String {
    format!("--{}", setting.name.replace('_', "-"))
}

fn argument(setting: &'static Setting) -> Arg {
    let default = (setting.get)(&Recipe::default()).map_or(String::new(), |value| format!(" [default: {value}]"));
    let argument = Arg::new(setting.name)
        .long(setting.name.replace('_', "-"))
        .value_name(setting.placeholder)
        .help(format!("{}{default}", setting.help));
    match &setting.kind {
        Kind::Count(range) => {
            argument.value_parser(value_parser!(u64).range(range.clone()).map(Value::Count))
        }
        Kind::Real(_) => argument.value_parser(value_parser!(f64).map(Value::Real)),
        Kind::Method => {
            let names = Method::all().map(|(name, about, _)| PossibleValue::new(name).help(about));
            argument.value_parser(PossibleValuesParser::new(names).map(|name| {
                let method = Method::all().into_iter().find(|(known, ..)| *known == name);
                Value::Method(method.map_or(Method::Adam, |(.., method)| method))
            }))
        }
    }
}

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        command.args(SETTINGS.iter().map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |setting: &'static Setting| Some((setting, *matches.get_one::<Value>(setting.name)?));
        Ok(SettingFlags(SETTINGS.iter().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
