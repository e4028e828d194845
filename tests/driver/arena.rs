//! What the cache that grows asks of a driver: the fake one knows the protocol of virtual memory, and every call of it
//! fails once.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::ptr::without_provenance_mut;
use std::thread;
use std::time::Duration;

use half::bf16;
use lacuna::kv::{ArenaShape, KvArena, Packing};
use lacuna::{Device, Error, Memory, Queue, View};

use super::{CAPTURED, Fake, checked, enter_stranger, mark, say};

/// Small chunks, of which a page of 16 tokens of both layers is one.
pub(super) const SMALL: &str = "FAKE_GRANULARITY=65536";
pub(super) const CHUNK: u64 = 65_536;
pub(super) const SHAPE: ArenaShape = ArenaShape {
    n_slots: 3,
    max_tokens: 128,
    n_layers: 2,
    n_heads: 8,
    row_len: 64,
    page_size: 16,
    page_order: lacuna::kv::PageOrder::Nhd,
    packing: Packing::LayersTogether,
    chunk_bytes: 0,
    limit_bytes: None,
};

/// The fake driver's knobs, in the library that the process has loaded.
pub(super) struct Knobs(libloading::Library);

impl Knobs {
    pub(super) fn find() -> Self {
        // SAFETY: it is loaded already.
        Self(unsafe { libloading::Library::new("libcuda.so") }.unwrap())
    }

    /// One of its functions.
    ///
    /// # Safety
    /// `F` is the function's type.
    pub(super) unsafe fn get<F: Copy>(&self, name: &CStr) -> F {
        // SAFETY: passed on to the caller.
        *unsafe { self.0.get(name.to_bytes_with_nul()) }.unwrap()
    }

    pub(super) fn set(&self, name: &str, value: i32) {
        // SAFETY: a function of the fake driver that takes one int.
        unsafe { self.0.get::<unsafe extern "C" fn(i32)>(name.as_bytes()).unwrap()(value) }
    }

    /// The call after so many fails by a code.
    pub(super) fn fail(&self, at: i32, code: i32) {
        // SAFETY: a function of the fake driver that takes two ints.
        unsafe { self.0.get::<unsafe extern "C" fn(i32, i32)>(b"fake_fail").unwrap()(at, code) }
    }

    pub(super) fn ask(&self, name: &str) -> i32 {
        // SAFETY: a function of the fake driver that returns an int.
        unsafe { self.0.get::<unsafe extern "C" fn() -> i32>(name.as_bytes()).unwrap()() }
    }

    /// What the fake driver knows of two streams.
    pub(super) fn is_ordered(&self, before: usize, after: usize) -> bool {
        type Ask = unsafe extern "C" fn(usize, usize) -> i32;
        // SAFETY: a function of the fake driver that takes two handles.
        unsafe { self.0.get::<Ask>(b"fake_is_ordered").unwrap()(before, after) != 0 }
    }

    pub(super) fn calls(&self) -> i32 {
        self.ask("fake_calls")
    }

    /// Waits until the mapper stands in this call, where it stays.
    fn block(&self, call: i32, then: impl FnOnce()) {
        self.set("fake_block", call);
        then();
        wait_until("blocked", || self.ask("fake_is_blocked") == 1);
    }

    /// Ranges, chunks, mapped chunks, violations.
    pub(super) fn balance(&self) -> [i32; 4] {
        let mut counts = [0; 4];
        // SAFETY: a function of the fake driver that writes four ints.
        unsafe {
            self.0.get::<unsafe extern "C" fn(*mut i32)>(b"fake_balance").unwrap()(
                counts.as_mut_ptr(),
            );
        }
        counts
    }
}

pub(super) fn step(step: &str) {
    enter_stranger();
    let device = Device::open(0).unwrap();
    let queue = device.queue().unwrap();
    match step {
        "arena life" => life(&queue),
        "arena short" => short(&queue),
        "arena failures" => failures(&queue),
        "arena end" => failures_at_the_end(&queue),
        "arena chaos" => chaos(&queue),
        "arena races" => races(&queue),
        "arena mark" => failed_mark(&queue),
        "arena capture" => capture(&device),
        "arena none" => say(KvArena::<bf16>::reserve(&queue, SHAPE).unwrap_err()),
        other => panic!("no step {other}"),
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_micros(500));
    }
    panic!("not within 10 s: {what}");
}

/// The calls between a mark and the next.
pub(super) fn of(calls: &[String], what: &str) -> Vec<String> {
    let start = calls.iter().position(|line| *line == format!("# {what}")).unwrap() + 1;
    calls[start..].iter().take_while(|line| !line.starts_with("# ")).cloned().collect()
}

