//! Groups encoded where they are: DF11 and compact ones.

use super::groups::{check_len, write_table};
use crate::capi::abi::{
    array, borrow, check_struct, free, give, lacuna_header, read, structs, variable, write,
};
use crate::capi::device::lacuna_queue;
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::huffman::compact::{self, CompactViewsMut, LENGTHS_BYTES};
use crate::huffman::indexed::CodeTable;
use crate::huffman::{Encoder, GroupViewsMut, Measured};

/// Elements of each view of `lacuna_df11_encoder_pack_args`, by the same names.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_df11_encoder_sizes {
    pub header: lacuna_header,
    pub weights: u64,
    pub encoded_exponent: u64,
    pub sign_mantissa: u64,
    pub gaps: u64,
    pub output_positions: u64,
    /// Bytes of the tensor `luts`, which `lacuna_df11_encoder_luts` gives.
    pub luts: u64,
}

/// What `lacuna_df11_encoder_pack` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_df11_encoder_pack_args {
    pub header: lacuna_header,
    /// bf16, as they were measured.
    pub weights: lacuna_view,
    /// u8, aligned to 16 bytes.
    pub encoded_exponent: lacuna_view_mut,
    /// u8, aligned to 16 bytes.
    pub sign_mantissa: lacuna_view_mut,
    /// u8.
    pub gaps: lacuna_view_mut,
    /// u8, aligned to 4 bytes.
    pub output_positions: lacuna_view_mut,
}

/// Elements of each view of `lacuna_compact_encoder_pack_args`, by the same names.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_compact_encoder_sizes {
    pub header: lacuna_header,
    pub weights: u64,
    pub codes: u64,
    pub sign_mantissa: u64,
    pub tile_bytes: u64,
    pub granule_bits: u64,
    /// Bytes of the tensor `lengths`, and of the code table, which `lacuna_compact_encoder_code` gives.
    pub lengths: u64,
    pub table: u64,
}

/// What `lacuna_compact_encoder_pack` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_compact_encoder_pack_args {
    pub header: lacuna_header,
    /// bf16, as they were measured.
    pub weights: lacuna_view,
    /// u8, aligned to 16 bytes.
    pub codes: lacuna_view_mut,
    /// u8, aligned to 16 bytes.
    pub sign_mantissa: lacuna_view_mut,
    /// u32.
    pub tile_bytes: lacuna_view_mut,
    /// u16.
    pub granule_bits: lacuna_view_mut,
}

structs! {
    lacuna_df11_encoder_sizes: 56,
    lacuna_df11_encoder_pack_args: 128,
    lacuna_compact_encoder_sizes: 64,
    lacuna_compact_encoder_pack_args: 128,
}

/// Encodes DF11 groups of one size in device memory, with a workspace of its own: `lacuna_df11_encoder_measure`, then memory for what it
/// says, `lacuna_df11_encoder_pack`, and `lacuna_df11_encoder_lengthen`. One thread uses it at a time.
pub struct lacuna_df11_encoder {
    encoder: Encoder,
    /// The code that a group is packed by.
    measured: Option<Measured>,
}

/// Encodes compact groups of one size in device memory, with a workspace of its own: `lacuna_compact_encoder_measure`, then memory for what it
/// says, and `lacuna_compact_encoder_pack`. One thread uses it at a time.
pub struct lacuna_compact_encoder {
    encoder: compact::Encoder,
    measured: Option<compact::Measured>,
}

fn nothing_measured() -> Failure {
    let message = "encoder: it has measured no group yet, by whose code another could be packed";
    Failure::new(lacuna_status::LACUNA_RANGE, message.to_owned())
}

impl lacuna_df11_encoder {
    fn measured(&self) -> Outcome<&Measured> {
        self.measured.as_ref().ok_or_else(nothing_measured)
    }

    fn sizes(&self) -> Outcome<lacuna_df11_encoder_sizes> {
        let (measured, n_elements) = (self.measured()?, self.encoder.plan().n_elements());
        Ok(lacuna_df11_encoder_sizes {
            header: lacuna_header::NONE,
            weights: n_elements,
            encoded_exponent: measured.n_code_bytes,
            sign_mantissa: n_elements,
            gaps: measured.gaps_len(),
            output_positions: measured.output_positions_len(),
            luts: measured.book.luts().len() as u64,
        })
    }
}

/// Makes an encoder for groups of `n_elements` weights.
///
/// Two allocations, whose memory is zeroed; not for a captured stream.
///
/// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for no weights, or 2^32 of them; `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_df11_encoder_new(
    queue: *const lacuna_queue,
    n_elements: u64,
    encoder: *mut *mut lacuna_df11_encoder,
) -> lacuna_status {
    // SAFETY: the caller's handle and variable.
    answer(|| unsafe {
        give("encoder", encoder, || {
            let encoder = Encoder::new(&borrow("queue", queue)?.0, n_elements)?;
            Ok(lacuna_df11_encoder { encoder, measured: None })
        })
    })
}

