//! The compact format.

mod golden;
mod kernels;
mod law;

use lacuna::huffman::compact::{self, CompactGroup};

use crate::common::{Random, clustered_weights};

/// Compact groups of one matrix.
fn encode(weights: &[u16]) -> CompactGroup {
    compact::encode(&[bytemuck::cast_slice(weights)]).unwrap()
}

/// Weights some of which are so rare that 12 bits are a limit.
pub(crate) fn skewed_weights(n: usize, seed: u64) -> Vec<u16> {
    let mut random = Random(seed);
    let mut weights = clustered_weights(n, seed);
    for weight in &mut weights {
        if random.next().is_multiple_of(50) {
            *weight = (random.next() % 200) as u16 * 128 + 5;
        }
    }
    weights
}

/// Weights of all exponents alike.
pub(crate) fn noise(n: usize, seed: u64) -> Vec<u16> {
    let mut random = Random(seed);
    (0..n).map(|_| random.next() as u16).collect()
}
