//! Tokens of some tiers as pages of others.

use half::bf16;
use lacuna::kv::{KvLayout, KvShape, KvView};
use lacuna::quant::reference::{Channels, Token, retier_page};
use lacuna::quant::{
    ChannelViews, Page, PagesShape, Part, RetierInputs, RetierOutputs, RetierPlan, RetierShape,
    Tier, TierPoolsMut, retier_pages,
};
use lacuna::{Buffer, Queue};

use crate::house::cache::{again, numbers};
use crate::house::case::{Budget, Case, Problem, Work};

const PARTS: [Part; 2] = [Part::Keys, Part::Values];

/// Requests of so many pages a head, all of whose tokens are gathered again, by ascending positions.
#[derive(Clone, Copy)]
struct Shape {
    batch: u64,
    n_heads: u64,
    head_dim: u64,
    n_pages: u64,
    /// Of every 16 positions by turns; none where they wait.
    from: &'static [Option<Tier>],
    /// Of positions by turns.
    to: &'static [Tier],
    budget: Budget,
    is_small: bool,
}

struct Retier {
    case: Shape,
    rows: [Vec<bf16>; 2],
    slot_of: Vec<i32>,
    indices: Vec<i32>,
    old_entries: [Vec<u32>; 2],
    entries: [Vec<u32>; 2],
    scales: Vec<f32>,
    /// Old pages, and what no launch leaves.
    pools: [Vec<u8>; 4],
    expected: Vec<u8>,
}

impl Shape {
    /// Where a head's token is: its tier's page of so many, and slot; or nowhere.
    fn old_places(&self) -> (Vec<Option<(Tier, usize)>>, [usize; 4]) {
        let mut n = [0; 4];
        let place = |i: usize| {
            let tier = self.from[i / 16 % self.from.len()]?;
            n[tier.tag() as usize] += 1;
            Some((tier, n[tier.tag() as usize] - 1))
        };
        let places = (0..64 * self.n_pages as usize).map(place).collect();
        (places, n.map(|n| n / 64))
    }

    /// Positions of each new page.
    fn new_pages(&self) -> Vec<(Tier, Vec<usize>)> {
        let n = 64 * self.n_pages as usize;
        let of_tier = |tier: Tier| {
            let own = (0..n).filter(move |i| self.to[i % self.to.len()] == tier);
            let own: Vec<usize> = own.collect();
            let pages: Vec<_> = own.chunks_exact(64).map(|page| (tier, page.to_vec())).collect();
            pages
        };
        Tier::ALL.into_iter().rev().flat_map(of_tier).collect()
    }

    /// Of all heads, keys' and values'.
    fn count_pages(&self) -> [[u64; 4]; 2] {
        let of_all = |n: usize| 2 * self.batch * self.n_heads * n as u64;
        let mut new = [0; 4];
        self.new_pages().iter().for_each(|(tier, _)| new[tier.tag() as usize] += 1);
        [self.old_places().1.map(of_all), new.map(of_all)]
    }

    fn plan(&self, n_more: u64) -> RetierPlan {
        let table_stride = 4 * self.n_pages;
        let shape = KvShape {
            batch: self.batch + n_more,
            n_heads: self.n_heads,
            row_len: self.head_dim,
            n_pages: self.batch * table_stride,
            page_size: 16,
            table_stride,
            ..KvShape::default()
        };
        let layout = KvLayout::new(shape.hnd()).expect("a layout");
        let [old, new] = self.count_pages();
        let n_pool_pages = [0, 1, 2, 3].map(|at| old[at] + new[at]);
        let pages = PagesShape { n_pool_pages, ..PagesShape::of(layout, self.n_pages) };
        let n_old_pages = self.old_places().1.iter().sum::<usize>() as u64;
        RetierPlan::new(RetierShape { n_old_pages, ..RetierShape::of(pages) })
            .expect("a sound plan")
    }
}

