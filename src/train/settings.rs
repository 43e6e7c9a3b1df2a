//! The settings of a training: one table, from which come the flags with their help, the keys of a model file, what a
//! resumed run may change, and the command that repeats a run.

use crate::engine::Optimizer;
use crate::ops::adam::AdamConfig;
use crate::ops::sgd::SgdConfig;
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

/// The optimizers by name, with what the help says about them.
const METHODS: [(&str, &str, Method); 2] =
    [("adam", "Adam in Keras's form", Method::Adam), ("sgd", "Stochastic gradient descent with momentum", Method::Sgd)];

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
        }
    }
}

/// The value of a setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A number of things.
    Count(u64),
    /// A real number.
    Real(f64),
    /// An optimizer.
    Method(Method),
}

impl fmt::Display for Value {
    /// As people write it: a number with many digits by its exponent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Value::Count(count) => count.fmt(f),
            Value::Real(value) if value == 0.0 || (1e-4..1e7).contains(&value.abs()) => value.fmt(f),
            Value::Real(value) if value.is_finite() => write!(f, "{value:e}"),
            Value::Real(value) => value.fmt(f),
            Value::Method(method) => method.name().fmt(f),
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
    /// The name of an optimizer.
    Method,
}

/// A row of the table.
#[derive(Debug)]
pub struct Setting {
    /// Its name, as in a model file; the flag is the same with hyphens.
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

/// Every setting, in the order of the help.
pub static SETTINGS: [Setting; 8] = [
    Setting {
        name: "epochs",
        placeholder: "N",
        help: "Passes over the training set; 0 writes the initial weights",
        kind: Kind::Count(0..=MAX_EPOCHS),
        in_model_file: true,
        may_change: true,
        get: |recipe| Some(Value::Count(recipe.epochs)),
        put: |recipe, value| recipe.epochs = value.count(),
    },
    Setting {
        name: "batch_size",
        placeholder: "N",
        help: "Images per training step",
        kind: Kind::Count(1..=MAX_BATCH_SIZE as u64),
        in_model_file: true,
        may_change: false,
        get: |recipe| Some(Value::Count(recipe.batch_size as u64)),
        put: |recipe, value| recipe.batch_size = value.count() as usize,
    },
    Setting {
        name: "optimizer",
        placeholder: "OPTIMIZER",
        help: "Optimizer",
        kind: Kind::Method,
        in_model_file: true,
        may_change: false,
        get: |recipe| Some(Value::Method(recipe.optimizer)),
        // The momentum in a model file is that of the optimizer in the file.
        put: |recipe, value| {
            recipe.momentum = recipe.momentum.filter(|_| recipe.optimizer == value.method());
            recipe.optimizer = value.method();
        },
    },
    Setting {
        name: "learning_rate",
        placeholder: "RATE",
        help: "Learning rate of the optimizer",
        kind: Kind::Real(|rate| match rate {
            _ if !(rate.is_finite() && rate > 0.0) => Err("it must be a number above 0, for example 0.001"),
            _ if rate < f64::from(f32::MIN_POSITIVE) => {
                Err("that is 0 in single precision, so nothing would be trained; a usual value is 0.001")
            }
            _ => Ok(()),
        }),
        in_model_file: true,
        may_change: false,
        get: |recipe| Some(Value::Real(recipe.learning_rate)),
        put: |recipe, value| recipe.learning_rate = value.real(),
    },
    Setting {
        name: "momentum",
        placeholder: "MOMENTUM",
        help: "Momentum for SGD [default: 0]",
        kind: Kind::Real(|momentum| match (0.0..1.0).contains(&momentum) {
            true => Ok(()),
            false => Err("it must be at least 0 and less than 1, for example 0.9"),
        }),
        in_model_file: true,
        may_change: false,
        get: |recipe| recipe.momentum.map(Value::Real),
        put: |recipe, value| recipe.momentum = Some(value.real()),
    },
    Setting {
        name: "seed",
        placeholder: "SEED",
        help: "Seed of the initial weights and of the order of images in every epoch; the same seed on the same device gives the same \
               bits",
        kind: Kind::Count(0..=u64::MAX),
        in_model_file: false,
        may_change: false,
        get: |recipe| Some(Value::Count(recipe.seed)),
        put: |recipe, value| recipe.seed = value.count(),
    },
    Setting {
        name: "train_limit",
        placeholder: "N",
        help: "Use only the first N training images",
        kind: Kind::Count(1..=u64::MAX),
        in_model_file: false,
        may_change: false,
        get: |recipe| recipe.train_limit.map(Value::Count),
        put: |recipe, value| recipe.train_limit = Some(value.count()),
    },
    Setting {
        name: "validation_split",
        placeholder: "SHARE",
        help: "Hold out this share of the training images, the same share of each class, and evaluate on them after each epoch, for \
               example 0.1 [default: 0]",
        kind: Kind::Real(|share| match (0.0..1.0).contains(&share) {
            true => Ok(()),
            false => Err("it must be at least 0 and less than 1, for example 0.1"),
        }),
        in_model_file: false,
        may_change: false,
        get: |recipe| Some(recipe.validation_split).filter(|&share| share > 0.0).map(Value::Real),
        put: |recipe, value| recipe.validation_split = value.real(),
    },
];

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

    fn method(self) -> Method {
        match self {
            Value::Method(method) => method,
            other => unreachable!("{other} is not an optimizer"),
        }
    }
}

impl Method {
    /// All of them, each with its name and what the help says about it.
    pub fn all() -> [(&'static str, &'static str, Method); 2] {
        METHODS
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        METHODS.iter().find(|(.., method)| *method == self).map_or("", |(name, ..)| name)
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
        if let Kind::Real(check) = self.kind {
            check(value.real()).map_err(|reason| self.error(value, reason))?;
        }
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
            Kind::Method => METHODS
                .iter()
                .find(|(name, ..)| Some(*name) == value.as_str())
                .map(|(.., method)| Value::Method(*method))
                .ok_or_else(|| wrong(&format!("one of {}", METHODS.map(|(name, ..)| name).join(", ")))),
        }
    }

    fn error(&'static self, value: Value, reason: impl Into<String>) -> SettingError {
        SettingError { setting: self, value, reason: reason.into() }
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
        let allowed = || SETTINGS.iter().filter(|setting| setting.in_model_file);
        if let Some(key) = train.keys().find(|&key| !allowed().any(|setting| setting.name == key)) {
            let names: Vec<String> = allowed().map(|setting| format!("`{}`", setting.name)).collect();
            return Err(format!("`[train]` cannot have `{key}`; its keys are {}", names.join(", ")));
        }
        // In the order of the table: the optimizer before what belongs to it.
        for setting in allowed() {
            if let Some(value) = train.get(setting.name) {
                setting.set(self, setting.parse(value)?).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// The optimizer with its settings.
    ///
    /// # Errors
    /// A setting is given that the optimizer does not have.
    pub fn optimizer(&self) -> Result<Optimizer, SettingError> {
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
