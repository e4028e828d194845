//! Where work goes in order: a CUDA stream, or the SIMT executor.
#![allow(unsafe_code)]

mod handover;

use std::fmt;

pub use handover::Lend;

use crate::buffer::{Buffer, Memory, Origin, Storage, View, ViewMut};
#[cfg(feature = "cuda")]
use crate::device::Stream;
use crate::element::Element;
use crate::mma::Model;
#[cfg(feature = "simt")]
use crate::simt;
use crate::{Error, Result};

/// Work in order: a CUDA stream, ours or an engine's, or the SIMT executor, which runs each launch
/// to its end before it returns. A clone is the same stream.
#[derive(Debug, Clone)]
pub struct Queue {
    pub(crate) inner: Inner,
}

#[derive(Debug, Clone)]
pub(crate) enum Inner {
    #[cfg(feature = "cuda")]
    Cuda(Stream),
    #[cfg(feature = "simt")]
    Simt(simt::Config),
}

/// What runs a queue's kernels, for people to read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Executor {
    /// A CUDA device.
    Cuda {
        /// Its name.
        name: String,
        /// The driver's number for it.
        ordinal: usize,
    },
    /// The SIMT executor, on the CPU.
    Simt,
}

impl fmt::Display for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cuda { name, ordinal } => write!(f, "CUDA device {ordinal} ({name})"),
            Self::Simt => f.write_str("SIMT executor on the CPU"),
        }
    }
}

impl Queue {
    #[cfg(feature = "cuda")]
    pub(crate) fn cuda(stream: Stream) -> Self {
        Self { inner: Inner::Cuda(stream) }
    }

    /// A queue that runs kernels on the CPU, with the schedule and the checks that `config` names.
    #[cfg(feature = "simt")]
    pub fn simt(config: simt::Config) -> Self {
        Self { inner: Inner::Simt(config) }
    }

    /// What runs this queue's kernels.
    pub fn executor(&self) -> Executor {
        match self.inner {
            #[cfg(feature = "cuda")]
            Inner::Cuda(ref stream) => {
                let info = stream.device().info();
                Executor::Cuda { name: info.name.clone(), ordinal: info.ordinal }
            }
            #[cfg(feature = "simt")]
            Inner::Simt(_) => Executor::Simt,
        }
    }

    /// The compute capability of its CUDA device; `None` of the SIMT executor.
    pub fn capability(&self) -> Option<(u32, u32)> {
        match self.inner {
            #[cfg(feature = "cuda")]
            Inner::Cuda(ref stream) => Some(stream.device().info().capability),
            #[cfg(feature = "simt")]
            Inner::Simt(_) => None,
        }
    }

    /// The most blocks of a cluster ([`Grid::cluster_blocks`](crate::launch::Grid::cluster_blocks))
    /// that a launch on this queue may ask for: 16 of the SIMT executor; of a CUDA device 8, and 1 below
    /// compute capability 9.0. Some devices run clusters of 16, which no kernel is sure of: the driver says
    /// so of each kernel and grid alone, and is not asked here. Fewer than 8 may run at once where a
    /// block takes much of a multiprocessor, and the launch is then an error of the driver's.
    pub fn most_cluster_blocks(&self) -> u32 {
        match self.capability() {
            None => 16,
            Some((0..=8, _)) => 1,
            Some(_) => 8,
        }
    }

    /// The model of its tensor cores, by which references say what a kernel with matrix products must give here; `None`
    /// of a device of whose generation no answers are on record.
    pub fn mma_model(&self) -> Option<Model> {
        match self.inner {
            #[cfg(feature = "cuda")]
            Inner::Cuda(ref stream) => Model::of_capability(stream.device().info().capability),
            #[cfg(feature = "simt")]
            Inner::Simt(ref config) => Some(config.mma),
        }
    }

    /// The memory this queue's kernels work on.
    pub fn memory(&self) -> Memory {
        self.origin().memory
    }

    pub(crate) fn origin(&self) -> Origin {
        match self.inner {
            #[cfg(feature = "cuda")]
            Inner::Cuda(ref stream) => stream.origin(),
            #[cfg(feature = "simt")]
            Inner::Simt(_) => Origin::of(Memory::Simt),
        }
    }

