//! What the problems of the room share: paged caches, lists of their rows, pages, and numbers to put there.

use std::ops::Range;

use lacuna::element::Real;
use lacuna::kv::{KvLayout, KvShape, KvView, KvViewMut};
use lacuna::quant::reference::Channels;
use lacuna::quant::{ChannelViews, EntryTable, MissingPage, Page, PagesPlan, Part, Tier};
use lacuna::{Buffer, Element, Error, Queue};

use crate::common::Random;

pub(crate) const PARTS: [Part; 2] = [Part::Keys, Part::Values];
/// What is in pools before.
pub(crate) const POISON: u8 = 0xA5;
const WILD: [f32; 6] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, -0.0];

/// Pages of a table that has the longest request's rows.
pub(crate) fn pages_for(lengths: &[u32], page_size: u64) -> u64 {
    u64::from(lengths.iter().max().copied().unwrap_or(0)).div_ceil(page_size)
}

/// A layout whose pool has a page more than all its tables.
pub(crate) fn layout_of(
    [batch, n_heads, row_len, page_size]: [u64; 4],
    table_stride: u64,
    is_hnd: bool,
) -> Result<KvLayout, Error> {
    let n_pages = table_stride * batch + 1;
    let shape =
        KvShape { batch, n_heads, row_len, n_pages, page_size, table_stride, ..KvShape::default() };
    KvLayout::new(if is_hnd { shape.hnd() } else { shape.nhd() })
}

pub(crate) fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for i in (1..items.len()).rev() {
        items.swap(i, random.next() as usize % (i + 1));
    }
}

/// Each page once.
pub(crate) fn shuffled_table(layout: &KvLayout, random: &mut Random) -> Vec<i32> {
    let mut page_table: Vec<i32> = (0..layout.table_len() as i32).collect();
    shuffle(&mut page_table, random);
    page_table
}

/// Every `step`-th item becomes that of `by` whose turn its place is.
pub(crate) fn scatter<'a, T: Copy + 'a>(
    items: impl IntoIterator<Item = &'a mut T>,
    step: usize,
    by: &[T],
) {
    for (i, item) in items.into_iter().enumerate().step_by(step) {
        *item = by[i % by.len()];
    }
}

/// Some of them large.
pub(crate) fn numbers<T: Real>(n: u64, random: &mut Random) -> Vec<T> {
    let number = |_| {
        let size = if random.next().is_multiple_of(29) { 20.0 } else { 1.0 };
        T::from_f32(random.normal() * size + 0.5)
    };
    (0..n).map(number).collect()
}

pub(crate) fn scatter_wild_numbers<T: Real>(numbers: &mut [T]) {
    scatter(numbers, 83, &WILD.map(T::from_f32));
}

/// What slots of lists name, of `n_rows` rows, and here and there none; and how many slots of each list count.
pub(crate) fn any_lists(
    plan: &PagesPlan,
    n_rows: u64,
    has_counts: bool,
    random: &mut Random,
) -> (Vec<i32>, Option<Vec<u32>>) {
    let mut index = |_| {
        if random.next().is_multiple_of(11) { -1 } else { (random.next() % n_rows) as i32 }
    };
    let indices = (0..plan.indices_len()).map(&mut index).collect();
    let n = 64 * plan.shape().n_pages + 1;
    let counts = (0..plan.n_lists()).map(|_| (random.next() % n) as u32);
    (indices, has_counts.then(|| counts.collect()))
}

/// Here and there an index of no row, where there are `n_rows`.
pub(crate) fn scatter_wild_indices(indices: &mut [i32], n_rows: u64) {
    scatter(indices, 7, &[i32::MIN, i32::MAX, n_rows as i32, 1 << 26, 1 << 30]);
}

/// The list of a request's head.
pub(crate) fn list_of(plan: &PagesPlan, [b, head]: [usize; 2]) -> usize {
    let n_lists = plan.shape().lists.per_request(&plan.shape().layout) as usize;
    if n_lists == 1 { b } else { b * n_lists + head }
}

