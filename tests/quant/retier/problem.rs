//! Old pages and what waits, lists, and what must become of them.

use lacuna::element::{Half, Real};
use lacuna::kv::{KvLayout, KvLists, KvShape, KvView};
use lacuna::quant::reference::{Channels, Token, retier_page};
use lacuna::quant::{
    ChannelViews, Page, PagesShape, Part, RetierInputs, RetierOutputs, RetierPlan, RetierShape,
    Tier, TierPoolsMut, retier_pages,
};
use lacuna::{Buffer, Error, Queue};

use crate::common::Random;

const POISON: u8 = 0xA5;
/// Of slots that no list names.
pub(crate) const LEFT: i32 = -77;
pub(crate) const PARTS: [Part; 2] = [Part::Keys, Part::Values];

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
    /// Of a run.
    pub(crate) n_pages: u64,
    pub(crate) n_runs: u64,
    pub(crate) n_old_pages: u64,
    pub(crate) has_counts: bool,
    pub(crate) has_first_pages: bool,
    pub(crate) has_scales: bool,
    pub(crate) has_offsets: bool,
    pub(crate) has_cache: bool,
    /// Of old pages by turns, and of new ones.
    pub(crate) from: Vec<Tier>,
    pub(crate) to: Vec<Tier>,
    /// Wild lists, slots, entries, numbers and page tables.
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
            n_pages: 2,
            n_runs: 2,
            n_old_pages: 3,
            has_counts: true,
            has_first_pages: true,
            has_scales: true,
            has_offsets: true,
            has_cache: true,
            from: Tier::ALL.to_vec(),
            to: Tier::ALL.to_vec(),
            is_hostile: false,
        }
    }
}

/// All that a launch takes.
#[derive(Debug, Clone)]
pub(crate) struct Problem<T> {
    pub(crate) plan: RetierPlan,
    pub(crate) has_cache: bool,
    /// Keys and values.
    pub(crate) rows: [Vec<T>; 2],
    pub(crate) page_table: Vec<i32>,
    pub(crate) lengths: Vec<u32>,
    pub(crate) slot_of: Vec<i32>,
    pub(crate) old_entries: [Vec<u32>; 2],
    pub(crate) indices: Vec<i32>,
    pub(crate) counts: Option<Vec<u32>>,
    pub(crate) first_pages: Option<Vec<u32>>,
    pub(crate) entries: [Vec<u32>; 2],
    pub(crate) scales: [Option<Vec<f32>>; 2],
    pub(crate) offsets: [Option<Vec<f32>>; 2],
    /// Old pages, and then poison.
    pub(crate) pools: [Vec<u8>; 4],
}

/// What a launch leaves: pools, and slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) pools: [Vec<u8>; 4],
    pub(crate) new_slots: Vec<i32>,
}

fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for i in (1..items.len()).rev() {
        items.swap(i, random.next() as usize % (i + 1));
    }
}

