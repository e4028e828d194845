//! D2O (arXiv:2406.13035): layers whose attention is spread keep more tokens, each head those that were attended to most, and
//! what is evicted goes on in the keys that it is near to.
//!
//! `cargo run --release --example d2o --features simt`
#![allow(
    dead_code,
    unreachable_pub,
    clippy::missing_errors_doc,
    reason = "a module of the tests too"
)]

use half::bf16;
use lacuna::kv::{KvLayout, KvView, KvViewMut};
use lacuna::select::{self, CompactShape, Listed, MassInputs, MassOutputs, MassPlan, MassShape};
use lacuna::select::{MergeInputs, MergePlan, MergeState, MergeWeights};
use lacuna::select::{TopkInputs, TopkOutputs, TopkPlan, TopkShape};
use lacuna::{Buffer, Queue, Result, View};

mod toy;

/// How the variance of a layer's attention mass becomes one number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Density {
    /// The mean over heads.
    Paper,
    /// That of what the least and the greatest variance of the layer's heads make 0 and 1, as the released code has it; variances
    /// of a sample.
    Released,
}

/// How uneven a layer's attention is, of the masses of its heads.
pub fn density_of(heads: &[&[f32]], density: Density) -> f64 {
    let variance = |masses: &&[f32]| {
        let n = masses.len() as f64;
        let mean = masses.iter().copied().map(f64::from).sum::<f64>() / n;
        let sum: f64 = masses.iter().map(|mass| (f64::from(*mass) - mean).powi(2)).sum();
        match density {
            Density::Paper => sum / n,
            Density::Released => sum / (n - 1.0).max(1.0),
        }
    };
    let variances: Vec<f64> = heads.iter().map(variance).collect();
    let mean = variances.iter().sum::<f64>() / heads.len() as f64;
    match density {
        Density::Paper => mean,
        Density::Released => {
            let least = variances.iter().copied().fold(f64::INFINITY, f64::min);
            let greatest = variances.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            (mean - least) / (greatest - least + 1e-6)
        }
    }
}

/// What a layer keeps of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Tokens with the most mass, the first four of the prompt among them.
    pub n_heavy: usize,
    /// The last tokens.
    pub n_recent: usize,
}

/// The layers' budgets, of their densities: a softmax of less density shares out what `heavy` and `recent` of each layer would be.
/// `None` is the whole prompt, which the first two layers and the last keep.
pub fn layer_budgets(densities: &[f64], n: usize, heavy: f64, recent: f64) -> Vec<Option<Budget>> {
    let n_layers = densities.len();
    let least = densities.iter().copied().fold(f64::INFINITY, f64::min);
    let weights: Vec<f64> = densities.iter().map(|density| (least - density).exp()).collect();
    let total: f64 = weights.iter().sum();
    let budget = |(l, weight): (usize, &f64)| {
        let share = n_layers as f64 * weight / total;
        let of_prompt = |ratio: f64| (n as f64 * (share * ratio).min(1.0)) as usize;
        let budget = Budget { n_heavy: of_prompt(heavy), n_recent: of_prompt(recent) };
        let is_whole = l < 2 || l + 1 == n_layers || budget.n_heavy + budget.n_recent >= n;
        (!is_whole).then_some(budget)
    };
    weights.iter().enumerate().map(budget).collect()
}

/// A layer's attention mass over a prompt, by heads of keys: what a layer's density and its tokens' ranks are of.
pub struct Masses {
    plan: MassPlan,
    masses: Buffer<f32>,
    softmaxes: Buffer<u64>,
    workspace: Buffer<u64>,
}

