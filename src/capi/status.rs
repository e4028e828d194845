//! What functions answer, and the message beside it.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::Error;

/// What a function answers. A new release may have more numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_status {
    /// It did what it is for.
    LACUNA_OK = 0,
    /// A pointer that must not be null is.
    LACUNA_NULL = 1,
    /// A struct's `header` is not what `LACUNA_HEADER` makes, or asks for what this library does not know.
    LACUNA_ABI = 2,
    /// A view's `dtype` is not one that the function takes.
    LACUNA_DTYPE = 3,
    /// Two lengths or shapes that must agree do not.
    LACUNA_SHAPE = 4,
    /// A value outside what is supported.
    LACUNA_RANGE = 5,
    /// Memory of another device than the queue's, or of a growing cache where all of it must be there.
    LACUNA_WRONG_QUEUE = 6,
    /// No CUDA driver library could be loaded.
    LACUNA_NO_DRIVER = 7,
    /// A library with the driver's name that is not the driver.
    LACUNA_STUB_DRIVER = 8,
    /// The driver is older than this library's images and calls need.
    LACUNA_DRIVER_TOO_OLD = 9,
    /// The driver has no such device.
    LACUNA_NO_DEVICE = 10,
    /// The device is older than any image of this library.
    LACUNA_UNSUPPORTED_DEVICE = 11,
    /// A driver call failed: `lacuna_error_driver_code` has its code.
    LACUNA_DRIVER = 12,
    /// No image of the kernel loads on the device.
    LACUNA_IMAGE = 13,
    /// A tensor or a file is not what its format allows.
    LACUNA_MALFORMED = 14,
    /// A decoder found its input corrupt.
    LACUNA_CORRUPT = 15,
    /// A file could not be read or written.
    LACUNA_IO = 16,
    /// Memory for a growing cache is short.
    LACUNA_OUT_OF_MEMORY = 17,
    /// The SIMT executor stopped a kernel.
    LACUNA_SIMT_FAULT = 18,
    /// A defect of this library: it panicked, and the panic went no further.
    LACUNA_PANIC = 19,
    /// What a newer release of the Rust library says that this interface has no number for.
    LACUNA_OTHER = 20,
}

/// Why a function does not do what it is for.
#[derive(Debug)]
pub(super) struct Failure {
    status: lacuna_status,
    message: String,
    driver_code: u32,
}

pub(super) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(super) fn new(status: lacuna_status, message: String) -> Self {
        Self { status, message, driver_code: 0 }
    }

    /// A number that is none of an enum's.
    pub(super) fn number(what: &str, found: u32, numbers: &str) -> Self {
        let message = format!("{what}: {found} is no {numbers}");
        Self::new(lacuna_status::LACUNA_RANGE, message)
    }

    fn report(self) -> lacuna_status {
        // A message has no zero byte but by a file's name.
        let message = CString::new(self.message.replace('\0', "\u{FFFD}")).unwrap_or_default();
        LAST.with_borrow_mut(|last| *last = Last { message, driver_code: self.driver_code });
        self.status
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        use lacuna_status::*;
        let status = match &error {
            Error::NoDriver { .. } => LACUNA_NO_DRIVER,
            Error::StubDriver { .. } => LACUNA_STUB_DRIVER,
            Error::DriverTooOld { .. } => LACUNA_DRIVER_TOO_OLD,
            Error::NoDevice { .. } => LACUNA_NO_DEVICE,
            Error::UnsupportedDevice { .. } => LACUNA_UNSUPPORTED_DEVICE,
            Error::Driver { .. } => LACUNA_DRIVER,
            Error::Image { .. } => LACUNA_IMAGE,
            Error::Shape { .. } | Error::Slice { .. } => LACUNA_SHAPE,
            Error::Range { .. } | Error::Number { .. } | Error::Element { .. } => LACUNA_RANGE,
            Error::WrongQueue { .. } | Error::WrongStream { .. } | Error::Holes { .. } => {
                LACUNA_WRONG_QUEUE
            }
            Error::ArenaFull { .. } => LACUNA_OUT_OF_MEMORY,
            Error::Tensor(_) => LACUNA_MALFORMED,
            #[cfg(feature = "files")]
            Error::Checkpoint(_) => LACUNA_MALFORMED,
            Error::Io { .. } => LACUNA_IO,
            Error::Corrupt(_) | Error::CorruptTile(_) => LACUNA_CORRUPT,
            #[cfg(feature = "simt")]
            Error::Simt(_) => LACUNA_SIMT_FAULT,
            Error::Mapper { .. } => LACUNA_OTHER,
        };
        let driver_code = if let Error::Driver { code, .. } = error { code } else { 0 };
        Self { status, message: error.to_string(), driver_code }
    }
}

