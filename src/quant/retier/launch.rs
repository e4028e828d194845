//! The launch that gathers tokens into new pages.
#![allow(unsafe_code)]

use super::RetierPlan;
use crate::Result;
use crate::bindings::QuantRetierParams;
use crate::buffer::{View, ViewMut};
use crate::element::Half;
use crate::kv::KvView;
use crate::launch::{Arguments, kernel_params};
use crate::quant::{ChannelViews, TierPoolsMut};
use crate::queue::Queue;
use crate::region::Role;

kernel_params!(QuantRetierParams, "quant", "retier_pages");

/// Which tokens stand in which pages, and where they are.
#[derive(Debug, Clone, Copy)]
pub struct RetierInputs<'a, T> {
    /// Where tokens that are in no page wait, by their positions; without it there are none of those.
    pub cache: Option<KvView<'a, T>>,
    /// `[batch, n_heads, n_positions]`: where a token is, `64 * page + token` of the old tables; negative where it waits. One past the
    /// tables, or in an entry of no page, is nowhere.
    pub slot_of: View<'a, i32>,
    /// `[batch, n_heads, n_old_pages]`: `tier.tag() << 30 | number` of each old page of keys.
    pub old_key_entries: View<'a, u32>,
    /// The same of values.
    pub old_value_entries: View<'a, u32>,
    /// `[batch, n_lists, n_runs, n_pages, 64]`, of a request one list or one for each head: positions of tokens, in the order in which they shall stand; ascending, a page's bytes do
    /// not depend on where tokens were. One of no token, as -1, is a slot of nothing.
    pub indices: View<'a, i32>,
    /// `[batch, n_lists, n_runs]`: how many of each run's indices count; else all.
    pub counts: Option<View<'a, u32>>,
    /// The same: where in the new tables a run's first page is; else `n_pages` times the run's number. No two runs may have a page in
    /// common, and what lies past a table is left out.
    pub first_pages: Option<View<'a, u32>>,
    /// `[batch, n_heads, n_new_pages]`: the page of keys of each 64 tokens. One of no page is passed over; of one past its pool, here or among old
    /// ones that a token is looked for in, the pools' status is raised too. No page may stand there
    /// twice, and none that is an old one may be made: which of its bytes stay is not said.
    pub key_entries: View<'a, u32>,
    /// The same of values, which may be of other tiers.
    pub value_entries: View<'a, u32>,
    /// Of keys, old and new: `[batch, n_heads, head_dim]`.
    pub key_channels: ChannelViews<'a>,
    /// Of values.
    pub value_channels: ChannelViews<'a>,
}

/// What [`retier_pages`] writes.
#[derive(Debug)]
pub struct RetierOutputs<'a> {
    /// Old pages and new ones.
    pub pools: TierPoolsMut<'a>,
    /// `[batch, n_heads, n_positions]`: where each token that a list names is in the new tables, also in an entry of no page. Others'
    /// are left alone.
    pub new_slots: ViewMut<'a, i32>,
}

