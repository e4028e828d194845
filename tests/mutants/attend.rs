//! The kernels that attend.

use std::ffi::c_void;

use lacuna::Queue;
use lacuna::attention::{LogBase, LogSumOrder, Mask, Tokens};
use lacuna::element::{Half, Real};
use lacuna::kv::KvLists;
use lacuna::mma::Model;
use lacuna::simt::{Checks, Config, Entry, Schedule, Substitute};

use self::problem::{Brain, Case, Part, Problem, Results, Short};
use crate::common::Random;
use crate::{Kernel, Mutation, of};

#[path = "../attention/attend/problem.rs"]
#[allow(dead_code, reason = "tests use all of it")]
pub(crate) mod problem;

const fn kernel(entry: &'static str, mutations: &'static [Mutation]) -> Kernel {
    Kernel {
        room: "attention",
        source: include_str!("../../csrc/attention/attend.cu"),
        headers: &[
            ("attend.cuh", include_str!("../../csrc/attention/attend.cuh")),
            ("parts.cuh", include_str!("../../csrc/attention/parts.cuh")),
            ("../common/last.cuh", include_str!("../../csrc/common/last.cuh")),
            ("low_rank.cuh", include_str!("../../csrc/attention/low_rank.cuh")),
            ("sums.cuh", include_str!("../../csrc/attention/sums.cuh")),
            ("state.cuh", include_str!("../../csrc/attention/state.cuh")),
            ("tokens.cuh", include_str!("../../csrc/attention/tokens.cuh")),
            ("../common/kv.cuh", include_str!("../../csrc/common/kv.cuh")),
        ],
        entry,
        mutations,
    }
}

