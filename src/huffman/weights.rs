//! Groups in device memory, and the launch that expands them.
#![allow(unsafe_code)]

use std::marker::PhantomData;

use half::bf16;

use super::{Corruption, DecodePlan, Group, GroupShape};
use crate::bindings::{HuffmanDecodeParams, HuffmanGroup};
use crate::buffer::{Buffer, View, ViewMut};
use crate::launch;
use crate::queue::Queue;
use crate::region::{Regions, Role};
use crate::{Error, Result};

/// Tensors of one upload start at multiples of this many bytes.
const TENSOR_ALIGNMENT: usize = 256;

launch::kernel_params!(HuffmanDecodeParams, "huffman", "decode_bf16");

/// The tensors of one group in device memory, as an engine loaded them from the checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct GroupViews<'a> {
    /// `[n_code_bytes]`: the tensor `encoded_exponent`.
    pub encoded_exponent: View<'a, u8>,
    /// `[n_elements]`.
    pub sign_mantissa: View<'a, u8>,
    /// `[n_lut_rows + 1, 256]`.
    pub luts: View<'a, u8>,
    /// `[320 * n_blocks]`.
    pub gaps: View<'a, u8>,
    /// `[4 * n_positions]`.
    pub output_positions: View<'a, u8>,
}

impl GroupViews<'_> {
    /// What the tensors' lengths say of the group.
    ///
    /// # Errors
    /// [`Error::Shape`] where a length cannot be that of a DF11 tensor, or two do not fit.
    pub fn shape(&self) -> Result<GroupShape> {
        let multiple = |what, len: usize, unit: usize| {
            if len.is_multiple_of(unit) {
                Ok(len / unit)
            } else {
                let expected = len.next_multiple_of(unit) as u64;
                Err(Error::Shape { what, expected, got: len as u64 })
            }
        };
        let n_rows = multiple("luts, in bytes", self.luts.len(), 256)?;
        let n_positions = multiple("output_positions, in bytes", self.output_positions.len(), 4)?;
        let shape = GroupShape {
            n_code_bytes: self.encoded_exponent.len() as u64,
            n_elements: self.sign_mantissa.len() as u64,
            n_lut_rows: u32::try_from(n_rows.saturating_sub(1)).unwrap_or(u32::MAX),
            n_positions: u32::try_from(n_positions).unwrap_or(u32::MAX),
        };
        let n_gap_bytes = shape.n_blocks() * super::GAP_BYTES_PER_BLOCK as u64;
        if self.gaps.len() as u64 != n_gap_bytes {
            return Err(Error::Shape {
                what: "gaps, in bytes",
                expected: n_gap_bytes,
                got: self.gaps.len() as u64,
            });
        }
        Ok(shape)
    }
}

/// DF11 groups in device memory, ready to be decoded by one launch.
///
/// ```text
/// output[range(g)] = bf16 weights of group g, in file order, bit for bit
/// ```
///
/// The groups stay compressed; [`decode`](Self::decode) expands all of them into a buffer of the
/// caller's, as often as asked. After DFloat11 (arXiv:2504.11651).
#[derive(Debug)]
pub struct DeviceWeights<'a> {
    pub(super) plan: DecodePlan,
    pub(super) table: GroupTable,
    /// The uploaded tensors, group by group; empty where the memory is an engine's.
    pub(super) tensors: Vec<GroupTensors>,
    borrowed: PhantomData<&'a [u8]>,
}

/// What was uploaded of a group.
#[derive(Debug)]
pub(super) struct GroupTensors {
    /// Codes, signs and mantissas, and tables: what every decoder reads.
    pub(super) stream: Buffer<u8>,
    /// Gaps and positions, which no decoder needs that has an index.
    pub(super) chain: Buffer<u8>,
}

impl GroupTensors {
    fn n_bytes(&self) -> usize {
        self.stream.len() + self.chain.len()
    }
}

impl DeviceWeights<'static> {
    /// Copies the tensors of `groups` to the memory of `queue`.
    ///
    /// # Stream
    /// Two allocations and five copies per group, and one of each for the table.
    ///
    /// # Errors
    /// Those of [`DecodePlan::new`], and [`Error::Driver`] where memory is short.
    pub fn upload(queue: &Queue, groups: &[Group<'_>]) -> Result<Self> {
        let shapes: Vec<_> = groups.iter().map(Group::shape).collect();
        let plan = DecodePlan::new(&shapes)?;
        let mut tensors = Vec::with_capacity(groups.len());
        let mut rows = Vec::with_capacity(groups.len());
        for (idx, (group, shape)) in groups.iter().zip(&shapes).enumerate() {
            let raw = group.raw();
            let (stream, [codes, sign_mantissa, luts]) =
                upload_tensors(queue, [raw.encoded_exponent, raw.sign_mantissa, raw.luts])?;
            let (chain, [gaps, positions]) =
                upload_tensors(queue, [raw.gaps, raw.output_positions])?;
            let addresses = [codes, sign_mantissa, luts, gaps, positions];
            rows.push(table_row(&plan, idx, shape, addresses));
            tensors.push(GroupTensors { stream, chain });
        }
        let table = GroupTable::new(queue, rows)?;
        Ok(Self { plan, table, tensors, borrowed: PhantomData })
    }
}

