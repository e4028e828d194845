//! The kernels that score and vote.

use std::ffi::c_void;

use half::bf16;
use lacuna::element::E4m3;
use lacuna::select::{
    GroupReduction, Score, ScoreKind, Together, VotePlan, VoteReduction, VoteRule,
};
use lacuna::simt::{Entry, Schedule};

use crate::score_problem::{CASE, Case, Key, Problem, to_bits};
use crate::{Kernel, Mutation, of, queue};

const SCORE: Kernel = Kernel {
    room: "select",
    source: include_str!("../../csrc/select/score.cu"),
    headers: &[
        ("../common/last.cuh", include_str!("../../csrc/common/last.cuh")),
        ("lanes.cuh", include_str!("../../csrc/select/lanes.cuh")),
        ("../common/dot.cuh", include_str!("../../csrc/common/dot.cuh")),
        ("../common/kv.cuh", include_str!("../../csrc/common/kv.cuh")),
        ("softmax.cuh", include_str!("../../csrc/select/softmax.cuh")),
    ],
    entry: "score_rows",
    mutations: OF_SCORE,
};

const VOTE: Kernel = Kernel {
    room: "select",
    source: include_str!("../../csrc/select/vote.cu"),
    headers: &[],
    entry: "vote_rows",
    mutations: OF_VOTE,
};

const OF_SCORE: &[Mutation] = &[
    // Two of is_last_block, two of write_votes, of the entry two about a step's scores and one before its softmaxes.
    of("__syncthreads();", 0, ""),
    of("__syncthreads();", 1, ""),
    of("__syncthreads();", 2, ""),
    of("__syncthreads();", 3, ""),
    of("__syncthreads();", 4, ""),
    of("__syncthreads();", 5, ""),
    of("__syncthreads();", 6, ""),
    of("__threadfence();", 0, ""),
    of("__threadfence();", 1, ""),
    of("== n_blocks - 1", 0, "== 0"),
    of("if (is_last) atomicExch(ticket, 0u);", 0, ""),
    of("n_blocks == 0 ? 1 : n_blocks", 0, "n_blocks"),
    of("atomicAdd(ticket, 1u)", 0, "(*ticket)++"),
    of("wait_copies<1>();", 0, ""),
    of("wait_copies<1>();", 0, "wait_copies<2>();"),
    of("step % 2 * kSlots, first_row", 0, "0, first_row"),
    of("step % 2 * kSlots, n_of", 0, "0, n_of"),
    of("if (!is_there) absent |= 1u << r;", 0, ""),
    of("is_there ? row + (is_upper ? d + i : i) : 0", 0, "row + (is_upper ? d + i : i)"),
    of("element, is_there)", 0, "element)"),
    of("is_upper ? d + i : i", 0, "i"),
    of("base_of(step) < n ? min_of(lane.n_rows, n - base_of(step)) : 0", 0, "lane.n_rows"),
    of("if (i >= d) continue;", 0, ""),
    of("if (i >= lane.head_dim) break;", 0, ""),
    of("if (r >= n) break;", 0, ""),
    of("if (q >= n_queries) break;", 0, ""),
    of("query[e] > 0.0f", 0, "query[e] >= -1.0f"),
    of(
        "if (query >= params.group || r >= n_of(step)) continue;",
        0,
        "if (r >= n_of(step)) continue;",
    ),
    of(
        "if (query >= params.group || r >= n_of(step)) continue;",
        0,
        "if (query >= params.group) continue;",
    ),
    of("__fmul_rn(products[i], params.kv.key_scale)", 0, "products[i]"),
    of("score = round_float(score, params.score_element);", 0, ""),
    of("if (score > all) all = score;", 0, "all = score;"),
    of("__fmul_rn(all, params.mean_scale)", 0, "all"),
    of("min_of(count_rows(params.kv, part.b), params.n)", 0, "count_rows(params.kv, part.b)"),
    of("n < kv.n_rows ? n : kv.n_rows", 0, "n"),
    of("n_tokens % tokens_per_row != 0", 0, "0"),
    of("static_cast<uint32_t>(physical) >= kv.n_pages", 0, "physical < 0"),
    of(
        "static_cast<uint32_t>(physical) >= kv.n_pages",
        0,
        "physical >= static_cast<int32_t>(kv.n_pages)",
    ),
    of("if (next != page) physical = table[next];", 0, "if (page == ~0u) physical = table[next];"),
    of("params.skips != nullptr && params.skips[blockIdx.z] != 0", 0, "false"),
    of("if (part.n_rows == 0 && first_tile != 0) return;", 0, ""),
    of("exchange_half<N, N / 4, 2>(values);", 0, "exchange_half<N, N / 4, 4>(values);"),
    of("is_upper ? low : high", 0, "low"),
    of("(lane & 2) / 2 * (N / 4)", 0, "0"),
    of("if (!(x > minus_infinity())) return minus_infinity();", 0, ""),
    of("x > kMostLog2 ? kMostLog2 : x < -kMostLog2", 0, "x < -kMostLog2"),
    of("x < -kMostLog2 ? -kMostLog2 : x", 0, "x"),
    of("if (shift < 64) sum", 0, "sum"),
    of("partials[i].sum >> shift", 0, "partials[i].sum"),
    of("sum == 0 ? 0.0f : ", 0, ""),
    of("greatest = __reduce_max_sync(0xFFFFFFFFu, own)", 0, "greatest = own"),
    of("greatest = __reduce_max_sync(0xFFFFFFFFu, own)", 1, "greatest = own"),
    of("apart > 0", 1, "apart > 1"),
    of("first == 0 ? 0.0f : scores[i]", 0, "0.0f"),
    of("share > vote ? share : vote", 0, "share"),
    of("if (reduction == 0) return", 0, "return"),
    of("uint64_t{q} * d + i", 0, "i"),
    of("i % 8 / 4 * 32", 0, "i % 8 / 4 * 16"),
];

