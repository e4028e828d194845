//! The shape of a launch that moves rows by lists of indices: pure arithmetic, no driver.

use crate::error::check_below;
use crate::kv::{KvLayout, KvLists};
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::{Error, Result};

#[cfg(any(feature = "cuda", feature = "simt"))]
const THREADS_PER_BLOCK: u64 = 128;
#[cfg(any(feature = "cuda", feature = "simt"))]
const THREADS_PER_TILE: u32 = 512;
/// Rows of a table that a block of `scatter_add_rows` has.
const TILE: u64 = 32;

/// Where rows are, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowStrides {
    /// From list to list; 0 where all lists share one table.
    pub list: u64,
    /// From row to row.
    pub row: u64,
}

/// What becomes of a gathered row whose index is of no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Absent {
    /// Zeros.
    #[default]
    Zeros,
    /// It is left alone.
    Kept,
}

/// Sizes of a launch of [`gather_rows`](crate::select::gather_rows),
/// [`scatter_rows`](crate::select::scatter_rows) or [`scatter_add_rows`](crate::select::scatter_add_rows).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowsShape {
    /// Lists of indices.
    pub n_lists: u64,
    /// Indices of a list, and its rows.
    pub n_indices: u64,
    /// Entries between the starts of two lists of indices; 0 where all lists are one.
    pub index_stride: u64,
    /// Rows of a table.
    pub n_table_rows: u64,
    /// Elements of a row.
    pub row_len: u64,
    /// Where the tables' rows are,
    pub table: RowStrides,
    /// and the lists' rows.
    pub list: RowStrides,
    /// Bytes of an element.
    pub element_bytes: u32,
}

impl RowsShape {
    /// The same sizes where nothing lies between rows, tables and lists. `self`'s strides do not matter.
    pub fn dense(self) -> Self {
        let strides = |n_rows: u64| RowStrides {
            list: n_rows.saturating_mul(self.row_len),
            row: self.row_len,
        };
        Self {
            index_stride: self.n_indices,
            table: strides(self.n_table_rows),
            list: strides(self.n_indices),
            ..self
        }
    }
}

/// A launch that moves rows by lists of indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowsPlan {
    shape: RowsShape,
    table_len: u64,
    list_len: u64,
    indices_len: u64,
}

