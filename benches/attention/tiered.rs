//! Queries over tiered pages, and the newest tokens.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::OnceLock;

use half::bf16;
use lacuna::attention::reference::{Attended, HostSegment, TieredAttended};
use lacuna::attention::{
    AttendInputs, AttendOutputs, AttendPlan, AttendShape, Segment, SegmentShape, TieredInputs,
    TieredPlan, Tokens, attend, attend_tiered,
};
use lacuna::kv::{KvLayout, KvShape};
use lacuna::mma::Model;
use lacuna::quant::reference::Channels;
use lacuna::quant::{
    ChannelViews, Page, PageShape, PagesPlan, PagesShape, Part, Tail, Tier, TierPools,
};
use lacuna::{Buffer, Queue};
use rayon::prelude::*;
use serde_json::json;

use crate::house::cache::{Cache, Placed, again, numbers};
use crate::house::case::{Budget, Case, Peer, Problem, Work, poison};
use crate::house::gpu::Gpu;
use crate::peers::attention::{Attention, Inputs};
use crate::rows::{bytes_of, without_model};

/// Requests of as many pages each, and after them as many numbers, in pages of 16.
#[derive(Clone, Copy)]
struct Shape {
    batch: u64,
    n_pages: u64,
    window: u64,
    n_heads: u64,
    group: u64,
    head_dim: u64,
    /// How many pages of a hundred.
    tiers: &'static [(Tier, u64)],
    tail: Tail,
    is_small: bool,
}

const PAGE_SIZE: u64 = 16;
const PAGE_TOKENS: u64 = PageShape::TOKENS as u64;
/// The root of the mean square of how numbers of bf16 may differ from tiered pages, over that of the outputs.
const NEAR: f64 = 0.02;

impl Shape {
    fn n(&self) -> u64 {
        PAGE_TOKENS * self.n_pages + self.window
    }

    fn tier(&self, page: u64) -> Tier {
        // Neighbours are of different tiers.
        let place = page * 37 % 100;
        let ends = self.tiers.iter().scan(0, |end, (tier, share)| {
            *end += share;
            Some((*tier, *end))
        });
        ends.clone().find(|(_, end)| place < *end).expect("a hundred").0
    }

    /// Of each tier, keys' and values'.
    fn count_pages(&self) -> [u64; 4] {
        let mut n = [0; 4];
        for page in 0..self.n_pages {
            n[self.tier(page).tag() as usize] += 2 * self.batch * self.n_heads;
        }
        n
    }

    /// Of a cache whose requests have room for so many tokens.
    fn layout(&self, n_tokens: u64) -> KvShape {
        let table_stride = n_tokens.div_ceil(PAGE_SIZE);
        KvShape {
            batch: self.batch,
            n_heads: self.n_heads,
            row_len: self.head_dim,
            n_pages: self.batch * table_stride,
            page_size: PAGE_SIZE,
            table_stride,
            ..KvShape::default()
        }
        .nhd()
    }

    /// For `n_more` requests more.
    fn plan(&self, n_more: u64) -> TieredPlan {
        let kv = self.layout(self.window);
        let layout = KvLayout::new(KvShape { batch: self.batch + n_more, ..kv }).expect("a layout");
        let shape = AttendShape::of(&layout, self.n_heads * self.group);
        let segments = [SegmentShape::of(layout, Tokens::ALL)];
        let plan = AttendPlan::new(shape, &segments).expect("a shape that is supported");
        let pages = PagesShape::of(layout, self.n_pages);
        let pages = PagesShape { n_pool_pages: self.count_pages(), tail: self.tail, ..pages };
        let pages = PagesPlan::new(pages).expect("a sound plan");
        TieredPlan::new(plan, pages).expect("a shape that is supported")
    }

    fn build(&self, model: Option<Model>) -> Requests {
        let plan = self.plan(0);
        let mut number = numbers::<bf16>();
        let queries = (0..plan.attend().queries_len()).map(|_| number()).collect();
        let layout = KvLayout::new(self.layout(self.window)).expect("a layout");
        let cache = Cache::new(&layout, self.window, &mut number).with_values(&mut number);
        let n_channels = plan.pages().channels_len();
        let channel = |i: u64| 0.5 + (i % 7) as f32 / 4.0;
        let offset = |i: u64| (i % 5) as f32 / 16.0 - 0.125;
        let page = plan.pages().page(Part::Keys);
        let pool = |tag: u32| {
            let tier = Tier::of_entry(tag << 30);
            make_pool(page, tier, plan.pages().pool_bytes(tier) as usize)
        };
        let mut requests = Requests {
            case: *self,
            queries,
            cache,
            pools: [0, 1, 2, 3].map(pool),
            entries: self.entries(false),
            scales: (0..n_channels).map(channel).collect(),
            offsets: (0..n_channels).map(offset).collect(),
            expected: Vec::new(),
            as_numbers: OnceLock::new(),
        };
        if let Some(model) = model {
            requests.expected = requests.attend_on_cpu(model);
        }
        requests
    }

