//! Checkpoints on disk.
//!
//! A handle of a group borrows its checkpoint, which it keeps: handles may be freed in any order.

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::PathBuf;
use std::ptr::null;
use std::sync::Arc;

use safetensors::Dtype;

use super::indexed::{check_len, no_group};
use super::{lacuna_compact_group, lacuna_df11_group, lacuna_lane_tensors};
use crate::capi::abi::{
    LACUNA_ABI_VERSION, array, borrow, check_pointer, free, give, lacuna_header, owned_text, read,
    slice, structs, text, variable, write,
};
use crate::capi::dtype::lacuna_dtype;
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::huffman::{
    self, Checked, Checkpoint, Converted, Format, GroupPattern, Progress, RawStored, Stored,
};

/// How the weights of a group are kept in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_format {
    /// DFloat11, which other readers know: about 10.9 bits a weight, decoded to bf16.
    LACUNA_FORMAT_DF11 = 0,
    /// About 10.8 bits a weight, decoded to bf16 by their own index.
    LACUNA_FORMAT_COMPACT = 1,
    /// One matrix of about 12.04 bits a weight, multiplied as they lie.
    LACUNA_FORMAT_LANE = 2,
}

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

/// A group whose tensors were found sound. Texts are there until the group is freed.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_stored_facts {
    pub header: lacuna_header,
    /// Its module path, UTF-8.
    pub name: *const c_char,
    /// What is sound here and would trouble another reader, a line each, UTF-8; empty where there is nothing.
    pub warnings: *const c_char,
    /// Weights.
    pub n_elements: u64,
    pub n_matrices: u64,
    /// Bytes of all its tensors.
    pub n_bytes: u64,
    /// A `lacuna_format`.
    pub format: u32,
    /// 1 where the file carries a checksum of the decoded weights; else 0.
    pub has_checksum: u32,
}

/// A matrix of a group. What is named here is there until the group is freed.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_matrix {
    pub header: lacuna_header,
    /// Its tensor's name in the uncompressed model, UTF-8; where the files name none, the group's and a number.
    pub name: *const c_char,
    /// Its weights, as a range of the decoded group.
    pub start: u64,
    pub end: u64,
    /// Its dimensions, the slowest first; null where the files do not say them.
    pub shape: *const u64,
    pub n_dimensions: u64,
}

/// How far a conversion is.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_progress {
    pub header: lacuna_header,
    /// The group just finished, UTF-8, there until the function returns.
    pub group: *const c_char,
    /// Bytes of bf16 done,
    pub done_bytes: u64,
    /// and in all.
    pub total_bytes: u64,
    /// Bytes that the done ones are compressed.
    pub compressed_bytes: u64,
}

/// How files are converted. No options are zeros.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_conversion {
    pub header: lacuna_header,
    /// Of `lacuna_compress` alone: rules that make groups, each `REGEX=module,module,...`, or `REGEX` for a module that is a group itself; none are those of
    /// common models.
    pub patterns: *const *const c_char,
    pub n_patterns: u64,
    /// Optional: called after each group, on the thread of the call, with `context`. It throws nothing.
    pub progress:
        Option<unsafe extern "C" fn(context: *mut c_void, progress: *const lacuna_progress)>,
    pub context: *mut c_void,
    /// The `lacuna_format` to write; of `lacuna_decompress` 0.
    pub format: u32,
    /// 0.
    pub reserved: u32,
}

/// What a conversion did.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_converted {
    pub header: lacuna_header,
    /// Groups converted,
    pub n_groups: u64,
    /// their bytes in bf16,
    pub bf16_bytes: u64,
    /// and compressed.
    pub compressed_bytes: u64,
    /// Tensors copied as they are,
    pub n_plain: u64,
    /// and their bytes.
    pub plain_bytes: u64,
}

structs! {
    lacuna_checkpoint_facts: 32,
    lacuna_checkpoint_entry: 24,
    lacuna_plain_tensor: 64,
    lacuna_stored_facts: 56,
    lacuna_matrix: 48,
    lacuna_conversion: 48,
    lacuna_converted: 48,
}

/// A checkpoint of compressed weights, mapped into memory. Groups and plain tensors borrow its files: who truncates a file that is
/// mapped ends the process.
pub struct lacuna_checkpoint {
    checkpoint: Arc<Checkpoint>,
    names: Vec<CString>,
    plain: Vec<Plain>,
    config: Option<CString>,
}

