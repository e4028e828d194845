//! Groups indexed on the device: the same index as the reference's, the same verdict as the plain kernel's, and the
//! same weights afterwards, by whichever way.

use half::bf16;
use lacuna::huffman::indexed::{IndexedShape, reference};
use lacuna::huffman::{
    self, DecodePlan, DeviceWeights, GroupPath, GroupShape, GroupViews, RawGroup, WeightSource,
    compact,
};
use lacuna::simt::{Checks, Config, Schedule};
use lacuna::{Error, Queue};
use proptest::prelude::*;

use super::problem::{corruption_of, group_that_ends_outside, index_on};
use crate::common::{self, GOLDEN, clustered_weights, encode, noise, skewed_weights};

/// Weights of which an index holds no tile: half of the codes have 25 bits and more.
fn weights_of_too_many_bits(n: usize) -> Vec<u16> {
    (0..n).map(|i| (240 + i as u16 % 16) << 7).collect()
}

/// Groups as they are in memory, indexed.
fn index(queue: &Queue, groups: &[RawGroup<'_>]) -> lacuna::Result<DeviceWeights<'static>> {
    let parsed: Vec<_> = groups.iter().map(|raw| raw.parse().unwrap()).collect();
    let mut weights = DeviceWeights::upload(queue, &parsed)?;
    weights.index(queue)?;
    Ok(weights)
}

/// All groups' weights, in their order.
fn decode(queue: &Queue, weights: &DeviceWeights<'_>) -> Vec<Vec<u16>> {
    let plan = weights.plan();
    let mut output = queue.alloc::<bf16>(plan.output_len() as usize).unwrap();
    let mut workspace = queue.alloc::<u64>(plan.workspace_len() as usize).unwrap();
    for _ in 0..2 {
        weights.decode(queue, &mut workspace.view_mut(), &mut output.view_mut()).unwrap();
        weights.check(queue, &workspace.view()).unwrap();
    }
    let bits: Vec<_> =
        queue.download(&output.view()).unwrap().into_iter().map(bf16::to_bits).collect();
    let range = |idx| plan.output_range(idx).unwrap();
    (0..plan.n_groups())
        .map(|idx| bits[range(idx).start as usize..range(idx).end as usize].to_vec())
        .collect()
}

#[track_caller]
fn assert_indexed(queue: &Queue, groups: &[RawGroup<'_>]) {
    let weights = index(queue, groups).unwrap();
    for (idx, raw) in groups.iter().enumerate() {
        let expected = reference::index(&raw.parse().unwrap()).unwrap();
        assert_eq!(weights.plan().is_indexed(idx), expected.is_some(), "group {idx}");
        assert_eq!(weights.download_index(queue, idx).unwrap(), expected, "group {idx}");
    }
    for (raw, decoded) in groups.iter().zip(decode(queue, &weights)) {
        let mut expected = vec![0; raw.sign_mantissa.len()];
        huffman::reference::decode(raw, &mut expected).unwrap();
        assert!(decoded == expected, "bits differ");
    }
}

#[test]
fn golden_groups_have_the_reference_s_index() {
    for queue in common::queues() {
        for trained in &GOLDEN {
            let checkpoint = huffman::Checkpoint::open(common::data(trained.df11)).unwrap();
            let groups = checkpoint.groups().unwrap();
            let raws: Vec<_> = groups.iter().map(|group| *group.raw()).collect();
            assert_indexed(&queue, &raws);
        }
    }
}

#[test]
fn groups_of_every_size_and_kind_are_indexed_at_once() {
    let sizes = [1, 2, 127, 128, 129, 4095, 4096, 4097, 8192, 60_001];
    let mut weights: Vec<_> = sizes.map(|n| clustered_weights(n, n as u64)).into();
    // Those without an index are first, in between and last.
    weights.insert(0, weights_of_too_many_bits(5000));
    weights.insert(5, weights_of_too_many_bits(8192));
    weights.push(skewed_weights(70_000, 1));
    weights.push(noise(9_000, 2));
    weights.push(vec![0x3F80; 5000]);
    weights.push(weights_of_too_many_bits(4097));
    let encoded: Vec<_> = weights.iter().map(|weights| encode(weights)).collect();
    let raws: Vec<_> = encoded.iter().map(|encoded| encoded.as_raw("group")).collect();
    for queue in common::queues() {
        assert_indexed(&queue, &raws);
        assert_indexed(&queue, &raws[1..4]);
        assert_indexed(&queue, &raws[..1]);
        assert_indexed(&queue, &[]);
    }
}

#[test]
fn every_schedule_and_fibre_gives_the_same_index() {
    let weights = [clustered_weights(40_000, 5), weights_of_too_many_bits(4500), vec![7; 3]];
    let encoded = weights.each_ref().map(|weights| encode(weights));
    let raws = encoded.each_ref().map(|encoded| encoded.as_raw("group"));
    for config in common::configs() {
        assert_indexed(&Queue::simt(config), &raws);
    }
}

#[test]
fn a_code_that_ends_past_the_stream_has_no_index() {
    for n in [7, 127, 135] {
        let tensors = group_that_ends_outside(n);
        let raw = common::raw_of(&tensors);
        assert_eq!(reference::index(&raw.parse().unwrap()), Ok(None));
        for queue in common::queues() {
            assert_indexed(&queue, &[raw]);
        }
    }
}

#[test]
fn an_engine_s_memory_is_indexed_where_it_is_aligned() {
    let expected = clustered_weights(9000, 4);
    let encoded = encode(&expected);
    let raw = encoded.as_raw("group");
    let tensors =
        [raw.encoded_exponent, raw.sign_mantissa, raw.luts, raw.gaps, raw.output_positions];
    for queue in common::queues() {
        // Each tensor twice, aligned and not.
        let buffers = tensors.map(|tensor| {
            let shifted = [&[0], tensor].concat();
            [queue.upload(tensor).unwrap(), queue.upload(&shifted).unwrap()]
        });
        let views_of = |shifted: [bool; 5]| {
            let view = |idx: usize| match shifted[idx] {
                true => buffers[idx][1].view().slice(1..tensors[idx].len() + 1).unwrap(),
                false => buffers[idx][0].view(),
            };
            GroupViews {
                encoded_exponent: view(0),
                sign_mantissa: view(1),
                luts: view(2),
                gaps: view(3),
                output_positions: view(4),
            }
        };
        let views: Vec<_> = [
            [false; 5],
            [true, false, false, false, false],
            [false, true, false, false, false],
            [false, false, true, true, true],
        ]
        .map(views_of)
        .into();
        let mut weights = DeviceWeights::borrow(&queue, views).unwrap();
        weights.index(&queue).unwrap();
        let is_indexed = |idx| weights.plan().is_indexed(idx);
        assert_eq!([0, 1, 2, 3].map(is_indexed), [true, false, false, true]);
        assert_eq!(weights.plan().n_plain_groups(), 2);
        assert!(decode(&queue, &weights).iter().all(|decoded| *decoded == expected));
    }
}

#[test]
fn gaps_and_positions_do_not_stay() {
    let queue = Queue::simt(Config::default());
    let encoded = encode(&clustered_weights(1 << 16, 1));
    let weights = index(&queue, &[encoded.as_raw("group")]).unwrap();
    let raw = encoded.as_raw("group");
    let index_bytes = 4 * 17 + 2 * 513;
    let least = raw.encoded_exponent.len()
        + raw.sign_mantissa.len()
        + raw.luts.len()
        + index_bytes
        + 16_640;
    let owned = weights.owned_bytes();
    // What is beyond: alignment, and a row of the table of groups.
    assert!((least..least + 1024).contains(&owned), "{owned}, {least}");
    assert!(raw.gaps.len() > 1024);
}

#[test]
fn corrupt_groups_are_refused_with_the_plain_kernel_s_report() {
    let queue = Queue::simt(Config::default());
    let sound = encode(&clustered_weights(20_000, 3));
    let sound = sound.as_raw("sound");
    let n_blocks = sound.encoded_exponent.len().div_ceil(4096) as u32;
    let mut gaps = sound.gaps.to_vec();
    gaps[330] ^= 0xFF;
    let corrupt = RawGroup { gaps: &gaps, ..sound };
    let groups = [sound, corrupt, sound, corrupt];
    let Err(Error::Corrupt(found)) = index(&queue, &groups) else {
        panic!("a corrupt group was indexed");
    };
    let tensors = groups.map(|raw| common::damaged(&raw, vec![]));
    assert_eq!(Some(found), corruption_of(&tensors));
    assert_eq!(found.block, n_blocks + 1);
}

/// DF11, compact groups and what no index holds, in one value: decoded before and after it is indexed, and where it cannot be.
#[test]
fn groups_of_every_format_are_decoded_together() {
    let originals = [
        clustered_weights(9000, 1),
        skewed_weights(5000, 2),
        weights_of_too_many_bits(4500),
        clustered_weights(300, 3),
    ];
    let df11 = originals.each_ref().map(|weights| encode(weights));
    let [first, _, third, fourth] = df11.each_ref().map(|encoded| encoded.as_raw("group"));
    let compact = compact::encode(&[bytemuck::cast_slice(&originals[1])]).unwrap();
    let compact = compact.as_raw("compact").parse().unwrap();
    let mut gaps = fourth.gaps.to_vec();
    gaps[0] ^= 0xFF;
    let corrupt = RawGroup { gaps: &gaps, ..fourth };
    for queue in common::queues() {
        let sources = |last: RawGroup<'_>| {
            let [first, third, last] = [first, third, last].map(|raw| raw.parse().unwrap());
            let mut weights = DeviceWeights::upload(
                &queue,
                [WeightSource::from(&first), (&compact).into(), (&third).into(), (&last).into()],
            )
            .unwrap();
            let indexed = weights.index(&queue);
            (weights, indexed)
        };
        let kinds =
            |weights: &DeviceWeights<'_>| [0, 1, 2, 3].map(|idx| weights.plan().is_indexed(idx));
        let (weights, indexed) = sources(fourth);
        indexed.unwrap();
        assert_eq!(kinds(&weights), [true, true, false, true]);
        assert!(decode(&queue, &weights) == originals);

        // What cannot be indexed is what it was: the groups that are sound are decoded.
        let (mut weights, indexed) = sources(corrupt);
        assert!(matches!(indexed, Err(Error::Corrupt(_))));
        let owned = weights.owned_bytes();
        for _ in 0..2 {
            assert_eq!(kinds(&weights), [false, true, false, false]);
            let plan = weights.plan();
            let mut output = queue.alloc::<bf16>(plan.output_len() as usize).unwrap();
            let mut workspace = queue.alloc::<u64>(plan.workspace_len() as usize).unwrap();
            weights.decode(&queue, &mut workspace.view_mut(), &mut output.view_mut()).unwrap();
            let Err(Error::Corrupt(found)) = weights.check(&queue, &workspace.view()) else {
                panic!("a corrupt group was not reported");
            };
            assert_eq!(plan.locate_block(found.block), Some((3, 0)));
            let bits = queue.download(&output.view()).unwrap();
            for (idx, original) in originals.iter().enumerate() {
                let range = plan.output_range(idx).unwrap();
                let found = bits[range.start as usize..range.end as usize].iter();
                let expected = |weight: &u16| if idx == 3 { 0x7FC0 } else { *weight };
                assert!(found.map(|w| w.to_bits()).eq(original.iter().map(expected)), "{idx}");
            }
            assert!(weights.index(&queue).is_err());
        }
        assert_eq!(weights.owned_bytes(), owned);
    }
}

#[test]
fn what_is_indexed_again_stays_what_it_is() {
    let originals = [clustered_weights(5000, 1), weights_of_too_many_bits(4500)];
    let encoded = originals.each_ref().map(|weights| encode(weights));
    let raws = encoded.each_ref().map(|encoded| encoded.as_raw("group"));
    let queue = Queue::simt(Config::default());
    let mut weights = index(&queue, &raws).unwrap();
    let (owned, plan) = (weights.owned_bytes(), weights.plan().clone());
    weights.index(&queue).unwrap();
    assert_eq!((weights.owned_bytes(), weights.plan()), (owned, &plan));
    assert!(decode(&queue, &weights) == originals);
    let mut none = DeviceWeights::upload(&queue, None::<WeightSource<'_>>).unwrap();
    none.index(&queue).unwrap();
    assert!(decode(&queue, &none).is_empty());
}

#[test]
fn a_plan_says_where_groups_of_both_ways_go() {
    let indexed = |n_elements| {
        GroupPath::from(IndexedShape { n_code_bytes: 9000, n_elements, n_lut_rows: 1 })
    };
    let plain = |n_elements| {
        let n_code_bytes = 9000;
        GroupPath::from(GroupShape { n_code_bytes, n_elements, n_lut_rows: 1, n_positions: 3 })
    };
    let plan = DecodePlan::new(&[plain(5), indexed(4097), plain(9), plain(3), indexed(1)]).unwrap();
    let ranges = [0, 1, 2, 3, 4].map(|idx| plan.output_range(idx).unwrap());
    assert_eq!(ranges, [0..5, 8..4105, 4112..4121, 4128..4131, 4136..4137]);
    assert_eq!(
        [0, 1, 2, 3, 4, 5].map(|idx| plan.is_indexed(idx)),
        [false, true, false, false, true, false]
    );
    assert_eq!((plan.n_groups(), plan.n_plain_groups()), (5, 3));
    assert_eq!((plan.workspace_len(), plan.workspace_bytes()), (5, 40));
    assert_eq!(
        [0, 1, 2, 3].map(|tile| plan.locate_tile(tile)),
        [Some((1, 0)), Some((1, 1)), Some((4, 0)), None]
    );
    assert_eq!(
        [0, 2, 3, 8, 9].map(|block| plan.locate_block(block)),
        [Some((0, 0)), Some((0, 2)), Some((2, 0)), Some((3, 2)), None]
    );
    assert_eq!(DecodePlan::new(&[indexed(7)]).unwrap().workspace_len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_weights_are_indexed(weights in prop::collection::vec(any::<u16>(), 1..9000), seed: u64) {
        let config = Config { schedule: Schedule::Random, seed, ..Config::default() };
        let queue = Queue::simt(Config { checks: Checks::ALL, ..config });
        assert_indexed(&queue, &[encode(&weights).as_raw("group")]);
    }

    #[test]
    fn any_damage_is_found_as_the_reference_finds_it(
        n in 1_usize..30_000,
        seed: u64,
        damage in prop::collection::vec((0_usize..5, any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let config = Config { schedule: Schedule::Random, seed, ..Config::default() };
        let queue = Queue::simt(Config { checks: Checks::ALL, ..config });
        let sound = encode(&clustered_weights(n, seed));
        let sound = sound.as_raw("group");
        let groups = [common::damaged(&sound, vec![]), common::damaged(&sound, damage)];
        let decoded = index_on(&queue, &groups, |weights| Ok(decode(&queue, weights))).unwrap();
        prop_assert_eq!(decoded.as_ref().err().copied(), corruption_of(&groups));
        for (decoded, tensors) in decoded.iter().flatten().zip(&groups) {
            let mut expected = vec![0; decoded.len()];
            huffman::reference::decode(&common::raw_of(tensors), &mut expected).unwrap();
            prop_assert!(*decoded == expected, "bits differ");
        }
    }

    #[test]
    fn plans_take_any_groups(shapes in prop::collection::vec((any::<bool>(), any::<[u64; 2]>(), any::<[u32; 2]>()), 0..5)) {
        let shapes: Vec<_> = shapes
            .into_iter()
            .map(|(is_indexed, [n_code_bytes, n_elements], [n_lut_rows, n_positions])| match is_indexed {
                true => GroupPath::from(IndexedShape { n_code_bytes, n_elements, n_lut_rows }),
                false => GroupPath::from(GroupShape { n_code_bytes, n_elements, n_lut_rows, n_positions }),
            })
            .collect();
        let _ = DecodePlan::new(&shapes);
    }
}
