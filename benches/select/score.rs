//! Scores of a query against keys and boxes, and votes.

use half::bf16;
use lacuna::kv::{KvLayout, KvShape};
use lacuna::select::reference::{Scored, Softmax, votes};
use lacuna::select::{
    ScoreInputs, ScoreKind, ScoreOutputs, ScorePlan, ScoreShape, SoftmaxOutputs, Together,
    VoteInputs, VoteOutputs, VotePlan, VoteReduction, VoteRule, score_rows, score_votes, vote_rows,
};
use lacuna::{Buffer, Queue};

use crate::house::cache::{Cache, Placed, again, numbers};
use crate::house::case::{Budget, Case, Problem, Work, poison};

/// What is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    /// Scores of every query head.
    Score,
    /// And softmaxes over them.
    ScoreAndSoftmax,
    /// Votes of all heads, from scores.
    Vote,
    /// Both in one launch, votes of each group.
    ScoreAndVote,
}

/// Requests of as many rows each: keys, or boxes of 16 tokens; bf16, 128 to a head.
#[derive(Clone, Copy)]
struct Shape {
    task: Task,
    kind: ScoreKind,
    batch: u64,
    n: u64,
    n_heads: u64,
    group: u64,
    is_small: bool,
}

const HEAD_DIM: u64 = 128;

impl Shape {
    fn plan(&self, batch: u64) -> ScorePlan {
        let row_len = if self.kind == ScoreKind::Box { 2 * HEAD_DIM } else { HEAD_DIM };
        let shape = KvShape {
            batch,
            n_heads: self.n_heads,
            row_len,
            n_pages: batch * self.n.div_ceil(16),
            page_size: 16,
            table_stride: self.n.div_ceil(16),
            tokens_per_row: if self.kind == ScoreKind::Box { 16 } else { 1 },
            ..KvShape::default()
        };
        let layout = KvLayout::new(shape.hnd()).expect("a layout that is supported");
        let n_q_heads = self.n_heads * self.group;
        let shape = match self.kind {
            ScoreKind::Dot => ScoreShape::of(layout, n_q_heads),
            ScoreKind::Box => ScoreShape::of_boxes(layout, n_q_heads),
        };
        let plan = ScorePlan::new(ScoreShape { n: self.n, score_stride: self.n, ..shape });
        plan.expect("a shape that is supported")
    }

    fn vote(&self, plan: &ScorePlan) -> VotePlan {
        let together =
            if self.task == Task::ScoreAndVote { Together::Group } else { Together::All };
        let rule = VoteRule { together, reduction: VoteReduction::Sum, stride: self.n };
        VotePlan::new(plan, rule).expect("a vote that is supported")
    }
}

impl Case for Shape {
    fn kernel(&self) -> &'static str {
        match self.task {
            Task::Vote => "select/vote_rows",
            _ => "select/score_rows",
        }
    }

    fn shape(&self) -> String {
        let what = match self.task {
            Task::Score => "",
            Task::ScoreAndSoftmax => ", softmaxes",
            Task::Vote => ", votes of all heads",
            Task::ScoreAndVote => ", votes of groups in the same launch",
        };
        let Self { kind, batch, n, n_heads, group, .. } = self;
        let rows = if *kind == ScoreKind::Box { "boxes" } else { "keys" };
        let n_q_heads = n_heads * group;
        format!("{n} {rows} for {n_q_heads} of {n_heads} heads in {batch} requests, bf16{what}")
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        match self.task {
            Task::Vote => {
                Budget { bytes: 1.05, sectors_per_request: 4.01, conflict_ways: 1.0, barriers: 1.0 }
            }
            _ => Budget {
                bytes: 1.05,
                sectors_per_request: 16.0,
                conflict_ways: 2.0,
                barriers: 12.0,
            },
        }
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let plan = self.plan(self.batch);
        let layout = plan.shape().layout;
        let mut number = numbers();
        let queries = (0..plan.queries_len()).map(|_| number()).collect();
        let n_tokens = self.n * layout.shape().tokens_per_row;
        let cache = Cache::new(&layout, n_tokens, &mut number);
        let (scores, softmaxes, votes) = (vec![], vec![], vec![]);
        let mut requests = Requests { case: *self, queries, cache, scores, softmaxes, votes };
        requests.expect();
        Box::new(requests)
    }
}

struct Requests {
    case: Shape,
    queries: Vec<bf16>,
    cache: Cache,
    scores: Vec<f32>,
    softmaxes: Vec<u64>,
    votes: Vec<f32>,
}

impl Requests {
    fn expect(&mut self) {
        let plan = self.case.plan(self.case.batch);
        let vote = self.case.vote(&plan);
        let scored = Scored {
            queries: &self.queries,
            keys: &self.cache.keys,
            page_table: &self.cache.page_table,
            lengths: &self.cache.lengths,
            key_scale: 1.0,
        };
        let scale = plan.log2_scale();
        for b in 0..self.case.batch as usize {
            let heads = scored.request::<f32>(&plan, b);
            let softmaxes: Vec<_> = heads.iter().map(|head| Softmax::of(head, scale)).collect();
            let voters: Vec<_> =
                heads.iter().map(Vec::as_slice).zip(softmaxes.iter().copied()).collect();
            for together in voters.chunks(vote.n_together() as usize) {
                self.votes.extend(votes::<f32, f32>(together, scale, vote.rule().reduction));
            }
            self.softmaxes.extend(softmaxes.iter().map(|softmax| softmax.to_bits()));
            self.scores.extend(heads.concat());
        }
    }
}

