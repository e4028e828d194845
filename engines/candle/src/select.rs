//! Which tokens matter.

use candle_core::{DType, Result, Tensor, bail};
use lacuna::element::{Half, Real};
use lacuna::number::dot;
use lacuna::select::reference::{RowRule, Softmax, box_of, box_of_boxes, mean_of, topk_row, votes};
use lacuna::select::{
    GroupReduction, Order, Rule, Score, ScoreKind, ScorePlan, ScoreShape, SummarizePlan,
    SummarizeShape, Summary, Together, TopkPlan, TopkShape, VotePlan, VoteReduction, VoteRule,
};
use rayon::prelude::*;

use crate::Wrap;
use crate::kv::{CacheSource, KvCache, Tables, pool_span};
use crate::storage::{
    Number, Rows, Source, apart, by_half, by_real, check_dims, is_on_cuda, rows, write,
};

/// How rows are scored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoreOptions {
    /// Against keys, or against boxes around them.
    pub kind: ScoreKind,
    /// What becomes of the scores of the query heads that share a head of keys.
    pub reduction: GroupReduction,
}

impl Default for ScoreOptions {
    /// Products with keys, one row for each query head.
    fn default() -> Self {
        Self { kind: ScoreKind::Dot, reduction: GroupReduction::None }
    }
}

/// How heads vote.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VoteOptions {
    /// Which query heads vote together.
    pub together: Together,
    /// What becomes of their softmaxes.
    pub reduction: VoteReduction,
    /// What scores are multiplied by before softmaxes; else one over the root of the head's dimension.
    pub softmax_scale: Option<f32>,
}

impl Default for VoteOptions {
    /// All heads of a layer, by the sum (TokenSelect).
    fn default() -> Self {
        let (together, reduction) = (Together::All, VoteReduction::Sum);
        Self { together, reduction, softmax_scale: None }
    }
}

/// Which scores are picked.
#[derive(Debug, Clone, Copy)]
pub struct TopkOptions<'a> {
    /// Places for picks, at most 8192.
    pub k: usize,
    /// So many of a row's first candidates are always picked,
    pub n_first: usize,
    /// and so many of its last.
    pub n_last: usize,
    /// Which of the others are.
    pub rule: Rule,
    /// In which order they come.
    pub order: Order,
    /// u32 `[batch]`: tokens of each request, of which it has as many rows of scores, one after the other, as there are for each;
    /// else every score is a candidate.
    pub lengths: Option<&'a Tensor>,
    /// Tokens that a score stands for.
    pub tokens_per_score: usize,
}

impl TopkOptions<'_> {
    /// The `k` largest, by their indices.
    pub fn largest(k: usize) -> Self {
        Self {
            k,
            n_first: 0,
            n_last: 0,
            rule: Rule::Largest,
            order: Order::Index,
            lengths: None,
            tokens_per_score: 1,
        }
    }
}

/// What [`topk_rows`] picked.
#[derive(Debug, Clone)]
pub struct Picks {
    /// i32 `[..., k]`: indices into each row, then -1.
    pub indices: Tensor,
    /// u32 `[...]`: how many they are.
    pub counts: Tensor,
}

/// Queries of a launch, `[batch, n_q_heads, head_dim]`.
fn check_queries(queries: &Tensor) -> Result<(usize, usize, usize)> {
    match queries.dims3() {
        Ok(dims) => Ok(dims),
        Err(_) => bail!("queries: expected [batch, n_q_heads, head_dim], got {:?}", queries.dims()),
    }
}

