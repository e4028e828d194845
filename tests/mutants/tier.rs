//! The kernel that resolves what is in a tier.

use std::ffi::c_void;

use lacuna::simt::Entry;

use crate::tier_problem::{Problem, shape};
use crate::{Kernel, differs, of};

const TIER: Kernel = Kernel {
    room: "attention",
    source: include_str!("../../csrc/attention/tier.cu"),
    headers: &[
        ("bits.cuh", include_str!("../../csrc/attention/bits.cuh")),
        ("../common/scan.cuh", include_str!("../../csrc/common/scan.cuh")),
    ],
    entry: "tier_resolve",
    mutations: &[
        // scan_block, find_hits, three of find_first_misses, pick_victims, rank_misses, find_fetched, part_slots, and
        // three of the entry.
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
        of("__syncthreads();", 10, ""),
        of("__syncthreads();", 11, ""),
        of("if (lane >= delta) value += before;", 0, "value += before;"),
        of("if (other < warp) scan.before += n;", 0, "if (other <= warp) scan.before += n;"),
        of("if (lane == 31) of_warps", 0, "if (lane == 30) of_warps"),
        of("word & ((1u << i % 32) - 1)", 0, "word"),
        of("place <= first ? 0u : ", 0, ""),
        of("place - first >= 32 ? ~0u : ", 0, ""),
        of("below(end) & ~below(begin)", 0, "below(end)"),
        of("if (e % 32 == 0) words", 0, "words"),
        of("y} << 21", 0, "y} << 20"),
        of("count < params.n ? count : params.n", 0, "count"),
        of("params.counts != nullptr ? params.counts[list.idx] : params.n", 0, "params.n"),
        of("uint64_t{list.idx} * params.n;", 0, "0;"),
        of("uint64_t{list.idx} * params.n_logical;", 0, "0;"),
        of("uint64_t{list.idx} * params.n_slots;", 0, "0;"),
        of("list.idx * params.n_logical + logical", 0, "logical"),
        of("source < params.n_source_pages ?", 0, "true ?"),
        of(" * params.lists_per_request + list.in_request", 0, " * params.lists_per_request"),
        of("uint64_t{list.request} * params.n_logical + logical", 0, "logical"),
        of("static_cast<uint32_t>(slot) >= params.n_slots", 0, "slot < 0"),
        of(
            "static_cast<uint32_t>(slot) >= params.n_slots",
            0,
            "slot >= static_cast<int32_t>(params.n_slots)",
        ),
        of("list.logical_of[slot] == logical ? slot : -1", 0, "slot"),
        of("e < list.n_counted ? list.indices[e] : -1", 0, "e < params.n ? list.indices[e] : -1"),
        of("e < list.n_counted ? list.indices[e] : -1", 0, "list.indices[e]"),
        of("static_cast<uint32_t>(logical) < params.n_logical", 0, "logical >= 0"),
        of(
            "static_cast<uint32_t>(logical) < params.n_logical",
            0,
            "logical < static_cast<int32_t>(params.n_logical)",
        ),
        of("atomicOr(&shared.wanted[slot / 32], 1u << slot % 32);", 0, ";"),
        of(
            "atomicOr(&shared.wanted[slot / 32], 1u << slot % 32);",
            0,
            "shared.wanted[slot / 32] |= 1u << slot % 32;",
        ),
        of("is_asked && slot < 0 &&", 0, "is_asked &&"),
        of("static_cast<uint32_t>(logical)) >= 0;", 0, "static_cast<uint32_t>(logical)) >= -1;"),
        of("if (e < params.n) params.slots", 0, "params.slots"),
        of("atomicMin(list.slot_of + list.indices[e], -1)", 0, "(void)0"),
        of(
            "atomicMin(list.slot_of + list.indices[e], -1)",
            0,
            "list.slot_of[list.indices[e]] = -1",
        ),
        of(
            "atomicMax(list.slot_of + list.indices[e], claim)",
            0,
            "atomicMin(list.slot_of + list.indices[e], claim)",
        ),
        of(
            "atomicMax(list.slot_of + list.indices[e], claim)",
            0,
            "atomicExch(list.slot_of + list.indices[e], claim)",
        ),
        of("if (has_bit(shared.missed, e)) atomicMax", 0, "if (has_bit(shared.hit, e)) atomicMax"),
        of("is_missed && list.slot_of[list.indices[e]] == claim", 0, "is_missed"),
        of(" & span_of(word, 0, n_slots);\n}", 0, ";\n}"),
        of("~shared.wanted[word] & ", 0, ""),
        of("word <= hand / 32", 0, "word < hand / 32"),
        of("n_fresh + count_below(fresh, hand)", 0, "n_fresh"),
        of("n_stale + count_below(stale, hand)", 0, "n_stale"),
        of("totals.n_missed < n_free ? totals.n_missed : n_free", 0, "totals.n_missed"),
        of("place >= n_below ? place - n_below : place + n_kind - n_below", 0, "place"),
        of("(is_stale ? totals.n_fresh : 0)", 0, "0"),
        of("if (rank >= totals.n_taken) continue;", 0, ""),
        of("if (rank + 1 == totals.n_taken) shared.last", 0, "shared.last"),
        of("taken |= 1u << bit;", 0, ""),
        of("shared.n_before[e / 32] + count_below", 0, "count_below"),
        of("if (!has_bit(shared.first, e)) return;", 0, "if (!has_bit(shared.missed, e)) return;"),
        of("      list.slot_of[list.indices[e]] = -1;", 0, ""),
        of("if (before < params.n_logical) atomicCAS", 0, "atomicCAS"),
        of("atomicCAS(list.slot_of + before, slot, -1)", 0, "list.slot_of[before] = -1"),
        of("atomicCAS(list.slot_of + before, slot, -1)", 0, "(void)0"),
        of("rank < n_taken; rank += kThreads", 0, "rank <= n_taken; rank += kThreads"),
        of("totals.n_taken != 0 ? shared.last + 1 : hand", 0, "shared.last + 1"),
        of("if (is_round) passed = ~0u;", 0, ""),
        of("totals.n_taken > totals.n_fresh", 0, "totals.n_taken >= totals.n_fresh"),
        of("totals.n_taken != 0 && end <= hand", 0, "totals.n_taken != 0 && end < hand"),
        of("totals.n_taken != 0 && end <= hand", 0, "end <= hand"),
        of("totals.n_taken != 0 && end <= hand", 0, "false"),
        of("(shared.referenced[word] & ~passed)", 0, "shared.referenced[word]"),
        of(" | shared.wanted[word];", 0, ";"),
        of("end < n_slots ? end : 0", 0, "end"),
        of("int2 pair = make_int2(-1, -1);", 0, "int2 pair = make_int2(-1, 0);"),
        of("if (rank < totals.n_taken) {", 0, "if (rank <= totals.n_taken) {"),
        of("list.logical_of[slot] = logical;", 0, ""),
        of("list.slot_of[logical] = slot;", 0, ""),
        of("list.idx * params.n_slots) + slot", 0, "0) + slot"),
        of("if (params.overflows != nullptr) ", 0, ""),
        of("totals.n_missed - totals.n_taken", 0, "totals.n_missed"),
        of(
            "has_bit(shared.missed, e) ? list.slot_of",
            0,
            "has_bit(shared.first, e) ? list.slot_of",
        ),
        of("if (slot >= 0) params.slots", 0, "if (e < params.n) params.slots"),
        of("if (e >= params.n) return;", 0, ""),
        of("shared.n_before[word] + count_below", 0, "count_below"),
        of("shared.n_fetched_before[word] +", 0, ""),
        of("} else if (slot >= 0) {", 0, "} else {"),
        of("if (e >= n_hits) params.hits", 0, "params.hits"),
        of("if (e >= n_fetched) params.fetched", 0, "params.fetched"),
        of("if (params.hits != nullptr) part_slots", 0, "part_slots"),
        of("% params.n_slots;", 0, ";"),
        of("shared.wanted[word] = 0;", 0, ""),
    ],
};

