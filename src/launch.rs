//! The one launch of the crate, for both executors.
#![allow(unsafe_code)]

use crate::buffer::{View, ViewMut};
use crate::element::Element;
pub(crate) use crate::error::check_same;
use crate::queue::{Inner, Queue};
use crate::region::{Regions, Role};
use crate::{Error, Result};

/// A kernel: its name, and where it is compiled for the SIMT executor.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// The room whose image holds it.
    pub room: &'static str,
    /// Its entry in the image.
    pub entry: &'static str,
    /// The same kernel, compiled by the host compiler.
    #[cfg(feature = "simt")]
    pub simt: crate::simt::Entry,
}

/// How many threads run a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Thread blocks in x, y and z: below 2^31, 2^16 and 2^16. A zero is a launch of nothing.
    pub blocks: [u32; 3],
    /// Threads of a block in x, y and z: up to 1,024, 1,024 and 64, and 1,024 together.
    pub threads: [u32; 3],
    /// Dynamic shared memory of a block.
    pub dynamic_shared_bytes: u32,
    /// Blocks of a cluster, along x: 1 to 16, 1 being none, and the blocks in x are a multiple of it. A
    /// queue takes up to [`Queue::most_cluster_blocks`].
    pub cluster_blocks: u32,
}

/// The most blocks of a cluster that any device runs.
const MOST_CLUSTER_BLOCKS: u32 = 16;

impl Grid {
    fn is_empty(&self) -> bool {
        self.blocks.contains(&0)
    }

    fn check(&self) -> Result<()> {
        let [blocks_x, blocks_y, blocks_z] = self.blocks;
        check_range("thread blocks in x", blocks_x, 0, i32::MAX as u32, "0..2^31")?;
        check_range("thread blocks in y", blocks_y, 0, 65_535, "0..=65535")?;
        check_range("thread blocks in z", blocks_z, 0, 65_535, "0..=65535")?;
        let [threads_x, threads_y, threads_z] = self.threads;
        check_range("threads of a block in x", threads_x, 1, 1024, "1..=1024")?;
        check_range("threads of a block in y", threads_y, 1, 1024, "1..=1024")?;
        check_range("threads of a block in z", threads_z, 1, 64, "1..=64")?;
        let n_threads = threads_x * threads_y * threads_z;
        check_range("threads of a block", n_threads, 1, 1024, "1..=1024")?;
        let cluster_blocks = self.cluster_blocks;
        check_range(
            "thread blocks of a cluster",
            cluster_blocks,
            1,
            MOST_CLUSTER_BLOCKS,
            "1..=16",
        )?;
        if blocks_x.is_multiple_of(cluster_blocks) {
            return Ok(());
        }
        Err(Error::Range {
            what: "thread blocks in x",
            value: blocks_x.into(),
            allowed: "the multiples of the thread blocks of a cluster",
        })
    }
}

fn check_range(
    what: &'static str,
    value: u32,
    least: u32,
    most: u32,
    allowed: &'static str,
) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::Range { what, value: value.into(), allowed })
}

/// A kernel's one parameter, passed by value.
///
/// # Safety
/// The type is generated from the C header that the kernel named by `KERNEL` takes its parameter
/// from.
pub unsafe trait KernelParams: Copy + 'static {
    /// The kernel that takes it.
    const KERNEL: Kernel;
}

/// Says which kernel takes a struct of `bindings`: its room, and its entry in the images and, by the same
/// name, in the executor.
macro_rules! kernel_params {
    ($params:ty, $room:literal, $entry:literal) => {
        // SAFETY: the struct is generated from the header that the entry takes its parameter from,
        // and tests/images.rs holds its size against every image.
        unsafe impl $crate::launch::KernelParams for $params {
            const KERNEL: $crate::launch::Kernel = $crate::launch::Kernel {
                room: $room,
                entry: $entry,
                #[cfg(feature = "simt")]
                simt: {
                    unsafe extern "C" {
                        #[link_name = concat!("lacuna_simt_", $entry)]
                        fn entry(params: *const core::ffi::c_void, is_checked: u32);
                    }
                    entry
                },
            };
        }
    };
}
pub(crate) use kernel_params;

