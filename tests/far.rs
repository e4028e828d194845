//! Rows so far apart that 32 bits do not hold what lies between them, in elements: a launch gives what it
//! gives where they lie close, which the tests of the rooms hold against references. Memory that nobody
//! writes is not there.

mod common;

use common::Random;
use half::bf16;
use lacuna::attention::{
    CopyInputs, CopyOutputs, CopyPlan, LogBase, MergeOutputs, MergePlan, MergeShape, Partial,
    PartialShape, PoolShape, Pools, PoolsLayout, copy_pages, merge_partials,
};
use lacuna::huffman::lane::{DeviceLane, LaneShape};
use lacuna::kv::{KvLayout, KvShape, KvView, KvViewMut};
use lacuna::quant::{
    AppendOutputs, AppendPlan, AppendShape, ChannelViews, NewTokens, PageLists, PagesPlan,
    PagesShape, Tier, TierPools, TierPoolsMut, append_kv, dequantize_pages, quantize_pages,
};
use lacuna::select::{
    Absent, CompactInputs, CompactOutputs, CompactPlan, CompactShape, Repeats, RowStrides,
    RowsPlan, RowsShape, ScoreInputs, ScoreOutputs, ScorePlan, ScoreShape, SummarizeInputs,
    SummarizeOutputs, SummarizePlan, SummarizeShape, Summary, TopkInputs, TopkOutputs, TopkPlan,
    TopkShape, compact_rows, gather_rows, scatter_rows, score_rows, summarize, topk_rows,
};
use lacuna::{Buffer, Element, Queue};

/// Three rows lie across 2^32 elements.
const FAR: usize = (1 << 31) + 64;

fn numbers(n: usize, seed: u64) -> Vec<bf16> {
    let mut random = Random(seed);
    (0..n).map(|_| bf16::from_f32(random.normal())).collect()
}

/// Zeros but for rows at these places.
fn placed<T: Element>(queue: &Queue, len: usize, rows: &[(usize, &[T])]) -> Buffer<T> {
    let mut buffer = queue.alloc(len).unwrap();
    let mut all = buffer.view_mut();
    for (start, row) in rows {
        let mut target = all.slice_mut(*start..start + row.len()).unwrap();
        queue.upload_into(row, &mut target).unwrap();
    }
    buffer
}

/// `n_rows` rows of `row_len`, with so many elements from one to the next.
fn apart<T: Element>(queue: &Queue, rows: &[T], row_len: usize, stride: usize) -> Buffer<T> {
    let rows: Vec<_> =
        rows.chunks(row_len).enumerate().map(|(idx, row)| (idx * stride, row)).collect();
    let len = (rows.len() - 1) * stride + row_len;
    placed(queue, len, &rows)
}

fn rows_of<T: Element>(queue: &Queue, buffer: &Buffer<T>, starts: &[usize], n: usize) -> Vec<T> {
    let row =
        |start: &usize| queue.download(&buffer.view().slice(*start..start + n).unwrap()).unwrap();
    starts.iter().flat_map(row).collect()
}

/// What a launch gives with rows so close and so far.
#[track_caller]
fn assert_same<T: PartialEq + std::fmt::Debug>(
    strides: [usize; 2],
    run: impl Fn(&Queue, usize) -> T,
) {
    for queue in common::queues() {
        let [close, far] = strides.map(|stride| run(&queue, stride));
        assert_eq!(far, close, "{}", queue.executor());
    }
}

#[test]
fn scores_that_are_picked() {
    let scores = numbers(3 * 40, 1);
    assert_same([40, FAR], |queue, stride| {
        let shape = TopkShape { row_stride: stride as u64, ..TopkShape::of::<bf16>(3, 40, 5) };
        let plan = TopkPlan::new(shape).unwrap();
        let scores = apart(queue, &scores, 40, stride);
        let (mut indices, mut counts) = (queue.alloc(15).unwrap(), queue.alloc(3).unwrap());
        let inputs = TopkInputs::whole(scores.view());
        let mut outputs = TopkOutputs::new(indices.view_mut(), counts.view_mut());
        topk_rows(queue, &plan, &inputs, &mut outputs).unwrap();
        let found: Vec<i32> = queue.download(&indices.view()).unwrap();
        assert!(found.windows(2).any(|pair| pair[0] != pair[1]));
        found
    });
}

