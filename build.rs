//! Embeds the page, `web/dist`, if `web/build.sh` has built it: each file, compressed, in the list that `src/cli/page.rs` includes.

use flate2::Compression;
use flate2::write::GzEncoder;
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=web/dist");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut list = String::from("&[\n");
    for path in page(Path::new("web/dist"))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&fs::read(&path)?)?;
        let packed = out.join(format!("{name}.gz"));
        fs::write(&packed, encoder.finish()?)?;
        list += &format!("    ({name:?}, include_bytes!({packed:?})),\n");
    }
    fs::write(out.join("page.rs"), list + "]\n")?;
    Ok(())
}

/// The files of the page, sorted; none if it was not built whole. A data set may lie in a folder beside them.
fn page(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    if !folder.join("index.html").exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, std::io::Error>>()?;
    let is_hidden = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let mut files: Vec<PathBuf> = entries.into_iter().filter(|path| path.is_file() && !is_hidden(path)).collect();
    files.sort();
    Ok(files)
}
