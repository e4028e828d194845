//! Pages copied between pools, layers, and host memory.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
#[cfg(any(feature = "cuda", feature = "simt"))]
mod pools;
pub(super) mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{CopyCheck, CopyInputs, CopyOutputs, copy_pages, copy_pages_within};
pub use plan::{CopyPlan, PoolShape, PoolsLayout};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use pools::Pools;
