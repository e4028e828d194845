//! The launches that encode.
#![allow(unsafe_code)]

use half::bf16;

use super::{CompactCode, EncodePlan};
use crate::Result;
use crate::bindings::{HuffmanCountParams, HuffmanPackParams, HuffmanPlaceParams};
use crate::buffer::{View, ViewMut};
use crate::launch::{Arguments, check_aligned, kernel_params};
use crate::queue::Queue;
use crate::region::Role;

kernel_params!(HuffmanCountParams, "huffman", "count_exponents");
kernel_params!(HuffmanPlaceParams, "huffman", "place_codes");
kernel_params!(HuffmanPackParams, "huffman", "pack_codes");

/// What is read and written 16 bytes at a time.
pub(in crate::huffman) const ALIGNMENT: u64 = 16;

/// Where a group's tensors go.
#[derive(Debug)]
pub struct CompactViewsMut<'a> {
    /// `[n_code_bytes]`, aligned to 16 bytes: as many as [`CompactCode::n_bits`] says; up to [`EncodePlan::most_code_bytes`].
    pub codes: ViewMut<'a, u8>,
    /// `[n_elements]`, aligned to 16 bytes.
    pub sign_mantissa: ViewMut<'a, u8>,
    /// `[n_granules / 32 + 1]`.
    pub tile_bytes: ViewMut<'a, u32>,
    /// `[n_granules + 1]`.
    pub granule_bits: ViewMut<'a, u16>,
}

/// How many weights have each exponent: `counts[e]`, what [`CompactCode::new`] takes; and of each 65,536, in the workspace.
///
/// # Shapes
/// `weights` has [`EncodePlan::n_elements`], aligned to 16 bytes; matrices of a group follow one another. `workspace` has
/// [`EncodePlan::workspace_len`] words, aligned to 16 bytes, of which the first [`EncodePlan::n_zeros`] are zeroed once; `counts` 256.
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Range`](crate::Error::Range), [`Error::WrongQueue`](crate::Error::WrongQueue) and
/// [`Error::WrongStream`](crate::Error::WrongStream) before anything is launched; [`Error::Driver`](crate::Error::Driver) where the launch fails.
pub fn count_exponents(
    queue: &Queue,
    plan: &EncodePlan,
    weights: &View<'_, bf16>,
    workspace: &mut ViewMut<'_, u64>,
    counts: &mut ViewMut<'_, u64>,
) -> Result<()> {
    check_workspace(queue, plan, workspace)?;
    check_aligned("address of weights", weights.address(), ALIGNMENT, "multiples of 16")?;
    let mut arguments = Arguments::new(queue);
    let params = HuffmanCountParams {
        weights: arguments.input("weights", weights, plan.n_elements())?,
        parts: written(&mut arguments, Role::Output, "parts", workspace, plan.parts())?,
        sums: written(&mut arguments, Role::InOut, "sums", workspace, plan.sums())?,
        counts: arguments.written(Role::Output, "counts", counts, 256)?,
        n_elements: plan.n_elements(),
    };
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&plan.count_grid(), &params) }
}

/// Copies a code to the workspace, where [`place_codes`] and [`pack_codes`] look it up.
///
/// # Stream
/// One copy of 1 KiB.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::WrongQueue`](crate::Error::WrongQueue) and [`Error::WrongStream`](crate::Error::WrongStream), and
/// [`Error::Driver`](crate::Error::Driver) where the copy fails.
pub fn upload_code(
    queue: &Queue,
    plan: &EncodePlan,
    code: &CompactCode,
    workspace: &mut ViewMut<'_, u64>,
) -> Result<()> {
    // Codes from the highest bit down, lengths in the lowest six.
    let entry = |idx: usize| match u32::from(code.lengths()[idx]) {
        0 => 0,
        length => code.codes()[idx] << (32 - length) | length,
    };
    let table: [u64; 128] =
        std::array::from_fn(|idx| u64::from(entry(2 * idx)) | u64::from(entry(2 * idx + 1)) << 32);
    upload_table(queue, plan, &table, workspace)
}

/// Copies a table of two entries a word to the workspace.
pub(in crate::huffman) fn upload_table(
    queue: &Queue,
    plan: &EncodePlan,
    table: &[u64],
    workspace: &mut ViewMut<'_, u64>,
) -> Result<()> {
    check_workspace(queue, plan, workspace)?;
    let range = plan.table(2 * table.len() as u64);
    queue.upload_into(table, &mut workspace.slice_mut(range.start as usize..range.end as usize)?)
}

