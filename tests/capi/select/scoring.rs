//! What scores rows of caches: `score_rows`, `vote_rows`, `score_votes`, `column_mass`, `summarize`.

use half::{bf16, f16};
use lacuna::capi::lacuna_status::*;
use lacuna::capi::*;
use lacuna::element::E5m2;
use lacuna::kv::{KvLayout, KvShape};
use lacuna::select::{
    GroupReduction, MassInputs, MassOutputs, MassPlan, MassShape, ScoreInputs, ScoreOutputs,
    ScorePlan, ScoreShape, SoftmaxOutputs, SummarizeInputs, SummarizeOutputs, SummarizePlan,
    SummarizeShape, Summary, Together, VoteInputs, VoteOutputs, VotePlan, VoteReduction, VoteRule,
};

use crate::c::{
    Aligned, Cache, Handle, Refused, Struct, bits, check_plan_refusals, check_refusals, launch,
    made, plan, queue, read, rust_queue, sizes, structs, view, view_mut, written,
};
use crate::common::Random;

structs! {
    lacuna_score_rows_shape, lacuna_score_rows_sizes, lacuna_score_rows_args,
    lacuna_vote_rows_shape, lacuna_vote_rows_sizes, lacuna_vote_rows_args,
    lacuna_score_votes_args,
    lacuna_column_mass_shape, lacuna_column_mass_sizes, lacuna_column_mass_args,
    lacuna_summarize_shape, lacuna_summarize_sizes, lacuna_summarize_args,
}

fn cache_of_f16(seed: u64) -> Cache<f16> {
    let mut random = Random(seed);
    Cache::new(16, move || f16::from_f32(random.number()))
}

/// Four query heads, queries of f32, scores of bf16.
fn score_shape(kv: &lacuna_kv_shape) -> lacuna_score_rows_shape {
    lacuna_score_rows_shape {
        kv,
        n_q_heads: 4,
        query_dtype: lacuna_dtype::LACUNA_F32 as u32,
        score_dtype: lacuna_dtype::LACUNA_BF16 as u32,
        ..lacuna_score_rows_shape::zeroed()
    }
}

