//! A few inputs times matrices of lanes.

mod estimate;
#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
pub(super) mod reference;

pub use estimate::{DeviceRates, Estimate, Way};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{Factor, Residual, multiply_lane};
pub use plan::{MOST_FACTORS, MOST_INPUTS, ProductPlan};
