//! The kernel that copies pages.

use std::ffi::c_void;

use lacuna::simt::Entry;

use crate::copy_problem::{Copied, Problem, Side};
use crate::{Kernel, differs, of};

const COPY: Kernel = Kernel {
    room: "attention",
    source: include_str!("../../csrc/attention/copy.cu"),
    headers: &[],
    entry: "copy_pages",
    mutations: &[
        of("idx += gridDim.x", 0, "idx += n_tiles"),
        of(
            "= params.n_pair_tiles * params.n_pools * params.n_chunks",
            0,
            "= params.n_pair_tiles * params.n_pools",
        ),
        of("idx - row * params.n_pair_tiles", 0, "idx"),
        of("row - chunk * params.n_pools", 0, "row"),
        of("pair.idx < params.n_lists * params.n_pairs", 0, "true"),
        of("if (params.counts != nullptr && place >= params.counts[list]) return pair;", 0, ""),
        of(
            "params.counts != nullptr && place >= params.counts[list]",
            0,
            "place >= params.counts[list]",
        ),
        of("place >= params.counts[list]", 0, "place > params.counts[list]"),
        of("params.counts[list]", 0, "params.counts[0]"),
        of("pair.idx - list * params.n_pairs", 0, "pair.idx"),
        of("pair.source < params.n_source_pages && ", 0, ""),
        of(" && pair.target < params.n_target_pages", 0, ""),
        of("pair.target < params.n_target_pages", 0, "pair.target < params.n_source_pages"),
        of("if (!pair.is_copied) return chunk;", 0, ""),
        of("if (begin >= page_bytes) return chunk;", 0, ""),
        of("n_left < most ? n_left : most", 0, "most"),
        of("n_left < most ? n_left : most", 0, "n_left"),
        of("pair.source * source.page_stride + begin", 0, "pair.source * source.page_stride"),
        of("pair.target * target.page_stride + begin", 0, "pair.target * target.page_stride"),
        of("pair.target * target.page_stride", 0, "pair.target * source.page_stride"),
        of("source.first_word + static_cast<uint32_t>(begin / 4)", 0, "source.first_word"),
        of("source.first_word + static_cast", 0, "static_cast"),
        of("reinterpret_cast<uint64_t>(chunk.from) | ", 0, ""),
        of(" | reinterpret_cast<uint64_t>(chunk.to)", 0, ""),
        of(" | page_bytes", 0, ""),
        of("high ^= high >> 16;", 0, ""),
        of("high *= 0x85EBCA6Bu;", 0, ""),
        of("high ^= high >> 13;", 0, ""),
        of("(2 * i + 1)", 0, "1"),
        of("weigh(unit.y, i + 1)", 0, "weigh(unit.y, i)"),
        of("weigh(unit.y, i + 1)", 1, "weigh(unit.y, i)"),
        of("weigh(unit.z, i + 2)", 0, "weigh(unit.z, i)"),
        of("weigh(unit.w, i + 3)", 0, "weigh(unit.w, i)"),
        of("i + 3 * n_lanes < n_units", 0, "i < n_units"),
        of("to[i + u * n_lanes] = units[u];", 0, ""),
        of("(i + u * n_lanes) * kWords", 0, "(i + u) * kWords"),
        of("for (; i < n_units; i += n_lanes) {", 0, "for (; i <= n_units; i += n_lanes) {"),
        of("for (; i < n_units; i += n_lanes) {", 0, "if (i < n_units) {"),
        of("to[i] = unit;", 0, ""),
        of("chunk.first_word + i * kWords", 0, "chunk.first_word + i"),
        of("if (chunk.unit_bytes == 16)", 0, "if (true)"),
        of("if (chunk.unit_bytes == 8)", 0, "if (true)"),
        of("2 * uint64_t{pair.idx};", 0, "2 * uint64_t{0};"),
        of("atomicAdd(sums, sum);", 0, "*sums += sum;"),
        of("__threadfence();", 0, ""),
        of("__threadfence();", 1, ""),
        of("uint64_t{params.n_pools} * params.n_chunks", 0, "uint64_t{params.n_pools}"),
        of("uint64_t{params.n_pools} * params.n_chunks", 0, "uint64_t{params.n_chunks}"),
        of("atomicAdd(sums + 1, uint64_t{1}) + 1", 0, "(sums[1] += 1)"),
        of("sums[0] = 0;", 0, ""),
        of("sums[1] = 0;", 0, ""),
        of("kEmptySum + ", 0, ""),
        of("params.expected == nullptr || params.expected", 0, "params.expected"),
        of("|| params.expected[pair.idx] == whole", 0, ""),
        of("if (params.checksums != nullptr) ", 0, ""),
        of("0xFFFFFFFF - pair.idx", 0, "pair.idx"),
        of("atomicMax(params.status, ", 0, "atomicExch(params.status, "),
        of("if (params.sums == nullptr) {", 0, "if (false) {"),
        of("n_lanes / 2; delta", 0, "n_lanes / 4; delta"),
        of("if (lane != 0) return;", 0, ""),
        of("if (pair.is_copied) {\n    add_sum", 0, "if (pair.is_listed) {\n    add_sum"),
        of("pair.is_listed && params.checksums", 0, "params.checksums"),
        of("params.checksums != nullptr && tile", 0, "tile"),
        of(" && tile.pool + tile.chunk == 0", 0, ""),
        of("params.checksums[pair.idx] = 0;", 0, ""),
    ],
};

