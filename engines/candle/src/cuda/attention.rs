//! Attending, on CUDA.

use candle_core::{DType, Result, Tensor};
use lacuna::Queue;
use lacuna::attention::{self, AttendInputs, AttendOutputs, AttendPlan, Segment};
use lacuna::element::{Half, Real};

use super::kv::{LentCache, optional};
use super::{Lent, Stream, check_aligned, stream_of, workspace};
use crate::Wrap;
use crate::attention::{Attended, Launch};
use crate::storage::{Number, write, write_both};

/// A launch's memory, lent.
pub(crate) struct LentLaunch<'a, T> {
    queries: Lent<'a, T>,
    sinks: Option<Lent<'a, f32>>,
    segments: Vec<LentSegment<'a, T>>,
}

struct LentSegment<'a, T> {
    cache: LentCache<'a, T>,
    indices: Option<Lent<'a, i32>>,
    counts: Option<Lent<'a, u32>>,
}

impl<'a, T: Half + Number> LentLaunch<'a, T> {
    pub(crate) fn new(launch: &'a Launch<'a>, stream: &'a Stream) -> Result<Self> {
        let raw = &stream.stream;
        let segments = launch.segments.iter().map(|segment| {
            let indices = segment.indices.as_ref().map(|own| own.view(raw)).transpose()?;
            let counts = segment.counts.as_ref().map(|own| own.view(raw)).transpose()?;
            Ok(LentSegment { cache: LentCache::new(&segment.cache, stream)?, indices, counts })
        });
        let lent = Self {
            queries: launch.queries.view(raw)?,
            sinks: launch.sinks.as_ref().map(|sinks| sinks.view(raw)).transpose()?,
            segments: segments.collect::<Result<_>>()?,
        };
        check_aligned("queries", lent.queries.view.address())?;
        Ok(lent)
    }

    pub(crate) fn segments(&self) -> Vec<Segment<'_, T>> {
        let segments = self.segments.iter().map(|segment| Segment {
            cache: segment.cache.view(),
            indices: optional(&segment.indices),
            counts: optional(&segment.counts),
            biases: None,
        });
        segments.collect()
    }

    pub(crate) fn inputs<'s>(&'s self, segments: &'s [Segment<'s, T>]) -> AttendInputs<'s, T> {
        let (queries, sinks) = (self.queries.view, optional(&self.sinks));
        AttendInputs { queries, segments, sinks, skips: None }
    }
}

/// Outputs and log-sums of candle's, and what is launched to write them.
pub(crate) fn launch_into<O: Real + Number>(
    plan: &AttendPlan,
    stream: &Stream,
    queries: &Tensor,
    then: impl FnOnce(&Queue, &mut AttendOutputs<'_, O>) -> lacuna::Result<()>,
) -> Result<Attended> {
    let (dims, device, raw) = (queries.dims(), queries.device(), &stream.stream);
    let attended = Attended {
        outputs: Tensor::zeros(dims, O::DTYPE, device)?,
        log_sums: Tensor::zeros(&dims[..dims.len() - 1], DType::F32, device)?,
    };
    let words = workspace(plan.workspace_len(), DType::U32, device)?;
    let [n_outputs, n_log_sums, n_words] =
        [plan.outputs_len(), plan.log_sums_len(), plan.workspace_len()].map(|n| 0..n as usize);
    write_both([&attended.outputs, &attended.log_sums], |[mut outputs, mut log_sums]| {
        write(&words, |mut words, _| {
            let mut outputs = outputs.view::<O>(&n_outputs, raw)?;
            let mut log_sums = log_sums.view::<f32>(&n_log_sums, raw)?;
            let mut words = words.view::<u32>(&n_words, raw)?;
            let mut outputs = AttendOutputs {
                outputs: outputs.all(),
                log_sums: Some(log_sums.all()),
                workspace: words.all(),
            };
            then(&stream.queue, &mut outputs).w()
        })
    })?;
    Ok(attended)
}

pub(crate) fn attend<T: Half + Number, O: Real + Number>(
    launch: &Launch<'_>,
    queries: &Tensor,
) -> Result<Attended> {
    let stream = stream_of(queries.device())?;
    let lent = LentLaunch::<T>::new(launch, &stream)?;
    let segments = lent.segments();
    let (plan, inputs) = (&launch.plan, lent.inputs(&segments));
    launch_into::<O>(plan, &stream, queries, |queue, outputs| {
        attention::attend(queue, plan, &inputs, outputs)
    })
}
