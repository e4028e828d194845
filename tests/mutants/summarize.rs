//! The kernel that makes one row of several keys.

use std::ffi::c_void;

use half::{bf16, f16};
use lacuna::bindings::{LacunaKvView, SelectSummarizeParams};
use lacuna::element::{E4m3, E5m2, Float};
use lacuna::launch::Grid;
use lacuna::region::Role;
use lacuna::select::reference::{box_of, box_of_boxes, mean_of, outlier_score};
use lacuna::select::{Score, Summary};
use lacuna::simt::{Entry, Schedule};

use crate::{Kernel, Mutation, of, passes_on, region};

const KERNEL: Kernel = Kernel {
    room: "select",
    source: concat!(
        include_str!("../../csrc/select/summary.cuh"),
        include_str!("../../csrc/select/outlier.cuh"),
        include_str!("../../csrc/select/summarize.cu"),
    ),
    headers: &[],
    entry: "summarize",
    mutations: MUTATIONS,
};

/// What keeps an index inside, the order of numbers and of sums, what is no number, and who waits for whom.
const MUTATIONS: &[Mutation] = &[
    // Which rows.
    of("params.first_new != nullptr ? params.first_new[b] : 0", 0, "0"),
    of("first_new / params.summaries.tokens_per_row", 0, "first_new"),
    of("first_new < n_tokens && ", 0, ""),
    of("span.first < end ? end", 0, "true ? end"),
    of("span.n_keys = count_rows_of(params.keys, n_tokens);", 0, "span.n_keys = n_tokens;"),
    of(
        "first < span.n_keys ? static_cast<uint32_t>(first) : span.n_keys",
        0,
        "static_cast<uint32_t>(first)",
    ),
    of(
        "span.n_keys - task.first < span.fan ? span.n_keys : task.first + span.fan",
        0,
        "task.first + span.fan",
    ),
    of(
        "span.n_keys - task.first < span.fan ? span.n_keys",
        0,
        "span.n_keys - task.first <= span.fan ? task.first",
    ),
    of("column(first % n_columns_)", 0, "column(0)"),
    of("idx += n_rows_further;", 0, ""),
    of("column += n_columns_further;", 0, ""),
    of("if (column < n_columns) return;", 0, ""),
    of("if (column < n_columns) return;", 0, "return;"),
    of("column -= n_columns;", 0, ""),
    of("idx += 1;", 0, ""),
    of("bits[2] | bits[3] << 16", 0, "bits[3] | bits[2] << 16"),
    // Means and outliers.
    of("dynamic + threadIdx.x / 32 * n_chunk_bytes", 0, "dynamic"),
    of("own + 4 * row_len", 0, "own"),
    of("own + 6 * row_len + 8 * params.n_staged", 0, "own + 6 * row_len"),
    of(
        "i < n ? locate_kv(kv, task.b, first + i, task.h) : kNoRow",
        0,
        "locate_kv(kv, task.b, first + i, task.h)",
    ),
    of(
        "locate_kv(kv, task.b, first + i, task.h)",
        0,
        "locate_kv(kv, task.b, task.first + i, task.h)",
    ),
    of("if (i < n) chunk.places", 0, "chunk.places"),
    of("n_here += static_cast", 0, "n_here = static_cast"),
    of(
        "__popc(__ballot_sync(kAllLanes, at != kNoRow))",
        0,
        "__popc(__ballot_sync(kAllLanes, i < n))",
    ),
    of("__syncwarp();", 0, ""),
    of("__syncwarp();", 1, ""),
    of("__syncwarp();", 2, ""),
    of("__syncwarp();", 3, ""),
    of("__syncwarp();", 4, ""),
    of("wait_copies<0>();", 0, ""),
    of("i < n * n_vectors; i += 32", 0, "i <= n * n_vectors; i += 32"),
    of("if (at == kNoRow) continue;", 0, ""),
    of("if (kv.element >= kFloatE4m3) {", 0, "if (kv.element > kFloatE4m3) {"),
    of("is_first ? 0.0f : chunk.sums[i * n_vectors + v]", 0, "chunk.sums[i * n_vectors + v]"),
    of("is_first ? 0.0f : chunk.sums[i * n_vectors + v]", 0, "0.0f"),
    of("if (chunk.places[row] == kNoRow) continue;", 0, ""),
    of(
        "sums[i] = __fadd_rn(sums[i], values[i]);",
        0,
        "sums[i] = __fsub_rn(values[i], -sums[i]) + 0x1p-20f;",
    ),
    of("static_cast<float>(n_here)", 0, "static_cast<float>(task.end - task.first)"),
    of("store_row(chunk.mean, 8 * v, bits);", 0, ""),
    of("store_row(params.rows, task.at + 8 * v, bits);", 0, ""),
    of("row < n && chunk.places[row] != kNoRow", 0, "chunk.places[row] != kNoRow"),
    of("row < n && chunk.places[row] != kNoRow", 0, "row < n"),
    of("is_here && v < n_vectors; v += 8", 0, "is_here && v < n_vectors; v += 16"),
    of("if (!is_here) continue;\n    // A key", 0, "// A key"),
    of("norms == 0.0f ? 0.0f : ", 0, ""),
    of("if (!(norms < infinity)) cosine = -infinity;", 0, ""),
    of("cosine < least ? cosine : least", 0, "cosine"),
    of("task.at != kNoRow", 0, "true"),
    of("i < n || i == 0; i += params.n_staged", 0, "i < n; i += params.n_staged"),
    of("n - i < params.n_staged ? n - i : params.n_staged", 0, "n - i"),
    of("n - i < params.n_staged ? n - i : params.n_staged", 0, "params.n_staged"),
    of("n - i < params.n_staged ? n - i : params.n_staged", 1, "params.n_staged"),
    of("add_keys(keys, n_now, i == 0, chunk)", 0, "add_keys(keys, n_now, true, chunk)"),
    of("if (n > params.n_staged) stage_keys", 0, "if (false) stage_keys"),
    of("least = found < least ? found : least;", 0, "least = found;"),
    of("delta >= 8; delta /= 2", 0, "delta >= 16; delta /= 2"),
    of("if (threadIdx.x % 32 == 0) {", 0, "{"),
    of(
        "uint64_t{b} * keys.n_heads + h) * params.outlier_stride",
        0,
        "uint64_t{b} * keys.n_heads + h) * span.n",
    ),
    of("__fsub_rn(0.0f, least)", 0, "-least"),
    // Boxes and means by channels.
    of("task.end - t > i ? t + i : task.end - 1", 0, "t + i"),
    of("pages[i] != (i == 0 ? last_page : pages[i - 1])) physical", 0, "true) physical"),
    of("task.end - t > i && ", 0, ""),
    of(" && static_cast<uint32_t>(physical) < kv.n_pages", 0, ""),
    of(
        "static_cast<uint32_t>(physical) < kv.n_pages",
        0,
        "physical < static_cast<int32_t>(kv.n_pages)",
    ),
    of("t + i - pages[i] * kv.page_size", 0, "t + i"),
    of("if (is_here[i]) taker.take(words[i]);", 0, "taker.take(words[i]);"),
    of("word ^ (word >> 31 & 0x7FFFFFFF)", 0, "word"),
    of("<< (24 - 8 * (i % 4)) & 0xFF000000", 0, "<< (24 - 8 * (i % 4))"),
    of("words[i / 2] & 0xFFFF0000", 0, "words[i / 2]"),
    of("order > most ? most : ", 0, ""),
    of("order < ~most ? ~most : ", 0, ""),
    of("kind == kFloatE4m3 ? from_e4m3", 0, "true ? from_e4m3"),
    of("order < least[i] ? order : least[i]", 0, "order <= least[i] ? least[i] : order"),
    of("order > most[i] ? order : most[i]", 0, "order"),
    of("most[i] > ordered || ", 0, ""),
    of(" || least[i] < ~ordered", 0, ""),
    of("has_nan ? kLeastOrder : least[i]", 0, "least[i]"),
    of("has_nan ? kMostOrder : most[i]", 0, "most[i]"),
    of("if (least[i] > most[i]) low[i]", 0, "if (false) low[i]"),
    of("store_row(rows, element + row_len, high);", 0, ""),
    of("is_most ? order > orders[i] : order < orders[i]", 0, "order < orders[i]"),
    of("&& order <= ordered && order >= ~ordered", 0, "&& order >= ~ordered"),
    of("&& order <= ordered && order >= ~ordered", 0, "&& order <= ordered"),
    of("is_empty ? kHalfNan : ", 0, ""),
    of("sums[i] = __fadd_rn(sums[i], values[i]);", 1, "sums[i] = values[i];"),
    of("    n += 1;", 0, "    n = 1;"),
    of("if (task.at == kNoRow) continue;", 0, ""),
    of("keys.element >= kFloatE4m3) {\n      Box<true>", 0, "false) {\n      Box<true>"),
    of("v >= n_vectors / 2", 0, "v > n_vectors / 2"),
    of("if (b >= params.keys.batch) return;", 0, ""),
];

