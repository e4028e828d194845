//! Where each group's weights go, whichever of two launches decodes it.

use std::ops::Range;

use super::plain::PlainPlan;
use super::{GroupShape, MAX_BLOCKS, Outputs, check_range};
use crate::Result;
use crate::huffman::indexed::IndexedShape;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;

/// Warps of a block, each with a tile at a time.
const N_WARPS: u64 = 4;
/// A block that has so many tiles reads its table's 16 KiB for less than a fiftieth of what it moves.
const MOST_BLOCK_TILES: u64 = 64;
/// With so many blocks a large device has several for each multiprocessor; with more, groups of 200 million weights would be cut
/// into blocks of few tiles, each of which reads a table.
const ENOUGH_BLOCKS: u64 = 1024;

/// How a group is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupPath {
    /// By its index.
    Indexed(IndexedShape),
    /// By its chain of gaps, as the file has it: it was not indexed, or no index holds it, or its tensors are not aligned.
    Plain(GroupShape),
}

impl From<IndexedShape> for GroupPath {
    fn from(shape: IndexedShape) -> Self {
        Self::Indexed(shape)
    }
}

impl From<GroupShape> for GroupPath {
    fn from(shape: GroupShape) -> Self {
        Self::Plain(shape)
    }
}

/// A group's place in its launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Indexed { idx: usize, first_block: u32 },
    Plain { idx: usize },
}

/// Any number of groups, by one launch where all have an index or none has, else by two: where each group's weights go, and how
/// much memory the caller brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodePlan {
    outputs: Outputs,
    places: Vec<Place>,
    /// Groups of each launch.
    indexed: Vec<usize>,
    plain: Vec<usize>,
    first_tiles: Vec<u32>,
    n_tiles: u32,
    n_blocks: u32,
    block_tiles: u32,
    plain_plan: PlainPlan,
    least_bytes: u64,
}

impl DecodePlan {
    /// Plans to decode `groups`, in this order: [`GroupShape`]s, [`IndexedShape`]s, or [`GroupPath`]s. No groups is a plan for no work.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) or [`Error::Shape`](crate::Error::Shape) for a group that no DF11 file, or no index, holds; and where the
    /// groups together have 2^32 tiles of 4,096 weights, or need more than 2^31 - 1 thread blocks (8 TiB of codes).
    pub fn new<P: Copy + Into<GroupPath>>(groups: &[P]) -> Result<Self> {
        let mut n_tiles = 0_u64;
        let mut plain_shapes = Vec::new();
        for group in groups {
            match (*group).into() {
                GroupPath::Indexed(shape) => {
                    shape.check()?;
                    // A group adds less than 2^21.
                    n_tiles += shape.n_tiles();
                    check_range("tiles of a launch", n_tiles, 0..1 << 32, "0..2^32")?;
                }
                GroupPath::Plain(shape) => plain_shapes.push(shape),
            }
        }
        let plain_plan = PlainPlan::new(&plain_shapes)?;
        let block_tiles = n_tiles.div_ceil(ENOUGH_BLOCKS).clamp(1, MOST_BLOCK_TILES);
        let mut plan = Self {
            outputs: Outputs::default(),
            places: Vec::with_capacity(groups.len()),
            indexed: Vec::with_capacity(groups.len()),
            plain: Vec::new(),
            first_tiles: Vec::with_capacity(groups.len()),
            n_tiles: n_tiles as u32,
            n_blocks: 0,
            block_tiles: 0,
            least_bytes: plain_shapes.iter().map(GroupShape::least_bytes).sum(),
            plain_plan,
        };
        let mut first_tile = 0;
        for (idx, group) in groups.iter().enumerate() {
            match (*group).into() {
                GroupPath::Indexed(shape) => {
                    plan.outputs.push(shape.n_elements);
                    let own = plan.indexed.len();
                    plan.places.push(Place::Indexed { idx: own, first_block: 0 });
                    plan.indexed.push(idx);
                    plan.first_tiles.push(first_tile as u32);
                    first_tile += shape.n_tiles();
                    plan.least_bytes += shape.least_bytes();
                }
                GroupPath::Plain(shape) => {
                    plan.outputs.push(shape.n_elements);
                    plan.places.push(Place::Plain { idx: plan.plain.len() });
                    plan.plain.push(idx);
                }
            }
        }
        plan.with_block_tiles(block_tiles as u32)
    }

