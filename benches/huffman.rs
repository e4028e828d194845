//! DFloat11: encode and decode on the CPU, beside a copy of the same bytes, on one thread and on all; and
//! the decode kernel, beside the published one and nvCOMP's ANS.

#[path = "huffman/compact.rs"]
mod compact;
mod house;
#[path = "huffman/lane.rs"]
mod lane;
mod peers;
#[path = "huffman/product.rs"]
mod product;

use std::process::ExitCode;

use criterion::{Criterion, Throughput};
use half::bf16;
use lacuna::huffman::{self, DeviceWeights, EncodedGroup, RawGroup};
use lacuna::{Buffer, Queue};
use rayon::prelude::*;

use house::case::{Budget, Case, Peer, Problem, Work, poison};

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

/// `decode_bf16` of one group.
struct Decode {
    shape: String,
    weights: Weights,
    budget: Budget,
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
}

/// A group, its weights, and another for company.
struct Group {
    weights: Vec<u16>,
    encoded: EncodedGroup,
    other: EncodedGroup,
}

impl Case for Decode {
    fn kernel(&self) -> &'static str {
        "huffman/decode_bf16"
    }

    fn shape(&self) -> String {
        self.shape.clone()
    }

    fn is_small(&self) -> bool {
        match self.weights {
            Weights::Random(n_weights) => n_weights <= 1 << 18,
            Weights::Golden(_) => true,
        }
    }

    fn budget(&self) -> Budget {
        self.budget
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let encode = |weights: &[u16]| huffman::encode(&[bytemuck::cast_slice(weights)]).unwrap();
        let weights = self.weights.make();
        let encoded = encode(&weights);
        Box::new(Group { weights, encoded, other: encode(&crate::weights(N_OTHERS)) })
    }
}

impl Problem for Group {
    fn least_bytes(&self) -> u64 {
        let group = self.encoded.as_raw("group").parse().unwrap();
        huffman::DecodePlan::new(&[group.shape()]).unwrap().least_bytes()
    }

    fn expected(&self) -> &[u8] {
        bytemuck::cast_slice(&self.weights)
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(queue, &[self.encoded.as_raw("group")], 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let [group, other] = [self.encoded.as_raw("group"), self.other.as_raw("other")];
        let after = Launch::new(queue, &[other, group], 1)?;
        let between = Launch::new(queue, &[other, other, group, other], 2)?;
        Ok(vec![
            ("as the second group of two".to_owned(), Box::new(after)),
            ("as the third group of four".to_owned(), Box::new(between)),
        ])
    }

    fn peers(&self) -> Vec<Box<dyn Peer + '_>> {
        vec![
            Box::new(peers::dfloat11::Published(&self.encoded)),
            Box::new(peers::nvcomp::Ans(self.expected())),
        ]
    }
}

/// A launch over groups, one of which is looked at.
struct Launch {
    weights: DeviceWeights<'static>,
    workspace: Buffer<u64>,
    output: Buffer<bf16>,
    idx: usize,
}

impl Launch {
    fn new(queue: &Queue, groups: &[RawGroup<'_>], idx: usize) -> lacuna::Result<Self> {
        let groups: Vec<_> = groups.iter().map(|raw| raw.parse().unwrap()).collect();
        let weights = DeviceWeights::upload(queue, &groups)?;
        let workspace = queue.alloc(weights.plan().workspace_len() as usize)?;
        let output = queue.alloc(weights.plan().output_len() as usize)?;
        Ok(Self { weights, workspace, output, idx })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let Self { weights, workspace, output, .. } = self;
        weights.decode(queue, &mut workspace.view_mut(), &mut output.view_mut())
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.output)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        self.weights.check(queue, &self.workspace.view())?;
        let range = self.weights.plan().output_range(self.idx).expect("a group of the launch");
        let view = self.output.view().slice(range.start as usize..range.end as usize)?;
        Ok(bytemuck::cast_slice(&queue.download(&view)?).to_vec())
    }
}

fn main() -> ExitCode {
    // Beyond the least: tables and group records that every block reads again, most of all in a group
    // that does not fill one.
    let budget =
        Budget { bytes: 1.28, sectors_per_request: 4.2, conflict_ways: 1.6, barriers: 7.0 };
    let small = [(1, "1", 10.3), (N_OTHERS, "30,001", 1.28), (1 << 18, "256 Ki", 1.25)];
    let small = small.map(|(n_weights, name, bytes)| {
        (Weights::Random(n_weights), format!("{name} weights"), Budget { bytes, ..budget })
    });
    let golden = [
        ("qwen3-4b-slice.bf16.safetensors", "Qwen3-4B slice, 46,096 weights", 1.27),
        ("minilm-layer0.bf16.safetensors", "MiniLM layer 0, 1.77 M weights", 1.28),
    ];
    let golden = golden.map(|(file, shape, bytes)| {
        (Weights::Golden(file), shape.to_owned(), Budget { bytes, ..budget })
    });
    let published = PUBLISHED_COLUMNS.map(|n_columns| {
        let weights = Weights::Random(PUBLISHED_ROWS * n_columns);
        (weights, format!("{PUBLISHED_ROWS} x {n_columns}"), budget)
    });
    let cases = small.into_iter().chain(golden).chain(published);
    let cases =
        cases.map(|(weights, shape, budget)| Box::new(Decode { shape, weights, budget }) as _);
    let cases =
        cases.chain(compact::cases()).chain(lane::cases()).chain(product::cases()).collect();
    house::run("huffman", cases, cpu)
}
