//! T-shirt, pullover, coat and shirt: a common torso with sleeves, and what distinguishes the four.

use super::cloth::{Cloth, contrasting};
use super::dice::Dice;
use super::raster::{Easel, Outline, Point};

/// The appearance of a garment for the upper body.
#[derive(Clone, Copy, PartialEq)]
enum Look {
    TShirt,
    Pullover,
    Coat,
    Shirt,
}

/// Half widths and heights of a torso, measured from the middle axis and the upper edge.
pub(super) struct Torso {
    pub(super) neck: f32,
    pub(super) neck_depth: f32,
    /// Whether the neckline is V-shaped.
    pub(super) v_neck: bool,
    pub(super) shoulder: f32,
    pub(super) top: f32,
    /// How far the end of the shoulder is below the neck.
    pub(super) drop: f32,
    pub(super) chest: f32,
    pub(super) armpit: f32,
    pub(super) waist: f32,
    pub(super) waist_at: f32,
    pub(super) hem: f32,
    pub(super) bottom: f32,
}

impl Torso {
    fn outline(&self) -> Outline {
        let neckline = Outline::from([0.0, self.top + self.neck_depth]);
        let collar_point = [self.neck, self.top];
        let neckline = if self.v_neck {
            neckline.line(collar_point)
        } else {
            neckline.curve([self.neck * 0.9, self.top + self.neck_depth * 0.9], collar_point)
        };
        neckline
            .line(self.shoulder_end())
            .curve([self.chest - 0.6, (self.top + self.drop + self.armpit) / 2.0], [self.chest, self.armpit])
            .curve([self.waist, (self.armpit + self.waist_at) / 2.0], [self.waist, self.waist_at])
            .curve([self.waist, (self.waist_at + self.bottom) / 2.0], [self.hem, self.bottom])
            .curve([self.hem / 2.0, self.bottom + 0.6], [0.0, self.bottom + 0.6])
            .mirrored()
    }

    fn shoulder_end(&self) -> Point {
        [self.shoulder, self.top + self.drop]
    }

    /// Returns the right sleeve: `lean` is how far it extends outwards per unit downwards.
    fn sleeve(&self, length: f32, lean: f32, cuff: f32) -> Outline {
        let [x, y] = self.shoulder_end();
        let norm = (1.0 + lean * lean).sqrt();
        let [dx, dy] = [lean / norm, 1.0 / norm];
        let outer = [x + dx * length, y + dy * length];
        let inner = [outer[0] - dy * cuff, outer[1] + dx * cuff];
        let bulge = [x + dx * length * 0.3 + dy * 1.2, y + dy * length * 0.3 - dx * 1.2];
        Outline::from([x - 1.5, y - 0.4])
            .curve(bulge, outer)
            .line(inner)
            .line([self.chest, self.armpit])
            .line([x - 2.0, self.armpit - 0.5])
    }

    /// Draws both sleeves behind the torso, then the torso, then the inside of the neck.
    pub(super) fn draw(&self, sleeve: Option<[f32; 3]>, cloth: &Cloth, easel: &mut Easel, dice: &mut Dice) {
        let sleeve_cloth =
            cloth.brightened(if dice.chance(0.15) { dice.range(0.4, 1.5) } else { dice.range(0.85, 1.1) });
        if let Some([length, lean, cuff]) = sleeve {
            let worn = dice.range(-0.06, 0.06);
            easel.fill(&self.sleeve(length, lean + worn, cuff), &sleeve_cloth);
            easel.fill(&self.sleeve(length, lean - worn, cuff).flipped(), &sleeve_cloth);
        }
        if dice.chance(0.6) {
            let back = Outline::ellipse([0.0, self.top + 0.3], [self.neck, 0.4 + self.neck_depth * 0.5]);
            easel.tint(&back, cloth.tone * dice.range(0.25, 0.8), 1.0);
        }
        easel.fill(&self.outline(), cloth);
        if sleeve.is_some() {
            let [x, y] = self.shoulder_end();
            let ends = [[x - 0.3, y], [self.chest, self.armpit]];
            easel.stroke_both(&ends, 0.7, cloth.tone * 0.4, dice.range(0.05, 0.5));
        }
    }
}

/// Draws a garment of one of the four classes.
pub(super) fn top(class: u8, easel: &mut Easel, dice: &mut Dice) {
    let look = look_of(class, dice);
    let (torso, sleeve) = cut_of(look, dice);
    let cloth = Cloth::random(dice, if look == Look::TShirt { 0.4 } else { 0.25 });
    torso.draw(sleeve, &cloth, easel, dice);
    let trim = Trim { tone: contrasting(cloth.tone, dice), visible: dice.range(0.65, 1.0) };
    match look {
        Look::TShirt => trim_t_shirt(&torso, &trim, easel, dice),
        Look::Pullover => trim_pullover(&torso, sleeve, &trim, easel, dice),
        Look::Coat => trim_coat(&torso, &cloth, &trim, easel, dice),
        Look::Shirt => trim_shirt(&torso, &trim, easel, dice),
    }
}

