//! Matrices of lanes in device memory, and the launches that pack and unpack them.

use crate::capi::abi::{array, borrow, free, give, lacuna_header, or, read, structs, write};
use crate::capi::device::lacuna_queue;
use crate::capi::huffman::groups::check_len;
use crate::capi::status::{Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_bytes, lacuna_view, lacuna_view_mut};
use crate::huffman::lane::{
    DeviceLane, LanePackPlan, LaneShape, LaneTensors, LaneUnpackPlan, LaneViews, LaneViewsMut,
    measure_lane, pack_lane, unpack, unpack_lane,
};
use crate::queue::Queue;

/// Bytes of a matrix's header in a file.
pub const LACUNA_LANE_HEADER_BYTES: u64 = 32;

/// Rows and columns of a matrix: output features and input features of a linear layer.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_lane_shape {
    pub header: lacuna_header,
    pub n_rows: u64,
    pub n_columns: u64,
}

/// Elements of a matrix's planes, by the same names as in `lacuna_lane_views`; of escapes there are as many as the weights ask for.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_lane_sizes {
    pub header: lacuna_header,
    pub palettes: u64,
    pub low: u64,
    pub high: u64,
    pub headers: u64,
    /// Weights.
    pub n_weights: u64,
    /// Bytes of all planes beside escapes, each of which has 4 more.
    pub n_bytes: u64,
}

/// The tensors of a matrix in host memory, as a checkpoint has them, in any alignment.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_lane_tensors {
    pub header: lacuna_header,
    /// Optional: the matrix's name in messages, UTF-8.
    pub name: lacuna_bytes,
    /// `[LACUNA_LANE_HEADER_BYTES]`: what `lacuna_lane_header` gives.
    pub lane_header: lacuna_bytes,
    /// `[n_row_tiles, 8]`.
    pub palettes: lacuna_bytes,
    /// `[n_tiles, 2048]`.
    pub low: lacuna_bytes,
    /// `[4 * n_tiles * 256]`: little-endian u32.
    pub high: lacuna_bytes,
    /// `[8 * n_tiles]`: little-endian u64.
    pub headers: lacuna_bytes,
    /// `[4 * n_escapes]`: little-endian u32.
    pub escapes: lacuna_bytes,
}

/// The planes of a matrix in device memory, of which nothing is trusted: of `lacuna_device_lane_views`, or an engine's own.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_lane_views {
    pub header: lacuna_header,
    pub n_rows: u64,
    pub n_columns: u64,
    /// u8 `[n_row_tiles, 8]`, aligned to 8 bytes.
    pub palettes: lacuna_view,
    /// u8 `[n_tiles, 2048]`, aligned to 16 bytes.
    pub low: lacuna_view,
    /// u32 `[n_tiles, 256]`, aligned to 16 bytes.
    pub high: lacuna_view,
    /// u64 `[n_tiles]`.
    pub headers: lacuna_view,
    /// Optional, u32 `[n_escapes]`.
    pub escapes: lacuna_view,
}

/// A launch that unpacks a matrix.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_unpack_lane_shape {
    pub header: lacuna_header,
    pub n_rows: u64,
    pub n_columns: u64,
    /// Elements between the starts of two rows of the output; 0 is `n_columns`. A multiple of 8 is faster.
    pub output_stride: u64,
}

/// Elements of the view of `lacuna_unpack_lane_args`; planes are as `lacuna_lane_shape_sizes` says.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_unpack_lane_sizes {
    pub header: lacuna_header,
    pub output: u64,
}

/// What `lacuna_unpack_lane` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_unpack_lane_args {
    pub header: lacuna_header,
    pub planes: *const lacuna_lane_views,
    /// bf16 `[n_rows, n_columns]`, rows `output_stride` elements apart.
    pub output: lacuna_view_mut,
}

/// The two launches that pack a matrix.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_pack_lane_shape {
    pub header: lacuna_header,
    pub n_rows: u64,
    pub n_columns: u64,
    /// Elements between the starts of two rows of the weights; 0 is `n_columns`. A multiple of 8 is faster.
    pub weights_stride: u64,
}

/// Elements of the views of `lacuna_measure_lane_args` and `lacuna_pack_lane_args`, by the same names.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_pack_lane_sizes {
    pub header: lacuna_header,
    pub weights: u64,
    pub workspace: u64,
    pub palettes: u64,
    pub n_escapes: u64,
    pub low: u64,
    pub high: u64,
    pub headers: u64,
}

