//! The CUDA driver, looked at before anything is asked of it.
//!
//! cudarc panics where the driver library is missing or a stub, so this probe comes first: it loads
//! the library by itself, looks for the functions this crate calls, and asks for version and
//! devices. Nothing here panics, whatever the library does short of crashing.
#![allow(unsafe_code)]

mod codes;

use std::error::Error as _;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::OnceLock;

use libloading::Library;

use crate::{Error, Result};

pub(crate) use codes::check;
use codes::{CUDA_ERROR_NO_DEVICE, CUDA_ERROR_STUB_LIBRARY};

/// The oldest driver API that works: CUDA 12.0, which driver 525 brought.
pub const OLDEST_VERSION: i32 = 12_000;
/// The oldest compute capability that the portable images run on.
pub const OLDEST_CAPABILITY: (u32, u32) = (8, 0);

/// In the order in which cudarc looks, so that the library probed is the one used later.
#[cfg(windows)]
const LIBRARIES: &[&str] = &["nvcuda.dll"];
#[cfg(not(windows))]
const LIBRARIES: &[&str] = &["libcuda.so", "libcuda.so.1"];

/// Every driver function that this crate calls, in the names of the library. cudarc panics at the
/// first call of a missing one.
const SYMBOLS: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxGetCurrent",
    "cuCtxPushCurrent_v2",
    "cuCtxPopCurrent_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamIsCapturing",
    "cuStreamWaitEvent",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemAllocAsync",
    "cuMemFreeAsync",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemsetD8Async",
    "cuMemGetAllocationGranularity",
    "cuMemAddressReserve",
    "cuMemAddressFree",
    "cuMemCreate",
    "cuMemRelease",
    "cuMemMap",
    "cuMemUnmap",
    "cuMemSetAccess",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventQuery",
    "cuEventSynchronize",
    "cuThreadExchangeStreamCaptureMode",
    "cuModuleLoadDataEx",
    "cuModuleGetFunction",
    "cuModuleUnload",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
];

/// What a working driver says of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverInfo {
    /// The library that was loaded.
    pub library: String,
    /// The newest CUDA version it supports, as `1000 * major + 10 * minor`.
    pub version: i32,
    /// Its devices, by ordinal; at least one.
    pub devices: Vec<DeviceInfo>,
}

impl DriverInfo {
    /// The device `ordinal`.
    ///
    /// # Errors
    /// [`Error::NoDevice`] past the last.
    pub fn device(&self, ordinal: usize) -> Result<&DeviceInfo> {
        self.devices.get(ordinal).ok_or_else(|| no_device(ordinal, self.devices.len()))
    }
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
    /// What its memory moves at most, by clock and width; 0 where the driver does not say.
    pub memory_bytes_per_second: u64,
}

impl DeviceInfo {
    /// Whether this crate has kernels for it.
    ///
    /// # Errors
    /// [`Error::UnsupportedDevice`] below compute capability 8.0.
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

/// A CUDA version as people write it: 12080 is 12.8.
pub(crate) struct Version(pub(crate) i32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 1000, self.0 % 1000 / 10)
    }
}

/// The newest PTX ISA that a driver for CUDA `version` (`1000 * major + 10 * minor`) compiles. For
/// a version newer than this crate, the newest it knows of.
pub fn ptx_ceiling(version: i32) -> (u32, u32) {
    let [major, minor] = [version / 1000, version % 1000 / 10].map(|n| n.max(0) as u32);
    match (major, minor) {
        (0..=10, _) => (6, 0),
        (11, _) => (7, minor),
        (12, 0..=5) => (8, minor),
        // CUDA 12.6 brought no new PTX.
        (12, _) => (8, minor - 1),
        (13, _) => (9, minor),
        _ => (9, 5),
    }
}

/// Loads the driver library and asks what it has, without cudarc. What a sound driver said is kept
/// for the process; a failure is looked at anew each time.
///
/// # Errors
/// [`Error::NoDriver`], [`Error::StubDriver`], [`Error::DriverTooOld`], [`Error::NoDevice`] where
/// the driver works and sees no device, or [`Error::Driver`] with the driver's own complaint.
pub fn probe() -> Result<DriverInfo> {
    static FOUND: OnceLock<DriverInfo> = OnceLock::new();
    match FOUND.get() {
        Some(info) => Ok(info.clone()),
        None => {
            let info = examine()?;
            Ok(FOUND.get_or_init(|| info).clone())
        }
    }
}

