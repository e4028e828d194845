//! Rows as tiered pages, and back.

use criterion::{Criterion, Throughput};
use half::bf16;
use lacuna::kv::{KvLayout, KvShape, KvView, KvViewMut};
use lacuna::quant::reference::{Channels, MinimumRow, quantize};
use lacuna::quant::{
    ChannelViews, Page, PageLists, PagesPlan, PagesShape, Part, Tail, Tier, TierPools,
    TierPoolsMut, dequantize_pages, quantize_pages,
};
use lacuna::{Buffer, Queue};

use crate::house::cache::{again, numbers};
use crate::house::case::{Budget, Case, Problem, Work};

pub(crate) fn cpu(criterion: &mut Criterion) {
    let mut number = numbers::<bf16>();
    let row: Vec<f32> = (0..128).map(|_| number().to_f32()).collect();
    let mut bench = criterion.benchmark_group("quant");
    bench.throughput(Throughput::Elements(128)).sample_size(20);
    for tier in [Tier::T4, Tier::T2] {
        let name = format!("reference/a row of {tier}");
        bench.bench_function(name, |b| b.iter(|| quantize(tier, &row)));
    }
    bench.finish();
}

/// Which way.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    ToPages,
    ToRows,
}

/// Requests of so many pages a head, keys and values, of numbers in pages of 16.
#[derive(Clone, Copy)]
struct Shape {
    way: Way,
    batch: u64,
    n_heads: u64,
    head_dim: u64,
    n_pages: u64,
    /// Of pages by turns.
    tiers: &'static [Tier],
    has_channels: bool,
    tail: Tail,
    is_small: bool,
}

/// The same numbers, of a tail of another kind.
fn with_tail(page: Page, tail: Tail) -> Page {
    if tail == Tail::ZeroPoints || !page.tier().is_coded() {
        return page;
    }
    let mut other = Page::zeroed(page.shape().with_tail(tail), page.tier());
    for token in 0..64 {
        let row = page.row(token);
        let step = row.scale.to_f32();
        let minimum = step * -f32::from(row.zero) / 16.0;
        other.set_minimum_row(token, &MinimumRow { codes: row.codes, step, minimum });
    }
    other
}

struct Pages {
    case: Shape,
    /// Keys and values.
    rows: [Vec<bf16>; 2],
    indices: Vec<i32>,
    /// Of keys and of values.
    entries: [Vec<u32>; 2],
    scales: Vec<f32>,
    pools: [Vec<u8>; 4],
    expected: Vec<u8>,
}

impl Shape {
    fn plan(&self, n_more: u64) -> PagesPlan {
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
        let n_pool_pages = self.count_pages();
        let shape = PagesShape::of(layout, self.n_pages);
        PagesPlan::new(PagesShape { n_pool_pages, tail: self.tail, ..shape }).expect("a sound plan")
    }

    fn tier(&self, page: u64) -> Tier {
        self.tiers[page as usize % self.tiers.len()]
    }

    /// Of each tier, keys' and values'.
    fn count_pages(&self) -> [u64; 4] {
        let mut n = [0; 4];
        for page in 0..self.n_pages {
            n[self.tier(page).tag() as usize] += 2 * self.batch * self.n_heads;
        }
        n
    }
}