/// A group of a checkpoint, checked once. It may be freed after the checkpoint.
pub struct lacuna_stored {
    /// Borrows `checkpoint`, which nothing moves or changes: before it, so that it ends before it.
    stored: Stored<'static>,
    checkpoint: Arc<Checkpoint>,
    idx: usize,
    name: CString,
    warnings: CString,
    matrices: Vec<Named>,
}

struct Named {
    name: CString,
    start: u64,
    end: u64,
    shape: Option<Vec<u64>>,
}

struct Plain {
    name: CString,
    dtype_name: CString,
    dtype: u32,
    shape: Vec<u64>,
    data: *const c_void,
    n_bytes: u64,
}

fn number(format: Format) -> u32 {
    let format = match format {
        Format::Df11 => lacuna_format::LACUNA_FORMAT_DF11,
        Format::Compact => lacuna_format::LACUNA_FORMAT_COMPACT,
        Format::Lane => lacuna_format::LACUNA_FORMAT_LANE,
    };
    format as u32
}

fn format(number: u32) -> Outcome<Format> {
    match number {
        0 => Ok(Format::Df11),
        1 => Ok(Format::Compact),
        2 => Ok(Format::Lane),
        number => Err(Failure::number("format", number, "lacuna_format")),
    }
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

fn sides(shape: &[usize]) -> Vec<u64> {
    shape.iter().map(|side| *side as u64).collect()
}

/// # Safety
/// `address` is null, or of a text that ends with a zero byte.
unsafe fn path(what: &str, address: *const c_char) -> Outcome<PathBuf> {
    // SAFETY: the caller's word.
    let path = unsafe { text(what, address) }?;
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        Ok(PathBuf::from(std::ffi::OsStr::from_bytes(path.to_bytes())))
    }
    #[cfg(not(unix))]
    utf8(what, path).map(PathBuf::from)
}

fn utf8<'a>(what: &str, text: &'a CStr) -> Outcome<&'a str> {
    text.to_str().map_err(|error| {
        Failure::new(lacuna_status::LACUNA_RANGE, format!("{what} is no UTF-8: {error}"))
    })
}

/// # Safety
/// `address` is null, or of `len` texts that end with a zero byte.
unsafe fn each<T>(
    what: &str,
    address: *const *const c_char,
    len: u64,
    take: impl Fn(*const c_char) -> Outcome<T>,
) -> Outcome<Vec<T>> {
    if len > 0 {
        check_pointer(what, address)?;
    }
    // SAFETY: one of the caller's texts.
    (0..len as usize).map(|idx| take(unsafe { address.add(idx).read() })).collect()
}

impl lacuna_checkpoint {
    fn open(path: PathBuf) -> Outcome<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let names = checkpoint.entries().iter().map(|entry| owned_text("the group", &entry.name));
        let plain = checkpoint.plain_tensors().into_iter().map(|(name, kind, shape, bytes)| {
            Ok(Plain {
                name: owned_text("the tensor", &name)?,
                dtype_name: owned_text("the type", &kind.to_string())?,
                dtype: dtype(kind),
                shape: sides(&shape),
                data: bytes.as_ptr().cast(),
                n_bytes: bytes.len() as u64,
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

    fn stored(&self, group: u64) -> Outcome<lacuna_stored> {
        let idx = usize::try_from(group).unwrap_or(usize::MAX);
        let checkpoint = Arc::clone(&self.checkpoint);
        let stored = checkpoint.stored(idx)?.ok_or_else(|| no_group(group))?;
        let ranges = stored.matrices();
        let mut matrices = Vec::with_capacity(ranges.len());
        for (place, range) in ranges.into_iter().enumerate() {
            matrices.push(Named {
                name: owned_text("the matrix", &checkpoint.name_of(idx, place))?,
                start: range.start,
                end: range.end,
                shape: checkpoint.shape_of(idx, place, &stored).as_deref().map(sides),
            });
        }
        let (name, warnings) = (owned_text("the group", stored.name())?, stored.warnings());
        let warnings = owned_text("the warnings", &warnings.join("\n"))?;
        // SAFETY: it borrows the checkpoint, which is on the heap, is never changed, and is kept beside it, to end after it.
        let stored = unsafe { std::mem::transmute::<Stored<'_>, Stored<'static>>(stored) };
        Ok(lacuna_stored { stored, checkpoint, idx, name, warnings, matrices })
    }
}

/// Opens a directory of safetensors, with or without `config.json`, or one file of them, and reads headers only.
///
/// Errors: `LACUNA_NULL`; `LACUNA_IO`; `LACUNA_FORMAT` where the files are not what a checkpoint is, and hold no group at all.
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

/// Checks a group's tensors, and where the file carries a checksum of them, that too, for which all of them are read.
///
/// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for a group that there is not; `LACUNA_FORMAT` where a tensor is not what the format allows, or is damaged.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_checkpoint_stored(
    checkpoint: *const lacuna_checkpoint,
    group: u64,
    stored: *mut *mut lacuna_stored,
) -> lacuna_status {
    // SAFETY: the caller's handle and variable.
    answer(|| unsafe { give("stored", stored, || borrow("checkpoint", checkpoint)?.stored(group)) })
}

/// Ends a group; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_stored_free(stored: *mut lacuna_stored) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(stored) }
}

/// What a group is.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_stored_describe(
    stored: *const lacuna_stored,
    facts: *mut lacuna_stored_facts,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let own = borrow("stored", stored)?;
        let has_checksum = own.checkpoint.entries()[own.idx].checksum.is_some();
        write(
            facts,
            &lacuna_stored_facts {
                header: lacuna_header::NONE,
                name: own.name.as_ptr(),
                warnings: own.warnings.as_ptr(),
                n_elements: own.stored.n_elements(),
                n_matrices: own.matrices.len() as u64,
                n_bytes: own.stored.n_bytes(),
                format: number(own.stored.format()),
                has_checksum: has_checksum.into(),
            },
        )
    })
}

