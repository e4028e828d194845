//! The CUDA driver, looked at before anything is asked of it.
//!
//! cudarc panics where the driver library is missing or a stub, so this probe comes first: it loads
//! the library by itself, looks for the functions this crate calls, and asks for version and
//! devices.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};

use libloading::{Library, Symbol};

use crate::{Error, Result};

/// The oldest driver API that works: CUDA 12.0, which driver 525 brought.
pub const OLDEST_VERSION: i32 = 12_000;
/// The oldest compute capability that the portable images run on.
pub const OLDEST_CAPABILITY: (u32, u32) = (8, 0);

#[cfg(windows)]
const LIBRARIES: &[&str] = &["nvcuda.dll"];
#[cfg(not(windows))]
const LIBRARIES: &[&str] = &["libcuda.so.1", "libcuda.so"];

/// Functions that every driver since CUDA 12.0 has and that this crate, or cudarc on its way,
/// calls. A library without them is a stub.
const SYMBOLS: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuMemAllocAsync",
    "cuMemFreeAsync",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemsetD8Async",
    "cuModuleLoadDataEx",
    "cuModuleGetFunction",
    "cuModuleUnload",
    "cuLaunchKernel",
];

/// What a working driver says of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverInfo {
    /// The library that was loaded.
    pub library: String,
    /// The newest CUDA version it supports, as `1000 * major + 10 * minor`.
    pub version: i32,
    /// Its devices, by ordinal.
    pub devices: Vec<DeviceInfo>,
}

/// What the driver says of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The driver's number for it.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Its compute capability.
    pub capability: (u32, u32),
    /// Its memory.
    pub memory_bytes: u64,
    /// Its streaming multiprocessors.
    pub n_multiprocessors: u32,
    /// Its level-2 cache.
    pub l2_bytes: u64,
    /// The most shared memory a block can ask for.
    pub shared_bytes_per_block: u64,
}

impl DeviceInfo {
    /// # Errors
    /// [`Error::UnsupportedDevice`] where no image of this crate runs on it.
    pub fn check_supported(&self) -> Result<()> {
        if self.capability >= OLDEST_CAPABILITY {
            return Ok(());
        }
        Err(Error::UnsupportedDevice {
            ordinal: self.ordinal,
            name: self.name.clone(),
            found: self.capability,
            needed: OLDEST_CAPABILITY,
        })
    }
}

/// The newest PTX ISA that a driver of CUDA `version` compiles.
pub fn ptx_ceiling(version: i32) -> (u32, u32) {
    let (major, minor) = (version / 1000, version % 1000 / 10);
    match (major, minor) {
        (..12, _) => (7, 8),
        (12, 0..=5) => (8, minor as u32),
        (12, 6) => (8, 5),
        (12, minor) => (8, minor as u32 - 1),
        (major, minor) => (major as u32 - 4, minor as u32),
    }
}

/// Loads the driver library and asks what it has, without cudarc.
///
/// # Errors
/// [`Error::NoDriver`], [`Error::StubDriver`], [`Error::DriverTooOld`], or [`Error::NoDevice`] for
/// device 0 where the driver works and sees none.
pub fn probe() -> Result<DriverInfo> {
    let (library, name) = load_library()?;
    let stub = |reason: String| Error::StubDriver { library: name.to_owned(), reason };
    for symbol in SYMBOLS {
        // SAFETY: the symbol is only looked for, not called.
        if unsafe { library.get::<*const c_void>(symbol.as_bytes()) }.is_err() {
            return Err(stub(format!("it has no {symbol}")));
        }
    }
    let driver = Driver(&library);
    // The version needs no initialisation, and an old driver may fail that for its age alone.
    let version = driver.version()?;
    if version < OLDEST_VERSION {
        return Err(Error::DriverTooOld { found: version, needed: OLDEST_VERSION });
    }
    match driver.init() {
        CUDA_SUCCESS => {}
        CUDA_ERROR_STUB_LIBRARY => return Err(stub("cuInit says so".to_owned())),
        CUDA_ERROR_NO_DEVICE => return Err(no_device(0, 0)),
        code => return Err(driver_error("cuInit", code)),
    }
    let n_devices = driver.device_count()?;
    if n_devices == 0 {
        return Err(no_device(0, 0));
    }
    let devices = (0..n_devices).map(|ordinal| driver.device(ordinal)).collect::<Result<_>>()?;
    Ok(DriverInfo { library: name.to_owned(), version, devices })
}

pub(crate) fn no_device(ordinal: usize, count: usize) -> Error {
    let hint = if count == 0 {
        "; check nvidia-smi, CUDA_VISIBLE_DEVICES, and the container's GPU access"
    } else {
        ""
    };
    Error::NoDevice { ordinal, count, hint }
}

fn load_library() -> Result<(Library, &'static str)> {
    for name in LIBRARIES {
        // SAFETY: the driver's initialisers are sound to run; so must be whatever the machine's
        // owner put in its place.
        if let Ok(library) = unsafe { Library::new(*name) } {
            return Ok((library, name));
        }
    }
    Err(Error::NoDriver { searched: LIBRARIES.join(", ") })
}

const CUDA_SUCCESS: u32 = 0;
const CUDA_ERROR_STUB_LIBRARY: u32 = 34;
const CUDA_ERROR_NO_DEVICE: u32 = 100;

/// The few driver functions of the probe. Every symbol was looked for before.
struct Driver<'a>(&'a Library);

