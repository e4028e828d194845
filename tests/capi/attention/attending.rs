//! What attends: `attend`, `attend_low_rank`, `attend_prefill`, `attend_tiered`.

use half::bf16;
use lacuna::attention::{
    AttendInputs, AttendOutputs, AttendPlan, AttendShape, LogBase, LogSumOrder, Logits, LowRank,
    LowRankPlan, LowRankShape, Mask, Positions, PrefillInputs, PrefillOutputs, PrefillPlan,
    PrefillShape, Segment, SegmentShape, TieredInputs, TieredPlan, Tokens, Turn,
};
use lacuna::capi::lacuna_status::*;
use lacuna::capi::*;
use lacuna::kv::KvLists;
use lacuna::quant::{ChannelViews, PagesPlan, PagesShape, Tail, Tier, TierPools};

use crate::c::{
    Aligned, Cache, Handle, Refused, Struct, answer, check_plan_refusals, check_refusals, launch,
    plan, queue, read, rust_queue, sizes, structs, view, view_mut, written,
};
use crate::common::Random;

structs! {
    lacuna_segment_shape, lacuna_attend_shape, lacuna_attend_sizes, lacuna_segment_sizes,
    lacuna_segment, lacuna_attend_args,
    lacuna_attend_low_rank_shape, lacuna_attend_low_rank_sizes, lacuna_attend_low_rank_args,
    lacuna_attend_prefill_shape, lacuna_attend_prefill_sizes, lacuna_attend_prefill_args,
    lacuna_attend_tiered_shape, lacuna_attend_tiered_sizes, lacuna_attend_tiered_args,
}

/// All rows of a cache.
pub(super) fn segment_of(cache: &lacuna_kv_shape) -> lacuna_segment_shape {
    lacuna_segment_shape { cache: std::ptr::from_ref(cache), ..lacuna_segment_shape::zeroed() }
}

fn numbers(random: &mut Random, n: u64) -> Aligned<bf16> {
    Aligned::new((0..n).map(|_| bf16::from_f32(random.number())))
}

fn segment_sizes(plan: *const lacuna_attend_plan, segment: u64) -> Result<[u64; 3], Refused> {
    let mut sizes = lacuna_segment_sizes::zeroed();
    // SAFETY: a handle of the library's and a struct of this program's.
    answer(unsafe { lacuna_attend_plan_segment_sizes(plan, segment, &raw mut sizes) })?;
    Ok([sizes.indices, sizes.counts, sizes.biases])
}

/// The outputs of a launch that attends: poison before.
#[derive(Debug, Clone, PartialEq)]
struct Attended {
    outputs: Aligned<f32>,
    log_sums: Vec<f32>,
    workspace: Aligned<u32>,
}

impl Attended {
    fn new(sizes: &lacuna_attend_sizes) -> Self {
        Self {
            outputs: Aligned::new(vec![-77.0; sizes.outputs as usize]),
            log_sums: vec![-77.0; sizes.log_sums as usize],
            workspace: Aligned::zeros(sizes.workspace),
        }
    }

    fn c_args(&mut self, queries: &[bf16], segments: &[lacuna_segment]) -> lacuna_attend_args {
        lacuna_attend_args {
            queries: view(queries),
            segments: segments.as_ptr(),
            n_segments: segments.len() as u64,
            outputs: view_mut(&mut self.outputs),
            log_sums: view_mut(&mut self.log_sums),
            workspace: view_mut(&mut self.workspace),
            ..lacuna_attend_args::zeroed()
        }
    }

    fn views<'a>(&'a mut self, queue: &lacuna::Queue) -> AttendOutputs<'a, f32> {
        AttendOutputs {
            outputs: written(queue, &mut self.outputs),
            log_sums: Some(written(queue, &mut self.log_sums)),
            workspace: written(queue, &mut self.workspace),
        }
    }
}

fn attend_sizes(plan: *const lacuna_attend_plan) -> lacuna_attend_sizes {
    let mut sizes = lacuna_attend_sizes::zeroed();
    // SAFETY: a handle of the library's and a struct of this program's.
    answer(unsafe { lacuna_attend_plan_sizes(plan, &raw mut sizes) }).unwrap();
    sizes
}

