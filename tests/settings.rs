//! The settings of a training: one table, from which the flags, a model file, the rules for resuming, the command that repeats a run and
//! the documentation follow.

use crate::registry::root;
use crate::support::program::{Place, json_file};
use fmnist_gpu::cpu::batch_gather::Flip;
use fmnist_gpu::engine::{ClassWeights, Schedule, Shape};
use fmnist_gpu::model::{Model, ModelFile};
use fmnist_gpu::run::RunConfig;
use fmnist_gpu::session::{Plan, PlanError};
use fmnist_gpu::train::settings::{Kind, Recipe, SETTINGS, Setting, Value};
use fmnist_gpu::train::validation::HoldOut;
use std::path::Path;
use std::{fmt, fs};

const TINY: &str = "name = \"tiny\"\nlayers = [{ type = \"flatten\" }, { type = \"dense\", units = 10 }]\n";

/// A value that is not the default, and possible for SGD.
fn another(setting: &Setting) -> Value {
    match (&setting.kind, setting.name) {
        (Kind::Name(_), "schedule") => Value::Name("cosine"),
        (Kind::Name(_), "optimizer") => Value::Name("sgd"),
        (Kind::Name(names), _) => Value::Name(names()[1].0),
        (Kind::Weights, _) => Value::Weights(ClassWeights::Given((0..10).map(|i| 0.5 + f64::from(i)).collect())),
        (Kind::Switch, _) => Value::Switch(true),
        (Kind::Real(_), "validation_split") => Value::Real(0.25),
        (Kind::Real(_), _) => Value::Real(0.5),
        (Kind::Count(_), "train_limit") => Value::Count(80),
        (Kind::Count(_), _) => Value::Count(2),
    }
}

fn place() -> Place {
    let place = Place::new();
    fs::write(place.path("tiny.toml"), TINY).unwrap();
    place
}

fn row(name: &str) -> &'static Setting {
    SETTINGS.iter().find(|setting| setting.name == name).unwrap()
}

fn flag(setting: &Setting) -> String {
    format!("--{}", setting.name.replace(['_', '.'], "-"))
}

/// A setting with a value, as a flag.
fn given(setting: &Setting, value: impl fmt::Display) -> String {
    let equals = if matches!(setting.kind, Kind::Switch) { "=" } else { " " };
    format!("{}{equals}{value}", flag(setting))
}

/// Flags for every setting, with these values.
fn flags() -> String {
    SETTINGS.iter().map(|setting| given(setting, another(setting)) + " ").collect()
}

fn parse(text: &str) -> ModelFile {
    ModelFile::parse(Path::new("m.toml"), text).unwrap()
}

/// What is set by a flag is recorded, resumed, refused if it may not change, and repeated.
#[test]
fn every_setting_is_a_flag_recorded_resumed_and_repeated() {
    let place = place();
    let help = place.run("train --help").exits(0).out;
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for setting in &SETTINGS {
        assert!(help.contains(&flag(setting)) && help.contains(setting.help), "{}", setting.name);
    }
    let fixed = "--model tiny.toml --dataset synthetic --device cpu --quiet";
    place.run(&format!("train {fixed} {} --out run", flags())).exits(0);
    let config = RunConfig::read(&place.path("run")).unwrap().unwrap();
    let recipe = config.recipe().unwrap();
    for setting in &SETTINGS {
        assert_eq!((setting.get)(&recipe), Some(another(setting)), "{}", setting.name);
    }
    let page = fs::read_to_string(place.path("run/report.html")).unwrap();
    for setting in &SETTINGS {
        assert!(page.contains(&format!(" {}", given(setting, another(setting)))), "{} is not repeated", setting.name);
    }
    // The command names the file of the model wherever it is run, and gives the same bits.
    let command = page.split("<code>fmnist-gpu ").nth(1).unwrap().split("</code>").next().unwrap();
    let file = place.path("tiny.toml").canonicalize().unwrap();
    assert!(command.contains(&format!("--model {}", file.display())), "{command}");
    fs::create_dir(place.path("elsewhere")).unwrap();
    let mut repeated = place.command(&format!("{command} --device cpu --quiet --no-report --out again"));
    assert!(repeated.current_dir(place.path("elsewhere")).status().unwrap().success());
    let weights = |run: &str| fs::read(place.path(run).join("model.safetensors")).unwrap();
    assert!(weights("run") == weights("elsewhere/again"), "the command that repeats the run made other weights");
    // The same values again are no change; others are refused, by name.
    place.run(&format!("train --resume run {} --quiet --no-report", flags())).exits(0);
    for setting in SETTINGS.iter().filter(|setting| !setting.may_change) {
        let other = match another(setting) {
            Value::Count(count) => format!("{}", count + 1),
            Value::Real(value) => format!("{}", value / 4.0),
            Value::Name("cosine") => "linear".to_string(),
            Value::Name(name) => {
                let Kind::Name(names) = &setting.kind else { panic!("{name} is a name") };
                names()[0].0.to_string()
            }
            Value::Switch(on) => (!on).to_string(),
            Value::Weights(_) => "balanced".to_string(),
        };
        let said = format!("{} is {other}", flag(setting));
        place
            .run(&format!("train --resume run {}", given(setting, &other)))
            .exits(2)
            .says(&[&said, "was started with"]);
    }
}

