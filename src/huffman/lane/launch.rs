//! The launches that unpack, measure and pack.
#![allow(unsafe_code)]

use half::bf16;

use super::{LanePackPlan, LaneShape, LaneUnpackPlan};
use crate::bindings::{
    HuffmanLane, HuffmanMeasureLaneParams, HuffmanPackLaneParams, HuffmanUnpackLaneParams,
};
use crate::buffer::{View, ViewMut};
use crate::error::check_below;
use crate::launch::{Arguments, check_aligned, check_same, kernel_params};
use crate::queue::Queue;
use crate::region::Role;
use crate::{Error, Result};

kernel_params!(HuffmanUnpackLaneParams, "huffman", "unpack_lane");
kernel_params!(HuffmanMeasureLaneParams, "huffman", "measure_lane");
kernel_params!(HuffmanPackLaneParams, "huffman", "pack_lane");

/// The planes of a matrix in device memory, of which nothing is trusted. `palettes` begins at a multiple of 8 bytes, `low`
/// and `high` at one of 16.
#[derive(Debug, Clone, Copy)]
pub struct LaneViews<'a> {
    /// Rows and columns.
    pub shape: LaneShape,
    /// `[n_row_tiles, 8]`.
    pub palettes: View<'a, u8>,
    /// `[n_tiles, 2048]`.
    pub low: View<'a, u8>,
    /// `[n_tiles, 256]`.
    pub high: View<'a, u32>,
    /// `[n_tiles]`.
    pub headers: View<'a, u64>,
    /// `[n_escapes]`, any number below 2^32; the planes of a matrix have as many as were counted.
    pub escapes: View<'a, u32>,
}

/// The planes that [`pack_lane`] writes, by palettes that are there, aligned as those of [`LaneViews`].
#[derive(Debug)]
pub struct LaneViewsMut<'a> {
    /// `[n_row_tiles, 8]`: what [`measure_lane`] wrote.
    pub palettes: View<'a, u8>,
    /// `[n_tiles, 2048]`.
    pub low: ViewMut<'a, u8>,
    /// `[n_tiles, 256]`.
    pub high: ViewMut<'a, u32>,
    /// `[n_tiles]`.
    pub headers: ViewMut<'a, u64>,
    /// Room for escapes, below 2^32; what is past those that were counted stays what it was.
    pub escapes: ViewMut<'a, u32>,
}

fn check_planes(palettes: u64, low: u64, high: u64) -> Result<()> {
    check_aligned("address of palettes", palettes, 8, "the multiples of 8")?;
    check_aligned("address of low", low, 16, "the multiples of 16")?;
    check_aligned("address of high", high, 16, "the multiples of 16")
}

impl LaneViews<'_> {
    /// For the params struct of a launch that reads the planes.
    pub(super) fn params(&self, arguments: &mut Arguments<'_>) -> Result<HuffmanLane> {
        let shape = &self.shape;
        let n_escapes = self.escapes.len() as u64;
        check_below("escapes", n_escapes, 1 << 32, "0..2^32")?;
        check_planes(self.palettes.address(), self.low.address(), self.high.address())?;
        Ok(HuffmanLane {
            palettes: arguments.input("palettes", &self.palettes, shape.palettes_len())?,
            low: arguments.input("low", &self.low, shape.low_len())?,
            high: arguments.input("high", &self.high, shape.high_len())?,
            headers: arguments.input("headers", &self.headers, shape.headers_len())?,
            escapes: arguments.input("escapes", &self.escapes, n_escapes)?,
            ..sizes(shape, n_escapes)
        })
    }
}

fn sizes(shape: &LaneShape, n_escapes: u64) -> HuffmanLane {
    HuffmanLane {
        palettes: 0,
        low: 0,
        high: 0,
        headers: 0,
        escapes: 0,
        n_rows: shape.n_rows() as u32,
        n_columns: shape.n_columns() as u32,
        tiles_per_row: shape.tiles_per_row() as u32,
        n_escapes: n_escapes as u32,
    }
}

