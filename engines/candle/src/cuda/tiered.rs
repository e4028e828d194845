//! Tiered pages, on CUDA.

use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::{DType, Result, Tensor};
use lacuna::View;
use lacuna::attention::{self, TieredInputs, TieredPlan};
use lacuna::element::{Half, Real};
use lacuna::quant::{
    self, ChannelViews, ChannelViewsMut, ChannelsPlan, MeasuredRows, PageLists, PagesPlan,
    TierPools, TierPoolsMut,
};

use super::attention::{LentLaunch, launch_into};
use super::kv::{LentCache, optional};
use super::{Lent, LentMut, check_aligned, stream_of, workspace};
use crate::Wrap;
use crate::attention::{Attended, Launch};
use crate::kv::CacheSource;
use crate::storage::{Number, Source, Target, whole, write, write_both};
use crate::tiered::{Entries, MeasuredChannels, TieredPages};

/// What of pages is read beside pools, lent.
struct LentEntries<'a> {
    keys: Lent<'a, u32>,
    values: Lent<'a, u32>,
    counts: Option<Lent<'a, u32>>,
    channels: [[Option<Lent<'a, f32>>; 2]; 2],
}

impl<'a> LentEntries<'a> {
    fn new(entries: &'a Entries<'a>, raw: &'a CudaStream) -> Result<Self> {
        let of = |own: &'a Option<Source<'a>>| own.as_ref().map(|own| own.view(raw)).transpose();
        let [[key_scales, key_offsets], [value_scales, value_offsets]] = &entries.channels;
        Ok(Self {
            keys: entries.keys.view(raw)?,
            values: entries.values.view(raw)?,
            counts: entries.counts.as_ref().map(|own| own.view(raw)).transpose()?,
            channels: [
                [of(key_scales)?, of(key_offsets)?],
                [of(value_scales)?, of(value_offsets)?],
            ],
        })
    }

    fn channels(&self) -> [ChannelViews<'_>; 2] {
        [channels(&self.channels[0]), channels(&self.channels[1])]
    }
}

fn channels<'a>([scales, offsets]: &'a [Option<Lent<'a, f32>>; 2]) -> ChannelViews<'a> {
    ChannelViews { scales: optional(scales), offsets: optional(offsets) }
}

/// Lends a pool for writing, if it is there.
fn write_pool<R>(
    pool: &Option<Tensor>,
    then: impl FnOnce(Option<Target<'_>>) -> Result<R>,
) -> Result<R> {
    match pool {
        Some(pool) => write(pool, |target, _| then(Some(target))),
        None => then(None),
    }
}

/// What was lent of a pool, as the launch takes it.
fn pool_view<'a>(
    pool: &Option<Tensor>,
    target: &'a mut Option<Target<'_>>,
    raw: &'a CudaStream,
) -> Result<Option<LentMut<'a, u8>>> {
    let (Some(pool), Some(target)) = (pool, target) else { return Ok(None) };
    let lent = target.view::<u8>(&whole("pool of pages", pool)?, raw)?;
    check_aligned("pool of pages", lent.view.address())?;
    Ok(Some(lent))
}

pub(crate) fn quantize<T: Half + Number>(
    plan: &PagesPlan,
    cache: &CacheSource<'_>,
    indices: &Source<'_>,
    entries: &Entries<'_>,
    pages: &TieredPages,
) -> Result<()> {
    let stream = stream_of(pages.key_entries.device())?;
    let raw = &stream.stream;
    let cache = LentCache::<T>::new(cache, &stream)?;
    let (indices, entries) = (indices.view::<i32>(raw)?, LentEntries::new(entries, raw)?);
    let [key_channels, value_channels] = entries.channels();
    let lists = PageLists {
        indices: indices.view,
        counts: optional(&entries.counts),
        key_entries: entries.keys.view,
        value_entries: entries.values.view,
        key_channels,
        value_channels,
    };
    let at = pages.status.layout().start_offset();
    write(&pages.status, |mut status, _| {
        let mut status = status.view_u64(&(at..at + 1), raw)?;
        let [t16, t8, t4, t2] = &pages.pools;
        write_pool(t16, |mut of_16| {
            write_pool(t8, |mut of_8| {
                write_pool(t4, |mut of_4| {
                    write_pool(t2, |mut of_2| {
                        let mut lent = [
                            pool_view(t16, &mut of_16, raw)?,
                            pool_view(t8, &mut of_8, raw)?,
                            pool_view(t4, &mut of_4, raw)?,
                            pool_view(t2, &mut of_2, raw)?,
                        ];
                        let pools = lent.each_mut().map(|pool| pool.as_mut().map(LentMut::all));
                        let mut targets = TierPoolsMut { pools, status: Some(status.all()) };
                        let (queue, cache) = (&stream.queue, cache.view());
                        quant::quantize_pages(queue, plan, &cache, &lists, &mut targets).w()
                    })
                })
            })
        })
    })
}

pub(crate) fn measure<T: Half + Number>(
    plan: &ChannelsPlan,
    cache: &CacheSource<'_>,
    indices: &Source<'_>,
    measured: &MeasuredChannels,
) -> Result<()> {
    let device = measured.key_scales.device();
    let stream = stream_of(device)?;
    let raw = &stream.stream;
    let cache = LentCache::<T>::new(cache, &stream)?;
    let indices = indices.view::<i32>(raw)?;
    let rows = MeasuredRows { indices: indices.view, counts: None };
    let words = workspace(plan.workspace_len(), DType::U32, device)?;
    let n = 0..measured.key_scales.elem_count();
    let (key_scales, key_offsets) = (&measured.key_scales, &measured.key_offsets);
    write_both([key_scales, key_offsets], |[mut scales, mut offsets]| {
        write_both([&measured.value_scales, &words], |[mut of_values, mut words]| {
            let (mut scales, mut offsets) =
                (scales.view::<f32>(&n, raw)?, offsets.view::<f32>(&n, raw)?);
            let mut of_values = of_values.view::<f32>(&n, raw)?;
            let mut words = words.view::<u32>(&(0..plan.workspace_len() as usize), raw)?;
            let mut keys =
                ChannelViewsMut { scales: Some(scales.all()), offsets: Some(offsets.all()) };
            let mut values = ChannelViewsMut { scales: Some(of_values.all()), offsets: None };
            let (queue, cache, words) = (&stream.queue, cache.view(), &mut words.view);
            quant::measure_channels(queue, plan, &cache, &rows, words, &mut keys, &mut values).w()
        })
    })
}

pub(crate) fn attend<T: Half + Number, O: Real + Number>(
    plan: &TieredPlan,
    launch: &Launch<'_>,
    entries: &Entries<'_>,
    pages: &TieredPages,
    queries: &Tensor,
) -> Result<Attended> {
    let stream = stream_of(queries.device())?;
    let raw = &stream.stream;
    let lent = LentLaunch::<T>::new(launch, &stream)?;
    let segments = lent.segments();
    let inputs = lent.inputs(&segments);
    let entries = LentEntries::new(entries, raw)?;
    let [key_channels, value_channels] = entries.channels();
    let mut sources = Vec::new();
    for pool in &pages.pools {
        sources.push(match pool {
            Some(pool) => Some(Source::new(pool, whole("pool of pages", pool)?)),
            None => None,
        });
    }
    let mut pools = Vec::new();
    for source in &sources {
        let pool = source.as_ref().map(|source| source.view::<u8>(raw)).transpose()?;
        if let Some(pool) = &pool {
            check_aligned("pool of pages", pool.view.address())?;
        }
        pools.push(pool);
    }
    let at = pages.status.layout().start_offset();
    write(&pages.status, |mut status, _| {
        let mut status = status.view_u64(&(at..at + 1), raw)?;
        let views: [Option<View<'_, u8>>; 4] =
            std::array::from_fn(|tag| pools[tag].as_ref().map(|pool| pool.view));
        let mut tiers = TieredInputs {
            pools: TierPools { pools: views, status: Some(status.all()) },
            key_entries: entries.keys.view,
            value_entries: entries.values.view,
            counts: optional(&entries.counts),
            key_channels,
            value_channels,
        };
        launch_into::<O>(plan.attend(), &stream, queries, |queue, outputs| {
            attention::attend_tiered(queue, plan, &inputs, &mut tiers, outputs, None)
        })
    })
}
