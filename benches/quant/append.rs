//! New tokens into a paged cache.

use criterion::{Criterion, Throughput};
use half::bf16;
use lacuna::kv::{KvLayout, KvShape, KvViewMut};
use lacuna::quant::reference::{HostRows, HostTokens, append};
use lacuna::quant::{AppendOutputs, AppendPlan, AppendShape, NewTokens, Turn, append_kv};
use lacuna::{Buffer, Queue};

use crate::house::cache::{again, numbers};
use crate::house::case::{Budget, Case, Problem, Work, poison};

pub(crate) fn cpu(criterion: &mut Criterion) {
    let case = Shape { n_tokens: 64, ..SMALL };
    let tokens = Tokens::new(case);
    let mut bench = criterion.benchmark_group("quant");
    bench.throughput(Throughput::Elements(case.n_appended())).sample_size(20);
    bench.bench_function("reference/append", |b| b.iter(|| tokens.append()));
    bench.finish();
}

/// Requests with so many new tokens after so many in pages of 16.
#[derive(Clone, Copy)]
struct Shape {
    batch: u64,
    n_heads: u64,
    head_dim: u64,
    length: u64,
    n_tokens: u64,
    /// One of every so many tokens is not kept; all are where it is 0.
    dropped_each: u64,
    turn: Turn,
    is_small: bool,
}

const SMALL: Shape = Shape {
    batch: 3,
    n_heads: 4,
    head_dim: 64,
    length: 21,
    n_tokens: 1,
    dropped_each: 0,
    turn: Turn::Halves,
    is_small: true,
};

struct Tokens {
    case: Shape,
    /// Keys and values.
    tokens: [Vec<bf16>; 2],
    rows: [Vec<bf16>; 2],
    page_table: Vec<i32>,
    lengths: Vec<u32>,
    keeps: Option<Vec<u32>>,
    cos_sin: Vec<f32>,
    expected: Vec<u8>,
}

impl Shape {
    fn n_pages(&self) -> u64 {
        (self.length + self.n_tokens).div_ceil(16)
    }

    fn plan(&self, n_more: u64) -> AppendPlan {
        let table_stride = self.n_pages();
        let shape = KvShape {
            batch: self.batch + n_more,
            n_heads: self.n_heads,
            row_len: self.head_dim,
            n_pages: self.batch * table_stride,
            page_size: 16,
            table_stride,
            ..KvShape::default()
        };
        let shape = AppendShape::of(KvLayout::new(shape.hnd()).expect("a layout"), self.n_tokens);
        AppendPlan::new(AppendShape {
            turn: self.turn,
            rotary_dim: self.head_dim,
            n_positions: self.length + self.n_tokens,
            ..shape
        })
        .expect("a sound plan")
    }

    fn is_kept(&self, i: u64) -> bool {
        self.dropped_each == 0 || i % self.dropped_each != 1
    }

    fn n_appended(&self) -> u64 {
        (0..self.batch * self.n_tokens).filter(|i| self.is_kept(*i)).count() as u64
    }
}

fn bytes(rows: &[Vec<bf16>; 2], new_lengths: &[u32]) -> Vec<u8> {
    let mut bytes: Vec<u8> = bytemuck::cast_slice(new_lengths).to_vec();
    rows.iter().for_each(|rows| bytes.extend_from_slice(bytemuck::cast_slice(rows)));
    bytes
}

impl Tokens {
    fn new(case: Shape) -> Self {
        let plan = case.plan(0);
        let layout = plan.shape().layout;
        let mut number = numbers::<bf16>();
        let mut many = |n: u64| -> Vec<bf16> { (0..n).map(|_| number()).collect() };
        let tokens = [many(plan.keys_len()), many(plan.values_len())];
        let rows = [(); 2].map(|()| vec![bf16::from_f32(0.5); layout.pool_len() as usize]);
        let keeps = (case.dropped_each != 0)
            .then(|| (0..plan.tokens_len()).map(|i| u32::from(case.is_kept(i))).collect());
        let half = case.head_dim / 2;
        let mut cos_sin = Vec::with_capacity(plan.cos_sin_len() as usize);
        if case.turn != Turn::None {
            for position in 0..plan.shape().n_positions {
                let angle = |i: u64| position as f64 * 1e4_f64.powf(-(i as f64) / half as f64);
                cos_sin.extend((0..half).map(|i| angle(i).cos() as f32));
                cos_sin.extend((0..half).map(|i| angle(i).sin() as f32));
            }
        }
        let mut tokens = Self {
            case,
            tokens,
            rows,
            page_table: (0..layout.table_len() as i32).rev().collect(),
            lengths: vec![case.length as u32; case.batch as usize],
            keeps,
            cos_sin,
            expected: Vec::new(),
        };
        tokens.expected = tokens.append();
        tokens
    }

    fn append(&self) -> Vec<u8> {
        let mut rows = self.rows.clone();
        let [keys, values] = &mut rows;
        let tokens = HostTokens {
            keys: &self.tokens[0],
            values: &self.tokens[1],
            counts: None,
            keeps: self.keeps.as_deref(),
            positions: None,
            cos_sin: &self.cos_sin,
        };
        let mut cache =
            HostRows { keys, values, page_table: &self.page_table, lengths: &self.lengths };
        let appended = append(&self.case.plan(0), &tokens, &mut cache);
        bytes(&rows, &appended.new_lengths)
    }
}

