//! Trouser, dress and bag.

use super::cloth::{Cloth, contrasting};
use super::dice::Dice;
use super::raster::{Easel, Outline};
use super::tops::Torso;

/// Draws trousers.
pub(super) fn trouser(easel: &mut Easel, dice: &mut Dice) {
    let cloth = Cloth::random(dice, 0.25);
    let [waist, top] = [dice.range(2.8, 4.4), dice.range(0.4, 1.6)];
    let hip = waist + dice.range(0.4, 1.6);
    let crotch = dice.range(8.0, 12.0);
    let bottom = if dice.chance(0.06) { dice.range(14.0, 18.0) } else { dice.range(25.0, 27.6) };
    let gap = if dice.chance(0.12) { 0.15 } else { dice.range(0.5, 2.6) };
    let hem = dice.range(1.6, 3.6);
    let stand = dice.range(-0.5, 0.9);
    let leg = Outline::from([0.0, top + 0.4])
        .line([waist, top])
        .curve([hip, top + 3.0], [hip, crotch - 1.0])
        .curve([gap + hem + stand * 0.3, (crotch + bottom) / 2.0], [gap + hem + stand, bottom])
        .line([gap + stand, bottom + 0.3])
        .curve([gap * 0.8, (crotch + bottom) / 2.0], [0.0, crotch]);
    easel.fill(&leg, &cloth);
    easel.fill(&leg.flipped(), &cloth.brightened(dice.range(0.85, 1.15)));
    let [trim, visible] = [contrasting(cloth.tone, dice), dice.range(0.1, 0.9)];
    easel.stroke(&[[0.0, top + 1.2], [0.0, crotch]], 0.5, cloth.tone * 0.3, visible);
    if dice.chance(0.5) {
        easel.stroke(&[[-waist, top + 0.8], [0.0, top + 1.2], [waist, top + 0.8]], 1.0, trim, visible);
    }
    if dice.chance(0.5) {
        easel.stroke_both(&[[waist * 0.5, top + 1.6], [hip * 0.95, top + 4.0]], 0.6, cloth.tone * 0.4, visible);
    }
    if dice.chance(0.25) {
        let y = dice.range(crotch + 4.0, crotch + 8.0).min(bottom - 1.0);
        for side in [-1.0, 1.0] {
            let knee = Outline::ellipse([side * (gap + hem * 0.5), y], [hem * 0.6, 2.0]);
            easel.tint(&knee, trim, visible * 0.6);
        }
    }
}

/// Draws a dress.
pub(super) fn dress(easel: &mut Easel, dice: &mut Dice) {
    let cloth = Cloth::random(dice, 0.45);
    let chest = dice.range(3.0, 5.4);
    let waist = chest - dice.range(-0.2, 1.3);
    let top = dice.range(0.4, 1.8);
    let torso = Torso {
        neck: dice.range(1.6, 3.0).min(chest - 0.6),
        neck_depth: dice.range(0.6, 4.2),
        v_neck: dice.chance(0.4),
        shoulder: chest - dice.range(0.0, 0.9),
        top,
        drop: dice.range(0.2, 1.4),
        chest,
        armpit: top + dice.range(4.5, 7.0),
        waist,
        waist_at: dice.range(9.5, 14.0),
        hem: waist + dice.range(-0.2, 5.0),
        bottom: dice.range(24.0, 27.2),
    };
    let sleeve = match dice.below(10) {
        0..5 => None,
        5..8 => Some([dice.range(3.0, 7.5), dice.range(0.3, 1.0), dice.range(2.2, 3.8)]),
        _ => Some([dice.range(12.0, 19.0), dice.range(0.1, 0.35), dice.range(1.8, 2.8)]),
    };
    torso.draw(sleeve, &cloth, easel, dice);
    let [trim, visible] = [contrasting(cloth.tone, dice), dice.range(0.2, 0.9)];
    if sleeve.is_none() && dice.chance(0.35) {
        // Straps: everything above the bust is removed except two lines.
        let bust = torso.armpit - dice.range(0.5, 2.0);
        let side = torso.chest + 1.5;
        easel.cut(&Outline::polygon(&[[-side, -2.0], [side, -2.0], [side, bust], [0.0, bust + 0.8], [-side, bust]]));
        easel.stroke_both(&[[waist * 0.6, top], [waist * 0.75, bust + 0.5]], 0.8, cloth.tone, 1.0);
    }
    if dice.chance(0.45) {
        let ends = [[-waist, torso.waist_at], [waist, torso.waist_at]];
        easel.stroke(&ends, dice.range(0.5, 1.5), trim, visible);
    }
    if dice.chance(0.4) {
        pleats(&torso, cloth.tone * 0.5, visible, easel, dice);
    }
}

