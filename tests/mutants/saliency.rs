//! The kernels of saliency.

use std::ffi::c_void;

use half::bf16;
use lacuna::Queue;
use lacuna::attention::{LogBase, LogSumOrder};
use lacuna::element::E5m2;
use lacuna::kv::KvLists;
use lacuna::quant::{Norm, SaliencyShape};
use lacuna::simt::Entry;

use crate::saliency_problem::{Case, NormCase, NormProblem, Problem, Value};
use crate::{Kernel, Mutation, differs, of};

const fn kernel(entry: &'static str, mutations: &'static [Mutation]) -> Kernel {
    Kernel {
        room: "quant",
        source: include_str!("../../csrc/quant/saliency.cu"),
        headers: &[],
        entry,
        mutations,
    }
}

const SKIP: &str = "if (is_skipped(params.skips, b)) return;";
const HEAD: &str = "uint64_t{b} * gridDim.y + blockIdx.y";

const BEGIN: &[Mutation] = &[
    of(SKIP, 0, ""),
    of("skips != nullptr && ", 0, ""),
    of("__syncthreads();", 0, ";"),
    of("__syncthreads();", 1, ""),
    of("first += kThreads", 0, "first += 2 * kThreads"),
    of("min_of(params.n_probes - first, kThreads)", 0, "kThreads"),
    of("if (threadIdx.x < n) {", 0, "{"),
    of("uint64_t{b} * params.n_probes + first", 0, "first"),
    of("* params.n_probes + first + threadIdx.x", 0, "* params.n_probes + threadIdx.x"),
    of("j * kThreads < n_visible", 0, "j * kThreads <= n_visible"),
    of("j * kThreads < n_visible", 0, "j < n_visible"),
    of("blockIdx.x * kTokens * kThreads", 0, "blockIdx.x * kThreads"),
    of("first_token + j * kThreads;", 0, "first_token + j;"),
    of("if (token >= params.n_tokens) return;", 0, ""),
    of("min_of(params.lengths[b], params.n_massed)", 0, "params.n_massed"),
    of("min_of(params.lengths[b], params.n_massed)", 0, "params.lengths[b]"),
    of("if (token < n_there) {", 0, "{"),
    of("canonical(params.masses", 0, "(params.masses"),
    of("head * params.mass_stride + token", 0, "head * params.n_tokens + token"),
    of("n_seeing[j] * params.group", 0, "n_seeing[j]"),
    of(HEAD, 1, "blockIdx.y"),
];

const ADD: &[Mutation] = &[
    of(SKIP, 1, ""),
    of("__syncthreads();", 2, ""),
    of("if (threadIdx.x < n_rows) {", 0, "{"),
    of("threadIdx.x / params.group", 0, "0"),
    of("threadIdx.x % params.group", 0, "0"),
    of("blockIdx.y * params.group + threadIdx.x", 0, "threadIdx.x"),
    of("b * params.request_stride + ", 0, ""),
    of("query * params.query_stride", 0, "query"),
    of("head * params.head_stride", 0, "head"),
    of("params.log2_scale", 0, "1.0f"),
    of("is_finite(log_sum) ? log_sum : -minus_infinity()", 0, "log_sum"),
    of("(__float_as_uint(x) & 0x7F800000) != 0x7F800000", 0, "x == x"),
    of("if (position >= params.n_positions) return;", 0, ""),
    of("if (params.tokens != nullptr) {", 0, "{"),
    of("if (params.tokens != nullptr) {", 0, "if (false) {"),
    of("params.tokens[head * params.n_positions + position]", 0, "params.tokens[position]"),
    of("b * params.n_queries * n_q_heads + blockIdx.y", 0, "blockIdx.y"),
    of("* n_q_heads + blockIdx.y * params.group)", 0, "* n_q_heads)"),
    of("rows.log_sums + query * params.group", 0, "rows.log_sums"),
    of("query * n_q_heads * params.n_positions", 0, "0"),
    of("uint64_t{i} * params.n_positions", 0, "0"),
    of("__fadd_rn(sum, exp2_of(log2))", 0, "exp2_of(log2)"),
    of("uint32_t i = 0; i < params.group; ++i", 0, "uint32_t i = params.group; i-- > 0;"),
    of(
        "uint32_t query = 0; query < params.n_queries; ++query",
        0,
        "uint32_t query = params.n_queries; query-- > 0;",
    ),
    of("n_seeing += log2 != minus_infinity();", 0, "n_seeing += 1;"),
    of("n_seeing += log2 != minus_infinity();", 0, "n_seeing += log2 > minus_infinity();"),
    of("token >= params.n_tokens || ", 0, ""),
    of("token >= params.n_tokens", 1, "token > params.n_tokens"),
    of(" || n_seeing == 0", 0, ""),
    of(HEAD, 2, "blockIdx.y"),
    of("params.sums[at] = canonical(", 0, "params.sums[at] = ("),
    of("params.counts[at] = canonical(", 0, "params.counts[at] = ("),
    of("params.decay", 0, "1.0f"),
    of("params.decay", 1, "1.0f"),
    of(
        "__fmaf_rn(params.sums[at], params.decay, sum)",
        0,
        "__fadd_rn(__fmul_rn(params.sums[at], params.decay), sum)",
    ),
];

