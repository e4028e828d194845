//! The kernel that gathers tokens into new pages.

use std::ffi::c_void;

use half::{bf16, f16};
use lacuna::element::{Half, Real};
use lacuna::kv::KvLists;
use lacuna::quant::Tier;
use lacuna::simt::Entry;

use crate::retier_problem::{Case, Found, Problem};
use crate::{Kernel, Mutation, differs, of};

/// What rows and pages share with `quantize_pages` is mutated there. Left out is what changes no result: channels that are staged where no
/// row asks for them, pieces that are read though none of their tokens is wanted, slots that are served twice, and which of a page's two blocks says
/// where tokens are.
const MUTATIONS: &[Mutation] = &[
    of("if (threadIdx.x == 0) report_entry(params.pools, entry, at_entry, 1 + work.part);", 0, ""),
    of("entry, at_entry, 1 + work.part", 0, "entry, at_entry, 1"),
    of("report_entry(params.pools, entry, at, 3 + work.part);", 0, ""),
    of("entry, at, 3 + work.part", 0, "entry, at, 1 + work.part"),
    of("at = target.head * params.n_old_pages + p", 0, "at = p"),
    of("__syncthreads();", 0, ""),
    of("__syncthreads();", 1, ""),
    of("__syncthreads();", 2, ""),
    of("__syncwarp();", 0, ""),
    of("__syncwarp();", 1, ""),
    of("__syncwarp();", 2, ""),
    // Which page a block makes.
    of("uint64_t{work.b} * params.kv.n_heads + work.head", 0, "work.head"),
    of("blockIdx.x / params.n_pages", 0, "0"),
    of("blockIdx.x - number * params.n_pages", 0, "blockIdx.x"),
    of("params.n_lists == 1 ? work.b : ", 0, ""),
    of("work.b * params.n_lists + work.head", 0, "work.b"),
    of("uint64_t{list} * params.n_runs + number", 0, "uint64_t{list} * params.n_runs"),
    of("params.counts, run, n_slots", 0, "nullptr, run, n_slots"),
    of("params.counts, run, n_slots", 0, "params.counts, list, n_slots"),
    of("p, work)) return target;", 0, "p, work)) work.n_tokens = 0;"),
    of("uint64_t at = number * params.n_pages;", 0, "uint64_t at = 0;"),
    of("if (params.first_pages != nullptr) at = params.first_pages[run];", 0, ""),
    of("if (params.first_pages != nullptr) at", 0, "at"),
    of("at += p;", 0, ""),
    of("at += p;", 0, "at = static_cast<uint32_t>(at + p);"),
    of("if (at >= params.n_new_pages) return target;", 0, ""),
    of("at >= params.n_new_pages", 0, "at > params.n_new_pages"),
    of("params.kv.lengths != nullptr ? ", 0, "true ? "),
    of("params.new_entries[work.part]", 0, "params.new_entries[0]"),
    of("params.channels[work.part]", 0, "params.channels[0]"),
    of("target.head * params.kv.row_len", 0, "0"),
    // Where tokens are.
    of("shared.rows[slot] = nullptr;", 0, ""),
    of("shared.entries[slot] = 0;", 0, ""),
    of("if (slot >= work.n_tokens) return;", 0, ""),
    of("if (position >= params.n_positions) return;", 0, ""),
    of("position >= params.n_positions", 0, "position > params.n_positions"),
    of("if (work.part == 0) {", 0, "{"),
    of("target.p * kPageTokens + slot", 0, "target.p * kPageTokens"),
    of("if (place < 0) {", 0, "if (place <= 0) {"),
    of("if (place < 0) {", 0, "if (false) {"),
    of("if (p >= params.n_old_pages) return;", 0, ""),
    of("p >= params.n_old_pages", 0, "p > params.n_old_pages"),
    of("params.old_entries[work.part]", 0, "params.old_entries[0]"),
    of("target.head * params.n_old_pages + p", 0, "p"),
    of("if (page == nullptr) return;", 0, ""),
    of("if (tag == 0) {", 0, "if (false) {"),
    of("uint64_t{2} * d * token", 0, "0"),
    of("8 * d * bits_of(tag)", 0, "8 * d * bits_of(work.tag)"),
    of("of_tokens[kPageTokens + token]", 0, "of_tokens[token]"),
    of("shared.tokens[slot] = token;", 0, "shared.tokens[slot] = slot;"),
    of("zero << 16 | step", 0, "step"),
    of("shared.quantized.of_tokens[0][slot] = static_cast<uint16_t>(step);", 0, ""),
    of("shared.quantized.of_tokens[1][slot] = static_cast<uint16_t>(zero);", 0, ""),
    // How codes get there.
    of("return upper << 32 | ", 0, "return upper | "),
    of("return upper << 32 | ", 0, "return "),
    of("if (slot == kNoSlot) return;", 0, ""),
    of("if (slots[j] == kNoSlot) continue;", 0, ""),
    of("quantized.codes[slots[j]][row]", 0, "quantized.codes[slots[0]][row]"),
    of("codes >> 8 * j", 0, "codes"),
    of("part == 0 ? d : kPageTokens", 0, "d"),
    of("0x01010101 * ((1u << bits) - 1)", 0, "0xFFFFFFFF"),
    of("i < 2 * d * bits", 0, "i < d * bits"),
    of("uint64_t{0x101} << places[w].row", 0, "uint64_t{0x1} << places[w].row"),
    of("uint64_t{0xF000F} << places[w].column", 0, "uint64_t{0xF} << places[w].column"),
    of("uint64_t{0xF000F} << places[w].column", 0, "uint64_t{0xF0000} << places[w].column"),
    of("reg += 1u << order.word_bits", 0, "reg += 4"),
    of("(reg >> order.word_bits) * bits", 0, "reg * bits"),
    of("reg % 2 * 8", 0, "reg / 2 * 8"),
    of("reg / 2 * 16", 0, "reg % 2 * 16"),
    of("shared.targets[threadIdx.x / 32]", 0, "shared.targets[0]"),
    of("vote(entries[0] != 0, entries[1] != 0)", 0, "vote(entries[0] != 0, false)"),
    of("targets[lane] = kNoSlot;", 0, ""),
    of("targets[lane + 32] = kNoSlot;", 0, ""),
    of("entries[half] == entry && ", 0, ""),
    of(" && (rest >> slot & 1) != 0", 0, ""),
    of("if (is_served[half]) atomicMin(", 0, "atomicMin("),
    of("targets[shared.tokens[slot]] == slot", 0, "true"),
    of("vote(targets[lane] != kNoSlot, targets[lane + 32] != kNoSlot)", 0, "0"),
    // What they become.
    of("of_source & 0xFFFF", 0, "of_source >> 16"),
    of("static_cast<int32_t>(of_source) >> 16", 0, "static_cast<int32_t>(of_source >> 16)"),
    of("words[e / 4] >> e % 4 * 8 & 0xFF", 0, "words[0] >> e % 4 * 8 & 0xFF"),
    of("16 * code - zero", 0, "16 * code + zero"),
    of("if (shared.rows[slot] != nullptr) {", 0, "if (false) {"),
    of("} else if (shared.entries[slot] != 0) {", 0, "} else if (false) {"),
    of(
        "__fmaf_rn(x[e], channels.scales[8 * chunk + e], channels.offsets[8 * chunk + e])",
        0,
        "x[e]",
    ),
    of(
        "__fmaf_rn(x[e], channels.scales[8 * chunk + e], channels.offsets[8 * chunk + e])",
        0,
        "__fadd_rn(__fmul_rn(x[e], channels.scales[8 * chunk + e]), channels.offsets[8 * chunk + e])",
    ),
    of("to_halves(x[4], x[5], kind)", 0, "to_halves(x[5], x[4], kind)"),
    of("entry != 0 && entry >> 30 == work.tag", 0, "false"),
    of("entry != 0 && entry >> 30 == work.tag", 0, "entry != 0"),
    of("if (__all_sync(0xFFFFFFFFu, is_kept) != 0) continue;", 0, "if (is_kept) continue;"),
    of("if (row != nullptr) {", 0, "if (false) {"),
    of("} else if (entry != 0) {", 0, "} else if (false) {"),
    of("make_finite(y);", 0, ""),
    of("if (threadIdx.x < kPageTokens) place_token", 0, "place_token"),
    of("if (work.page == nullptr) return;", 0, ""),
    of("(work.tag == 0 ? is_coded : is_number) != 0", 0, "false"),
    of("work.tag == 0 ? is_coded : is_number", 0, "is_coded"),
    of("work.tag == 0 ? is_coded : is_number", 0, "is_number"),
    of("if (work.tag == 0) {", 0, "if (false) {"),
];

