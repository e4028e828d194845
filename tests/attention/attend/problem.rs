//! Problems for `attend`, and what must come of them.

use crate::common::Random;
use half::{bf16, f16};
use lacuna::attention::reference::{Attended, HostSegment};
use lacuna::attention::{
    AttendInputs, AttendOutputs, AttendPlan, AttendShape, LogBase, LogSumOrder, Logits, Mask,
    Segment, SegmentShape, Tokens, attend,
};
use lacuna::element::{Half, Real};
use lacuna::kv::{KvLayout, KvLists, KvShape, KvView};
use lacuna::mma::Model;
use lacuna::{Buffer, Error, Queue};

/// Requests with their queries, and what they attend to.
#[derive(Debug, Clone)]
pub(crate) struct Problem<T> {
    pub(crate) plan: AttendPlan,
    pub(crate) queries: Vec<T>,
    pub(crate) segments: Vec<SegmentData<T>>,
    pub(crate) sinks: Option<Vec<f32>>,
    pub(crate) skips: Option<Vec<u32>>,
    pub(crate) has_log_sums: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct SegmentData<T> {
    pub(crate) keys: Vec<T>,
    pub(crate) values: Vec<T>,
    pub(crate) page_table: Vec<i32>,
    pub(crate) lengths: Vec<u32>,
    pub(crate) indices: Option<Vec<i32>>,
    pub(crate) counts: Option<Vec<u32>>,
    pub(crate) biases: Option<Vec<f32>>,
}

/// What proptest and tables vary.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    pub(crate) lengths: Vec<u32>,
    pub(crate) n_heads: u64,
    pub(crate) group: u64,
    pub(crate) n_queries: u64,
    pub(crate) head_dim: u64,
    pub(crate) page_size: u64,
    pub(crate) layout: Layout,
    pub(crate) parts: Vec<Part>,
    pub(crate) log_sum_order: LogSumOrder,
    pub(crate) soft_cap: Option<f32>,
    pub(crate) has_sinks: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Layout {
    Nhd,
    Hnd,
    FusedHnd,
}

/// A segment.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) tokens: Tokens,
    pub(crate) lists: KvLists,
    pub(crate) mask: Mask,
    /// Of blocks: their numbers, the same of every list; else random ones, wild ones among them.
    pub(crate) indices: Option<Vec<i32>>,
    pub(crate) has_counts: bool,
    pub(crate) has_biases: bool,
}

impl Part {
    pub(crate) fn of(tokens: Tokens) -> Self {
        Self {
            tokens,
            lists: KvLists::PerRequest,
            mask: Mask::None,
            indices: None,
            has_counts: false,
            has_biases: false,
        }
    }

    /// Blocks by these numbers.
    pub(crate) fn blocks(block_size: u64, indices: Vec<i32>) -> Self {
        let n_blocks = indices.len() as u64;
        Self { indices: Some(indices), ..Self::of(Tokens::Blocks { n_blocks, block_size }) }
    }

    pub(crate) fn masked(self, mask: Mask) -> Self {
        Self { mask, ..self }
    }
}

impl Default for Case {
    fn default() -> Self {
        Self {
            seed: 1,
            lengths: vec![40],
            n_heads: 1,
            group: 2,
            n_queries: 1,
            head_dim: 32,
            page_size: 16,
            layout: Layout::Nhd,
            parts: vec![Part::of(Tokens::ALL)],
            log_sum_order: LogSumOrder::TokensHeads,
            soft_cap: None,
            has_sinks: false,
        }
    }
}

/// A number that depends on its place alone, so that layouts and pages cannot change it.
pub(crate) fn number_at(seed: u64, place: [u64; 4]) -> f32 {
    let mixed = place
        .iter()
        .fold(seed, |mixed, n| (mixed ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29));
    Random(mixed).normal()
}

