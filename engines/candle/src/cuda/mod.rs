//! candle's stream, context and memory as lacuna's.
#![allow(unsafe_code)]

pub(crate) mod attention;
pub(crate) mod kv;
pub(crate) mod select;
pub(crate) mod tiered;
pub(crate) mod weights;

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use candle_core::cuda_backend::DeviceId;
use candle_core::cuda_backend::cudarc::driver::{CudaStream, SyncOnDrop, sys};
use candle_core::{CudaDevice, Device, Result, Tensor, bail};
use lacuna::{Element, Memory, Queue, View, ViewMut};

use crate::Wrap;

/// A candle device's stream, and lacuna's queue on it.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) queue: Queue,
    /// Outlives the queue.
    pub(crate) stream: Arc<CudaStream>,
}

/// The driver's name for each thread's own default stream, which `Device::new_cuda` works on.
const PER_THREAD: sys::CUstream = 2 as sys::CUstream;

impl Stream {
    fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let ordinal = stream.context().ordinal();
        let opened = lacuna::Device::open(ordinal).w()?;
        // SAFETY: a stream of the device's primary context, which candle's devices work in too. It lives as long as
        // `stream`, which is dropped after the queue; who keeps buffers of the queue keeps this. Of 2, a value stays
        // in its thread: [`of`] has one for each, and weights check theirs.
        let queue = unsafe { opened.borrow_stream(stream.cu_stream()) };
        Ok(Self { queue, stream })
    }

    /// Whether it is another stream in each thread.
    pub(crate) fn is_per_thread(&self) -> bool {
        self.stream.cu_stream() == PER_THREAD
    }
}

thread_local! {
    /// Of each candle device that this thread has used; a few.
    static STREAMS: RefCell<Vec<(DeviceId, Rc<Stream>)>> = const { RefCell::new(Vec::new()) };
}

/// The stream of a CUDA device, for this thread.
pub(crate) fn stream_of(device: &Device) -> Result<Rc<Stream>> {
    let device = device.as_cuda_device()?;
    let known = STREAMS.with_borrow(|all| {
        all.iter().find(|(id, _)| *id == device.id()).map(|(_, stream)| stream.clone())
    });
    if let Some(stream) = known {
        return Ok(stream);
    }
    let stream = Rc::new(Stream::new(device)?);
    STREAMS.with_borrow_mut(|all| all.push((device.id(), stream.clone())));
    Ok(stream)
}

/// A stream that is kept beside buffers of its queue.
pub(crate) fn own_stream_of(device: &Device) -> Result<Stream> {
    Stream::new(device.as_cuda_device()?)
}

/// Memory of candle's that is read, and candle's note that it is.
pub(crate) struct Lent<'a, T> {
    pub(crate) view: View<'a, T>,
    _used: SyncOnDrop<'a>,
}

/// Memory of candle's that is written, and candle's note that it is.
pub(crate) struct LentMut<'a, T> {
    pub(crate) view: ViewMut<'a, T>,
    _used: SyncOnDrop<'a>,
}

fn memory(stream: &CudaStream) -> Memory {
    Memory::Cuda(stream.context().ordinal())
}

impl<'a, T: Element> Lent<'a, T> {
    /// Elements of a slice of as many and more, at `address`, locked for reading for `'a`.
    pub(crate) fn new(
        address: sys::CUdeviceptr,
        span: &Range<usize>,
        stream: &CudaStream,
        used: SyncOnDrop<'a>,
    ) -> Self {
        let address = address + (span.start * size_of::<T>()) as u64;
        // SAFETY: candle's layout says that the slice has these elements. It is locked for `'a`, in which the launch is queued on the
        // stream that candle orders all work with the slice by, its end too.
        let view = unsafe { View::from_raw(address, span.len(), memory(stream)) };
        Self { view, _used: used }
    }
}

impl<'a, T: Element> LentMut<'a, T> {
    /// Elements of a slice of as many and more, at `address`, locked for writing for `'a`.
    pub(crate) fn new(
        address: sys::CUdeviceptr,
        span: &Range<usize>,
        stream: &CudaStream,
        used: SyncOnDrop<'a>,
    ) -> Self {
        let address = address + (span.start * size_of::<T>()) as u64;
        // SAFETY: as above, and the lock is for writing.
        let view = unsafe { ViewMut::from_raw(address, span.len(), memory(stream)) };
        Self { view, _used: used }
    }

    /// All of it, for a launch's outputs.
    pub(crate) fn all(&mut self) -> ViewMut<'_, T> {
        self.view.reborrow()
    }
}

/// A tensor to work in, of zeros.
pub(crate) fn workspace(n: u64, dtype: candle_core::DType, device: &Device) -> Result<Tensor> {
    Tensor::zeros(n as usize, dtype, device)
}

/// Refuses a view that wide loads cannot read, and names the way out.
pub(crate) fn check_aligned(what: &str, address: u64) -> Result<()> {
    if address.is_multiple_of(16) {
        return Ok(());
    }
    bail!(
        "{what} begins at an address that is no multiple of 16 bytes; `.copy()?` gives it memory of its own"
    )
}
