//! The launch that attends with chunks of prompts.
#![allow(unsafe_code)]

use super::plan::{Positions, PrefillPlan};
use crate::Result;
use crate::attention::Mask;
use crate::bindings::AttentionPrefillParams;
use crate::buffer::{View, ViewMut};
use crate::element::{Half, Real};
use crate::kv::KvView;
use crate::launch::{Arguments, check_aligned, check_same, kernel_params};
use crate::queue::Queue;
use crate::region::Role;

kernel_params!(AttentionPrefillParams, "attention", "prefill_128");

/// The same struct for the other kernel.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct OfLongHeads(#[allow(dead_code, reason = "the kernel reads it")] AttentionPrefillParams);

kernel_params!(OfLongHeads, "attention", "prefill_256");

/// What [`attend_prefill`] reads.
#[derive(Debug, Clone, Copy)]
pub struct PrefillInputs<'a, T> {
    /// `[n_tokens, n_q_heads, head_dim]`, tokens `query_stride` elements apart, from a multiple of 16 bytes on.
    pub queries: View<'a, T>,
    /// `[batch + 1]`: where each request's queries begin, and the last one's end (FlashAttention's `cu_seqlens_q`). One
    /// that is less than another before it counts as that, and one past the tokens as their number.
    pub query_starts: View<'a, u32>,
    /// `[n_tokens]`: the position of each query; needed where the shape has [`Positions::Given`].
    pub query_positions: Option<View<'a, i32>>,
    /// `[batch, n_rows]`: the position of each row of the cache; as above.
    pub key_positions: Option<View<'a, i32>>,
    /// The rows that were kept, those of the queries among them; with values, of scales of 1.
    pub cache: KvView<'a, T>,
    /// `[n_q_heads]`: a logit that each softmax has besides, of no value.
    pub sinks: Option<View<'a, f32>>,
    /// `[batch]`: requests where it is not 0 are left alone, their outputs too.
    pub skips: Option<View<'a, u32>>,
}

/// What [`attend_prefill`] writes.
#[derive(Debug)]
pub struct PrefillOutputs<'a, O> {
    /// `[n_tokens, n_q_heads, head_dim]`, tokens `output_stride` elements apart, from a multiple of 16 bytes on. Tokens of no
    /// request stay what they were.
    pub outputs: ViewMut<'a, O>,
    /// `[n_tokens, n_q_heads]`, or in the shape's [`LogSumOrder`](crate::attention::LogSumOrder): the logarithm of the sum of
    /// `exp(logit)`, sinks among them.
    pub log_sums: Option<ViewMut<'a, f32>>,
}

/// Attention of chunks of prompts over the rows of a paged cache that were kept (ZipVL, LazyLLM), by the positions that
/// queries and rows had in their prompt; over all rows it is chunked prefill.
///
/// # Shapes
/// Those of [`PrefillInputs`] and [`PrefillOutputs`]; sizes are the plan's. Requests have queries of any number, by
/// `query_starts`, which like lengths, page tables, positions and skips is read on the device.
///
/// # Numerics
/// Bit for bit [`reference::Prefilled`](crate::attention::reference::Prefilled), with the [`mma::Model`](crate::mma::Model) of the
/// device's tensor cores, of finite values: products, weights and sums as of [`attend`](crate::attention::attend), but that a row's sums
/// go over pairs of tiles of 16 rows of the cache, whose products are summed apart and then added in f32. Bits do not depend on the batch, on pages, nor on how a prompt is cut into chunks. Where a value is infinite or
/// NaN, outputs of queries that do not see it may become NaN. Where a million rows weigh alike, outputs are off by less than
/// 0.02 % of their mean (by the models). Log-sums are as near as those of [`attend`](crate::attention::attend).
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`], [`Error::Range`], [`Error::Number`], [`Error::WrongQueue`] and [`Error::WrongStream`] before anything
/// is launched; [`Error::Driver`] where the launch fails.
///
/// [`Error::Shape`]: crate::Error::Shape
/// [`Error::Range`]: crate::Error::Range
/// [`Error::Number`]: crate::Error::Number
/// [`Error::WrongQueue`]: crate::Error::WrongQueue
/// [`Error::WrongStream`]: crate::Error::WrongStream
/// [`Error::Driver`]: crate::Error::Driver
pub fn attend_prefill<T: Half, O: Real>(
    queue: &Queue,
    plan: &PrefillPlan,
    inputs: &PrefillInputs<'_, T>,
    outputs: &mut PrefillOutputs<'_, O>,
) -> Result<()> {
    let shape = plan.shape();
    let cache = &inputs.cache;
    cache.check_planned(&shape.layout)?;
    let n_given = u64::from(shape.positions == Positions::Given);
    check_same("query_positions", n_given, inputs.query_positions.iter().len())?;
    check_same("key_positions", n_given, inputs.key_positions.iter().len())?;
    let PrefillOutputs { outputs, log_sums } = outputs;
    for (what, address) in [
        ("address of queries", inputs.queries.address()),
        ("address of outputs", outputs.address()),
    ] {
        check_aligned(what, address, 16, "the multiples of 16")?;
    }
    let mut arguments = Arguments::new(queue);
    let n_requests = shape.layout.shape().batch;
    let log_sums_of = shape.log_sum_order.strides([shape.n_tokens, 1, shape.n_q_heads]);
    let params = AttentionPrefillParams {
        kv: cache.params(&mut arguments)?,
        queries: arguments.input("queries", &inputs.queries, plan.queries_len())?,
        query_starts: arguments.input(
            "query_starts",
            &inputs.query_starts,
            plan.query_starts_len(),
        )?,
        query_positions: arguments.optional_input(
            "query_positions",
            inputs.query_positions.as_ref(),
            shape.n_tokens,
        )?,
        key_positions: arguments.optional_input(
            "key_positions",
            inputs.key_positions.as_ref(),
            plan.key_positions_len(),
        )?,
        sinks: arguments.optional_input("sinks", inputs.sinks.as_ref(), shape.n_q_heads)?,
        skips: arguments.optional_input("skips", inputs.skips.as_ref(), n_requests)?,
        // Tokens of no request stay what they were, as those of skipped ones.
        outputs: arguments.written(Role::InOut, "outputs", outputs, plan.outputs_len())?,
        log_sums: arguments.optional_written(
            Role::InOut,
            "log_sums",
            log_sums.as_ref(),
            plan.log_sums_len(),
        )?,
        query_stride: shape.query_stride,
        output_stride: shape.output_stride,
        log_sum_token_stride: log_sums_of.request,
        log_sum_head_stride: log_sums_of.head,
        position_stride: shape.layout.n_rows(),
        logits: shape.logits.params::<T, O>(),
        n_tokens: shape.n_tokens as u32,
        group: plan.group() as u32,
        is_causal: u32::from(shape.mask != Mask::None),
        window: shape.mask.window() as u32,
    };
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe {
        if shape.layout.shape().row_len <= 128 {
            arguments.launch(&plan.grid(), &params)
        } else {
            arguments.launch(&plan.grid(), &OfLongHeads(params))
        }
    }
}
