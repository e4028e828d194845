//! The launches that merge.
#![allow(unsafe_code)]

use super::MergePlan;
use super::plan::MOST_PARTS;
use crate::bindings::{AttentionLogSumStrides, AttentionMergeParams, AttentionPartial};
use crate::buffer::{View, ViewMut};
use crate::element::Real;
use crate::launch::{Arguments, check_same, kernel_params};
use crate::queue::Queue;
use crate::region::Role;
use crate::{Error, Result};

kernel_params!(AttentionMergeParams, "attention", "merge_partials");

/// A partial result of attention: over tokens that no other part has.
#[derive(Debug, Clone, Copy)]
pub struct Partial<'a, T> {
    /// `[n_tokens, n_heads, head_dim]`, tokens the plan's stride of this part apart.
    pub outputs: View<'a, T>,
    /// `[n_tokens, n_heads]`, or in the part's [`LogSumOrder`](crate::attention::LogSumOrder); infinite where there is nothing.
    pub log_sums: View<'a, f32>,
    /// `[n_tokens]`: where it is 0 the part has nothing for a token, and nothing of it is read.
    pub mask: Option<View<'a, u32>>,
}

/// What [`merge_partials`] writes.
#[derive(Debug)]
pub struct MergeOutputs<'a, O> {
    /// `[n_tokens, n_heads, head_dim]`, tokens `output_stride` elements apart.
    pub outputs: ViewMut<'a, O>,
    /// `[n_tokens, n_heads]`, or in the shape's [`LogSumOrder`](crate::attention::LogSumOrder): the log-sum-exp over all parts.
    pub log_sums: Option<ViewMut<'a, f32>>,
}

/// The first part of [`merge_partials_in_place`], and where the result goes.
#[derive(Debug)]
pub struct MergeTarget<'a, T> {
    /// `[n_tokens, n_heads, head_dim]`, tokens `output_stride` elements apart.
    pub outputs: ViewMut<'a, T>,
    /// `[n_tokens, n_heads]`, or in the shape's [`LogSumOrder`](crate::attention::LogSumOrder), before as after.
    pub log_sums: ViewMut<'a, f32>,
    /// `[n_tokens]`: where it is 0 the target has nothing yet.
    pub mask: Option<View<'a, u32>>,
}

