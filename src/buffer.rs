//! Device memory: owned by a [`Buffer`], borrowed by a [`View`] or a [`ViewMut`].
#![allow(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use crate::element::Element;
use crate::kv::KvLayout;
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
    /// Whether it is the memory of a CUDA device.
    pub fn is_cuda(self) -> bool {
        matches!(self, Self::Cuda(_))
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cuda(ordinal) => write!(f, "the memory of CUDA device {ordinal}"),
            Self::Simt => f.write_str("the memory of the SIMT executor"),
        }
    }
}

/// Where memory is, and the stream whose order its use must follow, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) memory: Memory,
    /// The stream's handle. `None` where order is not by stream: memory of the SIMT executor, and
    /// memory whose order the caller of `from_raw` answers for.
    pub(crate) stream: Option<usize>,
    /// Of the host's memory, that all devices read and write in place.
    pub(crate) is_pinned: bool,
}

impl Origin {
    /// Memory that no stream is known to order.
    pub(crate) fn of(memory: Memory) -> Self {
        Self { memory, stream: None, is_pinned: false }
    }
}

/// What alone may reach memory parts of which are not there: a cache of this layout and the page table at this address,
/// which names what is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holes {
    pub(crate) layout: KvLayout,
    pub(crate) page_table: u64,
}

#[derive(Debug)]
pub(crate) enum Storage {
    #[cfg(feature = "simt")]
    Host(crate::simt::HostMemory),
    #[cfg(feature = "cuda")]
    Cuda(crate::device::DeviceMemory),
    #[cfg(feature = "cuda")]
    Pinned(crate::device::PinnedMemory),
}

/// Device memory that this value owns: `len` elements, zero when allocated.
///
/// Its queue orders every use of it, up to its end: dropping it frees the memory after the work
/// queued before, without a wait (with one, on devices without memory pools). Another queue
/// [adopts](crate::Queue::adopt) it, or is [lent](crate::Queue::lend) views of it for a while.
#[derive(Debug)]
pub struct Buffer<T> {
    storage: Storage,
    len: usize,
    is_pinned: bool,
    element: PhantomData<T>,
}

impl<T: Element> Buffer<T> {
    pub(crate) fn new(storage: Storage, len: usize) -> Self {
        Self { storage, len, is_pinned: false, element: PhantomData }
    }

    pub(crate) fn pinned(storage: Storage, len: usize) -> Self {
        Self { is_pinned: true, ..Self::new(storage, len) }
    }

    /// Whether it is host memory that a device reads and writes in place:
    /// [`Queue::alloc_pinned`](crate::Queue::alloc_pinned).
    pub fn is_pinned(&self) -> bool {
        self.is_pinned
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
        self.origin().memory
    }

    fn origin(&self) -> Origin {
        match self.storage {
            #[cfg(feature = "simt")]
            Storage::Host(_) => Origin::of(Memory::Simt),
            #[cfg(feature = "cuda")]
            Storage::Cuda(ref memory) => memory.origin(),
            #[cfg(feature = "cuda")]
            Storage::Pinned(ref memory) => memory.origin(),
        }
    }

    pub(crate) fn storage_mut(&mut self) -> &mut Storage {
        &mut self.storage
    }

    fn address(&self) -> u64 {
        match self.storage {
            #[cfg(feature = "simt")]
            Storage::Host(ref memory) => memory.address(),
            #[cfg(feature = "cuda")]
            Storage::Cuda(ref memory) => memory.address(),
            #[cfg(feature = "cuda")]
            Storage::Pinned(ref memory) => memory.address(),
        }
    }

    /// Borrows the whole buffer for reading.
    pub fn view(&self) -> View<'_, T> {
        View {
            address: self.address(),
            len: self.len,
            origin: self.origin(),
            holes: None,
            borrow: PhantomData,
        }
    }

    /// Borrows the whole buffer for writing.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        ViewMut {
            address: self.address(),
            len: self.len,
            origin: self.origin(),
            holes: None,
            borrow: PhantomData,
        }
    }
}

