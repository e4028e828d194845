//! `attend`.

use super::logits::{logits, mask, order};
use crate::Error;
use crate::attention::{
    AttendInputs, AttendOutputs, AttendPlan, AttendShape, Mask, Segment, SegmentShape, Tokens,
};
use crate::capi::abi::{
    borrow, check_reserved, free, give, lacuna_header, or, read, read_array, structs, write,
};
use crate::capi::device::lacuna_queue;
use crate::capi::dtype::{self, with_half, with_real};
use crate::capi::kv::{lacuna_kv, lacuna_kv_shape, lists};
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::element::{Half, Real};
use crate::queue::Queue;

/// Which rows of each request a segment has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_tokens {
    /// All.
    LACUNA_TOKENS_ALL = 0,
    /// Those from `first` on and before `end`, of the last `last`; as far as there are so many.
    LACUNA_TOKENS_RANGE = 1,
    /// `n_blocks` blocks of `block_size` rows, by numbers on the device; what a number past the request's rows names is absent.
    LACUNA_TOKENS_BLOCKS = 2,
}

/// Rows of a paged cache, one after the other, that queries attend to.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_segment_shape {
    pub header: lacuna_header,
    /// The cache, of bf16 or f16: all segments' have as many requests and heads, rows of a head's dimension, and the same dtype.
    pub cache: *const lacuna_kv_shape,
    /// Of a range, the first row,
    pub first: u64,
    /// the row after the last, `UINT64_MAX` where there is none,
    pub end: u64,
    /// and so many of a request's last rows, `UINT64_MAX` for all.
    pub last: u64,
    /// Of blocks, numbers of a list,
    pub n_blocks: u64,
    /// and rows of a block, 1 to 128; 0 is 1.
    pub block_size: u64,
    /// With `LACUNA_MASK_WINDOW`, so many rows.
    pub window: u64,
    /// A `lacuna_tokens`.
    pub tokens: u32,
    /// A `lacuna_kv_lists`: whose lists of blocks there are, and whose biases.
    pub lists: u32,
    /// A `lacuna_mask`; 0 is none.
    pub mask: u32,
    /// 0.
    pub reserved: u32,
}

/// Sizes of `lacuna_attend`, and how products become logits.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_attend_shape {
    pub header: lacuna_header,
    /// 1 to 4 segments, whose rows stand one after the other.
    pub segments: *const lacuna_segment_shape,
    pub n_segments: u64,
    /// Queries of a request, one token after the other: 1 to 8; 0 is 1.
    pub n_queries: u64,
    /// Query heads: 1 to 16 times the heads of keys.
    pub n_q_heads: u64,
    /// Elements from query to query, a multiple of 8 and at least all heads'; 0 is all heads'.
    pub query_stride: u64,
    /// The same of outputs.
    pub output_stride: u64,
    /// What products are multiplied by; 0 is one over the root of the head's dimension.
    pub scale: f32,
    /// Logits become `soft_cap * tanh(logit / soft_cap)`, before biases are added: 0.001 to 10,000; 0 is none.
    pub soft_cap: f32,
    /// A `lacuna_log_base`.
    pub log_base: u32,
    /// A `lacuna_log_sum_order`.
    pub log_sum_order: u32,
    /// The type of outputs: bf16, f16 or f32; 0 is that of keys.
    pub output_dtype: u32,
    /// 0.
    pub reserved: u32,
}

/// Elements of each view of `lacuna_attend_args`, by the same names.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_attend_sizes {
    pub header: lacuna_header,
    pub queries: u64,
    pub sinks: u64,
    pub skips: u64,
    pub outputs: u64,
    pub log_sums: u64,
    pub workspace: u64,
}

/// Elements of each view of a `lacuna_segment`, by the same names; the cache's are `lacuna_kv_shape_sizes`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_segment_sizes {
    pub header: lacuna_header,
    pub indices: u64,
    pub counts: u64,
    pub biases: u64,
}

/// Rows of a paged cache that queries attend to.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_segment {
    pub header: lacuna_header,
    /// The cache, with values; of scales of 1.
    pub cache: lacuna_kv,
    /// Of blocks alone, i32 `[batch, n_lists, n_blocks]`: numbers, of which those that name no row are passed over, and one that is there
    /// twice counts twice. `n_lists` is the heads of keys, or 1 where lists are a request's.
    pub indices: lacuna_view,
    /// Optional, of blocks alone, u32 `[batch, n_lists]`: how many of each list's numbers count; else all.
    pub counts: lacuna_view,
    /// Optional, f32: what is added to logits, in units of the base e: `[batch, n_lists, n_blocks]` of each block, or else
    /// `[batch, n_lists, table_stride * page_size]` of each row by its number.
    pub biases: lacuna_view,
}

