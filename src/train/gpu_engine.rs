//! Training and evaluation on the GPU: one recorded plan a step, many steps a submission, two submissions in flight.

use super::engine::{
    Engine, EngineError, Epoch, NonFinite, OnProgress, Optimizer, State, Totals, check_order, check_split,
};
use super::network::{Arena, Network};
use crate::data::{PIXELS, Split};
use crate::gpu::timing::Timings;
use crate::gpu::{DispatchInfo, Element, Gpu, Plan, PlanBuilder, Readback, Submission, Tensor};
use crate::model::{Model, N_CLASSES, initial_parameters};
use crate::ops::adam::AdamTensors;
use crate::ops::batch_gather::{BatchGatherDims, pack_bytes};
use crate::ops::non_finite::{self, NOTHING_FOUND};
use crate::ops::softmax_xent::{BatchTotals, SoftmaxXentDims};
use crate::ops::{SharedTiles, adam, batch_gather, sgd, softmax_xent};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// What a submission should take: long enough that the host costs nothing, far below the two seconds after which
/// Windows resets a driver, and often enough for the progress bar.
const SUBMISSION: Duration = Duration::from_millis(80);
/// No more steps than this in one submission, however fast they are: it bounds the read-back buffers.
const MAX_STEPS: usize = 512;
/// Multiply-adds of an evaluated batch: a quarter of a second on an adapter of 10 GFLOP/s, which is 100 times slower than a small GPU.
const EVALUATED_WORK: usize = 1_250_000_000;
/// What a dispatch may take: half of what Windows allows.
const LONGEST_DISPATCH: Duration = Duration::from_secs(1);
/// Multiply-adds of a dispatch that every adapter is trusted to do in that time: those of 10 GFLOP/s. More are measured first.
const TRUSTED_WORK: usize = 5_000_000_000;
/// Up to this batch size, preparing also runs the kernels on software adapters.
const TOUCHED_BATCH: usize = 256;
/// A step that takes longer is submitted dispatch by dispatch, each far below what a watchdog allows.
const LONG_STEP: Duration = Duration::from_millis(300);
/// Submissions in flight: the adapter works on one while the host prepares the next.
const IN_FLIGHT: usize = 2;

/// A model on a GPU, with what is needed to train it if it is to be trained.
#[derive(Debug)]
pub struct GpuEngine<'g> {
    gpu: &'g Gpu,
    network: Network,
    parameters: Arena,
    training: Option<Training>,
}

#[derive(Debug)]
struct Training {
    batch: Batches,
    step_sizes: Tensor,
    logits: Tensor,
    gradients: Arena,
    slots: Vec<Slot>,
}

/// What the optimizer keeps of one kind, such as Adam's first moments.
#[derive(Debug)]
struct Slot {
    name: &'static str,
    arena: Arena,
}

/// A split on the GPU and the plan that goes through it batch by batch.
#[derive(Debug)]
struct Batches {
    plan: Plan,
    batch_size: usize,
    samples: usize,
    order: Tensor,
    progress: Tensor,
    batch_loss: Tensor,
    batch_correct: Tensor,
    readbacks: Vec<Readback>,
    /// Steps of the next submission, from the time that the last ones took.
    steps: usize,
    /// What the host spent so far on recording (on hardware also on submitting), and for how many steps.
    host: (Duration, usize),
    /// Whether any batch was submitted yet.
    has_run: bool,
    /// Whether a step is submitted dispatch by dispatch: the first one, as nobody knows yet how long it takes, and all of them on
    /// an adapter that takes longer than [`LONG_STEP`] for one.
    in_pieces: bool,
}

/// The tensors of a split on the GPU and of the batch taken from it.
struct Feed {
    dims: BatchGatherDims,
    images: Tensor,
    labels: Tensor,
    order: Tensor,
    progress: Tensor,
    batch_labels: Tensor,
    batch_loss: Tensor,
    batch_correct: Tensor,
}

