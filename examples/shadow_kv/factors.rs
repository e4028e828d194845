//! What an engine does on its own: the factors of a prompt's keys, and the angles by which keys are turned.

use half::bf16;

use super::toy::Random;

/// A prompt's keys before they are turned, all heads', as a product of low rank.
pub struct Factors {
    /// `[n, rank]`: a row for each token.
    pub factors: Vec<bf16>,
    /// `[n_heads * head_dim, rank]`.
    pub basis: Vec<bf16>,
}

impl Factors {
    /// Of keys `[n, n_columns]`, by orthogonal iteration: what the factors span turns towards the directions in which
    /// keys differ most, as the paper's SVD has them, with each multiplication by the keys and back. Keys that are of
    /// this rank are theirs after the first.
    pub fn of(keys: &[f32], n_columns: usize, rank: usize) -> Self {
        let n = keys.len() / n_columns;
        let mut random = Random(11);
        let mut basis: Vec<f32> = (0..n_columns * rank).map(|_| random.normal()).collect();
        let mut factors = vec![0.0; n * rank];
        for _ in 0..3 {
            for (row, key) in factors.chunks_mut(rank).zip(keys.chunks(n_columns)) {
                row.fill(0.0);
                for (x, of_column) in key.iter().zip(basis.chunks(rank)) {
                    row.iter_mut().zip(of_column).for_each(|(sum, y)| *sum += x * y);
                }
            }
            orthonormalize(&mut factors, rank);
            basis.fill(0.0);
            for (row, key) in factors.chunks(rank).zip(keys.chunks(n_columns)) {
                for (x, of_column) in key.iter().zip(basis.chunks_mut(rank)) {
                    of_column.iter_mut().zip(row).for_each(|(sum, y)| *sum += x * y);
                }
            }
        }
        let round = |all: Vec<f32>| all.into_iter().map(bf16::from_f32).collect();
        Self { factors: round(factors), basis: round(basis) }
    }
}

/// Columns of length 1, each at right angles to those before it (Gram and Schmidt, twice); of nothing where it has
/// nothing of its own.
fn orthonormalize(matrix: &mut [f32], n_columns: usize) {
    let product = |matrix: &[f32], a: usize, b: usize| -> f32 {
        matrix.chunks(n_columns).map(|row| row[a] * row[b]).sum()
    };
    for c in 0..n_columns {
        let before = product(matrix, c, c);
        for other in (0..c).chain(0..c) {
            let along = product(matrix, other, c);
            matrix.chunks_mut(n_columns).for_each(|row| row[c] -= along * row[other]);
        }
        let own = product(matrix, c, c);
        let scale = if own > 1e-9 * before { own.sqrt().recip() } else { 0.0 };
        matrix.chunks_mut(n_columns).for_each(|row| row[c] *= scale);
    }
}

/// `[n, head_dim]`: cosines of each position's angles, then their sines (RoPE, of base 10,000).
pub fn angles(n: usize, head_dim: usize) -> Vec<f32> {
    let angle = |i: usize| {
        let (t, c) = (i / head_dim, i % head_dim);
        let exponent = (c % (head_dim / 2)) as f64 / (head_dim / 2) as f64;
        let angle = t as f64 * 10_000_f64.powf(-exponent);
        (if c < head_dim / 2 { angle.cos() } else { angle.sin() }) as f32
    };
    (0..n * head_dim).map(angle).collect()
}

/// A key, turned by its position's angles.
pub fn turn(key: &[f32], angles: &[f32]) -> Vec<bf16> {
    let half = key.len() / 2;
    let turned = |c: usize| {
        let (i, cosine, sine) = (c % half, angles[c % half], angles[half + c % half]);
        if c < half {
            key[i] * cosine - key[half + i] * sine
        } else {
            key[half + i] * cosine + key[i] * sine
        }
    };
    (0..key.len()).map(|c| bf16::from_f32(turned(c))).collect()
}
