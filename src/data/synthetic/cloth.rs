//! The surface of a garment: tone, pattern and folds.

use super::dice::Dice;
use super::raster::Point;

/// A woven or printed pattern.
#[derive(Clone, Copy)]
enum Pattern {
    Plain,
    // Bands across the direction, with this period; `share` is that of the second tone.
    Stripes { direction: Point, period: f32, share: f32 },
    // Two sets of stripes.
    Checks { period: f32, share: f32 },
    // A grid of dots.
    Spots { period: f32, radius: f32 },
    // Blotches: floral prints and camouflage.
    Blotches { size: f32, share: f32 },
    // Variation from thread to thread: knitwear and tweed.
    Melange,
    // The second tone below this height.
    Block { height: f32 },
    // Letters or an image on the chest, in cells.
    Motif { centre: Point, half: [f32; 2], cell: f32 },
}

/// A cloth.
#[derive(Clone, Copy)]
pub(super) struct Cloth {
    /// Main grey value, 0 to 1.
    pub(super) tone: f32,
    /// Grey value of the pattern.
    pub(super) accent: f32,
    pattern: Pattern,
    folds: f32,
    fold_size: Point,
    seed: u32,
}

impl Cloth {
    /// Returns a plain cloth without folds.
    pub(super) fn plain(tone: f32) -> Self {
        let pattern = Pattern::Plain;
        Self { tone, accent: tone, pattern, folds: 0.0, fold_size: [1.0, 1.0], seed: 0 }
    }

    /// Returns a cloth for clothes; `patterned` is the probability of a pattern.
    pub(super) fn random(dice: &mut Dice, patterned: f32) -> Self {
        let tone = dice.range(0.4, 1.0);
        let pattern = if dice.chance(patterned) { Pattern::random(dice) } else { Pattern::Plain };
        Self {
            tone,
            accent: contrasting(tone, dice),
            pattern,
            folds: dice.range(0.03, 0.2),
            fold_size: [dice.range(1.5, 4.0), dice.range(3.0, 12.0)],
            seed: dice.bits(),
        }
    }

    /// Returns leather, canvas or mesh for shoes and bags: less often patterned, creased in all directions.
    pub(super) fn leather(dice: &mut Dice) -> Self {
        let mut cloth = Self::random(dice, 0.3);
        cloth.folds = dice.range(0.02, 0.25);
        cloth.fold_size = [dice.range(2.0, 5.0), dice.range(1.5, 4.0)];
        cloth
    }

    /// Returns the same cloth in different light.
    pub(super) fn brightened(mut self, factor: f32) -> Self {
        self.tone *= factor;
        self.accent *= factor;
        self
    }

    /// Returns the grey value at a point of the garment.
    pub(super) fn tone_at(&self, [x, y]: Point) -> f32 {
        let accent = self.pattern.accent_at([x, y], self.seed);
        let tone = self.tone + accent * (self.accent - self.tone);
        if self.folds == 0.0 {
            return tone;
        }
        let fold = smooth_noise([x / self.fold_size[0], y / self.fold_size[1]], self.seed ^ 0x5bd1);
        tone * (1.0 + self.folds * (2.0 * fold - 1.0))
    }
}

/// Returns a tone that differs slightly or strongly from this one.
pub(super) fn contrasting(tone: f32, dice: &mut Dice) -> f32 {
    let step = dice.range(0.2, 0.6);
    if tone > 0.5 { tone - step.min(tone - 0.05) } else { tone + step }.clamp(0.05, 1.0)
}

