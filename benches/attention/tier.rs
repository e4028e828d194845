//! Tiers resolved: on the CPU, and by the kernel.

use criterion::Criterion;
use lacuna::attention::reference::{Resolved, Tier};
use lacuna::attention::{
    PartedSlots, TierInputs, TierOutputs, TierPlan, TierShape, TierState, tier_resolve,
};
use lacuna::{Buffer, Queue};

use crate::house::case::{Budget, Case, Problem, Work, poison};

fn random(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

pub(crate) fn cpu(criterion: &mut Criterion) {
    let case = Resolve { n_lists: 1, n: 2048, n_slots: 2048, n_missed: 400, is_small: false };
    let ([mut tier, _], [list, other]) = (case.tiers(1), case.lists(1));
    let mut bench = criterion.benchmark_group("attention");
    bench.sample_size(10);
    bench.bench_function("reference/tier/2 lists of 2048", |b| {
        b.iter(|| {
            tier.resolve(&list, |_| true);
            tier.resolve(&other, |_| true)
        });
    });
    bench.finish();
}

/// Numbers of a request.
const N_LOGICAL: usize = 1 << 16;

/// `tier_resolve` of two lists in turn, which have all but `n_missed` of their entries together: where slots are as many
/// as entries, each step has as many misses as the one before; where there are more, it has none.
#[derive(Clone, Copy)]
struct Resolve {
    n_lists: usize,
    n: usize,
    n_slots: usize,
    n_missed: usize,
    is_small: bool,
}

struct Lists {
    case: Resolve,
    /// Before the first step.
    tiers: Vec<Tier>,
    indices: [Vec<i32>; 2],
    n_misses: usize,
    expected: Vec<i32>,
}

impl Case for Resolve {
    fn kernel(&self) -> &'static str {
        "attention/tier_resolve"
    }

    fn shape(&self) -> String {
        let Self { n_lists, n, n_slots, n_missed, .. } = self;
        let n_missed = if n_slots == n { *n_missed } else { 0 };
        format!("two steps of {n_lists} lists of {n}, {n_slots} slots, {n_missed} misses")
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        // Words of maps are scattered, and cost a sector each; atomics are not counted.
        let bytes = if self.n_slots == self.n { 5.1 } else { 3.6 };
        Budget { bytes, sectors_per_request: 10.0, conflict_ways: 1.2, barriers: 13.0 }
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let mut lists = Lists {
            case: *self,
            tiers: Vec::new(),
            indices: [Vec::new(), Vec::new()],
            n_misses: 0,
            expected: Vec::new(),
        };
        let (mut slots, mut misses) = (Vec::new(), Vec::new());
        for l in 0..self.n_lists {
            let [before, mut tier] = self.tiers(l as u64);
            let own = self.lists(l as u64);
            let Resolved { slots: of_list, misses: pairs, .. } = tier.resolve(&own[1], |_| true);
            lists.n_misses += 2 * pairs.len();
            slots.extend(of_list.iter().map(|slot| slot.map_or(-1, |slot| slot as i32)));
            let pair = |(logical, slot): &(usize, usize)| {
                [(l * N_LOGICAL + logical) as i32, (l * self.n_slots + slot) as i32]
            };
            let mut pairs: Vec<_> = pairs.iter().flat_map(pair).collect();
            pairs.resize(2 * self.n, -1);
            misses.extend(pairs);
            for (all, own) in lists.indices.iter_mut().zip(own) {
                all.extend(own);
            }
            lists.tiers.push(before);
        }
        lists.expected = [slots, misses].concat();
        Box::new(lists)
    }
}

impl Resolve {
    fn lists(&self, seed: u64) -> [Vec<i32>; 2] {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ self.n as u64;
        let mut numbers: Vec<i32> = (0..N_LOGICAL as i32).collect();
        let n_all = self.n + self.n_missed;
        for i in 0..n_all {
            let other = i + random(&mut state) % (N_LOGICAL - i);
            numbers.swap(i, other);
        }
        let mut lists = [numbers[..self.n].to_vec(), numbers[self.n_missed..n_all].to_vec()];
        lists.iter_mut().for_each(|list| list.sort_unstable());
        lists
    }

    /// Before the first list and before the second, once turns are all alike; slots are in no order.
    fn tiers(&self, seed: u64) -> [Tier; 2] {
        let [one, other] = self.lists(seed);
        let mut mixed = one.clone();
        mixed.sort_unstable_by_key(|number| number.wrapping_mul(0x5851_F42D));
        let mut tier = Tier::new(N_LOGICAL, self.n_slots);
        for list in [&mixed, &other, &one, &other] {
            tier.resolve(list, |_| true);
        }
        let before = tier.clone();
        tier.resolve(&one, |_| true);
        [before, tier]
    }

