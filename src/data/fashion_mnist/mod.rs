//! The four files of Fashion-MNIST: their sizes and hashes, and how they are read.
//!
//! A file is accepted only if its SHA-256 is that of the genuine file, wherever it comes from: other data sets (MNIST,
//! KMNIST) use the same file names, and one of the mirrors is served without TLS.
//!
//! Source: <https://github.com/zalandoresearch/fashion-mnist>, MIT licence, Copyright (c) 2017 Zalando SE.

#[cfg(feature = "disk")]
mod disk;

#[cfg(feature = "disk")]
pub(super) use disk::find_folder;
#[cfg(feature = "download")]
pub(super) use disk::load_file;
#[cfg(feature = "disk")]
pub use disk::load_from_dir;

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::error::DataError;
use super::idx::{self, IMAGES_RANK, Idx, LABELS_RANK};
use super::{IMAGE_SIDE, N_CLASSES, Split};

/// The expected name, sizes and hashes of one file of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// Name of the uncompressed file; the compressed one adds `.gz`.
    pub name: Cow<'static, str>,
    /// Size of the compressed file in bytes.
    pub gz_bytes: u64,
    /// SHA-256 of the compressed file, in lower-case hexadecimal.
    pub gz_sha256: Cow<'static, str>,
    /// Size of the uncompressed file in bytes.
    pub idx_bytes: u64,
    /// SHA-256 of the uncompressed file, in lower-case hexadecimal.
    pub idx_sha256: Cow<'static, str>,
}

impl DataFile {
    /// Returns the name of the compressed file.
    pub fn gz_name(&self) -> String {
        format!("{}.gz", self.name)
    }

    /// Returns the largest file size that is read: content stored in gzip without compression, in blocks of any sensible size.
    #[cfg(feature = "disk")]
    fn max_bytes(&self) -> u64 {
        self.idx_bytes + self.idx_bytes / 100 + 1024
    }
}

/// The four files of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSet {
    /// Training images.
    pub train_images: DataFile,
    /// Their labels.
    pub train_labels: DataFile,
    /// Test images.
    pub test_images: DataFile,
    /// Their labels.
    pub test_labels: DataFile,
}

impl FileSet {
    /// Returns each file with its number of dimensions.
    pub(super) fn with_ranks(&self) -> [(&DataFile, usize); 4] {
        [
            (&self.train_images, IMAGES_RANK),
            (&self.train_labels, LABELS_RANK),
            (&self.test_images, IMAGES_RANK),
            (&self.test_labels, LABELS_RANK),
        ]
    }

    /// Returns the names of the uncompressed files.
    pub fn names(&self) -> Vec<String> {
        let files = self.with_ranks().into_iter();
        files.map(|(file, _)| file.name.to_string()).collect()
    }
}

/// The genuine files of Fashion-MNIST: 60,000 training images and 10,000 test images.
pub const FILES: FileSet = FileSet {
    train_images: DataFile {
        name: Cow::Borrowed("train-images-idx3-ubyte"),
        gz_bytes: 26_421_880,
        gz_sha256: Cow::Borrowed("3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        idx_bytes: 47_040_016,
        idx_sha256: Cow::Borrowed("c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
    },
    train_labels: DataFile {
        name: Cow::Borrowed("train-labels-idx1-ubyte"),
        gz_bytes: 29_515,
        gz_sha256: Cow::Borrowed("a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        idx_bytes: 60_008,
        idx_sha256: Cow::Borrowed("bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    },
    test_images: DataFile {
        name: Cow::Borrowed("t10k-images-idx3-ubyte"),
        gz_bytes: 4_422_102,
        gz_sha256: Cow::Borrowed("346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        idx_bytes: 7_840_016,
        idx_sha256: Cow::Borrowed("5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    },
    test_labels: DataFile {
        name: Cow::Borrowed("t10k-labels-idx1-ubyte"),
        gz_bytes: 5_148,
        gz_sha256: Cow::Borrowed("67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        idx_bytes: 10_008,
        idx_sha256: Cow::Borrowed("0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    },
};

/// SHA-256 of MNIST's compressed files, which have the same names: a common mix-up with its own message.
const MNIST_GZ_SHA256: [&str; 4] = [
    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
];

/// Reads a data set, [`FILES`] for Fashion-MNIST, from the bytes of its four files: training images, their labels, test images, their labels.
/// Returns the training set and the test set.
///
/// # Errors
/// A file is not the genuine one, or cannot be read.
pub fn from_bytes(files: [&[u8]; 4], set: &FileSet) -> Result<(Split, Split), DataError> {
    let mut parsed = files.into_iter().zip(set.with_ranks()).map(|(bytes, (file, rank))| {
        let name = if idx::is_gzip(bytes) { file.gz_name() } else { file.name.to_string() };
        let idx = idx::parse(&name, bytes, rank)?;
        check_hash(&name, bytes, sha256_hex(&[bytes]), &idx, file)?;
        Ok((name, idx))
    });
    let mut next = || parsed.next().expect("one result per file");
    Ok((split(next()?, next()?)?, split(next()?, next()?)?))
}

/// Accepts the genuine file, and the genuine content compressed in any other way.
fn check_hash(shown: &str, bytes: &[u8], hash: String, idx: &Idx, file: &DataFile) -> Result<(), DataError> {
    let compressed = idx::is_gzip(bytes);
    let (expected, expected_bytes) =
        if compressed { (&file.gz_sha256, file.gz_bytes) } else { (&file.idx_sha256, file.idx_bytes) };
    let genuine = hash == **expected || (compressed && sha256_hex(&[&idx.header(), &idx.payload]) == *file.idx_sha256);
    if genuine {
        return Ok(());
    }
    Err(DataError::WrongHash {
        file: shown.to_string(),
        shape: idx.shape.as_slice().into(),
        guess: if MNIST_GZ_SHA256.contains(&hash.as_str()) {
            "it is the MNIST file of handwritten digits, which has the same name"
        } else {
            "it looks like another data set with the same file names (e.g. MNIST) or an altered copy"
        },
        found: hash.into(),
        found_bytes: bytes.len() as u64,
        expected: expected.as_ref().into(),
        expected_bytes,
    })
}

/// Combines images and labels: the images must be 28 x 28, the labels 0 to 9, and their numbers equal.
fn split((images_file, images): (String, Idx), (labels_file, labels): (String, Idx)) -> Result<Split, DataError> {
    let [n_images, rows, cols] = images.shape[..] else {
        unreachable!("image files with other than three dimensions are refused")
    };
    if (rows, cols) != (IMAGE_SIDE, IMAGE_SIDE) {
        return Err(DataError::ImageSize { file: images_file, rows, cols });
    }
    let labels = labels.payload;
    if n_images != labels.len() {
        return Err(DataError::CountMismatch { images_file, n_images, labels_file, n_labels: labels.len() });
    }
    if let Some(index) = labels.iter().position(|&label| usize::from(label) >= N_CLASSES) {
        return Err(DataError::LabelRange { file: labels_file, index, found: labels[index] });
    }
    Ok(Split { images: images.payload, labels })
}

/// Returns the SHA-256 of the concatenated parts, in lower-case hexadecimal.
fn sha256_hex(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hex(&hasher.finalize())
}

/// Formats bytes in lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
