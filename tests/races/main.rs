//! Random small programs: the executor finds a race where the memory model has one, and nowhere else.

#![allow(unsafe_code, reason = "a kernel is launched by its symbol")]

#[path = "../common/mod.rs"]
mod common;
mod memory_model;
mod program;

use std::ffi::c_void;

use lacuna::region::{Region, Role};
use lacuna::simt::{self, Checks, Config, Entry, FaultKind, Fibres, Launch, Schedule};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use memory_model::find_race;
use program::{Action, Event, Kind, N_BYTES, Place, Program, execute};

unsafe extern "C" {
    fn lacuna_simt_selftest_script(params: *const c_void, is_checked: u32);
}

#[repr(align(16))]
struct State([u8; N_BYTES]);

/// Whether the executor finds a race; else what each action found.
fn run(program: &Program, events: &[Event], fibres: Fibres) -> Result<Vec<u32>, FaultKind> {
    let n_steps = (0..program.n_blocks).map(|block| program.of_block(block).len()).max().unwrap();
    let mut input = Vec::new();
    for block in 0..program.n_blocks {
        let mut actions = program.of_block(block).into_iter();
        for step in 0..n_steps {
            let Some(action) = actions.next() else {
                input.extend([0; 9]);
                continue;
            };
            let members = program.members(action);
            let lanes = members.iter().fold(0, |lanes, member| lanes | 1_u32 << (member % 32));
            let mut words = [0, members[0], lanes, 0, 0, 0, step as u32 + 1, 0, 0];
            words[0] = match action {
                Action::Access { kind, .. } => kind as u32,
                Action::Fence { of_block: false, .. } => 8,
                Action::Fence { of_block: true, .. } => 9,
                Action::SyncWarp { .. } => 10,
                Action::Meet { .. } => 11,
                Action::Barrier => 12,
                Action::ClusterBarrier => 13,
            };
            if let Action::Access { place, fails, .. } = action {
                words[3] = if place.is_shared { 1 + place.distance as u32 } else { 0 };
                words[4] = place.offset as u32;
                words[5] = place.n_bytes as u32;
                let is_it = |event: &&Event| event.block == block && event.step == step;
                let found = events.iter().find(is_it).unwrap().found;
                let expected = found ^ u64::from(fails);
                words[7] = expected as u32;
                words[8] = (expected >> 32) as u32;
            }
            input.extend(words);
        }
    }
    let mut output = vec![0_u32; program.n_blocks * n_steps];
    let mut state = State([0; N_BYTES]);
    let region = |name: &'static str, role, address: *mut c_void, n_bytes: usize| Region {
        name: name.into(),
        role,
        address: address.expose_provenance() as u64,
        n_bytes: n_bytes as u64,
    };
    let regions = [
        region("input", Role::Input, input.as_mut_ptr().cast(), input.len() * 4),
        region("output", Role::Output, output.as_mut_ptr().cast(), output.len() * 4),
        region("state", Role::InOut, state.0.as_mut_ptr().cast(), N_BYTES),
    ];
    let params = common::SelfTestParams {
        input: input.as_ptr(),
        output: output.as_mut_ptr(),
        state: state.0.as_mut_ptr().cast(),
        workspace: std::ptr::null_mut(),
        n: output.len() as u32,
        reserved: n_steps as u32,
    };
    let launch = Launch {
        kernel: "script",
        entry: lacuna_simt_selftest_script as Entry,
        grid: [program.n_blocks as u32, 1, 1],
        block: [program.n_threads(), 1, 1],
        dynamic_shared_bytes: 0,
        cluster_blocks: program.n_together as u32,
    };
    // Of what is never written, the order says nothing.
    let checks = Checks { accesses: true, races: true, ..Checks::NONE };
    let config = Config { schedule: program.schedule, fibres, checks, ..Config::default() };
    // SAFETY: the kernel takes this struct, and the regions are memory of this function.
    let result = unsafe {
        simt::launch(&config, &launch, (&raw const params).cast(), size_of_val(&params), &regions)
    };
    result.map(|()| output).map_err(|fault| fault.kind)
}