impl Problem for Requests {
    fn least_bytes(&self) -> u64 {
        let plan = self.case.plan(self.case.batch);
        let row_bytes = 2 * plan.shape().layout.shape().row_len;
        let n_votes = self.votes.len() as u64;
        match self.case.task {
            Task::Score => plan.least_bytes(row_bytes, 2, 4),
            Task::ScoreAndSoftmax => plan.least_bytes(row_bytes, 2, 4) + 8 * plan.n_softmaxes(),
            Task::Vote => self.case.vote(&plan).least_bytes(4, 4),
            Task::ScoreAndVote => plan.least_bytes(row_bytes, 2, 0) + 4 * n_votes,
        }
    }

    fn expected(&self) -> &[u8] {
        match self.case.task {
            Task::Score | Task::ScoreAndSoftmax => bytemuck::cast_slice(&self.scores),
            Task::Vote | Task::ScoreAndVote => bytemuck::cast_slice(&self.votes),
        }
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(self, queue, 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let last = Launch::new(self, queue, 2)?;
        Ok(vec![("after two requests more".to_owned(), Box::new(last))])
    }
}

/// A launch whose last requests are looked at.
struct Launch {
    task: Task,
    plan: ScorePlan,
    vote: VotePlan,
    queries: Buffer<bf16>,
    cache: Placed,
    scores: Buffer<f32>,
    softmaxes: Buffer<u64>,
    workspace: Buffer<u64>,
    votes: Buffer<f32>,
    n_expected: usize,
}

impl Launch {
    /// The first `n_more` requests are again at the front.
    fn new(requests: &Requests, queue: &Queue, n_more: usize) -> lacuna::Result<Self> {
        let case = &requests.case;
        let plan = case.plan(case.batch + n_more as u64);
        let vote = case.vote(&plan);
        let batch = case.batch as usize;
        let (scores, softmaxes) = match case.task {
            Task::Vote => (
                queue.upload(&again(&requests.scores, batch, n_more))?,
                queue.upload(&again(&requests.softmaxes, batch, n_more))?,
            ),
            _ => (
                queue.alloc(plan.scores_len() as usize)?,
                queue.alloc(plan.n_softmaxes() as usize)?,
            ),
        };
        Ok(Self {
            task: case.task,
            queries: queue.upload(&again(&requests.queries, batch, n_more))?,
            cache: requests.cache.place(queue, plan.shape().layout, n_more)?,
            scores,
            softmaxes,
            workspace: queue.alloc(plan.workspace_len() as usize)?,
            votes: queue.alloc(vote.votes_len() as usize)?,
            n_expected: requests.expected().len() / 4,
            plan,
            vote,
        })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let inputs =
            ScoreInputs { queries: self.queries.view(), cache: self.cache.view(), skips: None };
        match self.task {
            Task::Score | Task::ScoreAndSoftmax => {
                let softmax = SoftmaxOutputs {
                    softmaxes: self.softmaxes.view_mut(),
                    workspace: self.workspace.view_mut(),
                };
                let softmax = (self.task == Task::ScoreAndSoftmax).then_some(softmax);
                let mut outputs = ScoreOutputs { scores: self.scores.view_mut(), softmax };
                score_rows(queue, &self.plan, &inputs, &mut outputs)
            }
            Task::Vote => {
                let inputs = VoteInputs {
                    scores: self.scores.view(),
                    softmaxes: self.softmaxes.view(),
                    lengths: self.cache.lengths.view(),
                    skips: None,
                };
                vote_rows(queue, &self.vote, &inputs, &mut self.votes.view_mut())
            }
            Task::ScoreAndVote => {
                let mut outputs =
                    VoteOutputs::<f32, f32> { votes: self.votes.view_mut(), scores: None };
                score_votes(queue, &self.vote, &inputs, &mut outputs)
            }
        }
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        match self.task {
            Task::Score | Task::ScoreAndSoftmax => poison(queue, &mut self.scores),
            Task::Vote | Task::ScoreAndVote => poison(queue, &mut self.votes),
        }
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let output = match self.task {
            Task::Score | Task::ScoreAndSoftmax => &self.scores,
            Task::Vote | Task::ScoreAndVote => &self.votes,
        };
        let view = output.view().slice(output.len() - self.n_expected..output.len())?;
        Ok(bytemuck::cast_slice(&queue.download(&view)?).to_vec())
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    use ScoreKind::{Box as Boxes, Dot};
    let small = |task, kind, batch, n, group| Shape {
        task,
        kind,
        batch,
        n,
        n_heads: 2,
        group,
        is_small: true,
    };
    let large = |task, kind, batch, n| Shape {
        task,
        kind,
        batch,
        n,
        n_heads: 8,
        group: 4,
        is_small: false,
    };
    [
        small(Task::Score, Dot, 2, 2000, 4),
        small(Task::Score, Dot, 1, 2000, 16),
        small(Task::Score, Boxes, 1, 1000, 4),
        small(Task::ScoreAndSoftmax, Dot, 1, 2000, 8),
        small(Task::Vote, Dot, 2, 2000, 4),
        small(Task::ScoreAndVote, Boxes, 2, 1200, 4),
        large(Task::ScoreAndSoftmax, Dot, 1, 1 << 17),
        large(Task::Vote, Dot, 1, 1 << 17),
        large(Task::Score, Boxes, 1, 1 << 13),
        large(Task::Score, Boxes, 16, 1 << 13),
        large(Task::ScoreAndVote, Boxes, 32, 1 << 10),
    ]
    .map(|shape| Box::new(shape) as _)
    .into()
}
