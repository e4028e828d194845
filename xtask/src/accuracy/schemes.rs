//! Formats of others, by their released semantics: quantise, then dequantise.
//!
//! Facts alone are taken from the sources that each type names. Scales and minima are rounded as they
//! store them; other arithmetic is f32, where some of them use fp16. Where theirs divides by zero (a
//! group of equal elements), the group's minimum comes back.

use half::f16;

use super::data::{Pools, Rows, Shape};
use super::own::Tiered;
use lacuna::quant::Tier::{T2, T4, T8};

/// A format of keys and values.
pub(crate) trait Scheme: Send + Sync {
    fn name(&self) -> String;

    /// What an element of keys and one of values takes, scales and all else that is stored beside the
    /// codes included.
    fn bits_per_element(&self, shape: Shape) -> [f64; 2];

    /// Keys as they come back.
    fn keys(&self, keys: &Rows, pools: &Pools) -> Rows;

    /// Values as they come back.
    fn values(&self, values: &Rows, pools: &Pools) -> Rows;
}

/// All that are measured, by the bits of their codes.
pub(crate) fn all() -> Vec<Box<dyn Scheme>> {
    vec![
        Box::new(Fp8),
        Box::new(Int8 { truncates: false }),
        Box::new(Int8 { truncates: true }),
        Box::new(Ggml::Q8_0),
        Box::new(Tiered { important: T8, rest: T8 }),
        Box::new(ZipCache { important_bits: 4, rest_bits: 4 }),
        Box::new(Kivi { bits: 4 }),
        Box::new(Int4 { rotates: false }),
        Box::new(Int4 { rotates: true }),
        Box::new(QServe),
        Box::new(Ggml::Q4_0),
        Box::new(Tiered { important: T4, rest: T4 }),
        Box::new(ZipCache { important_bits: 4, rest_bits: 2 }),
        Box::new(Tiered { important: T4, rest: T2 }),
        Box::new(ZipCache { important_bits: 2, rest_bits: 2 }),
        Box::new(Kivi { bits: 2 }),
        Box::new(Tiered { important: T2, rest: T2 }),
    ]
}

/// As fp16 holds it.
fn stored(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

fn range<'a>(elements: impl IntoIterator<Item = &'a f32>) -> (f32, f32) {
    let ends = (f32::INFINITY, f32::NEG_INFINITY);
    elements.into_iter().fold(ends, |(low, high), &x| (low.min(x), high.max(x)))
}

/// `q = rint((x - min) / step)`, `step` and `min` in fp16.
fn through_minimum(group: &mut [f32], bits: u32) {
    let n_steps = ((1_u32 << bits) - 1) as f32;
    let (low, high) = range(&*group);
    let (low, step) = (stored(low), stored((high - low) / n_steps));
    for x in group {
        let q = if step == 0.0 { 0.0 } else { ((*x - low) / step).round_ties_even() };
        *x = q.clamp(0.0, n_steps) * step + low;
    }
}

/// The elements at `places` through `change`, which sees them side by side.
fn change_group(
    rows: &mut Rows,
    places: impl Iterator<Item = usize> + Clone,
    change: impl FnOnce(&mut [f32]),
) {
    let mut group: Vec<f32> = places.clone().map(|place| rows.elements()[place]).collect();
    change(&mut group);
    places.zip(group).for_each(|(place, x)| rows.elements_mut()[place] = x);
}

fn change_blocks(rows: &Rows, length: usize, change: impl Fn(&mut [f32])) -> Rows {
    let mut rows = rows.clone();
    rows.elements_mut().chunks_exact_mut(length).for_each(change);
    rows
}

/// ZipCache (arXiv 2405.14256; ThisisBillhe/ZipCache, zipcache/models/CompressUtils).
///
/// Keys (`mixed_channelwiseQ`): a minimum and a step per channel over all tokens of a pool. Values
/// (`channel_separate_mixed_tokenwiseQ`): `c = sqrt(max |x|)` per channel over all tokens, then a
/// minimum and a step of `x / c` per token, over all heads at once; where pools differ from head to
/// head, the j-th token of each head's pool shares them. All in fp16, ties to even; theirs clips nothing,
/// and a code that the rounding of minimum and step puts outside is clamped here. They keep token
/// numbers of each pool; a bit per token and head is counted here.
struct ZipCache {
    important_bits: u32,
    rest_bits: u32,
}

