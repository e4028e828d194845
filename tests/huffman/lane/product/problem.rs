//! Products of matrices of lanes, and what launches make of them.

use half::bf16;
use lacuna::element::Real;
use lacuna::huffman::lane::reference::{ReferenceFactor, gated_product, product};
use lacuna::huffman::lane::{
    self, DeviceLane, Factor, LaneMatrix, LaneShape, ProductPlan, Residual, multiply_lane,
};
use lacuna::mma::Model;
use lacuna::{Buffer, Queue, Result};

use crate::common::{Random, clustered_weights};

/// What is added to a matrix's sums.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Added {
    Nothing,
    Bias,
    Residual,
    BiasAndOutput,
}

/// Matrices, inputs and what is added.
pub(crate) struct Problem<T> {
    pub(crate) matrices: Vec<LaneMatrix>,
    pub(crate) is_gated: bool,
    pub(crate) added: Added,
    pub(crate) n_inputs: usize,
    pub(crate) x: Vec<u16>,
    pub(crate) biases: Vec<Vec<T>>,
    pub(crate) residuals: Vec<Vec<T>>,
    /// Elements between rows beyond their own.
    pub(crate) n_between: u64,
    /// Where it is not left to the plan.
    pub(crate) block_rows: Option<u64>,
}

impl<T: Real> Problem<T> {
    pub(crate) fn new(
        matrices: Vec<LaneMatrix>,
        is_gated: bool,
        added: Added,
        n_inputs: usize,
        seed: u64,
    ) -> Self {
        let mut random = Random(seed);
        let mut numbers =
            |n: usize| -> Vec<T> { (0..n).map(|_| T::from_f32(random.normal())).collect() };
        let biases = matrices.iter().map(|m| numbers(m.shape.n_rows() as usize)).collect();
        let residuals =
            matrices.iter().map(|m| numbers(n_inputs * m.shape.n_rows() as usize)).collect();
        let n_columns = matrices[0].shape.n_columns() as usize;
        let mut random = Random(seed ^ 77);
        let x =
            (0..n_inputs * n_columns).map(|_| bf16::from_f32(random.normal()).to_bits()).collect();
        Self {
            matrices,
            is_gated,
            added,
            n_inputs,
            x,
            biases,
            residuals,
            n_between: 0,
            block_rows: None,
        }
    }

    /// The same in blocks of so many rows.
    pub(crate) fn of_block_rows(self, n_rows: u64) -> Self {
        Self { block_rows: Some(n_rows), ..self }
    }

    pub(crate) fn plan(&self) -> ProductPlan {
        let shapes: Vec<_> = self.matrices.iter().map(|matrix| matrix.shape).collect();
        let n_inputs = self.n_inputs as u64;
        let plan = match self.is_gated {
            true => ProductPlan::gated(shapes[0], shapes[1], n_inputs).unwrap(),
            false => ProductPlan::new(&shapes, n_inputs).unwrap(),
        };
        let plan = self.block_rows.map_or(plan, |n| plan.with_block_rows(n).unwrap());
        let wider = |shape: &LaneShape| shape.n_rows() + self.n_between;
        let strides: Vec<_> = shapes.iter().map(wider).collect();
        plan.with_strides(plan.n_columns() + 8 * self.n_between, &strides, &strides).unwrap()
    }

    fn has_bias(&self) -> bool {
        matches!(self.added, Added::Bias | Added::BiasAndOutput)
    }

    fn has_residual(&self) -> bool {
        matches!(self.added, Added::Residual | Added::BiasAndOutput)
    }

    pub(crate) fn expected(&self, model: Model) -> Vec<Vec<T>> {
        let factor = |idx: usize| ReferenceFactor {
            planes: self.matrices[idx].as_raw(),
            bias: self.has_bias().then_some(&self.biases[idx][..]),
            residual: self.has_residual().then_some(&self.residuals[idx][..]),
        };
        if self.is_gated {
            return vec![gated_product(model, &factor(0), &factor(1), &self.x, self.n_inputs)];
        }
        (0..self.matrices.len())
            .map(|idx| product(model, &factor(idx), &self.x, self.n_inputs))
            .collect()
    }

