//! The kernels that merge evicted tokens.

use std::ffi::c_void;

use half::bf16;
use lacuna::bindings::{
    LacunaKvView, SelectEviction, SelectMergeParams, SelectNearestParams, SelectThresholdParams,
};
use lacuna::kv::{KvLayout, KvShape};
use lacuna::launch::Grid;
use lacuna::region::{Region, Role};
use lacuna::select::reference::{self, Pages};
use lacuna::select::{MergePlan, MergeWeights};
use lacuna::simt::{Entry, Schedule};

use crate::{Kernel, of, passes_on, region};

const SOURCE: &str = include_str!("../../csrc/select/merge.cu");

const NEAREST: Kernel = Kernel {
    room: "select",
    source: SOURCE,
    headers: &[],
    entry: "nearest_kept",
    mutations: &[
        of("if (t >= count_rows(kv, b)) return kNoRow;", 0, ""),
        of("list - b * kv.n_heads", 0, "list"),
        of(
            "if (64 * j + 8 * (threadIdx.x % kDotLanes) >= row_len) continue;",
            0,
            "if (j > 0) continue;",
        ),
        of("__fsqrt_rn(add_over_lanes(sum))", 0, "add_over_lanes(sum)"),
        of("element != kNoRow && column < kv.row_len", 0, "column < kv.row_len"),
        of("element != kNoRow && column < kv.row_len", 0, "element != kNoRow"),
        of("if (!(cosine == cosine)) return 0.0f;", 0, ""),
        of("cosine > 1.0f ? 1.0f : ", 0, ""),
        of("cosine < -1.0f ? -1.0f : cosine", 0, "cosine"),
        of("if (list >= kv.batch * kv.n_heads) return;", 0, ""),
        of("if (place < lists.n_evicted) element", 0, "element"),
        of("if (team < n_left) other", 0, "other"),
        of("other != kNoRow ? other_norm : kAbsent", 0, "other_norm"),
        of("if (row_norm == kAbsent) continue;", 0, ""),
        of("__syncthreads();", 0, ""),
        of("__syncthreads();", 1, ""),
        of("if (64 * j + 8 * lane >= kv.row_len) continue;", 0, "if (j > 0) continue;"),
        of("nearest < 0 || cosine > nearness", 0, "nearest < 0 || cosine >= nearness"),
        of("nearest < 0 || cosine > nearness", 0, "cosine > nearness"),
        of("place >= lists.n_evicted || lane != 0", 0, "lane != 0"),
        of("place >= lists.n_evicted || lane != 0", 0, "place >= lists.n_evicted"),
        of("element != kNoRow ? nearest : -1", 0, "nearest"),
    ],
};

const THRESHOLD: Kernel = Kernel {
    room: "select",
    source: SOURCE,
    headers: &[],
    entry: "update_thresholds",
    mutations: &[
        of("if (blockIdx.x >= params.n_lists) return;", 0, ""),
        of("if (threadIdx.x == 0) shared = {0, 0};", 0, ""),
        of("__syncthreads();", 2, ""),
        of("__syncthreads();", 3, ""),
        of("if (params.nearest[first + i] < 0) continue;", 0, ""),
        of("is_negative ? -similarity : similarity", 0, "similarity"),
        of("is_negative ? 0 - parts : parts", 0, "parts"),
        of("atomicAdd(&shared.sum, sum)", 0, "shared.sum += sum"),
        of("atomicAdd(&shared.n, n)", 0, "shared.n += n"),
        of("threadIdx.x != 0 || shared.n == 0", 0, "threadIdx.x != 0"),
        of("threadIdx.x != 0 || shared.n == 0", 0, "shared.n == 0"),
        of("is_negative ? 0 - shared.sum : shared.sum", 0, "shared.sum"),
        of("is_negative ? -size : size", 0, "size"),
        of("old == old ?", 0, "true ?"),
        of("old == old ?", 0, "false ?"),
    ],
};