impl Feed {
    fn new(gpu: &Gpu, name: &str, split: &Split, batch_size: usize) -> Result<Self, EngineError> {
        let samples = split.len();
        // The kernels index by labels without a check.
        check_split(split)?;
        let batches = samples.div_ceil(batch_size);
        let tensor = |part: &str, len: usize, element| gpu.tensor(&format!("{name}.{part}"), &[len], element);
        let images = tensor("images", samples * PIXELS / 4, Element::U32)?;
        gpu.write_bytes(&images, &split.images);
        let labels =
            gpu.tensor_from_u32(&format!("{name}.labels"), &[samples.div_ceil(4)], &pack_bytes(&split.labels))?;
        Ok(Feed {
            dims: BatchGatherDims { n: batch_size, pixels: PIXELS, samples },
            images,
            labels,
            order: tensor("order", samples, Element::U32)?,
            progress: tensor("progress", 2, Element::U32)?,
            batch_labels: tensor("batch_labels", batch_size, Element::U32)?,
            batch_loss: tensor("batch_loss", batches, Element::F32)?,
            batch_correct: tensor("batch_correct", batches, Element::U32)?,
        })
    }

    fn record_gather(&self, plan: &mut PlanBuilder<'_>, x: &Tensor) -> Result<(), EngineError> {
        let Feed { images, labels, order, progress, batch_labels, .. } = self;
        Ok(batch_gather::record(plan, &self.dims, images, labels, order, progress, x, batch_labels)?)
    }

    fn totals(&self) -> BatchTotals<'_> {
        let Feed { progress, batch_loss, batch_correct, .. } = self;
        BatchTotals { progress, batch_loss, batch_correct }
    }

    fn finish(self, gpu: &Gpu, plan: Plan) -> Result<Batches, EngineError> {
        let room = 2 * MAX_STEPS.min(self.batch_loss.len());
        let readbacks = (0..IN_FLIGHT).map(|_| Readback::new(gpu, "metrics", room)).collect::<Result<Vec<_>, _>>()?;
        Ok(Batches {
            plan,
            batch_size: self.dims.n,
            samples: self.dims.samples,
            order: self.order,
            progress: self.progress,
            batch_loss: self.batch_loss,
            batch_correct: self.batch_correct,
            readbacks,
            steps: 1,
            host: (Duration::ZERO, 0),
            has_run: false,
            in_pieces: true,
        })
    }
}

impl Batches {
    /// Goes through `order` from the batch after those of `done` on. Stops early, after the work in flight, when `on_progress`
    /// breaks.
    fn run(
        &mut self,
        gpu: &Gpu,
        order: &[u32],
        done: Totals,
        on_progress: OnProgress<'_>,
    ) -> Result<Totals, EngineError> {
        // The kernels index by the order without a check.
        check_order(order, self.samples)?;
        if order.len() > self.order.len() {
            let reason = format!("the order has {} samples, and there is room for {}", order.len(), self.order.len());
            return Err(EngineError::Samples { reason });
        }
        gpu.write_u32(&self.order, order);
        gpu.write_u32(&self.progress, &[done.batches as u32, order.len() as u32]);
        let n_batches = order.len().div_ceil(self.batch_size);
        let mut totals = done;
        let mut submitted = done.batches;
        let mut in_flight: VecDeque<(Submission, Readback, usize)> = VecDeque::new();
        let mut going = true;
        let mut last = Instant::now();
        loop {
            while going && submitted < n_batches {
                let Some(mut readback) = self.readbacks.pop() else { break };
                let steps = self.steps.min(n_batches - submitted);
                let begin = Instant::now();
                let mut encoder = gpu.encoder("steps");
                if self.in_pieces {
                    // `steps` is 1 then. The last dispatch goes with the read-back.
                    encoder = gpu.submit_all_but_last(encoder, &self.plan)?;
                } else {
                    gpu.encode(&mut encoder, "steps", &self.plan, steps);
                }
                let loss = self.batch_loss.slice("batch_loss", submitted, &[steps]);
                let correct = self.batch_correct.slice("batch_correct", submitted, &[steps]);
                readback.record(&mut encoder, &[&loss, &correct]);
                let commands = encoder.finish();
                let recorded = begin.elapsed();
                let submission = gpu.submit(commands)?;
                self.has_run = true;
                // A software adapter does the work inside the call; that is not the host's part in it.
                let host = if gpu.is_software() { recorded } else { begin.elapsed() };
                self.host = (self.host.0 + host, self.host.1 + steps);
                readback.begin();
                submitted += steps;
                in_flight.push_back((submission, readback, steps));
            }
            let Some((submission, mut readback, steps)) = in_flight.pop_front() else { break };
            let words = readback.wait(gpu, submission)?;
            self.readbacks.push(readback);
            let (loss, correct) = words.split_at(steps);
            for (loss, correct) in loss.iter().zip(correct) {
                let done = totals.batches * self.batch_size;
                let samples = self.batch_size.min(order.len() - done);
                totals.add(f64::from(f32::from_bits(*loss)), u64::from(*correct), samples);
            }
            let elapsed = last.elapsed();
            self.in_pieces = elapsed / steps as u32 > LONG_STEP;
            if self.in_pieces && totals.batches == done.batches + steps {
                log::debug!("a step took {:.0} ms: they go out dispatch by dispatch", 1e3 * elapsed.as_secs_f64());
            }
            self.steps = if self.in_pieces { 1 } else { next_steps(self.steps, steps, elapsed) };
            last = Instant::now();
            // A break lets what is in flight finish, and is asked no more.
            if going && on_progress(&totals) == ControlFlow::Break(()) {
                going = false;
            }
        }
        Ok(totals)
    }
}

