//! Rows of keys, values and queries, and those that a seed gives.

use half::bf16;
use rayon::prelude::*;

use super::softmax;

/// Rows of every head: `[n_tokens, n_heads, d]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rows {
    n_heads: usize,
    d: usize,
    elements: Vec<f32>,
}

impl Rows {
    pub(crate) fn new(n_heads: usize, d: usize, elements: Vec<f32>) -> Self {
        assert_eq!(elements.len() % (n_heads * d), 0, "whole rows of {n_heads} heads of {d}");
        Self { n_heads, d, elements }
    }

    pub(crate) fn shape(&self) -> Shape {
        let n_tokens = self.elements.len() / (self.n_heads * self.d);
        Shape { n_tokens, n_heads: self.n_heads, d: self.d }
    }

    pub(crate) fn elements(&self) -> &[f32] {
        &self.elements
    }

    pub(crate) fn elements_mut(&mut self) -> &mut [f32] {
        &mut self.elements
    }

    /// Where a row begins.
    pub(crate) fn offset(&self, token: usize, head: usize) -> usize {
        (token * self.n_heads + head) * self.d
    }

    pub(crate) fn row(&self, token: usize, head: usize) -> &[f32] {
        let offset = self.offset(token, head);
        &self.elements[offset..offset + self.d]
    }

    fn row_mut(&mut self, token: usize, head: usize) -> &mut [f32] {
        let offset = self.offset(token, head);
        &mut self.elements[offset..offset + self.d]
    }

    /// Some tokens, all heads.
    pub(crate) fn select(&self, tokens: impl Iterator<Item = usize>) -> Self {
        let width = self.n_heads * self.d;
        let elements = tokens.flat_map(|t| self.elements[t * width..(t + 1) * width].to_vec());
        Self { elements: elements.collect(), ..*self }
    }

    /// The same elements, as those of `n_heads` heads.
    pub(crate) fn with_heads(&self, n_heads: usize) -> Self {
        Self::new(n_heads, self.n_heads * self.d / n_heads, self.elements.clone())
    }

    /// Every element to bf16, ties to even.
    pub(crate) fn rounded(mut self) -> Self {
        self.elements.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
        self
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) n_tokens: usize,
    pub(crate) n_heads: usize,
    pub(crate) d: usize,
}

/// Tokens of each head that matter and those that do not, ascending.
#[derive(Debug, Clone)]
pub(crate) struct Pools {
    pub(crate) important: Vec<Vec<usize>>,
    pub(crate) rest: Vec<Vec<usize>>,
}

impl Pools {
    /// Of `n_tokens`, three in five matter: ZipCache's share.
    pub(crate) fn n_important(n_tokens: usize) -> usize {
        (n_tokens * 3).div_ceil(5)
    }

    /// ZipCache's saliency, where every probe sees every key: the sum of a key's probabilities over
    /// the probes and over the heads of a probe that a head of keys serves. The divisor that it has,
    /// the number of probes that see the key, is the same for all. Ties go to the lower token.
    fn of(keys: &Rows, probes: &Rows) -> Self {
        let (shape, n_heads) = (keys.shape(), probes.shape().n_heads);
        let keys = keys.with_heads(n_heads);
        let n_shared = n_heads / shape.n_heads;
        let split = |head| {
            let mut scores = vec![0.0; shape.n_tokens];
            for head in head * n_shared..(head + 1) * n_shared {
                let keys = Head::of(&keys, head);
                for probe in 0..probes.shape().n_tokens {
                    let mut weights = keys.logits(probes.row(probe, head));
                    softmax(&mut weights);
                    scores.iter_mut().zip(&weights).for_each(|(score, p)| *score += p);
                }
            }
            let mut order: Vec<usize> = (0..shape.n_tokens).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
            let mut rest = order.split_off(Self::n_important(shape.n_tokens));
            order.sort_unstable();
            rest.sort_unstable();
            (order, rest)
        };
        let (important, rest) = (0..shape.n_heads).into_par_iter().map(split).unzip();
        Self { important, rest }
    }
}

/// One layer's attention to one sequence.
#[derive(Debug)]
pub(crate) struct Sample {
    /// As a format sees them: a head may hold those of several heads of attention, side by side.
    pub(crate) keys: Rows,
    pub(crate) values: Rows,
    /// Queries that errors are measured with; their heads are those of attention.
    pub(crate) queries: Rows,
    /// Chosen by other queries.
    pub(crate) pools: Pools,
}

impl Sample {
    pub(crate) fn new(keys: Rows, values: Rows, queries: Rows, probes: &Rows) -> Self {
        let pools = Pools::of(&keys, probes);
        Self { keys, values, queries, pools }
    }
}