const MERGE: Kernel = Kernel {
    room: "select",
    source: SOURCE,
    headers: &[],
    entry: "merge_rows",
    mutations: &[
        of("if (t >= count_rows(kv, b)) return kNoRow;", 0, ""),
        of("if (place >= params.lists.n_evicted) return kNone;", 0, ""),
        of("if (!(params.similarities[start + place] >= threshold)) return kNone;", 0, ""),
        of(">= threshold", 0, "> threshold"),
        of("if (weights != kSoftmax) return similarity;", 0, ""),
        of("if (weights != kSoftmax) return similarity;", 0, "return similarity;"),
        of("__fsub_rn(similarity, 1.0f)", 0, "similarity"),
        of("if (list >= kv.batch * kv.n_heads) return;", 1, ""),
        of("row < kTile && row < n_left", 0, "row < kTile"),
        of("if (target == kNoRow) continue;", 0, ""),
        of("if (source == kNoRow) return;", 0, ""),
        of("if (!is_merged && is_column) {", 0, "if (is_column) {"),
        of("if (!is_merged && is_column) {", 0, "if (!is_merged) {"),
        of("if (is_column) add_row", 0, "add_row"),
        of("float total = 1.0f;", 0, "float total = 0.0f;"),
        of("params.weights == kSoftmax ? weight : 1.0f", 0, "weight"),
        of("is_merged && is_column", 0, "is_merged"),
        of("is_merged && is_column", 0, "is_column"),
        of("if (kv.values == nullptr) continue;", 0, ""),
        of("merge_row(params, kv.values", 0, "merge_row(params, kv.keys"),
        of("__fdiv_rn(sums[2 * i + j], weight)", 0, "sums[2 * i + j]"),
    ],
};

unsafe extern "C" {
    fn lacuna_simt_nearest_kept(params: *const c_void, is_checked: u32);
    fn lacuna_simt_update_thresholds(params: *const c_void, is_checked: u32);
    fn lacuna_simt_merge_rows(params: *const c_void, is_checked: u32);
}

const SCHEDULES: [Schedule; 2] = [Schedule::InOrder, Schedule::Random];
const PAGE_TABLE: [i32; 24] =
    [3, -1, 5, 0, 11, 7, 1, 99, 2, 4, 6, 8, 9, 10, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21];
const LENGTHS: [u32; 2] = [45, 9999];

#[derive(Clone)]
struct Problem {
    plan: MergePlan,
    evicted: Vec<i32>,
    kept: Vec<i32>,
    keys: Vec<bf16>,
    values: Vec<bf16>,
    nearest: Vec<Option<(usize, f32)>>,
    thresholds: Vec<f32>,
    has_values: bool,
    weights: MergeWeights,
}

