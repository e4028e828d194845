//! `copy_pages`.

mod problem;

use half::bf16;
use lacuna::attention::reference::{self, checksum};
use lacuna::attention::{
    CopyInputs, CopyOutputs, CopyPlan, PoolShape, Pools, PoolsLayout, copy_pages, copy_pages_within,
};
use lacuna::simt::{Checks, Config, Fibres};
use lacuna::{Buffer, Error, Queue};
use proptest::prelude::*;

use self::problem::{Problem, Side};
use crate::common;

#[track_caller]
fn assert_same(problem: &Problem) {
    let expected = problem.expect();
    for queue in common::queues() {
        let found = problem.run(&queue, &expected.checksums).unwrap();
        assert!(found == expected, "{}: {problem:?}", queue.executor());
    }
}

proptest! {
    /// Of the checksum alone: changed words, and words that changed places, are always seen.
    #[test]
    fn a_sum_sees_what_it_promises(
        mut words in proptest::collection::vec(any::<u32>(), 2..300), one: prop::sample::Index,
        other: prop::sample::Index, change in 1_u32..,
    ) {
        let sum = checksum(words.iter().copied());
        let [one, other] = [one, other].map(|index| index.index(words.len()));
        let own = words[one];
        words[one] ^= change;
        prop_assert_ne!(checksum(words.iter().copied()), sum);
        words[one] = own;
        words.swap(one, other);
        prop_assert_eq!(checksum(words.iter().copied()) != sum, words[one] != words[other]);
    }

    /// Sectors of zeros, shifts by a word, and differences that cancel out in a line.
    #[test]
    fn a_sum_sees_what_goes_wrong(
        mut words in proptest::collection::vec(1_u32..1 << 30, 32..300), at: prop::sample::Index,
    ) {
        let sum = checksum(words.iter().copied());
        let at = at.index(words.len() - 16);
        let mut zeroed = words.clone();
        zeroed[at..at + 8].fill(0);
        prop_assert_ne!(checksum(zeroed), sum);
        let mut shifted = words.clone();
        shifted.rotate_right(1);
        prop_assert_eq!(checksum(shifted.iter().copied()) == sum, shifted == words);
        words[at] += 1;
        words[at + 1] -= 1;
        words[at + 2] -= 1;
        words[at + 3] += 1;
        prop_assert_ne!(checksum(words), sum);
    }

    #[test]
    fn no_shape_makes_a_plan_panic(
        n_pages: u64, page_len: u64, page_stride: u64, n_lists: u64, n_pairs: u64, element_bytes: u32,
    ) {
        for bits in [0, 32, 40, 56] {
            let [n_pages, page_len, page_stride, n_lists, n_pairs] =
                [n_pages, page_len, page_stride, n_lists, n_pairs].map(|n| n >> bits);
            for element_bytes in [element_bytes, 1, 4] {
                let pools = vec![PoolShape { page_len, page_stride }, PoolShape { page_len: page_len / 2, page_stride }];
                let Ok(layout) = PoolsLayout::new(n_pages, element_bytes, pools) else { continue };
                let _ = (layout.lens(), layout.page_bytes());
                let Ok(packed) = layout.packed(n_pages) else { continue };
                let _ = packed.lens();
                let _ = CopyPlan::new(n_lists, n_pairs, &layout, &packed)
                    .map(|plan| (plan.grid(), plan.workspace_len(), plan.least_bytes(2)));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_pages_give_what_the_reference_gives(
        seed: u64, page_lens in proptest::collection::vec(1_usize..700, 1..4), n_pairs in 0_usize..9,
        gaps in any::<[u8; 2]>(), shifts in any::<[u8; 2]>(), packed in any::<[bool; 2]>(), align in 0_u32..3,
        wild in proptest::collection::vec(any::<(prop::sample::Index, bool, i32)>(), 0..4),
        count in proptest::option::of(0_u32..12),
    ) {
        // Multiples of 1, 2 and 4 words.
        let whole = |n: usize| n.next_multiple_of(1 << align);
        let page_lens: Vec<_> = page_lens.into_iter().map(whole).collect();
        let mut problem = Problem::new(&page_lens, n_pairs, seed);
        for (side, i) in [(&mut problem.source, 0), (&mut problem.target, 1)] {
            side.gap = whole(usize::from(gaps[i] % 7));
            side.shift = whole(usize::from(shifts[i] % 5));
            side.is_packed = packed[i];
        }
        for (at, is_target, number) in wild {
            if n_pairs != 0 && !(0..20).contains(&number) {
                problem.pairs[at.index(n_pairs)][usize::from(is_target)] = number;
            }
        }
        problem.counts = count.map(|count| vec![count]);
        assert_same(&problem);
    }
}

#[test]
fn pages_around_units_teams_and_chunks() {
    for len in [1, 2, 3, 4, 5, 31, 32, 60, 63, 64, 65, 124, 128, 132, 2044, 2047, 2048, 2049, 4100]
    {
        assert_same(&Problem::new(&[len], 3, len as u64));
        assert_same(&Problem::new(&[len, 8, len + 1], 2, len as u64));
    }
    assert_same(&Problem::new(&[8], 0, 1));
    let mut problem = Problem::new(&[64], 40, 9);
    problem.target.shift = 1;
    assert_same(&problem);
}

#[test]
fn few_blocks_copy_the_same() {
    let problem = Problem::new(&[2100, 7, 64], 10, 4);
    for most_blocks in [0, 1, 2, 5, 24, 25] {
        assert_same(&Problem { most_blocks, ..problem.clone() });
    }
    assert_eq!(problem.plan().unwrap().with_blocks(7).grid().blocks, [7, 1, 1]);
}

#[test]
fn what_is_packed_is_unpacked() {
    let page_lens = [96, 96, 33, 160];
    let scattered =
        Problem { source: Side { gap: 7, ..Side::of(5) }, ..Problem::new(&page_lens, 4, 2) };
    let packed = Problem {
        target: Side { is_packed: true, ..Side::of(4) },
        pairs: vec![[4, 0], [0, 1], [3, 2], [1, 3]],
        ..scattered
    };
    assert_same(&packed);
    for queue in common::queues() {
        // Across, and back from there to other places.
        let there = packed.run(&queue, &packed.expect().checksums).unwrap();
        let buffer = queue.upload(&there.targets[0]).unwrap();
        let layout = packed.target.layout(&page_lens).unwrap();
        let from = Pools::new(&queue, layout, vec![buffer]).unwrap();
        let back = Side::of(9);
        let layout = back.layout(&page_lens).unwrap();
        let mut pools: Vec<_> =
            layout.lens().iter().map(|len| queue.alloc::<u32>(*len as usize).unwrap()).collect();
        let views = pools.iter_mut().map(|pool| pool.view_mut()).collect();
        let mut to = Pools::borrow(&queue, layout, views).unwrap();
        let plan = CopyPlan::new(1, 4, from.layout(), to.layout()).unwrap();
        let pairs = queue.upload(&[0, 8, 1, 2, 2, 3, 3, 5]).unwrap();
        let inputs = CopyInputs { pairs: pairs.view(), counts: None };
        copy_pages(&queue, &plan, &from, &mut to, &inputs, &mut CopyOutputs::default()).unwrap();
        let sources = packed.sources();
        for (pool, len) in page_lens.iter().enumerate() {
            let found = queue.download(&to.view(pool).unwrap()).unwrap();
            for (source, target) in [(4, 8), (0, 2), (3, 3), (1, 5)] {
                assert_eq!(found[target * len..][..*len], sources.pools[pool][source]);
            }
        }
    }
}

#[test]
fn the_first_page_that_differs_is_named() {
    let problem = Problem::new(&[40, 700], 6, 3);
    let sums = problem.sums();
    for queue in common::queues() {
        let mut expected = sums.clone();
        expected[4] ^= 1 << 63;
        expected[2] ^= 1;
        let found = problem.run(&queue, &expected).unwrap();
        assert_eq!(found.status, (0xFFFF_FFFF - 2) << 32 | 1);
        // Pages arrive all the same.
        assert_eq!(found.targets, problem.expect().targets);
        // What is passed over is not compared.
        let mut passed = problem.clone();
        passed.pairs[2][0] = -1;
        assert_eq!(passed.run(&queue, &expected).unwrap().status, (0xFFFF_FFFF - 4) << 32 | 1);
    }
    // A page of zeros is not as no page is.
    assert_ne!(checksum([0; 8]), 0);
    assert_eq!(reference::copy_pages(&problem.sources(), &mut problem.targets(), &[[-1, 0]]), [0]);
}

#[test]
fn lists_with_counts_of_their_own() {
    for counts in [[0, 3, 5], [5, 0, u32::MAX], [1, 1, 1]] {
        let problem =
            Problem { n_lists: 3, counts: Some(counts.to_vec()), ..Problem::new(&[24, 9], 15, 4) };
        assert_same(&problem);
    }
}

#[test]
fn wild_numbers_are_passed_over() {
    let mut problem = Problem::new(&[24, 9], 6, 4);
    for (i, number) in [-1, 5, i32::MIN, i32::MAX, 6].into_iter().enumerate() {
        problem.pairs[i][0] = number;
    }
    assert_same(&problem);
    let mut problem = Problem::new(&[24, 9], 6, 4);
    for (i, number) in [-1, 9, i32::MIN, i32::MAX, 10].into_iter().enumerate() {
        problem.pairs[i][1] = number;
    }
    assert_same(&problem);
}

/// Where a target is named twice, its page is of bytes of those that name it, and nothing else is touched.
#[test]
fn a_target_named_twice_has_bytes_of_either() {
    let mut problem = Problem::new(&[40], 4, 3);
    problem.pairs = vec![[0, 1], [1, 1], [2, 1], [3, 0]];
    let expected = problem.expect();
    let sources = problem.sources();
    for queue in common::queues_without_checks() {
        let found = problem.run(&queue, &expected.checksums).unwrap();
        assert_eq!(found.checksums, expected.checksums);
        for (i, word) in found.targets[0].iter().enumerate() {
            let may_be = (0..3).any(|page| sources.pools[0][page][i % 40] == *word);
            let is_twice = (40..80).contains(&i);
            assert!(if is_twice { may_be } else { *word == expected.targets[0][i] });
        }
    }
}

#[test]
fn every_schedule_and_fibre_gives_the_same_bits() {
    let problem = Problem { counts: Some(vec![8]), ..Problem::new(&[2100, 7, 64], 10, 4) };
    let expected = problem.expect();
    for schedule in common::SCHEDULES {
        for fibres in [Fibres::Native, Fibres::Portable] {
            let config =
                Config { schedule, fibres, seed: 5, checks: Checks::ALL, ..Config::default() };
            let found = problem.run(&Queue::simt(config.clone()), &expected.checksums).unwrap();
            assert!(found == expected, "{config:?}");
        }
    }
}

#[test]
fn pages_go_to_pinned_memory_and_back_and_other_types_too() {
    for queue in common::queues() {
        let shape = PoolShape { page_len: 6, page_stride: 6 };
        let layout = PoolsLayout::new(3, 2, vec![shape; 2]).unwrap();
        let own: Vec<bf16> = (0..18_u16).map(|i| bf16::from_bits(i + 1)).collect();
        let device = [queue.upload(&own).unwrap(), queue.upload(&own).unwrap()];
        let mut device = Pools::new(&queue, layout.clone(), device.into()).unwrap();
        let mut hosts =
            [queue.alloc_pinned::<bf16>(18), queue.alloc_pinned::<bf16>(18)].map(Result::unwrap);
        let plan = CopyPlan::new(1, 2, &layout, &layout).unwrap();
        let [there, back] = [[2, 0, 0, 2], [0, 1, 2, 0]].map(|pairs| queue.upload(&pairs).unwrap());
        let copy = |from: &Pools<'_, _>, to: &mut Pools<'_, _>, pairs: &Buffer<i32>| {
            let inputs = CopyInputs { pairs: pairs.view(), counts: None };
            copy_pages(&queue, &plan, from, to, &inputs, &mut CopyOutputs::default()).unwrap();
        };
        let views = hosts.iter_mut().map(|host| host.view_mut()).collect();
        let mut host = Pools::borrow(&queue, layout.clone(), views).unwrap();
        copy(&device, &mut host, &there);
        let slice = queue.pinned_slice(&mut hosts[1]).unwrap();
        assert_eq!(slice[..6], own[12..]);
        assert_eq!(slice[12..], own[..6]);
        slice[0] = bf16::ONE;
        let host = Pools::new(&queue, layout.clone(), hosts.into()).unwrap();
        copy(&host, &mut device, &back);
        let found = queue.download(&device.view(1).unwrap()).unwrap();
        assert_eq!(found[6], bf16::ONE);
        assert_eq!(found[7..12], own[13..]);
        assert_eq!(found[..6], own[..6]);
        assert_eq!(found[12..], own[12..]);
    }
}

#[test]
fn a_sequence_that_forks_takes_its_pages_along() {
    for queue in common::queues() {
        let layout =
            PoolsLayout::new(4, 1, vec![PoolShape { page_len: 8, page_stride: 12 }]).unwrap();
        let words: Vec<u8> = (0..44).collect();
        let mut pool = queue.upload(&words).unwrap();
        let mut pools = Pools::borrow(&queue, layout.clone(), vec![pool.view_mut()]).unwrap();
        let plan = CopyPlan::new(1, 2, &layout, &layout).unwrap();
        let pairs = queue.upload(&[0, 3, 1, 2]).unwrap();
        let inputs = CopyInputs { pairs: pairs.view(), counts: None };
        copy_pages_within(&queue, &plan, &mut pools, &inputs, &mut CopyOutputs::default()).unwrap();
        // An engine goes on writing to pools that are lent.
        queue.upload_into(&[99], &mut pools.view_mut(0).unwrap().slice_mut(0..1).unwrap()).unwrap();
        let mut expected = words.clone();
        expected.copy_within(0..8, 36);
        expected.copy_within(12..20, 24);
        expected[0] = 99;
        assert_eq!(queue.download(&pool.view()).unwrap(), expected);
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let queue = Queue::simt(Config::default());
    let layout = |n_pages, page_len, page_stride| {
        PoolsLayout::new(n_pages, 1, vec![PoolShape { page_len, page_stride }])
    };
    let refused = |result: Result<PoolsLayout, Error>| result.unwrap_err().to_string();
    assert_eq!(
        refused(layout(1, 6, 8)),
        "bytes of a page: 6 is outside the multiples of 4 above 0"
    );
    assert_eq!(
        refused(layout(1, 0, 8)),
        "bytes of a page: 0 is outside the multiples of 4 above 0"
    );
    assert_eq!(
        refused(layout(1, 8, 9)),
        "bytes from page to page: 9 is outside the multiples of 4 above 0"
    );
    assert_eq!(
        refused(layout(1, 8, 4)),
        "stride between pages, in elements: 4 is outside the elements of a page and more"
    );
    assert_eq!(refused(layout(1 << 31, 8, 8)), "pages of a pool: 2147483648 is outside 0..2^31");
    assert_eq!(refused(PoolsLayout::new(1, 4, vec![])), "pools: 0 is outside 1..=65535");

    let [four, five] = [layout(3, 4, 4).unwrap(), layout(3, 8, 8).unwrap()];
    let error = CopyPlan::new(1, 1, &four, &five).unwrap_err();
    assert_eq!(error.to_string(), "elements of a target's page: expected 4, got 8");
    let error = CopyPlan::new(1 << 20, 1 << 20, &four, &four).unwrap_err();
    assert_eq!(error.to_string(), "pairs of all lists: 1099511627776 is outside 0..2^31");

    let mut pools = [queue.alloc::<u8>(12).unwrap(), queue.alloc::<u8>(12).unwrap()];
    let refused = |result: Result<Pools<'_, u8>, Error>| result.unwrap_err().to_string();
    let error = refused(Pools::borrow(&queue, four.clone(), vec![]));
    assert_eq!(error, "buffers of pools: expected 1, got 0");
    let error = refused(Pools::borrow(&queue, five, vec![pools[0].view_mut()]));
    assert_eq!(error, "pool: expected 24, got 12");
    assert_eq!(layout(2, 4, 8).unwrap().lens(), [12]);
    let mut whole = pools[0].view_mut();
    let off = whole.slice_mut(1..9).unwrap();
    let error = refused(Pools::borrow(&queue, layout(2, 4, 4).unwrap(), vec![off]));
    assert!(error.starts_with("address of a pool: "), "{error}");
    let error = Pools::<u32>::new(&queue, four.clone(), vec![]).unwrap_err();
    assert_eq!(error.to_string(), "bytes of an element: expected 1, got 4");

    let [from, mut to] = pools.map(|pool| Pools::new(&queue, four.clone(), vec![pool]).unwrap());
    let error = to.view(1).unwrap_err();
    assert_eq!(error.to_string(), "buffer of pools: 1 is outside those there are");
    let pairs = queue.upload(&[0, 0, 1, 1]).unwrap();
    let inputs = CopyInputs { pairs: pairs.view(), counts: None };
    let plan = CopyPlan::new(1, 2, &four, &four).unwrap();
    let mut copy = |plan: &CopyPlan, outputs: &mut CopyOutputs<'_>| {
        copy_pages(&queue, plan, &from, &mut to, &inputs, outputs).unwrap_err().to_string()
    };
    let mut sums = queue.alloc::<u64>(2).unwrap();
    let mut outputs = CopyOutputs { checksums: Some(sums.view_mut()), ..CopyOutputs::default() };
    assert_eq!(copy(&plan, &mut outputs), "workspace: expected 4, got 0");
    let longer = CopyPlan::new(1, 3, &four, &four).unwrap();
    assert_eq!(copy(&longer, &mut CopyOutputs::default()), "pairs: expected 6, got 4");
    let other = layout(2, 4, 4).unwrap();
    let other = CopyPlan::new(1, 2, &other, &four).unwrap();
    assert!(
        copy(&other, &mut CopyOutputs::default()).starts_with("bytes that a plan of other pools")
    );
}
