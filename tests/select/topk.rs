//! `topk_rows`.

use half::{bf16, f16};
use lacuna::select::reference::{RowRule, slot_of, topk_row};
use lacuna::select::{
    MAX_PICKS, Order, Rule, Score, TopkInputs, TopkOutputs, TopkPages, TopkPlan, TopkShape,
    topk_rows,
};
use lacuna::simt::{Checks, Config, Fibres};
use lacuna::{Buffer, Error, Queue};
use proptest::prelude::*;

use crate::common;

/// A launch's rows, and what is asked of each.
#[derive(Debug, Clone)]
struct Problem<T> {
    scores: Vec<T>,
    shape: TopkShape,
    starts: Option<Vec<u32>>,
    lengths: Option<Vec<u32>>,
    counts_asked: Option<Vec<u32>>,
    skips: Option<Vec<u32>>,
    amounts: Option<Vec<f32>>,
    page_table: Option<Vec<i32>>,
    /// Whether values, and what the rule wanted, are asked for.
    has_more: bool,
    /// Blocks that have a row, in place of what the plan says.
    n_blocks: Option<u32>,
    /// One after the other, nothing between them.
    n_launches: u32,
}

#[derive(Debug, PartialEq, Default)]
struct Picks {
    indices: Vec<i32>,
    counts: Vec<u32>,
    values: Vec<u32>,
    slots: Vec<i32>,
    wanted: Vec<u32>,
}

/// What is in the outputs before a launch.
const POISON: i32 = -0x5EED;

/// The outputs of a launch, in a queue's memory.
struct Outputs<T> {
    indices: Buffer<i32>,
    counts: Buffer<u32>,
    values: Buffer<T>,
    slots: Buffer<i32>,
    wanted: Buffer<u32>,
}

impl<T: Score + Default> Outputs<T> {
    fn new(queue: &Queue, plan: &TopkPlan) -> Result<Self, Error> {
        let n_picks = plan.picks_len() as usize;
        let n_rows = plan.shape().n_rows as usize;
        let poison = vec![POISON; n_picks];
        let of_rows = vec![POISON as u32; n_rows];
        Ok(Self {
            indices: queue.upload(&poison)?,
            counts: queue.upload(&of_rows)?,
            values: queue.alloc::<T>(n_picks)?,
            slots: queue.upload(&poison)?,
            wanted: queue.upload(&of_rows)?,
        })
    }
}

impl<T: Score + Default> Problem<T> {
    fn new(rows: &[Vec<T>], k: usize) -> Self {
        let n = rows.iter().map(Vec::len).max().unwrap_or(0);
        assert!(rows.iter().all(|row| row.len() == n));
        Self {
            scores: rows.concat(),
            shape: TopkShape::of::<T>(rows.len() as u64, n as u64, k as u64),
            starts: None,
            lengths: None,
            counts_asked: None,
            skips: None,
            amounts: None,
            page_table: None,
            has_more: true,
            n_blocks: None,
            n_launches: 1,
        }
    }

    fn with_blocks(mut self, n_blocks: u32) -> Self {
        self.n_blocks = Some(n_blocks);
        self
    }

    fn with_rule(mut self, rule: Rule) -> Self {
        self.shape.rule = rule;
        self
    }

    fn with_order(mut self, order: Order) -> Self {
        self.shape.order = order;
        self
    }

    fn with_forced(mut self, n_first: usize, n_last: usize) -> Self {
        (self.shape.n_first, self.shape.n_last) = (n_first as u64, n_last as u64);
        self
    }

    /// The same rows further apart.
    fn with_stride(mut self, row_stride: usize) -> Self {
        let n_rows = self.n_rows();
        let n = self.shape.n as usize;
        let mut scores = vec![T::default(); n_rows.saturating_sub(1) * row_stride + n];
        for row in 0..n_rows {
            scores[row * row_stride..][..n].copy_from_slice(self.row(row));
        }
        (self.scores, self.shape.row_stride) = (scores, row_stride as u64);
        self
    }

    fn n_rows(&self) -> usize {
        self.shape.n_rows as usize
    }

    fn row(&self, row: usize) -> &[T] {
        &self.scores[row * self.shape.row_stride as usize..][..self.shape.n as usize]
    }

    fn plan(&self) -> Result<TopkPlan, Error> {
        let plan = TopkPlan::new(self.shape)?;
        self.n_blocks.map_or(Ok(plan), |n_blocks| plan.with_blocks(n_blocks))
    }

    fn run(&self, queue: &Queue) -> Result<Picks, Error> {
        self.run_into(queue, &mut Outputs::new(queue, &self.plan()?)?)
    }

