//! Matrices of lanes: packed and unpacked on the CPU, and the kernels that do so.

use criterion::{Criterion, Throughput};
use half::bf16;
use lacuna::huffman::lane::{
    self, DeviceLane, LaneMatrix, LanePackPlan, LaneShape, LaneUnpackPlan, LaneViewsMut,
    measure_lane, pack_lane, unpack_lane,
};
use lacuna::{Buffer, Queue};

use crate::house::case::{Budget, Case, Problem, Work, poison};

pub(crate) fn cpu(criterion: &mut Criterion) {
    let shape = LaneShape::new(2048, 2048).unwrap();
    let weights = crate::weights(shape.n_weights() as usize);
    let packed = lane::pack(&weights, shape).unwrap();
    let mut output = vec![0; weights.len()];
    let mut bench = criterion.benchmark_group("lane");
    bench.throughput(Throughput::Bytes(2 * weights.len() as u64)).sample_size(10);
    for (name, n_threads) in [("one_thread", 1), ("all_threads", 0)] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        bench.bench_function(format!("pack/bf16/4Mi/{name}"), |b| {
            b.iter(|| pool.install(|| lane::pack(&weights, shape)).unwrap());
        });
        bench.bench_function(format!("unpack/bf16/4Mi/{name}"), |b| {
            b.iter(|| pool.install(|| lane::unpack(&packed.as_raw(), &mut output)));
        });
    }
    bench.finish();
    assert!(output == weights);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    Unpack,
    Measure,
    Pack,
}

/// A kernel, and a matrix.
#[derive(Clone, Copy)]
struct Shape {
    kernel: Kernel,
    n_rows: u64,
    n_columns: u64,
    budget: Budget,
}

struct Matrix {
    kernel: Kernel,
    weights: Vec<u16>,
    packed: LaneMatrix,
    expected: Vec<u8>,
}

impl Case for Shape {
    fn kernel(&self) -> &'static str {
        match self.kernel {
            Kernel::Unpack => "huffman/unpack_lane",
            Kernel::Measure => "huffman/measure_lane",
            Kernel::Pack => "huffman/pack_lane",
        }
    }

    fn shape(&self) -> String {
        format!("{} x {}", self.n_rows, self.n_columns)
    }

    fn is_small(&self) -> bool {
        self.n_rows * self.n_columns <= 1 << 18
    }

    fn budget(&self) -> Budget {
        self.budget
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let shape = LaneShape::new(self.n_rows, self.n_columns).expect("a sound shape");
        let weights = crate::weights(shape.n_weights() as usize);
        let packed = lane::pack(&weights, shape).expect("weights of the shape");
        let expected = match self.kernel {
            Kernel::Unpack => bytemuck::cast_slice(&weights).to_vec(),
            Kernel::Measure => {
                let mut expected = packed.palettes.clone();
                expected.extend(packed.n_escapes().to_le_bytes());
                expected
            }
            Kernel::Pack => planes(&packed),
        };
        Box::new(Matrix { kernel: self.kernel, weights, packed, expected })
    }
}

/// Bytes of all that `pack_lane` writes.
fn planes(matrix: &LaneMatrix) -> Vec<u8> {
    let mut bytes = matrix.low.clone();
    bytes.extend_from_slice(bytemuck::cast_slice(&matrix.high));
    bytes.extend_from_slice(bytemuck::cast_slice(&matrix.headers));
    bytes.extend_from_slice(bytemuck::cast_slice(&matrix.escapes));
    bytes
}

impl Matrix {
    fn place(&self, queue: &Queue, n_between: u64) -> lacuna::Result<Box<dyn Work>> {
        Ok(match self.kernel {
            Kernel::Unpack => Box::new(Unpack::new(self, queue, n_between)?),
            kernel => Box::new(Pack::new(self, queue, n_between, kernel == Kernel::Measure)?),
        })
    }
}

impl Problem for Matrix {
    fn least_bytes(&self) -> u64 {
        let (shape, n_escapes) = (self.packed.shape, self.packed.n_escapes());
        let pack = LanePackPlan::new(shape, shape.n_columns()).expect("a sound plan");
        let unpack = LaneUnpackPlan::new(shape, shape.n_columns()).expect("a sound plan");
        match self.kernel {
            Kernel::Unpack => unpack.least_bytes(n_escapes),
            Kernel::Measure => pack.least_measured_bytes(),
            Kernel::Pack => pack.least_packed_bytes(n_escapes),
        }
    }

    fn expected(&self) -> &[u8] {
        &self.expected
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        self.place(queue, 0)
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let apart = |n_between| self.place(queue, n_between);
        Ok(vec![
            ("of rows further apart".to_owned(), apart(64)?),
            ("of rows at no multiples of 16 bytes".to_owned(), apart(3)?),
        ])
    }
}

struct Unpack {
    plan: LaneUnpackPlan,
    planes: DeviceLane,
    output: Buffer<bf16>,
}

impl Unpack {
    fn new(matrix: &Matrix, queue: &Queue, n_between: u64) -> lacuna::Result<Self> {
        let shape = matrix.packed.shape;
        let plan = LaneUnpackPlan::new(shape, shape.n_columns() + n_between)?;
        Ok(Self {
            plan,
            planes: DeviceLane::upload(queue, &matrix.packed.as_raw())?,
            output: queue.alloc(plan.output_len() as usize)?,
        })
    }
}

