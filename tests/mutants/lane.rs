//! The kernels that unpack, measure and pack matrices of lanes.

use std::ffi::c_void;

use half::bf16;
use lacuna::huffman::lane::{LaneMatrix, LaneShape, reference};
use lacuna::simt::Entry;

use crate::lane_problem::{Problem, Rows, hostile};
use crate::{Kernel, differs, of};

const LANE: (&str, &str) = ("lane.cuh", include_str!("../../csrc/huffman/lane.cuh"));

unsafe extern "C" {
    fn lacuna_simt_unpack_lane(params: *const c_void, is_checked: u32);
    fn lacuna_simt_measure_lane(params: *const c_void, is_checked: u32);
    fn lacuna_simt_pack_lane(params: *const c_void, is_checked: u32);
}

/// Rows that are written by 16 bytes, and rows that are not.
const ROWS: [Rows; 4] = [
    Rows { n_between: 0, n_before: 0 },
    Rows { n_between: 4, n_before: 0 },
    Rows { n_between: 3, n_before: 0 },
    Rows { n_between: 0, n_before: 1 },
];

/// Left out is what changes no result: that lanes past a ragged edge are no vector where the output has none.
const UNPACK: Kernel = Kernel {
    room: "huffman",
    source: include_str!("../../csrc/huffman/unpack_lane.cu"),
    headers: &[LANE],
    entry: "unpack_lane",
    mutations: &[
        // Places.
        of("tile / tiles_per_row", 0, "tile"),
        of("(tile - row_tile * tiles_per_row)", 0, "tile"),
        of("row_tile * kTileRows, (", 0, "row_tile, ("),
        of("return lane / 4;", 0, "return lane / 8;"),
        of("32 * pair + 8 * (lane % 4)", 0, "16 * pair + 8 * (lane % 4)"),
        of("32 * pair + 8 * (lane % 4)", 0, "32 * pair"),
        of("% 16 == 0 && stride % 8 == 0", 0, "% 16 == 0"),
        of("% 16 == 0 && stride % 8 == 0", 0, "% 2 == 0 && stride % 8 == 0"),
        of("uint64_t{row_tile} * kPaletteLen", 0, "0"),
        of("blockIdx.x * (kThreads / 32)", 0, "blockIdx.x"),
        of("threadIdx.x / 32;", 0, "0;"),
        of("if (place.row_tile > (planes.n_rows - 1) / kTileRows) return;", 0, ""),
        of("place.row_tile > (planes", 0, "place.row_tile >= (planes"),
        of("(planes.n_rows - 1) / kTileRows", 0, "planes.n_rows / kTileRows"),
        of("place.first_row * stride + place.first_column", 0, "place.first_row * stride"),
        of("place.first_row * stride + place.first_column", 0, "place.first_column"),
        of("min(params.planes.n_rows - place.first_row, kTileRows)", 0, "kTileRows"),
        of("min(params.planes.n_columns - place.first_column, kTileColumns)", 0, "kTileColumns"),
        // Fragments.
        of("& kValueBits, palette.y", 0, ", palette.y"),
        of("palette.y & kValueBits", 0, "palette.y"),
        of("const uint32_t slots = word & kSlotBits;", 0, "const uint32_t slots = word;"),
        of(" | (word & kSignBits)", 0, ""),
        of("word << 4 & kSignBits", 0, "word & kSignBits"),
        of("slots >> 16", 0, "slots"),
        of("0x5140", 0, "0x7362"),
        of("0x7362", 0, "0x5140"),
        of("0x5140", 1, "0x7362"),
        of("0x7362", 1, "0x5140"),
        of("low.y, second", 0, "low.x, second"),
        of("uint64_t{tile} * 128", 0, "0"),
        of("uint64_t{tile} * 64", 0, "0"),
        of("low[32 * i]", 0, "low[0]"),
        of("high[32 * i]", 0, "high[0]"),
        of("highs[pair / 2]", 0, "highs[0]"),
        of("pair % 2 == 0 ? words.x : words.z", 0, "words.x"),
        of("pair % 2 == 0 ? words.y : words.w", 0, "words.w"),
        of("make_uint4(a[0], a[2], b[0], b[2])", 0, "make_uint4(a[0], b[0], a[2], b[2])"),
        of("row + 8, column, make", 0, "row, column, make"),
        // Rows.
        of("row >= target.n_rows || column >= target.n_columns", 0, "column >= target.n_columns"),
        of("row >= target.n_rows || column >= target.n_columns", 0, "row >= target.n_rows"),
        of("row * target.stride + column", 0, "column"),
        of("target.is_vector && n >= 8", 0, "n >= 8"),
        of("target.is_vector && n >= 8", 0, "target.is_vector"),
        of("if (i < n) output[i]", 0, "output[i]"),
        of("if (i < n) output[i]", 0, "if (i < n && i < 7) output[i]"),
        // Escapes.
        of("__syncwarp();", 0, ""),
        of(
            "min(static_cast<uint32_t>(header >> 32) & 0xFFFF, kTileWeights)",
            0,
            "static_cast<uint32_t>(header >> 32) & 0xFFFF",
        ),
        of(
            "static_cast<uint32_t>(header >> 32) & 0xFFFF",
            0,
            "static_cast<uint32_t>(header >> 32)",
        ),
        of(
            "first < planes.n_escapes ? min(n, planes.n_escapes - first) : 0",
            0,
            "min(n, planes.n_escapes - first)",
        ),
        of("min(n, planes.n_escapes - first)", 0, "n"),
        of("bool counts = at + lane < n;", 0, "bool counts = true;"),
        of("at + lane < n;", 0, "at + lane <= n;"),
        of("planes.escapes[first + at + lane]", 0, "planes.escapes[first + lane]"),
        of("planes.escapes[first + at + lane]", 0, "planes.escapes[at + lane]"),
        of("counts = counts && (steps >> step & 1) != 0;", 0, ""),
        of(
            "counts ? escape >> 16 & (kTileWeights - 1) : kTileWeights + lane",
            0,
            "escape >> 16 & (kTileWeights - 1)",
        ),
        of("& (kTileWeights - 1) :", 0, ":"),
        of(">> lane == 1", 0, ">> lane != 0"),
        of("counts && is_last && row", 0, "counts && row"),
        of("counts && is_last && row", 0, "is_last && row"),
        of("row < target.n_rows && column < target.n_columns)", 0, "column < target.n_columns)"),
        of("row < target.n_rows && column < target.n_columns)", 0, "row < target.n_rows)"),
        of("8 * (u / 2 % 2)", 0, "8 * (u / 4)"),
        of("4 * (step % 2) + 2 * (u / 4) + u % 2", 0, "2 * (u / 4) + u % 2"),
        of("4 * (step % 2) + 2 * (u / 4) + u % 2", 0, "4 * (step % 2) + u % 4"),
    ],
};

