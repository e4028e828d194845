//! `tier_resolve`.

mod joint;
mod problem;

use std::collections::HashSet;

use lacuna::Queue;
use lacuna::attention::reference::Tier;
use lacuna::attention::{
    CopyInputs, CopyOutputs, CopyPlan, PoolShape, Pools, PoolsLayout, TierInputs, TierOutputs,
    TierPlan, TierShape, TierState, copy_pages, tier_resolve,
};
use lacuna::simt::{Checks, Config, Fibres};
use proptest::prelude::*;

use self::problem::{Problem, random, shape};
use crate::common;

#[track_caller]
fn assert_same(problem: &Problem) {
    let expected = problem.expect();
    for queue in common::queues() {
        let found = problem.run(&queue).unwrap();
        for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "step {step} of {:?}", problem.shape);
        }
    }
}

/// Each map is the other's inverse.
fn assert_inverse(tier: &Tier) {
    for (logical, slot) in tier.slot_of.iter().enumerate() {
        assert!(*slot == -1 || tier.logical_of[*slot as usize] == logical as i32);
    }
    for (slot, logical) in tier.logical_of.iter().enumerate() {
        assert!(*logical == -1 || tier.slot_of[*logical as usize] == slot as i32);
    }
}

/// The hand of a textbook, a slot at a time: what this list asks for is passed over and keeps its mark.
fn sweep(tier: &Tier, wanted: &HashSet<usize>, n_missed: usize) -> (Vec<usize>, Vec<bool>, usize) {
    let n_slots = tier.logical_of.len();
    let (mut hand, mut referenced) = (tier.hand as usize % n_slots, tier.referenced.clone());
    let mut taken = Vec::new();
    while taken.len() < n_missed && taken.len() + wanted.len() < n_slots {
        if !wanted.contains(&hand) && !taken.contains(&hand) {
            if referenced[hand] {
                referenced[hand] = false;
            } else {
                taken.push(hand);
            }
        }
        hand = (hand + 1) % n_slots;
    }
    wanted.iter().chain(&taken).for_each(|slot| referenced[*slot] = true);
    (taken, referenced, hand)
}