/// What the calling thread's last failure was.
#[derive(Default)]
struct Last {
    message: CString,
    driver_code: u32,
}

thread_local! {
    static LAST: RefCell<Last> = RefCell::default();
}

/// The door of every function that can fail: what it does, without a panic that would leave it.
pub(super) fn answer(run: impl FnOnce() -> Outcome) -> lacuna_status {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => lacuna_status::LACUNA_OK,
        Ok(Err(failure)) => failure.report(),
        Err(panic) => {
            let reason = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("of no message");
            let message = format!("a defect of lacuna, please report it: {reason}");
            Failure::new(lacuna_status::LACUNA_PANIC, message).report()
        }
    }
}

/// What the last function that failed on this thread said of it: what, where, why, and what to do. Valid until the next failure
/// on this thread; never null, and empty where nothing failed.
#[unsafe(no_mangle)]
pub extern "C" fn lacuna_error_message() -> *const c_char {
    LAST.with_borrow(|last| last.message.as_ptr())
}

/// The `CUresult` of the last function that failed on this thread, where that was `LACUNA_DRIVER`; else 0.
#[unsafe(no_mangle)]
pub extern "C" fn lacuna_error_driver_code() -> u32 {
    LAST.with_borrow(|last| last.driver_code)
}

/// The name of a status, as the header has it. Any number may be asked for.
#[unsafe(no_mangle)]
pub extern "C" fn lacuna_status_name(status: u32) -> *const c_char {
    let name = match status {
        0 => c"LACUNA_OK",
        1 => c"LACUNA_NULL",
        2 => c"LACUNA_ABI",
        3 => c"LACUNA_DTYPE",
        4 => c"LACUNA_SHAPE",
        5 => c"LACUNA_RANGE",
        6 => c"LACUNA_WRONG_QUEUE",
        7 => c"LACUNA_NO_DRIVER",
        8 => c"LACUNA_STUB_DRIVER",
        9 => c"LACUNA_DRIVER_TOO_OLD",
        10 => c"LACUNA_NO_DEVICE",
        11 => c"LACUNA_UNSUPPORTED_DEVICE",
        12 => c"LACUNA_DRIVER",
        13 => c"LACUNA_IMAGE",
        14 => c"LACUNA_MALFORMED",
        15 => c"LACUNA_CORRUPT",
        16 => c"LACUNA_IO",
        17 => c"LACUNA_OUT_OF_MEMORY",
        18 => c"LACUNA_SIMT_FAULT",
        19 => c"LACUNA_PANIC",
        20 => c"LACUNA_OTHER",
        _ => c"(no status of this library)",
    };
    name.as_ptr()
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn message() -> String {
        // SAFETY: a string of this thread's, which nothing replaces meanwhile.
        unsafe { CStr::from_ptr(lacuna_error_message()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_failure_leaves_its_message_and_code_until_the_next() {
        let call = "cuLaunchKernel";
        let driver = || Error::Driver { call, code: 719, name: "X".into(), hint: String::new() };
        assert_eq!(answer(|| Err(driver().into())), lacuna_status::LACUNA_DRIVER);
        assert_eq!((message(), lacuna_error_driver_code()), (driver().to_string(), 719));
        assert_eq!(answer(|| Ok(())), lacuna_status::LACUNA_OK);
        assert_eq!(message(), driver().to_string());
        let shape = || Error::Shape { what: "a\0b", expected: 1, got: 2 };
        assert_eq!(answer(|| Err(shape().into())), lacuna_status::LACUNA_SHAPE);
        assert_eq!(message(), "a\u{FFFD}b: expected 1, got 2");
        assert_eq!(lacuna_error_driver_code(), 0);
        // Another thread has its own.
        let other = std::thread::spawn(message).join().unwrap();
        assert_eq!(other, "");
    }

    #[test]
    fn a_panic_is_an_answer() {
        assert_eq!(answer(|| panic!("{} is odd", 3)), lacuna_status::LACUNA_PANIC);
        assert_eq!(message(), "a defect of lacuna, please report it: 3 is odd");
    }
}
