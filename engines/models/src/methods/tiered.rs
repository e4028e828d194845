//! A context in tiers of bits, as in `examples/tiered_kv.rs`: first and last tokens are numbers, all others have as many bits as they matter.

// The example's own: which pages there are, and which tokens get which tier.
#[path = "../../../../examples/tiered_kv/places.rs"]
#[allow(dead_code, unreachable_pub, reason = "made for a program")]
mod places;

use std::fmt;

use half::bf16;
use lacuna::attention::reference::{Attended, TieredAttended};
use lacuna::attention::{AttendPlan, AttendShape, SegmentShape, TieredPlan, Tokens};
use lacuna::quant::reference::{
    Channels, Measured, Seen, Token, measure, norm_of_row, retier_page, weigh_token,
};
use lacuna::quant::{
    Norm, Page, PagesPlan, PagesShape, Part, SaliencyPlan, SaliencyShape, Tier, choose_probes,
};
use lacuna::select::reference::Probed;
use lacuna::select::{MassPlan, MassShape};
use rayon::prelude::*;

use self::places::{NO_PAGE, PAGE, Pair, Places, TIERS};
use super::full::segment;
use super::{MODEL, Method, bytes_of};
use crate::Result;
use crate::cache::Rows;

/// Of a prompt, queries that say what matters: so many of the last, and so many of those before.
const PROBES: [u32; 2] = [32, 32];
const SEED: u64 = 9;
/// What saliency of before counts at each step.
const DECAY: f32 = 0.95;

/// How a cache is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tiers {
    /// So many of the first tokens stay numbers.
    pub n_sinks: usize,
    /// And so many of the last, at least.
    pub n_window: usize,
    /// Tokens from one re-tiering to the next.
    pub n_between: usize,
    /// Shares of tokens that have 16, 8, 4 and 2 bits, of those older than the window.
    pub shares: [f64; 4],
}

impl Tiers {
    /// Rows that are numbers, beside sinks, at most.
    fn most_recent(&self) -> usize {
        self.n_window + PAGE + self.n_between.max(PAGE)
    }

    /// Whether what matters is asked for.
    fn has_saliency(&self) -> bool {
        self.shares.iter().filter(|share| **share > 0.0).count() > 1
    }

    pub(super) fn begin(
        &self,
        rows: &Rows,
        n_q_heads: usize,
        queries: &[bf16],
    ) -> Result<Box<dyn Method>> {
        let layout = rows.layout();
        let kv = *layout.shape();
        let (n_rows, n_heads) = (layout.n_rows() as usize, kv.n_heads as usize);
        let n_pages = n_rows.div_ceil(PAGE) as u64;
        let n_pool_pages = Places::n_pool_pages(n_heads, n_rows, self.shares);
        let pages = PagesPlan::new(PagesShape { n_pool_pages, ..PagesShape::of(layout, n_pages) })?;
        let recent = Tokens::Blocks { n_blocks: self.most_recent() as u64, block_size: 1 };
        let segments = [
            SegmentShape::of(layout, Tokens::first(self.n_sinks as u64)),
            SegmentShape::of(layout, recent),
        ];
        let attend = AttendPlan::new(AttendShape::of(&layout, n_q_heads as u64), &segments)?;
        let plan = TieredPlan::new(attend, pages)?;
        let saliency = SaliencyPlan::new(SaliencyShape {
            n_positions: plan.n_positions(),
            decay: DECAY,
            ..SaliencyShape::of(1, n_q_heads as u64, kv.n_heads, n_rows as u64)
        })?;
        let pool = |at: usize| vec![0; pages.pool_bytes(TIERS[at]) as usize];
        let mut tiered = Tiered {
            settings: *self,
            saliency,
            pools: [pool(0), pool(1), pool(2), pool(3)],
            entries: [(); 2].map(|()| vec![NO_PAGE; pages.entries_len() as usize]),
            places: Places::new(n_heads, n_pool_pages, self.shares),
            plan,
            channels: vec![[Measured::default(), Measured::default()]; n_heads],
            seen: vec![vec![Seen::default(); n_rows]; n_heads],
            first_row: self.n_sinks,
            next_retier: self.n_sinks + self.n_window + PAGE,
        };
        if self.has_saliency() {
            tiered.see_prompt(rows, n_q_heads, queries)?;
        }
        tiered.retier(rows)?;
        Ok(Box::new(tiered))
    }
}

impl fmt::Display for Tiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_tiers = TIERS.iter().zip(self.shares).filter(|(_, share)| *share > 0.0);
        let of_tiers: Vec<_> = of_tiers
            .map(|(tier, share)| match share {
                1.0 => tier.to_string(),
                _ => format!("{} % of {tier}", 100.0 * share),
            })
            .collect();
        write!(f, "tiered, {}", of_tiers.join(", "))
    }
}

