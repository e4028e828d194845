//! TokenSelect (arXiv:2411.02886): all heads of a layer vote for the tokens that all of them will attend to.
//!
//! `cargo run --release --example token_select --features simt`
#![allow(
    dead_code,
    unreachable_pub,
    clippy::missing_errors_doc,
    reason = "a module of the tests too"
)]

use half::bf16;
use lacuna::kv::{KvLayout, KvView};
use lacuna::select::{self, GateInputs, GateOutputs, GatePlan, GateShape};
use lacuna::select::{ScoreInputs, ScoreOutputs, ScorePlan, ScoreShape};
use lacuna::select::{SoftmaxOutputs, Together, VoteInputs, VotePlan, VoteReduction, VoteRule};
use lacuna::select::{TopkInputs, TopkOutputs, TopkPlan, TopkShape};
use lacuna::{Buffer, Error, Queue, Result, View};

mod toy;

/// What a head's scores are multiplied by before its softmax.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// One over the root of the head's dimension: attention's own, as the paper has it.
    Paper,
    /// 1, as the released code has it: sharper votes.
    Released,
}

/// The recipe's numbers; those of the released configurations by default.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// So many first tokens are always selected: whole pages of them.
    pub n_init: usize,
    /// So many last tokens are always selected.
    pub n_local: usize,
    /// So many of the others are.
    pub k: usize,
    /// That of the softmaxes.
    pub scale: Scale,
    /// The Selection Cache: the least cosine of a query and the one that made the votes with which they are used
    /// again, 0.9 in the paper. `None`, as in the released scripts, votes in every step.
    pub theta: Option<f32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { n_init: 128, n_local: 512, k: 2048, scale: Scale::Paper, theta: None }
    }
}

/// One layer's selection.
///
/// Query heads read the head of keys that attention gives them, by division. The released code takes the remainder, and so
/// scores the wrong keys where heads of keys are shared: a bug, not an option. Its keys are cached without their rotation, and
/// its queries rotated to position `n_local`: that is up to who brings them.
pub struct TokenSelect {
    settings: Settings,
    plans: (GatePlan, VotePlan, TopkPlan),
    /// The tables and lengths of the candidates: of the first tokens, pages that are none; of the last, no length.
    candidates: (Buffer<i32>, Buffer<u32>),
    /// The queries that made the votes, whether there are any, and whether they still hold.
    cached: (Buffer<bf16>, Buffer<u32>, Buffer<u32>),
    scores: Buffer<f32>,
    softmaxes: Buffer<u64>,
    workspace: Buffer<u64>,
    votes: Buffer<f32>,
    selected: (Buffer<i32>, Buffer<u32>),
}

impl TokenSelect {
    /// Allocates.
    pub fn new(
        queue: &Queue,
        layout: KvLayout,
        n_q_heads: u64,
        settings: Settings,
    ) -> Result<Self> {
        let Settings { n_init, n_local, k, scale, .. } = settings;
        let (kv, n) = (layout.shape(), layout.n_rows());
        if !(n_init as u64).is_multiple_of(kv.page_size) {
            let (what, allowed) = ("first tokens", "whole pages");
            return Err(Error::Range { what, value: n_init as u64, allowed });
        }
        let query_len = n_q_heads * kv.row_len;
        let gate = GatePlan::new(GateShape::of::<bf16>(kv.batch, query_len))?;
        let shape = ScoreShape::of(layout, n_q_heads);
        let score = ScorePlan::new(match scale {
            Scale::Paper => shape,
            Scale::Released => ScoreShape { softmax_scale: 1.0, ..shape },
        })?;
        let (together, reduction) = (Together::All, VoteReduction::Sum);
        let vote = VotePlan::new(&score, VoteRule { together, reduction, stride: n })?;
        let topk = TopkPlan::new(TopkShape {
            n_first: n_init as u64,
            n_last: n_local as u64,
            ..TopkShape::of::<f32>(kv.batch, n, (n_init + k + n_local) as u64)
        })?;
        let batch = kv.batch as usize;
        Ok(Self {
            settings,
            plans: (gate, vote, topk),
            candidates: (queue.alloc(layout.table_len() as usize)?, queue.alloc(batch)?),
            cached: (
                queue.alloc(gate.cached_len() as usize)?,
                queue.alloc(batch)?,
                queue.alloc(gate.skips_len() as usize)?,
            ),
            scores: queue.alloc(score.scores_len() as usize)?,
            softmaxes: queue.alloc(score.n_softmaxes() as usize)?,
            workspace: queue.alloc(score.workspace_len() as usize)?,
            votes: queue.alloc(vote.votes_len() as usize)?,
            selected: (queue.alloc(topk.picks_len() as usize)?, queue.alloc(batch)?),
        })
    }

    /// Another request is in place `b`: nothing is cached of it.
    pub fn reset(&mut self, queue: &Queue, b: usize) -> Result<()> {
        let n = self.plans.2.shape().n as usize;
        queue.fill_zero(&mut self.cached.1.view_mut().slice_mut(b..b + 1)?)?;
        queue.fill_zero(&mut self.votes.view_mut().slice_mut(b * n..(b + 1) * n)?)
    }

