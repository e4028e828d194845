//! Queries over all tokens, and over what was picked.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use criterion::{Criterion, Throughput};
use half::{bf16, f16};
use lacuna::attention::reference::{Attended, HostSegment};
use lacuna::attention::{
    AttendInputs, AttendOutputs, AttendPlan, AttendShape, Mask, Segment, SegmentShape, Tokens,
    attend,
};
use lacuna::element::{Half, Real};
use lacuna::kv::{KvLayout, KvLists, KvShape};
use lacuna::mma::Model;
use lacuna::{Buffer, Queue};
use serde_json::json;

use crate::house::cache::{Cache, Placed, again, numbers};
use crate::house::case::{Budget, Case, Peer, Problem, Work, poison};
use crate::peers::attention::Attention;
use crate::peers::process::Inputs;
use crate::rows::{bytes_of, without_model};

/// Requests of as many tokens each, in pages of 16.
#[derive(Clone, Copy)]
struct Shape {
    batch: u64,
    n: u64,
    n_heads: u64,
    group: u64,
    n_queries: u64,
    head_dim: u64,
    picked: Picked,
    is_bf16: bool,
    is_small: bool,
}

/// Which tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Picked {
    All,
    /// So many blocks of so many tokens.
    Blocks {
        n_blocks: u64,
        block_size: u64,
        lists: KvLists,
    },
}

const PAGE_SIZE: u64 = 16;

/// A segment of a launch; of blocks with their numbers.
#[derive(Clone)]
struct Part {
    tokens: Tokens,
    lists: KvLists,
    indices: Vec<i32>,
}

impl Part {
    fn range(tokens: Tokens) -> Self {
        Self { tokens, lists: KvLists::PerRequest, indices: Vec::new() }
    }
}

/// A launch: where its tokens are, and by which segments it finds them.
struct Way {
    layout: KvLayout,
    parts: Vec<Part>,
}

impl Shape {
    fn layout(&self, page_size: u64) -> KvShape {
        let table_stride = self.n.div_ceil(page_size);
        KvShape {
            batch: self.batch,
            n_heads: self.n_heads,
            row_len: self.head_dim,
            n_pages: self.batch * table_stride,
            page_size,
            table_stride,
            ..KvShape::default()
        }
    }

    /// Tokens lie together with all of their heads, as peers want them.
    fn way(&self) -> Way {
        let layout = KvLayout::new(self.layout(PAGE_SIZE).nhd()).expect("a layout");
        let part = match self.picked {
            Picked::All => Part::range(Tokens::ALL),
            Picked::Blocks { n_blocks, block_size, lists } => {
                let n_lists = lists.count(&layout);
                let indices = pick(n_lists, n_blocks, self.n / block_size);
                Part { tokens: Tokens::Blocks { n_blocks, block_size }, lists, indices }
            }
        };
        Way { layout, parts: vec![part] }
    }

    /// Other segments of the same tokens in the same order.
    fn other_parts(&self, parts: &[Part]) -> (&'static str, Vec<Part>) {
        match self.picked {
            Picked::All => {
                let rest = self.n / 3;
                let blocks: Vec<_> = (0..rest.div_ceil(7) as i32).collect();
                let n_blocks = blocks.len() as u64;
                let indices = blocks.repeat(self.batch as usize);
                let tokens = Tokens::Blocks { n_blocks, block_size: 7 };
                let first = Part { tokens, lists: KvLists::PerRequest, indices };
                let rest = Part::range(Tokens::ALL.after(7 * n_blocks));
                ("as blocks of 7 and a range", vec![first, rest])
            }
            Picked::Blocks { block_size, lists, .. } => {
                let [part] = parts else { unreachable!("one list") };
                let n = part.indices.len() / (self.batch * self.n_lists(lists)) as usize;
                let each = part.indices.chunks(n);
                let n_times = self.n_heads / self.n_lists(lists);
                let tokens = |block: &i32| {
                    let first = *block as u64 * block_size;
                    (first..first + block_size).map(|token| token as i32).collect::<Vec<_>>()
                };
                let indices = each.flat_map(|list| {
                    let list: Vec<_> = list.iter().flat_map(tokens).collect();
                    list.repeat(n_times as usize)
                });
                let n_blocks = n as u64 * block_size;
                let tokens = Tokens::Blocks { n_blocks, block_size: 1 };
                let indices = indices.collect();
                let part = Part { tokens, lists: KvLists::PerHead, indices };
                ("token by token, by a list for each head", vec![part])
            }
        }
    }

    fn n_lists(&self, lists: KvLists) -> u64 {
        if lists == KvLists::PerHead { self.n_heads } else { 1 }
    }

