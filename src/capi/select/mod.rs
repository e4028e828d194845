//! The room `select`.

mod compact;
mod gate;
mod kv_rows;
mod mass;
mod merge;
mod rows;
mod score;
mod summarize;
mod topk;
mod vote;

pub use compact::*;
pub use gate::*;
pub use kv_rows::*;
pub use mass::*;
pub use merge::*;
pub use rows::*;
pub use score::*;
pub use summarize::*;
pub use topk::*;
pub use vote::*;
