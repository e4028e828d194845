//! What the plans of several rooms check and count.

use crate::{Error, Result};

/// Elements from the first of the first row to the last of the last.
pub(crate) fn spread(n_rows: u64, stride: u64, n: u64) -> u64 {
    if n_rows == 0 { 0 } else { (n_rows - 1) * stride + n }
}

/// Query heads are a multiple of the heads of keys, 1 to 16 times.
pub(crate) fn check_group(n_q_heads: u64, n_heads: u64) -> Result<()> {
    if n_heads == 0 || !n_q_heads.is_multiple_of(n_heads) {
        let allowed = "the multiples of the heads of keys";
        return Err(Error::Range { what: "query heads", value: n_q_heads, allowed });
    }
    let value = n_q_heads / n_heads;
    if !(1..=16).contains(&value) {
        let what = "query heads of a head of keys";
        return Err(Error::Range { what, value, allowed: "1..=16" });
    }
    Ok(())
}

pub(crate) fn check_scale(softmax_scale: f32) -> Result<()> {
    // Also NaN.
    let is_scale = softmax_scale > 0.0 && softmax_scale <= 1e6;
    if is_scale {
        return Ok(());
    }
    let (what, value) = ("scale of a softmax, as the bits of f32", softmax_scale.to_bits().into());
    Err(Error::Range { what, value, allowed: "what is above 0 and up to 1e6" })
}

/// What a softmax of base 2 multiplies scores by.
pub(crate) fn log2_scale(softmax_scale: f32) -> f32 {
    (f64::from(softmax_scale) * std::f64::consts::LOG2_E) as f32
}
