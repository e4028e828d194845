//! `attend`.

mod arena;
mod exact;
mod far;
pub(crate) mod laws;
pub(crate) mod problem;

use lacuna::Queue;
use lacuna::attention::{AttendPlan, AttendShape, LogBase, Logits, Mask, SegmentShape, Tokens};
use lacuna::kv::KvLists;
use lacuna::mma::Model;
use lacuna::simt::Config;

use self::problem::*;
use crate::common;

#[test]
fn lengths_around_a_tile_a_split_and_the_ends() {
    for n in [0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 300] {
        let case = Case { lengths: vec![n, 3], ..Case::default() };
        assert_same::<_, Brain>(&case.build::<Brain>());
        assert_same::<_, f32>(&case.build::<Short>());
    }
    let nothing = Case { lengths: Vec::new(), ..Case::default() };
    assert_same::<_, f32>(&nothing.build::<Brain>());
    let case = Case { parts: vec![Part::of(Tokens::first(0))], ..Case::default() };
    assert_same::<_, f32>(&case.build::<Brain>());
}

/// A split is longer than 128 positions from 64 of those on.
#[test]
fn the_longest_rows_of_a_split_length() {
    for n in [8191, 8192, 8193] {
        let case = Case { lengths: vec![n], group: 1, head_dim: 16, ..Case::default() };
        assert_same::<_, f32>(&case.build::<Brain>());
    }
}

#[test]
fn head_dimensions_of_all_models() {
    for head_dim in [16, 48, 64, 80, 96, 112, 128, 144, 192, 256] {
        let case = Case { head_dim, lengths: vec![150], ..Case::default() };
        assert_same::<_, Brain>(&case.build::<Brain>());
        assert_same::<_, Short>(&Case { seed: 3, ..case }.build::<Short>());
    }
}

/// Query head `q` reads head `q / group`, and no other.
#[test]
fn groups_and_queries_of_all_sizes() {
    for (group, n_queries) in [(1, 1), (2, 3), (3, 8), (4, 4), (5, 5), (8, 2), (16, 1), (16, 8)] {
        let parts = vec![Part::of(Tokens::ALL).masked(Mask::Causal)];
        let case =
            Case { group, n_queries, parts, n_heads: 3, lengths: vec![33, 2], ..Case::default() };
        assert_same::<_, f32>(&case.build::<Brain>());
    }
    let case = Case { n_heads: 4, group: 2, lengths: vec![20], ..Case::default() };
    let mut problem = case.build::<Brain>();
    let layout = case.kv_layout().unwrap();
    let segment = &mut problem.segments[0];
    for t in 0..20 {
        for h in 0..4 {
            let start = layout.locate(&segment.page_table, 0, t, h).unwrap();
            segment.values[start..start + 32].fill(Brain::from_f32(h as f32 + 1.0));
        }
    }
    for queue in common::queues() {
        let outputs = problem.attend::<f32>(&queue).unwrap().outputs;
        for q in 0..8 {
            let head = (q / 2 + 1) as f32;
            assert!(outputs[q * 32..q * 32 + 32].iter().all(|x| (x - head).abs() < 1e-6), "{q}");
        }
    }
}

/// Sinks, what was picked, a window, and what was summed up, of one request and several.
#[test]
fn segments_of_all_kinds_together() {
    let picked = Tokens::Blocks { n_blocks: 9, block_size: 3 };
    for (lists, n_queries) in [(KvLists::PerHead, 1), (KvLists::PerRequest, 4)] {
        let parts = vec![
            Part::of(Tokens::first(4)),
            Part { lists, has_counts: true, has_biases: true, ..Part::of(picked) },
            Part { lists, has_biases: true, ..Part::of(Tokens::last(20).after(4)) }
                .masked(Mask::Causal),
            Part::of(Tokens::Blocks { n_blocks: 3, block_size: 128 }).masked(Mask::Window(50)),
        ];
        for lengths in [vec![100, 0, 3, 17], vec![257], vec![5, 6]] {
            let case =
                Case { lengths, n_queries, n_heads: 2, parts: parts.clone(), ..Case::default() };
            assert_same::<_, f32>(&case.build::<Brain>());
            let case = Case { soft_cap: Some(3.0), has_sinks: true, ..case };
            assert_same::<_, Short>(&case.build::<Short>());
        }
    }
}

