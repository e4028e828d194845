//! Tensors of schemes, made of codes and parameters by hand, and what their formulas make of them.

use std::borrow::Cow;

use half::{bf16, f16};
use lacuna::element::Real;
use lacuna::quant::Tier;
use lacuna::quant::import::{
    Int4PerToken, Int8PerToken, KiviKeys, KiviValues, RowsShape, ZeroForm, ZipCacheKeys,
    ZipCacheValues,
};

use crate::common::Random;

/// Codes `[batch, n_heads, n_tokens, head_dim]`.
pub(super) struct Codes {
    shape: RowsShape,
    all: Vec<u8>,
}

impl Codes {
    pub(super) fn new(shape: RowsShape, tier: Tier, random: &mut Random) -> Self {
        let n = shape.batch * shape.n_heads * shape.n_tokens * shape.head_dim;
        let greatest = u64::from(tier.greatest_code().unwrap());
        Self { shape, all: (0..n).map(|_| (random.next() % (greatest + 1)) as u8).collect() }
    }

    fn at(&self, b: u64, h: u64, t: u64, c: u64) -> u8 {
        let RowsShape { n_heads, n_tokens, head_dim, .. } = self.shape;
        self.all[(((b * n_heads + h) * n_tokens + t) * head_dim + c) as usize]
    }

    /// `formula(b, h, t, c, q)` of each, in their order.
    fn each(&self, formula: impl Fn(u64, u64, u64, u64, f32) -> f32) -> Vec<f32> {
        let mut numbers = Vec::new();
        self.visit(|b, h, t, c| numbers.push(formula(b, h, t, c, self.at(b, h, t, c).into())));
        numbers
    }

    fn visit(&self, mut visit: impl FnMut(u64, u64, u64, u64)) {
        let RowsShape { batch, n_heads, n_tokens, head_dim } = self.shape;
        for b in 0..batch {
            for h in 0..n_heads {
                for t in 0..n_tokens {
                    for c in 0..head_dim {
                        visit(b, h, t, c);
                    }
                }
            }
        }
    }

    /// Row by row of `row(b, t)`, all heads of a token beside each other, halves or quarters in one byte.
    fn in_parts(&self, bits: u32) -> Vec<u8> {
        let RowsShape { batch, n_heads, n_tokens, head_dim } = self.shape;
        let mut bytes = Vec::new();
        for b in 0..batch {
            for t in 0..n_tokens {
                let row: Vec<u8> = (0..n_heads)
                    .flat_map(|h| (0..head_dim).map(move |c| (h, c)))
                    .map(|(h, c)| self.at(b, h, t, c))
                    .collect();
                let parts: Vec<&[u8]> = row.chunks(row.len() * bits as usize / 8).collect();
                for j in 0..parts[0].len() {
                    bytes.push(parts.iter().rev().fold(0, |byte, part| {
                        if bits == 8 { part[j] } else { byte << bits | part[j] }
                    }));
                }
            }
        }
        bytes
    }
}

/// Codes in words of 32 bits, the first lowest.
fn words(codes: &[u8], bits: u32) -> Vec<i32> {
    let word = |codes: &[u8]| {
        codes.iter().rev().fold(0_u64, |word, code| word << bits | u64::from(*code)) as u32 as i32
    };
    codes.chunks(32 / bits as usize).map(word).collect()
}

/// Steps and minimums of a type: most of them positive, some not, some 0 and some tiny.
pub(super) fn parameters<T: Real>(n: u64, random: &mut Random) -> Vec<T> {
    let number = |random: &mut Random| match random.next() % 23 {
        0 => 0.0,
        1 => -0.0,
        2 => -random.number().abs(),
        3 => random.number() * 6e-8,
        4 => random.number() * 900.0,
        _ => random.number().abs() / 7.0,
    };
    (0..n).map(|_| T::from_f32(number(random))).collect()
}

/// In f32, each operation rounded; of f32 steps the product and the sum as one, as the module promises.
fn product_and_sum<T: Real>(q: f32, step: T, minimum: T) -> f32 {
    let (step, minimum) = (step.to_f32(), minimum.to_f32());
    if size_of::<T>() == 4 { q.mul_add(step, minimum) } else { q * step + minimum }
}

