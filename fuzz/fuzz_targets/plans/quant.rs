//! The room `quant`.

use lacuna::attention::LogBase;
use lacuna::kv::KvLayout;
use lacuna::quant::{
    AppendPlan, AppendShape, ChannelsPlan, NormsPlan, NormsShape, PagesPlan, PagesShape,
    RetierPlan, RetierShape, SaliencyPlan, SaliencyShape, Tail, Tier, Turn,
};
use lacuna_fuzz::Input;

use crate::sizes::{
    a_layout, flag, launched, lists, log_sum_order, number, one_of, possible, product, same, size,
    spread, turn,
};

pub(crate) fn a_pages(input: &mut Input<'_>, layout: KvLayout) -> Option<PagesPlan> {
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

pub(crate) fn pages(input: &mut Input<'_>) {
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

pub(crate) fn append(input: &mut Input<'_>) {
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

pub(crate) fn saliency(input: &mut Input<'_>) {
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

pub(crate) fn norms(input: &mut Input<'_>) {
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
