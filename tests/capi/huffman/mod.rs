//! The room `huffman`.

mod encoders;
mod files;
mod groups;
mod lanes;

use lacuna::capi::*;

use crate::c::Struct;
use crate::common::Random;

crate::c::structs! {
    lacuna_df11_group, lacuna_df11_views, lacuna_compact_group, lacuna_indexed_group,
    lacuna_indexed_views, lacuna_index_sizes, lacuna_decode_weights_sizes,
    lacuna_decode_weights_args, lacuna_decode_rows_shape, lacuna_decode_rows_sizes,
    lacuna_decode_rows_args,
}

fn bytes(bytes: &[u8]) -> lacuna_bytes {
    lacuna_bytes { data: bytes.as_ptr().cast(), n_bytes: bytes.len() as u64 }
}

/// Weights as trained ones are, bits of bf16.
fn weights(seed: u64, n: usize) -> Vec<u16> {
    let mut random = Random(seed);
    (0..n).map(|_| half::bf16::from_f32(0.02 * random.normal()).to_bits()).collect()
}

fn encoded(weights: &[u16]) -> lacuna::huffman::EncodedGroup {
    lacuna::huffman::encode(&[bytemuck::cast_slice(weights)]).unwrap()
}

fn df11_group(group: &lacuna::huffman::EncodedGroup) -> lacuna_df11_group {
    lacuna_df11_group {
        name: bytes(b"layers.7"),
        encoded_exponent: bytes(&group.encoded_exponent),
        sign_mantissa: bytes(&group.sign_mantissa),
        luts: bytes(&group.luts),
        gaps: bytes(&group.gaps),
        output_positions: bytes(&group.output_positions),
        split_positions: bytes(&group.split_positions),
        ..lacuna_df11_group::zeroed()
    }
}
