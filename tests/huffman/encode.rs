//! The kernel that packs DF11 groups, and its encoder: bit for bit what the CPU's encoder gives.

use half::bf16;
use lacuna::huffman::compact::{EncodePlan, count_exponents, place_codes};
use lacuna::huffman::{
    Codebook, DeviceGroup, DeviceWeights, EncodedGroup, Encoder, GroupViewsMut, Measured,
    PUBLISHED_BLOCK_ELEMENTS, pack_group, upload_codebook,
};
use lacuna::simt::{Checks, Config, Schedule};
use lacuna::{Buffer, Queue};
use proptest::prelude::*;

use crate::common::{self, Random, bf16_tensors, clustered_weights, encode, noise, skewed_weights};
use crate::compact::hostile_workspace;

fn upload(queue: &Queue, weights: &[u16]) -> Buffer<bf16> {
    queue.upload(bytemuck::cast_slice::<u16, bf16>(weights)).unwrap()
}

fn encode_on(queue: &Queue, weights: &[u16]) -> EncodedGroup {
    let mut encoder = Encoder::new(queue, weights.len() as u64).unwrap();
    let group = encoder.encode(queue, &upload(queue, weights).view()).unwrap();
    group.download(queue).unwrap()
}

#[track_caller]
fn assert_same(found: &EncodedGroup, expected: &EncodedGroup) {
    assert!(found.luts == expected.luts, "luts");
    assert_eq!(found.output_positions, expected.output_positions, "output_positions");
    assert!(found.sign_mantissa == expected.sign_mantissa, "sign_mantissa");
    assert!(found.encoded_exponent == expected.encoded_exponent, "encoded_exponent");
    assert!(found.gaps == expected.gaps, "gaps");
}

#[track_caller]
fn assert_encoded(queue: &Queue, weights: &[u16]) -> EncodedGroup {
    let expected = encode(weights);
    assert_same(&encode_on(queue, weights), &expected);
    expected
}

/// So many exponents, all alike: codes of as many bits as their number says.
fn alike(n: usize, n_exponents: usize) -> Vec<u16> {
    (0..n).map(|i| (i % n_exponents) as u16 * 128 + (i as u16 & 0x8000 | i as u16 & 0x7F)).collect()
}

/// The exponents that have codes of 25 to 32 bits, among few others.
fn long(n: usize, seed: u64) -> Vec<u16> {
    let mut random = Random(seed);
    let weight = |_| match random.next() % 8 {
        0 => 0x7F80 - ((random.next() as u16 | 0x400).trailing_zeros() as u16) * 128,
        _ => 0x3F80 | random.next() as u16 & 0x80FF,
    };
    (0..n).map(weight).collect()
}

#[test]
fn groups_of_every_size_and_kind_are_encoded_as_on_the_cpu() {
    for queue in common::queues() {
        for n in [
            1, 2, 7, 8, 9, 255, 256, 257, 511, 512, 513, 1023, 1025, 4095, 4096, 4097, 8195, 16_385,
        ] {
            assert_encoded(&queue, &clustered_weights(n, n as u64));
            assert_encoded(&queue, &skewed_weights(n, n as u64));
            assert_encoded(&queue, &long(n, n as u64));
        }
        // Parts of 65,536, and what of an octet is of the part before.
        for n in [65_535, 65_536, 65_537, 131_072 + 4096 + 3] {
            assert_encoded(&queue, &clustered_weights(n, n as u64));
            assert_encoded(&queue, &long(n, n as u64));
        }
        assert_encoded(&queue, &noise(70_000, 1));
        assert_encoded(&queue, &(0..=u16::MAX).collect::<Vec<_>>());
    }
}

#[test]
fn codes_of_32_bits_are_among_them() {
    let group = encode(&long(20_000, 7));
    let lengths = &group.luts[group.luts.len() - 256..];
    assert!(lengths.contains(&32) && lengths.contains(&25), "{lengths:?}");
}

/// A code of every length from 1 to 32 bits, by Fibonacci's counts, for groups of any other.
fn fibonacci() -> Codebook {
    let mut counts = [0_u64; 256];
    let (mut a, mut b) = (1_u64, 1);
    for count in counts.iter_mut().take(33) {
        *count = 1000 * a;
        (a, b) = (b, a + b);
    }
    let book = Codebook::new(&counts).unwrap();
    assert!((1..=32).all(|length| book.lengths().contains(&length)), "{:?}", book.lengths());
    book
}

