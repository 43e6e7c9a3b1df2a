//! The table of the settings.

use super::{Kind, MAX_BATCH_SIZE, MAX_EPOCHS, Method, Setting, Value, names};
use crate::cpu::batch_gather::Flip;
use crate::text::Named;

/// Every setting, in the order of the help.
pub static SETTINGS: [Setting; 13] = [
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
        // The momentum in a model file is that of the optimizer in the file.
        put: |recipe, value| {
            recipe.momentum = recipe.momentum.filter(|_| recipe.optimizer == value.named());
            recipe.optimizer = value.named();
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
        kind: Kind::Real(|share| match (0.0..1.0).contains(&share) {
            true => Ok(()),
            false => Err("it must be at least 0 and less than 1, for example 0.1"),
        }),
        in_model_file: false,
        may_change: false,
        in_recipe: false,
        get: |recipe| Some(recipe.validation_split).filter(|&share| share > 0.0).map(Value::Real),
        put: |recipe, value| recipe.validation_split = value.real(),
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