const OF_VOTE: &[Mutation] = &[
    of("__syncthreads();", 1, ""),
    of("if (base != 0) __syncthreads();", 0, ""),
    of("params.skips != nullptr && params.skips[b] != 0", 0, "false"),
    of("t < params.n && ", 0, ""),
    of("t < params.n_rows && ", 0, ""),
    of("&& t < n_rows", 0, ""),
    of("if (threadIdx.x < n) {", 0, "{"),
    of("i < n && has_row", 0, "i < n"),
    of("if (!has_row) return;", 0, ""),
    of("n_left < kHeadsAtOnce ? n_left : kHeadsAtOnce", 0, "n_left"),
    of("first + base + i", 0, "first + i"),
];

unsafe extern "C" {
    fn lacuna_simt_score_rows(params: *const c_void, is_checked: u32);
    fn lacuna_simt_vote_rows(params: *const c_void, is_checked: u32);
}

/// Whether scores, softmaxes or votes of both schedules differ from the reference's, or the executor stops the kernel.
fn scores_differ<K: Key, S: Score>(entry: Entry, problem: &Problem<bf16, K>) -> bool {
    let (scores, softmaxes) = problem.expect::<S>();
    [Schedule::Random, Schedule::Reverse].into_iter().any(|schedule| {
        let queue = queue(lacuna_simt_score_rows, entry, schedule);
        let Ok((found, found_softmaxes)) = problem.score::<S>(&queue) else { return true };
        if to_bits(&found) != to_bits(&scores) || found_softmaxes != softmaxes {
            return true;
        }
        if problem.plan.shape().reduction != GroupReduction::None {
            return false;
        }
        [(Together::Group, VoteReduction::Max), (Together::All, VoteReduction::Sum)]
            .into_iter()
            .any(|(together, reduction)| {
                let rule = VoteRule { together, reduction, stride: problem.plan.shape().n };
                let plan = VotePlan::new(&problem.plan, rule).unwrap();
                let expected = problem.expect_votes::<S, f32>(&plan);
                let votes = problem.score_and_vote::<S, f32>(&queue, &plan);
                votes.map_or(true, |(_, votes)| to_bits(&votes) != to_bits(&expected))
            })
    })
}

fn votes_differ(entry: Entry, problem: &Problem<bf16, bf16>) -> bool {
    let (scores, softmaxes) = problem.expect::<f32>();
    [Schedule::Random, Schedule::Reverse].into_iter().any(|schedule| {
        let rule = VoteRule { together: Together::All, reduction: VoteReduction::Sum, stride: 300 };
        let plan = VotePlan::new(&problem.plan, rule).unwrap();
        let expected = problem.expect_votes::<f32, f32>(&plan);
        let found = problem.vote::<f32, f32>(
            &queue(lacuna_simt_vote_rows, entry, schedule),
            &plan,
            &scores,
            &softmaxes,
        );
        found.map_or(true, |votes| to_bits(&votes) != to_bits(&expected))
    })
}