/// The rows of a matrix, from its planes.
///
/// # Shapes
/// Those of [`LaneViews`]; `output` is `[n_rows, n_columns]` with the plan's stride.
///
/// # Numerics
/// Bit for bit [`reference::unpack`](super::reference::unpack), for any bytes. What is between rows is left as it is.
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`], [`Error::Range`] for an address that is not aligned or a shape that is not the plan's, [`Error::WrongQueue`] and [`Error::WrongStream`]
/// before anything is launched; [`Error::Driver`] where the launch fails.
pub fn unpack_lane(
    queue: &Queue,
    plan: &LaneUnpackPlan,
    planes: &LaneViews<'_>,
    output: &mut ViewMut<'_, bf16>,
) -> Result<()> {
    let shape = plan.shape();
    check_shape(shape, &planes.shape)?;
    let mut arguments = Arguments::new(queue);
    let is_whole = plan.output_stride() == shape.n_columns();
    let role = if is_whole { Role::Output } else { Role::InOut };
    let params = HuffmanUnpackLaneParams {
        planes: planes.params(&mut arguments)?,
        output: arguments.written(role, "output", output, plan.output_len())?,
        output_stride: plan.output_stride(),
    };
    // SAFETY: the views have the sizes that the kernel reaches, and it clamps what headers say.
    unsafe { arguments.launch(&plan.grid(), &params) }
}

fn check_shape(expected: &LaneShape, got: &LaneShape) -> Result<()> {
    for (what, expected, got) in [
        ("rows of the planes", expected.n_rows(), got.n_rows()),
        ("columns of the planes", expected.n_columns(), got.n_columns()),
    ] {
        if got != expected {
            return Err(Error::Shape { what, expected, got });
        }
    }
    Ok(())
}

/// Chooses the palettes of a matrix, and counts what they lack: the first of two launches that pack it.
///
/// # Shapes
/// `weights` is `[n_rows, n_columns]` with the plan's stride, `palettes` `[n_row_tiles, 8]`, `n_escapes` one word, and `workspace`
/// [`LanePackPlan::workspace_len`] words: zeroed once, and left ready by every launch.
///
/// # Numerics
/// Palettes and counts are those of [`pack`](super::pack).
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`], [`Error::WrongQueue`] and [`Error::WrongStream`] before anything is launched; [`Error::Driver`] where the
/// launch fails.
pub fn measure_lane(
    queue: &Queue,
    plan: &LanePackPlan,
    weights: &View<'_, bf16>,
    workspace: &mut ViewMut<'_, u64>,
    palettes: &mut ViewMut<'_, u8>,
    n_escapes: &mut ViewMut<'_, u64>,
) -> Result<()> {
    let shape = plan.shape();
    let [firsts_at, headers_at] = measured_at(plan);
    let mut arguments = Arguments::new(queue);
    arguments.check_workspace(workspace, plan.workspace_len())?;
    let output = Role::Output;
    let mut params = HuffmanMeasureLaneParams {
        weights: arguments.input("weights", weights, plan.weights_len())?,
        weights_stride: plan.weights_stride(),
        palettes: arguments.written(output, "palettes", palettes, shape.palettes_len())?,
        firsts: 0,
        headers: 0,
        n_escapes: arguments.written(output, "n_escapes", n_escapes, 1)?,
        ticket: 0,
        n_rows: shape.n_rows() as u32,
        n_columns: shape.n_columns() as u32,
        tiles_per_row: shape.tiles_per_row() as u32,
        reserved: 0,
    };
    let end = workspace.len();
    let ticket = workspace.slice_mut(0..firsts_at)?;
    params.ticket = arguments.written(Role::InOut, "ticket", &ticket, 1)?;
    let firsts = workspace.slice_mut(firsts_at..headers_at)?;
    params.firsts = arguments.written(output, "firsts", &firsts, shape.n_row_tiles())?;
    let headers = workspace.slice_mut(headers_at..end)?;
    params.headers = arguments.written(output, "measured headers", &headers, shape.n_tiles())?;
    // SAFETY: the views have the sizes that the kernel reaches.
    unsafe { arguments.launch(&plan.measure_grid(), &params) }
}

/// Where in a workspace the first escapes of row tiles begin, and where the headers.
fn measured_at(plan: &LanePackPlan) -> [usize; 2] {
    [1, 1 + plan.shape().n_row_tiles() as usize]
}

/// Packs a matrix that [`measure_lane`] measured: the second of two launches.
///
/// # Shapes
/// `weights` and `workspace` as they were measured; of [`LaneViewsMut`], escapes have room for what was counted. Where they have not, those past
/// the room are not written, and all else is.
///
/// # Numerics
/// Bit for bit [`pack`](super::pack). Of palettes or a workspace that are not what [`measure_lane`] left, no plane means
/// anything, and nothing outside of them is written.
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// As [`unpack_lane`].
pub fn pack_lane(
    queue: &Queue,
    plan: &LanePackPlan,
    weights: &View<'_, bf16>,
    workspace: &View<'_, u64>,
    planes: &mut LaneViewsMut<'_>,
) -> Result<()> {
    let shape = plan.shape();
    queue.check_view("workspace", workspace)?;
    check_same("workspace", plan.workspace_len(), workspace.len())?;
    let n_escapes = planes.escapes.len() as u64;
    check_below("escapes", n_escapes, 1 << 32, "0..2^32")?;
    check_planes(planes.palettes.address(), planes.low.address(), planes.high.address())?;
    let [firsts_at, headers_at] = measured_at(plan);
    let firsts = workspace.slice(firsts_at..headers_at)?;
    let headers = workspace.slice(headers_at..workspace.len())?;
    let mut arguments = Arguments::new(queue);
    let output = Role::Output;
    let params = HuffmanPackLaneParams {
        weights: arguments.input("weights", weights, plan.weights_len())?,
        weights_stride: plan.weights_stride(),
        firsts: arguments.input("firsts", &firsts, shape.n_row_tiles())?,
        headers: arguments.input("measured headers", &headers, shape.n_tiles())?,
        planes: HuffmanLane {
            palettes: arguments.input("palettes", &planes.palettes, shape.palettes_len())?,
            low: arguments.written(output, "low", &planes.low, shape.low_len())?,
            high: arguments.written(output, "high", &planes.high, shape.high_len())?,
            headers: arguments.written(output, "headers", &planes.headers, shape.headers_len())?,
            escapes: arguments.written(Role::InOut, "escapes", &planes.escapes, n_escapes)?,
            ..sizes(shape, n_escapes)
        },
    };
    // SAFETY: the views have the sizes that the kernel reaches, and escapes past their room are not written.
    unsafe { arguments.launch(&plan.pack_grid(), &params) }
}