/// A matrix of a group, by its place.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE` for a matrix that there is not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_stored_matrix(
    stored: *const lacuna_stored,
    place: u64,
    matrix: *mut lacuna_matrix,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let matrices = &borrow("stored", stored)?.matrices;
        let found = usize::try_from(place).ok().and_then(|place| matrices.get(place));
        let (what, allowed) = ("matrix", "the matrices of the group");
        let found = found.ok_or(crate::Error::Range { what, value: place, allowed })?;
        let shape = found.shape.as_deref();
        write(
            matrix,
            &lacuna_matrix {
                header: lacuna_header::NONE,
                name: found.name.as_ptr(),
                start: found.start,
                end: found.end,
                shape: shape.map_or(null(), <[u64]>::as_ptr),
                n_dimensions: shape.map_or(0, |shape| shape.len() as u64),
            },
        )
    })
}

fn other_format(stored: &Stored<'_>, asked: Format) -> Failure {
    let message = format!(
        "{} is in the format {}, and {asked} was asked for",
        stored.name(),
        stored.format()
    );
    Failure::new(lacuna_status::LACUNA_FORMAT, message)
}

/// The tensors of a group of DF11, in the file that is mapped: for `lacuna_df11_weights_upload`, or for an engine's own copies. They
/// are there until the group is freed.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_FORMAT` for a group in another format.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_stored_df11(
    stored: *const lacuna_stored,
    group: *mut lacuna_df11_group,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let stored = &borrow("stored", stored)?.stored;
        match stored.raw() {
            RawStored::Df11(raw) => write(group, &lacuna_df11_group::new(&raw)),
            _ => Err(other_format(stored, Format::Df11)),
        }
    })
}

/// The tensors of a compact group, in the file that is mapped: for `lacuna_indexed_weights_upload_compact`, or for an engine's own copies. They
/// are there until the group is freed.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_FORMAT` for a group in another format.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_stored_compact(
    stored: *const lacuna_stored,
    group: *mut lacuna_compact_group,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let stored = &borrow("stored", stored)?.stored;
        match stored.raw() {
            RawStored::Compact(raw) => write(group, &lacuna_compact_group::new(&raw)),
            _ => Err(other_format(stored, Format::Compact)),
        }
    })
}

/// The tensors of a matrix of lanes, in the file that is mapped: for `lacuna_device_lane_upload`, or for an engine's own copies. They
/// are there until the group is freed.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_FORMAT` for a group in another format.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_stored_lane(
    stored: *const lacuna_stored,
    tensors: *mut lacuna_lane_tensors,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let stored = &borrow("stored", stored)?.stored;
        match stored.raw() {
            RawStored::Lane(raw) => write(tensors, &lacuna_lane_tensors::new(&raw)),
            _ => Err(other_format(stored, Format::Lane)),
        }
    })
}

