//! The settings of a training: one table, from which come the flags with their help, the keys of a model file, what a
//! resumed run may change, and the command that repeats a run.

mod table;

pub use table::SETTINGS;

use crate::engine::{ClassWeights, LossConfig, Optimizer, StepConfig};
use crate::model::Model;
use crate::ops::adam::AdamConfig;
use crate::ops::average::AverageConfig;
use crate::ops::sgd::SgdConfig;
use crate::text::Named;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use thiserror::Error;

/// Largest number of epochs: every checkpoint holds the history, some 200 bytes per epoch, in a header that may have 100 MB.
pub const MAX_EPOCHS: u64 = 100_000;
/// Largest batch size.
pub const MAX_BATCH_SIZE: usize = 32_768;

/// An optimizer by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Adam in Keras's form.
    Adam,
    /// Stochastic gradient descent with momentum.
    Sgd,
}

impl Named for Method {
    const ALL: &[(&'static str, &'static str, Self)] = &[
        ("adam", "Adam in Keras's form", Method::Adam),
        ("sgd", "Stochastic gradient descent with momentum", Method::Sgd),
    ];
}

/// A moving average of the parameters by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Averaging {
    /// There is none: the last parameters are the result.
    None,
    /// An exponential moving average.
    Ema,
    /// An average to which the parameters jump.
    Lookahead,
}

impl Named for Averaging {
    const ALL: &[(&'static str, &'static str, Self)] = &[
        ("none", "The last weights are the result", Averaging::None),
        ("ema", "Exponential moving average of the weights after every step", Averaging::Ema),
        ("lookahead", "Slow weights that move every five steps, and to which the fast ones jump", Averaging::Lookahead),
    ];
}

/// How a model is trained: a value for every row of [`SETTINGS`]. The default is the article's.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Passes over the training set.
    pub epochs: u64,
    /// Images per step.
    pub batch_size: usize,
    /// The optimizer.
    pub optimizer: Method,
    /// Learning rate of the optimizer.
    pub learning_rate: f64,
    /// Momentum, if the optimizer has one.
    pub momentum: Option<f64>,
    /// Seed of everything random.
    pub seed: u64,
    /// Number of training images to use, the first ones, including those held out; `None` uses all.
    pub train_limit: Option<u64>,
    /// Share of these that is held out for validation.
    pub validation_split: f64,
    /// The part of each target that all classes share.
    pub label_smoothing: f64,
    /// How much the images of each class count in the training loss.
    pub class_weights: ClassWeights,
    /// The moving average of the parameters.
    pub average: Averaging,
    /// Its decay, if it is not that of [`Recipe::step`].
    pub average_decay: Option<f64>,
    /// Epochs without a lower validation loss after which training ends, with the weights of the best epoch; `None` never ends it early.
    pub patience: Option<u64>,
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe {
            epochs: 5,
            batch_size: 32,
            optimizer: Method::Adam,
            learning_rate: 0.001,
            momentum: None,
            seed: 0,
            train_limit: None,
            validation_split: 0.0,
            label_smoothing: 0.0,
            class_weights: ClassWeights::Equal,
            average: Averaging::None,
            average_decay: None,
            patience: None,
        }
    }
}

/// The value of a setting.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number of things.
    Count(u64),
    /// A real number.
    Real(f64),
    /// One of several things by its name.
    Name(&'static str),
    /// Yes or no.
    Switch(bool),
    /// Weights of the classes.
    Weights(ClassWeights),
}

impl fmt::Display for Value {
    /// As people write it: a number with many digits by its exponent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Count(count) => count.fmt(f),
            Value::Real(value) if *value == 0.0 || (1e-4..1e7).contains(&value.abs()) => value.fmt(f),
            Value::Real(value) if value.is_finite() => write!(f, "{value:e}"),
            Value::Real(value) => value.fmt(f),
            Value::Name(name) => name.fmt(f),
            Value::Switch(on) => on.fmt(f),
            Value::Weights(ClassWeights::Equal) => "none".fmt(f),
            Value::Weights(ClassWeights::Balanced) => "balanced".fmt(f),
            Value::Weights(ClassWeights::Given(weights)) => {
                let numbers: Vec<String> = weights.iter().map(|&weight| Value::Real(weight).to_string()).collect();
                numbers.join(",").fmt(f)
            }
        }
    }
}