impl RowsPlan {
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) for a size that is not supported; it says what is.
    pub fn new(shape: RowsShape) -> Result<Self> {
        let RowsShape { n_lists, n_indices, n_table_rows, row_len, element_bytes, .. } = shape;
        check_below("lists", n_lists, 1 << 31, "0..2^31")?;
        check_below("rows of a table", n_table_rows, 1 << 31, "0..2^31")?;
        check_below("rows of all lists", n_lists.saturating_mul(n_indices), 1 << 31, "0..2^31")?;
        let element_bytes = u64::from(element_bytes);
        if element_bytes == 0 {
            let (what, value) = ("bytes of an element", element_bytes);
            return Err(Error::Range { what, value, allowed: "1 and more" });
        }
        check_below("bytes of a row", row_len.saturating_mul(element_bytes), 1 << 31, "0..2^31")?;
        let indices_len = extent(&[(n_lists, shape.index_stride), (n_indices, 1)], 1);
        check_below("entries of all lists", indices_len, 1 << 45, "0..2^45")?;
        let len = |strides: RowStrides, n_rows| {
            extent(&[(n_lists, strides.list), (n_rows, strides.row)], row_len)
        };
        let (table_len, list_len) = (len(shape.table, n_table_rows), len(shape.list, n_indices));
        for (what, len) in [("bytes of tables", table_len), ("bytes of lists", list_len)] {
            check_below(what, len.saturating_mul(element_bytes), 1 << 47, "0..2^47")?;
        }
        Ok(Self { shape, table_len, list_len, indices_len })
    }

    /// What it was made from.
    pub fn shape(&self) -> &RowsShape {
        &self.shape
    }

    /// Elements from the first of the first table to the last of the last.
    pub fn table_len(&self) -> u64 {
        self.table_len
    }

    /// Elements from the first of the first list's rows to the last of the last.
    pub fn list_len(&self) -> u64 {
        self.list_len
    }

    /// Entries from the first list of indices to the end of the last.
    pub fn indices_len(&self) -> u64 {
        self.indices_len
    }

    /// Weights of all lists' rows.
    pub fn weights_len(&self) -> u64 {
        self.n_rows()
    }

    /// Words that a scatter marks the last row of each index in.
    pub fn last_len(&self) -> u64 {
        self.shape.n_lists.saturating_mul(self.shape.n_table_rows)
    }

    /// Bytes that any kernel moves which copies rows: each read once and written once, by an index read once.
    pub fn least_bytes(&self) -> u64 {
        self.n_rows() * (2 * self.row_bytes() + 4)
    }

    fn n_rows(&self) -> u64 {
        self.shape.n_lists * self.shape.n_indices
    }

    pub(super) fn row_bytes(&self) -> u64 {
        self.shape.row_len * u64::from(self.shape.element_bytes)
    }

    /// Whether no byte is of two rows of the lists.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn has_disjoint_lists(&self) -> bool {
        self.is_disjoint(self.shape.list, self.shape.n_indices)
    }

    /// Whether no byte is of two rows of the tables.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn has_disjoint_tables(&self) -> bool {
        self.is_disjoint(self.shape.table, self.shape.n_table_rows)
    }

    #[cfg(any(feature = "cuda", feature = "simt"))]
    fn is_disjoint(&self, strides: RowStrides, n_rows: u64) -> bool {
        let (n_lists, row_len) = (self.shape.n_lists, self.shape.row_len);
        // The inner rows, whichever they are, end before the next outer one begins.
        let nests = |inner: (u64, u64), outer: (u64, u64)| {
            let has_room = inner.0 <= 1 || inner.1 >= row_len;
            has_room && (outer.0 <= 1 || outer.1 >= extent(&[inner], row_len))
        };
        let (list, row) = ((n_lists, strides.list), (n_rows, strides.row));
        nests(row, list) || nests(list, row)
    }

    /// Whether the lists' rows have nothing between them.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn has_dense_lists(&self) -> bool {
        self.list_len == self.n_rows() * self.shape.row_len && self.has_disjoint_lists()
    }

    /// The most bytes that move at once, where tables and lists are at these addresses.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn unit_bytes(&self, addresses: [u64; 2]) -> u32 {
        let RowsShape { table, list, .. } = self.shape;
        let element_bytes = u64::from(self.shape.element_bytes);
        let strides =
            [table.list, table.row, list.list, list.row].map(|n| n.wrapping_mul(element_bytes));
        let all = strides.iter().chain(&addresses).fold(self.row_bytes(), |all, n| all | n);
        unit_of(all)
    }

    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn lane_bits(&self, unit_bytes: u32) -> u32 {
        lane_bits(self.row_bytes(), unit_bytes)
    }

    /// The grid of a launch that copies rows.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn grid(&self, lane_bits: u32) -> Grid {
        let n_rows = if self.shape.row_len == 0 { 0 } else { self.n_rows() };
        grid_of(n_rows, lane_bits)
    }

    /// The grid of `scatter_add_rows`.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn add_grid(&self) -> Result<Grid> {
        let is_empty = self.n_rows() == 0 || self.shape.row_len == 0;
        let n_tiles = self.shape.n_lists * self.shape.n_table_rows.div_ceil(TILE);
        check_below("tiles of all tables, of 32 rows", n_tiles, 1 << 31, "0..2^31")?;
        let blocks = [if is_empty { 0 } else { n_tiles as u32 }, 1, 1];
        Ok(Grid {
            blocks,
            threads: [THREADS_PER_TILE, 1, 1],
            dynamic_shared_bytes: 0,
            cluster_blocks: 1,
        })
    }

    /// Bytes that `scatter_add_rows` reads of indices: of each list, once for every 32 rows of its table.
    pub fn add_index_bytes(&self) -> u64 {
        self.n_rows().saturating_mul(4).saturating_mul(self.shape.n_table_rows.div_ceil(TILE))
    }
}

