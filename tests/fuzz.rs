//! The seeds of the fuzz targets and all that fuzzing has found, through the parsers, without cargo-fuzz.

use fmnist_gpu::data::FASHION_MNIST;
use fmnist_gpu::report::metrics::Metrics;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[path = "../fuzz/parsers.rs"]
mod parsers;

/// The files below `fuzz/` in `folder` of one target, by name.
fn files(folder: &str, target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder).join(target);
    let entries = std::fs::read_dir(&folder).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// None of them may panic, in whichever build this is, or take long.
#[test]
fn every_seed_and_every_finding_is_taken_or_refused() {
    for (target, parse) in parsers::PARSERS {
        let seeds = files("corpus", target);
        assert!(seeds.len() >= 5, "{target} has {} seeds", seeds.len());
        for path in seeds.into_iter().chain(files("findings", target)) {
            let bytes = std::fs::read(&path).unwrap();
            let begin = Instant::now();
            let result = std::panic::catch_unwind(|| parse(&bytes));
            assert!(result.is_ok(), "{} brings the parser down", path.display());
            assert!(begin.elapsed() < Duration::from_secs(10), "{} takes {:?}", path.display(), begin.elapsed());
        }
    }
}

/// Each target is built by cargo-fuzz, and runs the parser of its name.
#[test]
fn every_parser_is_a_fuzz_target() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for (target, _) in parsers::PARSERS {
        assert!(
            manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")),
            "{target} is not in fuzz/Cargo.toml"
        );
        let source = std::fs::read_to_string(fuzz.join(format!("fuzz_targets/{target}.rs"))).unwrap();
        assert!(source.contains(&format!("parsers::{target}(bytes)")), "{target} runs another parser");
    }
}

/// The seeds are not merely refused: what is right comes through, so that fuzzing begins behind the first check.
#[test]
pub fn seeds_that_are_right_are_taken() {
    let read = |target: &str, name: &str| {
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target).join(name)).unwrap()
    };
    use fmnist_gpu::data::idx;
    use fmnist_gpu::run::checkpoint::Checkpoint;
    use fmnist_gpu::run::{RunConfig, Summary, parse_history};
    for name in [
        "every-layer.toml",
        "graph.toml",
        "pooled.toml",
        "grouped.toml",
        "recipe.toml",
        "scheduled.toml",
        "adamw.toml",
        "augmented.toml",
        "weighted.toml",
        "parameters.toml",
    ] {
        let text = String::from_utf8(read("model_file", name)).unwrap();
        let file = fmnist_gpu::model::ModelFile::parse(Path::new(name), &text).unwrap();
        fmnist_gpu::session::Plan::new(file, &[]).unwrap();
    }
    for name in ["tiny.safetensors", "half.safetensors"] {
        fmnist_gpu::model::weights::from_bytes(&read("weights", name)).unwrap();
    }
    for name in ["adam.safetensors", "sgd.safetensors", "averages.safetensors"] {
        Checkpoint::from_bytes(&read("checkpoint", name)).unwrap();
    }
    idx::parse("images.gz", &read("idx", "images.gz"), idx::IMAGES_RANK).unwrap();
    for name in ["described.safetensors", "normalized.safetensors"] {
        fmnist_gpu::import::from_bytes(&read("import", name), None, None).unwrap();
    }
    let small = fmnist_gpu::model::ModelFile::parse(Path::new("small.toml"), parsers::SMALL).unwrap().model;
    fmnist_gpu::import::from_bytes(&read("import", "torch.safetensors"), Some(&small), None).unwrap();
    RunConfig::parse(&read("run_folder", "config")[1..]).unwrap();
    Summary::parse(&read("run_folder", "summary")[1..]).unwrap();
    assert_eq!(parse_history(&read("run_folder", "history")[1..]).unwrap().len(), 5);
    Metrics::parse(&read("run_folder", "metrics")[1..], &FASHION_MNIST).unwrap();
    for path in files("corpus", "photo").iter().filter(|path| !path.ends_with("huge.bmp")) {
        fmnist_gpu::photo::Photo::open(path).unwrap();
    }
    for name in ["run.zip", "checkpoint.zip", "weights-alone.zip"] {
        use fmnist_gpu::run::{MAX_JSON_BYTES, RunFiles, SUMMARY_FILE, archive};
        let mut files = archive::unpack(&read("archive", name)).unwrap();
        RunFiles::open(&files).unwrap();
        // The largest file that is read, and one byte more.
        let summary = files.keys().find(|path| path.ends_with(SUMMARY_FILE)).cloned();
        assert_eq!(summary.is_some(), name != "weights-alone.zip");
        for (bytes, is_read) in summary.iter().flat_map(|_| [(MAX_JSON_BYTES, true), (MAX_JSON_BYTES + 1, false)]) {
            files.get_mut(summary.as_ref().unwrap()).unwrap().resize(bytes as usize, b' ');
            assert_eq!(RunFiles::open(&files).is_ok(), is_read, "{bytes} bytes");
        }
    }
    let filter = String::from_utf8(read("filter", "edge")).unwrap();
    fmnist_gpu::photo::ImageFilter::parse("edge", &filter).unwrap();
    fmnist_gpu::gpu::pipeline_cache::unpack("1", "adapter", &read("caches", "pipelines")).unwrap();
}

