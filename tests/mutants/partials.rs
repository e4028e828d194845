//! The kernel that merges partial results of attention.

use std::ffi::c_void;

use half::bf16;
use lacuna::Queue;
use lacuna::attention::LogBase;
use lacuna::attention::LogSumOrder::{BatchHeadsQueries, HeadsTokens, TokensHeads};
use lacuna::simt::Entry;

use crate::partials_problem::{Case, Problem};
use crate::{Kernel, differs, of};

const KERNEL: Kernel = Kernel {
    room: "attention",
    source: include_str!("../../csrc/attention/merge.cu"),
    headers: &[
        ("../common/softmax.cuh", include_str!("../../csrc/common/softmax.cuh")),
        ("number.cuh", include_str!("../../csrc/common/number.cuh")),
    ],
    entry: "merge_partials",
    mutations: &[
        of("part.mask != nullptr && part.mask[token] == 0", 0, "false"),
        of("part.mask != nullptr && ", 0, ""),
        of("part.mask[token]", 0, "part.mask[place]"),
        of("part.log_sums[place]", 0, "part.log_sums[token]"),
        of("weights.token / params.n_queries", 0, "weights.token"),
        of("weights.token - request * params.n_queries", 0, "0"),
        of("request * strides.request + query", 0, "query"),
        of("query * strides.query", 0, "query"),
        of("weights.head * strides.head", 0, "weights.head"),
        of("place_of(own.log_sum_strides)", 0, "place_of(params.log_sum_strides)"),
        of("params.log_sums[place_of(params.log_sum_strides)]", 0, "params.log_sums[row]"),
        of(
            "params.log_sums[place_of(params.log_sum_strides)]",
            0,
            "params.log_sums[place_of(params.parts[0].log_sum_strides)]",
        ),
        of("log_sum == -minus_infinity() ? minus_infinity() : log_sum", 0, "log_sum"),
        of("row < params.n_rows", 0, "true"),
        of("is_row && part < params.n_parts", 0, "part < params.n_parts"),
        of("is_row && part < params.n_parts", 0, "is_row"),
        of("apart = kWarpRows; apart < 32", 0, "apart = kWarpRows; apart < 16"),
        of("apart = kWarpRows; apart < 32", 0, "apart = 2 * kWarpRows; apart < 32"),
        of("other > greatest ? other", 0, "other < greatest ? other"),
        of("__fmul_rn(__fsub_rn(log_sum, greatest), params.log2_scale)", 0, "log_sum - greatest"),
        of("log_sum == log_sum ? exp2_of(log2) : log_sum", 0, "exp2_of(log2)"),
        // The order of the parts.
        of(
            "uint32_t from = r; from < 32; from += kWarpRows",
            0,
            "uint32_t from = 28 + r; from < 32; from -= kWarpRows",
        ),
        of("from < 32; from", 0, "from < 28; from"),
        of("__shfl_sync(kAllLanes, weight, from)", 0, "weight"),
        of("__fdiv_rn(1.0f, sum)", 0, "1.0f"),
        of("weight != 0.0f", 0, "true"),
        of("weight != 0.0f", 0, "weight > 0.0f"),
        of(" && sum == sum", 0, ""),
        of("(weights.counted >> r & kFirstRow) == 1", 0, "(weights.counted & kFirstRow) == 1"),
        of("(weights.counted >> r & kFirstRow) == 1", 0, "(weights.counted >> r & 1) == 1"),
        of("params.is_in_place != 0 && is_alone", 0, "is_alone"),
        of("params.is_in_place != 0 && is_alone", 0, "false"),
        of("part == 0 && is_row && !is_left", 0, "is_row && !is_left"),
        of("part == 0 && is_row && !is_left", 0, "part == 0 && !is_left"),
        of("part == 0 && is_row && !is_left", 0, "part == 7 && is_row && !is_left"),
        of("is_row && !is_left && params.log_sums != nullptr", 0, "is_row && !is_left"),
        of("if (sum > 1.0f) merged", 0, "merged"),
        of("log2_of(sum), params.log_unit", 0, "log2_of(sum), 1.0f"),
        of("sum == sum ? merged : canonical(sum)", 0, "merged"),
        of(
            "kind == kFloatF32 ? reinterpret_cast<const uint32_t*>",
            0,
            "true ? reinterpret_cast<const uint32_t*>",
        ),
        of("(kWidth == 8 ? 2 : 4) * i", 0, "4 * i"),
        of("is_wide ? loaded.words[i] : loaded.words[i / 2]", 0, "loaded.words[i]"),
        of("i % 2 == 0 ? word & 0xFFFF : word >> 16", 0, "word & 0xFFFF"),
        of("kind == kFloatBf16 ? from_bf16(half)", 0, "true ? from_bf16(half)"),
        of(
            "to_half(high, kind) << 16 | to_half(low, kind)",
            0,
            "to_half(low, kind) << 16 | to_half(high, kind)",
        ),
        of("canonical(values[0])", 0, "values[0]"),
        of("sums[i] = -0.0f", 0, "sums[i] = 0.0f"),
        of("first < params.n_parts; first += kBatch", 0, "first < kBatch; first += kBatch"),
        of("params.parts[first + i]", 0, "params.parts[i]"),
        of("(counted >> (first + i) * kWarpRows & 1) != 0", 0, "true"),
        of(
            "(counted >> (first + i) * kWarpRows & 1) != 0",
            0,
            "(counted >> i * kWarpRows & 1) != 0",
        ),
        of("token * part.stride", 0, "token * params.parts[0].stride"),
        of("from + r)", 0, "from)"),
        of("if ((counted >> from & 1) == 0) continue;", 0, ""),
        of("counted == 0 ? 0.0f : sums[i]", 0, "sums[i]"),
        of("r < kWarpRows && first_row + r < params.n_rows", 0, "first_row + r < params.n_rows"),
        of("r < kWarpRows && first_row + r < params.n_rows", 0, "r < kWarpRows"),
        of("weights.token, own)", 0, "weights.token, 0)"),
        of("weights.head, own)", 0, "weights.head, 0)"),
        of(" && (weights.left >> own & 1) == 0", 0, ""),
        of("weights.left >> own", 0, "weights.left >> 0"),
        of("weights.counted >> own & kFirstRow : 0", 0, "weights.counted & kFirstRow : 0"),
        of("weights.counted >> own & kFirstRow : 0", 0, "weights.counted >> own : 0"),
        of("token * params.output_stride", 0, "token * params.parts[0].stride"),
        of("r += row_step;", 0, ""),
        of("chunk += chunk_step;", 0, ""),
        of("chunk -= n_chunks;", 0, ""),
        of("done < kWarpRows * n_chunks", 0, "done < n_chunks"),
        of("if (params.width == 8)", 0, "if (true)"),
        of("if (params.width == 4)", 0, "if (true)"),
    ],
};

