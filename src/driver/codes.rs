//! The driver's error codes, named from here: cudarc asks the library for a name, and panics where
//! it has no such function.

use crate::{Error, Result};

const CUDA_SUCCESS: u32 = 0;
pub(super) const CUDA_ERROR_STUB_LIBRARY: u32 = 34;
pub(super) const CUDA_ERROR_NO_DEVICE: u32 = 100;

/// What a code of the driver is as a result.
pub(crate) fn check(call: &'static str, code: u32) -> Result<()> {
    if code == CUDA_SUCCESS {
        return Ok(());
    }
    let (name, hint) = describe(code);
    let hint = if hint.is_empty() { String::new() } else { format!("; {hint}") };
    Err(Error::Driver { call, code, name: name.to_owned(), hint })
}

const EARLIER_LAUNCH: &str =
    "an earlier launch of this process is at fault, and its context is lost: restart the process";
const CAPTURE: &str =
    "a stream takes only launches while it is captured: warm the device up and copy before";

const CAPTURES: &str =
    "streams wait for each other within one capture alone, and are joined before it ends";

/// The name in cuda.h, and what to do about it.
fn describe(code: u32) -> (&'static str, &'static str) {
    match code {
        1 => ("CUDA_ERROR_INVALID_VALUE", ""),
        2 => ("CUDA_ERROR_OUT_OF_MEMORY", "free device memory, or work on less at a time"),
        3 => ("CUDA_ERROR_NOT_INITIALIZED", ""),
        4 => ("CUDA_ERROR_DEINITIALIZED", "the process is ending"),
        34 => ("CUDA_ERROR_STUB_LIBRARY", "the real libcuda must come first in LD_LIBRARY_PATH"),
        46 => ("CUDA_ERROR_DEVICE_UNAVAILABLE", "another process may hold it exclusively"),
        100 => ("CUDA_ERROR_NO_DEVICE", "check nvidia-smi and CUDA_VISIBLE_DEVICES"),
        101 => ("CUDA_ERROR_INVALID_DEVICE", ""),
        200 => ("CUDA_ERROR_INVALID_IMAGE", ""),
        201 => ("CUDA_ERROR_INVALID_CONTEXT", "the context was destroyed or reset elsewhere"),
        209 => ("CUDA_ERROR_NO_BINARY_FOR_GPU", ""),
        218 => ("CUDA_ERROR_INVALID_PTX", ""),
        221 => ("CUDA_ERROR_JIT_COMPILER_NOT_FOUND", "install libnvidia-ptxjitcompiler"),
        222 => ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "update the driver"),
        223 => ("CUDA_ERROR_JIT_COMPILATION_DISABLED", "unset CUDA_DISABLE_PTX_JIT"),
        400 => ("CUDA_ERROR_INVALID_HANDLE", ""),
        500 => ("CUDA_ERROR_NOT_FOUND", ""),
        600 => ("CUDA_ERROR_NOT_READY", ""),
        700 => ("CUDA_ERROR_ILLEGAL_ADDRESS", EARLIER_LAUNCH),
        701 => ("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", ""),
        702 => ("CUDA_ERROR_LAUNCH_TIMEOUT", EARLIER_LAUNCH),
        709 => ("CUDA_ERROR_CONTEXT_IS_DESTROYED", "the context was destroyed elsewhere"),
        710 => ("CUDA_ERROR_ASSERT", EARLIER_LAUNCH),
        714 => ("CUDA_ERROR_HARDWARE_STACK_ERROR", EARLIER_LAUNCH),
        715 => ("CUDA_ERROR_ILLEGAL_INSTRUCTION", EARLIER_LAUNCH),
        716 => ("CUDA_ERROR_MISALIGNED_ADDRESS", EARLIER_LAUNCH),
        718 => ("CUDA_ERROR_INVALID_PC", EARLIER_LAUNCH),
        719 => ("CUDA_ERROR_LAUNCH_FAILED", EARLIER_LAUNCH),
        800 => ("CUDA_ERROR_NOT_PERMITTED", ""),
        801 => ("CUDA_ERROR_NOT_SUPPORTED", ""),
        802 => ("CUDA_ERROR_SYSTEM_NOT_READY", "start the machine's NVIDIA services"),
        803 => (
            "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
            "kernel module and libcuda are of different versions: restart the machine",
        ),
        804 => (
            "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
            "take the CUDA compatibility package out of LD_LIBRARY_PATH",
        ),
        900 => ("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", CAPTURE),
        901 => ("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", CAPTURE),
        902 => ("CUDA_ERROR_STREAM_CAPTURE_MERGE", CAPTURES),
        904 => ("CUDA_ERROR_STREAM_CAPTURE_UNJOINED", CAPTURES),
        905 => ("CUDA_ERROR_STREAM_CAPTURE_ISOLATION", CAPTURES),
        906 => ("CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", CAPTURE),
        908 => ("CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", CAPTURE),
        999 => ("CUDA_ERROR_UNKNOWN", "the system's log (dmesg) may say more"),
        _ => ("unnamed here", "see CUresult in cuda.h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_named_and_says_what_to_do() {
        assert!(check("cuInit", 0).is_ok());
        assert_eq!(
            check("cuMemAllocAsync", 2).unwrap_err().to_string(),
            "cuMemAllocAsync failed: CUDA_ERROR_OUT_OF_MEMORY (2); free device memory, or work on \
             less at a time"
        );
        assert_eq!(
            check("cuLaunchKernel", 1).unwrap_err().to_string(),
            "cuLaunchKernel failed: CUDA_ERROR_INVALID_VALUE (1)"
        );
        assert_eq!(
            check("cuLaunchKernel", 4_000_000_000).unwrap_err().to_string(),
            "cuLaunchKernel failed: unnamed here (4000000000); see CUresult in cuda.h"
        );
    }
}
