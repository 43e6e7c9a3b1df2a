use crate::support::broken_off::{TRAIN, outcome, spawn, whole};
use crate::support::program::{Place, Ran, json_file};
use crate::support::{gpu, not_run};
use fmnist_gpu::data::{FASHION_MNIST, Split};
use fmnist_gpu::engine::{GpuEngine, Optimizer};
use fmnist_gpu::model::{Model, initial_parameters};
use fmnist_gpu::ops::adam::AdamConfig;
use pollster::FutureExt as _;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The same command with what a shell does before it.
fn limited(command: &Command, first: &str) -> Command {
    let mut limited = Command::new("bash");
    limited.arg("-c").arg(format!("{first}; exec \"$0\" \"$@\"")).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(key, value),
            None => limited.env_remove(key),
        };
    }
    limited.current_dir(command.get_current_dir().unwrap());
    limited
}

/// What went bad, where, and the weights from before it.
#[test]
fn a_number_that_is_not_finite_is_traced_to_the_tensor_that_went_bad_first() {
    gpu();
    let place = Place::new();
    let line = "train --model mlp --dataset synthetic --train-limit 640 --epochs 3 --optimizer sgd --no-report --quiet";
    for (device, written) in [("auto", "`dense_forward"), ("reference", "`dense`")] {
        let run = format!("run-{device}");
        let ran = place.run(&format!("{line} --learning-rate 1e30 --out {run} --device {device}")).exits(1);
        let ran =
            ran.says(&["not finite", "in epoch 1, step ", "The first tensor that went bad is `", written, "index "]);
        assert!(ran.err.contains(&run), "{}", ran.err);
        assert_eq!(json_file(&place.path(&run).join("summary.json"))["status"], "non-finite loss");
        let (_, weights) =
            fmnist_gpu::model::weights::from_bytes(&fs::read(place.path(&run).join("model.safetensors")).unwrap())
                .unwrap();
        assert!(weights.iter().flatten().all(|w| w.is_finite()), "the weights kept are not finite");
    }
    // After a good epoch its checkpoint stays, and opens.
    place.run(&format!("{} --out good", line.replace("--epochs 3", "--epochs 1"))).exits(0);
    place.run("train --resume good --epochs 2 --no-report --quiet").exits(0);
}

/// The same on an adapter so slow that a step goes out dispatch by dispatch: the search does too.
#[test]
fn a_number_that_is_not_finite_is_traced_on_a_slow_adapter() {
    let gpu = gpu();
    let place = Place::new();
    let line = "train --model cnn --dataset synthetic --train-limit 2048 --batch-size 1024 --epochs 1 --optimizer sgd \
                --learning-rate 1e30 --no-report --quiet --out run";
    let output = place.command(line).env("RUST_LOG", "fmnist_gpu=debug").output().unwrap();
    let ran = Ran::new(output, line).exits(1).says(&["not finite", "The first tensor that went bad is `", "in step 2"]);
    if gpu.is_software() {
        ran.says(&["dispatch by dispatch"]);
    }
}

