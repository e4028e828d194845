//! The shape of a launch that attends over tiered pages: pure arithmetic, no driver.

use crate::attention::AttendPlan;
use crate::error::check_below;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::quant::Tail;
use crate::quant::{PagesPlan, Part, Tier};
use crate::{Error, Result};

/// Positions of a step, of which a warp has all.
pub(super) const STEP: u64 = 64;
/// Steps of a split, at least, and splits of a row, at most.
const LEAST_STEPS: u64 = 4;
const MOST_SPLITS: u64 = 64;
/// Rows of queries of a block, where a head has no more than the first and where it has; and its warps.
const ROWS: [u64; 2] = [4, 8];
pub(super) const WARPS: u64 = 4;

/// A launch of [`attend_tiered`](crate::attention::attend_tiered).
///
/// ```
/// use lacuna::attention::{AttendPlan, AttendShape, SegmentShape, TieredPlan, Tokens};
/// use lacuna::kv::{KvLayout, KvLists, KvShape};
/// use lacuna::quant::{PagesPlan, PagesShape};
///
/// let shape = KvShape {
///     batch: 4, n_heads: 8, row_len: 128, n_pages: 1000, page_size: 16, table_stride: 250,
///     ..KvShape::default()
/// };
/// let layout = KvLayout::new(shape.hnd())?;
/// // What waits to be quantized, by its rows' numbers, and the newest tokens.
/// let waiting = Tokens::Blocks { n_blocks: 192, block_size: 1 };
/// let segments = [
///     SegmentShape { lists: KvLists::PerHead, ..SegmentShape::of(layout, waiting) },
///     SegmentShape::of(layout, Tokens::last(64)),
/// ];
/// let attend = AttendPlan::new(AttendShape::of(&layout, 32), &segments)?;
/// let n_pool_pages = [0, 0, 2 * 4 * 8 * 38, 2 * 4 * 8 * 25];
/// let pages = PagesPlan::new(PagesShape { n_pool_pages, ..PagesShape::of(layout, 63) })?;
/// let plan = TieredPlan::new(attend, pages)?;
/// assert_eq!(plan.n_positions(), 64 * 63 + 192 + 64);
/// # Ok::<_, lacuna::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TieredPlan {
    attend: AttendPlan,
    pages: PagesPlan,
    n_stages: u64,
}

impl TieredPlan {
    /// `attend` says all of queries, outputs and segments, and `pages` all of pages, whose lists stand before the segments.
    ///
    /// # Errors
    /// [`Error::Shape`] where the two differ in requests, heads or their dimension; [`Error::Range`] for what is not supported; they
    /// say what is.
    pub fn new(attend: AttendPlan, pages: PagesPlan) -> Result<Self> {
        let kv = pages.shape().layout.shape();
        let shape = attend.shape();
        for (what, expected, got) in [
            ("requests of pages", shape.batch, kv.batch),
            ("heads of pages", attend.n_heads(), kv.n_heads),
            ("elements of a head of pages", shape.head_dim, kv.row_len),
        ] {
            if expected != got {
                return Err(Error::Shape { what, expected, got });
            }
        }
        if ![64, 128, 256].contains(&shape.head_dim) {
            let (what, allowed) = ("elements of a head of pages", "64, 128 and 256");
            return Err(Error::Range { what, value: shape.head_dim, allowed });
        }
        let n_steps = pages.shape().n_pages + attend.n_positions().div_ceil(STEP);
        let n_splits = n_steps.div_ceil(LEAST_STEPS).clamp(1, MOST_SPLITS);
        let n_rows = shape.n_queries * attend.group();
        let attend = attend.with_tiles(ROWS[usize::from(n_rows > ROWS[0])], n_splits);
        let n_blocks = attend.n_heads() * attend.n_tiles();
        check_below("blocks of queries and heads", n_blocks, 1 << 16, "0..65536")?;
        check_below("words of the workspace", attend.workspace_len(), 1 << 40, "0..2^40")?;
        Ok(Self { attend, pages, n_stages: 2 })
    }

