//! Tiered pages, on CUDA.

use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::{Result, Tensor};
use lacuna::attention::{self, TieredInputs, TieredPlan};
use lacuna::element::{Half, Real};
use lacuna::quant::{self, ChannelViews, PageLists, PagesPlan, TierPools, TierPoolsMut};
use lacuna::{View, ViewMut};

use super::attention::{LentLaunch, launch_into};
use super::kv::{LentCache, optional};
use super::{Lent, check_aligned, stream_of};
use crate::Wrap;
use crate::attention::{Attended, Launch};
use crate::kv::CacheSource;
use crate::storage::{Number, Source, whole, write};
use crate::tiered::{Entries, TieredPages};

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

/// Lends what is there of the pools for writing, one in the other, and then runs.
fn write_pools<R>(
    pools: &[Option<Tensor>],
    raw: &CudaStream,
    mut views: Vec<Option<ViewMut<'_, u8>>>,
    then: &mut dyn FnMut(Vec<Option<ViewMut<'_, u8>>>) -> Result<R>,
) -> Result<R> {
    match pools {
        [] => then(views),
        [None, rest @ ..] => {
            views.push(None);
            write_pools(rest, raw, views, then)
        }
        [Some(pool), rest @ ..] => {
            let span = whole("pool of pages", pool)?;
            write(pool, |mut target, _| {
                let mut pool = target.view::<u8>(&span, raw)?;
                check_aligned("pool of pages", pool.view.address())?;
                views.push(Some(pool.all()));
                write_pools(rest, raw, views, then)
            })
        }
    }
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
        write_pools(&pages.pools, raw, Vec::new(), &mut |pools| {
            let mut pools = pools.into_iter();
            let mut targets = TierPoolsMut {
                pools: std::array::from_fn(|_| pools.next().flatten()),
                status: Some(status.all()),
            };
            quant::quantize_pages(&stream.queue, plan, &cache.view(), &lists, &mut targets).w()
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
        let status = status.view_u64(&(at..at + 1), raw)?;
        let views: [Option<View<'_, u8>>; 4] =
            std::array::from_fn(|tag| pools[tag].as_ref().map(|pool| pool.view));
        let tiers = TieredInputs {
            pools: TierPools { pools: views, status: Some(&status.view) },
            key_entries: entries.keys.view,
            value_entries: entries.values.view,
            counts: optional(&entries.counts),
            key_channels,
            value_channels,
        };
        launch_into::<O>(plan.attend(), &stream, queries, |queue, outputs| {
            attention::attend_tiered(queue, plan, &inputs, &tiers, outputs, None)
        })
    })
}
