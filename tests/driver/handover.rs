//! How memory goes from queue to queue: the fake driver knows what orders what, and every call fails once.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::without_provenance_mut;

use lacuna::{Buffer, Device, Error, Memory, Queue, View};

use super::arena::{Knobs, of};
use super::{CAPTURED, Fake, checked, enter_stranger, mark, say};

/// The streams that the fake driver makes first.
const FIRST: usize = 0x5010;
const SECOND: usize = 0x5020;

/// The calls that have one stream wait for another.
fn wait(by: usize, of: usize) -> [String; 4] {
    [
        "cuEventCreate untimed".to_owned(),
        format!("cuEventRecord stream {of:#x}"),
        format!("cuStreamWaitEvent stream {by:#x} for {of:#x}"),
        "cuEventDestroy".to_owned(),
    ]
}

pub(super) fn step(step: &str) {
    enter_stranger();
    let device = Device::open(0).unwrap();
    let (first, second) = (device.queue().unwrap(), device.queue().unwrap());
    match step {
        "handover order" => order(&device, &first, &second),
        "handover failures" => failures(&first, &second),
        "handover broken" => broken(&first, &second),
        "handover devices" => {
            drop(second);
            devices(device, first);
        }
        "handover capture" => capture(&device, &first),
        other => panic!("no step {other}"),
    }
    let knobs = Knobs::find();
    assert_eq!((knobs.ask("fake_events"), knobs.balance()[3]), (0, 0));
}

/// Each is before what comes next on the other.
fn are_joined(knobs: &Knobs) -> bool {
    knobs.is_ordered(FIRST, SECOND) && knobs.is_ordered(SECOND, FIRST)
}

fn order(device: &Device, first: &Queue, second: &Queue) {
    let knobs = Knobs::find();
    let numbers = first.upload(&[1_u32, 2, 3]).unwrap();
    let mut zeros = first.alloc::<u32>(3).unwrap();
    first.fill_zero(&mut zeros.view_mut()).unwrap();
    assert!(!knobs.is_ordered(FIRST, SECOND));
    checked("wait", || second.wait_for(first)).unwrap();
    assert!(knobs.is_ordered(FIRST, SECOND));
    checked("wait for oneself", || first.wait_for(&first.clone())).unwrap();
    mark("# end");

    first.fill_zero(&mut zeros.view_mut()).unwrap();
    let views = (numbers.view(), zeros.view_mut(), Some(numbers.view()));
    let found = checked("lend", || {
        first.lend(second, views, |(numbers, mut zeros, again)| {
            assert!(knobs.is_ordered(FIRST, SECOND));
            second.fill_zero(&mut zeros)?;
            // Its own queue does not take it meanwhile.
            assert!(matches!(first.download(&again.unwrap()), Err(Error::WrongStream { .. })));
            second.download(&numbers.slice(1..3)?)
        })
    });
    mark("# end");
    assert_eq!(found.unwrap(), [2, 3]);
    assert!(are_joined(&knobs));
    assert_eq!(first.download(&zeros.view()).unwrap(), [0; 3]);

    // What the closure returns or throws is the caller's, and the queues are joined.
    let fail = |view: View<'_, u32>| -> Result<(), Error> {
        second.download(&view)?;
        second.download(&view.slice(2..9)?).map(|_| ())
    };
    let error = checked("an error", || first.lend(second, numbers.view(), fail)).unwrap_err();
    assert!(matches!(error, Error::Slice { .. }), "{error}");
    assert!(are_joined(&knobs));
    let throw = |view: View<'_, u32>| -> Result<(), Error> {
        second.download(&view)?;
        resume_unwind(Box::new("thrown"))
    };
    let lend = AssertUnwindSafe(|| first.lend(second, numbers.view(), throw));
    let thrown = checked("a panic", || catch_unwind(lend)).unwrap_err();
    assert_eq!(*thrown.downcast::<&str>().unwrap(), "thrown");
    assert!(are_joined(&knobs));
    checked("lend to oneself", || first.lend(first, numbers.view(), |view| first.download(&view)))
        .unwrap();

    // On loan to a third, by who has it on loan.
    // SAFETY: the fake driver takes any number for a stream.
    let third = unsafe { device.borrow_stream(without_provenance_mut(0xE0)) };
    let sum = first.lend(second, vec![numbers.view(); 2], |views| {
        second.lend(&third, views[1], |view| Ok(third.download(&view)?.iter().sum::<u32>()))
    });
    assert_eq!(sum.unwrap(), 6);
    assert!(are_joined(&knobs) && knobs.is_ordered(0xE0, FIRST));

    // Not its own to lend.
    say(checked("not its own", || second.lend(first, numbers.view(), |_| Ok(()))).unwrap_err());
    let simt = Queue::simt(lacuna::simt::Config::default());
    say(checked("elsewhere", || first.lend(&simt, numbers.view(), |_| Ok(()))).unwrap_err());
    mark("# end");
    say(first.wait_for(&simt).unwrap_err());
    say(simt.wait_for(first).unwrap_err());
    let mut host = simt.upload(&[1_u32]).unwrap();
    say(first.adopt(&mut host).unwrap_err());
    say(simt.adopt(&mut zeros).unwrap_err());
    assert_eq!(simt.download(&host.view()).unwrap(), [1]);

    first.fill_zero(&mut zeros.view_mut()).unwrap();
    checked("adopt", || second.adopt(&mut zeros)).unwrap();
    checked("adopt again", || second.adopt(&mut zeros)).unwrap();
    mark("# end");
    assert!(knobs.is_ordered(FIRST, SECOND));
    assert!(matches!(first.download(&zeros.view()), Err(Error::WrongStream { .. })));
    assert_eq!(second.download(&zeros.view()).unwrap(), [0; 3]);
    third.adopt(&mut zeros).unwrap();
    checked("free", || drop(zeros));
    mark("# end");
    assert!(knobs.is_ordered(SECOND, 0xE0));
}

