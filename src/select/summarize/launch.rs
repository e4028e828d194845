//! The launch that summarises keys.
#![allow(unsafe_code)]

use super::SummarizePlan;
use crate::bindings::{LacunaKvView, SelectSummarizeParams};
use crate::buffer::{View, ViewMut};
use crate::element::Float;
use crate::kv::KvView;
use crate::launch::{Arguments, check_aligned, check_same, kernel_params};
use crate::queue::Queue;
use crate::region::Role;
use crate::select::Score;
use crate::{Error, Result};

kernel_params!(SelectSummarizeParams, "select", "summarize");

/// What [`summarize`] reads.
#[derive(Debug, Clone, Copy)]
pub struct SummarizeInputs<'a, K> {
    /// The keys, in the plan's layout; of [`BoxOfBoxes`](super::Summary::BoxOfBoxes) the boxes. Its `lengths` are those of the summaries.
    pub keys: KvView<'a, K>,
    /// `[batch, table_stride]`: the page of each `page_size` summaries. Those of no page are left out.
    pub summary_table: View<'a, i32>,
    /// `[batch]`: tokens that are summarised already; else 0, and all are summarised.
    pub first_new: Option<View<'a, u32>>,
}

/// What [`summarize`] writes, in place.
#[derive(Debug)]
pub struct SummarizeOutputs<'a, S> {
    /// The pool of summaries, [`pool_len`](crate::kv::KvLayout::pool_len) elements from a multiple of 16 bytes on.
    pub rows: ViewMut<'a, S>,
    /// `[batch, n_heads, outlier_stride]`, of [`MeanAndOutlier`](super::Summary::MeanAndOutlier) and none else. Those of rows
    /// without new tokens stay what they were.
    pub outliers: Option<ViewMut<'a, f32>>,
}

/// Makes and keeps up to date the rows that stand for several keys each, so that a query scores those in place of all
/// keys.
///
/// ```text
/// row t of request b, head h, of keys k in tokens t * tokens_per_row .. min((t + 1) * tokens_per_row, lengths[b])
///     Box             least k[c] of each channel, then greatest k[c]
///     Mean            (Σ k[c]) * (1 / n)
///     MeanAndOutlier  the same, and outliers[b, h, t] = - least cos(mean, k)
///     BoxOfBoxes      least of the boxes' least, greatest of their greatest
/// for the t with tokens in first_new[b] .. lengths[b]
/// ```
///
/// Each of these rows is made anew from all its keys, so that tokens appended one at a time and all at once leave the
/// same bits. Tokens that were taken back (a draft that was refused) are summarised again where `first_new` is the
/// last length that still holds, or the next multiple of `tokens_per_row` below it where none is appended.
///
/// Summaries are rows of a paged cache themselves: with [`KvView::layout`] that of the plan's summaries, `keys` the pool,
/// `page_table` theirs and `lengths` those of the keys, every kernel takes them as it takes keys. With the keys' page
/// table and number of pages, and `page_size / tokens_per_row` rows a page, they live and die with the pages of keys.
/// What two requests share, one of them may write in a launch: `first_new` of the others is past it.
///
/// Research asks for chunks that merge and split (LeoAM); what is here is two levels over fixed chunks, the second by
/// [`BoxOfBoxes`](super::Summary::BoxOfBoxes) after the first.
///
/// # Shapes
/// Those of [`SummarizeInputs`] and [`SummarizeOutputs`]; sizes are the plan's. Lengths and `first_new` are read on the
/// device. Tokens on pages that are none are left out. A summary on a page that is none is not written, and its
/// outlier score is -infinity.
///
/// # Numerics
/// Bit for bit [`box_of`](crate::select::reference::box_of) and its neighbours.
/// - Boxes have no arithmetic. They are finite, so that no product with a query's zero is NaN: an infinite key counts as
///   the greatest finite number of its sign, and NaN as both. So a box bounds the product of a query and any finite key
///   of its chunk, and a NaN loses no chunk. Of zeros, -0 is the less.
/// - Means are f32 sums in the order of the tokens, times the rounded `1 / n`, rounded to the nearest. NaN and infinities
///   go their way.
/// - Cosines are of the rounded mean, by [`dot`](crate::number::dot), roots, their product and the quotient rounded
///   once each. 0 where the mean or the key is zero. A key that is no number, or whose square is none, makes the score
///   +infinity, so that the chunk is kept.
/// - A chunk without any key is NaN (0x7FFF) in all channels, whatever a query makes of it, and comes last among scores;
///   boxes of boxes leave it out. Its outlier score is -infinity.
/// - Summaries have the keys' type, and those of fp8 are bf16 or f16, where boxes are exact (e4m3 has no infinity, and no
///   way to be rounded outwards). Of fp8 they are of the codes: the scale of the keys is the scale of the summaries.
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`], [`Error::Range`], [`Error::WrongQueue`] and [`Error::WrongStream`] before anything
/// is launched; [`Error::Driver`] where the launch fails.
pub fn summarize<K: Float, S: Score>(
    queue: &Queue,
    plan: &SummarizePlan,
    inputs: &SummarizeInputs<'_, K>,
    outputs: &mut SummarizeOutputs<'_, S>,
) -> Result<()> {
    let shape = plan.shape();
    check_same("bytes of an element", shape.key_bytes.into(), size_of::<K>())?;
    let is_same = S::NUMBER == K::NUMBER;
    if size_of::<S>() != 2 || !(is_same || size_of::<K>() == 1) {
        let allowed = "the keys' type, of fp8 keys bf16 and f16";
        let value = S::NUMBER.into();
        return Err(Error::Range { what: "element type of summaries", value, allowed });
    }
    inputs.keys.check_layout(&shape.keys)?;
    let SummarizeOutputs { rows, outliers } = outputs;
    check_aligned("address of rows", rows.address(), 16, "the multiples of 16")?;
    let batch = shape.keys.shape().batch;
    let outliers_len = outliers.as_ref().map_or(0, ViewMut::len);
    check_same("outliers", plan.outliers_len(), outliers_len)?;
    let mut arguments = Arguments::new(queue);
    let keys = KvView { values: None, ..inputs.keys }.params(&mut arguments)?;
    let table_len = shape.summaries.table_len();
    let params = SelectSummarizeParams {
        keys,
        summaries: LacunaKvView {
            page_table: arguments.input("summary_table", &inputs.summary_table, table_len)?,
            lengths: keys.lengths,
            ..shape.summaries.params::<S>()
        },
        rows: arguments.written(Role::InOut, "rows", rows, shape.summaries.pool_len())?,
        first_new: arguments.optional_input("first_new", inputs.first_new.as_ref(), batch)?,
        outliers: arguments.optional_written(
            Role::InOut,
            "outliers",
            outliers.as_ref(),
            plan.outliers_len(),
        )?,
        outlier_stride: shape.outlier_stride,
        mode: shape.summary.number(),
        n_staged: plan.n_staged(),
    };
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&plan.grid(), &params) }
}