impl Batches {
    /// Goes through the first batches, `rounds` and one before, and times each dispatch.
    fn time(&self, gpu: &Gpu, rounds: usize) -> Result<Timings, EngineError> {
        let batches = self.order.len().div_ceil(self.batch_size);
        assert!(rounds < batches, "{rounds} timed steps and one before need more than {batches} batches");
        let samples = self.order.len().min((rounds + 1) * self.batch_size) as u32;
        gpu.write_u32(&self.order.slice("order", 0, &[samples as usize]), &(0..samples).collect::<Vec<_>>());
        gpu.write_u32(&self.progress, &[0, samples]);
        Ok(Timings::measure(gpu, &self.plan, rounds)?)
    }

    /// Goes through the batches of `epoch` up to `last` (counted from 1), one by one, and searches what each dispatch wrote.
    fn find_non_finite(&self, gpu: &Gpu, epoch: &Epoch, last: usize) -> Result<Option<NonFinite>, EngineError> {
        let written: Vec<_> = self.plan.written().collect();
        let parts: Vec<_> = (0..written.len()).map(|i| (format!("{i}"), vec![2])).collect();
        let (_, found) = gpu.arena("found", Element::U32, &parts)?;
        let mut search = PlanBuilder::new(gpu);
        for ((_, tensor), found) in written.iter().zip(&found) {
            non_finite::record(&mut search, tensor, found)?;
            gpu.write_u32(found, &NOTHING_FOUND);
        }
        let search = search.finish()?;
        gpu.write_u32(&self.order, &epoch.order);
        gpu.write_u32(&self.progress, &[epoch.done.batches as u32, epoch.order.len() as u32]);
        // The only tensor that a step does not write whole still holds the losses of the attempt before.
        gpu.write(&self.batch_loss, &vec![0.0; self.batch_loss.len()]);
        let mut readback = Readback::new(gpu, "found", 2 * found.len())?;
        for step in epoch.done.batches + 1..=last {
            let mut encoder = gpu.encoder("searched step");
            if self.in_pieces {
                encoder = gpu.submit_all_but_last(encoder, &self.plan)?;
                encoder = gpu.submit_all_but_last(encoder, &search)?;
            } else {
                gpu.encode(&mut encoder, "step", &self.plan, 1);
                gpu.encode(&mut encoder, "search", &search, 1);
            }
            readback.record(&mut encoder, &found.iter().collect::<Vec<_>>());
            let submission = gpu.submit(encoder.finish())?;
            readback.begin();
            let words = readback.wait(gpu, submission)?;
            let first = written.iter().zip(words.chunks_exact(2)).find(|(_, words)| words[0] > 0);
            if let Some(((entry, tensor), words)) = first {
                let (count, index) = (words[0] as usize, words[1] as usize);
                return Ok(Some(NonFinite {
                    step,
                    tensor: tensor.name().to_string(),
                    operation: entry.to_string(),
                    index,
                    count,
                }));
            }
        }
        Ok(None)
    }

