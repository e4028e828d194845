//! DF11 groups in device memory, verified and indexed there.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use super::launch::{CODES_ALIGNMENT, table_row};
use super::{CodeTable, GroupPath, Index, IndexedPlan, IndexedShape, IndexedWeights};
use crate::bindings::{
    HuffmanGroup, HuffmanIndexParams, HuffmanIndexTarget, HuffmanIndexedGroup,
    HuffmanPackIndexParams,
};
use crate::buffer::{Buffer, View};
use crate::huffman::plan::{MAX_BLOCKS, check_range};
use crate::huffman::weights::{GroupTable, GroupTensors, luts_bytes};
use crate::huffman::{Corruption, DeviceWeights, GroupShape};
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
    fn new(rows: &[HuffmanGroup]) -> Result<Self> {
        let report_bytes = 8 + 4 * rows.len();
        let mut layout = Self {
            places: Vec::with_capacity(rows.len()),
            n_starts: 0,
            n_index_bytes: 0,
            n_blocks: 0,
            n_report_bytes: report_bytes.next_multiple_of(ALIGNMENT as usize),
        };
        for row in rows {
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
    table: &'b GroupTable,
    targets: &'b [HuffmanIndexTarget],
    target_table: View<'b, u8>,
    report: u64,
}

impl Memory<'_> {
    /// `index_stream`, then `pack_index`.
    fn launch(&self, queue: &Queue, stream_grid: &Grid, n_pack_blocks: u64) -> Result<()> {
        let n_groups = self.targets.len() as u32;
        let params = HuffmanIndexParams {
            groups: self.table.view().address(),
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
                regions.input("groups", &self.table.view());
                regions.add(Role::InOut, "status", params.status, 8);
                self.table.list_tensors(regions);
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
        for (idx, target) in self.targets.iter().enumerate() {
            let n_entries = u64::from(target.n_entries);
            let n_tiles = (n_entries - 1) / super::TILE_GRANULES as u64 + 1;
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

impl<'a> IndexedWeights<'a> {
    /// Verifies groups in device memory, and indexes them, so that they are decoded by their index from now on. What was
    /// uploaded of a group and no longer serves, gaps and positions, is freed: 0.21 bits a weight, where an index has 0.13.
    ///
    /// A group keeps to [`DeviceWeights::decode`]'s way where an index does not hold it (a tile of 4,096 weights with more
    /// than 65,535 bits of codes, or a last code that ends past the stream), or where its codes, signs and mantissas are an engine's, and not aligned to 16
    /// bytes: [`IndexedPlan::is_indexed`]. It takes the groups by value because afterwards they are not what they were.
    ///
    /// Nothing is trusted later that was verified here: memory of an engine's may change, and
    /// [`decode`](Self::decode) reports what does not fit.
    ///
    /// # Numerics
    /// Bit for bit [`reference::index`](super::reference::index), and [`CodeTable::of`].
    ///
    /// # Stream
    /// Two launches over all groups; seven allocations, three more copies to the device and one for each group on it, and one back, for which it waits. It
    /// belongs where weights are loaded, and into no capture.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for the lowest corrupt block by [`DeviceWeights::plan`]; [`Error::WrongQueue`]; [`Error::Driver`] where memory is
    /// short.
    pub fn index(queue: &Queue, weights: DeviceWeights<'a>) -> Result<Self> {
        let DeviceWeights { plan: decode_plan, table, tensors, .. } = weights;
        let layout = Layout::new(table.rows())?;
        let index = queue.alloc::<u8>(layout.n_index_bytes as usize)?;
        let report = {
            let starts = queue.alloc::<u32>(layout.n_starts as usize)?;
            let targets = layout.targets(starts.view().address(), index.view().address());
            let target_table =
                queue.upload(bytemuck::cast_slice::<HuffmanIndexTarget, u8>(&targets))?;
            let mut report = queue.alloc::<u8>(layout.n_report_bytes)?;
            queue.check_view("table", &table.view())?;
            let memory = Memory {
                table: &table,
                targets: &targets,
                target_table: target_table.view(),
                report: report.view().address(),
            };
            memory.launch(queue, &decode_plan.grid(), layout.n_blocks)?;
            for (row, place) in table.rows().iter().zip(&layout.places) {
                // SAFETY: the rows' luts live as long as the weights do, and have so many bytes.
                let luts =
                    unsafe { View::<u8>::from_raw(row.luts, place.luts.len(), queue.memory()) };
                queue.copy(&luts, &mut report.view_mut().slice_mut(place.luts.clone())?)?;
            }
            queue.download(&report.view())?
        };
        let (words, _) = report.as_chunks::<4>();
        let words: Vec<_> = words.iter().copied().map(u32::from_ne_bytes).collect();
        let status = u64::from(words[0]) | u64::from(words[1]) << 32;
        if let Some(corruption) = Corruption::from_status(status) {
            return Err(Error::Corrupt(corruption));
        }
        let paths: Vec<_> = table
            .rows()
            .iter()
            .zip(&words[2..])
            .map(|(row, verdict)| path(row, *verdict))
            .collect();
        let luts = layout.places.iter().map(|place| &report[place.luts.clone()]);
        Self::of_paths(queue, &paths, table.rows(), tensors, luts, &layout, index)
    }

    /// Groups by the paths that were found for them, with their luts on the host and their entries in `index`.
    fn of_paths<'l>(
        queue: &Queue,
        paths: &[GroupPath],
        groups: &[HuffmanGroup],
        tensors: Vec<GroupTensors>,
        luts: impl Iterator<Item = &'l [u8]>,
        layout: &Layout,
        index: Buffer<u8>,
    ) -> Result<Self> {
        let plan = IndexedPlan::new(paths)?;
        let is_indexed = |idx: &usize| plan.is_indexed(*idx);
        let luts = luts.enumerate().filter(|(idx, _)| is_indexed(idx));
        let tables: Vec<u8> =
            luts.flat_map(|(_, luts)| CodeTable::of_luts(luts).to_bytes()).collect();
        let tables = queue.upload(&tables)?;
        let mut next_table = tables.view().address();
        let (mut rows, mut plain) = (Vec::new(), Vec::new());
        for (idx, (path, group)) in paths.iter().zip(groups).enumerate() {
            match path {
                GroupPath::Indexed(shape) => {
                    let at = |offset| index.view().address() + offset;
                    let place = &layout.places[idx];
                    let [tile_bytes, granule_bits] = [place.tile_bytes, place.granule_bits].map(at);
                    let HuffmanGroup { codes, sign_mantissa, luts, .. } = *group;
                    let addresses =
                        [codes, sign_mantissa, tile_bytes, granule_bits, next_table, luts];
                    rows.push(table_row(&plan, idx, shape, addresses));
                    next_table += CodeTable::N_BYTES as u64;
                }
                GroupPath::Plain(_) => plain.push(HuffmanGroup {
                    output_offset: plan.output_range(idx).map_or(0, |range| range.start),
                    first_block: plan.first_plain_block(idx),
                    ..*group
                }),
            }
        }
        let mut kept = vec![index, tables];
        for (idx, GroupTensors { stream, chain }) in tensors.into_iter().enumerate() {
            kept.push(stream);
            if !plan.is_indexed(idx) {
                kept.push(chain);
            }
        }
        let groups = queue.upload(bytemuck::cast_slice::<HuffmanIndexedGroup, u8>(&rows))?;
        let plain = match plain.is_empty() {
            true => None,
            false => Some(GroupTable::new(queue, plain)?),
        };
        Ok(Self { plan, rows, groups, plain, tensors: kept, borrowed: PhantomData })
    }
}

fn path(row: &HuffmanGroup, verdict: u32) -> GroupPath {
    let is_aligned =
        [row.codes, row.sign_mantissa].iter().all(|at| at.is_multiple_of(CODES_ALIGNMENT));
    if verdict == FIT && is_aligned {
        GroupPath::Indexed(IndexedShape {
            n_code_bytes: row.n_code_bytes,
            n_elements: row.n_elements,
            n_lut_rows: row.n_lut_rows,
        })
    } else {
        GroupPath::Plain(GroupShape {
            n_code_bytes: row.n_code_bytes,
            n_elements: row.n_elements,
            n_lut_rows: row.n_lut_rows,
            n_positions: row.n_positions,
        })
    }
}
