//! The shape of a launch that summarises keys: pure arithmetic, no driver.

use crate::error::check_below;
use crate::kv::KvLayout;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::{Error, Result};

/// Of a warp's keys on chip.
const STAGED_BYTES: u64 = 32 << 10;
const MAX_STAGED: u64 = 64;
/// Of all warps of a block.
#[cfg(any(feature = "cuda", feature = "simt"))]
const BLOCK_BYTES: u64 = 64 << 10;
#[cfg(any(feature = "cuda", feature = "simt"))]
const THREADS_PER_BLOCK: u64 = 256;
/// Past this many, blocks have more than one turn.
#[cfg(any(feature = "cuda", feature = "simt"))]
const MAX_BLOCKS: u64 = 1 << 20;

/// What a row says of the keys that it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Summary {
    /// The least number of each channel, then the greatest (Quest, arXiv 2406.10774; LeoAM, arXiv 2506.20187).
    #[default]
    Box,
    /// The mean of each channel.
    Mean,
    /// The mean, and how far the keys point away from it (ShadowKV, arXiv 2410.21465).
    MeanAndOutlier,
    /// The box around boxes: a second level, whose keys are rows of [`Summary::Box`].
    BoxOfBoxes,
}

impl Summary {
    /// The elements of a summary of rows of so many.
    pub fn row_len(self, keys_row_len: u64) -> u64 {
        if self == Self::Box { keys_row_len.saturating_mul(2) } else { keys_row_len }
    }

    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn number(self) -> u32 {
        self as u32
    }
}

/// Sizes of a launch of [`summarize`](crate::select::summarize).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SummarizeShape {
    /// The keys; of [`Summary::BoxOfBoxes`] the boxes.
    pub keys: KvLayout,
    /// The summaries: of the same requests and heads; `tokens_per_row` a multiple of that of the keys.
    pub summaries: KvLayout,
    /// What they say.
    pub summary: Summary,
    /// The most new tokens of a request, for the size of the grid alone: more are summarised too, only not as fast.
    pub max_new: u64,
    /// Bytes of an element of the keys: 1 or 2.
    pub key_bytes: u32,
    /// Of [`Summary::MeanAndOutlier`], scores from head to head, at least the rows of a request.
    pub outlier_stride: u64,
}

/// A launch that summarises keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SummarizePlan {
    shape: SummarizeShape,
    n_staged: u64,
}

impl SummarizePlan {
    /// # Errors
    /// [`Error::Range`] and [`Error::Shape`] for a size that is not supported; they say what is.
    pub fn new(shape: SummarizeShape) -> Result<Self> {
        let (keys, summaries) = (shape.keys.shape(), shape.summaries.shape());
        let row_len = shape.summary.row_len(keys.row_len);
        for (what, expected, got) in [
            ("requests of summaries", keys.batch, summaries.batch),
            ("heads of summaries", keys.n_heads, summaries.n_heads),
            ("elements of a summary", row_len, summaries.row_len),
        ] {
            if got != expected {
                return Err(Error::Shape { what, expected, got });
            }
        }
        if !summaries.tokens_per_row.is_multiple_of(keys.tokens_per_row) {
            let (what, value) = ("tokens of a summary", summaries.tokens_per_row);
            return Err(Error::Range { what, value, allowed: "the multiples of those of a key" });
        }
        let key_bytes = u64::from(shape.key_bytes);
        check_below("requests", keys.batch, 1 << 16, "0..65536")?;
        let is_known = key_bytes == 2 || key_bytes == 1 && shape.summary != Summary::BoxOfBoxes;
        if !is_known {
            let allowed = "1 and 2, of boxes 2";
            return Err(Error::Range { what: "bytes of an element", value: key_bytes, allowed });
        }
        if shape.summary == Summary::BoxOfBoxes && !keys.row_len.is_multiple_of(16) {
            let (what, value) = ("elements of a box", keys.row_len);
            return Err(Error::Range { what, value, allowed: "the multiples of 16" });
        }
        check_apart(&shape.summaries)?;
        let mut n_staged = 0;
        if shape.summary == Summary::MeanAndOutlier {
            let (what, value) = ("stride between outlier scores", shape.outlier_stride);
            if value < shape.summaries.n_rows() || value >= 1 << 31 {
                let allowed = "the rows of a request and more, below 2^31";
                return Err(Error::Range { what, value, allowed });
            }
            let fan = summaries.tokens_per_row / keys.tokens_per_row;
            let most = (STAGED_BYTES / (keys.row_len * key_bytes)).min(MAX_STAGED) & !1;
            n_staged = fan.next_multiple_of(2).min(most);
        }
        Ok(Self { shape, n_staged })
    }

