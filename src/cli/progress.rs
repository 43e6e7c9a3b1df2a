//! What a training shows: what it is, its progress (a bar in a terminal, plain lines in a pipe or under continuous integration, nothing with
//! `--quiet`), its result.

use super::advice::{non_finite, resume_command};
use super::views::by_views;
use super::{Global, counted, terminal, to_json, with_causes};
use anyhow::Result;
use fmnist_gpu::engine::Totals;
use fmnist_gpu::files::ShownPath;
use fmnist_gpu::model::summary;
use fmnist_gpu::report::metrics::argmax;
use fmnist_gpu::run::RunConfig;
use fmnist_gpu::run::checkpoint::CheckpointError;
use fmnist_gpu::run::folder::RunFolder;
use fmnist_gpu::session::{Evaluation, Finished, Resumable, Session, SessionEvent, WriteError};
use fmnist_gpu::train::{EpochRecord, Event, Outcome};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// Shows a training on standard error, and its results on standard output. Without colours, so that there is nothing for `NO_COLOR` to turn
/// off.
pub struct Display<'a> {
    global: &'a Global,
    json: bool,
    session: &'a Session<'a>,
    folder: &'a RunFolder,
    style: Style,
    bar: Option<ProgressBar>,
    has_begun: bool,
    batches: usize,
    last_line: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Style {
    /// A bar that is redrawn.
    Bar,
    /// A line at this interval.
    Lines(Duration),
    Nothing,
}

impl Style {
    fn choose(quiet: bool, is_terminal: bool, environment: impl Fn(&str) -> Option<String>) -> Style {
        let is_set = |name: &str| environment(name).is_some_and(|value| !value.is_empty() && value != "false");
        match (quiet, is_terminal) {
            (true, _) => Style::Nothing,
            // A log is read later; it needs few lines.
            (false, _) if is_set("CI") => Style::Lines(Duration::from_secs(30)),
            (false, true) if environment("TERM").as_deref() != Some("dumb") => Style::Bar,
            (false, _) => Style::Lines(Duration::from_secs(10)),
        }
    }

    /// The line on an epoch of so many batches, if one is due so long after the last; when all are done, the epoch's own line follows.
    fn line(self, since_last: Duration, batches: usize, totals: &Totals, seconds: f64) -> Option<String> {
        let is_due = matches!(self, Style::Lines(every) if since_last >= every) && totals.batches < batches;
        let left = seconds_left(batches, totals, seconds);
        is_due.then(|| format!("{}/{batches}: {}, {left:.0} s left", totals.batches, state(totals, seconds)))
    }
}

impl<'a> Display<'a> {
    /// A display for a session whose run is in `folder`; with `json`, results are lines of JSON.
    pub fn new(global: &'a Global, json: bool, session: &'a Session<'a>, folder: &'a RunFolder) -> Self {
        let style = Style::choose(global.quiet, std::io::stderr().is_terminal(), |name| std::env::var(name).ok());
        let (has_begun, batches, last_line) = (false, 0, Instant::now());
        Display { global, json, session, folder, style, bar: None, has_begun, batches, last_line }
    }

    /// Shows what will be trained, and whether a run is resumed on another device than the one it was started on.
    pub fn announce(&self) -> Result<()> {
        let Session { plan, dataset, validation, config, .. } = self.session;
        if !validation.is_empty() {
            let (trained, held_out) = (counted(dataset.train.len(), "image"), validation.len());
            self.global.say(format!("Training on {trained}, validating on {held_out}"));
        }
        let device = |config: &RunConfig| [&config.device, &config.driver, &config.version].map(String::clone);
        let is_other = |begun: &&RunConfig| device(begun) != device(config) || begun.tiles != config.tiles;
        if let Some(begun) = plan.begun.as_ref().filter(is_other) {
            self.global.say(format!(
                "Note: the run was started on {} ({}, fmnist-gpu {}); here the last bits may come out differently.",
                begun.device, begun.driver, begun.version
            ));
        }
        self.global.say(format!("\n{}", summary(&plan.model)?));
        Ok(())
    }

