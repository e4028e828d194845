//! The kernels that multiply matrices of lanes.

use std::ffi::c_void;

use lacuna::huffman::lane::{LaneMatrix, LaneShape};
use lacuna::simt::{Checks, Config, Entry, Schedule, Substitute};
use lacuna::{Queue, Result};

use crate::lane_problem::hostile;
use crate::product_problem::{Added, Problem, packed, trained};
use crate::{Kernel, of};

const HEADERS: &[(&str, &str)] = &[
    ("multiply_lane.cuh", include_str!("../../csrc/huffman/multiply_lane.cuh")),
    ("lane.cuh", include_str!("../../csrc/huffman/lane.cuh")),
];

unsafe extern "C" {
    fn lacuna_simt_multiply_lane_2x8(params: *const c_void, is_checked: u32);
    fn lacuna_simt_multiply_lane_2x32(params: *const c_void, is_checked: u32);
}

/// One of the file's entries, which are all the same but for their sizes: each mutant of all six would be compiled six times over. Left out is
/// what changes no result: when inputs and weights are loaded, that a header of no tile of the chain counts as 0, and that a warp without a tile reads nothing.
const OF_8: Kernel = Kernel {
    room: "huffman",
    source: "#include \"multiply_lane.cuh\"\n\
             LACUNA_ENTRY(multiply_lane_2x8, HuffmanMultiplyLaneParams, kProductThreads) {\n\
             LACUNA_DYNAMIC_SHARED(chains);\n\
             multiply_rows<2, 1>(params, reinterpret_cast<float*>(chains));\n}\n",
    headers: HEADERS,
    entry: "multiply_lane_2x8",
    mutations: &[
        of("  __syncthreads();", 0, ""),
        // Which rows a block has.
        of("i < params.n_matrices", 0, "i <= params.n_matrices && i < 4"),
        of("i < params.n_matrices", 0, "i < 2"),
        of("blockIdx.x >= params.matrices[i]", 0, "blockIdx.x > params.matrices[i]"),
        of("params.is_gated ? kRowTiles / 2 : kRowTiles;", 0, "kRowTiles;"),
        of(
            "(blockIdx.x - params.matrices[matrix].first_block) * n_tiles",
            0,
            "blockIdx.x * n_tiles",
        ),
        of("(planes.n_rows - 1) / kTileRows", 0, "planes.n_rows / kTileRows"),
        of("tile < last ? tile : last;", 0, "tile;"),
        of("row_tile * planes.tiles_per_row, 0, 0", 0, "0, 0, 0"),
        of("uint64_t{row_tile} * kPaletteLen", 0, "0"),
        of("params.matrices[params.is_gated].planes", 0, "params.matrices[0].planes"),
        of("params.is_gated && r >= kRowTiles / 2", 0, "false"),
        of("params.is_gated && r >= kRowTiles / 2", 1, "false"),
        // What a lane has of a tile.
        of("threadIdx.x % 32 * 16", 0, "0"),
        of("row.first + half / 2", 0, "row.first"),
        of("+ part * (kTileWeights / 2)", 0, ""),
        of("+ part * (kTileWeights / 4)", 0, ""),
        of("low + 512", 0, "low"),
        of("half * kHalfColumns + pair * 32", 0, "pair * 32"),
        of("half * kHalfColumns + pair * 32", 0, "half * kHalfColumns"),
        of("first + threadIdx.x % 4 * 8", 0, "first"),
        of("tile * kInputs + lane / 4", 0, "tile * kInputs"),
        of("min(tile * kInputs + lane / 4, n_inputs - 1)", 0, "tile * kInputs + lane / 4"),
        of("n_inputs - 1", 0, "n_inputs"),
        of("row, static_cast<int>(lane)", 0, "row, 0"),
        of("uint64_t{inputs.rows[tile]} * (2 * params.x_stride)", 0, "0"),
        of("(2 * params.x_stride)", 0, "params.x_stride"),
        of("first + 32 <= params.n_columns", 0, "true"),
        of("first + 32 <= params.n_columns", 0, "first + 8 <= params.n_columns"),
        of("column < params.n_columns ? load(tile) : make_uint4(0, 0, 0, 0)", 0, "load(tile)"),
        of("weights.low[step / 2]", 0, "weights.low[0]"),
        of("step % 2 == 0 ? make_uint2(both.x, both.y)", 0, "true ? make_uint2(both.x, both.y)"),
        of("word_of(weights.high, step)", 0, "weights.high.x"),
        of("step == 0 ? x.x : x.z", 0, "x.x"),
        of("step == 0 ? x.y : x.w", 0, "x.w"),
        of("fragments.a[2 * pair + step], b", 0, "fragments.a[step], b"),
        // Escapes.
        of(
            "first < planes.n_escapes ? planes.n_escapes - first : 0",
            0,
            "planes.n_escapes - first",
        ),
        of("min(mark & 0xFFFF, kMostEscapes)", 0, "mark & 0xFFFF"),
        of("min(n_told, n_there)", 0, "n_told"),
        of("min(n_told, n_there)", 0, "n_there"),
        of("at < count; at += 32", 0, "at < 32 && at < count; at += 32"),
        of("min(count - at, 32u)", 0, "32u"),
        of("lane < n_here ? planes.escapes", 0, "true ? planes.escapes"),
        of("uint64_t{first} + at + lane", 0, "uint64_t{first} + lane"),
        of("static_cast<int>(i)", 0, "0"),
        of("(escape >> 19 & 31) != lane || ", 0, ""),
        of(" || (mark >> (16 + step) & 1) == 0", 0, ""),
        of("escape >> 16 & 1 ? 0x5410 : 0x3254", 0, "0x5410"),
        of("(step - half % 2 * kHalfSteps) * 4", 0, "step * 4"),
        of("+ (escape >> 17 & 3)", 0, ""),
        of("if (place == r) weights", 0, "weights"),
        of("if (in_marks == 0) {", 0, "if (tile == begin) {"),
        of("own < end ? headers[own] : 0", 0, "headers[own]"),
        of("header >> 32", 0, "header"),
        of("16 + part * kHalfSteps", 0, "16"),
        // Chains.
        of("chain} * n_tiles / kChains", 0, "chain} * (n_tiles / kChains)"),
        of("chain + 1} * n_tiles / kChains", 0, "chain + 1} * (n_tiles / kChains)"),
        of("half + 1 < 2 * end", 0, "true"),
        of("chain * kChainStride + input * kStride", 0, "input * kStride"),
        of("chain = 1; chain < kChains", 0, "chain = 1; chain < kChains - 1"),
        of("sum = __fadd_rn(sum, ", 0, "sum = __fadd_rn(-0.0f, "),
        of("lane % 4 * 2 + i % 2", 0, "lane % 4 * 2"),
        of("lane / 4 + i / 2 * 8", 0, "lane / 4"),
        of("threadIdx.x / 32 * (kInputTiles", 0, "0 * (kInputTiles"),
        // Outputs.
        of("params.is_gated ? kRows / 2 : kRows", 0, "kRows"),
        of("block.first_tile * kTileRows + in_block", 0, "in_block"),
        of("if (row >= factor.planes.n_rows) continue;", 0, ""),
        of("row >= factor.planes.n_rows", 0, "row > factor.planes.n_rows"),
        of("if (factor.bias != nullptr) ", 0, ""),
        of("in_block + n_rows", 0, "in_block"),
        of("params.matrices[1].bias", 0, "params.matrices[0].bias"),
        of("if (bias != nullptr) ", 0, ""),
        of("__fmul_rn(silu(value), gated)", 0, "__fmul_rn(silu(gated), value)"),
        of("input * factor.residual_stride + row", 0, "row"),
        of("input * factor.output_stride + row", 0, "row"),
        of("g < 0.0f ? __fmul_rn(g, power) : g", 0, "g"),
        of("__fmaf_rn(power, __fmul_rn(rest, -kLn2), power)", 0, "power"),
        of("__fmaf_rn(size, kLog2ERest, __fmaf_rn(size, kLog2E, -exponent))", 0, "0.0f"),
    ],
};