impl ZipCache {
    fn is_mixed(&self) -> bool {
        self.important_bits != self.rest_bits
    }

    /// Each pool's tokens, by head, and its bits.
    fn pools(&self, pools: &Pools, shape: Shape) -> Vec<(Vec<Vec<usize>>, u32)> {
        if self.is_mixed() {
            let important = (pools.important.clone(), self.important_bits);
            return vec![important, (pools.rest.clone(), self.rest_bits)];
        }
        vec![(vec![(0..shape.n_tokens).collect(); shape.n_heads], self.rest_bits)]
    }
}

impl Scheme for ZipCache {
    fn name(&self) -> String {
        if self.is_mixed() {
            return format!("ZipCache, 60 % {}, 40 % {}", self.important_bits, self.rest_bits);
        }
        format!("ZipCache, {}", self.rest_bits)
    }

    fn bits_per_element(&self, Shape { n_tokens, n_heads, d }: Shape) -> [f64; 2] {
        let (n, d) = (n_tokens as f64, d as f64);
        let share = Pools::n_important(n_tokens) as f64 / n;
        let codes =
            share * f64::from(self.important_bits) + (1.0 - share) * f64::from(self.rest_bits);
        let (n_pools, tags) = if self.is_mixed() { (2.0, 1.0 / d) } else { (1.0, 0.0) };
        let keys = codes + tags + n_pools * 32.0 / n;
        [keys, codes + tags + 16.0 / n + 32.0 / (n_heads as f64 * d)]
    }

    fn keys(&self, keys: &Rows, pools: &Pools) -> Rows {
        let mut changed = keys.clone();
        for (pool, bits) in self.pools(pools, keys.shape()) {
            for (head, tokens) in pool.iter().enumerate() {
                for channel in 0..keys.shape().d {
                    let places = tokens.iter().map(|&token| keys.offset(token, head) + channel);
                    change_group(&mut changed, places, |group| through_minimum(group, bits));
                }
            }
        }
        changed
    }

    fn values(&self, values: &Rows, pools: &Pools) -> Rows {
        let shape = values.shape();
        let width = shape.n_heads * shape.d;
        let mut scales = vec![0.0_f32; width];
        for token in values.elements().chunks_exact(width) {
            scales.iter_mut().zip(token).for_each(|(scale, x)| *scale = scale.max(x.abs()));
        }
        scales.iter_mut().for_each(|scale| *scale = stored(scale.sqrt()));
        let mut changed = values.clone();
        for token in changed.elements_mut().chunks_exact_mut(width) {
            let pairs = token.iter_mut().zip(&scales).filter(|(_, scale)| **scale != 0.0);
            pairs.for_each(|(x, scale)| *x /= scale);
        }
        for (pool, bits) in self.pools(pools, shape) {
            for j in 0..pool[0].len() {
                let places = pool.iter().enumerate().flat_map(|(head, tokens)| {
                    let offset = values.offset(tokens[j], head);
                    offset..offset + shape.d
                });
                change_group(&mut changed, places, |group| through_minimum(group, bits));
            }
        }
        for token in changed.elements_mut().chunks_exact_mut(width) {
            token.iter_mut().zip(&scales).for_each(|(x, scale)| *x *= scale);
        }
        changed
    }
}

/// KIVI (arXiv 2402.02750; jy-yuan/KIVI, quant/new_pack.py).
///
/// A minimum and a step in fp16 for 32 elements: of keys, 32 tokens of a channel; of values, 32
/// channels of a token. Ties to even after a clamp. The newest tokens, which it keeps in fp16, are
/// not modelled: every token is quantised.
struct Kivi {
    bits: u32,
}

const KIVI_GROUP: usize = 32;

impl Scheme for Kivi {
    fn name(&self) -> String {
        format!("KIVI, {}", self.bits)
    }

    fn bits_per_element(&self, _: Shape) -> [f64; 2] {
        [f64::from(self.bits) + 32.0 / KIVI_GROUP as f64; 2]
    }

