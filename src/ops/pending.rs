//! What an optimizer needs to finish the gradients itself: where their parts and rows are ([`super::adam::record_pending`]).

use super::head::{HeadDims, HeadRows};
use crate::gpu::{Constant, Tensor};

/// A filter and its bias, whose gradient is in parts `[parts, W + O]`.
#[derive(Clone, Copy, Debug)]
pub struct FilterParts {
    /// Number of parts.
    pub parts: usize,
    /// Values of the filter and of the bias, multiples of four.
    pub lens: [usize; 2],
    /// The first elements of both among the parameters, multiples of four.
    pub first: [usize; 2],
}

impl FilterParts {
    fn len(&self) -> usize {
        self.parts * (self.lens[0] + self.lens[1])
    }
}

/// The gradients that are not finished.
#[derive(Clone, Debug)]
pub struct Pending {
    /// The end of the model.
    pub head: HeadDims,
    /// The first elements of weight and bias of the classes among the parameters, multiples of four.
    pub classes: [usize; 2],
    /// The same of the hidden layer, with the number of its inputs, if its gradient is pending; then its units are a multiple of four.
    pub hidden: Option<([usize; 2], usize)>,
    /// The filters.
    pub filters: Vec<FilterParts>,
}

impl Pending {
    /// Returns the number of elements of the tensor of all parts and rows.
    pub fn room(&self) -> usize {
        self.parts_at(self.filters.len())
    }

    /// Returns where the rows start, after the table of sums.
    pub(crate) fn rows_at(&self) -> usize {
        (16 * self.filters.len()).next_multiple_of(64)
    }

    /// Returns where the parts of a filter start.
    pub(crate) fn parts_at(&self, filter: usize) -> usize {
        let before = self.filters[..filter].iter().map(|filter| filter.len().next_multiple_of(64)).sum::<usize>();
        self.rows_at() + HeadRows::len(&self.head) + before
    }

    /// Returns the rows in the tensor of all.
    pub fn rows(&self, whole: &Tensor) -> HeadRows {
        HeadRows::within(whole.slice("head", self.rows_at(), &[HeadRows::len(&self.head)]), &self.head)
    }

    /// Returns the parts of a filter in the tensor of all, `[parts, W + O]`.
    pub fn parts(&self, whole: &Tensor, filter: usize) -> Tensor {
        let FilterParts { parts, lens, .. } = self.filters[filter];
        whole.slice("dw_parts", self.parts_at(filter), &[parts, lens[0] + lens[1]])
    }

    /// Returns the table of sums, with which the tensor starts: a row for each filter and each bias. Quads are four elements.
    pub fn table(&self) -> Vec<f32> {
        let of_filter = |(i, filter): (usize, &FilterParts)| {
            let [w, b] = filter.lens;
            let row = |first: usize, len: usize, at: usize| {
                let quads = [first, first + len, at, w + b].map(|elements| elements as f32 / 4.0);
                [&quads[..], &[filter.parts as f32, 0.0, 0.0, 0.0]].concat()
            };
            let at = self.parts_at(i);
            [row(filter.first[0], w, at), row(filter.first[1], b, at + w)].concat()
        };
        self.filters.iter().enumerate().flat_map(of_filter).collect()
    }

    /// Returns the constants of a kernel for `len` parameters.
    pub(super) fn constants(&self, len: usize) -> Vec<Constant> {
        let HeadDims { n, i, c, .. } = self.head;
        let ([hidden_w, hidden_b], k) = self.hidden.unwrap_or(([len; 2], 1));
        let [hidden, _, dlogits, dhidden, loss, correct, batch, _] =
            HeadRows::starts(&self.head).map(|start| self.rows_at() + start);
        let sizes = [("N", n), ("K", k), ("I", i), ("C", c), ("SUMS", 2 * self.filters.len())];
        let first = [
            ("HIDDEN_W", hidden_w),
            ("HIDDEN_B", hidden_b),
            ("CLASSES_W", self.classes[0]),
            ("CLASSES_B", self.classes[1]),
        ];
        let rows = [
            ("HIDDEN_AT", hidden),
            ("DLOGITS_AT", dlogits),
            ("DHIDDEN_AT", dhidden),
            ("LOSS_AT", loss),
            ("CORRECT_AT", correct),
            ("BATCH_AT", batch),
        ];
        super::constants(&[&sizes[..], &first, &rows].concat(), &[])
    }
}
