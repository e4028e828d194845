//! Entropy-coded weights: DFloat11 in, the exact bf16 bits out.
//!
//! A group (one transformer block, one embedding, one linear layer) stores the 8-bit exponents of
//! its weights as one prefix-coded stream and the signs and mantissas as bytes; see
//! [`RawGroup`] for the tensors. After DFloat11 (arXiv:2504.11651).
//!
//! Two formats of this crate's own hold the same bits: [`compact`] groups are smaller, and matrices of
//! [`lane`]s are multiplied without being expanded. A [`Checkpoint`] has groups of any of them.

mod codebook;
pub mod compact;
mod costs;
mod decode;
mod encode;
#[cfg(any(feature = "cuda", feature = "simt"))]
mod encoder;
#[cfg(feature = "files")]
mod files;
mod group;
pub mod indexed;
pub mod lane;
mod lookup;
mod pack;
#[cfg(any(feature = "cuda", feature = "simt"))]
mod pack_group;
mod parallel;
mod plan;
pub mod reference;
#[cfg(any(feature = "cuda", feature = "simt"))]
mod weights;
mod words;

pub use codebook::Codebook;
pub use costs::Costs;
pub use decode::decode;
pub use encode::{EncodedGroup, Measured, encode};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use encoder::{DeviceGroup, Encoder};
#[cfg(feature = "files")]
pub use files::{
    Checked, Checkpoint, CheckpointError, CheckpointGroup, Converted, Format, GroupPattern, Matrix,
    MatrixPlace, Model, ModelGroup, ModelTensor, Progress, RawStored, Stored, VERSIONS, compress,
    decompress, temporary_prefix, transcode,
};
pub use group::{
    Corruption, CorruptionReason, Group, PUBLISHED_BLOCK_ELEMENTS, RawGroup, TensorError,
    TensorReason,
};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use pack_group::{GroupViewsMut, pack_group, upload_codebook};
pub use plan::{DecodePlan, GroupPath, GroupShape};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use weights::{DeviceWeights, GroupViews, WeightSource, WeightViews};

pub(crate) use words::words;

/// Code bytes that one CUDA thread owns.
pub const BYTES_PER_THREAD: usize = 8;
/// CUDA threads of one block.
pub const THREADS_PER_BLOCK: usize = 512;
/// Code bytes that one thread block owns.
pub const BYTES_PER_BLOCK: usize = BYTES_PER_THREAD * THREADS_PER_BLOCK;
/// Weights that one thread block owns at most: every code has a bit.
const MAX_BLOCK_ELEMENTS: usize = 8 * BYTES_PER_BLOCK;
/// Bytes of `gaps` for one thread block: 5 bits a thread.
pub const GAP_BYTES_PER_BLOCK: usize = THREADS_PER_BLOCK * 5 / 8;
/// The longest code of the format, in bits.
pub const MAX_CODE_BITS: u32 = 32;
/// Decode tables a group can hold: the root and sixteen that pointers 240..=255 reach.
pub const MAX_LUT_ROWS: usize = 17;
/// Table entries from here on are pointers to table `256 - entry`, and not exponents, except in
/// the fourth table of a chain.
pub const FIRST_POINTER: u8 = 240;