#[test]
fn masks_that_are_compacted() {
    let mut random = Random(2);
    let mask: Vec<u8> = (0..3 * 100).map(|_| (random.next() % 2) as u8).collect();
    assert_same([100, FAR], |queue, stride| {
        let shape = CompactShape { row_stride: stride as u64, ..CompactShape::of(3, 100, 100) };
        let plan = CompactPlan::new(shape).unwrap();
        let kept = apart(queue, &mask, 100, stride);
        let (mut indices, mut counts) = (queue.alloc(300).unwrap(), queue.alloc(3).unwrap());
        let mut workspace = queue.alloc(plan.workspace_len() as usize).unwrap();
        let mut outputs = CompactOutputs {
            indices: indices.view_mut(),
            counts: counts.view_mut(),
            offsets: None,
            row_starts: None,
            workspace: workspace.view_mut(),
        };
        let inputs = CompactInputs::whole(kept.view());
        compact_rows(queue, &plan, &inputs, &mut outputs).unwrap();
        let found: Vec<u32> = queue.download(&counts.view()).unwrap();
        (found, queue.download(&indices.view()).unwrap())
    });
}

#[test]
fn rows_that_move() {
    let table = numbers(3 * 32, 3);
    assert_same([32, FAR], |queue, stride| {
        let shape = RowsShape {
            n_lists: 1,
            n_indices: 3,
            index_stride: 3,
            n_table_rows: 3,
            row_len: 32,
            table: RowStrides { list: 0, row: stride as u64 },
            list: RowStrides { list: 96, row: 32 },
            element_bytes: 2,
        };
        let plan = RowsPlan::new(shape).unwrap();
        let source = apart(queue, &table, 32, stride);
        let indices = queue.upload(&[2, 0, 1]).unwrap();
        let mut gathered = queue.alloc(96).unwrap();
        let absent = Absent::Zeros;
        gather_rows(
            queue,
            &plan,
            &source.view(),
            &indices.view(),
            absent,
            &mut gathered.view_mut(),
        )
        .unwrap();
        let found = queue.download(&gathered.view()).unwrap();
        assert_eq!(found[..32], table[64..]);
        let mut target = apart(queue, &[bf16::ZERO; 96], 32, stride);
        let (source, mut target_view) = (gathered.view(), target.view_mut());
        let repeats = &mut Repeats::Never;
        scatter_rows(queue, &plan, &source, &indices.view(), repeats, &mut target_view).unwrap();
        let starts = [0, stride, 2 * stride];
        assert_eq!(rows_of(queue, &target, &starts, 32), table);
        found
    });
}

/// Three pages of two tokens, named in descending order.
const TABLE: [i32; 3] = [2, 1, 0];

fn layout(row_len: u64, page_stride: usize, page_size: u64) -> KvLayout {
    KvLayout::new(KvShape {
        batch: 1,
        n_heads: 1,
        row_len,
        n_pages: 3,
        page_size,
        table_stride: 3,
        page_stride: page_stride as u64,
        token_stride: row_len,
        head_stride: row_len,
        ..KvShape::default()
    })
    .unwrap()
}

/// Rows of all pages, one page after the other.
fn pool(queue: &Queue, layout: &KvLayout, rows: &[bf16]) -> Buffer<bf16> {
    let shape = layout.shape();
    apart(queue, rows, (shape.page_size * shape.row_len) as usize, shape.page_stride as usize)
}

fn starts(layout: &KvLayout) -> [usize; 3] {
    [0, 1, 2].map(|page| page * layout.shape().page_stride as usize)
}

