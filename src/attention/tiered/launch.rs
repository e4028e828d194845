//! The launch that attends over tiered pages.
#![allow(unsafe_code)]

use super::TieredPlan;
use crate::Result;
use crate::attention::attend::params;
use crate::attention::{AttendInputs, AttendOutputs};
use crate::bindings::{AttentionTieredParams, AttentionTiers};
use crate::buffer::{View, ViewMut};
use crate::element::{Half, Real};
use crate::launch::{Arguments, kernel_params};
use crate::quant::{ChannelViews, TierPools};
use crate::queue::Queue;
use crate::region::Role;

/// The same struct for each kernel: of heads of so many elements, and so many rows of a head's queries.
macro_rules! kernels {
    ($($name:ident, $entry:literal;)*) => {$(
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        struct $name(#[allow(dead_code, reason = "the kernel reads it")] AttentionTieredParams);

        kernel_params!($name, "attention", $entry);
    )*};
}

kernels! {
    Of64x4, "attend_tiered_64x4";
    Of64x8, "attend_tiered_64x8";
    Of128x4, "attend_tiered_128x4";
    Of128x8, "attend_tiered_128x8";
    Of256x4, "attend_tiered_256x4";
    Of256x8, "attend_tiered_256x8";
}

/// The pages that [`attend_tiered`] reads.
#[derive(Debug)]
pub struct TieredInputs<'a> {
    /// The tiers' pools, and the status word, which alone of all this is written.
    pub pools: TierPools<'a>,
    /// `[batch, n_heads, n_pages]`: the page of keys of each 64 tokens, `tier.tag() << 30 | number`; number
    /// [`MissingPage::NONE`](crate::quant::MissingPage::NONE) is of none.
    pub key_entries: View<'a, u32>,
    /// The same of values. Where either is of no page, its 64 tokens are absent; one past its pool is that too, and raises the status of `pools`.
    pub value_entries: View<'a, u32>,
    /// `[batch, n_lists]`: how many slots of each list's pages hold tokens, from the first on; else all.
    pub counts: Option<View<'a, u32>>,
    /// What keys are relative to, of each span.
    pub key_channels: ChannelViews<'a>,
    /// The same of values.
    pub value_channels: ChannelViews<'a>,
}

/// As [`attend`](crate::attention::attend), over tokens of which those that matter less have fewer bits: first all tokens of tiered pages
/// ([`quant`](crate::quant): 16, 8, 4 and 2 bits, a tier of keys and one of values for each 64 tokens), then the rows of segments,
/// in one launch. Codes are multiplied as they lie in pages, by integer tensor cores (after the proposals of ZipCache, arXiv:2405.14256, and
/// KIVI, arXiv:2402.02750, which expand them first).
///
/// All queries see all tokens of pages; what may be masked (the newest tokens, and what waits to be quantized) is in segments, of which there is at
/// least one, if of no rows.
///
/// # Shapes
/// Those of [`AttendInputs`], [`TieredInputs`] and [`AttendOutputs`]; sizes are the plan's, whose [`attend`](TieredPlan::attend) says what the workspace
/// is. `logits` are `[batch, n_queries, n_q_heads, n_positions]`: what each weight is 2 to the power of, before all are divided by their sum; -inf
/// of what is absent or not seen. Entries, counts and channels are read on the device, so that a captured graph serves them.
///
/// # Numerics
/// Bit for bit [`reference::TieredAttended`](crate::attention::reference::TieredAttended), with the model of the device's tensor cores. Of codes: a query times
/// its span's scales is rounded to 15 bits, sign included, of a power of two above its greatest, and so are the weights of a page's values times their steps; products with
/// codes are then exact, and offsets, steps and zero points are applied to sums, in f32. What that rounding costs is below what 8 bits of keys and values
/// cost (the tables in `xtask/accuracy.md`). Of 16 bits, as `attend`. Bits depend on how many pages and positions a row has and on their order, and neither on the batch,
/// on where pages are, nor on the device's size. Codes of any bytes have products; NaN or infinite steps, minimums, scales or offsets make NaN of
/// outputs of the queries that see them.
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// Those of [`attend`](crate::attention::attend).
pub fn attend_tiered<T: Half, O: Real>(
    queue: &Queue,
    plan: &TieredPlan,
    inputs: &AttendInputs<'_, T>,
    pages: &mut TieredInputs<'_>,
    outputs: &mut AttendOutputs<'_, O>,
    logits: Option<&mut ViewMut<'_, f32>>,
) -> Result<()> {
    let mut arguments = Arguments::new(queue);
    let attend = params(plan.attend(), inputs, outputs, &mut arguments)?;
    let shape = plan.pages().shape();
    let n_entries = plan.pages().entries_len();
    let role = if inputs.skips.is_some() { Role::InOut } else { Role::Output };
    let params = AttentionTieredParams {
        attend,
        tiers: AttentionTiers {
            pools: pages.pools.params(plan.pages(), &mut arguments)?,
            channels: [
                pages.key_channels.params(plan.pages(), &mut arguments)?,
                pages.value_channels.params(plan.pages(), &mut arguments)?,
            ],
            entries: [
                arguments.input("key_entries", &pages.key_entries, n_entries)?,
                arguments.input("value_entries", &pages.value_entries, n_entries)?,
            ],
            counts: arguments.optional_input(
                "counts of pages",
                pages.counts.as_ref(),
                plan.pages().n_lists(),
            )?,
            logits: arguments.optional_written(
                role,
                "logits",
                logits.as_deref(),
                plan.logits_len(),
            )?,
            n_positions: plan.n_positions(),
            n_pages: shape.n_pages as u32,
            n_lists: shape.lists.per_request(&shape.layout) as u32,
            span_pages: shape.span_pages as u32,
            n_spans: plan.pages().n_spans() as u32,
            n_stages: plan.n_stages() as u32,
            reserved: 0,
        },
    };
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe {
        match (plan.attend().shape().head_dim, plan.rows()) {
            (64, 4) => arguments.launch(&plan.grid(), &Of64x4(params)),
            (64, _) => arguments.launch(&plan.grid(), &Of64x8(params)),
            (128, 4) => arguments.launch(&plan.grid(), &Of128x4(params)),
            (128, _) => arguments.launch(&plan.grid(), &Of128x8(params)),
            (_, 4) => arguments.launch(&plan.grid(), &Of256x4(params)),
            _ => arguments.launch(&plan.grid(), &Of256x8(params)),
        }
    }
}
