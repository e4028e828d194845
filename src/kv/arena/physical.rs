//! Memory behind addresses: a device's, or what stands for it in the SIMT executor.

#[cfg(feature = "simt")]
use crate::Error;
use crate::Result;

/// Addresses, chunks of memory, and what of a queue's work has ended. Only the mapper calls what makes, moves and ends
/// memory.
pub(crate) trait Physical: Send + Sync + std::fmt::Debug {
    /// The first address.
    fn address(&self) -> u64;

    /// Called once, by the thread that calls the rest.
    fn begin(&self) -> Result<()>;

    /// Makes a chunk; `None` where memory is short.
    fn create(&self) -> Result<Option<u64>>;

    /// Puts a chunk where none is. Nobody may use it yet.
    fn map(&self, offset: u64, chunk: u64) -> Result<()>;

    /// Makes chunks that follow each other usable.
    fn allow(&self, offset: u64, n_chunks: u64) -> Result<()>;

    /// Takes away the chunk that is there, which no work uses any more.
    fn unmap(&self, offset: u64) -> Result<()>;

    /// Ends a chunk that is mapped nowhere.
    fn release(&self, chunk: u64) -> Result<()>;

    /// Remembers, for an owner, the work that is queued now.
    fn mark(&self, owner: usize) -> Result<()>;

    /// Whether that work has ended.
    fn is_past(&self, owner: usize) -> Result<bool>;

    /// Waits for its end.
    fn wait_past(&self, owner: usize) -> Result<()>;

    /// Waits for all work of the queue.
    fn synchronize(&self) -> Result<()>;

    /// Whether the addresses are still in use when nobody asks for them any more.
    fn keep(&self, is_kept: bool);
}

/// Host memory, all of which is there from the beginning. A chunk that is mapped holds NaN, as a device's may hold
/// anything, and so does a place that lost its chunk.
#[cfg(feature = "simt")]
#[derive(Debug)]
pub(super) struct HostRange {
    memory: crate::simt::HostMemory,
    chunk_bytes: u64,
    n_chunks: std::sync::atomic::AtomicU64,
}

#[cfg(feature = "simt")]
impl HostRange {
    /// What stands for a device's granularity.
    pub(super) const GRANULARITY: u64 = 4096;

    pub(super) fn reserve(n_bytes: u64, chunk_bytes: u64) -> Result<Self> {
        let memory = usize::try_from(n_bytes).ok().and_then(crate::simt::HostMemory::zeroed);
        let allowed = "the memory of this machine";
        let memory = memory.ok_or(Error::Range {
            what: "bytes of a growing cache",
            value: n_bytes,
            allowed,
        })?;
        Ok(Self { memory, chunk_bytes, n_chunks: 0.into() })
    }

    #[allow(unsafe_code)]
    fn spoil(&self, offset: u64) {
        let address = (self.memory.address() + offset) as usize;
        // SAFETY: a chunk inside the memory, which no launch uses: it is mapped to no slot's live part.
        unsafe {
            std::ptr::with_exposed_provenance_mut::<u8>(address)
                .write_bytes(0xFF, self.chunk_bytes as usize);
        }
    }
}

#[cfg(feature = "simt")]
impl Physical for HostRange {
    fn address(&self) -> u64 {
        self.memory.address()
    }

    fn begin(&self) -> Result<()> {
        Ok(())
    }

    fn create(&self) -> Result<Option<u64>> {
        Ok(Some(self.n_chunks.fetch_add(1, std::sync::atomic::Ordering::Relaxed)))
    }

    fn map(&self, offset: u64, _chunk: u64) -> Result<()> {
        self.spoil(offset);
        Ok(())
    }

    fn allow(&self, _offset: u64, _n_chunks: u64) -> Result<()> {
        Ok(())
    }

    fn unmap(&self, offset: u64) -> Result<()> {
        self.spoil(offset);
        Ok(())
    }

    fn release(&self, _chunk: u64) -> Result<()> {
        Ok(())
    }

    fn mark(&self, _owner: usize) -> Result<()> {
        Ok(())
    }

    fn is_past(&self, _owner: usize) -> Result<bool> {
        Ok(true)
    }

    fn wait_past(&self, _owner: usize) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn keep(&self, _is_kept: bool) {}
}
