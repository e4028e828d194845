//! Caches, lists and pages, and what they must become.

use lacuna::element::{Half, Real};
use lacuna::kv::{KvLayout, KvLists, KvShape, KvView, KvViewMut};
use lacuna::quant::reference::Channels;
use lacuna::quant::{
    ChannelViews, Page, PageLists, PagesPlan, PagesShape, Part, Tail, Tier, TierPools,
    TierPoolsMut, dequantize_pages, quantize_pages,
};
use lacuna::{Buffer, Error, Queue, View};

use crate::common::Random;

/// What is there before.
pub(crate) const POISON: u8 = 0xA5;
const PARTS: [Part; 2] = [Part::Keys, Part::Values];

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
    /// Keys and values.
    pub(crate) rows: [Vec<T>; 2],
    pub(crate) page_table: Vec<i32>,
    pub(crate) lengths: Vec<u32>,
    pub(crate) indices: Vec<i32>,
    pub(crate) counts: Option<Vec<u32>>,
    /// Of keys and of values.
    pub(crate) entries: [Vec<u32>; 2],
    pub(crate) scales: [Option<Vec<f32>>; 2],
    pub(crate) offsets: [Option<Vec<f32>>; 2],
}

impl Case {
    pub(crate) fn plan(&self) -> Result<PagesPlan, Error> {
        let longest = self.lengths.iter().max().copied().unwrap_or(0);
        let batch = self.lengths.len() as u64;
        let table_stride = u64::from(longest).div_ceil(self.page_size) + 1;
        let shape = KvShape {
            batch,
            n_heads: self.n_heads,
            row_len: self.head_dim,
            n_pages: table_stride * batch + 1,
            page_size: self.page_size,
            table_stride,
            ..KvShape::default()
        };
        let layout = KvLayout::new(if self.is_hnd { shape.hnd() } else { shape.nhd() })?;
        // In the worst case all pages are of one tier; the pools are of different lengths.
        let n = 2 * batch * self.n_heads * self.n_pages;
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
        let mut page_table: Vec<i32> = (0..layout.table_len() as i32).collect();
        for i in (1..page_table.len()).rev() {
            page_table.swap(i, random.next() as usize % (i + 1));
        }
        let number = |random: &mut Random| {
            let size = if random.next().is_multiple_of(29) { 20.0 } else { 1.0 };
            T::from_f32(random.normal() * size + 0.5)
        };
        let mut rows =
            PARTS.map(|_| (0..layout.pool_len()).map(|_| number(&mut random)).collect::<Vec<_>>());
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
        let mut indices: Vec<i32> = (0..plan.indices_len())
            .map(|_| {
                if random.next().is_multiple_of(11) { -1 } else { (random.next() % n_rows) as i32 }
            })
            .collect();
        let counts = self.has_counts.then(|| {
            let n = 64 * self.n_pages + 1;
            (0..plan.n_lists()).map(|_| (random.next() % n) as u32).collect::<Vec<_>>()
        });
        let mut free = [0; 4];
        let mut turn = 0;
        let mut entries = PARTS.map(|_| {
            (0..plan.entries_len())
                .map(|_| {
                    let tier = self.tiers[turn % self.tiers.len()];
                    turn += 1 + random.next() as usize % 2;
                    let at = tier.tag() as usize;
                    free[at] += 1;
                    tier.tag() << 30 | (free[at] - 1)
                })
                .collect::<Vec<u32>>()
        });
        let mut lengths = self.lengths.clone();
        if self.is_hostile {
            page_table[0] = -1;
            *page_table.last_mut().unwrap() = i32::MAX;
            lengths[0] = u32::MAX;
            for (i, index) in indices.iter_mut().enumerate().step_by(7) {
                *index = [i32::MIN, i32::MAX, n_rows as i32, 1 << 26, 1 << 30][i % 5];
            }
            for (i, entry) in entries.iter_mut().flatten().step_by(2).enumerate() {
                let past = plan.shape().n_pool_pages[(*entry >> 30) as usize] as u32;
                *entry =
                    *entry >> 30 << 30 | [0x3FFF_FFFF, 0x2000_0000, past, *entry & 0xFFFF][i % 4];
            }
            for rows in &mut rows {
                let hostile = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, -0.0];
                for (i, element) in rows.iter_mut().enumerate().step_by(83) {
                    *element = T::from_f32(hostile[i % 6]);
                }
            }
        }
        let n_channels = plan.channels_len();
        let mut scales = PARTS.map(|_| {
            let scale = |random: &mut Random| 0.25 + (random.next() % 997) as f32 / 300.0;
            self.has_scales.then(|| (0..n_channels).map(|_| scale(&mut random)).collect::<Vec<_>>())
        });
        let mut offsets = PARTS.map(|_| {
            self.has_offsets.then(|| (0..n_channels).map(|_| random.normal()).collect::<Vec<_>>())
        });
        if self.is_hostile {
            for scales in scales.iter_mut().flatten() {
                for (i, scale) in scales.iter_mut().enumerate().step_by(13) {
                    *scale = [0.0, f32::NAN, f32::INFINITY, -1.0, 1e-40][i % 5];
                }
            }
            for offsets in offsets.iter_mut().flatten() {
                for (i, offset) in offsets.iter_mut().enumerate().step_by(17) {
                    *offset = [-0.0, f32::NAN, f32::NEG_INFINITY, -1e38, 1e-42][i % 5];
                }
            }
        }
        Problem { plan, rows, page_table, lengths, indices, counts, entries, scales, offsets }
    }
}

