//! Tiered pages: `measure_channels`, `quantize_pages`, `dequantize_pages`, `retier_pages`, and where what of a page is.

use half::bf16;
use lacuna::Queue;
use lacuna::capi::lacuna_status::*;
use lacuna::capi::*;
use lacuna::kv::KvLists;
use lacuna::quant::{
    ChannelViews, ChannelViewsMut, ChannelsPlan, MeasuredRows, PageLists, PageShape, PagesPlan,
    PagesShape, Part, RetierInputs, RetierOutputs, RetierPlan, RetierShape, Tail, Tier, TierPools,
    TierPoolsMut,
};

use crate::c::{
    Aligned, Cache, Struct, answer, bits, check_plan_refusals, check_refusals, launch, plan, queue,
    read, rust_queue, sizes, structs, view, view_mut, written,
};
use crate::common::Random;

structs! {
    lacuna_pages_shape, lacuna_pages_sizes, lacuna_quantize_pages_args,
    lacuna_dequantize_pages_args, lacuna_measure_channels_args,
    lacuna_retier_pages_shape, lacuna_retier_pages_sizes, lacuna_retier_pages_args,
    lacuna_page_shape, lacuna_page_sizes, lacuna_page_place,
}

/// One request of two heads and 80 rows, of which the last 16 have no page.
fn cache() -> Cache<bf16> {
    let mut random = Random(20);
    Cache::of(1, 2, 32, 16, 5, move || bf16::from_f32(random.normal()))
}

/// By [`Tier::tag`].
const N_POOL_PAGES: [u64; 4] = [2, 3, 4, 5];

fn c_shape(kv: &lacuna_kv_shape, n_pages: u64) -> lacuna_pages_shape {
    lacuna_pages_shape { kv, n_pages, n_pool_pages: N_POOL_PAGES, ..Struct::zeroed() }
}

fn rust_shape(cache: &Cache<bf16>, n_pages: u64) -> PagesShape {
    PagesShape { n_pool_pages: N_POOL_PAGES, ..PagesShape::of(cache.layout(), n_pages) }
}

/// Scales and offsets of keys, and of values.
type Channels = [Vec<f32>; 4];

fn channels(n: u64) -> Channels {
    let mut random = Random(21);
    let mut of = |least: f32| (0..n).map(|_| least + random.number()).collect();
    [of(1.5), of(0.0), of(2.5), of(0.5)]
}

fn views<'a>(queue: &Queue, [scales, offsets]: [&'a Vec<f32>; 2]) -> ChannelViews<'a> {
    ChannelViews { scales: Some(read(queue, scales)), offsets: Some(read(queue, offsets)) }
}

type Pools = [Aligned<u8>; 4];

fn pools(sizes: [u64; 4]) -> Pools {
    sizes.map(|n_bytes| Aligned::new(vec![0x77; n_bytes as usize]))
}

fn written_pools<'a>(
    queue: &Queue,
    pools: &'a mut Pools,
    status: &'a mut [u64; 1],
) -> TierPoolsMut<'a> {
    let pools = pools.each_mut().map(|pool| Some(written(queue, pool)));
    TierPoolsMut { pools, status: Some(written(queue, status)) }
}

const fn entry(tier: Tier, number: u32) -> u32 {
    tier.tag() << 30 | number
}

/// Two pages of each head: of four tiers, one of no page, and one that its pool does not have.
const KEY_ENTRIES: [u32; 4] =
    [entry(Tier::T4, 0), entry(Tier::T2, 4), entry(Tier::T16, 1), entry(Tier::T8, 2)];
const VALUE_ENTRIES: [u32; 4] =
    [entry(Tier::T4, 3), entry(Tier::T8, LACUNA_NO_PAGE), entry(Tier::T2, 0), entry(Tier::T8, 9)];

/// Of two heads, two pages each: rows in some order, each once, and slots of nothing.
fn indices() -> Vec<i32> {
    let of_slot = |h: i32, i: i32| if i % 9 == 8 || i >= 80 { -1 } else { (i * 7 + h) % 80 };
    (0..2).flat_map(|h| (0..128).map(move |i| of_slot(h, i))).collect()
}