    fn keys(&self, keys: &Rows, _: &Pools) -> Rows {
        let shape = keys.shape();
        let mut changed = keys.clone();
        for first in (0..shape.n_tokens).step_by(KIVI_GROUP) {
            for column in 0..shape.n_heads * shape.d {
                let tokens = first..shape.n_tokens.min(first + KIVI_GROUP);
                let places = tokens.map(|token| keys.offset(token, 0) + column);
                change_group(&mut changed, places, |group| through_minimum(group, self.bits));
            }
        }
        changed
    }

    fn values(&self, values: &Rows, _: &Pools) -> Rows {
        change_blocks(values, KIVI_GROUP, |group| through_minimum(group, self.bits))
    }
}

/// FP8 E4M3 with a scale of 1, vLLM's where a checkpoint brings none. Ties to even, clamped to 448.
struct Fp8;

impl Scheme for Fp8 {
    fn name(&self) -> String {
        "FP8 E4M3".to_owned()
    }

    fn bits_per_element(&self, _: Shape) -> [f64; 2] {
        [8.0; 2]
    }

    fn keys(&self, keys: &Rows, _: &Pools) -> Rows {
        change_blocks(keys, 1, |element| {
            let x = element[0].clamp(-448.0, 448.0);
            // Three bits below the leading one, and no step below 2^-9.
            let exponent = (x.to_bits() >> 23 & 0xff).max(127 - 6);
            let step = f32::from_bits((exponent - 3) << 23);
            element[0] = (x / step).round_ties_even() * step;
        })
    }

    fn values(&self, values: &Rows, pools: &Pools) -> Rows {
        self.keys(values, pools)
    }
}

/// vLLM's `int8_per_token_head` (vllm/v1/attention/ops/triton_reshape_and_cache_flash.py), and the
/// same with rounding.
///
/// An fp32 scale per token and head, `max(max |x| / 127, 1e-6)`; `x / scale`, clamped, is stored to
/// int8 by Triton's conversion, which drops the fraction.
struct Int8 {
    truncates: bool,
}

impl Scheme for Int8 {
    fn name(&self) -> String {
        let name =
            if self.truncates { "vLLM int8_per_token_head" } else { "int8 per token, rounded" };
        name.to_owned()
    }

    fn bits_per_element(&self, shape: Shape) -> [f64; 2] {
        [8.0 + 32.0 / shape.d as f64; 2]
    }

    fn keys(&self, keys: &Rows, _: &Pools) -> Rows {
        change_blocks(keys, keys.shape().d, |row| {
            let largest = row.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            let scale = (largest / 127.0).max(1e-6);
            for x in row {
                let q = (*x / scale).clamp(-128.0, 127.0);
                *x = scale * if self.truncates { q.trunc() } else { q.round_ties_even() };
            }
        })
    }

    fn values(&self, values: &Rows, pools: &Pools) -> Rows {
        self.keys(values, pools)
    }
}

/// vLLM's `int4_per_token_head` (vllm/v1/attention/ops/int4_per_token_head.py), and the same without
/// its rotation.
///
/// Rows are turned by signs and a Hadamard transform whose norm is `sqrt(d)`, and rounded to bf16. Then
/// per token and head `scale = max((max - min) / 15, 1e-6)` in fp32 and an integer `zero`, the rounded
/// `-min / scale` in 0..=15, which takes the place of the scale's four lowest bits; codes are
/// `x / scale + zero`, halves away from zero, by the inverse of the scale before it loses its bits. The
/// signs here are others than theirs. Turning queries and outputs is exact here, and bf16 there.
struct Int4 {
    rotates: bool,
}

impl Scheme for Int4 {
    fn name(&self) -> String {
        let name =
            if self.rotates { "vLLM int4_per_token_head" } else { "int4 per token, not rotated" };
        name.to_owned()
    }

    fn bits_per_element(&self, shape: Shape) -> [f64; 2] {
        [4.0 + 32.0 / shape.d as f64; 2]
    }

    fn keys(&self, keys: &Rows, _: &Pools) -> Rows {
        let d = keys.shape().d;
        change_blocks(keys, d, |row| {
            if self.rotates {
                flip(row);
                transform(row);
                row.iter_mut().for_each(|x| *x = half::bf16::from_f32(*x).to_f32());
            }
            let (low, high) = range(&*row);
            let scale = ((high - low) / 15.0).max(1e-6);
            let zero = (-low / scale).round().clamp(0.0, 15.0);
            let inverse = 1.0 / scale;
            let kept = f32::from_bits(scale.to_bits() & !15);
            for x in &mut *row {
                *x = kept * ((*x * inverse + zero).round().clamp(0.0, 15.0) - zero);
            }
            if self.rotates {
                transform(row);
                flip(row);
                row.iter_mut().for_each(|x| *x /= d as f32);
            }
        })
    }

