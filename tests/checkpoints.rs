use crate::support::gpu;
use crate::support::program::{Place, Ran, json_file};
use fmnist_gpu::data::DatasetKind;
use fmnist_gpu::model::{Model, initial_parameters};
use fmnist_gpu::ops::adam::AdamConfig;
use fmnist_gpu::ops::sgd::SgdConfig;
use fmnist_gpu::train::checkpoint::{Checkpoint, CheckpointError, Checkpoints};
use fmnist_gpu::train::run::{RunConfig, RunError, RunFolder};
use fmnist_gpu::train::{EpochRecord, Optimizer, Position, State, Totals};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

fn checkpoint(optimizer: Optimizer, epochs: usize) -> Checkpoint {
    let model = Model::mlp();
    let parameters = initial_parameters(&model.parameters().unwrap(), 3);
    let slot = |factor: f32| parameters.iter().map(|p| p.iter().map(|v| v * factor).collect()).collect();
    let slots = (0..optimizer.slots().len()).map(|i| slot(0.1 + i as f32)).collect();
    let record = |epoch: usize| EpochRecord {
        epoch: epoch as u64,
        loss: 1.0 / 3.0,
        accuracy: 0.1 + 0.2,
        val_loss: (epoch > 1).then_some(0.7),
        val_accuracy: None,
        seconds: 1e-7,
        images_per_second: 12_345.678_901_234_567,
    };
    Checkpoint {
        config: RunConfig {
            version: "0".into(),
            model,
            dataset: DatasetKind::Synthetic,
            data_source: "test".into(),
            train_images: 100,
            validation_images: 0,
            seed: u64::MAX,
            epochs: 9,
            batch_size: 10,
            optimizer,
            device: "d".into(),
            driver: "v".into(),
            backend: "b".into(),
            safe: false,
            tiles: None,
        },
        position: Position {
            history: (1..=epochs).map(record).collect(),
            done: Totals { loss: 0.1 + 0.7, correct: 3, samples: 20, batches: 2 },
            seconds: 0.1,
        },
        state: State { parameters, slots },
    }
}

/// Every number comes back with every bit, and every changed or missing byte is found.
#[test]
fn checkpoints_come_back_whole_or_not_at_all() {
    for optimizer in
        [Optimizer::Adam(AdamConfig::default()), Optimizer::Sgd(SgdConfig { learning_rate: 0.1, momentum: 0.9 })]
    {
        let written = checkpoint(optimizer, 3);
        let bytes = written.to_bytes().unwrap();
        assert_eq!(Checkpoint::from_bytes(&bytes).unwrap(), written);
        assert!(written.to_bytes().unwrap() == bytes, "the same checkpoint gave another file");
        for at in (0..bytes.len()).step_by(bytes.len() / 301) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x04;
            assert!(Checkpoint::from_bytes(&damaged).is_err(), "byte {at} of {}", bytes.len());
        }
        for end in (0..bytes.len()).step_by(bytes.len() / 101) {
            assert!(Checkpoint::from_bytes(&bytes[..end]).is_err(), "cut at {end}");
        }
    }
    let text = |error: CheckpointError| error.to_string();
    assert!(text(Checkpoint::from_bytes(b"nonsense").unwrap_err()).contains("header"));
    let model = Model::mlp();
    let weights = initial_parameters(&model.parameters().unwrap(), 1);
    let other = fmnist_gpu::model::weights::to_bytes(&model, &weights).unwrap();
    assert!(
        matches!(Checkpoint::from_bytes(&other), Err(CheckpointError::Version { found }) if found == "fmnist-gpu 1")
    );
    let mut infinite = checkpoint(Optimizer::Adam(AdamConfig::default()), 0);
    infinite.state.slots[1][0][5] = f32::INFINITY;
    let error = text(Checkpoint::from_bytes(&infinite.to_bytes().unwrap()).unwrap_err());
    assert!(error.contains("not finite"), "{error}");
    let mut short = checkpoint(Optimizer::Adam(AdamConfig::default()), 0);
    short.state.parameters.pop();
    assert!(short.to_bytes().is_err());
}

