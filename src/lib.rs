//! Hand-written CUDA kernels for dynamic inference of language models, bit-exact against CPU
//! references.
//!
//! ```text
//! checkpoint ──► huffman ──► bf16 weights in device memory
//! ```
//!
//! | you have | you use |
//! |---|---|
//! | a DFloat11 checkpoint on disk | [`huffman::Checkpoint`] |
//! | a CUDA device, or an engine's stream on one | [`Device`], [`Queue`] |
//! | device memory, ours or an engine's | [`Buffer`], [`View`], [`ViewMut`] |
//! | a machine without a GPU, and a kernel to test | `Queue::simt` (feature `simt`) |

pub mod error;
pub mod huffman;

#[cfg(feature = "simt")]
pub mod simt;

pub use error::{Error, Result};
