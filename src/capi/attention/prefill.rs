//! `attend_prefill`.

use super::attend::output_dtype;
use super::logits::{logits, mask, order};
use crate::attention::{Mask, Positions, PrefillInputs, PrefillOutputs, PrefillPlan, PrefillShape};
use crate::capi::abi::{
    borrow, check_reserved, free, give, lacuna_header, or, read, structs, write,
};
use crate::capi::device::lacuna_queue;
use crate::capi::dtype::{with_half, with_real};
use crate::capi::kv::{lacuna_kv, lacuna_kv_shape};
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};

/// What positions queries and rows of a cache have, which masks go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_positions {
    /// A row has its number, and a request's queries are its last rows.
    LACUNA_POSITIONS_ROWS = 0,
    /// What the launch is given: of tokens that were kept, those that they had in the prompt.
    LACUNA_POSITIONS_GIVEN = 1,
}

/// Sizes of `lacuna_attend_prefill`, and how products become logits.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_attend_prefill_shape {
    pub header: lacuna_header,
    /// The cache, of bf16 or f16: rows of a head's dimension, a multiple of 16 up to 256.
    pub cache: *const lacuna_kv_shape,
    /// Query heads: 1 to 16 times the heads of keys.
    pub n_q_heads: u64,
    /// Tokens of queries, of all requests one after the other.
    pub n_tokens: u64,
    /// Elements from token to token, a multiple of 8 and at least all heads'; 0 is all heads'.
    pub query_stride: u64,
    /// The same of outputs.
    pub output_stride: u64,
    /// With `LACUNA_MASK_WINDOW`, so many positions.
    pub window: u64,
    /// A `lacuna_mask`, by positions; 0 is causal.
    pub mask: u32,
    /// A `lacuna_positions`.
    pub positions: u32,
    /// What products are multiplied by; 0 is one over the root of the head's dimension.
    pub scale: f32,
    /// Logits become `soft_cap * tanh(logit / soft_cap)`: 0.001 to 10,000; 0 is none.
    pub soft_cap: f32,
    /// A `lacuna_log_base`.
    pub log_base: u32,
    /// A `lacuna_log_sum_order`: by tokens or by heads, since requests have queries of any number.
    pub log_sum_order: u32,
    /// The type of outputs: bf16, f16 or f32; 0 is that of keys.
    pub output_dtype: u32,
    /// 0.
    pub reserved: u32,
}

/// Elements of each view of `lacuna_attend_prefill_args`, by the same names; the cache's are `lacuna_kv_shape_sizes`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_attend_prefill_sizes {
    pub header: lacuna_header,
    pub queries: u64,
    pub query_starts: u64,
    pub query_positions: u64,
    pub key_positions: u64,
    pub sinks: u64,
    pub skips: u64,
    pub outputs: u64,
    pub log_sums: u64,
}

/// What `lacuna_attend_prefill` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_attend_prefill_args {
    pub header: lacuna_header,
    /// `[n_tokens, n_q_heads, head_dim]` of the keys' dtype, tokens `query_stride` elements apart, from a multiple of 16 bytes on.
    pub queries: lacuna_view,
    /// u32 `[batch + 1]`: where each request's queries begin, and the last one's end (FlashAttention's `cu_seqlens_q`). One that is
    /// less than another before it counts as that, and one past the tokens as their number.
    pub query_starts: lacuna_view,
    /// i32 `[n_tokens]`: the position of each query; with `LACUNA_POSITIONS_GIVEN`, and else none.
    pub query_positions: lacuna_view,
    /// i32 `[batch, table_stride * page_size]`: the position of each row of the cache; as above.
    pub key_positions: lacuna_view,
    /// The rows that were kept, those of the queries among them; with values, of scales of 1.
    pub cache: lacuna_kv,
    /// Optional, f32 `[n_q_heads]`: a logit that each softmax has besides, of no value.
    pub sinks: lacuna_view,
    /// Optional, u32 `[batch]`: requests where it is not 0 are left alone, their outputs too.
    pub skips: lacuna_view,
    /// `[n_tokens, n_q_heads, head_dim]` of the shape's output dtype, tokens `output_stride` elements apart, from a multiple of 16 bytes on.
    /// Tokens of no request stay what they were.
    pub outputs: lacuna_view_mut,
    /// Optional, f32 `[n_tokens, n_q_heads]`, or in the shape's order: the logarithm of the sum of `exp(logit)`, sinks among them.
    pub log_sums: lacuna_view_mut,
}

