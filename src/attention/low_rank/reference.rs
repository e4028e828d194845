//! Which keys `attend_low_rank` makes, written for reading.

use super::plan::{LowRankPlan, Turn};
use crate::element::Half;
use crate::mma::Model;

/// What keys are made of, on the host.
#[derive(Debug, Clone, Copy)]
pub struct HostLowRank<'a, T> {
    /// Its sizes.
    pub plan: &'a LowRankPlan,
    /// `[batch, n_factors, rank]`.
    pub factors: &'a [T],
    /// `[batch, n_heads, head_dim, rank]`.
    pub basis: &'a [T],
    /// `[n_factors, head_dim]`: cosines, then sines.
    pub cos_sin: &'a [f32],
    /// `[batch, n_lists, n_blocks]`: of each block, the one where its values are.
    pub value_indices: Option<&'a [i32]>,
}

impl<T: Half> HostLowRank<'_, T> {
    /// The key of a token, turned by its position.
    pub fn key(&self, model: Model, b: usize, head: usize, row: usize) -> Vec<T> {
        let shape = self.plan.low_rank();
        let (d, rank) = (self.plan.attend().shape().head_dim as usize, shape.rank as usize);
        let bits = |row: &[T]| -> Vec<u16> { row.iter().map(|element| element.bits()).collect() };
        let factors = bits(&self.factors[(b * shape.n_factors as usize + row) * rank..][..rank]);
        let first = (b * self.plan.attend().n_heads() as usize + head) * d;
        let product = |c: usize| {
            let basis = bits(&self.basis[(first + c) * rank..][..rank]);
            f32::from_bits(model.dot_add(T::OPERAND, &factors, &basis, 0).bits)
        };
        let mut key: Vec<f32> = (0..d).map(product).collect();
        for i in 0..d / 2 {
            let (x, y) = match shape.turn {
                Turn::None => break,
                Turn::Halves => (i, d / 2 + i),
                Turn::Pairs => (2 * i, 2 * i + 1),
            };
            let [cosine, sine] = [0, d / 2].map(|part| self.cos_sin[row * d + part + i]);
            (key[x], key[y]) =
                ((-key[y]).mul_add(sine, key[x] * cosine), key[x].mul_add(sine, key[y] * cosine));
        }
        key.into_iter().map(T::from_f32).collect()
    }
}
