//! The kernels that append to a paged cache.

use std::ffi::c_void;

use half::{bf16, f16};
use lacuna::element::{Half, Real};
use lacuna::quant::Turn;
use lacuna::simt::{Entry, Schedule};

use crate::append_problem::{Case, Left, Problem};
use crate::{Kernel, Mutation, differs, of, queue};

const fn kernel(entry: &'static str, mutations: &'static [Mutation]) -> Kernel {
    Kernel {
        room: "quant",
        source: include_str!("../../csrc/quant/append.cu"),
        headers: &[("../common/turn.cuh", include_str!("../../csrc/common/turn.cuh"))],
        entry,
        mutations,
    }
}

/// Left out is what costs time alone: blocks past a request's tokens, positions of keys that are not turned, and
/// a mask read from its start.
const APPEND: &[Mutation] = &[
    of("__syncthreads();", 1, ""),
    of("__syncthreads();", 2, ""),
    // What there is.
    of("const uint32_t b = blockIdx.y;", 0, "const uint32_t b = 0;"),
    of("if (params.counts != nullptr) ", 0, ""),
    of("least(params.counts[b], params.n_tokens)", 0, "params.counts[b]"),
    of("least(params.counts[b], params.n_tokens)", 0, "params.n_tokens"),
    of("if (params.keeps != nullptr) ", 0, ""),
    of("params.keeps + uint64_t{b} * params.n_tokens", 0, "params.keeps"),
    of("token < request.n_tokens && ", 0, ""),
    of("request.keeps == nullptr || ", 0, ""),
    of("request.keeps[token] != 0", 0, "request.keeps[token] == 1"),
    of("request.keeps[token] != 0", 0, "(request.keeps[token] & 0xFF) != 0"),
    of("request.keeps[token] != 0", 0, "true"),
    // Room.
    of(
        "request.length < kv.n_rows ? kv.n_rows - request.length : 0",
        0,
        "kv.n_rows - request.length",
    ),
    of("request.length < kv.n_rows ? kv.n_rows - request.length : 0", 0, "kv.n_rows"),
    of("n_free < end ? n_free : ~0u", 0, "~0u"),
    of("const uint32_t last = least(n_free, end);", 0, "const uint32_t last = end;"),
    of("if (first >= last) return full;", 0, ""),
    of("request.b * kv.table_stride", 0, "0"),
    of("(request.length + last - 1)", 0, "(request.length + last)"),
    of("page <= last_page", 0, "page < last_page"),
    of("page = first_page + threadIdx.x", 0, "page = first_page + 1 + threadIdx.x"),
    of("< kv.n_pages) continue;", 0, "<= kv.n_pages) continue;"),
    of(
        "static_cast<uint32_t>(table[page]) < kv.n_pages",
        0,
        "table[page] < static_cast<int32_t>(kv.n_pages)",
    ),
    of("(row > first_row ? row : first_row) - request.length", 0, "row - request.length"),
    of("(row > first_row ? row : first_row) - request.length", 0, "0"),
    // Counts.
    of("token += kThreads", 0, "token += 2 * kThreads"),
    of("is_first ? request.n_tokens : first)", 0, "first)"),
    of("is_first ? request.n_tokens : first)", 0, "request.n_tokens)"),
    of("(is_first ? count.n_all : count.n_before)", 0, "count.n_all"),
    of(
        "is_first ? request.n_tokens : first + params.block_tokens",
        0,
        "first + params.block_tokens",
    ),
    of("first + params.block_tokens;", 0, "first;"),
    of("if (params.tiles == nullptr) {", 0, "if (false) {"),
    of("count.n_before = count_kept(request, own * kTile, first);", 0, ""),
    of("own * kTile, first", 0, "0, first"),
    of("__reduce_add_sync(kAllLanes, count.n_before)", 0, "count.n_before"),
    of("__reduce_add_sync(kAllLanes, count.n_all)", 0, "count.n_all"),
    of("__reduce_min_sync(kAllLanes, count.n_room)", 0, "count.n_room"),
    of("if (threadIdx.x % 32 == 0) shared.counts", 0, "shared.counts"),
    of("warp < kWarps; ++warp", 0, "warp < 1; ++warp"),
    of("count.n_before += shared", 0, "count.n_before = shared"),
    of("least(count.n_room, shared.counts[warp].n_room)", 0, "shared.counts[warp].n_room"),
    of("uint64_t{request.b} * params.n_tiles * 2", 0, "0"),
    of("if (tile < own) count.n_before += n;", 0, ""),
    of("tile < own", 0, "tile <= own"),
    of("least(count.n_room, tiles[2 * tile + 1])", 0, "count.n_room"),
    of("tile += kThreads", 0, "tile += 2 * kThreads"),
    // Places.
    of("if (rank < n_room) row", 0, "row"),
    of("rank < n_room", 0, "rank <= n_room"),
    of("request.length + rank, 0", 0, "rank, 0"),
    of("row == kNoRow || params.turn == kTurnNone", 0, "params.turn == kTurnNone"),
    of("uint32_t position = request.length + token;", 0, "uint32_t position = token;"),
    of("if (params.positions != nullptr) {", 0, "{"),
    of("uint64_t{request.b} * params.n_tokens + token", 0, "token"),
    of("given < 0 ? 0 : ", 0, ""),
    of("least(position, params.n_positions - 1)", 0, "position"),
    of("least(position, params.n_positions - 1)", 0, "least(position, params.n_positions)"),
    of("if (threadIdx.x % 32 == 0) shared.n_own", 0, "if (threadIdx.x == 0) shared.n_own"),
    of(
        "count.n_before + static_cast<uint32_t>(__popc(kept",
        0,
        "static_cast<uint32_t>(__popc(kept",
    ),
    of("((1u << threadIdx.x % 32) - 1)", 0, "((2u << threadIdx.x % 32) - 1)"),
    of("rank += shared.n_own[other]", 0, "rank += 0"),
    of("is_own ? rank : ~0u", 0, "rank"),
    of("if (threadIdx.x < params.block_tokens) {", 0, "if (threadIdx.x < 1) {"),
    of("const uint32_t first = blockIdx.x * params.block_tokens;", 0, "const uint32_t first = 0;"),
    of("first >= request.n_tokens && blockIdx.x != 0", 0, "first >= request.n_tokens"),
    of("if (blockIdx.x == 0 && threadIdx.x == 0) {", 0, "if (threadIdx.x == 0) {"),
    of("if (blockIdx.x == 0 && threadIdx.x == 0) {", 0, "if (blockIdx.x == 0) {"),
    of("least(count.n_all, count.n_room)", 0, "count.n_all"),
    of("least(count.n_all, count.n_room)", 0, "count.n_room"),
    of(
        "params.new_lengths[request.b] = request.length + n_appended",
        0,
        "params.new_lengths[request.b] = n_appended",
    ),
    of("if (params.dropped != nullptr) ", 0, ""),
    of("count.n_all - n_appended", 0, "count.n_all"),
    of("uint64_t{request.b} * params.n_tokens + first", 0, "uint64_t{first}"),
    // Rows.
    of("n_units - params.rotary_dim / 16", 0, "n_units"),
    of("n_units - params.rotary_dim / 16", 0, "n_units - params.rotary_dim / 8"),
    of("i < params.block_tokens * n_heads * n_units", 0, "i < params.block_tokens * n_units"),
    of("if (shared.rows[token] == kNoRow) continue;", 0, ""),
    of("head * params.kv.head_stride", 0, "0"),
    of("(source + token) * stride", 0, "source * stride"),
    of("uint64_t{head} * params.kv.row_len", 0, "0"),
    of("i - row * n_units", 0, "0"),
    of("params.key_stride, [&]", 0, "params.value_stride, [&]"),
    of("params.value_stride,", 0, "params.key_stride,"),
    of("keys + to, params.keys", 0, "values + to, params.keys"),
    of("params.values + from", 0, "params.keys + from"),
    // Turns.
    of("__fmaf_rn(-y, sine, __fmul_rn(x, cosine))", 0, "__fmaf_rn(y, sine, __fmul_rn(x, cosine))"),
    of("__fmaf_rn(-y, sine, __fmul_rn(x, cosine))", 0, "__fmaf_rn(x, cosine, -__fmul_rn(y, sine))"),
    of("__fmaf_rn(x, sine, __fmul_rn(y, cosine))", 0, "__fmaf_rn(y, cosine, __fmul_rn(x, sine))"),
    of("params.turn == kTurnNone ? 0 : params.rotary_dim", 0, "params.rotary_dim"),
    of("uint64_t{position} * n_turned", 0, "uint64_t{position} * params.kv.row_len"),
    of("if (params.turn == kTurnHalves) {", 0, "if (true) {"),
    of("if (params.turn == kTurnHalves) {", 0, "if (false) {"),
    of("if (8 * unit < half) {", 0, "if (true) {"),
    of("from + 16 * unit + 2 * half", 0, "from + 16 * unit + half"),
    of("to + 16 * unit + 2 * half", 0, "to + 16 * unit + half"),
    of("cosines + half + 8 * unit", 0, "cosines + half"),
    of("load_floats(cosine, cosines + 8 * unit)", 0, "load_floats(cosine, cosines)"),
    of("floats[i + 1] = four.y", 0, "floats[i + 1] = four.x"),
    of("i < 8; i += 4", 0, "i < 4; i += 4"),
    of("unit += half / 8;", 0, "unit += half / 4;"),
    of("} else if (8 * unit < n_turned) {", 0, "} else if (8 * unit <= n_turned) {"),
    of("} else if (8 * unit < n_turned) {", 0, "} else if (false) {"),
    of("cosines + half + 4 * unit", 0, "cosines + half"),
    of("turn_by(cosine.w, sine.w, x[6], x[7]);", 0, ""),
    of("turn_by(cosine.y, sine.y, x[2], x[3]);", 0, "turn_by(cosine.x, sine.x, x[2], x[3]);"),
    of("to_halves(x[4], x[5], kind)", 0, "to_halves(x[5], x[4], kind)"),
    of("copy_eight(to + 16 * unit, from + 16 * unit);", 0, ""),
];

