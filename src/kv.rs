//! A paged cache of keys and values, as engines keep it, or as an arena that grows.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod arena;

#[cfg(feature = "cuda")]
pub(crate) use arena::Physical;
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use arena::{ArenaPlan, ArenaShape, ArenaStats, KvArena, Packing, PageOrder};

#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::bindings::LacunaKvView;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::buffer::{View, ViewMut};
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::element::Float;
use crate::error::{check_below, check_between};
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::{Arguments, check_aligned, check_same};
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::region::Role;
use crate::{Error, Result};

/// The most rows of a request: 2^26.
pub const MAX_ROWS: u64 = 1 << 26;

/// Sizes and strides of a paged cache; [`KvLayout::new`] says what is allowed.
///
/// A row is one head's key or value of one token, or what stands for several tokens' keys. Row `t` of request `b` and
/// head `h` begins at element
/// `page_table[b, t / page_size] * page_stride + t % page_size * token_stride + h * head_stride`.
///
/// ```
/// use lacuna::kv::{KvLayout, KvShape};
///
/// let shape = KvShape {
///     batch: 4, n_heads: 8, row_len: 128, n_pages: 1000, page_size: 16, table_stride: 250,
///     ..KvShape::default()
/// };
/// let layout = KvLayout::new(shape.hnd())?;
/// assert_eq!(layout.n_rows(), 4000);
/// # Ok::<_, lacuna::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Requests.
    pub batch: u64,
    /// Heads of keys and values.
    pub n_heads: u64,
    /// Elements of a row: the head's dimension; of boxes ([`summarize`](crate::select)) twice that.
    pub row_len: u64,
    /// Pages of a pool.
    pub n_pages: u64,
    /// Rows of a page.
    pub page_size: u64,
    /// Entries of the page table from request to request.
    pub table_stride: u64,
    /// Tokens that a row stands for: 1 for keys and values.
    pub tokens_per_row: u64,
    /// Elements from page to page.
    pub page_stride: u64,
    /// Elements from row to row in a page.
    pub token_stride: u64,
    /// Elements from head to head.
    pub head_stride: u64,
}

impl Default for KvShape {
    /// Of nothing: a row stands for a token, and all else is 0.
    fn default() -> Self {
        Self {
            batch: 0,
            n_heads: 0,
            row_len: 0,
            n_pages: 0,
            page_size: 0,
            table_stride: 0,
            tokens_per_row: 1,
            page_stride: 0,
            token_stride: 0,
            head_stride: 0,
        }
    }
}

impl KvShape {
    /// Strides of pages `[page_size, n_heads, row_len]`, one pool of keys and one of values. `self`'s strides do
    /// not matter.
    pub fn nhd(self) -> Self {
        let head_stride = self.row_len;
        let token_stride = head_stride.saturating_mul(self.n_heads);
        let page_stride = token_stride.saturating_mul(self.page_size);
        Self { page_stride, token_stride, head_stride, ..self }
    }

    /// Strides of pages `[n_heads, page_size, row_len]`, one pool of keys and one of values.
    pub fn hnd(self) -> Self {
        let token_stride = self.row_len;
        let head_stride = token_stride.saturating_mul(self.page_size);
        let page_stride = head_stride.saturating_mul(self.n_heads);
        Self { page_stride, token_stride, head_stride, ..self }
    }

    /// The same where a page of keys and then one of values are together, `[n_pages, 2, ...]`: the keys' view
    /// begins at the pool, the values' `page_stride / 2` later.
    pub fn fused(self) -> Self {
        Self { page_stride: self.page_stride.saturating_mul(2), ..self }
    }
}

/// A [`KvShape`] that was found sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvLayout {
    shape: KvShape,
    n_pool: u64,
}

