//! Caches.

use half::bf16;
use lacuna::kv::{ArenaPlan, ArenaShape, Packing, PageOrder};
use lacuna_fuzz::Input;

use crate::sizes::{a_layout, flag, one_of, product, same, size};

pub(crate) fn layout(input: &mut Input<'_>) {
    a_layout(input);
}

pub(crate) fn arena(input: &mut Input<'_>) {
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
