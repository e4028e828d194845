//! Tokens from pages of their tiers to pages of others.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{RetierInputs, RetierOutputs, retier_pages};
pub use plan::{RetierPlan, RetierShape};
pub use reference::{Token, retier_page};
