//! ShadowKV (arXiv:2410.21465): a query selects chunks of the prompt by their landmarks; their keys are rebuilt from factors of
//! low rank, and their values fetched from the host, but for those that were there already.
//!
//! ```text
//! prompt ──► landmarks, outliers   (`shadow_kv/landmarks.rs`)
//!            factors of its keys   (`shadow_kv/factors.rs`, the engine's own)
//!            values to the host    (`shadow_kv/values.rs`)
//! query  ──► selected chunks ──► slots of their values, misses copied ──► attention to these, outliers and local tokens
//! ```
//!
//! `cargo run --release --example shadow_kv --features simt`
#![allow(
    dead_code,
    unreachable_pub,
    clippy::duplicate_mod,
    clippy::missing_errors_doc,
    reason = "a module of the tests too, with what examples share"
)]

use half::bf16;
use lacuna::attention::{self, AttendInputs, AttendOutputs, AttendPlan, AttendShape};
use lacuna::attention::{LowRank, LowRankPlan, LowRankShape, Segment, SegmentShape, Tokens, Turn};
use lacuna::kv::{KvLayout, KvLists, KvView};
use lacuna::{Buffer, Queue, Result, View};

#[path = "shadow_kv/factors.rs"]
pub(crate) mod factors;
#[path = "shadow_kv/landmarks.rs"]
pub(crate) mod landmarks;
pub(crate) mod toy;
#[path = "shadow_kv/values.rs"]
pub(crate) mod values;

use factors::Factors;
use landmarks::{Landmarks, Selection};
use values::Values;

/// The recipe's numbers; the paper's for 128 thousand tokens by default.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Tokens of a chunk.
    pub chunk: usize,
    /// So many tokens of a head of keys are selected,
    pub budget: usize,
    /// beside so many chunks that their means stand for worst,
    pub n_outliers: usize,
    /// and so many last chunks, with what is after them.
    pub n_local: usize,
    /// How many chunks have landmarks.
    pub landmarks: Landmarks,
    /// The rank of what keys are rebuilt from, a multiple of 16,
    pub rank: usize,
    /// and how many chunks of a head have values on the device: as many as are selected, or more.
    pub n_slots: usize,
    /// Tokens that come after a prompt, at most.
    pub max_new: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let landmarks = Landmarks::Paper;
        Self {
            chunk: 8,
            budget: 2048,
            n_outliers: 48,
            n_local: 4,
            landmarks,
            rank: 160,
            n_slots: 512,
            max_new: 1024,
        }
    }
}

/// One layer. A step only launches.
pub struct ShadowKv {
    /// Which chunks a query selects.
    pub selection: Selection,
    /// Where their values are.
    pub values: Values,
    plan: LowRankPlan,
    factors: Buffer<bf16>,
    basis: Buffer<bf16>,
    angles: Buffer<f32>,
    /// `[batch, n_local]`: chunks after those with landmarks.
    local: Buffer<i32>,
    outputs: Buffer<bf16>,
    workspace: Buffer<u32>,
}

impl ShadowKv {
    /// Allocates. `angles` are those of all positions that a prompt may have.
    pub fn new(
        queue: &Queue,
        layout: KvLayout,
        n_q_heads: u64,
        settings: Settings,
        angles: &[f32],
    ) -> Result<Self> {
        let Settings { chunk, budget, n_outliers, n_local, rank, max_new, .. } = settings;
        let values = Values::new(queue, layout, &settings)?;
        let chunks = |n_blocks: usize| Tokens::Blocks {
            n_blocks: n_blocks as u64,
            block_size: chunk as u64,
        };
        let of_heads = |layout, n_blocks| SegmentShape {
            lists: KvLists::PerHead,
            ..SegmentShape::of(layout, chunks(n_blocks))
        };
        // The released code's landmarks may leave seven chunks more; the last of a prompt may be short.
        let n_local = n_local + 8 + max_new.div_ceil(chunk);
        let attend = AttendPlan::new(
            AttendShape::of(&layout, n_q_heads),
            &[
                of_heads(values.layout(), budget / chunk),
                of_heads(layout, n_outliers),
                SegmentShape::of(layout, chunks(n_local)),
            ],
        )?;
        let plan = LowRankPlan::new(
            attend,
            LowRankShape {
                segment: 0,
                rank: rank as u64,
                n_factors: layout.n_rows(),
                turn: Turn::Halves,
            },
        )?;
        Ok(Self {
            selection: Selection::new(queue, layout, n_q_heads, settings)?,
            values,
            factors: queue.alloc(plan.factors_len() as usize)?,
            basis: queue.alloc(plan.basis_len() as usize)?,
            angles: queue.upload(&angles[..plan.cos_sin_len() as usize])?,
            local: queue.alloc(layout.shape().batch as usize * n_local)?,
            outputs: queue.alloc(plan.attend().outputs_len() as usize)?,
            workspace: queue.alloc(plan.attend().workspace_len() as usize)?,
            plan,
        })
    }

