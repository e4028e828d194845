//! Paged caches of keys and values.

use super::abi::{check_reserved, lacuna_header, or, or_f32, read, structs, truth, write};
use super::status::{Failure, Outcome, answer, lacuna_status};
use super::view::{lacuna_view, lacuna_view_mut};
use crate::element::Float;
use crate::kv::{KvLayout, KvLists, KvShape, KvView, KvViewMut};
use crate::queue::Queue;

/// Where the rows of a page are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_kv_order {
    /// Where the shape's strides say.
    LACUNA_KV_STRIDES = 0,
    /// Pages are `[page_size, n_heads, row_len]`.
    LACUNA_KV_NHD = 1,
    /// Pages are `[n_heads, page_size, row_len]`.
    LACUNA_KV_HND = 2,
}

/// Whose lists of rows of a cache there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_kv_lists {
    /// One of each request and head: `[batch, n_heads, n_indices]`.
    LACUNA_KV_PER_HEAD = 0,
    /// One of each request, for all its heads: `[batch, n_indices]`.
    LACUNA_KV_PER_REQUEST = 1,
}

/// Sizes and strides of a paged cache. Row `t` of request `b` and head `h` begins at element
/// `page_table[b, t / page_size] * page_stride + t % page_size * token_stride + h * head_stride`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_kv_shape {
    pub header: lacuna_header,
    /// Requests.
    pub batch: u64,
    /// Heads of keys and values.
    pub n_heads: u64,
    /// Elements of a row: the head's dimension; of boxes (`lacuna_summarize`) twice that.
    pub row_len: u64,
    /// Pages of a pool.
    pub n_pages: u64,
    /// Rows of a page, 1 to 256.
    pub page_size: u64,
    /// Entries of the page table from request to request.
    pub table_stride: u64,
    /// Tokens that a row stands for; 0 is 1, as of keys and values.
    pub tokens_per_row: u64,
    /// Elements from page to page, where `order` does not say it; so the next two.
    pub page_stride: u64,
    /// Elements from row to row in a page.
    pub token_stride: u64,
    /// Elements from head to head.
    pub head_stride: u64,
    /// The type of keys and values: bf16, f16, e4m3 or e5m2.
    pub dtype: u32,
    /// A `lacuna_kv_order`.
    pub order: u32,
    /// With an order: 1 where a page of keys and then one of values are together, `[n_pages, 2, ...]`, so that values begin
    /// `page_stride / 2` after keys; else 0.
    pub is_fused: u32,
    /// 0.
    pub reserved: u32,
}

/// A cache that a function reads. This struct never changes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_kv {
    /// The pool of keys, of the shape's dtype, from a multiple of 8 elements on.
    pub keys: lacuna_view,
    /// The pool of values, the same; none where no kernel asks for them.
    pub values: lacuna_view,
    /// i32 `[batch, table_stride]`: the page of each `page_size` rows. Numbers of no page make rows that are absent.
    pub page_table: lacuna_view,
    /// u32 `[batch]`: tokens of each request, read on the device.
    pub lengths: lacuna_view,
    /// What products with keys are multiplied by, the scale of fp8; 0 is 1.
    pub key_scale: f32,
    /// What values are multiplied by; 0 is 1.
    pub value_scale: f32,
}

/// A cache whose keys and values a function writes; else as `lacuna_kv`. This struct never changes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_kv_mut {
    pub keys: lacuna_view_mut,
    pub values: lacuna_view_mut,
    pub page_table: lacuna_view,
    pub lengths: lacuna_view,
}

/// Elements of each view of a `lacuna_kv` or `lacuna_kv_mut`, by the same names.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_kv_sizes {
    pub header: lacuna_header,
    pub keys: u64,
    pub values: u64,
    pub page_table: u64,
    pub lengths: u64,
}

structs! {
    lacuna_kv_shape: 104,
    lacuna_kv_sizes: 40,
}

