//! Summaries of keys: on the CPU, and by the kernel.

use criterion::{Criterion, Throughput};
use half::bf16;
use lacuna::kv::{KvLayout, KvShape, KvView};
use lacuna::select::reference::{box_of, box_of_boxes, mean_of};
use lacuna::select::{
    SummarizeInputs, SummarizeOutputs, SummarizePlan, SummarizeShape, Summary, summarize,
};
use lacuna::{Buffer, Queue};

use crate::house::case::{Budget, Case, Problem, Work, poison};

fn numbers(n: usize, seed: u64) -> Vec<bf16> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut number = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bf16::from_f32((state >> 40) as f32 / (1_u32 << 22) as f32 - 2.0)
    };
    (0..n).map(|_| number()).collect()
}

pub(crate) fn cpu(criterion: &mut Criterion) {
    let keys = numbers(16 * 128, 1);
    let rows: Vec<&[bf16]> = keys.chunks(128).collect();
    let mut bench = criterion.benchmark_group("select");
    bench.throughput(Throughput::Bytes(2 * 16 * 128));
    bench.bench_function("reference/box/16 keys of 128", |b| {
        b.iter(|| box_of::<bf16, bf16>(&rows, 128));
    });
    bench.finish();
}

/// `summarize` of bf16 keys, 8 heads of 128 in pages of 64; of requests that have as many tokens each.
#[derive(Clone, Copy)]
struct Summaries {
    summary: Summary,
    batch: usize,
    n_tokens: usize,
    /// Of them the last, which alone are new.
    n_new: usize,
    fan: usize,
    is_small: bool,
}

const HEADS: usize = 8;
const DIM: usize = 128;
const PAGE: usize = 64;

struct Keys {
    case: Summaries,
    pool: Vec<bf16>,
    /// The last summaries of the last request, head by head.
    rows: Vec<bf16>,
}

impl Summaries {
    /// Of the keys, or the boxes: elements of a row.
    fn row_len(&self) -> usize {
        if self.summary == Summary::BoxOfBoxes { 2 * DIM } else { DIM }
    }

    fn plan(&self, batch: usize) -> SummarizePlan {
        let table_stride = self.n_tokens.div_ceil(PAGE);
        let keys = KvShape {
            batch: batch as u64,
            n_heads: HEADS as u64,
            row_len: self.row_len() as u64,
            n_pages: (batch * table_stride) as u64,
            page_size: PAGE as u64,
            table_stride: table_stride as u64,
            tokens_per_row: 1,
            page_stride: 0,
            token_stride: 0,
            head_stride: 0,
        };
        // In the keys' pages, by the keys' table.
        let summaries = KvShape {
            row_len: self.summary.row_len(keys.row_len),
            page_size: (PAGE / self.fan) as u64,
            tokens_per_row: self.fan as u64,
            ..keys
        };
        let layout =
            |shape: KvShape| KvLayout::new(shape.nhd()).expect("a shape that is supported");
        SummarizePlan::new(SummarizeShape {
            keys: layout(keys),
            summaries: layout(summaries),
            summary: self.summary,
            max_new: self.n_new as u64,
            key_bytes: 2,
            outlier_stride: (table_stride * PAGE / self.fan) as u64,
        })
        .expect("a shape that is supported")
    }

    /// The first summary that is made.
    fn first(&self) -> usize {
        (self.n_tokens - self.n_new) / self.fan
    }
}

impl Case for Summaries {
    fn kernel(&self) -> &'static str {
        "select/summarize"
    }

    fn shape(&self) -> String {
        let Self { summary, batch, n_tokens, n_new, fan, .. } = self;
        format!(
            "{summary:?} of {fan}, {n_new} new of {n_tokens} tokens, batch {batch}, 8 heads of 128, bf16"
        )
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        Budget { bytes: 1.05, sectors_per_request: 15.5, conflict_ways: 1.1, barriers: 0.0 }
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let n_pages = self.batch * self.n_tokens.div_ceil(PAGE);
        let row_len = self.row_len();
        let mut pool = numbers(n_pages * PAGE * HEADS * row_len, 1);
        if self.summary == Summary::BoxOfBoxes {
            for row in pool.chunks_mut(row_len) {
                let (least, most) = row.split_at_mut(DIM);
                for (x, y) in least.iter_mut().zip(most) {
                    (*x, *y) = (x.min(*y), x.max(*y));
                }
            }
        }
        // Pages are in order: the last request's are the last.
        let base = (self.batch - 1) * self.n_tokens.div_ceil(PAGE) * PAGE;
        let mut rows = Vec::new();
        for t in self.first()..self.n_tokens.div_ceil(self.fan) {
            for h in 0..HEADS {
                let keys: Vec<&[bf16]> = (t * self.fan
                    ..(t * self.fan + self.fan).min(self.n_tokens))
                    .map(|i| &pool[((base + i) * HEADS + h) * row_len..][..row_len])
                    .collect();
                rows.extend(match self.summary {
                    Summary::Box => box_of::<_, bf16>(&keys, row_len),
                    Summary::Mean | Summary::MeanAndOutlier => mean_of(&keys, row_len),
                    Summary::BoxOfBoxes => box_of_boxes(&keys, row_len),
                });
            }
        }
        Box::new(Keys { case: *self, pool, rows })
    }
}

