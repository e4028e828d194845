//! What `merge_partials` must do, written for reading: roundings and their order are the kernel's.

use super::{MergePlan, PartialShape};
use crate::element::Real;
use crate::number;

/// A part on the host, as of [`merge_partials`](crate::attention::merge_partials).
#[derive(Debug, Clone, Copy)]
pub struct HostPartial<'a, T> {
    /// `[n_tokens, n_heads, head_dim]`, with the part's stride.
    pub outputs: &'a [T],
    /// One for each token and head, in the part's order.
    pub log_sums: &'a [f32],
    /// `[n_tokens]`.
    pub mask: Option<&'a [u32]>,
}

/// What a row's parts are multiplied by.
#[derive(Debug, Clone, PartialEq)]
pub struct MergeWeights {
    /// Of each part; of one that adds nothing, none.
    pub factors: Vec<Option<f32>>,
    /// The row's.
    pub log_sum: f32,
}

impl MergeWeights {
    /// Of parts with these log-sums, infinite ones being of nothing.
    pub fn of(plan: &MergePlan, log_sums: &[f32]) -> Self {
        let of_nothing = |log_sum: &f32| {
            if log_sum.is_infinite() { f32::NEG_INFINITY } else { *log_sum }
        };
        let log_sums: Vec<f32> = log_sums.iter().map(of_nothing).collect();
        // NaN is passed over.
        let greatest = log_sums.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weigh = |log_sum: &f32| {
            let log2 = (log_sum - greatest) * plan.log2_scale();
            if log_sum.is_nan() { *log_sum } else { number::exp2(log2) }
        };
        let weights: Vec<f32> = log_sums.iter().map(weigh).collect();
        let sum = weights.iter().fold(0.0, |sum, weight| sum + weight);
        let reciprocal = 1.0 / sum;
        let factor = |weight: &f32| (*weight != 0.0).then_some(weight * reciprocal);
        let log_sum =
            if sum > 1.0 { number::log2(sum).mul_add(plan.log_unit(), greatest) } else { greatest };
        Self {
            factors: weights.iter().map(factor).collect(),
            log_sum: if sum.is_nan() { f32::NAN } else { log_sum },
        }
    }

    /// Whether the first part alone adds something, and that is a number.
    pub fn is_first_alone(&self) -> bool {
        let [first, others @ ..] = &self.factors[..] else { return false };
        first.is_some() && others.iter().all(Option::is_none) && !self.log_sum.is_nan()
    }
}

/// A row's outputs, of those of its parts.
pub fn merge_row<T: Real>(weights: &MergeWeights, parts: &[&[T]], head_dim: usize) -> Vec<f32> {
    let counted = weights.factors.iter().zip(parts);
    let counted: Vec<(f32, &[T])> =
        counted.filter_map(|(factor, part)| Some(((*factor)?, *part))).collect();
    // From -0 on, so that a part alone keeps its zeros' signs.
    let start = if counted.is_empty() { 0.0 } else { -0.0 };
    let add = |c: usize| {
        let each = counted.iter();
        each.fold(start, |sum, (factor, part)| part[c].to_f32().mul_add(*factor, sum))
    };
    (0..head_dim).map(add).collect()
}

/// Merges parts, as [`merge_partials`](crate::attention::merge_partials).
pub fn merge_partials<T: Real, O: Real>(
    plan: &MergePlan,
    parts: &[HostPartial<'_, T>],
    outputs: &mut [O],
    log_sums: &mut [f32],
) {
    let shapes = plan.parts();
    each_row(plan, |token, head| {
        let weights = MergeWeights::of(plan, &log_sums_of(plan, parts, shapes, token, head));
        let d = plan.shape().head_dim as usize;
        let start = |stride: u64| token * stride as usize + head * d;
        let rows = parts.iter().zip(shapes);
        let rows: Vec<&[T]> =
            rows.map(|(part, shape)| &part.outputs[start(shape.stride)..][..d]).collect();
        let merged = merge_row(&weights, &rows, d);
        let to = &mut outputs[start(plan.shape().output_stride)..][..d];
        to.iter_mut().zip(merged).for_each(|(to, from)| *to = O::from_f32(from));
        log_sums[place(plan, plan.shape().part(), token, head)] = f32::from_f32(weights.log_sum);
    });
}

/// Merges parts into a target, the first of them, as [`merge_partials_in_place`](crate::attention::merge_partials_in_place).
pub fn merge_partials_in_place<T: Real>(
    plan: &MergePlan,
    parts: &[HostPartial<'_, T>],
    outputs: &mut [T],
    log_sums: &mut [f32],
    mask: Option<&[u32]>,
) {
    let (before, sums_before) = (outputs.to_vec(), log_sums.to_vec());
    let mut all = vec![HostPartial { outputs: &before, log_sums: &sums_before, mask }];
    all.extend(parts);
    let shapes = [&[plan.shape().part()], plan.parts()].concat();
    each_row(plan, |token, head| {
        let weights = MergeWeights::of(plan, &log_sums_of(plan, &all, &shapes, token, head));
        if weights.is_first_alone() {
            return;
        }
        let d = plan.shape().head_dim as usize;
        let start = |stride: u64| token * stride as usize + head * d;
        let rows = all.iter().zip(&shapes);
        let rows: Vec<&[T]> =
            rows.map(|(part, shape)| &part.outputs[start(shape.stride)..][..d]).collect();
        let merged = merge_row(&weights, &rows, d);
        let to = &mut outputs[start(plan.shape().output_stride)..][..d];
        to.iter_mut().zip(merged).for_each(|(to, from)| *to = T::from_f32(from));
        log_sums[place(plan, plan.shape().part(), token, head)] = f32::from_f32(weights.log_sum);
    });
}

fn each_row(plan: &MergePlan, mut then: impl FnMut(usize, usize)) {
    let n_heads = plan.shape().n_heads as usize;
    (0..plan.log_sums_len() as usize).for_each(|row| then(row / n_heads, row % n_heads));
}

/// Where a log-sum is among those that lie as a part's.
fn place(plan: &MergePlan, part: PartialShape, token: usize, head: usize) -> usize {
    let at = [token, head].map(|n| n as u64);
    part.log_sum_order.locate(plan.shape().log_sum_sizes(), at) as usize
}

fn log_sums_of<T>(
    plan: &MergePlan,
    parts: &[HostPartial<'_, T>],
    shapes: &[PartialShape],
    token: usize,
    head: usize,
) -> Vec<f32> {
    let log_sum = |(part, shape): (&HostPartial<'_, T>, &PartialShape)| {
        let is_there = part.mask.is_none_or(|mask| mask[token] != 0);
        if is_there { part.log_sums[place(plan, *shape, token, head)] } else { f32::NEG_INFINITY }
    };
    parts.iter().zip(shapes).map(log_sum).collect()
}
