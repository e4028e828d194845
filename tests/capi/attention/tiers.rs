//! What moves between tiers: `tier_resolve`, `copy_pages`, `copy_pages_within`.

use lacuna::attention::reference::checksum;
use lacuna::attention::{
    CopyInputs, CopyOutputs, CopyPlan, PartedSlots, PoolShape, Pools, PoolsLayout, TierInputs,
    TierOutputs, TierPlan, TierShape, TierState,
};
use lacuna::capi::lacuna_status::*;
use lacuna::capi::*;

use crate::c::{
    Aligned, Handle, Refused, Struct, answer, check_plan_refusals, check_refusals,
    check_wrong_views, launch, made, plan, queue, read, rust_queue, sizes, structs, view, view_mut,
    written,
};
use crate::common::Random;

structs! {
    lacuna_tier_resolve_shape, lacuna_tier_resolve_sizes, lacuna_tier_resolve_args,
    lacuna_pool_shape, lacuna_pools_shape, lacuna_copy_pages_shape, lacuna_copy_pages_sizes,
    lacuna_copy_pages_args,
}

/// What a launch that resolves keeps and writes: poison, but for the state.
#[derive(Debug, Clone, PartialEq)]
struct Tier {
    slot_of: Vec<i32>,
    logical_of: Vec<i32>,
    referenced: Vec<u32>,
    hands: Vec<u32>,
    slots: Vec<i32>,
    misses: Aligned<i32>,
    miss_counts: Vec<u32>,
    parts: [Vec<i32>; 2],
    part_counts: [Vec<u32>; 2],
    overflows: Vec<u32>,
}

impl Tier {
    fn new(sizes: &lacuna_tier_resolve_sizes) -> Self {
        let poison = |n: u64| vec![-77_i32; n as usize];
        let counts = |n: u64| vec![77_u32; n as usize];
        Self {
            slot_of: vec![-1; sizes.slot_of as usize],
            logical_of: vec![-1; sizes.logical_of as usize],
            referenced: vec![0; sizes.referenced as usize],
            hands: vec![0; sizes.hands as usize],
            slots: poison(sizes.slots),
            misses: Aligned::new(poison(sizes.misses)),
            miss_counts: counts(sizes.miss_counts),
            parts: [poison(sizes.hits), poison(sizes.fetched)],
            part_counts: [counts(sizes.hit_counts), counts(sizes.fetched_counts)],
            overflows: counts(sizes.overflows),
        }
    }

    fn c_args(&mut self, indices: &[i32]) -> lacuna_tier_resolve_args {
        let [hits, fetched] = &mut self.parts;
        let [hit_counts, fetched_counts] = &mut self.part_counts;
        lacuna_tier_resolve_args {
            indices: view(indices),
            slot_of: view_mut(&mut self.slot_of),
            logical_of: view_mut(&mut self.logical_of),
            referenced: view_mut(&mut self.referenced),
            hands: view_mut(&mut self.hands),
            slots: view_mut(&mut self.slots),
            misses: view_mut(&mut self.misses),
            miss_counts: view_mut(&mut self.miss_counts),
            hits: view_mut(hits),
            hit_counts: view_mut(hit_counts),
            fetched: view_mut(fetched),
            fetched_counts: view_mut(fetched_counts),
            overflows: view_mut(&mut self.overflows),
            ..lacuna_tier_resolve_args::zeroed()
        }
    }

    fn run(&mut self, plan: &TierPlan, inputs: &TierInputs<'_>) {
        let queue = rust_queue();
        let mut state = TierState {
            slot_of: written(&queue, &mut self.slot_of),
            logical_of: written(&queue, &mut self.logical_of),
            referenced: written(&queue, &mut self.referenced),
            hands: written(&queue, &mut self.hands),
        };
        let [hits, fetched] = &mut self.parts;
        let [hit_counts, fetched_counts] = &mut self.part_counts;
        let mut outputs = TierOutputs {
            slots: written(&queue, &mut self.slots),
            misses: written(&queue, &mut self.misses),
            miss_counts: written(&queue, &mut self.miss_counts),
            parts: Some(PartedSlots {
                hits: written(&queue, hits),
                hit_counts: written(&queue, hit_counts),
                fetched: written(&queue, fetched),
                fetched_counts: written(&queue, fetched_counts),
            }),
            overflows: Some(written(&queue, &mut self.overflows)),
        };
        lacuna::attention::tier_resolve(&queue, plan, inputs, &mut state, &mut outputs).unwrap();
    }
}

