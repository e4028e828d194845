//! `gather_rows`, `scatter_rows` and `scatter_add_rows`.

use half::{bf16, f16};
use lacuna::select::{
    Absent, Repeats, RowStrides, RowsPlan, RowsShape, Score, gather_rows, reference,
    scatter_add_rows, scatter_rows,
};
use lacuna::simt::{Checks, Config, Fibres};
use lacuna::{Element, Error, Queue};
use proptest::prelude::*;

use crate::common;

/// Lists of indices, and what is in the tables and lists before a launch.
#[derive(Debug, Clone)]
struct Problem<T> {
    shape: RowsShape,
    indices: Vec<i32>,
    table: Vec<T>,
    list: Vec<T>,
    /// Elements before either in its buffer.
    shift: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Move {
    Gather(Absent),
    Scatter { repeats: bool },
    Add { is_weighted: bool },
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
    *state >> 33
}

/// Indices of rows, of none, and of what lies far past any.
fn indices(n: usize, n_table_rows: u64, is_once: bool, seed: u64) -> Vec<i32> {
    let mut state = seed;
    let mut used = std::collections::HashSet::new();
    let index = |state: &mut u64| match random(state) % 8 {
        0 => -1,
        1 => [i32::MIN, i32::MAX, n_table_rows as i32][(random(state) % 3) as usize],
        _ => (random(state) % n_table_rows.max(1)) as i32,
    };
    (0..n)
        .map(|_| index(&mut state))
        .map(|idx| if is_once && !used.insert(idx) { -1 } else { idx })
        .collect()
}

const SHAPE: RowsShape = RowsShape {
    n_lists: 1,
    n_indices: 40,
    index_stride: 40,
    n_table_rows: 50,
    row_len: 24,
    table: RowStrides { list: 0, row: 24 },
    list: RowStrides { list: 0, row: 24 },
    element_bytes: 2,
};

impl<T: Element + Default + PartialEq + std::fmt::Debug> Problem<T> {
    fn new(shape: RowsShape, is_once: bool, seed: u64, value: impl Fn(u64) -> T) -> Self {
        let shape = RowsShape { element_bytes: size_of::<T>() as u32, ..shape };
        let plan = RowsPlan::new(shape).unwrap();
        let mut state = seed ^ 0x55;
        let mut values = |n: u64| (0..n).map(|_| value(random(&mut state))).collect::<Vec<_>>();
        let (table, list) = (values(plan.table_len()), values(plan.list_len()));
        // A row twice in one list only: each list by itself.
        let mut all = vec![-7; plan.indices_len() as usize];
        for l in 0..shape.n_lists {
            let n = shape.n_indices as usize;
            if n != 0 {
                let own = indices(n, shape.n_table_rows, is_once, seed.wrapping_add(l));
                all[(l * shape.index_stride) as usize..][..n].copy_from_slice(&own);
            }
        }
        Self { shape, indices: all, table, list, shift: 0 }
    }

    /// The written side, by the launch, twice.
    fn run(&self, queue: &Queue, what: Move) -> Result<Vec<T>, Error>
    where
        T: Score,
    {
        match what {
            Move::Add { is_weighted } => self.run_add(queue, is_weighted),
            _ => self.run_copy(queue, what),
        }
    }

    fn upload(&self, queue: &Queue, elements: &[T]) -> Result<lacuna::Buffer<T>, Error> {
        queue.upload(&[&vec![T::default(); self.shift], elements].concat())
    }

    fn run_copy(&self, queue: &Queue, what: Move) -> Result<Vec<T>, Error> {
        let plan = RowsPlan::new(self.shape)?;
        let (table, list) = (self.upload(queue, &self.table)?, self.upload(queue, &self.list)?);
        let indices = queue.upload(&self.indices)?;
        let (is_gather, source, mut target) = match what {
            Move::Gather(_) => (true, table, list),
            _ => (false, list, table),
        };
        let from = source.view().slice(self.shift..source.len())?;
        let end = target.len();
        let mut last = queue.alloc::<u32>(plan.last_len() as usize)?;
        for _ in 0..2 {
            let mut to = target.view_mut();
            let mut to = to.slice_mut(self.shift..end)?;
            match what {
                Move::Gather(absent) => {
                    gather_rows(queue, &plan, &from, &indices.view(), absent, &mut to)?;
                }
                Move::Scatter { repeats } => {
                    let mut repeats = match repeats {
                        true => Repeats::LastWins(last.view_mut()),
                        false => Repeats::Never,
                    };
                    scatter_rows(queue, &plan, &from, &indices.view(), &mut repeats, &mut to)?;
                }
                Move::Add { .. } => unreachable!(),
            }
        }
        assert!(is_gather || queue.download(&last.view())?.iter().all(|word| *word == 0));
        queue.download(&target.view().slice(self.shift..end)?)
    }

