//! IDX files, data folders, and the choice of a data set.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use fmnist_gpu::data::{
    DataError, DataEvent, DataFile, Dataset, DatasetChoice, DatasetKind, DownloadOptions, FASHION_MNIST, FileSet,
    LoadOptions, Places, Proxies, fashion_mnist, idx, load,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const PIXELS: usize = FASHION_MNIST.pixels();

/// Returns the bytes of an IDX file: `00 00`, type, rank, dimensions, payload.
pub(crate) fn idx_bytes(element: u8, shape: &[u32], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, element, shape.len() as u8];
    for dimension in shape {
        bytes.extend(dimension.to_be_bytes());
    }
    bytes.extend(payload);
    bytes
}

fn gz_at(level: u32, bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn gz(bytes: &[u8]) -> Vec<u8> {
    gz_at(6, bytes)
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns bytes without a pattern that could hide a wrong offset (a linear congruential generator).
fn noise(n: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..n).map(next).collect()
}

/// Four small files and the table that declares them genuine.
pub(crate) struct SmallSet {
    /// Uncompressed content, in the order of the file set.
    pub(crate) plain: [Vec<u8>; 4],
    pub(crate) files: FileSet,
}

const NAMES: [&str; 4] =
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

impl SmallSet {
    /// Five training images and three test images.
    pub(crate) fn new() -> Self {
        Self::of([
            idx_bytes(8, &[5, 28, 28], &noise(5 * PIXELS, 1)),
            idx_bytes(8, &[5], &[9, 0, 3, 7, 1]),
            idx_bytes(8, &[3, 28, 28], &noise(3 * PIXELS, 2)),
            idx_bytes(8, &[3], &[2, 8, 5]),
        ])
    }

    fn of(plain: [Vec<u8>; 4]) -> Self {
        let file = |i: usize| {
            let packed = gz(&plain[i]);
            DataFile {
                name: NAMES[i].into(),
                gz_bytes: packed.len() as u64,
                gz_sha256: sha256(&packed).into(),
                idx_bytes: plain[i].len() as u64,
                idx_sha256: sha256(&plain[i]).into(),
            }
        };
        let files =
            FileSet { train_images: file(0), train_labels: file(1), test_images: file(2), test_labels: file(3) };
        Self { plain, files }
    }

    /// Returns the compressed files with the names under which they are served.
    pub(crate) fn served(&self) -> Vec<(String, Vec<u8>)> {
        let pairs = NAMES.iter().zip(&self.plain);
        pairs.map(|(name, plain)| (format!("{name}.gz"), gz(plain))).collect()
    }

    pub(crate) fn write_gz(&self, dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        for (name, bytes) in self.served() {
            fs::write(dir.join(name), bytes).unwrap();
        }
    }

    fn write_plain(&self, dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        for (name, bytes) in NAMES.iter().zip(&self.plain) {
            fs::write(dir.join(name), bytes).unwrap();
        }
    }

    /// Asserts that these are this set's images and labels.
    pub(crate) fn assert_is(&self, dataset: &Dataset) {
        assert_eq!(dataset.kind, DatasetKind::FashionMnist);
        assert_eq!(dataset.train.images, self.plain[0][16..]);
        assert_eq!(dataset.train.labels, self.plain[1][8..]);
        assert_eq!(dataset.test.images, self.plain[2][16..]);
        assert_eq!(dataset.test.labels, self.plain[3][8..]);
    }
}

/// Returns options that do not depend on this machine's folders, proxies and network.
pub(crate) fn options(set: &SmallSet, cache_dir: &Path) -> LoadOptions {
    LoadOptions {
        choice: DatasetChoice::FashionMnist,
        data_dir: None,
        places: Places { cache_dir: Some(cache_dir.into()), ..Places::default() },
        files: set.files.clone(),
        download: DownloadOptions { mirrors: Vec::new(), proxies: Proxies::default(), ..DownloadOptions::default() },
        synthetic_n_train: 20,
        synthetic_n_test: 10,
        synthetic_seed: 4,
        interrupt: None,
    }
}

pub(crate) fn load_with_events(options: &LoadOptions) -> (Result<Dataset, DataError>, Vec<DataEvent>) {
    let mut events = Vec::new();
    let result = load(options, &mut |event| events.push(event));
    (result, events)
}

/// Asserts the variant of an error, and that its message contains all of the texts.
macro_rules! assert_error {
    ($result:expr, $variant:pat, $($text:expr),+) => {{
        let error = $result.expect_err("an error");
        let message = error.full_message();
        assert!(matches!(error, $variant), "{error:?}");
        $(assert!(message.contains(AsRef::<str>::as_ref(&$text)), "no `{}` in: {message}", $text);)+
    }};
}
pub(crate) use assert_error;

fn parse_images(name: &str, bytes: &[u8]) -> Result<idx::Idx, DataError> {
    idx::parse(name, bytes, idx::IMAGES_RANK)
}

fn three_by_two() -> Vec<u8> {
    idx_bytes(8, &[2, 3, 2], &noise(12, 3))
}

#[test]
pub(crate) fn images_are_read_plain_and_compressed() {
    let plain = three_by_two();
    let from_plain = parse_images("a", &plain).unwrap();
    assert_eq!(from_plain.shape, [2, 3, 2], "order of the dimensions");
    assert_eq!(from_plain.payload, noise(12, 3));
    assert_eq!(parse_images("a", &gz(&plain)).unwrap(), from_plain);

    // A gzip file may consist of several members.
    let (front, back) = plain.split_at(17);
    let members = [gz(front), gz(back)].concat();
    assert_eq!(parse_images("a", &members).unwrap(), from_plain);

    // The format is detected from the content, not from the name.
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("plain.gz");
    fs::write(&path, &plain).unwrap();
    assert_eq!(idx::read(&path, idx::IMAGES_RANK).unwrap(), from_plain);
    fs::write(&path, gz(&idx_bytes(8, &[3], &[4, 250, 6]))).unwrap();
    assert_eq!(idx::read(&path, idx::LABELS_RANK).unwrap().payload, [4, 250, 6]);
}

#[test]
fn headers_that_are_wrong_are_refused() {
    use DataError as E;
    let images = |bytes: Vec<u8>| parse_images("some-file", &bytes);
    assert_error!(images(vec![]), E::EmptyFile { .. }, "some-file", "0 bytes");
    assert_error!(images(b"<html><body>".to_vec()), E::NotIdx { .. }, "some-file", "3c, 68, 74, 6d", "expected 00 00");
    assert_error!(
        images(idx_bytes(0x0d, &[1, 1, 1], &[1, 2, 3, 4])),
        E::ElementType { found: 0x0d, .. },
        "some-file",
        "0x0d",
        "expected 0x08"
    );
    assert_error!(
        images(idx_bytes(8, &[3], &[1, 2, 3])),
        E::Rank { found: 1, expected: 3, .. },
        "some-file",
        "1 dimensions found, expected 3"
    );
    assert_error!(
        idx::parse("some-file", &three_by_two(), idx::LABELS_RANK),
        E::Rank { found: 3, expected: 1, .. },
        "some-file"
    );
    for (shape, axis) in [([0, 28, 28], 0), ([2, 0, 28], 1), ([2, 28, 0], 2)] {
        let result = images(idx_bytes(8, &shape, &[]));
        assert_error!(result, E::ZeroDimension { .. }, format!("dimension {axis}"), "some-file");
    }
    assert_error!(images(vec![0, 0, 8, 3, 0, 0, 0]), E::Truncated { found: 7, expected: 16, .. }, "some-file");
}

#[test]
fn payloads_of_another_length_are_refused() {
    use DataError as E;
    let mut short = three_by_two();
    short.pop();
    let mut long = three_by_two();
    long.extend([0, 0]);
    for bytes in [short.clone(), gz(&short)] {
        assert_error!(
            parse_images("f", &bytes),
            E::Truncated { found: 27, expected: 28, .. },
            "27 bytes",
            "expected 28"
        );
    }
    assert_error!(parse_images("f", &long), E::TrailingBytes { found: 30, expected: 28, .. }, "expected 28");
    assert_error!(parse_images("f", &gz(&long)), E::TrailingBytes { found: 29, expected: 28, .. }, "at least 29");
    // Bytes after the gzip stream itself.
    let mut after = gz(&three_by_two());
    after.extend(b"more");
    assert_error!(parse_images("f", &after), E::CorruptGzip { .. } | E::TruncatedGzip { .. }, "f");
}

#[test]
fn damaged_gzip_is_refused() {
    let packed = gz(&three_by_two());
    assert_error!(
        parse_images("f.gz", &packed[..packed.len() - 9]),
        DataError::TruncatedGzip { .. },
        "f.gz",
        "ends early"
    );
    let mut wrong_sum = packed.clone();
    let checksum = wrong_sum.len() - 8;
    wrong_sum[checksum] ^= 1;
    assert_error!(parse_images("f.gz", &wrong_sum), DataError::CorruptGzip { .. }, "f.gz", "damaged");
}

#[test]
fn a_header_is_not_trusted_beyond_what_the_file_can_hold() {
    let max = u32::MAX;
    for shape in [[max, max, max], [max, max, 1], [1 << 20, 28, 28]] {
        let bytes = gz(&idx_bytes(8, &shape, &[0; 64]));
        assert_error!(
            parse_images("f", &bytes),
            DataError::ImpossibleShape { .. },
            format!("{} bytes", bytes.len()),
            format!("{}", shape[0])
        );
    }
    assert_error!(
        parse_images("f", &idx_bytes(8, &[max, max, max], &[0; 64])),
        DataError::ImpossibleShape { .. },
        "80 bytes"
    );
    assert_error!(
        parse_images("f", &idx_bytes(8, &[60_000, 28, 28], &[0; 64])),
        DataError::Truncated { found: 80, expected: 47_040_016, .. },
        "f"
    );
    // Of a stream that expands far beyond its header, only one extra byte is read.
    let bomb = gz(&idx_bytes(8, &[1, 28, 28], &vec![0; 50_000_000]));
    assert_error!(parse_images("f", &bomb), DataError::TrailingBytes { found: 801, expected: 800, .. }, "f");
}

#[test]
fn every_truncation_is_an_error() {
    let plain = idx_bytes(8, &[3, 4, 5], &noise(60, 5));
    for bytes in [plain.clone(), gz(&plain), gz_at(0, &plain)] {
        assert!(parse_images("f", &bytes).is_ok());
        for n in 0..bytes.len() {
            let result = parse_images("f", &bytes[..n]);
            assert!(result.is_err(), "{n} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn no_changed_byte_panics_or_goes_undetected() {
    let plain = idx_bytes(8, &[3, 4, 5], &noise(60, 6));
    let whole = parse_images("f", &plain).unwrap();
    for i in 0..plain.len() {
        for flip in 1..=255 {
            let mut bytes = plain.clone();
            bytes[i] ^= flip;
            let result = parse_images("f", &bytes);
            // A change of the header is always detected; one of a pixel cannot be without a hash.
            assert_eq!(result.is_ok(), i >= 16, "byte {i} ^ {flip}: {result:?}");
        }
    }
    for packed in [gz(&plain), gz_at(0, &plain)] {
        for i in 0..packed.len() {
            for flip in 1..=255 {
                let mut bytes = packed.clone();
                bytes[i] ^= flip;
                // Some bytes of a gzip header do not affect the content; the checksum covers the rest.
                if let Ok(images) = parse_images("f", &bytes) {
                    assert_eq!(images, whole, "byte {i} ^ {flip}");
                }
            }
        }
    }
    // Several changes at once, and noise after each of the magic numbers.
    let packed = gz(&plain);
    let choices = noise(30_000, 7);
    for choice in choices.chunks_exact(6) {
        let mut bytes = packed.clone();
        for pair in choice.chunks_exact(2) {
            let i = usize::from(pair[0]) % bytes.len();
            bytes[i] = pair[1];
        }
        if let Ok(images) = parse_images("f", &bytes) {
            assert_eq!(images, whole);
        }
    }
    for seed in 0..2_000 {
        let mut bytes = noise(200, seed);
        let start: &[u8] = if seed % 2 == 0 { &[0x1f, 0x8b, 8, 0] } else { &[0, 0, 8, 3] };
        bytes[..4].copy_from_slice(start);
        assert!(parse_images("f", &bytes).is_err());
    }
}

#[test]
fn paths_that_are_not_files_are_refused() {
    let folder = TempDir::new().unwrap();
    let absent = folder.path().join("absent");
    let error = idx::read(&absent, idx::IMAGES_RANK).unwrap_err();
    assert!(matches!(error, DataError::Io { .. }), "{error:?}");
    assert!(error.to_string().contains("absent"), "{error}");
    assert_error!(idx::read(folder.path(), idx::LABELS_RANK), DataError::NotAFile { .. }, "not a regular file");
}

#[test]
fn a_folder_may_be_plain_compressed_mixed_or_torchvisions() {
    let set = SmallSet::new();
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    set.write_gz(&root.join("compressed"));
    set.write_plain(&root.join("plain"));
    set.write_gz(&root.join("mixed"));
    set.write_plain(&root.join("mixed"));
    fs::remove_file(root.join("mixed/t10k-labels-idx1-ubyte.gz")).unwrap();
    fs::remove_file(root.join("mixed/train-images-idx3-ubyte")).unwrap();
    set.write_plain(&root.join("torchvision/FashionMNIST/raw"));
    set.write_gz(&root.join("torchvision/FashionMNIST/raw"));
    // A damaged compressed file next to an intact plain one is harmless.
    set.write_plain(&root.join("repaired"));
    set.write_gz(&root.join("repaired"));
    fs::write(root.join("repaired/train-images-idx3-ubyte.gz"), b"").unwrap();
    for name in ["compressed", "plain", "mixed", "torchvision", "torchvision/FashionMNIST", "repaired"] {
        let mut options = options(&set, &root.join("cache"));
        options.data_dir = Some(root.join(name));
        set.assert_is(&load_with_events(&options).0.unwrap());
    }
    assert!(!root.join("cache").exists(), "reading writes nothing");
}

#[test]
fn content_compressed_differently_is_genuine() {
    let set = SmallSet::new();
    let folder = TempDir::new().unwrap();
    set.write_gz(folder.path());
    let path = folder.path().join("train-images-idx3-ubyte.gz");
    fs::write(&path, gz_at(0, &set.plain[0])).unwrap();
    let loaded = fashion_mnist::load_from_dir(folder.path(), &set.files);
    assert_eq!(loaded.unwrap().0.images, set.plain[0][16..]);
    // Plain content under the compressed file's name.
    fs::write(&path, &set.plain[0]).unwrap();
    fashion_mnist::load_from_dir(folder.path(), &set.files).unwrap();
}

#[test]
fn files_of_another_data_set_are_recognised_by_their_hash() {
    let set = SmallSet::new();
    for compressed in [true, false] {
        let folder = TempDir::new().unwrap();
        let mut other = set.plain[0].clone();
        *other.last_mut().unwrap() ^= 1;
        let (name, bytes, expected) = if compressed {
            set.write_gz(folder.path());
            let expected = &set.files.train_images.gz_sha256;
            ("train-images-idx3-ubyte.gz", gz(&other), expected)
        } else {
            set.write_plain(folder.path());
            let expected = &set.files.train_images.idx_sha256;
            ("train-images-idx3-ubyte", other, expected)
        };
        fs::write(folder.path().join(name), &bytes).unwrap();
        assert_error!(
            fashion_mnist::load_from_dir(folder.path(), &set.files),
            DataError::WrongHash { .. },
            name,
            sha256(&bytes),
            expected,
            "another data set with the same file names (e.g. MNIST)",
            "[5, 28, 28]",
            "another data folder"
        );
    }
}

#[test]
fn a_file_that_cannot_be_genuine_is_not_read() {
    let set = SmallSet::new();
    let folder = TempDir::new().unwrap();
    set.write_plain(folder.path());
    let path = folder.path().join("t10k-labels-idx1-ubyte");
    fs::write(&path, vec![0; 2_000]).unwrap();
    assert_error!(
        fashion_mnist::load_from_dir(folder.path(), &set.files),
        DataError::TooLarge { found: 2_000, .. },
        "t10k-labels-idx1-ubyte",
        "2000 bytes"
    );
}

#[test]
fn damaged_files_of_a_folder_are_named() {
    let set = SmallSet::new();
    let folder = TempDir::new().unwrap();
    set.write_gz(folder.path());
    let path = folder.path().join("t10k-images-idx3-ubyte.gz");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert_error!(
        fashion_mnist::load_from_dir(folder.path(), &set.files),
        DataError::TruncatedGzip { .. },
        "t10k-images-idx3-ubyte.gz"
    );
}

#[test]
fn missing_files_are_listed() {
    let set = SmallSet::new();
    let folder = TempDir::new().unwrap();
    let load = |dir: PathBuf| fashion_mnist::load_from_dir(&dir, &set.files);
    assert_error!(
        load(folder.path().into()),
        DataError::NoFiles { .. },
        "train-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
        "FashionMNIST/raw"
    );
    assert_error!(load(folder.path().join("absent")), DataError::NotAFolder { .. }, "absent");
    set.write_gz(folder.path());
    for name in ["train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz"] {
        fs::remove_file(folder.path().join(name)).unwrap();
    }
    assert_error!(
        load(folder.path().into()),
        DataError::MissingFiles { .. },
        "lacks train-labels-idx1-ubyte, t10k-images-idx3-ubyte"
    );
}

/// Returns the error for files whose hashes match but whose content is not a valid data set.
fn error_of_content(plain: [Vec<u8>; 4]) -> DataError {
    let set = SmallSet::of(plain);
    let folder = TempDir::new().unwrap();
    set.write_gz(folder.path());
    fashion_mnist::load_from_dir(folder.path(), &set.files).unwrap_err()
}

#[test]
fn content_that_does_not_belong_together_is_refused() {
    let good = SmallSet::new().plain;

    let mut plain = good.clone();
    plain[3] = idx_bytes(8, &[2], &[2, 8]);
    assert_error!(
        Err::<(), _>(error_of_content(plain)),
        DataError::CountMismatch { n_images: 3, n_labels: 2, .. },
        "t10k-images-idx3-ubyte.gz has 3 images",
        "t10k-labels-idx1-ubyte.gz has 2 labels"
    );

    let mut plain = good.clone();
    plain[1] = idx_bytes(8, &[5], &[9, 0, 3, 10, 255]);
    assert_error!(
        Err::<(), _>(error_of_content(plain)),
        DataError::LabelRange { index: 3, found: 10, .. },
        "train-labels-idx1-ubyte.gz: label 3 is 10, expected 0 to 9"
    );

    let mut plain = good.clone();
    plain[2] = idx_bytes(8, &[3, 27, 28], &noise(3 * 27 * 28, 8));
    assert_error!(
        Err::<(), _>(error_of_content(plain)),
        DataError::ImageSize { rows: 27, cols: 28, .. },
        "t10k-images-idx3-ubyte.gz",
        "27x28",
        "expected 28x28"
    );

    let mut plain = good;
    plain.swap(0, 1);
    assert_error!(
        Err::<(), _>(error_of_content(plain)),
        DataError::Rank { .. },
        "train-images-idx3-ubyte.gz",
        "swapped"
    );
}

#[test]
fn a_specified_folder_is_used_or_refused_but_never_skipped() {
    let set = SmallSet::new();
    let folder = TempDir::new().unwrap();
    let cache = folder.path().join("cache");
    set.write_gz(&cache);
    for choice in [DatasetChoice::Auto, DatasetChoice::FashionMnist] {
        let mut options = options(&set, &cache);
        options.choice = choice;
        options.data_dir = Some(folder.path().join("absent"));
        assert_error!(
            load_with_events(&options).0,
            DataError::NamedFolder { .. },
            "absent cannot be used",
            "is not a folder"
        );

        options.data_dir = None;
        options.places.env_dir = Some(folder.path().join("absent"));
        assert_error!(
            load_with_events(&options).0,
            DataError::NamedFolder { .. },
            "absent ($FMNIST_DATA_DIR) cannot be used",
            "is not a folder"
        );

        // The flag takes precedence over the variable.
        options.data_dir = Some(cache.clone());
        set.assert_is(&load_with_events(&options).0.unwrap());
    }
}

/// A resumed run must find the folder from another working folder.
#[cfg(unix)]
#[test]
fn the_source_of_a_data_set_is_an_absolute_path() {
    let set = SmallSet::new();
    let folder = TempDir::new().unwrap();
    set.write_gz(folder.path());
    let here = std::env::current_dir().unwrap();
    let up = here.components().skip(1).map(|_| "..");
    let relative: PathBuf = up.map(PathBuf::from).collect::<PathBuf>().join(folder.path().strip_prefix("/").unwrap());
    assert!(relative.is_relative());
    let mut options = options(&set, &folder.path().join("cache"));
    options.data_dir = Some(relative.clone());
    let named = load_with_events(&options).0.unwrap();
    options.data_dir = None;
    options.places.others = vec![relative];
    let searched = load_with_events(&options).0.unwrap();
    for dataset in [named, searched] {
        set.assert_is(&dataset);
        let source = Path::new(&dataset.source);
        assert!(source.is_absolute(), "{}", source.display());
        assert_eq!(source.canonicalize().unwrap(), folder.path().canonicalize().unwrap());
    }
}

/// Runs a single test in a separate process with `variables`; returns its output. Fails if that test fails.
#[cfg(target_os = "linux")]
pub(crate) fn in_a_separate_process(test: &str, variables: &[(&str, &str)]) -> String {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, "1");
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{test}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// Returns whether this process was started by [`in_a_separate_process`].
#[cfg(target_os = "linux")]
pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

#[cfg(target_os = "linux")]
const CHILD: &str = "FMNIST_TEST_CHILD";

/// Stacks larger than the address space: the system refuses every thread.
#[cfg(target_os = "linux")]
pub(crate) const NO_THREADS: (&str, &str) = ("RUST_MIN_STACK", "70368744177664");

#[cfg(target_os = "linux")]
pub(crate) fn assert_no_thread_starts() {
    assert!(std::thread::Builder::new().spawn(|| ()).is_err(), "a thread could be started");
}

/// Limits this process to `bytes` more memory than it has now.
#[cfg(target_os = "linux")]
pub(crate) fn limit_memory_to(bytes: u64) {
    let pages = fs::read_to_string("/proc/self/statm").unwrap().split(' ').next().unwrap().parse::<u64>().unwrap();
    // SAFETY: the calls keep no pointers.
    unsafe {
        let limit = pages * libc::sysconf(libc::_SC_PAGESIZE) as u64 + bytes;
        let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
        assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &limit), 0);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_is_read_without_threads() {
    if is_child() {
        assert_no_thread_starts();
        let set = SmallSet::new();
        let folder = TempDir::new().unwrap();
        set.write_gz(folder.path());
        let mut options = options(&set, &folder.path().join("cache"));
        options.data_dir = Some(folder.path().into());
        return set.assert_is(&load_with_events(&options).0.unwrap());
    }
    in_a_separate_process("data::a_folder_is_read_without_threads", &[NO_THREADS]);
}

/// No folder is blamed, no other folder is searched, nothing is downloaded or generated.
#[cfg(target_os = "linux")]
#[test]
fn running_out_of_memory_is_not_blamed_on_the_folder() {
    if !is_child() {
        in_a_separate_process("data::running_out_of_memory_is_not_blamed_on_the_folder", &[]);
        return;
    }
    let mut set = SmallSet::new();
    let n_images = 120_000;
    let content_bytes = n_images * PIXELS;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&idx_bytes(8, &[n_images as u32, 28, 28], &[])).unwrap();
    for _ in 0..n_images {
        encoder.write_all(&[0; PIXELS]).unwrap();
    }
    let large = encoder.finish().unwrap();
    set.files.train_images.idx_bytes = content_bytes as u64 + 16;
    let folder = TempDir::new().unwrap();
    set.write_gz(folder.path());
    fs::write(folder.path().join("train-images-idx3-ubyte.gz"), &large).unwrap();
    limit_memory_to(40 << 20);
    let expected = format!("its content needs {content_bytes} bytes");
    assert_error!(parse_images("f", &large), DataError::OutOfMemory { .. }, "out of memory while reading f", &expected);
    for choice in [DatasetChoice::Auto, DatasetChoice::FashionMnist] {
        let mut options = options(&set, &folder.path().join("cache"));
        options.choice = choice;
        options.data_dir = Some(folder.path().into());
        assert_error!(
            load_with_events(&options).0,
            DataError::OutOfMemory { .. },
            "train-images-idx3-ubyte.gz",
            &expected
        );
        options.data_dir = None;
        options.places.others = vec![folder.path().into()];
        assert_error!(load_with_events(&options).0, DataError::OutOfMemory { .. }, &expected);
        options.places = Places { cache_dir: Some(folder.path().into()), ..Places::default() };
        assert_error!(load_with_events(&options).0, DataError::OutOfMemory { .. }, &expected);
    }
}

#[test]
fn places_are_searched_in_order_and_broken_ones_reported() {
    let set = SmallSet::new();
    let folder = TempDir::new().unwrap();
    let place = |name: &str| folder.path().join(name);
    set.write_gz(&place("cache"));
    fs::remove_file(place("cache").join("t10k-labels-idx1-ubyte.gz")).unwrap();
    set.write_gz(&place("damaged"));
    fs::write(place("damaged").join("t10k-images-idx3-ubyte.gz"), b"x").unwrap();
    set.write_plain(&place("good"));
    set.write_gz(&place("later"));
    let mut options = options(&set, &place("cache"));
    options.places.others = ["absent", "damaged", "good", "later"].map(place).to_vec();
    let (result, events) = load_with_events(&options);
    let dataset = result.unwrap();
    set.assert_is(&dataset);
    assert_eq!(dataset.source, place("good").display().to_string());

    let searching = |name| DataEvent::Searching(place(name));
    assert_eq!(events[0], searching("cache"));
    assert!(matches!(&events[1], DataEvent::Skipped { place: at, reason }
            if *at == place("cache") && reason.contains("t10k-labels-idx1-ubyte")));
    assert_eq!(events[2], searching("absent"));
    assert_eq!(events[3], searching("damaged"));
    assert!(matches!(&events[4], DataEvent::Skipped { place: at, reason }
            if *at == place("damaged") && reason.contains("t10k-images-idx3-ubyte.gz")));
    assert_eq!(events[5], searching("good"));
    assert_eq!(events[6], DataEvent::Found(place("good")));
    assert_eq!(events.len(), 7);
}

#[test]
fn only_auto_falls_back_to_the_synthetic_set() {
    let set = SmallSet::new();
    let folder = TempDir::new().unwrap();
    let mut options = options(&set, &folder.path().join("cache"));
    assert_error!(
        load_with_events(&options).0,
        DataError::DownloadFailed { .. },
        "train-images-idx3-ubyte.gz",
        "could not be downloaded: no mirrors are configured",
        "specify it as the data folder",
        "the synthetic data set"
    );

    options.choice = DatasetChoice::Auto;
    let (result, events) = load_with_events(&options);
    let dataset = result.unwrap();
    assert_eq!(dataset.kind, DatasetKind::Synthetic);
    assert_eq!(dataset.source, "generated with seed 4");
    assert_eq!((dataset.train.len(), dataset.test.len()), (20, 10));
    assert_eq!(dataset.train.images.len(), 20 * PIXELS);
    let warned = |event: &DataEvent| matches!(event, DataEvent::FallingBack(reason) if reason.contains("download"));
    assert!(events.iter().any(warned), "{events:?}");

    options.choice = DatasetChoice::Synthetic;
    let (result, events) = load_with_events(&options);
    assert_eq!(result.unwrap(), dataset, "the same seed, the same set");
    let generating = DataEvent::Generating { n_train: 20, n_test: 10, seed: 4 };
    assert_eq!(events, [generating], "no warning if it was requested");

    options.data_dir = Some(folder.path().into());
    assert_error!(
        load_with_events(&options).0,
        DataError::FolderForSynthetic { .. },
        "the data folder",
        "the synthetic data set reads no files"
    );

    options.data_dir = None;
    options.choice = DatasetChoice::FashionMnist;
    options.places.cache_dir = None;
    assert_error!(load_with_events(&options).0, DataError::NoCacheFolder, "XDG_CACHE_HOME", "data folder");
}

#[test]
fn names_of_data_sets_are_the_same_everywhere() {
    for (choice, name) in [
        (DatasetChoice::Auto, "auto"),
        (DatasetChoice::FashionMnist, "fashion-mnist"),
        (DatasetChoice::Synthetic, "synthetic"),
    ] {
        assert_eq!(choice.to_string(), name);
        assert_eq!(name.parse::<DatasetChoice>().unwrap(), choice);
        let json = format!("\"{name}\"");
        assert_eq!(serde_json::to_string(&choice).unwrap(), json);
        let read: DatasetChoice = serde_json::from_str(&json).unwrap();
        assert_eq!(read, choice);
    }
    for kind in [DatasetKind::FashionMnist, DatasetKind::Synthetic] {
        let json = format!("\"{kind}\"");
        assert_eq!(serde_json::to_string(&kind).unwrap(), json);
        let read: DatasetKind = serde_json::from_str(&json).unwrap();
        assert_eq!(read, kind);
    }
    assert_error!(
        "mnist".parse::<DatasetChoice>(),
        DataError::UnknownDataset { .. },
        "`mnist`",
        "auto, fashion-mnist or synthetic"
    );
}

/// Returns the folder of the genuine files next to the project, if it exists.
fn genuine_dir() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fashion-mnist");
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("NOT RUN on genuine data: {} is absent", dir.display());
    None
}

#[test]
fn the_genuine_files_are_read() {
    let Some(dir) = genuine_dir() else { return };
    let (train, test) = fashion_mnist::load_from_dir(&dir, &fashion_mnist::FILES).unwrap();
    assert_eq!((train.len(), test.len()), (60_000, 10_000));
    assert_eq!(train.images.len(), 60_000 * PIXELS);
    assert_eq!(test.images.len(), 10_000 * PIXELS);
    assert_eq!(train.labels[..10], [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]);
    assert_eq!(test.labels[0], 9);
    for split in [&train, &test] {
        for class in 0..10 {
            let n_of_class = split.labels.iter().filter(|&&label| label == class).count();
            assert_eq!(n_of_class * 10, split.len(), "class {class}");
        }
    }
    // The mean grey value of the training set in the literature: 0.2860 of 1.
    let sum: u64 = train.images.iter().map(|&pixel| u64::from(pixel)).sum();
    let mean = sum as f64 / train.images.len() as f64 / 255.0;
    assert!((mean - 0.2860).abs() < 5e-5, "{mean}");
    assert_eq!(train.image(59_999), &train.images[59_999 * PIXELS..]);
}

#[test]
fn the_genuine_files_are_read_uncompressed() {
    let Some(dir) = genuine_dir() else { return };
    let folder = TempDir::new().unwrap();
    for name in NAMES {
        let mut decoder = flate2::read::GzDecoder::new(fs::File::open(dir.join(format!("{name}.gz"))).unwrap());
        let mut file = fs::File::create(folder.path().join(name)).unwrap();
        std::io::copy(&mut decoder, &mut file).unwrap();
    }
    let (train, test) = fashion_mnist::load_from_dir(folder.path(), &fashion_mnist::FILES).unwrap();
    assert_eq!((train.len(), test.len()), (60_000, 10_000));
}
