//! The SIMT executor: the crate's CUDA kernels on the CPU, one fibre per CUDA thread.
//!
//! A kernel's `.cu` file is compiled by the host compiler against `csrc/simt/`: barriers, warp
//! collectives, atomics and shared memory are real, and each schedule runs the threads of a block in
//! another order. It is how kernels are tested on a machine without a GPU; it is not a product
//! backend.
//!
//! A [`Fault`] names kernel, block, thread, source line, schedule and seed. What happens inside a
//! block depends on schedule, seed and block alone, so the same [`Config`] replays it.
#![allow(unsafe_code)]

use std::alloc::Layout;
use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::ptr::NonNull;
use std::thread::available_parallelism;

use crate::mma::{Answer, Model, Operand};

/// The order in which the threads of a block run between their barriers, and blocks in the grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u32)]
#[non_exhaustive]
pub enum Schedule {
    /// Threads and blocks in ascending order.
    #[default]
    InOrder = 0,
    /// Threads and blocks in descending order.
    Reverse = 1,
    /// Another order each round, threads interrupted between their collectives, blocks permuted;
    /// all by the seed.
    Random = 2,
    /// One warp, chosen by the seed, before all others.
    WarpFirst = 3,
    /// One lane of every warp, chosen by the seed, after all others.
    LaneLast = 4,
}

/// How fibres switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u32)]
pub enum Fibres {
    /// In assembly on x86-64; as `Portable` elsewhere.
    #[default]
    Native = 0,
    /// By `swapcontext`, everywhere.
    Portable = 1,
}

/// How the executor runs a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The order threads run in.
    pub schedule: Schedule,
    /// What the schedule's choices are drawn from.
    pub seed: u64,
    /// Basic blocks of the kernel that one thread may run; more is a fault.
    pub step_budget: u64,
    /// Operating-system threads that run blocks, at least 1.
    pub n_workers: u32,
    /// How fibres switch.
    pub fibres: Fibres,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            schedule: Schedule::InOrder,
            seed: 0,
            step_budget: 1 << 26,
            n_workers: available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)),
            fibres: Fibres::Native,
        }
    }
}

/// What a kernel did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// Not all threads of a block reached the same barrier.
    BarrierDivergence,
    /// A warp collective whose mask is not the set of lanes that reach it, or a shuffle from a lane
    /// outside it.
    WarpMask,
    /// Threads wait for each other at different places.
    Deadlock,
    /// A thread ran more steps than its budget.
    StepBudget,
    /// More shared memory than a block has.
    SharedMemory,
    /// The machine has no memory for the fibres.
    Resources,
}

impl FaultKind {
    fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => return None,
            1 => Self::BarrierDivergence,
            2 => Self::WarpMask,
            3 => Self::Deadlock,
            4 => Self::StepBudget,
            5 => Self::SharedMemory,
            _ => Self::Resources,
        })
    }

    fn describe(self) -> &'static str {
        match self {
            Self::BarrierDivergence => "divergent barrier",
            Self::WarpMask => "wrong warp mask",
            Self::Deadlock => "deadlock",
            Self::StepBudget => "step budget exhausted",
            Self::SharedMemory => "too much shared memory",
            Self::Resources => "out of memory",
        }
    }
}

/// Why the executor stopped a kernel, and how to see it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What went wrong.
    pub kind: FaultKind,
    /// The kernel's entry.
    pub kernel: String,
    /// The thread block, in x, y and z.
    pub block: [u32; 3],
    /// The thread, in x, y and z.
    pub thread: [u32; 3],
    /// Source file and line; `None` where the program carries no line numbers.
    pub location: Option<(String, u32)>,
    /// The schedule that showed it.
    pub schedule: Schedule,
    /// The seed that showed it.
    pub seed: u64,
    /// What was seen.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, block, thread, message, schedule, seed, .. } = self;
        write!(f, "{} in {kernel}, block {block:?}, thread {thread:?}", self.kind.describe())?;
        match &self.location {
            Some((file, line)) => write!(f, ", at {file}:{line}")?,
            None => f.write_str(", at an unknown line (built without line numbers)")?,
        }
        write!(f, ": {message} (schedule {schedule:?}, seed {seed} replays it)")
    }
}

impl std::error::Error for Fault {}

/// A kernel as the host compiler made it: takes a pointer to its parameter struct.
pub type Entry = unsafe extern "C" fn(*const c_void);

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// The kernel's name, for faults.
    pub kernel: &'a str,
    /// The kernel.
    pub entry: Entry,
    /// Blocks in x, y and z, none of them 0.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z; 1 to 1,024 together.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, at most 227 KiB.
    pub dynamic_shared_bytes: u32,
}

