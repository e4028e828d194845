//! A cache that grows where it is gives the bits of one that does not.

use lacuna::attention::{
    AttendInputs, AttendOutputs, AttendPlan, AttendShape, Segment, SegmentShape, Tokens, attend,
};
use lacuna::kv::{ArenaShape, KvArena, KvLists, KvView, KvViewMut, Packing, PageOrder};
use lacuna::select::{Absent, KvRows, KvRowsMut, KvRowsPlan, gather_kv, scatter_kv};
use lacuna::{Buffer, Queue};

use super::problem::*;
use crate::common;

const LAYER: u64 = 1;

/// Every token of a cache, or of this list of them, to another.
fn copy_tokens(queue: &Queue, from: &KvView<'_, Brain>, to: &mut KvViewMut<'_, Brain>, n: u64) {
    let kv = *from.layout.shape();
    let indices: Vec<i32> = (0..kv.batch).flat_map(|_| 0..n as i32).collect();
    let indices = queue.upload(&indices).unwrap();
    let plan = KvRowsPlan::new(from.layout, n, KvLists::PerRequest).unwrap();
    let rows = || queue.alloc::<Brain>(plan.rows_len() as usize).unwrap();
    let (mut keys, mut values) = (rows(), rows());
    let mut gathered = KvRowsMut { keys: keys.view_mut(), values: Some(values.view_mut()) };
    gather_kv(queue, &plan, from, &indices.view(), Absent::Zeros, &mut gathered).unwrap();
    let plan = KvRowsPlan::new(to.layout, n, KvLists::PerRequest).unwrap();
    let rows = KvRows { keys: keys.view(), values: Some(values.view()) };
    scatter_kv(queue, &plan, &rows, &indices.view(), to).unwrap();
}

fn attend_over(
    queue: &Queue,
    plan: &AttendPlan,
    cache: KvView<'_, Brain>,
    queries: &Buffer<Brain>,
) -> Results<f32> {
    let mut outputs = queue.upload(&vec![poison::<f32>(); plan.outputs_len() as usize]).unwrap();
    let mut log_sums = queue.upload(&vec![POISON; plan.log_sums_len() as usize]).unwrap();
    let mut workspace = queue.alloc::<u32>(plan.workspace_len() as usize).unwrap();
    let segments = [Segment { cache, indices: None, counts: None, biases: None }];
    let inputs =
        AttendInputs { queries: queries.view(), segments: &segments, sinks: None, skips: None };
    let mut views = AttendOutputs {
        outputs: outputs.view_mut(),
        log_sums: Some(log_sums.view_mut()),
        workspace: workspace.view_mut(),
    };
    attend(queue, plan, &inputs, &mut views).unwrap();
    let log_sums = queue.download(&log_sums.view()).unwrap();
    Results {
        outputs: queue.download(&outputs.view()).unwrap(),
        log_sums: log_sums.into_iter().map(f32::to_bits).collect(),
    }
}

