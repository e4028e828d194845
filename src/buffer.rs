//! Device memory: owned by a [`Buffer`], borrowed by a [`View`] or a [`ViewMut`].
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use crate::element::Element;
use crate::{Error, Result};

/// Whose memory an address is in. A queue refuses views of another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Memory {
    /// The memory of the CUDA device with this ordinal.
    Cuda(usize),
    /// Host memory that the SIMT executor works on.
    Simt,
}

impl Memory {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cuda(_) => "CUDA device",
            Self::Simt => "SIMT executor",
        }
    }
}

#[derive(Debug)]
pub(crate) enum Storage {
    #[cfg(feature = "simt")]
    Host(crate::simt::HostMemory),
    #[cfg(feature = "cuda")]
    Cuda(crate::device::CudaMemory),
}

/// Device memory that this value owns: `len` elements, zero when allocated.
///
/// Dropping it frees the memory in the order of the stream it was allocated on; work on another
/// stream must have been waited for.
#[derive(Debug)]
pub struct Buffer<T> {
    storage: Storage,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Element> Buffer<T> {
    pub(crate) fn new(storage: Storage, len: usize) -> Self {
        Self { storage, len, element: PhantomData }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the memory is.
    pub fn memory(&self) -> Memory {
        match self.storage {
            #[cfg(feature = "simt")]
            Storage::Host(_) => Memory::Simt,
            #[cfg(feature = "cuda")]
            Storage::Cuda(ref memory) => Memory::Cuda(memory.ordinal()),
        }
    }

    fn address(&self) -> u64 {
        match self.storage {
            #[cfg(feature = "simt")]
            Storage::Host(ref memory) => memory.address(),
            #[cfg(feature = "cuda")]
            Storage::Cuda(ref memory) => memory.address(),
        }
    }

    /// Borrows the whole buffer for reading.
    pub fn view(&self) -> View<'_, T> {
        View { address: self.address(), len: self.len, memory: self.memory(), borrow: PhantomData }
    }

    /// Borrows the whole buffer for writing.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        ViewMut {
            address: self.address(),
            len: self.len,
            memory: self.memory(),
            borrow: PhantomData,
        }
    }
}

/// Device memory borrowed for reading.
#[derive(Debug)]
pub struct View<'a, T> {
    address: u64,
    len: usize,
    memory: Memory,
    borrow: PhantomData<&'a [T]>,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

/// Device memory borrowed for writing.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    address: u64,
    len: usize,
    memory: Memory,
    borrow: PhantomData<&'a mut [T]>,
}

macro_rules! view_methods {
    ($view:ident, $aliasing:literal) => {
        impl<'a, T: Element> $view<'a, T> {
            /// Borrows memory that someone else allocated, an engine's for instance.
            ///
            /// # Safety
            #[doc = $aliasing]
            /// The address must be aligned to `T`, and `len` elements from it must stay allocated
            /// in `memory` for `'a`.
            pub unsafe fn from_raw(address: u64, len: usize, memory: Memory) -> Self {
                Self { address, len, memory, borrow: PhantomData }
            }

            /// Elements.
            pub fn len(&self) -> usize {
                self.len
            }

            /// No elements.
            pub fn is_empty(&self) -> bool {
                self.len == 0
            }

            /// The first element's address: a `CUdeviceptr`, or a host address under SIMT.
            pub fn address(&self) -> u64 {
                self.address
            }

            /// Where the memory is.
            pub fn memory(&self) -> Memory {
                self.memory
            }

            fn part(&self, range: Range<usize>) -> Result<(u64, usize)> {
                if range.start > range.end || range.end > self.len {
                    return Err(Error::Shape {
                        what: "end of a slice of device memory",
                        expected: self.len as u64,
                        got: range.end.max(range.start) as u64,
                    });
                }
                let offset = (range.start * size_of::<T>()) as u64;
                Ok((self.address + offset, range.end - range.start))
            }
        }
    };
}

view_methods!(View, "Nothing may write the elements for `'a`.");
view_methods!(ViewMut, "Nothing else may read or write the elements for `'a`.");

impl<'a, T: Element> View<'a, T> {
    /// The elements of `range`.
    ///
    /// # Errors
    /// [`Error::Shape`] for a range that is not inside.
    pub fn slice(&self, range: Range<usize>) -> Result<View<'a, T>> {
        let (address, len) = self.part(range)?;
        Ok(View { address, len, memory: self.memory, borrow: PhantomData })
    }
}

impl<T: Element> ViewMut<'_, T> {
    /// The elements of `range`, borrowed from this view.
    ///
    /// # Errors
    /// [`Error::Shape`] for a range that is not inside.
    pub fn slice_mut(&mut self, range: Range<usize>) -> Result<ViewMut<'_, T>> {
        let (address, len) = self.part(range)?;
        Ok(ViewMut { address, len, memory: self.memory, borrow: PhantomData })
    }

    /// The same memory, for reading.
    pub fn as_view(&self) -> View<'_, T> {
        View { address: self.address, len: self.len, memory: self.memory, borrow: PhantomData }
    }
}
