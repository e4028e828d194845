//! A kernel at one shape, and what is done with it.

use lacuna::Queue;

use super::gpu::Gpu;

/// A kernel at one shape.
pub(crate) trait Case {
    /// The room and the kernel's name, as `huffman/decode_bf16`.
    fn kernel(&self) -> &'static str;

    /// For people, and the same on every machine.
    fn shape(&self) -> String;

    /// Whether it is small enough for checks, and for the SIMT executor; others are timed alone.
    fn is_small(&self) -> bool;

    /// What a launch may cost, by the executor's counters; asked of small ones.
    fn budget(&self) -> Budget;

    /// Whether its time says anything.
    fn is_timed(&self) -> bool {
        true
    }

    /// Whether a device runs it, and why not.
    fn unsupported(&self, _queue: &Queue) -> Option<String> {
        None
    }

    /// Makes its inputs, of random data, and what must come of them on this queue, whose tensor cores have a model
    /// ([`Queue::mma_model`]) or are `unsupported` by what multiplies with them.
    fn prepare(&self, queue: &Queue) -> Box<dyn Problem>;
}

/// What a launch may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Bytes moved, over the least.
    pub(crate) bytes: f64,
    pub(crate) sectors_per_request: f64,
    pub(crate) conflict_ways: f64,
    /// Of one thread block.
    pub(crate) barriers: f64,
}

/// Inputs on the host, and what must come of them.
pub(crate) trait Problem {
    /// Bytes that any kernel of this kind reads and writes.
    fn least_bytes(&self) -> u64;

    /// What every launch must leave, bit for bit.
    fn expected(&self) -> &[u8];

    /// The inputs in a queue's memory, ready to be launched.
    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>>;

    /// The same rows by other grids and among other rows; each must leave what is expected.
    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>>;

    /// Others that do the same, on the same data.
    fn peers(&self) -> Vec<Box<dyn Peer + '_>> {
        Vec::new()
    }
}

/// Something that can be launched again and again.
pub(crate) trait Work {
    /// One launch, or the fewest that do the same; it allocates nothing and waits for nothing.
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()>;

    /// Overwrites the output with what no launch leaves.
    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()>;

    /// What the last launch left.
    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>>;
}

/// Somebody else's kernel for the same.
pub(crate) trait Peer {
    /// The same in every run.
    fn name(&self) -> &'static str;

    /// Of what is at hand, where that says.
    fn version(&self) -> Option<String>;

    /// Where it lives in a process of its own: what that measured on so many sets of inputs, as the house does.
    fn time_itself(&self, _n_sets: u64) -> Option<Result<SelfTimed, String>> {
        None
    }

    /// Its inputs in device memory; or why it cannot run.
    fn place(&self, gpu: &Gpu) -> Result<Box<dyn Work>, String>;
}

/// What a peer says of itself.
#[derive(Debug)]
pub(crate) struct SelfTimed {
    /// Microseconds of one launch.
    pub(crate) time_us: f64,
    pub(crate) version: Option<String>,
}

/// Fills a buffer with bytes that no output is full of.
pub(crate) fn poison<T: lacuna::Element>(
    queue: &Queue,
    target: &mut lacuna::Buffer<T>,
) -> lacuna::Result<()> {
    let mut elements = vec![T::zeroed(); target.len()];
    bytemuck::cast_slice_mut::<T, u8>(&mut elements).fill(0xA5);
    queue.upload_into(&elements, &mut target.view_mut())
}