    fn host_seconds_per_step(&self) -> f64 {
        self.host.0.as_secs_f64() / self.host.1.max(1) as f64
    }
}

/// A split on the GPU with the plan that evaluates it.
#[derive(Debug)]
pub struct Evaluator<'g> {
    gpu: &'g Gpu,
    batches: Batches,
    samples: usize,
}

impl Evaluator<'_> {
    /// Evaluates the whole split; stops early, after the work in flight, when `on_progress` breaks.
    ///
    /// # Errors
    /// The device failed.
    pub fn run(&mut self, on_progress: OnProgress<'_>) -> Result<Totals, EngineError> {
        let order: Vec<u32> = (0..self.samples as u32).collect();
        self.batches.run(self.gpu, &order, Totals::default(), on_progress)
    }

    /// Each dispatch of a batch.
    pub fn dispatches(&self) -> Vec<DispatchInfo> {
        self.batches.plan.dispatches().collect()
    }

    /// Evaluates the first batches, `rounds` and one before, and times each dispatch.
    ///
    /// # Errors
    /// The device failed.
    ///
    /// # Panics
    /// If there are fewer batches than that.
    pub fn time_batch(&self, rounds: usize) -> Result<Timings, EngineError> {
        self.batches.time(self.gpu, rounds)
    }

    /// What the host spends on recording a batch (on hardware also on submitting it), in seconds, over the batches so far.
    pub fn host_seconds_per_step(&self) -> f64 {
        self.batches.host_seconds_per_step()
    }
}

/// Steps of the next submission when `steps` took `elapsed`: towards [`SUBMISSION`], at most twice the last choice, at least one.
fn next_steps(current: usize, steps: usize, elapsed: Duration) -> usize {
    let one = elapsed.as_secs_f64().max(1e-6) / steps as f64;
    let wanted = (SUBMISSION.as_secs_f64() / one) as usize;
    wanted.clamp(1, (2 * current).min(MAX_STEPS))
}

impl<'g> GpuEngine<'g> {
    /// A model that is only evaluated.
    ///
    /// # Errors
    /// The model cannot be built, or the device failed.
    pub fn new(gpu: &'g Gpu, model: &Model, parameters: &[Vec<f32>]) -> Result<Self, EngineError> {
        GpuEngine::with_network(gpu, model, parameters, Network::new(model, SharedTiles::default())?)
    }

    fn with_network(
        gpu: &'g Gpu,
        model: &Model,
        parameters: &[Vec<f32>],
        network: Network,
    ) -> Result<Self, EngineError> {
        let arena = Arena::new(gpu, "parameters", model)?;
        arena.write(gpu, parameters);
        Ok(GpuEngine { gpu, network, parameters: arena, training: None })
    }

    /// A model with the plan that trains it on `train`.
    ///
    /// # Errors
    /// The model cannot be built, a tensor exceeds the adapter's limits, or the device failed.
    pub fn with_training(
        gpu: &'g Gpu,
        model: &Model,
        parameters: &[Vec<f32>],
        train: &Split,
        batch_size: usize,
        optimizer: &Optimizer,
    ) -> Result<Self, EngineError> {
        GpuEngine::with_tiles(gpu, model, parameters, train, batch_size, optimizer, SharedTiles::default())
    }

