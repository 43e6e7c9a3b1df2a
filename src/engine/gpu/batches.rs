//! A split on the GPU, and the submission of its batches: many steps per submission, two submissions in flight, none too long.

use super::head::Head;
use crate::clock::Instant;
use crate::data::Split;
use crate::engine::operations::{OnGpu, record};
use crate::engine::{EngineError, Epoch, NonFinite, OnProgress, StepConfig, Totals, check_order, check_split, pixels};
use crate::gpu::timing::Timings;
use crate::gpu::{DispatchInfo, Element, Gpu, Plan, PlanBuilder, Readback, Submission, Tensor};
use crate::model::Model;
use crate::ops::batch_gather::{self, BatchGatherDims, MIX_WORDS, RANDOM_WORDS, pack_bytes};
use crate::ops::non_finite::{self, NOTHING_FOUND};
use crate::ops::softmax_xent::BatchTotals;
use std::collections::VecDeque;
use std::time::Duration;

/// Target duration of a submission: long enough for the host's cost to be negligible, far below the two seconds after which
/// Windows resets a driver, and short enough for a smooth progress bar. Longer in browsers, one of which (Firefox) looks only every 100 ms
/// whether something is done: shorter ones could not be told apart.
const SUBMISSION: Duration = Duration::from_millis(if cfg!(target_family = "wasm") { 250 } else { 80 });
/// Maximum number of steps in one submission, however fast they are: this bounds the size of the read-back buffers.
const MAX_STEPS: usize = 512;
/// Steps that take longer are submitted dispatch by dispatch, so that each stays far below the limit of a watchdog.
const LONG_STEP: Duration = Duration::from_millis(300);
/// Submissions in flight: the adapter runs one while the host prepares the next.
const IN_FLIGHT: usize = 2;

/// A split on the GPU, and the plan that processes it batch by batch.
#[derive(Debug)]
pub struct Batches {
    gpu: Gpu,
    pub(super) plan: Plan,
    pub(super) feed: Feed,
    readbacks: Vec<Readback>,
    running: Running,
    /// The probabilities of a batch, and those of the whole split, into which they are copied.
    pub(super) outputs: Option<[Tensor; 2]>,
    /// Steps in the next submission, from the duration of the previous ones.
    steps: usize,
    /// Host time spent so far on recording (on hardware also on submitting), and the number of steps.
    host: (Duration, usize),
    /// Whether any batch has been submitted.
    pub(super) has_run: bool,
    /// Whether a step is submitted dispatch by dispatch: the first step, whose duration is not known yet, and every step on an adapter
    /// that takes longer than [`LONG_STEP`] for one.
    in_pieces: bool,
}

/// Where a run over the split is.
#[derive(Debug)]
struct Running {
    /// Samples of the order.
    samples: usize,
    /// Batches that were done before.
    first: usize,
    submitted: usize,
    totals: Totals,
    /// Each with its read-back and its number of steps.
    in_flight: VecDeque<(Submission, Readback, usize)>,
    last: Instant,
}

/// The tensors of a split on the GPU, and of the batch that is taken from it.
#[derive(Debug)]
pub(super) struct Feed {
    dims: BatchGatherDims,
    images: Tensor,
    labels: Tensor,
    pub(super) order: Tensor,
    pub(super) progress: Tensor,
    pub(super) batch_labels: Tensor,
    /// What draws follow from, besides the progress.
    pub(super) random: Tensor,
    /// How the images of each batch are mixed, if batches are more than the images of the data set.
    mixes: Option<Tensor>,
    batch_loss: Tensor,
    batch_correct: Tensor,
    /// The progress, and what each batch of the epoch has: the loss and the number of correct predictions.
    pub(super) all_totals: Tensor,
}