/// Lists in a queue's memory.
struct Lists {
    indices: Buffer<i32>,
    counts: Option<Buffer<u32>>,
    entries: [Buffer<u32>; 2],
    scales: [Option<Buffer<f32>>; 2],
    offsets: [Option<Buffer<f32>>; 2],
    page_table: Buffer<i32>,
    lengths: Buffer<u32>,
}

impl Lists {
    fn views(&self) -> PageLists<'_> {
        let channels = |part: usize| ChannelViews {
            scales: self.scales[part].as_ref().map(Buffer::view),
            offsets: self.offsets[part].as_ref().map(Buffer::view),
        };
        PageLists {
            indices: self.indices.view(),
            counts: self.counts.as_ref().map(Buffer::view),
            key_entries: self.entries[0].view(),
            value_entries: self.entries[1].view(),
            key_channels: channels(0),
            value_channels: channels(1),
        }
    }
}

impl<T: Half + Real> Problem<T> {
    fn upload(&self, queue: &Queue) -> Result<Lists, Error> {
        let floats = |all: &[Option<Vec<f32>>; 2]| -> Result<[Option<Buffer<f32>>; 2], Error> {
            let [keys, values] = [0, 1]
                .map(|part| all[part].as_ref().map(|floats| queue.upload(floats)).transpose());
            Ok([keys?, values?])
        };
        Ok(Lists {
            indices: queue.upload(&self.indices)?,
            counts: self.counts.as_ref().map(|counts| queue.upload(counts)).transpose()?,
            entries: [queue.upload(&self.entries[0])?, queue.upload(&self.entries[1])?],
            scales: floats(&self.scales)?,
            offsets: floats(&self.offsets)?,
            page_table: queue.upload(&self.page_table)?,
            lengths: queue.upload(&self.lengths)?,
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
        let lists = self.upload(queue)?;
        let [keys, values] = [queue.upload(&self.rows[0])?, queue.upload(&self.rows[1])?];
        let source: KvView<'_, T> = KvView {
            layout: self.plan.shape().layout,
            keys: keys.view(),
            values: Some(values.view()),
            page_table: lists.page_table.view(),
            lengths: lists.lengths.view(),
            key_scale: 1.0,
            value_scale: 1.0,
        };
        let mut pools = self.poisoned().map(|pool| queue.upload(&pool).unwrap());
        let mut targets = TierPoolsMut {
            pools: pools.each_mut().map(|pool| Some(pool.view_mut())),
            status: None,
        };
        quantize_pages(queue, &self.plan, &source, &lists.views(), &mut targets)?;
        Ok(pools.each_ref().map(|pool| queue.download(&pool.view()).unwrap()))
    }

    /// The rows as a launch over pools leaves them, which were 7 before.
    pub(crate) fn dequantize(
        &self,
        queue: &Queue,
        pools: &[Vec<u8>; 4],
    ) -> Result<[Vec<T>; 2], Error> {
        let lists = self.upload(queue)?;
        let mut rows = [0, 1]
            .map(|part| queue.upload(&vec![T::from_f32(7.0); self.rows[part].len()]).unwrap());
        let [keys, values] = &mut rows;
        let mut target = KvViewMut {
            layout: self.plan.shape().layout,
            keys: keys.view_mut(),
            values: Some(values.view_mut()),
            page_table: lists.page_table.view(),
            lengths: lists.lengths.view(),
        };
        let pools = pools.each_ref().map(|pool| queue.upload(pool).unwrap());
        let sources =
            TierPools { pools: pools.each_ref().map(|pool| Some(pool.view())), status: None };
        dequantize_pages(queue, &self.plan, &sources, &lists.views(), &mut target)?;
        Ok(rows.each_ref().map(|rows| queue.download(&View::clone(&rows.view())).unwrap()))
    }

    /// Of a page of a list: its entry's tier and number, if there is such a page, and where the rows of its slots begin.
    fn page(
        &self,
        [b, head, p]: [usize; 3],
        part: usize,
    ) -> Option<(Tier, usize, Vec<Option<usize>>)> {
        let shape = self.plan.shape();
        let layout = shape.layout;
        let n_lists = shape.lists.per_request(&layout) as usize;
        let list = if n_lists == 1 { b } else { b * n_lists + head };
        let n_pages = shape.n_pages as usize;
        let count = self.counts.as_ref().map_or(usize::MAX, |counts| counts[list] as usize);
        let count = count.min(64 * n_pages);
        if 64 * p >= count {
            return None;
        }
        let n_heads = layout.shape().n_heads as usize;
        let entry = self.entries[part][(b * n_heads + head) * n_pages + p];
        let tier = Tier::of_entry(entry);
        let number = (entry & 0x3FFF_FFFF) as usize;
        if number as u64 >= shape.n_pool_pages[tier.tag() as usize] {
            return None;
        }
        let slots = (0..64).map(|slot| {
            let at = 64 * p + slot;
            let row = u64::from(self.indices[list * 64 * n_pages + at] as u32);
            let is_row = at < count && row < layout.rows_of(self.lengths[b].into());
            is_row.then(|| layout.locate(&self.page_table, b as u64, row, head as u64)).flatten()
        });
        Some((tier, number, slots.collect()))
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
        let d = kv.row_len as usize;
        let span = p / self.plan.shape().span_pages as usize;
        let n_spans = self.plan.n_spans() as usize;
        let start = ((b * kv.n_heads as usize + head) * n_spans + span) * d;
        let of = |floats: &'_ Option<Vec<f32>>| -> Option<std::ops::Range<usize>> {
            floats.as_ref().map(|_| start..start + d)
        };
        Channels {
            scales: of(&self.scales[part]).map(|own| &self.scales[part].as_ref().unwrap()[own]),
            offsets: of(&self.offsets[part]).map(|own| &self.offsets[part].as_ref().unwrap()[own]),
        }
    }