    /// As [`GpuEngine::with_training`], with tiles in workgroup memory cut as [`fn@super::autotune`] found; other tilings have no use for it.
    ///
    /// # Errors
    /// The model cannot be built, a tensor exceeds the adapter's limits, or the device failed.
    pub fn with_tiles(
        gpu: &'g Gpu,
        model: &Model,
        parameters: &[Vec<f32>],
        train: &Split,
        batch_size: usize,
        optimizer: &Optimizer,
        tiles: SharedTiles,
    ) -> Result<Self, EngineError> {
        let mut engine = GpuEngine::with_network(gpu, model, parameters, Network::new(model, tiles)?)?;
        let n = batch_size;
        let feed = Feed::new(gpu, "train", train, n)?;
        let activations = engine.network.activations(gpu, n)?;
        let gradients = Arena::new(gpu, "gradients", model)?;
        let dlogits = gpu.tensor("dlogits", &[n, N_CLASSES], Element::F32)?;
        let step_sizes = gpu.tensor("step_sizes", &[train.len().div_ceil(n)], Element::F32)?;

        let mut plan = PlanBuilder::new(gpu);
        feed.record_gather(&mut plan, &activations.x)?;
        engine.network.record_forward(&mut plan, n, &engine.parameters, &activations)?;
        let dims = SoftmaxXentDims { n, c: N_CLASSES };
        let Feed { batch_labels, progress, .. } = &feed;
        let logits = &activations.logits;
        softmax_xent::record_backward_x(&mut plan, &dims, logits, batch_labels, &dlogits, &feed.totals())?;
        engine.network.record_backward(&mut plan, n, &engine.parameters, &activations, &dlogits, &gradients)?;
        let (g, w) = (&gradients.whole, &engine.parameters.whole);
        let slots = optimizer.slots().iter().map(|&name| Ok(Slot { name, arena: Arena::new(gpu, name, model)? }));
        let slots = slots.collect::<Result<Vec<_>, EngineError>>()?;
        match (optimizer, &slots[..]) {
            (Optimizer::Adam(config), [m, v]) => {
                let (m, v) = (&m.arena.whole, &v.arena.whole);
                adam::record(&mut plan, config, &AdamTensors { g, w, m, v, step_sizes: &step_sizes, progress })?;
            }
            (Optimizer::Sgd(config), [velocity]) => {
                sgd::record(&mut plan, config, g, w, &velocity.arena.whole, &step_sizes, progress)?;
            }
            (_, slots) => unreachable!("`Optimizer::slots` names {} slots for {optimizer:?}", slots.len()),
        }
        let plan = plan.finish()?;
        log::debug!("a training step is {} dispatches: {}", plan.len(), plan.entries().collect::<Vec<_>>().join(", "));
        let logits = activations.logits;
        engine.training = Some(Training { batch: feed.finish(gpu, plan)?, step_sizes, logits, gradients, slots });
        Ok(engine)
    }

    /// Compiles what training `model` needs, so that [`GpuEngine::with_tiles`] finds it ready: for the time in which the
    /// data is still being read. Computes nothing that training could see.
    ///
    /// Ends early, with the rest left to the first step, once `wanted` says no; it is asked now and then.
    ///
    /// # Errors
    /// As [`GpuEngine::with_training`], which would report the same.
    pub fn prepare_training(
        gpu: &Gpu,
        model: &Model,
        batch_size: usize,
        optimizer: &Optimizer,
        tiles: SharedTiles,
        wanted: &dyn Fn() -> bool,
    ) -> Result<(), EngineError> {
        // No kernel depends on the number of samples: one blank sample makes the same kernels as the whole data set.
        let blank = Split { images: vec![0; PIXELS], labels: vec![0] };
        let engine = GpuEngine::with_tiles(gpu, model, &[], &blank, batch_size, optimizer, tiles)?;
        // Hardware drivers are done by now. Software compiles at the first dispatch, but wgpu zeroes the tensors before it,
        // which for large batches takes longer than it saves.
        if gpu.is_software() && batch_size <= TOUCHED_BATCH {
            engine.training.iter().try_for_each(|training| gpu.touch(&training.batch.plan, wanted))?;
        }
        Ok(())
    }

