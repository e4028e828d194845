//! Which tokens matter: picks of the largest scores of each row, exactly, and the same every time.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod topk;

mod plan;
pub mod reference;

pub use plan::{TopkPlan, TopkShape};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use topk::{TopkInputs, TopkOutputs, topk_rows};

/// The most picks of a row.
pub const MAX_PICKS: u32 = 8192;

mod sealed {
    pub trait Sealed {}
    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
    impl Sealed for f32 {}
}

/// A type of scores. Sealed: bf16, f16 and f32.
pub trait Score: sealed::Sealed + crate::Element {
    /// The kernels' number for it.
    const NUMBER: u32;

    /// Ascends with the score, from NaN, which is 0, over -inf to +inf; the same for zeros of both signs.
    fn key(self) -> u32;
}

/// As [`Score::key`], of bits with a sign and `n_bits` others, of which `infinity` is the last number.
fn key_of(bits: u32, n_bits: u32, infinity: u32) -> u32 {
    let sign = 1 << n_bits;
    let magnitude = bits & (sign - 1);
    if magnitude > infinity {
        0
    } else if magnitude == 0 {
        sign
    } else if bits & sign == 0 {
        sign | magnitude
    } else {
        sign - 1 - magnitude
    }
}

impl Score for half::bf16 {
    const NUMBER: u32 = 0;

    fn key(self) -> u32 {
        key_of(self.to_bits().into(), 15, 0x7F80)
    }
}

impl Score for half::f16 {
    const NUMBER: u32 = 1;

    fn key(self) -> u32 {
        key_of(self.to_bits().into(), 15, 0x7C00)
    }
}

impl Score for f32 {
    const NUMBER: u32 = 2;

    fn key(self) -> u32 {
        key_of(self.to_bits(), 31, 0x7F80_0000)
    }
}
