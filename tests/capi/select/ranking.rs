//! What ranks, lists and gates: `topk_rows`, `compact_rows`, `gate_selection`.

use half::f16;
use lacuna::capi::lacuna_status::*;
use lacuna::capi::*;
use lacuna::select::{
    CompactInputs, CompactOutputs, CompactPlan, CompactShape, GateInputs, GateOutputs, GatePlan,
    GateShape, Listed, Rule, TopkInputs, TopkOutputs, TopkPages, TopkPlan, TopkShape,
};

use crate::c::{
    Aligned, Struct, bits, check_plan_refusals, check_refusals, launch, plan, queue, read,
    rust_queue, sizes, structs, view, view_mut, written,
};
use crate::common::Random;

structs! {
    lacuna_topk_rows_shape, lacuna_topk_rows_sizes, lacuna_topk_rows_args,
    lacuna_compact_rows_shape, lacuna_compact_rows_sizes, lacuna_compact_rows_args,
    lacuna_gate_selection_shape, lacuna_gate_selection_sizes, lacuna_gate_selection_args,
}

#[test]
fn topk_rows_picks_what_rust_picks() {
    let mut random = Random(1);
    let scores: Vec<f32> = (0..3 * 40 + 33).map(|_| random.number()).collect();
    let starts = [0_u32, 2, 0, 5];
    let (lengths, counts_asked, skips) = ([33_u32, 20], [7_u32, 3, 7, 7], [0_u32, 0, 1, 0]);
    let amounts = [0.5_f32, 0.9, 0.9, 0.2];
    let page_table: Vec<i32> = (0..2 * 9).rev().collect();

    let shape = lacuna_topk_rows_shape {
        n_rows: 4,
        n: 33,
        row_stride: 40,
        k: 7,
        n_first: 1,
        n_last: 2,
        rows_per_request: 2,
        dtype: lacuna_dtype::LACUNA_F32 as u32,
        rule: lacuna_rule::LACUNA_RULE_MASS as u32,
        amount: 0.7,
        n_pages: 18,
        page_size: 4,
        table_stride: 9,
        ..lacuna_topk_rows_shape::zeroed()
    };
    let queue = queue();
    let plan = plan(lacuna_topk_rows_plan_new, lacuna_topk_rows_plan_free, &shape).unwrap();
    let sizes: lacuna_topk_rows_sizes = sizes(lacuna_topk_rows_plan_sizes, &plan);
    assert_eq!([sizes.scores, sizes.lengths, sizes.page_table, sizes.kept], [153, 2, 18, 132]);
    #[derive(Debug, Clone, PartialEq)]
    struct Outputs {
        picks: [Vec<i32>; 2],
        counts: [Vec<u32>; 2],
        values: Vec<f32>,
        kept: Vec<u8>,
    }
    let poison = Outputs {
        picks: [vec![-7; sizes.indices as usize], vec![-7; sizes.slots as usize]],
        counts: [vec![77; sizes.counts as usize], vec![77; sizes.wanted as usize]],
        values: vec![7.0; sizes.values as usize],
        kept: vec![7; sizes.kept as usize],
    };
    let mut found = poison.clone();
    let Outputs { picks: [indices, slots], counts: [counts, wanted], values, kept } = &mut found;
    let args = lacuna_topk_rows_args {
        scores: view(&scores),
        starts: view(&starts),
        lengths: view(&lengths),
        counts_asked: view(&counts_asked),
        skips: view(&skips),
        amounts: view(&amounts),
        page_table: view(&page_table),
        indices: view_mut(indices),
        counts: view_mut(counts),
        values: view_mut(values),
        slots: view_mut(slots),
        wanted: view_mut(wanted),
        kept: view_mut(kept),
        ..lacuna_topk_rows_args::zeroed()
    };
    check_refusals(lacuna_topk_rows, &queue, &plan, &args);
    check_plan_refusals(lacuna_topk_rows_plan_new, lacuna_topk_rows_plan_free, &shape);
    assert_eq!(found, poison);
    launch(lacuna_topk_rows, &queue, &plan, &args).unwrap();

    let rust = rust_queue();
    let plan = TopkPlan::new(TopkShape {
        row_stride: 40,
        n_first: 1,
        n_last: 2,
        rows_per_request: 2,
        rule: Rule::Mass { share: 0.7 },
        pages: Some(TopkPages { n_pages: 18, page_size: 4, table_stride: 9 }),
        ..TopkShape::of::<f32>(4, 33, 7)
    })
    .unwrap();
    let inputs = TopkInputs {
        scores: read(&rust, &scores),
        starts: Some(read(&rust, &starts)),
        lengths: Some(read(&rust, &lengths)),
        counts_asked: Some(read(&rust, &counts_asked)),
        skips: Some(read(&rust, &skips)),
        amounts: Some(read(&rust, &amounts)),
        page_table: Some(read(&rust, &page_table)),
    };
    let mut expected = poison;
    let Outputs { picks: [indices, slots], counts: [counts, wanted], values, kept } = &mut expected;
    let mut outputs = TopkOutputs {
        indices: written(&rust, indices),
        counts: written(&rust, counts),
        values: Some(written(&rust, values)),
        slots: Some(written(&rust, slots)),
        wanted: Some(written(&rust, wanted)),
        kept: Some(written(&rust, kept)),
    };
    lacuna::select::topk_rows(&rust, &plan, &inputs, &mut outputs).unwrap();
    assert_eq!(bits(&found.values), bits(&expected.values));
    assert_eq!(found, expected);
    assert_eq!(found.counts[0][2], 77, "a skipped row");
}

