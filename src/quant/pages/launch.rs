//! The launches over pages.
#![allow(unsafe_code)]

use super::PagesPlan;
use crate::Result;
use crate::bindings::{LacunaKvView, QuantChannels, QuantPagesParams, QuantPools};
use crate::buffer::{View, ViewMut};
use crate::element::Half;
use crate::kv::{KvView, KvViewMut};
use crate::launch::{Arguments, check_aligned, kernel_params};
use crate::quant::Tier;
use crate::quant::page::check_written;
use crate::queue::Queue;
use crate::region::Role;

kernel_params!(QuantPagesParams, "quant", "quantize_pages");

/// The same struct for the other kernel.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct ToNumbers(#[allow(dead_code, reason = "the kernel reads it")] QuantPagesParams);

kernel_params!(ToNumbers, "quant", "dequantize_pages");

/// Which rows stand in which pages, and what their channels are relative to.
#[derive(Debug, Clone, Copy)]
pub struct PageLists<'a> {
    /// `[batch, n_lists, n_pages, 64]`, of a request one list or one for each head: numbers of a request's rows. One that is of no row, as -1, is a slot of nothing.
    pub indices: View<'a, i32>,
    /// `[batch, n_lists]`: how many of each list's indices count; else all.
    pub counts: Option<View<'a, u32>>,
    /// `[batch, n_heads, n_pages]`: the page of keys of each 64, `tier.tag() << 30 | number`. One of no page is passed over
    /// (number [`MissingPage::NONE`](crate::quant::MissingPage::NONE); any other past its pool raises the pools' status too). No
    /// page may stand there twice: which of the two would stay is not said.
    pub key_entries: View<'a, u32>,
    /// The same of values.
    pub value_entries: View<'a, u32>,
    /// Of keys.
    pub key_channels: ChannelViews<'a>,
    /// Of values.
    pub value_channels: ChannelViews<'a>,
}

/// What channels are relative to.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChannelViews<'a> {
    /// `[batch, n_heads, n_spans, head_dim]`: what numbers are divided by; else 1. One that is 0 makes its numbers the greatest
    /// there are, beside which a token's others are lost; of one that is NaN its channel is NaN when it is read, and no other.
    pub scales: Option<View<'a, f32>>,
    /// The same: what is taken from them before; else 0.
    pub offsets: Option<View<'a, f32>>,
}

/// The tiers' pools, of 16, 8, 4 and 2 bits: [`PagesPlan::pool_bytes`] each, from a multiple of 16 bytes on.
#[derive(Debug, Default)]
pub struct TierPools<'a> {
    /// By [`Tier::tag`]; none of a tier without pages. One that is left out has none, whatever the plan says.
    pub pools: [Option<View<'a, u8>>; 4],
    /// `[1]`: a status word, raised where an entry names a page that its pool does not have
    /// ([`MissingPage::from_status`](crate::quant::MissingPage::from_status)); never cleared. Such an entry is of no page
    /// either way.
    pub status: Option<ViewMut<'a, u64>>,
}

/// The same, to write.
#[derive(Debug, Default)]
pub struct TierPoolsMut<'a> {
    /// By [`Tier::tag`]; none of a tier without pages. One that is left out has none, whatever the plan says.
    pub pools: [Option<ViewMut<'a, u8>>; 4],
    /// As that of [`TierPools`].
    pub status: Option<ViewMut<'a, u64>>,
}

