//! The examples of many runs, each with a worker that is killed: its run is resumed where it stopped.

use crate::support::not_run;
use crate::support::program::{Place, json_file};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Flags of every trial. It has so many epochs that it is killed in the middle, not at the end.
const FLAGS: &str = "--model mlp --dataset synthetic --train-limit 1500 --epochs 40 --device cpu --threads 1";
const EPOCHS: usize = 40;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/sweeps")
}

/// Waits, for as long as a busy machine may need.
#[track_caller]
fn wait_for(what: &str, child: &mut Child, is_there: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_there() {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "no {what}, and the command ended: {ended:?}");
        assert!(begin.elapsed() < Duration::from_secs(300), "no {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(name: &str, process: u32) {
    assert!(Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status().unwrap().success());
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

/// Whether a process still writes into a run.
fn is_locked(run: &Path) -> bool {
    run.join(".lock").exists()
}

/// The interpreter with Ray Tune and Optuna; `None`, which is reported, if there is none.
fn python(example: &str) -> Option<String> {
    let named = std::env::var("FMNIST_SWEEPS_PYTHON").ok().filter(|name| !name.is_empty());
    let python = named.clone().unwrap_or_else(|| "python3".to_string());
    let output = Command::new(&python).args(["-c", "import optuna, ray"]).output();
    let has_both = output.as_ref().is_ok_and(|output| output.status.success());
    // An interpreter that is named must have the packages.
    assert!(has_both || named.is_none(), "FMNIST_SWEEPS_PYTHON={python} cannot import optuna and ray: {output:?}");
    if !has_both {
        let reason = "there is no Python with optuna and ray (tests/sweeps.sh makes one)";
        not_run(example, reason, "FMNIST_EXPECT_SWEEPS");
    }
    has_both.then_some(python)
}

/// An example, ready to run in a folder, in the environment of the program's own tests.
fn example(place: &Place, python: &str, line: &str) -> Command {
    let mut words = line.split(' ');
    let mut command = Command::new(python);
    command
        .arg(examples().join(words.next().unwrap()))
        .args(["--program", env!("CARGO_BIN_EXE_fmnist-gpu")])
        .args(words);
    command.arg("--").args(FLAGS.split(' ')).current_dir(place.path(""));
    let surroundings = place.command("");
    for (key, value) in surroundings.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    // Ray's processes talk to each other by HTTP.
    for name in ["ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "http_proxy", "https_proxy", "RAY_ADDRESS"] {
        command.env_remove(name);
    }
    command.envs([("PYTHONDONTWRITEBYTECODE", "1"), ("RAY_AUTH_MODE", "disabled"), ("RAY_USAGE_STATS_ENABLED", "0")]);
    command.env("RAY_TMPDIR", place.path("r"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What `train --json` prints is enough for a scheduler, and goes on where a run was resumed.
#[test]
fn lines_of_json_count_steps_across_interruptions() {
    let place = Place::new();
    let train = "train --model mlp --dataset synthetic --train-limit 320 --validation-split 0.25 --device cpu --no-report --json --quiet";
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let mut printed = place.run(&format!("{train} --epochs 2 --out run")).exits(0).json_lines();
    printed.pop();
    let resumed = place.run("train --resume run --epochs 4 --no-report --json --quiet").exits(0).json_lines();
    printed.extend(resumed[..resumed.len() - 1].iter().cloned());
    let after = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    // 240 images in batches of 32.
    let counts: Vec<_> = printed.iter().map(|line| (line["epoch"].as_u64(), line["step"].as_u64())).collect();
    assert_eq!(counts, [(Some(1), Some(8)), (Some(2), Some(16)), (Some(3), Some(24)), (Some(4), Some(32))]);
    let times: Vec<f64> = printed.iter().map(|line| line["timestamp"].as_f64().unwrap()).collect();
    assert!(times.is_sorted() && times[0] >= before - 0.001 && times[3] <= after, "{before} {times:?} {after}");
    for field in ["loss", "accuracy", "val_loss", "val_accuracy", "seconds", "images_per_second"] {
        assert!(printed.iter().all(|line| line[field].is_number()), "no {field} in {printed:?}");
    }
    assert!(resumed.last().unwrap()["epoch"].is_null(), "the summary is told by its missing `epoch`");
}

/// SLURM's signal before the end of the time: the training saves and exits with 143, the task is queued again and resumes, to the same bits.
#[test]
fn an_array_job_is_queued_again_and_resumes() {
    if Command::new("bash").arg("--version").output().is_err() {
        return not_run("slurm_array.sh", "there is no bash", "FMNIST_EXPECT_BASH");
    }
    let place = Place::new();
    // The only command of SLURM that the script calls.
    let bin = place.path("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("scontrol"), "#!/bin/sh\necho \"$@\" >>scontrol.log\n").unwrap();
    assert!(Command::new("chmod").arg("+x").arg(bin.join("scontrol")).status().unwrap().success());
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let script = |task: &str, flags: &str| {
        let mut command = Command::new("bash");
        command.arg(examples().join("slurm_array.sh")).args(flags.split_whitespace()).current_dir(place.path(""));
        let surroundings = place.command("");
        for (key, value) in surroundings.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        command.envs([
            ("PATH", path.as_str()),
            ("FMNIST_GPU", env!("CARGO_BIN_EXE_fmnist-gpu")),
            ("SWEEP_OUT", "sweep"),
        ]);
        command.envs([("SLURM_ARRAY_JOB_ID", "77"), ("SLURM_ARRAY_TASK_ID", task), ("SLURM_CPUS_PER_TASK", "1")]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let flags = format!("{FLAGS} --batch-size 16 --no-report").replace("--threads 1 ", "");
    let mut child = script("4", &flags).spawn().unwrap();
    // Task 4 of three learning rates and three seeds.
    let run = place.path("sweep/rate-0.001-seed-1");
    wait_for("run", &mut child, || run.join("config.json").exists());
    signal("TERM", child.id());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", text(&output));
    assert_eq!(fs::read_to_string(place.path("scontrol.log")).unwrap(), "requeue 77_4\n");
    assert_eq!(json_file(&run.join("summary.json"))["status"], "interrupted");
    assert!(fs::read_dir(run.join("checkpoints")).unwrap().count() > 0 && !is_locked(&run));

    let output = script("4", &flags).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let config = json_file(&run.join("config.json"));
    assert_eq!((&config["seed"], &config["optimizer"]["learning_rate"]), (&1.into(), &0.001.into()));
    assert_eq!(json_file(&run.join("summary.json"))["status"], "complete");
    assert_eq!(lines(&run.join("history.jsonl")), EPOCHS);
    // It is not queued once more.
    assert_eq!(lines(&place.path("scontrol.log")), 1);
    let whole = format!("train {flags} --seed 1 --learning-rate 0.001 --validation-split 0.1 --quiet --out whole");
    place.run(&whole).exits(0);
    let weights = |run: &Path| fs::read(run.join("model.safetensors")).unwrap();
    assert!(weights(&run) == weights(&place.path("whole")), "other bits");

    // What cannot run is not queued again, and its exit code is the program's.
    let output = script("0", "--model missing.toml").output().unwrap();
    assert_eq!((output.status.code(), lines(&place.path("scontrol.log"))), (Some(2), 1), "{}", text(&output));
    let output = script("", "").output().unwrap();
    assert!(!output.status.success() && text(&output).contains("submit this script with sbatch"), "{}", text(&output));
}

#[test]
fn shellcheck_finds_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["bench", "examples/sweeps", "fuzz", "scripts", "tests", "tests/python", "web"];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap());
    let scripts: Vec<PathBuf> =
        files.map(|file| file.unwrap().path()).filter(|path| path.extension() == Some("sh".as_ref())).collect();
    assert!(scripts.len() >= 12, "{scripts:?}");
    let mut command = Command::new("shellcheck");
    command.arg(root.join(".ci/run")).args(scripts);
    match command.output() {
        Ok(output) => assert!(output.status.success(), "{}", text(&output)),
        Err(error) => not_run("shellcheck", &error.to_string(), "FMNIST_EXPECT_SHELLCHECK"),
    }
}

/// The process of Optuna is killed in the middle of a trial. Run again, the study runs this trial again, in the same folder, and its run goes
/// on where it stopped; later trials that fall behind are stopped.
#[test]
fn a_study_survives_its_process() {
    let Some(python) = python("optuna_study.py") else { return };
    let place = Place::new();
    let study = || example(&place, &python, "optuna_study.py --out study --trials 7 --heartbeat 1");
    let mut child = study().spawn().unwrap();
    let run = place.path("study/trial-000");
    wait_for("epoch", &mut child, || lines(&run.join("history.jsonl")) >= 1);
    signal("KILL", child.id());
    assert!(!child.wait_with_output().unwrap().status.success());
    let output = study().output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("Best by validation: study/trial-0") && said.contains("pruned"), "{said}");
    let log = fs::read_to_string(place.path("study/trial-000.log")).unwrap();
    assert!(log.contains("Resuming from"), "{log}");
    assert_eq!(
        (lines(&run.join("history.jsonl")), &json_file(&run.join("summary.json"))["status"]),
        (EPOCHS, &"complete".into())
    );
    // The first attempt has a number of its own, and so no folder.
    let trials = fs::read_dir(place.path("study")).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
    let trials: Vec<PathBuf> = trials.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(trials.len(), 7, "{trials:?}");
    let status = |run: &PathBuf| json_file(&run.join("summary.json"))["status"].as_str().unwrap().to_string();
    assert!(trials.iter().any(|run| status(run) == "interrupted"), "no trial was stopped: {said}");
    assert!(trials.iter().all(|run| !is_locked(run)));
    // All of them are runs that can be compared; the study is complete.
    let all: Vec<String> = trials.iter().map(|run| run.display().to_string()).collect();
    let best = place.run(&format!("compare {} --json", all.join(" "))).exits(0).json();
    assert!(best["best_by_validation"].is_string());
    let again = study().output().unwrap();
    assert!(again.status.success() && !text(&again).contains("finished with value"), "{}", text(&again));
}

/// A plan of ablations is stopped and goes on; its table compares the variants within each seed. A replacement that replaces nothing is refused.
#[test]
fn ablations_go_on_where_they_stopped() {
    let Some(python) = python("ablations.py") else { return };
    let place = Place::new();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/mlp.toml");
    fs::copy(model, place.path("model.toml")).unwrap();
    let plan = |old: &str| {
        let plan = format!(
            r#"
            model = "model.toml"
            flags = {{ validation-split = 0.2 }}
            [[variant]]
            name = "as-it-is"
            [[variant]]
            name = "gelu"
            title = "GELU in place of ReLU"
            replace = [['{old}', 'activation = "gelu"']]
            [[variant]]
            name = "slow"
            flags = {{ learning-rate = 1e-6 }}
            "#
        );
        fs::write(place.path("plan.toml"), plan).unwrap();
    };
    plan("activation = \"relu\"");
    let study = || example(&place, &python, "ablations.py --plan plan.toml --out study --seeds 2 --heartbeat 1");
    let mut child = study().spawn().unwrap();
    let run = place.path("study/as-it-is-0");
    wait_for("epoch", &mut child, || lines(&run.join("history.jsonl")) >= 1);
    signal("TERM", child.id());
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));
    assert_eq!(json_file(&run.join("summary.json"))["status"], "interrupted");
    let output = study().output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(fs::read_to_string(place.path("study/as-it-is-0.log")).unwrap().contains("Resuming from"), "{said}");
    let accuracies = ["as-it-is", "gelu", "slow"].map(|name| {
        let of_seed = |seed: u32| {
            let run = place.path(&format!("study/{name}-{seed}"));
            let history = fs::read_to_string(run.join("history.jsonl")).unwrap();
            assert_eq!(history.lines().count(), EPOCHS);
            let last: serde_json::Value = serde_json::from_str(history.lines().last().unwrap()).unwrap();
            last["val_accuracy"].as_f64().unwrap()
        };
        (of_seed(0) + of_seed(1)) / 2.0
    });
    let [whole, _, slow] = accuracies;
    assert!(slow < whole - 0.05, "{accuracies:?}");
    for row in [
        format!("| as-it-is | 2 | {whole:.4} |  |"),
        format!("| GELU in place of ReLU | 2 | {:.4} | ", accuracies[1]),
        format!("| slow | 2 | {slow:.4} | {:+.2} ± ", 100.0 * (slow - whole)),
    ] {
        assert!(said.contains(&row), "no `{row}` in {said}");
    }
    plan("activation = \"tanh\"");
    let output = example(&place, &python, "ablations.py --plan plan.toml --out other --seeds 1").output().unwrap();
    assert!(!output.status.success() && text(&output).contains("variant gelu: model.toml does not contain"));
}

/// The process that trains into a run, and its parent.
fn trainer_of(run: &str) -> Option<(u32, u32)> {
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments: Vec<&[u8]> = command.split(|&byte| byte == 0).collect();
        let is_program = arguments.first().is_some_and(|first| *first == env!("CARGO_BIN_EXE_fmnist-gpu").as_bytes());
        if is_program && arguments.iter().any(|argument| argument.ends_with(run.as_bytes())) {
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
            return Some((entry.file_name().to_str()?.parse().ok()?, parent));
        }
    }
    None
}

/// A worker of Ray is killed in the middle of a trial, which another one goes on with; ASHA stops weak trials. Takes a minute: each worker
/// imports Ray.
#[test]
#[cfg(target_os = "linux")]
fn a_search_survives_a_killed_worker() {
    let Some(python) = python("ray_tune.py") else { return };
    let place = Place::new();
    let mut command = example(&place, &python, "ray_tune.py --out search --trials 4 --workers 2");
    // What it says may be more than a pipe holds.
    let log = fs::File::create(place.path("log")).unwrap();
    let mut child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let runs = || -> Vec<PathBuf> {
        let entries = fs::read_dir(place.path("search/runs")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
    };
    let first = || runs().into_iter().find(|run| run.to_str().unwrap().ends_with("_00000"));
    wait_for("epoch", &mut child, || first().is_some_and(|run| lines(&run.join("history.jsonl")) >= 1));
    let run = first().unwrap();
    let (trainer, worker) = trainer_of(run.to_str().unwrap()).expect("it has most epochs to go");
    signal("KILL", worker);
    // The program is told that its parent is gone.
    wait_for("end of the training", &mut child, || !Path::new(&format!("/proc/{trainer}")).exists());
    let status = child.wait().unwrap();
    let said = fs::read_to_string(place.path("log")).unwrap();
    assert!(status.success() && said.contains("Best by validation: "), "{said}");
    let log = fs::read_to_string(run.with_extension("log")).unwrap();
    assert!(log.contains("Resuming from"), "{log}");
    assert_eq!(runs().len(), 4, "{:?}", runs());
    let epochs = |run: &PathBuf| lines(&run.join("history.jsonl"));
    let (whole, stopped): (Vec<PathBuf>, Vec<PathBuf>) = runs().into_iter().partition(|run| epochs(run) == EPOCHS);
    assert!(!whole.is_empty() && !stopped.is_empty(), "{whole:?} {stopped:?}\n{said}");
    for run in &stopped {
        assert_eq!(json_file(&run.join("summary.json"))["status"], "interrupted");
    }
    assert!(runs().iter().all(|run| !is_locked(run)));
}
