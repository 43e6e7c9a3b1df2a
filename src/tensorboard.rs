//! Event files for TensorBoard: scalars, images, histograms.
//!
//! A file is a sequence of records: a length, a masked CRC-32C of the length, an `Event` as protobuf, and a masked
//! CRC-32C of the event. The file grows during training, so that TensorBoard can show it live; a crash can only lose a
//! record that was cut off. Source: TensorFlow's `core/lib/io/record_writer.cc`, `core/util/event.proto`,
//! `core/framework/summary.proto`.

use crate::files::{ShownPath, create_folder, read_bounded, sync_folder};
use crate::train::EpochRecord;
use prost::Message;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// An event file that cannot be written or read.
#[derive(Debug, Error)]
pub enum EventError {
    /// The operating system reported an error.
    #[error("{}: {source}", path.shown())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A record is cut off or damaged.
    #[error("record {number} at byte {offset}: {reason}")]
    Record {
        /// Counted from 1.
        number: usize,
        /// Where it starts.
        offset: usize,
        /// What is wrong.
        reason: String,
    },
}

/// An event file that is being written.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Creates a file in `folder`, which is created if needed. TensorBoard treats each folder as a run.
    ///
    /// # Errors
    /// The operating system reported an error.
    pub fn create(folder: &Path) -> Result<Self, EventError> {
        create_folder(folder).map_err(failed(folder))?;
        // TensorBoard recognizes event files by `tfevents` in their names and reads them in the order of their names.
        // If there is already a file for this second, a later one is used.
        let seconds = now() as u64;
        let name = |n: u64| folder.join(format!("events.out.tfevents.{:010}.fmnist-gpu", seconds + n));
        let path =
            (0..).map(name).find(|path| path.symlink_metadata().is_err()).expect("there is a second without a file");
        let file = File::create_new(&path).map_err(failed(&path))?;
        sync_folder(folder).map_err(failed(folder))?;
        let mut writer = EventWriter { path, file };
        let file_version = Some("brain.Event:2".to_string());
        writer.write(Event { wall_time: now(), file_version, ..Event::default() })?;
        Ok(writer)
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a number.
    ///
    /// # Errors
    /// The operating system reported an error.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64) -> Result<(), EventError> {
        self.value(step, Value { tag: tag.to_string(), simple_value: Some(value as f32), ..Value::default() })
    }

    /// Adds a PNG image.
    ///
    /// # Errors
    /// The operating system reported an error.
    pub fn image(&mut self, tag: &str, step: u64, png: &[u8]) -> Result<(), EventError> {
        // The width and height are at fixed positions in every PNG.
        let size = |at: usize| png.get(at..at + 4).map_or(0, |b| i32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        let image = Image { height: size(20), width: size(16), colorspace: 3, encoded_image_string: png.to_vec() };
        self.value(step, Value { tag: tag.to_string(), image: Some(image), ..Value::default() })
    }

    /// Adds the distribution of `values`, ignoring those that are not finite.
    ///
    /// # Errors
    /// The operating system reported an error.
    pub fn histogram(&mut self, tag: &str, step: u64, values: &[f32]) -> Result<(), EventError> {
        self.value(step, Value { tag: tag.to_string(), histo: Some(Histogram::of(values)), ..Value::default() })
    }

    /// Passes everything written so far to the disk.
    ///
    /// # Errors
    /// The operating system reported an error.
    pub fn flush(&mut self) -> Result<(), EventError> {
        self.file.sync_data().map_err(failed(&self.path))
    }

    fn value(&mut self, step: u64, value: Value) -> Result<(), EventError> {
        let summary = Some(Summary { value: vec![value] });
        self.write(Event { wall_time: now(), step: step as i64, summary, ..Event::default() })
    }

    fn write(&mut self, event: Event) -> Result<(), EventError> {
        // One call per record, so that a concurrent reader hardly ever sees half of one.
        self.file.write_all(&framed(&event.encode_to_vec())).map_err(failed(&self.path))
    }
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> EventError {
    |source| EventError::Io { path: path.to_path_buf(), source }
}

/// The event files of a training run: `train` and, if there is a validation set, `validation`, laid out as by Keras's
/// callback.
#[derive(Debug)]
pub struct TrainingEvents {
    folder: PathBuf,
    train: EventWriter,
    validation: Option<EventWriter>,
    /// The epochs whose scalars the files of each have.
    known: [BTreeSet<u64>; 2],
}

/// The scalars of an epoch under Keras's names; the last one tells that the epoch is complete.
const SCALARS: [[&str; 3]; 2] =
    [["epoch_loss", "epoch_accuracy", "images_per_second"], ["epoch_loss", "epoch_accuracy", "epoch_accuracy"]];
/// The folders of training and validation.
const PARTS: [&str; 2] = ["train", "validation"];
/// Largest event file that is read to see what it has, bytes.
const MAX_READ_BYTES: u64 = 256 << 20;

impl TrainingEvents {
    /// Creates new files in folders below `folder`. Files that are there already are continued: an epoch that they lack, because it was
    /// trained without them or because they could not be written, is added with the next one.
    ///
    /// # Errors
    /// The operating system reported an error.
    pub fn create(folder: &Path) -> Result<Self, EventError> {
        let known = [0, 1].map(|i| complete_epochs(&folder.join(PARTS[i]), SCALARS[i][2]));
        let train = EventWriter::create(&folder.join(PARTS[0]))?;
        Ok(TrainingEvents { folder: folder.to_path_buf(), train, validation: None, known })
    }

    /// Adds the last epoch of `history`: `epoch_loss` and `epoch_accuracy` under Keras's names, the speed, and for each parameter the
    /// histograms `conv2d_1/weight` and, if it is trained, `gradients/conv2d_1/weight`; the gradients are those of the last step. `names` are
    /// those of the parameters, and of the trained ones among them.
    ///
    /// # Errors
    /// The operating system reported an error.
    pub fn epoch(
        &mut self,
        history: &[EpochRecord],
        names: &[Vec<String>; 2],
        parameters: &[Vec<f32>],
        gradients: &[Vec<f32>],
    ) -> Result<(), EventError> {
        self.scalars(history)?;
        let step = history.len() as u64;
        for ((kind, tensors), names) in [("", parameters), ("gradients/", gradients)].into_iter().zip(names) {
            for (name, values) in names.iter().zip(tensors) {
                self.train.histogram(&format!("{kind}{}", name.replace('.', "/")), step, values)?;
            }
        }
        self.train.flush()
    }

    /// Adds the scalars of every epoch that the files lack.
    ///
    /// # Errors
    /// The operating system reported an error.
    pub fn scalars(&mut self, history: &[EpochRecord]) -> Result<(), EventError> {
        let [train, validation] = self
            .known
            .each_ref()
            .map(|known| history.iter().filter(|record| !known.contains(&record.epoch)).collect::<Vec<&EpochRecord>>());
        for record in train {
            for (tag, value) in SCALARS[0].into_iter().zip([record.loss, record.accuracy, record.images_per_second]) {
                self.train.scalar(tag, record.epoch, value)?;
            }
            self.known[0].insert(record.epoch);
        }
        self.train.flush()?;
        for record in validation {
            let Some((loss, accuracy)) = record.val_loss.zip(record.val_accuracy) else { continue };
            let writer = match &mut self.validation {
                Some(writer) => writer,
                none => none.insert(EventWriter::create(&self.folder.join(PARTS[1]))?),
            };
            for (tag, value) in SCALARS[1].into_iter().zip([loss, accuracy]) {
                writer.scalar(tag, record.epoch, value)?;
            }
            self.known[1].insert(record.epoch);
        }
        self.validation.as_mut().map_or(Ok(()), EventWriter::flush)
    }

    /// Adds an image.
    ///
    /// # Errors
    /// The operating system reported an error.
    pub fn picture(&mut self, tag: &str, step: u64, png: &[u8]) -> Result<(), EventError> {
        self.train.image(tag, step, png)?;
        self.train.flush()
    }
}

/// The epochs that the event files in a folder have to the end, as far as they can be read.
fn complete_epochs(folder: &Path, last_tag: &str) -> BTreeSet<u64> {
    let paths = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let contents = paths.filter_map(|path| read_bounded(&path, MAX_READ_BYTES).ok());
    let mut events = Vec::new();
    for bytes in contents {
        // What comes before a damaged record counts.
        let _ = read_into(&bytes, &mut events);
    }
    events.into_iter().filter(|event| event.tag == last_tag).map(|event| event.step).collect()
}

/// An event read from an event file.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadEvent {
    /// The step.
    pub step: u64,
    /// The tag; empty in the first record.
    pub tag: String,
    /// What it contains.
    pub content: Content,
}

