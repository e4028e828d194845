//! Decoding by an index: bit for bit the reference, whatever the index, the table and the codes say.

mod index;
pub(crate) mod problem;
mod rows;

use half::bf16;
use lacuna::huffman::indexed::{
    CodeTable, CorruptTile, Index, IndexedShape, IndexedViews, TileReason, reference,
};
use lacuna::huffman::{self, DecodePlan, DeviceWeights};
use lacuna::simt::{Checks, Config, Schedule};
use lacuna::{Buffer, Queue};
use proptest::prelude::*;

use crate::common::{self, GOLDEN, KINDS, clustered_weights, encode, noise, skewed_weights};
use problem::{Owned, decode_by_reference, decode_on};

#[track_caller]
fn assert_same(queue: &Queue, groups: &[Owned], block_tiles: u32) {
    let (decoded, report) =
        decode_on(queue, groups, block_tiles, block_tiles as usize % 3).unwrap();
    let (expected, expected_report) = decode_by_reference(groups);
    assert_eq!(report, expected_report, "report");
    assert!(decoded == expected, "bits differ");
}

#[test]
fn golden_groups_decode_bit_for_bit_on_every_executor() {
    for queue in common::queues() {
        for trained in &GOLDEN {
            let checkpoint = huffman::Checkpoint::open(common::data(trained.df11)).unwrap();
            let groups = checkpoint.groups().unwrap();
            let groups: Vec<_> = groups.iter().map(|group| Owned::of(*group.raw())).collect();
            let (decoded, report) = decode_on(&queue, &groups, 8, 0).unwrap();
            assert_eq!(report, None);
            let decoded = decoded.concat();
            let original = common::bf16_tensors(trained.bf16);
            assert!(bytemuck::cast_slice::<u16, u8>(&decoded) == original);
        }
    }
}

#[test]
fn groups_of_every_size_and_kind_decode_in_one_launch() {
    let sizes = [1, 2, 3, 4, 127, 128, 129, 4095, 4096, 4097, 30_001];
    let mut weights: Vec<_> = sizes.map(|n| clustered_weights(n, n as u64)).into();
    weights.push(skewed_weights(70_000, 1));
    weights.push(noise(9_000, 2));
    weights.push(vec![0x3F80; 5000]);
    let groups: Vec<_> = weights.iter().map(|weights| Owned::encode(weights)).collect();
    for queue in common::queues() {
        for block_tiles in [4, 12, 64] {
            let (decoded, report) =
                decode_on(&queue, &groups, block_tiles, block_tiles as usize % 12).unwrap();
            assert_eq!(report, None);
            assert!(decoded == weights);
        }
        assert_eq!(decode_on(&queue, &[], 4, 0).unwrap(), (vec![], None));
    }
}

#[test]
fn every_schedule_and_fibre_gives_the_same_bits() {
    let weights = [clustered_weights(40_000, 5), skewed_weights(5_000, 6), vec![7; 3]];
    let groups = weights.each_ref().map(|weights| Owned::encode(weights));
    for config in common::configs() {
        for (seed, block_tiles) in [(0, 4), (1, 12)] {
            let queue = Queue::simt(Config { seed, ..config.clone() });
            let (decoded, report) =
                decode_on(&queue, &groups, block_tiles, block_tiles as usize % 12).unwrap();
            assert_eq!(report, None, "{config:?}");
            assert!(decoded == weights, "{config:?}");
        }
    }
}

