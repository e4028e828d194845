//! Keys and values in pages of 16, 8, 4 and 2 bits.

use candle_core::{DType, Result, Tensor, bail};
use half::bf16;
use lacuna::attention::TieredPlan;
use lacuna::attention::reference::TieredAttended;
use lacuna::element::{Float, Half, Real};
use lacuna::kv::{KvLayout, KvLists};
use lacuna::quant::reference::{Channels, Measured, Row, dequantize, measure};
use lacuna::quant::{
    ChannelsPlan, EntryTable, MissingPage, Page, PageShape, PagesPlan, PagesShape, Part, Place,
    Tail, Tier,
};
use rayon::prelude::*;

use crate::Wrap;
use crate::attention::{AttendOptions, Attended, Launch, Segment, each_head, finish};
use crate::kv::{CacheSource, KvCache};
use crate::plain;
use crate::storage::{
    Number, Source, apart, by_half, by_real, check_dims, check_type, is_on_cuda, write,
};

/// Pages of tiers, 64 tokens of a head each, keys and values in pages of their own. Which page stands where, and in which
/// tier, the engine says: [`key_entries`](Self::key_entries) and [`value_entries`](Self::value_entries) are its tensors. A clone is the same memory.
#[derive(Debug, Clone)]
pub struct TieredPages {
    /// By [`Tier::tag`], of 16, 8, 4 and 2 bits: u8 `[pages, bytes of a page]`; none of a tier without pages.
    pub pools: [Option<Tensor>; 4],
    /// u32 `[batch, n_heads, n_pages]`: the page of each 64 tokens' keys, as [`entry`](Self::entry) says.
    pub key_entries: Tensor,
    /// The same of values.
    pub value_entries: Tensor,
    /// u32 `[batch, n_heads]`: slots of each head's pages that hold tokens, from the first on; else all.
    pub counts: Option<Tensor>,
    /// f32 `[batch, n_heads, n_spans, head_dim]`, a span for each [`span_pages`](Self::span_pages): what channels of keys are divided by, and what is taken from them before.
    pub key_channels: ChannelTensors,
    /// The same of values.
    pub value_channels: ChannelTensors,
    /// Pages of a head that have the same channels.
    pub span_pages: usize,
    /// i64 `[1]`: raised where an entry names a page that is not there: [`missing`](Self::missing).
    pub status: Tensor,
}

/// What channels are relative to; of nothing, 1 and 0.
#[derive(Debug, Clone, Default)]
pub struct ChannelTensors {
    /// What numbers are divided by.
    pub scales: Option<Tensor>,
    /// What is taken from them before.
    pub offsets: Option<Tensor>,
}

impl TieredPages {
    /// For `n_pages` pages of each head of `cache`, none of which is anywhere yet, and pools of so many pages of 16, 8, 4 and 2 bits.
    ///
    /// # Errors
    /// For heads of other than multiples of 32 elements up to 256, and pools that are too large.
    pub fn new(cache: &KvCache, n_pages: usize, n_pool_pages: [usize; 4]) -> Result<Self> {
        let (layout, device) = (cache.layout()?, cache.keys.device());
        let kv = layout.shape();
        let n_pool_pages = n_pool_pages.map(|n| n as u64);
        let plan =
            PagesPlan::new(PagesShape { n_pool_pages, ..PagesShape::of(layout, n_pages as u64) });
        let page = plan.w()?.page(Part::Keys);
        let mut pools = [None, None, None, None];
        for tier in Tier::ALL {
            let n = n_pool_pages[tier.tag() as usize] as usize;
            if n > 0 {
                let dims = (n, page.page_bytes(tier));
                pools[tier.tag() as usize] = Some(Tensor::zeros(dims, DType::U8, device)?);
            }
        }
        let dims = (kv.batch as usize, kv.n_heads as usize, n_pages);
        let entries = || Tensor::full(Self::NO_PAGE, dims, device);
        Ok(Self {
            pools,
            key_entries: entries()?,
            value_entries: entries()?,
            counts: None,
            key_channels: ChannelTensors::default(),
            value_channels: ChannelTensors::default(),
            span_pages: n_pages.max(1),
            status: Tensor::zeros(1, DType::I64, device)?,
        })
    }

