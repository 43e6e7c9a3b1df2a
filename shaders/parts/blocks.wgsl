
// --------------------------------------------------------------------------------------------------------- blocks
//
// Tiles that are fetched in blocks of four by four values, four per load. The first 128 invocations of a workgroup
// fetch the left operand, the others the right one. Adjacent invocations have adjacent steps.

// Where the block of an invocation lies in the tile of its operand: rows or columns from `quad * 4`, steps from `step`.
struct Block { is_left: bool, quad: u32, step: u32 }

fn block_of(lane: u32) -> Block {
    return Block(lane < 128u, lane % 128u / 4u, lane % 4u * 4u);
}

// Whether there is such a block: a tile has at most 32 quads of rows and 16 of columns.
fn is_in_tile(block: Block) -> bool {
    return block.quad < select(COLUMN_QUADS, ROW_QUADS, block.is_left);
}

// Stages a block for the coming round: four rows or columns for each of four steps.
fn stage(block: Block, values: mat4x4<f32>) {
    if (!is_in_tile(block)) { return; }
    for (var step = 0u; step < 4u; step++) {
        if (block.is_left) {
            tile_a[(block.step + step) * (ROW_QUADS + 1u) + block.quad] = values[step];
        } else {
            tile_b[(block.step + step) * (COLUMN_QUADS + 1u) + block.quad] = values[step];
        }
    }
}