struct Tiered {
    settings: Tiers,
    plan: TieredPlan,
    saliency: SaliencyPlan,
    /// By tag.
    pools: [Vec<u8>; 4],
    /// Of keys and of values.
    entries: [Vec<u32>; 2],
    places: Places,
    /// Of each head, keys' and values'; measured once.
    channels: Vec<[Measured; 2]>,
    /// Of each head and token.
    seen: Vec<Vec<Seen>>,
    /// The first token after those in pages.
    first_row: usize,
    next_retier: usize,
}

impl Tiered {
    /// Saliency of a prompt, by its probes.
    fn see_prompt(&mut self, rows: &Rows, n_q_heads: usize, queries: &[bf16]) -> Result<()> {
        let n = rows.n_tokens() as u32;
        let chosen = choose_probes(SEED, n, PROBES[0], PROBES[1]);
        let len = queries.len() / n as usize;
        let probes: Vec<bf16> = chosen
            .iter()
            .flat_map(|probe| &queries[*probe as usize * len..][..len])
            .copied()
            .collect();
        let n_visible: Vec<u32> = chosen.iter().map(|probe| probe + 1).collect();
        let shape = MassShape {
            is_over_all_heads: false,
            is_mean: false,
            ..MassShape::of(rows.layout(), n_q_heads as u64, chosen.len() as u64)
        };
        let plan = MassPlan::new(shape)?;
        let probed = Probed {
            probes: &probes,
            n_visible: &n_visible,
            keys: rows.keys(),
            page_table: rows.page_table(),
            lengths: rows.lengths(),
            key_scale: 1.0,
        };
        let group = n_q_heads / self.seen.len();
        for (seen, masses) in self.seen.iter_mut().zip(probed.request(&plan, 0)) {
            for (token, (seen, mass)) in seen.iter_mut().zip(masses).enumerate() {
                let n_seeing = n_visible.iter().filter(|n| token < **n as usize).count();
                *seen = Seen::of_prompt(mass, (group * n_seeing) as u32);
            }
        }
        Ok(())
    }

    /// Gives tokens older than the window their tiers, as many as fill pages.
    fn retier(&mut self, rows: &Rows) -> Result<()> {
        let n = rows.n_tokens();
        if n < self.next_retier {
            return Ok(());
        }
        self.next_retier = n + self.settings.n_between;
        let n_sinks = self.settings.n_sinks;
        let first_row = n_sinks + (n - self.settings.n_window - n_sinks) / PAGE * PAGE;
        if self.first_row == n_sinks {
            self.measure(rows, n_sinks..first_row);
        }
        self.first_row = first_row;
        let n_rows = rows.layout().n_rows() as usize;
        let scores = self.scores(rows, n_rows);
        let old_slots = self.places.slots(n_rows);
        let old: Vec<Vec<Pair>> = self.places.heads().to_vec();
        let moved = self.places.retier(n_sinks..first_row, &scores, n_rows);
        let table = self.plan.pages().shape().n_pages as usize;
        for (head, moved) in moved.iter().enumerate() {
            let new = &self.places.heads()[head][moved.first_page..];
            for part in [Part::Keys, Part::Values] {
                let shape = self.plan.pages().page(part);
                let pool = if part == Part::Keys { rows.keys() } else { rows.values() };
                // What stays in its tier keeps its bits: pages are read before any is written, and none is written that is read.
                let pages = old[head].iter().map(|pair| self.page(part, pair));
                let pages = pages.collect::<Result<Vec<Page>>>()?;
                let token = |token: &i32| {
                    let slot = old_slots[head * n_rows + *token as usize];
                    Some(match usize::try_from(slot) {
                        Ok(slot) => Token::InPage(&pages[slot / PAGE], slot % PAGE),
                        Err(_) => Token::Row(rows.row(pool, *token as usize, head)),
                    })
                };
                let channels = channels_of(&self.channels[head][part as usize], part);
                for pair in new {
                    let tokens = pair.tokens.iter().map(token);
                    let page = retier_page(shape, pair.tier, tokens, &channels)?;
                    let start = pair.numbers[part as usize] as usize * page.bytes().len();
                    let pool = &mut self.pools[pair.tier.tag() as usize];
                    pool[start..start + page.bytes().len()].copy_from_slice(page.bytes());
                }
            }
        }
        self.entries = self.places.entries(table);
        Ok(())
    }

    fn page(&self, part: Part, pair: &Pair) -> Result<Page> {
        let shape = self.plan.pages().page(part);
        let n_bytes = shape.page_bytes(pair.tier);
        let start = pair.numbers[part as usize] as usize * n_bytes;
        let bytes = self.pools[pair.tier.tag() as usize][start..start + n_bytes].to_vec();
        Ok(Page::from_bytes(shape, pair.tier, bytes)?)
    }

    /// What channels are relative to, of these tokens and of all that come.
    fn measure(&mut self, rows: &Rows, tokens: std::ops::Range<usize>) {
        let d = rows.layout().shape().row_len as usize;
        for (head, channels) in self.channels.iter_mut().enumerate() {
            let of = |pool: &[bf16], has_offsets: bool| {
                let slots: Vec<_> =
                    tokens.clone().map(|token| Some(rows.row(pool, token, head))).collect();
                measure(&slots, d, has_offsets)
            };
            *channels = [of(rows.keys(), true), of(rows.values(), false)];
        }
    }