fn score_plan(
    queries: &Tensor,
    cache: &KvCache,
    options: ScoreOptions,
    softmax_scale: Option<f32>,
) -> Result<(ScorePlan, Rows)> {
    let (batch, n_q_heads, head_dim) = check_queries(queries)?;
    let layout = cache.layout()?;
    let kv = layout.shape();
    let shape = match options.kind {
        ScoreKind::Dot => ScoreShape::of(layout, n_q_heads as u64),
        ScoreKind::Box => ScoreShape::of_boxes(layout, n_q_heads as u64),
    };
    let expected = [kv.batch, n_q_heads as u64, shape.query_stride / (n_q_heads as u64).max(1)];
    if [batch, n_q_heads, head_dim].map(|n| n as u64) != expected {
        bail!("queries: expected {expected:?}, got {:?}", queries.dims());
    }
    let queries = rows("queries", queries, 2)?;
    let plan = ScorePlan::new(ScoreShape {
        reduction: options.reduction,
        softmax_scale: softmax_scale.unwrap_or(shape.softmax_scale),
        query_stride: queries.stride as u64,
        ..shape
    })
    .w()?;
    Ok((plan, queries))
}

/// Scores queries against the rows of a cache: keys, or what stands for several.
///
/// `queries` are `[batch, n_q_heads, head_dim]`, f32, bf16 or f16; the answer is f32 `[batch, n, rows of a request's pages]`, where `n` is the
/// query heads or, of reduced groups, the heads of keys. Rows past a request's length are -inf, as those of absent pages.
///
/// # Numerics
/// Bit for bit [`lacuna::select::reference::Scored`].
///
/// # Errors
/// For types, sizes and strides that are not supported.
pub fn score_rows(queries: &Tensor, cache: &KvCache, options: &ScoreOptions) -> Result<Tensor> {
    let mut named = cache.tensors();
    named.push(("queries", queries));
    let is_cuda = is_on_cuda(&named)?;
    let (plan, rows) = score_plan(queries, cache, *options, None)?;
    let dims = (
        plan.shape().layout.shape().batch as usize,
        plan.n_out() as usize,
        plan.shape().n as usize,
    );
    let scores = Tensor::full(f32::NEG_INFINITY, dims, queries.device())?;
    let (queries_source, cache) = (Source::new(queries, rows.span), CacheSource::new(cache)?);
    by_real!("queries", queries.dtype(), Q => {
        by_half!("keys of a cache", cache.dtype, K => match is_cuda {
            #[cfg(feature = "cuda")]
            true => crate::cuda::select::score::<Q, K>(&plan, &queries_source, &cache, &scores),
            _ => score_on_cpu::<Q, K>(&plan, &queries_source, &cache, &scores),
        })
    })?;
    Ok(scores)
}

/// The scores of the query heads of one head of keys: bit for bit [`lacuna::select::reference::Scored::head`], each key widened
/// once.
fn scores_of_group<Q: Score, K: Half>(
    plan: &ScorePlan,
    host: &Host<'_, Q, K>,
    [b, head]: [usize; 2],
) -> Vec<Vec<f32>> {
    let (shape, kv) = (plan.shape(), *plan.shape().layout.shape());
    let [group, d, row_len] = [plan.group(), plan.head_dim(), kv.row_len].map(|n| n as usize);
    let first = b * shape.query_stride as usize + head * group * d;
    let queries = &host.queries[first..][..group * d];
    let queries: Vec<f32> = queries.iter().map(|x| x.to_f32()).collect();
    let n = shape.layout.rows_of(host.lengths[b].into()).min(shape.n);
    let mut scores = vec![Vec::with_capacity(n as usize); group];
    let (mut row, mut bounds) = (vec![0.0; row_len], vec![0.0; d]);
    for t in 0..n {
        let Some(start) = shape.layout.locate(host.page_table, b as u64, t, head as u64) else {
            scores.iter_mut().for_each(|scores| scores.push(f32::NEG_INFINITY));
            continue;
        };
        let key = &host.keys[start..][..row_len];
        row.iter_mut().zip(key).for_each(|(own, x)| *own = x.to_f32());
        for (scores, query) in scores.iter_mut().zip(queries.chunks(d)) {
            let product = match shape.kind {
                ScoreKind::Dot => dot(query, &row),
                ScoreKind::Box => {
                    for (i, bound) in bounds.iter_mut().enumerate() {
                        *bound = if query[i] > 0.0 { row[d + i] } else { row[i] };
                    }
                    dot(query, &bounds)
                }
            };
            // Of NaN the one that kernels write.
            scores.push(<f32 as Real>::from_f32(product));
        }
    }
    scores
}

