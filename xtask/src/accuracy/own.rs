//! Our own format (src/quant/format.md), by the reference that its kernels are equal to.

use lacuna::quant::reference::{Channels, dequantize, quantize};
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
    fn tier_of(&self, pools: &Pools, head: usize, n_tokens: usize) -> Vec<Tier> {
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
            let row = |token: usize| &rows.elements()[rows.offset(token, head)..][..d];
            let mut offsets = vec![0.0_f32; d];
            if part == Part::Keys {
                for token in 0..n_tokens {
                    offsets.iter_mut().zip(row(token)).for_each(|(sum, x)| *sum += x);
                }
                offsets.iter_mut().for_each(|sum| *sum /= n_tokens as f32);
            }
            let mut scales = vec![0.0_f32; d];
            for token in 0..n_tokens {
                for ((sum, x), offset) in scales.iter_mut().zip(row(token)).zip(&offsets) {
                    *sum += (x - offset) * (x - offset);
                }
            }
            for scale in &mut scales {
                *scale = (*scale / n_tokens as f32).sqrt().max(f32::MIN_POSITIVE);
            }
            let channels = Channels { scales: Some(&scales), offsets: Some(&offsets) };
            for (token, tier) in self.tier_of(pools, head, n_tokens).into_iter().enumerate() {
                let y = row(token).iter().zip(&scales).zip(&offsets);
                let y: Vec<f32> = y.map(|((x, scale), offset)| (x - offset) / scale).collect();
                let found = dequantize(&quantize(tier, &y), &channels);
                changed.elements_mut()[rows.offset(token, head)..][..d].copy_from_slice(&found);
            }
        }
        changed
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