#[test]
fn channels_are_measured_as_in_rust() {
    let (cache, queue, rust) = (cache(), queue(), rust_queue());
    let c_cache = cache.c_shape();
    let (new, free) = (lacuna_pages_plan_new, lacuna_pages_plan_free);
    // A span a page, without a workspace; and one of nine pages, of a list for both heads.
    let spans = lacuna_pages_shape { span_pages: 1, ..c_shape(&c_cache, 2) };
    let lists = lacuna_kv_lists::LACUNA_KV_PER_REQUEST as u32;
    let one = lacuna_pages_shape { lists, ..c_shape(&c_cache, 9) };
    let of_spans = PagesShape { span_pages: 1, ..rust_shape(&cache, 2) };
    let of_one = PagesShape { lists: KvLists::PerRequest, ..rust_shape(&cache, 9) };
    for (shape, of_rust) in [(spans, of_spans), (one, of_one)] {
        check_plan_refusals(new, free, &shape);
        let plan = plan(new, free, &shape).unwrap();
        let sizes: lacuna_pages_sizes = sizes(lacuna_pages_plan_sizes, &plan);
        let of_rust = ChannelsPlan::new(PagesPlan::new(of_rust).unwrap());
        assert_eq!(sizes.workspace, of_rust.workspace_len());
        let counts = [100_u32, 128];
        let counts = &counts[..sizes.counts as usize];
        let indices: Vec<i32> =
            indices().into_iter().cycle().take(sizes.indices as usize).collect();
        let poison = [
            vec![7.0_f32; sizes.key_scales as usize],
            vec![7.0; sizes.key_offsets as usize],
            vec![7.0; sizes.value_scales as usize],
        ];
        let (mut found, mut expected) = (poison.clone(), poison.clone());
        let mut workspace = vec![0_u32; sizes.workspace as usize];
        let [key_scales, key_offsets, value_scales] = &mut found;
        let mut args = lacuna_measure_channels_args {
            cache: cache.c_view(),
            indices: view(&indices),
            counts: view(counts),
            key_scales: view_mut(key_scales),
            key_offsets: view_mut(key_offsets),
            value_scales: view_mut(value_scales),
            ..lacuna_measure_channels_args::zeroed()
        };
        if sizes.workspace > 0 {
            args.workspace = view_mut(&mut workspace);
        }
        check_refusals(lacuna_measure_channels, &queue, &plan, &args);
        let wrong = lacuna_measure_channels_args {
            cache: lacuna_kv { key_scale: 2.0, ..args.cache },
            ..args
        };
        let message = "scale of keys: 2 is outside 1, of bf16 and f16".to_owned();
        let answer = launch(lacuna_measure_channels, &queue, &plan, &wrong);
        assert_eq!(answer, Err((LACUNA_RANGE, message)));
        assert_eq!(found, poison);
        launch(lacuna_measure_channels, &queue, &plan, &args).unwrap();

        let mut workspace = vec![0_u32; sizes.workspace as usize];
        let rows =
            MeasuredRows { indices: read(&rust, &indices), counts: Some(read(&rust, counts)) };
        let [key_scales, key_offsets, value_scales] = &mut expected;
        let mut keys = ChannelViewsMut {
            scales: Some(written(&rust, key_scales)),
            offsets: Some(written(&rust, key_offsets)),
        };
        let scales = Some(written(&rust, value_scales));
        let mut values = ChannelViewsMut { scales, offsets: None };
        lacuna::quant::measure_channels(
            &rust,
            &of_rust,
            &cache.view(&rust),
            &rows,
            &mut written(&rust, &mut workspace),
            &mut keys,
            &mut values,
        )
        .unwrap();
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(bits(found), bits(expected));
        }
    }
}

