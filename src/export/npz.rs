//! NumPy's npz: the parameters under this program's names, in the layout of [`crate::model::weights::LAYOUT`].

use super::{ExportError, checked_shapes, python};
use crate::model::Model;
use std::io::{Cursor, Write};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// Returns the bytes of an npz with an array per parameter, for example `conv2d_1.weight` `[KH, KW, C, O]`, in the
/// model's order.
///
/// # Errors
/// The model cannot be built, or the parameters do not belong to it.
pub fn to_bytes(model: &Model, parameters: &[Vec<f32>]) -> Result<Vec<u8>, ExportError> {
    checked_shapes(model, parameters)?;
    let expected = model.parameters()?;
    archive(expected.iter().zip(parameters).map(|(p, values)| (p.name.as_str(), &p.shape[..], &values[..])))
}

/// Returns the Python code that opens the npz at `file`.
pub fn python(file: &str) -> String {
    format!(
        "import numpy as np\n\
         \n\
         weights = np.load({})\n\
         for name in weights.files:\n    \
             print(name, weights[name].shape)\n",
        python::text(file)
    )
}

/// Creates an npz of single-precision arrays from names, shapes and values. The bytes are reproducible: no timestamps,
/// no compression.
pub(super) fn archive<'a>(
    arrays: impl Iterator<Item = (&'a str, &'a [usize], &'a [f32])>,
) -> Result<Vec<u8>, ExportError> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, shape, values) in arrays {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .unix_permissions(0o644)
            // Above 4 GiB, the size fields must be larger.
            .large_file(size_of_val(values) as u64 + 1024 > u64::from(u32::MAX));
        zip.start_file(format!("{name}.npy"), options)?;
        zip.write_all(&npy_header(shape)).map_err(zip::result::ZipError::from)?;
        zip.write_all(&little_endian(values)).map_err(zip::result::ZipError::from)?;
    }
    Ok(zip.finish()?.into_inner())
}

/// Returns the header of a .npy file, version 1.0, row-major, single precision. Source: numpy.lib.format.
fn npy_header(shape: &[usize]) -> Vec<u8> {
    const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    // In Python, a tuple of one element has a trailing comma.
    let comma = if shape.len() == 1 { "," } else { "" };
    let mut text =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}{comma}), }}", sizes.join(", ")).into_bytes();
    // The values start at a multiple of 64 bytes; the text is padded with spaces and ends with a newline.
    let before = MAGIC.len() + size_of::<u16>();
    text.resize((before + text.len() + 1).next_multiple_of(64) - before - 1, b' ');
    text.push(b'\n');
    let length = u16::try_from(text.len()).expect("at most four sizes of 20 digits");
    [MAGIC, &length.to_le_bytes(), &text].concat()
}

/// Returns the values as little-endian bytes.
pub(super) fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
