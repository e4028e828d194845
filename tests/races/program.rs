//! Small programs of several threads, what comes of them when they are executed in order, and random ones.

use std::fmt;

use lacuna::simt::Schedule;
use proptest::prelude::*;

/// The numbers of csrc/simt/selftest/script.cu, where 0 is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    Read = 1,
    Write = 2,
    VolatileRead = 3,
    VolatileWrite = 4,
    Add = 5,
    Exchange = 6,
    CompareAndSwap = 7,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) is_shared: bool,
    /// Of shared memory: how many blocks of the cluster further.
    pub(crate) distance: usize,
    pub(crate) offset: usize,
    pub(crate) n_bytes: usize,
}

/// Threads are counted among those of the shape.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
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
    /// Of all blocks of the block's cluster.
    ClusterBarrier,
}

#[derive(Clone)]
pub(crate) struct Program {
    /// The threads of each block that do anything but wait at barriers, in ascending order.
    pub(crate) threads: &'static [u32],
    pub(crate) n_blocks: usize,
    /// Blocks of a cluster; a divisor.
    pub(crate) n_together: usize,
    pub(crate) schedule: Schedule,
    /// By block.
    pub(crate) actions: Vec<(usize, Action)>,
}

pub(crate) const ATOMIC: &[Kind] = &[
    Kind::VolatileRead,
    Kind::VolatileWrite,
    Kind::Add,
    Kind::Add,
    Kind::Exchange,
    Kind::CompareAndSwap,
];
pub(crate) const PLAIN: &[Kind] = &[Kind::Read, Kind::Write];

pub(crate) const SHAPES: &[&[u32]] =
    &[&[0, 1], &[0, 1, 2], &[0, 1, 2, 3], &[0, 32], &[0, 1, 32], &[0, 1, 32, 33], &[0, 32, 64]];

/// What shared memory holds when a block begins.
pub(crate) const POISON: u8 = 0xCD;
pub(crate) const N_BYTES: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Access { kind: Kind, place: Place, has_failed: bool },
    Fence { of_block: bool },
    SyncWarp,
    Barrier,
    ClusterBarrier,
}

/// What has happened, and of which threads of its block.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) cluster: usize,
    pub(crate) block: usize,
    /// Whose shared memory an access is to.
    pub(crate) owner: usize,
    pub(crate) threads: Vec<u32>,
    pub(crate) what: What,
    /// By the position among the block's actions: what an access found.
    pub(crate) step: usize,
    pub(crate) found: u64,
}

impl Action {
    pub(crate) fn by(mut self, other: usize) -> Self {
        match &mut self {
            Self::Access { thread, .. }
            | Self::Fence { thread, .. }
            | Self::SyncWarp { thread, .. }
            | Self::Meet { thread, .. } => *thread = other,
            Self::Barrier | Self::ClusterBarrier => {}
        }
        self
    }
}

/// One line for each action.
impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { threads, n_blocks, n_together, schedule, .. } = self;
        let shape = format!("{n_blocks} blocks in clusters of {n_together}");
        writeln!(f, "{shape}, of threads {threads:?}, {schedule:?}")?;
        for (block, action) in &self.actions {
            let members = self.members(*action);
            write!(f, "block {}, ", block % n_blocks)?;
            match action {
                Action::Access { kind, place, fails, .. } => {
                    let Place { is_shared, distance, offset, n_bytes } = place;
                    let memory = match is_shared {
                        true => format!("shared of block {}", self.owner(*block, *distance)),
                        false => "global".to_owned(),
                    };
                    let fails = if *fails { " that fails" } else { "" };
                    writeln!(f, "thread {members:?}: {kind:?}{fails} {memory} {offset}+{n_bytes}")
                }
                Action::Fence { of_block, .. } => {
                    let scope = if *of_block { " of the block" } else { "" };
                    writeln!(f, "thread {members:?}: fence{scope}")
                }
                Action::SyncWarp { .. } => writeln!(f, "threads {members:?}: __syncwarp"),
                Action::Meet { .. } => writeln!(f, "threads {members:?}: meet"),
                Action::Barrier => writeln!(f, "__syncthreads"),
                Action::ClusterBarrier => writeln!(f, "cluster_barrier"),
            }?;
        }
        Ok(())
    }
}

impl Program {
    /// In a cluster, all blocks begin at a barrier: before it, none knows of another's shared memory.
    pub(crate) fn of_block(&self, block: usize) -> Vec<Action> {
        let is_own = |(of, action): &&(usize, Action)| {
            let of = of % self.n_blocks;
            of == block
                || matches!(action, Action::ClusterBarrier)
                    && of / self.n_together == block / self.n_together
        };
        let first = (self.n_together > 1).then_some(Action::ClusterBarrier);
        let actions = self.actions.iter().filter(is_own);
        first.into_iter().chain(actions.map(|(_, action)| *action)).collect()
    }