pub(super) fn zip_cache_values<T: Real>(
    shape: RowsShape,
    tier: Tier,
    random: &mut Random,
) -> (ZipCacheValues<'static, T>, Vec<f32>) {
    let codes = Codes::new(shape, tier, random);
    let n = shape.batch * shape.n_tokens;
    let (steps, minimums) = (parameters::<T>(n, random), parameters::<T>(n, random));
    let scales = parameters::<T>(shape.n_heads * shape.head_dim, random);
    let expected = codes.each(|b, h, t, c, q| {
        let row = (b * shape.n_tokens + t) as usize;
        let scale = scales[(h * shape.head_dim + c) as usize].to_f32();
        product_and_sum(q, steps[row], minimums[row]) * scale
    });
    let codes = codes.in_parts(tier.bits()).into();
    let (steps, minimums, channel_scales) = (steps.into(), minimums.into(), scales.into());
    (ZipCacheValues { shape, tier, codes, steps, minimums, channel_scales }, expected)
}

pub(super) fn zip_cache_keys<T: Real>(
    shape: RowsShape,
    tier: Tier,
    random: &mut Random,
) -> (ZipCacheKeys<'static, T>, Vec<f32>) {
    let codes = Codes::new(shape, tier, random);
    let n = shape.n_heads * shape.head_dim;
    let (steps, minimums) = (parameters::<T>(n, random), parameters::<T>(n, random));
    let expected = codes.each(|_, h, _, c, q| {
        let channel = (h * shape.head_dim + c) as usize;
        product_and_sum(q, steps[channel], minimums[channel])
    });
    let codes = codes.in_parts(tier.bits()).into();
    (ZipCacheKeys { shape, tier, codes, steps: steps.into(), minimums: minimums.into() }, expected)
}

