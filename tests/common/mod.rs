//! What the tests of every room share: the executors to run on, and the golden data.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod golden;
mod random;

use std::path::PathBuf;

use lacuna::huffman::{self, RawGroup};
use lacuna::simt::{Checks, Config, Fibres, Schedule};
use lacuna::{Device, Executor, Queue};

pub(crate) use random::Random;

pub(crate) const SCHEDULES: [Schedule; 5] = [
    Schedule::InOrder,
    Schedule::Reverse,
    Schedule::Random,
    Schedule::WarpFirst,
    Schedule::LaneLast,
];

/// The struct of csrc/simt/selftest/params.h.
#[repr(C)]
pub(crate) struct SelfTestParams {
    pub(crate) input: *const u32,
    pub(crate) output: *mut u32,
    pub(crate) state: *mut u32,
    pub(crate) workspace: *mut u32,
    pub(crate) n: u32,
    pub(crate) reserved: u32,
}

/// A queue per executor: the SIMT one always, a GPU where there is one. Under
/// `LACUNA_REQUIRE_GPU=1` a missing GPU fails the test.
pub(crate) fn queues() -> Vec<Queue> {
    queues_with(Checks::ALL)
}

/// The same, for what the executor's checks would refuse and a GPU would not.
pub(crate) fn queues_without_checks() -> Vec<Queue> {
    queues_with(Checks::NONE)
}

/// Another queue of the same executor or device.
pub(crate) fn beside(queue: &Queue) -> Queue {
    match queue.executor() {
        Executor::Cuda { ordinal, .. } => Device::open(ordinal).unwrap().queue().unwrap(),
        _ => {
            let (schedule, checks) = (Schedule::Reverse, Checks::ALL);
            Queue::simt(Config { schedule, checks, ..Config::default() })
        }
    }
}

fn queues_with(checks: Checks) -> Vec<Queue> {
    let config = Config { schedule: Schedule::Random, seed: 1, checks, ..Config::default() };
    let mut queues = vec![Queue::simt(config)];
    match Device::open(0).and_then(|device| device.queue()) {
        Ok(queue) => queues.push(queue),
        Err(error) if std::env::var_os("LACUNA_REQUIRE_GPU").is_some_and(|v| v == "1") => {
            panic!("LACUNA_REQUIRE_GPU=1: {error}")
        }
        Err(error) => eprintln!("skipped on a GPU: {error}"),
    }
    queues
}

/// What a generator of numbers says in this state.
fn word_of(state: u64) -> u32 {
    (state >> 32) as u32
}

/// Every schedule with both kinds of fibres, under all checks.
pub(crate) fn configs() -> impl Iterator<Item = Config> {
    SCHEDULES.into_iter().flat_map(|schedule| {
        [Fibres::Native, Fibres::Portable].map(|fibres| Config {
            schedule,
            fibres,
            checks: Checks::ALL,
            ..Config::default()
        })
    })
}

/// The model of a queue's tensor cores; where none is on record, that is said.
pub(crate) fn model_of(queue: &Queue) -> Option<lacuna::mma::Model> {
    let model = queue.mma_model();
    if model.is_none() {
        eprintln!("skipped on {}: no answers of its tensor cores are on record", queue.executor());
    }
    model
}

/// A golden file: of the folder `LACUNA_DATA`, where the repository is not at hand.
pub(crate) fn data(file: &str) -> PathBuf {
    data_folder().join("df11").join(file)
}

/// Trained weights: a DF11 file of one group, the bf16 file that it was made of, and rows and columns of its matrices.
pub(crate) struct Trained {
    pub(crate) df11: &'static str,
    pub(crate) bf16: &'static str,
    pub(crate) shapes: &'static [[u64; 2]],
}

pub(crate) const GOLDEN: [Trained; 2] = [
    Trained {
        df11: "minilm-layer0.df11.safetensors",
        bf16: "minilm-layer0.bf16.safetensors",
        shapes: &[[384, 384], [384, 384], [384, 384], [384, 384], [1536, 384], [384, 1536]],
    },
    // A piece of a matrix, whose rows it does not end with.
    Trained {
        df11: "qwen3-4b-slice.df11.safetensors",
        bf16: "qwen3-4b-slice.bf16.safetensors",
        shapes: &[[16, 2881]],
    },
];

/// The folders of golden data.
pub(crate) fn data_folder() -> PathBuf {
    let own = [env!("CARGO_MANIFEST_DIR"), "tests", "data"].iter().collect();
    std::env::var_os("LACUNA_DATA").map_or(own, PathBuf::from)
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

/// Weights some of which have exponents as rare as one in 2^22: codes beyond a lookup, or for which 12 bits are a limit.
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

/// Weights of all exponents alike: tiles of more bits than fit on chip.
pub(crate) fn noise(n: usize, seed: u64) -> Vec<u16> {
    let mut random = Random(seed);
    (0..n).map(|_| random.next() as u16).collect()
}

/// So many weights of each kind, from a seed.
pub(crate) const KINDS: [fn(usize, u64) -> Vec<u16>; 3] =
    [clustered_weights, skewed_weights, noise];

/// A group of these tensors, in the order of [`RawGroup`], without splits.
pub(crate) fn raw_of(tensors: &[Vec<u8>; 5]) -> RawGroup<'_> {
    RawGroup {
        name: "damaged",
        encoded_exponent: &tensors[0],
        sign_mantissa: &tensors[1],
        luts: &tensors[2],
        gaps: &tensors[3],
        output_positions: &tensors[4],
        split_positions: &[],
    }
}

/// All tensors of a group but the splits, with some of their bytes overwritten: which tensor, where
/// and by what.
pub(crate) fn damaged(
    raw: &RawGroup<'_>,
    damage: Vec<(usize, proptest::sample::Index, u8)>,
) -> [Vec<u8>; 5] {
    let mut tensors =
        [raw.encoded_exponent, raw.sign_mantissa, raw.luts, raw.gaps, raw.output_positions]
            .map(<[u8]>::to_vec);
    for (tensor, at, value) in damage {
        let at = at.index(tensors[tensor].len());
        tensors[tensor][at] = value;
    }
    tensors
}