    /// The largest batch that a model can be trained with on a device: so that no tensor exceeds what one binding may have.
    ///
    /// # Errors
    /// The model cannot be built.
    pub fn largest_batch(gpu: &Gpu, model: &Model) -> Result<usize, EngineError> {
        let network = Network::new(model, SharedTiles::default())?;
        let limits = gpu.limits();
        let allowed = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        Ok((allowed / 4) as usize / network.widest_tensor(gpu).max(PIXELS))
    }

    /// The largest batch up to `batch_size` of which no dispatch takes longer than `allowed`, but at least 1: a driver resets a device
    /// that is busy with one for longer than it likes, and nothing can divide a dispatch once it runs. A batch so large that a very
    /// slow adapter would take too long is not tried: the step is timed at a small part of it, dispatch by dispatch.
    ///
    /// # Errors
    /// The model cannot be built, a tensor exceeds the adapter's limits, or the device failed.
    pub fn largest_timely_batch(
        gpu: &Gpu,
        model: &Model,
        batch_size: usize,
        optimizer: &Optimizer,
        allowed: Duration,
    ) -> Result<usize, EngineError> {
        let work = model.shapes()?.iter().map(|shape| shape.multiply_adds).max().unwrap_or(0).max(1);
        let trusted = (TRUSTED_WORK as f64 * allowed.as_secs_f64() / LONGEST_DISPATCH.as_secs_f64()) as usize / work;
        if batch_size <= trusted {
            return Ok(batch_size);
        }
        const ROUNDS: usize = 3;
        let timed = (trusted / 8).clamp(1, batch_size);
        let samples = timed * (ROUNDS + 1);
        let split = Split { images: vec![0; samples * PIXELS], labels: vec![0; samples] };
        let initial = initial_parameters(&model.parameters()?, 0);
        let mut engine = GpuEngine::with_training(gpu, model, &initial, &split, timed, optimizer)?;
        let dispatches = engine.time_step(ROUNDS)?.seconds;
        let fastest = |rounds: &Vec<f64>| rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let longest = dispatches.iter().map(fastest).fold(0.0, f64::max).max(1e-9);
        log::debug!("the longest dispatch takes {:.3} ms at batch size {timed}", 1e3 * longest);
        Ok(((timed as f64 * allowed.as_secs_f64() / longest) as usize).clamp(1, batch_size))
    }

    /// Sees whether a batch is so large for a GPU that its driver would take the device for hung.
    ///
    /// # Errors
    /// It is, or as for [`GpuEngine::largest_timely_batch`].
    pub fn check_time(gpu: &Gpu, model: &Model, batch_size: usize, optimizer: &Optimizer) -> Result<(), EngineError> {
        // Nothing watches over a software adapter.
        if gpu.is_software() {
            return Ok(());
        }
        let largest = GpuEngine::largest_timely_batch(gpu, model, batch_size, optimizer, LONGEST_DISPATCH)?;
        if largest < batch_size {
            return Err(EngineError::Slow { batch_size, largest, adapter: gpu.info().name.clone() });
        }
        Ok(())
    }

    /// Sees whether the parameters of a model, which lie in one buffer, fit a device at any batch size.
    ///
    /// # Errors
    /// They do not, or the model cannot be built.
    pub fn check_parameters(gpu: &Gpu, model: &Model) -> Result<(), EngineError> {
        let limits = gpu.limits();
        let allowed = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        // Every one is below 2^32, and a description has far fewer than 2^30 of them.
        let bytes = 4 * model.parameters()?.iter().map(|p| p.shape.iter().product::<usize>() as u64).sum::<u64>();
        if bytes > allowed {
            return Err(EngineError::Parameters { bytes, allowed, adapter: gpu.info().name.clone() });
        }
        Ok(())
    }

    /// The logits `[N, 10]` of the last training step, for checking; empty for a model that is only evaluated.
    ///
    /// # Errors
    /// The device failed.
    pub fn last_logits(&self) -> Result<Vec<f32>, EngineError> {
        self.training.as_ref().map_or(Ok(Vec::new()), |training| Ok(self.gpu.read(&training.logits)?))
    }

