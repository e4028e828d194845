//! Which caches kernels of this room take.

use crate::kv::KvView;
use crate::launch::check_same;
use crate::{Error, Result};

/// Refuses a cache without values, and one with scales: of bf16 and f16 there are none.
pub(super) fn check_unscaled<T>(cache: &KvView<'_, T>) -> Result<()> {
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