/// A model file sets what belongs to a model; a flag takes precedence, and what cannot be is refused by its key.
#[test]
fn a_model_file_sets_its_recipe() {
    let mut text = format!("{TINY}[train]\n");
    for setting in SETTINGS.iter().filter(|setting| setting.in_model_file) {
        let value = another(setting);
        let [before, after] = match value {
            Value::Name(_) => ["\"", "\""],
            Value::Weights(_) => ["[", "]"],
            _ => ["", ""],
        };
        text.push_str(&format!("{} = {before}{value}{after}\n", setting.name));
    }
    // The keys of a table may also stand below its name.
    let table = format!("{TINY}[train]\nepochs = 3\n[train.augment]\nshift = 4\nflip = \"alternating\"\n");
    let augment = Plan::new(parse(&table), &[]).unwrap().recipe.augment;
    assert_eq!((augment.shift, augment.flip, augment.cutout), (4, Flip::Alternating, 0));
    let plan = Plan::new(parse(&text), &[]).unwrap();
    for setting in SETTINGS.iter().filter(|setting| setting.in_model_file) {
        assert_eq!((setting.get)(&plan.recipe), Some(another(setting)), "{}", setting.name);
    }
    assert_eq!(plan.model, parse(TINY).model, "how it is trained is no part of the model");
    let plan = Plan::new(parse(&text), &[(row("batch_size"), Value::Count(7))]).unwrap();
    assert_eq!((plan.recipe.batch_size, plan.recipe.epochs), (7, 2));
    // The file's momentum and decay are for the file's optimizer, and so is the course of the learning rate for its schedule.
    let plan = Plan::new(parse(&text), &[(row("optimizer"), Value::Name("adam"))]).unwrap();
    let Recipe { momentum, nesterov, weight_decay, .. } = plan.recipe;
    assert_eq!((momentum, nesterov, weight_decay), (None, false, 0.0));
    let plan = Plan::new(parse(&text), &[(row("optimizer"), Value::Name("adamw"))]).unwrap();
    assert_eq!(plan.step.weight_decay, 0.004);
    let plan = Plan::new(parse(&text), &[(row("schedule"), Value::Name("step"))]).unwrap();
    assert_eq!(plan.step.schedule, Schedule { shape: Shape::Step, ..Schedule::default() });
    let plan = Plan::new(parse(&text), &[(row("schedule"), Value::Name("onecycle"))]).unwrap();
    assert_eq!(plan.step.schedule, Schedule { shape: Shape::OneCycle, warmup: 0.3, initial: 0.04, last: 0.0 });
    // The same again is no choice; without a warm-up there is no first rate.
    let given = [(row("schedule"), Value::Name("cosine")), (row("warmup"), Value::Real(0.0))];
    let plan = Plan::new(parse(&text), &given).unwrap();
    assert_eq!(plan.step.schedule, Schedule { shape: Shape::Cosine, warmup: 0.0, initial: 0.0, last: 0.5 });
    for (line, parts) in [
        ("seed = 3", ["`seed`", "its keys are `epochs`"]),
        ("epoch = 3", ["`epoch`", "`batch_size`"]),
        ("epochs = -1", ["`epochs` is -1", "from 0 to 100000"]),
        ("epochs = 2.5", ["`epochs` is 2.5", "a whole number"]),
        ("batch_size = 0", ["`batch_size` is 0", "from 1 to 32768"]),
        ("learning_rate = \"fast\"", ["`learning_rate` is \"fast\"", "a number"]),
        ("learning_rate = 0", ["`learning_rate` is 0", "above 0"]),
        ("optimizer = \"adamax\"", ["`optimizer` is \"adamax\"", "adam, adamw, sgd"]),
        ("label_smoothing = 1.0", ["`label_smoothing` is 1", "less than 1"]),
        ("class_weights = \"equal\"", ["`class_weights` is \"equal\"", "`balanced`, or a list"]),
        ("class_weights = [1.0, \"2\"]", ["`class_weights` is [1.0, \"2\"]", "one number per class"]),
        ("class_weights = [1.0, -2]", ["`class_weights` is 1,-2", "at least 0"]),
        ("average = \"ema\"\naverage_decay = 1.0", ["`average_decay` is 1", "less than 1"]),
        ("patience = 3", ["`patience`", "its keys are"]),
        ("optimizer = \"sgd\"\nmomentum = 1.5", ["`momentum` is 1.5", "less than 1"]),
        ("schedule = \"cosin\"", ["`schedule` is \"cosin\"", "constant, cosine, onecycle, linear, step"]),
        ("warmup = 1.5", ["`warmup` is 1.5", "at most 1"]),
        ("final = nan", ["`final` is NaN", "at least 0"]),
        ("weight_decay = -1", ["`weight_decay` is -1", "0 or more"]),
        ("bias_factor = inf", ["`bias_factor` is inf", "a number"]),
        ("clip_norm = 0", ["`clip_norm` is 0", "above 0"]),
        ("nesterov = 1", ["`nesterov` is 1", "true or false"]),
        ("augment.shift = -1", ["`augment.shift` is -1", "a whole number from 0 to 4096"]),
        ("augment.flip = \"left\"", ["`augment.flip` is \"left\"", "none, random, alternating"]),
        ("augment.mixup = 0.001", ["`augment.mixup` is 0.001", "from 0.01 to 100"]),
        ("augment.cutmix = -1", ["`augment.cutmix` is -1", "for none"]),
        ("augment.crop = 2", ["`augment.crop`", "`augment.shift`"]),
    ] {
        let error = Plan::new(parse(&format!("{TINY}[train]\n{line}\n")), &[]).unwrap_err();
        let said = error.to_string();
        assert!(parts.iter().all(|part| said.contains(part)), "{line}: {said}");
        assert!(matches!(error, PlanError::Model(_)), "{line}: the file is not named: {said}");
    }
}