/// What `lacuna_measure_lane` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_measure_lane_args {
    pub header: lacuna_header,
    /// bf16 `[n_rows, n_columns]`, rows `weights_stride` elements apart.
    pub weights: lacuna_view,
    /// u8 `[n_row_tiles, 8]`.
    pub palettes: lacuna_view_mut,
    /// u64 `[1]`: how many escapes the matrix has.
    pub n_escapes: lacuna_view_mut,
    /// u64, zeroed once.
    pub workspace: lacuna_view_mut,
}

/// What `lacuna_pack_lane` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_pack_lane_args {
    pub header: lacuna_header,
    /// As it was measured.
    pub weights: lacuna_view,
    /// u8: what `lacuna_measure_lane` wrote, aligned to 8 bytes.
    pub palettes: lacuna_view,
    /// u8, aligned to 16 bytes.
    pub low: lacuna_view_mut,
    /// u32, aligned to 16 bytes.
    pub high: lacuna_view_mut,
    /// u64.
    pub headers: lacuna_view_mut,
    /// Optional, u32: room for as many escapes as were counted; those past it are not written, and room past them stays what it was.
    pub escapes: lacuna_view_mut,
    /// u64: what `lacuna_measure_lane` left there.
    pub workspace: lacuna_view,
}

structs! {
    lacuna_lane_shape: 24,
    lacuna_lane_sizes: 56,
    lacuna_lane_tensors: 120,
    lacuna_lane_views: 144,
    lacuna_unpack_lane_shape: 32,
    lacuna_unpack_lane_sizes: 16,
    lacuna_unpack_lane_args: 40,
    lacuna_pack_lane_shape: 32,
    lacuna_pack_lane_sizes: 64,
    lacuna_measure_lane_args: 104,
    lacuna_pack_lane_args: 176,
}

/// A matrix in device memory, in planes that this handle owns.
pub struct lacuna_device_lane(DeviceLane);

/// A plan of `lacuna_unpack_lane`: for any device, and any number of launches at once.
pub struct lacuna_unpack_lane_plan(LaneUnpackPlan);

/// A plan of `lacuna_measure_lane` and `lacuna_pack_lane`: for any device, and any number of launches at once.
pub struct lacuna_pack_lane_plan(LanePackPlan);

impl lacuna_lane_tensors {
    #[cfg(feature = "files")]
    pub(super) fn new(raw: &LaneTensors<'_>) -> Self {
        Self {
            header: lacuna_header::NONE,
            name: lacuna_bytes::new(raw.name.as_bytes()),
            lane_header: lacuna_bytes::new(raw.header),
            palettes: lacuna_bytes::new(raw.palettes),
            low: lacuna_bytes::new(raw.low),
            high: lacuna_bytes::new(raw.high),
            headers: lacuna_bytes::new(raw.headers),
            escapes: lacuna_bytes::new(raw.escapes),
        }
    }

    /// # Safety
    /// The bytes are the caller's, and nothing writes them for `'a`.
    unsafe fn raw<'a>(&self) -> Outcome<LaneTensors<'a>> {
        // SAFETY: the caller's word.
        unsafe {
            Ok(LaneTensors {
                name: self.name.text("name")?,
                header: self.lane_header.of("lane_header")?,
                palettes: self.palettes.of("palettes")?,
                low: self.low.of("low")?,
                high: self.high.of("high")?,
                headers: self.headers.of("headers")?,
                escapes: self.escapes.of("escapes")?,
            })
        }
    }
}

impl lacuna_lane_views {
    /// # Safety
    /// The memory is the caller's as the header's head says.
    pub(super) unsafe fn of<'a>(&self, queue: &Queue) -> Outcome<LaneViews<'a>> {
        // SAFETY: the caller's word.
        unsafe {
            Ok(LaneViews {
                shape: LaneShape::new(self.n_rows, self.n_columns)?,
                palettes: self.palettes.of("palettes", queue)?,
                low: self.low.of("low", queue)?,
                high: self.high.of("high", queue)?,
                headers: self.headers.of("headers", queue)?,
                escapes: self.escapes.or_empty("escapes", queue)?,
            })
        }
    }
}

/// How many elements the planes of a matrix have.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE` for no weights, or 2^32 of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_lane_shape_sizes(
    shape: *const lacuna_lane_shape,
    sizes: *mut lacuna_lane_sizes,
) -> lacuna_status {
    // SAFETY: the caller's structs.
    answer(|| unsafe {
        let shape = read(shape)?;
        let shape = LaneShape::new(shape.n_rows, shape.n_columns)?;
        write(
            sizes,
            &lacuna_lane_sizes {
                header: lacuna_header::NONE,
                palettes: shape.palettes_len(),
                low: shape.low_len(),
                high: shape.high_len(),
                headers: shape.headers_len(),
                n_weights: shape.n_weights(),
                n_bytes: shape.n_bytes(0),
            },
        )
    })
}

