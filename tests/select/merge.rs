//! `merge_rows`.

use half::{bf16, f16};
use lacuna::kv::{KvLayout, KvShape, KvViewMut};
use lacuna::select::reference::{self, Pages};
use lacuna::select::{MergeInputs, MergePlan, MergeState, MergeWeights, Score, merge_rows};
use lacuna::simt::{Checks, Config, Fibres};
use lacuna::{Error, Queue};
use proptest::prelude::*;

use crate::common;

#[derive(Debug, Clone)]
struct Problem<T> {
    plan: MergePlan,
    page_table: Vec<i32>,
    lengths: Vec<u32>,
    evicted: Vec<i32>,
    kept: Vec<i32>,
    keys: Vec<T>,
    values: Option<Vec<T>>,
    thresholds: Vec<f32>,
    decay: f32,
    weights: MergeWeights,
}

/// What is left, as bits.
#[derive(Debug, PartialEq)]
struct Merged {
    nearest: Vec<i32>,
    similarities: Vec<u32>,
    thresholds: Vec<u32>,
    keys: Vec<u8>,
    values: Vec<u8>,
}

const SHAPE: KvShape = KvShape {
    batch: 2,
    n_heads: 2,
    row_len: 24,
    n_pages: 23,
    page_size: 4,
    table_stride: 11,
    tokens_per_row: 1,
    page_stride: 0,
    token_stride: 0,
    head_stride: 0,
};

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
    *state >> 33
}

impl<T: Score> Problem<T> {
    /// Pages of no two requests, some of them none; tokens of one list only, some of them absent; keys of few
    /// directions, so that cosines tie, and special ones among them if asked for.
    fn new(shape: KvShape, [n_evicted, n_kept]: [u64; 2], seed: u64, has_special: bool) -> Self {
        let layout = KvLayout::new(shape).unwrap();
        let plan = MergePlan::new(layout, n_evicted, n_kept).unwrap();
        let mut state = seed;
        let mut pool = |n: u64| -> Vec<T> {
            let value = |state: &mut u64| match random(state) % 200 {
                0 if has_special => f32::NAN,
                1 if has_special => f32::INFINITY,
                bits if bits % 6 == 5 => -0.0,
                bits => (bits % 6) as f32 - 2.0,
            };
            let all: Vec<_> = (0..n).map(|_| T::from_f32(value(&mut state))).collect();
            all
        };
        let (keys, values) = (pool(layout.pool_len()), pool(layout.pool_len()));
        let mut pages: Vec<i32> = (0..shape.n_pages as i32).collect();
        let page_table = (0..layout.table_len())
            .map(|_| match random(&mut state) % 9 {
                0 => [-1, i32::MIN, shape.n_pages as i32][(random(&mut state) % 3) as usize],
                _ if pages.is_empty() => -1,
                _ => pages.swap_remove(random(&mut state) as usize % pages.len()),
            })
            .collect();
        let n_rows = layout.n_rows() as i32;
        let (mut evicted, mut kept) = (Vec::new(), Vec::new());
        for _ in 0..plan.n_lists() {
            let mut tokens: Vec<i32> = (-2..n_rows + 2).collect();
            let mut take = |n: u64, list: &mut Vec<i32>| {
                for _ in 0..n {
                    let n_left = tokens.len();
                    list.push(match n_left {
                        0 => -1,
                        _ => tokens.swap_remove(random(&mut state) as usize % n_left),
                    });
                }
            };
            take(n_evicted, &mut evicted);
            take(n_kept, &mut kept);
        }
        let thresholds = (0..plan.n_lists())
            .map(|list| if list == 0 { f32::NAN } else { 0.1 * list as f32 - 0.05 })
            .collect();
        let lengths = (0..shape.batch).map(|b| if b == 0 { u32::MAX } else { 38 }).collect();
        Self {
            plan,
            page_table,
            lengths,
            evicted,
            kept,
            keys,
            values: Some(values),
            thresholds,
            decay: 0.5,
            weights: MergeWeights::Softmax,
        }
    }

