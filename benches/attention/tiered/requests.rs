//! What launches read, what they must write, and beside what they stand.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::OnceLock;

use half::bf16;
use lacuna::Queue;
use lacuna::attention::reference::{Attended, HostSegment, TieredAttended};
use lacuna::kv::KvLayout;
use lacuna::mma::Model;
use lacuna::quant::reference::Channels;
use lacuna::quant::{Page, PageShape, Part, Tail, Tier};
use rayon::prelude::*;
use serde_json::json;

use super::launches::{Launch, Numbers, OfNumbers};
use super::{PAGE_SIZE, PAGE_TOKENS, Shape};
use crate::house::cache::Cache;
use crate::house::case::{Peer, Problem, Work};
use crate::peers::attention::Attention;
use crate::peers::process::Inputs;
use crate::rows::bytes_of;

/// Codes of any bits; steps and least numbers such that numbers are from -1.5 to 1.5, times their channels' scales.
pub(super) fn make_pool(shape: PageShape, tier: Tier, n_bytes: usize) -> Vec<u8> {
    let mut pool = vec![0_u8; n_bytes];
    pool.par_chunks_mut(shape.page_bytes(tier)).enumerate().for_each(|(number, page)| {
        let mut state = (number as u64) << 3 | u64::from(tier.tag());
        let mut random = || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let word = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            word ^ word >> 27
        };
        let part = |word: u64| (word >> 40) as f32 / (1_u64 << 24) as f32;
        let Some(greatest) = tier.greatest_code() else {
            for number in page.chunks_exact_mut(2) {
                let number_of = bf16::from_f32(2.0 * part(random()) - 1.0);
                number.copy_from_slice(&number_of.to_le_bytes());
            }
            return;
        };
        let (codes, tail) = page.split_at_mut(shape.code_bytes(tier));
        for word in codes.chunks_exact_mut(8) {
            word.copy_from_slice(&random().to_le_bytes());
        }
        let greatest = f32::from(greatest);
        let (steps, least) = tail.split_at_mut(tail.len() / 2);
        for token in 0..PageShape::TOKENS {
            let step = (1.5 + part(random())) / greatest;
            match shape.tail() {
                Tail::ZeroPoints => {
                    let zero = (greatest * (7.0 + 2.0 * part(random()))) as i16;
                    steps[2 * token..][..2].copy_from_slice(&bf16::from_f32(step).to_le_bytes());
                    least[2 * token..][..2].copy_from_slice(&zero.to_le_bytes());
                }
                Tail::Minimums => {
                    let minimum = -step * greatest / 2.0;
                    steps[4 * token..][..4].copy_from_slice(&step.to_le_bytes());
                    least[4 * token..][..4].copy_from_slice(&minimum.to_le_bytes());
                }
            }
        }
    });
    pool
}

/// What a launch reads, and what it must write.
pub(super) struct Requests {
    pub(super) case: Shape,
    pub(super) queries: Vec<bf16>,
    /// The window.
    pub(super) cache: Cache,
    pub(super) pools: [Vec<u8>; 4],
    pub(super) entries: [Vec<u32>; 2],
    /// Of channels, of keys and of values alike; those of keys have offsets too.
    pub(super) scales: Vec<f32>,
    pub(super) offsets: Vec<f32>,
    /// Outputs, and the log-sums after them.
    pub(super) expected: Vec<u8>,
    /// All tokens as bf16, for those that know nothing else.
    pub(super) as_numbers: OnceLock<Cache>,
}

impl Requests {
    /// What a list's channels are relative to, of keys and of values.
    fn channels(&self) -> [Channels<'_>; 2] {
        let (scales, offsets) = (Some(&self.scales[..]), Some(&self.offsets[..]));
        [Channels { scales, offsets }, Channels { scales, offsets: None }]
    }

    pub(super) fn attend_on_cpu(&self, model: Model) -> Vec<u8> {
        let Self { cache, entries: [of_keys, of_values], .. } = self;
        let plan = self.case.plan(0);
        let window = HostSegment {
            keys: &cache.keys,
            values: &cache.values,
            page_table: &cache.page_table,
            lengths: &cache.lengths,
            indices: &[],
            counts: None,
            biases: None,
        };
        let attended = TieredAttended {
            plan: &plan,
            attended: Attended {
                plan: plan.attend(),
                model,
                queries: &self.queries,
                segments: &[window],
                sinks: None,
                low_rank: None,
            },
            pools: self.pools.each_ref().map(Vec::as_slice),
            entries: [of_keys, of_values],
            counts: None,
            channels: self.channels(),
        };
        let n_q_heads = plan.attend().shape().n_q_heads as usize;
        bytes_of::<bf16, _>((0..plan.attend().log_sums_len() as usize).collect(), |row| {
            let (outputs, log_sum, _) = attended.query(row / n_q_heads, 0, row % n_q_heads);
            (outputs, log_sum)
        })
    }

    /// The pools with their pages the other way round.
    fn turned_pools(&self) -> [Vec<u8>; 4] {
        let page = self.case.plan(0).pages().page(Part::Keys);
        [0, 1, 2, 3].map(|tag| {
            let n_bytes = page.page_bytes(Tier::of_entry((tag as u32) << 30));
            self.pools[tag].rchunks_exact(n_bytes).flatten().copied().collect()
        })
    }