#[test]
fn the_newest_whole_checkpoint_is_found_and_the_oldest_leave() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(folder.path(), 2);
    assert!(checkpoints.newest(&mut |_, _| panic!()).unwrap().is_none());
    let optimizer = Optimizer::Adam(AdamConfig::default());
    let paths: Vec<PathBuf> =
        (0..4).map(|epochs| checkpoints.write(&checkpoint(optimizer, epochs), 10).unwrap()).collect();
    assert_eq!(paths.iter().map(|path| path.exists()).collect::<Vec<_>>(), [false, false, true, true]);
    assert!(paths[3].ends_with("checkpoints/step-000000000032.safetensors"), "{:?}", paths[3]);
    fs::write(folder.path().join("checkpoints/notes.txt"), "kept").unwrap();
    let (path, found) = checkpoints.newest(&mut |_, _| panic!()).unwrap().unwrap();
    assert_eq!((path, found.position.history.len()), (paths[3].clone(), 3));
    let bytes = fs::read(&paths[3]).unwrap();
    fs::write(&paths[3], &bytes[..bytes.len() - 1]).unwrap();
    let mut damaged = Vec::new();
    let (path, _) = checkpoints.newest(&mut |path, _| damaged.push(path.to_path_buf())).unwrap().unwrap();
    assert_eq!((path, damaged), (paths[2].clone(), vec![paths[3].clone()]));
    checkpoints.clear().unwrap();
    assert!(checkpoints.newest(&mut |_, _| panic!()).unwrap().is_none());
    assert!(folder.path().join("checkpoints/notes.txt").exists());
}

const TRAIN: &str = "train --model mlp --dataset synthetic --train-limit 2000 --batch-size 4 --epochs 4 --validation-split 0.2 \
                     --seed 5 --no-report --quiet";

