//! The executor itself: it runs right kernels right, and a seed replays what it showed. What it
//! says of wrong ones is in planted.rs.

#![allow(unsafe_code, reason = "a kernel is launched by its symbol")]

mod common;

use std::ffi::c_void;

use lacuna::region::{Region, Role};
use lacuna::simt::{
    self, Checks, Config, Direction, Entry, Fault, FaultKind, Fibres, Launch, LineCounters,
    Recorder, Schedule, Space, Witness,
};

macro_rules! kernels {
    ($($name:ident = $symbol:ident),* $(,)?) => {
        unsafe extern "C" {
            $(fn $symbol(params: *const c_void, is_checked: u32);)*
        }
        $(const $name: (&str, Entry) = (stringify!($symbol), $symbol);)*
    };
}

kernels! {
    SCAN = lacuna_simt_selftest_scan,
    COLLECTIVES = lacuna_simt_selftest_collectives,
    LAST_BLOCK = lacuna_simt_selftest_last_block,
    CLUSTER_HISTOGRAM = lacuna_simt_selftest_cluster_histogram,
    POISON = lacuna_simt_selftest_poison,
    ACCEPTED = lacuna_simt_selftest_accepted,
    LONG_LOOP = lacuna_simt_selftest_long_loop,
    TWO_FAULTS = lacuna_simt_selftest_two_faults,
    TRANSPOSED = lacuna_simt_selftest_transposed,
    CLUSTER_BARRIERS = lacuna_simt_right_two_cluster_barriers,
    MISSING_BARRIER = lacuna_simt_wrong_scan_after_values,
}

fn run(
    config: &Config,
    kernel: (&str, Entry),
    grid: u32,
    block: u32,
    input: &[u32],
    output: &mut [u32],
) -> Result<(), Box<Fault>> {
    run_clusters(config, kernel, [grid, 1], block, input, output)
}

fn run_clusters(
    config: &Config,
    (symbol, entry): (&str, Entry),
    [grid, cluster_blocks]: [u32; 2],
    block: u32,
    input: &[u32],
    output: &mut [u32],
) -> Result<(), Box<Fault>> {
    let kernel = symbol.strip_prefix("lacuna_simt_").unwrap();
    let params = common::SelfTestParams {
        input: input.as_ptr(),
        output: output.as_mut_ptr(),
        state: std::ptr::null_mut(),
        workspace: std::ptr::null_mut(),
        n: grid,
        reserved: 0,
    };
    let launch = Launch {
        kernel,
        entry,
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        dynamic_shared_bytes: 64,
        cluster_blocks,
    };
    let region = |name: &'static str, role, address: *const u32, n: usize| Region {
        name: name.into(),
        role,
        address: address.expose_provenance() as u64,
        n_bytes: n as u64 * 4,
    };
    // One counts in its output, from zeros on.
    let role = if symbol == LAST_BLOCK.0 { Role::InOut } else { Role::Output };
    let regions = [
        region("input", Role::Input, params.input, input.len()),
        region("output", role, params.output, output.len()),
    ];
    // SAFETY: the kernels of csrc/simt/selftest take this struct, and each test brings buffers as
    // long as its kernel uses.
    unsafe {
        let params_bytes = size_of_val(&params);
        simt::launch(config, &launch, (&raw const params).cast(), params_bytes, &regions)
    }
}

fn configs() -> Vec<Config> {
    configs_with(Checks::NONE)
}

fn configs_with(checks: Checks) -> Vec<Config> {
    let mut configs = Vec::new();
    for schedule in common::SCHEDULES {
        for fibres in [Fibres::Native, Fibres::Portable] {
            for seed in [0, 1, 0xDEAD_BEEF] {
                configs.push(Config { schedule, fibres, seed, checks, ..Config::default() });
            }
        }
    }
    configs
}

fn words(n: u32) -> Vec<u32> {
    (0..n).map(|i| i.wrapping_mul(0x9E37_79B9) >> 7).collect()
}

