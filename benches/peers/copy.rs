//! The device's own copy: half of the bytes read, half written.
#![allow(unsafe_code)]

use lacuna::device::cudarc::driver::sys;
use lacuna::{Buffer, Queue};

use super::launched;
use crate::house::case::Work;
use crate::house::gpu::Gpu;

pub(crate) struct Copy {
    source: Buffer<u8>,
    target: Buffer<u8>,
    stream: sys::CUstream,
}

impl Copy {
    /// One that moves `n_bytes` in all, of random data.
    pub(crate) fn place(gpu: &Gpu, n_bytes: u64) -> Result<Box<dyn Work>, String> {
        let len = (n_bytes / 2).max(1) as usize;
        let mut state = 1_u64;
        let words: Vec<u64> = (0..len.div_ceil(8))
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state ^ state >> 33
            })
            .collect();
        let words: &[u8] = bytemuck::cast_slice(&words);
        let make = || -> lacuna::Result<_> {
            let source = gpu.queue.upload(&words[..len])?;
            let target = gpu.queue.alloc(len)?;
            Ok(Box::new(Self { source, target, stream: gpu.stream }) as Box<dyn Work>)
        };
        make().map_err(|error| error.to_string())
    }
}

impl Work for Copy {
    fn launch(&mut self, _: &Queue) -> lacuna::Result<()> {
        let [target, source] = [self.target.view().address(), self.source.view().address()];
        let n_bytes = self.source.len();
        // SAFETY: two buffers of so many bytes, on the stream that orders them.
        let code = unsafe { sys::cuMemcpyDtoDAsync_v2(target, source, n_bytes, self.stream) };
        launched("cuMemcpyDtoDAsync", code as u32, "CUresult")
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        crate::house::case::poison(queue, &mut self.target)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        queue.download(&self.target.view())
    }
}