/// What a setting can be.
#[derive(Debug)]
pub enum Kind {
    /// A whole number in a range.
    Count(RangeInclusive<u64>),
    /// A real number that passes a check; it returns what is wrong otherwise.
    Real(fn(f64) -> Result<(), &'static str>),
    /// One of several names; returns each with what the help says about it.
    Name(fn() -> Vec<(&'static str, &'static str)>),
    /// Yes or no.
    Switch,
    /// Weights of the classes: `none`, `balanced`, or one number for each.
    Weights,
}

/// The names of a type's values, each with what the help says about it.
fn names<T: Named>() -> Vec<(&'static str, &'static str)> {
    T::ALL.iter().map(|(name, about, _)| (*name, *about)).collect()
}

/// A row of the table.
#[derive(Debug)]
pub struct Setting {
    /// Its name, as in a model file, with a point after the name of a table; the flag is the same with hyphens.
    pub name: &'static str,
    /// What stands for the value in the help.
    pub placeholder: &'static str,
    /// One sentence without a full stop.
    pub help: &'static str,
    /// What it can be.
    pub kind: Kind,
    /// Whether a model file may have it in `[train]`; the others belong to a run, not to a model.
    pub in_model_file: bool,
    /// Whether a run that is resumed may be given another value.
    pub may_change: bool,
    /// Whether a run records it in the `recipe` of its configuration, unless it has its default; the others have fields of their own.
    pub in_recipe: bool,
    /// Its value in a recipe; `None` if it does not apply, or leaves everything as it is.
    pub get: fn(&Recipe) -> Option<Value>,
    put: fn(&mut Recipe, Value),
}

/// A value that a setting cannot have.
#[derive(Clone, Debug, Error)]
#[error("`{}` is {value}; {reason}", setting.name)]
pub struct SettingError {
    /// The setting.
    pub setting: &'static Setting,
    /// The value.
    pub value: Value,
    /// What it must be, or what it contradicts.
    pub reason: String,
}

impl Value {
    // A setting's kind decides which of these its values have.
    fn count(self) -> u64 {
        match self {
            Value::Count(count) => count,
            other => unreachable!("{other} is not a count"),
        }
    }

    fn real(self) -> f64 {
        match self {
            Value::Real(value) => value,
            other => unreachable!("{other} is not a real number"),
        }
    }

    fn named<T: Named>(self) -> T {
        let named = if let Value::Name(name) = self { T::named(name) } else { None };
        named.unwrap_or_else(|| unreachable!("{self} is not a name of these"))
    }

    /// As it is in a model file and in a configuration.
    fn to_toml(&self) -> toml::Value {
        match self {
            // No count in a recipe is that large.
            Value::Count(count) => toml::Value::Integer(i64::try_from(*count).unwrap_or(i64::MAX)),
            Value::Real(value) => toml::Value::Float(*value),
            Value::Name(name) => toml::Value::String((*name).to_string()),
            Value::Switch(on) => toml::Value::Boolean(*on),
            Value::Weights(ClassWeights::Given(weights)) => {
                toml::Value::Array(weights.iter().copied().map(toml::Value::Float).collect())
            }
            Value::Weights(_) => toml::Value::String(self.to_string()),
        }
    }

    /// Weights of the classes from a word, or from numbers with commas between them.
    ///
    /// # Errors
    /// It is neither.
    pub fn weights(text: &str) -> Result<Value, String> {
        let number = |part: &str| part.trim().parse().map_err(|_| format!("`{part}` is not a number"));
        Ok(Value::Weights(match text {
            "none" => ClassWeights::Equal,
            "balanced" => ClassWeights::Balanced,
            text => ClassWeights::Given(text.split(',').map(number).collect::<Result<_, String>>()?),
        }))
    }

    fn class_weights(self) -> ClassWeights {
        match self {
            Value::Weights(weights) => weights,
            other => unreachable!("{other} is not a list of weights"),
        }
    }
}

impl Setting {
    /// Sets it in a recipe. The value is of the setting's kind, a count in its range.
    ///
    /// # Errors
    /// The value is one that it cannot have.
    ///
    /// # Panics
    /// The value is of another kind.
    pub fn set(&'static self, recipe: &mut Recipe, value: Value) -> Result<(), SettingError> {
        let checked = match (&self.kind, &value) {
            (Kind::Real(check), Value::Real(real)) => check(*real),
            (Kind::Weights, Value::Weights(ClassWeights::Given(weights))) => check_weights(weights),
            _ => Ok(()),
        };
        checked.map_err(|reason| self.error(value.clone(), reason))?;
        (self.put)(recipe, value);
        Ok(())
    }

