//! Problems for `attend_tiered`, and what must come of them.

use std::cell::RefCell;

use half::bf16;
use lacuna::attention::LogBase;
use lacuna::attention::reference::TieredAttended;
use lacuna::attention::{Mask, TieredInputs, TieredPlan, Tokens, attend_tiered};
use lacuna::element::{Half, Real};
use lacuna::kv::{KvLayout, KvLists, KvShape};
use lacuna::mma::Model;
use lacuna::quant::reference::Channels;
use lacuna::quant::{
    ChannelViews, MissingPage, Page, PagesPlan, PagesShape, Part, Tail, Tier, TierPools,
};
use lacuna::{Buffer, Error, Queue};

use crate::attend::problem::{Case, Part as Segment, Problem, Results, assert_results};
use crate::common::Random;

/// A problem of `attend`, and the pages that stand before its segments.
#[derive(Debug, Clone)]
pub(crate) struct Paged<T> {
    pub(crate) problem: Problem<T>,
    pub(crate) plan: TieredPlan,
    pub(crate) pools: [Vec<u8>; 4],
    pub(crate) entries: [Vec<u32>; 2],
    pub(crate) counts: Option<Vec<u32>>,
    pub(crate) scales: [Option<Vec<f32>>; 2],
    pub(crate) offsets: [Option<Vec<f32>>; 2],
    pub(crate) has_logits: bool,
}

/// What proptest and tables vary.
#[derive(Debug, Clone)]
pub(crate) struct Pages {
    pub(crate) n_pages: u64,
    pub(crate) span_pages: u64,
    pub(crate) lists: KvLists,
    pub(crate) tail: Tail,
    pub(crate) has_counts: bool,
    pub(crate) has_scales: bool,
    pub(crate) has_offsets: bool,
    /// Of a tier's pool, at most.
    pub(crate) most_pool_pages: u64,
    /// Of each page by turns.
    pub(crate) tiers: Vec<Tier>,
}

impl Default for Pages {
    fn default() -> Self {
        Self {
            n_pages: 5,
            span_pages: 2,
            lists: KvLists::PerHead,
            tail: Tail::ZeroPoints,
            has_counts: false,
            has_scales: true,
            has_offsets: true,
            most_pool_pages: u64::MAX,
            tiers: Tier::ALL.to_vec(),
        }
    }
}

impl<T: Half> Paged<T> {
    pub(crate) fn new(case: &Case, pages: &Pages) -> Self {
        let mut problem = case.build::<T>();
        let layout = case.kv_layout().unwrap();
        let batch = case.lengths.len() as u64;
        let n = batch * case.n_heads * pages.n_pages;
        let shape = PagesShape {
            lists: pages.lists,
            span_pages: pages.span_pages,
            n_pool_pages: [2 * n + 1, n + 2, n + 3, n + 4].map(|n| n.min(pages.most_pool_pages)),
            tail: pages.tail,
            ..PagesShape::of(layout, pages.n_pages)
        };
        let pages_plan = PagesPlan::new(shape).unwrap();
        let plan = TieredPlan::new(problem.plan, pages_plan).unwrap();
        problem.plan = *plan.attend();
        let mut random = Random(case.seed ^ 0x5EED);
        let mut pools = [const { Vec::new() }; 4];
        for tier in Tier::ALL {
            pools[tier.tag() as usize] = pool::<T>(&pages_plan, tier, &mut random);
        }
        let mut turn = 0;
        let entries = [0, 1].map(|_| {
            let entry = |random: &mut Random| {
                turn += 1 + random.next() as usize % 2;
                let tier = pages.tiers[turn % pages.tiers.len()];
                tier.tag() << 30 | (random.next() % shape.n_pool_pages[tier.tag() as usize]) as u32
            };
            (0..pages_plan.entries_len())
                .map({
                    let mut entry = entry;
                    let random = RefCell::new(Random(case.seed ^ 77));
                    move |_| entry(&mut random.borrow_mut())
                })
                .collect()
        });
        let counts = pages.has_counts.then(|| {
            let n = 64 * pages.n_pages + 2;
            (0..pages_plan.n_lists()).map(|_| (random.next() % n) as u32).collect()
        });
        let n_channels = pages_plan.channels_len();
        let scales = [0, 1].map(|_| {
            let scale = |random: &mut Random| 0.25 + (random.next() % 997) as f32 / 500.0;
            pages.has_scales.then(|| (0..n_channels).map(|_| scale(&mut random)).collect())
        });
        let offsets = [0, 1].map(|_| {
            let offset = |random: &mut Random| random.normal() * 0.5;
            pages.has_offsets.then(|| (0..n_channels).map(|_| offset(&mut random)).collect())
        });
        Self { problem, plan, pools, entries, counts, scales, offsets, has_logits: true }
    }

