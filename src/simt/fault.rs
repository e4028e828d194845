//! What the executor found wrong with a kernel.

use std::fmt;

use super::Schedule;

/// What a kernel did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// Not all threads of a block, or of a cluster, reached the same barrier.
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
    /// Threads that the machine has no memory for; more threads than the kernel is compiled for; a
    /// thread with more local memory than a GPU gives it.
    Resources,
    /// An access outside every buffer of the launch and outside the block's shared memory, or an
    /// index past the end of an array; a block that its cluster does not have.
    OutOfBounds,
    /// A vector access to an address that is no multiple of its size.
    Misaligned,
    /// A write to a buffer that the launch may only read.
    WriteToInput,
    /// Two accesses, one of them a write, that nothing orders: whatever this schedule made of it.
    Race,
    /// A read of shared memory, an output or a workspace before anything wrote it.
    UnwrittenRead,
    /// An output that the launch left unwritten in part.
    UnwrittenOutput,
    /// An access to what an asynchronous copy has still to write, a write to what it has still to
    /// read, or a copy that nobody waits for.
    AsyncCopy,
    /// What C++ leaves undefined, and the two executors do differently: a shift by the width of its
    /// type or more, a division by zero, a conversion or a sum that overflows.
    Undefined,
    /// A request that takes more passes over the banks of shared memory than its budget.
    BankConflict,
    /// A request that touches more 32-byte sectors than its budget.
    Sectors,
    /// A tensor core's result that no hardware has answered for.
    Unsettled,
    /// An access to shared memory of another block of the cluster, which may not have begun or may have
    /// returned.
    AbsentBlock,
}

impl FaultKind {
    pub(super) fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => return None,
            1 => Self::BarrierDivergence,
            2 => Self::WarpMask,
            3 => Self::Deadlock,
            4 => Self::StepBudget,
            5 => Self::SharedMemory,
            7 => Self::OutOfBounds,
            8 => Self::Misaligned,
            9 => Self::WriteToInput,
            10 => Self::Race,
            11 => Self::UnwrittenRead,
            12 => Self::UnwrittenOutput,
            13 => Self::AsyncCopy,
            14 => Self::Undefined,
            15 => Self::BankConflict,
            16 => Self::Sectors,
            17 => Self::Unsettled,
            18 => Self::AbsentBlock,
            _ => Self::Resources,
        })
    }

    /// The kind in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::BarrierDivergence => "divergent barrier",
            Self::WarpMask => "wrong warp mask",
            Self::Deadlock => "deadlock",
            Self::StepBudget => "step budget exhausted",
            Self::SharedMemory => "too much shared memory",
            Self::Resources => "out of resources",
            Self::OutOfBounds => "access out of bounds",
            Self::Misaligned => "misaligned access",
            Self::WriteToInput => "write to an input",
            Self::Race => "race",
            Self::UnwrittenRead => "read of unwritten memory",
            Self::UnwrittenOutput => "unwritten output",
            Self::AsyncCopy => "access to an unfinished copy",
            Self::Undefined => "undefined behaviour",
            Self::BankConflict => "bank conflict over budget",
            Self::Unsettled => "unsettled result of a tensor core",
            Self::AbsentBlock => "use of an absent block",
            Self::Sectors => "uncoalesced access over budget",
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
    /// Of a race: where the other access is. Of an access to an unfinished copy: where it began.
    pub other: Option<(String, u32)>,
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
        write!(f, ": {message}")?;
        if let Some((file, line)) = &self.other {
            write!(f, "; the other is at {file}:{line}")?;
        }
        write!(f, " (schedule {schedule:?}, seed {seed} replays it)")
    }
}

impl std::error::Error for Fault {}

/// Source file and line of the call that returns to `pc`.
pub(super) fn locate(pc: u64) -> Option<(String, u32)> {
    if pc == 0 {
        return None;
    }
    let mut location = None;
    // `pc` is behind the call, and may be of the next line already: the crate looks one byte before.
    backtrace::resolve(std::ptr::without_provenance_mut(pc as usize), |symbol| {
        if let (Some(file), Some(line)) = (symbol.filename(), symbol.lineno()) {
            // What is inlined comes first: CUDA's own functions are no one's mistake, and what the
            // house shares is called by a kernel's line.
            let is_shared = file.ends_with("simt/cuda.h")
                || file.parent().is_some_and(|f| f.ends_with("common"));
            if location.is_none() && !is_shared {
                location = Some((file.display().to_string(), line));
            }
        }
    });
    location
}