/// Rows of a paged cache as tiered pages: keys and values in one launch, each page in the tier that its entry names (the format:
/// [`quant`](crate::quant); after ZipCache, arXiv:2405.14256, and KIVI, arXiv:2402.02750).
///
/// It is what fills tiers, of a prompt or of tokens that have waited as numbers until 64 of a tier were there: the lists say which, as
/// [`topk_rows`](crate::select::topk_rows) and [`compact_rows`](crate::select::compact_rows) leave them.
///
/// # Shapes
/// Those of [`PageLists`] and [`TierPoolsMut`]; sizes are the plan's. Lengths, page tables, lists and entries are read on the device, so that
/// a captured graph serves them.
///
/// # Numerics
/// Bit for bit [`Page::quantize`](crate::quant::Page::quantize) of each page's rows; of slots of nothing zeros. A page of whose indices none
/// counts is not written.
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Range`](crate::Error::Range), [`Error::Number`](crate::Error::Number) for a cache with scales,
/// [`Error::WrongQueue`](crate::Error::WrongQueue) and [`Error::WrongStream`](crate::Error::WrongStream) before anything is launched;
/// [`Error::Driver`](crate::Error::Driver) where the launch fails.
pub fn quantize_pages<T: Half>(
    queue: &Queue,
    plan: &PagesPlan,
    source: &KvView<'_, T>,
    lists: &PageLists<'_>,
    targets: &mut TierPoolsMut<'_>,
) -> Result<()> {
    let mut arguments = Arguments::new(queue);
    check_written(plan.shape().tail)?;
    source.check_planned(&plan.shape().layout)?;
    let pools = targets.params(plan, &mut arguments)?;
    let kv = source.params(&mut arguments)?;
    let params = lists.params(plan, kv, pools, &mut arguments)?;
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&plan.grid(), &params) }
}

/// Tiered pages as rows of a paged cache: what [`quantize_pages`] took, as far as its bits tell, for prefill over what was quantized and for looking at
/// it. Slots of nothing, and rows that no list names, are left alone.
///
/// # Shapes
/// Those of [`PageLists`] and [`TierPools`]; sizes are the plan's. A row that two slots name is written by both.
///
/// # Numerics
/// Bit for bit [`Page::dequantize`](crate::quant::Page::dequantize), rounded to `T`; of 16 bits the numbers themselves, which are as they were
/// written, `T` or not.
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// Those of [`quantize_pages`].
pub fn dequantize_pages<T: Half>(
    queue: &Queue,
    plan: &PagesPlan,
    sources: &mut TierPools<'_>,
    lists: &PageLists<'_>,
    target: &mut KvViewMut<'_, T>,
) -> Result<()> {
    let mut arguments = Arguments::new(queue);
    target.as_view().check_planned(&plan.shape().layout)?;
    let pools = sources.params(plan, &mut arguments)?;
    let kv = target.params(&mut arguments)?;
    let params = lists.params(plan, kv, pools, &mut arguments)?;
    // SAFETY: as above.
    unsafe { arguments.launch(&plan.grid(), &ToNumbers(params)) }
}

const POOL: &str = "pool of pages";
const STATUS: &str = "status";

/// The pools that the plan has and `find` gives an address of, by tag and bytes.
fn each_pool(
    plan: &PagesPlan,
    status: u64,
    mut find: impl FnMut(usize, u64) -> Result<Option<u64>>,
) -> Result<QuantPools> {
    let mut pools = QuantPools {
        pages: [0; 4],
        status,
        n_pages: [0; 4],
        tail: plan.shape().tail.number(),
        reserved: 0,
    };
    for tier in Tier::ALL {
        let (at, n_bytes) = (tier.tag() as usize, plan.pool_bytes(tier));
        if n_bytes == 0 {
            continue;
        }
        let Some(address) = find(at, n_bytes)? else { continue };
        check_aligned("address of a pool", address, 16, "the multiples of 16 bytes")?;
        pools.pages[at] = address;
        pools.n_pages[at] = plan.shape().n_pool_pages[at] as u32;
    }
    Ok(pools)
}

impl TierPools<'_> {
    pub(crate) fn params(
        &self,
        plan: &PagesPlan,
        arguments: &mut Arguments<'_>,
    ) -> Result<QuantPools> {
        let status = arguments.optional_written(Role::InOut, STATUS, self.status.as_ref(), 1)?;
        each_pool(plan, status, |at, n_bytes| {
            self.pools[at].as_ref().map(|pool| arguments.input(POOL, pool, n_bytes)).transpose()
        })
    }
}

impl TierPoolsMut<'_> {
    pub(crate) fn params(
        &self,
        plan: &PagesPlan,
        arguments: &mut Arguments<'_>,
    ) -> Result<QuantPools> {
        let status = arguments.optional_written(Role::InOut, STATUS, self.status.as_ref(), 1)?;
        each_pool(plan, status, |at, n_bytes| {
            let pool = self.pools[at].as_ref();
            pool.map(|pool| arguments.written(Role::InOut, POOL, pool, n_bytes)).transpose()
        })
    }
}

impl PageLists<'_> {
    fn params(
        &self,
        plan: &PagesPlan,
        kv: LacunaKvView,
        pools: QuantPools,
        arguments: &mut Arguments<'_>,
    ) -> Result<QuantPagesParams> {
        let shape = plan.shape();
        let n_entries = plan.entries_len();
        Ok(QuantPagesParams {
            kv,
            pools,
            channels: [
                self.key_channels.params(plan, arguments)?,
                self.value_channels.params(plan, arguments)?,
            ],
            entries: [
                arguments.input("key_entries", &self.key_entries, n_entries)?,
                arguments.input("value_entries", &self.value_entries, n_entries)?,
            ],
            indices: arguments.input("indices", &self.indices, plan.indices_len())?,
            counts: arguments.optional_input("counts", self.counts.as_ref(), plan.n_lists())?,
            n_pages: shape.n_pages as u32,
            n_lists: shape.lists.per_request(&shape.layout) as u32,
            span_pages: shape.span_pages as u32,
            n_spans: plan.n_spans() as u32,
        })
    }
}

impl ChannelViews<'_> {
    pub(crate) fn params(
        &self,
        plan: &PagesPlan,
        arguments: &mut Arguments<'_>,
    ) -> Result<QuantChannels> {
        let len = plan.channels_len();
        Ok(QuantChannels {
            scales: arguments.optional_input("scales of channels", self.scales.as_ref(), len)?,
            offsets: arguments.optional_input("offsets of channels", self.offsets.as_ref(), len)?,
        })
    }
}
