//! A CUDA device, opened only after the driver was found sound.
#![allow(unsafe_code)]

mod event;
mod range;
mod stream;

use std::ffi::{CString, c_void};
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

pub use cudarc;
use cudarc::driver::sys::{self, CUfunction_attribute, CUjit_option, CUresult};

use crate::driver::{self, DeviceInfo};
use crate::image::{self, Image};
use crate::queue::Queue;
use crate::{Error, Result};

pub(crate) use range::AddressRange;
pub(crate) use stream::{DeviceMemory, PinnedMemory, Stream};

/// Our name of a driver's answer: cudarc would ask the library for one, and panic where it has
/// none.
pub(crate) fn check(call: &'static str, code: CUresult) -> Result<()> {
    driver::check(call, code as u32)
}

/// A CUDA device: its primary context, which every engine on the device shares, and the kernels
/// loaded into it. A clone, or another `open` of the same device, is the same value.
#[derive(Debug, Clone)]
pub struct Device {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    info: DeviceInfo,
    driver_version: i32,
    handle: sys::CUdevice,
    context: sys::CUcontext,
    has_memory_pools: bool,
    /// One for each of [`image::all`], set when the image is first used.
    modules: Vec<OnceLock<Module>>,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Inner {}
// SAFETY: as above; the driver has its own locks.
unsafe impl Sync for Inner {}

#[derive(Debug)]
struct Module {
    handle: sys::CUmodule,
    functions: Vec<(&'static str, Function)>,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Module {}
// SAFETY: as above; nothing here changes once it is made.
unsafe impl Sync for Module {}

/// A loaded kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Function {
    pub(crate) handle: sys::CUfunction,
    /// The most dynamic shared memory a block of it can have.
    pub(crate) dynamic_shared_bytes: u32,
    /// Whether its image is compiled for clusters of blocks.
    pub(crate) has_clusters: bool,
}

/// A context made current on this thread; dropping it puts back what was there.
pub(crate) struct Entered {
    /// It, where another one was current.
    pushed: Option<sys::CUcontext>,
    /// What is current belongs to a thread.
    not_send: PhantomData<*const ()>,
}

impl Entered {
    fn enter(context: sys::CUcontext) -> Result<Self> {
        let mut current = null_mut();
        // SAFETY: it writes one handle.
        check("cuCtxGetCurrent", unsafe { sys::cuCtxGetCurrent(&mut current) })?;
        let mut entered = Self { pushed: None, not_send: PhantomData };
        if current != context {
            // SAFETY: the primary context is retained for as long as the device is open.
            let code = unsafe { sys::cuCtxPushCurrent_v2(context) };
            check("cuCtxPushCurrent", code).inspect_err(|_| take_back(context))?;
            entered.pushed = Some(context);
        }
        Ok(entered)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let Some(context) = self.pushed else { return };
        let mut popped = null_mut();
        // SAFETY: pops what `enter` pushed.
        let code = unsafe { sys::cuCtxPopCurrent_v2(&mut popped) };
        if check("cuCtxPopCurrent", code).is_err() {
            take_back(context);
        }
    }
}

/// Pops a context, which was not current before, if it is now. The driver may answer any call by what an earlier launch
/// did, so an error does not say that nothing was pushed or popped; what is current does.
fn take_back(context: sys::CUcontext) {
    let mut current = null_mut();
    // SAFETY: each writes one handle. What fails here too can be reported by the next call alone.
    unsafe {
        let _ = sys::cuCtxGetCurrent(&mut current);
        if current == context {
            let _ = sys::cuCtxPopCurrent_v2(&mut current);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Ok(_entered) = self.enter_to_end() {
            for module in self.modules.drain(..).filter_map(OnceLock::into_inner) {
                module.unload();
            }
        }
        // SAFETY: retained once by `open`. A failure leaves the context to the end of the process.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.handle) };
    }
}

impl Device {
    /// Opens device `ordinal` in its primary context. The calling thread's current context stays
    /// what it was.
    ///
    /// # Errors
    /// Everything [`driver::probe`] finds; [`Error::NoDevice`] for an ordinal the driver does not
    /// have, [`Error::UnsupportedDevice`] below compute capability 8.0, [`Error::Driver`] where the
    /// context cannot be made.
    pub fn open(ordinal: usize) -> Result<Self> {
        static OPEN: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());
        let driver = driver::probe()?;
        let info = driver.device(ordinal)?;
        info.check_supported()?;

        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|device| device.strong_count() > 0);
        if let Some(inner) =
            open.iter().filter_map(Weak::upgrade).find(|inner| inner.info.ordinal == ordinal)
        {
            return Ok(Self { inner });
        }
        let inner = Arc::new(Inner::retain(info.clone(), driver.version)?);
        open.push(Arc::downgrade(&inner));
        Ok(Self { inner })
    }