#[test]
fn plans_of_pages_refuse_what_is_none() {
    let cache = cache();
    let c_cache = cache.c_shape();
    let (new, free) = (lacuna_pages_plan_new, lacuna_pages_plan_free);
    let check = |change: fn(&mut lacuna_pages_shape), status, message: &str| {
        let mut shape = c_shape(&c_cache, 2);
        change(&mut shape);
        let found = plan(new, free, &shape).map(drop);
        assert_eq!(found, Err((status, message.to_owned())));
    };
    check(|s| s.tail = 2, LACUNA_RANGE, "tail: 2 is no lacuna_tail");
    check(|s| s.lists = 7, LACUNA_RANGE, "lists: 7 is no lacuna_kv_lists");
    check(|s| s.kv = std::ptr::null(), LACUNA_NULL, "lacuna_kv_shape is a null pointer");
    let pool = format!("pages of a pool: {} is outside 0..=2^30", 1_u64 << 31);
    check(|s| s.n_pool_pages[3] = 1 << 31, LACUNA_RANGE, &pool);
    let fp8 = lacuna_kv_shape { dtype: lacuna_dtype::LACUNA_E5M2 as u32, ..c_cache };
    let message = "dtype of a cache of pages: e5m2 is not one of bf16, f16".to_owned();
    let found = plan(new, free, &c_shape(&fp8, 2)).map(drop);
    assert_eq!(found, Err((LACUNA_DTYPE, message)));
}

