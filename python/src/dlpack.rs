//! Tensors of any library, by DLPack: read while a call runs, and never taken over.

use std::ffi::c_void;

use lacuna::capi::{lacuna_dtype, lacuna_view};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict};

const CPU: i32 = 1;
const CUDA: i32 = 2;
/// Unified memory, which a device reads and writes as its own.
const CUDA_MANAGED: i32 = 13;
const READ_ONLY: u64 = 1;

#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device: [i32; 2],
    n_dims: i32,
    code: u8,
    n_bits: u8,
    n_lanes: u16,
    shape: *const i64,
    strides: *const i64,
    byte_offset: u64,
}

#[repr(C)]
struct Versioned {
    version: [u32; 2],
    context: *mut c_void,
    deleter: *mut c_void,
    flags: u64,
    tensor: DlTensor,
}

/// A tensor's memory, and the capsule that says where it is.
pub(crate) fn view<'py>(
    name: &str,
    value: &Bound<'py, PyAny>,
    is_written: bool,
    device: Option<u32>,
) -> PyResult<(lacuna_view, Bound<'py, PyAny>)> {
    // `lacuna.Typed`: the same memory, of another type.
    let typed = value.getattr_opt("lacuna_dtype")?;
    let tensor = if typed.is_some() { value.getattr("tensor")? } else { value.clone() };
    if !tensor.hasattr("__dlpack__")? {
        let found = tensor.get_type().name()?;
        let message = format!(
            "{name} is a {found}, which has no __dlpack__; give a tensor of PyTorch, CuPy or NumPy"
        );
        return Err(PyTypeError::new_err(message));
    }
    check_device(name, &tensor, device)?;
    let capsule = export(&tensor, device.is_some())?;
    let (found, flags) = read(name, &capsule)?;
    if is_written && flags & READ_ONLY != 0 {
        return Err(PyValueError::new_err(format!(
            "{name} is written, and its memory is read-only"
        )));
    }
    let len = contiguous_len(name, &found)?;
    let own = dtype_of(&found);
    let dtype = match typed {
        None => own.ok_or_else(|| {
            let (code, n_bits, n_lanes) = (found.code, found.n_bits, found.n_lanes);
            PyTypeError::new_err(format!(
                "{name}: DLPack type {code} of {n_bits} bits, {n_lanes} lanes, is none of lacuna's"
            ))
        })?,
        Some(typed) => {
            let dtype = typed.extract::<u32>()?;
            if n_bits_of(dtype) != u32::from(found.n_bits) * u32::from(found.n_lanes) {
                let n_bits = found.n_bits;
                return Err(PyTypeError::new_err(format!(
                    "{name}: elements of {n_bits} bits are not of that dtype"
                )));
            }
            dtype
        }
    };
    // Wrapping: what is no memory is not looked at.
    let data = found.data.cast::<u8>().wrapping_add(found.byte_offset as usize);
    // An empty tensor has an address or none.
    let data = if len == 0 { std::ptr::null() } else { data.cast_const().cast() };
    Ok((lacuna_view { data, len, dtype, reserved: 0 }, capsule))
}

/// Refuses memory of another device than the queue's.
fn check_device(name: &str, tensor: &Bound<'_, PyAny>, device: Option<u32>) -> PyResult<()> {
    let (kind, ordinal): (i32, i32) = tensor.call_method0("__dlpack_device__")?.extract()?;
    let is_there = match device {
        Some(expected) => {
            (kind == CUDA || kind == CUDA_MANAGED) && i64::from(ordinal) == i64::from(expected)
        }
        None => kind == CPU,
    };
    if is_there {
        return Ok(());
    }
    let found = match kind {
        CPU => "host memory".to_owned(),
        CUDA | CUDA_MANAGED => format!("memory of CUDA device {ordinal}"),
        _ => format!("memory of DLPack device {kind}:{ordinal}"),
    };
    let expected = match device {
        Some(expected) => format!("CUDA device {expected}"),
        None => "host memory".to_owned(),
    };
    Err(PyValueError::new_err(format!("{name} is in {found}, and the queue works on {expected}")))
}