/// The content of an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// The first record: the version of the format.
    Version(String),
    /// A number.
    Scalar(f32),
    /// An image: width, height, PNG.
    Image(i32, i32, Vec<u8>),
    /// A distribution: count, minimum, maximum, sum and sum of squares, and for each bucket its right edge and its count.
    Histogram(f64, [f64; 2], [f64; 2], Vec<(f64, f64)>),
}

/// Reads the bytes of an event file, verifying every checksum.
///
/// # Errors
/// A record is cut off or damaged.
pub fn read_events(bytes: &[u8]) -> Result<Vec<ReadEvent>, EventError> {
    let mut events = Vec::new();
    read_into(bytes, &mut events).map(|()| events)
}

/// Adds the events of a file up to the first record that is cut off or damaged.
fn read_into(bytes: &[u8], events: &mut Vec<ReadEvent>) -> Result<(), EventError> {
    let (mut rest, mut number) = (bytes, 1);
    while !rest.is_empty() {
        let offset = bytes.len() - rest.len();
        let fail = |reason: &str| EventError::Record { number, offset, reason: reason.to_string() };
        let (data, behind) = unframed(rest).map_err(fail)?;
        let event = Event::decode(data).map_err(|error| fail(&error.to_string()))?;
        let step = event.step.max(0) as u64;
        if let Some(version) = event.file_version {
            events.push(ReadEvent { step, tag: String::new(), content: Content::Version(version) });
        }
        for value in event.summary.map_or(Vec::new(), |summary| summary.value) {
            let content = match (value.simple_value, value.image, value.histo) {
                (Some(scalar), None, None) => Content::Scalar(scalar),
                (None, Some(i), None) => Content::Image(i.width, i.height, i.encoded_image_string),
                (None, None, Some(h)) => {
                    let buckets = h.bucket_limit.into_iter().zip(h.bucket).collect();
                    Content::Histogram(h.num, [h.min, h.max], [h.sum, h.sum_squares], buckets)
                }
                _ => return Err(fail("it contains no scalar, image or histogram")),
            };
            events.push(ReadEvent { step, tag: value.tag, content });
        }
        (rest, number) = (behind, number + 1);
    }
    Ok(())
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length).to_le_bytes(), data, &masked(data).to_le_bytes()].concat()
}