/// Launches a kernel on a queue.
///
/// # Stream
/// One launch, and nothing else once the device is warmed up; else the first launch of a room on a
/// device loads its image.
///
/// # Errors
/// [`Error::Range`] for a grid no device takes; [`Error::Image`] and [`Error::Driver`] from CUDA;
/// `Error::Simt` where the executor stopped the kernel.
///
/// `memory` names the buffers that `params` refers to, each with what the launch does with it. Only
/// the SIMT executor asks for it, to hold the kernel to it.
///
/// # Safety
/// Every address in `params` is valid for what the fields' documentation says, in the memory of
/// `queue`, until the launch has ended.
pub unsafe fn launch<P: KernelParams>(
    queue: &Queue,
    grid: &Grid,
    params: &P,
    #[cfg_attr(not(feature = "simt"), allow(unused_variables))] memory: impl FnOnce(&mut Regions),
) -> Result<()> {
    grid.check()?;
    if grid.is_empty() {
        return Ok(());
    }
    match queue.inner {
        #[cfg(feature = "cuda")]
        // SAFETY: passed on to the caller; the stream belongs to the device.
        Inner::Cuda(ref stream) => unsafe {
            launch_raw(stream.device(), stream.handle(), grid, params)
        },
        #[cfg(feature = "simt")]
        Inner::Simt(ref config) => {
            let launch = crate::simt::Launch {
                kernel: P::KERNEL.entry,
                entry: config
                    .substitute
                    .map_or(P::KERNEL.simt, |substitute| substitute.of(P::KERNEL.simt)),
                grid: grid.blocks,
                block: grid.threads,
                dynamic_shared_bytes: grid.dynamic_shared_bytes,
                cluster_blocks: grid.cluster_blocks,
            };
            let mut regions = Regions::default();
            memory(&mut regions);
            let address = std::ptr::from_ref(params).cast();
            // SAFETY: passed on to the caller; `P` is the entry's parameter.
            unsafe { crate::simt::launch(config, &launch, address, size_of::<P>(), &regions.list) }
                .map_err(Error::Simt)
        }
    }
}

/// The memory of one launch, view by view: each is in the queue's memory and as long as the plan says,
/// and what remains is its address for the params struct.
#[derive(Debug)]
pub(crate) struct Arguments<'q> {
    queue: &'q Queue,
    regions: Regions,
}

impl<'q> Arguments<'q> {
    pub(crate) fn new(queue: &'q Queue) -> Self {
        Self { queue, regions: Regions::default() }
    }

    /// The workspace, of which parts become arguments by names of their own.
    pub(crate) fn check_workspace<T: Element>(
        &self,
        view: &ViewMut<'_, T>,
        len: u64,
    ) -> Result<()> {
        self.queue.check_view_mut("workspace", view)?;
        check_same("workspace", len, view.len())
    }

    /// An input of `len` elements.
    pub(crate) fn input<T: Element>(
        &mut self,
        what: &'static str,
        view: &View<'_, T>,
        len: u64,
    ) -> Result<u64> {
        self.queue.check_view(what, view)?;
        check_same(what, len, view.len())?;
        // On CUDA nobody asks for the list, and a launch there allocates nothing.
        if !self.queue.memory().is_cuda() {
            self.regions.input(what, view);
        }
        Ok(view.address())
    }

    /// An input of `len` elements, or a null pointer.
    pub(crate) fn optional_input<T: Element>(
        &mut self,
        what: &'static str,
        view: Option<&View<'_, T>>,
        len: u64,
    ) -> Result<u64> {
        view.map_or(Ok(0), |view| self.input(what, view, len))
    }

    /// `len` elements that the launch may write.
    pub(crate) fn written<T: Element>(
        &mut self,
        role: Role,
        what: &'static str,
        view: &ViewMut<'_, T>,
        len: u64,
    ) -> Result<u64> {
        self.queue.check_view_mut(what, view)?;
        check_same(what, len, view.len())?;
        if !self.queue.memory().is_cuda() {
            self.regions.written(role, what, view);
        }
        Ok(view.address())
    }

