//! The settings of the learning rate's schedule.

use super::{Recipe, SettingError, Value, row};
use crate::engine::{Schedule, Shape};
use crate::text::Named;

impl Named for Shape {
    const ALL: &[(&'static str, &'static str, Self)] = &[
        ("constant", "The same after the warm-up", Shape::Constant),
        ("cosine", "Falls along half a cosine", Shape::Cosine),
        ("onecycle", "Rises and falls along half a cosine each, as PyTorch's OneCycleLR", Shape::OneCycle),
        ("linear", "Falls along a straight line", Shape::Linear),
        ("step", "Falls to a tenth after half of all steps, and to a hundredth after three quarters", Shape::Step),
    ];
}

impl Recipe {
    /// Takes another shape, with the warm-up that is usual for it: what was said about the former one belongs to that.
    pub(super) fn choose_shape(&mut self, shape: Shape) {
        if shape == self.schedule.shape {
            return;
        }
        self.schedule = match shape {
            Shape::OneCycle => Schedule { shape, warmup: 0.3, initial: 1.0 / 25.0, last: 0.0 },
            _ => Schedule { shape, ..Schedule::default() },
        };
    }

    /// Sets the share of the warm-up; without one there is no first rate either.
    pub(super) fn choose_warmup(&mut self, warmup: f64) {
        self.schedule.warmup = warmup;
        if warmup == 0.0 {
            self.schedule.initial = 0.0;
        }
    }

    /// Checks that the settings of the schedule apply to it.
    pub(super) fn check_schedule(&self) -> Result<(), SettingError> {
        let Schedule { shape, warmup, initial, last } = self.schedule;
        if initial > 0.0 && warmup == 0.0 {
            return Err(row("initial").error(Value::Real(initial), "it requires a warmup above 0"));
        }
        if last > 0.0 && !shape.falls() {
            return Err(row("final").error(Value::Real(last), "it requires the schedule cosine, linear or onecycle"));
        }
        Ok(())
    }
}
