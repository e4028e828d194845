//! One call for every function of the C interface, by the table that is made of it.

use std::ffi::{CString, c_void};

use lacuna::capi::{LACUNA_ABI_VERSION, lacuna_bytes, lacuna_view};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyAttributeError, PyKeyError, PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

use crate::dlpack;
use crate::table::{FUNCTIONS, HANDLES, STRUCTS};
use crate::{Queue, RawHandle, check};

/// What a field of a struct or a parameter of a function is.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(dead_code, reason = "the table has what the interface has")]
pub(crate) enum Kind {
    U32,
    U64,
    F32,
    View,
    ViewMut,
    Bytes,
    Text,
    /// So many numbers of a type.
    Numbers(&'static str, usize),
    /// So many tensors.
    Views(usize),
    ViewsMut(usize),
    /// A struct in its place.
    Value(&'static str),
    /// A pointer to a struct, for reading.
    Struct(&'static str),
    /// The same, to as many as `Count` after it says.
    Array(&'static str),
    /// A struct that the function fills in.
    Filled(&'static str),
    Handle(&'static str),
    NewHandle(&'static str),
    /// As many handles as `Count` after it says.
    Handles(&'static str),
    /// A number that the function writes.
    Written(&'static str),
    /// The length of the array before it.
    Count,
}

pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) offset: usize,
    pub(crate) kind: Kind,
}

pub(crate) struct Struct {
    pub(crate) name: &'static str,
    pub(crate) n_bytes: usize,
    pub(crate) has_header: bool,
    pub(crate) fields: &'static [Field],
}

pub(crate) struct Handle {
    pub(crate) name: &'static str,
    pub(crate) free: fn(*mut c_void),
}

pub(crate) struct Param {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) params: &'static [Param],
    /// Takes a word for each parameter, and answers a status.
    pub(crate) run: fn(&[u64]) -> u32,
}

pub(crate) fn find_handle(name: &str) -> PyResult<&'static Handle> {
    HANDLES.iter().find(|handle| handle.name == name).ok_or_else(|| missing(name))
}

fn find_struct(name: &str) -> PyResult<&'static Struct> {
    STRUCTS.iter().find(|of| of.name == name).ok_or_else(|| missing(name))
}

fn missing(name: &str) -> PyErr {
    PyKeyError::new_err(format!("this package was built without {name}"))
}

/// What a call's words point to.
#[derive(Default)]
struct Frame<'py> {
    /// Structs and variables, at addresses that stay.
    memory: Vec<Box<[u64]>>,
    texts: Vec<CString>,
    buffers: Vec<PyBuffer<u8>>,
    /// Capsules and bytes: what they name is there until they are not.
    objects: Vec<Bound<'py, PyAny>>,
    /// What tensors must be in the memory of: a CUDA device, or the host.
    device: Option<Option<u32>>,
}

/// Calls a function of the C interface: a value for each parameter, and `None` for what it fills in.
#[pyfunction]
pub(crate) fn call<'py>(
    py: Python<'py>,
    name: &str,
    values: &Bound<'py, PyList>,
) -> PyResult<Bound<'py, PyAny>> {
    let function = FUNCTIONS.iter().find(|f| f.name == name).ok_or_else(|| missing(name))?;
    if values.len() != function.params.len() {
        let (expected, got) = (function.params.len(), values.len());
        return Err(PyTypeError::new_err(format!("{name} takes {expected} values, not {got}")));
    }
    let mut frame = Frame::default();
    for value in values.iter() {
        if let Ok(queue) = value.cast::<Queue>() {
            frame.device = Some(queue.get().ordinal);
        }
    }
    let mut words: Vec<u64> = Vec::with_capacity(values.len());
    let mut n_elements = 0;
    for (param, value) in function.params.iter().zip(values.iter()) {
        words.push(match param.kind {
            Kind::Count => n_elements,
            Kind::Array(of) => {
                let (address, n) = frame.array(of, &value)?;
                n_elements = n;
                address
            }
            Kind::Handles(of) => {
                let (address, n) = frame.handles(param.name, of, &value)?;
                n_elements = n;
                address
            }
            kind => frame.word(param.name, kind, &value)?,
        });
    }
    let run = function.run;
    let status = py.detach(|| run(&words));
    if status != 0 {
        // SAFETY: what the function answered is a status.
        check(unsafe { std::mem::transmute::<u32, lacuna::capi::lacuna_status>(status) })?;
    }
    frame.results(py, function, &words, values)
}

impl<'py> Frame<'py> {
    fn zeros(&mut self, n_bytes: usize) -> *mut u8 {
        self.memory.push(vec![0; n_bytes.div_ceil(8).max(1)].into_boxed_slice());
        self.memory.last_mut().map_or(std::ptr::null_mut(), |memory| memory.as_mut_ptr().cast())
    }

