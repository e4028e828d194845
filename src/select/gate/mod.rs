//! Whether a cached selection may be used again.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
pub(super) mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{GateInputs, GateOutputs, gate_selection};
pub use plan::{GatePlan, GateShape};