/// Scores far apart, some special, and pages that are none.
fn hostile(case: Case) -> Problem<bf16, bf16> {
    let mut problem = case.build::<bf16, bf16>();
    let n_pages = problem.plan.shape().layout.shape().n_pages as i32;
    problem.page_table[1] = -1;
    problem.page_table[2] = n_pages;
    let specials = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30];
    for (idx, key) in problem.keys.iter_mut().enumerate().filter(|(idx, _)| idx % 91 == 0) {
        *key = bf16::from_f32(specials[idx / 91 % specials.len()]);
    }
    problem
}

#[test]
fn every_mutation_of_score_rows_is_caught() {
    let small = Case { lengths: [300, 0, 17], n_heads: 2, group: 3, head_dim: 24, ..CASE };
    let plain = small.build::<bf16, bf16>();
    let boxes = Case { kind: ScoreKind::Box, group: 5, head_dim: 72, ..small };
    let long = Case { lengths: [500, u32::MAX >> 20, 0], n: 290, n_heads: 1, ..small };
    let with_skips = Problem { skips: Some(vec![0, 1, 1]), ..plain.clone() };
    let reduced = |reduction| Case { reduction, ..small }.build::<bf16, bf16>();
    let mut past_the_table = Case { n: 900, ..small }.build::<bf16, bf16>();
    past_the_table.lengths[1] = u32::MAX;
    let many_queries =
        Case { lengths: [600, 300, 17], n: 600, n_heads: 1, group: 9, head_dim: 8, ..small };
    let wide = Case { head_dim: 136, page_size: 3, lengths: [41, 2, 0], ..small };
    let mut far_apart = long.build::<bf16, bf16>();
    let layout = far_apart.plan.shape().layout;
    for t in 0..256 {
        let start = layout.locate(&far_apart.page_table, 0, t, 0).unwrap();
        far_apart.keys[start..][..24].iter_mut().for_each(|key| *key *= bf16::from_f32(1000.0));
    }
    let fp8 = Problem { key_scale: 0.3, ..small.build::<bf16, E4m3>() };
    SCORE.assert_all_caught(lacuna_simt_score_rows, |entry| {
        scores_differ::<_, bf16>(entry, &plain)
            || scores_differ::<_, bf16>(entry, &boxes.build::<bf16, bf16>())
            || scores_differ::<_, f32>(entry, &long.build::<bf16, bf16>())
            || scores_differ::<_, f32>(entry, &with_skips)
            || scores_differ::<_, f32>(entry, &reduced(GroupReduction::Max))
            || scores_differ::<_, f32>(entry, &reduced(GroupReduction::Mean))
            || scores_differ::<_, f32>(entry, &past_the_table)
            || scores_differ::<_, f32>(entry, &fp8)
            || scores_differ::<_, f32>(entry, &fp8.without_pages())
            || scores_differ::<_, f32>(entry, &plain.without_pages())
            || scores_differ::<_, f32>(entry, &many_queries.build::<bf16, bf16>())
            || scores_differ::<_, f32>(entry, &wide.build::<bf16, bf16>())
            || scores_differ::<_, f32>(entry, &far_apart)
            || scores_differ::<_, f32>(entry, &plain.with_tokens_per_row(7))
            || scores_differ::<_, f32>(entry, &hostile(small))
            || scores_differ::<_, f32>(entry, &hostile(boxes))
    });
}

#[test]
fn every_mutation_of_vote_rows_is_caught() {
    let case = Case { lengths: [300, 0, 400], n: 290, n_heads: 5, group: 16, head_dim: 8, ..CASE };
    let problem = case.build::<bf16, bf16>();
    let with_skips = Problem { skips: Some(vec![0, 1, 1]), ..problem.clone() };
    let mut past_the_table = Case { lengths: [40, 3, 0], ..case }.build::<bf16, bf16>();
    past_the_table.lengths[1] = u32::MAX;
    VOTE.assert_all_caught(lacuna_simt_vote_rows, |entry| {
        votes_differ(entry, &problem)
            || votes_differ(entry, &with_skips)
            || votes_differ(entry, &past_the_table)
    });
}
