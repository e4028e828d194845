//! Vectors for a second implementer: rows, and the pages of them in each tier.
//!
//! `tests/data/quant/pages.safetensors` has `{keys,values}.{96,128}.rows`, bf16 `[64, d]`; `.scales` and `.offsets`, f32 `[d]`;
//! and, with them and without, `.{8,4,2}` and `.{8,4,2}.plain`, the bytes of their pages.

use std::collections::BTreeMap;
use std::path::PathBuf;

use half::bf16;
use lacuna::quant::reference::Channels;
use lacuna::quant::{Page, PageShape, Part, Tier};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::common::Random;

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/quant/pages.safetensors")
}

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

fn vectors() -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
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

#[test]
fn pages_are_the_golden_ones() {
    let vectors = vectors();
    if std::env::var_os("LACUNA_WRITE_GOLDEN").is_some() {
        let views = vectors.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        std::fs::create_dir_all(path().parent().unwrap()).unwrap();
        std::fs::write(path(), safetensors::serialize(views, None).unwrap()).unwrap();
    }
    let file = std::fs::read(path()).expect("the golden vectors");
    let golden = SafeTensors::deserialize(&file).unwrap();
    assert_eq!(golden.len(), vectors.len());
    for (name, (dtype, shape, bytes)) in &vectors {
        let tensor = golden.tensor(name).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (*dtype, &shape[..]));
        assert!(tensor.data() == bytes, "{name} is not the golden one");
    }
}