/// What is scored, on the host: guards of storages stay in their thread, slices do not.
struct Host<'a, Q, K> {
    queries: &'a [Q],
    keys: &'a [K],
    page_table: &'a [i32],
    lengths: &'a [u32],
}

/// The scores of all query heads, by requests.
fn scores_of_heads<Q: Score + Number, K: Half + Number>(
    plan: &ScorePlan,
    queries: &Source<'_>,
    cache: &CacheSource<'_>,
) -> Result<Vec<Vec<f32>>> {
    let host = Host::<Q, K> {
        queries: queries.slice()?,
        keys: cache.keys.slice()?,
        page_table: cache.tables.page_table.slice()?,
        lengths: cache.tables.lengths.slice()?,
    };
    let kv = plan.shape().layout.shape();
    let (n_groups, n_heads) = ((kv.batch * kv.n_heads) as usize, kv.n_heads as usize);
    let of = |i: usize| scores_of_group(plan, &host, [i / n_heads, i % n_heads]);
    Ok((0..n_groups).into_par_iter().flat_map_iter(of).collect())
}

/// What becomes of a group's scores of a row.
fn reduce(plan: &ScorePlan, mut scores: impl Iterator<Item = f32>) -> f32 {
    match plan.shape().reduction {
        GroupReduction::Max => {
            let most = |most, score| if score > most { score } else { most };
            scores.fold(f32::NEG_INFINITY, most)
        }
        _ => {
            let first = scores.next().unwrap_or_default();
            let sum = scores.fold(first, |sum, score| sum + score);
            <f32 as Real>::from_f32(sum * plan.mean_scale())
        }
    }
}

fn score_on_cpu<Q: Score + Number, K: Half + Number>(
    plan: &ScorePlan,
    queries: &Source<'_>,
    cache: &CacheSource<'_>,
    scores: &Tensor,
) -> Result<()> {
    let heads = scores_of_heads::<Q, K>(plan, queries, cache)?;
    let n_together = match plan.shape().reduction {
        GroupReduction::None => 1,
        _ => plan.group() as usize,
    };
    let n = (plan.shape().n as usize).max(1);
    write(scores, |mut target, layout| {
        let all = target.slice::<f32>(&(0..layout.shape().elem_count()))?;
        for (own, heads) in all.chunks_mut(n).zip(heads.chunks(n_together)) {
            if plan.shape().reduction == GroupReduction::None {
                own[..heads[0].len()].copy_from_slice(&heads[0]);
                continue;
            }
            for (t, own) in own[..heads[0].len()].iter_mut().enumerate() {
                *own = reduce(plan, heads.iter().map(|scores| scores[t]));
            }
        }
        Ok(())
    })
}

/// Each token's weight in the softmaxes over the context of some query heads, summed or the greatest: the soft vote of TokenSelect.
///
/// `queries` are as those of [`score_rows`]; the answer is f32 `[batch, n_votes, rows of a request's pages]`, 0 past a request's length. What is
/// no candidate is left out of softmaxes by the cache that is given: one whose page table has -1 for the first pages, and whose lengths
/// leave the window out.
///
/// # Numerics
/// Bit for bit [`lacuna::select::reference::votes`] over f32 scores.
///
/// # Errors
/// For types, sizes and strides that are not supported.
pub fn vote_rows(queries: &Tensor, cache: &KvCache, options: &VoteOptions) -> Result<Tensor> {
    let mut named = cache.tensors();
    named.push(("queries", queries));
    let is_cuda = is_on_cuda(&named)?;
    let (plan, rows) = score_plan(queries, cache, ScoreOptions::default(), options.softmax_scale)?;
    let VoteOptions { together, reduction, .. } = *options;
    let vote =
        VotePlan::new(&plan, VoteRule { together, reduction, stride: plan.shape().n }).w()?;
    let dims = (
        plan.shape().layout.shape().batch as usize,
        vote.n_votes() as usize,
        plan.shape().n as usize,
    );
    let answer = Tensor::zeros(dims, DType::F32, queries.device())?;
    let (queries_source, cache) = (Source::new(queries, rows.span), CacheSource::new(cache)?);
    by_real!("queries", queries.dtype(), Q => {
        by_half!("keys of a cache", cache.dtype, K => match is_cuda {
            #[cfg(feature = "cuda")]
            true => crate::cuda::select::vote::<Q, K>(&vote, &queries_source, &cache, &answer),
            _ => vote_on_cpu::<Q, K>(&vote, &queries_source, &cache, &answer),
        })
    })?;
    Ok(answer)
}