/// Samples that are reported together.
#[derive(Debug)]
pub(crate) struct Set {
    pub(crate) name: String,
    pub(crate) samples: Vec<Sample>,
}

/// Rows of one head, as the inner loops want them.
pub(crate) struct Head {
    /// `[d, n_tokens]`.
    columns: Vec<Vec<f64>>,
    scale: f64,
}

impl Head {
    pub(crate) fn of(rows: &Rows, head: usize) -> Self {
        let Shape { n_tokens, d, .. } = rows.shape();
        let column = |i| (0..n_tokens).map(|t| f64::from(rows.row(t, head)[i])).collect();
        Self { columns: (0..d).map(column).collect(), scale: 1.0 / (d as f64).sqrt() }
    }

    /// `q . k[t] / sqrt(d)`.
    pub(crate) fn logits(&self, query: &[f32]) -> Vec<f64> {
        let mut logits = vec![0.0; self.columns[0].len()];
        for (&q, column) in query.iter().zip(&self.columns) {
            let q = f64::from(q) * self.scale;
            logits.iter_mut().zip(column).for_each(|(logit, k)| *logit += q * k);
        }
        logits
    }

    /// `sum of p[t] v[t]`.
    pub(crate) fn weighted(&self, weights: &[f64]) -> impl Iterator<Item = f64> {
        self.columns.iter().map(|column| dot(weights, column))
    }
}

/// In four chains, so that additions do not wait for one another.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a_chunks, b_chunks) = (a.chunks_exact(4), b.chunks_exact(4));
    let tail: f64 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    let mut sums = [0.0; 4];
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..4 {
            sums[i] += a[i] * b[i];
        }
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + tail
}

/// What makes synthetic rows unlike plain noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Gaussian,
    OutlierChannels,
    OutlierTokens,
    CommonMean,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] =
        [Self::Gaussian, Self::OutlierChannels, Self::OutlierTokens, Self::CommonMean];

    fn name(self) -> &'static str {
        match self {
            Self::Gaussian => "Gaussian",
            Self::OutlierChannels => "outlier channels",
            Self::OutlierTokens => "outlier tokens",
            Self::CommonMean => "common mean",
        }
    }
}

pub(crate) const N_TOKENS: usize = 4096;
pub(crate) const N_HEADS: usize = 4;
pub(crate) const N_QUERIES: usize = 32;
/// Tokens that a query attends to, as the exponential of its entropy.
pub(crate) const EFFECTIVE_TOKENS: f64 = 64.0;

/// Rows of `kind`, from its own seed.
///
/// Keys and values are normal. *Outlier channels*: one key channel in 32 is 10 to 30 times larger,
/// channels of values differ by up to four times. *Outlier tokens*: of keys, the first four tokens
/// are 8 times smaller and 16 others 8 times larger; of values, the first four are 50 times smaller
/// (sinks) and 16 others 10 times larger. *Common mean*: a mean per channel, normal, of deviation 4
/// for keys and 1 for values.
/// Queries are normal with a half in common to all queries of a head, so that some tokens matter to
/// many; they are scaled, per head, so that the mean entropy, probes included, is
/// `ln(EFFECTIVE_TOKENS)`.
pub(crate) fn synthetic(kind: Kind, d: usize) -> Set {
    let mut random = Random(0x1acc_0000 + ((kind as u64) << 16) + d as u64);
    let mut normal = |n_tokens| {
        let elements = (0..n_tokens * N_HEADS * d).map(|_| random.normal() as f32);
        Rows::new(N_HEADS, d, elements.collect())
    };
    let (mut keys, mut values) = (normal(N_TOKENS), normal(N_TOKENS));
    let (mut queries, shared) = (normal(2 * N_QUERIES), normal(1));
    for query in 0..2 * N_QUERIES {
        for head in 0..N_HEADS {
            let row = queries.row_mut(query, head).iter_mut();
            row.zip(shared.row(0, head)).for_each(|(q, s)| *q += s);
        }
    }
    for head in 0..N_HEADS {
        match kind {
            Kind::Gaussian => {}
            Kind::OutlierChannels => {
                for channel in random.distinct(d / 32, 0, d) {
                    let factor = 10.0 + 20.0 * random.uniform() as f32;
                    (0..N_TOKENS).for_each(|t| keys.row_mut(t, head)[channel] *= factor);
                }
                for channel in 0..d {
                    let factor = libm::exp2(2.0 * random.uniform() - 1.0) as f32;
                    (0..N_TOKENS).for_each(|t| values.row_mut(t, head)[channel] *= factor);
                }
            }
            Kind::OutlierTokens => {
                let mut scale = |rows: &mut Rows, first: f32, others: f32| {
                    let tokens = random.distinct(16, 4, N_TOKENS).into_iter();
                    let factors = (0..4).map(|t| (t, first)).chain(tokens.map(|t| (t, others)));
                    factors.for_each(|(t, factor)| {
                        rows.row_mut(t, head).iter_mut().for_each(|x| *x *= factor);
                    });
                };
                scale(&mut keys, 0.125, 8.0);
                scale(&mut values, 0.02, 10.0);
            }
            Kind::CommonMean => {
                for channel in 0..d {
                    for (rows, deviation) in [(&mut keys, 4.0), (&mut values, 1.0)] {
                        let mean = deviation * random.normal() as f32;
                        (0..N_TOKENS).for_each(|t| rows.row_mut(t, head)[channel] += mean);
                    }
                }
            }
        }
    }
    let (keys, values) = (keys.rounded(), values.rounded());
    let factors: Vec<f32> =
        (0..N_HEADS).into_par_iter().map(|head| factor(&keys, &queries, head) as f32).collect();
    for query in 0..2 * N_QUERIES {
        for (head, factor) in factors.iter().enumerate() {
            queries.row_mut(query, head).iter_mut().for_each(|q| *q *= factor);
        }
    }
    let queries = queries.rounded();
    let (measured, probes) =
        (queries.select(0..N_QUERIES), queries.select(N_QUERIES..2 * N_QUERIES));
    let sample = Sample::new(keys, values, measured, &probes);
    Set { name: format!("{}, d = {d}", kind.name()), samples: vec![sample] }
}

