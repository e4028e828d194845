//! What holds of any rows: of the reference alone, and of the kernel beside it.

use half::{bf16, f16};
use lacuna::Queue;
use lacuna::select::reference::{RowRule, topk_row};
use lacuna::select::{Order, Rule, Score, TopkPages, TopkPlan, TopkShape};
use lacuna::simt::Config;
use proptest::prelude::*;

use super::problem::*;

#[test]
fn keys_ascend_with_scores() {
    let ascending = [
        f32::NAN,
        f32::NEG_INFINITY,
        f32::MIN,
        -1.0,
        -1e-40,
        0.0,
        1e-40,
        1.0,
        f32::MAX,
        f32::INFINITY,
    ];
    assert!(ascending.windows(2).all(|pair| pair[0].key() < pair[1].key()));
    assert_eq!(0.0_f32.key(), (-0.0_f32).key());
    assert_eq!(f32::NAN.key(), (-f32::NAN).key());
    for bits in 0..=u16::MAX {
        let (half, brain) = (f16::from_bits(bits), bf16::from_bits(bits));
        for other in [0_u16, 1, 0x3C00, 0x7C00, 0x7F80, 0x8001, 0xBC00, 0xFC00, 0xFF80] {
            let order = |x: f32, y: f32| x.partial_cmp(&y);
            let (a, b) = (f16::from_bits(other), bf16::from_bits(other));
            if let Some(order) = order(half.to_f32(), a.to_f32()) {
                assert_eq!(half.key().cmp(&a.key()), order);
            }
            if let Some(order) = order(brain.to_f32(), b.to_f32()) {
                assert_eq!(brain.key().cmp(&b.key()), order);
            }
        }
        assert_eq!(half.is_nan(), half.key() == 0);
        assert_eq!(brain.is_nan(), brain.key() == 0);
    }
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let share = prop_oneof![Just(0.0_f32), Just(1.0), 0.0..=1.0_f32, 0.0..1e-6_f32];
    let percent = prop_oneof![Just(0.0_f32), Just(100.0), Just(30.0), 0.0..=100.0_f32];
    let least = prop_oneof![
        Just(0.0_f32),
        Just(-0.0),
        Just(1.0),
        Just(f32::NEG_INFINITY),
        Just(f32::INFINITY),
        -2.0..2.0_f32,
        any::<f32>().prop_filter("a number", |x| !x.is_nan()),
    ];
    prop_oneof![
        Just(Rule::Largest),
        share.prop_map(|share| Rule::Mass { share }),
        least.prop_map(|least| Rule::AtLeast { least }),
        percent.prop_map(|percent| Rule::Percentile { percent }),
    ]
}

/// Of the formula, in floating point: all products are exact.
fn weight(score: f32, scores: &[f32]) -> u128 {
    let largest = scores.iter().filter(|x| x.is_finite()).fold(f32::MIN_POSITIVE, |a, b| a.max(*b));
    let exponent = f64::from(largest).log2().floor();
    let exact = f64::from(score) * (39.0 - exponent).exp2();
    if score == f32::INFINITY { (1 << 40) - 1 } else { exact.max(0.0) as u128 }
}