#[test]
fn every_mutation_of_unpack_lane_is_caught() {
    let shape = |n_rows, n_columns| LaneShape::new(n_rows, n_columns).unwrap();
    let mut matrices = vec![
        hostile(shape(37, 300), 900, false, 3),
        hostile(shape(1, 1200), 2100, true, 4),
        Problem::mixed(17, 128, ROWS[0], 5).packed,
        Problem::mixed(9, 133, ROWS[0], 6).packed,
    ];
    // Many escapes of few places, more than 32 and more than a tile has weights.
    let mut again = hostile(shape(16, 128), 2500, false, 7);
    for (i, escape) in again.escapes.iter_mut().enumerate() {
        let place = if i < 64 { i as u32 * 7 % 20 } else { i as u32 * 97 % 2048 };
        *escape = *escape & 0xF800_FFFF | place << 16;
    }
    for (first, count) in [(0, 64), (0, 0xFFFF), (1, 33), (0, 1), (2490, 64), (2500, 3), (3000, 40)]
    {
        let headers = vec![first | count << 32 | 0xF7 << 48];
        matrices.push(LaneMatrix { headers, ..again.clone() });
    }
    let cases: Vec<(Rows, &LaneMatrix, Vec<u16>)> = matrices
        .iter()
        .flat_map(|matrix| ROWS.map(|rows| (rows, matrix)))
        .map(|(rows, matrix)| {
            let mut weights = vec![0; matrix.shape.n_weights() as usize];
            reference::unpack(&matrix.as_raw(), &mut weights);
            let expected = rows.lay(&matrix.shape, &weights);
            (rows, matrix, expected.into_iter().map(bf16::to_bits).collect())
        })
        .collect();
    let own: Entry = lacuna_simt_unpack_lane;
    UNPACK.assert_all_caught(own, |by| {
        cases.iter().any(|(rows, matrix, expected)| {
            differs(own, by, expected, |queue| rows.unpack(queue, matrix))
        })
    });
}

