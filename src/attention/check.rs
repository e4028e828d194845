//! What kernels of this room take.

use crate::error::check_below;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::kv::{KvLayout, KvView};
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::check_same;
use crate::{Error, Result};

pub(super) fn check_head_dim(value: u64) -> Result<()> {
    if value.is_multiple_of(16) && (16..=256).contains(&value) {
        return Ok(());
    }
    let (what, allowed) = ("dimension of a head", "the multiples of 16 up to 256");
    Err(Error::Range { what, value, allowed })
}

/// From query to query, whose heads have so many elements together, and from output to output.
pub(super) fn check_strides(len: u64, query_stride: u64, output_stride: u64) -> Result<()> {
    for (what, value) in [
        ("stride between queries, in elements", query_stride),
        ("stride between outputs, in elements", output_stride),
    ] {
        if value < len || !value.is_multiple_of(8) {
            let allowed = "the multiples of 8 from all heads of a query on";
            return Err(Error::Range { what, value, allowed });
        }
        check_below(what, value, 1 << 28, "0..2^28")?;
    }
    Ok(())
}

/// Refuses a cache of another layout than the plan's, one without values, and one with scales: of bf16 and f16 there are
/// none.
#[cfg(any(feature = "cuda", feature = "simt"))]
pub(super) fn check_cache<T>(cache: &KvView<'_, T>, layout: &KvLayout) -> Result<()> {
    let [got, expected] = [cache.layout.shape(), layout.shape()];
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
    check_same("pools of values", 1, cache.values.iter().len())?;
    for (what, value) in
        [("scale of keys", cache.key_scale), ("scale of values", cache.value_scale)]
    {
        if value != 1.0 {
            return Err(Error::Number { what, value, allowed: "1, of bf16 and f16" });
        }
    }
    Ok(())
}
