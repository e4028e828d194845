//! Indexed groups in device memory, and the launch that expands them.
#![allow(unsafe_code)]

use std::marker::PhantomData;

use half::bf16;

use super::{
    CodeTable, CorruptTile, Index, IndexedPlan, IndexedRowsPlan, IndexedShape, RawIndexed,
};
use crate::bindings::{HuffmanIndexedGroup, HuffmanIndexedParams, HuffmanRowsParams};
use crate::buffer::{Buffer, View, ViewMut};
use crate::huffman::Corruption;
use crate::huffman::weights::{GroupTable, check_len, upload_tensors};
use crate::launch::{self, check_aligned, check_same};
use crate::plan::spread;
use crate::queue::Queue;
use crate::region::{Regions, Role};
use crate::select::Absent;
use crate::{Error, Result};

launch::kernel_params!(HuffmanIndexedParams, "huffman", "decode_indexed");
launch::kernel_params!(HuffmanRowsParams, "huffman", "decode_rows");

/// What lookups are made for, whatever a file's own place was: copies of 16 bytes.
pub(super) const CODES_ALIGNMENT: u64 = 16;

/// One group and its index in device memory.
#[derive(Debug, Clone, Copy)]
pub struct IndexedViews<'a> {
    /// `[n_code_bytes]`, aligned to 16 bytes.
    pub codes: View<'a, u8>,
    /// `[n_elements]`, aligned to 16 bytes.
    pub sign_mantissa: View<'a, u8>,
    /// `[n_granules / 32 + 1]`, `n_granules` being the weights over 128, rounded up: of an [`Index`].
    pub tile_bytes: View<'a, u32>,
    /// `[n_granules + 1]`: of an [`Index`].
    pub granule_bits: View<'a, u16>,
    /// `[16640]`: the bytes of a [`CodeTable`], aligned to 16 bytes.
    pub table: View<'a, u8>,
    /// `[n_lut_rows + 1, 256]`: DF11's tables, where codes may be longer than 12 bits.
    pub luts: Option<View<'a, u8>>,
}

impl IndexedViews<'_> {
    /// What the views' lengths say of the group.
    ///
    /// # Errors
    /// [`Error::Shape`] where two do not fit, [`Error::Range`] where codes, signs and mantissas or the table are not aligned.
    pub fn shape(&self) -> Result<IndexedShape> {
        let n_elements = self.sign_mantissa.len() as u64;
        let check_same = |what, expected: u64, got: usize| match got as u64 == expected {
            true => Ok(()),
            false => Err(Error::Shape { what, expected, got: got as u64 }),
        };
        check_same("tile_bytes", Index::tile_bytes_len(n_elements), self.tile_bytes.len())?;
        check_same("granule_bits", Index::granule_bits_len(n_elements), self.granule_bits.len())?;
        check_same("table", CodeTable::N_BYTES as u64, self.table.len())?;
        let luts_len = self.luts.map_or(256, |luts| luts.len());
        if !luts_len.is_multiple_of(256) || luts_len == 0 {
            let expected = luts_len.next_multiple_of(256).max(512) as u64;
            return Err(Error::Shape { what: "luts", expected, got: luts_len as u64 });
        }
        for (what, address) in [
            ("address of codes", self.codes.address()),
            ("address of sign_mantissa", self.sign_mantissa.address()),
            ("address of a code table", self.table.address()),
        ] {
            check_aligned(what, address, CODES_ALIGNMENT, "multiples of 16")?;
        }
        Ok(IndexedShape {
            n_code_bytes: self.codes.len() as u64,
            n_elements,
            n_lut_rows: u32::try_from(luts_len / 256 - 1).unwrap_or(u32::MAX),
        })
    }

    fn check(&self, queue: &Queue) -> Result<()> {
        queue.check_view("codes", &self.codes)?;
        queue.check_view("sign_mantissa", &self.sign_mantissa)?;
        queue.check_view("tile_bytes", &self.tile_bytes)?;
        queue.check_view("granule_bits", &self.granule_bits)?;
        queue.check_view("table", &self.table)?;
        self.luts.map_or(Ok(()), |luts| queue.check_view("luts", &luts))
    }

    /// Codes, signs and mantissas, tile_bytes, granule_bits, table, luts.
    fn addresses(&self) -> [u64; 6] {
        [
            self.codes.address(),
            self.sign_mantissa.address(),
            self.tile_bytes.address(),
            self.granule_bits.address(),
            self.table.address(),
            self.luts.map_or(0, |luts| luts.address()),
        ]
    }
}

