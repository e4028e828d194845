//! Quest (arXiv:2406.10774), as in `examples/quest.rs`: pages by the boxes around their keys.

use std::fmt;

use candle_core::Tensor;
use lacuna::select::{GroupReduction, ScoreKind, Summary};
use lacuna_candle::{
    KvCache, ScoreOptions, Segment, TopkOptions, attend, box_cache, score_rows, summarize,
    topk_rows,
};

use super::{Context, Method};
use crate::Result;
use crate::session::PAGE_SIZE;

/// The recipe's numbers: a list of pages for each head of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageBounds {
    /// Pages of a list, the last one among them.
    pub n_pages: usize,
    /// Layers that attend to all: the first two in the paper.
    pub n_dense: usize,
}

impl PageBounds {
    pub(super) fn begin(&self, context: Context<'_>) -> Result<Bounds> {
        let mut boxes = box_cache(context.cache)?;
        summarize(context.cache, &mut boxes, Summary::Box, None)?;
        Ok(Bounds { n_pages: self.n_pages, boxes, n_boxed: context.n_tokens })
    }
}

impl fmt::Display for PageBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n_pages, n_dense } = self;
        write!(f, "page bounds, {n_pages} pages of {PAGE_SIZE} tokens, {n_dense} layers full")
    }
}

pub(super) struct Bounds {
    n_pages: usize,
    boxes: KvCache,
    /// Tokens that are in boxes.
    n_boxed: usize,
}

impl Method for Bounds {
    fn step(&mut self, context: Context<'_>, query: &Tensor) -> Result<Tensor> {
        let Context { cache, n_tokens, .. } = context;
        let first_new = Tensor::new(&[self.n_boxed as u32], query.device())?;
        summarize(cache, &mut self.boxes, Summary::Box, Some(&first_new))?;
        self.n_boxed = n_tokens;
        let options = ScoreOptions { kind: ScoreKind::Box, reduction: GroupReduction::Max };
        let scores = score_rows(query, &self.boxes, &options)?;
        let options = TopkOptions {
            n_last: 1,
            lengths: Some(&cache.lengths),
            tokens_per_score: PAGE_SIZE,
            ..TopkOptions::largest(self.n_pages)
        };
        let picks = topk_rows(&scores, &options)?;
        let segment = Segment::blocks(cache, &picks.indices, Some(&picks.counts), PAGE_SIZE);
        Ok(attend(query, &[segment], &context.options())?.outputs)
    }

    fn bytes(&self, n_tokens: usize, row_bytes: u64) -> u64 {
        let n_selected = (self.n_pages * PAGE_SIZE).min(n_tokens);
        // A box is as long as a key and a value.
        (n_selected + n_tokens.div_ceil(PAGE_SIZE)) as u64 * row_bytes
    }
}
