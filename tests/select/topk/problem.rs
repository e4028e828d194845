//! Problems for `topk_rows`, and what must come of them.

use half::{bf16, f16};
use lacuna::select::reference::{RowRule, slot_of, topk_row};
use lacuna::select::{Order, Rule, Score, TopkInputs, TopkOutputs, TopkPlan, TopkShape, topk_rows};
use lacuna::{Buffer, Error, Queue};

use crate::common::{self, Random};

/// A launch's rows, and what is asked of each.
#[derive(Debug, Clone)]
pub(crate) struct Problem<T> {
    pub(crate) scores: Vec<T>,
    pub(crate) shape: TopkShape,
    pub(crate) starts: Option<Vec<u32>>,
    pub(crate) lengths: Option<Vec<u32>>,
    pub(crate) counts_asked: Option<Vec<u32>>,
    pub(crate) skips: Option<Vec<u32>>,
    pub(crate) amounts: Option<Vec<f32>>,
    pub(crate) page_table: Option<Vec<i32>>,
    /// Whether values, and what the rule wanted, are asked for.
    pub(crate) has_more: bool,
    /// Whether a mask is.
    pub(crate) has_mask: bool,
    /// Blocks that have a row, in place of what the plan says.
    pub(crate) n_blocks: Option<u32>,
    /// One after the other, nothing between them.
    pub(crate) n_launches: u32,
}

#[derive(Debug, PartialEq, Default)]
pub(crate) struct Picks {
    pub(crate) indices: Vec<i32>,
    pub(crate) counts: Vec<u32>,
    pub(crate) values: Vec<u32>,
    pub(crate) slots: Vec<i32>,
    pub(crate) wanted: Vec<u32>,
    pub(crate) kept: Vec<u8>,
}

/// What is in the outputs before a launch.
pub(crate) const POISON: i32 = -0x5EED;

/// A mask begins so many bytes into its memory, at most.
const MOST_SHIFT: usize = 4;

/// The outputs of a launch, in a queue's memory.
pub(crate) struct Outputs<T> {
    pub(crate) indices: Buffer<i32>,
    pub(crate) counts: Buffer<u32>,
    pub(crate) values: Buffer<T>,
    pub(crate) slots: Buffer<i32>,
    pub(crate) wanted: Buffer<u32>,
    pub(crate) kept: Buffer<u8>,
}

impl<T: Score + Default> Outputs<T> {
    pub(crate) fn new(queue: &Queue, plan: &TopkPlan) -> Result<Self, Error> {
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
            kept: queue.upload(&vec![POISON as u8; MOST_SHIFT + plan.mask_len() as usize])?,
        })
    }
}

impl<T: Score + Default> Problem<T> {
    pub(crate) fn new(rows: &[Vec<T>], k: usize) -> Self {
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
            has_mask: false,
            n_blocks: None,
            n_launches: 1,
        }
    }

    pub(crate) fn with_blocks(mut self, n_blocks: u32) -> Self {
        self.n_blocks = Some(n_blocks);
        self
    }

    pub(crate) fn with_mask(mut self, has_mask: bool) -> Self {
        self.has_mask = has_mask;
        self
    }

    /// Lengths of requests, of whose rows there are so many, in tokens.
    pub(crate) fn with_lengths(
        mut self,
        lengths: &[u32],
        rows_per_request: usize,
        tokens_per_score: usize,
    ) -> Self {
        self.lengths = Some(lengths.to_vec());
        self.shape.rows_per_request = rows_per_request as u64;
        self.shape.tokens_per_score = tokens_per_score as u64;
        self
    }

    pub(crate) fn with_rule(mut self, rule: Rule) -> Self {
        self.shape.rule = rule;
        self
    }

    pub(crate) fn with_order(mut self, order: Order) -> Self {
        self.shape.order = order;
        self
    }

    pub(crate) fn with_forced(mut self, n_first: usize, n_last: usize) -> Self {
        (self.shape.n_first, self.shape.n_last) = (n_first as u64, n_last as u64);
        self
    }

    /// The same rows further apart.
    pub(crate) fn with_stride(mut self, row_stride: usize) -> Self {
        let n_rows = self.n_rows();
        let n = self.shape.n as usize;
        let mut scores = vec![T::default(); n_rows.saturating_sub(1) * row_stride + n];
        for row in 0..n_rows {
            scores[row * row_stride..][..n].copy_from_slice(self.row(row));
        }
        (self.scores, self.shape.row_stride) = (scores, row_stride as u64);
        self
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.shape.n_rows as usize
    }

    pub(crate) fn row(&self, row: usize) -> &[T] {
        &self.scores[row * self.shape.row_stride as usize..][..self.shape.n as usize]
    }

    pub(crate) fn plan(&self) -> Result<TopkPlan, Error> {
        let plan = TopkPlan::new(self.shape)?;
        self.n_blocks.map_or(Ok(plan), |n_blocks| plan.with_blocks(n_blocks))
    }

    pub(crate) fn run(&self, queue: &Queue) -> Result<Picks, Error> {
        self.run_into(queue, &mut Outputs::new(queue, &self.plan()?)?)
    }

    pub(crate) fn run_into(&self, queue: &Queue, outputs: &mut Outputs<T>) -> Result<Picks, Error> {
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
        let Outputs { indices, counts, values, slots, wanted, kept } = outputs;
        // Whole vectors of bytes, and none.
        let shift = [0, 1, 0, MOST_SHIFT][self.shape.k as usize % 4];
        let of_rows = shift..shift + plan.mask_len() as usize;
        let mut kept = kept.view_mut();
        let mut kept = kept.slice_mut(of_rows)?;
        let has_slots = self.page_table.is_some();
        let mut written = TopkOutputs {
            values: self.has_more.then(|| values.view_mut()),
            slots: has_slots.then(|| slots.view_mut()),
            wanted: self.has_more.then(|| wanted.view_mut()),
            kept: self.has_mask.then(|| kept.reborrow()),
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
        if self.has_mask {
            picks.kept = queue.download(&kept.as_view())?;
        }
        if has_slots {
            picks.slots = queue.download(&slots.view())?;
        }
        Ok(picks)
    }

    /// What is asked of a row.
    pub(crate) fn rule(&self, row: usize) -> RowRule {
        let of_row = |words: &Option<Vec<u32>>| words.as_ref().map(|words| words[row] as usize);
        let shape = &self.shape;
        RowRule {
            start: of_row(&self.starts).unwrap_or(0),
            length: self.lengths.as_ref().map_or(shape.n as usize, |lengths| {
                lengths[self.request(row)].div_ceil(shape.tokens_per_score as u32) as usize
            }),
            k: shape.k as usize,
            asked: of_row(&self.counts_asked),
            n_first: shape.n_first as usize,
            n_last: shape.n_last as usize,
            rule: self.amounts.as_ref().map_or(shape.rule, |a| shape.rule.with_amount(a[row])),
            order: shape.order,
        }
    }

    fn request(&self, row: usize) -> usize {
        row / self.shape.rows_per_request as usize
    }

    pub(crate) fn expect(&self) -> Picks {
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
            if self.has_mask {
                let byte = |kept: &u8| if is_skipped { POISON as u8 } else { *kept };
                picks.kept.extend(found.kept.iter().map(byte));
            }
            for place in 0..k {
                let pick = found.indices.get(place).copied().filter(|_| !is_skipped);
                let nothing = if is_skipped { POISON } else { -1 };
                picks.indices.push(pick.map_or(nothing, |i| i as i32));
                if self.has_more {
                    picks.values.push(pick.map_or(0, |i| to_bits(self.row(row)[i])));
                }
                if let (Some(pages), Some(table)) = (&self.shape.pages, &self.page_table) {
                    let request = self.request(row);
                    let slot =
                        pick.map(|i| slot_of(pages, table, request, i).map_or(-1, |i| i as i32));
                    picks.slots.push(slot.unwrap_or(nothing));
                }
            }
        }
        picks
    }
}

