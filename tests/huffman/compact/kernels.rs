//! The kernels that encode: bit for bit what the CPU's encoder gives.

use half::bf16;
use lacuna::huffman::DeviceWeights;
use lacuna::huffman::compact::{
    self, CompactCode, CompactGroup, CompactViewsMut, EncodePlan, Encoder, count_exponents,
    pack_codes, place_codes, reference, upload_code,
};
use lacuna::simt::{Checks, Config, Schedule};
use lacuna::{Buffer, Queue};
use proptest::prelude::*;

use super::{encode, hostile_workspace};
use crate::common::{self, GOLDEN, Random, bf16_tensors, clustered_weights, noise, skewed_weights};

fn upload(queue: &Queue, weights: &[u16]) -> Buffer<bf16> {
    let weights: Vec<bf16> = weights.iter().map(|bits| bf16::from_bits(*bits)).collect();
    queue.upload(&weights).unwrap()
}

fn encode_on(queue: &Queue, weights: &[u16]) -> CompactGroup {
    let mut encoder = Encoder::new(queue, weights.len() as u64).unwrap();
    let group = encoder.encode(queue, &upload(queue, weights).view()).unwrap();
    group.download(queue).unwrap()
}

#[track_caller]
fn assert_encoded(queue: &Queue, weights: &[u16]) {
    let (found, expected) = (encode_on(queue, weights), encode(weights));
    assert_eq!(found.lengths, expected.lengths, "lengths");
    assert_eq!(found.granule_bits, expected.granule_bits, "granule_bits");
    assert_eq!(found.tile_bytes, expected.tile_bytes, "tile_bytes");
    assert!(found.sign_mantissa == expected.sign_mantissa, "sign_mantissa");
    assert!(found.codes == expected.codes, "codes");
}

#[test]
fn weights_of_every_size_and_kind_are_encoded_as_on_the_cpu() {
    for queue in common::queues() {
        for n in
            [1, 7, 8, 9, 127, 128, 129, 255, 256, 257, 4095, 4096, 4097, 4100, 4129, 8192, 16_385]
        {
            assert_encoded(&queue, &clustered_weights(n, n as u64));
            assert_encoded(&queue, &skewed_weights(n, n as u64));
        }
        // Parts of 65,536, and codes of 1, 8 and 12 bits.
        for n in [65_535, 65_536, 65_537, 131_072 + 4096 + 3] {
            assert_encoded(&queue, &clustered_weights(n, n as u64));
        }
        assert_encoded(&queue, &noise(70_000, 1));
        assert_encoded(&queue, &vec![0xBF80; 66_000]);
        assert_encoded(&queue, &(0..=u16::MAX).collect::<Vec<_>>());
    }
}

/// Codes of 12 bits alone: as many bits as a tile on chip can have.
#[test]
fn a_tile_of_the_longest_codes_fits() {
    let mut weights: Vec<u16> = vec![0x3F80; 3 * 65_536];
    // Rare ones, all in one tile and the next's beginning.
    for (i, weight) in weights[4096..2 * 4096 + 40].iter_mut().enumerate() {
        *weight = (i % 200) as u16 * 128;
    }
    let code = CompactCode::new(&reference::count(&weights)).unwrap();
    assert!(code.lengths().iter().filter(|length| **length >= 8).count() > 190);
    for queue in common::queues() {
        assert_encoded(&queue, &weights);
        // By a code of another group, in which all of them have 12 bits.
        let lengths = std::array::from_fn(|_| 0xCC);
        let of_twelve = CompactCode::of_lengths(&lengths).unwrap();
        let found = pack_by(&queue, &weights, &of_twelve);
        assert!(found == reference::encode(&weights, &of_twelve));
    }
}

/// The launches by themselves, with a code of one's own.
fn pack_by(queue: &Queue, weights: &[u16], code: &CompactCode) -> CompactGroup {
    let plan = EncodePlan::new(weights.len() as u64).unwrap();
    let mut workspace = queue.alloc::<u64>(plan.workspace_len() as usize).unwrap();
    let mut counts = queue.alloc::<u64>(256).unwrap();
    let source = upload(queue, weights);
    let (mut space, mut counted) = (workspace.view_mut(), counts.view_mut());
    count_exponents(queue, &plan, &source.view(), &mut space, &mut counted).unwrap();
    let histogram: [u64; 256] = queue.download(&counts.view()).unwrap().try_into().unwrap();
    assert_eq!(histogram, reference::count(weights));
    let n_code_bytes = code.n_bits(&histogram).div_ceil(8) as usize;
    upload_code(queue, &plan, code, &mut space).unwrap();
    place_codes(queue, &plan, &mut space).unwrap();
    let mut codes = queue.alloc::<u8>(n_code_bytes).unwrap();
    let mut sign_mantissa = queue.alloc::<u8>(weights.len()).unwrap();
    let mut tile_bytes = queue.alloc::<u32>(plan.tile_bytes_len() as usize).unwrap();
    let mut granule_bits = queue.alloc::<u16>(plan.granule_bits_len() as usize).unwrap();
    let mut outputs = CompactViewsMut {
        codes: codes.view_mut(),
        sign_mantissa: sign_mantissa.view_mut(),
        tile_bytes: tile_bytes.view_mut(),
        granule_bits: granule_bits.view_mut(),
    };
    pack_codes(queue, &plan, &source.view(), &space, &mut outputs).unwrap();
    CompactGroup {
        codes: queue.download(&codes.view()).unwrap(),
        sign_mantissa: queue.download(&sign_mantissa.view()).unwrap(),
        lengths: code.to_lengths(),
        tile_bytes: queue.download(&tile_bytes.view()).unwrap(),
        granule_bits: queue.download(&granule_bits.view()).unwrap(),
        split_positions: vec![],
    }
}

