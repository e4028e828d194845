//! Saliency: `begin_saliency`, `add_saliency`, `weigh_saliency`, `measure_norms`, and which rows are probes.

mod laws;
pub(crate) mod problem;

use half::{bf16, f16};
use lacuna::element::{E4m3, E5m2};
use lacuna::kv::{KvLayout, KvShape, KvView};
use lacuna::quant::{Norm, NormsPlan, NormsShape, SaliencyPlan, SaliencyShape, measure_norms};
use lacuna::select::{MassPlan, MassShape};
use lacuna::{Error, Queue};
use proptest::prelude::*;

use self::problem::{BASES, Case, LISTS, NormCase, ORDERS, Problem, Value};
use crate::common;

/// All three launches give what the reference does, on every executor.
#[track_caller]
fn assert_same(problem: &Problem) {
    let expected = (problem.expect_begun(), problem.expect_added(), problem.expect_scores());
    for queue in common::queues() {
        assert_same_on(&queue, problem, &expected);
    }
}

type Expected = ([Vec<u32>; 2], [Vec<u32>; 2], Vec<u32>);

#[track_caller]
fn assert_same_on(queue: &Queue, problem: &Problem, (begun, added, scores): &Expected) {
    let assert_equal = |what: &str, found: &[u32], expected: &[u32]| {
        let first = found.iter().zip(expected).position(|(a, b)| a != b);
        assert_eq!(first, None, "the first that differs of {what}, on {}", queue.executor());
        assert_eq!(found.len(), expected.len());
    };
    let found = problem.begin(queue).unwrap();
    assert_equal("begun sums", &found[0], &begun[0]);
    assert_equal("begun counts", &found[1], &begun[1]);
    let found = problem.add(queue).unwrap();
    assert_equal("sums", &found[0], &added[0]);
    assert_equal("counts", &found[1], &added[1]);
    assert_equal("scores", &problem.weigh(queue).unwrap(), scores);
}

#[track_caller]
fn assert_same_norms<T: Value>(case: &NormCase) {
    let problem = case.build::<T>();
    let expected = problem.expect();
    for queue in common::queues() {
        assert_eq!(problem.measure(&queue).unwrap(), expected, "{case:?} on {}", queue.executor());
    }
}

fn with(shape: SaliencyShape) -> Case {
    Case { shape, ..Case::default() }
}

#[test]
fn groups_queries_orders_and_bases() {
    let shape = Case::default().shape;
    for (i, (group, n_queries)) in [(1, 1), (2, 8), (3, 2), (16, 8), (7, 5)].into_iter().enumerate()
    {
        let (log_sum_order, base) = (ORDERS[i % 3], BASES[i % 2]);
        let shape = SaliencyShape { n_q_heads: 2 * group, n_queries, log_sum_order, base, ..shape };
        assert_same(&with(shape).build());
    }
}

#[test]
fn tokens_and_positions_around_a_block() {
    let shape = Case::default().shape;
    for n in [0, 1, 255, 256, 257, 513] {
        let lengths = vec![u32::MAX, n as u32, 0];
        let shape = SaliencyShape { n_tokens: n, n_positions: 257, ..shape };
        assert_same(
            &Case { lengths: lengths.clone(), n_massed: 256, shape, ..Case::default() }.build(),
        );
        let shape = SaliencyShape { n_tokens: 257, n_positions: n, ..shape };
        let case = Case { lengths, n_massed: n, shape, has_tokens: false, ..Case::default() };
        assert_same(&case.build());
    }
}

#[test]
fn probes_around_a_block() {
    for n_probes in [0, 1, 255, 256, 257, 600] {
        assert_same(&Case { n_probes, ..Case::default() }.build());
    }
}

#[test]
fn tokens_around_a_block_that_begins() {
    let shape = Case::default().shape;
    for n_tokens in [2047, 2048, 2049, 4500] {
        let shape = SaliencyShape { n_tokens, n_positions: 1, ..shape };
        let lengths = vec![5000, 1800];
        assert_same(&Case { lengths, n_massed: 4100, shape, ..Case::default() }.build());
    }
}

#[test]
fn rules_of_scores() {
    let shape = Case::default().shape;
    for (i, lists) in LISTS.into_iter().cycle().take(8).enumerate() {
        let fresh = [f32::INFINITY, -1.0, f32::NEG_INFINITY, 0.0][i / 2];
        let (is_per_probe, floor) = (i % 3 != 0, [0.0, 1e-4][i / 4]);
        let shape = SaliencyShape { lists, fresh, is_per_probe, floor, decay: 0.75, ..shape };
        let case = Case { has_norms: i % 4 < 2, has_lengths: i % 3 < 2, ..with(shape) };
        assert_same(&case.build());
    }
}

