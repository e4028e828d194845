//! How much tokens matter, so that their tiers can be chosen.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod launch;
mod plan;
mod probes;
pub(crate) mod reference;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use launch::{
    MassesOfPrompt, SaliencyInputs, SaliencyState, StepLogits, add_saliency, begin_saliency,
    measure_norms, weigh_saliency,
};
pub use plan::{Norm, NormsPlan, NormsShape, SaliencyPlan, SaliencyShape};
pub use probes::choose_probes;