impl Feed {
    /// Uploads a split, and creates the tensors of batches of `n` samples; for training by `config`.
    pub(super) fn new(
        gpu: &Gpu,
        name: &str,
        split: &Split,
        model: &Model,
        n: usize,
        config: Option<&StepConfig>,
    ) -> Result<Self, EngineError> {
        let (samples, pixels) = (split.len(), pixels(model));
        // The kernels index by labels without checks.
        check_split(split, model)?;
        if !pixels.is_multiple_of(4) {
            let reason = format!("an image has {pixels} values, and on a GPU it must be a multiple of four");
            return Err(EngineError::Samples(reason));
        }
        let batches = samples.div_ceil(n);
        let tensor = |part: &str, len: usize, element| gpu.tensor(&format!("{name}.{part}"), &[len], element);
        let images = tensor("images", samples * pixels / 4, Element::U32)?;
        gpu.write_bytes(&images, &split.images);
        let labels =
            gpu.tensor_from_u32(&format!("{name}.labels"), &[samples.div_ceil(4)], &pack_bytes(&split.labels))?;
        let mixed = |config: &StepConfig| if config.mixing.is_none() { 1 } else { batches };
        let mixes = config.filter(|config| config.changes_images()).map(mixed);
        let mixes = mixes.map(|batches| tensor("mixes", MIX_WORDS * batches, Element::U32)).transpose()?;
        let parts = [("progress", 2), ("batch_loss", batches), ("batch_correct", batches)];
        let parts = parts.map(|(part, len)| (part.to_string(), vec![len]));
        let (all_totals, parts) = gpu.arena(name, Element::U32, &parts)?;
        let [progress, batch_loss, batch_correct] = &parts[..] else { unreachable!("an arena has all of its parts") };
        Ok(Feed {
            dims: BatchGatherDims { n, pixels, samples },
            images,
            labels,
            order: tensor("order", samples, Element::U32)?,
            progress: progress.clone(),
            batch_labels: tensor("batch_labels", n, Element::U32)?,
            random: tensor("random", RANDOM_WORDS, Element::U32)?,
            mixes,
            batch_loss: batch_loss.clone().into_floats(),
            batch_correct: batch_correct.clone(),
            all_totals,
        })
    }

    /// Records the gathering of a batch, in training by `config`, and the steps of a program on it, with `head` in place of its own.
    pub(super) fn record(
        &self,
        plan: &mut PlanBuilder,
        on: &OnGpu<'_>,
        config: Option<&StepConfig>,
        head: Option<&Head>,
    ) -> Result<(), EngineError> {
        let images_id = on.program.images;
        let (x, shape) = (&on.tensors[images_id.0], &on.program.tensor(images_id).shape[..]);
        let (_, tensors) = self.gathered(x);
        match (config, &self.mixes, shape) {
            (Some(config), Some(mixes), &[h, w, c]) => {
                let tensors = [&tensors[..], &[&self.random, mixes]].concat();
                let tensors = tensors.try_into().expect("six tensors and two more");
                let (augment, mixing) = (&config.augment, !config.mixing.is_none());
                batch_gather::record_augmented(plan, &self.dims, [h, w, c], augment, mixing, tensors)?;
            }
            _ if head.is_some_and(|head| head.gathers) => {}
            _ => batch_gather::record(plan, &self.dims, tensors)?,
        }
        let instructions = &on.program.instructions;
        let of_head = head.map_or(0..0, |head| head.instructions.clone());
        instructions[..of_head.start].iter().try_for_each(|step| record(plan, step, on))?;
        if let Some(head) = head {
            head.record(plan, on, self)?;
        }
        Ok(instructions[of_head.end..].iter().try_for_each(|step| record(plan, step, on))?)
    }

    /// Returns the number of samples, and what a gather into `x` reads and writes, in the order of its kernel.
    pub(super) fn gathered<'a>(&'a self, x: &'a Tensor) -> (usize, [&'a Tensor; 6]) {
        let Feed { images, labels, order, progress, batch_labels, .. } = self;
        (self.dims.samples, [images, labels, order, progress, x, batch_labels])
    }

    /// Writes what the draws of an epoch follow from, and how its batches are mixed.
    pub(super) fn write_draws(&self, gpu: &Gpu, epoch: &Epoch, config: &StepConfig) {
        gpu.write_u32(&self.random, &batch_gather::random_words(epoch.random(config, 0)));
        if let Some(mixes) = self.mixes.as_ref().filter(|_| !epoch.mixes.is_empty()) {
            let words: Vec<u32> = epoch.mixes.iter().flat_map(batch_gather::mix_words).collect();
            gpu.write_u32(&mixes.slice("mixes", 0, &[words.len()]), &words);
        }
    }

    pub(super) fn totals(&self) -> BatchTotals<'_> {
        let Feed { progress, batch_loss, batch_correct, .. } = self;
        BatchTotals { progress, batch_loss, batch_correct }
    }

    /// Where the losses and the correct predictions of the batches start among all totals.
    pub(super) fn slots(&self) -> [usize; 2] {
        [&self.batch_loss, &self.batch_correct].map(|part| part.first_element() - self.all_totals.first_element())
    }

    /// The number of samples of a batch.
    pub(super) fn batch_size(&self) -> usize {
        self.dims.n
    }
}

