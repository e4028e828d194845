//! The kernels that gather and scatter rows of a paged cache.

use std::ffi::c_void;

use half::bf16;
use lacuna::bindings::{LacunaKvView, SelectGatherKvParams, SelectKvRows, SelectScatterKvParams};
use lacuna::kv::{KvLayout, KvLists, KvShape};
use lacuna::launch::Grid;
use lacuna::region::{Region, Role};
use lacuna::select::{Absent, KvRowsPlan, reference};
use lacuna::simt::{Entry, Schedule};

use crate::{Kernel, of, passes_on, region};

const GATHER: Kernel = Kernel {
    room: "select",
    source: concat!(
        include_str!("../../csrc/select/rows.cuh"),
        include_str!("../../csrc/select/gather.cu")
    ),
    headers: &[],
    entry: "gather_kv",
    mutations: &[
        of("if (t >= count_rows(kv, b)) return kNoOffset;", 0, ""),
        of("element == kNoRow ? kNoOffset : element", 0, "element"),
        of("float_bytes(kv.element)", 0, "1"),
        of("row - list * rows.n_indices", 0, "row"),
        of("list - b * kv.n_heads", 0, "list"),
        of("b * rows.request_stride", 0, "0"),
        of("h * rows.head_stride", 0, "0"),
        of("if (team.row >= rows.kv.batch * rows.kv.n_heads * rows.n_indices) return;", 0, ""),
        of("if (params.fills_zeros != 0)", 1, "if (true)"),
        of("if (params.fills_zeros != 0)", 1, "if (false)"),
        of("if (rows.kv.values == nullptr) return;", 0, ""),
        of("if (rows.kv.values == nullptr) return;", 1, ""),
        of("rows.kv.values + from", 0, "rows.kv.keys + from"),
    ],
};

const SCATTER: Kernel = Kernel {
    room: "select",
    source: include_str!("../../csrc/select/scatter.cu"),
    headers: &[],
    entry: "scatter_kv",
    mutations: &[
        of("if (team.row >= rows.kv.batch * rows.kv.n_heads * rows.n_indices) return;", 0, ""),
        of("if (to == kNoOffset) return;", 0, ""),
        of("if (rows.kv.values == nullptr) return;", 0, ""),
        of("params.values + from", 0, "params.keys + from"),
    ],
};

unsafe extern "C" {
    fn lacuna_simt_gather_kv(params: *const c_void, is_checked: u32);
    fn lacuna_simt_scatter_kv(params: *const c_void, is_checked: u32);
}

const N_INDICES: u64 = 13;
const PAGE_TABLE: [i32; 10] = [3, -1, 5, 0, 11, 7, 1, 99, 2, 4];
const LENGTHS: [u32; 2] = [500, 17];

struct Problem {
    plan: KvRowsPlan,
    indices: Vec<i32>,
    keys: Vec<u128>,
    values: Vec<u128>,
    key_rows: Vec<u128>,
    value_rows: Vec<u128>,
    has_values: bool,
}

fn random_words(n_elements: u64, seed: u64) -> Vec<u128> {
    let mut state = seed;
    (0..n_elements / 8)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
            u128::from(state) << 64 | u128::from(state.rotate_left(17))
        })
        .collect()
}

fn elements(words: &[u128]) -> &[bf16] {
    bytemuck::cast_slice(words)
}

impl Problem {
    fn new(lists: KvLists, has_values: bool) -> Self {
        let shape = KvShape {
            batch: 2,
            n_heads: 3,
            row_len: 40,
            n_pages: 12,
            page_size: 4,
            table_stride: 5,
            tokens_per_row: 1,
            page_stride: 0,
            token_stride: 0,
            head_stride: 0,
        };
        let layout = KvLayout::new(shape.nhd()).unwrap();
        let plan = KvRowsPlan::new(layout, N_INDICES, lists).unwrap();
        let n_lists = plan.indices_len() / N_INDICES;
        let indices = (0..n_lists)
            .flat_map(|list| (0..N_INDICES).map(move |i| ((i * 5 + list) % 23) as i32 - 1))
            .collect();
        Self {
            plan,
            indices,
            keys: random_words(layout.pool_len(), 1),
            values: random_words(layout.pool_len(), 2),
            key_rows: random_words(plan.rows_len(), 3),
            value_rows: random_words(plan.rows_len(), 4),
            has_values,
        }
    }

    fn params(
        &self,
        pools: [*const u128; 2],
        role: Role,
        regions: &mut Vec<Region>,
    ) -> SelectKvRows {
        let shape = self.plan.layout().shape();
        let mut add = |name, role, address: usize, n_bytes| {
            if address == 0 {
                return 0;
            }
            regions.push(region(name, role, address as u64, n_bytes));
            address as u64
        };
        let [keys, values] = pools.map(|pool| pool.expose_provenance());
        let values = if self.has_values { values } else { 0 };
        let n_bytes = 16 * self.keys.len();
        let kv = LacunaKvView {
            keys: add("keys", role, keys, n_bytes),
            values: add("values", role, values, n_bytes),
            page_table: add("pages", Role::Input, PAGE_TABLE.as_ptr().expose_provenance(), 40),
            lengths: add("lengths", Role::Input, LENGTHS.as_ptr().expose_provenance(), 8),
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
        };
        let indices = self.indices.as_ptr().expose_provenance();
        let is_per_head = self.plan.lists() == KvLists::PerHead;
        SelectKvRows {
            kv,
            indices: add("indices", Role::Input, indices, 4 * self.indices.len()),
            request_stride: if is_per_head { 3 * N_INDICES } else { N_INDICES },
            head_stride: if is_per_head { N_INDICES } else { 0 },
            n_indices: N_INDICES as u32,
            row_bytes: 80,
            unit_bytes: 16,
            lane_bits: 3,
        }
    }