#[test]
fn codes_of_every_length_are_packed() {
    let mut random = Random(2);
    // Stretches of one length each, long and short ones alone, and all among each other.
    let mut weights = Vec::new();
    while weights.len() < 70_000 {
        let [least, span] = [random.next() % 33, random.next() % 16 + 1];
        for _ in 0..random.next() % 600 {
            let exponent = (least + random.next() % span).min(32);
            weights.push((exponent << 7 | random.next() & 0x807F) as u16);
        }
    }
    for queue in common::queues() {
        let book = fibonacci();
        assert_same(&pack_by(&queue, &weights, &book), &pack_by_rule(&weights, &book));
    }
}

/// Streams that end where a chunk, an octet or a block does, or a code that crosses into a block of its own.
#[test]
fn the_end_of_a_stream_is_where_it_is() {
    for queue in common::queues() {
        for (n_exponents, bits) in [(4, 2), (8, 3), (32, 5)] {
            for end in [64, 512, 1024, 32_768, 65_536] {
                let n: usize = end / bits;
                for n in [n - 1, n, n + 1, n + 2] {
                    assert_encoded(&queue, &alike(n, n_exponents));
                }
            }
        }
        let group = encode(&alike(10_923, 8));
        assert_eq!(group.encoded_exponent.len(), 4097, "the last code crosses");
        // Parts that end where blocks do.
        assert_encoded(&queue, &alike(2 * 65_536, 4));
        assert_encoded(&queue, &alike(2 * 65_536 + 1, 4));
    }
}

#[test]
fn groups_of_dense_blocks_are_packed_again() {
    let mostly = |n: usize, every: usize| -> Vec<u16> {
        (0..n).map(|i| if i % every == 0 { (i % 200) as u16 * 128 } else { 0x3F80 }).collect()
    };
    for queue in common::queues() {
        for weights in [vec![0xBF80; 66_000], mostly(100_000, 50), mostly(100_000, 7)] {
            let group = assert_encoded(&queue, &weights);
            let densest = group.as_raw("group").parse().unwrap().densest_block();
            assert!(densest <= PUBLISHED_BLOCK_ELEMENTS);
        }
        // By itself: a code of one bit, then one without.
        let weights = mostly(100_000, 50);
        let source = upload(&queue, &weights);
        let mut encoder = Encoder::new(&queue, weights.len() as u64).unwrap();
        let first = encoder.measure(&queue, &source.view()).unwrap();
        assert!(first.book.lengths().contains(&1));
        // Blocks that all have so many weights.
        let positions = |measured: &Measured, n: u32| {
            let n_positions = measured.output_positions_len() as u32 / 4;
            let bytes: Vec<u8> = (0..n_positions).flat_map(|i| (i * n).to_le_bytes()).collect();
            queue.upload(&bytes).unwrap()
        };
        let most = PUBLISHED_BLOCK_ELEMENTS as u32;
        let sparse = positions(&first, most);
        assert_eq!(encoder.lengthen(&queue, &sparse.view()).unwrap(), None);
        let short = sparse.view().slice(0..4).unwrap();
        let refused = encoder.lengthen(&queue, &short).unwrap_err().to_string();
        assert_eq!(refused, format!("output_positions: expected {}, got 4", sparse.len()));
        let mut dense = positions(&first, most + 1);
        let mut latest = first;
        while let Some(longer) = encoder.lengthen(&queue, &dense.view()).unwrap() {
            assert!(longer.n_code_bytes > latest.n_code_bytes);
            dense = positions(&longer, most + 1);
            latest = longer;
        }
        assert!(!latest.book.lengths().contains(&1));
        // Nothing was measured.
        let mut encoder = Encoder::new(&queue, 5).unwrap();
        assert_eq!(encoder.lengthen(&queue, &dense.view()).unwrap(), None);
    }
}