/// What stands before a matrix's planes in a file, into `n_bytes` of host memory: `LACUNA_LANE_HEADER_BYTES`.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_RANGE`, `LACUNA_SHAPE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_lane_header(
    shape: *const lacuna_lane_shape,
    header: *mut u8,
    n_bytes: u64,
) -> lacuna_status {
    // SAFETY: the caller's struct and array.
    answer(|| unsafe {
        let shape = read(shape)?;
        let shape = LaneShape::new(shape.n_rows, shape.n_columns)?;
        let header = array("header", header, n_bytes)?;
        check_len("header, in bytes", LaneShape::HEADER_BYTES as u64, n_bytes)?;
        header.copy_from_slice(&shape.header());
        Ok(())
    })
}

/// What a header in a file says of its matrix.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_SHAPE`; `LACUNA_RANGE` for another magic, version or element.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_lane_shape_of_header(
    header: lacuna_bytes,
    shape: *mut lacuna_lane_shape,
) -> lacuna_status {
    // SAFETY: the caller's bytes and struct.
    answer(|| unsafe {
        let header = header.of("header")?;
        check_len("header, in bytes", LaneShape::HEADER_BYTES as u64, header.len() as u64)?;
        let bytes = header.first_chunk().unwrap_or(&[0; LaneShape::HEADER_BYTES]);
        let found = LaneShape::of_header(bytes)?;
        write(
            shape,
            &lacuna_lane_shape {
                header: lacuna_header::NONE,
                n_rows: found.n_rows(),
                n_columns: found.n_columns(),
            },
        )
    })
}

/// Checks a matrix's tensors, and copies its planes to the memory of the queue's device.
///
/// An allocation and a copy for each plane; not for a captured stream.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_MALFORMED` where a tensor is not what the format allows; `LACUNA_RANGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_device_lane_upload(
    queue: *const lacuna_queue,
    tensors: *const lacuna_lane_tensors,
    lane: *mut *mut lacuna_device_lane,
) -> lacuna_status {
    // SAFETY: the caller's handle, struct, bytes and variable.
    answer(|| unsafe {
        give("lane", lane, || {
            let queue = &borrow("queue", queue)?.0;
            let parsed = read(tensors)?.raw()?.parse().map_err(crate::Error::from)?;
            Ok(lacuna_device_lane(DeviceLane::upload(queue, &parsed.planes())?))
        })
    })
}

/// Packs a matrix that is in device memory: `weights` as `lacuna_measure_lane_args` has it.
///
/// Two launches, and between them a wait for the stream; allocations for the planes, and for a workspace that is freed; not for a captured
/// stream. Who must not wait brings his own memory to `lacuna_measure_lane` and `lacuna_pack_lane`.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE`, `LACUNA_IMAGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_device_lane_pack(
    queue: *const lacuna_queue,
    shape: *const lacuna_pack_lane_shape,
    weights: *const lacuna_view,
    lane: *mut *mut lacuna_device_lane,
) -> lacuna_status {
    // SAFETY: the caller's handle, struct, memory and variable.
    answer(|| unsafe {
        give("lane", lane, || {
            let (queue, shape) = (&borrow("queue", queue)?.0, read(shape)?);
            let weights = borrow("weights", weights)?.of("weights", queue)?;
            let stride = or(shape.weights_stride, shape.n_columns);
            let shape = LaneShape::new(shape.n_rows, shape.n_columns)?;
            Ok(lacuna_device_lane(DeviceLane::pack(queue, shape, &weights, stride)?))
        })
    })
}

/// Ends a matrix, and frees its planes after the work that was queued before; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_device_lane_free(lane: *mut lacuna_device_lane) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(lane) }
}

/// The planes of a matrix, for launches on the stream that they were made on, and for those that the caller orders after it. They are
/// there until the matrix is freed.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_device_lane_views(
    lane: *const lacuna_device_lane,
    views: *mut lacuna_lane_views,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let found = borrow("lane", lane)?.0.views();
        write(
            views,
            &lacuna_lane_views {
                header: lacuna_header::NONE,
                n_rows: found.shape.n_rows(),
                n_columns: found.shape.n_columns(),
                palettes: lacuna_view::new(&found.palettes),
                low: lacuna_view::new(&found.low),
                high: lacuna_view::new(&found.high),
                headers: lacuna_view::new(&found.headers),
                escapes: lacuna_view::new(&found.escapes),
            },
        )
    })
}

