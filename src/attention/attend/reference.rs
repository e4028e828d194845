//! What `attend` must do, written for reading: tiles, chains, roundings and their order are the kernel's.

use super::plan::{AttendPlan, Mask, SegmentShape, TILE, Tokens, split_len};
use crate::element::Half;
use crate::mma::Model;
use crate::number;

/// Of no scores; and what logits, to base 2, count as beyond it.
const NO_SCORE: i32 = -(1 << 30);
const MOST_LOG2: f32 = 4_194_304.0;

/// A launch on the host.
#[derive(Debug, Clone, Copy)]
pub struct Attended<'a, T> {
    /// Its sizes.
    pub plan: &'a AttendPlan,
    /// Whose tensor cores multiply.
    pub model: Model,
    /// `[batch, n_queries, n_q_heads, head_dim]`, with the plan's stride.
    pub queries: &'a [T],
    /// What queries attend to.
    pub segments: &'a [HostSegment<'a, T>],
    /// `[n_q_heads]`.
    pub sinks: Option<&'a [f32]>,
}

/// A segment on the host, as of [`attend`](crate::attention::attend).
#[derive(Debug, Clone, Copy)]
pub struct HostSegment<'a, T> {
    /// The pools.
    pub keys: &'a [T],
    /// The same of values.
    pub values: &'a [T],
    /// `[batch, table_stride]`.
    pub page_table: &'a [i32],
    /// `[batch]`.
    pub lengths: &'a [u32],
    /// Of blocks, their numbers.
    pub indices: &'a [i32],
    /// How many of each list count.
    pub counts: Option<&'a [u32]>,
    /// Of blocks, or of rows.
    pub biases: Option<&'a [f32]>,
}

/// What stands at a position.
#[derive(Debug, Clone, Copy)]
pub struct Token<'a, T> {
    /// Its key.
    pub key: &'a [T],
    /// Its value.
    pub value: &'a [T],
    /// What is added to its logits.
    pub bias: f32,
    /// Whether the query sees it.
    pub is_seen: bool,
}

/// What makes logits of products, and who makes products.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Whose tensor cores.
    pub model: Model,
    /// log2(e) times the scale.
    pub log2_scale: f32,
    /// What twice a capped logit's exponent and its tangent are multiplied by, or zeros.
    pub cap: [f32; 2],
    /// Warps that share a split.
    pub n_warps: usize,
}

/// Sums over some of a row's positions, relative to `2^greatest`.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// No less than any logit to base 2.
    pub greatest: i32,
    /// Of weights.
    pub sum: f32,
    /// Of weights times values.
    pub output: Vec<f32>,
}

impl State {
    /// Of nothing.
    pub fn empty(head_dim: usize) -> Self {
        Self { greatest: NO_SCORE, sum: 0.0, output: vec![0.0; head_dim] }
    }

