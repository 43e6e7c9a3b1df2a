//! Training as a user means it: settings, data and device in, events and results out.
//!
//! A [`Plan`] is made from settings and a model file, or from the run that is resumed ([`Resumable`]). A [`Session`] adds a [`Device`] and a
//! data set. [`Session::train`] carries it out and writes a run folder; [`Training`] does so without files. A [`Speedrun`] times how
//! long it takes to reach an accuracy. The command line, the examples and the tests drive these same calls.

mod device;
#[cfg(feature = "disk")]
mod disk;
mod plan;
#[cfg(feature = "native")]
mod processor;
mod speedrun;
mod training;
pub mod views;

pub use device::Device;
#[cfg(feature = "disk")]
pub use disk::{Finished, Resumable, ResumeError, RunOptions, SessionEvent, TrainError, WriteError, write_report};
pub use plan::{Given, Plan, PlanError};
pub use speedrun::{Speedrun, SpeedrunError, Speedruns, TimedEpoch, TimedRun};
pub use training::{Session, Training};
pub use views::Evaluation;
