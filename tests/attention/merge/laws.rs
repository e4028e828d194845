//! What merging must be, whatever its arithmetic; and any input.

use half::f16;
use lacuna::attention::reference::{
    HostPartial, MergeWeights, Rule, State, Token, merge_partials, merge_row,
};
use lacuna::attention::{LogBase, LogSumOrder, Logits, MergePlan, MergeShape, PartialShape};
use lacuna::mma::Model;
use proptest::prelude::*;

use super::assert_same;
use super::problem::*;
use crate::attend::laws::{ORDERS, any_order};
use crate::common::Random;

fn plan_of(head_dim: u64, n_parts: usize, base: LogBase) -> MergePlan {
    let shape = MergeShape { base, ..MergeShape::of(1, 1, head_dim) };
    MergePlan::new(shape, &vec![shape.part(); n_parts]).unwrap()
}

/// A row's parts: their outputs and log-sums.
type Rows = Vec<(Vec<f32>, f32)>;

/// Of one row, in f32.
fn merge(base: LogBase, parts: &Rows) -> (Vec<f32>, f32) {
    let d = parts[0].0.len();
    let hosts: Vec<_> = parts
        .iter()
        .map(|(outputs, log_sum)| HostPartial {
            outputs,
            log_sums: std::slice::from_ref(log_sum),
            mask: None,
        })
        .collect();
    let (mut outputs, mut log_sums) = (vec![0.0_f32; d], [0.0]);
    let plan = plan_of(d as u64, parts.len(), base);
    merge_partials(&plan, &hosts, &mut outputs, &mut log_sums);
    (outputs, log_sums[0])
}

