//! `retier_pages`.

mod laws;
pub(crate) mod problem;

use half::{bf16, f16};
use lacuna::Queue;
use lacuna::element::{Half, Real};
use lacuna::kv::{KvLayout, KvLists, KvShape};
use lacuna::quant::{PagesShape, RetierPlan, RetierShape, Tier};
use proptest::prelude::*;

use self::problem::{Case, Found, Problem};
use crate::cache::{PARTS, find_page};
use crate::common;

#[track_caller]
fn assert_same<T: Half + Real>(problem: &Problem<T>) {
    let expected = problem.expected();
    for queue in common::queues() {
        assert_found(&problem.run(&queue).unwrap(), &expected, &queue);
    }
}

#[track_caller]
fn assert_found(found: &Found, expected: &Found, queue: &Queue) {
    for tier in Tier::ALL {
        let [found, expected] = [found, expected].map(|all| &all.pools[tier.tag() as usize]);
        let first = found.iter().zip(expected).position(|(a, b)| a != b);
        assert_eq!(first, None, "the first byte that differs of {tier}, on {}", queue.executor());
    }
    assert_eq!(found.new_slots, expected.new_slots, "on {}", queue.executor());
    assert_eq!(found.status, expected.status, "on {}", queue.executor());
}

#[test]
fn head_dimensions_and_tiers() {
    for head_dim in (32..=256).step_by(32) {
        let case = Case { head_dim, seed: head_dim, ..Case::default() };
        assert_same(&case.build::<bf16>());
        assert_same(&Case { is_hnd: false, ..case }.build::<f16>());
    }
}

#[test]
fn every_tier_to_every_tier() {
    for from in Tier::ALL {
        for to in Tier::ALL {
            let (from, to) = (vec![from], vec![to]);
            let case = Case { lengths: vec![150], n_heads: 1, from, to, ..Case::default() };
            assert_same(&case.build::<bf16>());
        }
    }
}

#[test]
fn counts_around_a_page() {
    let case = Case { has_counts: false, lengths: vec![200], n_heads: 1, ..Case::default() };
    assert_same(&case.build::<bf16>());
    assert_same(&Case { has_first_pages: false, ..case.clone() }.build::<bf16>());
    let case = Case { has_first_pages: false, ..case };
    for n in [0, 1, 63, 64, 65, 127, 128, 129, u32::MAX] {
        let counts = Some(vec![n, 128 - n.min(128)]);
        assert_same(&Problem { counts, ..case.build::<bf16>() });
    }
}

#[test]
fn lists_of_requests_and_channels() {
    let case = Case { n_runs: 3, n_pages: 1, lists: KvLists::PerRequest, ..Case::default() };
    for (has_scales, has_offsets) in [(true, false), (false, true), (false, false)] {
        assert_same(&Case { has_scales, has_offsets, ..case.clone() }.build::<bf16>());
    }
}

#[test]
fn without_a_cache_or_without_old_pages() {
    let case = Case { has_cache: false, ..Case::default() };
    assert_same(&case.build::<bf16>());
    assert_same(&Case { n_old_pages: 0, ..case.clone() }.build::<f16>());
    assert_same(&Case { n_old_pages: 0, has_cache: true, ..case }.build::<f16>());
}

#[test]
fn hostile_lists_slots_and_pages_stay_inside() {
    for seed in 0..8 {
        let case = Case { seed, is_hostile: true, ..Case::default() };
        assert_same(&case.build::<bf16>());
        assert_same(&Case { has_scales: false, n_pages: 3, ..case }.build::<f16>());
    }
    // Runs that begin past the new table, or end there.
    let case = Case { lengths: vec![150], n_heads: 1, has_counts: false, ..Case::default() };
    for firsts in [[4, 0], [3, u32::MAX], [u32::MAX - 1, 1 << 31], [5, 3]] {
        assert_same(&Problem { first_pages: Some(firsts.to_vec()), ..case.build::<bf16>() });
    }
}