pub(crate) fn to_bits<T: Score>(value: T) -> u32 {
    let mut bits = [0_u8; 4];
    let bytes = bytemuck::bytes_of(&value);
    bits[..bytes.len()].copy_from_slice(bytes);
    u32::from_le_bytes(bits)
}

/// By one block, or a cluster of each number; with a mask and without.
#[track_caller]
pub(crate) fn assert_same_by<T: Score + Default>(problem: &Problem<T>, blocks: &[u32]) {
    for has_mask in [true, false] {
        let problem = problem.clone().with_mask(has_mask);
        let expected = problem.expect();
        for queue in common::queues() {
            for n_blocks in blocks {
                let found = problem.clone().with_blocks(*n_blocks).run(&queue).unwrap();
                assert_eq!(found, expected, "{}, {n_blocks} blocks", queue.executor());
            }
        }
    }
}

/// By one block, and by a cluster.
#[track_caller]
pub(crate) fn assert_same<T: Score + Default>(problem: &Problem<T>) {
    let n_blocks = [2, 3, 5, 8][(problem.shape.n + problem.shape.k) as usize % 4];
    assert_same_by(problem, &[1, n_blocks]);
}

/// Scores of few distinct values, special ones among them, so that ties are everywhere.
pub(crate) fn few_values(n: usize, seed: u64) -> Vec<f32> {
    let values = [0.0, -0.0, 1.0, -1.0, 1.5, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 3e-40];
    let mut next = words(seed);
    (0..n).map(|_| values[(next() >> 1) as usize % values.len()]).collect()
}

/// Scores that hardly tie.
pub(crate) fn many_values(n: usize, seed: u64) -> Vec<f32> {
    let mut next = words(seed);
    (0..n).map(|_| f32::from_bits(next())).collect()
}

/// Weights as softmax makes them: over many powers of two, and some equal.
pub(crate) fn weights(n: usize, seed: u64) -> Vec<f32> {
    let mut next = words(seed);
    (0..n)
        .map(|_| {
            let bits = next();
            let magnitude = 2_f32.powi(-((bits >> 27) as i32)) * (1.0 + (bits & 7) as f32 / 8.0);
            if bits & 0x1F00 == 0 { 0.0 } else { magnitude }
        })
        .collect()
}

pub(crate) fn words(seed: u64) -> impl FnMut() -> u32 {
    let mut random = Random(seed);
    move || random.word()
}

pub(crate) fn brains(row: &[f32]) -> Vec<bf16> {
    row.iter().map(|x| bf16::from_f32(*x)).collect()
}

/// The same problem in another type of scores.
pub(crate) fn convert<T: Score + Default>(problem: &Problem<f32>, of: fn(f32) -> T) -> Problem<T> {
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
        has_mask: of_rows.has_mask,
        n_blocks: of_rows.n_blocks,
        n_launches: of_rows.n_launches,
    }
}

/// In each type of scores.
#[track_caller]
pub(crate) fn assert_all_same(problem: &Problem<f32>) {
    assert_same(problem);
    assert_same(&convert(problem, bf16::from_f32));
    assert_same(&convert(problem, f16::from_f32));
}
