//! IDX files of unsigned bytes, plain or gzip: the format of MNIST and of the data sets modelled on it.
//!
//! A file consists of `00 00`, the element type, the number of dimensions, each dimension as a big-endian `u32`, then the
//! elements, row-major. Compression is detected from the first two bytes, not from the name. A file is accepted only if
//! it is exactly what its header announces: nothing missing, nothing after the end, and gzip's checksum matches.
//!
//! Format: <http://yann.lecun.com/exdb/mnist/>, section "File formats".

#[cfg(feature = "disk")]
mod disk;

#[cfg(feature = "disk")]
pub use disk::read;
#[cfg(feature = "disk")]
pub(super) use disk::regular_file_size;

use std::io::{self, Read};

use flate2::bufread::MultiGzDecoder;

use crate::data::DataError;

/// The type code of unsigned bytes.
const UNSIGNED_BYTE: u8 = 0x08;
/// The first two bytes of a gzip stream.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Deflate encodes at most 258 bytes in 2 bits, so no stream expands by more than this factor.
const MAX_INFLATION: u64 = 1032;
/// Limit of the memory that is reserved on the basis of a header alone; beyond it, memory grows with the content.
/// The largest genuine file (47 MB) fits, so it is read with a single allocation.
const MAX_RESERVED: u64 = 64 << 20;

/// Dimensions of an image file: images, rows, columns.
pub const IMAGES_RANK: usize = 3;
/// Dimensions of a label file: labels.
pub const LABELS_RANK: usize = 1;

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idx {
    /// The dimensions: at least one, none of them 0.
    pub shape: Vec<usize>,
    /// The elements, row-major; their number is the product of the dimensions.
    pub payload: Vec<u8>,
}

impl Idx {
    /// Returns the header of this content; followed by the payload, it is the uncompressed file.
    pub(in crate::data) fn header(&self) -> Vec<u8> {
        let mut header = vec![0, 0, UNSIGNED_BYTE, self.shape.len() as u8];
        for &dimension in &self.shape {
            header.extend_from_slice(&(dimension as u32).to_be_bytes());
        }
        header
    }
}

/// Returns whether a file that starts with these bytes is a gzip stream.
pub(super) fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&GZIP_MAGIC)
}

/// Parses the bytes of a file that must have `rank` dimensions, plain or gzip; the values of labels are not checked.
///
/// Errors call the file `name`, and say what was found and what was expected.
pub fn parse(name: &str, bytes: &[u8], rank: usize) -> Result<Idx, DataError> {
    if bytes.is_empty() {
        return Err(DataError::EmptyFile(name.into()));
    }
    let compressed = is_gzip(bytes);
    let reader: Box<dyn Read> = if compressed { Box::new(MultiGzDecoder::new(bytes)) } else { Box::new(bytes) };
    let file_bytes = bytes.len() as u64;
    let mut content = Content { name, compressed, file_bytes, needed_bytes: file_bytes, position: 0, reader };
    let shape = content.shape(rank)?;
    let payload = content.payload(&shape)?;
    Ok(Idx { shape, payload })
}

/// The uncompressed content of a file, read sequentially.
struct Content<'a> {
    name: &'a str,
    compressed: bool,
    file_bytes: u64,
    /// Size of the content, as far as known: what memory must hold.
    needed_bytes: u64,
    /// Bytes of content read so far.
    position: u64,
    reader: Box<dyn Read + 'a>,
}

