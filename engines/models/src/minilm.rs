//! all-MiniLM-L6-v2, a BERT encoder on candle's tensors: sentences to vectors of length 1. f32.

use std::path::Path;

use candle_core::{D, Device, IndexOp, Tensor};
use tokenizers::Tokenizer;

use crate::weights::{Embedding, Linear, Weights};
use crate::{Error, Result};

/// The model, and its tokenizer.
pub struct MiniLm {
    tokenizer: Tokenizer,
    device: Device,
    n_heads: usize,
    n_positions: usize,
    words: Embedding,
    positions: Tensor,
    /// Of the first segment, the only one.
    segment: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
}

struct Layer {
    queries: Linear,
    keys: Linear,
    values: Linear,
    output: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl MiniLm {
    /// Of weights, and the file of its tokenizer.
    ///
    /// # Errors
    /// Those of the weights; [`Error::Tokenizer`]; [`Error::Model`] for a configuration of another model.
    pub fn load(weights: &Weights, tokenizer: &Path) -> Result<Self> {
        let error = |error: tokenizers::Error| Error::Tokenizer(error.to_string());
        let mut tokenizer = Tokenizer::from_file(tokenizer).map_err(error)?;
        // Its file pads all sentences to the same length.
        tokenizer.with_padding(None).with_truncation(None).map_err(error)?;
        let config = weights.config();
        if config["model_type"] != "bert" || config["hidden_act"] != "gelu" {
            return Err(Error::model("a BERT with the exact GELU was expected"));
        }
        let number = |name: &str| {
            let number = config[name].as_f64();
            number.ok_or_else(|| Error::model(format!("no {name} in config.json")))
        };
        let size = |name: &str| number(name).map(|number| number as usize);
        let epsilon = number("layer_norm_eps")?;
        let (hidden, inner) = (size("hidden_size")?, size("intermediate_size")?);
        let n_positions = size("max_position_embeddings")?;
        let plain = |name: &str| weights.plain(name);
        let norm = |name: &str| -> Result<Norm> {
            let weight = plain(&format!("{name}.weight"))?;
            Ok(Norm { weight, bias: plain(&format!("{name}.bias"))?, epsilon })
        };
        let layer = |i: usize| {
            let linear = |name: &str, n_in: usize, n_out: usize| {
                weights.linear(n_in, n_out, &format!("encoder.layer.{i}.{name}"))
            };
            let norm = |name: &str| norm(&format!("encoder.layer.{i}.{name}"));
            Ok(Layer {
                queries: linear("attention.self.query", hidden, hidden)?,
                keys: linear("attention.self.key", hidden, hidden)?,
                values: linear("attention.self.value", hidden, hidden)?,
                output: linear("attention.output.dense", hidden, hidden)?,
                attention_norm: norm("attention.output.LayerNorm")?,
                up: linear("intermediate.dense", hidden, inner)?,
                down: linear("output.dense", inner, hidden)?,
                norm: norm("output.LayerNorm")?,
            })
        };
        Ok(Self {
            tokenizer,
            device: weights.device().clone(),
            n_heads: size("num_attention_heads")?,
            n_positions,
            words: weights.embedding(size("vocab_size")?, hidden, "embeddings.word_embeddings")?,
            positions: plain("embeddings.position_embeddings.weight")?,
            segment: plain("embeddings.token_type_embeddings.weight")?.i(0)?,
            norm: norm("embeddings.LayerNorm")?,
            layers: (0..size("num_hidden_layers")?).map(layer).collect::<Result<_>>()?,
        })
    }

    /// The mean of what a sentence's tokens become, of length 1.
    ///
    /// # Errors
    /// [`Error::Tokenizer`], [`Error::Candle`]; [`Error::Model`] where it has more tokens than the model has positions.
    pub fn embed(&self, sentence: &str) -> Result<Vec<f32>> {
        let tokens = self.tokenizer.encode(sentence, true);
        let tokens = tokens.map_err(|error| Error::Tokenizer(error.to_string()))?;
        let (n, n_positions) = (tokens.len(), self.n_positions);
        if n > n_positions {
            return Err(Error::model(format!("{n} tokens, and positions for {n_positions}")));
        }
        let tokens = Tensor::new(tokens.get_ids(), &self.device)?;
        let words = self.words.forward(&tokens)?;
        let places = self.positions.narrow(0, 0, n)?;
        let mut hidden = self.norm.forward(&(words.broadcast_add(&self.segment)? + places)?)?;
        for layer in &self.layers {
            let attended = layer.output.forward(&self.attend(layer, &hidden)?)?;
            hidden = layer.attention_norm.forward(&(hidden + attended)?)?;
            let inner = layer.up.forward(&hidden)?.gelu_erf()?;
            hidden = layer.norm.forward(&(&hidden + layer.down.forward(&inner)?)?)?;
        }
        let mean = hidden.mean(0)?;
        let length = mean.sqr()?.sum_all()?.sqrt()?;
        Ok(mean.broadcast_div(&length)?.to_vec1()?)
    }

    /// Every token sees every token.
    fn attend(&self, layer: &Layer, x: &Tensor) -> Result<Tensor> {
        let (n, hidden) = x.dims2()?;
        let d = hidden / self.n_heads;
        let heads = |linear: &Linear| -> Result<Tensor> {
            let heads = linear.forward(x)?.reshape((n, self.n_heads, d))?;
            Ok(heads.transpose(0, 1)?.contiguous()?)
        };
        let (queries, keys) = (heads(&layer.queries)?, heads(&layer.keys)?);
        let scores = (queries.matmul(&keys.t()?)? * (d as f64).sqrt().recip())?;
        let greatest = scores.max_keepdim(D::Minus1)?;
        let weights = scores.broadcast_sub(&greatest)?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        let outputs = weights.matmul(&heads(&layer.values)?)?;
        Ok(outputs.transpose(0, 1)?.reshape((n, hidden))?)
    }
}

impl Norm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let apart = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let square = apart.sqr()?.mean_keepdim(D::Minus1)?;
        let scaled = apart.broadcast_div(&(square + self.epsilon)?.sqrt()?)?;
        Ok(scaled.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)?)
    }
}

/// The product of two vectors of length 1.
pub fn similarity(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}