/// Partial results of attention, each over tokens of its own, as one: of a shared prefix and what follows it (cascades), of
/// ranks that have a part of the context each, of what a CPU found, of hits in a cache and of misses that came later.
///
/// ```text
/// weight[p] = exp(log_sum[p] - greatest log_sum)
/// output    = sum of output[p] * (weight[p] / sum of weight[p]),   p ascending
/// log_sum   = greatest log_sum + log(sum of weight[p])
/// ```
///
/// # Shapes
/// Those of [`Partial`] and [`MergeOutputs`]; parts are as many as the plan has, 1 to 8. Each part's log-sums are in its own order, so
/// that FlashAttention's and this crate's meet without a transposition. Masks are read on the device. 16 bytes move at a time
/// where addresses and strides of outputs are multiples of 16 bytes (of parts of 16 bits and outputs in f32, or the
/// other way round, 8 of them), else one element.
///
/// # Numerics
/// In f32, rounded once to `O`: bit for bit [`reference::merge_partials`](crate::attention::reference::merge_partials), the same on
/// every device, in the order of the parts. Differences of log-sums are taken in their own base, so that large ones lose
/// nothing. An infinite log-sum is of nothing, the +inf that FlashAttention writes there too; so is a weight below 2^-125.
/// Outputs of parts that add nothing are not read, whatever they are. Where no part adds anything, outputs are 0 and the
/// log-sum is -inf; a NaN log-sum makes NaN of the row. A part that alone adds something is rounded to `O`, no more, and so
/// its own bits where `O` is `T`; its log-sum is its own. NaN is the one of [`Real::from_f32`].
///
/// # Stream
/// One launch; no allocation, copy or synchronisation, and no workspace.
///
/// # Errors
/// [`Error::Shape`], [`Error::Range`], [`Error::WrongQueue`] and [`Error::WrongStream`] before anything is launched;
/// [`Error::Driver`] where the launch fails.
pub fn merge_partials<T: Real, O: Real>(
    queue: &Queue,
    plan: &MergePlan,
    parts: &[Partial<'_, T>],
    outputs: &mut MergeOutputs<'_, O>,
) -> Result<()> {
    let mut arguments = Arguments::new(queue);
    let mut all = [NO_PART; MOST_PARTS];
    place_parts(&mut arguments, plan, parts, &mut all)?;
    let MergeOutputs { outputs, log_sums } = outputs;
    let written = Written {
        outputs: arguments.written(output_role(plan), "outputs", outputs, plan.outputs_len())?,
        log_sums: arguments.optional_written(
            Role::Output,
            "log_sums",
            log_sums.as_ref(),
            plan.log_sums_len(),
        )?,
        is_in_place: false,
    };
    launch::<T, O>(arguments, plan, all, parts.len(), &written)
}

/// [`merge_partials`] into the first of the parts, as FlashInfer's `merge_state_in_place`: the target, and then those of the
/// plan, 1 to 7.
///
/// # Shapes
/// Those of [`Partial`] and [`MergeTarget`].
///
/// # Numerics
/// Bit for bit [`reference::merge_partials_in_place`](crate::attention::reference::merge_partials_in_place): the numbers of
/// [`merge_partials`]. Rows to which no other part adds anything are left alone, and their outputs are neither read nor
/// written, unless the target has nothing there or its log-sum is NaN.
///
/// # Stream
/// That of [`merge_partials`]. A launch that is replayed merges again.
///
/// # Errors
/// Those of [`merge_partials`].
pub fn merge_partials_in_place<T: Real>(
    queue: &Queue,
    plan: &MergePlan,
    target: &mut MergeTarget<'_, T>,
    parts: &[Partial<'_, T>],
) -> Result<()> {
    let n_parts = plan.parts().len();
    if n_parts >= MOST_PARTS {
        let (what, value) = ("parts beside the target", n_parts as u64);
        return Err(Error::Range { what, value, allowed: "1..=7" });
    }
    let mut arguments = Arguments::new(queue);
    let mut all = [NO_PART; MOST_PARTS];
    place_parts(&mut arguments, plan, parts, &mut all[1..])?;
    let MergeTarget { outputs, log_sums, mask } = target;
    let written = Written {
        outputs: arguments.written(
            Role::InOut,
            "outputs of the target",
            outputs,
            plan.outputs_len(),
        )?,
        log_sums: arguments.written(
            Role::InOut,
            "log_sums of the target",
            log_sums,
            plan.log_sums_len(),
        )?,
        is_in_place: true,
    };
    let n_tokens = plan.shape().n_tokens;
    all[0] = AttentionPartial {
        outputs: written.outputs,
        log_sums: written.log_sums,
        mask: arguments.optional_input("mask of the target", mask.as_ref(), n_tokens)?,
        stride: plan.shape().output_stride,
        log_sum_strides: plan.log_sum_strides(plan.shape().log_sum_order),
    };
    launch::<T, T>(arguments, plan, all, 1 + n_parts, &written)
}

const NO_PART: AttentionPartial = AttentionPartial {
    outputs: 0,
    log_sums: 0,
    mask: 0,
    stride: 0,
    log_sum_strides: AttentionLogSumStrides { request: 0, query: 0, head: 0 },
};

fn place_parts<T: Real>(
    arguments: &mut Arguments<'_>,
    plan: &MergePlan,
    parts: &[Partial<'_, T>],
    places: &mut [AttentionPartial],
) -> Result<()> {
    check_same("parts", plan.parts().len() as u64, parts.len())?;
    for (i, (part, place)) in parts.iter().zip(places).enumerate() {
        let (n_outputs, n_sums) = (plan.partial_len(i), plan.log_sums_len());
        let n_tokens = plan.shape().n_tokens;
        *place = AttentionPartial {
            outputs: arguments.input("outputs of a part", &part.outputs, n_outputs)?,
            log_sums: arguments.input("log_sums of a part", &part.log_sums, n_sums)?,
            mask: arguments.optional_input("mask of a part", part.mask.as_ref(), n_tokens)?,
            stride: plan.parts()[i].stride,
            log_sum_strides: plan.log_sum_strides(plan.parts()[i].log_sum_order),
        };
    }
    Ok(())
}

/// What lies between tokens stays what it was.
fn output_role(plan: &MergePlan) -> Role {
    let shape = plan.shape();
    if shape.output_stride == shape.n_heads * shape.head_dim { Role::Output } else { Role::InOut }
}

/// Where the result goes.
struct Written {
    outputs: u64,
    log_sums: u64,
    is_in_place: bool,
}

fn launch<T: Real, O: Real>(
    arguments: Arguments<'_>,
    plan: &MergePlan,
    parts: [AttentionPartial; MOST_PARTS],
    n_parts: usize,
    written: &Written,
) -> Result<()> {
    let shape = plan.shape();
    let part = |part: &AttentionPartial| (part.outputs, part.stride, size_of::<T>() as u64);
    let output = (written.outputs, shape.output_stride, size_of::<O>() as u64);
    let params = AttentionMergeParams {
        parts,
        outputs: written.outputs,
        log_sums: written.log_sums,
        output_stride: shape.output_stride,
        log_sum_strides: plan.log_sum_strides(shape.log_sum_order),
        log2_scale: plan.log2_scale(),
        log_unit: plan.log_unit(),
        n_rows: plan.log_sums_len() as u32,
        n_heads: shape.n_heads as u32,
        n_queries: shape.n_queries as u32,
        head_dim: shape.head_dim as u32,
        n_parts: n_parts as u32,
        element: T::NUMBER,
        output_element: O::NUMBER,
        width: MergePlan::width(parts[..n_parts].iter().map(part).chain([output])),
        is_in_place: written.is_in_place.into(),
        reserved: 0,
    };
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&plan.grid(), &params) }
}
