//! Sandal, sneaker and ankle boot, seen from the side, toe to the left.

use super::cloth::{Cloth, contrasting};
use super::dice::Dice;
use super::raster::{Easel, Outline, Point};

/// Draws a shoe of one of the three classes.
pub(super) fn shoe(class: u8, easel: &mut Easel, dice: &mut Dice) {
    // A few look exactly like a similar class, as among the tops.
    let class = match class {
        5 if dice.chance(0.02) => 7,
        7 if dice.chance(0.02) => 9,
        7 if dice.chance(0.01) => 5,
        9 if dice.chance(0.03) => 7,
        own => own,
    };
    match class {
        5 => sandal(easel, dice),
        7 => sneaker(easel, dice),
        _ => ankle_boot(easel, dice),
    }
}

/// Dimensions of the closed shoes: the height of the ground, the length of the foot and the heights of its parts.
struct Last {
    toe: f32,
    heel: f32,
    /// Height of the ground, and of the top of the sole above it.
    ground: f32,
    sole: f32,
    /// Heights of the top of the toe and of the instep above the sole.
    toe_box: f32,
    instep: f32,
    /// The front edge of the opening for the foot.
    throat: f32,
}

impl Last {
    fn random(ground: f32, dice: &mut Dice) -> Self {
        Self {
            toe: dice.range(-13.4, -11.8),
            heel: dice.range(11.6, 13.4),
            ground,
            sole: dice.range(1.0, 2.8),
            toe_box: dice.range(1.8, 4.0),
            instep: dice.range(5.5, 8.5),
            throat: dice.range(-2.5, 3.0),
        }
    }

    /// Returns the upper, open at the ankle: `collar` is its height above the sole at the front and at the back.
    fn upper(&self, collar: [f32; 2]) -> Outline {
        let base = self.ground - self.sole + 0.3;
        let front = [self.throat + 2.0, base - collar[0]];
        let back = [self.heel - 0.6, base - collar[1]];
        Outline::from([self.toe + 0.3, base])
            .curve([self.toe, base - self.toe_box], [self.toe + 4.0, base - self.toe_box - 0.5])
            .curve([self.throat - 3.0, base - self.instep + 1.0], [self.throat, base - self.instep])
            .line(front)
            .curve([(front[0] + back[0]) / 2.0, front[1].max(back[1]) + 1.5], back)
            .curve([self.heel - 1.2, base - collar[1] * 0.5], [self.heel, base])
    }

    /// Returns a sole that is flat on the ground, with the toe slightly raised.
    fn flat_sole(&self, lift: f32) -> Outline {
        let [upper, lower] = [self.ground - self.sole, self.ground];
        Outline::from([self.toe - 0.2, upper + 0.2 - lift])
            .line([self.heel + 0.2, upper])
            .line([self.heel + 0.1, lower])
            .line([self.toe + 3.5, lower])
            .curve([self.toe + 0.8, lower], [self.toe - 0.2, upper + 0.2 - lift])
    }
}

fn sneaker(easel: &mut Easel, dice: &mut Dice) {
    let mut last = Last::random(dice.range(18.5, 22.5), dice);
    let cloth = Cloth::leather(dice);
    let high = dice.chance(0.14);
    let collar = if high {
        [dice.range(10.0, 13.0), dice.range(9.0, 12.0)]
    } else {
        last.instep = last.instep.min(7.2);
        [last.instep + dice.range(0.0, 1.6), dice.range(5.0, 8.5)]
    };
    easel.fill(&last.upper(collar), &cloth);
    let [trim, visible] = [contrasting(cloth.tone, dice), dice.range(0.3, 1.0)];
    let base = last.ground - last.sole;
    if dice.chance(0.75) {
        laces(&last, collar[0], trim, visible, easel, dice);
    }
    match dice.below(5) {
        0 => {
            for i in 0..3 {
                let x = last.throat + 1.0 + 1.8 * i as f32;
                easel.stroke(&[[x, base - 4.5], [x - 2.5, base]], 0.9, trim, visible);
            }
        }
        1 => {
            let swoosh = Outline::from([last.throat - 3.0, base - 2.0])
                .curve([last.throat, base], [last.heel - 2.0, base - 4.0]);
            easel.stroke(swoosh.points(), 1.1, trim, visible);
        }
        2 => easel.tint(&Outline::ellipse([last.toe + 3.0, base - 0.5], [3.2, 2.0]), trim, visible),
        3 => {
            let [x, y] = [last.heel, base - 4.5];
            let counter = Outline::polygon(&[[x - 3.5, base], [x - 3.0, y], [x, y], [x, base]]);
            easel.tint(&counter, trim, visible);
        }
        _ => {}
    }
    let sole = if dice.chance(0.6) { dice.range(0.75, 1.0) } else { dice.range(0.1, 0.8) };
    easel.fill(&last.flat_sole(dice.range(0.0, 0.8)), &Cloth::plain(sole));
}

