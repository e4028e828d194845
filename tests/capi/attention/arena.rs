//! Caches that grow where they are, as caches of launches.

use half::bf16;
use lacuna::attention::{
    AttendInputs, AttendOutputs, AttendPlan, AttendShape, Segment, SegmentShape, Tokens,
};
use lacuna::capi::lacuna_status::*;
use lacuna::capi::*;
use lacuna::kv::{KvLayout, KvShape};

use crate::c::{
    Aligned, Cache, Handle, Refused, Struct, answer, launch, made, plan, queue, read, rust_queue,
    structs, view, view_mut, written,
};
use crate::common::Random;

structs! { lacuna_arena_shape, lacuna_arena_stats }

/// Two slots of up to 12 tokens, of two layers.
fn shape() -> lacuna_arena_shape {
    lacuna_arena_shape {
        n_slots: 2,
        max_tokens: 12,
        n_layers: 2,
        n_heads: 2,
        row_len: 32,
        page_size: 4,
        dtype: lacuna_dtype::LACUNA_BF16 as u32,
        ..lacuna_arena_shape::zeroed()
    }
}

fn reserve(
    queue: &Handle<lacuna_queue>,
    shape: &lacuna_arena_shape,
) -> Result<Handle<lacuna_arena>, Refused> {
    // SAFETY: a handle of the library's, a struct and a variable of this program's.
    made(lacuna_arena_free, |arena| unsafe { lacuna_arena_reserve(queue.address, shape, arena) })
}

fn kv_shape(arena: &Handle<lacuna_arena>) -> lacuna_kv_shape {
    let mut shape = lacuna_kv_shape::zeroed();
    // SAFETY: a handle of the library's and a struct of this program's.
    answer(unsafe { lacuna_arena_kv_shape(arena.address, &raw mut shape) }).unwrap();
    shape
}

fn layout(shape: &lacuna_kv_shape) -> KvLayout {
    let shape = KvShape {
        batch: shape.batch,
        n_heads: shape.n_heads,
        row_len: shape.row_len,
        n_pages: shape.n_pages,
        page_size: shape.page_size,
        table_stride: shape.table_stride,
        tokens_per_row: shape.tokens_per_row,
        page_stride: shape.page_stride,
        token_stride: shape.token_stride,
        head_stride: shape.head_stride,
    };
    KvLayout::new(shape).unwrap()
}

fn none() -> lacuna_view {
    lacuna_view { data: std::ptr::null(), len: 0, dtype: 0, reserved: 0 }
}

/// A layer's cache, which has these lengths.
fn cache(arena: &Handle<lacuna_arena>, layer: u64, lengths: &[u32]) -> Result<lacuna_kv, Refused> {
    let mut cache = lacuna_kv {
        keys: none(),
        values: none(),
        page_table: none(),
        lengths: view(lengths),
        key_scale: 1.0,
        value_scale: 0.0,
    };
    // SAFETY: a handle of the library's and a struct of this program's.
    answer(unsafe { lacuna_arena_kv(arena.address, layer, &raw mut cache) })?;
    assert_eq!((cache.lengths.data, cache.key_scale), (lengths.as_ptr().cast(), 1.0));
    Ok(cache)
}

fn grow(arena: &Handle<lacuna_arena>, slot: u64, n_tokens: u64) -> Result<(), Refused> {
    // SAFETY: a handle of the library's.
    answer(unsafe { lacuna_arena_grow(arena.address, slot, n_tokens) })
}

fn stats(arena: &Handle<lacuna_arena>) -> lacuna_arena_stats {
    let mut stats = lacuna_arena_stats::zeroed();
    // SAFETY: a handle of the library's and a struct of this program's.
    answer(unsafe { lacuna_arena_read_stats(arena.address, &raw mut stats) }).unwrap();
    stats
}

fn capacity(arena: &Handle<lacuna_arena>, slot: u64) -> u64 {
    let mut n_tokens = u64::MAX;
    // SAFETY: a handle of the library's and a variable of this program's.
    answer(unsafe { lacuna_arena_capacity(arena.address, slot, &raw mut n_tokens) }).unwrap();
    n_tokens
}

