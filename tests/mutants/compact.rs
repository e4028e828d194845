//! The kernels that compact rows.

use std::ffi::c_void;

use lacuna::bindings::{SelectCompactParams, SelectCountKeptParams, SelectMask};
use lacuna::region::{Region, Role};
use lacuna::select::Listed;
use lacuna::select::reference::{compact_row, invert_row, start_rows};
use lacuna::simt::{Entry, Schedule};

use crate::{Kernel, of, passes, region};

const COUNT: Kernel = Kernel {
    room: "select",
    source: include_str!("../../csrc/select/compact.cu"),
    headers: &[],
    entry: "count_kept",
    mutations: &[
        of("if (blockIdx.x / params.mask.n_chunks >= params.mask.n_rows) return;", 0, ""),
        of("if (chunk.is_skipped) return;", 0, ""),
        of("length < mask.n ? length : mask.n", 0, "length"),
        of("first >= 0 && first + 16", 0, "first + 16"),
        of("first + 16 <= chunk.length", 0, "first < chunk.length"),
        of("element >= 0 && element < chunk.length", 0, "element < chunk.length"),
        of("element >= 0 && element < chunk.length", 0, "element >= 0"),
        of("is_inside && (chunk.row", 0, "(chunk.row"),
        of("(chunk.row[element] != 0) != chunk.is_inverted", 0, "chunk.row[element] != 0"),
        of("chunk.is_inverted ? bits ^ 0xFFFF : bits", 0, "bits"),
        of("chunk.row_idx / mask.rows_per_request", 0, "chunk.row_idx"),
        of(") | bytes;", 0, ");"),
        of("(bytes & 0x7F7F7F7F)", 0, "bytes"),
        of("& 0x01010101", 0, ""),
        of("0x10204080", 0, "0x10200080"),
        // load_word and scan_counts, in the order of the file.
        of("__syncthreads();", 0, ""),
        of("__syncthreads();", 1, ""),
        of("if (lane == 31) shared.n_own", 0, "if (lane == 30) shared.n_own"),
        of("if (threadIdx.x == 0) params.chunk_counts", 0, "params.chunk_counts"),
        of("static_cast<int32_t>(shift);", 0, "0;"),
    ],
};

const COMPACT: Kernel = Kernel {
    room: "select",
    source: include_str!("../../csrc/select/compact.cu"),
    headers: &[],
    entry: "compact_rows",
    mutations: &[
        of("if (blockIdx.x / params.mask.n_chunks >= params.mask.n_rows) return;", 1, ""),
        of("if (!chunk.is_skipped) compact_chunk", 0, "compact_chunk"),
        of("length < mask.n ? length : mask.n", 0, "length"),
        of("(chunk.row[element] != 0) != chunk.is_inverted", 0, "chunk.row[element] != 0"),
        of("chunk.is_inverted ? bits ^ 0xFFFF : bits", 0, "bits"),
        of("chunk.row_idx / mask.rows_per_request", 0, "chunk.row_idx"),
        of("__syncthreads();", 0, ""),
        of("__syncthreads();", 1, ""),
        of("__syncthreads();", 2, ""),
        of("__syncthreads();", 3, ""),
        of("__syncthreads();", 4, ""),
        of("__threadfence();", 0, ""),
        of("__threadfence();", 1, ""),
        of("atomicAdd(params.n_done, 1u) + 1", 0, "(*params.n_done += 1)"),
        of("if (lane >= delta) n_through += before;", 0, "n_through += before;"),
        of("if (other < warp) scan.n_before", 0, "if (other <= warp) scan.n_before"),
        of("if (i < chunk.idx) n_before", 0, "if (i <= chunk.idx) n_before"),
        of("__popc(bits & lanes_before)", 0, "__popc(bits)"),
        of("if (is_kept) shared.kept", 0, "shared.kept"),
        of("element >= 0 && element < static_cast", 0, "element < static_cast"),
        of("&& element < static_cast<int32_t>(params.mask.n)", 0, ""),
        of("offsets != nullptr && element", 0, "element"),
        of("start + place) : -1", 0, "place) : -1"),
        of(
            "start + n_kept < params.capacity ? start + n_kept : params.capacity",
            0,
            "start + n_kept",
        ),
        of("if (i >= start) indices", 0, "indices"),
        of("if (i >= n_all) indices", 0, "indices"),
        of("start / 32 * 32 + threadIdx.x", 0, "start / 32 * 32 + 32 + threadIdx.x"),
        of("n_all / 32 * 32 + chunk.idx * kThreads", 0, "n_all / 32 * 32"),
        of(
            "uint64_t i = first; i < params.capacity",
            0,
            "uint64_t i = first; i <= params.capacity",
        ),
        of("threadIdx.x == 0 && chunk.idx == 0", 0, "threadIdx.x == 0"),
        of("threadIdx.x == 0 && chunk.idx == 0", 0, "chunk.idx == 0"),
        of("params.row_starts != nullptr && chunk.idx", 0, "chunk.idx"),
        of("&& chunk.idx == 0) start_rows", 0, ") start_rows"),
        of("if (shared.is_last_done == 0) return;", 0, ""),
        of("row < n_rows ? params.counts[row] : 0", 0, "params.counts[row]"),
        of("count < params.capacity ? count : params.capacity", 0, "count"),
        of("if (row < n_rows) params.row_starts", 0, "params.row_starts"),
        of("start += scan.n_all;", 0, ""),
        of("*params.n_done = 0;", 0, ""),
        of("params.row_starts[n_rows] = start;", 0, ""),
    ],
};