    /// For `n_more` requests more.
    fn plan(&self, way: &Way, n_more: u64) -> AttendPlan {
        let batch = self.batch + n_more;
        let kv = KvShape { batch, ..*way.layout.shape() };
        let layout = KvLayout::new(kv).expect("a layout");
        let mask = if self.n_queries == 1 { Mask::None } else { Mask::Causal };
        let segments: Vec<_> = way
            .parts
            .iter()
            .map(|part| SegmentShape { layout, tokens: part.tokens, lists: part.lists, mask })
            .collect();
        let shape = AttendShape {
            n_queries: self.n_queries,
            ..AttendShape::of(&layout, self.n_heads * self.group)
        };
        AttendPlan::new(shape, &segments).expect("a shape that is supported")
    }

    fn build<T: Half + Real + Sync>(&self, model: Option<Model>) -> Requests<T> {
        let way = self.way();
        let plan = self.plan(&way, 0);
        let mut number = numbers();
        let queries = (0..plan.queries_len()).map(|_| number()).collect();
        let cache = Cache::new(&way.layout, self.n, &mut number).with_values(&mut number);
        let mut requests = Requests { case: *self, way, queries, cache, expected: Vec::new() };
        if let Some(model) = model {
            requests.expected = requests.attend_on_cpu(model);
        }
        requests
    }
}

/// Ascending numbers of `n_lists` lists, far apart and none twice.
pub(crate) fn pick(n_lists: u64, n: u64, n_all: u64) -> Vec<i32> {
    let each = n_all / n;
    let place = |i: u64| i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    (0..n_lists * n).map(|i| (i % n * each + place(i) % each) as i32).collect()
}

impl Case for Shape {
    fn kernel(&self) -> &'static str {
        if self.head_dim <= 128 { "attention/attend_128" } else { "attention/attend_256" }
    }

    fn shape(&self) -> String {
        let Self { batch, n, n_heads, group, n_queries, head_dim, .. } = self;
        let picked = match self.picked {
            Picked::All => "all of".to_owned(),
            Picked::Blocks { n_blocks, block_size, lists } => {
                let n_picked = n_blocks * block_size;
                let blocks = match block_size {
                    1 => String::new(),
                    _ => format!(" in blocks of {block_size}"),
                };
                let whose = if lists == KvLists::PerHead { " for each head" } else { "" };
                format!("{n_picked}{blocks}{whose} of")
            }
        };
        let queries = if *n_queries == 1 { String::new() } else { format!("{n_queries} times ") };
        let n_q_heads = n_heads * group;
        let element = if self.is_bf16 { "bf16" } else { "f16" };
        format!(
            "{queries}{n_q_heads} of {n_heads} heads of {head_dim} over {picked} {n} tokens in {batch} requests, {element}"
        )
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        let way = self.way();
        let plan = self.plan(&way, 0);
        let [n_splits, n_blocks, _] = plan.grid().blocks.map(f64::from);
        let n_blocks = n_blocks / self.n_heads as f64;
        // Partial sums are written and read, the sum and the integer of each in sectors of their own; every split reads the
        // queries, and every 32 rows of queries the keys and values.
        let n_rows = plan.log_sums_len() as f64;
        let d = self.head_dim as f64;
        let partials =
            if n_splits > 1.0 { n_splits * n_rows * (8.0 * (d + 4.0) + 192.0) } else { 0.0 };
        let queries = (n_splits - 1.0) * n_rows * 2.0 * d;
        let n_positions = (self.batch * self.n_heads * plan.n_positions()) as f64;
        let again = (n_blocks - 1.0) * n_positions * 4.0 * d;
        let least = plan.least_bytes(2) as f64;
        // Warps that copy tiles together wait for each other twice at each, and their rows of queries are merged one set after
        // the other.
        let n_tiles = plan.n_positions() as f64 / n_splits / 64.0;
        let is_together = plan.shape().n_queries * plan.group() > 16;
        let of_sets = if is_together { 2.0 * n_tiles.ceil() + 6.0 } else { 0.0 };
        Budget {
            bytes: 1.03 + (partials + queries + again) / least,
            sectors_per_request: 15.3,
            conflict_ways: 1.35,
            barriers: 8.0 + 3.0 / n_splits + of_sets,
        }
    }

    fn unsupported(&self, queue: &Queue) -> Option<String> {
        without_model(queue)
    }

    fn prepare(&self, queue: &Queue) -> Box<dyn Problem> {
        let model = queue.mma_model();
        if self.is_bf16 {
            Box::new(self.build::<bf16>(model))
        } else {
            Box::new(self.build::<f16>(model))
        }
    }
}

struct Requests<T> {
    case: Shape,
    way: Way,
    queries: Vec<T>,
    cache: Cache<T>,
    /// Outputs, and the log-sums after them.
    expected: Vec<u8>,
}

