//! `multiply_lane`.

use super::lane::lacuna_lane_views;
use crate::capi::abi::{borrow, free, give, lacuna_header, or, read, read_array, structs, write};
#[cfg(feature = "cuda")]
use crate::capi::device::lacuna_device;
use crate::capi::device::lacuna_queue;
use crate::capi::dtype::with_real;
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::huffman::lane::{
    DeviceRates, Estimate, Factor, LaneShape, MOST_FACTORS, ProductPlan, Residual, Way,
};

/// Matrices of one `lacuna_multiply_lane` at most.
pub const LACUNA_MOST_FACTORS: u64 = 4;
/// Inputs of one `lacuna_multiply_lane` at most. For more, `lacuna_unpack_lane`, and a library multiplies.
pub const LACUNA_MOST_INPUTS: u64 = 64;

/// One matrix of a product.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_factor_shape {
    pub header: lacuna_header,
    pub n_rows: u64,
    /// A multiple of 8, the same for all.
    pub n_columns: u64,
    /// Elements between the starts of two rows of its output; 0 is `n_rows`.
    pub output_stride: u64,
    /// Elements between the starts of two rows of its residual; 0 is `n_rows`.
    pub residual_stride: u64,
}

/// Sizes of `lacuna_multiply_lane`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_multiply_lane_shape {
    pub header: lacuna_header,
    /// 1 to `LACUNA_MOST_FACTORS` matrices, which are multiplied by the same inputs.
    pub factors: *const lacuna_factor_shape,
    pub n_factors: u64,
    /// 1 to `LACUNA_MOST_INPUTS`.
    pub n_inputs: u64,
    /// Elements between the starts of two inputs, a multiple of 8; 0 is the columns.
    pub x_stride: u64,
    /// Rows of a block: 0 is what suits the shapes. No result depends on it.
    pub block_rows: u64,
    /// The type of outputs, biases and residuals: bf16, f16 or f32.
    pub dtype: u32,
    /// 1: of two matrices of one shape, `silu` of the first's product times the second's; else 0.
    pub is_gated: u32,
}

/// Elements of each view of `lacuna_multiply_lane_args` and of its factors, by the same names.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_multiply_lane_sizes {
    pub header: lacuna_header,
    pub x: u64,
    pub bias: [u64; 4],
    /// Of what is gated the first alone.
    pub output: [u64; 4],
    pub residual: [u64; 4],
}

/// One matrix, what is added to its sums, and where they go.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_factor {
    pub header: lacuna_header,
    pub planes: *const lacuna_lane_views,
    /// Optional, `[n_rows]` of the shape's dtype: added to the outputs of every input.
    pub bias: lacuna_view,
    /// Optional, `[n_inputs, n_rows]` of the shape's dtype: added last. None of a gated product's second matrix.
    pub residual: lacuna_view,
    /// `[n_inputs, n_rows]` of the shape's dtype. None of a gated product's second matrix.
    pub output: lacuna_view_mut,
    /// 1: what is in the output is added last, and there is no `residual`; else 0.
    pub is_added_to_output: u32,
    /// 0.
    pub reserved: u32,
}

/// What `lacuna_multiply_lane` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_multiply_lane_args {
    pub header: lacuna_header,
    /// bf16 `[n_inputs, n_columns]`, inputs `x_stride` elements apart, aligned to 16 bytes.
    pub x: lacuna_view,
    /// As many as the shape's, in its order.
    pub factors: *const lacuna_factor,
    pub n_factors: u64,
}

/// What an estimate asks of a device.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_device_rates {
    pub header: lacuna_header,
    /// Between memory and chip.
    pub bytes_per_second: f64,
    pub n_multiprocessors: u64,
}

/// A way from a matrix and inputs to outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_way {
    /// `lacuna_multiply_lane`: 12 bits a weight are read.
    LACUNA_WAY_LANE = 0,
    /// The matrix is kept as bf16, and a library multiplies.
    LACUNA_WAY_BF16 = 1,
    /// `lacuna_unpack_lane` into a scratch buffer, and a library multiplies that.
    LACUNA_WAY_UNPACKED = 2,
}