/// Expands a matrix in host memory on the CPU, on all threads: `output` is `[n_rows, n_columns]`, of `n_elements`.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_MALFORMED`, `LACUNA_SHAPE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_lane_tensors_unpack(
    tensors: *const lacuna_lane_tensors,
    output: *mut u16,
    n_elements: u64,
) -> lacuna_status {
    // SAFETY: the caller's struct, bytes and array.
    answer(|| unsafe {
        let parsed = read(tensors)?.raw()?.parse().map_err(crate::Error::from)?;
        check_len("output", parsed.shape().n_weights(), n_elements)?;
        Ok(unpack(&parsed.planes(), array("output", output, n_elements)?)?)
    })
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_unpack_lane_plan_new(
    shape: *const lacuna_unpack_lane_shape,
    plan: *mut *mut lacuna_unpack_lane_plan,
) -> lacuna_status {
    // SAFETY: the caller's struct and variable.
    answer(|| unsafe {
        give("plan", plan, || {
            let shape = read(shape)?;
            let stride = or(shape.output_stride, shape.n_columns);
            let shape = LaneShape::new(shape.n_rows, shape.n_columns)?;
            Ok(lacuna_unpack_lane_plan(LaneUnpackPlan::new(shape, stride)?))
        })
    })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_unpack_lane_plan_free(plan: *mut lacuna_unpack_lane_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_unpack_lane_plan_sizes(
    plan: *const lacuna_unpack_lane_plan,
    sizes: *mut lacuna_unpack_lane_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let output = borrow("plan", plan)?.0.output_len();
        write(sizes, &lacuna_unpack_lane_sizes { header: lacuna_header::NONE, output })
    })
}

/// The rows of a matrix, from its planes, whatever bytes they hold. What is between rows is left as it is.
/// `lacuna::huffman::lane::unpack_lane` says all of it.
///
/// One launch.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_unpack_lane(
    queue: *const lacuna_queue,
    plan: *const lacuna_unpack_lane_plan,
    args: *const lacuna_unpack_lane_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, structs and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let planes = read(args.planes)?.of(queue)?;
        Ok(unpack_lane(queue, &plan.0, &planes, &mut args.output.of("output", queue)?)?)
    })
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_pack_lane_plan_new(
    shape: *const lacuna_pack_lane_shape,
    plan: *mut *mut lacuna_pack_lane_plan,
) -> lacuna_status {
    // SAFETY: the caller's struct and variable.
    answer(|| unsafe {
        give("plan", plan, || {
            let shape = read(shape)?;
            let stride = or(shape.weights_stride, shape.n_columns);
            let shape = LaneShape::new(shape.n_rows, shape.n_columns)?;
            Ok(lacuna_pack_lane_plan(LanePackPlan::new(shape, stride)?))
        })
    })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_pack_lane_plan_free(plan: *mut lacuna_pack_lane_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_pack_lane_plan_sizes(
    plan: *const lacuna_pack_lane_plan,
    sizes: *mut lacuna_pack_lane_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let plan = &borrow("plan", plan)?.0;
        let shape = plan.shape();
        write(
            sizes,
            &lacuna_pack_lane_sizes {
                header: lacuna_header::NONE,
                weights: plan.weights_len(),
                workspace: plan.workspace_len(),
                palettes: shape.palettes_len(),
                n_escapes: 1,
                low: shape.low_len(),
                high: shape.high_len(),
                headers: shape.headers_len(),
            },
        )
    })
}

/// Chooses the palettes of a matrix, and counts what they lack: the first of two launches that pack it.
///
/// One launch.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE` before anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_measure_lane(
    queue: *const lacuna_queue,
    plan: *const lacuna_pack_lane_plan,
    args: *const lacuna_measure_lane_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        Ok(measure_lane(
            queue,
            &plan.0,
            &args.weights.of("weights", queue)?,
            &mut args.workspace.of("workspace", queue)?,
            &mut args.palettes.of("palettes", queue)?,
            &mut args.n_escapes.of("n_escapes", queue)?,
        )?)
    })
}

/// Packs a matrix that `lacuna_measure_lane` measured: the second of two launches. `lacuna::huffman::lane::pack_lane` says all of it.
///
/// One launch.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_pack_lane(
    queue: *const lacuna_queue,
    plan: *const lacuna_pack_lane_plan,
    args: *const lacuna_pack_lane_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let mut planes = LaneViewsMut {
            palettes: args.palettes.of("palettes", queue)?,
            low: args.low.of("low", queue)?,
            high: args.high.of("high", queue)?,
            headers: args.headers.of("headers", queue)?,
            escapes: args.escapes.or_empty("escapes", queue)?,
        };
        let weights = args.weights.of("weights", queue)?;
        Ok(pack_lane(
            queue,
            &plan.0,
            &weights,
            &args.workspace.of("workspace", queue)?,
            &mut planes,
        )?)
    })
}

const _: () = assert!(LACUNA_LANE_HEADER_BYTES == LaneShape::HEADER_BYTES as u64);