    fn run_into(&self, queue: &Queue, outputs: &mut Outputs<T>) -> Result<Picks, Error> {
        let plan = self.plan()?;
        let scores = queue.upload(&self.scores)?;
        let upload = |words: &Option<Vec<u32>>| words.as_ref().map(|w| queue.upload(w)).transpose();
        let [starts, lengths, counts_asked, skips] =
            [&self.starts, &self.lengths, &self.counts_asked, &self.skips].map(upload);
        let [starts, lengths, counts_asked, skips] = [starts?, lengths?, counts_asked?, skips?];
        let amounts = self.amounts.as_ref().map(|a| queue.upload(a)).transpose()?;
        let page_table = self.page_table.as_ref().map(|t| queue.upload(t)).transpose()?;
        let inputs = TopkInputs {
            scores: scores.view(),
            starts: starts.as_ref().map(|b| b.view()),
            lengths: lengths.as_ref().map(|b| b.view()),
            counts_asked: counts_asked.as_ref().map(|b| b.view()),
            skips: skips.as_ref().map(|b| b.view()),
            amounts: amounts.as_ref().map(|b| b.view()),
            page_table: page_table.as_ref().map(|b| b.view()),
        };
        let Outputs { indices, counts, values, slots, wanted } = outputs;
        let has_slots = self.page_table.is_some();
        let mut written = TopkOutputs {
            values: self.has_more.then(|| values.view_mut()),
            slots: has_slots.then(|| slots.view_mut()),
            wanted: self.has_more.then(|| wanted.view_mut()),
            ..TopkOutputs::new(indices.view_mut(), counts.view_mut())
        };
        for _ in 0..self.n_launches {
            topk_rows(queue, &plan, &inputs, &mut written)?;
        }
        let mut picks = Picks {
            indices: queue.download(&indices.view())?,
            counts: queue.download(&counts.view())?,
            ..Picks::default()
        };
        if self.has_more {
            let values = queue.download(&values.view())?;
            picks.values = values.iter().map(|value| to_bits(*value)).collect();
            picks.wanted = queue.download(&wanted.view())?;
        }
        if has_slots {
            picks.slots = queue.download(&slots.view())?;
        }
        Ok(picks)
    }

    /// What is asked of a row.
    fn rule(&self, row: usize) -> RowRule {
        let of_row = |words: &Option<Vec<u32>>| words.as_ref().map(|words| words[row] as usize);
        let shape = &self.shape;
        RowRule {
            start: of_row(&self.starts).unwrap_or(0),
            length: of_row(&self.lengths).unwrap_or(shape.n as usize),
            k: shape.k as usize,
            asked: of_row(&self.counts_asked),
            n_first: shape.n_first as usize,
            n_last: shape.n_last as usize,
            rule: self.amounts.as_ref().map_or(shape.rule, |a| shape.rule.with_amount(a[row])),
            order: shape.order,
        }
    }