/// Draws short lines across the instep.
fn laces(last: &Last, collar: f32, tone: f32, visible: f32, easel: &mut Easel, dice: &mut Dice) {
    let base = last.ground - last.sole;
    let n = 3 + dice.below(3);
    for i in 0..n {
        let t = i as f32 / n as f32;
        let x = last.throat - 4.0 + 5.5 * t;
        let y = base - last.instep + 1.6 * (1.0 - t) - (collar - last.instep) * t * 0.9;
        easel.stroke(&[[x - 0.3, y + 0.2], [x + 1.4, y + 2.0]], 0.7, tone, visible);
    }
}

fn ankle_boot(easel: &mut Easel, dice: &mut Dice) {
    let mut last = Last::random(dice.range(22.5, 26.5), dice);
    let cloth = Cloth::leather(dice);
    let heel_height = if dice.chance(0.45) { dice.range(2.0, 6.5) } else { dice.range(0.3, 1.5) };
    let shaft = if dice.chance(0.15) { dice.range(8.5, 11.0) } else { dice.range(11.5, 18.5) };
    last.throat += 1.0;
    let collar = [shaft, shaft + dice.range(-1.0, 1.2)];
    // With a heel, the foot slopes: the toe stays on the ground and the back rises.
    let slope = heel_height / (last.heel - last.toe);
    let raise = |[x, y]: Point| [x, y - (x - last.toe) * slope];
    let base = last.ground - last.sole;
    easel.fill(&last.upper(collar).moved(raise), &cloth);
    let [trim, visible] = [contrasting(cloth.tone, dice), dice.range(0.2, 1.0)];
    match dice.below(5) {
        0 => {
            let x = (last.throat + last.heel) / 2.0 + 1.0;
            let [top, low] = [base - shaft, base - 5.0];
            let gusset = Outline::polygon(&[[x - 1.8, top], [x + 1.8, top], [x + 0.8, low], [x - 0.8, low]]);
            easel.tint(&gusset.moved(raise), trim, visible);
        }
        1 => laces(&last, shaft - 1.0, trim, visible, easel, dice),
        2 => {
            let x = last.throat + 4.0;
            let zip = Outline::polygon(&[[x, base - shaft + 0.5], [x + 0.5, base - 2.0]]);
            easel.stroke(zip.moved(raise).points(), 0.7, trim, visible);
        }
        3 => {
            let y = base - shaft * dice.range(0.45, 0.95);
            let strap = Outline::polygon(&[[last.throat + 1.0, y], [last.heel - 1.0, y]]);
            easel.stroke(strap.moved(raise).points(), dice.range(0.8, 2.0), trim, visible);
        }
        _ => {}
    }
    let sole = Cloth::plain(if dice.chance(0.4) { dice.range(0.5, 1.0) } else { dice.range(0.05, 0.5) });
    easel.fill(&last.flat_sole(dice.range(0.0, 0.5)).moved(raise), &sole);
    let width = dice.range(2.0, 7.0);
    let [x, y] = [last.heel, last.ground];
    let top = last.ground - heel_height;
    let block = [[x - width - 1.0, top - 0.3], [x + 0.2, top - 0.3], [x - 0.4, y], [x - width * 0.8, y]];
    easel.fill(&Outline::polygon(&block), &sole);
}

