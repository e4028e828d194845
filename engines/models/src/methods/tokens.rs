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

    pub(super) fn begin(&self, context: Context<'_>) -> Result<Selecting> {
        let cache = context.cache;
        let n_init_pages = self.n_init / cache.layout()?.shape().page_size as usize;
        let mut pages: Vec<i32> = cache.page_table.flatten_all()?.to_vec1()?;
        pages.iter_mut().take(n_init_pages).for_each(|page| *page = -1);
        let table = Tensor::from_vec(pages, cache.page_table.dims(), cache.page_table.device())?;
        Ok(Selecting { settings: *self, table })
    }
}

impl fmt::Display for TokenSelect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n_init, n_local, k } = self;
        write!(f, "TokenSelect, {n_init} first + {k} + {n_local} last tokens")
    }
}

/// One layer's.
pub(super) struct Selecting {
    settings: TokenSelect,
    /// The candidates' page table: the cache's, but that the first tokens have no page.
    table: Tensor,
}

impl Method for Selecting {
    fn step(&mut self, context: Context<'_>, query: &Tensor) -> Result<Tensor> {
        let TokenSelect { n_init, n_local, .. } = self.settings;
        let Context { cache, n_tokens, .. } = context;
        // The last tokens are no candidates either.
        let n_candidates = n_tokens.saturating_sub(n_local) as u32;
        let candidates = KvCache {
            page_table: self.table.clone(),
            lengths: Tensor::new(&[n_candidates], query.device())?,
            ..cache.clone()
        };
        let votes = vote_rows(query, &candidates, &VoteOptions::default())?;
        let options = TopkOptions {
            n_first: n_init,
            n_last: n_local,
            lengths: Some(&cache.lengths),
            ..TopkOptions::largest(self.settings.n_selected())
        };
        let picks = topk_rows(&votes, &options)?;
        let (indices, counts) = (picks.indices.squeeze(1)?, picks.counts.squeeze(1)?);
        let segment = Segment::blocks(cache, &indices, Some(&counts), 1);
        Ok(attend(query, &[segment], &context.options())?.outputs)
    }

    fn bytes(&self, n_tokens: usize, row_bytes: u64) -> u64 {
        let TokenSelect { n_init, n_local, .. } = self.settings;
        let n_scored = n_tokens.saturating_sub(n_init + n_local) as u64;
        // To choose, keys alone.
        self.settings.n_selected().min(n_tokens) as u64 * row_bytes + n_scored * row_bytes / 2
    }
}
