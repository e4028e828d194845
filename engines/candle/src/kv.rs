//! Paged caches of keys and values.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor, bail};
use lacuna::element::Half;
use lacuna::kv::{KvLayout, KvShape};
use lacuna::quant::reference::{HostRows, HostTokens, append};
use lacuna::quant::{AppendPlan, AppendShape, Turn};

use crate::Wrap;
use crate::storage::{
    Number, Source, apart, by_half, check_dims, check_type, is_on_cuda, rows, write_both,
};

/// A paged cache of keys and values, or of what stands for several keys each, in tensors. A clone is the same memory.
///
/// Row `t` of request `b` is row `t % page_size` of page `page_table[b, t / page_size]`; a number of no page makes its rows absent.
#[derive(Debug, Clone)]
pub struct KvCache {
    /// `[n_pages, page_size, n_heads, row_len]`, bf16 or f16. Strides may be any multiples of 8 elements, the last 1: a pool
    /// `[n_pages, n_heads, page_size, row_len]` is given as `pool.transpose(1, 2)?`.
    pub keys: Tensor,
    /// The same, with the same strides; none of summaries.
    pub values: Option<Tensor>,
    /// i32 `[batch, pages of a request]`.
    pub page_table: Tensor,
    /// u32 `[batch]`: tokens of each request.
    pub lengths: Tensor,
    /// Tokens that a row stands for: 1 of keys.
    pub tokens_per_row: usize,
}

/// How keys are turned by their positions as they are appended (RoPE).
#[derive(Debug, Clone)]
pub struct Rotary {
    /// Which channels are a pair.
    pub turn: Turn,
    /// f32 `[n_positions, rotary_dim]`: cosines of each position's angles, then their sines. The first `rotary_dim` elements of
    /// keys are turned.
    pub cos_sin: Tensor,
}

impl KvCache {
    /// A cache of no tokens, with pages for `max_tokens` of each request, one after the other.
    ///
    /// # Errors
    /// For sizes that are not supported.
    pub fn zeros(
        batch: usize,
        max_tokens: usize,
        n_heads: usize,
        head_dim: usize,
        page_size: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        if page_size == 0 {
            bail!("rows of a page: 0 is outside 1..=256");
        }
        let n_pages = max_tokens.div_ceil(page_size);
        let dims = (batch * n_pages, page_size, n_heads, head_dim);
        let pages: Vec<i32> = (0..(batch * n_pages) as i32).collect();
        let cache = Self {
            keys: Tensor::zeros(dims, dtype, device)?,
            values: Some(Tensor::zeros(dims, dtype, device)?),
            page_table: Tensor::from_vec(pages, (batch, n_pages), device)?,
            lengths: Tensor::zeros(batch, DType::U32, device)?,
            tokens_per_row: 1,
        };
        cache.layout()?;
        Ok(cache)
    }

    /// Its sizes and strides.
    ///
    /// # Errors
    /// For tensors that are no cache; they say what is.
    pub fn layout(&self) -> Result<KvLayout> {
        let Ok((n_pages, page_size, n_heads, row_len)) = self.keys.dims4() else {
            bail!(
                "keys of a cache: expected [n_pages, page_size, n_heads, row_len], got {:?}",
                self.keys.dims()
            );
        };
        let Ok((batch, table_stride)) = self.page_table.dims2() else {
            bail!("page_table: expected [batch, pages], got {:?}", self.page_table.dims());
        };
        if !matches!(self.keys.dtype(), DType::BF16 | DType::F16) {
            let found = self.keys.dtype();
            return Err(crate::storage::wrong_type("keys of a cache", "bf16 or f16", found));
        }
        check_type("page_table", &self.page_table, DType::I32)?;
        check_type("lengths", &self.lengths, DType::U32)?;
        check_dims("lengths", &self.lengths, &[batch])?;
        let strides = self.keys.layout().stride();
        if let Some(values) = &self.values {
            check_type("values of a cache", values, self.keys.dtype())?;
            check_dims("values of a cache", values, self.keys.dims())?;
            if values.layout().stride() != strides {
                let own = values.layout().stride();
                bail!("values of a cache: strides {own:?}, and keys have {strides:?}");
            }
        }
        if strides[3] != 1 && row_len != 1 {
            bail!("keys of a cache: strides {strides:?}, of which the last must be 1");
        }
        let [page_stride, token_stride, head_stride] = [0, 1, 2].map(|idx| strides[idx] as u64);
        KvLayout::new(KvShape {
            batch: batch as u64,
            n_heads: n_heads as u64,
            row_len: row_len as u64,
            n_pages: n_pages as u64,
            page_size: page_size as u64,
            table_stride: table_stride as u64,
            tokens_per_row: self.tokens_per_row as u64,
            page_stride,
            token_stride,
            head_stride,
        })
        .w()
    }

