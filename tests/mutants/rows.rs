//! The kernels that gather, scatter and add rows.

use std::ffi::c_void;

use half::bf16;
use lacuna::bindings::{
    SelectGatherParams, SelectMarkParams, SelectRows, SelectScatterAddParams, SelectScatterParams,
};
use lacuna::launch::Grid;
use lacuna::region::{Region, Role};
use lacuna::select::{Absent, RowStrides, RowsPlan, RowsShape, Score, reference};
use lacuna::simt::{Entry, Schedule};

use crate::{Kernel, of, passes_on, region};

const GATHER: Kernel = Kernel {
    room: "select",
    source: concat!(
        include_str!("../../csrc/select/rows.cuh"),
        include_str!("../../csrc/select/gather.cu")
    ),
    headers: &[],
    entry: "gather_rows",
    mutations: &[
        of("i + 3 * step < n_units", 0, "i < n_units"),
        of("to[i] = first;", 0, ""),
        of("to[i + step] = second;", 0, ""),
        of("to[i + 2 * step] = third;", 0, ""),
        of("to[i + 3 * step] = fourth;", 0, ""),
        of("for (; i < n_units; i += step) to[i] = from[i];", 0, ""),
        of("for (; i < n_units; i += step)", 0, "for (; i <= n_units; i += step)"),
        of("if (unit_bytes == 16)", 0, "if (true)"),
        of("if (unit_bytes == 8)", 0, "if (true)"),
        of("if (unit_bytes == 4)", 0, "if (true)"),
        of("if (unit_bytes == 2)", 0, "if (true)"),
        of("if (unit_bytes == 16)", 1, "if (true)"),
        of("if (unit_bytes == 8)", 1, "if (true)"),
        of("if (unit_bytes == 4)", 1, "if (true)"),
        of("if (unit_bytes == 2)", 1, "if (true)"),
        of("i < n_bytes / sizeof(Unit)", 0, "i <= n_bytes / sizeof(Unit)"),
        of("threadIdx.x & (team.n_lanes - 1)", 0, "threadIdx.x"),
        of("entry.table_row < rows.n_table_rows", 0, "true"),
        of("entry.list * rows.table_list_stride", 0, "0"),
        of("entry.list * rows.list_stride", 0, "0"),
        of("entry.list * rows.index_stride", 0, "0"),
        of("row - entry.list * rows.n_indices", 0, "row"),
        of("if (team.row >= rows.n_lists * rows.n_indices) return;", 0, ""),
        of("if (params.fills_zeros != 0)", 0, "if (true)"),
        of("if (params.fills_zeros != 0)", 0, "if (false)"),
    ],
};

const SCATTER_SOURCE: &str = include_str!("../../csrc/select/scatter.cu");

const MARK: Kernel = Kernel {
    room: "select",
    source: SCATTER_SOURCE,
    headers: &[],
    entry: "mark_rows",
    mutations: &[
        of("if (row >= rows.n_lists * rows.n_indices) return;", 0, ""),
        of("if (entry.table_offset == kNoOffset) return;", 0, ""),
        of(
            "atomicMax(params.last + table_row, entry.place + 1)",
            0,
            "params.last[table_row] = max(params.last[table_row], entry.place + 1)",
        ),
        of("atomicMax", 0, "atomicMin"),
        of("atomicMax", 0, "atomicExch"),
        of("uint64_t{entry.list} * rows.n_table_rows", 0, "0"),
    ],
};

const SCATTER: Kernel = Kernel {
    room: "select",
    source: SCATTER_SOURCE,
    headers: &[],
    entry: "scatter_rows",
    mutations: &[
        of("team.row < rows.n_lists * rows.n_indices", 0, "true"),
        of("entry.table_offset != kNoOffset ? 1 : 0", 0, "1"),
        of("if (params.last != nullptr)", 0, "if (true)"),
        of("if (params.last != nullptr)", 0, "if (false)"),
        of("is_taken != 0 && team.lane == 0", 0, "team.lane == 0"),
        of("is_taken != 0 && team.lane == 0", 0, "is_taken != 0"),
        of("uint64_t{entry.list} * rows.n_table_rows", 1, "0"),
        of("atomicCAS(last, entry.place + 1, 0u)", 0, "(*last)"),
        of("atomicCAS(last, entry.place + 1, 0u)", 0, "atomicExch(last, 0u)"),
        of("__shfl_sync(0xFFFFFFFFu, is_taken, 0, static_cast<int>(team.n_lanes))", 0, "is_taken"),
        of("static_cast<int>(team.n_lanes)", 0, "32"),
        of("if (is_taken == 0) return;", 0, ""),
    ],
};

