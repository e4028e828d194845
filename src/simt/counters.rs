//! What a launch cost: traffic by source line, barriers, collectives, atomics.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use super::fault::locate;

/// The memory an instruction touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// Global memory.
    Global,
    /// Shared memory of the block.
    Shared,
    /// Shared memory of another block of the cluster.
    Distributed,
}

/// What an instruction does there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An atomic, or a volatile access.
    Atomic,
}

/// The accesses of one source line to one space, in one direction.
///
/// The n-th accesses of a warp's lanes at one instruction, counted from the last barrier, are one
/// request: what lanes that stay together do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineCounters {
    /// Source file and line; `None` where the program carries no line numbers.
    pub location: Option<(String, u32)>,
    /// The memory.
    pub space: Space,
    /// Loads, stores or atomics.
    pub direction: Direction,
    /// Requests of warps.
    pub n_requests: u64,
    /// Bytes that lanes asked for.
    pub n_bytes: u64,
    /// Of global memory, and of another block's shared memory, the 32-byte sectors that each request
    /// touches; of the block's own, the passes over its banks that it takes; summed over requests.
    pub n_units: u64,
    /// The most of one request.
    pub most_units: u64,
}

/// What one launch cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    /// The kernel's entry.
    pub kernel: String,
    /// Thread blocks.
    pub n_blocks: u64,
    /// Barriers, summed over blocks.
    pub n_barriers: u64,
    /// Warp collectives.
    pub n_collectives: u64,
    /// Atomics and volatile accesses of all threads.
    pub n_atomics: u64,
    /// By line, in the order of the source.
    pub lines: Vec<LineCounters>,
}

impl Counters {
    pub(super) fn new(kernel: &str, n_blocks: u64, totals: [u64; 3], sites: &[RawSite]) -> Self {
        let mut lines = BTreeMap::new();
        for site in sites {
            let space = match site.space {
                0 => Space::Global,
                1 => Space::Shared,
                _ => Space::Distributed,
            };
            let direction = match site.direction {
                0 => Direction::Read,
                1 => Direction::Write,
                _ => Direction::Atomic,
            };
            let location = locate(site.pc);
            let line = lines.entry((location.clone(), space, direction)).or_insert(LineCounters {
                location,
                space,
                direction,
                n_requests: 0,
                n_bytes: 0,
                n_units: 0,
                most_units: 0,
            });
            line.n_requests += site.n_requests;
            line.n_bytes += site.n_bytes;
            line.n_units += site.n_units;
            line.most_units = line.most_units.max(site.most_units);
        }
        let [n_barriers, n_collectives, n_atomics] = totals;
        let lines = lines.into_values().collect();
        Self { kernel: kernel.to_owned(), n_blocks, n_barriers, n_collectives, n_atomics, lines }
    }

    fn sum(&self, space: Space, direction: Direction, of: fn(&LineCounters) -> u64) -> u64 {
        let lines = self.lines.iter();
        lines.filter(|l| l.space == space && l.direction == direction).map(of).sum()
    }

    /// Bytes of global memory that loads move: 32 for each sector of each request, as if no cache
    /// served two requests at once.
    pub fn read_bytes(&self) -> u64 {
        32 * self.sum(Space::Global, Direction::Read, |line| line.n_units)
    }

    /// Bytes of global memory that stores move; as [`read_bytes`](Self::read_bytes).
    pub fn write_bytes(&self) -> u64 {
        32 * self.sum(Space::Global, Direction::Write, |line| line.n_units)
    }

    /// 32-byte sectors of global memory per request, on average; 0 without requests.
    pub fn sectors_per_request(&self) -> f64 {
        self.mean(Space::Global)
    }

    /// Passes over the banks of shared memory per request, on average; 0 without requests.
    pub fn conflict_ways(&self) -> f64 {
        self.mean(Space::Shared)
    }

    fn mean(&self, space: Space) -> f64 {
        let lines = || self.lines.iter().filter(|l| l.space == space);
        let n_requests: u64 = lines().map(|line| line.n_requests).sum();
        let n_units: u64 = lines().map(|line| line.n_units).sum();
        if n_requests == 0 { 0.0 } else { n_units as f64 / n_requests as f64 }
    }
}

/// Collects the counters of launches; a clone collects into the same.
#[derive(Debug, Clone, Default)]
pub struct Recorder {
    launches: Arc<Mutex<Vec<Counters>>>,
}

impl PartialEq for Recorder {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.launches, &other.launches)
    }
}

impl Eq for Recorder {}

impl Recorder {
    /// What was recorded since the last call, launch by launch.
    pub fn take(&self) -> Vec<Counters> {
        std::mem::take(&mut *self.launches.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn push(&self, counters: Counters) {
        self.launches.lock().unwrap_or_else(PoisonError::into_inner).push(counters);
    }
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawSite {
    pc: u64,
    space: u32,
    direction: u32,
    n_requests: u64,
    n_bytes: u64,
    n_units: u64,
    most_units: u64,
}

pub(super) extern "C" fn push_site(context: *mut c_void, site: *const RawSite) {
    // SAFETY: the context is the list that `launch` passed, which nothing else uses meanwhile, and
    // the site is a live one of the executor's.
    unsafe { (*context.cast::<Vec<RawSite>>()).push(*site) }
}