#[test]
fn score_rows_scores_as_rust_does() {
    let cache = cache_of_f16(9);
    let mut random = Random(10);
    let queries: Vec<f32> = (0..2 * 80).map(|_| random.number()).collect();
    let skips = [0_u32, 1];
    let (queue, rust, c_cache) = (queue(), rust_queue(), cache.c_shape());
    let (new, free) = (lacuna_score_rows_plan_new, lacuna_score_rows_plan_free);

    let usual = score_shape(&c_cache);
    let boxes = lacuna_score_rows_shape {
        query_stride: 80,
        n: 10,
        score_stride: 11,
        kind: lacuna_score_kind::LACUNA_SCORE_BOX as u32,
        reduction: lacuna_group_reduction::LACUNA_GROUP_MEAN as u32,
        softmax_scale: 0.25,
        ..usual
    };
    let of_boxes = ScoreShape {
        query_stride: 80,
        n: 10,
        score_stride: 11,
        reduction: GroupReduction::Mean,
        softmax_scale: 0.25,
        ..ScoreShape::of_boxes(cache.layout(), 4)
    };
    for (shape, of_rust, skips) in
        [(usual, ScoreShape::of(cache.layout(), 4), None), (boxes, of_boxes, Some(&skips))]
    {
        check_plan_refusals(new, free, &shape);
        let plan = plan(new, free, &shape).unwrap();
        let sizes: lacuna_score_rows_sizes = sizes(lacuna_score_rows_plan_sizes, &plan);
        let of_rust = ScorePlan::new(of_rust).unwrap();
        assert_eq!(sizes.scores, of_rust.scores_len());
        let queries = &queries[..sizes.queries as usize];
        let scores = vec![bf16::NEG_ONE; sizes.scores as usize];
        let mut found = (scores, vec![7_u64; sizes.softmaxes as usize]);
        let mut expected = found.clone();
        let mut workspace = Aligned::<u64>::zeros(sizes.workspace);
        let mut args = lacuna_score_rows_args {
            queries: view(queries),
            cache: lacuna_kv { key_scale: 0.5, ..cache.c_view() },
            scores: view_mut(&mut found.0),
            softmaxes: view_mut(&mut found.1),
            workspace: view_mut(&mut workspace),
            ..lacuna_score_rows_args::zeroed()
        };
        if let Some(skips) = skips {
            args.skips = view(skips);
        }
        check_refusals(lacuna_score_rows, &queue, &plan, &args);
        let check = |change: fn(&mut lacuna_score_rows_args), status, message: &str| {
            let mut wrong = args;
            change(&mut wrong);
            let found = launch(lacuna_score_rows, &queue, &plan, &wrong);
            assert_eq!(found, Err((status, message.to_owned())));
        };
        let nothing: lacuna_score_rows_args = Struct::zeroed();
        let message = "dtype of workspace: none is not one of u64";
        let wrong = lacuna_score_rows_args { workspace: nothing.workspace, ..args };
        let answer = launch(lacuna_score_rows, &queue, &plan, &wrong);
        assert_eq!(answer, Err((LACUNA_DTYPE, message.to_owned())));
        let f32 = "dtype of scores: f32 is not one of bf16";
        check(|a| a.scores.dtype = lacuna_dtype::LACUNA_F32 as u32, LACUNA_DTYPE, f32);
        let keys = "dtype of keys: bf16 is not one of f16";
        check(|a| a.cache.keys.dtype = lacuna_dtype::LACUNA_BF16 as u32, LACUNA_DTYPE, keys);
        check(|a| a.cache.lengths.len = 1, LACUNA_SHAPE, "lengths: expected 2, got 1");
        assert_eq!(found, expected);
        launch(lacuna_score_rows, &queue, &plan, &args).unwrap();

        let mut of_workspace = Aligned::<u64>::zeros(sizes.workspace);
        let inputs = ScoreInputs {
            queries: read(&rust, queries),
            cache: lacuna::kv::KvView { key_scale: 0.5, ..cache.view(&rust) },
            skips: skips.map(|skips| read(&rust, skips)),
        };
        let softmax = SoftmaxOutputs {
            softmaxes: written(&rust, &mut expected.1),
            workspace: written(&rust, &mut of_workspace),
        };
        let scores = written(&rust, &mut expected.0);
        let mut outputs = ScoreOutputs { scores, softmax: Some(softmax) };
        lacuna::select::score_rows(&rust, &of_rust, &inputs, &mut outputs).unwrap();
        assert_eq!(bits(&found.0), bits(&expected.0));
        assert_eq!(found.1, expected.1);

        // Without softmaxes the scores are the same.
        let mut again = vec![bf16::NEG_ONE; sizes.scores as usize];
        let softmaxes = nothing.softmaxes;
        let scores = view_mut(&mut again);
        let args = lacuna_score_rows_args { softmaxes, workspace: softmaxes, scores, ..args };
        launch(lacuna_score_rows, &queue, &plan, &args).unwrap();
        assert_eq!(bits(&again), bits(&expected.0));
    }
}

#[test]
fn plans_of_scores_refuse_what_is_none() {
    let c_cache = cache_of_f16(9).c_shape();
    let (new, free) = (lacuna_score_rows_plan_new, lacuna_score_rows_plan_free);
    let check = |change: fn(&mut lacuna_score_rows_shape), status, message: &str| {
        let mut shape = score_shape(&c_cache);
        change(&mut shape);
        let found = plan(new, free, &shape).map(drop);
        assert_eq!(found, Err((status, message.to_owned())));
    };
    check(|s| s.kind = 2, LACUNA_RANGE, "kind: 2 is no lacuna_score_kind");
    check(|s| s.reduction = 4, LACUNA_RANGE, "reduction: 4 is no lacuna_group_reduction");
    let queries = "dtype of queries: i8 is not one of bf16, f16, f32";
    check(|s| s.query_dtype = lacuna_dtype::LACUNA_I8 as u32, LACUNA_DTYPE, queries);
    check(
        |s| s.score_dtype = 0,
        LACUNA_DTYPE,
        "dtype of scores: none is not one of bf16, f16, f32",
    );
    let heads = "query heads: 5 is outside the multiples of the heads of keys";
    check(|s| s.n_q_heads = 5, LACUNA_RANGE, heads);
    check(|s| s.kv = std::ptr::null(), LACUNA_NULL, "lacuna_kv_shape is a null pointer");
}

