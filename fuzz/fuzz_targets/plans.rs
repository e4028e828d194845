//! Sizes of any launch: a plan is refused, or its sizes are what they are in 128 bits, and its grid is one
//! that a device has.
#![no_main]

use half::bf16;
use lacuna::attention::{
    AttendPlan, AttendShape, CopyPlan, LogBase, LogSumOrder, Logits, LowRankPlan, LowRankShape,
    Mask, MergeShape, PartialShape, PoolShape, PoolsLayout, Positions, PrefillPlan, PrefillShape,
    SegmentShape, TierPlan, TierShape, TieredPlan, Tokens,
};
use lacuna::huffman::compact::EncodePlan;
use lacuna::huffman::indexed::{
    GroupPath, IndexedPlan, IndexedRowsPlan, IndexedRowsShape, IndexedShape,
};
use lacuna::huffman::lane::{LanePackPlan, LaneShape, LaneUnpackPlan, ProductPlan};
use lacuna::huffman::{DecodePlan, GroupShape};
use lacuna::kv::{ArenaPlan, ArenaShape, KvLayout, KvLists, KvShape, Packing, PageOrder};
use lacuna::launch::Grid;
use lacuna::quant::{
    AppendPlan, AppendShape, ChannelsPlan, NormsPlan, NormsShape, PagesPlan, PagesShape,
    RetierPlan, RetierShape, SaliencyPlan, SaliencyShape, Tail, Tier, Turn,
};
use lacuna::select::{
    CompactPlan, CompactShape, GatePlan, GateShape, GroupReduction, KvRowsPlan, MassPlan,
    MassShape, Order, RowStrides, RowsPlan, RowsShape, Rule, ScoreKind, ScorePlan, ScoreShape,
    SummarizePlan, SummarizeShape, Summary, Together, TopkPages, TopkPlan, TopkShape, VotePlan,
    VoteReduction, VoteRule,
};
use lacuna_fuzz::Input;
use libfuzzer_sys::fuzz_target;

const KINDS: [fn(&mut Input<'_>); 24] = [
    layout, arena, compact, gate, mass, evict, rows, kv_rows, score, summarize, topk, attend,
    merge, prefill, copy, tier, pages, append, saliency, norms, decode, indexed, lane, multiply,
];

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let kind = usize::from(input.byte());
    KINDS[kind % KINDS.len()](&mut input);
});

/// A size: the usual one, one beside it, or any; of those many at the borders of what types and launches
/// hold.
fn size(input: &mut Input<'_>, usual: u64) -> u64 {
    let kind = input.byte();
    match kind % 8 {
        0..=3 => usual,
        4 => usual.wrapping_add(u64::from(kind >> 3)).wrapping_sub(16),
        5 => (1_u64 << (input.byte() % 64)).wrapping_add(u64::from(kind >> 3)).wrapping_sub(16),
        6 => (u64::from(kind >> 3) + 1) << (input.byte() % 64),
        _ => input.u64() >> (input.byte() % 64),
    }
}

fn flag(input: &mut Input<'_>) -> bool {
    input.byte().is_multiple_of(2)
}

fn one_of<T: Copy>(input: &mut Input<'_>, all: &[T]) -> T {
    all[usize::from(input.byte()) % all.len()]
}

fn number(input: &mut Input<'_>, usual: f32) -> f32 {
    if flag(input) { usual } else { f32::from_bits(input.u32()) }
}

fn product(sizes: &[u64]) -> u128 {
    sizes.iter().map(|n| u128::from(*n)).product()
}

/// From the first element of the first row to the last of the last.
fn spread(n_rows: u128, stride: u64, len: u128) -> u128 {
    if n_rows == 0 { 0 } else { (n_rows - 1) * u128::from(stride) + len }
}

#[track_caller]
fn same(size: u64, expected: u128) {
    assert_eq!(u128::from(size), expected);
}

/// That a device has such a grid, of so many blocks.
#[track_caller]
fn launched(grid: &Grid, blocks: [u128; 3]) {
    possible(grid);
    assert_eq!(grid.blocks.map(u128::from), blocks);
}

