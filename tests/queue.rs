//! Queues, buffers and views, on every executor.
#![allow(unsafe_code)]

#[path = "queue/arena.rs"]
mod arena;
mod common;

use std::ffi::c_void;

use half::{bf16, f16};
use lacuna::launch::{self, Grid, Kernel, KernelParams};
use lacuna::select::{CompactInputs, CompactOutputs, CompactPlan, CompactShape, compact_rows};
use lacuna::simt::Config;
use lacuna::{Element, Error, Memory, Queue, View, ViewMut};
use proptest::prelude::*;

fn simt() -> Queue {
    Queue::simt(Config::default())
}

#[test]
fn memory_is_zero_when_allocated() {
    for queue in common::queues() {
        // More than once, so that a freed allocation may come back.
        for _ in 0..3 {
            let mut buffer = queue.alloc::<u16>(1001).unwrap();
            assert_eq!(buffer.len(), 1001);
            assert_eq!(buffer.memory(), queue.memory());
            assert_eq!(buffer.view().address() % 256, 0, "{}", queue.executor());
            assert!(queue.download(&buffer.view()).unwrap().iter().all(|x| *x == 0));
            queue.upload_into(&[0xDEAD; 1001], &mut buffer.view_mut()).unwrap();
        }
    }
}

#[test]
fn pinned_memory_is_the_hosts_and_the_queues() {
    for queue in common::queues() {
        let mut pinned = queue.alloc_pinned::<u16>(1001).unwrap();
        assert!(pinned.is_pinned());
        assert_eq!(pinned.memory(), queue.memory());
        let slice = queue.pinned_slice(&mut pinned).unwrap();
        assert_eq!(slice, [0; 1001]);
        slice[1000] = 7;
        assert_eq!(queue.download(&pinned.view()).unwrap()[999..], [0, 7]);
        queue.upload_into(&[5; 1001], &mut pinned.view_mut()).unwrap();
        assert_eq!(queue.pinned_slice(&mut pinned).unwrap(), [5; 1001]);
        queue.fill_zero(&mut pinned.view_mut()).unwrap();
        assert_eq!(queue.pinned_slice(&mut pinned).unwrap(), [0; 1001]);
        assert!(queue.pinned_slice(&mut queue.alloc_pinned::<u64>(0).unwrap()).unwrap().is_empty());

        let mut own = queue.alloc::<u16>(3).unwrap();
        assert!(!own.is_pinned());
        let error = queue.pinned_slice(&mut own).unwrap_err().to_string();
        assert!(error.starts_with("address of pinned memory: "), "{error}");
        let error = queue.alloc_pinned::<u64>(usize::MAX / 4).unwrap_err();
        assert!(matches!(error, Error::Range { .. }), "{error}");
    }
}

fn assert_round_trip<T: Element + PartialEq>(queue: &Queue, values: &[T]) {
    let buffer = queue.upload(values).unwrap();
    let back = queue.download(&buffer.view()).unwrap();
    let (back, values) =
        (bytemuck::cast_slice::<T, u8>(&back), bytemuck::cast_slice::<T, u8>(values));
    assert!(back == values, "{} on {}", T::NAME, queue.executor());
}

#[test]
fn every_element_type_survives_a_round_trip() {
    for queue in common::queues() {
        assert_round_trip(&queue, &[u8::MAX, 0, 7]);
        assert_round_trip(&queue, &[u16::MAX, 0, 7]);
        assert_round_trip(&queue, &[u32::MAX, 0, 7]);
        assert_round_trip(&queue, &[u64::MAX, 0, 7]);
        assert_round_trip(&queue, &[i8::MIN, 0, 7]);
        assert_round_trip(&queue, &[i32::MIN, 0, 7]);
        assert_round_trip(&queue, &[i64::MIN, 0, 7]);
        // A signalling NaN must not turn quiet on the way.
        assert_round_trip(&queue, &[f32::from_bits(0x7F80_0001), -0.0]);
        assert_round_trip(&queue, &[f16::from_bits(0x7C01), f16::NEG_ZERO]);
        assert_round_trip(&queue, &[bf16::from_bits(0x7F81), bf16::NEG_ZERO]);
    }
}

#[test]
fn nothing_is_a_size_too() {
    for queue in common::queues() {
        let mut buffer = queue.upload::<u64>(&[]).unwrap();
        assert!(buffer.is_empty() && buffer.view().is_empty());
        assert!(queue.download(&buffer.view()).unwrap().is_empty());
        queue.upload_into(&[], &mut buffer.view_mut()).unwrap();
        queue.fill_zero(&mut buffer.view_mut()).unwrap();
        queue.synchronize().unwrap();
    }
}