    /// Of keys and of values: each page in the place of another, or in its own.
    fn entries(&self, is_in_order: bool) -> [Vec<u32>; 2] {
        let n = self.count_pages();
        let mut n_given = [0; 4];
        let mut give = |i: u64| {
            let tag = self.tier(i % self.n_pages).tag();
            let given = &mut n_given[tag as usize];
            *given += 1;
            let number = if is_in_order { *given - 1 } else { n[tag as usize] - *given };
            tag << 30 | number as u32
        };
        let n_entries = self.batch * self.n_heads * self.n_pages;
        [(); 2].map(|()| (0..n_entries).map(&mut give).collect())
    }
}

/// Codes of any bits; steps and least numbers such that numbers are from -1.5 to 1.5, times their channels' scales.
fn make_pool(shape: PageShape, tier: Tier, n_bytes: usize) -> Vec<u8> {
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

impl Case for Shape {
    fn kernel(&self) -> &'static str {
        match self.head_dim {
            64 => "attention/attend_tiered_64",
            128 => "attention/attend_tiered_128",
            _ => "attention/attend_tiered_256",
        }
    }

    fn shape(&self) -> String {
        let Self { batch, n_pages, window, n_heads, group, head_dim, .. } = self;
        let shares: Vec<_> = self
            .tiers
            .iter()
            .map(|(tier, share)| match share {
                100 => format!("{} bits", tier.bits()),
                _ => format!("{share} % of {} bits", tier.bits()),
            })
            .collect();
        let tail = if self.tail == Tail::Minimums { ", with minimums" } else { "" };
        format!(
            "{} of {n_heads} heads of {head_dim} over {} tokens and {window} of bf16 in {batch} requests, {}{tail}",
            n_heads * group,
            PAGE_TOKENS * n_pages,
            shares.join(", "),
        )
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        let plan = self.plan(0);
        let n_rows = plan.attend().log_sums_len() as f64;
        let d = self.head_dim as f64;
        let n_steps = self.n_pages + self.window.div_ceil(PAGE_TOKENS);
        let mut n_of_split = 4;
        while n_steps > 64 * n_of_split {
            n_of_split *= 2;
        }
        let n_splits = n_steps.div_ceil(n_of_split) as f64;
        // As of `attend`.
        let partials =
            if n_splits > 1.0 { n_splits * n_rows * (8.0 * (d + 4.0) + 192.0) } else { 0.0 };
        let queries = (n_splits - 1.0) * n_rows * 2.0 * d;
        // Of each split every warp reads channels for itself: those of keys eight times, since eight lanes have eight neighbours
        // each, and for four of eight rows of queries at a time.
        let n_lists = (self.batch * self.n_heads) as f64;
        let n_warps = n_lists * (4.0 * n_splits).min(self.n_pages as f64);
        let channels = (n_warps * (2.0 * 16.0 + 1.0) - n_lists * 3.0) * 4.0 * d;
        // And every fourth entry, of which a sector has two.
        let n_entries = n_lists * self.n_pages as f64;
        let of_warp = (n_entries / n_warps / 2.0).ceil();
        let entries = 2.0 * (n_warps * 32.0 * of_warp - 4.0 * n_entries);
        let again = partials + queries + channels + entries;
        Budget {
            bytes: 1.03 + again / self.least_bytes() as f64,
            sectors_per_request: 15.5,
            conflict_ways: 1.25,
            barriers: 8.0 + 3.0 / n_splits,
        }
    }

    fn unsupported(&self, queue: &Queue) -> Option<String> {
        without_model(queue)
    }

    fn prepare(&self, queue: &Queue) -> Box<dyn Problem> {
        Box::new(self.build(queue.mma_model()))
    }
}

impl Shape {
    /// Pages, their entries, the window, queries and outputs; channels' scales, those of keys with offsets; log-sums; pages and
    /// lengths of the window.
    fn least_bytes(&self) -> u64 {
        let plan = self.plan(0);
        let n_words = 3 * plan.pages().channels_len()
            + plan.attend().log_sums_len()
            + self.batch * (self.window.div_ceil(PAGE_SIZE) + 1);
        plan.least_bytes(self.count_pages(), 2) + 4 * n_words
    }
}

