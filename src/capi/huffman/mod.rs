//! The room `huffman`.

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