impl Masses {
    /// Of the last `n_probes` queries of a prompt, all of them in the paper.
    pub fn new(queue: &Queue, layout: KvLayout, n_q_heads: u64, n_probes: u64) -> Result<Self> {
        let of_all = MassShape::of(layout, n_q_heads, n_probes);
        let plan = MassPlan::new(MassShape { is_over_all_heads: false, ..of_all })?;
        Ok(Self {
            masses: queue.alloc(plan.masses_len() as usize)?,
            softmaxes: queue.alloc(plan.n_softmaxes() as usize)?,
            workspace: queue.alloc(plan.workspace_len() as usize)?,
            plan,
        })
    }

    /// Sums: two launches. `queries` is `[batch, n_probes, n_q_heads, head_dim]`; `n_visible`, `[batch, n_probes]`, one
    /// more than their positions.
    pub fn step(
        &mut self,
        queue: &Queue,
        queries: View<'_, bf16>,
        n_visible: View<'_, u32>,
        cache: KvView<'_, bf16>,
    ) -> Result<()> {
        let inputs = MassInputs { probes: queries, n_visible, cache, skips: None };
        let mut outputs = MassOutputs {
            masses: self.masses.view_mut(),
            softmaxes: self.softmaxes.view_mut(),
            workspace: self.workspace.view_mut(),
        };
        select::column_mass(queue, &self.plan, &inputs, &mut outputs)
    }

    /// `[batch, n_heads, n]`.
    pub fn masses(&self) -> View<'_, f32> {
        self.masses.view()
    }
}

/// What each head of a layer keeps (the first four tokens, the last ones, and those with the most mass), and where the rest
/// goes: into the kept ones with the nearest keys, where they are near enough.
pub struct Eviction {
    topk: TopkPlan,
    merge: MergePlan,
    weights: MergeWeights,
    kept: (Buffer<i32>, Buffer<u32>),
    /// Of what is kept; it lists the rest.
    mask: toy::Mask,
    evicted: (Buffer<i32>, Buffer<u32>),
    nearest: Buffer<i32>,
    similarities: Buffer<f32>,
    thresholds: Buffer<f32>,
}

impl Eviction {
    /// [`MergeWeights::Softmax`] are the paper's weights, [`MergeWeights::Released`] the released code's.
    pub fn new(
        queue: &Queue,
        layout: KvLayout,
        budget: Budget,
        weights: MergeWeights,
    ) -> Result<Self> {
        let (kv, n) = (layout.shape(), layout.n_rows());
        let n_lists = kv.batch * kv.n_heads;
        let k = (budget.n_heavy + budget.n_recent) as u64;
        let topk = TopkPlan::new(TopkShape {
            n_first: budget.n_heavy.min(4) as u64,
            n_last: budget.n_recent as u64,
            rows_per_request: kv.n_heads,
            ..TopkShape::of::<f32>(n_lists, n, k)
        })?;
        let n_evicted = n.saturating_sub(k);
        let of_evicted = CompactShape {
            rows_per_request: kv.n_heads,
            listed: Listed::Dropped,
            ..CompactShape::of(n_lists, n, n_evicted)
        };
        let merge = MergePlan::new(layout, n_evicted, k)?;
        let n_lists = n_lists as usize;
        let (n_kept, n_evicted) = (merge.kept_len() as usize, merge.evicted_len() as usize);
        Ok(Self {
            weights,
            kept: (queue.alloc(n_kept)?, queue.alloc(n_lists)?),
            mask: toy::Mask::new(queue, of_evicted)?,
            evicted: (queue.alloc(n_evicted)?, queue.alloc(n_lists)?),
            nearest: queue.alloc(n_evicted)?,
            similarities: queue.alloc(n_evicted)?,
            thresholds: queue.upload(&vec![f32::NAN; n_lists])?,
            topk,
            merge,
        })
    }

