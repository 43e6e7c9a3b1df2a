//! The backward steps: the one place that differentiates.

use super::{Add, Id, Lowering, Op, Relu, Step};

impl Lowering<'_> {
    /// Goes through the forward steps from the last to the first, and emits the steps that compute the gradients of what they read from
    /// those of what they wrote.
    pub(super) fn backward(&mut self) {
        for i in (0..self.program.steps.len()).rev() {
            let step = self.program.steps[i].clone();
            let y = step.writes[0];
            if matches!(step.op, Op::SoftmaxXent(_)) {
                self.reaches(step.reads[0], y);
            } else if self.is_trained[y.0]
                && let Some(dy) = self.sum(y)
            {
                self.rule(&step, dy);
            }
        }
    }

    /// Emits the step for the gradients of weight and bias, and of the input if it is needed.
    pub(super) fn weights(&mut self, op: Op, reads: Vec<Id>, step: &Step) {
        let x = step.reads[0];
        let mut writes = vec![self.gradient_of(step.reads[1]), self.gradient_of(step.reads[2])];
        if self.is_trained[x.0] {
            let dx = self.gradient_like(x);
            writes.push(dx);
            self.reaches(x, dx);
        }
        self.step(op, reads, writes);
    }

    /// Emits the step for the gradient of the only input, if it is needed.
    pub(super) fn input(&mut self, op: Op, reads: Vec<Id>, x: Id) {
        if self.is_trained[x.0] {
            let dx = self.gradient_like(x);
            self.step(op, reads, vec![dx]);
            self.reaches(x, dx);
        }
    }

    /// Adds a tensor for the gradient of `x` that one of its readers computes.
    fn gradient_like(&mut self, x: Id) -> Id {
        let before = self.gradients.get(&x).map_or(0, Vec::len);
        let suffix = if before == 0 { "dy".to_string() } else { format!("dy{}", before + 1) };
        let name = self.name_of_gradient(x, &suffix);
        self.rows_like(name, x)
    }

    pub(super) fn name_of_gradient(&self, x: Id, suffix: &str) -> String {
        let name = &self.program.tensor(x).name;
        format!("{}.{suffix}", name.strip_suffix(".y").unwrap_or(name))
    }

    /// Notes that `dx` is the part of the gradient of `x` that comes from one of its readers.
    pub(super) fn reaches(&mut self, x: Id, dx: Id) {
        if self.is_trained[x.0] {
            self.gradients.entry(x).or_default().push(dx);
        }
    }

    /// Returns the gradient of `y`: the sum over all its readers, masked if `y` is the output of a ReLU.
    fn sum(&mut self, y: Id) -> Option<Id> {
        let mut parts = self.gradients.remove(&y)?.into_iter().enumerate();
        let (_, mut sum) = parts.next()?;
        for (i, part) in parts {
            let name = self.name_of_gradient(y, &format!("sum{i}"));
            let both = self.rows_like(name, y);
            self.step(Op::Add(Add::Forward), vec![sum, part], vec![both]);
            sum = both;
        }
        if self.is_relu[y.0] && !self.masks_all(y) {
            let name = self.name_of_gradient(y, "masked");
            let masked = self.rows_like(name, y);
            self.step(Op::Relu(Relu::Backward), vec![y, sum], vec![masked]);
            sum = masked;
        }
        Some(sum)
    }

    /// Whether `x` is the output of a ReLU, and every forward step that reads it masks its part of the gradient at no cost.
    pub(super) fn masks_all(&self, x: Id) -> bool {
        let mut readers = self.program.steps[..=self.program.loss()].iter().filter(|step| step.reads.contains(&x));
        self.is_relu[x.0] && readers.all(|step| step.op.masks(self.fusion.is_some()))
    }
}