/// Left out is what changes no result. Only time: rows of a pitch in the same banks, the vote before sums are raised, no tile
/// fetched past a split, rows of parts that nobody reads. One of two guards: the end of a tile and that of all segments, either of
/// which is enough, and a row that no query sees, whose last query is 0 and so its first. What is masked anyway: the zeros in
/// place of keys that are not there, and greatest logits that pass NaN over, whose rows are NaN whole. The last wait for copies,
/// since the tile before waited for all but the last group, which is empty there. And the ticket of a set without rows, which is
/// that of another block of which none is at work, where blocks run one after the other.
const MUTATIONS: &[Mutation] = &[
    // Two of is_last_block, two of weigh_parts, between sets that share tiles, one after queries have come, one before sums are
    // left on chip, one before outputs; of the kernel those after positions, and before a set is merged.
    of("__syncthreads();", 0, ""),
    of("__syncthreads();", 1, ""),
    of("__syncthreads();", 2, ""),
    of("__syncthreads();", 3, ""),
    of("__syncthreads();", 4, ""),
    of("__syncthreads();", 5, ""),
    of("__syncthreads();", 6, ""),
    of("__syncthreads();", 7, ""),
    of("__syncthreads();", 8, ""),
    of("__syncthreads();", 9, ""),
    of("__syncwarp();", 1, ""),
    of("__syncwarp();", 2, ""),
    of("sync_sets(part);", 0, ""),
    of("sync_sets(part);", 1, ""),
    of("__threadfence();", 0, ""),
    of("__threadfence();", 1, ""),
    of("== n_blocks - 1", 0, "== 0"),
    of("if (is_last) atomicExch(ticket, 0u);", 0, ""),
    of("atomicAdd(ticket, 1u)", 0, "(*ticket)++"),
    of("wait_copies<1>();", 0, ""),
    of("wait_copies<1>();", 0, "wait_copies<2>();"),
    // State.
    of("power < -126 ? 0.0f : ", 0, ""),
    of("power < -126", 0, "power < -125"),
    of("for (uint32_t i = lane; i < n; i += 32)", 0, "if (const uint32_t i = lane; i < n)"),
    of("for (uint32_t i = lane; i < n; i += 32)", 1, "if (const uint32_t i = lane; i < n)"),
    of("__reduce_max_sync(0xFFFFFFFFu, greatest)", 0, "greatest"),
    of("scale_of(static_cast<int32_t>(part[d + kGreatestWord]), greatest)", 0, "1.0f"),
    of("threadIdx.x < 2 * kRows && ", 0, ""),
    of("threadIdx.x < 2 * kRows && ", 0, "threadIdx.x < kRows && "),
    of("threadIdx.x < kRows ? merge.sums : merge.masses", 0, "merge.sums"),
    of(
        "at = r; at < n * kRows; at += kRows",
        0,
        "at = r + (n - 1) * kRows; at < n * kRows; at -= kRows",
    ),
    of(
        "i = 0; i < n; ++i, four += part_stride",
        0,
        "i = (four += (n - 1) * part_stride, n - 1); i < n; --i, four -= part_stride",
    ),
    // Tokens: whose lists, how many positions, who sees them, and where they are.
    of("segment.n_lists == 1 ? b : b * segment.n_lists + h", 0, "b"),
    of("segment.n_lists == 1 ? b : ", 0, ""),
    of(
        "min_of(segment.counts[list_of(segment, b, h)], segment.n_indices)",
        0,
        "segment.counts[list_of(segment, b, h)]",
    ),
    of("segment.counts[list_of(segment, b, h)]", 0, "segment.counts[b]"),
    of("segment.counts != nullptr", 0, "false"),
    of("n_blocks * segment.block_size", 0, "n_blocks"),
    of("n_rows > segment.n_last ? n_rows - segment.n_last : 0", 0, "n_rows - segment.n_last"),
    of("n_rows > segment.n_last ? n_rows - segment.n_last : 0", 0, "0"),
    of("if (segment.window != 0) {", 0, "if (false) {"),
    of("uint64_t{segment.window} + params.n_queries - 1", 0, "segment.window"),
    of("if (n_rows > n_seen) {", 0, "{"),
    of("first_row < first_seen ? first_seen : first_row", 0, "first_seen"),
    of("first_row < segment.first_row ? segment.first_row : first_row", 0, "segment.first_row"),
    of("first_row < segment.first_row ? segment.first_row : first_row", 0, "first_row"),
    of("min_of(n_rows, segment.end_row)", 0, "n_rows"),
    of("min_of(n_rows, segment.end_row)", 0, "segment.end_row"),
    of("end_row > first_row ? end_row - first_row : 0", 0, "end_row - first_row"),
    of("end += n;", 0, "end = n;"),
    of("if (segment.is_causal == 0) return n_queries << 16;", 0, ""),
    of("if (segment.is_causal == 0) return", 0, "return"),
    of("static_cast<int32_t>(t + n_queries)", 0, "static_cast<int32_t>(t + n_queries - 1)"),
    of("first > 0 ? static_cast<uint32_t>(first) : 0", 0, "static_cast<uint32_t>(first)"),
    of("if (segment.window != 0) {", 1, "if (false) {"),
    of("int64_t{first} + segment.window", 0, "int64_t{first} + segment.window - 1"),
    of("last < 0 ? 0 : ", 0, ""),
    of(
        "last < n_queries ? static_cast<uint32_t>(last) : n_queries",
        0,
        "static_cast<uint32_t>(last)",
    ),
    of("last < n_queries ? static_cast<uint32_t>(last) : n_queries", 0, "n_queries"),
    of("position >= positions.ends[s]", 0, "position > positions.ends[s]"),
    of("s == 0 ? 0 : positions.ends[s - 1]", 0, "0"),
    of("positions.first_rows[s] + i", 0, "i"),
    of("place.list * segment.n_indices + place.entry", 0, "place.entry"),
    of("uint64_t{block} * segment.block_size", 0, "block * segment.block_size"),
    of("i - place.entry * segment.block_size", 0, "0"),
    of("if (row >= n_rows) return token;", 0, ""),
    of("if (seen == 0) return token;", 0, ""),
    of("if (element == kNoRow) return token;", 0, ""),
    of("segment.kv.values + 2 * element", 0, "segment.kv.keys + 2 * element"),
    of("if (segment.biases != nullptr) {", 0, "{"),
    of("place.list * segment.bias_stride + place.entry", 0, "place.entry"),
    of("segment.bias_stride + place.entry", 0, "segment.bias_stride + i"),
    of("token.seen = seen;", 0, "token.seen = params.n_queries << 16;"),
    of("n < kv.n_rows ? n : kv.n_rows", 0, "n"),
    of("static_cast<uint32_t>(physical) >= kv.n_pages", 0, "physical < 0"),
    of(
        "static_cast<uint32_t>(physical) >= kv.n_pages",
        0,
        "physical >= static_cast<int32_t>(kv.n_pages)",
    ),
    // Queries and tiles on their way.
    of(
        "first < part.n_all_rows ? min_of(part.tile_rows, part.n_all_rows - first) : 0",
        0,
        "min_of(part.tile_rows, part.n_all_rows - first)",
    ),
    of("min_of(part.tile_rows, part.n_all_rows - first)", 0, "kRows"),
    of("found.query = row / params.group;", 0, "found.query = 0;"),
    of("row - found.query * params.group", 0, "row"),
    of("n_positions > kMostParts * split_len", 0, "n_positions >= kMostParts * split_len"),
    of("split_len *= 2;", 0, "split_len *= 4;"),
    of("i < part.n_sets * part.tile_rows * n_chunks", 0, "i < kRows * n_chunks"),
    of("i < part.n_sets * part.tile_rows * n_chunks", 0, "i < part.n_all_rows * n_chunks"),
    of("is_row = part.first_tile * part.tile_rows + r < part.n_all_rows", 0, "is_row = true"),
    of("is_row ? part.first_tile * part.tile_rows + r : 0", 0, "r"),
    of("if (next == first + step) {", 0, "if (false) {"),
    of("uint64_t{part.b} * params.n_queries + row.query", 0, "row.query"),
    of("uint64_t{part.head} * params.group + row.in_group", 0, "row.in_group"),
    of("token * params.query_stride", 0, "token * params.n_heads * params.group * params.head_dim"),
    of("n_own = kTile / part.n_sets", 0, "n_own = kTile"),
    of("first_own = set * n_own", 0, "first_own = 0"),
    of("if (lane < n_own) {", 0, "{"),
    of("row += first_own;", 0, ""),
    of("while (row < first_own + n_own)", 0, "while (row <= first_own + n_own)"),
    of("const bool is_there = value != 0;", 0, "const bool is_there = true;"),
    of(
        "(is_there ? 16 * chunk : 0),\n                   is_there)",
        0,
        "(is_there ? 16 * chunk : 0))",
    ),
    of("from_key + (is_stored ? 16 * chunk : 0)", 0, "from_key"),
    of("if (chunk >= n_chunks) {", 0, "if (chunk > n_chunks) {"),
    of("chunk_step = 32 - row_step * n_chunks", 0, "chunk_step = 0"),
    // Logits and weights.
    of("if (x == minus_infinity()) return x;", 0, ""),
    of("x > kMostLog2 ? kMostLog2 : x < -kMostLog2", 0, "x < -kMostLog2"),
    of("x < -kMostLog2 ? -kMostLog2 : x", 0, "x"),
    of("if (rule.cap_scale != 0.0f) {", 0, "if (false) {"),
    of("exp2_of(twice < 0.0f ? twice : -twice)", 0, "exp2_of(twice)"),
    of("twice < 0.0f ? -tanh : tanh", 0, "tanh"),
    of("if (!(twice == twice)) x = twice;", 0, ""),
    of("__fmaf_rn(bias, kLog2E, x)", 0, "x"),
    of("clamp_logit(__fmul_rn(logit, kLog2E))", 0, "__fmul_rn(logit, kLog2E)"),
    of("clamp_logit(__fmul_rn(logit, kLog2E))", 0, "clamp_logit(logit)"),
    of("logit == logit ? exp2_of(", 0, "true ? exp2_of("),
    of("to_halves(low, high, rule.element)", 0, "to_halves(high, low, rule.element)"),
    of("greatest[0] = kNoScore;", 0, "greatest[0] = 0;"),
    of("next[0] == greatest[0] && next[1] == greatest[1]", 0, "next[0] == greatest[0]"),
    of("scales[j / 2]", 0, "scales[0]"),
    of("scales[j / 2]", 1, "scales[0]"),
    of("weights[j] = __fmul_rn(weights[j], scales[j / 2]);", 0, ""),
    of("greatest[1] = next[1];", 0, ""),
    // Sums of weights before they are rounded.
    of("sum = __fmul_rn(sum, factor);", 0, ""),
    of("masses[0].scale(scales[0]);", 0, ""),
    of("masses[1].scale(scales[1]);", 0, "masses[1].scale(scales[0]);"),
    of("of_pairs[0], of_pairs[2]", 0, "of_pairs[0], of_pairs[1]"),
    of("of_pairs[1], of_pairs[3]", 0, "of_pairs[1], 0.0f"),
    of("masses[half].sum, masses[half].lost", 0, "masses[0].sum, masses[0].lost"),
    of("__shfl_xor_sync(0xFFFFFFFFu, mass, 1)", 0, "mass"),
    of("__shfl_xor_sync(0xFFFFFFFFu, mass, 2)", 0, "mass"),
    of("__fadd_rn(mass, __shfl_xor_sync(0xFFFFFFFFu, mass, 1))", 0, "mass"),
    of("__fadd_rn(mass, __shfl_xor_sync(0xFFFFFFFFu, mass, 2))", 0, "mass"),
    // Fragments.
    of("matrix % 2 * 8) * pitch + matrix / 2", 0, "matrix / 2 * 8) * pitch + matrix % 2"),
    of("matrix / 2 * 8) * pitch + matrix % 2", 0, "matrix % 2 * 8) * pitch + matrix / 2"),
    of("matrix % 2 * 8) * pitch + matrix / 2", 1, "matrix / 2 * 8) * pitch + matrix % 2"),
    of("if (16 * k >= head_dim) break;", 0, ""),
    of("if (16 * k >= head_dim) break;", 1, ""),
    of("load_matrices(a, query + 2 * k)", 0, "load_matrices(a, query)"),
    of("key + tile * kTile * pitch + 2 * k", 0, "key"),
    of("{b[2], b[3]}", 0, "{b[0], b[1]}"),
    of("{b[2], b[3]}", 1, "{b[0], b[1]}"),
    of("load_matrices_transposed(b, value", 0, "load_matrices(b, value"),
    of("value + tile * kTile * pitch + 2 * k", 0, "value"),
    of("kIsBf16 ? 0x3F803F80 : 0x3C003C00", 0, "0x3F803F80"),
    of("i / 4 * 8 + threadIdx.x % 4 * 2 + j % 2", 0, "threadIdx.x % 4 * 2 + j % 2"),
    of("i / 4 * 8 + threadIdx.x % 4 * 2 + j % 2", 0, "i / 4 * 8 + threadIdx.x % 4 * 2 + j / 2"),
    of("i / 4 * 8 + threadIdx.x % 4 * 2 + j % 2", 0, "i / 4 * 8 + threadIdx.x % 4 + j % 2"),
    of("seen & 0xFFFF", 0, "0"),
    of("(seen >> 16) - begin", 0, "params.n_queries - begin"),
    of("query[half] - begin", 0, "query[0] - begin"),
    of("sees(j / 2, position) ? seen : minus_infinity()", 0, "seen"),
    of("next[half] = max(next[half], __shfl_xor_sync(0xFFFFFFFFu, next[half], 1));", 0, ""),
    of("next[half] = max(next[half], __shfl_xor_sync(0xFFFFFFFFu, next[half], 2));", 0, ""),
    of("raise(next);", 0, "greatest[0] = next[0]; greatest[1] = next[1];"),
    of(
        "weigh(logits[tile][i / 2][i % 2 * 2], greatest[i % 2])",
        0,
        "weigh(logits[tile][i / 2][i % 2 * 2], greatest[0])",
    ),
    of(
        "weigh(logits[tile][i / 2][i % 2 * 2], greatest[i % 2])",
        0,
        "weigh(logits[tile][i % 2][i / 2 * 2], greatest[i % 2])",
    ),
    of("i % 2 * 2 + 1], greatest[i % 2]", 0, "i % 2 * 2 + 1], greatest[1]"),
    of("rule.element == kFloatBf16", 0, "true"),
    of("rule.element == kFloatBf16", 1, "true"),
    // A split's sums, and what becomes of them.
    of("threadIdx.x % 32 / 4 + half * 8", 0, "threadIdx.x % 32 / 4"),
    of("if (8 * i >= head_dim) break;", 0, ""),
    of("row + 8 * i + 2 * pair", 0, "row + 8 * i"),
    of("outputs[i][2 * half + 1]", 0, "outputs[i][1]"),
    of("__float_as_uint(weights[2 * half])", 0, "__float_as_uint(weights[0])"),
    of("static_cast<uint32_t>(greatest[half])", 0, "static_cast<uint32_t>(greatest[0])"),
    of("__float_as_uint(mass)", 0, "__float_as_uint(weights[2 * half])"),
    of("set = threadIdx.x / 32 / n_warps", 0, "set = 0"),
    of("threadIdx.x / 32 - set * n_warps", 0, "threadIdx.x / 32"),
    of("part.first_tile + set", 0, "part.first_tile"),
    of("dynamic + set * n_stage", 0, "dynamic"),
    of("dynamic + part.n_sets * n_stage + maker", 0, "dynamic + n_stage + maker"),
    of("maker.n_basis_chunks() + warp * 2 * n_turn", 0, "maker.n_basis_chunks()"),
    of("split * part.split_len", 0, "0"),
    of("locate_query(params, row + 8)", 0, "locate_query(params, row)"),
    of("rows.tile * kRows + threadIdx.x % 32 / 4", 0, "threadIdx.x % 32 / 4"),
    of("const uint32_t step = n_warps * kTile;", 0, "const uint32_t step = kTile;"),
    of("own = warp * kTile", 0, "own = 0"),
    // The other order of tiles.
    of("own = warp * kTile", 0, "own = (n_warps - 1 - warp) * kTile"),
    of("next - step + own < end", 0, "true"),
    of("turn = 1 - turn", 0, "turn = 0"),
    of("stages + turn * n_turn", 0, "stages"),
    of("shared.tokens[warp][turn]", 0, "shared.tokens[warp][0]"),
    of("shared.tokens[warp][turn]", 0, "shared.tokens[0][turn]"),
    of("words + threadIdx.x / 32 * kRows * (params.head_dim + kExtraWords)", 0, "words"),
    of("params.sinks != nullptr", 0, "false"),
    of("params.sinks + head", 0, "params.sinks + row.in_group"),
    of("max(greatest, ceiling(logit))", 0, "greatest"),
    of("finish.scale = scale_of(greatest, next);", 0, ""),
    of("__fmaf_rn(sum, finish.scale, weight)", 0, "__fmul_rn(sum, finish.scale)"),
    of("__fmaf_rn(mass, finish.scale, weight)", 0, "__fmul_rn(mass, finish.scale)"),
    of("log2_of(mass)", 0, "log2_of(sum)"),
    of("greatest = next;", 0, ""),
    of("is_empty ? 0.0f : ", 0, ""),
    of("if (params.log_sums == nullptr) return;", 0, ""),
    of("is_empty ? minus_infinity() : ", 0, ""),
    of("if (!(sum == sum)) finish", 0, "if (false) finish"),
    of("canonical(sum)", 0, "log2"),
    of("__fmul_rn(log2, rule.log_unit)", 0, "log2"),
    of("part.b * strides.request + row", 0, "row"),
    of("row.query * strides.query", 0, "row.query"),
    of("row.query * strides.query", 0, "0"),
    of("head * strides.head", 0, "head"),
    of("head * strides.head", 0, "row.in_group * strides.head"),
    of("if (threadIdx.x < rows.n) finish_row", 0, "finish_row"),
    of("locate_query(params, rows.tile * part.tile_rows + r)", 0, "locate_query(params, r)"),
    of("locate_query(params, rows.tile * part.tile_rows + r)", 1, "locate_query(params, r)"),
    of("i < rows.n * d", 0, "i < kRows * d"),
    of("finish_output(four[j], finishing.scales[r]", 0, "finish_output(four[j], 1.0f"),
    of("reciprocal == 0.0f ? 0.0f : ", 0, ""),
    of("token * params.output_stride", 0, "token * params.n_heads * params.group * d"),
    of("i < n_rows * row_words", 0, "i < kRows * row_words"),
    of("make_uint4(__float_as_uint(merge.sums[r])", 0, "make_uint4(0"),
    of("static_cast<uint32_t>(merge.greatest[r])", 0, "0"),
    of("__float_as_uint(merge.masses[r])", 0, "0"),
    // The kernel.
    of("params.skips != nullptr && params.skips[part.b] != 0", 0, "false"),
    of("(params.n_tiles + part.n_sets - 1) / part.n_sets", 0, "params.n_tiles / part.n_sets"),
    of("(params.n_tiles + part.n_sets - 1) / part.n_sets", 0, "params.n_tiles"),
    of("blockIdx.y - part.head * n_blocks", 0, "0"),
    of("(blockIdx.y - part.head * n_blocks) * part.n_sets", 0, "blockIdx.y - part.head * n_blocks"),
    of("i < part.n_sets; ++i", 0, "i < 1; ++i"),
    of("shared.positions.ends[params.n_segments - 1]", 0, "shared.positions.ends[0]"),
    of("(part.n_positions + part.split_len - 1)", 0, "part.n_positions"),
    of("if (part.n_splits == 0) part.n_splits = 1;", 0, ""),
    of("if (split >= part.n_splits) return;", 0, ""),
    of("part.n_splits == 1 ? 1 : 2", 0, "2"),
    of("part.n_splits == 1 ? 1 : 2", 0, "1"),
    of("head * params.n_splits * split_words", 0, "head * part.n_splits * split_words"),
    of("(rows.tile - part.first_tile) * n_warps * part_stride", 0, "0"),
    of("chip + part.n_sets * n_warps * part_stride", 0, "chip + n_warps * part_stride"),
    of("uint64_t{rows.tile} * part.tile_rows * row_words", 0, "0"),
    of("partials + blockIdx.x * split_words", 0, "partials"),
    of("head * params.n_tiles + rows.tile", 0, "head * params.n_tiles"),
    of("merge = Merge(room, n_parts);", 0, ""),
    of(
        "if (!is_last_block(ticket, part.n_splits, finishing.is_last)) return;",
        0,
        "is_last_block(ticket, part.n_splits, finishing.is_last);",
    ),
    of("n_parts = part.n_splits;", 0, ""),
    of("part_stride = split_words;", 0, ""),
];