    fn values(&self, values: &Rows, pools: &Pools) -> Rows {
        self.keys(values, pools)
    }
}

/// Signs that look random.
fn flip(row: &mut [f32]) {
    const SIGNS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9];
    for (i, x) in row.iter_mut().enumerate() {
        *x = if SIGNS[i / 64 % 2] >> (i % 64) & 1 == 1 { -*x } else { *x };
    }
}

/// Walsh and Hadamard's, not scaled; its own inverse but for a factor of `row.len()`.
fn transform(row: &mut [f32]) {
    let mut half = 1;
    while half < row.len() {
        for pair in row.chunks_exact_mut(2 * half) {
            let (left, right) = pair.split_at_mut(half);
            for (a, b) in left.iter_mut().zip(right) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

/// QServe's KV4 (arXiv 2405.04532; mit-han-lab/qserve, kernels/csrc/fused_attention).
///
/// Per token and head, in fp16: `scale = (max - min) / 15` and `zero = -15 min / (max - min)`. Codes
/// are `x / scale + zero` by the inverse of the stored scale; ties to even is this crate's reading.
/// What comes back is `q * scale + (-scale * zero)`, the product and the sum rounded to fp16.
struct QServe;

impl Scheme for QServe {
    fn name(&self) -> String {
        "QServe KV4".to_owned()
    }

    fn bits_per_element(&self, shape: Shape) -> [f64; 2] {
        [4.0 + 32.0 / shape.d as f64; 2]
    }

    fn keys(&self, keys: &Rows, _: &Pools) -> Rows {
        change_blocks(keys, keys.shape().d, |row| {
            let (low, high) = range(&*row);
            let scale = stored((high - low) / 15.0);
            if scale == 0.0 {
                return row.fill(stored(low));
            }
            let zero = stored(-15.0 * low / (high - low));
            let (inverse, shift) = (1.0 / scale, stored(-scale * zero));
            for x in row {
                let q = (*x * inverse + zero).round_ties_even().clamp(0.0, 15.0);
                *x = f16::from_f64(f64::from(q * scale) + f64::from(shift)).to_f32();
            }
        })
    }

    fn values(&self, values: &Rows, pools: &Pools) -> Rows {
        self.keys(values, pools)
    }
}

/// llama.cpp's blocks of 32 (ggml/src/ggml-quants.c), without the Hadamard transform that newer
/// versions put before them.
///
/// `q8_0`: `scale = max |x| / 127`, halves away from zero. `q4_0`: `scale` is the element of largest
/// magnitude, sign included, over -8; codes are `min(15, floor(x / scale + 8.5))`. Both by the inverse
/// of the scale in fp32; it is stored in fp16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ggml {
    Q8_0,
    Q4_0,
}

const GGML_BLOCK: usize = 32;

impl Scheme for Ggml {
    fn name(&self) -> String {
        let name = if *self == Self::Q8_0 { "llama.cpp q8_0" } else { "llama.cpp q4_0" };
        name.to_owned()
    }

    fn bits_per_element(&self, _: Shape) -> [f64; 2] {
        let bits = if *self == Self::Q8_0 { 8.0 } else { 4.0 };
        [bits + 16.0 / GGML_BLOCK as f64; 2]
    }

    fn keys(&self, keys: &Rows, _: &Pools) -> Rows {
        change_blocks(keys, GGML_BLOCK, |block| {
            let largest = block.iter().fold(0.0_f32, |a, &b| if b.abs() > a.abs() { b } else { a });
            let scale = if *self == Self::Q8_0 { largest.abs() / 127.0 } else { largest / -8.0 };
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            for x in block {
                let q = match self {
                    Self::Q8_0 => (*x * inverse).round(),
                    Self::Q4_0 => (*x * inverse + 8.5).trunc().min(15.0) - 8.0,
                };
                *x = q * stored(scale);
            }
        })
    }

    fn values(&self, values: &Rows, pools: &Pools) -> Rows {
        self.keys(values, pools)
    }
}

#[cfg(test)]
mod tests;
