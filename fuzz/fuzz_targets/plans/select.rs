//! The room `select`.

use half::bf16;
use lacuna::kv::{KvLayout, KvShape};
use lacuna::select::{
    CompactPlan, CompactShape, GatePlan, GateShape, GroupReduction, KvRowsPlan, MassPlan,
    MassShape, Order, RowStrides, RowsPlan, RowsShape, Rule, ScoreKind, ScorePlan, ScoreShape,
    SummarizePlan, SummarizeShape, Summary, Together, TopkPages, TopkPlan, TopkShape, VotePlan,
    VoteReduction, VoteRule,
};
use lacuna_fuzz::Input;

use crate::sizes::{
    a_layout, flag, launched, lists, number, one_of, possible, product, same, size, spread,
};

pub(crate) fn compact(input: &mut Input<'_>) {
    let [n_rows, n, capacity] = [size(input, 4), size(input, 1000), size(input, 100)];
    let shape = CompactShape {
        row_stride: size(input, n),
        rows_per_request: size(input, 1),
        ..CompactShape::of(n_rows, n, capacity)
    };
    let Ok(plan) = CompactPlan::new(shape) else { return };
    same(plan.mask_len(), spread(n_rows.into(), shape.row_stride, n.into()));
    same(plan.indices_len(), product(&[n_rows, capacity]));
    same(plan.offsets_len(), product(&[n_rows, n]));
    assert!(plan.n_requests() <= n_rows && plan.workspace_len() < 1 << 42);
    plan.least_bytes(flag(input));
    launched(&plan.grid(), [product(&[n_rows, (n + 15).div_ceil(16_384)]), 1, 1]);
}

pub(crate) fn gate(input: &mut Input<'_>) {
    let [batch, n] = [size(input, 4), size(input, 1024)];
    let shape = GateShape {
        query_stride: size(input, n),
        cached_stride: size(input, n),
        rows_per_request: size(input, 8),
        element_bytes: size(input, 2) as u32,
        ..GateShape::of::<f32>(batch, n)
    };
    let Ok(plan) = GatePlan::new(shape) else { return };
    same(plan.queries_len(), spread(batch.into(), shape.query_stride, n.into()));
    same(plan.cached_len(), spread(batch.into(), shape.cached_stride, n.into()));
    same(plan.skips_len(), product(&[batch, shape.rows_per_request]));
    plan.least_bytes(batch, batch);
    launched(&plan.grid(), [batch.into(), 1, 1]);
}

pub(crate) fn mass(input: &mut Input<'_>) {
    let Some(layout) = a_layout(input) else { return };
    let kv = layout.shape();
    let (n_q_heads, n_probes) = (size(input, 4 * kv.n_heads), size(input, 16));
    let usual = MassShape::of(layout, n_q_heads, n_probes);
    let shape = MassShape {
        request_stride: size(input, usual.request_stride),
        probe_stride: size(input, usual.probe_stride),
        n: size(input, usual.n),
        mass_stride: size(input, usual.mass_stride),
        is_over_all_heads: flag(input),
        is_mean: flag(input),
        is_per_probe: flag(input),
        softmax_scale: number(input, 0.1),
        ..usual
    };
    let Ok(plan) = MassPlan::new(shape) else { return };
    let of_request = spread(n_probes.into(), shape.probe_stride, product(&[n_q_heads, kv.row_len]));
    let probes = spread(kv.batch.into(), shape.request_stride, of_request);
    same(plan.probes_len(), if n_probes == 0 { 0 } else { probes });
    let n_masses = product(&[kv.batch, plan.n_out()]);
    same(plan.masses_len(), spread(n_masses, shape.mass_stride, shape.n.into()));
    same(plan.n_softmaxes(), product(&[kv.batch, n_probes, n_q_heads]));
    let n_partials = 2 * product(&[plan.n_softmaxes(), plan.n_tiles()]);
    same(plan.workspace_len(), u128::from(plan.n_tickets()) + n_partials);
    assert!(product(&[plan.n_tiles(), plan.tile()]) >= shape.n.into());
    let _ = (plan.mass_scale(), plan.log2_scale(), plan.least_bytes(4, 4));
    let n_tiles = plan.n_tiles().max(1).into();
    launched(&plan.probe_grid(), [n_tiles, kv.n_heads.into(), kv.batch.into()]);
    launched(&plan.mass_grid(), [n_tiles, plan.n_out().into(), kv.batch.into()]);
}

