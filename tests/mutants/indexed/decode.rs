//! Whole groups, by their index.

use std::ffi::c_void;

use lacuna::simt::Entry;

use super::{damaged_groups, differs_somewhere, hostile_groups, sound_groups};
use crate::indexed_problem::{Decoded, Owned, decode_by_reference, decode_on};
use crate::{Kernel, of};

/// Left out is what saves work alone: that a granule ends with its first code that is none, which its last weights would meet
/// again.
const KERNEL: Kernel = Kernel {
    room: "huffman",
    source: include_str!("../../../csrc/huffman/indexed.cu"),
    headers: &[
        ("indexed.cuh", include_str!("../../../csrc/huffman/indexed.cuh")),
        ("group.cuh", include_str!("../../../csrc/huffman/group.cuh")),
    ],
    entry: "decode_indexed",
    mutations: &[
        // A block's only barrier; a tile's codes, its exponents, and the next one's.
        of("__syncthreads();", 0, ""),
        of("__syncwarp();", 0, ""),
        of("__syncwarp();", 1, ""),
        of("wait_copies<1>();", 0, ""),
        of("wait_copies<1>();", 0, "wait_copies<2>();"),
        of("      commit_copies();", 0, ""),
        of("stage ^= 1", 0, "stage ^= 0"),
        of("warp.codes[stage ^ 1]", 0, "warp.codes[stage]"),
        // Which group, and what a block has of it.
        of("rows[middle].first_block <= block", 0, "rows[middle].first_block < block"),
        of("high - low > 1", 0, "high - low > 2"),
        of("blockIdx.x - group.first_block", 0, "blockIdx.x"),
        of("block_end < n_tiles ? block_end : n_tiles", 0, "block_end"),
        of("if (tile >= end) return;", 0, ""),
        of("tile + kWarps < end", 0, "tile + kWarps <= end"),
        of(
            "n_left < kTileWeights ? static_cast<uint32_t>(n_left) : kTileWeights",
            0,
            "kTileWeights",
        ),
        of("n_weights == kTileWeights && is_aligned", 0, "is_aligned"),
        of("n_weights == kTileWeights && is_aligned", 0, "n_weights == kTileWeights"),
        // Where codes are.
        of(
            "lane < n_granules ? find_start(group, first + lane) : end",
            0,
            "find_start(group, first + lane)",
        ),
        of("group.tile_bytes[granule / kTileGranules]", 0, "group.tile_bytes[0]"),
        of("begin / 8 / 16 * 16", 0, "begin / 8"),
        of("lane < 31 ? after : end", 0, "after"),
        of("start <= next && ", 0, ""),
        of("end <= group.n_code_bytes * 8 &&", 0, ""),
        of("end - begin <= kMostTileBits", 0, "true"),
        of("__all_sync(0xFFFFFFFFu, is_mine)", 0, "is_mine"),
        of("span.n_bytes + kStrayBytes <= kStagedBytes", 0, "span.n_bytes <= kStagedBytes"),
        of("span.n_bytes + kStrayBytes <= kStagedBytes", 0, "true"),
        of("span.is_sound && fits(span)", 0, "fits(span)"),
        of("span.is_sound && fits(span)", 0, "span.is_sound"),
        of("at < span.n_bytes", 0, "at + 16 < span.n_bytes"),
        of("(end + 7) / 8 - span.first_byte) + kSeenBytes", 0, "(end + 7) / 8 - span.first_byte)"),
        of("at + 16 <= n_left", 0, "true"),
        of("i < n_left ? codes[i] : 0", 0, "codes[i]"),
        of("i < n_left ? codes[i] : 0", 0, "0"),
        of("at + 4 <= n_bytes", 0, "true"),
        of("at + i < n_bytes ? codes[at + i] : 0", 0, "codes[at + i]"),
        of("at + i < n_bytes ? codes[at + i] : 0", 0, "0"),
        of("i < 2 * kStagedBytes / 16", 0, "i < 1"),
        // Codes that the table has not.
        of("min(group.n_lut_rows, kMostLutRows)", 0, "kMostLutRows"),
        of("if (n_rows == 0) return 0;", 0, ""),
        of("row >= n_rows", 0, "false"),
        of("row >= n_rows", 0, "row > n_rows"),
        of("if (shift == 0) break;", 0, ""),
        of("n_bits == 0 || n_bits > kLongestCode", 0, "n_bits > kLongestCode"),
        of("n_bits == 0 || n_bits > kLongestCode", 0, "n_bits == 0"),
        of("if (walk.bit() > next) return kBadChain;", 0, ""),
        of("if (code == 0) return kBadCode;", 0, ""),
        of("walk.skip(code >> 8);", 0, ""),
        of("if ((bits ^ before) & 32)", 0, "if (false)"),
        // Granules.
        of("n_weights < 3 ? 0 : n_weights - 3", 0, "n_weights - 3"),
        of("n_weights < 3 ? 0 : n_weights - 3", 0, "n_weights"),
        of("entry != 0 && n < last", 0, "entry != 0"),
        of("entry != 0 && n < last", 0, "n < last"),
        of("      if (reason != kSound) return reason;", 0, ""),
        of("walk.refill(before);", 0, ""),
        of("if (entry >> 24 == 2) {", 0, "if (false) {"),
        of("if (n < n_weights) {", 0, "if (true) {"),
        of("n_bits == 0 || n_bits > kLookupBits", 0, "n_bits > kLookupBits"),
        of("n_bits == 0 || n_bits > kLookupBits", 0, "n_bits == 0"),
        of("walk.bit() > span.next ? kBadChain : kBadCode", 0, "kBadCode"),
        of("walk.bit() > span.next ? kBadChain : kBadCode", 0, "kBadChain"),
        of("walk.bit() == span.next ? kSound : kBadChain", 0, "kSound"),
        of(
            "walk.bit() == span.next ? kSound : kBadChain",
            0,
            "walk.bit() >= span.next ? kSound : kBadChain",
        ),
        of("if (!span.is_sound) return kBadIndex;", 0, ""),
        of("first < n_weights ? min(n_weights - first, kGranuleWeights) : 0", 0, "kGranuleWeights"),
        of("__reduce_max_sync(0xFFFFFFFFu, static_cast<uint32_t>(reason))", 0, "reason"),
        // Tables.
        of("n_codes - 1 < 2 && ", 0, "n_codes != 0 && "),
        of("n_codes - 1 < 2 && ", 0, "n_codes < 3 && "),
        of("n_codes <= n_bits && ", 0, ""),
        of("n_bits <= kLookupBits ? entry", 0, "true ? entry"),
        of("i < kTableEntries / 4; i += n_threads", 0, "i < kTableEntries / 4 - 1; i += n_threads"),
        // What is written.
        of("(both & 0x80808080u) ^ exponents", 0, "(both & 0x80808000u) ^ exponents"),
        of("(both & 0x80808080u) ^ sign_mantissa", 0, "(both & 0x00808080u) ^ sign_mantissa"),
        of(
            "for (uint32_t i = threadIdx.x % 32; i < n_weights; i += 32) {",
            0,
            "for (uint32_t i = threadIdx.x % 32; i <= n_weights; i += 32) {",
        ),
        of(
            "i < n_weights; i += 32) output[first + i] = kQuietNan",
            0,
            "i <= n_weights; i += 32) output[first + i] = kQuietNan",
        ),
        of("if (threadIdx.x % 32 != 0) return;", 0, "return;"),
        of("atomicMax(reinterpret_cast", 0, "atomicMin(reinterpret_cast"),
        of("atomicMax(reinterpret_cast<unsigned long long*>(status), word)", 0, "*status = word"),
        of("0xFFFFFFFFu - tile", 0, "tile"),
        of("group.first_tile + tile, reason", 0, "tile, reason"),
    ],
};

unsafe extern "C" {
    fn lacuna_simt_decode_indexed(params: *const c_void, is_checked: u32);
}

/// Groups, tiles of a block, and how far the output is off its place.
type Launch = (Vec<Owned>, u32, usize);

#[test]
fn every_mutation_of_decode_indexed_is_caught() {
    let behind_others = [sound_groups(), damaged_groups(1)].concat();
    let together = [(sound_groups(), 12, 0), (sound_groups(), 4, 1), (behind_others, 4, 0)];
    let wrong = hostile_groups().into_iter().chain(damaged_groups(12));
    // Of several only the first would be reported.
    let alone = wrong.map(|group| (vec![group], 12, 0));
    let problems: Vec<(Launch, Decoded)> = together
        .into_iter()
        .chain(alone)
        .map(|launch| {
            let expected = decode_by_reference(&launch.0);
            (launch, expected)
        })
        .collect();
    KERNEL.assert_all_caught(lacuna_simt_decode_indexed, |entry: Entry| {
        differs_somewhere(
            lacuna_simt_decode_indexed,
            entry,
            &problems,
            |queue, (groups, block_tiles, shift)| decode_on(queue, groups, *block_tiles, *shift),
        )
    });
}
