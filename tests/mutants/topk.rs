//! The kernel that picks the largest scores.

use std::ffi::c_void;

use lacuna::bindings::SelectTopkParams;
use lacuna::element::Float as _;
use lacuna::region::Role;
use lacuna::select::reference::{RowRule, topk_row};
use lacuna::simt::{Entry, Schedule};

use crate::{Kernel, Mutation, of, passes, region};

const KERNEL: Kernel = Kernel {
    room: "select",
    source: include_str!("../../csrc/select/topk.cu"),
    headers: &[],
    entry: "topk_rows",
    mutations: MUTATIONS,
};

/// The barriers, the atomic, the order of keys, and what keeps an index inside.
const MUTATIONS: &[Mutation] = &[
    // find_threshold (3), gather_picks (2), in the order of the file.
    of("__syncthreads();", 0, ""),
    of("__syncthreads();", 1, ""),
    of("__syncthreads();", 2, ""),
    of("__syncthreads();", 3, ""),
    of("__syncthreads();", 4, ""),
    of("start < params.n ? start : params.n", 0, "start"),
    of("length < rest ? length : rest", 0, "length"),
    of("asked < params.k ? asked : params.k", 0, "asked"),
    of("most < found.length ? most : found.length", 0, "most"),
    of("if (magnitude > infinity) return 0;", 0, ""),
    of("if (magnitude == 0) return 0x8000;", 0, ""),
    of("if (magnitude > 0x7F800000) return 0;", 0, ""),
    of("if (magnitude == 0) return 0x80000000;", 0, ""),
    of("bits >> 15 != 0 ? ~bits & 0xFFFF : bits | 0x8000", 0, "bits | 0x8000"),
    of("bits >> 31 != 0 ? ~bits : bits | 0x80000000", 0, "bits | 0x80000000"),
    of("params.element == kBf16 ? 0x7F80 : 0x7C00", 0, "0x7C00"),
    of("i < params.n_first || ", 0, ""),
    of(" || row.length - i <= params.n_last", 0, ""),
    of("row.length - i <= params.n_last", 0, "row.length - i < params.n_last"),
    of("row.length <= params.n_staged", 0, "true"),
    of("if (lane >= delta) n_through += before;", 0, "n_through += before;"),
    of("n_before >= n_left || n_through < n_left", 0, "n_through < n_left"),
    of("n_before >= n_left || n_through < n_left", 0, "n_before >= n_left"),
    of(
        "n_before + shared.histogram[digit] < n_left",
        0,
        "n_before + shared.histogram[digit] <= n_left",
    ),
    of("(key & decided) == threshold", 0, "true"),
    of(
        "atomicAdd(&shared.histogram[key >> (8 * digit) & 255], 1u)",
        0,
        "shared.histogram[key >> (8 * digit) & 255] += 1",
    ),
    of("i < keys.row.length ? keys[i] : 0", 0, "keys[i]"),
    of("if (other < warp) n_before", 0, "if (other <= warp) n_before"),
    of("equal_before < n_left ? equal_before : n_left", 0, "equal_before"),
    of("is_equal && equal_before < n_left", 0, "is_equal"),
    of("n_above += n_all & 0xFFFF;", 0, ""),
    of("n_equal += n_all >> 16;", 0, ""),
    of("i < row.n_picked ? scores[picks[i]] : Score{0}", 0, "scores[picks[i]]"),
    of("i < row.n_picked ? static_cast", 0, "i <= row.n_picked ? static_cast"),
    of("if (threadIdx.x == 0) params.counts", 0, "params.counts"),
    of("if (blockIdx.x >= params.n_rows) return;", 0, ""),
    of("params.skips != nullptr && params.skips[blockIdx.x] != 0", 0, "false"),
    of("uint64_t{params.k} * sizeof(uint32_t)", 0, "0"),
];

unsafe extern "C" {
    fn lacuna_simt_topk_rows(params: *const c_void, is_checked: u32);
}

/// One row of f32, and the same of bf16.
struct Problem {
    scores: Vec<f32>,
    start: u32,
    length: u32,
    asked: u32,
    k: u32,
    n_first: u32,
    n_last: u32,
    is_skipped: bool,
    is_staged: bool,
}

fn problems() -> Vec<Problem> {
    let values =
        [0.0, -0.0, 1.0, -1.0, 1.5, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -3.5, 0.25];
    let mut state = 1_u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
        (state >> 33) as usize
    };
    let mut few = |n: usize| -> Vec<f32> { (0..n).map(|_| values[next() % 10]).collect() };
    let ties = few(1300);
    let many: Vec<f32> = (0..1300).map(|i| ((i * 7919 % 1300) as f32 - 650.0) * 1.37e3).collect();
    let whole = |scores: &Vec<f32>, k| Problem {
        scores: scores.clone(),
        start: 0,
        length: u32::MAX,
        asked: u32::MAX,
        k,
        n_first: 0,
        n_last: 0,
        is_skipped: false,
        is_staged: true,
    };
    vec![
        whole(&ties, 300),
        whole(&many, 300),
        whole(&vec![f32::NAN; 700], 699),
        whole(&[-0.0, 0.0].repeat(300), 40),
        whole(&many, 1300),
        Problem { n_first: 5, n_last: 7, ..whole(&many, 30) },
        Problem { is_staged: false, ..whole(&ties, 77) },
        Problem { start: 1000, length: 900, ..whole(&many, 400) },
        Problem { start: 5000, ..whole(&many, 3) },
        Problem { length: 20, ..whole(&ties, 64) },
        Problem { asked: 11, ..whole(&ties, 64) },
        Problem { asked: 99, ..whole(&many, 64) },
        Problem { is_skipped: true, ..whole(&many, 64) },
        Problem { n_first: 600, ..whole(&ties, 500) },
    ]
}

