//! A CUDA device, opened only after the driver was found sound.
#![allow(unsafe_code)]

use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

pub use cudarc;
use cudarc::driver::sys::{self, CUjit_option, CUresult};
use cudarc::driver::{CudaContext, CudaStream, DriverError};

use crate::driver::{self, DeviceInfo};
use crate::image::{self, Image};
use crate::queue::Queue;
use crate::{Error, Result};

/// Turns a result of cudarc's into ours, without asking cudarc to format it.
pub(crate) fn named<T>(call: &'static str, result: Result<T, DriverError>) -> Result<T> {
    result.map_err(|DriverError(code)| driver::driver_error(call, code as u32))
}

fn checked(call: &'static str, code: CUresult) -> Result<()> {
    named(call, code.result())
}

/// A CUDA device: its primary context, which engines on the same device share, and the kernels
/// loaded into it. Cloning is cheap and shares both.
#[derive(Debug, Clone)]
pub struct Device {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    context: Arc<CudaContext>,
    info: DeviceInfo,
    driver_version: i32,
    modules: Mutex<Vec<Module>>,
}

#[derive(Debug)]
struct Module {
    room: &'static str,
    handle: sys::CUmodule,
    functions: Vec<(&'static str, sys::CUfunction)>,
}

// SAFETY: module and function handles belong to the context, which any thread may make current.
unsafe impl Send for Module {}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_err() {
            return;
        }
        let modules = self.modules.get_mut().unwrap_or_else(PoisonError::into_inner);
        for module in modules.drain(..) {
            // SAFETY: loaded by `load` into the current context, unloaded once. A failure leaves
            // the module to the context, which frees it.
            let _ = unsafe { sys::cuModuleUnload(module.handle) };
        }
    }
}

impl Device {
    /// Opens device `ordinal` in its primary context.
    ///
    /// # Errors
    /// Everything [`driver::probe`] finds; [`Error::NoDevice`] for an ordinal the driver does not
    /// have, [`Error::UnsupportedDevice`] below compute capability 8.0.
    pub fn open(ordinal: usize) -> Result<Self> {
        let driver = driver::probe()?;
        let info = driver
            .devices
            .get(ordinal)
            .cloned()
            .ok_or_else(|| driver::no_device(ordinal, driver.devices.len()))?;
        info.check_supported()?;
        let context = named("cuDevicePrimaryCtxRetain", CudaContext::new(ordinal))?;
        let inner =
            Inner { context, info, driver_version: driver.version, modules: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What the driver says of it.
    pub fn info(&self) -> &DeviceInfo {
        &self.inner.info
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.info.name
    }

    /// Its primary context, for use with cudarc.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.inner.context
    }

    /// A new stream that does not wait for the legacy default stream.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn queue(&self) -> Result<Queue> {
        let stream = named("cuStreamCreate", self.inner.context.new_stream())?;
        Ok(Queue::cuda(CudaQueue { device: self.clone(), stream }))
    }

    /// An engine's stream, used and never destroyed. 0, 1 and 2 are the driver's default streams.
    ///
    /// # Safety
    /// `stream` is a stream of this device's primary context, and outlives the queue and every
    /// buffer allocated on it.
    pub unsafe fn borrow_stream(&self, stream: sys::CUstream) -> Queue {
        // SAFETY: passed on to the caller.
        let stream = unsafe { self.inner.context.wrap_borrowed_stream(stream) };
        Queue::cuda(CudaQueue { device: self.clone(), stream })
    }

    /// Loads every kernel now, so that no later launch loads one: needed once before launches are
    /// captured in a graph.
    ///
    /// # Errors
    /// [`Error::Image`] where no image loads, and [`Error::Driver`].
    pub fn warm_up(&self) -> Result<()> {
        for image in image::all() {
            for entry in image.entries {
                self.function(image.room, entry)?;
            }
        }
        Ok(())
    }

    /// The function of an entry, its room's image loaded at the first use.
    pub(crate) fn function(
        &self,
        room: &'static str,
        entry: &'static str,
    ) -> Result<sys::CUfunction> {
        let mut modules = self.inner.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = modules
            .iter()
            .filter(|module| module.room == room)
            .find_map(|module| module.functions.iter().find(|(name, _)| *name == entry))
        {
            return Ok(function.1);
        }
        let ceiling = driver::ptx_ceiling(self.inner.driver_version);
        let image = image::choose(image::all(), room, self.inner.info.capability, ceiling)?;
        named("cuCtxSetCurrent", self.inner.context.bind_to_thread())?;
        let module = self.load(image)?;
        let function = module.functions.iter().find(|(name, _)| *name == entry).map(|f| f.1);
        modules.push(module);
        function.ok_or_else(|| Error::Image {
            room,
            device: self.describe(),
            reason: format!("the image for {} has no kernel {entry}", image.target),
        })
    }

    fn describe(&self) -> String {
        format!(
            "{} (compute capability {}.{}, driver for CUDA {}.{})",
            self.name(),
            self.inner.info.capability.0,
            self.inner.info.capability.1,
            self.inner.driver_version / 1000,
            self.inner.driver_version % 1000 / 10
        )
    }