#[test]
fn golden_weights_are_encoded_as_on_the_cpu_and_come_back() {
    let bytes = bf16_tensors(GOLDEN[1].bf16);
    let weights: Vec<u16> = bytes.as_chunks().0.iter().map(|w| u16::from_le_bytes(*w)).collect();
    for queue in common::queues() {
        assert_encoded(&queue, &weights);
        let mut encoder = Encoder::new(&queue, weights.len() as u64).unwrap();
        let source = upload(&queue, &weights);
        // The workspace is ready for the next group.
        for _ in 0..2 {
            let group = encoder.encode(&queue, &source.view()).unwrap();
            let device = DeviceWeights::borrow(&queue, [group.views()]).unwrap();
            let mut output = queue.alloc::<bf16>(weights.len()).unwrap();
            let mut status = queue.alloc::<u64>(2).unwrap();
            device.decode(&queue, &mut status.view_mut(), &mut output.view_mut()).unwrap();
            device.check(&queue, &status.view()).unwrap();
            assert!(
                queue.download(&output.view()).unwrap() == queue.download(&source.view()).unwrap()
            );
        }
    }
}

/// So many parts that several blocks count their bits.
#[test]
fn many_parts_are_placed_one_after_another() {
    for queue in common::queues() {
        let plan = EncodePlan::new(1100 * 65_536 - 5).unwrap();
        let [n_parts, parts, end] = [1100, 514, plan.workspace_len() as usize];
        let mut random = Random(3);
        let mut words = vec![0_u64; end];
        let code = CompactCode::new(&reference::count(&skewed_weights(5000, 1))).unwrap();
        let mut starts = vec![0];
        for part in words[parts..][..128 * n_parts].chunks_mut(128) {
            let mut n_bits = 0;
            for (idx, word) in part.iter_mut().enumerate() {
                let [low, high] = [random.next() % 500, random.next() % 500];
                *word = low | high << 32;
                let lengths = &code.lengths()[2 * idx..];
                n_bits += low * u64::from(lengths[0]) + high * u64::from(lengths[1]);
            }
            starts.push(starts.last().unwrap() + n_bits);
        }
        let mut workspace = queue.upload(&words).unwrap();
        let mut space = workspace.view_mut();
        upload_code(&queue, &plan, &code, &mut space).unwrap();
        for _ in 0..2 {
            place_codes(&queue, &plan, &mut space).unwrap();
            let found = queue.download(&space.as_view()).unwrap();
            assert_eq!(found[end - n_parts - 1..], starts);
        }
    }
}

#[test]
fn every_schedule_and_fibre_encodes_the_same() {
    let weights = skewed_weights(65_536 + 9000, 5);
    let expected = encode(&weights);
    for config in common::configs() {
        let queue = Queue::simt(Config { seed: 3, ..config.clone() });
        assert!(encode_on(&queue, &weights) == expected, "{config:?}");
    }
}

/// Whatever is in the workspace, and however little room there is, nothing outside is touched.
#[test]
fn hostile_workspaces_stay_inside() {
    let weights = skewed_weights(65_536 + 5000, 9);
    let plan = EncodePlan::new(weights.len() as u64).unwrap();
    // Codes may be anywhere, so that two blocks write one place, or none does.
    let checks = Checks { unwritten: false, races: false, ..Checks::ALL };
    for seed in 0..24 {
        let queue =
            Queue::simt(Config { schedule: Schedule::Random, seed, checks, ..Config::default() });
        let mut workspace = queue.upload(&hostile_workspace(&plan, seed)).unwrap();
        let mut space = workspace.view_mut();
        if seed % 3 == 0 {
            place_codes(&queue, &plan, &mut space).unwrap();
        }
        let source = upload(&queue, &weights);
        let room = [1, 2, 3, 4, 5, 4000, 4003][seed as usize % 7];
        let mut codes = queue.upload(&[0xA5_u8; 4096]).unwrap();
        let mut sign_mantissa = queue.alloc::<u8>(weights.len()).unwrap();
        let mut tile_bytes = queue.alloc::<u32>(plan.tile_bytes_len() as usize).unwrap();
        let mut granule_bits = queue.alloc::<u16>(plan.granule_bits_len() as usize).unwrap();
        let mut all = codes.view_mut();
        let mut outputs = CompactViewsMut {
            codes: all.slice_mut(0..room).unwrap(),
            sign_mantissa: sign_mantissa.view_mut(),
            tile_bytes: tile_bytes.view_mut(),
            granule_bits: granule_bits.view_mut(),
        };
        pack_codes(&queue, &plan, &source.view(), &space, &mut outputs).unwrap();
        let found = queue.download(&codes.view()).unwrap();
        assert!(found[room..].iter().all(|byte| *byte == 0xA5));
        let found = queue.download(&sign_mantissa.view()).unwrap();
        assert!(found == encode(&weights).sign_mantissa);
    }
}

