//! Addresses of a device without memory behind them, and memory that is put there and taken away: the driver's calls
//! for virtual memory. Every call here leaves the calling thread's current context as it was.
#![allow(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::sys;

use super::event::Event;
use super::{Device, Stream, check};
use crate::kv::Physical;
use crate::{Error, Result};

/// Addresses of a device, and the work of a stream that decides when what is behind them may go.
#[derive(Debug)]
pub(crate) struct AddressRange {
    stream: Stream,
    address: u64,
    n_bytes: u64,
    chunk_bytes: u64,
    /// One for each owner, made when it is first marked.
    marks: Vec<OnceLock<Event>>,
    /// Something may still be mapped.
    is_kept: AtomicBool,
}

impl Device {
    /// Physical memory of this device comes in multiples of so many bytes.
    ///
    /// # Errors
    /// [`Error::Driver`], also where the device has no virtual memory management.
    pub(crate) fn granularity(&self) -> Result<u64> {
        let _entered = self.enter()?;
        let mut has_virtual_memory = 0;
        let attribute =
            sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED;
        // SAFETY: it writes one int.
        let code = unsafe {
            sys::cuDeviceGetAttribute(&mut has_virtual_memory, attribute, self.inner.handle)
        };
        check("cuDeviceGetAttribute", code)?;
        if has_virtual_memory == 0 {
            let code = sys::CUresult::CUDA_ERROR_NOT_SUPPORTED;
            check("cuMemGetAllocationGranularity", code)?;
        }
        let mut granularity = 0;
        let minimum = sys::CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM;
        // SAFETY: it reads the properties and writes one size.
        let code = unsafe {
            sys::cuMemGetAllocationGranularity(&mut granularity, &self.properties(), minimum)
        };
        check("cuMemGetAllocationGranularity", code)?;
        Ok(granularity as u64)
    }

    fn properties(&self) -> sys::CUmemAllocationProp {
        // SAFETY: plain data, for which zeros are right.
        let mut properties: sys::CUmemAllocationProp = unsafe { core::mem::zeroed() };
        properties.type_ = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location = self.location();
        properties
    }

    fn location(&self) -> sys::CUmemLocation {
        // SAFETY: plain data, for which zeros are right.
        let mut location: sys::CUmemLocation = unsafe { core::mem::zeroed() };
        location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        const { assert!(size_of::<sys::CUmemLocation>() == 8) };
        // The field has another name in newer headers, of which an engine may have chosen any.
        // SAFETY: of two ints, the second is the device.
        unsafe { (&raw mut location).cast::<sys::CUdevice>().add(1).write(self.inner.handle) };
        location
    }
}

impl AddressRange {
    /// Addresses for whole chunks of memory.
    pub(crate) fn reserve(
        stream: &Stream,
        n_bytes: u64,
        chunk_bytes: u64,
        n_owners: usize,
    ) -> Result<Self> {
        let device = stream.device();
        let _entered = device.enter()?;
        let mut address = 0;
        // SAFETY: it writes one address; any alignment does that is the driver's own.
        let code = unsafe { sys::cuMemAddressReserve(&mut address, n_bytes as usize, 0, 0, 0) };
        check("cuMemAddressReserve", code)?;
        Ok(Self {
            stream: stream.clone(),
            address,
            n_bytes,
            chunk_bytes,
            marks: (0..n_owners).map(|_| OnceLock::new()).collect(),
            is_kept: AtomicBool::new(false),
        })
    }

    fn device(&self) -> &Device {
        self.stream.device()
    }

    fn mark_of(&self, owner: usize) -> Result<&Event> {
        let slot = &self.marks[owner];
        if slot.get().is_none() {
            // Of two that are made at once, one goes.
            let _ = slot.set(Event::create(self.device())?);
        }
        slot.get().ok_or(Error::Mapper { reason: "no event".to_owned() })
    }
}

