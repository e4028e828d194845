//! Masks compacted: on the CPU, and by the kernels.

use criterion::{Criterion, Throughput};
use lacuna::select::reference::{compact_row, invert_row};
use lacuna::select::{
    CompactInputs, CompactOutputs, CompactPlan, CompactShape, Listed, compact_rows,
};
use lacuna::{Buffer, Queue};

use crate::house::case::{Budget, Case, Problem, Work, poison};

/// A quarter is kept.
fn mask(n: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            u8::from(state >> 62 == 0)
        })
        .collect()
}

pub(crate) fn cpu(criterion: &mut Criterion) {
    let mask = mask(1 << 17, 1);
    let mut bench = criterion.benchmark_group("select");
    bench.throughput(Throughput::Bytes(1 << 17)).sample_size(10);
    bench.bench_function("reference/compact/128Ki", |b| {
        b.iter(|| compact_row(&mask, mask.len(), Listed::Kept))
    });
    bench.finish();
}

/// `compact_rows` of whole rows, with room for half of each.
#[derive(Clone, Copy)]
struct Compact {
    kernel: &'static str,
    n_rows: usize,
    n: usize,
    has_offsets: bool,
    is_small: bool,
}

struct Rows {
    case: Compact,
    mask: Vec<u8>,
    expected: Vec<i32>,
}

impl Case for Compact {
    fn kernel(&self) -> &'static str {
        self.kernel
    }

    fn shape(&self) -> String {
        let offsets = if self.has_offsets { ", and offsets" } else { "" };
        format!("{} rows of {}, a quarter kept{offsets}", self.n_rows, self.n)
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        // Longer rows are written and read again as bits.
        let is_one_chunk = self.n + 15 <= 1 << 14;
        let bytes = if is_one_chunk { 1.02 } else { 1.1 };
        let barriers = if is_one_chunk { 3.0 } else { 2.0 };
        Budget { bytes, sectors_per_request: 6.0, conflict_ways: 1.3, barriers }
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let mask = mask(self.n_rows * self.n, self.n as u64);
        let rows: Vec<_> =
            mask.chunks(self.n).map(|row| compact_row(row, self.n, Listed::Kept)).collect();
        let (mut indices, mut offsets) = (Vec::new(), Vec::new());
        for row in &rows {
            let place = |place| row.get(place).map_or(-1, |i: &usize| *i as i32);
            indices.extend((0..self.n / 2).map(place));
            if self.has_offsets {
                let inverse = invert_row(row, self.n).into_iter();
                offsets.extend(inverse.map(|place| place.map_or(-1, |place| place as i32)));
            }
        }
        Box::new(Rows { case: *self, mask, expected: [indices, offsets].concat() })
    }
}

impl Problem for Rows {
    fn least_bytes(&self) -> u64 {
        self.case.plan(self.case.n_rows).least_bytes(self.case.has_offsets)
    }

    fn expected(&self) -> &[u8] {
        bytemuck::cast_slice(&self.expected)
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(self, queue, 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let last = Launch::new(self, queue, 3)?;
        Ok(vec![("after three rows more".to_owned(), Box::new(last))])
    }
}

impl Compact {
    fn plan(&self, n_rows: usize) -> CompactPlan {
        let n = self.n as u64;
        CompactPlan::new(CompactShape::of(n_rows as u64, n, n / 2))
            .expect("a shape that is supported")
    }
}

/// A launch whose last rows are looked at.
struct Launch {
    case: Compact,
    plan: CompactPlan,
    mask: Buffer<u8>,
    workspace: Buffer<u32>,
    indices: Buffer<i32>,
    counts: Buffer<u32>,
    offsets: Buffer<i32>,
}

impl Launch {
    fn new(rows: &Rows, queue: &Queue, n_more: usize) -> lacuna::Result<Self> {
        let case = rows.case;
        let plan = case.plan(case.n_rows + n_more);
        let n_offsets = if case.has_offsets { plan.offsets_len() } else { 0 };
        Ok(Self {
            case,
            plan,
            mask: queue.upload(&[mask(n_more * case.n, 77), rows.mask.clone()].concat())?,
            workspace: queue.alloc(plan.workspace_len() as usize)?,
            indices: queue.alloc(plan.indices_len() as usize)?,
            counts: queue.alloc(plan.shape().n_rows as usize)?,
            offsets: queue.alloc(n_offsets as usize)?,
        })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let mut outputs = CompactOutputs {
            indices: self.indices.view_mut(),
            counts: self.counts.view_mut(),
            offsets: self.case.has_offsets.then(|| self.offsets.view_mut()),
            row_starts: None,
            workspace: self.workspace.view_mut(),
        };
        let inputs = CompactInputs::whole(self.mask.view());
        compact_rows(queue, &self.plan, &inputs, &mut outputs)
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.indices)?;
        poison(queue, &mut self.offsets)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let Compact { n_rows, n, .. } = self.case;
        let mut output = Vec::new();
        for (buffer, n_last) in [(&self.indices, n_rows * (n / 2)), (&self.offsets, n_rows * n)] {
            let first = buffer.len().saturating_sub(n_last);
            let last = queue.download(&buffer.view().slice(first..buffer.len())?)?;
            output.extend_from_slice(bytemuck::cast_slice(&last));
        }
        Ok(output)
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    let (whole, count) = ("select/compact_rows", "select/count_kept");
    let cases = [
        (whole, 3, 4096, false, true),
        (whole, 2, 16_000, true, true),
        (whole, 2, 80_000, false, true),
        (count, 1, 80_000, true, true),
        (whole, 1, 1 << 17, false, false),
        (whole, 64, 1 << 17, false, false),
        (whole, 1, 1 << 20, true, false),
        (count, 1, 1 << 20, false, false),
    ];
    let to_case = |(kernel, n_rows, n, has_offsets, is_small)| {
        Box::new(Compact { kernel, n_rows, n, has_offsets, is_small }) as _
    };
    cases.map(to_case).into()
}