fn attend_plan(shape: &lacuna_attend_shape) -> Result<Handle<lacuna_attend_plan>, Refused> {
    plan(lacuna_attend_plan_new, lacuna_attend_plan_free, shape)
}

#[test]
fn attend_attends_as_rust_does() {
    let mut random = Random(1);
    let (queue, rust) = (queue(), rust_queue());
    let cache = Cache::<bf16>::new(32, || bf16::from_f32(random.number()));
    let kv_shape = cache.c_shape();
    // Sinks, what was picked for each head, and a window of which the first query does not see the last row.
    let segments = [
        lacuna_segment_shape {
            cache: &raw const kv_shape,
            tokens: lacuna_tokens::LACUNA_TOKENS_RANGE as u32,
            end: 2,
            last: u64::MAX,
            ..lacuna_segment_shape::zeroed()
        },
        lacuna_segment_shape {
            cache: &raw const kv_shape,
            tokens: lacuna_tokens::LACUNA_TOKENS_BLOCKS as u32,
            n_blocks: 3,
            block_size: 2,
            ..lacuna_segment_shape::zeroed()
        },
        lacuna_segment_shape {
            cache: &raw const kv_shape,
            lists: lacuna_kv_lists::LACUNA_KV_PER_REQUEST as u32,
            mask: lacuna_mask::LACUNA_MASK_WINDOW as u32,
            window: 4,
            ..lacuna_segment_shape::zeroed()
        },
    ];
    let shape = lacuna_attend_shape {
        segments: segments.as_ptr(),
        n_segments: 3,
        n_queries: 2,
        n_q_heads: 4,
        query_stride: 136,
        output_stride: 144,
        soft_cap: 30.0,
        log_base: lacuna_log_base::LACUNA_LOG_BASE_TWO as u32,
        log_sum_order: lacuna_log_sum_order::LACUNA_LOG_SUMS_BATCH_HEADS_QUERIES as u32,
        output_dtype: lacuna_dtype::LACUNA_F32 as u32,
        ..lacuna_attend_shape::zeroed()
    };
    check_plan_refusals(lacuna_attend_plan_new, lacuna_attend_plan_free, &shape);
    let plan = attend_plan(&shape).unwrap();
    let sizes = attend_sizes(plan.address);
    assert_eq!([sizes.queries, sizes.outputs], [3 * 136 + 128, 3 * 144 + 128]);
    assert_eq!([sizes.sinks, sizes.skips, sizes.log_sums], [4, 2, 16]);
    assert_eq!(segment_sizes(plan.address, 0).unwrap(), [0, 4, 48]);
    assert_eq!(segment_sizes(plan.address, 1).unwrap(), [12, 4, 12]);
    assert_eq!(segment_sizes(plan.address, 2).unwrap(), [0, 2, 24]);
    let message = "segment: 3 is outside the segments of the plan".to_owned();
    assert_eq!(segment_sizes(plan.address, 3), Err((LACUNA_RANGE, message)));

    let queries = numbers(&mut random, sizes.queries);
    let indices = [1_i32, 5, 3, 0, -1, 9, 2, 2, 4, 1, 3, 5];
    let counts = [3_u32, 2, 3, 1];
    let biases: Vec<f32> = (0..12).map(|_| random.number()).collect();
    let (sinks, skips) = ([0.5_f32, -1.0, 2.0, 0.0], [0_u32, 0]);
    let c_segments = [
        lacuna_segment { cache: cache.c_view(), ..lacuna_segment::zeroed() },
        lacuna_segment {
            cache: cache.c_view(),
            indices: view(&indices),
            counts: view(&counts),
            biases: view(&biases),
            ..lacuna_segment::zeroed()
        },
        lacuna_segment { cache: cache.c_view(), ..lacuna_segment::zeroed() },
    ];
    let mut found = Attended::new(&sizes);
    let (poisoned, mut expected) = (found.clone(), found.clone());
    let mut args = found.c_args(&queries, &c_segments);
    (args.sinks, args.skips) = (view(&sinks), view(&skips));

    check_refusals(lacuna_attend, &queue, &plan, &args);
    let refused = |args: &lacuna_attend_args| launch(lacuna_attend, &queue, &plan, args);
    let wrong = lacuna_attend_args { n_segments: 2, ..args };
    assert_eq!(refused(&wrong), Err((LACUNA_SHAPE, "segments: expected 3, got 2".to_owned())));
    let wrong = lacuna_attend_args { segments: std::ptr::null(), ..args };
    let message = "lacuna_segment is a null pointer".to_owned();
    assert_eq!(refused(&wrong), Err((LACUNA_NULL, message)));
    let mut wrong = args;
    wrong.outputs.dtype = lacuna_dtype::LACUNA_BF16 as u32;
    let message = "dtype of outputs: bf16 is not one of f32".to_owned();
    assert_eq!(refused(&wrong), Err((LACUNA_DTYPE, message)));
    let mut wrong = args;
    wrong.workspace.len -= 1;
    let message = format!("workspace: expected {}, got {}", sizes.workspace, sizes.workspace - 1);
    assert_eq!(refused(&wrong), Err((LACUNA_SHAPE, message)));
    let mut no_lists = c_segments;
    no_lists[1].indices = lacuna_segment::zeroed().indices;
    let wrong = lacuna_attend_args { segments: no_lists.as_ptr(), ..args };
    let message = "indices of blocks: expected 1, got 0".to_owned();
    assert_eq!(refused(&wrong), Err((LACUNA_SHAPE, message)));
    assert_eq!(found, poisoned);
    launch(lacuna_attend, &queue, &plan, &args).unwrap();

    let layout = cache.layout();
    let segments = [
        SegmentShape {
            lists: KvLists::PerHead,
            ..SegmentShape::of(layout, Tokens::Range { first: 0, end: 2, last: u64::MAX })
        },
        SegmentShape {
            lists: KvLists::PerHead,
            ..SegmentShape::of(layout, Tokens::Blocks { n_blocks: 3, block_size: 2 })
        },
        SegmentShape { mask: Mask::Window(4), ..SegmentShape::of(layout, Tokens::ALL) },
    ];
    let shape = AttendShape {
        n_queries: 2,
        query_stride: 136,
        output_stride: 144,
        log_sum_order: LogSumOrder::BatchHeadsQueries,
        logits: Logits { soft_cap: Some(30.0), base: LogBase::Two, ..Logits::of(32) },
        ..AttendShape::of(&layout, 4)
    };
    let plan = AttendPlan::new(shape, &segments).unwrap();
    let picked = Segment {
        counts: Some(read(&rust, &counts)),
        biases: Some(read(&rust, &biases)),
        ..Segment::new(cache.view(&rust), Some(read(&rust, &indices)))
    };
    let all = || Segment::new(cache.view(&rust), None);
    let inputs = AttendInputs {
        queries: read(&rust, &queries),
        segments: &[all(), picked, all()],
        sinks: Some(read(&rust, &sinks)),
        skips: Some(read(&rust, &skips)),
    };
    lacuna::attention::attend(&rust, &plan, &inputs, &mut expected.views(&rust)).unwrap();
    assert_eq!(found, expected);
    assert!(found.outputs[..128].iter().any(|x| *x != 0.0));
    assert_eq!(found.outputs[128..144], [-77.0; 16]);
}