#[test]
fn golden_weights_are_encoded_as_on_the_cpu_and_come_back() {
    for file in ["qwen3-4b-slice.bf16.safetensors", "minilm-layer0.bf16.safetensors"] {
        let bytes = bf16_tensors(file);
        let weights: Vec<u16> =
            bytes.as_chunks().0.iter().map(|w| u16::from_le_bytes(*w)).collect();
        let expected = encode(&weights);
        for queue in common::queues_without_checks() {
            let mut encoder = Encoder::new(&queue, weights.len() as u64).unwrap();
            let source = upload(&queue, &weights);
            // The workspace is ready for the next group.
            for _ in 0..2 {
                let group = encoder.encode(&queue, &source.view()).unwrap();
                assert_same(&group.download(&queue).unwrap(), &expected);
                assert_come_back(&queue, &group, &source);
            }
        }
    }
}

/// Decoded in device memory, by both kinds of decoder.
fn assert_come_back(queue: &Queue, group: &DeviceGroup, source: &Buffer<bf16>) {
    let mut output = queue.alloc::<bf16>(source.len()).unwrap();
    let weights = queue.download(&source.view()).unwrap();
    let mut device = DeviceWeights::borrow(queue, [group.views()]).unwrap();
    let mut workspace = queue.alloc::<u64>(device.plan().workspace_len() as usize).unwrap();
    device.decode(queue, &mut workspace.view_mut(), &mut output.view_mut()).unwrap();
    device.check(queue, &workspace.view()).unwrap();
    assert!(queue.download(&output.view()).unwrap() == weights);
    let mut output = queue.alloc::<bf16>(source.len()).unwrap();
    device.index(queue).unwrap();
    let mut workspace = queue.alloc::<u64>(device.plan().workspace_len() as usize).unwrap();
    device.decode(queue, &mut workspace.view_mut(), &mut output.view_mut()).unwrap();
    device.check(queue, &workspace.view()).unwrap();
    assert!(queue.download(&output.view()).unwrap() == weights);
}

#[test]
fn every_schedule_and_fibre_encodes_the_same() {
    let mut weights = skewed_weights(65_536 + 9000, 5);
    weights[65_000..66_000].copy_from_slice(&long(1000, 3));
    let expected = encode(&weights);
    for config in common::configs() {
        let queue = Queue::simt(Config { seed: 3, ..config.clone() });
        assert!(encode_on(&queue, &weights) == expected, "{config:?}");
    }
}

/// A group by a code of one's own, as it is written down.
fn pack_by_rule(weights: &[u16], book: &Codebook) -> EncodedGroup {
    let (mut bits, mut starts) = (Vec::new(), Vec::new());
    for weight in weights {
        starts.push(bits.len());
        let exponent = usize::from(weight >> 7 & 255);
        let (code, length) = (book.codes()[exponent], book.lengths()[exponent]);
        bits.extend((0..length).rev().map(|bit| code >> bit & 1 != 0));
    }
    let byte = |bits: &[bool]| {
        bits.iter().zip((0..8).rev()).fold(0, |byte, (bit, at)| byte | u8::from(*bit) << at)
    };
    let encoded_exponent: Vec<u8> = bits.chunks(8).map(byte).collect();
    let n_blocks = encoded_exponent.len().div_ceil(4096);
    let first = |bit: usize| starts.partition_point(|start| *start < bit);
    let mut gap_bits = Vec::new();
    for chunk in 0..512 * n_blocks {
        let gap = starts.get(first(64 * chunk)).map_or(0, |start| start - 64 * chunk);
        gap_bits.extend((0..5).rev().map(|bit| gap >> bit & 1 != 0));
    }
    let positions = (0..n_blocks).map(|block| first(32_768 * block)).chain([weights.len()]);
    EncodedGroup {
        encoded_exponent,
        sign_mantissa: weights.iter().map(|w| (w >> 8 & 0x80 | w & 0x7F) as u8).collect(),
        luts: book.luts().to_vec(),
        gaps: gap_bits.chunks(8).map(byte).collect(),
        output_positions: positions.flat_map(|p| (p as u32).to_le_bytes()).collect(),
        split_positions: vec![],
    }
}