    /// The entry of no page.
    pub const NO_PAGE: u32 = MissingPage::NONE;

    /// The entry of a tier's page by its number in the pool.
    pub fn entry(tier: Tier, number: u32) -> u32 {
        tier.tag() << 30 | number & Self::NO_PAGE
    }

    /// The first entry that named a page that is not there, if any did since this was made. Waits for the device.
    ///
    /// # Errors
    /// Those of the copy.
    pub fn missing(&self) -> Result<Option<MissingPage>> {
        let status = self.status.to_vec1::<i64>()?;
        Ok(status.first().and_then(|status| MissingPage::from_status(*status as u64)))
    }

    pub(crate) fn plan(&self, layout: KvLayout) -> Result<PagesPlan> {
        let kv = layout.shape();
        let Ok((batch, n_heads, n_pages)) = self.key_entries.dims3() else {
            let dims = self.key_entries.dims();
            bail!("key_entries: expected [batch, n_heads, n_pages], got {dims:?}");
        };
        check_dims(
            "key_entries",
            &self.key_entries,
            &[kv.batch as usize, kv.n_heads as usize, n_pages],
        )?;
        check_dims("value_entries", &self.value_entries, &[batch, n_heads, n_pages])?;
        let n_pool_pages = self.pools.each_ref().map(|pool| match pool {
            Some(pool) => pool.dims().first().copied().unwrap_or(0) as u64,
            None => 0,
        });
        let shape = PagesShape {
            layout,
            lists: KvLists::PerHead,
            n_pages: n_pages as u64,
            span_pages: self.span_pages as u64,
            n_pool_pages,
            tail: Tail::ZeroPoints,
        };
        let plan = PagesPlan::new(shape).w()?;
        for tier in Tier::ALL {
            if let Some(pool) = &self.pools[tier.tag() as usize] {
                let n = n_pool_pages[tier.tag() as usize] as usize;
                check_type("pool of pages", pool, DType::U8)?;
                check_dims("pool of pages", pool, &[n, plan.page(Part::Keys).page_bytes(tier)])?;
            }
        }
        check_type("status", &self.status, DType::I64)?;
        check_dims("status", &self.status, &[1])?;
        let channels = [batch, n_heads, plan.n_spans() as usize, kv.row_len as usize];
        for tensor in self.channels() {
            check_type("channels", tensor, DType::F32)?;
            check_dims("channels", tensor, &channels)?;
        }
        Ok(plan)
    }

    fn channels(&self) -> impl Iterator<Item = &Tensor> {
        let each = [&self.key_channels, &self.value_channels];
        each.into_iter().flat_map(|own| own.scales.iter().chain(&own.offsets))
    }

    fn pool_tensors(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        self.pools.iter().flatten().map(|pool| ("pool of pages", pool))
    }

    fn read_tensors(&self) -> Vec<(&'static str, &Tensor)> {
        let mut named =
            vec![("key_entries", &self.key_entries), ("value_entries", &self.value_entries)];
        named.extend(self.counts.iter().map(|counts| ("counts", counts)));
        named.extend(self.channels().map(|channels| ("channels", channels)));
        named
    }
}

