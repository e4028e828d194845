//! The kernel that compares queries with cached ones.

use std::ffi::c_void;

use lacuna::bindings::SelectGateParams;
use lacuna::element::Float as _;
use lacuna::region::Role;
use lacuna::select::reference::gate_query;
use lacuna::simt::{Entry, Schedule};

use crate::{Kernel, Mutation, of, passes, region};

const KERNEL: Kernel = Kernel {
    room: "select",
    source: include_str!("../../csrc/select/gate.cu"),
    headers: &[],
    entry: "gate_selection",
    mutations: MUTATIONS,
};

/// The barrier, the order of sums, what is no direction, and what keeps an index inside.
const MUTATIONS: &[Mutation] = &[
    of("__syncthreads();", 0, ""),
    of("if (kind == kFloatF32) words[1] = at[1];", 0, "words[1] = at[1];"),
    of("if (kind == kFloatF32) words[1] = at[1];", 0, ""),
    of("if (kind == kFloatF32) at[1] = words[1];", 0, "at[1] = words[1];"),
    of("if (kind == kFloatF32) at[1] = words[1];", 0, ""),
    of("if (kind != kFloatF32) return", 0, "return"),
    of("values[4 + i] = __uint_as_float(high[i])", 0, "values[4 + i] = __uint_as_float(low[i])"),
    of("i < params.n; i += 8 * kThreads", 0, "i <= params.n; i += 8 * kThreads"),
    of("i < params.n; i += 8 * kThreads", 0, "i < params.n; i += 4 * kThreads"),
    of("i < params.n; i += 8 * kThreads", 1, "i < params.n; i += 16 * kThreads"),
    of("store_eight(staged, i, kind, words);", 0, ""),
    of("if (!is_cached) continue;", 0, ""),
    of("__fmaf_rn(x[e], y[e], sums.across)", 0, "__fadd_rn(__fmul_rn(x[e], y[e]), sums.across)"),
    of("__fmaf_rn(x[e], x[e], sums.query)", 0, "__fmaf_rn(x[e], y[e], sums.query)"),
    of("__fmaf_rn(y[e], y[e], sums.cached)", 0, "__fmaf_rn(x[e], y[e], sums.cached)"),
    of("delta != 0; delta /= 2", 0, "delta > 1; delta /= 2"),
    of("add_lanes(sums, 16);", 0, "add_lanes(sums, 8);"),
    of("add_lanes(sums, kWarps / 2);", 0, "add_lanes(sums, kWarps);"),
    of("add_lanes(sums, kWarps / 2);", 0, "add_lanes(sums, kWarps / 4);"),
    of("if (threadIdx.x % 32 == 0) shared", 0, "shared"),
    of("sums.query > 0.0f", 0, "sums.query >= 0.0f"),
    of("sums.query < infinity", 0, "true"),
    of("sums.cached > 0.0f", 0, "sums.cached >= 0.0f"),
    of("sums.cached < infinity", 0, "true"),
    of(
        "__fmul_rn(__fsqrt_rn(sums.query), __fsqrt_rn(sums.cached))",
        0,
        "__fsqrt_rn(__fmul_rn(sums.query, sums.cached))",
    ),
    of("if (b >= params.batch) return;", 0, ""),
    of("b * params.query_stride", 0, "b * params.n"),
    of("b * params.cached_stride", 0, "b * params.n"),
    of("params.states[b] != 0 && ", 0, ""),
    of("(params.forced == nullptr || params.forced[b] == 0)", 0, "true"),
    of("params.thetas != nullptr ? params.thetas[b] : params.theta", 0, "params.theta"),
    of("cosine >= shared.theta", 0, "cosine > shared.theta"),
    of("cosine >= shared.theta", 0, "!(cosine < shared.theta)"),
    of("uint64_t{b} * params.rows_per_request", 0, "b"),
    of("i < params.rows_per_request; i += kThreads", 0, "i < 1; i += kThreads"),
    of("skips[i] = is_like", 0, "skips[i] = 1"),
    of("params.cosines != nullptr", 0, "is_like"),
    of("if (threadIdx.x == 0 && params.cosines", 0, "if (params.cosines"),
    of("if (is_like) return;", 0, ""),
    of("if (threadIdx.x == 0) params.states[b] = 1;", 0, ""),
    of("if (threadIdx.x == 0) params.states[b] = 1;", 0, "params.states[b] = 1;"),
    of("store_eight(cached, i, params.element, words);", 0, ""),
];

