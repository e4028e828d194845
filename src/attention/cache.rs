//! Which caches kernels of this room take.

use crate::kv::{KvLayout, KvView};
use crate::launch::check_same;
use crate::{Error, Result};

/// Refuses a cache of another layout than the plan's, one without values, and one with scales: of bf16 and f16 there are
/// none.
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
