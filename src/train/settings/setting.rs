//! A setting: its row of the table, what it can be, and its values in a recipe, a model file and a configuration.

use super::Recipe;
use crate::engine::ClassWeights;
use crate::text::Named;
use std::fmt;
use std::ops::RangeInclusive;
use thiserror::Error;

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
pub(super) fn names<T: Named>() -> Vec<(&'static str, &'static str)> {
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
    pub(super) put: fn(&mut Recipe, Value),
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
    pub(super) fn count(self) -> u64 {
        match self {
            Value::Count(count) => count,
            other => unreachable!("{other} is not a count"),
        }
    }

    pub(super) fn real(self) -> f64 {
        match self {
            Value::Real(value) => value,
            other => unreachable!("{other} is not a real number"),
        }
    }

    pub(super) fn switch(self) -> bool {
        match self {
            Value::Switch(on) => on,
            other => unreachable!("{other} is neither yes nor no"),
        }
    }

    pub(super) fn named<T: Named>(self) -> T {
        let named = if let Value::Name(name) = self { T::named(name) } else { None };
        named.unwrap_or_else(|| unreachable!("{self} is not a name of these"))
    }

    /// As it is in a model file and in a configuration.
    pub(super) fn to_toml(&self) -> toml::Value {
        match self {
            // No count in a recipe is that large.
            Value::Count(count) => toml::Value::Integer(i64::try_from(*count).unwrap_or(i64::MAX)),
            Value::Real(value) => toml::Value::Float(*value),
            Value::Name(name) => toml::Value::String(name.to_string()),
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

    pub(super) fn class_weights(self) -> ClassWeights {
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

    pub(super) fn error(&'static self, value: Value, reason: impl Into<String>) -> SettingError {
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
