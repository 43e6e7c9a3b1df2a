//! Burn on its wgpu backend, with the same command line and output as the Python peers (`../common.py`).
//!
//! `fused` keeps Burn's defaults: kernels are fused and tuned at run time. The images are on the device; each batch is
//! gathered by a permutation.

use std::error::Error;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::module::{Initializer, Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde_json::{Value, json};

const PIXELS: usize = 28 * 28;
const EPOCHS: usize = 5;
const EVALUATION_BATCH: usize = 1000;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Train,
    Inference,
    Job,
}

struct Args {
    model: String,
    batch_size: usize,
    mode: Mode,
    seconds: f64,
    data_dir: Option<PathBuf>,
    seed: u64,
}

impl Args {
    fn parse() -> Result<Self> {
        let mut args =
            Args { model: "cnn".into(), batch_size: 32, mode: Mode::Train, seconds: 5.0, data_dir: None, seed: 0 };
        let mut words = std::env::args().skip(1);
        while let Some(name) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{name} requires a value"));
            match name.as_str() {
                "--model" => args.model = value()?,
                "--batch-size" => args.batch_size = value()?.parse()?,
                "--mode" => {
                    args.mode = match value()?.as_str() {
                        "train" => Mode::Train,
                        "inference" => Mode::Inference,
                        "job" => Mode::Job,
                        other => return Err(format!("--mode {other}: expected train, inference or job").into()),
                    }
                }
                "--variant" => {
                    let variant = value()?;
                    if variant != "fused" {
                        return Err(format!("--variant {variant}: expected fused").into());
                    }
                }
                "--seconds" => args.seconds = value()?.parse()?,
                "--data-dir" => args.data_dir = Some(value()?.into()),
                "--seed" => args.seed = value()?.parse()?,
                "--tf32" => {} // wgpu has no such switch
                _ => return Err(format!("unknown option {name}").into()),
            }
        }
        if !["mlp", "cnn"].contains(&args.model.as_str()) {
            return Err(format!("--model {}: expected mlp or cnn", args.model).into());
        }
        if args.batch_size == 0 || args.seconds.is_nan() || args.seconds <= 0.0 {
            return Err("--batch-size and --seconds must be positive".into());
        }
        if args.mode == Mode::Job && args.data_dir.is_none() {
            return Err("--mode job requires --data-dir".into());
        }
        Ok(args)
    }
}

/// SplitMix64, which is good enough for random images and permutations.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn permutation(&mut self, n: usize) -> Vec<i32> {
        let mut order: Vec<i32> = (0..n as i32).collect();
        for i in (1..n).rev() {
            order.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
        order
    }
}

/// Reads an IDX file of bytes, gzipped or plain, and removes its header.
fn read_idx(folder: &Path, name: &str) -> Result<Vec<u8>> {
    let packed = folder.join(format!("{name}.gz"));
    let mut bytes = Vec::new();
    if packed.exists() {
        flate2::read::GzDecoder::new(std::fs::File::open(packed)?).read_to_end(&mut bytes)?;
    } else {
        bytes = std::fs::read(folder.join(name))?;
    }
    if bytes.len() < 4 || bytes[..3] != [0, 0, 8] {
        return Err(format!("{name}: not an IDX file of bytes").into());
    }
    let header = 4 + 4 * usize::from(bytes[3]);
    if bytes.len() < header {
        return Err(format!("{name}: the file ends within its header").into());
    }
    Ok(bytes.split_off(header))
}

/// Images and labels `[N]` on the device. Four pixels are packed into one integer, `[N, 196]`, because as floats the set
/// would exceed the 128 MiB that many adapters can bind at once.
struct Images {
    x: Tensor<2, Int>,
    y: Tensor<1, Int>,
    shifts: Tensor<3, Int>,
    n: usize,
}

