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
        Failure::new(lacuna_status::LACUNA_MALFORMED, message)
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

/// The unsafe code of this file, of which Miri runs all (`.ci/run`): each piece of a caller's memory is a whole allocation.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::capi::{
        lacuna_kv_order, lacuna_kv_shape, lacuna_kv_shape_sizes, lacuna_kv_sizes,
        lacuna_topk_rows_plan, lacuna_topk_rows_plan_free, lacuna_topk_rows_plan_new,
        lacuna_topk_rows_shape,
    };

    /// A struct that has grown since revision 1.
    #[derive(Debug, Clone, Copy, PartialEq)]
    #[repr(C)]
    struct Sample {
        header: [u32; 2],
        pointer: *const u8,
        word: u32,
        reserved: u32,
    }

    // SAFETY: `repr(C)`, of numbers and a pointer, two words first as in a header.
    unsafe impl Struct for Sample {
        const NAME: &'static str = "sample";
        const LEAST_BYTES: usize = 16;
    }

    /// So many bytes as a caller has them, aligned, and no byte more.
    struct Bytes {
        start: *mut u8,
        layout: std::alloc::Layout,
    }

    impl Bytes {
        fn new(bytes: &[u8]) -> Self {
            let layout = std::alloc::Layout::from_size_align(bytes.len(), 8).unwrap();
            // SAFETY: the size is not zero, and the memory is new.
            let start = unsafe {
                let start = std::alloc::alloc(layout);
                assert!(!start.is_null());
                start.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                start
            };
            Self { start, layout }
        }

        fn all(&self) -> &[u8] {
            // SAFETY: all of it was set.
            unsafe { std::slice::from_raw_parts(self.start, self.layout.size()) }
        }
    }

    impl Drop for Bytes {
        fn drop(&mut self) {
            // SAFETY: allocated so.
            unsafe { std::alloc::dealloc(self.start, self.layout) }
        }
    }

    fn words(words: &[u32]) -> Bytes {
        Bytes::new(&words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>())
    }

    fn why<T: std::fmt::Debug>(outcome: Outcome<T>) -> String {
        format!("{:?}", outcome.unwrap_err())
    }

    #[test]
    fn a_struct_is_read_as_far_as_its_caller_has_it() {
        // Of an earlier revision, of this one, and of a later one that asks for nothing more.
        for (n_words, word) in [(4, 0), (5, 9), (6, 9), (8, 9)] {
            let mut given = vec![4 * n_words as u32, 1, 0, 0, 9, 0, 0, 0];
            given.truncate(n_words);
            let given = words(&given);
            // SAFETY: as long as it says.
            let found = unsafe { read::<Sample>(given.start.cast()) }.unwrap();
            let header = [4 * n_words as u32, 1];
            assert_eq!(found, Sample { header, pointer: std::ptr::null(), word, reserved: 0 });
        }
        for (given, message) in [
            (vec![32, 1, 0, 0, 9, 0, 0, 1], "asks for what this library does not know"),
            (vec![12, 1, 0], "header.size is 12"),
            (vec![1 << 17, 1], "header.size is 131072"),
            (vec![24, 0, 0, 0, 0, 0], "header.version is 0"),
        ] {
            let given = words(&given);
            // SAFETY: as long as it says, or no longer than a header where that is refused.
            let found = unsafe { read::<Sample>(given.start.cast()) };
            let why = why(found);
            assert!(why.contains(message), "{why}");
        }
        let given = words(&[24, 1, 0, 0, 0, 0, 0]);
        // SAFETY: nothing is read there.
        let found = unsafe { [read::<Sample>(std::ptr::null()), read(given.start.add(4).cast())] };
        let [null, odd] = found.map(why);
        assert!(null.contains("LACUNA_NULL") && odd.contains("no multiple of 8"), "{null} {odd}");
    }

    #[test]
    fn structs_of_an_array_are_as_far_apart_as_the_first_says() {
        let given = words(&[16, 1, 0, 0, 16, 1, 0, 0, 16, 1, 0, 0]);
        // SAFETY: three structs.
        let found = unsafe { read_array::<Sample>(given.start.cast(), 3) }.unwrap();
        assert_eq!(found.len(), 3);
        let given = words(&[32, 1, 0, 0, 1, 0, 0, 0, 32, 1, 0, 0, 2, 0, 0, 0]);
        // SAFETY: two of a later revision.
        let found = unsafe { read_array::<Sample>(given.start.cast(), 2) }.unwrap();
        assert_eq!([found[0].word, found[1].word], [1, 2]);
        // SAFETY: of no structs nothing is read.
        assert!(unsafe { read_array::<Sample>(std::ptr::null(), 0) }.unwrap().is_empty());
    }

    #[test]
    fn a_struct_is_written_as_far_as_its_caller_has_it() {
        let value = Sample { header: [0; 2], pointer: std::ptr::null(), word: 7, reserved: 8 };
        for (n_words, expected) in [
            (4, vec![16, 1, 0, 0]),
            (5, vec![20, 1, 0, 0, 7]),
            (6, vec![24, 1, 0, 0, 7, 8]),
            // What only the caller knows stays as he had it.
            (8, vec![32, 1, 0, 0, 7, 8, 5, 5]),
        ] {
            let mut given = vec![4 * n_words as u32, 1];
            given.resize(n_words, 5);
            let given = words(&given);
            // SAFETY: as long as it says.
            unsafe { write::<Sample>(given.start.cast(), &value) }.unwrap();
            assert_eq!(given.all(), words(&expected).all());
        }
    }

    #[test]
    fn handles_are_given_borrowed_and_ended() {
        let mut handle = std::ptr::null_mut::<String>();
        // SAFETY: a variable, and what was given, which is ended once.
        unsafe {
            give("handle", &raw mut handle, || Ok("made".to_owned())).unwrap();
            assert_eq!(borrow("handle", handle).unwrap(), "made");
            *variable("handle", handle).unwrap() = "changed".to_owned();
            assert_eq!(borrow("handle", handle).unwrap(), "changed");
            let before = handle;
            let failed = give("handle", &raw mut handle, || Err::<String, _>(null("this")));
            assert!(failed.is_err() && handle == before);
            free(handle);
            free(std::ptr::null_mut::<String>());
            assert!(give("handle", std::ptr::null_mut(), || Ok(1_u8)).is_err());
            assert!(borrow::<u8>("handle", std::ptr::null()).is_err());
            assert!(variable::<u8>("handle", std::ptr::null_mut()).is_err());
        }
    }

    #[test]
    fn arrays_are_of_what_fits_into_memory() {
        let mut memory = [1_u64, 2, 3];
        // SAFETY: three numbers, of which nobody else knows.
        unsafe {
            array("numbers", memory.as_mut_ptr(), 3).unwrap()[1] = 9;
            assert!(array::<u64>("numbers", std::ptr::null_mut(), 0).unwrap().is_empty());
            for len in [u64::MAX, isize::MAX as u64 / 8 + 1] {
                let why = why(array("numbers", memory.as_mut_ptr(), len));
                assert!(why.contains("do not fit into memory"), "{why}");
            }
            let odd = memory.as_mut_ptr().cast::<u8>().add(1).cast::<u64>();
            assert!(why(array("numbers", odd, 1)).contains("no multiple of 8"));
            assert!(why(array::<u64>("numbers", std::ptr::null_mut(), 1)).contains("LACUNA_NULL"));
        }
        assert_eq!(memory, [1, 9, 3]);
    }

    #[cfg(feature = "files")]
    #[test]
    fn texts_end_with_a_zero_byte() {
        let memory = Bytes::new(b"name\0");
        // SAFETY: a text, and an array of bytes.
        unsafe {
            assert_eq!(text("text", memory.start.cast()).unwrap(), c"name");
            assert_eq!(slice("bytes", memory.start.cast_const(), 5).unwrap(), b"name\0");
            assert!(text("text", std::ptr::null()).is_err());
        }
        assert_eq!(owned_text("text", "name").unwrap().as_c_str(), c"name");
        assert!(why(owned_text("text", "na\0me")).contains("zero byte"));
    }

    /// As C calls it: a plan that is made and ended, and sizes.
    #[test]
    fn plans_are_made_and_ended() {
        const OK: lacuna_status = lacuna_status::LACUNA_OK;
        fn header<T>() -> lacuna_header {
            lacuna_header { size: size_of::<T>() as u32, version: LACUNA_ABI_VERSION }
        }
        // SAFETY: of these structs zeros are a value; a variable, and a handle that is ended once.
        unsafe {
            let zeroed = std::mem::zeroed::<lacuna_topk_rows_shape>();
            let header = header::<lacuna_topk_rows_shape>();
            let shape =
                lacuna_topk_rows_shape { header, n_rows: 2, n: 40, k: 5, dtype: 1, ..zeroed };
            let mut plan = std::ptr::null_mut::<lacuna_topk_rows_plan>();
            assert_eq!(lacuna_topk_rows_plan_new(&raw const shape, &raw mut plan), OK);
            lacuna_topk_rows_plan_free(plan);
            let wrong = lacuna_topk_rows_shape { dtype: 99, ..shape };
            let mut plan = std::ptr::null_mut::<lacuna_topk_rows_plan>();
            assert_ne!(lacuna_topk_rows_plan_new(&raw const wrong, &raw mut plan), OK);
            assert!(plan.is_null());
        }
        // SAFETY: as above.
        unsafe {
            let zeroed = std::mem::zeroed::<lacuna_kv_shape>();
            let shape = lacuna_kv_shape {
                header: header::<lacuna_kv_shape>(),
                batch: 1,
                n_heads: 2,
                row_len: 64,
                n_pages: 3,
                page_size: 16,
                table_stride: 3,
                dtype: 1,
                order: lacuna_kv_order::LACUNA_KV_HND as u32,
                ..zeroed
            };
            let mut sizes = std::mem::zeroed::<lacuna_kv_sizes>();
            sizes.header = header::<lacuna_kv_sizes>();
            assert_eq!(lacuna_kv_shape_sizes(&raw const shape, &raw mut sizes), OK);
            assert_eq!(sizes.keys, 3 * 16 * 2 * 64);
        }
    }
}
