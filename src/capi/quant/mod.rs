//! The room `quant`.
//!
//! Left out: `quant::import`, which turns other schemes' whole tensors in host memory into pages and back, each scheme a type of its own; an
//! engine does that once, offline, in Rust. And `quant::reference` and `quant::Page`, which are what kernels are tested against.

mod append;
mod missing;
mod norms;
pub(super) mod page;
mod pages;
mod probes;
mod retier;
mod saliency;

pub use append::*;
pub use missing::*;
pub use norms::*;
pub use page::*;
pub use pages::*;
pub use probes::*;
pub use retier::*;
pub use saliency::*;