    /// What a parameter passes.
    fn word(&mut self, name: &str, kind: Kind, value: &Bound<'py, PyAny>) -> PyResult<u64> {
        match kind {
            Kind::U64 => number(name, value, u64::MAX),
            Kind::U32 => number(name, value, u32::MAX.into()),
            Kind::F32 => Ok(u64::from((value.extract::<f64>()? as f32).to_bits())),
            Kind::Text => {
                if value.is_none() {
                    return Ok(0);
                }
                let text = CString::new(value.extract::<String>()?)?;
                let address = text.as_ptr().expose_provenance();
                self.texts.push(text);
                Ok(address as u64)
            }
            Kind::Struct(of @ ("lacuna_view" | "lacuna_view_mut")) => {
                let view = self.view(name, value, of == "lacuna_view_mut")?;
                let address = self.zeros(size_of::<lacuna_view>());
                // SAFETY: as many bytes, aligned to 8.
                unsafe { address.cast::<lacuna_view>().write(view) };
                Ok(address.expose_provenance() as u64)
            }
            Kind::Struct(of) => {
                if value.is_none() {
                    return Ok(0);
                }
                let of = find_struct(of)?;
                let address = self.zeros(of.n_bytes);
                self.fill(of, address, value)?;
                Ok(address.expose_provenance() as u64)
            }
            Kind::Filled(of) => {
                let of = find_struct(of)?;
                let address = self.zeros(of.n_bytes);
                write_header(of, address);
                Ok(address.expose_provenance() as u64)
            }
            Kind::NewHandle(_) | Kind::Written(_) => Ok(self.zeros(8).expose_provenance() as u64),
            Kind::Handle(of) => handle_of(name, of, value),
            Kind::View
            | Kind::ViewMut
            | Kind::Views(_)
            | Kind::ViewsMut(_)
            | Kind::Numbers(..)
            | Kind::Bytes
            | Kind::Value(_)
            | Kind::Array(_)
            | Kind::Handles(_)
            | Kind::Count => Err(PyTypeError::new_err(format!("{name} is no parameter"))),
        }
    }

    /// Structs, one after the other, and how many.
    fn array(&mut self, of: &str, values: &Bound<'py, PyAny>) -> PyResult<(u64, u64)> {
        let values = values.try_iter()?.collect::<PyResult<Vec<_>>>()?;
        if let "lacuna_view" | "lacuna_view_mut" = of {
            let address = self.zeros(size_of::<lacuna_view>() * values.len());
            for (idx, value) in values.iter().enumerate() {
                let view = self.view("a view", value, of == "lacuna_view_mut")?;
                // SAFETY: as many views are there, aligned to 8.
                unsafe { address.cast::<lacuna_view>().add(idx).write(view) };
            }
            return Ok((address.expose_provenance() as u64, values.len() as u64));
        }
        let of = find_struct(of)?;
        let address = self.zeros(of.n_bytes * values.len());
        for (idx, value) in values.iter().enumerate() {
            // SAFETY: within the structs' bytes.
            self.fill(of, unsafe { address.add(idx * of.n_bytes) }, value)?;
        }
        Ok((address.expose_provenance() as u64, values.len() as u64))
    }

    /// Addresses of handles, one after the other, and how many.
    fn handles(
        &mut self,
        name: &str,
        of: &str,
        values: &Bound<'py, PyAny>,
    ) -> PyResult<(u64, u64)> {
        let handles = values.try_iter()?.map(|value| handle_of(name, of, &value?));
        let handles = handles.collect::<PyResult<Vec<_>>>()?;
        let n = handles.len() as u64;
        self.memory.push(handles.into_boxed_slice());
        let address = self.memory.last().map_or(std::ptr::null(), |memory| memory.as_ptr());
        Ok((address.expose_provenance() as u64, n))
    }

