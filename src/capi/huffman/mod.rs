//! The room `huffman`.

mod indexed;
mod lane;
mod product;
mod weights;

pub use indexed::*;
pub use lane::*;
pub use product::*;
pub use weights::*;
