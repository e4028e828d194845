//! Problems for `attend_prefill`, and what must come of them.

use lacuna::attention::reference::Prefilled;
use lacuna::attention::{
    LogSumOrder, Logits, Mask, Positions, PrefillInputs, PrefillOutputs, PrefillPlan, PrefillShape,
    attend_prefill,
};
use lacuna::element::{Half, Real};
use lacuna::kv::{KvLayout, KvShape, KvView};
use lacuna::mma::Model;
use lacuna::{Buffer, Error, Queue};

use crate::attend::problem::{
    Brain, Layout, POISON, Results, assert_results, number_at, place_of, poison,
};
use crate::common::Random;

/// Chunks of prompts.
#[derive(Debug, Clone)]
pub(crate) struct Problem<T> {
    pub(crate) plan: PrefillPlan,
    pub(crate) queries: Vec<T>,
    pub(crate) query_starts: Vec<u32>,
    pub(crate) query_positions: Vec<i32>,
    pub(crate) key_positions: Vec<i32>,
    pub(crate) keys: Vec<T>,
    pub(crate) values: Vec<T>,
    pub(crate) page_table: Vec<i32>,
    pub(crate) lengths: Vec<u32>,
    pub(crate) sinks: Option<Vec<f32>>,
    pub(crate) skips: Option<Vec<u32>>,
    pub(crate) has_log_sums: bool,
}

/// What proptest and tables vary.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    /// Queries of each, and rows of the cache before theirs.
    pub(crate) requests: Vec<(u32, u32)>,
    pub(crate) n_heads: u64,
    pub(crate) group: u64,
    pub(crate) head_dim: u64,
    pub(crate) page_size: u64,
    pub(crate) layout: Layout,
    /// Every so many-th token of the prompt was kept, about; positions are given.
    pub(crate) keep: Option<u32>,
    pub(crate) mask: Mask,
    pub(crate) log_sum_order: LogSumOrder,
    pub(crate) soft_cap: Option<f32>,
    pub(crate) has_sinks: bool,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            seed: 1,
            requests: vec![(7, 20)],
            n_heads: 1,
            group: 2,
            head_dim: 32,
            page_size: 8,
            layout: Layout::Nhd,
            keep: None,
            mask: Mask::Causal,
            log_sum_order: LogSumOrder::TokensHeads,
            soft_cap: None,
            has_sinks: false,
        }
    }
}

impl Case {
    pub(crate) fn plan(&self) -> Result<PrefillPlan, Error> {
        let longest = self.requests.iter().map(|(n, before)| n + before).max().unwrap_or(0);
        let table_stride = u64::from(longest).div_ceil(self.page_size) + 1;
        let batch = self.requests.len() as u64;
        let shape = KvShape {
            batch,
            n_heads: self.n_heads,
            row_len: self.head_dim,
            n_pages: table_stride * batch + 2,
            page_size: self.page_size,
            table_stride,
            ..KvShape::default()
        };
        let layout = KvLayout::new(match self.layout {
            Layout::Nhd => shape.nhd(),
            Layout::Hnd => shape.hnd(),
            Layout::FusedHnd => shape.hnd().fused(),
        })?;
        let n_tokens = self.requests.iter().map(|(n, _)| u64::from(*n)).sum();
        let n_q_heads = self.n_heads * self.group;
        PrefillPlan::new(PrefillShape {
            query_stride: n_q_heads * self.head_dim + 8,
            output_stride: n_q_heads * self.head_dim + 16,
            positions: if self.keep.is_some() { Positions::Given } else { Positions::Rows },
            mask: self.mask,
            log_sum_order: self.log_sum_order,
            logits: Logits { soft_cap: self.soft_cap, ..Logits::of(self.head_dim) },
            ..PrefillShape::of(layout, n_q_heads, n_tokens)
        })
    }

