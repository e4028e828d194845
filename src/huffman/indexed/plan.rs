//! The shape of an indexed launch: pure arithmetic, no driver.

use std::ops::Range;

use super::{CodeTable, Index, TILE_WEIGHTS};
use crate::Result;
use crate::huffman::MAX_LUT_ROWS;
use crate::huffman::plan::{MAX_BLOCKS, Outputs, check_range};
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;

/// Warps of a block, each with a tile at a time.
const N_WARPS: u64 = 4;
/// A block that has so many tiles reads its table's 16 KiB for hardly more than one hundredth of what it moves.
const MOST_BLOCK_TILES: u64 = 64;
/// With so many blocks, all multiprocessors of a large device have some to the end.
const ENOUGH_BLOCKS: u64 = 2048;

/// The sizes of one indexed group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexedShape {
    /// Bytes of the codes, `1..2^32`.
    pub n_code_bytes: u64,
    /// Weights, `1..2^32`.
    pub n_elements: u64,
    /// DF11's decode tables without the row of lengths, `1..=17`; 0 where no code is longer than 12 bits and there are none.
    pub n_lut_rows: u32,
}

impl IndexedShape {
    /// Tiles of 4,096 weights.
    pub fn n_tiles(&self) -> u64 {
        self.n_elements.div_ceil(TILE_WEIGHTS as u64)
    }

    /// Codes, signs and mantissas, index and table read once, and weights written; tables of long codes, of which hardly any is read, left out.
    fn least_bytes(&self) -> u64 {
        let index = 4 * Index::tile_bytes_len(self.n_elements)
            + 2 * Index::granule_bits_len(self.n_elements);
        self.n_code_bytes
            + self.n_elements
            + index
            + CodeTable::N_BYTES as u64
            + 2 * self.n_elements
    }

    fn check(&self) -> Result<()> {
        check_range("code bytes of a group", self.n_code_bytes, 1..1 << 32, "1..2^32")?;
        check_range("weights of a group", self.n_elements, 1..1 << 32, "1..2^32")?;
        let n_rows = u64::from(self.n_lut_rows);
        check_range("decode tables of a group", n_rows, 0..MAX_LUT_ROWS as u64 + 1, "0..=17")
    }
}

/// One launch over any number of indexed groups: where each group's weights go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedPlan {
    outputs: Outputs,
    first_tiles: Vec<u32>,
    first_blocks: Vec<u32>,
    n_tiles: u32,
    n_blocks: u32,
    block_tiles: u32,
    least_bytes: u64,
}

impl IndexedPlan {
    /// Plans one launch that decodes `groups`, in this order. No groups is a plan for no work.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) for a group that no index holds, and where the groups together have 2^32 tiles of
    /// 4,096 weights.
    pub fn new(groups: &[IndexedShape]) -> Result<Self> {
        let mut n_tiles = 0_u64;
        for group in groups {
            group.check()?;
            // A group adds less than 2^21.
            n_tiles += group.n_tiles();
            check_range("tiles of a launch", n_tiles, 0..1 << 32, "0..2^32")?;
        }
        let block_tiles =
            n_tiles.div_ceil(ENOUGH_BLOCKS).next_multiple_of(N_WARPS).min(MOST_BLOCK_TILES);
        let mut plan = Self {
            outputs: Outputs::default(),
            first_tiles: Vec::with_capacity(groups.len()),
            first_blocks: Vec::with_capacity(groups.len()),
            n_tiles: n_tiles as u32,
            n_blocks: 0,
            block_tiles: block_tiles as u32,
            least_bytes: 0,
        };
        let (mut first_tile, mut n_blocks) = (0, 0);
        for group in groups {
            plan.outputs.push(group.n_elements);
            plan.first_tiles.push(first_tile as u32);
            plan.first_blocks.push(n_blocks as u32);
            first_tile += group.n_tiles();
            n_blocks += group.n_tiles().div_ceil(block_tiles);
            plan.least_bytes += group.least_bytes();
            check_range("thread blocks of a launch", n_blocks, 0..MAX_BLOCKS + 1, "0..2^31")?;
        }
        plan.n_blocks = n_blocks as u32;
        Ok(plan)
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

    /// The group, and the tile within it, that is tile `tile` of the launch.
    pub fn locate(&self, tile: u32) -> Option<(usize, u32)> {
        if tile >= self.n_tiles {
            return None;
        }
        let idx = self.first_tiles.partition_point(|first| *first <= tile) - 1;
        Some((idx, tile - self.first_tiles[idx]))
    }

    /// Bytes that any decoder of these groups moves: everything read once, every weight written once.
    pub fn least_bytes(&self) -> u64 {
        self.least_bytes
    }

    /// Tiles of one block.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn block_tiles(&self) -> u32 {
        self.block_tiles
    }

    /// The first tile and the first block of group `idx`.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn firsts(&self, idx: usize) -> [u32; 2] {
        [self.first_tiles[idx], self.first_blocks[idx]]
    }

    /// The grid of the launch.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        Grid {
            blocks: [self.n_blocks, 1, 1],
            threads: [32 * N_WARPS as u32, 1, 1],
            dynamic_shared_bytes: 0,
            cluster_blocks: 1,
        }
    }
}
