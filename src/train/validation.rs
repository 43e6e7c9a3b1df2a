//! The images that are held out of the training set.

use crate::data::Split;
use crate::model::permutation;

/// Which images are held out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldOut {
    /// The same share of each class, drawn from this seed.
    Stratified(u64),
    /// The last ones, as version 0.1 did: wrong for data that are sorted by class.
    Last,
}

/// Takes `count` images out of a training set for validation. Both parts keep the order of the set.
///
/// The number of images of a class is its share of `count`, rounded so that the numbers add up to it.
///
/// # Panics
/// There are fewer images than that.
pub fn hold_out(train: &mut Split, count: usize, which: HoldOut) -> Split {
    let seed = match which {
        HoldOut::Last => return train.split_off(train.len() - count),
        HoldOut::Stratified(seed) => seed,
    };
    if count == 0 {
        return Split::default();
    }
    let mut left = held_out_per_class(&train.labels, count);
    let mut is_held_out = vec![false; train.len()];
    // Epochs are counted from 1, so no epoch has this order.
    for i in permutation(train.len(), seed, 0) {
        let left = &mut left[usize::from(train.labels[i as usize])];
        is_held_out[i as usize] = *left > 0;
        *left = left.saturating_sub(1);
    }
    let part = |held_out: bool| {
        let chosen: Vec<usize> = (0..train.len()).filter(|&i| is_held_out[i] == held_out).collect();
        // Whole images: byte by byte takes 0.1 s.
        let images: Vec<&[u8]> = chosen.iter().map(|&i| train.image(i)).collect();
        Split { images: images.concat(), labels: chosen.iter().map(|&i| train.labels[i]).collect() }
    };
    let validation = part(true);
    *train = part(false);
    validation
}

/// Returns how many of `count` held-out images are of each class: the shares rounded down, and one more for those that lost
/// most by it.
fn held_out_per_class(labels: &[u8], count: usize) -> Vec<usize> {
    let mut sizes = vec![0; 1 + usize::from(u8::MAX)];
    labels.iter().for_each(|&label| sizes[usize::from(label)] += 1);
    let mut counts: Vec<usize> = sizes.iter().map(|size| size * count / labels.len()).collect();
    let mut classes: Vec<usize> = (0..sizes.len()).collect();
    // A stable sort: of equal remainders, the lower class comes first.
    classes.sort_by_key(|&class| std::cmp::Reverse(sizes[class] * count % labels.len()));
    let missing = count - counts.iter().sum::<usize>();
    classes[..missing].iter().for_each(|&class| counts[class] += 1);
    counts
}