/// How long each way takes, by arithmetic alone. No GPU has confirmed it yet.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_multiply_lane_estimate {
    pub header: lacuna_header,
    /// Seconds by `LACUNA_WAY_LANE`; negative for more inputs than a launch takes.
    pub lane: f64,
    pub bf16: f64,
    pub unpacked: f64,
    /// The fastest `lacuna_way` where the matrix may be kept as bf16 too,
    pub fastest: u32,
    /// and where it is kept as lanes alone.
    pub fastest_of_lanes: u32,
}

structs! {
    lacuna_factor_shape: 40,
    lacuna_multiply_lane_shape: 56,
    lacuna_multiply_lane_sizes: 112,
    lacuna_factor: 96,
    lacuna_multiply_lane_args: 48,
    lacuna_device_rates: 24,
    lacuna_multiply_lane_estimate: 40,
}

const _: () = assert!(LACUNA_MOST_FACTORS == MOST_FACTORS as u64);
const _: () = assert!(LACUNA_MOST_INPUTS == crate::huffman::lane::MOST_INPUTS);

/// A plan of `lacuna_multiply_lane`: for any device, and any number of launches at once.
pub struct lacuna_multiply_lane_plan {
    plan: ProductPlan,
    dtype: u32,
}

impl lacuna_multiply_lane_shape {
    /// # Safety
    /// The matrices are the caller's.
    unsafe fn matrices(&self) -> Outcome<(Vec<lacuna_factor_shape>, Vec<LaneShape>)> {
        let most = self.n_factors.min(LACUNA_MOST_FACTORS + 1);
        // SAFETY: the caller's word; of more than there may be, one more is enough to refuse them.
        let factors = unsafe { read_array(self.factors, most) }?;
        let shape = |factor: &lacuna_factor_shape| LaneShape::new(factor.n_rows, factor.n_columns);
        let shapes = factors.iter().map(shape).collect::<crate::Result<_>>()?;
        Ok((factors, shapes))
    }

    fn product(&self, shapes: &[LaneShape]) -> Outcome<ProductPlan> {
        Ok(match (self.is_gated, shapes) {
            (0, _) => ProductPlan::new(shapes, self.n_inputs)?,
            (1, [gate, up]) => ProductPlan::gated(*gate, *up, self.n_inputs)?,
            (1, _) => {
                let (what, got) = ("matrices of a gated product", shapes.len() as u64);
                return Err(crate::Error::Shape { what, expected: 2, got }.into());
            }
            (value, _) => return Err(Failure::number("is_gated", value, "truth: 0 or 1")),
        })
    }

    /// # Safety
    /// As [`matrices`](Self::matrices).
    unsafe fn plan(&self) -> Outcome<ProductPlan> {
        // SAFETY: the caller's word.
        let (factors, shapes) = unsafe { self.matrices() }?;
        let plan = self.product(&shapes)?;
        let strides = |of: fn(&lacuna_factor_shape) -> u64| -> Vec<u64> {
            factors.iter().map(|factor| or(of(factor), factor.n_rows)).collect()
        };
        let plan = plan.with_strides(
            or(self.x_stride, plan.n_columns()),
            &strides(|factor| factor.output_stride),
            &strides(|factor| factor.residual_stride),
        )?;
        Ok(if self.block_rows == 0 { plan } else { plan.with_block_rows(self.block_rows)? })
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_multiply_lane_plan_new(
    shape: *const lacuna_multiply_lane_shape,
    plan: *mut *mut lacuna_multiply_lane_plan,
) -> lacuna_status {
    // SAFETY: the caller's structs and variable.
    answer(|| unsafe {
        give("plan", plan, || {
            let shape = read(shape)?;
            let dtype = with_real!(shape.dtype, "outputs", _T => Ok(shape.dtype))?;
            Ok(lacuna_multiply_lane_plan { plan: shape.plan()?, dtype })
        })
    })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_multiply_lane_plan_free(plan: *mut lacuna_multiply_lane_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_multiply_lane_plan_sizes(
    plan: *const lacuna_multiply_lane_plan,
    sizes: *mut lacuna_multiply_lane_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let plan = &borrow("plan", plan)?.plan;
        let of = |n: usize, len: &dyn Fn(usize) -> u64| -> [u64; MOST_FACTORS] {
            std::array::from_fn(|idx| if idx < n { len(idx) } else { 0 })
        };
        write(
            sizes,
            &lacuna_multiply_lane_sizes {
                header: lacuna_header::NONE,
                x: plan.x_len(),
                bias: of(plan.n_factors(), &|idx| plan.shape(idx).map_or(0, LaneShape::n_rows)),
                output: of(plan.n_outputs(), &|idx| plan.output_len(idx)),
                residual: of(plan.n_outputs(), &|idx| plan.residual_len(idx)),
            },
        )
    })
}

/// A few inputs times matrices of lanes, which are never expanded in memory: `output[c][r] = weight[r] . x[c] + bias[r] + residual[c][r]`, and
/// of a gated product `silu(gate[r] . x[c] + bias[r]) * (up[r] . x[c] + bias[r]) + residual[c][r]`. `lacuna::huffman::lane::multiply_lane` says all of it.
///
/// One launch.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_multiply_lane(
    queue: *const lacuna_queue,
    plan: *const lacuna_multiply_lane_plan,
    args: *const lacuna_multiply_lane_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, structs and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let x = args.x.of("x", queue)?;
        let given = read_array(args.factors, args.n_factors.min(LACUNA_MOST_FACTORS + 1))?;
        with_real!(plan.dtype, "outputs", T => {
            let mut factors = Vec::with_capacity(given.len());
            for factor in &given {
                let residual = factor.residual.optional("residual", queue)?;
                factors.push(Factor::<T> {
                    planes: read(factor.planes)?.of(queue)?,
                    bias: factor.bias.optional("bias", queue)?,
                    residual: match (factor.is_added_to_output, residual) {
                        (0, None) => Residual::None,
                        (0, Some(view)) => Residual::Of(view),
                        (1, None) => Residual::Output,
                        (1, Some(_)) => return Err(Failure::new(
                            lacuna_status::LACUNA_RANGE,
                            "is_added_to_output: there is a residual beside it".to_owned(),
                        )),
                        (value, _) => return Err(
                            Failure::number("is_added_to_output", value, "truth: 0 or 1"),
                        ),
                    },
                    output: factor.output.optional("output", queue)?,
                });
            }
            Ok(crate::huffman::lane::multiply_lane(queue, &plan.plan, &x, &mut factors)?)
        })
    })
}

