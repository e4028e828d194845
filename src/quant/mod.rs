//! Keys and values in which tokens that matter less cost fewer bits.
#![doc = include_str!("format.md")]

mod append;
mod channels;
pub mod import;
mod missing;
mod page;
mod pages;
mod retier;
mod row;
mod saliency;
mod tier;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use append::{AppendOutputs, NewTokens, append_kv};
pub use append::{AppendPlan, AppendShape};
pub use channels::ChannelsPlan;
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use channels::{ChannelViewsMut, MeasuredRows, measure_channels};
pub use missing::{EntryTable, MissingPage};
pub use page::{Page, PageShape, Place};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use pages::{
    ChannelViews, PageLists, TierPools, TierPoolsMut, dequantize_pages, quantize_pages,
};
pub use pages::{PagesPlan, PagesShape};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use retier::{RetierInputs, RetierOutputs, retier_pages};
pub use retier::{RetierPlan, RetierShape};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use saliency::{
    MassesOfPrompt, SaliencyInputs, SaliencyState, StepLogits, add_saliency, begin_saliency,
    measure_norms, weigh_saliency,
};
pub use saliency::{Norm, NormsPlan, NormsShape, SaliencyPlan, SaliencyShape, choose_probes};
pub use tier::{Part, Tail, Tier};

pub use crate::turn::Turn;

/// What the kernels of this room must do, written for reading.
pub mod reference {
    pub use super::append::reference::{Appended, HostRows, HostTokens, append};
    pub use super::channels::reference::{Measured, Moments, measure};
    pub use super::retier::{Token, retier_page};
    pub use super::row::{
        Channels, MinimumRow, Row, dequantize, dequantize_minimums, normalize, quantize,
    };
    pub use super::saliency::reference::{Seen, norm_of_row, weigh_token};
}
