//! The report of a run, with the times of the kernels, in files.

use super::WriteError;
use crate::engine::StepConfig;
use crate::files::{check_target, write_whole};
use crate::report::metrics::Metrics;
use crate::report::run_page::{Report, report_files};
use crate::session::Device;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Times the kernels of a training step on `device`, and writes `report.html`, `report.json` and the images into `folder`; returns the number
/// of files and the figures.
///
/// # Errors
/// The device failed, a file exists and `overwrite` is off, a file cannot be written, or the user interrupted.
pub async fn write_report(
    report: &Report<'_>,
    device: &Device,
    folder: &Path,
    overwrite: bool,
    interrupt: &AtomicBool,
) -> Result<(usize, Metrics), WriteError> {
    let go_on = || if interrupt.load(Ordering::Relaxed) { Err(WriteError::Interrupted) } else { Ok(()) };
    go_on()?;
    let Report { model, parameters, test, config, .. } = *report;
    let (batch_size, step) =
        config.map_or((32, StepConfig::default()), |config| (config.batch_size, config.step().unwrap_or_default()));
    let tiles = config.and_then(|config| config.tiles).unwrap_or_default();
    let times = device.kernel_times(model, parameters, test, batch_size, &step, tiles);
    let times = times.await.map_err(WriteError::KernelTimes)?;
    go_on()?;
    let (metrics, files) = report_files(report, times.as_ref()).map_err(WriteError::Report)?;
    go_on()?;
    // All or none: a report of which half is old would mislead.
    for file in &files {
        check_target(&folder.join(&file.name), overwrite).map_err(WriteError::ReportExists)?;
    }
    for file in &files {
        write_whole(&folder.join(&file.name), &file.bytes, overwrite).map_err(WriteError::ReportFile)?;
    }
    Ok((files.len(), metrics))
}