    pub(crate) fn with_base(self, base: LogBase) -> Self {
        let pages = *self.plan.pages();
        let problem = self.problem.clone().with_base(base);
        self.of(problem, pages)
    }

    pub(crate) fn with_three_stages(self) -> Self {
        let plan = self.plan.with_three_stages();
        Self { plan, ..self }
    }

    /// What keys' and values' pages are of, of a request and head.
    pub(crate) fn page(&self, part: Part, entry: u32) -> Option<Page> {
        let tier = Tier::of_entry(entry);
        let shape = self.plan.pages().page(part);
        let n_bytes = shape.page_bytes(tier);
        let first = (entry & 0x3FFF_FFFF) as usize * n_bytes;
        let bytes = self.pools[tier.tag() as usize].get(first..first + n_bytes)?.to_vec();
        Some(Page::from_bytes(shape, tier, bytes).unwrap())
    }

    /// Of a span of a head, `b * n_heads + h`.
    pub(crate) fn channels(&self, part: Part, head: usize, span: usize) -> Channels<'_> {
        let pages = self.plan.pages();
        let d = self.plan.attend().shape().head_dim as usize;
        let first = (head * pages.n_spans() as usize + span) * d;
        Channels {
            scales: self.scales[part as usize].as_ref().map(|all| &all[first..][..d]),
            offsets: self.offsets[part as usize].as_ref().map(|all| &all[first..][..d]),
        }
    }

    /// All other pages are none.
    pub(crate) fn keep(&mut self, is_kept: impl Fn(usize) -> bool) {
        let n_pages = self.plan.pages().shape().n_pages as usize;
        for list in self.entries.iter_mut().flat_map(|all| all.chunks_mut(n_pages)) {
            let none = list.iter_mut().enumerate().filter(|(p, _)| !is_kept(*p));
            none.for_each(|(_, entry)| *entry |= 0x3FFF_FFFF);
        }
    }

    /// Some of the pages of all lists, each of a span of its own, without counts, before other segments.
    pub(crate) fn of_pages(&self, problem: Problem<T>, pages: std::ops::Range<usize>) -> Self {
        let shape = *self.plan.pages().shape();
        assert!(shape.span_pages == 1 && self.counts.is_none());
        let n_pages = pages.len() as u64;
        let plan = PagesPlan::new(PagesShape { n_pages, ..shape }).unwrap();
        let n = shape.n_pages as usize;
        let d = self.plan.attend().shape().head_dim as usize;
        let entries = self.entries.each_ref().map(|all| {
            all.chunks(n).flat_map(|list| list[pages.clone()].to_vec()).collect::<Vec<_>>()
        });
        let floats = |all: &Option<Vec<f32>>| {
            let all = all.as_ref()?;
            let of_list = |list: &[f32]| list[pages.start * d..pages.end * d].to_vec();
            Some(all.chunks(n * d).flat_map(of_list).collect::<Vec<_>>())
        };
        let [scales, offsets] = [&self.scales, &self.offsets].map(|all| all.each_ref().map(floats));
        Self { entries, scales, offsets, ..self.clone() }.of(problem, plan)
    }

    /// The same requests in another order, or some of them.
    pub(crate) fn of_requests(&self, requests: &[usize]) -> Self {
        let n = self.plan.attend().shape().batch as usize;
        let problem = self.problem.of_requests(requests);
        let shape = *self.plan.pages().shape();
        let kv = KvShape { batch: requests.len() as u64, ..*shape.layout.shape() };
        let layout = KvLayout::new(kv).unwrap();
        let plan = PagesPlan::new(PagesShape { layout, ..shape }).unwrap();
        let entries = self.entries.each_ref().map(|all| pick(all, n, requests));
        let counts = self.counts.as_ref().map(|all| pick(all, n, requests));
        let floats = |all: &Option<Vec<f32>>| all.as_ref().map(|all| pick(all, n, requests));
        let [scales, offsets] = [&self.scales, &self.offsets].map(|all| all.each_ref().map(floats));
        Self { entries, counts, scales, offsets, ..self.clone() }.of(problem, plan)
    }

    /// With other sizes.
    fn of(self, mut problem: Problem<T>, pages: PagesPlan) -> Self {
        let plan = TieredPlan::new(problem.plan, pages).unwrap();
        problem.plan = *plan.attend();
        Self { problem, plan, ..self }
    }

    /// The results, and the logits.
    pub(crate) fn attend<O: Real>(&self, queue: &Queue) -> Result<(Results<O>, Vec<u32>), Error> {
        self.attend_with_status(queue).map(|(results, logits, _)| (results, logits))
    }

    /// And the status word.
    pub(crate) fn attend_with_status<O: Real>(
        &self,
        queue: &Queue,
    ) -> Result<(Results<O>, Vec<u32>, u64), Error> {
        let [key_entries, value_entries] =
            [queue.upload(&self.entries[0])?, queue.upload(&self.entries[1])?];
        let counts = self.counts.as_ref().map(|all| queue.upload(all)).transpose()?;
        let floats = |all: &Option<Vec<f32>>| -> Option<Buffer<f32>> {
            all.as_ref().map(|all| queue.upload(all).unwrap())
        };
        let scales = self.scales.each_ref().map(floats);
        let offsets = self.offsets.each_ref().map(floats);
        let channels = |part: usize| ChannelViews {
            scales: scales[part].as_ref().map(Buffer::view),
            offsets: offsets[part].as_ref().map(Buffer::view),
        };
        let pools = self.pools.each_ref().map(|pool| queue.upload(pool).unwrap());
        let mut status = queue.upload(&[0_u64])?;
        let pages = RefCell::new(TieredInputs {
            pools: TierPools {
                pools: pools.each_ref().map(|pool| (!pool.is_empty()).then(|| pool.view())),
                status: self.has_logits.then(|| status.view_mut()),
            },
            key_entries: key_entries.view(),
            value_entries: value_entries.view(),
            counts: counts.as_ref().map(Buffer::view),
            key_channels: channels(0),
            value_channels: channels(1),
        });
        let n_logits = self.plan.logits_len() as usize;
        let logits = RefCell::new(queue.upload(&vec![7.0_f32; n_logits])?);
        let results = self.problem.launch(queue, |inputs, outputs| {
            let mut logits = logits.borrow_mut();
            let mut logits = self.has_logits.then(|| logits.view_mut());
            let pages = &mut pages.borrow_mut();
            attend_tiered(queue, &self.plan, inputs, pages, outputs, logits.as_mut())
        })?;
        let logits = queue.download(&logits.borrow().view())?;
        let status = queue.download(&status.view())?[0];
        Ok((results, logits.into_iter().map(f32::to_bits).collect(), status))
    }

    /// Of the first entry that counts and whose page is not there.
    pub(crate) fn expect_status(&self) -> u64 {
        let shape = self.plan.pages().shape();
        let n_pages = shape.n_pages as usize;
        let n_heads = self.plan.attend().n_heads() as usize;
        let per_request = shape.lists.per_request(&shape.layout) as usize;
        let is_missing = |part: usize, i: usize| {
            let (b, h, p) = (i / n_pages / n_heads, i / n_pages % n_heads, i % n_pages);
            let list = b * per_request + if per_request == 1 { 0 } else { h };
            let n_slots = self.counts.as_ref().map_or(u32::MAX, |counts| counts[list]);
            let is_skipped = self.problem.skips.as_ref().is_some_and(|skips| skips[b] != 0);
            let entry = self.entries[part][i];
            let (tag, number) = ((entry >> 30) as usize, entry & MissingPage::NONE);
            let n_there = if self.pools[tag].is_empty() { 0 } else { shape.n_pool_pages[tag] };
            let is_there = u64::from(number) < n_there || number == MissingPage::NONE;
            !is_skipped && 64 * p < n_slots as usize && !is_there
        };
        let first = (0..self.entries[0].len()).find_map(|i| {
            [1, 0].into_iter().find(|&part| is_missing(part, i)).map(|part| (i, part))
        });
        let status = first.map_or(0, |(i, part)| {
            u64::from(u32::MAX - i as u32) << 32 | if part == 0 { 1 } else { 2 }
        });
        if self.has_logits { status } else { 0 }
    }

    pub(crate) fn with_reference<R>(
        &self,
        model: Model,
        then: impl FnOnce(&TieredAttended<'_, T>) -> R,
    ) -> R {
        let channels = |part: usize| Channels {
            scales: self.scales[part].as_deref(),
            offsets: self.offsets[part].as_deref(),
        };
        self.problem.with_reference(model, |attended| {
            then(&TieredAttended {
                plan: &self.plan,
                attended: *attended,
                pools: self.pools.each_ref().map(Vec::as_slice),
                entries: self.entries.each_ref().map(Vec::as_slice),
                counts: self.counts.as_deref(),
                channels: [channels(0), channels(1)],
            })
        })
    }

    pub(crate) fn expect<O: Real>(&self, model: Model) -> (Results<O>, Vec<u32>) {
        self.with_reference(model, |attended| {
            let logits = RefCell::new(vec![7.0_f32; self.plan.logits_len() as usize]);
            let shape = self.plan.attend().shape();
            let results = self.problem.expect_by(|b, i, q| {
                let (output, log_sum, own) = attended.query(b, i, q);
                let token = b * shape.n_queries as usize + i;
                let first = (token * shape.n_q_heads as usize + q) * own.len();
                // Of zeros, one.
                let own: Vec<f32> = own.iter().map(|logit| f32::from_f32(logit + 0.0)).collect();
                if self.has_logits {
                    logits.borrow_mut()[first..][..own.len()].copy_from_slice(&own);
                }
                (output, log_sum)
            });
            (results, logits.into_inner().into_iter().map(f32::to_bits).collect())
        })
    }
}

