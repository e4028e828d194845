//! A model's matrices in device memory, and how long a token's pass through them takes.

use std::time::{Duration, Instant};

use half::bf16;
use lacuna::huffman::lane::{DeviceLane, Factor, LaneShape, ProductPlan, Residual, multiply_lane};
use lacuna::huffman::{DeviceWeights, encode};
use lacuna::{Buffer, Queue};

use super::cublas::Cublas;
use super::models::{Block, Product};

/// Samples of a measurement, of which the median counts.
const N_SAMPLES: usize = 5;
/// How long a sample is at least.
const SAMPLE: Duration = Duration::from_millis(50);

/// Seconds of a token's pass, by what is launched; `None` where nothing could be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Times {
    /// cuBLAS on bf16.
    pub(super) bf16: Option<f64>,
    /// DF11 expanded, block by block.
    pub(super) expand: f64,
    /// Lanes, as they lie.
    pub(super) lane: f64,
}

/// And bytes that lie in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bytes {
    pub(super) bf16: u64,
    pub(super) df11: u64,
    pub(super) lane: u64,
}

/// Weights as trained ones are: normal, with a standard deviation of 0.02.
pub(super) fn normal_weights(n: usize) -> Vec<bf16> {
    let mut state = 9_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
        ((state >> 40) as f64 + 0.5) / (1_u64 << 24) as f64
    };
    let mut weights = Vec::with_capacity(n + 1);
    while weights.len() < n {
        let (radius, angle) = ((-2.0 * uniform().ln()).sqrt(), std::f64::consts::TAU * uniform());
        weights.extend([angle.cos(), angle.sin()].map(|side| bf16::from_f64(0.02 * radius * side)));
    }
    weights.truncate(n);
    weights
}

/// One block's matrices, in every form.
struct Placed {
    n_times: u64,
    products: Vec<Product>,
    bf16: Buffer<bf16>,
    df11: DeviceWeights<'static>,
    df11_bytes: u64,
    workspace: Buffer<u64>,
    lanes: Vec<DeviceLane>,
    /// One for each matrix, of all inputs.
    outputs: Vec<Buffer<bf16>>,
}

impl Placed {
    fn new(queue: &Queue, block: &Block, n_inputs: u64, base: &[bf16]) -> lacuna::Result<Self> {
        let n_weights = block.n_weights() as usize;
        let weights: Vec<bf16> = base.iter().copied().cycle().take(n_weights).collect();
        let bf16 = queue.upload(&weights)?;
        let (mut lanes, mut outputs) = (Vec::new(), Vec::new());
        let (mut matrices, mut first) = (Vec::new(), 0);
        for [n_rows, n_columns] in block.matrices() {
            let end = first + (n_rows * n_columns) as usize;
            let shape = LaneShape::new(n_rows, n_columns)?;
            let view = bf16.view().slice(first..end)?;
            lanes.push(DeviceLane::pack(queue, shape, &view, n_columns)?);
            outputs.push(queue.alloc((n_inputs * n_rows) as usize)?);
            matrices.push(bytemuck::cast_slice(&weights[first..end]));
            first = end;
        }
        let group = encode(&matrices)?;
        let group = group.as_raw("block").parse()?;
        let df11_bytes = group.n_bytes();
        let mut df11 = DeviceWeights::upload(queue, [group])?;
        df11.index(queue)?;
        let workspace = queue.alloc(df11.plan().workspace_len() as usize)?;
        let (n_times, products) = (block.n_times, block.products.clone());
        Ok(Self { n_times, products, bf16, df11, df11_bytes, workspace, lanes, outputs })
    }
}

/// All blocks, inputs, and room for what is expanded.
pub(super) struct Bench {
    /// Of each block as many copies as no cache holds.
    blocks: Vec<Vec<Placed>>,
    n_inputs: u64,
    x: Buffer<bf16>,
    expanded: Buffer<bf16>,
    /// What comes of the matrices of a launch as one.
    merged: Buffer<bf16>,
}

