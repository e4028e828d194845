//! Which keys `attend_low_rank` makes, written for reading.

use super::plan::LowRankPlan;
use crate::element::Half;
use crate::mma::Model;
use crate::turn::Turn;

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
        if shape.turn != Turn::None {
            shape.turn.turn(&mut key, &self.cos_sin[row * d..][..d]);
        }
        key.into_iter().map(T::from_f32).collect()
    }
}
