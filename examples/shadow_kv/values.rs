//! Where values are: all of a prompt's in pinned memory of the host, and those of recent selections on the device.

use half::bf16;
use lacuna::attention::{self, CopyInputs, CopyOutputs, CopyPlan, PoolShape, Pools, PoolsLayout};
use lacuna::attention::{TierInputs, TierOutputs, TierPlan, TierShape, TierState};
use lacuna::kv::{KvLayout, KvLists, KvShape, KvView};
use lacuna::select::{self, Absent, KvRowsMut, KvRowsPlan};
use lacuna::{Buffer, Queue, Result, View};

use super::Settings;

/// Values of one layer. A page of both tiers is a chunk of one head.
pub struct Values {
    gather: KvRowsPlan,
    rows: Buffer<i32>,
    /// `[batch, n_heads, n_chunks, chunk, head_dim]`, pinned.
    large: Pools<'static, bf16>,
    /// `[batch, n_heads, n_slots, chunk, head_dim]`.
    small: Pools<'static, bf16>,
    resolve: TierPlan,
    copy: CopyPlan,
    slot_of: Buffer<i32>,
    logical_of: Buffer<i32>,
    referenced: Buffer<u32>,
    hands: Buffer<u32>,
    slots: Buffer<i32>,
    misses: (Buffer<i32>, Buffer<u32>),
    /// The slots as a cache, each a page.
    layout: KvLayout,
    page_table: Buffer<i32>,
}

impl Values {
    /// Allocates, of a cache of this layout; the large tier, which takes long, too.
    pub fn new(queue: &Queue, layout: KvLayout, settings: &Settings) -> Result<Self> {
        let kv = *layout.shape();
        let (chunk, n_slots) = (settings.chunk as u64, settings.n_slots as u64);
        let n_chunks = layout.n_rows() / chunk;
        let page_len = chunk * kv.row_len;
        let pools = |n_of_head: u64| {
            let pool = PoolShape { page_len, page_stride: page_len };
            PoolsLayout::new(kv.batch * kv.n_heads * n_of_head, 2, vec![pool])
        };
        let gather = KvRowsPlan::new(layout, n_chunks * chunk, KvLists::PerRequest)?;
        let large = queue.alloc_pinned(gather.rows_len() as usize)?;
        let large = Pools::new(queue, pools(n_chunks)?, vec![large])?;
        let n_small = kv.batch * kv.n_heads * n_slots * page_len;
        let small = queue.alloc(n_small as usize)?;
        let small = Pools::new(queue, pools(n_slots)?, vec![small])?;
        let resolve = TierPlan::new(TierShape {
            batch: kv.batch,
            lists_per_request: kv.n_heads,
            n: (settings.budget / settings.chunk) as u64,
            n_logical: n_chunks,
            n_slots,
            n_source_pages: large.layout().n_pages(),
        })?;
        // A head's slots follow those of the head before: so do a request's.
        let slots = KvLayout::new(KvShape {
            n_pages: small.layout().n_pages() - (kv.n_heads - 1) * n_slots,
            page_size: chunk,
            table_stride: n_slots,
            page_stride: page_len,
            token_stride: kv.row_len,
            head_stride: n_slots * page_len,
            ..kv
        })?;
        let of_request = |b| (0..n_slots).map(move |slot| (b * kv.n_heads * n_slots + slot) as i32);
        let page_table: Vec<_> = (0..kv.batch).flat_map(of_request).collect();
        let rows = (0..(n_chunks * chunk) as i32).collect::<Vec<_>>().repeat(kv.batch as usize);
        let (n_lists, n_entries) = (resolve.n_lists(), resolve.entries_len() as usize);
        Ok(Self {
            rows: queue.upload(&rows)?,
            copy: CopyPlan::new(n_lists, resolve.shape().n, large.layout(), small.layout())?,
            slot_of: queue.alloc(resolve.slot_of_len() as usize)?,
            logical_of: queue.alloc(resolve.logical_of_len() as usize)?,
            referenced: queue.alloc(resolve.referenced_len() as usize)?,
            hands: queue.alloc(n_lists as usize)?,
            slots: queue.alloc(n_entries)?,
            misses: (queue.alloc(2 * n_entries)?, queue.alloc(n_lists as usize)?),
            page_table: queue.upload(&page_table)?,
            layout: slots,
            gather,
            large,
            small,
            resolve,
        })
    }

    /// Copies a prompt's values to the host, and forgets what was in the slots. Until that has ended, the engine keeps
    /// the pages that it lets go of.
    pub fn offload(&mut self, queue: &Queue, cache: &KvView<'_, bf16>) -> Result<()> {
        let values = cache.values.expect("a cache with values");
        // Values alone: rows of any pool are gathered as keys are.
        let values = KvView { keys: values, values: None, ..*cache };
        let mut rows = KvRowsMut { keys: self.large.view_mut(0)?, values: None };
        let of = self.rows.view();
        select::gather_kv(queue, &self.gather, &values, &of, Absent::Zeros, &mut rows)?;
        let nothing = vec![-1; self.logical_of.len()];
        queue.upload_into(&nothing, &mut self.logical_of.view_mut())
    }

    /// Has the values of each list's chunks in slots: two launches.
    pub fn fetch(
        &mut self,
        queue: &Queue,
        (chunks, counts): (View<'_, i32>, View<'_, u32>),
    ) -> Result<()> {
        let inputs = TierInputs { indices: chunks, counts: Some(counts), source_table: None };
        let mut state = TierState {
            slot_of: self.slot_of.view_mut(),
            logical_of: self.logical_of.view_mut(),
            referenced: self.referenced.view_mut(),
            hands: self.hands.view_mut(),
        };
        let mut outputs = TierOutputs {
            slots: self.slots.view_mut(),
            misses: self.misses.0.view_mut(),
            miss_counts: self.misses.1.view_mut(),
            parts: None,
            overflows: None,
        };
        attention::tier_resolve(queue, &self.resolve, &inputs, &mut state, &mut outputs)?;
        let pairs = self.misses.0.view();
        let inputs = CopyInputs { pairs, counts: Some(self.misses.1.view()) };
        let (large, small) = (&self.large, &mut self.small);
        let mut outputs = CopyOutputs::default();
        attention::copy_pages(queue, &self.copy, large, small, &inputs, &mut outputs)
    }

    /// The sizes of the slots as a cache.
    pub fn layout(&self) -> KvLayout {
        self.layout
    }

    /// The slots as a cache without keys, for as many tokens as requests have.
    pub fn cache<'a>(&'a self, lengths: View<'a, u32>) -> Result<KvView<'a, bf16>> {
        let values = self.small.view(0)?;
        Ok(KvView {
            layout: self.layout,
            keys: values,
            values: Some(values),
            page_table: self.page_table.view(),
            lengths,
            key_scale: 1.0,
            value_scale: 1.0,
        })
    }

    /// `[batch, n_heads, budget / chunk]`: the slot of each selected chunk.
    pub fn slots(&self) -> View<'_, i32> {
        self.slots.view()
    }

    /// `[batch, n_heads]`: how many chunks the last step fetched.
    pub fn miss_counts(&self) -> View<'_, u32> {
        self.misses.1.view()
    }
}