impl Bench {
    /// `n_cached` bytes are what a cache of the device might hold.
    pub(super) fn new(
        queue: &Queue,
        blocks: &[Block],
        n_inputs: u64,
        n_cached: u64,
    ) -> lacuna::Result<Self> {
        let most_columns = blocks.iter().flat_map(Block::matrices).map(|[_, n]| n).max();
        let rows = |product: &Product| product.sides.iter().map(|[n, _]| n).sum::<u64>();
        let most_rows = blocks.iter().flat_map(|block| &block.products).map(rows).max();
        let x_len = n_inputs * most_columns.unwrap_or(1);
        let n_weights = blocks.iter().map(Block::n_weights).max().unwrap_or(1) as usize;
        let base = normal_weights(n_weights.min((1 << 22) + 1));
        let placed = blocks
            .iter()
            .map(|block| {
                let n_copies = (4 * n_cached).div_ceil(block.n_weights()).clamp(1, block.n_times);
                (0..n_copies).map(|_| Placed::new(queue, block, n_inputs, &base)).collect()
            })
            .collect::<lacuna::Result<Vec<Vec<_>>>>()?;
        let expanded_len =
            placed.iter().flatten().map(|block| block.df11.plan().output_len()).max().unwrap_or(1);
        Ok(Self {
            n_inputs,
            x: queue.upload(&normal_weights(x_len as usize))?,
            expanded: queue.alloc(expanded_len as usize)?,
            merged: queue.alloc((n_inputs * most_rows.unwrap_or(1)) as usize)?,
            blocks: placed,
        })
    }

    /// Of all that a token passes.
    pub(super) fn bytes(&self) -> Bytes {
        let sum = |of: &dyn Fn(&Placed) -> u64| {
            self.blocks.iter().map(|copies| copies[0].n_times * of(&copies[0])).sum()
        };
        Bytes {
            bf16: sum(&|block| 2 * block.bf16.len() as u64),
            df11: sum(&|block| block.df11_bytes),
            lane: sum(&|block| block.lanes.iter().map(DeviceLane::n_bytes).sum()),
        }
    }

    /// Measures each way; the queue is the device's, `cublas` too.
    pub(super) fn run(&mut self, queue: &Queue, cublas: Option<&Cublas>) -> Result<Times, String> {
        let text = |error: lacuna::Error| error.to_string();
        let wait = || queue.synchronize().map_err(text);
        let lane = time(&mut || self.multiply_lanes(queue).map_err(text), &wait)?;
        let expand = time(&mut || self.expand(queue).map_err(text), &wait)?;
        let bf16 = match cublas {
            None => None,
            Some(cublas) => {
                Some(time(&mut || self.multiply_bf16(cublas), &|| cublas.synchronize())?)
            }
        };
        self.check(queue).map_err(text)?;
        Ok(Times { bf16, expand, lane })
    }

    /// A token's pass: `one` for each block, each time on the next copy.
    fn pass<E>(
        blocks: &mut [Vec<Placed>],
        mut one: impl FnMut(&mut Placed) -> Result<(), E>,
    ) -> Result<(), E> {
        for copies in blocks {
            let n_copies = copies.len();
            for time in 0..copies[0].n_times as usize {
                one(&mut copies[time % n_copies])?;
            }
        }
        Ok(())
    }

    fn multiply_lanes(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let Self { blocks, n_inputs, x, .. } = self;
        Self::pass(blocks, |block| {
            let (mut lanes, mut outputs) = (&block.lanes[..], &mut block.outputs[..]);
            for product in &block.products {
                let (own, other_lanes) = lanes.split_at(product.sides.len());
                let (own_outputs, other_outputs) = outputs.split_at_mut(product.sides.len());
                (lanes, outputs) = (other_lanes, other_outputs);
                let shapes: Vec<_> = own.iter().map(|lane| *lane.shape()).collect();
                let plan = match product.is_gated {
                    true => ProductPlan::gated(shapes[0], shapes[1], *n_inputs)?,
                    false => ProductPlan::new(&shapes, *n_inputs)?,
                };
                let factors = own.iter().zip(own_outputs).enumerate();
                let mut factors: Vec<_> = factors
                    .map(|(idx, (lane, output))| Factor {
                        planes: lane.views(),
                        bias: None,
                        residual: Residual::None,
                        // Of what is gated there is one.
                        output: (idx < plan.n_outputs()).then(|| output.view_mut()),
                    })
                    .collect();
                let x = x.view().slice(0..plan.x_len() as usize)?;
                multiply_lane(queue, &plan, &x, &mut factors)?;
            }
            Ok(())
        })
    }

    fn expand(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let Self { blocks, expanded, .. } = self;
        Self::pass(blocks, |block| {
            let len = block.df11.plan().output_len() as usize;
            let mut output = expanded.view_mut();
            let mut output = output.slice_mut(0..len)?;
            block.df11.decode(queue, &mut block.workspace.view_mut(), &mut output)
        })
    }