fn vote_on_cpu<Q: Score + Number, K: Half + Number>(
    plan: &VotePlan,
    queries: &Source<'_>,
    cache: &CacheSource<'_>,
    answer: &Tensor,
) -> Result<()> {
    let score = plan.score();
    let scale = score.log2_scale();
    let [n, n_together] = [score.shape().n, plan.n_together()].map(|n| n as usize);
    let heads = scores_of_heads::<Q, K>(score, queries, cache)?;
    let with_softmax = |scores: Vec<f32>| {
        let softmax = Softmax::of(&scores, scale);
        (scores, softmax)
    };
    let heads: Vec<_> = heads.into_par_iter().map(with_softmax).collect();
    if n == 0 {
        return Ok(());
    }
    write(answer, |mut target, layout| {
        let all = target.slice::<f32>(&(0..layout.shape().elem_count()))?;
        let each = all.par_chunks_mut(n).zip(heads.par_chunks(n_together));
        each.for_each(|(own, heads)| {
            let heads: Vec<_> =
                heads.iter().map(|(scores, softmax)| (&scores[..], *softmax)).collect();
            let votes = votes::<f32, f32>(&heads, scale, plan.rule().reduction);
            own[..votes.len()].copy_from_slice(&votes);
        });
        Ok(())
    })
}

/// Picks the first scores of each row, `[..., n]` of f32, bf16 or f16, rows any even distance apart.
///
/// # Numerics
/// Bit for bit [`lacuna::select::reference::topk_row`].
///
/// # Errors
/// For types, sizes and strides that are not supported.
pub fn topk_rows(scores: &Tensor, options: &TopkOptions<'_>) -> Result<Picks> {
    let Some((n, before)) = scores.dims().split_last() else {
        bail!("scores: expected [..., n], got a scalar");
    };
    let mut named = vec![("scores", scores)];
    named.extend(options.lengths.map(|lengths| ("lengths", lengths)));
    let is_cuda = is_on_cuda(&named)?;
    let rows = rows("scores", scores, 1)?;
    let n_requests = match options.lengths {
        Some(lengths) => lengths.elem_count(),
        None => rows.n,
    };
    if n_requests == 0 && rows.n > 0 || n_requests > 0 && !rows.n.is_multiple_of(n_requests) {
        bail!(
            "lengths: {n_requests} requests, and {} rows of scores are not as many for each",
            rows.n
        );
    }
    let shape = TopkShape {
        n_rows: rows.n as u64,
        n: *n as u64,
        row_stride: rows.stride as u64,
        k: options.k as u64,
        n_first: options.n_first as u64,
        n_last: options.n_last as u64,
        rows_per_request: (rows.n / n_requests.max(1)).max(1) as u64,
        tokens_per_score: options.tokens_per_score as u64,
        score_bytes: scores.dtype().size_in_bytes() as u32,
        rule: options.rule,
        order: options.order,
        pages: None,
    };
    let indices = Tensor::full(-1_i32, [before, &[options.k]].concat(), scores.device())?;
    let counts = Tensor::zeros(before, DType::U32, scores.device())?;
    let picks = Picks { indices, counts };
    let lengths = match options.lengths {
        Some(lengths) => Some(Source::whole::<u32>("lengths", lengths, &[n_requests])?),
        None => None,
    };
    let source = Source::new(scores, rows.span);
    by_real!("scores", scores.dtype(), T => {
        let plan = TopkPlan::new(shape).w()?;
        match is_cuda {
            #[cfg(feature = "cuda")]
            true => crate::cuda::select::topk::<T>(&plan, &source, lengths.as_ref(), &picks),
            _ => topk_on_cpu::<T>(&plan, &source, lengths.as_ref(), &picks),
        }
    })?;
    Ok(picks)
}