unsafe extern "C" {
    fn lacuna_simt_count_kept(params: *const c_void, is_checked: u32);
    fn lacuna_simt_compact_rows(params: *const c_void, is_checked: u32);
}

const CHUNK: usize = 16_384;
const POISON: u32 = 0xA5A5_A5A5;

/// Rows `stride` apart in memory from `shift` bytes past a multiple of 16 on.
struct Problem {
    shift: usize,
    n_rows: usize,
    n: usize,
    capacity: usize,
    listed: Listed,
    rows_per_request: usize,
    lengths: Vec<u32>,
    skips: Vec<u32>,
    has_offsets: bool,
    has_starts: bool,
}

fn problems() -> Vec<Problem> {
    let rows = |n_rows, n, shift| Problem {
        shift,
        n_rows,
        n,
        capacity: n,
        listed: Listed::Kept,
        rows_per_request: 1,
        lengths: vec![u32::MAX; n_rows],
        skips: vec![0; n_rows],
        has_offsets: true,
        has_starts: true,
    };
    // Most are caught by the first, which are the quickest.
    vec![
        Problem { skips: vec![0, 1], has_offsets: false, ..rows(2, 40, 0) },
        rows(2, 1200, 0),
        Problem { capacity: 333, lengths: vec![1000, 77, 0], ..rows(3, 1203, 5) },
        Problem {
            listed: Listed::Dropped,
            rows_per_request: 2,
            lengths: vec![999, 640],
            ..rows(3, 1203, 5)
        },
        Problem { listed: Listed::Dropped, ..rows(1, 20_000, 3) },
        Problem { has_starts: false, ..rows(2, 20_000, 3) },
        Problem { capacity: 12_000, ..rows(2, 34_000, 0) },
        Problem { capacity: 1, ..rows(600, 3, 0) },
    ]
}

impl Problem {
    fn n_chunks(&self) -> usize {
        (self.n + 15).div_ceil(CHUNK)
    }

    /// Words of the mask in memory, and the rows' bytes in them.
    fn mask(&self) -> Vec<u128> {
        let mut words = vec![u128::MAX; (self.shift + self.n_rows * self.n).div_ceil(16) + 1];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        let mut state = self.n as u64;
        for byte in &mut bytes[self.shift..][..self.n_rows * self.n] {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
            *byte = if state >> 62 == 0 {
                (state >> 40) as u8 & 0xF0 | 1 << (state >> 33 & 7)
            } else {
                0
            };
        }
        words
    }

