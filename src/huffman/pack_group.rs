//! The launch that packs a DF11 group.
#![allow(unsafe_code)]

use half::bf16;

use super::Codebook;
use super::compact::EncodePlan;
use super::compact::launch::{ALIGNMENT, check_workspace, input, upload_table};
use super::encode::chain_lens;
use super::plan::check_range;
use crate::Result;
use crate::bindings::HuffmanPackGroupParams;
use crate::buffer::{View, ViewMut};
use crate::launch::{Arguments, check_aligned, kernel_params};
use crate::queue::Queue;
use crate::region::Role;

kernel_params!(HuffmanPackGroupParams, "huffman", "pack_group");

/// The longest code that the kernel packs with seven others.
const QUICK_BITS: u32 = 15;

/// Where a group's tensors go.
#[derive(Debug)]
pub struct GroupViewsMut<'a> {
    /// `[n_code_bytes]`, aligned to 16 bytes: as many as [`Measured`](super::Measured) says.
    pub encoded_exponent: ViewMut<'a, u8>,
    /// `[n_elements]`, aligned to 16 bytes.
    pub sign_mantissa: ViewMut<'a, u8>,
    /// `[320 * n_blocks]`, with `n_blocks = ceil(n_code_bytes / 4096)`.
    pub gaps: ViewMut<'a, u8>,
    /// `[4 * (n_blocks + 1)]`, aligned to 4 bytes.
    pub output_positions: ViewMut<'a, u8>,
}

/// Copies a code to the workspace, where [`place_codes`](super::compact::place_codes) and [`pack_group`] look it up.
///
/// # Stream
/// One copy of 2 KiB.
///
/// # Errors
/// Those of [`upload_code`](super::compact::upload_code).
pub fn upload_codebook(
    queue: &Queue,
    plan: &EncodePlan,
    book: &Codebook,
    workspace: &mut ViewMut<'_, u64>,
) -> Result<()> {
    let length_of = |idx: usize| u32::from(book.lengths()[idx]);
    let code = |idx: usize| match length_of(idx) {
        0 => 0,
        length => book.codes()[idx] << (32 - length),
    };
    let entry = |idx: usize| match idx.checked_sub(256) {
        Some(idx) => code(idx),
        None if length_of(idx) <= QUICK_BITS => code(idx) | length_of(idx),
        None => length_of(idx),
    };
    let table: [u64; 256] =
        std::array::from_fn(|idx| u64::from(entry(2 * idx)) | u64::from(entry(2 * idx + 1)) << 32);
    upload_table(queue, plan, &table, workspace)
}

/// The tensors of a DF11 group but its tables, of the weights that [`count_exponents`](super::compact::count_exponents) counted, after
/// [`upload_codebook`] and [`place_codes`](super::compact::place_codes).
///
/// # Shapes
/// `weights` and `workspace` as [`count_exponents`](super::compact::count_exponents) takes them, and [`GroupViewsMut`]. Every exponent of the
/// weights has a code. What is of codes that `outputs.encoded_exponent` has no room for is not written.
///
/// # Numerics
/// Bit for bit [`encode`](super::encode()).
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// Those of [`count_exponents`](super::compact::count_exponents); [`Error::Range`](crate::Error::Range) for no code bytes, or 2^31 of them.
pub fn pack_group(
    queue: &Queue,
    plan: &EncodePlan,
    weights: &View<'_, bf16>,
    workspace: &ViewMut<'_, u64>,
    outputs: &mut GroupViewsMut<'_>,
) -> Result<()> {
    check_workspace(queue, plan, workspace)?;
    let GroupViewsMut { encoded_exponent, sign_mantissa, gaps, output_positions } = outputs;
    for (what, address) in [
        ("address of weights", weights.address()),
        ("address of encoded_exponent", encoded_exponent.address()),
        ("address of sign_mantissa", sign_mantissa.address()),
    ] {
        check_aligned(what, address, ALIGNMENT, "multiples of 16")?;
    }
    let what = "address of output_positions";
    check_aligned(what, output_positions.address(), 4, "multiples of 4")?;
    let n_code_bytes = encoded_exponent.len() as u64;
    check_range("code bytes of a group", n_code_bytes, 1..1 << 31, "1..2^31")?;
    let [gaps_len, positions_len] = chain_lens(n_code_bytes);
    let mut arguments = Arguments::new(queue);
    let mut written =
        |what, view: &ViewMut<'_, u8>, len| arguments.written(Role::Output, what, view, len);
    let params = HuffmanPackGroupParams {
        codes: written("encoded_exponent", encoded_exponent, n_code_bytes)?,
        sign_mantissa: written("sign_mantissa", sign_mantissa, plan.n_elements())?,
        gaps: written("gaps", gaps, gaps_len)?,
        positions: written("output_positions", output_positions, positions_len)?,
        weights: arguments.input("weights", weights, plan.n_elements())?,
        starts: input(&mut arguments, "starts", workspace, plan.starts())?,
        table: input(&mut arguments, "table", workspace, plan.table(512))?,
        n_elements: plan.n_elements(),
        n_code_bytes,
    };
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&plan.pack_grid(), &params) }
}