    /// Four pages of 16 for each of 64, and four for the window.
    pub(super) fn as_numbers(&self) -> &Cache {
        self.as_numbers.get_or_init(|| {
            let (n_of_request, d) = (self.case.n_pages + 1, self.case.head_dim as usize);
            let row_len = self.case.n_heads as usize * d;
            let n_all = self.case.batch * n_of_request;
            let pages = self.case.plan(0);
            let [of_keys, of_values] = [Part::Keys, Part::Values].map(|part| {
                let shape = pages.pages().page(part);
                let of = &self.channels()[part as usize];
                let mut pool = vec![bf16::ZERO; n_all as usize * PAGE_TOKENS as usize * row_len];
                let each = pool.par_chunks_exact_mut(PageShape::TOKENS * row_len).enumerate();
                each.for_each(|(at, tokens)| {
                    let i = n_all - 1 - at as u64;
                    let (b, p) = (i / n_of_request, i % n_of_request);
                    for h in 0..self.case.n_heads {
                        let list = b * self.case.n_heads + h;
                        let own = |all| -> &[f32] {
                            let all: &[f32] = all;
                            &all[list as usize * d..][..d]
                        };
                        let channels =
                            Channels { scales: of.scales.map(own), offsets: of.offsets.map(own) };
                        let row = |token: usize| token * row_len + h as usize * d;
                        if p == self.case.n_pages {
                            self.copy_window(part, b, h, |token, numbers| {
                                tokens[row(token)..][..d].copy_from_slice(numbers);
                            });
                            continue;
                        }
                        let entry = (list * self.case.n_pages + p) as usize;
                        let page = self.page(shape, self.entries[part as usize][entry]);
                        for token in 0..PageShape::TOKENS {
                            let numbers = page.dequantize::<bf16>(token, &channels);
                            let target = &mut tokens[row(token)..][..d];
                            target.iter_mut().zip(numbers).for_each(|(to, x)| {
                                *to = bf16::from_f32(x);
                            });
                        }
                    }
                });
                pool
            });
            let n_each = PAGE_TOKENS / PAGE_SIZE;
            let page = |i: u64| (n_each * (n_all - 1 - i / n_each) + i % n_each) as i32;
            Cache {
                keys: of_keys,
                values: of_values,
                page_table: (0..n_each * n_all).map(page).collect(),
                lengths: vec![self.case.n() as u32; self.case.batch as usize],
            }
        })
    }

    fn page(&self, shape: PageShape, entry: u32) -> Page {
        let tier = Tier::of_entry(entry);
        let n_bytes = shape.page_bytes(tier);
        let first = (entry & 0x3FFF_FFFF) as usize * n_bytes;
        let bytes = self.pools[tier.tag() as usize][first..][..n_bytes].to_vec();
        Page::from_bytes(shape, tier, bytes).expect("as many bytes as a page has")
    }

    fn copy_window(&self, part: Part, b: u64, h: u64, mut copy: impl FnMut(usize, &[bf16])) {
        let layout = KvLayout::new(self.case.layout(self.case.window)).expect("a layout");
        let pool = if part == Part::Keys { &self.cache.keys } else { &self.cache.values };
        for token in 0..self.case.window {
            let start = layout.locate(&self.cache.page_table, b, token, h).expect("a page");
            copy(token as usize, &pool[start..][..self.case.head_dim as usize]);
        }
    }
}

impl Problem for Requests {
    fn least_bytes(&self) -> u64 {
        self.case.least_bytes()
    }

    fn expected(&self) -> &[u8] {
        &self.expected
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(self, &self.pools, &self.entries, queue, 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let more = Launch::new(self, &self.pools, &self.entries, queue, 2)?;
        let turned = Launch::new(self, &self.turned_pools(), &self.case.entries(true), queue, 0)?;
        let mut three = Launch::new(self, &self.pools, &self.entries, queue, 0)?;
        three.plan = three.plan.with_three_stages();
        Ok(vec![
            ("after two requests more".to_owned(), Box::new(more)),
            ("of pages in other places".to_owned(), Box::new(turned)),
            ("in three stages".to_owned(), Box::new(three)),
            ("near those of attend".to_owned(), Box::new(Numbers::new(self, queue)?)),
        ])
    }

    /// Python's where all pages are alike, since their times do not depend on bits.
    fn peers(&self) -> Vec<Box<dyn Peer + '_>> {
        let mut peers: Vec<Box<dyn Peer + '_>> = vec![Box::new(OfNumbers { requests: self })];
        let Shape { batch, n_heads, group, head_dim, n_pages, .. } = self.case;
        if self.case.tiers != [(Tier::T4, 100)] {
            return peers;
        }
        let cache = self.as_numbers();
        let n_pages_each = (n_pages + 1) * PAGE_TOKENS / PAGE_SIZE;
        let sizes = json!({
            "batch": batch, "n_heads": n_heads, "group": group, "head_dim": head_dim, "n_pages": batch * n_pages_each,
            "page_size": PAGE_SIZE, "n_pages_each": n_pages_each, "n_tokens": self.case.n(), "block_size": 0,
            "n_lists": 1, "n_blocks": 0, "element": "bf16",
        });
        let arrays: Vec<&[u8]> = vec![
            bytemuck::cast_slice(&self.queries),
            bytemuck::cast_slice(&cache.keys),
            bytemuck::cast_slice(&cache.values),
            bytemuck::cast_slice(&cache.page_table),
            &[],
            &self.expected[..2 * self.queries.len()],
        ];
        let inputs = Rc::new(Inputs { sizes, arrays, file: OnceCell::new() });
        let libraries = [
            "torch",
            "flashinfer",
            "flashinfer-tensor-cores",
            "flashinfer-fp8",
            "flashinfer-fp8-tensor-cores",
        ];
        peers.extend(
            libraries
                .map(|library| Box::new(Attention { library, inputs: inputs.clone() }) as Box<_>),
        );
        peers
    }
}
