//! Problems for `score_rows` and `vote_rows`, and what must come of them.

use crate::common::Random;
use half::{bf16, f16};
use lacuna::element::{E4m3, E5m2, Float};
use lacuna::kv::{KvLayout, KvShape, KvView};
use lacuna::select::reference::{Scored, Softmax, votes};
use lacuna::select::{
    GroupReduction, Score, ScoreInputs, ScoreKind, ScoreOutputs, ScorePlan, ScoreShape,
    SoftmaxOutputs, VoteInputs, VoteOutputs, VotePlan, score_rows, score_votes, vote_rows,
};
use lacuna::{Buffer, Error, Queue};

/// Requests with their queries and a paged cache, of any layout.
#[derive(Debug, Clone)]
pub(crate) struct Problem<Q, K> {
    pub(crate) plan: ScorePlan,
    pub(crate) queries: Vec<Q>,
    pub(crate) keys: Vec<K>,
    pub(crate) page_table: Vec<i32>,
    pub(crate) lengths: Vec<u32>,
    pub(crate) skips: Option<Vec<u32>>,
    pub(crate) key_scale: f32,
}

pub(crate) trait Key: Float {
    fn make(random: &mut Random) -> Self;
}

impl Key for bf16 {
    fn make(random: &mut Random) -> Self {
        bf16::from_f32(random.number() * 3.0)
    }
}

impl Key for f16 {
    fn make(random: &mut Random) -> Self {
        f16::from_f32(random.number() * 3.0)
    }
}

/// Any bits but those of NaN, which have a test of their own.
impl Key for E4m3 {
    fn make(random: &mut Random) -> Self {
        let bits = random.next() as u8;
        E4m3(if bits & 0x7F == 0x7F { bits & 0x80 } else { bits })
    }
}

impl Key for E5m2 {
    fn make(random: &mut Random) -> Self {
        E5m2(random.next() as u8 & 0xBF)
    }
}

/// What proptest and tables vary.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    pub(crate) lengths: [u32; 3],
    pub(crate) n_heads: u64,
    pub(crate) group: u64,
    pub(crate) head_dim: u64,
    pub(crate) page_size: u64,
    pub(crate) is_hnd: bool,
    pub(crate) is_fused: bool,
    pub(crate) n: u64,
    pub(crate) kind: ScoreKind,
    pub(crate) reduction: GroupReduction,
}

pub(crate) const CASE: Case = Case {
    seed: 1,
    lengths: [300, 0, 17],
    n_heads: 2,
    group: 4,
    head_dim: 64,
    page_size: 16,
    is_hnd: false,
    is_fused: false,
    n: 300,
    kind: ScoreKind::Dot,
    reduction: GroupReduction::None,
};

impl Case {
    pub(crate) fn plan(&self) -> Result<ScorePlan, Error> {
        let longest = self.lengths.iter().max().copied().unwrap_or(0);
        let table_stride = u64::from(longest).div_ceil(self.page_size) + 1;
        let width = if self.kind == ScoreKind::Box { 2 } else { 1 };
        let shape = KvShape {
            batch: self.lengths.len() as u64,
            n_heads: self.n_heads,
            row_len: width * self.head_dim,
            n_pages: table_stride * self.lengths.len() as u64 + 2,
            page_size: self.page_size,
            table_stride,
            ..KvShape::default()
        };
        let shape = if self.is_hnd { shape.hnd() } else { shape.nhd() };
        let shape = if self.is_fused { shape.fused() } else { shape };
        let n_q_heads = self.n_heads * self.group;
        ScorePlan::new(ScoreShape {
            layout: KvLayout::new(shape)?,
            n_q_heads,
            query_stride: n_q_heads * self.head_dim + 8,
            n: self.n,
            score_stride: self.n + 3,
            kind: self.kind,
            reduction: self.reduction,
            softmax_scale: 1.0 / (self.head_dim as f32).sqrt(),
        })
    }

