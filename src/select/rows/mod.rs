//! Rows by lists of indices: out of tables, into them, and added to them.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
pub(super) mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{
    KvRows, KvRowsMut, Repeats, gather_kv, gather_rows, scatter_add_rows, scatter_kv, scatter_rows,
};
pub use plan::{Absent, KvRowsPlan, RowStrides, RowsPlan, RowsShape};
