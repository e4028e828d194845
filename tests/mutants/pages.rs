//! The kernels over tiered pages.

use std::ffi::c_void;

use half::{bf16, f16};
use lacuna::element::{Half, Real};
use lacuna::kv::KvLists;
use lacuna::quant::{Tail, Tier};
use lacuna::simt::Entry;

use crate::pages_problem::{Case, Problem};
use crate::{Kernel, Mutation, differs, of};

const fn kernel(entry: &'static str, mutations: &'static [Mutation]) -> Kernel {
    Kernel {
        room: "quant",
        source: include_str!("../../csrc/quant/pages.cu"),
        headers: &[
            ("rows.cuh", include_str!("../../csrc/quant/rows.cuh")),
            ("page.cuh", include_str!("../../csrc/quant/page.cuh")),
        ],
        entry,
        mutations,
    }
}

/// Left out is what changes no result: a deviation that is not less is not of the mean, either way; a count past a list's pages, of
/// which there are no blocks. And a rounding more of the squares of a deviation, which changes a step in some tens of thousands.
const QUANTIZE: &[Mutation] = &[
    of("__syncthreads();", 0, ""),
    of("__syncthreads();", 1, ""),
    // Where codes lie.
    of("tag != 0 ? 4 * kPageTokens << tail : 0", 0, "4 * kPageTokens << tail"),
    of("tag != 0 ? 4 * kPageTokens << tail : 0", 0, "0"),
    of("word_bits = 3 - tag;", 0, "word_bits = 0;"),
    of("together_bits = tag - 1;", 0, "together_bits = 0;"),
    of("while ((n_tiles & ((1u << together_bits) - 1)) != 0) --together_bits;", 0, ""),
    of("n_groups = n_tiles >> together_bits;", 0, "n_groups = n_tiles;"),
    of("strip * kTileRows + lane / 4", 0, "strip * kTileRows + lane % 4"),
    of("tile * kTileColumns + lane % 4 * 4", 0, "lane % 4 * 4"),
    of("reg % 2 * 8", 0, "reg / 2 * 8"),
    of("reg / 2 * 16", 0, "reg % 2 * 16"),
    of("reg += 1u << order.word_bits", 0, "reg += 4"),
    of("(reg >> order.word_bits) * bits", 1, "reg * bits"),
    of("if (part == 0) return *reinterpret_cast", 0, "if (true) return *reinterpret_cast"),
    of("shared.codes[column + j][row]", 0, "shared.codes[column][row]"),
    of("work.part == 0 ? d : kPageTokens", 0, "d"),
    of("i < 2 * d * bits", 0, "i < d * bits"),
    // What a block has.
    of("blockIdx.z / 2", 0, "0"),
    of("blockIdx.z % 2", 0, "0"),
    of("params.n_lists == 1 ? work.b : ", 0, ""),
    of("work.b * params.n_lists + work.head", 0, "work.b"),
    of("counts != nullptr && ", 0, ""),
    of("counts[list] < n", 0, "false"),
    of("if (first >= n) return false;", 0, ""),
    of("if (first >= n) return false;", 0, "if (first > n) return false;"),
    of("p, work)) return work;", 0, "p, work)) work.n_tokens = 0;"),
    of("uint64_t{work.b} * params.kv.n_heads + work.head", 0, "work.head"),
    of("kNoNumber = 0x3FFFFFFF", 0, "kNoNumber = 0x1FFFFFFF"),
    of("if (threadIdx.x == 0) report_entry(params.pools, entry, at, 1 + work.part);", 0, ""),
    of("entry, at, 1 + work.part", 0, "entry, at, 1"),
    of("number == kNoNumber || ", 0, ""),
    of("number < pools.n_pages[entry >> 30]", 0, "number <= pools.n_pages[entry >> 30]"),
    of("(uint64_t{0xFFFFFFFF} - at)", 0, "uint64_t{0xFFFFFFFF}"),
    of("atomicMax(pools.status, ", 0, "atomicExch(pools.status, "),
    of("at = head * params.n_pages + p", 0, "at = p"),
    of("if (number >= pools.n_pages[tag]) return nullptr;", 0, ""),
    of("number >= pools.n_pages", 0, "number > pools.n_pages"),
    of("list * n_slots + first", 0, "list * n_slots"),
    of("n - first < kPageTokens ? n - first : kPageTokens", 0, "kPageTokens"),
    of("params.channels[work.part]", 0, "params.channels[0]"),
    of("p / params.span_pages", 0, "0"),
    of("(head * params.n_spans + span) * d", 0, "head * d"),
    of("channels.scales != nullptr ? ", 0, "true ? "),
    of("if (slot >= work.n_tokens) return nullptr;", 0, ""),
    of("if (row >= work.n_rows) return nullptr;", 0, ""),
    of("if (element == kNoRow) return nullptr;", 0, ""),
    of("work.part == 0 ? kv.keys : kv.values", 0, "kv.keys"),
    // A row's codes, and each of its roundings.
    of("value = keep(value, ", 0, "value = (value, "),
    of("__fsub_rn(y[e], channels.offsets[channel + e])", 0, "y[e]"),
    of("work.scales != nullptr ? work.scales[i] : 1.0f", 0, "1.0f"),
    of("work.offsets != nullptr ? work.offsets[i] : 0.0f", 0, "1.0f"),
    of(
        "__fdiv_rn(__fsub_rn(y[e], channels.offsets[channel + e]), channels.scales[channel + e])",
        0,
        "__fmul_rn(y[e], __fdiv_rn(1.0f, channels.scales[channel + e]))",
    ),
    of("y[e] > kGreatest ? kGreatest : ", 0, ""),
    of("y[e] < -kGreatest ? -kGreatest : ", 0, ""),
    of("if (!(y[e] == y[e])) y[e] = 0.0f;", 0, ""),
    of("if (row != nullptr) load_chunk", 0, "load_chunk"),
    of("y[j][e] < least ? y[j][e] : least", 0, "least"),
    of("y[j][e] > most ? y[j][e] : most", 0, "most"),
    of(
        "__fsub_rn(__fdiv_rn(most, greatest), __fdiv_rn(least, greatest))",
        0,
        "__fdiv_rn(__fsub_rn(most, least), greatest)",
    ),
    of("if (bits_of(work.tag) == 2) {", 0, "if (false) {"),
    of("if (bits_of(work.tag) == 2) {", 0, "{"),
    of("__fdiv_rn(add_over_lanes(sum), n)", 0, "__fdiv_rn(sum, n)"),
    of("if (64 * j + 8 * lane >= d) break;", 0, ""),
    of(
        "__fsqrt_rn(__fdiv_rn(add_over_lanes(squares), n))",
        0,
        "__fdiv_rn(add_over_lanes(squares), n)",
    ),
    of("deviation > 0.0f && ", 0, ""),
    of("if (is_about_mean) step = deviation;", 0, ""),
    of(
        "magnitude(least) > magnitude(most) ? magnitude(least) : magnitude(most)",
        0,
        "magnitude(most)",
    ),
    of(
        "magnitude(least) > magnitude(most) ? magnitude(least) : magnitude(most)",
        0,
        "magnitude(least)",
    ),
    of("__uint_as_float(__float_as_uint(x) & 0x7FFFFFFF)", 0, "x < 0.0f ? -x : x"),
    of("step > far ? step : far", 0, "step"),
    of("(__float_as_uint(x) + 0xFFFF) >> 16", 0, "__float_as_uint(x) >> 16"),
    of("(__float_as_uint(x) + 0xFFFF) >> 16", 0, "to_bf16(x)"),
    of("if (scale != 0) {", 0, "{"),
    of("__fmaf_rn(-1.5f, s, mean)", 0, "__fmaf_rn(-1.0f, s, mean)"),
    of("is_about_mean ? __fmaf_rn", 0, "false ? __fmaf_rn"),
    of(
        "round_even(__fmul_rn(__fdiv_rn(-first, s), 16.0f))",
        0,
        "__fmul_rn(__fdiv_rn(-first, s), 16.0f)",
    ),
    of("if (scale == 0) break;", 0, ""),
    of(
        "__fadd_rn(__fdiv_rn(y[j][e], s), up)",
        0,
        "__fdiv_rn(__fadd_rn(y[j][e], __fmul_rn(up, s)), s)",
    ),
    of("code > greatest_code ? greatest_code : ", 0, ""),
    of("code < 0 ? 0 : code", 0, "code"),
    of("if (lane != 0) return;", 0, ""),
    of("if (threadIdx.x >= kPageTokens) return;", 0, ""),
    // Numbers as they are.
    of("if (work.page == nullptr) return;", 0, ""),
    of("if (work.tag == 0) {", 0, "if (false) {"),
    of("if (row != nullptr) four", 0, "four"),
];

