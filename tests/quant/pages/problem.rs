//! Caches, lists and pages, and what they must become.

use lacuna::element::{Half, Real};
use lacuna::kv::KvLists;
use lacuna::quant::reference::Channels;
use lacuna::quant::{
    EntryTable, Page, PageLists, PagesPlan, PagesShape, Part, Tail, Tier, TierPools, TierPoolsMut,
    dequantize_pages, quantize_pages,
};
use lacuna::{Buffer, Error, Queue};

use crate::cache::{
    Cache, ChannelBuffers, HostChannels, PARTS, POISON, any_lists, entries_of, find_page, is_page,
    layout_of, list_of, numbers, pages_for, put_page, scatter, scatter_wild_indices,
    scatter_wild_numbers, shuffled_table, status_of, upload_both, upload_some,
};
use crate::common::Random;

/// What proptest and tables vary.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    pub(crate) lengths: Vec<u32>,
    pub(crate) n_heads: u64,
    pub(crate) head_dim: u64,
    pub(crate) page_size: u64,
    pub(crate) is_hnd: bool,
    pub(crate) lists: KvLists,
    pub(crate) n_pages: u64,
    pub(crate) span_pages: u64,
    pub(crate) has_counts: bool,
    pub(crate) has_scales: bool,
    pub(crate) has_offsets: bool,
    /// Of each page by turns.
    pub(crate) tiers: Vec<Tier>,
    pub(crate) tail: Tail,
    /// Wild lists, entries and page tables.
    pub(crate) is_hostile: bool,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            seed: 1,
            lengths: vec![150, 3],
            n_heads: 2,
            head_dim: 64,
            page_size: 16,
            is_hnd: true,
            lists: KvLists::PerHead,
            n_pages: 3,
            span_pages: 2,
            has_counts: true,
            has_scales: true,
            has_offsets: true,
            tiers: Tier::ALL.to_vec(),
            tail: Tail::ZeroPoints,
            is_hostile: false,
        }
    }
}

/// All that a launch takes.
#[derive(Debug, Clone)]
pub(crate) struct Problem<T> {
    pub(crate) plan: PagesPlan,
    pub(crate) cache: Cache<T>,
    pub(crate) indices: Vec<i32>,
    pub(crate) counts: Option<Vec<u32>>,
    /// Of keys and of values.
    pub(crate) entries: [Vec<u32>; 2],
    pub(crate) channels: HostChannels,
}

impl Case {
    pub(crate) fn plan(&self) -> Result<PagesPlan, Error> {
        let sizes = [self.lengths.len() as u64, self.n_heads, self.head_dim, self.page_size];
        let table_stride = pages_for(&self.lengths, self.page_size) + 1;
        let layout = layout_of(sizes, table_stride, self.is_hnd)?;
        // In the worst case all pages are of one tier; the pools are of different lengths.
        let n = 2 * sizes[0] * self.n_heads * self.n_pages;
        PagesPlan::new(PagesShape {
            layout,
            lists: self.lists,
            n_pages: self.n_pages,
            span_pages: self.span_pages,
            n_pool_pages: [n, n + 1, n + 2, n + 3],
            tail: self.tail,
        })
    }