#[test]
fn skipped_requests_are_left_alone() {
    let case = Case { has_skips: true, lengths: vec![300, 200, 17], ..Case::default() };
    assert_same(&case.build());
}

#[test]
fn hostile_data_stays_inside() {
    for seed in 0..6 {
        let lists = LISTS[seed as usize % 2];
        let shape = SaliencyShape { lists, n_queries: 3, ..Case::default().shape };
        let case = Case { seed, is_hostile: true, has_tokens: seed < 4, ..with(shape) };
        assert_same(&case.build());
    }
}

#[test]
fn every_schedule_and_both_kinds_of_fibres() {
    let shape = SaliencyShape { n_queries: 2, decay: 0.5, ..Case::default().shape };
    let problem = Case { n_probes: 300, has_skips: true, ..with(shape) }.build();
    let expected = (problem.expect_begun(), problem.expect_added(), problem.expect_scores());
    let norms = NormCase::default().build::<bf16>();
    for config in common::configs() {
        let queue = Queue::simt(config);
        assert_same_on(&queue, &problem, &expected);
        assert_eq!(norms.measure(&queue).unwrap(), norms.expect());
    }
}

/// What a token's sums are is its own matter: other tokens, heads and requests change nothing.
#[test]
fn a_request_does_not_see_the_others() {
    let problem = Case { lengths: vec![290; 3], ..Case::default() }.build();
    let alone = {
        let mut alone = Case { lengths: vec![290], ..Case::default() }.build();
        let [n, of_rows] = [alone.sums.len(), alone.log_sums.len()];
        let n_tokens = alone.tokens.as_ref().unwrap().len();
        alone.sums.copy_from_slice(&problem.sums[2 * n..]);
        alone.counts.copy_from_slice(&problem.counts[2 * n..]);
        alone.log_sums.copy_from_slice(&problem.log_sums[2 * of_rows..]);
        let n_logits = alone.logits.len();
        alone.logits.copy_from_slice(&problem.logits[2 * n_logits..]);
        let tokens = problem.tokens.as_ref().unwrap();
        alone.tokens = Some(tokens[2 * n_tokens..].to_vec());
        alone
    };
    for queue in common::queues() {
        let (all, one) = (problem.add(&queue).unwrap(), alone.add(&queue).unwrap());
        for (all, one) in all.iter().zip(&one) {
            assert_eq!(&all[2 * one.len()..], one);
        }
    }
}

#[test]
fn norms_of_all_types_and_dimensions() {
    for (i, head_dim) in [8, 56, 64, 72, 128, 256, 1024].into_iter().enumerate() {
        let norm = [Norm::L1, Norm::L2][i % 2];
        let is_hnd = i % 3 == 0;
        let case = NormCase { seed: head_dim, head_dim, norm, is_hnd, ..NormCase::default() };
        assert_same_norms::<bf16>(&case);
        assert_same_norms::<f16>(&NormCase { norm: Norm::L2, ..case.clone() });
        assert_same_norms::<E4m3>(&NormCase { value_scale: 0.37, ..case.clone() });
        assert_same_norms::<E5m2>(&NormCase { value_scale: -2.5, ..case });
    }
}

#[test]
fn norms_of_any_range_of_rows() {
    for (firsts, max_new) in [
        (None, 0),
        (Some(vec![0, 0]), 1),
        (Some(vec![299, 5]), 129),
        (Some(vec![300, 4]), 128),
        (Some(vec![u32::MAX, u32::MAX - 127]), 256),
        (Some(vec![1, 1]), u64::MAX),
    ] {
        let case = NormCase { firsts, max_new, ..NormCase::default() };
        assert_same_norms::<bf16>(&case);
        assert_same_norms::<bf16>(&NormCase { n_tokens: 130, ..case.clone() });
        assert_same_norms::<bf16>(&NormCase { lengths: vec![u32::MAX, 0], ..case });
    }
}

