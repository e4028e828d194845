//! ZipVL (arXiv:2410.08584): how many tokens of a prompt a layer attends to follows from how its attention is spread.
//!
//! `cargo run --release --example zip_vl --features simt`
#![allow(
    dead_code,
    unreachable_pub,
    clippy::missing_errors_doc,
    reason = "a module of the tests too"
)]

use half::bf16;
use lacuna::kv::{KvLayout, KvView};
use lacuna::select::{self, CompactShape, MassInputs, MassOutputs, MassPlan, MassShape};
use lacuna::select::{Rule, TopkInputs, TopkOutputs, TopkPlan, TopkShape};
use lacuna::{Buffer, Error, Queue, Result, View};

mod toy;

/// One layer's allocation. The fewest tokens that have a share of the attention say how many are kept; which ones, that
/// attention over the number of queries that could see a token, as the first tokens are seen by all.
pub struct ZipVl {
    /// Attention mass, and mass by the probes that see a token.
    masses: [(MassPlan, Buffer<f32>); 2],
    softmaxes: Buffer<u64>,
    workspace: Buffer<u64>,
    /// Of the first no picks are asked, only how many there would be.
    topks: [TopkPlan; 2],
    wanted: Buffer<u32>,
    nothing: (Buffer<i32>, Buffer<u32>),
    /// Where any number of tokens is selected.
    mask: Option<toy::Mask>,
    selected: (Buffer<i32>, Buffer<u32>),
}

impl ZipVl {
    /// `n_probes` queries of a prompt stand for all: in the paper 64 recent and 64 random ones. `share` is the paper's tau,
    /// about 0.975. As in
    /// the paper as many tokens are selected as have it, or `most`, which are at most 8,192.
    pub fn new(
        queue: &Queue,
        layout: KvLayout,
        n_q_heads: u64,
        n_probes: u64,
        share: f32,
        most: Option<u64>,
    ) -> Result<Self> {
        let (kv, n) = (layout.shape(), layout.n_rows());
        let mass = |is_per_probe: bool| {
            let plain = MassShape::of(layout, n_q_heads, n_probes);
            let plan = MassPlan::new(MassShape { is_per_probe, ..plain })?;
            Ok::<_, Error>((plan, queue.alloc(plan.masses_len() as usize)?))
        };
        let masses = [mass(false)?, mass(true)?];
        let rule = Rule::Mass { share };
        let count = TopkPlan::new(TopkShape { rule, ..TopkShape::of::<f32>(kv.batch, n, 0) })?;
        let pick = TopkPlan::new(TopkShape::of::<f32>(kv.batch, n, most.unwrap_or(0)))?;
        let mask = match most {
            Some(_) => None,
            None => Some(toy::Mask::new(queue, CompactShape::of(kv.batch, n, n))?),
        };
        let batch = kv.batch as usize;
        let n_places = (kv.batch * most.unwrap_or(n)) as usize;
        Ok(Self {
            softmaxes: queue.alloc(masses[0].0.n_softmaxes() as usize)?,
            workspace: queue.alloc(masses[0].0.workspace_len() as usize)?,
            masses,
            topks: [count, pick],
            wanted: queue.alloc(batch)?,
            nothing: (queue.alloc(0)?, queue.alloc(batch)?),
            mask,
            selected: (queue.alloc(n_places)?, queue.alloc(batch)?),
        })
    }

    /// Selects: six launches, and one or two that list a mask. `probes` is `[batch, n_probes, n_q_heads, head_dim]`; `n_visible`, `[batch, n_probes]`,
    /// one more than their positions.
    pub fn step(
        &mut self,
        queue: &Queue,
        probes: View<'_, bf16>,
        n_visible: View<'_, u32>,
        cache: KvView<'_, bf16>,
    ) -> Result<()> {
        let inputs = MassInputs { probes, n_visible, cache, skips: None };
        for (plan, masses) in &mut self.masses {
            let (softmaxes, workspace) = (self.softmaxes.view_mut(), self.workspace.view_mut());
            let mut outputs = MassOutputs { masses: masses.view_mut(), softmaxes, workspace };
            select::column_mass(queue, plan, &inputs, &mut outputs)?;
        }
        let [of_all, of_seeing] = [0, 1].map(|i: usize| TopkInputs {
            lengths: Some(cache.lengths),
            ..TopkInputs::whole(self.masses[i].1.view())
        });
        let (indices, counts) = &mut self.nothing;
        let mut outputs = TopkOutputs {
            wanted: Some(self.wanted.view_mut()),
            ..TopkOutputs::new(indices.view_mut(), counts.view_mut())
        };
        select::topk_rows(queue, &self.topks[0], &of_all, &mut outputs)?;

        let inputs = TopkInputs { counts_asked: Some(self.wanted.view()), ..of_seeing };
        let (selected, selected_counts) = &mut self.selected;
        let Some(mask) = &mut self.mask else {
            let mut outputs = TopkOutputs::new(selected.view_mut(), selected_counts.view_mut());
            return select::topk_rows(queue, &self.topks[1], &inputs, &mut outputs);
        };
        let mut outputs = TopkOutputs {
            kept: Some(mask.kept.view_mut()),
            ..TopkOutputs::new(indices.view_mut(), counts.view_mut())
        };
        select::topk_rows(queue, &self.topks[1], &inputs, &mut outputs)?;
        mask.list(queue, cache.lengths, (selected, selected_counts))
    }

    /// `[batch, most]` tokens, or `[batch, n]`, ascending, then -1; and `[batch]`, how many they are.
    pub fn selected(&self) -> (View<'_, i32>, View<'_, u32>) {
        (self.selected.0.view(), self.selected.1.view())
    }

    /// `[batch]`: how many the share asks for, more than are selected where `most` is less.
    pub fn wanted(&self) -> View<'_, u32> {
        self.wanted.view()
    }
}

fn main() -> Result<()> {
    let machine = toy::Machine::open();
    let queue = &machine.queue;
    let sizes =
        toy::Sizes { batch: 1, n: 1024, n_q_heads: 4, n_heads: 2, head_dim: 64, page_size: 16 };
    let (n, n_probes) = (1024, 16);
    // Eight recent probes, and eight of random positions.
    for strength in [0.0, 1.5] {
        let mut random = toy::Random(3);
        let mut cache = toy::Cache::new(queue, sizes, &[n], &mut random)?;
        let recent = (0..8).map(|i| n - i);
        let n_visible: Vec<_> =
            recent.chain((0..8).map(|_| 1 + random.below(n as usize) as u32)).collect();
        let query = random.row(sizes.n_q_heads * sizes.head_dim);
        for t in 0..20 {
            cache.plant(&query, 0, 40 * t, strength);
        }
        cache.upload(queue, &[n])?;
        // Probes like each other, so that their attention is where that of the others is.
        let probes = query.repeat(n_probes);
        let (probes, n_visible) = (queue.upload(&probes)?, queue.upload(&n_visible)?);

        let n_q_heads = sizes.n_q_heads as u64;
        let mut recipe = ZipVl::new(queue, cache.layout, n_q_heads, n_probes as u64, 0.975, None)?;
        recipe.step(queue, probes.view(), n_visible.view(), cache.view())?;
        let n_selected = queue.download(&recipe.selected().1)?[0] as usize;
        println!(
            "attention that is {}: {n_selected} of {n} tokens",
            match strength {
                0.0 => "spread over all tokens",
                _ => "on twenty tokens",
            }
        );
        machine.report(cache.dense_bytes(), sizes.n_heads as u64 * cache.bytes_of(n_selected));
    }
    Ok(())
}