/// Elements from the first to the last of `len` at each of these places: counts and strides.
fn extent(places: &[(u64, u64)], len: u64) -> u64 {
    if len == 0 || places.iter().any(|(n, _)| *n == 0) {
        return 0;
    }
    places.iter().fold(len, |sum, (n, stride)| sum.saturating_add((n - 1).saturating_mul(*stride)))
}

#[cfg(any(feature = "cuda", feature = "simt"))]
fn unit_of(all: u64) -> u32 {
    1 << all.trailing_zeros().min(4)
}

/// So many lanes have a row: as many as it has units, 32 at most.
#[cfg(any(feature = "cuda", feature = "simt"))]
fn lane_bits(row_bytes: u64, unit_bytes: u32) -> u32 {
    let n_units = row_bytes / u64::from(unit_bytes);
    n_units.clamp(1, 32).next_power_of_two().trailing_zeros()
}

#[cfg(any(feature = "cuda", feature = "simt"))]
fn grid_of(n_rows: u64, lane_bits: u32) -> Grid {
    let blocks = [(n_rows << lane_bits).div_ceil(THREADS_PER_BLOCK) as u32, 1, 1];
    Grid {
        blocks,
        threads: [THREADS_PER_BLOCK as u32, 1, 1],
        dynamic_shared_bytes: 0,
        cluster_blocks: 1,
    }
}

/// A launch that moves rows of a paged cache by lists of indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvRowsPlan {
    layout: KvLayout,
    n_indices: u64,
    lists: KvLists,
}

impl KvRowsPlan {
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) for a size that is not supported; it says what is.
    pub fn new(layout: KvLayout, n_indices: u64, lists: KvLists) -> Result<Self> {
        let n_lists = layout.shape().batch * layout.shape().n_heads;
        check_below(
            "rows of all lists",
            n_lists.max(1).saturating_mul(n_indices),
            1 << 31,
            "0..2^31",
        )?;
        Ok(Self { layout, n_indices, lists })
    }

    /// The cache's sizes.
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Rows of a list.
    pub fn n_indices(&self) -> u64 {
        self.n_indices
    }

    /// Whose lists there are.
    pub fn lists(&self) -> KvLists {
        self.lists
    }

    /// Entries of `indices`.
    pub fn indices_len(&self) -> u64 {
        self.lists.count(&self.layout) * self.n_indices
    }

    /// Elements of `[batch, n_heads, n_indices, row_len]`.
    pub fn rows_len(&self) -> u64 {
        self.n_rows() * self.layout.shape().row_len
    }

    /// Bytes that any kernel moves: each row of keys and of values read once and written once, by an index read
    /// once for each head.
    pub fn least_bytes(&self, element_bytes: u64) -> u64 {
        4 * self.rows_len() * element_bytes + 4 * self.n_rows()
    }

    fn n_rows(&self) -> u64 {
        let shape = self.layout.shape();
        shape.batch * shape.n_heads * self.n_indices
    }

    /// The most bytes that move at once, where what moves is at these addresses.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn unit_bytes(&self, element_bytes: u64, addresses: [u64; 4]) -> u32 {
        let shape = self.layout.shape();
        let strides = [shape.page_stride, shape.token_stride, shape.head_stride, shape.row_len];
        let all = strides
            .map(|n| n.wrapping_mul(element_bytes))
            .iter()
            .chain(&addresses)
            .fold(0, |all, n| all | n);
        unit_of(all)
    }

    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn lane_bits(&self, element_bytes: u64, unit_bytes: u32) -> u32 {
        lane_bits(self.layout.shape().row_len * element_bytes, unit_bytes)
    }

    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn grid(&self, lane_bits: u32) -> Grid {
        grid_of(self.n_rows(), lane_bits)
    }
}

/// Refuses rows that a launch would write twice.
#[cfg(any(feature = "cuda", feature = "simt"))]
pub(super) fn check_disjoint(what: &'static str, is_disjoint: bool, row_stride: u64) -> Result<()> {
    if is_disjoint {
        return Ok(());
    }
    Err(crate::Error::Range {
        what,
        value: row_stride,
        allowed: "the strides of rows that do not overlap",
    })
}
