//! The SIMT executor: the crate's CUDA kernels on the CPU, one fibre per CUDA thread.
//!
//! A kernel's `.cu` file is compiled by the host compiler against `csrc/simt/`: barriers, warp
//! collectives, atomics, shared memory, asynchronous copies and tensor cores are real, and each
//! schedule runs the threads of a block in another order, and those of all blocks of a cluster. It is
//! how kernels are tested on a machine without a GPU; it is not a product backend.
//!
//! [`Config::checks`] sees every access of a launch before it happens: bounds, alignment, races,
//! memory that nothing wrote. [`Config::recorder`] counts what the accesses cost, by source line.
//! A [`Fault`] names kernel, block, thread, source line, schedule and seed. What happens inside a
//! block depends on schedule, seed and block alone, so the same [`Config`] replays it.
//!
//! ```
//! use lacuna::Queue;
//! use lacuna::simt::{Checks, Config, Recorder};
//!
//! let recorder = Recorder::default();
//! let config = Config { checks: Checks::ALL, recorder: Some(recorder.clone()), ..Config::default() };
//! let queue = Queue::simt(config);
//! // Launches on this queue are checked; what was wrong is an `Error::Simt`.
//! for launch in recorder.take() {
//!     println!("{}: {} bytes read", launch.kernel, launch.read_bytes());
//! }
//! ```
#![allow(unsafe_code)]

mod checks;
mod counters;
mod fault;
mod memory;
mod witness;

use std::ffi::{CStr, CString, c_char, c_void};
use std::thread::available_parallelism;

use crate::mma::{Answer, Model, Operand};
use crate::region::Region;

pub use checks::Checks;
pub use counters::{Counters, Direction, LineCounters, Recorder, Space};
pub use fault::{Fault, FaultKind};
pub(crate) use memory::HostMemory;
pub use witness::{Leaving, Left, Witness};

use counters::RawSite;

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
    /// What is checked; a launch with checks runs on one worker.
    pub checks: Checks,
    /// Whose tensor cores answer.
    pub mma: Model,
    /// Where the counters of each launch go; `None` counts nothing.
    pub recorder: Option<Recorder>,
    /// Every byte of a launch's outputs and workspace, and of a block's shared memory, before it begins: what was there
    /// is no part of what a kernel says, and neither is this.
    pub fill: u8,
    /// Where what each launch leaves goes; `None` looks at nothing.
    pub witness: Option<Witness>,
    /// What runs in place of a kernel: a changed one, of which a test shall show that it is noticed.
    pub substitute: Option<Substitute>,
}

/// A kernel in place of another, which takes the same parameter.
#[derive(Debug, Clone, Copy)]
pub struct Substitute {
    /// The kernel that would run.
    pub kernel: Entry,
    /// What runs.
    pub by: Entry,
}

impl Substitute {
    pub(crate) fn of(self, kernel: Entry) -> Entry {
        if std::ptr::fn_addr_eq(kernel, self.kernel) { self.by } else { kernel }
    }
}

impl PartialEq for Substitute {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::fn_addr_eq(self.kernel, other.kernel) && std::ptr::fn_addr_eq(self.by, other.by)
    }
}

impl Eq for Substitute {}

impl Default for Config {
    fn default() -> Self {
        Self {
            schedule: Schedule::InOrder,
            seed: 0,
            step_budget: 1 << 26,
            n_workers: available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)),
            fibres: Fibres::Native,
            checks: Checks::NONE,
            mma: Model::HOPPER,
            recorder: None,
            // A value that no kernel would compute.
            fill: 0xCD,
            witness: None,
            substitute: None,
        }
    }
}

/// A kernel as the host compiler made it: takes a pointer to its parameter struct, and whether the
/// twin that reports its accesses shall run.
pub type Entry = unsafe extern "C" fn(*const c_void, u32);

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
    /// Blocks of a cluster, along x: 1 to 16, and the grid's blocks in x are a multiple of it.
    pub cluster_blocks: u32,
}

#[repr(C)]
struct RawRegion {
    start: u64,
    n_bytes: u64,
    name: *const c_char,
    role: u32,
    reserved: u32,
}