    /// Fills a struct of zeros with what a dictionary or an object has of its fields.
    fn fill(&mut self, of: &Struct, address: *mut u8, value: &Bound<'py, PyAny>) -> PyResult<()> {
        if of.has_header {
            write_header(of, address);
        }
        let mut n_elements = 0;
        for field in of.fields {
            // SAFETY: within the struct's bytes.
            let at = unsafe { address.add(field.offset) };
            if field.kind == Kind::Count {
                // SAFETY: a number of 64 bits is there.
                unsafe { at.cast::<u64>().write(n_elements) };
                continue;
            }
            let Some(found) = attribute(value, field.name)? else { continue };
            // SAFETY: a field of that kind is there, aligned as all of the struct is.
            unsafe {
                match field.kind {
                    Kind::U32 => {
                        at.cast::<u32>().write(number(field.name, &found, u32::MAX.into())? as u32)
                    }
                    Kind::U64 => at.cast::<u64>().write(number(field.name, &found, u64::MAX)?),
                    Kind::F32 => at.cast::<f32>().write(found.extract::<f64>()? as f32),
                    Kind::View => {
                        at.cast::<lacuna_view>().write(self.view(field.name, &found, false)?)
                    }
                    // Both kinds of views are the same bytes.
                    Kind::ViewMut => {
                        at.cast::<lacuna_view>().write(self.view(field.name, &found, true)?)
                    }
                    Kind::Bytes => at.cast::<lacuna_bytes>().write(self.bytes(&found)?),
                    Kind::Views(len) | Kind::ViewsMut(len) => {
                        let is_written = matches!(field.kind, Kind::ViewsMut(_));
                        for (idx, value) in elements(field.name, &found, len)?.iter().enumerate() {
                            let view = self.view(field.name, value, is_written)?;
                            at.cast::<lacuna_view>().add(idx).write(view);
                        }
                    }
                    Kind::Numbers(of, len) => {
                        let values = elements(field.name, &found, len)?;
                        for (idx, value) in values.iter().enumerate() {
                            match of {
                                "f32" => {
                                    at.cast::<f32>().add(idx).write(value.extract::<f64>()? as f32)
                                }
                                "u32" => at.cast::<u32>().add(idx).write(number(
                                    field.name,
                                    value,
                                    u32::MAX.into(),
                                )?
                                    as u32),
                                _ => at.cast::<u64>().add(idx).write(number(
                                    field.name,
                                    value,
                                    u64::MAX,
                                )?),
                            }
                        }
                    }
                    Kind::Value(inner) => self.fill(find_struct(inner)?, at, &found)?,
                    Kind::Array(inner) => {
                        let (elements, n) = self.array(inner, &found)?;
                        n_elements = n;
                        at.cast::<u64>().write(elements);
                    }
                    kind => at.cast::<u64>().write(self.word(field.name, kind, &found)?),
                }
            }
        }
        Ok(())
    }

    fn view(
        &mut self,
        name: &str,
        value: &Bound<'py, PyAny>,
        is_written: bool,
    ) -> PyResult<lacuna_view> {
        if value.is_none() {
            return Ok(lacuna_view { data: std::ptr::null(), len: 0, dtype: 0, reserved: 0 });
        }
        let device =
            self.device.ok_or_else(|| PyTypeError::new_err("a call on tensors needs a queue"))?;
        let (view, capsule) = dlpack::view(name, value, is_written, device)?;
        self.objects.push(capsule);
        Ok(view)
    }

    fn bytes(&mut self, value: &Bound<'py, PyAny>) -> PyResult<lacuna_bytes> {
        let (data, n_bytes) = if let Ok(text) = value.cast::<PyString>() {
            let bytes = PyBytes::new(value.py(), text.extract::<String>()?.as_bytes());
            let found = (bytes.as_bytes().as_ptr(), bytes.as_bytes().len());
            self.objects.push(bytes.into_any());
            found
        } else if let Ok(bytes) = value.cast::<PyBytes>() {
            self.objects.push(value.clone());
            (bytes.as_bytes().as_ptr(), bytes.as_bytes().len())
        } else {
            let buffer = PyBuffer::<u8>::get(value)?;
            if !buffer.is_c_contiguous() {
                return Err(PyTypeError::new_err("bytes must lie one after the other"));
            }
            let found = (buffer.buf_ptr().cast_const().cast(), buffer.len_bytes());
            self.buffers.push(buffer);
            found
        };
        Ok(lacuna_bytes { data: data.cast(), n_bytes: n_bytes as u64 })
    }

