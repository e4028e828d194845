//! The compact format.

mod golden;
mod kernels;
mod law;

use lacuna::huffman::compact::{self, CompactGroup};

/// Compact groups of one matrix.
fn encode(weights: &[u16]) -> CompactGroup {
    compact::encode(&[bytemuck::cast_slice(weights)]).unwrap()
}
