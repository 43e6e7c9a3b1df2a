//! Prediction by several views of each image: each view of all images crosses the network once, and their probabilities are averaged.

use crate::data::Split;
use crate::engine::{Engine, EngineError, Inference, OnImages, OnProgress, Totals};
use crate::model::Views;
use crate::report::metrics::argmax;

/// What a model says about images, by their views.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Loss and accuracy of the images that were done, by the averages; fewer than there are if the work was stopped.
    pub totals: Totals,
    /// The averaged probabilities of these images, `[n, classes]`.
    pub probabilities: Vec<f32>,
    /// Loss and accuracy of the images themselves, if there were other views too.
    pub one_view: Option<Totals>,
}

/// Computes loss, accuracy and probabilities of a split by the views of each image.
///
/// # Errors
/// The split is invalid, or the device failed.
pub async fn infer(
    engine: &mut dyn Engine,
    split: &Split,
    views: Views,
    on_progress: OnProgress<'_>,
) -> Result<Evaluation, EngineError> {
    let first = engine.infer(split, on_progress).await?;
    let Inference { totals, probabilities } = first;
    if views == Views::One || (totals.samples as usize) < split.len() {
        return Ok(Evaluation { totals, probabilities, one_view: None });
    }
    let (shape, list) = (engine.model().input, views.list());
    let mut sums: Vec<f64> = probabilities.iter().map(|&p| list[0].weight * f64::from(p)).collect();
    for view in &list[1..] {
        let seen = Split { images: view.of(&split.images, shape), labels: split.labels.clone() };
        let Inference { totals, probabilities } = engine.infer(&seen, on_progress).await?;
        if (totals.samples as usize) < split.len() {
            return Ok(Evaluation { totals, probabilities, one_view: None });
        }
        for (sum, p) in sums.iter_mut().zip(probabilities) {
            *sum += view.weight * f64::from(p);
        }
    }
    let probabilities: Vec<f32> = sums.iter().map(|&sum| sum as f32).collect();
    let mut averaged = Totals { batches: totals.batches, ..Totals::default() };
    let classes = engine.model().classes().max(1);
    for ((sums, row), &label) in sums.chunks(classes).zip(probabilities.chunks(classes)).zip(&split.labels) {
        let label = usize::from(label);
        // A sum that was rounded to zero counts as the smallest positive normal number.
        averaged.loss -= sums[label].max(f64::from(f32::MIN_POSITIVE)).ln();
        averaged.correct += u64::from(argmax(row) == label);
        averaged.samples += 1;
    }
    Ok(Evaluation { totals: averaged, probabilities, one_view: Some(totals) })
}

/// Returns the averaged probabilities `[n, classes]` of `n` images, one byte for each value.
///
/// `on_progress` is called with the number of images done in the view at hand; on `Break` it returns what is done, which is no average yet.
///
/// # Errors
/// The images have another size than the model reads, or the device failed.
pub async fn predict(
    engine: &mut dyn Engine,
    images: &[u8],
    views: Views,
    on_progress: OnImages<'_>,
) -> Result<Vec<f32>, EngineError> {
    let pixels: usize = engine.model().input.iter().product();
    // Nobody reads the loss that follows from these labels.
    let split = Split { images: images.to_vec(), labels: vec![0; images.len() / pixels.max(1)] };
    Ok(infer(engine, &split, views, &mut |totals| on_progress(totals.samples as usize)).await?.probabilities)
}
