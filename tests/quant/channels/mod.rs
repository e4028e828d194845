//! `measure_channels`.

pub(crate) mod problem;

use half::{bf16, f16};
use lacuna::Queue;
use lacuna::element::{Half, Real};
use lacuna::kv::KvLists;
use lacuna::quant::reference::{Channels, Moments, measure, normalize};
use proptest::prelude::*;

use self::problem::{Case, Found, Problem};
use crate::common::{self, Random};

#[track_caller]
fn assert_same<T: Half + Real>(problem: &Problem<T>) {
    let expected = problem.expected();
    for queue in common::queues() {
        assert_found(&problem.launch(&queue).unwrap(), &expected, &queue);
    }
}

#[track_caller]
fn assert_found(found: &Found, expected: &Found, queue: &Queue) {
    for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
        assert_eq!(found.as_ref().map(Vec::len), expected.as_ref().map(Vec::len));
        let pairs = found.iter().flatten().zip(expected.iter().flatten());
        let first = pairs.clone().position(|(a, b)| a != b);
        assert_eq!(first, None, "the first figure that differs, on {}", queue.executor());
    }
}

/// Mean and root mean square around `offset`, in f64.
fn exact(numbers: &[f32], offset: Option<f64>) -> [f64; 2] {
    let n = numbers.len() as f64;
    let mean = numbers.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let around = offset.unwrap_or(mean);
    let square = numbers.iter().map(|x| (f64::from(*x) - around).powi(2)).sum::<f64>() / n;
    [mean, square.sqrt()]
}

/// A mean is off by up to 2^-20 of its size and of the spread, and a scale by as much of its own; by 2^-16 where the first number of a chain is a thousand
/// spreads from the others.
#[test]
fn figures_are_near_those_of_f64() {
    let mut random = Random(5);
    for (mean, spread, n) in [
        (0.0, 1.0, 1),
        (0.0, 1.0, 2),
        (0.0, 1.0, 513),
        (3.0, 1.0, 20_000),
        (100.0, 0.5, 5_000),
        (-1000.0, 4.0, 131_072),
        (0.0, 1e-6, 3_000),
        (1e10, 1e9, 3_000),
    ] {
        let mut rows: Vec<[bf16; 1]> =
            (0..n).map(|_| [bf16::from_f32(random.normal() * spread + mean)]).collect();
        for outlier in [None, Some(1e3)] {
            // A chain's first number is far from all others.
            if let Some(outlier) = outlier {
                rows[0] = [bf16::from_f32(mean + outlier * spread)];
            }
            let scale_bound = 2.0_f64.powi(if outlier.is_some() { -16 } else { -20 });
            let numbers: Vec<f32> = rows.iter().map(|[x]| x.to_f32()).collect();
            let slots: Vec<Option<&[bf16]>> = rows.iter().map(|row| Some(&row[..])).collect();
            let found = measure(&slots, 1, true);
            let [mean, deviation] = exact(&numbers, None);
            let scale = if deviation == 0.0 { 1.0 } else { deviation };
            let off = (f64::from(found.offsets[0]) - mean).abs();
            let bound = 2.0_f64.powi(-20) * (mean.abs() + deviation);
            assert!(off <= bound, "{n} of {mean}: {off}, {bound}");
            let off = (f64::from(found.scales[0]) / scale - 1.0).abs();
            assert!(off <= scale_bound, "{n} of {deviation}: {off}");
            let found = measure(&slots, 1, false);
            assert!(found.offsets.is_empty());
            let [_, root] = exact(&numbers, Some(0.0));
            let off = (f64::from(found.scales[0]) / root - 1.0).abs();
            assert!(off <= scale_bound, "{n} of {root}: {off}");
        }
    }
}

/// The figures by which `cargo accuracy` measures the format (xtask/src/accuracy/own.rs), but for rounding.
#[test]
fn figures_are_those_that_the_format_was_measured_with() {
    let case = Case { has_counts: false, head_dim: 64, ..Case::default() };
    let problem = case.build::<bf16>();
    for at in problem.each_span() {
        for part in 0..2 {
            let rows: Vec<Vec<f32>> = problem
                .slots(at, part)
                .into_iter()
                .flatten()
                .map(|row| row.iter().map(|x| x.to_f32()).collect())
                .collect();
            let n = rows.len() as f32;
            let mut offsets = [0.0_f32; 64];
            if part == 0 {
                for row in &rows {
                    offsets.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
                }
                offsets.iter_mut().for_each(|sum| *sum /= n);
            }
            let mut scales = [0.0_f32; 64];
            for row in &rows {
                for ((sum, x), offset) in scales.iter_mut().zip(row).zip(&offsets) {
                    *sum += (x - offset) * (x - offset);
                }
            }
            let found = problem.measured(at, part);
            for (c, sum) in scales.iter().enumerate() {
                let scale = (sum / n).sqrt().max(f32::MIN_POSITIVE);
                let spread = if part == 0 { scale } else { 0.0 };
                if let Some(offset) = found.offsets.get(c) {
                    assert!((offset - offsets[c]).abs() <= 1e-5 * (offset.abs() + spread));
                }
                // Of one number, what is left is rounding there, and nothing here.
                let is_one = c % 8 == 3 && part == 0 || c % 8 == 6;
                if is_one {
                    assert_eq!(found.scales[c], 1.0);
                } else {
                    assert!((found.scales[c] / scale - 1.0).abs() < 1e-4, "{c}");
                }
            }
        }
    }
}