/// Each page that the table names is there, whole, with both layers: else the process crashes.
fn touch(queue: &Queue, arena: &KvArena<bf16>) {
    mark("# touch");
    // SAFETY: nobody reads them.
    let lengths = unsafe { View::<u32>::from_raw(256, 3, Memory::Cuda(0)) };
    let layout = *arena.layout();
    for layer in 0..2 {
        let cache = arena.view(layer, lengths).unwrap();
        let table = queue.download(&cache.page_table).unwrap();
        for slot in 0..3 {
            for t in 0..arena.capacity(slot) {
                for h in [0, layout.shape().n_heads - 1] {
                    let start = layout.locate(&table, slot, t, h).unwrap();
                    for pool in [cache.keys, cache.values.unwrap()] {
                        let row = (pool.address() as usize + 2 * start) as *mut u64;
                        // SAFETY: the fake driver's memory is the process's, and nothing else uses it now.
                        unsafe { row.write_volatile(row.read_volatile() ^ 1) };
                    }
                }
            }
            let first_absent = arena.capacity(slot).div_ceil(16);
            let of_slot = &table[slot as usize * 8..slot as usize * 8 + 8];
            assert!(of_slot[first_absent as usize..].iter().all(|page| *page == -1));
        }
    }
}

fn life(queue: &Queue) {
    let knobs = Knobs::find();
    let mut arena = checked("reserve", || KvArena::<bf16>::reserve(queue, SHAPE)).unwrap();
    checked("grow", || arena.grow(0, 20)).unwrap();
    checked("grow within", || arena.grow(0, 32)).unwrap();
    touch(queue, &arena);
    checked("ahead", || arena.grow_ahead(0, 64)).unwrap();
    wait_until("ready", || arena.is_ready(0, 64));
    checked("grow into what is ahead", || arena.grow(0, 49)).unwrap();
    checked("shrink", || arena.shrink(0, 17)).unwrap();
    checked("grow back", || arena.grow(0, 33)).unwrap();
    checked("release", || arena.release(0)).unwrap();
    checked("release again", || arena.release(0)).unwrap();
    checked("grow another", || arena.grow(1, 32)).unwrap();
    touch(queue, &arena);
    knobs.set("fake_hold_events", 1);
    checked("grow while the first is in use", || arena.grow(1, 48)).unwrap();
    knobs.set("fake_hold_events", 0);
    checked("trim", || arena.trim(CHUNK)).unwrap();
    checked("stock", || arena.stock(2 * CHUNK)).unwrap();
    touch(queue, &arena);
    checked("drop", || drop(arena));
    mark("# end");
    say(format!("{:?}", knobs.balance()));
}

#[test]
fn an_arena_makes_its_calls_and_leaves_the_context_as_found() {
    let fake = Fake::driver(&[SMALL]);
    assert_eq!(fake.say("arena life"), "[0, 0, 0, 0]");
    let calls = fake.calls();
    let of = |what: &str| of(&calls, what);
    assert_eq!(
        of("reserve"),
        [
            "cuMemGetAllocationGranularity",
            "cuMemAllocAsync",
            "cuMemsetD8Async",
            "cuMemcpyHtoDAsync",
            "cuStreamSynchronize",
            "cuMemAllocAsync",
            "cuMemsetD8Async",
            "cuMemsetD8Async",
            "cuMemAddressReserve",
            "cuThreadExchangeStreamCaptureMode relaxed",
        ]
    );
    // Chunks are made and put one by one, and opened together; then the table names two pages.
    assert_eq!(
        of("grow"),
        [
            "cuMemCreate",
            "cuMemMap 0+1 chunk 1",
            "cuMemCreate",
            "cuMemMap 1+1 chunk 2",
            "cuMemSetAccess 0+2",
            "cuMemcpyDtoDAsync 8",
        ]
    );
    assert_eq!(of("grow within"), [""; 0]);
    assert_eq!(
        of("ahead").iter().filter(|call| call.starts_with("cuMem")).collect::<Vec<_>>(),
        [
            "cuMemCreate",
            "cuMemMap 2+1 chunk 3",
            "cuMemSetAccess 2+1",
            "cuMemCreate",
            "cuMemMap 3+1 chunk 4",
            "cuMemSetAccess 3+1",
        ]
    );
    assert_eq!(of("grow into what is ahead"), ["cuMemcpyDtoDAsync 8"]);
    assert_eq!(
        of("shrink"),
        ["cuMemsetD8Async", "cuEventCreate untimed", "cuEventRecord stream 0x5010"]
    );
    assert_eq!(of("grow back"), ["cuMemcpyDtoDAsync 4"]);
    assert_eq!(of("release"), ["cuMemsetD8Async", "cuEventRecord stream 0x5010"]);
    assert_eq!(of("release again"), [""; 0]);
    assert_eq!(
        of("grow another")[..7],
        [
            "cuEventQuery",
            "cuMemUnmap 3+1",
            "cuMemMap 8+1 chunk 4",
            "cuEventQuery",
            "cuMemUnmap 2+1",
            "cuMemMap 9+1 chunk 3",
            "cuMemSetAccess 8+2",
        ]
    );
    assert_eq!(
        of("grow while the first is in use")[..4],
        ["cuEventQuery", "cuMemCreate", "cuMemMap 10+1 chunk 5", "cuMemSetAccess 10+1"]
    );
    assert_eq!(
        of("trim"),
        [
            "cuEventSynchronize",
            "cuMemUnmap 1+1",
            "cuEventSynchronize",
            "cuMemUnmap 0+1",
            "cuMemRelease chunk 1",
        ]
    );
    assert_eq!(of("stock")[..1], ["cuMemCreate"]);
    assert_eq!(
        of("drop"),
        [
            "cuStreamSynchronize",
            "cuMemUnmap 10+1",
            "cuMemUnmap 9+1",
            "cuMemUnmap 8+1",
            "cuMemRelease chunk 2",
            "cuMemRelease chunk 6",
            "cuMemRelease chunk 5",
            "cuMemRelease chunk 3",
            "cuMemRelease chunk 4",
            "cuEventDestroy",
            "cuMemAddressFree",
            "cuMemFreeAsync",
            "cuMemFreeAsync",
        ]
    );
}

