//! The room `attention`: every launch that it has.
//!
//! Left out: its references, which are for tests of the library, and numbers that say what a kernel moves at least, for benches.

mod attend;
mod copy_pages;
pub(super) mod logits;
mod low_rank;
mod merge;
mod prefill;
mod tier;
mod tiered;

pub use attend::*;
pub use copy_pages::*;
pub use logits::*;
pub use low_rank::*;
pub use merge::*;
pub use prefill::*;
pub use tier::*;
pub use tiered::*;