/// One request grows, one is released and comes again, a third one's memory is where the second's was.
#[test]
fn an_arena_that_grows_gives_the_bits_of_a_cache_that_does_not() {
    let n_heads = 2;
    for queue in common::queues().iter().filter(|queue| queue.mma_model().is_some()) {
        for (page_order, packing, page_size) in [
            (PageOrder::Nhd, Packing::LayersTogether, 16),
            (PageOrder::Hnd, Packing::LayersTogether, 12),
            (PageOrder::Nhd, Packing::LayersApart, 7),
            (PageOrder::Hnd, Packing::LayersApart, 64),
        ] {
            let shape = ArenaShape {
                n_slots: 3,
                max_tokens: 300,
                n_layers: 2,
                n_heads,
                row_len: 32,
                page_size,
                page_order,
                packing,
                ..ArenaShape::default()
            };
            let mut arena = KvArena::<Brain>::reserve(queue, shape).unwrap();
            let segment = SegmentShape::of(*arena.layout(), Tokens::ALL);
            let plan = AttendPlan::new(AttendShape::of(arena.layout(), 4), &[segment]).unwrap();
            let mut tables = Vec::new();
            for lengths in [[1, 0, 20], [40, 130, 0], [41, 0, 131], [300, 7, 299], [300, 0, 300]] {
                // Rows of a place are the same at every length, so that only new ones must be written.
                let case = Case { lengths: lengths.to_vec(), n_heads, ..Case::default() };
                let problem = case.build::<Brain>();
                let data = &problem.segments[0];
                let [keys, values] =
                    [&data.keys, &data.values].map(|all| queue.upload(all).unwrap());
                let page_table = queue.upload(&data.page_table).unwrap();
                let lengths_there = queue.upload(&data.lengths).unwrap();
                let ordinary = KvView {
                    layout: case.kv_layout().unwrap(),
                    keys: keys.view(),
                    values: Some(values.view()),
                    page_table: page_table.view(),
                    lengths: lengths_there.view(),
                    key_scale: 1.0,
                    value_scale: 1.0,
                };
                for (slot, n_tokens) in (0..).zip(lengths) {
                    match n_tokens {
                        0 => arena.release(slot).unwrap(),
                        n => arena.grow(slot, n.into()).unwrap(),
                    }
                    arena.grow_ahead(slot, u64::from(n_tokens + 30).min(300)).unwrap();
                }
                let mut target = arena.view_mut(LAYER, lengths_there.view()).unwrap();
                copy_tokens(queue, &ordinary, &mut target, 300.min(ordinary.layout.n_rows()));

                let n = plan.queries_len() as usize;
                let queries: Vec<_> =
                    (0..n as u64).map(|i| Brain::from_f32(number_at(9, [i, 0, 0, 0]))).collect();
                let queries = queue.upload(&queries).unwrap();
                let segment = SegmentShape::of(ordinary.layout, Tokens::ALL);
                let ordinary_plan =
                    AttendPlan::new(AttendShape::of(&ordinary.layout, 4), &[segment]).unwrap();
                let expected = attend_over(queue, &ordinary_plan, ordinary, &queries);
                let what = format!("{page_order:?} {packing:?} {lengths:?}, {}", queue.executor());
                let cache = arena.view(LAYER, lengths_there.view()).unwrap();
                assert_results(&attend_over(queue, &plan, cache, &queries), &expected, &what);
                assert!(expected.outputs.iter().any(|x| *x != 0.0 && x.is_finite()));
                tables.push(cache.page_table.address());

                // Lengths past what is there end where it does, at the last row of the last page.
                let wild = queue.upload(&[u32::MAX; 3]).unwrap();
                let whole_pages = |slot| arena.capacity(slot).next_multiple_of(page_size) as u32;
                let there: Vec<u32> = (0..3).map(whole_pages).collect();
                let there = queue.upload(&there).unwrap();
                let [wild, there] = [&wild, &there].map(|lengths| {
                    let cache = arena.view(LAYER, lengths.view()).unwrap();
                    attend_over(queue, &plan, cache, &queries)
                });
                assert_results(&wild, &there, &what);
            }
            assert!(tables.iter().all(|address| *address == tables[0]));
        }
    }
}