#[test]
fn keys_that_are_scored_and_summarized() {
    let (keys, query) = (numbers(3 * 128, 4), numbers(64, 5));
    assert_same([128, FAR], |queue, stride| {
        let layout = layout(64, stride, 2);
        let keys = pool(queue, &layout, &keys);
        let (table, lengths) = (queue.upload(&TABLE).unwrap(), queue.upload(&[6]).unwrap());
        let cache = KvView {
            layout,
            keys: keys.view(),
            values: None,
            page_table: table.view(),
            lengths: lengths.view(),
            key_scale: 1.0,
            value_scale: 1.0,
        };
        let plan = ScorePlan::new(ScoreShape::of(layout, 1)).unwrap();
        let queries = queue.upload(&query).unwrap();
        let mut scores = queue.alloc::<f32>(plan.scores_len() as usize).unwrap();
        let inputs = ScoreInputs { queries: queries.view(), cache, skips: None };
        let mut outputs = ScoreOutputs { scores: scores.view_mut(), softmax: None };
        score_rows(queue, &plan, &inputs, &mut outputs).unwrap();
        let scores = queue.download(&scores.view()).unwrap();
        assert!(scores[..6].iter().all(|score| *score != 0.0));

        let of_summaries = KvShape { tokens_per_row: 2, page_size: 1, ..*layout.shape() };
        let summaries = KvLayout::new(of_summaries).unwrap();
        let plan = SummarizePlan::new(SummarizeShape {
            keys: layout,
            summaries,
            summary: Summary::Mean,
            max_new: 6,
            key_bytes: 2,
            outlier_stride: 0,
        })
        .unwrap();
        let mut means = queue.alloc::<bf16>(summaries.pool_len() as usize).unwrap();
        let inputs = SummarizeInputs { keys: cache, summary_table: table.view(), first_new: None };
        let mut outputs = SummarizeOutputs { rows: means.view_mut(), outliers: None };
        summarize(queue, &plan, &inputs, &mut outputs).unwrap();
        (scores, rows_of(queue, &means, &starts(&summaries), 64))
    });
}

#[test]
fn partial_results_that_are_merged() {
    let parts = [numbers(3 * 16, 6), numbers(3 * 16, 7)];
    assert_same([16, FAR], |queue, stride| {
        let dense = MergeShape { base: LogBase::Two, ..MergeShape::of(3, 1, 16) };
        let shape = MergeShape { output_stride: stride as u64, ..dense };
        let part = PartialShape { stride: stride as u64, ..dense.part() };
        let plan = MergePlan::new(shape, &[part; 2]).unwrap();
        let on_device = parts.each_ref().map(|part| apart(queue, part, 16, stride));
        let log_sums =
            [[0.5, 1.0, -2.0], [1.5, -1.0, 3.0]].map(|sums| queue.upload(&sums).unwrap());
        let mut merged = queue.alloc::<bf16>(plan.outputs_len() as usize).unwrap();
        let parts = [0, 1].map(|idx| Partial {
            outputs: on_device[idx].view(),
            log_sums: log_sums[idx].view(),
            mask: None,
        });
        let mut outputs = MergeOutputs { outputs: merged.view_mut(), log_sums: None };
        merge_partials(queue, &plan, &parts, &mut outputs).unwrap();
        rows_of(queue, &merged, &[0, stride, 2 * stride], 16)
    });
}

#[test]
fn pages_that_are_copied() {
    let pages = numbers(3 * 64, 8);
    assert_same([64, FAR], |queue, stride| {
        let pool = PoolShape { page_len: 64, page_stride: stride as u64 };
        let layout = PoolsLayout::new(3, 2, vec![pool]).unwrap();
        let plan = CopyPlan::new(1, 3, &layout, &layout).unwrap();
        let sources =
            Pools::new(queue, layout.clone(), vec![apart(queue, &pages, 64, stride)]).unwrap();
        let empty = apart(queue, &[bf16::ZERO; 192], 64, stride);
        let mut targets = Pools::new(queue, layout, vec![empty]).unwrap();
        let pairs = queue.upload(&[2, 0, 0, 2, 1, 1]).unwrap();
        let inputs = CopyInputs { pairs: pairs.view(), counts: None };
        copy_pages(queue, &plan, &sources, &mut targets, &inputs, &mut CopyOutputs::default())
            .unwrap();
        let copied = targets.view(0).unwrap();
        let page = |at: usize| {
            queue.download(&copied.slice(at * stride..at * stride + 64).unwrap()).unwrap()
        };
        assert_eq!(page(0), pages[128..]);
        [0, 1, 2].map(page)
    });
}

