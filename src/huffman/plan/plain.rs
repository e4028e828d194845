//! The shape of a launch over groups without an index: pure arithmetic, no driver.

use super::{MAX_BLOCKS, check_range};
use crate::huffman::{BYTES_PER_BLOCK, GAP_BYTES_PER_BLOCK, MAX_LUT_ROWS};
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::{Error, Result};

/// The sizes of one group: everything a [`DecodePlan`](super::DecodePlan) needs to know of it.
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

    pub(super) fn least_bytes(&self) -> u64 {
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

/// One launch over any number of groups: which thread blocks are whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlainPlan {
    first_blocks: Vec<u32>,
    n_blocks: u32,
}

impl PlainPlan {
    /// # Errors
    /// [`Error::Range`] or [`Error::Shape`] for a group no DF11 file can hold, and where the
    /// groups together need more than 2^31 - 1 thread blocks (8 TiB of codes).
    pub(super) fn new(groups: &[GroupShape]) -> Result<Self> {
        let mut first_blocks = Vec::with_capacity(groups.len());
        let mut n_blocks = 0_u64;
        for group in groups {
            group.check()?;
            // The sum stays far below 2^64: a group adds less than 2^20 blocks.
            first_blocks.push(n_blocks as u32);
            n_blocks += group.n_blocks();
            check_range("thread blocks of a launch", n_blocks, 0..MAX_BLOCKS + 1, "0..2^31")?;
        }
        Ok(Self { first_blocks, n_blocks: n_blocks as u32 })
    }

    /// The group, and the block within it, that thread block `block` of the launch decodes.
    pub(super) fn locate(&self, block: u32) -> Option<(usize, u32)> {
        if block >= self.n_blocks {
            return None;
        }
        let idx = self.first_blocks.partition_point(|first| *first <= block) - 1;
        Some((idx, block - self.first_blocks[idx]))
    }

    /// The first thread block of group `idx`.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn first_block(&self, idx: usize) -> u32 {
        self.first_blocks[idx]
    }

    /// The grid of the launch.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn grid(&self) -> Grid {
        Grid {
            blocks: [self.n_blocks, 1, 1],
            threads: [crate::huffman::THREADS_PER_BLOCK as u32, 1, 1],
            dynamic_shared_bytes: 0,
            cluster_blocks: 1,
        }
    }
}
