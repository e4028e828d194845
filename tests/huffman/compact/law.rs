//! Laws of the encoder, the reference, the CPU decoder and the kernel that decodes indexed groups.

use half::bf16;
use lacuna::huffman::compact::{
    self, CompactCode, CompactGroup, LengthsError, RawCompact, reference,
};
use lacuna::huffman::indexed::CorruptTile;
use lacuna::huffman::{DeviceWeights, TensorReason};
use lacuna::simt::{Checks, Config, Schedule};
use lacuna::{Error, Queue};
use proptest::prelude::*;

use super::encode;
use crate::common::{self, GOLDEN, KINDS, bf16_tensors, clustered_weights, noise, skewed_weights};

fn decode_on(queue: &Queue, group: &RawCompact<'_>) -> (Vec<u16>, Option<CorruptTile>) {
    let group = group.parse().unwrap();
    let weights = DeviceWeights::upload(queue, [&group]).unwrap();
    let mut output = queue.alloc::<bf16>(weights.plan().output_len() as usize).unwrap();
    let mut status = queue.alloc::<u64>(2).unwrap();
    weights.decode(queue, &mut status.view_mut(), &mut output.view_mut()).unwrap();
    let report = match weights.check(queue, &status.view()) {
        Ok(()) => None,
        Err(Error::CorruptTile(tile)) => Some(tile),
        Err(error) => panic!("{error}"),
    };
    let found = queue.download(&output.view()).unwrap();
    (found.into_iter().map(bf16::to_bits).collect(), report)
}

fn random_queue(seed: u64) -> Queue {
    let (schedule, checks) = (Schedule::Random, Checks::ALL);
    Queue::simt(Config { schedule, seed, checks, ..Config::default() })
}

/// All decoders give the same, and of a sound group the weights.
#[track_caller]
fn assert_decoded(queue: &Queue, raw: &RawCompact<'_>, expected: Option<&[u16]>) {
    let group = raw.parse().unwrap();
    let mut found = vec![0; raw.sign_mantissa.len()];
    let report = reference::decode(&group, &mut found);
    if let Some(weights) = expected {
        assert_eq!(report, Ok(()));
        assert!(found == weights, "reference");
    }
    let mut by_cpu = vec![1; found.len()];
    let by_decoder = compact::decode(&group, &mut by_cpu).map_err(|error| match error {
        Error::CorruptTile(found) => found,
        error => panic!("{error}"),
    });
    assert_eq!(by_decoder, report);
    assert!(by_cpu == found, "CPU decoder");
    assert_eq!(decode_on(queue, raw), (found, report.err()), "kernel");
}

#[track_caller]
fn assert_round_trip(weights: &[u16]) -> CompactGroup {
    let group = encode(weights);
    let code = CompactCode::new(&reference::count(weights)).unwrap();
    assert!(group == reference::encode(weights, &code), "not the reference's");
    assert_decoded(&random_queue(weights.len() as u64), &group.as_raw("group"), Some(weights));
    group
}

#[test]
fn weights_of_every_size_and_kind_come_back() {
    for n in [1, 2, 3, 7, 8, 127, 128, 129, 511, 512, 513, 4095, 4096, 4097, 9000] {
        assert_round_trip(&clustered_weights(n, n as u64));
        assert_round_trip(&skewed_weights(n, n as u64));
        assert_round_trip(&noise(n, n as u64));
    }
    assert_round_trip(&skewed_weights((1 << 18) + 130, 1));
}

#[test]
fn special_values_come_back_bit_for_bit() {
    assert_round_trip(&[
        0x0000, 0x8000, 0x0001, 0x807F, 0x0080, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC0, 0xFFC1,
        0x7F81,
    ]);
    assert_round_trip(&(0..=u16::MAX).collect::<Vec<_>>());
}

#[test]
fn one_exponent_alone_has_a_code_of_one_bit() {
    for n in [1, 8, 128, 5000] {
        let group = assert_round_trip(&vec![0x3F80; n]);
        assert_eq!(group.codes, vec![0; n.div_ceil(8)]);
        assert_eq!(group.lengths.iter().map(|byte| u32::from(*byte)).sum::<u32>(), 0x10);
    }
}

#[test]
fn all_exponents_alike_have_codes_of_eight_bits() {
    let group = assert_round_trip(&(0..=u16::MAX).step_by(32).collect::<Vec<_>>());
    assert_eq!(group.lengths, [0x88; 128]);
    assert_eq!(group.codes, (0..2048).map(|i| (i / 4) as u8).collect::<Vec<_>>());
}

/// Counts that double: an unlimited code would have up to 19 bits.
#[test]
fn skewed_counts_are_limited_to_twelve_bits() {
    let weights: Vec<u16> =
        (0..20).flat_map(|e| std::iter::repeat_n((100 + e) << 7, 1 << (e.min(17)))).collect();
    let group = assert_round_trip(&weights);
    let code = CompactCode::of_lengths(&group.lengths).unwrap();
    assert_eq!(code.lengths().iter().max(), Some(&12));
    assert!(weights.len() > 1 << 17);
}

