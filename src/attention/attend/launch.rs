//! The launch that attends.
#![allow(unsafe_code)]

use super::AttendPlan;
use super::plan::{SegmentShape, Tokens};
use crate::Result;
use crate::attention::Mask;
use crate::bindings::{AttentionAttendParams, AttentionSegment};
use crate::buffer::{View, ViewMut};
use crate::element::{Half, Real};
use crate::kv::KvView;
use crate::launch::{Arguments, check_aligned, check_same, kernel_params};
use crate::queue::Queue;
use crate::region::Role;

kernel_params!(AttentionAttendParams, "attention", "attend_128");

/// The same struct for the other kernel.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct OfLongHeads(#[allow(dead_code, reason = "the kernel reads it")] AttentionAttendParams);

kernel_params!(OfLongHeads, "attention", "attend_256");

/// What [`attend`] reads.
#[derive(Debug, Clone, Copy)]
pub struct AttendInputs<'a, T> {
    /// `[batch, n_queries, n_q_heads, head_dim]`, queries `query_stride` elements apart, from a multiple of 16 bytes on.
    pub queries: View<'a, T>,
    /// As many as the plan has, in its order: their rows stand one after the other.
    pub segments: &'a [Segment<'a, T>],
    /// `[n_q_heads]`: a logit that each softmax has besides, of no value (attention sinks of GPT-OSS). Of parts that are
    /// merged later, one alone may have it.
    pub sinks: Option<View<'a, f32>>,
    /// `[batch]`: requests where it is not 0 are left alone, their outputs too.
    pub skips: Option<View<'a, u32>>,
}

/// Rows of a paged cache that queries attend to.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a, T> {
    /// The cache, with values; of scales of 1.
    pub cache: KvView<'a, T>,
    /// Of blocks: `[batch, n_lists, n_blocks]` numbers, of which those that name no row are passed over, and one that is
    /// there twice counts twice; of a range none.
    pub indices: Option<View<'a, i32>>,
    /// `[batch, n_lists]`: how many of each list's numbers count; else all.
    pub counts: Option<View<'a, u32>>,
    /// What is added to logits, in units of the base e: `[batch, n_lists, n_blocks]` of each block, or of a range
    /// `[batch, n_lists, n_rows]` of each row by its number ([`KvLayout::n_rows`](crate::kv::KvLayout::n_rows)).
    pub biases: Option<View<'a, f32>>,
}

impl<'a, T> Segment<'a, T> {
    /// A range, or blocks whose numbers all count, without biases.
    pub fn new(cache: KvView<'a, T>, indices: Option<View<'a, i32>>) -> Self {
        Self { cache, indices, counts: None, biases: None }
    }
}

/// What [`attend`] writes.
#[derive(Debug)]
pub struct AttendOutputs<'a, O> {
    /// `[batch, n_queries, n_q_heads, head_dim]`, queries `output_stride` elements apart, from a multiple of 16 bytes on.
    pub outputs: ViewMut<'a, O>,
    /// `[batch * n_queries, n_q_heads]`, or in the shape's [`LogSumOrder`](crate::attention::LogSumOrder): the logarithm of the sum of
    /// `exp(logit)`, sinks among them.
    pub log_sums: Option<ViewMut<'a, f32>>,
    /// [`AttendPlan::workspace_len`] words, from a multiple of 16 bytes on, zeros before the first launch; every launch leaves it ready for the same plan, and for
    /// no other.
    pub workspace: ViewMut<'a, u32>,
}

/// Attention of a request's queries over the rows of its segments.
///
/// ```text
/// logit[j]  = cap(query · key[j] * scale) + bias[j]             of the rows j of all segments that the query sees
/// output    = sum of exp(logit[j]) * value[j] / sum of exp(logit[j])
/// log_sum   = log(sum of exp(logit[j]) + exp(sink))
/// ```
/// with `exp(sink)` in both denominators, where there are sinks. Dense paged decoding is one segment of
/// [`Tokens::ALL`]; a selection is sinks, blocks and a window; RetroInfer's estimation zone is a segment of mean values with biases
/// `ln(size)`.
///
/// # Shapes
/// Those of [`AttendInputs`] and [`AttendOutputs`]; sizes are the plan's. Lengths, page tables, lists and counts are read on the
/// device, so that a captured graph serves requests that grow. Query head `q` reads head `q / group`.
///
/// # Numerics
/// Bit for bit [`reference::Attended`](crate::attention::reference::Attended), with the [`mma::Model`](crate::mma::Model) of the
/// device's tensor cores: products of 16 positions at a time, weights rounded to `T` for both sums of an output, which are in f32 and relative
/// to an integer power of two. A row's positions are split by their number alone, so that bits depend neither on the batch, on pages, on which segment a
/// row is of, nor on the device's size. Where nothing is seen, outputs are 0 and the log-sum is -inf. Logits beyond 2^22 (to base 2) count as
/// that, but one that is -inf in f32, by overflow too, as nothing. NaN logits make NaN of a query's outputs; values that are infinite or NaN make outputs that
/// are, even where the query's weight for them is 0. Log-sums are of the weights before they are rounded, and off
/// by no more than logits are, which are f32: within 2^-20, and 2^-22 of their size, in all tests, of up to a million rows.
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
pub fn attend<T: Half, O: Real>(
    queue: &Queue,
    plan: &AttendPlan,
    inputs: &AttendInputs<'_, T>,
    outputs: &mut AttendOutputs<'_, O>,
) -> Result<()> {
    let mut arguments = Arguments::new(queue);
    let params = params(plan, inputs, outputs, &mut arguments)?;
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe {
        if plan.shape().head_dim <= 128 {
            arguments.launch(&plan.grid(), &params)
        } else {
            arguments.launch(&plan.grid(), &OfLongHeads(params))
        }
    }
}

