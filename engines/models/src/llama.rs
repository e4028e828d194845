//! A Llama decoder on candle's tensors: RMS norms, turned queries and keys, heads of keys that query heads share, gated MLPs. f32, with queries, keys
//! and values rounded to bf16, as caches and lacuna's kernels have them.

use candle_core::{D, DType, Device, IndexOp, Tensor};
use serde_json::Value;

use crate::weights::{Embedding, Linear, Weights};
use crate::{Error, Result};

/// A model's sizes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_q_heads: usize,
    /// Heads of keys and values.
    pub n_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Tokens that the model was trained for, at most.
    pub n_positions: usize,
    /// Elements of a token.
    pub hidden: usize,
    /// Tokens that there are.
    pub n_vocabulary: usize,
    inner: usize,
    theta: f64,
    epsilon: f64,
    is_tied: bool,
}

impl Config {
    /// Of `config.json`.
    ///
    /// # Errors
    /// [`Error::Model`] for sizes that are not there, or of another architecture.
    pub fn of(config: &Value) -> Result<Self> {
        if config["model_type"] != "llama" {
            return Err(Error::model(format!("its type is {}, not llama", config["model_type"])));
        }
        let float = |name: &str| {
            config[name].as_f64().ok_or_else(|| Error::model(format!("no {name} in config.json")))
        };
        let number = |name: &str| float(name).map(|number| number as usize);
        Ok(Self {
            n_layers: number("num_hidden_layers")?,
            n_q_heads: number("num_attention_heads")?,
            n_heads: number("num_key_value_heads")?,
            head_dim: number("head_dim")?,
            n_positions: number("max_position_embeddings")?,
            hidden: number("hidden_size")?,
            n_vocabulary: number("vocab_size")?,
            inner: number("intermediate_size")?,
            theta: float("rope_theta")?,
            epsilon: float("rms_norm_eps")?,
            is_tied: config["tie_word_embeddings"].as_bool().unwrap_or(false),
        })
    }
}

/// The model.
pub struct Llama {
    config: Config,
    device: Device,
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: Norm,
    /// By the embedding's matrix, where they are tied.
    head: Linear,
    /// `[n_positions, head_dim / 2]`.
    cos: Tensor,
    sin: Tensor,
}

struct Layer {
    attention_norm: Norm,
    queries: Linear,
    keys: Linear,
    values: Linear,
    output: Linear,
    norm: Norm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// What a layer attends with: bf16, queries and keys turned.
#[derive(Debug)]
pub struct Heads {
    /// `[n_tokens, n_q_heads, head_dim]`.
    pub queries: Tensor,
    /// `[n_tokens, n_heads, head_dim]`.
    pub keys: Tensor,
    /// The same.
    pub values: Tensor,
}

impl Llama {
    /// # Errors
    /// Those of the weights; [`Error::Model`] for a configuration that is not there.
    pub fn load(weights: &Weights) -> Result<Self> {
        let config = Config::of(weights.config())?;
        let device = weights.device().clone();
        let Config { hidden, inner, n_vocabulary, head_dim, n_q_heads, n_heads, .. } = config;
        let layer = |i: usize| {
            let linear = |name: &str, n_in: usize, n_out: usize| {
                weights.linear(n_in, n_out, &format!("model.layers.{i}.{name}"))
            };
            let norm = |name: &str| {
                Norm::load(weights, &format!("model.layers.{i}.{name}"), config.epsilon)
            };
            Ok(Layer {
                attention_norm: norm("input_layernorm")?,
                queries: linear("self_attn.q_proj", hidden, n_q_heads * head_dim)?,
                keys: linear("self_attn.k_proj", hidden, n_heads * head_dim)?,
                values: linear("self_attn.v_proj", hidden, n_heads * head_dim)?,
                output: linear("self_attn.o_proj", n_q_heads * head_dim, hidden)?,
                norm: norm("post_attention_layernorm")?,
                gate: linear("mlp.gate_proj", hidden, inner)?,
                up: linear("mlp.up_proj", hidden, inner)?,
                down: linear("mlp.down_proj", inner, hidden)?,
            })
        };
        let half = config.head_dim / 2;
        let angle = |at: usize| {
            let power = -2.0 * (at % half) as f64 / config.head_dim as f64;
            (at / half) as f64 * config.theta.powf(power)
        };
        let table = |of: fn(f64) -> f64| {
            let n = config.n_positions * half;
            let table: Vec<f32> = (0..n).map(|at| of(angle(at)) as f32).collect();
            Tensor::from_vec(table, (config.n_positions, half), &device)
        };
        Ok(Self {
            embedding: weights.embedding(n_vocabulary, hidden, "model.embed_tokens")?,
            layers: (0..config.n_layers).map(layer).collect::<Result<_>>()?,
            norm: Norm::load(weights, "model.norm", config.epsilon)?,
            head: {
                let name = if config.is_tied { "model.embed_tokens" } else { "lm_head" };
                weights.linear(hidden, n_vocabulary, name)?
            },
            cos: table(f64::cos)?,
            sin: table(f64::sin)?,
            config,
            device,
        })
    }

