//! Caches: what their shapes ask for, and those that grow.

use crate::bench::{Bench, told};
use crate::value::{Fields, Value, fields};

pub(crate) const BF16: u64 = 1;
pub(crate) const F16: u64 = 2;
pub(crate) const F32: u64 = 3;

/// Two requests of two heads, three pages of four rows each.
pub(crate) fn cache(row_len: u64) -> Fields {
    fields! {
        batch: 2, n_heads: 2, row_len: row_len, n_pages: 6, page_size: 4, table_stride: 3, dtype: BF16, order: 2,
    }
}

fn arena() -> Fields {
    fields! {
        n_slots: 2, max_tokens: 12, n_layers: 2, n_heads: 2, row_len: 32, page_size: 4, limit_bytes: 1 << 20, dtype: BF16,
    }
}

pub(crate) fn cases(bench: &mut Bench) {
    bench.shape("lacuna_kv_shape", cache(32));
    bench.shape("lacuna_arena_shape", arena());
    // What is marked goes where it belongs alone: `attention` launches over it. The slots stay as they are.
    let other = bench.make("lacuna_arena_reserve", fields! { shape: arena().with("row_len", 64) });
    let first = bench.make("lacuna_arena_reserve", fields! { shape: arena() });
    bench.make("lacuna_arena_reserve", fields! { shape: arena().with("packing", 1) });
    for handle in [first, other] {
        bench.mark(handle);
    }
    let arena = Value::Handle(first);
    bench.arena = told("lacuna_arena_kv_shape", &[first]).expect("an arena's shape");
    let release = bench.call("lacuna_arena_release", fields! { arena: arena.clone(), slot: 0 });
    let grow =
        bench.call("lacuna_arena_grow", fields! { arena: arena.clone(), slot: 0, n_tokens: 5 });
    let other_slot = bench.call("lacuna_arena_release", fields! { arena: arena.clone(), slot: 1 });
    bench.after(grow, &[release, other_slot]);
    bench.grow = vec![grow];
    let calls = [
        ("lacuna_arena_grow_ahead", fields! { slot: 1, n_tokens: 12 }),
        ("lacuna_arena_shrink", fields! { slot: 0, n_tokens: 3 }),
        ("lacuna_arena_capacity", fields! { slot: 0 }),
        ("lacuna_arena_is_ready", fields! { slot: 0, n_tokens: 5 }),
        ("lacuna_arena_stock", fields! { n_bytes: 4096 }),
        ("lacuna_arena_trim", fields! { n_bytes: 4096 }),
        ("lacuna_arena_read_stats", fields! {}),
    ];
    for (name, values) in calls {
        let case = bench.call(name, values.with("arena", arena.clone()));
        bench.after(case, &[grow]);
    }
}