impl Images {
    fn load(args: &Args, part: &str, n: usize, device: &Device) -> Result<Self> {
        let (pixels, labels) = match &args.data_dir {
            Some(folder) => (
                read_idx(folder, &format!("{part}-images-idx3-ubyte"))?,
                read_idx(folder, &format!("{part}-labels-idx1-ubyte"))?,
            ),
            None => {
                let mut random = Random(0);
                let pixels = (0..n * PIXELS).map(|_| random.next() as u8).collect();
                (pixels, (0..n).map(|_| (random.next() % 10) as u8).collect())
            }
        };
        let n = labels.len();
        if pixels.len() != n * PIXELS {
            return Err(format!("{part}: {} pixels for {n} labels", pixels.len()).into());
        }
        let words = pixels.as_chunks().0.iter().map(|&four| i32::from_le_bytes(four)).collect();
        Ok(Self {
            x: upload(words, device).reshape([n, PIXELS / 4]),
            y: upload(labels.into_iter().map(i32::from).collect(), device),
            shifts: upload(vec![0, 8, 16, 24], device).reshape([1, 1, 4]),
            n,
        })
    }

    /// Images `[N, 784]`, scaled to [0, 1].
    fn unpack(&self, words: Tensor<2, Int>) -> Tensor<2> {
        let n = words.dims()[0];
        let words = words.reshape([n, PIXELS / 4, 1]).expand([n, PIXELS / 4, 4]);
        let shifts = self.shifts.clone().expand([n, PIXELS / 4, 4]);
        words.bitwise_right_shift(shifts).bitwise_and_scalar(255).float().div_scalar(255.0).reshape([n, PIXELS])
    }

    fn batch(&self, rows: Tensor<1, Int>) -> (Tensor<2>, Tensor<1, Int>) {
        (self.unpack(self.x.clone().select(0, rows.clone())), self.y.clone().select(0, rows))
    }

    fn range(&self, at: usize, end: usize) -> (Tensor<2>, Tensor<1, Int>) {
        (self.unpack(self.x.clone().slice([at..end])), self.y.clone().slice([at..end]))
    }
}

#[derive(Module, Debug)]
struct Network {
    convolutions: Vec<Conv2d>,
    pool: MaxPool2d,
    hidden: Linear,
    output: Linear,
}

impl Network {
    fn new(model: &str, device: &Device) -> Self {
        // Burn's layers initialize biases like weights; Keras initializes them with zeros.
        let glorot = Initializer::XavierUniform { gain: 1.0 };
        let zeros = |n: usize| -> Option<Param<Tensor<1>>> { Some(Initializer::Zeros.init([n], device)) };
        let conv = |n_in: usize, n_out: usize| {
            let config = Conv2dConfig::new([n_in, n_out], [3, 3]).with_padding(PaddingConfig2d::Same);
            let mut layer = config.with_initializer(glorot.clone()).init(device);
            layer.bias = zeros(n_out);
            layer
        };
        let dense = |n_in: usize, n_out: usize| {
            let mut layer = LinearConfig::new(n_in, n_out).with_initializer(glorot.clone()).init(device);
            layer.bias = zeros(n_out);
            layer
        };
        let cnn = model == "cnn";
        Self {
            convolutions: if cnn { vec![conv(1, 32), conv(32, 64)] } else { Vec::new() },
            pool: MaxPool2dConfig::new([2, 2]).init(),
            hidden: dense(if cnn { 3136 } else { PIXELS }, 128),
            output: dense(128, 10),
        }
    }

    /// Logits `[N, 10]` of images `[N, 784]`.
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let n = x.dims()[0];
        let mut h = x;
        if !self.convolutions.is_empty() {
            let mut images = h.reshape([n, 1, 28, 28]);
            for conv in &self.convolutions {
                images = self.pool.forward(relu(conv.forward(images)));
            }
            h = images.reshape([n, 3136]);
        }
        self.output.forward(relu(self.hidden.forward(h)))
    }
}

/// The network under training and its optimizer.
struct Trainer {
    network: Option<Network>, // taken and put back by every step
    adam: ModuleOptimizer,
    loss: CrossEntropyLoss,
}

