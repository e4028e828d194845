//! Devices, and queues on an engine's streams.

#[cfg(feature = "cuda")]
use std::ffi::{c_char, c_void};

#[cfg(feature = "cuda")]
use super::abi::{borrow, write_text};
use super::abi::{free, give};
use super::status::{answer, lacuna_status};
#[cfg(feature = "cuda")]
use crate::device::Device;
use crate::queue::Queue;

/// A CUDA device in its primary context, which the CUDA runtime and every engine share, and the kernels that are loaded into it.
#[cfg(feature = "cuda")]
pub struct lacuna_device(Device);

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
        give("device", device, || Ok(lacuna_device(Device::open(ordinal as usize)?)))
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
    answer(|| Ok(unsafe { borrow("device", device) }?.0.warm_up()?))
}

/// The device's name, into an array of `n_bytes`: as much as fits, and a zero byte. `len`, where it is not null, is set to
/// the name's bytes.
///
/// Errors: `LACUNA_NULL`.
#[cfg(feature = "cuda")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_device_name(
    device: *const lacuna_device,
    name: *mut c_char,
    n_bytes: u64,
    len: *mut u64,
) -> lacuna_status {
    // SAFETY: the caller's handle and memory.
    answer(|| unsafe {
        let found = write_text(borrow("device", device)?.0.name(), name, n_bytes);
        if !len.is_null() {
            len.write(found);
        }
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
            Ok(lacuna_queue(borrow("device", device)?.0.borrow_stream(stream.cast())))
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