unsafe extern "C" {
    fn lacuna_simt_tier_resolve(params: *const c_void, is_checked: u32);
}

#[test]
fn every_mutation_of_tier_resolve_is_caught() {
    let plain = Problem::new(shape([2, 2], 70, 150, 100), 4, 1);
    let mut counted = Problem { has_parts: false, has_overflows: false, ..plain.clone() };
    counted.steps[1].1 = Some(vec![0, 33, 90, 64]);
    let paged = {
        let mut page = 0;
        let table = (0..300).map(|i| {
            page = (page * 7 + 13) % 300;
            if i % 9 == 0 { -1 - i } else { page + i % 9 * i % 90 }
        });
        Problem { source_table: Some(table.collect()), ..plain.clone() }
    };
    let full = Problem::new(shape([1, 2], 90, 400, 45), 4, 3);
    let long = Problem::new(shape([1, 1], 1100, 2500, 1200), 3, 4);
    let mut wild = Problem::new(shape([1, 2], 40, 60, 37), 3, 5);
    for tier in &mut wild.tiers {
        for (i, slot) in tier.slot_of.iter_mut().enumerate() {
            *slot = [-1, i32::MAX - i as i32 % 9, i as i32 % 37, 37, i32::MIN][i % 5];
        }
        for (i, logical) in tier.logical_of.iter_mut().enumerate() {
            *logical = [i as i32, -1, 60, i32::MIN, i as i32 + 20][i % 5];
        }
        tier.referenced.iter_mut().enumerate().for_each(|(i, bit)| *bit = i % 3 != 0);
        tier.hand = 1000;
    }
    // Just as many as have no mark: before others that have one, and with the last of them right behind the hand.
    let mut exact = Problem::new(shape([1, 1], 8, 60, 40), 1, 6);
    exact.steps = [8, 12, 40].map(|n| ((n..n + 8).collect(), None)).to_vec();
    exact.tiers[0].referenced[6..38].fill(true);
    exact.tiers[0].hand = 38;
    let mut around = exact.clone();
    around.tiers[0].referenced.fill(true);
    for slot in [12, 14, 20, 25, 30, 39, 3, 9] {
        around.tiers[0].referenced[slot] = false;
    }
    around.tiers[0].hand = 10;
    let own: Entry = lacuna_simt_tier_resolve;
    let problems = [plain, counted, paged, full, long, wild, exact, around];
    let problems = problems.map(|problem| (problem.expect(), problem));
    TIER.assert_all_caught(own, |entry| {
        let is_caught = |(expected, problem): &(_, Problem)| {
            differs(own, entry, expected, |queue| problem.run(queue))
        };
        problems.iter().any(is_caught)
    });
}
