//! `attend_prefill`.

mod problem;

use lacuna::Queue;
use lacuna::attention::{LogBase, LogSumOrder, Logits, Mask, Positions, PrefillPlan, PrefillShape};
use lacuna::kv::{KvLayout, KvShape};
use lacuna::mma::Model;
use lacuna::simt::Config;
use proptest::prelude::*;

use self::problem::*;
use crate::attend::laws::{ORDERS, any_order, any_size};
use crate::attend::problem::{Brain, Layout, Short, assert_results};
use crate::common;

#[test]
fn chunks_around_a_block_and_the_ends() {
    for (n_queries, n_before) in
        [(0, 5), (1, 0), (15, 1), (16, 0), (17, 60), (31, 33), (32, 32), (33, 100), (70, 3)]
    {
        let case = Case { requests: vec![(n_queries, n_before), (2, 9)], ..Case::default() };
        assert_same::<_, f32>(&case.build::<Brain>());
        assert_same::<_, Short>(&case.build::<Short>());
    }
    for requests in [vec![], vec![(0, 0)], vec![(0, 7), (0, 0)]] {
        assert_same::<_, f32>(&Case { requests, ..Case::default() }.build::<Brain>());
    }
}

#[test]
fn head_dimensions_and_groups() {
    for (head_dim, group, n_heads) in
        [(16, 1, 3), (64, 4, 2), (96, 3, 1), (128, 16, 1), (144, 5, 2), (256, 2, 1)]
    {
        let requests = vec![(9, 70), (40, 0)];
        let case = Case { head_dim, group, n_heads, requests, ..Case::default() };
        assert_same::<_, Brain>(&case.build::<Brain>());
        assert_same::<_, f32>(&case.build::<Short>());
    }
}

/// More requests than a warp looks at together, most of them without queries.
#[test]
fn requests_of_a_large_batch_are_found() {
    assert_same::<_, f32>(&many().build::<Brain>());
}

#[test]
fn kept_tokens_are_seen_by_their_positions() {
    for mask in [Mask::None, Mask::Causal, Mask::Window(1), Mask::Window(40), Mask::Window(1 << 30)]
    {
        let case = Case {
            requests: vec![(40, 50), (3, 200), (20, 0)],
            keep: Some(3),
            mask,
            ..Case::default()
        };
        assert_same::<_, f32>(&case.build::<Brain>());
        let case = Case { has_sinks: true, soft_cap: Some(2.0), ..case };
        assert_same::<_, f32>(&case.build::<Brain>());
    }
    // A sink above all logits.
    let plain = Case::default().build::<Brain>();
    assert_same::<_, f32>(&Problem { sinks: Some(vec![9.0; 2]), ..plain });
    // Positions in any order, and of any size.
    let mut problem =
        Case { keep: Some(2), requests: vec![(30, 90)], ..Case::default() }.build::<Brain>();
    problem.key_positions.reverse();
    problem.key_positions[7] = i32::MIN;
    problem.key_positions[8] = i32::MAX;
    problem.query_positions[0] = i32::MAX;
    problem.query_positions[1] = i32::MIN;
    assert_same::<_, f32>(&problem);
    let mut shape = *problem.plan.shape();
    shape.mask = Mask::Window((1 << 31) - 1);
    problem.plan = PrefillPlan::new(shape).unwrap();
    assert_same::<_, f32>(&problem);
}

/// All of a prompt at once, and in chunks.
#[test]
fn chunks_do_not_show() {
    let whole = Case { requests: vec![(150, 0)], ..Case::default() };
    let problem = whole.build::<Brain>();
    let stride = problem.plan.shape().output_stride as usize;
    for queue in common::queues() {
        let all = problem.attend::<f32>(&queue).unwrap();
        for (first, n) in [(0, 10), (10, 63), (73, 77), (149, 1)] {
            let mut chunk = Case { requests: vec![(n, first)], ..whole.clone() }.build::<Brain>();
            let from = first as usize * problem.plan.shape().query_stride as usize;
            let len = chunk.queries.len();
            chunk.queries.copy_from_slice(&problem.queries[from..][..len]);
            let some = chunk.attend::<f32>(&queue).unwrap();
            let n_q_heads = problem.plan.shape().n_q_heads as usize;
            let sums = &all.log_sums[first as usize * n_q_heads..][..n as usize * n_q_heads];
            assert_eq!(some.log_sums, sums);
            for i in 0..n as usize {
                let [one, other] =
                    [&some.outputs[i * stride..], &all.outputs[(first as usize + i) * stride..]];
                assert_eq!(one[..64], other[..64]);
            }
        }
    }
}