#[test]
fn a_scan_of_four_blocks_is_right_under_every_schedule() {
    let input = words(2048);
    let expected: Vec<u32> = input
        .chunks(512)
        .flat_map(|block| {
            block.iter().scan(0_u32, |sum, word| {
                *sum = sum.wrapping_add(*word);
                Some(*sum)
            })
        })
        .collect();
    for config in configs() {
        let mut output = vec![0; 2048];
        run(&config, SCAN, 4, 512, &input, &mut output).unwrap();
        assert!(output == expected, "{config:?}");
    }
}

#[test]
fn every_collective_gives_what_its_definition_says() {
    let input: Vec<u32> = (0..32).map(|i| (i * 7 + 3) % 29).collect();
    let lane = |i: usize| input[i];
    let mut expected = vec![0_u32; 17 * 32];
    for i in 0..32 {
        let up = if i % 16 >= 3 { i - 3 } else { i };
        let down = if i % 8 + 5 < 8 { i + 5 } else { i };
        let bits = |test: &dyn Fn(u32) -> bool| {
            (0..32).filter(|j| test(lane(*j))).map(|j| 1_u32 << j).sum::<u32>()
        };
        let row = [
            lane(lane(i) as usize % 32),
            lane(up),
            lane(down),
            lane(i ^ 9),
            bits(&|v| v % 2 == 1),
            u32::from(input.contains(&7)),
            u32::from(!input.contains(&7)),
            bits(&|v| v % 4 == lane(i) % 4),
            input.iter().sum(),
            *input.iter().min().unwrap(),
            *input.iter().max().unwrap(),
            input.iter().fold(0, |x, v| x ^ v),
            if i < 16 { input[..16].iter().sum() } else { 0 },
            lane(i ^ 1),
            input.iter().filter(|v| **v % 2 == 1).count() as u32,
            u32::from(input.contains(&1)),
            lane(i),
        ];
        for (kind, value) in row.into_iter().enumerate() {
            expected[kind * 32 + i] = value;
        }
    }
    let checked = configs_with(Checks::ALL);
    for config in configs().into_iter().chain(checked) {
        let mut output = vec![0; 17 * 32];
        run(&config, COLLECTIVES, 1, 32, &input, &mut output).unwrap();
        for (kind, (got, expected)) in output.chunks(32).zip(expected.chunks(32)).enumerate() {
            assert_eq!(got, expected, "collective {kind}, {config:?}");
        }
    }
}

#[test]
fn what_cuda_accepts_is_accepted() {
    for config in configs_with(Checks::ALL) {
        let mut output = vec![0; 5 * 48];
        run(&config, ACCEPTED, 1, 48, &[], &mut output).unwrap();
        for (thread, row) in (0..48).map(|i| (i, output[i..].iter().step_by(48))) {
            let lanes = if thread < 32 { 32 } else { 16 };
            let shifted = (thread as u32 * 4).wrapping_neg();
            assert_eq!(
                row.collect::<Vec<_>>(),
                [&0, &48, &(thread as u32).max(7), &lanes, &shifted]
            );
        }
    }
}

#[test]
fn the_fault_of_the_lowest_block_is_reported() {
    for config in configs_with(Checks::ALL) {
        let mut output = vec![0; 4 * 32];
        let fault = run(&config, TWO_FAULTS, 4, 32, &[], &mut output).unwrap_err();
        assert_eq!((fault.kind, fault.block), (FaultKind::WarpMask, [0; 3]), "{fault}");
    }
}

