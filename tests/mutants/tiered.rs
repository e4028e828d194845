//! The kernels that attend over tiered pages.

use std::ffi::c_void;

use lacuna::attention::{Mask, Tokens};
use lacuna::element::{Half, Real};
use lacuna::kv::KvLists;
use lacuna::quant::{Part as Of, Tail, Tier};
use lacuna::simt::Entry;

use self::problem::{Paged, Pages, endless, sparse, spoil, spoil_entries};
use crate::attend::problem::{Brain, Case, Part, Results, Short};
use crate::attend::{Differs, beside, model};
use crate::common::Random;
use crate::{Kernel, Mutation, of};

#[path = "../attention/tiered/problem.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod problem;

const OF_64: &str = include_str!("../../csrc/attention/tiered_64.cu");

/// One entry of a kernel file alone, since each takes as long to compile as all of another; and not optimized, which would take longer than it saves.
fn kernel(file: &'static str, entry: &'static str, mutations: &'static [Mutation]) -> Kernel {
    let mut parts = file.split("LACUNA_ENTRY(");
    let before = parts.next().unwrap();
    let own = parts.find(|part| part.starts_with(&format!("{entry},"))).unwrap();
    let source = format!("#pragma GCC optimize(\"O0\")\n{before}LACUNA_ENTRY({own}");
    Kernel {
        room: "attention",
        source: source.leak(),
        headers: &[
            ("tiered.cuh", include_str!("../../csrc/attention/tiered.cuh")),
            ("scores.cuh", include_str!("../../csrc/attention/scores.cuh")),
            ("weighed.cuh", include_str!("../../csrc/attention/weighed.cuh")),
            ("feed.cuh", include_str!("../../csrc/attention/feed.cuh")),
            ("codes.cuh", include_str!("../../csrc/attention/codes.cuh")),
        ],
        entry,
        mutations,
    }
}