#[test]
fn pages_and_the_batch_do_not_show() {
    let requests = vec![(20, 100), (1, 64), (33, 0)];
    let case = Case { requests, n_heads: 2, keep: Some(4), ..Case::default() };
    let problem = case.build::<Brain>();
    for queue in common::queues() {
        let all = problem.attend::<f32>(&queue).unwrap();
        for page_size in [1, 96, 160] {
            for layout in [Layout::Hnd, Layout::FusedHnd] {
                let other = Case { page_size, layout, ..case.clone() }.build::<Brain>();
                assert_results(&other.attend::<f32>(&queue).unwrap(), &all, "other pages");
            }
        }
        // Without the last two requests.
        let alone = problem.first_of_requests();
        let some = alone.attend::<f32>(&queue).unwrap();
        let n = some.outputs.len();
        assert_eq!(some.outputs[..n], all.outputs[..n]);
        assert_eq!(some.log_sums, all.log_sums[..some.log_sums.len()]);
    }
}

#[test]
fn skipped_requests_stay_what_they_were() {
    let case = Case { requests: vec![(20, 30), (70, 0), (0, 4), (9, 5)], ..Case::default() };
    for skips in [vec![0, 7, 0, 0], vec![1, 0, 1, 0], vec![u32::MAX; 4]] {
        let problem = Problem { skips: Some(skips), ..case.build::<Brain>() };
        assert_same::<_, f32>(&problem);
        let starts = vec![0, 30, 3, 99, 40];
        assert_same::<_, f32>(&Problem { query_starts: starts, ..problem });
    }
}

#[test]
fn log_sums_by_heads() {
    let requests = vec![(7, 20), (0, 3), (37, 70)];
    let by_tokens = Case { requests, n_heads: 2, group: 3, ..Case::default() };
    let by_heads = Case { log_sum_order: LogSumOrder::HeadsTokens, ..by_tokens.clone() };
    assert_same::<_, f32>(&by_heads.build::<Brain>());
    let of = |case: &Case| case.build::<Brain>().expect::<f32>(Model::HOPPER);
    let [one, other] = [of(&by_tokens), of(&by_heads)];
    assert_eq!(one.outputs, other.outputs);
    for (token, q) in (0..44).flat_map(|token| (0..6).map(move |q| (token, q))) {
        assert_eq!(one.log_sums[token * 6 + q], other.log_sums[q * 44 + token]);
    }
}

/// Queries, keys and sinks that are no numbers; values are finite.
#[test]
fn what_is_no_number() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut problem = Case { requests: vec![(20, 30)], ..Case::default() }.build::<Brain>();
        problem.queries[40] = Brain::from_f32(value);
        assert_same::<_, f32>(&problem);
        let mut problem = Case { requests: vec![(20, 30)], ..Case::default() }.build::<Brain>();
        for i in (0..problem.keys.len()).step_by(97) {
            problem.keys[i] = Brain::from_f32(value);
        }
        problem.sinks = Some(vec![value, 1.0]);
        assert_same::<_, f32>(&problem);
    }
}

#[test]
fn hostile_lists_are_bounded() {
    let case = Case { requests: vec![(10, 5), (4, 4), (6, 1)], ..Case::default() };
    let mut problem = case.build::<Brain>();
    for starts in [vec![0, 15, 3, 20], vec![7, 7, 9, 8], vec![u32::MAX; 4], vec![5, 0, 1 << 31, 2]]
    {
        problem.query_starts = starts;
        assert_same::<_, f32>(&problem);
    }
    problem.lengths = vec![u32::MAX, 0, 3];
    problem.page_table[0] = -1;
    problem.page_table[1] = i32::MAX;
    assert_same::<_, f32>(&problem);
    // What is not there is not a query's numbers either.
    problem.queries[0] = Brain::from_f32(f32::NAN);
    assert_same::<_, f32>(&problem);
    // Starts that fall, of more requests than a warp looks at together.
    assert_same::<_, f32>(&falling());
    problem.has_log_sums = false;
    assert_same::<_, f32>(&problem);
}