    /// One block more than there are rows for.
    fn size(&self) -> Grid {
        let blocks = [(6 * N_INDICES as u32 * 8).div_ceil(128) + 1, 1, 1];
        Grid { blocks, threads: [128, 1, 1], dynamic_shared_bytes: 0, cluster_blocks: 1 }
    }

    fn gathers_differently(&self, entry: Entry, schedule: Schedule, absent: Absent) -> bool {
        let expected = |pool: &[u128], rows: &[u128]| {
            let mut rows = elements(rows).to_vec();
            let pool = elements(pool);
            reference::gather_kv(
                &self.plan,
                &PAGE_TABLE,
                &LENGTHS,
                pool,
                &self.indices,
                absent,
                &mut rows,
            );
            rows
        };
        let (mut keys, mut values) = (self.key_rows.clone(), self.value_rows.clone());
        let mut regions = Vec::new();
        let params = SelectGatherKvParams {
            rows: self.params(
                [self.keys.as_ptr(), self.values.as_ptr()],
                Role::Input,
                &mut regions,
            ),
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            fills_zeros: u32::from(absent == Absent::Zeros),
            reserved: 0,
        };
        regions.push(region("key rows", Role::InOut, params.keys, 16 * keys.len()));
        regions.push(region("value rows", Role::InOut, params.values, 16 * values.len()));
        // SAFETY: the kernel takes this struct, and every region is memory of this function.
        let passes = unsafe { passes_on(entry, &self.size(), schedule, &params, &regions) };
        let expected_values = match self.has_values {
            true => expected(&self.values, &self.value_rows),
            false => elements(&self.value_rows).to_vec(),
        };
        !passes
            || bits(elements(&keys)) != bits(&expected(&self.keys, &self.key_rows))
            || bits(elements(&values)) != bits(&expected_values)
    }

    fn scatters_differently(&self, entry: Entry, schedule: Schedule) -> bool {
        let expected = |pool: &[u128], rows: &[u128]| {
            let mut pool = elements(pool).to_vec();
            let rows = elements(rows);
            reference::scatter_kv(
                &self.plan,
                &PAGE_TABLE,
                &LENGTHS,
                rows,
                &self.indices,
                &mut pool,
            );
            pool
        };
        let (mut keys, mut values) = (self.keys.clone(), self.values.clone());
        let pools = [keys.as_mut_ptr().cast_const(), values.as_mut_ptr().cast_const()];
        let mut regions = Vec::new();
        let params = SelectScatterKvParams {
            rows: self.params(pools, Role::InOut, &mut regions),
            keys: self.key_rows.as_ptr().expose_provenance() as u64,
            values: self.value_rows.as_ptr().expose_provenance() as u64,
        };
        regions.push(region("key rows", Role::Input, params.keys, 16 * self.key_rows.len()));
        regions.push(region("value rows", Role::Input, params.values, 16 * self.value_rows.len()));
        // SAFETY: as above.
        let passes = unsafe { passes_on(entry, &self.size(), schedule, &params, &regions) };
        let expected_values = match self.has_values {
            true => expected(&self.values, &self.value_rows),
            false => elements(&self.values).to_vec(),
        };
        !passes
            || bits(elements(&keys)) != bits(&expected(&self.keys, &self.key_rows))
            || bits(elements(&values)) != bits(&expected_values)
    }
}

fn bits(values: &[bf16]) -> Vec<u16> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn problems() -> [Problem; 3] {
    [
        Problem::new(KvLists::PerHead, true),
        Problem::new(KvLists::PerRequest, true),
        Problem::new(KvLists::PerHead, false),
    ]
}

#[test]
fn every_mutation_of_gather_kv_is_caught() {
    let problems = problems();
    GATHER.assert_all_caught(lacuna_simt_gather_kv, |entry| {
        problems.iter().any(|problem| {
            problem.gathers_differently(entry, Schedule::InOrder, Absent::Zeros)
                || problem.gathers_differently(entry, Schedule::Random, Absent::Kept)
        })
    });
}

#[test]
fn every_mutation_of_scatter_kv_is_caught() {
    let problems = problems();
    SCATTER.assert_all_caught(lacuna_simt_scatter_kv, |entry| {
        let schedules = [Schedule::InOrder, Schedule::Random];
        problems.iter().any(|p| schedules.into_iter().any(|s| p.scatters_differently(entry, s)))
    });
}