#[test]
fn tier_resolve_resolves_as_rust_does() {
    let (queue, rust) = (queue(), rust_queue());
    let shape = lacuna_tier_resolve_shape {
        batch: 2,
        lists_per_request: 2,
        n: 5,
        n_logical: 9,
        n_slots: 4,
        n_source_pages: 36,
        ..lacuna_tier_resolve_shape::zeroed()
    };
    let (new, free) = (lacuna_tier_resolve_plan_new, lacuna_tier_resolve_plan_free);
    check_plan_refusals(new, free, &shape);
    let wrong = lacuna_tier_resolve_shape { n_slots: 0, ..shape };
    let message = "slots of a list: 0 is outside 1..=32768".to_owned();
    assert_eq!(plan(new, free, &wrong).map(drop), Err((LACUNA_RANGE, message)));
    let plan = plan(new, free, &shape).unwrap();
    let sizes: lacuna_tier_resolve_sizes = sizes(lacuna_tier_resolve_plan_sizes, &plan);
    assert_eq!([sizes.indices, sizes.counts, sizes.source_table], [20, 4, 18]);
    assert_eq!([sizes.slot_of, sizes.logical_of, sizes.referenced, sizes.hands], [36, 16, 4, 4]);
    assert_eq!([sizes.slots, sizes.misses, sizes.miss_counts, sizes.overflows], [20, 40, 4, 4]);

    let shape = TierShape {
        batch: 2,
        lists_per_request: 2,
        n: 5,
        n_logical: 9,
        n_slots: 4,
        n_source_pages: 36,
    };
    let of_rust = TierPlan::new(shape).unwrap();
    let mut found = Tier::new(&sizes);
    let mut expected = found.clone();
    let counts = [5_u32, 4, 5, 5];
    let source_table: Vec<i32> = (0..18).map(|i| (i * 5) % 18).collect();
    let mut random = Random(7);
    for step in 0..3 {
        let indices: Vec<i32> = (0..20).map(|_| random.next() as i32 % 10 - 1).collect();
        let mut args = found.c_args(&indices);
        (args.counts, args.source_table) = (view(&counts), view(&source_table));
        if step == 0 {
            check_refusals(lacuna_tier_resolve, &queue, &plan, &args);
            let refused = |args: &lacuna_tier_resolve_args| {
                launch(lacuna_tier_resolve, &queue, &plan, args).unwrap_err()
            };
            // Of the parts there are all or none.
            let wrong = lacuna_tier_resolve_args {
                fetched: lacuna_tier_resolve_args::zeroed().fetched,
                ..args
            };
            let message = "dtype of fetched: none is not one of i32".to_owned();
            assert_eq!(refused(&wrong), (LACUNA_DTYPE, message));
            let mut wrong = args;
            wrong.slots.len = 19;
            let message = "slots: expected 20, got 19".to_owned();
            assert_eq!(refused(&wrong), (LACUNA_SHAPE, message));
            assert_eq!(found, expected);
        }
        launch(lacuna_tier_resolve, &queue, &plan, &args).unwrap();
        let inputs = TierInputs {
            indices: read(&rust, &indices),
            counts: Some(read(&rust, &counts)),
            source_table: Some(read(&rust, &source_table)),
        };
        expected.run(&of_rust, &inputs);
        assert_eq!(found, expected);
    }
    assert!(found.part_counts.iter().all(|counts| counts.iter().any(|n| *n > 0)));
    // Without parts and overflows.
    let indices = [0_i32; 20];
    let none = lacuna_tier_resolve_args::zeroed();
    let args = lacuna_tier_resolve_args {
        hits: none.hits,
        hit_counts: none.hit_counts,
        fetched: none.fetched,
        fetched_counts: none.fetched_counts,
        overflows: none.overflows,
        ..found.c_args(&indices)
    };
    let parts = found.parts.clone();
    launch(lacuna_tier_resolve, &queue, &plan, &args).unwrap();
    assert_eq!(found.parts, parts);
    assert_ne!(found.slots, expected.slots);
}

/// Two pools of pages of 32 bytes, and of 20 that are 24 apart.
fn pool_shapes() -> [lacuna_pool_shape; 2] {
    let shape = lacuna_pool_shape { page_bytes: 32, ..lacuna_pool_shape::zeroed() };
    [shape, lacuna_pool_shape { page_bytes: 20, stride_bytes: 24, ..shape }]
}

fn pools_shape(pools: &[lacuna_pool_shape], n_pages: u64, is_packed: u32) -> lacuna_pools_shape {
    lacuna_pools_shape {
        pools: pools.as_ptr(),
        n_pools: pools.len() as u64,
        n_pages,
        is_packed,
        ..lacuna_pools_shape::zeroed()
    }
}