impl KvLayout {
    /// # Errors
    /// [`Error::Range`] for what is not supported; it says what is.
    pub fn new(shape: KvShape) -> Result<Self> {
        check_below("requests", shape.batch, 1 << 16, "0..65536")?;
        check_below("heads of keys", shape.n_heads, 1 << 16, "0..65536")?;
        check_below("pages of a pool", shape.n_pages, 1 << 31, "0..2^31")?;
        check_between("rows of a page", shape.page_size, 256, "1..=256")?;
        check_between("tokens of a row", shape.tokens_per_row, 1 << 20, "1..=2^20")?;
        check_between("elements of a row", shape.row_len, 1024, "1..=1024")?;
        let rows = shape.table_stride.saturating_mul(shape.page_size);
        check_below("rows of a request's pages", rows, MAX_ROWS + 1, "0..=2^26")?;
        for (what, value) in [
            ("elements of a row", shape.row_len),
            ("stride between pages, in elements", shape.page_stride),
            ("stride between rows, in elements", shape.token_stride),
            ("stride between heads, in elements", shape.head_stride),
        ] {
            if !value.is_multiple_of(8) {
                return Err(Error::Range { what, value, allowed: "the multiples of 8" });
            }
        }
        let last = [
            (shape.n_pages, shape.page_stride),
            (shape.page_size, shape.token_stride),
            (shape.n_heads, shape.head_stride),
        ];
        let is_empty = last.iter().any(|(n, _)| *n == 0);
        let n_pool = last.iter().try_fold(shape.row_len, |sum, (n, stride)| {
            (n.saturating_sub(1)).checked_mul(*stride).and_then(|n| n.checked_add(sum))
        });
        let n_pool = if is_empty { 0 } else { n_pool.unwrap_or(u64::MAX) };
        check_below("elements of a pool", n_pool, 1 << 46, "0..2^46")?;
        Ok(Self { shape, n_pool })
    }

    /// What it was made from.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// Elements from the first of the pool to the last.
    pub fn pool_len(&self) -> u64 {
        self.n_pool
    }

    /// Entries of the page table: the last request's too are `table_stride`.
    pub fn table_len(&self) -> u64 {
        self.shape.batch * self.shape.table_stride
    }

    /// Rows that a request's pages hold.
    pub fn n_rows(&self) -> u64 {
        self.shape.table_stride * self.shape.page_size
    }

    /// Rows that a request of so many tokens has.
    pub fn rows_of(&self, n_tokens: u64) -> u64 {
        n_tokens.div_ceil(self.shape.tokens_per_row).min(self.n_rows())
    }

    /// The element at which a row begins; `None` where its page is none.
    pub fn locate(&self, page_table: &[i32], b: u64, t: u64, h: u64) -> Option<usize> {
        let shape = &self.shape;
        let page = page_table[(b * shape.table_stride + t / shape.page_size) as usize];
        let page = u64::try_from(page).ok().filter(|page| *page < shape.n_pages)?;
        let in_page = t % shape.page_size * shape.token_stride;
        Some((page * shape.page_stride + in_page + h * shape.head_stride) as usize)
    }

    /// The numbers of the launch parameter, without addresses.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(crate) fn params<T: Float>(self) -> LacunaKvView {
        let shape = self.shape;
        LacunaKvView {
            keys: 0,
            values: 0,
            page_table: 0,
            lengths: 0,
            page_stride: shape.page_stride,
            token_stride: shape.token_stride,
            head_stride: shape.head_stride,
            table_stride: shape.table_stride,
            page_multiplier: (1_u64 << 34).div_ceil(shape.page_size),
            n_pages: shape.n_pages as u32,
            page_size: shape.page_size as u32,
            n_rows: self.n_rows() as u32,
            tokens_per_row: shape.tokens_per_row as u32,
            batch: shape.batch as u32,
            n_heads: shape.n_heads as u32,
            row_len: shape.row_len as u32,
            element: T::NUMBER,
            key_scale: 1.0,
            value_scale: 1.0,
        }
    }
}

/// Whose lists of rows of a cache there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvLists {
    /// One of each request and head: `[batch, n_heads, n_indices]`.
    #[default]
    PerHead,
    /// One of each request, for all its heads: `[batch, n_indices]`.
    PerRequest,
}

impl KvLists {
    /// Lists of a cache's request.
    pub fn per_request(self, layout: &KvLayout) -> u64 {
        match self {
            Self::PerHead => layout.shape().n_heads,
            Self::PerRequest => 1,
        }
    }

    /// Lists of all of a cache's requests.
    pub fn count(self, layout: &KvLayout) -> u64 {
        layout.shape().batch * self.per_request(layout)
    }
}