const OF_32: Kernel = Kernel {
    room: "huffman",
    source: "#include \"multiply_lane.cuh\"\n\
             LACUNA_ENTRY(multiply_lane_2x32, HuffmanMultiplyLaneParams, kProductThreads) {\n\
             LACUNA_DYNAMIC_SHARED(chains);\n\
             multiply_rows<2, 4>(params, reinterpret_cast<float*>(chains));\n}\n",
    headers: HEADERS,
    entry: "multiply_lane_2x32",
    mutations: &[
        of("  __syncthreads();", 0, ""),
        of("tile * kInputs + lane / 4", 0, "lane / 4"),
        of("min(tile * kInputs + lane / 4, n_inputs - 1)", 0, "tile * kInputs + lane / 4"),
        of(
            "loaded.words[tile] = load(tile)",
            0,
            "loaded.words[0] = loaded.words[tile] = load(tile)",
        ),
        of("loaded.words[tile] = column", 0, "loaded.words[0] = loaded.words[tile] = column"),
        of("inputs.words[tile]", 0, "inputs.words[0]"),
        of("tile * kInputs + lane % 4 * 2", 0, "lane % 4 * 2"),
        of(
            "load_inputs(params, own_inputs, half, pair)",
            0,
            "load_inputs(params, own_inputs, half, 0)",
        ),
        of(
            "load_inputs(params, own_inputs, half, pair)",
            0,
            "load_inputs(params, own_inputs, 0, pair)",
        ),
        of("i / n_rows", 0, "0"),
    ],
};