/// A full disk: said at once, training goes on, the weights are saved where they fit, and the checkpoint from before still opens.
#[test]
fn a_full_disk_loses_nothing_that_was_there() {
    gpu();
    if cfg!(not(unix)) {
        return not_run("full disk", "there is no `ulimit`", "FMNIST_EXPECT_ULIMIT");
    }
    let place = Place::new();
    place.run(&format!("{} --out run", TRAIN.replace("--epochs 4", "--epochs 1"))).exits(0);
    let before: Vec<PathBuf> =
        fs::read_dir(place.path("run/checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    // No file may have more than 600 KB: the weights (407 KB) fit, a checkpoint (1.2 MB) does not.
    let mut command =
        limited(&place.command("train --resume run --epochs 2 --no-report"), "trap '' XFSZ; ulimit -f 600");
    // The driver's cache would be cut off too, and is not what is tested.
    command.env("MESA_SHADER_CACHE_DISABLE", "true");
    let ran = Ran::new(command.output().unwrap(), "train --resume run, no room").exits(2);
    let ran =
        ran.says(&["could not be written", "training continues", "not all results of the training could be written"]);
    assert!(ran.err.contains("Epoch 2/2"), "{}", ran.err);
    assert!(before.iter().all(|path| path.exists()), "the checkpoint from before is gone");
    let names = fs::read_dir(place.path("run/checkpoints")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().ends_with(".part")), "half a file stayed");
    place.run("evaluate run --quiet").exits(0);
    place.run("train --resume run --epochs 2 --no-report --quiet").exits(0);
}

/// The run folder is removed while training: an error, and the weights are elsewhere.
#[test]
fn a_run_folder_that_vanishes_costs_no_weights() {
    gpu();
    if cfg!(not(unix)) {
        return not_run("vanished folder", "open folders cannot be removed here", "FMNIST_EXPECT_REMOVAL");
    }
    let place = Place::new();
    let child = spawn(&place, &format!("{TRAIN} --out run"));
    let begin = Instant::now();
    while !place.path("run/checkpoints").exists() && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(2));
    }
    // It may be writing into the folder right now.
    while place.path("run").exists() {
        let _ = fs::remove_dir_all(place.path("run"));
    }
    let ran = Ran::new(child.wait_with_output().unwrap(), TRAIN)
        .exits(2)
        .says(&["training continues", "the trained weights are in "]);
    let path = ran.err.rsplit("the trained weights are in ").next().unwrap().split_whitespace().next().unwrap();
    let path = path.trim_end_matches([';', ':']).to_string();
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(fmnist_gpu::model::weights::from_bytes(&bytes).is_ok());
    assert!(!place.path("run").exists(), "half a run folder came back");
}

/// A folder that cannot be written to is said before any work is done.
#[test]
fn a_folder_that_cannot_be_written_is_said_at_once() {
    let place = Place::new();
    fs::write(place.path("file"), "a file").unwrap();
    place.run(&format!("{TRAIN} --out file/run")).exits(2).says(&["cannot create the run folder file/run"]);
    if cfg!(target_os = "linux") {
        place.run(&format!("{TRAIN} --out /proc/run")).exits(2).says(&["cannot create the run folder /proc/run"]);
    }
    fs::create_dir(place.path("closed")).unwrap();
    let mut permissions = fs::metadata(place.path("closed")).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(place.path("closed"), permissions).unwrap();
    if fs::write(place.path("closed/probe"), "").is_ok() {
        return not_run("read-only folder", "this user may write to any folder", "FMNIST_EXPECT_READ_ONLY");
    }
    place.run(&format!("{TRAIN} --out closed/run")).exits(2).says(&["cannot create the run folder closed/run"]);
    place.run(&format!("{TRAIN} --out closed")).exits(2).says(&["closed"]);
}

/// Files in a run folder that are none: a pipe would block for ever, a device would never end, a file may be larger than any model.
#[test]
fn a_run_of_pipes_and_endless_files_is_refused() {
    if cfg!(not(target_os = "linux")) {
        return not_run("endless files", "there is no /dev/zero", "FMNIST_EXPECT_DEVICES");
    }
    let place = Place::new();
    for name in ["pipe", "endless", "large", "config"] {
        fs::create_dir(place.path(name)).unwrap();
    }
    let status = Command::new("mkfifo").arg(place.path("pipe/model.safetensors")).status().unwrap();
    assert!(status.success());
    std::os::unix::fs::symlink("/dev/zero", place.path("endless/model.safetensors")).unwrap();
    // Takes no room on the disk.
    fs::File::create(place.path("large/model.safetensors")).unwrap().set_len(1 << 40).unwrap();
    let model = Model::mlp();
    let weights = initial_parameters(&model.parameters().unwrap(), 1);
    fs::write(place.path("config/model.safetensors"), fmnist_gpu::model::weights::to_bytes(&model, &weights).unwrap())
        .unwrap();
    std::os::unix::fs::symlink("/dev/zero", place.path("config/config.json")).unwrap();
    for (run, part) in [
        ("pipe", "not a regular file"),
        ("endless", "not a regular file"),
        ("large", "1099511627776 bytes or more"),
        ("config", "not a regular file"),
    ] {
        place.run(&format!("evaluate {run} --dataset synthetic --quiet")).exits(2).says(&[part]);
    }
    std::os::unix::fs::symlink("/dev/zero", place.path("model.toml")).unwrap();
    let ran = place.run("summary --model model.toml").exits(2).says(&["not a regular file"]);
    assert_eq!(ran.err.matches("not a regular file").count(), 1, "a cause is said twice: {}", ran.err);
    place.run("filter --show-steps --kernel /dev/zero --device reference").exits(2).says(&["not a regular file"]);
}

