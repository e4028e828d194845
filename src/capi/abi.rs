//! Structs that a caller of another release may have compiled, and handles.

#[cfg(feature = "files")]
use std::ffi::CStr;
#[cfg(any(feature = "cuda", feature = "files"))]
use std::ffi::CString;
use std::ffi::c_char;
use std::mem::MaybeUninit;

use super::status::{Failure, Outcome, lacuna_status};

/// The revision of this interface. A struct of a later revision may have more fields at its end, and zeros there are
/// what callers of an earlier one get.
pub const LACUNA_ABI_VERSION: u32 = 1;

/// What structs begin with that may grow: `LACUNA_HEADER(lacuna_topk_rows_shape)` makes it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_header {
    /// `sizeof` the struct, as its caller was compiled.
    pub size: u32,
    /// `LACUNA_ABI_VERSION`, as its caller was compiled.
    pub version: u32,
}

impl lacuna_header {
    /// That of a struct which is written without it.
    pub(super) const NONE: Self = Self { size: 0, version: 0 };
}

/// The version of this library, as `LACUNA_VERSION` has that of the header.
#[unsafe(no_mangle)]
pub extern "C" fn lacuna_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// The revision of the interface that this library has, as `LACUNA_ABI_VERSION` is that of the header. A library takes
/// callers of its own revision and of earlier ones.
#[unsafe(no_mangle)]
pub extern "C" fn lacuna_abi_version() -> u32 {
    LACUNA_ABI_VERSION
}

/// A struct that begins with a header.
///
/// # Safety
/// `repr(C)`, with a [`lacuna_header`] first, and all zeros, and any bytes, are a value.
pub(super) unsafe trait Struct: Copy {
    /// Its name in the header.
    const NAME: &'static str;
    /// Its size in revision 1, below which nobody was compiled.
    const LEAST_BYTES: usize;
}

/// Says that structs begin with a header, and how large each was in revision 1.
macro_rules! structs {
    ($($name:ident: $n_bytes:literal),* $(,)?) => {
        $(
            const _: () = assert!(size_of::<$name>() >= $n_bytes && align_of::<$name>() == 8);
            const _: () = assert!(std::mem::offset_of!($name, header) == 0);

            // SAFETY: `repr(C)`, of numbers, pointers and structs of such; the header's place is asserted.
            unsafe impl $crate::capi::abi::Struct for $name {
                const NAME: &'static str = stringify!($name);
                const LEAST_BYTES: usize = $n_bytes;
            }
        )*
    };
}
pub(super) use structs;

pub(super) fn null(what: &str) -> Failure {
    Failure::new(lacuna_status::LACUNA_NULL, format!("{what} is a null pointer"))
}

pub(super) fn check_pointer<T>(what: &str, address: *const T) -> Outcome {
    if address.is_null() {
        return Err(null(what));
    }
    if address.is_aligned() {
        return Ok(());
    }
    let message = format!("{what} is at {address:p}, which is no multiple of {}", align_of::<T>());
    Err(Failure::new(lacuna_status::LACUNA_RANGE, message))
}

/// What a caller's struct says of itself: its bytes.
unsafe fn size_of_struct<T: Struct>(address: *const T) -> Outcome<usize> {
    check_pointer(T::NAME, address)?;
    let abi = |message| Failure::new(lacuna_status::LACUNA_ABI, message);
    // SAFETY: aligned, and the caller's struct begins with a header.
    let header = unsafe { address.cast::<lacuna_header>().read() };
    let lacuna_header { size, version } = header;
    if !(1..=LACUNA_ABI_VERSION).contains(&version) {
        return Err(abi(format!(
            "{}: header.version is {version}, and this library knows 1 to {LACUNA_ABI_VERSION}; begin the struct with \
             LACUNA_HEADER({}), or link the library that the header is of",
            T::NAME,
            T::NAME
        )));
    }
    let size = size as usize;
    // No struct is as large as that: what is no size does not make us read.
    if size < T::LEAST_BYTES || size > 1 << 16 {
        return Err(abi(format!(
            "{}: header.size is {size}, and it has {} bytes; begin the struct with LACUNA_HEADER({})",
            T::NAME,
            size_of::<T>(),
            T::NAME
        )));
    }
    Ok(size)
}

