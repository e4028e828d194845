//! A few inputs times matrices of lanes, beside cuBLAS's products of the expanded ones.

use std::cell::OnceCell;
use std::rc::Rc;

use half::bf16;
use lacuna::huffman::lane::reference::{ReferenceFactor, gated_product, product};
use lacuna::huffman::lane::{
    self, DeviceLane, Factor, LaneMatrix, LaneShape, ProductPlan, RawLane, Residual, TILE_ROWS,
    multiply_lane,
};
use lacuna::mma::Model;
use lacuna::{Buffer, Queue};
use rayon::prelude::*;
use serde_json::json;

use crate::house::case::{Budget, Case, Peer, Problem, Work, poison};
use crate::peers;
use crate::peers::process::Inputs;

/// Matrices that are multiplied in one launch, by so many inputs.
struct Shape {
    /// Of a model.
    name: &'static str,
    n_rows: &'static [u64],
    n_columns: u64,
    n_inputs: u64,
    is_gated: bool,
    /// Where it is not left to the plan.
    block_rows: Option<u64>,
    budget: Budget,
}

impl Shape {
    fn plan(&self, n_inputs: u64) -> ProductPlan {
        let shape = |n_rows: &u64| LaneShape::new(*n_rows, self.n_columns).expect("a sound shape");
        let shapes: Vec<_> = self.n_rows.iter().map(shape).collect();
        let plan = match self.is_gated {
            true => ProductPlan::gated(shapes[0], shapes[1], n_inputs),
            false => ProductPlan::new(&shapes, n_inputs),
        };
        let plan = plan.expect("a sound plan");
        self.block_rows.map_or(plan, |n| plan.with_block_rows(n).expect("rows of a block"))
    }
}

impl Case for Shape {
    fn kernel(&self) -> &'static str {
        self.plan(self.n_inputs).kernel_name()
    }

    fn shape(&self) -> String {
        let rows: Vec<_> = self.n_rows.iter().map(u64::to_string).collect();
        let joined = rows.join(if self.is_gated { " * silu " } else { " + " });
        format!("{}{joined} x {}, {} inputs", self.name, self.n_columns, self.n_inputs)
    }

    fn is_small(&self) -> bool {
        self.name.is_empty()
    }

    fn budget(&self) -> Budget {
        self.budget
    }

    fn unsupported(&self, queue: &Queue) -> Option<String> {
        queue
            .mma_model()
            .is_none()
            .then(|| "no answers of its tensor cores are on record".to_owned())
    }

    fn prepare(&self, queue: &Queue) -> Box<dyn Problem> {
        let model = queue.mma_model().expect("a supported device");
        let mut weights = Vec::new();
        let mut matrices = Vec::new();
        for n_rows in self.n_rows {
            let shape = LaneShape::new(*n_rows, self.n_columns).expect("a sound shape");
            let own = crate::weights(shape.n_weights() as usize);
            matrices.push(lane::pack(&own, shape).expect("weights of the shape"));
            weights.push(own);
        }
        let x: Vec<u16> = crate::weights((self.n_inputs * self.n_columns) as usize)
            .into_iter()
            .map(|bits| bf16::from_f32(50.0 * bf16::from_bits(bits).to_f32()).to_bits())
            .collect();
        let outputs = expect(model, &matrices, &x, self.n_inputs as usize, self.is_gated);
        let expected =
            outputs.iter().flat_map(|rows| bytemuck::cast_slice(rows)).copied().collect();
        Box::new(Matrices {
            plan: self.plan(self.n_inputs),
            weights,
            matrices,
            x,
            expected,
            sizes: json!({
                "n_rows": self.n_rows, "n_columns": self.n_columns, "n_inputs": self.n_inputs,
                "is_gated": self.is_gated,
            }),
        })
    }
}

