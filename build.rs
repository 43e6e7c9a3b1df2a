//! Embeds the page, `web/dist`, if `web/build.sh` has built it: each file, compressed, in the list that `src/cli/page.rs` includes. For the page
//! itself, writes the shaders without their comments.

use flate2::Compression;
use flate2::write::GzEncoder;
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    if env::var("CARGO_CFG_TARGET_FAMILY").is_ok_and(|family| family == "wasm") {
        println!("cargo:rerun-if-changed=shaders");
        return without_comments(Path::new("shaders"), &out.join("shaders"));
    }
    println!("cargo:rerun-if-changed=web/dist");
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

/// Copies the shaders in a folder and in those below it, without comments, indentation and empty lines.
fn without_comments(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let copy = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            without_comments(&path, &copy)?;
            continue;
        }
        let text = fs::read_to_string(&path)?;
        // WGSL has no strings, and no shader here has a comment of several lines.
        let code = text.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
        let code: Vec<&str> = code.filter(|line| !line.is_empty()).collect();
        fs::write(copy, code.join("\n") + "\n")?;
    }
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