fn short(queue: &Queue) {
    let knobs = Knobs::find();
    let mut arena = KvArena::<bf16>::reserve(queue, SHAPE).unwrap();
    knobs.set("fake_leave_chunks", 4);
    arena.grow(0, 32).unwrap();
    say(checked("too much", || arena.grow(1, 80)).unwrap_err());
    assert_eq!((arena.capacity(0), arena.capacity(1)), (32, 0));
    touch(queue, &arena);
    // The first ends, and is still in use.
    arena.release(0).unwrap();
    knobs.set("fake_hold_events", 1);
    arena.grow_ahead(1, 64).unwrap();
    wait_until("failed ahead", || arena.stats().n_failed_ahead == 1);
    assert!(arena.is_ready(1, 32) || !arena.is_ready(1, 48), "nothing waits for what is ahead");
    checked("wait", || arena.grow(1, 64)).unwrap();
    mark("# waited");
    touch(queue, &arena);
    assert_eq!(arena.stats().physical_bytes(), 4 * CHUNK);
    drop(arena);
    say(format!("{:?}", knobs.balance()));
}

#[test]
fn a_device_that_is_full_is_named_and_waited_for_before() {
    let fake = Fake::driver(&[SMALL]);
    assert_eq!(
        fake.say("arena short"),
        "a growing cache needs 196608 bytes more for slot 1, beside 262144 that are mapped and 0 that are idle, and the \
         device has no more; release slots, or reserve for fewer\n\
         [0, 0, 0, 0]"
    );
    let calls = fake.calls();
    let waits = of(&calls, "wait");
    let waits = waits.iter().filter(|call| *call == "cuEventSynchronize").count();
    assert_eq!(waits, 2, "{calls:?}");
}

/// What an engine does, each call tried twice. Returns how many failed.
fn scenario(queue: &Queue, shape: ArenaShape) -> (KvArena<bf16>, u32) {
    let mut n_failures = 0;
    let mut twice = |name: &str, run: &mut dyn FnMut() -> Result<(), Error>| {
        if let Err(error) = checked(name, &mut *run) {
            n_failures += 1;
            assert!(!error.to_string().is_empty());
            checked(name, run).unwrap();
        }
    };
    let mut made = None;
    twice("reserve", &mut || KvArena::reserve(queue, shape).map(|arena| made = Some(arena)));
    let mut arena = made.unwrap();
    twice("grow", &mut || arena.grow(0, 40));
    touch(queue, &arena);
    twice("ahead", &mut || arena.grow_ahead(2, 40));
    // A failure ahead is forgotten, and found again by `grow`.
    wait_until("ahead", || arena.is_ready(2, 40) || arena.stats().n_failed_ahead > 0);
    let n_failed_ahead = arena.stats().n_failed_ahead as u32;
    twice("grow", &mut || arena.grow(2, 40));
    twice("shrink", &mut || arena.shrink(0, 10));
    touch(queue, &arena);
    twice("grow", &mut || arena.grow(1, 64));
    touch(queue, &arena);
    twice("release", &mut || arena.release(2));
    twice("stock", &mut || arena.stock(2 * CHUNK));
    twice("grow", &mut || arena.grow(0, 128));
    twice("trim", &mut || arena.trim(0).map(|_| ()));
    twice("grow", &mut || arena.grow(2, 16));
    touch(queue, &arena);
    assert_eq!([0, 1, 2].map(|slot| arena.capacity(slot)), [128, 64, 16]);
    assert_eq!(arena.stats().live_bytes, 13 * arena.plan().step_bytes());
    (arena, n_failures + n_failed_ahead)
}