fn lens(shape: &lacuna_pools_shape) -> Result<Vec<u64>, Refused> {
    let (mut lens, mut n_views) = ([77_u64; 4], 0);
    // SAFETY: structs, an array and a variable of this program's.
    answer(unsafe { lacuna_pools_shape_lens(shape, lens.as_mut_ptr(), 4, &raw mut n_views) })?;
    assert_eq!(lens[n_views as usize], 77);
    // SAFETY: of an array that no memory has nothing is written.
    let found = answer(unsafe {
        lacuna_pools_shape_lens(shape, lens.as_mut_ptr(), u64::MAX, &raw mut n_views)
    });
    assert_eq!(found.unwrap_err().0, LACUNA_RANGE);
    // How many there are, without an array.
    // SAFETY: as above.
    unsafe { answer(lacuna_pools_shape_lens(shape, std::ptr::null_mut(), 0, &raw mut n_views)) }?;
    Ok(lens[..n_views as usize].to_vec())
}

fn borrow(
    queue: &Handle<lacuna_queue>,
    shape: &lacuna_pools_shape,
    memory: &mut [Aligned<u8>],
) -> Result<Handle<lacuna_pools>, Refused> {
    let views: Vec<_> = memory.iter_mut().map(|pool| view_mut(pool)).collect();
    let (data, n) = (views.as_ptr(), views.len() as u64);
    // SAFETY: a handle of the library's, structs, memory and a variable of this program's.
    made(lacuna_pools_free, |address| unsafe {
        lacuna_pools_borrow(queue.address, shape, data, n, address)
    })
}

fn copy(
    queue: &Handle<lacuna_queue>,
    plan: &Handle<lacuna_copy_pages_plan>,
    [sources, targets]: [*mut lacuna_pools; 2],
    args: &lacuna_copy_pages_args,
) -> Result<(), Refused> {
    // SAFETY: handles of the library's, a struct and memory of this program's.
    answer(unsafe { lacuna_copy_pages(queue.address, plan.address, sources, targets, args) })
}

