//! The memory that stands for a device's.
#![allow(unsafe_code)]

use std::alloc::Layout;
use std::ptr::NonNull;

/// Host memory for the SIMT executor, as aligned as device allocations are.
#[derive(Debug)]
pub(crate) struct HostMemory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory is owned, and reached only through borrows of the buffer that owns it.
unsafe impl Send for HostMemory {}
// SAFETY: as above; shared borrows only read.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    const ALIGNMENT: usize = 256;
    /// Bytes before and after, so that a step out of one buffer is not a step into the next.
    const ZONE: usize = 4096;

    /// `None` where the size overflows or memory is short.
    pub(crate) fn zeroed(n_bytes: usize) -> Option<Self> {
        let n_bytes = n_bytes.checked_add(2 * Self::ZONE + Self::ALIGNMENT)?;
        // Aligned here: of an allocator that is asked for it zeros are written, and large memory is there that
        // nobody needs.
        let layout = Layout::from_size_align(n_bytes, align_of::<u128>()).ok()?;
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })?;
        Some(Self { start, layout })
    }

    pub(crate) fn address(&self) -> u64 {
        let start = self.start.as_ptr().expose_provenance() + Self::ZONE;
        start.next_multiple_of(Self::ALIGNMENT) as u64
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and nothing borrows it any more.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), self.layout) }
    }
}
