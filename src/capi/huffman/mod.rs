//! The room `huffman`.
//!
//! Left out: the launches of encoders one by one, of which `lacuna_df11_encoder` and `lacuna_compact_encoder` are the order that their
//! workspace asks for; encoders that allocate, since engines have memory of their own; `IndexedPlan::with_block_tiles`, which measures; `Costs` and
//! `Model`, which are for people who choose a format.

mod encoder;
#[cfg(feature = "files")]
mod files;
mod indexed;
mod lane;
mod product;
mod weights;

pub use encoder::*;
#[cfg(feature = "files")]
pub use files::*;
pub use indexed::*;
pub use lane::*;
pub use product::*;
pub use weights::*;
