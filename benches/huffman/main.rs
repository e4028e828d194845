//! DFloat11: encode and decode on the CPU, beside a copy of the same bytes, on one thread and on all; and
//! the kernels that decode, beside the published one and nvCOMP's ANS; matrices of lanes, beside cuBLAS.

mod compact;
mod decode;
mod encode;
mod group;
#[path = "../house/mod.rs"]
mod house;
mod index;
mod indexed;
mod lane;
#[path = "../peers/mod.rs"]
mod peers;
mod product;
mod rows;

use std::process::ExitCode;

use criterion::{Criterion, Throughput};
use half::bf16;
use lacuna::huffman::{self, EncodedGroup};
use rayon::prelude::*;

/// The matrices that the published kernel was measured on: rows of a language model's head.
const PUBLISHED_COLUMNS: [usize; 6] = [2048, 4096, 8192, 16_384, 32_768, 65_536];
const PUBLISHED_ROWS: usize = 4096;
/// Weights of a group for company.
const N_OTHERS: usize = 30_001;
/// Weights of one seed.
const PIECE_WEIGHTS: usize = 1 << 16;

/// Weights with the exponents of trained ones: a normal distribution whose scale varies.
fn weights(n: usize) -> Vec<u16> {
    let mut weights = vec![0; n];
    weights.par_chunks_mut(PIECE_WEIGHTS).enumerate().for_each(|(piece, weights)| {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(piece as u64 + 1);
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 + 0.5) / (1_u32 << 24) as f32
        };
        let normal = |a: f32, b: f32| (-2.0 * a.ln()).sqrt() * (std::f32::consts::TAU * b).cos();
        for weight in weights {
            let scale = (0.35 * normal(uniform(), uniform())).exp();
            *weight = bf16::from_f32(0.02 * scale * normal(uniform(), uniform())).to_bits();
        }
    });
    weights
}

fn cpu() {
    let mut criterion = Criterion::default().configure_from_args();
    let weights = weights(4 << 20);
    let bytes: &[u8] = bytemuck::cast_slice(&weights);
    let encoded = huffman::encode(&[bytes]).unwrap();
    let group = encoded.as_raw("bench").parse().unwrap();
    let mut output = vec![0_u16; weights.len()];
    let pools = [("one_thread", 1), ("all_threads", 0)];

    let mut bench = criterion.benchmark_group("huffman");
    bench.throughput(Throughput::Bytes(bytes.len() as u64)).sample_size(10);
    bench.bench_function("copy/bf16/4Mi", |b| b.iter(|| output.copy_from_slice(&weights)));
    for (name, n_threads) in pools {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        bench.bench_function(format!("encode/bf16/4Mi/{name}"), |b| {
            b.iter(|| pool.install(|| huffman::encode(&[bytes])).unwrap());
        });
        bench.bench_function(format!("decode/bf16/4Mi/{name}"), |b| {
            b.iter(|| pool.install(|| huffman::decode(&group, &mut output)).unwrap());
        });
    }
    bench.finish();
    assert!(output == weights);
    compact::cpu(&mut criterion);
    lane::cpu(&mut criterion);
    criterion.final_summary();
}

/// Where weights come from.
enum Weights {
    Random(usize),
    /// All of a golden file, as one group.
    Golden(&'static str),
}

impl Weights {
    fn make(&self) -> Vec<u16> {
        let file = match self {
            Self::Random(n_weights) => return weights(*n_weights),
            Self::Golden(file) => house::data_folder().join("df11").join(file),
        };
        let bytes = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[8 + header..].as_chunks().0.iter().map(|pair| u16::from_le_bytes(*pair)).collect()
    }

    fn is_small(&self) -> bool {
        match self {
            Self::Random(n_weights) => *n_weights <= 1 << 20,
            Self::Golden(_) => true,
        }
    }
}

const GOLDEN: [(&str, &str); 2] = [
    ("qwen3-4b-slice.bf16.safetensors", "Qwen3-4B slice, 46,096 weights"),
    ("minilm-layer0.bf16.safetensors", "MiniLM layer 0, 1.77 M weights"),
];

fn encode(weights: &[u16]) -> EncodedGroup {
    huffman::encode(&[bytemuck::cast_slice(weights)]).unwrap()
}

fn main() -> ExitCode {
    let cases = [
        decode::cases(),
        indexed::cases(),
        index::cases(),
        rows::cases(),
        compact::cases(),
        encode::cases(),
        lane::cases(),
        product::cases(),
    ];
    house::run("huffman", cases.into_iter().flatten().collect(), cpu)
}