unsafe extern "C" {
    fn lacuna_simt_gate_selection(params: *const c_void, is_checked: u32);
}

const BATCH: usize = 4;
const ROWS: usize = 3;
const POISON: u32 = 0xA5A5_A5A5;

/// Requests: what is cached, whether, whether they must select, and from what cosine on they need not.
struct Problem {
    n: usize,
    queries: [Vec<f32>; BATCH],
    cached: [Vec<f32>; BATCH],
    states: [u32; BATCH],
    forced: [u32; BATCH],
    thetas: [f32; BATCH],
    has_cosines: bool,
}

fn problems() -> Vec<Problem> {
    let mut state = 1_u64;
    let mut row = |n: usize| -> Vec<f32> {
        let mut number = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
            ((state >> 40) as f32 - 8_388_607.5) / 4_194_304.0
        };
        (0..n).map(|_| number()).collect()
    };
    let mut problems = Vec::new();
    for n in [16, 264, 4104, 8200] {
        let cached = [row(n), row(n), row(n), row(n)];
        let far = row(n);
        let near: Vec<f32> = cached[1].iter().zip(&far).map(|(x, y)| x + 0.25 * y).collect();
        let queries = [cached[0].clone(), near.clone(), far, cached[3].clone()];
        // Its own cosine is just enough.
        let exactly = gate_query(&near, Some(&cached[1]), 0.0).1;
        let sound = Problem {
            n,
            queries: queries.clone(),
            cached: cached.clone(),
            states: [1, 7, 1, 0],
            forced: [0, 0, 0, 0],
            thetas: [0.9, exactly, 0.5, -2.0],
            has_cosines: true,
        };
        let strange = |x: f32| {
            let mut strange = queries.clone();
            strange[1][n / 2] = x;
            let thetas = [f32::NEG_INFINITY; BATCH];
            (strange, thetas)
        };
        let (infinite, thetas) = strange(f32::INFINITY);
        let (large, _) = strange(3e38);
        problems.push(Problem {
            forced: [1, 0, 0, 9],
            states: [1; BATCH],
            has_cosines: false,
            queries: queries.clone(),
            cached: cached.clone(),
            ..sound
        });
        problems.push(Problem { queries: infinite.clone(), thetas, ..clone(&sound) });
        problems.push(Problem { queries: large.clone(), thetas, ..clone(&sound) });
        problems.push(Problem { cached: infinite, thetas, ..clone(&sound) });
        problems.push(Problem { cached: large, thetas, ..clone(&sound) });
        let zeros: [Vec<f32>; BATCH] = std::array::from_fn(|_| vec![0.0; n]);
        problems.push(Problem { cached: zeros.clone(), thetas, ..clone(&sound) });
        problems.push(Problem { queries: zeros, thetas, ..clone(&sound) });
        problems.push(sound);
    }
    problems
}

fn clone(problem: &Problem) -> Problem {
    Problem { queries: problem.queries.clone(), cached: problem.cached.clone(), ..*problem }
}

/// Rows of f32 or bf16, 8 elements apart, from a multiple of 16 bytes on.
fn lay(rows: &[Vec<f32>], is_float: bool) -> Vec<u128> {
    let stride = rows[0].len() + 8;
    let element_bytes = if is_float { 4 } else { 2 };
    let mut words = vec![0_u128; (rows.len() * stride * element_bytes).div_ceil(16)];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    for (r, row) in rows.iter().enumerate() {
        for (i, x) in row.iter().enumerate() {
            let at = (r * stride + i) * element_bytes;
            if is_float {
                bytes[at..][..4].copy_from_slice(&x.to_le_bytes());
            } else {
                let brain = half::bf16::from_f32(*x);
                bytes[at..][..2].copy_from_slice(&brain.to_le_bytes());
            }
        }
    }
    words
}

