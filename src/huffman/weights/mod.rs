//! Groups in device memory, and the launches that expand them.
#![allow(unsafe_code)]

mod indexer;
mod rows;
mod source;
mod tables;
mod views;

use std::marker::PhantomData;

use half::bf16;

pub use self::source::WeightSource;
use self::tables::{Row, Tables, list_indexed, list_output, list_plain};
pub use self::views::{GroupViews, IndexedViews, WeightViews};
use super::indexed::{CorruptTile, Index};
use super::{Corruption, DecodePlan};
use crate::bindings::{HuffmanDecodeParams, HuffmanIndexedParams};
use crate::buffer::{Buffer, View, ViewMut};
use crate::launch;
use crate::queue::Queue;
use crate::region::Role;
use crate::{Error, Result};

launch::kernel_params!(HuffmanDecodeParams, "huffman", "decode_bf16");
launch::kernel_params!(HuffmanIndexedParams, "huffman", "decode_indexed");

/// Groups in device memory, ready to be decoded by one launch: by an index of their streams, or without one, as DF11 files have
/// them; by two where there are both.
///
/// ```text
/// output[range(g)] = bf16 weights of group g, in file order, bit for bit
/// ```
///
/// The groups stay compressed; [`decode`](Self::decode) expands all of them into a buffer of the
/// caller's, as often as asked. Without an index every code is decoded twice, to find out where weights go; with one once, two codes a
/// lookup mostly. [Compact groups](super::compact) have an index in their file; [`index`](Self::index) makes that of DF11. What is not expanded at once, the
/// layers of a model for instance, is better several values, each with the groups that are expanded together.
/// After DFloat11 (arXiv:2504.11651).
#[derive(Debug)]
pub struct DeviceWeights<'a> {
    plan: DecodePlan,
    tables: Tables,
    /// What this value owns of the groups; empty where the memory is an engine's.
    memory: Vec<Buffer<u8>>,
    /// By groups: gaps and positions, where this value owns them and they serve.
    chains: Vec<Option<Buffer<u8>>>,
    borrowed: PhantomData<&'a [u8]>,
}

impl DeviceWeights<'static> {
    /// Copies groups to the memory of `queue`: [`Group`](super::Group)s, [`Compact`](super::compact::Compact) groups,
    /// [`RawIndexed`](super::indexed::RawIndexed), or [`WeightSource`]s of any of them.
    ///
    /// # Stream
    /// An allocation and six copies for each group that has an index, two allocations and five copies for each other; and one of each for the
    /// tables of groups.
    ///
    /// # Errors
    /// [`Error::Shape`] where lengths do not fit each other, those of [`DecodePlan::new`], and [`Error::Driver`] where memory is short.
    pub fn upload<'g, S>(queue: &Queue, groups: impl IntoIterator<Item = S>) -> Result<Self>
    where
        S: Into<WeightSource<'g>>,
    {
        let groups: Vec<WeightSource<'_>> = groups.into_iter().map(Into::into).collect();
        let paths = groups.iter().map(WeightSource::path).collect::<Result<Vec<_>>>()?;
        let plan = DecodePlan::new(&paths)?;
        let (mut rows, mut memory, mut chains) = (Vec::new(), Vec::new(), Vec::new());
        for group in &groups {
            let uploaded = group.upload(queue)?;
            rows.push(uploaded.row);
            memory.push(uploaded.stream);
            chains.push(uploaded.chain);
        }
        let tables = Tables::new(queue, &plan, &rows)?;
        Ok(Self { plan, tables, memory, chains, borrowed: PhantomData })
    }
}

