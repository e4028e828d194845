//! Elements of tensors, where they are: slices on the CPU, views of device memory on CUDA.

use std::cell::Cell;
use std::ops::Range;

#[cfg(feature = "cuda")]
use candle_core::cuda_backend::{
    CudaDType,
    cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, DeviceRepr},
};
use candle_core::{
    CpuStorage, CudaStorage, DType, Error, InplaceOp1, Layout, Result, Storage, StorageRef, Tensor,
    WithDType, bail,
};

#[cfg(feature = "cuda")]
use crate::cuda::{Lent, LentMut};

/// An element type that both sides know.
#[cfg(feature = "cuda")]
pub(crate) trait Number: WithDType + lacuna::Element + CudaDType + DeviceRepr {}
#[cfg(feature = "cuda")]
impl<T: WithDType + lacuna::Element + CudaDType + DeviceRepr> Number for T {}

/// An element type that both sides know.
#[cfg(not(feature = "cuda"))]
pub(crate) trait Number: WithDType + lacuna::Element {}
#[cfg(not(feature = "cuda"))]
impl<T: WithDType + lacuna::Element> Number for T {}

/// A body for bf16 and f16.
macro_rules! by_half {
    ($what:expr, $dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            candle_core::DType::F16 => {
                type $T = half::f16;
                $body
            }
            other => Err(crate::storage::wrong_type($what, "bf16 or f16", other)),
        }
    };
}

/// A body for bf16, f16 and f32.
macro_rules! by_real {
    ($what:expr, $dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $T = f32;
                $body
            }
            candle_core::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            candle_core::DType::F16 => {
                type $T = half::f16;
                $body
            }
            other => Err(crate::storage::wrong_type($what, "f32, bf16 or f16", other)),
        }
    };
}

pub(crate) use {by_half, by_real};

pub(crate) fn wrong_type(what: &str, expected: &str, got: DType) -> Error {
    let fix = "`.to_dtype(..)?` makes another of it";
    Error::Msg(format!("{what}: expected {expected}, got {}; {fix}", got.as_str())).bt()
}

pub(crate) fn check_type(what: &str, tensor: &Tensor, expected: DType) -> Result<()> {
    if tensor.dtype() == expected {
        return Ok(());
    }
    Err(wrong_type(what, expected.as_str(), tensor.dtype()))
}

pub(crate) fn check_dims(what: &str, tensor: &Tensor, expected: &[usize]) -> Result<()> {
    if tensor.dims() == expected {
        return Ok(());
    }
    bail!("{what}: expected {expected:?}, got {:?}", tensor.dims())
}

/// Whether all are on CUDA; else they are on the CPU.
pub(crate) fn is_on_cuda(tensors: &[(&str, &Tensor)]) -> Result<bool> {
    let Some((first, tensor)) = tensors.first() else { return Ok(false) };
    let device = tensor.device();
    for (what, tensor) in tensors {
        if !tensor.device().same_device(device) {
            let found = tensor.device().location();
            bail!("{what} is on {found:?}, and {first} on {:?}", device.location());
        }
    }
    if device.is_metal() {
        bail!(
            "{first} is on {:?}: there are kernels for CUDA, and references on the CPU",
            device.location()
        );
    }
    Ok(device.is_cuda())
}

/// Rows one after the other, or further apart.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    /// Elements of the storage.
    pub(crate) span: Range<usize>,
    /// Elements from row to row.
    pub(crate) stride: usize,
    pub(crate) n: usize,
}

/// A tensor as rows of its last `n_inner` dimensions, which have no gaps.
pub(crate) fn rows(what: &str, tensor: &Tensor, n_inner: usize) -> Result<Rows> {
    let layout = tensor.layout();
    let (dims, strides) = (layout.dims(), layout.stride());
    let n_outer = dims.len().saturating_sub(n_inner);
    let refused = || {
        let n_inner = n_inner.min(dims.len());
        Error::Msg(format!(
            "{what}: {dims:?} of strides {strides:?}, of which the last {n_inner} dimensions may have no gaps and the others \
             must be rows at even distances; `.contiguous()?` makes them so"
        ))
        .bt()
    };
    let mut row_len = 1;
    for (dim, stride) in dims[n_outer..].iter().zip(&strides[n_outer..]).rev() {
        if *dim > 1 && *stride != row_len {
            return Err(refused());
        }
        row_len *= dim;
    }
    let (mut n, mut found) = (1, None);
    for (dim, stride) in dims[..n_outer].iter().zip(strides).rev().filter(|(dim, _)| **dim != 1) {
        match found {
            None => found = Some(*stride),
            Some(first) if *stride != first * n && *dim > 0 => return Err(refused()),
            Some(_) => {}
        }
        n *= dim;
    }
    let stride = found.unwrap_or(row_len);
    if n > 1 && stride < row_len {
        return Err(refused());
    }
    let len = if n * row_len == 0 { 0 } else { (n - 1) * stride + row_len };
    let start = layout.start_offset();
    Ok(Rows { span: start..start + len, stride: stride.max(row_len), n })
}

/// A tensor without gaps.
pub(crate) fn whole(what: &str, tensor: &Tensor) -> Result<Range<usize>> {
    rows(what, tensor, tensor.rank()).map(|rows| rows.span)
}

