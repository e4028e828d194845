//! The thread that maps: it alone makes, moves and ends physical memory, and knows where each chunk is. What others ask
//! and may know of it is in [`Status`], whose lock is never held over a driver call.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::physical::Physical;
use super::plan::ArenaPlan;
use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct Mapper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    status: Mutex<Status>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct Status {
    pub(super) slots: Vec<SlotStatus>,
    /// What somebody waits for; it goes before what is ahead.
    order: Option<Order>,
    answer: Option<Result<u64>>,
    /// Slots that grow ahead, by turns.
    ahead: VecDeque<usize>,
    n_shrinks: u64,
    pub(super) n_mapped: u64,
    pub(super) n_idle: u64,
    pub(super) n_failed_ahead: u64,
    is_over: bool,
    has_ended: bool,
}

/// Steps of a slot.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct SlotStatus {
    /// Mapped and usable; the mapper's to change.
    pub(super) ready: u64,
    /// Grown to: work may use them, and nobody takes them away.
    pub(super) live: u64,
    /// Asked for ahead.
    pub(super) ahead: u64,
    /// The number of its last shrinking. It orders slots by how long ago that was, and says that there was another.
    shrunk: u64,
}

#[derive(Debug, Clone, Copy)]
enum Order {
    Begin,
    Grow { slot: usize, n_steps: u64 },
    Stock { n_chunks: u64 },
    Trim { n_kept: u64 },
}

enum Work {
    Order(Order),
    Ahead { slot: usize, n_steps: u64 },
    End,
}

/// Whose spare chunks may be taken.
#[derive(Clone, Copy, PartialEq)]
enum Reach {
    /// What slots let go and no work uses any more.
    Past,
    /// What slots let go, after a wait for the work that uses it.
    Waiting,
    /// What slots have ahead, too.
    Ahead,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mapper {
    pub(super) fn start(plan: ArenaPlan, range: Arc<dyn Physical>) -> Result<Self> {
        let n_slots = plan.shape().n_slots as usize;
        let status = Status { slots: vec![SlotStatus::default(); n_slots], ..Status::default() };
        let shared = Arc::new(Shared { status: Mutex::new(status), changed: Condvar::new() });
        let n_lanes = n_slots * plan.n_lanes() as usize;
        let worker = Worker {
            plan,
            range,
            shared: shared.clone(),
            lanes: (0..n_lanes).map(|_| Lane::default()).collect(),
            idle: Vec::new(),
            n_mapped: 0,
        };
        let thread = std::thread::Builder::new()
            .name("lacuna-mapper".to_owned())
            .spawn(move || worker.run())
            .map_err(|error| Error::Mapper { reason: error.to_string() })?;
        let mapper = Self { shared, thread: Some(thread) };
        mapper.request(Order::Begin)?;
        Ok(mapper)
    }

    pub(super) fn status(&self) -> MutexGuard<'_, Status> {
        self.shared.lock()
    }

    /// Makes so many steps of a slot live. Where they are mapped, nobody waits.
    pub(super) fn claim(&self, slot: usize, n_steps: u64) -> Result<()> {
        let mut status = self.shared.lock();
        let found = &mut status.slots[slot];
        if found.ready >= n_steps {
            found.live = found.live.max(n_steps);
            return Ok(());
        }
        drop(status);
        self.request(Order::Grow { slot, n_steps }).map(|_| ())
    }

    pub(super) fn ask_ahead(&self, slot: usize, n_steps: u64) {
        let mut status = self.shared.lock();
        let found = &mut status.slots[slot];
        found.ahead = found.ahead.max(n_steps);
        if found.ready < found.ahead && !status.ahead.contains(&slot) {
            status.ahead.push_back(slot);
            self.shared.changed.notify_all();
        }
    }

    /// The slot's work with later steps was marked.
    pub(super) fn let_go(&self, slot: usize, n_steps: u64) {
        let mut status = self.shared.lock();
        status.n_shrinks += 1;
        let shrunk = status.n_shrinks;
        let found = &mut status.slots[slot];
        let [live, ahead] = [found.live, found.ahead].map(|n| n.min(n_steps));
        *found = SlotStatus { live, ahead, shrunk, ..*found };
    }

