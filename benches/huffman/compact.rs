//! Compact groups: encoded and decoded on the CPU, and the kernels that encode.

use criterion::{Criterion, Throughput};
use half::bf16;
use lacuna::huffman::compact::{
    self, CompactCode, CompactGroup, CompactViewsMut, EncodePlan, count_exponents, pack_codes,
    place_codes, reference, upload_code,
};
use lacuna::simt::Config;
use lacuna::{Buffer, Executor, Queue, ViewMut};

use crate::house::case::{Budget, Case, Problem, Work, poison};

pub(crate) fn cpu(criterion: &mut Criterion) {
    let weights = crate::weights(4 << 20);
    let bytes: &[u8] = bytemuck::cast_slice(&weights);
    let encoded = compact::encode(&[bytes]).unwrap();
    let group = encoded.as_raw("bench").parse().unwrap();
    let mut output = vec![0_u16; weights.len()];
    let mut bench = criterion.benchmark_group("compact");
    bench.throughput(Throughput::Bytes(bytes.len() as u64)).sample_size(10);
    for (name, n_threads) in [("one_thread", 1), ("all_threads", 0)] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        bench.bench_function(format!("encode/bf16/4Mi/{name}"), |b| {
            b.iter(|| pool.install(|| compact::encode(&[bytes])).unwrap());
        });
        bench.bench_function(format!("decode/bf16/4Mi/{name}"), |b| {
            b.iter(|| pool.install(|| compact::decode(&group, &mut output)).unwrap());
        });
    }
    bench.finish();
    assert!(output == weights);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    Count,
    Place,
    Pack,
}

/// A kernel, and so many weights.
#[derive(Clone, Copy)]
struct Shape {
    kernel: Kernel,
    n_weights: usize,
    budget: Budget,
}

struct Group {
    kernel: Kernel,
    plan: EncodePlan,
    weights: Vec<u16>,
    code: CompactCode,
    n_code_bytes: usize,
    expected: Vec<u8>,
}

impl Case for Shape {
    fn kernel(&self) -> &'static str {
        match self.kernel {
            Kernel::Count => "huffman/count_exponents",
            Kernel::Place => "huffman/place_codes",
            Kernel::Pack => "huffman/pack_codes",
        }
    }

    fn shape(&self) -> String {
        match self.n_weights >> 20 {
            0 => format!("{} weights", self.n_weights),
            n_mebi => format!("{n_mebi} Mi weights"),
        }
    }

    fn is_small(&self) -> bool {
        self.n_weights <= 1 << 18
    }

    fn budget(&self) -> Budget {
        self.budget
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let weights = crate::weights(self.n_weights);
        let plan = EncodePlan::new(self.n_weights as u64).expect("a sound plan");
        let histogram = reference::count(&weights);
        let code = CompactCode::new(&histogram).expect("there are weights");
        let n_code_bytes = code.n_bits(&histogram).div_ceil(8) as usize;
        let expected = match self.kernel {
            Kernel::Count => bytemuck::cast_slice(&histogram).to_vec(),
            Kernel::Place => {
                let mut starts = vec![0_u64];
                for part in weights.chunks(compact::PART_WEIGHTS as usize) {
                    starts.push(starts[starts.len() - 1] + code.n_bits(&reference::count(part)));
                }
                bytemuck::cast_slice(&starts).to_vec()
            }
            Kernel::Pack => {
                let group = compact::encode(&[bytemuck::cast_slice(&weights)]).expect("weights");
                tensors(&group)
            }
        };
        Box::new(Group { kernel: self.kernel, plan, weights, code, n_code_bytes, expected })
    }
}

/// Bytes of all that `pack_codes` writes.
fn tensors(group: &CompactGroup) -> Vec<u8> {
    let mut bytes = group.codes.clone();
    bytes.extend_from_slice(&group.sign_mantissa);
    bytes.extend_from_slice(bytemuck::cast_slice(&group.tile_bytes));
    bytes.extend_from_slice(bytemuck::cast_slice(&group.granule_bits));
    bytes
}

impl Problem for Group {
    fn least_bytes(&self) -> u64 {
        let (n_weights, n_parts) = (self.plan.n_elements(), self.plan.n_parts());
        match self.kernel {
            Kernel::Count => 2 * n_weights + 8 * 256,
            Kernel::Place => 1024 * n_parts + 1024 + 8 * (n_parts + 1),
            Kernel::Pack => 2 * n_weights + self.expected.len() as u64,
        }
    }

