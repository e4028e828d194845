//! What channels are relative to, measured.

use criterion::{Criterion, Throughput};
use half::bf16;
use lacuna::kv::{KvLayout, KvShape};
use lacuna::quant::reference::measure;
use lacuna::quant::{
    ChannelViewsMut, ChannelsPlan, MeasuredRows, PagesPlan, PagesShape, measure_channels,
};
use lacuna::{Buffer, Queue};

use crate::house::cache::{Cache, Placed, again, numbers};
use crate::house::case::{Budget, Case, Problem, Work, poison};

pub(crate) fn cpu(criterion: &mut Criterion) {
    let mut number = numbers::<bf16>();
    let rows: Vec<bf16> = (0..512 * 128).map(|_| number()).collect();
    let slots: Vec<Option<&[bf16]>> = rows.chunks(128).map(Some).collect();
    let mut bench = criterion.benchmark_group("quant");
    bench.throughput(Throughput::Elements(rows.len() as u64)).sample_size(20);
    bench.bench_function("reference/measure 512 rows", |b| b.iter(|| measure(&slots, 128, true)));
    bench.finish();
}

/// Requests of so many pages a head, keys and values, of numbers in pages of 16.
#[derive(Clone, Copy)]
struct Shape {
    batch: u64,
    n_heads: u64,
    head_dim: u64,
    n_pages: u64,
    span_pages: u64,
    is_small: bool,
}

struct Channels {
    case: Shape,
    cache: Cache,
    indices: Vec<i32>,
    expected: Vec<u8>,
}

impl Shape {
    fn plan(&self, n_more: u64) -> ChannelsPlan {
        let table_stride = 4 * self.n_pages;
        let shape = KvShape {
            batch: self.batch + n_more,
            n_heads: self.n_heads,
            row_len: self.head_dim,
            n_pages: (self.batch + n_more) * table_stride,
            page_size: 16,
            table_stride,
            ..KvShape::default()
        };
        let layout = KvLayout::new(shape.hnd()).expect("a layout");
        let span_pages = self.span_pages;
        let pages = PagesShape { span_pages, ..PagesShape::of(layout, self.n_pages) };
        ChannelsPlan::new(PagesPlan::new(pages).expect("a sound plan"))
    }
}

/// Scales and offsets of keys, and scales of values.
const N_FIGURES: usize = 3;

impl Case for Shape {
    fn kernel(&self) -> &'static str {
        "quant/measure_channels"
    }

    fn shape(&self) -> String {
        let Self { batch, n_heads, head_dim, n_pages, span_pages, .. } = self;
        format!(
            "{} tokens of {n_heads} heads of {head_dim} in {batch} requests, spans of {}",
            64 * n_pages,
            64 * span_pages
        )
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        // Lists and page tables are read for keys and for values, first rows twice, and pieces written and read.
        Budget { bytes: 1.28, sectors_per_request: 13.7, conflict_ways: 1.07, barriers: 4.0 }
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let plan = self.plan(0);
        let layout = plan.pages().shape().layout;
        let mut number = numbers::<bf16>();
        let n_rows = 64 * self.n_pages;
        let cache = Cache::new(&layout, n_rows, &mut number).with_values(&mut number);
        // Each row once, none beside its neighbour.
        let indices: Vec<i32> = (0..self.batch * self.n_heads)
            .flat_map(|_| (0..n_rows).map(move |i| (i * 37 % n_rows) as i32))
            .collect();
        let d = self.head_dim as usize;
        let mut figures = [const { Vec::<f32>::new() }; N_FIGURES];
        for of_head in 0..self.batch * self.n_heads {
            let (b, head) = (of_head / self.n_heads, of_head % self.n_heads);
            let list = &indices[(of_head * n_rows) as usize..][..n_rows as usize];
            for span in list.chunks(64 * self.span_pages as usize) {
                let slots = |pool| -> Vec<Option<&[bf16]>> {
                    let pool: &Vec<bf16> = pool;
                    let start = |row: &i32| layout.locate(&cache.page_table, b, *row as u64, head);
                    span.iter().map(|row| Some(&pool[start(row)?..][..d])).collect()
                };
                let keys = measure(&slots(&cache.keys), d, true);
                let values = measure(&slots(&cache.values), d, false);
                for (to, from) in figures.iter_mut().zip([keys.scales, keys.offsets, values.scales])
                {
                    to.extend(from);
                }
            }
        }
        let expected = figures.iter().flat_map(|floats| bytemuck::cast_slice(floats)).copied();
        Box::new(Channels { case: *self, expected: expected.collect(), cache, indices })
    }
}

impl Problem for Channels {
    fn least_bytes(&self) -> u64 {
        let plan = self.case.plan(0);
        plan.least_bytes(self.indices.len() as u64, self.expected.len() as u64 / 4)
    }

    fn expected(&self) -> &[u8] {
        &self.expected
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(self, queue, 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let last = Launch::new(self, queue, 2)?;
        Ok(vec![("after two other requests".to_owned(), Box::new(last))])
    }
}

struct Launch {
    plan: ChannelsPlan,
    n_more: usize,
    n_figures: usize,
    cache: Placed,
    indices: Buffer<i32>,
    workspace: Buffer<u32>,
    figures: [Buffer<f32>; N_FIGURES],
}

impl Launch {
    fn new(channels: &Channels, queue: &Queue, n_more: usize) -> lacuna::Result<Self> {
        let case = channels.case;
        let (plan, batch) = (case.plan(n_more as u64), case.batch as usize);
        let n = plan.pages().channels_len() as usize;
        let floats = vec![0.0_f32; n];
        Ok(Self {
            plan,
            n_more: n / (batch + n_more) * n_more,
            n_figures: n,
            cache: channels.cache.place(queue, plan.pages().shape().layout, n_more)?,
            indices: queue.upload(&again(&channels.indices, batch, n_more))?,
            workspace: queue.upload(&vec![0_u32; plan.workspace_len() as usize])?,
            figures: [queue.upload(&floats)?, queue.upload(&floats)?, queue.upload(&floats)?],
        })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let rows = MeasuredRows { indices: self.indices.view(), counts: None };
        let [scales, offsets, of_values] = &mut self.figures;
        let mut keys =
            ChannelViewsMut { scales: Some(scales.view_mut()), offsets: Some(offsets.view_mut()) };
        let mut values = ChannelViewsMut { scales: Some(of_values.view_mut()), offsets: None };
        let workspace = &mut self.workspace.view_mut();
        let source = self.cache.view();
        measure_channels(queue, &self.plan, &source, &rows, workspace, &mut keys, &mut values)
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        self.figures.iter_mut().try_for_each(|figures| poison(queue, figures))
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let mut output = Vec::new();
        for figures in &self.figures {
            let figures = queue.download(&figures.view())?;
            output.extend_from_slice(bytemuck::cast_slice(&figures[self.n_more..self.n_figures]));
        }
        Ok(output)
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    let small =
        Shape { batch: 2, n_heads: 2, head_dim: 128, n_pages: 18, span_pages: 18, is_small: true };
    let large = Shape { batch: 1, n_heads: 8, is_small: false, ..small };
    let cases = [
        small,
        Shape { head_dim: 64, n_pages: 4, span_pages: 2, ..small },
        // A prompt of 128 Ki tokens, of 32 Ki in spans; and what a step of 64 requests flushes.
        Shape { n_pages: 2048, span_pages: 2048, ..large },
        Shape { n_pages: 512, span_pages: 8, ..large },
        Shape { batch: 64, n_pages: 1, span_pages: 1, ..large },
    ];
    cases.map(|case| Box::new(case) as Box<dyn Case>).into()
}