impl Physical for AddressRange {
    fn address(&self) -> u64 {
        self.address
    }

    fn begin(&self) -> Result<()> {
        // Another thread may be capturing a graph, which nothing here has a part in.
        let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: it exchanges one number, of this thread.
        let code = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) };
        check("cuThreadExchangeStreamCaptureMode", code)
    }

    fn create(&self) -> Result<Option<u64>> {
        let _entered = self.device().enter()?;
        let (mut chunk, properties) = (0, self.device().properties());
        // SAFETY: it reads the properties and writes one handle.
        let code =
            unsafe { sys::cuMemCreate(&mut chunk, self.chunk_bytes as usize, &properties, 0) };
        match check("cuMemCreate", code) {
            Ok(()) => Ok(Some(chunk)),
            // CUDA_ERROR_OUT_OF_MEMORY.
            Err(Error::Driver { code: 2, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn map(&self, offset: u64, chunk: u64) -> Result<()> {
        let _entered = self.device().enter()?;
        let address = self.address + offset;
        // SAFETY: the addresses are reserved, and the caller maps none twice.
        let code = unsafe { sys::cuMemMap(address, self.chunk_bytes as usize, 0, chunk, 0) };
        check("cuMemMap", code)
    }

    fn allow(&self, offset: u64, n_chunks: u64) -> Result<()> {
        let _entered = self.device().enter()?;
        // SAFETY: plain data, for which zeros are right.
        let mut access: sys::CUmemAccessDesc = unsafe { core::mem::zeroed() };
        access.location = self.device().location();
        access.flags = sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
        let n_bytes = (n_chunks * self.chunk_bytes) as usize;
        // SAFETY: the addresses are mapped, and the driver copies the description.
        let code = unsafe { sys::cuMemSetAccess(self.address + offset, n_bytes, &access, 1) };
        check("cuMemSetAccess", code)
    }

    fn unmap(&self, offset: u64) -> Result<()> {
        let _entered = self.device().enter_to_end()?;
        // SAFETY: one chunk is mapped there, and what used it has ended, by the caller's word.
        let code = unsafe { sys::cuMemUnmap(self.address + offset, self.chunk_bytes as usize) };
        check("cuMemUnmap", code)
    }

    fn release(&self, chunk: u64) -> Result<()> {
        let _entered = self.device().enter_to_end()?;
        // SAFETY: created once, released once, and mapped nowhere.
        check("cuMemRelease", unsafe { sys::cuMemRelease(chunk) })
    }

    fn mark(&self, owner: usize) -> Result<()> {
        self.stream.settle()?;
        self.mark_of(owner)?.record(&self.stream)
    }

    fn is_past(&self, owner: usize) -> Result<bool> {
        let Some(mark) = self.marks[owner].get() else { return Ok(true) };
        let _entered = self.device().enter()?;
        // SAFETY: the event is alive.
        let code = unsafe { sys::cuEventQuery(mark.handle()) };
        if code == sys::CUresult::CUDA_ERROR_NOT_READY {
            return Ok(false);
        }
        check("cuEventQuery", code).map(|()| true)
    }

    fn wait_past(&self, owner: usize) -> Result<()> {
        let Some(mark) = self.marks[owner].get() else { return Ok(()) };
        let _entered = self.device().enter()?;
        // SAFETY: the event is alive.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(mark.handle()) })
    }

    fn synchronize(&self) -> Result<()> {
        self.stream.synchronize()
    }

    fn keep(&self, is_kept: bool) {
        self.is_kept.store(is_kept, Ordering::Release);
    }
}

impl Drop for AddressRange {
    fn drop(&mut self) {
        let Ok(_entered) = self.device().enter_to_end() else { return };
        self.marks.clear();
        if !*self.is_kept.get_mut() {
            // SAFETY: reserved once, freed once, and nothing is mapped there.
            let _ = unsafe { sys::cuMemAddressFree(self.address, self.n_bytes as usize) };
        }
    }
}