    /// Pages in an order of the seed; the rows themselves are the same for every layout and page size.
    pub(crate) fn build<Q: Score, K: Key>(&self) -> Problem<Q, K> {
        let plan = self.plan().unwrap();
        let layout = plan.shape().layout;
        let shape = *layout.shape();
        let mut random = Random(self.seed);
        let queries = (0..plan.queries_len()).map(|_| Q::from_f32(random.number())).collect();
        // The pool's pages, shuffled, and handed out one by one.
        let mut pages: Vec<i32> = (0..shape.n_pages as i32).collect();
        let mut shuffle = Random(self.seed ^ self.page_size);
        for i in (1..pages.len()).rev() {
            pages.swap(i, (shuffle.next() % (i as u64 + 1)) as usize);
        }
        let page_table: Vec<i32> = pages[..layout.table_len() as usize].to_vec();
        let mut keys: Vec<K> = (0..layout.pool_len()).map(|_| K::make(&mut shuffle)).collect();
        for b in 0..shape.batch {
            for t in 0..u64::from(self.lengths[b as usize]) {
                for h in 0..shape.n_heads {
                    let start = layout.locate(&page_table, b, t, h).unwrap();
                    for key in &mut keys[start..][..shape.row_len as usize] {
                        *key = K::make(&mut random);
                    }
                }
            }
        }
        let lengths = self.lengths.to_vec();
        Problem { plan, queries, keys, page_table, lengths, skips: None, key_scale: 1.0 }
    }
}

/// The buffers of a problem on a queue.
pub(crate) struct Placed<Q, K> {
    pub(crate) queries: Buffer<Q>,
    pub(crate) keys: Buffer<K>,
    pub(crate) page_table: Buffer<i32>,
    pub(crate) lengths: Buffer<u32>,
    pub(crate) skips: Option<Buffer<u32>>,
}

impl<Q: Score, K: Key> Problem<Q, K> {
    pub(crate) fn place(&self, queue: &Queue) -> Result<Placed<Q, K>, Error> {
        Ok(Placed {
            queries: queue.upload(&self.queries)?,
            keys: queue.upload(&self.keys)?,
            page_table: queue.upload(&self.page_table)?,
            lengths: queue.upload(&self.lengths)?,
            skips: self.skips.as_ref().map(|skips| queue.upload(skips)).transpose()?,
        })
    }