/// Left out is the return where there is no page, which has no rows either.
const DEQUANTIZE: &[Mutation] = &[
    of("__syncthreads();", 2, ""),
    of("column % 16 / 4", 0, "column % 4"),
    of("row % kTileRows / 8 + column % kTileColumns / 16 * 2", 0, "row % kTileRows / 8"),
    of("tile >> order.together_bits", 0, "tile"),
    of("(tile & ((1u << order.together_bits) - 1))", 0, "0"),
    of("reg & ((1u << order.word_bits) - 1)", 0, "0"),
    of("(reg >> order.word_bits) * bits_of(tag)", 0, "0"),
    of("locate_code(order, work.tag, slot, c)", 0, "locate_code(order, work.tag, c, slot)"),
    of("halves[kPageTokens + slot]", 0, "halves[slot]"),
    of("s = from_bf16(halves[slot]);", 0, "s = from_bf16(halves[0]);"),
    of("<< 16) >> 16", 0, "<< 0)"),
    of("& ((1u << bits) - 1)", 0, "& 0xFF"),
    of("16 * code - zero", 0, "16 * code + zero"),
    of(
        "__fmaf_rn(y, page.channels.scales[c], page.channels.offsets[c])",
        0,
        "__fadd_rn(__fmul_rn(y, page.channels.scales[c]), page.channels.offsets[c])",
    ),
    // Either tail.
    of("4 * kPageTokens << tail", 0, "4 * kPageTokens"),
    of("4 * kPageTokens << tail", 0, "8 * kPageTokens"),
    of("params.pools.tail == kMinimums", 0, "false"),
    of("params.pools.tail == kMinimums", 0, "true"),
    of("s = floats[slot];", 0, "s = floats[0];"),
    of("floats[kPageTokens + slot]", 0, "floats[slot]"),
    of("__fmaf_rn(s, steps, least)", 0, "__fadd_rn(__fmul_rn(s, steps), least)"),
    of("__fmaf_rn(s, steps, least)", 0, "__fmul_rn(s, steps)"),
    of("float least = -0.0f;", 0, "float least = 0.0f;"),
    of("d, params.pools.tail) / 16", 0, "d, kZeroPoints) / 16"),
    of("4 * kPageTokens << kMinimums", 0, "4 * kPageTokens"),
    of("work.scales != nullptr ? work.scales[i] : 1.0f", 0, "1.0f"),
    of("work.offsets != nullptr ? work.offsets[i] : 0.0f", 0, "0.0f"),
    of("to_halves(x[4], x[5], kind)", 0, "to_halves(x[5], x[4], kind)"),
    of("work.tag == 0 ? 1 : work.tag", 0, "1"),
    of("work.part == 0 ? d : kPageTokens", 1, "d"),
    of("if (row == nullptr) continue;", 0, ""),
    of("work.tag == 0 ? bytes[i]", 0, "work.tag == 0 ? bytes[0]"),
    of("if (row >= work.n_rows) return nullptr;", 0, ""),
];

