//! Quest (arXiv:2406.10774): the pages whose keys may have the largest products with a query, by the box around them.
//!
//! `cargo run --release --example quest --features simt`
#![allow(
    dead_code,
    unreachable_pub,
    clippy::missing_errors_doc,
    reason = "a module of the tests too"
)]

use half::bf16;
use lacuna::kv::{KvLayout, KvShape, KvView};
use lacuna::select::{self, GroupReduction, Summary, TopkPages};
use lacuna::select::{ScoreInputs, ScoreOutputs, ScorePlan, ScoreShape};
use lacuna::select::{SummarizeInputs, SummarizeOutputs, SummarizePlan, SummarizeShape};
use lacuna::select::{TopkInputs, TopkOutputs, TopkPlan, TopkShape};
use lacuna::{Buffer, Queue, Result, View};

mod toy;

/// Whose pages a list has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Lists {
    /// One list for each query head: the paper's, whose models share no heads of keys.
    QueryHead,
    /// One for each head of keys, by the largest score of its query heads: each page is read once.
    KvHead,
}

/// One layer's selection. The first two layers of a model stay dense in the paper.
pub struct Quest {
    plans: (SummarizePlan, ScorePlan, TopkPlan),
    /// Tokens of each request, and those of them that are in boxes.
    lengths: Vec<u32>,
    first_new: Buffer<u32>,
    boxes: Buffer<bf16>,
    scores: Buffer<f32>,
    selected: (Buffer<i32>, Buffer<i32>, Buffer<u32>),
}

impl Quest {
    /// `budget` pages of a list, the last one of the request, which is always selected, among them; at most `max_new`
    /// tokens in a step.
    pub fn new(
        queue: &Queue,
        layout: KvLayout,
        n_q_heads: u64,
        budget: u64,
        lists: Lists,
        max_new: u64,
    ) -> Result<Self> {
        let kv = *layout.shape();
        // A box for each page of keys, on the page of the same number.
        let boxes = KvLayout::new(
            KvShape { row_len: 2 * kv.row_len, page_size: 1, tokens_per_row: kv.page_size, ..kv }
                .nhd(),
        )?;
        let summarize = SummarizePlan::new(SummarizeShape {
            keys: layout,
            summaries: boxes,
            summary: Summary::Box,
            max_new,
            key_bytes: 2,
            outlier_stride: 0,
        })?;
        let n = boxes.n_rows();
        let reduction = match lists {
            Lists::QueryHead => GroupReduction::None,
            Lists::KvHead => GroupReduction::Max,
        };
        let shape = ScoreShape { reduction, ..ScoreShape::of_boxes(boxes, n_q_heads) };
        let score = ScorePlan::new(shape)?;
        let n_lists = kv.batch * score.n_out();
        let pages = TopkPages { n_pages: kv.n_pages, page_size: 1, table_stride: kv.table_stride };
        let topk = TopkPlan::new(TopkShape {
            n_last: 1,
            rows_per_request: score.n_out(),
            tokens_per_score: kv.page_size,
            pages: Some(pages),
            ..TopkShape::of::<f32>(n_lists, n, budget)
        })?;
        let n_picks = topk.picks_len() as usize;
        Ok(Self {
            plans: (summarize, score, topk),
            lengths: vec![0; kv.batch as usize],
            first_new: queue.alloc(kv.batch as usize)?,
            boxes: queue.alloc(boxes.pool_len() as usize)?,
            scores: queue.alloc(score.scores_len() as usize)?,
            selected: (
                queue.alloc(n_picks)?,
                queue.alloc(n_picks)?,
                queue.alloc(n_lists as usize)?,
            ),
        })
    }

    /// Uploads what is new: before a step, as the host changes the cache's lengths. A request that is shorter than it
    /// was is another one.
    pub fn advance(&mut self, queue: &Queue, lengths: &[u32]) -> Result<()> {
        let first = |(old, new): (&u32, &u32)| if old <= new { *old } else { 0 };
        let first_new: Vec<_> = self.lengths.iter().zip(lengths).map(first).collect();
        self.lengths = lengths.to_vec();
        queue.upload_into(&first_new, &mut self.first_new.view_mut())
    }