#[test]
fn plans_that_attend_refuse_what_is_none() {
    let cache = Cache::<bf16>::new(32, || bf16::ONE);
    let kv_shape = cache.c_shape();
    let other = lacuna_kv_shape { dtype: lacuna_dtype::LACUNA_F16 as u32, ..kv_shape };
    let fp8 = lacuna_kv_shape { dtype: lacuna_dtype::LACUNA_E4M3 as u32, ..kv_shape };
    let of = segment_of;
    let refused = |segments: &[lacuna_segment_shape], change: fn(&mut lacuna_attend_shape)| {
        let mut shape = lacuna_attend_shape {
            segments: segments.as_ptr(),
            n_segments: segments.len() as u64,
            n_q_heads: 4,
            ..lacuna_attend_shape::zeroed()
        };
        change(&mut shape);
        attend_plan(&shape).map(drop).unwrap_err()
    };
    let sound = of(&kv_shape);
    let keep = |_: &mut lacuna_attend_shape| ();
    let segment = |change: fn(&mut lacuna_segment_shape)| {
        let mut segment = sound;
        change(&mut segment);
        refused(&[segment], keep)
    };
    let cases = [
        (refused(&[], keep), LACUNA_RANGE, "segments: 0 is outside 1..=4"),
        (refused(&[sound; 5], keep), LACUNA_RANGE, "segments: 5 is outside 1..=4"),
        (
            refused(&[sound, of(&other)], keep),
            LACUNA_DTYPE,
            "dtype of another segment's cache: f16 is not one of bf16",
        ),
        (refused(&[of(&fp8)], keep), LACUNA_DTYPE, "dtype of keys: e4m3 is not one of bf16, f16"),
        (
            refused(&[sound], |s| s.output_dtype = 5),
            LACUNA_DTYPE,
            "dtype of outputs: e5m2 is not one of bf16, f16, f32",
        ),
        (
            refused(&[sound], |s| s.log_sum_order = 3),
            LACUNA_RANGE,
            "log_sum_order: 3 is no lacuna_log_sum_order",
        ),
        (refused(&[sound], |s| s.log_base = 2), LACUNA_RANGE, "log_base: 2 is no lacuna_log_base"),
        (
            refused(&[sound], |s| s.reserved = 1),
            LACUNA_ABI,
            "reserved of lacuna_attend_shape is 1, and not 0",
        ),
        (
            refused(&[sound], |s| s.n_q_heads = 3),
            LACUNA_RANGE,
            "query heads: 3 is outside the multiples of the heads of keys",
        ),
        (
            refused(&[sound], |s| s.soft_cap = -1.0),
            LACUNA_RANGE,
            "soft cap of logits: -1 is outside 0.001..=1e4",
        ),
        (segment(|s| s.tokens = 3), LACUNA_RANGE, "tokens: 3 is no lacuna_tokens"),
        (segment(|s| s.lists = 2), LACUNA_RANGE, "lists: 2 is no lacuna_kv_lists"),
        (segment(|s| s.mask = 4), LACUNA_RANGE, "mask: 4 is no lacuna_mask"),
        (segment(|s| s.cache = std::ptr::null()), LACUNA_NULL, "lacuna_kv_shape is a null pointer"),
        (
            segment(|s| s.reserved = 1),
            LACUNA_ABI,
            "reserved of lacuna_segment_shape is 1, and not 0",
        ),
    ];
    for ((status, message), expected, expected_message) in cases {
        assert_eq!((status, message.as_str()), (expected, expected_message));
    }
}