#[test]
fn every_schedule_and_both_kinds_of_fibres() {
    let problem = Case { head_dim: 96, ..Case::default() }.build::<bf16>();
    let expected = problem.expected();
    for config in common::configs() {
        let queue = Queue::simt(config);
        assert_found(&problem.run(&queue).unwrap(), &expected, &queue);
    }
}

/// One launch of three runs, one of a single run, and one for each run: the same pages and slots.
#[test]
fn three_ways_of_calling_it() {
    let case = Case {
        n_runs: 3,
        n_pages: 1,
        lengths: vec![150],
        n_heads: 1,
        has_counts: false,
        has_first_pages: false,
        ..Case::default()
    };
    let three = case.build::<bf16>();
    let shape = *three.plan.shape();
    let pages = PagesShape { n_pages: 3, span_pages: 3, ..shape.pages };
    let plan = RetierPlan::new(RetierShape { pages, n_runs: 1, ..shape }).unwrap();
    let once = Problem { plan, ..three.clone() };
    let plan = RetierPlan::new(RetierShape { n_runs: 1, ..shape }).unwrap();
    for queue in common::queues() {
        let expected = three.run(&queue).unwrap();
        assert_found(&once.run(&queue).unwrap(), &expected, &queue);
        let mut apart = Problem { plan, ..three.clone() };
        let mut slots = vec![problem::LEFT; expected.new_slots.len()];
        let mut status = 0;
        for run in 0..3 {
            apart.indices = three.indices[64 * run..][..64].to_vec();
            apart.first_pages = Some(vec![run as u32]);
            let found = apart.run(&queue).unwrap();
            apart.pools = found.pools;
            status = status.max(found.status);
            for (all, new) in slots.iter_mut().zip(found.new_slots) {
                *all = if new == problem::LEFT { *all } else { new };
            }
        }
        let found = Found { pools: apart.pools, new_slots: slots, status };
        assert_found(&found, &expected, &queue);
    }
}

