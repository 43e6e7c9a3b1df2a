//! NumPy archives: a zip file of uncompressed `.npy` arrays, opened by `numpy.load`.
//!
//! Source: NumPy's `numpy.lib.format`, version 1.0.

use super::{ExportError, Exported, Format};
use crate::model::Model;
use std::fmt::Write as _;
use std::io::{Cursor, Write as _};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// One array of an archive.
pub(super) struct Array<'a> {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) values: &'a [f32],
}

/// `model.npz`: the parameters under their own names and in their own layouts.
pub(super) fn export(model: &Model, parameters: &[Vec<f32>]) -> Result<Exported, ExportError> {
    let arrays = model.parameters()?.into_iter().zip(parameters);
    let arrays: Vec<Array<'_>> = arrays.map(|(p, values)| Array { name: p.name, shape: p.shape, values }).collect();
    let python = "import numpy as np\nparameters = dict(np.load(\"{file}\"))\n\
                  print({name: array.shape for name, array in parameters.items()})";
    Ok(Exported { bytes: archive(Format::Npz, &arrays)?, python: python.to_string() })
}

/// The bytes of an archive: the same for the same arrays, as every entry has the same date.
pub(super) fn archive(format: Format, arrays: &[Array<'_>]) -> Result<Vec<u8>, ExportError> {
    let fail = |reason: String| ExportError::Encode { format, reason };
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default());
    for array in arrays {
        zip.start_file(format!("{}.npy", array.name), options).map_err(|error| fail(error.to_string()))?;
        zip.write_all(&npy(array)).map_err(|error| fail(error.to_string()))?;
    }
    Ok(zip.finish().map_err(|error| fail(error.to_string()))?.into_inner())
}

/// One array as a `.npy` file: little-endian single precision, row-major.
fn npy(array: &Array<'_>) -> Vec<u8> {
    const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
    let mut shape = String::new();
    for size in &array.shape {
        // Writing to a string cannot fail.
        let _ = write!(shape, "{size}, ");
    }
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", shape.trim_end());
    // Magic, length and header together are a multiple of 64 bytes; the header ends in a line break.
    let before = MAGIC.len() + 2;
    let len = (before + header.len() + 1).next_multiple_of(64) - before;
    while header.len() + 1 < len {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = MAGIC.to_vec();
    bytes.extend((len as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(array.values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}
