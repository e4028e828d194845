//! Indices, made on the device.

use std::ffi::c_void;

use lacuna::Queue;
use lacuna::huffman::Corruption;
use lacuna::huffman::indexed::{Index, reference};
use lacuna::simt::Entry;

use super::differs_somewhere;
use crate::common::{self, clustered_weights, encode, raw_of};
use crate::indexed_problem::{corruption_of, group_that_ends_outside, index_on};
use crate::{Kernel, of};

/// What `stream.cuh` has is `decode_bf16`'s, but for what only this kernel asks it: where a code is.
const STREAM: Kernel = Kernel {
    room: "huffman",
    source: include_str!("../../../csrc/huffman/index.cu"),
    headers: &[("stream.cuh", include_str!("../../../csrc/huffman/stream.cuh"))],
    entry: "index_stream",
    mutations: &[
        of("static_cast<uint8_t>(exponent), walk.end_bit, n_bits", 0, "0, 0, n_bits"),
        of("static_cast<uint8_t>(exponent), walk.end_bit, n_bits", 0, "0, walk.end_bit, 0"),
        of("blockIdx.x - group.first_block", 0, "blockIdx.x"),
        of(
            "if (block_idx >= group.n_blocks) return;",
            0,
            "if (block_idx + 1 >= group.n_blocks) return;",
        ),
        of("if (pass.reason != kSound) {", 0, "if (false) {"),
        of("if (threadIdx.x != 0) return;", 0, "return;"),
        of("report_block(params.status, pass.reason);", 0, ""),
        of("block.first_byte * 8 + ", 0, ""),
        of("+ threadIdx.x * kChunkBits", 0, ""),
        of("block.start + pass.before", 1, "block.start"),
        of("block.start + pass.before", 1, "pass.before"),
        of("if (weight >= group.n_elements) return;", 0, ""),
        of("chunk_bit + begin", 0, "chunk_bit"),
        of("if (weight + 1 != group.n_elements) return;", 0, "return;"),
        of(
            "if (weight + 1 != group.n_elements) return;",
            0,
            "if (weight + 2 != group.n_elements) return;",
        ),
        of("target.n_entries - 1, bit + n_bits", 0, "target.n_entries - 1, bit"),
        of("target.n_entries - 1, bit + n_bits", 0, "target.n_entries, bit + n_bits"),
        of("bit + n_bits > group.n_code_bytes * 8", 0, "false"),
        of("bit + n_bits > group.n_code_bytes * 8", 0, "bit + n_bits >= group.n_code_bytes * 8"),
        of("weight % kGranuleWeights == 0", 0, "true"),
        of("entry % kTileGranules == 0", 0, "true"),
        of("entry % kTileGranules == 0", 0, "entry % kTileGranules == 1"),
        of("params.verdicts + group_idx, kUnfit", 0, "params.verdicts, kUnfit"),
    ],
};

const PACK: Kernel = Kernel {
    entry: "pack_index",
    mutations: &[
        of("blockIdx.x - target.first_block", 0, "blockIdx.x"),
        of("if (entry >= target.n_entries) return;", 0, ""),
        of(
            "if (entry >= target.n_entries) return;",
            0,
            "if (entry + 1 >= target.n_entries) return;",
        ),
        of("entry / kTileGranules] * 8", 0, "0] * 8"),
        of("n_bits > 0xFFFFu", 0, "false"),
        of("n_bits > 0xFFFFu", 0, "n_bits > 0x1FFFu"),
        of("params.verdicts + group_idx, kUnfit", 1, "params.verdicts, kUnfit"),
    ],
    ..STREAM
};

unsafe extern "C" {
    fn lacuna_simt_index_stream(params: *const c_void, is_checked: u32);
    fn lacuna_simt_pack_index(params: *const c_void, is_checked: u32);
}

type Group = [Vec<u8>; 5];
type Found = Result<Vec<Option<Index>>, Corruption>;

/// What a launch over groups must find.
fn find(groups: &[Group]) -> Found {
    if let Some(corruption) = corruption_of(groups) {
        return Err(corruption);
    }
    Ok(groups
        .iter()
        .map(|group| reference::index(&raw_of(group).parse().unwrap()).unwrap())
        .collect())
}

fn problems() -> Vec<(Vec<Group>, Found)> {
    let group = |weights: &[u16]| common::damaged(&encode(weights).as_raw("group"), vec![]);
    let too_long: Vec<u16> = (0..4200).map(|i| (240 + i % 16) << 7).collect();
    let padded = {
        // Bits behind the last code that read as codes.
        let mut padded = group(&clustered_weights(4096, 9));
        padded[0].extend([0; 200]);
        padded
    };
    let sound = vec![
        group(&clustered_weights(1, 1)),
        group(&clustered_weights(128, 2)),
        group(&too_long),
        group(&clustered_weights(33_000, 3)),
        group_that_ends_outside(135),
        padded,
        group(&clustered_weights(4096, 4)),
        group(&vec![0x3F80; 8192]),
    ];
    let mut damaged = sound.clone();
    damaged[3][3][330] ^= 0xFF;
    [vec![], sound, damaged]
        .map(|groups| {
            let found = find(&groups);
            (groups, found)
        })
        .into()
}

fn launch(queue: &Queue, groups: &[Group]) -> lacuna::Result<Found> {
    index_on(queue, groups, |weights| {
        (0..groups.len()).map(|idx| weights.download_index(queue, idx)).collect()
    })
}

#[test]
fn every_mutation_of_index_stream_is_caught() {
    let problems = problems();
    STREAM.assert_all_caught(lacuna_simt_index_stream, |entry: Entry| {
        differs_somewhere(lacuna_simt_index_stream, entry, &problems, |queue, groups| {
            launch(queue, groups)
        })
    });
}

#[test]
fn every_mutation_of_pack_index_is_caught() {
    let problems = problems();
    PACK.assert_all_caught(lacuna_simt_pack_index, |entry: Entry| {
        differs_somewhere(lacuna_simt_pack_index, entry, &problems, |queue, groups| {
            launch(queue, groups)
        })
    });
}
