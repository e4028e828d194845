//! The room `select`.

use crate::bench::{Bench, told, views};
use crate::kv::{BF16, F32, cache};
use crate::value::fields;

pub(crate) fn cases(bench: &mut Bench) {
    let none = fields! {};
    let topk = fields! {
        n_rows: 4, n: 33, row_stride: 40, k: 7, n_first: 1, n_last: 2, rows_per_request: 2, dtype: F32, rule: 1, amount: 0.7,
        n_pages: 18, page_size: 4, table_stride: 9,
    };
    let (name, new) = ("lacuna_topk_rows", "lacuna_topk_rows_plan_new");
    let of_topk: crate::bench::Args =
        |plan, _| views("lacuna_topk_rows_args", &told("lacuna_topk_rows_plan_sizes", &[plan])?, 0);
    bench.launch(name, new, topk, of_topk, none.clone());
    // A mask alone, of what has no pages.
    let mask = fields! { n_rows: 1, n: 4, dtype: BF16, rule: 2, amount: 0.5 };
    bench.launch(
        name,
        new,
        mask,
        |plan, _| {
            let mut lens = told("lacuna_topk_rows_plan_sizes", &[plan])?;
            lens.retain(|name, _| ["scores", "counts", "wanted", "kept"].contains(&name.as_str()));
            views("lacuna_topk_rows_args", &lens, 0)
        },
        none.clone(),
    );

    let shape = fields! { n_rows: 3, n: 40, row_stride: 48, capacity: 16, rows_per_request: 1 };
    bench.launch(
        "lacuna_compact_rows",
        "lacuna_compact_rows_plan_new",
        shape,
        |plan, _| {
            views("lacuna_compact_rows_args", &told("lacuna_compact_rows_plan_sizes", &[plan])?, 0)
        },
        none.clone(),
    );

    let shape = fields! { batch: 2, n: 24, rows_per_request: 2, dtype: BF16 };
    bench.launch(
        "lacuna_gate_selection",
        "lacuna_gate_selection_plan_new",
        shape,
        |plan, _| {
            views(
                "lacuna_gate_selection_args",
                &told("lacuna_gate_selection_plan_sizes", &[plan])?,
                0,
            )
        },
        none.clone(),
    );

    let rows = fields! { n_lists: 2, n_indices: 5, n_table_rows: 4, row_len: 6, dtype: BF16 };
    let new = "lacuna_rows_plan_new";
    let sizes = "lacuna_rows_plan_sizes";
    bench.launch(
        "lacuna_gather_rows",
        new,
        rows.clone(),
        |plan, _| views("lacuna_gather_rows_args", &told("lacuna_rows_plan_sizes", &[plan])?, 0),
        none.clone(),
    );
    bench.launch(
        "lacuna_scatter_rows",
        new,
        rows.clone(),
        |plan, _| views("lacuna_scatter_rows_args", &told("lacuna_rows_plan_sizes", &[plan])?, 0),
        none.clone(),
    );
    bench.launch(
        "lacuna_scatter_add_rows",
        new,
        rows,
        |plan, _| {
            views("lacuna_scatter_add_rows_args", &told("lacuna_rows_plan_sizes", &[plan])?, 0)
        },
        none.clone(),
    );
    let _ = sizes;
    let strides = fields! {
        n_lists: 2, n_indices: 5, n_table_rows: 4, row_len: 6, dtype: 7, order: 1, index_stride: 5, table_stride: 30,
        table_row_stride: 7, list_stride: 50, list_row_stride: 8,
    };
    bench.launch(
        "lacuna_gather_rows",
        new,
        strides,
        |plan, _| views("lacuna_gather_rows_args", &told("lacuna_rows_plan_sizes", &[plan])?, 0),
        none.clone(),
    );

    for lists in [0, 1] {
        let shape = fields! { kv: cache(16), n_indices: 3, lists: lists };
        let new = "lacuna_kv_rows_plan_new";
        bench.launch(
            "lacuna_gather_kv",
            new,
            shape.clone(),
            |plan, call| {
                let lens = told("lacuna_kv_rows_plan_sizes", &[plan])?;
                views("lacuna_gather_kv_args", &lens, call.at("shape.kv"))
            },
            none.clone(),
        );
        bench.launch(
            "lacuna_scatter_kv",
            new,
            shape,
            |plan, call| {
                let lens = told("lacuna_kv_rows_plan_sizes", &[plan])?;
                views("lacuna_scatter_kv_args", &lens, call.at("shape.kv"))
            },
            none.clone(),
        );
    }

    let shape = fields! { kv: cache(16), n_evicted: 3, n_kept: 4 };
    bench.launch(
        "lacuna_merge_rows",
        "lacuna_merge_rows_plan_new",
        shape,
        |plan, call| {
            let lens = told("lacuna_merge_rows_plan_sizes", &[plan])?;
            let args = views("lacuna_merge_rows_args", &lens, call.at("shape.kv"))?;
            Some(args.with("decay", 0.5))
        },
        none.clone(),
    );

    let scores = fields! { kv: cache(32), n_q_heads: 4, query_dtype: F32, score_dtype: BF16 };
    let boxes = scores.clone().with("kind", 1).with("reduction", 3).with("softmax_scale", 0.25);
    for (shape, has_softmaxes) in [(scores, true), (boxes, false)] {
        let args: crate::bench::Args = if has_softmaxes {
            |plan, call| {
                let lens = told("lacuna_score_rows_plan_sizes", &[plan])?;
                views("lacuna_score_rows_args", &lens, call.at("shape.kv"))
            }
        } else {
            |plan, call| {
                let mut lens = told("lacuna_score_rows_plan_sizes", &[plan])?;
                lens.remove("softmaxes");
                views("lacuna_score_rows_args", &lens, call.at("shape.kv"))
            }
        };
        let (name, new) = ("lacuna_score_rows", "lacuna_score_rows_plan_new");
        bench.launch(name, new, shape, args, none.clone());
    }
    let shape = fields! { together: 1, reduction: 1, vote_dtype: F32 };
    let votes = bench.launch(
        "lacuna_vote_rows",
        "lacuna_vote_rows_plan_new",
        shape,
        |plan, _| views("lacuna_vote_rows_args", &told("lacuna_vote_rows_plan_sizes", &[plan])?, 0),
        none.clone(),
    );
    bench.shape("lacuna_vote_rows_shape", fields! { vote_dtype: F32 });
    bench.launch_again(
        "lacuna_score_votes",
        votes,
        |plan, _| {
            let lens = told("lacuna_vote_rows_plan_sizes", &[plan])?;
            let of_kv = [("keys", 1536), ("values", 1536), ("page_table", 6), ("lengths", 2)];
            let of_kv = of_kv.map(|(name, len)| (name.to_owned(), len)).into_iter().collect();
            let args = views("lacuna_score_votes_args", &lens, 0)?;
            Some(args.with("cache", views("lacuna_kv", &of_kv, 0)?))
        },
        none.clone(),
    );

    let shape = fields! { kv: cache(32), n_q_heads: 4, n_probes: 3, probe_dtype: BF16 };
    bench.launch(
        "lacuna_column_mass",
        "lacuna_column_mass_plan_new",
        shape,
        |plan, call| {
            let lens = told("lacuna_column_mass_plan_sizes", &[plan])?;
            views("lacuna_column_mass_args", &lens, call.at("shape.kv"))
        },
        none.clone(),
    );

    for (summary, factor) in [(0, 2), (2, 1)] {
        let summaries = cache(32 * factor).with("page_size", 1).with("tokens_per_row", 4);
        let shape = fields! { keys: cache(32), summaries: summaries, max_new: 8, summary: summary };
        bench.launch(
            "lacuna_summarize",
            "lacuna_summarize_plan_new",
            shape,
            |plan, call| {
                let lens = told("lacuna_summarize_plan_sizes", &[plan])?;
                views("lacuna_summarize_args", &lens, call.at("shape.keys"))
            },
            none.clone(),
        );
    }
}