impl Case for Shape {
    fn kernel(&self) -> &'static str {
        match self.way {
            Way::ToPages => "quant/quantize_pages",
            Way::ToRows => "quant/dequantize_pages",
        }
    }

    fn shape(&self) -> String {
        let Self { batch, n_heads, head_dim, n_pages, .. } = self;
        let bits: Vec<_> = self.tiers.iter().map(|tier| tier.bits().to_string()).collect();
        let bits = bits.join(", ");
        let channels = if self.has_channels { ", with scales of channels" } else { "" };
        let tail = if self.tail == Tail::Minimums { ", with minimums" } else { "" };
        format!(
            "{} tokens of {n_heads} heads of {head_dim} in {batch} requests, {bits} bits{channels}{tail}",
            64 * n_pages
        )
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        // Lists are read for keys and for values, and scales for each page. Codes go through shared memory byte by byte.
        let (bytes, sectors_per_request, conflict_ways) = match self.way {
            Way::ToPages => (1.18, 10.6, 1.8),
            Way::ToRows => (1.18, 7.1, 4.1),
        };
        Budget { bytes, sectors_per_request, conflict_ways, barriers: 2.0 }
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let plan = self.plan(0);
        let layout = plan.shape().layout;
        let mut number = numbers::<bf16>();
        let mut rows =
            [(); 2].map(|()| -> Vec<bf16> { (0..layout.pool_len()).map(|_| number()).collect() });
        let n_rows = 64 * self.n_pages;
        // Each row once, none beside its neighbour.
        let indices: Vec<i32> = (0..self.batch * self.n_heads)
            .flat_map(|_| (0..n_rows).map(move |i| (i * 37 % n_rows) as i32))
            .collect();
        let d = self.head_dim as usize;
        let scales: Vec<f32> =
            (0..plan.channels_len()).map(|i| 0.5 + (i % 7) as f32 / 4.0).collect();
        let mut pools = [const { Vec::new() }; 4];
        for tier in Tier::ALL {
            pools[tier.tag() as usize] = vec![0; plan.pool_bytes(tier) as usize];
        }
        let table: Vec<i32> = (0..layout.table_len() as i32).rev().collect();
        let mut free = [0_usize; 4];
        let mut entries = [Vec::new(), Vec::new()];
        for (part, kind) in [Part::Keys, Part::Values].into_iter().enumerate() {
            let shape = plan.page(kind);
            for of_head in 0..self.batch * self.n_heads {
                let (b, head) = (of_head / self.n_heads, of_head % self.n_heads);
                let own = &scales[of_head as usize * d..][..d];
                let channels = Channels { scales: self.has_channels.then_some(own), offsets: None };
                for p in 0..self.n_pages {
                    let tier = self.tier(p);
                    let at = tier.tag() as usize;
                    let n = shape.page_bytes(tier);
                    let slots = &indices[(of_head * n_rows + 64 * p) as usize..][..64];
                    let starts = slots
                        .iter()
                        .map(|row| layout.locate(&table, b, *row as u64, head).expect("a row"));
                    let starts: Vec<usize> = starts.collect();
                    let of_page = starts.iter().map(|start| Some(&rows[part][*start..start + d]));
                    let of_zeros = shape.with_tail(Tail::ZeroPoints);
                    let page = Page::quantize(of_zeros, tier, of_page, &channels).expect("a page");
                    let page = with_tail(page, self.tail);
                    pools[at][free[at] * n..][..n].copy_from_slice(page.bytes());
                    entries[part].push(tier.tag() << 30 | free[at] as u32);
                    free[at] += 1;
                    if self.way == Way::ToPages || !tier.is_coded() {
                        continue;
                    }
                    for (slot, start) in starts.into_iter().enumerate() {
                        let row = page.dequantize::<bf16>(slot, &channels);
                        for (to, x) in rows[part][start..start + d].iter_mut().zip(row) {
                            *to = bf16::from_f32(x);
                        }
                    }
                }
            }
        }
        let expected = match self.way {
            Way::ToPages => pools.concat(),
            Way::ToRows => {
                rows.iter().flat_map(|rows| bytemuck::cast_slice(rows)).copied().collect()
            }
        };
        Box::new(Pages { case: *self, rows, indices, entries, scales, pools, expected })
    }
}

