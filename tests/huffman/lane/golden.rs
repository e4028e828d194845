//! Vectors for a second implementer: matrices, their planes and products.
//!
//! `tests/data/lane/matrices.safetensors` has, of each of `one`, `special`, `ragged` and `hostile`, `.weights`, bf16 `[rows, columns]`;
//! `.header`, u8 `[32]`; the planes; `.inputs`, bf16 `[3, columns]`; and `.ampere` and `.hopper`, f32 `[3, rows]`, the products. The planes of the
//! last are no encoding, but read as those weights.

use lacuna::huffman::lane::{self, LaneShape, reference};
use lacuna::mma::Model;
use safetensors::tensor::Dtype;

use super::problem::{SPECIALS, hostile, mixed_weights};
use super::unpack;
use crate::common::Random;
use crate::common::golden::{Vectors, assert_golden};

fn vectors() -> Vectors {
    let mut all = Vectors::new();
    let shape = |n_rows, n_columns| LaneShape::new(n_rows, n_columns).unwrap();
    let specials: Vec<u16> =
        (0..2048).map(|i| SPECIALS[(i * i / 7 + i) % 14] ^ (i as u16 & 0x20)).collect();
    for (name, matrix) in [
        ("one", lane::pack(&[0xBF81], shape(1, 1)).unwrap()),
        ("special", lane::pack(&specials, shape(16, 128)).unwrap()),
        ("ragged", lane::pack(&mixed_weights(17 * 130, 11), shape(17, 130)).unwrap()),
        ("hostile", hostile(shape(5, 140), 900, false, 12)),
    ] {
        let [n_rows, n_columns] =
            [matrix.shape.n_rows(), matrix.shape.n_columns()].map(|n| n as usize);
        let mut put = |of: &str, dtype, shape: &[usize], bytes: &[u8]| {
            all.insert(format!("{name}.{of}"), (dtype, shape.to_vec(), bytes.to_vec()));
        };
        let [n_row_tiles, n_tiles] =
            [matrix.shape.n_row_tiles(), matrix.shape.n_tiles()].map(|n| n as usize);
        put("header", Dtype::U8, &[32], &matrix.shape.header());
        put("palettes", Dtype::U8, &[n_row_tiles, 8], &matrix.palettes);
        put("low", Dtype::U8, &[n_tiles, 2048], &matrix.low);
        put("high", Dtype::U32, &[n_tiles, 256], bytemuck::cast_slice(&matrix.high));
        put("headers", Dtype::U64, &[n_tiles], bytemuck::cast_slice(&matrix.headers));
        put("escapes", Dtype::U32, &[matrix.escapes.len()], bytemuck::cast_slice(&matrix.escapes));
        let weights = unpack(&matrix.as_raw());
        put("weights", Dtype::BF16, &[n_rows, n_columns], bytemuck::cast_slice(&weights));
        let mut random = Random(13);
        let inputs: Vec<u16> =
            (0..3 * n_columns).map(|_| (random.normal().to_bits() >> 16) as u16).collect();
        put("inputs", Dtype::BF16, &[3, n_columns], bytemuck::cast_slice(&inputs));
        for (of, model) in [("ampere", Model::AMPERE), ("hopper", Model::HOPPER)] {
            let y = reference::multiply(model, &matrix.as_raw(), &inputs, 3);
            put(of, Dtype::F32, &[3, n_rows], bytemuck::cast_slice(&y));
        }
    }
    all
}

#[test]
fn matrices_are_the_golden_ones() {
    assert_golden("lane/matrices.safetensors", &vectors());
}