    fn load(&self, image: &Image) -> Result<Module> {
        let text = CString::new(image.text).map_err(|_| Error::Image {
            room: image.room,
            device: self.describe(),
            reason: "the image holds a zero byte".to_owned(),
        })?;
        let mut log = vec![0_u8; 8192];
        let mut options = [
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
        let mut handle = std::ptr::null_mut();
        // SAFETY: a terminated PTX text, two options with their values, and a log buffer of the
        // size given; all outlive the call.
        let code = unsafe {
            sys::cuModuleLoadDataEx(
                &mut handle,
                text.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        checked("cuModuleLoadDataEx", code).map_err(|error| {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            Error::Image {
                room: image.room,
                device: self.describe(),
                reason: format!(
                    "{} in PTX {}.{}: {error} {}",
                    image.target,
                    image.ptx_version.0,
                    image.ptx_version.1,
                    String::from_utf8_lossy(&log[..end]).trim()
                ),
            }
        })?;
        let mut module = Module { room: image.room, handle, functions: Vec::new() };
        for entry in image.entries {
            let mut function = std::ptr::null_mut();
            let found = CString::new(*entry).map_err(|_| ()).and_then(|name| {
                // SAFETY: the module was just loaded, and the name is terminated.
                let code =
                    unsafe { sys::cuModuleGetFunction(&mut function, handle, name.as_ptr()) };
                code.result().map_err(|_| ())
            });
            if found.is_ok() {
                module.functions.push((entry, function));
            }
        }
        Ok(module)
    }
}

/// A stream of a device.
#[derive(Debug, Clone)]
pub(crate) struct CudaQueue {
    device: Device,
    stream: Arc<CudaStream>,
}

impl CudaQueue {
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn raw_stream(&self) -> sys::CUstream {
        self.stream.cu_stream()
    }

    pub(crate) fn ordinal(&self) -> usize {
        self.device.inner.info.ordinal
    }

    fn make_current(&self) -> Result<()> {
        named("cuCtxSetCurrent", self.device.inner.context.bind_to_thread())
    }

    pub(crate) fn alloc_zeroed(&self, n_bytes: usize) -> Result<CudaMemory> {
        self.make_current()?;
        let mut address = 0;
        // An allocation of no bytes is an error to the driver, and a normal thing to callers.
        let n_bytes = n_bytes.max(1);
        // SAFETY: the context is current and the stream is one of it.
        let code = unsafe { sys::cuMemAllocAsync(&mut address, n_bytes, self.raw_stream()) };
        checked("cuMemAllocAsync", code)?;
        let memory = CudaMemory { queue: self.clone(), address };
        // SAFETY: the bytes were just allocated on this stream.
        let code = unsafe { sys::cuMemsetD8Async(address, 0, n_bytes, self.raw_stream()) };
        checked("cuMemsetD8Async", code)?;
        Ok(memory)
    }

    /// # Safety
    /// `n_bytes` from `address` are device memory that nothing else uses meanwhile.
    pub(crate) unsafe fn fill_zero(&self, address: u64, n_bytes: usize) -> Result<()> {
        self.make_current()?;
        // SAFETY: passed on to the caller.
        let code = unsafe { sys::cuMemsetD8Async(address, 0, n_bytes, self.raw_stream()) };
        checked("cuMemsetD8Async", code)
    }

    /// # Safety
    /// As many bytes from `address` are device memory that nothing else uses meanwhile.
    pub(crate) unsafe fn copy_in(&self, bytes: &[u8], address: u64) -> Result<()> {
        self.make_current()?;
        // SAFETY: passed on to the caller; the copy has ended when this returns.
        let code = unsafe {
            sys::cuMemcpyHtoDAsync_v2(
                address,
                bytes.as_ptr().cast(),
                bytes.len(),
                self.raw_stream(),
            )
        };
        checked("cuMemcpyHtoDAsync_v2", code)?;
        // The driver may still read pinned host memory after an asynchronous copy returns.
        self.synchronize()
    }

    /// # Safety
    /// As many bytes from `address` are device memory that nothing writes meanwhile.
    pub(crate) unsafe fn copy_out(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.make_current()?;
        // SAFETY: passed on to the caller; the copy has ended when this returns.
        let code = unsafe {
            sys::cuMemcpyDtoHAsync_v2(
                bytes.as_mut_ptr().cast(),
                address,
                bytes.len(),
                self.raw_stream(),
            )
        };
        checked("cuMemcpyDtoHAsync_v2", code)?;
        self.synchronize()
    }

    pub(crate) fn synchronize(&self) -> Result<()> {
        self.make_current()?;
        // SAFETY: the stream is alive.
        checked("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.raw_stream()) })
    }
}

/// Device memory of one allocation, freed in the order of its stream.
#[derive(Debug)]
pub(crate) struct CudaMemory {
    queue: CudaQueue,
    address: u64,
}

impl CudaMemory {
    pub(crate) fn ordinal(&self) -> usize {
        self.queue.ordinal()
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for CudaMemory {
    fn drop(&mut self) {
        if self.queue.make_current().is_ok() {
            // SAFETY: allocated on this stream and freed once. Drop has no way to report a failed
            // free; the next call on the stream reports what broke it.
            let _ = unsafe { sys::cuMemFreeAsync(self.address, self.queue.raw_stream()) };
        }
    }
}