    /// The block of the cluster that is so much further.
    pub(crate) fn owner(&self, block: usize, distance: usize) -> usize {
        let block = block % self.n_blocks;
        let first = block / self.n_together * self.n_together;
        first + (block + distance) % self.n_together
    }

    pub(crate) fn thread(&self, idx: usize) -> u32 {
        self.threads[idx % self.threads.len()]
    }

    pub(crate) fn n_threads(&self) -> u32 {
        self.threads.last().unwrap() + 1
    }

    pub(crate) fn members(&self, action: Action) -> Vec<u32> {
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
            Action::Barrier | Action::ClusterBarrier => (0..self.n_threads()).collect(),
        }
    }
}

/// The events in the order in which the executor lets them happen: each thread, in the schedule's
/// order, goes on until it waits for others, and the last to come goes on at once. `None` where a
/// lane waits for others than those who wait for it.
pub(crate) fn execute(program: &Program) -> Option<Vec<Event>> {
    let mut events = Vec::new();
    let mut global = [0; N_BYTES];
    let n_together = program.n_together;
    let mut clusters: Vec<_> = (0..program.n_blocks / n_together).collect();
    if program.schedule == Schedule::Reverse {
        clusters.reverse();
    }
    for cluster in clusters {
        execute_cluster(program, cluster, &mut global, &mut events)?;
    }
    Some(events)
}

/// A thread is known by its block's place in the cluster, and its number there.
type Member = (usize, usize);

fn execute_cluster(
    program: &Program,
    cluster: usize,
    global: &mut [u8; N_BYTES],
    events: &mut Vec<Event>,
) -> Option<()> {
    let (n_together, n_threads) = (program.n_together, program.n_threads() as usize);
    let first = cluster * n_together;
    let actions: Vec<_> = (0..n_together).map(|rank| program.of_block(first + rank)).collect();
    let mut shared = vec![[POISON; N_BYTES]; n_together];
    let all: Vec<Member> =
        (0..n_together).flat_map(|rank| (0..n_threads).map(move |thread| (rank, thread))).collect();
    let mut order = all.clone();
    if program.schedule == Schedule::Reverse {
        order.reverse();
    }
    let mut next = vec![vec![0; n_threads]; n_together];
    let mut waits = vec![vec![false; n_threads]; n_together];
    while all.iter().any(|&(rank, thread)| next[rank][thread] < actions[rank].len()) {
        let mut has_moved = false;
        for &(rank, thread) in &order {
            while !waits[rank][thread] && next[rank][thread] < actions[rank].len() {
                has_moved = true;
                let step = next[rank][thread];
                let action = actions[rank][step];
                let threads = program.members(action);
                if !threads.contains(&(thread as u32)) {
                    next[rank][thread] += 1;
                    continue;
                }
                let is_of_all = matches!(action, Action::ClusterBarrier);
                let members: Vec<Member> = match is_of_all {
                    true => all.clone(),
                    false => threads.iter().map(|thread| (rank, *thread as usize)).collect(),
                };
                waits[rank][thread] = true;
                if members.iter().any(|&(rank, thread)| !waits[rank][thread]) {
                    break;
                }
                let is_here = |&(of, thread): &Member| match is_of_all {
                    true => matches!(actions[of][next[of][thread]], Action::ClusterBarrier),
                    false => next[of][thread] == step,
                };
                if !members.iter().all(is_here) {
                    return None;
                }
                for &(rank, thread) in &members {
                    waits[rank][thread] = false;
                    next[rank][thread] += 1;
                }
                let block = first + rank;
                let mut event = Event {
                    cluster,
                    block,
                    owner: block,
                    threads,
                    what: What::Barrier,
                    step,
                    found: 0,
                };
                match action {
                    Action::Access { kind, place, fails, .. } => {
                        event.owner = program.owner(block, place.distance);
                        let memory = match place.is_shared {
                            true => &mut shared[event.owner - first],
                            false => &mut *global,
                        };
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
                    Action::ClusterBarrier => event.what = What::ClusterBarrier,
                }
                events.push(event);
            }
        }
        if !has_moved {
            return None;
        }
    }
    Some(())
}

pub(crate) fn read(memory: &[u8; N_BYTES], place: Place) -> u64 {
    let mut bytes = [0; 8];
    bytes[..place.n_bytes].copy_from_slice(&memory[place.offset..][..place.n_bytes]);
    u64::from_le_bytes(bytes)
}

pub(crate) fn written(kind: Kind, step: usize, found: u64) -> Option<u64> {
    match kind {
        Kind::Read | Kind::VolatileRead => None,
        Kind::Add => Some(found.wrapping_add(step as u64 + 1)),
        _ => Some(step as u64 + 1),
    }
}

impl Event {
    pub(crate) fn access(&self) -> Option<(Kind, Place)> {
        match self.what {
            What::Access { kind, place, .. } => Some((kind, place)),
            _ => None,
        }
    }

    pub(crate) fn writes(&self) -> bool {
        let What::Access { kind, has_failed, .. } = self.what else { return false };
        !has_failed && !matches!(kind, Kind::Read | Kind::VolatileRead)
    }

    pub(crate) fn is_atomic(&self) -> bool {
        self.access().is_some_and(|(kind, _)| !matches!(kind, Kind::Read | Kind::Write))
    }

    pub(crate) fn reads_atomically(&self) -> bool {
        self.is_atomic() && self.access().is_some_and(|(kind, _)| kind != Kind::VolatileWrite)
    }

    pub(crate) fn is_read(&self) -> bool {
        self.reads_atomically() || self.access().is_some_and(|(kind, _)| kind == Kind::Read)
    }

    pub(crate) fn is_of_same_thread(&self, other: &Self) -> bool {
        let is_of_all = |event: &Self| event.what == What::ClusterBarrier;
        self.cluster == other.cluster && (is_of_all(self) || is_of_all(other))
            || self.block == other.block
                && self.threads.iter().any(|own| other.threads.contains(own))
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let (Some((_, own)), Some((_, place))) = (self.access(), other.access()) else {
            return false;
        };
        own.is_shared == place.is_shared
            && (!own.is_shared || self.owner == other.owner)
            && own.offset < place.offset + place.n_bytes
            && place.offset < own.offset + own.n_bytes
    }

    pub(crate) fn is_of_same_size(&self, other: &Self) -> bool {
        self.access().map(|(_, place)| (place.offset, place.n_bytes))
            == other.access().map(|(_, place)| (place.offset, place.n_bytes))
    }

    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let is_atomic = self.is_atomic() && other.is_atomic() && self.is_of_same_size(other);
        self.overlaps(other) && (self.writes() || other.writes()) && !is_atomic
    }
}

