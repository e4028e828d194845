//! How much tokens matter: what a prompt leaves, what a step adds, scores, and norms of values.

use criterion::{Criterion, Throughput};
use half::bf16;
use lacuna::kv::{KvLayout, KvShape};
use lacuna::quant::reference::{Seen, norm_of_row, weigh_token};
use lacuna::quant::{
    MassesOfPrompt, NormsPlan, NormsShape, SaliencyInputs, SaliencyPlan, SaliencyShape,
    SaliencyState, StepLogits, add_saliency, begin_saliency, choose_probes, measure_norms,
    weigh_saliency,
};
use lacuna::select::{MassPlan, MassShape};
use lacuna::{Buffer, Queue};

use crate::house::cache::{Cache, Placed, again, numbers};
use crate::house::case::{Budget, Case, Problem, Work, poison};

pub(crate) fn cpu(criterion: &mut Criterion) {
    let mut bench = criterion.benchmark_group("quant");
    bench.throughput(Throughput::Elements(131_072)).sample_size(20);
    bench.bench_function("probes of 128 Ki rows", |b| {
        b.iter(|| choose_probes(1, 131_072, 64, 64));
    });
    bench.finish();
}

#[derive(Clone, Copy, PartialEq)]
enum Launched {
    Begin,
    Add,
    Weigh,
    Measure,
}

/// Requests of as many tokens each, and of heads of 128.
#[derive(Clone, Copy)]
struct Shape {
    launched: Launched,
    batch: u64,
    n_heads: u64,
    group: u64,
    n_tokens: u64,
    /// Tokens of positions are in pages of 64 by turns, and scores have norms.
    has_more: bool,
    is_small: bool,
}

const N_PROBES: u64 = 128;
const HEAD_DIM: u64 = 128;

impl Shape {
    fn plan(&self, n_more: u64) -> SaliencyPlan {
        let n_q_heads = self.n_heads * self.group;
        let shape = SaliencyShape::of(self.batch + n_more, n_q_heads, self.n_heads, self.n_tokens);
        // Nothing of before, so that launches leave the same again and again.
        SaliencyPlan::new(SaliencyShape { decay: 0.0, ..shape }).expect("a sound plan")
    }

    fn layout(&self, n_more: u64) -> KvLayout {
        let table_stride = self.n_tokens.div_ceil(16);
        let shape = KvShape {
            batch: self.batch + n_more,
            n_heads: self.n_heads,
            row_len: HEAD_DIM,
            n_pages: self.batch * table_stride,
            page_size: 16,
            table_stride,
            ..KvShape::default()
        };
        KvLayout::new(shape.hnd()).expect("a layout")
    }

    fn norms_plan(&self, n_more: u64) -> NormsPlan {
        let shape = NormsShape::of(self.layout(n_more));
        NormsPlan::new(NormsShape { n_tokens: self.n_tokens, ..shape }).expect("a sound plan")
    }

    fn mass_plan(&self, n_more: u64) -> MassPlan {
        let n_q_heads = self.n_heads * self.group;
        let shape = MassShape::of(self.layout(n_more), n_q_heads, N_PROBES);
        MassPlan::new(MassShape {
            n: self.n_tokens,
            mass_stride: self.n_tokens,
            is_over_all_heads: false,
            is_mean: false,
            ..shape
        })
        .expect("a sound plan")
    }

    /// What is looked at: the heads of all requests, but for those that are skipped.
    fn state_len(&self) -> usize {
        (self.batch * self.n_heads * self.n_tokens) as usize
    }
}

struct Tokens {
    case: Shape,
    /// Masses, or sums.
    sums: Vec<f32>,
    counts: Vec<f32>,
    norms: Vec<f32>,
    n_visible: Vec<u32>,
    logits: Vec<f32>,
    log_sums: Vec<f32>,
    tokens: Vec<i32>,
    cache: Option<Cache>,
    expected: Vec<u8>,
}