/// The same for the other files of a run, and for files to write: nothing waits for the other end of a pipe, and only files are overwritten.
#[test]
#[cfg(unix)]
fn pipes_and_devices_are_neither_waited_for_nor_replaced() {
    let place = crate::output::place();
    let pipe = |name: &str| {
        let path = place.path(name);
        let _ = fs::remove_file(&path);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    };
    let runs =
        "train --model tiny.toml --dataset synthetic --train-limit 40 --epochs 1 --device cpu --no-report --quiet";
    let lock = pipe("run/.lock");
    place.run("train --resume run").exits(2).says(&[".lock", "not a regular file"]);
    place.run(&format!("{runs} --force --out run")).exits(2).says(&[".lock", "not a regular file"]);
    fs::remove_file(lock).unwrap();
    for (name, line) in [
        ("summary.json", "export run --format npz --out new.npz"),
        ("summary.json", "report run --device cpu --out new"),
        ("summary.json", "compare run run"),
        ("history.jsonl", "report run --device cpu --out new"),
        ("config.json", "evaluate run --device cpu"),
        ("config.json", "train --resume run"),
        ("model.safetensors", "predict run --device cpu"),
    ] {
        let kept = fs::read(place.path("run").join(name)).unwrap();
        let path = pipe(&format!("run/{name}"));
        place.run(line).exits(2).says(&[name, "not a regular file"]);
        fs::remove_file(&path).unwrap();
        if cfg!(target_os = "linux") {
            std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
            place.run(line).exits(2).says(&[name, "not a regular file"]);
            fs::remove_file(&path).unwrap();
        }
        fs::write(path, kept).unwrap();
    }
    // What is to be written.
    assert!(Command::new("cp").arg("-r").args([place.path("run"), place.path("other")]).status().unwrap().success());
    for line in [
        "export run --format npz --out pipe --force",
        "samples --dataset synthetic --grid pipe --force",
        "filter photo.png --device cpu --out pipe --force",
        "compare run other --out pipe --force",
        "predict run photo.png --device cpu --grid pipe --force",
    ] {
        pipe("pipe");
        place.run(line).exits(2).says(&["pipe is not a regular file"]);
        use std::os::unix::fs::FileTypeExt;
        assert!(fs::metadata(place.path("pipe")).unwrap().file_type().is_fifo(), "{line}: replaced");
    }
    // A link is followed: the file behind it is written, and the link stays.
    std::os::unix::fs::symlink("target.npz", place.path("link.npz")).unwrap();
    place.run("export run --format npz --out link.npz --force").exits(2).says(&["link.npz is not a regular file"]);
    fs::write(place.path("target.npz"), "").unwrap();
    place.run("export run --format npz --out link.npz --force").exits(0);
    assert!(fs::symlink_metadata(place.path("link.npz")).unwrap().is_symlink());
    assert!(fs::metadata(place.path("target.npz")).unwrap().len() > 1000);
}

