//! The launch that votes.
#![allow(unsafe_code)]

use super::VotePlan;
use crate::Result;
use crate::bindings::SelectVoteParams;
use crate::buffer::{View, ViewMut};
use crate::launch::{Arguments, kernel_params};
use crate::queue::Queue;
use crate::region::Role;
use crate::select::Score;

kernel_params!(SelectVoteParams, "select", "vote_rows");

/// What [`vote_rows`] reads.
#[derive(Debug, Clone, Copy)]
pub struct VoteInputs<'a, S> {
    /// `[batch, n_q_heads, n]`, as [`score_rows`](crate::select::score_rows) leaves them.
    pub scores: View<'a, S>,
    /// `[batch, n_q_heads]`, the same.
    pub softmaxes: View<'a, u64>,
    /// `[batch]`: tokens of each request.
    pub lengths: View<'a, u32>,
    /// `[batch]`: requests where it is not 0 are left alone, their outputs too.
    pub skips: Option<View<'a, u32>>,
}

/// Each token's weight in the softmaxes over the context of some query heads: their sum or maximum. The soft vote of
/// TokenSelect (arXiv:2411.02886), with the scale that the softmaxes were made with; ShadowKV's maximum over a
/// group (arXiv:2410.21465).
///
/// ```text
/// votes[b, v, t] = sum over heads q of v: exp2(scores[b, q, t] * scale - greatest[b, q]) * reciprocal[b, q]
/// ```
///
/// # Shapes
/// `votes` is `[batch, n_votes, n]`, rows the rule's stride apart; what a request has no rows for stays what it was.
///
/// # Numerics
/// Bit for bit [`reference::votes`](crate::select::reference::votes). Scores of -inf and NaN weigh nothing; scores whose
/// product with the scale is beyond 2^22 either way count as 2^22.
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::WrongQueue`](crate::Error::WrongQueue) and
/// [`Error::WrongStream`](crate::Error::WrongStream) before anything is launched;
/// [`Error::Driver`](crate::Error::Driver) where the launch fails.
pub fn vote_rows<S: Score, V: Score>(
    queue: &Queue,
    plan: &VotePlan,
    inputs: &VoteInputs<'_, S>,
    votes: &mut ViewMut<'_, V>,
) -> Result<()> {
    let score = plan.score();
    let shape = score.shape();
    let batch = score.batch();
    let mut arguments = Arguments::new(queue);
    let params = SelectVoteParams {
        scores: arguments.input("scores", &inputs.scores, score.scores_len())?,
        softmaxes: arguments.input("softmaxes", &inputs.softmaxes, score.n_softmaxes())?,
        lengths: arguments.input("lengths", &inputs.lengths, batch)?,
        skips: arguments.optional_input("skips", inputs.skips.as_ref(), batch)?,
        votes: arguments.written(Role::InOut, "votes", votes, plan.votes_len())?,
        score_stride: shape.score_stride,
        vote_stride: plan.rule().stride,
        softmax_scale: score.log2_scale(),
        n: shape.n as u32,
        n_q_heads: shape.n_q_heads as u32,
        n_together: plan.n_together() as u32,
        tokens_per_row: shape.layout.shape().tokens_per_row as u32,
        n_rows: shape.layout.n_rows() as u32,
        vote_reduction: plan.rule().reduction as u32,
        score_element: S::NUMBER,
        vote_element: V::NUMBER,
        reserved: 0,
    };
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&plan.grid(), &params) }
}
