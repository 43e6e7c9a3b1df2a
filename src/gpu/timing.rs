//! Measures how long each dispatch of a plan takes.

use super::{Element, Gpu, GpuError, Plan, Readback, Tensor};
use crate::clock::Instant;

/// How durations were measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The adapter's own clock, before and after each dispatch.
    Timestamps,
    /// The host's clock around a separate submission of each dispatch; the cost of the submission is included.
    Submissions,
}

/// Seconds per dispatch of a plan, round by round.
#[derive(Clone, Debug)]
pub struct Timings {
    /// How they were measured.
    pub clock: Clock,
    /// `[dispatch][round]`.
    pub seconds: Vec<Vec<f64>>,
}

impl Timings {
    /// Runs `plan` `rounds` times and times each dispatch, after one warm-up round that does not count. By the adapter's clock, a dispatch is
    /// repeated `repeats` times in a row, since reading that clock may take longer than a short dispatch.
    ///
    /// # Errors
    /// The device failed.
    pub async fn measure(gpu: &Gpu, plan: &Plan, rounds: usize, repeats: usize) -> Result<Timings, GpuError> {
        gpu.run(plan).await?;
        let mut seconds = vec![Vec::with_capacity(rounds); plan.len()];
        let clock = if gpu.has_timestamps() { Clock::Timestamps } else { Clock::Submissions };
        for _ in 0..rounds {
            let round = match clock {
                Clock::Timestamps => by_timestamps(gpu, plan, repeats).await?,
                Clock::Submissions => by_submissions(gpu, plan).await?,
            };
            for (all, one) in seconds.iter_mut().zip(round) {
                all.push(one);
            }
        }
        Ok(Timings { clock, seconds })
    }
}

/// Runs one pass per dispatch, which repeats it, reading the adapter's clock at the start and the end.
async fn by_timestamps(gpu: &Gpu, plan: &Plan, repeats: usize) -> Result<Vec<f64>, GpuError> {
    let count = 2 * plan.len() as u32;
    let ty = wgpu::QueryType::Timestamp;
    let queries = gpu.device.create_query_set(&wgpu::QuerySetDescriptor { label: Some("timestamps"), ty, count });
    let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
    let buffer = gpu.buffer("timestamps", u64::from(count) * 8, usage)?;
    // Two words per timestamp.
    let shape = vec![2 * count as usize];
    let words = Tensor { name: "timestamps".to_string(), buffer, offset: 0, shape, element: Element::U32 };
    let mut readback = Readback::new(gpu, "timestamps", words.len())?;
    let mut encoder = gpu.encoder("timed dispatches");
    for i in 0..plan.len() {
        let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
            query_set: &queries,
            beginning_of_pass_write_index: Some(2 * i as u32),
            end_of_pass_write_index: Some(2 * i as u32 + 1),
        });
        let descriptor = wgpu::ComputePassDescriptor { label: Some("timed dispatch"), timestamp_writes };
        let mut pass = encoder.begin_compute_pass(&descriptor);
        (0..repeats).for_each(|_| plan.replay_one(&mut pass, i));
    }
    encoder.resolve_query_set(&queries, 0..count, &words.buffer, 0);
    readback.record(&mut encoder, &[&words]);
    let submission = gpu.submit(encoder.finish())?;
    readback.begin();
    let words = readback.wait(gpu, submission).await?;
    let ticks: Vec<u64> = words.chunks_exact(2).map(|w| u64::from(w[0]) | u64::from(w[1]) << 32).collect();
    let period = f64::from(gpu.queue.get_timestamp_period()) * 1e-9 / repeats as f64;
    Ok(ticks.chunks_exact(2).map(|pair| pair[1].saturating_sub(pair[0]) as f64 * period).collect())
}

async fn by_submissions(gpu: &Gpu, plan: &Plan) -> Result<Vec<f64>, GpuError> {
    let mut seconds = Vec::with_capacity(plan.len());
    for i in 0..plan.len() {
        let mut encoder = gpu.encoder("timed dispatch");
        let descriptor = wgpu::ComputePassDescriptor { label: Some("timed dispatch"), timestamp_writes: None };
        plan.replay_one(&mut encoder.begin_compute_pass(&descriptor), i);
        let start = Instant::now();
        let submission = gpu.submit(encoder.finish())?;
        gpu.wait(submission).await?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(seconds)
}