    fn kept(&self, mask: &[u128], row: usize) -> Vec<usize> {
        let bytes: &[u8] = bytemuck::cast_slice(mask);
        let length = self.lengths[row / self.rows_per_request] as usize;
        compact_row(&bytes[self.shift + row * self.n..][..self.n], length, self.listed)
    }

    /// Bits and counts of a row's chunks.
    fn chunks(&self, mask: &[u128], row: usize) -> (Vec<u32>, Vec<u32>) {
        let first = mask.as_ptr().addr() + self.shift + row * self.n;
        let mut words = vec![0; self.n_chunks() * CHUNK / 32];
        let mut counts = vec![0; self.n_chunks()];
        for element in self.kept(mask, row) {
            let bit = element + first % 16;
            words[bit / 32] |= 1 << (bit % 32);
            counts[bit / CHUNK] += 1;
        }
        (words, counts)
    }

    fn params(&self, mask: &[u128], regions: &mut Vec<Region>) -> SelectMask {
        let kept = (mask.as_ptr().expose_provenance() + self.shift) as u64;
        let words = |words: &[u32]| words.as_ptr().expose_provenance() as u64;
        let (lengths, skips) = (words(&self.lengths), words(&self.skips));
        regions.push(region("mask", Role::Input, kept, self.n_rows * self.n));
        regions.push(region("lengths", Role::Input, lengths, 4 * self.lengths.len()));
        regions.push(region("skips", Role::Input, skips, 4 * self.n_rows));
        SelectMask {
            kept,
            lengths,
            skips,
            row_stride: self.n as u64,
            n_rows: self.n_rows as u32,
            n: self.n as u32,
            n_chunks: self.n_chunks() as u32,
            rows_per_request: self.rows_per_request as u32,
            lists_dropped: u32::from(self.listed == Listed::Dropped),
            reserved: 0,
        }
    }

    /// One block more than there are chunks.
    fn n_blocks(&self) -> u32 {
        (self.n_rows * self.n_chunks()) as u32 + 1
    }

    fn is_skipped(&self) -> bool {
        self.skips.contains(&1)
    }
}

fn address(words: &mut [u32]) -> u64 {
    words.as_mut_ptr().expose_provenance() as u64
}

fn counts_differently(entry: Entry, problem: &Problem, schedule: Schedule) -> bool {
    let mask = problem.mask();
    let mut words = vec![POISON; problem.n_rows * problem.n_chunks() * CHUNK / 32];
    let mut counts = vec![POISON; problem.n_rows * problem.n_chunks()];
    let mut expected = (Vec::new(), Vec::new());
    for row in 0..problem.n_rows {
        let (mut words, mut counts) = problem.chunks(&mask, row);
        if problem.skips[row] != 0 {
            words.fill(POISON);
            counts.fill(POISON);
        }
        expected.0.extend(words);
        expected.1.extend(counts);
    }
    let mut regions = Vec::new();
    let params = SelectCountKeptParams {
        mask: problem.params(&mask, &mut regions),
        words: address(&mut words),
        chunk_counts: address(&mut counts),
    };
    let role = if problem.is_skipped() { Role::InOut } else { Role::Output };
    regions.push(region("words", role, params.words, 4 * words.len()));
    regions.push(region("counts", role, params.chunk_counts, 4 * counts.len()));
    // SAFETY: the kernel takes this struct, and every region is memory of this function.
    let passes =
        unsafe { passes(entry, [problem.n_blocks(), 512], 0, schedule, &params, &regions) };
    !passes || (words, counts) != expected
}

