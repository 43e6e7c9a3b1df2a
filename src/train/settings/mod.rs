//! The settings of a training: one table, from which come the flags with their help, the keys of a model file, what a
//! resumed run may change, and the command that repeats a run.

mod schedule;
mod setting;
mod table;

pub use setting::{Kind, Setting, SettingError, Value};
pub use table::SETTINGS;

use setting::names;

use crate::cpu::batch_gather::{Augment, Flip};
use crate::engine::{ClassWeights, Factors, LossConfig, Mixing, Optimizer, Schedule, StepConfig};
use crate::model::Model;
use crate::ops::adam::AdamConfig;
use crate::ops::average::AverageConfig;
use crate::ops::sgd::SgdConfig;
use crate::text::Named;
use std::collections::BTreeMap;

/// Largest number of epochs: every checkpoint holds the history, some 200 bytes per epoch, in a header that may have 100 MB.
pub const MAX_EPOCHS: u64 = 100_000;
/// Largest batch size.
pub const MAX_BATCH_SIZE: usize = 32_768;

/// An optimizer by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Adam in Keras's form.
    Adam,
    /// The same with decoupled weight decay.
    AdamW,
    /// Stochastic gradient descent with momentum.
    Sgd,
}

impl Named for Method {
    const ALL: &[(&'static str, &'static str, Self)] = &[
        ("adam", "Adam in Keras's form", Method::Adam),
        ("adamw", "Adam with decoupled weight decay", Method::AdamW),
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

impl Named for Flip {
    const ALL: &[(&'static str, &'static str, Self)] = &[
        ("none", "No image", Flip::None),
        ("random", "Each image with probability one half", Flip::Random),
        ("alternating", "Each image in every other epoch, beginning on a side drawn once", Flip::Alternating),
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
    /// Whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// Decay of weights, relative to the learning rate.
    pub weight_decay: f64,
    /// Factors of the learning rate.
    pub factors: Factors,
    /// The course of the learning rate.
    pub schedule: Schedule,
    /// Largest norm of the gradients; `None` does not clip them.
    pub clip_norm: Option<f64>,
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
    /// How each training image is changed.
    pub augment: Augment,
    /// How training images are mixed.
    pub mixing: Mixing,
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe {
            epochs: 5,
            batch_size: 32,
            optimizer: Method::Adam,
            learning_rate: 0.001,
            momentum: None,
            nesterov: false,
            weight_decay: 0.0,
            factors: Factors::default(),
            schedule: Schedule::default(),
            clip_norm: None,
            seed: 0,
            train_limit: None,
            validation_split: 0.0,
            label_smoothing: 0.0,
            class_weights: ClassWeights::Equal,
            average: Averaging::None,
            average_decay: None,
            patience: None,
            augment: Augment::default(),
            mixing: Mixing::default(),
        }
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
        let optimizer = self.optimizer()?;
        self.check_schedule()?;
        let Recipe { schedule, weight_decay, factors, clip_norm, seed, augment, mixing, .. } = *self;
        let loss = LossConfig { label_smoothing: self.label_smoothing, class_weights: self.class_weights.clone() };
        let average = self.averaging()?;
        let decay = weight_decay;
        Ok(StepConfig {
            optimizer,
            schedule,
            weight_decay: decay,
            factors,
            clip_norm,
            loss,
            average,
            seed,
            augment,
            mixing,
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

    /// Checks that the settings are possible for images of the shape `[H, W, C]`.
    ///
    /// # Errors
    /// Nothing would be left of an image.
    pub fn check_images(&self, [h, w, _]: [usize; 3]) -> Result<(), SettingError> {
        let Augment { shift, cutout, .. } = self.augment;
        for (name, pixels) in [("augment.shift", shift), ("augment.cutout", cutout)] {
            if pixels as usize >= h.min(w) {
                let reason = format!("it must be less than the {} pixels of a side of an image", h.min(w));
                return Err(row(name).error(Value::Count(pixels.into()), reason));
            }
        }
        Ok(())
    }

    /// The optimizer with its settings.
    ///
    /// # Errors
    /// A setting is given that the optimizer does not have.
    fn optimizer(&self) -> Result<Optimizer, SettingError> {
        let Recipe { learning_rate, momentum, nesterov, weight_decay, .. } = *self;
        let wrong = |name: &str, value: Value, reason: &str| Err(row(name).error(value, reason));
        let adam = AdamConfig { learning_rate, ..AdamConfig::default() };
        match (self.optimizer, momentum) {
            (Method::Adam | Method::AdamW, Some(momentum)) => {
                wrong("momentum", Value::Real(momentum), "it requires the optimizer sgd")
            }
            (Method::Adam | Method::AdamW, None) if nesterov => {
                wrong("nesterov", Value::Switch(true), "it requires the optimizer sgd")
            }
            (Method::Adam, None) if weight_decay > 0.0 => {
                wrong("weight_decay", Value::Real(weight_decay), "it requires the optimizer adamw or sgd")
            }
            (Method::Sgd, momentum) if nesterov && momentum.unwrap_or(0.0) == 0.0 => {
                wrong("nesterov", Value::Switch(true), "it requires a momentum above 0")
            }
            (Method::Adam, None) => Ok(Optimizer::Adam(adam)),
            (Method::AdamW, None) => Ok(Optimizer::AdamW(adam)),
            (Method::Sgd, momentum) => {
                let momentum = momentum.unwrap_or(0.0);
                Ok(Optimizer::Sgd(SgdConfig { learning_rate, momentum, nesterov }))
            }
        }
    }

    /// Takes another optimizer, with the decay that is usual for it: what was said about the former one belongs to that.
    fn choose_optimizer(&mut self, optimizer: Method) {
        if optimizer == self.optimizer {
            return;
        }
        // Keras's default.
        let weight_decay = if optimizer == Method::AdamW { 0.004 } else { 0.0 };
        *self = Recipe { optimizer, momentum: None, nesterov: false, weight_decay, ..self.clone() };
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
            Optimizer::AdamW(_) => Method::AdamW,
            Optimizer::Sgd(_) => Method::Sgd,
        }
    }
}
