//! Other schemes' keys and values as tiered pages without loss, and back.
//!
//! A scheme's own tensors (codes, steps, minimums or zero points, scales of channels) become pages and arrays of channels that
//! [`dequantize_pages`](crate::quant::dequantize_pages) reads; nothing is rounded on the way, so that the tensors come back bit
//! for bit.
//!
//! | scheme | tensors | a code stands for | as pages |
//! |---|---|---|---|
//! | ZipCache, ZipVL: values | [`ZipCacheValues`] | `(q * step[t] + minimum[t]) * scale[i]` | step and minimum of a token; scales of channels |
//! | ZipCache: keys | [`ZipCacheKeys`] | `q * step[i] + minimum[i]` | scales and offsets of channels, of all tokens |
//! | KIVI: keys | [`KiviKeys`] | `q * scale[i, t / group] + minimum[i, t / group]` | the same, of spans of a group |
//! | KIVI: values | [`KiviValues`] | `q * scale[t, i / group] + minimum[t, i / group]` | heads of a group's channels |
//! | int8 per token | [`Int8PerToken`] | `q * scale[t]` | step and minimum of a token |
//! | int4 per token | [`Int4PerToken`] | `(q - zero[t]) * scale[t]` | the same |
//!
//! What pages stand for is the formula's value in exact numbers, rounded to f32 once, and once more after the scale of a channel where there is one. That
//! is bit for bit what the formula gives if each of its operations is rounded to f32, wherever products of codes are exact: with steps of f16 or bf16 (unless they
//! overflow), and with any scales of integers per token. f32 steps with minimums differ from it by the rounding of that product. And an exact zero is
//! positive. Schemes that compute in f16 round more often; what they lose so is not stored, and does not come back.
//!
//! With a tail of [`Minimums`](crate::quant::Tail::Minimums) all of it fits but what an error says. A tail of
//! [`ZeroPoints`](crate::quant::Tail::ZeroPoints) takes keys with scales and offsets of channels as they are, and steps of a token where
//! they are bf16 and the minimum is a multiple of their sixteenths.
//!
//! ```
//! use half::f16;
//! use lacuna::quant::import::{Int8PerToken, RowsShape};
//! use lacuna::quant::{Part, Tail};
//!
//! let rows = Int8PerToken {
//!     shape: RowsShape { batch: 1, n_heads: 1, n_tokens: 2, head_dim: 32 },
//!     codes: [[-128_i8; 32], [127; 32]].concat().into(),
//!     scales: vec![f16::from_f32(0.1), f16::from_f32(0.5)].into(),
//! };
//! let pages = rows.import(Part::Keys, Tail::Minimums)?;
//! let found = pages.dequantize()?;
//! assert_eq!((found[0], found[63]), (-128.0 * f16::from_f32(0.1).to_f32(), 63.5));
//! assert_eq!(Int8PerToken::export(&pages)?, rows);
//! # Ok::<_, lacuna::Error>(())
//! ```

mod kivi;
mod pack;
mod pages;
mod per_token;
mod zip_cache;

pub use kivi::{KiviKeys, KiviValues};
pub use pages::{ImportedPages, RowsShape};
pub use per_token::{Int4PerToken, Int8PerToken, ZeroForm};
pub use zip_cache::{ZipCacheKeys, ZipCacheValues};