/// What a query sees of a window, and where a range of one begins.
#[test]
fn windows_end_at_each_query() {
    for window in [1, 2, 5, 30, 1000] {
        for n_queries in [1, 3, 8] {
            for tokens in [Tokens::ALL, Tokens::Blocks { n_blocks: 40, block_size: 1 }] {
                let part = Part::of(tokens).masked(Mask::Window(window));
                let lengths = vec![40, n_queries as u32, 2, 0];
                let case = Case { lengths, n_queries, parts: vec![part], ..Case::default() };
                assert_same::<_, f32>(&case.build::<Brain>());
            }
        }
    }
}

#[test]
fn absent_pages_and_wild_numbers_are_passed_over() {
    let parts =
        vec![Part::of(Tokens::Blocks { n_blocks: 50, block_size: 2 }), Part::of(Tokens::ALL)];
    let case = Case { lengths: vec![90, 1 << 30], parts, ..Case::default() };
    let case = Case { lengths: vec![90, 70], ..case };
    let mut problem = case.build::<Brain>();
    for segment in &mut problem.segments {
        // More tokens than the table has, and pages that are none.
        segment.lengths = vec![u32::MAX, 70];
        segment.page_table[1] = -1;
        segment.page_table[3] = i32::MAX;
    }
    assert_same::<_, f32>(&problem);
    let every = problem.segments[0].page_table.len();
    problem.segments.iter_mut().for_each(|segment| segment.page_table = vec![-1; every]);
    let results = problem.expect::<f32>(Model::HOPPER);
    assert!(results.log_sums.iter().all(|bits| *bits == f32::NEG_INFINITY.to_bits()));
    assert_same::<_, f32>(&problem);
}

#[test]
fn skipped_requests_stay_what_they_were() {
    let case = Case { lengths: vec![30, 200, 5], ..Case::default() };
    let problem = Problem { skips: Some(vec![0, 7, 0]), ..case.build::<Brain>() };
    assert_same::<_, f32>(&problem);
}

#[test]
fn log_sums_that_nobody_asks_for_are_not_written() {
    let case = Case { lengths: vec![30, 200, 0], ..Case::default() };
    assert_same::<_, f32>(&Problem { has_log_sums: false, ..case.build::<Brain>() });
}

