//! Attention on the CPU by sums of f32: near what devices give, and quick enough for models.

use lacuna::attention::Logits;
use lacuna::attention::reference::{Attended, Token};
use lacuna::element::Half;
use rayon::prelude::*;

/// What logits, to base 2, count as beyond it, as kernels have it.
const MOST_LOG2: f32 = 4_194_304.0;

/// Keys and values of one head, as f32, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    head_dim: usize,
    pub(crate) keys: Vec<f32>,
    pub(crate) values: Vec<f32>,
}

impl Rows {
    pub(crate) fn new(head_dim: usize) -> Self {
        Self { head_dim, keys: Vec::new(), values: Vec::new() }
    }

    /// The tokens that a query sees.
    fn push<T: Half>(&mut self, tokens: &[Option<Token<'_, T>>]) {
        for token in tokens.iter().flatten().filter(|token| token.is_seen) {
            self.keys.extend(token.key.iter().map(|x| x.to_f32()));
            self.values.extend(token.value.iter().map(|x| x.to_f32()));
        }
    }

    /// A query's output and its log-sum-exp.
    fn attend(&self, query: &[f32], logits: &Logits, sink: Option<f32>) -> (Vec<f32>, f32) {
        let most = MOST_LOG2 * std::f32::consts::LN_2;
        let logit = |key: &[f32]| {
            let product = dot(query, key) * logits.scale;
            let logit = match logits.soft_cap {
                Some(cap) => (product / cap).tanh() * cap,
                None => product,
            };
            if logit == f32::NEG_INFINITY { logit } else { logit.clamp(-most, most) }
        };
        let mut weights: Vec<f32> = self.keys.chunks(self.head_dim).map(logit).collect();
        let greatest = weights.iter().copied().chain(sink).fold(f32::NEG_INFINITY, f32::max);
        let mut output = vec![0.0; self.head_dim];
        if greatest == f32::NEG_INFINITY && !weights.iter().any(|logit| logit.is_nan()) {
            return (output, f32::NEG_INFINITY);
        }
        let greatest = if greatest == f32::NEG_INFINITY { 0.0 } else { greatest };
        weights.iter_mut().for_each(|logit| *logit = (*logit - greatest).exp());
        let own: f32 = weights.iter().sum();
        let sum = own + sink.map_or(0.0, |sink| (sink - greatest).exp());
        for (weight, value) in weights.iter().zip(self.values.chunks(self.head_dim)) {
            output.iter_mut().zip(value).for_each(|(sum, x)| *sum += weight * x);
        }
        output.iter_mut().for_each(|x| *x /= sum);
        (output, greatest + sum.ln())
    }
}

/// In eight sums, so that the compiler has them in one register.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..8 {
            lanes[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

/// All answers, by requests, queries and their heads: `before` gives what a head of keys has before the rows of segments.
pub(crate) fn attend<T: Half>(
    attended: &Attended<'_, T>,
    before: impl Fn(usize, usize) -> Rows + Sync,
) -> Vec<(Vec<f32>, f32)> {
    let (plan, shape) = (attended.plan, attended.plan.shape());
    let [batch, n_heads, n_queries, group, d] =
        [shape.batch, plan.n_heads(), shape.n_queries, plan.group(), shape.head_dim]
            .map(|n| n as usize);
    let of_head = |(b, head): (usize, usize)| {
        let before = before(b, head);
        let mut answers = Vec::with_capacity(n_queries * group);
        for i in 0..n_queries {
            let mut rows = before.clone();
            rows.push(&attended.tokens(b, head, i));
            let queries = (b * n_queries + i) * shape.query_stride as usize;
            for q in head * group..(head + 1) * group {
                let query = &attended.queries[queries + q * d..][..d];
                let query: Vec<f32> = query.iter().map(|x| x.to_f32()).collect();
                let sink = attended.sinks.map(|sinks| sinks[q]);
                answers.push(rows.attend(&query, &shape.logits, sink));
            }
        }
        answers
    };
    let heads = (0..batch * n_heads).into_par_iter().map(|i| (i / n_heads, i % n_heads));
    let mut heads: Vec<_> = heads.map(of_head).collect();
    let mut answers = Vec::with_capacity(batch * n_queries * n_heads * group);
    for heads in heads.chunks_mut(n_heads.max(1)) {
        for i in 0..n_queries {
            for own in heads.iter_mut() {
                answers.extend(own[i * group..(i + 1) * group].iter_mut().map(std::mem::take));
            }
        }
    }
    answers
}
