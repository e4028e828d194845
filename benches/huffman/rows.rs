//! `decode_rows` of an embedding.

use half::bf16;
use lacuna::huffman::DeviceWeights;
use lacuna::huffman::indexed::{CodeTable, Index, IndexedRowsPlan, IndexedRowsShape};
use lacuna::select::Absent;
use lacuna::{Buffer, Queue};

use super::indexed::Owned;
use crate::house::case::{Budget, Case, Problem, Work, poison};

/// Rows of a matrix, from anywhere in it.
#[derive(Clone, Copy)]
struct Rows {
    n_matrix_rows: u64,
    row_len: u64,
    n_rows: u64,
    /// Weights before the matrix.
    first_element: u64,
    is_small: bool,
    budget: Budget,
}

struct Embedding {
    group: Owned,
    plan: IndexedRowsPlan,
    rows: Vec<u32>,
    expected: Vec<u16>,
}

impl Rows {
    fn plan(&self, output_stride: u64) -> IndexedRowsPlan {
        let Self { n_matrix_rows, row_len, n_rows, first_element, .. } = *self;
        let n_elements = first_element + n_matrix_rows * row_len;
        let shape = IndexedRowsShape {
            n_elements,
            first_element,
            n_matrix_rows,
            row_len,
            n_rows,
            output_stride,
        };
        IndexedRowsPlan::new(shape).expect("a shape that is supported")
    }
}

impl Case for Rows {
    fn kernel(&self) -> &'static str {
        "huffman/decode_rows"
    }

    fn shape(&self) -> String {
        let Self { n_matrix_rows, row_len, n_rows, first_element, .. } = self;
        let after = match first_element {
            0 => String::new(),
            n => format!(", after {n} weights"),
        };
        format!("{n_rows} rows of {row_len}, {n_matrix_rows} in the matrix{after}")
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        self.budget
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let plan = self.plan(self.row_len);
        let weights = crate::weights(plan.shape().n_elements as usize);
        let rows: Vec<_> = (0..self.n_rows)
            .map(|i| (i * 0x9E37_79B9 % 0x7FFF_FFFF % self.n_matrix_rows) as u32)
            .collect();
        let row_len = self.row_len as usize;
        let row = |row: &u32| &weights[self.first_element as usize + *row as usize * row_len..];
        let expected = rows.iter().flat_map(|idx| row(idx)[..row_len].to_vec()).collect();
        Box::new(Embedding { group: Owned::new(&weights), plan, rows, expected })
    }
}

impl Embedding {
    /// The bit that a granule begins at.
    fn start(&self, granule: u64) -> u64 {
        let Index { tile_bytes, granule_bits } = &self.group.index;
        8 * u64::from(tile_bytes[granule as usize / 32]) + u64::from(granule_bits[granule as usize])
    }
}

impl Problem for Embedding {
    fn least_bytes(&self) -> u64 {
        let shape = self.plan.shape();
        let bytes_of = |row: &u32| {
            let begin = shape.first_element + u64::from(*row) * shape.row_len;
            let (first, end) = (begin / 128, (begin + shape.row_len).div_ceil(128));
            let code_bytes = self.start(end).div_ceil(8) - self.start(first) / 8;
            code_bytes + 2 * (end - first + 1) + 4 + 4 + 3 * shape.row_len
        };
        CodeTable::N_BYTES as u64 + self.rows.iter().map(bytes_of).sum::<u64>()
    }

    fn expected(&self) -> &[u8] {
        bytemuck::cast_slice(&self.expected)
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(queue, self, self.plan)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let shape = *self.plan.shape();
        let apart = IndexedRowsShape { output_stride: shape.row_len + 3, ..shape };
        let apart = Launch::new(queue, self, IndexedRowsPlan::new(apart)?)?;
        Ok(vec![("rows apart".to_owned(), Box::new(apart))])
    }
}

struct Launch {
    weights: DeviceWeights<'static>,
    plan: IndexedRowsPlan,
    rows: Buffer<u32>,
    workspace: Buffer<u64>,
    output: Buffer<bf16>,
}

impl Launch {
    fn new(queue: &Queue, problem: &Embedding, plan: IndexedRowsPlan) -> lacuna::Result<Self> {
        let weights = DeviceWeights::upload(queue, [problem.group.raw()])?;
        let rows = queue.upload(&problem.rows)?;
        let workspace = queue.alloc(weights.plan().workspace_len() as usize)?;
        let output = queue.alloc(plan.output_len() as usize)?;
        Ok(Self { weights, plan, rows, workspace, output })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let Self { weights, plan, rows, workspace, output } = self;
        let (mut workspace, mut output) = (workspace.view_mut(), output.view_mut());
        let rows = rows.view();
        weights.decode_rows(queue, plan, 0, &rows, Absent::Zeros, &mut workspace, &mut output)
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.output)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        self.weights.check(queue, &self.workspace.view())?;
        let shape = self.plan.shape();
        let output = queue.download(&self.output.view())?;
        let rows = output.chunks(shape.output_stride as usize);
        let rows = rows.flat_map(|row| &row[..shape.row_len as usize]);
        Ok(rows.flat_map(|weight| weight.to_bits().to_ne_bytes()).collect())
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    // Beyond the least: the table, which every block reads for as few as four rows.
    let budget =
        Budget { bytes: 2.11, sectors_per_request: 13.0, conflict_ways: 1.5, barriers: 1.0 };
    let small = Rows {
        n_matrix_rows: 300,
        row_len: 1024,
        n_rows: 64,
        first_element: 0,
        is_small: true,
        budget,
    };
    let bytes = 2.55;
    let shifted =
        Rows { row_len: 1000, first_element: 333, budget: Budget { bytes, ..budget }, ..small };
    let bytes = 1.01;
    let one = Rows { n_rows: 1, budget: Budget { bytes, ..budget }, ..small };
    let embedding = Rows {
        n_matrix_rows: 151_936,
        row_len: 2560,
        n_rows: 1,
        first_element: 0,
        is_small: false,
        budget,
    };
    [
        one,
        small,
        shifted,
        embedding,
        Rows { n_rows: 64, ..embedding },
        Rows { n_rows: 8192, ..embedding },
    ]
    .map(|rows| Box::new(rows) as _)
    .into()
}