/// Returns mostly the look of the class; otherwise that of a similar class, which a classifier can only guess.
fn look_of(class: u8, dice: &mut Dice) -> Look {
    use Look::{Coat, Pullover, Shirt, TShirt};
    let (own, others): (Look, &[(f32, Look)]) = match class {
        0 => (TShirt, &[(0.06, Shirt)]),
        2 => (Pullover, &[(0.04, Shirt), (0.03, Coat)]),
        4 => (Coat, &[(0.04, Pullover), (0.03, Shirt)]),
        _ => (Shirt, &[(0.06, TShirt), (0.05, Pullover), (0.03, Coat)]),
    };
    let mut draw = dice.range(0.0, 1.0);
    for &(share, other) in others {
        if draw < share {
            return other;
        }
        draw -= share;
    }
    own
}

/// Returns the torso and the sleeves, if any (length, lean, cuff width). The ranges of the four looks overlap.
fn cut_of(look: Look, dice: &mut Dice) -> (Torso, Option<[f32; 3]>) {
    // The probability of long sleeves, how far the hem is outside the waist, and the height of the lower edge.
    let (long_sleeves, flare, bottom) = match look {
        Look::TShirt => (0.05, [-0.3, 1.2], [23.5, 27.0]),
        Look::Shirt => (0.7, [-0.3, 1.2], [23.5, 27.0]),
        Look::Pullover => (0.96, [-0.9, 0.4], [22.5, 25.5]),
        Look::Coat => (1.0, [0.4, 2.0], [25.5, 27.6]),
    };
    let (sleeve, wide) = if dice.chance(long_sleeves) {
        let length = if dice.chance(0.12) { dice.range(13.0, 18.0) } else { dice.range(19.5, 24.0) };
        (Some([length, dice.range(0.12, 0.3), dice.range(2.2, 3.4)]), -0.6)
    } else if dice.chance(0.88) {
        (Some([dice.range(4.5, 9.0), dice.range(0.45, 1.3), dice.range(3.5, 5.5)]), 0.4)
    } else {
        (None, 0.4)
    };
    let chest = wide + dice.range(5.6, 7.0);
    let waist = chest + dice.range(-1.2, 0.5);
    let top = dice.range(0.6, 2.2);
    let torso = Torso {
        neck: dice.range(2.0, 3.6),
        neck_depth: if look == Look::Shirt { dice.range(0.5, 3.0) } else { dice.range(0.8, 4.0) },
        v_neck: dice.chance(if look == Look::Coat { 0.6 } else { 0.25 }),
        shoulder: chest + dice.range(-0.9, 0.5),
        top,
        drop: dice.range(0.8, 2.2),
        chest,
        armpit: top + dice.range(6.0, 8.5),
        waist,
        waist_at: dice.range(14.0, 18.5),
        hem: waist + dice.range(flare[0], flare[1]),
        bottom: dice.range(bottom[0], bottom[1]),
    };
    (torso, sleeve)
}

/// Tone and visibility of collars, bands and buttons.
struct Trim {
    tone: f32,
    visible: f32,
}

impl Trim {
    fn line(&self, points: &[Point], width: f32, easel: &mut Easel) {
        easel.stroke(points, width, self.tone, self.visible);
    }

    fn patch(&self, corners: &[Point], easel: &mut Easel) {
        easel.tint(&Outline::polygon(corners), self.tone, self.visible);
    }

    /// Draws a band around the neckline.
    fn neck_band(&self, torso: &Torso, width: f32, easel: &mut Easel) {
        let [neck, top, low] = [torso.neck, torso.top, torso.top + torso.neck_depth];
        let band = Outline::from([-neck, top]);
        let band = if torso.v_neck {
            band.line([0.0, low]).line([neck, top])
        } else {
            band.curve([-neck * 0.9, low], [0.0, low]).curve([neck * 0.9, low], [neck, top])
        };
        self.line(band.points(), width, easel);
    }

    /// Draws the two halves of a collar, which meet under the chin.
    fn collar(&self, torso: &Torso, leaf: f32, easel: &mut Easel) {
        let [neck, top] = [torso.neck, torso.top];
        for side in [-1.0, 1.0] {
            let corners = [
                [side * neck * 0.9, top - 0.8],
                [side * (neck + 0.5), top + 0.4],
                [side * neck * 0.75, top + leaf],
                [0.0, top + leaf * 0.7],
            ];
            self.patch(&corners, easel);
        }
    }

    /// Draws a vertical row of buttons.
    fn buttons(&self, x: f32, from: f32, to: f32, n: usize, easel: &mut Easel) {
        let step = (to - from) / n as f32;
        for i in 0..n {
            let centre = [x, from + step * (i as f32 + 0.5)];
            easel.tint(&Outline::ellipse(centre, [0.55, 0.55]), self.tone, self.visible);
        }
    }
}