    pub(crate) fn build<T: Half + Real>(&self) -> Problem<T> {
        let plan = self.plan().unwrap();
        let layout = plan.shape().layout;
        let mut random = Random(self.seed);
        let page_table = shuffled_table(&layout, &mut random);
        let mut rows: [Vec<T>; 2] = PARTS.map(|_| numbers(layout.pool_len(), &mut random));
        // Far from 0, and near each other.
        for (i, row) in
            rows.iter_mut().flat_map(|rows| rows.chunks_mut(self.head_dim as usize)).enumerate()
        {
            if i % 13 == 5 {
                let middle = if i % 2 == 0 { 2.5 } else { -2.5 };
                let element = |c: usize| T::from_f32(middle + (c % 2) as f32 / 64.0);
                row.iter_mut().enumerate().for_each(|(c, to)| *to = element(c));
            }
        }
        let n_rows = u64::from(*self.lengths.iter().max().unwrap_or(&1)).max(1);
        let (mut indices, counts) = any_lists(&plan, n_rows, self.has_counts, &mut random);
        let n_entries = plan.entries_len();
        let mut keys = entries_of(&self.tiers, 2 * n_entries, &mut [0; 4], &mut random);
        let values = keys.split_off(n_entries as usize);
        let mut entries = [keys, values];
        let mut cache = Cache { layout, rows, page_table, lengths: self.lengths.clone() };
        if self.is_hostile {
            cache.make_wild();
            scatter_wild_indices(&mut indices, n_rows);
            for (i, entry) in entries.iter_mut().flatten().step_by(2).enumerate() {
                let past = plan.shape().n_pool_pages[(*entry >> 30) as usize] as u32;
                *entry =
                    *entry >> 30 << 30 | [0x3FFF_FFFF, 0x2000_0000, past, *entry & 0xFFFF][i % 4];
            }
            cache.rows.iter_mut().for_each(|rows| scatter_wild_numbers(rows));
        }
        let has = [self.has_scales, self.has_offsets];
        let mut channels = HostChannels::any(plan.channels_len(), has, &mut random);
        if self.is_hostile {
            channels.scatter_wild_scales();
            for offsets in channels.offsets.iter_mut().flatten() {
                scatter(offsets, 17, &[-0.0, f32::NAN, f32::NEG_INFINITY, -1e38, 1e-42]);
            }
        }
        Problem { plan, cache, indices, counts, entries, channels }
    }
}

/// Lists in a queue's memory.
struct Lists {
    indices: Buffer<i32>,
    counts: Option<Buffer<u32>>,
    entries: [Buffer<u32>; 2],
    channels: ChannelBuffers,
}

impl Lists {
    fn views(&self) -> PageLists<'_> {
        PageLists {
            indices: self.indices.view(),
            counts: self.counts.as_ref().map(Buffer::view),
            key_entries: self.entries[0].view(),
            value_entries: self.entries[1].view(),
            key_channels: self.channels.views(0),
            value_channels: self.channels.views(1),
        }
    }
}

impl<T: Half + Real> Problem<T> {
    fn upload(&self, queue: &Queue) -> Result<Lists, Error> {
        Ok(Lists {
            indices: queue.upload(&self.indices)?,
            counts: upload_some(queue, self.counts.as_ref())?,
            entries: upload_both(queue, &self.entries)?,
            channels: self.channels.upload(queue)?,
        })
    }

    fn poisoned(&self) -> [Vec<u8>; 4] {
        let mut pools = [const { Vec::new() }; 4];
        for tier in Tier::ALL {
            pools[tier.tag() as usize] = vec![POISON; self.plan.pool_bytes(tier) as usize];
        }
        pools
    }

    /// The pools as a launch leaves them.
    pub(crate) fn quantize(&self, queue: &Queue) -> Result<[Vec<u8>; 4], Error> {
        self.quantize_with_status(queue).map(|(pools, _)| pools)
    }

    /// And the status word.
    pub(crate) fn quantize_with_status(&self, queue: &Queue) -> Result<([Vec<u8>; 4], u64), Error> {
        let mut status = queue.upload(&[0_u64])?;
        let (lists, cache) = (self.upload(queue)?, self.cache.upload(queue)?);
        let mut pools = self.poisoned().map(|pool| queue.upload(&pool).unwrap());
        let mut targets = TierPoolsMut {
            pools: pools.each_mut().map(|pool| Some(pool.view_mut())),
            status: Some(status.view_mut()),
        };
        quantize_pages(queue, &self.plan, &cache.view(), &lists.views(), &mut targets)?;
        let pools = pools.each_ref().map(|pool| queue.download(&pool.view()).unwrap());
        Ok((pools, queue.download(&status.view())?[0]))
    }

