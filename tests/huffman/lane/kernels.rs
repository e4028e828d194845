//! The kernels that unpack, measure and pack: bit for bit what the CPU makes, whatever the schedule.

use half::bf16;
use lacuna::huffman::lane::{
    DeviceLane, LaneMatrix, LanePackPlan, LaneShape, LaneUnpackPlan, LaneViews, LaneViewsMut,
    measure_lane, pack_lane, reference, unpack_lane,
};
use lacuna::{Error, Queue};
use proptest::prelude::*;

use super::problem::{Problem, Rows, SPECIALS, hostile, mixed_weights};
use crate::common::{self, Random};

/// Rows that let kernels read and write 16 bytes, where the columns do; and rows that do not.
fn rows_of(n_columns: u64) -> [Rows; 5] {
    [
        Rows { n_between: 0, n_before: 0 },
        Rows { n_between: n_columns.next_multiple_of(8) - n_columns, n_before: 0 },
        Rows { n_between: 8, n_before: 8 },
        Rows { n_between: 3, n_before: 0 },
        Rows { n_between: 0, n_before: 1 },
    ]
}

#[track_caller]
fn assert_unpacked(queue: &Queue, rows: Rows, matrix: &LaneMatrix) {
    let mut weights = vec![0; matrix.shape.n_weights() as usize];
    reference::unpack(&matrix.as_raw(), &mut weights);
    let expected = rows.lay(&matrix.shape, &weights).into_iter().map(bf16::to_bits);
    let found = rows.unpack(queue, matrix).unwrap();
    let first = expected.zip(&found).position(|(expected, found)| expected != *found);
    assert_eq!(first, None, "the first weight that differs, on {}", queue.executor());
}

#[track_caller]
fn assert_packed(queue: &Queue, problem: &Problem) {
    let measured = problem.measure(queue).unwrap();
    assert_eq!(measured, problem.expected_measured(), "{}", queue.executor());
    let n = problem.packed.escapes.len();
    for room in [n, n + 5, n / 2, 0] {
        let found = problem.pack(queue, &measured, room).unwrap();
        assert!(found == problem.expected_packed(room), "{}, room for {room}", queue.executor());
    }
}

/// Edges of tiles, and of a block's eight tiles.
fn edges() -> impl Iterator<Item = (u64, u64)> {
    let around =
        [(1, 1), (15, 127), (16, 128), (17, 129), (16, 1024), (17, 1023), (1, 1025), (5, 8)];
    around.into_iter().chain([(8, 120), (129, 7), (40, 2200)])
}

#[test]
fn rows_are_unpacked_at_the_edges_of_tiles() {
    for queue in common::queues() {
        for (n_rows, n_columns) in edges() {
            for rows in rows_of(n_columns) {
                let problem = Problem::mixed(n_rows, n_columns, rows, n_rows << 12 | n_columns);
                assert_unpacked(&queue, rows, &problem.packed);
            }
        }
    }
}

#[test]
fn rows_are_packed_at_the_edges_of_tiles() {
    for queue in common::queues() {
        for (n_rows, n_columns) in edges() {
            for rows in rows_of(n_columns) {
                let seed = n_rows << 12 | n_columns;
                assert_packed(&queue, &Problem::mixed(n_rows, n_columns, rows, seed));
            }
        }
    }
}

#[test]
fn more_row_tiles_than_a_block_has_threads_are_added_up() {
    for queue in common::queues() {
        let noise: Vec<u16> =
            (0..16 * 520 * 2 + 2).map(|i| ((i * i * 40_503_u64) >> 5) as u16).collect();
        let problem = Problem::new(16 * 520 + 1, 2, Rows::default(), noise);
        assert!(problem.packed.n_escapes() > 8000);
        assert_packed(&queue, &problem);
    }
}

#[test]
fn special_values_are_packed_bit_for_bit() {
    let noise: Vec<u16> = (0..16 * 128).map(|i| ((i * 40_503_u64) >> 3) as u16).collect();
    let specials: Vec<u16> = (0..33 * 130).map(|i| SPECIALS[i % 14]).collect();
    for queue in common::queues() {
        let problem = Problem::new(16, 128, Rows::default(), noise.clone());
        assert_packed(&queue, &problem);
        assert_unpacked(&queue, Rows::default(), &problem.packed);
        assert_packed(&queue, &Problem::new(33, 130, Rows::default(), specials.clone()));
        // Each of 128 values equally often.
        let even = (0..16 * 128).map(|i| (i << 8 | i & 0xFF) as u16).collect();
        assert_packed(&queue, &Problem::new(16, 128, Rows::default(), even));
        // Fewer values than slots.
        for n in 1..9_u16 {
            let few = (0..20 * 40).map(|i| (3 + i % n * 11) << 8 | i).collect();
            assert_packed(&queue, &Problem::new(20, 40, Rows::default(), few));
        }
    }
}