/// Left out is what `attend` has in the same headers, and what changes no result. Only time: pitches, copies and rows past a split's end, spans
/// that are entered twice, logits of a step of nothing, votes before sums are raised and before logits are clamped. One of two guards: positions past a step's last, which
/// `find_token` finds nothing at. What nobody reads: a second copy of a page's tail, rows of sums past the last. The barrier before entries are read anew, since pieces of the step before have others. The last wait for copies, since all
/// that is not empty was waited for.
const MUTATIONS: &[Mutation] = &[
    // Codes: fixed point.
    of("if (exponent == 255) return {__uint_as_float(0x7FFFFFFF), 0.0f};", 0, ""),
    of("if (exponent < 14) return {0.0f, 0.0f};", 0, ""),
    of("exponent < 14", 0, "exponent < 15"),
    of("exponent - 13", 0, "exponent - 12"),
    of("267 - exponent", 0, "266 - exponent"),
    of("12583040.0f", 0, "12582912.0f"),
    of("0x4B400080", 0, "0x4B400000"),
    // Registers, words and planes.
    of("a[i] = words[i];", 0, "a[i] = words[i ^ 1];"),
    of("words[i % 2] >> i / 2 * 4", 0, "words[i / 2] >> i % 2 * 4"),
    of(" & 0x0F0F0F0F", 0, ""),
    of("words[0] >> i / 2 * 4", 0, "words[0] >> i % 2 * 4"),
    of("0x03030303u << i % 2 * 2", 0, "0x03030303u"),
    of("kTag == 3 && half == 1", 0, "kTag == 3"),
    of(" & 0x03030303u << i % 2 * 2", 0, ""),
    of("words[2] = four.z;", 0, "words[2] = four.w;"),
    of("words[1] = two.y;", 0, "words[1] = two.x;"),
    of("tag >= 2 && n_tiles % 2 == 0 ? 2", 0, "tag > 2 && n_tiles % 2 == 0 ? 2"),
    of("words + j * kWords", 0, "words"),
    of("planes[first + j][0]", 1, "planes[j][0]"),
    of("planes[first + j][1]", 0, "planes[j][1]"),
    of("planes[first + j][1]", 0, "planes[first + j][0]"),
    of("mma_u8_s8(all[0]", 1, "mma_u8(all[0]"),
    of("mma_u8_s8(all[1]", 0, "mma_u8(all[1]"),
    of("all[0][i]", 0, "all[0][0]"),
    of("all[kProducts - 1][i]", 0, "all[0][i]"),
    of("high * 256 + low", 0, "high * 256"),
    // Pieces of steps.
    of("0x1124u", 0, "0x1123u"),
    of("0x1124u", 0, "0x1114u"),
    of("0x1124u", 0, "0x1224u"),
    of("0x1124u", 0, "0x2124u"),
    of("static_cast<uint32_t>(page) & 3", 0, "static_cast<uint32_t>(page) & 1"),
    of("(n_slots + kStep - 1) / kStep", 0, "n_slots / kStep"),
    of("first_step(first + threadIdx.x / 32)", 0, "first_step(first)"),
    of("kStageBytes = 32 * kDim + 8 * kPageTokens", 0, "kStageBytes = 32 * kDim + 4 * kPageTokens"),
    of("kStageStride = kWarps * kStageBytes", 0, "kStageStride = kStageBytes"),
    of("stage_at = threadIdx.x / 32 * kStageBytes;", 0, "stage_at = 0;"),
    of("n_copied = 0;", 0, "n_copied = 1;"),
    of("i < params.tiers.n_stages; ++i", 0, "i < 2; ++i"),
    of("first_step + n * kWarps < end_step", 0, "first_step + n * kWarps <= end_step"),
    // A step.
    of("step.ordinal = n;", 0, "step.ordinal = 0;"),
    of("2 * n % (2 * kKnownSteps)", 0, "2 * n % kKnownSteps"),
    of("tag_of(pages[0]);", 0, "tag_of(pages[1]);"),
    of("tag_of(pages[1]);", 0, "tag_of(pages[0]);"),
    of("i < n_page_steps;", 0, "i <= n_page_steps;"),
    of("step.is_page ? i : i - n_page_steps", 0, "i"),
    of(
        "step.is_page ? n_slots : part.n_positions",
        0,
        "step.is_page ? kStep * n_page_steps : part.n_positions",
    ),
    of("step.is_page ? n_slots : part.n_positions", 0, "n_slots"),
    of("pages[0] != kNoPage ? min_of", 0, "true ? min_of"),
    of("min_of(kStep, n_all - step.first)", 0, "kStep"),
    of("n % (kKnownSteps / 2) == 0", 0, "n % kKnownSteps == 0"),
    of("chip.tokens[n % 2]", 0, "chip.tokens[0]"),
    // Pages.
    of("own = n + threadIdx.x % 32 / 2", 0, "own = threadIdx.x % 32 / 2"),
    of("own = n + threadIdx.x % 32 / 2", 0, "own = n + threadIdx.x % 16"),
    of("i >= n_page_steps && i < end_step ? 0", 0, "i >= n_page_steps ? 0"),
    of("i >= n_page_steps && i < end_step ? 0", 0, "i < end_step ? 0"),
    of("uint64_t{part.b} * params.attend.n_heads + part.head", 0, "part.head"),
    of("uint64_t{part.b} * params.attend.n_heads + part.head", 0, "part.b"),
    of("i < n_page_steps && i < end_step", 0, "i < end_step"),
    of("of == 0 ?", 0, "true ?"),
    of("head * params.tiers.n_pages + i", 0, "i"),
    of("report_entry(pools, entry, at, 1 + of);", 0, ""),
    of("entry, at, 1 + of)", 0, "entry, at, 1)"),
    of("entry, at, 1 + of)", 0, "entry, i, 1 + of)"),
    of("+ (entry >> 30)", 0, ""),
    of("if (found != nullptr) page", 0, "page"),
    of("is_other ? page", 0, "true ? page"),
    of("(2 * n + threadIdx.x % 32) % (2 * kKnownSteps)", 0, "threadIdx.x % 32"),
    of("__syncwarp();", 0, ""),
    // Rows.
    of("part.head, first + i)", 0, "part.head, i)"),
    of("of_split - n_page_steps", 0, "of_split"),
    of("tokens.values[i] = token.value;", 0, "tokens.values[i] = token.key;"),
    of("tokens.biases[i] = token.bias;", 0, "tokens.biases[i] = 0.0f;"),
    of("__syncwarp();", 1, ""),
    // Copies.
    of("if (found != kNoPage) {", 0, "{"),
    of("chip.pages[n_copied % (2 * kKnownSteps)]", 0, "chip.pages[n_copied % kKnownSteps]"),
    of("(found - tag)", 0, "(found)"),
    of("stage = stages + stage_at", 0, "stage = stages"),
    of("piece = 0;\n      ++n_copied;", 0, "++n_copied;"),
    of("piece = 0;\n      ++n_copied;", 0, "piece = 0;"),
    of("chip.tokens[n_copied / 2 % 2]", 0, "chip.tokens[0]"),
    of("n_copied % 2 == 0 ? tokens.keys", 0, "true ? tokens.keys"),
    of("piece * kTile", 0, "0"),
    of("commit_copies();", 0, ""),
    of("stage_at += kStageStride;", 0, ""),
    of("if (stage_at >= n_all) stage_at -= n_all;", 0, ""),
    of("params.tiers.n_stages * kStageStride", 0, "2 * kStageStride"),
    of("if (tag == 3) return;", 0, ""),
    of("page + piece * 32 * kDim", 0, "page"),
    of("at = kHalf; at < 2 * kHalf", 0, "at = kHalf; at < kHalf"),
    of("at = 0; at < kHalf", 0, "at = 512; at < kHalf"),
    of("kHalf << (3 - tag)", 0, "kHalf << (4 - tag)"),
    of("tail, has_tail);", 0, "tail);"),
    of("4 * kPageTokens << params.tiers.pools.tail;", 0, "4 * kPageTokens;"),
    of("piece == 0 && 16 * lane < 4 * kPageTokens", 0, "16 * lane < 4 * kPageTokens"),
    of("uint64_t{row} * 2 * kDim", 0, "uint64_t{row % kTile} * 2 * kDim"),
    of("rows[row]", 0, "rows[row % kTile]"),
    of("row < n ? page", 0, "true ? page"),
    of("(first_step + n_copied / 2 * kWarps) * kStep", 0, "first_step * kStep"),
    of("if (page == nullptr) from", 0, "from"),
    of("params.attend.queries, from != nullptr)", 0, "params.attend.queries, true)"),
    of("at / kChunks * pitch_of(kDim) + chunk", 0, "at / kChunks * (pitch_of(kDim) - 1) + chunk"),
    of("__syncwarp();", 2, ""),
    of("__syncwarp();", 3, ""),
    of("copy_next();\n    if (", 0, "if ("),
    of("wait_copies<1>();", 0, "wait_copies<2>();"),
    of("wait_copies<2>();", 0, "wait_copies<3>();"),
    of("return stages + stage_at;", 0, "return stages;"),
    // Splits and trees.
    of("kLeastSteps = 4", 0, "kLeastSteps = 8"),
    of("n_steps > kMostParts * n", 0, "n_steps >= kMostParts * n"),
    of("n_steps > kMostParts * n) n *= 2", 0, "n_steps > kMostParts * n) n += 4"),
    of("apart = 4; apart < 32; apart *= 2", 0, "apart = 16; apart > 2; apart /= 2"),
    of("apart = 4; apart < 32; apart *= 2", 0, "apart = 4; apart < 16; apart *= 2"),
    // Spans, and queries in fixed point.
    of("uint64_t{part.b} * params.attend.n_heads + part.head", 1, "part.head"),
    of("(head * params.tiers.n_spans + span) * kDim", 0, "head * params.tiers.n_spans * kDim"),
    of("(head * params.tiers.n_spans + span) * kDim", 0, "(head + span) * kDim"),
    of("keys = params.tiers.channels[0]", 0, "keys = params.tiers.channels[1]"),
    of("values = params.tiers.channels[1]", 0, "values = params.tiers.channels[0]"),
    of("values.scales != nullptr ? ", 0, "true ? "),
    of("values.scales[channel + c] : 1.0f", 0, "values.scales[channel + c] : 0.0f"),
    of("values.offsets != nullptr ? ", 0, "true ? "),
    of("first < kQueries; first += kTogether", 0, "first < kTogether; first += kTogether"),
    of("keys.scales != nullptr ? keys.scales + channel : nullptr", 0, "keys.scales + channel"),
    of("keys.offsets != nullptr ? keys.offsets + channel : nullptr", 0, "keys.offsets + channel"),
    of("queries + row * pitch_of(kDim)", 0, "queries + row % 4 * pitch_of(kDim)"),
    of("if (offsets != nullptr) offset = __fmaf_rn(scaled[j][e], offsets[c + e], offset);", 0, ""),
    of(
        "__fmaf_rn(scaled[j][e], offsets[c + e], offset)",
        0,
        "__fadd_rn(offset, __fmul_rn(scaled[j][e], offsets[c + e]))",
    ),
    of("if (scales != nullptr) scaled[j][e] = __fmul_rn(scaled[j][e], scales[c + e]);", 0, ""),
    of("offset = add_over_lanes(offset);", 0, ""),
    of(" & 0x7FFFFFFF", 0, ""),
    of(
        "apart = kDotLanes / 2; apart > 0; apart /= 2",
        0,
        "apart = kDotLanes / 4; apart > 0; apart /= 2",
    ),
    of("(word >> 8 & 0xFF)", 0, "(word >> 8)"),
    of("((word & 0xFF) ^ 0x80)", 0, "(word ^ 0x80)"),
    of("((word & 0xFF) ^ 0x80)", 0, "(word & 0xFF)"),
    of("sum += word - kFixedZero;", 0, "sum += word & 0xFFFF;"),
    of("&chip.planes[p][row][c]", 0, "&chip.planes[0][row][c]"),
    of(
        "apart = kDotLanes / 2; apart > 0; apart /= 2",
        1,
        "apart = kDotLanes / 4; apart > 0; apart /= 2",
    ),
    of("{fixed.unit, total, offset}", 0, "{fixed.unit, total, 0.0f}"),
    // What tokens' codes are relative to.
    of(
        "t < n && params.tiers.pools.tail == kZeroPoints",
        0,
        "params.tiers.pools.tail == kZeroPoints",
    ),
    of("t < n && params.tiers.pools.tail == kZeroPoints", 0, "t < n"),
    of(
        "static_cast<int32_t>(uint32_t{halves[kStep + t]} << 16) >> 16",
        0,
        "static_cast<int32_t>(uint32_t{halves[kStep + t]})",
    ),
    of("__int2float_rn(-zero)", 0, "__int2float_rn(zero)"),
    of("0.0625f", 0, "0.125f"),
    of("} else if (t < n) {", 0, "} else {"),
    of("affine.least = words[kStep + t];", 0, "affine.least = words[t];"),
    of("__syncwarp();", 4, ""),
    // Products with keys.
    of("load_affine<0>(params, stage + 32 * kDim, step.n, chip.affine);", 0, ""),
    of("chip.folded[kOwn * pair_of_lane() + j]", 0, "chip.folded[kOwn * pair_of_lane()]"),
    of("planes[tile][j][1] = words[4];", 0, "planes[tile][j][1] = words[0];"),
    of("plane + 32 * tile", 0, "plane"),
    of("chip.planes[j][group % kQueries]", 0, "chip.planes[0][group % kQueries]"),
    of("(32 * kDim >> kTag)", 0, "(16 * kDim >> kTag)"),
    of("stage + (strip - kFirst)", 0, "stage + strip"),
    of(
        "chip.affine[strip * 16 + i / kOwn * 8 + group_of_lane()]",
        0,
        "chip.affine[strip * 16 + group_of_lane()]",
    ),
    of("folded[i % kOwn]", 0, "folded[i / kOwn]"),
    of(
        "__fmaf_rn(affine.step, sum, __fmul_rn(affine.least, of.sum))",
        0,
        "__fmaf_rn(affine.least, of.sum, __fmul_rn(affine.step, sum))",
    ),
    of(
        "is_fourfold<kTag>(i / kOwn) ? __fmul_rn(sums[i], 0.25f)",
        0,
        "false ? __fmul_rn(sums[i], 0.25f)",
    ),
    of("__fmaf_rn(code, of.unit, of.offset)", 0, "__fmul_rn(code, of.unit)"),
    of("lane % 16 * pitch + lane / 16", 0, "lane % 16 * pitch + lane / 8 % 2"),
    of("lane % 8 * kQueries / 8 * pitch + lane / 8 % 2", 0, "lane % 8 * kQueries / 8 * pitch"),
    of("k = 0; k < kDim / 16; ++k", 0, "k = kDim / 16; k-- > 0;"),
    of("params.attend.logits.element == kFloatBf16", 0, "true"),
    of("if (i / kOfStrip == strip) products", 0, "products"),
    // Logits.
    of("step.is_page && rule.cap_scale == 0.0f", 0, "step.is_page"),
    of("step.is_page && rule.cap_scale == 0.0f", 0, "rule.cap_scale == 0.0f"),
    of("step.n == kStep && squares", 0, "squares"),
    of("step.n == kStep && squares < kMostLog2 * kMostLog2 / 4.0f", 0, "step.n == kStep"),
    of("squares = __fmaf_rn(logit, logit, squares);", 0, "squares = __fmul_rn(logit, logit);"),
    of("i / kOwn * 8 + group_of_lane() < step.n;", 0, "i / kOwn * 8 + group_of_lane() <= step.n;"),
    of("clamp_logit(logits[i])", 0, "logits[i]"),
    of("return false;", 0, "return true;"),
    of("chip.tokens[step.ordinal % 2]", 0, "chip.tokens[0]"),
    of("rows.tile * kQueries + kOwn * pair_of_lane() + j", 0, "kOwn * pair_of_lane() + j"),
    of(
        "kOwn * pair_of_lane() + j) / params.attend.group",
        0,
        "kOwn * pair_of_lane()) / params.attend.group",
    ),
    of("is_seen = token < step.n;", 0, "is_seen = true;"),
    of("if (!step.is_page) {", 0, "{"),
    of("begin = seen & 0xFFFF", 0, "begin = 0"),
    of("(seen >> 16) - begin", 0, "(seen >> 16)"),
    of("bias = tokens.biases[token];", 0, ""),
    of(
        "is_seen ? to_logit(rule, logits[i], bias) : minus_infinity()",
        0,
        "to_logit(rule, logits[i], bias)",
    ),
    of("return false;", 1, "return true;"),
    // Logits that are written.
    of("if (params.tiers.logits == nullptr) return;", 0, ""),
    of("n = step.is_page ? kStep : step.n", 0, "n = kStep"),
    of("step.is_page ? 0 : kStep * params.tiers.n_pages", 0, "0"),
    of("if (r >= rows.n) continue;", 0, ""),
    of("rows.tile * kQueries + r", 0, "r"),
    of("uint64_t{part.b} * attend.n_queries + row.query", 0, "row.query"),
    of("uint64_t{part.head} * attend.group + row.in_group", 0, "row.in_group"),
    of("logits == nullptr ? minus_infinity()", 0, "logits == nullptr ? 0.0f"),
    of("canonical(__fadd_rn(logit, 0.0f))", 0, "canonical(logit)"),
    of("if (position >= n) continue;", 0, ""),
    // Weights.
    of("logits[i] > most ?", 0, "logits[i] < most ?"),
    of("max(greatest[j], ceiling(most))", 0, "ceiling(most)"),
    of("apart = 4; apart < 32; apart *= 2", 1, "apart = 4; apart < 16; apart *= 2"),
    of("raise(next);", 0, ""),
    of("__fsub_rn(logits[i], from[i % kOwn])", 0, "__fsub_rn(logits[i], from[0])"),
    of("if (is_plain) {", 0, "if (true) {"),
    of("__fsub_rn(logits[i], from[i % kOwn])", 1, "__fsub_rn(logits[i], from[0])"),
    of("logits[i] == logits[i] ? weight : logits[i]", 0, "weight"),
    of("outputs[strip][i] = __fmul_rn(outputs[strip][i], scale);", 0, ";"),
    of("is_same && next[j] == greatest[j]", 0, "next[j] == greatest[j]"),
    of("masses[j].scale(scale);", 0, ""),
    of("excess[j] = __fmul_rn(excess[j], scale);", 0, ""),
    of("greatest[j] = next[j];", 0, ""),
    of("of_step[j] = __fadd_rn(logits[j], logits[kOwn + j]);", 0, "of_step[j] = 0.0f;"),
    of(
        "of_step[j] = __fadd_rn(of_step[j], __fadd_rn(logits[i], logits[kOwn + i]));",
        0,
        "of_step[j] = __fadd_rn(__fadd_rn(of_step[j], logits[i]), logits[kOwn + i]);",
    ),
    // Products with codes of values.
    of("load_affine<kMiddle>(params, stage + 32 * kDim, step.n, chip.affine);", 0, ""),
    of("chip.affine[i / kOwn * 8 + group_of_lane()]", 0, "chip.affine[i / kOwn * 8]"),
    of(
        "max(top[i % kOwn], __float_as_uint(scaled[i]) & 0x7FFFFFFF)",
        0,
        "max(top[i % kOwn], __float_as_uint(scaled[i]))",
    ),
    of(
        "__fmaf_rn(weights[i], affine.least, least[i % kOwn])",
        0,
        "__fadd_rn(__fmul_rn(weights[i], affine.least), least[i % kOwn])",
    ),
    of("apart = 4; apart < 32; apart *= 2", 2, "apart = 4; apart < 16; apart *= 2"),
    of("fix(top[j])", 0, "fix(top[0])"),
    of(
        "*weight(i) = static_cast<uint16_t>(word);",
        0,
        "*weight(i) = static_cast<uint16_t>(word & 0xFF);",
    ),
    of("add_over_groups(least[j])", 0, "least[j]"),
    // What weights are together, and what codes are relative to.
    of("total += word;", 0, ""),
    of("total += __shfl_xor_sync(0xFFFFFFFFu, total, apart);", 0, ""),
    of("0u - 2 * kStrips * kFixedZero", 0, "0u"),
    of("1u << ((16 >> kTag) - 1)", 0, "(1u << ((16 >> kTag) - 1)) - 1"),
    of("-static_cast<float>(kMiddle)", 0, "static_cast<float>(kMiddle)"),
    of("if (kMiddle != 0) {", 0, "if (false) {"),
    of(
        "params.tiers.channels[1].offsets == nullptr",
        0,
        "params.tiers.channels[0].offsets == nullptr",
    ),
    of("add_over_groups(of_step[j])", 0, "of_step[j]"),
    of("add_over_groups(of_step[j])", 0, "add_over_groups(of_step[0])"),
    of("if (kEnd == kDim / 16) add_offsets();", 0, "add_offsets();"),
    of("__syncwarp();", 5, ""),
    of("i * 16 + 4 * pair_of_lane()", 0, "i * 16 + 2 * pair_of_lane()"),
    of("0x7531", 0, "0x6420"),
    of("planes[i / 2][1][i % 2]", 0, "planes[i % 2][1][i / 2]"),
    of(" ^ 0x80808080", 0, ""),
    of("128 * (16 >> kTag)", 0, "64 * (16 >> kTag)"),
    of("stage + (strip - kFirst)", 1, "stage + strip"),
    of("strip * 16 + i / kOwn * 8 + group_of_lane();", 0, "strip * 16 + group_of_lane();"),
    of("strip * 16 + i / kOwn * 8 + group_of_lane();", 1, "strip * 16 + group_of_lane();"),
    of("__fmaf_rn(sums[i], of_code, least[i % kOwn])", 0, "__fmul_rn(sums[i], of_code)"),
    of("is_fourfold<kTag>(i / kOwn) ? __fmul_rn(own, 0.25f)", 0, "false ? __fmul_rn(own, 0.25f)"),
    of("unit[i % kOwn]", 0, "unit[0]"),
    of(
        "__fmaf_rn(sum, chip.channels[0][channel], output)",
        0,
        "__fadd_rn(__fmul_rn(sum, chip.channels[0][channel]), output)",
    ),
    of("chip.channels[0][channel]", 0, "chip.channels[1][channel]"),
    of(
        "__fmaf_rn(chip.channels[1][channel], mass[i % kOwn], output)",
        0,
        "__fadd_rn(__fmul_rn(chip.channels[1][channel], mass[i % kOwn]), output)",
    ),
    of("mass[i % kOwn], output", 0, "mass[0], output"),
    // Products with values that are numbers.
    of("lane % 8 + lane / 16 * 8", 0, "lane % 16"),
    of("row * pitch_of(kDim) + lane / 8 % 2", 0, "row * pitch_of(kDim)"),
    of("load_matrices_transposed(a", 0, "load_matrices(a"),
    of("values + 2 * strip", 0, "values + strip"),
    of(
        "half = element == kFloatBf16 ? to_bf16(weights[i]) : to_f16(weights[i])",
        0,
        "half = to_bf16(weights[i])",
    ),
    of("i * kOwn / 2", 0, "0"),
    of("i * 2 / kOwn]", 0, "0]"),
    of("element == kFloatBf16 ? from_bf16(half) : from_f16(half)", 0, "from_f16(half)"),
    of("excess[i % kOwn] = __fadd_rn(excess[i % kOwn], __fsub_rn(rounded, weights[i]));", 0, ""),
    of("__fsub_rn(rounded, weights[i])", 0, "__fsub_rn(weights[i], rounded)"),
    of("if (piece == 0) round_weights(weights);", 0, "round_weights(weights);"),
    of("add_numbers(stage, piece)", 0, "add_numbers(stage, 0)"),
    of("__syncwarp();", 6, ""),
    of("strip * 16 + 2 * pair_of_lane()", 0, "2 * pair_of_lane()"),
    of("uint32_t*>(first + 8)", 0, "uint32_t*>(first)"),
    of("params.attend.logits.element == kFloatBf16", 1, "true"),
    // Steps.
    of("if (step.n != 0) scores", 0, "scores"),
    of("if (step.n != 0) weighed", 0, "weighed"),
    of("scores.store_logits(step, nullptr);", 0, ""),
    of("step.tags[0] != 0 || step.tags[1] != 0", 0, "step.tags[0] != 0"),
    of("step.tags[0] != 0 || step.tags[1] != 0", 0, "step.tags[1] != 0"),
    of("slot / kStep / params.tiers.span_pages", 0, "slot / kStep"),
    of("slot / kStep / params.tiers.span_pages", 0, "0"),
    of("step.first >= span_end", 0, "step.first > span_end"),
    of("(span + 1) * params.tiers.span_pages", 0, "(span + 2) * params.tiers.span_pages"),
    of("scores.store_logits(step, of_step);", 0, ""),
    of("__fadd_rn(mass, add_over_groups(excess[j]))", 0, "mass"),
    of("outputs[strip][kOwn + j]", 0, "outputs[strip][j]"),
    of(
        "row[kDim + kSumWord] = __float_as_uint(sum);",
        0,
        "row[kDim + kSumWord] = __float_as_uint(mass);",
    ),
    of(
        "row[kDim + kMassWord] = __float_as_uint(mass);",
        0,
        "row[kDim + kMassWord] = __float_as_uint(sum);",
    ),
    // Logits of nothing.
    of("r < rows.n; ++r", 0, "r < 1; ++r"),
    of("rows.tile * part.tile_rows + r", 0, "r"),
    of("uint64_t{part.b} * attend.n_queries + row.query", 1, "row.query"),
    of("uint64_t{part.head} * attend.group + row.in_group", 1, "row.in_group"),
    of("i = kStep * n_page_steps + own", 0, "i = own"),
    of(
        "i = kStep * n_page_steps + own; i < n_slots",
        0,
        "i = kStep * n_page_steps + own; i + kStep < n_slots",
    ),
    of("i = n_slots + part.n_positions + own", 0, "i = n_slots + part.n_positions + own + 1"),
    of("i = n_slots + part.n_positions + own", 0, "i = part.n_positions + own"),
    // The kernel.
    of("attend.skips != nullptr && attend.skips[part.b] != 0", 0, "false"),
    of("blockIdx.y - part.head * attend.n_tiles", 0, "0"),
    of("__syncthreads();", 0, ""),
    of("ends[attend.n_segments - 1]", 0, "ends[0]"),
    of("params.tiers.n_lists == 1 ? part.b : ", 0, ""),
    of("part.b * params.tiers.n_lists + part.head", 0, "part.b"),
    of("if (params.tiers.counts != nullptr) n_slots", 0, "n_slots"),
    of("min_of(n_slots, params.tiers.counts[list])", 0, "params.tiers.counts[list]"),
    of("(n_slots + kStep - 1) / kStep", 1, "n_slots / kStep"),
    of("(part.n_positions + kStep - 1) / kStep", 0, "part.n_positions / kStep"),
    of("(n_steps + part.split_len - 1) / part.split_len", 0, "n_steps / part.split_len"),
    of("if (part.n_splits == 0) part.n_splits = 1;", 0, ""),
    of("clear_logits(params, part, rows, n_page_steps);", 0, ";"),
    of("if (blockIdx.x >= part.n_splits) return;", 0, ""),
    of(
        "stage_queries(attend, part, dynamic);\n  commit_copies();",
        0,
        "stage_queries(attend, part, dynamic);",
    ),
    of("dynamic + kQueries * pitch_of(kDim)", 0, "dynamic"),
    of("(chips) + warp)", 0, "(chips))"),
    of("blockIdx.x * part.split_len", 0, "0"),
    of("min_of(first + part.split_len, n_steps)", 0, "first + part.split_len"),
    of("min_of(first + part.split_len, n_steps)", 0, "n_steps"),
    of("wait_copies<0>();", 0, ""),
    of("__syncthreads();", 1, ""),
    of("feed.prepare(n + 1);", 0, "feed.prepare(n);"),
    of("__syncthreads();", 2, ""),
    of("words + warp * kQueries * (kDim + kExtraWords)", 0, "words"),
    of("__syncthreads();", 3, ""),
    of("rows, kWarps, dynamic", 0, "rows, 2, dynamic"),
    of("if (params.tiers.logits != nullptr) clear_logits", 0, "clear_logits"),
];

