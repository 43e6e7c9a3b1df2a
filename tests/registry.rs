use crate::programs::layers_and_activations;
use fmnist_gpu::gpu::{Access, peak};
use fmnist_gpu::verify::{OPS, Op};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn parse(op: &str, source: &str) -> naga::Module {
    naga::front::wgsl::parse_str(source).unwrap_or_else(|error| panic!("shaders/{op}.wgsl: {error}"))
}

/// Returns the shader files of an operation.
fn sources(op: &Op) -> impl Iterator<Item = &'static str> {
    op.kernels.iter().map(|kernel| kernel.spec.source).collect::<BTreeSet<_>>().into_iter()
}

fn stems(folder: &Path, extension: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let wanted = paths.filter(|path| path.extension().is_some_and(|e| e == extension));
    wanted.map(|path| path.file_stem().unwrap().to_str().unwrap().to_string()).collect()
}

#[test]
fn every_shader_file_has_its_twins() {
    let ops: BTreeSet<String> = OPS.iter().map(|op| op.name.to_string()).collect();
    assert_eq!(ops.len(), OPS.len(), "an operation is registered twice");
    let files = stems(&root().join("shaders"), "wgsl");
    let steps = stems(&root().join("src/engine/operations"), "rs");
    let kinds = ["_by_4", "_subgroup", "_shared"];
    let stem = |file: &str| kinds.iter().fold(file, |file, kind| file.trim_end_matches(kind)).to_string();
    let stems: BTreeSet<String> = files.iter().map(|file| stem(file)).collect();
    assert_eq!(stems, ops, "shaders/ and OPS differ");
    let is_op = |file: &String| ["mod", "native"].contains(&&file[..]) || ops.contains(file);
    assert!(steps.iter().all(is_op), "src/engine/operations has a file of no operation: {steps:?}");
    for op in &ops {
        for folder in ["src/ops", "src/cpu", "src/verify", "tests"] {
            let path = format!("{folder}/{op}.rs");
            assert!(root().join(&path).exists(), "{path} is missing");
        }
        assert!(text("tests/main.rs").contains(&format!("mod {op};")), "tests/{op}.rs is not run");
    }
}

#[test]
fn every_entry_point_has_a_spec_and_a_mirror() {
    for op in OPS {
        let modules: Vec<naga::Module> = sources(op).map(|source| parse(op.name, source)).collect();
        let entries: BTreeSet<&str> = modules.iter().flat_map(|m| &m.entry_points).map(|e| e.name.as_str()).collect();
        let specs: BTreeSet<&str> = op.kernels.iter().map(|kernel| kernel.spec.entry).collect();
        assert_eq!(specs.len(), op.kernels.len(), "a kernel of `{}` is listed twice", op.name);
        assert_eq!(entries, specs, "entry points of shaders/{}.wgsl and specs of src/ops/{}.rs", op.name, op.name);
        let mirrors = text(&format!("src/cpu/{}.rs", op.name));
        for kernel in op.kernels {
            let (entry, mirror) = (kernel.spec.entry, kernel.mirror);
            assert_eq!(kernel.spec.op, op.name, "`{entry}` is listed under another operation");
            assert!(entry.starts_with(op.name), "`{entry}` does not start with `{}`", op.name);
            // The forms of a pass share a mirror.
            let forms = [
                "_parts",
                "_gathered",
                "_pool",
                "_any",
                "_small",
                "_subgroup",
                "_by_4",
                "_shared",
                "_sum",
                "_and_w",
                "_pending",
            ];
            let pass = forms.iter().fold(entry, |name, form| name.strip_suffix(form).unwrap_or(name));
            assert_eq!(pass, mirror, "the mirror of `{entry}`");
            // The compiler checks that the mirror exists in some file of `src/cpu`.
            assert!(mirrors.contains(&format!("pub fn {mirror}<")), "src/cpu/{}.rs has no `{mirror}`", op.name);
        }
    }
}

