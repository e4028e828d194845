//! The launches that score, and that score and vote.
#![allow(unsafe_code)]

use super::plan::GroupReduction;
use super::{ScoreKind, ScorePlan};
use crate::bindings::SelectScoreParams;
use crate::buffer::{View, ViewMut};
use crate::element::Float;
use crate::kv::KvView;
use crate::launch::{Arguments, check_aligned, kernel_params};
use crate::queue::Queue;
use crate::region::Role;
use crate::select::Score;
use crate::select::vote::VotePlan;
use crate::{Error, Result};

kernel_params!(SelectScoreParams, "select", "score_rows");

/// What [`score_rows`] and [`score_votes`] read.
#[derive(Debug, Clone, Copy)]
pub struct ScoreInputs<'a, Q, K> {
    /// `[batch, n_q_heads, head_dim]`, requests `query_stride` elements apart.
    pub queries: View<'a, Q>,
    /// The cache of keys, or of what stands for several.
    pub cache: KvView<'a, K>,
    /// `[batch]`: requests where it is not 0 are left alone, their outputs too.
    pub skips: Option<View<'a, u32>>,
}

/// Softmaxes over each query head's scores, and what they are made in.
#[derive(Debug)]
pub struct SoftmaxOutputs<'a> {
    /// `[batch, n_q_heads]`: [`Softmax`](crate::select::reference::Softmax) as bits.
    pub softmaxes: ViewMut<'a, u64>,
    /// [`ScorePlan::workspace_len`] words from a multiple of 16 bytes on, zeros before the first launch; every launch leaves it ready.
    pub workspace: ViewMut<'a, u64>,
}

/// What [`score_rows`] writes.
#[derive(Debug)]
pub struct ScoreOutputs<'a, S> {
    /// `[batch, n_out, n]`, rows `score_stride` elements apart. What a request has no rows for stays what it was.
    pub scores: ViewMut<'a, S>,
    /// Softmaxes over the scores as they are stored.
    pub softmax: Option<SoftmaxOutputs<'a>>,
}

/// What [`score_votes`] writes.
#[derive(Debug)]
pub struct VoteOutputs<'a, S, V> {
    /// `[batch, n_votes, n]`, rows the rule's stride apart. What a request has no rows for stays what it was.
    pub votes: ViewMut<'a, V>,
    /// As of [`ScoreOutputs`], where they are wanted; softmaxes are over scores of this type in any case.
    pub scores: Option<ViewMut<'a, S>>,
}