#[test]
fn memory_goes_from_queue_to_queue_in_order() {
    let fake = Fake::driver(&[]);
    assert_eq!(
        fake.say("handover order"),
        "memory to lend is in the order of another stream of the memory of CUDA device 0; use that stream's queue, or \
         have it lend the memory (`Queue::lend`)\n\
         memory to lend is in the memory of CUDA device 0, and the queue works on the memory of the SIMT executor\n\
         work to wait for is in the memory of the SIMT executor, and the queue works on the memory of CUDA device 0\n\
         work to wait for is in the memory of CUDA device 0, and the queue works on the memory of the SIMT executor\n\
         buffer to adopt is in the memory of the SIMT executor, and the queue works on the memory of CUDA device 0\n\
         buffer to adopt is in the memory of CUDA device 0, and the queue works on the memory of the SIMT executor"
    );
    let calls = fake.calls();
    let of = |what: &str| of(&calls, what);
    let (there, back) = (wait(SECOND, FIRST), wait(FIRST, SECOND));
    assert_eq!(of("wait"), there);
    for nothing in ["wait for oneself", "not its own", "elsewhere", "adopt again"] {
        assert_eq!(of(nothing), [""; 0], "{nothing}");
    }
    let download = ["cuMemcpyDtoHAsync".to_owned(), "cuStreamSynchronize".to_owned()];
    let fill = ["cuMemsetD8Async".to_owned()];
    assert_eq!(of("lend"), [&there[..], &fill, &download, &back].concat());
    assert_eq!(of("lend to oneself")[..2], download);
    for ended in ["an error", "a panic"] {
        assert_eq!(of(ended), [&there[..], &download, &back].concat(), "{ended}");
    }
    assert_eq!(of("adopt"), there);
    assert_eq!(of("free"), ["cuMemFreeAsync"]);
}

/// Each call of a loan and of an adoption fails once.
fn failures(first: &Queue, second: &Queue) {
    let knobs = Knobs::find();
    let numbers = first.upload(&[1_u32, 2, 3]).unwrap();
    let mut zeros = first.alloc::<u32>(3).unwrap();
    let mut lend = |at, code| {
        let mut has_run = false;
        knobs.fail(at, code);
        let lent = checked("lend", || {
            first.lend(second, (numbers.view(), zeros.view_mut()), |(_, mut zeros)| {
                has_run = true;
                second.fill_zero(&mut zeros)
            })
        });
        let n_calls = knobs.calls();
        knobs.fail(0, 0);
        assert_eq!(knobs.ask("fake_events"), 0);
        assert!(!has_run || knobs.is_ordered(SECOND, FIRST), "call {at}");
        // It is whose it was.
        first.fill_zero(&mut zeros.view_mut()).unwrap();
        (lent, has_run, n_calls)
    };
    assert!(matches!(lend(0, 0), (Ok(()), true, 7)));
    for (at, code) in (1..=7).flat_map(|at| [2, 999].map(|code| (at, code))) {
        let (lent, has_run, _) = lend(at, code);
        let call = ["cuEventCreate", "cuEventRecord", "cuStreamWaitEvent", "cuMemsetD8Async"];
        match (at, lent) {
            (1..=3, Err(Error::Driver { call: failed, code: found, .. })) => {
                assert_eq!((failed, found, has_run), (call[at as usize - 1], code as u32, false));
            }
            (4, Err(Error::Driver { call: failed, .. })) => assert!(failed == call[3] && has_run),
            // The host has waited, and all is as it was asked for.
            (5..=7, Ok(())) => assert!(has_run),
            (at, lent) => panic!("call {at} failing by {code}: {lent:?}"),
        }
    }
    knobs.fail(6, 2);
    let view = zeros.view_mut();
    checked("host", || first.lend(second, view, |mut zeros| second.fill_zero(&mut zeros))).unwrap();
    knobs.fail(0, 0);
    mark("# end");

    let address = zeros.view().address();
    for at in 1..=3 {
        knobs.fail(at, 999);
        let error = checked("adopt", || second.adopt(&mut zeros)).unwrap_err();
        knobs.fail(0, 0);
        assert!(matches!(error, Error::Driver { code: 999, .. }), "{error}");
        assert_eq!(knobs.ask("fake_events"), 0);
        assert_eq!(zeros.view().address(), address);
        first.download(&zeros.view()).unwrap();
    }
    second.adopt(&mut zeros).unwrap();
    second.download(&zeros.view()).unwrap();
    say("sound");
}