    /// The same with so many tiles in a block, rounded up to a multiple of 4, instead of what suits the launch: fewer
    /// blocks read fewer tables, and more keep a device busy. The bits do not depend on it.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) for 0 tiles or more than 2^16, and for 2^31 blocks.
    pub fn with_block_tiles(mut self, block_tiles: u32) -> Result<Self> {
        let most = u64::from(block_tiles);
        check_range("tiles of a block", most, 1..(1 << 16) + 1, "1..=65,536")?;
        let block_tiles = most.next_multiple_of(N_WARPS);
        let mut n_blocks = 0;
        for place in &mut self.places {
            let Place::Indexed { idx, first_block } = place else { continue };
            *first_block = n_blocks as u32;
            let end = self.first_tiles.get(*idx + 1).copied().unwrap_or(self.n_tiles);
            n_blocks += u64::from(end - self.first_tiles[*idx]).div_ceil(block_tiles);
            check_range("thread blocks of a launch", n_blocks, 0..MAX_BLOCKS + 1, "0..2^31")?;
        }
        self.n_blocks = n_blocks as u32;
        self.block_tiles = block_tiles as u32;
        Ok(self)
    }

    /// Groups of the plan.
    pub fn n_groups(&self) -> usize {
        self.outputs.n_groups()
    }

    /// Those of them that are decoded without an index, in a launch of their own.
    pub fn n_plain_groups(&self) -> usize {
        self.plain.len()
    }

    /// Whether group `idx` is decoded by its index.
    pub fn is_indexed(&self, idx: usize) -> bool {
        matches!(self.places.get(idx), Some(Place::Indexed { .. }))
    }

    /// Elements the output must hold.
    pub fn output_len(&self) -> u64 {
        self.outputs.len()
    }

    /// Where the weights of group `idx` are in the output, in elements; `None` past the last.
    pub fn output_range(&self, idx: usize) -> Option<Range<u64>> {
        self.outputs.range(idx)
    }

    /// Words of u64 that the workspace must hold: two statuses, of tiles and of blocks, and a word for each group without an
    /// index. The caller zeroes it once; every launch leaves all but the two zeroed.
    pub fn workspace_len(&self) -> u64 {
        2 + self.plain.len() as u64
    }

    /// [`Self::workspace_len`] in bytes. Alignment: 8.
    pub fn workspace_bytes(&self) -> u64 {
        self.workspace_len() * 8
    }

    /// The group, and the tile within it, that a [`CorruptTile`](crate::huffman::indexed::CorruptTile) is of.
    pub fn locate_tile(&self, tile: u32) -> Option<(usize, u32)> {
        if tile >= self.n_tiles {
            return None;
        }
        let idx = self.first_tiles.partition_point(|first| *first <= tile) - 1;
        Some((self.indexed[idx], tile - self.first_tiles[idx]))
    }

    /// The group, and the block within it, that a [`Corruption`](crate::huffman::Corruption) is of.
    pub fn locate_block(&self, block: u32) -> Option<(usize, u32)> {
        let (idx, block) = self.plain_plan.locate(block)?;
        Some((self.plain[idx], block))
    }

    /// Bytes that any decoder of these groups moves: everything read once, every weight written once.
    pub fn least_bytes(&self) -> u64 {
        self.least_bytes
    }

    /// Tiles of one block.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(in crate::huffman) fn block_tiles(&self) -> u32 {
        self.block_tiles
    }

    /// The first tile and the first block of group `idx`, which has an index.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(in crate::huffman) fn firsts(&self, idx: usize) -> [u32; 2] {
        match self.places[idx] {
            Place::Indexed { idx, first_block } => [self.first_tiles[idx], first_block],
            Place::Plain { .. } => [0; 2],
        }
    }

    /// The first block of group `idx`, which has no index.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(in crate::huffman) fn first_plain_block(&self, idx: usize) -> u32 {
        match self.places[idx] {
            Place::Plain { idx } => self.plain_plan.first_block(idx),
            Place::Indexed { .. } => 0,
        }
    }

    /// The grid of the launch over groups with an index.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        Grid {
            blocks: [self.n_blocks, 1, 1],
            threads: [32 * N_WARPS as u32, 1, 1],
            dynamic_shared_bytes: 0,
            cluster_blocks: 1,
        }
    }

    /// The grid of the launch over the others.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn plain_grid(&self) -> Grid {
        self.plain_plan.grid()
    }
}