    /// Allocates `len` zeros.
    ///
    /// # Stream
    /// One stream-ordered allocation and one fill; no wait.
    ///
    /// # Errors
    /// [`Error::Range`] where the size overflows, [`Error::Driver`] where device memory is short.
    pub fn alloc<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        let n_bytes = bytes_of::<T>(len)?;
        let storage = match self.inner {
            #[cfg(feature = "cuda")]
            Inner::Cuda(ref stream) => Storage::Cuda(stream.alloc_zeroed(n_bytes)?),
            #[cfg(feature = "simt")]
            Inner::Simt(_) => simt_storage(n_bytes)?,
        };
        Ok(Buffer::new(storage, len))
    }

    /// Allocates `len` zeros in pinned host memory, which kernels of this queue read and write in place, over
    /// the bus: what does not fit the device, or is on its way to another. Plain memory in the SIMT executor.
    ///
    /// # Stream
    /// The driver pins pages, which takes long and may wait for the device; and dropping the buffer waits for
    /// the queue, so that neither belongs into a step, nor into a capture.
    ///
    /// # Errors
    /// [`Error::Range`] where the size overflows, [`Error::Driver`] where memory that can be pinned is short.
    pub fn alloc_pinned<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        let n_bytes = bytes_of::<T>(len)?;
        let storage = match self.inner {
            #[cfg(feature = "cuda")]
            Inner::Cuda(ref stream) => Storage::Pinned(stream.alloc_pinned(n_bytes)?),
            #[cfg(feature = "simt")]
            Inner::Simt(_) => simt_storage(n_bytes)?,
        };
        Ok(Buffer::pinned(storage, len))
    }

    /// The elements of pinned memory, for the host to read and write in place, to send, say, or to keep on a
    /// disk; waits for everything queued before.
    ///
    /// # Errors
    /// [`Error::Range`] where the buffer is not of [`alloc_pinned`](Self::alloc_pinned);
    /// [`Error::WrongQueue`], [`Error::WrongStream`], [`Error::Driver`].
    pub fn pinned_slice<'b, T: Element>(&self, buffer: &'b mut Buffer<T>) -> Result<&'b mut [T]> {
        let (is_pinned, len) = (buffer.is_pinned(), buffer.len());
        let view = buffer.view_mut();
        self.check_view_mut("pinned memory", &view)?;
        if !is_pinned {
            return Err(Error::Range {
                what: "address of pinned memory",
                value: view.address(),
                allowed: "what alloc_pinned gave",
            });
        }
        self.synchronize()?;
        let start = std::ptr::with_exposed_provenance_mut(view.address() as usize);
        // SAFETY: so many elements of host memory, aligned, of a type of which any bytes are a value; the
        // queue's work with them has ended, and the borrow lets no other begin.
        Ok(unsafe { std::slice::from_raw_parts_mut(start, len) })
    }

    /// Allocates memory for `elements` and copies them there.
    ///
    /// # Errors
    /// Those of [`alloc`](Self::alloc) and [`upload_into`](Self::upload_into).
    pub fn upload<T: Element>(&self, elements: &[T]) -> Result<Buffer<T>> {
        let mut buffer = self.alloc(elements.len())?;
        self.upload_into(elements, &mut buffer.view_mut())?;
        Ok(buffer)
    }

    /// Copies from the host after everything queued before, and waits for the copy.
    ///
    /// # Errors
    /// [`Error::Shape`] where lengths differ, [`Error::WrongQueue`], [`Error::WrongStream`],
    /// [`Error::Driver`].
    pub fn upload_into<T: Element>(
        &self,
        elements: &[T],
        target: &mut ViewMut<'_, T>,
    ) -> Result<()> {
        self.check_view_mut("target of an upload", target)?;
        check_len("target of an upload", elements.len(), target.len())?;
        let bytes: &[u8] = bytemuck::cast_slice(elements);
        if bytes.is_empty() {
            return Ok(());
        }
        match self.inner {
            #[cfg(feature = "cuda")]
            // SAFETY: the view is as long as the elements and borrowed mutably.
            Inner::Cuda(ref stream) => unsafe { stream.copy_in(bytes, target.address()) },
            #[cfg(feature = "simt")]
            // SAFETY: as above, in host memory, and a mutable borrow overlaps no other.
            Inner::Simt(_) => unsafe {
                let target = std::ptr::with_exposed_provenance_mut::<u8>(target.address() as usize);
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len());
                Ok(())
            },
        }
    }

    /// Copies to the host after everything queued before, and waits for the copy.
    ///
    /// # Errors
    /// [`Error::WrongQueue`], [`Error::WrongStream`], [`Error::Driver`].
    pub fn download<T: Element>(&self, source: &View<'_, T>) -> Result<Vec<T>> {
        let mut elements = vec![T::zeroed(); source.len()];
        self.download_into(source, &mut elements)?;
        Ok(elements)
    }

    /// Copies to the host after everything queued before, and waits for the copy.
    ///
    /// # Errors
    /// [`Error::Shape`] where lengths differ, [`Error::WrongQueue`], [`Error::WrongStream`],
    /// [`Error::Driver`].
    pub fn download_into<T: Element>(
        &self,
        source: &View<'_, T>,
        elements: &mut [T],
    ) -> Result<()> {
        self.check_view("source of a download", source)?;
        check_len("target of a download", source.len(), elements.len())?;
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(elements);
        if bytes.is_empty() {
            return Ok(());
        }
        match self.inner {
            #[cfg(feature = "cuda")]
            // SAFETY: the view is as long as the elements.
            Inner::Cuda(ref stream) => unsafe { stream.copy_out(source.address(), bytes) },
            #[cfg(feature = "simt")]
            // SAFETY: as above, in host memory that nothing writes while it is borrowed.
            Inner::Simt(_) => unsafe {
                let source = std::ptr::with_exposed_provenance::<u8>(source.address() as usize);
                std::ptr::copy_nonoverlapping(source, bytes.as_mut_ptr(), bytes.len());
                Ok(())
            },
        }
    }

    /// Writes zeros, in the order of the queue.
    ///
    /// # Errors
    /// [`Error::WrongQueue`], [`Error::WrongStream`], [`Error::Driver`].
    pub fn fill_zero<T: Element>(&self, target: &mut ViewMut<'_, T>) -> Result<()> {
        self.fill_bytes(0, target)
    }

    pub(crate) fn fill_bytes<T: Element>(
        &self,
        byte: u8,
        target: &mut ViewMut<'_, T>,
    ) -> Result<()> {
        self.check_view_mut("target of a fill", target)?;
        let n_bytes = target.len() * size_of::<T>();
        if n_bytes == 0 {
            return Ok(());
        }
        match self.inner {
            #[cfg(feature = "cuda")]
            // SAFETY: the view has so many bytes and is borrowed mutably.
            Inner::Cuda(ref stream) => unsafe { stream.fill(target.address(), byte, n_bytes) },
            #[cfg(feature = "simt")]
            // SAFETY: as above, in host memory.
            Inner::Simt(_) => unsafe {
                std::ptr::with_exposed_provenance_mut::<u8>(target.address() as usize)
                    .write_bytes(byte, n_bytes);
                Ok(())
            },
        }
    }

    /// Copies between views of one length, in the order of the queue.
    pub(crate) fn copy<T: Element>(
        &self,
        source: &View<'_, T>,
        target: &mut ViewMut<'_, T>,
    ) -> Result<()> {
        self.check_view("source of a copy", source)?;
        self.check_view_mut("target of a copy", target)?;
        check_len("target of a copy", source.len(), target.len())?;
        let n_bytes = target.len() * size_of::<T>();
        if n_bytes == 0 {
            return Ok(());
        }
        match self.inner {
            #[cfg(feature = "cuda")]
            // SAFETY: both have so many bytes, and the target is borrowed mutably.
            Inner::Cuda(ref stream) => unsafe {
                stream.copy(source.address(), target.address(), n_bytes)
            },
            #[cfg(feature = "simt")]
            // SAFETY: as above, in host memory.
            Inner::Simt(_) => unsafe {
                let from = std::ptr::with_exposed_provenance::<u8>(source.address() as usize);
                let to = std::ptr::with_exposed_provenance_mut::<u8>(target.address() as usize);
                std::ptr::copy_nonoverlapping(from, to, n_bytes);
                Ok(())
            },
        }
    }

    /// Refuses a stream that is being captured: what is done once must not become a part of a graph.
    pub(crate) fn check_not_captured(&self, call: &'static str) -> Result<()> {
        match self.inner {
            #[cfg(feature = "cuda")]
            Inner::Cuda(ref stream) => stream.check_not_captured(call),
            #[cfg(feature = "simt")]
            Inner::Simt(_) => {
                let _ = call;
                Ok(())
            }
        }
    }

    /// Waits for everything queued before.
    ///
    /// # Errors
    /// [`Error::Driver`], also for what an earlier launch of the process broke.
    pub fn synchronize(&self) -> Result<()> {
        match self.inner {
            #[cfg(feature = "cuda")]
            Inner::Cuda(ref stream) => stream.synchronize(),
            #[cfg(feature = "simt")]
            Inner::Simt(_) => Ok(()),
        }
    }

    pub(crate) fn check_view<T: Element>(
        &self,
        what: &'static str,
        view: &View<'_, T>,
    ) -> Result<()> {
        view.check_whole(what)?;
        self.check_origin(what, view.origin())
    }

    pub(crate) fn check_view_mut<T: Element>(
        &self,
        what: &'static str,
        view: &ViewMut<'_, T>,
    ) -> Result<()> {
        view.check_whole(what)?;
        self.check_origin(what, view.origin())
    }

    /// A launch outlives the borrow of its views. What keeps the memory until the launch has ended
    /// is that both are in the order of one stream.
    fn check_origin(&self, what: &'static str, found: Origin) -> Result<()> {
        let own = self.origin();
        if found.memory != own.memory {
            return Err(Error::WrongQueue { what, expected: own.memory, found: found.memory });
        }
        if found.stream.is_some() && found.stream != own.stream {
            return Err(Error::WrongStream { what, memory: found.memory });
        }
        Ok(())
    }
}

fn bytes_of<T>(len: usize) -> Result<usize> {
    len.checked_mul(size_of::<T>()).ok_or(Error::Range {
        what: "elements of an allocation",
        value: len as u64,
        allowed: "the address space",
    })
}

#[cfg(feature = "simt")]
fn simt_storage(n_bytes: usize) -> Result<Storage> {
    let memory = simt::HostMemory::zeroed(n_bytes).ok_or(Error::Range {
        what: "bytes of an allocation",
        value: n_bytes as u64,
        allowed: "the memory of this machine",
    })?;
    Ok(Storage::Host(memory))
}

fn check_len(what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::Shape { what, expected: expected as u64, got: got as u64 })
}