/// The launches by themselves.
fn pack_by(queue: &Queue, weights: &[u16], book: &Codebook) -> EncodedGroup {
    let plan = EncodePlan::new(weights.len() as u64).unwrap();
    let mut workspace = queue.alloc::<u64>(plan.workspace_len() as usize).unwrap();
    let mut counts = queue.alloc::<u64>(256).unwrap();
    let source = upload(queue, weights);
    let (mut space, mut counted) = (workspace.view_mut(), counts.view_mut());
    count_exponents(queue, &plan, &source.view(), &mut space, &mut counted).unwrap();
    let expected = pack_by_rule(weights, book);
    upload_codebook(queue, &plan, book, &mut space).unwrap();
    place_codes(queue, &plan, &mut space).unwrap();
    let mut group = DeviceGroup {
        encoded_exponent: queue.alloc(expected.encoded_exponent.len()).unwrap(),
        sign_mantissa: queue.alloc(weights.len()).unwrap(),
        luts: queue.upload(book.luts()).unwrap(),
        gaps: queue.alloc(expected.gaps.len()).unwrap(),
        output_positions: queue.alloc(expected.output_positions.len()).unwrap(),
    };
    pack_group(queue, &plan, &source.view(), &space, &mut group.views_mut()).unwrap();
    group.download(queue).unwrap()
}

/// As many bits as there can be on chip at once, from every bit of an octet on.
#[test]
fn codes_of_32_bits_alone_fit() {
    let group = encode(&long(20_000, 7));
    let book = Codebook::new(&count(&long(20_000, 7))).unwrap();
    assert_eq!(book.luts(), group.luts);
    let exponent = |length: u8| {
        let found = book.lengths().iter().position(|own| *own == length);
        found.unwrap_or_else(|| panic!("no code of {length} bits")) as u16
    };
    let [shortest, longest] = [1, 32].map(exponent);
    for queue in common::queues() {
        for n_before in [0, 1, 3, 63, 511] {
            let mut weights = vec![shortest << 7; 4096 + n_before];
            weights.extend(vec![longest << 7 | 3; 3 * 4096]);
            assert_same(&pack_by(&queue, &weights, &book), &pack_by_rule(&weights, &book));
        }
    }
    let weights = clustered_weights(9000, 1);
    let expected = encode(&weights);
    assert_same(&pack_by_rule(&weights, &Codebook::new(&count(&weights)).unwrap()), &expected);
}

fn count(weights: &[u16]) -> [u64; 256] {
    lacuna::huffman::compact::reference::count(weights)
}

/// Whatever is in the workspace, and however little room there is, nothing outside is touched.
#[test]
fn hostile_workspaces_stay_inside() {
    let weights = skewed_weights(65_536 + 5000, 9);
    let plan = EncodePlan::new(weights.len() as u64).unwrap();
    // Codes may be anywhere, so that two blocks write one place, or none does.
    let checks = Checks { unwritten: false, races: false, ..Checks::ALL };
    for seed in 0..28 {
        let queue =
            Queue::simt(Config { schedule: Schedule::Random, seed, checks, ..Config::default() });
        let mut workspace = queue.upload(&hostile_workspace(&plan, seed)).unwrap();
        let mut space = workspace.view_mut();
        if seed % 3 == 0 {
            place_codes(&queue, &plan, &mut space).unwrap();
        }
        let source = upload(&queue, &weights);
        let room = [1, 5, 16, 4000, 4096, 4097, 9003][seed as usize % 7];
        let n_blocks = usize::div_ceil(room, 4096);
        let [gaps_len, positions_len] = [320 * n_blocks, 4 * (n_blocks + 1)];
        let poison = vec![0xA5_u8; 16_384];
        let mut buffers = [(); 3].map(|()| queue.upload(&poison).unwrap());
        let [codes, gaps, positions] = &mut buffers;
        let mut views = [codes.view_mut(), gaps.view_mut(), positions.view_mut()];
        let [codes, gaps, positions] = &mut views;
        let mut sign_mantissa = queue.alloc::<u8>(weights.len()).unwrap();
        let mut outputs = GroupViewsMut {
            encoded_exponent: codes.slice_mut(0..room).unwrap(),
            sign_mantissa: sign_mantissa.view_mut(),
            gaps: gaps.slice_mut(0..gaps_len).unwrap(),
            output_positions: positions.slice_mut(0..positions_len).unwrap(),
        };
        pack_group(&queue, &plan, &source.view(), &space, &mut outputs).unwrap();
        for (buffer, len) in buffers.iter().zip([room, gaps_len, positions_len]) {
            let found = queue.download(&buffer.view()).unwrap();
            assert!(found[len..].iter().all(|byte| *byte == 0xA5));
        }
        let found = queue.download(&sign_mantissa.view()).unwrap();
        assert!(found == encode(&weights).sign_mantissa);
    }
}