/// Expands a group on the CPU, on all threads: `output` is of its `n_elements`. `is_verified`, where it is not null, is set to 1 where they
/// have the checksum that the file carries, and to 0 where it carries none. Of `LACUNA_CORRUPT` and a wrong checksum `output` is written too, and means
/// nothing.
///
/// Errors: `LACUNA_NULL`, `LACUNA_SHAPE`; `LACUNA_CORRUPT`, whose message says where and what; `LACUNA_FORMAT` for another checksum than the file's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_stored_decode(
    stored: *const lacuna_stored,
    output: *mut u16,
    n_elements: u64,
    is_verified: *mut u32,
) -> lacuna_status {
    // SAFETY: the caller's handle, array and variable.
    answer(|| unsafe {
        let own = borrow("stored", stored)?;
        let output = array("output", output, n_elements)?;
        check_len("output", own.stored.n_elements(), n_elements)?;
        if !is_verified.is_null() {
            check_pointer("is_verified", is_verified.cast_const())?;
        }
        own.stored.decode(output)?;
        own.verify(output, is_verified)
    })
}

/// Holds the decoded weights of a group, from whatever decoder and in host memory, against the checksum that the file carries.
/// `is_verified` is as of `lacuna_stored_decode`.
///
/// Errors: `LACUNA_NULL`, `LACUNA_SHAPE`; `LACUNA_FORMAT` for another checksum than the file's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_stored_verify(
    stored: *const lacuna_stored,
    weights: *const u16,
    n_elements: u64,
    is_verified: *mut u32,
) -> lacuna_status {
    // SAFETY: the caller's handle, array and variable.
    answer(|| unsafe {
        let own = borrow("stored", stored)?;
        let weights = slice("weights", weights, n_elements)?;
        check_len("weights", own.stored.n_elements(), n_elements)?;
        own.verify(weights, is_verified)
    })
}

impl lacuna_stored {
    /// # Safety
    /// `is_verified` is null, or of a variable.
    unsafe fn verify(&self, weights: &[u16], is_verified: *mut u32) -> Outcome {
        let checked = self.checkpoint.check_decoded(self.idx, weights)?;
        if !is_verified.is_null() {
            // SAFETY: the caller's word.
            *unsafe { variable("is_verified", is_verified) }? =
                (checked == Checked::Verified).into();
        }
        Ok(())
    }
}

impl lacuna_conversion {
    const USUAL: Self = Self {
        header: lacuna_header::NONE,
        patterns: null(),
        n_patterns: 0,
        progress: None,
        context: std::ptr::null_mut(),
        format: 0,
        reserved: 0,
    };

    /// # Safety
    /// `address` is null, or of a struct that begins with a header.
    unsafe fn of(address: *const Self) -> Outcome<Self> {
        // SAFETY: the caller's word.
        if address.is_null() { Ok(Self::USUAL) } else { unsafe { read(address) } }
    }

    /// # Safety
    /// The patterns are the caller's texts.
    unsafe fn patterns(&self) -> Outcome<Vec<GroupPattern>> {
        let pattern = |address| {
            // SAFETY: the caller's word.
            let text = unsafe { text("a pattern", address) }?;
            Ok(GroupPattern::parse(utf8("a pattern", text)?))
        };
        // SAFETY: the caller's word.
        let patterns = unsafe { each("patterns", self.patterns, self.n_patterns, pattern) }?;
        Ok(if patterns.is_empty() { GroupPattern::defaults() } else { patterns })
    }

    fn refuse_patterns(&self) -> Outcome {
        let (what, allowed) = ("patterns", "0: only what is compressed is put into groups");
        match self.n_patterns {
            0 => Ok(()),
            value => Err(crate::Error::Range { what, value, allowed }.into()),
        }
    }

    fn report(&self, progress: Progress<'_>) {
        let Some(call) = self.progress else { return };
        let group = CString::new(progress.group.replace('\0', "\u{FFFD}")).unwrap_or_default();
        let progress = lacuna_progress {
            header: lacuna_header {
                size: size_of::<lacuna_progress>() as u32,
                version: LACUNA_ABI_VERSION,
            },
            group: group.as_ptr(),
            done_bytes: progress.done_bytes,
            total_bytes: progress.total_bytes,
            compressed_bytes: progress.compressed_bytes,
        };
        // SAFETY: the caller's function and context.
        unsafe { call(self.context, &raw const progress) };
    }
}

