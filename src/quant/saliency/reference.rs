//! What the kernels of saliency must do, written for reading.

use super::{Norm, SaliencyShape};
use crate::element::Real;
use crate::number;

/// What probes made of a token of a head of keys so far.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Seen {
    /// The sum of the weights that they gave it.
    pub sum: f32,
    /// How many they were: rows of queries.
    pub count: f32,
}

impl Seen {
    /// As a prompt's probes leave it: its mass, and how many rows of queries saw it.
    pub fn of_prompt(mass: f32, n_rows: u32) -> Self {
        Self { sum: f32::from_f32(mass), count: n_rows as f32 }
    }

    /// And then a step's rows of queries: queries ascending, of each the heads of the group, each row with the token's logit to base 2 and
    /// its own log-sum-exp.
    ///
    /// A row without a finite log-sum is no probe: as if that were +inf, it sees no finite logit. Of a NaN logit, and of one of +inf in such a row,
    /// nothing is added, but it counts: else its token would stay fresh. Where no row counts, what was there stays.
    pub fn add(self, shape: &SaliencyShape, rows: impl IntoIterator<Item = [f32; 2]>) -> Self {
        let mut new = Self::default();
        for [logit, log_sum] in rows {
            let log_sum = log_sum * shape.base.log2_scale();
            let log2 = logit - if log_sum.is_finite() { log_sum } else { f32::INFINITY };
            if log2 != f32::NEG_INFINITY {
                new.sum += number::exp2(log2);
                new.count += 1.0;
            }
        }
        if new.count == 0.0 {
            return self;
        }
        let decayed = |old: f32, new| f32::from_f32(old.mul_add(shape.decay, new));
        Self { sum: decayed(self.sum, new.sum), count: decayed(self.count, new.count) }
    }

    /// How much the token matters to its head.
    fn weigh(self, shape: &SaliencyShape, norm: Option<f32>) -> f32 {
        let saliency = if shape.is_per_probe { self.sum / self.count } else { self.sum };
        let saliency = saliency + shape.floor;
        norm.map_or(saliency, |norm| saliency * norm)
    }
}

/// The score of a token, of the heads that are added, in ascending order, each with the norm of its value: NaN, which ranks last, of what is
/// infinite or NaN, since nothing may be kept for ever for what is in its data.
pub fn weigh_token(shape: &SaliencyShape, heads: &[(Seen, Option<f32>)]) -> f32 {
    if heads.iter().any(|(seen, _)| seen.count == 0.0) {
        return shape.fresh;
    }
    let score = heads.iter().fold(0.0, |sum, (seen, norm)| sum + seen.weigh(shape, *norm));
    f32::from_f32(if f32::is_finite(score) { score } else { f32::NAN })
}

/// The norm of a row, of elements as they are in the cache: in the order of [`number::dot`](crate::number::dot), of magnitudes with ones or of
/// the row with itself; then times the magnitude of the values' scale.
pub fn norm_of_row(row: &[f32], norm: Norm, scale: f32) -> f32 {
    let magnitudes: Vec<f32> = row.iter().map(|x| x.abs()).collect();
    let measured = match norm {
        Norm::L1 => number::dot(&magnitudes, &vec![1.0; row.len()]),
        Norm::L2 => number::dot(row, row).sqrt(),
    };
    f32::from_f32(measured * scale.abs())
}