#[repr(C)]
struct RawLaunch {
    entry: Entry,
    params: *const c_void,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared_bytes: u32,
    schedule: u32,
    fibres: u32,
    n_workers: u32,
    seed: u64,
    step_budget: u64,
}

#[repr(C)]
struct RawFault {
    kind: u32,
    block: [u32; 3],
    thread: [u32; 3],
    line: u32,
    file: *const c_char,
    pc: u64,
    message: [c_char; 256],
}

unsafe extern "C" {
    fn lacuna_simt_launch(launch: *const RawLaunch, fault: *mut RawFault);
    fn lacuna_simt_dot_add(
        is_hopper: u32,
        operand: u32,
        a: *const u16,
        b: *const u16,
        n: u32,
        c: u32,
    ) -> u64;
}

/// [`Model::dot_add`] as kernels in the executor compute it: the model's twin in C++, for tests that
/// hold the two against each other.
///
/// # Panics
/// Where `a` and `b` have different lengths, or 2^32 elements.
pub fn dot_add(model: Model, operand: Operand, a: &[u16], b: &[u16], c: u32) -> Answer {
    assert_eq!(a.len(), b.len(), "as many of each operand");
    let n = u32::try_from(a.len()).expect("fewer than 2^32 products");
    let is_hopper = u32::from(model == Model::HOPPER);
    let operand = match operand {
        Operand::Bf16 => 0,
        Operand::F16 => 1,
    };
    // SAFETY: both slices have `n` elements, and the function only reads them.
    let answer = unsafe { lacuna_simt_dot_add(is_hopper, operand, a.as_ptr(), b.as_ptr(), n, c) };
    Answer { bits: answer as u32, is_settled: answer >> 32 == 1 }
}

/// Runs a kernel to its end.
///
/// # Errors
/// The [`Fault`] of the lowest block that has one. Other blocks may have run or not.
///
/// # Safety
/// `params` points to the parameter struct of the entry, and every address in it is valid for what
/// the kernel does with it: the executor, in this form, does not check accesses.
pub unsafe fn launch(
    config: &Config,
    launch: &Launch<'_>,
    params: *const c_void,
) -> Result<(), Box<Fault>> {
    if launch.grid.contains(&0) || launch.block.contains(&0) {
        return Ok(());
    }
    let raw = RawLaunch {
        entry: launch.entry,
        params,
        grid: launch.grid,
        block: launch.block,
        dynamic_shared_bytes: launch.dynamic_shared_bytes,
        schedule: config.schedule as u32,
        fibres: config.fibres as u32,
        n_workers: config.n_workers,
        seed: config.seed,
        step_budget: config.step_budget,
    };
    let mut fault = RawFault {
        kind: 0,
        block: [0; 3],
        thread: [0; 3],
        line: 0,
        file: std::ptr::null(),
        pc: 0,
        message: [0; 256],
    };
    // SAFETY: both structs are those of csrc/simt/executor.h; the entry and its parameter are the
    // caller's word.
    unsafe { lacuna_simt_launch(&raw, &mut fault) };
    let Some(kind) = FaultKind::from_number(fault.kind) else {
        return Ok(());
    };
    // SAFETY: the executor always terminates the message.
    let message = unsafe { CStr::from_ptr(fault.message.as_ptr()) };
    Err(Box::new(Fault {
        kind,
        kernel: launch.kernel.to_owned(),
        block: fault.block,
        thread: fault.thread,
        location: locate(&fault),
        schedule: config.schedule,
        seed: config.seed,
        message: message.to_string_lossy().into_owned(),
    }))
}

fn locate(fault: &RawFault) -> Option<(String, u32)> {
    if !fault.file.is_null() {
        // SAFETY: a string literal of the kernel's file.
        let file = unsafe { CStr::from_ptr(fault.file) };
        return Some((file.to_string_lossy().into_owned(), fault.line));
    }
    // The address is the one after the call, which may be of the next line already.
    let mut location = None;
    let address = fault.pc.checked_sub(1)? as usize;
    backtrace::resolve(std::ptr::without_provenance_mut(address), |symbol| {
        if let (Some(file), Some(line)) = (symbol.filename(), symbol.lineno()) {
            location = location.take().or(Some((file.display().to_string(), line)));
        }
    });
    location
}

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

    /// `None` where the size overflows or memory is short.
    pub(crate) fn zeroed(n_bytes: usize) -> Option<Self> {
        let layout = Layout::from_size_align(n_bytes.max(1), Self::ALIGNMENT).ok()?;
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })?;
        Some(Self { start, layout })
    }

    pub(crate) fn address(&self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and nothing borrows it any more.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), self.layout) }
    }
}
