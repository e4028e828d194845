//! Weights from one format to another without leaving a queue's memory: the bits are the same in each.

use half::bf16;
use lacuna::huffman::compact::{self, Encoder};
use lacuna::huffman::lane::{self, DeviceLane, LaneShape};
use lacuna::huffman::{Checkpoint, DeviceWeights};
use lacuna::{Buffer, Queue};

use crate::common::{self, GOLDEN, Trained};

/// The matrices of a golden group, and where their weights are in it.
fn matrices(trained: &Trained) -> Vec<(LaneShape, std::ops::Range<usize>)> {
    let mut end = 0;
    let matrix = |[n_rows, n_columns]: &[u64; 2]| {
        let shape = LaneShape::new(*n_rows, *n_columns).unwrap();
        let first = end;
        end += shape.n_weights() as usize;
        (shape, first..end)
    };
    trained.shapes.iter().map(matrix).collect()
}

/// The weights of a golden group, of the file that was encoded.
fn original(trained: &Trained) -> Vec<bf16> {
    let bytes = common::bf16_tensors(trained.bf16);
    bytes.as_chunks().0.iter().map(|weight| bf16::from_le_bytes(*weight)).collect()
}

/// A golden group, decoded in a queue's memory.
fn decode_df11(queue: &Queue, trained: &Trained) -> Buffer<bf16> {
    let checkpoint = Checkpoint::open(common::data(trained.df11)).unwrap();
    let weights = DeviceWeights::upload(queue, checkpoint.groups().unwrap()).unwrap();
    let mut output = queue.alloc(weights.plan().output_len() as usize).unwrap();
    let mut workspace = queue.alloc(weights.plan().workspace_len() as usize).unwrap();
    weights.decode(queue, &mut workspace.view_mut(), &mut output.view_mut()).unwrap();
    weights.check(queue, &workspace.view()).unwrap();
    output
}

/// Packs each matrix and unpacks it again, to a buffer of its own.
fn through_lanes(queue: &Queue, trained: &Trained, weights: &Buffer<bf16>) -> Buffer<bf16> {
    let mut output = queue.alloc(weights.len()).unwrap();
    for (shape, range) in matrices(trained) {
        let stride = shape.n_columns();
        let source = weights.view().slice(range.clone()).unwrap();
        let planes = DeviceLane::pack(queue, shape, &source, stride).unwrap();
        let mut target = output.view_mut();
        planes.unpack(queue, &mut target.slice_mut(range).unwrap(), stride).unwrap();
    }
    output
}

/// Encodes weights and decodes them again, to a buffer of its own; and the group is the CPU's.
fn through_compact(queue: &Queue, weights: &Buffer<bf16>, original: &[bf16]) -> Buffer<bf16> {
    let mut encoder = Encoder::new(queue, weights.len() as u64).unwrap();
    let group = encoder.encode(queue, &weights.view()).unwrap();
    let expected = compact::encode(&[bytemuck::cast_slice(original)]).unwrap();
    assert!(group.download(queue).unwrap() == expected, "not the CPU's group");
    let device = DeviceWeights::borrow(queue, [group.views()]).unwrap();
    let mut output = queue.alloc(weights.len()).unwrap();
    let mut status = queue.alloc(2).unwrap();
    device.decode(queue, &mut status.view_mut(), &mut output.view_mut()).unwrap();
    device.check(queue, &status.view()).unwrap();
    output
}

#[track_caller]
fn assert_bits(queue: &Queue, found: &Buffer<bf16>, original: &[bf16]) {
    let found = queue.download(&found.view()).unwrap();
    let bits = |weights: &[bf16]| bytemuck::cast_slice::<bf16, u16>(weights).to_vec();
    assert!(bits(&found) == bits(original), "bits differ on {}", queue.executor());
}

#[test]
fn matrices_of_df11_groups_become_lanes() {
    for queue in common::queues() {
        for trained in &GOLDEN {
            let original = original(trained);
            let weights = decode_df11(&queue, trained);
            assert_bits(&queue, &through_lanes(&queue, trained, &weights), &original);
        }
    }
}

#[test]
fn df11_groups_become_compact_groups() {
    for queue in common::queues() {
        for trained in &GOLDEN {
            let original = original(trained);
            let weights = decode_df11(&queue, trained);
            assert_bits(&queue, &through_compact(&queue, &weights, &original), &original);
        }
    }
}

#[test]
fn lanes_become_compact_groups() {
    for queue in common::queues() {
        for trained in &GOLDEN {
            let original = original(trained);
            let mut weights = queue.alloc(original.len()).unwrap();
            for (shape, range) in matrices(trained) {
                let own = bytemuck::cast_slice(&original[range.clone()]);
                let packed = lane::pack(own, shape).unwrap();
                let planes = DeviceLane::upload(&queue, &packed.as_raw()).unwrap();
                let mut target = weights.view_mut();
                let mut target = target.slice_mut(range).unwrap();
                planes.unpack(&queue, &mut target, shape.n_columns()).unwrap();
            }
            assert_bits(&queue, &through_compact(&queue, &weights, &original), &original);
        }
    }
}
