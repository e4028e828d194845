//! A context, read by plain attention and continued by a method.

use candle_core::{D, DType, Tensor};
use lacuna_candle::{KvCache, append_kv};

use crate::llama::{Heads, Llama};
use crate::methods::{Context, Method, MethodKind};
use crate::{Error, Result};

/// Rows of a cache's page.
pub const PAGE_SIZE: usize = 16;
/// Queries that see a prompt at once.
const CHUNK: usize = 128;

/// A prompt that was read: what every method continues from.
pub struct Prompt {
    /// Of each layer.
    caches: Vec<KvCache>,
    /// Of each layer, `[n_tokens, n_q_heads, head_dim]`.
    queries: Vec<Tensor>,
    n_tokens: usize,
    /// The last token's.
    logits: Vec<f32>,
}

/// A context that grows by a method.
pub struct Session<'a> {
    model: &'a Llama,
    caches: Vec<KvCache>,
    methods: Vec<Box<dyn Method>>,
    n_tokens: usize,
    is_exact: bool,
}

impl Prompt {
    /// Reads a prompt by plain attention in f32 over keys and values of bf16, with room for as many tokens after it.
    ///
    /// # Errors
    /// [`Error::Model`] for no tokens, or more than the model has positions; [`Error::Candle`].
    pub fn read(model: &Llama, tokens: &[u32], n_more: usize) -> Result<Self> {
        let n = tokens.len();
        if n == 0 {
            return Err(Error::model("a prompt of no tokens"));
        }
        let (config, device) = (model.config(), model.device());
        let (heads, d, dtype) = (config.n_heads, config.head_dim, DType::BF16);
        let cache = || KvCache::zeros(1, n + n_more, heads, d, PAGE_SIZE, dtype, device);
        let mut caches =
            (0..config.n_layers).map(|_| cache()).collect::<candle_core::Result<Vec<_>>>()?;
        let mut queries = Vec::with_capacity(config.n_layers);
        let hidden = model.forward(tokens, 0, |layer, heads| {
            let [keys, values] = [&heads.keys, &heads.values].map(|x| x.unsqueeze(0));
            append_kv(&mut caches[layer], &keys?, &values?, None)?;
            queries.push(heads.queries.clone());
            plain(&heads)
        })?;
        let logits = model.logits(&hidden.narrow(0, n - 1, 1)?)?.flatten_all()?.to_vec1()?;
        Ok(Self { caches, queries, n_tokens: n, logits })
    }

    /// What the model says after it.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// A copy of it that continues by a method. `is_exact`: on the CPU, by the bits of lacuna's references, which are those of kernels, and slowly.
    ///
    /// # Errors
    /// [`Error::Candle`] for a method's numbers that no kernel has.
    pub fn session<'a>(
        &self,
        model: &'a Llama,
        kind: &MethodKind,
        is_exact: bool,
    ) -> Result<Session<'a>> {
        let n_tokens = self.n_tokens;
        let caches = self.caches.iter().map(copy).collect::<Result<Vec<_>>>()?;
        let layers = caches.iter().zip(&self.queries).enumerate();
        let methods = layers.map(|(layer, (cache, queries))| {
            kind.begin(layer, Context { cache, n_tokens, is_exact }, queries)
        });
        let methods = methods.collect::<Result<_>>()?;
        Ok(Session { model, caches, methods, n_tokens, is_exact })
    }
}

/// Other memory: a cache's clone has the same.
fn copy(cache: &KvCache) -> Result<KvCache> {
    let values = cache.values.as_ref().map(Tensor::copy).transpose()?;
    Ok(KvCache { keys: cache.keys.copy()?, values, ..cache.clone() })
}