/// An observer that fails (the history, its table, the event files, the best weights) costs nothing but what it would have written.
#[test]
fn each_file_fails_by_itself() {
    let place = crate::output::place();
    let train = format!("{} --tensorboard --quiet", crate::output::TRAIN);
    place.run(&format!("{train} --out whole")).exits(0);
    let whole = |name: &str| fs::read(place.path("whole").join(name)).unwrap();
    for name in [
        "history.csv",
        "history.jsonl",
        "best.safetensors",
        "tensorboard",
        "report.html",
        "summary.json",
        "samples.png",
    ] {
        let run = format!("without-{name}");
        fs::create_dir(place.path(&run)).unwrap();
        // A folder that is not empty in the place of a file, and a file in the place of a folder, cannot be replaced.
        match name {
            "tensorboard" => fs::write(place.path(&run).join(name), "").unwrap(),
            _ => fs::create_dir_all(place.path(&run).join(name).join("inside")).unwrap(),
        }
        let ran = place.run(&format!("{train} --force --out {run}")).exits(2);
        ran.says(&[name, "training continues", "not all results of the training could be written"]);
        for other in [
            "model.safetensors",
            "best.safetensors",
            "checkpoints/step-000000000016.safetensors",
            "history.csv",
            "predictions.png",
        ] {
            if other != name {
                let path = place.path(&run).join(other);
                let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{name} took {other} with it: {error}"));
                // Others hold times.
                assert!(
                    !other.contains("model") && !other.contains("best") || bytes == whole(other),
                    "{name}: {other}"
                );
            }
        }
    }
}

/// Without threads the work is done in the one that there is; where a library needs one, the error says so.
#[test]
fn a_system_without_threads_to_spare_is_an_error_at_worst() {
    let has = |tool: &str| Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if cfg!(not(target_os = "linux")) || !has("prlimit") || !has("setpriv") {
        return not_run("no threads", "there is no `prlimit` and `setpriv`", "FMNIST_EXPECT_PRLIMIT");
    }
    let place = crate::output::place();
    // The superuser has no limit, and another user may not read the program where it was built.
    let is_root = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap()) == 0;
    let program = place.path("program");
    fs::copy(env!("CARGO_BIN_EXE_fmnist-gpu"), &program).unwrap();
    let open = |path: PathBuf, mode| {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    open(place.path(""), 0o777);
    for file in ["program", "run", "tiny.toml"] {
        open(place.path(file), 0o777);
    }
    let mut trained = 0;
    for threads in [1, 2, 3, 4, 5, 6, 8, 12] {
        for line in [format!("{} --out new-{threads} --quiet", crate::output::TRAIN), "predict run --device cpu".into()]
        {
            let surroundings = place.command("");
            let mut command = Command::new("setpriv");
            if is_root {
                command.args(["--reuid", "65533", "--clear-groups"]);
            }
            command.args(["prlimit", &format!("--nproc={threads}")]).arg(&program).args(line.split_whitespace());
            for (key, value) in surroundings.get_envs() {
                match value {
                    Some(value) => command.env(key, value),
                    None => command.env_remove(key),
                };
            }
            let ran = Ran::new(command.current_dir(place.path("")).output().unwrap(), &line);
            assert!(matches!(ran.code(), Some(0 | 2)), "{threads} threads: {line}: {:?} {}", ran.code(), ran.err);
            assert!(ran.code() == Some(0) || ran.err.contains("thread"), "{threads} threads: {line}: {}", ran.err);
            trained += i32::from(ran.code() == Some(0));
        }
    }
    assert!(trained >= 4, "{trained}");
}