impl Case {
    pub(crate) fn plan(&self) -> Result<AttendPlan, Error> {
        let layout = self.kv_layout()?;
        let segments: Vec<_> = self
            .parts
            .iter()
            .map(|part| SegmentShape {
                layout,
                tokens: part.tokens,
                lists: part.lists,
                mask: part.mask,
            })
            .collect();
        let shape = AttendShape {
            n_queries: self.n_queries,
            query_stride: self.n_heads * self.group * self.head_dim + 8,
            output_stride: self.n_heads * self.group * self.head_dim + 16,
            log_sum_order: self.log_sum_order,
            logits: Logits { soft_cap: self.soft_cap, ..Logits::of(self.head_dim) },
            ..AttendShape::of(&layout, self.n_heads * self.group)
        };
        AttendPlan::new(shape, &segments)
    }

    pub(crate) fn kv_layout(&self) -> Result<KvLayout, Error> {
        let longest = self.lengths.iter().max().copied().unwrap_or(0);
        let table_stride = u64::from(longest).div_ceil(self.page_size) + 1;
        let shape = KvShape {
            batch: self.lengths.len() as u64,
            n_heads: self.n_heads,
            row_len: self.head_dim,
            n_pages: table_stride * self.lengths.len() as u64 + 2,
            page_size: self.page_size,
            table_stride,
            ..KvShape::default()
        };
        KvLayout::new(match self.layout {
            Layout::Nhd => shape.nhd(),
            Layout::Hnd => shape.hnd(),
            Layout::FusedHnd => shape.hnd().fused(),
        })
    }

    /// Pages in an order of the seed; the rows themselves are the same for every layout and page size.
    pub(crate) fn build<T: Half>(&self) -> Problem<T> {
        let plan = self.plan().unwrap();
        let shape = plan.shape();
        let mut queries = vec![T::from_f32(9.0); plan.queries_len() as usize];
        for token in 0..shape.batch * shape.n_queries {
            for c in 0..shape.n_q_heads * shape.head_dim {
                let query = number_at(self.seed, [token / shape.n_queries, token, c, 1 << 40]);
                queries[(token * shape.query_stride + c) as usize] = T::from_f32(query);
            }
        }
        let segments = plan
            .segments()
            .zip(&self.parts)
            .enumerate()
            .map(|(s, (shape, part))| self.build_segment(s as u64, shape, part));
        let mut random = Random(self.seed.wrapping_add(5));
        let sinks = self.has_sinks.then(|| (0..shape.n_q_heads).map(|_| random.normal()).collect());
        Problem {
            plan,
            queries,
            segments: segments.collect(),
            sinks,
            skips: None,
            has_log_sums: true,
        }
    }

    fn build_segment<T: Half>(&self, s: u64, shape: &SegmentShape, part: &Part) -> SegmentData<T> {
        let layout = shape.layout;
        let kv = *layout.shape();
        let mut random = Random(self.seed ^ (s << 32) ^ self.page_size);
        let mut pages: Vec<i32> = (0..kv.n_pages as i32).collect();
        for i in (1..pages.len()).rev() {
            pages.swap(i, (random.next() % (i as u64 + 1)) as usize);
        }
        let page_table: Vec<i32> = pages[..layout.table_len() as usize].to_vec();
        let [mut keys, mut values] =
            [7.0, -7.0].map(|x| vec![T::from_f32(x); layout.pool_len() as usize]);
        for b in 0..kv.batch {
            for t in 0..u64::from(self.lengths[b as usize]).min(layout.n_rows()) {
                for h in 0..kv.n_heads {
                    let start = layout.locate(&page_table, b, t, h).unwrap();
                    for c in 0..kv.row_len {
                        let [key, value] = [0, 1 << 50]
                            .map(|of| number_at(self.seed.wrapping_add(of), [b, t, h, c]));
                        keys[start + c as usize] = T::from_f32(key);
                        values[start + c as usize] = T::from_f32(value);
                    }
                }
            }
        }
        let n_lists = part.lists.count(&layout);
        let n_of_list = match part.tokens {
            Tokens::Blocks { n_blocks, .. } => n_blocks,
            Tokens::Range { .. } => layout.n_rows(),
        };
        let indices = match (part.tokens, &part.indices) {
            (Tokens::Range { .. }, _) => None,
            (_, Some(indices)) => Some(indices.repeat(n_lists as usize)),
            (Tokens::Blocks { block_size, .. }, None) => {
                let n_blocks = layout.n_rows().div_ceil(block_size).max(1);
                let index = |random: &mut Random| match random.next() % 16 {
                    0 => -1,
                    1 => i32::MAX,
                    2 => i32::MIN + (random.next() % 1000) as i32,
                    _ => (random.next() % n_blocks) as i32,
                };
                Some((0..n_lists * n_of_list).map(|_| index(&mut random)).collect())
            }
        };
        let counts = part
            .has_counts
            .then(|| (0..n_lists).map(|_| (random.next() % (n_of_list + 2)) as u32).collect());
        let biases =
            part.has_biases.then(|| (0..n_lists * n_of_list).map(|_| random.normal()).collect());
        let lengths = self.lengths.clone();
        SegmentData { keys, values, page_table, lengths, indices, counts, biases }
    }
}