/// What must be equal after training, however often it was broken off: the weights, and all of the history but times.
fn outcome(place: &Place, run: &str) -> (Vec<u8>, Vec<u8>, Vec<Value>) {
    let file = |name: &str| fs::read(place.path(run).join(name)).unwrap();
    let mut history: Vec<Value> = String::from_utf8(file("history.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for record in &mut history {
        for time in ["seconds", "images_per_second"] {
            assert!(record.as_object_mut().unwrap().remove(time).is_some());
        }
    }
    (file("model.safetensors"), file("best.safetensors"), history)
}

fn spawn(place: &Place, line: &str) -> Child {
    place.command(line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A real training, killed at random moments and resumed, ends with the very bits of one that ran through.
///
/// Eight kills, or as many as `FMNIST_TEST_KILLS` says.
#[test]
fn a_training_killed_at_random_moments_ends_with_the_same_bits() {
    gpu();
    let kills: u32 = std::env::var("FMNIST_TEST_KILLS").ok().map_or(8, |kills| kills.parse().unwrap());
    let place = Place::new();
    place.run(&format!("{TRAIN} --out whole")).exits(0);
    let whole = outcome(&place, "whole");
    let mut random = 0x2545_f491_4f6c_dd1du64;
    let mut killed = 0;
    let mut rounds = 0;
    while killed < kills {
        rounds += 1;
        let run = format!("broken-{rounds}");
        // Before the first checkpoint there is nothing to resume: then it begins anew.
        let begin = format!("{TRAIN} --checkpoint-minutes 0.002 --out {run} --force");
        let resume = format!("train --resume {run} --checkpoint-minutes 0.002 --no-report --quiet");
        loop {
            let has_checkpoint = fs::read_dir(place.path(&run).join("checkpoints"))
                .is_ok_and(|entries| entries.flatten().any(|e| e.file_name().to_string_lossy().starts_with("step-")));
            let mut child = spawn(&place, if has_checkpoint { &resume } else { &begin });
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let moment = Instant::now() + Duration::from_millis(300 + random % 2500);
            while Instant::now() < moment && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(3));
            }
            if child.try_wait().unwrap().is_some() || killed >= kills {
                let ran = Ran::new(child.wait_with_output().unwrap(), &resume).exits(0);
                assert!(!ran.err.contains("is not used"), "a damaged checkpoint: {}", ran.err);
                break;
            }
            // SIGKILL on Unix.
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
        }
        assert!(outcome(&place, &run) == whole, "{run}, after {killed} kills, differs from the run that ran through");
        let left: Vec<String> = fs::read_dir(place.path(&run))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with('.'))
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
    eprintln!("{killed} kills in {rounds} trainings, the same bits each time");
}

#[test]
fn an_interrupted_training_goes_on_exactly() {
    gpu();
    let place = Place::new();
    place.run(&format!("{TRAIN} --out whole")).exits(0);
    if cfg!(unix) {
        let child = spawn(&place, &format!("{TRAIN} --out run"));
        // Once the first epoch is over, in the middle of a later one.
        let begin = Instant::now();
        while !place.path("run/checkpoints").exists() && begin.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(2));
        }
        let pid = child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(json_file(&place.path("run/summary.json"))["status"], "interrupted");
        place.run("evaluate run --quiet").exits(0);
    } else {
        place.run(&format!("{} --out run", TRAIN.replace("--epochs 4", "--epochs 2"))).exits(0);
    }
    // What differs is refused, by name, before anything is touched.
    let before = fs::read(place.path("run/config.json")).unwrap();
    for (flags, parts) in [
        ("--batch-size 8", vec!["--batch-size is 8", "begun with 4"]),
        ("--seed 6", vec!["--seed is 6", "begun with 5"]),
        ("--model cnn", vec!["--model is cnn", "`mlp`"]),
        ("--learning-rate 0.5", vec!["--learning-rate is 0.5", "0.001"]),
        ("--optimizer sgd", vec!["--optimizer", "adam"]),
        ("--train-limit 100", vec!["--train-limit is 100", "2000"]),
        ("--validation-split 0.5", vec!["--validation-split is 0.5", "400 of 2000"]),
        ("--epochs 0", vec!["--epochs is 0", "done already"]),
        ("--out other", vec!["--out", "--resume"]),
        ("--checkpoint-minutes 0", vec!["--checkpoint-minutes is 0"]),
    ] {
        place.run(&format!("train --resume run {flags}")).exits(2).says(&parts);
    }
    assert!(fs::read(place.path("run/config.json")).unwrap() == before);
    // The same said again is no difference.
    let same = "--batch-size 4 --seed 5 --model mlp --train-limit 2000 --validation-split 0.2 --epochs 4";
    let ran = place
        .run(&format!("train --resume run {same} --no-report"))
        .exits(0)
        .says(&["Going on from run/checkpoints/step-"]);
    assert!(!ran.err.contains("Note:"), "{}", ran.err);
    assert!(outcome(&place, "run") == outcome(&place, "whole"));
    // A run that is complete has nothing to do, and may be asked for more.
    place.run("train --resume run --no-report --quiet").exits(0);
    assert!(outcome(&place, "run") == outcome(&place, "whole"));
    place.run("train --resume run --no-report --quiet --epochs 5").exits(0);
    let (_, _, history) = outcome(&place, "run");
    assert_eq!(history.len(), 5);
    // A configuration that was changed by hand since.
    let text = fs::read_to_string(place.path("run/config.json")).unwrap();
    let changed = text.replace("\"batch_size\": 4", "\"batch_size\": 8");
    assert_ne!(text, changed);
    for (content, parts) in [
        (changed, vec!["`batch_size` is 8 in run/config.json", "4 in the checkpoint"]),
        (text.replace("\"seed\": 5", "\"seed\": 50"), vec!["`seed` is 50"]),
        ("{".to_string(), vec!["run/config.json", "not a run configuration"]),
    ] {
        fs::write(place.path("run/config.json"), content).unwrap();
        place.run("train --resume run --no-report").exits(2).says(&parts);
    }
    fs::remove_file(place.path("run/config.json")).unwrap();
    place.run("train --resume run --no-report --quiet").exits(0);
    place.run("train --resume missing").exits(2).says(&["missing", "no such folder"]);
    fs::create_dir(place.path("empty")).unwrap();
    place.run("train --resume empty").exits(2).says(&["empty has no checkpoint"]);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_with_a_word() {
    gpu();
    let place = Place::new();
    place.run(&format!("{TRAIN} --out whole")).exits(0);
    place.run(&format!("{} --out run --keep 3", TRAIN.replace("--epochs 4", "--epochs 3"))).exits(0);
    let mut files: Vec<PathBuf> =
        fs::read_dir(place.path("run/checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 3);
    let bytes = fs::read(&files[2]).unwrap();
    fs::write(&files[2], &bytes[..bytes.len() / 2]).unwrap();
    let mut changed = fs::read(&files[1]).unwrap();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    fs::write(&files[1], changed).unwrap();
    place.run("train --resume run --epochs 4 --no-report").exits(0).says(&[
        "step-000000001200.safetensors is not used",
        "step-000000000800.safetensors is not used",
        "digest",
        "1 epochs done",
    ]);
    assert!(outcome(&place, "run") == outcome(&place, "whole"));
}

#[test]
fn two_trainings_do_not_share_a_folder() {
    gpu();
    let place = Place::new();
    let mut first = spawn(&place, &format!("{} --out run", TRAIN.replace("--epochs 4", "--epochs 400")));
    let begin = Instant::now();
    while !place.path("run/config.json").exists() && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    place.run(&format!("{TRAIN} --out run --force")).exits(2).says(&["another training writes into run"]);
    place.run("train --resume run").exits(2).says(&["another training writes into run"]);
    first.kill().unwrap();
    first.wait().unwrap();
    // The lock of a process that is gone is none.
    place.run(&format!("{TRAIN} --out run --force")).exits(0);
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

/// A full disk: said at once, training goes on, the weights are saved where they fit, and the checkpoint from before still opens.
#[test]
fn a_full_disk_loses_nothing_that_was_there() {
    gpu();
    if cfg!(not(unix)) {
        return crate::support::not_run("full disk", "there is no `ulimit`", "FMNIST_EXPECT_ULIMIT");
    }
    let place = Place::new();
    place.run(&format!("{} --out run", TRAIN.replace("--epochs 4", "--epochs 1"))).exits(0);
    let before: Vec<PathBuf> =
        fs::read_dir(place.path("run/checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    // No file may have more than 600 KB: the weights (407 KB) fit, a checkpoint (1.2 MB) does not.
    let program = env!("CARGO_BIN_EXE_fmnist-gpu");
    let script = format!("trap '' XFSZ; ulimit -f 1200; exec {program} train --resume run --epochs 2 --no-report");
    let mut command = std::process::Command::new("bash");
    let surroundings = place.command("");
    command.args(["-c", &script.replace("ulimit -f 1200", "ulimit -f 600")]).current_dir(place.path(""));
    for (key, value) in surroundings.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    // The driver's cache would be cut off too, and is not what is tested.
    command.env("MESA_SHADER_CACHE_DISABLE", "true");
    let ran = Ran::new(command.output().unwrap(), "train --resume run, no room").exits(2);
    let ran = ran.says(&["could not be written", "training goes on", "the weights reached are saved"]);
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
        return crate::support::not_run(
            "vanished folder",
            "open folders cannot be removed here",
            "FMNIST_EXPECT_REMOVAL",
        );
    }
    let place = Place::new();
    let child = spawn(&place, &format!("{TRAIN} --out run"));
    let begin = Instant::now();
    while !place.path("run/checkpoints").exists() && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(2));
    }
    fs::remove_dir_all(place.path("run")).unwrap();
    let ran = Ran::new(child.wait_with_output().unwrap(), TRAIN)
        .exits(2)
        .says(&["training goes on", "the trained weights are in "]);
    let path =
        ran.err.rsplit("the trained weights are in ").next().unwrap().split_whitespace().next().unwrap().to_string();
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(fmnist_gpu::model::weights::from_bytes(&bytes).is_ok());
    assert!(!place.path("run").exists(), "half a run folder came back");
}

/// A device that is lost in the middle: what was running, the last checkpoint, how to go on; with `--retry-device` it goes on by
/// itself. The weights are those of a training that lost nothing.
#[test]
fn a_lost_device_costs_what_came_after_the_last_checkpoint_and_no_more() {
    gpu();
    let place = Place::new();
    place.run(&format!("{TRAIN} --out whole")).exits(0);
    // So short that the fastest GPU pauses before it is lost.
    let lose = format!("{TRAIN} --checkpoint-minutes 0.0001 --lose-device-after 300");
    place.run(&format!("{lose} --out run")).exits(2).says(&[
        "was lost",
        "training stopped in epoch 1, after ",
        "the last checkpoint is run/checkpoints/step-",
        "fmnist-gpu train --resume run",
        &gpu().info().name,
    ]);
    place.run("train --resume run --no-report --quiet").exits(0);
    assert!(outcome(&place, "run") == outcome(&place, "whole"));
    place.run(&format!("{lose} --retry-device --out again")).exits(0).says(&["was lost", "opening the device again"]);
    assert!(outcome(&place, "again") == outcome(&place, "whole"));
    // Before any checkpoint it begins anew.
    let early = TRAIN.replace("--quiet", "--quiet --lose-device-after 1 --retry-device --checkpoint-every 0");
    place.run(&format!("{early} --out early")).exits(0).says(&["opening the device again"]);
    assert!(outcome(&place, "early") == outcome(&place, "whole"));
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
    let largest = fmnist_gpu::train::GpuEngine::largest_batch(gpu, &toml::from_str(&wide).unwrap()).unwrap();
    let limits = gpu.limits();
    let allowed = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
    let bytes = 28 * 28 * 256 * 4;
    assert!(largest as u64 * bytes <= allowed && (largest as u64 + 1) * bytes > allowed, "{largest}, {allowed}");
    let line =
        format!("train --model wide.toml --dataset synthetic --train-limit 64 --epochs 1 --batch-size {}", largest + 1);
    place.run(&line).exits(2).says(&["does not fit this adapter", &format!("the largest that does is {largest}")]);
    assert!(!place.path("runs/wide-1").exists(), "a folder stayed of a run that never began");
}

/// Ctrl-C twice: the program leaves at once, and what was there before is whole.
#[test]
fn an_impatient_interruption_breaks_nothing() {
    gpu();
    if cfg!(not(unix)) {
        return crate::support::not_run("two interruptions", "there is no `kill`", "FMNIST_EXPECT_KILL");
    }
    let place = Place::new();
    place.run(&format!("{TRAIN} --out whole")).exits(0);
    for round in 0..5 {
        let run = format!("run-{round}");
        let child = spawn(&place, &format!("{TRAIN} --checkpoint-minutes 0.001 --out {run}"));
        let begin = Instant::now();
        let has_checkpoint = || {
            let files = fs::read_dir(place.path(&run).join("checkpoints")).into_iter().flatten().flatten();
            let mut names = files.map(|file| file.file_name().to_string_lossy().into_owned());
            names.any(|name| name.starts_with("step-") && name.ends_with(".safetensors"))
        };
        while !has_checkpoint() && begin.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(2));
        }
        let pid = child.id().to_string();
        std::thread::sleep(Duration::from_millis(37 * round));
        // The second goes out before the work in flight can be over, or a little later.
        let line = format!("kill -INT {pid}; sleep 0.00{round}; kill -INT {pid}");
        std::process::Command::new("sh").args(["-c", &line]).status().unwrap();
        let output = child.wait_with_output().unwrap();
        // A training that was over before the second signal is none of what is tested, and is as whole.
        assert!(
            matches!(output.status.code(), Some(130 | 0)),
            "{:?}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        place.run(&format!("train --resume {run} --no-report --quiet")).exits(0);
        assert!(outcome(&place, &run) == outcome(&place, "whole"), "round {round}");
    }
}

/// Threads that want the same folder, again and again: never two at once, and the lock leaves nothing behind.
#[test]
fn a_run_folder_has_one_writer_at_a_time() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let folder = tempfile::tempdir().unwrap();
    let (inside, entered) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while entered.load(Ordering::SeqCst) < 2000 {
                    match RunFolder::reopen(folder.path()) {
                        Ok(held) => {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two writers");
                            entered.fetch_add(1, Ordering::SeqCst);
                            std::thread::yield_now();
                            inside.fetch_sub(1, Ordering::SeqCst);
                            drop(held);
                        }
                        Err(error) => assert!(matches!(error, RunError::Locked { .. }), "{error}"),
                    }
                }
            });
        }
    });
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A folder that cannot be written to is said before any work is done.
#[test]
fn a_folder_that_cannot_be_written_is_said_at_once() {
    let place = Place::new();
    fs::write(place.path("file"), "a file").unwrap();
    place.run(&format!("{TRAIN} --out file/run")).exits(2).says(&["the run folder file/run could not be made"]);
    if cfg!(target_os = "linux") {
        place.run(&format!("{TRAIN} --out /proc/run")).exits(2).says(&["the run folder /proc/run could not be made"]);
    }
    fs::create_dir(place.path("closed")).unwrap();
    let mut permissions = fs::metadata(place.path("closed")).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(place.path("closed"), permissions).unwrap();
    if fs::write(place.path("closed/probe"), "").is_ok() {
        return crate::support::not_run(
            "read-only folder",
            "this user may write to any folder",
            "FMNIST_EXPECT_READ_ONLY",
        );
    }
    place.run(&format!("{TRAIN} --out closed/run")).exits(2).says(&["closed/run could not be made"]);
    place.run(&format!("{TRAIN} --out closed")).exits(2).says(&["closed"]);
}

