//! What kernels of this room take.

use crate::error::check_below;
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