    /// Rows and queries are the same for every layout, page size and chunk.
    pub(crate) fn build<T: Half>(&self) -> Problem<T> {
        let plan = self.plan().unwrap();
        let shape = *plan.shape();
        let layout = shape.layout;
        let n_rows = layout.n_rows();
        let mut random = Random(self.seed ^ self.page_size);
        let mut pages: Vec<i32> = (0..layout.shape().n_pages as i32).collect();
        for i in (1..pages.len()).rev() {
            pages.swap(i, (random.next() % (i as u64 + 1)) as usize);
        }
        let page_table: Vec<i32> = pages[..layout.table_len() as usize].to_vec();
        let [mut keys, mut values] =
            [7.0, -7.0].map(|x| vec![T::from_f32(x); layout.pool_len() as usize]);
        let mut query_starts = vec![0];
        let mut queries = vec![T::from_f32(9.0); plan.queries_len() as usize];
        let (mut query_positions, mut key_positions) = (Vec::new(), Vec::new());
        let mut token = 0;
        for (b, (n, before)) in self.requests.iter().enumerate() {
            let mut position = 0;
            for t in 0..n_rows {
                let steps = number_at(self.seed, [b as u64, t, 0, 77]).abs() * 3.0;
                position += 1 + (steps as u32 % self.keep.unwrap_or(1)) as i32;
                key_positions.push(position);
                let is_there = t < u64::from(n + before);
                if t >= u64::from(*before) && is_there {
                    query_positions.push(position);
                    for c in 0..shape.n_q_heads * self.head_dim {
                        let number = number_at(self.seed, [b as u64, t, c, 1 << 40]);
                        queries[(token * shape.query_stride + c) as usize] = T::from_f32(number);
                    }
                    token += 1;
                }
                for h in (0..self.n_heads).filter(|_| is_there) {
                    let start = layout.locate(&page_table, b as u64, t, h).unwrap();
                    for c in 0..self.head_dim {
                        let [key, value] = [0, 1 << 50]
                            .map(|of| number_at(self.seed.wrapping_add(of), [b as u64, t, h, c]));
                        keys[start + c as usize] = T::from_f32(key);
                        values[start + c as usize] = T::from_f32(value);
                    }
                }
            }
            query_starts.push(token as u32);
        }
        if self.keep.is_none() {
            (query_positions, key_positions) = (Vec::new(), Vec::new());
        }
        let lengths = self.requests.iter().map(|(n, before)| n + before).collect();
        let sinks = self.has_sinks.then(|| (0..shape.n_q_heads).map(|_| random.normal()).collect());
        Problem {
            plan,
            queries,
            query_starts,
            query_positions,
            key_positions,
            keys,
            values,
            page_table,
            lengths,
            sinks,
            skips: None,
            has_log_sums: true,
        }
    }
}

impl<T: Half> Problem<T> {
    pub(crate) fn attend<O: Real>(&self, queue: &Queue) -> Result<Results<O>, Error> {
        let shape = self.plan.shape();
        let queries = queue.upload(&self.queries)?;
        let query_starts = queue.upload(&self.query_starts)?;
        let is_given = shape.positions == Positions::Given;
        let upload = |all: &Vec<i32>| is_given.then(|| queue.upload(all)).transpose();
        let (query_positions, key_positions) =
            (upload(&self.query_positions)?, upload(&self.key_positions)?);
        let (keys, values) = (queue.upload(&self.keys)?, queue.upload(&self.values)?);
        let (page_table, lengths) = (queue.upload(&self.page_table)?, queue.upload(&self.lengths)?);
        let sinks = self.sinks.as_ref().map(|all| queue.upload(all)).transpose()?;
        let skips = self.skips.as_ref().map(|all| queue.upload(all)).transpose()?;
        let mut outputs = queue.upload(&vec![poison::<O>(); self.plan.outputs_len() as usize])?;
        let mut log_sums = queue.upload(&vec![POISON; self.plan.log_sums_len() as usize])?;
        let inputs = PrefillInputs {
            queries: queries.view(),
            query_starts: query_starts.view(),
            query_positions: query_positions.as_ref().map(Buffer::view),
            key_positions: key_positions.as_ref().map(Buffer::view),
            cache: KvView {
                layout: shape.layout,
                keys: keys.view(),
                values: Some(values.view()),
                page_table: page_table.view(),
                lengths: lengths.view(),
                key_scale: 1.0,
                value_scale: 1.0,
            },
            sinks: sinks.as_ref().map(Buffer::view),
            skips: skips.as_ref().map(Buffer::view),
        };
        let mut written = PrefillOutputs {
            outputs: outputs.view_mut(),
            log_sums: self.has_log_sums.then(|| log_sums.view_mut()),
        };
        attend_prefill(queue, &self.plan, &inputs, &mut written)?;
        let log_sums = queue.download(&log_sums.view())?;
        Ok(Results {
            outputs: queue.download(&outputs.view())?,
            log_sums: log_sums.into_iter().map(f32::to_bits).collect(),
        })
    }

    /// The first request alone, of an otherwise smaller batch.
    pub(crate) fn first_of_requests(&self) -> Self {
        let shape = *self.plan.shape();
        let layout = KvLayout::new(KvShape { batch: 1, ..*shape.layout.shape() }).unwrap();
        let n_tokens = u64::from(self.query_starts[1]);
        let plan = PrefillPlan::new(PrefillShape { layout, n_tokens, ..shape }).unwrap();
        let n_rows = layout.n_rows() as usize;
        Self {
            queries: self.queries[..plan.queries_len() as usize].to_vec(),
            query_starts: self.query_starts[..2].to_vec(),
            query_positions: self.query_positions[..n_tokens as usize].to_vec(),
            key_positions: self.key_positions[..n_rows].to_vec(),
            page_table: self.page_table[..layout.table_len() as usize].to_vec(),
            lengths: self.lengths[..1].to_vec(),
            skips: self.skips.as_ref().map(|skips| skips[..1].to_vec()),
            plan,
            ..self.clone()
        }
    }

