//! `quantize_pages` and `dequantize_pages`.

pub(crate) mod problem;

use half::{bf16, f16};
use lacuna::Queue;
use lacuna::element::{Half, Real};
use lacuna::kv::KvLists;
use lacuna::quant::{MissingPage, PagesPlan, PagesShape, Tail, Tier};
use proptest::prelude::*;

use self::problem::{Case, Problem};
use crate::cache::POISON;
use crate::common;

/// Both launches give what the reference does, on every executor.
#[track_caller]
fn assert_same<T: Half + Real>(problem: &Problem<T>) {
    let pools = problem.expected_pools();
    let apart = problem.clone().without_repeats();
    let rows = apart.expected_rows(&pools);
    for queue in common::queues() {
        let (found, status) = problem.quantize_with_status(&queue).unwrap();
        assert_pools(&found, &pools, &queue);
        assert_eq!(status, problem.expected_status(), "{:?}", MissingPage::from_status(status));
        let (found, status) = apart.dequantize_with_status(&queue, &pools).unwrap();
        assert_eq!(status, apart.expected_status(), "{:?}", MissingPage::from_status(status));
        for (found, expected) in found.iter().zip(&rows) {
            let first = found.iter().zip(expected).position(|(a, b)| a.bits() != b.bits());
            assert_eq!(first, None, "the first element that differs, on {}", queue.executor());
        }
    }
}

/// Pages of any bytes are the rows that the reference reads of them.
#[track_caller]
fn assert_read<T: Half + Real>(case: &Case) {
    let problem = case.build::<T>().without_repeats();
    let pools = problem.hostile_pools(case.seed);
    let rows = problem.expected_rows(&pools);
    for queue in common::queues() {
        let found = problem.dequantize(&queue, &pools).unwrap();
        for (found, expected) in found.iter().zip(&rows) {
            let first = found.iter().zip(expected).position(|(a, b)| a.bits() != b.bits());
            assert_eq!(first, None, "the first element that differs, on {}", queue.executor());
        }
    }
}