fn vote_plan(
    scores: &Handle<lacuna_score_rows_plan>,
    shape: &lacuna_vote_rows_shape,
) -> Result<Handle<lacuna_vote_rows_plan>, Refused> {
    made(lacuna_vote_rows_plan_free, |address| {
        // SAFETY: a handle of the library's, a struct and a variable of this program's.
        unsafe { lacuna_vote_rows_plan_new(scores.address, shape, address) }
    })
}

#[test]
fn votes_are_those_of_rust() {
    let cache = cache_of_f16(11);
    let mut random = Random(12);
    let queries: Vec<f32> = (0..2 * 64).map(|_| 4.0 * random.number()).collect();
    let skips = [0_u32, 0];
    let (queue, rust, c_cache) = (queue(), rust_queue(), cache.c_shape());
    let scores =
        plan(lacuna_score_rows_plan_new, lacuna_score_rows_plan_free, &score_shape(&c_cache))
            .unwrap();
    let of_scores = ScorePlan::new(ScoreShape::of(cache.layout(), 4)).unwrap();
    let shape = lacuna_vote_rows_shape {
        vote_dtype: lacuna_dtype::LACUNA_F32 as u32,
        ..lacuna_vote_rows_shape::zeroed()
    };
    let sum = VoteRule { together: Together::QueryHead, reduction: VoteReduction::Sum, stride: 12 };
    let max = VoteRule { together: Together::Group, reduction: VoteReduction::Max, stride: 15 };
    let of_max = lacuna_vote_rows_shape {
        stride: 15,
        together: lacuna_together::LACUNA_TOGETHER_GROUP as u32,
        reduction: lacuna_vote_reduction::LACUNA_VOTE_MAX as u32,
        ..shape
    };
    let all = VoteRule { together: Together::All, ..sum };
    let of_all =
        lacuna_vote_rows_shape { together: lacuna_together::LACUNA_TOGETHER_ALL as u32, ..shape };
    for (shape, rule) in [(shape, sum), (of_max, max), (of_all, all)] {
        let plan = vote_plan(&scores, &shape).unwrap();
        let sizes: lacuna_vote_rows_sizes = sizes(lacuna_vote_rows_plan_sizes, &plan);
        let of_rust = VotePlan::new(&of_scores, rule).unwrap();
        assert_eq!([sizes.scores, sizes.softmaxes, sizes.lengths, sizes.skips], [96, 8, 2, 2]);
        assert_eq!([sizes.queries, sizes.votes], [128, of_rust.votes_len()]);
        let fits = of_scores.fits_on_chip(&of_rust);
        assert_eq!(sizes.fits_on_chip, u64::from(fits));

        // Scores and softmaxes, in Rust.
        let mut of_rust_scores = (vec![bf16::NEG_ONE; 96], vec![0_u64; 8]);
        let mut workspace = Aligned::<u64>::zeros(of_scores.workspace_len());
        let inputs = ScoreInputs {
            queries: read(&rust, &queries),
            cache: cache.view(&rust),
            skips: Some(read(&rust, &skips)),
        };
        let softmax = SoftmaxOutputs {
            softmaxes: written(&rust, &mut of_rust_scores.1),
            workspace: written(&rust, &mut workspace),
        };
        let outputs = written(&rust, &mut of_rust_scores.0);
        let mut outputs = ScoreOutputs { scores: outputs, softmax: Some(softmax) };
        lacuna::select::score_rows(&rust, &of_scores, &inputs, &mut outputs).unwrap();

        let mut found = vec![7.0_f32; sizes.votes as usize];
        let mut expected = found.clone();
        let args = lacuna_vote_rows_args {
            scores: view(&of_rust_scores.0),
            softmaxes: view(&of_rust_scores.1),
            lengths: view(&cache.lengths),
            skips: view(&skips),
            votes: view_mut(&mut found),
            ..lacuna_vote_rows_args::zeroed()
        };
        check_refusals(lacuna_vote_rows, &queue, &plan, &args);
        let mut wrong = args;
        wrong.softmaxes.dtype = lacuna_dtype::LACUNA_I64 as u32;
        let message = "dtype of softmaxes: i64 is not one of u64".to_owned();
        let answer = launch(lacuna_vote_rows, &queue, &plan, &wrong);
        assert_eq!(answer, Err((LACUNA_DTYPE, message)));
        assert_eq!(found, expected);
        launch(lacuna_vote_rows, &queue, &plan, &args).unwrap();
        let vote_inputs = VoteInputs {
            scores: read(&rust, &of_rust_scores.0),
            softmaxes: read(&rust, &of_rust_scores.1),
            lengths: read(&rust, &cache.lengths),
            skips: Some(read(&rust, &skips)),
        };
        let votes = &mut written(&rust, &mut expected);
        lacuna::select::vote_rows(&rust, &of_rust, &vote_inputs, votes).unwrap();
        assert_eq!(bits(&found), bits(&expected));

        // Both in one launch.
        let mut of_both = (vec![7.0_f32; sizes.votes as usize], vec![bf16::NEG_ONE; 96]);
        let mut of_both_in_rust = of_both.clone();
        let args = lacuna_score_votes_args {
            queries: view(&queries),
            cache: cache.c_view(),
            skips: view(&skips),
            votes: view_mut(&mut of_both.0),
            scores: view_mut(&mut of_both.1),
            ..lacuna_score_votes_args::zeroed()
        };
        check_refusals(lacuna_score_votes, &queue, &plan, &args);
        let answer = launch(lacuna_score_votes, &queue, &plan, &args);
        if !fits {
            let message = "rows to score and vote over: 12 is outside what fits on chip; score and vote in two launches";
            assert_eq!(answer, Err((LACUNA_RANGE, message.to_owned())));
            assert_eq!(of_both, of_both_in_rust);
            continue;
        }
        answer.unwrap();
        let mut outputs = VoteOutputs {
            votes: written(&rust, &mut of_both_in_rust.0),
            scores: Some(written(&rust, &mut of_both_in_rust.1)),
        };
        lacuna::select::score_votes(&rust, &of_rust, &inputs, &mut outputs).unwrap();
        assert_eq!(bits(&of_both.0), bits(&of_both_in_rust.0));
        assert_eq!(bits(&of_both.1), bits(&of_both_in_rust.1));
        assert_eq!(bits(&of_both.0), bits(&expected));
        assert_eq!(bits(&of_both.1), bits(&of_rust_scores.0));
    }

    let check = |change: fn(&mut lacuna_vote_rows_shape), status, message: &str| {
        let mut shape = shape;
        change(&mut shape);
        let found = vote_plan(&scores, &shape).map(drop);
        assert_eq!(found, Err((status, message.to_owned())));
    };
    check(|s| s.together = 3, LACUNA_RANGE, "together: 3 is no lacuna_together");
    check(|s| s.reduction = 2, LACUNA_RANGE, "reduction: 2 is no lacuna_vote_reduction");
    check(|s| s.vote_dtype = 0, LACUNA_DTYPE, "dtype of votes: none is not one of bf16, f16, f32");
    check(
        |s| s.stride = 11,
        LACUNA_RANGE,
        "stride between rows of votes, in elements: 11 is outside the rows to score and more",
    );
    check(
        |s| s.header.version = 0,
        LACUNA_ABI,
        "lacuna_vote_rows_shape: header.version is 0, and this library knows 1 to 1; begin the struct with LACUNA_HEADER(lacuna_vote_rows_shape), or link the library that the header is of",
    );
}