    /// Ranks, and merges in place: launches alone.
    pub fn step(
        &mut self,
        queue: &Queue,
        masses: View<'_, f32>,
        cache: &mut KvViewMut<'_, bf16>,
    ) -> Result<()> {
        let inputs = TopkInputs { lengths: Some(cache.lengths), ..TopkInputs::whole(masses) };
        let mut outputs = TopkOutputs {
            kept: Some(self.mask.kept.view_mut()),
            ..TopkOutputs::new(self.kept.0.view_mut(), self.kept.1.view_mut())
        };
        select::topk_rows(queue, &self.topk, &inputs, &mut outputs)?;
        let (evicted, counts) = &mut self.evicted;
        self.mask.list(queue, cache.lengths, (evicted, counts))?;

        let (kept, evicted) = (self.kept.0.view(), self.evicted.0.view());
        let inputs = MergeInputs { evicted, kept, decay: 0.5, weights: self.weights };
        let mut state = MergeState {
            nearest: self.nearest.view_mut(),
            similarities: self.similarities.view_mut(),
            thresholds: self.thresholds.view_mut(),
        };
        select::merge_rows(queue, &self.merge, &inputs, &mut state, cache)
    }

    /// `[batch, n_heads, n_heavy + n_recent]` tokens, ascending, then -1; and `[batch, n_heads]`, how many they are.
    pub fn kept(&self) -> (View<'_, i32>, View<'_, u32>) {
        (self.kept.0.view(), self.kept.1.view())
    }

    /// `[batch, n_heads, n - n_heavy - n_recent]` and `[batch, n_heads]`: the tokens that are not kept.
    pub fn evicted(&self) -> (View<'_, i32>, View<'_, u32>) {
        (self.evicted.0.view(), self.evicted.1.view())
    }

    /// `[batch, n_heads]`: the least similarity with which a token is merged, not dropped.
    pub fn thresholds(&self) -> View<'_, f32> {
        self.thresholds.view()
    }
}

fn main() -> Result<()> {
    let machine = toy::Machine::open();
    let (queue, mut random) = (&machine.queue, toy::Random(6));
    let sizes =
        toy::Sizes { batch: 1, n: 256, n_q_heads: 4, n_heads: 2, head_dim: 32, page_size: 16 };
    let n = sizes.n as u32;
    let n_visible = queue.upload(&(1..=n).collect::<Vec<_>>())?;
    let mut layers = Vec::new();
    for l in 0..6 {
        let mut cache = toy::Cache::new(queue, sizes, &[n], &mut random)?;
        // The deeper, the more a few tokens have of the attention.
        let query = random.row(sizes.n_q_heads * sizes.head_dim);
        (0..8).for_each(|i| cache.plant(&query, 0, 5 + 20 * i, 0.06 * l as f32));
        cache.upload(queue, &[n])?;
        let queries = queue.upload(&query.repeat(sizes.n))?;
        let mut masses = Masses::new(queue, cache.layout, sizes.n_q_heads as u64, u64::from(n))?;
        masses.step(queue, queries.view(), n_visible.view(), cache.view())?;
        layers.push((cache, masses));
    }
    let mut densities = Vec::new();
    for (_, masses) in &layers {
        let masses = queue.download(&masses.masses())?;
        let heads: Vec<&[f32]> = masses.chunks(sizes.n).collect();
        densities.push(density_of(&heads, Density::Paper));
    }
    let (mut n_bytes, mut dense_bytes) = (0, 0);
    for (l, budget) in layer_budgets(&densities, sizes.n, 0.1, 0.1).iter().enumerate() {
        let (cache, masses) = &mut layers[l];
        let mut n_kept = 2 * sizes.n;
        if let Some(budget) = budget {
            let mut eviction = Eviction::new(queue, cache.layout, *budget, MergeWeights::Softmax)?;
            eviction.step(queue, masses.masses(), &mut cache.view_mut())?;
            n_kept = queue.download(&eviction.kept().1)?.iter().sum::<u32>() as usize;
        }
        println!("layer {l}: density {:.3}, a head keeps {} of {n}", densities[l], n_kept / 2);
        n_bytes += cache.bytes_of(n_kept);
        dense_bytes += cache.dense_bytes();
    }
    machine.report(dense_bytes, n_bytes);
    Ok(())
}
