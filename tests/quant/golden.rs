//! Vectors for a second implementer: rows, and the pages of them in each tier.
//!
//! `tests/data/quant/pages.safetensors` has `{keys,values}.{96,128}.rows`, bf16 `[64, d]`; `.scales` and `.offsets`, f32 `[d]`;
//! and, with them and without, `.{8,4,2}` and `.{8,4,2}.plain`, the bytes of their pages.
//!
//! `tests/data/quant/minimums.safetensors` has pages that end with minimums: `{keys.128,values.96}.{8,4,2}.codes`, u8 `[64, d]`;
//! `.steps` and `.minimums`, f32 `[64]`; `.page`, the bytes; and with the `.scales` and `.offsets` of `{keys.128,values.96}`, f32 `[d]`,
//! `.numbers`, f32 `[64, d]`.

use std::collections::BTreeMap;

use half::bf16;
use lacuna::quant::reference::{Channels, MinimumRow};
use lacuna::quant::{Page, PageShape, Part, Tail, Tier};
use safetensors::tensor::Dtype;

use crate::common::Random;
use crate::common::golden::{Vectors, assert_golden};

/// Rows with a few large channels, a few large tokens, one of zeros, one of one number, and what is no number.
fn rows(d: usize, random: &mut Random) -> Vec<bf16> {
    let mut rows = Vec::new();
    for token in 0..64 {
        for channel in 0..d {
            let size = if channel % 37 == 5 { 20.0 } else { 1.0 };
            let size = size * if token % 29 == 3 { 8.0 } else { 1.0 };
            let number = random.normal() * size + if channel % 11 == 0 { 3.0 } else { 0.0 };
            rows.push(bf16::from_f32(match token {
                60 => 0.0,
                61 => -1.625,
                62 if channel == 7 => f32::NAN,
                63 if channel == 9 => f32::INFINITY,
                _ => number,
            }));
        }
    }
    rows
}

fn vectors() -> Vectors {
    let mut random = Random(2405);
    let mut all = BTreeMap::new();
    for (name, part) in [("keys", Part::Keys), ("values", Part::Values)] {
        for d in [96, 128] {
            let shape = PageShape::new(d, part).unwrap();
            let d = d as usize;
            let rows = rows(d, &mut random);
            let scales: Vec<f32> =
                (0..d).map(|_| 0.25 + (random.next() % 1000) as f32 / 250.0).collect();
            let offsets: Vec<f32> = (0..d).map(|_| random.normal()).collect();
            let bytes = |numbers: &[f32]| bytemuck::cast_slice(numbers).to_vec();
            let mut put = |of: &str, dtype, shape: Vec<usize>, bytes: Vec<u8>| {
                all.insert(format!("{name}.{d}.{of}"), (dtype, shape, bytes));
            };
            put("rows", Dtype::BF16, vec![64, d], bytemuck::cast_slice(&rows).to_vec());
            put("scales", Dtype::F32, vec![d], bytes(&scales));
            put("offsets", Dtype::F32, vec![d], bytes(&offsets));
            let channels = Channels { scales: Some(&scales), offsets: Some(&offsets) };
            for tier in [Tier::T8, Tier::T4, Tier::T2] {
                for (plain, channels) in [("", channels), (".plain", Channels::default())] {
                    let page =
                        Page::quantize(shape, tier, rows.chunks(d).map(Some), &channels).unwrap();
                    let n = page.bytes().len();
                    put(
                        &format!("{}{plain}", tier.bits()),
                        Dtype::U8,
                        vec![n],
                        page.bytes().to_vec(),
                    );
                }
            }
        }
    }
    all
}

/// Pages of codes by hand, since they are not quantized here, with steps and minimums of every kind but NaN.
fn vectors_of_minimums() -> Vectors {
    let mut random = Random(2402);
    let mut all = BTreeMap::new();
    for (name, part, d) in [("keys", Part::Keys, 128), ("values", Part::Values, 96)] {
        let shape = PageShape::new(d, part).unwrap().with_tail(Tail::Minimums);
        let d = d as usize;
        let scales: Vec<f32> = (0..d).map(|_| random.normal()).collect();
        let offsets: Vec<f32> = (0..d).map(|_| random.normal()).collect();
        let channels = Channels { scales: Some(&scales), offsets: Some(&offsets) };
        let bytes = |numbers: &[f32]| bytemuck::cast_slice(numbers).to_vec();
        let mut put = |of: &str, dtype, shape: Vec<usize>, bytes: Vec<u8>| {
            all.insert(format!("{name}.{d}.{of}"), (dtype, shape, bytes));
        };
        put("scales", Dtype::F32, vec![d], bytes(&scales));
        put("offsets", Dtype::F32, vec![d], bytes(&offsets));
        for tier in [Tier::T8, Tier::T4, Tier::T2] {
            let bits = tier.bits();
            let n_codes = u64::from(tier.greatest_code().unwrap()) + 1;
            let mut page = Page::zeroed(shape, tier);
            let rows: Vec<MinimumRow> = (0..64)
                .map(|token| MinimumRow {
                    codes: (0..d).map(|_| (random.next() % n_codes) as u8).collect(),
                    step: match token {
                        60 => 0.0,
                        61 => -0.37,
                        62 => 1e-41,
                        63 => 1e37,
                        _ => random.normal().abs() / n_codes as f32,
                    },
                    minimum: if token == 63 { -3e38 } else { random.normal() },
                })
                .collect();
            for (token, row) in rows.iter().enumerate() {
                page.set_minimum_row(token, row);
            }
            let codes = rows.iter().flat_map(|row| row.codes.clone()).collect();
            let steps: Vec<f32> = rows.iter().map(|row| row.step).collect();
            let minimums: Vec<f32> = rows.iter().map(|row| row.minimum).collect();
            let numbers: Vec<f32> =
                (0..64).flat_map(|token| page.dequantize::<bf16>(token, &channels)).collect();
            put(&format!("{bits}.codes"), Dtype::U8, vec![64, d], codes);
            put(&format!("{bits}.steps"), Dtype::F32, vec![64], bytes(&steps));
            put(&format!("{bits}.minimums"), Dtype::F32, vec![64], bytes(&minimums));
            put(&format!("{bits}.numbers"), Dtype::F32, vec![64, d], bytes(&numbers));
            let n = page.bytes().len();
            put(&format!("{bits}.page"), Dtype::U8, vec![n], page.bytes().to_vec());
        }
    }
    all
}

#[test]
fn pages_are_the_golden_ones() {
    assert_golden("quant/pages.safetensors", &vectors());
}

#[test]
fn pages_of_minimums_are_the_golden_ones() {
    assert_golden("quant/minimums.safetensors", &vectors_of_minimums());
}
