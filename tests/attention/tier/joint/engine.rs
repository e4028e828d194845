//! What an engine has on the device, and a step of it.
#![allow(unsafe_code)]

use half::bf16;
use lacuna::attention::{
    AttendInputs, AttendOutputs, AttendPlan, AttendShape, CopyInputs, CopyOutputs, CopyPlan,
    MergeOutputs, MergePlan, MergeShape, PartedSlots, Partial, PoolShape, Pools, PoolsLayout,
    Segment, SegmentShape, TierInputs, TierOutputs, TierPlan, TierState, Tokens, attend,
    copy_pages, merge_partials, tier_resolve,
};
use lacuna::kv::{KvLayout, KvLists, KvShape, KvView};
use lacuna::{Buffer, Error, Queue, View};

use crate::attend::problem::Results;
use crate::tier::problem::{Left, shape};

pub(super) const BATCH: u64 = 2;
pub(super) const N_HEADS: u64 = 2;
pub(super) const N_Q_HEADS: u64 = 4;
pub(super) const HEAD_DIM: u64 = 32;
/// Tokens of a block, which is a page of both tiers.
pub(super) const BLOCK: u64 = 4;
/// Entries of a list, blocks of a head's context, and its slots.
pub(super) const N: u64 = 12;
pub(super) const N_LOGICAL: u64 = 40;
pub(super) const N_SLOTS: u64 = 18;
pub(super) const PAGE: u64 = BLOCK * HEAD_DIM;

/// `[batch, n_heads, n_blocks, block, head_dim]`: each head's blocks by themselves, as `tier_resolve` counts slots.
fn layout(n_blocks: u64) -> KvLayout {
    let shape = KvShape {
        batch: BATCH,
        n_heads: N_HEADS,
        row_len: HEAD_DIM,
        // The first head's; another's are a stride further.
        n_pages: (BATCH - 1) * N_HEADS * n_blocks + n_blocks,
        page_size: BLOCK,
        table_stride: n_blocks,
        page_stride: PAGE,
        token_stride: HEAD_DIM,
        head_stride: n_blocks * PAGE,
        ..KvShape::default()
    };
    KvLayout::new(shape).unwrap()
}

pub(super) fn page_table(n_blocks: u64) -> Vec<i32> {
    let of_request = |b| (0..n_blocks).map(move |block| (b * N_HEADS * n_blocks + block) as i32);
    (0..BATCH).flat_map(of_request).collect()
}

pub(super) fn plan(n_blocks: u64) -> AttendPlan {
    let layout = layout(n_blocks);
    let tokens = Tokens::Blocks { n_blocks: N, block_size: BLOCK };
    let segment = SegmentShape { lists: KvLists::PerHead, ..SegmentShape::of(layout, tokens) };
    AttendPlan::new(AttendShape::of(&layout, N_Q_HEADS), &[segment]).unwrap()
}

fn pools(n_blocks: u64) -> PoolsLayout {
    let pool = PoolShape { page_len: PAGE, page_stride: PAGE };
    PoolsLayout::new(BATCH * N_HEADS * n_blocks, 2, vec![pool; 2]).unwrap()
}

/// A partial result on the device.
struct Part {
    outputs: Buffer<bf16>,
    log_sums: Buffer<f32>,
    workspace: Buffer<u32>,
}

impl Part {
    fn new(queue: &Queue, plan: &AttendPlan) -> Result<Self, Error> {
        Ok(Self {
            outputs: queue.alloc(plan.outputs_len() as usize)?,
            log_sums: queue.alloc(plan.log_sums_len() as usize)?,
            workspace: queue.alloc(plan.workspace_len() as usize)?,
        })
    }

    fn outputs(&mut self) -> AttendOutputs<'_, bf16> {
        AttendOutputs {
            outputs: self.outputs.view_mut(),
            log_sums: Some(self.log_sums.view_mut()),
            workspace: self.workspace.view_mut(),
        }
    }

    fn partial(&self) -> Partial<'_, bf16> {
        Partial { outputs: self.outputs.view(), log_sums: self.log_sums.view(), mask: None }
    }
}