    /// Reads a value from a model file.
    ///
    /// # Errors
    /// It is of another kind, or out of range.
    pub fn parse(&self, value: &toml::Value) -> Result<Value, String> {
        let wrong = |expected: &str| format!("`{}` is {value}; it must be {expected}", self.name);
        match &self.kind {
            Kind::Count(range) => value
                .as_integer()
                .and_then(|count| u64::try_from(count).ok())
                .filter(|count| range.contains(count))
                .map(Value::Count)
                .ok_or_else(|| wrong(&format!("a whole number from {} to {}", range.start(), range.end()))),
            Kind::Real(_) => value
                .as_float()
                .or(value.as_integer().map(|whole| whole as f64))
                .map(Value::Real)
                .ok_or_else(|| wrong("a number")),
            Kind::Name(names) => {
                let names: Vec<&'static str> = names().into_iter().map(|(name, _)| name).collect();
                let found = names.iter().find(|name| Some(**name) == value.as_str());
                found.map(|name| Value::Name(name)).ok_or_else(|| wrong(&format!("one of {}", names.join(", "))))
            }
            Kind::Switch => value.as_bool().map(Value::Switch).ok_or_else(|| wrong("true or false")),
            Kind::Weights => {
                let number = |value: &toml::Value| value.as_float().or(value.as_integer().map(|whole| whole as f64));
                let numbers = value.as_array().and_then(|list| list.iter().map(number).collect());
                let list = numbers.map(|numbers| Value::Weights(ClassWeights::Given(numbers)));
                let word = value.as_str().filter(|word| ["none", "balanced"].contains(word));
                let named = word.and_then(|word| Value::weights(word).ok());
                list.or(named).ok_or_else(|| wrong("`none`, `balanced`, or a list with one number per class"))
            }
        }
    }

    fn error(&'static self, value: Value, reason: impl Into<String>) -> SettingError {
        SettingError { setting: self, value, reason: reason.into() }
    }
}

/// Checks weights of classes.
fn check_weights(weights: &[f64]) -> Result<(), &'static str> {
    let is_possible = |&weight: &f64| weight >= 0.0 && (weight as f32).is_finite();
    match weights.iter().all(is_possible) && weights.iter().any(|&weight| weight > 0.0) {
        true => Ok(()),
        false => Err("each must be a number of at least 0, and one of them more than that"),
    }
}

/// The row of a setting.
///
/// # Panics
/// There is no setting of this name.
fn row(name: &str) -> &'static Setting {
    SETTINGS.iter().find(|setting| setting.name == name).expect("a name from the table")
}

impl Recipe {
    /// Takes over the settings of a model file's `[train]`.
    ///
    /// # Errors
    /// A key is not a setting of a model file, or a setting cannot have this value.
    pub fn read(&mut self, train: &toml::Table) -> Result<(), String> {
        self.take(train, "[train]", |setting| setting.in_model_file)
    }

    /// Takes over the settings of a table that a run [recorded](Recipe::recorded).
    ///
    /// # Errors
    /// A key is not a setting that is recorded there, or a setting cannot have this value.
    pub fn restore(&mut self, recorded: &toml::Table) -> Result<(), String> {
        self.take(recorded, "recipe", |setting| setting.in_recipe)
    }

    /// The settings that a run records in the `recipe` of its configuration: those that are not the default.
    pub fn recorded(&self) -> toml::Table {
        let mut table = toml::Table::new();
        let default = Recipe::default();
        for setting in
            SETTINGS.iter().filter(|setting| setting.in_recipe && (setting.get)(self) != (setting.get)(&default))
        {
            let Some(value) = (setting.get)(self) else { continue };
            let (inner, key) = match setting.name.split_once('.') {
                Some((inner, key)) => {
                    let entry = table.entry(inner).or_insert_with(|| toml::Table::new().into());
                    (entry.as_table_mut().expect("a table was put there"), key)
                }
                None => (&mut table, setting.name),
            };
            inner.insert(key.to_string(), value.to_toml());
        }
        table
    }

    /// Takes over the settings of a table whose keys must be those of `allowed` rows.
    fn take(&mut self, table: &toml::Table, name: &str, allowed: fn(&Setting) -> bool) -> Result<(), String> {
        let rows = || SETTINGS.iter().filter(|setting| allowed(setting));
        // `augment.shift` is the key `shift` of the table `augment`.
        let is_table = |key: &str| rows().any(|row| row.name.split_once('.').is_some_and(|(table, _)| table == key));
        let flat = table.iter().flat_map(|(key, value)| match value.as_table().filter(|_| is_table(key)) {
            Some(inner) => inner.iter().map(|(inner, value)| (format!("{key}.{inner}"), value)).collect(),
            None => vec![(key.clone(), value)],
        });
        let mut given: BTreeMap<String, &toml::Value> = flat.collect();
        // In the order of the table: the optimizer before what belongs to it.
        for setting in rows() {
            if let Some(value) = given.remove(setting.name) {
                setting.set(self, setting.parse(value)?).map_err(|error| error.to_string())?;
            }
        }
        match given.into_keys().next() {
            None => Ok(()),
            Some(key) => {
                let names: Vec<String> = rows().map(|setting| format!("`{}`", setting.name)).collect();
                Err(format!("`{name}` cannot have `{key}`; its keys are {}", names.join(", ")))
            }
        }
    }

