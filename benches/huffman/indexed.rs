//! `decode_indexed` of one group.

use half::bf16;
use lacuna::huffman::EncodedGroup;
use lacuna::huffman::indexed::{
    CodeTable, Index, IndexedPlan, IndexedShape, IndexedWeights, RawIndexed, reference,
};
use lacuna::{Buffer, Queue};

use crate::house::case::{Budget, Case, Peer, Problem, Work, poison};
use crate::{GOLDEN, N_OTHERS, PUBLISHED_COLUMNS, PUBLISHED_ROWS, Weights, encode, peers};

struct Indexed {
    shape: String,
    weights: Weights,
    /// Where the plan's own does not show what a launch of many such groups does.
    block_tiles: Option<u32>,
    budget: Budget,
}

/// A group with its index.
pub(crate) struct Owned {
    pub(crate) encoded: EncodedGroup,
    pub(crate) index: Index,
    pub(crate) table: CodeTable,
}

impl Owned {
    pub(crate) fn new(weights: &[u16]) -> Self {
        let encoded = encode(weights);
        let group = encoded.as_raw("group").parse().unwrap();
        let index = reference::index(&group).unwrap().expect("trained weights have short codes");
        let table = CodeTable::of(&group);
        Self { index, table, encoded }
    }

    pub(crate) fn raw(&self) -> RawIndexed<'_> {
        let raw = self.encoded.as_raw("group");
        RawIndexed {
            codes: raw.encoded_exponent,
            sign_mantissa: raw.sign_mantissa,
            tile_bytes: &self.index.tile_bytes,
            granule_bits: &self.index.granule_bits,
            entries: self.table.entries(),
            lengths: self.table.lengths(),
            luts: raw.luts,
        }
    }
}

/// A group, its weights, and another for company.
struct Groups {
    weights: Vec<u16>,
    group: Owned,
    other: Owned,
    block_tiles: Option<u32>,
}

impl Case for Indexed {
    fn kernel(&self) -> &'static str {
        "huffman/decode_indexed"
    }

    fn shape(&self) -> String {
        self.shape.clone()
    }

    fn is_small(&self) -> bool {
        self.weights.is_small()
    }

    fn budget(&self) -> Budget {
        self.budget
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let weights = self.weights.make();
        let group = Owned::new(&weights);
        let other = Owned::new(&crate::weights(N_OTHERS));
        Box::new(Groups { weights, group, other, block_tiles: self.block_tiles })
    }
}

impl Problem for Groups {
    fn least_bytes(&self) -> u64 {
        let raw = self.group.raw();
        let shape = IndexedShape {
            n_code_bytes: raw.codes.len() as u64,
            n_elements: raw.sign_mantissa.len() as u64,
            n_lut_rows: 1,
        };
        IndexedPlan::new(&[shape]).unwrap().least_bytes()
    }

    fn expected(&self) -> &[u8] {
        bytemuck::cast_slice(&self.weights)
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(queue, &[self.group.raw()], 0, self.block_tiles)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let [group, other] = [self.group.raw(), self.other.raw()];
        let after = Launch::new(queue, &[other, group], 1, None)?;
        let between = Launch::new(queue, &[other, other, group, other], 2, Some(12))?;
        let many = Launch::new(queue, &[group], 0, Some(40))?;
        Ok(vec![
            ("as the second group of two".to_owned(), Box::new(after)),
            ("as the third group of four, 12 tiles a block".to_owned(), Box::new(between)),
            ("40 tiles a block".to_owned(), Box::new(many)),
        ])
    }

    fn peers(&self) -> Vec<Box<dyn Peer + '_>> {
        vec![
            Box::new(peers::dfloat11::Published(&self.group.encoded)),
            Box::new(peers::nvcomp::Ans(self.expected())),
        ]
    }
}

/// A launch over groups, one of which is looked at.
struct Launch {
    weights: IndexedWeights<'static>,
    workspace: Buffer<u64>,
    output: Buffer<bf16>,
    idx: usize,
}

impl Launch {
    fn new(
        queue: &Queue,
        groups: &[RawIndexed<'_>],
        idx: usize,
        block_tiles: Option<u32>,
    ) -> lacuna::Result<Self> {
        let mut weights = IndexedWeights::upload(queue, groups)?;
        if let Some(block_tiles) = block_tiles {
            weights = weights.with_block_tiles(queue, block_tiles)?;
        }
        let workspace = queue.alloc(weights.plan().workspace_len() as usize)?;
        let output = queue.alloc(weights.plan().output_len() as usize)?;
        Ok(Self { weights, workspace, output, idx })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let Self { weights, workspace, output, .. } = self;
        weights.decode(queue, &mut workspace.view_mut(), &mut output.view_mut())
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.output)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        self.weights.check(queue, &self.workspace.view())?;
        let range = self.weights.plan().output_range(self.idx).expect("a group of the launch");
        let view = self.output.view().slice(range.start as usize..range.end as usize)?;
        Ok(bytemuck::cast_slice(&queue.download(&view)?).to_vec())
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    // Beyond the least: the table, which every block reads again. Where a launch does not fill a device blocks have few tiles,
    // so that it is busy; where it does they have 64.
    let budget =
        Budget { bytes: 1.05, sectors_per_request: 11.0, conflict_ways: 2.3, barriers: 1.0 };
    let small = [(1, "1", 1.05), (N_OTHERS, "30,001", 1.17), (1 << 18, "256 Ki", 1.32)];
    let small = small.map(|(n_weights, name, bytes)| {
        let budget = Budget { bytes, ..budget };
        (Weights::Random(n_weights), format!("{name} weights"), None, budget)
    });
    let golden = GOLDEN.into_iter().zip([1.22, 1.35]).map(|((file, shape), bytes)| {
        (Weights::Golden(file), shape.to_owned(), None, Budget { bytes, ..budget })
    });
    let many =
        (Weights::Random(1 << 20), "1 Mi weights, 64 tiles a block".to_owned(), Some(64), budget);
    let published = PUBLISHED_COLUMNS.map(|n_columns| {
        let weights = Weights::Random(PUBLISHED_ROWS * n_columns);
        (weights, format!("{PUBLISHED_ROWS} x {n_columns}"), None, budget)
    });
    let cases = small.into_iter().chain(golden).chain([many]).chain(published);
    cases
        .map(|(weights, shape, block_tiles, budget)| {
            Box::new(Indexed { shape, weights, block_tiles, budget }) as _
        })
        .collect()
}
