//! The shape of a launch that merges partial results: pure arithmetic, no driver.

use crate::attention::{LogBase, LogSumOrder};
use crate::error::{check_below, check_between};
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::plan::spread;
use crate::{Error, Result};

/// Parts of a launch, the target of one in place among them.
pub(super) const MOST_PARTS: usize = 8;
/// Rows of a block.
#[cfg(any(feature = "cuda", feature = "simt"))]
const BLOCK_ROWS: u64 = 16;

/// Sizes of a launch of [`merge_partials`](crate::attention::merge_partials).
///
/// ```
/// use lacuna::attention::{LogSumOrder, MergePlan, MergeShape, PartialShape};
///
/// // What was found in the cache, and what was copied there meanwhile.
/// let shape = MergeShape::of(4, 32, 128);
/// let plan = MergePlan::new(shape, &[shape.part(); 2])?;
/// assert_eq!(plan.log_sums_len(), 4 * 32);
/// assert_eq!(plan.least_bytes(2, 2), 4 * 32 * (3 * 256 + 3 * 4));
/// // With a part of FlashAttention's.
/// let theirs = PartialShape { log_sum_order: LogSumOrder::HeadsTokens, ..shape.part() };
/// let plan = MergePlan::new(shape, &[shape.part(), theirs])?;
/// # Ok::<_, lacuna::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeShape {
    /// Tokens that attended: of all requests, and queries of each.
    pub n_tokens: u64,
    /// Queries of each request, of which the tokens are a multiple; only [`LogSumOrder::BatchHeadsQueries`] asks, else 1 will do.
    pub n_queries: u64,
    /// Query heads.
    pub n_heads: u64,
    /// Elements of a head: a multiple of 8, up to 1,024.
    pub head_dim: u64,
    /// Elements from token to token of the outputs, at least all heads'.
    pub output_stride: u64,
    /// In which order the outputs' log-sum-exps are written; in place, the target's.
    pub log_sum_order: LogSumOrder,
    /// Of all log-sum-exps, the parts' and the outputs'.
    pub base: LogBase,
}

/// How a part lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialShape {
    /// Elements from token to token of its outputs, at least all heads'.
    pub stride: u64,
    /// In which order its log-sum-exps are, whatever that of the others is.
    pub log_sum_order: LogSumOrder,
}

impl MergeShape {
    /// Outputs and log-sum-exps one token after the other, logarithms to base e.
    pub fn of(n_tokens: u64, n_heads: u64, head_dim: u64) -> Self {
        Self {
            n_tokens,
            n_queries: 1,
            n_heads,
            head_dim,
            output_stride: n_heads.saturating_mul(head_dim),
            log_sum_order: LogSumOrder::TokensHeads,
            base: LogBase::E,
        }
    }

    /// A part that lies as the outputs do.
    pub fn part(&self) -> PartialShape {
        PartialShape { stride: self.output_stride, log_sum_order: self.log_sum_order }
    }

    /// What [`LogSumOrder::locate`] takes.
    pub(super) fn log_sum_sizes(&self) -> [u64; 3] {
        [self.n_tokens, self.n_queries, self.n_heads]
    }
}

/// A launch that merges partial results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergePlan {
    shape: MergeShape,
    parts: [PartialShape; MOST_PARTS],
    n_parts: usize,
}

