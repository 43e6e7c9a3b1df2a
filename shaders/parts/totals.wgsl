
// --------------------------------------------------------------------------------------------------------- totals
//
// The sums of all lanes of a workgroup, for the files of which this is a part; each says how many LANES it has.

var<workgroup> tile_loss: array<f32, LANES>;
var<workgroup> tile_correct: array<u32, LANES>;

// Adds up what each lane has, in a fixed order. Afterwards, the first elements of both arrays are the sums.
fn add_lanes(loss: f32, correct: u32, lane: u32) {
    tile_loss[lane] = loss;
    tile_correct[lane] = correct;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            tile_loss[lane] += tile_loss[lane + half];
            tile_correct[lane] += tile_correct[lane + half];
        }
        workgroupBarrier();
    }
}