/// Others in each run where the environment asks for a number of cases; else the same ones.
fn seed() -> RngSeed {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => RngSeed::Random,
        None => RngSeed::Fixed(1),
    }
}

/// As many as the environment asks for, or as take a second or two.
fn n_cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: n_cases(),
        rng_seed: seed(),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_race_is_found_where_there_is_one(program in program::program()) {
        let Some(events) = execute(&program) else { return Ok(()) };
        let race = find_race(&events);
        if race.as_ref().is_some_and(|race| race.is_declared) {
            return Ok(());
        }
        for fibres in [Fibres::Native, Fibres::Portable] {
            match (run(&program, &events, fibres), &race) {
                (Err(FaultKind::Race), Some(_)) => {}
                (Ok(output), None) => {
                    let n_steps = output.len() / program.n_blocks;
                    for event in events.iter().filter(|event| event.is_read()) {
                        let found = output[event.block * n_steps + event.step];
                        prop_assert_eq!(found, event.found as u32, "{:?}", event);
                    }
                }
                (verdict, _) => prop_assert!(
                    false,
                    "the executor: {:?}; the model: {:?}",
                    verdict.err(),
                    race.as_ref().map(|race| (&events[race.a], &events[race.b]))
                ),
            }
        }
    }
}

fn access_of(thread: usize, kind: Kind, is_shared: bool, word: usize) -> Action {
    let place = Place { is_shared, distance: 0, offset: word * 4, n_bytes: 4 };
    Action::Access { thread, kind, place, fails: false }
}

/// Threads 0, 1, 32 and 33 of each of three blocks.
#[track_caller]
fn check(is_race: bool, actions: &[(usize, Action)]) {
    check_blocks(is_race, 3, 1, actions);
}

/// The same of four blocks in clusters of two.
#[track_caller]
fn check_clusters(is_race: bool, actions: &[(usize, Action)]) {
    check_blocks(is_race, 4, 2, actions);
}

#[track_caller]
fn check_blocks(is_race: bool, n_blocks: usize, n_together: usize, actions: &[(usize, Action)]) {
    let program = Program {
        threads: &[0, 1, 32, 33],
        n_blocks,
        n_together,
        schedule: Schedule::InOrder,
        actions: actions.to_vec(),
    };
    let events = execute(&program).unwrap();
    assert_eq!(find_race(&events).is_some(), is_race, "the model\n{program:?}");
    let verdict = run(&program, &events, Fibres::Native).err();
    assert_eq!(verdict, is_race.then_some(FaultKind::Race), "the executor\n{program:?}");
}

const DATA: usize = 3;

/// Of another block than the first: sees the flag, and reads the data.
fn receive(block: usize, flag: usize) -> [(usize, Action); 3] {
    [
        (block, access_of(0, Kind::Add, false, flag)),
        (block, Action::Fence { thread: 0, of_block: false }),
        (block, access_of(0, Kind::Read, false, DATA)),
    ]
}

#[test]
fn a_fence_of_another_hands_on_what_its_warp_has_done() {
    let fence = Action::Fence { thread: 0, of_block: false };
    let sync = Action::SyncWarp { thread: 0, named: !0 };
    let mut actions = vec![(0, access_of(1, Kind::Write, false, DATA)), (0, sync), (0, fence)];
    actions.extend([(0, Action::Barrier), (0, access_of(1, Kind::VolatileWrite, false, 0))]);
    actions.extend(receive(1, 0));
    check(false, &actions);
    actions.remove(1);
    check(true, &actions);
}

#[test]
fn a_fence_of_another_hands_on_what_its_thread_knows() {
    let fence = |thread| Action::Fence { thread, of_block: false };
    let mut actions = vec![
        (0, access_of(0, Kind::Write, false, DATA)),
        (0, fence(0)),
        (0, access_of(0, Kind::Add, false, 0)),
        // Older than what the other knows.
        (1, fence(1)),
        (1, access_of(0, Kind::Add, false, 0)),
        (1, fence(0)),
        (1, Action::Barrier),
        (1, access_of(1, Kind::Add, false, 1)),
    ];
    actions.extend(receive(2, 1));
    check(false, &actions);
    actions.remove(5);
    check(true, &actions);
}

