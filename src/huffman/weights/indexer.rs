//! DF11 groups in device memory, verified and indexed there.
#![allow(unsafe_code)]

use std::ops::Range;

use super::tables::{Row, Tables, list_plain, luts_bytes};
use super::views::CODES_ALIGNMENT;
use super::{DeviceWeights, paths};
use crate::bindings::{
    HuffmanGroup, HuffmanIndexParams, HuffmanIndexTarget, HuffmanPackIndexParams,
};
use crate::buffer::View;
use crate::huffman::indexed::{CodeTable, Index, IndexedShape, TILE_GRANULES};
use crate::huffman::plan::{MAX_BLOCKS, check_range};
use crate::huffman::{Corruption, DecodePlan};
use crate::launch::{self, Grid};
use crate::queue::Queue;
use crate::region::{Regions, Role};
use crate::{Error, Result};

launch::kernel_params!(HuffmanIndexParams, "huffman", "index_stream");
launch::kernel_params!(HuffmanPackIndexParams, "huffman", "pack_index");

/// Entries of a block of `pack_index`.
const PACK_THREADS: u64 = 256;
/// Of what is put into one buffer.
const ALIGNMENT: u64 = 16;
/// A verdict on a group that an index holds.
const FIT: u32 = 0;

/// Where one group's part of each buffer is.
struct Place {
    /// In elements.
    starts: u64,
    /// In bytes.
    tile_bytes: u64,
    granule_bits: u64,
    luts: Range<usize>,
    first_block: u64,
    n_entries: u64,
}

/// All groups' places, and how long the buffers are.
struct Layout {
    places: Vec<Place>,
    n_starts: u64,
    n_index_bytes: u64,
    n_blocks: u64,
    /// The status word, a verdict for each group, and every group's luts: what comes back to the host.
    n_report_bytes: usize,
}

impl Layout {
    fn new(rows: &[(usize, HuffmanGroup)]) -> Result<Self> {
        let report_bytes = 8 + 4 * rows.len();
        let mut layout = Self {
            places: Vec::with_capacity(rows.len()),
            n_starts: 0,
            n_index_bytes: 0,
            n_blocks: 0,
            n_report_bytes: report_bytes.next_multiple_of(ALIGNMENT as usize),
        };
        for (_, row) in rows {
            let n_entries = Index::granule_bits_len(row.n_elements);
            let tile_bytes = layout.n_index_bytes;
            let n_tile_bytes = 4 * Index::tile_bytes_len(row.n_elements);
            let granule_bits = (tile_bytes + n_tile_bytes).next_multiple_of(ALIGNMENT);
            let luts = layout.n_report_bytes;
            layout.places.push(Place {
                starts: layout.n_starts,
                tile_bytes,
                granule_bits,
                luts: luts..luts + luts_bytes(row) as usize,
                first_block: layout.n_blocks,
                n_entries,
            });
            layout.n_starts += n_entries;
            layout.n_index_bytes = (granule_bits + 2 * n_entries).next_multiple_of(ALIGNMENT);
            layout.n_report_bytes += luts_bytes(row) as usize;
            layout.n_blocks += n_entries.div_ceil(PACK_THREADS);
            let n_blocks = layout.n_blocks;
            check_range("thread blocks of a launch", n_blocks, 0..MAX_BLOCKS + 1, "0..2^31")?;
        }
        Ok(layout)
    }

    fn targets(&self, starts: u64, index: u64) -> Vec<HuffmanIndexTarget> {
        let target = |place: &Place| HuffmanIndexTarget {
            starts: starts + 4 * place.starts,
            tile_bytes: index + place.tile_bytes,
            granule_bits: index + place.granule_bits,
            n_entries: place.n_entries as u32,
            first_block: place.first_block as u32,
        };
        self.places.iter().map(target).collect()
    }
}

/// Where a launch's memory is.
struct Memory<'b> {
    rows: &'b [(usize, HuffmanGroup)],
    table: View<'b, u8>,
    targets: &'b [HuffmanIndexTarget],
    target_table: View<'b, u8>,
    report: u64,
}