/// What a launch leaves.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Results<O> {
    pub(crate) outputs: Vec<O>,
    pub(crate) log_sums: Vec<u32>,
}

struct PlacedSegment<T> {
    keys: Buffer<T>,
    values: Buffer<T>,
    page_table: Buffer<i32>,
    lengths: Buffer<u32>,
    indices: Option<Buffer<i32>>,
    counts: Option<Buffer<u32>>,
    biases: Option<Buffer<f32>>,
}

impl<T: Half> SegmentData<T> {
    fn place(&self, queue: &Queue) -> Result<PlacedSegment<T>, Error> {
        Ok(PlacedSegment {
            keys: queue.upload(&self.keys)?,
            values: queue.upload(&self.values)?,
            page_table: queue.upload(&self.page_table)?,
            lengths: queue.upload(&self.lengths)?,
            indices: self.indices.as_ref().map(|all| queue.upload(all)).transpose()?,
            counts: self.counts.as_ref().map(|all| queue.upload(all)).transpose()?,
            biases: self.biases.as_ref().map(|all| queue.upload(all)).transpose()?,
        })
    }

    fn host(&self) -> HostSegment<'_, T> {
        HostSegment {
            keys: &self.keys,
            values: &self.values,
            page_table: &self.page_table,
            lengths: &self.lengths,
            indices: self.indices.as_deref().unwrap_or_default(),
            counts: self.counts.as_deref(),
            biases: self.biases.as_deref(),
        }
    }
}

impl<T: Half> Problem<T> {
    pub(crate) fn attend<O: Real>(&self, queue: &Queue) -> Result<Results<O>, Error> {
        self.launch(queue, |inputs, outputs| attend(queue, &self.plan, inputs, outputs))
    }

    /// Two launches, since the first must leave the workspace ready.
    pub(crate) fn launch<O: Real>(
        &self,
        queue: &Queue,
        launch: impl Fn(&AttendInputs<'_, T>, &mut AttendOutputs<'_, O>) -> Result<(), Error>,
    ) -> Result<Results<O>, Error> {
        let queries = queue.upload(&self.queries)?;
        let placed: Vec<PlacedSegment<T>> =
            self.segments.iter().map(|segment| segment.place(queue)).collect::<Result<_, _>>()?;
        let segments: Vec<_> = placed
            .iter()
            .zip(self.plan.segments())
            .map(|(placed, shape)| Segment {
                cache: KvView {
                    layout: shape.layout,
                    keys: placed.keys.view(),
                    values: Some(placed.values.view()),
                    page_table: placed.page_table.view(),
                    lengths: placed.lengths.view(),
                    key_scale: 1.0,
                    value_scale: 1.0,
                },
                indices: placed.indices.as_ref().map(Buffer::view),
                counts: placed.counts.as_ref().map(Buffer::view),
                biases: placed.biases.as_ref().map(Buffer::view),
            })
            .collect();
        let sinks = self.sinks.as_ref().map(|all| queue.upload(all)).transpose()?;
        let skips = self.skips.as_ref().map(|all| queue.upload(all)).transpose()?;
        let mut outputs = queue.upload(&vec![poison::<O>(); self.plan.outputs_len() as usize])?;
        let mut log_sums = queue.upload(&vec![POISON; self.plan.log_sums_len() as usize])?;
        let mut workspace = queue.alloc::<u32>(self.plan.workspace_len() as usize)?;
        let inputs = AttendInputs {
            queries: queries.view(),
            segments: &segments,
            sinks: sinks.as_ref().map(Buffer::view),
            skips: skips.as_ref().map(Buffer::view),
        };
        for _ in 0..2 {
            let mut outputs = AttendOutputs {
                outputs: outputs.view_mut(),
                log_sums: self.has_log_sums.then(|| log_sums.view_mut()),
                workspace: workspace.view_mut(),
            };
            launch(&inputs, &mut outputs)?;
        }
        let log_sums = queue.download(&log_sums.view())?;
        Ok(Results {
            outputs: queue.download(&outputs.view())?,
            log_sums: log_sums.into_iter().map(f32::to_bits).collect(),
        })
    }

