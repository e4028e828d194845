//! Other schemes' tensors: there and back, and what they stand for.

mod hostile;
mod launch;
mod scheme;

use lacuna::element::Real;
use lacuna::quant::import::{
    ImportedPages, Int4PerToken, Int8PerToken, KiviKeys, KiviValues, RowsShape, ZeroForm,
    ZipCacheKeys, ZipCacheValues,
};
use lacuna::quant::{Tail, Tier};

use self::scheme::each_type;
use crate::common::Random;

const CODED: [Tier; 3] = [Tier::T8, Tier::T4, Tier::T2];

fn shape(batch: u64, n_heads: u64, n_tokens: u64, head_dim: u64) -> RowsShape {
    RowsShape { batch, n_heads, n_tokens, head_dim }
}

/// Bit for bit, but for the sign of a zero.
#[track_caller]
fn assert_numbers(pages: &ImportedPages, expected: &[f32]) {
    let found = pages.dequantize().unwrap();
    assert_eq!(found.len(), expected.len());
    let first = found.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!(first, None, "{:?}", first.map(|at| (found[at], expected[at])));
}

#[test]
fn zip_cache_goes_there_and_back() {
    let mut random = Random(2405);
    each_type!(T => {
        for (tier, n_tokens) in CODED.into_iter().zip([64, 150, 1]) {
            let shape = shape(2, 3, n_tokens, 96);
            let (values, expected) = scheme::zip_cache_values::<T>(shape, tier, &mut random);
            let pages = values.import(Tail::Minimums).unwrap();
            assert_numbers(&pages, &expected);
            let back = ZipCacheValues::export(&pages).unwrap();
            assert_eq!(scheme::bits(&back.steps), scheme::bits(&values.steps));
            assert_eq!(scheme::bits(&back.minimums), scheme::bits(&values.minimums));
            assert_eq!(back, values);
            let (keys, expected) = scheme::zip_cache_keys::<T>(shape, tier, &mut random);
            for tail in [Tail::Minimums, Tail::ZeroPoints] {
                let pages = keys.import(tail).unwrap();
                assert_numbers(&pages, &expected);
                let back = ZipCacheKeys::export(&pages).unwrap();
                assert_eq!(scheme::bits(&back.steps), scheme::bits(&keys.steps));
                assert_eq!(scheme::bits(&back.minimums), scheme::bits(&keys.minimums));
                assert_eq!(back, keys);
            }
        }
    });
}

#[test]
fn kivi_goes_there_and_back() {
    let mut random = Random(2402);
    each_type!(T => {
        for tier in CODED {
            for (n_tokens, group) in [(192, 64), (256, 128), (0, 64)] {
                let shape = shape(2, 2, n_tokens, 64);
                let (keys, expected) = scheme::kivi_keys::<T>(shape, tier, group, &mut random);
                for tail in [Tail::Minimums, Tail::ZeroPoints] {
                    let pages = keys.import(tail).unwrap();
                    assert_eq!((pages.span_pages, pages.n_spans()), (group / 64, n_tokens / group));
                    assert_numbers(&pages, &expected);
                    let back = KiviKeys::export(&pages).unwrap();
                    assert_eq!(scheme::bits(&back.scales), scheme::bits(&keys.scales));
                    assert_eq!(scheme::bits(&back.minimums), scheme::bits(&keys.minimums));
                    assert_eq!(back, keys);
                }
            }
            for (n_tokens, group) in [(70, 128), (64, 32), (3, 64)] {
                let shape = shape(2, 2, n_tokens, 128);
                let (values, expected) = scheme::kivi_values::<T>(shape, tier, group, &mut random);
                let pages = values.import(Tail::Minimums).unwrap();
                assert_eq!((pages.rows.n_heads, pages.rows.head_dim), (2 * 128 / group, group));
                let turned = as_groups(shape, group, &expected);
                assert_numbers(&pages, &turned);
                let back = KiviValues::export(&pages, 128).unwrap();
                assert_eq!(scheme::bits(&back.minimums), scheme::bits(&values.minimums));
                assert_eq!(back, values);
            }
        }
    });
}

/// `[batch, n_heads, n_tokens, head_dim]` as `[batch, n_heads * n_groups, n_tokens, group]`.
fn as_groups(shape: RowsShape, group: u64, numbers: &[f32]) -> Vec<f32> {
    let n_groups = (shape.head_dim / group) as usize;
    let rows: Vec<&[f32]> = numbers.chunks(group as usize).collect();
    let mut turned = Vec::new();
    for list in rows.chunks(shape.n_tokens as usize * n_groups) {
        for g in 0..n_groups {
            turned.extend(list.iter().skip(g).step_by(n_groups).copied().flatten());
        }
    }
    turned
}