impl<T: Half + Real + Sync> Requests<T> {
    /// All of them.
    fn attend_on_cpu(&self, model: Model) -> Vec<u8> {
        let Self { way, queries, cache, .. } = self;
        let plan = self.case.plan(way, 0);
        let segments: Vec<_> = way
            .parts
            .iter()
            .map(|part| HostSegment {
                keys: &cache.keys,
                values: &cache.values,
                page_table: &cache.page_table,
                lengths: &cache.lengths,
                indices: &part.indices,
                counts: None,
                biases: None,
            })
            .collect();
        let attended = Attended {
            plan: &plan,
            model,
            queries,
            segments: &segments,
            sinks: None,
            low_rank: None,
        };
        let [n_queries, n_q_heads] =
            [plan.shape().n_queries, plan.shape().n_q_heads].map(|n| n as usize);
        bytes_of::<T, _>((0..plan.log_sums_len() as usize).collect(), |row| {
            let (token, q) = (row / n_q_heads, row % n_q_heads);
            attended.query(token / n_queries, token % n_queries, q)
        })
    }

    /// Pages that a request's tokens are in.
    fn n_pages(&self) -> u64 {
        let case = &self.case;
        let Picked::Blocks { block_size, .. } = case.picked else {
            return case.batch * case.n.div_ceil(PAGE_SIZE);
        };
        let indices = &self.way.parts[0].indices;
        let n_of_request = indices.len() / case.batch as usize;
        let pages = indices.chunks(n_of_request).map(|of_request| {
            let tokens = of_request.iter().flat_map(|block| {
                let first = *block as u64 * block_size;
                first..first + block_size
            });
            tokens.map(|token| token / PAGE_SIZE).collect::<BTreeSet<_>>().len()
        });
        pages.sum::<usize>() as u64
    }
}

impl<T: Half + Real + Sync> Problem for Requests<T> {
    /// Log-sums, lists, the words of the page table that name what is read, and lengths are of it.
    fn least_bytes(&self) -> u64 {
        let plan = self.case.plan(&self.way, 0);
        let n_indices: usize = self.way.parts.iter().map(|part| part.indices.len()).sum();
        let n_words = plan.log_sums_len() + n_indices as u64 + self.n_pages() + self.case.batch;
        plan.least_bytes(2) + 4 * n_words
    }

    fn expected(&self) -> &[u8] {
        &self.expected
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(self, &self.way, &self.cache, queue, 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let more = Launch::new(self, &self.way, &self.cache, queue, 2)?;
        let layout = KvLayout::new(self.case.layout(24).hnd())?;
        let cache = self.cache.laid_out(&self.way.layout, &layout);
        let in_heads = Way { layout, parts: self.way.parts.clone() };
        let in_heads = Launch::new(self, &in_heads, &cache, queue, 0)?;
        let (name, parts) = self.case.other_parts(&self.way.parts);
        let way = Way { layout: self.way.layout, parts };
        let others = Launch::new(self, &way, &self.cache, queue, 0)?;
        Ok(vec![
            ("after two requests more".to_owned(), Box::new(more)),
            ("of heads apart, in pages of 24".to_owned(), Box::new(in_heads)),
            (name.to_owned(), Box::new(others)),
        ])
    }

    fn peers(&self) -> Vec<Box<dyn Peer + '_>> {
        let Shape { batch, n, n_heads, group, head_dim, n_queries, .. } = self.case;
        if n_queries != 1 {
            return Vec::new();
        }
        let kv = self.way.layout.shape();
        let (n_lists, n_blocks, block_size) = match self.case.picked {
            Picked::All => (1, 0, 0),
            Picked::Blocks { n_blocks, block_size, lists } => {
                (self.case.n_lists(lists), n_blocks, block_size)
            }
        };
        let sizes = json!({
            "batch": batch, "n_heads": n_heads, "group": group, "head_dim": head_dim, "n_pages": kv.n_pages,
            "page_size": PAGE_SIZE, "n_pages_each": kv.table_stride, "n_tokens": n, "block_size": block_size,
            "n_lists": n_lists, "n_blocks": n_blocks, "element": if self.case.is_bf16 { "bf16" } else { "f16" },
        });
        let n_outputs = 2 * self.queries.len();
        let arrays: Vec<&[u8]> = vec![
            bytemuck::cast_slice(&self.queries),
            bytemuck::cast_slice(&self.cache.keys),
            bytemuck::cast_slice(&self.cache.values),
            bytemuck::cast_slice(&self.cache.page_table),
            bytemuck::cast_slice(&self.way.parts[0].indices),
            &self.expected[..n_outputs],
        ];
        let inputs = Rc::new(Inputs { sizes, arrays, file: OnceCell::new() });
        let gathers = (block_size != 0).then_some("torch-gather");
        let libraries = ["torch", "flashinfer", "flashinfer-tensor-cores"].into_iter();
        let libraries = libraries.chain(gathers);
        libraries
            .map(|library| Box::new(Attention { library, inputs: inputs.clone() }) as _)
            .collect()
    }
}