/// Old pages are what they were, and so are new ones that no list fills.
#[test]
fn nothing_else_is_written() {
    let problem = Case { has_counts: false, ..Case::default() }.build::<bf16>();
    let none = Problem { counts: Some(vec![0; 8]), ..problem.clone() };
    for queue in common::queues() {
        let found = none.run(&queue).unwrap();
        assert_eq!(found.pools, none.pools);
        assert!(found.new_slots.iter().all(|slot| *slot == problem::LEFT));
        let found = problem.run(&queue).unwrap();
        for (part, kind) in PARTS.into_iter().enumerate() {
            for entry in &problem.old_entries[part] {
                let pages = [&found.pools, &problem.pools]
                    .map(|pools| find_page(problem.plan.pages(), pools, *entry, kind));
                assert_eq!(pages[0], pages[1]);
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let shape = Case::default().shape([0; 4]).unwrap();
    let pages = shape.pages;
    let many = KvShape { n_heads: 1 << 12, n_pages: 1, batch: 2, ..*pages.layout.shape() };
    let of_many = PagesShape { layout: KvLayout::new(many.hnd()).unwrap(), ..pages };
    for (shape, text) in [
        (
            RetierShape { pages: PagesShape { span_pages: 1, ..pages }, ..shape },
            "spans of a list: 2 is outside 1: a token's channels stay what they are",
        ),
        (RetierShape { n_runs: 0, ..shape }, "runs of a list: 0 is outside 1..=16"),
        (RetierShape { n_runs: 17, ..shape }, "runs of a list: 17 is outside 1..=16"),
        (
            RetierShape { n_old_pages: 1 << 20, ..shape },
            "pages of an old table: 1048576 is outside 0..2^20",
        ),
        (
            RetierShape { n_new_pages: 1 << 20, ..shape },
            "pages of a new table: 1048576 is outside 0..2^20",
        ),
        (
            RetierShape { pages: of_many, n_old_pages: 1 << 19, ..shape },
            "pages of all old tables: 4294967296 is outside 0..2^31",
        ),
        (
            RetierShape { pages: of_many, n_new_pages: 1 << 18, ..shape },
            "pages of all new tables: 2147483648 is outside 0..2^31",
        ),
        (
            RetierShape { n_positions: (1 << 26) + 1, ..shape },
            "positions of a request: 67108865 is outside 0..=2^26",
        ),
    ] {
        assert_eq!(RetierPlan::new(shape).unwrap_err().to_string(), text);
    }
    let queue = &common::queues()[0];
    let problem = Case::default().build::<bf16>();
    for (short, text) in [
        (Problem { indices: vec![0; 7], ..problem.clone() }, "indices: expected 1024, got 7"),
        (Problem { slot_of: vec![0; 9], ..problem.clone() }, "slot_of: expected 784, got 9"),
        (Problem { counts: Some(vec![1]), ..problem.clone() }, "counts: expected 8, got 1"),
        (
            Problem { first_pages: Some(vec![1]), ..problem.clone() },
            "first_pages: expected 8, got 1",
        ),
        (
            Problem { old_entries: [vec![], vec![]], ..problem.clone() },
            "old_key_entries: expected 12, got 0",
        ),
        (
            Problem { entries: [vec![], vec![]], ..problem.clone() },
            "key_entries: expected 20, got 0",
        ),
    ] {
        assert_eq!(short.run(queue).unwrap_err().to_string(), text);
    }
}

prop_compose! {
    fn any_case()(
        seed in any::<u64>(),
        lengths in prop::collection::vec(0..200_u32, 1..4),
        n_heads in 1..3_u64,
        head_dim in (1..=8_u64).prop_map(|n| 32 * n),
        page_size in prop::sample::select(vec![1_u64, 16, 100]),
        (is_hnd, is_per_head, has_counts, has_first_pages) in any::<(bool, bool, bool, bool)>(),
        (n_pages, n_runs, n_old_pages) in (0..3_u64, 1..4_u64, 0..4_u64),
        (has_scales, has_offsets, has_cache, is_hostile) in any::<(bool, bool, bool, bool)>(),
        from in prop::collection::vec(prop::sample::select(Tier::ALL.to_vec()), 1..4),
        to in prop::collection::vec(prop::sample::select(Tier::ALL.to_vec()), 1..4),
    ) -> Case {
        let lists = if is_per_head { KvLists::PerHead } else { KvLists::PerRequest };
        Case {
            seed, lengths, n_heads, head_dim, page_size, is_hnd, lists, n_pages, n_runs, n_old_pages,
            has_counts, has_first_pages, has_scales, has_offsets, has_cache, from, to, is_hostile,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_tokens_are_the_reference_to_the_bit(case in any_case(), is_short: bool) {
        if is_short {
            assert_same(&case.build::<f16>());
        } else {
            assert_same(&case.build::<bf16>());
        }
    }

    #[test]
    fn a_plan_of_any_sizes_never_panics(
        n_pages: u64,
        n_runs: u64,
        n_old_pages: u64,
        n_new_pages: u64,
        n_positions: u64,
        n_pool_pages: [u64; 4],
    ) {
        let pages = Case::default().shape([0; 4]).unwrap().pages;
        let pages = PagesShape { n_pages, span_pages: n_pages, n_pool_pages, ..pages };
        let shape = RetierShape { pages, n_runs, n_old_pages, n_new_pages, n_positions };
        if let Ok(plan) = RetierPlan::new(shape) {
            let lens = [
                plan.old_entries_len(),
                plan.new_entries_len(),
                plan.slots_len(),
                plan.indices_len(),
                plan.runs_len(),
            ];
            prop_assert!(lens.iter().all(|len| *len < 1 << 45));
            prop_assert!(plan.grid().blocks[0] < 1 << 24);
        }
    }
}