/// Groups with an index of their streams in device memory, ready to be decoded by one launch; and by another those that
/// no index holds.
///
/// ```text
/// output[range(g)] = bf16 weights of group g, in file order, bit for bit
/// ```
///
/// Where [`DeviceWeights`](crate::huffman::DeviceWeights) decodes every code twice, to find out where weights go, this
/// decodes it once, two codes a lookup mostly. DF11 groups come here by [`index`](Self::index), which verifies them.
/// After DFloat11 (arXiv:2504.11651), of which the codes are.
#[derive(Debug)]
pub struct IndexedWeights<'a> {
    pub(super) plan: IndexedPlan,
    /// What the table of groups holds: of those that have an index.
    pub(super) rows: Vec<HuffmanIndexedGroup>,
    pub(super) groups: Buffer<u8>,
    /// The others, where there are any.
    pub(super) plain: Option<GroupTable>,
    /// What this value owns of the groups; empty where the memory is an engine's.
    pub(super) tensors: Vec<Buffer<u8>>,
    pub(super) borrowed: PhantomData<&'a [u8]>,
}

impl IndexedWeights<'static> {
    /// Copies groups and their indices to the memory of `queue`.
    ///
    /// # Stream
    /// One allocation and six copies per group, and one of each for the table of groups.
    ///
    /// # Errors
    /// Those of [`IndexedViews::shape`] and [`IndexedPlan::new`], and [`Error::Driver`] where memory is short.
    pub fn upload(queue: &Queue, groups: &[RawIndexed<'_>]) -> Result<Self> {
        let shapes = groups.iter().map(shape_of).collect::<Result<Vec<_>>>()?;
        let plan = IndexedPlan::new(&shapes)?;
        let mut tensors = Vec::with_capacity(groups.len());
        let mut rows = Vec::with_capacity(groups.len());
        for (idx, (raw, shape)) in groups.iter().zip(&shapes).enumerate() {
            let table = [bytemuck::cast_slice(raw.entries), raw.lengths].concat();
            let (buffer, mut addresses) = upload_tensors(
                queue,
                [
                    raw.codes,
                    raw.sign_mantissa,
                    bytemuck::cast_slice(raw.tile_bytes),
                    bytemuck::cast_slice(raw.granule_bits),
                    &table,
                    raw.luts,
                ],
            )?;
            if raw.luts.is_empty() {
                addresses[5] = 0;
            }
            rows.push(table_row(&plan, idx, shape, addresses));
            tensors.push(buffer);
        }
        let groups = queue.upload(bytemuck::cast_slice::<HuffmanIndexedGroup, u8>(&rows))?;
        Ok(Self { plan, rows, groups, plain: None, tensors, borrowed: PhantomData })
    }
}