impl MergePlan {
    /// Of parts that lie so; in place they are the parts beside the target.
    ///
    /// # Errors
    /// [`Error::Range`] for what is not supported; it says what is.
    pub fn new(shape: MergeShape, parts: &[PartialShape]) -> Result<Self> {
        let MergeShape { n_tokens, n_queries, n_heads, head_dim, .. } = shape;
        if !(1..=MOST_PARTS).contains(&parts.len()) {
            let value = parts.len() as u64;
            return Err(Error::Range { what: "parts", value, allowed: "1..=8" });
        }
        if !head_dim.is_multiple_of(8) || !(8..=1024).contains(&head_dim) {
            let allowed = "the multiples of 8 up to 1024";
            return Err(Error::Range { what: "dimension of a head", value: head_dim, allowed });
        }
        if !(1..1 << 16).contains(&n_heads) {
            return Err(Error::Range { what: "query heads", value: n_heads, allowed: "1..65536" });
        }
        check_below("tokens", n_tokens, 1 << 31, "0..2^31")?;
        check_below("tokens times heads", n_tokens * n_heads, 1 << 31, "0..2^31")?;
        check_between("queries of a request", n_queries, (1 << 31) - 1, "1..2^31")?;
        if !n_tokens.is_multiple_of(n_queries) {
            let (what, allowed) = ("queries of a request", "the divisors of the tokens");
            return Err(Error::Range { what, value: n_queries, allowed });
        }
        let stride_of_part = "stride between a part's tokens, in elements";
        let strides_of_parts = parts.iter().map(|part| (stride_of_part, part.stride));
        let stride_of_outputs = ("stride between outputs, in elements", shape.output_stride);
        for (what, stride) in strides_of_parts.chain([stride_of_outputs]) {
            if stride < n_heads * head_dim {
                let allowed = "all heads of a token and more";
                return Err(Error::Range { what, value: stride, allowed });
            }
            check_below(what, stride, 1 << 32, "0..2^32")?;
        }
        let mut plan = Self { shape, parts: [shape.part(); MOST_PARTS], n_parts: parts.len() };
        plan.parts[..parts.len()].copy_from_slice(parts);
        Ok(plan)
    }

    /// What it was made from.
    pub fn shape(&self) -> &MergeShape {
        &self.shape
    }

    /// How each part lies.
    pub fn parts(&self) -> &[PartialShape] {
        &self.parts[..self.n_parts]
    }

    /// Elements from a part's first output to its last.
    pub fn partial_len(&self, part: usize) -> u64 {
        self.tokens_len(self.parts()[part].stride)
    }

    /// Elements from the first output to the last.
    pub fn outputs_len(&self) -> u64 {
        self.tokens_len(self.shape.output_stride)
    }

    /// Log-sum-exps of a part, and of the outputs, in any order: one for each token and head.
    pub fn log_sums_len(&self) -> u64 {
        self.shape.n_tokens * self.shape.n_heads
    }

    /// Bytes that any kernel moves where every part has something for every token, of elements of so many bytes: the parts'
    /// outputs and log-sums read once, the outputs and theirs written once. In place the target counts as a part.
    pub fn least_bytes(&self, part_bytes: u64, output_bytes: u64) -> u64 {
        let n_parts = self.n_parts as u64;
        let of_row =
            (n_parts * part_bytes + output_bytes) * self.shape.head_dim + 4 * (n_parts + 1);
        self.log_sums_len() * of_row
    }

    fn tokens_len(&self, stride: u64) -> u64 {
        spread(self.shape.n_tokens, stride, self.shape.n_heads * self.shape.head_dim)
    }

    /// What a difference of log-sums is multiplied by to be one to base 2.
    pub(super) fn log2_scale(&self) -> f32 {
        self.shape.base.log2_scale()
    }

    /// What a logarithm to base 2 is multiplied by to be of the plan's.
    pub(super) fn log_unit(&self) -> f32 {
        self.shape.base.unit()
    }

    /// What the kernel takes for log-sums of an order.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn log_sum_strides(
        &self,
        order: LogSumOrder,
    ) -> crate::bindings::AttentionLogSumStrides {
        order.strides(self.shape.log_sum_sizes())
    }

    /// Elements that move at once: as many as 16 bytes hold of the wider type, where addresses and strides are multiples of
    /// them, else one. Rows have their address, the stride between tokens, and the bytes of an element.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn width(rows: impl Iterator<Item = (u64, u64, u64)> + Clone) -> u32 {
        let most_bytes = rows.clone().map(|(_, _, n_bytes)| n_bytes).max().unwrap_or(4);
        let width = 16 / most_bytes;
        let mut rows = rows;
        let is_aligned = rows.all(|(address, stride, n_bytes)| {
            address.is_multiple_of(width * n_bytes) && stride.is_multiple_of(width)
        });
        if is_aligned { width as u32 } else { 1 }
    }

    /// The grid of the launch: a block for 16 rows.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        Grid {
            blocks: [self.log_sums_len().div_ceil(BLOCK_ROWS) as u32, 1, 1],
            threads: [128, 1, 1],
            dynamic_shared_bytes: 0,
            cluster_blocks: 1,
        }
    }
}
