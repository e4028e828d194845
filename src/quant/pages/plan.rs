//! The shape of a launch over pages: pure arithmetic, no driver.

use crate::Result;
use crate::error::{check_below, check_between};
use crate::kv::{KvLayout, KvLists};
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::quant::{PageShape, Part, Tail, Tier};

/// Sizes of a launch of [`quantize_pages`](crate::quant::quantize_pages) or
/// [`dequantize_pages`](crate::quant::dequantize_pages).
///
/// ```
/// use lacuna::kv::{KvLayout, KvLists, KvShape};
/// use lacuna::quant::{PagesPlan, PagesShape, Tier};
///
/// let shape = KvShape {
///     batch: 4, n_heads: 8, row_len: 128, n_pages: 1000, page_size: 16, table_stride: 250,
///     ..KvShape::default()
/// };
/// let layout = KvLayout::new(shape.hnd())?;
/// // 4,000 tokens a head, 60 % of them with 4 bits.
/// let n_pool_pages = [0, 0, 2 * 4 * 8 * 38, 2 * 4 * 8 * 25];
/// let plan = PagesPlan::new(PagesShape { n_pool_pages, ..PagesShape::of(layout, 63) })?;
/// assert_eq!(plan.pool_bytes(Tier::T4), 2 * 4 * 8 * 38 * (64 * 128 / 2 + 256));
/// # Ok::<_, lacuna::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagesShape {
    /// The cache of numbers: bf16 or f16, keys and values, rows of a multiple of 32 elements, up to 256.
    pub layout: KvLayout,
    /// Whose lists of rows there are.
    pub lists: KvLists,
    /// Pages that a list makes, of keys and of values, at most: 64 indices each.
    pub n_pages: u64,
    /// Pages of a list that have the same scales and offsets of channels; of the whole list by default.
    pub span_pages: u64,
    /// Pages of each tier's pool, of 16, 8, 4 and 2 bits; 0 where there is no pool.
    pub n_pool_pages: [u64; 4],
    /// What pages of codes end with, in all pools. [`quantize_pages`](crate::quant::quantize_pages) writes zero points alone.
    pub tail: Tail,
}

impl PagesShape {
    /// Lists for each head, of so many pages with the same channels; no pools, and zero points where there
    /// will be.
    pub fn of(layout: KvLayout, n_pages: u64) -> Self {
        let (lists, span_pages) = (KvLists::PerHead, n_pages.max(1));
        let tail = Tail::ZeroPoints;
        Self { layout, lists, n_pages, span_pages, n_pool_pages: [0; 4], tail }
    }
}

/// A launch over pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagesPlan {
    shape: PagesShape,
    page: PageShape,
}

impl PagesPlan {
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) for a size that is not supported; it says what is.
    pub fn new(shape: PagesShape) -> Result<Self> {
        let kv = shape.layout.shape();
        let page = PageShape::new(kv.row_len, Part::Keys)?.with_tail(shape.tail);
        check_between("tokens of a row", kv.tokens_per_row, 1, "1")?;
        check_below("requests", kv.batch, 1 << 15, "0..32768")?;
        check_below("heads", kv.n_heads, 1 << 16, "0..65536")?;
        check_below("pages of a list", shape.n_pages, 1 << 20, "0..2^20")?;
        check_between("pages of a span", shape.span_pages, 1 << 20, "1..=2^20")?;
        let n_pages = (kv.batch * kv.n_heads).saturating_mul(shape.n_pages);
        check_below("pages of all lists", n_pages, 1 << 31, "0..2^31")?;
        for n in shape.n_pool_pages {
            check_below("pages of a pool", n, (1 << 30) + 1, "0..=2^30")?;
        }
        Ok(Self { shape, page })
    }

    /// What it was made from.
    pub fn shape(&self) -> &PagesShape {
        &self.shape
    }

    /// A page's sizes.
    pub fn page(&self, part: Part) -> PageShape {
        self.page.of_part(part)
    }

    /// Entries of keys' pages, and of values'.
    pub fn entries_len(&self) -> u64 {
        let kv = self.shape.layout.shape();
        kv.batch * kv.n_heads * self.shape.n_pages
    }

    /// Indices of all lists.
    pub fn indices_len(&self) -> u64 {
        64 * self.n_lists() * self.shape.n_pages
    }

    /// Lists of all requests.
    pub fn n_lists(&self) -> u64 {
        self.shape.lists.count(&self.shape.layout)
    }

    /// Spans of a list.
    pub fn n_spans(&self) -> u64 {
        self.shape.n_pages.div_ceil(self.shape.span_pages)
    }

    /// Scales, or offsets, of all channels of keys, or of values.
    pub fn channels_len(&self) -> u64 {
        let kv = self.shape.layout.shape();
        kv.batch * kv.n_heads * self.n_spans() * kv.row_len
    }

    /// Bytes of a tier's pool.
    pub fn pool_bytes(&self, tier: Tier) -> u64 {
        self.shape.n_pool_pages[tier.tag() as usize] * self.page.page_bytes(tier) as u64
    }

    /// Bytes that any kernel moves of which so many pages, keys' and values', are of each tier (of 16, 8, 4 and 2 bits) and full: rows,
    /// pages, indices and entries once.
    pub fn least_bytes(&self, n_pages: [u64; 4]) -> u64 {
        let of_tier = |tier: Tier| {
            let row_bytes = 2 * self.page.head_dim();
            let of_page = 64 * row_bytes + self.page.page_bytes(tier) + 4;
            n_pages[tier.tag() as usize] * of_page as u64
        };
        Tier::ALL.into_iter().map(of_tier).sum::<u64>() + 4 * self.indices_len()
    }

    /// The grid of the launch: a block for each page of keys, and of values.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        let kv = self.shape.layout.shape();
        Grid {
            blocks: [self.shape.n_pages as u32, kv.n_heads as u32, 2 * kv.batch as u32],
            threads: [128, 1, 1],
            dynamic_shared_bytes: 0,
            cluster_blocks: 1,
        }
    }
}