/// Row tile `i` of a matrix.
fn row_tile<'a>(matrix: &'a LaneMatrix, i: usize) -> RawLane<'a> {
    let n_left = matrix.shape.n_rows() - (TILE_ROWS * i) as u64;
    let n_tiles = matrix.shape.tiles_per_row() as usize;
    let tiles = |len: usize| len * n_tiles * i..len * n_tiles * (i + 1);
    RawLane {
        shape: LaneShape::new(n_left.min(TILE_ROWS as u64), matrix.shape.n_columns())
            .expect("a sound shape"),
        palettes: &matrix.palettes[lane::PALETTE_LEN * i..lane::PALETTE_LEN * (i + 1)],
        low: &matrix.low[tiles(lane::TILE_WEIGHTS)],
        high: &matrix.high[tiles(lane::TILE_WORDS)],
        headers: &matrix.headers[tiles(1)],
        escapes: &matrix.escapes,
    }
}

fn factor(planes: RawLane<'_>) -> ReferenceFactor<'_, bf16> {
    ReferenceFactor { planes, bias: None, residual: None }
}

/// What must come of it, by output, input and row; all threads take row tiles.
fn expect(
    model: Model,
    matrices: &[LaneMatrix],
    x: &[u16],
    n_inputs: usize,
    is_gated: bool,
) -> Vec<Vec<bf16>> {
    let of_matrix = |matrix: &LaneMatrix| -> Vec<bf16> {
        let parts: Vec<Vec<bf16>> = (0..matrix.shape.n_row_tiles() as usize)
            .into_par_iter()
            .map(|i| match is_gated {
                false => product(model, &factor(row_tile(matrix, i)), x, n_inputs),
                true => {
                    let up = factor(row_tile(&matrices[1], i));
                    gated_product(model, &factor(row_tile(matrix, i)), &up, x, n_inputs)
                }
            })
            .collect();
        let of_input = |input| {
            parts.iter().flat_map(move |part| part.chunks(part.len() / n_inputs).nth(input))
        };
        (0..n_inputs).flat_map(of_input).flatten().copied().collect()
    };
    let n_outputs = if is_gated { 1 } else { matrices.len() };
    matrices[..n_outputs].iter().map(of_matrix).collect()
}

struct Matrices {
    plan: ProductPlan,
    weights: Vec<Vec<u16>>,
    matrices: Vec<LaneMatrix>,
    x: Vec<u16>,
    expected: Vec<u8>,
    sizes: serde_json::Value,
}

impl Problem for Matrices {
    fn least_bytes(&self) -> u64 {
        self.plan.least_bytes(self.matrices.iter().map(LaneMatrix::n_bytes).sum(), 2)
    }

    fn expected(&self) -> &[u8] {
        &self.expected
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(self, queue, self.plan)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        // Inputs of zeros behind them, so that another kernel takes as many as these.
        let more = (self.plan.n_inputs() + 8).min(lane::MOST_INPUTS);
        let plan = self.plan.with_inputs(more)?;
        Ok(vec![(format!("among {more} inputs"), Box::new(Launch::new(self, queue, plan)?))])
    }

    fn peers(&self) -> Vec<Box<dyn Peer + '_>> {
        let mut arrays: Vec<&[u8]> = self.weights.iter().map(|w| bytemuck::cast_slice(w)).collect();
        arrays.extend([bytemuck::cast_slice(&self.x), &self.expected]);
        let inputs = Inputs { sizes: self.sizes.clone(), arrays, file: OnceCell::new() };
        vec![Box::new(peers::linear::Linear { inputs: Rc::new(inputs) })]
    }
}

struct Launch {
    plan: ProductPlan,
    planes: Vec<DeviceLane>,
    x: Buffer<bf16>,
    outputs: Vec<Buffer<bf16>>,
    /// Of these the outputs are looked at.
    n_inputs: usize,
}

