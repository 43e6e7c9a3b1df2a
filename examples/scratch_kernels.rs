use fmnist_gpu::gpu::*;
use fmnist_gpu::ops::*;
use std::time::Instant;
fn time(gpu: &Gpu, name: &str, gflop: f64, f: impl FnOnce(&mut PlanBuilder)) {
    let filter = std::env::args().nth(1).unwrap_or_default();
    if !name.contains(&filter) {
        return;
    }
    let mut pb = PlanBuilder::new(gpu);
    f(&mut pb);
    let plan = pb.finish();
    let t = Instant::now();
    gpu.run(&plan).unwrap();
    let first = t.elapsed().as_secs_f64();
    let mut all = vec![];
    for _ in 0..9 {
        let t = Instant::now();
        let mut e = gpu.encoder("t");
        gpu.encode(&mut e, "t", &plan, 3);
        let s = gpu.submit(e).unwrap();
        gpu.wait(s).unwrap();
        all.push(t.elapsed().as_secs_f64() / 3.0);
    }
    all.sort_by(|a, b| a.total_cmp(b));
    println!(
        "{name:32} first {first:5.2}s  min {:7.3} ms  median {:7.3} ms  {:6.1} GFLOP/s",
        all[0] * 1e3,
        all[4] * 1e3,
        gflop / all[0]
    );
}
fn main() {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let n = std::env::args().nth(2).and_then(|s| s.parse().ok()).unwrap_or(32usize);
    let r = |len: usize| {
        gpu.tensor_from("r", &[len], &(0..len).map(|i| ((i * 7919) % 1000) as f32 / 1000.0 - 0.5).collect::<Vec<_>>())
            .unwrap()
    };
    for (tag, hw, c, o) in [("conv1", 28, 1, 32), ("conv2", 14, 32, 64)] {
        let d = conv2d::Conv2dDims::new(n, [hw, hw, c], [3, 3], o, [1, 1], conv2d::Padding::Same).unwrap();
        let g = 2e-9 * (n * hw * hw * 9 * c * o) as f64;
        let (x, w, b, y, dy, dx) = (r(d.x_len()), r(d.w_len()), r(o), r(d.y_len()), r(d.y_len()), r(d.x_len()));
        let f = Form::choose(gpu.tiling(), o);
        time(&gpu, &format!("{tag} forward"), g, |p| conv2d::record_forward(p, f, &d, true, &x, &w, &b, &y).unwrap());
        if c > 1 {
            time(&gpu, &format!("{tag} backward_x"), g, |p| {
                conv2d::record_backward_x(p, Form::choose(gpu.tiling(), c), &d, true, &x, &w, &dy, &dx).unwrap()
            });
        }
        let parts = r(conv2d::dw_parts_shape(f, &d).iter().product());
        let (dw, db) = (r(d.w_len()), r(o));
        time(&gpu, &format!("{tag} backward_w {:?}", conv2d::dw_parts_shape(f, &d)), g, |p| {
            conv2d::record_backward_w(p, f, &d, &x, &dy, &parts, &dw, &db).unwrap()
        });
        let pd = pool2d::Pool2dDims::new(n, [hw, hw, o], [2, 2], [2, 2], conv2d::Padding::Valid).unwrap();
        let py = r(n * hw * hw * o / 4);
        let am = gpu.tensor("am", &[n * hw * hw * o / 4], Element::U32).unwrap();
        time(&gpu, &format!("{tag} pool forward"), 0.0, |p| pool2d::record_max_forward(p, &pd, &y, &py, &am).unwrap());
        time(&gpu, &format!("{tag} pool backward"), 0.0, |p| {
            pool2d::record_max_backward_x(p, &pd, &am, &py, &y).unwrap()
        });
    }
    for (tag, i, o) in [("dense1", 3136, 128), ("dense2", 128, 10), ("mlp1", 784, 128)] {
        let d = dense::DenseDims { n, i, o };
        let g = 2e-9 * (n * i * o) as f64;
        let (x, w, b, y, dy, dx, dw, db) = (r(n * i), r(i * o), r(o), r(n * o), r(n * o), r(n * i), r(i * o), r(o));
        let f = Form::choose(gpu.tiling(), o);
        time(&gpu, &format!("{tag} forward"), g, |p| dense::record_forward(p, f, &d, true, &x, &w, &b, &y).unwrap());
        time(&gpu, &format!("{tag} backward_x"), g, |p| {
            dense::record_backward_x(p, dense::backward_x_form(gpu.tiling()), &d, true, &x, &w, &dy, &dx).unwrap()
        });
        time(&gpu, &format!("{tag} backward_w"), g, |p| dense::record_backward_w(p, f, &d, &x, &dy, &dw, &db).unwrap());
    }
    let (g, w, m, v) = (r(421648), r(421648), r(421648), r(421648));
    let ss = r(4);
    let pr = gpu.tensor("p", &[2], Element::U32).unwrap();
    time(&gpu, "adam", 0.0, |p| {
        adam::record(
            p,
            &Default::default(),
            &adam::AdamTensors { g: &g, w: &w, m: &m, v: &v, step_sizes: &ss, progress: &pr },
        )
        .unwrap()
    });
}