/// What the program must refuse, and with which words: shapes that do not fit, numbers that are not finite, paths, newer versions,
/// sizes that would be divided by or multiplied until they overflow.
#[test]
fn seeds_that_are_wrong_are_refused_with_a_reason() {
    use fmnist_gpu::model::weights;
    use fmnist_gpu::run::checkpoint::Checkpoint;
    let read =
        |path: &str| std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(path)).unwrap();
    for (path, parts) in [
        ("weights/newer.safetensors", ["fmnist-gpu 2", "use the version that wrote it"]),
        ("weights/nan.safetensors", ["dense_1.", "NaN at position 0"]),
        ("weights/half-infinite.safetensors", ["dense_1.", "inf at position 0"]),
        ("weights/path.safetensors", ["../../etc/x", "its name is a path"]),
        ("weights/tensor-with-a-path.safetensors", ["`../dense_1.", "belongs to no layer"]),
        ("weights/input-of-another-size.safetensors", ["`input` is", "[28, 28, 1]"]),
    ] {
        let said = weights::from_bytes(&read(path)).unwrap_err().to_string();
        assert!(parts.iter().all(|part| said.contains(part)), "{path}: {said}");
    }
    for (path, part) in [
        ("checkpoint/cut.safetensors", ""),
        ("checkpoint/no-batch.safetensors", "batch_size is 0"),
        ("checkpoint/sums-overflow.safetensors", "train_images is 18446744073709551615"),
        ("checkpoint/past-the-end.safetensors", "of an epoch of 4 batches"),
        ("checkpoint/odd-tiles.safetensors", "the shaders do not support"),
    ] {
        let said = Checkpoint::from_bytes(&read(path)).unwrap_err().to_string();
        assert!(said.contains(part), "{path}: {said}");
    }
    for (path, part) in [
        ("model_file/huge-dense.toml", "more than 4294967295 elements"),
        ("model_file/other-input.toml", "`input` is"),
        ("model_file/path.toml", "its name is a path"),
    ] {
        let text = String::from_utf8(read(path)).unwrap();
        let said = fmnist_gpu::model::ModelFile::parse(Path::new(path), &text).unwrap_err().to_string();
        assert!(said.contains(part), "{path}: {said}");
    }
    let said = Metrics::parse(&read("run_folder/metrics-of-no-class")[1..], &FASHION_MNIST).unwrap_err();
    assert!(said.contains("0 classes"), "{said}");
    let said = fmnist_gpu::photo::Photo::decode(&read("photo/huge.bmp"), "huge.bmp").unwrap_err().to_string();
    assert!(said.contains("32768 x 32768 pixels would take"), "{said}");
}

/// A palette that ends within a colour: refused, as the decoder would panic.
#[test]
fn a_png_file_with_a_broken_palette_is_refused() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/findings/photo/png-palette-of-47-bytes.png");
    let mut bytes = std::fs::read(path).unwrap();
    for size in [1, 2, 4, 46, 47, 767, 769, 771] {
        // Behind the signature of 8 bytes and the header of 25.
        bytes[33..37].copy_from_slice(&u32::to_be_bytes(size));
        let said = fmnist_gpu::photo::Photo::decode(&bytes, "p.png").unwrap_err().to_string();
        assert!(said.contains("its palette does not have"), "{size}: {said}");
    }
}

/// Metadata of 4 GiB in a file of 180 bytes: refused, before memory is taken for it.
#[test]
fn a_webp_file_whose_parts_reach_past_its_end_is_refused() {
    for path in files("findings", "photo").iter().filter(|path| path.extension().is_some_and(|end| end == "webp")) {
        let said = fmnist_gpu::photo::Photo::open(path).unwrap_err().to_string();
        assert!(said.contains("extend past the end of the file"), "{said}");
    }
    assert!(files("findings", "photo").len() >= 2);
}
