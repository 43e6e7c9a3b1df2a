//! The table of the settings.

use super::{Averaging, Kind, MAX_BATCH_SIZE, MAX_EPOCHS, Method, Setting, Value, names};
use crate::cpu::batch_gather::Flip;
use crate::engine::{Schedule, Shape};
use crate::text::Named;

/// Checks a factor.
fn not_negative(factor: f64) -> Result<(), &'static str> {
    match factor >= 0.0 && factor <= f64::from(f32::MAX) {
        true => Ok(()),
        false => Err("it must be a number, 0 or more"),
    }
}

/// Checks a share of something.
fn share(share: f64) -> Result<(), &'static str> {
    match (0.0..=1.0).contains(&share) {
        true => Ok(()),
        false => Err("it must be at least 0 and at most 1, for example 0.1"),
    }
}

/// Checks a share that cannot be whole.
fn part_of_one(share: f64) -> Result<(), &'static str> {
    match (0.0..1.0).contains(&share) {
        true => Ok(()),
        false => Err("it must be at least 0 and less than 1, for example 0.1"),
    }
}

/// Every setting, in the order of the help.
pub static SETTINGS: [Setting; 28] = [
    Setting {
        name: "epochs",
        placeholder: "N",
        help: "Passes over the training set; 0 writes the initial weights",
        kind: Kind::Count(0..=MAX_EPOCHS),
        in_model_file: true,
        may_change: true,
        in_recipe: false,
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
        in_recipe: false,
        get: |recipe| Some(Value::Count(recipe.batch_size as u64)),
        put: |recipe, value| recipe.batch_size = value.count() as usize,
    },
    Setting {
        name: "optimizer",
        placeholder: "OPTIMIZER",
        help: "Optimizer",
        kind: Kind::Name(names::<Method>),
        in_model_file: true,
        may_change: false,
        in_recipe: false,
        get: |recipe| Some(Value::Name(recipe.optimizer.name())),
        put: |recipe, value| recipe.choose_optimizer(value.named()),
    },
    Setting {
        name: "learning_rate",
        placeholder: "RATE",
        help: "Learning rate of the optimizer, the largest of a schedule",
        kind: Kind::Real(|rate| match rate {
            _ if !(rate.is_finite() && rate > 0.0) => Err("it must be a number above 0, for example 0.001"),
            _ if rate < f64::from(f32::MIN_POSITIVE) => {
                Err("that is 0 in single precision, so nothing would be trained; a usual value is 0.001")
            }
            _ => Ok(()),
        }),
        in_model_file: true,
        may_change: false,
        in_recipe: false,
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
        in_recipe: false,
        get: |recipe| recipe.momentum.map(Value::Real),
        put: |recipe, value| recipe.momentum = Some(value.real()),
    },
    Setting {
        name: "nesterov",
        placeholder: "BOOL",
        help: "Nesterov momentum for SGD [default: false]",
        kind: Kind::Switch,
        in_model_file: true,
        may_change: false,
        in_recipe: false,
        get: |recipe| recipe.nesterov.then_some(Value::Switch(true)),
        put: |recipe, value| recipe.nesterov = value.switch(),
    },
    Setting {
        name: "weight_decay",
        placeholder: "DECAY",
        help: "Decoupled decay of weights, but not of biases, scales and shifts, for SGD and AdamW; AdamW has 0.004 by default [default: 0]",
        kind: Kind::Real(not_negative),
        in_model_file: true,
        may_change: false,
        in_recipe: true,
        get: |recipe| {
            let decays = recipe.weight_decay > 0.0 || recipe.optimizer == Method::AdamW;
            decays.then_some(Value::Real(recipe.weight_decay))
        },
        put: |recipe, value| recipe.weight_decay = value.real(),
    },
    Setting {
        name: "bias_factor",
        placeholder: "FACTOR",
        help: "Factor of the learning rate of biases",
        kind: Kind::Real(not_negative),
        in_model_file: true,
        may_change: false,
        in_recipe: true,
        get: |recipe| Some(Value::Real(recipe.factors.bias)),
        put: |recipe, value| recipe.factors.bias = value.real(),
    },
    Setting {
        name: "scale_factor",
        placeholder: "FACTOR",
        help: "Factor of the learning rate of the scales of normalizations",
        kind: Kind::Real(not_negative),
        in_model_file: true,
        may_change: false,
        in_recipe: true,
        get: |recipe| Some(Value::Real(recipe.factors.scale)),
        put: |recipe, value| recipe.factors.scale = value.real(),
    },
    Setting {
        name: "shift_factor",
        placeholder: "FACTOR",
        help: "Factor of the learning rate of the shifts of normalizations",
        kind: Kind::Real(not_negative),
        in_model_file: true,
        may_change: false,
        in_recipe: true,
        get: |recipe| Some(Value::Real(recipe.factors.shift)),
        put: |recipe, value| recipe.factors.shift = value.real(),
    },
    Setting {
        name: "schedule",
        placeholder: "SCHEDULE",
        help: "How the learning rate changes over the training",
        kind: Kind::Name(names::<Shape>),
        in_model_file: true,
        may_change: false,
        in_recipe: true,
        get: |recipe| Some(Value::Name(recipe.schedule.shape.name())),
        put: |recipe, value| recipe.choose_shape(value.named()),
    },
    Setting {
        name: "warmup",
        placeholder: "SHARE",
        help: "Share of all steps over which the learning rate rises to its largest; onecycle has 0.3 by default [default: 0]",
        kind: Kind::Real(share),
        in_model_file: true,
        may_change: false,
        in_recipe: true,
        get: |recipe| {
            let Schedule { shape, warmup, .. } = recipe.schedule;
            (warmup > 0.0 || shape == Shape::OneCycle).then_some(Value::Real(warmup))
        },
        put: |recipe, value| recipe.choose_warmup(value.real()),
    },
    Setting {
        name: "initial",
        placeholder: "SHARE",
        help: "First learning rate of the warm-up, as a share of the largest; onecycle has 0.04 by default [default: 0]",
        kind: Kind::Real(share),
        in_model_file: true,
        may_change: false,
        in_recipe: true,
        get: |recipe| {
            let Schedule { warmup, initial, .. } = recipe.schedule;
            (warmup > 0.0 || initial > 0.0).then_some(Value::Real(initial))
        },
        put: |recipe, value| recipe.schedule.initial = value.real(),
    },
    Setting {
        name: "final",
        placeholder: "SHARE",
        help: "Last learning rate, as a share of the largest, for cosine, linear and onecycle [default: 0]",
        kind: Kind::Real(share),
        in_model_file: true,
        may_change: false,
        in_recipe: true,
        get: |recipe| {
            let Schedule { shape, last, .. } = recipe.schedule;
            (shape.falls() || last > 0.0).then_some(Value::Real(last))
        },
        put: |recipe, value| recipe.schedule.last = value.real(),
    },
    Setting {
        name: "clip_norm",
        placeholder: "NORM",
        help: "Largest norm of all gradients together; longer ones are shortened to it [default: none]",
        kind: Kind::Real(|norm| match norm >= f64::from(f32::MIN_POSITIVE) && norm <= f64::from(f32::MAX) {
            true => Ok(()),
            false => Err("it must be a number above 0, for example 1"),
        }),
        in_model_file: true,
        may_change: false,
        in_recipe: true,
        get: |recipe| recipe.clip_norm.map(Value::Real),
        put: |recipe, value| recipe.clip_norm = Some(value.real()),
    },
    Setting {
        name: "seed",
        placeholder: "SEED",
        help: "Seed of the initial weights and of the order of images in every epoch; the same seed on the same device gives the same \
               bits",
        kind: Kind::Count(0..=u64::MAX),
        in_model_file: false,
        may_change: false,
        in_recipe: false,
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
        in_recipe: false,
        get: |recipe| recipe.train_limit.map(Value::Count),
        put: |recipe, value| recipe.train_limit = Some(value.count()),
    },
    Setting {
        name: "validation_split",
        placeholder: "SHARE",
        help: "Hold out this share of the training images, the same share of each class, and evaluate on them after each epoch, for \
               example 0.1 [default: 0]",
        kind: Kind::Real(part_of_one),
        in_model_file: false,
        may_change: false,
        in_recipe: false,
        get: |recipe| Some(recipe.validation_split).filter(|&share| share > 0.0).map(Value::Real),
        put: |recipe, value| recipe.validation_split = value.real(),
    },
    Setting {
        name: "label_smoothing",
        placeholder: "SHARE",
        help: "Share of each target that is spread evenly over all classes, in the training loss",
        kind: Kind::Real(part_of_one),
        in_model_file: true,
        may_change: false,
        in_recipe: true,
        get: |recipe| Some(Value::Real(recipe.label_smoothing)),
        put: |recipe, value| recipe.label_smoothing = value.real(),
    },
    Setting {
        name: "class_weights",
        placeholder: "none|balanced|W,W,...",
        help: "Weight of each class in the training loss: none, balanced (images / (classes * images of the class)), or one number per class",
        kind: Kind::Weights,
        in_model_file: true,
        may_change: false,
        in_recipe: true,
        get: |recipe| Some(Value::Weights(recipe.class_weights.clone())),
        put: |recipe, value| recipe.class_weights = value.class_weights(),
    },
    Setting {
        name: "average",
        placeholder: "AVERAGE",
        help: "Moving average of the weights, which is then what is evaluated and saved",
        kind: Kind::Name(names::<Averaging>),
        in_model_file: true,
        may_change: false,
        in_recipe: true,
        get: |recipe| Some(Value::Name(recipe.average.name())),
        // The decay in a model file is that of the average in the file.
        put: |recipe, value| {
            let average = value.named();
            recipe.average_decay = recipe.average_decay.filter(|_| recipe.average == average);
            recipe.average = average;
        },
    },
    Setting {
        name: "average_decay",
        placeholder: "DECAY",
        help: "Part of the average that stays at a step [default: 0.999 for ema, 0.95 for lookahead]",
        kind: Kind::Real(part_of_one),
        in_model_file: true,
        may_change: false,
        in_recipe: true,
        get: |recipe| recipe.average_decay.map(Value::Real),
        put: |recipe, value| recipe.average_decay = Some(value.real()),
    },
    Setting {
        name: "patience",
        placeholder: "EPOCHS",
        help: "End training after so many epochs without a lower validation loss, and keep the weights of the epoch with the lowest",
        kind: Kind::Count(1..=MAX_EPOCHS),
        in_model_file: false,
        may_change: false,
        in_recipe: true,
        get: |recipe| recipe.patience.map(Value::Count),
        put: |recipe, value| recipe.patience = Some(value.count()),
    },
    Setting {
        name: "augment.shift",
        placeholder: "N",
        help: "Move each training image by up to this many pixels in each direction; zeros move in",
        kind: Kind::Count(0..=MAX_PIXELS),
        in_model_file: true,
        may_change: false,
        in_recipe: true,
        get: |recipe| Some(Value::Count(recipe.augment.shift.into())),
        put: |recipe, value| recipe.augment.shift = value.count() as u32,
    },
    Setting {
        name: "augment.flip",
        placeholder: "FLIP",
        help: "Mirror training images, left to right",
        kind: Kind::Name(names::<Flip>),
        in_model_file: true,
        may_change: false,
        in_recipe: true,
        get: |recipe| Some(Value::Name(recipe.augment.flip.name())),
        put: |recipe, value| recipe.augment.flip = value.named(),
    },
    Setting {
        name: "augment.cutout",
        placeholder: "N",
        help: "Set a square of this side in each training image to zero",
        kind: Kind::Count(0..=MAX_PIXELS),
        in_model_file: true,
        may_change: false,
        in_recipe: true,
        get: |recipe| Some(Value::Count(recipe.augment.cutout.into())),
        put: |recipe, value| recipe.augment.cutout = value.count() as u32,
    },
    Setting {
        name: "augment.mixup",
        placeholder: "ALPHA",
        help: "Mix each training image and its label with another one, with a share from Beta(alpha, alpha)",
        kind: Kind::Real(check_alpha),
        in_model_file: true,
        may_change: false,
        in_recipe: true,
        get: |recipe| Some(Value::Real(recipe.mixing.mixup)),
        put: |recipe, value| recipe.mixing.mixup = value.real(),
    },
    Setting {
        name: "augment.cutmix",
        placeholder: "ALPHA",
        help: "Replace a rectangle of each training image by that of another one, and mix their labels, with an area from Beta(alpha, alpha); \
               with mixup, each batch has one of the two",
        kind: Kind::Real(check_alpha),
        in_model_file: true,
        may_change: false,
        in_recipe: true,
        get: |recipe| Some(Value::Real(recipe.mixing.cutmix)),
        put: |recipe, value| recipe.mixing.cutmix = value.real(),
    },
];

/// Largest number of pixels of a shift or a hole: more than any image has on a side.
const MAX_PIXELS: u64 = 4096;

/// The shares are drawn in double precision, which has no digits left for a far smaller alpha; with a larger one, all are one half.
fn check_alpha(alpha: f64) -> Result<(), &'static str> {
    match alpha == 0.0 || (0.01..=100.0).contains(&alpha) {
        true => Ok(()),
        false => Err("it must be 0, for none, or from 0.01 to 100, for example 0.2"),
    }
}
