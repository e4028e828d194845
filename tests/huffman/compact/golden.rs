//! Vectors for a second implementer: groups and their weights.
//!
//! `tests/data/compact/groups.safetensors` has, of each of `example`, `one`, `limited`, `all`, and `ragged`, the six tensors of the
//! format and `.weights`, bf16. `tests/data/df11` has trained weights.

use lacuna::huffman::compact;
use safetensors::tensor::{Dtype, SafeTensors};

use crate::common::golden::{Vectors, assert_golden};
use crate::common::{GOLDEN, bf16_tensors, clustered_weights, data, noise, skewed_weights};

fn vectors() -> Vectors {
    let mut all = Vectors::new();
    let all_alike: Vec<u16> = (0..=u16::MAX).step_by(32).collect();
    for (name, matrices) in [
        ("example", vec![vec![0x3F80, 0x3F80, 0xBFC0, 0x4000, 0x3F80]]),
        ("one", vec![vec![0x3F80; 130]]),
        ("limited", vec![skewed_weights(5000, 3)]),
        ("all", vec![all_alike]),
        ("ragged", vec![clustered_weights(77, 1), noise(300, 2), clustered_weights(4096, 3)]),
    ] {
        let bytes: Vec<&[u8]> =
            matrices.iter().map(|matrix| bytemuck::cast_slice(matrix)).collect();
        let group = compact::encode(&bytes).unwrap();
        let mut put = |of: &str, dtype: Dtype, bytes: &[u8], size: usize| {
            let shape = vec![bytes.len() / size];
            all.insert(format!("{name}.{of}"), (dtype, shape, bytes.to_vec()));
        };
        let raw = group.as_raw(name);
        put("codes", Dtype::U8, raw.codes, 1);
        put("sign_mantissa", Dtype::U8, raw.sign_mantissa, 1);
        put("lengths", Dtype::U8, raw.lengths, 1);
        put("tile_bytes", Dtype::U32, raw.tile_bytes, 4);
        put("granule_bits", Dtype::U16, raw.granule_bits, 2);
        put("split_positions", Dtype::I64, raw.split_positions, 8);
        let mut weights = vec![0_u16; raw.sign_mantissa.len()];
        compact::decode(&raw.parse().unwrap(), &mut weights).unwrap();
        put("weights", Dtype::BF16, bytemuck::cast_slice(&weights), 2);
    }
    all
}

#[test]
fn groups_are_the_golden_ones() {
    assert_golden("compact/groups.safetensors", &vectors());
}

/// The example of the format's specification, bit by bit.
#[test]
fn the_example_is_as_written() {
    let group = super::encode(&[0x3F80, 0x3F80, 0xBFC0, 0x4000, 0x3F80]);
    assert_eq!(group.codes, [0b0001_0000]);
    assert_eq!(group.sign_mantissa, [0, 0, 0xC0, 0, 0]);
    let mut lengths = [0; 128];
    (lengths[63], lengths[64]) = (0x10, 0x01);
    assert_eq!(group.lengths, lengths);
    assert_eq!((&group.tile_bytes[..], &group.granule_bits[..]), (&[0][..], &[0, 5][..]));
}

/// Bits a weight, all tensors counted, of a compact group and of DF11's.
fn bits(bytes: &[u8]) -> [f64; 2] {
    let group = compact::encode(&[bytes]).unwrap();
    let df11 = lacuna::huffman::encode(&[bytes]).unwrap();
    let n_df11_bytes = df11.as_raw("df11").parse().unwrap().n_bytes();
    let n_weights = bytes.len() as f64 / 2.0;
    [
        group.as_raw("compact").parse().unwrap().bits_per_weight(),
        8.0 * n_df11_bytes as f64 / n_weights,
    ]
}

#[test]
fn trained_weights_take_fewer_bits_than_in_df11() {
    for (trained, most) in GOLDEN.iter().zip([10.86, 10.81]) {
        let file = trained.bf16;
        let [found, df11] = bits(&bf16_tensors(file));
        println!("{file}: {found:.4} bits a weight, DF11 {df11:.4}");
        assert!(found <= most && found < df11, "{file}: {found}, {df11}");
        let bytes = std::fs::read(data(file)).unwrap();
        for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let [found, df11] = bits(tensor.data());
            println!("{name} {:?}: {found:.4} bits a weight, DF11 {df11:.4}", tensor.shape());
            // A matrix has tables of its own: of a small one they are more than the index.
            assert!(found < df11, "{name}: {found}, {df11}");
        }
    }
}
