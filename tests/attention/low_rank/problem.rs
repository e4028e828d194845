//! Problems for `attend_low_rank`, and what must come of them.

use lacuna::attention::reference::HostLowRank;
use lacuna::attention::{LowRank, LowRankPlan, LowRankShape, Mask, Tokens, Turn, attend_low_rank};
use lacuna::element::{Half, Real};
use lacuna::kv::KvLists;
use lacuna::mma::Model;
use lacuna::{Buffer, Error, Queue};

use crate::attend::problem::{Brain, Case, Part, Problem, Results, assert_results, number_at};

/// A problem of `attend`, and what the keys of a segment are made of.
#[derive(Debug, Clone)]
pub(crate) struct Made<T> {
    pub(crate) problem: Problem<T>,
    pub(crate) plan: LowRankPlan,
    pub(crate) factors: Vec<T>,
    pub(crate) basis: Vec<T>,
    pub(crate) cos_sin: Vec<f32>,
    pub(crate) value_indices: Option<Vec<i32>>,
}

impl<T: Half> Made<T> {
    pub(crate) fn new(case: &Case, shape: LowRankShape, has_slots: bool) -> Self {
        let mut problem = case.build::<T>();
        let plan = LowRankPlan::new(problem.plan, shape).unwrap();
        problem.plan = *plan.attend();
        let of = |n: u64, what: u64, scale: f32| -> Vec<T> {
            (0..n).map(|i| T::from_f32(scale * number_at(case.seed, [i, what, 0, 0]))).collect()
        };
        let d = case.head_dim as usize;
        let angle = |i: usize| {
            let (position, c) = (i / d, i % d);
            let angle = position as f32 * 100.0_f32.powf(-((c % (d / 2)) as f32) / d as f32);
            if c < d / 2 { angle.cos() } else { angle.sin() }
        };
        // Where values were fetched to: blocks in another order, and some that are nowhere.
        let value_indices = has_slots.then(|| {
            let indices = problem.segments[shape.segment as usize].indices.as_ref().unwrap();
            indices
                .iter()
                .map(|index| if index % 7 == 3 { -5 } else { (index ^ 1).min(4) })
                .collect()
        });
        Self {
            factors: of(plan.factors_len(), 1, 1.0),
            basis: of(plan.basis_len(), 2, 0.3),
            cos_sin: (0..plan.cos_sin_len() as usize).map(angle).collect(),
            problem,
            plan,
            value_indices,
        }
    }

    pub(crate) fn attend<O: Real>(&self, queue: &Queue) -> Result<Results<O>, Error> {
        let (factors, basis) = (queue.upload(&self.factors)?, queue.upload(&self.basis)?);
        let is_turned = self.plan.low_rank().turn != Turn::None;
        let cos_sin = is_turned.then(|| queue.upload(&self.cos_sin)).transpose()?;
        let value_indices = self.value_indices.as_ref().map(|all| queue.upload(all)).transpose()?;
        let low_rank = LowRank {
            factors: factors.view(),
            basis: basis.view(),
            cos_sin: cos_sin.as_ref().map(Buffer::view),
            value_indices: value_indices.as_ref().map(Buffer::view),
        };
        self.problem.launch(queue, |inputs, outputs| {
            attend_low_rank(queue, &self.plan, inputs, &low_rank, outputs)
        })
    }

    pub(crate) fn expect<O: Real>(&self, model: Model) -> Results<O> {
        self.problem.with_reference(model, |attended| {
            let mut attended = *attended;
            attended.low_rank = Some(HostLowRank {
                plan: &self.plan,
                factors: &self.factors,
                basis: &self.basis,
                cos_sin: &self.cos_sin,
                value_indices: self.value_indices.as_deref(),
            });
            self.problem.expect_of(&attended)
        })
    }
}

#[track_caller]
pub(crate) fn assert_same<T: Half, O: Real>(made: &Made<T>) {
    for queue in crate::common::queues() {
        let Some(model) = crate::common::model_of(&queue) else { continue };
        let results = made.attend::<O>(&queue).unwrap();
        assert_results(&results, &made.expect(model), &format!("{}", queue.executor()));
    }
}

pub(crate) const SHAPE: LowRankShape =
    LowRankShape { segment: 0, rank: 32, n_factors: 60, turn: Turn::Halves };

pub(crate) fn case() -> Case {
    let picked =
        Part { lists: KvLists::PerHead, ..Part::of(Tokens::Blocks { n_blocks: 9, block_size: 4 }) };
    let parts = vec![picked, Part::of(Tokens::last(20)).masked(Mask::Causal)];
    Case { lengths: vec![70, 11], n_heads: 2, parts, ..Case::default() }
}

/// Lists, pages and lengths of any bits.
pub(crate) fn hostile() -> Made<Brain> {
    let mut made = Made::<Brain>::new(&case(), SHAPE, true);
    let n_rows = case().kv_layout().unwrap().n_rows() as i32;
    // Of blocks of four: one past the last row, one that is 0 in 32 bits, and what is negative.
    let indices = made.value_indices.as_mut().unwrap();
    indices.iter_mut().enumerate().for_each(|(i, index)| *index = if i % 2 == 0 { 2 } else { 5 });
    indices[..4].copy_from_slice(&[n_rows / 4, 1 << 30, i32::MIN, i32::MAX]);
    // The last request's, whose table is the last.
    *indices.last_mut().unwrap() = n_rows / 4;
    let segment = &mut made.problem.segments[0];
    let picked = segment.indices.as_mut().unwrap();
    picked.iter_mut().enumerate().for_each(|(i, index)| *index = i as i32 % 16);
    segment.lengths = vec![u32::MAX, 70];
    // The second page of each.
    segment.page_table[1] = -1;
    segment.page_table[7] = i32::MAX;
    made
}

/// Keys of pairs of channels that turning takes to nothing but what rounding left, and queries that see that alone.
pub(crate) fn cancelling() -> Made<Brain> {
    let mut case = Case { group: 1, ..case() };
    case.parts.truncate(1);
    let (rank, half) = (160, 16);
    let shape = LowRankShape { rank: rank as u64, ..SHAPE };
    let mut made = Made::<Brain>::new(&case, shape, false);
    for head in made.basis.chunks_mut(2 * half * rank) {
        let (low, high) = head.split_at_mut(half * rank);
        for (i, (low, high)) in low.iter_mut().zip(high).enumerate() {
            let is_negative = i / rank % 2 == 1;
            *high = Brain::from_f32(if is_negative { -low.to_f32() } else { low.to_f32() });
        }
    }
    // Where both of a pair are alike the first of them vanishes, else the second.
    made.cos_sin.fill(0.7);
    for (i, query) in made.problem.queries.iter_mut().enumerate() {
        let (c, is_high) = (i % (2 * half) % half, i % (2 * half) >= half);
        let number = if (c % 2 == 1) == is_high { query.to_f32() * (1 << 24) as f32 } else { 0.0 };
        *query = Brain::from_f32(number);
    }
    made
}