    /// What it was made from.
    pub fn shape(&self) -> &SummarizeShape {
        &self.shape
    }

    /// Scores of outliers.
    pub fn outliers_len(&self) -> u64 {
        let keys = self.shape.keys.shape();
        match self.shape.summary {
            Summary::MeanAndOutlier => keys.batch * keys.n_heads * self.shape.outlier_stride,
            _ => 0,
        }
    }

    /// Bytes that any kernel moves which reads so many rows of keys of each head, over all requests, and writes so
    /// many summaries.
    pub fn least_bytes(&self, n_keys: u64, n_summaries: u64) -> u64 {
        let (keys, summaries) = (self.shape.keys.shape(), self.shape.summaries.shape());
        let score_bytes = if self.shape.summary == Summary::MeanAndOutlier { 4 } else { 0 };
        let read = n_keys * keys.row_len * u64::from(self.shape.key_bytes);
        keys.n_heads * (read + n_summaries * (2 * summaries.row_len + score_bytes))
    }

    /// Rows of keys that a warp holds on chip.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn n_staged(&self) -> u32 {
        self.n_staged as u32
    }

    /// The grid of the launch.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        let SummarizeShape { summaries, max_new, key_bytes, .. } = &self.shape;
        let keys = self.shape.keys.shape();
        // The first and the last of them may be begun already, or not yet be ended.
        let tokens_per_row = summaries.shape().tokens_per_row;
        let n_touched =
            max_new.saturating_sub(2).saturating_add(tokens_per_row) / tokens_per_row + 1;
        let n_new = if *max_new < 2 { 1 } else { n_touched }.min(summaries.n_rows());
        let warp_bytes =
            6 * keys.row_len + self.n_staged * (8 + keys.row_len * u64::from(*key_bytes));
        let n_warps = (BLOCK_BYTES / warp_bytes).clamp(1, THREADS_PER_BLOCK / 32);
        // Of short chunks, a warp has more than one: what it reads first is worth as much as a key.
        let n_turns = (32 / (tokens_per_row / keys.tokens_per_row)).clamp(1, 4);
        let (n_items, n_in_block, n_threads, n_bytes) = match self.shape.summary {
            Summary::MeanAndOutlier => {
                (n_new * keys.n_heads, n_turns * n_warps, 32 * n_warps, n_warps * warp_bytes)
            }
            _ => {
                let n_items = n_new * keys.n_heads * (keys.row_len / 8);
                (n_items, THREADS_PER_BLOCK, THREADS_PER_BLOCK, 0)
            }
        };
        Grid {
            blocks: [n_items.div_ceil(n_in_block).min(MAX_BLOCKS) as u32, keys.batch as u32, 1],
            threads: [n_threads as u32, 1, 1],
            dynamic_shared_bytes: n_bytes as u32,
            cluster_blocks: 1,
        }
    }
}

/// Refuses strides by which two rows would share an element: both would be written.
fn check_apart(layout: &KvLayout) -> Result<()> {
    let shape = layout.shape();
    let mut strides = [
        (shape.page_stride, shape.n_pages),
        (shape.token_stride, shape.page_size),
        (shape.head_stride, shape.n_heads),
    ];
    strides.sort_unstable();
    let mut n_taken = shape.row_len;
    for (stride, n) in strides {
        if n > 1 && stride < n_taken {
            let what = "stride between summaries, in elements";
            return Err(Error::Range {
                what,
                value: stride,
                allowed: "those that keep them apart",
            });
        }
        n_taken = n_taken.max(n.saturating_sub(1).saturating_mul(stride).saturating_add(n_taken));
    }
    Ok(())
}