#[test]
fn pages_are_made_and_read_as_in_rust() {
    let (cache, queue, rust) = (cache(), queue(), rust_queue());
    let c_cache = cache.c_shape();
    let (new, free) = (lacuna_pages_plan_new, lacuna_pages_plan_free);
    let of_c = plan(new, free, &c_shape(&c_cache, 2)).unwrap();
    let sizes: lacuna_pages_sizes = sizes(lacuna_pages_plan_sizes, &of_c);
    let of_rust = PagesPlan::new(rust_shape(&cache, 2)).unwrap();
    let (indices, counts, channels) = (indices(), [100_u32, 128], channels(sizes.key_scales));
    let [key_scales, key_offsets, value_scales, value_offsets] = &channels;
    let by_tag = [Tier::T16, Tier::T8, Tier::T4, Tier::T2].map(|tier| of_rust.pool_bytes(tier));
    assert_eq!(sizes.pools, by_tag);
    assert_eq!([sizes.indices, sizes.counts, sizes.key_entries, sizes.status], [256, 2, 4, 1]);

    // Rows as pages.
    let mut found = (pools(sizes.pools), [0_u64; 1]);
    let mut expected = found.clone();
    let args = lacuna_quantize_pages_args {
        cache: cache.c_view(),
        indices: view(&indices),
        counts: view(&counts),
        key_entries: view(&KEY_ENTRIES),
        value_entries: view(&VALUE_ENTRIES),
        key_scales: view(key_scales),
        key_offsets: view(key_offsets),
        value_scales: view(value_scales),
        value_offsets: view(value_offsets),
        pools: found.0.each_mut().map(|pool| view_mut(pool)),
        status: view_mut(&mut found.1),
        ..lacuna_quantize_pages_args::zeroed()
    };
    check_refusals(lacuna_quantize_pages, &queue, &of_c, &args);
    let mut wrong = args;
    wrong.pools[1].len -= 1;
    let message = format!("pool of pages: expected {}, got {}", by_tag[1], by_tag[1] - 1);
    let answer_of_pool = launch(lacuna_quantize_pages, &queue, &of_c, &wrong);
    assert_eq!(answer_of_pool, Err((LACUNA_SHAPE, message)));
    let mut wrong = args;
    wrong.pools[2].dtype = lacuna_dtype::LACUNA_I8 as u32;
    let message = "dtype of pools[2]: i8 is not one of u8".to_owned();
    let answer_of_pool = launch(lacuna_quantize_pages, &queue, &of_c, &wrong);
    assert_eq!(answer_of_pool, Err((LACUNA_DTYPE, message)));
    let minimums = lacuna_pages_shape { tail: 1, ..c_shape(&c_cache, 2) };
    let minimums = plan(new, free, &minimums).unwrap();
    let message = "bytes of a page after its codes: 512 is outside 256, those of zero points";
    let answer_of_tail = launch(lacuna_quantize_pages, &queue, &minimums, &args);
    assert_eq!(answer_of_tail, Err((LACUNA_RANGE, message.to_owned())));
    assert_eq!(found, expected);
    launch(lacuna_quantize_pages, &queue, &of_c, &args).unwrap();

    let lists = PageLists {
        indices: read(&rust, &indices),
        counts: Some(read(&rust, &counts)),
        key_entries: read(&rust, &KEY_ENTRIES),
        value_entries: read(&rust, &VALUE_ENTRIES),
        key_channels: views(&rust, [key_scales, key_offsets]),
        value_channels: views(&rust, [value_scales, value_offsets]),
    };
    let mut targets = written_pools(&rust, &mut expected.0, &mut expected.1);
    let source = cache.view(&rust);
    lacuna::quant::quantize_pages(&rust, &of_rust, &source, &lists, &mut targets).unwrap();
    assert_eq!(found, expected);
    assert!(found.0.iter().all(|pool| pool.iter().any(|byte| *byte != 0x77)));

    // What the status says: the last entry of values.
    let mut entry = 77;
    // SAFETY: a variable of this program's.
    let status = answer(unsafe { lacuna_pages_check_status(found.1[0], &raw mut entry) });
    let message = "value_entries: entry 3 is of a page that its pool does not have".to_owned();
    assert_eq!((status, entry), (Err((LACUNA_RANGE, message)), 3));
    // SAFETY: none is asked for.
    answer(unsafe { lacuna_pages_check_status(0, std::ptr::null_mut()) }).unwrap();

    // And back, to a cache of nothing.
    let empty = Cache::of(1, 2, 32, 16, 5, || bf16::ZERO);
    let (mut target, mut of_rust_target, mut status) = (empty.clone(), empty.clone(), [0_u64; 1]);
    let args = lacuna_dequantize_pages_args {
        pools: found.0.each_ref().map(|pool| view(pool)),
        status: view_mut(&mut status),
        indices: args.indices,
        counts: args.counts,
        key_entries: args.key_entries,
        value_entries: args.value_entries,
        key_scales: args.key_scales,
        key_offsets: args.key_offsets,
        value_scales: args.value_scales,
        value_offsets: args.value_offsets,
        cache: target.c_view_mut(),
        ..lacuna_dequantize_pages_args::zeroed()
    };
    check_refusals(lacuna_dequantize_pages, &queue, &of_c, &args);
    let mut wrong = args;
    wrong.key_offsets.len = 1;
    let (status_of, message) = launch(lacuna_dequantize_pages, &queue, &of_c, &wrong).unwrap_err();
    assert_eq!(status_of, LACUNA_SHAPE);
    assert_eq!(message, format!("offsets of channels: expected {}, got 1", sizes.key_offsets));
    assert_eq!(target, empty);
    launch(lacuna_dequantize_pages, &queue, &of_c, &args).unwrap();
    let mut of_rust_status = [0_u64; 1];
    let mut sources = TierPools {
        pools: expected.0.each_ref().map(|pool| Some(read(&rust, pool))),
        status: Some(written(&rust, &mut of_rust_status)),
    };
    let cache_of_rust = &mut of_rust_target.view_mut(&rust);
    lacuna::quant::dequantize_pages(&rust, &of_rust, &mut sources, &lists, cache_of_rust).unwrap();
    assert_eq!(target, of_rust_target);
    assert_ne!(target, empty);
    assert_eq!(status, found.1);
}

