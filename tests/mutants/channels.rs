//! The kernel that measures channels.

use std::ffi::c_void;

use half::{bf16, f16};
use lacuna::element::{Half, Real};
use lacuna::kv::KvLists;
use lacuna::simt::Entry;

use crate::channels_problem::{Case, Found, Problem};
use crate::{Kernel, differs, of};

/// Left out is what changes no result: where a chain's rows begin, but for its pivot; and a span that nobody asks for.
const KERNEL: Kernel = Kernel {
    room: "quant",
    source: include_str!("../../csrc/quant/channels.cu"),
    headers: &[("../common/last.cuh", include_str!("../../csrc/common/last.cuh"))],
    entry: "measure_channels",
    mutations: &[
        of("__syncthreads();", 0, ""),
        of("__syncthreads();", 1, ""),
        of("__syncthreads();", 2, ""),
        of("__syncthreads();", 3, ""),
        of("__threadfence();", 0, ""),
        of("__threadfence();", 1, ""),
        of("atomicAdd(ticket, 1u) == n_blocks - 1", 0, "true"),
        of("atomicAdd(ticket, 1u) == n_blocks - 1", 0, "atomicAdd(ticket, 1u) == 0"),
        of("if (is_last) atomicExch(ticket, 0u);", 0, ""),
        // What a block has.
        of("blockIdx.z / 2", 0, "0"),
        of("blockIdx.z % 2", 0, "0"),
        of("blockIdx.x - span * params.n_pieces", 0, "0"),
        of(
            "(head * 2 + work.part) * params.n_spans + span",
            0,
            "(head * 2 + work.part) * params.n_spans",
        ),
        of("(head * 2 + work.part) * params.n_spans + span", 0, "head * params.n_spans + span"),
        of("params.n_lists == 1 ? work.b : ", 0, ""),
        of("work.b * params.n_lists + work.head", 0, "work.b"),
        of("if (params.counts != nullptr) ", 0, ""),
        of("least(end, params.counts[list])", 0, "end"),
        of("least(end, params.counts[list])", 0, "params.counts[list]"),
        of(
            "const uint32_t first_page = span * params.span_pages;",
            0,
            "const uint32_t first_page = 0;",
        ),
        of("least(params.span_pages, params.n_pages - first_page)", 0, "params.span_pages"),
        of("(first_page + span_pages) * kPageTokens", 0, "n_slots"),
        of("+ work.piece * kPieceSlots", 0, ""),
        of("uint64_t{list} * n_slots + first", 0, "first"),
        of(
            "first < end ? least(end - first, kPieceSlots) : 0",
            0,
            "least(end - first, kPieceSlots)",
        ),
        of("least(end - first, kPieceSlots)", 0, "kPieceSlots"),
        // Rows.
        of("work.part == 0 ? params.kv.keys : params.kv.values", 0, "params.kv.keys"),
        of("slot < kPieceSlots", 0, "slot < 256"),
        of("if (slot < work.n_slots) {", 0, "{"),
        of("slot < work.n_slots", 0, "slot <= work.n_slots"),
        of("row < n_rows ? ", 0, "true ? "),
        of("if (element != kNoRow) address", 0, "address"),
        of("(params.kv, work.b, row, work.head)", 0, "(params.kv, work.b, row, 0)"),
        // Chains.
        of("shared.rows[j * kChains + chain] == 0) ++j", 0, "false) ++j"),
        of("j < kChainSlots && shared.rows", 0, "shared.rows"),
        of("if (j < kChainSlots) {", 0, "if (false) {"),
        of("pivots[e] = is_finite(pivots[e]) ? pivots[e] : 0.0f;", 0, ";"),
        of("j + i < kChainSlots ? ", 0, "true ? "),
        of("(j + i) * kChains + chain", 0, "(j + i) * kChains"),
        of("(j + i) * kChains + chain", 0, "chain * kChainSlots + j + i"),
        of("is_row[i] = row != 0;", 0, "is_row[i] = true;"),
        of("if (!is_row[i]) continue;", 0, ""),
        of("row + 2 * channel", 1, "row"),
        of("const bool counts_in = is_finite(x[e]);", 0, "const bool counts_in = true;"),
        of("counts[e] += counts_in ? 1 : 0;", 0, "counts[e] += 1;"),
        of("__fsub_rn(x[e], pivots[e])", 0, "x[e]"),
        of(
            "__fmaf_rn(apart, apart, squares[e])",
            0,
            "__fadd_rn(__fmul_rn(apart, apart), squares[e])",
        ),
        of(
            "__fmaf_rn(-sums[e], shift, squares[e])",
            0,
            "__fsub_rn(squares[e], __fmul_rn(sums[e], shift))",
        ),
        of("__fmaf_rn(-sums[e], shift, squares[e])", 0, "squares[e]"),
        of("around < 0.0f ? 0.0f : around", 0, "around"),
        of("__fadd_rn(pivots[e], shift)", 0, "shift"),
        // Joins.
        of("if (more.n == 0) return;", 0, ""),
        of("if (all.n == 0) {", 0, "if (false) {"),
        of(
            "const float n_before = of_count(all.n);\n  all.n += more.n;",
            0,
            "all.n += more.n;\n  const float n_before = of_count(all.n);",
        ),
        of(
            "__fdiv_rn(of_count(more.n), of_count(all.n))",
            0,
            "__fmul_rn(of_count(more.n), __fdiv_rn(1.0f, of_count(all.n)))",
        ),
        of(
            "__fmul_rn(__fmul_rn(apart, apart), __fmul_rn(n_before, share))",
            0,
            "__fmul_rn(__fmul_rn(__fmul_rn(apart, apart), n_before), share)",
        ),
        of(
            "__fadd_rn(__fadd_rn(all.squares, more.squares), between)",
            0,
            "__fadd_rn(all.squares, __fadd_rn(more.squares, between))",
        ),
        of("__fmaf_rn(apart, share, all.mean)", 0, "__fadd_rn(__fmul_rn(apart, share), all.mean)"),
        of("chain < kChains; ++chain", 0, "chain < kChains - 1; ++chain"),
        of(
            "uint32_t chain = 0; chain < kChains; ++chain",
            0,
            "uint32_t chain = kChains; chain-- > 0;",
        ),
        of("if (params.n_pieces != 1) {", 0, "{"),
        of("work.span * params.n_pieces * 3 * d + channel", 0, "channel"),
        of("uint64_t{work.piece} * 3 * d", 0, "0"),
        of("own[d] = __float_as_uint(moments.mean);", 0, ""),
        of("params.tickets + work.span", 0, "params.tickets"),
        of("moments = {};", 1, ";"),
        of("piece < params.n_pieces; ++piece", 0, "piece < params.n_pieces - 1; ++piece"),
        // Figures.
        of("params.measured[work.part]", 0, "params.measured[0]"),
        of("work.span % params.n_spans", 0, "0"),
        of("uint64_t{work.b} * params.kv.n_heads + work.head", 1, "work.head"),
        of("if (measured.offsets != nullptr) {", 0, "{"),
        of("is_finite(moments.mean) ? moments.mean : 0.0f", 0, "moments.mean"),
        of("if (measured.scales == nullptr) return;", 0, ""),
        of("moments.n != 0 ? __fdiv_rn", 0, "true ? __fdiv_rn"),
        of("if (measured.offsets == nullptr) square", 0, "square"),
        of("if (measured.offsets == nullptr) square =", 0, "if (false) square ="),
        of(
            "__fmaf_rn(moments.mean, moments.mean, square)",
            0,
            "__fadd_rn(__fmul_rn(moments.mean, moments.mean), square)",
        ),
        of("__fsqrt_rn(square)", 0, "square"),
        of("if (!(scale <= kGreatest)) scale = kGreatest;", 0, ""),
        of("!(scale <= kGreatest)", 0, "scale > kGreatest"),
        of("scale < kLeastNormal ? 1.0f : scale", 0, "scale"),
        of(
            "measured.scales == nullptr && measured.offsets == nullptr",
            0,
            "measured.scales == nullptr",
        ),
    ],
};

