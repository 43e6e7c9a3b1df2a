//! A short training that tests break off in every way, and what must be equal afterwards.

use super::program::Place;
use serde_json::Value;
use std::fs;
use std::process::{Child, Stdio};
use std::sync::OnceLock;

/// Two thousand steps or so, on generated data.
pub const TRAIN: &str = "train --model mlp --dataset synthetic --train-limit 2000 --batch-size 4 --epochs 4 --validation-split 0.2 \
                     --seed 5 --no-report --quiet";

/// What must be equal after training, however often it was broken off: the weights, and all of the history but times.
pub fn outcome(place: &Place, run: &str) -> (Vec<u8>, Vec<u8>, Vec<Value>) {
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

/// The outcome of [`TRAIN`] when nothing breaks it off.
pub fn whole() -> &'static (Vec<u8>, Vec<u8>, Vec<Value>) {
    static WHOLE: OnceLock<(Vec<u8>, Vec<u8>, Vec<Value>)> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let place = Place::new();
        place.run(&format!("{TRAIN} --out whole")).exits(0);
        outcome(&place, "whole")
    })
}

/// The program, begun, with its standard error for reading.
pub fn spawn(place: &Place, line: &str) -> Child {
    place.command(line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}
