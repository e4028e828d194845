//! The shape of a launch that votes.

use crate::error::check_below;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::select::score::{GroupReduction, ScorePlan};
use crate::{Error, Result};

#[cfg(any(feature = "cuda", feature = "simt"))]
const THREADS_PER_BLOCK: u32 = 256;

/// Which query heads vote together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Together {
    /// Each by itself: the softmax.
    #[default]
    QueryHead,
    /// Those that share a head of keys (ShadowKV, RetroInfer).
    Group,
    /// All (TokenSelect).
    All,
}

/// What becomes of their softmaxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum VoteReduction {
    /// The sum, of ascending heads.
    #[default]
    Sum = 0,
    /// The maximum.
    Max = 1,
}

/// How heads vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VoteRule {
    /// Which query heads vote together.
    pub together: Together,
    /// What becomes of their softmaxes.
    pub reduction: VoteReduction,
    /// Elements from one row of votes to the next, at least the rows that are scored.
    pub stride: u64,
}

impl VoteRule {
    /// Heads of keys whose query heads vote together; 0 where single query heads do.
    pub(crate) fn n_heads_together(&self, score: &ScorePlan) -> u64 {
        match self.together {
            Together::QueryHead => 0,
            Together::Group => 1,
            Together::All => score.shape().layout.shape().n_heads,
        }
    }
}

/// A launch that votes over what a [`ScorePlan`] scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VotePlan {
    score: ScorePlan,
    rule: VoteRule,
}

impl VotePlan {
    /// # Errors
    /// [`Error::Range`] for scores of reduced groups, and for what is too large.
    pub fn new(score: &ScorePlan, rule: VoteRule) -> Result<Self> {
        let shape = score.shape();
        if shape.reduction != GroupReduction::None {
            let (what, value) = ("rows of scores of a vote", score.n_out());
            return Err(Error::Range { what, value, allowed: "those of all query heads" });
        }
        if rule.stride < shape.n {
            let (what, value) = ("stride between rows of votes, in elements", rule.stride);
            return Err(Error::Range { what, value, allowed: "the rows to score and more" });
        }
        let n_bytes = score.n_softmaxes().checked_mul(rule.stride).and_then(|n| n.checked_mul(4));
        check_below("bytes of votes", n_bytes.unwrap_or(u64::MAX), 1 << 47, "0..2^47")?;
        check_below("query heads", shape.n_q_heads, 1 << 16, "0..65536")?;
        Ok(Self { score: *score, rule })
    }

    /// What is voted over.
    pub fn score(&self) -> &ScorePlan {
        &self.score
    }

    /// How.
    pub fn rule(&self) -> &VoteRule {
        &self.rule
    }

    /// Query heads that vote together.
    pub fn n_together(&self) -> u64 {
        match self.rule.together {
            Together::QueryHead => 1,
            Together::Group => self.score.group(),
            Together::All => self.score.shape().n_q_heads,
        }
    }

    /// Rows of votes of a request.
    pub fn n_votes(&self) -> u64 {
        self.score.shape().n_q_heads / self.n_together()
    }

    /// Elements from the first of the first row of votes to the last of the last.
    pub fn votes_len(&self) -> u64 {
        let n_rows = self.score.batch() * self.n_votes();
        crate::plan::spread(n_rows, self.rule.stride, self.score.shape().n)
    }

    /// Bytes that any kernel moves where every request has `n` rows, scores and votes of so many bytes.
    pub fn least_bytes(&self, score_bytes: u64, vote_bytes: u64) -> u64 {
        let n = self.score.batch() * self.score.shape().n;
        n * (self.score.shape().n_q_heads * score_bytes + self.n_votes() * vote_bytes)
            + 8 * self.score.n_softmaxes()
    }

    /// The grid of the launch.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        let n_tiles = self.score.shape().n.div_ceil(THREADS_PER_BLOCK.into());
        Grid {
            blocks: [n_tiles as u32, self.n_votes() as u32, self.score.batch() as u32],
            threads: [THREADS_PER_BLOCK, 1, 1],
            dynamic_shared_bytes: 0,
            cluster_blocks: 1,
        }
    }
}
