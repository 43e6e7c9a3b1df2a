//! Compiled pipelines kept between runs, if the backend supports it (Vulkan).
//!
//! A file created by [`pack`] contains the driver's data behind a header: magic, program version, adapter with driver,
//! length, SHA-256. A file that is damaged, or from another adapter, driver or version, is ignored until it is
//! replaced: the worst that a bad file can cause is a slower start.

use super::kernel::Scopes;
use crate::files::{ShownPath, read_bounded, write_whole};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;

/// The maximum number of bytes read from a file: far more than the kernels of one program take.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

const MAGIC: &[u8; 8] = b"FMGPUPC1";
const DIGEST_BYTES: usize = 32;

/// Why the content of a file is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unusable {
    /// It does not start with the magic bytes.
    #[error("it is not a pipeline cache file")]
    NotOurs,
    /// It was written by another version of the program.
    #[error("it was written by another version of the program")]
    OtherVersion,
    /// It was created on another adapter or by another driver.
    #[error("it is from another adapter or driver")]
    OtherAdapter,
    /// Bytes are missing, left over or altered.
    #[error("it is damaged")]
    Damaged,
}

/// Returns the content of a file with `data` from the given adapter and driver (`adapter`), written by `version` of the
/// program.
pub fn pack(version: &str, adapter: &str, data: &[u8]) -> Vec<u8> {
    let mut file = MAGIC.to_vec();
    for text in [version, adapter] {
        file.extend((text.len() as u64).to_le_bytes());
        file.extend(text.as_bytes());
    }
    file.extend((data.len() as u64).to_le_bytes());
    file.extend(Sha256::digest(data));
    file.extend(data);
    file
}

/// Returns the data of a file created by [`pack`] with the same `version` and `adapter`.
///
/// # Errors
/// The file is not such a file, or was altered since.
pub fn unpack<'f>(version: &str, adapter: &str, file: &'f [u8]) -> Result<&'f [u8], Unusable> {
    let mut rest = file.strip_prefix(MAGIC).ok_or(Unusable::NotOurs)?;
    for (expected, other) in [(version, Unusable::OtherVersion), (adapter, Unusable::OtherAdapter)] {
        let length = take_length(&mut rest)?;
        if take(&mut rest, length)? != expected.as_bytes() {
            return Err(other);
        }
    }
    let length = take_length(&mut rest)?;
    let digest = take(&mut rest, DIGEST_BYTES as u64)?;
    if rest.len() as u64 != length || Sha256::digest(rest)[..] != *digest {
        return Err(Unusable::Damaged);
    }
    Ok(rest)
}

/// Removes the first `n` bytes and returns them.
fn take<'f>(rest: &mut &'f [u8], n: u64) -> Result<&'f [u8], Unusable> {
    let n = usize::try_from(n).map_err(|_| Unusable::Damaged)?;
    rest.split_off(..n).ok_or(Unusable::Damaged)
}

fn take_length(rest: &mut &[u8]) -> Result<u64, Unusable> {
    let (length, others) = rest.split_first_chunk().ok_or(Unusable::Damaged)?;
    *rest = others;
    Ok(u64::from_le_bytes(*length))
}

/// The pipelines of one device, with the file that they are read from and written to.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    adapter: String,
    cache: wgpu::PipelineCache,
    /// The data found in the file; empty if it was not used.
    loaded: Vec<u8>,
    /// Whether pipelines were compiled since.
    compiled: AtomicBool,
}

impl Store {
    /// Opens the pipelines of earlier runs from `folder`; `None` if the backend keeps none.
    ///
    /// No problem with the file or the folder is an error.
    pub(super) async fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo, folder: &Path) -> Option<Self> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let name = wgpu::util::pipeline_cache_key(info)?;
        // wgpu's key is vendor and device; an updated driver must not read what its predecessor wrote.
        let adapter = format!("{name} {} {} {}", info.name, info.driver, info.driver_info);
        let path = folder.join(format!("{name}.bin"));
        let mut loaded = Vec::new();
        match read_bounded(&path, MAX_FILE_BYTES) {
            Ok(file) => match unpack(env!("CARGO_PKG_VERSION"), &adapter, &file) {
                Ok(data) => loaded = data.to_vec(),
                Err(reason) => log::debug!("the pipeline cache {} is not used: {reason}", path.shown()),
            },
            Err(error) => log::debug!("no pipelines read from {}: {error}", path.shown()),
        }
        let from = async |data: &[u8]| {
            let scopes = Scopes::push(device);
            // SAFETY: the bytes must have been returned by `PipelineCache::get_data` earlier. They come from the
            // program's own cache folder, where only `Store::save` writes such files, with what `get_data` returned;
            // `unpack` has checked by length and SHA-256 that nothing was altered since, and that the program's
            // version, the adapter and its driver are the same. wgpu also compares vendor, device and driver version,
            // and the driver checks its own identity. Empty data is passed as none.
            let cache = unsafe {
                device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor {
                    label: Some("pipelines"),
                    data: (!data.is_empty()).then_some(data),
                    fallback: true,
                })
            };
            match scopes.pop().await {
                None => Some(cache),
                Some(error) => {
                    log::debug!("wgpu rejects {} bytes of pipelines: {error}", data.len());
                    None
                }
            }
        };
        let mut cache = from(&loaded).await;
        // Rejected data is replaced when the device is dropped.
        if cache.is_none() && !std::mem::take(&mut loaded).is_empty() {
            cache = from(&[]).await;
        }
        let cache = cache?;
        log::debug!("{} bytes of pipelines read from {}", loaded.len(), path.shown());
        Some(Store { path, adapter, cache, loaded, compiled: AtomicBool::new(false) })
    }

    /// Returns what the driver compiles with.
    pub(super) fn cache(&self) -> &wgpu::PipelineCache {
        &self.cache
    }

    /// Notes that pipelines were compiled.
    pub(super) fn note_compiled(&self) {
        self.compiled.store(true, Ordering::Relaxed);
    }

    /// Writes the file if pipelines were compiled and the driver's data now differs from the file's.
    ///
    /// A failure only makes the next start slower.
    pub(super) fn save(&self) {
        if !self.compiled.swap(false, Ordering::Relaxed) {
            return;
        }
        let Some(data) = self.cache.get_data().filter(|data| *data != self.loaded) else { return };
        let file = pack(env!("CARGO_PKG_VERSION"), &self.adapter, &data);
        let shown = self.path.shown();
        if file.len() as u64 > MAX_FILE_BYTES {
            log::debug!("{} bytes of pipelines are too many to write to {shown}", file.len());
            return;
        }
        match write(&self.path, &file) {
            Ok(()) => log::debug!("{} bytes of pipelines written to {shown}", data.len()),
            Err(reason) => log::debug!("the pipelines were not saved: {reason}"),
        }
    }
}

fn write(path: &Path, file: &[u8]) -> Result<(), String> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.shown()))?;
    write_whole(path, file, true).map_err(|error| error.to_string())
}