/// The small tier as a cache.
fn slots_of<'a>(
    [keys, values]: [View<'a, bf16>; 2],
    page_table: View<'a, i32>,
    lengths: View<'a, u32>,
) -> KvView<'a, bf16> {
    KvView {
        layout: layout(N_SLOTS),
        keys,
        values: Some(values),
        page_table,
        lengths,
        key_scale: 1.0,
        value_scale: 1.0,
    }
}

/// What an engine has on the device: lists and results are the first queue's, the tiers the second's.
pub(super) struct Engine<'q> {
    first: &'q Queue,
    second: &'q Queue,
    resolve: TierPlan,
    copy: CopyPlan,
    attend: AttendPlan,
    merge: MergePlan,
    queries: Buffer<bf16>,
    page_table: Buffer<i32>,
    lengths: Buffer<u32>,
    state: (Buffer<i32>, Buffer<i32>, Buffer<u32>, Buffer<u32>),
    slots: Buffer<i32>,
    misses: (Buffer<i32>, Buffer<u32>),
    hits: (Buffer<i32>, Buffer<u32>),
    fetched: (Buffer<i32>, Buffer<u32>),
    parts: [Part; 2],
    large: Pools<'static, bf16>,
    small: Pools<'static, bf16>,
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        // The second queue frees the slots, which the first has read.
        let _ = self.second.wait_for(self.first);
    }
}

impl<'q> Engine<'q> {
    pub(super) fn new(
        first: &'q Queue,
        second: &'q Queue,
        queries: &[bf16],
        tier: [&[bf16]; 2],
    ) -> Result<Self, Error> {
        let resolve = TierPlan::new(shape([BATCH, N_HEADS], N, N_LOGICAL, N_SLOTS))?;
        let (n_entries, n_lists) = (resolve.entries_len() as usize, resolve.n_lists() as usize);
        let mut pinned = Vec::new();
        for pool in tier {
            let mut buffer = second.alloc_pinned(pool.len())?;
            second.pinned_slice(&mut buffer)?.copy_from_slice(pool);
            pinned.push(buffer);
        }
        let large = Pools::new(second, pools(N_LOGICAL), pinned)?;
        let n_small = (BATCH * N_HEADS * N_SLOTS * PAGE) as usize;
        let slots = vec![second.alloc(n_small)?, second.alloc(n_small)?];
        let small = Pools::new(second, pools(N_SLOTS), slots)?;
        let attend = plan(N_SLOTS);
        let shape = MergeShape::of(BATCH, N_Q_HEADS, HEAD_DIM);
        let none = |n: u64| first.upload(&vec![-1_i32; n as usize]);
        let list = |per_entry: usize| {
            Ok::<_, Error>((first.alloc(per_entry * n_entries)?, first.alloc(n_lists)?))
        };
        Ok(Self {
            first,
            second,
            copy: CopyPlan::new(n_lists as u64, N, large.layout(), small.layout())?,
            merge: MergePlan::new(shape, &[shape.part(); 2])?,
            queries: first.upload(queries)?,
            page_table: first.upload(&page_table(N_SLOTS))?,
            lengths: first.upload(&[(N_SLOTS * BLOCK) as u32; BATCH as usize])?,
            state: (
                none(resolve.slot_of_len())?,
                none(resolve.logical_of_len())?,
                first.alloc(resolve.referenced_len() as usize)?,
                first.alloc(n_lists)?,
            ),
            slots: first.alloc(n_entries)?,
            misses: list(2)?,
            hits: list(1)?,
            fetched: list(1)?,
            parts: [Part::new(first, &attend)?, Part::new(first, &attend)?],
            resolve,
            attend,
            large,
            small,
        })
    }

    fn resolve(&mut self, indices: View<'_, i32>) -> Result<(), Error> {
        let inputs = TierInputs { indices, counts: None, source_table: None };
        let (slot_of, logical_of, referenced, hands) = &mut self.state;
        let mut state = TierState {
            slot_of: slot_of.view_mut(),
            logical_of: logical_of.view_mut(),
            referenced: referenced.view_mut(),
            hands: hands.view_mut(),
        };
        let (hits, fetched) = (&mut self.hits, &mut self.fetched);
        let parts = PartedSlots {
            hits: hits.0.view_mut(),
            hit_counts: hits.1.view_mut(),
            fetched: fetched.0.view_mut(),
            fetched_counts: fetched.1.view_mut(),
        };
        let mut outputs = TierOutputs {
            slots: self.slots.view_mut(),
            misses: self.misses.0.view_mut(),
            miss_counts: self.misses.1.view_mut(),
            parts: Some(parts),
            overflows: None,
        };
        tier_resolve(self.first, &self.resolve, &inputs, &mut state, &mut outputs)
    }

