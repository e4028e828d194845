//! A context with what makes caches of few bits hard: channels of keys far from zero, tokens that most of the attention goes to, and a
//! change of what is asked for; and attention to it in f64.

use half::bf16;

use super::toy::Random;

/// Base of angles, as in Llama 3.
const ROPE_BASE: f64 = 500_000.0;
/// Of each head, pairs of channels that hardly turn: what is asked for, and among them those with a mean.
const SLOW_PAIRS: f64 = 0.65;
const FAR_PAIRS: [f64; 2] = [0.78, 0.94];
/// One token of so many is a heavy one; of every other of them values are so many times smaller, as those of attention sinks are.
const HEAVY: usize = 24;
const HUSHED: f32 = 16.0;

/// Sizes of a stream.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub n_tokens: usize,
    pub n_q_heads: usize,
    pub n_heads: usize,
    pub head_dim: usize,
    /// Tokens of which queries ask for the same.
    pub n_topic: usize,
    pub seed: u64,
}

pub struct Stream {
    pub sizes: Sizes,
    /// `[n_tokens, n_heads, head_dim]`, not turned.
    pub keys: Vec<bf16>,
    pub values: Vec<bf16>,
    /// `[n_tokens, n_q_heads, head_dim]`, turned.
    pub queries: Vec<bf16>,
    /// `[n_tokens, head_dim]`: cosines, then sines.
    pub cos_sin: Vec<f32>,
    /// Keys, turned and not rounded.
    exact_keys: Vec<f64>,
}

impl Stream {
    pub fn new(sizes: Sizes) -> Self {
        let Sizes { n_tokens, n_q_heads, n_heads, head_dim: d, n_topic, seed } = sizes;
        let mut random = Random(seed);
        let half = d / 2;
        let angle = |t: usize, pair: usize| t as f64 * ROPE_BASE.powf(-(pair as f64) / half as f64);
        let far: Vec<usize> = FAR_PAIRS.iter().map(|at| (at * half as f64) as usize).collect();
        // What is asked for in each topic, of each head: a direction of length 1, in slow channels that have no mean.
        let n_topics = n_tokens.div_ceil(n_topic);
        let mut directions = Vec::with_capacity(n_topics * n_heads);
        for _ in 0..n_topics * n_heads {
            let mut direction = vec![0.0_f32; d];
            for pair in (SLOW_PAIRS * half as f64) as usize..half {
                if !far.contains(&pair) {
                    direction[pair] = random.normal();
                    direction[half + pair] = random.normal();
                }
            }
            let norm = direction.iter().map(|x| x * x).sum::<f32>().sqrt();
            directions.push(direction.iter().map(|x| x / norm).collect::<Vec<_>>());
        }
        let root = (d as f32).sqrt();
        let (mut keys, mut values, mut queries) = (Vec::new(), Vec::new(), Vec::new());
        for t in 0..n_tokens {
            let topic = t / n_topic;
            let is_heavy = t < 4 || random.below(HEAVY) == 0;
            let is_hushed = t < 4 || is_heavy && random.below(2) == 0;
            for h in 0..n_heads {
                let direction = &directions[topic * n_heads + h];
                let strength = if is_heavy { 0.75 * root } else { 0.0 };
                for (c, along) in direction.iter().enumerate() {
                    let mut x = random.normal() + strength * along;
                    if far.iter().any(|pair| c == *pair + h % 2 * half) {
                        x = 9.0 + 2.0 * x;
                    }
                    keys.push(bf16::from_f32(x));
                }
                let size = if is_hushed { HUSHED.recip() } else { 1.0 };
                values.extend((0..d).map(|_| bf16::from_f32(size * random.normal())));
            }
            for q in 0..n_q_heads {
                let direction = &directions[topic * n_heads + q / (n_q_heads / n_heads)];
                let query: Vec<f64> = (direction.iter())
                    .map(|x| f64::from(0.6 * random.normal() + root * x))
                    .collect();
                let turned = turn(&query, |pair| angle(t, pair));
                queries.extend(turned.iter().map(|x| bf16::from_f64(*x)));
            }
        }
        let mut cos_sin = Vec::new();
        for t in 0..n_tokens {
            cos_sin.extend((0..half).map(|pair| angle(t, pair).cos() as f32));
            cos_sin.extend((0..half).map(|pair| angle(t, pair).sin() as f32));
        }
        let exact_keys = (keys.chunks(d).enumerate())
            .flat_map(|(i, key)| {
                let key: Vec<_> = key.iter().map(|x| x.to_f64()).collect();
                turn(&key, |pair| angle(i / n_heads, pair))
            })
            .collect();
        Self { sizes, keys, values, queries, cos_sin, exact_keys }
    }

    /// What the queries of token `t` attend to all tokens up to it: `[n_q_heads, head_dim]`.
    pub fn attention(&self, t: usize) -> Vec<f64> {
        let Sizes { n_q_heads, n_heads, head_dim: d, .. } = self.sizes;
        let mut outputs = Vec::with_capacity(n_q_heads * d);
        for q in 0..n_q_heads {
            let head = q / (n_q_heads / n_heads);
            let mut output = vec![0.0; d];
            for (i, weight) in self.weights(t, q).into_iter().enumerate() {
                let value = &self.values[(i * n_heads + head) * d..][..d];
                output.iter_mut().zip(value).for_each(|(x, value)| *x += weight * value.to_f64());
            }
            outputs.extend(output);
        }
        outputs
    }

    /// How much of its attention query `q` of token `t` gives each token up to it.
    pub fn weights(&self, t: usize, q: usize) -> Vec<f64> {
        let Sizes { n_q_heads, n_heads, head_dim: d, .. } = self.sizes;
        let scale = (d as f64).sqrt().recip();
        let head = q / (n_q_heads / n_heads);
        let query = &self.queries[(t * n_q_heads + q) * d..][..d];
        let logit = |i: usize| -> f64 {
            let key = &self.exact_keys[(i * n_heads + head) * d..][..d];
            scale * query.iter().zip(key).map(|(x, y)| x.to_f64() * y).sum::<f64>()
        };
        let logits: Vec<_> = (0..=t).map(logit).collect();
        let greatest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<_> = logits.iter().map(|logit| (logit - greatest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / sum).collect()
    }
}

/// Turns halves of a row by the angle of each pair of channels.
fn turn(row: &[f64], angle: impl Fn(usize) -> f64) -> Vec<f64> {
    let half = row.len() / 2;
    let mut turned = vec![0.0; row.len()];
    for pair in 0..half {
        let (sine, cosine) = angle(pair).sin_cos();
        let (x, y) = (row[pair], row[half + pair]);
        (turned[pair], turned[half + pair]) = (x * cosine - y * sine, y * cosine + x * sine);
    }
    turned
}

/// The distance of an output from what it should be, over that one's length.
pub fn relative_error(output: &[f32], exact: &[f64]) -> f64 {
    let distance: f64 = output.iter().zip(exact).map(|(x, y)| (f64::from(*x) - y).powi(2)).sum();
    (distance / exact.iter().map(|y| y * y).sum::<f64>()).sqrt()
}