unsafe extern "C" {
    fn lacuna_simt_merge_partials(params: *const c_void, is_checked: u32);
}

/// Whether launches by `entry` differ from the reference's.
fn is_caught(entry: Entry, own: Entry, agrees: impl Fn(&Queue) -> bool) -> bool {
    differs(own, entry, &true, |queue| Ok(agrees(queue)))
}

#[test]
fn every_mutation_of_merge_partials_is_caught() {
    let own: Entry = lacuna_simt_merge_partials;
    let plain = Case { n_parts: 6, head_dim: 24, gaps: [8, 0, 16], ..Case::default() };
    let hostile = Case { is_hostile: true, has_masks: true, n_tokens: 30, ..plain.clone() };
    let one = Case { n_parts: 1, n_tokens: 1, n_heads: 1, ..hostile.clone() };
    let odd = Case { offsets: [1, 0, 3], n_parts: 2, ..hostile.clone() };
    let turned = |orders| Case { orders, n_queries: 3, ..hostile.clone() };
    // The first part alone: a log-sum of NaN, and zeros below 0.
    let mut alone = odd.build::<bf16>();
    let [first, second] = &mut alone.parts[..] else { unreachable!("two parts") };
    (first.mask, second.mask) = (None, Some(vec![0; 30]));
    first.log_sums[..2].copy_from_slice(&[f32::NAN, -0.0]);
    first.outputs[24] = bf16::NEG_ZERO;
    let halves: Vec<Problem<bf16>> = vec![
        Case { base: LogBase::Two, n_parts: 2, ..plain.clone() }.build(),
        hostile.build(),
        one.build(),
        odd.build(),
        alone,
        Case { n_parts: 8, ..plain.clone() }.build(),
        turned([BatchHeadsQueries, TokensHeads, HeadsTokens]).build(),
        turned([HeadsTokens, BatchHeadsQueries, TokensHeads]).build(),
    ];
    let short: Vec<Problem<half::f16>> = vec![hostile.build(), odd.build()];
    let wide: Vec<Problem<f32>> = vec![plain.build(), hostile.build(), odd.build()];
    KERNEL.assert_all_caught(own, |entry| {
        halves.iter().any(|problem| {
            is_caught(entry, own, |queue| {
                problem.agrees::<bf16>(queue)
                    && problem.agrees::<f32>(queue)
                    && problem.agrees_without_sums::<bf16>(queue)
            })
        }) || short
            .iter()
            .any(|problem| is_caught(entry, own, |queue| problem.agrees::<f32>(queue)))
            || wide.iter().any(|problem| {
                is_caught(entry, own, |queue| {
                    problem.agrees::<bf16>(queue) && problem.agrees::<f32>(queue)
                })
            })
    });
}
