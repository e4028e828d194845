//! A context in tiers of bits: first and last tokens are numbers, and all others have as many bits as they mattered when they left the window (after
//! ZipCache, arXiv:2405.14256). `examples/tiered_kv.rs` also takes bits from tokens that matter less later on; `lacuna-candle` has no such launch.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use candle_core::Tensor;
use lacuna::attention::Tokens;
use lacuna::quant::{PageShape, Part, Tier, choose_probes};
use lacuna::select::{Together, VoteReduction};
use lacuna_candle::{
    KvCache, Segment, TieredPages, VoteOptions, attend_tiered, measure_channels, quantize_pages,
    vote_rows,
};

use super::{Context, Method};
use crate::Result;

/// Tokens of a page.
const PAGE: usize = PageShape::TOKENS;
/// By tag.
const TIERS: [Tier; 4] = [Tier::T16, Tier::T8, Tier::T4, Tier::T2];
/// Of a prompt, queries that say what matters: so many of the last, and so many of those before. Of tokens after it, so many of the last.
const PROBES: [u32; 2] = [32, 32];
const SEED: u64 = 9;

/// How a cache is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tiers {
    /// So many of the first tokens stay numbers.
    pub n_sinks: usize,
    /// And so many of the last, at least.
    pub n_window: usize,
    /// Tokens from one time that tokens leave the window to the next.
    pub n_between: usize,
    /// Shares of tokens that have 16, 8, 4 and 2 bits, of those that leave.
    pub shares: [f64; 4],
}

impl Tiers {
    pub(super) fn begin(&self, context: Context<'_>, queries: &Tensor) -> Result<Tiered> {
        let layout = context.cache.layout()?;
        let n_heads = layout.shape().n_heads as usize;
        let n_pages = (layout.n_rows() as usize).div_ceil(PAGE);
        let n_pool_pages =
            self.shares.map(|share| if share > 0.0 { 2 * n_heads * n_pages } else { 0 });
        let mut tiered = Tiered {
            settings: *self,
            shape: PageShape::new(layout.shape().row_len, Part::Keys)?,
            pages: TieredPages::new(context.cache, n_pages, n_pool_pages)?,
            entries: [(); 2].map(|()| vec![vec![TieredPages::NO_PAGE; n_pages]; n_heads]),
            n_made: 0,
            n_pool_pages: [0; 4],
            first_row: self.n_sinks,
            next: self.n_sinks + self.n_window + PAGE,
            probes: VecDeque::new(),
        };
        if self.is_mixed() {
            let [n_recent, n_random] = PROBES;
            for probe in choose_probes(SEED, context.n_tokens as u32, n_recent, n_random) {
                let query = queries.narrow(0, probe as usize, 1)?;
                tiered.probes.push_back((query, probe + 1));
            }
        }
        tiered.advance(context)?;
        Ok(tiered)
    }

    /// Whether it is asked what matters.
    fn is_mixed(&self) -> bool {
        self.shares.iter().filter(|share| **share > 0.0).count() > 1
    }
}

impl fmt::Display for Tiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_tiers = TIERS.iter().zip(self.shares).filter(|(_, share)| *share > 0.0);
        let of_tiers = of_tiers.map(|(tier, share)| match share {
            1.0 => tier.to_string(),
            _ => format!("{} % of {tier}", 100.0 * share),
        });
        let Self { n_sinks, n_window, .. } = self;
        let of_tiers: Vec<_> = of_tiers.collect();
        write!(
            f,
            "tiered, {}; {n_sinks} first + {n_window} last as they are",
            of_tiers.join(" and ")
        )
    }
}

/// One layer's.
pub(super) struct Tiered {
    settings: Tiers,
    shape: PageShape,
    pages: TieredPages,
    /// Of keys and of values, of each head.
    entries: [Vec<Vec<u32>>; 2],
    /// Pages of each head.
    n_made: usize,
    /// Pages of keys and of values in each pool, by tag.
    n_pool_pages: [u32; 4],
    /// The first token after those in pages.
    first_row: usize,
    next: usize,
    /// Queries that say what matters, and the tokens that each sees.
    probes: VecDeque<(Tensor, u32)>,
}

