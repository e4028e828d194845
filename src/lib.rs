//! Hand-written CUDA kernels for dynamic inference of language models, bit-exact against CPU
//! references.
//!
//! ```text
//! checkpoint ──► huffman ──► bf16 weights in device memory
//! scores     ──► select  ──► indices of the tokens that matter
//! indices    ──► attention ──► outputs, log-sum-exps
//! ```
//!
//! | you have | you use |
//! |---|---|
//! | a checkpoint on disk: DFloat11, lanes, compact groups | [`huffman::Checkpoint`] |
//! | DFloat11 weights that are decoded again and again | [`huffman::indexed`] |
//! | matrices, and few tokens to multiply them by | [`huffman::lane`] |
//! | a CUDA device, or an engine's stream on one | [`Device`], [`Queue`] |
//! | device memory, ours or an engine's | [`Buffer`], [`View`], [`ViewMut`] |
//! | a second stream that shall work beside the first | [`Queue::wait_for`], [`Queue::lend`], [`Queue::adopt`] |
//! | requests whose caches grow, and should not move | [`kv::KvArena`] |
//! | a machine without a GPU, and a kernel to test | `Queue::simt` (feature `simt`) |
//! | keys, and too many of them to read for each query | [`select::summarize`](select) |
//! | scores, and a question which are the largest | [`select::topk_rows`](select) |
//! | queries, and the tokens that they shall attend to | [`attention::attend`](attention) |
//! | partial results of attention, from ranks or tiers | [`attention::merge_partials`](attention) |
//! | chunks of prompts, and the tokens that were kept | [`attention::attend_prefill`](attention) |
//! | keys and values that shall cost fewer bits | [`quant::quantize_pages`](quant) |
//! | a question what a tensor core would answer | [`mma::Model`] |

pub mod attention;
#[allow(missing_docs, reason = "padding and layout checks; the header documents every field")]
#[rustfmt::skip]
pub mod bindings;
#[cfg(any(feature = "cuda", feature = "simt"))]
pub mod buffer;
#[cfg(all(feature = "capi", any(feature = "cuda", feature = "simt")))]
#[allow(missing_docs, reason = "padding and names that say it; the header is what its readers see")]
pub mod capi;
#[cfg(feature = "cuda")]
pub mod device;
#[cfg(feature = "cuda")]
pub mod driver;
pub mod element;
pub mod error;
pub mod huffman;
pub mod image;
pub mod kv;
#[cfg(any(feature = "cuda", feature = "simt"))]
pub mod launch;
pub mod mma;
pub mod number;
mod plan;
pub mod quant;
#[cfg(any(feature = "cuda", feature = "simt"))]
pub mod queue;
#[cfg(any(feature = "cuda", feature = "simt"))]
pub mod region;
pub mod select;
#[cfg(feature = "simt")]
pub mod simt;
mod turn;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use buffer::{Buffer, Memory, View, ViewMut};
#[cfg(feature = "cuda")]
pub use device::{Device, cudarc};
pub use element::Element;
pub use error::{Error, Result};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use queue::{Executor, Queue};

/// The examples of the README compile.
#[cfg(all(doctest, feature = "cuda", feature = "files"))]
#[doc = include_str!("../README.md")]
struct Readme;
