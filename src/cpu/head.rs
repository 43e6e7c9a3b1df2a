//! The end of a model whose last hidden layer is dense: its bias and ReLU, the dense layer of the classes, softmax with
//! cross-entropy, and their gradients, by the loops of [`dense`](super::dense) and [`softmax_xent`](super::softmax_xent).

use super::bias::{BiasDims, bias_backward_b};
use super::dense::{DenseDims, dense_backward_w, dense_backward_x, dense_forward};
use super::real::Real;
use super::softmax_xent::{SoftmaxXentDims, softmax_xent_backward_x, softmax_xent_forward};

/// Dimensions of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadDims {
    /// Rows, the batch.
    pub n: usize,
    /// Parts in which the hidden layer was summed.
    pub parts: usize,
    /// Hidden units.
    pub i: usize,
    /// Classes.
    pub c: usize,
}

impl HeadDims {
    /// Returns the dimensions of the dense layer of the classes.
    fn dense(&self) -> DenseDims {
        DenseDims { n: self.n, i: self.i, o: self.c }
    }
}

/// What is computed for each row.
#[derive(Debug)]
pub struct HeadRows<'a, T> {
    /// Outputs of the hidden layer, `[N, I]`.
    pub hidden: &'a mut [T],
    /// Scores of the classes, `[N, C]`.
    pub logits: &'a mut [T],
    /// Their gradients, `[N, C]`.
    pub dlogits: &'a mut [T],
    /// The gradients of the sums of the hidden layer, `[N, I]`.
    pub dhidden: &'a mut [T],
    /// The loss, `[N]`.
    pub loss: &'a mut [T],
    /// Whether the prediction is right, `[N]`.
    pub correct: &'a mut [u32],
}

/// Computes everything that needs no other row. The gradients are those of the mean loss over the first `n_valid` rows; they, loss and
/// correct flag are zero in the rows after them.
///
/// Shapes: parts `[parts, N, I]`, hidden_b `[I]`, w `[I, C]`, b `[C]`, labels `[N]`.
pub fn head_rows<T: Real>(
    d: &HeadDims,
    n_valid: usize,
    [parts, hidden_b, w, b]: [&[T]; 4],
    labels: &[u32],
    rows: HeadRows<'_, T>,
) {
    let HeadRows { hidden, logits, dlogits, dhidden, loss, correct } = rows;
    for (k, hidden) in hidden.iter_mut().enumerate() {
        let mut sum = hidden_b[k % d.i];
        for part in parts.chunks(d.n * d.i) {
            sum += part[k];
        }
        *hidden = if sum > T::ZERO { sum } else { T::ZERO };
    }
    dense_forward(&d.dense(), hidden, w, b, logits);
    let of_classes = SoftmaxXentDims { n: d.n, c: d.c };
    softmax_xent_forward(&of_classes, logits, labels, dlogits, loss, correct);
    loss[n_valid..].fill(T::ZERO);
    correct[n_valid..].fill(0);
    softmax_xent_backward_x(&of_classes, logits, labels, n_valid, dlogits);
    dense_backward_x(&d.dense(), w, dlogits, dhidden);
    for (dhidden, &hidden) in dhidden.iter_mut().zip(&*hidden) {
        if hidden <= T::ZERO {
            *dhidden = T::ZERO;
        }
    }
}

/// Computes the gradients of weights and bias of the dense layer of the classes. Shapes: hidden `[N, I]`, dlogits `[N, C]`, dw
/// `[I, C]`, db `[C]`.
pub fn head_backward_w<T: Real>(d: &HeadDims, [hidden, dlogits]: [&[T]; 2], [dw, db]: [&mut [T]; 2]) {
    dense_backward_w(&d.dense(), hidden, dlogits, dw);
    bias_backward_b(&BiasDims { n: d.n, o: d.c }, dlogits, db);
}