/// What is the other entries' own.
const OF_LONGER_HEADS: &[Mutation] = &[
    of("tag == 3 && n_tiles % 4 == 0 ? 4", 0, "false ? 4"),
    of("words[1] = four.y;", 0, "words[1] = four.x;"),
    of("words[3] = four.w;", 0, "words[3] = four.y;"),
    of("first / kTogether * 32", 0, "0"),
    of("first / kTogether * 32", 0, "first * 32"),
    of("planes[first + j][0]", 1, "planes[j][0]"),
    of("planes[first + j][1]", 0, "planes[j][1]"),
    of("at < kHalf; at += 16 * 32", 0, "at < 16 * 64; at += 16 * 32"),
    of("constexpr uint32_t kChunks = (kDim + 63) / 64;", 0, "constexpr uint32_t kChunks = 1;"),
    of("64 * j + 8 * lane", 0, "8 * lane"),
    of("64 * j + 8 * lane", 1, "8 * lane"),
    of("c < kDim; c += 32", 0, "c < 64; c += 32"),
    of("tile < kDim / 32; ++tile", 0, "tile < 2; ++tile"),
];

/// What is the entries' own that have four rows of queries: columns of products are both planes of each.
const OF_FOUR_ROWS: &[Mutation] = &[
    of("all[0][2 * i]", 0, "all[0][i]"),
    of("all[0][2 * i + 1]", 0, "all[0][2 * i]"),
    of("chip.planes[group % 2][group / 2]", 0, "chip.planes[0][group / 2]"),
    of("chip.planes[group % 2][group / 2]", 0, "chip.planes[group % 2][group % 4]"),
    of("lane % 8 * kQueries / 8 * pitch", 0, "lane % kQueries * pitch"),
    of("of_strip[i % kOfStrip * 2 / kOwn]", 0, "of_strip[i % kOfStrip]"),
    of("group * kQueries / 8", 0, "group % kQueries"),
    of("group % 2 == 0 ? high : low", 0, "high"),
    of("group % 2 == 0 ? high : low", 0, "low"),
    of("group_of_lane() * kQueries / 8", 0, "group_of_lane() % kQueries"),
    of("i * kOwn / 2", 0, "i * kOwn / 4"),
    of("sums[i * 2 / kOwn]", 0, "sums[i]"),
    of("kOwn * pair_of_lane() + j) / params", 0, "2 * pair_of_lane() + j) / params"),
];