#[track_caller]
fn assert_pools(found: &[Vec<u8>; 4], expected: &[Vec<u8>; 4], queue: &Queue) {
    for tier in Tier::ALL {
        let [found, expected] = [found, expected].map(|pools| &pools[tier.tag() as usize]);
        let first = found.iter().zip(expected).position(|(a, b)| a != b);
        assert_eq!(first, None, "the first byte that differs of {tier}, on {}", queue.executor());
    }
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
fn counts_around_a_page() {
    let case = Case { has_counts: false, lengths: vec![200], ..Case::default() };
    assert_same(&case.build::<bf16>());
    for n in [0, 1, 63, 64, 65, 191, 192, 193, u32::MAX] {
        let counts = Some(vec![n, 192 - n.min(192)]);
        assert_same(&Problem { counts, ..case.build::<bf16>() });
    }
}

#[test]
fn lists_of_requests_and_channels_of_spans() {
    let case = Case { n_pages: 5, lists: KvLists::PerRequest, ..Case::default() };
    for (span_pages, has_scales, has_offsets) in
        [(1, true, true), (2, true, false), (5, false, true), (9, false, false)]
    {
        assert_same(&Case { span_pages, has_scales, has_offsets, ..case.clone() }.build::<bf16>());
    }
}

#[test]
fn hostile_lists_and_numbers_stay_inside() {
    for seed in 0..8 {
        let case = Case { seed, is_hostile: true, ..Case::default() };
        assert_same(&case.build::<bf16>());
        assert_same(&Case { has_scales: false, ..case }.build::<f16>());
    }
}

/// Lists, entries and page tables of anything, over bytes of anything.
#[test]
fn hostile_pages_are_rows_of_both_tails() {
    for tail in [Tail::ZeroPoints, Tail::Minimums] {
        for head_dim in (32..=256).step_by(32) {
            let case = Case { tail, head_dim, seed: head_dim, ..Case::default() };
            assert_read::<bf16>(&case);
            let case = Case { is_hostile: true, has_scales: false, ..case };
            assert_read::<f16>(&case);
            assert_read::<bf16>(&Case { has_scales: true, has_offsets: false, ..case });
        }
    }
}

#[test]
fn minimums_are_not_quantized_to() {
    let problem = Case { tail: Tail::Minimums, ..Case::default() }.build::<bf16>();
    let text = "bytes of a page after its codes: 512 is outside 256, those of zero points";
    for queue in common::queues() {
        assert_eq!(problem.quantize(&queue).unwrap_err().to_string(), text);
    }
    let of_64 = |tail| Case { tail, ..Case::default() }.plan().unwrap().pool_bytes(Tier::T2);
    let [zero_points, minimums] = [of_64(Tail::ZeroPoints), of_64(Tail::Minimums)];
    assert_eq!(minimums - zero_points, 256 * zero_points / (64 * 64 / 4 + 256));
}

/// A step is 0, and not -0, whose quotients are no numbers.
#[test]
fn rows_of_negative_zeros_are_zeros() {
    for tiers in [vec![Tier::T8], vec![Tier::T2]] {
        let (has_scales, has_offsets) = (false, false);
        let case = Case { tiers, has_scales, has_offsets, ..Case::default() };
        let mut problem = case.build::<bf16>();
        problem.cache.rows.iter_mut().for_each(|rows| rows.fill(bf16::NEG_ZERO));
        assert_same(&problem);
    }
}

/// Their squares are nothing.
#[test]
fn rows_of_tiny_numbers() {
    let (has_scales, has_offsets) = (false, false);
    let case = Case { tiers: vec![Tier::T2], has_scales, has_offsets, ..Case::default() };
    let mut problem = case.build::<bf16>();
    for element in problem.cache.rows.iter_mut().flatten() {
        *element = bf16::from_f32(element.to_f32() * 2.0_f32.powi(-90));
    }
    assert_same(&problem);
}

#[test]
fn every_schedule_and_both_kinds_of_fibres() {
    let problem = Case { head_dim: 96, ..Case::default() }.build::<bf16>();
    let pools = problem.expected_pools();
    let apart = problem.clone().without_repeats();
    let rows = apart.expected_rows(&pools);
    for config in common::configs() {
        let queue = Queue::simt(config);
        assert_pools(&problem.quantize(&queue).unwrap(), &pools, &queue);
        assert!(apart.dequantize(&queue, &pools).unwrap() == rows);
    }
    let case = Case { head_dim: 96, tail: Tail::Minimums, has_scales: false, ..Case::default() };
    let problem = case.build::<f16>().without_repeats();
    let pools = problem.hostile_pools(9);
    let bits = |rows: [Vec<f16>; 2]| rows.map(|rows| rows.into_iter().map(f16::to_bits).collect());
    let rows: [Vec<u16>; 2] = bits(problem.expected_rows(&pools));
    for config in common::configs() {
        let queue = Queue::simt(config);
        assert!(bits(problem.dequantize(&queue, &pools).unwrap()) == rows);
    }
}

/// A page's bytes are those of its rows, whatever other pages there are.
#[test]
fn a_page_does_not_see_the_others() {
    let case = Case { lengths: vec![150], n_heads: 1, tiers: vec![Tier::T4], ..Case::default() };
    let problem = Problem { counts: None, ..case.build::<bf16>() };
    let mut alone = problem.clone();
    for entries in &mut alone.entries {
        entries[0] |= 0x3FFF_FFFF;
        entries[2] |= 0x3FFF_FFFF;
    }
    let page = problem.plan.page(lacuna::quant::Part::Keys).page_bytes(Tier::T4);
    for queue in common::queues() {
        let (all, one) = (problem.quantize(&queue).unwrap(), alone.quantize(&queue).unwrap());
        let [all, one] = [&all[2], &one[2]];
        assert_eq!(all[page..2 * page], one[page..2 * page]);
        assert!(one[..page].iter().all(|byte| *byte == POISON));
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let shape = *Case::default().plan().unwrap().shape();
    for (shape, text) in [
        (PagesShape { n_pages: 1 << 20, ..shape }, "pages of a list: 1048576 is outside 0..2^20"),
        (PagesShape { span_pages: 0, ..shape }, "pages of a span: 0 is outside 1..=2^20"),
        (
            PagesShape { n_pool_pages: [(1 << 30) + 1, 0, 0, 0], ..shape },
            "pages of a pool: 1073741825 is outside 0..=2^30",
        ),
    ] {
        assert_eq!(PagesPlan::new(shape).unwrap_err().to_string(), text);
    }
    let error = Case { head_dim: 80, ..Case::default() }.plan().unwrap_err();
    assert_eq!(
        error.to_string(),
        "elements of a head: 80 is outside the multiples of 32 up to 256"
    );
    let queue = &common::queues()[0];
    let problem = Case::default().build::<bf16>();
    let short = Problem { indices: vec![0; 7], ..problem.clone() };
    assert_eq!(short.quantize(queue).unwrap_err().to_string(), "indices: expected 768, got 7");
    let entries = [vec![0; 3], problem.entries[1].clone()];
    let short = Problem { entries, ..problem };
    assert_eq!(short.quantize(queue).unwrap_err().to_string(), "key_entries: expected 12, got 3");
}

prop_compose! {
    fn any_case()(
        seed in any::<u64>(),
        lengths in prop::collection::vec(0..200_u32, 1..4),
        n_heads in 1..3_u64,
        head_dim in (1..=8_u64).prop_map(|n| 32 * n),
        page_size in prop::sample::select(vec![1_u64, 16, 100]),
        (is_hnd, is_per_head) in any::<(bool, bool)>(),
        n_pages in 0..4_u64,
        span_pages in 1..4_u64,
        (has_counts, has_scales, has_offsets, is_hostile) in any::<(bool, bool, bool, bool)>(),
    ) -> Case {
        let lists = if is_per_head { KvLists::PerHead } else { KvLists::PerRequest };
        Case {
            seed, lengths, n_heads, head_dim, page_size, is_hnd, lists, n_pages, span_pages,
            has_counts, has_scales, has_offsets, is_hostile, tiers: Tier::ALL.to_vec(),
            tail: Tail::ZeroPoints,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_pages_are_the_reference_to_the_bit(case in any_case(), is_short: bool) {
        if is_short {
            assert_same(&case.build::<f16>());
        } else {
            assert_same(&case.build::<bf16>());
        }
    }

    #[test]
    fn any_bytes_are_pages(case in any_case(), has_minimums: bool) {
        let tail = if has_minimums { Tail::Minimums } else { Tail::ZeroPoints };
        assert_read::<bf16>(&Case { tail, ..case });
    }

    #[test]
    fn a_plan_of_any_sizes_never_panics(
        n_pages: u64,
        span_pages: u64,
        n_pool_pages: [u64; 4],
    ) {
        let layout = Case::default().plan().unwrap().shape().layout;
        let shape = PagesShape { n_pages, span_pages, n_pool_pages, ..PagesShape::of(layout, 1) };
        if let Ok(plan) = PagesPlan::new(shape) {
            let lens = [plan.entries_len(), plan.indices_len(), plan.channels_len()];
            prop_assert!(lens.iter().all(|len| *len < 1 << 45));
            prop_assert!(Tier::ALL.iter().all(|tier| plan.pool_bytes(*tier) < 1 << 50));
            prop_assert!(plan.grid().blocks[0] < 1 << 20);
        }
    }
}
