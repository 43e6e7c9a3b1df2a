//! Eigenvectors of small symmetric matrices.

/// Sweeps over all pairs of axes, of which some ten are needed: convergence is quadratic.
const MAX_SWEEPS: usize = 50;

/// Returns the eigenvalues of a symmetric matrix `[N, N]`, row-major, in descending order, each with its eigenvector of length 1 whose largest
/// element is positive. The same bits on every machine.
///
/// Source: the cyclic Jacobi method, Golub and Van Loan, Matrix Computations, 8.5.
///
/// # Panics
/// If the matrix has other than `n * n` elements.
pub fn eigenvectors(mut matrix: Vec<f64>, n: usize) -> Vec<(f64, Vec<f64>)> {
    assert_eq!(matrix.len(), n * n, "elements of a matrix of {n} rows");
    // Its rows become the eigenvectors.
    let mut vectors: Vec<f64> = (0..n * n).map(|i| if i / n == i % n { 1.0 } else { 0.0 }).collect();
    for _ in 0..MAX_SWEEPS {
        let squares = |is_wanted: fn(usize, usize) -> bool| -> f64 {
            (0..n * n).filter(|i| is_wanted(i / n, i % n)).map(|i| matrix[i] * matrix[i]).sum()
        };
        if squares(|i, j| i != j) <= squares(|_, _| true) * f64::EPSILON * f64::EPSILON {
            break;
        }
        for (p, q) in (0..n).flat_map(|p| (p + 1..n).map(move |q| (p, q))) {
            if matrix[p * n + q] != 0.0 {
                rotate(&mut matrix, &mut vectors, n, p, q);
            }
        }
    }
    let vector = |i: usize| {
        let vector = &vectors[i * n..(i + 1) * n];
        let largest = vector.iter().fold(0.0f64, |largest, x| if x.abs() > largest.abs() { *x } else { largest });
        vector.iter().map(|x| x * largest.signum()).collect()
    };
    let mut pairs: Vec<(f64, Vec<f64>)> = (0..n).map(|i| (matrix[i * n + i], vector(i))).collect();
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    pairs
}

/// Rotates the axes `p` and `q` so that the element between them becomes zero.
fn rotate(matrix: &mut [f64], vectors: &mut [f64], n: usize, p: usize, q: usize) {
    let theta = (matrix[q * n + q] - matrix[p * n + p]) / (2.0 * matrix[p * n + q]);
    let tangent = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
    let sine = tangent * cosine;
    let turn = |values: &mut [f64], i: usize, j: usize| {
        let (x, y) = (values[i], values[j]);
        (values[i], values[j]) = (cosine * x - sine * y, sine * x + cosine * y);
    };
    for k in 0..n {
        turn(matrix, k * n + p, k * n + q);
    }
    for k in 0..n {
        turn(matrix, p * n + k, q * n + k);
        turn(vectors, p * n + k, q * n + k);
    }
}
