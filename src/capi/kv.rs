//! Paged caches of keys and values.

use super::abi::{lacuna_header, or, structs};
use super::status::{Failure, Outcome};
use super::view::{lacuna_view, lacuna_view_mut};
use crate::element::Float;
use crate::kv::{KvLayout, KvShape, KvView, KvViewMut};
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

structs! {
    lacuna_kv_shape: 104,
}

impl lacuna_kv_shape {
    pub(super) fn layout(&self) -> Outcome<KvLayout> {
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
        let shape = match self.is_fused {
            0 => shape,
            1 => shape.fused(),
            value => return Err(Failure::number("is_fused", value, "truth: 0 or 1")),
        };
        Ok(KvLayout::new(shape)?)
    }
}

fn scale(value: f32) -> f32 {
    if value == 0.0 { 1.0 } else { value }
}

impl lacuna_kv {
    /// # Safety
    /// The memory is the caller's as the header's head says.
    pub(super) unsafe fn of<'a, T: Float>(
        &self,
        layout: &KvLayout,
        queue: &Queue,
    ) -> Outcome<KvView<'a, T>> {
        // SAFETY: the caller's word.
        unsafe {
            Ok(KvView {
                layout: *layout,
                keys: self.keys.of("keys", queue)?,
                values: self.values.optional("values", queue)?,
                page_table: self.page_table.of("page_table", queue)?,
                lengths: self.lengths.of("lengths", queue)?,
                key_scale: scale(self.key_scale),
                value_scale: scale(self.value_scale),
            })
        }
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
        // SAFETY: the caller's word.
        unsafe {
            Ok(KvViewMut {
                layout: *layout,
                keys: self.keys.of("keys", queue)?,
                values: self.values.optional("values", queue)?,
                page_table: self.page_table.of("page_table", queue)?,
                lengths: self.lengths.of("lengths", queue)?,
            })
        }
    }
}