#[test]
fn attend_low_rank_attends_as_rust_does() {
    let mut random = Random(2);
    let (queue, rust) = (queue(), rust_queue());
    let cache = Cache::<bf16>::new(32, || bf16::from_f32(random.number()));
    let kv_shape = cache.c_shape();
    let segment = lacuna_segment_shape {
        cache: &raw const kv_shape,
        tokens: lacuna_tokens::LACUNA_TOKENS_BLOCKS as u32,
        n_blocks: 5,
        ..lacuna_segment_shape::zeroed()
    };
    let attend = lacuna_attend_shape {
        segments: &raw const segment,
        n_segments: 1,
        n_q_heads: 4,
        output_dtype: lacuna_dtype::LACUNA_F32 as u32,
        ..lacuna_attend_shape::zeroed()
    };
    let shape = lacuna_attend_low_rank_shape {
        attend: &raw const attend,
        rank: 16,
        n_factors: 12,
        ..lacuna_attend_low_rank_shape::zeroed()
    };
    let (new, free) = (lacuna_attend_low_rank_plan_new, lacuna_attend_low_rank_plan_free);
    check_plan_refusals(new, free, &shape);
    let refused = |shape: &lacuna_attend_low_rank_shape| plan(new, free, shape).map(drop);
    let wrong = lacuna_attend_low_rank_shape { turn: 3, ..shape };
    assert_eq!(refused(&wrong), Err((LACUNA_RANGE, "turn: 3 is no lacuna_turn".to_owned())));
    let wrong = lacuna_attend_low_rank_shape { attend: std::ptr::null(), ..shape };
    let message = "lacuna_attend_shape is a null pointer".to_owned();
    assert_eq!(refused(&wrong), Err((LACUNA_NULL, message)));
    let wrong = lacuna_attend_low_rank_shape { segment: 1, ..shape };
    let message = "segment of low rank: 1 is outside the segments of blocks".to_owned();
    assert_eq!(refused(&wrong), Err((LACUNA_RANGE, message)));

    let plan = plan(new, free, &shape).unwrap();
    // SAFETY: a handle of the library's, and none.
    let inner = unsafe {
        assert!(lacuna_attend_low_rank_plan_attend(std::ptr::null()).is_null());
        lacuna_attend_low_rank_plan_attend(plan.address)
    };
    let sizes_of_attend = attend_sizes(inner);
    let sizes: lacuna_attend_low_rank_sizes = sizes(lacuna_attend_low_rank_plan_sizes, &plan);
    assert_eq!([sizes.factors, sizes.basis], [2 * 12 * 16, 2 * 2 * 32 * 16]);
    assert_eq!([sizes.cos_sin, sizes.value_indices], [12 * 32, 20]);
    assert_eq!(segment_sizes(inner, 0).unwrap(), [20, 4, 20]);

    let queries = numbers(&mut random, sizes_of_attend.queries);
    let factors = numbers(&mut random, sizes.factors);
    let basis = numbers(&mut random, sizes.basis);
    let cos_sin = Aligned::<f32>::new((0..sizes.cos_sin).map(|_| random.number()));
    let indices: Vec<i32> = (0..20).map(|i| (7 * i) % 13 - 1).collect();
    let value_indices: Vec<i32> = (0..20).map(|i| (5 * i) % 12).collect();
    let c_segment = lacuna_segment {
        cache: cache.c_view(),
        indices: view(&indices),
        ..lacuna_segment::zeroed()
    };
    let mut found = Attended::new(&sizes_of_attend);
    let (poisoned, mut expected) = (found.clone(), found.clone());
    let attend_args = found.c_args(&queries, std::slice::from_ref(&c_segment));
    let args = lacuna_attend_low_rank_args {
        attend: &raw const attend_args,
        factors: view(&factors),
        basis: view(&basis),
        cos_sin: view(&cos_sin),
        value_indices: view(&value_indices),
        ..lacuna_attend_low_rank_args::zeroed()
    };
    check_refusals(lacuna_attend_low_rank, &queue, &plan, &args);
    let none = lacuna_attend_low_rank_args::zeroed();
    let wrong = lacuna_attend_low_rank_args { cos_sin: none.cos_sin, ..args };
    let message = "tables of cos_sin: expected 1, got 0".to_owned();
    let answer = launch(lacuna_attend_low_rank, &queue, &plan, &wrong);
    assert_eq!(answer, Err((LACUNA_SHAPE, message)));
    assert_eq!(found, poisoned);
    launch(lacuna_attend_low_rank, &queue, &plan, &args).unwrap();

    let layout = cache.layout();
    let tokens = Tokens::Blocks { n_blocks: 5, block_size: 1 };
    let segment = SegmentShape { lists: KvLists::PerHead, ..SegmentShape::of(layout, tokens) };
    let attend = AttendPlan::new(AttendShape::of(&layout, 4), &[segment]).unwrap();
    let shape = LowRankShape { segment: 0, rank: 16, n_factors: 12, turn: Turn::Halves };
    let plan = LowRankPlan::new(attend, shape).unwrap();
    let inputs = AttendInputs {
        queries: read(&rust, &queries),
        segments: &[Segment::new(cache.view(&rust), Some(read(&rust, &indices)))],
        sinks: None,
        skips: None,
    };
    let low_rank = LowRank {
        factors: read(&rust, &factors),
        basis: read(&rust, &basis),
        cos_sin: Some(read(&rust, &cos_sin)),
        value_indices: Some(read(&rust, &value_indices)),
    };
    let outputs = &mut expected.views(&rust);
    lacuna::attention::attend_low_rank(&rust, &plan, &inputs, &low_rank, outputs).unwrap();
    assert_eq!(found, expected);
    assert_ne!(found.outputs, poisoned.outputs);
}

