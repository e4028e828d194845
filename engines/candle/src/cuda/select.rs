//! Selecting, on CUDA.

use candle_core::{DType, Result, Tensor};
use lacuna::element::Half;
use lacuna::select::{
    self, Score, ScoreInputs, ScoreOutputs, ScorePlan, SoftmaxOutputs, SummarizeInputs,
    SummarizeOutputs, SummarizePlan, TopkInputs, TopkOutputs, TopkPlan, VoteInputs, VotePlan,
};

use super::kv::{LentCache, optional};
use super::{check_aligned, stream_of, workspace};
use crate::Wrap;
use crate::kv::{CacheSource, Tables, pool_span};
use crate::select::Picks;
use crate::storage::{Number, Source, write, write_both};

pub(crate) fn score<Q: Score + Number, K: Half + Number>(
    plan: &ScorePlan,
    queries: &Source<'_>,
    cache: &CacheSource<'_>,
    scores: &Tensor,
) -> Result<()> {
    let stream = stream_of(scores.device())?;
    let raw = &stream.stream;
    let (queries, cache) = (queries.view::<Q>(raw)?, LentCache::<K>::new(cache, &stream)?);
    let inputs = ScoreInputs { queries: queries.view, cache: cache.view(), skips: None };
    write(scores, |mut target, layout| {
        let mut scores = target.view::<f32>(&(0..layout.shape().elem_count()), raw)?;
        let mut outputs = ScoreOutputs { scores: scores.all(), softmax: None };
        select::score_rows(&stream.queue, plan, &inputs, &mut outputs).w()
    })
}

pub(crate) fn vote<Q: Score + Number, K: Half + Number>(
    plan: &VotePlan,
    queries: &Source<'_>,
    cache: &CacheSource<'_>,
    votes: &Tensor,
) -> Result<()> {
    let (stream, device) = (stream_of(votes.device())?, votes.device());
    let (raw, score) = (&stream.stream, plan.score());
    let (queries, cache) = (queries.view::<Q>(raw)?, LentCache::<K>::new(cache, &stream)?);
    let inputs = ScoreInputs { queries: queries.view, cache: cache.view(), skips: None };
    let scores = workspace(score.scores_len(), DType::F32, device)?;
    let softmaxes = workspace(score.n_softmaxes(), DType::I64, device)?;
    let words = workspace(score.workspace_len(), DType::I64, device)?;
    let [n_scores, n_softmaxes, n_words, n_votes] =
        [score.scores_len(), score.n_softmaxes(), score.workspace_len(), plan.votes_len()]
            .map(|n| 0..n as usize);
    write_both([&scores, &softmaxes], |[mut scores, mut softmaxes]| {
        write_both([&words, votes], |[mut words, mut votes]| {
            let mut scores = scores.view::<f32>(&n_scores, raw)?;
            let mut softmaxes = softmaxes.view_u64(&n_softmaxes, raw)?;
            let mut words = words.view_u64(&n_words, raw)?;
            let softmax =
                Some(SoftmaxOutputs { softmaxes: softmaxes.all(), workspace: words.all() });
            let mut outputs = ScoreOutputs { scores: scores.all(), softmax };
            select::score_rows(&stream.queue, score, &inputs, &mut outputs).w()?;
            let inputs = VoteInputs {
                scores: scores.view.as_view(),
                softmaxes: softmaxes.view.as_view(),
                lengths: inputs.cache.lengths,
                skips: None,
            };
            let mut votes = votes.view::<f32>(&n_votes, raw)?;
            select::vote_rows(&stream.queue, plan, &inputs, &mut votes.view).w()
        })
    })
}

pub(crate) fn topk<T: Score + Number>(
    plan: &TopkPlan,
    scores: &Source<'_>,
    lengths: Option<&Source<'_>>,
    picks: &Picks,
) -> Result<()> {
    let stream = stream_of(picks.indices.device())?;
    let raw = &stream.stream;
    let scores = scores.view::<T>(raw)?;
    let lengths = lengths.map(|lengths| lengths.view::<u32>(raw)).transpose()?;
    let inputs = TopkInputs { lengths: optional(&lengths), ..TopkInputs::whole(scores.view) };
    write_both([&picks.indices, &picks.counts], |[mut indices, mut counts]| {
        let mut indices = indices.view::<i32>(&(0..plan.picks_len() as usize), raw)?;
        let mut counts = counts.view::<u32>(&(0..plan.shape().n_rows as usize), raw)?;
        let mut outputs = TopkOutputs::new(indices.all(), counts.all());
        select::topk_rows(&stream.queue, plan, &inputs, &mut outputs).w()
    })
}

pub(crate) fn summarize<K: Half + Score + Number>(
    plan: &SummarizePlan,
    keys: &CacheSource<'_>,
    tables: &Tables<'_>,
    first_new: Option<&Source<'_>>,
    summaries: &Tensor,
) -> Result<()> {
    let stream = stream_of(summaries.device())?;
    let raw = &stream.stream;
    let keys = LentCache::<K>::new(keys, &stream)?;
    let summary_table = tables.page_table.view::<i32>(raw)?;
    let first_new = first_new.map(|first| first.view::<u32>(raw)).transpose()?;
    let inputs = SummarizeInputs {
        keys: keys.view(),
        summary_table: summary_table.view,
        first_new: optional(&first_new),
    };
    write(summaries, |mut target, _| {
        let mut rows = target.view::<K>(&pool_span(summaries, &plan.shape().summaries), raw)?;
        check_aligned("summaries", rows.view.address())?;
        let mut outputs = SummarizeOutputs { rows: rows.all(), outliers: None };
        select::summarize(&stream.queue, plan, &inputs, &mut outputs).w()
    })
}
