//! The room `huffman`.

mod indexed;
mod weights;

pub use indexed::*;
pub use weights::*;
