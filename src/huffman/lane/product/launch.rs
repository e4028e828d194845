//! The launch that multiplies.
#![allow(unsafe_code)]

use bytemuck::Zeroable;
use half::bf16;

use super::super::LaneViews;
use super::{MOST_FACTORS, ProductPlan};
use crate::bindings::{HuffmanFactor, HuffmanMultiplyLaneParams};
use crate::buffer::{View, ViewMut};
use crate::element::Real;
use crate::launch::{Arguments, check_aligned, check_same, kernel_params};
use crate::queue::Queue;
use crate::region::Role;
use crate::{Error, Result};

/// The same struct for each kernel: of so many row tiles in a block, and so many inputs.
macro_rules! kernels {
    ($($name:ident, $entry:literal;)*) => {$(
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        struct $name(#[allow(dead_code, reason = "the kernel reads it")] HuffmanMultiplyLaneParams);

        kernel_params!($name, "huffman", $entry);
    )*};
}

kernels! {
    Of1x8, "multiply_lane_1x8";
    Of2x8, "multiply_lane_2x8";
    Of4x8, "multiply_lane_4x8";
    Of4x16, "multiply_lane_4x16";
    Of2x32, "multiply_lane_2x32";
    Of2x64, "multiply_lane_2x64";
}

/// One matrix of a product, what is added to its sums, and where they go.
#[derive(Debug)]
pub struct Factor<'a, T> {
    /// The weights.
    pub planes: LaneViews<'a>,
    /// `[n_rows]`: added to the outputs of every input.
    pub bias: Option<View<'a, T>>,
    /// Added last; none of what is gated, since the gate's is added to the product.
    pub residual: Residual<'a, T>,
    /// `[n_inputs, n_rows]`, with the plan's stride; none of what is gated.
    pub output: Option<ViewMut<'a, T>>,
}

/// What is added to a product's outputs last, as the stream that a transformer's blocks add to.
#[derive(Debug, Clone, Copy)]
pub enum Residual<'a, T> {
    /// Nothing.
    None,
    /// `[n_inputs, n_rows]`, with the plan's stride.
    Of(View<'a, T>),
    /// What is in the output.
    Output,
}

/// A few inputs times matrices of lanes, which are never expanded in memory.
///
/// ```text
/// output[c][r] = sum over k of weight[r][k] * x[c][k] + bias[r] + residual[c][r]
/// output[c][r] = silu(gate[r] . x[c] + bias) * (up[r] . x[c] + bias) + residual[c][r]     (ProductPlan::gated)
/// ```
///
/// A warp reads a chain of a row tile's columns, 12 bits a weight, and expands them to the operands of `mma.m16n8k16` in registers.
///
/// # Shapes
/// `x` is `[n_inputs, n_columns]` with the plan's stride, aligned to 16 bytes; others are those of [`Factor`], of which there are as many as the plan has matrices, in its order.
///
/// # Numerics
/// Bit for bit [`reference::product`](crate::huffman::lane::reference::product) and
/// [`reference::gated_product`](crate::huffman::lane::reference::gated_product) by the model of the queue's tensor cores: sums in f32 in the order that the format says, which depends on the columns alone, so that an input's
/// outputs are the same among others, and rows the same in any merge of matrices; then everything in f32, and one rounding. `silu` is within 3.5 units in the last place of f32. NaN is canonical.
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`] and [`Error::Range`] for sizes and addresses, [`Error::WrongQueue`] and [`Error::WrongStream`] before anything is launched; [`Error::Driver`] where the launch
/// fails.
pub fn multiply_lane<T: Real>(
    queue: &Queue,
    plan: &ProductPlan,
    x: &View<'_, bf16>,
    factors: &mut [Factor<'_, T>],
) -> Result<()> {
    check_same("matrices", plan.n_factors() as u64, factors.len())?;
    check_aligned("address of x", x.address(), 16, "the multiples of 16")?;
    let mut arguments = Arguments::new(queue);
    let mut params = HuffmanMultiplyLaneParams {
        matrices: [HuffmanFactor::zeroed(); MOST_FACTORS],
        x: arguments.input("x", x, plan.x_len())?,
        x_stride: plan.x_stride() as u32,
        n_columns: plan.n_columns() as u32,
        n_inputs: plan.n_inputs() as u32,
        n_matrices: factors.len() as u32,
        is_gated: plan.is_gated().into(),
        output_kind: T::NUMBER,
    };
    for (idx, (factor, target)) in factors.iter_mut().zip(&mut params.matrices).enumerate() {
        *target = HuffmanFactor {
            first_block: plan.first_blocks()[idx],
            ..factor.params(plan, idx, &mut arguments)?
        };
    }
    let grid = plan.grid();
    // SAFETY: the plan's sizes are below the limits of the struct's fields, and the views as long as it says; the kernel clamps what headers say.
    unsafe {
        match plan.kernel() {
            [1, _] => arguments.launch(&grid, &Of1x8(params)),
            [2, 8] => arguments.launch(&grid, &Of2x8(params)),
            [4, 8] => arguments.launch(&grid, &Of4x8(params)),
            [_, 16] => arguments.launch(&grid, &Of4x16(params)),
            [_, 32] => arguments.launch(&grid, &Of2x32(params)),
            _ => arguments.launch(&grid, &Of2x64(params)),
        }
    }
}

impl<T: Real> Factor<'_, T> {
    fn params(
        &mut self,
        plan: &ProductPlan,
        idx: usize,
        arguments: &mut Arguments<'_>,
    ) -> Result<HuffmanFactor> {
        let shape = plan.shape(idx).unwrap_or(&self.planes.shape);
        for (what, expected, got) in [
            ("rows of the planes", shape.n_rows(), self.planes.shape.n_rows()),
            ("columns of the planes", shape.n_columns(), self.planes.shape.n_columns()),
        ] {
            if expected != got {
                return Err(Error::Shape { what, expected, got });
            }
        }
        let planes = self.planes.params(arguments)?;
        let bias = arguments.optional_input("bias", self.bias.as_ref(), shape.n_rows())?;
        let n_outputs = usize::from(idx < plan.n_outputs());
        let is_there = usize::from(self.output.is_some());
        check_same("outputs of a matrix", n_outputs as u64, is_there)?;
        if n_outputs == 0 && !matches!(self.residual, Residual::None) {
            return Err(Error::Shape { what: "residuals of what is gated", expected: 0, got: 1 });
        }
        let is_whole = plan.output_stride(idx) == shape.n_rows();
        let role = match self.residual {
            Residual::Output => Role::InOut,
            _ if is_whole => Role::Output,
            _ => Role::InOut,
        };
        let output = self.output.as_ref();
        let output = arguments.optional_written(role, "output", output, plan.output_len(idx))?;
        let (residual, residual_stride) = match &self.residual {
            Residual::None => (0, 0),
            Residual::Of(view) => {
                let address = arguments.input("residual", view, plan.residual_len(idx))?;
                (address, plan.residual_stride(idx))
            }
            Residual::Output => (output, plan.output_stride(idx)),
        };
        Ok(HuffmanFactor {
            planes,
            bias,
            residual,
            output,
            residual_stride,
            output_stride: plan.output_stride(idx),
            first_block: 0,
            reserved: 0,
        })
    }
}
