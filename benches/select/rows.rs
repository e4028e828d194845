//! Rows by lists of indices: gathered, scattered and added, of tables and of a paged cache.

use half::bf16;
use lacuna::kv::{KvLayout, KvLists, KvShape, KvView, KvViewMut};
use lacuna::select::{
    Absent, KvRows, KvRowsMut, KvRowsPlan, Repeats, RowStrides, RowsPlan, RowsShape, gather_kv,
    gather_rows, reference, scatter_add_rows, scatter_kv, scatter_rows,
};
use lacuna::{Buffer, Queue};

use crate::house::case::{Budget, Case, Problem, Work, poison};

/// What is in outputs before a launch.
fn poisoned(n: usize) -> Vec<bf16> {
    vec![bf16::from_bits(0xA5A5); n]
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        let state = self.0;
        self.0 =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn values(&mut self, n: u64) -> Vec<bf16> {
        (0..n).map(|_| bf16::from_f32(self.next() as f32 / (1_u64 << 30) as f32 - 1.0)).collect()
    }

    /// `n` of `0..most`, ascending.
    fn ascending(&mut self, n: u64, most: u64) -> Vec<i32> {
        let (mut left, mut picks) = (n, Vec::new());
        for i in 0..most {
            if self.next() % (most - i) < left {
                picks.push(i as i32);
                left -= 1;
            }
        }
        picks
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Move {
    Gather,
    Scatter,
    /// Of its two launches, the case is the first's or the second's.
    ScatterLast {
        is_mark: bool,
    },
    Add,
}

/// One list of rows of bf16 and a table.
#[derive(Clone, Copy)]
struct Rows {
    what: Move,
    n_indices: u64,
    n_table_rows: u64,
    row_len: u64,
    is_small: bool,
}

impl Rows {
    fn plan(&self, n_lists: u64) -> RowsPlan {
        let none = RowStrides { list: 0, row: 0 };
        let shape = RowsShape {
            n_lists,
            n_indices: self.n_indices,
            index_stride: 0,
            n_table_rows: self.n_table_rows,
            row_len: self.row_len,
            table: none,
            list: none,
            element_bytes: 2,
        };
        RowsPlan::new(shape.dense()).expect("a shape that is supported")
    }

    /// Distinct and ascending, as they are picked; of the others any.
    fn indices(&self, random: &mut Random) -> Vec<i32> {
        match self.what {
            Move::Gather | Move::Scatter => random.ascending(self.n_indices, self.n_table_rows),
            _ => {
                let any = |_| (random.next() % self.n_table_rows) as i32;
                (0..self.n_indices).map(any).collect()
            }
        }
    }
}

impl Case for Rows {
    fn kernel(&self) -> &'static str {
        match self.what {
            Move::Gather => "select/gather_rows",
            Move::Scatter | Move::ScatterLast { is_mark: false } => "select/scatter_rows",
            Move::ScatterLast { is_mark: true } => "select/mark_rows",
            Move::Add => "select/scatter_add_rows",
        }
    }

    fn shape(&self) -> String {
        let Self { n_indices, n_table_rows, row_len, .. } = self;
        let repeats =
            if matches!(self.what, Move::ScatterLast { .. }) { ", repeating" } else { "" };
        format!("{n_indices} rows of {row_len}, {n_table_rows} in the table{repeats}, bf16")
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        let bytes = match self.what {
            Move::Gather | Move::Scatter => 1.03,
            // Indices are read twice; atomics are not counted.
            Move::ScatterLast { .. } => 1.05,
            // Every tile reads the list: of two it is little.
            Move::Add => 1.01,
        };
        // Two for 512 indices.
        let barriers = if self.what == Move::Add { 2.0 } else { 0.0 };
        Budget { bytes, sectors_per_request: 16.0, conflict_ways: 1.3, barriers }
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let mut random = Random(self.n_indices ^ self.row_len << 20);
        let plan = self.plan(1);
        let indices = self.indices(&mut random);
        let list = random.values(plan.list_len());
        let table = random.values(plan.table_len());
        let shape = plan.shape();
        let gathers = self.what == Move::Gather;
        let mut output = poisoned(if gathers { list.len() } else { table.len() });
        match self.what {
            Move::Gather => {
                reference::gather_rows(shape, &table, &indices, Absent::Zeros, &mut output);
            }
            Move::Add => {
                reference::scatter_add_rows(shape, &list, &indices, None, &mut output);
            }
            _ => reference::scatter_rows(shape, &list, &indices, &mut output),
        }
        let source = if gathers { table } else { list };
        let mut named: Vec<_> = indices.iter().filter(|idx| **idx >= 0).collect();
        named.sort_unstable();
        named.dedup();
        let n_named = named.len() as u64;
        Box::new(RowsProblem { case: *self, indices, source, output, n_named })
    }
}

struct RowsProblem {
    case: Rows,
    indices: Vec<i32>,
    source: Vec<bf16>,
    output: Vec<bf16>,
    n_named: u64,
}

impl Problem for RowsProblem {
    fn least_bytes(&self) -> u64 {
        let row_bytes = 2 * self.case.row_len;
        let index_bytes = 4 * self.case.n_indices;
        match self.case.what {
            Move::Gather | Move::Scatter => self.case.plan(1).least_bytes(),
            // The last of each alone.
            Move::ScatterLast { .. } => index_bytes + self.n_named * 2 * row_bytes,
            Move::Add => {
                index_bytes + self.case.n_indices * row_bytes + self.n_named * 2 * row_bytes
            }
        }
    }

    fn expected(&self) -> &[u8] {
        bytemuck::cast_slice(&self.output)
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(RowsWork::new(self, queue, 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let last = RowsWork::new(self, queue, 2)?;
        Ok(vec![("after two lists more".to_owned(), Box::new(last))])
    }
}

/// Lists of which the last is looked at.
struct RowsWork {
    what: Move,
    plan: RowsPlan,
    indices: Buffer<i32>,
    source: Buffer<bf16>,
    output: Buffer<bf16>,
    last: Buffer<u32>,
    n_output: usize,
}

impl RowsWork {
    fn new(problem: &RowsProblem, queue: &Queue, n_more: u64) -> lacuna::Result<Self> {
        let case = problem.case;
        let plan = case.plan(1 + n_more);
        let mut random = Random(n_more);
        let mut indices: Vec<_> = (0..n_more).flat_map(|_| case.indices(&mut random)).collect();
        let mut source = random.values(n_more * problem.source.len() as u64);
        indices.extend(&problem.indices);
        source.extend(&problem.source);
        let n_output = problem.output.len();
        let has_last = matches!(case.what, Move::ScatterLast { .. });
        Ok(Self {
            what: case.what,
            plan,
            indices: queue.upload(&indices)?,
            source: queue.upload(&source)?,
            output: queue.upload(&poisoned((1 + n_more as usize) * n_output))?,
            last: queue.alloc(if has_last { plan.last_len() as usize } else { 0 })?,
            n_output,
        })
    }
}

impl Work for RowsWork {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let Self { plan, .. } = self;
        let (source, indices) = (self.source.view(), self.indices.view());
        let output = &mut self.output.view_mut();
        let mut repeats = match self.what {
            Move::ScatterLast { .. } => Repeats::LastWins(self.last.view_mut()),
            _ => Repeats::Never,
        };
        match self.what {
            Move::Gather => gather_rows(queue, plan, &source, &indices, Absent::Zeros, output),
            Move::Add => scatter_add_rows(queue, plan, &source, &indices, None, output),
            _ => scatter_rows(queue, plan, &source, &indices, &mut repeats, output),
        }
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.output)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let n = self.output.len();
        let last = queue.download(&self.output.view().slice(n - self.n_output..n)?)?;
        Ok(bytemuck::cast_slice(&last).to_vec())
    }
}

/// Keys and values of heads of 128 in pages of 16, `n_indices` of each head's `n_tokens`.
#[derive(Clone, Copy)]
struct Kv {
    is_gather: bool,
    n_heads: u64,
    n_tokens: u64,
    n_indices: u64,
    is_small: bool,
}

impl Kv {
    fn plan(&self, batch: u64) -> KvRowsPlan {
        let n_pages = self.n_tokens.div_ceil(16);
        let shape = KvShape {
            batch,
            n_heads: self.n_heads,
            row_len: 128,
            n_pages: batch * n_pages,
            page_size: 16,
            table_stride: n_pages,
            tokens_per_row: 1,
            page_stride: 0,
            token_stride: 0,
            head_stride: 0,
        };
        let layout = KvLayout::new(shape.nhd()).expect("a layout that is supported");
        KvRowsPlan::new(layout, self.n_indices, KvLists::PerHead).expect("lists that are supported")
    }

    /// Of a request: tokens of each head's list.
    fn indices(&self, random: &mut Random) -> Vec<i32> {
        (0..self.n_heads).flat_map(|_| random.ascending(self.n_indices, self.n_tokens)).collect()
    }
}

impl Case for Kv {
    fn kernel(&self) -> &'static str {
        if self.is_gather { "select/gather_kv" } else { "select/scatter_kv" }
    }

    fn shape(&self) -> String {
        let Self { n_heads, n_tokens, n_indices, .. } = self;
        format!("{n_indices} of {n_tokens} tokens, {n_heads} heads of 128, bf16")
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        // An index, an entry of the page table and a length for each row: a sector each.
        Budget { bytes: 1.05, sectors_per_request: 16.0, conflict_ways: 0.0, barriers: 0.0 }
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let mut random = Random(self.n_tokens);
        let plan = self.plan(1);
        let indices = self.indices(&mut random);
        let pages = identity(plan.layout().table_len());
        let lengths = [self.n_tokens as u32];
        let (n_pool, n_rows) = (plan.layout().pool_len(), plan.rows_len());
        let n_source = if self.is_gather { n_pool } else { n_rows };
        let source = [random.values(n_source), random.values(n_source)];
        let output = source.each_ref().map(|source| {
            let mut output = poisoned(if self.is_gather { n_rows } else { n_pool } as usize);
            if self.is_gather {
                let absent = Absent::Zeros;
                reference::gather_kv(
                    &plan,
                    &pages,
                    &lengths,
                    source,
                    &indices,
                    absent,
                    &mut output,
                );
            } else {
                reference::scatter_kv(&plan, &pages, &lengths, source, &indices, &mut output);
            }
            output
        });
        Box::new(KvProblem { case: *self, indices, source, output: output.concat() })
    }
}