#[test]
fn column_mass_sums_as_rust_does() {
    let cache = cache_of_f16(13);
    let mut random = Random(14);
    let probes: Vec<bf16> = (0..500).map(|_| bf16::from_f32(4.0 * random.number())).collect();
    let n_visible = [4_u32, 9, 12, 1, 6, 11];
    let skips = [0_u32, 1];
    let (queue, rust, c_cache) = (queue(), rust_queue(), cache.c_shape());
    let (new, free) = (lacuna_column_mass_plan_new, lacuna_column_mass_plan_free);
    let usual = lacuna_column_mass_shape {
        kv: &raw const c_cache,
        n_q_heads: 4,
        n_probes: 3,
        probe_dtype: lacuna_dtype::LACUNA_BF16 as u32,
        ..lacuna_column_mass_shape::zeroed()
    };
    let sums = lacuna_column_mass_shape {
        request_stride: 240,
        probe_stride: 72,
        n: 10,
        mass_stride: 13,
        is_per_head: 1,
        is_sum: 1,
        is_per_probe: 1,
        softmax_scale: 0.5,
        ..usual
    };
    let of_sums = MassShape {
        request_stride: 240,
        probe_stride: 72,
        n: 10,
        mass_stride: 13,
        is_over_all_heads: false,
        is_mean: false,
        is_per_probe: true,
        softmax_scale: 0.5,
        ..MassShape::of(cache.layout(), 4, 3)
    };
    for (shape, of_rust, skips) in
        [(usual, MassShape::of(cache.layout(), 4, 3), None), (sums, of_sums, Some(&skips))]
    {
        check_plan_refusals(new, free, &shape);
        let plan = plan(new, free, &shape).unwrap();
        let sizes: lacuna_column_mass_sizes = sizes(lacuna_column_mass_plan_sizes, &plan);
        let of_rust = MassPlan::new(of_rust).unwrap();
        assert_eq!([sizes.probes, sizes.n_visible], [of_rust.probes_len(), 6]);
        let probes = &probes[..sizes.probes as usize];
        let mut found =
            (vec![7.0_f32; sizes.masses as usize], vec![7_u64; sizes.softmaxes as usize]);
        let mut expected = found.clone();
        let mut workspace = Aligned::<u64>::zeros(sizes.workspace);
        let mut args = lacuna_column_mass_args {
            probes: view(probes),
            n_visible: view(&n_visible),
            cache: cache.c_view(),
            masses: view_mut(&mut found.0),
            softmaxes: view_mut(&mut found.1),
            workspace: view_mut(&mut workspace),
            ..lacuna_column_mass_args::zeroed()
        };
        if let Some(skips) = skips {
            args.skips = view(skips);
        }
        check_refusals(lacuna_column_mass, &queue, &plan, &args);
        let mut wrong = args;
        wrong.n_visible.len = 5;
        let message = "n_visible: expected 6, got 5".to_owned();
        let answer = launch(lacuna_column_mass, &queue, &plan, &wrong);
        assert_eq!(answer, Err((LACUNA_SHAPE, message)));
        assert_eq!(found, expected);
        launch(lacuna_column_mass, &queue, &plan, &args).unwrap();

        let mut workspace = Aligned::<u64>::zeros(sizes.workspace);
        let inputs = MassInputs {
            probes: read(&rust, probes),
            n_visible: read(&rust, &n_visible),
            cache: cache.view(&rust),
            skips: skips.map(|skips| read(&rust, skips)),
        };
        let mut outputs = MassOutputs {
            masses: written(&rust, &mut expected.0),
            softmaxes: written(&rust, &mut expected.1),
            workspace: written(&rust, &mut workspace),
        };
        lacuna::select::column_mass(&rust, &of_rust, &inputs, &mut outputs).unwrap();
        assert_eq!(bits(&found.0), bits(&expected.0));
        assert_eq!(found.1, expected.1);
    }
    for (change, message) in [
        ((|s| s.is_sum = 2) as fn(&mut lacuna_column_mass_shape), "is_sum: 2 is no truth: 0 or 1"),
        (|s| s.is_per_head = 9, "is_per_head: 9 is no truth: 0 or 1"),
        (|s| s.n_probes = 5000, "probes of a request: 5000 is outside 0..=4096"),
    ] {
        let mut shape = usual;
        change(&mut shape);
        let found = plan(new, free, &shape).map(drop);
        assert_eq!(found, Err((LACUNA_RANGE, message.to_owned())));
    }
}