    fn expect(&self) -> Picks {
        let mut picks = Picks::default();
        let k = self.shape.k as usize;
        for row in 0..self.n_rows() {
            let is_skipped = self.skips.as_ref().is_some_and(|skips| skips[row] != 0);
            let found = topk_row(self.row(row), &self.rule(row));
            let word = |word: usize| if is_skipped { POISON as u32 } else { word as u32 };
            picks.counts.push(word(found.indices.len()));
            if self.has_more {
                picks.wanted.push(word(found.n_wanted));
            }
            for place in 0..k {
                let pick = found.indices.get(place).copied().filter(|_| !is_skipped);
                let nothing = if is_skipped { POISON } else { -1 };
                picks.indices.push(pick.map_or(nothing, |i| i as i32));
                if self.has_more {
                    picks.values.push(pick.map_or(0, |i| to_bits(self.row(row)[i])));
                }
                if let (Some(pages), Some(table)) = (&self.shape.pages, &self.page_table) {
                    let slot = pick.map(|i| slot_of(pages, table, row, i).map_or(-1, |i| i as i32));
                    picks.slots.push(slot.unwrap_or(nothing));
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

/// By the blocks that the plan says, or a cluster of each number.
#[track_caller]
fn assert_same_by<T: Score + Default>(problem: &Problem<T>, blocks: &[u32]) {
    let expected = problem.expect();
    for queue in common::queues() {
        for n_blocks in blocks {
            let found = problem.clone().with_blocks(*n_blocks).run(&queue).unwrap();
            assert_eq!(found, expected, "{}, {n_blocks} blocks", queue.executor());
        }
    }
}

/// By one block, and by a cluster.
#[track_caller]
fn assert_same<T: Score + Default>(problem: &Problem<T>) {
    let n_blocks = [2, 3, 5, 8][(problem.shape.n + problem.shape.k) as usize % 4];
    assert_same_by(problem, &[1, n_blocks]);
}

/// Scores of few distinct values, special ones among them, so that ties are everywhere.
fn few_values(n: usize, seed: u64) -> Vec<f32> {
    let values = [0.0, -0.0, 1.0, -1.0, 1.5, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 3e-40];
    let mut next = words(seed);
    (0..n).map(|_| values[(next() >> 1) as usize % values.len()]).collect()
}

/// Scores that hardly tie.
fn many_values(n: usize, seed: u64) -> Vec<f32> {
    let mut next = words(seed);
    (0..n).map(|_| f32::from_bits(next())).collect()
}

/// Weights as softmax makes them: over many powers of two, and some equal.
fn weights(n: usize, seed: u64) -> Vec<f32> {
    let mut next = words(seed);
    (0..n)
        .map(|_| {
            let bits = next();
            let magnitude = 2_f32.powi(-((bits >> 27) as i32)) * (1.0 + (bits & 7) as f32 / 8.0);
            if bits & 0x1F00 == 0 { 0.0 } else { magnitude }
        })
        .collect()
}

fn words(seed: u64) -> impl FnMut() -> u32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
        (state >> 32) as u32
    }
}

fn brains(row: &[f32]) -> Vec<bf16> {
    row.iter().map(|x| bf16::from_f32(*x)).collect()
}

/// The same problem in another type of scores.
fn convert<T: Score + Default>(problem: &Problem<f32>, of: fn(f32) -> T) -> Problem<T> {
    let shape = TopkShape { score_bytes: size_of::<T>() as u32, ..problem.shape };
    let of_rows = problem.clone();
    Problem {
        scores: problem.scores.iter().map(|x| of(*x)).collect(),
        shape,
        starts: of_rows.starts,
        lengths: of_rows.lengths,
        counts_asked: of_rows.counts_asked,
        skips: of_rows.skips,
        amounts: of_rows.amounts,
        page_table: of_rows.page_table,
        has_more: of_rows.has_more,
        n_blocks: of_rows.n_blocks,
        n_launches: of_rows.n_launches,
    }
}

/// In each type of scores.
#[track_caller]
fn assert_all_same(problem: &Problem<f32>) {
    assert_same(problem);
    assert_same(&convert(problem, bf16::from_f32));
    assert_same(&convert(problem, f16::from_f32));
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

fn any_rule() -> impl Strategy<Value = Rule> {
    let share = prop_oneof![Just(0.0_f32), Just(1.0), 0.0..=1.0_f32, 0.0..1e-6_f32];
    let percent = prop_oneof![Just(0.0_f32), Just(100.0), Just(30.0), 0.0..=100.0_f32];
    let least = prop_oneof![
        Just(0.0_f32),
        Just(-0.0),
        Just(1.0),
        Just(f32::NEG_INFINITY),
        Just(f32::INFINITY),
        -2.0..2.0_f32,
        any::<f32>().prop_filter("a number", |x| !x.is_nan()),
    ];
    prop_oneof![
        Just(Rule::Largest),
        share.prop_map(|share| Rule::Mass { share }),
        least.prop_map(|least| Rule::AtLeast { least }),
        percent.prop_map(|percent| Rule::Percentile { percent }),
    ]
}

/// Of the formula, in floating point: all products are exact.
fn weight(score: f32, scores: &[f32]) -> u128 {
    let largest = scores.iter().filter(|x| x.is_finite()).fold(f32::MIN_POSITIVE, |a, b| a.max(*b));
    let exponent = f64::from(largest).log2().floor();
    let exact = f64::from(score) * (39.0 - exponent).exp2();
    if score == f32::INFINITY { (1 << 40) - 1 } else { exact.max(0.0) as u128 }
}

proptest! {
    /// Of the reference alone: as many as may be, of candidates only, and none left out that is better.
    #[test]
    fn picks_are_the_first_by_score_and_index(
        seed: u64, n in 0_usize..60, k in 0_usize..70, start in 0_usize..70, length in 0_usize..70,
    ) {
        let scores = few_values(n, seed);
        let rule = RowRule { start, length, k, ..RowRule::default() };
        let picks = topk_row(&scores, &rule).indices;
        let candidates: Vec<_> = (start..n.min(start + length)).collect();
        prop_assert_eq!(picks.len(), k.min(candidates.len()));
        prop_assert!(picks.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(picks.iter().all(|pick| candidates.contains(pick)));
        let left: Vec<_> = candidates.into_iter().filter(|i| !picks.contains(i)).collect();
        let is_better = |one: usize, other: usize| {
            let [one_key, other_key] = [scores[one].key(), scores[other].key()];
            one_key > other_key || (one_key == other_key && one < other)
        };
        for pick in &picks {
            prop_assert!(left.iter().all(|other| is_better(*pick, *other)));
        }
        let ranked = topk_row(&scores, &RowRule { order: Order::Score, ..rule }).indices;
        prop_assert!(ranked.windows(2).all(|pair| is_better(pair[0], pair[1])));
        let sorted: std::collections::BTreeSet<_> = ranked.into_iter().collect();
        prop_assert_eq!(sorted.into_iter().collect::<Vec<_>>(), picks);
    }

    /// Of the reference alone: the set reaches its mass, and no smaller one does.
    #[test]
    fn a_mass_is_reached_by_the_fewest(
        seed: u64, n in 0_usize..60, share in 0.0..=1.0_f32, n_first in 0_usize..4, ties: bool,
    ) {
        let scores = if ties { few_values(n, seed) } else { weights(n, seed) };
        let rule = RowRule {
            length: n, k: n, n_first, rule: Rule::Mass { share }, order: Order::Score,
            ..RowRule::default()
        };
        let found = topk_row(&scores, &rule);
        let mass_of = |picks: &[usize]| -> u128 {
            picks.iter().map(|i| weight(scores[*i], &scores)).sum()
        };
        let total = mass_of(&(0..n).collect::<Vec<_>>());
        // As the plan says, in units of 2^-32.
        let share = (f64::from(share) * 2_f64.powi(32)).ceil() as u128;
        let reaches = |mass: u128| mass << 32 >= total * share;
        prop_assert_eq!(found.n_wanted, found.indices.len());
        prop_assert!(found.n_wanted >= n_first.min(n));
        prop_assert!(reaches(mass_of(&found.indices)));
        if found.n_wanted > n_first.min(n) {
            prop_assert!(!reaches(mass_of(&found.indices[..found.n_wanted - 1])));
        }
        // With fewer places, the first of them.
        let fewer = topk_row(&scores, &RowRule { k: n / 3, ..rule });
        prop_assert_eq!(fewer.n_wanted, found.n_wanted);
        prop_assert_eq!(&fewer.indices[..], &found.indices[..found.n_wanted.min(n / 3)]);
    }

    /// Of the reference alone.
    #[test]
    fn thresholds_and_percentiles_say_who_is_picked(
        seed: u64, n in 0_usize..60, least in -2.0..2.0_f32, percent in 0_u32..=100,
    ) {
        let scores = few_values(n, seed);
        let row = RowRule { length: n, k: n, ..RowRule::default() };
        let found = topk_row(&scores, &RowRule { rule: Rule::AtLeast { least }, ..row });
        let expected: Vec<_> = (0..n).filter(|i| scores[*i] >= least).collect();
        prop_assert_eq!(found.indices, expected);
        let rule = Rule::Percentile { percent: percent as f32 };
        let found = topk_row(&scores, &RowRule { rule, ..row });
        prop_assert_eq!(found.n_wanted, (n * (100 - percent as usize)).div_ceil(100));
        let largest = topk_row(&scores, &RowRule { k: found.n_wanted, ..row });
        prop_assert_eq!(found.indices, largest.indices);
    }

    #[test]
    fn any_rows_give_what_the_reference_gives(
        seed: u64, n_rows in 1_usize..4, n in 1_usize..1200, k in 0_usize..700, gap in 0_usize..9,
        forced in (0_usize..20, 0_usize..20), given in any::<[bool; 7]>(), rule in any_rule(),
        kind in 0..3, is_ranked: bool, page_size in 1_u64..=256,
    ) {
        let make = [few_values, many_values, weights][kind as usize];
        let rows: Vec<_> = (0..n_rows).map(|row| make(n, seed ^ row as u64)).collect();
        let of_rows = |idx: usize, most: usize| -> Option<Vec<u32>> {
            let mut next = words(seed ^ idx as u64);
            // Some past every end.
            let most = (most + most / 4 + 2) as u32;
            given[idx].then(|| (0..n_rows).map(|_| next() % most).collect())
        };
        let order = if is_ranked { Order::Score } else { Order::Index };
        let mut problem = Problem {
            starts: of_rows(0, n), lengths: of_rows(1, n), counts_asked: of_rows(2, k),
            skips: of_rows(3, 0), has_more: given[4],
            ..Problem::new(&rows, k)
        };
        if given[5] {
            let amount = [0.3, 40.0, f32::NAN, -1.0, 1e-3, f32::INFINITY, 1.5];
            let mut next = words(seed ^ 5);
            problem.amounts = Some((0..n_rows).map(|_| amount[next() as usize % 7]).collect());
        }
        if given[6] {
            // Of some pages none, and of some rows too few.
            let pages =
                TopkPages { n_pages: 40, page_size, table_stride: 9, rows_per_request: 2 };
            let n_entries = n_rows.div_ceil(2) * 9;
            let mut next = words(seed ^ 6);
            problem.shape.pages = Some(pages);
            problem.page_table = Some((0..n_entries).map(|_| next() as i32 % 44).collect());
        }
        let problem = problem
            .with_rule(rule).with_order(order).with_forced(forced.0, forced.1).with_stride(n + gap);
        assert_all_same(&problem);
    }

    #[test]
    fn no_shape_makes_a_plan_panic(
        most: u32, n_blocks in 1_u32..=16, sizes in any::<[u64; 6]>(), small in any::<[bool; 6]>(), score_bytes in 0_u32..6,
        rule in any_rule(), is_ranked: bool, pages in any::<Option<[u64; 4]>>(),
    ) {
        let mut sizes = sizes;
        for (size, is_small) in sizes.iter_mut().zip(small) {
            *size >>= if is_small { 45 } else { 0 };
        }
        let [n_rows, n, row_stride, k, n_first, n_last] = sizes;
        let order = if is_ranked { Order::Score } else { Order::Index };
        let pages = pages.map(|[n_pages, page_size, table_stride, rows_per_request]| TopkPages {
            n_pages, page_size: page_size % 300, table_stride, rows_per_request,
        });
        let shape = TopkShape {
            n_rows, n, row_stride, k, n_first, n_last, score_bytes, rule, order, pages,
        };
        let _ = TopkPlan::new(shape).map(|plan| {
            for plan in [plan, plan.with_blocks(n_blocks).unwrap()] {
                assert!(plan.grid().dynamic_shared_bytes <= 96 << 10);
                assert!(plan.cluster_grid(most).dynamic_shared_bytes <= 96 << 10);
            }
            (plan.scores_len(), plan.picks_len(), plan.table_len(), plan.least_bytes())
        });
    }
}

/// Rows of few distinct values in launches of many short rows, on the executor without checks, for seconds;
/// `LACUNA_TOPK_ROWS` says how many instead.
#[test]
fn rows_full_of_ties_are_cut_and_ordered_as_by_a_sort() {
    let n_rows = std::env::var("LACUNA_TOPK_ROWS").map_or(30_000, |n| n.parse().unwrap());
    let queue = Queue::simt(Config::default());
    let rules = [
        Rule::Largest,
        Rule::Mass { share: 0.8 },
        Rule::Largest,
        Rule::AtLeast { least: 0.5 },
        Rule::Largest,
        Rule::Percentile { percent: 60.0 },
    ];
    let mut next = words(41);
    for launch in 0..n_rows / 2000 + 1 {
        let n = 1 + next() as usize % 90;
        let rows: Vec<_> = (0..2000).map(|_| few_values(n, next().into())).collect();
        let order = if next() & 1 == 0 { Order::Index } else { Order::Score };
        let k = next() as usize % (n + 2);
        let problem = Problem {
            lengths: Some(rows.iter().map(|_| next() % (n as u32 + 2)).collect()),
            has_more: next() & 1 == 0,
            ..Problem::new(&rows, k)
        };
        let problem = problem
            .with_rule(rules[launch % rules.len()])
            .with_order(order)
            .with_forced(next() as usize % 3, next() as usize % 3);
        match next() % 3 {
            0 => assert_eq!(problem.run(&queue).unwrap(), problem.expect()),
            1 => {
                let problem = convert(&problem, bf16::from_f32);
                assert_eq!(problem.run(&queue).unwrap(), problem.expect());
            }
            _ => {
                let problem = convert(&problem, f16::from_f32);
                assert_eq!(problem.run(&queue).unwrap(), problem.expect());
            }
        }
    }
}

#[test]
fn sizes_around_a_block_and_the_ends() {
    for n in [1, 2, 7, 8, 9, 31, 32, 33, 511, 512, 513, 1023, 1025] {
        for k in [0, 1, n - 1, n, n + 1, 2 * n] {
            assert_same(&Problem::new(&[few_values(n, n as u64)], k));
            let problem = Problem::new(&[brains(&few_values(n, n as u64))], k);
            assert_same(&problem.with_order(Order::Score));
        }
    }
    let nothing = Problem::<f32>::new(&[], 5);
    assert_same(&nothing);
    // Rows without scores.
    for rule in [Rule::Largest, Rule::Mass { share: 1.0 }, Rule::AtLeast { least: 0.0 }] {
        let empty = Problem::<f32>::new(&[vec![], vec![]], 2).with_rule(rule);
        assert_same(&Problem { counts_asked: Some(vec![3, 0]), ..empty });
    }
}

#[test]
fn all_equal_scores_give_the_first_and_the_forced() {
    for value in [0.0_f32, f32::NAN, f32::NEG_INFINITY, f32::INFINITY] {
        for order in [Order::Index, Order::Score] {
            let problem = Problem::new(&[vec![value; 900]], 20).with_forced(3, 4).with_order(order);
            let mut expected: Vec<_> = (0..3).chain(896..900).chain(3..16).collect();
            if order == Order::Index {
                expected.sort_unstable();
            }
            assert_eq!(problem.expect().indices, expected);
            assert_all_same(&problem);
        }
    }
    // Every candidate forced, and more of them than places.
    let problem = Problem::new(&[many_values(900, 1)], 7).with_forced(500, 500);
    assert_eq!(problem.expect().indices, [0, 1, 2, 3, 4, 5, 6]);
    for rule in [Rule::Largest, Rule::Mass { share: 0.1 }, Rule::Percentile { percent: 100.0 }] {
        assert_all_same(&problem.clone().with_rule(rule));
    }
}

/// What others' kernels failed at: a plateau of zeros behind few others, and bins that overflow fixed buffers.
#[test]
fn plateaus_and_crowded_bins() {
    let mut relu = vec![0.0_f32; 5000];
    for i in (0..5000).step_by(97) {
        relu[i] = 1.0 + i as f32;
    }
    assert_all_same(&Problem::new(&[relu], 600));
    // All of one octave, and of one bf16 number.
    let crowded: Vec<f32> = (0..5000).map(|i| 1.0 + (i * 7919 % 5000) as f32 * 1e-4).collect();
    assert_all_same(&Problem::new(&[crowded], 2100));
    let close: Vec<f32> = (0..20_000)
        .map(|i| f32::from_bits(1.0_f32.to_bits() + (i * 7919 % 20_000) % 300))
        .collect();
    assert_all_same(&Problem::new(std::slice::from_ref(&close), 2048));
    assert_all_same(&Problem::new(&[close], 2048).with_rule(Rule::Mass { share: 0.05 }));
}

#[test]
fn rows_that_do_not_fit_on_chip() {
    let row = many_values(60_001, 7);
    let problem = Problem::new(std::slice::from_ref(&row), 2048);
    assert_same(&problem);
    let brains = convert(&problem, bf16::from_f32);
    assert_same(&Problem { shape: TopkShape { k: MAX_PICKS.into(), ..brains.shape }, ..brains });
    // One bin holds everything, and all but one tie.
    let mut flat = vec![1.0_f32; 60_001];
    flat[59_999] = f32::from_bits(1.0_f32.to_bits() + 1);
    let flat = Problem::new(&[flat], 4000).with_forced(1, 1);
    assert_same(&flat);
    assert_same(&flat.with_rule(Rule::Mass { share: 0.06 }).with_order(Order::Score));
    // From within a vector on.
    let masses = Problem::new(&[weights(60_001, 3)], 3000);
    let masses = Problem { starts: Some(vec![3]), ..masses }.with_forced(5, 9);
    assert_all_same(&masses.clone().with_rule(Rule::Mass { share: 0.9 }));
    assert_all_same(&masses.with_rule(Rule::AtLeast { least: 0.9 }).with_order(Order::Score));
}

/// Slices of 256 candidates of 16 bits, or 128: the end of a row in the middle of one, at its ends, and slices without
/// candidates.
#[test]
fn slices_of_a_row_end_anywhere() {
    let rows: Vec<_> = (0..4).map(|row| few_values(2048, row)).collect();
    let problem = Problem::new(&rows, 90);
    for lengths in [[2048, 2047, 1793, 1792], [1791, 300, 257, 256], [255, 33, 1, 0]] {
        let problem = Problem {
            lengths: Some(lengths.to_vec()),
            starts: Some(vec![0, 3, 8, 255]),
            ..problem.clone()
        };
        for order in [Order::Index, Order::Score] {
            let problem = problem.clone().with_order(order).with_forced(3, 300);
            assert_same_by(&convert(&problem, bf16::from_f32), &[1, 2, 3, 8, 16]);
            let problem = problem.with_rule(Rule::Mass { share: 0.9 });
            assert_same_by(&problem, &[1, 2, 3, 8, 16]);
        }
    }
    // More picks than a slice has, and no more places than those of the first slices.
    for k in [2048, 2000, 700, 256] {
        let problem = Problem::new(&rows, k);
        assert_same_by(&convert(&problem, f16::from_f32), &[1, 3, 8]);
        assert_same_by(&problem.clone().with_rule(Rule::AtLeast { least: 0.0 }), &[1, 8]);
        let problem = problem.with_rule(Rule::Percentile { percent: 20.0 });
        assert_same_by(&problem.with_order(Order::Score), &[1, 8]);
    }
}

/// What the cut takes of its ties is the first slices', whichever they are in.
#[test]
fn ties_lie_in_one_slice_or_across_all() {
    let mut one = vec![0.0_f32; 2048];
    one[600..800].fill(1.0);
    one[1900] = 2.0;
    let all: Vec<f32> = (0..2048).map(|i| if i % 3 == 0 { 1.0 } else { -1.0 }).collect();
    for row in [one, all] {
        let problem = Problem::new(&[row], 150);
        for rule in [Rule::Largest, Rule::Mass { share: 0.3 }, Rule::AtLeast { least: 1.0 }] {
            for order in [Order::Index, Order::Score] {
                let problem = problem.clone().with_rule(rule).with_order(order);
                assert_same_by(&problem, &[1, 2, 3, 8]);
                assert_same_by(&convert(&problem, bf16::from_f32), &[1, 2, 3, 8]);
            }
        }
    }
}

/// The grid is the length's alone, and a row of 128 Ki stays on chip.
#[test]
fn long_rows_have_clusters_where_the_queue_has() {
    let plan = |n, k| TopkPlan::new(TopkShape::of::<bf16>(3, n, k)).unwrap();
    for (n, n_blocks) in [(1, 1), (16_383, 2), (16_000, 1), (40_000, 4), (1 << 17, 8), (1 << 30, 8)]
    {
        let grid = plan(n, 99).cluster_grid(16);
        assert_eq!((grid.cluster_blocks, grid.blocks), (n_blocks, [3 * n_blocks, 1, 1]), "{n}");
        let fewer = plan(n, 99).cluster_grid(4);
        assert_eq!(fewer.cluster_blocks, n_blocks.min(4));
        assert_eq!(plan(n, 99).cluster_grid(1), plan(n, 99).grid());
    }
    let grid = plan(1 << 17, 2048).cluster_grid(8);
    assert_eq!((grid.threads, grid.dynamic_shared_bytes), ([1024, 1, 1], 66_048));
    let other = plan(1 << 17, 2048).with_blocks(3).unwrap();
    assert_eq!(other.cluster_grid(8).cluster_blocks, 3);
    assert_eq!(other.cluster_grid(2).cluster_blocks, 2);
    let error = other.with_blocks(17).unwrap_err().to_string();
    assert_eq!(error, "thread blocks of a row: 17 is outside 1..=16");
    // No grid has so many blocks.
    let many = TopkShape::of::<bf16>((1 << 29) - 1, 40_000, 1);
    assert_eq!(TopkPlan::new(many).unwrap().cluster_grid(8).cluster_blocks, 4);
    let more = TopkShape { n_rows: 1 << 29, ..many };
    assert_eq!(TopkPlan::new(more).unwrap().cluster_grid(8).cluster_blocks, 1);
}

#[test]
fn a_mass_at_its_edges() {
    let of = |row: Vec<f32>, share| Problem::new(&[row], 600).with_rule(Rule::Mass { share });
    let wanted = |problem: &Problem<f32>| {
        assert_all_same(problem);
        problem.expect().wanted[0]
    };
    // Of nothing, nothing is enough; of no mass too.
    assert_eq!(wanted(&of(weights(500, 1), 0.0)), 0);
    assert_eq!(wanted(&of(vec![0.0; 500], 1.0)), 0);
    assert_eq!(wanted(&of(vec![-1.0; 500], 1.0)), 0);
    assert_eq!(wanted(&of(vec![f32::NAN; 500], 0.5)), 0);
    assert_eq!(wanted(&of(vec![0.0; 500], 1.0).with_forced(2, 3)), 5);
    // All of it is whatever weighs something.
    assert_eq!(wanted(&of([vec![1.0; 77], vec![0.0; 400], vec![1e-30]].concat(), 1.0)), 77);
    assert_eq!(wanted(&of(vec![1.0; 500], f32::from_bits(1))), 1);
    // The cut among equals.
    assert_eq!(wanted(&of(vec![0.125; 500], 0.5)), 250);
    assert_eq!(wanted(&of(vec![0.125; 501], 0.5)), 251);
    // Forced ones weigh too: here more than is asked for, and here half of it.
    let forced = [vec![8.0], vec![1.0; 248]].concat();
    assert_eq!(wanted(&of(forced.clone(), 0.02).with_forced(1, 0)), 1);
    assert_eq!(wanted(&of(forced, 16.0 / 256.0).with_forced(1, 0)), 9);
    // Infinity is worth two of the largest, almost.
    assert_eq!(wanted(&of([vec![1.0; 100], vec![f32::INFINITY]].concat(), 0.5)), 51);
    assert_eq!(wanted(&of(vec![f32::INFINITY; 100], 0.5)), 50);
    // Subnormal numbers alone.
    let tiny: Vec<f32> = (0..300).map(|i| f32::from_bits(i % 7)).collect();
    assert_same(&of(tiny, 0.7));
    // Too few places: the largest, and how many it should have been.
    let short = Problem::new(&[weights(2000, 5)], 10).with_rule(Rule::Mass { share: 0.99 });
    assert!(wanted(&short) > 10);
    assert_eq!(short.expect().indices, short.clone().with_rule(Rule::Largest).expect().indices);
    let none = Problem { shape: TopkShape { k: 0, ..short.shape }, ..short };
    assert!(wanted(&none) > 10);
}

/// A threshold between two numbers of 16 bits, and at the ends of what they can be.
#[test]
fn thresholds_are_numbers_of_32_bits() {
    let row: Vec<f32> =
        (0..=u16::MAX).step_by(5).map(|bits| f16::from_bits(bits).to_f32()).collect();
    let plain = Problem::new(&[row], 8192);
    for least in [
        0.0,
        -0.0,
        1e-40,
        -1e-40,
        1.0,
        1.0 + f32::EPSILON,
        -1.0 - f32::EPSILON,
        65_504.0,
        65_505.0,
        65_520.0,
        -65_505.0,
        3e38,
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NEG_INFINITY,
    ] {
        let problem = plain.clone().with_rule(Rule::AtLeast { least });
        assert_same(&problem);
        assert_same(&convert(&problem, f16::from_f32));
        assert_same(&convert(&problem, bf16::from_f32));
    }
    // Nothing is at least NaN but what is forced.
    let problem = plain.with_rule(Rule::AtLeast { least: 0.0 }).with_forced(3, 0);
    let problem = Problem { amounts: Some(vec![f32::NAN]), ..problem };
    assert_eq!(problem.expect().counts, [3]);
    assert_same(&problem);
}

#[test]
fn every_schedule_and_fibre_gives_the_same_bits() {
    let rows = [few_values(1500, 3), weights(1500, 4)];
    let problem = Problem::new(&rows, 300).with_forced(2, 5).with_order(Order::Score);
    for (rule, n_blocks) in [Rule::Largest, Rule::Mass { share: 0.6 }]
        .into_iter()
        .flat_map(|rule| [1, 3].map(|n_blocks| (rule, n_blocks)))
    {
        let problem = problem.clone().with_rule(rule).with_blocks(n_blocks);
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

/// Rows whose vectors begin anywhere, and lie in rows of another width.
#[test]
fn the_same_row_gives_the_same_picks_wherever_it_stands() {
    let row = brains(&weights(403, 9));
    for rule in [Rule::Largest, Rule::Mass { share: 0.7 }] {
        let narrow = Problem::new(&vec![row.clone(); 9], 40).with_rule(rule).with_stride(405);
        let wide = [row.clone(), brains(&many_values(5000, 1))].concat();
        let wide = Problem::new(&[wide], 40).with_rule(rule);
        let wide = Problem { lengths: Some(vec![403]), ..wide };
        for queue in common::queues() {
            let found = narrow.run(&queue).unwrap();
            assert_eq!(found, narrow.expect());
            let one = &found.indices[..40];
            assert!(found.indices.chunks(40).all(|picks| picks == one));
            assert_eq!(&wide.run(&queue).unwrap().indices, one);
        }
    }
}

/// As a captured graph replays it: the same buffers, and other lengths in them.
#[test]
fn rows_grow_and_shrink_in_the_same_buffers() {
    let rows = [few_values(900, 1), weights(900, 2)];
    for queue in common::queues() {
        for n_blocks in [1, 4] {
            let problem = Problem::new(&rows, 50).with_rule(Rule::Mass { share: 0.9 });
            let problem = problem.with_blocks(n_blocks);
            let mut outputs = Outputs::new(&queue, &problem.plan().unwrap()).unwrap();
            for lengths in [[900, 0], [1, 900], [0, 0], [70, 30], [u32::MAX, 899]] {
                let problem = Problem { lengths: Some(lengths.to_vec()), ..problem.clone() };
                assert_eq!(problem.run_into(&queue, &mut outputs).unwrap(), problem.expect());
            }
        }
    }
}

/// A hundred thousand on a GPU (or `LACUNA_LAUNCHES`), where clusters start again before others have left; they must neither hang nor wear out.
#[test]
fn launches_follow_each_other() {
    for queue in common::queues() {
        let asked = std::env::var("LACUNA_LAUNCHES").ok().and_then(|n| n.parse().ok());
        let n_launches = asked.unwrap_or(if queue.memory().is_cuda() { 100_000 } else { 10 });
        for (n, n_blocks) in [(700, 1), (9000, 4)] {
            let rows = [few_values(n, 1), few_values(n, 2), many_values(n, 3)];
            let problem = Problem { n_launches, ..Problem::new(&rows, 64).with_blocks(n_blocks) };
            // Blocks of a cluster are for queues that have clusters.
            if n_blocks <= queue.most_cluster_blocks() {
                assert_eq!(problem.run(&queue).unwrap(), problem.expect(), "{}", queue.executor());
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let queue = Queue::simt(Config::default());
    let sound = Problem::new(&[few_values(40, 1), few_values(40, 2)], 8);
    let table = Some(vec![0; 2]);
    for (problem, message) in [
        (Problem { lengths: Some(vec![1; 3]), ..sound.clone() }, "lengths: expected 2, got 3"),
        (Problem { skips: Some(vec![1]), ..sound.clone() }, "skips: expected 2, got 1"),
        (Problem { amounts: Some(vec![]), ..sound.clone() }, "amounts: expected 2, got 0"),
        (Problem { page_table: table, ..sound.clone() }, "page tables: expected 0, got 1"),
    ] {
        assert_eq!(problem.run(&queue).unwrap_err().to_string(), message);
    }
    let pages = TopkPages { n_pages: 3, page_size: 16, table_stride: 2, rows_per_request: 1 };
    let paged = TopkShape { pages: Some(pages), ..sound.shape };
    let untabled = Problem { shape: paged, ..sound.clone() };
    let message = "page tables: expected 1, got 0";
    assert_eq!(untabled.run(&queue).unwrap_err().to_string(), message);
    let short = Problem { page_table: Some(vec![0; 3]), ..untabled };
    assert_eq!(short.run(&queue).unwrap_err().to_string(), "page table: expected 4, got 3");
    let shape = sound.shape;
    let with_pages = |pages| TopkShape { pages: Some(pages), ..shape };
    for (shape, message) in [
        (TopkShape { k: 8193, ..shape }, "picks of a row: 8193 is outside 0..=8192"),
        (
            TopkShape { row_stride: 39, ..shape },
            "stride between rows, in elements: 39 is outside the scores of a row and more",
        ),
        (TopkShape { score_bytes: 8, ..shape }, "bytes of a score: 8 is outside 2 and 4"),
        (
            TopkShape { rule: Rule::Mass { share: 95.0 }, ..shape },
            "share of a row's mass: 95 is outside 0..=1",
        ),
        (
            TopkShape { rule: Rule::Percentile { percent: -0.5 }, ..shape },
            "percentile: -0.5 is outside 0..=100",
        ),
        (
            TopkShape { rule: Rule::AtLeast { least: f32::NAN }, ..shape },
            "least score: NaN is outside the numbers and infinities",
        ),
        (
            TopkShape { n: 1 << 25, row_stride: 1 << 25, rule: Rule::Mass { share: 0.5 }, ..shape },
            "scores of a row by mass: 33554432 is outside 0..=2^24",
        ),
        (
            TopkShape { n: 1 << 27, row_stride: 1 << 27, ..paged },
            "scores of a row with pages: 134217728 is outside 0..=2^26",
        ),
        (
            with_pages(TopkPages { page_size: 257, ..pages }),
            "indices of a page: 257 is outside 1..=256",
        ),
        (
            with_pages(TopkPages { rows_per_request: 0, ..pages }),
            "rows of a request: 0 is outside 1 and more",
        ),
        (
            with_pages(TopkPages { n_pages: 1 << 28, ..pages }),
            "slots of the pool: 4294967296 is outside 0..=2^31",
        ),
    ] {
        assert_eq!(TopkPlan::new(shape).unwrap_err().to_string(), message);
    }
}
