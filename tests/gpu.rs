use crate::support::gpu;
use fmnist_gpu::gpu::peak::Peak;
use fmnist_gpu::gpu::{
    DeviceChoice, Element, Gpu, GpuError, GpuOptions, KernelSpec, PlanBuilder, adapter, bind, read, workgroups_linear,
    write,
};
use fmnist_gpu::ops::relu;
use pollster::FutureExt as _;
use std::time::Duration;

fn record(tensors: &[(&'static str, &fmnist_gpu::gpu::Tensor, usize)]) -> Result<(), GpuError> {
    let bound: Vec<_> = tensors.iter().map(|(name, tensor, len)| bind(name, tensor, *len)).collect();
    PlanBuilder::new(gpu()).push(&relu::FORWARD, &[("LEN", 8.0)], [1, 1, 1], &bound)
}

fn message(result: Result<(), GpuError>) -> String {
    match result {
        Err(error @ GpuError::Record { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_dispatch_with_wrong_tensors_is_refused_with_names_and_numbers() {
    let gpu = gpu();
    let x = gpu.tensor("x", &[8], Element::F32).unwrap();
    let y = gpu.tensor("y", &[8], Element::F32).unwrap();
    record(&[("x", &x, 8), ("y", &y, 8)]).unwrap();
    assert!(message(record(&[("x", &x, 8)])).contains("nothing is bound to `y`"));
    assert!(message(record(&[("x", &x, 8), ("y", &y, 8), ("y", &x, 8)])).contains("`y` is bound 2 times"));
    assert!(message(record(&[("x", &x, 8), ("y", &y, 8), ("z", &x, 8)])).contains("no binding `z`"));
    let short = message(record(&[("x", &x, 9), ("y", &y, 8)]));
    assert!(short.contains("8 elements") && short.contains("but 9 are expected"), "{short}");
    // A buffer that is read and written by one dispatch, in one range or in two.
    assert!(message(record(&[("x", &x, 8), ("y", &x, 8)])).contains("share a buffer"));
    let both = gpu.tensor("both", &[128], Element::F32).unwrap();
    assert_eq!((both.name(), both.slice("first", 0, &[8]).name()), ("both", "first"));
    let (first, second) = (both.slice("first", 0, &[8]), both.slice("second", 64, &[8]));
    assert!(message(record(&[("x", &first, 8), ("y", &second, 8)])).contains("share a buffer"));
}

static TWO_WRITES: KernelSpec = KernelSpec {
    op: "two_writes",
    entry: "two_writes_forward",
    source: "@group(0) @binding(0) var<storage, read_write> x: array<f32>;
             @group(0) @binding(1) var<storage, read_write> y: array<f32>;
             @compute @workgroup_size(64) fn two_writes_forward(@builtin(global_invocation_id) id: vec3<u32>) {
                 x[id.x] = 1.0;
                 y[id.x] = 2.0;
             }",
    bindings: &[write(0, "x"), write(1, "y")],
};

/// One dispatch may write two ranges of a buffer that touch each other, in either order, but not two that overlap.
#[test]
fn ranges_side_by_side_are_written_at_once() {
    let gpu = gpu();
    let both = gpu.tensor("both", &[128], Element::F32).unwrap();
    let [first, second, middle] = [0, 64, 32].map(|at| both.slice("half", at, &[64]));
    let push = |x, y| {
        let tensors = [bind("x", x, 64), bind("y", y, 64)];
        PlanBuilder::new(gpu).push(&TWO_WRITES, &[], [1, 1, 1], &tensors)
    };
    push(&first, &second).unwrap();
    push(&second, &first).unwrap();
    assert!(message(push(&first, &middle)).contains("share a buffer"));
    assert!(message(push(&middle, &first)).contains("share a buffer"));
}

#[test]
fn too_many_workgroups_are_refused() {
    let gpu = gpu();
    let x = gpu.tensor("x", &[8], Element::F32).unwrap();
    let y = gpu.tensor("y", &[8], Element::F32).unwrap();
    let tensors = [bind("x", &x, 8), bind("y", &y, 8)];
    let result = PlanBuilder::new(gpu).push(&relu::FORWARD, &[("LEN", 8.0)], [65_536, 1, 1], &tensors);
    assert!(message(result).contains("65536 workgroups"));
    assert_eq!(workgroups_linear(65_535 * 64, 64), [65_535, 1, 1]);
    let [x, y, z] = workgroups_linear(65_535 * 64 + 1, 64);
    assert!(y == 2 && z == 1 && x * y >= 65_536);
}

static BROKEN: KernelSpec = KernelSpec {
    op: "broken",
    entry: "broken_forward",
    source: "@group(0) @binding(0) var<storage, read_write> y: array<f32>;
             @compute @workgroup_size(64) fn broken_forward() { y[0] = missing_function(1.0); }",
    bindings: &[write(0, "y")],
};

static MISDECLARED: KernelSpec = KernelSpec {
    op: "misdeclared",
    entry: "misdeclared_forward",
    source: "@group(0) @binding(0) var<storage, read_write> y: array<f32>;
             @compute @workgroup_size(64) fn misdeclared_forward() { y[0] = 1.0; }",
    bindings: &[read(0, "y")],
};

#[test]
fn a_shader_error_shows_entry_point_and_compiler_text() {
    let gpu = gpu();
    let y = gpu.tensor("y", &[8], Element::F32).unwrap();
    for (spec, text) in [(&BROKEN, "missing_function"), (&MISDECLARED, "misdeclared_forward")] {
        let mut plan = PlanBuilder::new(gpu);
        plan.push(spec, &[], [1, 1, 1], &[bind("y", &y, 8)]).unwrap();
        let error = plan.finish().block_on().unwrap_err();
        assert!(matches!(error, GpuError::Shader { .. }), "{error:?}");
        let shown = error.to_string();
        assert!(shown.contains(spec.entry) && shown.contains(text), "{shown}");
    }
}

static BROKEN_TWIN: KernelSpec =
    KernelSpec { op: "broken", entry: "broken_backward", source: BROKEN.source, bindings: BROKEN.bindings };

/// Kernels are compiled on several threads; the order in which they finish must make no difference.
#[test]
fn of_several_shader_errors_the_first_recorded_is_reported() {
    let gpu = gpu();
    let (x, y) = (gpu.tensor("x", &[8], Element::F32).unwrap(), gpu.tensor("y", &[8], Element::F32).unwrap());
    let orders = [[&BROKEN, &BROKEN_TWIN, &MISDECLARED], [&MISDECLARED, &BROKEN, &BROKEN_TWIN]];
    for order in orders.into_iter().chain([[&BROKEN_TWIN, &MISDECLARED, &BROKEN]]).cycle().take(12) {
        let mut plan = PlanBuilder::new(gpu);
        relu::record_forward(&mut plan, 8, [&x, &y]).unwrap();
        for spec in order {
            plan.push(spec, &[], [1, 1, 1], &[bind("y", &y, 8)]).unwrap();
        }
        match plan.finish().block_on().unwrap_err() {
            GpuError::Shader { file, entry, message, .. } => {
                assert_eq!((file, entry), (order[0].file(), order[0].entry));
                // The other kernel has no error: the error is in its file.
                let text = if order[0].op == "broken" { "missing_function" } else { "misdeclared_forward" };
                assert!(message.contains(text), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
    gpu.check().unwrap();
}

#[test]
fn a_tensor_beyond_the_adapter_is_refused_before_anything_is_allocated() {
    let error = gpu().tensor("huge", &[1 << 20, 1 << 12], Element::F32).unwrap_err();
    assert!(matches!(error, GpuError::TensorTooLarge { .. }), "{error:?}");
    assert!(error.to_string().contains("huge") && error.to_string().contains("17179869184"), "{error}");
}

#[test]
fn an_adapter_that_does_not_exist_is_named_with_those_that_do() {
    let existing = &gpu().info().name;
    for choice in [DeviceChoice::Index(99), DeviceChoice::Name("no such card".to_string())] {
        let error = Gpu::open(&GpuOptions { choice, ..GpuOptions::default() }).block_on().unwrap_err();
        assert!(matches!(error, GpuError::NoSuchAdapter { .. }), "{error:?}");
        assert!(error.to_string().contains(existing.as_str()), "{error}");
    }
}

#[test]
fn an_adapter_is_found_by_index_and_by_any_part_of_its_name() {
    let list = adapter::list().block_on().unwrap();
    let info = gpu().info();
    // A software adapter is never the default.
    let defaults: Vec<usize> = list.iter().filter(|a| a.default).map(|a| a.index).collect();
    assert_eq!(defaults, if gpu().is_software() { vec![] } else { vec![0] });
    assert!(list.iter().enumerate().all(|(i, a)| a.index == i));
    let part: String = info.name.to_uppercase().chars().take(5).collect();
    for choice in [DeviceChoice::Name(part), DeviceChoice::Index(info.index)] {
        let found = Gpu::open(&GpuOptions { choice, ..GpuOptions::default() }).block_on().unwrap();
        assert_eq!(found.info().index, info.index);
    }
    // Software comes after all hardware.
    let software = |a: &fmnist_gpu::gpu::AdapterInfo| a.device_type == "software";
    assert!(list.windows(2).all(|pair| !software(&pair[0]) || software(&pair[1])), "{list:?}");
}

#[test]
fn a_lost_device_is_an_error_and_not_a_panic() {
    gpu();
    let lost = Gpu::open(&GpuOptions::default()).block_on().unwrap();
    let tensor = lost.tensor_from("t", &[4], &[1.0; 4]).unwrap();
    lost.destroy();
    let error = lost.read(&tensor).block_on().unwrap_err();
    assert!(matches!(error, GpuError::DeviceLost { .. }), "{error:?}");
    let shown = error.to_string();
    assert!(shown.contains(&lost.info().name) && shown.contains(&lost.info().driver), "{shown}");
}

/// A device that does not answer in time counts as lost; one that answers does not.
#[test]
fn a_device_that_hangs_is_lost() {
    gpu();
    let open = || Gpu::open(&GpuOptions::default()).block_on().unwrap();
    let hung = open().with_patience(Some(Duration::ZERO));
    let error = Peak::measure(&hung).block_on().unwrap_err();
    assert!(matches!(&error, GpuError::DeviceLost { reason, .. } if reason.contains("not finished")), "{error:?}");
    // It remains lost.
    assert!(matches!(hung.check(), Err(GpuError::DeviceLost { .. })));
    Peak::measure(&open().with_patience(Some(Duration::from_secs(600)))).block_on().unwrap();
}

#[test]
fn tensors_come_back_as_they_went() {
    let gpu = gpu();
    let values: Vec<f32> = (0..1000).map(|i| i as f32 * 0.1).collect();
    let tensor = gpu.tensor_from("t", &[10, 100], &values).unwrap();
    assert_eq!(gpu.read(&tensor).block_on().unwrap(), values);
    assert_eq!(gpu.read(&tensor.slice("part", 64, &[7])).block_on().unwrap(), values[64..71]);
    let (whole, parts) =
        gpu.arena("arena", Element::F32, &[("a".to_string(), vec![3]), ("b".to_string(), vec![2, 5])]).unwrap();
    gpu.write(&parts[0], &[1.0, 2.0, 3.0]);
    gpu.write(&parts[1], &[4.0; 10]);
    assert_eq!(gpu.read(&parts[0]).block_on().unwrap(), [1.0, 2.0, 3.0]);
    // The padding between the parts remains zero, so that an optimizer that updates the whole changes nothing there.
    let sum: f32 = gpu.read(&whole).block_on().unwrap().iter().sum();
    assert_eq!(sum, 46.0);
    assert!(whole.len().is_multiple_of(4));
}
