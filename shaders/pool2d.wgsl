// pool2d: max, average and sum pooling, any window, any stride, `valid` or `same` padding.
//
//   max      y[n,i,j,c] = max of the window; argmax = its position row*W + column in the input image, first one on ties
//   sum      y[n,i,j,c] = sum of the window's cells inside the image
//   average  the same divided by the number of those cells (padding is not counted, as in TensorFlow)
//   max      dx[n,h,w,c] = sum of dy over the windows whose argmax is (h,w)
//   sum      dx[n,h,w,c] = sum of dy over the windows that contain (h,w);  average: each divided by its window's cells
//
// Layout: NHWC, last index fastest. Source: tf.nn.max_pool2d, tf.nn.avg_pool2d and their gradients.
// Host: src/ops/pool2d.rs   Mirror: src/cpu/pool2d.rs   Test: tests/pool2d.rs
// The gradients gather: each input cell looks up the windows that contain it, so no atomic additions are needed. Max
// pooling has a second form, `_by_4`, for channels in multiples of four. Its gradient is for windows that do not
// overlap: each window then writes its own cells, which reads dy and argmax once (0.6 ms instead of 4.4 for [32, 28,
// 28, 32], lavapipe, Mesa 22.3).

override N: u32 = 1u;    // images
override H: u32 = 1u;    // input rows
override W: u32 = 1u;    // input columns
override C: u32 = 4u;   // channels
override KH: u32 = 1u;   // window rows
override KW: u32 = 1u;   // window columns
override SH: u32 = 1u;   // vertical stride
override SW: u32 = 1u;   // horizontal stride
override PT: u32 = 0u;   // padding above
override PL: u32 = 0u;   // padding to the left
override HO: u32 = 1u;   // output rows
override WO: u32 = 1u;   // output columns
override CELL_ROWS: u32 = 1u;            // max_backward_x_by_4: maximum number of rows that one window writes
override CELL_COLUMNS: u32 = 1u;         // the same for columns
override ALL_CELLS_EQUAL: bool = false;  // whether every window writes that many

@group(0) @binding(0) var<storage, read> x: array<f32>;               // [N, H, W, C]
@group(0) @binding(0) var<storage, read> x_by_4: array<vec4<f32>>;    // the same, four channels at once; likewise below
@group(0) @binding(1) var<storage, read_write> y: array<f32>;         // [N, HO, WO, C]
@group(0) @binding(1) var<storage, read_write> y_by_4: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> argmax_out: array<u32>; // [N, HO, WO, C]
@group(0) @binding(2) var<storage, read_write> argmax_out_by_4: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> argmax: array<u32>;          // [N, HO, WO, C]: argmax_out, read
@group(0) @binding(3) var<storage, read> argmax_by_4: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;              // [N, HO, WO, C]
@group(0) @binding(4) var<storage, read> dy_by_4: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;        // [N, H, W, C]
@group(0) @binding(5) var<storage, read_write> dx_by_4: array<vec4<f32>>;

// A position (n, row, column, c) in an image in NHWC.
struct Position { n: u32, row: u32, column: u32, c: u32 }

fn output_position(index: u32) -> Position {
    return Position(index / (C * WO * HO), index / (C * WO) % HO, index / C % WO, index % C);
}

// The same, but c counts groups of four channels.
fn quad_position(index: u32) -> Position {
    let quads = C / 4u;
    return Position(index / (quads * WO * HO), index / (quads * WO) % HO, index / quads % WO, index % quads);
}

fn input_position(index: u32) -> Position {
    return Position(index / (C * W * H), index / (C * W) % H, index / C % W, index % C);
}

// The input cells of one window along one axis, or the windows that contain one cell: first..end.
struct Range { first: u32, end: u32 }

fn window_cells(i: u32, stride: u32, padding: u32, window: u32, size: u32) -> Range {
    let start = i * stride;
    return Range(max(start, padding) - padding, min(start + window - padding, size));
}

fn windows_holding(cell: u32, stride: u32, padding: u32, window: u32, count: u32) -> Range {
    let last = cell + padding;
    let first = select(0u, (last - window) / stride + 1u, last >= window);
    return Range(first, min(last / stride + 1u, count));
}

@compute @workgroup_size(64)
fn pool2d_max_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= N * HO * WO * C) { return; }
    let at = output_position(index);
    let rows = window_cells(at.row, SH, PT, KH, H);
    let columns = window_cells(at.column, SW, PL, KW, W);
    var best = x[((at.n * H + rows.first) * W + columns.first) * C + at.c];
    var best_at = rows.first * W + columns.first;
    for (var row = rows.first; row < rows.end; row++) {
        for (var column = columns.first; column < columns.end; column++) {
            let value = x[((at.n * H + row) * W + column) * C + at.c];
            if (value > best) {
                best = value;
                best_at = row * W + column;
            }
        }
    }
    y[index] = best;
    argmax_out[index] = best_at;
}

