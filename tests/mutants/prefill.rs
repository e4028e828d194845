//! The kernels that attend with chunks of prompts.

use std::ffi::c_void;

use lacuna::attention::{LogSumOrder, Mask, PrefillPlan, PrefillShape};
use lacuna::element::{Half, Real};
use lacuna::simt::Entry;

use self::problem::{Case, Problem, falling, many};
use crate::attend::problem::{Brain, Short};
use crate::attend::{Differs, beside, model};
use crate::{Kernel, Mutation, of};

#[path = "../attention/prefill/problem.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod problem;

const fn kernel(entry: &'static str, mutations: &'static [Mutation]) -> Kernel {
    Kernel {
        room: "attention",
        source: include_str!("../../csrc/attention/prefill.cu"),
        headers: &[
            ("../common/scan.cuh", include_str!("../../csrc/common/scan.cuh")),
            ("sums.cuh", include_str!("../../csrc/attention/sums.cuh")),
        ],
        entry,
        mutations,
    }
}

/// Left out is what `attend` has in the headers, and what changes no result. Only time: rows that no query of a block sees are
/// passed over, by the greatest and the least of positions, whose beginnings only loosen them; the last copies are none. One of
/// two guards: lanes before the first of a maximum, which have
/// their own; and warps that search for queries beside the first, none of whose lanes writes. What is masked or read by nobody: the zeros in place of keys that are not there, and rows past the last query,
/// whose queries are zeros and whose sums lie in rows that are not written.
const MUTATIONS: &[Mutation] = &[
    // Before outputs, after the search for queries, after they are on chip, after and before a stage, after sums.
    of("__syncthreads();", 0, ""),
    of("__syncthreads();", 1, ""),
    of("__syncthreads();", 2, ""),
    of("__syncthreads();", 3, ""),
    of("__syncthreads();", 4, ""),
    of("__syncthreads();", 5, ""),
    of("__syncthreads_or(is_own)", 0, "is_own"),
    of("__syncwarp();", 0, ""),
    of("wait_copies<1>();", 0, ""),
    of("wait_copies<1>();", 0, "wait_copies<2>();"),
    // Whose queries.
    of("if (lane >= delta) value += before;", 0, "value += before;"),
    of("delta < 32; delta", 0, "delta < 16; delta"),
    of("apart < 32; apart", 0, "apart < 16; apart"),
    of("first_start = params.query_starts[0]", 0, "first_start = 0"),
    of("if (lane == 0) shared.n_queries = 0;", 0, ""),
    of("base < params.kv.batch; base += 32", 0, "base < 1; base += 32"),
    of("b < params.kv.batch ? min_of", 0, "true ? min_of"),
    of("min_of(params.query_starts[b + 1], params.n_tokens)", 0, "params.query_starts[b + 1]"),
    of("max(greatest_up_to(own_end), first_start)", 0, "greatest_up_to(own_end)"),
    of("greatest_up_to(own_end)", 0, "own_end"),
    of("lane == 0 ? first_start : before", 0, "before"),
    of("* params.group + n_rows - 1) / n_rows", 0, "* params.group) / n_rows"),
    of("* params.group + n_rows - 1) / n_rows", 0, "+ n_rows - 1) / n_rows"),
    of("n_blocks_before + scan_warp(n_blocks)", 0, "scan_warp(n_blocks)"),
    of("blockIdx.x < through", 0, "blockIdx.x <= through"),
    of(
        "if (lane != static_cast<uint32_t>(__ffs(found)) - 1) return;",
        0,
        "if (blockIdx.x >= through) return;",
    ),
    of("shared.first_token = start;", 0, "shared.first_token = first_start;"),
    of("(blockIdx.x - (through - n_blocks)) * n_rows", 0, "blockIdx.x * n_rows"),
    of("(blockIdx.x - (through - n_blocks)) * n_rows", 0, "0"),
    of("n_blocks_before = __shfl_sync(0xFFFFFFFFu, through, 31);", 0, ""),
    of("first_start = __shfl_sync(0xFFFFFFFFu, end, 31);", 0, ""),
    of("row = shared.first_row + r", 0, "row = r"),
    of("head * params.group + (row - found.query * params.group)", 0, "row % params.group"),
    of("(row - found.query * params.group)", 0, "0"),
    of("i < n_block_rows * n_chunks", 0, "i < n_rows * n_chunks && i < n_block_rows * n_chunks"),
    of("if (shared.first_row + r < n_rows) {", 0, "{"),
    of("uint64_t{shared.first_token} + row.query", 0, "row.query"),
    of(
        "token * params.query_stride",
        0,
        "token * params.kv.n_heads * params.group * params.kv.row_len",
    ),
    of("r >= n_block_rows || ", 0, ""),
    of(" || shared.first_row + r >= n_rows) return;", 0, ") return;"),
    of("params.query_positions != nullptr", 0, "false"),
    of("params.query_positions[shared.first_token + query]", 0, "params.query_positions[query]"),
    of("static_cast<int32_t>(n_keys + query)", 0, "static_cast<int32_t>(n_keys)"),
    of("- static_cast<int32_t>(shared.n_queries)", 0, ""),
    of("atomicMin(&shared.least, position);", 0, ""),
    of("atomicMin(&shared.least, position);", 0, "shared.least = position;"),
    of("atomicMax(&shared.greatest, position);", 0, "shared.greatest = position;"),
    of("shared.least = kGreatestPosition;", 0, ""),
    of("shared.greatest = -kGreatestPosition - 1;", 0, ""),
    // Who sees what.
    of("params.window == 0 || ", 0, ""),
    of("int64_t{query} - key < params.window", 0, "int64_t{query - key} < params.window"),
    of("- key < params.window", 0, "- key <= params.window"),
    of("if (i >= n_stage_rows) return false;", 0, ""),
    of("stage.keys[i] = 0;", 0, ""),
    of("if (t >= n_keys) return false;", 0, ""),
    of("if (t >= n_keys) return false;", 0, "if (t > n_keys) return false;"),
    of("if (element == kNoRow) return false;", 0, ""),
    of("params.key_positions != nullptr", 0, "false"),
    of("shared.request * params.position_stride + t", 0, "t"),
    of("if (params.is_causal != 0) {", 0, "{"),
    of("position > shared.greatest", 0, "position >= shared.greatest"),
    of("is_near(params, shared.least, position)", 0, "is_near(params, shared.greatest, position)"),
    of("params.kv.values + 2 * element", 0, "params.kv.keys + 2 * element"),
    of("const bool is_there = stage.keys[row] != 0;", 0, "const bool is_there = true;"),
    of("stage.keys[row]) + 16 * chunk", 0, "stage.keys[row])"),
    of("value, is_there)", 0, "value)"),
    // The kernel.
    of("if (shared.n_queries == 0) return;", 0, ""),
    of("params.skips != nullptr && params.skips[shared.request] != 0", 0, "false"),
    of("params.skips != nullptr && ", 0, ""),
    of("params.skips[shared.request]", 0, "params.skips[0]"),
    of("count_rows(params.kv, shared.request)", 0, "params.kv.lengths[shared.request]"),
    of("warp_row + threadIdx.x % 32 / 4 + half * 8", 0, "warp_row + threadIdx.x % 32 / 4"),
    of("is_row[half] ? shared.positions[r] : 0", 0, "shared.positions[r]"),
    of("first < end; first += kBlockRows", 0, "first < end; first = end"),
    of("if (is_any) fetch_rows", 0, "fetch_rows"),
    of("stages + turn * n_stage", 0, "stages"),
    of("stages + (1 - turn) * n_stage", 0, "stages + turn * n_stage"),
    // The other order of tiles.
    of(
        "row = 0; row < kBlockRows; row += kTogether * kTile",
        0,
        "row = kBlockRows - kTogether * kTile; row < kBlockRows; row -= kTogether * kTile",
    ),
    of("i = row + position", 0, "i = position"),
    of("stage.keys[i] == 0", 0, "false"),
    of("if (params.is_causal == 0) return true;", 0, ""),
    of("stage.positions[i] <= own[half]", 0, "stage.positions[i] < own[half]"),
    of("stage.positions[i] <= own[half]", 0, "stage.positions[i] <= own[0]"),
    of(" && is_near(params, own[half], stage.positions[i])", 0, ""),
    // Sums that are added when two tiles are.
    of("kIsDirect ? sums[j] : 0.0f", 0, "sums[j]"),
    of("kIsDirect ? of[j] : __fadd_rn(sums[j], of[j])", 0, "of[j]"),
    of("sum.add_to(weights);", 0, ""),
    of("low.add_to(outputs[2 * k]);", 0, ""),
    of("high.add_to(outputs[2 * k + 1]);", 0, ""),
    of("key + tile * kTile * pitch", 0, "key"),
    of("value + tile * kTile * pitch", 0, "value"),
    of("weights_of[tile], {one, one}", 0, "weights_of[0], {one, one}"),
    of("__uint_as_float(extra[kMassWord])", 0, "__uint_as_float(extra[kSumWord])"),
    of("turn = 1 - turn;", 0, ""),
    of("min_of(kBlockRows, shared.n_queries * params.group - shared.first_row)", 0, "kBlockRows"),
    // Outputs.
    of("if (own < n_rows) {", 0, "{"),
    of("params.sinks != nullptr", 0, "false"),
    of("params.sinks + row.head", 0, "params.sinks"),
    of("if (params.log_sums != nullptr) {", 0, "{"),
    of("token * params.log_sum_token_stride", 0, "token"),
    of("token * params.log_sum_token_stride", 0, "row.query * params.log_sum_token_stride"),
    of("row.head * params.log_sum_head_stride", 0, "row.head"),
    of("const float scale = shared.scales[r];", 0, "const float scale = 1.0f;"),
    of("static_cast<uint32_t>(shared.greatest) + 1", 0, "static_cast<uint32_t>(shared.greatest)"),
    of("first_seen) / kBlockRows * kBlockRows", 0, "first_seen)"),
    of("params.is_causal != 0 && params.key_positions == nullptr", 0, "params.is_causal != 0"),
    of(
        "params.is_causal != 0 && params.key_positions == nullptr",
        0,
        "params.key_positions == nullptr",
    ),
    of("token * params.output_stride", 0, "token * params.kv.n_heads * params.group * d"),
];

