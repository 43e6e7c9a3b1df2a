//! The clock of the core: that of the standard library, which does not run in browsers, and there the browser's.

pub(crate) use web_time::Instant;
