//! The launch that copies pages.
#![allow(unsafe_code)]

use super::{CopyPlan, Pools, PoolsLayout};
use crate::bindings::AttentionCopyPagesParams;
use crate::buffer::{View, ViewMut};
use crate::element::Element;
use crate::launch::{Arguments, check_same, kernel_params};
use crate::queue::Queue;
use crate::region::Role;
use crate::{Error, Result};

kernel_params!(AttentionCopyPagesParams, "attention", "copy_pages");

/// Which pages [`copy_pages`] copies.
#[derive(Debug, Clone, Copy)]
pub struct CopyInputs<'a> {
    /// `[n_lists, n_pairs, 2]`: the number of the page that is read, then of the one that is written. A pair with
    /// a number of no page, -1 above all, is passed over.
    pub pairs: View<'a, i32>,
    /// `[n_lists]`: how many of each list's pairs count; else all.
    pub counts: Option<View<'a, u32>>,
}

/// What the sums of pages must be.
#[derive(Debug)]
pub struct CopyCheck<'a> {
    /// `[n_lists, n_pairs]`: what the sender's launch wrote.
    pub expected: View<'a, u64>,
    /// `[1]`: raised to `(2^32 - 1 - i) << 32 | 1` where pair `i` is the first whose page differs; never cleared. Of
    /// pairs that are passed over nothing is said.
    pub status: ViewMut<'a, u64>,
}

impl CopyCheck<'_> {
    /// The first pair whose page differs, as a status word tells it, which somebody has copied to the host; `None` where none does.
    pub fn first_difference(status: u64) -> Option<u32> {
        (status != 0).then_some(u32::MAX - (status >> 32) as u32)
    }
}

/// What [`copy_pages`] writes and checks besides pages; without both, nothing is summed.
#[derive(Debug, Default)]
pub struct CopyOutputs<'a> {
    /// `[n_lists, n_pairs]`: [the sum](super::reference::checksum) of each page as it was read; 0 of pairs that are
    /// passed over.
    pub checksums: Option<ViewMut<'a, u64>>,
    /// What they are compared with. The page is written all the same.
    pub check: Option<CopyCheck<'a>>,
    /// [`CopyPlan::workspace_len`] words where sums are asked for: zeroed once, and left ready by every launch.
    pub workspace: Option<ViewMut<'a, u64>>,
}

/// Copies pages of all pools, for each pair of page numbers: migration (after Llumnix, arXiv:2406.03243) packs
/// scattered pages of all layers into one buffer and unpacks them elsewhere; offloading copies to pinned memory, and
/// back what a selection misses (ShadowKV, arXiv:2410.21465; LeoAM, RetrievalAttention).
///
/// ```text
/// targets[pool][pairs[i][1]] = sources[pool][pairs[i][0]]
/// ```
///
/// # Shapes
/// Those of [`CopyInputs`], [`CopyOutputs`] and the plan, which is made of the layouts of both pools. A page is any
/// multiple of 4 bytes; 16 are moved at once where addresses, strides and length are multiples of that. Pairs and
/// counts are read on the device, so that a captured graph serves them.
///
/// # Numerics
/// Bytes as they are. Sums are integers: bit for bit [`reference::checksum`](super::reference::checksum).
///
/// # Stream
/// One launch. No allocation, copy or synchronisation. Where pairs name a target twice, its page has bytes of any
/// of those that do.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::WrongQueue`](crate::Error::WrongQueue) and
/// [`Error::WrongStream`](crate::Error::WrongStream) before anything is launched;
/// [`Error::Driver`](crate::Error::Driver) where the launch fails.
pub fn copy_pages<T: Element>(
    queue: &Queue,
    plan: &CopyPlan,
    sources: &Pools<'_, T>,
    targets: &mut Pools<'_, T>,
    inputs: &CopyInputs<'_>,
    outputs: &mut CopyOutputs<'_>,
) -> Result<()> {
    check_plan(plan, sources.layout(), targets.layout())?;
    let mut arguments = Arguments::new(queue);
    let tables = [sources.source(&mut arguments)?, targets.target(&mut arguments)?];
    launch(arguments, plan, tables, inputs, outputs)
}

/// The same within pools: a sequence's pages for another that goes its own way from there. Where one pair writes what
/// another reads, either may be first.
///
/// # Errors
/// Those of [`copy_pages`].
pub fn copy_pages_within<T: Element>(
    queue: &Queue,
    plan: &CopyPlan,
    pools: &mut Pools<'_, T>,
    inputs: &CopyInputs<'_>,
    outputs: &mut CopyOutputs<'_>,
) -> Result<()> {
    check_plan(plan, pools.layout(), pools.layout())?;
    let mut arguments = Arguments::new(queue);
    let table = pools.target(&mut arguments)?;
    launch(arguments, plan, [table; 2], inputs, outputs)
}

/// The plan is of these pools: its grid is, and the bounds of pages.
fn check_plan(plan: &CopyPlan, sources: &PoolsLayout, targets: &PoolsLayout) -> Result<()> {
    let own = CopyPlan::new(plan.n_lists(), plan.n_pairs(), sources, targets)?;
    let own = own.with_blocks(plan.most_blocks());
    if own == *plan {
        return Ok(());
    }
    Err(Error::Shape {
        what: "bytes that a plan of other pools moves",
        expected: own.least_bytes(0),
        got: plan.least_bytes(0),
    })
}

fn launch(
    mut arguments: Arguments<'_>,
    plan: &CopyPlan,
    [sources, targets]: [u64; 2],
    inputs: &CopyInputs<'_>,
    outputs: &mut CopyOutputs<'_>,
) -> Result<()> {
    let CopyOutputs { checksums, check, workspace } = outputs;
    let n_pairs = plan.n_all_pairs();
    let is_summed = checksums.is_some() || check.is_some();
    let n_words = workspace.as_ref().map_or(0, ViewMut::len);
    check_same("workspace", if is_summed { plan.workspace_len() } else { 0 }, n_words)?;
    let [n_source_pages, n_target_pages] = plan.n_pages();
    let params = AttentionCopyPagesParams {
        sources,
        targets,
        pairs: arguments.input("pairs", &inputs.pairs, plan.pairs_len())?,
        counts: arguments.optional_input("counts", inputs.counts.as_ref(), plan.n_lists())?,
        checksums: arguments.optional_written(
            Role::Output,
            "checksums",
            checksums.as_ref(),
            n_pairs,
        )?,
        expected: arguments.optional_input(
            "check.expected",
            check.as_ref().map(|check| &check.expected),
            n_pairs,
        )?,
        status: arguments.optional_written(
            Role::InOut,
            "check.status",
            check.as_ref().map(|check| &check.status),
            1,
        )?,
        sums: arguments.optional_written(
            Role::InOut,
            "workspace",
            workspace.as_ref(),
            plan.workspace_len(),
        )?,
        n_lists: plan.n_lists() as u32,
        n_pairs: plan.n_pairs() as u32,
        n_pools: plan.n_pools() as u32,
        n_chunks: plan.n_chunks() as u32,
        n_source_pages: n_source_pages as u32,
        n_target_pages: n_target_pages as u32,
        lane_bits: plan.lane_bits(),
        n_pair_tiles: plan.n_pair_tiles() as u32,
    };
    // SAFETY: the tables are of pools that are arguments too, which the plan's pages lie in; its sizes are below the
    // limits of the struct's fields.
    unsafe { arguments.launch(&plan.grid(), &params) }
}
