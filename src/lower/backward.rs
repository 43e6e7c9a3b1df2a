//! The backward instructions: the one place that differentiates.

use super::{Add, Id, Instruction, Lowering, Op, Relu};

impl Lowering<'_> {
    /// Goes through the forward instructions from the last to the first, and emits the instructions that compute the gradients of what they read from
    /// those of what they wrote.
    pub(super) fn backward(&mut self) {
        for i in (0..self.program.instructions.len()).rev() {
            let instruction = self.program.instructions[i].clone();
            let y = instruction.writes[0];
            if matches!(instruction.op, Op::SoftmaxXent(_)) {
                self.reaches(instruction.reads[0], y);
            } else if self.is_trained[y.0]
                && let Some(dy) = self.sum(y)
            {
                self.rule(&instruction, dy);
            }
        }
    }

    /// Whether weight or bias of a forward instruction are trained.
    pub(super) fn trains_weights(&self, instruction: &Instruction) -> bool {
        instruction.reads[1..3].iter().any(|id| self.is_trained[id.0])
    }

    /// Emits the instruction for the gradients of weight and bias, if one of them is trained, and of the input if it is needed.
    pub(super) fn weights(&mut self, op: Op, reads: Vec<Id>, instruction: &Instruction) {
        let x = instruction.reads[0];
        let mut writes = Vec::new();
        if op.has_weights() {
            writes.extend([1, 2].map(|i| self.gradient_of(instruction.reads[i])));
        }
        if self.is_trained[x.0] {
            let dx = self.gradient_like(x);
            writes.push(dx);
            self.reaches(x, dx);
        }
        self.emit(op, reads, writes);
    }

    /// Emits the instruction for the gradient of the only input, if it is needed.
    pub(super) fn input(&mut self, op: Op, reads: Vec<Id>, x: Id) {
        if self.is_trained[x.0] {
            let dx = self.gradient_like(x);
            self.emit(op, reads, vec![dx]);
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
            self.emit(Op::Add(Add::Forward), vec![sum, part], vec![both]);
            sum = both;
        }
        if self.is_relu[y.0] && !self.masks_all(y) {
            let name = self.name_of_gradient(y, "masked");
            let masked = self.rows_like(name, y);
            self.emit(Op::Relu(Relu::Backward), vec![y, sum], vec![masked]);
            sum = masked;
        }
        Some(sum)
    }

    /// Whether `x` is the output of a ReLU, and every forward instruction that reads it masks its part of the gradient at no cost.
    pub(super) fn masks_all(&self, x: Id) -> bool {
        let mut readers = self.program.instructions[..=self.program.loss()]
            .iter()
            .filter(|instruction| instruction.reads.contains(&x));
        self.is_relu[x.0] && readers.all(|instruction| instruction.op.masks(self.fusion.is_some()))
    }
}
