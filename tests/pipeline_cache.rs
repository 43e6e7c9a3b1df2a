use crate::support::gpu;
use fmnist_gpu::gpu::pipeline_cache::{MAX_FILE_BYTES, Unusable, pack, unpack};
use fmnist_gpu::gpu::{Gpu, GpuOptions, PlanBuilder};
use fmnist_gpu::ops::relu;
use pollster::FutureExt as _;
use std::fs;
use std::path::{Path, PathBuf};

const VERSION: &str = "1.2.3";
const ADAPTER: &str = "some adapter, some driver";

#[test]
fn what_was_packed_comes_back() {
    for data in [&b""[..], b"x", &[7; 10_000]] {
        assert_eq!(unpack(VERSION, ADAPTER, &pack(VERSION, ADAPTER, data)), Ok(data));
    }
}

#[test]
fn a_file_of_another_version_or_adapter_is_told_from_a_damaged_one() {
    let file = pack(VERSION, ADAPTER, b"data");
    assert_eq!(unpack("1.2.4", ADAPTER, &file), Err(Unusable::OtherVersion));
    assert_eq!(unpack(VERSION, "another adapter", &file), Err(Unusable::OtherAdapter));
    // Both strings are stored with their lengths, so that no character can move from one to the other.
    assert_eq!(unpack("1.2.3s", &ADAPTER[1..], &file), Err(Unusable::OtherVersion));
    assert_eq!(unpack(VERSION, ADAPTER, b"something else"), Err(Unusable::NotOurs));
    assert_eq!(unpack(VERSION, ADAPTER, b""), Err(Unusable::NotOurs));
}

#[test]
fn every_missing_added_or_altered_byte_is_noticed() {
    let file = pack(VERSION, ADAPTER, b"the data of a driver");
    for length in 0..file.len() {
        assert!(unpack(VERSION, ADAPTER, &file[..length]).is_err(), "cut off at {length}");
    }
    assert_eq!(unpack(VERSION, ADAPTER, &[&file[..], b"x"].concat()), Err(Unusable::Damaged));
    for i in 0..file.len() {
        for bit in 0..8 {
            let mut altered = file.clone();
            altered[i] ^= 1 << bit;
            assert!(unpack(VERSION, ADAPTER, &altered).is_err(), "bit {bit} of byte {i}");
        }
    }
}

/// Opens a device that keeps its pipelines in `folder`, runs a computation, and closes it.
fn use_device(folder: &Path) {
    let options = GpuOptions { pipeline_cache: Some(folder.to_path_buf()), ..GpuOptions::default() };
    let device = Gpu::open(&options).block_on().unwrap();
    let x = device.tensor_from("x", &[4], &[-1.0, 2.0, -3.0, 4.0]).unwrap();
    let y = device.tensor_from("y", &[4], &[9.0; 4]).unwrap();
    let mut plan = PlanBuilder::new(&device);
    relu::record_forward(&mut plan, 4, [&x, &y]).unwrap();
    device.run(&plan.finish().block_on().unwrap()).block_on().unwrap();
    assert_eq!(device.read(&y).block_on().unwrap(), [0.0, 2.0, 0.0, 4.0]);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).map(|entries| entries.map(|entry| entry.unwrap().path()).collect());
    entries.unwrap_or_default()
}

/// On Vulkan, wgpu always offers the feature (lavapipe's driver keeps only its own header, which is enough to check
/// that the file is written and read); on the other backends there is none, and nothing is written.
#[test]
fn pipelines_are_kept_and_found_again_and_a_bad_file_is_replaced() {
    let shared = gpu();
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("not").join("yet");
    use_device(&folder);
    if shared.info().backend != "vulkan" {
        assert_eq!(files(&folder), [] as [PathBuf; 0]);
        return;
    }
    let [path] = &files(&folder)[..] else { panic!("{:?}", files(&folder)) };
    let good = fs::read(path).unwrap();
    assert!(good.starts_with(b"FMGPUPC1"));
    let written = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let first = written(path);
    use_device(&folder);
    // This is only so if the file was read: its content equals the driver's data again. Other drivers may add to it.
    if shared.is_software() {
        assert_eq!(written(path), first, "the same bytes were written again");
    }
    // What a hardware driver keeps may differ between runs.
    let is_good = |file: &[u8]| if shared.is_software() { file == good } else { file[..32] == good[..32] };
    let mut altered = good.clone();
    *altered.last_mut().unwrap() ^= 1;
    let cut = good[..good.len() - 1].to_vec();
    let version = good.windows(5).position(|w| w == &env!("CARGO_PKG_VERSION").as_bytes()[..5]).unwrap();
    let mut older = good.clone();
    older[version] = b'9';
    for bad in [altered, cut, older, good[..8].to_vec(), Vec::new()] {
        fs::write(path, &bad).unwrap();
        use_device(&folder);
        assert!(is_good(&fs::read(path).unwrap()), "{bad:?}");
    }
    // Too large to be read; a sparse file takes no disk space.
    fs::File::create(path).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
    use_device(&folder);
    assert!(is_good(&fs::read(path).unwrap()));
    assert_eq!(files(&folder).len(), 1, "something was left beside the file");
}

#[test]
fn a_folder_that_cannot_be_made_or_written_is_no_error() {
    gpu();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("a file");
    fs::write(&file, "in the way").unwrap();
    use_device(&file);
    use_device(&file.join("below"));
    assert_eq!(fs::read(&file).unwrap(), b"in the way");
}