/// Left out is what changes no result: where a sum over lanes' counts begins, and a barrier before the ticket, whose thread
/// has written all that the last block reads.
const MEASURE: Kernel = Kernel {
    room: "huffman",
    source: include_str!("../../csrc/huffman/measure_lane.cu"),
    headers: &[
        LANE,
        ("../common/last.cuh", include_str!("../../csrc/common/last.cuh")),
        ("../common/scan.cuh", include_str!("../../csrc/common/scan.cuh")),
    ],
    entry: "measure_lane",
    mutations: &[
        of("__syncthreads();", 1, ""),
        of("__syncthreads();", 2, ""),
        of("__syncthreads();", 3, ""),
        of("__syncthreads();", 4, ""),
        of("__syncthreads();", 5, ""),
        of("__syncthreads();", 6, ""),
        of("__threadfence();", 0, ""),
        of("__threadfence();", 1, ""),
        of("atomicAdd(ticket, 1u) == n_blocks - 1", 0, "atomicAdd(ticket, 1u) == 0"),
        of("if (is_last) atomicExch(ticket, 0u);", 0, ""),
        of("if (lane >= delta) value += before;", 0, "value += before;"),
        // Counts.
        of(
            "atomicAdd(&shared.counts[value][threadIdx.x % 32], 1u);",
            0,
            "shared.counts[value][threadIdx.x % 32] += 1;",
        ),
        of("16 * half + 8", 0, "16 * half + 7"),
        of("& 0x7F;", 0, "& 0x3F;"),
        of("is_vector ? params.n_columns / 8 : 0", 0, "params.n_columns / 8"),
        of("is_vector ? params.n_columns / 8 : 0", 0, "(params.n_columns + 7) / 8"),
        of("if (row >= params.n_rows) return;", 0, ""),
        of("row * params.weights_stride", 0, "row * params.n_columns"),
        of("at < n_eights; at += 32", 0, "at < n_eights; at += 64"),
        of("uint64_t{n_eights} * 8 + lane", 0, "lane"),
        of("at < params.n_columns; at += 32", 0, "at < params.n_columns && at < 32; at += 32"),
        of(
            "i < kValues; i += kWarps) shared.counts[i][lane] = 0",
            0,
            "i < kValues - 8; i += kWarps) shared.counts[i][lane] = 0",
        ),
        // Palettes.
        of("n_other > total ||", 0, "n_other >= total ||"),
        of("(n_other == total && other < value)", 0, "(n_other == total && other > value)"),
        of("total != 0 && rank < kPaletteLen", 0, "rank < kPaletteLen"),
        of("rank < kPaletteLen", 0, "rank < 7"),
        of("rank < kPaletteLen", 0, "rank <= kPaletteLen"),
        of("if (!is_listed) return;", 0, ""),
        of("i < value / 32 ? kAll : ", 0, ""),
        of("(1u << value % 32) - 1", 0, "(2u << value % 32) - 1"),
        of("slot + 1 == n_listed ? kPaletteLen : slot + 1", 0, "slot + 1"),
        of("slot + 1 == n_listed ? kPaletteLen : slot + 1", 0, "kPaletteLen"),
        of("uint64_t{row_tile} * kPaletteLen", 1, "0"),
        // Tiles.
        of("column_tile * kTileColumns + lane % 16 * 8", 0, "lane % 16 * 8"),
        of(
            "column < params.n_columns ? min(params.n_columns - column, 8u) : 0",
            0,
            "min(params.n_columns - column, 8u)",
        ),
        of("min(params.n_columns - column, 8u)", 0, "8u"),
        of("min(params.n_rows - first_row, kTileRows)", 0, "kTileRows"),
        of("row < n_rows; row += 2", 0, "row < n_rows && row < 14; row += 2"),
        of("(first_row + row) * params.weights_stride", 0, "row * params.weights_stride"),
        of("i < n_columns ? 1 - is_listed : 0", 0, "1 - is_listed"),
        of("n_escapes[i / 4] +=", 0, "n_escapes[0] +="),
        of("own << lane % 16 / 4 * 2", 0, "own << lane % 8 / 2 * 2"),
        of("own << lane % 16 / 4 * 2", 0, "own"),
        of("n_escapes[0] + n_escapes[1]", 0, "n_escapes[0]"),
        of("column < n_columns ? n_columns - column : 0", 0, "n_columns - column"),
        of("if (is_vector && n >= 8) return", 0, "if (n >= 8) return"),
        of("if (is_vector && n >= 8) return", 0, "if (is_vector) return"),
        of("if (2 * i < n) ", 0, ""),
        of("if (2 * i + 1 < n) ", 0, ""),
        of("row[column + 2 * i + 1]", 0, "row[column + 2 * i]"),
        // Sums.
        of("if (threadIdx.x % 32 == 31) sums", 0, "if (threadIdx.x % 32 == 0) sums"),
        of("before += i < warp ? sums[i] : 0;", 0, ""),
        of("sum += sums[i];", 0, ""),
        of("turn ^= 1", 0, "turn = 0"),
        of("turn ^= 1", 1, "turn = 0"),
        of("tile < params.tiles_per_row;", 0, "true;"),
        of("uint64_t{row_tile} * params.tiles_per_row", 0, "0"),
        of("if (is_tile && lane == 0) headers", 0, "if (lane == 0) headers"),
        of("header | before", 0, "header"),
        of("params.firsts[row_tile] = n_escapes;", 0, "params.firsts[0] = n_escapes;"),
        of("  n_escapes = 0;\n", 0, ""),
        of("at < gridDim.x ? static_cast", 0, "true ? static_cast"),
        of("if (at < gridDim.x) params", 0, "params"),
        of("before + inclusive - n_own", 0, "before + inclusive"),
        of("first < gridDim.x; first += kThreads", 0, "first < 1; first += kThreads"),
        of("if (threadIdx.x == 0) *params.n_escapes = n_escapes;", 0, ""),
    ],
};