pub(crate) fn place(words: std::ops::Range<usize>) -> impl Strategy<Value = Place> + Clone {
    let distance = prop_oneof![2 => Just(0_usize), 1 => 0_usize..3];
    (any::<bool>(), distance, words, prop::bool::weighted(0.03)).prop_map(
        |(is_shared, distance, word, is_wide)| {
            if is_wide {
                Place { is_shared, distance, offset: word / 2 * 8, n_bytes: 8 }
            } else {
                Place { is_shared, distance, offset: word * 4, n_bytes: 4 }
            }
        },
    )
}

pub(crate) fn access(
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

pub(crate) fn fence() -> impl Strategy<Value = Action> + Clone {
    (0_usize..12, prop::bool::weighted(0.3))
        .prop_map(|(thread, of_block)| Action::Fence { thread, of_block })
}

pub(crate) fn joint() -> impl Strategy<Value = Action> + Clone {
    let named = prop_oneof![2 => Just(!0_u32), 1 => any::<u32>()];
    prop_oneof![
        2 => (0_usize..12, named).prop_map(|(thread, named)| Action::SyncWarp { thread, named }),
        3 => (0_usize..12).prop_map(|thread| Action::Meet { thread, named: !0 }),
        1 => Just(Action::Barrier),
        1 => Just(Action::ClusterBarrier),
    ]
}

/// Two words of flags and two of data, in each memory; few accesses of data, since most programs
/// would race otherwise, and now and then any access of either.
pub(crate) fn single() -> impl Strategy<Value = Vec<Action>> {
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
pub(crate) fn relay() -> impl Strategy<Value = Vec<Action>> {
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

pub(crate) fn program() -> impl Strategy<Value = Program> {
    let schedule = prop::sample::select(&[Schedule::InOrder, Schedule::Reverse][..]);
    let pieces = (0_usize..6, prop_oneof![2 => single(), 1 => relay()]);
    let pieces = prop::collection::vec(pieces, 2..16);
    let blocks = prop::sample::select(&[(1, 1), (2, 1), (3, 1), (2, 2), (4, 2), (3, 3)][..]);
    (prop::sample::select(SHAPES), blocks, schedule, pieces).prop_map(
        |(threads, (n_blocks, n_together), schedule, pieces)| {
            let in_block = |(block, actions): (usize, Vec<Action>)| {
                actions.into_iter().map(move |action| (block, action))
            };
            let actions = pieces.into_iter().flat_map(in_block).collect();
            Program { threads, n_blocks, n_together, schedule, actions }
        },
    )
}