pub(super) fn kivi_keys<T: Real>(
    shape: RowsShape,
    tier: Tier,
    group: u64,
    random: &mut Random,
) -> (KiviKeys<'static, T>, Vec<f32>) {
    let RowsShape { batch, n_heads, n_tokens, head_dim } = shape;
    let codes = Codes::new(shape, tier, random);
    let n_groups = n_tokens / group;
    let n = batch * n_heads * head_dim * n_groups;
    let (scales, minimums) = (parameters::<T>(n, random), parameters::<T>(n, random));
    let expected = codes.each(|b, h, t, c, q| {
        let at = (((b * n_heads + h) * head_dim + c) * n_groups + t / group) as usize;
        product_and_sum(q, scales[at], minimums[at])
    });
    let mut turned = Vec::new();
    for list in 0..batch * n_heads {
        for c in 0..head_dim {
            turned.extend((0..n_tokens).map(|t| codes.at(list / n_heads, list % n_heads, t, c)));
        }
    }
    let (codes, scales, minimums): (Cow<'_, [i32]>, _, _) =
        (words(&turned, tier.bits()).into(), scales.into(), minimums.into());
    (KiviKeys { shape, tier, group, codes, scales, minimums }, expected)
}

pub(super) fn kivi_values<T: Real>(
    shape: RowsShape,
    tier: Tier,
    group: u64,
    random: &mut Random,
) -> (KiviValues<'static, T>, Vec<f32>) {
    let RowsShape { batch, n_heads, n_tokens, head_dim } = shape;
    let codes = Codes::new(shape, tier, random);
    let n = batch * n_heads * n_tokens * head_dim / group;
    let (scales, minimums) = (parameters::<T>(n, random), parameters::<T>(n, random));
    let expected = codes.each(|b, h, t, c, q| {
        let at = ((((b * n_heads + h) * n_tokens + t) * head_dim + c) / group) as usize;
        product_and_sum(q, scales[at], minimums[at])
    });
    let (codes, scales, minimums) =
        (words(&codes.all, tier.bits()).into(), scales.into(), minimums.into());
    (KiviValues { shape, tier, group, codes, scales, minimums }, expected)
}

/// `[batch, n_tokens, n_heads]`.
fn row_of(shape: RowsShape, b: u64, h: u64, t: u64) -> usize {
    ((b * shape.n_tokens + t) * shape.n_heads + h) as usize
}

pub(super) fn int8<T: Real>(
    shape: RowsShape,
    random: &mut Random,
) -> (Int8PerToken<'static, T>, Vec<f32>) {
    let RowsShape { batch, n_heads, n_tokens, head_dim } = shape;
    let codes = Codes::new(shape, Tier::T8, random);
    let scales = parameters::<T>(batch * n_heads * n_tokens, random);
    let expected =
        codes.each(|b, h, t, _, q| (q - 128.0) * scales[row_of(shape, b, h, t)].to_f32());
    let mut signed = vec![0_i8; codes.all.len()];
    codes.visit(|b, h, t, c| {
        let at = row_of(shape, b, h, t) * head_dim as usize + c as usize;
        signed[at] = (i16::from(codes.at(b, h, t, c)) - 128) as i8;
    });
    (Int8PerToken { shape, codes: signed.into(), scales: scales.into() }, expected)
}

pub(super) fn int4<T: Real>(
    shape: RowsShape,
    form: ZeroForm,
    random: &mut Random,
) -> (Int4PerToken<'static, T>, Vec<f32>) {
    let RowsShape { batch, n_heads, n_tokens, head_dim } = shape;
    let codes = Codes::new(shape, Tier::T4, random);
    let n = batch * n_heads * n_tokens;
    let mut scales = parameters::<T>(n, random);
    let mut zeros: Vec<u8> = (0..n).map(|_| (random.next() % 16) as u8).collect();
    for (scale, zero) in scales.iter_mut().zip(&mut zeros) {
        match form {
            ZeroForm::Signed => *zero = 8,
            ZeroForm::Apart if scale.to_f32() == 0.0 => *zero = 0,
            ZeroForm::Apart => {}
            // Of f32 alone.
            ZeroForm::InScales => {
                let kept = scale.to_f32().to_bits() & !15;
                if f32::from_bits(kept) == 0.0 {
                    *zero = 0;
                }
                *scale = T::from_f32(f32::from_bits(kept | u32::from(*zero)));
            }
        }
    }
    let expected = codes.each(|b, h, t, _, q| {
        let at = row_of(shape, b, h, t);
        let mut scale = scales[at].to_f32();
        if form == ZeroForm::InScales {
            scale = f32::from_bits(scale.to_bits() & 0xFFFF_FFF0);
        }
        (q - f32::from(zeros[at])) * scale
    });
    let mut bytes = vec![0_u8; codes.all.len() / 2];
    codes.visit(|b, h, t, c| {
        let at = row_of(shape, b, h, t) * head_dim as usize + c as usize;
        let code = codes.at(b, h, t, c);
        let stored = if form == ZeroForm::Signed { (code as i8 - 8) as u8 & 15 } else { code };
        bytes[at / 2] += if c % 2 == 0 { stored } else { stored * 16 };
    });
    if form != ZeroForm::Apart {
        zeros.clear();
    }
    let (codes, scales, zeros) = (bytes.into(), scales.into(), zeros.into());
    (Int4PerToken { shape, codes, scales, form, zeros }, expected)
}

/// The types that schemes store.
#[derive(Debug, Clone, Copy)]
pub(super) enum Type {
    F16,
    Bf16,
    F32,
}

impl Type {
    pub(super) const ALL: [Self; 3] = [Self::F16, Self::Bf16, Self::F32];
}

/// `$body` with `$T` as each of them.
macro_rules! each_type {
    ($T:ident => $body:expr) => {
        for of in $crate::import::scheme::Type::ALL {
            match of {
                $crate::import::scheme::Type::F16 => {
                    type $T = half::f16;
                    $body
                }
                $crate::import::scheme::Type::Bf16 => {
                    type $T = half::bf16;
                    $body
                }
                $crate::import::scheme::Type::F32 => {
                    type $T = f32;
                    $body
                }
            }
        }
    };
}
pub(super) use each_type;

/// Bits, so that NaN and signs of zeros count.
pub(super) fn bits<T: Real>(all: &[T]) -> Vec<u32> {
    all.iter().map(|x| x.to_f32().to_bits()).collect()
}

/// f16 and bf16 are what they are.
const _: () = assert!(size_of::<f16>() == 2 && size_of::<bf16>() == 2);