/// A stream that has less room than it needs is cut off there.
#[test]
fn codes_end_where_their_room_does() {
    let weights = clustered_weights(70_000, 4);
    let expected = encode(&weights);
    for queue in common::queues() {
        let source = upload(&queue, &weights);
        let plan = EncodePlan::new(70_000).unwrap();
        let mut workspace = queue.alloc::<u64>(plan.workspace_len() as usize).unwrap();
        let mut counts = queue.alloc::<u64>(256).unwrap();
        let mut space = workspace.view_mut();
        count_exponents(&queue, &plan, &source.view(), &mut space, &mut counts.view_mut()).unwrap();
        let book = Codebook::new(&count(&weights)).unwrap();
        upload_codebook(&queue, &plan, &book, &mut space).unwrap();
        place_codes(&queue, &plan, &mut space).unwrap();
        let n_code_bytes = expected.encoded_exponent.len();
        for n_bytes in [1, 15, 16, 17, 4095, 4096, 4097, 8192, n_code_bytes - 1] {
            let n_blocks = n_bytes.div_ceil(4096);
            let mut group = DeviceGroup {
                encoded_exponent: queue.alloc(n_bytes).unwrap(),
                sign_mantissa: queue.alloc(weights.len()).unwrap(),
                luts: queue.alloc(512).unwrap(),
                gaps: queue.alloc(320 * n_blocks).unwrap(),
                output_positions: queue.alloc(4 * (n_blocks + 1)).unwrap(),
            };
            pack_group(&queue, &plan, &source.view(), &space, &mut group.views_mut()).unwrap();
            let found = group.download(&queue).unwrap();
            assert!(found.encoded_exponent == expected.encoded_exponent[..n_bytes]);
            assert!(found.gaps == expected.gaps[..320 * n_blocks]);
            let [inner, last] = [4 * n_blocks, found.output_positions.len() - 4];
            assert_eq!(found.output_positions[..inner], expected.output_positions[..inner]);
            assert_eq!(found.output_positions[last..], 70_000_u32.to_le_bytes());
        }
    }
}

/// Nothing outside is touched, what comes of it is read like any group, and the encoder goes on.
#[test]
fn other_weights_than_were_measured_are_packed_to_no_group() {
    let [measured, other] = [clustered_weights(70_000, 4), noise(70_000, 5)];
    // Blocks that have more bits than were counted write what is of the next, too.
    let checks = Checks { unwritten: false, races: false, ..Checks::ALL };
    for seed in 0..4 {
        let queue =
            Queue::simt(Config { schedule: Schedule::Random, seed, checks, ..Config::default() });
        let mut encoder = Encoder::new(&queue, 70_000).unwrap();
        let [source, wrong] = [&measured, &other].map(|weights| upload(&queue, weights));
        let mut group = encoder.encode(&queue, &source.view()).unwrap();
        encoder.pack(&queue, &wrong.view(), &mut group.views_mut()).unwrap();
        let found = group.download(&queue).unwrap();
        assert!(found.sign_mantissa == encode(&other).sign_mantissa);
        assert!(found.encoded_exponent != encode(&measured).encoded_exponent);
        if let Ok(group) = found.as_raw("group").parse() {
            let mut decoded = vec![0; 70_000];
            let verdict = lacuna::huffman::decode(&group, &mut decoded);
            assert!(verdict.is_err() || decoded != other);
        }
        let encoded = encoder.encode(&queue, &wrong.view()).unwrap().download(&queue).unwrap();
        assert_same(&encoded, &encode(&other));
    }
}

