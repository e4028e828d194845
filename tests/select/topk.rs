//! `topk_rows`.

use half::{bf16, f16};
use lacuna::select::reference::{RowRule, topk_row};
use lacuna::select::{MAX_PICKS, Score, TopkInputs, TopkOutputs, TopkPlan, TopkShape, topk_rows};
use lacuna::simt::{Checks, Config, Fibres};
use lacuna::{Error, Queue};
use proptest::prelude::*;

use crate::common;

/// A launch's rows, and what is asked of each.
#[derive(Debug, Clone)]
struct Problem<T> {
    scores: Vec<T>,
    n: usize,
    row_stride: usize,
    k: usize,
    n_first: usize,
    n_last: usize,
    starts: Option<Vec<u32>>,
    lengths: Option<Vec<u32>>,
    counts_asked: Option<Vec<u32>>,
    skips: Option<Vec<u32>>,
    has_values: bool,
}

#[derive(Debug, PartialEq)]
struct Picks {
    indices: Vec<i32>,
    counts: Vec<u32>,
    values: Vec<u32>,
}

/// What is in the outputs before a launch.
const POISON: i32 = -0x5EED;

impl<T: Score + Default> Problem<T> {
    fn new(rows: &[Vec<T>], k: usize) -> Self {
        let n = rows.iter().map(Vec::len).max().unwrap_or(0);
        assert!(rows.iter().all(|row| row.len() == n));
        Self {
            scores: rows.concat(),
            n,
            row_stride: n,
            k,
            n_first: 0,
            n_last: 0,
            starts: None,
            lengths: None,
            counts_asked: None,
            skips: None,
            has_values: true,
        }
    }

    /// The same rows further apart.
    fn with_stride(mut self, row_stride: usize) -> Self {
        let n_rows = self.n_rows();
        let mut scores = vec![T::default(); n_rows.saturating_sub(1) * row_stride + self.n];
        for row in 0..n_rows {
            scores[row * row_stride..][..self.n].copy_from_slice(self.row(row));
        }
        (self.scores, self.row_stride) = (scores, row_stride);
        self
    }

    fn n_rows(&self) -> usize {
        match self.n {
            0 => self.counts_asked.as_ref().map_or(0, Vec::len),
            _ => (self.scores.len() - self.n) / self.row_stride + 1,
        }
    }

    fn row(&self, row: usize) -> &[T] {
        &self.scores[row * self.row_stride..][..self.n]
    }

    fn plan(&self) -> Result<TopkPlan, Error> {
        TopkPlan::new(TopkShape {
            n_rows: self.n_rows() as u64,
            n: self.n as u64,
            row_stride: self.row_stride as u64,
            k: self.k as u64,
            n_first: self.n_first as u64,
            n_last: self.n_last as u64,
            score_bytes: size_of::<T>() as u32,
        })
    }

    fn run(&self, queue: &Queue) -> Result<Picks, Error> {
        let plan = self.plan()?;
        let scores = queue.upload(&self.scores)?;
        let upload = |words: &Option<Vec<u32>>| words.as_ref().map(|w| queue.upload(w)).transpose();
        let [starts, lengths, counts_asked, skips] =
            [&self.starts, &self.lengths, &self.counts_asked, &self.skips].map(upload);
        let [starts, lengths, counts_asked, skips] = [starts?, lengths?, counts_asked?, skips?];
        let n_picks = plan.picks_len() as usize;
        let mut indices = queue.upload(&vec![POISON; n_picks])?;
        let mut counts = queue.upload(&vec![POISON as u32; self.n_rows()])?;
        let mut values = queue.alloc::<T>(n_picks)?;
        let inputs = TopkInputs {
            scores: scores.view(),
            starts: starts.as_ref().map(|b| b.view()),
            lengths: lengths.as_ref().map(|b| b.view()),
            counts_asked: counts_asked.as_ref().map(|b| b.view()),
            skips: skips.as_ref().map(|b| b.view()),
        };
        let mut outputs = TopkOutputs {
            indices: indices.view_mut(),
            counts: counts.view_mut(),
            values: self.has_values.then(|| values.view_mut()),
        };
        topk_rows(queue, &plan, &inputs, &mut outputs)?;
        let values = if self.has_values { queue.download(&values.view())? } else { Vec::new() };
        Ok(Picks {
            indices: queue.download(&indices.view())?,
            counts: queue.download(&counts.view())?,
            values: values.iter().map(|value| to_bits(*value)).collect(),
        })
    }

    fn expect(&self) -> Picks {
        let mut picks = Picks { indices: vec![], counts: vec![], values: vec![] };
        for row in 0..self.n_rows() {
            if self.skips.as_ref().is_some_and(|skips| skips[row] != 0) {
                picks.indices.extend(vec![POISON; self.k]);
                picks.counts.push(POISON as u32);
                picks.values.extend(vec![0; if self.has_values { self.k } else { 0 }]);
                continue;
            }
            let of_row = |words: &Option<Vec<u32>>, all: usize| {
                words.as_ref().map_or(all, |words| words[row] as usize)
            };
            let rule = RowRule {
                start: of_row(&self.starts, 0),
                length: of_row(&self.lengths, self.n),
                k: of_row(&self.counts_asked, self.k).min(self.k),
                n_first: self.n_first,
                n_last: self.n_last,
            };
            let found = topk_row(self.row(row), &rule);
            picks.counts.push(found.len() as u32);
            for place in 0..self.k {
                let pick = found.get(place).copied();
                picks.indices.push(pick.map_or(-1, |i| i as i32));
                if self.has_values {
                    picks.values.push(pick.map_or(0, |i| to_bits(self.row(row)[i])));
                }
            }
        }
        picks
    }
}

