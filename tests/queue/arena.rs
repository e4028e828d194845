//! The cache that grows, on every executor. What it asks of a driver is in `tests/driver.rs`.

use std::collections::HashSet;
use std::thread;
use std::time::Duration;

use half::bf16;
use lacuna::kv::{ArenaShape, ArenaStats, KvArena, KvLists, KvShape, KvView, Packing};
use lacuna::select::{Absent, KvRowsMut, KvRowsPlan, gather_kv};
use lacuna::{Error, Queue};
use proptest::prelude::*;

use crate::{common, simt};

/// On a device a step is at least its granularity; in the executor it is 4 KiB, two pages.
const SHAPE: ArenaShape = ArenaShape {
    n_slots: 3,
    max_tokens: 1000,
    n_layers: 2,
    n_heads: 2,
    row_len: 16,
    page_size: 8,
    page_order: lacuna::kv::PageOrder::Nhd,
    packing: Packing::LayersTogether,
    chunk_bytes: 0,
    limit_bytes: None,
};

fn reserve(queue: &Queue, shape: ArenaShape) -> KvArena<bf16> {
    KvArena::reserve(queue, shape).unwrap()
}

/// The page table, which is all that kernels know.
fn pages(queue: &Queue, arena: &KvArena<bf16>) -> Vec<i32> {
    let lengths = queue.alloc::<u32>(arena.plan().shape().n_slots as usize).unwrap();
    queue.download(&arena.view(0, lengths.view()).unwrap().page_table).unwrap()
}

/// The table names the pages of each slot's capacity, and no other.
fn assert_pages(queue: &Queue, arena: &KvArena<bf16>) {
    let (shape, kv) = (*arena.plan().shape(), *arena.layout().shape());
    let expected: Vec<i32> = (0..shape.n_slots)
        .flat_map(|slot| {
            let first = slot * arena.plan().slot_pages();
            let n_pages = arena.capacity(slot).div_ceil(kv.page_size);
            (0..kv.table_stride)
                .map(move |page| if page < n_pages { (first + page) as i32 } else { -1 })
        })
        .collect();
    assert_eq!(pages(queue, arena), expected);
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_micros(500));
    }
    panic!("not within 10 s: {what}");
}

#[test]
fn slots_grow_and_let_go() {
    for queue in common::queues() {
        let mut arena = reserve(&queue, SHAPE);
        let step = arena.plan().step_bytes();
        let reserved_bytes = arena.plan().reserved_bytes();
        assert_eq!(arena.stats(), ArenaStats { reserved_bytes, ..ArenaStats::default() });
        assert_pages(&queue, &arena);
        arena.grow(1, 1).unwrap();
        let tokens_of_a_step = arena.capacity(1);
        assert!(tokens_of_a_step >= 8);
        arena.grow(1, tokens_of_a_step).unwrap();
        assert_eq!(arena.stats().live_bytes, step);
        assert_pages(&queue, &arena);
        arena.grow(1, 1000).unwrap();
        assert_eq!(arena.capacity(1), 1000);
        arena.grow(2, 0).unwrap();
        assert_eq!([0, 2, 3, u64::MAX].map(|slot| arena.capacity(slot)), [0; 4]);
        assert_pages(&queue, &arena);

        let all = arena.stats();
        assert_eq!(all.physical_bytes(), all.live_bytes);
        arena.shrink(1, 1).unwrap();
        assert_eq!(arena.capacity(1), tokens_of_a_step);
        assert_pages(&queue, &arena);
        let stats = arena.stats();
        assert_eq!((stats.live_bytes, stats.spare_bytes), (step, all.live_bytes - step));
        // Nothing new is made for what is there.
        arena.grow(1, 1000).unwrap();
        assert_eq!(arena.stats(), all);
        arena.release(1).unwrap();
        queue.synchronize().unwrap();
        arena.grow(0, 1000).unwrap();
        assert_eq!(arena.stats(), all);
        assert_pages(&queue, &arena);
        assert_eq!(arena.trim(0).unwrap(), 0, "all is live");
        arena.release(0).unwrap();
        assert_eq!(arena.trim(step).unwrap(), all.live_bytes - step);
        assert_eq!(arena.stats().idle_bytes, step);
        assert_eq!(arena.trim(0).unwrap(), step);
        assert_eq!(arena.stats().physical_bytes(), 0);
    }
}

