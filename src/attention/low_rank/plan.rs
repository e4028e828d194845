//! The shape of a launch that makes keys: pure arithmetic, no driver.

use crate::attention::{AttendPlan, SegmentShape, Tokens};
use crate::error::check_below;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::turn::Turn;
use crate::{Error, Result};

/// Keys of one segment that are made of factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LowRankShape {
    /// Which segment: one of blocks.
    pub segment: u64,
    /// Elements of a row of factors: a multiple of 16, up to 256 (ShadowKV: 160).
    pub rank: u64,
    /// Rows of factors of a request: tokens past them are absent.
    pub n_factors: u64,
    /// How keys are turned by their positions.
    pub turn: Turn,
}

/// A launch that attends to keys some of which it makes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LowRankPlan {
    attend: AttendPlan,
    low_rank: LowRankShape,
}

impl LowRankPlan {
    /// `attend` says all of the segments; heads of up to 128 elements.
    ///
    /// # Errors
    /// [`Error::Range`] for what is not supported; it says what is.
    pub fn new(attend: AttendPlan, low_rank: LowRankShape) -> Result<Self> {
        let head_dim = attend.shape().head_dim;
        if head_dim > 128 {
            let (what, allowed) = ("dimension of a head", "the multiples of 16 up to 128");
            return Err(Error::Range { what, value: head_dim, allowed });
        }
        let LowRankShape { segment, rank, n_factors, .. } = low_rank;
        let is_blocks = |segment: u64| {
            let shape = attend.segments().nth(segment as usize);
            shape.is_some_and(|shape| matches!(shape.tokens, Tokens::Blocks { .. }))
        };
        if segment >= 4 || !is_blocks(segment) {
            let allowed = "the segments of blocks";
            return Err(Error::Range { what: "segment of low rank", value: segment, allowed });
        }
        if !rank.is_multiple_of(16) || !(16..=256).contains(&rank) {
            let allowed = "the multiples of 16 up to 256";
            return Err(Error::Range { what: "rank of keys", value: rank, allowed });
        }
        check_below("rows of factors", n_factors, (1 << 26) + 1, "0..=2^26")?;
        Ok(Self { attend: attend.with_warps(2), low_rank })
    }

    /// What says all but how keys are made.
    pub fn attend(&self) -> &AttendPlan {
        &self.attend
    }

    /// How they are.
    pub fn low_rank(&self) -> &LowRankShape {
        &self.low_rank
    }

    /// Elements of `[batch, n_factors, rank]`.
    pub fn factors_len(&self) -> u64 {
        self.attend.shape().batch * self.low_rank.n_factors * self.low_rank.rank
    }

    /// Elements of `[batch, n_heads, head_dim, rank]`.
    pub fn basis_len(&self) -> u64 {
        let shape = self.attend.shape();
        shape.batch * self.attend.n_heads() * shape.head_dim * self.low_rank.rank
    }

    /// Elements of `[n_factors, head_dim]`, or none.
    pub fn cos_sin_len(&self) -> u64 {
        match self.low_rank.turn {
            Turn::None => 0,
            Turn::Halves | Turn::Pairs => self.low_rank.n_factors * self.attend.shape().head_dim,
        }
    }

    /// Numbers of blocks of values: as many as the segment's lists have.
    pub fn value_indices_len(&self) -> u64 {
        let segment = self.attend.segments().nth(self.low_rank.segment as usize);
        segment.map_or(0, SegmentShape::indices_len)
    }

    /// The grid of the launch: as [`AttendPlan::grid`], with a head's basis and factors on chip. Of rank 160 and heads of 128 elements that is
    /// 101 KiB of dynamic shared memory beside 4 of the kernel's own, which devices of compute capability 8.6, 8.9 and 12.0 do not have.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        let grid = self.attend.grid();
        let row_bytes = (self.low_rank.rank / 8 + 1) * 16;
        // Of two warps, two tiles of 16 rows each.
        let n_rows = self.attend.shape().head_dim + 2 * 2 * 16;
        let n_more = (n_rows * row_bytes) as u32;
        Grid { dynamic_shared_bytes: grid.dynamic_shared_bytes + n_more, ..grid }
    }
}