impl Launch {
    fn new(matrices: &Matrices, queue: &Queue, plan: ProductPlan) -> lacuna::Result<Self> {
        let mut x: Vec<bf16> = bytemuck::cast_slice(&matrices.x).to_vec();
        x.resize(plan.x_len() as usize, bf16::ZERO);
        let upload = |matrix: &LaneMatrix| DeviceLane::upload(queue, &matrix.as_raw());
        let output = |idx| queue.alloc(plan.output_len(idx) as usize);
        Ok(Self {
            plan,
            planes: matrices.matrices.iter().map(upload).collect::<lacuna::Result<_>>()?,
            x: queue.upload(&x)?,
            outputs: (0..plan.n_outputs()).map(output).collect::<lacuna::Result<_>>()?,
            n_inputs: matrices.plan.n_inputs() as usize,
        })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let mut outputs = self.outputs.iter_mut().map(Buffer::view_mut);
        let mut factors: Vec<_> = self
            .planes
            .iter()
            .map(|planes| Factor {
                planes: planes.views(),
                bias: None,
                residual: Residual::None,
                output: outputs.next(),
            })
            .collect();
        multiply_lane(queue, &self.plan, &self.x.view(), &mut factors)
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        self.outputs.iter_mut().try_for_each(|output| poison(queue, output))
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let mut all = Vec::new();
        for (idx, output) in self.outputs.iter().enumerate() {
            let n = self.plan.output_stride(idx) as usize * self.n_inputs;
            let rows = queue.download(&output.view().slice(0..n)?)?;
            all.extend_from_slice(bytemuck::cast_slice(&rows));
        }
        Ok(all)
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    let budget =
        Budget { bytes: 1.5, sectors_per_request: 16.0, conflict_ways: 1.6, barriers: 1.0 };
    let case = |name, n_rows, n_columns, n_inputs, is_gated, bytes| -> Box<dyn Case> {
        let budget = Budget { bytes, ..budget };
        let block_rows = None;
        Box::new(Shape { name, n_rows, n_columns, n_inputs, is_gated, block_rows, budget })
    };
    let wide = |n_rows, n_columns, n_inputs, is_gated, bytes| -> Box<dyn Case> {
        let budget = Budget { bytes, ..budget };
        let (name, block_rows) = ("", Some(64));
        Box::new(Shape { name, n_rows, n_columns, n_inputs, is_gated, block_rows, budget })
    };
    vec![
        case("", &[96], 512, 1, false, 1.2),
        case("", &[64, 16, 33], 768, 3, false, 1.5),
        case("", &[48, 48], 1024, 8, true, 1.5),
        wide(&[64], 8192, 1, false, 1.01),
        wide(&[64, 64], 4096, 2, true, 1.07),
        case("", &[100], 1032, 12, false, 1.5),
        case("", &[72], 640, 30, false, 2.0),
        case("", &[72], 640, 64, false, 2.2),
        case("Llama-3.1-8B q, k, v: ", &[4096, 1024, 1024], 4096, 1, false, 1.1),
        case("Llama-3.1-8B o: ", &[4096], 4096, 1, false, 1.1),
        case("Llama-3.1-8B gate, up: ", &[14_336, 14_336], 4096, 1, true, 1.1),
        case("Llama-3.1-8B down: ", &[4096], 14_336, 1, false, 1.1),
        case("Llama-3.1-8B down: ", &[4096], 14_336, 4, false, 1.1),
        case("Llama-3.1-8B down: ", &[4096], 14_336, 16, false, 1.1),
        case("Llama-3.1-8B down: ", &[4096], 14_336, 32, false, 1.1),
        case("Qwen3-32B gate, up: ", &[25_600, 25_600], 5120, 1, true, 1.1),
        case("Qwen3-32B down: ", &[5120], 25_600, 1, false, 1.1),
        case("Qwen3-32B down: ", &[5120], 25_600, 16, false, 1.1),
        case("Qwen3-32B down: ", &[5120], 25_600, 64, false, 1.1),
    ]
}