/// The rows of an ordinary cache in a layer of the arena, which is host memory in the executor.
fn fill(arena: &Handle<lacuna_arena>, layer: u64, from: &Cache<bf16>) {
    let to = cache(arena, layer, &from.lengths).unwrap();
    let (source, target) = (from.layout(), layout(&kv_shape(arena)));
    // SAFETY: the arena's table, which no launch writes now.
    let table = unsafe { std::slice::from_raw_parts(to.page_table.data.cast(), 6) };
    for (b, length) in (0..2).zip(&from.lengths) {
        for (t, h) in (0..u64::from(*length)).flat_map(|t| [(t, 0), (t, 1)]) {
            let read = source.locate(&from.page_table, b, t, h).unwrap();
            let write = target.locate(table, b, t, h).expect("the slot has grown so far");
            for (pool, rows) in [(&to.keys, &from.keys), (&to.values, &from.values)] {
                let place = pool.data.cast_mut().cast::<bf16>().wrapping_add(write);
                // SAFETY: a row that the page table names, which no launch uses now.
                unsafe { place.copy_from_nonoverlapping(rows[read..].as_ptr(), 32) };
            }
        }
    }
}

#[test]
fn attend_attends_to_a_cache_that_grew_as_to_one_that_did_not() {
    let mut random = Random(1);
    let (queue, rust) = (queue(), rust_queue());
    let arena = reserve(&queue, &shape()).unwrap();
    let kv_shape = kv_shape(&arena);
    let of_segment = super::attending::segment_of(&kv_shape);
    let of_attend = lacuna_attend_shape {
        segments: &raw const of_segment,
        n_segments: 1,
        n_q_heads: 4,
        ..lacuna_attend_shape::zeroed()
    };
    let (new, free) = (lacuna_attend_plan_new, lacuna_attend_plan_free);
    let plan = plan(new, free, &of_attend).unwrap();
    let queries = Aligned::new((0..256).map(|_| bf16::from_f32(random.number())));
    let mut workspace = Aligned::<u32>::zeros(4);
    for lengths in [[1_u32, 0], [5, 3], [12, 8]] {
        let mut ordinary = Cache::<bf16>::new(32, || bf16::from_f32(random.number()));
        ordinary.lengths = lengths.to_vec();
        for (slot, n_tokens) in (0..).zip(lengths) {
            grow(&arena, slot, n_tokens.into()).unwrap();
        }
        fill(&arena, 1, &ordinary);
        let segment = lacuna_segment {
            cache: cache(&arena, 1, &lengths).unwrap(),
            ..lacuna_segment::zeroed()
        };
        let mut found = Aligned::new(vec![bf16::NAN; 256]);
        let mut expected = found.clone();
        let args = lacuna_attend_args {
            queries: view(&queries),
            segments: &raw const segment,
            n_segments: 1,
            outputs: view_mut(&mut found),
            workspace: view_mut(&mut workspace),
            ..lacuna_attend_args::zeroed()
        };
        launch(lacuna_attend, &queue, &plan, &args).unwrap();

        let segment = SegmentShape::of(ordinary.layout(), Tokens::ALL);
        let of_rust = AttendPlan::new(AttendShape::of(&ordinary.layout(), 4), &[segment]).unwrap();
        let inputs = AttendInputs {
            queries: read(&rust, &queries),
            segments: &[Segment::new(ordinary.view(&rust), None)],
            sinks: None,
            skips: None,
        };
        let mut words = Aligned::<u32>::zeros(4);
        let mut outputs = AttendOutputs {
            outputs: written(&rust, &mut expected),
            log_sums: None,
            workspace: written(&rust, &mut words),
        };
        lacuna::attention::attend(&rust, &of_rust, &inputs, &mut outputs).unwrap();
        assert_eq!(found, expected, "{lengths:?}");
        assert!(found[..128].iter().all(|x| x.is_finite() && *x != bf16::ZERO));
    }
}

