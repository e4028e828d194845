//! What `score_rows` must do, written for reading.

use super::{GroupReduction, ScoreKind, ScorePlan};
use crate::element::Float;
use crate::number;
use crate::select::Score;

/// What is scored, on the host.
#[derive(Debug, Clone, Copy)]
pub struct Scored<'a, Q, K> {
    /// `[batch, n_q_heads, head_dim]`, with the plan's stride.
    pub queries: &'a [Q],
    /// The pool.
    pub keys: &'a [K],
    /// `[batch, table_stride]`.
    pub page_table: &'a [i32],
    /// `[batch]`.
    pub lengths: &'a [u32],
    /// What products are multiplied by.
    pub key_scale: f32,
}

impl<Q: Score, K: Float> Scored<'_, Q, K> {
    /// Rows of a request that are scored.
    pub fn n_rows(&self, plan: &ScorePlan, b: usize) -> usize {
        plan.shape().layout.rows_of(self.lengths[b].into()).min(plan.shape().n) as usize
    }

    /// The scores of one query head against all rows of its request, rounded to `S`.
    pub fn head<S: Score>(&self, plan: &ScorePlan, b: usize, q: usize) -> Vec<S> {
        let shape = plan.shape();
        let d = plan.head_dim() as usize;
        let query = &self.queries[b * shape.query_stride as usize + q * d..][..d];
        let query: Vec<f32> = query.iter().map(|element| element.to_f32()).collect();
        let head = q as u64 / plan.group();
        let score = |t: usize| {
            let Some(start) = shape.layout.locate(self.page_table, b as u64, t as u64, head) else {
                return f32::NEG_INFINITY;
            };
            let row = &self.keys[start..][..shape.layout.shape().row_len as usize];
            let row: Vec<f32> = row.iter().map(|element| element.to_f32()).collect();
            let product = match shape.kind {
                ScoreKind::Dot => number::dot(&query, &row),
                ScoreKind::Box => {
                    let bound = |i: usize| if query[i] > 0.0 { row[d + i] } else { row[i] };
                    number::dot(&query, &(0..d).map(bound).collect::<Vec<_>>())
                }
            };
            product * self.key_scale
        };
        (0..self.n_rows(plan, b)).map(|t| S::from_f32(score(t))).collect()
    }

    /// All rows of scores of a request.
    pub fn request<S: Score>(&self, plan: &ScorePlan, b: usize) -> Vec<Vec<S>> {
        let heads: Vec<Vec<S>> =
            (0..plan.shape().n_q_heads as usize).map(|q| self.head(plan, b, q)).collect();
        if plan.shape().reduction == GroupReduction::None {
            return heads;
        }
        heads.chunks(plan.group() as usize).map(|group| reduce(group, plan)).collect()
    }
}

fn reduce<S: Score>(group: &[Vec<S>], plan: &ScorePlan) -> Vec<S> {
    let mean_scale = plan.mean_scale();
    let reduced = |t: usize| {
        let mut scores = group.iter().map(|head| head[t].to_f32());
        match plan.shape().reduction {
            GroupReduction::Max => {
                scores.fold(f32::NEG_INFINITY, |all, score| if score > all { score } else { all })
            }
            _ => {
                let first = scores.next().unwrap_or_default();
                scores.fold(first, |all, score| all + score) * mean_scale
            }
        }
    };
    (0..group[0].len()).map(|t| S::from_f32(reduced(t))).collect()
}