/// What `lacuna_attend` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_attend_args {
    pub header: lacuna_header,
    /// `[batch, n_queries, n_q_heads, head_dim]` of the keys' dtype, queries `query_stride` elements apart, from a multiple of 16 bytes on.
    pub queries: lacuna_view,
    /// As many as the shape has, in its order.
    pub segments: *const lacuna_segment,
    pub n_segments: u64,
    /// Optional, f32 `[n_q_heads]`: a logit that each softmax has besides, of no value (attention sinks of GPT-OSS). Of parts that
    /// are merged later, one alone may have it.
    pub sinks: lacuna_view,
    /// Optional, u32 `[batch]`: requests where it is not 0 are left alone, their outputs too.
    pub skips: lacuna_view,
    /// `[batch, n_queries, n_q_heads, head_dim]` of the shape's output dtype, queries `output_stride` elements apart, from a multiple
    /// of 16 bytes on.
    pub outputs: lacuna_view_mut,
    /// Optional, f32 `[batch * n_queries, n_q_heads]`, or in the shape's order: the logarithm of the sum of `exp(logit)`, sinks among them.
    pub log_sums: lacuna_view_mut,
    /// u32, from a multiple of 16 bytes on: zeros before the first launch.
    pub workspace: lacuna_view_mut,
}

structs! {
    lacuna_segment_shape: 80,
    lacuna_attend_shape: 80,
    lacuna_attend_sizes: 56,
    lacuna_segment_sizes: 32,
    lacuna_segment: 184,
    lacuna_attend_args: 168,
}

/// A plan of `lacuna_attend`: for any device, and any number of launches at once, each with a workspace of its own.
#[derive(Clone, Copy)]
pub struct lacuna_attend_plan {
    pub(super) plan: AttendPlan,
    pub(super) dtype: u32,
    pub(super) output_dtype: u32,
}

impl lacuna_segment_shape {
    /// # Safety
    /// The caller's structs.
    unsafe fn read(&self) -> Outcome<(SegmentShape, u32)> {
        check_reserved("lacuna_segment_shape", self.reserved)?;
        // SAFETY: the caller's struct.
        let cache = unsafe { read(self.cache) }?;
        let tokens = match self.tokens {
            0 => Tokens::ALL,
            1 => Tokens::Range { first: self.first, end: self.end, last: self.last },
            2 => Tokens::Blocks { n_blocks: self.n_blocks, block_size: or(self.block_size, 1) },
            number => return Err(Failure::number("tokens", number, "lacuna_tokens")),
        };
        let shape = SegmentShape {
            layout: cache.layout()?,
            tokens,
            lists: lists(self.lists)?,
            mask: mask(self.mask, Mask::None, self.window)?,
        };
        Ok((shape, cache.dtype))
    }
}

impl lacuna_attend_shape {
    /// # Safety
    /// The caller's structs.
    pub(super) unsafe fn plan(&self) -> Outcome<lacuna_attend_plan> {
        check_reserved("lacuna_attend_shape", self.reserved)?;
        let mut segments = Vec::new();
        let mut dtype = None;
        // SAFETY: the caller's structs.
        for segment in unsafe { read_array(self.segments, self.n_segments) }? {
            // SAFETY: the caller's struct.
            let (segment, found) = unsafe { segment.read() }?;
            let first = *dtype.get_or_insert(found);
            if found != first {
                return Err(dtype::refuse("another segment's cache", found, &dtype::name(first)));
            }
            segments.push(segment);
        }
        let (Some(first), Some(dtype)) = (segments.first(), dtype) else {
            return Err(Error::Range { what: "segments", value: 0, allowed: "1..=4" }.into());
        };
        let usual = AttendShape::of(&first.layout, self.n_q_heads);
        let shape = AttendShape {
            n_queries: or(self.n_queries, 1),
            query_stride: or(self.query_stride, usual.query_stride),
            output_stride: or(self.output_stride, usual.output_stride),
            log_sum_order: order(self.log_sum_order)?,
            logits: logits(usual.head_dim, self.scale, self.soft_cap, self.log_base)?,
            ..usual
        };
        let output_dtype = output_dtype(dtype, self.output_dtype)?;
        Ok(lacuna_attend_plan { plan: AttendPlan::new(shape, &segments)?, dtype, output_dtype })
    }
}

/// The type of outputs, that of keys where none is asked for; where there are kernels for both.
pub(super) fn output_dtype(dtype: u32, asked: u32) -> Outcome<u32> {
    let output_dtype = if asked == 0 { dtype } else { asked };
    with_half!(dtype, "keys", T => Ok(size_of::<T>()))?;
    with_real!(output_dtype, "outputs", O => Ok(size_of::<O>()))?;
    Ok(output_dtype)
}