fn examine() -> Result<DriverInfo> {
    let (library, name) = load_library()?;
    // A driver starts threads of its own when it is initialised: it is never unloaded.
    let driver = Driver { library: ManuallyDrop::new(library), name };
    // An old driver is told from a stub by its version, before its missing functions are.
    let version = driver.version()?;
    if version < OLDEST_VERSION {
        return Err(Error::DriverTooOld { found: version, needed: OLDEST_VERSION });
    }
    for symbol in SYMBOLS {
        driver.find(symbol)?;
    }
    let n_devices = driver
        .init()
        .and_then(|()| driver.n_devices())
        .or_else(|error| if has_code(&error, CUDA_ERROR_NO_DEVICE) { Ok(0) } else { Err(error) })?;
    if n_devices == 0 {
        return Err(no_device(0, 0));
    }
    let devices = (0..n_devices).map(|ordinal| driver.device(ordinal)).collect::<Result<_>>()?;
    Ok(DriverInfo { library: name.to_owned(), version, devices })
}

fn has_code(error: &Error, expected: u32) -> bool {
    matches!(error, Error::Driver { code, .. } if *code == expected)
}

fn no_device(ordinal: usize, count: usize) -> Error {
    let hint = if count == 0 {
        "; check nvidia-smi, CUDA_VISIBLE_DEVICES, and the container's GPU access"
    } else {
        ""
    };
    Error::NoDevice { ordinal, count, hint }
}

fn load_library() -> Result<(Library, &'static str)> {
    let mut searched = Vec::with_capacity(LIBRARIES.len());
    for name in LIBRARIES {
        // SAFETY: the initialisers of a driver are sound to run, and what else the machine's owner
        // put in its place is the owner's word.
        match unsafe { Library::new(*name) } {
            Ok(library) => return Ok((library, name)),
            Err(error) => {
                let why = error.source().map(ToString::to_string).unwrap_or_default();
                let is_absent = why.is_empty() || why.contains("No such file");
                searched.push(if is_absent { name.to_string() } else { format!("{name} ({why})") });
            }
        }
    }
    Err(Error::NoDriver { searched: searched.join(", ") })
}

/// The few driver functions of the probe.
struct Driver {
    library: ManuallyDrop<Library>,
    name: &'static str,
}

impl Driver {
    fn find(&self, symbol: &str) -> Result<*const c_void> {
        // SAFETY: the address is only looked up here.
        let found = unsafe { self.library.get::<*const c_void>(symbol.as_bytes()) };
        match found {
            Ok(address) if !address.is_null() => Ok(*address),
            _ => Err(self.stub(format!("it has no {symbol}"))),
        }
    }

    fn stub(&self, reason: String) -> Error {
        Error::StubDriver { library: self.name.to_owned(), reason }
    }

    /// Calls a function that returns a `CUresult`.
    ///
    /// # Safety
    /// `F` is the C type of `symbol` in the driver API, and `call` calls it with valid arguments.
    unsafe fn call<F: Copy>(
        &self,
        symbol: &'static str,
        call: impl FnOnce(F) -> u32,
    ) -> Result<()> {
        let address = self.find(symbol)?;
        // SAFETY: a function's address has the size of a function pointer, whose type the caller
        // answers for.
        let function = unsafe { std::mem::transmute_copy::<*const c_void, F>(&address) };
        match call(function) {
            CUDA_ERROR_STUB_LIBRARY => Err(self.stub(format!("{symbol} says so"))),
            code => check(symbol, code),
        }
    }

    fn init(&self) -> Result<()> {
        // SAFETY: cuInit takes flags, which are zero.
        unsafe { self.call("cuInit", |f: unsafe extern "C" fn(u32) -> u32| f(0)) }
    }

    fn version(&self) -> Result<i32> {
        let mut version: c_int = 0;
        // SAFETY: it writes one int.
        unsafe {
            self.call("cuDriverGetVersion", |f: unsafe extern "C" fn(*mut c_int) -> u32| {
                f(&mut version)
            })
        }?;
        Ok(version)
    }

