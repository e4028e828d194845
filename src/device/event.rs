//! A mark in the work of a stream.
#![allow(unsafe_code)]

use std::ptr::null_mut;

use cudarc::driver::sys;

use super::{Device, Stream, check};
use crate::Result;

/// An event without a time, of one device's context.
#[derive(Debug)]
pub(super) struct Event {
    device: Device,
    handle: sys::CUevent,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Event {}
// SAFETY: as above; the driver has its own locks.
unsafe impl Sync for Event {}

impl Event {
    pub(super) fn create(device: &Device) -> Result<Self> {
        let _entered = device.enter()?;
        let mut handle = null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: it writes one handle.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&mut handle, flags) })?;
        Ok(Self { device: device.clone(), handle })
    }

    pub(super) fn handle(&self) -> sys::CUevent {
        self.handle
    }

    /// Stands for what is queued now, on a stream of the same device.
    pub(super) fn record(&self, stream: &Stream) -> Result<()> {
        let _entered = self.device.enter()?;
        // SAFETY: event and stream are alive, and of one context.
        let code = unsafe { sys::cuEventRecord(self.handle, stream.handle()) };
        check("cuEventRecord", code)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(_entered) = self.device.enter_to_end() {
            // SAFETY: created once, and destroyed once; who waits for it, waits for what it stood for.
            let _ = unsafe { sys::cuEventDestroy_v2(self.handle) };
        }
    }
}