#[test]
fn what_a_fence_of_the_block_has_acquired_no_older_fence_hands_on() {
    for fencing in [0, 3] {
        let mut actions = vec![
            (0, Action::Fence { thread: fencing, of_block: false }),
            (0, access_of(0, Kind::Write, false, DATA)),
            (0, Action::Fence { thread: 0, of_block: true }),
            (0, access_of(0, Kind::Add, true, 0)),
            (0, access_of(1, Kind::Add, true, 0)),
            (0, Action::Fence { thread: 1, of_block: true }),
            (0, Action::Barrier),
            (0, access_of(2, Kind::Add, false, 0)),
        ];
        actions.extend(receive(1, 0));
        check(true, &actions);
        actions.insert(7, (0, Action::Fence { thread: 2, of_block: false }));
        check(false, &actions);
    }
}

#[test]
fn a_store_to_the_flag_it_was_told_by_hands_on() {
    let fence = Action::Fence { thread: 0, of_block: false };
    let mut actions = vec![
        (0, access_of(0, Kind::Write, false, DATA)),
        (0, fence),
        (0, access_of(0, Kind::VolatileWrite, false, 0)),
        (1, access_of(0, Kind::VolatileRead, false, 0)),
        (1, fence),
        (1, access_of(0, Kind::VolatileWrite, false, 0)),
    ];
    actions.extend(receive(2, 0));
    check(false, &actions);
    actions.remove(4);
    check(true, &actions);
}

#[test]
fn a_flag_stored_twice_is_a_release_twice() {
    let mut actions = vec![
        (0, access_of(0, Kind::Write, false, DATA)),
        (0, Action::Fence { thread: 0, of_block: false }),
        (0, access_of(0, Kind::VolatileWrite, false, 0)),
        (0, access_of(0, Kind::VolatileWrite, false, 0)),
    ];
    actions.extend(receive(1, 0));
    check(false, &actions);
    actions.remove(1);
    check(true, &actions);
}

#[test]
fn who_has_seen_a_flag_has_not_seen_the_next() {
    // Twice, since the last of a warp to come goes on at once.
    let meet = |thread| (0, Action::Meet { thread, named: !0 });
    let mut actions = vec![
        meet(0),
        (0, access_of(2, Kind::VolatileRead, true, 1)),
        meet(2),
        (0, Action::Fence { thread: 0, of_block: true }),
        (0, access_of(0, Kind::Add, true, 0)),
        meet(0),
        meet(0),
        (0, access_of(2, Kind::VolatileRead, true, 0)),
        meet(2),
        meet(2),
        (0, access_of(0, Kind::Add, true, 0)),
        (0, Action::Fence { thread: 2, of_block: true }),
        (0, access_of(2, Kind::Read, true, 0)),
    ];
    check(true, &actions);
    actions.remove(10);
    check(false, &actions);
}

/// What came through a flag from another block is handed on through the same flag within the block, to
/// who could not have had it from the other block itself.
#[test]
fn a_fence_of_the_block_takes_what_its_block_has_had_from_another() {
    let fence = |thread, of_block| (1, Action::Fence { thread, of_block });
    let mut actions = vec![
        (0, access_of(0, Kind::Write, false, DATA)),
        (0, Action::Fence { thread: 0, of_block: false }),
        (0, access_of(0, Kind::VolatileWrite, false, 0)),
        (1, access_of(0, Kind::Add, false, 0)),
        fence(0, false),
        (1, access_of(0, Kind::Add, false, 0)),
        (1, access_of(2, Kind::Add, false, 0)),
        fence(2, true),
        (1, access_of(2, Kind::Read, false, DATA)),
    ];
    check(false, &actions);
    actions.remove(4);
    check(true, &actions);
}

const FENCE: Action = Action::Fence { thread: 0, of_block: false };