impl Memory<'_> {
    /// `index_stream`, then `pack_index`.
    fn launch(&self, queue: &Queue, stream_grid: &Grid, n_pack_blocks: u64) -> Result<()> {
        let n_groups = self.targets.len() as u32;
        let params = HuffmanIndexParams {
            groups: self.table.address(),
            targets: self.target_table.address(),
            verdicts: self.report + 8,
            status: self.report,
            n_groups,
            reserved: 0,
        };
        // SAFETY: the table's rows are of views that the caller holds, the targets of buffers that it holds too, each
        // as long as its group says; the report holds a status and a verdict for each group.
        unsafe {
            launch::launch(queue, stream_grid, &params, |regions| {
                regions.input("groups", &self.table);
                regions.add(Role::InOut, "status", params.status, 8);
                for (idx, row) in self.rows {
                    list_plain(regions, *idx, row);
                }
                self.list(regions, Role::InOut);
            })?;
        }
        let params = HuffmanPackIndexParams {
            targets: self.target_table.address(),
            verdicts: self.report + 8,
            n_groups,
            reserved: 0,
        };
        let grid = Grid {
            blocks: [n_pack_blocks as u32, 1, 1],
            threads: [PACK_THREADS as u32, 1, 1],
            dynamic_shared_bytes: 0,
            cluster_blocks: 1,
        };
        // SAFETY: as above.
        unsafe { launch::launch(queue, &grid, &params, |regions| self.list(regions, Role::Input)) }
    }

    /// The targets' memory, to the byte; what `index_stream` writes has `role`.
    fn list(&self, regions: &mut Regions, role: Role) {
        regions.input("targets", &self.target_table);
        let n_groups = self.targets.len() as u64;
        regions.add(Role::InOut, "verdicts", self.report + 8, 4 * n_groups);
        for ((idx, _), target) in self.rows.iter().zip(self.targets) {
            let n_entries = u64::from(target.n_entries);
            let n_tiles = (n_entries - 1) / TILE_GRANULES as u64 + 1;
            let n_bits_bytes = if role == Role::Input { 2 * n_entries } else { 0 };
            for (role, name, address, n_bytes) in [
                (role, "starts", target.starts, 4 * n_entries),
                (role, "tile_bytes", target.tile_bytes, 4 * n_tiles),
                (Role::Output, "granule_bits", target.granule_bits, n_bits_bytes),
            ] {
                regions.add(role, format!("{name} of group {idx}"), address, n_bytes);
            }
        }
    }
}

