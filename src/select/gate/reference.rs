//! What `gate_selection` must do, written for reading.

use crate::select::Score;

/// Whether the selection that `cached` made may be used for `query`, and their cosine.
///
/// `None` is a request without a selection, or one that must select again. NaN is the cosine where a
/// norm is zero or no number, and is never enough.
pub fn gate_query<T: Score>(query: &[T], cached: Option<&[T]>, theta: f32) -> (bool, f32) {
    let Some(cached) = cached else { return (false, CANONICAL_NAN) };
    let [x, y]: [Vec<f32>; 2] = [query, cached].map(|row| row.iter().map(|v| v.to_f32()).collect());
    let [across, of_query, of_cached] = [(&x, &y), (&x, &x), (&y, &y)].map(|(a, b)| multiply(a, b));
    let is_norm = |square: f32| square > 0.0 && square < f32::INFINITY;
    if !is_norm(of_query) || !is_norm(of_cached) {
        return (false, CANONICAL_NAN);
    }
    let cosine = across / (of_query.sqrt() * of_cached.sqrt());
    (cosine >= theta, cosine)
}

const CANONICAL_NAN: f32 = f32::from_bits(0x7FFF_FFFF);

/// The inner product by 512 lanes: lane `l` has elements `4096 j + 8 l + e` of `j` and `e` in `0..8` ascending,
/// added by fma from +0.0. Then lane `i` of each 32 takes lane `i + 16`, and so on to 1, and their 16 sums the same.
fn multiply(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 512];
    for (i, (x, y)) in x.iter().zip(y).enumerate() {
        let lane = &mut lanes[i / 8 % 512];
        *lane = x.mul_add(*y, *lane);
    }
    let mut warps: Vec<f32> = lanes.chunks_mut(32).map(add_halves).collect();
    add_halves(&mut warps)
}

fn add_halves(lanes: &mut [f32]) -> f32 {
    let mut n = lanes.len();
    while n > 1 {
        n /= 2;
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
    }
    lanes[0]
}
