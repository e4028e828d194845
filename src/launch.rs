//! The one launch of the crate, for both executors.
#![allow(unsafe_code)]

use crate::queue::{Inner, Queue};
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
    /// Thread blocks in x, y and z. A zero is a launch of nothing.
    pub blocks: [u32; 3],
    /// Threads of a block in x, y and z.
    pub threads: [u32; 3],
    /// Dynamic shared memory of a block.
    pub dynamic_shared_bytes: u32,
}

impl Grid {
    fn is_empty(&self) -> bool {
        self.blocks.contains(&0)
    }

    fn check(&self) -> Result<()> {
        let range = |what, value: u32, most: u32, allowed| {
            if value <= most {
                return Ok(());
            }
            Err(Error::Range { what, value: value.into(), allowed })
        };
        range("thread blocks in x", self.blocks[0], i32::MAX as u32, "0..2^31")?;
        range("thread blocks in y", self.blocks[1], 65_535, "0..=65535")?;
        range("thread blocks in z", self.blocks[2], 65_535, "0..=65535")?;
        let n_threads = self.threads.iter().map(|n| u64::from(*n)).product::<u64>();
        if !(1..=1024).contains(&n_threads) {
            return Err(Error::Range {
                what: "threads of a block",
                value: n_threads,
                allowed: "1..=1024",
            });
        }
        Ok(())
    }
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

/// Launches a kernel on a queue.
///
/// # Stream
/// One launch. The first of a room on a device loads its image, unless
/// `Device::warm_up` did.
///
/// # Errors
/// [`Error::Range`] for a grid no device takes; [`Error::Image`] and [`Error::Driver`] from CUDA;
/// `Error::Simt` where the executor stopped the kernel.
///
/// # Safety
/// Every address in `params` is valid for what the fields' documentation says, in the memory of
/// `queue`, until the launch has ended.
pub unsafe fn launch<P: KernelParams>(queue: &Queue, grid: &Grid, params: &P) -> Result<()> {
    grid.check()?;
    if grid.is_empty() {
        return Ok(());
    }
    match &queue.inner {
        #[cfg(feature = "cuda")]
        // SAFETY: passed on to the caller; the stream belongs to the device.
        Inner::Cuda(cuda) => unsafe { launch_raw(cuda.device(), cuda.raw_stream(), grid, params) },
        #[cfg(feature = "simt")]
        Inner::Simt(config) => {
            let launch = crate::simt::Launch {
                kernel: P::KERNEL.entry,
                entry: P::KERNEL.simt,
                grid: grid.blocks,
                block: grid.threads,
                dynamic_shared_bytes: grid.dynamic_shared_bytes,
            };
            // SAFETY: passed on to the caller; `P` is the entry's parameter.
            unsafe { crate::simt::launch(config, &launch, std::ptr::from_ref(params).cast()) }
                .map_err(Error::Simt)
        }
    }
}

/// Launches a kernel on an engine's stream: for callers with their own allocator.
///
/// # Stream
/// Exactly one `cuLaunchKernel` on `stream` once the device is warmed up. The calling thread's
/// current context is the device's primary one afterwards.
///
/// # Errors
/// [`Error::Range`] for a grid no device takes; [`Error::Image`] and [`Error::Driver`].
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
    let kernel = P::KERNEL;
    let function = device.function(kernel.room, kernel.entry)?;
    crate::device::named("cuCtxSetCurrent", device.context().bind_to_thread())?;
    let mut arguments = [std::ptr::from_ref(params).cast_mut().cast::<core::ffi::c_void>()];
    // SAFETY: the function takes one parameter of type `P`, which the driver copies before it
    // returns; the rest is passed on to the caller.
    let code = unsafe {
        cudarc::driver::sys::cuLaunchKernel(
            function,
            grid.blocks[0],
            grid.blocks[1],
            grid.blocks[2],
            grid.threads[0],
            grid.threads[1],
            grid.threads[2],
            grid.dynamic_shared_bytes,
            stream,
            arguments.as_mut_ptr(),
            std::ptr::null_mut(),
        )
    };
    crate::device::named("cuLaunchKernel", code.result())
}