#[test]
fn a_mask_alone_needs_no_places() {
    let scores = [3.0_f32, 1.0, 2.0, 5.0];
    let shape = lacuna_topk_rows_shape {
        n_rows: 1,
        n: 4,
        dtype: lacuna_dtype::LACUNA_F32 as u32,
        rule: lacuna_rule::LACUNA_RULE_AT_LEAST as u32,
        amount: 2.5,
        ..lacuna_topk_rows_shape::zeroed()
    };
    let queue = queue();
    let plan = plan(lacuna_topk_rows_plan_new, lacuna_topk_rows_plan_free, &shape).unwrap();
    let (mut counts, mut wanted, mut kept) = ([7_u32], [7_u32], [7_u8; 4]);
    let args = lacuna_topk_rows_args {
        scores: view(&scores),
        counts: view_mut(&mut counts),
        wanted: view_mut(&mut wanted),
        kept: view_mut(&mut kept),
        ..lacuna_topk_rows_args::zeroed()
    };
    launch(lacuna_topk_rows, &queue, &plan, &args).unwrap();
    assert_eq!((counts, wanted, kept), ([0], [2], [1, 0, 0, 1]));
}

#[test]
fn compact_rows_lists_what_rust_lists() {
    let mut random = Random(2);
    let kept: Vec<u8> = (0..3 * 40 + 37).map(|_| (random.next() % 3) as u8).collect();
    let (lengths, skips) = ([30_u32, 37], [0_u32, 1, 0, 0]);
    let queue = queue();
    for (number, listed) in [(0, Listed::Kept), (1, Listed::Dropped)] {
        let shape = lacuna_compact_rows_shape {
            n_rows: 4,
            n: 37,
            row_stride: 40,
            capacity: 9,
            rows_per_request: 2,
            listed: number,
            ..lacuna_compact_rows_shape::zeroed()
        };
        let (new, free) = (lacuna_compact_rows_plan_new, lacuna_compact_rows_plan_free);
        let plan = plan(new, free, &shape).unwrap();
        let sizes: lacuna_compact_rows_sizes = sizes(lacuna_compact_rows_plan_sizes, &plan);
        assert_eq!([sizes.kept, sizes.lengths, sizes.skips, sizes.counts], [157, 2, 4, 4]);
        let poison = [
            vec![-7_i32; sizes.indices as usize],
            vec![-7; sizes.offsets as usize],
            vec![-7; sizes.counts as usize],
            vec![-7; sizes.row_starts as usize],
        ];
        let run = |outputs: &mut [Vec<i32>; 4], is_c: bool| {
            let mut workspace = vec![0_u32; sizes.workspace as usize];
            let [indices, offsets, counts, row_starts] = outputs;
            let (counts, row_starts) =
                (bytemuck::cast_slice_mut(counts), bytemuck::cast_slice_mut(row_starts));
            if is_c {
                let args = lacuna_compact_rows_args {
                    kept: view(&kept),
                    lengths: view(&lengths),
                    skips: view(&skips),
                    indices: view_mut(indices),
                    counts: view_mut::<u32>(counts),
                    offsets: view_mut(offsets),
                    row_starts: view_mut::<u32>(row_starts),
                    workspace: view_mut(&mut workspace),
                    ..lacuna_compact_rows_args::zeroed()
                };
                check_refusals(lacuna_compact_rows, &queue, &plan, &args);
                return launch(lacuna_compact_rows, &queue, &plan, &args).unwrap();
            }
            let rust = rust_queue();
            let plan = CompactPlan::new(CompactShape {
                row_stride: 40,
                rows_per_request: 2,
                listed,
                ..CompactShape::of(4, 37, 9)
            });
            let inputs = CompactInputs {
                kept: read(&rust, &kept),
                lengths: Some(read(&rust, &lengths)),
                skips: Some(read(&rust, &skips)),
            };
            let mut outputs = CompactOutputs {
                indices: written(&rust, indices),
                counts: written(&rust, counts),
                offsets: Some(written(&rust, offsets)),
                row_starts: Some(written(&rust, row_starts)),
                workspace: written(&rust, &mut workspace),
            };
            let plan = &plan.unwrap();
            lacuna::select::compact_rows(&rust, plan, &inputs, &mut outputs).unwrap();
        };
        let (mut found, mut expected) = (poison.clone(), poison);
        run(&mut found, true);
        run(&mut expected, false);
        assert_eq!(found, expected, "{listed:?}");
    }
}