const WEIGH: &[Mutation] = &[
    of(SKIP, 2, ""),
    of("if (params.lengths != nullptr) n = ", 0, "n = "),
    of("if (params.lengths != nullptr) n = min_of(n, params.lengths[b]);", 0, ""),
    of("min_of(n, params.lengths[b])", 0, "params.lengths[b]"),
    of("if (token >= n) return;", 0, ""),
    of(HEAD, 3, "blockIdx.y"),
    of("i < params.n_heads_together", 0, "i < 1"),
    of(
        "uint32_t i = 0; i < params.n_heads_together; ++i",
        0,
        "uint32_t i = params.n_heads_together; i-- > 0;",
    ),
    of("(row * params.n_heads_together + i) * params.n_tokens", 0, "row * params.n_tokens"),
    of("is_fresh = is_fresh || count == 0.0f;", 0, ""),
    of("is_fresh || count == 0.0f", 0, "count == 0.0f"),
    of("count == 0.0f", 0, "!(count > 0.0f)"),
    of("if (params.is_per_row != 0) ", 0, ""),
    of("if (params.is_per_row != 0) ", 0, "if (false) "),
    of("__fadd_rn(saliency, params.floor)", 0, "saliency"),
    of("if (params.norms != nullptr) ", 0, ""),
    of("if (params.norms != nullptr) ", 0, "if (false) "),
    of("__fadd_rn(score, saliency)", 0, "saliency"),
    of("if (!is_finite(score)) score", 0, "if (false) score"),
    of("if (!is_finite(score)) score", 0, "if (score != score) score"),
    of("is_fresh ? params.fresh : score", 0, "score"),
];

/// Left out is a rounding of squares before they are added: those of 11 bits are exact.
const MEASURE: &[Mutation] = &[
    of("i = 8 * (threadIdx.x % kDotLanes)", 0, "i = 0"),
    of("i < kv.row_len; i += 64", 0, "i < kv.row_len; i += 128"),
    of("i < kv.row_len; i += 64", 0, "i < 64; i += 64"),
    of("if (element == kNoRow) break;", 0, ""),
    of("if (element == kNoRow) return 0.0f;", 0, ""),
    of("__float_as_uint(x[e]) & 0x7FFFFFFF", 0, "__float_as_uint(x[e])"),
    of("sum = kPower == 1 ? ", 0, "sum = true ? "),
    of("sum = kPower == 1 ? ", 0, "sum = false ? "),
    of("sum = add_over_lanes(sum);", 0, ""),
    of("kPower == 1 ? sum : __fsqrt_rn(sum)", 0, "sum"),
    of("min_of(count_rows(params.kv, b), params.n_tokens)", 0, "params.n_tokens"),
    of("min_of(count_rows(params.kv, b), params.n_tokens)", 0, "count_rows(params.kv, b)"),
    of("params.firsts != nullptr ? ", 0, "true ? "),
    of("if (first >= n) return;", 0, ""),
    of("base += gridDim.x * kNormThreads", 0, "base = n"),
    of("blockIdx.x * kNormThreads + threadIdx.x", 0, "threadIdx.x"),
    of("+ threadIdx.x - lane", 0, "+ threadIdx.x"),
    of(HEAD, 0, "blockIdx.y"),
    of("&& base + 4 * turn < n", 0, "&& base + 4 * turn + 4 < n"),
    of("base + 4 * turn + lane / kDotLanes", 0, "base + 4 * turn"),
    of("row < n ? rows.locate(row) : kNoRow", 0, "rows.locate(row)"),
    of("lane % 4 * kDotLanes", 0, "lane / 4 * 4"),
    of("if (lane / 4 == turn) kept", 0, "kept"),
    of("if (base + lane < n) norms", 0, "norms"),
    of("canonical(__fmul_rn(kPower", 0, "(__fmul_rn(kPower"),
    of("__fmul_rn(kPower == 1 ? sum : __fsqrt_rn(sum), kv.value_scale)", 0, "sum"),
    of("if (params.power == 1) {", 0, "if (true) {"),
    of("if (params.power == 1) {", 0, "if (false) {"),
];