#[test]
fn golden_weights_come_back_of_several_matrices() {
    for trained in &GOLDEN {
        let bytes = bf16_tensors(trained.bf16);
        // Matrices that begin between granules.
        let (first, rest) = bytes.split_at(2 * 12_345);
        let (second, third) = rest.split_at(2);
        let group = compact::encode(&[first, second, third]).unwrap();
        let whole = compact::encode(&[&bytes]).unwrap();
        assert!(CompactGroup { split_positions: vec![], ..group.clone() } == whole);
        let parsed = group.as_raw(trained.bf16);
        let parsed = parsed.parse().unwrap();
        assert_eq!(parsed.n_matrices(), 3);
        let ranges: Vec<_> = parsed.matrices().collect();
        let n = bytes.len() as u64 / 2;
        assert_eq!(ranges, [0..12_345, 12_345..12_346, 12_346..n]);
        let mut weights = vec![0_u16; bytes.len() / 2];
        compact::decode(&parsed, &mut weights).unwrap();
        assert!(bytemuck::cast_slice::<u16, u8>(&weights) == bytes);
        weights.fill(0);
        reference::decode(&parsed, &mut weights).unwrap();
        assert!(bytemuck::cast_slice::<u16, u8>(&weights) == bytes);
    }
}

#[test]
fn what_cannot_be_encoded_is_refused() {
    let message = |matrices: &[&[u8]]| compact::encode(matrices).unwrap_err().to_string();
    assert_eq!(message(&[]), "weights of a group: 0 is outside 1..2^32");
    assert_eq!(message(&[&[1, 2], &[]]), "weights of a matrix: 0 is outside 1..2^32");
    assert_eq!(message(&[&[1, 2, 3]]), "bytes of a bf16 matrix: expected 4, got 3");
}

#[test]
fn what_is_wrong_with_tensors_is_said() {
    let group = encode(&clustered_weights(5000, 1));
    let message = |change: &dyn Fn(&mut CompactGroup)| {
        let mut changed = group.clone();
        change(&mut changed);
        changed.as_raw("layer").parse().unwrap_err().to_string()
    };
    let n_bytes = group.codes.len();
    for (found, expected) in [
        (
            message(&|g| g.codes.clear()),
            "layer.codes: it is empty, and a group holds at least one weight",
        ),
        (
            message(&|g| g.granule_bits[40] += 8),
            &format!(
                "layer.codes: it has {n_bytes} bytes, and the group's other tensors ask for {}",
                n_bytes + 1
            ),
        ),
        (
            message(&|g| {
                g.tile_bytes.pop();
            }),
            "layer.tile_bytes: it has 4 bytes, and the group's other tensors ask for 8",
        ),
        (
            message(&|g| {
                g.granule_bits.pop();
            }),
            "layer.granule_bits: it has 80 bytes, and the group's other tensors ask for 82",
        ),
        (
            message(&|g| g.split_positions.push(0)),
            "layer.split_positions: it has 1 bytes, and the group's other tensors ask for 8",
        ),
        (
            message(&|g| g.split_positions = vec![0; 8]),
            "layer.split_positions, byte 0: split 0 does not lie after 0 and before 5000",
        ),
        (
            message(&|g| g.lengths[2] = 0xD0),
            "layer.lengths, byte 2: exponent 5 has a code of 13 bits, and codes have up to 12",
        ),
        (
            message(&|g| g.lengths[0] = 0x11),
            "layer.lengths: these lengths are those of no prefix code: they overfill the tree",
        ),
        (message(&|g| g.lengths = [0; 128]), "layer.lengths: no exponent has a code"),
        (
            message(&|g| g.granule_bits[0] = 1),
            "layer.granule_bits, byte 0: a granule begins at bit 1, after 0 codes of 1 to 12 bits from bit 0 on",
        ),
        (message(&|g| g.granule_bits[32] = 8), &{
            let start = 8 * u64::from(group.tile_bytes[1]) + 8;
            let previous = group.granule_bits[31];
            format!(
                "layer.granule_bits, byte 64: a granule begins at bit {start}, after 128 codes of 1 to 12 bits from bit {previous} on"
            )
        }),
    ] {
        assert_eq!(found, expected);
    }
    // Not aligned, as in a file.
    let bits = [&[0], bytemuck::cast_slice::<u16, u8>(&group.granule_bits)].concat();
    let raw = RawCompact { granule_bits: &bits[1..], ..group.as_raw("layer") };
    assert_decoded(&random_queue(1), &raw, None);
}

#[test]
fn an_output_of_another_length_is_refused_and_left_alone() {
    let group = encode(&clustered_weights(1000, 3));
    let raw = group.as_raw("group");
    for n in [0, 999, 1001] {
        let mut output = vec![7; n];
        let error = compact::decode(&raw.parse().unwrap(), &mut output).unwrap_err();
        assert!(matches!(error, Error::Shape { what: "output", expected: 1000, .. }), "{error}");
        assert!(output.iter().all(|bits| *bits == 7));
    }
}