    /// What the driver says of it.
    pub fn info(&self) -> &DeviceInfo {
        &self.inner.info
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.info.name
    }

    /// Its primary context. It stays retained for as long as this value or a clone of it lives.
    pub fn context(&self) -> sys::CUcontext {
        self.inner.context
    }

    /// A new stream, which does not wait for the legacy default stream.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn queue(&self) -> Result<Queue> {
        Stream::create(self).map(Queue::cuda)
    }

    /// An engine's stream, used and never destroyed. Null, 1 and 2 are the driver's default
    /// streams.
    ///
    /// # Safety
    /// `stream` is a stream of this device's primary context, and outlives the queue, its clones
    /// and every buffer allocated on it or [adopted](Queue::adopt) by it. Of 2, which is another stream in
    /// each thread, all these stay in one thread.
    pub unsafe fn borrow_stream(&self, stream: sys::CUstream) -> Queue {
        Queue::cuda(Stream::borrow(self, stream))
    }

    /// Loads every kernel that the device can run now, so that no later launch loads one: needed once before launches are
    /// captured in a graph.
    ///
    /// # Errors
    /// [`Error::Image`] where no image loads, and [`Error::Driver`].
    pub fn warm_up(&self) -> Result<()> {
        let _entered = self.enter()?;
        let ceiling = driver::ptx_ceiling(self.inner.driver_version);
        for room in image::rooms() {
            for image in image::choose_all(room, self.inner.info.capability, ceiling)? {
                self.module(place(image), image)?;
            }
        }
        Ok(())
    }

    /// Makes the context current on this thread, until the answer is dropped.
    pub(crate) fn enter(&self) -> Result<Entered> {
        self.inner.enter()
    }

    /// The same to end something, when nobody can be told that it was not ended: asks twice.
    pub(crate) fn enter_to_end(&self) -> Result<Entered> {
        self.inner.enter_to_end()
    }