/// The formula in f64, in the base's own exponentials.
fn merge_exactly(base: LogBase, parts: &Rows) -> (Vec<f64>, f64) {
    let unit = if base == LogBase::E { 1.0 } else { std::f64::consts::LN_2 };
    let logs: Vec<f64> = parts.iter().map(|(_, log)| f64::from(*log) * unit).collect();
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logs.iter().map(|log| (log - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let output = |c: usize| {
        let each = parts.iter().zip(&weights);
        each.map(|((outputs, _), weight)| weight / sum * f64::from(outputs[c])).sum()
    };
    ((0..parts[0].0.len()).map(output).collect(), (most + sum.ln()) / unit)
}

/// So many units in the last place of 1, of outputs up to 1 and log-sums.
#[track_caller]
fn assert_near(one: &(Vec<f32>, f32), other: &(Vec<f64>, f64), n_units: f64) {
    let unit = n_units * f64::from(f32::EPSILON);
    for (one, other) in one.0.iter().zip(&other.0) {
        assert!((f64::from(*one) - other).abs() <= unit, "{one} {other}");
    }
    let (one, other) = (f64::from(one.1), other.1);
    assert!((one - other).abs() <= unit * one.abs().max(1.0), "log-sums {one} {other}");
}

fn widen((outputs, log_sum): &(Vec<f32>, f32)) -> (Vec<f64>, f64) {
    (outputs.iter().copied().map(f64::from).collect(), f64::from(*log_sum))
}

prop_compose! {
    /// Outputs up to 1, log-sums around a number that may be large.
    fn any_rows(least: usize)(
        n_parts in least..=8, seed: u64, middle in prop_oneof![Just(0.0_f32), -2e4..2e4_f32], spread in 0.0..30.0_f32,
    ) -> Rows {
        let mut random = Random(seed);
        let mut row = || {
            let outputs = (0..16).map(|_| random.number()).collect();
            (outputs, middle + spread * random.number())
        };
        (0..n_parts).map(|_| row()).collect()
    }
}

const BASES: [LogBase; 2] = [LogBase::E, LogBase::Two];

proptest! {
    #[test]
    fn results_are_near_the_formula(rows in any_rows(1)) {
        for base in BASES {
            assert_near(&merge(base, &rows), &merge_exactly(base, &rows), 6.0);
        }
    }

    #[test]
    fn the_order_of_parts_changes_rounding_at_most(rows in any_rows(2), by in 1..8_usize) {
        let mut turned = rows.clone();
        turned.rotate_left(by % rows.len());
        turned.swap(0, 1);
        for base in BASES {
            assert_near(&merge(base, &turned), &widen(&merge(base, &rows)), 6.0);
        }
    }

    #[test]
    fn parts_may_be_merged_in_groups(rows in any_rows(3), at in 1..7_usize) {
        let (first, second) = rows.split_at(1 + at % (rows.len() - 1));
        for base in BASES {
            let groups = vec![merge(base, &first.to_vec()), merge(base, &second.to_vec())];
            // The groups' log-sums are rounded, where they are large to more than outputs are.
            let most = rows.iter().map(|(_, log_sum)| log_sum.abs()).fold(1.0, f32::max);
            let n_units = 8.0 + f64::from(most);
            assert_near(&merge(base, &groups), &widen(&merge(base, &rows)), n_units);
        }
    }

    #[test]
    fn bases_differ_by_rounding(rows in any_rows(1)) {
        let to_two = |(outputs, log_sum): &(Vec<f32>, f32)| {
            (outputs.clone(), log_sum * std::f32::consts::LOG2_E)
        };
        let (outputs, log_sum) = merge(LogBase::Two, &rows.iter().map(to_two).collect());
        let most = rows.iter().map(|(_, log_sum)| log_sum.abs()).fold(1.0, f32::max);
        let as_e = (outputs, log_sum / std::f32::consts::LOG2_E);
        assert_near(&as_e, &widen(&merge(LogBase::E, &rows)), 8.0 + 2.0 * f64::from(most));
    }

    /// What is masked is as if it were not there, to the bit; and so is what is of nothing.
    #[test]
    fn masked_is_absent(rows in any_rows(2), absent in 0..255_u32, how in 0..4_u32) {
        let is_absent = |i: usize| absent >> i & 1 != 0 && i != 0;
        let kept: Rows =
            rows.iter().enumerate().filter(|(i, _)| !is_absent(*i)).map(|(_, row)| row.clone()).collect();
        let mut without = rows.clone();
        for (outputs, log_sum) in
            without.iter_mut().enumerate().filter(|(i, _)| is_absent(*i)).map(|(_, row)| row)
        {
            outputs.fill(f32::NAN);
            *log_sum = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX][how as usize];
        }
        let n = rows.len();
        let masks: Vec<[u32; 1]> = (0..n).map(|i| [u32::from(!is_absent(i))]).collect();
        for base in BASES {
            let hosts = without.iter().zip(&masks).map(|((outputs, log_sum), mask)| HostPartial {
                outputs,
                log_sums: std::slice::from_ref(log_sum),
                // An infinite log-sum needs no mask.
                mask: (how > 1).then_some(mask),
            });
            let hosts: Vec<_> = hosts.collect();
            let (mut outputs, mut log_sums) = (vec![0.0_f32; 16], [0.0]);
            merge_partials(&plan_of(16, n, base), &hosts, &mut outputs, &mut log_sums);
            let (expected, log_sum) = merge(base, &kept);
            prop_assert_eq!(outputs, expected);
            prop_assert_eq!(log_sums[0].to_bits(), log_sum.to_bits());
        }
    }

    /// A part alone keeps its bits, its zeros' signs among them.
    #[test]
    fn one_part_is_its_own_result(bits in proptest::array::uniform8(any::<u32>()), log_sum: f32) {
        let outputs: Vec<f32> =
            bits.iter().map(|bits| f32::from_bits(*bits)).map(|x| if x.is_nan() { -0.0 } else { x }).collect();
        for base in BASES {
            let (merged, merged_sum) = merge(base, &vec![(outputs.clone(), log_sum)]);
            let bits = |all: &[f32]| all.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            if log_sum.is_infinite() {
                prop_assert_eq!((bits(&merged), merged_sum), (vec![0; 8], f32::NEG_INFINITY));
            } else if !log_sum.is_nan() {
                prop_assert_eq!(bits(&merged), bits(&outputs));
                prop_assert_eq!(merged_sum.to_bits(), log_sum.to_bits());
            }
        }
    }

    /// Tokens that are shared out among parts anyhow, each attended as `attend` does.
    #[test]
    fn attention_over_parts_is_attention_over_all(
        seed: u64, n_tokens in 1..80_usize, n_parts in 1..=8_usize, is_peaked: bool,
    ) {
        let d = 32;
        let mut random = Random(seed);
        let mut row = || -> Vec<f16> { (0..d).map(|_| f16::from_f32(random.number())).collect() };
        let scale = if is_peaked { 8.0 } else { 1.0 };
        let query: Vec<f16> = row().iter().map(|x| f16::from_f32(x.to_f32() * scale)).collect();
        let tokens: Vec<[Vec<f16>; 2]> = (0..n_tokens).map(|_| [row(), row()]).collect();
        let logits = Logits { scale: 0.25, ..Logits::of(d as u64) };
        let rule = Rule::new(Model::HOPPER, &logits);
        let attend = |tokens: &[&[Vec<f16>; 2]]| {
            let tokens: Vec<_> = tokens
                .iter()
                .map(|[key, value]| Some(Token { key: key.into(), value, bias: 0.0, is_seen: true }))
                .collect();
            State::of_stages(&rule, &query, 1, tokens.chunks(16)).finish(None, LogBase::E)
        };
        let mut random = Random(seed.wrapping_add(1));
        let mut parts: Vec<Vec<_>> = vec![Vec::new(); n_parts];
        tokens.iter().for_each(|token| parts[random.next() as usize % n_parts].push(token));
        let merged = merge(LogBase::E, &parts.iter().map(|part| attend(part)).collect());
        let exact: Rows = tokens
            .iter()
            .map(|[key, value]| {
                let products = query.iter().zip(key).map(|(q, k)| f64::from(q.to_f32()) * f64::from(k.to_f32()));
                (value.iter().map(|x| x.to_f32()).collect(), (products.sum::<f64>() / 4.0) as f32)
            })
            .collect();
        // Weights are rounded to f16, half a unit of 2^-10 each.
        let n_units = 2.0_f64.powi(23 - 10);
        assert_near(&merged, &merge_exactly(LogBase::E, &exact), n_units);
        let whole = attend(&tokens.iter().collect::<Vec<_>>());
        assert_near(&merged, &widen(&whole), n_units);
    }

    #[test]
    fn any_parts_are_the_reference_to_the_bit(case in any_case(), types in 0..6_u32) {
        for queue in crate::common::queues() {
            let agrees = match types {
                0 => case.build::<half::bf16>().agrees::<half::bf16>(&queue),
                1 => case.build::<half::bf16>().agrees::<f32>(&queue),
                2 => case.build::<f16>().agrees::<half::bf16>(&queue),
                3 => case.build::<f16>().agrees::<f16>(&queue),
                4 => case.build::<f32>().agrees::<f16>(&queue),
                _ => case.build::<f32>().agrees::<f32>(&queue),
            };
            prop_assert!(agrees, "{}", queue.executor());
        }
    }

    #[test]
    fn a_plan_of_any_sizes_never_panics(
        numbers in proptest::array::uniform5(any_size()), order in any_order(),
        strides in proptest::collection::vec(any_size(), 0..10),
    ) {
        let [n_tokens, n_queries, n_heads, head_dim, output_stride] = numbers;
        for base in BASES {
            let dense = MergeShape { base, log_sum_order: order, ..MergeShape::of(n_tokens, n_heads, head_dim) };
            for shape in [dense, MergeShape { output_stride, ..dense }, MergeShape { n_queries, ..dense }] {
                let part = |stride: &u64| PartialShape { stride: *stride, log_sum_order: order };
                let parts = strides.iter().map(part).collect();
                for parts in [parts, vec![dense.part(); strides.len()]] {
                    let Ok(plan) = MergePlan::new(shape, &parts) else { continue };
                    let rows = u64::from(plan.grid().blocks[0]) * 16;
                    prop_assert!(rows >= plan.log_sums_len() && rows < plan.log_sums_len() + 16);
                    let n = n_tokens * n_heads * head_dim;
                    prop_assert!(plan.outputs_len() >= n && plan.partial_len(0) >= n);
                    let _ = plan.least_bytes(4, 4);
                }
            }
        }
    }
}

prop_compose! {
    fn any_case()(
        seed in 0..10_000_u64, n_requests in 0..6_u64, n_queries in 1..4_u64, n_heads in 1..6_u64, head_dim in 1..=20_u64,
        n_parts in 1..=8_usize, gaps in proptest::array::uniform3(any_gap()),
        offsets in proptest::array::uniform3(any_gap()),
        orders in proptest::array::uniform3(any_order()),
        is_two: bool, has_masks: bool, is_hostile: bool,
    ) -> Case {
        Case {
            seed,
            n_tokens: n_requests * n_queries,
            n_heads,
            head_dim: 8 * head_dim,
            n_parts,
            gaps,
            offsets: offsets.map(|n| n as usize),
            orders,
            n_queries,
            base: BASES[usize::from(is_two)],
            has_masks,
            is_hostile,
        }
    }
}

fn any_gap() -> impl Strategy<Value = u64> {
    prop_oneof![4 => Just(0), 2 => (0..4_u64).prop_map(|n| 8 * n), 1 => 0..20_u64]
}

/// Small, at the edges of what is allowed, and far past them.
fn any_size() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => 0..20_u64,
        3 => (0..130_u64).prop_map(|n| 8 * n),
        1 => (0..64_u32).prop_map(|n| 1 << n),
        1 => any::<u64>(),
    ]
}