impl Session<'_> {
    /// Tokens so far.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// More tokens, one after the other in every layer: `[tokens][n_vocabulary]` logits. What comes out is what a step for each would give but for the
    /// order in which matrix products are summed.
    ///
    /// # Errors
    /// [`Error::Model`] where there is no room; [`Error::Candle`].
    pub fn push(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        let Self { model, caches, methods, n_tokens, is_exact } = self;
        let (first, n) = (*n_tokens, tokens.len());
        let room = caches[0].layout()?.n_rows() as usize;
        if first + n > room {
            return Err(Error::model(format!("{} tokens, and room for {room}", first + n)));
        }
        let hidden = model.forward(tokens, first, |layer, heads| {
            let (cache, method) = (&mut caches[layer], &mut methods[layer]);
            let step = |i: usize| {
                let [query, key, value] =
                    [&heads.queries, &heads.keys, &heads.values].map(|x| x.narrow(0, i, 1));
                append_kv(cache, &key?.unsqueeze(0)?, &value?.unsqueeze(0)?, None)?;
                let context = Context { cache, n_tokens: first + i + 1, is_exact: *is_exact };
                method.step(context, &query?)
            };
            let outputs = (0..n).map(step).collect::<Result<Vec<_>>>()?;
            Ok(Tensor::cat(&outputs, 0)?.flatten_from(1)?)
        })?;
        *n_tokens += n;
        Ok(model.logits(&hidden)?.to_vec2()?)
    }

    /// Bytes of keys and values that one step of all layers reads now, and that full attention would.
    pub fn bytes(&self) -> [u64; 2] {
        let config = self.model.config();
        let row_bytes = 2 * 2 * (config.n_heads * config.head_dim) as u64;
        let read = self.methods.iter().map(|method| method.bytes(self.n_tokens, row_bytes)).sum();
        [read, (self.methods.len() * self.n_tokens) as u64 * row_bytes]
    }
}

/// Every token sees those up to itself: `[n_tokens, n_q_heads * head_dim]`.
fn plain(heads: &Heads) -> Result<Tensor> {
    let (n, n_q_heads, d) = heads.queries.dims3()?;
    let n_heads = heads.keys.dim(1)?;
    let group = n_q_heads / n_heads;
    let device = heads.queries.device();
    // [n_heads, n_tokens, ...]
    let by_head = |x: &Tensor| x.to_dtype(DType::F32)?.transpose(0, 1)?.contiguous();
    let (keys, values) = (by_head(&heads.keys)?, by_head(&heads.values)?);
    let queries = heads.queries.to_dtype(DType::F32)?.reshape((n, n_heads, group, d))?;
    let queries = (queries * (d as f64).sqrt().recip())?;
    let mut outputs = Vec::new();
    for start in (0..n).step_by(CHUNK) {
        let len = CHUNK.min(n - start);
        let n_seen = start + len;
        let queries = queries.narrow(0, start, len)?.permute((1, 0, 2, 3))?.contiguous()?;
        let queries = queries.reshape((n_heads, len * group, d))?;
        let keys = keys.narrow(1, 0, n_seen)?.transpose(1, 2)?;
        let scores = queries.matmul(&keys)?.reshape((n_heads, len, group, n_seen))?;
        let hidden =
            |i: usize| if i % n_seen > start + i / n_seen { f32::NEG_INFINITY } else { 0.0 };
        let mask: Vec<f32> = (0..len * n_seen).map(hidden).collect();
        let mask = Tensor::from_vec(mask, (len, 1, n_seen), device)?;
        let scores = scores.broadcast_add(&mask)?;
        let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let sums = weights.sum_keepdim(D::Minus1)?;
        let weights = weights.reshape((n_heads, len * group, n_seen))?;
        let output = weights.matmul(&values.narrow(1, 0, n_seen)?.contiguous()?)?;
        let output = output.reshape((n_heads, len, group, d))?.broadcast_div(&sums)?;
        outputs.push(output.permute((1, 0, 2, 3))?.reshape((len, n_q_heads * d))?);
    }
    Ok(Tensor::cat(&outputs, 0)?)
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