#[test]
fn append_kv_appends_to_a_cache_that_grew() {
    let mut random = Random(2);
    let queue = queue();
    let arena = reserve(&queue, &shape()).unwrap();
    grow(&arena, 0, 8).unwrap();
    grow(&arena, 1, 7).unwrap();
    let kv_shape = kv_shape(&arena);
    let of_append = lacuna_append_kv_shape {
        kv: &raw const kv_shape,
        n_tokens: 5,
        ..lacuna_append_kv_shape::zeroed()
    };
    let (new, free) = (lacuna_append_kv_plan_new, lacuna_append_kv_plan_free);
    let plan = plan(new, free, &of_append).unwrap();
    let [keys, values] =
        [(); 2].map(|()| Aligned::new((0..640).map(|_| bf16::from_f32(random.number()))));
    let (lengths, mut new_lengths) = ([3_u32, 2], [77_u32; 2]);
    let mut cache = lacuna_kv_mut {
        keys: view_mut::<bf16>(&mut []),
        values: view_mut::<bf16>(&mut []),
        page_table: none(),
        lengths: view(&lengths),
    };
    // SAFETY: a handle of the library's and a struct of this program's.
    answer(unsafe { lacuna_arena_kv_mut(arena.address, 1, &raw mut cache) }).unwrap();
    let args = lacuna_append_kv_args {
        keys: view(&keys),
        values: view(&values),
        cache,
        new_lengths: view_mut(&mut new_lengths),
        ..lacuna_append_kv_args::zeroed()
    };
    launch(lacuna_append_kv, &queue, &plan, &args).unwrap();
    assert_eq!(new_lengths, [8, 7]);
    // SAFETY: the arena's table, which no launch writes now.
    let table = unsafe { std::slice::from_raw_parts(cache.page_table.data.cast(), 6) };
    for (b, t, h) in (0..20).map(|i| (i / 10, i / 2 % 5, i % 2)) {
        let place = layout(&kv_shape).locate(table, b, u64::from(lengths[b as usize]) + t, h);
        let from = (((b * 5 + t) * 2 + h) * 32) as usize;
        for (pool, rows) in [(&cache.keys, &keys), (&cache.values, &values)] {
            let row = pool.data.cast::<bf16>().wrapping_add(place.unwrap());
            // SAFETY: a row that the page table names, which no launch uses now.
            let row = unsafe { std::slice::from_raw_parts(row, 32) };
            assert_eq!(row, &rows[from..from + 32], "{b} {t} {h}");
        }
    }
}