    /// Boxes the new tokens and selects: three launches.
    pub fn step(
        &mut self,
        queue: &Queue,
        queries: View<'_, bf16>,
        cache: KvView<'_, bf16>,
    ) -> Result<()> {
        let (summarize, score, topk) = &self.plans;
        let first_new = Some(self.first_new.view());
        let inputs = SummarizeInputs { keys: cache, summary_table: cache.page_table, first_new };
        let mut outputs = SummarizeOutputs { rows: self.boxes.view_mut(), outliers: None };
        select::summarize(queue, summarize, &inputs, &mut outputs)?;

        let boxes = KvView {
            layout: summarize.shape().summaries,
            keys: self.boxes.view(),
            values: None,
            ..cache
        };
        let inputs = ScoreInputs { queries, cache: boxes, skips: None };
        let mut outputs = ScoreOutputs { scores: self.scores.view_mut(), softmax: None };
        select::score_rows(queue, score, &inputs, &mut outputs)?;

        let (indices, pages, counts) = &mut self.selected;
        let inputs = TopkInputs {
            lengths: Some(cache.lengths),
            page_table: Some(cache.page_table),
            ..TopkInputs::whole(self.scores.view())
        };
        let mut outputs = TopkOutputs {
            slots: Some(pages.view_mut()),
            ..TopkOutputs::new(indices.view_mut(), counts.view_mut())
        };
        select::topk_rows(queue, topk, &inputs, &mut outputs)
    }

    /// `[batch, lists, budget]` pages of the request, ascending, then -1; and `[batch, lists]`, how many they are.
    pub fn selected(&self) -> (View<'_, i32>, View<'_, u32>) {
        (self.selected.0.view(), self.selected.2.view())
    }

    /// The same pages by their numbers in the pool: page tables of attention.
    pub fn pages(&self) -> View<'_, i32> {
        self.selected.1.view()
    }
}

fn main() -> Result<()> {
    let machine = toy::Machine::open();
    let (queue, mut random) = (&machine.queue, toy::Random(2));
    let sizes =
        toy::Sizes { batch: 1, n: 4096, n_q_heads: 8, n_heads: 2, head_dim: 64, page_size: 16 };
    let queries = random.row(sizes.n_q_heads * sizes.head_dim);
    let mut cache = toy::Cache::new(queue, sizes, &[4000], &mut random)?;
    cache.plant(&queries, 0, 1500, 1.0);
    cache.upload(queue, &[4000])?;
    let queries = queue.upload(&queries)?;

    let n_q_heads = sizes.n_q_heads as u64;
    let mut recipe = Quest::new(queue, cache.layout, n_q_heads, 16, Lists::KvHead, 4096)?;
    recipe.advance(queue, &[4000])?;
    recipe.step(queue, queries.view(), cache.view())?;
    println!("the first step boxes all keys");
    report(&machine, &recipe, &cache)?;

    cache.upload(queue, &[4001])?;
    recipe.advance(queue, &[4001])?;
    recipe.step(queue, queries.view(), cache.view())?;
    println!("the next one those of one page");
    report(&machine, &recipe, &cache)
}

fn report(machine: &toy::Machine, recipe: &Quest, cache: &toy::Cache) -> Result<()> {
    let (indices, counts) = recipe.selected();
    let n_pages: u32 = machine.queue.download(&counts)?.iter().sum();
    let selected = machine.queue.download(&indices)?;
    let n_found = selected.chunks(16).filter(|list| list.contains(&(1500 / 16))).count();
    println!("two lists of {} pages; {n_found} of them have the needle's", n_pages / 2);
    machine.report(cache.dense_bytes(), cache.bytes_of(16 * n_pages as usize));
    Ok(())
}
