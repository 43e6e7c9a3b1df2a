
// ---------------------------------------------------------------------------------------------------------- tiles
//
// Products in tiles of workgroup memory, for the files of which this is a part: sum over k of a[row, k] * b[k, column].
//
// A workgroup of 256 invocations computes a tile. In each round, 16 steps of the inner dimension of both operands are
// staged in workgroup memory, so a value read once from memory serves 32 or 64 columns, or as many rows as the tile has.
// Each invocation sums four columns of four or eight rows; eight rows need only one more read of workgroup memory for
// twice as many multiply-adds, if there are enough rows to keep the whole GPU busy. The values of the next round are
// fetched while this one multiplies.

override TILE_COLUMNS: u32 = 64u;   // 64 or 32
override ROWS_EACH: u32 = 4u;       // rows per invocation: 4, or 8 if TILE_COLUMNS is 64

const STEPS = 16u;
override COLUMN_QUADS: u32 = TILE_COLUMNS / 4u;             // invocations in a row, four columns each
override ROW_QUADS: u32 = 256u / COLUMN_QUADS * (ROWS_EACH / 4u);
// Each line has one more than there are quads, so that the steps of a column of quads are in different banks.
var<workgroup> tile_a: array<vec4<f32>, STEPS * (ROW_QUADS + 1u)>;      // [STEPS][ROW_QUADS + 1]
var<workgroup> tile_b: array<vec4<f32>, STEPS * (COLUMN_QUADS + 1u)>;   // [STEPS][COLUMN_QUADS + 1]

// Not an override: naga 30.0.1 panics on one that is first used after the sizes of the tiles.
fn tile_rows() -> u32 {
    return 4u * ROW_QUADS;
}

// The sums of an invocation: four columns of four rows, and of four more if there are more.
alias Sums = array<vec4<f32>, 8>;

// One round of multiply-adds over the staged tiles, for the rows `row_quad` (and the same number farther down) and four
// columns.
fn multiply_tiles(row_quad: u32, column_quad: u32, sums: ptr<function, Sums>) {
    for (var k = 0u; k < STEPS; k++) {
        let b_value = tile_b[k * (COLUMN_QUADS + 1u) + column_quad];
        let a_value = tile_a[k * (ROW_QUADS + 1u) + row_quad];
        (*sums)[0] += a_value.x * b_value;
        (*sums)[1] += a_value.y * b_value;
        (*sums)[2] += a_value.z * b_value;
        (*sums)[3] += a_value.w * b_value;
        if (ROWS_EACH > 4u) {
            let a_more = tile_a[k * (ROW_QUADS + 1u) + row_quad + ROW_QUADS / 2u];
            (*sums)[4] += a_more.x * b_value;
            (*sums)[5] += a_more.y * b_value;
            (*sums)[6] += a_more.z * b_value;
            (*sums)[7] += a_more.w * b_value;
        }
    }
}

// The row of the tile that sum `r` of an invocation belongs to.
fn sum_row(row_quad: u32, r: u32) -> u32 {
    return (row_quad + r / 4u * (ROW_QUADS / 2u)) * 4u + r % 4u;
}

// Returns the number of this workgroup; the dispatch folds large numbers into two dimensions.
fn tile_number(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}

fn tiles(size: u32, tile: u32) -> u32 {
    return (size + tile - 1u) / tile;
}
