//! `merge_partials`, `merge_partials_in_place`.

use half::f16;
use lacuna::attention::{
    LogBase, LogSumOrder, MergeOutputs, MergePlan, MergeShape, MergeTarget, Partial, PartialShape,
};
use lacuna::capi::lacuna_status::*;
use lacuna::capi::*;

use crate::c::{
    Handle, Refused, Struct, answer, check_plan_refusals, check_refusals, launch, plan, queue,
    read, rust_queue, sizes, structs, view, view_mut, written,
};
use crate::common::Random;

structs! {
    lacuna_partial_shape, lacuna_merge_partials_shape, lacuna_merge_partials_sizes,
    lacuna_partial_sizes, lacuna_partial, lacuna_merge_partials_args,
    lacuna_merge_partials_in_place_args,
}

fn c_parts() -> [lacuna_partial_shape; 2] {
    [
        lacuna_partial_shape::zeroed(),
        lacuna_partial_shape {
            stride: 40,
            log_sum_order: lacuna_log_sum_order::LACUNA_LOG_SUMS_HEADS_TOKENS as u32,
            ..lacuna_partial_shape::zeroed()
        },
    ]
}

fn c_shape(parts: &[lacuna_partial_shape]) -> lacuna_merge_partials_shape {
    lacuna_merge_partials_shape {
        parts: parts.as_ptr(),
        n_parts: parts.len() as u64,
        n_tokens: 3,
        n_heads: 2,
        head_dim: 16,
        output_stride: 48,
        log_base: lacuna_log_base::LACUNA_LOG_BASE_TWO as u32,
        dtype: lacuna_dtype::LACUNA_F16 as u32,
        ..lacuna_merge_partials_shape::zeroed()
    }
}

fn rust_plan() -> MergePlan {
    let shape = MergeShape { output_stride: 48, base: LogBase::Two, ..MergeShape::of(3, 2, 16) };
    let parts = [
        PartialShape { stride: 32, log_sum_order: LogSumOrder::TokensHeads },
        PartialShape { stride: 40, log_sum_order: LogSumOrder::HeadsTokens },
    ];
    MergePlan::new(shape, &parts).unwrap()
}

fn new(shape: &lacuna_merge_partials_shape) -> Result<Handle<lacuna_merge_partials_plan>, Refused> {
    plan(lacuna_merge_partials_plan_new, lacuna_merge_partials_plan_free, shape)
}

fn part_sizes(plan: &Handle<lacuna_merge_partials_plan>, part: u64) -> Result<[u64; 3], Refused> {
    let mut sizes = lacuna_partial_sizes::zeroed();
    // SAFETY: a handle of the library's and a struct of this program's.
    answer(unsafe {
        lacuna_merge_partials_plan_partial_sizes(plan.address, part, &raw mut sizes)
    })?;
    Ok([sizes.outputs, sizes.log_sums, sizes.mask])
}

/// Partial results in memory.
struct Parts {
    outputs: [Vec<f16>; 2],
    log_sums: [Vec<f32>; 2],
    mask: [u32; 3],
}

impl Parts {
    fn new(random: &mut Random) -> Self {
        let mut outputs = |n: usize| (0..n).map(|_| f16::from_f32(random.number())).collect();
        let outputs = [outputs(96), outputs(112)];
        let mut log_sums = || (0..6).map(|_| 4.0 * random.number()).collect::<Vec<_>>();
        Self { outputs, log_sums: [log_sums(), log_sums()], mask: [1, 0, 1] }
    }

    fn c_views(&self) -> [lacuna_partial; 2] {
        let part = |i: usize| lacuna_partial {
            outputs: view(&self.outputs[i]),
            log_sums: view(&self.log_sums[i]),
            ..lacuna_partial::zeroed()
        };
        [part(0), lacuna_partial { mask: view(&self.mask), ..part(1) }]
    }

    fn views<'a>(&'a self, queue: &lacuna::Queue) -> [Partial<'a, f16>; 2] {
        let part = |i: usize| Partial {
            outputs: read(queue, &self.outputs[i]),
            log_sums: read(queue, &self.log_sums[i]),
            mask: (i == 1).then(|| read(queue, &self.mask)),
        };
        [part(0), part(1)]
    }
}