impl<'a> DeviceWeights<'a> {
    /// Uses groups that are in device memory already, without a copy: [`GroupViews`], [`IndexedViews`], or [`WeightViews`] of either.
    /// Kernels trust nothing in them: corrupt bytes give a report, never an access outside the views.
    ///
    /// # Stream
    /// One allocation and one copy, for the tables of groups.
    ///
    /// # Errors
    /// [`Error::WrongQueue`] and [`Error::WrongStream`] for views of other memory than the queue's, those of [`GroupViews::shape`],
    /// [`IndexedViews::shape`] and [`DecodePlan::new`].
    pub fn borrow<V>(queue: &Queue, groups: impl IntoIterator<Item = V>) -> Result<Self>
    where
        V: Into<WeightViews<'a>>,
    {
        let rows = groups.into_iter().map(|group| group.into().row(queue));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        let plan = DecodePlan::new(&paths(&rows))?;
        let tables = Tables::new(queue, &plan, &rows)?;
        let (memory, chains) = (Vec::new(), Vec::new());
        Ok(Self { plan, tables, memory, chains, borrowed: PhantomData })
    }

    /// The same with another grid: see [`DecodePlan::with_block_tiles`].
    ///
    /// # Stream
    /// One allocation and one copy, for the tables of groups.
    ///
    /// # Errors
    /// Those of the plan, [`Error::WrongQueue`] and [`Error::Driver`].
    pub fn with_block_tiles(mut self, queue: &Queue, block_tiles: u32) -> Result<Self> {
        self.check_queue(queue)?;
        self.plan = self.plan.with_block_tiles(block_tiles)?;
        self.tables = Tables::new(queue, &self.plan, self.tables.rows())?;
        Ok(self)
    }

    /// The launches: where each group's weights go, which of them have an index, and the workspace.
    pub fn plan(&self) -> &DecodePlan {
        &self.plan
    }

    /// The index of group `idx`, copied back, so that it need not be made again; `None` where the group has none.
    ///
    /// # Stream
    /// Two copies, for which it waits.
    ///
    /// # Errors
    /// Those of the copies.
    pub fn download_index(&self, queue: &Queue, idx: usize) -> Result<Option<Index>> {
        let Some(Row::Indexed(row)) = self.tables.rows().get(idx) else { return Ok(None) };
        self.check_queue(queue)?;
        let n_elements = row.n_elements;
        let [n_tiles, n_entries] =
            [Index::tile_bytes_len(n_elements), Index::granule_bits_len(n_elements)];
        // SAFETY: of views that live as long as `self`, and so long.
        let (tile_bytes, granule_bits) = unsafe {
            let memory = queue.memory();
            let tile_bytes = View::<u32>::from_raw(row.tile_bytes, n_tiles as usize, memory);
            let granule_bits = View::<u16>::from_raw(row.granule_bits, n_entries as usize, memory);
            (queue.download(&tile_bytes)?, queue.download(&granule_bits)?)
        };
        Ok(Some(Index { tile_bytes, granule_bits }))
    }

    /// Bytes of device memory this value owns.
    pub fn owned_bytes(&self) -> usize {
        let owned = self.memory.iter().chain(self.chains.iter().flatten());
        self.tables.n_bytes() + owned.map(Buffer::len).sum::<usize>()
    }