fn topk_on_cpu<T: Score + Number>(
    plan: &TopkPlan,
    scores: &Source<'_>,
    lengths: Option<&Source<'_>>,
    picks: &Picks,
) -> Result<()> {
    let shape = *plan.shape();
    let scores = scores.slice::<T>()?;
    let lengths = lengths.map(|lengths| lengths.slice::<u32>()).transpose()?;
    let n = shape.n as usize;
    let of_row = |row: usize| {
        let length = lengths.map_or(n, |lengths| {
            let n_tokens = u64::from(lengths[row / shape.rows_per_request as usize]);
            n_tokens.div_ceil(shape.tokens_per_score) as usize
        });
        let rule = RowRule {
            start: 0,
            length,
            k: shape.k as usize,
            asked: None,
            n_first: shape.n_first as usize,
            n_last: shape.n_last as usize,
            rule: shape.rule,
            order: shape.order,
        };
        topk_row(&scores[row * shape.row_stride as usize..][..n], &rule).indices
    };
    let found: Vec<_> = (0..shape.n_rows as usize).into_par_iter().map(of_row).collect();
    write(&picks.indices, |mut target, layout| {
        let all = target.slice::<i32>(&(0..layout.shape().elem_count()))?;
        for (own, found) in all.chunks_mut((shape.k as usize).max(1)).zip(&found) {
            own.iter_mut().zip(found).for_each(|(own, index)| *own = *index as i32);
        }
        Ok(())
    })?;
    write(&picks.counts, |mut target, layout| {
        let all = target.slice::<u32>(&(0..layout.shape().elem_count()))?;
        all.iter_mut().zip(&found).for_each(|(own, found)| *own = found.len() as u32);
        Ok(())
    })
}

/// A cache of boxes, one around the keys of each page of `cache`, on the page of the same number: nothing is in it yet.
///
/// # Errors
/// For tensors that are no cache, and heads that are too long.
pub fn box_cache(cache: &KvCache) -> Result<KvCache> {
    let kv = *cache.layout()?.shape();
    let dims = [kv.n_pages, 1, kv.n_heads, 2 * kv.row_len].map(|n| n as usize);
    let boxes = KvCache {
        keys: Tensor::zeros(&dims[..], cache.keys.dtype(), cache.keys.device())?,
        values: None,
        page_table: cache.page_table.clone(),
        lengths: cache.lengths.clone(),
        tokens_per_row: kv.page_size as usize,
    };
    boxes.layout()?;
    Ok(boxes)
}