unsafe extern "C" {
    fn lacuna_simt_retier_pages(params: *const c_void, is_checked: u32);
}

fn is_caught<T: Half + Real>((problem, expected): &(Problem<T>, Found), entry: Entry) -> bool {
    differs(lacuna_simt_retier_pages, entry, expected, |queue| problem.run(queue))
}

fn with_expected<T: Half + Real>(problem: Problem<T>) -> (Problem<T>, Found) {
    let expected = problem.expected();
    (problem, expected)
}

#[test]
fn every_mutation_of_retier_pages_is_caught() {
    let case = Case { head_dim: 96, ..Case::default() };
    let hostile = Case { head_dim: 32, is_hostile: true, ..Case::default() };
    let whole = Case { lengths: vec![150], n_heads: 1, has_counts: false, ..case.clone() };
    let case_of_one = Case { has_first_pages: false, ..whole.clone() };
    let cases = [
        case.clone(),
        hostile.clone(),
        Case { has_scales: false, has_offsets: false, has_first_pages: false, ..hostile.clone() },
        Case { seed: 5, lists: KvLists::PerRequest, has_cache: false, ..case.clone() },
        // Runs of a page, by which each slot counts.
        Case { seed: 9, n_runs: 3, n_pages: 1, has_counts: false, to: vec![Tier::T16], ..case },
        Case { to: vec![Tier::T4, Tier::T2], from: vec![Tier::T8, Tier::T4], ..whole.clone() },
    ];
    let mut brains: Vec<_> = cases.iter().map(|case| with_expected(case.build::<bf16>())).collect();
    let shorts: Vec<_> = cases.iter().map(|case| with_expected(case.build::<f16>())).collect();
    // A run that ends with a page, and runs that begin past the table or end there.
    let full = case_of_one.build::<bf16>();
    brains.push(with_expected(Problem { counts: Some(vec![64, 128]), ..full }));
    for firsts in [[5, 3], [u32::MAX, 1]] {
        let first_pages = Some(firsts.to_vec());
        brains.push(with_expected(Problem { first_pages, ..whole.build::<bf16>() }));
    }
    // New pages that are not there, and old ones that are.
    for part in 0..2 {
        let mut missing = case_of_one.build::<bf16>();
        missing.entries[part][1] ^= 0x1FFF_FFFF;
        brains.push(with_expected(missing));
    }
    let kernel = Kernel {
        room: "quant",
        source: include_str!("../../csrc/quant/retier.cu"),
        headers: &[],
        entry: "retier_pages",
        mutations: MUTATIONS,
    };
    kernel.assert_all_caught(lacuna_simt_retier_pages, |entry| {
        brains.iter().any(|problem| is_caught(problem, entry))
            || shorts.iter().any(|problem| is_caught(problem, entry))
    });
}