#[test]
fn scales_and_offsets_are_finite_and_make_sound_rows() {
    let of = |numbers: &[f32], has_offsets| {
        let rows: Vec<[bf16; 1]> = numbers.iter().map(|x| [bf16::from_f32(*x)]).collect();
        let slots: Vec<Option<&[bf16]>> = rows.iter().map(|row| Some(&row[..])).collect();
        let found = measure(&slots, 1, has_offsets);
        (found.offsets.first().copied(), found.scales[0])
    };
    let (nan, infinity) = (f32::NAN, f32::INFINITY);
    assert_eq!(of(&[], true), (Some(0.0), 1.0));
    assert_eq!(of(&[nan, infinity, -infinity], true), (Some(0.0), 1.0));
    assert_eq!(of(&[3.0; 100], true), (Some(3.0), 1.0));
    assert_eq!(of(&[3.0; 100], false), (None, 3.0));
    assert_eq!(of(&[0.0, -0.0], false), (None, 1.0));
    // What is no number has no part, first or not.
    assert_eq!(of(&[nan, 2.0, infinity, 4.0, -infinity], true), (Some(3.0), 1.0));
    assert_eq!(of(&[1.0, 5.0], true), (Some(3.0), 2.0));
    assert_eq!(of(&[3e38; 9], false), (None, f32::MAX));
    let (offset, scale) = of(&[3e38, -3e38, 3e38, -3e38], true);
    assert!(offset.unwrap().is_finite());
    assert_eq!(scale, f32::MAX);
    // Squares of means are infinite, and of spreads not.
    let (offset, scale) = of(&[2.0_f32.powi(66), 1.5 * 2.0_f32.powi(66)], true);
    assert_eq!(offset, Some(1.25 * 2.0_f32.powi(66)));
    assert_eq!(scale, f32::MAX);
    let (_, scale) = of(&[2.0_f32.powi(66), 2.0_f32.powi(66) * (1.0 + 1.0 / 128.0)], true);
    assert_eq!(scale, 2.0_f32.powi(58));
    // A number that comes later is neither lost nor infinite.
    let channels = Channels { scales: Some(&[1.0]), offsets: Some(&[3.0]) };
    assert_eq!(normalize(&[bf16::from_f32(3.5)], &channels), [0.5]);
}

#[test]
fn moments_of_two_are_those_of_one_after_the_other() {
    let [a, b] = [&[1.0, 2.0, 4.0, 1.0][..], &[7.0, -5.0]].map(|x| x.iter().copied());
    let joined = Moments::of_chain(a.clone()).join(Moments::of_chain(b.clone()));
    let whole = Moments::of_chain(a.clone().chain(b));
    assert_eq!((joined.n, whole.n), (6, 6));
    assert!((joined.mean - whole.mean).abs() < 1e-6);
    assert!((joined.squares - whole.squares).abs() < 1e-4);
    let one = Moments::of_chain(a);
    assert_eq!(one.join(Moments::default()), one);
    assert_eq!(Moments::default().join(one), one);
}

#[test]
fn head_dimensions() {
    for head_dim in (32..=256).step_by(32) {
        let case = Case { head_dim, seed: head_dim, ..Case::default() };
        assert_same(&case.build::<bf16>());
        assert_same(&Case { is_hnd: false, ..case }.build::<f16>());
    }
}

#[test]
fn spans_and_counts_around_a_piece() {
    for (n_pages, span_pages) in
        [(0, 1), (1, 1), (3, 2), (8, 8), (9, 8), (16, 9), (17, 16), (20, 1 << 20), (5, 5)]
    {
        let case = Case { n_pages, span_pages, lengths: vec![300], ..Case::default() };
        assert_same(&case.build::<bf16>());
    }
    let case = Case { n_pages: 9, lengths: vec![700], n_heads: 2, ..Case::default() };
    for n in [0, 1, 7, 8, 9, 63, 64, 511, 512, 513, 575, 576, 577, u32::MAX] {
        let counts = Some(vec![n, 576 - n.min(576)]);
        assert_same(&Problem { counts, ..case.build::<bf16>() });
    }
}