const POISON: u32 = 0xA5A5_A5A5;

/// The problem's row, of f32 or bf16, by `entry` under all checks; one block more than there are rows.
fn differs(entry: Entry, problem: &Problem, is_float: bool, schedule: Schedule) -> bool {
    let brains: Vec<half::bf16> =
        problem.scores.iter().map(|score| half::bf16::from_f32(*score)).collect();
    let rule = RowRule {
        start: problem.start as usize,
        length: problem.length as usize,
        k: problem.asked.min(problem.k) as usize,
        n_first: problem.n_first as usize,
        n_last: problem.n_last as usize,
    };
    let picks = if is_float { topk_row(&problem.scores, &rule) } else { topk_row(&brains, &rule) };
    let score_bytes = if is_float { 4 } else { 2 };
    let n = problem.scores.len();
    let k = problem.k as usize;
    // Words of vectors: as aligned as device memory.
    let mut scores = vec![0_u128; (n * score_bytes).div_ceil(16)];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut scores);
    if is_float {
        bytes[..4 * n].copy_from_slice(bytemuck::cast_slice(&problem.scores));
    } else {
        bytes[..2 * n].copy_from_slice(bytemuck::cast_slice(&brains));
    }
    let mut row = [problem.start, problem.length, problem.asked, u32::from(problem.is_skipped)];
    let mut indices = vec![POISON; k];
    let mut values = vec![POISON; (k * score_bytes).div_ceil(4)];
    let mut count = [POISON];
    let address = |pointer: *mut u32| pointer.expose_provenance() as u64;
    let row_address = address(row.as_mut_ptr());
    let params = SelectTopkParams {
        scores: scores.as_mut_ptr().expose_provenance() as u64,
        starts: row_address,
        lengths: row_address + 4,
        counts_asked: row_address + 8,
        skips: row_address + 12,
        indices: address(indices.as_mut_ptr()),
        values: address(values.as_mut_ptr()),
        counts: address(count.as_mut_ptr()),
        row_stride: n as u64,
        n_rows: 1,
        n: n as u32,
        k: problem.k,
        element: if is_float { f32::NUMBER } else { half::bf16::NUMBER },
        n_first: problem.n_first,
        n_last: problem.n_last,
        n_staged: if problem.is_staged { n as u32 } else { 10 },
        reserved: 0,
    };
    let output = if problem.is_skipped { Role::InOut } else { Role::Output };
    let regions = [
        region("scores", Role::Input, params.scores, n * score_bytes),
        region("row", Role::Input, row_address, 16),
        region("indices", output, params.indices, 4 * k),
        region("values", output, params.values, score_bytes * k),
        region("counts", output, params.counts, 4),
    ];
    let n_shared_bytes = 4 * problem.k + params.n_staged * score_bytes as u32;
    // SAFETY: the kernel takes this struct, and every region is memory of this function.
    let passes = unsafe { passes(entry, 2, n_shared_bytes, schedule, &params, &regions) };
    if !passes {
        return true;
    }
    if problem.is_skipped {
        return indices.iter().chain(&count).any(|word| *word != POISON);
    }
    let mut expected = vec![u32::MAX; k];
    let mut expected_values = vec![0_u32; (k * score_bytes).div_ceil(4)];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut expected_values);
    for (place, pick) in picks.iter().enumerate() {
        expected[place] = *pick as u32;
        let source: &[u8] = bytemuck::cast_slice(&scores);
        bytes[place * score_bytes..][..score_bytes]
            .copy_from_slice(&source[pick * score_bytes..][..score_bytes]);
    }
    let n_bytes = k * score_bytes;
    indices != expected
        || count != [picks.len() as u32]
        || bytemuck::cast_slice::<u32, u8>(&values)[..n_bytes]
            != bytemuck::cast_slice::<u32, u8>(&expected_values)[..n_bytes]
}

#[test]
fn every_mutation_of_topk_rows_is_caught() {
    let problems = problems();
    KERNEL.assert_all_caught(lacuna_simt_topk_rows, |entry| {
        problems.iter().any(|problem| {
            [(true, Schedule::InOrder), (false, Schedule::Random)]
                .into_iter()
                .any(|(is_float, schedule)| differs(entry, problem, is_float, schedule))
        })
    });
}