impl Problem for Keys {
    fn least_bytes(&self) -> u64 {
        let Summaries { batch, n_tokens, fan, .. } = self.case;
        let first = self.case.first();
        let n_keys = batch * (n_tokens - first * fan);
        let n_summaries = batch * (n_tokens.div_ceil(fan) - first);
        self.case.plan(batch).least_bytes(n_keys as u64, n_summaries as u64)
    }

    fn expected(&self) -> &[u8] {
        bytemuck::cast_slice(&self.rows)
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(self, queue, 0, self.case.n_new)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        Ok(vec![
            (
                "after another request".to_owned(),
                Box::new(Launch::new(self, queue, 1, self.case.n_new)?),
            ),
            ("by a grid for one new token".to_owned(), Box::new(Launch::new(self, queue, 0, 1)?)),
        ])
    }
}

/// A launch whose last request is looked at.
struct Launch {
    plan: SummarizePlan,
    pool: Buffer<bf16>,
    table: Buffer<i32>,
    lengths: Buffer<u32>,
    first_new: Buffer<u32>,
    rows: Buffer<bf16>,
    outliers: Option<Buffer<f32>>,
    /// The last request's last summaries, in its pages.
    looked_at: std::ops::Range<usize>,
}

impl Launch {
    fn new(keys: &Keys, queue: &Queue, n_more: usize, max_new: usize) -> lacuna::Result<Self> {
        let case = keys.case;
        let batch = case.batch + n_more;
        let plan = Summaries { n_new: max_new, ..case }.plan(batch);
        let n_pages = plan.shape().keys.shape().n_pages as usize;
        let more = numbers(n_more * keys.pool.len() / case.batch, 77);
        let table: Vec<i32> = (0..n_pages as i32).collect();
        let outliers_len = plan.outliers_len() as usize;
        let n_rows = case.n_tokens.div_ceil(PAGE) * PAGE / case.fan;
        let start = ((batch - 1) * n_rows + case.first())
            * (keys.rows.len() / (case.n_tokens.div_ceil(case.fan) - case.first()));
        Ok(Self {
            plan,
            pool: queue.upload(&[more, keys.pool.clone()].concat())?,
            table: queue.upload(&table)?,
            lengths: queue.upload(&vec![case.n_tokens as u32; batch])?,
            first_new: queue.upload(&vec![(case.n_tokens - case.n_new) as u32; batch])?,
            rows: queue.alloc(plan.shape().summaries.pool_len() as usize)?,
            outliers: (outliers_len != 0).then(|| queue.alloc(outliers_len)).transpose()?,
            looked_at: start..start + keys.rows.len(),
        })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let inputs = SummarizeInputs {
            keys: KvView {
                layout: self.plan.shape().keys,
                keys: self.pool.view(),
                values: None,
                page_table: self.table.view(),
                lengths: self.lengths.view(),
                key_scale: 1.0,
                value_scale: 1.0,
            },
            summary_table: self.table.view(),
            first_new: Some(self.first_new.view()),
        };
        let mut outputs = SummarizeOutputs {
            rows: self.rows.view_mut(),
            outliers: self.outliers.as_mut().map(|scores| scores.view_mut()),
        };
        summarize(queue, &self.plan, &inputs, &mut outputs)
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.rows)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let view = self.rows.view().slice(self.looked_at.clone())?;
        Ok(bytemuck::cast_slice(&queue.download(&view)?).to_vec())
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    let case = |summary, batch, n_tokens, n_new, fan, is_small| {
        Box::new(Summaries { summary, batch, n_tokens, n_new, fan, is_small }) as _
    };
    vec![
        case(Summary::Box, 1, 1024, 1024, 16, true),
        case(Summary::Box, 2, 1000, 1, 16, true),
        case(Summary::Mean, 1, 512, 512, 64, true),
        case(Summary::MeanAndOutlier, 1, 512, 512, 8, true),
        case(Summary::MeanAndOutlier, 1, 512, 512, 64, true),
        case(Summary::BoxOfBoxes, 1, 256, 256, 8, true),
        case(Summary::Box, 1, 1 << 17, 1 << 17, 16, false),
        case(Summary::MeanAndOutlier, 1, 1 << 17, 1 << 17, 8, false),
        case(Summary::Box, 64, 1 << 12, 1, 16, false),
    ]
}
