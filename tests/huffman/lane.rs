//! Laws of the lane format's packer, reference and CPU decoder, without a launch.

use lacuna::huffman::lane::{self, LaneMatrix, LaneShape, reference};

use crate::common::clustered_weights;

/// Packs, and unpacks by both decoders.
#[track_caller]
fn assert_round_trip(weights: &[u16], n_rows: u64, n_columns: u64) -> LaneMatrix {
    let shape = LaneShape::new(n_rows, n_columns).unwrap();
    let matrix = lane::pack(weights, shape).unwrap();
    let mut unpacked = vec![0x5555; weights.len()];
    reference::unpack(&matrix.as_raw(), &mut unpacked);
    assert!(unpacked == weights, "reference");
    unpacked.fill(0x5555);
    lane::unpack(&matrix.as_raw(), &mut unpacked);
    assert!(unpacked == weights, "CPU decoder");
    matrix
}

#[test]
fn bits_come_back_at_the_edges_of_tiles() {
    for n_rows in [1, 15, 16, 17, 33] {
        for n_columns in [1, 2, 127, 128, 129, 300] {
            let weights = clustered_weights((n_rows * n_columns) as usize, n_rows ^ n_columns << 8);
            assert_round_trip(&weights, n_rows, n_columns);
        }
    }
}