#[test]
fn every_schedule_and_both_kinds_of_tensor_cores() {
    let case =
        Case { requests: vec![(20, 90), (3, 2)], keep: Some(3), n_heads: 2, ..Case::default() };
    for head_dim in [32, 144] {
        let problem = Case { head_dim, ..case.clone() }.build::<Brain>();
        for mma in [Model::AMPERE, Model::HOPPER] {
            let expected = problem.expect::<f32>(mma);
            for config in common::configs() {
                let what = format!("{:?} {:?}", config.schedule, config.fibres);
                let results =
                    problem.attend::<f32>(&Queue::simt(Config { mma, ..config })).unwrap();
                assert_results(&results, &expected, &what);
            }
        }
    }
}

/// Against an f64 softmax: half a unit of bf16 for weights, and as much for the output.
#[test]
fn outputs_are_near_exact_ones() {
    let case = Case { requests: vec![(40, 200)], head_dim: 64, keep: Some(3), ..Case::default() };
    let problem = case.build::<Brain>();
    let results = problem.expect::<f32>(Model::HOPPER);
    let shape = problem.plan.shape();
    for (i, q) in [(0, 0), (7, 1), (39, 0)] {
        let exact = problem.exact(0, i, q);
        let start = i * shape.output_stride as usize + q * 64;
        for (own, exact) in results.outputs[start..].iter().zip(&exact) {
            assert!((f64::from(*own) - exact).abs() < 0.01, "{own} {exact}");
        }
    }
}