structs! {
    lacuna_attend_prefill_shape: 88,
    lacuna_attend_prefill_sizes: 72,
    lacuna_attend_prefill_args: 304,
}

/// A plan of `lacuna_attend_prefill`: for any device, and any number of launches at once.
pub struct lacuna_attend_prefill_plan {
    plan: PrefillPlan,
    dtype: u32,
    output_dtype: u32,
}

impl lacuna_attend_prefill_plan {
    /// # Safety
    /// The caller's structs.
    unsafe fn new(shape: &lacuna_attend_prefill_shape) -> Outcome<Self> {
        check_reserved("lacuna_attend_prefill_shape", shape.reserved)?;
        // SAFETY: the caller's struct.
        let cache = unsafe { read(shape.cache) }?;
        let usual = PrefillShape::of(cache.layout()?, shape.n_q_heads, shape.n_tokens);
        let head_dim = usual.layout.shape().row_len;
        let positions = match shape.positions {
            0 => Positions::Rows,
            1 => Positions::Given,
            number => return Err(Failure::number("positions", number, "lacuna_positions")),
        };
        let output_dtype = output_dtype(cache.dtype, shape.output_dtype)?;
        let plan = PrefillPlan::new(PrefillShape {
            query_stride: or(shape.query_stride, usual.query_stride),
            output_stride: or(shape.output_stride, usual.output_stride),
            log_sum_order: order(shape.log_sum_order)?,
            positions,
            mask: mask(shape.mask, Mask::Causal, shape.window)?,
            logits: logits(head_dim, shape.scale, shape.soft_cap, shape.log_base)?,
            ..usual
        })?;
        Ok(Self { plan, dtype: cache.dtype, output_dtype })
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_attend_prefill_plan_new(
    shape: *const lacuna_attend_prefill_shape,
    plan: *mut *mut lacuna_attend_prefill_plan,
) -> lacuna_status {
    // SAFETY: the caller's structs and variable.
    answer(|| unsafe { give("plan", plan, || lacuna_attend_prefill_plan::new(&read(shape)?)) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_attend_prefill_plan_free(plan: *mut lacuna_attend_prefill_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_attend_prefill_plan_sizes(
    plan: *const lacuna_attend_prefill_plan,
    sizes: *mut lacuna_attend_prefill_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let plan = &borrow("plan", plan)?.plan;
        let shape = plan.shape();
        let found = lacuna_attend_prefill_sizes {
            header: lacuna_header::NONE,
            queries: plan.queries_len(),
            query_starts: plan.query_starts_len(),
            query_positions: shape.n_tokens,
            key_positions: plan.key_positions_len(),
            sinks: shape.n_q_heads,
            skips: shape.layout.shape().batch,
            outputs: plan.outputs_len(),
            log_sums: plan.log_sums_len(),
        };
        write(sizes, &found)
    })
}

/// Attention of chunks of prompts over the rows of a paged cache that were kept (ZipVL, LazyLLM), by the positions that queries and rows had
/// in their prompt; over all rows it is chunked prefill. `lacuna::attention::attend_prefill` says all of it.
///
/// One launch; starts, lengths, page tables, positions and skips are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
/// `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_attend_prefill(
    queue: *const lacuna_queue,
    plan: *const lacuna_attend_prefill_plan,
    args: *const lacuna_attend_prefill_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, structs and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        with_half!(plan.dtype, "queries", T => {
            let inputs = PrefillInputs::<T> {
                queries: args.queries.of("queries", queue)?,
                query_starts: args.query_starts.of("query_starts", queue)?,
                query_positions: args.query_positions.optional("query_positions", queue)?,
                key_positions: args.key_positions.optional("key_positions", queue)?,
                cache: args.cache.of(&plan.plan.shape().layout, queue)?,
                sinks: args.sinks.optional("sinks", queue)?,
                skips: args.skips.optional("skips", queue)?,
            };
            with_real!(plan.output_dtype, "outputs", O => {
                let mut outputs = PrefillOutputs::<O> {
                    outputs: args.outputs.of("outputs", queue)?,
                    log_sums: args.log_sums.optional("log_sums", queue)?,
                };
                let plan = &plan.plan;
                Ok(crate::attention::attend_prefill(queue, plan, &inputs, &mut outputs)?)
            })
        })
    })
}
