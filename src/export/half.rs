//! This program's own safetensors file in half precision: half the size, and it opens as a run.

use super::{ExportError, checked_shapes, python};
use crate::model::{Model, weights};

/// Returns the bytes of the file: the tensors of `model.safetensors`, each value rounded to half precision.
///
/// # Errors
/// The model cannot be built, the parameters do not belong to it, or a value is too large for half precision.
pub fn to_bytes(model: &Model, parameters: &[Vec<f32>]) -> Result<Vec<u8>, ExportError> {
    checked_shapes(model, parameters)?;
    Ok(weights::to_half_bytes(model, parameters)?)
}

/// Returns the Python code that opens the file at `file`.
pub fn python(file: &str) -> String {
    format!(
        "from safetensors.numpy import load_file\n\
         \n\
         for name, weights in load_file({}).items():\n    \
             print(name, weights.dtype, weights.shape)\n",
        python::text(file)
    )
}
