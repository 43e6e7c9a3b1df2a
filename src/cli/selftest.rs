//! `fmnist-gpu selftest`

use super::Global;
use super::device::DeviceArgs;
use super::terminal::print_result;
use anyhow::{Context, Result};
use clap::Args;
use fmnist_gpu::gpu::Gpu;
use fmnist_gpu::session::Device;
use fmnist_gpu::verify::{Breadth, OPS, Op, SelfTest, Verdict, Verifier, gradients, native};
use pollster::block_on;
use std::process::ExitCode;
use std::time::Instant;

/// Flags of `selftest`.
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
pub struct SelftestArgs {
    /// Seed of the generated inputs
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command: compares every kernel and every loop of the native engine with its mirror, and the gradient of every mirror with
/// finite differences.
pub async fn run(args: SelftestArgs, global: &Global) -> Result<ExitCode> {
    let start = Instant::now();
    let gpu = args.device.open_shaders(global).await?;
    let mut kernels = match &gpu {
        Some(gpu) => compare_all(gpu, &args.device, args.seed, global).await?,
        None => Vec::new(),
    };
    global.say("Testing the native engine");
    kernels.extend(native::check_all(args.seed, Breadth::Forms));
    global.say("Testing the mirrors' gradients against finite differences");
    let gradients = gradients::check_all(args.seed);
    let [device, driver, _] = match gpu {
        Some(gpu) => Device::Gpu(gpu),
        None => Device::Native(args.device.threads()),
    }
    .describe();
    let report = SelfTest::new(device, driver, start.elapsed(), kernels, gradients);
    print_result(args.json, &report, table)?;
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Compares every kernel with its mirror on `gpu`, which was opened by `device`.
pub async fn compare_all(gpu: &Gpu, device: &DeviceArgs, seed: u64, global: &Global) -> Result<Vec<Verdict>> {
    if !gpu.is_software() {
        return compare(gpu, OPS, seed, global).await;
    }
    // Nearly all the time is spent on compilation, for which a software adapter uses one thread per device: two devices take half
    // the time. The first operation, the convolution, has as many kernels as all the others together.
    let other = device.open_again(device.safe).await?;
    let (first, rest) = OPS.split_at(1);
    let (first, rest) = std::thread::scope(|scope| -> Result<_> {
        let rest = std::thread::Builder::new().spawn_scoped(scope, || block_on(compare(&other, rest, seed, global)));
        let rest = rest.context("starting a thread of the self-test")?;
        Ok((block_on(compare(gpu, first, seed, global)), rest.join()))
    })?;
    let rest = rest.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    Ok([first?, rest?].concat())
}

async fn compare(gpu: &Gpu, ops: &[Op], seed: u64, global: &Global) -> Result<Vec<Verdict>> {
    let mut verifier = Verifier::new(gpu, seed);
    for op in ops {
        global.say(format!("Testing {}", op.name));
        (op.proof)(&mut verifier)?;
        verifier.verdicts().await?;
    }
    Ok(verifier.verdicts().await?.to_vec())
}

fn table(report: &SelfTest) -> String {
    let mut lines = Vec::new();
    for (title, verdicts) in [
        ("Kernel against its mirror in double precision", &report.kernels),
        ("Gradient of a mirror against finite differences", &report.gradients),
    ] {
        lines.push(format!("{title:<50} {:>11} {:>12}", "elements", "error/bound"));
        for v in verdicts {
            let mark = if v.passed() { "ok" } else { "FAILED" };
            lines.push(format!("  {:<48} {:>11} {:>12.4}  {mark}", v.kernel, v.elements, v.worst_ratio));
            lines.extend(v.failures.iter().take(5).map(|failure| format!("      {failure}")));
        }
    }
    let failed = report.kernels.iter().chain(&report.gradients).filter(|v| !v.passed()).count();
    let verdict = if report.passed { "All kernels passed".to_string() } else { format!("{failed} FAILED") };
    lines.push(format!("{verdict} on {} ({}), {:.1} s", report.device, report.driver, report.seconds));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_table_says_what_failed() {
        let verdict = |kernel, worst_ratio, failures: usize| Verdict {
            kernel,
            comparisons: 9,
            elements: 1234,
            worst_ratio,
            bounds: 1.0,
            magnitudes: 1.0,
            failures: (0..failures).map(|i| format!("case {i}")).collect(),
        };
        let of = |gradients| {
            let kernels = vec![verdict("relu_forward", 0.25, 0), verdict("bias_forward", 2.5, 7)];
            table(&SelfTest::new("a card".into(), "a driver".into(), Duration::from_millis(1250), kernels, gradients))
        };
        let text = of(vec![verdict("dense", 1.5, 1)]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["relu_forward", "1234", "0.2500", "ok"]);
        assert_eq!(lines[2], ["bias_forward", "1234", "2.5000", "FAILED"]);
        assert_eq!((lines[3].join(" "), lines[7].join(" ")), ("case 0".to_string(), "case 4".to_string()));
        assert_eq!(lines[9], ["dense", "1234", "1.5000", "FAILED"], "no more than five cases are listed");
        assert!(text.ends_with("\n2 FAILED on a card (a driver), 1.2 s"), "{text}");
        assert!(of(vec![verdict("dense", 0.5, 0)]).ends_with("\n1 FAILED on a card (a driver), 1.2 s"));
    }
}
