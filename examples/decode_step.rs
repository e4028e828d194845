//! One layer of one decoding step over a long context: weights are expanded, keys scored, voted on and picked, and what was picked
//! is attended to; beside it, attention to all of the context by the same kernel.
//!
//! `cargo run --release --example decode_step --features simt`
#![allow(
    dead_code,
    unreachable_pub,
    clippy::duplicate_mod,
    clippy::missing_errors_doc,
    reason = "a module of the tests too, with what examples share"
)]

use half::bf16;
use lacuna::attention::{self, AttendInputs, AttendOutputs, AttendPlan, AttendShape};
use lacuna::attention::{Segment, SegmentShape, Tokens};
use lacuna::huffman::{self, DeviceWeights};
use lacuna::kv::{KvLayout, KvView};
use lacuna::{Buffer, Queue, Result, View};

#[path = "token_select.rs"]
pub(crate) mod token_select;
pub(crate) mod toy;

use token_select::{Settings, TokenSelect};

/// What one layer keeps between steps. A step only launches.
pub struct DecodeStep {
    weights: DeviceWeights<'static>,
    expanded: Buffer<bf16>,
    status: Buffer<u64>,
    select: TokenSelect,
    plans: [AttendPlan; 2],
    workspaces: [Buffer<u32>; 2],
    outputs: [Buffer<bf16>; 2],
}

impl DecodeStep {
    /// `group` has the layer's weights, entropy-coded; `settings` say how many tokens are selected.
    pub fn new(
        queue: &Queue,
        group: huffman::Group<'_>,
        layout: KvLayout,
        n_q_heads: u64,
        settings: Settings,
    ) -> Result<Self> {
        let weights = DeviceWeights::upload(queue, [group])?;
        let shape = AttendShape::of(&layout, n_q_heads);
        let n_blocks = (settings.n_init + settings.k + settings.n_local) as u64;
        let picked = SegmentShape::of(layout, Tokens::Blocks { n_blocks, block_size: 1 });
        let plans = [
            AttendPlan::new(shape, &[picked])?,
            AttendPlan::new(shape, &[SegmentShape::of(layout, Tokens::ALL)])?,
        ];
        let alloc = |plan: &AttendPlan| {
            let workspace = queue.alloc(plan.workspace_len() as usize)?;
            Ok((workspace, queue.alloc(plan.outputs_len() as usize)?))
        };
        let [picked, all]: [Result<(Buffer<u32>, Buffer<bf16>)>; 2] = plans.each_ref().map(alloc);
        let ((of_picked, picked), (of_all, all)) = (picked?, all?);
        Ok(Self {
            expanded: queue.alloc(weights.plan().output_len() as usize)?,
            status: queue.alloc(weights.plan().workspace_len() as usize)?,
            weights,
            select: TokenSelect::new(queue, layout, n_q_heads, settings)?,
            plans,
            workspaces: [of_picked, of_all],
            outputs: [picked, all],
        })
    }

    /// Uploads which tokens are candidates: whenever the host has changed lengths or page tables.
    pub fn place(&mut self, queue: &Queue, page_table: &[i32], lengths: &[u32]) -> Result<()> {
        self.select.place(queue, page_table, lengths)
    }

    /// Expands the layer's weights, for the engine's matrix products: one launch.
    pub fn expand(&mut self, queue: &Queue) -> Result<View<'_, bf16>> {
        let (status, expanded) = (&mut self.status.view_mut(), &mut self.expanded.view_mut());
        self.weights.decode(queue, status, expanded)?;
        Ok(self.expanded.view())
    }

    /// Whether all weights were sound: after the engine has synchronised anyway.
    pub fn check(&self, queue: &Queue) -> Result<()> {
        self.weights.check(queue, &self.status.view())
    }

    /// Scores, votes, picks and attends to what was picked: four launches.
    pub fn attend(
        &mut self,
        queue: &Queue,
        queries: View<'_, bf16>,
        cache: KvView<'_, bf16>,
    ) -> Result<View<'_, bf16>> {
        self.select.step(queue, queries, cache)?;
        let (indices, counts) = self.select.selected();
        let segment = Segment { counts: Some(counts), ..Segment::new(cache, Some(indices)) };
        let ([workspace, _], [outputs, _]) = (&mut self.workspaces, &mut self.outputs);
        attend_to(queue, &self.plans[0], queries, segment, workspace, outputs)?;
        Ok(self.outputs[0].view())
    }

    /// Attends to all of the context: one launch.
    pub fn attend_to_all(
        &mut self,
        queue: &Queue,
        queries: View<'_, bf16>,
        cache: KvView<'_, bf16>,
    ) -> Result<View<'_, bf16>> {
        let ([_, workspace], [_, outputs]) = (&mut self.workspaces, &mut self.outputs);
        let segment = Segment::new(cache, None);
        attend_to(queue, &self.plans[1], queries, segment, workspace, outputs)?;
        Ok(self.outputs[1].view())
    }

    /// The tokens that the last step attended to, and how many.
    pub fn selected(&self) -> (View<'_, i32>, View<'_, u32>) {
        self.select.selected()
    }
}