/// Device memory borrowed for reading.
#[derive(Debug)]
pub struct View<'a, T> {
    address: u64,
    len: usize,
    origin: Origin,
    holes: Option<&'a Holes>,
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
    origin: Origin,
    holes: Option<&'a Holes>,
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
            /// in `memory` for `'a` and until the work queued with this view has ended. Where
            /// several streams use the memory, the caller orders them.
            pub unsafe fn from_raw(address: u64, len: usize, memory: Memory) -> Self {
                Self { address, len, origin: Origin::of(memory), holes: None, borrow: PhantomData }
            }

            /// Borrows memory with holes: only a cache as `holes` says takes it.
            ///
            /// # Safety
            /// That of `from_raw`, of what the page table names.
            pub(crate) unsafe fn with_holes(
                address: u64,
                len: usize,
                origin: Origin,
                holes: &'a Holes,
            ) -> Self {
                Self { address, len, origin, holes: Some(holes), borrow: PhantomData }
            }

            pub(crate) fn check_whole(&self, what: &'static str) -> Result<()> {
                self.holes.map_or(Ok(()), |_| Err(Error::Holes { what }))
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
                self.origin.memory
            }

            pub(crate) fn origin(&self) -> Origin {
                self.origin
            }

            /// The same memory, in the order of another queue.
            ///
            /// # Safety
            /// `'v` ends before `'a` does. That queue's work with it comes after what made it, and before what is done
            /// with it after `'v`.
            pub(crate) unsafe fn lend<'v>(self, origin: Origin) -> $view<'v, T> {
                // SAFETY: what outlives `'a` outlives `'v`.
                let holes = self.holes.map(|holes| unsafe { &*std::ptr::from_ref(holes) });
                $view { address: self.address, len: self.len, origin, holes, borrow: PhantomData }
            }

            fn part(&self, range: Range<usize>) -> Result<(u64, usize)> {
                let Range { start, end } = range;
                if start > end || end > self.len {
                    return Err(Error::Slice { start, end, len: self.len });
                }
                let offset = (start * size_of::<T>()) as u64;
                Ok((self.address + offset, end - start))
            }
        }
    };
}

view_methods!(View, "Nothing may write for `'a` what work queued with this view reads.");
view_methods!(
    ViewMut,
    "Nothing else may read or write for `'a` what work queued with this view does."
);

impl<'a, T: Element> View<'a, T> {
    /// The elements of `range`.
    ///
    /// # Errors
    /// [`Error::Slice`] for a range that is not inside.
    pub fn slice(&self, range: Range<usize>) -> Result<View<'a, T>> {
        let (address, len) = self.part(range)?;
        Ok(View { address, len, origin: self.origin, holes: self.holes, borrow: PhantomData })
    }

    /// The same, for a kernel that reads it as a cache of this layout through the table at this address. What that does
    /// not open stays closed.
    pub(crate) fn through(&self, layout: &KvLayout, page_table: u64) -> Self {
        Self { holes: closed(self.holes, layout, page_table), ..*self }
    }
}

impl<T: Element> ViewMut<'_, T> {
    /// All of the same memory, borrowed from this view: what goes into a struct that takes a `ViewMut` by value, while this
    /// view is kept for what comes after.
    ///
    /// ```
    /// # use lacuna::{Queue, Result, ViewMut};
    /// struct Step<'a> {
    ///     status: Option<ViewMut<'a, u64>>,
    /// }
    ///
    /// fn steps(mut status: Option<ViewMut<'_, u64>>) {
    ///     for _ in 0..2 {
    ///         let step = Step { status: status.as_mut().map(ViewMut::reborrow) };
    ///         assert_eq!(step.status.map_or(0, |status| status.len()), 1);
    ///     }
    /// }
    ///
    /// # #[cfg(feature = "simt")] {
    /// let queue = Queue::simt(lacuna::simt::Config::default());
    /// steps(Some(queue.alloc(1)?.view_mut()));
    /// # }
    /// # Ok::<_, lacuna::Error>(())
    /// ```
    pub fn reborrow(&mut self) -> ViewMut<'_, T> {
        ViewMut {
            address: self.address,
            len: self.len,
            origin: self.origin,
            holes: self.holes,
            borrow: PhantomData,
        }
    }

    /// The elements of `range`, borrowed from this view.
    ///
    /// # Errors
    /// [`Error::Slice`] for a range that is not inside.
    pub fn slice_mut(&mut self, range: Range<usize>) -> Result<ViewMut<'_, T>> {
        let (address, len) = self.part(range)?;
        Ok(ViewMut { address, len, origin: self.origin, holes: self.holes, borrow: PhantomData })
    }

    /// As [`View::through`]; for a launch that has this view.
    pub(crate) fn through(&self, layout: &KvLayout, page_table: u64) -> ViewMut<'_, T> {
        let holes = closed(self.holes, layout, page_table);
        ViewMut {
            address: self.address,
            len: self.len,
            origin: self.origin,
            holes,
            borrow: PhantomData,
        }
    }

    /// The same memory, for reading.
    pub fn as_view(&self) -> View<'_, T> {
        View {
            address: self.address,
            len: self.len,
            origin: self.origin,
            holes: self.holes,
            borrow: PhantomData,
        }
    }
}

fn closed<'a>(holes: Option<&'a Holes>, layout: &KvLayout, page_table: u64) -> Option<&'a Holes> {
    holes.filter(|holes| **holes != Holes { layout: *layout, page_table })
}