unsafe extern "C" {
    fn lacuna_simt_attend_tiered_64x4(params: *const c_void, is_checked: u32);
    fn lacuna_simt_attend_tiered_64x8(params: *const c_void, is_checked: u32);
    fn lacuna_simt_attend_tiered_128x8(params: *const c_void, is_checked: u32);
    fn lacuna_simt_attend_tiered_256x8(params: *const c_void, is_checked: u32);
}

/// More rows of a head's queries than four.
fn case() -> Case {
    Case { group: 5, ..problem::case() }
}

/// The same.
fn alone() -> Case {
    Case { group: 5, ..problem::alone() }
}

/// Logits and the status stand after log-sums.
fn hold<T: Half + Sync, O: Real + Sync + 'static>(paged: Paged<T>) -> Differs {
    let join = |(results, logits, status): (Results<O>, Vec<u32>, u64)| Results {
        log_sums: [results.log_sums, logits, vec![status as u32, (status >> 32) as u32]].concat(),
        ..results
    };
    let (results, logits) = paged.expect::<O>(model());
    let expected = join((results, logits, paged.expect_status()));
    beside(expected, move |queue| paged.attend_with_status::<O>(queue).map(join))
}

fn plain() -> Paged<Brain> {
    let case = Case { n_queries: 3, group: 3, ..case() };
    Paged::new(&case, &Pages { has_counts: true, n_pages: 6, ..Pages::default() })
}