/// Makes the rows of `summaries` that stand for new tokens of `cache`, in place: those from `first_new`, u32 `[batch]`, on, or all. The
/// lengths of `summaries` are then those of `cache`.
///
/// # Numerics
/// Bit for bit [`lacuna::select::reference::box_of`] and its neighbours.
///
/// # Errors
/// For types, sizes and strides that are not supported, among them [`Summary::MeanAndOutlier`], for whose outliers there is no tensor here.
pub fn summarize(
    cache: &KvCache,
    summaries: &mut KvCache,
    summary: Summary,
    first_new: Option<&Tensor>,
) -> Result<()> {
    if summary == Summary::MeanAndOutlier {
        bail!("summaries: Box, Mean and BoxOfBoxes are supported, got {summary:?}");
    }
    let batch = cache.lengths.dims().to_vec();
    summaries.lengths = cache.lengths.clone();
    let mut named = cache.tensors();
    named.push(("summary table", &summaries.page_table));
    named.extend(first_new.map(|first_new| ("first_new", first_new)));
    let written = [("summaries", &summaries.keys)];
    let is_cuda = is_on_cuda(&[&named[..], &written].concat())?;
    apart(&written, &named)?;
    crate::storage::check_type("summaries", &summaries.keys, cache.keys.dtype())?;
    let plan = SummarizePlan::new(SummarizeShape {
        keys: cache.layout()?,
        summaries: summaries.layout()?,
        summary,
        // For the size of the grid alone: new tokens are a step's, and without `first_new` all are new.
        max_new: match first_new {
            Some(_) => summaries.tokens_per_row as u64,
            None => cache.layout()?.n_rows().saturating_mul(cache.tokens_per_row as u64),
        },
        key_bytes: 2,
        outlier_stride: 0,
    })
    .w()?;
    if let Some(first_new) = first_new {
        check_dims("first_new", first_new, &batch)?;
    }
    let first_new =
        first_new.map(|first| Source::whole::<u32>("first_new", first, &batch)).transpose()?;
    let (keys, tables) = (CacheSource::new(cache)?, Tables::new(summaries)?);
    by_half!("keys of a cache", cache.keys.dtype(), K => match is_cuda {
        #[cfg(feature = "cuda")]
        true => crate::cuda::select::summarize::<K>(&plan, &keys, &tables, first_new.as_ref(), &summaries.keys),
        _ => summarize_on_cpu::<K>(&plan, &keys, &tables, first_new.as_ref(), &summaries.keys),
    })
}

fn summarize_on_cpu<K: Half + Score + Number>(
    plan: &SummarizePlan,
    cache: &CacheSource<'_>,
    summary_tables: &Tables<'_>,
    first_new: Option<&Source<'_>>,
    summaries: &Tensor,
) -> Result<()> {
    let shape = plan.shape();
    let (kv, row_len) = (*shape.keys.shape(), shape.summaries.shape().row_len as usize);
    let keys = cache.keys.slice::<K>()?;
    let page_table = cache.tables.page_table.slice::<i32>()?;
    let lengths = cache.tables.lengths.slice::<u32>()?;
    let summary_table = summary_tables.page_table.slice::<i32>()?;
    let first_new = first_new.map(|first| first.slice::<u32>()).transpose()?;
    let tokens_per_row = shape.summaries.shape().tokens_per_row;
    let fan = tokens_per_row / kv.tokens_per_row;
    let mut places = Vec::new();
    for (b, length) in lengths.iter().enumerate() {
        let first = first_new.map_or(0, |first| u64::from(first[b]) / tokens_per_row);
        let n =
            if first_new.is_some_and(|first| first[b] >= *length) { 0 } else { u64::from(*length) };
        for t in first..shape.summaries.rows_of(n) {
            for head in 0..kv.n_heads {
                let place = shape.summaries.locate(summary_table, b as u64, t, head);
                places.extend(place.map(|start| (start, b as u64, t, head)));
            }
        }
    }
    let made: Vec<(usize, Vec<K>)> = places
        .into_par_iter()
        .map(|(start, b, t, head)| {
            let n_rows = shape.keys.rows_of(lengths[b as usize].into());
            let rows = (t * fan..((t + 1) * fan).min(n_rows))
                .filter_map(|row| shape.keys.locate(page_table, b, row, head));
            let rows: Vec<&[K]> =
                rows.map(|start| &keys[start..start + kv.row_len as usize]).collect();
            let len = kv.row_len as usize;
            let made = match shape.summary {
                Summary::Box => box_of::<K, K>(&rows, len),
                Summary::BoxOfBoxes => box_of_boxes(&rows, len),
                _ => mean_of::<K, K>(&rows, len),
            };
            (start, made)
        })
        .collect();
    write(summaries, |mut target, _| {
        let pool = target.slice::<K>(&pool_span(summaries, &shape.summaries))?;
        for (start, made) in made {
            pool[start..start + row_len].copy_from_slice(&made);
        }
        Ok(())
    })
}