/// Scores a query's heads against the rows of a paged cache: keys, or what stands for several.
///
/// ```text
/// scores[b, q, t] = queries[b, q] · row(b, t, q / group) * key_scale
/// ```
///
/// # Shapes
/// Those of [`ScoreInputs`] and [`ScoreOutputs`]; sizes are the plan's. Lengths, page tables and skips are read on the
/// device. Each row is read once for all query heads of its group; query head `q` reads head `q / group`.
///
/// # Numerics
/// Bit for bit [`reference::Scored`](crate::select::reference::Scored), on every device: [`number::dot`](crate::number::dot)
/// of f32, one multiplication by `key_scale`, one rounding to `S`, reductions over the rounded scores. Rows of absent pages score -inf;
/// NaN scores are 0x7FFF or 0x7FFFFFFF. Softmaxes are sums of integers, the same in any order; scores whose product with the
/// scale (to base 2) is beyond 2^22 either way count there as 2^22.
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`], [`Error::Range`], [`Error::WrongQueue`] and [`Error::WrongStream`] before anything
/// is launched; [`Error::Driver`] where the launch fails.
pub fn score_rows<Q: Score, K: Float, S: Score>(
    queue: &Queue,
    plan: &ScorePlan,
    inputs: &ScoreInputs<'_, Q, K>,
    outputs: &mut ScoreOutputs<'_, S>,
) -> Result<()> {
    let mut arguments = Arguments::new(queue);
    let mut params = params::<Q, K, S>(plan, inputs, &mut arguments)?;
    params.scores = arguments.written(Role::InOut, "scores", &outputs.scores, plan.scores_len())?;
    if let Some(SoftmaxOutputs { softmaxes, workspace }) = &mut outputs.softmax {
        let role = if inputs.skips.is_some() { Role::InOut } else { Role::Output };
        params.softmaxes = arguments.written(role, "softmaxes", softmaxes, plan.n_softmaxes())?;
        arguments.check_workspace(workspace, plan.workspace_len())?;
        let allowed = "the multiples of 16";
        check_aligned("address of the workspace", workspace.address(), 16, allowed)?;
        let n_tickets = plan.n_tickets() as usize;
        let tickets = workspace.slice_mut(0..n_tickets)?;
        params.tickets = arguments.written(Role::InOut, "tickets", &tickets, plan.n_tickets())?;
        let partials = workspace.slice_mut(n_tickets..workspace.len())?;
        let n_words = plan.workspace_len() - plan.n_tickets();
        params.partial_softmaxes =
            arguments.written(Role::Workspace, "partial softmaxes", &partials, n_words)?;
    }
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&plan.grid(), &params) }
}

/// [`score_rows`] and then [`vote_rows`](crate::select::vote_rows) in one launch, the scores on chip between them: the same
/// bits. For what [`ScorePlan::fits_on_chip`], and for as many votes as fill a device: a block has all rows of the heads that
/// vote together.
///
/// # Errors
/// Those of [`score_rows`]; [`Error::Range`] for what does not fit.
pub fn score_votes<Q: Score, K: Float, S: Score, V: Score>(
    queue: &Queue,
    plan: &VotePlan,
    inputs: &ScoreInputs<'_, Q, K>,
    outputs: &mut VoteOutputs<'_, S, V>,
) -> Result<()> {
    let score = plan.score();
    if !score.fits_on_chip(plan) {
        let value = score.shape().n;
        let allowed = "what fits on chip; score and vote in two launches";
        return Err(Error::Range { what: "rows to score and vote over", value, allowed });
    }
    let mut arguments = Arguments::new(queue);
    let mut params = params::<Q, K, S>(score, inputs, &mut arguments)?;
    let VoteOutputs { votes, scores } = outputs;
    params.votes = arguments.written(Role::InOut, "votes", votes, plan.votes_len())?;
    params.scores =
        arguments.optional_written(Role::InOut, "scores", scores.as_ref(), score.scores_len())?;
    params.vote_stride = plan.rule().stride;
    params.vote_element = V::NUMBER;
    params.vote_reduction = plan.rule().reduction as u32;
    params.n_heads_together = plan.rule().n_heads_together(score) as u32;
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&score.voting_grid(plan), &params) }
}

/// All but the outputs.
fn params<Q: Score, K: Float, S: Score>(
    plan: &ScorePlan,
    inputs: &ScoreInputs<'_, Q, K>,
    arguments: &mut Arguments<'_>,
) -> Result<SelectScoreParams> {
    let shape = plan.shape();
    inputs.cache.check_layout(&shape.layout)?;
    let batch = shape.layout.shape().batch;
    Ok(SelectScoreParams {
        kv: inputs.cache.params(arguments)?,
        queries: arguments.input("queries", &inputs.queries, plan.queries_len())?,
        skips: arguments.optional_input("skips", inputs.skips.as_ref(), batch)?,
        scores: 0,
        softmaxes: 0,
        partial_softmaxes: 0,
        tickets: 0,
        votes: 0,
        query_stride: shape.query_stride,
        score_stride: shape.score_stride,
        vote_stride: 0,
        softmax_scale: plan.log2_scale(),
        mean_scale: plan.mean_scale(),
        n: shape.n as u32,
        n_tiles: plan.n_tiles() as u32,
        group: plan.group() as u32,
        kind: match shape.kind {
            ScoreKind::Dot => 0,
            ScoreKind::Box => 1,
        },
        reduction: match shape.reduction {
            GroupReduction::None => 0,
            GroupReduction::Max => 1,
            GroupReduction::Sum | GroupReduction::Mean => 2,
        },
        query_element: Q::NUMBER,
        score_element: S::NUMBER,
        vote_element: 0,
        n_heads_together: 1,
        vote_reduction: 0,
        n_tiles_together: plan.n_tiles_together() as u32,
        reserved: 0,
    })
}