pub(crate) fn evict(input: &mut Input<'_>) {
    let Some(layout) = a_layout(input) else { return };
    let [n_evicted, n_kept] = [size(input, 8), size(input, 64)];
    let plan = lacuna::select::MergePlan::new(layout, n_evicted, n_kept);
    let Ok(plan) = plan else { return };
    same(plan.n_lists(), product(&[layout.shape().batch, layout.shape().n_heads]));
    same(plan.evicted_len(), product(&[plan.n_lists(), n_evicted]));
    same(plan.kept_len(), product(&[plan.n_lists(), n_kept]));
}

pub(crate) fn rows(input: &mut Input<'_>) {
    let sizes = RowsShape {
        n_lists: size(input, 4),
        n_indices: size(input, 10),
        index_stride: 0,
        n_table_rows: size(input, 100),
        row_len: size(input, 64),
        table: RowStrides { list: 0, row: 0 },
        list: RowStrides { list: 0, row: 0 },
        element_bytes: size(input, 2) as u32,
    };
    let usual = sizes.dense();
    let strides = |input: &mut Input<'_>, usual: RowStrides| RowStrides {
        list: size(input, usual.list),
        row: size(input, usual.row),
    };
    let shape = RowsShape {
        index_stride: size(input, usual.index_stride),
        table: strides(input, usual.table),
        list: strides(input, usual.list),
        ..usual
    };
    let Ok(plan) = RowsPlan::new(shape) else { return };
    let len = |n_rows: u64, strides: RowStrides| {
        let of_list = spread(n_rows.into(), strides.row, shape.row_len.into());
        let is_empty = n_rows == 0 || shape.row_len == 0;
        if is_empty { 0 } else { spread(shape.n_lists.into(), strides.list, of_list) }
    };
    same(plan.table_len(), len(shape.n_table_rows, shape.table));
    same(plan.list_len(), len(shape.n_indices, shape.list));
    let indices = spread(shape.n_lists.into(), shape.index_stride, shape.n_indices.into());
    same(plan.indices_len(), if shape.n_indices == 0 { 0 } else { indices });
    same(plan.last_len(), product(&[shape.n_lists, shape.n_table_rows]));
    let _ = (plan.least_bytes(), plan.add_index_bytes());
}

pub(crate) fn kv_rows(input: &mut Input<'_>) {
    let Some(layout) = a_layout(input) else { return };
    let kv = layout.shape();
    let n_indices = size(input, 10);
    let lists = lists(input);
    let Ok(plan) = KvRowsPlan::new(layout, n_indices, lists) else { return };
    same(plan.indices_len(), product(&[lists.count(&layout), n_indices]));
    same(plan.rows_len(), product(&[kv.batch, kv.n_heads, n_indices, kv.row_len]));
    plan.least_bytes(4);
}

pub(crate) fn score(input: &mut Input<'_>) {
    let Some(layout) = a_layout(input) else { return };
    let kv = layout.shape();
    let n_q_heads = size(input, 4 * kv.n_heads);
    let usual = if flag(input) {
        ScoreShape::of(layout, n_q_heads)
    } else {
        ScoreShape::of_boxes(layout, n_q_heads)
    };
    let shape = ScoreShape {
        query_stride: size(input, usual.query_stride),
        n: size(input, usual.n),
        score_stride: size(input, usual.score_stride),
        reduction: one_of(
            input,
            &[GroupReduction::None, GroupReduction::Max, GroupReduction::Sum, GroupReduction::Mean],
        ),
        softmax_scale: number(input, 0.1),
        ..usual
    };
    let Ok(plan) = ScorePlan::new(shape) else { return };
    let is_box = shape.kind == ScoreKind::Box;
    assert_eq!(plan.head_dim(), if is_box { kv.row_len / 2 } else { kv.row_len });
    let query_len = product(&[n_q_heads, plan.head_dim()]);
    same(plan.queries_len(), spread(kv.batch.into(), shape.query_stride, query_len));
    let n_rows = product(&[kv.batch, plan.n_out()]);
    same(plan.scores_len(), spread(n_rows, shape.score_stride, shape.n.into()));
    let n_partials = 2 * product(&[plan.n_softmaxes(), plan.n_tiles()]);
    same(plan.workspace_len(), u128::from(plan.n_tickets()) + n_partials);
    let _ = (plan.mean_scale(), plan.log2_scale(), plan.least_bytes(2048, 4, 4));
    let n_blocks = plan.n_tiles().div_ceil(plan.n_tiles_together()).max(1);
    launched(&plan.grid(), [n_blocks.into(), kv.n_heads.into(), kv.batch.into()]);

    let rule = VoteRule {
        together: one_of(input, &[Together::QueryHead, Together::Group, Together::All]),
        reduction: one_of(input, &[VoteReduction::Max, VoteReduction::Sum]),
        stride: size(input, shape.n),
    };
    let Ok(vote) = VotePlan::new(&plan, rule) else { return };
    let n_rows = product(&[kv.batch, vote.n_votes()]);
    same(vote.votes_len(), spread(n_rows, rule.stride, shape.n.into()));
    vote.least_bytes(4, 4);
    let n_blocks = shape.n.div_ceil(vote.grid().threads[0].into());
    launched(&vote.grid(), [n_blocks.into(), vote.n_votes().into(), kv.batch.into()]);
    if plan.fits_on_chip(&vote) {
        possible(&plan.voting_grid(&vote));
    }
}