#[test]
fn copy_pages_copies_as_rust_does() {
    let mut random = Random(8);
    let (queue, rust) = (queue(), rust_queue());
    let shapes = pool_shapes();
    let (of_pools, of_buffer) = (pools_shape(&shapes, 4, 0), pools_shape(&shapes, 3, 1));
    assert_eq!(lens(&of_pools).unwrap(), [128, 92]);
    assert_eq!(lens(&of_buffer).unwrap(), [156]);
    let bytes = |n: usize, random: &mut Random| Aligned::new((0..n).map(|_| random.next() as u8));
    let mut sources = [bytes(128, &mut random), bytes(92, &mut random)];
    let before = sources.clone();
    let mut packed = [Aligned::<u8>::zeros(156)];
    let shape = lacuna_copy_pages_shape {
        sources: &raw const of_pools,
        targets: &raw const of_buffer,
        n_lists: 1,
        n_pairs: 4,
        most_blocks: 1,
        ..lacuna_copy_pages_shape::zeroed()
    };
    let (new, free) = (lacuna_copy_pages_plan_new, lacuna_copy_pages_plan_free);
    check_plan_refusals(new, free, &shape);
    let pack = plan(new, free, &shape).unwrap();
    let sizes: lacuna_copy_pages_sizes = sizes(lacuna_copy_pages_plan_sizes, &pack);
    assert_eq!([sizes.pairs, sizes.counts, sizes.expected, sizes.checksums], [8, 1, 4, 4]);
    assert_eq!([sizes.status, sizes.workspace], [1, 8]);
    let unpack = lacuna_copy_pages_shape {
        sources: &raw const of_buffer,
        targets: &raw const of_pools,
        ..shape
    };
    let unpack = plan(new, free, &unpack).unwrap();

    let pairs = [2_i32, 0, 0, 2, 3, 1, -1, 0];
    let mut checksums = [77_u64; 4];
    let mut workspace = vec![0_u64; 8];
    let args = lacuna_copy_pages_args {
        pairs: view(&pairs),
        checksums: view_mut(&mut checksums),
        workspace: view_mut(&mut workspace),
        ..lacuna_copy_pages_args::zeroed()
    };
    {
        let from = borrow(&queue, &of_pools, &mut sources).unwrap();
        let to = borrow(&queue, &of_buffer, &mut packed).unwrap();
        let of = |q, plan, args| {
            // SAFETY: handles of the library's or null, as `check_refusals` has them.
            unsafe { lacuna_copy_pages(q, plan, from.address, to.address, args) }
        };
        // The tables are the same for every call; what is refused is the rest.
        let none = std::ptr::null();
        let null = |what: &str| Err((LACUNA_NULL, format!("{what} is a null pointer")));
        assert_eq!(answer(of(none, pack.address, &args)), null("queue"));
        assert_eq!(answer(of(queue.address, std::ptr::null_mut(), &args)), null("plan"));
        let (from, to, missing) = (from.address, to.address, std::ptr::null_mut());
        assert_eq!(copy(&queue, &pack, [missing, to], &args), null("sources"));
        assert_eq!(copy(&queue, &pack, [from, missing], &args), null("targets"));
        let message = "targets are the sources: call lacuna_copy_pages_within".to_owned();
        assert_eq!(copy(&queue, &pack, [from, from], &args), Err((LACUNA_RANGE, message)));
        let wrong = copy(&queue, &unpack, [from, to], &args).unwrap_err();
        assert_eq!(wrong.0, LACUNA_SHAPE);
        check_wrong_views(&args, |args| copy(&queue, &pack, [from, to], args));
        let mut short = args;
        short.workspace.len = 7;
        let message = "workspace: expected 8, got 7".to_owned();
        assert_eq!(copy(&queue, &pack, [from, to], &short), Err((LACUNA_SHAPE, message)));
        assert_eq!(checksums, [77; 4]);
        copy(&queue, &pack, [from, to], &args).unwrap();
    }
    // By Rust, of the same memory.
    let shapes = vec![
        PoolShape { page_len: 32, page_stride: 32 },
        PoolShape { page_len: 20, page_stride: 24 },
    ];
    let layout = PoolsLayout::new(4, 1, shapes).unwrap();
    let target = layout.packed(3).unwrap();
    let of_rust = CopyPlan::new(1, 4, &layout, &target).unwrap();
    let mut again = [Aligned::<u8>::zeros(156)];
    let mut expected = [77_u64; 4];
    {
        let views = sources.iter_mut().map(|pool| written(&rust, pool)).collect();
        let from = Pools::borrow(&rust, layout, views).unwrap();
        let mut to = Pools::borrow(&rust, target, vec![written(&rust, &mut again[0])]).unwrap();
        let inputs = CopyInputs { pairs: read(&rust, &pairs), counts: None };
        let mut words = [0_u64; 8];
        let mut outputs = CopyOutputs {
            checksums: Some(written(&rust, &mut expected)),
            check: None,
            workspace: Some(written(&rust, &mut words)),
        };
        lacuna::attention::copy_pages(&rust, &of_rust, &from, &mut to, &inputs, &mut outputs)
            .unwrap();
    }
    assert_eq!((&packed, checksums), (&again, expected));
    assert_eq!(packed[0][..32], before[0][64..96]);
    let words = packed[0][..52].chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
    assert_eq!(checksums[0], checksum(words));

    // Back into the pools, and one page is not what was sent.
    let back = [0_i32, 3, 2, 1, 1, 0, -1, 0];
    let sums = [checksums[0], checksums[1], checksums[2] ^ 1, 0];
    let mut status = [0_u64];
    {
        let from = borrow(&queue, &of_buffer, &mut packed).unwrap();
        let to = borrow(&queue, &of_pools, &mut sources).unwrap();
        let args = lacuna_copy_pages_args {
            pairs: view(&back),
            expected: view(&sums),
            status: view_mut(&mut status),
            workspace: view_mut(&mut workspace),
            ..lacuna_copy_pages_args::zeroed()
        };
        let none = lacuna_copy_pages_args::zeroed();
        let wrong = lacuna_copy_pages_args { status: none.status, ..args };
        let message = "dtype of status: none is not one of u64".to_owned();
        assert_eq!(
            copy(&queue, &unpack, [from.address, to.address], &wrong),
            Err((LACUNA_DTYPE, message))
        );
        let wrong = lacuna_copy_pages_args { expected: none.expected, ..args };
        let message = "dtype of expected: none is not one of u64".to_owned();
        assert_eq!(
            copy(&queue, &unpack, [from.address, to.address], &wrong),
            Err((LACUNA_DTYPE, message))
        );
        copy(&queue, &unpack, [from.address, to.address], &args).unwrap();
    }
    assert_eq!(sources[0][96..128], before[0][64..96]);
    assert_eq!(sources[1][0..20], before[1][72..92]);
    let message = "pair 2 is the first whose page has not the expected checksum".to_owned();
    let found = answer(lacuna_copy_pages_check_status(status[0]));
    assert_eq!(found, Err((LACUNA_CORRUPT, message)));
    answer(lacuna_copy_pages_check_status(0)).unwrap();
}

