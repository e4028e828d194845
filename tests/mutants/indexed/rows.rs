//! Rows by their numbers; what `indexed.cuh` has is `decode_indexed`'s.

use std::ffi::c_void;

use lacuna::huffman::indexed::{IndexedRowsPlan, IndexedRowsShape};
use lacuna::select::Absent;
use lacuna::simt::Entry;

use super::{damaged_groups, differs_somewhere, hostile_groups};
use crate::common::{clustered_weights, noise};
use crate::indexed_problem::{Owned, Rows, rows_by_reference, rows_on};
use crate::{Kernel, of};

const KERNEL: Kernel = Kernel {
    room: "huffman",
    source: include_str!("../../../csrc/huffman/rows.cu"),
    headers: &[],
    entry: "decode_rows",
    mutations: &[
        of("__syncthreads();", 0, ""),
        of("__syncwarp();", 0, ""),
        of("__syncwarp();", 1, ""),
        of("wait_copies<0>();", 0, ""),
        of("i < kStagedBytes / 16", 0, "i < 1"),
        // Which spans, and which rows.
        of("block_end < n_spans ? block_end : n_spans", 0, "block_end"),
        of("blockIdx.x} * params.block_spans", 0, "blockIdx.x} * 4"),
        of("i / params.row_spans", 0, "i"),
        of("i - place * params.row_spans", 0, "0"),
        of("place * params.output_stride", 0, "place * params.row_len"),
        of("row >= params.n_matrix_rows", 0, "row > params.n_matrix_rows"),
        of("row >= params.n_matrix_rows", 0, "false"),
        of("params.fills_zeros == 0 || ", 0, ""),
        of(" || first >= params.row_len", 0, ""),
        of("n < kTileWeights ? n : kTileWeights, 0", 0, "n, 0"),
        of("n < kTileWeights ? n : kTileWeights, 0", 0, "kTileWeights, 0"),
        of("params.first_element + uint64_t{row}", 0, "uint64_t{row}"),
        of(
            "row_first / kGranuleWeights + span_idx * kTileGranules",
            0,
            "row_first / kGranuleWeights",
        ),
        of("if (first_granule * kGranuleWeights >= row_first + params.row_len) continue;", 0, ""),
        of("+ part.begin - row_first", 0, "- row_first"),
        // A span's part of its row.
        of("row_first > first ? static_cast<uint32_t>(row_first - first) : 0", 0, "0"),
        of(
            "row_first > first ? static_cast<uint32_t>(row_first - first) : 0",
            0,
            "static_cast<uint32_t>(row_first - first)",
        ),
        of(
            "row_end < kTileWeights ? static_cast<uint32_t>(row_end) : kTileWeights",
            0,
            "kTileWeights",
        ),
        of(
            "row_end < kTileWeights ? static_cast<uint32_t>(row_end) : kTileWeights",
            0,
            "static_cast<uint32_t>(row_end)",
        ),
        of("n_left < whole ? static_cast<uint32_t>(n_left) : whole", 0, "whole"),
        of("(part.n_weights + kGranuleWeights - 1) / kGranuleWeights", 0, "kTileGranules"),
        // What is written.
        of("part.begin % kVector == 0 && ", 0, ""),
        of("&& reinterpret_cast<uint64_t>(output) % 16 == 0", 0, ""),
        of(
            "is_aligned ? n / kVector * kVector : 0",
            0,
            "is_aligned ? (n + kVector - 1) / kVector * kVector : 0",
        ),
        of("n_joined + lane; i < n;", 0, "n_joined + lane; i <= n;"),
        of("n_joined + lane; i < n;", 0, "n_joined + lane + 1; i < n;"),
        of("if (reason == kSound) {", 0, "if (true) {"),
        of("part.end - part.begin, kQuietNan", 0, "part.end, kQuietNan"),
        of("group.first_tile + part.first_granule / kTileGranules", 0, "group.first_tile"),
        of(
            "group.first_tile + part.first_granule / kTileGranules",
            0,
            "part.first_granule / kTileGranules",
        ),
        of("uint64_t{part.first_granule} * kGranuleWeights;", 0, "0;"),
    ],
};

unsafe extern "C" {
    fn lacuna_simt_decode_rows(params: *const c_void, is_checked: u32);
}

/// Rows of a group.
struct Asked {
    group: Owned,
    plan: IndexedRowsPlan,
    rows: Vec<u32>,
    absent: Absent,
}

fn asked(
    group: &Owned,
    first_element: u64,
    row_len: u64,
    more: u64,
    absent: Absent,
) -> (Asked, Rows) {
    let n_elements = group.sign_mantissa.len() as u64;
    let n_matrix_rows = (n_elements - first_element) / row_len;
    let last = n_matrix_rows as u32 - 1;
    // More than a block's, for the first of them.
    let rows =
        [last, 0, last + 1, last / 2, u32::MAX, last, 0].repeat(if more == 4 { 320 } else { 1 });
    let shape = IndexedRowsShape {
        n_elements,
        first_element,
        n_matrix_rows,
        row_len,
        n_rows: rows.len() as u64,
        output_stride: row_len + more,
    };
    let plan = IndexedRowsPlan::new(shape).unwrap();
    let expected = rows_by_reference(group, &plan, &rows, absent);
    (Asked { group: group.clone(), plan, rows, absent }, expected)
}

fn problems() -> Vec<(Asked, Rows)> {
    let sound = Owned::encode(&clustered_weights(20_011, 1));
    let mut corrupt = sound.clone();
    corrupt.granule_bits[150] += 1;
    let long = Owned::encode(&noise(9000, 1));
    let mut problems = vec![
        asked(&sound, 0, 1024, 0, Absent::Zeros),
        asked(&sound, 3, 9, 4, Absent::Zeros),
        asked(&sound, 120, 200, 8, Absent::Kept),
        asked(&sound, 128, 5120, 0, Absent::Zeros),
        asked(&sound, 11, 5000, 0, Absent::Zeros),
        asked(&sound, 10, 4096, 1, Absent::Kept),
        asked(&sound, 10, 4000, 1, Absent::Zeros),
        asked(&sound, 0, 9, 7, Absent::Zeros),
        asked(&corrupt, 0, 1000, 0, Absent::Zeros),
        asked(&long, 1, 4300, 0, Absent::Zeros),
    ];
    for group in hostile_groups()[4..].iter().chain(&damaged_groups(9)) {
        problems.push(asked(group, 5, 700, 0, Absent::Zeros));
    }
    problems
}

#[test]
fn every_mutation_of_decode_rows_is_caught() {
    let problems = problems();
    KERNEL.assert_all_caught(lacuna_simt_decode_rows, |entry: Entry| {
        differs_somewhere(lacuna_simt_decode_rows, entry, &problems, |queue, asked| {
            rows_on(queue, &asked.group, &asked.plan, &asked.rows, asked.absent)
        })
    });
}
