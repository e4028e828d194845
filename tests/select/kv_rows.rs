//! `gather_kv` and `scatter_kv`.

use half::bf16;
use lacuna::element::E4m3;
use lacuna::kv::{KvLayout, KvLists, KvShape, KvView, KvViewMut};
use lacuna::select::{Absent, KvRows, KvRowsMut, KvRowsPlan, gather_kv, reference, scatter_kv};
use lacuna::simt::{Checks, Config, Fibres};
use lacuna::{Error, Queue};
use proptest::prelude::*;

use crate::common;

#[derive(Debug, Clone)]
struct Problem<T> {
    plan: KvRowsPlan,
    page_table: Vec<i32>,
    lengths: Vec<u32>,
    indices: Vec<i32>,
    keys: Vec<T>,
    values: Option<Vec<T>>,
    /// `[batch, n_heads, n_indices, row_len]`, before and, of a scatter, what goes into the cache.
    rows: Vec<T>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Move {
    Gather(Absent),
    Scatter,
}

const MOVES: [Move; 3] = [Move::Gather(Absent::Zeros), Move::Gather(Absent::Kept), Move::Scatter];

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
    *state >> 33
}

const SHAPE: KvShape = KvShape {
    batch: 2,
    n_heads: 3,
    row_len: 16,
    n_pages: 19,
    page_size: 4,
    table_stride: 9,
    tokens_per_row: 1,
    page_stride: 0,
    token_stride: 0,
    head_stride: 0,
};

type Elements<T> = (Vec<T>, Vec<T>);

impl<T: lacuna::element::Float + Default> Problem<T> {
    /// Pages of no two requests, some of them none; tokens of no list twice, some of them absent.
    fn new(shape: KvShape, n: u64, lists: KvLists, seed: u64, of: fn(u64) -> T) -> Self {
        let layout = KvLayout::new(shape).unwrap();
        let plan = KvRowsPlan::new(layout, n, lists).unwrap();
        let mut state = seed;
        let mut values = |n: u64| (0..n).map(|_| of(random(&mut state))).collect::<Vec<_>>();
        let (keys, values, rows) =
            (values(layout.pool_len()), values(layout.pool_len()), values(plan.rows_len()));
        let mut pages: Vec<i32> = (0..shape.n_pages as i32).collect();
        let table = (0..layout.table_len())
            .map(|_| match random(&mut state) % 6 {
                0 => [-1, i32::MIN, shape.n_pages as i32][(random(&mut state) % 3) as usize],
                _ if pages.is_empty() => -1,
                _ => pages.swap_remove(random(&mut state) as usize % pages.len()),
            })
            .collect();
        let n_rows = layout.n_rows() as u32;
        let lengths = (0..shape.batch)
            .map(|b| if b == 0 { u32::MAX } else { random(&mut state) as u32 % (n_rows + 2) })
            .collect();
        let n_lists = plan.indices_len() / n.max(1);
        let indices = (0..n_lists)
            .flat_map(|_| {
                let mut tokens: Vec<i32> = (-3..n_rows as i32 + 3).collect();
                (0..n)
                    .map(|_| match tokens.len() {
                        0 => -1,
                        n_left => tokens.swap_remove(random(&mut state) as usize % n_left),
                    })
                    .collect::<Vec<_>>()
            })
            .collect();
        Self { plan, page_table: table, lengths, indices, keys, values: Some(values), rows }
    }

    /// What is written for keys, and for values.
    fn run(&self, queue: &Queue, what: Move) -> Result<Elements<T>, Error> {
        let page_table = queue.upload(&self.page_table)?;
        let lengths = queue.upload(&self.lengths)?;
        let indices = queue.upload(&self.indices)?;
        let mut keys = queue.upload(&self.keys)?;
        let mut values = self.values.as_ref().map(|values| queue.upload(values)).transpose()?;
        let mut key_rows = queue.upload(&self.rows)?;
        let mut value_rows = queue.upload(&self.rows)?;
        let layout = *self.plan.layout();
        let has_values = self.values.is_some();
        if let Move::Gather(absent) = what {
            let kv = KvView {
                layout,
                keys: keys.view(),
                values: values.as_ref().map(|values| values.view()),
                page_table: page_table.view(),
                lengths: lengths.view(),
                key_scale: 1.0,
                value_scale: 1.0,
            };
            let mut gathered = KvRowsMut {
                keys: key_rows.view_mut(),
                values: has_values.then(|| value_rows.view_mut()),
            };
            gather_kv(queue, &self.plan, &kv, &indices.view(), absent, &mut gathered)?;
            return Ok((queue.download(&key_rows.view())?, queue.download(&value_rows.view())?));
        }
        let source =
            KvRows { keys: key_rows.view(), values: has_values.then(|| value_rows.view()) };
        let mut kv = KvViewMut {
            layout,
            keys: keys.view_mut(),
            values: values.as_mut().map(|values| values.view_mut()),
            page_table: page_table.view(),
            lengths: lengths.view(),
        };
        scatter_kv(queue, &self.plan, &source, &indices.view(), &mut kv)?;
        let values = values.map(|values| queue.download(&values.view())).transpose()?;
        Ok((queue.download(&keys.view())?, values.unwrap_or_default()))
    }