    fn run_add(&self, queue: &Queue, is_weighted: bool) -> Result<Vec<T>, Error>
    where
        T: Score,
    {
        let plan = RowsPlan::new(self.shape)?;
        let (mut table, list) = (self.upload(queue, &self.table)?, self.upload(queue, &self.list)?);
        let indices = queue.upload(&self.indices)?;
        let weights = queue.upload(&self.weights())?;
        let from = list.view().slice(self.shift..list.len())?;
        let end = table.len();
        scatter_add_rows(
            queue,
            &plan,
            &from,
            &indices.view(),
            is_weighted.then(|| weights.view()),
            &mut table.view_mut().slice_mut(self.shift..end)?,
        )?;
        queue.download(&table.view().slice(self.shift..end)?)
    }

    fn weights(&self) -> Vec<f32> {
        let n = (self.shape.n_lists * self.shape.n_indices) as usize;
        (0..n).map(|i| 0.25 * (i % 7) as f32 - 0.6).collect()
    }

    fn expect(&self, what: Move) -> Vec<T>
    where
        T: Score,
    {
        let (mut table, mut list) = (self.table.clone(), self.list.clone());
        let Self { shape, indices, .. } = self;
        match what {
            Move::Gather(absent) => {
                reference::gather_rows(shape, &table, indices, absent, &mut list);
                return list;
            }
            Move::Scatter { .. } => reference::scatter_rows(shape, &list, indices, &mut table),
            Move::Add { is_weighted } => {
                let weights = self.weights();
                let weights = is_weighted.then_some(&weights[..]);
                reference::scatter_add_rows(shape, &list, indices, weights, &mut table);
            }
        }
        table
    }
}

fn bytes_of<T: Element>(values: &[T]) -> &[u8] {
    bytemuck::cast_slice(values)
}

#[track_caller]
fn assert_same<T: Score + Default + PartialEq + std::fmt::Debug>(problem: &Problem<T>, what: Move) {
    for queue in common::queues() {
        let (found, expected) = (problem.run(&queue, what).unwrap(), problem.expect(what));
        assert!(
            bytes_of(&found) == bytes_of(&expected),
            "{}: {what:?} {:?}",
            queue.executor(),
            problem.shape
        );
    }
}

const MOVES: [Move; 6] = [
    Move::Gather(Absent::Zeros),
    Move::Gather(Absent::Kept),
    Move::Scatter { repeats: false },
    Move::Scatter { repeats: true },
    Move::Add { is_weighted: false },
    Move::Add { is_weighted: true },
];

fn is_once(what: Move) -> bool {
    what == Move::Scatter { repeats: false }
}

fn to_bf16(bits: u64) -> bf16 {
    bf16::from_bits(bits as u16)
}

proptest! {
    /// Of the references alone: what is scattered by distinct indices is what is gathered by them again.
    #[test]
    fn a_gather_undoes_a_scatter(seed: u64, n_lists in 1_u64..4, n_indices in 0_u64..30, row_len in 1_u64..9) {
        let shape = RowsShape { n_lists, n_indices, row_len, ..SHAPE }.dense();
        let problem = Problem::<f32>::new(shape, true, seed, |bits| bits as f32);
        let mut table = problem.table.clone();
        reference::scatter_rows(&shape, &problem.list, &problem.indices, &mut table);
        let mut list = problem.list.clone();
        reference::gather_rows(&shape, &table, &problem.indices, Absent::Kept, &mut list);
        prop_assert_eq!(list, problem.list);
    }

    /// Whole numbers have exact sums: any order gives the reference's.
    #[test]
    fn sums_are_of_all_that_is_named(seed: u64, n_indices in 0_u64..40, n_table_rows in 0_u64..9) {
        let shape = RowsShape { n_indices, n_table_rows, row_len: 1, ..SHAPE }.dense();
        let problem = Problem::<f32>::new(shape, false, seed, |bits| (bits % 100) as f32);
        let mut table = problem.table.clone();
        reference::scatter_add_rows(&shape, &problem.list, &problem.indices, None, &mut table);
        for (row, sum) in table.iter().enumerate() {
            let named = problem.indices.iter().zip(&problem.list).filter(|(idx, _)| **idx == row as i32);
            prop_assert_eq!(*sum, problem.table[row] + named.map(|(_, value)| value).sum::<f32>());
        }
    }

    #[test]
    fn no_shape_makes_a_plan_panic(numbers: [u64; 9], element_bytes: u32, few: bool) {
        let cut = |n: u64| if few { n % 300 } else { n };
        let [n_lists, n_indices, index_stride, n_table_rows, row_len, a, b, c, d] = numbers.map(cut);
        let shape = RowsShape {
            n_lists, n_indices, index_stride, n_table_rows, row_len, element_bytes,
            table: RowStrides { list: a, row: b }, list: RowStrides { list: c, row: d },
        };
        let _ = RowsPlan::new(shape).map(|plan| {
            (plan.table_len(), plan.list_len(), plan.last_len(), plan.least_bytes(), plan.add_index_bytes())
        });
        let _ = RowsPlan::new(shape.dense());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_rows_give_what_the_reference_gives(
        seed: u64, n_lists in 1_u64..4, n_indices in 0_u64..70, n_table_rows in 0_u64..80, row_len in 1_u64..70,
        by_eight: bool, gaps in any::<[u8; 5]>(), shift in 0_usize..3, what in 0_usize..6, is_interleaved: bool,
    ) {
        let row_len = if by_eight { row_len.div_ceil(8) * 8 } else { row_len };
        let gap = |idx: usize| {
            let n = u64::from(gaps[idx] % 4);
            if by_eight { n * 8 } else { n }
        };
        let strides = |n_rows: u64, idx: usize| {
            let inner = row_len + gap(idx);
            if is_interleaved {
                RowStrides { list: inner, row: inner * n_lists + gap(idx + 1) }
            } else {
                RowStrides { list: inner * n_rows.max(1) + gap(idx + 1), row: inner }
            }
        };
        let shape = RowsShape {
            n_lists, n_indices, index_stride: n_indices + gap(4), n_table_rows, row_len,
            table: strides(n_table_rows, 0), list: strides(n_indices, 2), element_bytes: 0,
        };
        let (what, shift) = (MOVES[what], if by_eight { 8 * (shift / 2) } else { shift });
        assert_same(&Problem { shift, ..Problem::new(shape, is_once(what), seed, to_bf16) }, what);
        let half = |bits| f16::from_bits(bits as u16);
        assert_same(&Problem { shift, ..Problem::new(shape, is_once(what), seed, half) }, what);
        let float = |bits: u64| f32::from_bits((bits as u32).wrapping_mul(0x9E37_79B9));
        assert_same(&Problem { shift, ..Problem::new(shape, is_once(what), seed, float) }, what);
    }
}

#[test]
fn rows_of_every_length_and_type_move() {
    for row_len in [1, 2, 4, 8, 16, 64, 512, 2049, 4096] {
        let shape = RowsShape { row_len, n_indices: 9, n_table_rows: 12, ..SHAPE }.dense();
        for what in MOVES {
            assert_same(&Problem::new(shape, is_once(what), row_len, to_bf16), what);
        }
    }
    // Of any type that device memory holds.
    for row_len in [1, 7, 24] {
        let shape = RowsShape { row_len, ..SHAPE }.dense();
        let problem = Problem::<u8>::new(shape, true, 3, |bits| bits as u8);
        for queue in common::queues() {
            let mut gathered = problem.list.clone();
            let Problem { shape, table, indices, .. } = &problem;
            reference::gather_rows(shape, table, indices, Absent::Zeros, &mut gathered);
            assert_eq!(problem.run_copy(&queue, Move::Gather(Absent::Zeros)).unwrap(), gathered);
        }
    }
}

#[test]
fn lists_may_share_a_table_and_their_indices() {
    let shape = RowsShape { n_lists: 3, ..SHAPE }.dense();
    let shared =
        RowsShape { index_stride: 0, table: RowStrides { list: 0, row: SHAPE.row_len }, ..shape };
    assert_same(&Problem::new(shared, false, 1, to_bf16), Move::Gather(Absent::Zeros));
}

#[test]
fn the_last_of_many_wins_and_all_of_them_add_up() {
    // Every row to one; more rows to a tile than a block remembers.
    let shape = RowsShape { n_indices: 5000, n_table_rows: 40, row_len: 8, ..SHAPE }.dense();
    let float = |bits: u64| bits as f32 * 1e-3;
    let mut problem = Problem::new(shape, false, 9, float);
    for (what, is_one) in [
        (Move::Scatter { repeats: true }, true),
        (Move::Add { is_weighted: false }, true),
        (Move::Add { is_weighted: true }, false),
    ] {
        if is_one {
            problem.indices.fill(3);
        } else {
            problem.indices.iter_mut().enumerate().for_each(|(i, idx)| *idx = (i * 7 % 33) as i32);
        }
        assert_same(&problem, what);
    }
    for n_indices in [511, 512, 513, 4095, 4096, 4097] {
        let shape = RowsShape { n_indices, ..shape }.dense();
        let mut problem = Problem::new(shape, false, 9, float);
        problem.indices.iter_mut().enumerate().for_each(|(i, idx)| *idx = (i % 32) as i32);
        assert_same(&problem, Move::Add { is_weighted: true });
    }
}

#[test]
fn sums_are_rounded_once_and_nan_is_one() {
    let shape = RowsShape { n_indices: 3, n_table_rows: 2, row_len: 8, ..SHAPE }.dense();
    let mut problem = Problem::new(shape, false, 1, |_| bf16::ONE);
    problem.indices = vec![0, 0, 0];
    problem.list.fill(bf16::from_f32(0.003));
    problem.list[0] = bf16::from_bits(0xFFC1);
    let what = Move::Add { is_weighted: false };
    let sums = problem.expect(what);
    // Each alone would be lost.
    assert_eq!((sums[1], sums[0].to_bits()), (bf16::from_f32(1.009), 0x7FFF));
    assert_same(&problem, what);
}

#[test]
fn every_schedule_and_fibre_gives_the_same_bits() {
    let shape = RowsShape { n_lists: 2, n_indices: 300, ..SHAPE }.dense();
    for what in MOVES {
        let problem = Problem::new(shape, is_once(what), 5, to_bf16);
        let expected = problem.expect(what);
        for schedule in common::SCHEDULES {
            for fibres in [Fibres::Native, Fibres::Portable] {
                let config =
                    Config { schedule, fibres, seed: 5, checks: Checks::ALL, ..Config::default() };
                let found = problem.run(&Queue::simt(config.clone()), what).unwrap();
                assert!(bytes_of(&found) == bytes_of(&expected), "{what:?} {config:?}");
            }
        }
    }
}

#[test]
fn a_list_alone_and_among_others_gives_the_same() {
    let shape = RowsShape { n_lists: 3, ..SHAPE }.dense();
    // Weights are of the place among all lists.
    for what in MOVES.into_iter().filter(|what| *what != Move::Add { is_weighted: true }) {
        let all = Problem::new(shape, is_once(what), 5, to_bf16);
        for queue in common::queues() {
            let together = all.run(&queue, what).unwrap();
            let part = |values: &[bf16], l: usize| {
                let n = values.len() / 3;
                values[l * n..][..n].to_vec()
            };
            for l in 0..3 {
                let alone = Problem {
                    shape: RowsShape { n_lists: 1, ..shape },
                    indices: all.indices[l * 40..][..40].to_vec(),
                    table: part(&all.table, l),
                    list: part(&all.list, l),
                    shift: 0,
                };
                let alone = alone.run(&queue, what).unwrap();
                assert!(bytes_of(&alone) == bytes_of(&part(&together, l)));
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let queue = Queue::simt(Config::default());
    let gather = Move::Gather(Absent::Zeros);
    let sound = Problem::new(SHAPE, true, 1, to_bf16);
    let with = |shape: RowsShape| Problem { shape, ..sound.clone() };
    for (problem, what, message) in [
        (with(RowsShape { n_indices: 39, ..SHAPE }), gather, "indices: expected 39, got 40"),
        (with(RowsShape { n_table_rows: 49, ..SHAPE }), gather, "table: expected 1176, got 1200"),
        (
            with(RowsShape { list: RowStrides { list: 0, row: 23 }, ..SHAPE }),
            gather,
            "stride between gathered rows: 23 is outside the strides of rows that do not overlap",
        ),
        (
            with(RowsShape { table: RowStrides { list: 0, row: 23 }, ..SHAPE }),
            MOVES[3],
            "stride between scattered rows: 23 is outside the strides of rows that do not overlap",
        ),
        (
            with(RowsShape { element_bytes: 4, ..SHAPE }),
            gather,
            "bytes of an element: expected 4, got 2",
        ),
        (
            with(RowsShape { element_bytes: 0, ..SHAPE }),
            gather,
            "bytes of an element: 0 is outside 1 and more",
        ),
        (
            with(RowsShape { n_lists: 1 << 27, ..SHAPE }),
            gather,
            "rows of all lists: 5368709120 is outside 0..2^31",
        ),
    ] {
        assert_eq!(problem.run(&queue, what).unwrap_err().to_string(), message);
    }
}