fn compacts_differently(entry: Entry, problem: &Problem, schedule: Schedule) -> bool {
    let Problem { n_rows, n, capacity, .. } = *problem;
    let mask = problem.mask();
    let (mut words, mut chunk_counts) = (Vec::new(), Vec::new());
    let (mut indices, mut counts, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
    for row in 0..n_rows {
        let of_chunks = problem.chunks(&mask, row);
        words.extend(of_chunks.0);
        chunk_counts.extend(of_chunks.1);
        if problem.skips[row] != 0 {
            indices.extend(vec![POISON; capacity]);
            offsets.extend(vec![POISON; n]);
            counts.push(POISON);
            continue;
        }
        let kept = problem.kept(&mask, row);
        let place = |place| kept.get(place).map_or(u32::MAX, |i: &usize| *i as u32);
        indices.extend((0..capacity).map(place));
        let inverse = invert_row(&kept, n).into_iter();
        offsets.extend(inverse.map(|place| place.map_or(u32::MAX, |place| place as u32)));
        counts.push(kept.len() as u32);
    }
    let all: Vec<_> = counts.iter().map(|count| *count as usize).collect();
    let starts: Vec<_> = start_rows(&all, capacity).iter().map(|start| *start as u32).collect();

    let mut found = [
        vec![POISON; indices.len()],
        vec![POISON; n_rows],
        vec![POISON; if problem.has_offsets { offsets.len() } else { 0 }],
        vec![POISON; if problem.has_starts { n_rows + 1 } else { 0 }],
        vec![0],
    ];
    let mut regions = Vec::new();
    let is_counted = problem.n_chunks() > 1;
    let or_null = |is: bool, address: u64| if is { address } else { 0 };
    let params = SelectCompactParams {
        mask: problem.params(&mask, &mut regions),
        words: or_null(is_counted, address(&mut words)),
        chunk_counts: or_null(is_counted, address(&mut chunk_counts)),
        indices: address(&mut found[0]),
        counts: address(&mut found[1]),
        offsets: or_null(problem.has_offsets, address(&mut found[2])),
        row_starts: or_null(problem.has_starts, address(&mut found[3])),
        n_done: address(&mut found[4]),
        capacity: capacity as u32,
        reserved: 0,
    };
    regions.push(region("words", Role::Input, params.words, 4 * words.len()));
    regions.push(region("chunks", Role::Input, params.chunk_counts, 4 * chunk_counts.len()));
    let role = if problem.is_skipped() { Role::InOut } else { Role::Output };
    for (name, role, address, words) in [
        ("indices", role, params.indices, &found[0]),
        ("counts", role, params.counts, &found[1]),
        ("offsets", role, params.offsets, &found[2]),
        ("starts", Role::Output, params.row_starts, &found[3]),
        ("done", Role::InOut, params.n_done, &found[4]),
    ] {
        regions.push(region(name, role, address, 4 * words.len()));
    }
    // A null pointer names nothing.
    regions.retain(|region| region.address != 0);
    // SAFETY: as above.
    let passes =
        unsafe { passes(entry, [problem.n_blocks(), 512], 0, schedule, &params, &regions) };
    let expected = [
        indices,
        counts,
        if problem.has_offsets { offsets } else { Vec::new() },
        if problem.has_starts { starts } else { Vec::new() },
        vec![0],
    ];
    !passes || found != expected
}

fn assert_all_caught(kernel: &Kernel, own: Entry, differs: fn(Entry, &Problem, Schedule) -> bool) {
    let problems = problems();
    kernel.assert_all_caught(own, |entry| {
        let schedules = [Schedule::InOrder, Schedule::Random];
        problems.iter().any(|problem| schedules.into_iter().any(|s| differs(entry, problem, s)))
    });
}

#[test]
fn every_mutation_of_count_kept_is_caught() {
    assert_all_caught(&COUNT, lacuna_simt_count_kept, counts_differently);
}

#[test]
fn every_mutation_of_compact_rows_is_caught() {
    assert_all_caught(&COMPACT, lacuna_simt_compact_rows, compacts_differently);
}