impl Trainer {
    fn new(model: &str, device: &Device) -> Result<Self> {
        let network = Network::new(model, device);
        let (expected, count) = (if model == "cnn" { 421_642 } else { 101_770 }, network.num_params());
        if count != expected {
            return Err(format!("{model} has {count} parameters, expected {expected}").into());
        }
        let adam = AdamConfig::new().with_beta_1(0.9).with_beta_2(0.999).with_epsilon(1e-7).init();
        Ok(Self { network: Some(network), adam, loss: CrossEntropyLossConfig::new().init(device) })
    }

    /// Trains one step and returns the loss before it, `[1]`.
    fn step(&mut self, x: Tensor<2>, y: Tensor<1, Int>) -> Tensor<1> {
        let network = self.network.take().expect("every step puts the network back");
        let loss = self.loss.forward(network.forward(x), y);
        let gradients = GradientsParams::from_grads(loss.backward(), &network);
        self.network = Some(self.adam.step(1e-3, network, gradients));
        loss.without_autodiff()
    }
}

/// Number of correct answers and sum of the losses of a batch, both `[1]`.
fn score(network: &Network, loss: &CrossEntropyLoss, x: Tensor<2>, y: Tensor<1, Int>) -> (Tensor<1, Int>, Tensor<1>) {
    let n = y.dims()[0];
    let logits = network.forward(x);
    let right = logits.clone().argmax(1).reshape([n]).equal(y.clone()).int().sum();
    (right, loss.forward(logits, y) * n as f32)
}

/// Waits for the device. If Burn fails to allocate a buffer, it skips the work that depends on it. `sync` does not report
/// that; reading a result does.
fn wait(device: &Device, loss: Option<Tensor<1>>) -> Result<()> {
    if let Some(loss) = loss {
        let loss = loss.try_into_data()?.iter::<f32>().next().unwrap_or(f32::NAN);
        if !loss.is_finite() {
            return Err(format!("the loss is {loss}").into());
        }
    }
    Ok(device.sync()?)
}

/// Rows of the batches of endless epochs, with a new permutation per epoch; the permutation is on the device.
struct Order {
    random: Random,
    rows: Option<Tensor<1, Int>>,
    at: usize,
}

impl Order {
    fn next(&mut self, n: usize, batch: usize, device: &Device) -> Tensor<1, Int> {
        if self.at + batch > n {
            self.rows = None;
        }
        let rows = self.rows.get_or_insert_with(|| {
            self.at = 0;
            upload(self.random.permutation(n), device)
        });
        self.at += batch;
        rows.clone().slice([self.at - batch..self.at])
    }
}

fn upload(values: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device)
}

/// Like `measure` in `common.py`: `run(n)` runs `n` steps and waits for the device.
fn measure(args: &Args, mut run: impl FnMut(usize) -> Result<()>) -> Result<Value> {
    let mut timed = |n: usize| -> Result<f64> {
        let start = Instant::now();
        run(n)?;
        Ok(start.elapsed().as_secs_f64())
    };
    // At first, Burn tries several kernels for every shape.
    timed(1)?;
    timed(1)?;
    let n = (args.seconds / 10.0 / timed(1)?).ceil().max(1.0) as usize;
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < args.seconds / 5.0 {
        timed(n)?;
    }
    let (mut total, mut rates) = (0.0, Vec::new());
    while total < args.seconds || rates.len() < 3 {
        let seconds = timed(n)?;
        total += seconds;
        rates.push((n * args.batch_size) as f64 / seconds);
    }
    rates.sort_by(f64::total_cmp);
    let middle = rates.len() / 2;
    let median = if rates.len() % 2 == 1 { rates[middle] } else { (rates[middle - 1] + rates[middle]) / 2.0 };
    Ok(json!({
        "images_per_second": median,
        "images_per_second_min": rates[0],
        "images_per_second_max": rates[rates.len() - 1],
        "chunks": rates.len(),
    }))
}

