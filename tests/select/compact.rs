//! `compact_rows`.

use lacuna::select::reference::{compact_row, invert_row, start_rows};
use lacuna::select::{
    CompactInputs, CompactOutputs, CompactPlan, CompactShape, Listed, compact_rows,
};
use lacuna::simt::{Checks, Config, Fibres};
use lacuna::{Error, Queue};
use proptest::prelude::*;

use crate::common;

/// A launch's rows.
#[derive(Debug, Clone)]
struct Problem {
    /// Of all rows, `row_stride` apart, after `shift` bytes that are no row's.
    mask: Vec<u8>,
    shift: usize,
    n_rows: usize,
    n: usize,
    row_stride: usize,
    capacity: usize,
    rows_per_request: usize,
    listed: Listed,
    lengths: Option<Vec<u32>>,
    skips: Option<Vec<u32>>,
    has_offsets: bool,
    has_starts: bool,
}

#[derive(Debug, PartialEq)]
struct Compacted {
    indices: Vec<i32>,
    counts: Vec<u32>,
    offsets: Vec<i32>,
    row_starts: Vec<u32>,
    n_done: u32,
}

/// What is in the outputs before a launch.
const POISON: i32 = -0x5EED;

impl Problem {
    /// Of 256 elements, about `density` are kept, and by any byte that is not 0.
    fn new(n_rows: usize, n: usize, density: u64, seed: u64) -> Self {
        let mut state = seed;
        let mask = (0..n_rows * n)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
                let is_kept = state >> 56 < density;
                if is_kept { (state >> 40) as u8 | 1 << (state >> 33 & 7) } else { 0 }
            })
            .collect();
        Self {
            mask,
            shift: 0,
            n_rows,
            n,
            row_stride: n,
            capacity: n,
            rows_per_request: 1,
            listed: Listed::Kept,
            lengths: None,
            skips: None,
            has_offsets: true,
            has_starts: true,
        }
    }

    /// The same rows elsewhere.
    fn placed(mut self, row_stride: usize, shift: usize) -> Self {
        let mut mask = vec![0xFF; shift + self.n_rows.saturating_sub(1) * row_stride + self.n];
        for row in 0..self.n_rows {
            mask[shift + row * row_stride..][..self.n].copy_from_slice(self.row(row));
        }
        (self.mask, self.row_stride, self.shift) = (mask, row_stride, shift);
        self
    }

    fn row(&self, row: usize) -> &[u8] {
        &self.mask[self.shift + row * self.row_stride..][..self.n]
    }

    fn plan(&self) -> Result<CompactPlan, Error> {
        CompactPlan::new(CompactShape {
            n_rows: self.n_rows as u64,
            n: self.n as u64,
            row_stride: self.row_stride as u64,
            capacity: self.capacity as u64,
            rows_per_request: self.rows_per_request as u64,
            listed: self.listed,
        })
    }

    fn run(&self, queue: &Queue) -> Result<Compacted, Error> {
        let plan = self.plan()?;
        let mask = queue.upload(&self.mask)?;
        let upload = |words: &Option<Vec<u32>>| words.as_ref().map(|w| queue.upload(w)).transpose();
        let (lengths, skips) = (upload(&self.lengths)?, upload(&self.skips)?);
        let mut workspace = queue.alloc::<u32>(plan.workspace_len() as usize)?;
        let mut indices = queue.upload(&vec![POISON; plan.indices_len() as usize])?;
        let mut counts = queue.upload(&vec![POISON as u32; self.n_rows])?;
        let mut offsets = queue.upload(&vec![POISON; plan.offsets_len() as usize])?;
        let mut row_starts = queue.upload(&vec![POISON as u32; self.n_rows + 1])?;
        let inputs = CompactInputs {
            kept: mask.view().slice(self.shift..self.mask.len())?,
            lengths: lengths.as_ref().map(|b| b.view()),
            skips: skips.as_ref().map(|b| b.view()),
        };
        // What one launch leaves, the next finds.
        for _ in 0..2 {
            let mut outputs = CompactOutputs {
                indices: indices.view_mut(),
                counts: counts.view_mut(),
                offsets: self.has_offsets.then(|| offsets.view_mut()),
                row_starts: self.has_starts.then(|| row_starts.view_mut()),
                workspace: workspace.view_mut(),
            };
            compact_rows(queue, &plan, &inputs, &mut outputs)?;
        }
        Ok(Compacted {
            indices: queue.download(&indices.view())?,
            counts: queue.download(&counts.view())?,
            offsets: queue.download(&offsets.view())?,
            row_starts: queue.download(&row_starts.view())?,
            n_done: *queue.download(&workspace.view())?.last().unwrap(),
        })
    }

    fn expect(&self) -> Compacted {
        let mut expected = Compacted {
            indices: vec![],
            counts: vec![],
            offsets: vec![if self.has_offsets { -1 } else { POISON }; self.n_rows * self.n],
            row_starts: vec![POISON as u32; self.n_rows + 1],
            n_done: 0,
        };
        for row in 0..self.n_rows {
            let offsets = &mut expected.offsets[row * self.n..][..self.n];
            if self.skips.as_ref().is_some_and(|skips| skips[row] != 0) {
                expected.indices.extend(vec![POISON; self.capacity]);
                expected.counts.push(POISON as u32);
                offsets.fill(POISON);
                continue;
            }
            let request = row / self.rows_per_request;
            let length = self.lengths.as_ref().map_or(self.n, |lengths| lengths[request] as usize);
            let found = compact_row(self.row(row), length, self.listed);
            expected.counts.push(found.len() as u32);
            if self.has_offsets {
                for (offset, place) in offsets.iter_mut().zip(invert_row(&found, self.n)) {
                    *offset = place.map_or(-1, |place| place as i32);
                }
            }
            let place = |place| found.get(place).map_or(-1, |i| *i as i32);
            expected.indices.extend((0..self.capacity).map(place));
        }
        if self.has_starts && self.n_rows != 0 {
            let counts: Vec<_> = expected.counts.iter().map(|count| *count as usize).collect();
            let starts = start_rows(&counts, self.capacity);
            expected.row_starts = starts.into_iter().map(|start| start as u32).collect();
        }
        expected
    }
}