struct Requests {
    case: Shape,
    queries: Vec<bf16>,
    /// The window.
    cache: Cache,
    pools: [Vec<u8>; 4],
    entries: [Vec<u32>; 2],
    /// Of channels, of keys and of values alike; those of keys have offsets too.
    scales: Vec<f32>,
    offsets: Vec<f32>,
    /// Outputs, and the log-sums after them.
    expected: Vec<u8>,
    /// All tokens as bf16, for those that know nothing else.
    as_numbers: OnceLock<Cache>,
}

impl Requests {
    /// What a list's channels are relative to, of keys and of values.
    fn channels(&self) -> [Channels<'_>; 2] {
        let (scales, offsets) = (Some(&self.scales[..]), Some(&self.offsets[..]));
        [Channels { scales, offsets }, Channels { scales, offsets: None }]
    }

    fn attend_on_cpu(&self, model: Model) -> Vec<u8> {
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
    fn as_numbers(&self) -> &Cache {
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

/// A launch whose last requests are looked at.
struct Launch {
    plan: TieredPlan,
    queries: Buffer<bf16>,
    cache: Placed,
    pools: [Option<Buffer<u8>>; 4],
    entries: [Buffer<u32>; 2],
    scales: Buffer<f32>,
    offsets: Buffer<f32>,
    outputs: Outputs,
}

impl Launch {
    /// The first request is there `n_more` times more.
    fn new(
        requests: &Requests,
        pools: &[Vec<u8>; 4],
        entries: &[Vec<u32>; 2],
        queue: &Queue,
        n_more: usize,
    ) -> lacuna::Result<Self> {
        let batch = requests.case.batch as usize;
        let plan = requests.case.plan(n_more as u64);
        let layout = plan.pages().shape().layout;
        let upload = |pool: &Vec<u8>| (!pool.is_empty()).then(|| queue.upload(pool)).transpose();
        let [first, second, third, fourth] = pools;
        let [of_keys, of_values] = entries;
        Ok(Self {
            queries: queue.upload(&again(&requests.queries, batch, n_more))?,
            cache: requests.cache.place(queue, layout, n_more)?,
            pools: [upload(first)?, upload(second)?, upload(third)?, upload(fourth)?],
            entries: [
                queue.upload(&again(of_keys, batch, n_more))?,
                queue.upload(&again(of_values, batch, n_more))?,
            ],
            scales: queue.upload(&again(&requests.scales, batch, n_more))?,
            offsets: queue.upload(&again(&requests.offsets, batch, n_more))?,
            outputs: Outputs::new(requests, plan.attend(), queue)?,
            plan,
        })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let segments = [Segment::new(self.cache.view(), None)];
        let queries = self.queries.view();
        let inputs = AttendInputs { queries, segments: &segments, sinks: None, skips: None };
        let scales = Some(self.scales.view());
        let pages = TieredInputs {
            pools: TierPools {
                pools: self.pools.each_ref().map(|pool| pool.as_ref().map(Buffer::view)),
            },
            key_entries: self.entries[0].view(),
            value_entries: self.entries[1].view(),
            counts: None,
            key_channels: ChannelViews { scales, offsets: Some(self.offsets.view()) },
            value_channels: ChannelViews { scales, offsets: None },
        };
        attend_tiered(queue, &self.plan, &inputs, &pages, &mut self.outputs.views(), None)
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        self.outputs.poison(queue)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        self.outputs.read(queue)
    }
}

/// What a launch writes.
struct Outputs {
    outputs: Buffer<bf16>,
    log_sums: Buffer<f32>,
    workspace: Buffer<u32>,
    n_outputs: usize,
    n_log_sums: usize,
}

impl Outputs {
    fn new(requests: &Requests, plan: &AttendPlan, queue: &Queue) -> lacuna::Result<Self> {
        let n_outputs = requests.queries.len();
        Ok(Self {
            outputs: queue.alloc(plan.outputs_len() as usize)?,
            log_sums: queue.alloc(plan.log_sums_len() as usize)?,
            workspace: queue.alloc(plan.workspace_len() as usize)?,
            n_outputs,
            n_log_sums: n_outputs / requests.case.head_dim as usize,
        })
    }

    fn views(&mut self) -> AttendOutputs<'_, bf16> {
        AttendOutputs {
            outputs: self.outputs.view_mut(),
            log_sums: Some(self.log_sums.view_mut()),
            workspace: self.workspace.view_mut(),
        }
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.outputs)?;
        poison(queue, &mut self.log_sums)
    }

    fn read(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let outputs = queue.download(&self.outputs.view())?;
        let log_sums = queue.download(&self.log_sums.view())?;
        let outputs = &outputs[outputs.len() - self.n_outputs..];
        let log_sums = &log_sums[log_sums.len() - self.n_log_sums..];
        Ok([bytemuck::cast_slice(outputs), bytemuck::cast_slice(log_sums)].concat())
    }
}

/// Our own `attend` over the same tokens as bf16.
struct OfNumbers<'a> {
    requests: &'a Requests,
}