#[test]
fn tokens_go_to_new_pages_as_in_rust() {
    let (cache, queue, rust) = (cache(), queue(), rust_queue());
    let c_cache = cache.c_shape();
    let pages = c_shape(&c_cache, 1);
    let shape = lacuna_retier_pages_shape {
        pages: &raw const pages,
        n_runs: 2,
        n_old_pages: 2,
        n_new_pages: 3,
        n_positions: 70,
        ..lacuna_retier_pages_shape::zeroed()
    };
    let (new, free) = (lacuna_retier_pages_plan_new, lacuna_retier_pages_plan_free);
    check_plan_refusals(new, free, &shape);
    let wrong = lacuna_retier_pages_shape { n_runs: 17, ..shape };
    let message = "runs of a list: 17 is outside 1..=16".to_owned();
    assert_eq!(plan(new, free, &wrong).map(drop), Err((LACUNA_RANGE, message)));
    let of_c = plan(new, free, &shape).unwrap();
    let sizes: lacuna_retier_pages_sizes = sizes(lacuna_retier_pages_plan_sizes, &of_c);
    let of_rust = RetierPlan::new(RetierShape {
        n_runs: 2,
        n_old_pages: 2,
        n_new_pages: 3,
        n_positions: 70,
        ..RetierShape::of(rust_shape(&cache, 1))
    })
    .unwrap();
    let lens = [sizes.slot_of, sizes.old_key_entries, sizes.indices, sizes.counts];
    assert_eq!(lens, [140, 4, 256, 4]);
    assert_eq!([sizes.first_pages, sizes.key_entries, sizes.key_scales], [4, 6, 64]);

    // Tokens of some pages, and some that wait.
    let slot_of: Vec<i32> = (0..140).map(|i| if i % 5 == 0 { -1 } else { i % 70 }).collect();
    let new_keys = [
        entry(Tier::T2, 1),
        entry(Tier::T4, 1),
        entry(Tier::T16, 0),
        entry(Tier::T2, 2),
        entry(Tier::T4, 2),
        entry(Tier::T8, 0),
    ];
    let new_values = [
        entry(Tier::T2, 3),
        entry(Tier::T8, 1),
        entry(Tier::T2, LACUNA_NO_PAGE),
        entry(Tier::T4, LACUNA_NO_PAGE),
        entry(Tier::T4, 9),
        entry(Tier::T16, LACUNA_NO_PAGE),
    ];
    // Each token of a head once.
    let position = |i: i32| if i % 11 == 10 || i >= 70 { -1 } else { i * 3 % 70 };
    let indices: Vec<i32> = (0..256).map(|i| position(i % 128)).collect();
    let (counts, first_pages) = ([64_u32, 30, 64, 64], [1_u32, 0, 0, 2]);
    let channels = channels(64);
    let [key_scales, key_offsets, value_scales, value_offsets] = &channels;
    let mut random = Random(22);
    let mut before = pools(sizes.pools);
    for pool in &mut before {
        // Finite steps, whatever the codes.
        pool.iter_mut().for_each(|byte| *byte = (random.next() as u8) & 0x3F);
    }
    for has_cache in [true, false] {
        let mut found = (before.clone(), vec![-7_i32; 140], [0_u64; 1]);
        let mut expected = found.clone();
        let mut args = lacuna_retier_pages_args {
            slot_of: view(&slot_of),
            old_key_entries: view(&KEY_ENTRIES),
            old_value_entries: view(&VALUE_ENTRIES),
            indices: view(&indices),
            counts: view(&counts),
            first_pages: view(&first_pages),
            key_entries: view(&new_keys),
            value_entries: view(&new_values),
            key_scales: view(key_scales),
            key_offsets: view(key_offsets),
            value_scales: view(value_scales),
            value_offsets: view(value_offsets),
            pools: found.0.each_mut().map(|pool| view_mut(pool)),
            status: view_mut(&mut found.2),
            new_slots: view_mut(&mut found.1),
            ..lacuna_retier_pages_args::zeroed()
        };
        if has_cache {
            args.cache = cache.c_view();
        }
        check_refusals(lacuna_retier_pages, &queue, &of_c, &args);
        let mut wrong = args;
        wrong.new_slots.len = 139;
        let message = "new_slots: expected 140, got 139".to_owned();
        let answer = launch(lacuna_retier_pages, &queue, &of_c, &wrong);
        assert_eq!(answer, Err((LACUNA_SHAPE, message)));
        assert_eq!(found, expected);
        launch(lacuna_retier_pages, &queue, &of_c, &args).unwrap();

        let inputs = RetierInputs {
            cache: has_cache.then(|| cache.view(&rust)),
            slot_of: read(&rust, &slot_of),
            old_key_entries: read(&rust, &KEY_ENTRIES),
            old_value_entries: read(&rust, &VALUE_ENTRIES),
            indices: read(&rust, &indices),
            counts: Some(read(&rust, &counts)),
            first_pages: Some(read(&rust, &first_pages)),
            key_entries: read(&rust, &new_keys),
            value_entries: read(&rust, &new_values),
            key_channels: views(&rust, [key_scales, key_offsets]),
            value_channels: views(&rust, [value_scales, value_offsets]),
        };
        let (pools, slots, status) = &mut expected;
        let pools = written_pools(&rust, pools, status);
        let mut outputs = RetierOutputs { pools, new_slots: written(&rust, slots) };
        lacuna::quant::retier_pages(&rust, &of_rust, &inputs, &mut outputs).unwrap();
        assert_eq!(found, expected);
        assert_ne!(found.0, before);
        assert_ne!(found.2, [0]);
    }
}

