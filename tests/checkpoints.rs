use crate::support::broken_off::{TRAIN, outcome, spawn, whole};
use crate::support::program::{Place, Ran, json_file};
use crate::support::{cases, gpu};
use fmnist_gpu::data::DatasetKind;
use fmnist_gpu::engine::{Optimizer, State, Totals};
use fmnist_gpu::model::{Model, initial_parameters};
use fmnist_gpu::ops::adam::AdamConfig;
use fmnist_gpu::ops::average::AverageConfig;
use fmnist_gpu::ops::sgd::SgdConfig;
use fmnist_gpu::run::checkpoint::{Checkpoint, CheckpointError, Checkpoints};
use fmnist_gpu::run::folder::RunFolder;
use fmnist_gpu::run::{RunConfig, RunError};
use fmnist_gpu::train::{EpochRecord, Position};
use std::fs;
use std::path::PathBuf;
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
            model_file: None,
            dataset: DatasetKind::Synthetic,
            data_source: "test".into(),
            train_images: 100,
            validation_images: 0,
            validation_split: None,
            seed: u64::MAX,
            epochs: 9,
            batch_size: 10,
            optimizer,
            recipe: Default::default(),
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
            best: Vec::new(),
        },
        state: State { parameters, slots, averages: Vec::new() },
    }
}