#[test]
fn attend_prefill_attends_as_rust_does() {
    let mut random = Random(3);
    let (queue, rust) = (queue(), rust_queue());
    let cache = Cache::<bf16>::new(32, || bf16::from_f32(random.number()));
    let kv_shape = cache.c_shape();
    let shape = lacuna_attend_prefill_shape {
        cache: &raw const kv_shape,
        n_q_heads: 2,
        n_tokens: 7,
        positions: lacuna_positions::LACUNA_POSITIONS_GIVEN as u32,
        ..lacuna_attend_prefill_shape::zeroed()
    };
    let (new, free) = (lacuna_attend_prefill_plan_new, lacuna_attend_prefill_plan_free);
    check_plan_refusals(new, free, &shape);
    let refused = |change: fn(&mut lacuna_attend_prefill_shape)| {
        let mut shape = shape;
        change(&mut shape);
        plan(new, free, &shape).map(drop).unwrap_err()
    };
    let positions = "positions: 2 is no lacuna_positions".to_owned();
    assert_eq!(refused(|s| s.positions = 2), (LACUNA_RANGE, positions));
    let order = "order of log-sums: 2 is outside 0 and 1, TokensHeads and HeadsTokens".to_owned();
    assert_eq!(refused(|s| s.log_sum_order = 2), (LACUNA_RANGE, order));
    let reserved = "reserved of lacuna_attend_prefill_shape is 9, and not 0".to_owned();
    assert_eq!(refused(|s| s.reserved = 9), (LACUNA_ABI, reserved));

    // A mask that is not given is causal.
    for (mask, window, of_rust) in
        [(0, 0, Mask::Causal), (lacuna_mask::LACUNA_MASK_WINDOW as u32, 3, Mask::Window(3))]
    {
        let shape = lacuna_attend_prefill_shape { mask, window, ..shape };
        let plan = plan(new, free, &shape).unwrap();
        let sizes: lacuna_attend_prefill_sizes = sizes(lacuna_attend_prefill_plan_sizes, &plan);
        assert_eq!([sizes.queries, sizes.outputs, sizes.log_sums], [7 * 64, 7 * 64, 14]);
        assert_eq!([sizes.query_starts, sizes.query_positions], [3, 7]);
        assert_eq!([sizes.key_positions, sizes.sinks, sizes.skips], [24, 2, 2]);
        let queries = numbers(&mut random, sizes.queries);
        let (query_starts, query_positions) = ([0_u32, 4, 7], [8_i32, 9, 10, 11, 8, 9, 10]);
        let key_positions: Vec<i32> = (0..24).map(|i| i % 12).collect();
        let mut found = Aligned::new(vec![bf16::from_f32(-77.0); sizes.outputs as usize]);
        let mut found_sums = vec![-77.0_f32; sizes.log_sums as usize];
        let (poisoned, mut expected) = (found.clone(), found.clone());
        let mut expected_sums = found_sums.clone();
        let args = lacuna_attend_prefill_args {
            queries: view(&queries),
            query_starts: view(&query_starts),
            query_positions: view(&query_positions),
            key_positions: view(&key_positions),
            cache: cache.c_view(),
            outputs: view_mut(&mut found),
            log_sums: view_mut(&mut found_sums),
            ..lacuna_attend_prefill_args::zeroed()
        };
        check_refusals(lacuna_attend_prefill, &queue, &plan, &args);
        let mut wrong = args;
        wrong.cache.key_scale = 2.0;
        let (status, message) = launch(lacuna_attend_prefill, &queue, &plan, &wrong).unwrap_err();
        assert_eq!(status, LACUNA_RANGE);
        assert_eq!(message, "scale of keys: 2 is outside 1, of bf16 and f16");
        assert_eq!(found, poisoned);
        launch(lacuna_attend_prefill, &queue, &plan, &args).unwrap();

        let shape = PrefillShape {
            positions: Positions::Given,
            mask: of_rust,
            ..PrefillShape::of(cache.layout(), 2, 7)
        };
        let plan = PrefillPlan::new(shape).unwrap();
        let inputs = PrefillInputs {
            queries: read(&rust, &queries),
            query_starts: read(&rust, &query_starts),
            query_positions: Some(read(&rust, &query_positions)),
            key_positions: Some(read(&rust, &key_positions)),
            cache: cache.view(&rust),
            sinks: None,
            skips: None,
        };
        let mut outputs = PrefillOutputs {
            outputs: written(&rust, &mut expected),
            log_sums: Some(written(&rust, &mut expected_sums)),
        };
        lacuna::attention::attend_prefill(&rust, &plan, &inputs, &mut outputs).unwrap();
        assert_eq!((&found, &found_sums), (&expected, &expected_sums));
        assert_ne!(found, poisoned);
    }
}