impl Problem {
    fn new(row_len: u64, [n_evicted, n_kept]: [u64; 2], value: fn(u64) -> f32) -> Self {
        let shape = KvShape {
            batch: 2,
            n_heads: 2,
            row_len,
            n_pages: 22,
            page_size: 4,
            table_stride: 12,
            tokens_per_row: 1,
            page_stride: 0,
            token_stride: 0,
            head_stride: 0,
        };
        let layout = KvLayout::new(shape.hnd()).unwrap();
        let plan = MergePlan::new(layout, n_evicted, n_kept).unwrap();
        let mut state = row_len;
        let mut pool = || -> Vec<bf16> {
            let next = |_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
                bf16::from_f32(value(state >> 33))
            };
            (0..layout.pool_len()).map(next).collect()
        };
        let (keys, values) = (pool(), pool());
        // Every token in one list; of the first request, more than it has.
        let token = |list: u64, i: u64| ((i * 5 + list) % 49) as i32 - 1;
        let lists = 0..plan.n_lists();
        let evicted: Vec<_> =
            lists.clone().flat_map(|l| (0..n_evicted).map(move |i| token(l, i))).collect();
        let kept: Vec<_> =
            lists.flat_map(|l| (0..n_kept).map(move |i| token(l, n_evicted + i))).collect();
        let pages = Pages { page_table: &PAGE_TABLE, lengths: &LENGTHS };
        let nearest = reference::nearest_kept(&plan, pages, &keys, &evicted, &kept);
        Self {
            plan,
            evicted,
            kept,
            keys,
            values,
            nearest,
            // What the nearest of the first has is at it, not above.
            thresholds: vec![0.3, -0.5, f32::NAN, -0.9],
            has_values: true,
            weights: MergeWeights::Softmax,
        }
    }

    /// All keys in one direction or against it, and of the first tokens kept some none.
    fn mirrored(mut self) -> Self {
        let n = self.plan.layout().shape().row_len as usize;
        let base = self.keys[..n].to_vec();
        for (i, row) in self.keys.chunks_mut(n).enumerate() {
            let sign = if i % 3 == 0 { bf16::ONE } else { bf16::NEG_ONE };
            row.iter_mut().zip(&base).for_each(|(value, base)| *value = *base * sign);
        }
        for kept in self.kept.chunks_mut(self.plan.n_kept() as usize).skip(1) {
            kept[0] = -1;
        }
        let pages = Pages { page_table: &PAGE_TABLE, lengths: &LENGTHS };
        self.nearest =
            reference::nearest_kept(&self.plan, pages, &self.keys, &self.evicted, &self.kept);
        self
    }

    fn params(&self, pools: [u64; 2], role: Role, regions: &mut Vec<Region>) -> SelectEviction {
        let shape = self.plan.layout().shape();
        let ints = |list: &[i32]| (list.as_ptr().expose_provenance() as u64, 4 * list.len());
        let n_pool = 2 * self.keys.len();
        let lists = [ints(&self.evicted), ints(&self.kept), ints(&PAGE_TABLE)];
        let lengths = (LENGTHS.as_ptr().expose_provenance() as u64, 8);
        regions.push(region("keys", role, pools[0], n_pool));
        if pools[1] != 0 {
            regions.push(region("values", role, pools[1], n_pool));
        }
        for (address, n_bytes) in lists.into_iter().chain([lengths]) {
            regions.push(region("lists", Role::Input, address, n_bytes));
        }
        SelectEviction {
            kv: LacunaKvView {
                keys: pools[0],
                values: pools[1],
                page_table: lists[2].0,
                lengths: lengths.0,
                page_stride: shape.page_stride,
                token_stride: shape.token_stride,
                head_stride: shape.head_stride,
                table_stride: shape.table_stride,
                page_multiplier: (1_u64 << 34).div_ceil(shape.page_size),
                n_pages: shape.n_pages as u32,
                page_size: shape.page_size as u32,
                n_rows: self.plan.layout().n_rows() as u32,
                tokens_per_row: 1,
                batch: shape.batch as u32,
                n_heads: shape.n_heads as u32,
                row_len: shape.row_len as u32,
                element: 0,
                key_scale: 1.0,
                value_scale: 1.0,
            },
            evicted: lists[0].0,
            kept: lists[1].0,
            n_evicted: self.plan.n_evicted() as u32,
            n_kept: self.plan.n_kept() as u32,
        }
    }

    fn near(&self) -> (Vec<i32>, Vec<f32>) {
        let near = self.nearest.iter();
        near.map(|near| near.map_or((-1, 0.0), |(place, s)| (place as i32, s))).unzip()
    }

    fn finds_differently(&self, entry: Entry, schedule: Schedule) -> bool {
        let n = self.nearest.len();
        let (mut nearest, mut similarities) = (vec![-7; n], vec![7.0_f32; n]);
        let keys = aligned(&self.keys);
        let mut regions = Vec::new();
        let pools = [keys.as_ptr().expose_provenance() as u64, 0];
        let params = SelectNearestParams {
            lists: self.params(pools, Role::Input, &mut regions),
            nearest: nearest.as_mut_ptr().expose_provenance() as u64,
            similarities: similarities.as_mut_ptr().expose_provenance() as u64,
        };
        regions.push(region("nearest", Role::Output, params.nearest, 4 * n));
        regions.push(region("similarities", Role::Output, params.similarities, 4 * n));
        let n_blocks = self.plan.n_lists() * self.plan.n_evicted().div_ceil(32);
        // SAFETY: the kernel takes this struct, and every region is memory of this function.
        let passes = unsafe { passes_on(entry, &grid(n_blocks, 256), schedule, &params, &regions) };
        let expected = self.near();
        !passes || nearest != expected.0 || bits(&similarities) != bits(&expected.1)
    }

    fn averages_differently(&self, entry: Entry, schedule: Schedule) -> bool {
        let n_evicted = self.plan.n_evicted() as usize;
        let (nearest, mut similarities) = self.near();
        // Of none, what nobody adds; of one head, none at all.
        let mut nearest = nearest;
        nearest[3 * n_evicted..].fill(-1);
        for (near, similarity) in nearest.iter().zip(&mut similarities) {
            *similarity = if *near < 0 { 0.75 } else { *similarity - 0.5 };
        }
        let mut expected = self.thresholds.clone();
        for (list, threshold) in expected.iter_mut().enumerate() {
            let own = list * n_evicted..(list + 1) * n_evicted;
            let given = nearest[own.clone()].iter().zip(&similarities[own]);
            let given: Vec<_> = given.filter(|(near, _)| **near >= 0).map(|(_, s)| *s).collect();
            *threshold = reference::update_threshold(*threshold, &given, 0.25);
        }
        let mut thresholds = self.thresholds.clone();
        let n = nearest.len();
        let params = SelectThresholdParams {
            nearest: nearest.as_ptr().expose_provenance() as u64,
            similarities: similarities.as_ptr().expose_provenance() as u64,
            thresholds: thresholds.as_mut_ptr().expose_provenance() as u64,
            n_lists: 4,
            n_evicted: n_evicted as u32,
            decay: 0.25,
            rest: 0.75,
        };
        let regions = [
            region("nearest", Role::Input, params.nearest, 4 * n),
            region("similarities", Role::Input, params.similarities, 4 * n),
            region("thresholds", Role::InOut, params.thresholds, 16),
        ];
        // SAFETY: as above.
        let passes = unsafe { passes_on(entry, &grid(4, 256), schedule, &params, &regions) };
        !passes || bits(&thresholds) != bits(&expected)
    }

    fn merges_differently(&self, entry: Entry, schedule: Schedule) -> bool {
        // Some that no launch finds: of tokens that are none, and near to those.
        let near = |(i, near): (usize, &Option<(usize, f32)>)| {
            near.or(Some((i % self.plan.n_kept() as usize, 0.9)))
        };
        let near = self.nearest.iter().enumerate().map(near).collect();
        let tampered = Self { nearest: near, ..self.clone() };
        let (nearest, similarities) = tampered.near();
        let mut thresholds = self.thresholds.clone();
        // One is at its head's threshold.
        let n_evicted = self.plan.n_evicted() as usize;
        let first = similarities[..n_evicted].iter().copied();
        thresholds[0] = first.filter(|s| *s > 0.0).fold(1.0, f32::min);
        let pages = Pages { page_table: &PAGE_TABLE, lengths: &LENGTHS };
        let expected = |pool: &[bf16]| {
            let mut pool = pool.to_vec();
            let lists = [&self.evicted[..], &self.kept[..]];
            reference::merge_rows(
                &self.plan,
                pages,
                &mut pool,
                lists,
                &tampered.nearest,
                &thresholds,
                self.weights,
            );
            halves(&pool)
        };
        let (mut keys, mut values) = (aligned(&self.keys), aligned(&self.values));
        let values_address = values.as_mut_ptr().expose_provenance() as u64;
        let pools = [
            keys.as_mut_ptr().expose_provenance() as u64,
            if self.has_values { values_address } else { 0 },
        ];
        let mut regions = Vec::new();
        let n = nearest.len();
        let params = SelectMergeParams {
            lists: self.params(pools, Role::InOut, &mut regions),
            nearest: nearest.as_ptr().expose_provenance() as u64,
            similarities: similarities.as_ptr().expose_provenance() as u64,
            thresholds: thresholds.as_ptr().expose_provenance() as u64,
            weights: u32::from(self.weights == MergeWeights::Released),
            reserved: 0,
        };
        regions.push(region("nearest", Role::Input, params.nearest, 4 * n));
        regions.push(region("similarities", Role::Input, params.similarities, 4 * n));
        regions.push(region("thresholds", Role::Input, params.thresholds, 16));
        let n_blocks = self.plan.n_lists() * self.plan.n_kept().div_ceil(32);
        // SAFETY: as above.
        let passes = unsafe { passes_on(entry, &grid(n_blocks, 512), schedule, &params, &regions) };
        let unmerged = halves(&self.values);
        let expected_values = if self.has_values { expected(&self.values) } else { unmerged };
        let now = |words: &[u128]| {
            let all: &[u16] = bytemuck::cast_slice(words);
            all[..self.keys.len()].to_vec()
        };
        !passes || now(&keys) != expected(&self.keys) || now(&values) != expected_values
    }
}