/// What is the other entry's own, and what shows where a warp has more than two tiles.
const OF_LONG_HEADS: &[Mutation] = &[
    of("lost = __fadd_rn(lost, __fsub_rn(term, __fsub_rn(next, sum)));", 0, ""),
    of("lost = __fmul_rn(lost, factor);", 0, ""),
    of("__fadd_rn(masses[half].sum, masses[half].lost)", 0, "masses[half].sum"),
    of("attend<256, StoredKeys>", 0, "attend<128, StoredKeys>"),
    of("sync_sets(part);", 0, ""),
    of("if (16 * k >= head_dim) break;", 0, ""),
    of("if (8 * i >= head_dim) break;", 0, ""),
    of("n_warps = blockDim.x / 32 / part.n_sets", 0, "n_warps = kMostWarps"),
    of("n_warps = blockDim.x / 32 / part.n_sets", 0, "n_warps = blockDim.x / 32"),
];

unsafe extern "C" {
    fn lacuna_simt_attend_128(params: *const c_void, is_checked: u32);
    fn lacuna_simt_attend_256(params: *const c_void, is_checked: u32);
}

/// Whether a launch by the second entry in place of the first is not what it must be.
pub(crate) type Differs = Box<dyn Fn(Entry, Entry) -> bool + Sync>;

