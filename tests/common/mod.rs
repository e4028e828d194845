//! What the tests of every room share: the executors to run on, and the golden data.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::PathBuf;

use lacuna::huffman;
use lacuna::simt::{Config, Schedule};
use lacuna::{Device, Queue};

/// A queue per executor: the SIMT one always, a GPU where there is one. Under
/// `LACUNA_REQUIRE_GPU=1` a missing GPU fails the test.
pub(crate) fn queues() -> Vec<Queue> {
    let mut queues =
        vec![Queue::simt(Config { schedule: Schedule::Random, seed: 1, ..Config::default() })];
    match Device::open(0).and_then(|device| device.queue()) {
        Ok(queue) => queues.push(queue),
        Err(error) if std::env::var_os("LACUNA_REQUIRE_GPU").is_some_and(|v| v == "1") => {
            panic!("LACUNA_REQUIRE_GPU=1: {error}")
        }
        Err(error) => eprintln!("skipped on a GPU: {error}"),
    }
    queues
}

/// A golden file.
pub(crate) fn data(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "data", "df11", file].iter().collect()
}

/// The bytes of all tensors of a golden bf16 file, in file order.
pub(crate) fn bf16_tensors(file: &str) -> Vec<u8> {
    let bytes = std::fs::read(data(file)).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + header..].to_vec()
}

/// Weights as one group.
pub(crate) fn encode(weights: &[u16]) -> huffman::EncodedGroup {
    huffman::encode(&[bytemuck::cast_slice(weights)]).unwrap()
}

/// Weights whose exponents cluster as those of trained weights do, from a seed.
pub(crate) fn clustered_weights(n: usize, seed: u64) -> Vec<u16> {
    let mut state = seed | 1;
    (0..n)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let bits = (state >> 20) as u32;
            // The number of trailing ones is geometric, as exponents below the largest are.
            let exponent = 125 - (bits | 1 << 20).trailing_ones().min(20);
            ((bits >> 16 & 0x80) << 8 | exponent << 7 | (state >> 57) as u32) as u16
        })
        .collect()
}