#[test]
fn a_corrupt_tile_leaves_its_neighbours_alone() {
    let weights = clustered_weights(3 * 4096, 3);
    let mut group = encode(&weights);
    group.granule_bits[32 + 9] += 1;
    let raw = group.as_raw("group");
    assert_decoded(&random_queue(2), &raw, None);
    let mut found = vec![0; weights.len()];
    let error = compact::decode(&raw.parse().unwrap(), &mut found).unwrap_err();
    assert!(matches!(error, Error::CorruptTile(CorruptTile { tile: 1, .. })), "{error}");
    assert!(found[..4096] == weights[..4096] && found[8192..] == weights[8192..]);
    assert!(found[4096..8192].iter().all(|bits| *bits == 0x7FC0));
}

/// Bits of the best code of at most 12 bits, by dynamic programming over the tree's levels: of what is left of the sorted
/// weights, so many leaves are on a level.
fn least_bits(histogram: &[u64; 256]) -> u64 {
    let mut counts: Vec<u64> = histogram.iter().copied().filter(|n| *n > 0).collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let n = counts.len();
    if n == 1 {
        return counts[0];
    }
    let mut rest = vec![0; n + 1];
    for i in (0..n).rev() {
        rest[i] = rest[i + 1] + counts[i];
    }
    // `best[i][nodes]`: bits below here, where `i` weights have their codes and `nodes` nodes are open on this level.
    let mut best = vec![vec![u64::MAX; n + 1]; n + 1];
    for level in (0..=12).rev() {
        let bits = |i: usize, nodes: usize, leaves: usize| {
            let (open, after) = (2 * (nodes - leaves), i + leaves);
            match () {
                () if after == n => 0,
                () if level == 12 || open == 0 => u64::MAX,
                () => best[after][open.min(n - after)].saturating_add(rest[after]),
            }
        };
        // Leaves go to the greatest weights that are left.
        let least = |i: usize, nodes: usize| {
            (0..=nodes.min(n - i)).map(|leaves| bits(i, nodes, leaves)).min().unwrap_or(u64::MAX)
        };
        best = (0..=n).map(|i| (0..=n).map(|nodes| least(i, nodes)).collect()).collect();
    }
    best[0][1]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_weights_come_back(weights in prop::collection::vec(any::<u16>(), 1..9000)) {
        assert_round_trip(&weights);
    }

    #[test]
    fn skewed_weights_come_back(n in 1_usize..20_000, seed: u64) {
        assert_round_trip(&skewed_weights(n, seed));
    }

    /// What is held to 0.01 bits a weight is exact.
    #[test]
    fn codes_are_the_best_of_twelve_bits(
        counts in prop::collection::vec((0_u32..40, 1_u64..9), 1..40),
        at in 0_usize..200,
    ) {
        let mut histogram = [0; 256];
        for (idx, (shift, factor)) in counts.iter().enumerate() {
            histogram[at + idx] = factor << shift;
        }
        let code = CompactCode::new(&histogram).unwrap();
        prop_assert_eq!(code.n_bits(&histogram), least_bits(&histogram));
        prop_assert_eq!(CompactCode::of_lengths(&code.to_lengths()), Ok(code));
    }

    #[test]
    fn any_lengths_are_a_code_or_none(bytes in prop::collection::vec(any::<u8>(), 128), n in 0_usize..128) {
        let mut lengths: [u8; 128] = bytes.try_into().unwrap();
        lengths[n..].fill(0);
        match CompactCode::of_lengths(&lengths) {
            Ok(code) => prop_assert_eq!(code.to_lengths(), lengths),
            Err(LengthsError::Length { length, .. }) => prop_assert!(length > 12),
            Err(LengthsError::Empty) => prop_assert!(lengths == [0; 128]),
            Err(_) => {}
        }
    }

    /// Damaged tensors are refused, or decoded as the reference says.
    #[test]
    fn any_damage_is_refused_or_decoded_alike(
        n in 1_usize..20_000,
        kind in prop::sample::select(&KINDS[..]),
        seed: u64,
        damage in prop::collection::vec((0_usize..5, any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let weights = kind(n, seed);
        let mut group = encode(&weights);
        for (tensor, at, value) in damage {
            let bytes: &mut [u8] = match tensor {
                0 | 1 => &mut group.codes,
                2 => &mut group.lengths,
                3 => bytemuck::cast_slice_mut(&mut group.tile_bytes),
                _ => bytemuck::cast_slice_mut(&mut group.granule_bits),
            };
            // A bit more or less is what parsing does not see.
            let at = at.index(bytes.len());
            bytes[at] = if value < 128 { bytes[at].wrapping_add(value % 3).wrapping_sub(1) } else { value };
        }
        let raw = group.as_raw("group");
        match raw.parse() {
            Ok(_) => assert_decoded(&random_queue(seed), &raw, None),
            Err(error) => prop_assert!(!matches!(error.reason, TensorReason::Empty)),
        }
    }
}

#[test]
fn every_schedule_decodes_the_same() {
    let weights = skewed_weights(9000, 5);
    let group = encode(&weights);
    for config in common::configs() {
        let (found, report) = decode_on(&Queue::simt(config), &group.as_raw("group"));
        assert_eq!(report, None);
        assert!(found == weights);
    }
}