/// What is kept, and what is not.
#[track_caller]
fn assert_same(problem: &Problem) {
    for queue in common::queues() {
        for listed in [Listed::Kept, Listed::Dropped] {
            let problem = Problem { listed, ..problem.clone() };
            let (found, expected) = (problem.run(&queue).unwrap(), problem.expect());
            assert_eq!(found, expected, "{listed:?}, {}", queue.executor());
        }
    }
}

proptest! {
    /// Of the reference alone: kept elements only, all of them, in order; and the inverse inverts.
    #[test]
    fn a_row_is_what_it_keeps(mask: Vec<u8>, length in 0_usize..300) {
        let indices = compact_row(&mask, length, Listed::Kept);
        prop_assert!(indices.windows(2).all(|pair| pair[0] < pair[1]));
        let offsets = invert_row(&indices, mask.len());
        for (i, place) in offsets.iter().enumerate() {
            prop_assert_eq!(place.is_some(), i < length && mask[i] != 0);
            prop_assert!(place.is_none_or(|place| indices[place] == i));
        }
        prop_assert_eq!(offsets.iter().flatten().count(), indices.len());
        // Each element of the row is either kept or not.
        let dropped = compact_row(&mask, length, Listed::Dropped);
        prop_assert!(dropped.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(dropped.iter().all(|i| mask[*i] == 0));
        prop_assert_eq!(dropped.len() + indices.len(), length.min(mask.len()));
    }

    #[test]
    fn starts_are_sums(counts in proptest::collection::vec(0_usize..50, 0..20), capacity in 0_usize..60) {
        let starts = start_rows(&counts, capacity);
        prop_assert_eq!(starts.len(), counts.len() + 1);
        for (pair, count) in starts.windows(2).zip(&counts) {
            prop_assert_eq!(pair[1] - pair[0], *count.min(&capacity));
        }
    }

    #[test]
    fn no_shape_makes_a_plan_panic(
        n_rows: u64, n: u64, row_stride: u64, capacity: u64, rows_per_request: u64,
    ) {
        let listed = Listed::Dropped;
        for n in [n, n % (1 << 27), n % 1000] {
            let n_rows = if n == 0 { n_rows % (1 << 31) } else { n_rows % 1000 };
            let capacity = capacity % (1 << 25);
            let shape = CompactShape { n_rows, n, row_stride, capacity, rows_per_request, listed };
            let _ = CompactPlan::new(shape).map(|plan| {
                (plan.mask_len(), plan.indices_len(), plan.offsets_len(), plan.workspace_len(),
                 plan.n_requests(), plan.least_bytes(true), plan.grid())
            });
        }
        let shape = CompactShape { n_rows, n, row_stride, capacity, rows_per_request, listed };
        let _ = CompactPlan::new(shape);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_rows_give_what_the_reference_gives(
        seed: u64, n_rows in 1_usize..4, n in 0_usize..1500, density in 0_u64..257, gap in 0_usize..18,
        shift in 0_usize..18, capacity in 0_usize..1600, given in any::<[bool; 4]>(), lengths: [u32; 3],
        skips: [bool; 3], rows_per_request in 1_usize..4,
    ) {
        let lengths = lengths.map(|length| length % (n as u32 + n as u32 / 4 + 2));
        let problem = Problem {
            capacity,
            rows_per_request,
            lengths: given[0].then(|| lengths[..n_rows.div_ceil(rows_per_request)].to_vec()),
            skips: given[1].then(|| skips[..n_rows].iter().map(|skip| u32::from(*skip) * 9).collect()),
            has_offsets: given[2],
            has_starts: given[3],
            ..Problem::new(n_rows, n, density, seed)
        }.placed(n + gap, shift);
        assert_same(&problem);
    }
}

#[test]
fn sizes_around_words_pieces_and_chunks() {
    for n in [0, 1, 15, 16, 17, 31, 32, 33, 511, 513, 16_368, 16_369, 16_370, 16_384, 16_385] {
        assert_same(&Problem::new(1, n, 128, n as u64));
        assert_same(&Problem::new(2, n, 250, n as u64).placed(n + 3, 5));
    }
    assert_same(&Problem::new(0, 10, 128, 1));
}

#[test]
fn rows_of_several_chunks() {
    let problem = Problem::new(2, 40_001, 60, 3).placed(40_011, 1);
    assert_same(&problem);
    for capacity in [0, 1, 3000, 5000, 39_999] {
        assert_same(&Problem { capacity, ..problem.clone() });
    }
    for lengths in [[0, 40_001], [16_383, 16_384], [u32::MAX, 33_000]] {
        assert_same(&Problem { lengths: Some(lengths.to_vec()), ..problem.clone() });
    }
    assert_same(&Problem { skips: Some(vec![0, 1]), ..problem.clone() });
    assert_same(&Problem { skips: Some(vec![7, 0]), has_starts: false, ..problem });
    // All kept, and none.
    assert_same(&Problem::new(1, 40_001, 256, 3));
    assert_same(&Problem::new(1, 40_001, 0, 3));
}

#[test]
fn rows_share_the_length_of_their_request() {
    let problem = Problem::new(5, 700, 99, 3).placed(703, 2);
    let many = 1 << 40;
    for (lengths, rows_per_request) in
        [(&[700, 33, 0][..], 2), (&[1, 699], 3), (&[64], 5), (&[u32::MAX], many)]
    {
        let lengths = Some(lengths.to_vec());
        assert_same(&Problem { lengths, rows_per_request, ..problem.clone() });
    }
}

#[test]
fn many_rows_start_where_the_rows_before_end() {
    for n_rows in [512, 513] {
        assert_same(&Problem {
            capacity: 7,
            has_offsets: false,
            ..Problem::new(n_rows, 9, 200, 2)
        });
    }
}

#[test]
fn every_schedule_and_fibre_gives_the_same_bits() {
    let short = Problem { lengths: Some(vec![700, 5, 900]), ..Problem::new(3, 800, 99, 3) };
    let long = Problem { capacity: 9000, ..Problem::new(2, 20_000, 99, 4) };
    for problem in [short, long] {
        let problem = Problem { listed: Listed::Dropped, ..problem };
        let expected = problem.expect();
        for schedule in common::SCHEDULES {
            for fibres in [Fibres::Native, Fibres::Portable] {
                let config =
                    Config { schedule, fibres, seed: 5, checks: Checks::ALL, ..Config::default() };
                let found = problem.run(&Queue::simt(config.clone())).unwrap();
                assert_eq!(found, expected, "{config:?}");
            }
        }
    }
}

#[test]
fn a_row_alone_and_among_others_gives_the_same() {
    let all = Problem::new(5, 700, 100, 8);
    for queue in common::queues() {
        let together = all.run(&queue).unwrap();
        for row in 0..5 {
            let alone = Problem { mask: all.row(row).to_vec(), n_rows: 1, ..all.clone() };
            let alone = alone.run(&queue).unwrap();
            assert_eq!(alone.indices, together.indices[row * 700..][..700]);
            assert_eq!(alone.offsets, together.offsets[row * 700..][..700]);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let queue = Queue::simt(Config::default());
    let sound = Problem::new(2, 40, 128, 1);
    for (problem, message) in [
        (Problem { lengths: Some(vec![1; 3]), ..sound.clone() }, "lengths: expected 2, got 3"),
        (Problem { skips: Some(vec![1]), ..sound.clone() }, "skips: expected 2, got 1"),
        (
            Problem { row_stride: 39, ..sound.clone() },
            "stride between rows, in elements: 39 is outside the elements of a row and more",
        ),
        (
            Problem { rows_per_request: 0, ..sound.clone() },
            "rows of a request: 0 is outside 1 and more",
        ),
        (
            Problem { rows_per_request: 2, lengths: Some(vec![1; 2]), ..sound.clone() },
            "lengths: expected 1, got 2",
        ),
        (
            Problem { capacity: 1 << 30, ..sound.clone() },
            "places of all rows: 2147483648 is outside 0..2^31",
        ),
        (Problem { n: (1 << 26) + 1, ..sound }, "elements of a row: 67108865 is outside 0..=2^26"),
    ] {
        assert_eq!(problem.run(&queue).unwrap_err().to_string(), message);
    }
}