    /// Of a cache that must have them.
    pub(crate) fn values(&self) -> Result<&Tensor> {
        match &self.values {
            Some(values) => Ok(values),
            None => bail!("values of a cache: there are none, as of a cache of summaries"),
        }
    }

    /// The cache's tensors by what they are called.
    pub(crate) fn tensors(&self) -> Vec<(&'static str, &Tensor)> {
        let values = self.values.iter().map(|values| ("values of a cache", values));
        let others = [("page_table", &self.page_table), ("lengths", &self.lengths)];
        std::iter::once(("keys of a cache", &self.keys)).chain(values).chain(others).collect()
    }
}

/// The elements of a pool.
pub(crate) fn pool_span(pool: &Tensor, layout: &KvLayout) -> Range<usize> {
    let start = pool.layout().start_offset();
    start..start + layout.pool_len() as usize
}

/// A cache that is read.
pub(crate) struct CacheSource<'a> {
    pub(crate) dtype: DType,
    pub(crate) layout: KvLayout,
    pub(crate) keys: Source<'a>,
    pub(crate) values: Option<Source<'a>>,
    pub(crate) tables: Tables<'a>,
}

/// Where rows are, and how many.
pub(crate) struct Tables<'a> {
    pub(crate) page_table: Source<'a>,
    pub(crate) lengths: Source<'a>,
}

impl<'a> Tables<'a> {
    pub(crate) fn new(cache: &'a KvCache) -> Result<Self> {
        let table = Source::whole::<i32>("page_table", &cache.page_table, cache.page_table.dims())?;
        let lengths = Source::whole::<u32>("lengths", &cache.lengths, cache.lengths.dims())?;
        Ok(Self { page_table: table, lengths })
    }
}

impl<'a> CacheSource<'a> {
    pub(crate) fn new(cache: &'a KvCache) -> Result<Self> {
        let layout = cache.layout()?;
        let pool = |pool: &'a Tensor| Source::new(pool, pool_span(pool, &layout));
        Ok(Self {
            dtype: cache.keys.dtype(),
            layout,
            keys: pool(&cache.keys),
            values: cache.values.as_ref().map(pool),
            tables: Tables::new(cache)?,
        })
    }
}