    fn plan(&self, n_lists: usize) -> TierPlan {
        TierPlan::new(TierShape {
            batch: n_lists as u64,
            lists_per_request: 1,
            n: self.n as u64,
            n_logical: N_LOGICAL as u64,
            n_slots: self.n_slots as u64,
            n_source_pages: (n_lists * N_LOGICAL) as u64,
        })
        .expect("a shape that is supported")
    }
}

impl Problem for Lists {
    fn least_bytes(&self) -> u64 {
        let plan = self.case.plan(self.case.n_lists);
        // Of both steps, each of which has half of the misses.
        let n_misses = self.n_misses as u64 / 2;
        2 * plan.least_bytes(plan.entries_len() - n_misses, n_misses)
    }

    fn expected(&self) -> &[u8] {
        bytemuck::cast_slice(&self.expected)
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(self, queue, 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let first = Launch::new(self, queue, 2)?;
        Ok(vec![("before two lists more".to_owned(), Box::new(first))])
    }
}

/// Launches whose first lists are looked at.
struct Launch {
    case: Resolve,
    plan: TierPlan,
    indices: [Buffer<i32>; 2],
    slot_of: Buffer<i32>,
    logical_of: Buffer<i32>,
    referenced: Buffer<u32>,
    hands: Buffer<u32>,
    slots: Buffer<i32>,
    misses: Buffer<i32>,
    hits: Buffer<i32>,
    fetched: Buffer<i32>,
    counts: [Buffer<u32>; 3],
}

impl Launch {
    fn new(lists: &Lists, queue: &Queue, n_more: usize) -> lacuna::Result<Self> {
        let case = lists.case;
        let plan = case.plan(case.n_lists + n_more);
        let mut tiers = lists.tiers.clone();
        tiers.resize(case.n_lists + n_more, Tier::new(N_LOGICAL, case.n_slots));
        let word = |bits: &[bool]| (0..).zip(bits).map(|(i, bit)| u32::from(*bit) << i).sum();
        let referenced: Vec<u32> =
            tiers.iter().flat_map(|tier| tier.referenced.chunks(32).map(word)).collect();
        let all = |of: fn(&Tier) -> &Vec<i32>| {
            queue.upload(&tiers.iter().flat_map(|tier| of(tier).clone()).collect::<Vec<_>>())
        };
        let indices = |step: usize| {
            let more = case.lists(99)[step].repeat(n_more);
            queue.upload(&[lists.indices[step].clone(), more].concat())
        };
        let n_entries = plan.entries_len() as usize;
        let counts = || queue.alloc(plan.n_lists() as usize);
        Ok(Self {
            case,
            plan,
            indices: [indices(0)?, indices(1)?],
            slot_of: all(|tier| &tier.slot_of)?,
            logical_of: all(|tier| &tier.logical_of)?,
            referenced: queue.upload(&referenced)?,
            hands: queue.upload(&tiers.iter().map(|tier| tier.hand).collect::<Vec<_>>())?,
            slots: queue.alloc(n_entries)?,
            misses: queue.alloc(2 * n_entries)?,
            hits: queue.alloc(n_entries)?,
            fetched: queue.alloc(n_entries)?,
            counts: [counts()?, counts()?, counts()?],
        })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let [miss_counts, hit_counts, fetched_counts] = &mut self.counts;
        for indices in &self.indices {
            let inputs = TierInputs { indices: indices.view(), counts: None, source_table: None };
            let mut state = TierState {
                slot_of: self.slot_of.view_mut(),
                logical_of: self.logical_of.view_mut(),
                referenced: self.referenced.view_mut(),
                hands: self.hands.view_mut(),
            };
            let mut outputs = TierOutputs {
                slots: self.slots.view_mut(),
                misses: self.misses.view_mut(),
                miss_counts: miss_counts.view_mut(),
                parts: Some(PartedSlots {
                    hits: self.hits.view_mut(),
                    hit_counts: hit_counts.view_mut(),
                    fetched: self.fetched.view_mut(),
                    fetched_counts: fetched_counts.view_mut(),
                }),
                overflows: None,
            };
            tier_resolve(queue, &self.plan, &inputs, &mut state, &mut outputs)?;
        }
        Ok(())
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.slots)?;
        poison(queue, &mut self.misses)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let n = self.case.n_lists * self.case.n;
        let mut output = Vec::new();
        for (buffer, len) in [(&self.slots, n), (&self.misses, 2 * n)] {
            let first = queue.download(&buffer.view().slice(0..len)?)?;
            output.extend_from_slice(bytemuck::cast_slice(&first));
        }
        Ok(output)
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    let cases = [
        (2, 512, 512, 100, true),
        (2, 600, 1000, 100, true),
        (1, 2048, 2048, 400, false),
        (8, 2048, 4096, 400, false),
        (64, 2048, 2048, 400, false),
        (256, 1024, 1024, 200, false),
    ];
    let to_case = |(n_lists, n, n_slots, n_missed, is_small)| {
        Box::new(Resolve { n_lists, n, n_slots, n_missed, is_small }) as _
    };
    cases.map(to_case).into()
}