    pub(crate) fn expected_pools(&self) -> [Vec<u8>; 4] {
        let mut pools = self.poisoned();
        let d = self.plan.shape().layout.shape().row_len as usize;
        for (at, part) in self.each_page() {
            let Some((tier, number, slots)) = self.page(at, part) else { continue };
            let rows =
                slots.iter().map(|slot| slot.map(|start| &self.rows[part][start..start + d]));
            let shape = self.plan.page(PARTS[part]);
            let page = Page::quantize(shape, tier, rows, &self.channels(at, part)).unwrap();
            let n = page.bytes().len();
            pools[tier.tag() as usize][number * n..][..n].copy_from_slice(page.bytes());
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
        let mut rows = [0, 1].map(|part| vec![T::from_f32(7.0); self.rows[part].len()]);
        let d = self.plan.shape().layout.shape().row_len as usize;
        for (at, part) in self.each_page() {
            let Some((tier, number, slots)) = self.page(at, part) else { continue };
            let shape = self.plan.page(PARTS[part]);
            let n = shape.page_bytes(tier);
            let bytes = pools[tier.tag() as usize][number * n..][..n].to_vec();
            let page = Page::from_bytes(shape, tier, bytes).unwrap();
            for (slot, start) in slots.iter().enumerate() {
                let Some(start) = start else { continue };
                let row: Vec<T> = if tier.is_coded() {
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
