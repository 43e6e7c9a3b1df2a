//! Proof of the native loops of the gather.

use super::Check;
use crate::cpu::batch_gather as cpu;
use crate::native::batch_gather as fast;
use crate::verify::batch_gather::cases;
use crate::verify::compare_exact;
use rand_chacha::rand_core::Rng;

pub(in crate::verify) fn proof(check: &mut Check) {
    for (samples, pixels) in [(5, 28 * 28), (3, 17)] {
        let mut images = vec![0; samples * pixels];
        check.random.fill_bytes(&mut images);
        let labels: Vec<u8> = (0..samples).map(|i| (i % 10) as u8).collect();
        let order: Vec<u32> = (0..samples as u32).rev().collect();
        let n = order.len();
        let (mut x, mut found) = (vec![f32::NAN; n * pixels], vec![u32::MAX; n]);
        fast::batch_gather(pixels, &images, &labels, &order, &mut x, &mut found);
        let (mut expected, mut expected_labels) = (vec![0.0f32; n * pixels], vec![0; n]);
        cpu::batch_gather(pixels, &images, &labels, &order, 0, &mut expected, &mut expected_labels);
        check.same("native batch_gather", pixels, &x, &expected);
        check.note("native batch_gather", "labels", n, &compare_exact(&found, &expected_labels));
    }
    for (how, n, samples, epoch) in cases() {
        let (pixels, first) = (how.shape.iter().product(), how.random.step as usize * n);
        let mut images = vec![0; samples * pixels];
        check.random.fill_bytes(&mut images);
        let labels: Vec<u8> = (0..samples).map(|i| (i % 10) as u8).collect();
        let order: Vec<u32> = (0..epoch as u32).rev().collect();
        let batch = &order[first..epoch.min(first + n)];
        let (mut x, mut found) = (vec![f32::NAN; batch.len() * pixels], vec![u32::MAX; batch.len()]);
        // In two parts, as two threads would.
        let (left, right) = x.split_at_mut(pixels);
        let (left_labels, right_labels) = found.split_at_mut(1);
        fast::batch_gather_augmented(&how, &images, &labels, batch, 0, left, left_labels);
        fast::batch_gather_augmented(&how, &images, &labels, batch, 1, right, right_labels);
        let (mut expected, mut expected_labels) = (vec![0.0f32; batch.len() * pixels], vec![0; batch.len()]);
        cpu::batch_gather_augmented(&how, &images, &labels, &order, first, &mut expected, &mut expected_labels);
        check.same("native batch_gather_augmented", pixels, &x, &expected);
        check.note("native batch_gather_augmented", "labels", batch.len(), &compare_exact(&found, &expected_labels));
    }
}