    pub(crate) fn with_reference<R>(
        &self,
        model: Model,
        then: impl FnOnce(&Attended<'_, T>) -> R,
    ) -> R {
        let segments: Vec<_> = self.segments.iter().map(SegmentData::host).collect();
        then(&Attended {
            plan: &self.plan,
            model,
            queries: &self.queries,
            segments: &segments,
            sinks: self.sinks.as_deref(),
            low_rank: None,
        })
    }

    pub(crate) fn expect<O: Real>(&self, model: Model) -> Results<O> {
        self.with_reference(model, |attended| self.expect_of(attended))
    }

    pub(crate) fn expect_of<O: Real>(&self, attended: &Attended<'_, T>) -> Results<O> {
        self.expect_by(|b, i, q| attended.query(b, i, q))
    }

    /// By each query's outputs and log-sum-exp.
    pub(crate) fn expect_by<O: Real>(
        &self,
        query: impl Fn(usize, usize, usize) -> (Vec<f32>, f32),
    ) -> Results<O> {
        let shape = self.plan.shape();
        let [n_queries, n_q_heads, d] =
            [shape.n_queries, shape.n_q_heads, shape.head_dim].map(|n| n as usize);
        let sizes = [shape.batch * shape.n_queries, shape.n_queries, shape.n_q_heads];
        let mut outputs = vec![poison::<O>(); self.plan.outputs_len() as usize];
        let mut log_sums = vec![POISON.to_bits(); self.plan.log_sums_len() as usize];
        for b in 0..shape.batch as usize {
            if self.skips.as_ref().is_some_and(|skips| skips[b] != 0) {
                continue;
            }
            for (i, q) in (0..n_queries).flat_map(|i| (0..n_q_heads).map(move |q| (i, q))) {
                let (output, log_sum) = query(b, i, q);
                let token = b * n_queries + i;
                let start = token * shape.output_stride as usize + q * d;
                for (to, from) in outputs[start..].iter_mut().zip(output) {
                    *to = O::from_f32(from);
                }
                if self.has_log_sums {
                    let place = place_of(shape.log_sum_order, sizes, [token, q]);
                    log_sums[place] = f32::from_f32(log_sum).to_bits();
                }
            }
        }
        Results { outputs, log_sums }
    }

    pub(crate) fn with_base(mut self, base: LogBase) -> Self {
        let (shape, segments) =
            (*self.plan.shape(), self.plan.segments().copied().collect::<Vec<_>>());
        self.plan = AttendPlan::new(
            AttendShape { logits: Logits { base, ..shape.logits }, ..shape },
            &segments,
        )
        .unwrap();
        self
    }

    /// The same requests in another order, or some of them.
    pub(crate) fn of_requests(&self, requests: &[usize]) -> Self {
        let shape = *self.plan.shape();
        let batch = requests.len() as u64;
        let pick = |all: &[u32]| requests.iter().map(|b| all[*b]).collect::<Vec<_>>();
        let rows = |all: &[i32], n: usize| -> Vec<i32> {
            requests.iter().flat_map(|b| all[b * n..(b + 1) * n].to_vec()).collect()
        };
        let plan = AttendPlan::new(
            AttendShape { batch, ..shape },
            &self
                .plan
                .segments()
                .map(|segment| {
                    let kv = KvShape { batch, ..*segment.layout.shape() };
                    SegmentShape { layout: KvLayout::new(kv).unwrap(), ..*segment }
                })
                .collect::<Vec<_>>(),
        )
        .unwrap();
        let n = shape.n_queries * shape.query_stride;
        let mut queries: Vec<T> = requests
            .iter()
            .flat_map(|b| {
                let from = (*b as u64 * n) as usize;
                let to = (from + n as usize).min(self.queries.len());
                let mut of_request = self.queries[from..to].to_vec();
                of_request.resize(n as usize, T::from_f32(0.0));
                of_request
            })
            .collect();
        queries.truncate(plan.queries_len() as usize);
        let segments = self.segments.iter().zip(self.plan.segments()).map(|(data, shape)| {
            let n_lists = shape.lists.per_request(&shape.layout) as usize;
            SegmentData {
                page_table: rows(&data.page_table, shape.layout.shape().table_stride as usize),
                lengths: pick(&data.lengths),
                indices: data
                    .indices
                    .as_ref()
                    .map(|all| rows(all, all.len() / shape.layout.shape().batch as usize)),
                counts: data.counts.as_ref().map(|all| {
                    requests
                        .iter()
                        .flat_map(|b| all[b * n_lists..(b + 1) * n_lists].to_vec())
                        .collect()
                }),
                biases: data.biases.as_ref().map(|all| {
                    let n = all.len() / shape.layout.shape().batch as usize;
                    requests.iter().flat_map(|b| all[b * n..(b + 1) * n].to_vec()).collect()
                }),
                ..data.clone()
            }
        });
        let segments = segments.collect();
        let skips = self.skips.as_ref().map(|skips| pick(skips));
        let sinks = self.sinks.clone();
        Self { plan, queries, segments, sinks, skips, has_log_sums: self.has_log_sums }
    }
}

/// Where a log-sum is.
pub(crate) fn place_of(order: LogSumOrder, sizes: [u64; 3], at: [usize; 2]) -> usize {
    order.locate(sizes, at.map(|n| n as u64)) as usize
}

/// What is in outputs before a launch.
pub(crate) const POISON: f32 = -12_345.0;

pub(crate) fn poison<O: Real>() -> O {
    O::from_f32(POISON)
}

/// The launch gives what the reference does, on every executor; and what a request gives alone.
#[track_caller]
pub(crate) fn assert_same<T: Half, O: Real + PartialEq>(problem: &Problem<T>) {
    for queue in crate::common::queues() {
        let Some(model) = crate::common::model_of(&queue) else { continue };
        let results = problem.attend::<O>(&queue).unwrap();
        assert_results(&results, &problem.expect(model), &format!("{}", queue.executor()));
    }
}

#[track_caller]
pub(crate) fn assert_results<O: Real>(results: &Results<O>, expected: &Results<O>, what: &str) {
    assert_eq!(results.log_sums, expected.log_sums, "log-sums of {what}");
    let bytes = |results: &Results<O>| bytemuck::cast_slice::<O, u8>(&results.outputs).to_vec();
    if bytes(results) == bytes(expected) {
        return;
    }
    let differ = results.outputs.iter().zip(&expected.outputs).enumerate();
    let bits = |x: &O| bytemuck::bytes_of(x).to_vec();
    let first: Vec<_> = differ
        .filter(|(_, (a, b))| bits(a) != bits(b))
        .take(5)
        .map(|(i, (a, b))| (i, a.to_f32(), b.to_f32()))
        .collect();
    panic!("outputs of {what}: {first:?}");
}

pub(crate) type Brain = bf16;
pub(crate) type Short = f16;