/// Appends tokens to a cache in place, turned on the way if `rotary` says how: `keys` and `values` are
/// `[batch, n_tokens, n_heads, head_dim]`, of the cache's type. [`KvCache::lengths`] is then a tensor of the new lengths.
///
/// Returned is u32 `[batch]`: how many tokens found no page.
///
/// # Numerics
/// Bit for bit [`lacuna::quant::reference::append`]; positions are the requests' lengths and on.
///
/// # Errors
/// For types, sizes and strides that are not supported, and tensors that share memory with the cache.
pub fn append_kv(
    cache: &mut KvCache,
    keys: &Tensor,
    values: &Tensor,
    rotary: Option<&Rotary>,
) -> Result<Tensor> {
    let layout = cache.layout()?;
    let kv = *layout.shape();
    let n_tokens = keys.dims().get(1).copied().unwrap_or(0);
    let dims = [kv.batch as usize, n_tokens, kv.n_heads as usize, kv.row_len as usize];
    check_dims("new keys", keys, &dims)?;
    check_dims("new values", values, &dims)?;
    check_type("new keys", keys, cache.keys.dtype())?;
    check_type("new values", values, cache.keys.dtype())?;
    let mut named = cache.tensors();
    named.extend([("new keys", keys), ("new values", values)]);
    named.extend(rotary.map(|rotary| ("cos_sin", &rotary.cos_sin)));
    let is_cuda = is_on_cuda(&named)?;
    let written = [("keys of a cache", &cache.keys), ("values of a cache", cache.values()?)];
    apart(&written, &named[2..])?;

    let (key_rows, value_rows) = (rows("new keys", keys, 2)?, rows("new values", values, 2)?);
    let shape = AppendShape {
        key_stride: key_rows.stride as u64,
        value_stride: value_rows.stride as u64,
        ..AppendShape::of(layout, n_tokens as u64)
    };
    let plan = AppendPlan::new(match rotary {
        None => shape,
        Some(Rotary { turn, cos_sin }) => {
            let Ok((n_positions, rotary_dim)) = cos_sin.dims2() else {
                let dims = cos_sin.dims();
                bail!("cos_sin: expected [n_positions, rotary_dim], got {dims:?}");
            };
            let [n_positions, rotary_dim] = [n_positions, rotary_dim].map(|n| n as u64);
            AppendShape { turn: *turn, n_positions, rotary_dim, ..shape }
        }
    })
    .w()?;
    let new = NewTokens {
        keys: Source::new(keys, key_rows.span),
        values: Source::new(values, value_rows.span),
        cos_sin: match rotary.filter(|rotary| rotary.turn != Turn::None) {
            Some(Rotary { cos_sin, .. }) => {
                Some(Source::whole::<f32>("cos_sin", cos_sin, cos_sin.dims())?)
            }
            None => None,
        },
    };
    let (lengths, dropped) = by_half!("keys of a cache", cache.keys.dtype(), T => {
        match is_cuda {
            #[cfg(feature = "cuda")]
            true => crate::cuda::kv::append::<T>(&plan, cache, &new),
            _ => append_on_cpu::<T>(&plan, cache, &new),
        }
    })?;
    cache.lengths = lengths;
    Ok(dropped)
}

pub(crate) struct NewTokens<'a> {
    pub(crate) keys: Source<'a>,
    pub(crate) values: Source<'a>,
    pub(crate) cos_sin: Option<Source<'a>>,
}

fn append_on_cpu<T: Half + Number>(
    plan: &AppendPlan,
    cache: &KvCache,
    new: &NewTokens<'_>,
) -> Result<(Tensor, Tensor)> {
    let layout = plan.shape().layout;
    let tables = Tables::new(cache)?;
    let tokens = HostTokens {
        keys: new.keys.slice::<T>()?,
        values: new.values.slice()?,
        counts: None,
        keeps: None,
        positions: None,
        cos_sin: new.cos_sin.as_ref().map_or(Ok(&[][..]), Source::slice)?,
    };
    let (page_table, lengths) = (tables.page_table.slice()?, tables.lengths.slice()?);
    let appended = write_both([&cache.keys, cache.values()?], |[mut keys, mut pool]| {
        let mut rows = HostRows {
            keys: keys.slice(&pool_span(&cache.keys, &layout))?,
            values: pool.slice(&pool_span(cache.values()?, &layout))?,
            page_table,
            lengths,
        };
        Ok(append(plan, &tokens, &mut rows))
    })?;
    let tensor = |all: Vec<u32>| Tensor::from_vec(all, cache.lengths.dims(), &Device::Cpu);
    Ok((tensor(appended.new_lengths)?, tensor(appended.dropped)?))
}
