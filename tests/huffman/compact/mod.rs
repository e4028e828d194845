//! The compact format.

mod golden;
mod kernels;
mod law;

use lacuna::huffman::compact::{self, CompactGroup, EncodePlan};

use crate::common::Random;

/// Compact groups of one matrix.
fn encode(weights: &[u16]) -> CompactGroup {
    compact::encode(&[bytemuck::cast_slice(weights)]).unwrap()
}

/// A workspace in which only the words that are zeroed once are what they must be.
pub(crate) fn hostile_workspace(plan: &EncodePlan, seed: u64) -> Vec<u64> {
    let mut random = Random(seed);
    let n_words = plan.workspace_len() as usize;
    let mut words: Vec<u64> = (0..n_words)
        .map(|_| (random.next() << 40) ^ (random.next() << 20) ^ random.next())
        .collect();
    words[..plan.n_zeros() as usize].fill(0);
    if seed.is_multiple_of(2) {
        // Starts near the end of all numbers, and of the room.
        words[n_words - 3..].copy_from_slice(&[u64::MAX - seed, 8 * 4000 - seed, 0]);
    }
    words
}