/// A paged cache in device memory.
#[cfg(any(feature = "cuda", feature = "simt"))]
#[derive(Debug, Clone, Copy)]
pub struct KvView<'a, T> {
    /// Its sizes.
    pub layout: KvLayout,
    /// The pool of keys, [`KvLayout::pool_len`] elements from a multiple of 16 bytes (of fp8, 8) on.
    pub keys: View<'a, T>,
    /// The pool of values, the same; null where no kernel asks for them.
    pub values: Option<View<'a, T>>,
    /// `[batch, table_stride]`: the page of each `page_size` rows. Numbers of no page make rows that are absent.
    pub page_table: View<'a, i32>,
    /// `[batch]`: tokens of each request, read on the device; more than the table holds count for nothing.
    pub lengths: View<'a, u32>,
    /// What products with keys are multiplied by: 1, or the scale of fp8.
    pub key_scale: f32,
    /// What values are multiplied by.
    pub value_scale: f32,
}

#[cfg(any(feature = "cuda", feature = "simt"))]
impl<T: Float> KvView<'_, T> {
    /// Refuses what no kernel reads.
    fn check(&self) -> Result<()> {
        if T::NUMBER == f32::NUMBER {
            return Err(Error::Range {
                what: "element type of a cache",
                value: T::NUMBER.into(),
                allowed: "bf16, f16, e4m3 and e5m2",
            });
        }
        let alignment = 8 * size_of::<T>() as u64;
        let allowed = "the multiples of 8 elements";
        check_aligned("address of keys", self.keys.address(), alignment, allowed)?;
        if let Some(values) = &self.values {
            check_aligned("address of values", values.address(), alignment, allowed)?;
        }
        Ok(())
    }

    /// Refuses a cache of another layout than the plan's.
    pub(crate) fn check_layout(&self, layout: &KvLayout) -> Result<()> {
        let [got, expected] = [self.layout.shape(), layout.shape()];
        for (what, expected, got) in [
            ("requests of the cache", expected.batch, got.batch),
            ("heads of the cache", expected.n_heads, got.n_heads),
            ("elements of the cache's rows", expected.row_len, got.row_len),
            ("pages of the cache", expected.n_pages, got.n_pages),
            ("rows of the cache's pages", expected.page_size, got.page_size),
            ("entries of the cache's page table", expected.table_stride, got.table_stride),
            ("tokens of the cache's rows", expected.tokens_per_row, got.tokens_per_row),
            ("stride between the cache's pages", expected.page_stride, got.page_stride),
            ("stride between the cache's rows", expected.token_stride, got.token_stride),
            ("stride between the cache's heads", expected.head_stride, got.head_stride),
        ] {
            if expected != got {
                return Err(Error::Shape { what, expected, got });
            }
        }
        Ok(())
    }

    /// The same, and one without values, and one with scales: of bf16 and f16 there are none.
    pub(crate) fn check_planned(&self, layout: &KvLayout) -> Result<()> {
        self.check_layout(layout)?;
        check_same("pools of values", 1, self.values.iter().len())?;
        for (what, value) in
            [("scale of keys", self.key_scale), ("scale of values", self.value_scale)]
        {
            if value != 1.0 {
                return Err(Error::Number { what, value, allowed: "1, of bf16 and f16" });
            }
        }
        Ok(())
    }

    /// Checks its views, and returns what the kernel takes.
    pub(crate) fn params(&self, arguments: &mut Arguments<'_>) -> Result<LacunaKvView> {
        self.check()?;
        let KvView { layout, .. } = self;
        let (n_pool, table) = (layout.pool_len(), self.page_table.address());
        let values = self.values.map(|values| values.through(layout, table));
        Ok(LacunaKvView {
            keys: arguments.input("keys", &self.keys.through(layout, table), n_pool)?,
            values: arguments.optional_input("values", values.as_ref(), n_pool)?,
            page_table: arguments.input("page_table", &self.page_table, layout.table_len())?,
            lengths: arguments.input("lengths", &self.lengths, layout.shape().batch)?,
            key_scale: self.key_scale,
            value_scale: self.value_scale,
            ..layout.params::<T>()
        })
    }
}

/// A paged cache in device memory whose keys and values a launch writes.
#[cfg(any(feature = "cuda", feature = "simt"))]
#[derive(Debug)]
pub struct KvViewMut<'a, T> {
    /// Its sizes.
    pub layout: KvLayout,
    /// The pool of keys, as in [`KvView`].
    pub keys: ViewMut<'a, T>,
    /// The pool of values, the same; null where no kernel asks for them.
    pub values: Option<ViewMut<'a, T>>,
    /// `[batch, table_stride]`: the page of each `page_size` rows. Rows of two requests in one page are written by
    /// both.
    pub page_table: View<'a, i32>,
    /// `[batch]`: tokens of each request.
    pub lengths: View<'a, u32>,
}

