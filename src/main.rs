use fmnist_gpu::data::*;
use fmnist_gpu::gpu::*;
use fmnist_gpu::model::*;
use fmnist_gpu::train::*;
fn main() {
    let which = std::env::args().nth(1).unwrap_or("cnn".into());
    let limit: usize = std::env::args().nth(2).and_then(|s| s.parse().ok()).unwrap_or(3200);
    let epochs: u64 = std::env::args().nth(3).and_then(|s| s.parse().ok()).unwrap_or(1);
    let fset = fmnist_gpu::data::fashion_mnist::load_from_dir(std::path::Path::new("../shared/fashion-mnist"));
    let mut ds = fset.expect("data");
    ds.0.images.truncate(limit * 784); ds.0.labels.truncate(limit);
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let model = Model::load(&which).unwrap();
    print!("{}", summary(&model).unwrap());
    let params = initial_parameters(&model.parameters().unwrap(), 1);
    let opt = Optimizer::Adam(Default::default());
    let t = std::time::Instant::now();
    let mut e = GpuEngine::with_training(&gpu, &model, &params, &ds.0, 32, &opt).unwrap();
    println!("setup {:?} dispatches {} {:?}", t.elapsed(), e.step_entries().len(), e.step_entries());
    let never = std::sync::atomic::AtomicBool::new(false);
    let mut last = 0.0;
    train(&mut e, &TrainOptions{epochs, samples: ds.0.len(), batch_size: 32, seed: 1, optimizer: opt}, &never, &mut |ev| match ev {
        Event::Progress{totals, seconds, ..} => if seconds - last > 1.0 || seconds < last { last = seconds; println!("{:6} {:.4} {:.4} {:.0} img/s", totals.batches, totals.mean_loss(), totals.accuracy(), totals.samples as f64/seconds) },
        Event::EpochFinished(r) => println!("{r:?}"),
        _ => {}
    }).unwrap();
    let t = std::time::Instant::now();
    let ev = e.evaluate(&ds.1, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    println!("test {:.4} {:.4} {:?}", ev.mean_loss(), ev.accuracy(), t.elapsed());
}
