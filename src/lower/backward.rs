//! The backward steps: the one place that differentiates.

use super::{Id, Lowering, Op, Step};
use std::collections::HashMap;

/// The gradients that reach each tensor, from each of its readers.
#[derive(Default)]
pub(super) struct Gradients(HashMap<Id, Vec<Id>>);

impl Lowering<'_> {
    /// Goes through the forward steps from the last to the first, and emits the steps that compute the gradients of what they read from
    /// those of what they wrote.
    pub(super) fn backward(&mut self) {
        let forward = self.program.steps.clone();
        let mut gradients = Gradients::default();
        for step in forward.iter().rev() {
            let y = step.writes[0];
            if matches!(step.op, Op::Loss) {
                self.reaches(&mut gradients, step.reads[0], y);
            } else if self.is_trained[y.0]
                && let Some(dy) = self.sum(&forward, &mut gradients, y)
            {
                self.rule(&forward, &mut gradients, step, dy);
            }
        }
    }

    /// Emits the step for the gradients of weight and bias, and of the input if it is needed.
    pub(super) fn weights(&mut self, gradients: &mut Gradients, op: Op, reads: Vec<Id>, step: &Step, needs_dx: bool) {
        let mut writes = vec![self.gradient_of(step.reads[1]), self.gradient_of(step.reads[2])];
        let x = step.reads[0];
        if needs_dx {
            writes.push(self.gradient_like(x, gradients));
        }
        self.step(op, reads, writes.clone());
        if let Some(&dx) = writes.get(2) {
            self.reaches(gradients, x, dx);
        }
    }

    /// Emits the step for the gradient of the only input.
    pub(super) fn input(&mut self, gradients: &mut Gradients, op: Op, reads: Vec<Id>, x: Id) {
        if self.is_trained[x.0] {
            let dx = self.gradient_like(x, gradients);
            self.step(op, reads, vec![dx]);
            self.reaches(gradients, x, dx);
        }
    }

    /// Adds a tensor for the gradient of `x` that one of its readers computes.
    fn gradient_like(&mut self, x: Id, gradients: &Gradients) -> Id {
        let before = gradients.0.get(&x).map_or(0, Vec::len);
        let suffix = if before == 0 { "dy".to_string() } else { format!("dy{}", before + 1) };
        let name = self.name_of_gradient(x, &suffix);
        self.rows_like(name, x)
    }

    pub(super) fn name_of_gradient(&self, x: Id, suffix: &str) -> String {
        let name = &self.program.tensor(x).name;
        format!("{}.{suffix}", name.strip_suffix(".y").unwrap_or(name))
    }

    /// Notes that `dx` is the part of the gradient of `x` that comes from one of its readers.
    pub(super) fn reaches(&mut self, gradients: &mut Gradients, x: Id, dx: Id) {
        if self.is_trained[x.0] {
            gradients.0.entry(x).or_default().push(dx);
        }
    }

    /// Returns the gradient of `y`: the sum over all its readers, masked if `y` is the output of a ReLU.
    fn sum(&mut self, forward: &[Step], gradients: &mut Gradients, y: Id) -> Option<Id> {
        let mut parts = gradients.0.remove(&y)?.into_iter().enumerate();
        let (_, mut sum) = parts.next()?;
        for (i, part) in parts {
            let name = self.name_of_gradient(y, &format!("sum{i}"));
            let both = self.rows_like(name, y);
            self.step(Op::Add, vec![sum, part], vec![both]);
            sum = both;
        }
        if self.is_relu[y.0] && !self.masks_all(forward, y) {
            let name = self.name_of_gradient(y, "masked");
            let masked = self.rows_like(name, y);
            self.step(Op::ReluBackward, vec![y, sum], vec![masked]);
            sum = masked;
        }
        Some(sum)
    }

    /// Whether `x` is the output of a ReLU, and every step that reads it masks its part of the gradient at no cost.
    pub(super) fn masks_all(&self, forward: &[Step], x: Id) -> bool {
        let masks = |step: &Step| step.op.masks(self.fusion.relu());
        self.is_relu[x.0] && forward.iter().filter(|step| step.reads.contains(&x)).all(masks)
    }
}