/// A graph that was captured over a slot of 20 tokens is launched over one of 300.
#[test]
#[allow(unsafe_code)]
fn a_captured_graph_stays_right_while_the_arena_grows() {
    use lacuna::Device;
    use lacuna::cudarc::driver::sys;

    // It says why there is none, or fails where one must be.
    if common::queues().len() == 1 {
        return;
    }
    let device = Device::open(0).unwrap();
    device.warm_up().unwrap();
    let check = |code: sys::CUresult| assert_eq!(code as u32, 0);
    let mut stream = std::ptr::null_mut();
    // SAFETY: the device keeps its context; one handle is written, of a stream that lives as long as the process.
    let queue = unsafe {
        check(sys::cuCtxSetCurrent(device.context()));
        check(sys::cuStreamCreate(&mut stream, 1));
        device.borrow_stream(stream)
    };
    let shape = ArenaShape {
        n_slots: 2,
        max_tokens: 300,
        n_layers: 2,
        n_heads: 2,
        row_len: 32,
        ..ArenaShape::default()
    };
    let mut arena = KvArena::<Brain>::reserve(&queue, shape).unwrap();
    let plan = AttendPlan::new(
        AttendShape::of(arena.layout(), 4),
        &[SegmentShape::of(*arena.layout(), Tokens::ALL)],
    )
    .unwrap();
    let n = plan.queries_len() as usize;
    let queries: Vec<_> =
        (0..n as u64).map(|i| Brain::from_f32(number_at(9, [i, 0, 0, 0]))).collect();
    let queries = queue.upload(&queries).unwrap();
    let mut lengths = queue.upload(&[20_u32, 0]).unwrap();
    let mut outputs = queue.alloc::<f32>(plan.outputs_len() as usize).unwrap();
    let mut workspace = queue.alloc::<u32>(plan.workspace_len() as usize).unwrap();
    arena.grow(0, 20).unwrap();
    let mut graph = std::ptr::null_mut();
    let mut executable = std::ptr::null_mut();
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
    // SAFETY: the stream is ours, and no other thread uses it.
    unsafe {
        check(sys::cuStreamBeginCapture_v2(stream, mode));
        let cache = arena.view(LAYER, lengths.view()).unwrap();
        let segments = [Segment { cache, indices: None, counts: None, biases: None }];
        let inputs =
            AttendInputs { queries: queries.view(), segments: &segments, sinks: None, skips: None };
        let mut views = AttendOutputs {
            outputs: outputs.view_mut(),
            log_sums: None,
            workspace: workspace.view_mut(),
        };
        attend(&queue, &plan, &inputs, &mut views).unwrap();
        // Mapping goes on meanwhile, and spoils nothing; growing would become a part of the graph.
        arena.grow_ahead(1, 300).unwrap();
        while !arena.is_ready(1, 300) {
            std::thread::yield_now();
        }
        assert!(arena.grow(1, 1).is_err());
        check(sys::cuStreamEndCapture(stream, &mut graph));
        check(sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0));
    }
    for n_tokens in [20, 300, 7] {
        let case = Case { lengths: vec![n_tokens, 300], n_heads: 2, ..Case::default() };
        let data = &case.build::<Brain>().segments[0];
        let [keys, values] = [&data.keys, &data.values].map(|all| queue.upload(all).unwrap());
        let page_table = queue.upload(&data.page_table).unwrap();
        queue.upload_into(&data.lengths, &mut lengths.view_mut()).unwrap();
        let ordinary = KvView {
            layout: case.kv_layout().unwrap(),
            keys: keys.view(),
            values: Some(values.view()),
            page_table: page_table.view(),
            lengths: lengths.view(),
            key_scale: 1.0,
            value_scale: 1.0,
        };
        arena.grow(0, n_tokens.into()).unwrap();
        arena.grow(1, 300).unwrap();
        let mut target = arena.view_mut(LAYER, lengths.view()).unwrap();
        copy_tokens(&queue, &ordinary, &mut target, 300);
        // SAFETY: the graph is alive, and so is all that it works on.
        unsafe { check(sys::cuGraphLaunch(executable, stream)) };
        let of_graph = queue.download(&outputs.view()).unwrap();
        let cache = arena.view(LAYER, lengths.view()).unwrap();
        assert_eq!(of_graph, attend_over(&queue, &plan, cache, &queries).outputs);
        let segment = SegmentShape::of(ordinary.layout, Tokens::ALL);
        let plan = AttendPlan::new(AttendShape::of(&ordinary.layout, 4), &[segment]).unwrap();
        let expected = attend_over(&queue, &plan, ordinary, &queries).outputs;
        assert_eq!(of_graph, expected, "{n_tokens}");
        arena.shrink(0, 0).unwrap();
    }
    // SAFETY: made once, and nothing of it runs any more.
    unsafe {
        check(sys::cuStreamSynchronize(stream));
        check(sys::cuGraphExecDestroy(executable));
        check(sys::cuGraphDestroy(graph));
    }
}
