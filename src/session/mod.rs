//! Training and evaluation as a user means them: settings, data and device in, events and results out.
//!
//! A [`Plan`] is made from settings and a model file, or from the run that is resumed. [`Training`] carries it out on a [`Device`]. The
//! command line, the examples and the tests drive these same calls.

mod device;
mod plan;
#[cfg(feature = "native")]
mod processor;
mod training;

pub use device::Device;
pub use plan::{Given, Plan, PlanError};
pub use training::Training;