impl Work for Unpack {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        unpack_lane(queue, &self.plan, &self.planes.views(), &mut self.output.view_mut())
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.output)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let output = queue.download(&self.output.view())?;
        let n_columns = self.plan.shape().n_columns() as usize;
        let rows = output.chunks(self.plan.output_stride() as usize);
        Ok(rows
            .flat_map(|row| bytemuck::cast_slice::<bf16, u8>(&row[..n_columns]))
            .copied()
            .collect())
    }
}

struct Pack {
    plan: LanePackPlan,
    is_measured: bool,
    weights: Buffer<bf16>,
    workspace: Buffer<u64>,
    palettes: Buffer<u8>,
    n_escapes: Buffer<u64>,
    low: Buffer<u8>,
    high: Buffer<u32>,
    headers: Buffer<u64>,
    escapes: Buffer<u32>,
}

impl Pack {
    /// `is_measured` says that measuring is what is asked for.
    fn new(
        matrix: &Matrix,
        queue: &Queue,
        n_between: u64,
        is_measured: bool,
    ) -> lacuna::Result<Self> {
        let packed = &matrix.packed;
        let shape = packed.shape;
        let plan = LanePackPlan::new(shape, shape.n_columns() + n_between)?;
        let mut weights = vec![bf16::ZERO; plan.weights_len() as usize];
        let rows = weights.chunks_mut(plan.weights_stride() as usize);
        for (row, from) in rows.zip(matrix.weights.chunks(shape.n_columns() as usize)) {
            row[..from.len()].copy_from_slice(bytemuck::cast_slice(from));
        }
        // What the other launch leaves.
        let n_tiles = shape.tiles_per_row() as usize;
        let firsts = packed.headers.iter().map(|header| header & 0xFFFF_FFFF);
        let firsts: Vec<u64> = firsts.step_by(n_tiles).collect();
        let mut measured = vec![0];
        measured.extend(&firsts);
        let headers = packed.headers.iter().enumerate();
        measured.extend(headers.map(|(tile, header)| header - firsts[tile / n_tiles]));
        Ok(Self {
            plan,
            is_measured,
            weights: queue.upload(&weights)?,
            workspace: queue.upload(&if is_measured {
                vec![0; measured.len()]
            } else {
                measured
            })?,
            palettes: queue.upload(&packed.palettes)?,
            n_escapes: queue.alloc(1)?,
            low: queue.alloc(packed.low.len())?,
            high: queue.alloc(packed.high.len())?,
            headers: queue.alloc(packed.headers.len())?,
            escapes: queue.alloc(packed.escapes.len())?,
        })
    }

    fn measure(&mut self, queue: &Queue) -> lacuna::Result<()> {
        measure_lane(
            queue,
            &self.plan,
            &self.weights.view(),
            &mut self.workspace.view_mut(),
            &mut self.palettes.view_mut(),
            &mut self.n_escapes.view_mut(),
        )
    }
}

impl Work for Pack {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        if self.is_measured {
            return self.measure(queue);
        }
        let mut planes = LaneViewsMut {
            palettes: self.palettes.view(),
            low: self.low.view_mut(),
            high: self.high.view_mut(),
            headers: self.headers.view_mut(),
            escapes: self.escapes.view_mut(),
        };
        pack_lane(queue, &self.plan, &self.weights.view(), &self.workspace.view(), &mut planes)
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        if self.is_measured {
            poison(queue, &mut self.palettes)?;
            return poison(queue, &mut self.n_escapes);
        }
        poison(queue, &mut self.low)?;
        poison(queue, &mut self.high)?;
        poison(queue, &mut self.headers)?;
        poison(queue, &mut self.escapes)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        if self.is_measured {
            let mut output = queue.download(&self.palettes.view())?;
            output.extend(queue.download(&self.n_escapes.view())?[0].to_le_bytes());
            return Ok(output);
        }
        Ok(planes(&LaneMatrix {
            shape: *self.plan.shape(),
            palettes: Vec::new(),
            low: queue.download(&self.low.view())?,
            high: queue.download(&self.high.view())?,
            headers: queue.download(&self.headers.view())?,
            escapes: queue.download(&self.escapes.view())?,
        }))
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    let budget =
        Budget { bytes: 1.02, sectors_per_request: 14.0, conflict_ways: 1.0, barriers: 0.0 };
    // Weights are measured twice.
    let measured = Budget { bytes: 2.02, sectors_per_request: 12.5, barriers: 7.2, ..budget };
    let budgets = [(Kernel::Unpack, budget), (Kernel::Measure, measured), (Kernel::Pack, budget)];
    let shapes = [
        (384, 384, budget),
        // Ragged: half of the rows begin within a sector. And rows of which an access has 2 bytes.
        (129, 312, Budget { bytes: 1.15, sectors_per_request: 14.7, ..budget }),
        (129, 301, Budget { bytes: 5.5, sectors_per_request: 17.2, ..budget }),
        // Projections of models of 8 and of 32 billion weights.
        (4096, 4096, budget),
        (4096, 14_336, budget),
        (25_600, 5120, budget),
    ];
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for (kernel, of_kernel) in budgets {
        for (n_rows, n_columns, of_shape) in shapes {
            let budget = Budget {
                bytes: of_kernel.bytes * of_shape.bytes,
                sectors_per_request: of_kernel
                    .sectors_per_request
                    .max(of_shape.sectors_per_request),
                ..of_kernel
            };
            cases.push(Box::new(Shape { kernel, n_rows, n_columns, budget }));
        }
    }
    cases
}
