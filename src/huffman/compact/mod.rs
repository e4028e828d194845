//! Weights in about 10.75 bits, with no code longer than a lookup: for files, and for cards whose memory is slow.
//!
//! Decoded by [`DeviceWeights`](crate::huffman::DeviceWeights), as indexed DF11 is. After DFloat11 (arXiv:2504.11651).
#![doc = include_str!("format.md")]

mod code;
#[cfg(any(feature = "cuda", feature = "simt"))]
mod counter;
mod decode;
mod encode;
#[cfg(any(feature = "cuda", feature = "simt"))]
mod encoder;
mod group;
#[cfg(any(feature = "cuda", feature = "simt"))]
pub(super) mod launch;
mod plan;
pub mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub(super) use counter::{Counter, nothing_measured};

pub use code::{CompactCode, LengthsError};
pub use decode::decode;
pub use encode::encode;
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use encoder::{DeviceCompact, Encoder, Measured};
pub use group::{Compact, CompactGroup, RawCompact};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{CompactViewsMut, count_exponents, pack_codes, place_codes, upload_code};
pub use plan::{EncodePlan, PART_WEIGHTS};

/// The longest code of the format, in bits.
pub const MAX_COMPACT_BITS: u32 = 12;
/// Bytes of the tensor `lengths`.
pub const LENGTHS_BYTES: usize = 128;