/// What does not apply is refused by its key, with what it requires.
#[test]
fn settings_that_contradict_each_other_are_named() {
    for (lines, parts) in [
        ("momentum = 0.5", ["`momentum` is 0.5", "the optimizer sgd"]),
        ("optimizer = \"adamw\"\nmomentum = 0.5", ["`momentum` is 0.5", "the optimizer sgd"]),
        ("nesterov = true", ["`nesterov` is true", "the optimizer sgd"]),
        ("optimizer = \"sgd\"\nnesterov = true", ["`nesterov` is true", "a momentum above 0"]),
        ("weight_decay = 0.1", ["`weight_decay` is 0.1", "the optimizer adamw or sgd"]),
        ("initial = 0.1", ["`initial` is 0.1", "a warmup above 0"]),
        ("final = 0.1", ["`final` is 0.1", "cosine, linear or onecycle"]),
        ("class_weights = [1, 2]", ["`class_weights` is 1,2", "each of its 10 classes"]),
        ("average_decay = 0.9", ["`average_decay` is 0.9", "ema or lookahead"]),
        ("schedule = \"step\"\nfinal = 0.1", ["`final` is 0.1", "cosine, linear or onecycle"]),
    ] {
        let error = Plan::new(parse(&format!("{TINY}[train]\n{lines}\n")), &[]).unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, PlanError::Setting(_)) && parts.iter().all(|part| said.contains(part)), "{said}");
    }
}

