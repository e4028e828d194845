//! `column_mass`.

pub(crate) mod problem;

use half::{bf16, f16};
use lacuna::Queue;
use lacuna::element::{E4m3, E5m2};
use lacuna::select::{MassPlan, MassShape, Score};
use lacuna::simt::{Checks, Config, Fibres};
use proptest::prelude::*;

use self::problem::{CASE, Case, Problem};
use crate::common;
use crate::score::problem::Key;

#[track_caller]
fn assert_same<Q: Score, K: Key>(problem: &Problem<Q, K>) {
    for queue in common::queues() {
        assert_eq!(problem.run(&queue).unwrap(), problem.expect(), "{}", queue.executor());
    }
}

#[test]
fn every_way_to_sum_and_every_type() {
    for idx in 0..8 {
        let [is_over_all_heads, is_mean, is_per_probe] =
            [idx & 1, idx & 2, idx & 4].map(|bit| bit != 0);
        let case = Case { is_over_all_heads, is_mean, is_per_probe, ..CASE };
        assert_same::<f32, bf16>(&case.build());
    }
    let case = Case { lengths: [40, 3], n: 40, ..CASE };
    assert_same::<bf16, f16>(&case.build());
    assert_same(&Problem { key_scale: 0.03, ..case.build::<f16, E4m3>() });
    assert_same(&Problem { key_scale: 0.001, ..case.build::<bf16, E5m2>() });
}

#[test]
fn sizes_around_tiles_and_chunks() {
    for (head_dim, n) in
        [(8, 255), (128, 256), (136, 129), (256, 257), (264, 65), (512, 64), (64, 1)]
    {
        let case =
            Case { head_dim, lengths: [n, n / 2], n: n.into(), n_probes: 2, n_heads: 1, ..CASE };
        assert_same::<bf16, bf16>(&case.build());
    }
    for (n_probes, group) in [(0, 4), (1, 1), (1, 16), (4, 4), (5, 7), (33, 1)] {
        let case = Case { n_probes, group, lengths: [30, 30], n: 30, n_heads: 1, ..CASE };
        assert_same::<bf16, bf16>(&case.build());
    }
    for n in [0, 1] {
        assert_same::<bf16, bf16>(&Case { lengths: [n, 0], n: n.into(), ..CASE }.build());
    }
}

#[test]
fn hostile_pages_lengths_and_numbers() {
    let mut problem = Case { is_per_probe: true, ..CASE }.build::<bf16, bf16>();
    problem.page_table[1] = -1;
    problem.page_table[2] = i32::MAX;
    problem.lengths = vec![u32::MAX, 4_000_000_000];
    // Past the end, and nothing.
    problem.n_visible[0] = u32::MAX;
    problem.n_visible[1] = 0;
    assert_same(&problem);
    let specials = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -0.0];
    for (idx, key) in problem.keys.iter_mut().enumerate().filter(|(idx, _)| idx % 91 == 0) {
        *key = bf16::from_f32(specials[idx / 91 % specials.len()]);
    }
    problem.probes[100] = bf16::NAN;
    assert_same(&problem);
    assert_same(&Problem { skips: Some(vec![1, 0]), ..problem });
}

#[test]
fn every_schedule_and_fibre_gives_the_same_bits() {
    let problem = Case { lengths: [300, 0], n_heads: 1, ..CASE }.build::<bf16, bf16>();
    let expected = problem.expect();
    for schedule in common::SCHEDULES {
        for fibres in [Fibres::Native, Fibres::Portable] {
            let config =
                Config { schedule, fibres, seed: 3, checks: Checks::ALL, ..Config::default() };
            assert_eq!(problem.run(&Queue::simt(config)).unwrap(), expected, "{schedule:?}");
        }
    }
}

/// Every probe and head gives away one.
#[test]
fn masses_add_up() {
    let problem = CASE.build::<bf16, bf16>();
    for b in 0..2 {
        let masses = problem.probed().request(&problem.plan, b).concat();
        let sum: f64 = masses.iter().map(|mass| f64::from(*mass)).sum();
        // Of the short request, whose first probes see few tokens, all see some.
        assert!((sum - 42.0).abs() < 1e-4, "{sum}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_shape_gives_what_the_reference_gives(
        seed: u64, lengths in [0_u32..400, 0_u32..40], n_heads in 1_u64..3, group in 1_u64..6, head_dim in 1_u64..40,
        n_probes in 0_u64..9, n in 0_u64..400, flags: [bool; 3],
    ) {
        let [is_over_all_heads, is_mean, is_per_probe] = flags;
        let case = Case {
            seed, lengths, n_heads, group, head_dim: 8 * head_dim, n_probes, n, is_over_all_heads, is_mean, is_per_probe,
        };
        assert_same::<bf16, bf16>(&case.build());
    }

    #[test]
    fn no_shape_makes_a_plan_panic(numbers: [u64; 6], small: u8) {
        let pick = |idx: usize| if small >> idx & 1 == 0 { numbers[idx] } else { numbers[idx] % 99 };
        let shape = MassShape {
            n_q_heads: pick(0), n_probes: pick(1), request_stride: pick(2), probe_stride: pick(3), n: pick(4),
            mass_stride: pick(5), ..*CASE.plan().unwrap().shape()
        };
        let _ = MassPlan::new(shape).map(|plan| {
            (plan.probe_grid(), plan.mass_grid(), plan.workspace_len(), plan.masses_len(), plan.probes_len(),
                plan.least_bytes(2, 2))
        });
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let refused = |case: Case| case.plan().unwrap_err().to_string();
    assert_eq!(
        refused(Case { head_dim: 520, ..CASE }),
        "dimension of a head: 520 is outside the multiples of 8 up to 512"
    );
    assert_eq!(
        refused(Case { n_probes: 4097, ..CASE }),
        "probes of a request: 4097 is outside 0..=4096"
    );
    let queue = Queue::simt(Config::default());
    let mut problem = CASE.build::<bf16, bf16>();
    problem.n_visible.pop();
    assert_eq!(problem.run(&queue).unwrap_err().to_string(), "n_visible: expected 14, got 13");
}