#[test]
fn every_native_loop_and_every_gradient_has_a_proof() {
    let proofs = stems(&root().join("src/verify/native"), "rs");
    let is_op = |name: &str| name == "mod" || OPS.iter().any(|op| op.name == name);
    assert!(proofs.iter().all(|name| is_op(name)), "src/verify/native has a file of no operation: {proofs:?}");
    for op in OPS {
        for file in [format!("src/native/{}.rs", op.name), format!("src/verify/native/{}.rs", op.name)] {
            assert_eq!(op.native.is_some(), root().join(&file).exists(), "{file} and `native` in the row");
        }
        let mirrors = format!("src/cpu/{}.rs", op.name);
        let is_gradient = |line: &str| line.starts_with("pub fn ") && line.contains("_backward_");
        let has_gradient = text(&mirrors).lines().any(is_gradient);
        assert_eq!(op.gradients.is_some(), has_gradient, "{mirrors} and `gradients` in the row");
    }
}

/// A layer with an operation of its own is in four files besides the operation's own and the `mod` lines for these. A new one is to be listed here.
#[test]
fn a_new_layer_needs_four_files() {
    // At the start of a word, so that `elu` is not found in `gelu`: `elu_forward`, `Elu`, `KerasElu`, `ELU`.
    let starts_word = |line: &str, at: usize| {
        let (before, rest) = line.split_at(at);
        let is_capital = rest.starts_with(char::is_uppercase);
        before.chars().last().is_none_or(|last| !last.is_alphabetic() || (is_capital && last.is_lowercase()))
    };
    let names = |line: &str, op: &str| line.to_ascii_lowercase().match_indices(op).any(|(at, _)| starts_word(line, at));
    for op in ["gelu", "leakyrelu", "silu", "batchnorm"] {
        let all = lines_with(&[""], &[]).into_iter().filter(|line| names(line, op));
        let others =
            all.filter(|line| !line.contains(&format!("/{op}.rs: ")) && !line.ends_with(&format!("mod {op};")));
        let files: BTreeSet<String> = others.map(|line| line.split(": ").next().unwrap().to_string()).collect();
        let mut places =
            vec!["src/export/layers.rs", "src/lower/rules.rs", "src/model/layer.rs", "src/verify/table.rs"];
        if op == "gelu" {
            // The native engine computes it with the normalization before it.
            places.extend([
                "src/engine/operations/batchnorm.rs",
                "src/native/batchnorm.rs",
                "src/verify/native/batchnorm.rs",
            ]);
        }
        assert_eq!(files, places.into_iter().map(str::to_string).collect(), "where `{op}` is named");
    }
}

#[test]
fn every_layer_and_every_activation_is_documented() {
    let page = text("docs/model-files.md");
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    for name in layers_and_activations() {
        let found = match name.strip_prefix("activation ") {
            Some(activation) => {
                rows.iter().any(|row| row.contains("`activation` (") && row.contains(&format!("`{activation}`")))
            }
            None => rows.iter().any(|row| row.split('|').nth(1).unwrap().contains(&format!("`{name}`"))),
        };
        assert!(found, "`{name}` is not in the table of layers in docs/model-files.md");
    }
}

/// An optimizer is in three files besides its own and the `mod` lines for these: what it is and does on each engine, its name and settings, and
/// its row in the table.
#[test]
fn a_new_optimizer_needs_three_files() {
    let own = ["src/cpu", "src/ops", "src/native", "src/verify", "src/verify/native"]
        .map(|folder| format!("{folder}/sgd.rs"));
    let lines = lines_with(&["Sgd", "sgd::"], &own.each_ref().map(String::as_str));
    let files: BTreeSet<String> = lines.into_iter().map(|line| line.split(": ").next().unwrap().to_string()).collect();
    let places = ["src/engine/optimizer.rs", "src/train/settings/mod.rs", "src/verify/table.rs"];
    assert_eq!(files, places.map(str::to_string).into(), "where `sgd` is named");
}

