//! What can go wrong, each kind with the values a caller needs to act on it.

use std::path::PathBuf;

#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::buffer::Memory;
use crate::huffman::indexed::CorruptTile;
use crate::huffman::{Corruption, TensorError};

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every failure of this crate. On `Err`, nothing was launched and no output was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No CUDA driver library could be loaded.
    #[error(
        "no CUDA driver: looked for {searched}; install the NVIDIA driver, or use the CPU decoder"
    )]
    NoDriver {
        /// The library names tried, and why one that is there does not load.
        searched: String,
    },
    /// A library with the driver's name that is not the driver (as toolkits and containers ship).
    #[error(
        "{library} is a stub, not the CUDA driver ({reason}); put the directory of the real \
         libcuda first in LD_LIBRARY_PATH, or start the container with GPU access"
    )]
    StubDriver {
        /// The library that was loaded.
        library: String,
        /// What gave it away.
        reason: String,
    },
    /// The driver is older than this crate's images and calls need.
    #[error(
        "the CUDA driver supports CUDA {}.{}, and {}.{} or newer is needed (driver 525 or newer); \
         update the driver",
        found / 1000, found % 1000 / 10, needed / 1000, needed % 1000 / 10
    )]
    DriverTooOld {
        /// `cuDriverGetVersion` of the machine, as `1000 * major + 10 * minor`.
        found: i32,
        /// The oldest version that works.
        needed: i32,
    },
    /// The driver works, and the asked device does not exist.
    #[error("no CUDA device {ordinal}: the driver sees {count}{hint}")]
    NoDevice {
        /// The device asked for.
        ordinal: usize,
        /// Devices the driver sees.
        count: usize,
        /// What to look at, or empty.
        hint: &'static str,
    },
    /// The device is older than any image of this crate.
    #[error(
        "device {ordinal} ({name}) has compute capability {}.{}; {}.{} or newer is supported",
        found.0, found.1, needed.0, needed.1
    )]
    UnsupportedDevice {
        /// The device asked for.
        ordinal: usize,
        /// Its name.
        name: String,
        /// Its compute capability.
        found: (u32, u32),
        /// The oldest that works.
        needed: (u32, u32),
    },
    /// A driver call failed.
    #[error("{call} failed: {name} ({code}){hint}")]
    Driver {
        /// The driver's function.
        call: &'static str,
        /// Its `CUresult`.
        code: u32,
        /// The name of that code.
        name: String,
        /// What to do about it, or empty.
        hint: String,
    },
    /// No image of the room loads on the device.
    #[error("no image of {room} loads on {device}: {reason}")]
    Image {
        /// The room whose kernels were asked for.
        room: &'static str,
        /// The device and its driver.
        device: String,
        /// The images tried and what the driver said.
        reason: String,
    },
    /// Two lengths or shapes that must agree do not.
    #[error("{what}: expected {expected}, got {got}")]
    Shape {
        /// The argument.
        what: &'static str,
        /// What it must be.
        expected: u64,
        /// What it is.
        got: u64,
    },
    /// A value outside what is supported.
    #[error("{what}: {value} is outside {allowed}")]
    Range {
        /// The argument.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What is supported.
        allowed: &'static str,
    },
    /// A number outside what is supported.
    #[error("{what}: {value} is outside {allowed}")]
    Number {
        /// The argument.
        what: &'static str,
        /// Its value.
        value: f32,
        /// What is supported.
        allowed: &'static str,
    },
    /// An element of a tensor that does not fit.
    #[error("{tensor}[{index}]: {value} is outside {allowed}")]
    Element {
        /// The tensor.
        tensor: &'static str,
        /// Which of its elements, as they lie.
        index: u64,
        /// It.
        value: f32,
        /// What fits.
        allowed: &'static str,
    },
    /// A buffer of one queue was given to another whose memory it is not.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    #[error("{what} is in {found}, and the queue works on {expected}")]
    WrongQueue {
        /// The argument.
        what: &'static str,
        /// What the queue works on.
        expected: Memory,
        /// Where the argument is.
        found: Memory,
    },
    /// A buffer was given to a queue on another stream than the one that orders its use.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    #[error(
        "{what} is in the order of another stream of {memory}; use that stream's queue, or have it \
         lend the memory (`Queue::lend`)"
    )]
    WrongStream {
        /// The argument.
        what: &'static str,
        /// Where both are.
        memory: Memory,
    },
    /// Memory parts of which are not there, as a growing cache's are, where all of it must be.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    #[error(
        "{what} is memory of a growing cache, parts of which are not there: it is reached as a cache, by the arena's \
         own layout and page table"
    )]
    Holes {
        /// The argument.
        what: &'static str,
    },
    /// Physical memory for a growing cache is short. All that was there is there, and what was mapped before it ran out
    /// is spare.
    #[error(
        "a growing cache needs {asked_bytes} bytes more{}, beside {mapped_bytes} that are mapped and {idle_bytes} that \
         are idle, and {}; release slots, or reserve for fewer",
        slot.map_or(String::new(), |slot| format!(" for slot {slot}")),
        limit_bytes.map_or("the device has no more".to_owned(), |n| format!("its limit is {n}"))
    )]
    ArenaFull {
        /// The slot that was to grow; of a stock, none.
        slot: Option<u64>,
        /// What is still lacking.
        asked_bytes: u64,
        /// What the arena has mapped.
        mapped_bytes: u64,
        /// What it has and has not mapped.
        idle_bytes: u64,
        /// Its limit, where that was in the way, and not the device.
        limit_bytes: Option<u64>,
    },
    /// The thread that maps memory ahead did not start, or is no more.
    #[error("the thread that maps memory of a growing cache: {reason}")]
    Mapper {
        /// What became of it.
        reason: String,
    },
    /// A part of device memory that is not inside it.
    #[error("elements {start}..{end} of device memory that holds {len}")]
    Slice {
        /// The first element asked for.
        start: usize,
        /// One past the last element asked for.
        end: usize,
        /// The elements there are.
        len: usize,
    },
    /// A tensor is not what the format allows.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A checkpoint's files do not fit the format or each other.
    #[cfg(feature = "files")]
    #[error(transparent)]
    Checkpoint(#[from] crate::huffman::CheckpointError),
    /// A file could not be read or written.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A decoder found its input corrupt; the output of the group is quiet NaNs.
    #[error("corrupt weights: {0}; get the file again")]
    Corrupt(#[from] Corruption),
    /// What an indexed decode launch found wrong with its tiles.
    #[error("corrupt weights: {0}; get the file again, and index it again")]
    CorruptTile(#[from] CorruptTile),
    /// The SIMT executor stopped a kernel.
    #[cfg(feature = "simt")]
    #[error(transparent)]
    Simt(#[from] Box<crate::simt::Fault>),
}

/// Two lengths agree.
pub(crate) fn check_same(what: &'static str, expected: u64, got: usize) -> Result<()> {
    let got = got as u64;
    if got == expected { Ok(()) } else { Err(Error::Shape { what, expected, got }) }
}

/// `value < limit`; `allowed` says so in words.
pub(crate) fn check_below(
    what: &'static str,
    value: u64,
    limit: u64,
    allowed: &'static str,
) -> Result<()> {
    if value < limit { Ok(()) } else { Err(Error::Range { what, value, allowed }) }
}

/// Refuses 0 too.
pub(crate) fn check_between(
    what: &'static str,
    value: u64,
    most: u64,
    allowed: &'static str,
) -> Result<()> {
    if (1..=most).contains(&value) { Ok(()) } else { Err(Error::Range { what, value, allowed }) }
}