/// Left out is what the second launch has in common, and what costs time alone: pages of rows past a request's tokens, and before a tile's.
const COUNT: &[Mutation] = &[
    of("__syncthreads();", 0, ""),
    of("const uint32_t first = blockIdx.x * kTile;", 0, "const uint32_t first = 0;"),
    of("count_kept(request, first, end)", 0, "count_kept(request, 0, end)"),
    of("token < end; token", 0, "token < end + 1; token"),
    of("least(first + kTile, request.n_tokens)", 0, "first + kThreads"),
    of("if (threadIdx.x != 0) return;", 0, ""),
    of("uint64_t{request.b} * params.n_tiles + blockIdx.x", 0, "blockIdx.x"),
    of(
        "uint64_t{request.b} * params.n_tiles + blockIdx.x",
        0,
        "uint64_t{request.b} * params.n_tiles",
    ),
    of("tile[0] = count.n_all;", 0, "tile[0] = count.n_before;"),
    of("tile[1] = count.n_room;", 0, "tile[1] = ~0u;"),
    of("(row > first_row ? row : first_row) - request.length", 0, "row - request.length"),
    of("page += kThreads", 0, "page += 2 * kThreads"),
    of("leave_count(shared, own);", 0, ""),
];

unsafe extern "C" {
    fn lacuna_simt_append_kv(params: *const c_void, is_checked: u32);
    fn lacuna_simt_count_appended(params: *const c_void, is_checked: u32);
}

