//! Compressed weights in device memory, and the scratch that they are expanded in.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use candle_core::{DType, Device, Result, Tensor, bail};
use half::bf16;
use lacuna::huffman::indexed::{IndexedRowsPlan, IndexedRowsShape};
use lacuna::huffman::lane::{
    DeviceLane, DeviceRates, Estimate, Factor, ProductPlan, Residual, Way, multiply_lane,
};
use lacuna::huffman::{Checkpoint, DeviceWeights, Stored};
use lacuna::select::Absent;
use lacuna::{Buffer, Queue};

use super::kv::optional;
use super::{Stream, check_aligned, own_stream_of};
use crate::Wrap;
use crate::storage::{Source, whole, write};

/// All groups of a checkpoint, as they are in it, on a candle device.
#[derive(Debug)]
pub(crate) struct Groups {
    groups: Vec<Group>,
    scratch: Mutex<Scratch>,
    rates: Option<DeviceRates>,
    device: Device,
    /// Where a stream is each thread's own, the one whose all this is.
    thread: Option<ThreadId>,
    /// Dropped last: buffers are of its queue.
    stream: Stream,
}

#[derive(Debug)]
enum Group {
    /// One group, and what its launches say of it.
    Decoded(Box<DeviceWeights<'static>>, Mutex<Buffer<u64>>),
    Lane(DeviceLane),
}

/// Memory for the largest group's weights, and whose are there.
#[derive(Debug)]
struct Scratch {
    weights: Tensor,
    holds: Option<usize>,
}

impl Groups {
    /// Uploads all groups, and verifies and indexes those of DF11: waits for the device.
    pub(crate) fn upload(checkpoint: &Checkpoint, device: &Device) -> Result<Self> {
        let stream = own_stream_of(device)?;
        let queue = &stream.queue;
        let ordinal = stream.stream.context().ordinal();
        let rates = DeviceRates::of(lacuna::Device::open(ordinal).w()?.info());
        let (mut groups, mut largest) = (Vec::new(), 0);
        for idx in 0..checkpoint.entries().len() {
            let Some(stored) = checkpoint.stored(idx).w()? else { continue };
            largest = largest.max(stored.n_elements() as usize);
            groups.push(match &stored {
                Stored::Lane(matrix) => {
                    Group::Lane(DeviceLane::upload(queue, &matrix.planes()).w()?)
                }
                _ => {
                    let mut weights = DeviceWeights::upload(queue, stored.source()).w()?;
                    weights.index(queue).w()?;
                    let words = queue.alloc(weights.plan().workspace_len() as usize).w()?;
                    Group::Decoded(Box::new(weights), Mutex::new(words))
                }
            });
        }
        let weights = Tensor::zeros(largest, DType::BF16, device)?;
        Ok(Self {
            groups,
            scratch: Mutex::new(Scratch { weights, holds: None }),
            rates,
            device: device.clone(),
            thread: stream.is_per_thread().then(|| std::thread::current().id()),
            stream,
        })
    }

    /// The queue that orders all memory of this.
    fn queue(&self) -> Result<&Queue> {
        if self.thread.is_some_and(|own| own != std::thread::current().id()) {
            bail!(
                "these weights were opened in another thread, and `Device::new_cuda` has a stream for each; \
                 `Device::new_cuda_with_stream` has one for all"
            );
        }
        Ok(&self.stream.queue)
    }

    fn group(&self, group: usize) -> Result<&Group> {
        match self.groups.get(group) {
            Some(group) => Ok(group),
            None => bail!("group {group} of {}", self.groups.len()),
        }
    }

    /// Lends a matrix of a group, expanded in the scratch: one launch, and none where the group is there already.
    pub(crate) fn with<R>(
        &self,
        group: usize,
        range: &Range<usize>,
        dims: [usize; 2],
        then: impl FnOnce(&Tensor) -> Result<R>,
    ) -> Result<R> {
        let queue = self.queue()?;
        let mut scratch = lock(&self.scratch);
        if scratch.holds != Some(group) {
            // Whatever fails, what is there is not the last group's any more.
            scratch.holds = None;
            self.expand(queue, group, &scratch.weights)?;
            scratch.holds = Some(group);
        }
        then(&scratch.weights.narrow(0, range.start, range.len())?.reshape(&dims[..])?)
    }