/// Where the codes of each 65,536 weights begin, in the workspace, of what [`count_exponents`] counted and [`upload_code`] or
/// [`upload_codebook`](crate::huffman::upload_codebook) copied there.
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// Those of [`count_exponents`].
pub fn place_codes(
    queue: &Queue,
    plan: &EncodePlan,
    workspace: &mut ViewMut<'_, u64>,
) -> Result<()> {
    check_workspace(queue, plan, workspace)?;
    let mut arguments = Arguments::new(queue);
    let params = HuffmanPlaceParams {
        parts: input(&mut arguments, "parts", workspace, plan.parts())?,
        table: input(&mut arguments, "table", workspace, plan.table(256))?,
        part_bits: written(
            &mut arguments,
            Role::Workspace,
            "bits of parts",
            workspace,
            plan.part_bits(),
        )?,
        starts: written(&mut arguments, Role::Output, "starts", workspace, plan.starts())?,
        ticket: written(&mut arguments, Role::InOut, "ticket", workspace, plan.place_ticket())?,
        n_parts: plan.n_parts() as u32,
        reserved: 0,
    };
    // SAFETY: as above.
    unsafe { arguments.launch(&plan.place_grid(), &params) }
}

/// The tensors of a compact group, of the same weights, after [`place_codes`].
///
/// # Shapes
/// Those of [`count_exponents`] and [`CompactViewsMut`]. Codes that `outputs.codes` has no room for are not written.
///
/// # Numerics
/// Bit for bit [`reference::encode`](super::reference::encode).
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// Those of [`count_exponents`].
pub fn pack_codes(
    queue: &Queue,
    plan: &EncodePlan,
    weights: &View<'_, bf16>,
    workspace: &ViewMut<'_, u64>,
    outputs: &mut CompactViewsMut<'_>,
) -> Result<()> {
    check_workspace(queue, plan, workspace)?;
    let CompactViewsMut { codes, sign_mantissa, tile_bytes, granule_bits } = outputs;
    for (what, address) in [
        ("address of weights", weights.address()),
        ("address of codes", codes.address()),
        ("address of sign_mantissa", sign_mantissa.address()),
    ] {
        check_aligned(what, address, ALIGNMENT, "multiples of 16")?;
    }
    let n_code_bytes = (codes.len() as u64).min(plan.most_code_bytes());
    let mut arguments = Arguments::new(queue);
    let params = HuffmanPackParams {
        weights: arguments.input("weights", weights, plan.n_elements())?,
        starts: input(&mut arguments, "starts", workspace, plan.starts())?,
        table: input(&mut arguments, "table", workspace, plan.table(256))?,
        codes: arguments.written(Role::Output, "codes", codes, n_code_bytes)?,
        sign_mantissa: arguments.written(
            Role::Output,
            "sign_mantissa",
            sign_mantissa,
            plan.n_elements(),
        )?,
        tile_bytes: arguments.written(
            Role::Output,
            "tile_bytes",
            tile_bytes,
            plan.tile_bytes_len(),
        )?,
        granule_bits: arguments.written(
            Role::Output,
            "granule_bits",
            granule_bits,
            plan.granule_bits_len(),
        )?,
        n_elements: plan.n_elements(),
        n_code_bytes,
    };
    // SAFETY: as above.
    unsafe { arguments.launch(&plan.pack_grid(), &params) }
}

pub(in crate::huffman) fn check_workspace(
    queue: &Queue,
    plan: &EncodePlan,
    workspace: &ViewMut<'_, u64>,
) -> Result<()> {
    Arguments::new(queue).check_workspace(workspace, plan.workspace_len())?;
    check_aligned("address of the workspace", workspace.address(), ALIGNMENT, "multiples of 16")
}

pub(in crate::huffman) fn input(
    arguments: &mut Arguments<'_>,
    what: &'static str,
    workspace: &ViewMut<'_, u64>,
    range: std::ops::Range<u64>,
) -> Result<u64> {
    let words = workspace.as_view().slice(range.start as usize..range.end as usize)?;
    arguments.input(what, &words, range.end - range.start)
}

fn written(
    arguments: &mut Arguments<'_>,
    role: Role,
    what: &'static str,
    workspace: &mut ViewMut<'_, u64>,
    range: std::ops::Range<u64>,
) -> Result<u64> {
    let words = workspace.slice_mut(range.start as usize..range.end as usize)?;
    arguments.written(role, what, &words, range.end - range.start)
}
