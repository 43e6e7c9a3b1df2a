use fmnist_gpu::gpu::{KernelSpec, peak};
use fmnist_gpu::verify::OPS;
use naga::back::pipeline_constants::process_overrides;
use naga::back::{PipelineConstants, hlsl, msl, spv};
use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

/// Values from the article's layers, for those override constants that a shader has.
const REAL: &[(&str, f64)] = &[
    ("N", 32.0),
    ("H", 14.0),
    ("W", 14.0),
    ("C", 32.0),
    ("KH", 3.0),
    ("KW", 3.0),
    ("I", 3136.0),
    ("O", 64.0),
    ("P", 196.0),
    ("K", 288.0),
    ("PT", 1.0),
    ("PL", 1.0),
    ("HO", 14.0),
    ("WO", 14.0),
    ("RELU", 1.0),
    ("X_IS_RELU", 1.0),
    ("IMAGES_PER_PART", 8.0),
    ("PIXELS", 784.0),
    ("LEN", 421_888.0),
];

/// Returns a validator that supports subgroup operations.
pub fn validator() -> Validator {
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::SUBGROUP);
    validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    validator
}

fn parse(spec: &KernelSpec) -> (naga::Module, naga::valid::ModuleInfo) {
    let module = naga::front::wgsl::parse_str(spec.source)
        .unwrap_or_else(|error| panic!("shaders/{}.wgsl: {}", spec.op, error.emit_to_string(spec.source)));
    let info = validator()
        .validate(&module)
        .unwrap_or_else(|error| panic!("shaders/{}.wgsl: {}", spec.op, error.emit_to_string(spec.source)));
    (module, info)
}

/// Returns every kernel of the operations, and those that measure.
fn all() -> impl Iterator<Item = &'static KernelSpec> {
    let of_ops = OPS.iter().flat_map(|op| op.kernels).map(|kernel| kernel.spec);
    of_ops.chain(peak::KERNELS.iter().copied())
}

fn for_every_entry_point(mut write: impl FnMut(&KernelSpec, &naga::Module, &naga::valid::ModuleInfo)) {
    let mut written = 0;
    for spec in all() {
        let (module, info) = parse(spec);
        let known = |name: &str| module.overrides.iter().any(|(_, o)| o.name.as_deref() == Some(name));
        for (constants, lanes) in [(&[][..], 8.0), (REAL, 8.0), (REAL, 4.0)] {
            let constants: PipelineConstants = constants
                .iter()
                .filter(|(name, _)| known(name))
                .map(|(name, value)| (name.to_string(), *value))
                .chain(known("LANES").then(|| ("LANES".to_string(), lanes)))
                .collect();
            let entry = Some((naga::ShaderStage::Compute, spec.entry));
            let (module, info) = process_overrides(&module, &info, entry, &constants).unwrap();
            write(spec, &module, &info);
            written += 1;
        }
    }
    assert_eq!(written, 3 * all().count());
    assert!(written >= 60, "only {written} shaders were written");
}

#[test]
fn every_shader_can_be_written_for_vulkan() {
    for_every_entry_point(|spec, module, info| {
        let options =
            spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: spec.entry.to_string() };
        let words = spv::write_vec(module, info, &spv::Options::default(), Some(&options))
            .unwrap_or_else(|error| panic!("{}: {error}", spec.entry));
        assert_eq!(words[0], 0x0723_0203, "{}", spec.entry);
        // For docs/performance.md.
        if std::env::var_os("FMNIST_COUNT_INSTRUCTIONS").is_some() {
            println!("{}: {:?}", spec.entry, counts(&words));
        }
    });
}

/// Returns the numbers of instructions in the functions of a SPIR-V module: all, loads and stores, multiplications and additions of numbers.
fn counts(words: &[u32]) -> [usize; 3] {
    const HEADER: usize = 5;
    const FUNCTION: u32 = 54;
    let (mut at, mut opcodes) = (HEADER, Vec::new());
    while let Some(word) = words.get(at) {
        opcodes.push(word & 0xffff);
        at += (word >> 16).max(1) as usize;
    }
    let of_functions = opcodes.split_off(opcodes.iter().position(|&code| code == FUNCTION).unwrap_or(0));
    let count = |of: &[u32]| of_functions.iter().filter(|code| of.contains(code)).count();
    // OpLoad, OpStore; OpFAdd, OpFSub, OpFMul and those of vectors and matrices.
    [of_functions.len(), count(&[61, 62]), count(&[129, 131, 133, 142, 143, 144, 145, 146])]
}

#[test]
fn instructions_are_counted() {
    // A function with a load, a product of a vector and a number, and a store, after a name of three words.
    let words = [0x0723_0203, 0, 0, 0, 0, 3 << 16 | 5, 0, 0, 5 << 16 | 54, 0, 0, 0, 0, 4 << 16 | 61, 0, 0, 0];
    let words = [&words[..], &[5 << 16 | 142, 0, 0, 0, 0, 3 << 16 | 62, 0, 0, 1 << 16 | 56]].concat();
    assert_eq!(counts(&words), [5, 2, 1]);
}

#[test]
fn every_shader_can_be_written_for_metal() {
    for_every_entry_point(|spec, module, info| {
        let entry_point = Some((naga::ShaderStage::Compute, spec.entry.to_string()));
        let pipeline = msl::PipelineOptions { entry_point, ..Default::default() };
        let options = msl::Options { lang_version: (2, 1), ..Default::default() };
        let (text, _) = msl::write_string(module, info, &options, &pipeline)
            .unwrap_or_else(|error| panic!("{}: {error}", spec.entry));
        assert!(text.contains("kernel void"), "{}", spec.entry);
    });
}

#[test]
fn every_shader_can_be_written_for_dx12() {
    for_every_entry_point(|spec, module, info| {
        let pipeline =
            hlsl::PipelineOptions { entry_point: Some((naga::ShaderStage::Compute, spec.entry.to_string())) };
        // Subgroup operations need shader model 6; without them, 5.1 is enough.
        let shader_model = if spec.source.contains("subgroup_invocation_id") {
            hlsl::ShaderModel::V6_0
        } else {
            hlsl::ShaderModel::V5_1
        };
        let options = hlsl::Options { shader_model, ..Default::default() };
        let mut text = String::new();
        hlsl::Writer::new(&mut text, &options, &pipeline)
            .write(module, info, None)
            .unwrap_or_else(|error| panic!("{}: {error}", spec.entry));
        assert!(text.contains("numthreads"), "{}", spec.entry);
    });
}