#[test]
fn integers_of_tokens_go_there_and_back() {
    use lacuna::quant::Part;
    let mut random = Random(8);
    each_type!(T => {
        for (part, n_tokens) in [(Part::Keys, 130), (Part::Values, 64)] {
            let shape = shape(2, 3, n_tokens, 32);
            let (rows, expected) = scheme::int8::<T>(shape, &mut random);
            let pages = rows.import(part, Tail::Minimums).unwrap();
            assert_numbers(&pages, &expected);
            let back = Int8PerToken::export(&pages).unwrap();
            assert_eq!(scheme::bits(&back.scales), scheme::bits(&rows.scales));
            assert_eq!(back, rows);
            for form in [ZeroForm::Signed, ZeroForm::Apart, ZeroForm::InScales] {
                let has_bits = size_of::<T>() == 4;
                if form == ZeroForm::InScales && !has_bits || form == ZeroForm::Apart && has_bits {
                    continue;
                }
                let (rows, expected) = scheme::int4::<T>(shape, form, &mut random);
                let pages = rows.import(part, Tail::Minimums).unwrap();
                assert_numbers(&pages, &expected);
                let back = Int4PerToken::export(&pages, form).unwrap();
                assert_eq!(scheme::bits(&back.scales), scheme::bits(&rows.scales));
                assert_eq!(back, rows);
            }
        }
    });
}

/// Steps that bf16 has, and minimums of whole sixteenths, need no tail of f32.
#[test]
fn what_zero_points_hold_needs_no_minimums() {
    use half::{bf16, f16};
    use lacuna::quant::Part;
    let mut random = Random(16);
    let shape = shape(1, 2, 70, 64);
    let (rows, expected) = scheme::int8::<bf16>(shape, &mut random);
    let pages = rows.import(Part::Keys, Tail::ZeroPoints).unwrap();
    assert_numbers(&pages, &expected);
    let back = Int8PerToken::export(&pages).unwrap();
    assert_eq!(scheme::bits(&back.scales), scheme::bits(&rows.scales));
    assert_eq!(back, rows);
    let (rows, expected) = scheme::int4::<bf16>(shape, ZeroForm::Apart, &mut random);
    let pages = rows.import(Part::Values, Tail::ZeroPoints).unwrap();
    assert_numbers(&pages, &expected);
    assert_eq!(Int4PerToken::export(&pages, ZeroForm::Apart).unwrap(), rows);
    // An eighth, and minimums of -3 to 4 sixteenths of it.
    let (mut values, _) = scheme::kivi_values::<f16>(shape, Tier::T4, 64, &mut random);
    values.scales.to_mut().fill(f16::from_f32(0.125));
    for (i, minimum) in values.minimums.to_mut().iter_mut().enumerate() {
        *minimum = f16::from_f32((i % 8) as f32 / 128.0 - 3.0 / 128.0);
    }
    let pages = values.import(Tail::ZeroPoints).unwrap();
    assert_eq!(
        pages.dequantize().unwrap(),
        values.import(Tail::Minimums).unwrap().dequantize().unwrap()
    );
    let back = KiviValues::export(&pages, 64).unwrap();
    assert_eq!(scheme::bits(&back.minimums), scheme::bits(&values.minimums));
    assert_eq!(back, values);
}

/// The first page by hand: 2-bit values of two heads of 32 channels, whose quarters share bytes.
#[test]
fn zip_cache_by_hand() {
    use half::f16;
    let one = |x: f32| vec![f16::from_f32(x)];
    let mut codes = vec![0; 16];
    // Channels 5, 21, 37 and 53 of 64: two of each head.
    codes[5] = 0b11_10_01_11;
    let mut scales = vec![f16::ONE; 64];
    scales[37] = f16::from_f32(2.0);
    let values = ZipCacheValues {
        shape: shape(1, 2, 1, 32),
        tier: Tier::T2,
        codes: codes.into(),
        steps: one(0.5).into(),
        minimums: one(-0.25).into(),
        channel_scales: scales.into(),
    };
    let pages = values.import(Tail::Minimums).unwrap();
    let found = pages.dequantize().unwrap();
    assert_eq!([found[5], found[21], found[37], found[53]], [1.25, 0.25, 1.5, 1.25]);
    assert_eq!(found[0], -0.25);
    assert_eq!(pages.entries(7).unwrap(), [3 << 30 | 7, 3 << 30 | 8]);
    assert_eq!(pages.pool.len(), 2 * (64 * 32 / 4 + 512));
}

/// f32 steps: the product and the sum are rounded as one, which is nearer to what they stand for.
#[test]
fn a_product_and_a_sum_are_rounded_as_one() {
    let (step, minimum) = (0.1_f32, -0.3_f32);
    let values = KiviValues {
        shape: shape(1, 1, 1, 32),
        tier: Tier::T4,
        group: 32,
        codes: vec![0x3333_3333; 4].into(),
        scales: vec![step].into(),
        minimums: vec![minimum].into(),
    };
    let found = values.import(Tail::Minimums).unwrap().dequantize().unwrap();
    let exact = 3.0 * f64::from(step) + f64::from(minimum);
    assert_eq!(f64::from(found[0]), exact);
    assert_ne!(3.0 * step + minimum, found[0]);
    assert_eq!(f32::from_f32(found[0]), found[0]);
}
