//! A model's weights, by the names of its modules.

use std::path::Path;

use candle_core::{DType, Device, Module, Tensor};
use lacuna_candle::Keep;
use serde_json::Value;

use crate::{Error, Result};

/// A checkpoint that models are made of.
pub struct Weights {
    weights: lacuna_candle::Weights,
    config: Value,
}

/// `y = x W^T + b`, f32 in and out: multiplied in f32 on the CPU, and in bf16 on CUDA.
pub struct Linear(Kind);

enum Kind {
    /// As a model without lacuna has it: the type that is multiplied in, and on the CPU so from the beginning.
    Plain {
        weight: Tensor,
        bias: Option<Tensor>,
    },
    Coded {
        linear: lacuna_candle::Linear,
        dtype: DType,
    },
}

/// Rows of tokens, f32.
pub struct Embedding(lacuna_candle::Embedding);

impl Weights {
    /// Opens a checkpoint's folder, of any format.
    ///
    /// # Errors
    /// [`Error::Candle`] for what is wrong with its files, [`Error::Model`] for what is wrong with its configuration.
    pub fn open(folder: &Path, device: &Device) -> Result<Self> {
        // What is expanded on the CPU stays so: a step would expand each matrix again.
        let weights = lacuna_candle::Weights::open(folder, device)?.with_keep(Keep::All)?;
        let no_config = || Error::model(format!("no config.json in {}", folder.display()));
        let config = serde_json::from_str(&weights.config().ok_or_else(no_config)?)
            .map_err(|error| Error::model(error.to_string()))?;
        Ok(Self { weights, config })
    }

    /// `config.json`.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        self.weights.device()
    }

    /// What products of matrices are made in.
    fn dtype(&self) -> DType {
        if self.device().is_cpu() { DType::F32 } else { DType::BF16 }
    }

    /// A linear layer.
    ///
    /// # Errors
    /// [`Error::Candle`] where there is none of this shape.
    pub fn linear(&self, n_in: usize, n_out: usize, name: &str) -> Result<Linear> {
        let dtype = self.dtype();
        let linear = self.weights.linear(n_in, n_out, name)?;
        if self.weights.is_compressed(&format!("{name}.weight")) {
            return Ok(Linear(Kind::Coded { linear, dtype }));
        }
        let weight = self.weights.tensor(&format!("{name}.weight"))?.to_dtype(dtype)?;
        let bias = linear.bias().map(|bias| bias.to_dtype(dtype)).transpose()?;
        Ok(Linear(Kind::Plain { weight, bias }))
    }

    /// Rows of tokens.
    ///
    /// # Errors
    /// [`Error::Candle`] where there are none of this shape.
    pub fn embedding(&self, n_rows: usize, n_out: usize, name: &str) -> Result<Embedding> {
        Ok(Embedding(self.weights.embedding(n_rows, n_out, name)?))
    }

    /// A tensor, in f32.
    ///
    /// # Errors
    /// [`Error::Candle`] where it is not there.
    pub fn plain(&self, name: &str) -> Result<Tensor> {
        Ok(self.weights.tensor(name)?.to_dtype(DType::F32)?)
    }

    /// Waits for the device, and says whether all that was expanded there was sound.
    ///
    /// # Errors
    /// [`Error::Candle`] where it was not.
    pub fn check(&self) -> Result<()> {
        Ok(self.weights.check()?)
    }
}

impl Linear {
    /// Of `[n_tokens, n_in]`.
    ///
    /// # Errors
    /// [`Error::Candle`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = match &self.0 {
            Kind::Plain { weight, bias } => {
                let y = x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?;
                match bias {
                    Some(bias) => y.broadcast_add(bias)?,
                    None => y,
                }
            }
            Kind::Coded { linear, dtype } => linear.forward(&x.to_dtype(*dtype)?)?,
        };
        Ok(y.to_dtype(DType::F32)?)
    }
}

impl Embedding {
    /// Rows of tokens.
    ///
    /// # Errors
    /// [`Error::Candle`].
    pub fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        Ok(self.0.forward(tokens)?.to_dtype(DType::F32)?)
    }
}