#[test]
fn lists_of_requests_and_what_is_asked_for() {
    let case = Case { lists: KvLists::PerRequest, ..Case::default() };
    for asked in [
        [[true, true], [true, true]],
        [[false, true], [true, false]],
        [[true, false], [false, false]],
        [[false, false], [false, true]],
        [[false, false], [false, false]],
    ] {
        assert_same(&Case { asked, ..case.clone() }.build::<bf16>());
    }
}

#[test]
fn hostile_lists_and_numbers_stay_inside() {
    for seed in 0..8 {
        let case = Case { seed, is_hostile: true, n_pages: 30, span_pages: 28, ..Case::default() };
        assert_same(&case.build::<bf16>());
        assert_same(&Case { asked: [[true, false], [true, true]], ..case }.build::<f16>());
    }
}

#[test]
fn every_schedule_and_both_kinds_of_fibres() {
    let case = Case { n_heads: 1, n_pages: 17, span_pages: 17, ..Case::default() };
    let problem = case.build::<bf16>();
    let expected = problem.expected();
    for config in common::configs() {
        let queue = Queue::simt(config);
        assert_found(&problem.launch(&queue).unwrap(), &expected, &queue);
    }
}

/// A span's figures are those of its slots, whatever other spans, heads and requests there are.
#[test]
fn a_span_does_not_see_the_others() {
    let case = Case { has_counts: false, span_pages: 3, n_pages: 7, ..Case::default() };
    let problem = case.build::<bf16>();
    let mut alone = problem.clone();
    // Of the first head's second span.
    for (i, index) in alone.indices.iter_mut().enumerate() {
        if !(3 * 64..6 * 64).contains(&i) {
            *index = -1;
        }
    }
    for queue in common::queues() {
        let [all, one] = [&problem, &alone].map(|problem| problem.launch(&queue).unwrap());
        for (all, one) in all.iter().flatten().zip(one.iter().flatten()) {
            let (Some(all), Some(one)) = (all, one) else { continue };
            assert_eq!(all[32..64], one[32..64]);
            assert_ne!(all[..32], one[..32]);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let queue = &common::queues()[0];
    let problem = Case::default().build::<bf16>();
    let short = Problem { indices: vec![0; 7], ..problem.clone() };
    assert_eq!(short.launch(queue).unwrap_err().to_string(), "indices: expected 2816, got 7");
    let short = Problem { counts: Some(vec![0; 3]), ..problem };
    assert_eq!(short.launch(queue).unwrap_err().to_string(), "counts: expected 4, got 3");
    let error = Case { head_dim: 80, ..Case::default() }.plan().unwrap_err();
    assert_eq!(
        error.to_string(),
        "elements of a head: 80 is outside the multiples of 32 up to 256"
    );
}

prop_compose! {
    fn any_case()(
        seed in any::<u64>(),
        lengths in prop::collection::vec(0..400_u32, 1..4),
        n_heads in 1..3_u64,
        head_dim in (1..=8_u64).prop_map(|n| 32 * n),
        page_size in prop::sample::select(vec![1_u64, 16, 100]),
        (is_hnd, is_per_head) in any::<(bool, bool)>(),
        n_pages in 0..20_u64,
        span_pages in 1..20_u64,
        asked in any::<[[bool; 2]; 2]>(),
        (has_counts, is_hostile) in any::<(bool, bool)>(),
    ) -> Case {
        let lists = if is_per_head { KvLists::PerHead } else { KvLists::PerRequest };
        Case {
            seed, lengths, n_heads, head_dim, page_size, is_hnd, lists, n_pages, span_pages,
            has_counts, asked, is_hostile,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_channels_are_the_reference_to_the_bit(case in any_case(), is_short: bool) {
        if is_short {
            assert_same(&case.build::<f16>());
        } else {
            assert_same(&case.build::<bf16>());
        }
    }

    #[test]
    fn any_scale_is_normal_and_any_offset_finite(
        numbers in prop::collection::vec(any::<u16>(), 0..700),
        has_offsets: bool,
    ) {
        let rows: Vec<[bf16; 1]> = numbers.into_iter().map(|x| [bf16::from_bits(x)]).collect();
        let slots: Vec<Option<&[bf16]>> = rows.iter().map(|row| Some(&row[..])).collect();
        let found = measure(&slots, 1, has_offsets);
        prop_assert!(found.scales[0].is_normal() && found.scales[0] > 0.0);
        prop_assert!(found.offsets.iter().all(|offset| offset.is_finite()));
    }

    #[test]
    fn a_plan_of_any_sizes_never_panics(n_pages in 0..1_u64 << 20, shift in 0..20_u32) {
        let span_pages = (n_pages >> shift).max(1);
        let case = Case { n_pages, span_pages, lengths: vec![9], ..Case::default() };
        if let Ok(plan) = case.plan() {
            prop_assert!(u64::from(plan.grid().blocks[0]) <= n_pages.max(1) + span_pages);
            prop_assert!(plan.workspace_len() < 1 << 40);
            prop_assert!(plan.n_tickets() <= plan.workspace_len());
        }
    }
}