/// The bindings are written twice, in the shader and in the spec; this test checks that they agree.
#[test]
fn every_spec_agrees_with_its_shader() {
    let of_ops = OPS.iter().flat_map(|op| op.kernels).map(|kernel| kernel.spec);
    for kernel in of_ops.chain(peak::KERNELS.iter().copied()) {
        let module = parse(kernel.op, kernel.source);
        let info = crate::shaders::validator().validate(&module).unwrap();
        let index = module.entry_points.iter().position(|e| e.name == kernel.entry).unwrap();
        let entry = info.get_entry_point(index);
        let mut used = BTreeSet::new();
        for (handle, variable) in module.global_variables.iter() {
            let Some(binding) = variable.binding.as_ref().filter(|_| !entry[handle].is_empty()) else { continue };
            assert_eq!(binding.group, 0, "{}", kernel.entry);
            let writes = match variable.space {
                naga::AddressSpace::Storage { access } => access.contains(naga::StorageAccess::STORE),
                other => panic!("{}: {other:?} is not a storage buffer", kernel.entry),
            };
            let name = variable.name.clone().unwrap();
            used.insert((binding.binding, name.trim_end_matches("_by_4").to_string(), writes));
        }
        let declared: BTreeSet<(u32, String, bool)> =
            kernel.bindings.iter().map(|b| (b.index, b.name.to_string(), b.access == Access::ReadWrite)).collect();
        assert_eq!(used, declared, "{}: shader and spec", kernel.entry);
        // Every adapter has at least eight.
        assert!(declared.len() <= 8, "{}", kernel.entry);
    }
}

#[test]
fn every_shader_opens_with_its_formula_and_names_its_twins() {
    for (op, source) in OPS.iter().flat_map(|op| sources(op).map(move |source| (op, source))) {
        let tiles = ", in tiles of workgroup memory";
        let kinds = [": ", &format!("{tiles}: "), &format!("{tiles}, four values per load: "), ", in subgroup tiles: "];
        let titles = kinds.map(|kind| format!("// {}{kind}", op.name));
        assert!(titles.iter().any(|title| source.starts_with(title)), "shaders/{}.wgsl", op.name);
        let header: String = source.lines().take_while(|line| line.starts_with("//")).collect();
        let wanted = format!("Host: src/ops/{0}.rs   Mirror: src/cpu/{0}.rs   Test: tests/{0}.rs", op.name);
        assert!(header.contains(&wanted), "shaders/{}.wgsl does not contain `{wanted}`", op.name);
        assert!(header.contains(" = ") || header.contains(" += "), "shaders/{}.wgsl has no formula", op.name);
        for line in source.lines().filter(|line| line.contains("@binding(")) {
            // A `_by_4` binding beside its plain counterpart need not repeat the shape.
            let has_twin = line.split_once("_by_4:").is_some_and(|(before, _)| {
                let name = before.rsplit(' ').next().unwrap();
                source.contains(&format!(" {name}: array<"))
            });
            assert!(line.contains("// [") || has_twin, "no shape on its line: {line}");
        }
    }
}

/// The modules of the library from the bottom up, and those that each may import: rows above its own, so that no two
/// import each other in a circle. A new import needs a name here, a new module a row.
const LAYERS: &[(&str, &[&str])] = &[
    ("text", &[]),
    ("clock", &[]),
    ("threads", &[]),
    ("files", &[]),
    ("cpu", &[]),
    ("gpu", &["text", "clock", "threads", "files"]),
    ("native", &["clock", "cpu"]),
    ("ops", &["text", "cpu", "gpu"]),
    ("verify", &["text", "clock", "cpu", "gpu", "native", "ops"]),
    ("data", &["threads", "files"]),
    ("model", &["text", "files", "cpu", "data"]),
    ("lower", &["cpu", "model"]),
    ("engine", &["text", "clock", "threads", "files", "cpu", "gpu", "native", "ops", "data", "model", "lower"]),
    ("train", &["text", "clock", "cpu", "ops", "data", "model", "engine"]),
    ("run", &["clock", "files", "ops", "data", "model", "engine", "train"]),
    ("export", &["text", "cpu", "data", "model"]),
    ("import", &["text", "model", "export"]),
    ("photo", &["text", "files", "cpu", "gpu", "native", "ops"]),
    ("report", &["text", "ops", "data", "model", "photo", "engine", "train", "run"]),
    ("tensorboard", &["files", "run", "train"]),
    (
        "session",
        &["clock", "files", "gpu", "native", "ops", "data", "model", "engine", "train", "run", "report", "tensorboard"],
    ),
];