#[test]
fn what_is_wrong_is_said() {
    let queue = Queue::simt(Config::default());
    let message = |error: lacuna::Error| error.to_string();
    assert_eq!(
        message(Encoder::new(&queue, 0).unwrap_err()),
        "weights of a group: 0 is outside 1..2^32"
    );
    let mut encoder = Encoder::new(&queue, 200).unwrap();
    let weights = upload(&queue, &clustered_weights(208, 1));
    let view = weights.view();
    let of = |encoder: &mut Encoder, range| {
        message(encoder.measure(&queue, &view.slice(range).unwrap()).unwrap_err())
    };
    assert_eq!(of(&mut encoder, 0..199), "weights: expected 200, got 199");
    assert!(of(&mut encoder, 1..201).starts_with("address of weights: "));
    let view = view.slice(0..200).unwrap();
    let mut group = encoder.encode(&queue, &view).unwrap();
    let mut other = queue.alloc::<u8>(400).unwrap();
    let mut all = other.view_mut();
    let mut say = |range: std::ops::Range<usize>, which: usize| {
        let own = all.slice_mut(range).unwrap();
        let mut outputs = group.views_mut();
        match which {
            0 => outputs.encoded_exponent = own,
            1 => outputs.sign_mantissa = own,
            2 => outputs.gaps = own,
            _ => outputs.output_positions = own,
        }
        message(encoder.pack(&queue, &view, &mut outputs).unwrap_err())
    };
    let n_bytes = encode(&clustered_weights(208, 1)[..200]).encoded_exponent.len();
    for n in [0, n_bytes - 1, n_bytes + 1] {
        let expected = format!("encoded_exponent: expected {n_bytes}, got {n}");
        assert_eq!(say(0..n, 0), expected);
    }
    assert!(say(8..8 + n_bytes, 0).starts_with("address of encoded_exponent: "));
    assert!(say(8..208, 1).starts_with("address of sign_mantissa: "));
    assert!(say(2..10, 3).starts_with("address of output_positions: "));
    assert_eq!(say(0..199, 1), "sign_mantissa: expected 200, got 199");
    assert_eq!(say(0..321, 2), "gaps: expected 320, got 321");
    assert_eq!(say(0..12, 3), "output_positions: expected 8, got 12");
    let nothing = "measured groups: 0 is outside 1: `measure` comes before `pack`";
    let mut fresh = Encoder::new(&queue, 200).unwrap();
    assert_eq!(message(fresh.pack(&queue, &view, &mut group.views_mut()).unwrap_err()), nothing);
    // A group that could not be measured is not the one before.
    assert_eq!(of(&mut encoder, 0..199), "weights: expected 200, got 199");
    assert_eq!(message(encoder.pack(&queue, &view, &mut group.views_mut()).unwrap_err()), nothing);
    let (plan, book) = (*encoder.plan(), Codebook::new(&count(&[1])).unwrap());
    let mut workspace = queue.alloc::<u64>(plan.workspace_len() as usize).unwrap();
    let mut empty = queue.alloc(0).unwrap();
    let mut outputs = GroupViewsMut { encoded_exponent: empty.view_mut(), ..group.views_mut() };
    assert_eq!(
        message(pack_group(&queue, &plan, &view, &workspace.view_mut(), &mut outputs).unwrap_err()),
        "code bytes of a group: 0 is outside 1..2^31"
    );
    let mut short = queue.alloc::<u64>(3).unwrap();
    assert_eq!(
        message(upload_codebook(&queue, &plan, &book, &mut short.view_mut()).unwrap_err()),
        format!("workspace: expected {}, got 3", plan.workspace_len())
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn any_weights_are_encoded_as_on_the_cpu(
        weights in prop::collection::vec(any::<u16>(), 1..10_000),
        seed: u64,
    ) {
        let (schedule, checks) = (Schedule::Random, Checks::ALL);
        let queue = Queue::simt(Config { schedule, seed, checks, ..Config::default() });
        prop_assert!(encode_on(&queue, &weights) == encode(&weights));
    }

    #[test]
    fn any_histogram_is_encoded_as_on_the_cpu(
        runs in prop::collection::vec((any::<u8>(), 1_u32..13), 1..40),
        seed: u64,
    ) {
        let mut weights: Vec<u16> = Vec::new();
        for (exponent, magnitude) in runs {
            weights.extend(vec![u16::from(exponent) << 7 | 1; 1 << magnitude]);
        }
        let (schedule, checks) = (Schedule::Random, Checks::ALL);
        let queue = Queue::simt(Config { schedule, seed, checks, ..Config::default() });
        prop_assert!(encode_on(&queue, &weights) == encode(&weights));
    }
}
