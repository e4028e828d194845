//! Picks of the first scores: sorted on the CPU, and by the kernel.

use criterion::{Criterion, Throughput};
use half::bf16;
use lacuna::select::reference::{RowRule, topk_row};
use lacuna::select::{Order, Rule, TopkInputs, TopkOutputs, TopkPlan, TopkShape, topk_rows};
use lacuna::{Buffer, Queue};

use crate::house::case::{Budget, Case, Peer, Problem, Work, poison};
use crate::peers::topk;

/// Scores as attention has them: a normal distribution, in bf16, so that many tie.
fn scores(n: usize, seed: u64) -> Vec<bf16> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 + 0.5) / (1_u32 << 24) as f32
    };
    let normal = |a: f32, b: f32| (-2.0 * a.ln()).sqrt() * (std::f32::consts::TAU * b).cos();
    (0..n).map(|_| bf16::from_f32(4.0 * normal(uniform(), uniform()))).collect()
}

pub(crate) fn cpu(criterion: &mut Criterion) {
    let scores = scores(1 << 17, 1);
    let mut bench = criterion.benchmark_group("select");
    bench.throughput(Throughput::Bytes(2 << 17)).sample_size(10);
    bench.bench_function("reference/bf16/128Ki/2048", |b| {
        let rule = RowRule { length: scores.len(), k: 2048, ..RowRule::default() };
        b.iter(|| topk_row(&scores, &rule));
    });
    bench.finish();
}

/// `topk_rows` of bf16 scores, all of every row.
#[derive(Clone, Copy)]
struct Topk {
    n_rows: usize,
    n: usize,
    k: usize,
    rule: Rule,
    order: Order,
    has_mask: bool,
    is_small: bool,
}

struct Rows {
    case: Topk,
    scores: Vec<bf16>,
    /// Indices, and the mask after them.
    expected: Vec<u8>,
}

impl Case for Topk {
    fn kernel(&self) -> &'static str {
        "select/topk_rows"
    }

    fn shape(&self) -> String {
        let rule = match self.rule {
            Rule::Mass { share } => format!(" by {share} of the mass"),
            _ => String::new(),
        };
        let order = if self.order == Order::Score { ", by score" } else { "" };
        let mask = if self.has_mask { ", and a mask" } else { "" };
        format!("{} of {} in {} rows, bf16{rule}{order}{mask}", self.k, self.n, self.n_rows)
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        let n_blocks = self.plan(self.n_rows).cluster_grid(8).cluster_blocks as usize;
        // What does not fit on chip, in clusters 32 Ki scores a block beside the histograms, is read by both digits'
        // histograms, by blocks that ask how many picks are theirs, and when picks are gathered.
        let n_again = self.n.saturating_sub(n_blocks * (32 << 10)) as f64;
        let bytes = 1.01 + 3.0 * n_again / self.n as f64;
        let n_tiles = self.n.div_ceil(n_blocks).div_ceil(16 << 10) as f64;
        let (barriers, of_mass) = if n_blocks == 1 { (10.0, 2.0) } else { (11.0, 3.0) };
        let barriers = match (self.rule, self.order) {
            (Rule::Mass { .. }, _) => barriers + of_mass,
            // Sizes of 128 and more are sorted across warps: once for each stride of 64 and more, and before it.
            (_, Order::Score) => {
                let n_across = f64::from(self.k.ilog2() - 6);
                barriers + (2.0 + n_across * (n_across + 3.0) / 2.0) / n_blocks as f64
            }
            _ => barriers,
        };
        // Scores fall into bins, and so into banks, by chance.
        let conflict_ways = 1.5;
        Budget { bytes, sectors_per_request: 15.0, conflict_ways, barriers: barriers + n_tiles }
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let scores = self.scores(self.n_rows, self.n as u64);
        let rule = RowRule {
            length: self.n,
            k: self.k,
            rule: self.rule,
            order: self.order,
            ..RowRule::default()
        };
        let (mut indices, mut kept) = (Vec::new(), Vec::new());
        for row in scores.chunks(self.n) {
            let picks = topk_row(row, &rule);
            let place = |place| picks.indices.get(place).map_or(-1, |idx: &usize| *idx as i32);
            indices.extend((0..self.k).map(place));
            if self.has_mask {
                kept.extend(picks.kept);
            }
        }
        let expected = [bytemuck::cast_slice(&indices), &kept].concat();
        Box::new(Rows { case: *self, scores, expected })
    }
}

impl Problem for Rows {
    fn least_bytes(&self) -> u64 {
        self.case.plan(self.case.n_rows).least_bytes(self.case.has_mask)
    }

