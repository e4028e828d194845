//! A stream of a device, and memory in its order. Every call here leaves the calling thread's
//! current context as it was.
#![allow(unsafe_code)]

use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys;

use super::event::Event;
use super::{Device, check};
use crate::Result;
use crate::buffer::{Memory, Origin};

/// A stream, ours or an engine's. A clone is the same stream.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    device: Device,
    handle: sys::CUstream,
    /// An engine's stream is not ours to destroy.
    is_owned: bool,
    unawaited: Mutex<Vec<Unawaited>>,
}

/// A stream whose work with memory of another's could be neither ordered nor waited for.
#[derive(Debug, Clone)]
struct Unawaited {
    stream: Stream,
    /// Of this once that it was so.
    id: u64,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Inner {}
// SAFETY: as above; the driver has its own locks.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.is_owned {
            return;
        }
        if let Ok(_entered) = self.device.enter_to_end() {
            // SAFETY: created once, and destroyed once. The driver lets queued work end first.
            let _ = unsafe { sys::cuStreamDestroy_v2(self.handle) };
        }
    }
}

impl Stream {
    pub(super) fn create(device: &Device) -> Result<Self> {
        let _entered = device.enter()?;
        let mut handle = null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: it writes one handle.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&mut handle, flags) })?;
        Ok(Self::of(device, handle, true))
    }

    pub(super) fn borrow(device: &Device, handle: sys::CUstream) -> Self {
        Self::of(device, handle, false)
    }

    fn of(device: &Device, handle: sys::CUstream, is_owned: bool) -> Self {
        let unawaited = Mutex::default();
        Self { inner: Arc::new(Inner { device: device.clone(), handle, is_owned, unawaited }) }
    }

    pub(crate) fn device(&self) -> &Device {
        &self.inner.device
    }

    pub(crate) fn handle(&self) -> sys::CUstream {
        self.inner.handle
    }

    pub(crate) fn origin(&self) -> Origin {
        Origin {
            memory: Memory::Cuda(self.device().info().ordinal),
            stream: Some(self.handle().addr()),
            is_pinned: false,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.origin() == other.origin()
    }

    /// Has what is queued here from now on begin after what is queued on the other now.
    pub(crate) fn wait_for(&self, other: &Self) -> Result<()> {
        if self.is_same(other) {
            return Ok(());
        }
        other.settle()?;
        let event = Event::create(other.device())?;
        event.record(other)?;
        let _entered = self.device().enter()?;
        // SAFETY: stream and event are alive; they may be of two contexts.
        let code = unsafe { sys::cuStreamWaitEvent(self.handle(), event.handle(), 0) };
        check("cuStreamWaitEvent", code)
    }

    fn unawaited(&self) -> MutexGuard<'_, Vec<Unawaited>> {
        self.inner.unawaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that the other's work, and what that remembers, may still use this one's memory.
    pub(crate) fn remember(&self, other: &Self) {
        static N_TIMES: AtomicU64 = AtomicU64::new(0);
        let mut others: Vec<_> =
            other.unawaited().iter().map(|known| known.stream.clone()).collect();
        others.push(other.clone());
        let mut own = self.unawaited();
        for stream in others.into_iter().filter(|other| !self.is_same(other)) {
            own.retain(|known| !known.stream.is_same(&stream));
            own.push(Unawaited { stream, id: N_TIMES.fetch_add(1, Ordering::Relaxed) });
        }
    }

    /// Waits for all that is remembered, and forgets it: where that fails, memory of this stream's must stay.
    pub(crate) fn settle(&self) -> Result<()> {
        let others = self.unawaited().clone();
        for other in others {
            other.stream.wait()?;
            // What another thread has remembered meanwhile is another's.
            self.unawaited().retain(|known| known.id != other.id);
        }
        Ok(())
    }

    /// What hands memory over to another stream; on an error, it stays with this one.
    fn hand_over(&mut self, to: &Self) -> Result<()> {
        if self.is_same(to) {
            return Ok(());
        }
        // A graph's order is none between what the streams do outside of it.
        self.check_not_captured("Queue::adopt")?;
        to.check_not_captured("Queue::adopt")?;
        to.wait_for(self)?;
        *self = to.clone();
        Ok(())
    }

    /// Allocates at least one byte, so that every allocation has an address.
    pub(crate) fn alloc_zeroed(&self, n_bytes: usize) -> Result<DeviceMemory> {
        let _entered = self.device().enter()?;
        let n_bytes = n_bytes.max(1);
        let mut address = 0;
        if self.device().inner.has_memory_pools {
            // SAFETY: the context is current and the stream is one of it.
            let code = unsafe { sys::cuMemAllocAsync(&mut address, n_bytes, self.handle()) };
            check("cuMemAllocAsync", code)?;
        } else {
            // SAFETY: the context is current.
            check("cuMemAlloc", unsafe { sys::cuMemAlloc_v2(&mut address, n_bytes) })?;
        }
        let memory = DeviceMemory { stream: self.clone(), address };
        // SAFETY: so many bytes were just allocated, on this stream or before anything of it.
        unsafe { self.fill(address, 0, n_bytes) }?;
        Ok(memory)
    }

    /// Allocates zeros on the host, at least one byte, at an address that the device has too.
    pub(crate) fn alloc_pinned(&self, n_bytes: usize) -> Result<PinnedMemory> {
        let _entered = self.device().enter()?;
        let n_bytes = n_bytes.max(1);
        let mut start = null_mut();
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
        // SAFETY: it writes one pointer; the context is current.
        check("cuMemHostAlloc", unsafe { sys::cuMemHostAlloc(&mut start, n_bytes, flags) })?;
        let memory = PinnedMemory { stream: self.clone(), home: self.device().clone(), start };
        // SAFETY: so many bytes were just allocated, and nobody else knows of them.
        unsafe { start.cast::<u8>().write_bytes(0, n_bytes) };
        Ok(memory)
    }

    /// # Safety
    /// `n_bytes` from `address` are device memory that nothing else uses meanwhile.
    pub(crate) unsafe fn fill(&self, address: u64, byte: u8, n_bytes: usize) -> Result<()> {
        let _entered = self.device().enter()?;
        // SAFETY: passed on to the caller.
        let code = unsafe { sys::cuMemsetD8Async(address, byte, n_bytes, self.handle()) };
        check("cuMemsetD8Async", code)
    }

    /// Copies between places of the device.
    ///
    /// # Safety
    /// `n_bytes` from either address are device memory; nothing writes the source meanwhile, and nothing else uses the
    /// target.
    pub(crate) unsafe fn copy(&self, source: u64, target: u64, n_bytes: usize) -> Result<()> {
        let _entered = self.device().enter()?;
        // SAFETY: passed on to the caller.
        let code = unsafe { sys::cuMemcpyDtoDAsync_v2(target, source, n_bytes, self.handle()) };
        check("cuMemcpyDtoDAsync", code)
    }

    /// Refuses a stream that is being captured: what is done once must not become a part of a graph.
    pub(crate) fn check_not_captured(&self, call: &'static str) -> Result<()> {
        let _entered = self.device().enter()?;
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the stream is alive.
        let code = unsafe { sys::cuStreamIsCapturing(self.handle(), &mut status) };
        check("cuStreamIsCapturing", code)?;
        if status == sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
            return Ok(());
        }
        check(call, sys::CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Copies from the host, and waits for the copy.
    ///
    /// # Safety
    /// As many bytes from `address` are device memory that nothing else uses meanwhile.
    pub(crate) unsafe fn copy_in(&self, bytes: &[u8], address: u64) -> Result<()> {
        let _entered = self.device().enter()?;
        // SAFETY: passed on to the caller.
        let code = unsafe {
            sys::cuMemcpyHtoDAsync_v2(address, bytes.as_ptr().cast(), bytes.len(), self.handle())
        };
        check("cuMemcpyHtoDAsync", code)?;
        // Host memory that is pinned may be read until the copy has ended.
        self.synchronize()
    }

    /// Copies to the host, and waits for the copy.
    ///
    /// # Safety
    /// As many bytes from `address` are device memory that nothing writes meanwhile.
    pub(crate) unsafe fn copy_out(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let _entered = self.device().enter()?;
        let target = bytes.as_mut_ptr().cast();
        // SAFETY: passed on to the caller.
        let code =
            unsafe { sys::cuMemcpyDtoHAsync_v2(target, address, bytes.len(), self.handle()) };
        check("cuMemcpyDtoHAsync", code)?;
        self.synchronize()
    }

    pub(crate) fn synchronize(&self) -> Result<()> {
        self.wait()?;
        self.settle()
    }

    fn wait(&self) -> Result<()> {
        let _entered = self.device().enter()?;
        // SAFETY: the stream is alive.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.handle()) })
    }
}

/// One allocation, freed after the work that its stream has queued; never, where work of others can't be waited for.
#[derive(Debug)]
pub(crate) struct DeviceMemory {
    stream: Stream,
    address: u64,
}

impl DeviceMemory {
    pub(crate) fn origin(&self) -> Origin {
        self.stream.origin()
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// Has another stream of the device order it.
    pub(crate) fn adopt(&mut self, stream: &Stream) -> Result<()> {
        self.stream.hand_over(stream)
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.stream.settle().is_err() {
            return;
        }
        let device = self.stream.device();
        let Ok(_entered) = device.enter_to_end() else { return };
        // SAFETY: allocated in the same way, and freed once. Drop cannot report a failure; the
        // next call on the stream reports what broke it.
        let _ = unsafe {
            if device.inner.has_memory_pools {
                sys::cuMemFreeAsync(self.address, self.stream.handle())
            } else {
                // It waits for the device by itself, though no document promises so.
                let _ = sys::cuStreamSynchronize(self.stream.handle());
                sys::cuMemFree_v2(self.address)
            }
        };
    }
}

/// One allocation on the host, that the device reads and writes in place, in the order of a stream.
#[derive(Debug)]
pub(crate) struct PinnedMemory {
    stream: Stream,
    /// Whose context it is of, and would end with.
    home: Device,
    start: *mut std::ffi::c_void,
}

// SAFETY: the memory is owned, and reached only through borrows of the buffer that owns it.
unsafe impl Send for PinnedMemory {}
// SAFETY: as above; shared borrows only read.
unsafe impl Sync for PinnedMemory {}

impl PinnedMemory {
    pub(crate) fn origin(&self) -> Origin {
        Origin { is_pinned: true, ..self.stream.origin() }
    }

    /// Has another stream order it, of whatever device: it is pinned for all of them.
    pub(crate) fn adopt(&mut self, stream: &Stream) -> Result<()> {
        self.stream.hand_over(stream)
    }

    /// With unified addressing, which every 64-bit system has, the device's address is the host's.
    pub(crate) fn address(&self) -> u64 {
        self.start.expose_provenance() as u64
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        // No call frees it in the order of a stream. What cannot be waited for, asked twice, may use it for good.
        if self.stream.synchronize().or_else(|_| self.stream.synchronize()).is_err() {
            return;
        }
        let Ok(_entered) = self.home.enter_to_end() else { return };
        // SAFETY: allocated by the call that it belongs to, in this context, and freed once. Drop cannot report a
        // failure.
        let _ = unsafe { sys::cuMemFreeHost(self.start) };
    }
}
