//! A context, read by plain attention and continued by a method.

use candle_core::{DType, Device, Tensor};
use half::bf16;
use rayon::prelude::*;

use crate::cache::{Cache, Rows};
use crate::llama::{Heads, Llama};
use crate::methods::{Method, MethodKind};
use crate::{Error, Result};

/// Queries that see a prompt at once.
const CHUNK: usize = 128;

/// A prompt that was read: what every method continues from.
#[derive(Clone)]
pub struct Prompt {
    cache: Cache,
    /// Of each layer, `[n_tokens, n_q_heads, head_dim]`.
    queries: Vec<Vec<bf16>>,
    /// The last token's.
    logits: Vec<f32>,
}

/// A context that grows by a method.
pub struct Session<'a> {
    model: &'a Llama,
    cache: Cache,
    methods: Vec<Box<dyn Method>>,
}

impl Prompt {
    /// Reads a prompt by plain attention in f32 over keys and values of bf16, with room for as many tokens after it.
    ///
    /// # Errors
    /// [`Error::Model`] for no tokens, or more than the model has positions; [`Error::Candle`].
    pub fn read(model: &Llama, tokens: &[u32], n_more: usize) -> Result<Self> {
        if tokens.is_empty() {
            return Err(Error::model("a prompt of no tokens"));
        }
        let mut cache = Cache::new(model.config(), tokens.len() + n_more)?;
        let mut queries = vec![Vec::new(); model.config().n_layers];
        let hidden = model.forward(tokens, 0, |layer, heads| {
            let rows = &mut cache.layers[layer];
            append(rows, &heads)?;
            queries[layer] = heads.queries.flatten_all()?.to_vec1()?;
            plain(rows, &heads.queries, model.device())
        })?;
        let logits = model.logits(&hidden.narrow(0, tokens.len() - 1, 1)?)?.flatten_all()?;
        Ok(Self { cache, queries, logits: logits.to_vec1()? })
    }

    /// What the model says after it.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// A copy of it that continues by a method.
    ///
    /// # Errors
    /// [`Error::Lacuna`] for a method's numbers that no kernel has.
    pub fn session<'a>(&self, model: &'a Llama, kind: &MethodKind) -> Result<Session<'a>> {
        let n_q_heads = model.config().n_q_heads;
        let method = |(layer, (rows, queries)): (usize, (&Rows, &Vec<bf16>))| {
            kind.begin(layer, n_q_heads, rows, queries)
        };
        let layers: Vec<_> = self.cache.layers.iter().zip(&self.queries).enumerate().collect();
        let methods = layers.into_par_iter().map(method).collect::<Result<_>>()?;
        Ok(Session { model, cache: self.cache.clone(), methods })
    }
}

impl Session<'_> {
    /// Tokens so far.
    pub fn n_tokens(&self) -> usize {
        self.cache.n_tokens()
    }

    /// More tokens, one after the other in every layer: `[tokens][n_vocabulary]` logits. What comes out is what a step for each would give but for the
    /// order in which matrix products are summed.
    ///
    /// # Errors
    /// [`Error::Model`] where there is no room; [`Error::Lacuna`]; [`Error::Candle`].
    pub fn push(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        let Self { model, cache, methods } = self;
        let first = cache.n_tokens();
        let room = cache.layers[0].layout().n_rows() as usize;
        if first + tokens.len() > room {
            return Err(Error::model(format!("{} tokens, room for {room}", first + tokens.len())));
        }
        let hidden = model.forward(tokens, first, |layer, heads| {
            let (rows, method) = (&mut cache.layers[layer], &mut methods[layer]);
            let Heads { queries, keys, values } = &heads;
            let [queries, keys, values] = [queries, keys, values].map(host);
            let (queries, keys, values) = (queries?, keys?, values?);
            let n = tokens.len();
            let (q_len, len) = (queries.len() / n, keys.len() / n);
            let mut outputs = Vec::with_capacity(queries.len());
            let tokens = queries.chunks(q_len).zip(keys.chunks(len).zip(values.chunks(len)));
            for (query, (keys, values)) in tokens {
                rows.push(keys, values);
                outputs.extend(method.step(rows, query)?);
            }
            Ok(Tensor::from_vec(outputs, (n, q_len), model.device())?)
        })?;
        Ok(model.logits(&hidden)?.to_vec2()?)
    }

    /// Bytes of keys and values that one step of all layers reads now, and that full attention would.
    pub fn bytes(&self) -> [u64; 2] {
        let layers = self.methods.iter().zip(&self.cache.layers);
        layers.fold([0, 0], |[read, full], (method, rows)| {
            let kv = *rows.layout().shape();
            let all = 2 * 2 * kv.n_heads * kv.row_len * rows.n_tokens() as u64;
            [read + method.bytes(rows), full + all]
        })
    }
}