impl Content<'_> {
    fn shape(&mut self, rank: usize) -> Result<Vec<usize>, DataError> {
        let magic = self.header_word(4)?;
        let (file, found) = (self.name.to_string(), usize::from(magic[3]));
        if magic[..2] != [0, 0] {
            return Err(DataError::NotIdx { file, found: magic });
        }
        if magic[2] != UNSIGNED_BYTE {
            return Err(DataError::ElementType { file, found: magic[2] });
        }
        if found != rank {
            return Err(DataError::Rank { file, found, expected: rank });
        }
        let header_bytes = 4 + 4 * rank as u64;
        let mut shape = Vec::with_capacity(rank);
        for _ in 0..rank {
            let dimension = u32::from_be_bytes(self.header_word(header_bytes)?);
            shape.push(dimension as usize);
        }
        match shape.iter().position(|&dimension| dimension == 0) {
            Some(axis) => Err(DataError::ZeroDimension { file, axis, shape }),
            None => Ok(shape),
        }
    }

    /// Returns the next four bytes of the header; `header_bytes` is its length as far as known.
    fn header_word(&mut self, header_bytes: u64) -> Result<[u8; 4], DataError> {
        let mut word = Vec::with_capacity(4);
        self.read_up_to(4, &mut word)?;
        word.try_into().map_err(|_| self.truncated(self.position, header_bytes))
    }

    fn truncated(&self, found: u64, expected: u64) -> DataError {
        DataError::Truncated { file: self.name.to_string(), found, expected }
    }

    fn payload(&mut self, shape: &[usize]) -> Result<Vec<u8>, DataError> {
        let expected = self.payload_bytes(shape)?;
        let whole = self.position.saturating_add(expected);
        self.needed_bytes = expected;
        let mut payload = Vec::new();
        let reserved = payload.try_reserve_exact(expected.min(MAX_RESERVED) as usize + 1);
        reserved.map_err(|_| self.read_error(io::ErrorKind::OutOfMemory.into()))?;
        // One extra byte detects trailing bytes, and makes the decoder reach the end of the stream and verify it.
        self.read_up_to(expected.saturating_add(1), &mut payload)?;
        match (payload.len() as u64).cmp(&expected) {
            std::cmp::Ordering::Equal => Ok(payload),
            std::cmp::Ordering::Less => Err(self.truncated(self.position, whole)),
            std::cmp::Ordering::Greater => {
                // The size of a plain file shows how much there is; of a stream only one extra byte was read.
                let found = if self.compressed { self.position } else { self.position.max(self.file_bytes) };
                Err(DataError::TrailingBytes { file: self.name.to_string(), found, expected: whole })
            }
        }
    }

    /// Returns the product of the dimensions if a file of this size can hold that much.
    fn payload_bytes(&self, shape: &[usize]) -> Result<u64, DataError> {
        let file_bytes = self.file_bytes;
        let possible_bytes = if self.compressed { file_bytes.saturating_mul(MAX_INFLATION) } else { file_bytes };
        let product = shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n as u64));
        match product {
            Some(bytes) if bytes <= possible_bytes => Ok(bytes),
            Some(bytes) if !self.compressed => Err(self.truncated(file_bytes, bytes.saturating_add(self.position))),
            _ => {
                let (file, shape) = (self.name.to_string(), shape.to_vec());
                Err(DataError::ImpossibleShape { file, shape, file_bytes, possible_bytes })
            }
        }
    }

    /// Appends `n` bytes to `buffer`, or fewer if the content ends.
    fn read_up_to(&mut self, n: u64, buffer: &mut Vec<u8>) -> Result<(), DataError> {
        let before = buffer.len();
        let result = (&mut self.reader).take(n).read_to_end(buffer);
        self.position += (buffer.len() - before) as u64;
        result.map(|_| ()).map_err(|source| self.read_error(source))
    }

    fn read_error(&self, source: io::Error) -> DataError {
        let file = self.name.to_string();
        match source.kind() {
            io::ErrorKind::OutOfMemory => DataError::OutOfMemory { file, bytes: self.needed_bytes },
            io::ErrorKind::UnexpectedEof if self.compressed => DataError::TruncatedGzip { file, found: self.position },
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData if self.compressed => {
                DataError::CorruptGzip { file, found: self.position, source }
            }
            _ => DataError::Io { action: "read", path: file.into(), source },
        }
    }
}