#[test]
fn norms_of_hostile_values_and_pages() {
    for norm in [Norm::L1, Norm::L2] {
        let case = NormCase { is_hostile: true, norm, page_size: 3, ..NormCase::default() };
        assert_same_norms::<bf16>(&case);
        assert_same_norms::<E4m3>(&case);
        assert_same_norms::<E5m2>(&NormCase { value_scale: f32::NAN, ..case });
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let shape = SaliencyShape::of(2, 8, 2, 100);
    for (shape, text) in [
        (SaliencyShape { batch: 1 << 16, ..shape }, "requests: 65536 is outside 0..65536"),
        (
            SaliencyShape { n_q_heads: 9, ..shape },
            "query heads: 9 is outside the multiples of the heads of keys",
        ),
        (
            SaliencyShape { n_tokens: (1 << 26) + 1, ..shape },
            "tokens: 67108865 is outside 0..=2^26",
        ),
        (SaliencyShape { n_queries: 9, ..shape }, "queries of a request: 9 is outside 1..=8"),
        (
            SaliencyShape { n_positions: 1 << 31, ..shape },
            "positions: 2147483648 is outside 0..2^31",
        ),
        (SaliencyShape { decay: 1.5, ..shape }, "decay: 1.5 is outside 0..=1"),
        (SaliencyShape { decay: f32::NAN, ..shape }, "decay: NaN is outside 0..=1"),
        (SaliencyShape { floor: -1.0, ..shape }, "floor of saliency: -1 is outside 0..=1e6"),
        (
            SaliencyShape { fresh: f32::NAN, ..shape },
            "score of a fresh token: NaN is outside all numbers, infinite ones too",
        ),
    ] {
        assert_eq!(SaliencyPlan::new(shape).unwrap_err().to_string(), text);
    }
    let queue = &common::queues()[0];
    let problem = Case::default().build();
    let short = |problem: Problem| problem.add(queue).unwrap_err().to_string();
    let logits = vec![0.0; 7];
    assert_eq!(short(Problem { logits, ..problem.clone() }), "logits: expected 3960, got 7");
    let tokens = Some(vec![0; 7]);
    let text = "tokens: expected 1320, got 7";
    assert_eq!(short(Problem { tokens, ..problem.clone() }), text);
    let case = NormCase { n_tokens: (1 << 26) + 1, ..NormCase::default() };
    assert_eq!(case.plan().unwrap_err().to_string(), "tokens: 67108865 is outside 0..=2^26");
}

/// By what differs, also where both pools have as many elements.
#[test]
fn a_cache_of_another_layout_than_the_plans_is_refused() {
    let queue = &common::queues()[0];
    let shape = KvShape {
        batch: 1,
        n_heads: 2,
        row_len: 8,
        n_pages: 1,
        page_size: 4,
        table_stride: 1,
        ..KvShape::default()
    };
    let [planned, layout] = [shape.nhd(), shape.hnd()].map(|shape| KvLayout::new(shape).unwrap());
    assert_eq!(planned.pool_len(), layout.pool_len());
    let plan = NormsPlan::new(NormsShape::of(planned)).unwrap();
    let pool = queue.upload(&vec![bf16::ONE; layout.pool_len() as usize]).unwrap();
    let (page_table, lengths) = (queue.upload(&[0]).unwrap(), queue.upload(&[4]).unwrap());
    let cache = KvView {
        layout,
        keys: pool.view(),
        values: Some(pool.view()),
        page_table: page_table.view(),
        lengths: lengths.view(),
        key_scale: 1.0,
        value_scale: 1.0,
    };
    let mut norms = queue.upload(&[0.0; 8]).unwrap();
    let error = measure_norms(queue, &plan, &cache, None, &mut norms.view_mut()).unwrap_err();
    assert_eq!(error.to_string(), "stride between the cache's rows: expected 16, got 8");
}

/// Means and sums over all heads cannot be added to.
#[test]
fn masses_that_are_no_sums_are_refused() {
    let queue = &common::queues()[0];
    let problem = Case::default().build();
    let shape = *problem.mass_plan.shape();
    let text = |shape: MassShape| {
        let mass_plan = MassPlan::new(shape)?;
        Err::<(), Error>(Problem { mass_plan, ..problem.clone() }.begin(queue).unwrap_err())
    };
    for (shape, expected) in [
        (MassShape { is_over_all_heads: true, ..shape }, "heads of the masses: expected 2, got 1"),
        (
            MassShape { is_mean: true, ..shape },
            "scale of the masses: 0.33333334 is outside 1: sums, not means",
        ),
        (
            MassShape { is_per_probe: true, ..shape },
            "masses by probes: 1 is outside 0: sums, not means",
        ),
        (MassShape { n_q_heads: 4, ..shape }, "query heads of the masses: expected 6, got 4"),
    ] {
        assert_eq!(text(shape).unwrap_err().to_string(), expected);
    }
}

prop_compose! {
    fn any_case()(
        seed in any::<u64>(),
        lengths in prop::collection::vec(0..400_u32, 1..4),
        (n_heads, group, n_queries) in (1..4_u64, 1..=16_u64, 1..=8_u64),
        (n_tokens, n_positions, n_massed, n_probes) in (0..400_u64, 0..400_u64, 0..400_u64, 0..20_u64),
        (order, base, lists) in (0..3_usize, 0..2_usize, 0..2_usize),
        (decay, is_per_probe, floor) in (0.0..=1.0_f32, any::<bool>(), 0.0..1.0_f32),
        (has_tokens, has_skips, has_lengths, has_norms, is_hostile) in
            any::<(bool, bool, bool, bool, bool)>(),
    ) -> Case {
        let shape = SaliencyShape {
            n_queries,
            n_positions,
            log_sum_order: ORDERS[order],
            base: BASES[base],
            decay,
            lists: LISTS[lists],
            is_per_probe,
            floor,
            ..SaliencyShape::of(0, n_heads * group, n_heads, n_tokens)
        };
        Case {
            seed, lengths, n_probes, n_massed, has_tokens, has_skips, has_lengths, has_norms,
            is_hostile, shape,
        }
    }
}

prop_compose! {
    fn any_norms()(
        seed in any::<u64>(),
        lengths in prop::collection::vec(0..400_u32, 2),
        firsts in prop::option::of(prop::collection::vec(0..400_u32, 2)),
        n_heads in 1..3_u64,
        head_dim in (1..=40_u64).prop_map(|n| 8 * n),
        page_size in prop::sample::select(vec![1_u64, 16, 100]),
        (is_hnd, is_squared, is_hostile) in any::<(bool, bool, bool)>(),
        (n_tokens, max_new) in (0..400_u64, 0..400_u64),
        value_scale in 0.1..4.0_f32,
    ) -> NormCase {
        let norm = if is_squared { Norm::L2 } else { Norm::L1 };
        NormCase {
            seed, lengths, firsts, n_heads, head_dim, page_size, is_hnd, n_tokens, max_new, norm,
            value_scale, is_hostile,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_saliency_is_the_reference_to_the_bit(case in any_case()) {
        assert_same(&case.build());
    }

    #[test]
    fn any_norms_are_the_reference_to_the_bit(case in any_norms(), is_wide: bool) {
        if is_wide {
            assert_same_norms::<f16>(&case);
        } else {
            assert_same_norms::<E4m3>(&case);
        }
    }
}

proptest! {
    #[test]
    fn plans_of_any_sizes_never_panic(
        sizes: [u64; 6],
        bits: [u64; 6],
        [decay, floor, fresh]: [f32; 3],
        is_per_request: bool,
    ) {
        // Also sizes that are allowed.
        let mut at = 0;
        let mut size = || {
            at += 1;
            sizes[at - 1] >> (bits[at - 1] % 64)
        };
        let shape = SaliencyShape {
            batch: size(),
            n_heads: size(),
            n_q_heads: size(),
            n_tokens: size(),
            n_queries: size(),
            n_positions: size(),
            decay,
            floor,
            fresh,
            lists: LISTS[usize::from(is_per_request)],
            ..SaliencyShape::of(0, 1, 1, 0)
        };
        let of_groups = SaliencyShape {
            n_q_heads: shape.n_heads.saturating_mul(4),
            decay: 0.5,
            floor: 0.0,
            fresh: 0.0,
            ..shape
        };
        for plan in [shape, of_groups].into_iter().flat_map(SaliencyPlan::new) {
            let lens = [plan.state_len(), plan.logits_len(), plan.scores_len()];
            prop_assert!(lens.iter().all(|len| *len < 1 << 45));
            prop_assert!(plan.least_bytes_of_step(true) < 1 << 57);
            let grids = [plan.begin_grid(), plan.add_grid(), plan.weigh_grid()];
            prop_assert!(grids.iter().all(|grid| grid.blocks[0] < 1 << 24));
        }
        let layout = NormCase::default().plan().unwrap().shape().layout;
        let shape = NormsShape { n_tokens: sizes[0], max_new: sizes[1], ..NormsShape::of(layout) };
        if let Ok(plan) = NormsPlan::new(shape) {
            prop_assert!(plan.grid().blocks[0] <= 1 << 19);
            prop_assert!(plan.norms_len() < 1 << 45);
        }
    }
}