/// What to multiply a head's queries by, for the entropy that is wanted.
fn factor(keys: &Rows, queries: &Rows, head: usize) -> f64 {
    let keys = Head::of(keys, head);
    let n_queries = queries.shape().n_tokens;
    let logits: Vec<_> = (0..n_queries).map(|q| keys.logits(queries.row(q, head))).collect();
    let mean = |factor: f64| {
        let entropies = logits.iter().map(|logits| {
            let mut weights: Vec<f64> = logits.iter().map(|logit| factor * logit).collect();
            softmax(&mut weights)
        });
        entropies.sum::<f64>() / n_queries as f64
    };
    let wanted = libm::log(EFFECTIVE_TOKENS);
    let (mut low, mut high) = (-8.0, 8.0);
    for _ in 0..20 {
        let middle = 0.5 * (low + high);
        // A larger factor, a lower entropy.
        if mean(libm::exp2(middle)) > wanted { low = middle } else { high = middle }
    }
    libm::exp2(low)
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In (0, 1].
    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Box and Muller's first.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(self.uniform())).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.uniform())
    }

    /// `n` different numbers in `low..high`.
    fn distinct(&mut self, n: usize, low: usize, high: usize) -> Vec<usize> {
        let mut chosen = Vec::new();
        while chosen.len() < n {
            let next = low + (self.next() % (high - low) as u64) as usize;
            if !chosen.contains(&next) {
                chosen.push(next);
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_the_same_every_time_and_attend_as_stated() {
        let [set, again] = [(), ()].map(|()| synthetic(Kind::OutlierChannels, 64));
        let [sample, other] = [&set, &again].map(|set| &set.samples[0]);
        assert_eq!((&sample.keys, &sample.queries), (&other.keys, &other.queries));
        let mut entropy = 0.0;
        for head in 0..N_HEADS {
            let keys = Head::of(&sample.keys, head);
            for query in 0..N_QUERIES {
                let mut weights = keys.logits(sample.queries.row(query, head));
                entropy += softmax(&mut weights) / (N_HEADS * N_QUERIES) as f64;
                assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            }
        }
        assert!((entropy - EFFECTIVE_TOKENS.ln()).abs() < 0.4, "{entropy}");
    }

    #[test]
    fn pools_are_what_probes_attend_to() {
        // A probe of ones, and keys that grow with the token, but for the last.
        let keys = |t: usize| if t == 9 { 0.0 } else { t as f32 };
        let keys = Rows::new(1, 2, (0..20).map(|i| keys(i / 2)).collect());
        let pools = Pools::of(&keys, &Rows::new(1, 2, vec![1.0; 2]));
        assert_eq!(pools.important, [[3, 4, 5, 6, 7, 8]]);
        // Of equal tokens, 0 and 9, the lower one is the more important.
        assert_eq!(pools.rest, [[0, 1, 2, 9]]);
        let both = Pools::of(&keys, &Rows::new(2, 1, vec![1.0, -4.0]));
        assert_eq!((both.important.len(), both.important[0].len()), (1, 6));
        assert!(both.important[0].contains(&0) && both.important[0].contains(&8));
    }
}
