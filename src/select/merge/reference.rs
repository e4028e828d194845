//! What `merge_rows` must do, written for reading.

use super::{MergePlan, MergeWeights};
use crate::kv::KvLayout;
use crate::number::{dot, exp2};
use crate::select::Score;

/// Where the rows of a cache are.
#[derive(Debug, Clone, Copy)]
pub struct Pages<'a> {
    /// `[batch, table_stride]`.
    pub page_table: &'a [i32],
    /// `[batch]`.
    pub lengths: &'a [u32],
}

impl Pages<'_> {
    fn locate(&self, layout: &KvLayout, list: usize, token: i32) -> Option<usize> {
        let (list, n_heads) = (list as u64, layout.shape().n_heads);
        let b = list / n_heads;
        let n_rows = layout.rows_of(self.lengths[b as usize].into());
        let t = u64::try_from(token).ok().filter(|t| *t < n_rows)?;
        layout.locate(self.page_table, b, t, list % n_heads)
    }
}

fn row<T: Score>(pool: &[T], first: usize, n: u64) -> Vec<f32> {
    pool[first..][..n as usize].iter().map(|value| value.to_f32()).collect()
}

/// The place of each evicted token's nearest kept one, by the cosine of their keys, and the cosine; of equal ones the
/// lower place. A cosine is cut to -1 to 1, and 0 of what has no direction.
pub fn nearest_kept<T: Score>(
    plan: &MergePlan,
    pages: Pages<'_>,
    keys: &[T],
    evicted: &[i32],
    kept: &[i32],
) -> Vec<Option<(usize, f32)>> {
    let (layout, n) = (plan.layout(), plan.layout().shape().row_len);
    let norm = |key: &[f32]| dot(key, key).sqrt();
    let nearest_of = |list: usize, token: i32| {
        let key = row(keys, pages.locate(layout, list, token)?, n);
        let mut best: Option<(usize, f32)> = None;
        let others = &kept[list * plan.n_kept() as usize..][..plan.n_kept() as usize];
        for (place, other) in others.iter().enumerate() {
            let Some(other) = pages.locate(layout, list, *other) else { continue };
            let other = row(keys, other, n);
            let cosine = dot(&key, &other) / (norm(&key) * norm(&other));
            let cosine = if cosine.is_nan() { 0.0 } else { cosine.clamp(-1.0, 1.0) };
            if best.is_none_or(|(_, nearness)| cosine > nearness) {
                best = Some((place, cosine));
            }
        }
        best
    };
    let n_evicted = plan.n_evicted() as usize;
    evicted.iter().enumerate().map(|(i, token)| nearest_of(i / n_evicted, *token)).collect()
}

/// A head's threshold after a step: of the mean of its similarities, each rounded to a multiple of 2^-32, and of the
/// threshold before, NaN if there was none. Without similarities it stays.
pub fn update_threshold(threshold: f32, similarities: &[f32], decay: f32) -> f32 {
    if similarities.is_empty() {
        return threshold;
    }
    let parts = |x: &f32| (x * 2.0_f32.powi(32)).round_ties_even() as i64;
    let sum: i64 = similarities.iter().map(parts).sum();
    let mean = sum as f32 * 2.0_f32.powi(-32) / similarities.len() as f32;
    if threshold.is_nan() { mean } else { decay.mul_add(threshold, (1.0 - decay) * mean) }
}

/// Each kept row becomes the weighted mean of itself and the evicted rows nearest to it, of those at or above their
/// head's threshold, in the order of their list; one pool of keys or values, rounded once.
pub fn merge_rows<T: Score>(
    plan: &MergePlan,
    pages: Pages<'_>,
    pool: &mut [T],
    [evicted, kept]: [&[i32]; 2],
    nearest: &[Option<(usize, f32)>],
    thresholds: &[f32],
    weights: MergeWeights,
) {
    let (layout, n) = (plan.layout(), plan.layout().shape().row_len);
    let [n_evicted, n_kept] = [plan.n_evicted(), plan.n_kept()].map(|n| n as usize);
    let before = pool.to_vec();
    for (i, token) in kept.iter().enumerate() {
        let (list, place) = (i / n_kept, i % n_kept);
        let Some(target) = pages.locate(layout, list, *token) else { continue };
        let mut sums = row(&before, target, n);
        let mut total = 1.0;
        let mut is_merged = false;
        for from in list * n_evicted..(list + 1) * n_evicted {
            let Some((_, similarity)) = nearest[from]
                .filter(|(near, similarity)| *near == place && *similarity >= thresholds[list])
            else {
                continue;
            };
            let Some(source) = pages.locate(layout, list, evicted[from]) else { continue };
            let (weight, part) = match weights {
                // The kept row's is 1: all are divided by e.
                MergeWeights::Softmax => {
                    let weight = exp2((similarity - 1.0) * std::f32::consts::LOG2_E);
                    (weight, weight)
                }
                MergeWeights::Released => (similarity, 1.0),
            };
            total += part;
            is_merged = true;
            for (sum, value) in sums.iter_mut().zip(row(&before, source, n)) {
                *sum = weight.mul_add(value, *sum);
            }
        }
        if is_merged {
            for (value, sum) in pool[target..].iter_mut().zip(sums) {
                *value = T::from_f32(sum / total);
            }
        }
    }
}
