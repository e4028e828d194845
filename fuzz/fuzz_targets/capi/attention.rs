//! The room `attention`.

use crate::bench::{Args, Bench, told, views};
use crate::kv::{BF16, F16, F32, cache};
use crate::lay::Call;
use crate::table::function;
use crate::value::{Fields, Value, View, fields};

/// Arguments of a plan of attention, whose shape is at `path`.
fn attend_args(plan: u64, call: &Call, path: &str) -> Option<Fields> {
    let lens = told("lacuna_attend_plan_sizes", &[plan])?;
    let mut segments = Vec::new();
    for idx in 0..4_u64 {
        let path = format!("{path}.segments[{idx}]");
        if call.at(&path) == 0 {
            break;
        }
        let Some(mut lens) = told("lacuna_attend_plan_segment_sizes", &[plan, idx]) else { break };
        // Lists of what has none are given where they have no elements, too.
        if lens["indices"] == 0 {
            lens.retain(|name, _| name == "biases");
        }
        segments.push(views("lacuna_segment", &lens, call.at(&format!("{path}.cache")))?);
    }
    Some(views("lacuna_attend_args", &lens, 0)?.with("segments", segments))
}

fn attend() -> Fields {
    let segments = vec![
        fields! { cache: cache(32), tokens: 1, end: 2, last: u64::MAX },
        fields! { cache: cache(32), tokens: 2, n_blocks: 3, block_size: 2 },
        fields! { cache: cache(32), lists: 1, mask: 3, window: 4 },
    ];
    fields! { segments: segments, n_queries: 2, n_q_heads: 4, query_stride: 136, output_stride: 144, soft_cap: 30.0, output_dtype: F32 }
}

pub(crate) fn cases(bench: &mut Bench) {
    let none = fields! {};
    let (name, new) = ("lacuna_attend", "lacuna_attend_plan_new");
    let of_attend: Args = |plan, call| attend_args(plan, call, "shape");
    bench.launch(name, new, attend(), of_attend, none.clone());

    // Over a cache that grows: what is there of it is little.
    let [keys, values, page_table] = [0, 1, 2].map(|idx| bench.neighbours.marked[idx]);
    let of_arena =
        bench.arena.iter().fold(fields! { dtype: BF16 }, |shape, (name, n)| shape.with(name, *n));
    let shape = fields! { segments: vec![fields! { cache: of_arena }], n_q_heads: 4 };
    let plan = bench.make(new, fields! { shape: shape });
    let lens = told("lacuna_attend_plan_sizes", &[plan]).expect("sizes");
    let of_kv = fields! {
        keys: View::There(keys), values: View::There(values), page_table: View::There(page_table), lengths: View::Of(2),
    };
    let args = views("lacuna_attend_args", &lens, 0).expect("views");
    let args = args.with("segments", vec![fields! { cache: of_kv }]);
    let over_arena = bench.call(name, fields! { plan: Value::Handle(plan), args: args });
    bench.after(over_arena, &bench.grow.clone());

    let segments = vec![fields! { cache: cache(32), tokens: 2, n_blocks: 5, block_size: 1 }];
    let inner = fields! { segments: segments, n_q_heads: 4 };
    let shape = fields! { attend: inner, segment: 0, rank: 16, n_factors: 12 };
    bench.launch(
        "lacuna_attend_low_rank",
        "lacuna_attend_low_rank_plan_new",
        shape,
        |plan, call| {
            let inner = (function("lacuna_attend_low_rank_plan_attend").call)(&[plan]);
            let lens = told("lacuna_attend_low_rank_plan_sizes", &[plan])?;
            let args = views("lacuna_attend_low_rank_args", &lens, 0)?;
            Some(args.with("attend", attend_args(inner, call, "shape.attend")?))
        },
        none.clone(),
    );

    let inner =
        fields! { segments: vec![fields! { cache: cache(64) }], n_q_heads: 2, output_dtype: F32 };
    let shape = fields! {
        attend: inner, n_pages: 2, span_pages: 1, n_pool_pages: [0, 0, 3, 2], lists: 1, tail: 1, has_three_stages: 1,
    };
    bench.launch(
        "lacuna_attend_tiered",
        "lacuna_attend_tiered_plan_new",
        shape,
        |plan, call| {
            let inner = (function("lacuna_attend_tiered_plan_attend").call)(&[plan]);
            let lens = told("lacuna_attend_tiered_plan_sizes", &[plan])?;
            let args = views("lacuna_attend_tiered_args", &lens, 0)?;
            Some(args.with("attend", attend_args(inner, call, "shape.attend")?))
        },
        none.clone(),
    );

    let shape = fields! { cache: cache(32), n_q_heads: 2, n_tokens: 7, positions: 1 };
    bench.launch(
        "lacuna_attend_prefill",
        "lacuna_attend_prefill_plan_new",
        shape,
        |plan, call| {
            let lens = told("lacuna_attend_prefill_plan_sizes", &[plan])?;
            views("lacuna_attend_prefill_args", &lens, call.at("shape.cache"))
        },
        none.clone(),
    );

    let parts = vec![fields! { stride: 32 }, fields! { stride: 40, log_sum_order: 1 }];
    let shape = fields! { parts: parts, n_tokens: 3, n_heads: 2, head_dim: 16, output_stride: 48, log_base: 1, dtype: F16 };
    fn merged(plan: u64, name: &str) -> Option<Fields> {
        let lens = told("lacuna_merge_partials_plan_sizes", &[plan])?;
        let mut parts = Vec::new();
        while let Some(lens) =
            told("lacuna_merge_partials_plan_partial_sizes", &[plan, parts.len() as u64])
        {
            parts.push(views("lacuna_partial", &lens, 0)?);
        }
        Some(views(name, &lens, 0)?.with("parts", parts))
    }
    let new = "lacuna_merge_partials_plan_new";
    let args: Args = |plan, _| merged(plan, "lacuna_merge_partials_args");
    bench.launch("lacuna_merge_partials", new, shape.clone(), args, none.clone());
    let args: Args = |plan, _| merged(plan, "lacuna_merge_partials_in_place_args");
    bench.launch("lacuna_merge_partials_in_place", new, shape, args, none.clone());

    let shape = fields! { batch: 2, lists_per_request: 2, n: 5, n_logical: 9, n_slots: 4, n_source_pages: 36 };
    bench.launch(
        "lacuna_tier_resolve",
        "lacuna_tier_resolve_plan_new",
        shape,
        |plan, _| {
            views("lacuna_tier_resolve_args", &told("lacuna_tier_resolve_plan_sizes", &[plan])?, 0)
        },
        none,
    );

    copies(bench);
}