#[track_caller]
fn possible(grid: &Grid) {
    let Grid { blocks, threads, dynamic_shared_bytes, cluster_blocks } = grid;
    assert!(blocks[0] < 1 << 31 && blocks[1] < 1 << 16 && blocks[2] < 1 << 16, "{grid:?}");
    assert!(threads.iter().all(|n| *n > 0) && threads[2] <= 64, "{grid:?}");
    assert!(threads.iter().map(|n| u64::from(*n)).product::<u64>() <= 1024, "{grid:?}");
    assert!(*dynamic_shared_bytes <= 227 << 10, "{grid:?}");
    assert!((1..=16).contains(cluster_blocks), "{grid:?}");
    assert!(blocks[0].is_multiple_of(*cluster_blocks), "{grid:?}");
}

fn lists(input: &mut Input<'_>) -> KvLists {
    one_of(input, &[KvLists::PerHead, KvLists::PerRequest])
}

fn log_sum_order(input: &mut Input<'_>) -> LogSumOrder {
    let all = [LogSumOrder::TokensHeads, LogSumOrder::HeadsTokens, LogSumOrder::BatchHeadsQueries];
    one_of(input, &all)
}

fn turn(input: &mut Input<'_>) -> Turn {
    one_of(input, &[Turn::None, Turn::Halves, Turn::Pairs])
}

fn a_layout(input: &mut Input<'_>) -> Option<KvLayout> {
    let usual = one_of(input, &[64, 128, 256, 32, 512]);
    let shape = KvShape {
        batch: size(input, 4),
        n_heads: size(input, 8),
        row_len: size(input, usual),
        n_pages: size(input, 100),
        page_size: size(input, 16),
        table_stride: size(input, 50),
        tokens_per_row: size(input, 1),
        ..KvShape::default()
    };
    let shape = if flag(input) { shape.nhd() } else { shape.hnd() };
    let shape = if flag(input) { shape } else { shape.fused() };
    let shape = KvShape {
        page_stride: size(input, shape.page_stride),
        token_stride: size(input, shape.token_stride),
        head_stride: size(input, shape.head_stride),
        ..shape
    };
    let layout = KvLayout::new(shape).ok()?;
    let places = [
        (shape.n_pages, shape.page_stride),
        (shape.page_size, shape.token_stride),
        (shape.n_heads, shape.head_stride),
    ];
    let len = places.iter().fold(u128::from(shape.row_len), |sum, (n, stride)| {
        sum + product(&[n.saturating_sub(1), *stride])
    });
    same(layout.pool_len(), if places.iter().any(|(n, _)| *n == 0) { 0 } else { len });
    same(layout.table_len(), product(&[shape.batch, shape.table_stride]));
    same(layout.n_rows(), product(&[shape.table_stride, shape.page_size]));
    assert!(layout.rows_of(size(input, 100)) <= layout.n_rows());
    Some(layout)
}

fn layout(input: &mut Input<'_>) {
    a_layout(input);
}

fn arena(input: &mut Input<'_>) {
    let shape = ArenaShape {
        n_slots: size(input, 4),
        max_tokens: size(input, 1000),
        n_layers: size(input, 32),
        n_heads: size(input, 8),
        row_len: size(input, 128),
        page_size: size(input, 16),
        page_order: one_of(input, &[PageOrder::Nhd, PageOrder::Hnd]),
        packing: one_of(input, &[Packing::LayersTogether, Packing::LayersApart]),
        chunk_bytes: size(input, 0),
        limit_bytes: flag(input).then(|| size(input, 1 << 30)),
    };
    let granularity = size(input, 2 << 20);
    let Ok(plan) = ArenaPlan::new::<bf16>(shape, granularity) else { return };
    assert!(plan.reserved_bytes() <= 1 << 47);
    assert!(plan.chunk_bytes().is_multiple_of(granularity));
    assert!(plan.chunk_bytes() >= shape.chunk_bytes);
    same(plan.step_bytes(), product(&[plan.n_lanes(), plan.chunk_bytes()]));
    let pools = product(&[plan.n_lanes(), shape.n_slots, plan.slot_pages()]);
    assert_eq!(u128::from(plan.reserved_bytes()) % pools, 0);
    let layout = plan.layout().shape();
    same(layout.n_pages, product(&[shape.n_slots, plan.slot_pages()]));
    assert!(plan.layout().n_rows() >= shape.max_tokens);
    let n_tokens = size(input, 500);
    let n_steps = plan.steps_of(n_tokens);
    assert!(plan.tokens_of(n_steps) >= n_tokens.min(shape.max_tokens));
    assert!(plan.tokens_of(size(input, 3)) <= shape.max_tokens);
}