#[test]
fn requests_are_counted_where_no_barrier_ends_them() {
    #[repr(align(128))]
    struct Aligned([u32; 1024]);
    let input = Aligned([1; 1024]);
    let mut output = Aligned([0; 1024]);
    for schedule in common::SCHEDULES {
        let recorder = Recorder::default();
        let config = Config { schedule, recorder: Some(recorder.clone()), ..Config::default() };
        run(&config, LONG_LOOP, 1, 64, &input.0, &mut output.0).unwrap();
        let counters = &recorder.take()[0];
        assert_eq!(counters.sectors_per_request(), 4.0, "{schedule:?}");
        assert_eq!(counters.read_bytes(), 2 * 2000 * 128, "{schedule:?}");
    }
}

#[test]
fn matrices_are_transposed_as_documented() {
    let mut output = vec![0; 32 * 6];
    run(&Config::default(), TRANSPOSED, 1, 32, &[], &mut output).unwrap();
    for (lane, words) in output.chunks(6).enumerate() {
        let (group, pair) = (lane / 4, lane % 4);
        // Element (row, column) of matrix i is its place in memory.
        let element = |i: usize, row: usize, column: usize| (i * 64 + row * 8 + column) as u32;
        let word = |i| element(i, pair * 2, group) | element(i, pair * 2 + 1, group) << 16;
        assert_eq!(words, [0, 1, 2, 3, 0, 1].map(word), "lane {lane}");
    }
}

#[test]
fn the_last_block_sees_what_all_blocks_wrote() {
    for config in configs() {
        for n_workers in [1, 2, 5] {
            let config = Config { n_workers, ..config.clone() };
            let mut output = vec![0; 102];
            run(&config, LAST_BLOCK, 100, 64, &[], &mut output).unwrap();
            assert_eq!(output[..2], [0, 5050], "{config:?}");
        }
    }
}

/// Of each cluster of `n`.
fn cumulated(input: &[u32], n: usize) -> Vec<u32> {
    let clusters = input.chunks(n * 128);
    let counts = clusters.flat_map(|own| {
        (0..64).map(move |bin| own.iter().filter(|word| **word % 64 <= bin).count() as u32)
    });
    counts.collect()
}

#[test]
fn clusters_count_together_under_every_schedule() {
    for n in [1, 2, 3, 4, 8, 16] {
        let input = words(3 * n * 128);
        let expected = cumulated(&input, n as usize);
        for config in configs().into_iter().chain(configs_with(Checks::ALL)) {
            let mut output = vec![0; expected.len()];
            run_clusters(&config, CLUSTER_HISTOGRAM, [3 * n, n], 64, &input, &mut output).unwrap();
            assert!(output == expected, "clusters of {n}, {config:?}");
        }
    }
}

#[test]
fn clusters_are_spread_over_workers() {
    let input = words(40 * 128);
    let expected = cumulated(&input, 4);
    for n_workers in [1, 2, 5] {
        let config = Config { n_workers, ..Config::default() };
        let mut output = vec![0; expected.len()];
        run_clusters(&config, CLUSTER_HISTOGRAM, [40, 4], 64, &input, &mut output).unwrap();
        assert!(output == expected, "{n_workers} workers");
    }
}

#[test]
fn a_cluster_of_the_most_blocks_and_threads_runs() {
    let mut output = vec![1; 16 * 1024];
    run_clusters(&Config::default(), CLUSTER_BARRIERS, [16, 16], 1024, &[], &mut output).unwrap();
    assert!(output.iter().all(|word| *word == 0));
}

#[test]
fn clusters_that_no_device_runs_are_refused() {
    for shape in [[16, 0], [17, 17], [6, 4]] {
        let fault = run_clusters(&Config::default(), CLUSTER_HISTOGRAM, shape, 64, &[], &mut [])
            .unwrap_err();
        assert_eq!(fault.kind, FaultKind::Resources, "{fault}");
    }
}