unsafe extern "C" {
    fn lacuna_simt_quantize_pages(params: *const c_void, is_checked: u32);
    fn lacuna_simt_dequantize_pages(params: *const c_void, is_checked: u32);
}

fn cases() -> Vec<Case> {
    let case = Case { head_dim: 96, ..Case::default() };
    let hostile = Case { head_dim: 32, is_hostile: true, ..Case::default() };
    vec![
        Case { has_scales: false, head_dim: 128, ..Case::default() },
        hostile.clone(),
        Case { seed: 5, has_counts: false, lists: KvLists::PerRequest, n_pages: 4, ..case },
        Case { seed: 9, has_scales: false, has_offsets: false, lengths: vec![150], ..hostile },
    ]
}

fn quantizes_differently<T: Half + Real>(
    (problem, pools): &(Problem<T>, [Vec<u8>; 4]),
    own: Entry,
    entry: Entry,
) -> bool {
    let expected = (pools.clone(), problem.expected_status());
    differs(own, entry, &expected, |queue| problem.quantize_with_status(queue))
}

#[test]
fn every_mutation_of_quantize_pages_is_caught() {
    fn built<T: Half + Real>() -> Vec<(Problem<T>, [Vec<u8>; 4])> {
        let problems = cases().into_iter().map(|case| case.build::<T>());
        problems.map(|problem| (problem.clone(), problem.expected_pools())).collect()
    }
    let own: Entry = lacuna_simt_quantize_pages;
    let (mut brains, mut shorts) = (built::<bf16>(), built::<f16>());
    // A list that ends with a page, of numbers as they are: some rows are far from 0 and near each other.
    let full =
        Case { lengths: vec![150], has_scales: false, has_offsets: false, ..Case::default() };
    let mut full = Problem { counts: Some(vec![64, 192]), ..full.build::<bf16>() };
    // The first page of the second list is not there.
    let n_pages = full.plan.shape().n_pages as usize;
    full.entries[1][n_pages] ^= 0x1FFF_FFFF;
    brains.push((full.clone(), full.expected_pools()));
    let tiers = vec![Tier::T2];
    let tiny = Case { tiers, has_scales: false, has_offsets: false, ..Case::default() };
    let mut tiny = tiny.build::<bf16>();
    for element in tiny.cache.rows.iter_mut().flatten() {
        *element = bf16::from_f32(element.to_f32() * 2.0_f32.powi(-90));
    }
    brains.push((tiny.clone(), tiny.expected_pools()));
    let mut zeros = Case { has_scales: false, has_offsets: false, ..Case::default() }.build();
    zeros.cache.rows.iter_mut().for_each(|rows| rows.fill(f16::NEG_ZERO));
    shorts.push((zeros.clone(), zeros.expected_pools()));
    // Quotients that lie between two codes: 41 times its reciprocal is not 1.
    let tiers = vec![Tier::T4];
    let between = Case { head_dim: 32, has_offsets: false, tiers, ..Case::default() };
    let mut between = between.build::<f16>();
    for (i, element) in between.cache.rows.iter_mut().flatten().enumerate() {
        let (row, channel) = (i / 32, i % 32);
        let multiple = if channel < 2 { 30 * channel } else { (row + 7 * channel) % 31 };
        *element = f16::from_f32((41 * multiple) as f32);
    }
    between.channels.scales.iter_mut().flatten().for_each(|scales| scales.fill(41.0));
    shorts.push((between.clone(), between.expected_pools()));
    kernel("quantize_pages", QUANTIZE).assert_all_caught(own, |entry| {
        brains.iter().any(|problem| quantizes_differently(problem, own, entry))
            || shorts.iter().any(|problem| quantizes_differently(problem, own, entry))
    });
}