/// Ends an encoder, and frees its workspace after the work that was queued before; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_df11_encoder_free(encoder: *mut lacuna_df11_encoder) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(encoder) }
}

/// Counts a group's exponents, and makes its smallest code: how much memory the group's tensors take. `weights` is bf16, of
/// `n_elements`, aligned to 16 bytes; matrices of a group follow one another.
///
/// One launch, a copy of 2 KiB that the host waits for, and one of 2 KiB; not for a captured stream.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_WRONG_QUEUE`; `LACUNA_RANGE` where codes have 2^31 bytes; `LACUNA_IMAGE`,
/// `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_df11_encoder_measure(
    queue: *const lacuna_queue,
    encoder: *mut lacuna_df11_encoder,
    weights: *const lacuna_view,
    sizes: *mut lacuna_df11_encoder_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handles, view, memory and struct.
    answer(|| unsafe {
        let (queue, own) = (&borrow("queue", queue)?.0, variable("encoder", encoder)?);
        let weights = borrow("weights", weights)?.of("weights", queue)?;
        check_struct(sizes)?;
        own.measured = None;
        own.measured = Some(own.encoder.measure(queue, &weights)?);
        write(sizes, &own.sizes()?)
    })
}

/// Encodes the group that was measured last, by the code that was made last: bit for bit what the encoder on the CPU gives, once
/// `lacuna_df11_encoder_lengthen` has no other code.
///
/// Two launches.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_WRONG_QUEUE`; `LACUNA_RANGE` where nothing was measured; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_df11_encoder_pack(
    queue: *const lacuna_queue,
    encoder: *mut lacuna_df11_encoder,
    args: *const lacuna_df11_encoder_pack_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, own) = (&borrow("queue", queue)?.0, variable("encoder", encoder)?);
        let args = read(args)?;
        let n_code_bytes = own.measured()?.n_code_bytes;
        let mut outputs = GroupViewsMut {
            encoded_exponent: args.encoded_exponent.of("encoded_exponent", queue)?,
            sign_mantissa: args.sign_mantissa.of("sign_mantissa", queue)?,
            gaps: args.gaps.of("gaps", queue)?,
            output_positions: args.output_positions.of("output_positions", queue)?,
        };
        check_len("encoded_exponent", n_code_bytes, outputs.encoded_exponent.len() as u64)?;
        let weights = args.weights.of("weights", queue)?;
        Ok(own.encoder.pack(queue, &weights, &mut outputs)?)
    })
}

/// Sets `is_longer` to 1 where the group must be packed again, by another code and into memory of other `sizes`, since one of its blocks has
/// more weights than published decoders hold; else to 0, and `sizes` are what they were.
///
/// Mostly nothing; else a copy of the positions that the host waits for, and one of 2 KiB; not for a captured stream.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_WRONG_QUEUE`; `LACUNA_RANGE` where nothing was measured; `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_df11_encoder_lengthen(
    queue: *const lacuna_queue,
    encoder: *mut lacuna_df11_encoder,
    output_positions: *const lacuna_view,
    sizes: *mut lacuna_df11_encoder_sizes,
    is_longer: *mut u32,
) -> lacuna_status {
    // SAFETY: the caller's handles, view, memory, struct and variable.
    answer(|| unsafe {
        let (queue, own) = (&borrow("queue", queue)?.0, variable("encoder", encoder)?);
        let positions = borrow("output_positions", output_positions)?;
        let positions = positions.of("output_positions", queue)?;
        let is_longer = variable("is_longer", is_longer)?;
        check_struct(sizes)?;
        own.measured()?;
        let longer = own.encoder.lengthen(queue, &positions)?;
        let found = u32::from(longer.is_some());
        own.measured = longer.or(own.measured.take());
        write(sizes, &own.sizes()?)?;
        *is_longer = found;
        Ok(())
    })
}

/// The tensor `luts` of the code that was made last, into host memory: `n_bytes` as `lacuna_df11_encoder_sizes` says.
///
/// Errors: `LACUNA_NULL`, `LACUNA_SHAPE`; `LACUNA_RANGE` where nothing was measured.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_df11_encoder_luts(
    encoder: *const lacuna_df11_encoder,
    luts: *mut u8,
    n_bytes: u64,
) -> lacuna_status {
    // SAFETY: the caller's handle and array.
    answer(|| unsafe {
        let found = borrow("encoder", encoder)?.measured()?.book.luts();
        let luts = array("luts", luts, n_bytes)?;
        check_len("luts, in bytes", found.len() as u64, n_bytes)?;
        luts.copy_from_slice(found);
        Ok(())
    })
}