fn problem(
    matrices: Vec<LaneMatrix>,
    is_gated: bool,
    added: Added,
    n_inputs: usize,
) -> Problem<f32> {
    let problem = Problem::new(matrices, is_gated, added, n_inputs, 5);
    Problem { n_between: u64::from(n_inputs > 1), ..problem }.of_block_rows(32)
}

fn run(
    kernel: Entry,
    by: Entry,
    problem: &Problem<f32>,
    schedule: Schedule,
) -> Result<Vec<Vec<f32>>> {
    problem.run(&Queue::simt(Config {
        schedule,
        seed: 7,
        step_budget: 2_000_000,
        checks: Checks { settled: false, ..Checks::ALL },
        substitute: Some(Substitute { kernel, by }),
        ..Config::default()
    }))
}

fn assert_all_caught(kernel: &Kernel, own: Entry, problems: &[Problem<f32>]) {
    let expected: Vec<_> =
        problems.iter().map(|problem| problem.expected(Config::default().mma)).collect();
    let bits =
        |rows: &[Vec<f32>]| -> Vec<u32> { rows.concat().iter().map(|w| w.to_bits()).collect() };
    kernel.assert_all_caught(own, |by| {
        problems.iter().zip(&expected).enumerate().any(|(idx, (problem, expected))| {
            let schedule = [Schedule::Random, Schedule::Reverse][idx % 2];
            run(own, by, problem, schedule).map_or(true, |found| bits(&found) != bits(expected))
        })
    });
}

#[test]
fn every_mutation_of_multiply_lane_2x8_is_caught() {
    let shape = LaneShape::new(20, 264).unwrap();
    // Escapes of all kinds in tiles, and 33 tiles of a chain; no infinities, of which all sums would be NaN.
    let mut many: Vec<u16> =
        (0..16 * 128 * 3).map(|i| (i as u16).wrapping_mul(40_503) & 0xBFFF).collect();
    many.truncate(16 * 300);
    let long = 8 * 128 * 33 + 8;
    let any: Vec<u16> = (0..long).map(|i| (i as u16).wrapping_mul(40_503) & 0xBFFF).collect();
    assert_all_caught(
        &OF_8,
        lacuna_simt_multiply_lane_2x8,
        &[
            problem(
                vec![trained(70, 1040, 1), trained(16, 1040, 2), trained(33, 1040, 3)],
                false,
                Added::Bias,
                5,
            ),
            problem(vec![trained(40, 520, 4), trained(40, 520, 5)], true, Added::BiasAndOutput, 8),
            problem(vec![trained(17, 136, 6), trained(17, 136, 7)], true, Added::Residual, 2),
            problem(vec![packed(&many[..16 * 296], 16, 296)], false, Added::Residual, 3),
            problem(vec![hostile(shape, 90, false, 3)], false, Added::Nothing, 2),
            problem(vec![hostile(shape, 20_000, false, 4)], false, Added::Nothing, 1),
            problem(vec![hostile(shape, 50, true, 5)], false, Added::Nothing, 1),
            problem(vec![packed(&any, 1, long)], false, Added::Nothing, 1),
        ],
    );
}

#[test]
fn every_mutation_of_multiply_lane_2x32_is_caught() {
    assert_all_caught(
        &OF_32,
        lacuna_simt_multiply_lane_2x32,
        &[
            problem(vec![trained(40, 136, 1)], false, Added::Bias, 30),
            problem(vec![trained(17, 136, 6), trained(17, 136, 7)], true, Added::Residual, 17),
        ],
    );
}