fn is_caught<T: Half + Real>((problem, left): &(Problem<T>, Left), own: Entry, by: Entry) -> bool {
    differs(own, by, left, |queue| problem.launch(queue))
}

fn with_left<T: Half + Real>(problem: Problem<T>) -> (Problem<T>, Left) {
    let left = problem.expected();
    (problem, left)
}

const LONG: Case = Case {
    seed: 3,
    lengths: Vec::new(),
    n_tokens: 2100,
    n_heads: 1,
    head_dim: 16,
    page_size: 16,
    n_more_pages: 130,
    is_hnd: true,
    turn: Turn::None,
    rotary_dim: 16,
    n_positions: 64,
    gap: 0,
    has_counts: false,
    has_keeps: true,
    has_positions: false,
    block_tokens: Some(128),
    is_hostile: false,
};

/// Prompts of three tiles: with room for all, with room that ends at the table, in the second tile's rows, and of pages of one row.
fn long() -> Vec<(Problem<bf16>, Left)> {
    let whole = Case { lengths: vec![3, 40], ..LONG }.build::<bf16>();
    let all = Case { lengths: vec![7], has_keeps: false, n_more_pages: 90, ..LONG };
    let mut hole = all.build::<bf16>();
    hole.cache.page_table[70] = -1;
    let mut counted = Case { has_counts: true, ..all.clone() }.build::<bf16>();
    counted.counts = Some(vec![1030]);
    let mut single =
        Case { lengths: vec![0], page_size: 1, n_more_pages: 2200, ..all.clone() }.build::<bf16>();
    single.cache.page_table[1024 + 200] = i32::MAX;
    let mut none = all.build::<bf16>();
    none.cache.page_table[0] = -1;
    vec![
        with_left(whole),
        with_left(all.build::<bf16>()),
        with_left(hole),
        with_left(counted),
        with_left(single),
        with_left(none),
    ]
}