    /// `len` elements that the launch may write, or a null pointer.
    pub(crate) fn optional_written<T: Element>(
        &mut self,
        role: Role,
        what: &'static str,
        view: Option<&ViewMut<'_, T>>,
        len: u64,
    ) -> Result<u64> {
        view.map_or(Ok(0), |view| self.written(role, what, view, len))
    }

    /// As [`launch`].
    ///
    /// # Errors
    /// Those of [`launch`].
    ///
    /// # Safety
    /// Those of [`launch`]; every address in `params` that is not null came from these arguments.
    pub(crate) unsafe fn launch<P: KernelParams>(self, grid: &Grid, params: &P) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { launch(self.queue, grid, params, |regions| *regions = self.regions) }
    }
}

/// Refuses an address that is not a multiple of what the kernel reads at once.
pub(crate) fn check_aligned(
    what: &'static str,
    address: u64,
    alignment: u64,
    allowed: &'static str,
) -> Result<()> {
    if address.is_multiple_of(alignment) {
        return Ok(());
    }
    Err(Error::Range { what, value: address, allowed })
}

/// Launches a kernel on an engine's stream: for callers with their own allocator.
///
/// # Stream
/// Exactly one `cuLaunchKernel` on `stream` once the device is warmed up, of clusters one
/// `cuLaunchKernelEx`: no allocation, copy, event or wait. The calling thread's current context is the same afterwards.
///
/// # Errors
/// [`Error::Range`] for a grid the device does not take, or clusters that the kernel's image for it
/// knows nothing of; [`Error::Image`] and [`Error::Driver`]. A launch that would load its image while `stream` is being captured is refused, so that the
/// capture stays valid.
///
/// # Safety
/// `stream` is a live stream of the device's primary context, and every address in `params` is
/// valid for what the fields' documentation says until the launch has ended.
#[cfg(feature = "cuda")]
pub unsafe fn launch_raw<P: KernelParams>(
    device: &crate::Device,
    stream: cudarc::driver::sys::CUstream,
    grid: &Grid,
    params: &P,
) -> Result<()> {
    grid.check()?;
    if grid.is_empty() {
        return Ok(());
    }
    let _entered = device.enter()?;
    // SAFETY: the stream is a live one, by the caller's word.
    let function = unsafe { device.function(P::KERNEL.room, P::KERNEL.entry, stream) }?;
    let [dynamic_shared_bytes, most] = [grid.dynamic_shared_bytes, function.dynamic_shared_bytes];
    let allowed = "what the device leaves beside the kernel's static shared memory";
    check_range("dynamic shared memory of a block", dynamic_shared_bytes, 0, most, allowed)?;
    if grid.cluster_blocks > 1 && !function.has_clusters {
        let allowed = "1: its image for this device has no clusters";
        return Err(Error::Range {
            what: "thread blocks of a cluster",
            value: grid.cluster_blocks.into(),
            allowed,
        });
    }
    let mut arguments = [std::ptr::from_ref(params).cast_mut().cast::<core::ffi::c_void>()];
    if grid.cluster_blocks > 1 {
        // SAFETY: as below.
        return unsafe { launch_clusters(&function, stream, grid, &mut arguments) };
    }
    // SAFETY: the function takes one parameter of type `P`, which the driver copies before it
    // returns; the rest is passed on to the caller.
    let code = unsafe {
        cudarc::driver::sys::cuLaunchKernel(
            function.handle,
            grid.blocks[0],
            grid.blocks[1],
            grid.blocks[2],
            grid.threads[0],
            grid.threads[1],
            grid.threads[2],
            dynamic_shared_bytes,
            stream,
            arguments.as_mut_ptr(),
            std::ptr::null_mut(),
        )
    };
    crate::device::check("cuLaunchKernel", code)
}