    /// Shows an event.
    pub fn show(&mut self, event: SessionEvent<'_>) {
        match event {
            SessionEvent::Training(event) => self.training(event),
            SessionEvent::Saved(record) if self.json => terminal::print(&self.epoch_json(record)),
            SessionEvent::Saved(_) => {}
            SessionEvent::Evaluating => self.global.say("Evaluating on the test set"),
            SessionEvent::Finished(finished) => self.result(finished),
            SessionEvent::Reported(page) => self.global.say(format!("Report: {}", page.shown())),
        }
    }

    /// The line of an epoch for programs, such as schedulers of many runs.
    fn epoch_json(&self, record: &EpochRecord) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            /// Steps done since the start of training.
            step: u64,
            /// Seconds since 1970, UTC.
            timestamp: f64,
            #[serde(flatten)]
            record: &'a EpochRecord,
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let timestamp = now.as_millis() as f64 / 1e3;
        to_json(&Line { step: record.epoch * self.batches as u64, timestamp, record })
    }

    fn training(&mut self, event: &Event) {
        match event {
            Event::EpochStarted { epoch, batches } => self.start(*epoch, *batches),
            Event::Progress { epoch, totals, seconds } => self.progress(*epoch, totals, *seconds),
            Event::Paused => {}
            Event::EpochFinished(record) => {
                self.clear();
                self.global.say(epoch_line(record, self.session.config.epochs));
            }
            Event::Ended(_) => self.clear(),
        }
    }

    fn start(&mut self, epoch: u64, batches: usize) {
        if !self.has_begun {
            log::debug!("engine ready");
        }
        self.batches = batches;
        self.last_line = Instant::now();
        if self.style == Style::Bar {
            // With a style from the start: the first step may take seconds, and the crate's own bar is a wall of blocks.
            let bar = ProgressBar::with_draw_target(Some(batches as u64), terminal::bars())
                .with_style(style("{prefix} {wide_msg}"))
                .with_prefix(format!("Epoch {epoch}/{}", self.session.config.epochs))
                .with_message("starting");
            bar.tick();
            self.bar = Some(bar);
        }
    }

    fn progress(&mut self, epoch: u64, totals: &Totals, seconds: f64) {
        if !std::mem::replace(&mut self.has_begun, true) {
            log::debug!("first training step done");
        }
        if let Some(bar) = &self.bar {
            let left = seconds_left(self.batches, totals, seconds);
            // The window may have been resized in the meantime.
            let (template, message) = fitted(usize::from(terminal::columns()), totals, seconds, left);
            bar.set_style(style(template));
            bar.set_message(message);
            bar.set_position(totals.batches as u64);
        } else if let Some(line) = self.style.line(self.last_line.elapsed(), self.batches, totals, seconds) {
            self.last_line = Instant::now();
            terminal::say(format_args!("Epoch {epoch}/{} {line}", self.session.config.epochs));
        }
    }

    /// Removes the bar.
    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Shows what came out.
    fn result(&self, finished: &Finished) {
        let Finished { trained, summary, test, images } = finished;
        if self.json {
            terminal::print(&to_json(summary));
        }
        if let Outcome::NonFinite { epoch, step, cause } = &trained.outcome {
            let rate = self.session.plan.recipe.learning_rate;
            return terminal::complain(non_finite(*epoch, *step, cause.as_ref(), rate, self.folder));
        }
        if let Some(best) = summary.best_epoch {
            let stopped = match trained.position.history.len() as u64 {
                done if done < summary.epochs => {
                    format!("Stopped after epoch {done}: the validation loss falls no more. ")
                }
                _ => String::new(),
            };
            self.global
                .say(format!("{stopped}The weights are those of epoch {best}, with the lowest validation loss."));
        }
        if !self.json {
            terminal::print(&match test {
                Some(test) => self.verdict(test),
                None => format!(
                    "Interrupted after {} of {}; resume with: {}",
                    summary.epochs_completed,
                    counted(summary.epochs as usize, "epoch"),
                    resume_command(self.folder)
                ),
            });
        }
        for path in images {
            self.global.say(format!("Image: {}", path.shown()));
        }
        self.global.say(format!("Run: {}", self.folder.path().shown()));
    }

    /// The result on the test set, and the article's example.
    fn verdict(&self, Evaluation { totals, probabilities, one_view }: &Evaluation) -> String {
        let dataset = &self.session.dataset;
        let row = &probabilities[..dataset.description.classes()];
        let (predicted, original) = (argmax(row), usize::from(dataset.test.labels[0]));
        let name = |class: usize| dataset.description.class_name(class);
        format!(
            "Test loss {:.4}, test accuracy {:.4} (dataset: {}{})\n\
             First test image: original class {original} ({}), predicted class {predicted} ({})",
            totals.mean_loss(),
            totals.accuracy(),
            dataset.kind,
            by_views(self.session.plan.model.predict.views, one_view.as_ref()),
            name(original),
            name(predicted)
        )
    }
}