#[test]
fn every_mutation_of_append_kv_is_caught() {
    let own: Entry = lacuna_simt_append_kv;
    let case = Case::default();
    let mut brains: Vec<_> = [
        Case { head_dim: 48, ..case.clone() },
        Case { is_hostile: true, n_more_pages: 4, ..case.clone() },
        Case { has_positions: false, has_counts: false, n_positions: 40, ..case.clone() },
        Case { turn: Turn::None, rotary_dim: 0, has_keeps: false, ..case.clone() },
        Case {
            turn: Turn::Pairs,
            head_dim: 40,
            n_tokens: 90,
            block_tokens: Some(64),
            n_more_pages: 7,
            ..case.clone()
        },
        Case { n_tokens: 0, ..case.clone() },
        Case { seed: 12, is_hostile: true, is_hnd: false, n_heads: 1, ..case.clone() },
    ]
    .map(|case| with_left(case.build::<bf16>()))
    .into();
    // A page that is none, and one past the pool, within what is appended; a length at the table's end.
    let room = Case { has_keeps: false, has_counts: false, n_tokens: 60, ..case.clone() };
    for (hole, page) in [(2, -1), (0, i32::MAX), (4, i32::MIN)] {
        let mut problem = room.build::<bf16>();
        problem.cache.page_table[hole] = page;
        brains.push(with_left(problem));
    }
    // Within a block's tokens, which is not the first.
    let small = Case { page_size: 4, block_tokens: Some(16), n_more_pages: 16, ..room.clone() };
    let mut within = small.build::<bf16>();
    within.cache.page_table[7] = -1;
    brains.push(with_left(within));
    let mut past = room.build::<bf16>();
    past.cache.page_table[1] = past.plan.shape().layout.shape().n_pages as i32;
    past.cache.lengths = vec![4, 64, u32::MAX];
    brains.push(with_left(past));
    let shorts: Vec<_> = [case.clone(), Case { turn: Turn::Pairs, ..case }]
        .map(|case| with_left(case.build::<f16>()))
        .into();
    brains.extend(long());
    brains.push(with_left(Case::of_many_tiles()));
    kernel("append_kv", APPEND).assert_all_caught(own, |entry| {
        brains.iter().any(|problem| is_caught(problem, own, entry))
            || shorts.iter().any(|problem| is_caught(problem, own, entry))
            || brains[0].0.launch_with(&queue(own, entry, Schedule::Random), false).is_err()
    });
}

#[test]
fn every_mutation_of_count_appended_is_caught() {
    let own: Entry = lacuna_simt_count_appended;
    let problems = long();
    kernel("count_appended", COUNT).assert_all_caught(own, |entry| {
        problems.iter().any(|problem| is_caught(problem, own, entry))
    });
}