    fn n_devices(&self) -> Result<usize> {
        let mut count: c_int = 0;
        // SAFETY: it writes one int.
        unsafe {
            self.call("cuDeviceGetCount", |f: unsafe extern "C" fn(*mut c_int) -> u32| {
                f(&mut count)
            })
        }?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    fn attribute(&self, device: c_int, attribute: c_int) -> Result<u32> {
        type Ask = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> u32;
        let mut value: c_int = 0;
        // SAFETY: it writes one int.
        unsafe { self.call("cuDeviceGetAttribute", |f: Ask| f(&mut value, attribute, device)) }?;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    /// Twice a clock: memory of GPUs has double data rates.
    fn memory_bytes_per_second(&self, device: c_int) -> u64 {
        let [clock_khz, bus_bits] =
            [36, 37].map(|attribute| self.attribute(device, attribute).map_or(0, u64::from));
        2 * 1000 * clock_khz * bus_bits / 8
    }

    fn device(&self, ordinal: usize) -> Result<DeviceInfo> {
        type Find = unsafe extern "C" fn(*mut c_int, c_int) -> u32;
        type Name = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> u32;
        type Memory = unsafe extern "C" fn(*mut usize, c_int) -> u32;

        let mut device: c_int = 0;
        // SAFETY: it writes one int.
        unsafe { self.call("cuDeviceGet", |f: Find| f(&mut device, ordinal as c_int)) }?;

        let mut name = [0_u8; 256];
        let most = name.len() as c_int - 1;
        // SAFETY: it writes at most the bytes it is told of, which leave the last a zero.
        unsafe {
            self.call("cuDeviceGetName", |f: Name| f(name.as_mut_ptr().cast(), most, device))
        }?;
        let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();

        let mut memory_bytes = 0_usize;
        // SAFETY: it writes one size.
        unsafe { self.call("cuDeviceTotalMem_v2", |f: Memory| f(&mut memory_bytes, device)) }?;

        // The numbers are those of CUdevice_attribute in cuda.h.
        Ok(DeviceInfo {
            ordinal,
            name: name.to_string_lossy().into_owned(),
            capability: (self.attribute(device, 75)?, self.attribute(device, 76)?),
            memory_bytes: memory_bytes as u64,
            n_multiprocessors: self.attribute(device, 16)?,
            l2_bytes: self.attribute(device, 38)?.into(),
            shared_bytes_per_block: self.attribute(device, 97)?.into(),
            memory_bytes_per_second: self.memory_bytes_per_second(device),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_driver_compiles_the_ptx_of_its_toolkit() {
        for (version, ptx) in [
            (i32::MIN, (6, 0)),
            (0, (6, 0)),
            (11_080, (7, 8)),
            (12_000, (8, 0)),
            (12_040, (8, 4)),
            (12_050, (8, 5)),
            (12_060, (8, 5)),
            (12_080, (8, 7)),
            (12_090, (8, 8)),
            (13_000, (9, 0)),
            (13_050, (9, 5)),
            (i32::MAX, (9, 5)),
        ] {
            assert_eq!(ptx_ceiling(version), ptx, "CUDA {version}");
        }
    }

    /// cudarc looks a function up at its first call, and panics where there is none.
    #[test]
    fn every_function_the_crate_calls_is_looked_for_before() {
        let sources = [
            include_str!("device.rs"),
            include_str!("device/event.rs"),
            include_str!("device/range.rs"),
            include_str!("device/stream.rs"),
            include_str!("launch.rs"),
            include_str!("queue.rs"),
            include_str!("queue/handover.rs"),
        ];
        let mut n_calls = 0;
        for call in sources.iter().flat_map(|source| source.split("sys::cu").skip(1)) {
            let end = call.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(call.len());
            let name = format!("cu{}", &call[..end]);
            assert!(SYMBOLS.contains(&name.as_str()), "{name} is not in SYMBOLS");
            n_calls += 1;
        }
        assert!(n_calls >= 20, "the calls are looked for in the wrong place: {n_calls}");
    }
}