impl lacuna_segment {
    /// # Safety
    /// The memory is the caller's as the header's head says.
    unsafe fn of<'a, T: Half>(
        &self,
        shape: &SegmentShape,
        queue: &Queue,
    ) -> Outcome<Segment<'a, T>> {
        // SAFETY: the caller's word.
        unsafe {
            Ok(Segment {
                cache: self.cache.of(&shape.layout, queue)?,
                indices: self.indices.optional("indices", queue)?,
                counts: self.counts.optional("counts", queue)?,
                biases: self.biases.optional("biases", queue)?,
            })
        }
    }
}

impl lacuna_attend_args {
    /// # Safety
    /// The structs and the memory are the caller's as the header's head says.
    pub(super) unsafe fn segments<'a, T: Half>(
        &self,
        plan: &AttendPlan,
        queue: &Queue,
    ) -> Outcome<Vec<Segment<'a, T>>> {
        let (expected, got) = (plan.segments().len() as u64, self.n_segments);
        if expected != got {
            return Err(Error::Shape { what: "segments", expected, got }.into());
        }
        // SAFETY: the caller's structs.
        let segments = unsafe { read_array(self.segments, got) }?;
        // SAFETY: the caller's word.
        plan.segments()
            .zip(segments)
            .map(|(shape, each)| unsafe { each.of(shape, queue) })
            .collect()
    }

    /// # Safety
    /// As [`segments`](Self::segments).
    pub(super) unsafe fn inputs<'a, T: Half>(
        &self,
        segments: &'a [Segment<'a, T>],
        queue: &Queue,
    ) -> Outcome<AttendInputs<'a, T>> {
        // SAFETY: the caller's word.
        unsafe {
            Ok(AttendInputs {
                queries: self.queries.of("queries", queue)?,
                segments,
                sinks: self.sinks.optional("sinks", queue)?,
                skips: self.skips.optional("skips", queue)?,
            })
        }
    }

    /// # Safety
    /// As [`segments`](Self::segments).
    pub(super) unsafe fn outputs<'a, O: Real>(
        &self,
        queue: &Queue,
    ) -> Outcome<AttendOutputs<'a, O>> {
        // SAFETY: the caller's word.
        unsafe {
            Ok(AttendOutputs {
                outputs: self.outputs.of("outputs", queue)?,
                log_sums: self.log_sums.optional("log_sums", queue)?,
                workspace: self.workspace.of("workspace", queue)?,
            })
        }
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_SHAPE` where segments differ; `LACUNA_RANGE`, whose message says what is
/// supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_attend_plan_new(
    shape: *const lacuna_attend_shape,
    plan: *mut *mut lacuna_attend_plan,
) -> lacuna_status {
    // SAFETY: the caller's structs and variable.
    answer(|| unsafe { give("plan", plan, || read(shape)?.plan()) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_attend_plan_free(plan: *mut lacuna_attend_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_attend_plan_sizes(
    plan: *const lacuna_attend_plan,
    sizes: *mut lacuna_attend_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let plan = &borrow("plan", plan)?.plan;
        let found = lacuna_attend_sizes {
            header: lacuna_header::NONE,
            queries: plan.queries_len(),
            sinks: plan.shape().n_q_heads,
            skips: plan.shape().batch,
            outputs: plan.outputs_len(),
            log_sums: plan.log_sums_len(),
            workspace: plan.workspace_len(),
        };
        write(sizes, &found)
    })
}

/// How long the views of a segment must be, by its place in the shape.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE` for a segment that there is not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_attend_plan_segment_sizes(
    plan: *const lacuna_attend_plan,
    segment: u64,
    sizes: *mut lacuna_segment_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let mut segments = borrow("plan", plan)?.plan.segments();
        let found = usize::try_from(segment).ok().and_then(|idx| segments.nth(idx));
        let (what, allowed) = ("segment", "the segments of the plan");
        let shape = found.ok_or(Error::Range { what, value: segment, allowed })?;
        let found = lacuna_segment_sizes {
            header: lacuna_header::NONE,
            indices: shape.indices_len(),
            counts: shape.counts_len(),
            biases: shape.biases_len(),
        };
        write(sizes, &found)
    })
}

/// Attention of a request's queries over the rows of its segments: `sum of exp(logit) * value / sum of exp(logit)`, of the rows that a query
/// sees, with sinks in the denominator. Dense paged decoding is one segment of all tokens; a selection is sinks, blocks and a window.
/// `lacuna::attention::attend` says all of it.
///
/// One launch; lengths, page tables, lists and counts are read on the device, so that a captured graph serves requests that grow.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
/// `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_attend(
    queue: *const lacuna_queue,
    plan: *const lacuna_attend_plan,
    args: *const lacuna_attend_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, structs and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        with_half!(plan.dtype, "queries", T => {
            let segments = args.segments::<T>(&plan.plan, queue)?;
            let inputs = args.inputs(&segments, queue)?;
            with_real!(plan.output_dtype, "outputs", O => {
                let mut outputs = args.outputs::<O>(queue)?;
                Ok(crate::attention::attend(queue, &plan.plan, &inputs, &mut outputs)?)
            })
        })
    })
}