    /// The entry points of a training step in order; empty for a model that is only evaluated.
    pub fn step_entries(&self) -> Vec<&'static str> {
        self.training.iter().flat_map(|training| training.batch.plan.entries()).collect()
    }

    /// Makes room to evaluate `split` again and again in batches of `batch_size`, for measuring.
    ///
    /// # Errors
    /// A tensor exceeds the adapter's limits, or the device failed.
    pub fn evaluator(&self, split: &Split, batch_size: usize) -> Result<Evaluator<'g>, EngineError> {
        let (batches, _) = self.inference(split, batch_size)?;
        Ok(Evaluator { gpu: self.gpu, batches, samples: split.len() })
    }

    /// Each dispatch of a training step; none for a model that is only evaluated.
    pub fn step_dispatches(&self) -> Vec<DispatchInfo> {
        self.training.iter().flat_map(|training| training.batch.plan.dispatches()).collect()
    }

    /// What the host spends on recording a training step (on hardware also on submitting it), in seconds, over the steps so far.
    pub fn host_seconds_per_step(&self) -> f64 {
        self.training.as_ref().map_or(0.0, |training| training.batch.host_seconds_per_step())
    }

    /// Trains on the first batches, `rounds` steps and one before, and times each dispatch.
    ///
    /// # Errors
    /// The device failed.
    ///
    /// # Panics
    /// If there are fewer batches than that, or the engine was not made by [`GpuEngine::with_training`].
    pub fn time_step(&mut self, rounds: usize) -> Result<Timings, EngineError> {
        let training = self.training.as_ref().expect("time_step is called on engines made by with_training");
        training.batch.time(self.gpu, rounds)
    }

    /// Batch size of evaluation and prediction: large enough to fill the adapter, small enough for a processor's cache, for what the
    /// slowest adapter may take for a batch, and for the size of buffers that every device allows (128 MiB).
    fn inference_batch(&self, samples: usize) -> usize {
        const MAX_VALUES: usize = (96 << 20) / 4;
        let wanted = if self.gpu.is_software() { 128 } else { 2500 };
        let by_work = EVALUATED_WORK / self.network.multiply_adds().max(1);
        samples.min(wanted).min((MAX_VALUES / self.network.widest_output()).max(1)).min(by_work.max(1))
    }

    /// The plan that evaluates `split`, and the tensor of its probabilities.
    fn inference(&self, split: &Split, n: usize) -> Result<(Batches, Tensor), EngineError> {
        let feed = Feed::new(self.gpu, "evaluation", split, n)?;
        let activations = self.network.activations(self.gpu, n)?;
        let probabilities = self.gpu.tensor("probabilities", &[n, N_CLASSES], Element::F32)?;
        let mut plan = PlanBuilder::new(self.gpu);
        feed.record_gather(&mut plan, &activations.x)?;
        self.network.record_forward(&mut plan, n, &self.parameters, &activations)?;
        let dims = SoftmaxXentDims { n, c: N_CLASSES };
        let (logits, totals) = (&activations.logits, feed.totals());
        softmax_xent::record_forward(&mut plan, &dims, logits, &feed.batch_labels, &probabilities, &totals)?;
        let plan = plan.finish()?;
        Ok((feed.finish(self.gpu, plan)?, probabilities))
    }
}