/// Makes an encoder for groups of `n_elements` weights.
///
/// Two allocations, whose memory is zeroed; not for a captured stream.
///
/// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for no weights, or 2^32 of them; `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_compact_encoder_new(
    queue: *const lacuna_queue,
    n_elements: u64,
    encoder: *mut *mut lacuna_compact_encoder,
) -> lacuna_status {
    // SAFETY: the caller's handle and variable.
    answer(|| unsafe {
        give("encoder", encoder, || {
            let encoder = compact::Encoder::new(&borrow("queue", queue)?.0, n_elements)?;
            Ok(lacuna_compact_encoder { encoder, measured: None })
        })
    })
}

/// Ends an encoder, and frees its workspace after the work that was queued before; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_compact_encoder_free(encoder: *mut lacuna_compact_encoder) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(encoder) }
}

/// Counts a group's exponents, and makes its code: how much memory the group's tensors take. `weights` is bf16, of `n_elements`, aligned
/// to 16 bytes; matrices of a group follow one another.
///
/// One launch, a copy of 2 KiB that the host waits for, and one of 1 KiB; not for a captured stream.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_WRONG_QUEUE`; `LACUNA_RANGE` where codes have 2^32 bytes; `LACUNA_IMAGE`,
/// `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_compact_encoder_measure(
    queue: *const lacuna_queue,
    encoder: *mut lacuna_compact_encoder,
    weights: *const lacuna_view,
    sizes: *mut lacuna_compact_encoder_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handles, view, memory and struct.
    answer(|| unsafe {
        let (queue, own) = (&borrow("queue", queue)?.0, variable("encoder", encoder)?);
        let weights = borrow("weights", weights)?.of("weights", queue)?;
        check_struct(sizes)?;
        own.measured = None;
        let measured = own.encoder.measure(queue, &weights)?;
        let plan = own.encoder.plan();
        let found = lacuna_compact_encoder_sizes {
            header: lacuna_header::NONE,
            weights: plan.n_elements(),
            codes: measured.n_code_bytes,
            sign_mantissa: plan.n_elements(),
            tile_bytes: plan.tile_bytes_len(),
            granule_bits: plan.granule_bits_len(),
            lengths: LENGTHS_BYTES as u64,
            table: CodeTable::N_BYTES as u64,
        };
        own.measured = Some(measured);
        write(sizes, &found)
    })
}

/// Encodes the group that was measured last: bit for bit what the encoder on the CPU gives.
///
/// Two launches.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_WRONG_QUEUE`; `LACUNA_RANGE` where nothing was measured; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_compact_encoder_pack(
    queue: *const lacuna_queue,
    encoder: *mut lacuna_compact_encoder,
    args: *const lacuna_compact_encoder_pack_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, own) = (&borrow("queue", queue)?.0, variable("encoder", encoder)?);
        let args = read(args)?;
        let measured = own.measured.as_ref().ok_or_else(nothing_measured)?;
        let n_code_bytes = measured.n_code_bytes;
        let mut outputs = CompactViewsMut {
            codes: args.codes.of("codes", queue)?,
            sign_mantissa: args.sign_mantissa.of("sign_mantissa", queue)?,
            tile_bytes: args.tile_bytes.of("tile_bytes", queue)?,
            granule_bits: args.granule_bits.of("granule_bits", queue)?,
        };
        check_len("codes", n_code_bytes, outputs.codes.len() as u64)?;
        let weights = args.weights.of("weights", queue)?;
        Ok(own.encoder.pack(queue, &weights, &mut outputs)?)
    })
}

/// The code of the group that was measured last, into host memory: its tensor `lengths`, and its table, as `lacuna_indexed_views`
/// takes it. Either may be null.
///
/// Errors: `LACUNA_NULL` for no encoder, `LACUNA_SHAPE`; `LACUNA_RANGE` where nothing was measured.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_compact_encoder_code(
    encoder: *const lacuna_compact_encoder,
    lengths: *mut u8,
    n_lengths: u64,
    table: *mut u8,
    n_table_bytes: u64,
) -> lacuna_status {
    // SAFETY: the caller's handle and arrays.
    answer(|| unsafe {
        let measured = borrow("encoder", encoder)?.measured.as_ref();
        let code = &measured.ok_or_else(nothing_measured)?.code;
        if !lengths.is_null() {
            check_len("lengths, in bytes", LENGTHS_BYTES as u64, n_lengths)?;
        }
        if !table.is_null() {
            write_table(&code.table(), table, n_table_bytes)?;
        }
        if !lengths.is_null() {
            array("lengths", lengths, n_lengths)?.copy_from_slice(&code.to_lengths());
        }
        Ok(())
    })
}
