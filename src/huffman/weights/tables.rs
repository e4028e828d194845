//! The tables of groups that launches read, and what their rows say of memory.

use crate::Result;
use crate::bindings::{HuffmanGroup, HuffmanIndexedGroup};
use crate::buffer::{Buffer, View};
use crate::huffman::indexed::{CodeTable, Index, IndexedShape};
use crate::huffman::{DecodePlan, GAP_BYTES_PER_BLOCK, GroupPath, GroupShape};
use crate::queue::Queue;
use crate::region::{Regions, Role};

/// What a launch knows of a group: where its tensors are, how large they are, and where its weights go.
#[derive(Debug, Clone, Copy)]
pub(super) enum Row {
    Indexed(HuffmanIndexedGroup),
    Plain(HuffmanGroup),
}

impl Row {
    /// Codes, signs and mantissas, luts, gaps, positions.
    pub(super) fn plain(
        shape: &GroupShape,
        [codes, sign_mantissa, luts, gaps, positions]: [u64; 5],
    ) -> Self {
        Self::Plain(HuffmanGroup {
            codes,
            sign_mantissa,
            luts,
            gaps,
            positions,
            n_code_bytes: shape.n_code_bytes,
            n_elements: shape.n_elements,
            output_offset: 0,
            first_block: 0,
            n_blocks: shape.n_blocks() as u32,
            n_lut_rows: shape.n_lut_rows,
            n_positions: shape.n_positions,
        })
    }

    /// Codes, signs and mantissas, tile_bytes, granule_bits, table, luts or null.
    pub(super) fn indexed(
        shape: &IndexedShape,
        [codes, sign_mantissa, tile_bytes, granule_bits, table, luts]: [u64; 6],
    ) -> Self {
        Self::Indexed(HuffmanIndexedGroup {
            codes,
            sign_mantissa,
            tile_bytes,
            granule_bits,
            table,
            luts,
            n_code_bytes: shape.n_code_bytes,
            n_elements: shape.n_elements,
            output_offset: 0,
            first_block: 0,
            first_tile: 0,
            n_lut_rows: shape.n_lut_rows,
            reserved: 0,
        })
    }

    pub(super) fn path(&self) -> GroupPath {
        match self {
            Self::Indexed(row) => GroupPath::Indexed(IndexedShape {
                n_code_bytes: row.n_code_bytes,
                n_elements: row.n_elements,
                n_lut_rows: row.n_lut_rows,
            }),
            Self::Plain(row) => GroupPath::Plain(GroupShape {
                n_code_bytes: row.n_code_bytes,
                n_elements: row.n_elements,
                n_lut_rows: row.n_lut_rows,
                n_positions: row.n_positions,
            }),
        }
    }

    /// At its place in the launches of a plan.
    fn placed(&self, plan: &DecodePlan, idx: usize) -> Self {
        let output_offset = plan.output_range(idx).map_or(0, |range| range.start);
        match *self {
            Self::Indexed(row) => {
                let [first_tile, first_block] = plan.firsts(idx);
                Self::Indexed(HuffmanIndexedGroup { output_offset, first_tile, first_block, ..row })
            }
            Self::Plain(row) => {
                let first_block = plan.first_plain_block(idx);
                Self::Plain(HuffmanGroup { output_offset, first_block, ..row })
            }
        }
    }
}

/// A row for each group, and in device memory the tables of both launches.
#[derive(Debug)]
pub(super) struct Tables {
    rows: Vec<Row>,
    /// Rows of groups that have an index, then those of the others.
    buffer: Buffer<u8>,
    n_indexed_bytes: usize,
}

impl Tables {
    /// Of rows that are placed by `plan`, which is theirs.
    pub(super) fn new(queue: &Queue, plan: &DecodePlan, rows: &[Row]) -> Result<Self> {
        let rows: Vec<_> =
            rows.iter().enumerate().map(|(idx, row)| row.placed(plan, idx)).collect();
        let (mut indexed, mut plain) = (Vec::new(), Vec::new());
        for row in &rows {
            match row {
                Row::Indexed(row) => indexed.push(*row),
                Row::Plain(row) => plain.push(*row),
            }
        }
        let indexed: &[u8] = bytemuck::cast_slice(&indexed);
        let buffer = queue.upload(&[indexed, bytemuck::cast_slice(&plain)].concat())?;
        Ok(Self { n_indexed_bytes: indexed.len(), rows, buffer })
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub(super) fn n_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Those that have an index, by their groups.
    pub(super) fn indexed(&self) -> impl Iterator<Item = (usize, &HuffmanIndexedGroup)> {
        self.rows.iter().enumerate().filter_map(|(idx, row)| match row {
            Row::Indexed(row) => Some((idx, row)),
            Row::Plain(_) => None,
        })
    }

    /// The others.
    pub(super) fn plain(&self) -> impl Iterator<Item = (usize, &HuffmanGroup)> {
        self.rows.iter().enumerate().filter_map(|(idx, row)| match row {
            Row::Plain(row) => Some((idx, row)),
            Row::Indexed(_) => None,
        })
    }

    /// The table of the launch over groups that have an index, and that of the launch over the others.
    pub(super) fn views(&self) -> Result<[View<'_, u8>; 2]> {
        let view = self.buffer.view();
        Ok([view.slice(0..self.n_indexed_bytes)?, view.slice(self.n_indexed_bytes..view.len())?])
    }
}

pub(super) fn luts_bytes(row: &HuffmanGroup) -> u64 {
    256 * (u64::from(row.n_lut_rows) + 1)
}

/// What launches read of a group without an index.
pub(super) fn list_plain(regions: &mut Regions, idx: usize, row: &HuffmanGroup) {
    for (name, address, n_bytes) in [
        ("codes", row.codes, row.n_code_bytes),
        ("sign_mantissa", row.sign_mantissa, row.n_elements),
        ("luts", row.luts, luts_bytes(row)),
        ("gaps", row.gaps, GAP_BYTES_PER_BLOCK as u64 * u64::from(row.n_blocks)),
        ("positions", row.positions, 4 * u64::from(row.n_positions)),
    ] {
        regions.add(Role::Input, format!("{name} of group {idx}"), address, n_bytes);
    }
}

/// What launches read of a group with an index.
pub(super) fn list_indexed(regions: &mut Regions, idx: usize, row: &HuffmanIndexedGroup) {
    let luts_bytes = match row.n_lut_rows {
        0 => 0,
        n_rows => 256 * (u64::from(n_rows) + 1),
    };
    for (name, address, n_bytes) in [
        ("codes", row.codes, row.n_code_bytes),
        ("sign_mantissa", row.sign_mantissa, row.n_elements),
        ("tile_bytes", row.tile_bytes, 4 * Index::tile_bytes_len(row.n_elements)),
        ("granule_bits", row.granule_bits, 2 * Index::granule_bits_len(row.n_elements)),
        ("table", row.table, CodeTable::N_BYTES as u64),
        ("luts", row.luts, luts_bytes),
    ] {
        regions.add(Role::Input, format!("{name} of group {idx}"), address, n_bytes);
    }
}

/// Where a group's weights go.
pub(super) fn list_output(
    regions: &mut Regions,
    idx: usize,
    output: u64,
    offset: u64,
    n_elements: u64,
) {
    let name = format!("output of group {idx}");
    regions.add(Role::Output, name, output + 2 * offset, 2 * n_elements);
}
