//! Queries over tiered pages, and the newest tokens.

mod launches;
mod requests;

use std::sync::OnceLock;

use half::bf16;
use lacuna::Queue;
use lacuna::attention::{AttendPlan, AttendShape, SegmentShape, TieredPlan, Tokens};
use lacuna::kv::{KvLayout, KvShape};
use lacuna::mma::Model;
use lacuna::quant::{PageShape, PagesPlan, PagesShape, Part, Tail, Tier};

use self::requests::{Requests, make_pool};
use crate::house::cache::{Cache, numbers};
use crate::house::case::{Budget, Case, Problem};
use crate::rows::without_model;

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

impl Case for Shape {
    fn kernel(&self) -> &'static str {
        match (self.head_dim, self.group) {
            (64, ..=4) => "attention/attend_tiered_64x4",
            (64, _) => "attention/attend_tiered_64x8",
            (128, ..=4) => "attention/attend_tiered_128x4",
            (128, _) => "attention/attend_tiered_128x8",
            (_, ..=4) => "attention/attend_tiered_256x4",
            _ => "attention/attend_tiered_256x8",
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
        // each, and for four rows of queries at a time.
        let n_times = if self.group > 4 { 2.0 } else { 1.0 };
        let n_lists = (self.batch * self.n_heads) as f64;
        let n_warps = n_lists * (4.0 * n_splits).min(self.n_pages as f64);
        let channels = (n_warps * (n_times * 16.0 + 1.0) - n_lists * 3.0) * 4.0 * d;
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
        Shape { n_pages: 9, head_dim: 64, group: 7, tiers: MIXED, ..SMALL },
        Shape { group: 8, tiers: MIXED, ..SMALL },
        Shape { n_pages: 9, head_dim: 256, group: 5, ..SMALL },
    ];
    // Llama-3.1-8B's heads.
    let large = Shape { n_pages: 2047, window: 64, n_heads: 8, is_small: false, ..SMALL };
    let of_batch = |batch| {
        let tiers: [&'static [_]; 5] = [&[(T8, 100)], &[(T4, 100)], MIXED, &[(T2, 100)], OF_ALL];
        tiers.map(|tiers| Shape { batch, tiers, ..large })
    };
    let many = Shape { batch: 16, n_pages: 255, ..large };
    let many = [many, Shape { tiers: MIXED, ..many }];
    // Llama-3.3-70B's.
    let of_eight = Shape { batch: 4, group: 8, ..large };
    let of_eight = [of_eight, Shape { tiers: MIXED, ..of_eight }];
    small
        .into_iter()
        .chain([1, 4, 8].into_iter().flat_map(of_batch))
        .chain(many)
        .chain(of_eight)
        .map(|shape| Box::new(shape) as _)
        .collect()
}
