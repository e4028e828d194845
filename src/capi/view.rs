//! Memory of the caller's.

use std::ffi::c_void;

use super::abi::check_pointer;
use super::status::{Failure, Outcome, lacuna_status};
use super::{arena, dtype};
use crate::buffer::{View, ViewMut};
use crate::element::Element;
use crate::kv::KvLayout;
use crate::queue::Queue;

/// Device memory that a function reads: `len` elements from `data` on, aligned to an element. All zeros is no view, which
/// optional fields may be. This struct never changes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_view {
    /// A `CUdeviceptr`, or what `cudaMalloc` gave.
    pub data: *const c_void,
    /// Elements, of which functions know how many there must be.
    pub len: u64,
    /// A `lacuna_dtype`.
    pub dtype: u32,
    /// 0; of a growing cache's memory what `lacuna_arena_kv` sets, by which functions that need all of it refuse it.
    pub reserved: u32,
}

/// Device memory that a function writes, and perhaps reads; else as `lacuna_view`. No other memory of the same call
/// overlaps it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_view_mut {
    /// A `CUdeviceptr`, or what `cudaMalloc` gave.
    pub data: *mut c_void,
    /// Elements, of which functions know how many there must be.
    pub len: u64,
    /// A `lacuna_dtype`.
    pub dtype: u32,
    /// 0; of a growing cache's memory what `lacuna_arena_kv` sets, by which functions that need all of it refuse it.
    pub reserved: u32,
}

/// Host memory that a function reads before it returns: `n_bytes` from `data` on. All zeros is no bytes. This struct never changes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_bytes {
    pub data: *const c_void,
    pub n_bytes: u64,
}

impl lacuna_bytes {
    #[cfg(feature = "files")]
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self { data: bytes.as_ptr().cast(), n_bytes: bytes.len() as u64 }
    }

    /// # Safety
    /// The memory is the caller's, and nothing writes it for `'a`.
    pub(super) unsafe fn of<'a>(&self, what: &str) -> Outcome<&'a [u8]> {
        if self.n_bytes == 0 {
            return Ok(&[]);
        }
        check_pointer(what, self.data.cast::<u8>())?;
        let n_bytes = isize::try_from(self.n_bytes).map_err(|_| {
            let message = format!("{what}: {} bytes do not fit into memory", self.n_bytes);
            Failure::new(lacuna_status::LACUNA_RANGE, message)
        })?;
        // SAFETY: the caller's word.
        Ok(unsafe { std::slice::from_raw_parts(self.data.cast(), n_bytes as usize) })
    }

    /// # Safety
    /// As [`of`](Self::of).
    pub(super) unsafe fn text<'a>(&self, what: &str) -> Outcome<&'a str> {
        // SAFETY: the caller's word.
        std::str::from_utf8(unsafe { self.of(what) }?).map_err(|error| {
            Failure::new(lacuna_status::LACUNA_RANGE, format!("{what} is no UTF-8: {error}"))
        })
    }
}

/// What both kinds of views have.
struct Raw {
    address: u64,
    len: u64,
    dtype: u32,
    reserved: u32,
}

impl Raw {
    fn is_none(&self) -> bool {
        self.address == 0 && self.len == 0
    }

    /// Elements, of memory that can be there.
    fn check<T: Element>(&self, what: &'static str) -> Outcome<usize> {
        if self.dtype != dtype::number::<T>() {
            return Err(dtype::refuse(what, self.dtype, T::NAME));
        }
        let refuse = |status, message| Err(Failure::new(status, message));
        if self.address == 0 && self.len > 0 {
            return refuse(lacuna_status::LACUNA_NULL, format!("data of {what} is a null pointer"));
        }
        if self.reserved != 0 {
            return Err(arena::refuse(what, self.reserved));
        }
        let alignment = align_of::<T>() as u64;
        if !self.address.is_multiple_of(alignment) {
            let address = self.address;
            let message = format!("data of {what}: {address:#x} is no multiple of {alignment}");
            return refuse(lacuna_status::LACUNA_RANGE, message);
        }
        let end = self.len.checked_mul(size_of::<T>() as u64);
        if end.and_then(|n_bytes| n_bytes.checked_add(self.address)).is_none() {
            let message = format!("len of {what}: {} elements do not fit into memory", self.len);
            return refuse(lacuna_status::LACUNA_RANGE, message);
        }
        Ok(self.len as usize)
    }
}

/// What both kinds of views do, each for its own.
macro_rules! views {
    ($raw:ident, $view:ident, $aliasing:literal) => {
        impl $raw {
            /// Whether it is what an optional field is that nothing is given for.
            pub(super) fn is_none(&self) -> bool {
                self.raw().is_none()
            }

            /// The same for a kernel that reads it as a cache of this layout through the table at this address, which is how
            /// alone memory of a growing cache goes.
            pub(super) fn through(
                &self,
                what: &'static str,
                layout: &KvLayout,
                page_table: u64,
            ) -> Outcome<Self> {
                if self.reserved != 0 {
                    arena::check(what, self.reserved, layout, page_table)?;
                }
                Ok(Self { reserved: 0, ..*self })
            }

            fn raw(&self) -> Raw {
                Raw {
                    address: self.data.expose_provenance() as u64,
                    len: self.len,
                    dtype: self.dtype,
                    reserved: self.reserved,
                }
            }

            /// # Safety
            /// The memory is the caller's as the header's head says, until what is queued with the view has ended.
            #[doc = $aliasing]
            pub(super) unsafe fn of<'a, T: Element>(
                &self,
                what: &'static str,
                queue: &Queue,
            ) -> Outcome<$view<'a, T>> {
                let raw = self.raw();
                let len = raw.check::<T>(what)?;
                // SAFETY: aligned; the rest is the caller's word.
                Ok(unsafe { $view::from_raw(raw.address, len, queue.memory()) })
            }

            /// # Safety
            /// As [`of`](Self::of).
            pub(super) unsafe fn optional<'a, T: Element>(
                &self,
                what: &'static str,
                queue: &Queue,
            ) -> Outcome<Option<$view<'a, T>>> {
                if self.is_none() {
                    return Ok(None);
                }
                // SAFETY: the caller's word.
                unsafe { self.of(what, queue) }.map(Some)
            }

            /// What is left out is a view of nothing, which a workspace of no elements may be.
            ///
            /// # Safety
            /// As [`of`](Self::of).
            pub(super) unsafe fn or_empty<'a, T: Element>(
                &self,
                what: &'static str,
                queue: &Queue,
            ) -> Outcome<$view<'a, T>> {
                // SAFETY: the caller's word; of no elements there is no memory.
                unsafe {
                    let view = self.optional(what, queue)?;
                    Ok(view.unwrap_or_else(|| $view::from_raw(0, 0, queue.memory())))
                }
            }
        }
    };
}

views!(lacuna_view, View, "");
views!(lacuna_view_mut, ViewMut, "Nothing else uses it meanwhile.");

impl lacuna_view {
    pub(super) fn new<T: Element>(view: &View<'_, T>) -> Self {
        Self {
            data: std::ptr::with_exposed_provenance(view.address() as usize),
            len: view.len() as u64,
            dtype: dtype::number::<T>(),
            reserved: 0,
        }
    }
}