/// Says that a checkpoint cannot be used.
pub fn damaged(checkpoint: &Path, error: &CheckpointError) {
    terminal::complain(format_args!("{} is not used: {error}", checkpoint.shown()));
}

/// Where the run in a folder goes on.
pub fn resuming(run: &Path, found: &Resumable) -> String {
    let Some((file, checkpoint)) = &found.checkpoint else {
        return format!("{} has no checkpoint yet: starting at step 0", run.shown());
    };
    let position = &checkpoint.position;
    let steps = match position.done.batches {
        0 => String::new(),
        steps => format!(", and {} of the next", counted(steps, "step")),
    };
    format!("Resuming from {}: {} done{steps}", file.shown(), counted(position.history.len(), "epoch"))
}

/// Says that a file could not be written.
pub fn failed(error: &WriteError) {
    terminal::complain(format_args!("{}; training continues", with_causes(error)));
}

/// Whatever is said next, an error too, comes after the bar.
impl Drop for Display<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn state(totals: &Totals, seconds: f64) -> String {
    let speed = totals.samples as f64 / seconds;
    format!("loss {:.4}, accuracy {:.4}, {speed:.0} images/s", totals.mean_loss(), totals.accuracy())
}

/// Template and message of a bar that fits into one line of `columns`. The most wanted comes first: how far, the loss, how long.
fn fitted(columns: usize, totals: &Totals, seconds: f64, left: f64) -> (&'static str, String) {
    match columns {
        110.. => ("{prefix} {pos}/{len} {bar:25} {msg}", format!("{}, {left:.0} s left", state(totals, seconds))),
        64.. => (
            "{prefix} {percent:>3}% {wide_msg}",
            format!("loss {:.4}, accuracy {:.4}, {left:.0} s left", totals.mean_loss(), totals.accuracy()),
        ),
        // `wide_msg` truncates longer messages at the edge.
        _ => ("{prefix} {percent:>3}% {wide_msg}", format!("loss {:.3}, {left:.0} s", totals.mean_loss())),
    }
}

/// The line that stays when an epoch is done.
fn epoch_line(record: &EpochRecord, epochs: u64) -> String {
    let validation = record.val_loss.zip(record.val_accuracy);
    let validation = validation
        .map_or(String::new(), |(loss, accuracy)| format!(", validation loss {loss:.4}, accuracy {accuracy:.4}"));
    format!(
        "Epoch {}/{epochs}: loss {:.4}, accuracy {:.4}{validation}, {:.1} s, {:.0} images/s",
        record.epoch, record.loss, record.accuracy, record.seconds, record.images_per_second
    )
}