unsafe extern "C" {
    fn lacuna_simt_copy_pages(params: *const c_void, is_checked: u32);
}

/// Whether what `entry` leaves is not what is expected, where the pages' sums are to be `sums`.
fn is_caught(entry: Entry, problem: &Problem, sums: &[u64], status: u64) -> bool {
    let expected = Copied { status, ..problem.expect() };
    differs(lacuna_simt_copy_pages, entry, &expected, |queue| problem.run(queue, sums))
}

#[test]
fn every_mutation_of_copy_pages_is_caught() {
    let plain = Problem::new(&[700, 64, 8], 5, 1);
    let mut lists = Problem::new(&[2100, 33], 12, 2);
    (lists.n_lists, lists.counts) = (3, Some(vec![2, 9, 1]));
    (lists.source.gap, lists.target.gap) = (3, 8);
    let mut shifted = Problem::new(&[4200, 64], 3, 3);
    shifted.source.shift = 1;
    let mut halves = Problem::new(&[64, 130, 4], 3, 4);
    (halves.target.shift, halves.target.gap) = (2, 2);
    let mut wild = Problem::new(&[24], 9, 5);
    (wild.pairs[1], wild.pairs[2]) = ([5, 2], [-1, 3]);
    (wild.pairs[5], wild.pairs[6], wild.pairs[7]) = ([1, 12], [1, i32::MIN], [2, -1]);
    let packed = Problem {
        target: Side { is_packed: true, ..Side::of(8) },
        ..Problem::new(&[12, 20], 5, 6)
    };
    let shared = Problem { most_blocks: 3, ..plain.clone() };
    let few = Problem { has_checksums: false, ..wild.clone() };
    let unchecked = Problem { has_check: false, ..plain.clone() };
    let problems = [plain, lists, shifted, halves, wild, packed, few, unchecked, shared];
    let two = &problems[0];
    let mut two_differ = two.expect().checksums;
    two_differ[3] ^= 1;
    two_differ[1] ^= 1 << 40;
    COPY.assert_all_caught(lacuna_simt_copy_pages, |entry| {
        problems.iter().any(|problem| is_caught(entry, problem, &problem.sums(), 0))
            || is_caught(entry, two, &two_differ, (0xFFFF_FFFF - 1) << 32 | 1)
    });
}
