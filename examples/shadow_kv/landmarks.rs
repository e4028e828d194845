//! Which chunks a query selects: each chunk of a prompt's keys stands behind its mean, but for those that do not.

use half::bf16;
use lacuna::kv::{KvLayout, KvShape, KvView};
use lacuna::select::{self, Summary, Together, VotePlan, VoteReduction, VoteRule};
use lacuna::select::{Rule, TopkInputs, TopkOutputs, TopkPlan, TopkShape, VoteInputs, VoteOutputs};
use lacuna::select::{ScoreInputs, ScoreOutputs, ScorePlan, ScoreShape, SoftmaxOutputs};
use lacuna::select::{SummarizeInputs, SummarizeOutputs, SummarizePlan, SummarizeShape};
use lacuna::{Buffer, Error, Queue, Result, View};

use super::Settings;

/// How many chunks of a prompt have landmarks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Landmarks {
    /// All before the local ones.
    Paper,
    /// Of those, a multiple of 8: the rest is local.
    Released,
}

/// One layer's selection, for each head of keys by itself: to the kernels, each is a request with one head, and has a page
/// table of its own, in which outliers are absent. What is selected, outliers and local tokens are apart: no token is twice.
pub struct Selection {
    settings: Settings,
    summarize: SummarizePlan,
    outlier: TopkPlan,
    vote: VotePlan,
    topk: TopkPlan,
    means: Buffer<bf16>,
    outlier_scores: Buffer<f32>,
    outliers: (Buffer<i32>, Buffer<u32>),
    /// The page tables of landmarks, of one row a page, and how many a head has.
    tables: Buffer<i32>,
    n_landmarks: Buffer<u32>,
    scores: Buffer<f32>,
    softmaxes: Buffer<u64>,
    workspace: Buffer<u64>,
    votes: Buffer<f32>,
    selected: (Buffer<i32>, Buffer<u32>),
}

impl Selection {
    /// Allocates.
    pub fn new(
        queue: &Queue,
        layout: KvLayout,
        n_q_heads: u64,
        settings: Settings,
    ) -> Result<Self> {
        let Settings { chunk, budget, n_outliers, .. } = settings;
        let kv = *layout.shape();
        if !kv.page_size.is_multiple_of(chunk as u64) {
            let (what, value) = ("tokens of a page", kv.page_size);
            return Err(Error::Range { what, value, allowed: "whole chunks" });
        }
        let of_page = kv.page_size / chunk as u64;
        let means = KvLayout::new(
            KvShape { page_size: of_page, tokens_per_row: chunk as u64, ..kv }.nhd(),
        )?;
        let n = means.n_rows();
        let summarize = SummarizePlan::new(SummarizeShape {
            keys: layout,
            summaries: means,
            summary: Summary::MeanAndOutlier,
            max_new: layout.n_rows(),
            key_bytes: 2,
            outlier_stride: n,
        })?;
        let n_lists = kv.batch * kv.n_heads;
        let outlier = TopkPlan::new(TopkShape::of::<f32>(n_lists, n, n_outliers as u64))?;
        let group = n_q_heads / kv.n_heads;
        let head = KvShape {
            batch: n_lists,
            n_heads: 1,
            n_pages: kv.n_pages * of_page * kv.n_heads,
            page_size: 1,
            table_stride: n,
            ..kv
        };
        let score = ScorePlan::new(ScoreShape::of(KvLayout::new(head.nhd())?, group))?;
        let (together, reduction) = (Together::Group, VoteReduction::Max);
        let vote = VotePlan::new(&score, VoteRule { together, reduction, stride: n })?;
        // An outlier has no weight, nor has a chunk that no query can tell from nothing.
        let rule = Rule::AtLeast { least: f32::from_bits(1) };
        let of_budget = TopkShape::of::<f32>(n_lists, n, (budget / chunk) as u64);
        let topk = TopkPlan::new(TopkShape { rule, ..of_budget })?;
        let n_lists = n_lists as usize;
        Ok(Self {
            settings,
            means: queue.alloc(means.pool_len() as usize)?,
            outlier_scores: queue.alloc(summarize.outliers_len() as usize)?,
            outliers: (queue.alloc(outlier.picks_len() as usize)?, queue.alloc(n_lists)?),
            tables: queue.alloc(score.shape().layout.table_len() as usize)?,
            n_landmarks: queue.alloc(n_lists)?,
            scores: queue.alloc(score.scores_len() as usize)?,
            softmaxes: queue.alloc(score.n_softmaxes() as usize)?,
            workspace: queue.alloc(score.workspace_len() as usize)?,
            votes: queue.alloc(vote.votes_len() as usize)?,
            selected: (queue.alloc(topk.picks_len() as usize)?, queue.alloc(n_lists)?),
            summarize,
            outlier,
            vote,
            topk,
        })
    }

