//! A Llama model out of a GGUF file: its sizes, its weights as bf16 by the names that safetensors have, its tokenizer.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{DType, Device, Tensor};
use serde_json::json;

use crate::{Error, Result};

/// A GGUF file.
pub struct Gguf {
    content: Content,
    reader: BufReader<File>,
}

/// Names of a layer's tensors, in GGUF and in safetensors.
const LAYER: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

impl Gguf {
    /// Reads what stands before the weights.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Candle`] for what is no GGUF; [`Error::Model`] for another architecture.
    pub fn open(path: &Path) -> Result<Self> {
        let mut reader = BufReader::new(File::open(path).map_err(Error::io(path))?);
        let content = Content::read(&mut reader)?;
        let this = Self { content, reader };
        match this.text("general.architecture")? {
            "llama" => Ok(this),
            other => Err(Error::model(format!("a llama was expected, and this is a {other}"))),
        }
    }

    fn value(&self, name: &str) -> Result<&Value> {
        let value = self.content.metadata.get(name);
        value.ok_or_else(|| Error::model(format!("no {name} in its metadata")))
    }

    fn number(&self, name: &str) -> Result<usize> {
        Ok(self.value(name)?.to_u32()? as usize)
    }

    /// A text of the metadata.
    ///
    /// # Errors
    /// [`Error::Model`] where it is not there, [`Error::Candle`] where it is no text.
    pub fn text(&self, name: &str) -> Result<&str> {
        Ok(self.value(name)?.to_string()?)
    }

    /// A list of texts.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn texts(&self, name: &str) -> Result<Vec<String>> {
        let texts = self.value(name)?.to_vec()?.iter().map(|text| Ok(text.to_string()?.clone()));
        texts.collect()
    }

    /// A list of numbers.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn numbers(&self, name: &str) -> Result<Vec<i64>> {
        let numbers = self.value(name)?.to_vec()?.iter();
        // Small ones; converters write them with and without a sign.
        let number = |value: &Value| match value {
            Value::I32(number) => Ok(i64::from(*number)),
            other => Ok(i64::from(other.to_u32()?)),
        };
        numbers.map(number).collect()
    }

    /// `config.json` as Llama models have it.
    ///
    /// # Errors
    /// [`Error::Model`] for sizes that are not there.
    pub fn config(&self) -> Result<serde_json::Value> {
        let number = |name: &str| self.number(&format!("llama.{name}"));
        let float =
            |name: &str| -> Result<f32> { Ok(self.value(&format!("llama.{name}"))?.to_f32()?) };
        let (hidden, heads) = (number("embedding_length")?, number("attention.head_count")?);
        let head_dim = number("rope.dimension_count")?;
        if head_dim * heads != hidden {
            let what = format!("{heads} heads of {head_dim}, and {hidden} elements of a token");
            return Err(Error::model(what));
        }
        Ok(json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "torch_dtype": "bfloat16",
            "hidden_act": "silu",
            "hidden_size": hidden,
            "intermediate_size": number("feed_forward_length")?,
            "num_hidden_layers": number("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": number("attention.head_count_kv")?,
            "head_dim": head_dim,
            "vocab_size": number("vocab_size")?,
            "max_position_embeddings": number("context_length")?,
            "rope_theta": float("rope.freq_base")?,
            "rms_norm_eps": float("attention.layer_norm_rms_epsilon")?,
            "tie_word_embeddings": !self.content.tensor_infos.contains_key("output.weight"),
            "bos_token_id": self.number("tokenizer.ggml.bos_token_id")?,
            "eos_token_id": self.number("tokenizer.ggml.eos_token_id")?,
        }))
    }

    /// All weights, dequantised and rounded to bf16.
    ///
    /// # Errors
    /// [`Error::Candle`] and [`Error::Model`] for tensors that are not there, or of other shapes.
    pub fn weights(&mut self) -> Result<HashMap<String, Tensor>> {
        let n_layers = self.number("llama.block_count")?;
        let n_heads = self.number("llama.attention.head_count")?;
        let n_kv_heads = self.number("llama.attention.head_count_kv")?;
        let mut weights = HashMap::new();
        for (from, to) in [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm")] {
            weights.insert(format!("{to}.weight"), self.weight(from)?);
        }
        if self.content.tensor_infos.contains_key("output.weight") {
            weights.insert("lm_head.weight".to_owned(), self.weight("output")?);
        }
        for layer in 0..n_layers {
            for (from, to) in LAYER {
                let weight = self.weight(&format!("blk.{layer}.{from}"))?;
                let weight = match from {
                    "attn_q" => halves_of_pairs(&weight, n_heads)?,
                    "attn_k" => halves_of_pairs(&weight, n_kv_heads)?,
                    _ => weight,
                };
                weights.insert(format!("model.layers.{layer}.{to}.weight"), weight);
            }
        }
        Ok(weights)
    }

    fn weight(&mut self, name: &str) -> Result<Tensor> {
        let name = format!("{name}.weight");
        let weight = self.content.tensor(&mut self.reader, &name, &Device::Cpu)?;
        Ok(weight.dequantize(&Device::Cpu)?.to_dtype(DType::BF16)?)
    }
}

/// llama.cpp turns neighbours `(2 i, 2 i + 1)` of a head by its i-th angle, and its converter has put rows of queries and keys in that
/// order; safetensors have rows i and `d / 2 + i`.
fn halves_of_pairs(weight: &Tensor, n_heads: usize) -> Result<Tensor> {
    let (rows, columns) = weight.dims2()?;
    let pairs = weight.reshape((n_heads, rows / n_heads / 2, 2, columns))?;
    Ok(pairs.transpose(1, 2)?.contiguous()?.reshape((rows, columns))?)
}