    /// Rows as they lie, with `between` between them.
    fn lay<U: Copy>(&self, rows: &[U], stride: u64, between: U) -> Vec<U> {
        let mut all = Vec::new();
        for row in rows.chunks(rows.len() / self.n_inputs) {
            all.extend_from_slice(row);
            all.resize(all.len() + stride as usize - row.len(), between);
        }
        let last = stride as usize - rows.len() / self.n_inputs;
        all.truncate(all.len() - last);
        all
    }

    /// What a launch leaves, which must be `expected` and nothing between rows.
    pub(crate) fn run(&self, queue: &Queue) -> Result<Vec<Vec<T>>> {
        let plan = self.plan();
        let x: Vec<bf16> = self.x.iter().map(|bits| bf16::from_bits(*bits)).collect();
        // NaN between the inputs would be seen.
        let x = queue.upload(&self.lay(&x, plan.x_stride(), bf16::NAN)).unwrap();
        let planes: Vec<_> =
            self.matrices.iter().map(|m| DeviceLane::upload(queue, &m.as_raw()).unwrap()).collect();
        let upload = |idx: usize, all: &[Vec<T>]| queue.upload(&all[idx]).unwrap();
        let n = self.matrices.len();
        let biases: Vec<_> = (0..n).map(|idx| upload(idx, &self.biases)).collect();
        let poison = T::from_f32(-77.5);
        let residual_rows =
            |idx: usize| self.lay(&self.residuals[idx], plan.residual_stride(idx), poison);
        let residuals: Vec<_> =
            (0..n).map(|idx| queue.upload(&residual_rows(idx)).unwrap()).collect();
        let mut outputs: Vec<Buffer<T>> = (0..plan.n_outputs())
            .map(|idx| match self.added {
                Added::BiasAndOutput => queue.upload(&residual_rows(idx)).unwrap(),
                _ => queue.upload(&vec![poison; plan.output_len(idx) as usize]).unwrap(),
            })
            .collect();
        let mut views = outputs.iter_mut().map(Buffer::view_mut);
        let mut factors: Vec<_> = (0..n)
            .map(|idx| Factor {
                planes: planes[idx].views(),
                bias: self.has_bias().then(|| biases[idx].view()),
                residual: match self.added {
                    Added::Residual if idx < plan.n_outputs() => {
                        Residual::Of(residuals[idx].view())
                    }
                    Added::BiasAndOutput if idx < plan.n_outputs() => Residual::Output,
                    _ => Residual::None,
                },
                output: views.next(),
            })
            .collect();
        multiply_lane(queue, &plan, &x.view(), &mut factors)?;
        drop(factors);
        let rows = outputs
            .iter()
            .enumerate()
            .map(|(idx, output)| {
                let found = queue.download(&output.view()).unwrap();
                let stride = plan.output_stride(idx) as usize;
                let n_rows = stride - self.n_between as usize;
                let mut rows = Vec::new();
                for row in found.chunks(stride) {
                    rows.extend_from_slice(&row[..n_rows]);
                    let is_left = |e: &T| e.to_f32() == poison.to_f32();
                    assert!(row[n_rows..].iter().all(is_left), "wrote between rows");
                }
                rows
            })
            .collect();
        Ok(rows)
    }
}

pub(crate) fn packed(weights: &[u16], n_rows: u64, n_columns: u64) -> LaneMatrix {
    lane::pack(weights, LaneShape::new(n_rows, n_columns).unwrap()).unwrap()
}

/// As trained weights, with a few escapes in each tile.
pub(crate) fn trained(n_rows: u64, n_columns: u64, seed: u64) -> LaneMatrix {
    let mut weights = clustered_weights((n_rows * n_columns) as usize, seed);
    let mut random = Random(seed);
    for weight in &mut weights {
        if random.next().is_multiple_of(800) {
            *weight = bf16::from_f32(random.normal() * 1e-9).to_bits();
        }
    }
    packed(&weights, n_rows, n_columns)
}