/// One block more than there is work for.
fn grid(n_blocks: u64, n_threads: u32) -> Grid {
    let blocks = [n_blocks as u32 + 1, 1, 1];
    Grid { blocks, threads: [n_threads, 1, 1], dynamic_shared_bytes: 0, cluster_blocks: 1 }
}

fn aligned(values: &[bf16]) -> Vec<u128> {
    let mut words = vec![0_u128; values.len().div_ceil(8)];
    bytemuck::cast_slice_mut(&mut words)[..values.len()].copy_from_slice(values);
    words
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn halves(values: &[bf16]) -> Vec<u16> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn problems() -> Vec<Problem> {
    let few = |bits: u64| (bits % 3) as f32 - 1.0;
    let any = |bits: u64| (bits % 1999) as f32 * 1e-3 - 1.0;
    let wild = |bits: u64| if bits.is_multiple_of(40) { f32::NAN } else { -0.3 };
    vec![
        Problem::new(136, [33, 15], any),
        Problem { weights: MergeWeights::Released, ..Problem::new(8, [10, 35], few) },
        Problem { has_values: false, ..Problem::new(72, [20, 20], any) },
        // Cosines that round past 1 and -1, and ties.
        Problem::new(56, [20, 20], any).mirrored(),
        Problem::new(40, [20, 1], any).mirrored(),
        Problem::new(24, [20, 2], any).mirrored(),
        Problem::new(104, [20, 2], any).mirrored(),
        Problem::new(48, [20, 3], any).mirrored(),
        Problem::new(16, [20, 20], wild),
    ]
}

fn assert_all_caught(kernel: &Kernel, own: Entry, differs: fn(&Problem, Entry, Schedule) -> bool) {
    let problems = problems();
    kernel.assert_all_caught(own, |entry| {
        problems.iter().any(|problem| SCHEDULES.into_iter().any(|s| differs(problem, entry, s)))
    });
}

#[test]
fn every_mutation_of_nearest_kept_is_caught() {
    assert_all_caught(&NEAREST, lacuna_simt_nearest_kept, Problem::finds_differently);
}

#[test]
fn every_mutation_of_update_thresholds_is_caught() {
    assert_all_caught(&THRESHOLD, lacuna_simt_update_thresholds, Problem::averages_differently);
}

#[test]
fn every_mutation_of_merge_rows_is_caught() {
    assert_all_caught(&MERGE, lacuna_simt_merge_rows, Problem::merges_differently);
}
