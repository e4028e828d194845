//! The launch that decodes rows by their numbers.
#![allow(unsafe_code)]

use half::bf16;

use super::tables::{Row, list_indexed};
use super::{DeviceWeights, check_len};
use crate::bindings::HuffmanRowsParams;
use crate::buffer::{View, ViewMut};
use crate::huffman::indexed::IndexedRowsPlan;
use crate::launch::{self, check_same};
use crate::plan::spread;
use crate::queue::Queue;
use crate::region::Role;
use crate::select::Absent;
use crate::{Error, Result};

launch::kernel_params!(HuffmanRowsParams, "huffman", "decode_rows");

impl DeviceWeights<'_> {
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
    /// Bit for bit [`reference::decode_rows`](crate::huffman::indexed::reference::decode_rows). What is of a corrupt span of 32 granules is quiet NaNs
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
        let Some(Row::Indexed(row)) = self.tables.rows().get(group) else {
            let (what, allowed) = ("group of rows", "the groups that have an index");
            return Err(Error::Range { what, value: group as u64, allowed });
        };
        if row.n_elements != shape.n_elements {
            let (expected, got) = (row.n_elements, shape.n_elements);
            return Err(Error::Shape { what: "weights of the group", expected, got });
        }
        self.check_queue(queue)?;
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
                list_indexed(regions, group, row);
                // What lies between rows, and rows that are left alone, stay what they were.
                let is_all = absent == Absent::Zeros
                    && plan.output_len() == spread(shape.n_rows, shape.row_len, shape.row_len);
                let role = if is_all { Role::Output } else { Role::InOut };
                regions.written(role, "output", output);
            })
        }
    }
}
