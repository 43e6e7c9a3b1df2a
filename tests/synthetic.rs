//! The synthetic set: reproducible, balanced, never blank, neither trivial nor impossible.

use std::time::Instant;

use crate::registry::root;
use fmnist_gpu::data::synthetic::generate;
use fmnist_gpu::data::{FASHION_MNIST, Split};

const PIXELS: usize = FASHION_MNIST.pixels();
const N_CLASSES: usize = FASHION_MNIST.classes();

/// Returns the first `n` images of a split with their labels.
fn prefix(split: &Split, n: usize) -> Split {
    Split { images: split.images[..n * PIXELS].to_vec(), labels: split.labels[..n].to_vec() }
}

#[test]
fn same_seed_same_images() {
    assert_eq!(generate(200, 50, 7), generate(200, 50, 7));
}

#[test]
fn seeds_and_splits_differ() {
    let (train, test) = generate(100, 100, 7);
    let (other_train, other_test) = generate(100, 100, 8);
    for (a, b) in [(&train, &other_train), (&test, &other_test), (&train, &test)] {
        assert_ne!(a.labels, b.labels);
        let n_equal = (0..100).filter(|&i| a.image(i) == b.image(i)).count();
        assert_eq!(n_equal, 0, "images shared by two seeds or splits");
    }
}

#[test]
fn images_within_a_split_differ() {
    let (train, _) = generate(1000, 0, 0);
    let mut images: Vec<&[u8]> = (0..train.len()).map(|i| train.image(i)).collect();
    images.sort_unstable();
    images.dedup();
    assert_eq!(images.len(), 1000);
}

/// The number of images also determines how they are distributed over threads: 7 and 101 do not divide evenly.
#[test]
fn an_image_does_not_depend_on_how_many_there_are() {
    let (train, test) = generate(101, 53, 3);
    for n in [0, 1, 7, 50] {
        let (few_train, few_test) = generate(n, n, 3);
        assert_eq!(few_train, prefix(&train, n), "{n} training images");
        assert_eq!(few_test, prefix(&test, n), "{n} test images");
    }
}

/// If the system refuses every thread (`ulimit -u`), the calling thread does all the work.
#[cfg(target_os = "linux")]
#[test]
fn without_threads_the_images_are_the_same() {
    use crate::data::{NO_THREADS, assert_no_thread_starts, in_a_separate_process, is_child, sha256};
    if is_child() {
        assert_no_thread_starts();
    }
    let (train, test) = generate(101, 53, 3);
    let digest = format!("digest {}", sha256(&[train.images, train.labels, test.images, test.labels].concat()));
    if is_child() {
        return println!("{digest}");
    }
    let printed = in_a_separate_process("synthetic::without_threads_the_images_are_the_same", &[NO_THREADS]);
    assert!(printed.contains(&digest), "no `{digest}` in {printed}");
}

#[test]
fn every_ten_images_contain_each_class_once_in_varying_order() {
    let (train, test) = generate(1000, 500, 1);
    for split in [&train, &test] {
        assert_eq!(split.images.len(), split.len() * PIXELS);
        let mut orders: Vec<&[u8]> = split.labels.chunks_exact(N_CLASSES).collect();
        for order in &orders {
            let mut sorted = order.to_vec();
            sorted.sort_unstable();
            assert!((0..N_CLASSES as u8).eq(sorted), "{order:?}");
        }
        let n_groups = orders.len();
        orders.sort_unstable();
        orders.dedup();
        assert_eq!(orders.len(), n_groups, "orders repeat");
    }
}

/// A garment on black: enough garment, enough background, not entirely dark.
#[test]
fn no_image_is_blank_or_full() {
    let (train, test) = generate(2000, 500, 5);
    for split in [&train, &test] {
        for i in 0..split.len() {
            let image = split.image(i);
            let n_ink = image.iter().filter(|&&pixel| pixel > 20).count();
            let n_background = image.iter().filter(|&&pixel| pixel == 0).count();
            let place = format!("image {i} of class {}", split.labels[i]);
            assert!(n_ink >= 20, "{place}: only {n_ink} pixels above 20");
            assert!(n_background >= 100, "{place}: only {n_background} pixels of background");
            let brightest = image.iter().max();
            assert!(brightest > Some(&40), "{place}: brightest pixel {brightest:?}");
        }
    }
}