/// # Safety
/// That of [`launch_raw`], and the function takes what `arguments` points to.
#[cfg(feature = "cuda")]
unsafe fn launch_clusters(
    function: &crate::device::Function,
    stream: cudarc::driver::sys::CUstream,
    grid: &Grid,
    arguments: &mut [*mut core::ffi::c_void; 1],
) -> Result<()> {
    use cudarc::driver::sys;
    // SAFETY: all of it is plain data, for which zeros are right.
    let mut attribute: sys::CUlaunchAttribute = unsafe { core::mem::zeroed() };
    attribute.id = sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attribute.value.clusterDim.x = grid.cluster_blocks;
    attribute.value.clusterDim.y = 1;
    attribute.value.clusterDim.z = 1;
    let config = sys::CUlaunchConfig {
        gridDimX: grid.blocks[0],
        gridDimY: grid.blocks[1],
        gridDimZ: grid.blocks[2],
        blockDimX: grid.threads[0],
        blockDimY: grid.threads[1],
        blockDimZ: grid.threads[2],
        sharedMemBytes: grid.dynamic_shared_bytes,
        hStream: stream,
        attrs: &raw mut attribute,
        numAttrs: 1,
    };
    // SAFETY: the driver copies config, attribute and parameter before it returns; the rest is passed
    // on to the caller.
    let code = unsafe {
        sys::cuLaunchKernelEx(
            &config,
            function.handle,
            arguments.as_mut_ptr(),
            std::ptr::null_mut(),
        )
    };
    crate::device::check("cuLaunchKernelEx", code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(blocks: [u32; 3], threads: [u32; 3]) -> Result<(), String> {
        check_clusters(blocks, threads, 1)
    }

    fn check_clusters(
        blocks: [u32; 3],
        threads: [u32; 3],
        cluster_blocks: u32,
    ) -> Result<(), String> {
        let grid = Grid { blocks, threads, dynamic_shared_bytes: 0, cluster_blocks };
        grid.check().map_err(|e| e.to_string())
    }

    #[test]
    fn clusters_divide_the_blocks_in_x() {
        for (blocks_x, cluster_blocks, message) in [
            (0, 16, None),
            (12, 1, None),
            (12, 3, None),
            (32, 16, None),
            (12, 0, Some("thread blocks of a cluster: 0 is outside 1..=16")),
            (34, 17, Some("thread blocks of a cluster: 17 is outside 1..=16")),
            (
                12,
                8,
                Some(
                    "thread blocks in x: 12 is outside the multiples of the thread blocks of a \
                     cluster",
                ),
            ),
        ] {
            let expected = message.map_or(Ok(()), |message| Err(message.to_owned()));
            assert_eq!(check_clusters([blocks_x, 3, 1], [1; 3], cluster_blocks), expected);
        }
    }

    #[test]
    fn the_largest_grids_of_cuda_pass() {
        assert_eq!(check([i32::MAX as u32, 65_535, 65_535], [1024, 1, 1]), Ok(()));
        assert_eq!(check([1, 1, 1], [4, 4, 64]), Ok(()));
        assert_eq!(check([0, 1, 1], [1, 1, 1]), Ok(()));
    }

    #[test]
    fn each_dimension_past_its_limit_is_named() {
        for (blocks, threads, message) in [
            ([1 << 31, 1, 1], [1; 3], "thread blocks in x: 2147483648 is outside 0..2^31"),
            ([1, 65_536, 1], [1; 3], "thread blocks in y: 65536 is outside 0..=65535"),
            ([1, 1, 65_536], [1; 3], "thread blocks in z: 65536 is outside 0..=65535"),
            ([1; 3], [1025, 1, 1], "threads of a block in x: 1025 is outside 1..=1024"),
            ([1; 3], [1, 0, 1], "threads of a block in y: 0 is outside 1..=1024"),
            ([1; 3], [1, 1, 65], "threads of a block in z: 65 is outside 1..=64"),
            ([1; 3], [1024, 2, 1], "threads of a block: 2048 is outside 1..=1024"),
            ([1; 3], [u32::MAX; 3], "threads of a block in x: 4294967295 is outside 1..=1024"),
        ] {
            assert_eq!(check(blocks, threads), Err(message.to_owned()));
        }
    }
}
