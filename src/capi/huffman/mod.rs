//! The room `huffman`.
//!
//! Left out: the launches of encoders one by one, of which `lacuna_df11_encoder` and `lacuna_compact_encoder` are the order that their
//! workspace asks for; encoders that allocate, since engines have memory of their own; `DecodePlan::with_block_tiles`, which measures; `Costs` and
//! `Model`, which are for people who choose a format.

mod decode;
mod encoder;
#[cfg(feature = "files")]
mod files;
mod groups;
mod lane;
mod product;
mod rows;
mod weights;

pub use decode::*;
pub use encoder::*;
#[cfg(feature = "files")]
pub use files::*;
pub use groups::*;
pub use lane::*;
pub use product::*;
pub use rows::*;
pub use weights::*;
