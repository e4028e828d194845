//! TokenSelect (arXiv:2411.02886), as in `examples/token_select.rs`: all heads of a layer vote for the tokens that all of them attend to.

use std::fmt;

use candle_core::Tensor;
use lacuna_candle::{KvCache, Segment, TopkOptions, VoteOptions, attend, topk_rows, vote_rows};

use super::{Context, Method};
use crate::Result;

/// The recipe's numbers. Every step votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenSelect {
    /// So many first tokens are always selected: whole pages of them.
    pub n_init: usize,
    /// So many last tokens are always selected.
    pub n_local: usize,
    /// So many of the others are.
    pub k: usize,
}

impl TokenSelect {
    fn n_selected(&self) -> usize {
        self.n_init + self.k + self.n_local
    }
}

impl fmt::Display for TokenSelect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n_init, n_local, k } = self;
        write!(f, "TokenSelect, {n_init} first + {k} + {n_local} last tokens")
    }
}

impl Method for TokenSelect {
    fn step(&mut self, context: Context<'_>, query: &Tensor) -> Result<Tensor> {
        let (Self { n_init, n_local, .. }, Context { cache, n_tokens, .. }) = (*self, context);
        let device = query.device();
        // Of the first tokens no page, and of the last no length: they are no candidates.
        let n_init_pages = n_init / cache.layout()?.shape().page_size as usize;
        let n_pages = cache.page_table.dim(1)?;
        let none = Tensor::full(-1_i32, (1, n_init_pages.min(n_pages)), device)?;
        let others = cache.page_table.narrow(1, none.dim(1)?, n_pages - none.dim(1)?)?;
        let candidates = KvCache {
            page_table: Tensor::cat(&[none, others], 1)?,
            lengths: Tensor::new(&[n_tokens.saturating_sub(n_local) as u32], device)?,
            ..cache.clone()
        };
        let votes = vote_rows(query, &candidates, &VoteOptions::default())?;
        let options = TopkOptions {
            n_first: n_init,
            n_last: n_local,
            lengths: Some(&cache.lengths),
            ..TopkOptions::largest(self.n_selected())
        };
        let picks = topk_rows(&votes, &options)?;
        let (indices, counts) = (picks.indices.squeeze(1)?, picks.counts.squeeze(1)?);
        let segment = Segment::blocks(cache, &indices, Some(&counts), 1);
        Ok(attend(query, &[segment], &context.options())?.outputs)
    }

    fn bytes(&self, n_tokens: usize, row_bytes: u64) -> u64 {
        let n_scored = n_tokens.saturating_sub(self.n_init + self.n_local) as u64;
        // To choose, keys alone.
        self.n_selected().min(n_tokens) as u64 * row_bytes + n_scored * row_bytes / 2
    }
}