    /// What the function has written, in the order of its parameters.
    fn results(
        &self,
        py: Python<'py>,
        function: &Function,
        words: &[u64],
        values: &Bound<'py, PyList>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut results = Vec::new();
        for (param, word) in function.params.iter().zip(words) {
            let address = std::ptr::with_exposed_provenance::<u64>(*word as usize);
            match param.kind {
                Kind::NewHandle(of) => {
                    // SAFETY: a variable of the frame's, which the function has set.
                    let address = unsafe { *address } as usize;
                    let keeps = Some(values.clone().into_any().unbind());
                    let handle = RawHandle { address, of: find_handle(of)?, keeps };
                    results.push(Bound::new(py, handle)?.into_any());
                }
                Kind::Written(of) => {
                    // SAFETY: as above.
                    let value = unsafe { *address };
                    results.push(match of {
                        "f32" => {
                            f64::from(f32::from_bits(value as u32)).into_pyobject(py)?.into_any()
                        }
                        _ => value.into_pyobject(py)?.into_any(),
                    });
                }
                Kind::Filled(of) => {
                    let filled = PyDict::new(py);
                    for field in find_struct(of)?.fields {
                        // SAFETY: a field of that kind is there.
                        unsafe {
                            let at = address.cast::<u8>().add(field.offset);
                            match field.kind {
                                Kind::U32 => filled.set_item(field.name, *at.cast::<u32>())?,
                                Kind::F32 => filled.set_item(field.name, *at.cast::<f32>())?,
                                Kind::Numbers("f32", len) => filled.set_item(
                                    field.name,
                                    std::slice::from_raw_parts(at.cast::<f32>(), len).to_vec(),
                                )?,
                                Kind::Numbers("u32", len) => filled.set_item(
                                    field.name,
                                    std::slice::from_raw_parts(at.cast::<u32>(), len).to_vec(),
                                )?,
                                Kind::Numbers(_, len) => filled.set_item(
                                    field.name,
                                    std::slice::from_raw_parts(at.cast::<u64>(), len).to_vec(),
                                )?,
                                _ => filled.set_item(field.name, *at.cast::<u64>())?,
                            }
                        }
                    }
                    results.push(filled.into_any());
                }
                _ => {}
            }
        }
        match results.len() {
            0 => Ok(py.None().into_bound(py)),
            1 => Ok(results.remove(0)),
            _ => Ok(PyTuple::new(py, results)?.into_any()),
        }
    }
}

/// The values of a field that has so many.
fn elements<'py>(
    name: &str,
    value: &Bound<'py, PyAny>,
    len: usize,
) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let values = value.try_iter()?.collect::<PyResult<Vec<_>>>()?;
    if values.len() == len {
        return Ok(values);
    }
    Err(PyTypeError::new_err(format!("{name} has {len} elements, not {}", values.len())))
}

fn write_header(of: &Struct, address: *mut u8) {
    // SAFETY: structs that have a header begin with it: two numbers of 32 bits.
    unsafe {
        address.cast::<u32>().write(of.n_bytes as u32);
        address.cast::<u32>().add(1).write(LACUNA_ABI_VERSION);
    }
}

/// A field's value, by name; none where it is not given.
fn attribute<'py>(value: &Bound<'py, PyAny>, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
    let found = if let Ok(of) = value.cast::<PyDict>() {
        of.get_item(name)?
    } else {
        match value.getattr(name) {
            Ok(found) => Some(found),
            Err(error) if error.is_instance_of::<PyAttributeError>(value.py()) => {
                let message = format!("{} has no {name}", value.get_type().name()?);
                return Err(PyTypeError::new_err(message));
            }
            Err(error) => return Err(error),
        }
    };
    Ok(found.filter(|found| !found.is_none()))
}

fn number(name: &str, value: &Bound<'_, PyAny>, most: u64) -> PyResult<u64> {
    let number = value.extract::<u64>().map_err(|error| {
        if error.is_instance_of::<PyOverflowError>(value.py()) {
            PyOverflowError::new_err(format!("{name}: {value} is outside 0..=2^64 - 1"))
        } else {
            error
        }
    })?;
    if number <= most {
        return Ok(number);
    }
    Err(PyOverflowError::new_err(format!("{name}: {number} is more than {most}")))
}

/// The address that a handle's object has; 0 of none.
fn handle_of(name: &str, of: &str, value: &Bound<'_, PyAny>) -> PyResult<u64> {
    if value.is_none() {
        return Ok(0);
    }
    if of == "lacuna_queue" {
        return Ok(value.cast::<Queue>()?.get().handle.address() as u64);
    }
    let raw = value.getattr("_raw").ok();
    let found = match raw.as_ref().and_then(|raw| raw.cast::<RawHandle>().ok()) {
        Some(raw) if raw.get().of.name == of => return Ok(raw.get().address() as u64),
        Some(raw) => raw.get().of.name.to_owned(),
        None => value.get_type().name()?.to_string(),
    };
    Err(PyTypeError::new_err(format!("{name} is a {found}, and a {of} is needed")))
}