/// NaN makes NaN, infinite logits count as the greatest that count, and rows of nothing but -inf are empty.
#[test]
fn what_is_no_number() {
    let case = Case { lengths: vec![40], head_dim: 16, group: 1, ..Case::default() };
    let layout = case.kv_layout().unwrap();
    for (value, is_key) in [
        (f32::NAN, true),
        (f32::INFINITY, true),
        (f32::NEG_INFINITY, true),
        (f32::NAN, false),
        (f32::INFINITY, false),
    ] {
        let mut problem = case.build::<Brain>();
        problem.queries[0] = Brain::from_f32(1.0);
        let segment = &mut problem.segments[0];
        let start = layout.locate(&segment.page_table, 0, 21, 0).unwrap();
        let pool = if is_key { &mut segment.keys } else { &mut segment.values };
        pool[start] = Brain::from_f32(value);
        assert_same::<_, f32>(&problem);
        let results = problem.expect::<f32>(Model::HOPPER);
        let value_of_the_token = problem.segments[0].values[start + 3].to_f32();
        match (value.is_nan(), is_key) {
            (true, _) => assert!(results.outputs[0].is_nan()),
            (false, true) if value > 0.0 => assert_eq!(results.outputs[3], value_of_the_token),
            (false, true) => assert!(results.outputs[3].is_finite()),
            (false, false) => assert_eq!(results.outputs[0], f32::INFINITY),
        }
        if value == f32::NEG_INFINITY {
            // All of them.
            let segment = &mut problem.segments[0];
            for t in 0..40 {
                let start = layout.locate(&segment.page_table, 0, t, 0).unwrap();
                segment.keys[start] = Brain::from_f32(value);
            }
            assert_same::<_, f32>(&problem);
            let results = problem.expect::<f32>(Model::HOPPER);
            assert_eq!(results.log_sums, [f32::NEG_INFINITY.to_bits()]);
            assert_eq!(results.outputs[..16], [0.0; 16]);
        }
    }
    // Rows of nothing beside values that are no numbers: what another query sees, and what a bias makes nothing of.
    for value in [f32::NAN, f32::INFINITY] {
        let causal = Part::of(Tokens::ALL).masked(Mask::Causal);
        let case = Case { lengths: vec![1], n_queries: 2, parts: vec![causal], ..case.clone() };
        let mut one = case.build::<Brain>();
        let biased = Part { has_biases: true, ..Part::of(Tokens::ALL) };
        let case = Case { n_queries: 1, parts: vec![biased], ..case };
        let mut other = case.build::<Brain>();
        other.segments[0].biases.as_mut().unwrap().fill(f32::NEG_INFINITY);
        for problem in [&mut one, &mut other] {
            let segment = &mut problem.segments[0];
            let layout = case.kv_layout().unwrap();
            let start = layout.locate(&segment.page_table, 0, 0, 0).unwrap();
            segment.values[start..start + 16].fill(Brain::from_f32(value));
            assert_same::<_, f32>(problem);
            let results = problem.expect::<f32>(Model::HOPPER);
            assert_eq!(results.log_sums[0], f32::NEG_INFINITY.to_bits());
            assert_eq!(results.outputs[..16], [0.0; 16]);
        }
    }
    for sink in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30] {
        let problem = Problem { sinks: Some(vec![sink]), ..case.build::<Brain>() };
        assert_same::<_, f32>(&problem);
    }
}

#[test]
fn every_schedule_and_both_kinds_of_tensor_cores() {
    let parts = vec![
        Part::of(Tokens::first(10)),
        Part { has_counts: true, ..Part::of(Tokens::Blocks { n_blocks: 60, block_size: 3 }) },
    ];
    let case = Case { lengths: vec![200, 31], parts, n_heads: 2, ..Case::default() };
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
        let [ampere, hopper] =
            [Model::AMPERE, Model::HOPPER].map(|model| problem.expect::<f32>(model));
        assert_ne!(ampere.outputs, hopper.outputs, "two generations round differently");
    }
}