    fn run(&self, queue: &Queue) -> Result<Merged, Error> {
        let (page_table, lengths) = (queue.upload(&self.page_table)?, queue.upload(&self.lengths)?);
        let (evicted, kept) = (queue.upload(&self.evicted)?, queue.upload(&self.kept)?);
        let mut keys = queue.upload(&self.keys)?;
        let mut values = self.values.as_ref().map(|values| queue.upload(values)).transpose()?;
        let n = self.plan.evicted_len() as usize;
        let mut nearest = queue.upload(&vec![-77; n])?;
        let mut similarities = queue.upload(&vec![7.0_f32; n])?;
        let mut thresholds = queue.upload(&self.thresholds)?;
        let inputs = MergeInputs {
            evicted: evicted.view(),
            kept: kept.view(),
            decay: self.decay,
            weights: self.weights,
        };
        let mut state = MergeState {
            nearest: nearest.view_mut(),
            similarities: similarities.view_mut(),
            thresholds: thresholds.view_mut(),
        };
        let mut kv = KvViewMut {
            layout: *self.plan.layout(),
            keys: keys.view_mut(),
            values: values.as_mut().map(|values| values.view_mut()),
            page_table: page_table.view(),
            lengths: lengths.view(),
        };
        merge_rows(queue, &self.plan, &inputs, &mut state, &mut kv)?;
        let bits = |x: &f32| x.to_bits();
        let values = values.map(|values| queue.download(&values.view())).transpose()?;
        Ok(Merged {
            nearest: queue.download(&nearest.view())?,
            similarities: queue.download(&similarities.view())?.iter().map(bits).collect(),
            thresholds: queue.download(&thresholds.view())?.iter().map(bits).collect(),
            keys: bytemuck::cast_slice(&queue.download(&keys.view())?).to_vec(),
            values: bytemuck::cast_slice(&values.unwrap_or_default()).to_vec(),
        })
    }

    fn expect(&self) -> Merged {
        let Self { plan, evicted, kept, .. } = self;
        let pages = Pages { page_table: &self.page_table, lengths: &self.lengths };
        let nearest = reference::nearest_kept(plan, pages, &self.keys, evicted, kept);
        let n_evicted = plan.n_evicted() as usize;
        let thresholds: Vec<_> = self
            .thresholds
            .iter()
            .enumerate()
            .map(|(list, threshold)| {
                let own = nearest[list * n_evicted..][..n_evicted].iter().flatten();
                let similarities: Vec<_> = own.map(|(_, similarity)| *similarity).collect();
                reference::update_threshold(*threshold, &similarities, self.decay)
            })
            .collect();
        let merge = |pool: &[T]| {
            let mut pool = pool.to_vec();
            let lists = [&evicted[..], &kept[..]];
            reference::merge_rows(
                plan,
                pages,
                &mut pool,
                lists,
                &nearest,
                &thresholds,
                self.weights,
            );
            bytemuck::cast_slice(&pool).to_vec()
        };
        Merged {
            nearest: nearest
                .iter()
                .map(|near| near.map_or(-1, |(place, _)| place as i32))
                .collect(),
            similarities: nearest.iter().map(|near| near.map_or(0, |(_, s)| s.to_bits())).collect(),
            thresholds: thresholds.iter().map(|threshold| threshold.to_bits()).collect(),
            keys: merge(&self.keys),
            values: self.values.as_ref().map_or(Vec::new(), |values| merge(values)),
        }
    }
}

#[track_caller]
fn assert_same<T: Score>(problem: &Problem<T>) {
    for queue in common::queues() {
        let (found, expected) = (problem.run(&queue).unwrap(), problem.expect());
        let parts = |merged: &Merged| {
            (merged.nearest.clone(), merged.similarities.clone(), merged.thresholds.clone())
        };
        assert_eq!(parts(&found), parts(&expected), "{}", queue.executor());
        assert!(found.keys == expected.keys, "keys, {}", queue.executor());
        assert!(found.values == expected.values, "values, {}", queue.executor());
    }
}

/// One request and head without a table's holes.
fn plain(row_len: u64, lists: [u64; 2], seed: u64) -> Problem<bf16> {
    let shape = KvShape { batch: 1, n_heads: 1, row_len, ..SHAPE }.nhd();
    let mut problem = Problem::new(shape, lists, seed, false);
    problem.page_table = (0..problem.page_table.len() as i32).collect();
    problem
}

