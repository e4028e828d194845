//! `merge_partials`.

mod laws;
mod problem;

use half::{bf16, f16};
use lacuna::attention::{LogBase, MergePlan, MergeShape, PartialShape};
use lacuna::element::Real;
use lacuna::simt::{Checks, Config, Fibres};
use lacuna::{Error, Queue};

use self::problem::*;
use crate::common;

/// The launches give what the reference does, on every executor.
#[track_caller]
fn assert_same<T: Real, O: Real>(problem: &Problem<T>) {
    for queue in common::queues() {
        let what = format!("{}, {:?}", queue.executor(), problem.case);
        let (found, expected) = (problem.merge::<O>(&queue).unwrap(), problem.expect::<O>());
        assert_eq!(found.log_sums, expected.log_sums, "log-sums of {what}");
        let differs = (0..found.outputs.len()).find(|i| found.outputs[*i] != expected.outputs[*i]);
        assert_eq!(differs, None, "byte of outputs of {what}");
        if problem.parts.len() > 1 {
            let found = problem.merge_in_place(&queue).unwrap();
            assert!(found == problem.expect_in_place(), "in place, {what}");
        }
    }
}

#[track_caller]
fn assert_all_types(case: &Case) {
    assert_same::<bf16, bf16>(&case.build());
    assert_same::<bf16, f32>(&case.build::<bf16>());
    assert_same::<f16, bf16>(&case.build::<f16>());
    assert_same::<f16, f16>(&case.build());
    assert_same::<f32, f16>(&case.build::<f32>());
    assert_same::<f32, f32>(&case.build());
}

#[test]
fn every_number_of_parts() {
    for n_parts in 1..=8 {
        for base in [LogBase::E, LogBase::Two] {
            let case = Case { n_parts, base, seed: n_parts as u64, ..Case::default() };
            assert_all_types(&case);
            assert_all_types(&Case { has_masks: true, is_hostile: true, ..case });
        }
    }
}

#[test]
fn log_sums_may_be_left_out() {
    for queue in common::queues() {
        assert!(Case::default().build::<bf16>().agrees_without_sums::<bf16>(&queue));
    }
}

#[test]
fn head_dimensions_up_to_the_longest() {
    for head_dim in [8, 16, 24, 40, 64, 80, 96, 128, 136, 192, 256, 264, 512, 576, 1016, 1024] {
        let case = Case { head_dim, n_tokens: 2, is_hostile: true, ..Case::default() };
        assert_same::<bf16, bf16>(&case.build());
        assert_same::<f16, f32>(&case.build());
        assert_same::<f32, f32>(&case.build());
    }
}

/// Of a warp, a block, and the ends of both; a grid of nothing.
#[test]
fn rows_around_a_warp_and_a_block() {
    for n_tokens in [0, 1, 3, 4, 5, 15, 16, 17, 31, 32, 33, 100] {
        for n_heads in [1, 2, 7] {
            let case = Case { n_tokens, n_heads, head_dim: 24, has_masks: true, ..Case::default() };
            assert_same::<bf16, bf16>(&case.build());
            assert_same::<f32, bf16>(&case.build());
        }
    }
}

/// What is not aligned to 16 bytes moves by single elements; what lies between tokens stays.
#[test]
fn strides_and_addresses_of_all_alignments() {
    for gaps in [[0, 0, 8], [8, 16, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3], [4, 4, 4], [100, 7, 64]] {
        assert_all_types(&Case { gaps, has_masks: true, ..Case::default() });
    }
    for offsets in [[1, 0, 0], [0, 1, 0], [0, 0, 1], [4, 4, 4], [8, 8, 8], [2, 0, 2], [3, 5, 7]] {
        assert_all_types(&Case { offsets, ..Case::default() });
    }
}

#[test]
fn every_schedule_and_both_kinds_of_fibres() {
    let case = Case { has_masks: true, is_hostile: true, n_parts: 5, ..Case::default() };
    for fibres in [Fibres::Native, Fibres::Portable] {
        for schedule in common::SCHEDULES {
            let config = Config { schedule, fibres, checks: Checks::ALL, ..Config::default() };
            let queue = Queue::simt(config);
            assert!(case.build::<bf16>().agrees::<f32>(&queue), "{schedule:?}, {fibres:?}");
            assert!(case.build::<f32>().agrees::<bf16>(&queue), "{schedule:?}, {fibres:?}");
        }
    }
}