/// Parts and results are what they were, in whatever order their log-sums lie.
#[test]
fn orders_of_log_sums_change_nothing_else() {
    let by_tokens = Case { n_tokens: 6, is_hostile: true, has_masks: true, ..Case::default() };
    let problem = by_tokens.build::<f32>();
    let expected = problem.expect::<f32>();
    // Of two requests' three queries and three heads, where each row of tokens and heads is.
    let by_heads = |row: usize| row % 3 * 6 + row / 3;
    let by_requests = |row: usize| row / 9 * 9 + row % 3 * 3 + row / 3 % 3;
    let place_of = |order: LogSumOrder, row: usize| match order {
        LogSumOrder::TokensHeads => row,
        LogSumOrder::HeadsTokens => by_heads(row),
        LogSumOrder::BatchHeadsQueries => by_requests(row),
    };
    for first in ORDERS {
        for (other, of_outputs) in ORDERS.iter().flat_map(|x| ORDERS.map(|y| (*x, y))) {
            let orders = [first, other, of_outputs];
            let case = Case { orders, n_queries: 3, ..by_tokens.clone() };
            let mut turned = case.build::<f32>();
            for (i, (to, from)) in turned.parts.iter_mut().zip(&problem.parts).enumerate() {
                let order = orders[usize::from(i != 0)];
                for (row, log_sum) in from.log_sums.iter().enumerate() {
                    to.log_sums[place_of(order, row)] = *log_sum;
                }
            }
            let merged = turned.expect::<f32>();
            assert_eq!(merged.outputs, expected.outputs);
            for (row, log_sum) in expected.log_sums.iter().enumerate() {
                assert_eq!(merged.log_sums[place_of(of_outputs, row)], *log_sum);
            }
            assert_same::<f32, f32>(&turned);
        }
    }
}

