//! The shape of a decode launch: pure arithmetic, no driver.

use std::ops::Range;

use super::{BYTES_PER_BLOCK, GAP_BYTES_PER_BLOCK, MAX_LUT_ROWS};
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::{Error, Result};

/// Output ranges start at multiples of this many elements, so that stores are 16 bytes wide.
const OUTPUT_ALIGNMENT: u64 = 8;
/// The largest grid a launch can have in its first dimension.
pub(super) const MAX_BLOCKS: u64 = (1 << 31) - 1;

/// The sizes of one group: everything a [`DecodePlan`] needs to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupShape {
    /// Bytes of `encoded_exponent`, `1..2^31`.
    pub n_code_bytes: u64,
    /// Weights, `1..2^32`.
    pub n_elements: u64,
    /// Decode tables, without the row of lengths: `1..=17`.
    pub n_lut_rows: u32,
    /// Entries of `output_positions`: the blocks of the group, or one more.
    pub n_positions: u32,
}

impl GroupShape {
    /// Blocks of 4,096 code bytes.
    pub fn n_blocks(&self) -> u64 {
        self.n_code_bytes.div_ceil(BYTES_PER_BLOCK as u64)
    }

    fn least_bytes(&self) -> u64 {
        let tables = 256 * (u64::from(self.n_lut_rows) + 1);
        let gaps = GAP_BYTES_PER_BLOCK as u64 * self.n_blocks();
        let positions = 4 * u64::from(self.n_positions);
        self.n_code_bytes + self.n_elements + tables + gaps + positions + 2 * self.n_elements
    }

    fn check(&self) -> Result<()> {
        check_range("code bytes of a group", self.n_code_bytes, 1..1 << 31, "1..2^31")?;
        check_range("weights of a group", self.n_elements, 1..1 << 32, "1..2^32")?;
        let n_rows = u64::from(self.n_lut_rows);
        check_range("decode tables of a group", n_rows, 1..MAX_LUT_ROWS as u64 + 1, "1..=17")?;
        let n_positions = u64::from(self.n_positions);
        if n_positions != self.n_blocks() && n_positions != self.n_blocks() + 1 {
            return Err(Error::Shape {
                what: "output positions of a group",
                expected: self.n_blocks() + 1,
                got: n_positions,
            });
        }
        Ok(())
    }
}

pub(super) fn check_range(
    what: &'static str,
    value: u64,
    range: Range<u64>,
    allowed: &'static str,
) -> Result<()> {
    if range.contains(&value) { Ok(()) } else { Err(Error::Range { what, value, allowed }) }
}

/// One launch over any number of groups: where each group's weights go, and how much memory the
/// caller brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodePlan {
    outputs: Outputs,
    first_blocks: Vec<u32>,
    n_blocks: u32,
    least_bytes: u64,
}

/// Where the weights of a launch's groups go: one group after the other, at multiples of 8 elements.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Outputs(Vec<Range<u64>>);

impl Outputs {
    /// Adds a group of fewer than 2^32 weights. The caller adds fewer than 2^32 groups.
    pub(super) fn push(&mut self, n_elements: u64) {
        let start = self.len().next_multiple_of(OUTPUT_ALIGNMENT);
        self.0.push(start..start + n_elements);
    }

    pub(super) fn n_groups(&self) -> usize {
        self.0.len()
    }

    /// Elements the output must hold.
    pub(super) fn len(&self) -> u64 {
        self.0.last().map_or(0, |range| range.end)
    }

    pub(super) fn range(&self, idx: usize) -> Option<Range<u64>> {
        self.0.get(idx).cloned()
    }
}

impl DecodePlan {
    /// Plans one launch that decodes `groups`, in this order. No groups is a plan for no work.
    ///
    /// # Errors
    /// [`Error::Range`] or [`Error::Shape`] for a group no DF11 file can hold, and where the
    /// groups together need more than 2^31 - 1 thread blocks (8 TiB of codes).
    pub fn new(groups: &[GroupShape]) -> Result<Self> {
        let mut outputs = Outputs::default();
        let mut first_blocks = Vec::with_capacity(groups.len());
        let mut n_blocks = 0_u64;
        let mut least_bytes = 0;
        for group in groups {
            group.check()?;
            // Both sums stay far below 2^64: a group adds less than 2^20 blocks and 2^32 weights,
            // and the check below ends the loop before 2^32 groups.
            outputs.push(group.n_elements);
            first_blocks.push(n_blocks as u32);
            n_blocks += group.n_blocks();
            least_bytes += group.least_bytes();
            check_range("thread blocks of a launch", n_blocks, 0..MAX_BLOCKS + 1, "0..2^31")?;
        }
        Ok(Self { outputs, first_blocks, n_blocks: n_blocks as u32, least_bytes })
    }

    /// Groups in the launch.
    pub fn n_groups(&self) -> usize {
        self.outputs.n_groups()
    }

    /// Elements the output must hold.
    pub fn output_len(&self) -> u64 {
        self.outputs.len()
    }

    /// Where the weights of group `idx` are in the output, in elements; `None` past the last.
    pub fn output_range(&self, idx: usize) -> Option<Range<u64>> {
        self.outputs.range(idx)
    }

    /// The group, and the block within it, that thread block `block` of the launch decodes.
    pub fn locate(&self, block: u32) -> Option<(usize, u32)> {
        if block >= self.n_blocks {
            return None;
        }
        let idx = self.first_blocks.partition_point(|first| *first <= block) - 1;
        Some((idx, block - self.first_blocks[idx]))
    }

    /// Bytes that any decoder of these groups moves: every tensor read once, every weight written
    /// once. What a launch moves beyond it is waste.
    pub fn least_bytes(&self) -> u64 {
        self.least_bytes
    }

    /// Words of u64 the workspace must hold: the status, then one per group. The caller zeroes it
    /// once; every launch leaves all but the status zeroed.
    pub fn workspace_len(&self) -> u64 {
        1 + self.n_groups() as u64
    }

    /// [`Self::workspace_len`] in bytes. Alignment: 8.
    pub fn workspace_bytes(&self) -> u64 {
        self.workspace_len() * 8
    }

    /// The first thread block of group `idx`.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn first_block(&self, idx: usize) -> u32 {
        self.first_blocks[idx]
    }

    /// The grid of the launch.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        Grid {
            blocks: [self.n_blocks, 1, 1],
            threads: [super::THREADS_PER_BLOCK as u32, 1, 1],
            dynamic_shared_bytes: 0,
            cluster_blocks: 1,
        }
    }
}
