//! The room `quant`.

use crate::bench::{Args, Bench, told, views};
use crate::kv::{BF16, cache};
use crate::value::{Value, fields};

pub(crate) fn cases(bench: &mut Bench) {
    let none = fields! {};
    let usual = fields! { kv: cache(32), n_tokens: 5 };
    let turned = fields! { kv: cache(32), n_tokens: 5, key_stride: 72, rotary_dim: 16, n_positions: 7, block_tokens: 2, turn: 1 };
    let (name, new) = ("lacuna_append_kv", "lacuna_append_kv_plan_new");
    let args: Args = |plan, call| {
        let lens = told("lacuna_append_kv_plan_sizes", &[plan])?;
        views("lacuna_append_kv_args", &lens, call.at("shape.kv"))
    };
    bench.launch(name, new, turned, args, none.clone());
    let without: Args = |plan, call| {
        let mut lens = told("lacuna_append_kv_plan_sizes", &[plan])?;
        lens.retain(|name, _| name != "positions" && name != "cos_sin");
        views("lacuna_append_kv_args", &lens, call.at("shape.kv"))
    };
    bench.launch(name, new, usual, without, none.clone());

    let shape = fields! { kv: cache(32), n_tokens: 10, max_new: 2, norm: 1 };
    bench.launch(
        "lacuna_measure_norms",
        "lacuna_measure_norms_plan_new",
        shape,
        |plan, call| {
            let lens = told("lacuna_measure_norms_plan_sizes", &[plan])?;
            views("lacuna_measure_norms_args", &lens, call.at("shape.kv"))
        },
        none.clone(),
    );

    let page = fields! { head_dim: 64 };
    bench.shape("lacuna_page_shape", page);
    bench.call("lacuna_page_shape_sizes", fields! { tier: 2 });
    bench.call("lacuna_page_shape_place", fields! { tier: 2, token: 1, channel: 2 });

    let pages = fields! { kv: cache(64), n_pages: 2, span_pages: 1, n_pool_pages: [1, 1, 2, 2] };
    let new = "lacuna_pages_plan_new";
    bench.launch(
        "lacuna_quantize_pages",
        new,
        pages.clone(),
        |plan, call| {
            let lens = told("lacuna_pages_plan_sizes", &[plan])?;
            views("lacuna_quantize_pages_args", &lens, call.at("shape.kv"))
        },
        none.clone(),
    );
    bench.launch(
        "lacuna_dequantize_pages",
        new,
        pages.clone(),
        |plan, call| {
            let lens = told("lacuna_pages_plan_sizes", &[plan])?;
            views("lacuna_dequantize_pages_args", &lens, call.at("shape.kv"))
        },
        none.clone(),
    );
    bench.launch(
        "lacuna_measure_channels",
        new,
        pages.clone(),
        |plan, call| {
            let lens = told("lacuna_pages_plan_sizes", &[plan])?;
            views("lacuna_measure_channels_args", &lens, call.at("shape.kv"))
        },
        none.clone(),
    );

    let pages = pages.with("lists", 1).with("span_pages", 0);
    let shape =
        fields! { pages: pages, n_runs: 2, n_old_pages: 2, n_new_pages: 3, n_positions: 70 };
    bench.launch(
        "lacuna_retier_pages",
        "lacuna_retier_pages_plan_new",
        shape,
        |plan, call| {
            let lens = told("lacuna_retier_pages_plan_sizes", &[plan])?;
            views("lacuna_retier_pages_args", &lens, call.at("shape.pages.kv"))
        },
        none.clone(),
    );

    bench.call(
        "lacuna_choose_probes",
        fields! { seed: 7, n_rows: 40, n_recent: 3, n_random: 4, probes: Value::Room(32) },
    );

    let mass = fields! { kv: cache(32), n_q_heads: 4, n_probes: 3, probe_dtype: BF16, is_per_head: 1, is_sum: 1 };
    let mass = Value::Handle(bench.make("lacuna_column_mass_plan_new", fields! { shape: mass }));
    let usual = fields! { batch: 2, n_q_heads: 4, n_heads: 2, n_tokens: 12 };
    let shape = usual
        .with("n_queries", 3)
        .with("n_positions", 9)
        .with("log_sum_order", 2)
        .with("log_base", 1)
        .with("is_sum", 1)
        .with("decay", 0.5)
        .with("floor", 1e-4)
        .with("fresh", 3.0);
    let new = "lacuna_saliency_plan_new";
    bench.launch(
        "lacuna_begin_saliency",
        new,
        shape.clone(),
        |plan, _| {
            let mut lens = told("lacuna_saliency_plan_sizes", &[plan])?;
            lens.insert("masses".to_owned(), 48);
            lens.insert("n_visible".to_owned(), 6);
            views("lacuna_begin_saliency_args", &lens, 0)
        },
        fields! { mass_plan: mass },
    );
    bench.launch(
        "lacuna_add_saliency",
        new,
        shape.clone(),
        |plan, _| {
            views("lacuna_add_saliency_args", &told("lacuna_saliency_plan_sizes", &[plan])?, 0)
        },
        none.clone(),
    );
    bench.launch(
        "lacuna_weigh_saliency",
        new,
        shape,
        |plan, _| {
            views("lacuna_weigh_saliency_args", &told("lacuna_saliency_plan_sizes", &[plan])?, 0)
        },
        none,
    );
}