fn host(x: &Tensor) -> Result<Vec<bf16>> {
    Ok(x.flatten_all()?.to_vec1()?)
}

fn append(rows: &mut Rows, heads: &Heads) -> Result<()> {
    let (keys, values) = (host(&heads.keys)?, host(&heads.values)?);
    let len = keys.len() / heads.keys.dim(0)?;
    for (keys, values) in keys.chunks(len).zip(values.chunks(len)) {
        rows.push(keys, values);
    }
    Ok(())
}

/// The last tokens of a cache see it up to themselves: `[n_tokens, n_q_heads * head_dim]`.
fn plain(rows: &Rows, queries: &Tensor, device: &Device) -> Result<Tensor> {
    let (n, n_q_heads, d) = queries.dims3()?;
    let n_heads = rows.layout().shape().n_heads as usize;
    let group = n_q_heads / n_heads;
    let first = rows.n_tokens() - n;
    let queries = queries.to_dtype(DType::F32)?;
    let scale = 1.0 / (d as f64).sqrt();
    let of_head = |head: usize| {
        let gather = |pool: &[bf16]| -> Result<Tensor> {
            let rows = (0..rows.n_tokens()).flat_map(|token| rows.row(pool, token, head));
            let rows: Vec<f32> = rows.map(|x| x.to_f32()).collect();
            let n = rows.len() / d;
            Ok(Tensor::from_vec(rows, (n, d), device)?)
        };
        let (keys, values) = (gather(rows.keys())?, gather(rows.values())?);
        let queries = queries.narrow(1, head * group, group)?;
        let of_chunk = |start: usize| -> Result<Tensor> {
            let len = CHUNK.min(n - start);
            let n_seen = first + start + len;
            let queries = queries.narrow(0, start, len)?.reshape((len * group, d))?;
            let scores = (queries.matmul(&keys.narrow(0, 0, n_seen)?.t()?)? * scale)?;
            let mut scores = scores.flatten_all()?.to_vec1::<f32>()?;
            for (row, scores) in scores.chunks_mut(n_seen).enumerate() {
                softmax(&mut scores[..first + start + row / group + 1]);
                scores[first + start + row / group + 1..].fill(0.0);
            }
            let weights = Tensor::from_vec(scores, (len * group, n_seen), device)?;
            Ok(weights.matmul(&values.narrow(0, 0, n_seen)?)?.reshape((len, group, d))?)
        };
        let chunks: Vec<usize> = (0..n).step_by(CHUNK).collect();
        let chunks: Vec<Tensor> = chunks.into_par_iter().map(of_chunk).collect::<Result<_>>()?;
        Ok(Tensor::cat(&chunks, 0)?)
    };
    let heads = (0..n_heads).map(of_head).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::cat(&heads, 1)?.reshape((n, n_q_heads * d))?)
}

fn softmax(scores: &mut [f32]) {
    let greatest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - greatest).exp();
        sum += *score;
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// The largest, of several the first.
pub fn greatest(logits: &[f32]) -> u32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|logit| *logit == largest).unwrap_or(0) as u32
}

/// What a token costs: minus the logarithm of its share.
pub fn surprise(logits: &[f32], token: u32) -> f64 {
    let greatest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - greatest).exp()).sum();
    sum.ln() + greatest - f64::from(logits[token as usize])
}
