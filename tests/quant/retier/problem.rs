//! Old pages and what waits, lists, and what must become of them.

use lacuna::element::{Half, Real};
use lacuna::kv::{KvLayout, KvLists};
use lacuna::quant::reference::{Token, retier_page};
use lacuna::quant::{
    EntryTable, Page, PagesShape, Part, RetierInputs, RetierOutputs, RetierPlan, RetierShape, Tier,
    TierPoolsMut, retier_pages,
};
use lacuna::{Buffer, Error, Queue};

use crate::cache::{
    Cache, HostChannels, PARTS, POISON, entries_of, find_page, is_page, layout_of, list_of,
    numbers, pages_for, put_page, scatter_wild_indices, scatter_wild_numbers, shuffle,
    shuffled_table, status_of, upload_both, upload_some,
};
use crate::common::Random;

const NEW: [EntryTable; 2] = [EntryTable::Keys, EntryTable::Values];
const OLD: [EntryTable; 2] = [EntryTable::OldKeys, EntryTable::OldValues];
/// Of slots that no list names.
pub(crate) const LEFT: i32 = -77;

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
    pub(crate) cache: Cache<T>,
    pub(crate) slot_of: Vec<i32>,
    pub(crate) old_entries: [Vec<u32>; 2],
    pub(crate) indices: Vec<i32>,
    pub(crate) counts: Option<Vec<u32>>,
    pub(crate) first_pages: Option<Vec<u32>>,
    pub(crate) entries: [Vec<u32>; 2],
    pub(crate) channels: HostChannels,
    /// Old pages, and then poison.
    pub(crate) pools: [Vec<u8>; 4],
}

/// What a launch leaves: pools, slots, and its status word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) pools: [Vec<u8>; 4],
    pub(crate) new_slots: Vec<i32>,
    pub(crate) status: u64,
}

impl Case {
    fn layout(&self) -> Result<KvLayout, Error> {
        let sizes = [self.lengths.len() as u64, self.n_heads, self.head_dim, self.page_size];
        let table_stride = pages_for(&self.lengths, self.page_size) + 1;
        layout_of(sizes, table_stride, self.is_hnd)
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
        let numbers = |n: u64, random: &mut Random| -> Vec<T> {
            let mut numbers = numbers(n, random);
            if self.is_hostile {
                scatter_wild_numbers(&mut numbers);
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

        let page_table = shuffled_table(&layout, &mut random);
        let mut cache = Cache { layout, rows, page_table, lengths: self.lengths.clone() };
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

        let has = [self.has_scales, self.has_offsets];
        let mut channels = HostChannels::any(plan.pages().channels_len(), has, &mut random);
        if self.is_hostile {
            cache.make_wild();
            scatter_wild_indices(&mut indices, n_positions as u64);
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
            channels.scatter_wild_scales();
        }
        debug_assert_eq!(cache.rows[0].len() % self.head_dim as usize, 0);
        Problem {
            plan,
            has_cache: self.has_cache,
            cache,
            slot_of,
            old_entries,
            indices,
            counts,
            first_pages,
            entries,
            channels,
            pools: by_tag,
        }
    }
}

impl<T: Half + Real> Problem<T> {
    /// What a launch leaves.
    pub(crate) fn run(&self, queue: &Queue) -> Result<Found, Error> {
        let cache = self.cache.upload(queue)?;
        let (slot_of, indices) = (queue.upload(&self.slot_of)?, queue.upload(&self.indices)?);
        let counts = upload_some(queue, self.counts.as_ref())?;
        let first_pages = upload_some(queue, self.first_pages.as_ref())?;
        let old = upload_both(queue, &self.old_entries)?;
        let new = upload_both(queue, &self.entries)?;
        let channels = self.channels.upload(queue)?;
        let inputs = RetierInputs {
            cache: self.has_cache.then(|| cache.view()),
            slot_of: slot_of.view(),
            old_key_entries: old[0].view(),
            old_value_entries: old[1].view(),
            indices: indices.view(),
            counts: counts.as_ref().map(Buffer::view),
            first_pages: first_pages.as_ref().map(Buffer::view),
            key_entries: new[0].view(),
            value_entries: new[1].view(),
            key_channels: channels.views(0),
            value_channels: channels.views(1),
        };
        let mut pools = self.pools.each_ref().map(|pool| queue.upload(pool).unwrap());
        let mut new_slots = queue.upload(&vec![LEFT; self.plan.slots_len() as usize])?;
        let mut status = queue.upload(&[0_u64])?;
        let of_tiers = TierPoolsMut {
            pools: pools.each_mut().map(|pool| Some(pool.view_mut())),
            status: Some(status.view_mut()),
        };
        let mut outputs = RetierOutputs { pools: of_tiers, new_slots: new_slots.view_mut() };
        retier_pages(queue, &self.plan, &inputs, &mut outputs)?;
        Ok(Found {
            pools: pools.each_ref().map(|pool| queue.download(&pool.view()).unwrap()),
            new_slots: queue.download(&new_slots.view())?,
            status: queue.download(&status.view())?[0],
        })
    }

    pub(crate) fn expected(&self) -> Found {
        let shape = self.plan.shape();
        let kv = *shape.pages.layout.shape();
        let (batch, n_heads) = (kv.batch as usize, kv.n_heads as usize);
        let (n_runs, n_pages) = (shape.n_runs as usize, shape.pages.n_pages as usize);
        let d = kv.row_len as usize;
        let [n_old, n_new] = [shape.n_old_pages as usize, shape.n_new_pages as usize];
        let n_positions = shape.n_positions as usize;
        let mut pools = self.pools.clone();
        let mut new_slots = vec![LEFT; self.plan.slots_len() as usize];
        let mut status = 0;
        let mut look = |entry: u32, at: usize, table: EntryTable| {
            status = status.max(status_of(self.plan.pages(), entry, at, table));
        };
        for of_head in 0..batch * n_heads {
            let (b, head) = (of_head / n_heads, of_head % n_heads);
            let list = list_of(self.plan.pages(), [b, head]);
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
                        look(entry, of_head * n_new + page, NEW[part]);
                        for position in positions.iter().flatten() {
                            let slot = self.slot_of[of_head * n_positions + position];
                            let page = usize::try_from(slot).map_or(n_old, |slot| slot / 64);
                            if page < n_old {
                                let at = of_head * n_old + page;
                                look(self.old_entries[part][at], at, OLD[part]);
                            }
                        }
                        if !is_page(self.plan.pages(), entry) {
                            continue;
                        }
                        let old: Vec<Option<Page>> = (0..n_old)
                            .map(|p| self.old_entries[part][of_head * n_old + p])
                            .map(|entry| find_page(self.plan.pages(), &self.pools, entry, kind))
                            .collect();
                        let tokens = positions.iter().map(|position| {
                            let position = (*position)?;
                            let slot = self.slot_of[of_head * n_positions + position];
                            let Ok(slot) = usize::try_from(slot) else {
                                let row = self.cache.row([b, head], position as u64, part);
                                return row.filter(|_| self.has_cache).map(Token::Row);
                            };
                            let page = old.get(slot / 64)?.as_ref()?;
                            Some(Token::InPage(page, slot % 64))
                        });
                        let (tier, channels) =
                            (Tier::of_entry(entry), self.channels.of(of_head, d, part));
                        let shape = self.plan.pages().page(kind);
                        let page = retier_page(shape, tier, tokens, &channels).unwrap();
                        put_page(&mut pools, entry, &page);
                    }
                }
            }
        }
        Found { pools, new_slots, status }
    }
}
