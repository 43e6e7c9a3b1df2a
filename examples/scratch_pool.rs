use fmnist_gpu::gpu::*;
use std::time::Instant;
fn main() {
    let src: &'static str = Box::leak(std::fs::read_to_string("/tmp/exp/pool.wgsl").unwrap().into_boxed_str());
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let (n, h, c) = (32usize, 28usize, 32usize);
    let r = |len: usize| {
        gpu.tensor_from("r", &[len], &(0..len).map(|i| ((i * 7919) % 1000) as f32 / 1000.0 - 0.5).collect::<Vec<_>>())
            .unwrap()
    };
    let x = r(n * h * h * c);
    let y = r(n * h * h * c / 4);
    let am = gpu.tensor("am", &[n * h * h * c / 4], Element::U32).unwrap();
    let dx = r(n * h * h * c);
    let cs: Vec<Constant> = [
        ("N", n),
        ("H", h),
        ("W", h),
        ("C", c),
        ("KH", 2),
        ("KW", 2),
        ("SH", 2),
        ("SW", 2),
        ("PT", 0),
        ("PL", 0),
        ("HO", h / 2),
        ("WO", h / 2),
    ]
    .map(|(a, b)| (a, b as f64))
    .to_vec();
    for (e, f, len) in [
        ("pool2d_max_forward", true, n * h * h * c / 4),
        ("pool2d_max_forward_by_4", true, n * h * h * c / 16),
        ("pool2d_max_forward_flat", true, n * h * h * c / 16),
        ("pool2d_max_backward_x", false, n * h * h * c),
        ("pool2d_max_backward_x_by_4", false, n * h * h * c / 4),
        ("pool2d_max_backward_x_scatter", false, n * h * h * c / 16),
    ] {
        let bindings: &'static [Binding] = if f {
            Vec::leak(vec![read(0, "x"), write(1, "y"), write(2, "am")])
        } else {
            Vec::leak(vec![read(3, "am"), read(4, "dy"), write(5, "dx")])
        };
        let spec: &'static KernelSpec = Box::leak(Box::new(KernelSpec { op: "pool", entry: e, source: src, bindings }));
        let mut p = PlanBuilder::new(&gpu);
        let b = if f {
            vec![bind("x", &x, x.len()), bind("y", &y, y.len()), bind("am", &am, am.len())]
        } else {
            vec![bind("am", &am, am.len()), bind("dy", &y, y.len()), bind("dx", &dx, dx.len())]
        };
        p.push(spec, &cs, workgroups_linear(len, 64), &b).unwrap();
        let plan = p.finish();
        gpu.run(&plan).unwrap();
        let mut all = vec![];
        for _ in 0..9 {
            let t = Instant::now();
            let mut en = gpu.encoder("t");
            gpu.encode(&mut en, "t", &plan, 4);
            let s = gpu.submit(en).unwrap();
            gpu.wait(s).unwrap();
            all.push(t.elapsed().as_secs_f64() / 4.0);
        }
        all.sort_by(|a, b| a.total_cmp(b));
        println!("{e:32} {:.3} ms {:.3}", all[0] * 1e3, all[4] * 1e3);
    }
}
