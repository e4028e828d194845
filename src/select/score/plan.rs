//! The shape of a launch that scores.

use crate::error::check_below;
use crate::kv::KvLayout;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::plan::{check_group, check_scale, log2_scale, spread};
use crate::select::vote::{VotePlan, VoteRule};
use crate::{Error, Result};

/// Rows of a tile: what one block scores for one head of keys, and what a partial softmax is of.
pub(crate) const TILE: u64 = 256;
/// Terms of a softmax, each 2^40 units at most, whose sum has 64 bits.
pub(crate) const MAX_SUMMED: u64 = 1 << 24;
/// Of the dynamic shared memory that every device with images has: what scores on chip may take.
const MOST_SHARED_BYTES: u64 = 96 << 10;
const THREADS_PER_BLOCK: u32 = 256;
/// Of each thread, two stages of eight slots of 16 bytes.
const STAGED_BYTES: u64 = 2 * 8 * 16 * THREADS_PER_BLOCK as u64;

/// What a query is scored against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ScoreKind {
    /// The inner product with a row: a key, a mean, a centroid.
    #[default]
    Dot = 0,
    /// The greatest inner product with anything in the box of a row, of which the first half is the minimum and the second
    /// the maximum of each channel (Quest, arXiv:2406.10774): the sum of `q > 0 ? q * maximum : q * minimum`.
    Box = 1,
}

/// What becomes of the scores of the query heads that share a head of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum GroupReduction {
    /// One row of scores for each query head.
    #[default]
    None,
    /// Their maximum; NaN counts for nothing.
    Max,
    /// Their sum, of ascending heads.
    Sum,
    /// Their sum times one over their number.
    Mean,
}

/// Sizes of a launch of [`score_rows`](crate::select::score_rows).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoreShape {
    /// The cache of keys, or of summaries; rows of 512 elements at most. Where a group's queries of `d` elements are more than
    /// 8,900 / (d + 264), a block needs more shared memory than devices of 8.6, 8.9 and 12.0 have, and a launch there is refused.
    pub layout: KvLayout,
    /// Query heads: 1 to 16 for each head of keys.
    pub n_q_heads: u64,
    /// Elements from one request's queries to the next's; at least `n_q_heads` times the head's dimension.
    pub query_stride: u64,
    /// Rows of a request that are scored, at most; below 2^24.
    pub n: u64,
    /// Elements from one row of scores to the next, at least `n`.
    pub score_stride: u64,
    /// What a query is scored against.
    pub kind: ScoreKind,
    /// What becomes of the scores of a group.
    pub reduction: GroupReduction,
    /// What scores are multiplied by in softmaxes: one over the root of the head's dimension, as a rule.
    pub softmax_scale: f32,
}

impl ScoreShape {
    /// All rows of a cache of keys, by inner products with queries one after the other; softmaxes with one over the root of
    /// the head's dimension.
    pub fn of(layout: KvLayout, n_q_heads: u64) -> Self {
        let head_dim = layout.shape().row_len;
        Self {
            layout,
            n_q_heads,
            query_stride: n_q_heads.saturating_mul(head_dim),
            n: layout.n_rows(),
            score_stride: layout.n_rows(),
            kind: ScoreKind::Dot,
            reduction: GroupReduction::None,
            softmax_scale: (head_dim as f32).sqrt().recip(),
        }
    }

    /// The same of a cache of boxes, whose rows are twice as long as a head's dimension.
    pub fn of_boxes(layout: KvLayout, n_q_heads: u64) -> Self {
        let head_dim = layout.shape().row_len / 2;
        Self {
            query_stride: n_q_heads.saturating_mul(head_dim),
            kind: ScoreKind::Box,
            softmax_scale: (head_dim as f32).sqrt().recip(),
            ..Self::of(layout, n_q_heads)
        }
    }
}

/// A launch that scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScorePlan {
    shape: ScoreShape,
}

impl ScorePlan {
    /// # Errors
    /// [`Error::Range`] for what is not supported; it says what is.
    pub fn new(shape: ScoreShape) -> Result<Self> {
        let ScoreShape { layout, n_q_heads, query_stride, n, score_stride, kind, .. } = shape;
        let kv = layout.shape();
        let head_dim = if kind == ScoreKind::Box { kv.row_len / 2 } else { kv.row_len };
        check_group(n_q_heads, kv.n_heads)?;
        if !head_dim.is_multiple_of(8) || kv.row_len > 512 {
            let allowed = "the multiples of 8 up to 512, of boxes up to 256";
            return Err(Error::Range { what: "dimension of a head", value: head_dim, allowed });
        }
        check_below("rows to score", n, MAX_SUMMED, "0..2^24")?;
        if score_stride < n {
            let (what, value) = ("stride between rows of scores, in elements", score_stride);
            return Err(Error::Range { what, value, allowed: "the rows to score and more" });
        }
        if query_stride < n_q_heads * head_dim {
            let (what, value) = ("stride between queries, in elements", query_stride);
            return Err(Error::Range { what, value, allowed: "the heads of a query and more" });
        }
        check_scale(shape.softmax_scale)?;
        for (what, count, stride) in [
            ("bytes of queries", kv.batch, query_stride),
            ("bytes of scores", kv.batch * n_q_heads, score_stride),
        ] {
            let n_bytes = count.checked_mul(stride).and_then(|n| n.checked_mul(4));
            check_below(what, n_bytes.unwrap_or(u64::MAX), 1 << 47, "0..2^47")?;
        }
        let plan = Self { shape };
        let n_partials = plan.n_softmaxes() * plan.n_tiles();
        check_below("partial softmaxes", n_partials, 1 << 40, "0..2^40")?;
        Ok(plan)
    }