impl Tiered {
    /// Puts tokens that are older than the window into pages, as many as fill some.
    fn advance(&mut self, context: Context<'_>) -> Result<()> {
        let Context { cache, n_tokens, .. } = context;
        if n_tokens < self.next {
            return Ok(());
        }
        let Tiers { n_sinks, n_window, n_between, .. } = self.settings;
        self.next = n_tokens + n_between;
        let end = n_sinks + (n_tokens - n_window - n_sinks) / PAGE * PAGE;
        let tokens = std::mem::replace(&mut self.first_row, end)..end;
        if self.n_made == 0 {
            self.measure(cache, tokens.clone())?;
        }
        let (n_heads, n_pages) = (self.entries[0].len(), self.entries[0][0].len());
        let n_new = tokens.len() / PAGE;
        let scores = self.scores(cache)?;
        let mut indices = vec![-1_i32; n_heads * n_pages * PAGE];
        let mut new = [(); 2].map(|()| vec![vec![TieredPages::NO_PAGE; n_pages]; n_heads]);
        for (head, indices) in indices.chunks_mut(n_pages * PAGE).enumerate() {
            let mut ranked: Vec<usize> = tokens.clone().collect();
            if let Some(scores) = &scores {
                ranked.sort_by(|a, b| scores[head][*b].total_cmp(&scores[head][*a]));
            }
            let mut page = self.n_made;
            for (tier, n) in TIERS.into_iter().zip(self.n_of_tiers(n_new)) {
                let mut own: Vec<usize> = ranked.drain(..n * PAGE).collect();
                own.sort_unstable();
                for own in own.chunks(PAGE) {
                    for (index, token) in indices[page * PAGE..].iter_mut().zip(own) {
                        *index = *token as i32;
                    }
                    for entries in &mut new {
                        let number = &mut self.n_pool_pages[tier.tag() as usize];
                        entries[head][page] = TieredPages::entry(tier, *number);
                        *number += 1;
                    }
                    page += 1;
                }
            }
        }
        let device = cache.keys.device();
        let indices = Tensor::from_vec(indices, (1, n_heads, n_pages, PAGE), device)?;
        let tensor = |entries: &[Vec<u32>]| {
            Tensor::from_vec(entries.concat(), (1, n_heads, n_pages), device)
        };
        // Pages that are there already are not made again.
        let only_new = TieredPages {
            key_entries: tensor(&new[0])?,
            value_entries: tensor(&new[1])?,
            ..self.pages.clone()
        };
        quantize_pages(cache, &indices, &only_new)?;
        for (all, new) in self.entries.iter_mut().zip(&new) {
            for (all, new) in all.iter_mut().zip(new) {
                let of_new = self.n_made..self.n_made + n_new;
                all[of_new.clone()].copy_from_slice(&new[of_new]);
            }
        }
        self.n_made += n_new;
        self.pages.key_entries = tensor(&self.entries[0])?;
        self.pages.value_entries = tensor(&self.entries[1])?;
        Ok(())
    }

    /// Of so many new pages of a head, those of each tier: the most bits are rounded up.
    fn n_of_tiers(&self, n_new: usize) -> [usize; 4] {
        let (mut share, mut n_before) = (0.0, 0);
        self.settings.shares.map(|own| {
            share += own;
            let n = ((share * n_new as f64 - 1e-9).ceil() as usize).min(n_new) - n_before;
            n_before += n;
            n
        })
    }

    /// `[n_heads][n_rows]`: the attention that a token got of probes, over how many saw it; nothing where all have the same bits.
    fn scores(&mut self, cache: &KvCache) -> Result<Option<Vec<Vec<f32>>>> {
        if !self.settings.is_mixed() {
            return Ok(None);
        }
        let (together, reduction) = (Together::Group, VoteReduction::Sum);
        let options = VoteOptions { together, reduction, softmax_scale: None };
        let mut sum: Option<Tensor> = None;
        for (query, n_seen) in &self.probes {
            let lengths = Tensor::new(&[*n_seen], query.device())?;
            let votes = vote_rows(query, &KvCache { lengths, ..cache.clone() }, &options)?;
            sum = Some(match sum {
                Some(sum) => (sum + votes)?,
                None => votes,
            });
        }
        let Some(sum) = sum else { return Ok(None) };
        let mut scores: Vec<Vec<f32>> = sum.squeeze(0)?.to_vec2()?;
        for (token, score) in scores.iter_mut().flat_map(|scores| scores.iter_mut().enumerate()) {
            let n = self.probes.iter().filter(|(_, n_seen)| token < *n_seen as usize).count();
            *score /= n.max(1) as f32;
        }
        self.probes.clear();
        Ok(Some(scores))
    }

    /// What channels are relative to, of these tokens and of all that come.
    fn measure(&mut self, cache: &KvCache, tokens: Range<usize>) -> Result<()> {
        let n_heads = self.entries[0].len();
        let list: Vec<i32> = tokens.map(|token| token as i32).collect();
        let dims = (1, n_heads, list.len() / PAGE, PAGE);
        let indices = Tensor::from_vec(list.repeat(n_heads), dims, cache.keys.device())?;
        Ok(measure_channels(cache, &indices, &mut self.pages)?)
    }
}

impl Method for Tiered {
    fn step(&mut self, context: Context<'_>, query: &Tensor) -> Result<Tensor> {
        let Context { cache, n_tokens, .. } = context;
        if self.settings.is_mixed() {
            self.probes.push_back((query.clone(), n_tokens as u32));
            if self.probes.len() > PROBES[0] as usize {
                self.probes.pop_front();
            }
        }
        self.advance(context)?;
        let (first, all) = (self.first_row as u64, u64::MAX);
        let recent = Tokens::Range { first, end: all, last: all };
        let sinks = Tokens::first(self.settings.n_sinks as u64);
        let segments = [sinks, recent].map(|tokens| Segment::range(cache, tokens));
        Ok(attend_tiered(query, &self.pages, &segments, &context.options())?.outputs)
    }

    fn bytes(&self, n_tokens: usize, row_bytes: u64) -> u64 {
        let of_pool = |(tier, n): (Tier, u32)| u64::from(n) * self.shape.page_bytes(tier) as u64;
        let of_pages: u64 = TIERS.into_iter().zip(self.n_pool_pages).map(of_pool).sum();
        let n_in_pages = (self.first_row - self.settings.n_sinks).min(n_tokens);
        of_pages + (n_tokens - n_in_pages) as u64 * row_bytes
    }
}