/// A stream that has less room than it needs is cut off there.
#[test]
fn codes_end_where_their_room_does() {
    let weights = clustered_weights(9000, 4);
    let expected = encode(&weights);
    for queue in common::queues() {
        let source = upload(&queue, &weights);
        let plan = EncodePlan::new(9000).unwrap();
        let mut workspace = queue.alloc::<u64>(plan.workspace_len() as usize).unwrap();
        let mut counts = queue.alloc::<u64>(256).unwrap();
        let mut space = workspace.view_mut();
        count_exponents(&queue, &plan, &source.view(), &mut space, &mut counts.view_mut()).unwrap();
        let code = CompactCode::new(&reference::count(&weights)).unwrap();
        upload_code(&queue, &plan, &code, &mut space).unwrap();
        place_codes(&queue, &plan, &mut space).unwrap();
        let mut encoder = Encoder::new(&queue, 9000).unwrap();
        let mut group = encoder.encode(&queue, &source.view()).unwrap();
        for n_bytes in [1, 2, 3, 4, 700, 703, expected.codes.len() - 1] {
            let mut codes = queue.upload(&vec![0xA5_u8; expected.codes.len()]).unwrap();
            let mut all = codes.view_mut();
            let codes_view = all.slice_mut(0..n_bytes).unwrap();
            let mut outputs = CompactViewsMut { codes: codes_view, ..group.views_mut() };
            pack_codes(&queue, &plan, &source.view(), &space, &mut outputs).unwrap();
            let found = queue.download(&codes.view()).unwrap();
            assert!(found[..n_bytes] == expected.codes[..n_bytes]);
            assert!(found[n_bytes..].iter().all(|byte| *byte == 0xA5));
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
        assert!(found.codes != encode(&measured).codes);
        if let Ok(group) = found.as_raw("group").parse() {
            let mut decoded = vec![0; 70_000];
            let verdict = compact::decode(&group, &mut decoded);
            assert!(verdict.is_err() || decoded != other);
        }
        let encoded = encoder.encode(&queue, &wrong.view()).unwrap().download(&queue).unwrap();
        assert_eq!(encoded.lengths, encode(&other).lengths);
        assert!(encoded.codes == encode(&other).codes);
    }
}

#[test]
fn what_is_wrong_is_said() {
    let queue = Queue::simt(Config::default());
    let message = |error: lacuna::Error| error.to_string();
    assert_eq!(
        message(EncodePlan::new(0).unwrap_err()),
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
    let mut bits = queue.alloc::<u16>(2).unwrap();
    let mut outputs = CompactViewsMut { granule_bits: bits.view_mut(), ..group.views_mut() };
    assert_eq!(
        message(encoder.pack(&queue, &view, &mut outputs).unwrap_err()),
        "granule_bits: expected 3, got 2"
    );
    let n_bytes = encode(&clustered_weights(208, 1)[..200]).codes.len();
    for n in [0, n_bytes - 1, n_bytes + 1] {
        let mut codes = queue.alloc(n).unwrap();
        let mut outputs = CompactViewsMut { codes: codes.view_mut(), ..group.views_mut() };
        assert_eq!(
            message(encoder.pack(&queue, &view, &mut outputs).unwrap_err()),
            format!("codes: expected {n_bytes}, got {n}")
        );
    }
    let nothing = "measured groups: 0 is outside 1: `measure` comes before `pack`";
    let mut fresh = Encoder::new(&queue, 200).unwrap();
    assert_eq!(message(fresh.pack(&queue, &view, &mut group.views_mut()).unwrap_err()), nothing);
    // A group that could not be measured is not the one before.
    assert_eq!(of(&mut encoder, 0..199), "weights: expected 200, got 199");
    assert_eq!(message(encoder.pack(&queue, &view, &mut group.views_mut()).unwrap_err()), nothing);
    let mut short = queue.alloc::<u64>(3).unwrap();
    let plan = *encoder.plan();
    assert_eq!(
        message(place_codes(&queue, &plan, &mut short.view_mut()).unwrap_err()),
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
        let found = encode_on(&queue, &weights);
        prop_assert!(found == compact::encode(&[bytemuck::cast_slice(&weights)]).unwrap());
    }

    #[test]
    fn plans_take_any_size(n_elements: u64, n_code_bytes in 0_u64..1 << 40) {
        if let Ok(plan) = EncodePlan::new(n_elements) {
            prop_assert!(plan.n_zeros() < plan.workspace_len());
            let _ = (plan.least_bytes(n_code_bytes), plan.most_code_bytes(), plan.pack_grid());
        }
        let _ = EncodePlan::new(n_elements >> 32).map(|plan| plan.workspace_len());
    }
}