#[test]
fn what_compact_rows_refuses_leaves_outputs_alone() {
    let shape = lacuna_compact_rows_shape { n_rows: 2, n: 5, capacity: 5, ..Struct::zeroed() };
    let (new, free) = (lacuna_compact_rows_plan_new, lacuna_compact_rows_plan_free);
    check_plan_refusals(new, free, &shape);
    let refuse = |change: fn(&mut lacuna_compact_rows_shape), status, message: &str| {
        let mut shape = shape;
        change(&mut shape);
        let found = plan(new, free, &shape).map(drop);
        assert_eq!(found, Err((status, message.to_owned())));
    };
    refuse(|s| s.listed = 2, LACUNA_RANGE, "listed: 2 is no lacuna_listed");
    refuse(
        |s| s.row_stride = 4,
        LACUNA_RANGE,
        "stride between rows, in elements: 4 is outside the elements of a row and more",
    );
    refuse(|s| s.reserved = 9, LACUNA_ABI, "reserved of lacuna_compact_rows_shape is 9, and not 0");

    let (queue, plan) = (queue(), plan(new, free, &shape).unwrap());
    let kept = [1_u8; 10];
    let (mut indices, mut counts, mut workspace) = ([-7_i32; 10], [77_u32; 2], [0_u32; 1]);
    let args = lacuna_compact_rows_args {
        kept: view(&kept),
        indices: view_mut(&mut indices),
        counts: view_mut(&mut counts),
        workspace: view_mut(&mut workspace),
        ..lacuna_compact_rows_args::zeroed()
    };
    let refuse = |change: fn(&mut lacuna_compact_rows_args), status, message: &str| {
        let mut args = args;
        change(&mut args);
        let found = launch(lacuna_compact_rows, &queue, &plan, &args);
        assert_eq!(found, Err((status, message.to_owned())));
    };
    refuse(
        |a| a.kept.dtype = lacuna_dtype::LACUNA_I8 as u32,
        LACUNA_DTYPE,
        "dtype of kept: i8 is not one of u8",
    );
    refuse(|a| a.kept.dtype = 99, LACUNA_DTYPE, "dtype of kept: 99 is not one of u8");
    refuse(|a| a.kept.len = 9, LACUNA_SHAPE, "kept: expected 10, got 9");
    refuse(|a| a.counts.len = 3, LACUNA_SHAPE, "counts: expected 2, got 3");
    refuse(|a| a.workspace.len = 0, LACUNA_SHAPE, "workspace: expected 1, got 0");
    refuse(
        |a| a.kept.reserved = 1,
        LACUNA_ABI,
        "reserved of kept is 1, and neither 0 nor of an arena that there is",
    );
    refuse(|a| a.kept.data = std::ptr::null(), LACUNA_NULL, "data of kept is a null pointer");
    assert_eq!((indices, counts), ([-7; 10], [77; 2]));
}

