//! The shape of a launch that attends with chunks of prompts: pure arithmetic, no driver.

use crate::attention::check::{check_head_dim, check_strides};
use crate::attention::{LogSumOrder, Logits, Mask};
use crate::error::check_below;
use crate::kv::KvLayout;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::plan::{check_group, spread};
use crate::{Error, Result};

/// Sizes of a launch of [`attend_prefill`](crate::attention::attend_prefill).
///
/// ```
/// use lacuna::attention::{PrefillPlan, PrefillShape};
/// use lacuna::kv::{KvLayout, KvShape};
///
/// let shape = KvShape {
///     batch: 2, n_heads: 8, row_len: 128, n_pages: 1000, page_size: 16, table_stride: 250,
///     ..KvShape::default()
/// };
/// let plan = PrefillPlan::new(PrefillShape::of(KvLayout::new(shape.hnd())?, 32, 700))?;
/// assert_eq!(plan.outputs_len(), 700 * 32 * 128);
/// # Ok::<_, lacuna::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrefillShape {
    /// The cache: rows of a head's dimension, a multiple of 16 up to 256.
    pub layout: KvLayout,
    /// Query heads: 1 to 16 times the heads of keys.
    pub n_q_heads: u64,
    /// Tokens of queries, of all requests one after the other.
    pub n_tokens: u64,
    /// Elements from token to token, a multiple of 8 and at least all heads'.
    pub query_stride: u64,
    /// The same of outputs.
    pub output_stride: u64,
    /// In which order log-sum-exps are written: by tokens or by heads, since requests have queries of any number.
    pub log_sum_order: LogSumOrder,
    /// What positions queries and rows have.
    pub positions: Positions,
    /// Which rows a query sees, by positions.
    pub mask: Mask,
    /// How products become logits.
    pub logits: Logits,
}

/// What positions queries and rows of a cache have, which masks go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Positions {
    /// A row has its number, and a request's queries are its last rows.
    #[default]
    Rows,
    /// What the launch is given: of tokens that were kept, those that they had in the prompt.
    Given,
}

impl PrefillShape {
    /// Queries of so many tokens, one after the other, each of which sees the rows up to its own.
    pub fn of(layout: KvLayout, n_q_heads: u64, n_tokens: u64) -> Self {
        let head_dim = layout.shape().row_len;
        let query_stride = n_q_heads.saturating_mul(head_dim);
        Self {
            layout,
            n_q_heads,
            n_tokens,
            query_stride,
            output_stride: query_stride,
            log_sum_order: LogSumOrder::TokensHeads,
            positions: Positions::Rows,
            mask: Mask::Causal,
            logits: Logits::of(head_dim),
        }
    }
}

/// A launch that attends with chunks of prompts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrefillPlan {
    shape: PrefillShape,
}

impl PrefillPlan {
    /// # Errors
    /// [`Error::Range`] and [`Error::Number`] for what is not supported; they say what is.
    pub fn new(shape: PrefillShape) -> Result<Self> {
        let kv = shape.layout.shape();
        let head_dim = kv.row_len;
        check_head_dim(head_dim)?;
        check_group(shape.n_q_heads, kv.n_heads)?;
        shape.logits.check()?;
        if kv.tokens_per_row != 1 {
            let (what, value) = ("tokens of a row", kv.tokens_per_row);
            return Err(Error::Range { what, value, allowed: "1" });
        }
        shape.mask.check()?;
        check_below("tokens of queries", shape.n_tokens, 1 << 26, "0..2^26")?;
        check_strides(shape.n_q_heads * head_dim, shape.query_stride, shape.output_stride)?;
        if shape.log_sum_order == LogSumOrder::BatchHeadsQueries {
            let (what, value) = ("order of log-sums", shape.log_sum_order as u64);
            return Err(Error::Range {
                what,
                value,
                allowed: "0 and 1, TokensHeads and HeadsTokens",
            });
        }
        Ok(Self { shape })
    }

    /// What it was made from.
    pub fn shape(&self) -> &PrefillShape {
        &self.shape
    }

    /// Query heads of a head of keys.
    pub fn group(&self) -> u64 {
        self.shape.n_q_heads / self.shape.layout.shape().n_heads
    }

    /// Where each request's queries begin, and the last one's end.
    pub fn query_starts_len(&self) -> u64 {
        self.shape.layout.shape().batch + 1
    }

    /// Positions of rows: `[batch, n_rows]`.
    pub fn key_positions_len(&self) -> u64 {
        self.shape.layout.shape().batch * self.shape.layout.n_rows()
    }

    /// Elements from the first of the first query to the last of the last.
    pub fn queries_len(&self) -> u64 {
        self.tokens_len(self.shape.query_stride)
    }

    /// Elements from the first output to the last.
    pub fn outputs_len(&self) -> u64 {
        self.tokens_len(self.shape.output_stride)
    }

    /// Log-sum-exps: one for each token and its heads.
    pub fn log_sums_len(&self) -> u64 {
        self.shape.n_tokens * self.shape.n_q_heads
    }

    /// Products and sums of them of one query head with so many rows of keys, and of weights with values.
    pub fn n_operations(&self, n_seen: u64) -> u64 {
        4 * n_seen * self.shape.layout.shape().row_len
    }

    fn tokens_len(&self, stride: u64) -> u64 {
        let head_len = self.shape.n_q_heads * self.shape.layout.shape().row_len;
        spread(self.shape.n_tokens, stride, head_len)
    }

    /// Rows of queries of a block, and of keys on chip.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    fn block_rows(&self) -> u64 {
        if self.shape.layout.shape().row_len <= 128 { 64 } else { 32 }
    }

    /// The grid of the launch: blocks for all rows of queries and one more for each request, which may not fill its last,
    /// and a head of keys each.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        let kv = self.shape.layout.shape();
        let n_rows = self.shape.n_tokens * self.group();
        let n_blocks = n_rows.div_ceil(self.block_rows()) + kv.batch;
        let chunk_bytes = 16;
        let row_bytes = (kv.row_len / 8 + 1) * chunk_bytes;
        // Queries, and two stages of keys and values.
        let n_shared = 5 * self.block_rows() * row_bytes;
        let is_empty = n_rows == 0 || kv.batch == 0;
        Grid {
            blocks: [if is_empty { 0 } else { n_blocks as u32 }, kv.n_heads as u32, 1],
            threads: [2 * self.block_rows() as u32, 1, 1],
            dynamic_shared_bytes: n_shared as u32,
            cluster_blocks: 1,
        }
    }
}
