//! Matrices in device memory that a value owns.

use half::bf16;

use super::{
    LaneMatrix, LanePackPlan, LaneShape, LaneUnpackPlan, LaneViews, LaneViewsMut, RawLane,
    measure_lane, pack_lane, unpack_lane,
};
use crate::Result;
use crate::buffer::{Buffer, View, ViewMut};
use crate::queue::Queue;

/// A matrix in device memory, in planes that this value owns.
#[derive(Debug)]
pub struct DeviceLane {
    shape: LaneShape,
    palettes: Buffer<u8>,
    low: Buffer<u8>,
    high: Buffer<u32>,
    headers: Buffer<u64>,
    escapes: Buffer<u32>,
}

impl DeviceLane {
    /// Copies planes to the memory of `queue`.
    ///
    /// # Stream
    /// An allocation and a copy for each plane.
    ///
    /// # Errors
    /// Those of [`RawLane::check`], and [`Error::Driver`](crate::Error::Driver) where memory is short.
    pub fn upload(queue: &Queue, raw: &RawLane<'_>) -> Result<Self> {
        raw.check()?;
        Ok(Self {
            shape: raw.shape,
            palettes: queue.upload(raw.palettes)?,
            low: queue.upload(raw.low)?,
            high: queue.upload(raw.high)?,
            headers: queue.upload(raw.headers)?,
            escapes: queue.upload(raw.escapes)?,
        })
    }

    /// Packs a matrix that is in device memory: rows whose starts are `weights_stride` elements apart.
    ///
    /// # Numerics
    /// Bit for bit [`pack`](super::pack).
    ///
    /// # Stream
    /// Two launches, and between them a wait for the queue: how many escapes there are is downloaded, so that they get no more memory than
    /// they need. Allocations for the planes, and for a workspace that is freed. An engine that must not wait brings its own memory to
    /// [`measure_lane`] and [`pack_lane`].
    ///
    /// # Errors
    /// Those of [`LanePackPlan::new`], [`measure_lane`] and [`pack_lane`]; [`Error::Driver`](crate::Error::Driver) where
    /// memory is short.
    pub fn pack(
        queue: &Queue,
        shape: LaneShape,
        weights: &View<'_, bf16>,
        weights_stride: u64,
    ) -> Result<Self> {
        let plan = LanePackPlan::new(shape, weights_stride)?;
        let mut workspace = queue.alloc(plan.workspace_len() as usize)?;
        let mut palettes = queue.alloc(shape.palettes_len() as usize)?;
        let mut n_escapes = queue.alloc(1)?;
        measure_lane(
            queue,
            &plan,
            weights,
            &mut workspace.view_mut(),
            &mut palettes.view_mut(),
            &mut n_escapes.view_mut(),
        )?;
        let n_escapes = queue.download(&n_escapes.view())?[0];
        let mut planes = Self {
            shape,
            palettes,
            low: queue.alloc(shape.low_len() as usize)?,
            high: queue.alloc(shape.high_len() as usize)?,
            headers: queue.alloc(shape.headers_len() as usize)?,
            escapes: queue.alloc(n_escapes as usize)?,
        };
        let mut views = LaneViewsMut {
            palettes: planes.palettes.view(),
            low: planes.low.view_mut(),
            high: planes.high.view_mut(),
            headers: planes.headers.view_mut(),
            escapes: planes.escapes.view_mut(),
        };
        pack_lane(queue, &plan, weights, &workspace.view(), &mut views)?;
        Ok(planes)
    }

    /// The planes.
    pub fn views(&self) -> LaneViews<'_> {
        LaneViews {
            shape: self.shape,
            palettes: self.palettes.view(),
            low: self.low.view(),
            high: self.high.view(),
            headers: self.headers.view(),
            escapes: self.escapes.view(),
        }
    }

    /// Rows and columns.
    pub fn shape(&self) -> &LaneShape {
        &self.shape
    }

    /// Bytes of device memory of all planes.
    pub fn n_bytes(&self) -> u64 {
        self.shape.n_bytes(self.escapes.len() as u64)
    }

    /// The planes, copied to the host.
    ///
    /// # Stream
    /// Waits for the queue.
    ///
    /// # Errors
    /// Those of [`Queue::download`].
    pub fn download(&self, queue: &Queue) -> Result<LaneMatrix> {
        Ok(LaneMatrix {
            shape: self.shape,
            palettes: queue.download(&self.palettes.view())?,
            low: queue.download(&self.low.view())?,
            high: queue.download(&self.high.view())?,
            headers: queue.download(&self.headers.view())?,
            escapes: queue.download(&self.escapes.view())?,
        })
    }

    /// As [`unpack_lane`], to rows `output_stride` elements apart.
    ///
    /// # Errors
    /// Those of [`LaneUnpackPlan::new`] and [`unpack_lane`].
    pub fn unpack(
        &self,
        queue: &Queue,
        output: &mut ViewMut<'_, bf16>,
        output_stride: u64,
    ) -> Result<()> {
        let plan = LaneUnpackPlan::new(self.shape, output_stride)?;
        unpack_lane(queue, &plan, &self.views(), output)
    }
}