    /// What a training step does.
    ///
    /// # Errors
    /// Settings contradict each other.
    pub fn step(&self) -> Result<StepConfig, SettingError> {
        Ok(StepConfig {
            optimizer: self.optimizer()?,
            loss: LossConfig { label_smoothing: self.label_smoothing, class_weights: self.class_weights.clone() },
            average: self.averaging()?,
            ..StepConfig::default()
        })
    }

    /// The moving average with its decay.
    fn averaging(&self) -> Result<Option<AverageConfig>, SettingError> {
        match (self.average, self.average_decay) {
            (Averaging::None, None) => Ok(None),
            (Averaging::None, Some(decay)) => {
                Err(row("average_decay").error(Value::Real(decay), "it requires the average ema or lookahead"))
            }
            (Averaging::Ema, decay) => Ok(Some(AverageConfig::Ema { decay: decay.unwrap_or(0.999) })),
            (Averaging::Lookahead, decay) => Ok(Some(AverageConfig::Lookahead { decay: decay.unwrap_or(0.95) })),
        }
    }

    /// Checks what a single setting and a step do not show: that there are images to validate on, if training ends by them, and as many
    /// weights as the model has classes.
    ///
    /// # Errors
    /// Settings contradict each other, or the model.
    pub fn check(&self, model: &Model) -> Result<(), SettingError> {
        if let Some(patience) = self.patience.filter(|_| self.validation_split == 0.0) {
            let reason = "it requires images to validate on: a `validation_split` above 0";
            return Err(row("patience").error(Value::Count(patience), reason));
        }
        match &self.class_weights {
            ClassWeights::Given(weights) if weights.len() != model.classes() => {
                let reason =
                    format!("the model `{}` needs one number for each of its {} classes", model.name, model.classes());
                Err(row("class_weights").error(Value::Weights(self.class_weights.clone()), reason))
            }
            _ => Ok(()),
        }
    }

    /// The optimizer with its settings.
    ///
    /// # Errors
    /// A setting is given that the optimizer does not have.
    fn optimizer(&self) -> Result<Optimizer, SettingError> {
        let learning_rate = self.learning_rate;
        match (self.optimizer, self.momentum) {
            (Method::Adam, None) => Ok(Optimizer::Adam(AdamConfig { learning_rate, ..AdamConfig::default() })),
            (Method::Adam, Some(momentum)) => {
                Err(row("momentum").error(Value::Real(momentum), "it requires the optimizer sgd"))
            }
            (Method::Sgd, momentum) => {
                Ok(Optimizer::Sgd(SgdConfig { learning_rate, momentum: momentum.unwrap_or(0.0) }))
            }
        }
    }

    /// The number of images held out of `available` training images, rounded as by Keras's `validation_split`.
    ///
    /// # Errors
    /// Nothing would be left to train on, or nothing to validate on.
    pub fn held_out(&self, available: usize) -> Result<usize, SettingError> {
        let share = self.validation_split;
        let held_out = available - (available as f64 * (1.0 - share)).floor() as usize;
        if share > 0.0 && (held_out == 0 || held_out == available) {
            let reason = format!(
                "of {available} training images that leaves {} to train on and {held_out} to validate on, and both need \
                 at least one",
                available - held_out
            );
            return Err(row("validation_split").error(Value::Real(share), reason));
        }
        Ok(held_out)
    }

    /// Whether both train the same, as far as settings go that [may not change](Setting::may_change), on `available`
    /// training images.
    pub fn trains_like(&self, other: &Recipe, available: usize) -> bool {
        let limit = |recipe: &Recipe| recipe.train_limit.unwrap_or(available as u64);
        let held_out = |recipe: &Recipe| recipe.held_out(available).ok();
        let rest = |recipe: &Recipe| Recipe { epochs: 0, train_limit: None, validation_split: 0.0, ..recipe.clone() };
        limit(self) == limit(other) && held_out(self) == held_out(other) && rest(self) == rest(other)
    }
}

impl From<&Optimizer> for Method {
    fn from(optimizer: &Optimizer) -> Self {
        match optimizer {
            Optimizer::Adam(_) => Method::Adam,
            Optimizer::Sgd(_) => Method::Sgd,
        }
    }
}
