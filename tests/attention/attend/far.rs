//! Pools of more than 2^31 elements.

use half::bf16;
use lacuna::attention::reference::{Attended, HostSegment};
use lacuna::attention::{
    AttendInputs, AttendOutputs, AttendPlan, AttendShape, PrefillInputs, PrefillOutputs,
    PrefillPlan, PrefillShape, Segment, SegmentShape, Tokens, attend, attend_prefill,
};
use lacuna::kv::{KvLayout, KvShape, KvView};

use crate::common::{self, Random};

/// The last page lies past 2^31 elements, 2^32 bytes; nothing but its ends and those of the first is ever touched.
#[test]
fn offsets_past_2_to_the_31_elements() {
    let (d, page_size) = (16, 8);
    let page_stride = (1_u64 << 30) + 64;
    let shape = KvShape {
        batch: 1,
        n_heads: 1,
        row_len: d,
        n_pages: 3,
        page_size,
        table_stride: 2,
        page_stride,
        token_stride: d,
        head_stride: d,
        ..KvShape::default()
    };
    let layout = KvLayout::new(shape).unwrap();
    assert!(layout.pool_len() > 1 << 31);
    let page_table = [2, 0];
    let n_tokens = 13;
    let mut random = Random(3);
    let mut row = || -> Vec<bf16> { (0..d).map(|_| bf16::from_f32(random.normal())).collect() };
    // Zeros that are never written take no memory.
    let mut pools = [0; 2].map(|_| vec![0_u16; layout.pool_len() as usize]);
    let rows: Vec<(usize, [Vec<bf16>; 2])> = (0..n_tokens)
        .map(|t| {
            let start = layout.locate(&page_table, 0, t, 0).unwrap();
            (start, [row(), row()])
        })
        .collect();
    for (start, rows) in &rows {
        for (pool, row) in pools.iter_mut().zip(rows) {
            pool[*start..][..d as usize].copy_from_slice(bytemuck::cast_slice(row));
        }
    }
    let query = row();
    let [keys, values] = pools.each_ref().map(|pool| bytemuck::cast_slice::<u16, bf16>(pool));
    let plan =
        AttendPlan::new(AttendShape::of(&layout, 1), &[SegmentShape::of(layout, Tokens::ALL)])
            .unwrap();
    let prefill = PrefillPlan::new(PrefillShape::of(layout, 1, 1)).unwrap();
    let segments = [HostSegment {
        keys,
        values,
        page_table: &page_table,
        lengths: &[n_tokens as u32],
        indices: &[],
        counts: None,
        biases: None,
    }];
    for queue in common::queues() {
        let Some(model) = common::model_of(&queue) else { continue };
        let mut on_device =
            [0; 2].map(|_| queue.alloc::<bf16>(layout.pool_len() as usize).unwrap());
        for (start, rows) in &rows {
            for (pool, row) in on_device.iter_mut().zip(rows) {
                let mut pool = pool.view_mut();
                let mut target = pool.slice_mut(*start..start + d as usize).unwrap();
                queue.upload_into(row, &mut target).unwrap();
            }
        }
        let (table, lengths) =
            (queue.upload(&page_table).unwrap(), queue.upload(&[n_tokens as u32]).unwrap());
        let cache = KvView {
            layout,
            keys: on_device[0].view(),
            values: Some(on_device[1].view()),
            page_table: table.view(),
            lengths: lengths.view(),
            key_scale: 1.0,
            value_scale: 1.0,
        };
        let queries = queue.upload(&query).unwrap();
        let mut outputs = queue.alloc::<f32>(d as usize).unwrap();
        let mut workspace = queue.alloc::<u32>(plan.workspace_len() as usize).unwrap();
        let inputs = AttendInputs {
            queries: queries.view(),
            segments: &[Segment::new(cache, None)],
            sinks: None,
            skips: None,
        };
        let mut written = AttendOutputs {
            outputs: outputs.view_mut(),
            log_sums: None,
            workspace: workspace.view_mut(),
        };
        attend(&queue, &plan, &inputs, &mut written).unwrap();
        let attended = Attended {
            plan: &plan,
            model,
            queries: &query,
            segments: &segments,
            sinks: None,
            low_rank: None,
        };
        let expected = attended.query(0, 0, 0).0;
        assert_eq!(queue.download(&outputs.view()).unwrap(), expected);

        // One chain, where 13 tokens are one tile of one warp: the same bits.
        let query_starts = queue.upload(&[0, 1]).unwrap();
        let inputs = PrefillInputs {
            queries: queries.view(),
            query_starts: query_starts.view(),
            query_positions: None,
            key_positions: None,
            cache,
            sinks: None,
            skips: None,
        };
        queue.fill_zero(&mut outputs.view_mut()).unwrap();
        let mut written = PrefillOutputs { outputs: outputs.view_mut(), log_sums: None };
        attend_prefill(&queue, &prefill, &inputs, &mut written).unwrap();
        assert_eq!(queue.download(&outputs.view()).unwrap(), expected);
    }
}
