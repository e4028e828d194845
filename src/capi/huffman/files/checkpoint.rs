//! What a file or a folder holds.

use std::ffi::{CString, c_char, c_void};
use std::path::PathBuf;
use std::ptr::null;
use std::sync::Arc;

use safetensors::Dtype;

use super::{number, path, sides};
use crate::capi::abi::{borrow, free, give, lacuna_header, owned_text, structs, write};
use crate::capi::dtype::lacuna_dtype;
use crate::capi::huffman::weights::no_group;
use crate::capi::status::{Outcome, answer, lacuna_status};
use crate::huffman::Checkpoint;

/// What a checkpoint holds. Texts are there until the checkpoint is freed.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_checkpoint_facts {
    pub header: lacuna_header,
    /// Groups of compressed weights.
    pub n_groups: u64,
    /// Tensors that belong to no group.
    pub n_plain: u64,
    /// The model's `config.json`, UTF-8; null where there is none.
    pub config: *const c_char,
}

/// A group of a checkpoint, of which only the file's header was read.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_checkpoint_entry {
    pub header: lacuna_header,
    /// Its module path, UTF-8, there until the checkpoint is freed.
    pub name: *const c_char,
    /// A `lacuna_format`.
    pub format: u32,
    /// 1 where the file carries a checksum of the decoded weights, as files of other encoders do not; else 0.
    pub has_checksum: u32,
}

/// A tensor that belongs to no group. What is named here is there until the checkpoint is freed.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_plain_tensor {
    pub header: lacuna_header,
    /// UTF-8.
    pub name: *const c_char,
    /// Its type, as safetensors calls it: `BF16`, `F8_E4M3`.
    pub dtype_name: *const c_char,
    /// Its dimensions, the slowest first.
    pub shape: *const u64,
    pub n_dimensions: u64,
    /// Its elements in the file that is mapped, little-endian, in any alignment.
    pub data: *const c_void,
    pub n_bytes: u64,
    /// The same type as a `lacuna_dtype`; 0 where there is none.
    pub dtype: u32,
    /// 0.
    pub reserved: u32,
}

structs! {
    lacuna_checkpoint_facts: 32,
    lacuna_checkpoint_entry: 24,
    lacuna_plain_tensor: 64,
}

/// A checkpoint of compressed weights, mapped into memory. Groups and plain tensors borrow its files: who truncates a file that is
/// mapped ends the process.
pub struct lacuna_checkpoint {
    pub(super) checkpoint: Arc<Checkpoint>,
    names: Vec<CString>,
    plain: Vec<Plain>,
    config: Option<CString>,
}

struct Plain {
    name: CString,
    dtype_name: CString,
    dtype: u32,
    shape: Vec<u64>,
    data: *const c_void,
    n_bytes: u64,
}

fn dtype(dtype: Dtype) -> u32 {
    use lacuna_dtype::*;
    let dtype = match dtype {
        Dtype::BF16 => LACUNA_BF16,
        Dtype::F16 => LACUNA_F16,
        Dtype::F32 => LACUNA_F32,
        Dtype::F8_E4M3 => LACUNA_E4M3,
        Dtype::F8_E5M2 => LACUNA_E5M2,
        Dtype::U8 => LACUNA_U8,
        Dtype::U16 => LACUNA_U16,
        Dtype::U32 => LACUNA_U32,
        Dtype::U64 => LACUNA_U64,
        Dtype::I8 => LACUNA_I8,
        Dtype::I32 => LACUNA_I32,
        Dtype::I64 => LACUNA_I64,
        _ => return 0,
    };
    dtype as u32
}

impl lacuna_checkpoint {
    fn open(path: PathBuf) -> Outcome<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let names = checkpoint.entries().iter().map(|entry| owned_text("the group", &entry.name));
        let plain = checkpoint.plain_tensors().map(|tensor| {
            Ok(Plain {
                name: owned_text("the tensor", tensor.name)?,
                dtype_name: owned_text("the type", &tensor.dtype.to_string())?,
                dtype: dtype(tensor.dtype),
                shape: sides(tensor.shape),
                data: tensor.bytes.as_ptr().cast(),
                n_bytes: tensor.bytes.len() as u64,
            })
        });
        let config = checkpoint.config().map(|config| owned_text("config", &config.to_string()));
        Ok(Self {
            names: names.collect::<Outcome<_>>()?,
            plain: plain.collect::<Outcome<_>>()?,
            config: config.transpose()?,
            checkpoint: Arc::new(checkpoint),
        })
    }
}

/// Opens a directory of safetensors, with or without `config.json`, or one file of them, and reads headers only.
///
/// Errors: `LACUNA_NULL`; `LACUNA_IO`; `LACUNA_MALFORMED` where the files are not what a checkpoint is, and hold no group at all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_checkpoint_open(
    path: *const c_char,
    checkpoint: *mut *mut lacuna_checkpoint,
) -> lacuna_status {
    // SAFETY: the caller's text and variable.
    answer(|| unsafe {
        give("checkpoint", checkpoint, || lacuna_checkpoint::open(self::path("path", path)?))
    })
}

/// Ends a checkpoint; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_checkpoint_free(checkpoint: *mut lacuna_checkpoint) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(checkpoint) }
}

/// What a checkpoint holds.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_checkpoint_describe(
    checkpoint: *const lacuna_checkpoint,
    facts: *mut lacuna_checkpoint_facts,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let own = borrow("checkpoint", checkpoint)?;
        write(
            facts,
            &lacuna_checkpoint_facts {
                header: lacuna_header::NONE,
                n_groups: own.names.len() as u64,
                n_plain: own.plain.len() as u64,
                config: own.config.as_ref().map_or(null(), |config| config.as_ptr()),
            },
        )
    })
}

/// What the files say of a group, by the order of names.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE` for a group that there is not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_checkpoint_group(
    checkpoint: *const lacuna_checkpoint,
    group: u64,
    entry: *mut lacuna_checkpoint_entry,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let own = borrow("checkpoint", checkpoint)?;
        let idx = usize::try_from(group).unwrap_or(usize::MAX);
        let found = own.checkpoint.entries().get(idx).zip(own.names.get(idx));
        let (found, name) = found.ok_or_else(|| no_group(group))?;
        write(
            entry,
            &lacuna_checkpoint_entry {
                header: lacuna_header::NONE,
                name: name.as_ptr(),
                format: number(found.format),
                has_checksum: found.checksum.is_some().into(),
            },
        )
    })
}

/// A tensor that belongs to no group, by its number.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE` for a tensor that there is not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_checkpoint_plain(
    checkpoint: *const lacuna_checkpoint,
    idx: u64,
    tensor: *mut lacuna_plain_tensor,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let plain = &borrow("checkpoint", checkpoint)?.plain;
        let found = usize::try_from(idx).ok().and_then(|idx| plain.get(idx));
        let (what, allowed) = ("plain tensor", "the plain tensors");
        let found = found.ok_or(crate::Error::Range { what, value: idx, allowed })?;
        write(
            tensor,
            &lacuna_plain_tensor {
                header: lacuna_header::NONE,
                name: found.name.as_ptr(),
                dtype_name: found.dtype_name.as_ptr(),
                shape: found.shape.as_ptr(),
                n_dimensions: found.shape.len() as u64,
                data: found.data,
                n_bytes: found.n_bytes,
                dtype: found.dtype,
                reserved: 0,
            },
        )
    })
}
