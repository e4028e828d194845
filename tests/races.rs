//! Random small programs: the executor finds a race where the memory model, written down here as
//! plainly as it is defined, has one, and nowhere else.

#![allow(unsafe_code, reason = "a kernel is launched by its symbol")]

mod common;

use std::ffi::c_void;
use std::fmt;

use lacuna::region::{Region, Role};
use lacuna::simt::{self, Checks, Config, Entry, FaultKind, Fibres, Launch, Schedule};
use proptest::prelude::*;

unsafe extern "C" {
    fn lacuna_simt_selftest_script(params: *const c_void, is_checked: u32);
}

/// The numbers of csrc/simt/selftest/script.cu, where 0 is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Kind {
    Read = 1,
    Write = 2,
    VolatileRead = 3,
    VolatileWrite = 4,
    Add = 5,
    Exchange = 6,
    CompareAndSwap = 7,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    is_shared: bool,
    offset: usize,
    n_bytes: usize,
}

/// Threads are counted among those of the shape.
#[derive(Debug, Clone, Copy)]
enum Action {
    Access {
        thread: usize,
        kind: Kind,
        place: Place,
        fails: bool,
    },
    Fence {
        thread: usize,
        of_block: bool,
    },
    /// Those named of the thread's warp, and the thread itself.
    SyncWarp {
        thread: usize,
        named: u32,
    },
    /// Orders the execution, and no memory.
    Meet {
        thread: usize,
        named: u32,
    },
    Barrier,
}

#[derive(Clone)]
struct Program {
    /// The threads of each block that do anything but wait at barriers, in ascending order.
    threads: &'static [u32],
    n_blocks: usize,
    schedule: Schedule,
    /// By block.
    actions: Vec<(usize, Action)>,
}

const ATOMIC: &[Kind] = &[
    Kind::VolatileRead,
    Kind::VolatileWrite,
    Kind::Add,
    Kind::Add,
    Kind::Exchange,
    Kind::CompareAndSwap,
];
const PLAIN: &[Kind] = &[Kind::Read, Kind::Write];

const SHAPES: &[&[u32]] =
    &[&[0, 1], &[0, 1, 2], &[0, 1, 2, 3], &[0, 32], &[0, 1, 32], &[0, 1, 32, 33], &[0, 32, 64]];

/// What shared memory holds when a block begins.
const POISON: u8 = 0xCD;
const N_BYTES: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Access { kind: Kind, place: Place, has_failed: bool },
    Fence { of_block: bool },
    SyncWarp,
    Barrier,
}

/// What has happened, and of which threads of its block.
#[derive(Debug, Clone)]
struct Event {
    block: usize,
    threads: Vec<u32>,
    what: What,
    /// By the position among the block's actions: what an access found.
    step: usize,
    found: u64,
}

impl Action {
    fn by(mut self, other: usize) -> Self {
        match &mut self {
            Self::Access { thread, .. }
            | Self::Fence { thread, .. }
            | Self::SyncWarp { thread, .. }
            | Self::Meet { thread, .. } => *thread = other,
            Self::Barrier => {}
        }
        self
    }
}

/// One line for each action.
impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { threads, n_blocks, schedule, .. } = self;
        writeln!(f, "{n_blocks} blocks of threads {threads:?}, {schedule:?}")?;
        for (block, action) in &self.actions {
            let members = self.members(*action);
            write!(f, "block {}, ", block % n_blocks)?;
            match action {
                Action::Access { kind, place, fails, .. } => {
                    let memory = if place.is_shared { "shared" } else { "global" };
                    let fails = if *fails { " that fails" } else { "" };
                    let Place { offset, n_bytes, .. } = place;
                    writeln!(f, "thread {members:?}: {kind:?}{fails} {memory} {offset}+{n_bytes}")
                }
                Action::Fence { of_block, .. } => {
                    let scope = if *of_block { " of the block" } else { "" };
                    writeln!(f, "thread {members:?}: fence{scope}")
                }
                Action::SyncWarp { .. } => writeln!(f, "threads {members:?}: __syncwarp"),
                Action::Meet { .. } => writeln!(f, "threads {members:?}: meet"),
                Action::Barrier => writeln!(f, "__syncthreads"),
            }?;
        }
        Ok(())
    }
}

impl Program {
    fn of_block(&self, block: usize) -> Vec<Action> {
        let actions = self.actions.iter().filter(|(of, _)| of % self.n_blocks == block);
        actions.map(|(_, action)| *action).collect()
    }

    fn thread(&self, idx: usize) -> u32 {
        self.threads[idx % self.threads.len()]
    }

    fn n_threads(&self) -> u32 {
        self.threads.last().unwrap() + 1
    }

