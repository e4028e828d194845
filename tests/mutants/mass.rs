//! The kernels that sum columns of attention. What they share with those that score is mutated there.

use std::ffi::c_void;

use half::bf16;
use lacuna::simt::Entry;

use crate::mass_problem::{CASE, Case, Problem};
use crate::{Kernel, Mutation, differs, of};

const SOURCE: &str = include_str!("../../csrc/select/mass.cu");

const HEADERS: &[(&str, &str)] =
    &[("../common/last.cuh", include_str!("../../csrc/common/last.cuh"))];

const fn kernel(entry: &'static str, mutations: &'static [Mutation]) -> Kernel {
    Kernel { room: "select", source: SOURCE, headers: HEADERS, entry, mutations }
}

/// Of what both launches do, and of the first.
const OF_PROBES: &[Mutation] = &[
    // Two of is_last_block, two of score_probes.
    of("__syncthreads();", 0, ""),
    of("__syncthreads();", 1, ""),
    of("__syncthreads();", 2, ""),
    of("__syncthreads();", 3, ""),
    of("__threadfence();", 0, ""),
    of("__threadfence();", 1, ""),
    of("atomicAdd(ticket, 1u)", 0, "(*ticket)++"),
    of("== n_blocks - 1", 0, "== 0"),
    of("if (is_last) atomicExch(ticket, 0u);", 0, ""),
    of("tile.n_all_tiles == 0 ? 1 : tile.n_all_tiles", 0, "tile.n_all_tiles"),
    of("min_of(count_rows(params.kv, tile.b), params.n)", 0, "count_rows(params.kv, tile.b)"),
    of("min_of(n_all - tile.first_row, params.tile)", 0, "n_all - tile.first_row"),
    of("n_all > tile.first_row ? ", 0, "true ? "),
    of("n_seen > tile.first_row ? min_of(n_seen - tile.first_row, tile.n_rows) : 0", 0, "n_seen"),
    of("if (threadIdx.x < n) {", 0, "{"),
    of("n_here > done ? min_of(n_here - done, kRows) : 0", 0, "kRows"),
    of("query >= n || ", 0, ""),
    of(" || r >= n_left", 0, ""),
    of("base + done + r < shared.n_visible[query] && ", 0, ""),
    of(" && (absent >> (done + r) & 1) == 0", 0, ""),
    of("absent >> (done + r)", 0, "absent >> r"),
    of("__fmul_rn(products[i], params.kv.key_scale)", 0, "products[i]"),
    of("done < lane.n_rows; done += kRows", 0, "done < kRows; done += kRows"),
    of("done * lane.n_each", 0, "0"),
    of("wait_copies<0>();", 0, ""),
    of("min_of(kChunk, tile.n_queries - first)", 0, "kChunk"),
    of("min_of(kQueries, n - q)", 0, "kQueries"),
    of("if (tile.n_rows == 0) return;", 0, ""),
    of("params.skips != nullptr && params.skips[blockIdx.z] != 0", 0, "false"),
    of("if (tile.n_rows == 0 && blockIdx.x != 0) return;", 0, ""),
    of(
        "if (!is_last_block(ticket, n_blocks, shared.is_last)) return;",
        0,
        "is_last_block(ticket, n_blocks, shared.is_last);",
    ),
];

const OF_COLUMNS: &[Mutation] = &[
    of("__syncthreads();", 4, ""),
    of("__syncthreads();", 5, ""),
    of("params.skips != nullptr && params.skips[blockIdx.z] != 0", 1, "false"),
    of("if (threadIdx.x < n) shared.softmaxes", 0, "shared.softmaxes"),
    of("q < n && threadIdx.x < tile.n_rows", 0, "q < n"),
    of("i == 0 && (first + q)", 0, "(first + q)"),
    of(" && (first + q) % params.group == 0", 0, ""),
    of("is_once && threadIdx.x < shared.n_visible[q]", 0, "is_once"),
    of("if (threadIdx.x >= tile.n_rows) return;", 0, ""),
    of("__fmul_rn(mass, params.mass_scale)", 0, "mass"),
    of("if (params.is_per_probe != 0)", 0, ""),
    of("n_seeing == 0 ? 0.0f : ", 0, ""),
];

unsafe extern "C" {
    fn lacuna_simt_probe_rows(params: *const c_void, is_checked: u32);
    fn lacuna_simt_column_mass(params: *const c_void, is_checked: u32);
}

fn problems() -> Vec<Problem<bf16, bf16>> {
    let plain = Case { lengths: [270, 9], n: 260, n_probes: 6, ..CASE };
    let wide = Case { head_dim: 136, lengths: [150, 0], n: 150, n_probes: 2, ..CASE };
    let ways = Case { is_over_all_heads: false, is_mean: true, is_per_probe: true, ..plain };
    let one_head = Case { n_heads: 1, group: 5, lengths: [70, 2], ..plain };
    let mut hostile = Case { is_per_probe: true, n_heads: 2, ..one_head }.build::<bf16, bf16>();
    for page in hostile.page_table.iter_mut().step_by(3) {
        *page = -1;
    }
    hostile.n_visible[0] = 0;
    let unseen = vec![0; hostile.n_visible.len()];
    let empty = Case { lengths: [0, 0], n: 0, ..plain };
    vec![
        plain.build(),
        wide.build(),
        Case { head_dim: 264, lengths: [61, 0], ..wide }.build(),
        ways.build(),
        one_head.build(),
        Problem { n_visible: unseen, ..hostile.clone() },
        hostile,
        Problem { skips: Some(vec![1, 0]), key_scale: 0.5, ..plain.build() },
        empty.build(),
    ]
}

/// Every mutation is caught where the other launch is the library's own.
fn assert_all_caught(entry: &'static str, mutations: &'static [Mutation], own: Entry) {
    let problems = problems().into_iter().map(|problem| (problem.expect(), problem));
    let problems: Vec<_> = problems.collect();
    kernel(entry, mutations).assert_all_caught(own, |by| {
        problems
            .iter()
            .any(|(expected, problem)| differs(own, by, expected, |queue| problem.run(queue)))
    });
}

#[test]
fn every_mutation_of_probe_rows_is_caught() {
    assert_all_caught("probe_rows", OF_PROBES, lacuna_simt_probe_rows);
}

#[test]
fn every_mutation_of_column_mass_is_caught() {
    assert_all_caught("column_mass", OF_COLUMNS, lacuna_simt_column_mass);
}