/// Returns the data of the first record, and what is behind it.
fn unframed(bytes: &[u8]) -> Result<(&[u8], &[u8]), &'static str> {
    const CUT_OFF: &str = "it is cut off";
    let (length, bytes) = bytes.split_first_chunk::<8>().ok_or(CUT_OFF)?;
    let (checksum, bytes) = bytes.split_first_chunk::<4>().ok_or(CUT_OFF)?;
    if u32::from_le_bytes(*checksum) != masked(length) {
        return Err("the checksum of its length is wrong");
    }
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| CUT_OFF)?;
    let (data, bytes) = bytes.split_at_checked(length).ok_or(CUT_OFF)?;
    let (checksum, bytes) = bytes.split_first_chunk::<4>().ok_or(CUT_OFF)?;
    if u32::from_le_bytes(*checksum) != masked(data) {
        return Err("the checksum of its data is wrong");
    }
    Ok((data, bytes))
}

/// Returns a checksum, rotated and offset so that a checksum of data that contains checksums is not weak.
fn masked(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

impl Histogram {
    /// Builds buckets of equal width between the minimum and the maximum value.
    fn of(values: &[f32]) -> Self {
        const BUCKETS: usize = 30;
        let finite = || values.iter().filter(|value| value.is_finite()).map(|&value| f64::from(value));
        let num = finite().count();
        if num == 0 {
            return Histogram { bucket_limit: vec![0.0], bucket: vec![0.0], ..Histogram::default() };
        }
        let (min, max) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let width = (max - min) / BUCKETS as f64;
        let (mut bucket, limits) = if width > 0.0 {
            let edge = |i: usize| if i == BUCKETS { max } else { min + width * i as f64 };
            (vec![0.0; BUCKETS], (1..=BUCKETS).map(edge).collect())
        } else {
            (vec![0.0], vec![max])
        };
        let last = bucket.len() - 1;
        for value in finite() {
            let at = if width > 0.0 { (((value - min) / width) as usize).min(last) } else { 0 };
            bucket[at] += 1.0;
        }
        Histogram {
            min,
            max,
            num: num as f64,
            sum: finite().sum(),
            sum_squares: finite().map(|v| v * v).sum(),
            bucket_limit: limits,
            bucket,
        }
    }
}

// The messages of event.proto and summary.proto, restricted to what is used; the numbers are those of their fields.

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
    #[prost(message, optional, tag = "5")]
    histo: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// 3 for red, green and blue.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded_image_string: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(double, tag = "1")]
    min: f64,
    #[prost(double, tag = "2")]
    max: f64,
    #[prost(double, tag = "3")]
    num: f64,
    #[prost(double, tag = "4")]
    sum: f64,
    #[prost(double, tag = "5")]
    sum_squares: f64,
    #[prost(double, repeated, tag = "6")]
    bucket_limit: Vec<f64>,
    #[prost(double, repeated, tag = "7")]
    bucket: Vec<f64>,
}
