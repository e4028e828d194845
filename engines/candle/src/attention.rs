//! Attention over what was selected, or over all of a cache.

use candle_core::{DType, Device, Result, Tensor, bail};
use lacuna::attention::reference::{Attended as Reference, HostSegment};
use lacuna::attention::{AttendPlan, AttendShape, Logits, Mask, SegmentShape, Tokens};
use lacuna::element::{Half, Real};
use lacuna::kv::KvLists;
use lacuna::mma::Model;
use rayon::prelude::*;

use crate::Wrap;
use crate::kv::{CacheSource, KvCache};
use crate::plain;
use crate::storage::{
    Number, Rows, Source, by_half, by_real, check_dims, check_type, is_on_cuda, rows,
};

/// Whose tensor cores references answer like: those of compute capability 9.0.
const MODEL: Model = Model::HOPPER;

/// Rows of a cache that queries attend to.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// The cache.
    pub cache: &'a KvCache,
    /// Which of its rows: a range, or blocks of so many rows by the numbers in `indices`.
    pub tokens: Tokens,
    /// Of blocks, i32 `[batch, n]`, or `[batch, n_heads, n]` for each head of keys: as [`Picks`](crate::Picks) has them.
    pub indices: Option<&'a Tensor>,
    /// u32 `[batch]` or `[batch, n_heads]`: how many of each list's numbers count; else all that name a row.
    pub counts: Option<&'a Tensor>,
    /// Which rows a query sees.
    pub mask: Mask,
}

impl<'a> Segment<'a> {
    /// A range of rows: [`Tokens::ALL`], [`Tokens::first`], [`Tokens::last`].
    pub fn range(cache: &'a KvCache, tokens: Tokens) -> Self {
        Self { cache, tokens, indices: None, counts: None, mask: Mask::None }
    }

    /// Blocks of `block_size` rows by their numbers: of 1, tokens; of a page's rows, pages.
    pub fn blocks(
        cache: &'a KvCache,
        indices: &'a Tensor,
        counts: Option<&'a Tensor>,
        block_size: usize,
    ) -> Self {
        let n_blocks = indices.dims().last().copied().unwrap_or(0) as u64;
        let tokens = Tokens::Blocks { n_blocks, block_size: block_size as u64 };
        Self { cache, tokens, indices: Some(indices), counts, mask: Mask::None }
    }

    /// The same where a query sees other rows.
    #[must_use]
    pub fn masked(self, mask: Mask) -> Self {
        Self { mask, ..self }
    }

    /// Whose lists of blocks there are.
    fn lists(&self) -> KvLists {
        match self.indices.map(Tensor::rank) {
            Some(3) => KvLists::PerHead,
            _ => KvLists::PerRequest,
        }
    }

    fn shape(&self) -> Result<SegmentShape> {
        let layout = self.cache.layout()?;
        self.cache.values()?;
        let kv = layout.shape();
        let (batch, n_heads) = (kv.batch as usize, kv.n_heads as usize);
        let lists = self.lists();
        let of_lists = match lists {
            KvLists::PerHead => vec![batch, n_heads],
            KvLists::PerRequest => vec![batch],
        };
        if let (Tokens::Blocks { n_blocks, .. }, Some(indices)) = (self.tokens, self.indices) {
            check_type("indices", indices, DType::I32)?;
            check_dims("indices", indices, &[&of_lists[..], &[n_blocks as usize]].concat())?;
        }
        if let Some(counts) = self.counts {
            check_type("counts", counts, DType::U32)?;
            check_dims("counts", counts, &of_lists)?;
        }
        Ok(SegmentShape { layout, tokens: self.tokens, lists, mask: self.mask })
    }
}

/// How queries attend.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttendOptions<'a> {
    /// What products are multiplied by; else one over the root of the head's dimension.
    pub scale: Option<f32>,
    /// Logits become `soft_cap * tanh(logit / soft_cap)`.
    pub soft_cap: Option<f32>,
    /// f32 `[n_q_heads]`: a logit that each softmax has besides, of no value.
    pub sinks: Option<&'a Tensor>,
    /// The type of outputs, f32, bf16 or f16; else the queries'.
    pub dtype: Option<DType>,
    /// On the CPU, the very bits that a device of compute capability 9.0 gives, by a model of its tensor cores, which is slow
    /// (`examples/step.rs`). Else sums of f32, which are nearer to what the formula says.
    pub is_exact: bool,
}