    /// A kernel, for a launch on `stream`; its image is loaded at the first use. The context is
    /// current.
    ///
    /// # Safety
    /// `stream` is a live stream of the context.
    pub(crate) unsafe fn function(
        &self,
        room: &'static str,
        entry: &'static str,
        stream: sys::CUstream,
    ) -> Result<Function> {
        let (idx, image) = self.choose(room, entry)?;
        let module = match self.inner.modules[idx].get() {
            Some(module) => module,
            None => {
                let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
                // SAFETY: the stream is a live one, by the caller's word.
                let code = unsafe { sys::cuStreamIsCapturing(stream, &mut status) };
                check("cuStreamIsCapturing", code)?;
                if status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
                    let code = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
                    check("cuModuleLoadDataEx", code)?;
                }
                self.module(idx, image)?
            }
        };
        module.functions.iter().find(|(name, _)| *name == entry).map(|(_, f)| *f).ok_or_else(|| {
            self.image_error(image, format!("the image for {} has no {entry}", image.target))
        })
    }

    /// The image for a kernel, of those that hold it, and its place in [`image::all`].
    fn choose(&self, room: &'static str, entry: &str) -> Result<(usize, &'static Image)> {
        let ceiling = driver::ptx_ceiling(self.inner.driver_version);
        let chosen = image::choose_for(room, entry, self.inner.info.capability, ceiling)?;
        Ok((place(chosen), chosen))
    }

    /// An image's module, loaded if it is not. The context is current.
    fn module(&self, idx: usize, image: &Image) -> Result<&Module> {
        let slot = &self.inner.modules[idx];
        if slot.get().is_none() {
            // No lock is held across the driver's compilation. Where two threads load at once, one
            // module is kept.
            if let Err(surplus) = slot.set(self.load(image)?) {
                surplus.unload();
            }
        }
        slot.get().ok_or_else(|| self.image_error(image, "not loaded".to_owned()))
    }

    fn load(&self, image: &Image) -> Result<Module> {
        let has_zero = |_| self.image_error(image, "the image holds a zero byte".to_owned());
        let text = CString::new(image.text).map_err(has_zero)?;
        let mut log = vec![0_u8; 8192];
        let mut options = [
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        // The size is the value itself, in the place of a pointer.
        let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
        let mut handle = null_mut();
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
        check("cuModuleLoadDataEx", code).map_err(|error| {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            let (major, minor) = image.ptx_version;
            let mut reason = format!("{} in PTX {major}.{minor}: {error}", image.target);
            if code == CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION {
                let ceiling = driver::ptx_ceiling(self.inner.driver_version);
                reason += &format!("; the driver supports PTX up to {}.{}", ceiling.0, ceiling.1);
            }
            if end > 0 {
                reason += &format!("; {}", String::from_utf8_lossy(&log[..end]).trim());
            }
            self.image_error(image, reason)
        })?;
        let mut module = Module { handle, functions: Vec::with_capacity(image.entries.len()) };
        for entry in image.entries {
            match self.load_function(handle, image, entry) {
                Ok(function) => module.functions.push((entry, function)),
                Err(error) => {
                    module.unload();
                    return Err(error);
                }
            }
        }
        Ok(module)
    }

    fn load_function(&self, module: sys::CUmodule, image: &Image, entry: &str) -> Result<Function> {
        let named = |error| self.image_error(image, format!("kernel {entry}: {error}"));
        let name = CString::new(entry).map_err(|_| named("a zero byte in its name".to_owned()))?;
        let mut handle = null_mut();
        // SAFETY: a live module and a terminated name.
        let code = unsafe { sys::cuModuleGetFunction(&mut handle, module, name.as_ptr()) };
        check("cuModuleGetFunction", code).map_err(|error| named(error.to_string()))?;

        let mut static_shared_bytes = 0;
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        // SAFETY: it writes one int.
        let code = unsafe { sys::cuFuncGetAttribute(&mut static_shared_bytes, attribute, handle) };
        check("cuFuncGetAttribute", code)?;
        let most = i32::try_from(self.inner.info.shared_bytes_per_block).unwrap_or(i32::MAX);
        let dynamic_shared_bytes = most.saturating_sub(static_shared_bytes).max(0);
        // Set here for the largest launch, so that no launch has to.
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: a live function.
        let code = unsafe { sys::cuFuncSetAttribute(handle, attribute, dynamic_shared_bytes) };
        check("cuFuncSetAttribute", code)?;
        let has_clusters = image.has_clusters();
        if has_clusters {
            let attribute =
                CUfunction_attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
            // SAFETY: a live function. Where it is refused, so are launches of more than 8 blocks.
            let _ = unsafe { sys::cuFuncSetAttribute(handle, attribute, 1) };
        }
        Ok(Function { handle, dynamic_shared_bytes: dynamic_shared_bytes as u32, has_clusters })
    }

    fn image_error(&self, image: &Image, reason: String) -> Error {
        let info = &self.inner.info;
        let (major, minor) = info.capability;
        let version = driver::Version(self.inner.driver_version);
        let device = format!(
            "{} (compute capability {major}.{minor}, driver for CUDA {version})",
            info.name
        );
        Error::Image { room: image.room, device, reason }
    }
}

/// Where in [`image::all`] it is.
fn place(chosen: &'static Image) -> usize {
    image::all().iter().position(|image| std::ptr::eq(image, chosen)).unwrap_or(0)
}

impl Inner {
    fn enter(&self) -> Result<Entered> {
        Entered::enter(self.context)
    }

    fn enter_to_end(&self) -> Result<Entered> {
        self.enter().or_else(|_| self.enter())
    }

    fn retain(info: DeviceInfo, driver_version: i32) -> Result<Self> {
        // SAFETY: cuInit may be called any number of times.
        check("cuInit", unsafe { sys::cuInit(0) })?;
        let mut handle = 0;
        let ordinal = info.ordinal as i32;
        // SAFETY: it writes one handle.
        check("cuDeviceGet", unsafe { sys::cuDeviceGet(&mut handle, ordinal) })?;
        let mut has_memory_pools = 0;
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED;
        // SAFETY: it writes one int.
        let code = unsafe { sys::cuDeviceGetAttribute(&mut has_memory_pools, attribute, handle) };
        check("cuDeviceGetAttribute", code)?;
        let mut context = null_mut();
        // SAFETY: it writes one handle; released when this value is dropped.
        let code = unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, handle) };
        check("cuDevicePrimaryCtxRetain", code)?;
        Ok(Self {
            info,
            driver_version,
            handle,
            context,
            has_memory_pools: has_memory_pools > 0,
            modules: image::all().iter().map(|_| OnceLock::new()).collect(),
        })
    }
}

impl Module {
    /// Unloads it from the current context.
    fn unload(self) {
        // SAFETY: loaded once, into this context, and unloaded once. A failure leaves the module
        // to the context, which frees it.
        let _ = unsafe { sys::cuModuleUnload(self.handle) };
    }
}