fn hold<T: Half + Sync, O: Real + Sync + 'static>(problem: Problem<T>) -> Differs {
    beside(problem.expect::<O>(model()), move |queue| problem.attend::<O>(queue))
}

/// Whose tensor cores the executor has.
pub(crate) fn model() -> Model {
    Queue::simt(Config::default()).mma_model().expect("the executor has a model")
}

/// A launch on both schedules, beside what is expected of it.
pub(crate) fn beside<O: Real + Sync + 'static>(
    expected: Results<O>,
    attend: impl Fn(&Queue) -> lacuna::Result<Results<O>> + Sync + 'static,
) -> Differs {
    let bytes = |results: &Results<O>| bytemuck::cast_slice::<O, u8>(&results.outputs).to_vec();
    let queue = |kernel, by, schedule| {
        Queue::simt(Config {
            schedule,
            seed: 7,
            step_budget: 100_000,
            checks: Checks { settled: false, ..Checks::ALL },
            substitute: Some(Substitute { kernel, by }),
            ..Config::default()
        })
    };
    Box::new(move |kernel, by| {
        [Schedule::Random, Schedule::Reverse].into_iter().any(|schedule| {
            attend(&queue(kernel, by, schedule)).map_or(true, |found| {
                found.log_sums != expected.log_sums || bytes(&found) != bytes(&expected)
            })
        })
    })
}