#[cfg(any(feature = "cuda", feature = "simt"))]
impl<T: Float> KvViewMut<'_, T> {
    /// The same cache, for reading.
    pub fn as_view(&self) -> KvView<'_, T> {
        KvView {
            layout: self.layout,
            keys: self.keys.as_view(),
            values: self.values.as_ref().map(ViewMut::as_view),
            page_table: self.page_table,
            lengths: self.lengths,
            key_scale: 1.0,
            value_scale: 1.0,
        }
    }

    /// Checks its views, and returns what the kernel takes.
    pub(crate) fn params(&self, arguments: &mut Arguments<'_>) -> Result<LacunaKvView> {
        self.as_view().check()?;
        let KvViewMut { layout, .. } = self;
        let (n_pool, table) = (layout.pool_len(), self.page_table.address());
        let (role, keys) = (Role::InOut, self.keys.through(layout, table));
        let values = self.values.as_ref().map(|values| values.through(layout, table));
        Ok(LacunaKvView {
            keys: arguments.written(role, "keys", &keys, n_pool)?,
            values: arguments.optional_written(role, "values", values.as_ref(), n_pool)?,
            page_table: arguments.input("page_table", &self.page_table, layout.table_len())?,
            lengths: arguments.input("lengths", &self.lengths, layout.shape().batch)?,
            ..layout.params::<T>()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: KvShape = KvShape {
        batch: 2,
        n_heads: 3,
        row_len: 16,
        n_pages: 5,
        page_size: 4,
        table_stride: 2,
        tokens_per_row: 1,
        page_stride: 0,
        token_stride: 0,
        head_stride: 0,
    };

    #[test]
    fn rows_of_all_layouts_are_where_engines_keep_them() {
        let table = [3, 0, -1, 5];
        let nhd = KvLayout::new(SHAPE.nhd()).unwrap();
        assert_eq!(nhd.pool_len(), 5 * 4 * 3 * 16);
        assert_eq!(nhd.locate(&table, 0, 1, 2), Some(((3 * 4 + 1) * 3 + 2) * 16));
        let hnd = KvLayout::new(SHAPE.hnd()).unwrap();
        assert_eq!(hnd.locate(&table, 0, 6, 1), Some((4 + 2) * 16));
        let fused = KvLayout::new(SHAPE.hnd().fused()).unwrap();
        assert_eq!(fused.locate(&table, 0, 0, 0), Some(3 * 2 * 4 * 3 * 16));
        // No page, and one past the pool.
        assert_eq!(nhd.locate(&table, 1, 0, 0), None);
        assert_eq!(nhd.locate(&table, 1, 4, 0), None);
    }

    #[test]
    fn division_by_multiplying_is_exact_below_its_limit() {
        for page_size in 1..=256_u64 {
            let shape = KvShape { page_size, table_stride: 1, ..SHAPE }.nhd();
            let multiplier = KvLayout::new(shape).unwrap().params::<half::bf16>().page_multiplier;
            let near = |n: u64| n.saturating_sub(2)..(n + 2).min(MAX_ROWS);
            for t in near(0).chain(near(MAX_ROWS)).chain(near(page_size)).chain(near(MAX_ROWS / 2))
            {
                assert_eq!((t * multiplier) >> 34, t / page_size, "{t} / {page_size}");
            }
            let last = (MAX_ROWS - 1) / page_size * page_size;
            assert_eq!((last * multiplier) >> 34, last / page_size);
            assert_eq!(((last - 1) * multiplier) >> 34, (last - 1) / page_size);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_does() {
        let refused = |shape: KvShape| KvLayout::new(shape).unwrap_err().to_string();
        let shape = SHAPE.nhd();
        assert_eq!(
            refused(KvShape { page_size: 0, ..shape }),
            "rows of a page: 0 is outside 1..=256"
        );
        assert_eq!(
            refused(KvShape { head_stride: 12, ..shape }),
            "stride between heads, in elements: 12 is outside the multiples of 8"
        );
        assert_eq!(
            refused(KvShape { page_stride: u64::MAX - 7, ..shape }),
            "elements of a pool: 18446744073709551615 is outside 0..2^46"
        );
        assert_eq!(
            refused(KvShape { table_stride: 1 << 40, ..shape }),
            "rows of a request's pages: 4398046511104 is outside 0..=2^26"
        );
    }
}