/// Little of all, since most mutants need no more.
fn quick() -> Paged<Brain> {
    let parts = vec![Part::of(Tokens::ALL).masked(Mask::Causal)];
    let case = Case { lengths: vec![70], parts, group: 3, n_queries: 2, ..alone() };
    Paged::new(&case, &Pages { n_pages: 3, ..Pages::default() })
}

/// A scale of a channel of keys is infinite, which makes NaN of logits.
fn infinite() -> Paged<Brain> {
    let pages = Pages { n_pages: 1, tiers: vec![Tier::T4], ..Pages::default() };
    let mut paged = Paged::<Brain>::new(&alone(), &pages);
    paged.scales[0].as_mut().unwrap()[37] = f32::INFINITY;
    paged
}

/// Nothing of one kind; tails of minimums, caps, and counts of each request.
fn others() -> Paged<Short> {
    let picked = Tokens::Blocks { n_blocks: 9, block_size: 3 };
    let parts = vec![
        Part { has_counts: true, has_biases: true, ..Part::of(picked) },
        Part { lists: KvLists::PerHead, ..Part::of(Tokens::last(70).after(4)) }
            .masked(Mask::Window(50)),
    ];
    let case = Case {
        lengths: vec![90, 100, 3],
        parts,
        n_queries: 5,
        group: 2,
        soft_cap: Some(3.0),
        has_sinks: true,
        ..case()
    };
    let (tail, lists) = (Tail::Minimums, KvLists::PerRequest);
    let pages = Pages { tail, lists, has_counts: true, n_pages: 4, ..Pages::default() };
    let mut paged = Paged::new(&case, &pages).with_three_stages();
    paged.counts = Some(vec![200, 0, 256]);
    paged.problem.skips = Some(vec![0, 0, 0]);
    paged
}