impl Batches {
    pub(super) fn new(gpu: &Gpu, feed: Feed, plan: Plan) -> Result<Self, EngineError> {
        let room = 2 * MAX_STEPS.min(feed.batch_loss.len());
        let readbacks = (0..IN_FLIGHT).map(|_| Readback::new(gpu, "metrics", room)).collect::<Result<Vec<_>, _>>()?;
        let host = (Duration::ZERO, 0);
        let (totals, in_flight, last) = (Totals::default(), VecDeque::new(), Instant::now());
        let running = Running { samples: 0, first: 0, submitted: 0, totals, in_flight, last };
        let (gpu, outputs, has_run) = (gpu.clone(), None, false);
        Ok(Batches { gpu, plan, feed, readbacks, running, outputs, steps: 1, host, has_run, in_pieces: true })
    }

    /// Processes the whole split once; stops early, after the work in flight, if `on_progress` breaks.
    ///
    /// # Errors
    /// The device failed.
    pub async fn run_all(&mut self, on_progress: OnProgress<'_>) -> Result<Totals, EngineError> {
        let samples = self.feed.dims.samples;
        let order: Vec<u32> = (0..samples as u32).collect();
        self.begin(&order, Totals::default()).await?;
        while (self.running.totals.samples as usize) < samples {
            if on_progress(&self.advance().await?).is_break() {
                break;
            }
        }
        self.settle().await
    }

    /// Starts a run over the samples of `order`, after the batches of `done`.
    pub(super) async fn begin(&mut self, order: &[u32], done: Totals) -> Result<(), EngineError> {
        self.settle().await?;
        // The kernels index by the order without checks.
        check_order(order, self.feed.dims.samples)?;
        if order.len() > self.feed.order.len() {
            let reason =
                format!("the order has {} samples, but there is only room for {}", order.len(), self.feed.order.len());
            return Err(EngineError::Samples(reason));
        }
        self.gpu.write_u32(&self.feed.order, order);
        self.gpu.write_u32(&self.feed.progress, &[done.batches as u32, order.len() as u32]);
        let (samples, first, submitted) = (order.len(), done.batches, done.batches);
        self.running =
            Running { samples, first, submitted, totals: done, in_flight: VecDeque::new(), last: Instant::now() };
        Ok(())
    }

    /// Submits more batches, so that the adapter is never idle, and waits for the oldest submission. Returns the sums so far.
    pub(super) async fn advance(&mut self) -> Result<Totals, EngineError> {
        let batches = self.running.samples.div_ceil(self.feed.dims.n);
        while self.running.submitted < batches
            && let Some(readback) = self.readbacks.pop()
        {
            let steps = self.steps.min(batches - self.running.submitted);
            self.submit(readback, steps)?;
        }
        self.receive().await
    }

    /// Waits for the submissions in flight. Returns the sums so far.
    pub(super) async fn settle(&mut self) -> Result<Totals, EngineError> {
        while !self.running.in_flight.is_empty() {
            self.receive().await?;
        }
        Ok(self.running.totals)
    }