const ADD: Kernel = Kernel {
    room: "select",
    source: concat!(
        include_str!("../../csrc/select/tiles.cuh"),
        include_str!("../../csrc/select/scatter_add.cu")
    ),
    headers: &[],
    entry: "scatter_add_rows",
    mutations: &[
        of("__syncthreads();", 0, ""),
        of("__syncthreads();", 1, ""),
        of("if (tile.list >= params.rows.n_lists) return;", 0, ""),
        of("list * rows.index_stride", 0, "0"),
        of("list * rows.list_stride", 0, "0"),
        of("list * rows.table_list_stride", 0, "0"),
        of("uint64_t{list} * rows.n_indices", 0, "0"),
        of("params.weights != nullptr ?", 0, "true ?"),
        of("place < n_indices ? static_cast", 0, "true ? static_cast"),
        of("__ballot_sync(kAllLanes, tile_row < kTile)", 0, "__ballot_sync(kAllLanes, true)"),
        of("__popc(found & lanes_before)", 0, "0"),
        of("if (other < warp) at += n_own;", 0, "if (other <= warp) at += n_own;"),
        of("tile_row < kTile && at < kFound", 0, "tile_row < kTile"),
        of("tile_row < kTile && at < kFound", 0, "at < kFound"),
        of("n_found <= kFound", 0, "true"),
        of("is_remembered ? n_found : n", 0, "n_found"),
        of("place < n_found", 0, "true"),
        of("goes_to == tile_row", 0, "goes_to < kTile"),
        of("__ffs(found) - 1", 0, "31 - __clz(found)"),
        of("if (!is_column) return;", 0, ""),
        of("if (!is_begun) load_elements", 0, "load_elements"),
        of("is_begun = true;", 0, ""),
        of("if (is_begun) store_elements", 0, "if (is_column) store_elements"),
        of(
            "__fmaf_rn(weight, values[i], sums[i])",
            0,
            "__fadd_rn(__fmul_rn(weight, values[i]), sums[i])",
        ),
        of("canonical(values[0])", 0, "values[0]"),
        of("row < kTile && row < n_left", 0, "row < kTile"),
        of("params.rows.unit_bytes != 16", 0, "false"),
        of("params.element == kFloatF32", 0, "true"),
    ],
};

unsafe extern "C" {
    fn lacuna_simt_gather_rows(params: *const c_void, is_checked: u32);
    fn lacuna_simt_mark_rows(params: *const c_void, is_checked: u32);
    fn lacuna_simt_scatter_rows(params: *const c_void, is_checked: u32);
    fn lacuna_simt_scatter_add_rows(params: *const c_void, is_checked: u32);
}

/// Elements of a type, as aligned as device memory, `shift` elements in.
struct Memory<T> {
    words: Vec<u128>,
    shift: usize,
    values: Vec<T>,
}

impl<T: bytemuck::Pod> Memory<T> {
    fn new(values: &[T], shift: usize) -> Self {
        let mut words = vec![0; ((shift + values.len()) * size_of::<T>()).div_ceil(16) + 1];
        bytemuck::cast_slice_mut::<u128, T>(&mut words)[shift..][..values.len()]
            .copy_from_slice(values);
        Self { words, shift, values: values.to_vec() }
    }

    fn address(&mut self) -> u64 {
        (self.words.as_mut_ptr().expose_provenance() + self.shift * size_of::<T>()) as u64
    }

    fn n_bytes(&self) -> usize {
        self.values.len() * size_of::<T>()
    }