impl DeviceWeights<'_> {
    /// Verifies the groups that have no index, and indexes them, so that they are decoded by their index from now on. What was
    /// uploaded of a group and no longer serves, gaps and positions, is freed: 0.21 bits a weight, where an index has 0.13.
    ///
    /// A group is decoded as before where an index does not hold it (a tile of 4,096 weights with more
    /// than 65,535 bits of codes, or a last code that ends past the stream), or where its codes, signs and mantissas are an engine's, and not aligned to 16
    /// bytes: [`DecodePlan::is_indexed`]. Where each group's weights go stays the same; the workspace may need fewer words, and its statuses count what is
    /// indexed by tiles.
    ///
    /// Nothing is trusted later that was verified here: memory of an engine's may change, and
    /// [`decode`](Self::decode) reports what does not fit.
    ///
    /// # Numerics
    /// Bit for bit [`indexed::reference::index`](crate::huffman::indexed::reference::index), and [`CodeTable::of`].
    ///
    /// # Stream
    /// Two launches over all groups without an index, and where there are none nothing; seven allocations, three more copies to the device and one for each
    /// group on it, and one back, for which it waits. It belongs where weights are loaded, and into no capture.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for the lowest corrupt block; [`Error::WrongQueue`]; [`Error::Driver`] where memory is
    /// short. The weights are then what they were before.
    pub fn index(&mut self, queue: &Queue) -> Result<()> {
        self.check_queue(queue)?;
        let plain: Vec<_> = self.tables.plain().map(|(idx, row)| (idx, *row)).collect();
        if plain.is_empty() {
            return Ok(());
        }
        let layout = Layout::new(&plain)?;
        let index = queue.alloc::<u8>(layout.n_index_bytes as usize)?;
        let report = self.verify(queue, &plain, &layout, &index.view())?;
        let (words, _) = report.as_chunks::<4>();
        let words: Vec<_> = words.iter().copied().map(u32::from_ne_bytes).collect();
        let status = u64::from(words[0]) | u64::from(words[1]) << 32;
        if let Some(corruption) = Corruption::from_status(status) {
            return Err(Error::Corrupt(corruption));
        }
        let verdicts = plain.iter().zip(&layout.places).zip(&words[2..]);
        let fit: Vec<_> = verdicts
            .filter(|(((_, row), _), verdict)| **verdict == FIT && is_aligned(row))
            .map(|(group, _)| group)
            .collect();
        if fit.is_empty() {
            return Ok(());
        }
        let tables = fit.iter().map(|(_, place)| CodeTable::of_luts(&report[place.luts.clone()]));
        let tables: Vec<u8> = tables.flat_map(|table| table.to_bytes()).collect();
        let tables = queue.upload(&tables)?;
        let mut rows = self.tables.rows().to_vec();
        for (nth, ((idx, row), place)) in fit.iter().enumerate() {
            let shape = IndexedShape {
                n_code_bytes: row.n_code_bytes,
                n_elements: row.n_elements,
                n_lut_rows: row.n_lut_rows,
            };
            let [tile_bytes, granule_bits] = [place.tile_bytes, place.granule_bits]
                .map(|offset| index.view().address() + offset);
            let table = tables.view().address() + (nth * CodeTable::N_BYTES) as u64;
            let addresses =
                [row.codes, row.sign_mantissa, tile_bytes, granule_bits, table, row.luts];
            rows[*idx] = Row::indexed(&shape, addresses);
        }
        let plan = DecodePlan::new(&paths(&rows))?;
        let own = Tables::new(queue, &plan, &rows)?;
        // Nothing fails from here on.
        (self.plan, self.tables) = (plan, own);
        self.memory.extend([index, tables]);
        for (idx, chain) in self.chains.iter_mut().enumerate() {
            if self.plan.is_indexed(idx) {
                *chain = None;
            }
        }
        Ok(())
    }

    /// Indexes groups into `index`, and copies back what was found: a status, a verdict for each, and their luts.
    fn verify(
        &self,
        queue: &Queue,
        plain: &[(usize, HuffmanGroup)],
        layout: &Layout,
        index: &View<'_, u8>,
    ) -> Result<Vec<u8>> {
        let starts = queue.alloc::<u32>(layout.n_starts as usize)?;
        let targets = layout.targets(starts.view().address(), index.address());
        let target_table =
            queue.upload(bytemuck::cast_slice::<HuffmanIndexTarget, u8>(&targets))?;
        let mut report = queue.alloc::<u8>(layout.n_report_bytes)?;
        let [_, table] = self.tables.views()?;
        let memory = Memory {
            rows: plain,
            table,
            targets: &targets,
            target_table: target_table.view(),
            report: report.view().address(),
        };
        memory.launch(queue, &self.plan.plain_grid(), layout.n_blocks)?;
        for ((_, row), place) in plain.iter().zip(&layout.places) {
            // SAFETY: the rows' luts live as long as the weights do, and have so many bytes.
            let luts = unsafe { View::<u8>::from_raw(row.luts, place.luts.len(), queue.memory()) };
            queue.copy(&luts, &mut report.view_mut().slice_mut(place.luts.clone())?)?;
        }
        queue.download(&report.view())
    }
}

/// Whether kernels can read codes, signs and mantissas 16 bytes at a time.
fn is_aligned(row: &HuffmanGroup) -> bool {
    [row.codes, row.sign_mantissa].iter().all(|at| at.is_multiple_of(CODES_ALIGNMENT))
}