/// A capsule, by the newest protocol that the library speaks. Without an order of streams: calls go to the stream that the caller named.
fn export<'py>(tensor: &Bound<'py, PyAny>, is_cuda: bool) -> PyResult<Bound<'py, PyAny>> {
    let options = PyDict::new(tensor.py());
    if is_cuda {
        options.set_item("stream", -1)?;
    }
    options.set_item("max_version", (1, 0))?;
    match tensor.call_method("__dlpack__", (), Some(&options)) {
        Err(error) if error.is_instance_of::<PyTypeError>(tensor.py()) => {
            options.del_item("max_version")?;
            tensor.call_method("__dlpack__", (), Some(&options))
        }
        answer => answer,
    }
}

fn read(name: &str, capsule: &Bound<'_, PyAny>) -> PyResult<(DlTensor, u64)> {
    let capsule = capsule.cast::<PyCapsule>()?;
    if capsule.is_valid_checked(Some(c"dltensor_versioned")) {
        let address = capsule.pointer_checked(Some(c"dltensor_versioned"))?.cast::<Versioned>();
        // SAFETY: the capsule's name says what it points to, up to the version.
        let [major, minor] = unsafe { (*address.as_ptr()).version };
        if major != 1 {
            let message =
                format!("{name} is exported by DLPack {major}.{minor}, and 1 is known here");
            return Err(PyTypeError::new_err(message));
        }
        // SAFETY: of version 1 all of it, which stays while the capsule does.
        let (tensor, flags) =
            unsafe { (std::ptr::read(&(*address.as_ptr()).tensor), (*address.as_ptr()).flags) };
        return Ok((tensor, flags));
    }
    let address = capsule.pointer_checked(Some(c"dltensor"))?.cast::<DlTensor>();
    // SAFETY: the capsule's name says what it points to, which stays while the capsule does.
    Ok((unsafe { address.read() }, 0))
}

/// Elements, which must lie one after the other.
fn contiguous_len(name: &str, tensor: &DlTensor) -> PyResult<u64> {
    let n_dims = usize::try_from(tensor.n_dims).unwrap_or(0);
    let shape = if n_dims == 0 {
        &[][..]
    } else {
        // SAFETY: so many numbers are there, by the protocol.
        unsafe { std::slice::from_raw_parts(tensor.shape, n_dims) }
    };
    let mut len: i64 = 1;
    let mut is_contiguous = true;
    for (idx, size) in shape.iter().enumerate().rev() {
        if !tensor.strides.is_null() && *size != 1 {
            // SAFETY: as above.
            is_contiguous &= unsafe { *tensor.strides.add(idx) } == len;
        }
        let product = len.checked_mul(*size).filter(|product| *product >= 0);
        len = product.ok_or_else(|| PyValueError::new_err(format!("{name} has no size")))?;
    }
    if is_contiguous || len == 0 {
        return Ok(len as u64);
    }
    Err(PyValueError::new_err(format!(
        "{name} is not contiguous: give {name}.contiguous(), or of NumPy a copy"
    )))
}

fn dtype_of(tensor: &DlTensor) -> Option<u32> {
    use lacuna_dtype::*;
    let dtype = match (tensor.code, tensor.n_bits, tensor.n_lanes) {
        (0, 8, 1) => LACUNA_I8,
        (0, 32, 1) => LACUNA_I32,
        (0, 64, 1) => LACUNA_I64,
        // Truths are bytes.
        (1 | 6, 8, 1) => LACUNA_U8,
        (1, 16, 1) => LACUNA_U16,
        (1, 32, 1) => LACUNA_U32,
        (1, 64, 1) => LACUNA_U64,
        (2, 16, 1) => LACUNA_F16,
        (2, 32, 1) => LACUNA_F32,
        (4, 16, 1) => LACUNA_BF16,
        (10, 8, 1) => LACUNA_E4M3,
        (12, 8, 1) => LACUNA_E5M2,
        _ => return None,
    };
    Some(dtype as u32)
}

/// Bits of an element; 0 of no dtype.
fn n_bits_of(dtype: u32) -> u32 {
    match dtype {
        4..=6 | 10 => 8,
        1 | 2 | 7 => 16,
        3 | 8 | 11 => 32,
        9 | 12 => 64,
        _ => 0,
    }
}
