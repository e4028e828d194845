//! The decode kernel: bit for bit the reference, on valid and on corrupt groups, whatever the
//! schedule.

use half::bf16;
use lacuna::huffman::{self, Corruption, DeviceWeights, GroupViews, RawGroup, reference};
use lacuna::simt::{Checks, Config, Fibres, Schedule};
use lacuna::{Error, Queue};
use proptest::prelude::*;

use crate::common::{self, GOLDEN, clustered_weights, encode};

/// What a launch over `groups` leaves: each group's bits, and the report.
fn decode_on(queue: &Queue, groups: &[RawGroup<'_>]) -> (Vec<Vec<u16>>, Option<Corruption>) {
    let uploads: Vec<_> = groups
        .iter()
        .map(|raw| {
            [raw.encoded_exponent, raw.sign_mantissa, raw.luts, raw.gaps, raw.output_positions]
                .map(|tensor| queue.upload(tensor).unwrap())
        })
        .collect();
    // The views skip the validator, as an engine could: the kernel has to be safe by itself.
    let views: Vec<_> = uploads
        .iter()
        .map(|[codes, sign_mantissa, luts, gaps, positions]| GroupViews {
            encoded_exponent: codes.view(),
            sign_mantissa: sign_mantissa.view(),
            luts: luts.view(),
            gaps: gaps.view(),
            output_positions: positions.view(),
        })
        .collect();
    let weights = DeviceWeights::borrow(queue, views).unwrap();
    let plan = weights.plan();

    let poison = vec![bf16::from_bits(0xDEAD); plan.output_len() as usize + 8];
    let mut output = queue.upload(&poison).unwrap();
    let mut workspace = queue.alloc::<u64>(plan.workspace_len() as usize).unwrap();
    weights.decode(queue, &mut workspace.view_mut(), &mut output.view_mut()).unwrap();

    let report = match weights.check(queue, &workspace.view()) {
        Ok(()) => None,
        Err(Error::Corrupt(corruption)) => Some(corruption),
        Err(error) => panic!("{error}"),
    };
    let words = queue.download(&workspace.view()).unwrap();
    assert!(words[2..].iter().all(|word| *word == 0), "the workspace is not left ready");

    let bits: Vec<u16> =
        queue.download(&output.view()).unwrap().into_iter().map(bf16::to_bits).collect();
    let mut next = 0;
    let decoded = (0..groups.len())
        .map(|idx| {
            let range = plan.output_range(idx).unwrap();
            let (start, end) = (range.start as usize, range.end as usize);
            assert!(bits[next..start].iter().all(|b| *b == 0xDEAD), "wrote between groups");
            next = end;
            bits[start..end].to_vec()
        })
        .collect();
    assert!(bits[next..].iter().all(|b| *b == 0xDEAD), "wrote past the last group");
    (decoded, report)
}

/// What the reference says of the same groups, as one launch.
fn decode_by_reference(groups: &[RawGroup<'_>]) -> (Vec<Vec<u16>>, Option<Corruption>) {
    let mut first_block = 0;
    let mut report = None;
    let decoded = groups
        .iter()
        .map(|raw| {
            let mut output = vec![0; raw.sign_mantissa.len()];
            if let Err(corruption) = reference::decode(raw, &mut output) {
                let block = first_block + corruption.block;
                report = report.or(Some(Corruption { block, ..corruption }));
            }
            first_block += raw.encoded_exponent.len().div_ceil(huffman::BYTES_PER_BLOCK) as u32;
            output
        })
        .collect();
    (decoded, report)
}

#[track_caller]
fn assert_same(queue: &Queue, groups: &[RawGroup<'_>]) {
    assert_eq!(decode_on(queue, groups).1, decode_by_reference(groups).1, "report");
    assert!(decode_on(queue, groups).0 == decode_by_reference(groups).0, "bits differ");
}

#[test]
fn golden_groups_decode_bit_for_bit_on_every_executor() {
    for queue in common::queues() {
        for trained in &GOLDEN {
            let checkpoint = huffman::Checkpoint::open(common::data(trained.df11)).unwrap();
            let groups = checkpoint.groups().unwrap();
            let weights = DeviceWeights::upload(&queue, &groups).unwrap();
            let plan = weights.plan();
            let mut output = queue.alloc::<bf16>(plan.output_len() as usize).unwrap();
            let mut workspace = queue.alloc::<u64>(plan.workspace_len() as usize).unwrap();
            weights.decode(&queue, &mut workspace.view_mut(), &mut output.view_mut()).unwrap();
            weights.check(&queue, &workspace.view()).unwrap();
            let decoded = queue.download(&output.view()).unwrap();
            let expected = common::bf16_tensors(trained.bf16);
            assert!(bytemuck::cast_slice::<bf16, u8>(&decoded) == expected, "{}", trained.df11);
        }
    }
}

#[test]
fn many_groups_decode_in_one_launch() {
    let weights: Vec<_> = [1, 7, 8, 9, 4096, 30_001].map(|n| clustered_weights(n, n as u64)).into();
    let encoded: Vec<_> = weights.iter().map(|w| encode(w)).collect();
    let raw: Vec<_> = encoded.iter().map(|e| e.as_raw("group")).collect();
    for queue in common::queues() {
        let (decoded, report) = decode_on(&queue, &raw);
        assert_eq!(report, None);
        assert!(decoded == weights);
    }
}

#[test]
fn no_groups_are_no_work() {
    for queue in common::queues() {
        assert_eq!(decode_on(&queue, &[]), (vec![], None));
    }
}

#[test]
fn the_densest_block_fits_in_shared_memory() {
    // Every code has one bit: 32,768 elements in a block, which the published kernel cannot launch.
    let n = 100_000;
    let raw_tables = {
        let mut luts = vec![0_u8; 512];
        luts[..128].fill(120);
        luts[128..256].fill(121);
        luts[256 + 120] = 1;
        luts[256 + 121] = 1;
        luts
    };
    let n_code_bytes = n / 8;
    let codes: Vec<u8> = (0..n_code_bytes).map(|i| (i * 37 % 251) as u8).collect();
    let n_blocks = codes.len().div_ceil(4096);
    let positions: Vec<u8> =
        (0..=n_blocks).flat_map(|b| ((b * 32_768).min(n) as u32).to_le_bytes()).collect();
    let sign_mantissa: Vec<u8> = (0..n).map(|i| (i % 253) as u8).collect();
    let gaps = vec![0; 320 * n_blocks];
    let raw = RawGroup {
        name: "dense",
        encoded_exponent: &codes,
        sign_mantissa: &sign_mantissa,
        luts: &raw_tables,
        gaps: &gaps,
        output_positions: &positions,
        split_positions: &[],
    };
    for queue in common::queues() {
        let (decoded, report) = decode_on(&queue, &[raw]);
        assert_eq!(report, None);
        let exponent = |i: usize| 120 + u16::from(codes[i / 8] >> (7 - i % 8) & 1);
        for (i, bits) in decoded[0].iter().enumerate() {
            let byte = u16::from(sign_mantissa[i]);
            assert_eq!(*bits, (byte & 0x80) << 8 | exponent(i) << 7 | byte & 0x7F, "element {i}");
        }
    }
}

#[test]
fn every_schedule_and_fibre_gives_the_same_bits() {
    let weights = [clustered_weights(20_000, 5), clustered_weights(3, 6)];
    let encoded = weights.each_ref().map(|w| encode(w));
    let raw = encoded.each_ref().map(|e| e.as_raw("group"));
    let schedules = [
        Schedule::InOrder,
        Schedule::Reverse,
        Schedule::Random,
        Schedule::WarpFirst,
        Schedule::LaneLast,
    ];
    for schedule in schedules {
        for fibres in [Fibres::Native, Fibres::Portable] {
            for seed in 0..3 {
                let queue = Queue::simt(Config {
                    schedule,
                    seed,
                    fibres,
                    checks: Checks::ALL,
                    ..Config::default()
                });
                let (decoded, report) = decode_on(&queue, &raw);
                assert_eq!(report, None, "{schedule:?} {fibres:?} seed {seed}");
                assert!(decoded == weights, "{schedule:?} {fibres:?} seed {seed}");
            }
        }
    }
}

#[test]
fn every_flipped_byte_of_a_small_group_gives_what_the_reference_gives() {
    let queue = Queue::simt(Config::default());
    let encoded = encode(&clustered_weights(300, 11));
    let raw = encoded.as_raw("group");
    let tensors =
        [raw.encoded_exponent, raw.sign_mantissa, raw.luts, raw.gaps, raw.output_positions];
    let mut n_reported = 0;
    for (idx, tensor) in tensors.iter().enumerate() {
        for byte in 0..tensor.len() {
            for mask in [0xFF, 1 << (byte % 8)] {
                let mut damaged = tensors.map(<[u8]>::to_vec);
                damaged[idx][byte] ^= mask;
                let damaged = common::raw_of(&damaged);
                assert_same(&queue, &[damaged]);
                n_reported += usize::from(decode_by_reference(&[damaged]).1.is_some());
            }
        }
    }
    // Signs and mantissas carry no redundancy, and unused table entries and gaps are not read.
    assert!(n_reported > 100, "{n_reported}");
}

#[test]
fn a_corrupt_group_leaves_its_neighbours_alone() {
    let weights = clustered_weights(20_000, 3);
    let encoded = encode(&weights);
    let sound = encoded.as_raw("sound");
    let mut gaps = sound.gaps.to_vec();
    gaps[330] ^= 0xFF;
    let corrupt = RawGroup { gaps: &gaps, ..sound };
    for queue in common::queues() {
        let (decoded, report) = decode_on(&queue, &[sound, corrupt, sound]);
        let n_blocks = sound.encoded_exponent.len().div_ceil(4096) as u32;
        assert_eq!(report.unwrap().block, n_blocks + 1);
        assert!(decoded[0] == weights && decoded[2] == weights);
        assert!(decoded[1].iter().all(|bits| *bits == 0x7FC0));
    }
}

#[test]
fn short_buffers_are_refused_before_the_launch() {
    for queue in common::queues() {
        let encoded = encode(&clustered_weights(100, 1));
        let group = encoded.as_raw("group").parse().unwrap();
        let weights = DeviceWeights::upload(&queue, [group]).unwrap();
        let mut workspace = queue.alloc::<u64>(3).unwrap();
        let mut output = queue.alloc::<bf16>(100).unwrap();
        let short = weights.decode(
            &queue,
            &mut workspace.view_mut(),
            &mut output.view_mut().slice_mut(0..99).unwrap(),
        );
        assert_eq!(short.unwrap_err().to_string(), "output: expected 100, got 99");
        let short = weights.decode(
            &queue,
            &mut workspace.view_mut().slice_mut(0..1).unwrap(),
            &mut output.view_mut(),
        );
        assert_eq!(short.unwrap_err().to_string(), "workspace: expected 3, got 1");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_weights_come_back(weights in prop::collection::vec(any::<u16>(), 1..9000), seed: u64) {
        let config = Config { schedule: Schedule::Random, seed, ..Config::default() };
        let queue = Queue::simt(Config { checks: Checks::ALL, ..config });
        let encoded = encode(&weights);
        let (decoded, report) = decode_on(&queue, &[encoded.as_raw("group")]);
        prop_assert_eq!(report, None);
        prop_assert!(decoded[0] == weights);
    }

    #[test]
    fn random_damage_gives_what_the_reference_gives(
        n in 1_usize..30_000,
        seed: u64,
        damage in prop::collection::vec((0_usize..5, any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let config = Config { schedule: Schedule::Random, seed, ..Config::default() };
        let queue = Queue::simt(Config { checks: Checks::ALL, ..config });
        let encoded = encode(&clustered_weights(n, seed));
        let raw = encoded.as_raw("group");
        let tensors = common::damaged(&raw, damage);
        let raw = common::raw_of(&tensors);
        prop_assert_eq!(decode_on(&queue, &[raw]), decode_by_reference(&[raw]));
    }

    #[test]
    fn random_bytes_give_what_the_reference_gives(
        codes in prop::collection::vec(any::<u8>(), 1..10_000),
        luts in prop::collection::vec(any::<u8>(), 512..513),
        n in 1_usize..40_000,
        gap in any::<u8>(),
        positions in prop::collection::vec(0_u32..40_000, 1..4),
    ) {
        let queue = Queue::simt(Config::default());
        let n_blocks = codes.len().div_ceil(4096);
        let mut positions = positions;
        positions.resize(n_blocks + 1, n as u32);
        let positions: Vec<u8> = positions.iter().flat_map(|p| p.to_le_bytes()).collect();
        let tensors = [codes, vec![0x5A; n], luts, vec![gap; 320 * n_blocks], positions];
        let raw = common::raw_of(&tensors);
        prop_assert_eq!(decode_on(&queue, &[raw]), decode_by_reference(&[raw]));
    }
}