impl Case for Shape {
    fn kernel(&self) -> &'static str {
        match self.launched {
            Launched::Begin => "quant/begin_saliency",
            Launched::Add => "quant/add_saliency",
            Launched::Weigh => "quant/weigh_saliency",
            Launched::Measure => "quant/measure_norms",
        }
    }

    fn shape(&self) -> String {
        let Self { batch, n_heads, group, n_tokens, has_more, .. } = self;
        let of = format!("{n_tokens} tokens of {n_heads} heads in {batch} requests");
        match (self.launched, has_more) {
            (Launched::Begin, _) => format!("{of}, {N_PROBES} probes"),
            (Launched::Add, false) => format!("{of}, {group} queries a head"),
            (Launched::Add, true) => format!("{of}, {group} queries a head, in pages"),
            (Launched::Weigh, false) => of,
            (Launched::Weigh, true) => format!("{of}, with norms"),
            (Launched::Measure, _) => format!("{of} of {HEAD_DIM}, bf16"),
        }
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        let (bytes, sectors_per_request, barriers) = match self.launched {
            Launched::Begin => (1.03, 4.0, 1.0),
            Launched::Add => (1.03, 4.0, 1.0),
            Launched::Weigh => (1.01, 4.0, 0.0),
            Launched::Measure => (1.03, 16.0, 0.0),
        };
        Budget { bytes, sectors_per_request, conflict_ways: 1.0, barriers }
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let plan = self.plan(0);
        let shape = plan.shape();
        let (n, group, n_state) = (self.n_tokens as usize, self.group as usize, self.state_len());
        let mut small = numbers::<bf16>();
        let mut number = || small().to_f32();
        let mut problem = Tokens {
            case: *self,
            sums: (0..n_state).map(|_| 1.0 + number()).collect(),
            counts: (0..n_state).map(|i| 1.0 + (i % 5) as f32).collect(),
            norms: (0..n_state).map(|_| 2.0 + number()).collect(),
            n_visible: (0..self.batch * N_PROBES)
                .map(|p| (self.n_tokens - p % N_PROBES) as u32)
                .collect(),
            logits: Vec::new(),
            log_sums: (0..plan.log_sums_len()).map(|_| 9.0 + number()).collect(),
            tokens: Vec::new(),
            cache: None,
            expected: Vec::new(),
        };
        let mut expected = [vec![0.0_f32; n_state], vec![0.0_f32; n_state]];
        let mut set = |at: usize, seen: Seen| {
            (expected[0][at], expected[1][at]) = (seen.sum, seen.count);
        };
        match self.launched {
            Launched::Begin => {
                for at in 0..n_state {
                    let b = at / (n * self.n_heads as usize);
                    let probes = &problem.n_visible[b * N_PROBES as usize..][..N_PROBES as usize];
                    let n_seeing = probes.iter().filter(|seen| at % n < **seen as usize).count();
                    set(at, Seen::of_prompt(problem.sums[at], (group * n_seeing) as u32));
                }
            }
            Launched::Add => {
                problem.logits = (0..plan.logits_len()).map(|_| 8.0 * number()).collect();
                // Pages of 64, none beside its neighbour.
                let token =
                    |p: usize| if self.has_more { p / 64 * 37 * 64 % n + p % 64 } else { p };
                problem.tokens = (0..n_state).map(|at| token(at % n) as i32).collect();
                for at in 0..n_state {
                    let (head, p) = (at / n, at % n);
                    let rows = (head * group..(head + 1) * group)
                        .map(|row| [problem.logits[row * n + p], problem.log_sums[row]]);
                    set(head * n + token(p), Seen::default().add(shape, rows));
                }
            }
            Launched::Weigh => {
                for (at, score) in expected[0].iter_mut().enumerate() {
                    let seen = Seen { sum: problem.sums[at], count: problem.counts[at] };
                    let norm = self.has_more.then_some(problem.norms[at]);
                    *score = weigh_token(shape, &[(seen, norm)]);
                }
                expected[1].clear();
            }
            Launched::Measure => {
                let layout = self.layout(0);
                let mut number = numbers::<bf16>();
                let cache =
                    Cache::new(&layout, self.n_tokens, &mut number).with_values(&mut number);
                let d = HEAD_DIM as usize;
                for (at, norm) in expected[0].iter_mut().enumerate() {
                    let (head, t) = ((at / n) as u64, (at % n) as u64);
                    let (b, h) = (head / self.n_heads, head % self.n_heads);
                    let start = layout.locate(&cache.page_table, b, t, h).expect("a page");
                    let row: Vec<f32> =
                        cache.values[start..][..d].iter().map(|x| x.to_f32()).collect();
                    *norm = norm_of_row(&row, self.norms_plan(0).shape().norm, 1.0);
                }
                expected[1].clear();
                problem.cache = Some(cache);
            }
        }
        problem.expected = expected
            .iter()
            .flat_map(|floats| bytemuck::cast_slice::<f32, u8>(floats))
            .copied()
            .collect();
        Box::new(problem)
    }
}

impl Problem for Tokens {
    fn least_bytes(&self) -> u64 {
        let (case, plan) = (&self.case, self.case.plan(0));
        match case.launched {
            Launched::Begin => 12 * plan.state_len() + 4 * case.batch * N_PROBES,
            Launched::Add => plan.least_bytes_of_step(case.has_more),
            Launched::Weigh => plan.least_bytes_of_scores(case.has_more),
            Launched::Measure => case.norms_plan(0).least_bytes(case.n_tokens, 2),
        }
    }