    /// Attention over what is there on the first queue, beside the second's copies and attention over what comes. In
    /// the SIMT executor, where one is before the other, `is_copied_first` says which.
    pub(super) fn step(
        &mut self,
        list: &[i32],
        is_copied_first: bool,
    ) -> Result<(Results<bf16>, Left), Error> {
        let indices = self.first.upload(list)?;
        self.resolve(indices.view())?;
        let (first, second, plan) = (self.first, self.second, &self.attend);
        let [of_hits, of_fetched] = &mut self.parts;
        let (keys, values) = (self.small.view(0)?, self.small.view(1)?);
        // SAFETY: the pools live as long as this, and are freed after the first queue's work (`drop`). What the first queue reads there are slots of hits, which the second
        // does not write meanwhile: `tier_resolve` gives no slot away that its list asks for. It comes after the copies of
        // the steps before, since each loan ends with a wait for the second queue, and before those of the
        // next, since each begins with a wait for the first.
        let [keys, values] = [keys, values]
            .map(|pool| unsafe { View::from_raw(pool.address(), pool.len(), pool.memory()) });
        let (page_table, lengths) = (self.page_table.view(), self.lengths.view());
        let slots = slots_of([keys, values], page_table, lengths);
        let (hits, fetched) = (&self.hits, &self.fetched);
        let queries = self.queries.view();
        let attend_to_hits = |outputs: &mut AttendOutputs<'_, bf16>| {
            let segment =
                Segment { counts: Some(hits.1.view()), ..Segment::new(slots, Some(hits.0.view())) };
            let inputs = AttendInputs { queries, segments: &[segment], sinks: None, skips: None };
            attend(first, plan, &inputs, outputs)
        };
        if !is_copied_first {
            attend_to_hits(&mut of_hits.outputs())?;
        }
        let written = of_fetched.outputs();
        let views = (
            (self.misses.0.view(), self.misses.1.view()),
            (fetched.0.view(), fetched.1.view()),
            (queries, page_table, lengths),
            (written.outputs, written.log_sums, written.workspace),
        );
        let (large, small, copy) = (&self.large, &mut self.small, &self.copy);
        first.lend(second, views, |(misses, fetched, shared, written)| {
            let inputs = CopyInputs { pairs: misses.0, counts: Some(misses.1) };
            copy_pages(second, copy, large, small, &inputs, &mut CopyOutputs::default())?;
            if is_copied_first {
                attend_to_hits(&mut of_hits.outputs())?;
            }
            let (queries, page_table, lengths) = shared;
            let slots = slots_of([small.view(0)?, small.view(1)?], page_table, lengths);
            let segment =
                Segment { counts: Some(fetched.1), ..Segment::new(slots, Some(fetched.0)) };
            let inputs = AttendInputs { queries, segments: &[segment], sinks: None, skips: None };
            let (outputs, log_sums, workspace) = written;
            attend(second, plan, &inputs, &mut AttendOutputs { outputs, log_sums, workspace })
        })?;

        let mut merged = Part::new(first, plan)?;
        let mut outputs = MergeOutputs {
            outputs: merged.outputs.view_mut(),
            log_sums: Some(merged.log_sums.view_mut()),
        };
        let parts = [of_hits.partial(), of_fetched.partial()];
        merge_partials(first, &self.merge, &parts, &mut outputs)?;
        let log_sums = first.download(&merged.log_sums.view())?;
        let results = Results {
            outputs: first.download(&merged.outputs.view())?,
            log_sums: log_sums.into_iter().map(f32::to_bits).collect(),
        };
        let left = Left {
            slots: first.download(&self.slots.view())?,
            misses: first.download(&self.misses.0.view())?,
            miss_counts: first.download(&self.misses.1.view())?,
            hits: first.download(&hits.0.view())?,
            hit_counts: first.download(&hits.1.view())?,
            fetched: first.download(&fetched.0.view())?,
            fetched_counts: first.download(&fetched.1.view())?,
            ..Left::default()
        };
        Ok((results, left))
    }
}