fn to_bits<T: Score>(value: T) -> u32 {
    let mut bits = [0_u8; 4];
    let bytes = bytemuck::bytes_of(&value);
    bits[..bytes.len()].copy_from_slice(bytes);
    u32::from_le_bytes(bits)
}

#[track_caller]
fn assert_same<T: Score + Default>(problem: &Problem<T>) {
    for queue in common::queues() {
        assert_eq!(problem.run(&queue).unwrap(), problem.expect(), "{}", queue.executor());
    }
}

/// Scores of few distinct values, special ones among them, so that ties are everywhere.
fn few_values(n: usize, seed: u64) -> Vec<f32> {
    let values = [0.0, -0.0, 1.0, -1.0, 1.5, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 3e-40];
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
            values[(state >> 33) as usize % values.len()]
        })
        .collect()
}

/// Scores that hardly tie.
fn many_values(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
            f32::from_bits((state >> 32) as u32)
        })
        .collect()
}

#[test]
fn keys_ascend_with_scores() {
    let ascending = [
        f32::NAN,
        f32::NEG_INFINITY,
        f32::MIN,
        -1.0,
        -1e-40,
        0.0,
        1e-40,
        1.0,
        f32::MAX,
        f32::INFINITY,
    ];
    assert!(ascending.windows(2).all(|pair| pair[0].key() < pair[1].key()));
    assert_eq!(0.0_f32.key(), (-0.0_f32).key());
    assert_eq!(f32::NAN.key(), (-f32::NAN).key());
    for bits in 0..=u16::MAX {
        let (half, brain) = (f16::from_bits(bits), bf16::from_bits(bits));
        for other in [0_u16, 1, 0x3C00, 0x7C00, 0x7F80, 0x8001, 0xBC00, 0xFC00, 0xFF80] {
            let order = |x: f32, y: f32| x.partial_cmp(&y);
            let (a, b) = (f16::from_bits(other), bf16::from_bits(other));
            if let Some(order) = order(half.to_f32(), a.to_f32()) {
                assert_eq!(half.key().cmp(&a.key()), order);
            }
            if let Some(order) = order(brain.to_f32(), b.to_f32()) {
                assert_eq!(brain.key().cmp(&b.key()), order);
            }
        }
        assert_eq!(half.is_nan(), half.key() == 0);
        assert_eq!(brain.is_nan(), brain.key() == 0);
    }
}

proptest! {
    /// Of the reference alone: as many as may be, of candidates only, and none left out that is better.
    #[test]
    fn picks_are_the_first_by_score_and_index(
        seed: u64, n in 0_usize..60, k in 0_usize..70, start in 0_usize..70, length in 0_usize..70,
    ) {
        let scores = few_values(n, seed);
        let picks = topk_row(&scores, &RowRule { start, length, k, ..RowRule::default() });
        let candidates: Vec<_> = (start..n.min(start + length)).collect();
        prop_assert_eq!(picks.len(), k.min(candidates.len()));
        prop_assert!(picks.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(picks.iter().all(|pick| candidates.contains(pick)));
        let left: Vec<_> = candidates.into_iter().filter(|i| !picks.contains(i)).collect();
        for pick in &picks {
            for other in &left {
                let [better, worse] = [scores[*pick].key(), scores[*other].key()];
                prop_assert!(better > worse || (better == worse && pick < other));
            }
        }
    }

    #[test]
    fn any_rows_give_what_the_reference_gives(
        seed: u64, n_rows in 1_usize..4, n in 1_usize..1200, k in 0_usize..700, gap in 0_usize..9,
        n_first in 0_usize..20, n_last in 0_usize..20, given in any::<[bool; 5]>(), ties: bool,
    ) {
        let make = if ties { few_values } else { many_values };
        let rows: Vec<_> = (0..n_rows).map(|row| make(n, seed ^ row as u64)).collect();
        let words = |idx: usize, most: usize| -> Option<Vec<u32>> {
            let mut state = seed ^ idx as u64;
            given[idx].then(|| (0..n_rows).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(9);
                // Some past every end.
                ((state >> 33) % (most as u64 + most as u64 / 4 + 2)) as u32
            }).collect())
        };
        let problem = Problem {
            n_first, n_last,
            starts: words(0, n), lengths: words(1, n), counts_asked: words(2, k), skips: words(3, 0),
            has_values: given[4],
            ..Problem::new(&rows, k)
        }.with_stride(n + gap);
        assert_same(&problem);
        let halves = |of: fn(f32) -> f16| -> Vec<Vec<f16>> {
            rows.iter().map(|row| row.iter().map(|x| of(*x)).collect()).collect()
        };
        assert_same(&Problem::new(&halves(f16::from_f32), k));
        let brains: Vec<Vec<bf16>> =
            rows.iter().map(|row| row.iter().map(|x| bf16::from_f32(*x)).collect()).collect();
        assert_same(&Problem::new(&brains, k));
    }

    #[test]
    fn no_shape_makes_a_plan_panic(
        n_rows: u64, n: u64, row_stride: u64, k: u64, n_first: u64, n_last: u64, score_bytes: u32,
    ) {
        let shape = TopkShape { n_rows, n, row_stride, k, n_first, n_last, score_bytes };
        let _ = TopkPlan::new(shape).map(|plan| {
            (plan.scores_len(), plan.picks_len(), plan.least_bytes(), plan.grid())
        });
    }
}

