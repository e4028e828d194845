//! `summarize`.

use crate::capi::abi::{
    borrow, check_reserved, free, give, lacuna_header, or, read, structs, write,
};
use crate::capi::device::lacuna_queue;
use crate::capi::dtype::{with_cached, with_half};
use crate::capi::kv::{lacuna_kv, lacuna_kv_shape};
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::select::{SummarizeInputs, SummarizeOutputs, SummarizePlan, SummarizeShape, Summary};

/// What a row says of the keys that it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_summary {
    /// The least number of each channel, then the greatest (Quest, LeoAM): rows of twice the keys' elements.
    LACUNA_SUMMARY_BOX = 0,
    /// The mean of each channel.
    LACUNA_SUMMARY_MEAN = 1,
    /// The mean, and how far the keys point away from it (ShadowKV).
    LACUNA_SUMMARY_MEAN_AND_OUTLIER = 2,
    /// The box around boxes: a second level, whose keys are rows of `LACUNA_SUMMARY_BOX`.
    LACUNA_SUMMARY_BOX_OF_BOXES = 3,
}

/// Sizes of `lacuna_summarize`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_summarize_shape {
    pub header: lacuna_header,
    /// The keys; of boxes of boxes the boxes.
    pub keys: *const lacuna_kv_shape,
    /// The summaries: of the same requests and heads, `tokens_per_row` a multiple of that of the keys, and the keys' dtype; of fp8
    /// keys bf16 or f16.
    pub summaries: *const lacuna_kv_shape,
    /// The most new tokens of a request, for the size of the grid alone: more are summarised too, only not as fast. 0 is 1.
    pub max_new: u64,
    /// Of outliers, scores from head to head, at least the rows of a request; 0 is those.
    pub outlier_stride: u64,
    /// A `lacuna_summary`.
    pub summary: u32,
    /// 0.
    pub reserved: u32,
}

/// Elements of each view of `lacuna_summarize_args`, by the same names; of the keys, `lacuna_kv_shape_sizes`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_summarize_sizes {
    pub header: lacuna_header,
    pub summary_table: u64,
    pub first_new: u64,
    pub rows: u64,
    pub outliers: u64,
}

/// What `lacuna_summarize` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_summarize_args {
    pub header: lacuna_header,
    /// The keys, of boxes of boxes the boxes; values are not read.
    pub keys: lacuna_kv,
    /// i32 `[batch, table_stride]`: the page of each `page_size` summaries. Those of no page are left out.
    pub summary_table: lacuna_view,
    /// Optional, u32 `[batch]`: tokens that are summarised already; else 0, and all are summarised.
    pub first_new: lacuna_view,
    /// The pool of summaries, of their dtype, from a multiple of 16 bytes on. Rows without new tokens stay what they were.
    pub rows: lacuna_view_mut,
    /// Of means and outliers alone, f32 `[batch, n_heads, outlier_stride]`. Those of rows without new tokens stay what they were.
    pub outliers: lacuna_view_mut,
}

structs! {
    lacuna_summarize_shape: 48,
    lacuna_summarize_sizes: 40,
    lacuna_summarize_args: 208,
}

/// A plan of `lacuna_summarize`: for any device, and any number of launches at once.
pub struct lacuna_summarize_plan {
    plan: SummarizePlan,
    key_dtype: u32,
    dtype: u32,
}

impl lacuna_summarize_plan {
    /// # Safety
    /// The shape's structs are the caller's.
    unsafe fn new(shape: &lacuna_summarize_shape) -> Outcome<Self> {
        check_reserved("lacuna_summarize_shape", shape.reserved)?;
        // SAFETY: the caller's word.
        let (keys, summaries) = unsafe { (read(shape.keys)?, read(shape.summaries)?) };
        let (key_dtype, dtype) = (keys.dtype, summaries.dtype);
        with_half!(dtype, "summaries", S => Ok(size_of::<S>()))?;
        let summary = match shape.summary {
            0 => Summary::Box,
            1 => Summary::Mean,
            2 => Summary::MeanAndOutlier,
            3 => Summary::BoxOfBoxes,
            summary => return Err(Failure::number("summary", summary, "lacuna_summary")),
        };
        let summaries = summaries.layout()?;
        let plan = SummarizePlan::new(SummarizeShape {
            keys: keys.layout()?,
            summaries,
            summary,
            max_new: or(shape.max_new, 1),
            key_bytes: with_cached!(key_dtype, "keys", K => Ok(size_of::<K>() as u32))?,
            outlier_stride: or(shape.outlier_stride, summaries.n_rows()),
        })?;
        Ok(Self { plan, key_dtype, dtype })
    }

    fn sizes(&self) -> lacuna_summarize_sizes {
        let (plan, shape) = (&self.plan, self.plan.shape());
        lacuna_summarize_sizes {
            header: lacuna_header::NONE,
            summary_table: shape.summaries.table_len(),
            first_new: shape.keys.shape().batch,
            rows: shape.summaries.pool_len(),
            outliers: plan.outliers_len(),
        }
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_summarize_plan_new(
    shape: *const lacuna_summarize_shape,
    plan: *mut *mut lacuna_summarize_plan,
) -> lacuna_status {
    // SAFETY: the caller's structs and variable.
    answer(|| unsafe { give("plan", plan, || lacuna_summarize_plan::new(&read(shape)?)) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_summarize_plan_free(plan: *mut lacuna_summarize_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_summarize_plan_sizes(
    plan: *const lacuna_summarize_plan,
    sizes: *mut lacuna_summarize_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe { write(sizes, &borrow("plan", plan)?.sizes()) })
}

/// Makes and keeps up to date the rows that stand for several keys each, so that a query scores those in place of all keys.
/// `lacuna::select::summarize` says all of it. Summaries are rows of a paged cache themselves: with their shape, their page table and the keys' lengths
/// every function takes them as it takes keys.
///
/// One launch; lengths, page tables and `first_new` are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
/// `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_summarize(
    queue: *const lacuna_queue,
    plan: *const lacuna_summarize_plan,
    args: *const lacuna_summarize_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        with_cached!(plan.key_dtype, "keys", K => {
            let inputs = SummarizeInputs::<K> {
                keys: args.keys.of(&plan.plan.shape().keys, queue)?,
                summary_table: args.summary_table.of("summary_table", queue)?,
                first_new: args.first_new.optional("first_new", queue)?,
            };
            with_half!(plan.dtype, "summaries", S => {
                let mut outputs = SummarizeOutputs::<S> {
                    rows: args.rows.of("rows", queue)?,
                    outliers: args.outliers.optional("outliers", queue)?,
                };
                Ok(crate::select::summarize(queue, &plan.plan, &inputs, &mut outputs)?)
            })
        })
    })
}