    fn members(&self, action: Action) -> Vec<u32> {
        match action {
            Action::Access { thread, .. } | Action::Fence { thread, .. } => {
                vec![self.thread(thread)]
            }
            Action::SyncWarp { thread, named } | Action::Meet { thread, named } => {
                let first = self.thread(thread);
                let is_member = |other: u32| {
                    other == first || other / 32 == first / 32 && named >> (other % 32) & 1 == 1
                };
                self.threads.iter().copied().filter(|other| is_member(*other)).collect()
            }
            Action::Barrier => (0..self.n_threads()).collect(),
        }
    }
}

/// The events in the order in which the executor lets them happen: each thread, in the schedule's
/// order, goes on until it waits for others, and the last to come goes on at once. `None` where a
/// lane waits for others than those who wait for it.
fn execute(program: &Program) -> Option<Vec<Event>> {
    let mut events = Vec::new();
    let mut global = [0; N_BYTES];
    let mut blocks: Vec<_> = (0..program.n_blocks).collect();
    if program.schedule == Schedule::Reverse {
        blocks.reverse();
    }
    for block in blocks {
        let actions = program.of_block(block);
        let mut shared = [POISON; N_BYTES];
        let mut order: Vec<u32> = (0..program.n_threads()).collect();
        if program.schedule == Schedule::Reverse {
            order.reverse();
        }
        let n = order.len();
        let mut next = vec![0; n];
        let mut waits = vec![false; n];
        while next.iter().any(|step| *step < actions.len()) {
            let mut has_moved = false;
            for &thread in &order {
                let own = thread as usize;
                while !waits[own] && next[own] < actions.len() {
                    has_moved = true;
                    let step = next[own];
                    let action = actions[step];
                    let members = program.members(action);
                    if !members.contains(&thread) {
                        next[own] += 1;
                        continue;
                    }
                    waits[own] = true;
                    if members.iter().any(|member| !waits[*member as usize]) {
                        break;
                    }
                    if members.iter().any(|member| next[*member as usize] != step) {
                        return None;
                    }
                    for &member in &members {
                        waits[member as usize] = false;
                        next[member as usize] += 1;
                    }
                    let mut event =
                        Event { block, threads: members, what: What::Barrier, step, found: 0 };
                    match action {
                        Action::Access { kind, place, fails, .. } => {
                            let memory = if place.is_shared { &mut shared } else { &mut global };
                            event.found = read(memory, place);
                            let value = written(kind, step, event.found);
                            if let Some(value) = value.filter(|_| !fails) {
                                let bytes = value.to_le_bytes();
                                memory[place.offset..][..place.n_bytes]
                                    .copy_from_slice(&bytes[..place.n_bytes]);
                            }
                            event.what = What::Access { kind, place, has_failed: fails };
                        }
                        Action::Fence { of_block, .. } => event.what = What::Fence { of_block },
                        Action::SyncWarp { .. } => event.what = What::SyncWarp,
                        Action::Meet { .. } => continue,
                        Action::Barrier => {}
                    }
                    events.push(event);
                }
            }
            if !has_moved {
                return None;
            }
        }
    }
    Some(events)
}

fn read(memory: &[u8; N_BYTES], place: Place) -> u64 {
    let mut bytes = [0; 8];
    bytes[..place.n_bytes].copy_from_slice(&memory[place.offset..][..place.n_bytes]);
    u64::from_le_bytes(bytes)
}

fn written(kind: Kind, step: usize, found: u64) -> Option<u64> {
    match kind {
        Kind::Read | Kind::VolatileRead => None,
        Kind::Add => Some(found.wrapping_add(step as u64 + 1)),
        _ => Some(step as u64 + 1),
    }
}

impl Event {
    fn access(&self) -> Option<(Kind, Place)> {
        match self.what {
            What::Access { kind, place, .. } => Some((kind, place)),
            _ => None,
        }
    }

    fn writes(&self) -> bool {
        let What::Access { kind, has_failed, .. } = self.what else { return false };
        !has_failed && !matches!(kind, Kind::Read | Kind::VolatileRead)
    }

    fn is_atomic(&self) -> bool {
        self.access().is_some_and(|(kind, _)| !matches!(kind, Kind::Read | Kind::Write))
    }

    fn reads_atomically(&self) -> bool {
        self.is_atomic() && self.access().is_some_and(|(kind, _)| kind != Kind::VolatileWrite)
    }

    fn is_read(&self) -> bool {
        self.reads_atomically() || self.access().is_some_and(|(kind, _)| kind == Kind::Read)
    }

    fn is_of_same_thread(&self, other: &Self) -> bool {
        self.block == other.block && self.threads.iter().any(|own| other.threads.contains(own))
    }