/// The problem's requests, of f32 or bf16, by `entry` under all checks; one block more than there are
/// requests.
fn differs(entry: Entry, problem: &Problem, is_float: bool, schedule: Schedule) -> bool {
    let n = problem.n;
    let element_bytes = if is_float { 4 } else { 2 };
    let mut queries = lay(&problem.queries, is_float);
    let mut cached = lay(&problem.cached, is_float);
    let mut expected_cached = cached.clone();
    let (mut states, mut forced, mut thetas) = (problem.states, problem.forced, problem.thetas);
    let mut expected_states = states;
    let mut skips = [POISON; BATCH * ROWS];
    let mut expected_skips = skips;
    let mut cosines = [f32::from_bits(POISON); BATCH];
    let mut expected_cosines = [0; BATCH];
    let stride = n + 8;
    for b in 0..BATCH {
        let is_cached = states[b] != 0 && forced[b] == 0;
        let (query, other) = (&problem.queries[b], &problem.cached[b]);
        let (is_like, cosine) = if is_float {
            gate_query(query, is_cached.then_some(&other[..]), thetas[b])
        } else {
            let [query, other] = [query, other]
                .map(|row| row.iter().map(|x| half::bf16::from_f32(*x)).collect::<Vec<_>>());
            gate_query(&query, is_cached.then_some(&other[..]), thetas[b])
        };
        expected_skips[b * ROWS..][..ROWS].fill(u32::from(is_like));
        expected_cosines[b] = cosine.to_bits();
        if !is_like {
            expected_states[b] = 1;
            let bytes = b * stride * element_bytes..(b * stride + n) * element_bytes;
            let from: &[u8] = bytemuck::cast_slice(&queries);
            bytemuck::cast_slice_mut::<_, u8>(&mut expected_cached)[bytes.clone()]
                .copy_from_slice(&from[bytes]);
        }
    }
    let address = |pointer: *mut u32| pointer.expose_provenance() as u64;
    let params = SelectGateParams {
        queries: address(queries.as_mut_ptr().cast()),
        cached: address(cached.as_mut_ptr().cast()),
        states: address(states.as_mut_ptr()),
        forced: address(forced.as_mut_ptr()),
        thetas: address(thetas.as_mut_ptr().cast()),
        skips: address(skips.as_mut_ptr()),
        cosines: if problem.has_cosines { address(cosines.as_mut_ptr().cast()) } else { 0 },
        query_stride: stride as u64,
        cached_stride: stride as u64,
        batch: BATCH as u32,
        n: n as u32,
        rows_per_request: ROWS as u32,
        element: if is_float { f32::NUMBER } else { half::bf16::NUMBER },
        theta: 0.9,
        reserved: 0,
    };
    let n_bytes = ((BATCH - 1) * stride + n) * element_bytes;
    let regions = [
        region("queries", Role::Input, params.queries, n_bytes),
        region("cached", Role::InOut, params.cached, n_bytes),
        region("states", Role::InOut, params.states, 4 * BATCH),
        region("forced", Role::Input, params.forced, 4 * BATCH),
        region("thetas", Role::Input, params.thetas, 4 * BATCH),
        region("skips", Role::Output, params.skips, 4 * BATCH * ROWS),
        region("cosines", Role::Output, params.cosines, 4 * BATCH),
    ];
    let regions = if problem.has_cosines { &regions[..] } else { &regions[..6] };
    let (n_blocks, n_shared_bytes) = (BATCH as u32 + 1, (n * element_bytes) as u32);
    // SAFETY: the kernel takes this struct, and every region is memory of this function.
    let passes =
        unsafe { passes(entry, [n_blocks, 512], n_shared_bytes, schedule, &params, regions) };
    !passes
        || skips != expected_skips
        || states != expected_states
        || cached != expected_cached
        || (problem.has_cosines && cosines.map(f32::to_bits) != expected_cosines)
}

#[test]
fn every_mutation_of_gate_selection_is_caught() {
    let problems = problems();
    KERNEL.assert_all_caught(lacuna_simt_gate_selection, |entry| {
        problems.iter().any(|problem| {
            [(true, Schedule::InOrder), (false, Schedule::Random)]
                .into_iter()
                .any(|(is_float, schedule)| differs(entry, problem, is_float, schedule))
        })
    });
}