    pub(crate) fn reference(&self, model: Model) -> Prefilled<'_, T> {
        Prefilled {
            plan: &self.plan,
            model,
            queries: &self.queries,
            query_starts: &self.query_starts,
            query_positions: &self.query_positions,
            key_positions: &self.key_positions,
            keys: &self.keys,
            values: &self.values,
            page_table: &self.page_table,
            lengths: &self.lengths,
            sinks: self.sinks.as_deref(),
        }
    }

    pub(crate) fn expect<O: Real>(&self, model: Model) -> Results<O> {
        let shape = self.plan.shape();
        let n_q_heads = shape.n_q_heads as usize;
        let mut outputs = vec![poison::<O>(); self.plan.outputs_len() as usize];
        let mut log_sums = vec![POISON.to_bits(); self.plan.log_sums_len() as usize];
        let sizes = [shape.n_tokens, 1, shape.n_q_heads];
        let prefilled = self.reference(model);
        for (b, tokens) in prefilled.requests().into_iter().enumerate() {
            if self.skips.as_ref().is_some_and(|skips| skips[b] != 0) {
                continue;
            }
            for (i, token) in tokens.enumerate() {
                for q in 0..n_q_heads {
                    let (output, log_sum) = prefilled.query(b, i, q);
                    let start = token * shape.output_stride as usize + q * output.len();
                    for (to, from) in outputs[start..].iter_mut().zip(output) {
                        *to = O::from_f32(from);
                    }
                    if self.has_log_sums {
                        let place = place_of(shape.log_sum_order, sizes, [token, q]);
                        log_sums[place] = f32::from_f32(log_sum).to_bits();
                    }
                }
            }
        }
        Results { outputs, log_sums }
    }

    /// A query head's outputs in f64, from the formula alone.
    pub(crate) fn exact(&self, b: usize, i: usize, q: usize) -> Vec<f64> {
        let shape = self.plan.shape();
        let layout = shape.layout;
        let d = layout.shape().row_len as usize;
        let token = self.query_starts[b] as usize + i;
        let query = &self.queries[token * shape.query_stride as usize + q * d..][..d];
        let head = q as u64 / self.plan.group();
        let (mut outputs, mut sum) = (vec![0.0; d], 0.0);
        for t in 0..self.lengths[b] as usize {
            let position = self.key_positions[b * layout.n_rows() as usize + t];
            if position > self.query_positions[token] {
                continue;
            }
            let start = layout.locate(&self.page_table, b as u64, t as u64, head).unwrap();
            let keys = &self.keys[start..][..d];
            let product: f64 =
                query.iter().zip(keys).map(|(q, k)| f64::from(q.to_f32() * k.to_f32())).sum();
            let weight = (product / (d as f64).sqrt()).exp();
            sum += weight;
            for (output, value) in outputs.iter_mut().zip(&self.values[start..][..d]) {
                *output += weight * f64::from(value.to_f32());
            }
        }
        outputs.iter().map(|output| output / sum).collect()
    }
}

/// Of 70 requests, most without queries.
pub(crate) fn many() -> Case {
    let requests = (0..70).map(|b| if b % 9 == 4 { (b % 5 + 1, 3) } else { (0, 2) }).collect();
    Case { requests, head_dim: 16, group: 1, ..Case::default() }
}

/// The same with starts of which most are less than others before.
pub(crate) fn falling() -> Problem<Brain> {
    let mut problem = many().build::<Brain>();
    let last = problem.plan.shape().n_tokens as u32 - 3;
    for (b, start) in problem.query_starts.iter_mut().enumerate() {
        *start = match b {
            0 => 2,
            3 => 9,
            40 => 13,
            1..30 => 1,
            68.. => last,
            _ => 0,
        };
    }
    problem
}

/// The launch gives what the reference does, on every executor.
#[track_caller]
pub(crate) fn assert_same<T: Half, O: Real>(problem: &Problem<T>) {
    for queue in crate::common::queues() {
        let Some(model) = crate::common::model_of(&queue) else { continue };
        let results = problem.attend::<O>(&queue).unwrap();
        assert_results(&results, &problem.expect(model), &format!("{}", queue.executor()));
    }
}
