//! `append_kv`.

use crate::capi::abi::{
    borrow, check_reserved, free, give, lacuna_header, or, read, structs, write,
};
use crate::capi::attention::logits::turn;
use crate::capi::device::lacuna_queue;
use crate::capi::dtype::with_half;
use crate::capi::kv::{lacuna_kv_mut, lacuna_kv_shape};
use crate::capi::status::{Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::quant::{AppendOutputs, AppendPlan, AppendShape, NewTokens, Turn};

/// Sizes of `lacuna_append_kv`, and how keys are turned.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_append_kv_shape {
    pub header: lacuna_header,
    /// The cache: bf16 or f16, with values.
    pub kv: *const lacuna_kv_shape,
    /// Tokens of a request, at most.
    pub n_tokens: u64,
    /// Elements from one token's keys to the next one's, a multiple of 8; 0 is those of its heads.
    pub key_stride: u64,
    /// The same of values.
    pub value_stride: u64,
    /// The first so many elements of a key are turned, a multiple of 16; 0: keys stay as they are.
    pub rotary_dim: u64,
    /// Positions that have angles: positions outside count as the nearest.
    pub n_positions: u64,
    /// Tokens of a block, a power of two up to 128, which changes no bit; 0 leaves it to the library.
    pub block_tokens: u64,
    /// A `lacuna_turn`.
    pub turn: u32,
    /// 0.
    pub reserved: u32,
}

/// Elements of each view of `lacuna_append_kv_args`, by the same names; of the cache, `lacuna_kv_shape_sizes`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_append_kv_sizes {
    pub header: lacuna_header,
    pub keys: u64,
    pub values: u64,
    pub counts: u64,
    pub keeps: u64,
    pub positions: u64,
    pub cos_sin: u64,
    pub new_lengths: u64,
    pub dropped: u64,
    pub workspace: u64,
}

/// What `lacuna_append_kv` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_append_kv_args {
    pub header: lacuna_header,
    /// `[batch, n_tokens, n_heads, head_dim]` of the cache's dtype, tokens `key_stride` elements apart, from a multiple of 16 bytes on.
    pub keys: lacuna_view,
    /// The same, `value_stride` elements apart.
    pub values: lacuna_view,
    /// Optional, u32 `[batch]`: how many of a request's tokens there are, the first ones; else all.
    pub counts: lacuna_view,
    /// Optional, u32 `[batch, n_tokens]`: not 0 where a token is kept; else all are.
    pub keeps: lacuna_view,
    /// Optional, i32 `[batch, n_tokens]`: the position of each token; else the request's length and its place among the new tokens, of
    /// which those that are not kept count too.
    pub positions: lacuna_view,
    /// Where keys are turned, f32 `[n_positions, rotary_dim]`, from a multiple of 16 bytes on: cosines of each position's angles, and
    /// then their sines.
    pub cos_sin: lacuna_view,
    /// The cache; its `lengths` are those before.
    pub cache: lacuna_kv_mut,
    /// u32 `[batch]`: how many rows each request then has. Not the lengths before: an engine has two buffers by turns.
    pub new_lengths: lacuna_view_mut,
    /// Optional, u32 `[batch]`: how many of the kept tokens found no room.
    pub dropped: lacuna_view_mut,
    /// u32, of any content; of no elements where a request has up to 1,024 tokens.
    pub workspace: lacuna_view_mut,
}

structs! {
    lacuna_append_kv_shape: 72,
    lacuna_append_kv_sizes: 80,
    lacuna_append_kv_args: 320,
}

/// A plan of `lacuna_append_kv`: for any device, and any number of launches at once.
pub struct lacuna_append_kv_plan {
    plan: AppendPlan,
    dtype: u32,
}

impl lacuna_append_kv_plan {
    /// # Safety
    /// The shape's struct is the caller's.
    unsafe fn new(shape: &lacuna_append_kv_shape) -> Outcome<Self> {
        check_reserved("lacuna_append_kv_shape", shape.reserved)?;
        // SAFETY: the caller's word.
        let kv = unsafe { read(shape.kv) }?;
        with_half!(kv.dtype, "a cache to append to", T => Ok(size_of::<T>()))?;
        let turn = turn(shape.turn)?;
        let usual = AppendShape::of(kv.layout()?, shape.n_tokens);
        let plan = AppendPlan::new(AppendShape {
            key_stride: or(shape.key_stride, usual.key_stride),
            value_stride: or(shape.value_stride, usual.value_stride),
            turn: if shape.rotary_dim == 0 { Turn::None } else { turn },
            rotary_dim: shape.rotary_dim,
            n_positions: shape.n_positions,
            ..usual
        })?;
        let plan = match shape.block_tokens {
            0 => plan,
            block_tokens => plan.with_block_tokens(block_tokens)?,
        };
        Ok(Self { plan, dtype: kv.dtype })
    }

    fn sizes(&self) -> lacuna_append_kv_sizes {
        let (plan, batch) = (&self.plan, self.plan.shape().layout.shape().batch);
        lacuna_append_kv_sizes {
            header: lacuna_header::NONE,
            keys: plan.keys_len(),
            values: plan.values_len(),
            counts: batch,
            keeps: plan.tokens_len(),
            positions: plan.tokens_len(),
            cos_sin: plan.cos_sin_len(),
            new_lengths: batch,
            dropped: batch,
            workspace: plan.workspace_len(),
        }
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_append_kv_plan_new(
    shape: *const lacuna_append_kv_shape,
    plan: *mut *mut lacuna_append_kv_plan,
) -> lacuna_status {
    // SAFETY: the caller's structs and variable.
    answer(|| unsafe { give("plan", plan, || lacuna_append_kv_plan::new(&read(shape)?)) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_append_kv_plan_free(plan: *mut lacuna_append_kv_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_append_kv_plan_sizes(
    plan: *const lacuna_append_kv_plan,
    sizes: *mut lacuna_append_kv_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe { write(sizes, &borrow("plan", plan)?.sizes()) })
}

/// New tokens into a paged cache, those of them that are kept, and keys turned by their positions on the way.
/// `lacuna::quant::append_kv` says all of it.
///
/// One launch, two where a request has more than 1,024 tokens; lengths, counts, masks, positions and page tables are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
/// `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_append_kv(
    queue: *const lacuna_queue,
    plan: *const lacuna_append_kv_plan,
    args: *const lacuna_append_kv_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let mut outputs = AppendOutputs {
            new_lengths: args.new_lengths.of("new_lengths", queue)?,
            dropped: args.dropped.optional("dropped", queue)?,
            workspace: args.workspace.optional("workspace", queue)?,
        };
        with_half!(plan.dtype, "a cache to append to", T => {
            let plan = &plan.plan;
            let tokens = NewTokens::<T> {
                keys: args.keys.of("keys", queue)?,
                values: args.values.of("values", queue)?,
                counts: args.counts.optional("counts", queue)?,
                keeps: args.keeps.optional("keeps", queue)?,
                positions: args.positions.optional("positions", queue)?,
                cos_sin: args.cos_sin.optional("cos_sin", queue)?,
            };
            let mut cache = args.cache.of::<T>(&plan.shape().layout, queue)?;
            Ok(crate::quant::append_kv(queue, plan, &tokens, &mut cache, &mut outputs)?)
        })
    })
}