/// A caller's struct: what he does not have is zeros, and what only he has must be.
///
/// # Safety
/// `address` is null, or of as many readable bytes as the header there says.
pub(super) unsafe fn read<T: Struct>(address: *const T) -> Outcome<T> {
    // SAFETY: the caller's word.
    let size = unsafe { size_of_struct(address) }?;
    let mut value = MaybeUninit::<T>::zeroed();
    let (source, n_bytes) = (address.cast::<u8>(), size.min(size_of::<T>()));
    // SAFETY: the caller has `size` bytes, the value as many as it has, and zeros are a value.
    let value = unsafe {
        value.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(source, n_bytes);
        value.assume_init()
    };
    // SAFETY: within the caller's `size` bytes, which he has set.
    let rest = unsafe { std::slice::from_raw_parts(source.add(n_bytes), size - n_bytes) };
    if rest.iter().all(|byte| *byte == 0) {
        return Ok(value);
    }
    let message = format!(
        "{} asks for what this library does not know: a byte past its {} is not 0; link a newer library",
        T::NAME,
        size_of::<T>()
    );
    Err(Failure::new(lacuna_status::LACUNA_ABI, message))
}

/// Elements of an array of structs, each as far from the next as the first one's header says.
///
/// # Safety
/// `address` is null, or of `len` structs that begin with the same header.
pub(super) unsafe fn read_array<T: Struct>(address: *const T, len: u64) -> Outcome<Vec<T>> {
    if len == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the caller's word.
    let size = unsafe { size_of_struct(address) }?;
    let mut values = Vec::new();
    for idx in 0..len as usize {
        let element = address.cast::<u8>().wrapping_add(idx * size).cast::<T>();
        // SAFETY: one of `len` structs of `size` bytes.
        values.push(unsafe { read(element) }?);
    }
    Ok(values)
}

/// Refuses a struct that cannot be written, before anything is done.
///
/// # Safety
/// `address` is null, or of as many bytes as the header there says.
pub(super) unsafe fn check_struct<T: Struct>(address: *const T) -> Outcome {
    // SAFETY: the caller's word.
    unsafe { size_of_struct(address) }.map(drop)
}

/// Sets the fields after the header of a caller's struct, as many as he has.
///
/// # Safety
/// `address` is null, or of as many bytes as the header there says.
pub(super) unsafe fn write<T: Struct>(address: *mut T, value: &T) -> Outcome {
    // SAFETY: the caller's word.
    let size = unsafe { size_of_struct(address.cast_const()) }?;
    let (first, end) = (size_of::<lacuna_header>(), size.min(size_of::<T>()));
    let source = std::ptr::from_ref(value).cast::<u8>();
    // SAFETY: both have so many bytes.
    unsafe {
        address.cast::<u8>().add(first).copy_from_nonoverlapping(source.add(first), end - first);
    }
    Ok(())
}

/// What a handle names.
///
/// # Safety
/// `handle` is null, or what a function of this library gave and nobody has freed.
pub(super) unsafe fn borrow<'a, T>(what: &str, handle: *const T) -> Outcome<&'a T> {
    check_pointer(what, handle)?;
    // SAFETY: the caller's word.
    Ok(unsafe { &*handle })
}

/// Gives the caller a handle of what `make` makes, or leaves his variable as it was.
///
/// # Safety
/// `handle` is null or of a variable.
pub(super) unsafe fn give<T>(
    what: &str,
    handle: *mut *mut T,
    make: impl FnOnce() -> Outcome<T>,
) -> Outcome {
    check_pointer(what, handle.cast_const())?;
    let value = Box::into_raw(Box::new(make()?));
    // SAFETY: the caller's variable.
    unsafe { handle.write(value) };
    Ok(())
}

