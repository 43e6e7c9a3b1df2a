//! The page that trains in a browser (`web/`), as `web/build.sh` has built it.

use anyhow::{Result, bail};
use flate2::bufread::GzDecoder;
use std::io::Read;

/// Its files, compressed, by their names; none if this program was built without it.
pub const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/page.rs"));

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
    let mut content = Vec::new();
    GzDecoder::new(*packed).read_to_end(&mut content).expect("the build script compressed it");
    Some(content)
}