unsafe extern "C" {
    fn lacuna_simt_measure_channels(params: *const c_void, is_checked: u32);
}

fn is_caught<T: Half + Real>((problem, found): &(Problem<T>, Found), by: Entry) -> bool {
    differs(lacuna_simt_measure_channels, by, found, |queue| problem.launch(queue))
}

fn with_found<T: Half + Real>(problem: Problem<T>) -> (Problem<T>, Found) {
    let found = problem.expected();
    (problem, found)
}

#[test]
fn every_mutation_of_measure_channels_is_caught() {
    let case = Case::default();
    let hostile =
        Case { is_hostile: true, n_heads: 1, n_pages: 18, span_pages: 17, ..case.clone() };
    let mut brains: Vec<_> = [
        case.clone(),
        hostile.clone(),
        Case {
            asked: [[true, false], [false, true]],
            span_pages: 4,
            n_pages: 6,
            ..hostile.clone()
        },
        Case {
            lists: KvLists::PerRequest,
            has_counts: false,
            head_dim: 96,
            n_pages: 3,
            span_pages: 1,
            ..case.clone()
        },
        Case { lengths: vec![3], n_heads: 1, n_pages: 1, span_pages: 1, ..case.clone() },
    ]
    .map(|case| with_found(case.build::<bf16>()))
    .into();
    // Lists that end within a piece, and with it.
    let ends = Case { n_heads: 1, ..case.clone() }.build::<bf16>();
    for counts in [[513, 512], [0, 570], [704, 577]] {
        brains.push(with_found(Problem { counts: Some(counts.to_vec()), ..ends.clone() }));
    }
    // Means so large that their squares are infinite, with spreads whose squares are not.
    let mut large = ends.clone();
    for (i, x) in large.cache.rows.iter_mut().flatten().enumerate() {
        *x = bf16::from_f32(2.0_f32.powi(66) * (1.0 + (i % 7) as f32 / 128.0));
    }
    brains.push(with_found(large));
    // Chains whose first row is of no number, and the others all of one: what is left of their squares is rounding, of either sign.
    let mut one = Case { n_heads: 1, has_counts: false, ..case.clone() }.build::<f16>();
    for (row, of_row) in one.cache.rows.iter_mut().flat_map(|rows| rows.chunks_mut(32).enumerate())
    {
        for (c, x) in of_row.iter_mut().enumerate() {
            *x =
                f16::from_f32(if row == 0 { f32::NAN } else { 1.0 + (37 * c + 1) as f32 / 1024.0 });
        }
    }
    let first_row = one.cache.locate([0, 0], 0).unwrap() / 32;
    for rows in &mut one.cache.rows {
        let (head, rest) = rows.split_at_mut(32);
        if first_row != 0 {
            head.swap_with_slice(&mut rest[32 * (first_row - 1)..][..32]);
        }
    }
    for (slot, index) in one.indices.iter_mut().enumerate() {
        *index = if slot % 512 < 8 { 0 } else { 1 + (slot % 600) as i32 };
    }
    let one = with_found(one);
    let short = with_found(Case { has_counts: false, seed: 4, ..case }.build::<f16>());
    KERNEL.assert_all_caught(lacuna_simt_measure_channels, |entry| {
        brains.iter().any(|problem| is_caught(problem, entry))
            || is_caught(&short, entry)
            || is_caught(&one, entry)
    });
}