/// Returns the accuracy of classification by the nearest class mean.
fn nearest_centroid_accuracy(train: &Split, test: &Split) -> f64 {
    let mut means = vec![vec![0.0_f64; PIXELS]; N_CLASSES];
    let mut counts = [0.0_f64; N_CLASSES];
    for (i, &label) in train.labels.iter().enumerate() {
        counts[usize::from(label)] += 1.0;
        for (mean, &pixel) in means[usize::from(label)].iter_mut().zip(train.image(i)) {
            *mean += f64::from(pixel);
        }
    }
    for (mean, count) in means.iter_mut().zip(counts) {
        mean.iter_mut().for_each(|sum| *sum /= count);
    }
    let distance = |mean: &[f64], image: &[u8]| -> f64 {
        let pairs = mean.iter().zip(image);
        pairs.map(|(mean, &pixel)| (mean - f64::from(pixel)).powi(2)).sum()
    };
    let is_right = |&i: &usize| {
        let image = test.image(i);
        let nearest = (0..N_CLASSES).min_by(|&a, &b| distance(&means[a], image).total_cmp(&distance(&means[b], image)));
        nearest == Some(usize::from(test.labels[i]))
    };
    (0..test.len()).filter(is_right).count() as f64 / test.len() as f64
}

/// Returns the mean brightness of blocks of four by four pixels for each class.
fn block_means(split: &Split) -> Vec<Vec<f64>> {
    let mut means = vec![vec![0.0; PIXELS / 16]; N_CLASSES];
    let per_class = (split.len() / N_CLASSES) as f64;
    for (i, &label) in split.labels.iter().enumerate() {
        for (at, &pixel) in split.image(i).iter().enumerate() {
            let block = at / (4 * 28) * 7 + at % 28 / 4;
            means[usize::from(label)][block] += f64::from(pixel) / (16.0 * per_class);
        }
    }
    means
}

/// The images of a seed are the same in every version, so that runs on them can be compared: 40 of each class, against
/// `fixtures/synthetic.json`. A system's sine may round another way, so a pixel here and there may be one level off. After a change that is meant to
/// change them: `FMNIST_RECORD=1 cargo test --release the_images_of_a_seed` writes the file again.
#[test]
fn the_images_of_a_seed_stay_what_they_are() {
    let means = block_means(&generate(40 * N_CLASSES, 0, 1).0);
    let path = root().join("tests/fixtures/synthetic.json");
    if std::env::var_os("FMNIST_RECORD").is_some() {
        let rows: Vec<String> = means
            .iter()
            .map(|of_class| of_class.iter().map(|mean| format!("{mean:.3}")).collect::<Vec<_>>().join(", "))
            .collect();
        std::fs::write(&path, format!("[\n[{}]\n]\n", rows.join("],\n["))).unwrap();
    }
    let recorded: Vec<Vec<f64>> = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(recorded.len(), N_CLASSES);
    for (class, (means, recorded)) in means.iter().zip(&recorded).enumerate() {
        assert_eq!(recorded.len(), means.len());
        for (block, (mean, recorded)) in means.iter().zip(recorded).enumerate() {
            assert!((mean - recorded).abs() < 0.02, "class {class}, block {block}: {mean} instead of {recorded}");
        }
    }
}

/// The nearest class mean is correct for about two thirds, as on the genuine set.
#[test]
fn classes_are_distinguishable_but_not_trivial() {
    let (train, test) = generate(2000, 1000, 0);
    let accuracy = nearest_centroid_accuracy(&train, &test);
    println!("nearest centroid: {:.1} %", 100.0 * accuracy);
    assert!(accuracy > 0.4 && accuracy < 0.9, "nearest centroid: {accuracy}");
}

/// The full set in optimized builds, a tenth of it otherwise.
#[test]
fn a_full_set_takes_seconds() {
    let divisor = if cfg!(debug_assertions) { 10 } else { 1 };
    let (n_train, n_test) = (60_000 / divisor, 10_000 / divisor);
    let start = Instant::now();
    let (train, test) = generate(n_train, n_test, 0);
    let seconds = start.elapsed().as_secs_f64();
    println!("{} images in {seconds:.2} s", n_train + n_test);
    assert_eq!((train.len(), test.len()), (n_train, n_test));
    assert!(seconds < 30.0, "took {seconds:.1} s, expected less than 30");
}