#[test]
fn growing_ahead_makes_ready_and_no_more() {
    for queue in common::queues() {
        let mut arena = reserve(&queue, SHAPE);
        arena.grow_ahead(2, 1000).unwrap();
        arena.grow_ahead(0, 1).unwrap();
        wait_until("ready", || arena.is_ready(2, 1000) && arena.is_ready(0, 1));
        assert_eq!((arena.capacity(2), arena.stats().live_bytes), (0, 0));
        assert_pages(&queue, &arena);
        let ahead = arena.stats();
        assert_eq!((ahead.awaited_bytes, ahead.n_failed_ahead), (0, 0));
        arena.grow(2, 1000).unwrap();
        assert_eq!(arena.stats().physical_bytes(), ahead.physical_bytes());
        assert_eq!(arena.stats().spare_bytes, arena.plan().step_bytes());
        assert_eq!(arena.trim(0).unwrap(), 0, "what is ahead stays");
        arena.release(0).unwrap();
        assert_eq!(arena.trim(0).unwrap(), arena.plan().step_bytes());
        assert!(!arena.is_ready(0, 1));
    }
}

#[test]
fn a_slot_grows_while_it_grows_ahead() {
    for queue in common::queues() {
        let mut arena = reserve(&queue, ArenaShape { packing: Packing::LayersApart, ..SHAPE });
        for n_tokens in (1..=1000).step_by(37) {
            arena.grow_ahead(n_tokens % 2, (n_tokens + 200).min(1000)).unwrap();
            arena.grow_ahead(2, n_tokens).unwrap();
            arena.grow(n_tokens % 2, n_tokens).unwrap();
            assert!(arena.capacity(n_tokens % 2) >= n_tokens);
        }
        assert_pages(&queue, &arena);
        // Some of it may still be on its way.
        drop(arena);
    }
}

#[test]
fn a_limit_is_kept_and_named() {
    for queue in common::queues() {
        let step = reserve(&queue, SHAPE).plan().step_bytes();
        let shape =
            ArenaShape { limit_bytes: Some(3 * step + step / 2), max_tokens: 1 << 20, ..SHAPE };
        let mut arena = reserve(&queue, shape);
        let tokens = |n: u64| n * arena.plan().tokens_of(1);
        let [one, two, three, four] = [1, 2, 3, 4].map(tokens);
        arena.grow(0, two).unwrap();
        let error = arena.grow(1, four).unwrap_err();
        assert!(matches!(error, Error::ArenaFull { slot: Some(1), .. }), "{error}");
        assert_eq!(
            error.to_string(),
            format!(
                "a growing cache needs {} bytes more for slot 1, beside {} that are mapped and 0 that are idle, and its \
                 limit is {}; release slots, or reserve for fewer",
                3 * step,
                3 * step,
                3 * step + step / 2
            )
        );
        assert_eq!((arena.capacity(0), arena.capacity(1)), (two, 0));
        assert_pages(&queue, &arena);
        assert_eq!(arena.stats().physical_bytes(), 3 * step);
        // What it mapped before it failed is spare, and anybody's.
        arena.grow(0, three).unwrap();
        let error = arena.stock(step).unwrap_err();
        assert!(matches!(error, Error::ArenaFull { slot: None, .. }), "{error}");
        arena.grow_ahead(2, one).unwrap();
        wait_until("failed ahead", || arena.stats().n_failed_ahead == 1);
        assert_eq!(arena.stats().awaited_bytes, 0);
        arena.shrink(0, one).unwrap();
        arena.grow(1, two).unwrap();
        assert_eq!(arena.stats().physical_bytes(), 3 * step);
        assert_pages(&queue, &arena);
    }
}

#[test]
fn a_stock_is_mapped_and_nothing_is_made() {
    for queue in common::queues() {
        let mut arena = reserve(&queue, ArenaShape { packing: Packing::LayersApart, ..SHAPE });
        let step = arena.plan().step_bytes();
        arena.stock(2 * step).unwrap();
        arena.stock(step).unwrap();
        assert_eq!(arena.stats().idle_bytes, 2 * step);
        arena.grow(0, 1).unwrap();
        assert_eq!((arena.stats().idle_bytes, arena.stats().live_bytes), (step, step));
    }
}

/// What is ahead is taken before a request is refused.
#[test]
fn what_is_ahead_gives_way() {
    for queue in common::queues() {
        let step = reserve(&queue, SHAPE).plan().step_bytes();
        let mut arena = reserve(
            &queue,
            ArenaShape { limit_bytes: Some(2 * step), max_tokens: 1 << 20, ..SHAPE },
        );
        let two = 2 * arena.plan().tokens_of(1);
        arena.grow_ahead(0, two).unwrap();
        wait_until("ready", || arena.is_ready(0, two));
        arena.grow_ahead(1, 1).unwrap();
        wait_until("failed ahead", || arena.stats().n_failed_ahead == 1);
        assert!(arena.is_ready(0, two), "not for what is ahead itself");
        arena.grow(1, two).unwrap();
        assert!(!arena.is_ready(0, 1));
        assert_eq!(arena.stats().awaited_bytes, 0, "it is not asked for any more");
        assert_pages(&queue, &arena);
    }
}