/// Entries of pages of these tiers by turns, each page once, from those that are taken on.
fn entries_of(tiers: &[Tier], n: u64, free: &mut [u32; 4], random: &mut Random) -> Vec<u32> {
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

impl Case {
    fn layout(&self) -> Result<KvLayout, Error> {
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
        KvLayout::new(if self.is_hnd { shape.hnd() } else { shape.nhd() })
    }

    /// Some positions are past the cache's rows.
    pub(crate) fn shape(&self, n_pool_pages: [u64; 4]) -> Result<RetierShape, Error> {
        let (layout, lists) = (self.layout()?, self.lists);
        let pages = PagesShape { lists, n_pool_pages, ..PagesShape::of(layout, self.n_pages) };
        Ok(RetierShape {
            pages,
            n_runs: self.n_runs,
            n_old_pages: self.n_old_pages,
            n_new_pages: self.n_runs * self.n_pages + u64::from(self.has_first_pages),
            n_positions: layout.n_rows() + 20,
        })
    }

    pub(crate) fn build<T: Half + Real>(&self) -> Problem<T> {
        let mut random = Random(self.seed);
        let plan = RetierPlan::new(self.shape([0; 4]).unwrap()).unwrap();
        let mut free = [0; 4];
        let [n_old, n_new] = [plan.old_entries_len(), plan.new_entries_len()];
        let mut old_entries = PARTS.map(|_| entries_of(&self.from, n_old, &mut free, &mut random));
        let taken = free;
        let mut entries = PARTS.map(|_| entries_of(&self.to, n_new, &mut free, &mut random));
        // The pools are of different lengths.
        let n_pool_pages = [0, 1, 2, 3].map(|at| u64::from(free[at]) + at as u64);
        let plan = RetierPlan::new(self.shape(n_pool_pages).unwrap()).unwrap();
        let layout = self.layout().unwrap();
        let d = self.head_dim as usize;

        let number = |random: &mut Random| {
            let size = if random.next().is_multiple_of(29) { 20.0 } else { 1.0 };
            T::from_f32(random.normal() * size + 0.5)
        };
        let hostile = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, -0.0];
        let numbers = |n: u64, random: &mut Random| -> Vec<T> {
            let mut numbers: Vec<T> = (0..n).map(|_| number(random)).collect();
            if self.is_hostile {
                for (i, element) in numbers.iter_mut().enumerate().step_by(83) {
                    *element = T::from_f32(hostile[i % 6]);
                }
            }
            numbers
        };
        let rows = PARTS.map(|_| numbers(layout.pool_len(), &mut random));
        let pools = Tier::ALL.map(|tier| {
            let at = tier.tag() as usize;
            let n_bytes = plan.pages().page(Part::Keys).page_bytes(tier);
            let mut pool: Vec<u8> = if tier.is_coded() {
                let byte = |_| random.next() as u8;
                (0..taken[at] as usize * n_bytes).map(byte).collect()
            } else {
                let numbers = numbers(u64::from(taken[at]) * 64 * self.head_dim, &mut random);
                bytemuck::cast_slice(&numbers).to_vec()
            };
            for page in pool.chunks_mut(n_bytes).take_while(|_| tier.is_coded()) {
                let tail = page.len() - 256;
                for token in 0..64 {
                    let mut step = half::bf16::from_f32(0.01 + random.normal().abs());
                    let mut zero = (random.next() % 256) as i16 - 40;
                    if self.is_hostile && token % 9 == 2 {
                        let wild = [0x7F80, 0x7FC1, 0xFF80, 0x7F7F, 0xC000, 0, 0x8000, 1];
                        step = half::bf16::from_bits(wild[random.next() as usize % 8]);
                        zero = [i16::MIN, i16::MAX, zero][random.next() as usize % 3];
                    }
                    page[tail + 2 * token..][..2].copy_from_slice(&step.to_le_bytes());
                    page[tail + 128 + 2 * token..][..2].copy_from_slice(&zero.to_le_bytes());
                }
            }
            pool.resize(plan.pages().pool_bytes(tier) as usize, POISON);
            (at, pool)
        });
        let mut by_tag = [const { Vec::new() }; 4];
        pools.into_iter().for_each(|(at, pool)| by_tag[at] = pool);

        let mut page_table: Vec<i32> = (0..layout.table_len() as i32).collect();
        shuffle(&mut page_table, &mut random);
        let n_positions = plan.shape().n_positions as usize;
        let mut slot_of = Vec::new();
        for _ in 0..plan.old_entries_len() / self.n_old_pages.max(1) {
            let mut slots: Vec<i32> = (0..64 * self.n_old_pages as i32).collect();
            shuffle(&mut slots, &mut random);
            // Some wait, and some are where others are.
            slot_of.extend((0..n_positions).map(|i| match random.next() % 12 {
                0 | 1 => -1,
                2 => slots.first().copied().unwrap_or(-1),
                _ => slots.get(i).copied().unwrap_or(-1),
            }));
        }
        slot_of.resize(plan.slots_len() as usize, -1);

        // Each position once in a list, so that no slot is written twice.
        let n_of_run = 64 * self.n_pages as usize;
        let mut indices = Vec::new();
        for _ in 0..plan.pages().n_lists() {
            let mut positions: Vec<i32> = (0..n_positions as i32).collect();
            shuffle(&mut positions, &mut random);
            positions.resize(self.n_runs as usize * n_of_run, -1);
            for index in positions.iter_mut().step_by(11) {
                *index = -1;
            }
            indices.append(&mut positions);
        }
        let n_runs = plan.runs_len() as usize;
        let counts = self
            .has_counts
            .then(|| (0..n_runs).map(|_| (random.next() % (n_of_run as u64 + 1)) as u32).collect());
        // Runs without gaps, after a page that stays.
        let first_pages = self.has_first_pages.then(|| {
            let counts: Option<&Vec<u32>> = counts.as_ref();
            let mut firsts = Vec::new();
            for run in 0..n_runs {
                if run % self.n_runs as usize == 0 {
                    firsts.push(1);
                } else {
                    let count = counts.map_or(n_of_run as u32, |counts| counts[run - 1]);
                    firsts.push(firsts[run - 1] + count.div_ceil(64));
                }
            }
            firsts
        });

        let mut lengths = self.lengths.clone();
        let n_channels = plan.pages().channels_len();
        let mut scales = PARTS.map(|_| {
            let scale = |random: &mut Random| 0.25 + (random.next() % 997) as f32 / 300.0;
            self.has_scales.then(|| (0..n_channels).map(|_| scale(&mut random)).collect::<Vec<_>>())
        });
        let offsets = PARTS
            .map(|_| self.has_offsets.then(|| (0..n_channels).map(|_| random.normal()).collect()));
        if self.is_hostile {
            page_table[0] = -1;
            *page_table.last_mut().unwrap() = i32::MAX;
            lengths[0] = u32::MAX;
            for (i, index) in indices.iter_mut().enumerate().step_by(7) {
                *index = [i32::MIN, i32::MAX, n_positions as i32, 1 << 26, 1 << 30][i % 5];
            }
            let past = 64 * self.n_old_pages as i32;
            for (i, slot) in slot_of.iter_mut().enumerate().step_by(5) {
                *slot = [i32::MIN, i32::MAX, past, past - 1, 1 << 30][i / 5 % 5];
            }
            let n_pool = plan.shape().pages.n_pool_pages;
            for (i, entry) in old_entries.iter_mut().flatten().step_by(3).enumerate() {
                let at = (*entry >> 30) as usize;
                let number = [0x3FFF_FFFF, n_pool[at] as u32, 0, 0x2000_0000][i % 4];
                // The first page of a pool without old ones is a new one.
                let is_new = number == 0 && taken[at] == 0;
                *entry = *entry >> 30 << 30 | if is_new { 0x3FFF_FFFF } else { number };
            }
            for (i, entry) in entries.iter_mut().flatten().step_by(5).enumerate() {
                let number = [0x3FFF_FFFF, n_pool[(*entry >> 30) as usize] as u32][i % 2];
                *entry = *entry >> 30 << 30 | number;
            }
            for scales in scales.iter_mut().flatten() {
                for (i, scale) in scales.iter_mut().enumerate().step_by(13) {
                    *scale = [0.0, f32::NAN, f32::INFINITY, -1.0, 1e-40][i % 5];
                }
            }
        }
        debug_assert_eq!(rows[0].len() % d, 0);
        Problem {
            plan,
            has_cache: self.has_cache,
            rows,
            page_table,
            lengths,
            slot_of,
            old_entries,
            indices,
            counts,
            first_pages,
            entries,
            scales,
            offsets,
            pools: by_tag,
        }
    }
}