/// What waits, and a window.
pub(crate) fn case() -> Case {
    let waiting = Segment::of(Tokens::Blocks { n_blocks: 70, block_size: 1 });
    let waiting =
        Segment { lists: KvLists::PerHead, has_counts: true, has_biases: true, ..waiting };
    let parts = vec![waiting, Segment::of(Tokens::last(20)).masked(Mask::Causal)];
    Case { lengths: vec![90, 33], n_heads: 2, head_dim: 64, parts, ..Case::default() }
}

/// A request and head, and no rows but of pages.
pub(crate) fn alone() -> Case {
    let parts = vec![Segment::of(Tokens::first(0))];
    Case { lengths: vec![9], group: 1, head_dim: 64, parts, ..Case::default() }
}

/// Of 16 steps of a split each warp has four: pages of all tiers, and in the last splits rows; most pages are not there.
pub(crate) fn sparse<T: Half>(group: u64) -> Paged<T> {
    let parts = vec![Segment { has_biases: true, ..Segment::of(Tokens::ALL) }];
    let case = Case { lengths: vec![64 * 17 + 5], parts, group, ..alone() };
    let pages = Pages { n_pages: 499, span_pages: 3, most_pool_pages: 20, ..Pages::default() };
    let mut paged = Paged::<T>::new(&case, &pages);
    let is_there = |p: usize| (16..32).contains(&p) || p >= 487 || p % 100 == 77;
    paged.keep(is_there);
    paged.counts = Some(vec![64 * 499 - 10]);
    paged
}