#[test]
fn what_it_was_not_reserved_for_is_refused() {
    let queue = simt();
    let mut arena = reserve(&queue, SHAPE);
    let text = |result: Result<(), Error>| result.unwrap_err().to_string();
    assert_eq!(text(arena.grow(3, 1)), "slot: 3 is outside the slots of the arena");
    assert_eq!(text(arena.release(3)), "slot: 3 is outside the slots of the arena");
    let too_many = "tokens of a slot: 1001 is outside what the arena was reserved for";
    assert_eq!(text(arena.grow(0, 1001)), too_many);
    assert_eq!(text(arena.grow_ahead(0, 1001)), too_many);
    assert_eq!(text(arena.shrink(0, 1001)), too_many);
    assert!(!arena.is_ready(0, 1001));
    let lengths = queue.alloc::<u32>(3).unwrap();
    let error = arena.view(2, lengths.view()).unwrap_err();
    assert_eq!(error.to_string(), "layer: 2 is outside the layers of the arena");
    assert!(arena.view_mut(2, lengths.view()).is_err());
    let error = KvArena::<bf16>::reserve(&queue, ArenaShape { n_slots: 0, ..SHAPE }).unwrap_err();
    assert_eq!(error.to_string(), "slots: 0 is outside 1..65536");
}

fn gather(queue: &Queue, cache: &KvView<'_, bf16>) -> Result<Vec<bf16>, Error> {
    let plan = KvRowsPlan::new(cache.layout, 1, KvLists::PerRequest)?;
    let indices = queue.upload(&vec![0; plan.indices_len() as usize])?;
    let mut rows = queue.alloc::<bf16>(plan.rows_len() as usize)?;
    let mut values = queue.alloc::<bf16>(plan.rows_len() as usize)?;
    let mut gathered = KvRowsMut {
        keys: rows.view_mut(),
        values: cache.values.is_some().then(|| values.view_mut()),
    };
    gather_kv(queue, &plan, cache, &indices.view(), Absent::Zeros, &mut gathered)?;
    queue.download(&rows.view())
}

/// A pool with holes goes nowhere but through its own table, in its own layout.
#[test]
fn pools_with_holes_are_for_caches_alone() {
    for queue in common::queues() {
        let mut arena = reserve(&queue, SHAPE);
        arena.grow(1, 1).unwrap();
        let lengths = queue.upload(&[u32::MAX; 3]).unwrap();
        let refused = |error: Error| {
            let text = error.to_string();
            assert!(matches!(error, Error::Holes { .. }), "{text}");
            text
        };
        let cache = arena.view(1, lengths.view()).unwrap();
        let rows = gather(&queue, &cache).unwrap();
        // Of slots 0 and 2 no row is there.
        assert!(rows[..32].iter().chain(&rows[64..]).all(|x| x.to_bits() == 0));
        assert_eq!(
            refused(queue.download(&cache.keys).unwrap_err()),
            "source of a download is memory of a growing cache, parts of which are not there: it is reached as a cache, \
             by the arena's own layout and page table"
        );
        refused(queue.download(&cache.keys.slice(0..8).unwrap()).unwrap_err());
        let all_pages: Vec<i32> = (0..pages(&queue, &arena).len() as i32).collect();
        let other_table = queue.upload(&all_pages).unwrap();
        let other = KvView { page_table: other_table.view(), ..cache };
        refused(gather(&queue, &other).unwrap_err());
        let shape = *arena.layout().shape();
        let other_layout = lacuna::kv::KvLayout::new(KvShape { head_stride: 0, ..shape }).unwrap();
        refused(gather(&queue, &KvView { layout: other_layout, ..cache }).unwrap_err());
        let values = queue.alloc::<bf16>(cache.keys.len()).unwrap();
        let mixed = KvView { page_table: other_table.view(), keys: values.view(), ..cache };
        refused(gather(&queue, &mixed).unwrap_err());
        gather(&queue, &KvView { values: None, ..cache }).unwrap();

        let mut cache = arena.view_mut(0, lengths.view()).unwrap();
        refused(queue.fill_zero(&mut cache.keys).unwrap_err());
        let host = vec![bf16::ZERO; 8];
        refused(queue.upload_into(&host, &mut cache.keys.slice_mut(0..8).unwrap()).unwrap_err());
        refused(queue.fill_zero(&mut cache.keys.reborrow()).unwrap_err());
        refused(queue.download(&cache.as_view().keys).unwrap_err());
        gather(&queue, &cache.as_view()).unwrap();
    }
}