    pub(super) fn stock(&self, n_chunks: u64) -> Result<()> {
        self.request(Order::Stock { n_chunks }).map(|_| ())
    }

    /// Chunks that went back to the device.
    pub(super) fn trim(&self, n_kept: u64) -> Result<u64> {
        self.request(Order::Trim { n_kept })
    }

    fn request(&self, order: Order) -> Result<u64> {
        let mut status = self.shared.lock();
        status.order = Some(order);
        self.shared.changed.notify_all();
        loop {
            if let Some(answer) = status.answer.take() {
                return answer;
            }
            if status.has_ended {
                return Err(Error::Mapper { reason: "it has ended by a panic".to_owned() });
            }
            status = self.shared.changed.wait(status).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // Of a panic the hook has told.
            let _ = thread.join();
        }
    }
}

/// Chunks of a slot in a lane, from its first address on.
#[derive(Debug, Default)]
struct Lane {
    chunks: Vec<u64>,
    /// The first of them are usable too.
    n_allowed: u64,
}

struct Worker {
    plan: ArenaPlan,
    range: Arc<dyn Physical>,
    shared: Arc<Shared>,
    /// `[n_slots, n_lanes]`.
    lanes: Vec<Lane>,
    /// Mapped nowhere.
    idle: Vec<u64>,
    n_mapped: u64,
}

/// Nobody waits for a thread that is no more.
struct EndMark(Arc<Shared>);

impl Drop for EndMark {
    fn drop(&mut self) {
        self.0.lock().has_ended = true;
        self.0.changed.notify_all();
    }
}

impl Worker {
    fn run(mut self) {
        let _end_mark = EndMark(self.shared.clone());
        self.range.keep(true);
        loop {
            match self.next() {
                Work::Order(order) => {
                    let answer = self.follow(order);
                    let mut status = self.shared.lock();
                    if let (Order::Grow { slot, n_steps }, Ok(_)) = (order, &answer) {
                        let found = &mut status.slots[slot];
                        found.live = found.live.max(n_steps);
                    }
                    status.answer = Some(answer);
                    self.shared.changed.notify_all();
                }
                Work::Ahead { slot, n_steps } => {
                    let has_failed = self.grow(slot, n_steps, false).is_err();
                    let mut status = self.shared.lock();
                    status.n_failed_ahead += u64::from(has_failed);
                    let found = &mut status.slots[slot];
                    if has_failed {
                        // Whoever grows there asks again, and is told.
                        found.ahead = found.ahead.min(found.ready);
                    } else if found.ready < found.ahead && !status.ahead.contains(&slot) {
                        status.ahead.push_back(slot);
                    }
                }
                Work::End => break,
            }
        }
        self.close();
    }

