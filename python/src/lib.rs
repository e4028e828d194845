//! The native part of the Python package `lacuna`: calls the C interface by a table, on memory that DLPack names.
#![allow(unsafe_code)]

mod call;
mod dlpack;
#[macro_use]
mod entries;
#[rustfmt::skip]
mod table;

use std::ffi::{CStr, c_char, c_void};
use std::ptr::null_mut;

use lacuna::capi::{self, lacuna_device, lacuna_queue, lacuna_status};
use pyo3::prelude::*;

/// What a handle of the C interface names, ended with this value.
#[pyclass(frozen)]
struct RawHandle {
    address: usize,
    of: &'static call::Handle,
    /// What was given to make it: memory that it uses stays.
    #[allow(dead_code, reason = "it lives as long as the handle")]
    keeps: Option<Py<PyAny>>,
}

impl RawHandle {
    fn address(&self) -> *mut c_void {
        std::ptr::with_exposed_provenance_mut(self.address)
    }
}

impl Drop for RawHandle {
    fn drop(&mut self) {
        (self.of.free)(self.address());
    }
}

/// A CUDA device in its primary context, which PyTorch and CuPy share.
#[pyclass(frozen)]
struct Device {
    handle: RawHandle,
    #[pyo3(get)]
    ordinal: u32,
}

/// Where calls launch: a stream of the caller's.
#[pyclass(frozen)]
struct Queue {
    handle: RawHandle,
    /// The CUDA device whose memory it works on; none of the executor.
    #[pyo3(get)]
    ordinal: Option<u32>,
}

#[pymethods]
impl Device {
    /// Opens a device by the driver's number.
    #[new]
    #[pyo3(signature = (ordinal = 0))]
    fn new(ordinal: u32) -> PyResult<Self> {
        let mut device: *mut lacuna_device = null_mut();
        // SAFETY: a variable of ours.
        check(unsafe { capi::lacuna_device_open(ordinal, &mut device) })?;
        Ok(Self { handle: handle("lacuna_device", device.cast())?, ordinal })
    }

    /// Its name.
    #[getter]
    fn name(&self) -> PyResult<String> {
        let mut name: *const c_char = std::ptr::null();
        let device = self.handle.address().cast_const().cast();
        // SAFETY: the handle is a device's, and the variable ours.
        check(unsafe { capi::lacuna_device_name(device, &mut name) })?;
        Ok(text(name))
    }

    /// Loads every kernel that the device can run: before the first capture of a graph, and for quick first calls.
    fn warm_up(&self, py: Python<'_>) -> PyResult<()> {
        let device = self.handle.address().expose_provenance();
        let status = py.detach(|| {
            let device = std::ptr::with_exposed_provenance::<lacuna_device>(device);
            // SAFETY: the handle is a device's.
            unsafe { capi::lacuna_device_warm_up(device) }
        });
        check(status)
    }

    /// A queue on a stream by its handle, as `torch.cuda.current_stream().cuda_stream` and `cupy.cuda.get_current_stream().ptr` are;
    /// the stream must outlive it.
    fn queue(&self, stream: usize) -> PyResult<Queue> {
        let mut queue: *mut lacuna_queue = null_mut();
        let device = self.handle.address().cast_const().cast();
        let stream = std::ptr::with_exposed_provenance_mut(stream);
        // SAFETY: the handle is a device's, the stream the caller's, and the variable ours.
        check(unsafe { capi::lacuna_queue_on_stream(device, stream, &mut queue) })?;
        Ok(Queue { handle: handle("lacuna_queue", queue.cast())?, ordinal: Some(self.ordinal) })
    }

    fn __repr__(&self) -> PyResult<String> {
        Ok(format!("<lacuna.Device {} ({})>", self.ordinal, self.name()?))
    }
}

#[pymethods]
impl Queue {
    /// A queue that runs kernels on the CPU with every access checked, on NumPy's arrays: for tests, in a package that was built with the
    /// feature `simt`.
    #[cfg(feature = "simt")]
    #[staticmethod]
    fn simt() -> PyResult<Self> {
        let mut queue: *mut lacuna_queue = null_mut();
        // SAFETY: a variable of ours.
        check(unsafe { capi::lacuna_queue_simt(&mut queue) })?;
        Ok(Self { handle: handle("lacuna_queue", queue.cast())?, ordinal: None })
    }

    fn __repr__(&self) -> String {
        match self.ordinal {
            Some(ordinal) => format!("<lacuna.Queue of CUDA device {ordinal}>"),
            None => "<lacuna.Queue of the SIMT executor>".to_owned(),
        }
    }
}

fn handle(name: &'static str, address: *mut c_void) -> PyResult<RawHandle> {
    Ok(RawHandle {
        address: address.expose_provenance(),
        of: call::find_handle(name)?,
        keeps: None,
    })
}

/// Makes an exception of a status, the one that the package defines.
fn check(status: lacuna_status) -> PyResult<()> {
    if status == lacuna_status::LACUNA_OK {
        return Ok(());
    }
    Python::attach(|py| {
        let (message, driver_code) = last_error();
        let error = py.import("lacuna._base")?.getattr("Error")?;
        Err(PyErr::from_value(error.call1((status as u32, message, driver_code))?))
    })
}

/// What the C interface says of the thread's last failure.
fn last_error() -> (String, u32) {
    // SAFETY: a string of this thread's, which nothing replaces meanwhile.
    let message = unsafe { CStr::from_ptr(capi::lacuna_error_message()) };
    (message.to_string_lossy().into_owned(), capi::lacuna_error_driver_code())
}

fn text(text: *const c_char) -> String {
    // SAFETY: the interface's texts end with a zero byte and stay.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[pymodule]
mod _lacuna {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::call::call;
    #[pymodule_export]
    use super::{Device, Queue, RawHandle};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", super::text(super::capi::lacuna_version()))?;
        module.add("has_simt", cfg!(feature = "simt"))
    }
}