/// A channel's scales, or offsets, are not there.
fn without(which: usize) -> Paged<Brain> {
    let mut paged = Paged::<Brain>::new(
        &Case { n_queries: 2, ..alone() },
        &Pages { n_pages: 3, ..Pages::default() },
    );
    let [keys, values] = &mut paged.scales;
    let [of_keys, of_values] = &mut paged.offsets;
    *[keys, values, of_keys, of_values][which] = None;
    paged.has_logits = which != 0;
    paged
}

/// What is no number stands past a list's count, of pages of one tier.
fn past_the_count(tier: Tier, tail: Tail) -> Paged<Brain> {
    let pages =
        Pages { tiers: vec![tier], tail, n_pages: 262, span_pages: 262, ..Pages::default() };
    let mut paged = Paged::<Brain>::new(&alone(), &Pages { most_pool_pages: 9, ..pages });
    // The second of a warp's steps, of a split of eight; its page is alone there.
    paged.counts = Some(vec![64 * 261 + 37]);
    for entries in &mut paged.entries {
        let page = |p: u32| if p == 261 { 4 } else { p % 4 };
        entries.clone_from(&(0..262).map(|p| tier.tag() << 30 | page(p)).collect());
    }
    paged.keep(|p| p >= 256);
    let shape = paged.plan.pages().page(Of::Keys);
    let n_bytes = shape.page_bytes(tier);
    let page = &mut paged.pools[tier.tag() as usize][4 * n_bytes..][..n_bytes];
    for t in 37..64 {
        let at = if tier.is_coded() { shape.scale_byte(tier, t) } else { 2 * 64 * t };
        page[at..at + 4].fill(0xFF);
    }
    paged
}

