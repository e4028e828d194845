//! Which way of multiplying is the fastest, by arithmetic.

use super::ProductPlan;
#[cfg(feature = "cuda")]
use crate::driver::DeviceInfo;
use crate::huffman::lane::LaneShape;

/// Seconds of a launch beyond what its bytes take: assumed.
const LAUNCH_SECONDS: f64 = 2.5e-6;
/// Of the bytes a second that clock and width of a memory promise, those that kernels of large matrices see: assumed.
const SHARE: f64 = 0.85;

/// What an estimate asks of a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeviceRates {
    /// Bytes a second between memory and chip.
    pub bytes_per_second: f64,
    /// Multiprocessors.
    pub n_multiprocessors: u32,
}

#[cfg(feature = "cuda")]
impl DeviceRates {
    /// Of a device; `None` where its driver does not say how fast its memory is.
    pub fn of(device: &DeviceInfo) -> Option<Self> {
        (device.memory_bytes_per_second > 0 && device.n_multiprocessors > 0).then_some(Self {
            bytes_per_second: device.memory_bytes_per_second as f64,
            n_multiprocessors: device.n_multiprocessors,
        })
    }
}

/// A way from a matrix and inputs to outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// [`multiply_lane`](super::multiply_lane): 12 bits a weight are read.
    Lane,
    /// The matrix is kept as bf16, and a library multiplies: 16 bits a weight are read. Where this is the fastest, lanes save memory alone.
    Bf16,
    /// [`unpack_lane`](crate::huffman::lane::unpack_lane) into a scratch buffer, and a library multiplies that: 12 bits a weight are read, 16 written, and those read again.
    Unpacked,
}

/// How long each way takes, by arithmetic alone: bytes over what memory moves, and launches. **No GPU has confirmed it yet.**
///
/// Inputs and outputs, which all ways have, are left out, and so is time to compute, which is taken to hide behind bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Seconds of [`Way::Lane`]; `None` for more inputs than a launch takes.
    pub lane: Option<f64>,
    /// Seconds of [`Way::Bf16`].
    pub bf16: f64,
    /// Seconds of [`Way::Unpacked`].
    pub unpacked: f64,
}

impl Estimate {
    /// Of matrices that are multiplied in one launch, `plan` being [`ProductPlan::new`]'s or [`ProductPlan::gated`]'s, if there is one for so many inputs.
    ///
    /// ```
    /// use lacuna::huffman::lane::{DeviceRates, Estimate, LaneShape, ProductPlan, Way};
    ///
    /// let h200 = DeviceRates { bytes_per_second: 4.8e12, n_multiprocessors: 132 };
    /// let of = |n_rows, n_columns, n_inputs| {
    ///     let shapes = [LaneShape::new(n_rows, n_columns).unwrap()];
    ///     Estimate::new(&shapes, ProductPlan::new(&shapes, n_inputs).ok().as_ref(), &h200)
    /// };
    /// // A matrix of 59 M weights, and one so small that few multiprocessors have a part of it.
    /// assert_eq!(of(14_336, 4096, 1).fastest(), Way::Lane);
    /// assert_eq!(of(1024, 4096, 1).fastest(), Way::Bf16);
    /// // A prompt: its weights are expanded once for all of its tokens.
    /// assert_eq!(of(14_336, 4096, 2000).fastest_of_lanes(), Way::Unpacked);
    /// ```
    pub fn new(shapes: &[LaneShape], plan: Option<&ProductPlan>, device: &DeviceRates) -> Self {
        let n_lane_bytes: u64 = shapes.iter().map(|shape| shape.n_bytes(0)).sum();
        let n_bf16_bytes: u64 = shapes.iter().map(|shape| 2 * shape.n_weights()).sum();
        let launch = |n_bytes: u64, share: f64| {
            LAUNCH_SECONDS + n_bytes as f64 / (SHARE * share * device.bytes_per_second)
        };
        // Multiprocessors without a block read nothing.
        let lane = plan.map(|plan| {
            let blocks = f64::from(plan.n_blocks());
            launch(n_lane_bytes, (blocks / f64::from(device.n_multiprocessors)).min(1.0))
        });
        let bf16 = launch(n_bf16_bytes, 1.0);
        Self { lane, bf16, unpacked: launch(n_lane_bytes + n_bf16_bytes, 1.0) + bf16 }
    }

    /// The fastest way where the matrix may be kept as bf16 too.
    pub fn fastest(&self) -> Way {
        match self.lane {
            Some(lane) if lane <= self.bf16 => Way::Lane,
            _ => Way::Bf16,
        }
    }

    /// The fastest way where it is kept as lanes alone.
    pub fn fastest_of_lanes(&self) -> Way {
        match self.lane {
            Some(lane) if lane <= self.unpacked => Way::Lane,
            _ => Way::Unpacked,
        }
    }
}
