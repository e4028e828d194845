//! What the executor checks of a launch.

/// What is checked of a launch. Off, a check costs nothing: the kernel that runs is another, compiled
/// without a call in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Checks {
    /// Every access is inside a buffer of the launch, the block's shared memory, the kernel's
    /// constants or the thread's own memory, or inside shared memory of another block of the cluster
    /// while that is there; it is aligned as its type is, inputs are not written, and nothing is done
    /// that C++ leaves undefined.
    pub accesses: bool,
    /// No two accesses conflict without an order between them: in shared memory, in global memory,
    /// across blocks; whatever the schedule made of it. And none is to what an asynchronous copy has
    /// still to write, nor a write to what it has still to read.
    pub races: bool,
    /// No shared memory, output or workspace is read before it is written, and every output is
    /// written. A thread's own variables are not seen: the compiler's warnings are for those. Nor
    /// is a struct that a function takes or returns by value, where it is not inlined.
    pub unwritten: bool,
    /// No tensor core computes what the published models disagree on and no hardware has answered
    /// for; [`Answer::is_settled`](crate::mma::Answer::is_settled) says when.
    pub settled: bool,
    /// The most 32-byte sectors of global memory, or of another block's shared memory, that one request
    /// of a warp may touch; 0 is no budget.
    pub most_sectors: u32,
    /// The most passes over the banks of shared memory that one request of a warp may take; 0 is no
    /// budget.
    pub most_conflict_ways: u32,
}

impl Checks {
    /// No checks.
    pub const NONE: Self = Self {
        accesses: false,
        races: false,
        unwritten: false,
        settled: false,
        most_sectors: 0,
        most_conflict_ways: 0,
    };
    /// Every check but the budgets.
    pub const ALL: Self =
        Self { accesses: true, races: true, unwritten: true, settled: true, ..Self::NONE };

    /// The bits of Check in csrc/simt/checker.h.
    pub(super) fn bits(self, is_counted: bool) -> u32 {
        let is_counted = is_counted || self.most_sectors != 0 || self.most_conflict_ways != 0;
        u32::from(self.accesses)
            | u32::from(self.races) << 1
            | u32::from(self.unwritten) << 2
            | u32::from(is_counted) << 3
            | u32::from(self.settled) << 4
    }
}