impl<'a> DeviceWeights<'a> {
    /// Uses tensors that are in device memory already, without a copy. The kernel trusts nothing
    /// in them: corrupt bytes give a report, never an access outside the views.
    ///
    /// # Stream
    /// One allocation and one copy, for the table.
    ///
    /// # Errors
    /// [`Error::WrongQueue`] for views of other memory than the queue's, those of
    /// [`GroupViews::shape`] and [`DecodePlan::new`].
    pub fn borrow(queue: &Queue, groups: &[GroupViews<'a>]) -> Result<Self> {
        let mut shapes = Vec::with_capacity(groups.len());
        for group in groups {
            let views = [
                ("encoded_exponent", &group.encoded_exponent),
                ("sign_mantissa", &group.sign_mantissa),
                ("luts", &group.luts),
                ("gaps", &group.gaps),
                ("output_positions", &group.output_positions),
            ];
            for (what, view) in views {
                queue.check_view(what, view)?;
            }
            shapes.push(group.shape()?);
        }
        let plan = DecodePlan::new(&shapes)?;
        let rows: Vec<_> = groups
            .iter()
            .zip(&shapes)
            .enumerate()
            .map(|(idx, (group, shape))| {
                let addresses = [
                    group.encoded_exponent.address(),
                    group.sign_mantissa.address(),
                    group.luts.address(),
                    group.gaps.address(),
                    group.output_positions.address(),
                ];
                table_row(&plan, idx, shape, addresses)
            })
            .collect();
        let table = GroupTable::new(queue, rows)?;
        Ok(Self { plan, table, tensors: Vec::new(), borrowed: PhantomData })
    }

    /// The launch: where each group's weights go, and the workspace it needs.
    pub fn plan(&self) -> &DecodePlan {
        &self.plan
    }

    /// Bytes of device memory this value owns.
    pub fn owned_bytes(&self) -> usize {
        self.table.n_bytes() + self.tensors.iter().map(GroupTensors::n_bytes).sum::<usize>()
    }

    /// Expands every group into `output`.
    ///
    /// # Shapes
    /// `output` holds at least [`DecodePlan::output_len`] elements, `workspace` at least
    /// [`DecodePlan::workspace_len`] words, zeroed once when it was allocated and used by one
    /// launch at a time.
    ///
    /// # Numerics
    /// Bit for bit [`reference::decode`](super::reference::decode). A corrupt group's whole range
    /// is quiet NaNs (0x7FC0), whatever the grid or the order of its blocks.
    ///
    /// # Stream
    /// One launch; no allocation, copy or synchronisation; may be captured in a graph once
    /// the device is warmed up. Corruption is seen by [`check`](Self::check), later.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::WrongQueue`] before anything is launched;
    /// [`Error::Driver`] where the launch fails.
    pub fn decode(
        &self,
        queue: &Queue,
        workspace: &mut ViewMut<'_, u64>,
        output: &mut ViewMut<'_, bf16>,
    ) -> Result<()> {
        queue.check_view_mut("workspace", workspace)?;
        queue.check_view_mut("output", output)?;
        check_len("output", self.plan.output_len(), output.len())?;
        check_len("workspace", self.plan.workspace_len(), workspace.len())?;
        // SAFETY: the table holds one row per group whose addresses and sizes come from views that
        // live as long as `self`; the output and the workspace were checked against the plan that
        // the rows were made from.
        unsafe { self.table.decode(queue, &self.plan.grid(), workspace, output) }
    }

    /// Waits for the queue and reports the lowest corrupt block that any launch with this
    /// workspace has met since it was last zeroed.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; else those of the copy of one word.
    pub fn check(&self, queue: &Queue, workspace: &View<'_, u64>) -> Result<()> {
        let status = queue.download(&workspace.slice(0..1)?)?;
        match status.first().copied().and_then(Corruption::from_status) {
            Some(corruption) => Err(Error::Corrupt(corruption)),
            None => Ok(()),
        }
    }
}

/// Groups as [`DeviceWeights::decode`] launches over them.
#[derive(Debug)]
pub(super) struct GroupTable {
    rows: Vec<HuffmanGroup>,
    /// The same in device memory.
    buffer: Buffer<u8>,
}

impl GroupTable {
    pub(super) fn new(queue: &Queue, rows: Vec<HuffmanGroup>) -> Result<Self> {
        let buffer = queue.upload(bytemuck::cast_slice::<HuffmanGroup, u8>(&rows))?;
        Ok(Self { rows, buffer })
    }