fn identity(n: u64) -> Vec<i32> {
    (0..n as i32).collect()
}

struct KvProblem {
    case: Kv,
    indices: Vec<i32>,
    source: [Vec<bf16>; 2],
    output: Vec<bf16>,
}

impl Problem for KvProblem {
    fn least_bytes(&self) -> u64 {
        self.case.plan(1).least_bytes(2)
    }

    fn expected(&self) -> &[u8] {
        bytemuck::cast_slice(&self.output)
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(KvWork::new(self, queue, 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let last = KvWork::new(self, queue, 2)?;
        Ok(vec![("after two requests more".to_owned(), Box::new(last))])
    }
}

/// Requests of which the last is looked at.
struct KvWork {
    is_gather: bool,
    plan: KvRowsPlan,
    indices: Buffer<i32>,
    page_table: Buffer<i32>,
    lengths: Buffer<u32>,
    source: [Buffer<bf16>; 2],
    output: [Buffer<bf16>; 2],
    n_output: usize,
}

impl KvWork {
    fn new(problem: &KvProblem, queue: &Queue, n_more: u64) -> lacuna::Result<Self> {
        let case = problem.case;
        let plan = case.plan(1 + n_more);
        let mut random = Random(n_more);
        let mut indices: Vec<_> = (0..n_more).flat_map(|_| case.indices(&mut random)).collect();
        indices.extend(&problem.indices);
        let mut more = |source: &[bf16]| {
            let mut all = random.values(n_more * source.len() as u64);
            all.extend(source);
            queue.upload(&all)
        };
        let n_output = problem.output.len() / 2;
        let output = || queue.upload(&poisoned((1 + n_more as usize) * n_output));
        Ok(Self {
            is_gather: case.is_gather,
            plan,
            indices: queue.upload(&indices)?,
            page_table: queue.upload(&identity(plan.layout().table_len()))?,
            lengths: queue.upload(&vec![case.n_tokens as u32; 1 + n_more as usize])?,
            source: [more(&problem.source[0])?, more(&problem.source[1])?],
            output: [output()?, output()?],
            n_output,
        })
    }
}

impl Work for KvWork {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let indices = self.indices.view();
        let (page_table, lengths) = (self.page_table.view(), self.lengths.view());
        let layout = *self.plan.layout();
        let [keys, values] = &self.source;
        let [key_output, value_output] = &mut self.output;
        if self.is_gather {
            let kv = KvView {
                layout,
                keys: keys.view(),
                values: Some(values.view()),
                page_table,
                lengths,
                key_scale: 1.0,
                value_scale: 1.0,
            };
            let mut gathered =
                KvRowsMut { keys: key_output.view_mut(), values: Some(value_output.view_mut()) };
            return gather_kv(queue, &self.plan, &kv, &indices, Absent::Zeros, &mut gathered);
        }
        let mut kv = KvViewMut {
            layout,
            keys: key_output.view_mut(),
            values: Some(value_output.view_mut()),
            page_table,
            lengths,
        };
        let source = KvRows { keys: keys.view(), values: Some(values.view()) };
        scatter_kv(queue, &self.plan, &source, &indices, &mut kv)
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        self.output.iter_mut().try_for_each(|output| poison(queue, output))
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let mut all = Vec::new();
        for output in &self.output {
            let n = output.len();
            let last = queue.download(&output.view().slice(n - self.n_output..n)?)?;
            all.extend_from_slice(bytemuck::cast_slice(&last));
        }
        Ok(all)
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    let (first, second) =
        (Move::ScatterLast { is_mark: true }, Move::ScatterLast { is_mark: false });
    let rows = [
        (Move::Gather, 256, 1024, 128, true),
        (Move::Gather, 40, 100, 4096, true),
        (Move::Gather, 65_536, 1 << 18, 128, false),
        (Move::Gather, 16_384, 32_768, 4096, false),
        (Move::Scatter, 256, 1024, 128, true),
        (Move::Scatter, 65_536, 1 << 18, 128, false),
        (first, 256, 256, 128, true),
        (second, 256, 256, 1024, true),
        (second, 65_536, 1 << 18, 128, false),
        (Move::Add, 512, 64, 1024, true),
        // Of MoE: 8 experts' rows for each of 4,096 tokens; of merging: 3,072 evicted into 1,024.
        (Move::Add, 32_768, 4096, 4096, false),
        (Move::Add, 3072, 1024, 128, false),
    ];
    let rows = rows.map(|(what, n_indices, n_table_rows, row_len, is_small)| {
        Box::new(Rows { what, n_indices, n_table_rows, row_len, is_small }) as Box<dyn Case>
    });
    let kv = [(true, 2, 256, 64, true), (true, 8, 1 << 17, 2048, false), (false, 2, 256, 64, true)]
        .map(|(is_gather, n_heads, n_tokens, n_indices, is_small)| {
            Box::new(Kv { is_gather, n_heads, n_tokens, n_indices, is_small }) as Box<dyn Case>
        });
    rows.into_iter().chain(kv).collect()
}
