use crate::support::{assert_all_right, gpu};
use fmnist_gpu::ops::Groups;
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::sgd::verify;
use fmnist_gpu::verify::step::groups;

#[test]
fn sgd_matches_cpu() {
    let mut verifier = Verifier::new(gpu(), 11);
    for (len, momentum) in [(1, 0.0), (63, 0.9), (64, 0.5), (65, 0.99), (1009, 0.0)] {
        verify(&mut verifier, len, momentum, false, &Groups::alike(len)).unwrap();
        verify(&mut verifier, len, momentum, true, &groups(len)).unwrap();
    }
    assert_all_right(&mut verifier);
}

/// Each part alone, and groups that are empty.
#[test]
fn sgd_with_some_groups_matches_cpu() {
    let mut verifier = Verifier::new(gpu(), 12);
    let all = groups(260);
    for groups in [
        Groups { decay: false, ..all },
        Groups { clip: false, ..all },
        Groups { factors: [1.0; 3], ..all },
        Groups { starts: [0, 8, 8], ..all },
        Groups { starts: [260; 3], ..all },
        Groups { starts: [64, 64, 260], ..all },
    ] {
        verify(&mut verifier, 260, 0.9, true, &groups).unwrap();
    }
    assert_all_right(&mut verifier);
}
