//! What must hold of the reference, whatever its bits are.

use lacuna::quant::reference::{Seen, norm_of_row, weigh_token};
use lacuna::quant::{Norm, SaliencyShape, choose_probes};
use proptest::prelude::*;

const SHAPE: fn() -> SaliencyShape = || SaliencyShape::of(1, 4, 1, 8);

#[test]
fn a_row_adds_its_weight_and_one() {
    let shape = SHAPE();
    let ln2 = std::f32::consts::LN_2;
    let seen = Seen::default().add(&shape, [[1.0, 3.0 * ln2], [f32::NEG_INFINITY, 1.0]]);
    assert!((seen.sum - 0.25).abs() < 1e-6);
    assert_eq!(seen.count, 1.0);
    // Half of what was before is forgotten, of both, so that their quotient is a mean.
    let shape = SaliencyShape { decay: 0.5, ..shape };
    let seen = Seen { sum: 3.0, count: 4.0 }.add(&shape, [[0.0, 0.0]]);
    assert_eq!(seen, Seen { sum: 2.5, count: 3.0 });
}

/// Whatever stands in logits and log-sums, a row adds from 0 to 1, and what is no probe does not count.
#[test]
fn no_row_adds_more_than_one() {
    let wild = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38, -3e38, 0.0];
    for (logit, log_sum) in wild.into_iter().flat_map(|a| wild.map(|b| (a, b))) {
        let seen = Seen::default().add(&SHAPE(), [[logit, log_sum]]);
        assert!((0.0..=1.0).contains(&seen.sum), "{logit} {log_sum}: {seen:?}");
        // 3e38 times log2(e) is infinite.
        let is_probe = log_sum == 0.0 && logit != f32::NEG_INFINITY;
        let is_odd = log_sum != 0.0 && (logit.is_nan() || logit == f32::INFINITY);
        let is_counted = is_probe || is_odd;
        assert_eq!(seen.count, if is_counted { 1.0 } else { 0.0 }, "{logit} {log_sum}");
        assert!(seen.sum == 0.0 || is_probe, "{logit} {log_sum}");
    }
    let of_nan = Seen { sum: 1.0, count: 1.0 }.add(&SHAPE(), [[f32::NAN, 0.0]]);
    assert_eq!(of_nan, Seen { sum: 1.0, count: 2.0 }, "it sinks");
}

#[test]
fn only_what_no_probe_saw_is_infinite() {
    let shape = SHAPE();
    let wild = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38, -3e38, 0.0, 2.0];
    for sum in wild {
        for (count, norm) in wild.into_iter().flat_map(|a| wild.map(|b| (a, b))) {
            for heads in [1, 2] {
                let head = (Seen { sum, count }, Some(norm));
                let score = weigh_token(&shape, &vec![head; heads]);
                assert_eq!(score.is_infinite(), count == 0.0, "{sum} {count} {norm}: {score}");
            }
        }
    }
    let seen = (Seen { sum: 1.0, count: 2.0 }, Some(3.0));
    assert_eq!(weigh_token(&shape, &[seen]), 1.5);
    assert_eq!(weigh_token(&shape, &[seen, seen]), 3.0);
    let floored = SaliencyShape { floor: 0.5, is_per_probe: false, ..shape };
    assert_eq!(weigh_token(&floored, &[seen]), 4.5);
    let fresh = SaliencyShape { fresh: -2.0, ..shape };
    assert_eq!(weigh_token(&fresh, &[seen, (Seen::default(), Some(1.0))]), -2.0);
}

#[test]
fn norms_are_those_of_the_textbook() {
    assert_eq!(norm_of_row(&[3.0, -4.0], Norm::L1, 1.0), 7.0);
    assert_eq!(norm_of_row(&[3.0, -4.0], Norm::L2, -2.0), 10.0);
    assert!(norm_of_row(&[f32::NAN, 1.0], Norm::L1, 1.0).is_nan());
}

/// The same on every machine, and for ever: a prompt's tiers depend on it.
#[test]
fn which_rows_are_probes_does_not_change() {
    assert_eq!(choose_probes(1, 100, 3, 5), [25, 28, 61, 66, 67, 97, 98, 99]);
    assert_eq!(choose_probes(2, 100, 0, 2), [28, 37]);
    assert_eq!(choose_probes(0, u32::MAX, 2, 0)[1], u32::MAX - 1);
}

/// Of ten rows each is chosen as often as the others.
#[test]
fn no_row_is_likelier_than_another() {
    let mut n = [0; 10];
    for seed in 0..10_000 {
        choose_probes(seed, 12, 2, 3).iter().take(3).for_each(|row| n[*row as usize] += 1);
    }
    assert!(n.iter().all(|n| (2850..3150).contains(n)), "{n:?}");
}

proptest! {
    #[test]
    fn exactly_so_many_rows_are_probes(
        seed: u64, n_rows in 0..2000_u32, n_recent in 0..2500_u32, n_random in 0..2500_u32,
    ) {
        let probes = choose_probes(seed, n_rows, n_recent, n_random);
        let n = u64::from(n_recent) + u64::from(n_random);
        prop_assert_eq!(probes.len() as u64, n.min(n_rows.into()));
        prop_assert!(probes.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(probes.last().is_none_or(|last| *last < n_rows));
        let first_recent = n_rows.saturating_sub(n_recent);
        prop_assert_eq!(
            probes.iter().filter(|row| **row >= first_recent).count() as u32,
            n_recent.min(n_rows)
        );
        prop_assert_eq!(choose_probes(seed, n_rows, n_recent, n_random), probes);
    }

    /// Sums never exceed counts, whatever rows there are: saliency is at most 1.
    #[test]
    fn saliency_is_a_mean_of_weights(
        rows in prop::collection::vec(any::<[f32; 2]>(), 1..40), decay in 0.0..=1.0_f32,
    ) {
        let shape = SaliencyShape { decay, ..SHAPE() };
        let mut seen = Seen::default();
        for rows in rows.chunks(3) {
            seen = seen.add(&shape, rows.iter().copied());
        }
        prop_assert!(seen.sum >= 0.0 && seen.sum <= seen.count * (1.0 + 1e-5));
        prop_assert!(seen.count == 0.0 || weigh_token(&shape, &[(seen, None)]) <= 1.0 + 1e-5);
    }
}