    /// The rows as a launch over pools leaves them, which were 7 before.
    pub(crate) fn dequantize(
        &self,
        queue: &Queue,
        pools: &[Vec<u8>; 4],
    ) -> Result<[Vec<T>; 2], Error> {
        self.dequantize_with_status(queue, pools).map(|(rows, _)| rows)
    }

    /// And the status word.
    pub(crate) fn dequantize_with_status(
        &self,
        queue: &Queue,
        pools: &[Vec<u8>; 4],
    ) -> Result<([Vec<T>; 2], u64), Error> {
        let lists = self.upload(queue)?;
        let mut status = queue.upload(&[0_u64])?;
        let mut cache = Cache { rows: self.sevens(), ..self.cache.clone() }.upload(queue)?;
        let pools = pools.each_ref().map(|pool| queue.upload(pool).unwrap());
        let mut sources = TierPools {
            pools: pools.each_ref().map(|pool| Some(pool.view())),
            status: Some(status.view_mut()),
        };
        dequantize_pages(queue, &self.plan, &mut sources, &lists.views(), &mut cache.view_mut())?;
        Ok((cache.download(queue)?, queue.download(&status.view())?[0]))
    }

    /// Of the first entry that counts and whose page is not there.
    pub(crate) fn expected_status(&self) -> u64 {
        let shape = self.plan.shape();
        let n_heads = shape.layout.shape().n_heads as usize;
        let status = |([b, head, p], part): ([usize; 3], usize)| {
            let list = list_of(&self.plan, [b, head]);
            let count = self.counts.as_ref().map_or(u32::MAX, |counts| counts[list]);
            let at = (b * n_heads + head) * shape.n_pages as usize + p;
            let table = [EntryTable::Keys, EntryTable::Values][part];
            let counts = 64 * p < count as usize;
            if counts { status_of(&self.plan, self.entries[part][at], at, table) } else { 0 }
        };
        self.each_page().map(status).max().unwrap_or(0)
    }

    fn sevens(&self) -> [Vec<T>; 2] {
        self.cache.rows.each_ref().map(|rows| vec![T::from_f32(7.0); rows.len()])
    }

    /// Of a page of a list: its entry, if there is such a page, and where the rows of its slots begin.
    fn page(&self, [b, head, p]: [usize; 3], part: usize) -> Option<(u32, Vec<Option<usize>>)> {
        let shape = self.plan.shape();
        let list = list_of(&self.plan, [b, head]);
        let n_pages = shape.n_pages as usize;
        let count = self.counts.as_ref().map_or(usize::MAX, |counts| counts[list] as usize);
        let count = count.min(64 * n_pages);
        let n_heads = shape.layout.shape().n_heads as usize;
        let entry = self.entries[part][(b * n_heads + head) * n_pages + p];
        let slots = (64 * p..64 * p + 64).map(|at| {
            let row = u64::from(self.indices[list * 64 * n_pages + at] as u32);
            if at < count { self.cache.locate([b, head], row) } else { None }
        });
        (64 * p < count && is_page(&self.plan, entry)).then(|| (entry, slots.collect()))
    }

    fn each_page(&self) -> impl Iterator<Item = ([usize; 3], usize)> {
        let kv = self.plan.shape().layout.shape();
        let n_pages = self.plan.shape().n_pages;
        let (batch, n_heads) = (kv.batch as usize, kv.n_heads as usize);
        (0..batch).flat_map(move |b| {
            (0..n_heads).flat_map(move |head| {
                (0..n_pages as usize).flat_map(move |p| [0, 1].map(|part| ([b, head, p], part)))
            })
        })
    }