impl Case for Shape {
    fn kernel(&self) -> &'static str {
        "quant/append_kv"
    }

    fn shape(&self) -> String {
        let Self { batch, n_heads, head_dim, length, n_tokens, dropped_each, .. } = self;
        let turned = match self.turn {
            Turn::None => "",
            Turn::Halves => ", turned by halves",
            Turn::Pairs => ", turned by pairs",
        };
        let dropped = match dropped_each {
            0 => String::new(),
            n => format!(", one of {n} left out"),
        };
        format!(
            "{n_tokens} tokens after {length} of {n_heads} heads of {head_dim} in {batch} requests{turned}{dropped}"
        )
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        // Whole sectors of what is 4 bytes, angles once for some heads; and of a mask what is before each block, of rows of few bytes a part.
        let bytes = if self.dropped_each == 0 { 1.21 } else { 1.83 };
        Budget { bytes, sectors_per_request: 6.5, conflict_ways: 1.01, barriers: 2.0 }
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        Box::new(Tokens::new(*self))
    }
}

impl Problem for Tokens {
    fn least_bytes(&self) -> u64 {
        let plan = self.case.plan(0);
        plan.least_bytes(self.case.n_appended(), self.keeps.is_some(), false)
    }

    fn expected(&self) -> &[u8] {
        &self.expected
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(self, queue, 0, self.case.plan(0))?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let last = Launch::new(self, queue, 2, self.case.plan(2))?;
        let few = Launch::new(self, queue, 0, self.case.plan(0).with_block_tokens(2)?)?;
        Ok(vec![
            ("after two requests without tokens".to_owned(), Box::new(last)),
            ("two tokens a block".to_owned(), Box::new(few)),
        ])
    }
}

struct Launch {
    plan: AppendPlan,
    n_more: usize,
    before: [Vec<bf16>; 2],
    tokens: [Buffer<bf16>; 2],
    rows: [Buffer<bf16>; 2],
    page_table: Buffer<i32>,
    lengths: Buffer<u32>,
    counts: Option<Buffer<u32>>,
    keeps: Option<Buffer<u32>>,
    cos_sin: Option<Buffer<f32>>,
    workspace: Buffer<u32>,
    new_lengths: Buffer<u32>,
}

impl Launch {
    fn new(
        tokens: &Tokens,
        queue: &Queue,
        n_more: usize,
        plan: AppendPlan,
    ) -> lacuna::Result<Self> {
        let batch = tokens.case.batch as usize;
        let counts: Vec<u32> =
            (0..batch + n_more).map(|b| if b < n_more { 0 } else { u32::MAX }).collect();
        let keeps = tokens.keeps.as_ref().map(|keeps| again(keeps, batch, n_more));
        let [keys, values] = tokens.tokens.each_ref().map(|tokens| again(tokens, batch, n_more));
        let is_turned = tokens.case.turn != Turn::None;
        Ok(Self {
            plan,
            n_more,
            before: tokens.rows.clone(),
            tokens: [queue.upload(&keys)?, queue.upload(&values)?],
            rows: [queue.upload(&tokens.rows[0])?, queue.upload(&tokens.rows[1])?],
            page_table: queue.upload(&again(&tokens.page_table, batch, n_more))?,
            lengths: queue.upload(&again(&tokens.lengths, batch, n_more))?,
            counts: (n_more != 0).then(|| queue.upload(&counts)).transpose()?,
            keeps: keeps.map(|keeps| queue.upload(&keeps)).transpose()?,
            cos_sin: is_turned.then(|| queue.upload(&tokens.cos_sin)).transpose()?,
            workspace: queue.upload(&vec![0_u32; plan.workspace_len() as usize])?,
            new_lengths: queue.upload(&vec![0_u32; batch + n_more])?,
        })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let tokens = NewTokens {
            keys: self.tokens[0].view(),
            values: self.tokens[1].view(),
            counts: self.counts.as_ref().map(Buffer::view),
            keeps: self.keeps.as_ref().map(Buffer::view),
            positions: None,
            cos_sin: self.cos_sin.as_ref().map(Buffer::view),
        };
        let [keys, values] = &mut self.rows;
        let mut target = KvViewMut {
            layout: self.plan.shape().layout,
            keys: keys.view_mut(),
            values: Some(values.view_mut()),
            page_table: self.page_table.view(),
            lengths: self.lengths.view(),
        };
        let mut outputs = AppendOutputs {
            new_lengths: self.new_lengths.view_mut(),
            dropped: None,
            workspace: Some(self.workspace.view_mut()),
        };
        append_kv(queue, &self.plan, &tokens, &mut target, &mut outputs)
    }

    /// Rows that no token comes to stay what they were.
    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        for (rows, before) in self.rows.iter_mut().zip(&self.before) {
            queue.upload_into(before, &mut rows.view_mut())?;
        }
        poison(queue, &mut self.new_lengths)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let [keys, values] = &self.rows;
        let rows = [queue.download(&keys.view())?, queue.download(&values.view())?];
        let new_lengths = queue.download(&self.new_lengths.view())?;
        Ok(bytes(&rows, &new_lengths[self.n_more..]))
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    // Steps of decoding, of few requests and of many; a prompt, whole and in part (Dynamic-LLaVA).
    let large = Shape { n_heads: 8, head_dim: 128, is_small: false, ..SMALL };
    let cases = [
        SMALL,
        Shape { turn: Turn::None, ..SMALL },
        Shape { batch: 2, n_tokens: 150, turn: Turn::Pairs, dropped_each: 3, ..SMALL },
        Shape { batch: 1, n_heads: 2, n_tokens: 1200, length: 5, dropped_each: 5, ..SMALL },
        Shape { batch: 64, length: 4096, ..large },
        Shape { batch: 2048, length: 100, ..large },
        Shape { batch: 1, n_tokens: 32_768, length: 0, ..large },
        Shape { batch: 1, n_tokens: 32_768, length: 0, dropped_each: 3, ..large },
        Shape { batch: 1, n_tokens: 32_768, length: 0, turn: Turn::None, ..large },
    ];
    cases.map(|case| Box::new(case) as Box<dyn Case>).into()
}
