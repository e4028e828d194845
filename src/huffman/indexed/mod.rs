//! Weights decoded by an index of their stream: each code once, without a scan.
//!
//! DF11 says where the codes of every 64 *bits* begin, so that whoever decodes must first count how many weights came
//! before. An [`Index`] says where the codes of every 128 *weights* begin. It is made once, by a pass that verifies the group
//! as well (`DeviceWeights::index`); then `DeviceWeights::decode` reads 12 bits at a time, two codes mostly, from a [`CodeTable`], and
//! `DeviceWeights::decode_rows` as much of a matrix as is asked for.

mod index;
pub mod reference;
mod rows;
mod shape;
mod table;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use super::weights::IndexedViews;
pub use index::Index;
pub use reference::{CorruptTile, RawIndexed, TileReason};
pub use rows::{IndexedRowsPlan, IndexedRowsShape};
pub use shape::IndexedShape;
pub use table::CodeTable;

/// Weights whose codes' place an index says: one lane decodes them.
pub const GRANULE_WEIGHTS: usize = 128;
/// Granules of a tile, which one warp decodes.
pub const TILE_GRANULES: usize = 32;
/// Weights of a tile.
pub const TILE_WEIGHTS: usize = GRANULE_WEIGHTS * TILE_GRANULES;