impl Problem for Pages {
    fn least_bytes(&self) -> u64 {
        self.case.plan(0).least_bytes(self.case.count_pages())
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
    way: Way,
    plan: PagesPlan,
    rows: [Buffer<bf16>; 2],
    page_table: Buffer<i32>,
    lengths: Buffer<u32>,
    indices: Buffer<i32>,
    entries: [Buffer<u32>; 2],
    scales: Option<Buffer<f32>>,
    pools: [Buffer<u8>; 4],
}

impl Launch {
    fn new(pages: &Pages, queue: &Queue, n_more: usize) -> lacuna::Result<Self> {
        let case = pages.case;
        let plan = case.plan(n_more as u64);
        let (batch, n_entries) = (case.batch as usize, pages.entries[0].len());
        let none = vec![u32::MAX; n_more * n_entries / batch];
        let table: Vec<i32> = (0..(case.batch * 4 * case.n_pages) as i32).rev().collect();
        let scales = again(&pages.scales, batch, n_more);
        let [keys, values] = &pages.rows;
        let [of_keys, of_values] = &pages.entries;
        let [first, second, third, fourth] = &pages.pools;
        Ok(Self {
            way: case.way,
            plan,
            rows: [queue.upload(keys)?, queue.upload(values)?],
            page_table: queue.upload(&again(&table, batch, n_more))?,
            lengths: queue.upload(&vec![64 * case.n_pages as u32; batch + n_more])?,
            indices: queue.upload(&again(&pages.indices, batch, n_more))?,
            entries: [
                queue.upload(&[&none[..], of_keys].concat())?,
                queue.upload(&[&none[..], of_values].concat())?,
            ],
            scales: case.has_channels.then(|| queue.upload(&scales)).transpose()?,
            pools: [
                queue.upload(first)?,
                queue.upload(second)?,
                queue.upload(third)?,
                queue.upload(fourth)?,
            ],
        })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let channels =
            ChannelViews { scales: self.scales.as_ref().map(Buffer::view), offsets: None };
        let lists = PageLists {
            indices: self.indices.view(),
            counts: None,
            key_entries: self.entries[0].view(),
            value_entries: self.entries[1].view(),
            key_channels: channels,
            value_channels: channels,
        };
        let layout = self.plan.shape().layout;
        let (page_table, lengths) = (self.page_table.view(), self.lengths.view());
        let [keys, values] = &mut self.rows;
        match self.way {
            Way::ToPages => {
                let pools = self.pools.each_mut().map(|pool| Some(pool.view_mut()));
                let (keys, values) = (keys.view(), Some(values.view()));
                let source = KvView {
                    layout,
                    keys,
                    values,
                    page_table,
                    lengths,
                    key_scale: 1.0,
                    value_scale: 1.0,
                };
                quantize_pages(
                    queue,
                    &self.plan,
                    &source,
                    &lists,
                    &mut TierPoolsMut { pools, status: None },
                )
            }
            Way::ToRows => {
                let pools = self.pools.each_ref().map(|pool| Some(pool.view()));
                let (keys, values) = (keys.view_mut(), Some(values.view_mut()));
                let mut target = KvViewMut { layout, keys, values, page_table, lengths };
                dequantize_pages(
                    queue,
                    &self.plan,
                    &mut TierPools { pools, status: None },
                    &lists,
                    &mut target,
                )
            }
        }
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        match self.way {
            Way::ToPages => {
                self.pools.iter_mut().try_for_each(|pool| crate::house::case::poison(queue, pool))
            }
            Way::ToRows => {
                self.rows.iter_mut().try_for_each(|rows| crate::house::case::poison(queue, rows))
            }
        }
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let mut output = Vec::new();
        match self.way {
            Way::ToPages => {
                for pool in &self.pools {
                    output.extend(queue.download(&pool.view())?);
                }
            }
            Way::ToRows => {
                for rows in &self.rows {
                    let rows = queue.download(&rows.view())?;
                    output.extend_from_slice(bytemuck::cast_slice(&rows));
                }
            }
        }
        Ok(output)
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    use Tier::{T2, T4, T8, T16};
    use Way::{ToPages, ToRows};
    let small = |way, head_dim, n_pages, tiers, has_channels| Shape {
        way,
        batch: 2,
        n_heads: 2,
        head_dim,
        n_pages,
        tiers,
        has_channels,
        tail: Tail::ZeroPoints,
        is_small: true,
    };
    // A prompt of 32 Ki tokens; and what a step of 64 requests flushes.
    let large = |way, batch, n_pages, tiers, has_channels| Shape {
        way,
        batch,
        n_heads: 8,
        head_dim: 128,
        n_pages,
        tiers,
        has_channels,
        tail: Tail::ZeroPoints,
        is_small: false,
    };
    let cases = [
        small(ToPages, 128, 4, &[T16, T8, T4, T2], false),
        small(ToPages, 64, 3, &[T4], true),
        small(ToPages, 256, 2, &[T2], false),
        small(ToRows, 128, 4, &[T16, T8, T4, T2], false),
        small(ToRows, 96, 3, &[T4, T2], true),
        Shape { tail: Tail::Minimums, ..small(ToRows, 128, 3, &[T8, T4, T2], true) },
        large(ToPages, 1, 512, &[T4], false),
        large(ToPages, 1, 512, &[T4, T4, T2, T4, T2], true),
        large(ToPages, 1, 512, &[T8], false),
        large(ToPages, 64, 1, &[T4], true),
        large(ToRows, 1, 512, &[T4], false),
        large(ToRows, 1, 512, &[T2], true),
        Shape { tail: Tail::Minimums, ..large(ToRows, 1, 512, &[T4], true) },
    ];
    cases.map(|case| Box::new(case) as Box<dyn Case>).into()
}