/// A warp's entries are more than are on chip at once.
pub(crate) fn endless<T: Half>(group: u64) -> Paged<T> {
    let pages = Pages { n_pages: 8200, span_pages: 8200, most_pool_pages: 3, ..Pages::default() };
    let mut paged = Paged::<T>::new(&Case { group, ..alone() }, &pages);
    paged.keep(|p| p % 128 == 0 || p % 511 == 3);
    paged.has_logits = false;
    paged
}

/// What is no number, or one that nothing makes.
pub(crate) const WILD: [f32; 10] =
    [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-40, -1e-42, -3.0, f32::MAX, 1e-36];

fn wild(random: &mut Random) -> f32 {
    WILD[random.next() as usize % WILD.len()]
}

/// Some of all that a launch reads on the device.
pub(crate) fn spoil<T: Half>(paged: &mut Paged<T>, seed: u64) {
    let mut random = Random(seed ^ 0xBAD);
    spoil_entries(paged, &mut random);
    if let Some(counts) = &mut paged.counts {
        for count in counts.iter_mut().step_by(2) {
            *count = u32::MAX - random.next() as u32 % 100;
        }
    }
    for all in paged.scales.iter_mut().chain(&mut paged.offsets).flatten() {
        if random.next().is_multiple_of(2) {
            continue;
        }
        let n = all.len().max(1);
        for _ in 0..n / 150 + 1 {
            if let Some(x) = all.get_mut(random.next() as usize % n) {
                *x = wild(&mut random);
            }
        }
    }
    // Of a pool all bytes, of another some, of another none, and one that is not there.
    let first = random.next() as usize;
    let [all, some, none] = [0, 1, 2].map(|i| (first + i) % 4);
    paged.pools[all].iter_mut().for_each(|byte| *byte = random.next() as u8);
    for byte in paged.pools[some].iter_mut().step_by(997) {
        *byte = random.next() as u8;
    }
    paged.pools[none].clear();
    for segment in &mut paged.problem.segments {
        let n = segment.keys.len().max(1);
        for pool in [&mut segment.keys, &mut segment.values] {
            if let Some(x) = pool.get_mut(random.next() as usize % n) {
                *x = T::from_f32(wild(&mut random));
            }
        }
    }
}