fn shapes() -> [ArenaShape; 2] {
    // Apart, a chunk is 64 tokens of one layer's keys or values, and a slot's step four of them.
    [SHAPE, ArenaShape { packing: Packing::LayersApart, page_size: 16, n_heads: 32, ..SHAPE }]
}

fn failures(queue: &Queue) {
    let knobs = Knobs::find();
    for shape in shapes() {
        knobs.fail(0, 0);
        let (arena, n_failures) = scenario(queue, shape);
        let n_calls = knobs.calls();
        assert!(n_failures == 0 && n_calls > 50, "{n_calls}");
        drop(arena);
        for (at, code) in (1..=n_calls).flat_map(|at| [2, 999].map(|code| (at, code))) {
            knobs.fail(at, code);
            let (arena, n_failures) = scenario(queue, shape);
            // Where memory is short, another slot's may do; all else is told, once.
            let is_told = n_failures == 1 || (code == 2 && n_failures == 0);
            assert!(is_told, "call {at} failing by {code}: {n_failures}");
            knobs.fail(0, 0);
            drop(arena);
            assert_eq!(knobs.balance(), [0; 4], "call {at} failing by {code}");
        }
    }
    say("sound");
}

#[test]
fn after_a_failure_of_any_call_nothing_is_lost_and_the_next_try_works() {
    assert_eq!(Fake::driver(&[SMALL]).say("arena failures"), "sound");
}

/// What the driver does not take back at the end stays, and what it would still use stays with it.
fn failures_at_the_end(queue: &Queue) {
    let knobs = Knobs::find();
    let mut kept = [0; 4];
    for at in 1..=20 {
        let (arena, _) = scenario(queue, SHAPE);
        knobs.fail(at, 999);
        drop(arena);
        let is_more = knobs.calls() >= at;
        knobs.fail(0, 0);
        let balance = knobs.balance();
        let [ranges, chunks, mapped, violations] = [0, 1, 2, 3].map(|i| balance[i] - kept[i]);
        assert_eq!(violations, 0);
        assert!(ranges <= 1 && chunks <= 1 && mapped <= ranges && mapped <= chunks, "{balance:?}");
        assert!(is_more || balance == kept, "{balance:?}");
        kept = balance;
        if ranges + chunks == 0 || kept[0] > 6 {
            // The fake driver has few ranges.
            break;
        }
    }
    assert!(kept[2] > 0, "{kept:?}");
    say("sound");
}

#[test]
fn what_a_driver_does_not_take_back_stays_whole() {
    assert_eq!(Fake::driver(&[SMALL]).say("arena end"), "sound");
}

/// Anything in any order, a third of the driver's time failing, while another thread maps.
fn chaos(queue: &Queue) {
    let knobs = Knobs::find();
    let mut state = 7_u64;
    let mut random = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
        (state >> 33) % n
    };
    for round in 0..60 {
        let shape =
            ArenaShape { chunk_bytes: [0, 2 * CHUNK][round % 2], ..shapes()[round / 2 % 2] };
        let mut arena = KvArena::<bf16>::reserve(queue, shape).unwrap();
        knobs.set("fake_leave_chunks", 8 + random(40) as i32);
        let mut last = VecDeque::new();
        for _ in 0..60 {
            knobs.fail(random(30) as i32, [2, 999][random(2) as usize]);
            knobs.set("fake_hold_events", random(2) as i32);
            let (slot, n_tokens) = (random(3), random(129));
            let step = (random(8), slot, n_tokens);
            last.push_back(step);
            let before = arena.capacity(slot);
            match step.0 {
                0..=2 => {
                    let done = arena.grow(slot, n_tokens);
                    let least = if done.is_ok() { n_tokens } else { before };
                    assert!(arena.capacity(slot) >= least.max(before), "{last:?}");
                }
                3 | 4 => arena.grow_ahead(slot, n_tokens).unwrap(),
                5 => drop(arena.shrink(slot, n_tokens)),
                6 => drop(arena.release(slot)),
                _ => drop(arena.trim(random(4) * CHUNK)),
            }
            knobs.fail(0, 0);
            touch(queue, &arena);
        }
        drop(arena);
        assert_eq!(knobs.balance(), [0; 4], "{last:?}");
    }
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().count();
    assert!(tasks <= 3, "{tasks} threads are left");
    say("sound");
}