@compute @workgroup_size(64)
fn pool2d_max_backward_x(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= N * H * W * C) { return; }
    let at = input_position(index);
    let rows = windows_holding(at.row, SH, PT, KH, HO);
    let columns = windows_holding(at.column, SW, PL, KW, WO);
    var sum = 0.0;
    for (var i = rows.first; i < rows.end; i++) {
        for (var j = columns.first; j < columns.end; j++) {
            let window = ((at.n * HO + i) * WO + j) * C + at.c;
            sum += select(0.0, dy[window], argmax[window] == at.row * W + at.column);
        }
    }
    dx[index] = sum;
}

@compute @workgroup_size(64)
fn pool2d_max_forward_by_4(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= N * HO * WO * (C / 4u)) { return; }
    let at = quad_position(index);
    var best = vec4(0.0);
    var best_at = vec4(0u);
    var found = false;
    // Constant bounds, unlike those of window_cells, so that drivers unroll the loops.
    for (var p = 0u; p < KH; p++) {
        for (var q = 0u; q < KW; q++) {
            let row = at.row * SH + p - PT;
            let column = at.column * SW + q - PL;
            let inside = row < H && column < W;
            let value = x_by_4[select(0u, ((at.n * H + row) * W + column) * (C / 4u) + at.c, inside)];
            let better = ((value > best) | vec4(!found)) & vec4(inside);
            best = select(best, value, better);
            best_at = select(best_at, vec4(row * W + column), better);
            found |= inside;
        }
    }
    y_by_4[index] = best;
    argmax_out_by_4[index] = best_at;
}

@compute @workgroup_size(64)
fn pool2d_max_backward_x_by_4(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= N * HO * WO * (C / 4u)) { return; }
    let at = quad_position(index);
    let gradient = dy_by_4[index];
    let winner = argmax_by_4[index];
    // The image is divided between the windows; the outermost ones also write the cells that are in no window.
    let first_row = select(at.row * SH - PT, 0u, at.row == 0u);
    let first_column = select(at.column * SW - PL, 0u, at.column == 0u);
    let end_row = select((at.row + 1u) * SH - PT, H, at.row == HO - 1u);
    let end_column = select((at.column + 1u) * SW - PL, W, at.column == WO - 1u);
    for (var p = 0u; p < CELL_ROWS; p++) {
        for (var q = 0u; q < CELL_COLUMNS; q++) {
            let row = first_row + p;
            let column = first_column + q;
            if (ALL_CELLS_EQUAL || (row < end_row && column < end_column)) {
                dx_by_4[((at.n * H + row) * W + column) * (C / 4u) + at.c] =
                    select(vec4(0.0), gradient, winner == vec4(row * W + column));
            }
        }
    }
}

@compute @workgroup_size(64)
fn pool2d_sum_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= N * HO * WO * C) { return; }
    y[index] = window_sum(output_position(index));
}

@compute @workgroup_size(64)
fn pool2d_average_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= N * HO * WO * C) { return; }
    let at = output_position(index);
    y[index] = window_sum(at) / window_size(at.row, at.column);
}

@compute @workgroup_size(64)
fn pool2d_sum_backward_x(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= N * H * W * C) { return; }
    let at = input_position(index);
    let rows = windows_holding(at.row, SH, PT, KH, HO);
    let columns = windows_holding(at.column, SW, PL, KW, WO);
    var sum = 0.0;
    for (var i = rows.first; i < rows.end; i++) {
        for (var j = columns.first; j < columns.end; j++) {
            sum += dy[((at.n * HO + i) * WO + j) * C + at.c];
        }
    }
    dx[index] = sum;
}

@compute @workgroup_size(64)
fn pool2d_average_backward_x(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= N * H * W * C) { return; }
    let at = input_position(index);
    let rows = windows_holding(at.row, SH, PT, KH, HO);
    let columns = windows_holding(at.column, SW, PL, KW, WO);
    var sum = 0.0;
    for (var i = rows.first; i < rows.end; i++) {
        for (var j = columns.first; j < columns.end; j++) {
            sum += dy[((at.n * HO + i) * WO + j) * C + at.c] / window_size(i, j);
        }
    }
    dx[index] = sum;
}

fn window_sum(at: Position) -> f32 {
    let rows = window_cells(at.row, SH, PT, KH, H);
    let columns = window_cells(at.column, SW, PL, KW, W);
    var sum = 0.0;
    for (var row = rows.first; row < rows.end; row++) {
        for (var column = columns.first; column < columns.end; column++) {
            sum += x[((at.n * H + row) * W + column) * C + at.c];
        }
    }
    return sum;
}

// Returns the number of cells of window (i, j) that are inside the image.
fn window_size(i: u32, j: u32) -> f32 {
    let rows = window_cells(i, SH, PT, KH, H);
    let columns = window_cells(j, SW, PL, KW, W);
    return f32((rows.end - rows.first) * (columns.end - columns.first));
}
