//! The kernel that picks the first scores.

use std::ffi::c_void;

use half::{bf16, f16};
use lacuna::bindings::SelectTopkParams;
use lacuna::launch::Grid;
use lacuna::region::Role;
use lacuna::select::reference::{RowRule, slot_of, topk_row};
use lacuna::select::{Order, Rule, Score, TopkPages};
use lacuna::simt::{Entry, Schedule};

use crate::{Kernel, Mutation, of, passes_on, region};

const KERNEL: Kernel = Kernel {
    room: "select",
    source: include_str!("../../csrc/select/topk.cu"),
    headers: &[
        ("gather.cuh", include_str!("../../csrc/select/gather.cuh")),
        ("search.cuh", include_str!("../../csrc/select/search.cuh")),
        ("keys.cuh", include_str!("../../csrc/select/keys.cuh")),
        ("team.cuh", include_str!("../../csrc/select/team.cuh")),
        ("../common/scan.cuh", include_str!("../../csrc/common/scan.cuh")),
    ],
    entry: "topk_rows",
    mutations: MUTATIONS,
};

/// The barriers, the atomics, the order of keys, the arithmetic of masses, and what keeps an index inside; file by
/// file.
const MUTATIONS: &[Mutation] = &[
    // Of a team: search, find_mass and gather (2); where it is a cluster, and who has which slice.
    of("team.barrier();", 0, ""),
    of("team.barrier();", 1, ""),
    of("team.barrier();", 2, ""),
    of("team.barrier();", 3, ""),
    of("team.barrier();", 0, "__syncthreads();"),
    of("team.barrier();", 1, "__syncthreads();"),
    of("team.barrier();", 2, "__syncthreads();"),
    of("team.barrier();", 3, "__syncthreads();"),
    of("r < n_blocks", 0, "r < 1"),
    of("r < team.n_blocks", 0, "r < 1"),
    of("lane < n_blocks ? *of_block(own, lane) : 0", 0, "*of_block(own, lane)"),
    of("lane < n_blocks ? *of_block(own, lane) : 0", 0, "lane == 0 ? *of_block(own, lane) : 0"),
    of("at_most(team.rank * n_each, n_of_row)", 0, "team.rank * n_each"),
    of("at_most(n_each, n_of_row - before)", 0, "n_each"),
    of("before == 0 ? skew : 0", 0, "skew"),
    of(", row.length - slice.first)", 0, ", row.length)"),
    of("uint64_t{before} * 16", 0, "0"),
    of("shared.of_warps[turn]);", 0, "shared.of_warps[0]);"),
    of("bins = bins.turned(turn);", 0, ""),
    of("bins.clear(own);", 1, ""),
    of("largest = shared.largest_of_row;", 0, ""),
    of("team.total(&shared.forced)", 0, "shared.forced"),
    of("blockIdx.x / team.n_blocks", 0, "blockIdx.x"),
    of("is_by_score ? of_block(dynamic, 0) : dynamic", 0, "dynamic"),
    of("team.rank * blockDim.x + threadIdx.x", 0, "threadIdx.x"),
    of("(is_by_score && team.rank != 0)", 0, "false"),
    // Of a block: scan_warps, search (4), find_mass (2), count_found, sort_pairs (2) and the kernel.
    of("__syncthreads();", 1, ""),
    of("__syncthreads();", 2, ""),
    of("__syncthreads();", 3, ""),
    of("__syncthreads();", 4, ""),
    of("__syncthreads();", 5, ""),
    of("__syncthreads();", 6, ""),
    of("__syncthreads();", 7, ""),
    of("__syncthreads();", 8, ""),
    of("__syncthreads();", 9, ""),
    of("__syncthreads();", 10, ""),
    of("__syncthreads();", 11, ""),
    of("__syncwarp();", 0, ""),
    // team.cuh
    of("if (lane >= delta) value += before;", 0, "value += before;"),
    of("lane < blockDim.x / 32 ? of_warps[lane] : 0", 0, "of_warps[lane]"),
    of("through - of_lane, static_cast<int>(warp)),", 0, "through, static_cast<int>(warp)),"),
    // keys.cuh
    of("at_most(start, params.n)", 0, "start"),
    of("params.lengths[row / params.rows_per_request]", 0, "params.lengths[row]"),
    of("!= n_tokens ? 1 : 0", 0, "!= n_tokens ? 0 : 0"),
    of("!= n_tokens ? 1 : 0", 0, "!= n_tokens ? 1 : 1"),
    of("at_most(n_whole + n_begun, rest)", 0, "n_whole + n_begun"),
    of("at_most(n_asked, params.k)", 0, "n_asked"),
    of("params.kept != nullptr ? n_asked", 0, "false ? n_asked"),
    of("uint64_t{row} * params.n", 0, "0"),
    of("params.n + found.start : nullptr", 0, "params.n : nullptr"),
    of("kind == kFloatBf16 ? 0x7F80 : 0x7C00", 0, "0x7C00"),
    of("^ signs * 0x7FFF", 0, ""),
    of(" + (signs & ~have_magnitude)", 0, ""),
    of("(ordered & ~(are_nan * 0xFFFF)) | are_nan", 0, "ordered"),
    of("value < least ? key : key - 1", 0, "key - 1"),
    of("if (magnitude > 0x7F800000) return 1;", 0, ""),
    of("if (magnitude == 0) return kZero;", 0, ""),
    of("word >> 31 != 0 ? ~word : word | kZero", 0, "word | kZero"),
    of("- 1; }", 0, "; }"),
    of("kind == kFloatF16 ? 0x7C000000 : 0x7F800000", 0, "0x7F800000"),
    of("(row.scores) % 16)", 0, "(row.scores) % 1)"),
    of("(skew + row.length + n_of_vector - 1)", 0, "(skew + row.length)"),
    of("at_most(params.n_staged, n_vectors)", 0, "n_vectors"),
    of("at_most(params.n_staged, n_vectors)", 0, "params.n_staged"),
    of(
        "row.length > params.n_last ? row.length - params.n_last : 0",
        0,
        "row.length - params.n_last",
    ),
    of("at_most(params.n_first - slice.first, slice.free_end)", 0, "params.n_first - slice.first"),
    of("(slice.skew + slice.free_begin + n_of_vector - 1)", 0, "(slice.skew + slice.free_begin)"),
    of(
        "plain_end > slice.first_plain ? plain_end - slice.first_plain : 0",
        0,
        "plain_end - slice.first_plain",
    ),
    of("if (v - n_staged_ < n_room_ - n_staged_)", 0, ""),
    of("if (v < n_staged_) return load_vector(staged_ + v);", 0, ""),
    of("if (v - first_plain_ < n_plain_) {", 0, "{"),
    of("if (v < n_staged_) return requested;", 0, ""),
    of("if (v - first_plain_ >= n_plain_) return edge(v);", 0, ""),
    of("i < begin ? i : slice_.free_end + (i - begin)", 0, "i"),
    of("kept + slice_.first", 0, "kept"),
    of("first < slice_.length && slice_.length", 0, "slice_.length"),
    of("slice_.length - first >= n_of_vector", 0, "true"),
    of("!is_whole || reinterpret_cast", 0, "reinterpret_cast"),
    of("|| reinterpret_cast<uint64_t>(bytes + first) % n_of_vector != 0", 0, ""),
    of("format.is_wide() ? 2 * e : e", 0, "e"),
    of("if (at(v, e) < slice_.length) bytes", 0, "bytes"),
    of("(taken & 64) << 18", 0, "(taken & 64) << 17"),
    of("spread(taken >> 4 & 15)", 0, "spread(taken & 15)"),
    of("if (i >= slice_.length) return 0;", 0, ""),
    of("i < slice_.free_begin || ", 0, ""),
    of(" || i >= slice_.free_end", 0, ""),
    // search.cuh: histograms
    of(
        "atomicAdd(reinterpret_cast<uint32_t*>(bins) + bin, amount)",
        0,
        "reinterpret_cast<uint32_t*>(bins)[bin] += amount",
    ),
    of("key <= Format::kZero || ", 0, ""),
    of(" || key > format.below_first()", 0, ""),
    of("if (bits >= 0x7F800000) return (uint64_t{1} << 40) - 1;", 0, ""),
    of("own_exponent != 0 ? 0x800000 : 0", 0, "0x800000"),
    of("own_exponent != 0 ? own_exponent : 1", 0, "own_exponent"),
    of("n_below < 40 ? mantissa << 16 >> n_below : 0", 0, "mantissa << 16 >> n_below"),
    of(
        "atomicAdd(reinterpret_cast<uint32_t*>(low) + bin, own)",
        0,
        "(reinterpret_cast<uint32_t*>(low)[bin] += own) - own",
    ),
    of("before + own < own ? 1 : 0", 0, "0"),
    of(
        "atomicAdd(reinterpret_cast<uint32_t*>(high) + bin, rest)",
        0,
        "reinterpret_cast<uint32_t*>(high)[bin] += rest",
    ),
    of("if ((key & decided) != threshold) return;", 0, ""),
    of("own_bin != bin && amount != 0", 0, "false"),
    of("if (amount != 0) bins.add(bin, amount);", 0, ""),
    // search.cuh: the search
    of("bins.clear(own);", 0, ""),
    of("bins.clear(own);", 2, ""),
    of("at_most(n_most_bits, n_open - n_lowest)", 0, "n_most_bits"),
    of("if (decided == 0) n_left", 0, "n_left"),
    of("if (n_left == 0) return 0;", 0, ""),
    of("n_before >= n_left || ", 0, ""),
    of(" || through < n_left) return;", 0, ") return;"),
    of(
        "if (n_left - n_before <= amounts[i]) break;",
        0,
        "if (n_left - n_before < amounts[i]) break;",
    ),
    of("n_left - n_before;", 0, "n_left;"),
    of("if (n_picks == 0) return {Format::kFirst, 0};", 0, ""),
    // search.cuh: rules
    of("if (!(value < static_cast<float>(most))) return uint64_t{most} << n_bits;", 0, ""),
    of("if (!(value > 0.0f)) return 0;", 0, ""),
    of("n_cut < 24 ? mantissa >> n_cut : 0", 0, "mantissa >> n_cut"),
    of("n_cut >= 24 || ", 0, ""),
    of("? whole + 1 : whole", 0, "? whole : whole"),
    of("if (threadIdx.x == 0) {", 0, "{"),
    of("key < infinity && ", 0, ""),
    of("keys.visit_forced(compare);", 0, ""),
    of("atomicMax(&shared.largest, largest)", 0, "shared.largest = largest"),
    of("exponent != 0 ? exponent : 1", 0, "exponent"),
    of("if (threadIdx.x % 32 == 31) atomicAdd(&shared.forced", 0, "atomicAdd(&shared.forced"),
    of("atomicAdd(&shared.forced, forced)", 0, "shared.forced += forced"),
    of("mass + first", 0, "mass"),
    of("__umul64hi(all, part) << 32 | ", 0, ""),
    of("static_cast<uint32_t>(low_bits) != 0 ? 1 : 0", 0, "0"),
    of("needed > first ? needed - first : 0", 0, "needed - first"),
    of("if (left == 0) return {keys.format.below_first(), 0};", 0, ""),
    of("(left + weight - 1) / weight", 0, "left / weight"),
    of("if (!(least == least)) return {keys.format.below_first(), 0};", 0, ""),
    of("key_of(__float_as_uint(least)) - 1", 0, "key_of(__float_as_uint(least))"),
    of(
        "percent == percent ? to_fixed(percent, 24, 100, false) : 0",
        0,
        "to_fixed(percent, 24, 100, false)",
    ),
    of("(hundred - dropped) + hundred - 1) / hundred", 0, "(hundred - dropped)) / hundred"),
    // gather.cuh
    of("rest != 0 && n != 0; --n", 0, "rest != 0; --n"),
    of("if (shared.found == 0 && kept == nullptr)", 0, "if (shared.found == 0)"),
    of("cut.n_equal - at_most(earlier.n_equal, cut.n_equal)", 0, "cut.n_equal - earlier.n_equal"),
    of("cut.n_equal - at_most(earlier.n_equal, cut.n_equal)", 0, "cut.n_equal"),
    of("if (kept != nullptr) {", 0, "{"),
    of("rest != 0 && at < picks.end", 0, "rest != 0"),
    of("at += 1;", 0, ""),
    of(
        "at_most((keys.n_vectors + n_threads - 1) / n_threads, kMost)",
        0,
        "(keys.n_vectors + n_threads - 1) / n_threads",
    ),
    of("if (u >= n_each) break;", 1, ""),
    of("key == threshold ? 0x10000u << number : 0", 0, "0x10000u << number"),
    of("__popc(marks & 0xFFFF)", 0, "__popc(marks)"),
    of(
        "atomicAdd(&found, uint64_t{n_equal} << 32 | n_above)",
        0,
        "found += uint64_t{n_equal} << 32 | n_above",
    ),
    of("if (threadIdx.x % 32 == 0) atomicAdd(&found", 0, "atomicAdd(&found"),
    of("if (threadIdx.x == 0) found = 0;", 0, "found = 0;"),
    of("if (threadIdx.x != team.rank) return;", 0, ""),
    of("have_keys ? n_places : at_most(", 0, "at_most("),
    of(
        "at_most(unpack(through).n_picked(n_equal), n_places)",
        0,
        "unpack(through).n_picked(n_equal)",
    ),
    of("of_warp + through - n_found", 0, "through - n_found"),
    of("shared.of_warps[turn]", 1, "shared.of_warps[0]"),
    of("n_above + at_most(n_equal, n_most_equal)", 0, "n_above + n_equal"),
    of("add_found(found, place.all & 0xFFFF, place.all >> 16)", 0, "found"),
    of("add_found(shared.before, found", 0, "add_found({0, 0}, found"),
    of("add_found(start, n_before", 0, "add_found(found, n_before"),
    of("indices()[place - first] =", 0, "indices()[place] ="),
    of("pairs[i] = 0;", 0, ""),
    of("(0xFFFFFFFF - idx);", 0, "idx;"),
    of("(i & size) == 0", 0, "true"),
    of("stride > 32 || next_stride > 32", 0, "stride > 32"),
    of("stride > 32 || next_stride > 32", 0, "next_stride > 32"),
    // topk.cu
    of("n_kept < n_forced ? ", 0, "false ? "),
    of("min(n_forced, uint64_t{row.length})", 0, "n_forced"),
    of("params.n_work_bytes / sizeof(uint4)", 0, "0"),
    of("if (!is_known(rule)) n_wanted", 0, "n_wanted"),
    of("if (n_cut <= row.n_most_kept) kept = nullptr;", 0, ""),
    of("kept != nullptr ? row.n_most_kept : row.n_most", 0, "row.n_most"),
    of("if (n_cut <= n_picks || (kept == nullptr && n_picks == 0)) return", 0, "return"),
    of("n_cut <= n_picks || ", 0, ""),
    of("(kept == nullptr && n_picks == 0)", 0, "(n_picks == 0)"),
    of("rule = kLargest;", 0, ""),
    of("row.n_most_kept == 0);", 0, "row.n_most == 0);"),
    of("if (row.kept != nullptr) {", 0, "{"),
    of("(is_nothing ? 0 : row.length)", 0, "row.length"),
    of("at_most(static_cast<uint32_t>(-reinterpret_cast<uint64_t>(bytes) % 16), n)", 0, "0"),
    of(
        "at_most(static_cast<uint32_t>(-reinterpret_cast<uint64_t>(bytes) % 16), n)",
        0,
        "static_cast<uint32_t>(-reinterpret_cast<uint64_t>(bytes) % 16)",
    ),
    of("(n - n_head) / 16", 0, "n / 16"),
    of("i < n_head ? i : 16 * n_vectors + i", 0, "i"),
    of("clear_bytes(row.kept - row.start, row.start", 0, "clear_bytes(row.kept, row.start"),
    of("clear_bytes(row.kept - row.start, row.start, thread, n_threads);", 0, ""),
    of("clear_bytes(row.kept - row.start + end, params.n - end, thread, n_threads);", 0, ""),
    of("row_idx / params.rows_per_request", 0, "row_idx"),
    of("if (i >= n_picked) write_place", 0, "write_place"),
    of("if (i >= picks.first) write_place", 0, "write_place"),
    of("at_most(picks.end, n_picked)", 0, "picks.end"),
    of("if (page >= params.table_stride) return -1;", 0, ""),
    of("if (static_cast<uint32_t>(physical) >= params.n_pages) return -1;", 0, ""),
    of("if (row_idx >= params.n_rows) return;", 0, ""),
    of("params.skips != nullptr && params.skips[row_idx] != 0", 0, "false"),
    of("at_most(n_wanted, row.n_most)", 0, "n_wanted"),
    of("if (thread == 0) {", 0, "{"),
];