/// What attention gives.
#[derive(Debug, Clone)]
pub struct Attended {
    /// As the queries are: `[batch, n_q_heads, head_dim]`, or `[batch, n_queries, n_q_heads, head_dim]`.
    pub outputs: Tensor,
    /// f32, the same without the last dimension: the logarithm of the sum of `exp(logit)`, sinks among them.
    pub log_sums: Tensor,
}

/// A launch, checked.
pub(crate) struct Launch<'a> {
    pub(crate) plan: AttendPlan,
    pub(crate) queries: Source<'a>,
    pub(crate) segments: Vec<SegmentSource<'a>>,
    pub(crate) sinks: Option<Source<'a>>,
    pub(crate) is_cuda: bool,
}

pub(crate) struct SegmentSource<'a> {
    pub(crate) cache: CacheSource<'a>,
    pub(crate) indices: Option<Source<'a>>,
    pub(crate) counts: Option<Source<'a>>,
}

impl<'a> Launch<'a> {
    pub(crate) fn new(
        queries: &'a Tensor,
        segments: &[Segment<'a>],
        options: &AttendOptions<'a>,
    ) -> Result<Self> {
        let Some(first) = segments.first() else {
            bail!("segments of attention: expected 1 to 4, got none");
        };
        let (batch, n_queries, n_q_heads, head_dim) = match *queries.dims() {
            [batch, n_q_heads, head_dim] => (batch, 1, n_q_heads, head_dim),
            [batch, n_queries, n_q_heads, head_dim] => (batch, n_queries, n_q_heads, head_dim),
            _ => bail!(
                "queries: expected [batch, n_q_heads, head_dim] or [batch, n_queries, n_q_heads, head_dim], got {:?}",
                queries.dims()
            ),
        };
        let mut named = vec![("queries", queries)];
        for segment in segments {
            named.extend(segment.cache.tensors());
            named.extend(segment.indices.map(|indices| ("indices", indices)));
            named.extend(segment.counts.map(|counts| ("counts", counts)));
            check_type("keys of a cache", &segment.cache.keys, queries.dtype())?;
        }
        named.extend(options.sinks.map(|sinks| ("sinks", sinks)));
        let is_cuda = is_on_cuda(&named)?;
        let Rows { span, stride, .. } = rows("queries", queries, 2)?;
        let shapes = segments.iter().map(Segment::shape).collect::<Result<Vec<_>>>()?;
        let shape = AttendShape::of(&first.cache.layout()?, n_q_heads as u64);
        let logits = Logits::of(head_dim as u64);
        let shape = AttendShape {
            batch: batch as u64,
            n_queries: n_queries as u64,
            head_dim: head_dim as u64,
            query_stride: stride as u64,
            output_stride: (n_q_heads * head_dim) as u64,
            logits: Logits {
                scale: options.scale.unwrap_or(logits.scale),
                soft_cap: options.soft_cap,
                ..logits
            },
            ..shape
        };
        let plan = AttendPlan::new(shape, &shapes).w()?;
        let sources = segments.iter().map(|segment| {
            let whole = |what, tensor: Option<&'a Tensor>, dtype| match (tensor, dtype) {
                (None, _) => Ok(None),
                (Some(tensor), DType::I32) => {
                    Source::whole::<i32>(what, tensor, tensor.dims()).map(Some)
                }
                (Some(tensor), _) => Source::whole::<u32>(what, tensor, tensor.dims()).map(Some),
            };
            Ok(SegmentSource {
                cache: CacheSource::new(segment.cache)?,
                indices: whole("indices", segment.indices, DType::I32)?,
                counts: whole("counts", segment.counts, DType::U32)?,
            })
        });
        Ok(Self {
            plan,
            queries: Source::new(queries, span),
            segments: sources.collect::<Result<_>>()?,
            sinks: match options.sinks {
                Some(sinks) => Some(Source::whole::<f32>("sinks", sinks, &[n_q_heads])?),
                None => None,
            },
            is_cuda,
        })
    }