#[test]
fn rows_of_nothing_and_of_no_number() {
    let plan = plan_of(8, 3, LogBase::E);
    let [nan, inf, none] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let nothing = MergeWeights::of(&plan, &[none, inf, none]);
    assert_eq!(nothing, MergeWeights { factors: vec![None; 3], log_sum: none });
    let wild = [nan; 8];
    assert_eq!(merge_row(&nothing, &[&wild[..]; 3], 8), [0.0; 8]);
    // A weight too small to add anything is of nothing.
    let far = MergeWeights::of(&plan, &[0.0, -87.0, 3.0]);
    assert!(far.factors[1].is_none() && !far.is_first_alone());
    let alone = MergeWeights::of(&plan, &[0.0, -87.0, none]);
    assert!(alone.is_first_alone());
    assert_eq!(alone, MergeWeights { factors: vec![Some(1.0), None, None], log_sum: 0.0 });
    for log_sums in [[nan, 1.0, none], [none, nan, inf], [nan; 3]] {
        let weights = MergeWeights::of(&plan, &log_sums);
        assert!(weights.log_sum.is_nan() && !weights.is_first_alone());
        assert!(merge_row(&weights, &[&[1.0_f32; 8][..]; 3], 8).iter().all(|x| x.is_nan()));
    }
}