/// Checks the views of a launch, and returns what its kernel takes.
pub(crate) fn params<T: Half, O: Real>(
    plan: &AttendPlan,
    inputs: &AttendInputs<'_, T>,
    outputs: &mut AttendOutputs<'_, O>,
    arguments: &mut Arguments<'_>,
) -> Result<AttentionAttendParams> {
    let shape = plan.shape();
    check_same("segments", plan.segments().len() as u64, inputs.segments.len())?;
    let mut each = plan.segments().zip(inputs.segments);
    let (first_shape, first) = each.next().expect("a plan has segments");
    // No kernel looks at more than there are.
    let mut segments = [first.params(first_shape, arguments)?; 4];
    for (params, (shape, segment)) in segments[1..].iter_mut().zip(each) {
        *params = segment.params(shape, arguments)?;
    }
    let AttendOutputs { outputs, log_sums, workspace } = outputs;
    for (what, address) in [
        ("address of queries", inputs.queries.address()),
        ("address of outputs", outputs.address()),
        ("address of the workspace", workspace.address()),
    ] {
        check_aligned(what, address, 16, "the multiples of 16")?;
    }
    // A skipped request's outputs stay what they were, as what is between them.
    let is_whole =
        inputs.skips.is_none() && shape.output_stride == shape.n_q_heads * shape.head_dim;
    let [role, role_of_sums] =
        [is_whole, inputs.skips.is_none()].map(|all| if all { Role::Output } else { Role::InOut });
    arguments.check_workspace(workspace, plan.workspace_len())?;
    let n_tickets = plan.n_tickets();
    let tickets = workspace.slice_mut(0..n_tickets as usize)?;
    let tickets = arguments.written(Role::InOut, "tickets", &tickets, n_tickets)?;
    let partials = workspace.slice_mut(n_tickets as usize..workspace.len())?;
    let n_words = plan.workspace_len() - n_tickets;
    Ok(AttentionAttendParams {
        segments,
        queries: arguments.input("queries", &inputs.queries, plan.queries_len())?,
        sinks: arguments.optional_input("sinks", inputs.sinks.as_ref(), shape.n_q_heads)?,
        skips: arguments.optional_input("skips", inputs.skips.as_ref(), shape.batch)?,
        outputs: arguments.written(role, "outputs", outputs, plan.outputs_len())?,
        log_sums: arguments.optional_written(
            role_of_sums,
            "log_sums",
            log_sums.as_ref(),
            plan.log_sums_len(),
        )?,
        partials: arguments.written(Role::Workspace, "partial sums", &partials, n_words)?,
        tickets,
        query_stride: shape.query_stride,
        output_stride: shape.output_stride,
        log_sum_strides: shape.log_sum_order.strides([
            plan.n_tokens(),
            shape.n_queries,
            shape.n_q_heads,
        ]),
        logits: shape.logits.params::<T, O>(),
        n_segments: plan.segments().len() as u32,
        n_queries: shape.n_queries as u32,
        n_heads: plan.n_heads() as u32,
        group: plan.group() as u32,
        head_dim: shape.head_dim as u32,
        n_tiles: plan.n_tiles() as u32,
        n_splits: plan.n_splits() as u32,
        n_sets: plan.n_sets() as u32,
    })
}

impl<T: Half> Segment<'_, T> {
    fn params(
        &self,
        shape: &SegmentShape,
        arguments: &mut Arguments<'_>,
    ) -> Result<AttentionSegment> {
        let cache = &self.cache;
        cache.check_planned(&shape.layout)?;
        let (n_biases, range, n_indices, block_size) = match shape.tokens {
            Tokens::Range { first, end, last } => {
                check_same("indices of a range", 0, self.indices.iter().len())?;
                check_same("counts of a range", 0, self.counts.iter().len())?;
                let limit = |n: u64| n.min(u32::MAX.into()) as u32;
                (shape.layout.n_rows(), [first, end, last].map(limit), 0, 1)
            }
            Tokens::Blocks { n_blocks, block_size } => {
                check_same("indices of blocks", 1, self.indices.iter().len())?;
                (n_blocks, [0; 3], n_blocks, block_size)
            }
        };
        let [first_row, end_row, n_last] = range;
        let indices =
            arguments.optional_input("indices", self.indices.as_ref(), shape.indices_len())?;
        Ok(AttentionSegment {
            kv: cache.params(arguments)?,
            indices,
            counts: arguments.optional_input("counts", self.counts.as_ref(), shape.counts_len())?,
            biases: arguments.optional_input("biases", self.biases.as_ref(), shape.biases_len())?,
            bias_stride: n_biases,
            n_indices: n_indices as u32,
            block_size: block_size as u32,
            n_lists: shape.lists.per_request(&shape.layout) as u32,
            first_row,
            end_row,
            n_last,
            is_causal: u32::from(shape.mask != Mask::None),
            window: shape.mask.window() as u32,
        })
    }
}