impl Case for Shape {
    fn kernel(&self) -> &'static str {
        "quant/retier_pages"
    }

    fn shape(&self) -> String {
        let Self { batch, n_heads, head_dim, n_pages, .. } = self;
        let from = self
            .from
            .iter()
            .map(|tier| tier.map_or("waiting".to_owned(), |t| t.bits().to_string()));
        let to = self.to.iter().map(|tier| tier.bits().to_string());
        let [from, to] = [from.collect::<Vec<_>>().join(", "), to.collect::<Vec<_>>().join(", ")];
        format!(
            "{} tokens of {n_heads} heads of {head_dim} in {batch} requests, {from} to {to} bits",
            64 * n_pages
        )
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        self.budget
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let plan = self.plan(0);
        let layout = plan.shape().pages.layout;
        let mut number = numbers::<bf16>();
        let rows =
            [(); 2].map(|()| -> Vec<bf16> { (0..layout.pool_len()).map(|_| number()).collect() });
        let table: Vec<i32> = (0..layout.table_len() as i32).rev().collect();
        let d = self.head_dim as usize;
        let scales: Vec<f32> =
            (0..plan.pages().channels_len()).map(|i| 0.5 + (i % 7) as f32 / 4.0).collect();
        let (places, n_old) = self.old_places();
        let new_pages = self.new_pages();
        let n_heads = (self.batch * self.n_heads) as usize;
        let old_table: Vec<(Tier, usize)> = Tier::ALL
            .into_iter()
            .flat_map(|tier| (0..n_old[tier.tag() as usize]).map(move |p| (tier, p)))
            .collect();
        let first_of = |tier: Tier| old_table.iter().position(|(other, _)| *other == tier);
        let slots: Vec<i32> = places
            .iter()
            .map(|place| match place {
                None => -1,
                Some((tier, i)) => (64 * first_of(*tier).expect("its pages") + i) as i32,
            })
            .collect();

        let mut pools = Tier::ALL.map(|_| Vec::new());
        let mut made: [Vec<u8>; 4] = Tier::ALL.map(|_| Vec::new());
        let mut old_entries = [Vec::new(), Vec::new()];
        let mut entries = [Vec::new(), Vec::new()];
        let [n_old_all, _] = self.count_pages();
        let mut free = n_old_all;
        for (part, kind) in PARTS.into_iter().enumerate() {
            let shape = plan.pages().page(kind);
            for of_head in 0..n_heads {
                let (b, head) = (of_head as u64 / self.n_heads, of_head as u64 % self.n_heads);
                let own = &scales[of_head * d..][..d];
                let channels = Channels { scales: Some(own), offsets: None };
                let row_of = |position: usize| -> &[bf16] {
                    let start = layout.locate(&table, b, position as u64, head).expect("a row");
                    &rows[part][start..start + d]
                };
                let old: Vec<Page> = old_table
                    .iter()
                    .map(|(tier, p)| {
                        let own = |i: &usize| {
                            places[*i].is_some_and(|(t, at)| t == *tier && at / 64 == *p)
                        };
                        let tokens = (0..places.len()).filter(own).map(|i| Some(row_of(i)));
                        Page::quantize(shape, *tier, tokens, &channels).expect("a page")
                    })
                    .collect();
                for page in &old {
                    let at = page.tier().tag();
                    let pool: &mut Vec<u8> = &mut pools[at as usize];
                    let number = pool.len() / page.bytes().len();
                    old_entries[part].push(at << 30 | number as u32);
                    pool.extend_from_slice(page.bytes());
                }
                for (tier, positions) in &new_pages {
                    let tokens = positions.iter().map(|i| {
                        Some(match slots[*i] {
                            -1 => Token::Row(row_of(*i)),
                            slot => Token::InPage(&old[slot as usize / 64], slot as usize % 64),
                        })
                    });
                    let page = retier_page(shape, *tier, tokens, &channels).expect("a page");
                    let at = tier.tag() as usize;
                    entries[part].push(tier.tag() << 30 | free[at] as u32);
                    free[at] += 1;
                    made[at].extend_from_slice(page.bytes());
                }
            }
        }
        let of_head: Vec<i32> =
            new_pages.iter().flat_map(|(_, p)| p.iter().map(|i| *i as i32)).collect();
        let mut new_slots = vec![0_i32; of_head.len()];
        of_head.iter().enumerate().for_each(|(slot, i)| new_slots[*i as usize] = slot as i32);
        let mut expected: Vec<u8> = Vec::new();
        for at in 0..4 {
            expected.extend_from_slice(&pools[at]);
            expected.extend_from_slice(&made[at]);
            let n = pools[at].len() + made[at].len();
            pools[at].resize(n, 0xA5);
        }
        expected.extend_from_slice(bytemuck::cast_slice(&new_slots.repeat(n_heads)));
        Box::new(Retier {
            case: *self,
            rows,
            slot_of: slots.repeat(n_heads),
            indices: of_head.repeat(n_heads),
            old_entries,
            entries,
            scales,
            pools,
            expected,
        })
    }
}