    fn is(&self, expected: &[T]) -> bool {
        let now = &bytemuck::cast_slice::<u128, T>(&self.words)[self.shift..][..expected.len()];
        bytemuck::cast_slice::<T, u8>(now) == bytemuck::cast_slice::<T, u8>(expected)
    }
}

struct Problem<T> {
    shape: RowsShape,
    unit_bytes: u32,
    lane_bits: u32,
    shift: usize,
    indices: Vec<i32>,
    table: Vec<T>,
    list: Vec<T>,
}

impl<T: lacuna::Element + Default> Problem<T> {
    /// Two lists of rows of `row_len`; where `unit` is small, of odd strides too.
    fn new(n_indices: u64, row_len: u64, unit_bytes: u32, value: impl Fn(u64) -> T) -> Self {
        let element_bytes = size_of::<T>() as u32;
        let gap = u64::from(unit_bytes / element_bytes).max(1);
        let n_table_rows = 45;
        let strides =
            |n_rows: u64| RowStrides { list: n_rows * (row_len + gap) + gap, row: row_len + gap };
        let shape = RowsShape {
            n_lists: 2,
            n_indices,
            index_stride: n_indices + 1,
            n_table_rows,
            row_len,
            table: strides(n_table_rows),
            list: strides(n_indices),
            element_bytes,
        };
        let plan = RowsPlan::new(shape).unwrap();
        let mut state = row_len;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
            state >> 33
        };
        let indices = (0..plan.indices_len())
            .map(|_| match random() % 6 {
                0 => -1,
                1 => n_table_rows as i32,
                _ => (random() % n_table_rows) as i32,
            })
            .collect();
        let table = (0..plan.table_len()).map(|_| value(random())).collect();
        let list = (0..plan.list_len()).map(|_| value(random())).collect();
        let n_units = row_len * u64::from(element_bytes) / u64::from(unit_bytes);
        Self {
            shape,
            unit_bytes,
            lane_bits: n_units.clamp(1, 32).next_power_of_two().trailing_zeros(),
            shift: (unit_bytes / element_bytes) as usize,
            indices,
            table,
            list,
        }
    }

    fn params(&self, regions: &mut Vec<Region>) -> SelectRows {
        let indices = self.indices.as_ptr().expose_provenance() as u64;
        regions.push(region("indices", Role::Input, indices, 4 * self.indices.len()));
        let n_bytes = |n: u64| n * size_of::<T>() as u64;
        let RowsShape { table, list, .. } = self.shape;
        SelectRows {
            indices,
            index_stride: self.shape.index_stride,
            table_list_stride: n_bytes(table.list),
            table_stride: n_bytes(table.row),
            list_stride: n_bytes(list.list),
            row_stride: n_bytes(list.row),
            n_lists: self.shape.n_lists as u32,
            n_indices: self.shape.n_indices as u32,
            n_table_rows: self.shape.n_table_rows as u32,
            row_bytes: n_bytes(self.shape.row_len) as u32,
            unit_bytes: self.unit_bytes,
            lane_bits: self.lane_bits,
        }
    }

    /// One block more than there are rows for.
    fn size(&self, lane_bits: u32) -> Grid {
        let n_rows = (self.shape.n_lists * self.shape.n_indices) as u32;
        let blocks = [(n_rows << lane_bits).div_ceil(128) + 1, 1, 1];
        Grid { blocks, threads: [128, 1, 1], dynamic_shared_bytes: 0, cluster_blocks: 1 }
    }

    /// One more than the place of the last row of each index.
    fn last(&self) -> Vec<u32> {
        let RowsShape { n_table_rows, n_indices, index_stride, .. } = self.shape;
        let mut last = vec![0; (self.shape.n_lists * n_table_rows) as usize];
        for l in 0..self.shape.n_lists {
            for i in 0..n_indices {
                let idx = self.indices[(l * index_stride + i) as usize];
                if (0..n_table_rows as i32).contains(&idx) {
                    last[(l * n_table_rows) as usize + idx as usize] = i as u32 + 1;
                }
            }
        }
        last
    }

    fn gathers_differently(&self, entry: Entry, schedule: Schedule, absent: Absent) -> bool {
        let mut expected = self.list.clone();
        reference::gather_rows(&self.shape, &self.table, &self.indices, absent, &mut expected);
        let mut table = Memory::new(&self.table, self.shift);
        let mut gathered = Memory::new(&self.list, self.shift);
        let mut regions = Vec::new();
        let params = SelectGatherParams {
            rows: self.params(&mut regions),
            table: table.address(),
            gathered: gathered.address(),
            fills_zeros: u32::from(absent == Absent::Zeros),
            reserved: 0,
        };
        regions.push(region("table", Role::Input, params.table, table.n_bytes()));
        regions.push(region("gathered", Role::InOut, params.gathered, gathered.n_bytes()));
        // SAFETY: the kernel takes this struct, and every region is memory of this function.
        let passes =
            unsafe { passes_on(entry, &self.size(self.lane_bits), schedule, &params, &regions) };
        !passes || !gathered.is(&expected)
    }

    fn marks_differently(&self, entry: Entry, schedule: Schedule) -> bool {
        let mut last = Memory::new(&vec![0_u32; self.last().len()], 0);
        let mut regions = Vec::new();
        let params = SelectMarkParams { rows: self.params(&mut regions), last: last.address() };
        regions.push(region("last", Role::InOut, params.last, last.n_bytes()));
        // SAFETY: as above.
        let passes = unsafe { passes_on(entry, &self.size(0), schedule, &params, &regions) };
        !passes || !last.is(&self.last())
    }

    fn scatters_differently(&self, entry: Entry, schedule: Schedule, is_marked: bool) -> bool {
        let mut expected = self.table.clone();
        reference::scatter_rows(&self.shape, &self.list, &self.indices, &mut expected);
        let mut table = Memory::new(&self.table, self.shift);
        let mut source = Memory::new(&self.list, self.shift);
        let mut last = Memory::new(&self.last(), 0);
        let mut regions = Vec::new();
        let params = SelectScatterParams {
            rows: self.params(&mut regions),
            source: source.address(),
            table: table.address(),
            last: if is_marked { last.address() } else { 0 },
        };
        regions.push(region("source", Role::Input, params.source, source.n_bytes()));
        regions.push(region("table", Role::InOut, params.table, table.n_bytes()));
        if is_marked {
            regions.push(region("last", Role::InOut, params.last, last.n_bytes()));
        }
        // SAFETY: as above.
        let passes =
            unsafe { passes_on(entry, &self.size(self.lane_bits), schedule, &params, &regions) };
        let left = if is_marked { vec![0; self.last().len()] } else { self.last() };
        !passes || !table.is(&expected) || !last.is(&left)
    }

    /// No index twice in a list.
    fn once(mut self) -> Self {
        let n = self.shape.index_stride as usize;
        for list in self.indices.chunks_mut(n) {
            let mut used = std::collections::HashSet::new();
            list.iter_mut().for_each(|idx| *idx = if used.insert(*idx) { *idx } else { -1 });
        }
        self
    }
}