    fn expected(&self) -> &[u8] {
        &self.expected
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(self, queue, self.case.plan(self.case.n_rows), 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        // Of long rows few: the executor is slow.
        let n_more = if self.case.n > 4096 { 1 } else { 5 };
        let more = Launch::new(self, queue, self.case.plan(self.case.n_rows + n_more), n_more)?;
        let alone = Launch::new(self, queue, self.case.plan(self.case.n_rows).with_blocks(1)?, 0)?;
        Ok(vec![
            (format!("after {n_more} rows more"), Box::new(more)),
            ("by one block for each row".to_owned(), Box::new(alone)),
        ])
    }

    fn peers(&self) -> Vec<Box<dyn Peer + '_>> {
        let Topk { n_rows, n, k, rule, order, has_mask, .. } = self.case;
        if rule != Rule::Largest || order != Order::Index || has_mask {
            return Vec::new();
        }
        let scores = bytemuck::cast_slice(&self.scores);
        ["torch", "cub", "flashinfer", "flashinfer-deterministic"]
            .map(|library| Box::new(topk::Topk { library, n_rows, n, k, scores }) as _)
            .into()
    }
}

impl Topk {
    fn plan(&self, n_rows: usize) -> TopkPlan {
        TopkPlan::new(TopkShape {
            rule: self.rule,
            order: self.order,
            ..TopkShape::of::<bf16>(n_rows as u64, self.n as u64, self.k as u64)
        })
        .expect("a shape that is supported")
    }

    /// For a mass, what softmax makes of scores.
    fn scores(&self, n_rows: usize, seed: u64) -> Vec<bf16> {
        let scores = scores(n_rows * self.n, seed);
        match self.rule {
            Rule::Mass { .. } => {
                scores.iter().map(|score| bf16::from_f32(score.to_f32().exp())).collect()
            }
            _ => scores,
        }
    }
}

/// A launch whose last rows are looked at.
struct Launch {
    case: Topk,
    plan: TopkPlan,
    scores: Buffer<bf16>,
    indices: Buffer<i32>,
    counts: Buffer<u32>,
    kept: Buffer<u8>,
}

impl Launch {
    /// `plan` is for so many rows more.
    fn new(rows: &Rows, queue: &Queue, plan: TopkPlan, n_more: usize) -> lacuna::Result<Self> {
        let scores = [rows.case.scores(n_more, 77), rows.scores.clone()].concat();
        let n_marks = if rows.case.has_mask { plan.mask_len() } else { 0 };
        Ok(Self {
            case: rows.case,
            plan,
            scores: queue.upload(&scores)?,
            indices: queue.alloc(plan.picks_len() as usize)?,
            counts: queue.alloc(plan.shape().n_rows as usize)?,
            kept: queue.alloc(n_marks as usize)?,
        })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let mut outputs = TopkOutputs {
            kept: self.case.has_mask.then(|| self.kept.view_mut()),
            ..TopkOutputs::new(self.indices.view_mut(), self.counts.view_mut())
        };
        topk_rows(queue, &self.plan, &TopkInputs::whole(self.scores.view()), &mut outputs)
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.indices)?;
        poison(queue, &mut self.kept)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let Topk { n_rows, n, k, .. } = self.case;
        let last = |len: usize, of_row: usize| len.saturating_sub(n_rows * of_row)..len;
        let indices = self.indices.view().slice(last(self.indices.len(), k))?;
        let kept = self.kept.view().slice(last(self.kept.len(), n))?;
        let (indices, kept) = (queue.download(&indices)?, queue.download(&kept)?);
        Ok([bytemuck::cast_slice(&indices), &kept].concat())
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    let largest = [
        (3, 4096, 256, true),
        (1, 30_000, 2048, true),
        (1, 60_000, 2048, true),
        (1, 1 << 17, 2048, true),
        (64, 1 << 17, 2048, false),
        (1, 1 << 20, 2048, false),
    ];
    let largest = largest.map(|(n_rows, n, k, is_small)| Topk {
        n_rows,
        n,
        k,
        rule: Rule::Largest,
        order: Order::Index,
        has_mask: false,
        is_small,
    });
    let [short, row, _, long, many, _] = largest;
    let rule = Rule::Mass { share: 0.975 };
    let order = Order::Score;
    let others = [
        Topk { rule, k: 2048, ..short },
        Topk { order, ..short },
        Topk { order, ..row },
        Topk { rule, k: 8192, ..long },
        Topk { order, ..many },
        Topk { rule, n: 1 << 16, k: 0, has_mask: true, ..long },
        Topk { rule, n: 1 << 16, k: 2048, has_mask: true, is_small: false, n_rows: 64, ..long },
    ];
    largest.into_iter().chain(others).map(|case| Box::new(case) as _).collect()
}
