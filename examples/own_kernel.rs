//! Your own kernel: the shader next to this file, its mirror as a plain loop, and the comparison of the two.
//!
//! ```sh
//! cargo run --release --example own_kernel
//! ```
//!
//! The operations of the library are built the same way, in four files (README, "Adding an operation").

use fmnist_gpu::gpu::{
    Gpu, GpuError, GpuOptions, KernelSpec, PlanBuilder, Tensor, bind, read, workgroups_linear, write,
};
use fmnist_gpu::verify::{Bounded, Verifier, absolute, widen};

/// The entry point as data; a dispatch with other bindings is refused.
static LEAKY_RELU: KernelSpec = KernelSpec {
    op: "leaky_relu",
    entry: "leaky_relu_forward",
    source: include_str!("own_kernel.wgsl"),
    bindings: &[read(0, "x"), write(1, "y")],
};

/// Records `y = x` if x is above zero, else `y = slope * x`; both have `len` elements.
fn record(plan: &mut PlanBuilder, len: usize, slope: f64, x: &Tensor, y: &Tensor) -> Result<(), GpuError> {
    let constants = [("LEN", len as f64), ("SLOPE", slope)];
    plan.push(&LEAKY_RELU, &constants, workgroups_linear(len, 64), &[bind("x", x, len), bind("y", y, len)])
}

/// The mirror, in double precision: the specification.
fn leaky_relu(slope: f64, x: &[f64]) -> Vec<f64> {
    x.iter().map(|&x| if x > 0.0 { x } else { slope * x }).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pollster::block_on(use_and_verify())
}

async fn use_and_verify() -> Result<(), Box<dyn std::error::Error>> {
    let gpu = Gpu::open(&GpuOptions::default()).await?;

    // Use the kernel.
    let x = gpu.tensor_from("x", &[4], &[-2.0, -0.5, 0.0, 3.0])?;
    let y = gpu.tensor_from("y", &[4], &[0.0; 4])?;
    let mut plan = PlanBuilder::new(&gpu);
    record(&mut plan, 4, 0.1, &x, &y)?;
    gpu.run(&plan.finish().await?).await?;
    println!("leaky_relu([-2, -0.5, 0, 3]) = {:?}", gpu.read(&y).await?);

    // Verify it: random inputs, outputs initialized to NaN with guard cells after their ends, and a bound that is derived,
    // not tuned.
    let mut verifier = Verifier::new(&gpu, 1);
    for len in [1, 63, 64, 65, 10_007] {
        let input = verifier.random(len);
        let expected = leaky_relu(0.1, &widen(&input));
        // One product: its own rounding and the rounding of the slope.
        let scale = absolute(&expected);
        let expected = Bounded::sums(expected, &scale, 1);
        verifier.check(LEAKY_RELU.entry, &format!("{len}"), [&input], [&expected], |plan, [x], [y]| {
            record(plan, len, 0.1, x, y)
        })?;
    }
    for verdict in verifier.verdicts().await? {
        println!(
            "{}: {} elements, worst error {:.2} of the bound",
            verdict.kernel, verdict.elements, verdict.worst_ratio
        );
        if !verdict.passed() {
            return Err(format!("wrong: {:?}", verdict.failures).into());
        }
    }
    Ok(())
}
