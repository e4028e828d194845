//! The kernel that attends to keys it makes.

use std::ffi::c_void;

use lacuna::attention::{LowRankShape, Turn};
use lacuna::element::{Half, Real};
use lacuna::simt::Entry;

use self::problem::{Made, SHAPE, cancelling, case, hostile};
use crate::attend::problem::{Brain, Case, Short};
use crate::attend::{Differs, beside, model};
use crate::{Kernel, of};

#[path = "../attention/low_rank/problem.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod problem;

/// Left out is what `attend` has in the same headers, and what changes no result: zeros in place of factors that are not there,
/// whose products nobody takes, and the vote that passes over tiles without a key to make, which is only time.
const KERNEL: Kernel = Kernel {
    room: "attention",
    source: include_str!("../../csrc/attention/attend_low_rank.cu"),
    headers: &[
        ("attend.cuh", include_str!("../../csrc/attention/attend.cuh")),
        ("low_rank.cuh", include_str!("../../csrc/attention/low_rank.cuh")),
        ("tokens.cuh", include_str!("../../csrc/attention/tokens.cuh")),
        ("../common/turn.cuh", include_str!("../../csrc/common/turn.cuh")),
    ],
    entry: "attend_low_rank",
    mutations: &[
        // After keys are made, after what they are made of has arrived; and before the basis is there.
        of("__syncwarp();", 0, ""),
        of("sync_sets(part);", 0, ""),
        of("__syncthreads();", 1, ""),
        of("wait_copies<1>();", 0, ""),
        // On chip.
        of("return low_rank.head_dim * pitch();", 0, "return 0;"),
        of("return kTile * pitch();", 0, "return 0;"),
        of("(uint64_t{b} * params.n_heads + h)", 0, "h"),
        of("(uint64_t{b} * params.n_heads + h)", 0, "(uint64_t{b} * params.n_heads)"),
        of("if (Keys::kAreMade) tokens.made[i] = token.made;", 0, ""),
        of("is_there && !(Keys::kAreMade && tokens.made[row] != 0)", 0, "is_there"),
        // Where factors and values are.
        of("segment == low_rank.segment", 0, "segment == 0"),
        of("segment == low_rank.segment", 0, "true"),
        of(
            "if (!maker.find(params, place, b, h, token)) return token;",
            0,
            "maker.find(params, place, b, h, token);",
        ),
        of("if (place.row >= low_rank.n_factors) return false;", 0, ""),
        of("place.row >= low_rank.n_factors", 0, "place.row > low_rank.n_factors"),
        of("low_rank.value_indices != nullptr", 0, "false"),
        of("place.list * segment.n_indices + place.entry", 1, "place.entry"),
        of(
            "uint64_t{block} * segment.block_size + place.in_block",
            1,
            "block * segment.block_size + place.in_block",
        ),
        of(
            "uint64_t{block} * segment.block_size + place.in_block",
            1,
            "uint64_t{block} * segment.block_size",
        ),
        of("if (value_row >= segment.kv.n_rows) return false;", 0, ""),
        of("value_row >= segment.kv.n_rows", 0, "value_row > segment.kv.n_rows"),
        of("if (element == kNoRow) return false;", 0, ""),
        of("(uint64_t{b} * low_rank.n_factors + place.row)", 0, "uint64_t{place.row}"),
        of("token.made = place.row + 1;", 0, "token.made = place.row;"),
        of("const bool is_made = tokens.made[row] != 0;", 0, "const bool is_made = true;"),
        of("tokens.keys[row]) + 16 * chunk", 0, "tokens.keys[row])"),
        // Turns, and the order of their roundings.
        of(
            "__fmaf_rn(-y, sine, __fmul_rn(x, cosine))",
            0,
            "__fmaf_rn(y, sine, __fmul_rn(x, cosine))",
        ),
        of(
            "__fmaf_rn(-y, sine, __fmul_rn(x, cosine))",
            0,
            "__fmaf_rn(x, cosine, -__fmul_rn(y, sine))",
        ),
        of(
            "__fmaf_rn(x, sine, __fmul_rn(y, cosine))",
            0,
            "__fmaf_rn(y, cosine, __fmul_rn(x, sine))",
        ),
        of("low_rank.turn == kTurnHalves", 0, "low_rank.turn != kTurnNone"),
        of("else if (low_rank.turn == kTurnPairs)", 0, "else"),
        of("cosines[(half + c) / 2], sines[(half + c) / 2]", 0, "cosines[c / 2], sines[c / 2]"),
        of("tokens.made[r] - 1", 0, "tokens.made[r]"),
        of("if (tokens.made[r] == 0) continue;", 0, ""),
        // Products.
        of(
            "(lane % 8 + matrix % 2 * 8) * pitch() + matrix / 2",
            0,
            "(lane % 8 + matrix / 2 * 8) * pitch() + matrix % 2",
        ),
        of(
            "(matrix / 2 * half + lane % 8) * pitch() + matrix % 2",
            0,
            "(matrix % 2 * half + lane % 8) * pitch() + matrix / 2",
        ),
        of("k = 0; k < low_rank.rank / 16; ++k", 0, "k = low_rank.rank / 16; k-- > 0;"),
        of("kIsBf16 ? kFloatBf16 : kFloatF16", 0, "kFloatBf16"),
        of("if (!__any_sync(0xFFFFFFFFu, is_made)) return;", 0, "if (!is_made) return;"),
        of("params.logits.element == kFloatBf16", 0, "true"),
    ],
};

unsafe extern "C" {
    fn lacuna_simt_attend_low_rank(params: *const c_void, is_checked: u32);
}

fn hold<T: Half + Sync, O: Real + Sync + 'static>(made: Made<T>) -> Differs {
    beside(made.expect::<O>(model()), move |queue| made.attend::<O>(queue))
}

#[test]
fn every_mutation_of_attend_low_rank_is_caught() {
    let own: Entry = lacuna_simt_attend_low_rank;
    let mut second = case();
    second.parts.swap(0, 1);
    // The last rows of factors are read, and are shorter than keys.
    let short = Case { head_dim: 128, lengths: vec![70], ..case() };
    let problems = [
        hold::<_, f32>(Made::<Brain>::new(&case(), SHAPE, true)),
        hold::<_, f32>(Made::<Brain>::new(&second, LowRankShape { segment: 1, ..SHAPE }, false)),
        hold::<_, f32>(Made::<Short>::new(
            &case(),
            LowRankShape { turn: Turn::Pairs, rank: 48, ..SHAPE },
            true,
        )),
        hold::<_, f32>(Made::<Brain>::new(
            &case(),
            LowRankShape { turn: Turn::None, ..SHAPE },
            false,
        )),
        hold::<_, f32>(Made::<Brain>::new(
            &short,
            LowRankShape { rank: 16, n_factors: 24, ..SHAPE },
            false,
        )),
        hold::<_, f32>(hostile()),
        hold::<_, f32>(cancelling()),
    ];
    KERNEL.assert_all_caught(own, |entry| problems.iter().any(|differs| differs(own, entry)));
}
