//! The room `huffman`.

mod weights;

pub use weights::*;