    /// The same launch with room on chip for three pieces of pages for each warp in place of two, of which all but one are on their way. Bits do not
    /// depend on it. Two leave room for three blocks on a multiprocessor of Hopper where heads have 128 elements, three for two.
    #[must_use]
    pub fn with_three_stages(self) -> Self {
        Self { n_stages: 3, ..self }
    }

    /// What says all but which pages there are. Its splits and its workspace are those of this launch.
    pub fn attend(&self) -> &AttendPlan {
        &self.attend
    }

    /// Which pages there are.
    pub fn pages(&self) -> &PagesPlan {
        &self.pages
    }

    /// Positions of a request, at most: 64 slots of each page, and then those of segments.
    pub fn n_positions(&self) -> u64 {
        STEP * self.pages.shape().n_pages + self.attend.n_positions()
    }

    /// Logits: of each query and its heads one for each position.
    pub fn logits_len(&self) -> u64 {
        self.attend.log_sums_len() * self.n_positions()
    }

    /// Words of the workspace; zeros before the first launch, and every launch leaves it ready.
    pub fn workspace_len(&self) -> u64 {
        self.attend.workspace_len()
    }

    /// Bytes that any kernel moves where so many pages, keys' and values', are of each tier (of 16, 8, 4 and 2 bits), all segments are as long as they may
    /// be, and outputs have so many bytes an element: all of it once, and an entry for each page.
    pub fn least_bytes(&self, n_pages: [u64; 4], output_bytes: u64) -> u64 {
        let page = self.pages.page(Part::Keys);
        let of_tier =
            |tier: Tier| n_pages[tier.tag() as usize] * (page.page_bytes(tier) as u64 + 4);
        Tier::ALL.into_iter().map(of_tier).sum::<u64>() + self.attend.least_bytes(output_bytes)
    }

    /// Rows of queries of a block.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn rows(&self) -> u64 {
        self.attend.tile_rows()
    }

    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn n_stages(&self) -> u64 {
        self.n_stages
    }

    /// The grid of the launch: a block for each split of the longest row, 8 rows of a head's queries (4 where it has no more), and request. Heads of 128 take 73 KiB of
    /// dynamic shared memory (with three stages 91; of 4 rows 65 and 83), and those of 256 take 119 (106), which devices of compute capability 8.6, 8.9 and 12.0 do not have.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        let shape = self.attend.shape();
        let d = shape.head_dim;
        let stage = 32 * d + Tail::Minimums.bytes() as u64;
        let rows = self.rows();
        // Of a warp: what stands at positions, what tokens' codes are multiplied by, queries in fixed point, channels of values,
        // what is said of rows of queries, weights, addresses of pages; and pieces.
        let of_warp = 2 * STEP * 24
            + STEP * 8
            + 2 * rows * (d + 16)
            + 8 * d
            + 12 * rows
            + 2 * rows * (STEP + 16)
            + 4 * rows
            + 512
            + self.n_stages * stage;
        let n_queries = rows * (d / 8 + 1) * 16;
        // And afterwards the sums of all warps, and what is said of parts that are merged.
        let n_sums = WARPS * rows * (d + 4);
        let n_merge = (3 * self.attend.n_splits().max(WARPS) + 1) * 16;
        let n_shared = (n_queries + WARPS * of_warp).max(4 * (n_sums + n_merge));
        let n_heads = self.attend.n_heads() * self.attend.n_tiles();
        Grid {
            blocks: [self.attend.n_splits() as u32, n_heads as u32, shape.batch as u32],
            threads: [32 * WARPS as u32, 1, 1],
            dynamic_shared_bytes: n_shared as u32,
            cluster_blocks: 1,
        }
    }
}

/// Steps of a split, of a row of so many.
pub(super) fn split_steps(n_steps: usize) -> usize {
    let mut n = LEAST_STEPS as usize;
    while n_steps > MOST_SPLITS as usize * n {
        n *= 2;
    }
    n
}
