//! Laws of the encoder, the reference and the CPU decoder, without a launch.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use lacuna::Error;
use lacuna::huffman::{
    self, Checkpoint, Codebook, Corruption, EncodedGroup, PUBLISHED_BLOCK_ELEMENTS, reference,
};
use proptest::prelude::*;

use crate::common::{self, GOLDEN, clustered_weights, encode};

/// What a CPU decoder found corrupt, to be held against a reference.
fn corruption(result: lacuna::Result<()>) -> Result<(), Corruption> {
    result.map_err(|error| match error {
        Error::Corrupt(found) => found,
        error => panic!("{error}"),
    })
}

/// Encodes, parses, and decodes by both decoders.
#[track_caller]
fn assert_round_trip(weights: &[u16]) -> EncodedGroup {
    let encoded = encode(weights);
    let group = encoded.as_raw("group").parse().unwrap();
    let mut decoded = vec![0; weights.len()];
    reference::decode(group.raw(), &mut decoded).unwrap();
    assert!(decoded == weights, "reference");
    decoded.fill(0);
    huffman::decode(&group, &mut decoded).unwrap();
    assert!(decoded == weights, "CPU decoder");
    encoded
}

/// Bytes that the published encoder's code and tables take, at least: a Huffman code with an end
/// symbol of count 1, and a table for each byte-aligned prefix that a canonical code would need.
/// `None` where its codes are too long, or its tables too many to be addressed.
fn least_published_bytes(histogram: &[u64; 256]) -> Option<u64> {
    let mut heap: BinaryHeap<Reverse<(u64, Vec<usize>)>> = histogram
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
        .map(|(symbol, count)| Reverse((*count, vec![symbol + 1])))
        .collect();
    // The end symbol comes first among equals.
    heap.push(Reverse((1, vec![0])));
    let mut lengths = [0_u32; 257];
    while heap.len() > 1 {
        let Reverse((a, mut symbols)) = heap.pop().unwrap();
        let Reverse((b, others)) = heap.pop().unwrap();
        symbols.extend(others);
        for symbol in &symbols {
            lengths[*symbol] += 1;
        }
        heap.push(Reverse((a + b, symbols)));
    }
    if lengths.iter().any(|length| *length > 32) {
        return None;
    }
    let prefixes = [8, 16, 24].map(|depth| {
        let longer = lengths[1..].iter().filter(|length| **length > depth);
        longer.map(|length| 1_u64 << (32 - length)).sum::<u64>().div_ceil(1 << (32 - depth))
    });
    let n_tables = 1 + prefixes.iter().sum::<u64>();
    let n_bits: u64 = histogram.iter().zip(&lengths[1..]).map(|(n, l)| n * u64::from(*l)).sum();
    (n_tables <= 17).then_some(n_bits.div_ceil(8) + 256 * (n_tables + 1))
}

#[test]
fn golden_groups_are_encoded_no_larger_than_published() {
    let checkpoint = Checkpoint::open(common::data(GOLDEN[0].df11)).unwrap();
    let published = checkpoint.group(0).unwrap().unwrap();
    let published = *published.raw();
    let original = common::bf16_tensors(GOLDEN[0].bf16);
    let ours = huffman::encode(&[&original]).unwrap();
    let ours_raw = ours.as_raw("group");
    let sizes = [ours_raw, published].map(|raw| {
        raw.encoded_exponent.len() + raw.luts.len() + raw.gaps.len() + raw.output_positions.len()
    });
    assert!(sizes[0] <= sizes[1], "{} > {}", sizes[0], sizes[1]);
    assert_eq!(ours.sign_mantissa, published.sign_mantissa);
}

#[test]
fn both_decoders_give_the_original_bits_of_golden_groups() {
    for trained in &GOLDEN {
        let file = trained.df11;
        let checkpoint = Checkpoint::open(common::data(file)).unwrap();
        let group = checkpoint.group(0).unwrap().unwrap();
        let original = common::bf16_tensors(trained.bf16);
        let mut decoded = vec![0_u16; original.len() / 2];
        reference::decode(group.raw(), &mut decoded).unwrap();
        assert!(bytemuck::cast_slice::<u16, u8>(&decoded) == original, "{file}: reference");
        decoded.fill(0);
        huffman::decode(&group, &mut decoded).unwrap();
        assert!(bytemuck::cast_slice::<u16, u8>(&decoded) == original, "{file}: CPU decoder");
    }
}

#[test]
fn special_values_come_back_bit_for_bit() {
    // ±0, subnormals, the smallest and largest normals, ±inf, quiet and signalling NaNs.
    assert_round_trip(&[
        0x0000, 0x8000, 0x0001, 0x807F, 0x0080, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC0, 0xFFC1,
        0x7F81,
    ]);
    assert_round_trip(&[0x7FC0; 1000]);
    assert_round_trip(&(0..=u16::MAX).collect::<Vec<_>>());
    assert_round_trip(&(0x7800..0x8000).collect::<Vec<_>>());
}