/// Of rows far apart, into pages whose pool is as long.
#[test]
fn rows_that_become_pages_and_rows() {
    let (rows, page_bytes) = (numbers(3 * 32 * 32, 9), 64 * 32 * 2);
    assert_same([32 * 32, FAR], |queue, stride| {
        let layout = layout(32, stride, 32);
        let last = if stride == FAR { FAR.div_ceil(page_bytes) * 2 } else { 1 };
        let shape =
            PagesShape { n_pool_pages: [last as u64 + 2, 0, 0, 0], ..PagesShape::of(layout, 1) };
        let plan = PagesPlan::new(shape).unwrap();
        let [keys, values] = [0, 1].map(|_| pool(queue, &layout, &rows));
        let (table, lengths) = (queue.upload(&TABLE).unwrap(), queue.upload(&[96]).unwrap());
        let indices: Vec<i32> = (0..64).map(|idx| 95 - idx).collect();
        let indices = queue.upload(&indices).unwrap();
        let tag = Tier::T16.tag() << 30;
        let entries = [0, 1].map(|part| queue.upload(&[tag | (last + part) as u32]).unwrap());
        let channels = ChannelViews::default();
        let lists = PageLists {
            indices: indices.view(),
            counts: None,
            key_entries: entries[0].view(),
            value_entries: entries[1].view(),
            key_channels: channels,
            value_channels: channels,
        };
        let mut pages = queue.alloc::<u8>(plan.pool_bytes(Tier::T16) as usize).unwrap();
        let source = KvView {
            layout,
            keys: keys.view(),
            values: Some(values.view()),
            page_table: table.view(),
            lengths: lengths.view(),
            key_scale: 1.0,
            value_scale: 1.0,
        };
        let mut written = TierPoolsMut::default();
        written.pools[0] = Some(pages.view_mut());
        quantize_pages(queue, &plan, &source, &lists, &mut written).unwrap();
        let found = rows_of(queue, &pages, &[last * page_bytes], 2 * page_bytes);

        let mut back = [0, 1].map(|_| pool(queue, &layout, &[bf16::ZERO; 3 * 32 * 32]));
        let [back_keys, back_values] = &mut back;
        let mut target = KvViewMut {
            layout,
            keys: back_keys.view_mut(),
            values: Some(back_values.view_mut()),
            page_table: table.view(),
            lengths: lengths.view(),
        };
        let mut read = TierPools::default();
        read.pools[0] = Some(pages.view());
        dequantize_pages(queue, &plan, &mut read, &lists, &mut target).unwrap();
        let back = rows_of(queue, &back[0], &starts(&layout), 32 * 32);
        // The first 32 tokens, those of the last page, are in no list.
        assert_eq!(back[..2 * 1024], rows[..2 * 1024]);
        (found, back)
    });
}

#[test]
fn tokens_that_are_appended() {
    let rows = numbers(3 * 16, 10);
    assert_same([16, FAR], |queue, stride| {
        let layout = layout(16, stride, 1);
        let shape = AppendShape {
            key_stride: stride as u64,
            value_stride: stride as u64,
            ..AppendShape::of(layout, 3)
        };
        let plan = AppendPlan::new(shape).unwrap();
        let new = apart(queue, &rows, 16, stride);
        let mut cache = [0, 1].map(|_| pool(queue, &layout, &[bf16::ZERO; 48]));
        let (table, lengths) = (queue.upload(&TABLE).unwrap(), queue.upload(&[0]).unwrap());
        let mut new_lengths = queue.alloc(1).unwrap();
        let tokens = NewTokens {
            keys: new.view(),
            values: new.view(),
            counts: None,
            keeps: None,
            positions: None,
            cos_sin: None,
        };
        let [keys, values] = &mut cache;
        let mut target = KvViewMut {
            layout,
            keys: keys.view_mut(),
            values: Some(values.view_mut()),
            page_table: table.view(),
            lengths: lengths.view(),
        };
        let mut outputs =
            AppendOutputs { new_lengths: new_lengths.view_mut(), dropped: None, workspace: None };
        append_kv(queue, &plan, &tokens, &mut target, &mut outputs).unwrap();
        let found = rows_of(queue, &cache[0], &starts(&layout), 16);
        let expected = [&rows[32..], &rows[16..32], &rows[..16]].concat();
        assert_eq!(found, expected);
        found
    });
}

#[test]
fn matrices_of_lanes() {
    let weights = numbers(18 * 24, 11);
    let shape = LaneShape::new(18, 24).unwrap();
    assert_same([24, (1 << 28) + 8], |queue, stride| {
        let original = apart(queue, &weights, 24, stride);
        let lane = DeviceLane::pack(queue, shape, &original.view(), stride as u64).unwrap();
        let mut back = apart(queue, &[bf16::ZERO; 18 * 24], 24, stride);
        lane.unpack(queue, &mut back.view_mut(), stride as u64).unwrap();
        let starts: Vec<_> = (0..18).map(|row| row * stride).collect();
        assert_eq!(rows_of(queue, &back, &starts, 24), weights);
        lane.download(queue).unwrap()
    });
}