    fn expect(&self, what: Move) -> Elements<T> {
        let Self { plan, page_table, lengths, indices, keys, values, rows } = self;
        let of_pool = |pool: &[T]| {
            let (mut pool, mut rows) = (pool.to_vec(), rows.clone());
            match what {
                Move::Gather(absent) => reference::gather_kv(
                    plan, page_table, lengths, &pool, indices, absent, &mut rows,
                ),
                Move::Scatter => {
                    reference::scatter_kv(plan, page_table, lengths, &rows, indices, &mut pool);
                    return pool;
                }
            }
            rows
        };
        let without = if what == Move::Scatter { Vec::new() } else { rows.clone() };
        (of_pool(keys), values.as_ref().map_or(without, |values| of_pool(values)))
    }
}

#[track_caller]
fn assert_same<T: lacuna::element::Float + Default>(problem: &Problem<T>, what: Move) {
    for queue in common::queues() {
        let (found, expected) = (problem.run(&queue, what).unwrap(), problem.expect(what));
        let bytes = |values: &[T]| bytemuck::cast_slice::<T, u8>(values).to_vec();
        assert!(bytes(&found.0) == bytes(&expected.0), "keys, {what:?}, {}", queue.executor());
        assert!(bytes(&found.1) == bytes(&expected.1), "values, {what:?}, {}", queue.executor());
    }
}

fn to_bf16(bits: u64) -> bf16 {
    bf16::from_bits(bits as u16)
}

fn to_e4m3(bits: u64) -> E4m3 {
    E4m3(bits as u8)
}

proptest! {
    #[test]
    fn a_gather_undoes_a_scatter(seed: u64, n in 0_u64..30, is_shared: bool) {
        let lists = if is_shared { KvLists::PerRequest } else { KvLists::PerHead };
        let problem = Problem::new(SHAPE.hnd(), n, lists, seed, to_bf16);
        let pool = problem.expect(Move::Scatter).0;
        let again = Problem { keys: pool, ..problem.clone() }.expect(Move::Gather(Absent::Kept)).0;
        let bits = |rows: &[bf16]| rows.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&again), bits(&problem.rows));
    }

    #[test]
    fn no_list_makes_a_plan_panic(n: u64, batch in 0_u64..70_000, n_heads in 0_u64..70_000) {
        let shape = KvShape { batch, n_heads, table_stride: 0, ..SHAPE }.nhd();
        if let Ok(layout) = KvLayout::new(shape) {
            for n in [n, n % 1000] {
                let _ = KvRowsPlan::new(layout, n, KvLists::PerHead)
                    .map(|plan| (plan.indices_len(), plan.rows_len(), plan.least_bytes(2)));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_lists_give_what_the_reference_gives(
        seed: u64, n in 0_u64..40, batch in 1_u64..4, n_heads in 1_u64..4, eights in 1_u64..20, page_size in 1_u64..9,
        layout in 0..3, is_shared: bool, has_values: bool, what in 0_usize..3,
    ) {
        let shape = KvShape { batch, n_heads, row_len: 8 * eights, page_size, ..SHAPE };
        let shape = match layout {
            0 => shape.nhd(),
            1 => shape.hnd(),
            _ => shape.hnd().fused(),
        };
        let lists = if is_shared { KvLists::PerRequest } else { KvLists::PerHead };
        let mut problem = Problem::new(shape, n, lists, seed, to_bf16);
        if !has_values {
            problem.values = None;
        }
        assert_same(&problem, MOVES[what]);
        assert_same(&Problem::new(shape, n, lists, seed, to_e4m3), MOVES[what]);
    }
}

#[test]
fn rows_around_a_team_and_a_block() {
    for row_len in [8, 16, 120, 128, 136, 256, 264, 512, 1024] {
        let shape = KvShape { row_len, ..SHAPE }.nhd();
        for what in MOVES {
            assert_same(&Problem::new(shape, 11, KvLists::PerHead, row_len, to_bf16), what);
            assert_same(&Problem::new(shape, 11, KvLists::PerRequest, row_len, to_e4m3), what);
        }
    }
}

#[test]
fn every_schedule_and_fibre_gives_the_same_bits() {
    let problem = Problem::new(SHAPE.hnd(), 20, KvLists::PerHead, 8, to_bf16);
    for what in MOVES {
        let expected = problem.expect(what);
        for schedule in common::SCHEDULES {
            for fibres in [Fibres::Native, Fibres::Portable] {
                let config =
                    Config { schedule, fibres, seed: 5, checks: Checks::ALL, ..Config::default() };
                let found = problem.run(&Queue::simt(config.clone()), what).unwrap();
                let bytes = |rows: &Elements<bf16>| {
                    [bytemuck::cast_slice::<_, u8>(&rows.0), bytemuck::cast_slice(&rows.1)].concat()
                };
                assert!(bytes(&found) == bytes(&expected), "{what:?} {config:?}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let queue = Queue::simt(Config::default());
    let sound = Problem::new(SHAPE.nhd(), 20, KvLists::PerRequest, 8, to_bf16);
    for (problem, message) in [
        (Problem { indices: vec![0; 41], ..sound.clone() }, "indices: expected 40, got 41"),
        (
            Problem { rows: vec![bf16::ZERO; 9], ..sound.clone() },
            "gathered keys: expected 1920, got 9",
        ),
        (Problem { lengths: vec![3], ..sound.clone() }, "lengths: expected 2, got 1"),
    ] {
        let error = problem.run(&queue, MOVES[0]).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let layout = *sound.plan.layout();
    assert_eq!(
        KvRowsPlan::new(layout, 1 << 30, KvLists::PerHead).unwrap_err().to_string(),
        "rows of all lists: 6442450944 is outside 0..2^31"
    );
}