impl Pattern {
    fn random(dice: &mut Dice) -> Self {
        match dice.below(12) {
            0 => Self::Stripes { direction: [0.0, 1.0], period: dice.range(2.2, 6.0), share: dice.range(0.25, 0.6) },
            1 => Self::Stripes { direction: [1.0, 0.0], period: dice.range(2.2, 5.0), share: dice.range(0.2, 0.5) },
            2 => Self::Stripes { direction: [0.7, dice.range(-0.7, 0.7)], period: dice.range(2.5, 6.0), share: 0.5 },
            3 => Self::Checks { period: dice.range(2.5, 6.0), share: dice.range(0.2, 0.5) },
            4 => Self::Spots { period: dice.range(2.5, 4.5), radius: dice.range(0.5, 1.1) },
            5 | 6 => Self::Blotches { size: dice.range(1.2, 3.0), share: dice.range(0.35, 0.6) },
            7 | 8 => Self::Melange,
            9 => Self::Block { height: dice.range(7.0, 20.0) },
            _ => Self::Motif {
                centre: [dice.range(-1.0, 1.0), dice.range(8.0, 13.0)],
                half: [dice.range(1.5, 4.5), dice.range(0.8, 4.0)],
                cell: dice.range(0.9, 1.8),
            },
        }
    }

    /// Returns the share of the second tone at a point, 0 to 1.
    fn accent_at(&self, [x, y]: Point, seed: u32) -> f32 {
        match *self {
            Self::Plain => 0.0,
            Self::Stripes { direction, period, share } => {
                band((x * direction[0] + y * direction[1]) / period, share, period)
            }
            Self::Checks { period, share } => (band(x / period, share, period) + band(y / period, share, period)) / 2.0,
            Self::Spots { period, radius } => {
                let row = (y / period).floor();
                let [dx, dy] = [fraction(x / period + row / 2.0) - 0.5, fraction(y / period) - 0.5];
                let distance = (dx * dx + dy * dy).sqrt() * period;
                (radius + 0.5 - distance).clamp(0.0, 1.0)
            }
            Self::Blotches { size, share } => {
                let noise = smooth_noise([x / size, y / size], seed);
                ((noise - (1.0 - share)) * 5.0 + 0.5).clamp(0.0, 1.0)
            }
            Self::Melange => 0.6 * smooth_noise([x * 1.1, y * 0.9], seed),
            Self::Block { height } => (y - height + 0.5).clamp(0.0, 1.0),
            Self::Motif { centre, half, cell } => {
                let [dx, dy] = [x - centre[0], y - centre[1]];
                let inside = dx > -half[0] && dx < half[0] && dy > -half[1] && dy < half[1];
                if inside && lattice((x / cell).floor(), (y / cell).floor(), seed) < 0.65 { 1.0 } else { 0.0 }
            }
        }
    }
}

/// Returns 1 in the first `share` of each period and 0 in the rest, with edges about one pixel wide.
fn band(phase: f32, share: f32, period: f32) -> f32 {
    let from_middle = (fraction(phase) - 0.5).abs() * period;
    (share * period / 2.0 - from_middle + 0.5).clamp(0.0, 1.0)
}

fn fraction(x: f32) -> f32 {
    x - x.floor()
}

/// Returns noise in 0..1 that varies smoothly over one unit.
fn smooth_noise([x, y]: Point, seed: u32) -> f32 {
    let [i, j] = [x.floor(), y.floor()];
    let ease = |t: f32| t * t * (3.0 - 2.0 * t);
    let [u, v] = [ease(x - i), ease(y - j)];
    let mix = |a: f32, b: f32, t: f32| a + (b - a) * t;
    let upper = mix(lattice(i, j, seed), lattice(i + 1.0, j, seed), u);
    let lower = mix(lattice(i, j + 1.0, seed), lattice(i + 1.0, j + 1.0, seed), u);
    mix(upper, lower, v)
}

/// Returns a number in 0..1 for each integer point: a hash of its coordinates.
fn lattice(x: f32, y: f32, seed: u32) -> f32 {
    let mut hash = seed
        .wrapping_add((x as i32 as u32).wrapping_mul(0x9e37_79b1))
        .wrapping_add((y as i32 as u32).wrapping_mul(0x85eb_ca77));
    hash = (hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d);
    hash = (hash ^ (hash >> 12)).wrapping_mul(0x297a_2d39);
    ((hash ^ (hash >> 15)) >> 8) as f32 / (1 << 24) as f32
}