/// A tensor that is read.
pub(crate) struct Source<'a> {
    storage: StorageRef<'a>,
    span: Range<usize>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(tensor: &'a Tensor, span: Range<usize>) -> Self {
        Self { storage: tensor.storage_and_layout().0, span }
    }

    /// All of a tensor of this type and these dimensions.
    pub(crate) fn whole<T: Number>(what: &str, tensor: &'a Tensor, dims: &[usize]) -> Result<Self> {
        check_type(what, tensor, T::DTYPE)?;
        check_dims(what, tensor, dims)?;
        Ok(Self::new(tensor, whole(what, tensor)?))
    }

    pub(crate) fn slice<T: Number>(&self) -> Result<&[T]> {
        match &*self.storage {
            Storage::Cpu(storage) => Ok(&storage.as_slice::<T>()?[self.span.clone()]),
            _ => bail!("a tensor that is not on the CPU"),
        }
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn view<'s, T: Number>(&'s self, stream: &'s CudaStream) -> Result<Lent<'s, T>> {
        match &*self.storage {
            Storage::Cuda(storage) => {
                let (address, used) = storage.as_cuda_slice::<T>()?.device_ptr(stream);
                Ok(Lent::new(address, &self.span, stream, used))
            }
            _ => bail!("a tensor that is not on CUDA"),
        }
    }
}

/// A tensor that is written in place.
pub(crate) enum Target<'a> {
    Cpu(&'a mut CpuStorage),
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "candle's storage of no device"))]
    Cuda(&'a mut CudaStorage),
}

impl Target<'_> {
    pub(crate) fn slice<T: Number>(&mut self, span: &Range<usize>) -> Result<&mut [T]> {
        match self {
            Self::Cpu(storage) => Ok(&mut cpu_slice::<T>(storage)?[span.clone()]),
            Self::Cuda(_) => bail!("a tensor that is not on the CPU"),
        }
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn view<'s, T: Number>(
        &'s mut self,
        span: &Range<usize>,
        stream: &'s CudaStream,
    ) -> Result<LentMut<'s, T>> {
        match self {
            Self::Cuda(storage) => {
                let (address, used) = storage.as_cuda_slice_mut::<T>()?.device_ptr_mut(stream);
                Ok(LentMut::new(address, span, stream, used))
            }
            Self::Cpu(_) => bail!("a tensor that is not on CUDA"),
        }
    }

    /// Of i64, since candle has no u64.
    #[cfg(feature = "cuda")]
    pub(crate) fn view_u64<'s>(
        &'s mut self,
        span: &Range<usize>,
        stream: &'s CudaStream,
    ) -> Result<LentMut<'s, u64>> {
        match self {
            Self::Cuda(storage) => {
                let (address, used) = storage.as_cuda_slice_mut::<i64>()?.device_ptr_mut(stream);
                Ok(LentMut::new(address, span, stream, used))
            }
            Self::Cpu(_) => bail!("a tensor that is not on CUDA"),
        }
    }
}

fn cpu_slice<T: Number>(storage: &mut CpuStorage) -> Result<&mut Vec<T>> {
    let found = storage_dtype(storage);
    let any: &mut dyn std::any::Any = match storage {
        CpuStorage::U8(all) => all,
        CpuStorage::U32(all) => all,
        CpuStorage::I32(all) => all,
        CpuStorage::I64(all) => all,
        CpuStorage::BF16(all) => all,
        CpuStorage::F16(all) => all,
        CpuStorage::F32(all) => all,
        _ => return Err(wrong_type("a tensor to write", T::DTYPE.as_str(), found)),
    };
    any.downcast_mut().ok_or_else(|| wrong_type("a tensor to write", T::DTYPE.as_str(), found))
}

fn storage_dtype(storage: &CpuStorage) -> DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}

/// Lends a tensor's storage for writing: candle gives it to in-place operations alone.
pub(crate) fn write<R>(
    tensor: &Tensor,
    then: impl FnOnce(Target<'_>, &Layout) -> Result<R>,
) -> Result<R> {
    let operation = Write { then: Cell::new(Some(then)), answer: Cell::new(None) };
    tensor.inplace_op1(&operation)?;
    operation.answer.into_inner().ok_or_else(|| Error::Msg("nothing was written".to_owned()).bt())
}

/// The same of two. They, and what is read meanwhile, must be [`apart`].
pub(crate) fn write_both<R>(
    [first, second]: [&Tensor; 2],
    then: impl FnOnce([Target<'_>; 2]) -> Result<R>,
) -> Result<R> {
    write(first, |first, _| write(second, |second, _| then([first, second])))
}

struct Write<F, R> {
    then: Cell<Option<F>>,
    answer: Cell<Option<R>>,
}

impl<R, F: FnOnce(Target<'_>, &Layout) -> Result<R>> Write<F, R> {
    fn run(&self, target: Target<'_>, layout: &Layout) -> Result<()> {
        if let Some(then) = self.then.take() {
            self.answer.set(Some(then(target, layout)?));
        }
        Ok(())
    }
}

impl<R, F: FnOnce(Target<'_>, &Layout) -> Result<R>> InplaceOp1 for Write<F, R> {
    fn name(&self) -> &'static str {
        "lacuna"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        self.run(Target::Cpu(storage), layout)
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        self.run(Target::Cuda(storage), layout)
    }
}

/// Refuses tensors to write that share memory with each other or with what is read: their locks would wait for each other.
pub(crate) fn apart(written: &[(&str, &Tensor)], read: &[(&str, &Tensor)]) -> Result<()> {
    // The lock is inside what the address is of, so that it tells storages apart.
    let address =
        |tensor: &Tensor| std::ptr::from_ref::<Storage>(&tensor.storage_and_layout().0).addr();
    let read: Vec<_> = read.iter().map(|(what, tensor)| (what, address(tensor))).collect();
    for (idx, (what, tensor)) in written.iter().enumerate() {
        let own = address(tensor);
        let others = written[..idx].iter().map(|(what, tensor)| (what, address(tensor)));
        if let Some((other, _)) = others.chain(read.iter().copied()).find(|(_, at)| *at == own) {
            bail!(
                "{what} and {other} are in one storage, and {what} is written; `.copy()?` gives one its own"
            );
        }
    }
    Ok(())
}
