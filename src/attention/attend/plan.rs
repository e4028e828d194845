//! The shape of a launch that attends: pure arithmetic, no driver.

use crate::attention::check::{check_head_dim, check_strides};
use crate::attention::{LogSumOrder, Logits, Mask};
use crate::error::{check_below, check_between};
use crate::kv::{KvLayout, KvLists};
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::plan::{check_group, spread};
use crate::{Error, Result};

/// Positions of a split, at least, and splits of a row, at most.
pub(super) const LEAST_SPLIT: u64 = 128;
pub(super) const MOST_SPLITS: u64 = 64;
/// Segments of a launch.
const MOST_SEGMENTS: usize = 4;
/// Words of a partial result beside the outputs.
const EXTRA_WORDS: u64 = 4;
/// Rows of queries of a set of warps, and sets of a block.
const ROWS: u64 = 16;
const MOST_SETS: u64 = 2;

/// Sizes of a launch of [`attend`](crate::attention::attend).
///
/// ```
/// use lacuna::attention::{AttendPlan, AttendShape, SegmentShape, Tokens};
/// use lacuna::kv::{KvLayout, KvLists, KvShape};
///
/// let shape = KvShape {
///     batch: 4, n_heads: 8, row_len: 128, n_pages: 1000, page_size: 16, table_stride: 250,
///     ..KvShape::default()
/// };
/// let layout = KvLayout::new(shape.hnd())?;
/// // Sinks, what was picked for each head, and a local window.
/// let picked = Tokens::Blocks { n_blocks: 512, block_size: 1 };
/// let segments = [
///     SegmentShape::of(layout, Tokens::first(4)),
///     SegmentShape { lists: KvLists::PerHead, ..SegmentShape::of(layout, picked) },
///     SegmentShape::of(layout, Tokens::last(64).after(4)),
/// ];
/// let plan = AttendPlan::new(AttendShape::of(&layout, 32), &segments)?;
/// assert_eq!(plan.n_positions(), 4 + 512 + 64);
/// # Ok::<_, lacuna::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttendShape {
    /// Requests.
    pub batch: u64,
    /// Queries of a request, one token after the other: 1 to 8.
    pub n_queries: u64,
    /// Query heads: 1 to 16 times the heads of keys.
    pub n_q_heads: u64,
    /// Elements of a head: a multiple of 16, up to 256.
    pub head_dim: u64,
    /// Elements from query to query, a multiple of 8 and at least all heads'.
    pub query_stride: u64,
    /// The same of outputs.
    pub output_stride: u64,
    /// In which order log-sum-exps are written.
    pub log_sum_order: LogSumOrder,
    /// How products become logits.
    pub logits: Logits,
}

impl AttendShape {
    /// One query for each request of a cache, one after the other; outputs and log-sum-exps too.
    pub fn of(layout: &KvLayout, n_q_heads: u64) -> Self {
        let head_dim = layout.shape().row_len;
        let query_stride = n_q_heads.saturating_mul(head_dim);
        Self {
            batch: layout.shape().batch,
            n_queries: 1,
            n_q_heads,
            head_dim,
            query_stride,
            output_stride: query_stride,
            log_sum_order: LogSumOrder::TokensHeads,
            logits: Logits::of(head_dim),
        }
    }
}

/// Rows of a paged cache, one after the other, that queries attend to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentShape {
    /// The cache: as many requests and heads as the launch has, rows of a head's dimension.
    pub layout: KvLayout,
    /// Which of its rows.
    pub tokens: Tokens,
    /// Whose lists of blocks there are, and whose biases.
    pub lists: KvLists,
    /// Which of them a query sees.
    pub mask: Mask,
}

impl SegmentShape {
    /// Rows that all queries see; a list or biases are for all heads of a request.
    pub fn of(layout: KvLayout, tokens: Tokens) -> Self {
        Self { layout, tokens, lists: KvLists::PerRequest, mask: Mask::None }
    }

    /// Numbers of all lists of blocks; of a range none.
    pub fn indices_len(&self) -> u64 {
        match self.tokens {
            Tokens::Range { .. } => 0,
            Tokens::Blocks { n_blocks, .. } => self.counts_len().saturating_mul(n_blocks),
        }
    }

    /// Counts of lists.
    pub fn counts_len(&self) -> u64 {
        self.lists.count(&self.layout)
    }

    /// Biases of all lists: of each block, or of a range of each of a request's rows.
    pub fn biases_len(&self) -> u64 {
        match self.tokens {
            Tokens::Range { .. } => self.counts_len() * self.layout.n_rows(),
            Tokens::Blocks { .. } => self.indices_len(),
        }
    }
}

/// Which rows of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens {
    /// Those from `first` on and before `end`, of the last `last`; as far as there are so many.
    Range {
        /// The first row.
        first: u64,
        /// The row after the last.
        end: u64,
        /// So many of a request's last rows.
        last: u64,
    },
    /// Blocks of so many rows, by numbers on the device; what a number past the request's rows names is absent.
    Blocks {
        /// Numbers of a list.
        n_blocks: u64,
        /// Rows of a block: 1 to 128.
        block_size: u64,
    },
}