impl<T: Score + Default> Problem<T> {
    fn adds_differently(&self, entry: Entry, schedule: Schedule, is_weighted: bool) -> bool {
        let n_weights = (self.shape.n_lists * self.shape.n_indices) as usize;
        let weights: Vec<_> = (0..n_weights).map(|i| 0.3 * (i % 11) as f32 - 1.1).collect();
        let given = is_weighted.then_some(&weights[..]);
        let mut expected = self.table.clone();
        reference::scatter_add_rows(&self.shape, &self.list, &self.indices, given, &mut expected);
        let mut table = Memory::new(&self.table, self.shift);
        let mut source = Memory::new(&self.list, self.shift);
        let mut weights = Memory::new(&weights, 0);
        let mut regions = Vec::new();
        let params = SelectScatterAddParams {
            rows: self.params(&mut regions),
            source: source.address(),
            weights: if is_weighted { weights.address() } else { 0 },
            table: table.address(),
            element: T::NUMBER,
            reserved: 0,
        };
        regions.push(region("source", Role::Input, params.source, source.n_bytes()));
        regions.push(region("table", Role::InOut, params.table, table.n_bytes()));
        if is_weighted {
            regions.push(region("weights", Role::Input, params.weights, weights.n_bytes()));
        }
        // Two lists of two tiles, and one block more.
        let grid = Grid {
            blocks: [5, 1, 1],
            threads: [512, 1, 1],
            dynamic_shared_bytes: 0,
            cluster_blocks: 1,
        };
        // SAFETY: as above.
        let passes = unsafe { passes_on(entry, &grid, schedule, &params, &regions) };
        !passes || !table.is(&expected)
    }