#[test]
fn memory_of_an_arena_goes_as_its_cache_alone() {
    let queue = queue();
    let arena = reserve(&queue, &shape()).unwrap();
    grow(&arena, 0, 12).unwrap();
    let lengths = [12_u32, 0];
    let sound = cache(&arena, 0, &lengths).unwrap();
    let mut written = lacuna_kv_mut {
        keys: view_mut::<bf16>(&mut []),
        values: view_mut::<bf16>(&mut []),
        page_table: none(),
        lengths: sound.lengths,
    };
    // SAFETY: a handle of the library's and a struct of this program's.
    answer(unsafe { lacuna_arena_kv_mut(arena.address, 0, &raw mut written) }).unwrap();
    assert_eq!(
        [written.keys.data, written.values.data],
        [sound.keys.data, sound.values.data].map(|address| address.cast_mut())
    );
    assert_eq!(written.page_table.data, sound.page_table.data);
    assert_eq!(written.keys.reserved, sound.keys.reserved);
    let kv_shape = kv_shape(&arena);
    // As many elements, but other rows.
    let other = lacuna_kv_shape {
        token_stride: kv_shape.head_stride,
        head_stride: kv_shape.token_stride / 2 * 4,
        ..kv_shape
    };
    assert_eq!(layout(&other).pool_len(), layout(&kv_shape).pool_len());
    let queries = Aligned::new(vec![bf16::ONE; 128]);
    let poison = bf16::from_f32(77.0);
    let mut outputs = Aligned::new(vec![poison; 128]);
    let mut workspace = Aligned::<u32>::zeros(4);
    // SAFETY: the arena's table, which no launch writes now.
    let table: &[i32] = unsafe { std::slice::from_raw_parts(sound.page_table.data.cast(), 6) };
    let copied = table.to_vec();
    let mut attend = |kv_shape: &lacuna_kv_shape, cache, queries| {
        let of_segment = super::attending::segment_of(kv_shape);
        let of_attend = lacuna_attend_shape {
            segments: &raw const of_segment,
            n_segments: 1,
            n_q_heads: 2,
            ..lacuna_attend_shape::zeroed()
        };
        let (new, free) = (lacuna_attend_plan_new, lacuna_attend_plan_free);
        let plan = plan(new, free, &of_attend).unwrap();
        let segment = lacuna_segment { cache, ..lacuna_segment::zeroed() };
        let args = lacuna_attend_args {
            queries,
            segments: &raw const segment,
            n_segments: 1,
            outputs: view_mut(&mut outputs),
            workspace: view_mut(&mut workspace),
            ..lacuna_attend_args::zeroed()
        };
        launch(lacuna_attend, &queue, &plan, &args)
    };
    let holes = |what: &str| {
        let message = format!(
            "{what} is memory of a growing cache, parts of which are not there: it is reached as a cache, by the \
             arena's own layout and page table"
        );
        Err((LACUNA_WRONG_QUEUE, message))
    };
    assert_eq!(attend(&other, sound, view(&queries)), holes("keys"));
    let wrong = lacuna_kv { page_table: view(&copied), ..sound };
    assert_eq!(attend(&kv_shape, wrong, view(&queries)), holes("keys"));
    assert_eq!(attend(&kv_shape, sound, sound.keys), holes("queries"));
    let mut wrong = sound;
    wrong.values.reserved = 12_345;
    let message =
        "reserved of values is 12345, and neither 0 nor of an arena that there is".to_owned();
    assert_eq!(attend(&kv_shape, wrong, view(&queries)), Err((LACUNA_ABI, message)));
    attend(&kv_shape, sound, view(&queries)).unwrap();
    drop(arena);
    let number = sound.keys.reserved;
    let message =
        format!("reserved of keys is {number}, and neither 0 nor of an arena that there is");
    assert_eq!(attend(&kv_shape, sound, view(&queries)), Err((LACUNA_ABI, message)));
    // Rows that are there and that nobody has written have any bytes; the other slot has none.
    assert!(outputs[..64].iter().all(|x| *x != poison));
    assert!(outputs[64..].iter().all(|x| *x == bf16::ZERO));
}