    fn channels(&self, [b, head, p]: [usize; 3], part: usize) -> Channels<'_> {
        let kv = self.plan.shape().layout.shape();
        let span = p / self.plan.shape().span_pages as usize;
        let at = (b * kv.n_heads as usize + head) * self.plan.n_spans() as usize + span;
        self.channels.of(at, kv.row_len as usize, part)
    }

    pub(crate) fn expected_pools(&self) -> [Vec<u8>; 4] {
        let mut pools = self.poisoned();
        let d = self.plan.shape().layout.shape().row_len as usize;
        for (at, part) in self.each_page() {
            let Some((entry, slots)) = self.page(at, part) else { continue };
            let rows = &self.cache.rows[part];
            let rows = slots.iter().map(|slot| slot.map(|start| &rows[start..start + d]));
            let (shape, tier) = (self.plan.page(PARTS[part]), Tier::of_entry(entry));
            let page = Page::quantize(shape, tier, rows, &self.channels(at, part)).unwrap();
            put_page(&mut pools, entry, &page);
        }
        pools
    }

    /// Pools of bytes that nobody wrote, whose steps, zero points and minimums are of every kind.
    pub(crate) fn hostile_pools(&self, seed: u64) -> [Vec<u8>; 4] {
        let mut random = Random(seed);
        let mut pools = self.poisoned();
        let shape = self.plan.page(Part::Keys);
        let numbers = [
            0.0,
            -0.0,
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            -1.5,
            1e-40,
            f32::MAX,
            f32::MIN,
            0.1,
            0.3,
        ];
        for tier in Tier::ALL {
            let pool = &mut pools[tier.tag() as usize];
            pool.iter_mut().for_each(|byte| *byte = random.next() as u8);
            if !tier.is_coded() {
                continue;
            }
            for page in pool.chunks_mut(shape.page_bytes(tier)) {
                for token in 0..64 {
                    let at = shape.scale_byte(tier, token);
                    let step = numbers[random.next() as usize % numbers.len()];
                    let minimum = numbers[random.next() as usize % numbers.len()];
                    // Most bytes are what they are by chance, which seldom is a number near 1.
                    match (shape.tail(), random.next() % 4) {
                        (_, 0) => {}
                        (Tail::ZeroPoints, _) => {
                            page[at..at + 2].copy_from_slice(&step.to_le_bytes()[2..])
                        }
                        (Tail::Minimums, kind) => {
                            page[at..at + 4].copy_from_slice(&step.to_le_bytes());
                            let at = shape.zero_byte(tier, token);
                            let minimum = match kind {
                                1 => minimum,
                                // Some codes are near 0, by what is rounded.
                                2 => -2.0 * step,
                                _ => random.normal(),
                            };
                            page[at..at + 4].copy_from_slice(&minimum.to_le_bytes());
                        }
                    }
                }
            }
        }
        pools
    }

    pub(crate) fn expected_rows(&self, pools: &[Vec<u8>; 4]) -> [Vec<T>; 2] {
        let mut rows = self.sevens();
        let d = self.plan.shape().layout.shape().row_len as usize;
        for (at, part) in self.each_page() {
            let Some((entry, slots)) = self.page(at, part) else { continue };
            let page = find_page(&self.plan, pools, entry, PARTS[part]).unwrap();
            for (slot, start) in slots.iter().enumerate() {
                let Some(start) = start else { continue };
                let row: Vec<T> = if page.tier().is_coded() {
                    let row = page.dequantize::<T>(slot, &self.channels(at, part));
                    row.into_iter().map(Real::from_f32).collect()
                } else {
                    let bytes = &page.bytes()[2 * slot * d..2 * (slot + 1) * d];
                    bytes.chunks(2).map(bytemuck::pod_read_unaligned).collect()
                };
                rows[part][*start..start + d].copy_from_slice(&row);
            }
        }
        rows
    }

    /// Lists that name each row once at most, so that no row is written twice.
    pub(crate) fn without_repeats(mut self) -> Self {
        let n = (64 * self.plan.shape().n_pages as usize).max(1);
        for list in self.indices.chunks_mut(n) {
            for (i, index) in list.iter_mut().enumerate() {
                *index = if i % 9 == 4 { -1 } else { (n - 1 - i) as i32 };
            }
        }
        self
    }
}
