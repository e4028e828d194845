//! What every encoder on the device begins with.

use half::bf16;

use super::{EncodePlan, count_exponents};
use crate::buffer::{Buffer, View, ViewMut};
use crate::huffman::plan::check_range;
use crate::queue::Queue;
use crate::{Error, Result};

/// There is no code to pack by.
pub(in crate::huffman) fn nothing_measured() -> Error {
    let allowed = "1: `measure` comes before `pack`";
    Error::Range { what: "measured groups", value: 0, allowed }
}

/// Counts exponents of groups of one size, in a workspace of its own.
#[derive(Debug)]
pub(in crate::huffman) struct Counter {
    plan: EncodePlan,
    workspace: Buffer<u64>,
    counts: Buffer<u64>,
}

impl Counter {
    pub(in crate::huffman) fn new(queue: &Queue, n_elements: u64) -> Result<Self> {
        let plan = EncodePlan::new(n_elements)?;
        let workspace = queue.alloc(plan.workspace_len() as usize)?;
        Ok(Self { plan, workspace, counts: queue.alloc(256)? })
    }

    pub(in crate::huffman) fn plan(&self) -> &EncodePlan {
        &self.plan
    }

    pub(in crate::huffman) fn workspace(&mut self) -> ViewMut<'_, u64> {
        self.workspace.view_mut()
    }

    /// How many weights have each exponent, and there is one at least. The host waits for it.
    pub(in crate::huffman) fn count(
        &mut self,
        queue: &Queue,
        weights: &View<'_, bf16>,
    ) -> Result<[u64; 256]> {
        let Self { plan, workspace, counts } = self;
        count_exponents(queue, plan, weights, &mut workspace.view_mut(), &mut counts.view_mut())?;
        let mut histogram = [0; 256];
        queue.download_into(&counts.view(), &mut histogram)?;
        let n_weights = histogram.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
        check_range("weights that were counted", n_weights, 1..1 << 32, "1..2^32")?;
        Ok(histogram)
    }
}