/// The weights of log-sums of 10^4 are those of their differences.
#[test]
fn large_log_sums_lose_nothing() {
    for base in BASES {
        let plan = plan_of(8, 2, base);
        let small = MergeWeights::of(&plan, &[0.5, 2.25]);
        for large in [1e4, -1e4, 100_000.0] {
            let weights = MergeWeights::of(&plan, &[large + 0.5, large + 2.25]);
            assert_eq!(weights.factors, small.factors, "{base:?} {large}");
        }
    }
}

/// FlashInfer's `merge_state_in_place`: logarithms to base 2, and a mask of where to merge at all.
#[test]
fn masks_are_those_of_flashinfer() {
    let case = Case { n_parts: 2, base: LogBase::Two, n_tokens: 50, ..Case::default() };
    for kind in 0..3 {
        let mut problem = case.build::<f32>();
        let mut random = Random(kind);
        for part in &mut problem.parts {
            part.log_sums.iter_mut().for_each(|log_sum| *log_sum = 4.0 * random.number());
        }
        let mask: Vec<u32> = match kind {
            0 => vec![1; 50],
            1 => vec![0; 50],
            _ => (0..50).map(|_| (random.next() % 2) as u32).collect(),
        };
        problem.parts[1].mask = Some(mask.clone());
        let merged = problem.expect_in_place();
        let (outputs, log_sums) = (merged.outputs_as::<f32>(), merged.log_sums());
        let [own, other] = [&problem.parts[0], &problem.parts[1]];
        for (row, log_sum) in log_sums.iter().enumerate() {
            let d = 64;
            let [v, v_other] = [own, other].map(|part| &part.outputs[row * d..][..d]);
            let [s, s_other] = [own, other].map(|part| f64::from(part.log_sums[row]));
            let found = (outputs[row * d..][..d].to_vec(), *log_sum);
            if mask[row / 3] == 0 {
                assert_eq!(found, (v.to_vec(), own.log_sums[row]));
                continue;
            }
            let sum = s.exp2() + s_other.exp2();
            let [weight, weight_other] = [s.exp2() / sum, s_other.exp2() / sum];
            let each = v.iter().zip(v_other);
            let exact = each.map(|(x, y)| weight * f64::from(*x) + weight_other * f64::from(*y));
            assert_near(&found, &(exact.collect(), sum.log2()), 6.0);
        }
    }
}

/// In place is out of place, but for what is left alone.
#[test]
fn in_place_is_out_of_place() {
    for base in BASES {
        let case = Case { n_parts: 4, base, has_masks: true, n_tokens: 40, ..Case::default() };
        let problem = case.build::<f16>();
        assert_eq!(problem.expect_in_place(), problem.expect::<f16>());
        assert!(problem.expect::<f16>().outputs_as::<f16>().iter().all(|x| !x.is_nan()));
    }
}