#[test]
fn gate_selection_gates_as_rust_does() {
    let mut random = Random(3);
    let queries = Aligned::new((0..2 * 24 + 16).map(|_| f16::from_f32(random.number())));
    let mut before = Aligned::new((0..3 * 16).map(|_| f16::from_f32(random.number())));
    before[..16].copy_from_slice(&queries[..16]);
    before[32..].copy_from_slice(&queries[48..]);
    let (forced, thetas) = ([0_u32, 0, 1], [0.9_f32, -1.0, 0.9]);

    let shape = lacuna_gate_selection_shape {
        batch: 3,
        n: 16,
        query_stride: 24,
        rows_per_request: 2,
        dtype: lacuna_dtype::LACUNA_F16 as u32,
        ..lacuna_gate_selection_shape::zeroed()
    };
    let (new, free) = (lacuna_gate_selection_plan_new, lacuna_gate_selection_plan_free);
    check_plan_refusals(new, free, &shape);
    let queue = queue();
    let wrong = lacuna_gate_selection_shape { dtype: lacuna_dtype::LACUNA_E4M3 as u32, ..shape };
    let message = "dtype of queries: e4m3 is not one of bf16, f16, f32".to_owned();
    assert_eq!(plan(new, free, &wrong).map(drop), Err((LACUNA_DTYPE, message)));
    let plan = plan(new, free, &shape).unwrap();
    let sizes: lacuna_gate_selection_sizes = sizes(lacuna_gate_selection_plan_sizes, &plan);
    assert_eq!([sizes.queries, sizes.cached, sizes.skips, sizes.cosines], [64, 48, 6, 3]);

    let rust = rust_queue();
    let of_rust = GatePlan::new(GateShape {
        query_stride: 24,
        rows_per_request: 2,
        ..GateShape::of::<f16>(3, 16)
    })
    .unwrap();
    // With thresholds of requests, and with one for all.
    for has_thetas in [true, false] {
        let mut found = (before.clone(), [1_u32; 3], [7_u32; 6], [7.0_f32; 3]);
        let mut expected = found.clone();
        let (cached, states, skips, cosines) = &mut found;
        let mut args = lacuna_gate_selection_args {
            queries: view(&queries),
            forced: view(&forced),
            theta: 0.5,
            cached: view_mut(cached),
            states: view_mut(states),
            skips: view_mut(skips),
            cosines: view_mut(cosines),
            ..lacuna_gate_selection_args::zeroed()
        };
        if has_thetas {
            args.thetas = view(&thetas);
        }
        check_refusals(lacuna_gate_selection, &queue, &plan, &args);
        let mut wrong = args;
        wrong.queries.data = wrong.queries.data.wrapping_byte_add(2);
        wrong.queries.len -= 1;
        let (status, message) = launch(lacuna_gate_selection, &queue, &plan, &wrong).unwrap_err();
        assert_eq!(status, LACUNA_RANGE);
        assert!(message.starts_with("address of queries: "), "{message}");
        assert_eq!(found, expected);
        launch(lacuna_gate_selection, &queue, &plan, &args).unwrap();

        let (cached, states, skips, cosines) = &mut expected;
        let inputs = GateInputs {
            queries: read(&rust, &queries),
            forced: Some(read(&rust, &forced)),
            thetas: has_thetas.then(|| read(&rust, &thetas)),
            theta: 0.5,
        };
        let mut outputs = GateOutputs {
            cached: written(&rust, cached),
            states: written(&rust, states),
            skips: written(&rust, skips),
            cosines: Some(written(&rust, cosines)),
        };
        lacuna::select::gate_selection(&rust, &of_rust, &inputs, &mut outputs).unwrap();
        assert_eq!(bits(&found.3), bits(&expected.3));
        assert_eq!((&found.0, found.1, found.2), (&expected.0, expected.1, expected.2));
        assert_eq!(found.2, [1, 1, has_thetas.into(), has_thetas.into(), 0, 0]);
    }
}