#[repr(C)]
struct RawLaunch {
    entry: Entry,
    params: *const c_void,
    params_bytes: u64,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared_bytes: u32,
    cluster_blocks: u32,
    schedule: u32,
    fibres: u32,
    n_workers: u32,
    seed: u64,
    step_budget: u64,
    checks: u32,
    most_sectors: u32,
    most_conflict_ways: u32,
    mma_model: u32,
    fill: u32,
    regions: *const RawRegion,
    n_regions: u64,
    on_site: extern "C" fn(*mut c_void, *const RawSite),
    context: *mut c_void,
    totals: *mut [u64; 3],
}

#[repr(C)]
struct RawFault {
    kind: u32,
    block: [u32; 3],
    thread: [u32; 3],
    line: u32,
    file: *const c_char,
    pc: u64,
    other_pc: u64,
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
        Operand::E4M3 => 2,
        Operand::E5M2 => 3,
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
/// `params` points to the parameter struct of the entry, `params_bytes` long, and every one of `regions` is memory of the
/// caller, which is written where its role says so. Unless [`Checks::accesses`] is on, every address in the struct is valid
/// for what the kernel does with it.
pub unsafe fn launch(
    config: &Config,
    launch: &Launch<'_>,
    params: *const c_void,
    params_bytes: usize,
    regions: &[Region],
) -> Result<(), Box<Fault>> {
    if launch.grid.contains(&0) || launch.block.contains(&0) {
        return Ok(());
    }
    let names: Vec<_> =
        regions.iter().map(|region| CString::new(&*region.name).unwrap_or_default()).collect();
    let raw_regions: Vec<_> = regions
        .iter()
        .zip(&names)
        .map(|(region, name)| RawRegion {
            start: region.address,
            n_bytes: region.n_bytes,
            name: name.as_ptr(),
            role: region.role as u32,
            reserved: 0,
        })
        .collect();
    let mut sites: Vec<RawSite> = Vec::new();
    let mut totals = [0; 3];
    let raw = RawLaunch {
        entry: launch.entry,
        params,
        params_bytes: params_bytes as u64,
        grid: launch.grid,
        block: launch.block,
        dynamic_shared_bytes: launch.dynamic_shared_bytes,
        cluster_blocks: launch.cluster_blocks,
        schedule: config.schedule as u32,
        fibres: config.fibres as u32,
        n_workers: config.n_workers,
        seed: config.seed,
        step_budget: config.step_budget,
        checks: config.checks.bits(config.recorder.is_some()),
        most_sectors: config.checks.most_sectors,
        most_conflict_ways: config.checks.most_conflict_ways,
        mma_model: u32::from(config.mma == Model::HOPPER),
        fill: config.fill.into(),
        regions: raw_regions.as_ptr(),
        n_regions: raw_regions.len() as u64,
        on_site: counters::push_site,
        context: (&raw mut sites).cast(),
        totals: &raw mut totals,
    };
    let mut fault = RawFault {
        kind: 0,
        block: [0; 3],
        thread: [0; 3],
        line: 0,
        file: std::ptr::null(),
        pc: 0,
        other_pc: 0,
        message: [0; 256],
    };
    // SAFETY: all structs are those of csrc/simt/executor.h, and what they point to outlives the
    // call; the entry and its parameter are the caller's word.
    unsafe { lacuna_simt_launch(&raw, &mut fault) };
    if let Some(witness) = &config.witness {
        // SAFETY: the caller's memory, which nothing writes any more.
        unsafe { witness.look(launch.kernel, regions) };
    }
    let Some(kind) = FaultKind::from_number(fault.kind) else {
        if let Some(recorder) = &config.recorder {
            let n_blocks = launch.grid.iter().map(|n| u64::from(*n)).product();
            recorder.push(Counters::new(launch.kernel, n_blocks, totals, &sites));
        }
        return Ok(());
    };
    // SAFETY: the executor always terminates the message.
    let message = unsafe { CStr::from_ptr(fault.message.as_ptr()) };
    let location = if fault.file.is_null() {
        fault::locate(fault.pc)
    } else {
        // SAFETY: a string literal of the kernel's file.
        let file = unsafe { CStr::from_ptr(fault.file) };
        Some((file.to_string_lossy().into_owned(), fault.line))
    };
    Err(Box::new(Fault {
        kind,
        kernel: launch.kernel.to_owned(),
        block: fault.block,
        thread: fault.thread,
        location,
        other: fault::locate(fault.other_pc),
        schedule: config.schedule,
        seed: config.seed,
        message: message.to_string_lossy().into_owned(),
    }))
}