/// Of the first block: writes the data, and sets the flag.
fn send(flag: usize) -> [(usize, Action); 3] {
    [
        (0, access_of(0, Kind::Write, false, DATA)),
        (0, FENCE),
        (0, access_of(0, Kind::Add, false, flag)),
    ]
}

#[test]
fn a_barrier_of_the_cluster_hands_on_what_a_block_has_been_told() {
    for tells_block in [false, true] {
        let mut actions = send(0).to_vec();
        actions.extend([(2, access_of(0, Kind::Add, false, 0)), (2, FENCE)]);
        // By then all of its threads know.
        actions.extend(tells_block.then_some((2, Action::Barrier)));
        actions.extend([(2, Action::ClusterBarrier), (3, access_of(1, Kind::Read, false, DATA))]);
        check_clusters(false, &actions);
        actions.remove(4);
        check_clusters(true, &actions);
    }
}

#[test]
fn a_fence_after_the_clusters_barrier_takes_what_a_thread_has_seen_before() {
    for tells_block in [false, true] {
        let mut actions = send(0).to_vec();
        actions.push((2, access_of(0, Kind::Add, false, 0)));
        actions.extend(tells_block.then_some((2, Action::Barrier)));
        actions.extend([(2, Action::ClusterBarrier), (3, FENCE)]);
        actions.push((3, access_of(0, Kind::Read, false, DATA)));
        check_clusters(false, &actions);
        actions.remove(actions.len() - 2);
        check_clusters(true, &actions);
    }
}

#[test]
fn a_fence_before_the_clusters_barrier_is_for_every_blocks_flags() {
    for tells_block in [false, true] {
        let mut actions = vec![(0, access_of(0, Kind::Write, false, DATA)), (0, FENCE)];
        actions.extend(tells_block.then_some((0, Action::Barrier)));
        actions.extend([(0, Action::ClusterBarrier), (1, access_of(1, Kind::Add, false, 0))]);
        actions.extend(receive(2, 0));
        check_clusters(false, &actions);
        actions.remove(1);
        check_clusters(true, &actions);
    }
}

/// A block's barrier is its own, and no fence of it says what another has done.
#[test]
fn a_barrier_of_the_block_says_nothing_of_its_cluster() {
    for action in [Action::ClusterBarrier, Action::Barrier] {
        let is_of_all = matches!(action, Action::ClusterBarrier);
        let mut actions = vec![
            (0, access_of(0, Kind::Write, false, DATA)),
            (0, action),
            (1, access_of(0, Kind::Read, false, DATA)),
        ];
        // In the order in which blocks run, the read comes after.
        check_clusters(!is_of_all, &actions);
        actions[2] = (1, Action::Barrier);
        actions.extend([(1, FENCE), (1, access_of(0, Kind::Add, false, 0))]);
        actions.extend(receive(2, 0));
        check_clusters(!is_of_all, &actions);
    }
}

/// And a thread of it fences what its own block has done up to its barrier, and its cluster up to its own.
#[test]
fn a_fence_is_for_the_cluster_up_to_its_barrier() {
    for is_late in [false, true] {
        let write = (0, access_of(0, Kind::Write, false, DATA));
        let mut actions = vec![write, (0, Action::ClusterBarrier)];
        if is_late {
            actions.swap(0, 1);
        }
        // Thread 1 counts what thread 0 has fenced.
        actions.extend([
            (0, Action::Barrier),
            (1, Action::Barrier),
            (1, FENCE),
            (1, Action::Barrier),
        ]);
        actions.push((1, access_of(1, Kind::Add, false, 0)));
        actions.extend(receive(2, 0));
        check_clusters(is_late, &actions);
    }
}

#[test]
fn a_fence_in_any_block_of_a_cluster_is_for_what_was_before_its_barrier() {
    for block in [0, 1] {
        let mut actions = vec![
            (block, access_of(1, Kind::Write, false, DATA)),
            (block, Action::Barrier),
            (block, FENCE),
            (block, Action::Barrier),
            (block, access_of(2, Kind::Add, false, 0)),
        ];
        actions.extend(receive(2, 0));
        check_clusters(false, &actions);
        actions.remove(1);
        check_clusters(true, &actions);
    }
}
