//! Rows by their numbers: bit for bit the reference, whatever the numbers, the index, the table and the codes say.

use half::bf16;
use lacuna::Queue;
use lacuna::huffman::DeviceWeights;
use lacuna::huffman::RawGroup;
use lacuna::huffman::indexed::{CorruptTile, IndexedRowsPlan, IndexedRowsShape, TileReason};
use lacuna::select::Absent;
use lacuna::simt::Config;
use proptest::prelude::*;

use super::problem::{Owned, rows_by_reference, rows_on};
use super::random_queue;
use crate::common::{self, KINDS, Random, clustered_weights, encode, skewed_weights};

/// A matrix from `first_element` to the end of a group, and so many of its rows.
fn plan_of(n_elements: usize, first_element: u64, row_len: u64, n_rows: usize) -> IndexedRowsPlan {
    IndexedRowsPlan::new(IndexedRowsShape {
        n_elements: n_elements as u64,
        first_element,
        n_matrix_rows: (n_elements as u64 - first_element) / row_len,
        row_len,
        n_rows: n_rows as u64,
        output_stride: row_len,
    })
    .unwrap()
}

#[track_caller]
fn assert_same(queue: &Queue, group: &Owned, plan: &IndexedRowsPlan, rows: &[u32], absent: Absent) {
    let (found, report) = rows_on(queue, group, plan, rows, absent).unwrap();
    let (expected, expected_report) = rows_by_reference(group, plan, rows, absent);
    assert_eq!(report, expected_report, "report");
    assert!(found == expected, "bits differ");
}

#[test]
fn rows_of_every_length_are_those_of_the_matrix() {
    let n = 30_000;
    let weights = skewed_weights(n, 3);
    let group = Owned::encode(&weights);
    for queue in common::queues() {
        for row_len in [1, 2, 7, 127, 128, 129, 1000, 1024, 4095, 4096, 4097, 9999, 30_000] {
            for first_element in [0, 1, 127, 128, 1000, 4096] {
                if first_element + row_len > n {
                    continue;
                }
                let n_rows = (n - first_element) / row_len;
                let last = n_rows as u32 - 1;
                let rows = [last, 0, last / 2, last, n_rows as u32, u32::MAX];
                let plan = plan_of(n, first_element as u64, row_len as u64, rows.len());
                let (found, report) = rows_on(&queue, &group, &plan, &rows, Absent::Zeros).unwrap();
                assert_eq!(report, None);
                for (found, row) in found.chunks(row_len).zip(rows) {
                    if row > last {
                        assert!(found.iter().all(|bits| *bits == 0));
                        continue;
                    }
                    let at = first_element + row as usize * row_len;
                    assert!(*found == weights[at..at + row_len], "{row} of {row_len}");
                }
            }
        }
    }
}

#[test]
fn every_schedule_and_fibre_gives_the_same_rows() {
    let group = Owned::encode(&skewed_weights(20_000, 6));
    let rows = [3, 0, 7, 1 << 31, 2, 2, 1, 5, 6];
    for row_len in [2000, 2048] {
        let plan = plan_of(20_000, 128, row_len, rows.len());
        for config in common::configs() {
            assert_same(&Queue::simt(config), &group, &plan, &rows, Absent::Zeros);
        }
    }
}

#[test]
fn what_is_between_rows_and_of_no_row_is_left_alone() {
    let group = Owned::encode(&clustered_weights(5000, 6));
    let plan = IndexedRowsPlan::new(IndexedRowsShape {
        n_elements: 5000,
        first_element: 40,
        n_matrix_rows: 9,
        row_len: 100,
        n_rows: 4,
        output_stride: 104,
    })
    .unwrap();
    assert_eq!(plan.output_len(), 3 * 104 + 100);
    for queue in common::queues() {
        assert_same(&queue, &group, &plan, &[8, 9, 0, 3], Absent::Kept);
        assert_same(&queue, &group, &plan, &[8, 9, 0, 3], Absent::Zeros);
        let nothing = plan_of(5000, 0, 100, 0);
        assert_same(&queue, &group, &nothing, &[], Absent::Zeros);
    }
}

#[test]
fn a_corrupt_span_is_of_its_rows_alone() {
    let weights = clustered_weights(40_000, 6);
    let mut group = Owned::encode(&weights);
    // Granule 100, weights 12,800 to 12,928, of tile 3.
    group.granule_bits[100] += 1;
    let plan = plan_of(40_000, 0, 1000, 4);
    for queue in common::queues() {
        let rows = [11, 12, 13, 0];
        let (found, report) = rows_on(&queue, &group, &plan, &rows, Absent::Zeros).unwrap();
        // Row 11 ends with granule 93, row 12 has granules 93 to 101, row 13 begins with 101.
        assert_eq!(report, Some(CorruptTile { tile: 3, reason: TileReason::Chain }));
        for (found, row) in found.chunks(1000).zip(rows) {
            match row {
                12 => assert!(found.iter().all(|bits| *bits == 0x7FC0)),
                _ => assert!(*found == weights[row as usize * 1000..][..1000], "row {row}"),
            }
        }
    }
}