#[test]
fn attend_tiered_attends_as_rust_does() {
    let mut random = Random(4);
    let (queue, rust) = (queue(), rust_queue());
    let cache = Cache::<bf16>::new(64, || bf16::from_f32(random.number()));
    let kv_shape = cache.c_shape();
    let segment =
        lacuna_segment_shape { cache: &raw const kv_shape, ..lacuna_segment_shape::zeroed() };
    let attend = lacuna_attend_shape {
        segments: &raw const segment,
        n_segments: 1,
        n_q_heads: 2,
        output_dtype: lacuna_dtype::LACUNA_F32 as u32,
        ..lacuna_attend_shape::zeroed()
    };
    let shape = lacuna_attend_tiered_shape {
        attend: &raw const attend,
        n_pages: 2,
        span_pages: 1,
        n_pool_pages: [0, 0, 3, 2],
        lists: lacuna_kv_lists::LACUNA_KV_PER_REQUEST as u32,
        tail: 1,
        has_three_stages: 1,
        ..lacuna_attend_tiered_shape::zeroed()
    };
    let (new, free) = (lacuna_attend_tiered_plan_new, lacuna_attend_tiered_plan_free);
    check_plan_refusals(new, free, &shape);
    let refused = |change: fn(&mut lacuna_attend_tiered_shape)| {
        let mut shape = shape;
        change(&mut shape);
        plan(new, free, &shape).map(drop).unwrap_err()
    };
    assert_eq!(refused(|s| s.tail = 2), (LACUNA_RANGE, "tail: 2 is no lacuna_tail".to_owned()));
    let truth = "has_three_stages: 2 is no truth: 0 or 1".to_owned();
    assert_eq!(refused(|s| s.has_three_stages = 2), (LACUNA_RANGE, truth));
    let pages = "pages of a list: 1048576 is outside 0..2^20".to_owned();
    assert_eq!(refused(|s| s.n_pages = 1 << 20), (LACUNA_RANGE, pages));

    let plan = plan(new, free, &shape).unwrap();
    // SAFETY: a handle of the library's.
    let sizes_of_attend = attend_sizes(unsafe { lacuna_attend_tiered_plan_attend(plan.address) });
    let sizes: lacuna_attend_tiered_sizes = sizes(lacuna_attend_tiered_plan_sizes, &plan);
    let layout = cache.layout();
    let of_pages = PagesShape {
        lists: KvLists::PerRequest,
        span_pages: 1,
        n_pool_pages: [0, 0, 3, 2],
        tail: Tail::Minimums,
        ..PagesShape::of(layout, 2)
    };
    let of_pages = PagesPlan::new(of_pages).unwrap();
    let pool_bytes = [Tier::T4, Tier::T2].map(|tier| of_pages.pool_bytes(tier));
    assert_eq!(sizes.pools, [0, 0, pool_bytes[0], pool_bytes[1]]);
    assert_eq!([sizes.key_entries, sizes.counts, sizes.key_scales], [8, 2, 2 * 2 * 2 * 64]);
    assert_eq!(sizes.logits, 2 * 2 * (2 * 64 + 12));

    let queries = numbers(&mut random, sizes_of_attend.queries);
    // Codes of any bytes, but steps and minimums that are finite: those of every page are f32 of half its bytes or less.
    let mut pool = |n_bytes: u64, n_pages: usize| {
        let page_len = n_bytes as usize / n_pages;
        let byte = |i: usize, random: &mut Random| {
            let is_tail = i % page_len >= page_len - 512;
            if is_tail { 0.03_f32.to_le_bytes()[i % 4] } else { random.next() as u8 }
        };
        Aligned::new((0..n_bytes as usize).map(|i| byte(i, &mut random)).collect::<Vec<_>>())
    };
    let pools = [pool(sizes.pools[2], 3), pool(sizes.pools[3], 2)];
    let none = 0x3FFF_FFFF_u32;
    let key_entries = [2 << 30, 2 << 30 | 1, 3 << 30, none, 3 << 30 | 1, 2 << 30 | 2, none, none];
    let value_entries = [3 << 30, 2 << 30, 2 << 30 | 2, none, 3 << 30, 2 << 30 | 7, none, none];
    let counts = [100_u32, 128];
    let scales: Vec<f32> = (0..sizes.key_scales).map(|i| 0.5 + (i % 3) as f32).collect();
    let offsets: Vec<f32> = (0..sizes.key_offsets).map(|_| random.number()).collect();

    let c_segment = lacuna_segment { cache: cache.c_view(), ..lacuna_segment::zeroed() };
    let mut found = Attended::new(&sizes_of_attend);
    let (poisoned, mut expected) = (found.clone(), found.clone());
    let [mut status, mut expected_status] = [[0_u64; 1]; 2];
    let mut logits = vec![-77.0_f32; sizes.logits as usize];
    let mut expected_logits = logits.clone();
    let attend_args = found.c_args(&queries, std::slice::from_ref(&c_segment));
    let zeros = lacuna_attend_tiered_args::zeroed();
    let args = lacuna_attend_tiered_args {
        attend: &raw const attend_args,
        pools: [zeros.pools[0], zeros.pools[1], view(&pools[0]), view(&pools[1])],
        key_entries: view(&key_entries),
        value_entries: view(&value_entries),
        counts: view(&counts),
        key_scales: view(&scales),
        key_offsets: view(&offsets),
        value_offsets: view(&offsets),
        status: view_mut(&mut status),
        logits: view_mut(&mut logits),
        ..zeros
    };
    check_refusals(lacuna_attend_tiered, &queue, &plan, &args);
    let mut wrong = args;
    wrong.pools[3].len -= 1;
    let (code, message) = launch(lacuna_attend_tiered, &queue, &plan, &wrong).unwrap_err();
    assert_eq!(code, LACUNA_SHAPE);
    assert!(message.starts_with("pool of pages: expected "), "{message}");
    assert_eq!(found, poisoned);
    launch(lacuna_attend_tiered, &queue, &plan, &args).unwrap();

    let segment = SegmentShape { lists: KvLists::PerHead, ..SegmentShape::of(layout, Tokens::ALL) };
    let attend = AttendPlan::new(AttendShape::of(&layout, 2), &[segment]).unwrap();
    let plan = TieredPlan::new(attend, of_pages).unwrap().with_three_stages();
    let inputs = AttendInputs {
        queries: read(&rust, &queries),
        segments: &[Segment::new(cache.view(&rust), None)],
        sinks: None,
        skips: None,
    };
    let mut pages = TieredInputs {
        pools: TierPools {
            pools: [None, None, Some(read(&rust, &pools[0])), Some(read(&rust, &pools[1]))],
            status: Some(written(&rust, &mut expected_status)),
        },
        key_entries: read(&rust, &key_entries),
        value_entries: read(&rust, &value_entries),
        counts: Some(read(&rust, &counts)),
        key_channels: ChannelViews {
            scales: Some(read(&rust, &scales)),
            offsets: Some(read(&rust, &offsets)),
        },
        value_channels: ChannelViews { scales: None, offsets: Some(read(&rust, &offsets)) },
    };
    let of_logits = &mut written(&rust, &mut expected_logits);
    let outputs = &mut expected.views(&rust);
    lacuna::attention::attend_tiered(&rust, &plan, &inputs, &mut pages, outputs, Some(of_logits))
        .unwrap();
    assert_eq!(found, expected);
    assert!(found.outputs.iter().all(|x| x.is_finite() && *x != -77.0));
    assert_eq!(logits, expected_logits);
    // An entry past its pool.
    assert_eq!(status, expected_status);
    assert_ne!(status, [0]);
}