unsafe extern "C" {
    fn lacuna_simt_begin_saliency(params: *const c_void, is_checked: u32);
    fn lacuna_simt_add_saliency(params: *const c_void, is_checked: u32);
    fn lacuna_simt_weigh_saliency(params: *const c_void, is_checked: u32);
    fn lacuna_simt_measure_norms(params: *const c_void, is_checked: u32);
}

fn problems() -> Vec<Problem> {
    let shape = SaliencyShape {
        n_queries: 3,
        decay: 0.7,
        log_sum_order: LogSumOrder::HeadsTokens,
        floor: 0.25,
        ..SaliencyShape::of(2, 6, 3, 300)
    };
    let positions = SaliencyShape { n_positions: 330, ..shape };
    let lists = KvLists::PerRequest;
    let (base, log_sum_order) = (LogBase::Two, LogSumOrder::TokensHeads);
    let plain = SaliencyShape { lists, base, log_sum_order, is_per_probe: false, ..shape };
    let case = Case { n_probes: 300, n_massed: 310, shape: positions, ..Case::default() };
    let lengths = vec![40, 400];
    // More blocks than one that begin.
    let long = SaliencyShape { n_tokens: 2100, n_positions: 9, ..positions };
    [
        case.clone(),
        Case {
            has_tokens: false,
            n_massed: 280,
            has_skips: true,
            lengths,
            shape: plain,
            ..case.clone()
        },
        Case { has_norms: false, has_lengths: false, shape: plain, ..case.clone() },
        Case { is_hostile: true, seed: 3, ..case.clone() },
        Case { lengths: vec![2090, 2100], n_massed: 2080, shape: long, ..case.clone() },
        Case { is_hostile: true, shape: SaliencyShape { lists, ..positions }, ..case },
    ]
    .map(|case| case.build())
    .into()
}

fn assert_all_caught<E: PartialEq + Send + Sync>(
    entry: &'static str,
    mutations: &'static [Mutation],
    own: Entry,
    expect: fn(&Problem) -> E,
    run: fn(&Problem, &Queue) -> lacuna::Result<E>,
) {
    let problems: Vec<_> =
        problems().into_iter().map(|problem| (expect(&problem), problem)).collect();
    kernel(entry, mutations).assert_all_caught(own, |by| {
        problems
            .iter()
            .any(|(expected, problem)| differs(own, by, expected, |queue| run(problem, queue)))
    });
}

#[test]
fn every_mutation_of_begin_saliency_is_caught() {
    let own: Entry = lacuna_simt_begin_saliency;
    assert_all_caught("begin_saliency", BEGIN, own, Problem::expect_begun, Problem::begin);
}

#[test]
fn every_mutation_of_add_saliency_is_caught() {
    let own: Entry = lacuna_simt_add_saliency;
    assert_all_caught("add_saliency", ADD, own, Problem::expect_added, Problem::add);
}

#[test]
fn every_mutation_of_weigh_saliency_is_caught() {
    let own: Entry = lacuna_simt_weigh_saliency;
    assert_all_caught("weigh_saliency", WEIGH, own, Problem::expect_scores, Problem::weigh);
}

#[test]
fn every_mutation_of_measure_norms_is_caught() {
    fn is_caught<T: Value>(problem: &NormProblem<T>, own: Entry, by: Entry) -> bool {
        differs(own, by, &problem.expect(), |queue| problem.measure(queue))
    }
    let own: Entry = lacuna_simt_measure_norms;
    let case =
        NormCase { lengths: vec![5, 300], firsts: None, max_new: 140, ..NormCase::default() };
    let past = Some(vec![3, u32::MAX - 127]);
    let brains = [
        NormCase { page_size: 1, firsts: Some(vec![0, 2]), n_tokens: 300, ..case.clone() },
        NormCase { firsts: past, norm: Norm::L2, max_new: 256, head_dim: 136, ..case.clone() },
        NormCase { is_hostile: true, n_tokens: 270, ..case.clone() },
    ]
    .map(|case| case.build::<bf16>());
    let eights = NormCase { is_hostile: true, value_scale: f32::NAN, page_size: 3, ..case.clone() };
    let eights = [NormCase { value_scale: 0.3, norm: Norm::L2, ..case }, eights];
    let eights = eights.map(|case| case.build::<E5m2>());
    kernel("measure_norms", MEASURE).assert_all_caught(own, |by| {
        brains.iter().any(|problem| is_caught(problem, own, by))
            || eights.iter().any(|problem| is_caught(problem, own, by))
    });
}