/// Memory that runs out anywhere: an error, not the end of the process by a signal.
#[test]
fn little_memory_is_an_error_at_worst() {
    if cfg!(not(target_os = "linux")) {
        return not_run("little memory", "there is no `ulimit -v`", "FMNIST_EXPECT_ULIMIT");
    }
    let place = crate::output::place();
    // A photo of 121 megapixels, whose decoded pixels need 484 MB.
    let side = 11_000;
    let mut encoder = png::Encoder::new(fs::File::create(place.path("large.png")).unwrap(), side, side);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header().unwrap().write_image_data(&vec![200; (side * side) as usize]).unwrap();
    let mut done = 0;
    for megabytes in [30, 50, 60, 70, 80, 100, 130, 160, 200, 250, 300, 400, 600] {
        for line in [
            &format!("{} --out new --force --quiet --no-report", crate::output::TRAIN),
            "predict run large.png --device cpu",
            "predict run --device cpu --test-index 0..10000,0..10000,0..10000,0..10000",
        ] {
            let mut command = limited(&place.command(line), &format!("ulimit -v {megabytes}000"));
            let ran = Ran::new(command.output().unwrap(), line);
            assert!(matches!(ran.code(), Some(0 | 2)), "{megabytes} MB: {line}: {:?} {}", ran.code(), ran.err);
            assert!(!ran.err.contains("panicked"), "{megabytes} MB: {line}: {}", ran.err);
            done += i32::from(ran.code() == Some(0));
        }
    }
    assert!(done >= 6, "{done}");
}

/// A file that grows past the limit of the process: an error of that write, not a silent end by SIGXFSZ.
#[test]
fn a_limit_on_the_size_of_files_is_an_error_of_that_file() {
    if cfg!(not(unix)) {
        return not_run("file size limit", "there is no `ulimit`", "FMNIST_EXPECT_ULIMIT");
    }
    let place = crate::output::place();
    // The weights (31 KB) fit, a checkpoint (94 KB) does not.
    let line = format!("{} --out limited --no-report --quiet", crate::output::TRAIN);
    let ran = Ran::new(limited(&place.command(&line), "ulimit -f 60").output().unwrap(), &line).exits(2);
    ran.says(&["could not be written", "training continues"]);
    place.run("evaluate limited --device cpu --quiet").exits(0);
}

/// A device that is lost in the middle: what was running, the last checkpoint, how to go on; with `--retry-device` it goes on by
/// itself. The weights are those of a training that lost nothing.
#[test]
fn a_lost_device_costs_what_came_after_the_last_checkpoint_and_no_more() {
    gpu();
    let place = Place::new();
    // So short that the fastest GPU pauses before it is lost.
    let lose = format!("{TRAIN} --checkpoint-minutes 0.0001 --lose-device-after 300");
    place.run(&format!("{lose} --out run")).exits(2).says(&[
        "was lost",
        "training stopped in epoch 1, after ",
        "the last checkpoint is run/checkpoints/step-",
        "resume with: fmnist-gpu train --resume run",
        &gpu().info().name,
    ]);
    place.run("train --resume run --no-report --quiet").exits(0);
    assert!(outcome(&place, "run") == *whole());
    place.run(&format!("{lose} --retry-device --out again")).exits(0).says(&["was lost", "opening the device again"]);
    assert!(outcome(&place, "again") == *whole());
    // Before any checkpoint it begins anew.
    let early = TRAIN.replace("--quiet", "--quiet --lose-device-after 1 --retry-device --checkpoint-every 0");
    place.run(&format!("{early} --out early")).exits(0).says(&["opening the device again"]);
    assert!(outcome(&place, "early") == *whole());
}

