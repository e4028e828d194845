//! Codes in words of a scheme, and numbers in its types.

use crate::element::Real;
use crate::quant::Tier;
use crate::{Error, Result};

/// Bits of a code, of what schemes store.
pub(super) fn bits_of(tier: Tier) -> Result<usize> {
    if !tier.is_coded() {
        let (what, allowed) = ("bits of a code", "2, 4 and 8");
        return Err(Error::Range { what, value: tier.bits().into(), allowed });
    }
    Ok(tier.bits() as usize)
}

/// Where ZipCache has code `i` of a row of so many: of bytes of a row the first codes in the lowest bits, and so on. `(byte, shift)`.
pub(super) fn place_in_parts(bits: usize, len: usize, i: usize) -> (usize, usize) {
    let n_bytes = len * bits / 8;
    (i % n_bytes, i / n_bytes * bits)
}

/// Code `i` of KIVI's, from the lowest bits of a word on.
pub(super) fn code_of_word(bits: usize, words: &[i32], i: usize) -> u8 {
    let n = 32 / bits;
    (words[i / n] as u32 >> (i % n * bits) & ((1 << bits) - 1)) as u8
}

/// Adds it to words of zeros.
pub(super) fn put_in_word(bits: usize, words: &mut [i32], i: usize, code: u8) {
    let n = 32 / bits;
    words[i / n] |= (u32::from(code) << (i % n * bits)) as i32;
}

/// As many elements as a shape says.
pub(super) fn check_len(what: &'static str, expected: u64, got: usize) -> Result<()> {
    let got = got as u64;
    if expected == got { Ok(()) } else { Err(Error::Shape { what, expected, got }) }
}

/// An element that is a number, finite or not.
pub(super) fn number<T: Real>(tensor: &'static str, all: &[T], index: usize) -> Result<f32> {
    let value = all[index].to_f32();
    if value.is_nan() {
        let (index, allowed) = (index as u64, "numbers");
        return Err(Error::Element { tensor, index, value, allowed });
    }
    Ok(value)
}

/// All of them.
pub(super) fn numbers<T: Real>(tensor: &'static str, all: &[T]) -> Result<Vec<f32>> {
    (0..all.len()).map(|index| number(tensor, all, index)).collect()
}

/// An element of a scheme's tensor, where its type holds it.
pub(super) fn narrow<T: Real>(tensor: &'static str, index: usize, value: f64) -> Result<T> {
    let found = T::from_f32(value as f32);
    if value.is_nan() || f64::from(found.to_f32()).to_bits() != value.to_bits() {
        let (index, value, allowed) = (index as u64, value as f32, "what the scheme's type holds");
        return Err(Error::Element { tensor, index, value, allowed });
    }
    Ok(found)
}