fn compact(input: &mut Input<'_>) {
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

fn gate(input: &mut Input<'_>) {
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

fn mass(input: &mut Input<'_>) {
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

fn evict(input: &mut Input<'_>) {
    let Some(layout) = a_layout(input) else { return };
    let [n_evicted, n_kept] = [size(input, 8), size(input, 64)];
    let plan = lacuna::select::MergePlan::new(layout, n_evicted, n_kept);
    let Ok(plan) = plan else { return };
    same(plan.n_lists(), product(&[layout.shape().batch, layout.shape().n_heads]));
    same(plan.evicted_len(), product(&[plan.n_lists(), n_evicted]));
    same(plan.kept_len(), product(&[plan.n_lists(), n_kept]));
}

fn rows(input: &mut Input<'_>) {
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

fn kv_rows(input: &mut Input<'_>) {
    let Some(layout) = a_layout(input) else { return };
    let kv = layout.shape();
    let n_indices = size(input, 10);
    let lists = lists(input);
    let Ok(plan) = KvRowsPlan::new(layout, n_indices, lists) else { return };
    same(plan.indices_len(), product(&[lists.count(&layout), n_indices]));
    same(plan.rows_len(), product(&[kv.batch, kv.n_heads, n_indices, kv.row_len]));
    plan.least_bytes(4);
}

fn score(input: &mut Input<'_>) {
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

fn summarize(input: &mut Input<'_>) {
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

fn topk(input: &mut Input<'_>) {
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

fn logits(input: &mut Input<'_>) -> Logits {
    let soft_cap = flag(input).then(|| number(input, 30.0));
    let base = one_of(input, &[LogBase::E, LogBase::Two]);
    Logits { scale: number(input, 0.1), soft_cap, base }
}

fn mask(input: &mut Input<'_>) -> Mask {
    let window = Mask::Window(size(input, 100));
    one_of(input, &[Mask::None, Mask::Causal, window])
}

fn attend(input: &mut Input<'_>) {
    let Some(layout) = a_layout(input) else { return };
    let kv = *layout.shape();
    let n_q_heads = size(input, 4 * kv.n_heads);
    let usual = AttendShape::of(&layout, n_q_heads);
    let shape = AttendShape {
        batch: size(input, usual.batch),
        n_queries: size(input, 1),
        head_dim: size(input, usual.head_dim),
        query_stride: size(input, usual.query_stride),
        output_stride: size(input, usual.output_stride),
        log_sum_order: log_sum_order(input),
        logits: logits(input),
        ..usual
    };
    let n_segments = input.byte() % 6;
    let segments: Vec<_> = (0..n_segments)
        .map(|_| {
            let n_blocks = size(input, 10);
            let blocks = Tokens::Blocks { n_blocks, block_size: size(input, 4) };
            let [first, end, last] = [size(input, 0), size(input, 1000), size(input, u64::MAX)];
            let range = Tokens::Range { first, end, last };
            let tokens = one_of(input, &[Tokens::ALL, blocks, range, range.after(n_blocks)]);
            let (lists, mask) = (lists(input), mask(input));
            SegmentShape { lists, mask, ..SegmentShape::of(layout, tokens) }
        })
        .collect();
    let Ok(plan) = AttendPlan::new(shape, &segments) else { return };
    let n_tokens = product(&[shape.batch, shape.n_queries]);
    let token_len = product(&[n_q_heads, shape.head_dim]);
    same(plan.queries_len(), spread(n_tokens, shape.query_stride, token_len));
    same(plan.outputs_len(), spread(n_tokens, shape.output_stride, token_len));
    same(plan.log_sums_len(), n_tokens * u128::from(n_q_heads));
    assert!(plan.workspace_len() >= plan.n_tickets() && plan.n_positions() < 1 << 28);
    plan.least_bytes(4);
    possible(&plan.grid());
    assert_eq!(u64::from(plan.grid().blocks[2]), shape.batch);

    let low_rank = LowRankShape {
        segment: size(input, 0),
        rank: size(input, 160),
        n_factors: size(input, 1000),
        turn: turn(input),
    };
    if let Ok(plan) = LowRankPlan::new(plan, low_rank) {
        let LowRankShape { rank, n_factors, .. } = low_rank;
        same(plan.factors_len(), product(&[shape.batch, n_factors, rank]));
        same(plan.basis_len(), product(&[shape.batch, kv.n_heads, shape.head_dim, rank]));
        let n_angles = product(&[n_factors, shape.head_dim]);
        same(plan.cos_sin_len(), if low_rank.turn == Turn::None { 0 } else { n_angles });
        possible(&plan.grid());
    }
    let Some(pages) = a_pages(input, layout) else { return };
    let Ok(tiered) = TieredPlan::new(plan, pages) else { return };
    let tiered = if flag(input) { tiered } else { tiered.with_three_stages() };
    let n_positions = 64 * u128::from(pages.shape().n_pages) + u128::from(plan.n_positions());
    same(tiered.n_positions(), n_positions);
    same(tiered.logits_len(), u128::from(plan.log_sums_len()) * n_positions);
    tiered.workspace_len();
    tiered.least_bytes([1 << 30; 4], 4);
    possible(&tiered.grid());
}

fn merge(input: &mut Input<'_>) {
    let [n_tokens, n_heads, head_dim] = [size(input, 4), size(input, 8), size(input, 128)];
    let usual = MergeShape::of(n_tokens, n_heads, head_dim);
    let shape = MergeShape {
        n_queries: size(input, 1),
        output_stride: size(input, usual.output_stride),
        log_sum_order: log_sum_order(input),
        base: one_of(input, &[LogBase::E, LogBase::Two]),
        ..usual
    };
    let n_parts = input.byte() % 10;
    let parts: Vec<_> = (0..n_parts)
        .map(|_| PartialShape {
            stride: size(input, usual.output_stride),
            log_sum_order: log_sum_order(input),
        })
        .collect();
    let Ok(plan) = lacuna::attention::MergePlan::new(shape, &parts) else { return };
    let token_len = product(&[n_heads, head_dim]);
    for (idx, part) in parts.iter().enumerate() {
        same(plan.partial_len(idx), spread(n_tokens.into(), part.stride, token_len));
    }
    same(plan.outputs_len(), spread(n_tokens.into(), shape.output_stride, token_len));
    same(plan.log_sums_len(), product(&[n_tokens, n_heads]));
    plan.least_bytes(4, 4);
    launched(&plan.grid(), [product(&[n_tokens, n_heads]).div_ceil(16), 1, 1]);
}

fn prefill(input: &mut Input<'_>) {
    let Some(layout) = a_layout(input) else { return };
    let kv = layout.shape();
    let [n_q_heads, n_tokens] = [size(input, 4 * kv.n_heads), size(input, 100)];
    let usual = PrefillShape::of(layout, n_q_heads, n_tokens);
    let shape = PrefillShape {
        query_stride: size(input, usual.query_stride),
        output_stride: size(input, usual.output_stride),
        log_sum_order: log_sum_order(input),
        positions: one_of(input, &[Positions::Rows, Positions::Given]),
        mask: mask(input),
        logits: logits(input),
        ..usual
    };
    let Ok(plan) = PrefillPlan::new(shape) else { return };
    let token_len = product(&[n_q_heads, kv.row_len]);
    same(plan.queries_len(), spread(n_tokens.into(), shape.query_stride, token_len));
    same(plan.outputs_len(), spread(n_tokens.into(), shape.output_stride, token_len));
    same(plan.log_sums_len(), product(&[n_tokens, n_q_heads]));
    same(plan.key_positions_len(), product(&[kv.batch, layout.n_rows()]));
    same(plan.query_starts_len(), u128::from(kv.batch) + 1);
    plan.n_operations(1 << 26);
    possible(&plan.grid());
    let block_rows = u64::from(plan.grid().threads[0] / 2);
    let n_rows = product(&[n_tokens, plan.group()]);
    let n_blocks = n_rows.div_ceil(block_rows.into()) + u128::from(kv.batch);
    let is_empty = n_rows == 0 || kv.batch == 0;
    let n_blocks = if is_empty { 0 } else { n_blocks };
    launched(&plan.grid(), [n_blocks, kv.n_heads.into(), 1]);
}

fn pools(input: &mut Input<'_>, of: Option<&[PoolShape]>) -> Option<PoolsLayout> {
    let n_pools = of.map_or(usize::from(input.byte() % 6), <[_]>::len);
    let pools: Vec<_> = (0..n_pools)
        .map(|idx| {
            let page_len = of.map_or_else(|| size(input, 2048), |of| of[idx].page_len);
            PoolShape { page_len, page_stride: size(input, page_len) }
        })
        .collect();
    let n_pages = size(input, 100);
    let layout = PoolsLayout::new(n_pages, size(input, 2) as u32, pools.clone()).ok()?;
    for (len, pool) in layout.lens().into_iter().zip(&pools) {
        same(len, spread(n_pages.into(), pool.page_stride, pool.page_len.into()));
    }
    layout.page_bytes();
    if !input.byte().is_multiple_of(4) {
        return Some(layout);
    }
    let n_packed = size(input, 10);
    let packed = layout.packed(n_packed).ok()?;
    let page_len: u128 = pools.iter().map(|pool| u128::from(pool.page_len)).sum();
    same(packed.lens()[0], page_len * u128::from(n_packed));
    Some(packed)
}

fn copy(input: &mut Input<'_>) {
    let Some(sources) = pools(input, None) else { return };
    let Some(targets) = pools(input, Some(sources.pools())) else { return };
    let [n_lists, n_pairs] = [size(input, 4), size(input, 10)];
    let Ok(plan) = CopyPlan::new(n_lists, n_pairs, &sources, &targets) else { return };
    same(plan.n_all_pairs(), product(&[n_lists, n_pairs]));
    same(plan.workspace_len(), 2 * product(&[n_lists, n_pairs]));
    plan.least_bytes(flag(input).into());
    possible(&plan.grid());
    let most = size(input, 8);
    let few = plan.with_blocks(most).grid();
    possible(&few);
    assert_eq!(u64::from(few.blocks[0]), u64::from(plan.grid().blocks[0]).min(most.max(1)));
}

fn tier(input: &mut Input<'_>) {
    let shape = TierShape {
        batch: size(input, 4),
        lists_per_request: size(input, 8),
        n: size(input, 100),
        n_logical: size(input, 1000),
        n_slots: size(input, 200),
        n_source_pages: size(input, 1000),
    };
    let Ok(plan) = TierPlan::new(shape) else { return };
    let n_lists = product(&[shape.batch, shape.lists_per_request]);
    same(plan.n_lists(), n_lists);
    same(plan.entries_len(), n_lists * u128::from(shape.n));
    same(plan.slot_of_len(), n_lists * u128::from(shape.n_logical));
    same(plan.logical_of_len(), n_lists * u128::from(shape.n_slots));
    same(plan.referenced_len(), n_lists * u128::from(shape.n_slots.div_ceil(32)));
    same(plan.source_table_len(), product(&[shape.batch, shape.n_logical]));
    plan.least_bytes(plan.entries_len(), plan.entries_len());
    launched(&plan.grid(), [n_lists, 1, 1]);
}

fn a_pages(input: &mut Input<'_>, layout: KvLayout) -> Option<PagesPlan> {
    let n_pages = size(input, 10);
    let usual = PagesShape::of(layout, n_pages);
    let shape = PagesShape {
        lists: lists(input),
        span_pages: size(input, usual.span_pages),
        n_pool_pages: [(); 4].map(|()| size(input, 100)),
        tail: one_of(input, &[Tail::ZeroPoints, Tail::Minimums]),
        ..usual
    };
    let plan = PagesPlan::new(shape).ok()?;
    let kv = layout.shape();
    let n_heads = product(&[kv.batch, kv.n_heads]);
    same(plan.entries_len(), n_heads * u128::from(n_pages));
    same(plan.indices_len(), 64 * product(&[shape.lists.count(&layout), n_pages]));
    same(plan.channels_len(), n_heads * product(&[plan.n_spans(), kv.row_len]));
    for (tier, n) in Tier::ALL.into_iter().map(|tier| (tier, tier.tag() as usize)) {
        assert!(plan.pool_bytes(tier) >= shape.n_pool_pages[n]);
    }
    plan.least_bytes([1 << 30; 4]);
    launched(&plan.grid(), [n_pages.into(), kv.n_heads.into(), 2 * u128::from(kv.batch)]);
    let channels = ChannelsPlan::new(plan);
    assert!(channels.workspace_len() >= channels.n_tickets());
    channels.least_bytes(1 << 30, 1 << 30);
    possible(&channels.grid());
    let n_blocks = product(&[channels.grid().blocks[0].into(), 8, shape.span_pages]);
    assert!(n_blocks >= n_pages.into());
    Some(plan)
}

fn pages(input: &mut Input<'_>) {
    let Some(layout) = a_layout(input) else { return };
    let Some(pages) = a_pages(input, layout) else { return };
    let usual = RetierShape::of(*pages.shape());
    let shape = RetierShape {
        n_runs: size(input, usual.n_runs),
        n_old_pages: size(input, usual.n_old_pages),
        n_new_pages: size(input, usual.n_new_pages),
        n_positions: size(input, usual.n_positions),
        ..usual
    };
    let Ok(plan) = RetierPlan::new(shape) else { return };
    let kv = layout.shape();
    let n_heads = product(&[kv.batch, kv.n_heads]);
    same(plan.runs_len(), product(&[pages.n_lists(), shape.n_runs]));
    same(plan.indices_len(), product(&[pages.indices_len(), shape.n_runs]));
    same(plan.old_entries_len(), n_heads * u128::from(shape.n_old_pages));
    same(plan.new_entries_len(), n_heads * u128::from(shape.n_new_pages));
    same(plan.slots_len(), n_heads * u128::from(shape.n_positions));
    plan.least_bytes([1 << 30; 4], 1 << 30, [1 << 30; 4]);
    let n_blocks = product(&[pages.shape().n_pages, shape.n_runs]);
    launched(&plan.grid(), [n_blocks, kv.n_heads.into(), 2 * u128::from(kv.batch)]);
}

fn append(input: &mut Input<'_>) {
    let Some(layout) = a_layout(input) else { return };
    let kv = layout.shape();
    let n_tokens = size(input, 1);
    let usual = AppendShape::of(layout, n_tokens);
    let shape = AppendShape {
        key_stride: size(input, usual.key_stride),
        value_stride: size(input, usual.value_stride),
        turn: turn(input),
        rotary_dim: size(input, kv.row_len),
        n_positions: size(input, 4096),
        ..usual
    };
    let Ok(plan) = AppendPlan::new(shape) else { return };
    let n_all = product(&[kv.batch, n_tokens]);
    same(plan.tokens_len(), n_all);
    let token_len = product(&[kv.n_heads, kv.row_len]);
    same(plan.keys_len(), spread(n_all, shape.key_stride, token_len));
    same(plan.values_len(), spread(n_all, shape.value_stride, token_len));
    let n_angles = product(&[shape.n_positions, shape.rotary_dim]);
    same(plan.cos_sin_len(), if shape.turn == Turn::None { 0 } else { n_angles });
    assert!(plan.workspace_len() < 1 << 42);
    plan.least_bytes(plan.tokens_len(), true, true);
    possible(&plan.count_grid());
    let plans = [Ok(plan), plan.with_block_tokens(size(input, 4))];
    for plan in plans.into_iter().flatten() {
        let n_blocks = n_tokens.div_ceil(plan.block_tokens()).max(1);
        launched(&plan.grid(), [n_blocks.into(), kv.batch.into(), 1]);
    }
}

fn saliency(input: &mut Input<'_>) {
    let n_heads = size(input, 8);
    let [batch, n_q_heads] = [size(input, 4), size(input, n_heads.wrapping_mul(4))];
    let shape = SaliencyShape {
        n_queries: size(input, 1),
        n_positions: size(input, 1000),
        log_sum_order: log_sum_order(input),
        base: one_of(input, &[LogBase::E, LogBase::Two]),
        decay: number(input, 1.0),
        lists: lists(input),
        is_per_probe: flag(input),
        floor: number(input, 0.0),
        fresh: number(input, 0.0),
        ..SaliencyShape::of(batch, n_q_heads, n_heads, size(input, 1000))
    };
    let Ok(plan) = SaliencyPlan::new(shape) else { return };
    let SaliencyShape { n_tokens, n_queries, n_positions, .. } = shape;
    same(plan.state_len(), product(&[batch, n_heads, n_tokens]));
    same(plan.logits_len(), product(&[batch, n_queries, n_q_heads, n_positions]));
    same(plan.log_sums_len(), product(&[batch, n_queries, n_q_heads]));
    same(plan.positions_len(), product(&[batch, n_heads, n_positions]));
    same(plan.scores_len(), product(&[batch, plan.n_lists(), n_tokens]));
    let _ = (plan.least_bytes_of_step(true), plan.least_bytes_of_scores(true));
    possible(&plan.begin_grid());
    let n_threads = |n: u64| u128::from(n.div_ceil(plan.add_grid().threads[0].into()));
    launched(&plan.add_grid(), [n_threads(n_positions), n_heads.into(), batch.into()]);
    launched(&plan.weigh_grid(), [n_threads(n_tokens), plan.n_lists().into(), batch.into()]);
}

fn norms(input: &mut Input<'_>) {
    let Some(layout) = a_layout(input) else { return };
    let usual = NormsShape::of(layout);
    let shape = NormsShape {
        n_tokens: size(input, usual.n_tokens),
        max_new: size(input, usual.max_new),
        ..usual
    };
    let Ok(plan) = NormsPlan::new(shape) else { return };
    let kv = layout.shape();
    same(plan.norms_len(), product(&[kv.batch, kv.n_heads, shape.n_tokens]));
    plan.least_bytes(shape.n_tokens, 2);
    possible(&plan.grid());
}

fn group(input: &mut Input<'_>) -> GroupShape {
    let n_code_bytes = size(input, 10_000);
    GroupShape {
        n_code_bytes,
        n_elements: size(input, 20_000),
        n_lut_rows: size(input, 3) as u32,
        n_positions: size(input, n_code_bytes.div_ceil(4096) + 1) as u32,
    }
}

fn decode(input: &mut Input<'_>) {
    let groups: Vec<_> = (0..input.byte() % 8).map(|_| group(input)).collect();
    let Ok(plan) = DecodePlan::new(&groups) else { return };
    let mut end = 0;
    for (idx, group) in groups.iter().enumerate() {
        let range = plan.output_range(idx).expect("a group of the plan");
        assert!(range.start >= end && range.end - range.start == group.n_elements);
        end = range.end;
    }
    assert_eq!(plan.output_len(), end);
    let n_blocks: u128 = groups.iter().map(|group| u128::from(group.n_blocks())).sum();
    launched(&plan.grid(), [n_blocks, 1, 1]);
    let block = input.u32();
    assert_eq!(plan.locate(block).is_some(), u128::from(block) < n_blocks);
    let _ = (plan.least_bytes(), plan.workspace_bytes());
}

fn indexed(input: &mut Input<'_>) {
    let groups: Vec<_> = (0..input.byte() % 8)
        .map(|_| {
            let plain = group(input);
            let GroupShape { n_code_bytes, n_elements, n_lut_rows, .. } = plain;
            match flag(input) {
                true => GroupPath::Plain(plain),
                false => GroupPath::Indexed(IndexedShape { n_code_bytes, n_elements, n_lut_rows }),
            }
        })
        .collect();
    if let Ok(plan) = IndexedPlan::new(&groups) {
        let plans = [Ok(plan.clone()), plan.with_block_tiles(size(input, 4) as u32)];
        for plan in plans.into_iter().flatten() {
            possible(&plan.grid());
            possible(&plan.plain_grid());
            let _ = (plan.locate(input.u32()), plan.locate_plain(input.u32()));
            let _ = (plan.least_bytes(), plan.workspace_bytes());
        }
    }
    let [n_elements, row_len] = [size(input, 20_000), size(input, 100)];
    let first_element = size(input, 0);
    let n_left = n_elements.saturating_sub(first_element);
    let shape = IndexedRowsShape {
        n_elements,
        first_element,
        n_matrix_rows: size(input, n_left / row_len.max(1)),
        row_len,
        n_rows: size(input, 10),
        output_stride: size(input, row_len),
    };
    let Ok(plan) = IndexedRowsPlan::new(shape) else { return };
    same(plan.output_len(), spread(shape.n_rows.into(), shape.output_stride, row_len.into()));
    possible(&plan.grid());
}

fn lane(input: &mut Input<'_>) {
    if let Ok(plan) = EncodePlan::new(size(input, 10_000)) {
        same(plan.most_code_bytes(), (12 * u128::from(plan.n_elements())).div_ceil(8));
        let _ = (plan.workspace_len(), plan.n_zeros(), plan.least_bytes(plan.most_code_bytes()));
        for grid in [plan.count_grid(), plan.place_grid(), plan.pack_grid()] {
            possible(&grid);
        }
    }
    let [n_rows, n_columns] = [size(input, 100), size(input, 300)];
    let Ok(shape) = LaneShape::new(n_rows, n_columns) else { return };
    same(shape.n_weights(), product(&[n_rows, n_columns]));
    let stride = size(input, n_columns);
    let len = spread(n_rows.into(), stride, n_columns.into());
    if let Ok(plan) = LaneUnpackPlan::new(shape, stride) {
        same(plan.output_len(), len);
        plan.least_bytes(input.u64());
        possible(&plan.grid());
    }
    if let Ok(plan) = LanePackPlan::new(shape, stride) {
        same(plan.weights_len(), len);
        let _ = (plan.workspace_len(), plan.least_measured_bytes());
        plan.least_packed_bytes(input.u64());
        possible(&plan.measure_grid());
        possible(&plan.pack_grid());
    }
}

fn multiply(input: &mut Input<'_>) {
    let n_columns = size(input, 512);
    let shapes: Vec<_> = (0..input.byte() % 6)
        .filter_map(|_| {
            LaneShape::new(size(input, 256), if flag(input) { n_columns } else { 512 }).ok()
        })
        .collect();
    let n_inputs = size(input, 4);
    let plan = match shapes[..] {
        [gate, up] if flag(input) => ProductPlan::gated(gate, up, n_inputs),
        _ => ProductPlan::new(&shapes, n_inputs),
    };
    let Ok(plan) = plan else { return };
    let mut strides =
        || -> Vec<_> { shapes.iter().map(|shape| size(input, shape.n_rows())).collect() };
    let (outputs, residuals) = (strides(), strides());
    let x = size(input, plan.n_columns());
    let plans = [
        Ok(plan),
        plan.with_strides(x, &outputs, &residuals),
        plan.with_inputs(size(input, 8)),
        plan.with_block_rows(size(input, 32)),
    ];
    for plan in plans.into_iter().flatten() {
        let n = u128::from(plan.n_inputs());
        same(plan.x_len(), spread(n, plan.x_stride(), plan.n_columns().into()));
        for (idx, shape) in shapes.iter().enumerate().take(plan.n_outputs()) {
            let n_rows = shape.n_rows().into();
            same(plan.output_len(idx), spread(n, plan.output_stride(idx), n_rows));
            same(plan.residual_len(idx), spread(n, plan.residual_stride(idx), n_rows));
        }
        let _ = (plan.least_bytes(1 << 40, 4), plan.kernel_name());
        possible(&plan.grid());
    }
}
