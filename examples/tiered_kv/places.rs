//! Where tokens are, as the host knows it: pages of each head, free pages, and which tokens get which tier.

use std::ops::Range;

use lacuna::quant::Tier;

/// Tokens of a page.
pub const PAGE: usize = 64;
/// From the most bits on, as their tags are.
pub const TIERS: [Tier; 4] = [Tier::T16, Tier::T8, Tier::T4, Tier::T2];
/// An entry of no page.
pub const NO_PAGE: u32 = u32::MAX;

/// A page of keys and one of values, of the same tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub tier: Tier,
    /// Numbers of the page of keys and of that of values.
    pub numbers: [u32; 2],
    pub tokens: Vec<i32>,
}

/// Pages of all heads, in their tables' order.
#[derive(Debug)]
pub struct Places {
    heads: Vec<Vec<Pair>>,
    /// By tag.
    free: [Vec<u32>; 4],
    shares: [f64; 4],
}

/// New pages of a head: they stand in its table from a place on.
#[derive(Debug)]
pub struct Moved {
    pub first_page: usize,
    /// Tokens, page after page, all full.
    pub tokens: Vec<i32>,
}

impl Places {
    /// `shares` of tokens that tiers of 16, 8, 4 and 2 bits have; the last that is not 0 has all the rest.
    pub fn new(n_heads: usize, n_pool_pages: [u64; 4], shares: [f64; 4]) -> Self {
        let free = n_pool_pages.map(|n| (0..n as u32).rev().collect());
        Self { heads: vec![Vec::new(); n_heads], free, shares }
    }

    /// Pages that each pool must have for `n_tokens` of each head. Those of the fewest bits are never made anew; of others, old and new
    /// pages are there at once.
    pub fn n_pool_pages(n_heads: usize, n_tokens: usize, shares: [f64; 4]) -> [u64; 4] {
        let n_pages = n_tokens.div_ceil(PAGE);
        let last = last_of(&shares);
        std::array::from_fn(|at| {
            let n = if at == last { n_pages } else { (shares[at] * n_pages as f64) as usize + 2 };
            let n_times = if at == last { 1 } else { 2 };
            if shares[at] == 0.0 { 0 } else { (2 * n_heads * n_times * n) as u64 }
        })
    }

    pub fn heads(&self) -> &[Vec<Pair>] {
        &self.heads
    }

    pub fn free(&self) -> &[Vec<u32>; 4] {
        &self.free
    }

    /// Gives tokens their tiers by the scores of each head, `[n_heads, stride]`. Pages of which every token stays are kept; of all others new
    /// ones are made, and the old are free afterwards.
    ///
    /// `tokens` are full pages of tokens, those that are in pages among them. The most salient have the most bits, and no token rises: bits that
    /// are lost do not come back.
    pub fn retier(&mut self, tokens: Range<usize>, scores: &[f32], stride: usize) -> Vec<Moved> {
        let mut left = Vec::new();
        let mut moved = Vec::new();
        for (pages, scores) in self.heads.iter_mut().zip(scores.chunks(stride)) {
            let mut bits = vec![u32::MAX; tokens.len()];
            for page in pages.iter() {
                page.tokens
                    .iter()
                    .for_each(|t| bits[*t as usize - tokens.start] = page.tier.bits());
            }
            let mut tier_of = choose(&self.shares, &bits, &scores[tokens.clone()]);
            let (kept, gone): (Vec<Pair>, Vec<Pair>) = pages.drain(..).partition(|page| {
                page.tokens.iter().all(|t| tier_of[*t as usize - tokens.start] == Some(page.tier))
            });
            for t in kept.iter().flat_map(|page| &page.tokens) {
                tier_of[*t as usize - tokens.start] = None;
            }
            *pages = kept;
            let first_page = pages.len();
            for tier in TIERS {
                let new: Vec<_> = (tokens.clone().zip(&tier_of))
                    .filter(|(_, of)| **of == Some(tier))
                    .map(|(t, _)| t as i32)
                    .collect();
                let free = &mut self.free[tier.tag() as usize];
                for page in new.chunks(PAGE) {
                    assert_eq!(page.len(), PAGE, "all pages are full");
                    let numbers =
                        [(); 2].map(|()| free.pop().expect("pools have room for all tokens"));
                    pages.push(Pair { tier, numbers, tokens: page.to_vec() });
                }
            }
            let tokens = pages[first_page..].iter().flat_map(|page| page.tokens.clone()).collect();
            moved.push(Moved { first_page, tokens });
            left.extend(gone);
        }
        // Only now: no head's new page may be another's old one.
        for page in left {
            self.free[page.tier.tag() as usize].extend(page.numbers);
        }
        moved
    }

    /// `[n_heads, n_pages]` entries, of keys and of values.
    pub fn entries(&self, n_pages: usize) -> [Vec<u32>; 2] {
        [0, 1].map(|part| {
            let of_head = |pages: &Vec<Pair>| {
                let mut entries: Vec<_> =
                    pages.iter().map(|page| page.tier.tag() << 30 | page.numbers[part]).collect();
                entries.resize(n_pages, NO_PAGE);
                entries
            };
            self.heads.iter().flat_map(of_head).collect()
        })
    }

    /// `[n_heads, n_rows]`: the slot of each token, or -1.
    pub fn slots(&self, n_rows: usize) -> Vec<i32> {
        let mut slots = vec![-1; self.heads.len() * n_rows];
        for (pages, slots) in self.heads.iter().zip(slots.chunks_mut(n_rows)) {
            for (slot, t) in pages.iter().flat_map(|page| &page.tokens).enumerate() {
                slots[*t as usize] = slot as i32;
            }
        }
        slots
    }

    /// Pages of each tier, keys' and values', by tag.
    pub fn n_pages(&self) -> [u64; 4] {
        let mut n = [0; 4];
        for page in self.heads.iter().flatten() {
            n[page.tier.tag() as usize] += 2;
        }
        n
    }
}

fn last_of(shares: &[f64; 4]) -> usize {
    shares.iter().rposition(|share| *share > 0.0).expect("a tier has tokens")
}

/// The tier of each token: full pages of each. `bits` are those that a token has now.
fn choose(shares: &[f64; 4], bits: &[u32], scores: &[f32]) -> Vec<Option<Tier>> {
    let n = bits.len();
    let rank = |t: usize| if scores[t].is_nan() { f32::NEG_INFINITY } else { scores[t] };
    let mut ranked: Vec<_> = (0..n).collect();
    ranked.sort_by(|a, b| rank(*b).total_cmp(&rank(*a)));
    let mut tier_of = vec![None; n];
    let (mut share, mut n_chosen) = (0.0, 0);
    for (at, tier) in TIERS.into_iter().enumerate() {
        share += shares[at];
        let n_full = if at == last_of(shares) {
            n
        } else {
            // A share of 0.1 is no f64: not a page more for that.
            PAGE * (share * n as f64 / PAGE as f64 - 1e-9).ceil() as usize
        };
        let may = |t: &&usize| tier_of[**t].is_none() && bits[**t] >= tier.bits();
        let mut candidates: Vec<usize> = ranked.iter().filter(may).copied().collect();
        let n_here = n_full.min(n).saturating_sub(n_chosen);
        candidates.truncate(n_here.min(candidates.len() / PAGE * PAGE));
        n_chosen += candidates.len();
        candidates.into_iter().for_each(|t| tier_of[t] = Some(tier));
        if at == last_of(shares) {
            break;
        }
    }
    tier_of
}