fn attend_to(
    queue: &Queue,
    plan: &AttendPlan,
    queries: View<'_, bf16>,
    segment: Segment<'_, bf16>,
    workspace: &mut Buffer<u32>,
    outputs: &mut Buffer<bf16>,
) -> Result<()> {
    let inputs = AttendInputs { queries, segments: &[segment], sinks: None, skips: None };
    let (outputs, workspace) = (outputs.view_mut(), workspace.view_mut());
    let mut outputs = AttendOutputs { outputs, log_sums: None, workspace };
    attention::attend(queue, plan, &inputs, &mut outputs)
}

/// What the engine does between lacuna's launches: a projection, here on the CPU.
pub fn project(weights: &[bf16], hidden: &[bf16]) -> Vec<bf16> {
    let product = |row: &[bf16]| -> f32 {
        row.iter().zip(hidden).map(|(weight, x)| weight.to_f32() * x.to_f32()).sum()
    };
    weights.chunks(hidden.len()).map(|row| bf16::from_f32(product(row))).collect()
}

/// Weights of about one over the root of a row's length, as trained ones are.
pub fn weights(n_rows: usize, n_columns: usize, random: &mut toy::Random) -> Vec<bf16> {
    let scale = (n_columns as f32).sqrt().recip();
    (0..n_rows * n_columns).map(|_| bf16::from_f32(scale * random.normal())).collect()
}

fn main() -> Result<()> {
    let machine = toy::Machine::open();
    let (queue, mut random) = (&machine.queue, toy::Random(4));
    let sizes =
        toy::Sizes { batch: 1, n: 4096, n_q_heads: 8, n_heads: 2, head_dim: 64, page_size: 16 };
    let (n_hidden, lengths) = (256, [4000]);
    let weights = weights(sizes.n_q_heads * sizes.head_dim, n_hidden, &mut random);
    let encoded = huffman::encode(&[bytemuck::cast_slice(&weights)])?;
    let group = encoded.as_raw("layer").parse().expect("what was just encoded");
    println!("weights: {} bytes of {}", group.n_bytes(), 2 * weights.len());

    let mut cache = toy::Cache::new(queue, sizes, &lengths, &mut random)?;
    let settings = Settings { n_init: 16, n_local: 64, k: 128, ..Settings::default() };
    let mut step = DecodeStep::new(queue, group, cache.layout, sizes.n_q_heads as u64, settings)?;
    let expanded = queue.download(&step.expand(queue)?)?;
    step.check(queue)?;
    assert!(expanded == weights, "every weight comes back");
    let queries = project(&expanded, &random.row(n_hidden));
    for t in [700, 1500, 2500] {
        cache.plant(&queries, 0, t, 1.5);
    }
    cache.upload(queue, &lengths)?;
    step.place(queue, &cache.page_table, &lengths)?;

    let queries = queue.upload(&queries)?;
    let of_all = queue.download(&step.attend_to_all(queue, queries.view(), cache.view())?)?;
    machine.report(cache.dense_bytes(), cache.dense_bytes());
    let of_picked = queue.download(&step.attend(queue, queries.view(), cache.view())?)?;
    let n_selected = queue.download(&step.selected().1)?[0] as usize;
    machine.report(cache.dense_bytes(), sizes.n_heads as u64 * cache.bytes_of(n_selected));

    let norm = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().sqrt();
    let differences: Vec<f32> =
        of_all.iter().zip(&of_picked).map(|(a, b)| a.to_f32() - b.to_f32()).collect();
    let all: Vec<f32> = of_all.iter().map(|x| x.to_f32()).collect();
    println!(
        "attended to {n_selected} of {} tokens: {:.2} % from attention to all",
        lengths[0],
        100.0 * norm(&differences) / norm(&all)
    );
    Ok(())
}