/// Of many kinds, short ones first; what no other test has is what only mutants miss.
fn problems() -> Vec<Differs> {
    let blocks = |n_blocks, block_size| Part::of(Tokens::Blocks { n_blocks, block_size });
    let causal = |part: Part| part.masked(Mask::Causal);
    let plain = Case { lengths: vec![150, 0, 3], n_heads: 2, head_dim: 48, ..Case::default() };
    let many_rows = Case {
        lengths: vec![150, 2],
        group: 5,
        n_queries: 8,
        head_dim: 16,
        parts: vec![causal(Part::of(Tokens::ALL))],
        ..plain.clone()
    };
    let together = Case {
        lengths: vec![100, 0, 3, 17],
        n_queries: 3,
        parts: vec![
            Part::of(Tokens::first(4)),
            Part { lists: KvLists::PerHead, has_counts: true, has_biases: true, ..blocks(9, 3) },
            causal(Part { has_biases: true, ..Part::of(Tokens::last(20).after(4)) }),
            blocks(3, 128).masked(Mask::Window(50)),
        ],
        head_dim: 32,
        log_sum_order: LogSumOrder::HeadsTokens,
        ..plain.clone()
    };
    let capped = Case {
        soft_cap: Some(3.0),
        has_sinks: true,
        log_sum_order: LogSumOrder::BatchHeadsQueries,
        ..together.clone()
    };
    let window = |n_tokens, part: Part, n| {
        let parts = vec![part.masked(Mask::Window(n))];
        Case { lengths: vec![n_tokens, 3, 2, 0], n_queries: 3, parts, ..Case::default() }
    };
    let ends = Tokens::Range { first: 5, end: 30, last: 60 };
    let ranges = Case {
        lengths: vec![40, 70, 3, 0],
        parts: vec![Part::of(Tokens::last(20).after(30)), Part::of(ends)],
        ..Case::default()
    };
    let of_each_head = Case {
        lengths: vec![250, 250],
        n_heads: 2,
        parts: vec![Part { lists: KvLists::PerHead, has_counts: true, ..blocks(300, 1) }],
        ..Case::default()
    };
    let mut wild = Case {
        lengths: vec![90, 70],
        parts: vec![blocks(50, 2), Part::of(Tokens::ALL)],
        ..Case::default()
    }
    .build::<Brain>();
    for segment in &mut wild.segments {
        segment.lengths = vec![u32::MAX, 70];
        segment.page_table[1] = -1;
        segment.page_table[3] = i32::MAX;
    }
    // Twice as large it is 6 in 32 bits.
    wild.segments[0].indices.as_mut().unwrap()[0] = i32::MIN + 3;
    // What is not there is not a query's numbers either.
    let mut beside_nan = wild.clone();
    beside_nan.queries[0] = Brain::from_f32(f32::NAN);
    let one = Case { lengths: vec![40], head_dim: 16, group: 1, ..Case::default() };
    let with = |case: &Case, t: u64, value: f32, is_key: bool| {
        let mut problem = case.build::<Brain>();
        problem.queries[0] = Brain::from_f32(1.0);
        let layout = case.kv_layout().unwrap();
        let segment = &mut problem.segments[0];
        let start = layout.locate(&segment.page_table, 0, t, 0).unwrap();
        let pool = if is_key { &mut segment.keys } else { &mut segment.values };
        pool[start] = Brain::from_f32(value);
        problem
    };
    // Of a row that no query sees.
    let unseen = Case { parts: vec![blocks(40, 1).masked(Mask::Window(5))], ..one.clone() };
    let list = (0..40).collect();
    let unseen =
        Case { parts: vec![Part { indices: Some(list), ..unseen.parts[0].clone() }], ..unseen };
    // A query that sees nothing, beside one that sees what is no number.
    let parts = vec![causal(Part::of(Tokens::ALL))];
    let nothing = Case { lengths: vec![1], n_queries: 2, parts, ..one.clone() };
    let empty = Case { lengths: vec![0, 40], ..one.clone() };
    let sink = |sink| Problem { sinks: Some(vec![sink]), ..empty.build::<Brain>() };
    let biased = Part { has_biases: true, ..Part::of(Tokens::ALL) };
    // One warp's logits are 0, the next one's 126, whose values are 0: the scale is the least that is none.
    let mut far_apart =
        Case { lengths: vec![32], parts: vec![biased], ..one.clone() }.build::<Brain>();
    far_apart.queries.fill(Brain::from_f32(0.0));
    let layout = one.kv_layout().unwrap();
    let segment = &mut far_apart.segments[0];
    for t in 0..32 {
        segment.biases.as_mut().unwrap()[t as usize] = if t < 16 { 0.0 } else { 87.336_54 };
        let start = layout.locate(&segment.page_table, 0, t, 0).unwrap();
        let value = Brain::from_f32(if t < 16 { 1.0 } else { 0.0 });
        segment.values[start..start + 16].fill(value);
    }
    let mut farther = far_apart.clone();
    farther.segments[0].biases.as_mut().unwrap()[16..32].fill(200.0);
    let long = Case { lengths: vec![8192, 8193, 4300], group: 1, head_dim: 16, ..Case::default() };
    let layout = long.kv_layout().unwrap();
    let mut long = long.build::<Brain>();
    // Far above all others, in the last of the splits.
    let n_queries = long.plan.shape().query_stride as usize;
    long.queries[2 * n_queries] = Brain::from_f32(1.0);
    let segment = &mut long.segments[0];
    let start = layout.locate(&segment.page_table, 2, 4290, 0).unwrap();
    segment.keys[start] = Brain::from_f32(1000.0);
    let mut of_each_head = of_each_head.build::<Brain>();
    of_each_head.segments[0].counts.as_mut().unwrap()[1] = 340;
    vec![
        hold::<_, f32>(plain.build::<Brain>()),
        hold::<_, Brain>(plain.build::<Short>()),
        hold::<_, Short>(many_rows.build::<Short>()),
        hold::<_, f32>(together.build::<Brain>()),
        hold::<_, f32>(capped.build::<Short>()),
        hold::<_, f32>(wild),
        hold::<_, f32>(beside_nan),
        hold::<_, f32>(Problem { skips: Some(vec![0, 7, 1]), ..plain.build::<Brain>() }),
        hold::<_, f32>(Problem { has_log_sums: false, ..plain.build::<Brain>() }),
        hold::<_, f32>(plain.build::<Brain>().with_base(LogBase::Two)),
        hold::<_, f32>(Case { group: 16, lengths: vec![200], ..plain.clone() }.build::<Brain>()),
        hold::<_, f32>(ranges.build::<Brain>()),
        hold::<_, f32>(window(200, Part::of(Tokens::ALL), 30).build::<Brain>()),
        hold::<_, f32>(window(40, Part::of(Tokens::ALL), 1 << 16).build::<Brain>()),
        hold::<_, f32>(window(40, Part::of(Tokens::last(5)), 30).build::<Brain>()),
        hold::<_, f32>(window(40, blocks(40, 1), 2).build::<Brain>()),
        hold::<_, f32>(with(&one, 21, f32::NAN, true)),
        hold::<_, f32>(with(&one, 21, f32::INFINITY, true)),
        hold::<_, f32>(with(&one, 21, f32::NEG_INFINITY, true)),
        hold::<_, f32>(with(&one, 21, f32::INFINITY, false)),
        hold::<_, f32>(with(&Case { lengths: vec![1], ..one.clone() }, 0, f32::NEG_INFINITY, true)),
        hold::<_, f32>(with(&Case { soft_cap: Some(3.0), ..one.clone() }, 21, f32::NAN, true)),
        hold::<_, f32>(with(&unseen, 2, f32::NAN, false)),
        hold::<_, f32>(with(&nothing, 0, f32::NAN, false)),
        hold::<_, f32>(sink(-1e30)),
        hold::<_, f32>(sink(1e30)),
        hold::<_, f32>(sink(3.0)),
        hold::<_, f32>(far_apart),
        hold::<_, f32>(farther),
        hold::<_, f32>(of_each_head),
        hold::<_, f32>(long),
    ]
}