/// Pools, and pages that move between them. The memory of pools is what their handle was made of.
fn copies(bench: &mut Bench) {
    let of_pools = |n_pages: u64, is_packed: u64| {
        let pools = vec![fields! { page_bytes: 32 }, fields! { page_bytes: 20, stride_bytes: 24 }];
        fields! { pools: pools, n_pages: n_pages, is_packed: is_packed }
    };
    let (pools, packed) = (of_pools(4, 0), of_pools(3, 1));
    bench.shape("lacuna_pools_shape", pools.clone());
    bench.call("lacuna_pools_shape_lens", fields! { lens: Value::Room(32) });
    bench.call(
        "lacuna_pools_borrow",
        fields! { views: Value::Views(vec![View::Of(128), View::Of(92)]) },
    );
    let mut kept = |shape: &Fields, lens: &[usize]| {
        let there = lens.iter().map(|len| {
            // Memory of handles that stay is there as long as the process.
            let memory = Box::leak(vec![0_u64; len.div_ceil(8) + 32].into_boxed_slice());
            View::There([memory.as_mut_ptr().expose_provenance() as u64, *len as u64, 6, 0])
        });
        let views = Value::Views(there.collect());
        Value::Handle(
            bench.make("lacuna_pools_borrow", fields! { shape: shape.clone(), views: views }),
        )
    };
    let [sources, targets] = [kept(&pools, &[128, 92]), kept(&pools, &[128, 92])];
    let buffer = kept(&packed, &[156]);
    let pack =
        fields! { sources: pools.clone(), targets: packed, n_lists: 1, n_pairs: 4, most_blocks: 1 };
    let within = fields! { sources: pools.clone(), targets: pools, n_lists: 1, n_pairs: 4 };
    let args: Args = |plan, _| {
        views("lacuna_copy_pages_args", &told("lacuna_copy_pages_plan_sizes", &[plan])?, 0)
    };
    let new = "lacuna_copy_pages_plan_new";
    let more = fields! { sources: sources.clone(), targets: buffer };
    bench.launch("lacuna_copy_pages", new, pack, args, more);
    let more = fields! { sources: sources, targets: targets.clone() };
    bench.launch("lacuna_copy_pages", new, within.clone(), args, more);
    bench.launch("lacuna_copy_pages_within", new, within, args, fields! { pools: targets });
}