#[test]
fn tables_say_what_codes_say() {
    for (kind, seed) in KINDS.into_iter().zip(3..) {
        let weights = kind(9_000, seed);
        let encoded = encode(&weights);
        let group = encoded.as_raw("group").parse().unwrap();
        let table = CodeTable::of(&group);
        let book = huffman::Codebook::new(&histogram(&weights)).unwrap();
        for (exponent, length) in group.code_lengths().iter().enumerate() {
            assert_eq!(table.lengths()[exponent], *length);
        }
        // By the codes themselves, one after the other.
        let code = |bits: u32, n_left: u32| {
            (0..256).find(|exponent| {
                let length = u32::from(book.lengths()[*exponent]);
                (1..=n_left).contains(&length)
                    && bits >> (n_left - length) & ((1 << length) - 1) == book.codes()[*exponent]
            })
        };
        assert_eq!(book.lengths(), group.code_lengths(), "the same code");
        for (bits, entry) in table.entries().iter().enumerate() {
            let bits = bits as u32;
            let rotate = |exponent: usize| u32::from((exponent as u8).rotate_right(1));
            let is_of_long = (0..256).any(|exponent| {
                let length = u32::from(book.lengths()[exponent]);
                length > 12 && book.codes()[exponent] >> (length - 12) == bits
            });
            let expected = match code(bits, 12) {
                None if is_of_long => 0,
                // Bits of no code.
                None => continue,
                Some(first) => {
                    let length = u32::from(book.lengths()[first]);
                    match code(bits & ((1 << (12 - length)) - 1), 12 - length) {
                        // A second code, or bits of none.
                        None if entry >> 24 == 2 => continue,
                        None => rotate(first) | length << 16 | 1 << 24,
                        Some(second) => {
                            let both = length + u32::from(book.lengths()[second]);
                            rotate(first) | rotate(second) << 8 | both << 16 | 2 << 24
                        }
                    }
                }
            };
            assert_eq!(*entry, expected, "{bits:#014b}");
        }
    }
}

fn histogram(weights: &[u16]) -> [u64; 256] {
    let mut histogram = [0; 256];
    weights.iter().for_each(|weight| histogram[usize::from(weight >> 7 & 255)] += 1);
    histogram
}

#[test]
fn an_index_is_an_eighth_of_a_bit_a_weight() {
    let n = 1 << 16;
    let group = Owned::encode(&clustered_weights(n, 9));
    let n_bits = 32 * group.tile_bytes.len() + 16 * group.granule_bits.len();
    assert!(n_bits as f64 / (n as f64) < 0.134, "{n_bits}");
    assert_eq!(Index::n_granules(n as u64), 512);
}

#[test]
fn tiles_of_too_many_bits_have_no_index() {
    // Half the codes have 25 bits and more, where the published format keeps exponents from 240 on.
    let weights: Vec<u16> = (0..8192).map(|i| (240 + i % 16) << 7).collect();
    let encoded = encode(&weights);
    let group = encoded.as_raw("group").parse().unwrap();
    assert_eq!(reference::index(&group), Ok(None));
}

#[test]
fn a_corrupt_tile_leaves_its_neighbours_alone() {
    let weights = clustered_weights(5 * 4096, 3);
    let sound = Owned::encode(&weights);
    let mut corrupt = sound.clone();
    corrupt.granule_bits[2 * 32 + 9] += 1;
    for queue in common::queues() {
        let (decoded, report) = decode_on(&queue, &[sound.clone(), corrupt.clone()], 8, 0).unwrap();
        assert_eq!(report, Some(CorruptTile { tile: 7, reason: TileReason::Chain }));
        assert!(decoded[0] == weights);
        for (tile, (found, expected)) in
            decoded[1].chunks(4096).zip(weights.chunks(4096)).enumerate()
        {
            match tile {
                2 => assert!(found.iter().all(|bits| *bits == 0x7FC0)),
                _ => assert!(found == expected, "tile {tile}"),
            }
        }
    }
}

#[test]
fn blocks_have_more_tiles_where_there_are_more_than_a_device_needs() {
    let n_blocks = |n_elements: u64| {
        let shape =
            IndexedShape { n_code_bytes: n_elements.div_ceil(3), n_elements, n_lut_rows: 1 };
        DecodePlan::new(&[shape]).unwrap().grid().blocks[0]
    };
    // Up to 1,024 blocks of four warps have a tile a warp.
    assert_eq!([1, 4 * 4096, 4 * 4096 + 1, 1024 * 4 * 4096].map(n_blocks), [1, 1, 2, 1024]);
    // A transformer block of Llama-3.1-8B: 52 tiles a block.
    assert_eq!(n_blocks(4096 * (2 * 4096 + 2 * 1024 + 3 * 14_336)), 1024);
    // 64 at most.
    assert_eq!(n_blocks(1024 * 64 * 4096), 1024);
    assert_eq!(n_blocks(1024 * 64 * 4096 + 1), 1025);
}