#[test]
fn every_mutation_of_dequantize_pages_is_caught() {
    let own: Entry = lacuna_simt_dequantize_pages;
    let mut problems: Vec<_> = cases()
        .into_iter()
        .map(|case| {
            let problem = case.build::<bf16>();
            let pools = problem.expected_pools();
            let problem = problem.without_repeats();
            let rows = problem.expected_rows(&pools);
            (problem, pools, rows)
        })
        .collect();
    // Pages of any bytes, of both tails; the longest page is one of 256 channels and minimums.
    let tails = [(Tail::ZeroPoints, 32), (Tail::Minimums, 96), (Tail::Minimums, 256)];
    for (case, (tail, head_dim)) in cases().into_iter().skip(1).zip(tails) {
        let problem = Case { tail, head_dim, ..case }.build::<bf16>().without_repeats();
        let pools = problem.hostile_pools(11);
        let rows = problem.expected_rows(&pools);
        problems.push((problem, pools, rows));
    }
    let bits = |rows: &[Vec<bf16>; 2]| {
        rows.each_ref().map(|rows| bytemuck::cast_slice::<_, u16>(rows).to_vec())
    };
    kernel("dequantize_pages", DEQUANTIZE).assert_all_caught(own, |entry| {
        problems.iter().any(|(problem, pools, rows)| {
            let expected = (bits(rows), problem.expected_status());
            differs(own, entry, &expected, |queue| {
                let found = problem.dequantize_with_status(queue, pools);
                found.map(|(rows, status)| (bits(&rows), status))
            })
        })
    });
}
