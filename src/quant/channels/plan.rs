//! The shape of a launch that measures: pure arithmetic, no driver.

#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::quant::PagesPlan;

/// Pages of a block.
const PIECE_PAGES: u64 = 8;

/// A launch of [`measure_channels`](crate::quant::measure_channels), for the launch over pages that its figures are for.
///
/// ```
/// use lacuna::kv::{KvLayout, KvShape};
/// use lacuna::quant::{ChannelsPlan, PagesPlan, PagesShape};
///
/// let shape = KvShape {
///     batch: 4, n_heads: 8, row_len: 128, n_pages: 1000, page_size: 16, table_stride: 250,
///     ..KvShape::default()
/// };
/// let pages = PagesPlan::new(PagesShape::of(KvLayout::new(shape.hnd())?, 62))?;
/// let plan = ChannelsPlan::new(pages);
/// // A block has 8 pages of a head's keys, or values, and a ticket each of these.
/// assert_eq!(plan.workspace_len(), 4 * 8 * 2 * (1 + 8 * 3 * 128));
/// # Ok::<_, lacuna::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelsPlan {
    pages: PagesPlan,
}

impl ChannelsPlan {
    /// Of the same rows, lists and spans; pools do not matter.
    pub fn new(pages: PagesPlan) -> Self {
        Self { pages }
    }

    /// What it was made from.
    pub fn pages(&self) -> &PagesPlan {
        &self.pages
    }

    /// Blocks of a span.
    pub(super) fn n_pieces(&self) -> u64 {
        let shape = self.pages.shape();
        shape.span_pages.min(shape.n_pages).div_ceil(PIECE_PAGES).max(1)
    }

    /// Spans of all heads, keys and values.
    fn n_spans(&self) -> u64 {
        let kv = self.pages.shape().layout.shape();
        kv.batch * kv.n_heads * 2 * self.pages.n_spans()
    }

    /// Of the workspace, words that must be zeros: the first ones.
    pub fn n_tickets(&self) -> u64 {
        if self.n_pieces() == 1 { 0 } else { self.n_spans() }
    }

    /// Words of the workspace; none where a span has up to 8 pages.
    pub fn workspace_len(&self) -> u64 {
        let head_dim = self.pages.shape().layout.shape().row_len;
        self.n_tickets() * (1 + self.n_pieces() * 3 * head_dim)
    }

    /// Bytes that any kernel moves that measures keys and values of so many rows of heads: rows and their indices read once, and so many figures
    /// written.
    pub fn least_bytes(&self, n_rows: u64, n_figures: u64) -> u64 {
        let head_dim = self.pages.shape().layout.shape().row_len;
        n_rows * 2 * 2 * head_dim + 4 * self.pages.indices_len() + 4 * n_figures
    }

    /// The grid of the launch: a block for each 8 pages of a span of keys, and of values.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        let kv = self.pages.shape().layout.shape();
        Grid {
            blocks: [
                (self.pages.n_spans() * self.n_pieces()) as u32,
                kv.n_heads as u32,
                2 * kv.batch as u32,
            ],
            threads: [kv.row_len as u32, 1, 1],
            dynamic_shared_bytes: 0,
            cluster_blocks: 1,
        }
    }
}