/// An adapter that is away for a while after its device was lost, as while a driver is reset: it is waited for.
#[test]
fn an_adapter_that_is_away_is_waited_for() {
    let gpu = gpu();
    let places = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
    let manifests: Vec<PathBuf> = places
        .iter()
        .flat_map(|folder| fs::read_dir(folder).into_iter().flatten())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    if gpu.info().backend != "vulkan" || manifests.is_empty() {
        return not_run(
            "adapter away",
            "no Vulkan driver is registered in the usual places",
            "FMNIST_EXPECT_MANIFESTS",
        );
    }
    let place = Place::new();
    fs::create_dir(place.path("drivers")).unwrap();
    for path in &manifests {
        fs::copy(path, place.path("drivers").join(path.file_name().unwrap())).unwrap();
    }
    let copies: Vec<String> =
        manifests.iter().map(|path| format!("drivers/{}", path.file_name().unwrap().display())).collect();
    // So many steps that the drivers leave before the device is lost, on the fastest GPU too.
    let train = TRAIN.replace("--train-limit 2000", "--train-limit 20000").replace("--epochs 4", "--epochs 1");
    place.run(&format!("{train} --out whole")).exits(0);
    let line = format!("{train} --lose-device-after 3900 --checkpoint-minutes 0.001 --retry-device --out run");
    let mut command = place.command(&line);
    for name in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
        command.env(name, copies.join(":"));
    }
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let begin = Instant::now();
    while !place.path("run/config.json").exists() && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    fs::rename(place.path("drivers"), place.path("away")).unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut heard = String::new();
    // Once as the device is lost, once as there is no adapter.
    while heard.matches("opening the device again").count() < 2 && said.read_line(&mut heard).unwrap() > 0 {}
    assert!(heard.contains("was lost") && heard.contains("no graphics adapter"), "{heard}");
    fs::rename(place.path("away"), place.path("drivers")).unwrap();
    said.read_to_string(&mut heard).unwrap();
    assert!(child.wait().unwrap().success(), "{heard}");
    assert_eq!(heard.matches("opening the device again").count(), 2, "{heard}");
    assert!(outcome(&place, "run") == outcome(&place, "whole"));
}

/// A batch that would keep the adapter busy for too long at once is found without trying it.
#[test]
fn the_largest_batch_that_no_watchdog_ends_is_measured() {
    let gpu = gpu();
    let optimizer = Optimizer::Adam(AdamConfig::default());
    let largest = |model: &Model, batch_size: usize, milliseconds: f64| {
        let allowed = Duration::from_secs_f64(1e-3 * milliseconds);
        GpuEngine::largest_timely_batch(gpu, model, batch_size, &optimizer.into(), allowed).block_on().unwrap()
    };
    let model = Model::cnn();
    // What any adapter does is not measured.
    assert_eq!(largest(&model, 32, 1000.0), 32);
    assert_eq!(largest(&Model::mlp(), 32_768, 1000.0), 32_768);
    // Far too short for any, and never below one image.
    assert_eq!(largest(&model, 4096, 1e-6), 1);
    let allowed = 20.0;
    let found = largest(&model, 32_768, allowed);
    assert!(found < 32_768 || !gpu.is_software(), "{found}");
    // A tenth of the time is enough for fewer images.
    let fewer = largest(&model, 32_768, 0.1 * allowed);
    assert!(found == 32_768 || found > fewer, "{found} in {allowed} ms, {fewer} in a tenth of them");
    let n = found.min(4096);
    let split = Split { images: vec![0; 4 * n * FASHION_MNIST.pixels()], labels: vec![0; 4 * n] };
    let initial = initial_parameters(&model.parameters().unwrap(), 0);
    let engine = GpuEngine::new(gpu, &model, &initial).unwrap().and_training(&split, n, &optimizer).block_on().unwrap();
    let times = engine.steps().unwrap().time(3, 1).block_on().unwrap().seconds;
    let fastest = times.iter().map(|rounds| rounds.iter().copied().fold(f64::INFINITY, f64::min));
    let longest = 1e3 * fastest.fold(0.0, f64::max);
    // The machine may be shared, and a batch a little over is no harm: the bound is half of what a driver allows.
    assert!(longest < 3.0 * allowed, "{n} images were to take {allowed} ms and took {longest:.1}");
}