#[test]
fn a_call_that_fails_loses_neither_order_nor_memory() {
    for define in ["FAKE_POOLS=1", "FAKE_POOLS=0"] {
        let fake = Fake::driver(&[define]);
        assert_eq!(fake.say("handover failures"), "sound");
        let mut expected = wait(SECOND, FIRST).to_vec();
        expected.push("cuMemsetD8Async".to_owned());
        expected.extend(wait(FIRST, SECOND)[..2].to_vec());
        // The event is gone before the host waits.
        expected.extend(["cuEventDestroy", "cuStreamSynchronize"].map(str::to_owned));
        let calls = fake.calls();
        assert_eq!(of(&calls, "host"), expected);
        let count = |names: [&str; 2]| {
            calls.iter().filter(|call| names.iter().any(|name| call == name)).count()
        };
        let n_freed = count(["cuMemFreeAsync", "cuMemFree"]);
        assert_eq!(count(["cuMemAllocAsync", "cuMemAlloc"]), n_freed);
    }
}

/// Neither an event nor the host can wait: nothing is freed, nor shown to the host, before that.
fn broken(first: &Queue, second: &Queue) {
    let knobs = Knobs::find();
    let break_loan = |buffer: &Buffer<u32>| {
        // After those of the fork and of the work.
        knobs.fail(7, 2);
        let lend = || {
            first.lend(second, buffer.view(), |view| {
                knobs.set("fake_break_streams", 0);
                second.download(&view)?;
                let mut own = second.alloc::<u32>(1)?;
                second.fill_zero(&mut own.view_mut())?;
                knobs.set("fake_break_streams", 719);
                Ok(())
            })
        };
        let error = checked("break", lend).unwrap_err();
        knobs.fail(0, 0);
        error
    };
    let mut kept = first.alloc_pinned::<u32>(2).unwrap();
    let device_memory = first.alloc::<u32>(2).unwrap();
    let mut other = first.alloc::<u32>(2).unwrap();
    // A fill within the loan is a call that can fail too: so are those of its own memory.
    let error = break_loan(&device_memory);
    assert!(
        matches!(error, Error::Driver { call: "cuEventCreate" | "cuEventRecord", .. }),
        "{error}"
    );
    assert!(!knobs.is_ordered(SECOND, FIRST));
    checked("keep", || drop(device_memory));
    let error = checked("no slice", || first.pinned_slice(&mut kept).map(|_| ())).unwrap_err();
    assert!(matches!(error, Error::Driver { code: 719, .. }), "{error}");
    // Who would take the memory over waits for the same.
    let error = checked("no adoption", || second.adopt(&mut other)).unwrap_err();
    assert!(matches!(error, Error::Driver { code: 719, .. }), "{error}");
    first.adopt(&mut other).unwrap();
    checked("keep pinned", || drop(kept));
    knobs.set("fake_break_streams", 0);
    checked("heal", || first.synchronize()).unwrap();
    assert!(knobs.is_ordered(SECOND, FIRST));
    checked("free", || drop(other));
    mark("# end");
    say("sound");
}

#[test]
fn what_cannot_be_waited_for_keeps_the_memory() {
    let fake = Fake::driver(&[]);
    assert_eq!(fake.say("handover broken"), "sound");
    let calls = fake.calls();
    for kept in ["keep", "keep pinned"] {
        let calls = of(&calls, kept);
        assert!(calls.iter().all(|call| call == "cuStreamSynchronize"), "{kept}: {calls:?}");
    }
    // It is not waited for again.
    assert_eq!(of(&calls, "free"), ["cuMemFreeAsync"]);
}

