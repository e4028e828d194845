//! Devices, and queues on an engine's streams.

#[cfg(feature = "cuda")]
use std::ffi::{CString, c_char, c_void};

#[cfg(feature = "cuda")]
use super::abi::{borrow, owned_text, variable};
use super::abi::{free, give};
use super::status::{answer, lacuna_status};
#[cfg(feature = "cuda")]
use crate::device::Device;
use crate::queue::Queue;

/// A CUDA device in its primary context, which the CUDA runtime and every engine share, and the kernels that are loaded into it.
#[cfg(feature = "cuda")]
pub struct lacuna_device {
    pub(super) device: Device,
    name: CString,
}

/// Where functions launch kernels: a stream of the caller's.
pub struct lacuna_queue(pub(super) Queue);

/// Opens a device by the driver's number. Another call for the same device gives the same kernels. No context is current afterwards
/// that was not before.
///
/// Errors: `LACUNA_NO_DRIVER`, `LACUNA_STUB_DRIVER`, `LACUNA_DRIVER_TOO_OLD`, `LACUNA_NO_DEVICE`, `LACUNA_UNSUPPORTED_DEVICE`,
/// `LACUNA_DRIVER`.
#[cfg(feature = "cuda")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_device_open(
    ordinal: u32,
    device: *mut *mut lacuna_device,
) -> lacuna_status {
    // SAFETY: the caller's variable.
    answer(|| unsafe {
        give("device", device, || {
            let device = Device::open(ordinal as usize)?;
            Ok(lacuna_device { name: owned_text("the device's name", device.name())?, device })
        })
    })
}

/// Ends a device that was opened, after its queues; null is nothing.
#[cfg(feature = "cuda")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_device_free(device: *mut lacuna_device) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(device) }
}

/// Loads every kernel that the device can run, so that no later call loads one: needed once before launches are
/// captured in a graph, and what makes the first launch as quick as the next.
///
/// Errors: `LACUNA_IMAGE`, `LACUNA_DRIVER`.
#[cfg(feature = "cuda")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_device_warm_up(device: *const lacuna_device) -> lacuna_status {
    // SAFETY: the caller's handle.
    answer(|| Ok(unsafe { borrow("device", device) }?.device.warm_up()?))
}

/// The device's name, which is there until the device is freed.
///
/// Errors: `LACUNA_NULL`.
#[cfg(feature = "cuda")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_device_name(
    device: *const lacuna_device,
    name: *mut *const c_char,
) -> lacuna_status {
    // SAFETY: the caller's handle and variable.
    answer(|| unsafe {
        *variable("name", name)? = borrow("device", device)?.name.as_ptr();
        Ok(())
    })
}

/// A queue on a stream of the device's primary context: a `CUstream` or a `cudaStream_t`, which are the same. Null, 1 and 2
/// are the driver's default streams. No driver call; the stream must outlive the queue, which never destroys it.
///
/// Errors: `LACUNA_NULL`.
#[cfg(feature = "cuda")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_queue_on_stream(
    device: *const lacuna_device,
    stream: *mut c_void,
    queue: *mut *mut lacuna_queue,
) -> lacuna_status {
    // SAFETY: the caller's handle, variable and stream.
    answer(|| unsafe {
        give("queue", queue, || {
            Ok(lacuna_queue(borrow("device", device)?.device.borrow_stream(stream.cast())))
        })
    })
}

/// A queue that runs kernels on the CPU, in host memory, with every access checked: how a program is tested on a machine without
/// a GPU. Calls return when the kernel has ended.
#[cfg(feature = "simt")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_queue_simt(queue: *mut *mut lacuna_queue) -> lacuna_status {
    let config =
        crate::simt::Config { checks: crate::simt::Checks::ALL, ..crate::simt::Config::default() };
    // SAFETY: the caller's variable.
    answer(|| unsafe { give("queue", queue, || Ok(lacuna_queue(Queue::simt(config)))) })
}

/// Ends a queue; null is nothing. What was launched on its stream goes on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_queue_free(queue: *mut lacuna_queue) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(queue) }
}