/// A cache's summaries of four tokens each, by its page table: a row a page.
fn summaries_of<T>(cache: &Cache<T>, row_len: u64) -> KvShape {
    let shape = KvShape { row_len, page_size: 1, tokens_per_row: 4, ..cache.shape };
    shape.hnd()
}

fn check_summaries<K: lacuna::element::Float, S: lacuna::select::Score>(
    cache: &Cache<K>,
    (number, summary): (u32, Summary),
    dtype: lacuna_dtype,
    poison: S,
) {
    let (queue, rust) = (queue(), rust_queue());
    let of_summaries = summaries_of(cache, summary.row_len(cache.shape.row_len));
    let c_keys = cache.c_shape();
    let c_summaries = lacuna_kv_shape {
        row_len: of_summaries.row_len,
        page_size: 1,
        tokens_per_row: 4,
        dtype: dtype as u32,
        ..c_keys
    };
    let shape = lacuna_summarize_shape {
        keys: &raw const c_keys,
        summaries: &raw const c_summaries,
        max_new: 8,
        summary: number,
        ..lacuna_summarize_shape::zeroed()
    };
    let (new, free) = (lacuna_summarize_plan_new, lacuna_summarize_plan_free);
    check_plan_refusals(new, free, &shape);
    let wrong = lacuna_summarize_shape { summary: 4, ..shape };
    let message = "summary: 4 is no lacuna_summary".to_owned();
    assert_eq!(plan(new, free, &wrong).map(drop), Err((LACUNA_RANGE, message)));
    let plan = plan(new, free, &shape).unwrap();
    let sizes: lacuna_summarize_sizes = sizes(lacuna_summarize_plan_sizes, &plan);
    let of_rust = SummarizePlan::new(SummarizeShape {
        keys: cache.layout(),
        summaries: KvLayout::new(of_summaries).unwrap(),
        summary,
        max_new: 8,
        key_bytes: size_of::<K>() as u32,
        outlier_stride: 3,
    })
    .unwrap();
    let has_outliers = summary == Summary::MeanAndOutlier;
    let n_outliers = if has_outliers { 12 } else { 0 };
    assert_eq!([sizes.summary_table, sizes.first_new, sizes.outliers], [6, 2, n_outliers]);

    let first_new = [4_u32, 0];
    let rows = Aligned::new(vec![poison; sizes.rows as usize]);
    let mut found = (rows, vec![7.0_f32; n_outliers as usize]);
    let mut expected = found.clone();
    let mut args = lacuna_summarize_args {
        keys: cache.c_view(),
        summary_table: view(&cache.page_table),
        first_new: view(&first_new),
        rows: view_mut(&mut found.0),
        ..lacuna_summarize_args::zeroed()
    };
    if has_outliers {
        args.outliers = view_mut(&mut found.1);
    }
    check_refusals(lacuna_summarize, &queue, &plan, &args);
    let mut wrong = args;
    wrong.rows.len -= 1;
    let message = format!("rows: expected {}, got {}", sizes.rows, sizes.rows - 1);
    let answer = launch(lacuna_summarize, &queue, &plan, &wrong);
    assert_eq!(answer, Err((LACUNA_SHAPE, message)));
    assert_eq!(bits(&found.0), bits(&expected.0));
    launch(lacuna_summarize, &queue, &plan, &args).unwrap();

    let inputs = SummarizeInputs {
        keys: cache.view(&rust),
        summary_table: read(&rust, &cache.page_table),
        first_new: Some(read(&rust, &first_new)),
    };
    let mut outputs = SummarizeOutputs {
        rows: written(&rust, &mut expected.0),
        outliers: has_outliers.then(|| written(&rust, &mut expected.1)),
    };
    lacuna::select::summarize(&rust, &of_rust, &inputs, &mut outputs).unwrap();
    assert_eq!(bits(&found.0), bits(&expected.0), "{summary:?}");
    assert_eq!(bits(&found.1), bits(&expected.1), "{summary:?}");
    assert!(found.0.iter().any(|row| bytemuck::bytes_of(row) != bytemuck::bytes_of(&poison)));
}

#[test]
fn summaries_are_those_of_rust() {
    let mut random = Random(15);
    let of_bf16 = Cache::new(32, || bf16::from_f32(random.number()));
    let with_outliers = (2, Summary::MeanAndOutlier);
    check_summaries(&of_bf16, with_outliers, lacuna_dtype::LACUNA_BF16, bf16::NEG_ONE);
    check_summaries(&of_bf16, (1, Summary::Mean), lacuna_dtype::LACUNA_BF16, bf16::NEG_ONE);
    check_summaries(&of_bf16, (3, Summary::BoxOfBoxes), lacuna_dtype::LACUNA_BF16, bf16::NEG_ONE);
    let mut random = Random(16);
    let of_fp8 = Cache::new(16, || E5m2(random.next() as u8 & 0x7B));
    check_summaries(&of_fp8, (0, Summary::Box), lacuna_dtype::LACUNA_F16, f16::NEG_ONE);
}