    fn expand(&self, queue: &Queue, group: usize, scratch: &Tensor) -> Result<()> {
        let raw = &self.stream.stream;
        write(scratch, |mut target, layout| {
            let mut output = target.view::<bf16>(&(0..layout.shape().elem_count()), raw)?;
            match self.group(group)? {
                Group::Decoded(weights, words) => {
                    let words = &mut lock(words);
                    weights.decode(queue, &mut words.view_mut(), &mut output.view).w()
                }
                Group::Lane(planes) => {
                    let n = planes.shape().n_weights() as usize;
                    let mut output = output.view.slice_mut(0..n).w()?;
                    planes.unpack(queue, &mut output, planes.shape().n_columns()).w()
                }
            }
        })
    }

    /// `[n, in_dim]` of bf16 times a matrix of lanes as it lies, the bias added; `None` where another way is faster, or the only
    /// one.
    pub(crate) fn multiply(
        &self,
        group: usize,
        xs: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Option<Tensor>> {
        let (Group::Lane(planes), DType::BF16) = (self.group(group)?, xs.dtype()) else {
            return Ok(None);
        };
        let (n, _) = xs.dims2()?;
        let shapes = [*planes.shape()];
        let Ok(plan) = ProductPlan::new(&shapes, n as u64) else { return Ok(None) };
        let way = |rates| Estimate::new(&shapes, Some(&plan), rates).fastest_of_lanes();
        if self.rates.as_ref().is_some_and(|rates| way(rates) != Way::Lane) {
            return Ok(None);
        }
        let (queue, raw) = (self.queue()?, &self.stream.stream);
        let n_rows = planes.shape().n_rows() as usize;
        let ys = Tensor::zeros((n, n_rows), DType::BF16, &self.device)?;
        let xs = xs.contiguous()?;
        let source = Source::new(&xs, whole("input of a linear layer", &xs)?);
        let bias = match bias {
            Some(bias) => Some(Source::whole::<bf16>("bias", bias, &[n_rows])?),
            None => None,
        };
        let bias = bias.as_ref().map(|bias| bias.view::<bf16>(raw)).transpose()?;
        let x = source.view::<bf16>(raw)?;
        check_aligned("input of a linear layer", x.view.address())?;
        write(&ys, |mut target, layout| {
            let mut output = target.view::<bf16>(&(0..layout.shape().elem_count()), raw)?;
            let factor = Factor {
                planes: planes.views(),
                bias: optional(&bias),
                residual: Residual::None,
                output: Some(output.all()),
            };
            multiply_lane(queue, &plan, &x.view, &mut [factor]).w()
        })?;
        Ok(Some(ys))
    }

    /// Whether rows of a group are decoded by themselves.
    pub(crate) fn has_rows(&self, group: usize) -> Result<bool> {
        Ok(match self.group(group)? {
            Group::Decoded(weights, _) => weights.plan().is_indexed(0),
            Group::Lane(_) => false,
        })
    }

    /// Rows of a matrix of a group that has an index, by u32 numbers, `[n]`; of no row zeros.
    pub(crate) fn rows(
        &self,
        group: usize,
        first: usize,
        [n_rows, row_len]: [usize; 2],
        ids: &Tensor,
    ) -> Result<Tensor> {
        let (queue, raw) = (self.queue()?, &self.stream.stream);
        let Group::Decoded(weights, words) = self.group(group)? else {
            bail!("rows of a matrix of lanes");
        };
        let n = ids.elem_count();
        let plan = IndexedRowsPlan::new(IndexedRowsShape {
            n_elements: weights.plan().output_len(),
            first_element: first as u64,
            n_matrix_rows: n_rows as u64,
            row_len: row_len as u64,
            n_rows: n as u64,
            output_stride: row_len as u64,
        })
        .w()?;
        let output = Tensor::zeros((n, row_len), DType::BF16, &self.device)?;
        if n == 0 {
            return Ok(output);
        }
        let ids = Source::whole::<u32>("ids of an embedding", ids, &[n])?;
        let ids = ids.view::<u32>(raw)?;
        write(&output, |mut target, _| {
            let mut output = target.view::<bf16>(&(0..n * row_len), raw)?;
            let words = &mut lock(words);
            let (words, absent) = (&mut words.view_mut(), Absent::Zeros);
            weights.decode_rows(queue, &plan, 0, &ids.view, absent, words, &mut output.view).w()
        })?;
        Ok(output)
    }

    /// What launches said of their groups, by their numbers: waits for the device.
    pub(crate) fn check(&self) -> Result<()> {
        let queue = self.queue()?;
        for group in &self.groups {
            if let Group::Decoded(weights, words) = group {
                weights.check(queue, &lock(words).view()).w()?;
            }
        }
        Ok(())
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        // Memory is freed in the order of this thread's stream, which knows nothing of what the other's still does.
        if self.thread.is_some_and(|own| own != std::thread::current().id()) {
            // A context that is lost has no work any more.
            let _ = self.stream.stream.context().synchronize();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