unsafe extern "C" {
    fn lacuna_simt_topk_rows(params: *const c_void, is_checked: u32);
}

/// Of blocks here: as few as a plan has.
const N_THREADS: u32 = 128;
const PAGES: TopkPages = TopkPages { n_pages: 40, page_size: 24, table_stride: 30 };

/// One row.
struct Problem {
    scores: Vec<f32>,
    start: u32,
    length: u32,
    asked: u32,
    k: u32,
    n_first: u32,
    n_last: u32,
    rule: Rule,
    /// On the device, in place of the rule's own.
    amount: f32,
    order: Order,
    is_skipped: bool,
    /// A mask, so many bytes past a multiple of 16.
    mask: Option<usize>,
    tokens_per_score: u32,
    /// Rows of the same request before it, all of them skipped.
    n_before: usize,
    /// Vectors, or as many as the row has.
    n_staged: Option<u32>,
}

fn words() -> impl FnMut() -> usize {
    let mut state = 1_u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
        (state >> 33) as usize
    }
}

fn problems() -> Vec<Problem> {
    let values =
        [0.0, -0.0, 1.0, -1.0, 1.5, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -3.5, 0.25];
    let mut next = words();
    let ties: Vec<f32> = (0..1300).map(|_| values[next() % 10]).collect();
    let many: Vec<f32> = (0..1300).map(|i| ((i * 7919 % 1300) as f32 - 650.0) * 1.37e3).collect();
    // Of few and of many powers of two.
    let near: Vec<f32> = (0..1300).map(|_| 1.0 + (next() % 1000) as f32 / 1000.0).collect();
    let far: Vec<f32> =
        (0..1300).map(|i| 2_f32.powi(-(i % 120)) * (1.0 + (i % 7) as f32 / 8.0)).collect();
    let tiny: Vec<f32> = (0..700).map(|i| f32::from_bits((i * 0x1_2345) % 0x180_0000)).collect();
    let tiniest: Vec<f32> = (0..700).map(|i| f32::from_bits(i % 99 * 0x1_0000)).collect();
    // Longer than a tile: all picks in its second half, then few of them.
    let long: Vec<f32> = (0..5000).map(|i| if i < 2500 { 0.5 } else { (i % 19) as f32 }).collect();
    let whole = |scores: &[f32], k| Problem {
        scores: scores.to_vec(),
        start: 0,
        length: u32::MAX,
        asked: u32::MAX,
        k,
        n_first: 0,
        n_last: 0,
        rule: Rule::Largest,
        amount: 0.0,
        order: Order::Index,
        is_skipped: false,
        mask: None,
        tokens_per_score: 1,
        n_before: 0,
        n_staged: None,
    };
    let by = |scores: &[f32], rule, amount| Problem { rule, amount, ..whole(scores, 600) };
    let mass = Rule::Mass { share: 0.0 };
    let least = Rule::AtLeast { least: 0.0 };
    let percentile = Rule::Percentile { percent: 0.0 };
    vec![
        whole(&ties, 300),
        whole(&many, 300),
        by(&ties, mass, 0.4),
        by(&near, mass, 0.3),
        Problem { n_first: 5, n_last: 7, ..whole(&many, 30) },
        Problem { n_staged: Some(10), ..whole(&ties, 77) },
        Problem { start: 1001, length: 900, ..whole(&many, 400) },
        Problem { start: 5000, ..whole(&many, 3) },
        Problem { start: 3, length: 5, ..whole(&many, 3) },
        Problem { length: 20, ..whole(&ties, 64) },
        Problem { asked: 11, ..whole(&ties, 64) },
        Problem { asked: 99, ..whole(&many, 64) },
        Problem { is_skipped: true, ..whole(&many, 64) },
        Problem { n_first: 600, ..whole(&ties, 500) },
        Problem { n_first: 7000, n_last: 9, ..by(&ties[..300], mass, 0.5) },
        Problem { n_last: 7000, ..whole(&ties[..300], 20) },
        Problem { order: Order::Score, ..whole(&ties, 300) },
        Problem { order: Order::Score, n_last: 3, ..whole(&many, 123) },
        whole(&long, 700),
        Problem { order: Order::Score, ..by(&long, least, 0.5) },
        Problem { k: 20, ..by(&long, least, 0.5) },
        whole(&[f32::NAN; 700], 699),
        whole(&[-0.0, 0.0].repeat(300), 40),
        whole(&many, 1300),
        by(&far, mass, 0.999_999),
        by(&far, mass, 1.0),
        by(&far, mass, f32::NAN),
        by(&far, mass, -1.0),
        by(&far, mass, 0.0),
        by(&far, mass, 1e-30),
        by(&far[1..], mass, 1e-30),
        by(&tiny, mass, 0.7),
        by(&tiniest, mass, 0.7),
        by(&[1.0, 1.0, 2_f32.powi(-39)], mass, 0.5),
        by(&[&[f32::INFINITY][..], &near].concat(), mass, 0.3),
        by(&[0.0; 500], mass, 0.3),
        Problem { n_first: 3, n_last: 2, ..by(&near, mass, 0.3) },
        Problem { n_first: 1, ..by(&[&[64.0][..], &near].concat(), mass, 0.3) },
        Problem { n_first: 400, ..by(&near, mass, 0.1) },
        Problem { k: 20, ..by(&near, mass, 0.9) },
        by(&many, least, 1.0e5),
        by(&near, least, 1.3),
        by(&near, least, f32::NAN),
        Problem { k: 20, ..by(&ties, least, 0.0) },
        by(&ties, percentile, 33.3),
        by(&ties, percentile, f32::NAN),
        by(&ties, percentile, -1.0),
        Problem { n_first: 3, n_last: 2, ..by(&many, percentile, 100.0) },
        Problem { n_first: 900, n_last: 500, ..by(&ties, percentile, 99.0) },
        Problem { mask: Some(0), start: 8, ..whole(&ties, 300) },
        Problem { mask: Some(3), start: 21, length: 900, n_last: 3, ..whole(&ties, 300) },
        Problem { mask: Some(0), k: 0, asked: 700, ..whole(&many, 0) },
        Problem { mask: Some(8), k: 20, asked: 0, start: 7, length: 5, ..whole(&many, 0) },
        Problem { mask: Some(1), k: 0, asked: 0, ..by(&near, mass, 0.7) },
        Problem { mask: Some(0), k: 30, asked: 200, ..by(&near, mass, 0.9) },
        Problem { mask: Some(0), k: 30, ..by(&near, mass, 0.9) },
        Problem { mask: Some(16), k: 30, asked: 500, ..by(&ties, percentile, 33.3) },
        Problem { mask: Some(0), order: Order::Score, k: 30, ..by(&ties, least, 1.0) },
        Problem { mask: Some(0), ..whole(&long, 70) },
        Problem { mask: Some(5), start: 1200, ..whole(&many, 77) },
        Problem { mask: Some(0), length: 0, ..whole(&many, 77) },
        Problem { mask: Some(0), is_skipped: true, ..whole(&many, 77) },
        Problem { n_before: 1, length: 600, tokens_per_score: 7, ..whole(&many, 99) },
        Problem {
            mask: Some(0),
            n_before: 2,
            length: 595,
            tokens_per_score: 7,
            ..whole(&ties, 99)
        },
    ]
}