    /// What it was made from.
    pub fn shape(&self) -> &ScoreShape {
        &self.shape
    }

    /// Query heads of a head of keys.
    pub fn group(&self) -> u64 {
        self.shape.n_q_heads / self.shape.layout.shape().n_heads
    }

    /// Elements of a query's head.
    pub fn head_dim(&self) -> u64 {
        let row_len = self.shape.layout.shape().row_len;
        if self.shape.kind == ScoreKind::Box { row_len / 2 } else { row_len }
    }

    /// Rows of scores of a request: one for each query head, or where a group is reduced for each head of keys.
    pub fn n_out(&self) -> u64 {
        match self.shape.reduction {
            GroupReduction::None => self.shape.n_q_heads,
            _ => self.shape.layout.shape().n_heads,
        }
    }

    /// Elements from the first of the first query to the last of the last.
    pub fn queries_len(&self) -> u64 {
        let n = self.shape.n_q_heads * self.head_dim();
        spread(self.batch(), self.shape.query_stride, n)
    }

    /// Elements from the first of the first row of scores to the last of the last.
    pub fn scores_len(&self) -> u64 {
        spread(self.batch() * self.n_out(), self.shape.score_stride, self.shape.n)
    }

    /// Softmaxes: one for each query head.
    pub fn n_softmaxes(&self) -> u64 {
        self.batch() * self.shape.n_q_heads
    }

    /// Words of the workspace of softmaxes; zeros before the first launch.
    pub fn workspace_len(&self) -> u64 {
        self.n_tickets() + 2 * self.n_softmaxes() * self.n_tiles()
    }

    /// Of the workspace, words that must be zeros: an even number of them, since what follows moves 16 bytes at once.
    pub fn n_tickets(&self) -> u64 {
        (self.batch() * self.shape.layout.shape().n_heads).div_ceil(4) * 2
    }

    /// Bytes that any kernel moves where every request has `n` rows: every row and query read once, every score of
    /// so many bytes written once.
    pub fn least_bytes(&self, row_bytes: u64, query_bytes: u64, score_bytes: u64) -> u64 {
        let kv = self.shape.layout.shape();
        let rows = kv.batch * kv.n_heads * self.shape.n * row_bytes;
        let queries = self.n_softmaxes() * self.head_dim() * query_bytes;
        rows + queries + self.batch() * self.n_out() * self.shape.n * score_bytes
    }

    pub(crate) fn batch(&self) -> u64 {
        self.shape.layout.shape().batch
    }

    /// Tiles of 256 rows of a request.
    pub fn n_tiles(&self) -> u64 {
        self.shape.n.div_ceil(TILE)
    }

    /// What the sum over a group is multiplied by.
    pub fn mean_scale(&self) -> f32 {
        match self.shape.reduction {
            GroupReduction::Mean => 1.0 / self.group() as f32,
            _ => 1.0,
        }
    }

    /// Tiles that a block scores one after the other, so that many queries are not read again for each.
    pub fn n_tiles_together(&self) -> u64 {
        if self.group() > 8 { 2 } else { 1 }
    }

    /// The scale of softmaxes whose base is 2.
    pub fn log2_scale(&self) -> f32 {
        log2_scale(self.shape.softmax_scale)
    }

    /// Dynamic shared memory of a block that scores so many tiles of so many heads of keys.
    fn shared_bytes(&self, n_tiles: u64, n_heads: u64) -> u64 {
        let queries = self.group() * self.head_dim().next_multiple_of(64);
        let scores = self.group() * n_heads * (n_tiles * TILE + 8);
        STAGED_BYTES + 4 * (queries + scores)
    }

    fn shared_bytes_of_votes(&self, rule: &VoteRule) -> u64 {
        let n_heads = rule.n_heads_together(self);
        let partials = 16 * self.group() * n_heads * self.n_tiles();
        self.shared_bytes(self.n_tiles(), n_heads) + partials
    }

    /// Whether [`score_votes`](crate::select::score_votes) takes this: the scores of the heads that vote together fit on
    /// chip, and a vote is not of single query heads.
    pub fn fits_on_chip(&self, vote: &VotePlan) -> bool {
        let rule = vote.rule();
        rule.n_heads_together(self) > 0 && self.shared_bytes_of_votes(rule) <= MOST_SHARED_BYTES
    }

    /// The grid of the launch that only scores.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        let n_heads = self.shape.layout.shape().n_heads;
        let n_blocks = self.n_tiles().div_ceil(self.n_tiles_together());
        Grid {
            blocks: [n_blocks.max(1) as u32, n_heads as u32, self.batch() as u32],
            threads: [THREADS_PER_BLOCK, 1, 1],
            dynamic_shared_bytes: self.shared_bytes(1, 1) as u32,
            cluster_blocks: 1,
        }
    }

    /// The grid of the launch that votes too; of a vote that [fits](Self::fits_on_chip).
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn voting_grid(&self, vote: &VotePlan) -> Grid {
        let rule = vote.rule();
        let n_votes = self.shape.layout.shape().n_heads / rule.n_heads_together(self).max(1);
        Grid {
            blocks: [1, n_votes as u32, self.batch() as u32],
            threads: [THREADS_PER_BLOCK, 1, 1],
            dynamic_shared_bytes: self.shared_bytes_of_votes(rule) as u32,
            cluster_blocks: 1,
        }
    }
}