impl Tokens {
    /// All of a request's rows.
    pub const ALL: Self = Self::Range { first: 0, end: u64::MAX, last: u64::MAX };

    /// Its first `n`: attention sinks.
    pub fn first(n: u64) -> Self {
        Self::Range { first: 0, end: n, last: u64::MAX }
    }

    /// Its last `n`: a local window.
    pub fn last(n: u64) -> Self {
        Self::Range { first: 0, end: u64::MAX, last: n }
    }

    /// The same range without the first `n` rows: a window that does not count sinks twice. Blocks stay what they are.
    #[must_use]
    pub fn after(self, n: u64) -> Self {
        match self {
            Self::Range { first, end, last } => Self::Range { first: first.max(n), end, last },
            blocks @ Self::Blocks { .. } => blocks,
        }
    }
}

/// A launch that attends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttendPlan {
    shape: AttendShape,
    n_heads: u64,
    segments: [Option<SegmentShape>; MOST_SEGMENTS],
    n_positions: u64,
    n_warps: u64,
    n_sets: u64,
    tile_rows: u64,
    n_splits: u64,
}

impl AttendPlan {
    /// # Errors
    /// [`Error::Range`], [`Error::Shape`] and [`Error::Number`] for what is not supported; they say what is.
    pub fn new(shape: AttendShape, segments: &[SegmentShape]) -> Result<Self> {
        let AttendShape { batch, n_queries, n_q_heads, head_dim, .. } = shape;
        let n_segments = segments.len() as u64;
        check_between("segments", n_segments, MOST_SEGMENTS as u64, "1..=4")?;
        check_between("queries of a request", n_queries, 8, "1..=8")?;
        check_below("requests", batch, 1 << 16, "0..65536")?;
        check_head_dim(head_dim)?;
        let n_heads = segments[0].layout.shape().n_heads;
        check_group(n_q_heads, n_heads)?;
        shape.logits.check()?;
        check_strides(n_q_heads * head_dim, shape.query_stride, shape.output_stride)?;
        let n_warps = if head_dim <= 128 { 4 } else { 2 };
        let mut plan = Self {
            shape,
            n_heads,
            segments: [None; MOST_SEGMENTS],
            n_positions: 0,
            n_warps,
            n_sets: 1,
            tile_rows: ROWS,
            n_splits: 1,
        };
        plan.n_sets = plan.n_tiles().clamp(1, MOST_SETS);
        check_below("blocks of queries and heads", n_heads * plan.n_tiles(), 1 << 16, "0..65536")?;
        for (place, segment) in plan.segments.iter_mut().zip(segments) {
            plan.n_positions += check_segment(&shape, n_heads, segment)?;
            *place = Some(*segment);
        }
        check_below("rows of all segments", plan.n_positions, 1 << 28, "0..2^28")?;
        plan.n_splits = plan.n_positions.div_ceil(LEAST_SPLIT).clamp(1, MOST_SPLITS);
        check_below("words of the workspace", plan.workspace_len(), 1 << 40, "0..2^40")?;
        Ok(plan)
    }

    /// What it was made from.
    pub fn shape(&self) -> &AttendShape {
        &self.shape
    }

