//! Folders of the four files.

use super::{DataFile, FileSet, check_hash, sha256_hex, split};
use crate::data::Split;
use crate::data::error::DataError;
use crate::data::idx::{self, Idx};
use crate::files::{ShownPath, read_bounded};
use crate::threads::{beside, in_parallel};
use std::io;
use std::path::{Path, PathBuf};

/// Where the files may be in a data folder: directly, where torchvision puts them, or in torchvision's own folder.
const SUBFOLDERS: [&str; 3] = ["", "FashionMNIST/raw", "raw"];

/// Reads a data set, [`FILES`](super::FILES) for Fashion-MNIST, from a folder; returns the training set and the test set.
///
/// Each file may be plain or compressed (`.gz`), directly in the folder or in its subfolders `FashionMNIST/raw` or
/// `raw`. The SHA-256 of every file is verified, and the images must be 28 x 28 with labels 0 to 9. The four files are
/// read in parallel.
pub fn load_from_dir(dir: &Path, files: &FileSet) -> Result<(Split, Split), DataError> {
    if !dir.is_dir() {
        return Err(DataError::NotAFolder(dir.into()));
    }
    let folder =
        find_folder(dir, files).ok_or_else(|| DataError::NoFiles { dir: dir.into(), expected: files.names() })?;
    let missing: Vec<String> = files.names().into_iter().filter(|name| !has_file(&folder, name)).collect();
    if !missing.is_empty() {
        return Err(DataError::MissingFiles { dir: folder, missing });
    }
    let folder = folder.as_path();
    let load = |(file, rank)| move || load_file(folder, file, rank);
    let mut loaded = in_parallel(files.with_ranks().map(load)).into_iter();
    let mut next = || loaded.next().expect("one result per file");
    let (train_images, train_labels, test_images, test_labels) = (next(), next(), next(), next());
    Ok((split(train_images?, train_labels?)?, split(test_images?, test_labels?)?))
}

/// Returns the folder at or below `dir` that contains most of the files, if any contains one.
pub(in crate::data) fn find_folder(dir: &Path, files: &FileSet) -> Option<PathBuf> {
    let names = files.names();
    let mut best = (0, None);
    for subfolder in SUBFOLDERS {
        let folder = if subfolder.is_empty() { dir.to_path_buf() } else { dir.join(subfolder) };
        let n_found = names.iter().filter(|name| has_file(&folder, name)).count();
        if n_found > best.0 {
            best = (n_found, Some(folder));
        }
    }
    best.1
}

fn has_file(folder: &Path, name: &str) -> bool {
    folder.join(format!("{name}.gz")).exists() || folder.join(name).exists()
}

/// Reads one file from exactly this folder: the compressed one, or else the plain one. Returns its path as shown in errors, and its
/// content.
///
/// The error is that of the first of the two that exists.
pub(in crate::data) fn load_file(folder: &Path, file: &DataFile, rank: usize) -> Result<(String, Idx), DataError> {
    let mut first_error = None;
    for name in [file.gz_name(), file.name.to_string()] {
        match load_path(&folder.join(name), file, rank) {
            Ok(loaded) => return Ok(loaded),
            Err(DataError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                first_error.get_or_insert(error);
            }
        }
    }
    Err(first_error
        .unwrap_or_else(|| DataError::MissingFiles { dir: folder.into(), missing: vec![file.name.to_string()] }))
}

fn load_path(path: &Path, file: &DataFile, rank: usize) -> Result<(String, Idx), DataError> {
    let shown = path.shown();
    let (file_bytes, limit) = (idx::regular_file_size(path)?, file.max_bytes());
    if file_bytes > limit {
        return Err(DataError::TooLarge { file: shown, found: file_bytes, expected: file.gz_bytes, limit });
    }
    let bytes = read_bounded(path, limit).map_err(|source| match source.kind() {
        io::ErrorKind::OutOfMemory => DataError::OutOfMemory { file: shown.clone(), bytes: file_bytes },
        _ => DataError::io("read", path)(source),
    })?;
    // Decompressing the training images takes about as long as hashing without hardware support, so both run at once.
    let (hash, parsed) = beside(|| sha256_hex(&[&bytes]), || idx::parse(&shown, &bytes, rank));
    let idx = parsed?;
    check_hash(&shown, &bytes, hash, &idx, file)?;
    Ok((shown, idx))
}
