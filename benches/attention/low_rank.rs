//! A query over what was picked, whose keys are made, and a window whose keys are stored.

use std::collections::BTreeSet;

use half::{bf16, f16};
use lacuna::attention::reference::{Attended, HostLowRank, HostSegment};
use lacuna::attention::{
    AttendInputs, AttendOutputs, AttendPlan, AttendShape, LowRank, LowRankPlan, LowRankShape,
    Segment, SegmentShape, Tokens, Turn, attend_low_rank,
};
use lacuna::element::{Half, Real};
use lacuna::kv::{KvLayout, KvLists, KvShape};
use lacuna::mma::Model;
use lacuna::{Buffer, Queue};
use rayon::prelude::*;

use crate::attend::pick;
use crate::house::cache::{Cache, Placed, again, numbers};
use crate::house::case::{Budget, Case, Problem, Work, poison};
use crate::rows::{bytes_of, without_model};

/// Requests of as many tokens each, in pages of 16, of which each head picked chunks of 8.
#[derive(Clone, Copy)]
struct Shape {
    batch: u64,
    n: u64,
    n_chunks: u64,
    window: u64,
    rank: u64,
    n_heads: u64,
    group: u64,
    head_dim: u64,
    turn: Turn,
    is_bf16: bool,
    is_small: bool,
}

const PAGE_SIZE: u64 = 16;
const CHUNK_SIZE: u64 = 8;

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

    /// For `n_more` requests more.
    fn plan(&self, layout: &KvLayout, n_more: u64) -> LowRankPlan {
        let kv = KvShape { batch: self.batch + n_more, ..*layout.shape() };
        let layout = KvLayout::new(kv).expect("a layout");
        let picked = Tokens::Blocks { n_blocks: self.n_chunks, block_size: CHUNK_SIZE };
        let segments = [
            SegmentShape { lists: KvLists::PerHead, ..SegmentShape::of(layout, picked) },
            SegmentShape::of(layout, Tokens::last(self.window)),
        ];
        let shape = AttendShape::of(&layout, self.n_heads * self.group);
        let plan = AttendPlan::new(shape, &segments).expect("a shape that is supported");
        let low_rank =
            LowRankShape { segment: 0, rank: self.rank, n_factors: self.n, turn: self.turn };
        LowRankPlan::new(plan, low_rank).expect("a rank that is supported")
    }

    fn indices(&self) -> Vec<i32> {
        let n_chunks = (self.n - self.window) / CHUNK_SIZE;
        pick(self.batch * self.n_heads, self.n_chunks, n_chunks)
    }

    /// Chunks that any head of a request picked, of all requests.
    fn n_picked(&self) -> u64 {
        let indices = self.indices();
        let each = indices.chunks((self.n_heads * self.n_chunks) as usize);
        each.map(|of_request| of_request.iter().collect::<BTreeSet<_>>().len() as u64).sum()
    }

    /// Queries, outputs and log-sums; of what any head picked the factors and the angles, of what each head picked the values, of
    /// the window both; bases, lists, pages and lengths.
    fn least_bytes(&self) -> u64 {
        let plan = self.plan(&KvLayout::new(self.layout(PAGE_SIZE).nhd()).expect("a layout"), 0);
        let n_rows = plan.attend().log_sums_len();
        let (n_lists, n_tokens) = (self.batch * self.n_heads, CHUNK_SIZE * self.n_picked());
        let of_each = CHUNK_SIZE * self.n_chunks + 2 * self.window;
        let n_elements = (n_lists * of_each + 2 * n_rows) * self.head_dim
            + n_tokens * self.rank
            + plan.basis_len();
        let n_angles = if self.turn == Turn::None { 0 } else { n_tokens * self.head_dim };
        let n_pages = self.n_picked() + self.batch * self.window.div_ceil(PAGE_SIZE);
        let n_words = n_rows + n_angles + n_lists * self.n_chunks + n_pages + self.batch;
        2 * n_elements + 4 * n_words
    }

    fn build<T: Half + Real + Sync>(&self, model: Option<Model>) -> Requests<T> {
        let layout = KvLayout::new(self.layout(PAGE_SIZE).nhd()).expect("a layout");
        let plan = self.plan(&layout, 0);
        let mut number = numbers();
        let mut some = |n: u64| -> Vec<T> { (0..n).map(|_| number()).collect() };
        let angle = |i: u64| {
            let (position, c) = (i / self.head_dim, i % self.head_dim);
            let pair = c % (self.head_dim / 2);
            let angle = position as f32 * 1e4_f32.powf(-2.0 * pair as f32 / self.head_dim as f32);
            if c < self.head_dim / 2 { angle.cos() } else { angle.sin() }
        };
        let mut requests = Requests {
            case: *self,
            layout,
            queries: some(plan.attend().queries_len()),
            factors: some(plan.factors_len()),
            basis: some(plan.basis_len()),
            cos_sin: (0..plan.cos_sin_len()).into_par_iter().map(angle).collect(),
            indices: self.indices(),
            cache: Cache::new(&layout, self.n, &mut number).with_values(&mut number),
            expected: Vec::new(),
        };
        if let Some(model) = model {
            requests.expected = requests.attend_on_cpu(model);
        }
        requests
    }
}