/// Ends what a handle names, and nothing for null.
///
/// # Safety
/// As [`borrow`], and nobody uses the handle again.
pub(super) unsafe fn free<T>(handle: *mut T) {
    if handle.is_null() {
        return;
    }
    let end = || {
        // SAFETY: made by `give`, and ended once.
        drop(unsafe { Box::from_raw(handle) });
    };
    // A panic goes no further; there is nobody to tell.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(end));
}

/// A caller's variable.
///
/// # Safety
/// `address` is null, or of a variable that nobody else uses for `'a`.
pub(super) unsafe fn variable<'a, T>(what: &str, address: *mut T) -> Outcome<&'a mut T> {
    check_pointer(what, address.cast_const())?;
    // SAFETY: the caller's word.
    Ok(unsafe { &mut *address })
}

/// Refuses a variable that is neither left out nor one, before anything is done.
pub(super) fn check_optional<T>(what: &str, address: *const T) -> Outcome {
    if address.is_null() { Ok(()) } else { check_pointer(what, address) }
}

/// A number that `0` leaves to the library.
pub(super) fn or(value: u64, usual: u64) -> u64 {
    if value == 0 { usual } else { value }
}

/// As [`or`].
pub(super) fn or_f32(value: f32, usual: f32) -> f32 {
    if value == 0.0 { usual } else { value }
}

/// A field of no meaning yet: what a later revision makes of it, this library does not know.
pub(super) fn check_reserved(what: &str, value: u32) -> Outcome {
    if value == 0 {
        return Ok(());
    }
    let message = format!("reserved of {what} is {value}, and not 0");
    Err(Failure::new(lacuna_status::LACUNA_ABI, message))
}

/// A truth as a number.
pub(super) fn truth(what: &str, value: u32) -> Outcome<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(Failure::number(what, value, "truth: 0 or 1")),
    }
}

/// A caller's text, which ends with a zero byte.
///
/// # Safety
/// `address` is null, or of such a text, which nobody changes for `'a`.
#[cfg(feature = "files")]
pub(super) unsafe fn text<'a>(what: &str, address: *const c_char) -> Outcome<&'a CStr> {
    check_pointer(what, address)?;
    // SAFETY: the caller's word.
    Ok(unsafe { CStr::from_ptr(address) })
}

/// A text that a handle owns, for C to read.
#[cfg(any(feature = "cuda", feature = "files"))]
pub(super) fn owned_text(what: &str, text: &str) -> Outcome<CString> {
    CString::new(text).map_err(|_| {
        let message = format!("{what} {text:?} has a zero byte, with which texts end in C");
        Failure::new(lacuna_status::LACUNA_FORMAT, message)
    })
}

/// An array of the caller's that is read.
///
/// # Safety
/// `address` is null, or of `len` elements that nobody writes for `'a`, of a type of which any bytes are a value.
#[cfg(feature = "files")]
pub(super) unsafe fn slice<'a, T>(what: &str, address: *const T, len: u64) -> Outcome<&'a [T]> {
    let len = check_array(what, address, len)?;
    // SAFETY: the caller's word.
    Ok(if len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(address, len) } })
}

/// An array of the caller's that is written.
///
/// # Safety
/// `address` is null, or of `len` elements that nobody else uses for `'a`, of a type of which any bytes are a value.
pub(super) unsafe fn array<'a, T>(what: &str, address: *mut T, len: u64) -> Outcome<&'a mut [T]> {
    let len = check_array(what, address.cast_const(), len)?;
    // SAFETY: the caller's word.
    Ok(if len == 0 { &mut [] } else { unsafe { std::slice::from_raw_parts_mut(address, len) } })
}

fn check_array<T>(what: &str, address: *const T, len: u64) -> Outcome<usize> {
    if len == 0 {
        return Ok(0);
    }
    check_pointer(what, address)?;
    if len <= isize::MAX as u64 / size_of::<T>() as u64 {
        return Ok(len as usize);
    }
    let message = format!("{what}: {len} elements do not fit into memory");
    Err(Failure::new(lacuna_status::LACUNA_RANGE, message))
}