#[test]
fn one_exponent_alone_stays_within_the_published_kernels_memory() {
    // A code of one bit would put 32,768 weights into a block.
    for n in [1, 2, 16_384, 16_385, 100_000] {
        let encoded = assert_round_trip(&vec![0x3F80; n]);
        let densest = encoded.as_raw("group").parse().unwrap().densest_block();
        assert!(densest <= PUBLISHED_BLOCK_ELEMENTS, "{n}: {densest}");
    }
}

#[test]
fn codes_that_the_format_cannot_hold_are_avoided() {
    // Fibonacci counts make Huffman codes of one bit more each: more than 32 bits from 34 on.
    let mut weights = Vec::new();
    let (mut a, mut b) = (1_usize, 1);
    for exponent in 0..24_u16 {
        weights.extend(std::iter::repeat_n(exponent << 7, a));
        (a, b) = (b, a + b);
    }
    assert_round_trip(&weights);
    let mut counts = [0_u64; 256];
    let (mut a, mut b) = (1_u64, 1);
    for count in counts.iter_mut().take(60) {
        *count = a;
        (a, b) = (b, a + b);
    }
    let book = Codebook::new(&counts).unwrap();
    assert!(book.lengths().iter().all(|length| *length <= 32));

    // One dominant exponent and 200 rare ones: more tables than pointers reach, were it Huffman's.
    let mut weights: Vec<u16> = (0..200_u16).map(|exponent| exponent << 7).collect();
    weights.extend(vec![0x6900; 100_000]);
    let encoded = assert_round_trip(&weights);
    assert!(encoded.luts.len() <= 18 * 256);
}

#[test]
fn large_exponents_get_codes_that_pointers_do_not_shadow() {
    let mut weights: Vec<u16> = (0..10_000_u16).map(|i| (120 + i % 5) << 7).collect();
    weights.extend([240 << 7, 250 << 7, 255 << 7]);
    let encoded = assert_round_trip(&weights);
    let lengths = &encoded.luts[encoded.luts.len() - 256..];
    for exponent in [240, 250, 255] {
        assert!((25..=32).contains(&lengths[exponent]), "{exponent}: {}", lengths[exponent]);
    }
}

#[test]
fn a_last_code_that_ends_a_byte_in_a_block_of_its_own_has_its_position() {
    // Two-bit codes (four exponents): 16,384 weights fill a block exactly.
    for n in [16_383, 16_384, 16_385, 32_768] {
        let weights: Vec<u16> = (0..n).map(|i| (100 + i % 4) << 7).collect();
        let encoded = assert_round_trip(&weights);
        let n_blocks = encoded.encoded_exponent.len().div_ceil(4096);
        assert_eq!(encoded.output_positions.len(), 4 * (n_blocks + 1), "{n}");
    }
}

#[test]
fn tables_that_no_prefix_code_has_mean_what_the_reference_says() {
    // Exponents of a few lengths, several of each.
    let weights: Vec<u16> =
        (0..60_000_u32).map(|i| 120 + i * i % 11).map(|e| (e << 7) as u16).collect();
    let encoded = encode(&weights);
    let lengths = encoded.luts[encoded.luts.len() - 256..].to_vec();
    let mut n_sound = 0;
    for at in 0..encoded.luts.len() - 256 {
        // Another exponent of the same length: the stream stays sound, and later bits decide.
        let length = lengths[usize::from(encoded.luts[at])];
        let is_twin = |other: &u8| {
            *other != encoded.luts[at] && lengths[usize::from(*other)] == length && length > 0
        };
        let Some(twin) = (0..240).find(is_twin) else { continue };
        let mut damaged = encoded.clone();
        damaged.luts[at] = twin;
        let raw = damaged.as_raw("group");
        let mut expected = vec![0; weights.len()];
        let result = reference::decode(&raw, &mut expected);
        n_sound += u32::from(result.is_ok());
        let mut decoded = vec![0; weights.len()];
        let found = corruption(huffman::decode(&raw.parse().unwrap(), &mut decoded));
        assert_eq!(found, result, "entry {at}");
        assert!(decoded == expected, "entry {at}");
    }
    assert!(n_sound > 100, "{n_sound}");
}