#[test]
fn elements_are_where_rust_says() {
    for (head_dim, part, tail) in
        [(64, (0, Part::Keys), (0, Tail::ZeroPoints)), (32, (1, Part::Values), (1, Tail::Minimums))]
    {
        let shape = lacuna_page_shape { head_dim, part: part.0, tail: tail.0, ..Struct::zeroed() };
        let page = PageShape::new(head_dim, part.1).unwrap().with_tail(tail.1);
        for tier in Tier::ALL {
            let mut sizes = lacuna_page_sizes::zeroed();
            // SAFETY: structs of this program's.
            let status =
                unsafe { lacuna_page_shape_sizes(&raw const shape, tier.tag(), &raw mut sizes) };
            answer(status).unwrap();
            let found = [sizes.page_bytes, sizes.code_bytes].map(|n| n as usize);
            assert_eq!(found, [page.page_bytes(tier), page.code_bytes(tier)]);
            for (token, channel) in [(0, 0), (1, 2), (63, head_dim as usize - 1)] {
                let mut place = lacuna_page_place::zeroed();
                let (t, c) = (token as u64, channel as u64);
                // SAFETY: as above.
                let status = unsafe {
                    lacuna_page_shape_place(&raw const shape, tier.tag(), t, c, &raw mut place)
                };
                answer(status).unwrap();
                let expected = page.place(tier, token, channel);
                assert_eq!(
                    (place.byte as usize, place.shift as u32),
                    (expected.byte, expected.shift)
                );
                let of_token = match tier.is_coded() {
                    true => [page.scale_byte(tier, token), page.zero_byte(tier, token)],
                    false => [page.page_bytes(tier); 2],
                };
                assert_eq!([place.scale_byte, place.zero_byte].map(|n| n as usize), of_token);
            }
        }
    }
    let check = |shape: lacuna_page_shape, tier, token, channel, message: &str| {
        let mut place = lacuna_page_place::zeroed();
        // SAFETY: as above.
        let status = unsafe {
            lacuna_page_shape_place(&raw const shape, tier, token, channel, &raw mut place)
        };
        assert_eq!(answer(status), Err((LACUNA_RANGE, message.to_owned())));
    };
    let shape = lacuna_page_shape { head_dim: 64, ..Struct::zeroed() };
    check(shape, 4, 0, 0, "tier: 4 is no lacuna_tier");
    check(shape, 0, 64, 0, "token of a page: 64 is outside 0..64");
    check(shape, 0, 0, 64, "channel of a page: 64 is outside the head's elements");
    check(lacuna_page_shape { part: 2, ..shape }, 0, 0, 0, "part: 2 is no lacuna_part");
    let odd = lacuna_page_shape { head_dim: 33, ..shape };
    check(odd, 0, 0, 0, "elements of a head: 33 is outside the multiples of 32 up to 256");
}