/// The page of an entry, if there is one.
pub(crate) fn find_page(
    plan: &RetierPlan,
    pools: &[Vec<u8>; 4],
    entry: u32,
    part: Part,
) -> Option<Page> {
    let (tier, number) = (Tier::of_entry(entry), u64::from(entry & 0x3FFF_FFFF));
    let at = tier.tag() as usize;
    let shape = plan.pages().page(part);
    let n = shape.page_bytes(tier);
    (number < plan.shape().pages.n_pool_pages[at]).then(|| {
        let bytes = pools[at][number as usize * n..][..n].to_vec();
        Page::from_bytes(shape, tier, bytes).unwrap()
    })
}

impl<T: Half + Real> Problem<T> {
    /// What a launch leaves.
    pub(crate) fn run(&self, queue: &Queue) -> Result<Found, Error> {
        let pair = |all: &[Vec<u32>; 2]| -> Result<[Buffer<u32>; 2], Error> {
            Ok([queue.upload(&all[0])?, queue.upload(&all[1])?])
        };
        let floats = |all: &[Option<Vec<f32>>; 2]| -> Result<[Option<Buffer<f32>>; 2], Error> {
            let [keys, values] = [0, 1]
                .map(|part| all[part].as_ref().map(|floats| queue.upload(floats)).transpose());
            Ok([keys?, values?])
        };
        let words =
            |words: &Option<Vec<u32>>| words.as_ref().map(|words| queue.upload(words)).transpose();
        let [keys, values] = [queue.upload(&self.rows[0])?, queue.upload(&self.rows[1])?];
        let (page_table, lengths) = (queue.upload(&self.page_table)?, queue.upload(&self.lengths)?);
        let (slot_of, indices) = (queue.upload(&self.slot_of)?, queue.upload(&self.indices)?);
        let (counts, first_pages) = (words(&self.counts)?, words(&self.first_pages)?);
        let (old, new) = (pair(&self.old_entries)?, pair(&self.entries)?);
        let (scales, offsets) = (floats(&self.scales)?, floats(&self.offsets)?);
        let channels = |part: usize| ChannelViews {
            scales: scales[part].as_ref().map(Buffer::view),
            offsets: offsets[part].as_ref().map(Buffer::view),
        };
        let cache: KvView<'_, T> = KvView {
            layout: self.plan.shape().pages.layout,
            keys: keys.view(),
            values: Some(values.view()),
            page_table: page_table.view(),
            lengths: lengths.view(),
            key_scale: 1.0,
            value_scale: 1.0,
        };
        let inputs = RetierInputs {
            cache: self.has_cache.then_some(cache),
            slot_of: slot_of.view(),
            old_key_entries: old[0].view(),
            old_value_entries: old[1].view(),
            indices: indices.view(),
            counts: counts.as_ref().map(Buffer::view),
            first_pages: first_pages.as_ref().map(Buffer::view),
            key_entries: new[0].view(),
            value_entries: new[1].view(),
            key_channels: channels(0),
            value_channels: channels(1),
        };
        let mut pools = self.pools.each_ref().map(|pool| queue.upload(pool).unwrap());
        let mut new_slots = queue.upload(&vec![LEFT; self.plan.slots_len() as usize])?;
        let of_tiers = TierPoolsMut {
            pools: pools.each_mut().map(|pool| Some(pool.view_mut())),
            status: None,
        };
        let mut outputs = RetierOutputs { pools: of_tiers, new_slots: new_slots.view_mut() };
        retier_pages(queue, &self.plan, &inputs, &mut outputs)?;
        Ok(Found {
            pools: pools.each_ref().map(|pool| queue.download(&pool.view()).unwrap()),
            new_slots: queue.download(&new_slots.view())?,
        })
    }

    fn channels(&self, of_head: usize, part: usize) -> Channels<'_> {
        let d = self.plan.shape().pages.layout.shape().row_len as usize;
        let own = of_head * d..(of_head + 1) * d;
        Channels {
            scales: self.scales[part].as_ref().map(|all| &all[own.clone()]),
            offsets: self.offsets[part].as_ref().map(|all| &all[own.clone()]),
        }
    }

    /// The row of a token that waits, if there is one.
    fn waiting(&self, b: usize, head: usize, position: usize, part: usize) -> Option<&[T]> {
        let layout = self.plan.shape().pages.layout;
        let is_row = (position as u64) < layout.rows_of(self.lengths[b].into());
        let start = (is_row && self.has_cache)
            .then(|| layout.locate(&self.page_table, b as u64, position as u64, head as u64))??;
        Some(&self.rows[part][start..start + layout.shape().row_len as usize])
    }

    pub(crate) fn expected(&self) -> Found {
        let shape = self.plan.shape();
        let kv = *shape.pages.layout.shape();
        let (batch, n_heads) = (kv.batch as usize, kv.n_heads as usize);
        let (n_runs, n_pages) = (shape.n_runs as usize, shape.pages.n_pages as usize);
        let n_lists = shape.pages.lists.per_request(&shape.pages.layout) as usize;
        let [n_old, n_new] = [shape.n_old_pages as usize, shape.n_new_pages as usize];
        let n_positions = shape.n_positions as usize;
        let mut pools = self.pools.clone();
        let mut new_slots = vec![LEFT; self.plan.slots_len() as usize];
        for of_head in 0..batch * n_heads {
            let (b, head) = (of_head / n_heads, of_head % n_heads);
            let list = if n_lists == 1 { b } else { b * n_lists + head };
            for run in 0..n_runs {
                let at = list * n_runs + run;
                let first = match &self.first_pages {
                    Some(first_pages) => first_pages[at] as usize,
                    None => run * n_pages,
                };
                let count = self.counts.as_ref().map_or(usize::MAX, |counts| counts[at] as usize);
                let indices = &self.indices[at * 64 * n_pages..][..64 * n_pages];
                let indices = &indices[..count.min(64 * n_pages)];
                for (p, indices) in indices.chunks(64).enumerate() {
                    let page = first + p;
                    if page >= n_new {
                        continue;
                    }
                    let positions: Vec<Option<usize>> = indices
                        .iter()
                        .map(|i| usize::try_from(*i).ok().filter(|i| *i < n_positions))
                        .collect();
                    for (slot, position) in positions.iter().enumerate() {
                        if let Some(position) = position {
                            new_slots[of_head * n_positions + position] = (64 * page + slot) as i32;
                        }
                    }
                    for (part, kind) in PARTS.into_iter().enumerate() {
                        let entry = self.entries[part][of_head * n_new + page];
                        if find_page(&self.plan, &self.pools, entry, kind).is_none() {
                            continue;
                        }
                        let old: Vec<Option<Page>> = (0..n_old)
                            .map(|p| self.old_entries[part][of_head * n_old + p])
                            .map(|entry| find_page(&self.plan, &self.pools, entry, kind))
                            .collect();
                        let tokens = positions.iter().map(|position| {
                            let position = (*position)?;
                            let slot = self.slot_of[of_head * n_positions + position];
                            let Ok(slot) = usize::try_from(slot) else {
                                return self.waiting(b, head, position, part).map(Token::Row);
                            };
                            let page = old.get(slot / 64)?.as_ref()?;
                            Some(Token::InPage(page, slot % 64))
                        });
                        let tier = Tier::of_entry(entry);
                        let page = retier_page(
                            self.plan.pages().page(kind),
                            tier,
                            tokens,
                            &self.channels(of_head, part),
                        )
                        .unwrap();
                        let n = page.bytes().len();
                        pools[tier.tag() as usize][(entry & 0x3FFF_FFFF) as usize * n..][..n]
                            .copy_from_slice(page.bytes());
                    }
                }
            }
        }
        Found { pools, new_slots }
    }
}