    /// Uploads which tokens are candidates: before steps, whenever the host has changed lengths or page tables.
    pub fn place(&mut self, queue: &Queue, page_table: &[i32], lengths: &[u32]) -> Result<()> {
        let kv = self.plans.1.score().shape().layout.shape();
        let n_init_pages = self.settings.n_init / kv.page_size as usize;
        let is_candidate = |i: usize| i % kv.table_stride as usize >= n_init_pages;
        let page = |(i, page): (usize, &i32)| if is_candidate(i) { *page } else { -1 };
        let table: Vec<i32> = page_table.iter().enumerate().map(page).collect();
        let n_local = self.settings.n_local as u32;
        let lengths: Vec<u32> = lengths.iter().map(|n| n.saturating_sub(n_local)).collect();
        queue.upload_into(&table, &mut self.candidates.0.view_mut())?;
        queue.upload_into(&lengths, &mut self.candidates.1.view_mut())
    }

    /// Selects: four launches at most. Where the votes still hold, the window moves all the same, and what has left it
    /// since has no votes.
    pub fn step(
        &mut self,
        queue: &Queue,
        queries: View<'_, bf16>,
        cache: KvView<'_, bf16>,
    ) -> Result<()> {
        let (gate, vote, topk) = &self.plans;
        let (cached, states, skips) = &mut self.cached;
        if let Some(theta) = self.settings.theta {
            let inputs = GateInputs { queries, forced: None, thetas: None, theta };
            let mut outputs = GateOutputs {
                cached: cached.view_mut(),
                states: states.view_mut(),
                skips: skips.view_mut(),
                cosines: None,
            };
            select::gate_selection(queue, gate, &inputs, &mut outputs)?;
        }
        let skips = self.settings.theta.map(|_| skips.view());
        let (page_table, lengths) = (self.candidates.0.view(), self.candidates.1.view());
        let candidates = KvView { page_table, lengths, ..cache };
        let inputs = ScoreInputs { queries, cache: candidates, skips };
        let (softmaxes, workspace) = (self.softmaxes.view_mut(), self.workspace.view_mut());
        let softmax = Some(SoftmaxOutputs { softmaxes, workspace });
        let mut outputs = ScoreOutputs { scores: self.scores.view_mut(), softmax };
        select::score_rows(queue, vote.score(), &inputs, &mut outputs)?;

        let (scores, softmaxes) = (self.scores.view(), self.softmaxes.view());
        let inputs = VoteInputs { scores, softmaxes, lengths, skips };
        select::vote_rows(queue, vote, &inputs, &mut self.votes.view_mut())?;

        let (indices, counts) = &mut self.selected;
        let inputs =
            TopkInputs { lengths: Some(cache.lengths), ..TopkInputs::whole(self.votes.view()) };
        let mut outputs = TopkOutputs::new(indices.view_mut(), counts.view_mut());
        select::topk_rows(queue, topk, &inputs, &mut outputs)
    }

    /// `[batch, n_init + k + n_local]` tokens, ascending, then -1; and `[batch]`, how many they are.
    pub fn selected(&self) -> (View<'_, i32>, View<'_, u32>) {
        (self.selected.0.view(), self.selected.1.view())
    }

    /// `[batch, n]`: the votes, 0 of what is no candidate.
    pub fn votes(&self) -> View<'_, f32> {
        self.votes.view()
    }
}

fn main() -> Result<()> {
    let machine = toy::Machine::open();
    let (queue, mut random) = (&machine.queue, toy::Random(1));
    let sizes =
        toy::Sizes { batch: 1, n: 4096, n_q_heads: 8, n_heads: 2, head_dim: 64, page_size: 16 };
    let lengths = [4000];
    let queries = random.row(sizes.n_q_heads * sizes.head_dim);
    let mut cache = toy::Cache::new(queue, sizes, &lengths, &mut random)?;
    let needles = [700, 1500, 2500];
    for t in needles {
        cache.plant(&queries, 0, t, 0.5);
    }
    cache.upload(queue, &lengths)?;
    let queries = queue.upload(&queries)?;

    let settings = Settings { n_init: 16, n_local: 64, k: 128, ..Settings::default() };
    let mut recipe = TokenSelect::new(queue, cache.layout, sizes.n_q_heads as u64, settings)?;
    recipe.place(queue, &cache.page_table, &lengths)?;
    recipe.step(queue, queries.view(), cache.view())?;

    let (indices, counts) = recipe.selected();
    let n_selected = queue.download(&counts)?[0] as usize;
    let selected = queue.download(&indices)?;
    let n_found = needles.iter().filter(|t| selected.contains(&(**t as i32))).count();
    println!("selected {n_selected} of {} tokens, {n_found} of 3 needles among them", lengths[0]);
    let n_bytes = sizes.n_heads as u64 * cache.bytes_of(n_selected);
    machine.report(cache.dense_bytes(), n_bytes);
    Ok(())
}