/// What a run records of a recipe gives the same step again, also where a setting's default depends on another one.
#[test]
fn recipes_come_back_from_what_is_recorded() {
    for lines in [
        "",
        "optimizer = \"adamw\"",
        "optimizer = \"adamw\"\nweight_decay = 0.0",
        "optimizer = \"sgd\"\nweight_decay = 5e-4\nmomentum = 0.9\nnesterov = true",
        "schedule = \"onecycle\"",
        "schedule = \"onecycle\"\nwarmup = 0.0",
        "schedule = \"onecycle\"\ninitial = 0.0\nfinal = 0.07",
        "schedule = \"cosine\"",
        "warmup = 0.1\nclip_norm = 1",
        "shift_factor = 64\nbias_factor = 0",
    ] {
        let Plan { recipe, step, .. } = Plan::new(parse(&format!("{TINY}[train]\n{lines}\n")), &[]).unwrap();
        let Recipe { optimizer, momentum, nesterov, .. } = recipe;
        let mut again = Recipe { optimizer, momentum, nesterov, ..Recipe::default() };
        again.restore(&recipe.recorded()).unwrap();
        assert_eq!((again.step().unwrap(), &again), (step, &recipe), "{lines}");
    }
}

/// The documentation has the table as it is.
#[test]
fn the_documentation_has_every_key() {
    let docs = fs::read_to_string(root().join("docs/model-files.md")).unwrap();
    for setting in SETTINGS.iter().filter(|setting| setting.in_model_file) {
        let default = (setting.get)(&Recipe::default()).map_or("-".to_string(), |value| format!("`{value}`"));
        let help = setting.help.split(" [default").next().unwrap();
        let line = format!("| `{}` | {help} | {default} |", setting.name);
        assert!(docs.contains(&line), "docs/model-files.md has no line\n{line}");
    }
}

/// An edited copy of a built-in model is not the built-in model, whatever its name.
#[test]
fn an_edited_copy_is_repeated_from_its_file() {
    let place = Place::new();
    let docs = fs::read_to_string(root().join("docs/model-files.md")).unwrap();
    let cnn = docs.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(parse(cnn).model.parameters().unwrap(), Model::cnn().parameters().unwrap());
    let edited = cnn.replacen("units = 128", "units = 12", 1);
    assert!(edited.contains("name = \"cnn\"") && edited != cnn);
    fs::write(place.path("mine.toml"), edited).unwrap();
    for (run, model, expected) in [("a", "mine.toml", "mine.toml"), ("b", "cnn", "--model cnn --dataset")] {
        place
            .run(&format!(
                "train --model {model} --dataset synthetic --train-limit 32 --epochs 0 --device cpu --quiet --out {run}"
            ))
            .exits(0);
        let page = fs::read_to_string(place.path(run).join("report.html")).unwrap();
        let command = page.split("<code>fmnist-gpu train ").nth(1).unwrap().split("</code>").next().unwrap();
        assert!(command.contains(expected), "{command}");
    }
    // What a built-in model says itself is not said again.
    let line = "train --model fast --dataset synthetic --train-limit 32 --epochs 0 --device cpu --quiet --out c";
    place.run(line).exits(0);
    let page = fs::read_to_string(place.path("c/report.html")).unwrap();
    let command = page.split("<code>fmnist-gpu train ").nth(1).unwrap().split("</code>").next().unwrap();
    for said in ["--schedule", "--weight-decay", "--flip", "--views"] {
        assert!(!command.contains(said), "{command}");
    }
}

/// Runs of version 0.1 held out the last images, and are resumed that way.
#[test]
fn old_runs_keep_their_validation_images() {
    let place = place();
    place
        .run("train --model tiny.toml --dataset synthetic --train-limit 60 --validation-split 0.5 --epochs 0 --device cpu --quiet --no-report --out run")
        .exits(0);
    let file = place.path("run/config.json");
    assert_eq!(json_file(&file)["validation_split"], 0.5);
    let config = RunConfig::read(&place.path("run")).unwrap().unwrap();
    assert_eq!(config.hold_out(), HoldOut::Stratified(0));
    for share in ["-1.0", "1.0", "5.0", "1e300"] {
        let text = fs::read_to_string(&file)
            .unwrap()
            .replace("\"validation_split\": 0.5", &format!("\"validation_split\": {share}"));
        let error = RunConfig::parse(text.as_bytes()).unwrap_err();
        assert!(error.contains("validation_split is "), "{share}: {error}");
    }
    let mut old = json_file(&file);
    for key in ["validation_split", "model_file"] {
        old.as_object_mut().unwrap().remove(key).unwrap();
    }
    let old = RunConfig::parse(old.to_string().as_bytes()).unwrap();
    assert_eq!((old.hold_out(), old.validation_images), (HoldOut::Last, 30));
    assert_eq!(old.recipe().unwrap().validation_split, 0.5);
}