impl Peer for OfNumbers<'_> {
    fn name(&self) -> &'static str {
        "attend, bf16"
    }

    fn version(&self) -> Option<String> {
        None
    }

    fn place(&self, gpu: &Gpu) -> Result<Box<dyn Work>, String> {
        let numbers = Numbers::new(self.requests, &gpu.queue);
        Ok(Box::new(numbers.map_err(|error| error.to_string())?))
    }
}

/// A launch of it. Where its outputs are near those of tiered pages ([`NEAR`]), it says those, which are compared bit for bit.
struct Numbers {
    plan: AttendPlan,
    queries: Buffer<bf16>,
    cache: Placed,
    outputs: Outputs,
    expected: Vec<u8>,
}

impl Numbers {
    fn new(requests: &Requests, queue: &Queue) -> lacuna::Result<Self> {
        let case = &requests.case;
        let layout = KvLayout::new(case.layout(PAGE_TOKENS * (case.n_pages + 1)))?;
        let shape = AttendShape::of(&layout, case.n_heads * case.group);
        let plan = AttendPlan::new(shape, &[SegmentShape::of(layout, Tokens::ALL)])?;
        Ok(Self {
            queries: queue.upload(&requests.queries)?,
            cache: requests.as_numbers().place(queue, layout, 0)?,
            outputs: Outputs::new(requests, &plan, queue)?,
            expected: requests.expected.clone(),
            plan,
        })
    }
}

impl Work for Numbers {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let segments = [Segment::new(self.cache.view(), None)];
        let queries = self.queries.view();
        let inputs = AttendInputs { queries, segments: &segments, sinks: None, skips: None };
        attend(queue, &self.plan, &inputs, &mut self.outputs.views())
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        self.outputs.poison(queue)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let found = self.outputs.read(queue)?;
        let numbers = |bytes: &[u8]| -> Vec<f64> {
            let halves = bytes[..2 * self.outputs.n_outputs].chunks_exact(2);
            halves.map(|half| bf16::from_le_bytes([half[0], half[1]]).to_f64()).collect()
        };
        let expected = numbers(&self.expected);
        let error: f64 =
            numbers(&found).iter().zip(&expected).map(|(one, other)| (one - other).powi(2)).sum();
        let size: f64 = expected.iter().map(|x| x * x).sum();
        Ok(if (error / size).sqrt() <= NEAR { self.expected.clone() } else { found })
    }
}

const SMALL: Shape = Shape {
    batch: 1,
    n_pages: 14,
    window: 40,
    n_heads: 2,
    group: 4,
    head_dim: 128,
    tiers: &[(Tier::T4, 100)],
    tail: Tail::ZeroPoints,
    is_small: true,
};

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    use Tier::{T2, T4, T8, T16};
    const MIXED: &[(Tier, u64)] = &[(T4, 60), (T2, 40)];
    const OF_ALL: &[(Tier, u64)] = &[(T16, 2), (T8, 18), (T4, 40), (T2, 40)];
    let small = [
        Shape { batch: 2, n_pages: 6, head_dim: 64, tiers: MIXED, ..SMALL },
        Shape {
            n_pages: 9,
            head_dim: 256,
            tiers: &[(T16, 25), (T8, 25), (T4, 25), (T2, 25)],
            ..SMALL
        },
        Shape { n_pages: 30, tiers: &[(T8, 100)], tail: Tail::Minimums, ..SMALL },
        Shape { n_pages: 270, n_heads: 1, tiers: &[(T2, 100)], ..SMALL },
        Shape { n_pages: 270, n_heads: 1, ..SMALL },
    ];
    // Llama-3.1-8B's heads.
    let large = Shape { n_pages: 2047, window: 64, n_heads: 8, is_small: false, ..SMALL };
    let of_batch = |batch| {
        let tiers: [&'static [_]; 5] = [&[(T8, 100)], &[(T4, 100)], MIXED, &[(T2, 100)], OF_ALL];
        tiers.map(|tiers| Shape { batch, tiers, ..large })
    };
    let many = Shape { batch: 16, n_pages: 255, ..large };
    let many = [many, Shape { tiers: MIXED, ..many }];
    small
        .into_iter()
        .chain([1, 4, 8].into_iter().flat_map(of_batch))
        .chain(many)
        .map(|shape| Box::new(shape) as _)
        .collect()
}