/// Two spans' scales make queries of which the unit is 0, and just not.
fn tiny() -> Paged<Brain> {
    let pages = Pages { n_pages: 2, span_pages: 1, tiers: vec![Tier::T4], ..Pages::default() };
    let pages = Pages { has_offsets: false, ..pages };
    let mut paged = Paged::<Brain>::new(&alone(), &pages);
    paged.problem.queries.fill(Brain::from_f32(1.0));
    let scales = paged.scales[0].as_mut().unwrap();
    scales[..64].fill(2.0_f32.powi(-115));
    scales[64..].fill(2.0_f32.powi(-113));
    paged
}

/// Logits of -0, and far above what counts.
fn of_numbers(query: f32, key: f32) -> Paged<Brain> {
    let pages = Pages { n_pages: 1, tiers: vec![Tier::T16], ..Pages::default() };
    let mut paged = Paged::<Brain>::new(&alone(), &pages);
    paged.problem.queries.fill(Brain::from_f32(0.0));
    paged.problem.queries[0] = Brain::from_f32(query);
    for row in paged.pools[0].chunks_mut(2 * 64) {
        let own = Brain::from_le_bytes([row[0], row[1]]).to_f32();
        row[..2].copy_from_slice(&Brain::from_f32(key * own.abs()).to_le_bytes());
    }
    paged
}

/// As many steps as 64 splits have.
fn of_256_steps() -> Paged<Brain> {
    let pages = Pages { n_pages: 256, span_pages: 256, most_pool_pages: 9, ..Pages::default() };
    let mut paged = Paged::<Brain>::new(&alone(), &pages);
    paged.keep(|p| (8..16).contains(&p));
    paged
}

/// Of all that hostile tables and pages have.
fn hostile(seed: u64, tail: Tail) -> Paged<Brain> {
    let case = Case { seed, n_queries: 2, ..case() };
    let pages = Pages { has_counts: true, tail, n_pages: 7, ..Pages::default() };
    let mut paged = Paged::<Brain>::new(&case, &pages);
    spoil(&mut paged, seed);
    paged
}

/// Pages of none, and the last of pools.
fn wild() -> Paged<Brain> {
    let mut paged = Paged::<Brain>::new(&case(), &Pages { n_pages: 8, ..Pages::default() });
    spoil_entries(&mut paged, &mut Random(5));
    let n_pool_pages = paged.plan.pages().shape().n_pool_pages;
    for (i, entry) in paged.entries.iter_mut().flatten().enumerate() {
        let tag = i % 4;
        match i % 3 {
            0 => *entry = (tag as u32) << 30 | (n_pool_pages[tag] - 1) as u32,
            1 if i % 5 == 0 => *entry = (tag as u32) << 30 | n_pool_pages[tag] as u32,
            _ => {}
        }
    }
    // What is not there is not a query's numbers either.
    paged.problem.queries[0] = Brain::from_f32(f32::NAN);
    paged
}