/// Files in a run folder that are none: a pipe would block for ever, a device would never end, a file may be larger than any model.
#[test]
fn a_run_of_pipes_and_endless_files_is_refused() {
    if cfg!(not(target_os = "linux")) {
        return crate::support::not_run("endless files", "there is no /dev/zero", "FMNIST_EXPECT_DEVICES");
    }
    let place = Place::new();
    for name in ["pipe", "endless", "large", "config"] {
        fs::create_dir(place.path(name)).unwrap();
    }
    let status = std::process::Command::new("mkfifo").arg(place.path("pipe/model.safetensors")).status().unwrap();
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
        return crate::support::not_run(
            "a model above the adapter's limit",
            "the limit is 1 GiB or more",
            "FMNIST_EXPECT_LIMIT",
        );
    }
    fs::write(place.path("large.toml"), dense(allowed / 4 / 784)).unwrap();
    place
        .run("train --model large.toml --dataset synthetic --train-limit 64 --epochs 1")
        .exits(2)
        .says(&["the parameters of the model need", "make its layers smaller"]);
    assert!(!place.path("runs/large-1").exists(), "a folder stayed of a run that never began");
}

/// A run that was begun with `--data-dir` goes on without: the folder is known.
#[test]
fn a_resumed_training_finds_the_data_that_it_was_begun_with() {
    gpu();
    let Some(data) = crate::support::genuine_data() else { return };
    let place = Place::new();
    let data = data.canonicalize().unwrap();
    let begin = format!(
        "train --model mlp --train-limit 640 --epochs 1 --no-report --quiet --out run --data-dir {}",
        data.display()
    );
    place.run(&begin).exits(0);
    place.run("train --resume run --epochs 2 --no-report --quiet").exits(0);
    assert_eq!(json_file(&place.path("run/summary.json"))["dataset"], "fashion-mnist");
    assert_eq!(json_file(&place.path("run/summary.json"))["epochs_completed"], 2);
}