/// Log-sum-exps are of the base that was asked for.
#[test]
fn the_base_of_log_sums() {
    let problem = Case { lengths: vec![300], ..Case::default() }.build::<Brain>();
    let of_two = problem.clone().with_base(LogBase::Two);
    assert_same::<_, f32>(&of_two);
    let [e, two] = [&problem, &of_two].map(|problem| problem.expect::<f32>(Model::HOPPER).log_sums);
    for (e, two) in e.iter().zip(&two) {
        let [e, two] = [*e, *two].map(|bits| f64::from(f32::from_bits(bits)));
        assert!((e - two * std::f64::consts::LN_2).abs() < 1e-6 * e.abs());
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let layout = Case::default().kv_layout().unwrap();
    let shape = AttendShape::of(&layout, 2);
    let all = SegmentShape::of(layout, Tokens::ALL);
    let cap = |cap| Logits { soft_cap: Some(cap), ..shape.logits };
    let refused = |shape: AttendShape, segments: &[SegmentShape]| {
        AttendPlan::new(shape, segments).unwrap_err().to_string()
    };
    for (shape, message) in [
        (AttendShape { n_queries: 9, ..shape }, "queries of a request: 9 is outside 1..=8"),
        (AttendShape { n_queries: 0, ..shape }, "queries of a request: 0 is outside 1..=8"),
        (
            AttendShape { head_dim: 264, ..shape },
            "dimension of a head: 264 is outside the multiples of 16 up to 256",
        ),
        (
            AttendShape { n_q_heads: 17, ..shape },
            "query heads of a head of keys: 17 is outside 1..=16",
        ),
        (AttendShape { batch: 2, ..shape }, "requests of a segment: expected 2, got 1"),
        (
            AttendShape { head_dim: 48, query_stride: 96, output_stride: 96, ..shape },
            "elements of a segment's rows: expected 48, got 32",
        ),
        (
            AttendShape { query_stride: 60, ..shape },
            "stride between queries, in elements: 60 is outside the multiples of 8 from all heads of a query on",
        ),
        (
            AttendShape { logits: cap(f32::NAN), ..shape },
            "soft cap of logits: NaN is outside 0.001..=1e4",
        ),
        (AttendShape { logits: cap(0.0), ..shape }, "soft cap of logits: 0 is outside 0.001..=1e4"),
    ] {
        assert_eq!(refused(shape, &[all]), message);
    }
    assert_eq!(refused(shape, &[]), "segments: 0 is outside 1..=4");
    assert_eq!(refused(shape, &[all; 5]), "segments: 5 is outside 1..=4");
    for (segment, message) in [
        (
            SegmentShape { tokens: Tokens::Blocks { n_blocks: 1, block_size: 129 }, ..all },
            "rows of a block: 129 is outside 1..=128",
        ),
        (
            SegmentShape { tokens: Tokens::Blocks { n_blocks: 1 << 20, block_size: 128 }, ..all },
            "rows of a list: 134217728 is outside 0..=2^26",
        ),
        (SegmentShape { mask: Mask::Window(0), ..all }, "tokens of a window: 0 is outside 1..2^31"),
    ] {
        assert_eq!(refused(shape, &[segment]), message);
    }
}

#[test]
fn what_a_launch_is_not_given_is_named() {
    let queue = Queue::simt(Config::default());
    let blocks = Part::of(Tokens::Blocks { n_blocks: 2, block_size: 1 });
    let case = Case { parts: vec![blocks], ..Case::default() };
    let problem = case.build::<Brain>();
    let refused = |problem: Problem<Brain>| problem.attend::<f32>(&queue).unwrap_err().to_string();
    let change = |change: &dyn Fn(&mut Problem<Brain>)| {
        let mut problem = problem.clone();
        change(&mut problem);
        refused(problem)
    };
    assert_eq!(change(&|p| p.segments[0].indices = None), "indices of blocks: expected 1, got 0");
    assert_eq!(change(&|p| p.segments[0].indices = Some(vec![0])), "indices: expected 2, got 1");
    assert_eq!(change(&|p| p.segments[0].counts = Some(vec![0; 3])), "counts: expected 1, got 3");
    assert_eq!(change(&|p| p.segments[0].biases = Some(vec![0.0])), "biases: expected 2, got 1");
    assert_eq!(change(&|p| p.sinks = Some(vec![0.0])), "sinks: expected 2, got 1");
    assert_eq!(change(&|p| p.skips = Some(vec![])), "skips: expected 1, got 0");
    assert_eq!(change(&|p| p.segments = vec![]), "segments: expected 1, got 0");
    assert!(change(&|p| p.queries = vec![]).starts_with("queries: expected"));
    let range = Case::default().build::<Brain>();
    let with_list = |p: &mut Problem<Brain>| p.segments[0].indices = Some(vec![]);
    let mut problem = range.clone();
    with_list(&mut problem);
    assert_eq!(refused(problem), "indices of a range: expected 0, got 1");
}