/// A paged cache: keys and values.
#[derive(Debug, Clone)]
pub(crate) struct Cache<T> {
    pub(crate) layout: KvLayout,
    pub(crate) rows: [Vec<T>; 2],
    pub(crate) page_table: Vec<i32>,
    pub(crate) lengths: Vec<u32>,
}

impl<T: Element> Cache<T> {
    /// Where a row begins, if it is there.
    pub(crate) fn locate(&self, [b, head]: [usize; 2], row: u64) -> Option<usize> {
        let is_row = row < self.layout.rows_of(self.lengths[b].into());
        is_row.then(|| self.layout.locate(&self.page_table, b as u64, row, head as u64)).flatten()
    }

    pub(crate) fn row(&self, head: [usize; 2], row: u64, part: usize) -> Option<&[T]> {
        let start = self.locate(head, row)?;
        Some(&self.rows[part][start..start + self.layout.shape().row_len as usize])
    }

    /// Numbers of no page, and a length past the table.
    pub(crate) fn make_wild(&mut self) {
        self.page_table[0] = -1;
        *self.page_table.last_mut().unwrap() = i32::MAX;
        self.lengths[0] = u32::MAX;
    }

    pub(crate) fn upload(&self, queue: &Queue) -> Result<CacheBuffers<T>, Error> {
        Ok(CacheBuffers {
            layout: self.layout,
            rows: upload_both(queue, &self.rows)?,
            page_table: queue.upload(&self.page_table)?,
            lengths: queue.upload(&self.lengths)?,
        })
    }
}

/// A cache in a queue's memory.
pub(crate) struct CacheBuffers<T> {
    layout: KvLayout,
    rows: [Buffer<T>; 2],
    page_table: Buffer<i32>,
    lengths: Buffer<u32>,
}

impl<T: Element> CacheBuffers<T> {
    pub(crate) fn view(&self) -> KvView<'_, T> {
        KvView {
            layout: self.layout,
            keys: self.rows[0].view(),
            values: Some(self.rows[1].view()),
            page_table: self.page_table.view(),
            lengths: self.lengths.view(),
            key_scale: 1.0,
            value_scale: 1.0,
        }
    }

    pub(crate) fn view_mut(&mut self) -> KvViewMut<'_, T> {
        let [keys, values] = &mut self.rows;
        KvViewMut {
            layout: self.layout,
            keys: keys.view_mut(),
            values: Some(values.view_mut()),
            page_table: self.page_table.view(),
            lengths: self.lengths.view(),
        }
    }

    pub(crate) fn download(&self, queue: &Queue) -> Result<[Vec<T>; 2], Error> {
        let [keys, values] = &self.rows;
        Ok([queue.download(&keys.view())?, queue.download(&values.view())?])
    }
}

pub(crate) fn upload_both<E: Element>(
    queue: &Queue,
    [keys, values]: &[Vec<E>; 2],
) -> Result<[Buffer<E>; 2], Error> {
    Ok([queue.upload(keys)?, queue.upload(values)?])
}

/// What is there, if it is.
pub(crate) fn upload_some<E: Element>(
    queue: &Queue,
    elements: Option<&Vec<E>>,
) -> Result<Option<Buffer<E>>, Error> {
    elements.map(|elements| queue.upload(elements)).transpose()
}

/// Scales and offsets of channels: of keys and of values.
#[derive(Debug, Clone)]
pub(crate) struct HostChannels {
    pub(crate) scales: [Option<Vec<f32>>; 2],
    pub(crate) offsets: [Option<Vec<f32>>; 2],
}

impl HostChannels {
    pub(crate) fn any(n: u64, [has_scales, has_offsets]: [bool; 2], random: &mut Random) -> Self {
        let mut floats = |is_there: bool, float: fn(&mut Random) -> f32| {
            PARTS.map(|_| is_there.then(|| (0..n).map(|_| float(random)).collect()))
        };
        Self {
            scales: floats(has_scales, |random| 0.25 + (random.next() % 997) as f32 / 300.0),
            offsets: floats(has_offsets, Random::normal),
        }
    }