    /// Takes prompts, once, each with the factors of its keys. After it an engine keeps of them what outliers and local
    /// tokens are in; who wants that in fewer pages gathers it (`gather_kv`).
    pub fn prefill(
        &mut self,
        queue: &Queue,
        cache: KvView<'_, bf16>,
        page_table: &[i32],
        lengths: &[u32],
        factors: &[Factors],
    ) -> Result<()> {
        self.selection.prefill(queue, cache, page_table, lengths)?;
        self.values.offload(queue, &cache)?;
        let n_local = self.local.len() / lengths.len();
        let of_request = |length: &u32| {
            let first = self.selection.n_landmarks(*length) as i32;
            first..first + n_local as i32
        };
        let local: Vec<_> = lengths.iter().flat_map(of_request).collect();
        queue.upload_into(&local, &mut self.local.view_mut())?;
        let (of_tokens, of_keys) =
            (self.factors.len() / factors.len(), self.basis.len() / factors.len());
        for (b, Factors { factors, basis }) in factors.iter().enumerate() {
            let (first, keys) = (b * of_tokens, b * of_keys..(b + 1) * of_keys);
            let mut rows = self.factors.view_mut();
            queue.upload_into(factors, &mut rows.slice_mut(first..first + factors.len())?)?;
            queue.upload_into(basis, &mut self.basis.view_mut().slice_mut(keys)?)?;
        }
        Ok(())
    }

    /// Selects, fetches and attends: five or six launches. Tokens that came after the prompt are in the cache, and in
    /// its lengths.
    pub fn step(
        &mut self,
        queue: &Queue,
        queries: View<'_, bf16>,
        cache: KvView<'_, bf16>,
    ) -> Result<View<'_, bf16>> {
        self.selection.step(queue, queries)?;
        let selected = self.selection.selected();
        self.values.fetch(queue, selected)?;

        let counted = |cache, (indices, counts)| Segment {
            counts: Some(counts),
            ..Segment::new(cache, Some(indices))
        };
        let segments = [
            counted(self.values.cache(cache.lengths)?, selected),
            counted(cache, self.selection.outliers()),
            Segment::new(cache, Some(self.local.view())),
        ];
        let inputs = AttendInputs { queries, segments: &segments, sinks: None, skips: None };
        let low_rank = LowRank {
            factors: self.factors.view(),
            basis: self.basis.view(),
            cos_sin: Some(self.angles.view()),
            value_indices: Some(self.values.slots()),
        };
        let (outputs, workspace) = (self.outputs.view_mut(), self.workspace.view_mut());
        let mut outputs = AttendOutputs { outputs, log_sums: None, workspace };
        attention::attend_low_rank(queue, &self.plan, &inputs, &low_rank, &mut outputs)?;
        Ok(self.outputs.view())
    }
}

fn main() -> Result<()> {
    let machine = toy::Machine::open();
    let (queue, mut random) = (&machine.queue, toy::Random(5));
    let sizes =
        toy::Sizes { batch: 1, n: 4096, n_q_heads: 8, n_heads: 2, head_dim: 64, page_size: 16 };
    let (length, needle) = (4001, 1504..1512);

    // Keys as an engine has them before it turns them, of rank 32; those of one chunk are alike.
    let (d, n_columns) = (sizes.head_dim, sizes.n_heads * sizes.head_dim);
    let mut keys = toy::low_rank(length, n_columns, 32, &mut random);
    for t in needle.clone().skip(1) {
        keys.copy_within(needle.start * n_columns..(needle.start + 1) * n_columns, t * n_columns);
    }
    let angles = factors::angles(sizes.n, d);
    let mut cache = toy::Cache::new(queue, sizes, &[length as u32], &mut random)?;
    cache.set_turned_keys(0, &keys, |key, t| factors::turn(key, &angles[t * d..][..d]));
    cache.upload(queue, &[length as u32])?;
    // Every query head looks for that chunk, and each next token for nearly the same.
    let mut next = |near: &[bf16]| -> Vec<bf16> {
        near.iter().map(|x| bf16::from_f32(0.9 * x.to_f32() + 0.3 * random.normal())).collect()
    };
    let group = sizes.n_q_heads / sizes.n_heads;
    let of_head = |q: usize| cache.key(0, needle.start + 4, q / group).to_vec();
    let mut queries: Vec<_> = (0..sizes.n_q_heads).flat_map(of_head).collect();

    let settings = Settings {
        budget: 128,
        n_outliers: 6,
        rank: 32,
        n_slots: 24,
        max_new: 32,
        ..Settings::default()
    };
    let mut recipe = ShadowKv::new(queue, cache.layout, sizes.n_q_heads as u64, settings, &angles)?;
    let factors = [Factors::of(&keys, n_columns, settings.rank)];
    recipe.prefill(queue, cache.view(), &cache.page_table, &[length as u32], &factors)?;
    println!("the prompt's landmarks, and its values to the host:");
    machine.report_step(cache.dense_bytes());

    for _ in 0..3 {
        queries = next(&queries);
        let on_device = queue.upload(&queries)?;
        recipe.step(queue, on_device.view(), cache.view())?;
        let selected = queue.download(&recipe.selection.selected().0)?;
        let n_fetched: u32 = queue.download(&recipe.values.miss_counts())?.iter().sum();
        let chunk = (needle.start / settings.chunk) as i32;
        let n_found = selected.chunks(16).filter(|list| list.contains(&chunk)).count();
        println!(
            "a query's {} of {} chunks for each of two heads, {n_fetched} of them fetched; {n_found} heads have the needle's",
            settings.budget / settings.chunk,
            recipe.selection.n_landmarks(length as u32)
        );
        machine.report_step(cache.dense_bytes());
    }
    Ok(())
}
