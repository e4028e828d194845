//! The launches that merge tokens.
#![allow(unsafe_code)]

use super::{MergePlan, MergeWeights};
use crate::bindings::{
    LacunaKvView, SelectEviction, SelectMergeParams, SelectNearestParams, SelectThresholdParams,
};
use crate::buffer::{View, ViewMut};
use crate::kv::KvViewMut;
use crate::launch::{Arguments, check_aligned, kernel_params};
use crate::queue::Queue;
use crate::region::Role;
use crate::select::Score;
use crate::{Error, Result};

kernel_params!(SelectNearestParams, "select", "nearest_kept");
kernel_params!(SelectThresholdParams, "select", "update_thresholds");
kernel_params!(SelectMergeParams, "select", "merge_rows");

/// What [`merge_rows`] reads.
#[derive(Debug, Clone, Copy)]
pub struct MergeInputs<'a> {
    /// `[batch, n_heads, n_evicted]`: tokens to be merged; numbers of no token are skipped.
    pub evicted: View<'a, i32>,
    /// `[batch, n_heads, n_kept]`: tokens that stay. None may be evicted too, nor may heads share a row.
    pub kept: View<'a, i32>,
    /// What an old threshold is multiplied by, 0 to 1: 0.5 in the released code.
    pub decay: f32,
    /// How rows are weighted.
    pub weights: MergeWeights,
}

/// What [`merge_rows`] leaves beside the cache.
#[derive(Debug)]
pub struct MergeState<'a> {
    /// `[batch, n_heads, n_evicted]`: the place in `kept` of each evicted token's nearest, or -1.
    pub nearest: ViewMut<'a, i32>,
    /// `[batch, n_heads, n_evicted]`: how near it is, from -1 to 1.
    pub similarities: ViewMut<'a, f32>,
    /// `[batch, n_heads]`: how near a token must be to be merged. NaN before a request's first step; every launch
    /// updates it.
    pub thresholds: ViewMut<'a, f32>,
}

impl MergeInputs<'_> {
    fn params(
        &self,
        arguments: &mut Arguments<'_>,
        plan: &MergePlan,
        kv: LacunaKvView,
    ) -> Result<SelectEviction> {
        Ok(SelectEviction {
            kv,
            evicted: arguments.input("evicted", &self.evicted, plan.evicted_len())?,
            kept: arguments.input("kept", &self.kept, plan.kept_len())?,
            n_evicted: plan.n_evicted() as u32,
            n_kept: plan.n_kept() as u32,
        })
    }
}

/// Merges evicted tokens into the kept ones that their keys are nearest to (D2O, arXiv:2406.13035).
///
/// ```text
/// nearest[i] = argmax_j cos(key[i], key[j]),  s[i] = that cosine;   i evicted, j kept
/// threshold  = decay * threshold + (1 - decay) * mean s,  or the mean in the first step
/// row[j]     = (e row[j] + sum of exp(s[i]) row[i]) / (e + sum of exp(s[i])),  i near j, s[i] >= threshold
/// ```
/// for keys and values alike; [`MergeWeights::Released`]: `(row[j] + sum of s[i] row[i]) / (1 + how many)`.
///
/// # Shapes
/// Those of [`MergeInputs`] and [`MergeState`]; the cache has bf16 or f16 rows of up to 256 elements. Everything is of
/// one request and head: the released code decides by the mean of a layer's heads, which share no lists here.
///
/// # Numerics
/// Inner products by the house's 8 lanes, ties to the lower place, the mean an exact sum of multiples of 2^-32, sums
/// in the order of the list in f32 and rounded once, NaN to 0x7FFF: bit for bit
/// [`reference`](super::reference::nearest_kept).
///
/// # Stream
/// Three launches, since each needs all of what the one before wrote; no allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`], [`Error::Range`], [`Error::WrongQueue`] and [`Error::WrongStream`] before anything is launched;
/// [`Error::Driver`] where a launch fails.
pub fn merge_rows<T: Score>(
    queue: &Queue,
    plan: &MergePlan,
    inputs: &MergeInputs<'_>,
    state: &mut MergeState<'_>,
    kv: &mut KvViewMut<'_, T>,
) -> Result<()> {
    let (n_evicted, n_lists) = (plan.evicted_len(), plan.n_lists());
    if *plan.layout() != kv.layout {
        let (what, value) = ("layout of a cache with so many elements", kv.layout.pool_len());
        return Err(Error::Range {
            what,
            value,
            allowed: "the layout that the plan was made from",
        });
    }
    check_aligned("address of keys", kv.keys.address(), 16, "the multiples of 16 bytes")?;
    let is_share = (0.0..=1.0).contains(&inputs.decay);
    if !is_share {
        let (what, value) = ("decay of a threshold", inputs.decay);
        return Err(Error::Number { what, value, allowed: "0 to 1" });
    }
    let MergeState { nearest, similarities, thresholds } = state;

    let mut near = Arguments::new(queue);
    let keys = kv.as_view().params(&mut near)?;
    let nearest_params = SelectNearestParams {
        lists: inputs.params(&mut near, plan, keys)?,
        nearest: near.written(Role::Output, "nearest", nearest, n_evicted)?,
        similarities: near.written(Role::Output, "similarities", similarities, n_evicted)?,
    };
    let mut mean = Arguments::new(queue);
    let threshold_params = SelectThresholdParams {
        nearest: mean.input("nearest", &nearest.as_view(), n_evicted)?,
        similarities: mean.input("similarities", &similarities.as_view(), n_evicted)?,
        thresholds: mean.written(Role::InOut, "thresholds", thresholds, n_lists)?,
        n_lists: n_lists as u32,
        n_evicted: plan.n_evicted() as u32,
        decay: inputs.decay,
        rest: 1.0 - inputs.decay,
    };
    let mut merge = Arguments::new(queue);
    let pools = kv.params(&mut merge)?;
    let merge_params = SelectMergeParams {
        lists: inputs.params(&mut merge, plan, pools)?,
        nearest: merge.input("nearest", &nearest.as_view(), n_evicted)?,
        similarities: merge.input("similarities", &similarities.as_view(), n_evicted)?,
        thresholds: merge.input("thresholds", &thresholds.as_view(), n_lists)?,
        weights: u32::from(inputs.weights == MergeWeights::Released),
        reserved: 0,
    };
    // SAFETY: the plan's sizes are below the limits of the structs' fields, and each launch finds what the one
    // before wrote.
    unsafe {
        near.launch(&plan.near_grid(), &nearest_params)?;
        mean.launch(&plan.threshold_grid(), &threshold_params)?;
        merge.launch(&plan.merge_grid(), &merge_params)
    }
}