fn train(args: &Args, device: &Device) -> Result<Value> {
    let images = Images::load(args, "train", 60_000, device)?;
    let learning = device.clone().autodiff();
    let mut trainer = Trainer::new(&args.model, &learning)?;
    let mut order = Order { random: Random(args.seed), rows: None, at: 0 };
    measure(args, |n| {
        let mut loss = None;
        for _ in 0..n {
            let (x, y) = images.batch(order.next(images.n, args.batch_size, device));
            loss = Some(trainer.step(x.autodiff(), y.autodiff()));
        }
        wait(device, loss)
    })
}

fn inference(args: &Args, device: &Device) -> Result<Value> {
    let images = Images::load(args, "train", 60_000, device)?;
    let network = Trainer::new(&args.model, device)?.network.expect("a new trainer has one");
    let loss = CrossEntropyLossConfig::new().init(device);
    let (batch, mut at) = (args.batch_size, 0);
    measure(args, |n| {
        let mut totals: Option<(Tensor<1, Int>, Tensor<1>)> = None;
        for _ in 0..n {
            at = if at + batch > images.n { 0 } else { at };
            let (x, y) = images.range(at, at + batch);
            at += batch;
            let (right, sum) = score(&network, &loss, x, y);
            totals = Some(match totals {
                Some((r, s)) => (r + right, s + sum),
                None => (right, sum),
            });
        }
        if let Some((right, sum)) = totals {
            right.try_into_data()?;
            wait(device, Some(sum))?;
        }
        Ok(())
    })
}

fn job(args: &Args, device: &Device) -> Result<Value> {
    let images = Images::load(args, "train", 60_000, device)?;
    let test = Images::load(args, "t10k", 10_000, device)?;
    let mut trainer = Trainer::new(&args.model, &device.clone().autodiff())?;
    let mut random = Random(args.seed);
    let mut epoch_seconds = Vec::new();
    for _ in 0..EPOCHS {
        let start = Instant::now();
        let rows = upload(random.permutation(images.n), device);
        let mut loss = None;
        for at in (0..images.n).step_by(args.batch_size) {
            let end = (at + args.batch_size).min(images.n);
            let (x, y) = images.batch(rows.clone().slice([at..end]));
            loss = Some(trainer.step(x.autodiff(), y.autodiff()));
        }
        wait(device, loss)?;
        epoch_seconds.push(start.elapsed().as_secs_f64());
    }
    let network = trainer.network.expect("every step puts the network back").valid();
    let loss = CrossEntropyLossConfig::new().init(device);
    let mut right = 0;
    for at in (0..test.n).step_by(EVALUATION_BATCH) {
        let end = (at + EVALUATION_BATCH).min(test.n);
        let (x, y) = test.range(at, end);
        right += score(&network, &loss, x, y).0.into_scalar::<i32>();
    }
    Ok(json!({ "epoch_seconds": epoch_seconds, "test_accuracy": f64::from(right) / test.n as f64 }))
}

fn main() -> Result<()> {
    let args = Args::parse()?;
    let device = Device::wgpu(Default::default());
    device.seed(args.seed);
    let (mode, figures) = match args.mode {
        Mode::Train => ("train", train(&args, &device)?),
        Mode::Inference => ("inference", inference(&args, &device)?),
        Mode::Job => ("job", job(&args, &device)?),
    };
    let mut line = json!({
        "peer": "burn",
        "variant": "fused",
        "version": concat!("Burn ", env!("BURN_VERSION")),
        "device": device.identity().map_or_else(|| "wgpu".to_owned(), |identity| identity.name),
        "model": args.model,
        "batch_size": args.batch_size,
        "mode": mode,
        "seed": args.seed,
    });
    if let (Some(line), Some(figures)) = (line.as_object_mut(), figures.as_object()) {
        line.extend(figures.clone());
    }
    println!("{line}");
    Ok(())
}