fn problems() -> Vec<Problem> {
    let mut problems: Vec<Problem> = [(37, 300), (17, 2200), (1, 7), (16, 1030)]
        .into_iter()
        .flat_map(|(n_rows, n_columns)| {
            ROWS.map(|rows| Problem::mixed(n_rows, n_columns, rows, n_rows << 9 | n_columns))
        })
        .collect();
    // Values from 64 on: fewer than slots; as often as each other; some of them rare.
    let few = |i: u16| (70 + i % 5 * 11) << 8 | i & 0x80FF;
    problems.push(Problem::new(20, 40, ROWS[0], (0..20 * 40).map(few).collect()));
    let even = (0..16 * 128).map(|i| (i << 8 | i & 0xFF) as u16).collect();
    problems.push(Problem::new(16, 128, ROWS[0], even));
    let rare = |i: u16| if i % 29 == 3 { (80 + i % 31) << 8 | 7 } else { few(i) };
    problems.push(Problem::new(20, 40, ROWS[0], (0..20 * 40).map(rare).collect()));
    // Another value in each 64 columns.
    let by_column = (0..16 * 1024_u16).map(|i| (64 + i % 1024 / 64) << 8).collect();
    problems.push(Problem::new(16, 1024, ROWS[0], by_column));
    // A value that the last four columns have, and eight of which each is less frequent.
    let at_end = |i: u16| match (i % 300, i) {
        (296.., _) => 100 << 8,
        (..20, i) => (51 + i % 8) << 8,
        _ => 50 << 8,
    };
    problems.push(Problem::new(16, 300, ROWS[1], (0..16 * 300).map(at_end).collect()));
    // Most are caught by the least.
    problems.sort_by_key(|problem| problem.weights.len());
    // More row tiles than threads, with escapes.
    let noise = (0..16 * 300 * 2_u64).map(|i| ((i * i * 40_503) >> 5) as u16).collect();
    problems.push(Problem::new(16 * 300, 2, ROWS[0], noise));
    problems
}