impl<'a> IndexedWeights<'a> {
    /// Uses groups that are in device memory already, without a copy. The kernel trusts nothing in them.
    ///
    /// # Stream
    /// One allocation and one copy, for the table of groups.
    ///
    /// # Errors
    /// [`Error::WrongQueue`] and [`Error::WrongStream`] for views of other memory than the queue's, those of
    /// [`IndexedViews::shape`] and [`IndexedPlan::new`].
    pub fn borrow(queue: &Queue, groups: &[IndexedViews<'a>]) -> Result<Self> {
        let mut shapes = Vec::with_capacity(groups.len());
        for group in groups {
            group.check(queue)?;
            shapes.push(group.shape()?);
        }
        let plan = IndexedPlan::new(&shapes)?;
        let rows: Vec<_> = groups
            .iter()
            .zip(&shapes)
            .enumerate()
            .map(|(idx, (group, shape))| table_row(&plan, idx, shape, group.addresses()))
            .collect();
        let groups = queue.upload(bytemuck::cast_slice::<HuffmanIndexedGroup, u8>(&rows))?;
        Ok(Self { plan, rows, groups, plain: None, tensors: Vec::new(), borrowed: PhantomData })
    }

    /// The same with another grid: see [`IndexedPlan::with_block_tiles`].
    ///
    /// # Stream
    /// One allocation and one copy, for the table of groups.
    ///
    /// # Errors
    /// Those of the plan, and [`Error::WrongQueue`].
    pub fn with_block_tiles(mut self, queue: &Queue, block_tiles: u32) -> Result<Self> {
        queue.check_view("groups", &self.groups.view())?;
        self.plan = self.plan.with_block_tiles(block_tiles)?;
        for idx in 0..self.plan.n_groups() {
            if let Some(row) = self.plan.indexed_idx(idx).and_then(|idx| self.rows.get_mut(idx)) {
                [_, row.first_block] = self.plan.firsts(idx);
            }
        }
        self.groups = queue.upload(bytemuck::cast_slice::<HuffmanIndexedGroup, u8>(&self.rows))?;
        Ok(self)
    }

    /// The launches: where each group's weights go, which of them have an index, and the workspace.
    pub fn plan(&self) -> &IndexedPlan {
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
        let row = self.plan.indexed_idx(idx).and_then(|idx| self.rows.get(idx));
        let Some(row) = row else { return Ok(None) };
        queue.check_view("groups", &self.groups.view())?;
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
        let plain = self.plain.as_ref().map_or(0, GroupTable::n_bytes);
        self.groups.len() + plain + self.tensors.iter().map(Buffer::len).sum::<usize>()
    }

    /// Expands every group into `output`.
    ///
    /// # Shapes
    /// `output` holds at least [`IndexedPlan::output_len`] elements; where it is aligned to 16 bytes, stores are so wide. `workspace` holds
    /// at least [`IndexedPlan::workspace_len`] words, zeroed once when it was allocated and used by one launch at a time: [`check`](Self::check) reads it.
    ///
    /// # Numerics
    /// Bit for bit [`reference::decode`](super::reference::decode), which of sound groups is what
    /// [`huffman::reference::decode`](crate::huffman::reference::decode) gives. A corrupt tile of 4,096 weights is quiet NaNs (0x7FC0), whatever the grid;
    /// of a group without an index, all of it.
    ///
    /// # Stream
    /// One launch, and another where there are groups without an index; no allocation, copy or synchronisation; may be captured in a graph once the
    /// device is warmed up.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::WrongQueue`] and [`Error::WrongStream`] before anything is launched; [`Error::Driver`] where the launch fails.
    pub fn decode(
        &self,
        queue: &Queue,
        workspace: &mut ViewMut<'_, u64>,
        output: &mut ViewMut<'_, bf16>,
    ) -> Result<()> {
        queue.check_view("groups", &self.groups.view())?;
        queue.check_view_mut("workspace", workspace)?;
        queue.check_view_mut("output", output)?;
        check_len("output", self.plan.output_len(), output.len())?;
        check_len("workspace", self.plan.workspace_len(), workspace.len())?;
        let params = HuffmanIndexedParams {
            groups: self.groups.view().address(),
            output: output.address(),
            status: workspace.address(),
            n_groups: self.rows.len() as u32,
            block_tiles: self.plan.block_tiles(),
        };
        // SAFETY: the table holds one row per group whose addresses and sizes come from views that
        // live as long as `self`; the output was checked against the plan that the rows were made from.
        unsafe {
            launch::launch(queue, &self.plan.grid(), &params, |regions| {
                self.list_memory(regions, &params);
            })?;
        }
        let Some(plain) = &self.plain else { return Ok(()) };
        let n_words = self.plan.workspace_len() as usize;
        let mut workspace = workspace.slice_mut(1..n_words)?;
        // SAFETY: as above, and the workspace as well.
        unsafe { plain.decode(queue, &self.plan.plain_grid(), &mut workspace, output) }
    }

    /// Decodes rows of a matrix that lies in a group which has an index, an embedding's for instance; nothing else of the group is read.
    ///
    /// ```text
    /// output[i, j] = weight first_element + rows[i] * row_len + j of the group
    /// ```
    ///
    /// # Shapes
    /// `rows` is `[n_rows]`, any numbers: `absent` says what becomes of those that are of no row. `output` is `[n_rows, row_len]` by the plan's
    /// stride; where rows begin at multiples of 8 weights of the group and of 16 bytes of the output, stores are so wide. `workspace` is as in [`decode`](Self::decode).
    ///
    /// # Numerics
    /// Bit for bit [`reference::decode_rows`](super::reference::decode_rows). What is of a corrupt span of 32 granules is quiet NaNs
    /// (0x7FC0), and [`check`](Self::check) says the tile that the span begins in.
    ///
    /// # Stream
    /// One launch; no allocation, copy or synchronisation; may be captured in a graph once the device is warmed up.
    ///
    /// # Errors
    /// [`Error::Range`] where the group has no index; [`Error::Shape`], [`Error::WrongQueue`] and [`Error::WrongStream`]; all of them before anything is
    /// launched; [`Error::Driver`] where the launch fails.
    #[allow(clippy::too_many_arguments, reason = "each is its own thing")]
    pub fn decode_rows(
        &self,
        queue: &Queue,
        plan: &IndexedRowsPlan,
        group: usize,
        rows: &View<'_, u32>,
        absent: Absent,
        workspace: &mut ViewMut<'_, u64>,
        output: &mut ViewMut<'_, bf16>,
    ) -> Result<()> {
        let shape = plan.shape();
        let row = self.plan.indexed_idx(group).and_then(|idx| self.rows.get(idx));
        let row = row.ok_or(Error::Range {
            what: "group of rows",
            value: group as u64,
            allowed: "the groups that have an index",
        })?;
        if row.n_elements != shape.n_elements {
            let (expected, got) = (row.n_elements, shape.n_elements);
            return Err(Error::Shape { what: "weights of the group", expected, got });
        }
        queue.check_view("groups", &self.groups.view())?;
        queue.check_view("rows", rows)?;
        queue.check_view_mut("workspace", workspace)?;
        queue.check_view_mut("output", output)?;
        check_same("rows", shape.n_rows, rows.len())?;
        check_same("output", plan.output_len(), output.len())?;
        check_len("workspace", self.plan.workspace_len(), workspace.len())?;
        let [row_spans, block_spans] = plan.spans();
        let params = HuffmanRowsParams {
            group: *row,
            rows: rows.address(),
            output: output.address(),
            status: workspace.address(),
            first_element: shape.first_element,
            output_stride: shape.output_stride,
            n_rows: shape.n_rows as u32,
            n_matrix_rows: shape.n_matrix_rows as u32,
            row_len: shape.row_len as u32,
            row_spans,
            block_spans,
            fills_zeros: u32::from(absent == Absent::Zeros),
        };
        // SAFETY: the row's addresses and sizes come from views that live as long as `self`, and its matrix
        // ends within it; rows and output were checked against the plan.
        unsafe {
            launch::launch(queue, &plan.grid(), &params, |regions| {
                regions.input("rows", rows);
                regions.add(Role::InOut, "status", params.status, 8);
                list_tensors(regions, group, row);
                // What lies between rows, and rows that are left alone, stay what they were.
                let is_all = absent == Absent::Zeros
                    && plan.output_len() == spread(shape.n_rows, shape.row_len, shape.row_len);
                let role = if is_all { Role::Output } else { Role::InOut };
                regions.written(role, "output", output);
            })
        }
    }

    /// Every buffer of a launch, to the byte.
    fn list_memory(&self, regions: &mut Regions, params: &HuffmanIndexedParams) {
        regions.input("groups", &self.groups.view());
        regions.add(Role::InOut, "status", params.status, 8);
        for (idx, row) in self.rows.iter().enumerate() {
            list_tensors(regions, idx, row);
            let output = params.output + 2 * row.output_offset;
            let name = format!("output of group {idx}");
            regions.add(Role::Output, name, output, 2 * row.n_elements);
        }
    }

    /// Waits for the queue and reports the lowest corrupt tile that any launch with this workspace has met since
    /// it was last zeroed; where there is none, the lowest corrupt block of groups without an index.
    ///
    /// # Errors
    /// [`Error::CorruptTile`], [`Error::Corrupt`]; else those of the copy of two words.
    pub fn check(&self, queue: &Queue, workspace: &View<'_, u64>) -> Result<()> {
        let n_words = 1 + usize::from(self.plain.is_some());
        let words = queue.download(&workspace.slice(0..n_words)?)?;
        if let Some(tile) = words.first().copied().and_then(CorruptTile::from_status) {
            return Err(Error::CorruptTile(tile));
        }
        match words.get(1).copied().and_then(Corruption::from_status) {
            Some(corruption) => Err(Error::Corrupt(corruption)),
            None => Ok(()),
        }
    }
}

/// What launches read of a group.
fn list_tensors(regions: &mut Regions, idx: usize, row: &HuffmanIndexedGroup) {
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

fn shape_of(raw: &RawIndexed<'_>) -> Result<IndexedShape> {
    let n_elements = raw.sign_mantissa.len() as u64;
    let n_lut_rows = (raw.luts.len() / 256).saturating_sub(1);
    for (what, expected, got) in [
        ("tile_bytes", Index::tile_bytes_len(n_elements), raw.tile_bytes.len()),
        ("granule_bits", Index::granule_bits_len(n_elements), raw.granule_bits.len()),
        ("entries of a code table", 4096, raw.entries.len()),
        ("lengths of a code table", 256, raw.lengths.len()),
    ] {
        check_same(what, expected, got)?;
    }
    if !raw.luts.is_empty() {
        check_same("luts", 256 * (n_lut_rows.max(1) as u64 + 1), raw.luts.len())?;
    }
    Ok(IndexedShape {
        n_code_bytes: raw.codes.len() as u64,
        n_elements,
        n_lut_rows: u32::try_from(n_lut_rows).unwrap_or(u32::MAX),
    })
}

pub(super) fn table_row(
    plan: &IndexedPlan,
    idx: usize,
    shape: &IndexedShape,
    [codes, sign_mantissa, tile_bytes, granule_bits, table, luts]: [u64; 6],
) -> HuffmanIndexedGroup {
    let [first_tile, first_block] = plan.firsts(idx);
    HuffmanIndexedGroup {
        codes,
        sign_mantissa,
        tile_bytes,
        granule_bits,
        table,
        luts,
        n_code_bytes: shape.n_code_bytes,
        n_elements: shape.n_elements,
        output_offset: plan.output_range(idx).map_or(0, |range| range.start),
        first_block,
        first_tile,
        n_lut_rows: shape.n_lut_rows,
        reserved: 0,
    }
}