#[test]
fn an_output_of_another_length_is_refused_and_left_alone() {
    let encoded = encode(&clustered_weights(1000, 3));
    let group = encoded.as_raw("group").parse().unwrap();
    for n in [0, 999, 1001] {
        let mut output = vec![7; n];
        let error = huffman::decode(&group, &mut output).unwrap_err();
        assert!(matches!(error, Error::Shape { what: "output", expected: 1000, .. }), "{error}");
        assert!(output.iter().all(|bits| *bits == 7));
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let mut weights = clustered_weights(1_200_000, 7);
    // Runs with an exponent far from the common ones, here and there.
    weights.iter_mut().step_by(30_000).for_each(|weight| *weight = 0);
    let bytes: &[u8] = bytemuck::cast_slice(&weights);
    // Pieces that begin in the middle of a byte, of a chunk and of a run.
    let matrices = [&bytes[..2 * 300_001], &bytes[2 * 300_001..2 * 300_004], &bytes[2 * 300_004..]];
    let mut results = [1, 2, 5].map(|n_threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        pool.install(|| {
            let encoded = huffman::encode(&matrices).unwrap();
            let mut decoded = vec![0; weights.len()];
            huffman::decode(&encoded.as_raw("group").parse().unwrap(), &mut decoded).unwrap();
            assert!(decoded == weights, "{n_threads} threads");
            encoded
        })
    });
    results[1..].iter().for_each(|other| assert!(*other == results[0]));
    // The reference agrees, and so does an encoder that knows of one piece only.
    let mut decoded = vec![0; weights.len()];
    reference::decode(&results[0].as_raw("group"), &mut decoded).unwrap();
    assert!(decoded == weights);
    results[0].split_positions.clear();
    assert!(results[0] == encode(&weights));
}

#[test]
fn nothing_and_half_a_weight_are_refused() {
    assert_eq!(
        huffman::encode(&[]).unwrap_err().to_string(),
        "weights of a group: 0 is outside 1..2^32"
    );
    assert_eq!(
        huffman::encode(&[&[1, 2, 3]]).unwrap_err().to_string(),
        "bytes of a bf16 matrix: expected 4, got 3"
    );
    assert!(huffman::encode(&[&[1, 2], &[]]).is_err());
}

#[test]
fn splits_stand_where_matrices_begin() {
    let encoded = huffman::encode(&[&[0; 20], &[1; 2], &[2; 6]]).unwrap();
    let group = encoded.as_raw("group").parse().unwrap();
    assert_eq!(group.matrices().collect::<Vec<_>>(), [0..10, 10..11, 11..14]);
}

/// Weights with any bits, with few exponents, or with exponents as trained weights have them.
fn any_weights() -> impl Strategy<Value = Vec<u16>> {
    let trained = (any::<u16>(), any::<u32>())
        .prop_map(|(bits, skew)| (bits & 0x807F) | (125 - skew.trailing_ones() as u16) << 7);
    prop_oneof![
        prop::collection::vec(any::<u16>(), 1..5000),
        prop::collection::vec(0x3F00_u16..0x4000, 1..20_000),
        prop::collection::vec(trained, 1..20_000),
        // Several blocks for each of the streams that a thread decodes together.
        (20_000_usize..150_000, any::<u64>()).prop_map(|(n, seed)| clustered_weights(n, seed)),
        (any::<u16>(), 1_usize..40_000).prop_map(|(weight, n)| vec![weight; n]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_weights_come_back(weights in any_weights()) {
        assert_round_trip(&weights);
    }

    #[test]
    fn codes_are_prefix_free_and_no_longer_than_published(
        counts in prop::collection::vec(prop_oneof![Just(0_u64), 1..10_u64, 1..1_000_000_u64], 2..240),
    ) {
        let mut histogram = [0; 256];
        histogram[..counts.len()].copy_from_slice(&counts);
        prop_assume!(counts.iter().filter(|count| **count > 0).count() > 1);
        let book = Codebook::new(&histogram).unwrap();
        let mut kraft = 0_u64;
        for (count, length) in histogram.iter().zip(book.lengths()) {
            prop_assert_eq!(*count > 0, *length > 0);
            prop_assert!(*length <= 32);
            if *length > 0 {
                kraft += 1 << (32 - length);
            }
        }
        prop_assert!(kraft <= 1 << 32);
        prop_assert!(book.luts().len() <= 18 * 256);
        let n_bits: u64 =
            histogram.iter().zip(book.lengths()).map(|(n, l)| n * u64::from(*l)).sum();
        let ours = n_bits.div_ceil(8) + book.luts().len() as u64;
        if let Some(published) = least_published_bytes(&histogram) {
            prop_assert!(ours <= published, "{} > {}", ours, published);
        }
    }

    #[test]
    fn decoders_agree_on_damage(
        weights in any_weights(),
        damage in prop::collection::vec((0_usize..5, any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let encoded = encode(&weights);
        let raw = encoded.as_raw("group");
        let tensors = common::damaged(&raw, damage);
        let raw = common::raw_of(&tensors);
        let mut expected = vec![0; weights.len()];
        let result = reference::decode(&raw, &mut expected);
        if let Ok(group) = raw.parse() {
            let mut decoded = vec![0; weights.len()];
            prop_assert_eq!(corruption(huffman::decode(&group, &mut decoded)), result);
            prop_assert!(decoded == expected);
        }
    }
}
