//! Attention in f64, one number after the other.

use half::bf16;
use lacuna::{Queue, View};

use crate::toy::{Cache, Random, Sizes};

/// What the kernels' f32 may be off by, relatively.
const MARGIN: f64 = 1e-5;

pub(crate) fn dot(a: &[bf16], b: &[bf16]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a.to_f32()) * f64::from(b.to_f32())).sum()
}

pub(crate) fn softmax(scores: &[f64]) -> Vec<f64> {
    let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<_> = scores.iter().map(|score| (score - greatest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// The places of the `k` largest, ascending. Which they are must be beyond a rounding.
pub(crate) fn largest(scores: &[f64], k: usize) -> Vec<usize> {
    let mut ranked: Vec<_> = (0..scores.len()).collect();
    ranked.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    if 0 < k && k < ranked.len() {
        let [last, next] = [k - 1, k].map(|i| scores[ranked[i]]);
        assert!(last - next > MARGIN * last.abs(), "another seed: {last} and {next} are too near");
    }
    ranked.truncate(k);
    ranked.sort_unstable();
    ranked
}

/// How many of the largest have `share` of the sum, beyond a rounding.
pub(crate) fn count_of_share(scores: &[f64], share: f64) -> usize {
    let mut ranked = scores.to_vec();
    ranked.sort_by(|a, b| b.total_cmp(a));
    let wanted = share * ranked.iter().sum::<f64>();
    let (mut sum, mut n) = (0.0, 0);
    while sum < wanted && n < ranked.len() {
        sum += ranked[n];
        n += 1;
        assert!((sum - wanted).abs() > MARGIN * wanted, "another seed: {sum} is {wanted}");
    }
    n
}

/// The queries of one request, `[n_q_heads, head_dim]`.
pub(crate) fn query_of<'a>(queries: &'a [bf16], sizes: &Sizes, b: usize, q: usize) -> &'a [bf16] {
    &queries[(b * sizes.n_q_heads + q) * sizes.head_dim..][..sizes.head_dim]
}

/// Products of a query head with the keys of some tokens.
pub(crate) fn products(
    cache: &Cache,
    b: usize,
    q: usize,
    query: &[bf16],
    tokens: &[usize],
) -> Vec<f64> {
    let head = q / (cache.sizes.n_q_heads / cache.sizes.n_heads);
    tokens.iter().map(|t| dot(query, cache.key(b, *t, head))).collect()
}

/// A head's attention to some tokens.
pub(crate) fn attention(
    cache: &Cache,
    query: &[bf16],
    b: usize,
    q: usize,
    tokens: &[usize],
) -> Vec<f64> {
    let Sizes { n_q_heads, n_heads, head_dim: d, .. } = cache.sizes;
    let scale = 1.0 / (d as f64).sqrt();
    let logits: Vec<_> =
        products(cache, b, q, query, tokens).into_iter().map(|product| scale * product).collect();
    let mut output = vec![0.0; d];
    for (t, weight) in tokens.iter().zip(softmax(&logits)) {
        let head = q / (n_q_heads / n_heads);
        let start = cache.layout.locate(&cache.page_table, b as u64, *t as u64, head as u64);
        let values = &cache.values[start.unwrap()..][..d];
        output
            .iter_mut()
            .zip(values)
            .for_each(|(x, value)| *x += weight * f64::from(value.to_f32()));
    }
    output
}

/// Queries of a batch.
pub(crate) fn queries(sizes: &Sizes, random: &mut Random) -> Vec<bf16> {
    random.row(sizes.batch * sizes.n_q_heads * sizes.head_dim)
}

/// The lists of a launch, without what is after their ends, which is -1.
pub(crate) fn lists(
    queue: &Queue,
    (indices, counts): (View<'_, i32>, View<'_, u32>),
) -> Vec<Vec<usize>> {
    let (indices, counts) = (queue.download(&indices).unwrap(), queue.download(&counts).unwrap());
    let stride = indices.len() / counts.len();
    let list = |(i, n): (usize, &u32)| {
        let (list, rest) = indices[i * stride..][..stride].split_at(*n as usize);
        assert!(rest.iter().all(|index| *index == -1), "{rest:?}");
        list.iter().map(|index| usize::try_from(*index).unwrap()).collect()
    };
    counts.iter().enumerate().map(list).collect()
}