/// Gathers tokens into new pages of any tiers, from pages of any tiers and from the cache in which they wait: what makes 8 bits 4 and 4
/// bits 2 as tokens matter less (after ZipCache, arXiv:2405.14256, whose decisions are never revisited), and closes the gaps that
/// they leave.
///
/// Old pages stay what they are, so that others may share them; the caller frees them.
///
/// # Shapes
/// Those of [`RetierInputs`] and [`RetierOutputs`]; sizes are the plan's. Lists, slots, entries and lengths are read on the device, so that a
/// captured graph serves them.
///
/// A head's table has pages of all tiers. Three ways make one, and their bits are the same:
/// - *one launch, a run for each tier*: masks `[batch, n_heads, n_tiers, n_positions]`, compacted
///   ([`compact_rows`](crate::select::compact_rows), rows of `64 * n_pages` indices), are the lists as they lie there, and its counts are `counts`.
///   Without `first_pages` run `t` has the pages from `t * n_pages` on, and those that it does not fill have entries of no page; with
///   them there are no gaps.
/// - *one launch, one run*: a list in which a tier's tokens begin at a multiple of 64.
/// - *a launch for each tier*, each with its list and its `first_pages`, into the same `new_slots`.
///
/// Of a table only a part may be new: pages whose tokens all stay keep their entries and their places, and lists begin after them. For tokens
/// that were left out `new_slots` holds what it held: two buffers that change places say where all are if no token is dropped; else the new one
/// is filled with -1 before.
///
/// ```
/// use half::bf16;
/// use lacuna::kv::{KvLayout, KvShape};
/// use lacuna::quant::{
///     ChannelViews, PagesShape, RetierInputs, RetierOutputs, RetierPlan, RetierShape, Tier, TierPoolsMut,
///     retier_pages,
/// };
/// use lacuna::simt::Config;
/// use lacuna::{Buffer, Queue};
///
/// let queue = Queue::simt(Config::default());
/// // One head of 32 channels: 256 tokens in four pages of 4 bits, of which every other goes to 2 bits.
/// let shape = KvShape {
///     batch: 1, n_heads: 1, row_len: 32, n_pages: 16, page_size: 16, table_stride: 16,
///     ..KvShape::default()
/// };
/// let n_pool_pages = [0, 0, 12, 4];
/// let pages = PagesShape { n_pool_pages, ..PagesShape::of(KvLayout::new(shape.hnd())?, 2) };
/// let plan = RetierPlan::new(RetierShape {
///     n_runs: 2, n_old_pages: 4, n_new_pages: 4, ..RetierShape::of(pages)
/// })?;
/// let pools = [Tier::T4, Tier::T2].map(|tier| plan.pages().pool_bytes(tier) as usize);
/// let mut pools = [queue.upload(&vec![0_u8; pools[0]])?, queue.upload(&vec![0; pools[1]])?];
/// let entry = |tier: Tier, number: u32| tier.tag() << 30 | number;
/// let old: [Buffer<u32>; 2] = [
///     queue.upload(&[0, 1, 2, 3].map(|page| entry(Tier::T4, page)))?,
///     queue.upload(&[4, 5, 6, 7].map(|page| entry(Tier::T4, page)))?,
/// ];
/// let new = [[(Tier::T4, 8), (Tier::T4, 9), (Tier::T2, 0), (Tier::T2, 1)],
///            [(Tier::T4, 10), (Tier::T4, 11), (Tier::T2, 2), (Tier::T2, 3)]];
/// let new = new.map(|entries| entries.map(|(tier, page)| entry(tier, page)));
/// let new = [queue.upload(&new[0])?, queue.upload(&new[1])?];
/// // Even positions stay, and then odd ones go.
/// let indices: Vec<i32> = (0..256).step_by(2).chain((1..256).step_by(2)).collect();
/// let indices = queue.upload(&indices)?;
/// let slot_of = queue.upload(&(0..256).collect::<Vec<i32>>())?;
/// let mut new_slots = queue.upload(&[-1_i32; 256])?;
/// let inputs = RetierInputs::<bf16> {
///     cache: None,
///     slot_of: slot_of.view(),
///     old_key_entries: old[0].view(),
///     old_value_entries: old[1].view(),
///     indices: indices.view(),
///     counts: None,
///     first_pages: None,
///     key_entries: new[0].view(),
///     value_entries: new[1].view(),
///     key_channels: ChannelViews::default(),
///     value_channels: ChannelViews::default(),
/// };
/// let [of_4, of_2] = &mut pools;
/// let pools = [None, None, Some(of_4.view_mut()), Some(of_2.view_mut())];
/// let pools = TierPoolsMut { pools, status: None };
/// let mut outputs = RetierOutputs { pools, new_slots: new_slots.view_mut() };
/// retier_pages(&queue, &plan, &inputs, &mut outputs)?;
/// // The third token is the second of page 0; the second is the first of page 2.
/// assert_eq!(queue.download(&new_slots.view())?[1..3], [128, 1]);
/// # Ok::<_, lacuna::Error>(())
/// ```
///
/// # Numerics
/// Bit for bit [`reference::retier_page`](crate::quant::reference::retier_page) of each page's tokens. One that stays in its tier keeps its bits.
/// From codes to codes it is [`quantize`](crate::quant::reference::quantize) of `s * (q - z / 16)`: channels are not applied and taken away again. From
/// numbers, those of 16 bits and those that wait, it is what [`quantize_pages`](crate::quant::quantize_pages) makes; to 16 bits
/// `fma(s * (q - z / 16), c, o)`, rounded to `T`. Slots of nothing, and tokens that are nowhere, become zeros. A page of whose indices none counts
/// is not written.
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Range`](crate::Error::Range), [`Error::Number`](crate::Error::Number),
/// [`Error::WrongQueue`](crate::Error::WrongQueue) and [`Error::WrongStream`](crate::Error::WrongStream) before anything is launched;
/// [`Error::Driver`](crate::Error::Driver) where the launch fails.
pub fn retier_pages<T: Half>(
    queue: &Queue,
    plan: &RetierPlan,
    inputs: &RetierInputs<'_, T>,
    outputs: &mut RetierOutputs<'_>,
) -> Result<()> {
    let (shape, pages) = (plan.shape(), plan.pages());
    let layout = shape.pages.layout;
    let mut arguments = Arguments::new(queue);
    let pools = outputs.pools.params(pages, &mut arguments)?;
    let kv = match &inputs.cache {
        None => layout.params::<T>(),
        Some(cache) => {
            cache.check_planned(&layout)?;
            cache.params(&mut arguments)?
        }
    };
    let (n_old, n_new, n_runs) = (plan.old_entries_len(), plan.new_entries_len(), plan.runs_len());
    let (new_slots, n_slots) = (&outputs.new_slots, plan.slots_len());
    let params = QuantRetierParams {
        kv,
        pools,
        channels: [
            inputs.key_channels.params(pages, &mut arguments)?,
            inputs.value_channels.params(pages, &mut arguments)?,
        ],
        old_entries: [
            arguments.input("old_key_entries", &inputs.old_key_entries, n_old)?,
            arguments.input("old_value_entries", &inputs.old_value_entries, n_old)?,
        ],
        new_entries: [
            arguments.input("key_entries", &inputs.key_entries, n_new)?,
            arguments.input("value_entries", &inputs.value_entries, n_new)?,
        ],
        slot_of: arguments.input("slot_of", &inputs.slot_of, n_slots)?,
        new_slots: arguments.written(Role::InOut, "new_slots", new_slots, n_slots)?,
        indices: arguments.input("indices", &inputs.indices, plan.indices_len())?,
        counts: arguments.optional_input("counts", inputs.counts.as_ref(), n_runs)?,
        first_pages: arguments.optional_input(
            "first_pages",
            inputs.first_pages.as_ref(),
            n_runs,
        )?,
        n_pages: shape.pages.n_pages as u32,
        n_runs: shape.n_runs as u32,
        n_lists: shape.pages.lists.per_request(&layout) as u32,
        n_old_pages: shape.n_old_pages as u32,
        n_new_pages: shape.n_new_pages as u32,
        n_positions: shape.n_positions as u32,
    };
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&plan.grid(), &params) }
}