#[test]
fn what_is_wrong_is_said() {
    let plan = DecodePlan::new(&[4096, 1, 9000].map(|n_elements| IndexedShape {
        n_code_bytes: 9,
        n_elements,
        n_lut_rows: 0,
    }))
    .unwrap();
    assert_eq!(
        (plan.locate_tile(0), plan.locate_tile(1), plan.locate_tile(2)),
        (Some((0, 0)), Some((1, 0)), Some((2, 0)))
    );
    assert_eq!((plan.locate_tile(4), plan.locate_tile(5)), (Some((2, 2)), None));
    assert_eq!(plan.output_range(2), Some(4104..13_104));
    assert_eq!(plan.grid().blocks, [3, 1, 1]);
    assert_eq!(plan.clone().with_block_tiles(1).unwrap().grid().blocks, [3, 1, 1]);
    for (block_tiles, message) in [
        (0, "tiles of a block: 0 is outside 1..=65,536"),
        (65_537, "tiles of a block: 65537 is outside 1..=65,536"),
    ] {
        let refused = plan.clone().with_block_tiles(block_tiles).unwrap_err();
        assert_eq!(refused.to_string(), message);
    }

    let queue = Queue::simt(Config::default());
    let group = Owned::encode(&clustered_weights(5000, 1));
    let weights = DeviceWeights::upload(&queue, [group.raw()]).unwrap();
    let mut status = queue.alloc::<u64>(2).unwrap();
    let mut output = queue.alloc::<bf16>(4999).unwrap();
    let short = weights.decode(&queue, &mut status.view_mut(), &mut output.view_mut());
    assert_eq!(short.unwrap_err().to_string(), "output: expected 5000, got 4999");
    let mut raw = group.raw();
    raw.granule_bits = &raw.granule_bits[1..];
    let short = DeviceWeights::upload(&queue, [raw]);
    assert_eq!(short.unwrap_err().to_string(), "granule_bits: expected 41, got 40");

    let mut broken = group;
    broken.tile_bytes[1] = 0;
    let weights = DeviceWeights::upload(&queue, [broken.raw()]).unwrap();
    let mut output = queue.alloc::<bf16>(5000).unwrap();
    weights.decode(&queue, &mut status.view_mut(), &mut output.view_mut()).unwrap();
    assert_eq!(
        weights.check(&queue, &status.view()).unwrap_err().to_string(),
        "corrupt weights: tile 0: its index is impossible; get the file again, and index it again"
    );
}