    /// Expands every group into `output`.
    ///
    /// # Shapes
    /// `output` holds at least [`DecodePlan::output_len`] elements; where it is aligned to 16 bytes, stores are so wide. `workspace` holds at least
    /// [`DecodePlan::workspace_len`] words, zeroed once when it was allocated and used by one launch at a time: [`check`](Self::check) reads it.
    ///
    /// # Numerics
    /// Bit for bit [`reference::decode`](super::reference::decode) of groups without an index: a corrupt group's whole range is quiet NaNs (0x7FC0). With
    /// one [`indexed::reference::decode`](super::indexed::reference::decode), which of sound groups is the same: a corrupt tile of 4,096 weights is
    /// quiet NaNs. Neither depends on the grid or the order of its blocks.
    ///
    /// # Stream
    /// One launch, and another where some groups have an index and others none; no allocation, copy or synchronisation; may be captured in a graph once
    /// the device is warmed up. Corruption is seen by [`check`](Self::check), later.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::WrongQueue`] and [`Error::WrongStream`] before anything is launched;
    /// [`Error::Driver`] where the launch fails.
    pub fn decode(
        &self,
        queue: &Queue,
        workspace: &mut ViewMut<'_, u64>,
        output: &mut ViewMut<'_, bf16>,
    ) -> Result<()> {
        self.check_queue(queue)?;
        queue.check_view_mut("workspace", workspace)?;
        queue.check_view_mut("output", output)?;
        check_len("output", self.plan.output_len(), output.len())?;
        check_len("workspace", self.plan.workspace_len(), workspace.len())?;
        let [indexed, plain] = self.tables.views()?;
        let params = HuffmanIndexedParams {
            groups: indexed.address(),
            output: output.address(),
            status: workspace.address(),
            n_groups: self.tables.indexed().count() as u32,
            block_tiles: self.plan.block_tiles(),
        };
        // SAFETY: the table holds one row per group whose addresses and sizes come from views that
        // live as long as `self`; the output and the workspace were checked against the plan that
        // the rows were made from.
        unsafe {
            launch::launch(queue, &self.plan.grid(), &params, |regions| {
                regions.input("groups", &indexed);
                regions.add(Role::InOut, "status", params.status, 8);
                for (idx, row) in self.tables.indexed() {
                    list_indexed(regions, idx, row);
                    list_output(regions, idx, params.output, row.output_offset, row.n_elements);
                }
            })?;
        }
        let params = HuffmanDecodeParams {
            groups: plain.address(),
            output: output.address(),
            states: workspace.address() + 16,
            status: workspace.address() + 8,
            n_groups: self.plan.n_plain_groups() as u32,
            reserved: 0,
        };
        // SAFETY: as above.
        unsafe {
            launch::launch(queue, &self.plan.plain_grid(), &params, |regions| {
                regions.input("groups", &plain);
                regions.add(Role::InOut, "status", params.status, 8);
                regions.add(Role::InOut, "states", params.states, 8 * u64::from(params.n_groups));
                for (idx, row) in self.tables.plain() {
                    list_plain(regions, idx, row);
                    list_output(regions, idx, params.output, row.output_offset, row.n_elements);
                }
            })
        }
    }

    /// Waits for the queue and reports the lowest corrupt tile that any launch with this workspace has met since
    /// it was last zeroed; where there is none, the lowest corrupt block of groups without an index.
    ///
    /// # Errors
    /// [`Error::CorruptTile`], [`Error::Corrupt`]; else those of the copy of two words.
    pub fn check(&self, queue: &Queue, workspace: &View<'_, u64>) -> Result<()> {
        let words = queue.download(&workspace.slice(0..2)?)?;
        words.first_chunk().map_or(Ok(()), |words| Self::check_status(*words))
    }

    /// What [`check`](Self::check) says of a workspace's first two words, for who has them on the host: that of tiles, that of blocks. 0 is sound.
    ///
    /// # Errors
    /// [`Error::CorruptTile`], [`Error::Corrupt`]: [`DecodePlan::locate_tile`] and [`DecodePlan::locate_block`] say of which group.
    pub fn check_status([tile, block]: [u64; 2]) -> Result<()> {
        if let Some(tile) = CorruptTile::from_status(tile) {
            return Err(Error::CorruptTile(tile));
        }
        Corruption::from_status(block).map_or(Ok(()), |found| Err(Error::Corrupt(found)))
    }

    /// The tables are of the queue's memory, and so is all that they name.
    fn check_queue(&self, queue: &Queue) -> Result<()> {
        let [indexed, _] = self.tables.views()?;
        queue.check_view("groups", &indexed)
    }
}

fn paths(rows: &[Row]) -> Vec<super::GroupPath> {
    rows.iter().map(Row::path).collect()
}

fn check_len(what: &'static str, expected: u64, got: usize) -> Result<()> {
    if got as u64 >= expected {
        Ok(())
    } else {
        Err(Error::Shape { what, expected, got: got as u64 })
    }
}