    /// Submits the next `steps` batches.
    fn submit(&mut self, mut readback: Readback, steps: usize) -> Result<(), EngineError> {
        let (gpu, first) = (&self.gpu, self.running.submitted);
        let begin = Instant::now();
        let mut encoder = gpu.encoder("steps");
        if self.in_pieces {
            // `steps` is 1 here. The last dispatch is submitted with the read-back.
            gpu.submit_all_but_last(&mut encoder, &self.plan)?;
        }
        if let Some([of_batch, all]) = &self.outputs {
            let n = self.feed.dims.n;
            for batch in first..first + steps {
                if !self.in_pieces {
                    gpu.encode(&mut encoder, "step", &self.plan, 1);
                }
                // The last batch may have rows beyond the last image.
                let rows = n.min(self.running.samples - batch * n);
                let row = of_batch.len() / n;
                all.slice("probabilities", batch * n * row, &[rows * row]).copy_from(&mut encoder, of_batch);
            }
        } else if !self.in_pieces {
            gpu.encode(&mut encoder, "steps", &self.plan, steps);
        }
        let loss = self.feed.batch_loss.slice("batch_loss", first, &[steps]);
        let correct = self.feed.batch_correct.slice("batch_correct", first, &[steps]);
        readback.record(&mut encoder, &[&loss, &correct]);
        let commands = encoder.finish();
        let recorded = begin.elapsed();
        let submission = gpu.submit(commands)?;
        self.has_run = true;
        // A software adapter does the work inside the call; that does not count as host time.
        let host = if gpu.is_software() { recorded } else { begin.elapsed() };
        self.host = (self.host.0 + host, self.host.1 + steps);
        readback.begin();
        self.running.submitted += steps;
        self.running.in_flight.push_back((submission, readback, steps));
        Ok(())
    }

    /// Waits for the oldest submission, adds up its results, and sizes the next one by its duration.
    async fn receive(&mut self) -> Result<Totals, EngineError> {
        let Running { samples, first, totals, in_flight, last, .. } = &mut self.running;
        let Some((submission, mut readback, steps)) = in_flight.pop_front() else { return Ok(*totals) };
        let words = readback.wait(&self.gpu, submission).await?;
        self.readbacks.push(readback);
        let (loss, correct) = words.split_at(steps);
        for (loss, correct) in loss.iter().zip(correct) {
            let of_batch = self.feed.dims.n.min(*samples - totals.batches * self.feed.dims.n);
            totals.add(f64::from(f32::from_bits(*loss)), u64::from(*correct), of_batch);
        }
        let elapsed = last.elapsed();
        self.in_pieces = elapsed / steps as u32 > LONG_STEP;
        if self.in_pieces && totals.batches == *first + steps {
            let ms = 1e3 * elapsed.as_secs_f64();
            log::debug!("a step took {ms:.0} ms: steps are submitted dispatch by dispatch");
        }
        self.steps = if self.in_pieces { 1 } else { next_steps(self.steps, steps, elapsed) };
        *last = Instant::now();
        Ok(*totals)
    }

    /// The dispatches of a batch.
    pub fn dispatches(&self) -> Vec<DispatchInfo> {
        self.plan.dispatches().collect()
    }

    /// Processes one batch to warm up and `rounds` more, and times each dispatch; by the adapter's clock, over `repeats` of it in a row. Each of
    /// them counts as a batch.
    ///
    /// # Errors
    /// There are too few batches, or the device failed.
    pub async fn time(&self, rounds: usize, repeats: usize) -> Result<Timings, EngineError> {
        let gpu = &self.gpu;
        let batches = self.feed.order.len().div_ceil(self.feed.dims.n);
        let needed = rounds * repeats + 1;
        if needed > batches {
            let reason =
                format!("timing needs {needed} batches, including one to warm up, but there are only {batches}");
            return Err(EngineError::Samples(reason));
        }
        let samples = self.feed.order.len().min(needed * self.feed.dims.n) as u32;
        gpu.write_u32(&self.feed.order.slice("order", 0, &[samples as usize]), &(0..samples).collect::<Vec<_>>());
        gpu.write_u32(&self.feed.progress, &[0, samples]);
        Ok(Timings::measure(gpu, &self.plan, rounds, repeats).await?)
    }