    /// A query's over all positions: splits are as long as the number of positions says.
    pub fn of<T: Half>(rule: &Rule, query: &[T], tokens: &[Option<Token<'_, T>>]) -> Self {
        let split = |tokens: &[_]| {
            let of_warp = |warp| {
                let mut state = Self::empty(query.len());
                let tiles = tokens.chunks(TILE).skip(warp).step_by(rule.n_warps);
                tiles.for_each(|tile| state.add(rule, query, tile));
                state
            };
            Self::merge(query.len(), (0..rule.n_warps).map(of_warp))
        };
        Self::merge(query.len(), tokens.chunks(split_len(tokens.len())).map(split))
    }

    /// Adds a tile of up to 16 positions.
    fn add<T: Half>(&mut self, rule: &Rule, query: &[T], tile: &[Option<Token<'_, T>>]) {
        let mut logits = [f32::NEG_INFINITY; TILE];
        for (logit, token) in logits.iter_mut().zip(tile) {
            if let Some(token) = token.filter(|token| token.is_seen) {
                *logit = rule.logit(query, token.key, token.bias);
            }
        }
        let greatest = logits.iter().copied().map(ceiling).fold(self.greatest, i32::max);
        self.relate_to(greatest);
        let weights = logits.map(|logit| T::from_f32(weigh(logit, greatest)).bits());
        let ones = [T::from_f32(1.0).bits(); TILE];
        let product = |column: &[u16; TILE], sum: &mut f32| {
            let answer = rule.model.dot_add(T::OPERAND, &weights, column, sum.to_bits());
            *sum = f32::from_bits(answer.bits);
        };
        product(&ones, &mut self.sum);
        for (c, output) in self.output.iter_mut().enumerate() {
            let mut column = [0; TILE];
            for (element, token) in column.iter_mut().zip(tile) {
                *element = token.map_or(0, |token| token.value[c].bits());
            }
            product(&column, output);
        }
    }

    fn relate_to(&mut self, greatest: i32) {
        let scale = scale_of(self.greatest, greatest);
        self.greatest = greatest;
        self.sum *= scale;
        self.output.iter_mut().for_each(|output| *output *= scale);
    }

    /// The states of a row's parts as one, in their order.
    pub fn merge(head_dim: usize, parts: impl Iterator<Item = Self>) -> Self {
        let parts: Vec<Self> = parts.collect();
        let mut all = Self::empty(head_dim);
        all.greatest = parts.iter().map(|part| part.greatest).fold(NO_SCORE, i32::max);
        for part in &parts {
            let scale = scale_of(part.greatest, all.greatest);
            all.sum = part.sum.mul_add(scale, all.sum);
            for (sum, output) in all.output.iter_mut().zip(&part.output) {
                *sum = output.mul_add(scale, *sum);
            }
        }
        all
    }

    /// Outputs, and the log-sum-exp in this unit, with the sink's logit if there is one.
    pub fn finish(mut self, sink: Option<f32>, log_unit: f32) -> (Vec<f32>, f32) {
        if let Some(sink) = sink {
            let sink = clamp(sink * std::f32::consts::LOG2_E);
            let greatest = self.greatest.max(ceiling(sink));
            let scale = scale_of(self.greatest, greatest);
            self.greatest = greatest;
            self.sum = self.sum.mul_add(scale, weigh(sink, greatest));
            self.output.iter_mut().for_each(|output| *output *= scale);
        }
        if self.sum == 0.0 {
            return (vec![0.0; self.output.len()], f32::NEG_INFINITY);
        }
        let reciprocal = 1.0 / self.sum;
        let outputs = self.output.into_iter().map(|output| output * reciprocal).collect();
        let log2 = self.greatest as f32 + number::log2(self.sum);
        (outputs, if self.sum.is_nan() { f32::NAN } else { log2 * log_unit })
    }
}

impl Rule {
    /// To base 2.
    fn logit<T: Half>(&self, query: &[T], key: &[T], bias: f32) -> f32 {
        let bits = |row: &[T]| -> Vec<u16> { row.iter().map(|element| element.bits()).collect() };
        let product = self.model.dot_add(T::OPERAND, &bits(query), &bits(key), 0);
        let product = f32::from_bits(product.bits);
        let [cap_scale, cap_log2] = self.cap;
        let logit = if cap_scale == 0.0 {
            product * self.log2_scale
        } else {
            let twice = product * cap_scale;
            let e = number::exp2(-twice.abs());
            let tanh = (1.0 - e) / (1.0 + e);
            if twice.is_nan() { twice } else { tanh.copysign(twice) * cap_log2 }
        };
        clamp(bias.mul_add(std::f32::consts::LOG2_E, logit))
    }
}

fn clamp(logit: f32) -> f32 {
    if logit == f32::NEG_INFINITY || logit.is_nan() {
        return logit;
    }
    logit.clamp(-MOST_LOG2, MOST_LOG2)
}

/// The least integer not below a logit; of none, and of NaN, less than any.
fn ceiling(logit: f32) -> i32 {
    if logit == f32::NEG_INFINITY || logit.is_nan() { NO_SCORE } else { logit.ceil() as i32 }
}

fn weigh(logit: f32, greatest: i32) -> f32 {
    if logit.is_nan() { logit } else { number::exp2(logit - greatest as f32) }
}

/// `2^(from - to)`, of what is not above 0.
fn scale_of(from: i32, to: i32) -> f32 {
    let power = from - to;
    if power < -126 { 0.0 } else { f32::from_bits(((127 + power) as u32) << 23) }
}

impl<'a, T: Half> Attended<'a, T> {
    /// What makes logits.
    pub fn rule(&self) -> Rule {
        Rule {
            model: self.model,
            log2_scale: self.plan.log2_scale(),
            cap: self.plan.cap(),
            n_warps: self.plan.n_warps() as usize,
        }
    }

    /// What stands at each position of a request and head of keys, as its query `i` sees it.
    pub fn tokens(&self, b: usize, head: usize, i: usize) -> Vec<Option<Token<'a, T>>> {
        let shapes = self.plan.segments();
        let each = shapes.zip(self.segments).flat_map(|(shape, segment)| {
            let entries = rows_of(shape, segment, b, head, self.plan.shape().n_queries);
            entries.into_iter().map(move |row| self.token(shape, segment, b, head, i, row))
        });
        each.collect()
    }

    /// A query head's outputs and log-sum-exp.
    pub fn query(&self, b: usize, i: usize, q: usize) -> (Vec<f32>, f32) {
        let shape = self.plan.shape();
        let token = b * shape.n_queries as usize + i;
        let d = shape.head_dim as usize;
        let query = &self.queries[token * shape.query_stride as usize + q * d..][..d];
        let tokens = self.tokens(b, q / self.plan.group() as usize, i);
        let state = State::of(&self.rule(), query, &tokens);
        state.finish(self.sinks.map(|sinks| sinks[q]), self.plan.log_unit())
    }

    /// The token of a row, if it is there and any query sees it.
    fn token(
        &self,
        shape: &SegmentShape,
        segment: &HostSegment<'a, T>,
        b: usize,
        head: usize,
        i: usize,
        (entry, row): (usize, u64),
    ) -> Option<Token<'a, T>> {
        let kv = shape.layout.shape();
        let n_rows = shape.layout.rows_of(segment.lengths[b].into());
        let n_queries = self.plan.shape().n_queries as usize;
        let sees = |i: usize| {
            // What the query's own row is, counted from one past the queries before.
            let (row, own) = (row as i64, n_rows as i64 - n_queries as i64 + i as i64);
            match shape.mask {
                Mask::None => true,
                Mask::Causal => row <= own,
                Mask::Window(window) => row <= own && row > own - window as i64,
            }
        };
        if row >= n_rows || !(0..n_queries).any(sees) {
            return None;
        }
        let start = shape.layout.locate(segment.page_table, b as u64, row, head as u64)?;
        let n_biases = match shape.tokens {
            Tokens::Range { .. } => shape.layout.n_rows(),
            Tokens::Blocks { n_blocks, .. } => n_blocks,
        };
        let list = list_of(shape, b, head);
        let bias = segment.biases.map_or(0.0, |all| all[list * n_biases as usize + entry]);
        let row = |pool: &'a [T]| &pool[start..][..kv.row_len as usize];
        let (key, value) = (row(segment.keys), row(segment.values));
        Some(Token { key, value, bias, is_seen: sees(i) })
    }
}

