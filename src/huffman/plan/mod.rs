//! The shapes of launches that decode groups: pure arithmetic, no driver.

use std::ops::Range;

use crate::{Error, Result};

mod decode;
mod plain;

pub use decode::{DecodePlan, GroupPath};
pub use plain::GroupShape;

/// Output ranges start at multiples of this many elements, so that stores are 16 bytes wide.
const OUTPUT_ALIGNMENT: u64 = 8;
/// The largest grid a launch can have in its first dimension.
pub(super) const MAX_BLOCKS: u64 = (1 << 31) - 1;

pub(super) fn check_range(
    what: &'static str,
    value: u64,
    range: Range<u64>,
    allowed: &'static str,
) -> Result<()> {
    if range.contains(&value) { Ok(()) } else { Err(Error::Range { what, value, allowed }) }
}

/// Where the weights of a launch's groups go: one group after the other, at multiples of 8 elements.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Outputs(Vec<Range<u64>>);

impl Outputs {
    /// Adds a group of fewer than 2^32 weights. The caller adds fewer than 2^32 groups.
    fn push(&mut self, n_elements: u64) {
        let start = self.len().next_multiple_of(OUTPUT_ALIGNMENT);
        self.0.push(start..start + n_elements);
    }

    fn n_groups(&self) -> usize {
        self.0.len()
    }

    /// Elements the output must hold.
    fn len(&self) -> u64 {
        self.0.last().map_or(0, |range| range.end)
    }

    fn range(&self, idx: usize) -> Option<Range<u64>> {
        self.0.get(idx).cloned()
    }
}