/// Pinned memory goes to another device's queue, device memory does not.
fn devices(device: Device, first: Queue) {
    let knobs = Knobs::find();
    let other = Device::open(1).unwrap();
    let elsewhere = other.queue().unwrap();
    let mut pinned = first.alloc_pinned::<u32>(4).unwrap();
    let mut own = first.alloc::<u32>(4).unwrap();
    first.fill_zero(&mut own.view_mut()).unwrap();
    checked("wait", || elsewhere.wait_for(&first)).unwrap();
    checked("wait back", || first.wait_for(&elsewhere)).unwrap();
    say(elsewhere.adopt(&mut own).unwrap_err());
    say(first.lend(&elsewhere, own.view(), |_| Ok(())).unwrap_err());
    let write = |mut view: lacuna::ViewMut<'_, u32>| {
        assert_eq!(view.memory(), Memory::Cuda(1));
        elsewhere.upload_into(&[7], &mut view.slice_mut(1..2)?)
    };
    checked("lend", || first.lend(&elsewhere, pinned.view_mut(), write)).unwrap();
    assert_eq!(first.pinned_slice(&mut pinned).unwrap(), [0, 7, 0, 0]);
    checked("adopt", || elsewhere.adopt(&mut pinned)).unwrap();
    assert_eq!(pinned.memory(), Memory::Cuda(1));
    assert_eq!(elsewhere.pinned_slice(&mut pinned).unwrap(), [0, 7, 0, 0]);
    // It keeps the context that it is of, and goes in that.
    drop((own, first));
    checked("drop device", || drop(device));
    checked("unpin", || drop(pinned));
    mark("# end");
    assert_eq!(knobs.ask("fake_events"), 0);
}

#[test]
fn pinned_memory_goes_to_other_devices() {
    let fake = Fake::driver(&["FAKE_DEVICES=2"]);
    assert_eq!(
        fake.say("handover devices"),
        "buffer to adopt is in the memory of CUDA device 0, and the queue works on the memory of CUDA device 1\n\
         memory to lend is in the memory of CUDA device 0, and the queue works on the memory of CUDA device 1"
    );
    let calls = fake.calls();
    assert!(calls.iter().all(|call| !call.starts_with("VIOLATION")), "{calls:?}");
    assert_eq!(of(&calls, "drop device"), [""; 0]);
    let unpin = ["cuStreamSynchronize", "cuMemFreeHost", "cuDevicePrimaryCtxRelease"];
    assert_eq!(of(&calls, "unpin")[..3], unpin);
}

/// In a capture, loans are a fork and a join.
fn capture(device: &Device, free: &Queue) {
    let knobs = Knobs::find();
    // SAFETY: the fake driver takes any number for a stream.
    let captured = unsafe { device.borrow_stream(without_provenance_mut(CAPTURED)) };
    say(checked("isolated", || captured.wait_for(free)).unwrap_err());
    let mut buffer = captured.alloc::<u32>(1).unwrap();
    say(free.adopt(&mut buffer).unwrap_err());
    let mut own = free.alloc::<u32>(1).unwrap();
    say(captured.adopt(&mut own).unwrap_err());
    let fill = |mut view: lacuna::ViewMut<'_, u32>| free.fill_zero(&mut view);
    checked("fork and join", || captured.lend(free, buffer.view_mut(), fill)).unwrap();
    // What has forked is captured too. Where it cannot be joined, the host cannot wait for it either.
    knobs.fail(5, 2);
    say(checked("not joined", || captured.lend(free, buffer.view_mut(), fill)).unwrap_err());
    knobs.fail(0, 0);
    checked("keep", || drop(buffer));
    mark("# end");
}

#[test]
fn in_a_capture_a_loan_is_a_fork_and_a_join() {
    let fake = Fake::driver(&[]);
    let said = fake.say("handover capture");
    let said: Vec<_> = said.lines().collect();
    assert!(
        said[0].starts_with("cuStreamWaitEvent failed: CUDA_ERROR_STREAM_CAPTURE_ISOLATION (905)")
    );
    for refused in &said[1..3] {
        let start = "Queue::adopt failed: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED (900)";
        assert!(refused.starts_with(start), "{refused}");
    }
    assert!(said[3].starts_with("cuEventCreate failed: CUDA_ERROR_OUT_OF_MEMORY"), "{said:?}");
    let calls = fake.calls();
    let fill = ["cuMemsetD8Async".to_owned()];
    let (fork, join) = (wait(FIRST, CAPTURED), wait(CAPTURED, FIRST));
    assert_eq!(of(&calls, "fork and join"), [&fork[..], &fill, &join].concat());
    assert!(!of(&calls, "keep").contains(&"cuMemFreeAsync".to_owned()));
}