/// A launch whose last requests are looked at.
struct Launch<T> {
    plan: AttendPlan,
    queries: Buffer<T>,
    cache: Placed<T>,
    /// Of each part.
    indices: Vec<Option<Buffer<i32>>>,
    outputs: Buffer<T>,
    log_sums: Buffer<f32>,
    workspace: Buffer<u32>,
    n_outputs: usize,
    n_log_sums: usize,
}

impl<T: Half + Real + Sync> Launch<T> {
    /// The first request is there `n_more` times more.
    fn new(
        requests: &Requests<T>,
        way: &Way,
        cache: &Cache<T>,
        queue: &Queue,
        n_more: usize,
    ) -> lacuna::Result<Self> {
        let batch = requests.case.batch as usize;
        let plan = requests.case.plan(way, n_more as u64);
        let upload = |part: &Part| match part.tokens {
            Tokens::Range { .. } => Ok(None),
            Tokens::Blocks { .. } => queue.upload(&again(&part.indices, batch, n_more)).map(Some),
        };
        let layout = plan.segments().next().expect("a segment").layout;
        Ok(Self {
            queries: queue.upload(&again(&requests.queries, batch, n_more))?,
            cache: cache.place(queue, layout, n_more)?,
            indices: way.parts.iter().map(upload).collect::<lacuna::Result<_>>()?,
            outputs: queue.alloc(plan.outputs_len() as usize)?,
            log_sums: queue.alloc(plan.log_sums_len() as usize)?,
            workspace: queue.alloc(plan.workspace_len() as usize)?,
            n_outputs: requests.queries.len(),
            n_log_sums: requests.queries.len() / requests.case.head_dim as usize,
            plan,
        })
    }
}

impl<T: Half + Real + Sync> Work for Launch<T> {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let segments = self
            .indices
            .iter()
            .map(|list| Segment::new(self.cache.view(), list.as_ref().map(Buffer::view)));
        let segments: Vec<_> = segments.collect();
        let queries = self.queries.view();
        let inputs = AttendInputs { queries, segments: &segments, sinks: None, skips: None };
        let mut outputs = AttendOutputs {
            outputs: self.outputs.view_mut(),
            log_sums: Some(self.log_sums.view_mut()),
            workspace: self.workspace.view_mut(),
        };
        attend(queue, &self.plan, &inputs, &mut outputs)
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.outputs)?;
        poison(queue, &mut self.log_sums)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let outputs = queue.download(&self.outputs.view())?;
        let log_sums = queue.download(&self.log_sums.view())?;
        let outputs = &outputs[outputs.len() - self.n_outputs..];
        let log_sums = &log_sums[log_sums.len() - self.n_log_sums..];
        Ok([bytemuck::cast_slice(outputs), bytemuck::cast_slice(log_sums)].concat())
    }
}

const SMALL: Shape = Shape {
    batch: 1,
    n: 1000,
    n_heads: 2,
    group: 4,
    n_queries: 1,
    head_dim: 128,
    picked: Picked::All,
    is_bf16: true,
    is_small: true,
};

pub(crate) fn cpu(criterion: &mut Criterion) {
    let requests = Shape { n_heads: 1, group: 1, ..SMALL }.build::<bf16>(None);
    let mut bench = criterion.benchmark_group("attention");
    bench.throughput(Throughput::Bytes(4 * SMALL.n * SMALL.head_dim)).sample_size(10);
    bench.bench_function("reference/bf16/1000", |b| {
        b.iter(|| requests.attend_on_cpu(Model::HOPPER));
    });
    bench.finish();
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    let blocks = |n_blocks, block_size, lists| Picked::Blocks { n_blocks, block_size, lists };
    let [one, each] = [KvLists::PerRequest, KvLists::PerHead];
    let large = Shape { n: 1 << 17, n_heads: 8, is_small: false, ..SMALL };
    [
        Shape { picked: blocks(256, 1, one), ..SMALL },
        Shape { picked: blocks(256, 1, each), ..SMALL },
        Shape { picked: blocks(16, 16, one), batch: 2, n: 600, ..SMALL },
        SMALL,
        Shape { n: 4500, n_heads: 1, group: 1, head_dim: 32, ..SMALL },
        Shape { batch: 2, n: 300, n_queries: 5, is_bf16: false, ..SMALL },
        Shape { n: 500, head_dim: 256, ..SMALL },
        large,
        Shape { n: 1 << 15, ..large },
        Shape { picked: blocks(2048, 1, one), ..large },
        Shape { picked: blocks(2048, 1, each), ..large },
        Shape { picked: blocks(128, 16, one), ..large },
        Shape { batch: 16, n: 1 << 13, ..large },
    ]
    .map(|shape| Box::new(shape) as _)
    .into()
}
