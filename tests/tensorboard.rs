use crate::support::gpu;
use crate::support::program::Place;
use crate::support::python::Python;
use fmnist_gpu::tensorboard::{Content, EventWriter, read_events};
use std::fs;
use std::path::{Path, PathBuf};

fn event_file(folder: &Path) -> PathBuf {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.pop().unwrap()
}

#[test]
pub fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = EventWriter::create(folder.path()).unwrap();
    let png = {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(5, 3).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    };
    writer.scalar("loss", 1, 0.25).unwrap();
    writer.scalar("loss", 2, f64::NAN).unwrap();
    writer.image("grid", 2, &png).unwrap();
    writer.histogram("w", 2, &[0.0, 0.5, 1.0, f32::NAN, f32::INFINITY]).unwrap();
    writer.histogram("same", 3, &[2.0; 7]).unwrap();
    writer.histogram("none", 3, &[f32::NAN]).unwrap();
    writer.flush().unwrap();
    let bytes = fs::read(writer.path()).unwrap();
    let events = read_events(&bytes).unwrap();
    let tags: Vec<(&str, u64)> = events.iter().map(|e| (e.tag.as_str(), e.step)).collect();
    assert_eq!(tags, [("", 0), ("loss", 1), ("loss", 2), ("grid", 2), ("w", 2), ("same", 3), ("none", 3)]);
    assert_eq!(events[0].content, Content::Version("brain.Event:2".into()));
    assert_eq!(events[1].content, Content::Scalar(0.25));
    assert!(matches!(events[2].content, Content::Scalar(value) if value.is_nan()));
    assert_eq!(events[3].content, Content::Image(5, 3, png));
    let Content::Histogram(count, range, sums, buckets) = &events[4].content else { panic!("{:?}", events[4]) };
    assert_eq!((*count, *range, *sums, buckets.len()), (3.0, [0.0, 1.0], [1.5, 1.25], 30));
    assert_eq!(buckets.iter().map(|b| b.1).sum::<f64>(), 3.0);
    assert_eq!((buckets[0].1, buckets[15].1, buckets[29], buckets[29].0), (1.0, 1.0, (1.0, 1.0), 1.0));
    assert!(matches!(&events[5].content, Content::Histogram(7.0, [2.0, 2.0], [14.0, 28.0], b) if b == &[(2.0, 7.0)]));
    assert!(matches!(&events[6].content, Content::Histogram(n, ..) if *n == 0.0));
    // Every flipped bit is detected, and so is every truncation except between two records.
    for at in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(read_events(&damaged).is_err(), "byte {at}");
    }
    let whole = (0..bytes.len()).filter(|&end| read_events(&bytes[..end]).is_ok()).count();
    assert_eq!(whole, events.len(), "cuts that read as whole");
    assert!(read_events(&bytes[..50]).unwrap_err().to_string().contains("record "));
    // A second writer in the same second chooses another name.
    let second = EventWriter::create(folder.path()).unwrap();
    assert_ne!(second.path(), writer.path());
}

/// The checksum of an empty record, from the description of the format.
#[test]
fn the_framing_is_that_of_tensorflow() {
    let folder = tempfile::tempdir().unwrap();
    let writer = EventWriter::create(folder.path()).unwrap();
    let bytes = fs::read(writer.path()).unwrap();
    let name = writer.path().file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.starts_with("events.out.tfevents."), "{name}");
    // A version record: a double, and 13 characters; 24 bytes, as TensorFlow writes it.
    assert_eq!(bytes[..8], 24u64.to_le_bytes());
    assert_eq!(bytes[8..12], [0xa3, 0x7f, 0x4b, 0x22]);
    assert_eq!(bytes.len(), 24 + 16);
}

#[test]
fn training_writes_what_tensorboard_shows() {
    gpu();
    let place = Place::new();
    let line =
        "train --model mlp --dataset synthetic --train-limit 640 --epochs 2 --validation-split 0.5 --quiet --no-report";
    place.run(&format!("{line} --tensorboard --out run")).exits(0);
    let read =
        |part: &str| read_events(&fs::read(event_file(&place.path("run/tensorboard").join(part))).unwrap()).unwrap();
    let history: Vec<serde_json::Value> = fs::read_to_string(place.path("run/history.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for (part, loss, accuracy) in [("train", "loss", "accuracy"), ("validation", "val_loss", "val_accuracy")] {
        for (tag, field) in [("epoch_loss", loss), ("epoch_accuracy", accuracy)] {
            let found: Vec<(u64, Content)> =
                read(part).into_iter().filter(|e| e.tag == tag).map(|e| (e.step, e.content)).collect();
            let expected: Vec<(u64, Content)> = history
                .iter()
                .map(|r| (r["epoch"].as_u64().unwrap(), Content::Scalar(r[field].as_f64().unwrap() as f32)))
                .collect();
            assert_eq!(found, expected, "{part}, {tag}");
        }
    }
    let train = read("train");
    for tag in ["dense_1/weight", "dense_2/bias", "gradients/dense_1/weight", "gradients/dense_2/bias"] {
        let counts: Vec<f64> = train
            .iter()
            .filter(|e| e.tag == tag)
            .map(|e| match &e.content {
                Content::Histogram(count, ..) => *count,
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = if tag.ends_with("dense_1/weight") { 100_352.0 } else { 10.0 };
        assert_eq!(counts, [expected; 2], "{tag}");
    }
    assert!(
        train
            .iter()
            .any(|e| e.tag == "predictions" && matches!(e.content, Content::Image(w, h, _) if w > 900 && h > 900))
    );
    // The table beside the history contains the same numbers.
    let csv = fs::read_to_string(place.path("run/history.csv")).unwrap();
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows[0].join(","), "epoch,loss,accuracy,val_loss,val_accuracy,seconds,images_per_second");
    assert_eq!(rows.len(), 3);
    for (row, record) in rows[1..].iter().zip(&history) {
        for (name, value) in rows[0].iter().zip(row) {
            assert_eq!(value.parse::<f64>().unwrap(), record[*name].as_f64().unwrap(), "{name}");
        }
    }
    let Some(python) = Python::with("check_tensorboard.py", "tensorboard") else { return };
    let (agreed, said) = python.check("run", &place.path(""));
    assert!(agreed, "{said}");
}