    /// For the references.
    pub(crate) fn host_segments<T: Half + Number>(&self) -> Result<Vec<HostSegment<'_, T>>> {
        let mut all = Vec::with_capacity(self.segments.len());
        for SegmentSource { cache, indices, counts } in &self.segments {
            let Some(values) = &cache.values else { bail!("a segment's cache has no values") };
            all.push(HostSegment {
                keys: cache.keys.slice()?,
                values: values.slice()?,
                page_table: cache.tables.page_table.slice()?,
                lengths: cache.tables.lengths.slice()?,
                indices: indices.as_ref().map_or(Ok(&[][..]), Source::slice)?,
                counts: counts.as_ref().map(Source::slice).transpose()?,
                biases: None,
            });
        }
        Ok(all)
    }

    /// The launch on the CPU.
    pub(crate) fn reference<'s, T: Half + Number>(
        &'s self,
        plan: &'s AttendPlan,
        segments: &'s [HostSegment<'s, T>],
    ) -> Result<Reference<'s, T>> {
        Ok(Reference {
            plan,
            model: MODEL,
            queries: self.queries.slice()?,
            segments,
            sinks: self.sinks.as_ref().map(Source::slice).transpose()?,
            low_rank: None,
        })
    }
}

/// Attention of a step's queries over the rows of one to four segments, one after the other: all of a cache, a range, what was picked.
///
/// `queries` are of the caches' type, bf16 or f16, `[batch, n_q_heads, head_dim]` or of up to 8 queries of each request
/// `[batch, n_queries, n_q_heads, head_dim]`, requests any even distance apart.
///
/// # Numerics
/// On CUDA, bit for bit [`lacuna::attention::reference::Attended`]; on the CPU that too where
/// [`is_exact`](AttendOptions::is_exact) asks for it, and else sums of f32.
///
/// # Errors
/// For types, sizes and strides that are not supported.
pub fn attend(
    queries: &Tensor,
    segments: &[Segment<'_>],
    options: &AttendOptions<'_>,
) -> Result<Attended> {
    let launch = Launch::new(queries, segments, options)?;
    let dtype = options.dtype.unwrap_or(queries.dtype());
    let dims = queries.dims();
    by_half!("queries", queries.dtype(), T => by_real!("outputs of attention", dtype, O => {
        match launch.is_cuda {
            #[cfg(feature = "cuda")]
            true => crate::cuda::attention::attend::<T, O>(&launch, queries),
            _ => attend_on_cpu::<T, O>(&launch, dims, options.is_exact),
        }
    }))
}

fn attend_on_cpu<T: Half + Number, O: Real + Number>(
    launch: &Launch<'_>,
    dims: &[usize],
    is_exact: bool,
) -> Result<Attended> {
    let segments = launch.host_segments::<T>()?;
    let reference = launch.reference::<T>(&launch.plan, &segments)?;
    let head_dim = launch.plan.shape().head_dim as usize;
    finish::<O>(
        dims,
        match is_exact {
            true => each_head(&launch.plan, |b, i, q| reference.query(b, i, q)),
            false => plain::attend(&reference, |_, _| plain::Rows::new(head_dim)),
        },
    )
}

/// What the reference says of each request's queries and their heads, an output and its log-sum.
pub(crate) fn each_head(
    plan: &AttendPlan,
    answer: impl Fn(usize, usize, usize) -> (Vec<f32>, f32) + Sync,
) -> Vec<(Vec<f32>, f32)> {
    let [n_queries, n_q_heads] =
        [plan.shape().n_queries, plan.shape().n_q_heads].map(|n| n as usize);
    let of_row = |row: usize| {
        let (token, q) = (row / n_q_heads, row % n_q_heads);
        answer(token / n_queries, token % n_queries, q)
    };
    (0..plan.log_sums_len() as usize).into_par_iter().map(of_row).collect()
}

/// Answers as tensors, for queries of these dimensions.
pub(crate) fn finish<O: Real + Number>(
    dims: &[usize],
    answers: Vec<(Vec<f32>, f32)>,
) -> Result<Attended> {
    let mut outputs = Vec::with_capacity(dims.iter().product());
    let mut log_sums = Vec::with_capacity(answers.len());
    for (output, log_sum) in answers {
        outputs.extend(output.into_iter().map(<O as Real>::from_f32));
        log_sums.push(log_sum);
    }
    Ok(Attended {
        outputs: Tensor::from_vec(outputs, dims, &Device::Cpu)?,
        log_sums: Tensor::from_vec(log_sums, &dims[..dims.len() - 1], &Device::Cpu)?,
    })
}