/// Tensor cores cut off what their sums cannot hold, of weights and of values alike; log-sums are not of their sums.
#[test]
fn a_million_rows_that_weigh_alike() {
    let n = 1 << 20;
    let case = Case {
        requests: vec![(1, n - 1)],
        head_dim: 16,
        group: 1,
        page_size: 256,
        ..Case::default()
    };
    let mut problem = case.build::<Brain>();
    problem.keys.fill(Brain::from_f32(0.3));
    problem.values.fill(Brain::from_f32(0.7));
    let results = problem.expect::<f32>(Model::HOPPER);
    let product: f64 = problem.queries[..16]
        .iter()
        .map(|q| f64::from(q.to_f32() * problem.keys[0].to_f32()))
        .sum();
    let log_sum = product / 4.0 + f64::from(n).ln();
    let own = f64::from(f32::from_bits(results.log_sums[0]));
    assert!((own - log_sum).abs() < 4e-6, "{own} {log_sum}");
    for output in &results.outputs[..16] {
        let share = output / problem.values[0].to_f32();
        assert!((share - 1.0).abs() < 2e-4, "{share}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let shape = *Case::default().plan().unwrap().shape();
    let refused = |shape| PrefillPlan::new(shape).unwrap_err().to_string();
    let kv = *shape.layout.shape();
    let of = |kv: KvShape| PrefillShape { layout: KvLayout::new(kv.nhd()).unwrap(), ..shape };
    assert_eq!(
        refused(of(KvShape { row_len: 40, ..kv })),
        "dimension of a head: 40 is outside the multiples of 16 up to 256"
    );
    assert_eq!(refused(of(KvShape { tokens_per_row: 2, ..kv })), "tokens of a row: 2 is outside 1");
    for (shape, message) in [
        (PrefillShape { n_q_heads: 3, n_tokens: 0, ..shape }, None),
        (
            PrefillShape { n_q_heads: 17, ..shape },
            Some("query heads of a head of keys: 17 is outside 1..=16"),
        ),
        (
            PrefillShape { mask: Mask::Window(0), ..shape },
            Some("tokens of a window: 0 is outside 1..2^31"),
        ),
        (
            PrefillShape { n_tokens: 1 << 26, ..shape },
            Some("tokens of queries: 67108864 is outside 0..2^26"),
        ),
        (
            PrefillShape { log_sum_order: LogSumOrder::BatchHeadsQueries, ..shape },
            Some("order of log-sums: 2 is outside 0 and 1, TokensHeads and HeadsTokens"),
        ),
        (
            PrefillShape { output_stride: 68, ..shape },
            Some(
                "stride between outputs, in elements: 68 is outside the multiples of 8 from all heads of a query on",
            ),
        ),
    ] {
        match message {
            Some(message) => assert_eq!(refused(shape), message),
            None => assert!(
                PrefillPlan::new(PrefillShape { query_stride: 96, output_stride: 96, ..shape })
                    .is_ok()
            ),
        }
    }
    let queue = Queue::simt(Config::default());
    let refused = |change: &dyn Fn(&mut Problem<Brain>)| {
        let mut problem = Case { keep: Some(2), ..Case::default() }.build::<Brain>();
        change(&mut problem);
        problem.attend::<f32>(&queue).unwrap_err().to_string()
    };
    assert_eq!(refused(&|p| p.key_positions.clear()), "key_positions: expected 40, got 0");
    assert_eq!(refused(&|p| p.query_starts = vec![0]), "query_starts: expected 2, got 1");
    assert_eq!(refused(&|p| p.sinks = Some(vec![])), "sinks: expected 2, got 0");
    assert_eq!(refused(&|p| p.skips = Some(vec![0; 2])), "skips: expected 1, got 2");
}

prop_compose! {
    fn any_case()(
        seed in 0..1000_u64,
        requests in proptest::collection::vec((0..50_u32, 0..100_u32), 0..4),
        n_heads in 1..3_u64, group in 1..=16_u64, head_dim in 1..=10_u64, page_size in 1..=33_u64,
        keep in proptest::option::of(1..5_u32), mask in 0..3_u32, window in 1..200_u64,
        has_cap: bool, has_sinks: bool, is_hnd: bool, is_by_heads: bool,
    ) -> Case {
        Case {
            seed, requests, n_heads, page_size, keep, has_sinks,
            group: if head_dim > 4 { group.min(4) } else { group },
            head_dim: 16 * head_dim,
            layout: if is_hnd { Layout::Hnd } else { Layout::Nhd },
            mask: [Mask::None, Mask::Causal, Mask::Window(window)][mask as usize],
            log_sum_order: ORDERS[usize::from(is_by_heads)],
            soft_cap: has_cap.then_some(5.0),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_chunks_are_the_reference_to_the_bit(case in any_case(), is_short: bool) {
        if is_short {
            assert_same::<_, Short>(&case.build::<Short>());
        } else {
            assert_same::<_, f32>(&case.build::<Brain>());
        }
    }
}

proptest! {
    #[test]
    fn a_plan_of_any_sizes_never_panics(
        numbers in proptest::array::uniform10(any_size()), scale: f32, cap: Option<f32>, mask in 0..3_u32,
        log_sum_order in any_order(),
    ) {
        let [batch, n_heads, row_len, n_pages, page_size, table_stride, n_q_heads, n_tokens, stride, window] = numbers;
        let shape = KvShape { batch, n_heads, row_len, n_pages, page_size, table_stride, ..KvShape::default() };
        let Ok(layout) = KvLayout::new(shape.nhd()) else { return Ok(()) };
        let shape = PrefillShape {
            layout, n_q_heads, n_tokens, query_stride: stride, output_stride: stride, log_sum_order,
            positions: Positions::Given,
            mask: [Mask::None, Mask::Causal, Mask::Window(window)][mask as usize],
            logits: Logits { scale, soft_cap: cap, base: LogBase::Two },
        };
        for shape in [shape, PrefillShape::of(layout, n_q_heads, n_tokens)] {
            if let Ok(plan) = PrefillPlan::new(shape) {
                prop_assert!(plan.grid().dynamic_shared_bytes <= 96 << 10);
                let _ = (plan.queries_len(), plan.outputs_len(), plan.key_positions_len());
            }
        }
    }
}