pub(crate) fn summarize(input: &mut Input<'_>) {
    let Some(keys) = a_layout(input) else { return };
    let summary =
        one_of(input, &[Summary::Box, Summary::BoxOfBoxes, Summary::Mean, Summary::MeanAndOutlier]);
    let kv = keys.shape();
    let of_keys = KvShape {
        row_len: size(input, summary.row_len(kv.row_len)),
        tokens_per_row: size(input, kv.tokens_per_row.saturating_mul(16)),
        ..*kv
    };
    let of_keys = if flag(input) { of_keys.nhd() } else { of_keys };
    let Ok(summaries) = KvLayout::new(of_keys) else { return };
    let shape = SummarizeShape {
        keys,
        summaries,
        summary,
        max_new: size(input, 1),
        key_bytes: size(input, 2) as u32,
        outlier_stride: size(input, summaries.n_rows()),
    };
    let Ok(plan) = SummarizePlan::new(shape) else { return };
    let len = product(&[kv.batch, kv.n_heads, shape.outlier_stride]);
    same(plan.outliers_len(), if summary == Summary::MeanAndOutlier { len } else { 0 });
    plan.least_bytes(1 << 26, 1 << 26);
    possible(&plan.grid());
    assert_eq!(u64::from(plan.grid().blocks[1]), kv.batch);
}

pub(crate) fn topk(input: &mut Input<'_>) {
    let [n_rows, n, k] = [size(input, 4), size(input, 1000), size(input, 64)];
    let amount = number(input, 0.5);
    let rules = [
        Rule::Largest,
        Rule::Mass { share: amount },
        Rule::AtLeast { least: amount },
        Rule::Percentile { percent: amount },
    ];
    let pages = TopkPages {
        n_pages: size(input, 100),
        page_size: size(input, 16),
        table_stride: size(input, 50),
    };
    let shape = TopkShape {
        row_stride: size(input, n),
        n_first: size(input, 0),
        n_last: size(input, 0),
        rows_per_request: size(input, 1),
        tokens_per_score: size(input, 1),
        score_bytes: size(input, 2) as u32,
        rule: one_of(input, &rules),
        order: one_of(input, &[Order::Index, Order::Score]),
        pages: flag(input).then_some(pages),
        ..TopkShape::of::<bf16>(n_rows, n, k)
    };
    let Ok(plan) = TopkPlan::new(shape) else { return };
    same(plan.scores_len(), spread(n_rows.into(), shape.row_stride, n.into()));
    same(plan.picks_len(), product(&[n_rows, k]));
    same(plan.mask_len(), product(&[n_rows, n]));
    let table_stride = shape.pages.map_or(0, |pages| pages.table_stride);
    same(plan.table_len(), product(&[plan.n_requests(), table_stride]));
    plan.least_bytes(flag(input));
    launched(&plan.grid(), [n_rows.into(), 1, 1]);
    let by_length = plan.cluster_grid(input.byte().into());
    launched(&by_length, [product(&[n_rows, by_length.cluster_blocks.into()]), 1, 1]);
    if let Ok(plan) = plan.with_blocks(input.byte().into()) {
        let grid = plan.cluster_grid(input.byte().into());
        launched(&grid, [product(&[n_rows, grid.cluster_blocks.into()]), 1, 1]);
    }
}
