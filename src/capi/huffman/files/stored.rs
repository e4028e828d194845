//! Groups, read and checked.

use std::ffi::{CString, c_char};
use std::ptr::null;
use std::sync::Arc;

use super::{number, sides};
use crate::capi::abi::{
    array, borrow, check_optional, free, give, lacuna_header, owned_text, slice, structs, variable,
    write,
};
use crate::capi::device::lacuna_queue;
use crate::capi::huffman::groups::check_len;
use crate::capi::huffman::weights::no_group;
use crate::capi::huffman::{
    lacuna_checkpoint, lacuna_compact_group, lacuna_df11_group, lacuna_lane_tensors, lacuna_weights,
};
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::huffman::{Checked, Checkpoint, DeviceWeights, Format, RawStored, Stored};

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

structs! {
    lacuna_stored_facts: 56,
    lacuna_matrix: 48,
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

/// Checks a group's tensors, and where the file carries a checksum of them, that too, for which all of them are read.
///
/// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for a group that there is not; `LACUNA_MALFORMED` where a tensor is not what the format allows, or is damaged.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_checkpoint_stored(
    checkpoint: *const lacuna_checkpoint,
    group: u64,
    stored: *mut *mut lacuna_stored,
) -> lacuna_status {
    // SAFETY: the caller's handle and variable.
    answer(|| unsafe {
        give("stored", stored, || lacuna_stored::of(borrow("checkpoint", checkpoint)?, group))
    })
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
    Failure::new(lacuna_status::LACUNA_MALFORMED, message)
}

/// The tensors of a group of DF11, in the file that is mapped: for `lacuna_weights_upload_df11`, or for an engine's own copies. They
/// are there until the group is freed.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_MALFORMED` for a group in another format.
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

/// The tensors of a compact group, in the file that is mapped: for `lacuna_weights_upload_compact`, or for an engine's own copies. They
/// are there until the group is freed.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_MALFORMED` for a group in another format.
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

/// Copies groups of a checkpoint, DF11 and compact ones in any order, to the memory of the queue's device. The groups may be freed afterwards.
///
/// An allocation and six copies for each compact group, two and five for each of DF11, and one of each for their table; not for a captured stream.
///
/// Errors: `LACUNA_NULL`; `LACUNA_MALFORMED` for a matrix of lanes, which `lacuna_device_lane_upload` takes; `LACUNA_RANGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_weights_upload_stored(
    queue: *const lacuna_queue,
    groups: *const *const lacuna_stored,
    n_groups: u64,
    weights: *mut *mut lacuna_weights,
) -> lacuna_status {
    // SAFETY: the caller's handles, array and variable.
    answer(|| unsafe {
        give("weights", weights, || {
            let queue = &borrow("queue", queue)?.0;
            let groups = slice("groups", groups, n_groups)?;
            let source = |handle: &*const lacuna_stored| {
                let stored = &borrow("a group", *handle)?.stored;
                stored.source().ok_or_else(|| no_weights(stored))
            };
            let sources = groups.iter().map(source).collect::<Outcome<Vec<_>>>()?;
            Ok(lacuna_weights(DeviceWeights::upload(queue, sources)?))
        })
    })
}

fn no_weights(stored: &Stored<'_>) -> Failure {
    let message = format!(
        "{} is a matrix of lanes, which is not decoded: lacuna_device_lane_upload takes it",
        stored.name()
    );
    Failure::new(lacuna_status::LACUNA_MALFORMED, message)
}

/// The tensors of a matrix of lanes, in the file that is mapped: for `lacuna_device_lane_upload`, or for an engine's own copies. They
/// are there until the group is freed.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_MALFORMED` for a group in another format.
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
/// Errors: `LACUNA_NULL`, `LACUNA_SHAPE`; `LACUNA_CORRUPT`, whose message says where and what; `LACUNA_MALFORMED` for another checksum than the file's.
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
        check_optional("is_verified", is_verified)?;
        own.stored.decode(output)?;
        own.verify(output, is_verified)
    })
}

/// Holds the decoded weights of a group, from whatever decoder and in host memory, against the checksum that the file carries.
/// `is_verified` is as of `lacuna_stored_decode`.
///
/// Errors: `LACUNA_NULL`, `LACUNA_SHAPE`; `LACUNA_MALFORMED` for another checksum than the file's.
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
    /// Reads and checks a group of a checkpoint.
    fn of(checkpoint: &lacuna_checkpoint, group: u64) -> Outcome<Self> {
        let idx = usize::try_from(group).unwrap_or(usize::MAX);
        let checkpoint = Arc::clone(&checkpoint.checkpoint);
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
        Ok(Self { stored, checkpoint, idx, name, warnings, matrices })
    }

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