#[test]
fn every_module_imports_only_from_below() {
    let listed: BTreeSet<String> = LAYERS.iter().map(|(module, _)| module.to_string()).collect();
    assert_eq!(listed.len(), LAYERS.len(), "a module is listed twice");
    let modules = std::fs::read_dir(root().join("src")).unwrap().map(|entry| entry.unwrap().path());
    let modules = modules.map(|path| path.file_stem().unwrap().to_str().unwrap().to_string());
    // The roots of the two crates, and the program, which is the other crate: the library cannot import it.
    let modules: BTreeSet<String> = modules.filter(|name| !["lib", "main", "cli"].contains(&&name[..])).collect();
    assert_eq!(listed, modules, "the table of layers and src/");
    let mut found: BTreeSet<(String, String)> = BTreeSet::new();
    for line in lines_with(&["crate::", "super::"], &[]) {
        let (path, code) = line.split_once(": ").unwrap();
        let path = path.trim_start_matches("src/").trim_end_matches(".rs");
        let module = path.split('/').next().unwrap();
        if !listed.contains(module) {
            continue;
        }
        // Imports of other modules are written with `crate::`, one line each, where this test can see them.
        let is_root = path == module || path == format!("{module}/mod");
        assert!(!is_root || !code.contains("super::"), "{line}");
        assert!(!code.contains("super::super"), "{line}");
        for (at, start) in code.match_indices("crate::") {
            let name = code[at + start.len()..].split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
            assert!(listed.contains(name), "`{name}` is not a module: {line}");
            found.insert((module.to_string(), name.to_string()));
        }
    }
    for (row, (module, allowed)) in LAYERS.iter().enumerate() {
        for below in *allowed {
            assert!(LAYERS[..row].iter().any(|(name, _)| name == below), "`{below}` is not below `{module}`");
        }
        for (_, name) in found.iter().filter(|(from, name)| from == module && name != module) {
            assert!(allowed.contains(&&name[..]), "src/{module} imports crate::{name}");
        }
    }
    assert!(found.contains(&("verify".to_string(), "ops".to_string())), "the search finds nothing");
}

/// Unsafe code is only allowed where `docs/safety.md` justifies it.
#[test]
fn every_unsafe_block_is_in_the_table() {
    fn search(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                search(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let code = std::fs::read_to_string(&path).unwrap();
                let is_unsafe = |line: &str| line.split("//").next().is_some_and(|code| code.contains("unsafe "));
                found.extend(
                    code.lines()
                        .filter(|line| is_unsafe(line))
                        .map(|_| path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/")),
                );
            }
        }
    }
    let mut found = Vec::new();
    search(&root().join("src"), &mut found);
    found.sort();
    let table = text("docs/safety.md");
    let mut listed: Vec<String> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `src/")?.split_once('`').map(|(path, _)| format!("src/{path}")))
        .collect();
    listed.sort();
    assert_eq!(found, listed, "unsafe blocks, and the table of docs/safety.md");
}

/// The lines of code below `src` that contain one of `words`, as `path: line`; comments and the tests of a file do not count.
fn lines_with(words: &[&str], allowed: &[&str]) -> Vec<String> {
    fn files(folder: &Path) -> Vec<PathBuf> {
        let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
    }
    let mut found = Vec::new();
    for path in files(&root().join("src")) {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
        let code = std::fs::read_to_string(&path).unwrap();
        let code = code.split("#[cfg(test)]\nmod tests").next().unwrap();
        for line in code.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            if words.iter().any(|word| line.contains(word)) && !allowed.contains(&name.as_str()) {
                found.push(format!("{name}: {line}"));
            }
        }
    }
    found
}

