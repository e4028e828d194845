//! Files made of others.

use std::ffi::{CString, c_char, c_void};
use std::ptr::null;

use super::{each, format, lacuna_checkpoint, path, utf8};
use crate::capi::abi::{
    LACUNA_ABI_VERSION, borrow, check_struct, lacuna_header, read, structs, text, write,
};
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::huffman::{self, Converted, GroupPattern, Progress};

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
    lacuna_conversion: 48,
    lacuna_converted: 48,
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
    if address.is_null() { Ok(()) } else { unsafe { check_struct(address) } }
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
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_RANGE`, `LACUNA_IO`; `LACUNA_MALFORMED` for inputs that are not sound, are compressed already, or hold nothing to
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
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_RANGE`, `LACUNA_IO`, `LACUNA_CORRUPT`; `LACUNA_MALFORMED` for DF11, and for lanes of a matrix whose shape the checkpoint
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
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_RANGE`, `LACUNA_IO`, `LACUNA_CORRUPT`, `LACUNA_MALFORMED`.
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
