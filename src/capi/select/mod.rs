//! The room `select`.

mod topk;

pub use topk::*;