#[test]
fn anything_in_any_order_with_failures_leaves_nothing() {
    assert_eq!(Fake::driver(&[SMALL]).say("arena chaos"), "sound");
}

/// What the mapper is about to take is nobody's, and what came into use since it asked is not taken.
fn races(queue: &Queue) {
    let (in_unmap, in_query) = (1, 2);
    let knobs = Knobs::find();
    let mut arena = KvArena::<bf16>::reserve(queue, SHAPE).unwrap();
    arena.grow(0, 32).unwrap();
    arena.release(0).unwrap();
    knobs.block(in_unmap, || arena.grow_ahead(1, 16).unwrap());
    assert!(arena.is_ready(0, 16) && !arena.is_ready(0, 32));
    // Nobody waits for the mapper, who stands in a call of the driver.
    arena.grow(0, 16).unwrap();
    assert_eq!(arena.stats().live_bytes, CHUNK);
    knobs.set("fake_block", 0);
    wait_until("ready", || arena.is_ready(1, 16));
    arena.grow(0, 32).unwrap();
    touch(queue, &arena);

    arena.release(0).unwrap();
    knobs.block(in_query, || arena.grow_ahead(2, 16).unwrap());
    arena.grow(0, 32).unwrap();
    arena.release(0).unwrap();
    knobs.set("fake_hold_events", 1);
    knobs.set("fake_block", 0);
    wait_until("ready", || arena.is_ready(2, 16));
    assert!(arena.is_ready(0, 32), "its work has not ended");
    drop(arena);
    say(format!("{:?}", knobs.balance()));
}

#[test]
fn what_two_threads_do_at_once_is_sound() {
    assert_eq!(Fake::driver(&[SMALL]).say("arena races"), "[0, 0, 0, 0]");
}

fn failed_mark(queue: &Queue) {
    let knobs = Knobs::find();
    let mut arena = KvArena::<bf16>::reserve(queue, SHAPE).unwrap();
    arena.grow(0, 32).unwrap();
    // A fill, an event, and its recording.
    knobs.fail(3, 999);
    say(arena.release(0).unwrap_err());
    assert_eq!((arena.capacity(0), arena.stats().spare_bytes), (0, 0), "its work was not marked");
    checked("again", || arena.release(0)).unwrap();
    mark("# end");
    assert_eq!(arena.stats().spare_bytes, 2 * CHUNK);
}

/// What was not marked is not let go, and is marked by the next try.
#[test]
fn nothing_is_taken_whose_end_nobody_would_see() {
    let fake = Fake::driver(&[SMALL]);
    let said = fake.say("arena mark");
    assert!(said.starts_with("cuEventRecord failed: CUDA_ERROR_UNKNOWN (999)"), "{said}");
    assert_eq!(of(&fake.calls(), "again"), ["cuEventRecord stream 0x5010"]);
}

fn capture(device: &Device) {
    // SAFETY: the fake driver takes any number for a stream.
    let queue = unsafe { device.borrow_stream(without_provenance_mut(CAPTURED)) };
    let mut arena = KvArena::<bf16>::reserve(&queue, SHAPE).unwrap();
    say(checked("grow", || arena.grow(0, 1)).unwrap_err());
    arena.grow_ahead(0, 1).unwrap();
    wait_until("ready", || arena.is_ready(0, 1));
    say(checked("grow into it", || arena.grow(0, 1)).unwrap_err());
    mark("# end");
    checked("shrink nothing", || arena.shrink(0, 0)).unwrap();
}

#[test]
fn a_stream_that_is_captured_gets_nothing_of_it() {
    let fake = Fake::driver(&[SMALL]);
    let said = fake.say("arena capture");
    for line in said.lines() {
        assert!(
            line.starts_with("KvArena::grow failed: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED (900)"),
            "{line}"
        );
    }
    assert_eq!(said.lines().count(), 2);
    assert_eq!(of(&fake.calls(), "grow into it"), [""; 0]);
}

#[test]
fn a_device_without_virtual_memory_is_refused() {
    let said = Fake::driver(&["FAKE_VIRTUAL_MEMORY=0"]).say("arena none");
    assert!(
        said.starts_with("cuMemGetAllocationGranularity failed: CUDA_ERROR_NOT_SUPPORTED (801)"),
        "{said}"
    );
}