const POISON: u32 = 0xA5A5_A5A5;

/// The problem's row, in one type of scores, by `entry` under all checks, by one block or by a cluster; one of them
/// more than there are rows.
fn differs<T: Score>(
    entry: Entry,
    problem: &Problem,
    of: fn(f32) -> T,
    schedule: Schedule,
    n_blocks: u32,
) -> bool {
    let row: Vec<T> = problem.scores.iter().map(|score| of(*score)).collect();
    let rule = RowRule {
        start: problem.start as usize,
        length: problem.length.div_ceil(problem.tokens_per_score) as usize,
        k: problem.k as usize,
        asked: Some(problem.asked as usize),
        n_first: problem.n_first as usize,
        n_last: problem.n_last as usize,
        rule: problem.rule.with_amount(problem.amount),
        order: problem.order,
    };
    let found = topk_row(&row, &rule);
    let score_bytes = size_of::<T>();
    let n = row.len();
    let k = problem.k as usize;
    let (n_before, n_rows) = (problem.n_before, problem.n_before + 1);
    // Words of vectors: as aligned as device memory.
    let mut scores = vec![0_u128; (n_rows * n * score_bytes).div_ceil(16)];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut scores);
    bytes[n_before * n * score_bytes..][..n * score_bytes]
        .copy_from_slice(bytemuck::cast_slice(&row));
    let mut table: Vec<i32> =
        (0..PAGES.table_stride as i32).map(|page| page * 7 % 44 - 2).collect();
    // Of each row its own, and one length.
    let of_rows = |of_skipped: u32, own: u32| {
        let mut words = vec![of_skipped; n_before];
        words.push(own);
        words
    };
    let mut starts = of_rows(0, problem.start);
    let mut length = [problem.length];
    let mut asked = of_rows(9, problem.asked);
    let mut skips = of_rows(1, u32::from(problem.is_skipped));
    let mut amounts = of_rows(0, problem.amount.to_bits());
    let mut indices = vec![POISON; n_rows * k];
    let mut slots = vec![POISON; n_rows * k];
    let mut values = vec![POISON; (n_rows * k * score_bytes).div_ceil(4)];
    let mut counts = vec![POISON; n_rows];
    let mut wanted = vec![POISON; n_rows];
    let shift = problem.mask.unwrap_or(0);
    let mut marks = vec![u128::MAX; (shift + n_rows * n).div_ceil(16)];
    let address = |words: &mut [u32]| words.as_mut_ptr().expose_provenance() as u64;
    let n_picks = match problem.order {
        Order::Index => 4 * problem.k,
        Order::Score => 8 * problem.k.next_power_of_two(),
    };
    // Slices are of whole warps' vectors.
    let of_row = (n * score_bytes).div_ceil(16) as u32 + 1;
    let n_vectors = of_row.div_ceil(n_blocks).next_multiple_of(if n_blocks == 1 { 1 } else { 32 });
    let n_work_bytes = n_picks.next_multiple_of(16).max(16 * N_THREADS * n_blocks.min(2));

    let params = SelectTopkParams {
        scores: scores.as_mut_ptr().expose_provenance() as u64,
        starts: address(&mut starts),
        lengths: address(&mut length),
        counts_asked: address(&mut asked),
        skips: address(&mut skips),
        amounts: address(&mut amounts),
        page_table: table.as_mut_ptr().expose_provenance() as u64,
        indices: address(&mut indices),
        values: address(&mut values),
        slots: address(&mut slots),
        counts: address(&mut counts),
        wanted: address(&mut wanted),
        kept: problem.mask.map_or(0, |_| (marks.as_mut_ptr().expose_provenance() + shift) as u64),
        row_stride: n as u64,
        table_stride: PAGES.table_stride,
        page_multiplier: (1_u64 << 34).div_ceil(PAGES.page_size),
        n_rows: n_rows as u32,
        n: n as u32,
        k: problem.k,
        element: T::NUMBER,
        n_first: problem.n_first,
        n_last: problem.n_last,
        rule: number_of(problem.rule),
        amount: 0.0,
        order: u32::from(problem.order == Order::Score),
        n_pages: PAGES.n_pages as u32,
        page_size: PAGES.page_size as u32,
        rows_per_request: n_rows as u32,
        tokens_per_score: problem.tokens_per_score,
        n_work_bytes,
        n_staged: problem.n_staged.unwrap_or(n_vectors),
        reserved: 0,
    };
    let output = if problem.is_skipped || n_before != 0 { Role::InOut } else { Role::Output };
    let regions = [
        region("scores", Role::Input, params.scores, n_rows * n * score_bytes),
        region("starts", Role::Input, params.starts, 4 * n_rows),
        region("lengths", Role::Input, params.lengths, 4),
        region("counts asked", Role::Input, params.counts_asked, 4 * n_rows),
        region("skips", Role::Input, params.skips, 4 * n_rows),
        region("amounts", Role::Input, params.amounts, 4 * n_rows),
        region("page table", Role::Input, params.page_table, 4 * table.len()),
        region("indices", output, params.indices, 4 * n_rows * k),
        region("values", output, params.values, score_bytes * n_rows * k),
        region("slots", output, params.slots, 4 * n_rows * k),
        region("counts", output, params.counts, 4 * n_rows),
        region("wanted", output, params.wanted, 4 * n_rows),
        region("mask", output, params.kept, if problem.mask.is_some() { n_rows * n } else { 0 }),
    ];
    let n_shared_bytes = n_work_bytes + 16 * params.n_staged;
    let grid = Grid {
        blocks: [(n_rows as u32 + 1) * n_blocks, 1, 1],
        threads: [N_THREADS, 1, 1],
        dynamic_shared_bytes: n_shared_bytes,
        cluster_blocks: n_blocks,
    };
    // SAFETY: the kernel takes this struct, and every region is memory of this function.
    if !unsafe { passes_on(entry, &grid, schedule, &params, &regions) } {
        return true;
    }
    // What the last row's should be, behind others that stay as they were.
    let mut expected = vec![POISON; n_rows * k];
    let mut expected_slots = vec![POISON; n_rows * k];
    let mut expected_values = vec![POISON; (n_rows * k * score_bytes).div_ceil(4)];
    let mut expected_counts = vec![POISON; n_rows];
    let mut expected_wanted = vec![POISON; n_rows];
    let mut expected_marks = vec![u8::MAX; n_rows * n];
    if !problem.is_skipped {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut expected_values);
        bytes[n_before * k * score_bytes..][..k * score_bytes].fill(0);
        expected[n_before * k..].fill(u32::MAX);
        expected_slots[n_before * k..].fill(u32::MAX);
        for (place, pick) in found.indices.iter().enumerate() {
            let place = n_before * k + place;
            expected[place] = *pick as u32;
            expected_slots[place] =
                slot_of(&PAGES, &table, 0, *pick).map_or(u32::MAX, |i| i as u32);
            bytes[place * score_bytes..][..score_bytes]
                .copy_from_slice(bytemuck::bytes_of(&row[*pick]));
        }
        expected_counts[n_before] = found.indices.len() as u32;
        expected_wanted[n_before] = found.n_wanted as u32;
        if problem.mask.is_some() {
            expected_marks[n_before * n..].copy_from_slice(&found.kept);
        }
    }
    let n_bytes = n_rows * k * score_bytes;
    indices != expected
        || slots != expected_slots
        || counts != expected_counts
        || wanted != expected_wanted
        || bytemuck::cast_slice::<u32, u8>(&values)[..n_bytes]
            != bytemuck::cast_slice::<u32, u8>(&expected_values)[..n_bytes]
        || bytemuck::cast_slice::<u128, u8>(&marks)[shift..][..n_rows * n] != expected_marks
}

/// The kernel's number for a rule.
fn number_of(rule: Rule) -> u32 {
    match rule {
        Rule::Mass { .. } => 1,
        Rule::AtLeast { .. } => 2,
        Rule::Percentile { .. } => 3,
        _ => 0,
    }
}

#[test]
fn every_mutation_of_topk_rows_is_caught() {
    let problems = problems();
    KERNEL.assert_all_caught(lacuna_simt_topk_rows, |entry| {
        problems.iter().any(|problem| {
            differs(entry, problem, |x| x, Schedule::InOrder, 1)
                || differs(entry, problem, bf16::from_f32, Schedule::Random, 3)
                || differs(entry, problem, f16::from_f32, Schedule::Reverse, 1)
                || differs(entry, problem, |x| x, Schedule::Random, 4)
        })
    });
}