    /// `[n_heads, n_rows]`: how much attention a token gets, times the L1 norm of its value.
    fn scores(&self, rows: &Rows, n_rows: usize) -> Vec<f32> {
        let mut scores = vec![0.0; self.seen.len() * n_rows];
        if !self.settings.has_saliency() {
            return scores;
        }
        for (head, scores) in scores.chunks_mut(n_rows).enumerate() {
            let seen = &self.seen[head];
            for (token, score) in scores.iter_mut().enumerate().take(rows.n_tokens()) {
                let value = rows.row(rows.values(), token, head);
                let value: Vec<f32> = value.iter().map(|x| x.to_f32()).collect();
                let norm = norm_of_row(&value, Norm::L1, 1.0);
                *score = weigh_token(self.saliency.shape(), &[(seen[token], Some(norm))]);
            }
        }
        scores
    }

    /// Adds a step's logits to what tokens were seen by.
    fn see(&mut self, rows: &Rows, of_heads: &[(Vec<f32>, f32, Vec<f32>)]) {
        let n_slots = PAGE * self.plan.pages().shape().n_pages as usize;
        let n_sinks = self.settings.n_sinks;
        let group = of_heads.len() / self.seen.len();
        for (head, seen) in self.seen.iter_mut().enumerate() {
            let of_heads = &of_heads[head * group..][..group];
            let pages = self.places.heads()[head].iter().flat_map(|page| &page.tokens);
            let slots = pages.map(|token| *token as usize).enumerate();
            let sinks = (0..n_sinks).map(|token| (n_slots + token, token));
            let recent = (self.first_row..rows.n_tokens()).enumerate();
            let recent = recent.map(|(i, token)| (n_slots + n_sinks + i, token));
            for (position, token) in slots.chain(sinks).chain(recent) {
                let of_token =
                    of_heads.iter().map(|(_, log_sum, logits)| [logits[position], *log_sum]);
                seen[token] = seen[token].add(self.saliency.shape(), of_token);
            }
        }
    }
}

/// Keys have offsets and scales, values scales alone.
fn channels_of(measured: &Measured, part: Part) -> Channels<'_> {
    Channels {
        scales: Some(&measured.scales),
        offsets: (part == Part::Keys).then_some(&measured.offsets[..]),
    }
}

impl Method for Tiered {
    fn step(&mut self, rows: &Rows, query: &[bf16]) -> Result<Vec<f32>> {
        self.retier(rows)?;
        let first = self.first_row as i32;
        let recent: Vec<i32> = (first..first + self.settings.most_recent() as i32).collect();
        let segments = [segment(rows, &[], None), segment(rows, &recent, None)];
        let attend = self.plan.attend();
        let all = |part: usize, of: fn(&Measured) -> &Vec<f32>| -> Vec<f32> {
            self.channels.iter().flat_map(|channels| of(&channels[part])).copied().collect()
        };
        let scales = [all(0, |measured| &measured.scales), all(1, |measured| &measured.scales)];
        let offsets = all(0, |measured| &measured.offsets);
        // Before they are measured there is no page.
        let has_channels = !offsets.is_empty();
        let tiered = TieredAttended {
            plan: &self.plan,
            attended: Attended {
                plan: attend,
                model: MODEL,
                queries: query,
                segments: &segments,
                sinks: None,
                low_rank: None,
            },
            pools: self.pools.each_ref().map(|pool| &pool[..]),
            entries: self.entries.each_ref().map(|entries| &entries[..]),
            counts: None,
            channels: [
                Channels {
                    scales: has_channels.then_some(&scales[0][..]),
                    offsets: has_channels.then_some(&offsets[..]),
                },
                Channels { scales: has_channels.then_some(&scales[1][..]), offsets: None },
            ],
        };
        let n_q_heads = attend.shape().n_q_heads as usize;
        let of_heads: Vec<_> =
            (0..n_q_heads).into_par_iter().map(|q| tiered.query(0, 0, q)).collect();
        if self.settings.has_saliency() {
            self.see(rows, &of_heads);
        }
        Ok(of_heads.into_iter().flat_map(|(output, ..)| output).collect())
    }

    fn bytes(&self, rows: &Rows) -> u64 {
        let n_pages = self.places.n_pages();
        let page = self.plan.pages().page(Part::Keys);
        let of_tier = |tier: Tier| n_pages[tier.tag() as usize] * page.page_bytes(tier) as u64;
        let pages: u64 = TIERS.into_iter().map(of_tier).sum();
        let n_in_pages = (self.first_row - self.settings.n_sinks).min(rows.n_tokens());
        pages + bytes_of(rows.layout(), (rows.n_tokens() - n_in_pages) as u64)
    }
}