/// The seconds that the rest of an epoch of so many batches takes, if it goes on as it did for `seconds`.
fn seconds_left(batches: usize, totals: &Totals, seconds: f64) -> f64 {
    batches.saturating_sub(totals.batches) as f64 * seconds / totals.batches.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_that_of_the_batches_left() {
        let after = |batches| seconds_left(40, &Totals { batches, ..Totals::default() }, 6.0);
        assert_eq!(
            [after(0), after(1), after(10), after(30), after(40), after(41)],
            [240.0, 234.0, 18.0, 2.0, 0.0, 0.0]
        );
    }

    #[test]
    fn the_style_follows_the_surroundings() {
        let with = |quiet, is_terminal, set: &[(&str, &str)]| {
            Style::choose(quiet, is_terminal, |name| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
            })
        };
        let lines = |seconds| Style::Lines(Duration::from_secs(seconds));
        assert_eq!(with(true, true, &[]), Style::Nothing);
        assert_eq!(with(false, true, &[("TERM", "xterm")]), Style::Bar);
        assert_eq!(with(false, true, &[("TERM", "dumb")]), lines(10));
        assert_eq!(with(false, false, &[("TERM", "xterm")]), lines(10));
        assert_eq!(with(false, true, &[("CI", "true")]), lines(30));
        assert_eq!(with(false, true, &[("CI", "false"), ("TERM", "xterm")]), Style::Bar);
    }

    #[test]
    fn a_line_is_due_after_its_interval_and_before_the_epoch_is_done() {
        let line = |style: Style, since_last, batches| {
            let totals = Totals { loss: 123.4, correct: 250, samples: 320, batches };
            style.line(Duration::from_secs_f64(since_last), 20, &totals, 6.4)
        };
        let every_ten = Style::Lines(Duration::from_secs(10));
        let expected = Some("10/20: loss 0.3856, accuracy 0.7812, 50 images/s, 6 s left");
        assert_eq!(line(every_ten, 10.0, 10).as_deref(), expected);
        assert!(line(every_ten, 11.0, 19).is_some());
        assert_eq!([line(every_ten, 9.9, 10), line(every_ten, 11.0, 20)], [None, None]);
        assert_eq!([line(Style::Nothing, 11.0, 10), line(Style::Bar, 11.0, 10)], [None, None]);
    }

    #[test]
    fn a_bar_fits_its_window() {
        let totals = Totals { loss: 123.4, correct: 250, samples: 320, batches: 10 };
        for (columns, needed) in [(110, "Epoch 10/10 1875/1875 ".len() + 25 + 1), (64, "Epoch 10/10 100% ".len())] {
            let (_, message) = fitted(columns, &totals, 9999.9, 86_400.0);
            assert!(needed + message.len() <= columns, "{columns}: {message}");
        }
        let (_, message) = fitted(110, &totals, 6.4, 12.0);
        assert_eq!(message, "loss 0.3856, accuracy 0.7812, 50 images/s, 12 s left");
        let (template, message) = fitted(40, &totals, 1.0, 12.0);
        assert!(template.contains("wide_msg") && message.starts_with("loss 0.386, 12 s"), "{message}");
    }

    #[test]
    fn the_epoch_line_has_validation_where_there_is_some() {
        let mut record = EpochRecord {
            epoch: 2,
            loss: 0.5,
            accuracy: 0.8,
            val_loss: None,
            val_accuracy: None,
            seconds: 3.0,
            images_per_second: 100.0,
        };
        assert_eq!(epoch_line(&record, 5), "Epoch 2/5: loss 0.5000, accuracy 0.8000, 3.0 s, 100 images/s");
        (record.val_loss, record.val_accuracy) = (Some(0.25), Some(0.9));
        assert!(epoch_line(&record, 5).contains("validation loss 0.2500, accuracy 0.9000, 3.0 s"));
    }
}