/// What a device says of itself.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_OTHER` where its driver does not say how fast its memory is.
#[cfg(feature = "cuda")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_device_rates_of(
    device: *const lacuna_device,
    rates: *mut lacuna_device_rates,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let found = DeviceRates::of(borrow("device", device)?.device.info()).ok_or_else(|| {
            let message = "the driver does not say how fast the device's memory is".to_owned();
            Failure::new(lacuna_status::LACUNA_OTHER, message)
        })?;
        write(
            rates,
            &lacuna_device_rates {
                header: lacuna_header::NONE,
                bytes_per_second: found.bytes_per_second,
                n_multiprocessors: found.n_multiprocessors.into(),
            },
        )
    })
}

/// How long each way of multiplying these matrices takes, and which is the fastest. `lacuna::huffman::lane::Estimate` says all of it.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_SHAPE`, `LACUNA_RANGE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_multiply_lane_estimate_of(
    shape: *const lacuna_multiply_lane_shape,
    rates: *const lacuna_device_rates,
    estimate: *mut lacuna_multiply_lane_estimate,
) -> lacuna_status {
    // SAFETY: the caller's structs.
    answer(|| unsafe {
        let (shape, rates) = (read(shape)?, read(rates)?);
        let (_, shapes) = shape.matrices()?;
        let n_multiprocessors = u32::try_from(rates.n_multiprocessors).unwrap_or(u32::MAX);
        let rates = DeviceRates { bytes_per_second: rates.bytes_per_second, n_multiprocessors };
        let plan = match shape.n_inputs > LACUNA_MOST_INPUTS {
            true => None,
            false => Some(shape.plan()?),
        };
        let found = Estimate::new(&shapes, plan.as_ref(), &rates);
        write(
            estimate,
            &lacuna_multiply_lane_estimate {
                header: lacuna_header::NONE,
                lane: found.lane.unwrap_or(-1.0),
                bf16: found.bf16,
                unpacked: found.unpacked,
                fastest: number(found.fastest()),
                fastest_of_lanes: number(found.fastest_of_lanes()),
            },
        )
    })
}

fn number(way: Way) -> u32 {
    let way = match way {
        Way::Lane => lacuna_way::LACUNA_WAY_LANE,
        Way::Bf16 => lacuna_way::LACUNA_WAY_BF16,
        Way::Unpacked => lacuna_way::LACUNA_WAY_UNPACKED,
    };
    way as u32
}