fn nothing() -> Paged<Brain> {
    let mut paged =
        Paged::<Brain>::new(&Case { lengths: vec![9, 9], ..alone() }, &Pages::default());
    paged.counts = Some(vec![0, 70]);
    paged
}

fn skipped() -> Paged<Brain> {
    let mut paged = plain();
    paged.problem.skips = Some(vec![0, 1]);
    paged
}

/// Queries that do not see all of the last rows, nor what those before them see, nor pages; nobody asks for logits.
fn narrow() -> Paged<Brain> {
    let parts = vec![Part::of(Tokens::last(20)).masked(Mask::Window(2))];
    let case = Case { n_queries: 5, parts, ..case() };
    let mut paged = Paged::new(&case, &Pages { n_pages: 1, ..Pages::default() });
    paged.has_logits = false;
    paged.counts = Some(vec![0; paged.plan.pages().n_lists() as usize]);
    paged
}

/// Tokens that weigh alike, whatever their keys.
fn alike(mut paged: Paged<Brain>) -> Paged<Brain> {
    paged.problem.queries.fill(Brain::from_f32(0.0));
    paged
}

/// A key of a segment that is no number.
fn of_no_number() -> Paged<Brain> {
    let mut paged = Paged::<Brain>::new(&case(), &Pages { n_pages: 1, ..Pages::default() });
    for key in paged.problem.segments[1].keys.iter_mut().step_by(97) {
        *key = Brain::from_f32(f32::NAN);
    }
    paged
}

fn problems() -> Vec<Differs> {
    let negative = |step: f32| {
        let pages =
            Pages { n_pages: 1, tiers: vec![Tier::T8], tail: Tail::Minimums, ..Pages::default() };
        let mut paged = Paged::<Brain>::new(&alone(), &pages);
        let shape = paged.plan.pages().page(Of::Keys);
        for page in paged.pools[1].chunks_mut(shape.page_bytes(Tier::T8)) {
            for t in 0..64 {
                let at = shape.scale_byte(Tier::T8, t);
                // The greatest are of the other sign.
                let times = if t % 3 == 0 { -8.0 } else { 1.0 };
                let step = step * times * (1 + t % 7) as f32;
                page[at..at + 4].copy_from_slice(&step.to_le_bytes());
            }
        }
        paged
    };
    vec![
        hold::<_, f32>(quick()),
        hold::<_, f32>(plain()),
        hold::<_, Short>(others()),
        hold::<_, f32>(without(0)),
        hold::<_, f32>(without(1)),
        hold::<_, f32>(without(2)),
        hold::<_, f32>(without(3)),
        hold::<_, f32>(past_the_count(Tier::T16, Tail::ZeroPoints)),
        hold::<_, f32>(past_the_count(Tier::T2, Tail::ZeroPoints)),
        hold::<_, f32>(past_the_count(Tier::T4, Tail::Minimums)),
        hold::<_, f32>(tiny()),
        hold::<_, f32>(infinite()),
        hold::<_, f32>(of_numbers(1e-20, -1e-25)),
        hold::<_, f32>(of_numbers(1e10, 1e10)),
        hold::<_, f32>(negative(-0.003)),
        hold::<_, f32>(alike(negative(-0.003))),
        hold::<_, f32>(nothing()),
        hold::<_, f32>(narrow()),
        hold::<_, f32>(of_no_number()),
        hold::<_, f32>(skipped()),
        hold::<_, f32>(wild()),
        hold::<_, f32>(hostile(1, Tail::ZeroPoints)),
        hold::<_, f32>(hostile(2, Tail::Minimums)),
        hold::<_, f32>(of_256_steps()),
        hold::<_, f32>(sparse::<Brain>(5)),
        hold::<_, f32>(sparse::<Brain>(5).with_three_stages()),
        hold::<_, f32>(endless::<Short>(5)),
    ]
}

#[test]
fn every_mutation_of_attend_tiered_64_is_caught() {
    let own: Entry = lacuna_simt_attend_tiered_64x8;
    let problems = problems();
    kernel(OF_64, "attend_tiered_64x8", MUTATIONS)
        .assert_all_caught(own, |entry| problems.iter().any(|differs| differs(own, entry)));
}

#[test]
fn every_mutation_of_four_rows_is_caught() {
    let own: Entry = lacuna_simt_attend_tiered_64x4;
    let case = Case { n_queries: 2, ..problem::case() };
    let differs = hold::<_, f32>(Paged::<Brain>::new(&case, &Pages::default()));
    kernel(OF_64, "attend_tiered_64x4", OF_FOUR_ROWS)
        .assert_all_caught(own, |entry| differs(own, entry));
}

#[test]
fn every_mutation_of_longer_heads_is_caught() {
    let minimums = Pages { tail: Tail::Minimums, n_pages: 4, ..Pages::default() };
    let of = |head_dim| Case { head_dim, n_queries: 2, ..case() };
    let problems =
        [128, 256].map(|head_dim| hold::<_, f32>(Paged::<Brain>::new(&of(head_dim), &minimums)));
    let own: [Entry; 2] = [lacuna_simt_attend_tiered_128x8, lacuna_simt_attend_tiered_256x8];
    let of_256 = include_str!("../../csrc/attention/tiered_256.cu");
    let of_128 = include_str!("../../csrc/attention/tiered_128.cu");
    let files = [(of_128, "attend_tiered_128x8"), (of_256, "attend_tiered_256x8")];
    for (i, (file, entry)) in files.into_iter().enumerate() {
        kernel(file, entry, OF_LONGER_HEADS)
            .assert_all_caught(own[i], |entry| problems[i](own[i], entry));
    }
}