impl Driver<'_> {
    fn call<F: Copy, R>(&self, name: &'static str, call: impl FnOnce(F) -> R) -> Result<R> {
        // SAFETY: `F` is the function's C type, as the CUDA driver API documents it.
        let symbol: Symbol<'_, F> = unsafe { self.0.get(name.as_bytes()) }
            .map_err(|_| driver_error(name, CUDA_ERROR_STUB_LIBRARY))?;
        Ok(call(*symbol))
    }

    fn init(&self) -> u32 {
        // SAFETY: cuInit takes no pointer.
        self.call("cuInit", |f: unsafe extern "C" fn(u32) -> u32| unsafe { f(0) })
            .unwrap_or(CUDA_ERROR_STUB_LIBRARY)
    }

    fn version(&self) -> Result<i32> {
        self.int("cuDriverGetVersion")
    }

    fn device_count(&self) -> Result<usize> {
        Ok(usize::try_from(self.int("cuDeviceGetCount")?).unwrap_or(0))
    }

    fn int(&self, name: &'static str) -> Result<i32> {
        let mut value: c_int = 0;
        let code = self.call(name, |f: unsafe extern "C" fn(*mut c_int) -> u32| {
            // SAFETY: both functions write one int.
            unsafe { f(&mut value) }
        })?;
        check(name, code).map(|()| value)
    }

    fn attribute(&self, device: c_int, attribute: c_int) -> Result<u32> {
        let mut value: c_int = 0;
        let code = self.call(
            "cuDeviceGetAttribute",
            |f: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> u32| {
                // SAFETY: it writes one int.
                unsafe { f(&mut value, attribute, device) }
            },
        )?;
        check("cuDeviceGetAttribute", code)?;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    fn device(&self, ordinal: usize) -> Result<DeviceInfo> {
        let mut device: c_int = 0;
        let code =
            self.call("cuDeviceGet", |f: unsafe extern "C" fn(*mut c_int, c_int) -> u32| {
                // SAFETY: it writes one int.
                unsafe { f(&mut device, ordinal as c_int) }
            })?;
        check("cuDeviceGet", code)?;

        let mut name: [c_char; 256] = [0; 256];
        let code = self.call(
            "cuDeviceGetName",
            |f: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> u32| {
                // SAFETY: it writes at most 255 bytes here; the last stays zero.
                unsafe { f(name.as_mut_ptr(), 255, device) }
            },
        )?;
        check("cuDeviceGetName", code)?;
        // SAFETY: the last byte is zero.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();

        let mut memory_bytes = 0_usize;
        let code = self.call(
            "cuDeviceTotalMem_v2",
            |f: unsafe extern "C" fn(*mut usize, c_int) -> u32| {
                // SAFETY: it writes one size.
                unsafe { f(&mut memory_bytes, device) }
            },
        )?;
        check("cuDeviceTotalMem_v2", code)?;

        Ok(DeviceInfo {
            ordinal,
            name,
            // The numbers of CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and so on in cuda.h.
            capability: (self.attribute(device, 75)?, self.attribute(device, 76)?),
            memory_bytes: memory_bytes as u64,
            n_multiprocessors: self.attribute(device, 16)?,
            l2_bytes: self.attribute(device, 38)?.into(),
            shared_bytes_per_block: self.attribute(device, 97)?.into(),
        })
    }
}

fn check(call: &'static str, code: u32) -> Result<()> {
    if code == CUDA_SUCCESS { Ok(()) } else { Err(driver_error(call, code)) }
}

/// A failed driver call, named from our own table: cudarc asks the library for the name, and
/// panics where it has none.
pub(crate) fn driver_error(call: &'static str, code: u32) -> Error {
    let (name, hint) = match code {
        1 => ("invalid value", ""),
        2 => ("out of memory", "; free device memory, or decode fewer groups at a time"),
        3 => ("not initialized", ""),
        34 => ("stub library", "; the real libcuda must come first in LD_LIBRARY_PATH"),
        46 => ("device unavailable", "; another process holds it in exclusive mode"),
        100 => ("no device", "; check nvidia-smi and CUDA_VISIBLE_DEVICES"),
        101 => ("invalid device", ""),
        200 => ("invalid image", ""),
        201 => ("invalid context", ""),
        209 => ("no binary for this GPU", ""),
        218 => ("invalid PTX", ""),
        221 => ("no JIT compiler", "; the driver's libnvidia-ptxjitcompiler is missing"),
        222 => ("unsupported PTX version", "; update the driver"),
        400 => ("invalid handle", ""),
        500 => ("not found", ""),
        700 => ("illegal address", "; an earlier launch of the process left its buffers"),
        701 => ("launch out of resources", ""),
        716 => ("misaligned address", "; an earlier launch of the process is at fault"),
        719 => ("launch failed", "; an earlier launch of the process is at fault"),
        900 => ("stream capture unsupported", "; warm the device up before capturing"),
        901 => ("stream capture invalidated", ""),
        999 => ("unknown", ""),
        _ => ("see CUresult in cuda.h", ""),
    };
    Error::Driver { call, code, name: name.to_owned(), hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_driver_compiles_the_ptx_of_its_toolkit() {
        for (version, ptx) in [
            (11_080, (7, 8)),
            (12_000, (8, 0)),
            (12_040, (8, 4)),
            (12_050, (8, 5)),
            (12_060, (8, 5)),
            (12_080, (8, 7)),
            (12_090, (8, 8)),
            (13_000, (9, 0)),
            (13_050, (9, 5)),
        ] {
            assert_eq!(ptx_ceiling(version), ptx, "CUDA {version}");
        }
    }
}