    pub(super) fn rows(&self) -> &[HuffmanGroup] {
        &self.rows
    }

    pub(super) fn view(&self) -> View<'_, u8> {
        self.buffer.view()
    }

    pub(super) fn n_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Expands the groups into `output`, by a workspace of one word and one for each group.
    ///
    /// # Safety
    /// The rows' addresses are of memory that lives as long as `self`; output and workspace are of the queue, and
    /// as long as the plan of the rows says, whose grid this is.
    pub(super) unsafe fn decode(
        &self,
        queue: &Queue,
        grid: &launch::Grid,
        workspace: &mut ViewMut<'_, u64>,
        output: &mut ViewMut<'_, bf16>,
    ) -> Result<()> {
        queue.check_view("table", &self.buffer.view())?;
        let params = HuffmanDecodeParams {
            groups: self.buffer.view().address(),
            output: output.address(),
            states: workspace.address() + 8,
            status: workspace.address(),
            n_groups: self.rows.len() as u32,
            reserved: 0,
        };
        // SAFETY: passed on to the caller.
        unsafe {
            launch::launch(queue, grid, &params, |regions| self.list_memory(regions, &params))
        }
    }

    /// Every buffer of a launch, to the byte.
    fn list_memory(&self, regions: &mut Regions, params: &HuffmanDecodeParams) {
        regions.input("groups", &self.buffer.view());
        regions.add(Role::InOut, "status", params.status, 8);
        regions.add(Role::InOut, "states", params.states, 8 * self.rows.len() as u64);
        self.list_tensors(regions);
        for (idx, row) in self.rows.iter().enumerate() {
            let output = params.output + 2 * row.output_offset;
            let name = format!("output of group {idx}");
            regions.add(Role::Output, name, output, 2 * row.n_elements);
        }
    }

    /// What a launch reads of the groups.
    pub(super) fn list_tensors(&self, regions: &mut Regions) {
        for (idx, row) in self.rows.iter().enumerate() {
            for (name, address, n_bytes) in [
                ("codes", row.codes, row.n_code_bytes),
                ("sign_mantissa", row.sign_mantissa, row.n_elements),
                ("luts", row.luts, luts_bytes(row)),
                ("gaps", row.gaps, super::GAP_BYTES_PER_BLOCK as u64 * u64::from(row.n_blocks)),
                ("positions", row.positions, 4 * u64::from(row.n_positions)),
            ] {
                regions.add(Role::Input, format!("{name} of group {idx}"), address, n_bytes);
            }
        }
    }
}

pub(super) fn luts_bytes(row: &HuffmanGroup) -> u64 {
    256 * (u64::from(row.n_lut_rows) + 1)
}

pub(super) fn check_len(what: &'static str, expected: u64, got: usize) -> Result<()> {
    if got as u64 >= expected {
        Ok(())
    } else {
        Err(Error::Shape { what, expected, got: got as u64 })
    }
}

/// Copies tensors into one buffer, each at an aligned place, and says where they are.
pub(super) fn upload_tensors<const N: usize>(
    queue: &Queue,
    tensors: [&[u8]; N],
) -> Result<(Buffer<u8>, [u64; N])> {
    let mut offsets = [0_usize; N];
    let mut n_bytes = 0;
    for (offset, tensor) in offsets.iter_mut().zip(tensors) {
        *offset = n_bytes;
        n_bytes = (n_bytes + tensor.len()).next_multiple_of(TENSOR_ALIGNMENT);
    }
    let mut buffer = queue.alloc::<u8>(n_bytes)?;
    for (offset, tensor) in offsets.iter().zip(tensors) {
        let mut view = buffer.view_mut();
        queue.upload_into(tensor, &mut view.slice_mut(*offset..*offset + tensor.len())?)?;
    }
    let base = buffer.view().address();
    Ok((buffer, offsets.map(|offset| base + offset as u64)))
}

fn table_row(
    plan: &DecodePlan,
    idx: usize,
    shape: &GroupShape,
    [codes, sign_mantissa, luts, gaps, positions]: [u64; 5],
) -> HuffmanGroup {
    HuffmanGroup {
        codes,
        sign_mantissa,
        luts,
        gaps,
        positions,
        n_code_bytes: shape.n_code_bytes,
        n_elements: shape.n_elements,
        output_offset: plan.output_range(idx).map_or(0, |range| range.start),
        first_block: plan.first_block(idx),
        n_blocks: shape.n_blocks() as u32,
        n_lut_rows: shape.n_lut_rows,
        n_positions: shape.n_positions,
    }
}