#[test]
fn rows_of_a_group_among_others_and_of_both_ways() {
    let too_long: Vec<u16> = (0..5000).map(|i| (240 + i % 16) << 7).collect();
    let embedding = clustered_weights(12_000, 1);
    let groups = [clustered_weights(9000, 2), too_long, embedding.clone()];
    let encoded = groups.each_ref().map(|weights| encode(weights));
    let raws: [RawGroup<'_>; 3] = encoded.each_ref().map(|encoded| encoded.as_raw("group"));
    let parsed = raws.map(|raw| raw.parse().unwrap());
    for queue in common::queues() {
        let mut weights = DeviceWeights::upload(&queue, &parsed).unwrap();
        weights.index(&queue).unwrap();
        let plan = plan_of(12_000, 2000, 100, 2);
        let rows = queue.upload(&[99_u32, 4]).unwrap();
        let mut output = queue.alloc::<bf16>(200).unwrap();
        let mut workspace = queue.alloc::<u64>(weights.plan().workspace_len() as usize).unwrap();
        let mut decode = |plan: &IndexedRowsPlan, group: usize| {
            let (mut workspace, mut output) = (workspace.view_mut(), output.view_mut());
            let rows = rows.view();
            weights
                .decode_rows(&queue, plan, group, &rows, Absent::Zeros, &mut workspace, &mut output)
                .map_err(|error| error.to_string())
        };
        assert_eq!(decode(&plan, 2), Ok(()));
        let refused = |group: usize| {
            Err(format!("group of rows: {group} is outside the groups that have an index"))
        };
        assert_eq!(decode(&plan, 1), refused(1));
        assert_eq!(decode(&plan, 3), refused(3));
        assert_eq!(
            decode(&plan, 0),
            Err("weights of the group: expected 9000, got 12000".to_owned())
        );
        let longer = plan_of(12_000, 0, 101, 2);
        assert_eq!(decode(&longer, 2), Err("output: expected 202, got 200".to_owned()));
        let more = plan_of(12_000, 0, 100, 3);
        assert_eq!(decode(&more, 2), Err("rows: expected 3, got 2".to_owned()));
        weights.check(&queue, &workspace.view()).unwrap();
        let found = queue.download(&output.view()).unwrap();
        let expected = [11_900, 2400].map(|at| &embedding[at..at + 100]).concat();
        assert!(found.iter().map(|w| w.to_bits()).eq(expected));
    }
}

#[test]
fn plans_say_what_is_wrong() {
    let sound = IndexedRowsShape {
        n_elements: 1000,
        first_element: 100,
        n_matrix_rows: 9,
        row_len: 100,
        n_rows: 3,
        output_stride: 100,
    };
    assert!(IndexedRowsPlan::new(sound).is_ok());
    for (shape, message) in [
        (
            IndexedRowsShape { first_element: 101, ..sound },
            "end of a matrix: 1001 is outside the weights of its group",
        ),
        (IndexedRowsShape { row_len: 0, ..sound }, "elements of a row: 0 is outside 1..2^32"),
        (
            IndexedRowsShape { output_stride: 99, ..sound },
            "stride of the output: 99 is outside the elements of a row, up to 2^40",
        ),
        (
            IndexedRowsShape { n_rows: 1 << 31, ..sound },
            "rows that are asked for: 2147483648 is outside 0..2^31",
        ),
        // All rows together would have 2^64 elements and a row's: in 64 bits, a row's alone.
        (
            IndexedRowsShape { n_rows: (1 << 25) + 1, output_stride: 1 << 39, ..sound },
            "elements of the output: 18446744073709551615 is outside 0..2^46",
        ),
        (IndexedRowsShape { n_elements: 0, ..sound }, "weights of a group: 0 is outside 1..2^32"),
    ] {
        assert_eq!(IndexedRowsPlan::new(shape).unwrap_err().to_string(), message);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_damage_gives_what_the_reference_gives(
        n in 1_usize..20_000,
        kind in prop::sample::select(&KINDS[..]),
        seed: u64,
        first in any::<prop::sample::Index>(),
        len in any::<prop::sample::Index>(),
        n_rows in 1_usize..12,
        absent in prop::sample::select(vec![Absent::Zeros, Absent::Kept]),
        damage in prop::collection::vec((0_usize..6, any::<prop::sample::Index>(), any::<u8>()), 0..12),
    ) {
        let weights = kind(n, seed);
        let mut group = Owned::encode(&weights);
        for (tensor, at, value) in damage {
            group.damage(tensor, &at, value);
        }
        let first_element = first.index(n);
        let row_len = 1 + len.index(n - first_element);
        let plan = plan_of(n, first_element as u64, row_len as u64, n_rows);
        let mut random = Random(seed);
        let n_matrix_rows = plan.shape().n_matrix_rows;
        let rows: Vec<_> = (0..n_rows).map(|_| (random.next() % (n_matrix_rows + 2)) as u32).collect();
        assert_same(&random_queue(seed), &group, &plan, &rows, absent);
    }

    #[test]
    fn plans_take_any_sizes(sizes: [u64; 6], shift in 0_u32..64) {
        let [n_elements, first_element, n_matrix_rows, row_len, n_rows, output_stride] =
            sizes.map(|size| size >> shift);
        let _ = IndexedRowsPlan::new(IndexedRowsShape {
            n_elements, first_element, n_matrix_rows, row_len, n_rows, output_stride,
        });
    }
}

#[test]
fn no_rows_need_no_matrix() {
    let queue = Queue::simt(Config::default());
    let group = Owned::encode(&clustered_weights(300, 6));
    let plan = IndexedRowsPlan::new(IndexedRowsShape {
        n_elements: 300,
        first_element: 300,
        n_matrix_rows: 0,
        row_len: 10,
        n_rows: 2,
        output_stride: 10,
    })
    .unwrap();
    assert_same(&queue, &group, &plan, &[0, 1], Absent::Zeros);
}
