//! The page that trains in a browser (`web/`), as `web/build.sh` has built it.

use anyhow::{Result, bail};
use flate2::bufread::GzDecoder;
use fmnist_gpu::files::read_stream;

/// Its files, compressed, by their names; none if this program was built without it. A constant would be in the program once for each unit of code
/// that reads it.
pub static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// No file of the page is larger.
const MAX_BYTES: u64 = 64 << 20;

/// Refuses what needs the page where this program has none.
pub fn check() -> Result<()> {
    if FILES.is_empty() {
        bail!(
            "this program was built without the page; in its source folder, run `sh web/build.sh`, then `cargo build --release` again"
        );
    }
    Ok(())
}

/// A file of the page; `None` if there is none of this name.
pub fn file(name: &str) -> Option<Vec<u8>> {
    let (_, packed) = FILES.iter().find(|(known, _)| *known == name)?;
    Some(read_stream(GzDecoder::new(*packed), MAX_BYTES).expect("the build script compressed it"))
}