    /// Chunks of a prompt of so many tokens that have landmarks; what is after them is local.
    pub fn n_landmarks(&self, length: u32) -> u32 {
        let n = (length / self.settings.chunk as u32).saturating_sub(self.settings.n_local as u32);
        match self.settings.landmarks {
            Landmarks::Paper => n,
            Landmarks::Released => n / 8 * 8,
        }
    }

    /// Makes landmarks of prompts, once: the outliers go through the host, into page tables. Tokens that come later are
    /// local.
    pub fn prefill(
        &mut self,
        queue: &Queue,
        cache: KvView<'_, bf16>,
        page_table: &[i32],
        lengths: &[u32],
    ) -> Result<()> {
        let means = self.summarize.shape().summaries;
        let (n, n_heads) = (means.n_rows() as usize, means.shape().n_heads as usize);
        let of_heads = |length: &u32| std::iter::repeat_n(self.n_landmarks(*length), n_heads);
        let n_landmarks: Vec<_> = lengths.iter().flat_map(of_heads).collect();
        queue.upload_into(&n_landmarks, &mut self.n_landmarks.view_mut())?;

        let inputs =
            SummarizeInputs { keys: cache, summary_table: cache.page_table, first_new: None };
        let outliers = Some(self.outlier_scores.view_mut());
        let mut outputs = SummarizeOutputs { rows: self.means.view_mut(), outliers };
        select::summarize(queue, &self.summarize, &inputs, &mut outputs)?;
        let lengths = Some(self.n_landmarks.view());
        let inputs = TopkInputs { lengths, ..TopkInputs::whole(self.outlier_scores.view()) };
        let (indices, counts) = &mut self.outliers;
        let mut outputs = TopkOutputs::new(indices.view_mut(), counts.view_mut());
        select::topk_rows(queue, &self.outlier, &inputs, &mut outputs)?;

        let row = |b: usize, h: usize, t: usize| {
            let element = means.locate(page_table, b as u64, t as u64, h as u64)?;
            Some((element as u64 / means.shape().row_len) as i32)
        };
        let mut tables: Vec<i32> = (0..n_landmarks.len() * n)
            .map(|i| row(i / n / n_heads, i / n % n_heads, i % n).unwrap_or(-1))
            .collect();
        let outliers = queue.download(&self.outliers.0.view())?;
        for (list, outliers) in outliers.chunks(self.settings.n_outliers.max(1)).enumerate() {
            for outlier in outliers.iter().filter(|outlier| **outlier >= 0) {
                tables[list * n + *outlier as usize] = -1;
            }
        }
        queue.upload_into(&tables, &mut self.tables.view_mut())
    }

    /// Selects: two launches where a head's scores fit on chip, else three.
    pub fn step(&mut self, queue: &Queue, queries: View<'_, bf16>) -> Result<()> {
        let score = self.vote.score();
        let lengths = self.n_landmarks.view();
        let cache = KvView {
            layout: score.shape().layout,
            keys: self.means.view(),
            values: None,
            page_table: self.tables.view(),
            lengths,
            key_scale: 1.0,
            value_scale: 1.0,
        };
        let inputs = ScoreInputs { queries, cache, skips: None };
        if score.fits_on_chip(&self.vote) {
            let votes = self.votes.view_mut();
            let mut outputs = VoteOutputs::<f32, f32> { votes, scores: None };
            select::score_votes(queue, &self.vote, &inputs, &mut outputs)?;
        } else {
            let (softmaxes, workspace) = (self.softmaxes.view_mut(), self.workspace.view_mut());
            let softmax = Some(SoftmaxOutputs { softmaxes, workspace });
            let mut outputs = ScoreOutputs { scores: self.scores.view_mut(), softmax };
            select::score_rows(queue, score, &inputs, &mut outputs)?;
            let (scores, softmaxes) = (self.scores.view(), self.softmaxes.view());
            let inputs = VoteInputs { scores, softmaxes, lengths, skips: None };
            select::vote_rows(queue, &self.vote, &inputs, &mut self.votes.view_mut())?;
        }
        let (indices, counts) = &mut self.selected;
        let lengths = Some(lengths);
        let inputs = TopkInputs { lengths, ..TopkInputs::whole(self.votes.view()) };
        let mut outputs = TopkOutputs::new(indices.view_mut(), counts.view_mut());
        select::topk_rows(queue, &self.topk, &inputs, &mut outputs)
    }

    /// `[batch, n_heads, budget / chunk]` chunks, ascending, then -1; and `[batch, n_heads]`, how many they are.
    pub fn selected(&self) -> (View<'_, i32>, View<'_, u32>) {
        (self.selected.0.view(), self.selected.1.view())
    }

    /// `[batch, n_heads, n_outliers]` and `[batch, n_heads]`: chunks whose keys and values stay as they are.
    pub fn outliers(&self) -> (View<'_, i32>, View<'_, u32>) {
        (self.outliers.0.view(), self.outliers.1.view())
    }
}