/// Draws folds that widen from the waist to the hem.
fn pleats(torso: &Torso, tone: f32, visible: f32, easel: &mut Easel, dice: &mut Dice) {
    let n = 2 + dice.below(4);
    for i in 0..n {
        let side = (i as f32 + 0.5) / n as f32 * 2.0 - 1.0;
        let ends = [[side * torso.waist * 0.8, torso.waist_at + 1.0], [side * torso.hem * 0.9, torso.bottom]];
        easel.stroke(&ends, 0.6, tone, visible * 0.7);
    }
}

/// Draws a bag.
pub(super) fn bag(easel: &mut Easel, dice: &mut Dice) {
    let cloth = Cloth::leather(dice);
    let [half, height] = [dice.range(7.0, 12.5), dice.range(8.0, 17.0)];
    let bottom = dice.range(22.0, 26.5);
    let top = bottom - height;
    let taper = dice.range(-1.0, 2.5);
    let round = dice.range(0.3, 3.0);
    handles(half - taper, top, &cloth, easel, dice);
    let body = Outline::from([0.0, top])
        .line([half - taper - round, top])
        .curve([half - taper, top], [half - taper, top + round])
        .line([half, bottom - round])
        .curve([half, bottom], [half - round, bottom])
        .line([0.0, bottom + dice.range(0.0, 0.8)])
        .mirrored();
    easel.fill(&body, &cloth);
    let [trim, visible] = [contrasting(cloth.tone, dice), dice.range(0.2, 1.0)];
    match dice.below(5) {
        0 => {
            let low = top + height * dice.range(0.4, 0.8);
            let flap = Outline::from([half - taper, top])
                .line([half - 0.5, top + 2.0])
                .curve([half * 0.6, low], [0.0, low])
                .mirrored();
            easel.tint(&flap, trim, visible * 0.5);
            easel.tint(&Outline::ellipse([0.0, low], [1.2, 1.2]), cloth.tone * 0.3, visible);
        }
        1 => easel.stroke(&[[-half + 1.5, top + 1.5], [half - 1.5, top + 1.5]], 0.7, trim, visible),
        2 => {
            let [a, y] = [half * 0.6, top + height * 0.45];
            let pocket = [[-a, bottom - 1.5], [-a, y], [a, y], [a, bottom - 1.5], [-a, bottom - 1.5]];
            easel.stroke(&pocket, 0.6, trim, visible);
        }
        3 => easel.stroke_both(&[[half * 0.5, top], [half * 0.5, bottom]], 1.0, trim, visible),
        _ => {}
    }
}

/// Draws one or two handles, a long strap, or nothing.
fn handles(half: f32, top: f32, cloth: &Cloth, easel: &mut Easel, dice: &mut Dice) {
    let tone = cloth.tone * dice.range(0.5, 1.1);
    let width = dice.range(0.7, 1.7);
    let arch = |a: f32, rise: f32| {
        let crown = top - rise;
        Outline::from([-a, top + 0.5]).curve([-a, crown], [0.0, crown]).curve([a, crown], [a, top + 0.5])
    };
    let room = (top - 0.5).max(1.0);
    match dice.below(8) {
        0..4 => {
            let a = half * dice.range(0.3, 0.6);
            let rise = dice.range(3.0, 8.0).min(room);
            easel.stroke(arch(a, rise).points(), width, tone, 1.0);
            if dice.chance(0.4) {
                easel.stroke(arch(a * 0.85, rise * 0.7).points(), width, tone * 0.6, 1.0);
            }
        }
        4 | 5 => easel.stroke(arch(half * 0.95, room).points(), width, tone, 1.0),
        6 => {
            let strap =
                Outline::from([-half + 0.5, top + 1.0]).curve([-half - 2.5, top + 5.0], [-half - 0.5, top + 11.0]);
            easel.stroke(strap.points(), width, tone, 1.0);
        }
        _ => {}
    }
}