proptest! {
    /// Of the reference alone: as many as may be, of candidates only, and none left out that is better.
    #[test]
    fn picks_are_the_first_by_score_and_index(
        seed: u64, n in 0_usize..60, k in 0_usize..70, start in 0_usize..70, length in 0_usize..70,
    ) {
        let scores = few_values(n, seed);
        let rule = RowRule { start, length, k, ..RowRule::default() };
        let picks = topk_row(&scores, &rule).indices;
        let candidates: Vec<_> = (start..n.min(start + length)).collect();
        prop_assert_eq!(picks.len(), k.min(candidates.len()));
        prop_assert!(picks.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(picks.iter().all(|pick| candidates.contains(pick)));
        let left: Vec<_> = candidates.into_iter().filter(|i| !picks.contains(i)).collect();
        let is_better = |one: usize, other: usize| {
            let [one_key, other_key] = [scores[one].key(), scores[other].key()];
            one_key > other_key || (one_key == other_key && one < other)
        };
        for pick in &picks {
            prop_assert!(left.iter().all(|other| is_better(*pick, *other)));
        }
        let ranked = topk_row(&scores, &RowRule { order: Order::Score, ..rule }).indices;
        prop_assert!(ranked.windows(2).all(|pair| is_better(pair[0], pair[1])));
        let sorted: std::collections::BTreeSet<_> = ranked.into_iter().collect();
        prop_assert_eq!(sorted.into_iter().collect::<Vec<_>>(), picks);
    }

    /// Of the reference alone: the set reaches its mass, and no smaller one does.
    #[test]
    fn a_mass_is_reached_by_the_fewest(
        seed: u64, n in 0_usize..60, share in 0.0..=1.0_f32, n_first in 0_usize..4, ties: bool,
    ) {
        let scores = if ties { few_values(n, seed) } else { weights(n, seed) };
        let rule = RowRule {
            length: n, k: n, n_first, rule: Rule::Mass { share }, order: Order::Score,
            ..RowRule::default()
        };
        let found = topk_row(&scores, &rule);
        let mass_of = |picks: &[usize]| -> u128 {
            picks.iter().map(|i| weight(scores[*i], &scores)).sum()
        };
        let total = mass_of(&(0..n).collect::<Vec<_>>());
        // As the plan says, in units of 2^-32.
        let share = (f64::from(share) * 2_f64.powi(32)).ceil() as u128;
        let reaches = |mass: u128| mass << 32 >= total * share;
        prop_assert_eq!(found.n_wanted, found.indices.len());
        prop_assert!(found.n_wanted >= n_first.min(n));
        prop_assert!(reaches(mass_of(&found.indices)));
        if found.n_wanted > n_first.min(n) {
            prop_assert!(!reaches(mass_of(&found.indices[..found.n_wanted - 1])));
        }
        // With fewer places, the first of them.
        let fewer = topk_row(&scores, &RowRule { k: n / 3, ..rule });
        prop_assert_eq!(fewer.n_wanted, found.n_wanted);
        prop_assert_eq!(&fewer.indices[..], &found.indices[..found.n_wanted.min(n / 3)]);
    }

    /// Of the reference alone: the picks of as many places as are wanted and asked, whatever places there are.
    #[test]
    fn a_mask_is_of_all_that_are_wanted(
        seed: u64, n in 0_usize..60, k in 0_usize..70, start in 0_usize..70, length in 0_usize..70,
        asked in proptest::option::of(0_usize..70), n_first in 0_usize..4, rule in any_rule(),
    ) {
        let scores = few_values(n, seed);
        let rule = RowRule { start, length, k, asked, n_first, rule, ..RowRule::default() };
        let found = topk_row(&scores, &rule);
        let asked = asked.unwrap_or(found.n_wanted);
        let all = topk_row(&scores, &RowRule { k: n, asked: Some(asked), ..rule });
        let marked: Vec<_> = (0..n).filter(|i| found.kept[*i] == 1).collect();
        prop_assert_eq!(found.kept.iter().map(|byte| usize::from(*byte)).sum::<usize>(), marked.len());
        prop_assert_eq!(marked.len(), found.n_wanted.min(asked));
        prop_assert_eq!(&marked, &all.indices);
        prop_assert!(found.indices.iter().all(|i| marked.contains(i)));
        prop_assert_eq!(found.indices.len(), marked.len().min(k));
    }

    /// Of the reference alone.
    #[test]
    fn thresholds_and_percentiles_say_who_is_picked(
        seed: u64, n in 0_usize..60, least in -2.0..2.0_f32, percent in 0_u32..=100,
    ) {
        let scores = few_values(n, seed);
        let row = RowRule { length: n, k: n, ..RowRule::default() };
        let found = topk_row(&scores, &RowRule { rule: Rule::AtLeast { least }, ..row });
        let expected: Vec<_> = (0..n).filter(|i| scores[*i] >= least).collect();
        prop_assert_eq!(found.indices, expected);
        let rule = Rule::Percentile { percent: percent as f32 };
        let found = topk_row(&scores, &RowRule { rule, ..row });
        prop_assert_eq!(found.n_wanted, (n * (100 - percent as usize)).div_ceil(100));
        let largest = topk_row(&scores, &RowRule { k: found.n_wanted, ..row });
        prop_assert_eq!(found.indices, largest.indices);
    }

    #[test]
    fn any_rows_give_what_the_reference_gives(
        seed: u64, n_rows in 1_usize..4, n in 1_usize..1200, k in 0_usize..700, gap in 0_usize..9,
        forced in (0_usize..20, 0_usize..20), given in any::<[bool; 7]>(), rule in any_rule(),
        kind in 0..3, is_ranked: bool, page_size in 1_u64..=256, rows_per_request in 1_usize..4,
        tokens_per_score in 1_usize..20,
    ) {
        let make = [few_values, many_values, weights][kind as usize];
        let rows: Vec<_> = (0..n_rows).map(|row| make(n, seed ^ row as u64)).collect();
        let of_rows = |idx: usize, most: usize| -> Option<Vec<u32>> {
            let mut next = words(seed ^ idx as u64);
            // Some past every end.
            let most = (most + most / 4 + 2) as u32;
            given[idx].then(|| (0..n_rows).map(|_| next() % most).collect())
        };
        let order = if is_ranked { Order::Score } else { Order::Index };
        let mut problem = Problem {
            starts: of_rows(0, n), counts_asked: of_rows(2, k.max(n) / 2),
            skips: of_rows(3, 0), has_more: given[4],
            ..Problem::new(&rows, k)
        };
        problem.shape.rows_per_request = rows_per_request as u64;
        if let Some(mut lengths) = of_rows(1, n * tokens_per_score) {
            lengths.truncate(n_rows.div_ceil(rows_per_request));
            problem = problem.with_lengths(&lengths, rows_per_request, tokens_per_score);
        }
        if given[5] {
            let amount = [0.3, 40.0, f32::NAN, -1.0, 1e-3, f32::INFINITY, 1.5];
            let mut next = words(seed ^ 5);
            problem.amounts = Some((0..n_rows).map(|_| amount[next() as usize % 7]).collect());
        }
        if given[6] {
            // Of some pages none, and of some rows too few.
            let pages = TopkPages { n_pages: 40, page_size, table_stride: 9 };
            let n_entries = n_rows.div_ceil(rows_per_request) * 9;
            let mut next = words(seed ^ 6);
            problem.shape.pages = Some(pages);
            problem.page_table = Some((0..n_entries).map(|_| next() as i32 % 44).collect());
        }
        let problem = problem
            .with_rule(rule).with_order(order).with_forced(forced.0, forced.1).with_stride(n + gap);
        assert_all_same(&problem);
    }

    #[test]
    fn no_shape_makes_a_plan_panic(
        most: u32, n_blocks in 1_u32..=16, sizes in any::<[u64; 8]>(), small in any::<[bool; 8]>(), score_bytes in 0_u32..6,
        rule in any_rule(), is_ranked: bool, pages in any::<Option<[u64; 3]>>(),
    ) {
        let mut sizes = sizes;
        for (size, is_small) in sizes.iter_mut().zip(small) {
            *size >>= if is_small { 45 } else { 0 };
        }
        let [n_rows, n, row_stride, k, n_first, n_last, rows_per_request, tokens_per_score] = sizes;
        let order = if is_ranked { Order::Score } else { Order::Index };
        let pages = pages.map(|[n_pages, page_size, table_stride]| TopkPages {
            n_pages, page_size: page_size % 300, table_stride,
        });
        let shape = TopkShape {
            n_rows, n, row_stride, k, n_first, n_last, rows_per_request, tokens_per_score, score_bytes, rule, order,
            pages,
        };
        let _ = TopkPlan::new(shape).map(|plan| {
            for plan in [plan, plan.with_blocks(n_blocks).unwrap()] {
                assert!(plan.grid().dynamic_shared_bytes <= 96 << 10);
                assert!(plan.cluster_grid(most).dynamic_shared_bytes <= 96 << 10);
            }
            (plan.scores_len(), plan.picks_len(), plan.mask_len(), plan.n_requests(), plan.table_len(),
             plan.least_bytes(true))
        });
    }
}

/// Rows of few distinct values in launches of many short rows, on the executor without checks, for seconds;
/// `LACUNA_TOPK_ROWS` says how many instead.
#[test]
fn rows_full_of_ties_are_cut_and_ordered_as_by_a_sort() {
    let n_rows = std::env::var("LACUNA_TOPK_ROWS").map_or(30_000, |n| n.parse().unwrap());
    let queue = Queue::simt(Config::default());
    let rules = [
        Rule::Largest,
        Rule::Mass { share: 0.8 },
        Rule::Largest,
        Rule::AtLeast { least: 0.5 },
        Rule::Largest,
        Rule::Percentile { percent: 60.0 },
    ];
    let mut next = words(41);
    for launch in 0..n_rows / 2000 + 1 {
        let n = 1 + next() as usize % 90;
        let rows: Vec<_> = (0..2000).map(|_| few_values(n, next().into())).collect();
        let order = if next() & 1 == 0 { Order::Index } else { Order::Score };
        let k = next() as usize % (n + 2);
        let problem = Problem {
            lengths: Some(rows.iter().map(|_| next() % (n as u32 + 2)).collect()),
            has_more: next() & 1 == 0,
            has_mask: next() & 1 == 0,
            ..Problem::new(&rows, k)
        };
        let problem = problem
            .with_rule(rules[launch % rules.len()])
            .with_order(order)
            .with_forced(next() as usize % 3, next() as usize % 3);
        match next() % 3 {
            0 => assert_eq!(problem.run(&queue).unwrap(), problem.expect()),
            1 => {
                let problem = convert(&problem, bf16::from_f32);
                assert_eq!(problem.run(&queue).unwrap(), problem.expect());
            }
            _ => {
                let problem = convert(&problem, f16::from_f32);
                assert_eq!(problem.run(&queue).unwrap(), problem.expect());
            }
        }
    }
}
