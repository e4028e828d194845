//! Softmaxes and what `vote_rows` must do, written for reading.

use super::VoteReduction;
use crate::number;
use crate::select::Score;

/// Scores of a partial softmax: from a multiple of this on.
const TILE: usize = 256;
/// The unit of a softmax's sum: p is exact in it from 2^-16 on.
const UNITS: f32 = (1_u64 << 40) as f32;

/// A softmax over a head's scores: score `s` weighs `2^(s * scale - greatest) * reciprocal`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Softmax {
    /// The least integer not below any score in log2 units; -2^30 where there is none.
    pub greatest: i32,
    /// One over the sum of all weights; 0 where that is 0.
    pub reciprocal: f32,
}

impl Softmax {
    const NONE: i32 = -(1 << 30);

    /// As kernels write it.
    pub fn from_bits(bits: u64) -> Self {
        Self { greatest: bits as u32 as i32, reciprocal: f32::from_bits((bits >> 32) as u32) }
    }

    /// As kernels write it.
    pub fn to_bits(self) -> u64 {
        u64::from(self.greatest as u32) | u64::from(self.reciprocal.to_bits()) << 32
    }

    /// The softmax over scores, 256 to a tile; `scale` is that of base 2.
    pub fn of<S: Score>(scores: &[S], scale: f32) -> Self {
        Self::of_tiles(scores, scale, TILE)
    }

    /// The softmax over scores, so many to a tile; `scale` is that of base 2.
    ///
    /// Each tile is summed by itself, in whole units of 2^-40 relative to the power of two not below its scores: any
    /// order gives the same sum. Then tiles are made relative to the greatest of them, and what is below a unit is lost.
    pub fn of_tiles<S: Score>(scores: &[S], scale: f32, tile: usize) -> Self {
        let tiles: Vec<_> = scores.chunks(tile).map(|tile| sum_tile(tile, scale)).collect();
        let greatest = tiles.iter().map(|(greatest, _)| *greatest).max().unwrap_or(Self::NONE);
        let sum: u64 = tiles
            .iter()
            .map(|(of_tile, sum)| sum.checked_shr((greatest - of_tile) as u32).unwrap_or(0))
            .sum();
        let reciprocal = if sum == 0 { 0.0 } else { UNITS / sum as f32 };
        Self { greatest, reciprocal }
    }

    /// Two to the power of a score less `greatest`.
    pub(crate) fn weigh(&self, score: f32, scale: f32) -> f32 {
        weigh(to_log2(score, scale), self.greatest)
    }
}

fn sum_tile<S: Score>(scores: &[S], scale: f32) -> (i32, u64) {
    let log2: Vec<_> = scores.iter().map(|score| to_log2(score.to_f32(), scale)).collect();
    let ceiling = |x: &f32| if x.is_finite() { x.ceil() as i32 } else { Softmax::NONE };
    let greatest = log2.iter().map(ceiling).max().unwrap_or(Softmax::NONE);
    let units = |x: &f32| (weigh(*x, greatest) * UNITS).round_ties_even() as u64;
    (greatest, log2.iter().map(units).sum())
}

/// A score in log2 units, 2^22 at most and -2^22 at least; of NaN and -inf, which weigh nothing, -inf.
fn to_log2(score: f32, scale: f32) -> f32 {
    let log2 = score * scale;
    if log2 > f32::NEG_INFINITY { log2.clamp(-4_194_304.0, 4_194_304.0) } else { f32::NEG_INFINITY }
}

fn weigh(log2: f32, greatest: i32) -> f32 {
    number::exp2(log2 - greatest as f32)
}

/// The votes of some query heads, each a row of scores and its softmax; `scale` is that of base 2.
pub fn votes<S: Score, V: Score>(
    heads: &[(&[S], Softmax)],
    scale: f32,
    reduction: VoteReduction,
) -> Vec<V> {
    let n = heads.first().map_or(0, |(scores, _)| scores.len());
    let vote = |t: usize| {
        heads.iter().fold(0.0_f32, |vote, (scores, softmax)| {
            let weight = softmax.weigh(scores[t].to_f32(), scale);
            match reduction {
                VoteReduction::Sum => weight.mul_add(softmax.reciprocal, vote),
                VoteReduction::Max => vote.max(weight * softmax.reciprocal),
            }
        })
    };
    (0..n).map(|t| V::from_f32(vote(t))).collect()
}