proptest! {
    /// Of the reference alone, whatever lists come: the maps stay inverse, each entry is where its content is, nothing
    /// that is asked for goes, and the hand goes as a textbook's does.
    #[test]
    fn slots_hold_what_was_asked_for(
        seed: u64, n_logical in 1_u64..80, n_slots in 1_u64..40, n in 0_u64..40, n_steps in 1_usize..12,
    ) {
        let problem = Problem::new(shape([1, 1], n, n_logical, n_slots), n_steps, seed);
        let mut tier = problem.tiers[0].clone();
        let mut contents = vec![None; n_slots as usize];
        for (list, _) in &problem.steps {
            let before = tier.clone();
            let asked: HashSet<_> =
                list.iter().filter(|i| (0..n_logical as i32).contains(i)).map(|i| *i as usize).collect();
            let found = tier.resolve(list, |_| true);
            assert_inverse(&tier);
            let hits: HashSet<_> = asked.iter().filter_map(|logical| before.find(*logical)).collect();
            for (logical, slot) in &found.misses {
                prop_assert!(before.find(*logical).is_none() && !hits.contains(slot));
                contents[*slot] = Some(*logical);
            }
            let order: Vec<_> = found.misses.iter().map(|(logical, _)| *logical).collect();
            let mut first: Vec<usize> = Vec::new();
            for (entry, slot) in list.iter().zip(&found.slots) {
                let logical = usize::try_from(*entry).ok().filter(|n| asked.contains(n));
                if let Some(slot) = slot {
                    prop_assert_eq!(contents[*slot], logical);
                }
                if let Some(logical) = logical && before.find(logical).is_none() && !first.contains(&logical) {
                    first.push(logical);
                }
                prop_assert!(slot.is_some() || logical.is_none() || found.n_overflows > 0);
            }
            prop_assert_eq!(&order[..], &first[..order.len()]);
            prop_assert_eq!(found.n_overflows, first.len() - order.len());
            prop_assert_eq!(asked.len() > n_slots as usize, found.n_overflows > 0);

            let (taken, referenced, hand) = sweep(&before, &hits, first.len());
            let slots: Vec<_> = found.misses.iter().map(|(_, slot)| *slot).collect();
            prop_assert_eq!(slots, taken);
            prop_assert_eq!(&tier.referenced, &referenced);
            prop_assert_eq!(tier.hand as usize, hand);
        }
    }

    #[test]
    fn no_shape_makes_a_plan_panic(numbers: [u64; 6]) {
        for bits in [0, 32, 40, 50, 58] {
            let [batch, lists_per_request, n, n_logical, n_slots, n_source_pages] =
                numbers.map(|number| number >> bits);
            let shape = TierShape { batch, lists_per_request, n, n_logical, n_slots, n_source_pages };
            let _ = TierPlan::new(shape).map(|plan| {
                (plan.entries_len(), plan.slot_of_len(), plan.logical_of_len(), plan.referenced_len(),
                 plan.source_table_len(), plan.least_bytes(plan.entries_len(), 0), plan.grid())
            });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_steps_give_what_the_reference_gives(
        seed: u64, batch in 1_u64..3, lists in 1_u64..3, n in 0_u64..90, n_logical in 0_u64..200,
        n_slots in 1_u64..130, n_steps in 1_usize..5, given in any::<[bool; 4]>(), counts: [u32; 4],
    ) {
        let mut problem = Problem::new(shape([batch, lists], n, n_logical, n_slots), n_steps, seed);
        if given[0] {
            let counts = counts.map(|count| count % (n as u32 + 5)).to_vec();
            problem.steps[0].1 = Some(counts[..(batch * lists) as usize].to_vec());
        }
        if given[1] {
            let mut state = seed;
            let page = |_| (random(&mut state) % (2 * (batch * n_logical) as u32 + 1)) as i32 - 3;
            problem.source_table = Some((0..batch * n_logical).map(page).collect());
        }
        (problem.has_parts, problem.has_overflows) = (given[2], given[3]);
        assert_same(&problem);
    }

    /// State of any numbers leads nowhere else, and to the same.
    #[test]
    fn wild_state_gives_what_the_reference_gives(
        seed: u64, n_logical in 1_usize..60, n_slots in 1_usize..70, wild: [bool; 4],
    ) {
        let mut state = seed;
        let mut problem = Problem::new(shape([1, 2], 30, n_logical as u64, n_slots as u64), 3, seed);
        for tier in &mut problem.tiers {
            let mut number = |n: usize| match random(&mut state) % 8 {
                0 => random(&mut state) as i32,
                1 => i32::MAX - (random(&mut state) % 40) as i32,
                2 => i32::MIN,
                _ => (random(&mut state) as usize % (n + 2)) as i32 - 1,
            };
            if wild[0] {
                tier.slot_of.iter_mut().for_each(|slot| *slot = number(n_slots));
            }
            if wild[1] {
                tier.logical_of.iter_mut().for_each(|logical| *logical = number(n_logical));
            }
            if wild[2] {
                tier.referenced.iter_mut().for_each(|bit| *bit = number(9) % 2 == 0);
            }
            if wild[3] {
                tier.hand = number(n_slots) as u32;
            }
        }
        assert_same(&problem);
    }
}

#[test]
fn lists_around_a_word_and_a_block() {
    for n in [1, 31, 32, 33, 511, 512, 513, 1100] {
        assert_same(&Problem::new(shape([1, 1], n, 700, 600), 3, n));
        assert_same(&Problem::new(shape([1, 1], n, 3000, n), 2, n));
    }
    assert_same(&Problem::new(shape([0, 1], 5, 7, 3), 1, 1));
    assert_same(&Problem::new(shape([2, 1], 0, 7, 3), 2, 1));
    assert_same(&Problem::new(shape([2, 1], 4, 0, 3), 2, 1));
}

#[test]
fn slots_around_a_word_and_all_threads() {
    for n_slots in [1, 31, 32, 33, 63, 64, 65, 16_383, 16_384, 16_385, 20_001] {
        let mut problem = Problem::new(shape([1, 1], 60, 300, n_slots), 3, n_slots);
        // The hand goes round within the steps.
        problem.tiers[0].hand = n_slots as u32 - 1;
        assert_same(&problem);
        problem.tiers[0].referenced.fill(true);
        assert_same(&problem);
    }
}

#[test]
fn the_largest_lists_and_buffers() {
    assert_same(&Problem::new(shape([1, 1], 8192, 50_000, 8192), 2, 1));
    assert_same(&Problem::new(shape([1, 1], 8192, 40_000, 32_768), 1, 2));
}

/// Slots that were asked for have a second chance; in the end the hand comes round to all.
#[test]
fn what_is_asked_for_again_stays() {
    let mut tier = Tier::new(100, 4);
    assert_eq!(
        tier.resolve(&[10, 11, 12, 13], |_| true).misses,
        [(10, 0), (11, 1), (12, 2), (13, 3)]
    );
    // All have their marks: one round takes them, and the hand's own goes.
    assert_eq!(tier.resolve(&[20], |_| true).misses, [(20, 0)]);
    assert_eq!(tier.resolve(&[12], |_| true).misses, []);
    assert_eq!(tier.resolve(&[21, 22], |_| true).misses, [(21, 1), (22, 3)]);
    assert_eq!(tier.find(12), Some(2));
    assert_eq!(tier.find(11), None);
}

#[test]
fn more_than_there_are_slots_is_counted() {
    let mut tier = Tier::new(100, 3);
    let found = tier.resolve(&[5, 6, 5, 7, 8, 9, 8], |_| true);
    assert_eq!(found.slots, [Some(0), Some(1), Some(0), Some(2), None, None, None]);
    assert_eq!(found.n_overflows, 2);
    let problem = Problem::new(shape([2, 1], 300, 4000, 70), 4, 5);
    assert!(problem.expect().iter().any(|left| left.overflows[0] > 0));
    assert_same(&problem);
}

/// -1 in `logical_of` is enough to forget a request, whatever is left in `slot_of`.
#[test]
fn a_request_is_forgotten_by_its_slots() {
    let problem = Problem::new(shape([1, 1], 40, 100, 50), 2, 9);
    let mut left = problem.expect();
    let left = left.pop().unwrap();
    let mut again = problem.clone();
    again.tiers[0] = Tier {
        slot_of: left.slot_of,
        logical_of: vec![-1; 50],
        referenced: vec![false; 50],
        hand: left.hands[0],
    };
    assert_eq!(again.expect()[0].hit_counts, [0]);
    assert_same(&again);
}

#[test]
fn every_schedule_and_fibre_gives_the_same_bits() {
    let problem = Problem::new(shape([1, 2], 600, 900, 700), 3, 4);
    let expected = problem.expect();
    for schedule in common::SCHEDULES {
        for fibres in [Fibres::Native, Fibres::Portable] {
            let config =
                Config { schedule, fibres, seed: 5, checks: Checks::ALL, ..Config::default() };
            assert!(problem.run(&Queue::simt(config.clone())).unwrap() == expected, "{config:?}");
        }
    }
}

#[test]
fn a_list_alone_and_among_others_gives_the_same() {
    let all = Problem::new(shape([3, 2], 50, 120, 60), 3, 8);
    let expected = all.expect();
    for list in 0..6 {
        let own = |words: &[i32]| words[list * 50..][..50].to_vec();
        let alone = Problem {
            shape: shape([1, 1], 50, 120, 60),
            tiers: vec![all.tiers[list].clone()],
            steps: all.steps.iter().map(|(words, _)| (own(words), None)).collect(),
            ..all.clone()
        };
        for queue in common::queues() {
            for (alone, together) in alone.run(&queue).unwrap().iter().zip(&expected) {
                assert_eq!(alone.slots, own(&together.slots));
                assert_eq!(alone.slot_of, together.slot_of[list * 120..][..120]);
            }
        }
    }
}

/// Misses are what `copy_pages` takes; after it each entry's slot has its page.
#[test]
fn what_misses_is_copied_into_its_slots() {
    let (n_lists, n, n_logical, n_slots) = (4, 30, 64, 40);
    let problem = Problem::new(shape([2, 2], n, n_logical, n_slots), 5, 3);
    let plan = problem.plan().unwrap();
    for queue in common::queues() {
        let pools = |n_pages: u64| {
            PoolsLayout::new(n_pages, 4, vec![PoolShape { page_len: 3, page_stride: 3 }]).unwrap()
        };
        let (large, small) = (pools(n_lists * n_logical), pools(n_lists * n_slots));
        let mut pinned = queue.alloc_pinned::<u32>((3 * n_lists * n_logical) as usize).unwrap();
        for (i, word) in queue.pinned_slice(&mut pinned).unwrap().iter_mut().enumerate() {
            *word = i as u32;
        }
        let large = Pools::new(&queue, large, vec![pinned]).unwrap();
        let own = queue.alloc::<u32>((3 * n_lists * n_slots) as usize).unwrap();
        let mut small = Pools::new(&queue, small, vec![own]).unwrap();
        let copy_plan = CopyPlan::new(n_lists, n, large.layout(), small.layout()).unwrap();
        for (left, (list, _)) in problem.run(&queue).unwrap().iter().zip(&problem.steps) {
            let pairs = queue.upload(&left.misses).unwrap();
            let counts = queue.upload(&left.miss_counts).unwrap();
            let inputs = CopyInputs { pairs: pairs.view(), counts: Some(counts.view()) };
            let mut outputs = CopyOutputs::default();
            copy_pages(&queue, &copy_plan, &large, &mut small, &inputs, &mut outputs).unwrap();
            let found = queue.download(&small.view(0).unwrap()).unwrap();
            for (i, (slot, logical)) in left.slots.iter().zip(list).enumerate() {
                if *slot < 0 {
                    continue;
                }
                let list = i as u64 / n;
                let at = 3 * (list * n_slots + *slot as u64) as usize;
                let page = 3 * (list * n_logical + *logical as u64) as u32;
                assert_eq!(found[at..at + 3], [page, page + 1, page + 2]);
            }
        }
        assert_eq!(plan.logical_of_len(), small.layout().n_pages());
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let refused = |shape: TierShape| TierPlan::new(shape).unwrap_err().to_string();
    let sound = shape([2, 2], 5, 9, 3);
    assert_eq!(
        refused(TierShape { n: 8193, ..sound }),
        "entries of a list: 8193 is outside 0..=8192"
    );
    assert_eq!(
        refused(TierShape { n_slots: 0, ..sound }),
        "slots of a list: 0 is outside 1..=32768"
    );
    assert_eq!(
        refused(TierShape { lists_per_request: 0, ..sound }),
        "lists of a request: 0 is outside 1..=65535"
    );
    assert_eq!(
        refused(TierShape { n_logical: 1 << 30, ..sound }),
        "logical numbers of all lists: 4294967296 is outside 0..2^31"
    );
    let queue = Queue::simt(Config::default());
    let problem = Problem::new(sound, 1, 1);
    let error = |problem: Problem| problem.run(&queue).unwrap_err().to_string();
    let with_counts = |n| {
        let mut problem = problem.clone();
        problem.steps[0].1 = Some(vec![1; n]);
        problem
    };
    assert_eq!(error(with_counts(3)), "counts: expected 4, got 3");
    let table = Problem { source_table: Some(vec![0; 5]), ..problem.clone() };
    assert_eq!(error(table), "source_table: expected 18, got 5");

    let plan = problem.plan().unwrap();
    let mut words = queue.alloc::<i32>(41).unwrap();
    let indices = queue.alloc::<i32>(20).unwrap();
    let [mut slot_of, mut logical_of, mut slots] =
        [36, 12, 20].map(|len| queue.alloc::<i32>(len).unwrap());
    let [mut referenced, mut hands, mut counts] =
        [4, 4, 4].map(|len| queue.alloc::<u32>(len).unwrap());
    let mut state = TierState {
        slot_of: slot_of.view_mut(),
        logical_of: logical_of.view_mut(),
        referenced: referenced.view_mut(),
        hands: hands.view_mut(),
    };
    let mut misses = words.view_mut();
    let mut outputs = TierOutputs {
        slots: slots.view_mut(),
        misses: misses.slice_mut(1..41).unwrap(),
        miss_counts: counts.view_mut(),
        parts: None,
        overflows: None,
    };
    let inputs = TierInputs { indices: indices.view(), counts: None, source_table: None };
    let error = tier_resolve(&queue, &plan, &inputs, &mut state, &mut outputs).unwrap_err();
    assert!(error.to_string().starts_with("address of misses: "), "{error}");
    assert!(error.to_string().ends_with("is outside the multiples of 8 bytes"), "{error}");
}