    /// Most to the first 32 rows of a table.
    fn crowded(mut self) -> Self {
        self.indices.iter_mut().enumerate().for_each(|(i, idx)| *idx = (i % 34) as i32);
        self
    }
}

const SCHEDULES: [Schedule; 2] = [Schedule::InOrder, Schedule::Random];

fn brain(bits: u64) -> bf16 {
    bf16::from_bits(bits as u16)
}

/// By 16, 8, 4 and 2 bytes, of rows that a team has several times over, and of short ones.
fn problems() -> Vec<Problem<bf16>> {
    let sizes = [(16, 1400), (16, 40), (8, 12), (4, 130), (2, 7), (2, 64)];
    sizes.into_iter().map(|(unit, len)| Problem::new(31, len, unit, brain)).collect()
}

#[test]
fn every_mutation_of_gather_rows_is_caught() {
    let problems = problems();
    let bytes = Problem::new(31, 7, 1, |bits| bits as u8);
    GATHER.assert_all_caught(lacuna_simt_gather_rows, |entry| {
        let is_other = |absent| bytes.gathers_differently(entry, SCHEDULES[0], absent);
        is_other(Absent::Zeros)
            || is_other(Absent::Kept)
            || problems.iter().any(|problem| {
                problem.gathers_differently(entry, SCHEDULES[0], Absent::Zeros)
                    || problem.gathers_differently(entry, SCHEDULES[1], Absent::Kept)
            })
    });
}

#[test]
fn every_mutation_of_mark_rows_is_caught() {
    let problems = [Problem::new(100, 8, 16, brain), Problem::new(300, 8, 16, brain)];
    MARK.assert_all_caught(lacuna_simt_mark_rows, |entry| {
        problems.iter().any(|p| SCHEDULES.into_iter().any(|s| p.marks_differently(entry, s)))
    });
}

#[test]
fn every_mutation_of_scatter_rows_is_caught() {
    let problems = problems();
    let once: Vec<_> = self::problems().into_iter().map(Problem::once).collect();
    SCATTER.assert_all_caught(lacuna_simt_scatter_rows, |entry| {
        SCHEDULES.into_iter().any(|schedule| {
            problems.iter().any(|p| p.scatters_differently(entry, schedule, true))
                || once.iter().any(|p| p.scatters_differently(entry, schedule, false))
        })
    });
}

#[test]
fn every_mutation_of_scatter_add_rows_is_caught() {
    let nan = f32::from_bits(0xFFC0_1234);
    let float = move |bits: u64| if bits.is_multiple_of(5) { nan } else { bits as f32 };
    let half = |bits: u64| half::f16::from_bits(bits as u16);
    let small = |bits: u64| (bits % 1000) as f32 * 0.37 - 99.0;
    let brains = [
        Problem::new(700, 40, 16, |bits| bf16::from_f32(small(bits))),
        Problem::new(300, 300, 2, |bits| bf16::from_f32(small(bits))),
    ];
    let floats = [
        Problem::new(700, 12, 16, small),
        Problem::new(90, 260, 16, float),
        Problem::new(5000, 4, 16, small).crowded(),
        Problem::new(40, 3, 4, float),
    ];
    let halves = [Problem::new(90, 16, 16, half)];
    ADD.assert_all_caught(lacuna_simt_scatter_add_rows, |entry| {
        SCHEDULES.into_iter().any(|schedule| {
            let is_weighted = schedule == Schedule::Random;
            floats.iter().any(|p| p.adds_differently(entry, schedule, is_weighted))
                || brains.iter().any(|p| p.adds_differently(entry, schedule, is_weighted))
                || halves.iter().any(|p| p.adds_differently(entry, schedule, is_weighted))
        })
    });
}