/// A token's bits are the same alone and among others, wherever it is.
#[test]
fn a_token_does_not_see_the_others() {
    let case = Case { n_tokens: 7, has_masks: true, is_hostile: true, ..Case::default() };
    let all = case.build::<bf16>();
    for queue in common::queues() {
        let together = all.merge::<bf16>(&queue).unwrap();
        let n = (case.n_heads * case.head_dim) as usize;
        let n_heads = case.n_heads as usize;
        for t in 0..7 {
            let mut alone = Case { n_tokens: 1, ..case.clone() }.build::<bf16>();
            for (one, from) in alone.parts.iter_mut().zip(&all.parts) {
                one.outputs.copy_from_slice(&from.outputs[t * n..][..n]);
                one.log_sums.copy_from_slice(&from.log_sums[t * n_heads..][..n_heads]);
                one.mask = from.mask.as_ref().map(|mask| vec![mask[t]]);
            }
            let alone = alone.merge::<bf16>(&queue).unwrap();
            assert_eq!(alone.outputs, together.outputs[2 * t * n..][..2 * n]);
            assert_eq!(alone.log_sums, together.log_sums[t * n_heads..][..n_heads]);
        }
    }
}

#[test]
fn plans_say_what_is_not_supported() {
    let shape = MergeShape::of(4, 8, 64);
    let of = |change: fn(&mut MergeShape), strides: &[u64]| {
        let mut shape = shape;
        change(&mut shape);
        let part = |stride: &u64| PartialShape { stride: *stride, ..shape.part() };
        let parts: Vec<_> = strides.iter().map(part).collect();
        MergePlan::new(shape, &parts).unwrap_err().to_string()
    };
    for (expected, found) in [
        ("parts: 0 is outside 1..=8", of(|_| {}, &[])),
        ("parts: 9 is outside 1..=8", of(|_| {}, &[512; 9])),
        (
            "dimension of a head: 60 is outside the multiples of 8 up to 1024",
            of(|shape| shape.head_dim = 60, &[512]),
        ),
        (
            "dimension of a head: 1032 is outside the multiples of 8 up to 1024",
            of(|shape| shape.head_dim = 1032, &[1 << 20]),
        ),
        ("tokens: 2147483648 is outside 0..2^31", of(|shape| shape.n_tokens = 1 << 31, &[512])),
        (
            "tokens times heads: 2147483648 is outside 0..2^31",
            of(|shape| shape.n_tokens = 1 << 28, &[512]),
        ),
        (
            "stride between a part's tokens, in elements: 511 is outside all heads of a token and more",
            of(|_| {}, &[512, 511]),
        ),
        (
            "stride between outputs, in elements: 8 is outside all heads of a token and more",
            of(|shape| shape.output_stride = 8, &[512]),
        ),
        (
            "stride between a part's tokens, in elements: 4294967296 is outside 0..2^32",
            of(|_| {}, &[1 << 32]),
        ),
        ("queries of a request: 0 is outside 1..2^31", of(|shape| shape.n_queries = 0, &[512])),
        (
            "queries of a request: 3 is outside the divisors of the tokens",
            of(|shape| shape.n_queries = 3, &[512]),
        ),
        ("query heads: 0 is outside 1..65536", of(|shape| shape.n_heads = 0, &[512])),
        ("query heads: 65536 is outside 1..65536", of(|shape| shape.n_heads = 1 << 16, &[512])),
    ] {
        assert_eq!(expected, found);
    }
}

#[test]
fn launches_say_what_does_not_fit_the_plan() {
    let case = Case { has_masks: true, ..Case::default() };
    let queue = Queue::simt(Config::default());
    let message = |result: Result<_, Error>| result.map(|_: Results| ()).unwrap_err().to_string();
    let broken = |change: fn(&mut Problem<bf16>)| {
        let mut problem = case.build::<bf16>();
        change(&mut problem);
        [message(problem.merge::<bf16>(&queue)), message(problem.merge_in_place(&queue))]
    };
    let outputs = broken(|problem| problem.parts[1].outputs.truncate(100));
    assert_eq!(outputs, ["outputs of a part: expected 960, got 100"; 2]);
    let log_sums = broken(|problem| problem.parts[2].log_sums.truncate(3));
    assert_eq!(log_sums, ["log_sums of a part: expected 15, got 3"; 2]);
    let mask = broken(|problem| problem.parts[1].mask = Some(vec![1; 4]));
    assert_eq!(mask, ["mask of a part: expected 5, got 4"; 2]);
    let parts = broken(|problem| problem.parts.truncate(2));
    assert_eq!(parts, ["parts: expected 3, got 2", "parts: expected 2, got 1"]);
    let target = broken(|problem| problem.parts[0].mask = Some(vec![1; 4]));
    assert_eq!(target[1], "mask of the target: expected 5, got 4");
    let sums = broken(|problem| problem.parts[0].log_sums.truncate(4));
    assert_eq!(sums[1], "log_sums of the target: expected 15, got 4");
    let target = broken(|problem| problem.parts[0].outputs.truncate(4));
    assert_eq!(target[1], "outputs of the target: expected 960, got 4");
}