#[test]
fn a_slice_reads_and_writes_its_elements_alone() {
    for queue in common::queues() {
        let mut buffer = queue.upload(&[0_u32, 1, 2, 3, 4, 5]).unwrap();
        let middle = buffer.view().slice(1..5).unwrap();
        assert_eq!(queue.download(&middle).unwrap(), [1, 2, 3, 4]);
        assert_eq!(queue.download(&middle.slice(1..3).unwrap()).unwrap(), [2, 3]);
        assert!(middle.slice(4..4).unwrap().is_empty());

        let mut view = buffer.view_mut();
        let mut tail = view.slice_mut(4..6).unwrap();
        queue.upload_into(&[40, 50], &mut tail).unwrap();
        queue.fill_zero(&mut tail.slice_mut(1..2).unwrap()).unwrap();
        assert_eq!(queue.download(&tail.as_view()).unwrap(), [40, 0]);
        assert_eq!(queue.download(&buffer.view()).unwrap(), [0, 1, 2, 3, 40, 0]);
    }
}

#[test]
#[expect(clippy::reversed_empty_ranges, reason = "callers can write them")]
fn a_slice_outside_is_an_error_with_both_numbers() {
    let mut buffer = simt().alloc::<u32>(6).unwrap();
    for (range, message) in [
        (0..7, "elements 0..7 of device memory that holds 6"),
        (7..7, "elements 7..7 of device memory that holds 6"),
        (3..2, "elements 3..2 of device memory that holds 6"),
        (0..usize::MAX, "elements 0..18446744073709551615 of device memory that holds 6"),
    ] {
        let error = buffer.view().slice(range.clone()).unwrap_err();
        assert_eq!(error.to_string(), message);
        let error = buffer.view_mut().slice_mut(range).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn lengths_that_differ_are_refused_and_nothing_is_written() {
    for queue in common::queues() {
        let mut buffer = queue.upload(&[1_u8, 2, 3]).unwrap();
        let error = queue.upload_into(&[9, 9], &mut buffer.view_mut()).unwrap_err();
        assert_eq!(error.to_string(), "target of an upload: expected 2, got 3");
        let mut host = [7_u8; 4];
        let error = queue.download_into(&buffer.view(), &mut host).unwrap_err();
        assert_eq!(error.to_string(), "target of a download: expected 3, got 4");
        assert_eq!(host, [7; 4]);
        assert_eq!(queue.download(&buffer.view()).unwrap(), [1, 2, 3]);
    }
}

#[test]
fn memory_of_another_executor_is_refused() {
    let queue = simt();
    // SAFETY: refused before it is used.
    let mut elsewhere = unsafe { ViewMut::<u8>::from_raw(256, 4, Memory::Cuda(0)) };
    let expected = "target of a fill is in the memory of CUDA device 0, and the queue works on \
                    the memory of the SIMT executor";
    assert_eq!(queue.fill_zero(&mut elsewhere).unwrap_err().to_string(), expected);
    assert!(matches!(
        queue.upload_into(&[0; 4], &mut elsewhere),
        Err(Error::WrongQueue { expected: Memory::Simt, found: Memory::Cuda(0), .. })
    ));
    assert!(matches!(queue.download(&elsewhere.as_view()), Err(Error::WrongQueue { .. })));
}

/// As much as may be taken for memory of another queue, without a wait of the host's.
#[test]
fn a_queue_lends_what_it_has_and_gets_it_back() {
    for queue in common::queues() {
        let other = common::beside(&queue);
        let numbers = queue.upload(&[1_u32, 2, 3]).unwrap();
        let mut zeros = queue.upload(&[7_u32; 3]).unwrap();
        let mut pinned = queue.alloc_pinned::<u32>(2).unwrap();
        let lists =
            (vec![numbers.view(); 2], zeros.view_mut(), Some(pinned.view_mut()), numbers.view());
        let found = queue.lend(&other, lists, |(both, mut zeros, pinned, numbers)| {
            other.fill_zero(&mut zeros.slice_mut(1..2)?)?;
            other.upload_into(&[9], &mut pinned.unwrap().slice_mut(1..2)?)?;
            // Whoever has lent it for reading may read.
            Ok((other.download(&both[1])?, other.download(&numbers.slice(1..3)?)?))
        });
        assert_eq!(found.unwrap(), (vec![1, 2, 3], vec![2, 3]));
        assert_eq!(queue.download(&zeros.view()).unwrap(), [7, 0, 7]);
        assert_eq!(queue.pinned_slice(&mut pinned).unwrap(), [0, 9]);

        let error = queue.lend(&other, numbers.view(), |view| view.slice(2..4).map(|_| ()));
        assert!(matches!(error, Err(Error::Slice { .. })));
        let view = std::panic::AssertUnwindSafe(|| {
            queue.lend(&other, zeros.view_mut(), |mut zeros| -> Result<(), Error> {
                other.fill_zero(&mut zeros)?;
                std::panic::resume_unwind(Box::new(()))
            })
        });
        assert!(std::panic::catch_unwind(view).is_err());
        assert_eq!(queue.download(&zeros.view()).unwrap(), [0; 3]);
        // A queue and its clone are one.
        let same = queue.lend(&queue.clone(), numbers.view(), |view| queue.download(&view));
        assert_eq!(same.unwrap(), [1, 2, 3]);
    }
}

#[test]
fn a_buffer_goes_to_the_queue_that_adopts_it() {
    for queue in common::queues() {
        let other = common::beside(&queue);
        other.wait_for(&queue).unwrap();
        let mut buffer = queue.upload(&[1_u32, 2, 3]).unwrap();
        let mut pinned = queue.alloc_pinned::<u32>(2).unwrap();
        other.adopt(&mut buffer).unwrap();
        other.adopt(&mut pinned).unwrap();
        other.fill_zero(&mut buffer.view_mut().slice_mut(0..1).unwrap()).unwrap();
        assert_eq!(other.download(&buffer.view()).unwrap(), [0, 2, 3]);
        assert_eq!(other.pinned_slice(&mut pinned).unwrap(), [0; 2]);
        if queue.memory() != Memory::Simt {
            assert!(matches!(queue.download(&buffer.view()), Err(Error::WrongStream { .. })));
        }
        drop((queue, buffer, pinned));
        other.synchronize().unwrap();
    }
}

#[test]
fn a_workspace_elsewhere_is_called_so() {
    let queue = simt();
    let plan = CompactPlan::new(CompactShape::of(1, 20_000, 16)).unwrap();
    let kept = queue.alloc(plan.mask_len() as usize).unwrap();
    let mut indices = queue.alloc(plan.indices_len() as usize).unwrap();
    let mut counts = queue.alloc(1).unwrap();
    // SAFETY: refused before it is used.
    let workspace =
        unsafe { ViewMut::from_raw(256, plan.workspace_len() as usize, Memory::Cuda(0)) };
    let mut outputs = CompactOutputs {
        indices: indices.view_mut(),
        counts: counts.view_mut(),
        offsets: None,
        row_starts: None,
        workspace,
    };
    let inputs = CompactInputs::whole(kept.view());
    let error = compact_rows(&queue, &plan, &inputs, &mut outputs).unwrap_err();
    assert!(matches!(error, Error::WrongQueue { what: "workspace", .. }), "{error}");
}

#[test]
fn a_view_is_lent_again_whole() {
    for queue in common::queues() {
        let mut buffer = queue.upload(&[1_u32, 2, 3]).unwrap();
        let mut view = buffer.view_mut();
        let address = view.address();
        for value in [4, 5] {
            let mut again = view.reborrow();
            assert_eq!((again.address(), again.len()), (address, 3));
            queue.upload_into(&[value; 3], &mut again).unwrap();
        }
        assert_eq!(queue.download(&view.as_view()).unwrap(), [5; 3]);
    }
}

#[test]
fn what_is_not_a_queues_own_is_not_lent() {
    let queue = simt();
    // SAFETY: refused before it is used.
    let elsewhere = unsafe { View::<u8>::from_raw(256, 4, Memory::Cuda(0)) };
    let error = queue.lend(&simt(), elsewhere, |_| Ok(())).unwrap_err();
    assert!(matches!(error, Error::WrongQueue { what: "memory to lend", .. }), "{error}");
}

#[test]
fn sizes_past_the_address_space_are_refused() {
    for queue in common::queues() {
        let error = queue.alloc::<u64>(usize::MAX / 4).unwrap_err();
        assert!(matches!(error, Error::Range { .. }), "{error}");
        let error = queue.alloc::<u8>(isize::MAX as usize).unwrap_err();
        assert!(matches!(error, Error::Range { .. } | Error::Driver { .. }), "{error}");
    }
}

#[test]
fn memory_of_an_engine_is_read_and_written_in_place() {
    let queue = simt();
    let mut engine = [1_u32, 2, 3, 4];
    let address = engine.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: four aligned elements, used through this view alone while it lives.
    let mut view = unsafe { ViewMut::<u32>::from_raw(address, 4, Memory::Simt) };
    queue.upload_into(&[20, 30], &mut view.slice_mut(1..3).unwrap()).unwrap();
    assert_eq!(engine, [1, 20, 30, 4]);
    let address = engine.as_ptr().expose_provenance() as u64;
    // SAFETY: four aligned elements that nothing writes.
    let view = unsafe { View::<u32>::from_raw(address, 4, Memory::Simt) };
    assert_eq!(queue.download(&view).unwrap(), engine);
}

#[test]
fn handles_may_be_shared_between_threads() {
    fn assert_shared<T: Send + Sync>() {}
    assert_shared::<Queue>();
    assert_shared::<lacuna::Device>();
    assert_shared::<lacuna::Buffer<bf16>>();
    assert_shared::<View<'_, bf16>>();
    assert_shared::<ViewMut<'_, bf16>>();
    assert_shared::<Error>();
}

/// Counts the threads that ran.
#[repr(C)]
#[derive(Clone, Copy)]
struct CountParams {
    count: u64,
}

unsafe extern "C" fn count_threads(params: *const c_void, _is_checked: u32) {
    use std::sync::atomic::{AtomicU64, Ordering};
    // SAFETY: the launch below gives the address of one u64, in memory that outlives it.
    unsafe {
        let count = (*params.cast::<CountParams>()).count as usize;
        let count = std::ptr::with_exposed_provenance_mut::<u64>(count);
        AtomicU64::from_ptr(count).fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: `count_threads` takes this struct. There is no image of it, so a CUDA launch is an error.
unsafe impl KernelParams for CountParams {
    const KERNEL: Kernel = Kernel { room: "tests", entry: "count_threads", simt: count_threads };
}

fn count(queue: &Queue, blocks: [u32; 3], threads: [u32; 3]) -> Result<u64, Error> {
    let buffer = queue.alloc::<u64>(1)?;
    let params = CountParams { count: buffer.view().address() };
    let grid = Grid { blocks, threads, dynamic_shared_bytes: 0, cluster_blocks: 1 };
    // SAFETY: one u64 of the queue's own memory, read only after the launch.
    unsafe { launch::launch(queue, &grid, &params, |_| {}) }?;
    Ok(queue.download(&buffer.view())?[0])
}

#[test]
fn a_launch_runs_every_thread_once() {
    assert_eq!(count(&simt(), [3, 2, 1], [64, 1, 2]).unwrap(), 3 * 2 * 64 * 2);
    assert_eq!(count(&simt(), [1, 1, 1], [1024, 1, 1]).unwrap(), 1024);
}

#[test]
fn a_grid_without_blocks_runs_nothing() {
    for blocks in [[0, 1, 1], [1, 0, 1], [1, 1, 0]] {
        assert_eq!(count(&simt(), blocks, [32, 1, 1]).unwrap(), 0);
    }
}

#[test]
fn a_grid_that_no_device_takes_is_refused_before_it_runs() {
    for (blocks, threads) in [
        ([1 << 31, 1, 1], [1, 1, 1]),
        ([0, 1 << 16, 1], [1, 1, 1]),
        ([1, 1, 1], [0, 1, 1]),
        ([1, 1, 1], [33, 32, 1]),
        ([1, 1, 1], [u32::MAX; 3]),
    ] {
        let error = count(&simt(), blocks, threads).unwrap_err();
        assert!(matches!(error, Error::Range { .. }), "{error}");
    }
}

#[test]
fn a_kernel_without_an_image_is_an_error_on_cuda() {
    for queue in common::queues().into_iter().filter(|queue| queue.memory() != Memory::Simt) {
        let error = count(&queue, [1; 3], [1; 3]).unwrap_err();
        assert!(matches!(error, Error::Image { room: "tests", .. }), "{error}");
    }
}

proptest! {
    #[test]
    fn any_slice_is_what_the_slice_of_the_host_is(
        values in prop::collection::vec(any::<u16>(), 0..64),
        start in 0_usize..80,
        end in 0_usize..80,
    ) {
        let queue = simt();
        let buffer = queue.upload(&values).unwrap();
        match (values.get(start..end), buffer.view().slice(start..end)) {
            (Some(expected), Ok(view)) => {
                let got = queue.download(&view).unwrap();
                prop_assert_eq!(got, expected);
            }
            (None, Err(Error::Slice { .. })) => {}
            (expected, got) => prop_assert!(false, "{:?} and {:?}", expected, got),
        }
    }
}