unsafe extern "C" {
    fn lacuna_simt_summarize(params: *const c_void, is_checked: u32);
}

const POISON: u16 = 0xA5A5;
const BATCH: usize = 3;
const HEADS: usize = 2;

/// A cache whose pages are in no order, one of them none.
#[derive(Clone)]
struct Problem {
    summary: Summary,
    row_len: usize,
    page_size: usize,
    fan: usize,
    lengths: [u32; BATCH],
    first_new: Option<[u32; BATCH]>,
    n_staged: u32,
    /// The key's numbers are of these.
    numbers: &'static [f32],
}

const MANY: &[f32] = &[];
const ODD: &[f32] = &[
    0.0,
    -0.0,
    1.0,
    -1.5,
    2.25,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    -f32::NAN,
    3.5e4,
    -0.25,
    1.0,
    2.0,
    1.0,
    -3.0,
    0.5,
    0.75,
    7.0,
    -7.0,
    1.0,
    1.0,
    1.0,
    2.0,
    3.0,
];

fn problems() -> Vec<Problem> {
    let mut problems = Vec::new();
    for summary in [Summary::Box, Summary::Mean, Summary::MeanAndOutlier, Summary::BoxOfBoxes] {
        let sound = Problem {
            summary,
            row_len: 80,
            page_size: 3,
            fan: 7,
            lengths: [30, 0, 25],
            first_new: None,
            n_staged: 8,
            numbers: MANY,
        };
        problems.extend([
            sound.clone(),
            Problem { numbers: ODD, ..sound.clone() },
            Problem { lengths: [u32::MAX, 4, 36], n_staged: 4, ..sound.clone() },
            Problem { first_new: Some([15, 0, 25]), lengths: [30, 9, 25], ..sound.clone() },
            Problem { first_new: Some([40, 70, 3]), lengths: [39, u32::MAX, 5], ..sound.clone() },
            Problem { row_len: 272, fan: 4, numbers: &[0.0], n_staged: 4, ..sound.clone() },
            Problem {
                row_len: 16,
                fan: 2,
                numbers: &[-1.0, 1.0, 0.0, f32::NAN],
                n_staged: 2,
                ..sound.clone()
            },
            Problem { row_len: 16, fan: 2, numbers: &[1.0, -0.5], n_staged: 2, ..sound.clone() },
            Problem {
                row_len: 16,
                fan: 36,
                page_size: 36,
                lengths: [36; 3],
                n_staged: 36,
                ..sound
            },
        ]);
    }
    problems
}

