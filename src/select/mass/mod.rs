//! What probes attend to, token by token.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
pub(super) mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{MassInputs, MassOutputs, column_mass};
pub use plan::{MassPlan, MassShape};
