//! Checkpoints on disk.
//!
//! A handle of a group borrows its checkpoint, which it keeps: handles may be freed in any order.

mod checkpoint;
mod convert;
mod stored;

pub use checkpoint::*;
pub use convert::*;
pub use stored::*;

use std::ffi::{CStr, c_char};
use std::path::PathBuf;

use crate::capi::abi::{slice, text};
use crate::capi::status::{Failure, Outcome, lacuna_status};
use crate::huffman::Format;

fn number(format: Format) -> u32 {
    let format = match format {
        Format::Df11 => lacuna_format::LACUNA_FORMAT_DF11,
        Format::Compact => lacuna_format::LACUNA_FORMAT_COMPACT,
        Format::Lane => lacuna_format::LACUNA_FORMAT_LANE,
    };
    format as u32
}

fn format(number: u32) -> Outcome<Format> {
    match number {
        0 => Ok(Format::Df11),
        1 => Ok(Format::Compact),
        2 => Ok(Format::Lane),
        number => Err(Failure::number("format", number, "lacuna_format")),
    }
}

fn sides(shape: &[usize]) -> Vec<u64> {
    shape.iter().map(|side| *side as u64).collect()
}

/// # Safety
/// `address` is null, or of a text that ends with a zero byte.
unsafe fn path(what: &str, address: *const c_char) -> Outcome<PathBuf> {
    // SAFETY: the caller's word.
    let path = unsafe { text(what, address) }?;
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        Ok(PathBuf::from(std::ffi::OsStr::from_bytes(path.to_bytes())))
    }
    #[cfg(not(unix))]
    utf8(what, path).map(PathBuf::from)
}

fn utf8<'a>(what: &str, text: &'a CStr) -> Outcome<&'a str> {
    text.to_str().map_err(|error| {
        Failure::new(lacuna_status::LACUNA_RANGE, format!("{what} is no UTF-8: {error}"))
    })
}

/// # Safety
/// `address` is null, or of `len` texts that end with a zero byte.
unsafe fn each<T>(
    what: &str,
    address: *const *const c_char,
    len: u64,
    take: impl Fn(*const c_char) -> Outcome<T>,
) -> Outcome<Vec<T>> {
    // SAFETY: the caller's word.
    unsafe { slice(what, address, len) }?.iter().map(|text| take(*text)).collect()
}
