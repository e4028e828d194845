//! Keys and values in which tokens that matter less cost fewer bits.
#![doc = include_str!("format.md")]

mod page;
mod tier;

pub use page::{Page, PageShape, Place};
pub use tier::{Part, Tier};

/// What the kernels of this room must do, written for reading.
pub mod reference {
    pub use super::reference_of_rows::{Channels, Row, dequantise, normalise, quantise};
}

#[path = "reference.rs"]
mod reference_of_rows;