/// Every number comes back with every bit, and every changed or missing byte is found.
#[test]
fn checkpoints_come_back_whole_or_not_at_all() {
    for optimizer in [
        Optimizer::Adam(AdamConfig::default()),
        Optimizer::Sgd(SgdConfig { learning_rate: 0.1, momentum: 0.9, nesterov: false }),
    ] {
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
    // With averages, and the weights of the best epoch.
    let mut written = checkpoint(Optimizer::Adam(AdamConfig::default()), 3);
    written.config.recipe =
        toml::toml! { average = "ema" patience = 4 class_weights = [0.0, 1.0, 0.1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5] };
    (written.config.validation_images, written.config.validation_split) = (10, Some(0.1));
    written.state.averages = initial_parameters(&written.config.model.parameters().unwrap(), 4);
    written.position.best = initial_parameters(&written.config.model.parameters().unwrap(), 5);
    let bytes = written.to_bytes().unwrap();
    assert!(Checkpoint::from_bytes(&bytes).unwrap() == written);
    let step = written.config.step().unwrap();
    assert_eq!(step.average, Some(AverageConfig::Ema { decay: 0.999 }));
    assert_eq!(written.config.recipe().unwrap().recorded(), written.config.recipe);
    let mut wrong = written.clone();
    wrong.state.averages.clear();
    assert!(wrong.to_bytes().unwrap_err().to_string().contains("averages"));
    written.position.best.clear();
    let missing = Checkpoint::from_bytes(&written.to_bytes().unwrap()).unwrap_err().to_string();
    assert!(missing.contains("`best.dense_1.weight` is missing"), "{missing}");
    let text = |error: CheckpointError| error.to_string();
    assert!(text(Checkpoint::from_bytes(b"nonsense").unwrap_err()).contains("header"));
    let model = Model::mlp();
    let weights = initial_parameters(&model.parameters().unwrap(), 1);
    let other = fmnist_gpu::model::weights::to_bytes(&model, &weights).unwrap();
    assert!(matches!(Checkpoint::from_bytes(&other), Err(CheckpointError::Version(found)) if found == "fmnist-gpu 1"));
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
    let write = |epochs| {
        let Checkpoint { config, position, state } = checkpoint(optimizer, epochs);
        checkpoints.write(&config, &position, &state).unwrap()
    };
    let paths: Vec<PathBuf> = (0..4).map(write).collect();
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
    // A folder that is named like one is not a checkpoint.
    fs::create_dir(folder.path().join("checkpoints/step-000000000099.safetensors")).unwrap();
    assert!(checkpoints.newest(&mut |path, _| assert_eq!(path, paths[3])).unwrap().is_some());
    assert!(folder.path().join("checkpoints/notes.txt").exists());
}

/// A real training, killed at random moments and resumed, ends with the very bits of one that ran through.
///
/// Eight kills, or as many as `FMNIST_TEST_KILLS` says.
#[test]
fn a_training_killed_at_random_moments_ends_with_the_same_bits() {
    gpu();
    let kills: u32 = cases("FMNIST_TEST_KILLS", 8, 60) as u32;
    let place = Place::new();
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
        assert!(
            outcome(&place, &run) == *whole(),
            "{run}, after {killed} kills, differs from the run that ran through"
        );
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
        ("--batch-size 8", vec!["--batch-size is 8", "started with 4"]),
        ("--seed 6", vec!["--seed is 6", "started with 5"]),
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
        .says(&["Resuming from run/checkpoints/step-"]);
    assert!(!ran.err.contains("Note:"), "{}", ran.err);
    assert!(outcome(&place, "run") == *whole());
    // A run that is complete has nothing to do, and may be asked for more.
    place.run("train --resume run --no-report --quiet").exits(0);
    assert!(outcome(&place, "run") == *whole());
    place.run("train --resume run --no-report --quiet --epochs 5").exits(0);
    let (_, _, history) = outcome(&place, "run");
    assert_eq!(history.len(), 5);
    // A configuration that was changed by hand since.
    let text = fs::read_to_string(place.path("run/config.json")).unwrap();
    let changed = text.replace("\"batch_size\": 4", "\"batch_size\": 8");
    assert_ne!(text, changed);
    for (content, parts) in [
        (changed, vec!["`batch_size` is 8 in run/config.json", "but 4 in the checkpoint"]),
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
    place
        .run("train --resume empty")
        .exits(2)
        .says(&["empty has neither a checkpoint nor a config.json", "start over with --out"]);
}

/// Stopped before its first checkpoint, or asked for no epoch yet: a run starts from the settings in its config.json.
#[test]
fn a_run_without_checkpoints_starts_at_its_first_step() {
    let place = crate::output::place();
    let train = "train --model tiny.toml --dataset synthetic --train-limit 200 --batch-size 20 --seed 4 --optimizer sgd --momentum 0.5 \
                 --validation-split 0.1 --device cpu --no-report --quiet";
    place.run(&format!("{train} --epochs 3 --out whole")).exits(0);
    let weights = |run: &str| fs::read(place.path(run).join("model.safetensors")).unwrap();
    place.run(&format!("{train} --epochs 0 --out none")).exits(0);
    place.run("train --resume none --epochs 3 --no-report").exits(0).says(&["no checkpoint yet: starting at step 0"]);
    assert!(weights("none") == weights("whole"));
    // As a process leaves it that is killed in its first epoch, and in its second one where no checkpoint was asked for.
    for kept in [&["config.json"][..], &["config.json", "model.safetensors", "history.jsonl"]] {
        let run = format!("early-{}", kept.len());
        fs::create_dir(place.path(&run)).unwrap();
        for file in kept {
            let content = fs::read(place.path("whole").join(file)).unwrap();
            let lines = content.split_inclusive(|&byte| byte == b'\n');
            let is_history = file.ends_with("jsonl");
            let content = lines.take(if is_history { 1 } else { usize::MAX }).flatten().copied().collect::<Vec<u8>>();
            fs::write(place.path(&run).join(file), content).unwrap();
        }
        place.run(&format!("train --resume {run} --seed 5")).exits(2).says(&["--seed is 5", "started with 4"]);
        place.run(&format!("train --resume {run} --no-report --quiet")).exits(0);
        assert!(weights(&run) == weights("whole"), "{run}");
    }
    // A run that is complete without checkpoints has nothing to resume, but may be trained for longer.
    place.run(&format!("{train} --epochs 2 --checkpoint-every 0 --out bare")).exits(0);
    place.run("train --resume bare").exits(2).says(&["bare is complete", "fmnist-gpu evaluate bare"]);
    place.run("train --resume bare --epochs 3 --no-report --quiet").exits(0);
    assert!(weights("bare") == weights("whole"));
}

/// A run is resumed on the device it was started on, or the user says where.
#[test]
fn a_run_is_resumed_on_its_device() {
    gpu();
    let place = crate::output::place();
    let train = "train --model tiny.toml --dataset synthetic --train-limit 200 --epochs 1 --no-report --quiet";
    place.run(&format!("{train} --out cpu --device CPU")).exits(0);
    place.run(&format!("{train} --out gpu")).exits(0);
    place.run(&format!("{train} --out plain --device Reference")).exits(0);
    let device = |run: &str| json_file(&place.path(run).join("config.json"))["device"].clone();
    for run in ["cpu", "gpu", "plain"] {
        let before = device(run);
        let mut command = place.command(&format!("train --resume {run} --epochs 2 --no-report"));
        // The recorded device counts, whatever else would be chosen.
        command.env_remove("WGPU_ADAPTER_NAME");
        let ran = Ran::new(command.output().unwrap(), run).exits(0);
        assert!(!ran.err.contains("Note:"), "{}", ran.err);
        assert_eq!(device(run), before);
    }
    let path = place.path("gpu/config.json");
    let file = fs::read_dir(place.path("gpu/checkpoints")).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let mut checkpoint = Checkpoint::from_bytes(&fs::read(&file).unwrap()).unwrap();
    checkpoint.config.device = "An adapter that was sold".into();
    fs::write(&file, checkpoint.to_bytes().unwrap()).unwrap();
    fs::remove_file(path).unwrap();
    let ran = place.run("train --resume gpu --epochs 3 --no-report").exits(2);
    ran.says(&["the run was started on `An adapter that was sold`", "choose another device with --device"]);
    place
        .run("train --resume gpu --epochs 3 --no-report --device cpu")
        .exits(0)
        .says(&["Note: the run was started on"]);
}

/// The data are found from any working folder, and beside the run where both were moved.
#[test]
fn the_data_of_a_run_are_found_from_anywhere() {
    let Some(data) = crate::support::genuine_data() else { return };
    let place = crate::output::place();
    fs::create_dir_all(place.path("project/data")).unwrap();
    for entry in fs::read_dir(data).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "gz") {
            fs::copy(&path, place.path("project/data").join(path.file_name().unwrap())).unwrap();
        }
    }
    fs::create_dir(place.path("elsewhere")).unwrap();
    let run = |folder: &str, line: &str| {
        let mut command = place.command(line);
        Ran::new(command.current_dir(place.path(folder)).output().unwrap(), line).exits(0)
    };
    let train = "train --model ../tiny.toml --train-limit 200 --epochs 1 --device cpu --no-report --quiet --data-dir data --out run";
    run("project", train);
    run("elsewhere", "train --resume ../project/run --epochs 2 --no-report");
    run("elsewhere", "evaluate ../project/run --device cpu");
    // Both moved together; and as version 0.1 recorded it.
    fs::rename(place.path("project"), place.path("moved")).unwrap();
    run("elsewhere", "predict ../moved/run --device cpu");
    let config = place.path("moved/run/config.json");
    let mut value = json_file(&config);
    value["data_source"] = "data".into();
    fs::write(&config, value.to_string()).unwrap();
    run("elsewhere", "evaluate ../moved/run --device cpu");
    run("moved/run", "train --resume . --epochs 3 --no-report");
}

#[test]
fn a_damaged_checkpoint_is_passed_over_with_a_word() {
    gpu();
    let place = Place::new();
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
        "1 epoch done",
    ]);
    assert!(outcome(&place, "run") == *whole());
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
    place.run(&format!("{TRAIN} --out run --force")).exits(2).says(&["another training is writing into run"]);
    place.run("train --resume run").exits(2).says(&["another training is writing into run"]);
    first.kill().unwrap();
    first.wait().unwrap();
    // The lock of a process that is gone is none.
    place.run(&format!("{TRAIN} --out run --force")).exits(0);
}

/// Ctrl-C twice: the program leaves at once, and what was there before is whole.
#[test]
fn an_impatient_interruption_breaks_nothing() {
    gpu();
    if cfg!(not(unix)) {
        return crate::support::not_run("two interruptions", "there is no `kill`", "FMNIST_EXPECT_KILL");
    }
    let place = Place::new();
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
        assert!(outcome(&place, &run) == *whole(), "round {round}");
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