    /// Repeats the batches of `epoch` up to `last` (counted from 1), one by one, by a plan that keeps everything that it computes, and
    /// searches all of it.
    pub(super) async fn search(
        &self,
        plan: &Plan,
        epoch: &Epoch,
        last: usize,
    ) -> Result<Option<NonFinite>, EngineError> {
        let gpu = &self.gpu;
        let written: Vec<_> = plan.written().collect();
        let parts: Vec<_> = (0..written.len()).map(|i| (format!("{i}"), vec![2])).collect();
        let (_, found) = gpu.arena("found", Element::U32, &parts)?;
        let mut search = PlanBuilder::new(gpu);
        for ((_, tensor), found) in written.iter().zip(&found) {
            non_finite::record(&mut search, tensor, found)?;
            gpu.write_u32(found, &NOTHING_FOUND);
        }
        let search = search.finish().await?;
        gpu.write_u32(&self.feed.order, &epoch.order);
        gpu.write_u32(&self.feed.progress, &[epoch.done.batches as u32, epoch.order.len() as u32]);
        // The only tensor that a step does not overwrite completely; it still contains the losses of the failed attempt.
        gpu.write(&self.feed.batch_loss, &vec![0.0; self.feed.batch_loss.len()]);
        let mut readback = Readback::new(gpu, "found", 2 * found.len())?;
        for step in epoch.done.batches + 1..=last {
            let mut encoder = gpu.encoder("searched step");
            if self.in_pieces {
                gpu.submit_all_but_last(&mut encoder, plan)?;
                gpu.submit_all_but_last(&mut encoder, &search)?;
            } else {
                gpu.encode(&mut encoder, "step", plan, 1);
                gpu.encode(&mut encoder, "search", &search, 1);
            }
            readback.record(&mut encoder, &found.iter().collect::<Vec<_>>());
            let submission = gpu.submit(encoder.finish())?;
            readback.begin();
            let words = readback.wait(gpu, submission).await?;
            let first = written.iter().zip(words.chunks_exact(2)).find(|(_, words)| words[0] > 0);
            if let Some(((entry, tensor), words)) = first {
                let (count, index) = (words[0] as usize, words[1] as usize);
                let (tensor, operation) = (tensor.name().to_string(), entry.to_string());
                return Ok(Some(NonFinite { step, tensor, operation, index, count }));
            }
        }
        Ok(None)
    }

    /// Seconds of host time to record a batch (on hardware also to submit it), averaged over the batches so far.
    pub fn host_seconds_per_step(&self) -> f64 {
        self.host.0.as_secs_f64() / self.host.1.max(1) as f64
    }
}

/// Returns the number of steps for the next submission after `steps` took `elapsed`: aims at [`SUBMISSION`], at most doubles, at least one.
fn next_steps(current: usize, steps: usize, elapsed: Duration) -> usize {
    let one = elapsed.as_secs_f64().max(1e-6) / steps as f64;
    let wanted = (SUBMISSION.as_secs_f64() / one) as usize;
    wanted.clamp(1, (2 * current).min(MAX_STEPS))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Submits like [`Batches::advance`] on a simulated adapter that takes `step` per step, and returns the longest submission.
    fn longest_submission(step: Duration) -> Duration {
        let (mut steps, mut longest) = (1, Duration::ZERO);
        for _ in 0..100 {
            let elapsed = step * steps as u32;
            longest = longest.max(elapsed);
            steps = if elapsed / steps as u32 > LONG_STEP { 1 } else { next_steps(steps, steps, elapsed) };
        }
        longest
    }

    #[test]
    fn submissions_stay_short_on_every_adapter() {
        for step in [1, 10, 100, 1_000, 10_000, 79_000, 81_000, 299_000, 301_000, 5_000_000].map(Duration::from_micros)
        {
            let longest = longest_submission(step);
            assert!(longest <= step.max(SUBMISSION), "{step:?} per step, {longest:?} for a submission");
        }
        // At most twice as many as before: a first step that was fast by chance does not cause a long submission.
        assert_eq!(next_steps(1, 1, Duration::from_nanos(1)), 2);
        assert_eq!(next_steps(400, 400, Duration::from_nanos(1)), MAX_STEPS);
        // One submission after an adapter became 100 times slower, submissions are short again.
        assert_eq!(next_steps(80, 80, 100 * SUBMISSION), 1);
    }
}