/// A batch that no binding of the adapter can hold: said before training, with the largest that fits.
#[test]
fn a_batch_too_large_for_the_adapter_is_refused_with_the_largest_that_fits() {
    let gpu = gpu();
    let place = Place::new();
    let layers = "layers = [{ type = \"conv2d\", filters = 256, kernel_size = 1 }, { type = \"flatten\" }, \
                  { type = \"dense\", units = 10 }]";
    let wide = format!("name = \"wide\"\n{layers}");
    fs::write(place.path("wide.toml"), &wide).unwrap();
    let largest = GpuEngine::largest_batch(gpu, &toml::from_str(&wide).unwrap()).unwrap();
    let limits = gpu.limits();
    let allowed = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
    let bytes = 28 * 28 * 256 * 4;
    assert!(largest as u64 * bytes <= allowed && (largest as u64 + 1) * bytes > allowed, "{largest}, {allowed}");
    let line =
        format!("train --model wide.toml --dataset synthetic --train-limit 64 --epochs 1 --batch-size {}", largest + 1);
    place.run(&line).exits(2).says(&["does not fit this adapter", &format!("the largest that does is {largest}")]);
    assert!(!place.path("runs/wide-1").exists(), "a folder stayed of a run that never began");
}

/// Memory that runs out while the tensors of a batch are made, with as much as a small batch needs and little more.
#[test]
fn memory_that_runs_out_is_said_with_what_it_was_for() {
    let gpu = gpu();
    if cfg!(not(target_os = "linux")) || !gpu.is_software() {
        return not_run("memory that runs out", "that of this adapter cannot be made scarce", "FMNIST_EXPECT_SCARCITY");
    }
    let place = Place::new();
    let train = |megabytes: u32, batch_size: u32| {
        let line = format!(
            "train --model cnn --dataset synthetic --train-limit 64 --batch-size {batch_size} --epochs 1 --no-report --quiet \
             --out run --force"
        );
        limited(&place.command(&line), &format!("ulimit -v {megabytes}000")).output().unwrap()
    };
    let enough = (400..8000).step_by(100).find(|&megabytes| train(megabytes, 32).status.success());
    let enough = enough.expect("a small batch needs less than 8 GB");
    // A batch of 2,600 needs some 600 MB more. What is left below a refused buffer is up to chance, and where it is less
    // than the driver needs for itself, llvmpipe follows a null pointer: no program can say anything then.
    let limits = (enough..enough + 400).step_by(80);
    let told = limits.map(|megabytes| train(megabytes, 2600)).find(|output| output.status.code().is_some());
    Ran::new(told.expect("an end that is not a crash of the driver"), "train with little memory").exits(2).says(&[
        "ran out of memory while creating the buffer",
        "use a smaller batch size",
        &gpu.info().name,
    ]);
}

/// Layers of more parameters than one buffer can hold: said before memory is taken for them.
#[test]
fn a_model_too_large_is_refused_before_training() {
    let gpu = gpu();
    let place = Place::new();
    let dense = |units: u64| {
        format!(
            "name = \"large\"\nlayer = [{{ type = \"flatten\" }}, {{ type = \"dense\", units = {units} }}, \
             {{ type = \"dense\", units = 10 }}]"
        )
    };
    // 4 GB, beyond what any adapter is asked for.
    fs::write(place.path("vast.toml"), dense(1_300_000)).unwrap();
    place.run("train --model vast.toml --dataset synthetic").exits(2).says(&["`large`", "make its layers smaller"]);
    let allowed = gpu.limits().max_storage_buffer_binding_size.min(gpu.limits().max_buffer_size);
    if allowed >= 1 << 30 {
        return not_run("a model above the adapter's limit", "the limit is 1 GiB or more", "FMNIST_EXPECT_LIMIT");
    }
    fs::write(place.path("large.toml"), dense(allowed / 4 / 784)).unwrap();
    place
        .run("train --model large.toml --dataset synthetic --train-limit 64 --epochs 1")
        .exits(2)
        .says(&["the parameters of the model need", "make its layers smaller"]);
    assert!(!place.path("runs/large-1").exists(), "a folder stayed of a run that never began");
}