    /// What it was made from, too.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = &SegmentShape> + Clone {
        let n = self.segments.iter().flatten().count();
        self.segments[..n].iter().map(|segment| segment.as_ref().expect("the first are there"))
    }

    /// Heads of keys.
    pub fn n_heads(&self) -> u64 {
        self.n_heads
    }

    /// Query heads of a head of keys.
    pub fn group(&self) -> u64 {
        self.shape.n_q_heads / self.n_heads
    }

    /// Positions of a request, at most.
    pub fn n_positions(&self) -> u64 {
        self.n_positions
    }

    /// Elements from the first of the first query to the last of the last.
    pub fn queries_len(&self) -> u64 {
        self.tokens_len(self.shape.query_stride)
    }

    /// Elements from the first output to the last.
    pub fn outputs_len(&self) -> u64 {
        self.tokens_len(self.shape.output_stride)
    }

    /// Log-sum-exps: one for each query and its heads.
    pub fn log_sums_len(&self) -> u64 {
        self.n_tokens() * self.shape.n_q_heads
    }

    /// Words of the workspace; zeros before the first launch, and every launch leaves it ready.
    pub fn workspace_len(&self) -> u64 {
        let n_splits = self.n_splits();
        let n_of_partials = if n_splits == 1 { 0 } else { n_splits };
        let n_rows = self.shape.batch * self.shape.n_q_heads * self.shape.n_queries;
        self.n_tickets() + n_of_partials * n_rows * (self.shape.head_dim + EXTRA_WORDS)
    }

    /// Of the workspace, words that must be zeros.
    pub fn n_tickets(&self) -> u64 {
        (self.shape.batch * self.n_heads * self.n_tiles()).next_multiple_of(4)
    }

    /// Bytes that any kernel moves where each request has all positions, in elements of two bytes: keys, values and queries
    /// read once, outputs of so many bytes written once.
    pub fn least_bytes(&self, output_bytes: u64) -> u64 {
        let n_rows = self.shape.batch * self.n_heads * self.n_positions;
        let n_heads = self.log_sums_len();
        (4 * n_rows + (2 + output_bytes) * n_heads) * self.shape.head_dim
    }

    /// Tokens that attend.
    pub(super) fn n_tokens(&self) -> u64 {
        self.shape.batch * self.shape.n_queries
    }

    fn tokens_len(&self, stride: u64) -> u64 {
        spread(self.n_tokens(), stride, self.shape.n_q_heads * self.shape.head_dim)
    }

    /// Blocks of 16 of a head's rows of queries.
    pub(crate) fn n_tiles(&self) -> u64 {
        (self.shape.n_queries * self.group()).div_ceil(self.tile_rows)
    }

    /// Splits of the longest row.
    pub(crate) fn n_splits(&self) -> u64 {
        self.n_splits
    }

    /// Warps that share a split.
    pub(super) fn n_warps(&self) -> u64 {
        self.n_warps
    }

    /// Blocks of 16 of a head's rows of queries that have one copy of keys and values.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn n_sets(&self) -> u64 {
        self.n_sets
    }

    /// The same launch by one set of other warps, whose number changes what its bits are.
    pub(crate) fn with_warps(self, n_warps: u64) -> Self {
        Self { n_warps, n_sets: 1, ..self }
    }

    /// The same launch of other tiles and splits, by one set of four warps.
    pub(crate) fn with_tiles(self, tile_rows: u64, n_splits: u64) -> Self {
        Self { n_warps: 4, n_sets: 1, tile_rows, n_splits, ..self }
    }

    /// Rows of queries of a tile.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(crate) fn tile_rows(&self) -> u64 {
        self.tile_rows
    }

    /// The grid of the launch: a block for each split of the longest row, 32 rows of a head's queries, and request.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        let chunk_bytes = 16;
        let row_bytes = (self.shape.head_dim / 8 + 1) * chunk_bytes;
        // Queries, and of each warp of a set two stages of keys and values; and afterwards the sums of all warps, and what is
        // said of parts that are merged.
        let n_tiles = (self.n_sets + 4 * self.n_warps) * ROWS * row_bytes;
        let n_sums = self.n_sets * self.n_warps * ROWS * (self.shape.head_dim + EXTRA_WORDS);
        let n_merge = (3 * self.n_splits().max(self.n_warps) + 1) * ROWS;
        let n_shared = n_tiles.max(4 * (n_sums + n_merge));
        let n_heads = self.n_heads * self.n_tiles().div_ceil(self.n_sets);
        Grid {
            blocks: [self.n_splits() as u32, n_heads as u32, self.shape.batch as u32],
            threads: [32 * (self.n_warps * self.n_sets) as u32, 1, 1],
            dynamic_shared_bytes: n_shared as u32,
            cluster_blocks: 1,
        }
    }
}

/// Positions of a row of so many, that are one split.
pub(super) fn split_len(n_positions: usize) -> usize {
    let mut len = LEAST_SPLIT as usize;
    while n_positions > MOST_SPLITS as usize * len {
        len *= 2;
    }
    len
}

/// Its positions, at most.
fn check_segment(shape: &AttendShape, n_heads: u64, segment: &SegmentShape) -> Result<u64> {
    let kv = segment.layout.shape();
    for (what, expected, got) in [
        ("requests of a segment", shape.batch, kv.batch),
        ("heads of a segment", n_heads, kv.n_heads),
        ("elements of a segment's rows", shape.head_dim, kv.row_len),
    ] {
        if expected != got {
            return Err(Error::Shape { what, expected, got });
        }
    }
    if segment.mask != Mask::None && kv.tokens_per_row != 1 {
        let (what, value) = ("tokens of a row that is masked", kv.tokens_per_row);
        return Err(Error::Range { what, value, allowed: "1" });
    }
    segment.mask.check()?;
    match segment.tokens {
        Tokens::Range { first, end, last } => {
            let n = segment.layout.n_rows().min(end).saturating_sub(first).min(last);
            Ok(match segment.mask {
                Mask::Window(window) => n.min(window + shape.n_queries - 1),
                Mask::None | Mask::Causal => n,
            })
        }
        Tokens::Blocks { n_blocks, block_size } => {
            check_between("rows of a block", block_size, 128, "1..=128")?;
            check_below("blocks of a list", n_blocks, 1 << 26, "0..2^26")?;
            let n = n_blocks * block_size;
            check_below("rows of a list", n, (1 << 26) + 1, "0..=2^26")?;
            Ok(n)
        }
    }
}
