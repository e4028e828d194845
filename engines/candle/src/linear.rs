//! Linear layers.

use candle_core::{DType, Module, Result, Tensor, bail};

use crate::weights::Matrix;
#[cfg(feature = "cuda")]
use crate::weights::Source;

/// `x · weightᵀ + bias`, of a weight that is expanded when it is used: [`Weights::linear`](crate::Weights::linear).
///
/// # Numerics
/// What `candle_nn::Linear` gives with the uncompressed weight in the type of the input, bit for bit on the CPU. On CUDA,
/// matrices of lanes are multiplied as they lie where inputs are bf16 and few; sums are then in lacuna's order.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Matrix,
    bias: Option<Tensor>,
}

impl Linear {
    pub(crate) fn new(weight: Matrix, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self { weight, bias })
    }

    /// Elements of an input.
    pub fn in_dim(&self) -> usize {
        self.weight.dims[1]
    }

    /// Elements of an output.
    pub fn out_dim(&self) -> usize {
        self.weight.dims[0]
    }

    /// What is added.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }
}

impl Module for Linear {
    /// `[..., in_dim]` to `[..., out_dim]`, of any strides and of no inputs too. The type is the input's, f32, f16 or bf16: as
    /// f16, weights beyond its range are infinite.
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let [out_dim, in_dim] = self.weight.dims;
        let Some((last, before)) = xs.dims().split_last().filter(|(last, _)| **last == in_dim)
        else {
            bail!("input of a linear layer: expected [..., {in_dim}], got {:?}", xs.dims());
        };
        if !xs.dtype().is_float() {
            bail!("input of a linear layer: expected f32, f16 or bf16, got {:?}", xs.dtype());
        }
        let out_dims = [before, &[out_dim]].concat();
        let n_inputs = xs.elem_count() / last;
        if n_inputs == 0 {
            return Tensor::zeros(out_dims, xs.dtype(), xs.device());
        }
        let xs = xs.reshape((n_inputs, in_dim))?;
        #[cfg(feature = "cuda")]
        if let Some(ys) = self.multiply_lane(&xs)? {
            return ys.reshape(out_dims);
        }
        let ys = self.multiply(&xs)?.reshape(out_dims)?;
        match &self.bias {
            Some(bias) => ys.broadcast_add(&bias.to_dtype(ys.dtype())?),
            None => Ok(ys),
        }
    }
}

impl Linear {
    /// Where the matrix is of lanes, and few inputs make that the fastest.
    #[cfg(feature = "cuda")]
    fn multiply_lane(&self, xs: &Tensor) -> Result<Option<Tensor>> {
        let (Source::Coded { group, .. }, Some(groups)) =
            (&self.weight.source, self.weight.weights.groups())
        else {
            return Ok(None);
        };
        let bias = match &self.bias {
            // What is added is of the outputs' type there.
            Some(bias) if bias.dtype() != xs.dtype() => return Ok(None),
            bias => bias.as_ref(),
        };
        groups.multiply(*group, xs, bias)
    }

    fn multiply(&self, xs: &Tensor) -> Result<Tensor> {
        // candle multiplies bf16 on the CPU as f32, of which it makes all of the storage that a view is of: here a group's.
        let dtype = match xs.dtype() {
            DType::BF16 if xs.device().is_cpu() => DType::F32,
            dtype => dtype,
        };
        let ys = self.weight.with(dtype, |weight| xs.to_dtype(dtype)?.matmul(&weight.t()?))?;
        ys.to_dtype(xs.dtype())
    }
}