fn sandal(easel: &mut Easel, dice: &mut Dice) {
    let cloth = Cloth::leather(dice);
    let [toe, heel] = [dice.range(-13.2, -11.5), dice.range(11.0, 13.2)];
    let heel_height = match dice.below(10) {
        0..5 => dice.range(0.0, 1.0),
        5..7 => dice.range(1.0, 4.0),
        _ => dice.range(5.0, 10.0),
    };
    let ground = dice.range(16.0, 19.5) + heel_height * 0.5;
    let sole = dice.range(0.8, 2.4);
    let sole_cloth = cloth.brightened(dice.range(0.5, 1.2));
    // The ball of the foot rests on the ground; from there the sole rises to the heel.
    let ball = toe + 8.0;
    let back = ground - heel_height;
    let footbed = |x: f32| {
        if x < ball { ground - sole } else { ground - sole - heel_height * (x - ball) / (heel - ball) }
    };
    let shape = Outline::from([toe, ground - sole])
        .line([ball, ground - sole])
        .curve([ball + 4.0, ground - sole], [heel, back - sole])
        .line([heel, back])
        .curve([ball + 5.0, ground], [ball, ground])
        .line([toe + 0.6, ground]);
    easel.fill(&shape, &sole_cloth);
    if heel_height > 1.0 {
        let wedge = dice.chance(0.3);
        let width = if wedge { heel - ball - 2.0 } else { dice.range(0.9, 3.5) };
        let foot = if wedge { width } else { width * 0.6 };
        let block = [[heel - width, back - 0.5], [heel, back - 0.5], [heel - 0.3, ground], [heel - 0.3 - foot, ground]];
        easel.fill(&Outline::polygon(&block), &sole_cloth);
    }
    straps([toe, ball, heel], footbed, cloth.tone, easel, dice);
}

/// Draws straps across the toes and the instep and around the heel and the ankle; each sandal has some of them.
fn straps([toe, ball, heel]: [f32; 3], footbed: impl Fn(f32) -> f32, tone: f32, easel: &mut Easel, dice: &mut Dice) {
    let mut arch = |from: f32, to: f32, rise: f32, width: f32, shade: f32| {
        let crown = footbed((from + to) / 2.0) - rise * 2.0;
        let line = Outline::from([from, footbed(from)]).curve([(from + to) / 2.0, crown], [to, footbed(to)]);
        easel.stroke(line.points(), width, tone * shade, 1.0);
    };
    let n_front = 1 + dice.below(3);
    for i in 0..n_front {
        let from = toe + 1.0 + i as f32 * dice.range(1.5, 3.5);
        arch(from, from + dice.range(3.0, 7.5), dice.range(1.6, 4.0), dice.range(0.7, 2.6), dice.range(0.7, 1.2));
    }
    if dice.chance(0.45) {
        let to = ball + dice.range(6.0, 11.0);
        arch(ball - 1.0, to, dice.range(3.0, 5.5), dice.range(0.8, 2.2), dice.range(0.7, 1.2));
    }
    if dice.chance(0.6) {
        let y = footbed(heel);
        let [rise, width] = [dice.range(3.5, 7.5), dice.range(0.8, 2.0)];
        easel.stroke(&[[heel - 0.5, y], [heel - 0.9, y - rise]], width, tone * dice.range(0.7, 1.2), 1.0);
        let front = heel - dice.range(5.0, 9.0);
        easel.stroke(&[[heel - 0.9, y - rise], [front, y - rise + dice.range(-1.0, 1.5)]], width, tone, 1.0);
        if dice.chance(0.6) {
            easel.stroke(&[[front, y - rise + 0.5], [ball + 0.5, footbed(ball)]], width * 0.9, tone * 0.9, 1.0);
        }
    }
}