/// Memory of an engine's: what the views need of it, and nothing more.
#[test]
fn views_of_an_engine_are_checked_and_used() {
    for queue in common::queues() {
        let weights = skewed_weights(9000, 8);
        let group = Owned::encode(&weights);
        let table = [bytemuck::cast_slice(&group.entries), &group.lengths[..]].concat();
        // One byte more, so that views can begin off their place.
        let codes: Buffer<u8> = queue.upload(&[&[0], &group.codes[..]].concat()).unwrap();
        let aligned = queue.upload(&group.codes).unwrap();
        let sign_mantissa = queue.upload(&group.sign_mantissa).unwrap();
        let tile_bytes = queue.upload(&group.tile_bytes).unwrap();
        let granule_bits = queue.upload(&group.granule_bits).unwrap();
        let table = queue.upload(&table).unwrap();
        let luts = queue.upload(&group.luts).unwrap();
        let views = IndexedViews {
            codes: codes.view().slice(1..codes.len()).unwrap(),
            sign_mantissa: sign_mantissa.view(),
            tile_bytes: tile_bytes.view(),
            granule_bits: granule_bits.view(),
            table: table.view(),
            luts: Some(luts.view()),
        };
        let refused = DeviceWeights::borrow(&queue, [views]).unwrap_err().to_string();
        assert!(
            refused.contains("address of codes") && refused.contains("multiples of 16"),
            "{refused}"
        );
        let views = IndexedViews { codes: aligned.view(), ..views };
        let borrowed = DeviceWeights::borrow(&queue, [views]).unwrap();
        // An output that no wide store may go to.
        let mut output = queue.alloc::<bf16>(9001).unwrap();
        let mut status = queue.alloc::<u64>(2).unwrap();
        let mut odd = output.view_mut();
        let mut odd = odd.slice_mut(1..9001).unwrap();
        borrowed.decode(&queue, &mut status.view_mut(), &mut odd).unwrap();
        borrowed.check(&queue, &status.view()).unwrap();
        let found = queue.download(&output.view()).unwrap();
        assert!(found[1..].iter().map(|w| w.to_bits()).eq(weights.iter().copied()));
    }
}

fn random_queue(seed: u64) -> Queue {
    Queue::simt(Config {
        schedule: Schedule::Random,
        seed,
        checks: Checks::ALL,
        ..Config::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_weights_come_back(weights in prop::collection::vec(any::<u16>(), 1..9000), seed: u64) {
        let encoded = encode(&weights);
        let group = encoded.as_raw("group").parse().unwrap();
        // Where there is no index the plain kernel decodes.
        if reference::index(&group).unwrap().is_some() {
            let owned = Owned::of(*group.raw());
            let (decoded, report) = decode_on(&random_queue(seed), &[owned], 4, 0).unwrap();
            prop_assert_eq!(report, None);
            prop_assert!(decoded[0] == weights);
        }
    }

    #[test]
    fn any_damage_gives_what_the_reference_gives(
        n in 1_usize..40_000,
        kind in prop::sample::select(&KINDS[..]),
        seed: u64,
        block_tiles in 1_u32..12,
        damage in prop::collection::vec((0_usize..6, any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let weights = kind(n, seed);
        let mut group = Owned::encode(&weights);
        for (tensor, at, value) in damage {
            group.damage(tensor, &at, value);
        }
        assert_same(&random_queue(seed), &[group], block_tiles);
    }

    #[test]
    fn random_bytes_give_what_the_reference_gives(
        codes in prop::collection::vec(any::<u8>(), 1..4000),
        n in 1_usize..9000,
        starts in prop::collection::vec(0_u16..40, 72),
        bytes in prop::collection::vec(0_u32..2000, 3),
        entries in prop::collection::vec((0_u32..14, 0_u32..4, any::<u16>()), 64),
        luts in prop::collection::vec(any::<u8>(), 512),
    ) {
        let mut bits = 0;
        let granule_bits: Vec<u16> = starts.iter().map(|more| { bits += more * 8; bits }).collect();
        let entries: Vec<u32> = (0..4096)
            .map(|i| { let (length, n_codes, both) = entries[i % 64]; u32::from(both) | length << 16 | n_codes << 24 })
            .collect();
        let n_granules = n.div_ceil(128);
        let group = Owned {
            codes,
            sign_mantissa: vec![0x5A; n],
            tile_bytes: bytes[..n_granules / 32 + 1].to_vec(),
            granule_bits: granule_bits[..n_granules + 1].to_vec(),
            entries,
            lengths: luts[256..].to_vec(),
            luts,
        };
        assert_same(&random_queue(n as u64), &[group], 4);
    }

    #[test]
    fn plans_take_any_sizes(shapes in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u32>()), 0..5)) {
        let shapes: Vec<_> = shapes
            .into_iter()
            .map(|(n_code_bytes, n_elements, n_lut_rows)| IndexedShape { n_code_bytes, n_elements, n_lut_rows })
            .collect();
        let _ = DecodePlan::new(&shapes);
    }
}
