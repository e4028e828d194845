//! CUDA's memory model, written down as plainly as it is defined: what happened before what, and which
//! accesses race. It shares no idea with the executor's checks.

use super::program::{Event, What};

/// A relation of events to those after them.
pub(crate) struct Relation(Vec<Vec<bool>>);

impl Relation {
    pub(crate) fn new(n: usize, holds: impl Fn(usize, usize) -> bool) -> Self {
        Self((0..n).map(|a| (0..n).map(|b| a < b && holds(a, b)).collect()).collect())
    }

    pub(crate) fn holds(&self, a: usize, b: usize) -> bool {
        self.0[a][b]
    }

    pub(crate) fn closed(mut self) -> Self {
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
pub(crate) fn observes(events: &[Event], write: usize, read: usize) -> bool {
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
pub(crate) fn happens_before(events: &[Event]) -> Relation {
    let n = events.len();
    // Program order, barriers of blocks and clusters, and __syncwarp.
    let in_cluster = Relation::new(n, |a, b| events[a].is_of_same_thread(&events[b])).closed();
    let observed = Relation::new(n, |write, read| observes(events, write, read));
    // The fence may be of the writing thread, or of any where a barrier stands between; but a barrier
    // does of itself for the block what a fence of the block could.
    let releases = Relation::new(n, |fence, write| {
        let What::Fence { of_block } = events[fence].what else { return false };
        let [from, to] = [&events[fence], &events[write]];
        let is_barrier = |event: &Event| match event.what {
            What::Barrier => from.block == to.block && event.block == to.block,
            What::ClusterBarrier => from.cluster == to.cluster && event.cluster == to.cluster,
            _ => false,
        };
        from.is_of_same_thread(to) || !of_block && events[fence..write].iter().any(is_barrier)
    });
    // What a fence of another block hands on within the cluster, whose barrier did before, is nothing to a
    // fence of the block but the write.
    let is_in_scope = |a: usize, write: usize, b: usize| match (events[a].what, events[b].what) {
        (What::Fence { of_block: a_of_block }, What::Fence { of_block: b_of_block }) => {
            let is_of_one_block = [a, write].iter().all(|i| events[*i].block == events[b].block);
            is_of_one_block || (!a_of_block && !b_of_block)
        }
        _ => false,
    };
    let mut before = Relation::new(n, |a, b| in_cluster.holds(a, b));
    let mut received = Vec::new();
    for write in 0..n {
        for read in (write..n).filter(|read| observed.holds(write, *read)) {
            for after in (read..n).filter(|after| in_cluster.holds(read, *after)) {
                for fence in (0..write).filter(|fence| releases.holds(*fence, write)) {
                    if is_in_scope(fence, write, after) {
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
pub(crate) struct Race {
    pub(crate) a: usize,
    pub(crate) b: usize,
    pub(crate) is_declared: bool,
}

/// A race that the executor must find, before one that it may miss.
pub(crate) fn find_race(events: &[Event]) -> Option<Race> {
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
