//! The file of choices.

use super::TileChoices;
use crate::engine::{EngineError, StepConfig};
use crate::files::{ShownPath, read_bounded, write_whole};
use crate::gpu::{Gpu, Tiling};
use crate::model::Model;
use crate::ops::SharedTiles;
use std::path::Path;

/// Maximum number of choices in the file; the oldest are removed.
const KEPT: usize = 64;
/// The largest file of choices that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Returns the tiles with which `model` trains fastest on this GPU.
///
/// Looks in the file `kept` first, and adds the choice to it. If the file cannot be read or written, only time is lost.
///
/// # Errors
/// The model cannot be built at that batch size, or the device failed.
pub async fn autotune(
    gpu: &Gpu,
    model: &Model,
    batch_size: usize,
    config: &StepConfig,
    kept: Option<&Path>,
) -> Result<SharedTiles, EngineError> {
    // Other devices have one tiling, and nothing to keep.
    let kept = kept.filter(|_| gpu.tiling() == Tiling::Shared);
    let mut choices = kept.map(TileChoices::read).unwrap_or_default();
    let known = choices.choices.len();
    let tiles = choices.choose(gpu, model, batch_size, config).await?;
    if let Some(path) = kept.filter(|_| choices.choices.len() > known) {
        choices.write(path);
    }
    Ok(tiles)
}

impl TileChoices {
    fn read(path: &Path) -> TileChoices {
        let read = || -> Result<TileChoices, String> {
            match read_bounded(path, MAX_FILE_BYTES) {
                Ok(bytes) => TileChoices::parse(&bytes),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(TileChoices::default()),
                Err(error) => Err(error.to_string()),
            }
        };
        read().unwrap_or_else(|reason| {
            log::info!("{} is ignored: {reason}", path.shown());
            TileChoices::default()
        })
    }

    fn write(mut self, path: &Path) {
        let excess = self.choices.len().saturating_sub(KEPT);
        self.choices.drain(..excess);
        let write = || -> Result<(), Box<dyn std::error::Error>> {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            Ok(write_whole(path, &serde_json::to_vec_pretty(&self)?, true)?)
        };
        if let Err(reason) = write() {
            log::info!("the choice of tiles could not be saved: {reason}");
        }
    }
}