    fn multiply_bf16(&mut self, cublas: &Cublas) -> Result<(), String> {
        let Self { blocks, n_inputs, x, merged, .. } = self;
        Self::pass(blocks, |block| {
            let mut first = 0;
            for product in &block.products {
                // Matrices of a launch follow one another: to cuBLAS they are one, as engines merge them.
                let n_rows = product.sides.iter().map(|[n_rows, _]| n_rows).sum();
                let sides = [n_rows, product.sides[0][1]];
                let end = first + (sides[0] * sides[1]) as usize;
                let weights = block.bf16.view().slice(first..end).map_err(|e| e.to_string())?;
                cublas.multiply(&weights, sides, &x.view(), *n_inputs, &merged.view_mut())?;
                first = end;
            }
            Ok(())
        })
    }

    /// Whether what was expanded is what was compressed: else its time means nothing.
    fn check(&self, queue: &Queue) -> lacuna::Result<()> {
        self.blocks
            .iter()
            .flatten()
            .try_for_each(|block| block.df11.check(queue, &block.workspace.view()))
    }
}

/// Seconds of one `run`, of as many as are a sample.
fn time(
    run: &mut dyn FnMut() -> Result<(), String>,
    wait: &dyn Fn() -> Result<(), String>,
) -> Result<f64, String> {
    let mut sample = |n: u32| -> Result<Duration, String> {
        let start = Instant::now();
        for _ in 0..n {
            run()?;
        }
        wait()?;
        Ok(start.elapsed() / n)
    };
    // The first loads kernels.
    sample(1)?;
    let once = sample(1)?.max(Duration::from_nanos(1));
    let n = SAMPLE.div_duration_f64(once).ceil().clamp(1.0, 1000.0) as u32;
    let mut samples = (0..N_SAMPLES).map(|_| sample(n)).collect::<Result<Vec<_>, _>>()?;
    samples.sort_unstable();
    Ok(samples[N_SAMPLES / 2].as_secs_f64())
}

#[cfg(test)]
mod tests {
    use lacuna::simt::Config;

    use super::*;
    use crate::bench::models::Block;

    fn tiny() -> Vec<Block> {
        let product = |is_gated, sides: &[[u64; 2]]| Product { is_gated, sides: sides.to_vec() };
        vec![
            Block {
                n_times: 3,
                products: vec![
                    product(false, &[[64, 128], [32, 128], [32, 128]]),
                    product(false, &[[128, 64]]),
                    product(true, &[[256, 128], [256, 128]]),
                    product(false, &[[128, 256]]),
                ],
            },
            Block { n_times: 1, products: vec![product(false, &[[300, 128]])] },
        ]
    }

    #[test]
    fn a_token_passes_all_matrices_in_every_form() {
        let queue = Queue::simt(Config::default());
        let blocks = tiny();
        let mut bench = Bench::new(&queue, &blocks, 2, 1 << 16).unwrap();
        assert_eq!(bench.blocks[0].len(), 3);
        let n_weights = 3 * blocks[0].n_weights() + blocks[1].n_weights();
        assert_eq!(bench.bytes().bf16, 2 * n_weights);
        let times = bench.run(&queue, None).unwrap();
        assert!(times.lane > 0.0 && times.expand > 0.0 && times.bf16.is_none());
        // The head was the last to be expanded and to be multiplied by.
        let head = &bench.blocks[1][0];
        let expanded = queue.download(&bench.expanded.view()).unwrap();
        let weights = queue.download(&head.bf16.view()).unwrap();
        assert!(expanded[..weights.len()] == weights);
        let x = queue.download(&bench.x.view()).unwrap();
        let output = queue.download(&head.outputs[0].view()).unwrap();
        for (i, r) in [(0, 0), (1, 299)] {
            let terms = weights[128 * r..][..128].iter().zip(&x[128 * i..]);
            let sum: f64 = terms.map(|(weight, x)| weight.to_f64() * x.to_f64()).sum();
            let got = output[300 * i + r].to_f64();
            assert!((got - sum).abs() <= 1e-2 * sum.abs() + 1e-6, "{got}, and {sum} is expected");
        }
    }

    #[test]
    fn weights_are_normal() {
        let weights = normal_weights(100_001);
        assert_eq!(weights.len(), 100_001);
        let n = weights.len() as f64;
        let mean = weights.iter().map(|w| w.to_f64()).sum::<f64>() / n;
        let variance = weights.iter().map(|w| w.to_f64().powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 3e-4, "{mean}");
        assert!((variance.sqrt() - 0.02).abs() < 3e-4, "{variance}");
    }
}
