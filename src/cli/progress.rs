//! The progress of training: a bar in a terminal, plain lines in a pipe or under continuous integration, nothing with `--quiet`.

use super::terminal;
use fmnist_gpu::engine::Totals;
use fmnist_gpu::train::{EpochRecord, Event};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Shows the progress of training on standard error. Without colours, so that there is nothing for `NO_COLOR` to turn off.
pub struct Display {
    style: Style,
    epochs: u64,
    bar: Option<ProgressBar>,
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
}

impl Display {
    /// A display for a number of epochs.
    pub fn new(quiet: bool, epochs: u64) -> Self {
        let style = Style::choose(quiet, std::io::stderr().is_terminal(), |name| std::env::var(name).ok());
        Display { style, epochs, bar: None, batches: 0, last_line: Instant::now() }
    }

    /// Shows an event.
    pub fn show(&mut self, event: &Event) {
        match event {
            _ if self.style == Style::Nothing => {}
            Event::EpochStarted { epoch, batches } => self.start(*epoch, *batches),
            Event::Progress { epoch, totals, seconds } => self.progress(*epoch, totals, *seconds),
            Event::Paused | Event::Ended(_) => {}
            Event::EpochFinished(record) => {
                self.clear();
                terminal::say(epoch_line(record, self.epochs));
            }
        }
    }

    fn start(&mut self, epoch: u64, batches: usize) {
        self.batches = batches;
        self.last_line = Instant::now();
        if self.style == Style::Bar {
            // With a style from the start: the first step may take seconds, and the crate's own bar is a wall of blocks.
            let bar = ProgressBar::with_draw_target(Some(batches as u64), terminal::bars())
                .with_style(style("{prefix} {wide_msg}"))
                .with_prefix(format!("Epoch {epoch}/{}", self.epochs))
                .with_message("starting");
            bar.tick();
            self.bar = Some(bar);
        }
    }

    fn progress(&mut self, epoch: u64, totals: &Totals, seconds: f64) {
        let left = self.batches.saturating_sub(totals.batches) as f64 * seconds / totals.batches.max(1) as f64;
        match (&self.bar, self.style) {
            (Some(bar), _) => {
                // The window may have been resized in the meantime.
                let (template, message) = fitted(usize::from(terminal::columns()), totals, seconds, left);
                bar.set_style(style(template));
                bar.set_message(message);
                bar.set_position(totals.batches as u64);
            }
            (None, Style::Lines(every)) if self.last_line.elapsed() >= every && totals.batches < self.batches => {
                self.last_line = Instant::now();
                let state = state(totals, seconds);
                terminal::say(format_args!(
                    "Epoch {epoch}/{} {}/{}: {state}, {left:.0} s left",
                    self.epochs, totals.batches, self.batches
                ));
            }
            _ => {}
        }
    }

    /// Removes the bar.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_bar_fits_its_window() {
        let totals = Totals { loss: 123.4, correct: 250, samples: 320, batches: 10 };
        for (columns, needed) in [(110, "Epoch 10/10 1875/1875 ".len() + 25 + 1), (64, "Epoch 10/10 100% ".len())] {
            let (_, message) = fitted(columns, &totals, 9999.9, 86_400.0);
            assert!(needed + message.len() <= columns, "{columns}: {message}");
        }
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