trait Key: Float {
    fn of(x: f32) -> Self;
}

impl Key for bf16 {
    // NaN keeps its sign.
    fn of(x: f32) -> Self {
        Self::from_f32(x)
    }
}

impl Key for f16 {
    fn of(x: f32) -> Self {
        Self::from_f32(x)
    }
}

impl Key for E4m3 {
    fn of(x: f32) -> Self {
        // Some code for each number; NaN stays NaN.
        Self(if x.is_nan() { 0x7F } else { (x.to_bits() >> 20 ^ x.to_bits() >> 24) as u8 & 0xFE })
    }
}

impl Key for E5m2 {
    fn of(x: f32) -> Self {
        Self((f16::from_f32(x).to_bits() >> 8) as u8)
    }
}

fn words_of<T: bytemuck::Pod>(elements: &[T]) -> Vec<u128> {
    let bytes: &[u8] = bytemuck::cast_slice(elements);
    let mut words = vec![0_u128; bytes.len().div_ceil(16)];
    bytemuck::cast_slice_mut::<_, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
    words
}

/// The problem's cache by `entry`, under all checks; one row of blocks more than there are requests.
fn differs<K: Key, S: Score>(entry: Entry, problem: &Problem, schedule: Schedule) -> bool {
    let Problem { summary, row_len, page_size, fan, lengths, .. } = *problem;
    // 36 tokens of a request, and room for 49 in summaries.
    let (table_stride, summary_stride, rows_per_page) =
        (36 / page_size, 49_usize.div_ceil(fan).div_ceil(2), 2);
    let n_rows = summary_stride * rows_per_page;
    let out_len = summary.row_len(row_len as u64) as usize;
    let shuffle =
        |n: usize, of: usize| -> Vec<i32> { (0..of).map(|i| ((i * 5 + 3) % n) as i32).collect() };
    // Neither is a multiple of 5, so that all pages differ.
    let coprime = |n: usize| if n.is_multiple_of(5) { n + 1 } else { n };
    let (n_pages, n_summary_pages) =
        (coprime(BATCH * table_stride + 1), coprime(BATCH * summary_stride + 1));
    let mut table = shuffle(n_pages, BATCH * table_stride);
    let mut summary_table = shuffle(n_summary_pages, BATCH * summary_stride);
    if table_stride > 1 {
        table[1] = -1;
        table[2] = n_pages as i32;
        table[2 * table_stride] = i32::MIN;
    }
    summary_table[summary_stride] = -1;
    let mut state = 7_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
        (state >> 33) as usize
    };
    let is_whole = problem.numbers.len() < 5 && !problem.numbers.is_empty();
    let n_keys = n_pages * page_size * HEADS;
    let mut pool = Vec::new();
    for _ in 0..n_keys {
        let same = next();
        for _ in 0..row_len {
            let i = if is_whole { same } else { next() };
            let number = match problem.numbers {
                [] => i as f32 / (1_u32 << 28) as f32 - 4.0,
                numbers => numbers[i % numbers.len()],
            };
            pool.push(K::of(number));
        }
    }
    let at_of = |table: &[i32], stride: usize, n_pages: usize, page_size: usize, len: usize| {
        let table = table.to_vec();
        move |b: usize, t: usize, h: usize| -> Option<usize> {
            let page = usize::try_from(table[b * stride + t / page_size]).ok()?;
            (page < n_pages).then_some(((page * page_size + t % page_size) * HEADS + h) * len)
        }
    };
    let key_at = at_of(&table, table_stride, n_pages, page_size, row_len);
    let row_at = at_of(&summary_table, summary_stride, n_summary_pages, rows_per_page, out_len);
    let mut rows = vec![POISON; n_summary_pages * rows_per_page * HEADS * out_len];
    let mut expected = rows.clone();
    let outlier_stride = n_rows + 1;
    let mut scores = vec![f32::from_bits(0xA5A5_A5A5); BATCH * HEADS * outlier_stride];
    let mut expected_scores = scores.clone();
    for b in 0..BATCH {
        let first_new = problem.first_new.map_or(0, |words| words[b]);
        let n = (lengths[b] as usize).min(table_stride * page_size);
        let end = (lengths[b] as usize).div_ceil(fan).min(n_rows);
        let range = if first_new < lengths[b] { first_new as usize / fan..end } else { 0..0 };
        for (t, h) in range.flat_map(|t| (0..HEADS).map(move |h| (t, h))) {
            let tokens = (t * fan).min(n)..(t * fan + fan).min(n);
            let keys: Vec<&[K]> =
                tokens.filter_map(|i| key_at(b, i, h)).map(|at| &pool[at..][..row_len]).collect();
            let row: Vec<S> = match summary {
                Summary::Box => box_of(&keys, row_len),
                Summary::Mean | Summary::MeanAndOutlier => mean_of(&keys, row_len),
                Summary::BoxOfBoxes => {
                    let boxes: Vec<&[S]> =
                        keys.iter().map(|row| bytemuck::cast_slice(row)).collect();
                    box_of_boxes(&boxes, row_len)
                }
            };
            let at = row_at(b, t, h);
            if let Some(at) = at {
                expected[at..][..out_len].copy_from_slice(bytemuck::cast_slice(&row));
            }
            expected_scores[(b * HEADS + h) * outlier_stride + t] =
                at.map_or(f32::NEG_INFINITY, |_| outlier_score(&keys, &row));
        }
    }

    let mut pool = words_of(&pool);
    let mut row_words = words_of(&rows);
    let (mut lengths, mut first_new) = (lengths, problem.first_new.unwrap_or_default());
    let address = |pointer: *mut u32| pointer.expose_provenance() as u64;
    let n_pool_bytes = n_keys * row_len * size_of::<K>();
    let view = |n_pages: usize, page_size: usize, stride: usize, len: usize| LacunaKvView {
        keys: 0,
        values: 0,
        page_table: 0,
        lengths: 0,
        page_stride: (page_size * HEADS * len) as u64,
        token_stride: (HEADS * len) as u64,
        head_stride: len as u64,
        table_stride: stride as u64,
        page_multiplier: (1_u64 << 34).div_ceil(page_size as u64),
        n_pages: n_pages as u32,
        page_size: page_size as u32,
        n_rows: (stride * page_size) as u32,
        tokens_per_row: 1,
        batch: BATCH as u32,
        n_heads: HEADS as u32,
        row_len: len as u32,
        element: 0,
        key_scale: 1.0,
        value_scale: 1.0,
    };
    let is_scored = summary == Summary::MeanAndOutlier;
    let params = SelectSummarizeParams {
        keys: LacunaKvView {
            keys: address(pool.as_mut_ptr().cast()),
            page_table: address(table.as_mut_ptr().cast()),
            lengths: address(lengths.as_mut_ptr()),
            element: K::NUMBER,
            ..view(n_pages, page_size, table_stride, row_len)
        },
        summaries: LacunaKvView {
            page_table: address(summary_table.as_mut_ptr().cast()),
            lengths: address(lengths.as_mut_ptr()),
            tokens_per_row: fan as u32,
            element: S::NUMBER,
            ..view(n_summary_pages, rows_per_page, summary_stride, out_len)
        },
        rows: address(row_words.as_mut_ptr().cast()),
        first_new: problem.first_new.map_or(0, |_| address(first_new.as_mut_ptr())),
        outliers: if is_scored { address(scores.as_mut_ptr().cast()) } else { 0 },
        outlier_stride: outlier_stride as u64,
        mode: summary as u32,
        n_staged: problem.n_staged,
    };
    let regions = [
        region("keys", Role::Input, params.keys.keys, n_pool_bytes),
        region("table", Role::Input, params.keys.page_table, 4 * table.len()),
        region("summary table", Role::Input, params.summaries.page_table, 4 * summary_table.len()),
        region("lengths", Role::Input, params.keys.lengths, 4 * BATCH),
        region("rows", Role::InOut, params.rows, 2 * rows.len()),
        region("first new", Role::Input, address(first_new.as_mut_ptr()), 4 * BATCH),
        region("scores", Role::InOut, params.outliers, 4 * scores.len()),
    ];
    let n_warp_bytes = 6 * row_len + problem.n_staged as usize * (8 + row_len * size_of::<K>());
    let grid = Grid {
        // Less than there is work for.
        blocks: [1, BATCH as u32 + 1, 1],
        threads: [if is_scored { 96 } else { 256 }, 1, 1],
        dynamic_shared_bytes: if is_scored { 3 * n_warp_bytes as u32 } else { 0 },
        cluster_blocks: 1,
    };
    let regions = &regions[..if is_scored { 7 } else { 6 }];
    // SAFETY: the kernel takes this struct, and every region is memory of this function.
    if !unsafe { passes_on(entry, &grid, schedule, &params, regions) } {
        return true;
    }
    let n_bytes = 2 * rows.len();
    let got: &[u8] = &bytemuck::cast_slice(&row_words)[..n_bytes];
    bytemuck::cast_slice_mut::<_, u8>(&mut rows).copy_from_slice(got);
    let bits = |scores: &[f32]| scores.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    rows != expected || (is_scored && bits(&scores) != bits(&expected_scores))
}

#[test]
fn every_mutation_of_summarize_is_caught() {
    let problems = problems();
    KERNEL.assert_all_caught(lacuna_simt_summarize, |entry| {
        problems.iter().any(|problem| {
            let of_bytes = problem.summary != Summary::BoxOfBoxes;
            differs::<bf16, bf16>(entry, problem, Schedule::InOrder)
                || differs::<f16, f16>(entry, problem, Schedule::Random)
                || of_bytes && differs::<E4m3, bf16>(entry, problem, Schedule::Reverse)
                || of_bytes && differs::<E5m2, f16>(entry, problem, Schedule::LaneLast)
        })
    });
}