fn trim_t_shirt(torso: &Torso, trim: &Trim, easel: &mut Easel, dice: &mut Dice) {
    if dice.chance(0.6) {
        trim.neck_band(torso, dice.range(0.5, 1.1), easel);
    }
    if dice.chance(0.12) {
        let low = torso.top + torso.neck_depth;
        trim.buttons(0.0, low, low + 4.0, 2, easel);
    }
    if dice.chance(0.15) {
        let x = dice.range(1.2, 3.0);
        trim.patch(&[[x, 8.0], [x + 2.2, 8.0], [x + 2.2, 10.4], [x, 10.4]], easel);
    }
}

fn trim_pullover(torso: &Torso, sleeve: Option<[f32; 3]>, trim: &Trim, easel: &mut Easel, dice: &mut Dice) {
    let [neck, top, hem, bottom] = [torso.neck, torso.top, torso.hem, torso.bottom];
    match dice.below(6) {
        0 => trim.patch(&[[-neck, top - 0.8], [neck, top - 0.8], [neck, top + 1.8], [-neck, top + 1.8]], easel),
        1 => {
            // An open hood and its cords.
            easel.tint(&Outline::ellipse([0.0, top + 1.2], [neck + 1.6, 2.6]), trim.tone, trim.visible * 0.7);
            easel.tint(&Outline::ellipse([0.0, top + 1.0], [neck * 0.8, 1.5]), 0.1, trim.visible);
            easel.stroke_both(&[[1.0, top + 3.0], [1.0, top + 7.5]], 0.5, trim.tone, trim.visible);
        }
        _ => trim.neck_band(torso, dice.range(0.6, 1.5), easel),
    }
    if dice.chance(0.85) {
        let rib = dice.range(0.8, 1.8);
        trim.patch(&[[-hem, bottom - rib], [hem, bottom - rib], [hem, bottom + 0.3], [-hem, bottom + 0.3]], easel);
    }
    if sleeve.is_some() && dice.chance(0.15) {
        trim.patch(&[[-3.0, 17.0], [3.0, 17.0], [4.0, 21.5], [-4.0, 21.5]], easel);
    }
}

fn trim_coat(torso: &Torso, cloth: &Cloth, trim: &Trim, easel: &mut Easel, dice: &mut Dice) {
    let [neck, top, bottom] = [torso.neck, torso.top, torso.bottom + 0.6];
    let x = dice.bell(0.5);
    let lapel = if dice.chance(0.6) { dice.range(4.0, 9.0) } else { 0.0 };
    if dice.chance(0.3) {
        // Worn open: the lining or the background shows between the fronts.
        let gap = dice.range(0.6, 1.8);
        let corners = [[x - gap * 0.4, top + 1.0], [x + gap * 0.4, top + 1.0], [x + gap, bottom], [x - gap, bottom]];
        if dice.chance(0.5) { easel.cut(&Outline::polygon(&corners)) } else { trim.patch(&corners, easel) }
    } else {
        let dark = cloth.tone * dice.range(0.1, 0.5);
        easel.stroke(&[[x, top + 1.0], [x, bottom]], dice.range(0.7, 1.3), dark, trim.visible);
    }
    if lapel > 0.0 {
        for side in [-1.0, 1.0] {
            let corners = [[side * neck, top - 0.6], [side * (neck + 1.6), top + lapel * 0.4], [x, top + lapel]];
            trim.patch(&corners, easel);
        }
    }
    match dice.below(4) {
        0 => trim.buttons(x + 1.2, top + 5.0, bottom - 2.0, 3 + dice.below(3), easel),
        1 => {
            trim.buttons(x - 1.6, top + 6.0, bottom - 4.0, 3, easel);
            trim.buttons(x + 1.6, top + 6.0, bottom - 4.0, 3, easel);
        }
        2 => trim.collar(torso, dice.range(1.5, 3.0), easel),
        _ => {}
    }
    if dice.chance(0.25) {
        let y = torso.waist_at;
        trim.line(&[[-torso.waist, y], [torso.waist, y]], dice.range(0.8, 1.6), easel);
    }
    if dice.chance(0.4) {
        let y = dice.range(17.0, 20.0);
        easel.stroke_both(&[[4.6, y], [2.0, y + 0.4]], 0.8, trim.tone, trim.visible);
    }
}

fn trim_shirt(torso: &Torso, trim: &Trim, easel: &mut Easel, dice: &mut Dice) {
    let top = torso.top;
    if dice.chance(0.92) {
        trim.collar(torso, dice.range(2.0, 3.6), easel);
    } else {
        trim.neck_band(torso, 0.7, easel);
    }
    // The placket reaches the hem, or only part of the way on a tunic or polo shirt.
    let x = dice.bell(0.3);
    let low = if dice.chance(0.75) { torso.bottom } else { top + dice.range(6.0, 10.0) };
    let start = top + torso.neck_depth;
    if dice.chance(0.85) {
        trim.line(&[[x + 0.6, start], [x + 0.6, low]], 0.5, easel);
    }
    trim.buttons(x, start, low, 3 + dice.below(4), easel);
    if dice.chance(0.4) {
        let y = dice.range(8.0, 9.5);
        trim.line(&[[2.0, y], [4.6, y], [4.6, y + 2.6], [2.0, y + 2.6], [2.0, y]], 0.4, easel);
    }
}