#[test]
fn requests_of_another_blocks_memory_are_counted_for_themselves() {
    let input = words(4 * 128);
    for schedule in common::SCHEDULES {
        let recorder = Recorder::default();
        let config = Config { schedule, recorder: Some(recorder.clone()), ..Config::default() };
        let mut output = vec![0; 64];
        run_clusters(&config, CLUSTER_HISTOGRAM, [4, 4], 64, &input, &mut output).unwrap();
        let counters = &recorder.take()[0];
        let sum = |direction| {
            let is_it = |line: &&LineCounters| {
                line.space == Space::Distributed && line.direction == direction
            };
            let lines = counters.lines.iter().filter(is_it);
            lines.fold((0, 0), |sum, line| (sum.0 + line.n_requests, sum.1 + line.n_bytes))
        };
        // Stores into block 0 of three others, and atomics into block 3: of each warp the eight lanes of
        // its rank.
        assert_eq!(sum(Direction::Write), (6, 6 * 8 * 4), "{schedule:?}");
        assert_eq!(sum(Direction::Atomic), (6, 6 * 8 * 4), "{schedule:?}");
        // Each block reads the counts of three others; blocks 1 and 2, thread by thread, the totals of
        // another up to the thread's own.
        let n_requests = 4 * 2 * 3 + (30 + 62) + (31 + 63);
        let of_totals: u64 =
            (0..64).filter(|thread| [1, 2].contains(&(thread % 4))).map(|t| t + 1).sum();
        let n_bytes = (4 * 2 * 3 * 8 + of_totals) * 4;
        assert_eq!(sum(Direction::Read), (n_requests, n_bytes), "{schedule:?}");
        // Three barriers of the cluster, and one of each block.
        assert_eq!(counters.n_barriers, 4 * 4, "{schedule:?}");
    }
}

#[test]
fn shared_memory_is_poisoned_before_each_block() {
    let mut output = vec![0; 20];
    run(&Config::default(), POISON, 10, 32, &[], &mut output).unwrap();
    assert!(output.iter().all(|word| *word == 0xCDCD_CDCD), "{output:x?}");
}

#[test]
fn what_was_in_an_output_is_not_what_a_launch_leaves() {
    for fill in [0x00, 0xFF, 0x5A] {
        let word = u32::from_ne_bytes([fill; 4]);
        let witness = Witness::default();
        let config = Config { fill, witness: Some(witness.clone()), ..Config::default() };
        // Two words of each block's shared memory, and five that it leaves unwritten.
        let mut output = vec![7; 25];
        run(&config, POISON, 10, 32, &[3], &mut output).unwrap();
        assert_eq!(output, [word; 25]);
        // A launch that is refused leaves what was there.
        let mut output = vec![7; 25];
        run_clusters(&config, POISON, [10, 3], 32, &[3], &mut output).unwrap_err();
        assert_eq!(output, [7; 25]);
        let found = witness.take();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].kernel, "selftest_poison");
        let [input, output] = &found[0].regions[..] else { panic!("{found:?}") };
        assert_eq!((input.role, &input.bytes[..]), (Role::Input, &3_u32.to_ne_bytes()[..]));
        assert_eq!((output.role, &output.bytes[..]), (Role::Output, &[fill; 100][..]));
        assert!(witness.take().is_empty());
    }
}

#[test]
fn a_missing_barrier_shows_under_random_schedules_and_replays() {
    let input = words(256);
    let mut expected: Vec<u32> = input
        .iter()
        .scan(0_u32, |sum, word| {
            *sum = sum.wrapping_add(*word);
            Some(*sum)
        })
        .collect();
    expected.reverse();
    let mut n_wrong = 0;
    for seed in 0..50 {
        let config = Config { schedule: Schedule::Random, seed, ..Config::default() };
        let mut output = vec![0; 256];
        run(&config, MISSING_BARRIER, 1, 256, &input, &mut output).unwrap();
        let mut again = vec![0; 256];
        run(&config, MISSING_BARRIER, 1, 256, &input, &mut again).unwrap();
        assert!(output == again, "seed {seed} replays");
        n_wrong += usize::from(output != expected);
    }
    assert_eq!(n_wrong, 50);
}
