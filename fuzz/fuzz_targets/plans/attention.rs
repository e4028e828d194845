//! The room `attention`.

use lacuna::attention::{
    AttendPlan, AttendShape, CopyPlan, LogBase, Logits, LowRankPlan, LowRankShape, Mask,
    MergeShape, PartialShape, PoolShape, PoolsLayout, Positions, PrefillPlan, PrefillShape,
    SegmentShape, TierPlan, TierShape, TieredPlan, Tokens,
};
use lacuna::quant::Turn;
use lacuna_fuzz::Input;

use crate::quant::a_pages;
use crate::sizes::{
    a_layout, flag, launched, lists, log_sum_order, number, one_of, possible, product, same, size,
    spread, turn,
};

pub(crate) fn logits(input: &mut Input<'_>) -> Logits {
    let soft_cap = flag(input).then(|| number(input, 30.0));
    let base = one_of(input, &[LogBase::E, LogBase::Two]);
    Logits { scale: number(input, 0.1), soft_cap, base }
}

pub(crate) fn mask(input: &mut Input<'_>) -> Mask {
    let window = Mask::Window(size(input, 100));
    one_of(input, &[Mask::None, Mask::Causal, window])
}

pub(crate) fn attend(input: &mut Input<'_>) {
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

pub(crate) fn merge(input: &mut Input<'_>) {
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

pub(crate) fn prefill(input: &mut Input<'_>) {
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

pub(crate) fn pools(input: &mut Input<'_>, of: Option<&[PoolShape]>) -> Option<PoolsLayout> {
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

pub(crate) fn copy(input: &mut Input<'_>) {
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

pub(crate) fn tier(input: &mut Input<'_>) {
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