    fn overlaps(&self, other: &Self) -> bool {
        let (Some((_, own)), Some((_, place))) = (self.access(), other.access()) else {
            return false;
        };
        own.is_shared == place.is_shared
            && (!own.is_shared || self.block == other.block)
            && own.offset < place.offset + place.n_bytes
            && place.offset < own.offset + own.n_bytes
    }

    fn is_of_same_size(&self, other: &Self) -> bool {
        self.access().map(|(_, place)| (place.offset, place.n_bytes))
            == other.access().map(|(_, place)| (place.offset, place.n_bytes))
    }

    fn conflicts(&self, other: &Self) -> bool {
        let is_atomic = self.is_atomic() && other.is_atomic() && self.is_of_same_size(other);
        self.overlaps(other) && (self.writes() || other.writes()) && !is_atomic
    }
}

/// A relation of events to those after them.
struct Relation(Vec<Vec<bool>>);

impl Relation {
    fn new(n: usize, holds: impl Fn(usize, usize) -> bool) -> Self {
        Self((0..n).map(|a| (0..n).map(|b| a < b && holds(a, b)).collect()).collect())
    }

    fn holds(&self, a: usize, b: usize) -> bool {
        self.0[a][b]
    }

    fn closed(mut self) -> Self {
        let n = self.0.len();
        for via in 0..n {
            for a in (0..via).filter(|a| self.0[*a][via]).collect::<Vec<_>>() {
                for b in via..n {
                    self.0[a][b] |= self.0[via][b];
                }
            }
        }
        self
    }
}

/// Whether the read finds what the write wrote, or what exchanges and updates have made of it.
fn observes(events: &[Event], write: usize, read: usize) -> bool {
    let (from, to) = (&events[write], &events[read]);
    let is_one = from.writes() && from.is_atomic() && to.reads_atomically();
    let is_kept = |between: &Event| {
        !between.writes()
            || !between.overlaps(to)
            || (between.reads_atomically() && between.is_of_same_size(to))
    };
    is_one
        && from.overlaps(to)
        && from.is_of_same_size(to)
        && events[write + 1..read].iter().all(is_kept)
}

/// What happened before what.
fn happens_before(events: &[Event]) -> Relation {
    let n = events.len();
    // Program order, barriers and __syncwarp.
    let in_block = Relation::new(n, |a, b| events[a].is_of_same_thread(&events[b])).closed();
    let observed = Relation::new(n, |write, read| observes(events, write, read));
    // The fence may be of the writing thread, or of any where a barrier stands between; but a barrier
    // does of itself for the block what a fence of the block could.
    let releases = Relation::new(n, |fence, write| {
        let What::Fence { of_block } = events[fence].what else { return false };
        let is_barrier =
            |event: &Event| event.what == What::Barrier && event.block == events[write].block;
        events[fence].is_of_same_thread(&events[write])
            || !of_block
                && events[fence].block == events[write].block
                && events[fence..write].iter().any(is_barrier)
    });
    let is_in_scope = |a: usize, b: usize| match (events[a].what, events[b].what) {
        (What::Fence { of_block: a_of_block }, What::Fence { of_block: b_of_block }) => {
            events[a].block == events[b].block || (!a_of_block && !b_of_block)
        }
        _ => false,
    };
    let mut before = Relation::new(n, |a, b| in_block.holds(a, b));
    let mut received = Vec::new();
    for write in 0..n {
        for read in (write..n).filter(|read| observed.holds(write, *read)) {
            for after in (read..n).filter(|after| in_block.holds(read, *after)) {
                for fence in (0..write).filter(|fence| releases.holds(*fence, write)) {
                    if is_in_scope(fence, after) {
                        before.0[fence][after] = true;
                        received.push((write, after));
                    }
                }
            }
        }
    }
    let mut before = before.closed();
    // The write that was observed too, and nothing that stands between the fence and it.
    let of_writes: Vec<_> = received
        .iter()
        .flat_map(|&(write, after)| (after..n).map(move |later| (write, after, later)))
        .filter(|&(_, after, later)| before.holds(after, later))
        .collect();
    for (write, _, later) in of_writes {
        before.0[write][later] = true;
    }
    before
}

/// A pair that conflicts and that nothing orders.
struct Race {
    a: usize,
    b: usize,
    is_declared: bool,
}