#[test]
fn addresses_never_change() {
    for queue in common::queues() {
        let mut arena = reserve(&queue, SHAPE);
        let lengths = queue.alloc::<u32>(3).unwrap();
        let mut seen = HashSet::new();
        for n_tokens in [0, 1, 500, 1000] {
            arena.grow(0, n_tokens).unwrap();
            let cache = arena.view(1, lengths.view()).unwrap();
            let values = cache.values.unwrap().address();
            seen.insert((
                cache.layout.shape().n_pages,
                cache.keys.address(),
                values,
                cache.page_table.address(),
            ));
        }
        assert_eq!(seen.len(), 1);
    }
}

#[test]
fn arenas_may_go_to_other_threads() {
    fn assert_shared<T: Send + Sync>() {}
    assert_shared::<KvArena<bf16>>();
    let queue = simt();
    let mut arena = reserve(&queue, SHAPE);
    let arena = thread::spawn(move || arena.grow(0, 9).map(|()| arena)).join().unwrap().unwrap();
    assert!(arena.capacity(0) >= 9);
}

#[derive(Debug, Clone)]
enum Step {
    Grow(u64, u64),
    Ahead(u64, u64),
    Shrink(u64, u64),
    Release(u64),
    Stock(u64),
    Trim(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = || (0_u64..4, 0_u64..1100);
    let step = prop_oneof![
        3 => at().prop_map(|(slot, n)| Step::Grow(slot, n)),
        2 => at().prop_map(|(slot, n)| Step::Ahead(slot, n)),
        1 => at().prop_map(|(slot, n)| Step::Shrink(slot, n)),
        1 => (0_u64..4).prop_map(Step::Release),
        1 => (0_u64..60_000).prop_map(Step::Stock),
        1 => (0_u64..60_000).prop_map(Step::Trim),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    /// Whatever is asked in whatever order, a slot has what it was grown to and not shrunk from, and the arena no more
    /// than its limit.
    #[test]
    fn any_order_of_requests(steps in steps(), is_apart: bool, limit in prop::option::of(0_u64..400_000)) {
        let queue = simt();
        let packing = if is_apart { Packing::LayersApart } else { Packing::LayersTogether };
        let mut arena = reserve(&queue, ArenaShape { packing, limit_bytes: limit, ..SHAPE });
        let plan = *arena.plan();
        let mut grown = [0_u64; 3];
        for step in steps {
            let is_there = |slot: u64, n: u64| slot < 3 && n <= 1000;
            match step {
                Step::Grow(slot, n) => match arena.grow(slot, n) {
                    Ok(()) => grown[slot as usize] = grown[slot as usize].max(plan.steps_of(n)),
                    Err(Error::ArenaFull { mapped_bytes, .. }) => {
                        prop_assert!(limit.is_some() && is_there(slot, n));
                        prop_assert!(mapped_bytes <= limit.unwrap());
                        let lacking = plan.steps_of(n) - grown[slot as usize];
                        let live: u64 = grown.iter().sum();
                        prop_assert!((live + lacking) * plan.step_bytes() > limit.unwrap(), "there was room");
                    }
                    Err(error) => prop_assert!(!is_there(slot, n), "{error}"),
                },
                Step::Ahead(slot, n) => prop_assert_eq!(arena.grow_ahead(slot, n).is_ok(), is_there(slot, n)),
                Step::Shrink(slot, n) => {
                    prop_assert_eq!(arena.shrink(slot, n).is_ok(), is_there(slot, n));
                    if is_there(slot, n) {
                        grown[slot as usize] = grown[slot as usize].min(plan.steps_of(n));
                    }
                }
                Step::Release(slot) => {
                    prop_assert_eq!(arena.release(slot).is_ok(), slot < 3);
                    if slot < 3 {
                        grown[slot as usize] = 0;
                    }
                }
                Step::Stock(n) => prop_assert!(arena.stock(n).is_ok() || limit.is_some()),
                Step::Trim(n) => {
                    arena.trim(n).unwrap();
                }
            }
            for (slot, n_steps) in grown.iter().enumerate() {
                prop_assert_eq!(arena.capacity(slot as u64), plan.tokens_of(*n_steps));
            }
            let stats = arena.stats();
            prop_assert_eq!(stats.live_bytes, grown.iter().sum::<u64>() * plan.step_bytes());
            prop_assert!(stats.physical_bytes() <= limit.unwrap_or(u64::MAX));
            assert_pages(&queue, &arena);
        }
    }
}