    fn next(&self) -> Work {
        let mut status = self.shared.lock();
        loop {
            if let Some(order) = status.order.take() {
                return Work::Order(order);
            }
            if status.is_over {
                return Work::End;
            }
            while let Some(slot) = status.ahead.pop_front() {
                let SlotStatus { ready, ahead, .. } = status.slots[slot];
                if ready < ahead {
                    return Work::Ahead { slot, n_steps: ready + 1 };
                }
            }
            status = self.shared.changed.wait(status).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn follow(&mut self, order: Order) -> Result<u64> {
        match order {
            Order::Begin => self.range.begin().map(|()| 0),
            Order::Grow { slot, n_steps } => self.grow(slot, n_steps, true).map(|()| 0),
            Order::Stock { n_chunks } => {
                let done = self.stock(n_chunks);
                self.publish(None);
                done.map(|()| 0)
            }
            Order::Trim { n_kept } => {
                let done = self.trim(n_kept);
                self.publish(None);
                done
            }
        }
    }

    fn grow(&mut self, slot: usize, n_steps: u64, is_urgent: bool) -> Result<()> {
        let done = self.map_steps(slot, n_steps, is_urgent);
        self.publish(Some(slot));
        done
    }

    /// Step by step, so that lanes never differ by more than a chunk: none has what another lacks. What a failure leaves
    /// mapped is where the next try begins.
    fn map_steps(&mut self, slot: usize, n_steps: u64, is_urgent: bool) -> Result<()> {
        while let Some(lane) = self.shortest_lane(slot, n_steps) {
            let Some(chunk) = self.obtain(slot, is_urgent)? else {
                return Err(self.full(slot, n_steps));
            };
            let offset = self.offset(slot, lane, self.n_chunks(slot, lane));
            if let Err(error) = self.range.map(offset, chunk) {
                self.idle.push(chunk);
                return Err(error);
            }
            self.lane(slot, lane).chunks.push(chunk);
            self.n_mapped += 1;
        }
        for lane in 0..self.n_lanes() {
            let n_allowed = self.lane(slot, lane).n_allowed;
            if n_allowed < n_steps {
                self.range.allow(self.offset(slot, lane, n_allowed), n_steps - n_allowed)?;
                self.lane(slot, lane).n_allowed = n_steps;
            }
        }
        Ok(())
    }

    /// The cheapest first: a chunk that exists costs no more than its mapping, and keeps the arena small.
    fn obtain(&mut self, slot: usize, is_urgent: bool) -> Result<Option<u64>> {
        if let Some(chunk) = self.idle.pop() {
            return Ok(Some(chunk));
        }
        if let Some(chunk) = self.take(Some(slot), Reach::Past)? {
            return Ok(Some(chunk));
        }
        if let Some(chunk) = self.create()? {
            return Ok(Some(chunk));
        }
        if !is_urgent {
            return Ok(None);
        }
        match self.take(Some(slot), Reach::Waiting)? {
            None => self.take(Some(slot), Reach::Ahead),
            found => Ok(found),
        }
    }

    fn create(&self) -> Result<Option<u64>> {
        if self.is_at_limit() { Ok(None) } else { self.range.create() }
    }

    fn is_at_limit(&self) -> bool {
        let n_chunks = self.n_mapped + self.idle.len() as u64;
        let limit_bytes = self.plan.shape().limit_bytes.unwrap_or(u64::MAX);
        n_chunks >= limit_bytes / self.plan.chunk_bytes()
    }

    /// Takes the last chunk of another slot that has more than it needs, of the one that shrank first.
    fn take(&mut self, but: Option<usize>, reach: Reach) -> Result<Option<u64>> {
        let mut candidates: Vec<_> = {
            let status = self.shared.lock();
            let slots = status.slots.iter().copied().enumerate();
            slots
                .filter(|(slot, found)| {
                    Some(*slot) != but && self.spare_lane(*slot, found, reach).is_some()
                })
                .collect()
        };
        candidates.sort_by_key(|(_, found)| found.shrunk);
        for (slot, found) in candidates {
            if reach != Reach::Past {
                self.range.wait_past(slot)?;
            } else if !self.range.is_past(slot)? {
                continue;
            }
            if let Some(chunk) = self.take_from(slot, found.shrunk, reach)? {
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }

    fn take_from(&mut self, slot: usize, shrunk: u64, reach: Reach) -> Result<Option<u64>> {
        let mut status = self.shared.lock();
        let found = &mut status.slots[slot];
        let Some(lane) = self.spare_lane(slot, found, reach) else { return Ok(None) };
        if found.shrunk != shrunk {
            // It has grown and shrunk since its work was asked for.
            return Ok(None);
        }
        // From here on nobody grows into it.
        let n_left = self.n_chunks(slot, lane) - 1;
        [found.ready, found.ahead] = [found.ready, found.ahead].map(|n| n.min(n_left));
        drop(status);
        let done = self.range.unmap(self.offset(slot, lane, n_left));
        let mut chunk = None;
        if done.is_ok() {
            let lane = self.lane(slot, lane);
            chunk = lane.chunks.pop();
            lane.n_allowed = lane.n_allowed.min(n_left);
            self.n_mapped -= 1;
        }
        self.publish(Some(slot));
        done.map(|()| chunk)
    }

    fn shortest_lane(&self, slot: usize, n_steps: u64) -> Option<u64> {
        let lane = (0..self.n_lanes()).min_by_key(|lane| self.n_chunks(slot, *lane))?;
        (self.n_chunks(slot, lane) < n_steps).then_some(lane)
    }

    /// The lane that has the most chunks, if that is more than its slot needs.
    fn spare_lane(&self, slot: usize, found: &SlotStatus, reach: Reach) -> Option<u64> {
        let needed = if reach == Reach::Ahead { found.live } else { found.live.max(found.ahead) };
        let lane = (0..self.n_lanes()).max_by_key(|lane| self.n_chunks(slot, *lane))?;
        (self.n_chunks(slot, lane) > needed).then_some(lane)
    }

    fn stock(&mut self, n_chunks: u64) -> Result<()> {
        while (self.idle.len() as u64) < n_chunks {
            let Some(chunk) = self.create()? else {
                let n_asked = n_chunks - self.idle.len() as u64;
                return Err(self.short(None, n_asked));
            };
            self.idle.push(chunk);
        }
        Ok(())
    }

    fn trim(&mut self, n_kept: u64) -> Result<u64> {
        while let Some(chunk) = self.take(None, Reach::Waiting)? {
            self.idle.push(chunk);
        }
        let mut n_released = 0;
        while self.idle.len() as u64 > n_kept {
            self.release_one()?;
            n_released += 1;
        }
        Ok(n_released)
    }

    fn release_one(&mut self) -> Result<()> {
        let Some(chunk) = self.idle.pop() else { return Ok(()) };
        self.range.release(chunk).inspect_err(|_| self.idle.push(chunk))
    }

    /// Ends everything. What the driver does not let go stays, and so do the addresses: they are never used again.
    fn close(mut self) {
        // Asked twice, as the first answer may be of an earlier launch.
        let is_quiet = self.n_mapped == 0
            || self.range.synchronize().is_ok()
            || self.range.synchronize().is_ok();
        let places = if is_quiet { self.lanes.len() } else { 0 };
        for place in 0..places {
            let (slot, lane) = (place / self.n_lanes() as usize, place as u64 % self.n_lanes());
            while let Some(chunk) = self.lanes[place].chunks.pop() {
                let offset = self.offset(slot, lane, self.n_chunks(slot, lane));
                if self.range.unmap(offset).is_ok() {
                    self.n_mapped -= 1;
                    self.idle.push(chunk);
                }
            }
        }
        for chunk in self.idle.drain(..) {
            // Drop reports nothing; the memory goes with the process.
            let _ = self.range.release(chunk);
        }
        self.range.keep(self.n_mapped > 0);
    }

    fn full(&self, slot: usize, n_steps: u64) -> Error {
        let there = (0..self.n_lanes()).map(|lane| self.n_chunks(slot, lane).min(n_steps));
        self.short(Some(slot as u64), n_steps * self.n_lanes() - there.sum::<u64>())
    }

    fn short(&self, slot: Option<u64>, n_chunks: u64) -> Error {
        let chunk_bytes = self.plan.chunk_bytes();
        let limit_bytes = self.plan.shape().limit_bytes;
        Error::ArenaFull {
            slot,
            asked_bytes: n_chunks.saturating_mul(chunk_bytes),
            mapped_bytes: self.n_mapped * chunk_bytes,
            idle_bytes: self.idle.len() as u64 * chunk_bytes,
            limit_bytes: limit_bytes.filter(|_| self.is_at_limit()),
        }
    }

    /// Says to others what there is now.
    fn publish(&self, slot: Option<usize>) {
        let mut status = self.shared.lock();
        (status.n_mapped, status.n_idle) = (self.n_mapped, self.idle.len() as u64);
        if let Some(slot) = slot {
            let lanes = &self.lanes[self.place(slot, 0)..self.place(slot + 1, 0)];
            let n_allowed = lanes.iter().map(|lane| lane.n_allowed);
            status.slots[slot].ready = n_allowed.min().unwrap_or(0);
        }
    }

    fn n_lanes(&self) -> u64 {
        self.plan.n_lanes()
    }

    fn place(&self, slot: usize, lane: u64) -> usize {
        slot * self.n_lanes() as usize + lane as usize
    }

    fn lane(&mut self, slot: usize, lane: u64) -> &mut Lane {
        let place = self.place(slot, lane);
        &mut self.lanes[place]
    }

    fn n_chunks(&self, slot: usize, lane: u64) -> u64 {
        self.lanes[self.place(slot, lane)].chunks.len() as u64
    }

    fn offset(&self, slot: usize, lane: u64, step: u64) -> u64 {
        self.plan.chunk_offset(lane, slot as u64, step)
    }
}