pub(crate) fn spoil_entries<T: Half>(paged: &mut Paged<T>, random: &mut Random) {
    let n_pool_pages = paged.plan.pages().shape().n_pool_pages;
    for entry in paged.entries.iter_mut().flatten() {
        let tag = random.next() as u32 % 4;
        match random.next() % 12 {
            0 => *entry = u32::MAX,
            1 => *entry = tag << 30 | n_pool_pages[tag as usize] as u32,
            2 => *entry = tag << 30 | (n_pool_pages[tag as usize] - 1) as u32,
            3 => *entry = tag << 30 | (random.next() as u32 & 0x3FFF_FFFF),
            _ => {}
        }
    }
}

/// What each of `n` requests has as much of, of some of them.
fn pick<E: Clone>(all: &[E], n: usize, requests: &[usize]) -> Vec<E> {
    let own = all.len() / n;
    requests.iter().flat_map(|b| all[b * own..(b + 1) * own].to_vec()).collect()
}

/// Codes of any bytes, steps and zero points as quantizing leaves them, and numbers.
fn pool<T: Half>(plan: &PagesPlan, tier: Tier, random: &mut Random) -> Vec<u8> {
    let page = plan.page(lacuna::quant::Part::Keys);
    let n_bytes = plan.pool_bytes(tier) as usize;
    let mut bytes: Vec<u8> = Vec::with_capacity(n_bytes);
    while bytes.len() < n_bytes {
        let n_codes = page.code_bytes(tier);
        if tier == Tier::T16 {
            for _ in 0..n_codes / 2 {
                bytes.extend(T::from_f32(random.normal()).bits().to_le_bytes());
            }
            continue;
        }
        bytes.extend((0..n_codes).map(|_| random.next() as u8));
        let greatest = f32::from(tier.greatest_code().unwrap());
        let steps: Vec<f32> =
            (0..64).map(|_| (1.0 + (random.next() % 100) as f32 / 50.0) / greatest).collect();
        match page.tail() {
            Tail::ZeroPoints => {
                for step in &steps {
                    bytes.extend(bf16::from_f32(*step).to_le_bytes());
                }
                for _ in 0..64 {
                    let zero = greatest * 16.0 * ((random.next() % 1000) as f32 / 1000.0);
                    bytes.extend((zero as i16).to_le_bytes());
                }
            }
            Tail::Minimums => {
                bytes.extend(steps.iter().flat_map(|step| step.to_le_bytes()));
                bytes.extend((0..64).flat_map(|_| (-random.normal().abs()).to_le_bytes()));
            }
        }
    }
    bytes
}

#[track_caller]
pub(crate) fn assert_same<T: Half, O: Real>(paged: &Paged<T>) {
    for queue in crate::common::queues() {
        let Some(model) = crate::common::model_of(&queue) else { continue };
        let (results, logits, status) = paged.attend_with_status::<O>(&queue).unwrap();
        let (expected, expected_logits) = paged.expect(model);
        let what = format!("{}", queue.executor());
        assert_eq!(status, paged.expect_status(), "{what}: {:?}", MissingPage::from_status(status));
        assert_results(&results, &expected, &what);
        assert_eq!(logits.len(), expected_logits.len());
        for (i, (one, other)) in logits.iter().zip(&expected_logits).enumerate() {
            assert_eq!(
                one,
                other,
                "{what}: logit {i}: {} {}",
                f32::from_bits(*one),
                f32::from_bits(*other)
            );
        }
    }
}

/// A request has the bits of another, of two launches of so many requests.
#[track_caller]
pub(crate) fn assert_request(
    (one, logits): &(Results<f32>, Vec<u32>),
    at: usize,
    n: usize,
    (other, other_logits): &(Results<f32>, Vec<u32>),
    other_at: usize,
    n_others: usize,
) {
    let own = |all: &[u32], n: usize, b: usize| all[b * all.len() / n..][..all.len() / n].to_vec();
    assert_eq!(own(&one.log_sums, n, at), own(&other.log_sums, n_others, other_at));
    assert_eq!(own(logits, n, at), own(other_logits, n_others, other_at));
    // The last request has no end of a stride.
    let bits = |results: &Results<f32>, n: usize, b: usize| -> Vec<u32> {
        let own = (results.outputs.len() + 16) / n;
        let all = results.outputs[b * own..].iter().take(own - 16);
        all.map(|x| x.to_bits()).collect()
    };
    assert_eq!(bits(one, n, at), bits(other, n_others, other_at));
}