    fn expected(&self) -> &[u8] {
        &self.expected
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(self, queue, 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let last = Launch::new(self, queue, 2)?;
        Ok(vec![("after two other requests".to_owned(), Box::new(last))])
    }
}

struct Launch {
    case: Shape,
    n_more: usize,
    /// Masses, or sums to be weighed.
    masses: Buffer<f32>,
    of_counts: Buffer<f32>,
    of_norms: Buffer<f32>,
    n_visible: Buffer<u32>,
    lengths: Buffer<u32>,
    logits: Buffer<f32>,
    log_sums: Buffer<f32>,
    tokens: Buffer<i32>,
    cache: Option<Placed>,
    /// Sums, scores or norms; and counts.
    outputs: [Buffer<f32>; 2],
}

impl Launch {
    fn new(tokens: &Tokens, queue: &Queue, n_more: usize) -> lacuna::Result<Self> {
        let case = tokens.case;
        let batch = case.batch as usize;
        let floats = |floats: &Vec<f32>| queue.upload(&again(floats, batch, n_more));
        let n_state = case.state_len() / batch * (batch + n_more);
        let layout = case.layout(n_more as u64);
        let cache = tokens.cache.as_ref();
        Ok(Self {
            case,
            n_more,
            masses: floats(&tokens.sums)?,
            of_counts: floats(&tokens.counts)?,
            of_norms: floats(&tokens.norms)?,
            n_visible: queue.upload(&again(&tokens.n_visible, batch, n_more))?,
            lengths: queue.upload(&vec![case.n_tokens as u32; batch + n_more])?,
            logits: floats(&tokens.logits)?,
            log_sums: floats(&tokens.log_sums)?,
            tokens: queue.upload(&again(&tokens.tokens, batch, n_more))?,
            cache: cache.map(|cache| cache.place(queue, layout, n_more)).transpose()?,
            outputs: [queue.alloc(n_state)?, queue.alloc(n_state)?],
        })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let (case, n_more) = (self.case, self.n_more as u64);
        let plan = case.plan(n_more);
        let [first, second] = &mut self.outputs;
        let mut state = SaliencyState { sums: first.view_mut(), counts: second.view_mut() };
        match case.launched {
            Launched::Begin => {
                let inputs = MassesOfPrompt {
                    masses: self.masses.view(),
                    n_visible: self.n_visible.view(),
                    lengths: self.lengths.view(),
                    skips: None,
                };
                begin_saliency(queue, &plan, &case.mass_plan(n_more), &inputs, &mut state)
            }
            Launched::Add => {
                let inputs = StepLogits {
                    logits: self.logits.view(),
                    log_sums: self.log_sums.view(),
                    tokens: case.has_more.then(|| self.tokens.view()),
                    skips: None,
                };
                add_saliency(queue, &plan, &inputs, &mut state)
            }
            Launched::Weigh => {
                let inputs = SaliencyInputs {
                    sums: self.masses.view(),
                    counts: self.of_counts.view(),
                    norms: case.has_more.then(|| self.of_norms.view()),
                    lengths: None,
                    skips: None,
                };
                weigh_saliency(queue, &plan, &inputs, &mut state.sums)
            }
            Launched::Measure => {
                let cache = self.cache.as_ref().expect("a cache").view();
                measure_norms(queue, &case.norms_plan(n_more), &cache, None, &mut state.sums)
            }
        }
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        self.outputs.iter_mut().try_for_each(|output| poison(queue, output))
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let is_state = matches!(self.case.launched, Launched::Begin | Launched::Add);
        let mut bytes = Vec::new();
        for output in &self.outputs[..1 + usize::from(is_state)] {
            let floats = queue.download(&output.view())?;
            let own = &floats[floats.len() - self.case.state_len()..];
            bytes.extend_from_slice(bytemuck::cast_slice(own));
        }
        Ok(bytes)
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    use Launched::{Add, Begin, Measure, Weigh};
    let small = |launched, group, n_tokens, has_more| Shape {
        launched,
        batch: 2,
        n_heads: 2,
        group,
        n_tokens,
        has_more,
        is_small: true,
    };
    let large = |launched, batch, n_tokens, has_more| Shape {
        launched,
        batch,
        n_heads: 8,
        group: 4,
        n_tokens,
        has_more,
        is_small: false,
    };
    let cases = [
        small(Begin, 4, 4096, false),
        small(Add, 4, 4096, false),
        small(Add, 8, 4096, true),
        small(Add, 1, 4096, true),
        small(Weigh, 4, 4096, false),
        small(Weigh, 4, 4096, true),
        small(Measure, 4, 1024, false),
        large(Begin, 1, 131_072, false),
        large(Add, 1, 131_072, false),
        large(Add, 4, 131_072, true),
        large(Weigh, 4, 131_072, true),
        large(Measure, 1, 131_072, false),
    ];
    cases.map(|case| Box::new(case) as Box<dyn Case>).into()
}