    pub(crate) fn inputs<'a>(&self, placed: &'a Placed<Q, K>) -> ScoreInputs<'a, Q, K> {
        ScoreInputs {
            queries: placed.queries.view(),
            cache: KvView {
                layout: self.plan.shape().layout,
                keys: placed.keys.view(),
                values: None,
                page_table: placed.page_table.view(),
                lengths: placed.lengths.view(),
                key_scale: self.key_scale,
                value_scale: 1.0,
            },
            skips: placed.skips.as_ref().map(|skips| skips.view()),
        }
    }

    /// Scores and softmaxes of a launch; the workspace must be ready for the next.
    pub(crate) fn score<S: Score>(&self, queue: &Queue) -> Result<(Vec<S>, Vec<u64>), Error> {
        let placed = self.place(queue)?;
        let mut scores = queue.upload(&vec![poison::<S>(); self.plan.scores_len() as usize])?;
        let mut softmaxes = queue.upload(&vec![POISON; self.plan.n_softmaxes() as usize])?;
        let mut workspace = queue.alloc::<u64>(self.plan.workspace_len() as usize)?;
        for _ in 0..2 {
            let softmax =
                SoftmaxOutputs { softmaxes: softmaxes.view_mut(), workspace: workspace.view_mut() };
            let mut outputs = ScoreOutputs { scores: scores.view_mut(), softmax: Some(softmax) };
            score_rows(queue, &self.plan, &self.inputs(&placed), &mut outputs)?;
        }
        Ok((queue.download(&scores.view())?, queue.download(&softmaxes.view())?))
    }

    /// The same queries where the pool has no page.
    pub(crate) fn without_pages(&self) -> Self {
        let shape = *self.plan.shape();
        let layout = KvLayout::new(KvShape { n_pages: 0, ..*shape.layout.shape() }).unwrap();
        let plan = ScorePlan::new(ScoreShape { layout, ..shape }).unwrap();
        Self { plan, keys: Vec::new(), ..self.clone() }
    }

    /// The same where a row stands for so many tokens.
    pub(crate) fn with_tokens_per_row(&self, tokens_per_row: u64) -> Self {
        let shape = *self.plan.shape();
        let layout = KvShape { tokens_per_row, ..*shape.layout.shape() };
        let layout = KvLayout::new(layout).unwrap();
        Self { plan: ScorePlan::new(ScoreShape { layout, ..shape }).unwrap(), ..self.clone() }
    }

    /// The same without softmaxes.
    pub(crate) fn score_alone<S: Score>(&self, queue: &Queue) -> Result<Vec<S>, Error> {
        let placed = self.place(queue)?;
        let mut scores = queue.upload(&vec![poison::<S>(); self.plan.scores_len() as usize])?;
        let mut outputs = ScoreOutputs { scores: scores.view_mut(), softmax: None };
        score_rows(queue, &self.plan, &self.inputs(&placed), &mut outputs)?;
        queue.download(&scores.view())
    }

    pub(crate) fn vote<S: Score, V: Score>(
        &self,
        queue: &Queue,
        plan: &VotePlan,
        scores: &[S],
        softmaxes: &[u64],
    ) -> Result<Vec<V>, Error> {
        let placed = self.place(queue)?;
        let (scores, softmaxes) = (queue.upload(scores)?, queue.upload(softmaxes)?);
        let mut votes = queue.upload(&vec![poison::<V>(); plan.votes_len() as usize])?;
        let inputs = VoteInputs {
            scores: scores.view(),
            softmaxes: softmaxes.view(),
            lengths: placed.lengths.view(),
            skips: placed.skips.as_ref().map(|skips| skips.view()),
        };
        vote_rows(queue, plan, &inputs, &mut votes.view_mut())?;
        queue.download(&votes.view())
    }

    pub(crate) fn score_and_vote<S: Score, V: Score>(
        &self,
        queue: &Queue,
        plan: &VotePlan,
    ) -> Result<(Vec<S>, Vec<V>), Error> {
        let placed = self.place(queue)?;
        let mut scores = queue.upload(&vec![poison::<S>(); self.plan.scores_len() as usize])?;
        let mut votes = queue.upload(&vec![poison::<V>(); plan.votes_len() as usize])?;
        let mut outputs = VoteOutputs { votes: votes.view_mut(), scores: Some(scores.view_mut()) };
        score_votes(queue, plan, &self.inputs(&placed), &mut outputs)?;
        Ok((queue.download(&scores.view())?, queue.download(&votes.view())?))
    }

    pub(crate) fn scored(&self) -> Scored<'_, Q, K> {
        Scored {
            queries: &self.queries,
            keys: &self.keys,
            page_table: &self.page_table,
            lengths: &self.lengths,
            key_scale: self.key_scale,
        }
    }

    pub(crate) fn is_skipped(&self, b: usize) -> bool {
        self.skips.as_ref().is_some_and(|skips| skips[b] != 0)
    }

    pub(crate) fn expect<S: Score>(&self) -> (Vec<S>, Vec<u64>) {
        let shape = self.plan.shape();
        let mut scores = vec![poison::<S>(); self.plan.scores_len() as usize];
        let mut softmaxes = Vec::new();
        for b in 0..self.lengths.len() {
            for q in 0..shape.n_q_heads as usize {
                softmaxes.push(match self.is_skipped(b) {
                    true => POISON,
                    false => self.softmax::<S>(b, q).to_bits(),
                });
            }
            if self.is_skipped(b) {
                continue;
            }
            for (idx, row) in self.scored().request::<S>(&self.plan, b).iter().enumerate() {
                let at = (b * self.plan.n_out() as usize + idx) * shape.score_stride as usize;
                scores[at..][..row.len()].copy_from_slice(row);
            }
        }
        (scores, softmaxes)
    }

    pub(crate) fn softmax<S: Score>(&self, b: usize, q: usize) -> Softmax {
        Softmax::of(&self.scored().head::<S>(&self.plan, b, q), self.plan.log2_scale())
    }

    pub(crate) fn expect_votes<S: Score, V: Score>(&self, plan: &VotePlan) -> Vec<V> {
        let mut all = vec![poison::<V>(); plan.votes_len() as usize];
        let n_together = plan.n_together() as usize;
        for b in (0..self.lengths.len()).filter(|b| !self.is_skipped(*b)) {
            let heads = self.scored().request::<S>(&self.plan, b);
            for vote in 0..plan.n_votes() as usize {
                let voters: Vec<(&[S], Softmax)> = (vote * n_together..(vote + 1) * n_together)
                    .map(|q| (&*heads[q], Softmax::of(&heads[q], self.plan.log2_scale())))
                    .collect();
                let row: Vec<V> = votes(&voters, self.plan.log2_scale(), plan.rule().reduction);
                let at = (b * plan.n_votes() as usize + vote) * plan.rule().stride as usize;
                all[at..][..row.len()].copy_from_slice(&row);
            }
        }
        all
    }
}

/// What is in outputs before a launch.
pub(crate) const POISON: u64 = 0x5EED_5EED_5EED_5EED;

pub(crate) fn poison<T: Score>() -> T {
    T::from_f32(-12_345.0)
}

pub(crate) fn to_bits<T: Score>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}