impl Engine for GpuEngine<'_> {
    fn train_epoch(&mut self, epoch: &Epoch, on_progress: OnProgress<'_>) -> Result<Totals, EngineError> {
        let training = self.training.as_mut().expect("train_epoch is called on engines made by with_training");
        self.gpu.write(&training.step_sizes, &epoch.step_sizes);
        training.batch.run(self.gpu, &epoch.order, epoch.done, on_progress)
    }

    fn evaluate(&mut self, split: &Split, on_progress: OnProgress<'_>) -> Result<Totals, EngineError> {
        if split.is_empty() {
            return Ok(Totals::default());
        }
        let order: Vec<u32> = (0..split.len() as u32).collect();
        let (mut batches, _) = self.inference(split, self.inference_batch(split.len()))?;
        batches.run(self.gpu, &order, Totals::default(), on_progress)
    }

    fn predict(&mut self, images: &[u8]) -> Result<Vec<f32>, EngineError> {
        let n_images = images.len() / PIXELS;
        if n_images == 0 {
            return Ok(Vec::new());
        }
        // Labels are not known, and the loss that the plan computes with these is not read.
        let split = Split { images: images.to_vec(), labels: vec![0; n_images] };
        let (batches, probabilities) = self.inference(&split, self.inference_batch(n_images))?;
        let order: Vec<u32> = (0..n_images as u32).collect();
        self.gpu.write_u32(&batches.order, &order);
        self.gpu.write_u32(&batches.progress, &[0, n_images as u32]);
        let mut result = Vec::with_capacity(n_images * N_CLASSES);
        while result.len() < n_images * N_CLASSES {
            // Dispatch by dispatch, as nobody knows how long one takes here.
            let last = self.gpu.submit_all_but_last(self.gpu.encoder("prediction"), &batches.plan)?;
            self.gpu.submit(last.finish())?;
            result.extend(self.gpu.read(&probabilities)?);
        }
        result.truncate(n_images * N_CLASSES);
        Ok(result)
    }

    fn parameters(&mut self) -> Result<Vec<Vec<f32>>, EngineError> {
        self.parameters.read(self.gpu)
    }

    fn state(&mut self) -> Result<State, EngineError> {
        let slots = self.training.iter().flat_map(|training| &training.slots);
        let slots = slots.map(|slot| slot.arena.read(self.gpu)).collect::<Result<_, _>>()?;
        Ok(State { parameters: self.parameters.read(self.gpu)?, slots })
    }

    fn restore(&mut self, state: &State) -> Result<(), EngineError> {
        let slots: Vec<&Slot> = self.training.iter().flat_map(|training| &training.slots).collect();
        let lengths: Vec<usize> = self.parameters.parts.iter().map(Tensor::len).collect();
        state.check(&lengths, &slots.iter().map(|slot| slot.name).collect::<Vec<_>>())?;
        self.parameters.write(self.gpu, &state.parameters);
        for (slot, values) in slots.iter().zip(&state.slots) {
            slot.arena.write(self.gpu, values);
        }
        Ok(())
    }

    fn find_non_finite(&mut self, epoch: &Epoch, last: usize) -> Result<Option<NonFinite>, EngineError> {
        let training = self.training.as_ref().expect("find_non_finite is called on engines made by with_training");
        self.gpu.write(&training.step_sizes, &epoch.step_sizes);
        let found = training.batch.find_non_finite(self.gpu, epoch, last)?;
        // The optimizer writes all parameters at once; the one that went bad has a name.
        let slots = training.slots.iter().map(|slot| &slot.arena);
        let arenas: Vec<&Arena> = slots.chain([&self.parameters, &training.gradients]).collect();
        Ok(found.map(|found| match arenas.iter().find(|arena| arena.whole.name() == found.tensor) {
            Some(arena) => {
                let (tensor, index) = arena.part_at(found.index);
                NonFinite { tensor, index, ..found }
            }
            None => found,
        }))
    }

    fn last_gradients(&mut self) -> Result<Vec<Vec<f32>>, EngineError> {
        let trained = self.training.iter().filter(|training| training.batch.has_run);
        trained.map(|training| training.gradients.read(self.gpu)).next().unwrap_or(Ok(Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Submits as [`Batches::run`] does, on a made adapter that takes `step` for one, and returns the longest submission.
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
            assert!(longest <= step.max(SUBMISSION), "{step:?} a step, {longest:?} a submission");
        }
        // Twice as many as before at most: a first step that was fast by chance does not make a long submission.
        assert_eq!(next_steps(1, 1, Duration::from_nanos(1)), 2);
        assert_eq!(next_steps(400, 400, Duration::from_nanos(1)), MAX_STEPS);
        // And one submission after an adapter became 100 times slower, they are short again.
        assert_eq!(next_steps(80, 80, 100 * SUBMISSION), 1);
    }
}