#[test]
fn every_mutation_of_measure_lane_is_caught() {
    let problems: Vec<_> =
        problems().into_iter().map(|problem| (problem.expected_measured(), problem)).collect();
    let own: Entry = lacuna_simt_measure_lane;
    MEASURE.assert_all_caught(own, |by| {
        problems
            .iter()
            .any(|(expected, problem)| differs(own, by, expected, |queue| problem.measure(queue)))
    });
}

/// Left out is what changes no result: that an escape's code is no slot, by which a slot would be 0 all the same.
const PACK: Kernel = Kernel {
    room: "huffman",
    source: include_str!("../../csrc/huffman/pack_lane.cu"),
    headers: &[LANE, ("../common/scan.cuh", include_str!("../../csrc/common/scan.cuh"))],
    entry: "pack_lane",
    mutations: &[
        of("__syncwarp();", 0, ""),
        of("__syncwarp();", 1, ""),
        of("if (lane >= delta) value += before;", 0, "value += before;"),
        of("kEscape * 0x01010101", 0, "0"),
        of("if (lane == 0) {", 0, "{"),
        of("slot = kPaletteLen; slot-- > 0;", 0, "slot = 0; slot < kPaletteLen; ++slot"),
        of("slot < 4 ? palette.x : palette.y", 0, "palette.x"),
        of("8 * (slot % 4)", 0, "8 * (slot % 2)"),
        // Escapes.
        of("escapes.n_before + inclusive - n_own", 0, "inclusive - n_own"),
        of("escapes.n_before + inclusive - n_own", 0, "escapes.n_before + inclusive"),
        of("escapes.n_before += __shfl_sync(kAll, inclusive, 31);", 0, ""),
        of("inclusive, 31", 0, "inclusive, 30"),
        of("if ((is_escape >> (4 * u + 3) & 1) == 0) continue;", 0, ""),
        of("u % 2 == 0 ? a[u / 2] & 0xFFFF : a[u / 2] >> 16", 0, "a[u / 2] & 0xFFFF"),
        of("u % 2 == 0 ? a[u / 2] & 0xFFFF : a[u / 2] >> 16", 0, "a[u / 2] >> 16"),
        of("at < escapes.count && ", 0, ""),
        of("at < escapes.count && escapes.first + at < escapes.capacity", 0, "at < escapes.count"),
        of("escapes.first + at < escapes.capacity", 0, "escapes.first + at <= escapes.capacity"),
        of("| u << 16", 0, ""),
        of("| lane << 19", 0, ""),
        of("| step << 24", 0, ""),
        of("++at;", 0, ""),
        of("word &= ~(u < 4 ? 0x80u << (8 * u) : 0x08u << (8 * (u - 4)));", 0, ""),
        of("u < 4 ? 0x80u << (8 * u) : ", 0, ""),
        of("low.x &= others;", 0, ""),
        of("low.y &= others;", 0, ""),
        of("8 * (u % 4)", 0, "8 * (u % 2)"),
        // Words.
        of("codes[values >> 8 & 0xFF]", 0, "codes[values & 0xFF]"),
        of("codes[values >> 16 & 0xFF]", 0, "codes[values & 0xFF]"),
        of("codes[values >> 24]", 0, "codes[values & 0xFF]"),
        of("high & kValueBits", 0, "high"),
        of("0x7531", 0, "0x7351"),
        of("0x7531", 1, "0x7351"),
        of("0x6420", 0, "0x6240"),
        of("0x6420", 1, "0x6240"),
        of("| (high & kSignBits)", 0, ""),
        of("(high_after & kSignBits) >> 4", 0, "(high_after & kSignBits)"),
        of("(slots & kSlotBits)", 0, "slots"),
        of("is_escape != 0)) {", 0, "is_escape != 0) && threadIdx.x % 64 < 32) {"),
        // Tiles.
        of("if (place.row_tile > (planes.n_rows - 1) / kTileRows) return;", 0, ""),
        of("(planes.n_rows - 1) / kTileRows", 0, "planes.n_rows / kTileRows"),
        of("params.firsts[place.row_tile] + ", 0, ""),
        of("static_cast<uint32_t>(header);", 0, "0;"),
        of("if (lane == 0) planes", 0, "if (lane == 1 && first != 0) planes"),
        of("header >> 32 << 32 | ", 0, ""),
        of("static_cast<uint32_t>(header >> 32) & 0xFFFF, 0", 0, "2048, 0"),
        of("(palette.x & 0xFF) * 0x01000100", 0, "0"),
        of("0x01000100", 0, "0x01000000"),
        of("(place.first_row + row) * params.weights_stride", 0, "row * params.weights_stride"),
        of("uint64_t{tile} * 128", 0, "0"),
        of("uint64_t{tile} * 64", 0, "0"),
        of("pair += 2, high += 32", 0, "pair += 2"),
        of("place.first_column + column_of_lane", 0, "column_of_lane"),
        of("row + 8 * below < n_rows ? planes.n_columns : 0", 0, "planes.n_columns"),
        of("row + 8 * below < n_rows", 0, "row < n_rows"),
        of("weights + 8 * below * params.weights_stride", 0, "weights"),
        of("i < 2; ++i, low += 32", 0, "i < 2; ++i"),
        of("2 * (pair + i)", 0, "pair + i"),
        of("step + 1, escapes", 0, "step, escapes"),
        of("{up.x, down.x, up.y, down.y}", 0, "{up.x, up.y, down.x, down.y}"),
        of("{up.z, down.z, up.w, down.w}", 0, "{up.x, down.x, up.y, down.y}"),
    ],
};

#[test]
fn every_mutation_of_pack_lane_is_caught() {
    let mut cases = Vec::new();
    for problem in problems() {
        let n = problem.packed.escapes.len();
        let measured = problem.expected_measured();
        for room in [n, n / 2] {
            cases.push((problem.clone(), measured.clone(), room, problem.expected_packed(room)));
        }
    }
    // Fewer escapes than were measured would be: the others are not written.
    let mut fewer = Problem::mixed(16, 128, ROWS[0], 9);
    let n = fewer.packed.escapes.len();
    assert!(n > 3);
    let (palettes, mut workspace, _) = fewer.expected_measured();
    workspace[2] = workspace[2] & !(0xFFFF << 32) | 2 << 32;
    fewer.packed.headers[0] = workspace[2];
    fewer.packed.escapes.truncate(2);
    let expected = fewer.expected_packed(n);
    cases.push((fewer, (palettes, workspace, 0), n, expected));
    let own: Entry = lacuna_simt_pack_lane;
    PACK.assert_all_caught(own, |by| {
        cases.iter().any(|(problem, measured, room, expected)| {
            differs(own, by, expected, |queue| problem.pack(queue, measured, *room))
        })
    });
}
