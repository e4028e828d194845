//! Lists to resolve, step by step, and what must become of them.

use lacuna::attention::reference::{Resolved, Tier};
use lacuna::attention::{
    PartedSlots, TierInputs, TierOutputs, TierPlan, TierShape, TierState, tier_resolve,
};
use lacuna::{Error, Queue};

/// What is in outputs before a launch.
const POISON: i32 = -0x5EED;

#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) shape: TierShape,
    /// Of each list.
    pub(crate) tiers: Vec<Tier>,
    /// Of each step, all lists' entries and counts.
    pub(crate) steps: Vec<(Vec<i32>, Option<Vec<u32>>)>,
    pub(crate) source_table: Option<Vec<i32>>,
    pub(crate) has_parts: bool,
    pub(crate) has_overflows: bool,
}

/// What a step leaves.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Left {
    pub(crate) slots: Vec<i32>,
    pub(crate) misses: Vec<i32>,
    pub(crate) miss_counts: Vec<u32>,
    pub(crate) hits: Vec<i32>,
    pub(crate) hit_counts: Vec<u32>,
    pub(crate) fetched: Vec<i32>,
    pub(crate) fetched_counts: Vec<u32>,
    pub(crate) overflows: Vec<u32>,
    pub(crate) slot_of: Vec<i32>,
    pub(crate) logical_of: Vec<i32>,
    pub(crate) referenced: Vec<u32>,
    pub(crate) hands: Vec<u32>,
}

pub(crate) fn random(state: &mut u64) -> u32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 32) as u32
}

pub(crate) fn shape(
    [batch, lists_per_request]: [u64; 2],
    n: u64,
    n_logical: u64,
    n_slots: u64,
) -> TierShape {
    let n_source_pages = batch * lists_per_request * n_logical;
    TierShape { batch, lists_per_request, n, n_logical, n_slots, n_source_pages }
}

impl Problem {
    /// Steps whose lists stay near those of the step before, and repeat numbers and name none now and then.
    pub(crate) fn new(shape: TierShape, n_steps: usize, seed: u64) -> Self {
        let n_lists = (shape.batch * shape.lists_per_request) as usize;
        let mut state = seed;
        let n_logical = shape.n_logical as u32;
        let mut entry = |before: Option<i32>| match random(&mut state) % 16 {
            0 => -1,
            1 => n_logical as i32,
            2..=10 if before.is_some() => before.unwrap_or(0),
            _ => (random(&mut state) % n_logical.max(1)) as i32,
        };
        let mut list: Vec<i32> = (0..n_lists as u64 * shape.n).map(|_| entry(None)).collect();
        let mut steps = vec![(list.clone(), None)];
        for _ in 1..n_steps {
            list = list.iter().map(|before| entry(Some(*before))).collect();
            steps.push((list.clone(), None));
        }
        Self {
            shape,
            tiers: vec![Tier::new(shape.n_logical as usize, shape.n_slots as usize); n_lists],
            steps,
            source_table: None,
            has_parts: true,
            has_overflows: true,
        }
    }

    pub(crate) fn plan(&self) -> Result<TierPlan, Error> {
        TierPlan::new(self.shape)
    }

    /// The page of the large tier of a list's number.
    fn source(&self, list: usize, logical: usize) -> Option<i32> {
        let TierShape { n_logical, lists_per_request, n_source_pages, .. } = self.shape;
        let Some(table) = &self.source_table else {
            return Some((list * n_logical as usize + logical) as i32);
        };
        let [request, head] =
            [list / lists_per_request as usize, list % lists_per_request as usize];
        let page = u64::try_from(table[request * n_logical as usize + logical]).ok()?;
        let page = page * lists_per_request + head as u64;
        (page < n_source_pages).then_some(page as i32)
    }

    pub(crate) fn expect(&self) -> Vec<Left> {
        let mut tiers = self.tiers.clone();
        self.steps.iter().map(|(list, counts)| self.expect_step(&mut tiers, list, counts)).collect()
    }

    fn expect_step(&self, tiers: &mut [Tier], all: &[i32], counts: &Option<Vec<u32>>) -> Left {
        let n = self.shape.n as usize;
        let mut left = Left::default();
        for (idx, tier) in tiers.iter_mut().enumerate() {
            let count = counts.as_ref().map_or(n, |counts| (counts[idx] as usize).min(n));
            let list = &all[idx * n..][..count];
            let found = tier.resolve(list, |logical| self.source(idx, logical).is_some());
            let Resolved { slots, is_hit, misses, n_overflows } = found;
            let pad = |mut list: Vec<i32>, n: usize| {
                list.resize(n, -1);
                list
            };
            let of = |wanted: bool| {
                let entries = slots.iter().zip(&is_hit).filter(move |(_, hit)| **hit == wanted);
                entries.filter_map(|(slot, _)| slot.map(|slot| slot as i32)).collect::<Vec<_>>()
            };
            let all_slots = slots.iter().map(|slot| slot.map_or(-1, |slot| slot as i32)).collect();
            left.slots.extend(pad(all_slots, n));
            let target = |slot: usize| (idx * self.shape.n_slots as usize + slot) as i32;
            let pair = |(logical, slot): &(usize, usize)| {
                [self.source(idx, *logical).unwrap_or(-1), target(*slot)]
            };
            left.misses.extend(pad(misses.iter().flat_map(pair).collect(), 2 * n));
            left.miss_counts.push(misses.len() as u32);
            if self.has_parts {
                let [hits, fetched] = [of(true), of(false)];
                left.hit_counts.push(hits.len() as u32);
                left.fetched_counts.push(fetched.len() as u32);
                left.hits.extend(pad(hits, n));
                left.fetched.extend(pad(fetched, n));
            }
            if self.has_overflows {
                left.overflows.push(n_overflows as u32);
            }
            left.slot_of.extend(&tier.slot_of);
            left.logical_of.extend(&tier.logical_of);
            left.referenced.extend(bits_of(&tier.referenced));
            left.hands.push(tier.hand);
        }
        left
    }

