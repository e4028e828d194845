//! A model's weights, by the names of its modules.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, safetensors};
use lacuna::huffman::Checkpoint;
use serde_json::Value;

use crate::checkpoint::Format;
use crate::{Error, Result};

/// A checkpoint that models are made of.
pub struct Weights {
    config: Value,
    device: Device,
    tensors: HashMap<String, Tensor>,
}

/// `y = x W^T + b`.
pub struct Linear {
    /// `[n_out, n_in]`.
    weight: Tensor,
    bias: Option<Tensor>,
}

/// Rows of tokens.
pub struct Embedding {
    weight: Tensor,
}

impl Weights {
    /// Opens a checkpoint's folder.
    ///
    /// # Errors
    /// [`Error::Lacuna`] and [`Error::Candle`] for what is wrong with its files, [`Error::Model`] for what is not there.
    pub fn open(folder: &Path, format: Format, device: &Device) -> Result<Self> {
        let path = folder.join("config.json");
        let config = std::fs::read(&path).map_err(Error::io(&path))?;
        let config = serde_json::from_slice(&config)
            .map_err(|error| Error::model(format!("{}: {error}", path.display())))?;
        let tensors = match format {
            Format::Bf16 => safetensors::load(folder.join("model.safetensors"), device)?,
            Format::Df11 | Format::Lane => decoded(&Checkpoint::open(folder)?, device)?,
        };
        Ok(Self { config, device: device.clone(), tensors })
    }

    /// `config.json`.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A linear layer.
    ///
    /// # Errors
    /// [`Error::Model`] where there is none.
    pub fn linear(&self, n_in: usize, n_out: usize, name: &str) -> Result<Linear> {
        let bias = format!("{name}.bias");
        let bias = self.tensors.contains_key(&bias).then(|| self.plain(&bias)).transpose()?;
        let weight = self.plain(&format!("{name}.weight"))?;
        weight.shape().dims2().ok().filter(|dims| *dims == (n_out, n_in));
        Ok(Linear { weight, bias })
    }

    /// Rows of tokens.
    ///
    /// # Errors
    /// [`Error::Model`] where there are none.
    pub fn embedding(&self, _n: usize, _n_out: usize, name: &str) -> Result<Embedding> {
        Ok(Embedding { weight: self.plain(&format!("{name}.weight"))? })
    }

    /// A tensor, in f32.
    ///
    /// # Errors
    /// [`Error::Model`] where it is not there.
    pub fn plain(&self, name: &str) -> Result<Tensor> {
        let tensor = self.tensors.get(name);
        let tensor = tensor.ok_or_else(|| Error::model(format!("no {name} in the checkpoint")))?;
        Ok(tensor.to_dtype(DType::F32)?)
    }
}

fn decoded(checkpoint: &Checkpoint, device: &Device) -> Result<HashMap<String, Tensor>> {
    let mut tensors = HashMap::new();
    for idx in 0..checkpoint.entries().len() {
        let Some(stored) = checkpoint.stored(idx)? else { continue };
        let (weights, _) = checkpoint.decode_checked(idx, &stored)?;
        for (place, range) in stored.matrices().into_iter().enumerate() {
            let name = checkpoint.name_of(idx, place);
            let shape = checkpoint.shape_of(idx, place, &stored);
            let shape = shape.ok_or_else(|| Error::model(format!("no shape of {name}")))?;
            let bits = &weights[range.start as usize..range.end as usize];
            let numbers = bits.iter().map(|bits| half::bf16::from_bits(*bits)).collect();
            tensors.insert(name, Tensor::from_vec(numbers, shape, device)?);
        }
    }
    for (name, dtype, shape, bytes) in checkpoint.plain_tensors() {
        let dtype = DType::try_from(dtype)?;
        tensors.insert(name, Tensor::from_raw_buffer(bytes, dtype, &shape, device)?);
    }
    Ok(tensors)
}

impl Linear {
    /// Of `[n_tokens, n_in]`.
    ///
    /// # Errors
    /// [`Error::Candle`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = x.matmul(&self.weight.t()?)?;
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }
}

impl Embedding {
    /// Rows of tokens.
    ///
    /// # Errors
    /// [`Error::Candle`].
    pub fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        Ok(self.weight.index_select(tokens, 0)?)
    }

    /// Products with all rows: of a model whose head is its embedding.
    ///
    /// # Errors
    /// [`Error::Candle`].
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(hidden.matmul(&self.weight.t()?)?)
    }
}