#[test]
fn every_schedule_and_kind_of_fibres_gives_the_same() {
    let rows = rows_of(300);
    let problem = Problem::mixed(35, 300, rows[1], 3);
    let other = hostile(problem.packed.shape, 500, false, 6);
    for config in common::configs() {
        let queue = Queue::simt(config);
        assert_packed(&queue, &problem);
        assert_unpacked(&queue, rows[1], &problem.packed);
        assert_unpacked(&queue, rows[0], &other);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_matrix_is_packed_and_unpacked(
        n_rows in 1_u64..70,
        n_columns in 1_u64..600,
        n_between in 0_u64..9,
        n_before in 0_usize..9,
        seed: u64,
    ) {
        let rows = Rows { n_between, n_before };
        let problem = Problem::mixed(n_rows, n_columns, rows, seed);
        for queue in common::queues() {
            assert_packed(&queue, &problem);
            assert_unpacked(&queue, rows, &problem.packed);
        }
    }

    #[test]
    fn any_bytes_are_unpacked_as_the_reference_does(
        n_rows in 1_u64..40,
        n_columns in 1_u64..400,
        n_escapes in 0_usize..3000,
        is_far: bool,
        seed: u64,
    ) {
        let shape = LaneShape::new(n_rows, n_columns).unwrap();
        for queue in common::queues() {
            assert_unpacked(&queue, Rows::default(), &hostile(shape, n_escapes, is_far, seed));
        }
    }
}

/// Many escapes of few places, so that within 32 and beyond them later ones replace others.
#[test]
fn of_escapes_of_one_place_the_last_one_counts() {
    let mut matrix = hostile(LaneShape::new(16, 128).unwrap(), 2100, false, 1);
    let mut random = Random(5);
    for escape in &mut matrix.escapes {
        *escape = *escape & 0xF800_FFFF | ((random.next() % 24) as u32) << 16;
    }
    for queue in common::queues() {
        for (first, count) in [(0, 2048), (0, 0xFFFF), (3, 33), (1, 31), (2070, 64), (2100, 5)] {
            matrix.headers = vec![first | count << 32 | 0xFF << 48];
            assert_unpacked(&queue, Rows::default(), &matrix);
        }
    }
}

/// What was not measured means nothing, and writes nowhere else: the executor sees to that, and so do what is around.
#[test]
fn anything_measured_packs_inside_of_the_planes() {
    let problem = Problem::mixed(16, 128, Rows::default(), 2);
    let mut random = Random(3);
    let mut word = || random.next() << 33 ^ random.next() << 11 ^ random.next();
    for queue in common::queues() {
        for (first, header) in [
            (0, 0xFFFF << 32),
            (u64::MAX, 0xFFFF << 32 | 1),
            (3, 0xFFFF_FFFF << 32),
            (u64::MAX - 5, u64::MAX),
            (0, 2 << 32),
        ] {
            let palettes = (0..8).map(|_| word() as u8).collect();
            let measured = (palettes, vec![0, first, header], 0);
            let found = problem.pack(&queue, &measured, 20).unwrap();
            assert_eq!(
                found.headers,
                [header >> 32 << 32 | u64::from((first as u32).wrapping_add(header as u32))]
            );
            if header >> 32 == 2 {
                assert!(found.escapes[2..].iter().all(|escape| *escape == 0xA5A5_A5A5));
            }
        }
    }
}

#[test]
fn a_matrix_of_a_queue_is_packed_moved_and_unpacked() {
    for queue in common::queues() {
        for (n_rows, n_columns) in [(40, 136), (1, 1), (16, 256)] {
            let shape = LaneShape::new(n_rows, n_columns).unwrap();
            let rows = Rows { n_between: 8, n_before: 0 };
            let weights = mixed_weights(shape.n_weights() as usize, 8);
            let expected = lacuna::huffman::lane::pack(&weights, shape).unwrap();
            let source = queue.upload(&rows.lay(&shape, &weights)).unwrap();
            let packed = DeviceLane::pack(&queue, shape, &source.view(), n_columns + 8).unwrap();
            assert!(packed.download(&queue).unwrap() == expected);
            assert_eq!(packed.n_bytes(), expected.n_bytes());
            assert_eq!(*packed.shape(), shape);
            let again = DeviceLane::upload(&queue, &expected.as_raw()).unwrap();
            let mut output = queue.alloc::<bf16>(weights.len()).unwrap();
            again.unpack(&queue, &mut output.view_mut(), n_columns).unwrap();
            let output = queue.download(&output.view()).unwrap();
            assert!(output.iter().map(|x| x.to_bits()).eq(weights.iter().copied()));
        }
    }
}

#[test]
fn plans_never_panic() {
    let sizes = [1, 16, 17, 1 << 16, (1 << 32) - 1];
    for n_rows in sizes {
        for n_columns in sizes {
            let Ok(shape) = LaneShape::new(n_rows, n_columns) else { continue };
            for stride in [0, 1, n_columns, n_columns + 1, 1 << 45, u64::MAX] {
                let unpack = LaneUnpackPlan::new(shape, stride);
                let pack = LanePackPlan::new(shape, stride);
                assert_eq!(unpack.is_ok(), pack.is_ok());
                let (Ok(unpack), Ok(pack)) = (unpack, pack) else { continue };
                assert!(unpack.output_len() < 1 << 46 && stride >= n_columns);
                assert_eq!(unpack.output_len(), pack.weights_len());
                assert_eq!((unpack.output_stride(), pack.weights_stride()), (stride, stride));
                for n_escapes in [0, 5, u64::MAX] {
                    assert!(unpack.least_bytes(n_escapes) >= pack.least_measured_bytes() / 2);
                    assert!(
                        pack.least_packed_bytes(n_escapes)
                            >= unpack.least_bytes(n_escapes) - shape.palettes_len()
                    );
                }
                assert_eq!(pack.workspace_len(), 1 + shape.n_row_tiles() + shape.n_tiles());
                for grid in [unpack.grid(), pack.measure_grid(), pack.pack_grid()] {
                    assert!(grid.blocks[0] >= 1 && grid.blocks[0] < 1 << 31);
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_before_a_launch() {
    let text = |error: Error| error.to_string();
    let shape = LaneShape::new(17, 130).unwrap();
    assert_eq!(
        text(LaneUnpackPlan::new(shape, 129).unwrap_err()),
        "stride between rows, in elements: 129 is outside the columns and more"
    );
    assert_eq!(
        text(LanePackPlan::new(shape, 1 << 42).unwrap_err()),
        "elements of all rows: 70368744177794 is outside 0..2^46"
    );
    let queue = Queue::simt(common::configs().next().unwrap());
    let matrix = Problem::mixed(17, 130, Rows::default(), 1).packed;
    let owned = DeviceLane::upload(&queue, &matrix.as_raw()).unwrap();
    let views = owned.views();
    let plan = LaneUnpackPlan::new(shape, 130).unwrap();
    let mut output = queue.alloc::<bf16>(17 * 130).unwrap();
    let mut refused = |plan: &LaneUnpackPlan, views: &LaneViews<'_>, n: usize, expected: &str| {
        let mut output = output.view_mut();
        let mut output = output.slice_mut(0..n).unwrap();
        assert_eq!(text(unpack_lane(&queue, plan, views, &mut output).unwrap_err()), expected);
    };
    refused(&plan, &views, 2209, "output: expected 2210, got 2209");
    let other = LaneUnpackPlan::new(LaneShape::new(17, 129).unwrap(), 130).unwrap();
    refused(&other, &views, 2209, "columns of the planes: expected 129, got 130");
    let low = owned.views().low.slice(0..8191).unwrap();
    refused(&plan, &LaneViews { low, ..views }, 2210, "low: expected 8192, got 8191");
    let headers = views.headers.slice(1..4).unwrap();
    refused(&plan, &LaneViews { headers, ..views }, 2210, "headers: expected 4, got 3");

    let odd = queue.upload(&vec![0_u8; 8193]).unwrap();
    let low = odd.view().slice(1..8193).unwrap();
    let address = low.address();
    let expected = format!("address of low: {address} is outside the multiples of 16");
    refused(&plan, &LaneViews { low, ..views }, 2210, &expected);

    let plan = LanePackPlan::new(shape, 130).unwrap();
    let weights = queue.alloc::<bf16>(2210).unwrap();
    let mut workspace = queue.alloc::<u64>(7).unwrap();
    let [mut palettes, mut low] = [16, 8192].map(|n| queue.alloc::<u8>(n).unwrap());
    let mut n_escapes = queue.alloc::<u64>(1).unwrap();
    let error = measure_lane(
        &queue,
        &plan,
        &weights.view().slice(0..2209).unwrap(),
        &mut workspace.view_mut(),
        &mut palettes.view_mut(),
        &mut n_escapes.view_mut(),
    );
    assert_eq!(text(error.unwrap_err()), "weights: expected 2210, got 2209");
    let error = measure_lane(
        &queue,
        &plan,
        &weights.view(),
        &mut workspace.view_mut().slice_mut(0..6).unwrap(),
        &mut palettes.view_mut(),
        &mut n_escapes.view_mut(),
    );
    assert_eq!(text(error.unwrap_err()), "workspace: expected 7, got 6");
    let [mut high, mut escapes] = [1023, 0].map(|n| queue.alloc::<u32>(n).unwrap());
    let mut headers = queue.alloc::<u64>(4).unwrap();
    let mut planes = LaneViewsMut {
        palettes: palettes.view(),
        low: low.view_mut(),
        high: high.view_mut(),
        headers: headers.view_mut(),
        escapes: escapes.view_mut(),
    };
    let error = pack_lane(&queue, &plan, &weights.view(), &workspace.view(), &mut planes);
    assert_eq!(text(error.unwrap_err()), "high: expected 1024, got 1023");
}