    /// Its sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Hidden states of the last layer, normed: `[n_tokens, hidden]`. The first token is at position `first`; `attend` has a layer's number and
    /// heads, and gives `[n_tokens, n_q_heads * head_dim]` in f32.
    ///
    /// # Errors
    /// Those of `attend`; [`Error::Model`] where there are more tokens than positions; [`Error::Candle`].
    pub fn forward(
        &self,
        tokens: &[u32],
        first: usize,
        mut attend: impl FnMut(usize, Heads) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (n, Config { n_q_heads, n_heads, head_dim, n_positions, .. }) =
            (tokens.len(), self.config);
        if first + n > n_positions {
            let what = format!("{} tokens, and positions for {n_positions}", first + n);
            return Err(Error::model(what));
        }
        let tokens = Tensor::new(tokens, &self.device)?;
        let (cos, sin) = (self.cos.narrow(0, first, n)?, self.sin.narrow(0, first, n)?);
        let mut hidden = self.embedding.forward(&tokens)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let x = layer.attention_norm.forward(&hidden)?;
            let heads = |linear: &Linear, n_heads: usize| -> Result<Tensor> {
                Ok(linear.forward(&x)?.reshape((n, n_heads, head_dim))?)
            };
            let turned = |x: Tensor| turn(&x, &cos, &sin)?.to_dtype(DType::BF16);
            let heads = Heads {
                queries: turned(heads(&layer.queries, n_q_heads)?)?,
                keys: turned(heads(&layer.keys, n_heads)?)?,
                values: heads(&layer.values, n_heads)?.to_dtype(DType::BF16)?,
            };
            hidden = (hidden + layer.output.forward(&attend(i, heads)?)?)?;
            let x = layer.norm.forward(&hidden)?;
            let gated = (layer.gate.forward(&x)?.silu()? * layer.up.forward(&x)?)?;
            hidden = (hidden + layer.down.forward(&gated)?)?;
        }
        self.norm.forward(&hidden)
    }

    /// `[n_tokens, n_vocabulary]` of hidden states.
    ///
    /// # Errors
    /// [`Error::Candle`].
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.head.forward(hidden)
    }
}

struct Norm {
    weight: Tensor,
    epsilon: f64,
}

impl Norm {
    fn load(weights: &Weights, name: &str, epsilon: f64) -> Result<Self> {
        let weight = weights.plain(&format!("{name}.weight"))?.to_dtype(DType::F32)?;
        Ok(Self { weight, epsilon })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let square = x.sqr()?.mean_keepdim(D::Minus1)?;
        let scale = (square + self.epsilon)?.sqrt()?;
        Ok(x.broadcast_div(&scale)?.broadcast_mul(&self.weight)?)
    }
}

/// Turns channels i and `d / 2 + i` of each head.
fn turn(x: &Tensor, cos: &Tensor, sin: &Tensor) -> candle_core::Result<Tensor> {
    let half = x.dim(2)? / 2;
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
    let (a, b) = (x.i((.., .., ..half))?, x.i((.., .., half..))?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], 2)
}