impl Case for Shape {
    fn kernel(&self) -> &'static str {
        "attention/attend_low_rank"
    }

    fn shape(&self) -> String {
        let Self { batch, n, n_chunks, window, rank, n_heads, group, head_dim, .. } = self;
        let (n_q_heads, n_picked) = (n_heads * group, n_chunks * CHUNK_SIZE);
        let element = if self.is_bf16 { "bf16" } else { "f16" };
        let turn = match self.turn {
            Turn::None => "",
            Turn::Halves => ", turned by halves",
            Turn::Pairs => ", turned by pairs",
        };
        format!(
            "{n_q_heads} of {n_heads} heads of {head_dim} over {n_picked} in chunks of {CHUNK_SIZE} for each head, of rank {rank}{turn}, and the last {window} of {n} tokens in {batch} requests, {element}"
        )
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        let layout = KvLayout::new(self.layout(PAGE_SIZE).nhd()).expect("a layout");
        let plan = self.plan(&layout, 0);
        let n_splits = f64::from(plan.grid().blocks[0]);
        // As of `attend`, partial sums and queries; every split reads the basis, every head the factors and the angles, whose
        // sectors it asks for twice: eight words of one are of two requests.
        let n_rows = plan.attend().log_sums_len() as f64;
        let d = self.head_dim as f64;
        let partials =
            if n_splits > 1.0 { n_splits * n_rows * (8.0 * (d + 4.0) + 192.0) } else { 0.0 };
        let queries = (n_splits - 1.0) * n_rows * 2.0 * d;
        let basis = (n_splits - 1.0) * 2.0 * plan.basis_len() as f64;
        let picked = (CHUNK_SIZE * self.n_picked()) as f64;
        let of_heads = (CHUNK_SIZE * self.batch * self.n_heads * self.n_chunks) as f64;
        let factors = (of_heads - picked) * 2.0 * self.rank as f64;
        let angles = match self.turn {
            Turn::None => 0.0,
            Turn::Halves | Turn::Pairs => (2.0 * of_heads - picked) * 4.0 * d,
        };
        let least = self.least_bytes() as f64;
        Budget {
            bytes: 1.03 + (partials + queries + basis + factors + angles) / least,
            sectors_per_request: 15.0,
            conflict_ways: 1.15,
            barriers: 8.0 + 3.0 / n_splits,
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
    layout: KvLayout,
    queries: Vec<T>,
    factors: Vec<T>,
    basis: Vec<T>,
    cos_sin: Vec<f32>,
    indices: Vec<i32>,
    cache: Cache<T>,
    /// Outputs, and the log-sums after them.
    expected: Vec<u8>,
}

impl<T: Half + Real + Sync> Requests<T> {
    fn attend_on_cpu(&self, model: Model) -> Vec<u8> {
        let Self { cache, .. } = self;
        let plan = self.case.plan(&self.layout, 0);
        let segment = |indices| HostSegment {
            keys: &cache.keys,
            values: &cache.values,
            page_table: &cache.page_table,
            lengths: &cache.lengths,
            indices,
            counts: None,
            biases: None,
        };
        let low_rank = HostLowRank {
            plan: &plan,
            factors: &self.factors,
            basis: &self.basis,
            cos_sin: &self.cos_sin,
            value_indices: None,
        };
        let attended = Attended {
            plan: plan.attend(),
            model,
            queries: &self.queries,
            segments: &[segment(&self.indices), segment(&[])],
            sinks: None,
            low_rank: Some(low_rank),
        };
        let n_q_heads = plan.attend().shape().n_q_heads as usize;
        bytes_of::<T, _>((0..plan.attend().log_sums_len() as usize).collect(), |row| {
            attended.query(row / n_q_heads, 0, row % n_q_heads)
        })
    }

    /// The cache with the values of whole chunks in each other's places, as if fetched there.
    fn in_slots(&self) -> Cache<T> {
        let Self { case, layout, cache, .. } = self;
        let mut slots = Cache {
            keys: cache.keys.clone(),
            values: cache.values.clone(),
            page_table: cache.page_table.clone(),
            lengths: cache.lengths.clone(),
        };
        let d = case.head_dim as usize;
        for (b, t) in (0..case.batch).flat_map(|b| (0..case.n).map(move |t| (b, t))) {
            let Some(slot) = case.slot_of(t / CHUNK_SIZE) else { continue };
            for h in 0..case.n_heads {
                let [from, to] = [t, slot * CHUNK_SIZE + t % CHUNK_SIZE]
                    .map(|t| layout.locate(&cache.page_table, b, t, h).expect("a page"));
                slots.values[to..][..d].copy_from_slice(&cache.values[from..][..d]);
            }
        }
        slots
    }
}

impl Shape {
    fn slot_of(&self, chunk: u64) -> Option<u64> {
        (self.n / CHUNK_SIZE).checked_sub(chunk + 1)
    }
}

impl<T: Half + Real + Sync> Problem for Requests<T> {
    fn least_bytes(&self) -> u64 {
        self.case.least_bytes()
    }

    fn expected(&self) -> &[u8] {
        &self.expected
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(self, &self.layout, &self.cache, queue, 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let more = Launch::new(self, &self.layout, &self.cache, queue, 2)?;
        let layout = KvLayout::new(self.case.layout(24).hnd())?;
        let cache = self.cache.laid_out(&self.layout, &layout);
        let in_heads = Launch::new(self, &layout, &cache, queue, 0)?;
        let mut in_slots = Launch::new(self, &self.layout, &self.cache, queue, 0)?;
        let slot_of = |chunk: &i32| self.case.slot_of(*chunk as u64).expect("a whole chunk") as i32;
        let slots: Vec<_> = self.indices.iter().map(slot_of).collect();
        in_slots.slots =
            Some((queue.upload(&slots)?, self.in_slots().place(queue, self.layout, 0)?));
        Ok(vec![
            ("after two requests more".to_owned(), Box::new(more)),
            ("of heads apart, in pages of 24".to_owned(), Box::new(in_heads)),
            ("with values in slots".to_owned(), Box::new(in_slots)),
        ])
    }
}

/// A launch whose last requests are looked at.
struct Launch<T> {
    plan: LowRankPlan,
    queries: Buffer<T>,
    factors: Buffer<T>,
    basis: Buffer<T>,
    cos_sin: Option<Buffer<f32>>,
    indices: Buffer<i32>,
    cache: Placed<T>,
    /// Where chunks' values are, and the cache that they are in.
    slots: Option<(Buffer<i32>, Placed<T>)>,
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
        layout: &KvLayout,
        cache: &Cache<T>,
        queue: &Queue,
        n_more: usize,
    ) -> lacuna::Result<Self> {
        let batch = requests.case.batch as usize;
        let plan = requests.case.plan(layout, n_more as u64);
        let attend = plan.attend();
        let layout = attend.segments().next().expect("a segment").layout;
        let is_turned = requests.case.turn != Turn::None;
        Ok(Self {
            queries: queue.upload(&again(&requests.queries, batch, n_more))?,
            factors: queue.upload(&again(&requests.factors, batch, n_more))?,
            basis: queue.upload(&again(&requests.basis, batch, n_more))?,
            cos_sin: is_turned.then(|| queue.upload(&requests.cos_sin)).transpose()?,
            indices: queue.upload(&again(&requests.indices, batch, n_more))?,
            cache: cache.place(queue, layout, n_more)?,
            slots: None,
            outputs: queue.alloc(attend.outputs_len() as usize)?,
            log_sums: queue.alloc(attend.log_sums_len() as usize)?,
            workspace: queue.alloc(attend.workspace_len() as usize)?,
            n_outputs: requests.queries.len(),
            n_log_sums: requests.queries.len() / requests.case.head_dim as usize,
            plan,
        })
    }
}

impl<T: Half + Real + Sync> Work for Launch<T> {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let values = self.slots.as_ref().map_or(&self.cache, |(_, cache)| cache);
        let segments = [
            Segment::new(values.view(), Some(self.indices.view())),
            Segment::new(self.cache.view(), None),
        ];
        let queries = self.queries.view();
        let inputs = AttendInputs { queries, segments: &segments, sinks: None, skips: None };
        let low_rank = LowRank {
            factors: self.factors.view(),
            basis: self.basis.view(),
            cos_sin: self.cos_sin.as_ref().map(Buffer::view),
            value_indices: self.slots.as_ref().map(|(slots, _)| slots.view()),
        };
        let mut outputs = AttendOutputs {
            outputs: self.outputs.view_mut(),
            log_sums: Some(self.log_sums.view_mut()),
            workspace: self.workspace.view_mut(),
        };
        attend_low_rank(queue, &self.plan, &inputs, &low_rank, &mut outputs)
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
    n_chunks: 20,
    window: 64,
    rank: 160,
    n_heads: 2,
    group: 4,
    head_dim: 128,
    turn: Turn::Halves,
    is_bf16: true,
    is_small: true,
};

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    [
        SMALL,
        Shape {
            batch: 2,
            n: 400,
            head_dim: 64,
            rank: 64,
            turn: Turn::Pairs,
            is_bf16: false,
            ..SMALL
        },
        Shape { n_chunks: 6, n: 300, turn: Turn::None, ..SMALL },
        Shape { n: 1 << 17, n_chunks: 256, n_heads: 8, is_small: false, ..SMALL },
    ]
    .map(|shape| Box::new(shape) as _)
    .into()
}