#[test]
fn copy_pages_within_copies_pages_of_its_own() {
    let mut random = Random(9);
    let queue = queue();
    let shapes = pool_shapes();
    let shape = pools_shape(&shapes, 4, 0);
    let mut pools = [128, 92].map(|n| Aligned::new((0..n).map(|_| random.next() as u8)));
    let mut expected = pools.clone();
    let of_copy = lacuna_copy_pages_shape {
        sources: &raw const shape,
        n_lists: 2,
        n_pairs: 2,
        ..lacuna_copy_pages_shape::zeroed()
    };
    let plan = plan(lacuna_copy_pages_plan_new, lacuna_copy_pages_plan_free, &of_copy).unwrap();
    let (pairs, counts) = ([0_i32, 3, 1, 0, 1, 2, 2, 1], [1_u32, 1]);
    let args = lacuna_copy_pages_args {
        pairs: view(&pairs),
        counts: view(&counts),
        ..lacuna_copy_pages_args::zeroed()
    };
    {
        let handle = borrow(&queue, &shape, &mut pools).unwrap();
        // SAFETY: handles of the library's or null, a struct and memory of this program's.
        unsafe {
            let (queue, plan) = (queue.address, plan.address);
            let none = std::ptr::null_mut();
            let found = answer(lacuna_copy_pages_within(queue, plan, none, &raw const args));
            assert_eq!(found, Err((LACUNA_NULL, "pools is a null pointer".to_owned())));
            let found = lacuna_copy_pages_within(queue, plan, handle.address, std::ptr::null());
            let message = "lacuna_copy_pages_args is a null pointer".to_owned();
            assert_eq!(answer(found), Err((LACUNA_NULL, message)));
            let mut wrong = args;
            wrong.pairs.dtype = lacuna_dtype::LACUNA_U32 as u32;
            let found =
                answer(lacuna_copy_pages_within(queue, plan, handle.address, &raw const wrong));
            let message = "dtype of pairs: u32 is not one of i32".to_owned();
            assert_eq!(found, Err((LACUNA_DTYPE, message)));
            answer(lacuna_copy_pages_within(queue, plan, handle.address, &raw const args)).unwrap();
        }
    }
    expected[0].copy_within(0..32, 96);
    expected[0].copy_within(32..64, 64);
    expected[1].copy_within(0..20, 72);
    expected[1].copy_within(24..44, 48);
    assert_eq!(pools, expected);
}

#[test]
fn pools_refuse_what_is_none() {
    let queue = queue();
    let shapes = pool_shapes();
    let shape = pools_shape(&shapes, 4, 0);
    let mut memory = [Aligned::<u8>::zeros(128), Aligned::<u8>::zeros(92)];
    let message = "buffers of pools: expected 2, got 1".to_owned();
    let refused = borrow(&queue, &shape, &mut memory[..1]).map(drop);
    assert_eq!(refused, Err((LACUNA_SHAPE, message)));
    let mut short = [Aligned::<u8>::zeros(128), Aligned::<u8>::zeros(91)];
    let message = "pool: expected 92, got 91".to_owned();
    let refused = borrow(&queue, &shape, &mut short).map(drop);
    assert_eq!(refused, Err((LACUNA_SHAPE, message)));
    let message = "is_packed: 2 is no truth: 0 or 1".to_owned();
    assert_eq!(lens(&pools_shape(&shapes, 4, 2)), Err((LACUNA_RANGE, message)));
    let message = "pools: 0 is outside 1..=65535".to_owned();
    assert_eq!(lens(&pools_shape(&[], 4, 0)), Err((LACUNA_RANGE, message)));
    let mut wrong = shapes;
    wrong[1].page_bytes = 30;
    let message = "bytes of a page: 30 is outside the multiples of 4 above 0".to_owned();
    assert_eq!(lens(&pools_shape(&wrong, 4, 0)), Err((LACUNA_RANGE, message)));
    // Pools of other pages.
    let others = pools_shape(&wrong[..1], 4, 0);
    let of_copy = lacuna_copy_pages_shape {
        sources: &raw const shape,
        targets: &raw const others,
        ..lacuna_copy_pages_shape::zeroed()
    };
    let message = "pools of targets: expected 2, got 1".to_owned();
    let (new, free) = (lacuna_copy_pages_plan_new, lacuna_copy_pages_plan_free);
    assert_eq!(plan(new, free, &of_copy).map(drop), Err((LACUNA_SHAPE, message)));
}
