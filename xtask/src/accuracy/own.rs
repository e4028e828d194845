//! Our own format (src/quant/format.md), by the reference that its kernels are equal to.

use half::bf16;
use lacuna::quant::reference::{Channels, dequantize, normalize, quantize};
use lacuna::quant::{PageShape, Part, Tier};

use super::data::{Pools, Rows, Shape};
use super::schemes::Scheme;

/// Tiered pages: of each head and channel a scale for the whole sequence, the root of its mean square, and of keys their mean;
/// of each token a step and a zero point. Scales by the root of the largest, as ZipCache's values have them, or by the largest, lose to
/// these on synthetic keys: where channels are outliers, 2-bit ones are twice as far off by the root, and where tokens are, 4-bit ones a sixth more by the
/// largest.
pub(crate) struct Tiered {
    pub(crate) important: Tier,
    pub(crate) rest: Tier,
}

impl Tiered {
    /// A head's tokens, and the tier of each.
    pub(crate) fn tier_of(&self, pools: &Pools, head: usize, n_tokens: usize) -> Vec<Tier> {
        let mut tiers = vec![self.rest; n_tokens];
        if self.important != self.rest {
            pools.important[head].iter().for_each(|&token| tiers[token] = self.important);
        }
        tiers
    }

    fn through(&self, rows: &Rows, pools: &Pools, part: Part) -> Rows {
        let Shape { n_tokens, n_heads, d } = rows.shape();
        let mut changed = rows.clone();
        for head in 0..n_heads {
            let numbers = Numbers::of(rows, head, part);
            let channels = numbers.channels();
            for (token, tier) in self.tier_of(pools, head, n_tokens).into_iter().enumerate() {
                let y = normalize(numbers.row(token), &channels);
                let found = dequantize(&quantize(tier, &y), &channels);
                changed.elements_mut()[rows.offset(token, head)..][..d].copy_from_slice(&found);
            }
        }
        changed
    }
}

/// A head's rows, and what its channels are relative to.
pub(crate) struct Numbers {
    elements: Vec<bf16>,
    scales: Vec<f32>,
    offsets: Vec<f32>,
}

impl Numbers {
    pub(crate) fn of(rows: &Rows, head: usize, part: Part) -> Self {
        let Shape { n_tokens, d, .. } = rows.shape();
        let mut offsets = vec![0.0_f32; d];
        if part == Part::Keys {
            for token in 0..n_tokens {
                offsets.iter_mut().zip(rows.row(token, head)).for_each(|(sum, x)| *sum += x);
            }
            offsets.iter_mut().for_each(|sum| *sum /= n_tokens as f32);
        }
        let mut scales = vec![0.0_f32; d];
        for token in 0..n_tokens {
            for ((sum, x), offset) in scales.iter_mut().zip(rows.row(token, head)).zip(&offsets) {
                *sum += (x - offset) * (x - offset);
            }
        }
        for scale in &mut scales {
            *scale = (*scale / n_tokens as f32).sqrt().max(f32::MIN_POSITIVE);
        }
        let elements = (0..n_tokens).flat_map(|token| rows.row(token, head));
        Self { elements: elements.map(|x| bf16::from_f32(*x)).collect(), scales, offsets }
    }

    /// `[n_tokens, d]`.
    pub(crate) fn elements(&self) -> &[bf16] {
        &self.elements
    }

    /// `[n_tokens, 1, d]`.
    pub(crate) fn rows(&self) -> Rows {
        let elements = self.elements.iter().map(|x| x.to_f32());
        Rows::new(1, self.scales.len(), elements.collect())
    }

    pub(crate) fn row(&self, token: usize) -> &[bf16] {
        let d = self.scales.len();
        &self.elements[token * d..][..d]
    }

    pub(crate) fn channels(&self) -> Channels<'_> {
        Channels { scales: Some(&self.scales), offsets: Some(&self.offsets) }
    }
}

impl Scheme for Tiered {
    fn name(&self) -> String {
        let [important, rest] = [self.important, self.rest].map(Tier::bits);
        if important == rest {
            return format!("tiered pages, {rest}");
        }
        format!("tiered pages, 60 % {important}, 40 % {rest}")
    }

    fn bits_per_element(&self, Shape { n_tokens, d, .. }: Shape) -> [f64; 2] {
        let n = n_tokens as f64;
        let share = Pools::n_important(n_tokens) as f64 / n;
        let page = PageShape::new(d as u64, Part::Keys).expect("a head of the format");
        let [important, rest] = [self.important, self.rest].map(|tier| page.bits_per_element(tier));
        // An entry of each page.
        let pages = share * important + (1.0 - share) * rest + 32.0 / (64.0 * d as f64);
        // Scales and offsets of keys, scales of values.
        [pages + 64.0 / n, pages + 32.0 / n]
    }

    fn keys(&self, keys: &Rows, pools: &Pools) -> Rows {
        self.through(keys, pools, Part::Keys)
    }

    fn values(&self, values: &Rows, pools: &Pools) -> Rows {
        self.through(values, pools, Part::Values)
    }
}