fn list_of(shape: &SegmentShape, b: usize, head: usize) -> usize {
    let n_lists = shape.lists.per_request(&shape.layout) as usize;
    if n_lists == 1 { b } else { b * n_lists + head }
}

/// The rows at a segment's positions, and whose bias each has; large ones are of no row.
fn rows_of<T>(
    shape: &SegmentShape,
    segment: &HostSegment<'_, T>,
    b: usize,
    head: usize,
    n_queries: u64,
) -> Vec<(usize, u64)> {
    let n_rows = shape.layout.rows_of(segment.lengths[b].into());
    match shape.tokens {
        Tokens::Range { first, end, last } => {
            let last = match shape.mask {
                Mask::Window(window) => last.min(window + n_queries - 1),
                Mask::None | Mask::Causal => last,
            };
            let first = first.max(n_rows.saturating_sub(last));
            (first..end.min(n_rows)).map(|row| (row as usize, row)).collect()
        }
        Tokens::Blocks { n_blocks, block_size } => {
            let list = list_of(shape, b, head);
            let n = segment.counts.map_or(n_blocks, |counts| n_blocks.min(counts[list].into()));
            let indices = &segment.indices[list * n_blocks as usize..][..n as usize];
            let blocks = indices.iter().map(|block| u64::from(*block as u32) * block_size);
            let rows = blocks.enumerate().flat_map(|(entry, first)| {
                (first..first + block_size).map(move |row| (entry, row))
            });
            rows.collect()
        }
    }
}