/// What of pages is read beside pools.
pub(crate) struct Entries<'a> {
    pub(crate) keys: Source<'a>,
    pub(crate) values: Source<'a>,
    pub(crate) counts: Option<Source<'a>>,
    /// Scales and offsets, of keys and of values.
    pub(crate) channels: [[Option<Source<'a>>; 2]; 2],
}

impl<'a> Entries<'a> {
    fn new(pages: &'a TieredPages) -> Result<Self> {
        let dims = pages.key_entries.dims();
        let of = |tensor: &'a Option<Tensor>| {
            let whole =
                |tensor: &'a Tensor| Source::whole::<f32>("channels", tensor, tensor.dims());
            tensor.as_ref().map(whole).transpose()
        };
        let (keys, values) = (&pages.key_channels, &pages.value_channels);
        Ok(Self {
            keys: Source::whole::<u32>("key_entries", &pages.key_entries, dims)?,
            values: Source::whole::<u32>("value_entries", &pages.value_entries, dims)?,
            counts: match &pages.counts {
                Some(counts) => Some(Source::whole::<u32>("counts", counts, &dims[..2])?),
                None => None,
            },
            channels: [
                [of(&keys.scales)?, of(&keys.offsets)?],
                [of(&values.scales)?, of(&values.offsets)?],
            ],
        })
    }

    fn host_channels(&self) -> Result<[Channels<'_>; 2]> {
        let [keys, values] = &self.channels;
        Ok([host_channels(keys)?, host_channels(values)?])
    }
}