#[test]
fn every_mutation_of_attend_128_is_caught() {
    let own: Entry = lacuna_simt_attend_128;
    let problems = problems();
    kernel("attend_128", MUTATIONS)
        .assert_all_caught(own, |entry| problems.iter().any(|differs| differs(own, entry)));
}

#[test]
fn every_mutation_of_attend_256_is_caught() {
    let own: Entry = lacuna_simt_attend_256;
    let case = Case { head_dim: 144, lengths: vec![150, 40], ..Case::default() };
    // Of each request one token weighs 1, and the others so little that each addition loses some; then, of some, one weighs 2.
    let biased = Part { has_biases: true, ..Part::of(Tokens::ALL) };
    let alone = Case { lengths: vec![128; 8], group: 1, parts: vec![biased], ..case.clone() };
    let mut alone = alone.build::<Brain>();
    alone.queries.fill(Brain::from_f32(0.0));
    let n_rows = alone.plan.segments().next().unwrap().layout.n_rows() as usize;
    let mut random = Random(7);
    for (b, biases) in alone.segments[0].biases.as_mut().unwrap().chunks_mut(n_rows).enumerate() {
        for bias in biases.iter_mut() {
            *bias = (2.0_f32.powi(-25) * (random.next() % 128 + 32) as f32 / 64.0).ln();
        }
        biases[0] = 0.0;
        biases[100] = if b % 2 == 0 { 0.693 } else { biases[100] };
    }
    let problems = [
        hold::<_, f32>(alone),
        hold::<_, f32>(case.build::<Brain>()),
        hold::<_, f32>(Case { head_dim: 256, ..case.clone() }.build::<Short>()),
        hold::<_, f32>(Case { group: 5, n_queries: 4, ..case }.build::<Brain>()),
    ];
    kernel("attend_256", OF_LONG_HEADS)
        .assert_all_caught(own, |entry| problems.iter().any(|differs| differs(own, entry)));
}
