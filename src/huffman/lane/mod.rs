//! Weights of 12 bits that tensor cores take as they lie.
//!
//! After the fixed-length codes of ZipServ (arXiv:2603.17435) and the order of Marlin
//! (arXiv:2408.11743).
//!
//! ```no_run
//! use std::collections::HashMap;
//!
//! use half::bf16;
//! use lacuna::huffman::lane::{DeviceLane, Factor, ProductPlan, Residual, multiply_lane};
//! use lacuna::huffman::{Checkpoint, Stored};
//!
//! let queue = lacuna::Device::open(0)?.queue()?; // or `borrow_stream`: an engine's own
//! let checkpoint = Checkpoint::open("model-lane")?; // of `lacuna compress --format lane`
//! let mut matrices = HashMap::new();
//! for stored in checkpoint.all_stored()? {
//!     if let Stored::Lane(matrix) = &stored {
//!         let planes = DeviceLane::upload(&queue, &matrix.planes())?;
//!         matrices.insert(matrix.name().to_owned(), planes);
//!     }
//! }
//! let o_proj = &matrices["model.layers.0.self_attn.o_proj"];
//! let plan = ProductPlan::new(&[*o_proj.shape()], 1)?; // one token
//! let x = queue.alloc::<bf16>(plan.x_len() as usize)?;
//! let mut hidden = queue.alloc::<bf16>(plan.output_len(0) as usize)?;
//! let factor = Factor {
//!     planes: o_proj.views(),
//!     bias: None,
//!     residual: Residual::Output, // added to what is there
//!     output: Some(hidden.view_mut()),
//! };
//! multiply_lane(&queue, &plan, &x.view(), &mut [factor])?; // one launch, 12 bits a weight
//! # Ok::<_, lacuna::Error>(())
//! ```
#![doc = include_str!("format.md")]

#[cfg(any(feature = "cuda", feature = "simt"))]
mod device;
#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod matrix;
mod pack;
mod plan;
mod product;
pub mod reference;
mod shape;
mod tensors;
mod unpack;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use device::DeviceLane;
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{LaneViews, LaneViewsMut, measure_lane, pack_lane, unpack_lane};
pub use matrix::{LaneMatrix, RawLane};
pub use pack::{count_escapes, pack};
pub use plan::{LanePackPlan, LaneUnpackPlan};
pub use product::{DeviceRates, Estimate, MOST_FACTORS, MOST_INPUTS, ProductPlan, Way};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use product::{Factor, Residual, multiply_lane};
pub use shape::LaneShape;
pub use tensors::{Lane, LaneTensors};
pub use unpack::unpack;

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;
/// Columns of a tile.
pub const TILE_COLUMNS: usize = 128;
/// Weights of a tile, and the most escapes it has.
pub const TILE_WEIGHTS: usize = TILE_ROWS * TILE_COLUMNS;
/// Words of `high` of a tile: one for each lane and step.
pub const TILE_WORDS: usize = TILE_WEIGHTS / 8;
/// Values of a palette.
pub const PALETTE_LEN: usize = 8;
/// Steps of a tile: `mma.m16n8k16`, 16 products a row each.
const TILE_STEPS: usize = TILE_COLUMNS / 16;
/// Lanes of a warp.
const LANES: usize = 32;

/// A tile's weights by row and column; those outside the matrix too.
type Tile = [[u16; TILE_COLUMNS]; TILE_ROWS];

/// Weights that a thread takes at once, at least. No result depends on it.
const BATCH_WEIGHTS: u64 = 1 << 16;

/// Row tiles that a thread takes at once.
fn row_tiles_of_batch(shape: &LaneShape) -> usize {
    (BATCH_WEIGHTS / (shape.tiles_per_row() * TILE_WEIGHTS as u64)).max(1) as usize
}