/// A race that the executor must find, before one that it may miss.
fn find_race(events: &[Event]) -> Option<Race> {
    let before = happens_before(events);
    let n = events.len();
    let races = (0..n).flat_map(|b| (0..b).map(move |a| (a, b)));
    let races = races.filter(|&(a, b)| events[a].conflicts(&events[b]) && !before.holds(a, b));
    // DESIGN, "Limits": an atomic may count as observed with a later one in the same place.
    let is_declared = |a: usize, b: usize| {
        events[a].is_atomic()
            && (a + 1..b).any(|later| {
                events[later].is_atomic()
                    && events[later].overlaps(&events[a])
                    && before.holds(a, later)
                    && before.holds(later, b)
            })
    };
    races
        .map(|(a, b)| Race { a, b, is_declared: is_declared(a, b) })
        .min_by_key(|race| race.is_declared)
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
            };
            if let Action::Access { place, fails, .. } = action {
                words[3] = u32::from(place.is_shared);
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

fn place(words: std::ops::Range<usize>) -> impl Strategy<Value = Place> + Clone {
    (any::<bool>(), words, prop::bool::weighted(0.03)).prop_map(|(is_shared, word, is_wide)| {
        if is_wide {
            Place { is_shared, offset: word / 2 * 8, n_bytes: 8 }
        } else {
            Place { is_shared, offset: word * 4, n_bytes: 4 }
        }
    })
}

fn access(
    kinds: &'static [Kind],
    words: std::ops::Range<usize>,
) -> impl Strategy<Value = Action> + Clone {
    (0_usize..12, prop::sample::select(kinds), place(words), any::<bool>()).prop_map(
        |(thread, kind, place, fails)| {
            let fails = fails && kind == Kind::CompareAndSwap;
            Action::Access { thread, kind, place, fails }
        },
    )
}

fn fence() -> impl Strategy<Value = Action> + Clone {
    (0_usize..12, prop::bool::weighted(0.3))
        .prop_map(|(thread, of_block)| Action::Fence { thread, of_block })
}

fn joint() -> impl Strategy<Value = Action> + Clone {
    let named = prop_oneof![2 => Just(!0_u32), 1 => any::<u32>()];
    prop_oneof![
        2 => (0_usize..12, named).prop_map(|(thread, named)| Action::SyncWarp { thread, named }),
        3 => (0_usize..12).prop_map(|thread| Action::Meet { thread, named: !0 }),
        1 => Just(Action::Barrier),
    ]
}

/// Two words of flags and two of data, in each memory; few accesses of data, since most programs
/// would race otherwise, and now and then any access of either.
fn single() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        6 => access(ATOMIC, 0..2),
        2 => access(PLAIN, 2..4),
        1 => access(PLAIN, 0..4),
        1 => access(ATOMIC, 0..4),
        6 => fence(),
        6 => joint(),
    ];
    action.prop_map(|action| vec![action])
}

/// What hands on, or may: an access, fences, and another, by one thread or by two that have met.
fn relay() -> impl Strategy<Value = Vec<Action>> {
    let end = || prop_oneof![1 => access(PLAIN, 2..4), 2 => access(ATOMIC, 0..2)];
    let maybe_joint = || prop::option::weighted(0.3, joint());
    let actions =
        (end(), maybe_joint(), fence(), maybe_joint(), prop::option::weighted(0.3, fence()), end());
    (actions, prop::array::uniform3(any::<bool>()), 0_usize..12).prop_map(
        |((first, joint, fence, later_joint, later_fence, last), is_other, thread)| {
            let by = |has_met: bool, is_other: bool| thread + usize::from(has_met && is_other);
            let has_met = joint.is_some() || later_joint.is_some();
            [
                Some(first.by(thread)),
                joint.map(|action| action.by(thread)),
                Some(fence.by(by(joint.is_some(), is_other[0]))),
                later_joint.map(|action| action.by(thread)),
                later_fence.map(|action| action.by(by(has_met, is_other[1]))),
                Some(last.by(by(has_met, is_other[2]))),
            ]
            .into_iter()
            .flatten()
            .collect()
        },
    )
}

fn program() -> impl Strategy<Value = Program> {
    let schedule = prop::sample::select(&[Schedule::InOrder, Schedule::Reverse][..]);
    let pieces = (0_usize..6, prop_oneof![2 => single(), 1 => relay()]);
    let pieces = prop::collection::vec(pieces, 2..16);
    (prop::sample::select(SHAPES), 1_usize..4, schedule, pieces).prop_map(
        |(threads, n_blocks, schedule, pieces)| {
            let in_block = |(block, actions): (usize, Vec<Action>)| {
                actions.into_iter().map(move |action| (block, action))
            };
            let actions = pieces.into_iter().flat_map(in_block).collect();
            Program { threads, n_blocks, schedule, actions }
        },
    )
}

/// As many as the environment asks for, or as take a second or two.
fn n_cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: n_cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_race_is_found_where_there_is_one(program in program()) {
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
    let place = Place { is_shared, offset: word * 4, n_bytes: 4 };
    Action::Access { thread, kind, place, fails: false }
}

/// Threads 0, 1, 32 and 33 of each of three blocks.
#[track_caller]
fn check(is_race: bool, actions: &[(usize, Action)]) {
    let program = Program {
        threads: &[0, 1, 32, 33],
        n_blocks: 3,
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
