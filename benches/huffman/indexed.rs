//! `decode_indexed` of one group.

use lacuna::Queue;
use lacuna::huffman::indexed::{
    CodeTable, Index, IndexedShape, RawIndexed, TILE_WEIGHTS, reference,
};
use lacuna::huffman::{DecodePlan, DeviceWeights, EncodedGroup};

use super::group::{Launch, OfGroup, shapes};
use crate::house::case::{Budget, Case, Peer, Problem, Work};
use crate::{N_OTHERS, Weights, encode, peers};

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
    /// Where the plan's own does not show what a launch of many such groups does.
    block_tiles: Option<u32>,
}

impl Groups {
    fn of(weights: Vec<u16>, block_tiles: Option<u32>) -> Box<dyn Problem> {
        let [group, other] = [Owned::new(&weights), Owned::new(&crate::weights(N_OTHERS))];
        Box::new(Self { weights, group, other, block_tiles })
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
        DecodePlan::new(&[shape]).unwrap().least_bytes()
    }

    fn expected(&self) -> &[u8] {
        bytemuck::cast_slice(&self.weights)
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(launch(queue, &[self.group.raw()], 0, self.block_tiles)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let [group, other] = [self.group.raw(), self.other.raw()];
        let after = launch(queue, &[other, group], 1, None)?;
        let between = launch(queue, &[other, other, group, other], 2, Some(12))?;
        let many = launch(queue, &[group], 0, Some(40))?;
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

fn launch(
    queue: &Queue,
    groups: &[RawIndexed<'_>],
    idx: usize,
    block_tiles: Option<u32>,
) -> lacuna::Result<Launch> {
    let mut weights = DeviceWeights::upload(queue, groups)?;
    if let Some(block_tiles) = block_tiles {
        weights = weights.with_block_tiles(queue, block_tiles)?;
    }
    Launch::new(queue, weights, idx)
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    // Beyond the least: the table, which every block reads again. Where a launch does not fill a device blocks have few tiles,
    // so that it is busy; of a transformer block of an 8B model they have 52.
    let budget =
        Budget { bytes: 1.05, sectors_per_request: 11.0, conflict_ways: 2.3, barriers: 1.0 };
    let kernel = "huffman/decode_indexed";
    let case = |(weights, shape, budget), block_tiles| -> Box<dyn Case> {
        let problem = move |weights| Groups::of(weights, block_tiles);
        Box::new(OfGroup { kernel, shape, weights, budget, problem })
    };
    let mut cases: Vec<_> = shapes(budget, [1.05, 1.17, 1.32, 1.22, 1.35])
        .into_iter()
        .map(|shape| case(shape, None))
        .collect();
    let weights = Weights::Random(4 * 52 * TILE_WEIGHTS);
    cases.push(case((weights, "832 Ki weights, 52 tiles a block".to_owned(), budget), Some(52)));
    cases
}