/// What is compiled with a feature or for some systems only: a file or a folder with its condition. The rest is the core, which also runs in
/// a browser.
const GATED: &[(&str, &str)] = &[
    ("src/data/disk.rs", r#"feature = "disk""#),
    ("src/data/download.rs", r#"feature = "download""#),
    ("src/data/fashion_mnist/disk.rs", r#"feature = "disk""#),
    ("src/data/idx/disk.rs", r#"feature = "disk""#),
    ("src/engine/gpu/autotune/disk.rs", r#"feature = "disk""#),
    ("src/engine/native", r#"feature = "native""#),
    ("src/engine/operations/native.rs", r#"feature = "native""#),
    ("src/files/disk.rs", r#"feature = "disk""#),
    ("src/gpu/environment.rs", r#"feature = "disk""#),
    ("src/gpu/pipeline_cache.rs", r#"feature = "disk""#),
    ("src/model/disk.rs", r#"feature = "disk""#),
    ("src/native", r#"feature = "native""#),
    ("src/photo/disk.rs", r#"feature = "disk""#),
    ("src/photo/native.rs", r#"feature = "native""#),
    ("src/run/checkpoint/disk.rs", r#"feature = "disk""#),
    ("src/run/disk.rs", r#"feature = "disk""#),
    ("src/run/folder.rs", r#"feature = "disk""#),
    ("src/session/disk", r#"feature = "disk""#),
    ("src/session/processor.rs", r#"feature = "native""#),
    ("src/tensorboard.rs", r#"feature = "disk""#),
    ("src/threads/several.rs", r#"not(target_family = "wasm")"#),
    ("src/verify/native", r#"feature = "native""#),
];

/// The core touches no file, thread, environment, network or process, and asks only `crate::clock` for the time.
#[test]
fn the_core_needs_no_system() {
    for (path, condition) in GATED {
        let (folder, file) = path.rsplit_once('/').unwrap();
        let parent = if folder == "src" { "src/lib.rs".to_string() } else { format!("{folder}/mod.rs") };
        let name = file.trim_end_matches(".rs");
        let gated = ["", "pub "].map(|public| format!("#[cfg({condition})]\n{public}mod {name};\n"));
        assert!(gated.iter().any(|gated| text(&parent).contains(gated)), "{path} is not gated in {parent}");
    }
    let modules = ["fs", "thread", "env", "net", "process", "os"].map(|module| format!("std::{module}"));
    let words: Vec<&str> =
        modules.iter().map(String::as_str).chain(["std::time::", ".exists()", ".is_dir()"]).collect();
    let is_system =
        |line: &String| !line.contains("std::time::") || line.contains("Instant") || line.contains("System");
    let is_core = |line: &String| {
        let path = line.split(": ").next().unwrap();
        let is_program = path == "src/main.rs" || path.starts_with("src/cli/");
        let is_in = |gated: &str| path == gated || path.starts_with(&format!("{gated}/"));
        !is_program && !GATED.iter().any(|(gated, _)| is_in(gated))
    };
    let (core, others): (Vec<_>, Vec<_>) = lines_with(&words, &[]).into_iter().filter(is_system).partition(is_core);
    assert!(core.is_empty(), "{core:#?}");
    assert!(others.len() >= 20, "the search finds nothing");
}

/// Output that fails or blocks must not end or delay the work, so only `terminal.rs` writes to the two streams.
#[test]
fn one_file_writes_to_the_terminal() {
    let words = ["print!(", "println!(", "eprint!(", "eprintln!(", "io::stdout()", "io::stderr()", "dbg!("];
    let found = lines_with(&words, &["src/cli/terminal.rs", "src/cli/progress.rs"]);
    assert!(found.is_empty(), "{found:#?}");
    // It asks whether a terminal is there.
    let progress = text("src/cli/progress.rs");
    assert_eq!(progress.matches("io::stderr()").count(), progress.matches("io::stderr().is_terminal()").count());
    assert!(lines_with(&words, &[]).len() >= 4, "the search finds nothing");
}

/// The library speaks of things; the command line adds the flags and commands that change them.
#[test]
fn the_library_names_no_flags() {
    let is_flag = |line: &str| {
        let mut words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        words.any(|word| word.strip_prefix("--").is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase())))
    };
    let is_command = |line: &str| line.contains("`fmnist-gpu ");
    let lines = lines_with(&[""], &[]);
    let (cli, library): (Vec<_>, Vec<_>) = lines
        .into_iter()
        .filter(|line| is_flag(line) || is_command(line))
        .partition(|line| line.starts_with("src/cli/"));
    assert!(library.is_empty(), "{library:#?}");
    assert!(cli.len() >= 20, "the search finds nothing");
}

/// A file of a run or of a cache may have been replaced by a pipe or by one without an end: `files::read_bounded` reads them all.
#[test]
fn one_reader_reads_what_may_be_anything() {
    let words = ["fs::read(", "File::open(", "read_to_string(", "read_to_end(", "options().read("];
    let allowed = [
        // The reader.
        "src/files/mod.rs",
        "src/files/disk.rs",
        // Files of the system: /proc and /etc.
        "src/cli/bench.rs",
        "src/cli/doctor.rs",
        "src/session/processor.rs",
        // Files that the user names, which may be pipes; read as streams with a bound.
        "src/photo/mod.rs",
        "src/photo/disk.rs",
        "src/cli/import.rs",
        "src/data/idx/mod.rs",
        "src/data/idx/disk.rs",
    ];
    let found = lines_with(&words, &allowed);
    assert!(found.is_empty(), "{found:#?}");
    for system in &allowed[2..5] {
        let code = text(system);
        let reads = code.matches("read_to_string(").count();
        assert_eq!(reads, code.matches("read_to_string(\"/").count(), "{system} reads more than files of the system");
    }
}

/// The shape of the images and the names of the classes come from a description of the data set; few name that of Fashion-MNIST.
#[test]
fn few_name_the_one_data_set() {
    let description = ["FASHION_MNIST"];
    let numbers = ["CLASS_NAMES", "PIXELS", "N_CLASSES", "IMAGE_SIDE"];
    // The data set itself, the models that are built in for it, and what the program takes a run's data set for.
    let may_name = ["src/data/mod.rs", "src/data/disk.rs", "src/model/mod.rs", "src/cli/evaluate.rs"];
    let may_count = [
        // The data set itself, its reader and its substitute.
        "src/data/mod.rs",
        "src/data/fashion_mnist/mod.rs",
        "src/data/synthetic/mod.rs",
        "src/data/synthetic/raster.rs",
        // Its own constants: it makes images like those of Fashion-MNIST.
        "src/photo/garment.rs",
        // A constant of the shader, for any images.
        "src/ops/batch_gather.rs",
    ];
    for (words, allowed) in [(&description[..], &may_name[..]), (&numbers, &may_count)] {
        let is_whole = |line: &String| {
            let mut parts = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            parts.any(|part| words.contains(&part))
        };
        let found: Vec<String> = lines_with(words, allowed).into_iter().filter(is_whole).collect();
        assert!(found.is_empty(), "{found:#?}");
        let all: Vec<String> = lines_with(words, &[]).into_iter().filter(is_whole).collect();
        for path in allowed {
            assert!(all.iter().any(|line| line.starts_with(path)), "{path} does not name {words:?} any more");
        }
    }
}

/// Names may hold control characters: paths are shown by `ShownPath::shown`, which escapes them.
#[test]
fn paths_are_shown_with_escapes() {
    let found = lines_with(&[".display()"], &["src/data/disk.rs"]);
    assert!(found.is_empty(), "{found:#?}");
}

/// The largest command parses, calls and prints: what it does is in the library.
#[test]
fn training_is_no_work_of_the_command_line() {
    let code = text("src/cli/train.rs");
    let code = code.split("#[cfg(test)]").next().unwrap();
    let lines = code.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    assert!(lines.count() < 150, "src/cli/train.rs");
}

/// A file that is longer than a reader expects says in its first lines why.
#[test]
fn long_files_say_why() {
    let rust = lines_with(&["use "], &[]).into_iter().map(|line| line.split(": ").next().unwrap().to_string());
    let shaders = stems(&root().join("shaders"), "wgsl").into_iter().map(|stem| format!("shaders/{stem}.wgsl"));
    for path in rust.chain(shaders).collect::<BTreeSet<_>>() {
        let code = text(&path);
        let mut header = code.lines().take_while(|line| line.starts_with("//"));
        let says_why = header.any(|line| line.contains("Above 500 lines: "));
        let lines = code.lines().count();
        assert!(
            says_why || lines <= 500,
            "{path} has {lines} lines: cut it, or say why not in its header, after `Above 500 lines: `"
        );
        assert!(!says_why || lines > 500, "{path} has {lines} lines: its header need not say why it is so long");
    }
}