impl Problem for Retier {
    fn least_bytes(&self) -> u64 {
        let [old, new] = self.case.count_pages();
        let n_waiting = self.slot_of.iter().filter(|slot| **slot < 0).count() as u64;
        self.case.plan(0).least_bytes(old, 2 * n_waiting, new)
    }

    fn expected(&self) -> &[u8] {
        &self.expected
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(self, queue, 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let last = Launch::new(self, queue, 2)?;
        Ok(vec![("after two requests without pages".to_owned(), Box::new(last))])
    }
}

struct Launch {
    plan: RetierPlan,
    rows: [Buffer<bf16>; 2],
    page_table: Buffer<i32>,
    lengths: Buffer<u32>,
    slot_of: Buffer<i32>,
    indices: Buffer<i32>,
    counts: Option<Buffer<u32>>,
    old_entries: [Buffer<u32>; 2],
    entries: [Buffer<u32>; 2],
    scales: Buffer<f32>,
    pools: [Buffer<u8>; 4],
    poisoned: [Vec<u8>; 4],
    new_slots: Buffer<i32>,
    /// Slots of requests without pages.
    n_before: usize,
}

impl Launch {
    fn new(problem: &Retier, queue: &Queue, n_more: usize) -> lacuna::Result<Self> {
        let case = problem.case;
        let plan = case.plan(n_more as u64);
        let batch = case.batch as usize;
        let before = |entries: &[u32]| -> Vec<u32> {
            let mut all = vec![u32::MAX; n_more * entries.len() / batch];
            all.extend_from_slice(entries);
            all
        };
        let n_before = n_more * problem.slot_of.len() / batch;
        let counts = (n_more > 0).then(|| {
            let mut counts = vec![0; n_more * case.n_heads as usize];
            counts.resize(plan.runs_len() as usize, u32::MAX);
            counts
        });
        let table: Vec<i32> = (0..(case.batch * 4 * case.n_pages) as i32).rev().collect();
        let pair = |all: &[Vec<u32>; 2]| -> lacuna::Result<[Buffer<u32>; 2]> {
            Ok([queue.upload(&before(&all[0]))?, queue.upload(&before(&all[1]))?])
        };
        let [first, second, third, fourth] = &problem.pools;
        Ok(Self {
            plan,
            rows: [queue.upload(&problem.rows[0])?, queue.upload(&problem.rows[1])?],
            page_table: queue.upload(&again(&table, batch, n_more))?,
            lengths: queue.upload(&vec![64 * case.n_pages as u32; batch + n_more])?,
            slot_of: queue.upload(&again(&problem.slot_of, batch, n_more))?,
            indices: queue.upload(&again(&problem.indices, batch, n_more))?,
            counts: counts.map(|counts| queue.upload(&counts)).transpose()?,
            old_entries: pair(&problem.old_entries)?,
            entries: pair(&problem.entries)?,
            scales: queue.upload(&again(&problem.scales, batch, n_more))?,
            pools: [
                queue.upload(first)?,
                queue.upload(second)?,
                queue.upload(third)?,
                queue.upload(fourth)?,
            ],
            poisoned: problem.pools.clone(),
            new_slots: queue.upload(&vec![-1; plan.slots_len() as usize])?,
            n_before,
        })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let channels = ChannelViews { scales: Some(self.scales.view()), offsets: None };
        let inputs = RetierInputs {
            cache: Some(KvView {
                layout: self.plan.shape().pages.layout,
                keys: self.rows[0].view(),
                values: Some(self.rows[1].view()),
                page_table: self.page_table.view(),
                lengths: self.lengths.view(),
                key_scale: 1.0,
                value_scale: 1.0,
            }),
            slot_of: self.slot_of.view(),
            old_key_entries: self.old_entries[0].view(),
            old_value_entries: self.old_entries[1].view(),
            indices: self.indices.view(),
            counts: self.counts.as_ref().map(Buffer::view),
            first_pages: None,
            key_entries: self.entries[0].view(),
            value_entries: self.entries[1].view(),
            key_channels: channels,
            value_channels: channels,
        };
        let pools = self.pools.each_mut().map(|pool| Some(pool.view_mut()));
        let mut outputs = RetierOutputs {
            pools: TierPoolsMut { pools, status: None },
            new_slots: self.new_slots.view_mut(),
        };
        retier_pages(queue, &self.plan, &inputs, &mut outputs)
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        for (pool, bytes) in self.pools.iter_mut().zip(&self.poisoned) {
            queue.upload_into(bytes, &mut pool.view_mut())?;
        }
        crate::house::case::poison(queue, &mut self.new_slots)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let mut output = Vec::new();
        for pool in &self.pools {
            output.extend(queue.download(&pool.view())?);
        }
        let new_slots = queue.download(&self.new_slots.view())?;
        output.extend_from_slice(bytemuck::cast_slice(&new_slots[self.n_before..]));
        Ok(output)
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    use Tier::{T2, T4, T8, T16};
    let budget = |bytes, sectors_per_request, conflict_ways| Budget {
        bytes,
        sectors_per_request,
        conflict_ways,
        barriers: 3.0,
    };
    let small = |head_dim, n_pages, from, to, budget| Shape {
        batch: 2,
        n_heads: 2,
        head_dim,
        n_pages,
        from,
        to,
        budget,
        is_small: true,
    };
    // A request of 32 Ki tokens, and 16 of 2 Ki.
    let large = |batch, n_pages, from, to| Shape {
        batch,
        n_heads: 8,
        head_dim: 128,
        n_pages,
        from,
        to,
        // Of small ones alone.
        budget: budget(0.0, 0.0, 0.0),
        is_small: false,
    };
    // What holds a token's codes has others' too, and new pages that have tokens of one old page read them each.
    let cases = [
        small(128, 8, &[Some(T4)], &[T4, T4, T4, T2], budget(1.53, 8.9, 1.3)),
        small(128, 8, &[Some(T8)], &[T4, T2], budget(1.44, 9.3, 1.3)),
        small(64, 4, &[Some(T16), None], &[T4], budget(1.09, 9.0, 1.7)),
        small(
            96,
            8,
            &[Some(T8), Some(T4), Some(T2), None],
            &[T8, T4, T2, T2],
            budget(1.58, 8.5, 1.4),
        ),
        small(
            256,
            4,
            &[Some(T2), Some(T2), Some(T4), Some(T4)],
            &[T16, T2],
            budget(1.2, 11.3, 3.4),
        ),
        large(1, 512, &[Some(T4)], &[T4, T4, T4, T2]),
        large(1, 512, &[Some(T8)], &[T4, T2]),
        large(16, 32, &[Some(T16), Some(T8), Some(T4), Some(T4)], &[T8, T4, T2, T2]),
        large(16, 32, &[Some(T4)], &[T4, T4, T4, T2]),
    ];
    cases.map(|case| Box::new(case) as Box<dyn Case>).into()
}