#[test]
fn merge_partials_merges_as_rust_does() {
    let (queue, rust) = (queue(), rust_queue());
    let c_parts = c_parts();
    let shape = lacuna_merge_partials_shape {
        output_dtype: lacuna_dtype::LACUNA_F32 as u32,
        ..c_shape(&c_parts)
    };
    let plan = new(&shape).unwrap();
    let sizes: lacuna_merge_partials_sizes = sizes(lacuna_merge_partials_plan_sizes, &plan);
    assert_eq!([sizes.outputs, sizes.log_sums, sizes.mask], [128, 6, 3]);
    assert_eq!(part_sizes(&plan, 0).unwrap(), [96, 6, 3]);
    assert_eq!(part_sizes(&plan, 1).unwrap(), [112, 6, 3]);
    let message = "part: 2 is outside the parts of the plan".to_owned();
    assert_eq!(part_sizes(&plan, 2), Err((LACUNA_RANGE, message)));

    let parts = Parts::new(&mut Random(1));
    let views = parts.c_views();
    let mut found = vec![-77.0_f32; 128];
    let mut found_sums = vec![-77.0_f32; 6];
    let (mut expected, mut expected_sums) = (found.clone(), found_sums.clone());
    let args = lacuna_merge_partials_args {
        parts: views.as_ptr(),
        n_parts: 2,
        outputs: view_mut(&mut found),
        log_sums: view_mut(&mut found_sums),
        ..lacuna_merge_partials_args::zeroed()
    };
    check_refusals(lacuna_merge_partials, &queue, &plan, &args);
    let wrong = lacuna_merge_partials_args { n_parts: 3, ..args };
    let refused = launch(lacuna_merge_partials, &queue, &plan, &wrong);
    assert_eq!(refused, Err((LACUNA_SHAPE, "parts: expected 2, got 3".to_owned())));
    let mut bad = views;
    bad[1].log_sums.dtype = 0;
    let wrong = lacuna_merge_partials_args { parts: bad.as_ptr(), ..args };
    let refused = launch(lacuna_merge_partials, &queue, &plan, &wrong);
    let message = "dtype of log_sums of a part: none is not one of f32".to_owned();
    assert_eq!(refused, Err((LACUNA_DTYPE, message)));
    assert_eq!(found, expected);
    launch(lacuna_merge_partials, &queue, &plan, &args).unwrap();

    let mut outputs = MergeOutputs {
        outputs: written(&rust, &mut expected),
        log_sums: Some(written(&rust, &mut expected_sums)),
    };
    let of_rust = rust_plan();
    lacuna::attention::merge_partials(&rust, &of_rust, &parts.views(&rust), &mut outputs).unwrap();
    assert_eq!((&found, &found_sums), (&expected, &expected_sums));
    assert_ne!(found_sums, [-77.0; 6]);

    // Outputs of another type than the parts have no target.
    let mut target = vec![f16::ONE; 128];
    let args = lacuna_merge_partials_in_place_args {
        parts: views.as_ptr(),
        n_parts: 2,
        outputs: view_mut(&mut target),
        log_sums: view_mut(&mut found_sums),
        ..lacuna_merge_partials_in_place_args::zeroed()
    };
    let refused = launch(lacuna_merge_partials_in_place, &queue, &plan, &args);
    let message = "dtype of a target, by the plan: f32 is not one of f16".to_owned();
    assert_eq!(refused, Err((LACUNA_DTYPE, message)));
}

#[test]
fn merge_partials_in_place_merges_as_rust_does() {
    let (queue, rust) = (queue(), rust_queue());
    let c_parts = c_parts();
    let plan = new(&c_shape(&c_parts)).unwrap();
    let mut random = Random(2);
    let parts = Parts::new(&mut random);
    let views = parts.c_views();
    let mut found: Vec<_> = (0..128).map(|_| f16::from_f32(random.number())).collect();
    let mut found_sums: Vec<_> = (0..6).map(|_| random.number()).collect();
    let mask = [1_u32, 1, 0];
    let (before, mut expected) = (found.clone(), found.clone());
    let mut expected_sums = found_sums.clone();
    let args = lacuna_merge_partials_in_place_args {
        parts: views.as_ptr(),
        n_parts: 2,
        mask: view(&mask),
        outputs: view_mut(&mut found),
        log_sums: view_mut(&mut found_sums),
        ..lacuna_merge_partials_in_place_args::zeroed()
    };
    check_refusals(lacuna_merge_partials_in_place, &queue, &plan, &args);
    let none = lacuna_merge_partials_in_place_args::zeroed();
    let wrong = lacuna_merge_partials_in_place_args { log_sums: none.log_sums, ..args };
    let refused = launch(lacuna_merge_partials_in_place, &queue, &plan, &wrong);
    let message = "dtype of log_sums: none is not one of f32".to_owned();
    assert_eq!(refused, Err((LACUNA_DTYPE, message)));
    assert_eq!(found, before);
    launch(lacuna_merge_partials_in_place, &queue, &plan, &args).unwrap();

    let mut target = MergeTarget {
        outputs: written(&rust, &mut expected),
        log_sums: written(&rust, &mut expected_sums),
        mask: Some(read(&rust, &mask)),
    };
    let (of_rust, views) = (rust_plan(), parts.views(&rust));
    lacuna::attention::merge_partials_in_place(&rust, &of_rust, &mut target, &views).unwrap();
    assert_eq!((&found, &found_sums), (&expected, &expected_sums));
    assert_ne!(found, before);
}

#[test]
fn plans_that_merge_refuse_what_is_none() {
    let parts = c_parts();
    let shape = c_shape(&parts);
    check_plan_refusals(lacuna_merge_partials_plan_new, lacuna_merge_partials_plan_free, &shape);
    let refused = |change: fn(&mut lacuna_merge_partials_shape)| {
        let mut shape = shape;
        change(&mut shape);
        new(&shape).map(drop).unwrap_err()
    };
    let message = "parts: 0 is outside 1..=8".to_owned();
    assert_eq!(refused(|s| s.n_parts = 0), (LACUNA_RANGE, message));
    let message = "dtype of parts: none is not one of bf16, f16, f32".to_owned();
    assert_eq!(refused(|s| s.dtype = 0), (LACUNA_DTYPE, message));
    let message = "dtype of outputs: i64 is not one of bf16, f16, f32".to_owned();
    assert_eq!(refused(|s| s.output_dtype = 12), (LACUNA_DTYPE, message));
    let message = "log_base: 7 is no lacuna_log_base".to_owned();
    assert_eq!(refused(|s| s.log_base = 7), (LACUNA_RANGE, message));
    let message = "queries of a request: 2 is outside the divisors of the tokens".to_owned();
    assert_eq!(refused(|s| s.n_queries = 2), (LACUNA_RANGE, message));
    let mut wrong = parts;
    wrong[1].reserved = 1;
    let message = "reserved of lacuna_partial_shape is 1, and not 0".to_owned();
    assert_eq!(new(&c_shape(&wrong)).map(drop), Err((LACUNA_ABI, message)));
}