#[test]
fn sizes_around_a_block_and_the_ends() {
    for n in [1, 2, 31, 32, 33, 511, 512, 513, 1023, 1025] {
        for k in [0, 1, n - 1, n, n + 1, 2 * n] {
            assert_same(&Problem::new(&[few_values(n, n as u64)], k));
        }
    }
    let nothing = Problem::<f32>::new(&[], 5);
    assert_same(&nothing);
    // Rows without scores.
    let empty =
        Problem { counts_asked: Some(vec![3, 0]), ..Problem::<f32>::new(&[vec![], vec![]], 2) };
    assert_same(&empty);
}

#[test]
fn all_equal_scores_give_the_first_and_the_forced() {
    for value in [0.0_f32, f32::NAN, f32::NEG_INFINITY, f32::INFINITY] {
        let problem = Problem { n_first: 3, n_last: 4, ..Problem::new(&[vec![value; 900]], 20) };
        let picks = problem.expect();
        let expected: Vec<_> = (0..16).chain(896..900).collect();
        assert_eq!(picks.indices, expected);
        assert_same(&problem);
    }
    // Every candidate forced, and more of them than places.
    let problem = Problem { n_first: 500, n_last: 500, ..Problem::new(&[many_values(900, 1)], 7) };
    assert_eq!(problem.expect().indices, [0, 1, 2, 3, 4, 5, 6]);
    assert_same(&problem);
}

#[test]
fn rows_that_do_not_fit_on_chip() {
    let row = many_values(60_001, 7);
    assert_same(&Problem::new(std::slice::from_ref(&row), 2048));
    let brains: Vec<bf16> = row.iter().map(|x| bf16::from_f32(*x)).collect();
    assert_same(&Problem::new(&[brains], MAX_PICKS as usize));
    // One bin holds everything, and all but one tie.
    let mut flat = vec![1.0_f32; 60_001];
    flat[59_999] = f32::from_bits(1.0_f32.to_bits() + 1);
    assert_same(&Problem::new(&[flat], 4000));
}

#[test]
fn every_schedule_and_fibre_gives_the_same_bits() {
    let rows = [few_values(1500, 3), many_values(1500, 4)];
    let problem = Problem { n_first: 2, n_last: 5, ..Problem::new(&rows, 300) };
    let expected = problem.expect();
    for schedule in common::SCHEDULES {
        for fibres in [Fibres::Native, Fibres::Portable] {
            for seed in 0..3 {
                let checks = Checks::ALL;
                let config = Config { schedule, fibres, seed, checks, ..Config::default() };
                assert_eq!(
                    problem.run(&Queue::simt(config.clone())).unwrap(),
                    expected,
                    "{config:?}"
                );
            }
        }
    }
}

#[test]
fn a_row_alone_and_among_others_gives_the_same() {
    let rows: Vec<_> = (0..5).map(|row| few_values(700, row)).collect();
    for queue in common::queues() {
        let together = Problem::new(&rows, 64).run(&queue).unwrap();
        for (idx, row) in rows.iter().enumerate() {
            let alone = Problem::new(std::slice::from_ref(row), 64).run(&queue).unwrap();
            assert_eq!(alone.indices, together.indices[idx * 64..][..64]);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let queue = Queue::simt(Config::default());
    let sound = Problem::new(&[few_values(40, 1), few_values(40, 2)], 8);
    for (problem, message) in [
        (Problem { k: 8193, ..sound.clone() }, "picks of a row: 8193 is outside 0..=8192"),
        (Problem { lengths: Some(vec![1; 3]), ..sound.clone() }, "lengths: expected 2, got 3"),
        (Problem { skips: Some(vec![1]), ..sound.clone() }, "skips: expected 2, got 1"),
    ] {
        assert_eq!(problem.run(&queue).unwrap_err().to_string(), message);
    }
    let shape = TopkShape { row_stride: 39, ..*sound.plan().unwrap().shape() };
    assert_eq!(
        TopkPlan::new(shape).unwrap_err().to_string(),
        "stride between rows, in elements: 39 is outside the scores of a row and more"
    );
    let shape = TopkShape { score_bytes: 8, ..shape };
    assert_eq!(
        TopkPlan::new(shape).unwrap_err().to_string(),
        "bytes of a score: 8 is outside 2 and 4"
    );
}