    fn expected(&self) -> &[u8] {
        &self.expected
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(self, queue, 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let later = Launch::new(self, queue, 8)?;
        Ok(vec![("of weights behind others".to_owned(), Box::new(later))])
    }
}

struct Launch {
    kernel: Kernel,
    plan: EncodePlan,
    /// Weights before the group's.
    n_before: usize,
    weights: Buffer<bf16>,
    workspace: Buffer<u64>,
    counts: Buffer<u64>,
    codes: Buffer<u8>,
    sign_mantissa: Buffer<u8>,
    tile_bytes: Buffer<u32>,
    granule_bits: Buffer<u16>,
}

impl Launch {
    fn new(group: &Group, queue: &Queue, n_before: usize) -> lacuna::Result<Self> {
        let Group { kernel, plan, code, n_code_bytes, .. } = group;
        let all = [&vec![0x3F80; n_before][..], &group.weights].concat();
        let weights = queue.upload(bytemuck::cast_slice::<u16, bf16>(&all))?;
        let mut launch = Self {
            kernel: *kernel,
            plan: *plan,
            n_before,
            weights,
            workspace: queue.alloc(plan.workspace_len() as usize)?,
            counts: queue.alloc(256)?,
            codes: queue.alloc(*n_code_bytes)?,
            sign_mantissa: queue.alloc(plan.n_elements() as usize)?,
            tile_bytes: queue.alloc(plan.tile_bytes_len() as usize)?,
            granule_bits: queue.alloc(plan.granule_bits_len() as usize)?,
        };
        if *kernel != Kernel::Count {
            // What a launch finds there. The executor's counters are of the launch alone.
            let apart = Queue::simt(Config::default());
            let other = match queue.executor() {
                Executor::Cuda { .. } => queue,
                _ => &apart,
            };
            let words =
                fill(other, plan, &all[n_before..], |space| upload_code(other, plan, code, space))?;
            queue.upload_into(&words, &mut launch.workspace.view_mut())?;
        }
        Ok(launch)
    }

    /// Of the workspace, where codes of parts begin: its last words.
    fn starts(&self) -> std::ops::Range<usize> {
        let n_starts = self.plan.n_parts() as usize + 1;
        self.workspace.len() - n_starts..self.workspace.len()
    }
}

/// The words of a workspace in which weights were counted, and codes, that `upload` puts there, were placed.
pub(crate) fn fill(
    queue: &Queue,
    plan: &EncodePlan,
    weights: &[u16],
    upload: impl FnOnce(&mut ViewMut<'_, u64>) -> lacuna::Result<()>,
) -> lacuna::Result<Vec<u64>> {
    let weights = queue.upload(bytemuck::cast_slice::<u16, bf16>(weights))?;
    let mut workspace = queue.alloc::<u64>(plan.workspace_len() as usize)?;
    let mut counts = queue.alloc::<u64>(256)?;
    let mut space = workspace.view_mut();
    count_exponents(queue, plan, &weights.view(), &mut space, &mut counts.view_mut())?;
    upload(&mut space)?;
    place_codes(queue, plan, &mut space)?;
    queue.download(&space.as_view())
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let Self { plan, workspace, n_before, .. } = self;
        let weights = self.weights.view().slice(*n_before..self.weights.len())?;
        let space = &mut workspace.view_mut();
        let mut outputs = CompactViewsMut {
            codes: self.codes.view_mut(),
            sign_mantissa: self.sign_mantissa.view_mut(),
            tile_bytes: self.tile_bytes.view_mut(),
            granule_bits: self.granule_bits.view_mut(),
        };
        match self.kernel {
            Kernel::Count => {
                count_exponents(queue, plan, &weights, space, &mut self.counts.view_mut())
            }
            Kernel::Place => place_codes(queue, plan, space),
            Kernel::Pack => pack_codes(queue, plan, &weights, space, &mut outputs),
        }
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        if self.kernel == Kernel::Place {
            let starts = self.starts();
            let words = vec![0xA5A5_A5A5; starts.len()];
            queue.upload_into(&words, &mut self.workspace.view_mut().slice_mut(starts)?)?;
        }
        poison(queue, &mut self.counts)?;
        poison(queue, &mut self.codes)?;
        poison(queue, &mut self.sign_mantissa)?;
        poison(queue, &mut self.tile_bytes)?;
        poison(queue, &mut self.granule_bits)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        match self.kernel {
            Kernel::Count => {
                Ok(bytemuck::cast_slice(&queue.download(&self.counts.view())?).to_vec())
            }
            Kernel::Place => {
                let starts = self.workspace.view().slice(self.starts())?;
                Ok(bytemuck::cast_slice(&queue.download(&starts)?).to_vec())
            }
            Kernel::Pack => {
                let mut bytes = queue.download(&self.codes.view())?;
                bytes.extend(queue.download(&self.sign_mantissa.view())?);
                let tile_bytes = queue.download(&self.tile_bytes.view())?;
                bytes.extend_from_slice(bytemuck::cast_slice(&tile_bytes));
                let granule_bits = queue.download(&self.granule_bits.view())?;
                bytes.extend_from_slice(bytemuck::cast_slice(&granule_bits));
                Ok(bytes)
            }
        }
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    let budget =
        Budget { bytes: 1.05, sectors_per_request: 9.6, conflict_ways: 1.1, barriers: 5.0 };
    // Of few weights what is the same for all of them counts most: counts of a part, or the table.
    let kernels = [
        (
            Kernel::Count,
            Budget { sectors_per_request: 15.5, barriers: 4.0, ..budget },
            [3.7, 1.1, 1.02],
        ),
        (
            Kernel::Place,
            Budget { sectors_per_request: 7.5, barriers: 3.0, ..budget },
            [1.12, 1.12, 1.14],
        ),
        (Kernel::Pack, budget, [134.0, 1.05, 1.04]),
    ];
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for (kernel, budget, ratios) in kernels {
        let sizes = [1, 30_001, 1 << 18].into_iter().zip(ratios);
        for (n_weights, bytes) in sizes.chain([(16 << 20, 1.1), (256 << 20, 1.1)]) {
            cases.push(Box::new(Shape { kernel, n_weights, budget: Budget { bytes, ..budget } }));
        }
    }
    cases
}