fn host_channels<'s>([scales, offsets]: &'s [Option<Source<'_>>; 2]) -> Result<Channels<'s>> {
    Ok(Channels {
        scales: scales.as_ref().map(Source::slice).transpose()?,
        offsets: offsets.as_ref().map(Source::slice).transpose()?,
    })
}

/// The pages that a plan names, of whichever tier.
fn number_of(plan: &PagesPlan, entry: u32) -> Option<(Tier, usize)> {
    let tier = Tier::of_entry(entry);
    let number = entry & MissingPage::NONE;
    let n = plan.shape().n_pool_pages[tier.tag() as usize];
    (u64::from(number) < n).then_some((tier, number as usize))
}

/// What a launch says of entries that name no page there is, of those that are looked for.
fn report(
    plan: &PagesPlan,
    entries: &Entries<'_>,
    n_slots: &[usize],
    status: &Tensor,
) -> Result<()> {
    let n_pages = plan.shape().n_pages as usize;
    let mut worst = 0;
    for (table, own) in [(EntryTable::Keys, &entries.keys), (EntryTable::Values, &entries.values)] {
        for (idx, entry) in own.slice::<u32>()?.iter().enumerate() {
            let is_looked_for = 64 * (idx % n_pages) < n_slots[idx / n_pages];
            let is_meant = entry & MissingPage::NONE == MissingPage::NONE;
            if is_looked_for && !is_meant && number_of(plan, *entry).is_none() {
                worst = worst.max(MissingPage { table, entry: idx as u32 }.to_status());
            }
        }
    }
    write(status, |mut target, layout| {
        let at = layout.start_offset();
        let status = &mut target.slice::<i64>(&(at..at + 1))?[0];
        *status = worst.max(*status as u64) as i64;
        Ok(())
    })
}

/// Slots of each head's pages that hold tokens.
fn slots_of(plan: &PagesPlan, counts: Option<&Source<'_>>) -> Result<Vec<usize>> {
    let most = 64 * plan.shape().n_pages as usize;
    Ok(match counts {
        Some(counts) => counts.slice::<u32>()?.iter().map(|n| most.min(*n as usize)).collect(),
        None => vec![most; plan.n_lists() as usize],
    })
}

/// Rows of a cache as pages, in place: each 64 of `indices`, i32 `[batch, n_heads, n_pages, 64]`, in the page and tier that its entries
/// name; -1 is a slot of nothing. Entries of no page are passed over.
///
/// # Numerics
/// Bit for bit [`lacuna::quant::Page::quantize`].
///
/// # Errors
/// For types, sizes and strides that are not supported.
pub fn quantize_pages(cache: &KvCache, indices: &Tensor, pages: &TieredPages) -> Result<()> {
    let layout = cache.layout()?;
    cache.values()?;
    let plan = pages.plan(layout)?;
    let mut named = cache.tensors();
    named.push(("indices", indices));
    named.extend(pages.read_tensors());
    let mut written: Vec<_> = pages.pool_tensors().collect();
    written.push(("status", &pages.status));
    let is_cuda = is_on_cuda(&[&named[..], &written].concat())?;
    apart(&written, &named)?;
    let dims = [pages.key_entries.dims(), &[64]].concat();
    let indices = Source::whole::<i32>("indices", indices, &dims)?;
    let (source, entries) = (CacheSource::new(cache)?, Entries::new(pages)?);
    by_half!("keys of a cache", cache.keys.dtype(), T => match is_cuda {
        #[cfg(feature = "cuda")]
        true => crate::cuda::tiered::quantize::<T>(&plan, &source, &indices, &entries, pages),
        _ => quantize_on_cpu::<T>(&plan, &source, &indices, &entries, pages),
    })
}

fn quantize_on_cpu<T: Half + Number>(
    plan: &PagesPlan,
    cache: &CacheSource<'_>,
    indices: &Source<'_>,
    entries: &Entries<'_>,
    pages: &TieredPages,
) -> Result<()> {
    let layout = &cache.layout;
    let kv = layout.shape();
    let (n_pages, n_heads, d) =
        (plan.shape().n_pages as usize, kv.n_heads as usize, kv.row_len as usize);
    let Some(values) = &cache.values else { bail!("quantize_pages: the cache has no values") };
    let pools = [cache.keys.slice::<T>()?, values.slice::<T>()?];
    let tables = [entries.keys.slice::<u32>()?, entries.values.slice::<u32>()?];
    let channels = entries.host_channels()?;
    let indices = indices.slice::<i32>()?;
    let page_table = cache.tables.page_table.slice::<i32>()?;
    let lengths = cache.tables.lengths.slice::<u32>()?;
    let n_slots = slots_of(plan, entries.counts.as_ref())?;
    let n_spans = plan.n_spans() as usize;
    let make = |idx: usize, part: Part| -> Result<Option<(Tier, usize, Page)>> {
        let (list, p) = (idx / n_pages, idx % n_pages);
        let (b, head) = (list / n_heads, list % n_heads);
        let Some((tier, number)) = number_of(plan, tables[part as usize][idx]) else {
            return Ok(None);
        };
        let n = n_slots[list].saturating_sub(64 * p).min(64);
        if n == 0 {
            return Ok(None);
        }
        let n_rows = layout.rows_of(lengths[b].into());
        let rows = indices[64 * idx..][..n].iter().map(|index| {
            let row = u64::try_from(*index).ok().filter(|row| *row < n_rows)?;
            let start = layout.locate(page_table, b as u64, row, head as u64)?;
            Some(&pools[part as usize][start..start + d])
        });
        let first = (list * n_spans + p / plan.shape().span_pages as usize) * d;
        let all = channels[part as usize];
        let channels = Channels {
            scales: all.scales.map(|all| &all[first..first + d]),
            offsets: all.offsets.map(|all| &all[first..first + d]),
        };
        let page = Page::quantize(plan.page(part), tier, rows, &channels).w()?;
        Ok(Some((tier, number, page)))
    };
    let made = (0..tables[0].len())
        .into_par_iter()
        .flat_map_iter(|idx| [Part::Keys, Part::Values].map(|part| make(idx, part)))
        .filter_map(Result::transpose)
        .collect::<Result<Vec<_>>>()?;
    for (tag, pool) in pages.pools.iter().enumerate() {
        let Some(pool) = pool else { continue };
        let span = crate::storage::whole("pool of pages", pool)?;
        write(pool, |mut target, _| {
            let bytes = target.slice::<u8>(&span)?;
            for (tier, number, page) in &made {
                if tier.tag() as usize == tag {
                    let own = page.bytes();
                    bytes[number * own.len()..][..own.len()].copy_from_slice(own);
                }
            }
            Ok(())
        })?;
    }
    report(plan, entries, &n_slots, &pages.status)
}

/// What channels are relative to so that pages lose least: of keys their means and the root mean squares around them, of values root mean
/// squares alone. Measured over the rows that `indices` name, i32 `[batch, n_heads, n, 64]`, -1 none, and set in `pages`, whose pages
/// of a head are one span.
///
/// # Numerics
/// Bit for bit [`lacuna::quant::reference::measure`].
///
/// # Errors
/// For types, sizes and strides that are not supported.
pub fn measure_channels(cache: &KvCache, indices: &Tensor, pages: &mut TieredPages) -> Result<()> {
    let layout = cache.layout()?;
    cache.values()?;
    let kv = *layout.shape();
    if pages.plan(layout)?.n_spans() > 1 {
        bail!("spans of channels: expected 1 of all pages, got pages of {} each", pages.span_pages);
    }
    let (batch, n_heads) = (kv.batch as usize, kv.n_heads as usize);
    let n = indices.dims().get(2).copied().unwrap_or(0);
    let mut named = cache.tensors();
    named.push(("indices", indices));
    let is_cuda = is_on_cuda(&named)?;
    let source = Source::whole::<i32>("indices", indices, &[batch, n_heads, n, 64])?;
    let plan = ChannelsPlan::new(PagesPlan::new(PagesShape::of(layout, n as u64)).w()?);
    let dims = (batch, n_heads, 1, kv.row_len as usize);
    let zeros = || Tensor::zeros(dims, DType::F32, cache.keys.device());
    let measured =
        MeasuredChannels { key_scales: zeros()?, key_offsets: zeros()?, value_scales: zeros()? };
    let cache_source = CacheSource::new(cache)?;
    by_half!("keys of a cache", cache.keys.dtype(), T => match is_cuda {
        #[cfg(feature = "cuda")]
        true => crate::cuda::tiered::measure::<T>(&plan, &cache_source, &source, &measured),
        _ => measure_on_cpu::<T>(&plan, &cache_source, &source, &measured),
    })?;
    let MeasuredChannels { key_scales, key_offsets, value_scales } = measured;
    pages.key_channels = ChannelTensors { scales: Some(key_scales), offsets: Some(key_offsets) };
    pages.value_channels = ChannelTensors { scales: Some(value_scales), offsets: None };
    Ok(())
}

/// f32 `[batch, n_heads, 1, head_dim]`, to be written.
pub(crate) struct MeasuredChannels {
    pub(crate) key_scales: Tensor,
    pub(crate) key_offsets: Tensor,
    pub(crate) value_scales: Tensor,
}

fn measure_on_cpu<T: Half + Number>(
    plan: &ChannelsPlan,
    cache: &CacheSource<'_>,
    indices: &Source<'_>,
    measured: &MeasuredChannels,
) -> Result<()> {
    let layout = &cache.layout;
    let kv = layout.shape();
    let [n_heads, d] = [kv.n_heads, kv.row_len].map(|n| n as usize);
    let n_slots = 64 * plan.pages().shape().n_pages as usize;
    let Some(values) = &cache.values else { bail!("measure_channels: the cache has no values") };
    let (keys, values) = (cache.keys.slice::<T>()?, values.slice::<T>()?);
    let indices = indices.slice::<i32>()?;
    let page_table = cache.tables.page_table.slice::<i32>()?;
    let lengths = cache.tables.lengths.slice::<u32>()?;
    let of_list = |list: usize| {
        let (b, head) = (list / n_heads, list % n_heads);
        let n_rows = layout.rows_of(lengths[b].into());
        let starts: Vec<_> = indices[list * n_slots..][..n_slots]
            .iter()
            .map(|index| {
                let row = u64::try_from(*index).ok().filter(|row| *row < n_rows)?;
                layout.locate(page_table, b as u64, row, head as u64)
            })
            .collect();
        let of_pool = |pool: &[T], has_offsets: bool| {
            let row = |start: &Option<usize>| start.map(|start| &pool[start..start + d]);
            measure(&starts.iter().map(row).collect::<Vec<_>>(), d, has_offsets)
        };
        [of_pool(keys, true), of_pool(values, false)]
    };
    let n_lists = plan.pages().n_lists() as usize;
    let all: Vec<[Measured; 2]> = (0..n_lists).into_par_iter().map(of_list).collect();
    let fill = |tensor: &Tensor, of: &dyn Fn(&[Measured; 2]) -> Vec<f32>| {
        write(tensor, |mut target, layout| {
            let own = target.slice::<f32>(&(0..layout.shape().elem_count()))?;
            own.copy_from_slice(&all.iter().flat_map(of).collect::<Vec<_>>());
            Ok(())
        })
    };
    fill(&measured.key_scales, &|[keys, _]| keys.scales.clone())?;
    fill(&measured.key_offsets, &|[keys, _]| keys.offsets.clone())?;
    fill(&measured.value_scales, &|[_, values]| values.scales.clone())
}

/// As [`attend`](crate::attend), over tokens of which those that matter less have fewer bits: first all tokens of tiered pages, which all
/// queries see, then the rows of segments.
///
/// Heads have 64, 128 or 256 elements; there is a segment, if of no rows.
///
/// # Numerics
/// On CUDA, bit for bit [`lacuna::attention::reference::TieredAttended`]; on the CPU that too where
/// [`is_exact`](AttendOptions::is_exact) asks for it, and else sums of f32 over what pages stand for.
///
/// # Errors
/// For types, sizes and strides that are not supported.
pub fn attend_tiered(
    queries: &Tensor,
    pages: &TieredPages,
    segments: &[Segment<'_>],
    options: &AttendOptions<'_>,
) -> Result<Attended> {
    let launch = Launch::new(queries, segments, options)?;
    let layout = launch.segments[0].cache.layout;
    let plan = TieredPlan::new(launch.plan, pages.plan(layout)?).w()?;
    let mut named = vec![("queries", queries)];
    named.extend(pages.read_tensors());
    named.extend(pages.pool_tensors());
    let written = [("status", &pages.status)];
    is_on_cuda(&[&named[..], &written].concat())?;
    for segment in segments {
        named.extend(segment.cache.tensors());
    }
    apart(&written, &named)?;
    let entries = Entries::new(pages)?;
    let dtype = options.dtype.unwrap_or(queries.dtype());
    by_half!("queries", queries.dtype(), T => by_real!("outputs of attention", dtype, O => {
        match launch.is_cuda {
            #[cfg(feature = "cuda")]
            true => crate::cuda::tiered::attend::<T, O>(&plan, &launch, &entries, pages, queries),
            _ => attend_on_cpu::<T, O>(&plan, &launch, &entries, pages, queries.dims(), options.is_exact),
        }
    }))
}

fn attend_on_cpu<T: Half + Number, O: Real + Number>(
    plan: &TieredPlan,
    launch: &Launch<'_>,
    entries: &Entries<'_>,
    pages: &TieredPages,
    dims: &[usize],
    is_exact: bool,
) -> Result<Attended> {
    let segments = launch.host_segments::<T>()?;
    let mut sources = [None, None, None, None];
    for (source, pool) in sources.iter_mut().zip(&pages.pools) {
        if let Some(pool) = pool {
            *source = Some(Source::whole::<u8>("pool of pages", pool, pool.dims())?);
        }
    }
    let mut pools = [&[][..]; 4];
    for (pool, source) in pools.iter_mut().zip(&sources) {
        *pool = source.as_ref().map_or(Ok(&[][..]), Source::slice)?;
    }
    let attended = launch.reference::<T>(plan.attend(), &segments)?;
    let reference = TieredAttended {
        plan,
        attended,
        pools,
        entries: [entries.keys.slice()?, entries.values.slice()?],
        counts: entries.counts.as_ref().map(Source::slice).transpose()?,
        channels: entries.host_channels()?,
    };
    let n_slots = slots_of(plan.pages(), entries.counts.as_ref())?;
    let answers = match is_exact {
        true => each_head(plan.attend(), |b, i, q| {
            let (output, log_sum, _) = reference.query(b, i, q);
            (output, log_sum)
        }),
        false => {
            let places = Places::new(plan.pages());
            plain::attend(&attended, |b, head| {
                rows_of_pages(&reference, &places, &n_slots, [b, head])
            })
        }
    };
    report(plan.pages(), entries, &n_slots, &pages.status)?;
    finish::<O>(dims, answers)
}

/// Where the codes of a page's tokens are, by tiers and parts; of numbers, which lie token by token, nothing.
struct Places([[Vec<Place>; 2]; 4]);

impl Places {
    fn new(plan: &PagesPlan) -> Self {
        let of = |tag: usize, part: Part| {
            let tier = Tier::of_entry((tag as u32) << 30);
            let is_there = tier.is_coded() && plan.shape().n_pool_pages[tag] > 0;
            let page = plan.page(part);
            let n = if is_there { PageShape::TOKENS * page.head_dim() } else { 0 };
            (0..n).map(|i| page.place(tier, i / page.head_dim(), i % page.head_dim())).collect()
        };
        Self(std::array::from_fn(|tag| [Part::Keys, Part::Values].map(|part| of(tag, part))))
    }
}

/// What all slots of a head's pages that hold tokens stand for.
fn rows_of_pages<T: Half + Number>(
    tiered: &TieredAttended<'_, T>,
    places: &Places,
    n_slots: &[usize],
    [b, head]: [usize; 2],
) -> plain::Rows {
    let plan = tiered.plan.pages();
    let shape = plan.shape();
    let kv = shape.layout.shape();
    let [n_pages, n_heads, d] = [shape.n_pages, kv.n_heads, kv.row_len].map(|n| n as usize);
    let list = b * n_heads + head;
    let mut rows = plain::Rows::new(d);
    for p in 0..n_slots[list].div_ceil(PageShape::TOKENS) {
        let entries = tiered.entries.map(|entries| number_of(plan, entries[list * n_pages + p]));
        let [Some(key), Some(value)] = entries else { continue };
        let n = (n_slots[list] - PageShape::TOKENS * p).min(PageShape::TOKENS);
        let span = list * plan.n_spans() as usize + p / shape.span_pages as usize;
        for (part, (tier, number)) in [(Part::Keys, key), (Part::Values, value)] {
            let page = plan.page(part);
            let n_bytes = page.page_bytes(tier);
            let bytes = &tiered.pools[tier.tag() as usize][number * n_bytes..][..n_bytes];
            let all = tiered.channels[part as usize];
            let channels = Channels {
                scales: all.scales.map(|all| &all[span * d..][..d]),
                offsets: all.offsets.map(|all| &all[span * d..][..d]),
            };
            let target = match part {
                Part::Keys => &mut rows.keys,
                Part::Values => &mut rows.values,
            };
            if !tier.is_coded() {
                let numbers = bytes[..2 * n * d].chunks(2);
                target.extend(numbers.map(|x| Float::to_f32(bytemuck::pod_read_unaligned::<T>(x))));
                continue;
            }
            let mask = tier.greatest_code().unwrap_or(0);
            let places = &places.0[tier.tag() as usize][part as usize];
            for (token, places) in places.chunks(d).take(n).enumerate() {
                let two = |at: usize| [bytes[at], bytes[at + 1]];
                let row = Row {
                    codes: places.iter().map(|at| bytes[at.byte] >> at.shift & mask).collect(),
                    scale: bf16::from_le_bytes(two(page.scale_byte(tier, token))),
                    zero: i16::from_le_bytes(two(page.zero_byte(tier, token))),
                };
                target.extend(dequantize(&row, &channels));
            }
        }
    }
    rows
}