/// What is the other entry's own. Its threads past a stage's rows have places that nobody reads.
const OF_LONG_HEADS: &[Mutation] =
    &[of("attend<256, 32>", 0, "attend<128, 32>"), of("attend<256, 32>", 0, "attend<256, 64>")];

unsafe extern "C" {
    fn lacuna_simt_prefill_128(params: *const c_void, is_checked: u32);
    fn lacuna_simt_prefill_256(params: *const c_void, is_checked: u32);
}

fn hold<T: Half + Sync, O: Real + Sync + 'static>(problem: Problem<T>) -> Differs {
    beside(problem.expect::<O>(model()), move |queue| problem.attend::<O>(queue))
}

fn problems() -> Vec<Differs> {
    let plain = Case { requests: vec![(7, 20), (0, 3), (37, 70)], ..Case::default() };
    let log_sum_order = LogSumOrder::HeadsTokens;
    let kept = Case { keep: Some(3), n_heads: 2, has_sinks: true, log_sum_order, ..plain.clone() };
    let long = Case { requests: vec![(40, 250)], ..plain.clone() };
    let window = Case { mask: Mask::Window(40), requests: vec![(40, 250), (3, 9)], ..kept.clone() };
    let all = Case { mask: Mask::None, ..plain.clone() };
    let full_page = Case { mask: Mask::None, requests: vec![(4, 12)], ..plain.clone() };
    // Positions in any order, and of any size.
    let mut wild =
        Case { keep: Some(2), requests: vec![(30, 90)], ..plain.clone() }.build::<Brain>();
    wild.key_positions.reverse();
    wild.key_positions[7..9].copy_from_slice(&[i32::MIN, i32::MAX]);
    wild.query_positions[..2].copy_from_slice(&[i32::MAX, i32::MIN]);
    let shape = *wild.plan.shape();
    let mut far = wild.clone();
    far.plan = PrefillPlan::new(PrefillShape { mask: Mask::Window(1 << 30), ..shape }).unwrap();
    let hostile = |starts: Vec<u32>| {
        let mut problem = plain.build::<Brain>();
        problem.query_starts = starts;
        problem
    };
    let mut absent = hostile(vec![0, 15, 3, 44]);
    absent.lengths = vec![u32::MAX, 0, 90];
    absent.page_table[0] = -1;
    absent.page_table[1] = i32::MAX;
    // What is not there is not a query's numbers either.
    absent.queries[0] = Brain::from_f32(f32::NAN);
    vec![
        hold::<_, f32>(plain.build::<Brain>()),
        hold::<_, Brain>(kept.build::<Brain>()),
        hold::<_, f32>(Problem { skips: Some(vec![0, 1, 7]), ..plain.build::<Brain>() }),
        hold::<_, f32>(Case { group: 5, ..plain.clone() }.build::<Short>()),
        hold::<_, f32>(all.build::<Brain>()),
        hold::<_, f32>(full_page.build::<Brain>()),
        hold::<_, f32>(long.build::<Brain>()),
        hold::<_, f32>(window.build::<Brain>()),
        hold::<_, f32>(Case { mask: Mask::Window(40), ..long.clone() }.build::<Brain>()),
        hold::<_, f32>(Case { requests: vec![(33, 32)], ..plain.clone() }.build::<Brain>()),
        hold::<_, f32>(Case { requests: vec![(100, 60)], ..all.clone() }.build::<Brain>()),
        hold::<_, f32>(Problem { sinks: Some(vec![9.0; 2]), ..plain.build::<Brain>() }),
        hold::<_, f32>(hostile(vec![7, 7, 9, 8])),
        hold::<_, f32>(hostile(vec![5, 0, 1 << 31, 2])),
        hold::<_, f32>(absent),
        hold::<_, f32>(Problem { has_log_sums: false, ..plain.build::<Brain>() }),
        hold::<_, f32>(many().build::<Brain>()),
        hold::<_, f32>(falling()),
        hold::<_, f32>(wild),
        hold::<_, f32>(far),
    ]
}

#[test]
fn every_mutation_of_prefill_128_is_caught() {
    let own: Entry = lacuna_simt_prefill_128;
    let problems = problems();
    kernel("prefill_128", MUTATIONS)
        .assert_all_caught(own, |entry| problems.iter().any(|differs| differs(own, entry)));
}

#[test]
fn every_mutation_of_prefill_256_is_caught() {
    let own: Entry = lacuna_simt_prefill_256;
    let case = Case { head_dim: 144, requests: vec![(20, 50), (3, 2)], ..Case::default() };
    let problems = [
        hold::<_, f32>(case.build::<Brain>()),
        hold::<_, f32>(Case { head_dim: 256, keep: Some(2), ..case }.build::<Short>()),
    ];
    kernel("prefill_256", OF_LONG_HEADS)
        .assert_all_caught(own, |entry| problems.iter().any(|differs| differs(own, entry)));
}