    pub(crate) fn scatter_wild_scales(&mut self) {
        for scales in self.scales.iter_mut().flatten() {
            scatter(scales, 13, &[0.0, f32::NAN, f32::INFINITY, -1.0, 1e-40]);
        }
    }

    /// Those of the `at`-th `d` channels.
    pub(crate) fn of(&self, at: usize, d: usize, part: usize) -> Channels<'_> {
        let own = at * d..(at + 1) * d;
        Channels {
            scales: self.scales[part].as_ref().map(|all| &all[own.clone()]),
            offsets: self.offsets[part].as_ref().map(|all| &all[own]),
        }
    }

    pub(crate) fn upload(&self, queue: &Queue) -> Result<ChannelBuffers, Error> {
        let floats = |[keys, values]: &[Option<Vec<f32>>; 2]| -> Result<_, Error> {
            Ok([upload_some(queue, keys.as_ref())?, upload_some(queue, values.as_ref())?])
        };
        Ok(ChannelBuffers { scales: floats(&self.scales)?, offsets: floats(&self.offsets)? })
    }
}

/// Scales and offsets in a queue's memory.
pub(crate) struct ChannelBuffers {
    scales: [Option<Buffer<f32>>; 2],
    offsets: [Option<Buffer<f32>>; 2],
}

impl ChannelBuffers {
    pub(crate) fn views(&self, part: usize) -> ChannelViews<'_> {
        ChannelViews {
            scales: self.scales[part].as_ref().map(Buffer::view),
            offsets: self.offsets[part].as_ref().map(Buffer::view),
        }
    }
}

/// Entries of pages of these tiers by turns, each page once, from those that are taken on.
pub(crate) fn entries_of(
    tiers: &[Tier],
    n: u64,
    free: &mut [u32; 4],
    random: &mut Random,
) -> Vec<u32> {
    let mut turn = 0;
    let next = |_| {
        let tier = tiers[turn % tiers.len()];
        turn += 1 + random.next() as usize % 2;
        let at = tier.tag() as usize;
        free[at] += 1;
        tier.tag() << 30 | (free[at] - 1)
    };
    (0..n).map(next).collect()
}

/// Whether an entry's page is one of its tier's pool.
pub(crate) fn is_page(plan: &PagesPlan, entry: u32) -> bool {
    u64::from(entry & 0x3FFF_FFFF) < plan.shape().n_pool_pages[(entry >> 30) as usize]
}

/// Of entry `at` of a table: 0, or what a launch says of one whose page is not there.
pub(crate) fn status_of(plan: &PagesPlan, entry: u32, at: usize, table: EntryTable) -> u64 {
    if is_page(plan, entry) || entry & MissingPage::NONE == MissingPage::NONE {
        return 0;
    }
    u64::from(u32::MAX - at as u32) << 32 | table as u64
}

fn bytes_of(entry: u32, n: usize) -> Range<usize> {
    let number = (entry & 0x3FFF_FFFF) as usize;
    number * n..(number + 1) * n
}

/// The page of an entry, if there is one.
pub(crate) fn find_page(
    plan: &PagesPlan,
    pools: &[Vec<u8>; 4],
    entry: u32,
    part: Part,
) -> Option<Page> {
    let (shape, tier) = (plan.page(part), Tier::of_entry(entry));
    is_page(plan, entry).then(|| {
        let own = bytes_of(entry, shape.page_bytes(tier));
        let bytes = pools[tier.tag() as usize][own].to_vec();
        Page::from_bytes(shape, tier, bytes).unwrap()
    })
}

pub(crate) fn put_page(pools: &mut [Vec<u8>; 4], entry: u32, page: &Page) {
    let own = bytes_of(entry, page.bytes().len());
    pools[page.tier().tag() as usize][own].copy_from_slice(page.bytes());
}