proptest! {
    /// Of the reference alone: a row merged with rows equal to it stays, by the paper's weights; and a row that
    /// none is merged into stays in any case.
    #[test]
    fn equal_rows_merge_to_themselves(seed: u64, value in 1_u16..200, n_evicted in 0_u64..20) {
        let mut problem = plain(8, [n_evicted, 3], seed);
        problem.keys.fill(bf16::from_f32(f32::from(value)));
        let merged = problem.expect();
        let own = problem.keys[0].to_bits().to_le_bytes();
        prop_assert!(merged.keys.chunks(2).all(|bytes| bytes == own));
        // All are as near as can be, and the lowest place has them.
        for (token, place) in problem.evicted.iter().zip(&merged.nearest) {
            let first = problem.kept.iter().position(|token| (0..44).contains(token));
            let is_there = (0..44).contains(token);
            prop_assert_eq!(*place, first.filter(|_| is_there).map_or(-1, |first| first as i32));
        }
    }

    #[test]
    fn thresholds_move_towards_means(old in -1.0_f32..1.0, similarities in proptest::collection::vec(-1.0_f32..1.0, 1..50)) {
        let first = reference::update_threshold(f32::NAN, &similarities, 0.5);
        let exact: f64 = similarities.iter().map(|x| f64::from(*x)).sum::<f64>() / similarities.len() as f64;
        prop_assert!((f64::from(first) - exact).abs() < 1e-6);
        let next = reference::update_threshold(old, &similarities, 0.5);
        prop_assert!((next - (0.5 * old + 0.5 * first)).abs() < 1e-6);
        prop_assert_eq!(reference::update_threshold(old, &[], 0.5), old);
        // In any order.
        let back: Vec<_> = similarities.iter().rev().copied().collect();
        prop_assert_eq!(reference::update_threshold(old, &back, 0.5), next);
    }

    #[test]
    fn no_list_makes_a_plan_panic(n_evicted: u64, n_kept: u64, eights in 1_u64..60) {
        let layout = KvLayout::new(KvShape { row_len: 8 * eights, ..SHAPE }.nhd()).unwrap();
        for (n_evicted, n_kept) in [(n_evicted, n_kept), (n_evicted % 9999, n_kept % 9999)] {
            let _ = MergePlan::new(layout, n_evicted, n_kept).map(|plan| {
                (plan.n_lists(), plan.evicted_len(), plan.kept_len())
            });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_lists_give_what_the_reference_gives(
        seed: u64, n_evicted in 0_u64..50, n_kept in 0_u64..50, eights in 1_u64..33, is_nhd: bool, has_values: bool,
        is_released: bool, decay in 0.0_f32..1.0, has_special: bool,
    ) {
        let shape = KvShape { row_len: 8 * eights, ..SHAPE };
        let shape = if is_nhd { shape.nhd() } else { shape.hnd().fused() };
        let weights = if is_released { MergeWeights::Released } else { MergeWeights::Softmax };
        let lists = [n_evicted, n_kept];
        let mut brains = Problem::<bf16>::new(shape, lists, seed, has_special);
        if !has_values {
            brains.values = None;
        }
        assert_same(&Problem { decay, weights, ..brains });
        let halves = Problem::<f16>::new(shape, lists, seed, has_special);
        assert_same(&Problem { decay, weights, ..halves });
    }
}

#[test]
fn lists_around_a_block() {
    for n in [0, 1, 31, 32, 33] {
        for other in [1, 32, 33] {
            assert_same(&plain(128, [n, other], n));
            assert_same(&plain(64, [other, n], n));
        }
    }
    // Twenty of a thousand requests' heads.
    let shape = KvShape { batch: 5, n_heads: 4, n_pages: 99, ..SHAPE }.hnd();
    assert_same(&Problem::<bf16>::new(shape, [20, 11], 5, false));
}

#[test]
fn what_points_nowhere_merges_nowhere_in_particular() {
    let mut problem = plain(16, [10, 10], 3);
    problem.keys.fill(bf16::ZERO);
    assert!(problem.expect().similarities.iter().all(|bits| *bits == 0));
    assert_same(&problem);
    problem.keys.fill(bf16::NAN);
    assert_same(&problem);
    // Squares overflow.
    problem.keys.fill(bf16::MAX);
    assert_same(&problem);
}

#[test]
fn every_schedule_and_fibre_gives_the_same_bits() {
    let problem = Problem::<bf16>::new(SHAPE.hnd(), [40, 35], 8, false);
    let expected = problem.expect();
    for schedule in common::SCHEDULES {
        for fibres in [Fibres::Native, Fibres::Portable] {
            let config =
                Config { schedule, fibres, seed: 5, checks: Checks::ALL, ..Config::default() };
            assert_eq!(problem.run(&Queue::simt(config.clone())).unwrap(), expected, "{config:?}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let queue = Queue::simt(Config::default());
    let sound = plain(16, [10, 7], 3);
    for (problem, message) in [
        (Problem { evicted: vec![0; 9], ..sound.clone() }, "evicted: expected 10, got 9"),
        (Problem { kept: vec![0; 9], ..sound.clone() }, "kept: expected 7, got 9"),
        (Problem { thresholds: vec![0.0; 2], ..sound }, "thresholds: expected 1, got 2"),
    ] {
        assert_eq!(problem.run(&queue).unwrap_err().to_string(), message);
    }
    let layout = KvLayout::new(KvShape { row_len: 264, ..SHAPE }.nhd()).unwrap();
    assert_eq!(
        MergePlan::new(layout, 1, 1).unwrap_err().to_string(),
        "elements of a merged row: 264 is outside 0..=256"
    );
}