    pub(crate) fn run(&self, queue: &Queue) -> Result<Vec<Left>, Error> {
        let plan = self.plan()?;
        let n_lists = plan.n_lists() as usize;
        let n_entries = plan.entries_len() as usize;
        let concat = |of: fn(&Tier) -> &[i32]| {
            queue.upload(&self.tiers.iter().flat_map(|tier| of(tier).to_vec()).collect::<Vec<_>>())
        };
        let mut slot_of = concat(|tier| &tier.slot_of)?;
        let mut logical_of = concat(|tier| &tier.logical_of)?;
        let bits: Vec<_> = self.tiers.iter().flat_map(|tier| bits_of(&tier.referenced)).collect();
        let mut referenced = queue.upload(&bits)?;
        let mut hands = queue.upload(&self.tiers.iter().map(|t| t.hand).collect::<Vec<_>>())?;
        let source_table = self.source_table.as_ref().map(|t| queue.upload(t)).transpose()?;
        let mut left = Vec::new();
        for (list, counts) in &self.steps {
            let indices = queue.upload(list)?;
            let counts = counts.as_ref().map(|counts| queue.upload(counts)).transpose()?;
            let poison = |n| queue.upload(&vec![POISON; n]);
            let poison_words = |n| queue.upload(&vec![POISON as u32; n]);
            let [mut slots, mut hits, mut fetched] =
                [poison(n_entries)?, poison(n_entries)?, poison(n_entries)?];
            let mut misses = poison(2 * n_entries)?;
            let mut miss_counts = poison_words(n_lists)?;
            let mut hit_counts = poison_words(n_lists)?;
            let mut fetched_counts = poison_words(n_lists)?;
            let mut overflows = poison_words(n_lists)?;
            let inputs = TierInputs {
                indices: indices.view(),
                counts: counts.as_ref().map(|counts| counts.view()),
                source_table: source_table.as_ref().map(|table| table.view()),
            };
            let mut state = TierState {
                slot_of: slot_of.view_mut(),
                logical_of: logical_of.view_mut(),
                referenced: referenced.view_mut(),
                hands: hands.view_mut(),
            };
            let parts = PartedSlots {
                hits: hits.view_mut(),
                hit_counts: hit_counts.view_mut(),
                fetched: fetched.view_mut(),
                fetched_counts: fetched_counts.view_mut(),
            };
            let mut outputs = TierOutputs {
                slots: slots.view_mut(),
                misses: misses.view_mut(),
                miss_counts: miss_counts.view_mut(),
                parts: self.has_parts.then_some(parts),
                overflows: self.has_overflows.then(|| overflows.view_mut()),
            };
            tier_resolve(queue, &plan, &inputs, &mut state, &mut outputs)?;
            let parts = |words: &lacuna::Buffer<i32>| match self.has_parts {
                true => queue.download(&words.view()),
                false => Ok(Vec::new()),
            };
            let counts_if = |has: bool, words: &lacuna::Buffer<u32>| match has {
                true => queue.download(&words.view()),
                false => Ok(Vec::new()),
            };
            left.push(Left {
                slots: queue.download(&slots.view())?,
                misses: queue.download(&misses.view())?,
                miss_counts: queue.download(&miss_counts.view())?,
                hits: parts(&hits)?,
                hit_counts: counts_if(self.has_parts, &hit_counts)?,
                fetched: parts(&fetched)?,
                fetched_counts: counts_if(self.has_parts, &fetched_counts)?,
                overflows: counts_if(self.has_overflows, &overflows)?,
                slot_of: queue.download(&slot_of.view())?,
                logical_of: queue.download(&logical_of.view())?,
                referenced: queue.download(&referenced.view())?,
                hands: queue.download(&hands.view())?,
            });
        }
        Ok(left)
    }
}

fn bits_of(flags: &[bool]) -> Vec<u32> {
    let word = |flags: &[bool]| (0..).zip(flags).map(|(i, flag)| u32::from(*flag) << i).sum();
    flags.chunks(32).map(word).collect()
}