#[test]
fn an_arena_grows_lets_go_and_says_what_it_has() {
    let queue = queue();
    // A chunk has one page of a layer's keys, and a slot three steps.
    let shape = lacuna_arena_shape {
        max_tokens: 48,
        page_size: 0,
        n_heads: 4,
        packing: lacuna_packing::LACUNA_PACKING_LAYERS_APART as u32,
        order: lacuna_kv_order::LACUNA_KV_HND as u32,
        limit_bytes: 4 * 4 * 4096,
        ..self::shape()
    };
    let arena = reserve(&queue, &shape).unwrap();
    let kv_shape = kv_shape(&arena);
    assert_eq!([kv_shape.batch, kv_shape.page_size, kv_shape.table_stride], [2, 16, 3]);
    assert_eq!([kv_shape.token_stride, kv_shape.head_stride], [32, 512]);
    let before = stats(&arena);
    assert_eq!([before.chunk_bytes, before.step_bytes], [4096, 4 * 4096]);
    assert_eq!([before.live_bytes, before.reserved_bytes], [0, 2 * 3 * 4 * 4096]);
    grow(&arena, 0, 17).unwrap();
    assert_eq!([capacity(&arena, 0), capacity(&arena, 1), capacity(&arena, 9)], [32, 0, 0]);
    assert_eq!(stats(&arena).live_bytes, 2 * 4 * 4096);
    grow(&arena, 1, 20).unwrap();
    let (status, message) = grow(&arena, 1, 33).unwrap_err();
    assert_eq!(status, LACUNA_OUT_OF_MEMORY);
    assert!(
        message.ends_with("its limit is 65536; release slots, or reserve for fewer"),
        "{message}"
    );
    assert_eq!(capacity(&arena, 1), 32);
    let message = "slot: 2 is outside the slots of the arena".to_owned();
    assert_eq!(grow(&arena, 2, 1), Err((LACUNA_RANGE, message)));
    let message = "layer: 2 is outside the layers of the arena".to_owned();
    assert_eq!(cache(&arena, 2, &[0, 0]).map(drop), Err((LACUNA_RANGE, message)));
    // SAFETY: a handle of the library's, and variables of this program's.
    unsafe {
        answer(lacuna_arena_shrink(arena.address, 0, 16)).unwrap();
        assert_eq!(capacity(&arena, 0), 16);
        answer(lacuna_arena_release(arena.address, 0)).unwrap();
        assert_eq!([capacity(&arena, 0), stats(&arena).live_bytes], [0, 2 * 4 * 4096]);
        let mut is_ready = 7;
        answer(lacuna_arena_is_ready(arena.address, 1, 32, &raw mut is_ready)).unwrap();
        assert_eq!(is_ready, 1);
        answer(lacuna_arena_is_ready(arena.address, 1, 33, &raw mut is_ready)).unwrap();
        assert_eq!(is_ready, 0);
        // What cannot be told is not done.
        let mut n_freed = 7;
        let odd = (&raw mut n_freed).wrapping_byte_add(4);
        let found = answer(lacuna_arena_trim(arena.address, 0, odd));
        assert_eq!(found.unwrap_err().0, LACUNA_RANGE);
        answer(lacuna_arena_trim(arena.address, 0, &raw mut n_freed)).unwrap();
        assert_eq!(n_freed, 2 * 4 * 4096);
        answer(lacuna_arena_stock(arena.address, 4096)).unwrap();
        assert_eq!(stats(&arena).idle_bytes, 4096);
        answer(lacuna_arena_trim(arena.address, 0, std::ptr::null_mut())).unwrap();
        assert_eq!(stats(&arena).idle_bytes, 0);
        answer(lacuna_arena_grow_ahead(arena.address, 0, 16)).unwrap();
        grow(&arena, 0, 16).unwrap();
        assert_eq!(capacity(&arena, 0), 16);
        let message = "arena is a null pointer".to_owned();
        let found = answer(lacuna_arena_grow(std::ptr::null_mut(), 0, 1));
        assert_eq!(found, Err((LACUNA_NULL, message)));
    }
}

#[test]
fn arenas_refuse_what_is_none() {
    let queue = queue();
    let refused = |change: fn(&mut lacuna_arena_shape)| {
        let mut shape = shape();
        change(&mut shape);
        reserve(&queue, &shape).map(drop).unwrap_err()
    };
    let message = "dtype of an arena: f32 is not one of bf16, f16, e4m3, e5m2".to_owned();
    assert_eq!(refused(|s| s.dtype = 3), (LACUNA_DTYPE, message));
    let message = "order of an arena: 3 is no lacuna_kv_order of an arena".to_owned();
    assert_eq!(refused(|s| s.order = 3), (LACUNA_RANGE, message));
    assert_eq!(
        refused(|s| s.packing = 2),
        (LACUNA_RANGE, "packing: 2 is no lacuna_packing".into())
    );
    let message = "reserved of lacuna_arena_shape is 1, and not 0".to_owned();
    assert_eq!(refused(|s| s.reserved = 1), (LACUNA_ABI, message));
    let message = "slots: 0 is outside 1..65536".to_owned();
    assert_eq!(refused(|s| s.n_slots = 0), (LACUNA_RANGE, message));
    let (status, message) = refused(|s| s.header.version = 9);
    assert_eq!(status, LACUNA_ABI);
    assert!(message.starts_with("lacuna_arena_shape: header.version is 9"), "{message}");
    // All types that caches have.
    for dtype in [1, 2, 4, 5] {
        let arena = reserve(&queue, &lacuna_arena_shape { dtype, ..shape() }).unwrap();
        assert_eq!(kv_shape(&arena).dtype, dtype);
    }
}