/// How long a cache's views must be: arithmetic alone.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_kv_shape_sizes(
    shape: *const lacuna_kv_shape,
    sizes: *mut lacuna_kv_sizes,
) -> lacuna_status {
    // SAFETY: the caller's structs.
    answer(|| unsafe {
        let layout = read(shape)?.layout()?;
        let found = lacuna_kv_sizes {
            header: lacuna_header::NONE,
            keys: layout.pool_len(),
            values: layout.pool_len(),
            page_table: layout.table_len(),
            lengths: layout.shape().batch,
        };
        write(sizes, &found)
    })
}

/// A `lacuna_kv_lists`.
pub(super) fn lists(number: u32) -> Outcome<KvLists> {
    match number {
        0 => Ok(KvLists::PerHead),
        1 => Ok(KvLists::PerRequest),
        number => Err(Failure::number("lists", number, "lacuna_kv_lists")),
    }
}

impl lacuna_kv_shape {
    pub(super) fn layout(&self) -> Outcome<KvLayout> {
        check_reserved("lacuna_kv_shape", self.reserved)?;
        let shape = KvShape {
            batch: self.batch,
            n_heads: self.n_heads,
            row_len: self.row_len,
            n_pages: self.n_pages,
            page_size: self.page_size,
            table_stride: self.table_stride,
            tokens_per_row: or(self.tokens_per_row, 1),
            page_stride: self.page_stride,
            token_stride: self.token_stride,
            head_stride: self.head_stride,
        };
        let shape = match self.order {
            0 => return Ok(KvLayout::new(shape)?),
            1 => shape.nhd(),
            2 => shape.hnd(),
            order => return Err(Failure::number("order of a cache", order, "lacuna_kv_order")),
        };
        let shape = if truth("is_fused", self.is_fused)? { shape.fused() } else { shape };
        Ok(KvLayout::new(shape)?)
    }
}

impl lacuna_kv {
    /// # Safety
    /// The memory is the caller's as the header's head says.
    pub(super) unsafe fn of<'a, T: Float>(
        &self,
        layout: &KvLayout,
        queue: &Queue,
    ) -> Outcome<KvView<'a, T>> {
        let table = self.page_table.data.expose_provenance() as u64;
        // SAFETY: the caller's word.
        unsafe {
            Ok(KvView {
                layout: *layout,
                keys: self.keys.through("keys", layout, table)?.of("keys", queue)?,
                values: self.values.through("values", layout, table)?.optional("values", queue)?,
                page_table: self.page_table.of("page_table", queue)?,
                lengths: self.lengths.of("lengths", queue)?,
                key_scale: or_f32(self.key_scale, 1.0),
                value_scale: or_f32(self.value_scale, 1.0),
            })
        }
    }

    /// The same; none where it has no keys.
    ///
    /// # Safety
    /// As [`of`](Self::of).
    pub(super) unsafe fn optional<'a, T: Float>(
        &self,
        layout: &KvLayout,
        queue: &Queue,
    ) -> Outcome<Option<KvView<'a, T>>> {
        if self.keys.is_none() {
            return Ok(None);
        }
        // SAFETY: the caller's word.
        unsafe { self.of(layout, queue) }.map(Some)
    }
}

impl lacuna_kv_mut {
    /// # Safety
    /// As [`lacuna_kv::of`], and nothing else uses keys and values meanwhile.
    pub(super) unsafe fn of<'a, T: Float>(
        &self,
        layout: &KvLayout,
        queue: &Queue,
    ) -> Outcome<KvViewMut<'a, T>> {
        let table = self.page_table.data.expose_provenance() as u64;
        // SAFETY: the caller's word.
        unsafe {
            Ok(KvViewMut {
                layout: *layout,
                keys: self.keys.through("keys", layout, table)?.of("keys", queue)?,
                values: self.values.through("values", layout, table)?.optional("values", queue)?,
                page_table: self.page_table.of("page_table", queue)?,
                lengths: self.lengths.of("lengths", queue)?,
            })
        }
    }
}