/// Refuses a summary that cannot be written, before anything is done.
///
/// # Safety
/// `address` is null, or of a struct that begins with a header.
unsafe fn check_summary(address: *const lacuna_converted) -> Outcome {
    // SAFETY: the caller's word.
    if address.is_null() { Ok(()) } else { unsafe { read(address) }.map(drop) }
}

/// # Safety
/// `address` is null, or of a struct that begins with a header.
unsafe fn write_summary(address: *mut lacuna_converted, summary: &Converted) -> Outcome {
    if address.is_null() {
        return Ok(());
    }
    let summary = lacuna_converted {
        header: lacuna_header::NONE,
        n_groups: summary.n_groups as u64,
        bf16_bytes: summary.bf16_bytes,
        compressed_bytes: summary.compressed_bytes,
        n_plain: summary.n_plain as u64,
        plain_bytes: summary.plain_bytes,
    };
    // SAFETY: the caller's word.
    unsafe { write(address, &summary) }
}

/// Compresses a model on the CPU, on all threads: `inputs` are its safetensors files, or directories of them. `output` is one file if it ends in
/// `.safetensors`, else a new directory; it appears whole or not at all. `options` and `summary` may be null. `lacuna::huffman::compress` says all of
/// it.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_RANGE`, `LACUNA_IO`; `LACUNA_FORMAT` for inputs that are not sound, are compressed already, or hold nothing to
/// compress, and for patterns that are none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_compress(
    inputs: *const *const c_char,
    n_inputs: u64,
    output: *const c_char,
    options: *const lacuna_conversion,
    summary: *mut lacuna_converted,
) -> lacuna_status {
    // SAFETY: the caller's texts and structs.
    answer(|| unsafe {
        let inputs = each("inputs", inputs, n_inputs, |input| path("an input", input))?;
        let (output, options) = (path("output", output)?, lacuna_conversion::of(options)?);
        check_summary(summary)?;
        let (patterns, format) = (options.patterns()?, format(options.format)?);
        let report = |progress: Progress<'_>| options.report(progress);
        let found = huffman::compress(&inputs, &output, &patterns, format, &report)?;
        write_summary(summary, &found)
    })
}

/// Writes a checkpoint in another format, on the CPU, without the model between; not to DF11, whose groups must be what patterns say. `options` and
/// `summary` may be null.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_RANGE`, `LACUNA_IO`, `LACUNA_CORRUPT`; `LACUNA_FORMAT` for DF11, and for lanes of a matrix whose shape the checkpoint
/// does not say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_transcode(
    checkpoint: *const lacuna_checkpoint,
    output: *const c_char,
    options: *const lacuna_conversion,
    summary: *mut lacuna_converted,
) -> lacuna_status {
    // SAFETY: the caller's handle, text and structs.
    answer(|| unsafe {
        let checkpoint = &borrow("checkpoint", checkpoint)?.checkpoint;
        let (output, options) = (path("output", output)?, lacuna_conversion::of(options)?);
        check_summary(summary)?;
        options.refuse_patterns()?;
        let report = |progress: Progress<'_>| options.report(progress);
        let found = huffman::transcode(checkpoint, &output, format(options.format)?, &report)?;
        write_summary(summary, &found)
    })
}

/// Decompresses a checkpoint on the CPU to one bf16 safetensors file. `options` and `summary` may be null.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_RANGE`, `LACUNA_IO`, `LACUNA_CORRUPT`, `LACUNA_FORMAT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_decompress(
    checkpoint: *const lacuna_checkpoint,
    output: *const c_char,
    options: *const lacuna_conversion,
    summary: *mut lacuna_converted,
) -> lacuna_status {
    // SAFETY: the caller's handle, text and structs.
    answer(|| unsafe {
        let checkpoint = &borrow("checkpoint", checkpoint)?.checkpoint;
        let (output, options) = (path("output", output)?, lacuna_conversion::of(options)?);
        check_summary(summary)?;
        options.refuse_patterns()?;
        if options.format != 0 {
            return Err(Failure::number("format of bf16", options.format, "format: 0"));
        }
        let report = |progress: Progress<'_>| options.report(progress);
        let found = huffman::decompress(checkpoint, &output, &report)?;
        write_summary(summary, &found)
    })
}
