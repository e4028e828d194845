//! The launches that move rows by lists of indices.
#![allow(unsafe_code)]

use super::plan::check_disjoint;
use super::{Absent, KvRowsPlan, RowsPlan};
use crate::Result;
use crate::bindings::{
    LacunaKvView, SelectGatherKvParams, SelectGatherParams, SelectKvRows, SelectMarkParams,
    SelectRows, SelectScatterAddParams, SelectScatterKvParams, SelectScatterParams,
};
use crate::buffer::{View, ViewMut};
use crate::element::{Element, Float};
use crate::kv::{KvLists, KvView, KvViewMut};
use crate::launch::{Arguments, check_same, kernel_params};
use crate::queue::Queue;
use crate::region::Role;
use crate::select::Score;

kernel_params!(SelectGatherParams, "select", "gather_rows");
kernel_params!(SelectMarkParams, "select", "mark_rows");
kernel_params!(SelectScatterParams, "select", "scatter_rows");
kernel_params!(SelectScatterAddParams, "select", "scatter_add_rows");
kernel_params!(SelectGatherKvParams, "select", "gather_kv");
kernel_params!(SelectScatterKvParams, "select", "scatter_kv");

/// Whether a list that is scattered may name a row twice.
#[derive(Debug)]
pub enum Repeats<'a> {
    /// Never, as in what [`topk_rows`](super::super::topk_rows) and
    /// [`compact_rows`](super::super::compact_rows) write: one launch. Where a list does it all the same, the row
    /// holds bytes of any of those that name it.
    Never,
    /// It may, and the last one wins: a launch more, and [`RowsPlan::last_len`] words, zeroed once and left ready
    /// by every launch.
    LastWins(ViewMut<'a, u32>),
}

fn rows_params(
    arguments: &mut Arguments<'_>,
    plan: &RowsPlan,
    indices: &View<'_, i32>,
    unit_bytes: u32,
) -> Result<SelectRows> {
    let shape = plan.shape();
    let element_bytes = u64::from(shape.element_bytes);
    Ok(SelectRows {
        indices: arguments.input("indices", indices, plan.indices_len())?,
        index_stride: shape.index_stride,
        table_list_stride: shape.table.list.wrapping_mul(element_bytes),
        table_stride: shape.table.row.wrapping_mul(element_bytes),
        list_stride: shape.list.list.wrapping_mul(element_bytes),
        row_stride: shape.list.row.wrapping_mul(element_bytes),
        n_lists: shape.n_lists as u32,
        n_indices: shape.n_indices as u32,
        n_table_rows: shape.n_table_rows as u32,
        row_bytes: plan.row_bytes() as u32,
        unit_bytes,
        lane_bits: plan.lane_bits(unit_bytes),
    })
}

fn check_element<T>(plan: &RowsPlan) -> Result<()> {
    check_same("bytes of an element", plan.shape().element_bytes.into(), size_of::<T>())
}

/// Copies rows out of tables.
///
/// ```text
/// gathered[l, i] = table[l, indices[l, i]]
/// ```
///
/// # Shapes
/// `table` is `[n_lists, n_table_rows, row_len]` and `gathered` `[n_lists, n_indices, row_len]`, both with the
/// plan's strides; `indices` is `[n_lists, n_indices]`. A negative index, and one past the table, is of no row:
/// `absent` says what becomes of it. Elements of any type; rows move 16 bytes at a time where addresses, strides and
/// lengths allow it.
///
/// # Numerics
/// No arithmetic: bit for bit [`reference::gather_rows`](super::reference::gather_rows).
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Range`](crate::Error::Range) where rows that are written
/// overlap, [`Error::WrongQueue`](crate::Error::WrongQueue) and
/// [`Error::WrongStream`](crate::Error::WrongStream) before anything is launched;
/// [`Error::Driver`](crate::Error::Driver) where the launch fails.
pub fn gather_rows<T: Element>(
    queue: &Queue,
    plan: &RowsPlan,
    table: &View<'_, T>,
    indices: &View<'_, i32>,
    absent: Absent,
    gathered: &mut ViewMut<'_, T>,
) -> Result<()> {
    check_element::<T>(plan)?;
    let row_stride = plan.shape().list.row;
    check_disjoint("stride between gathered rows", plan.has_disjoint_lists(), row_stride)?;
    // What lies between rows, and rows that are left alone, stay what they were.
    let is_all = absent == Absent::Zeros && plan.has_dense_lists();
    let role = if is_all { Role::Output } else { Role::InOut };
    let unit_bytes = plan.unit_bytes([table.address(), gathered.address()]);
    let mut arguments = Arguments::new(queue);
    let params = SelectGatherParams {
        rows: rows_params(&mut arguments, plan, indices, unit_bytes)?,
        table: arguments.input("table", table, plan.table_len())?,
        gathered: arguments.written(role, "gathered", gathered, plan.list_len())?,
        fills_zeros: u32::from(absent == Absent::Zeros),
        reserved: 0,
    };
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&plan.grid(params.rows.lane_bits), &params) }
}

/// Copies rows into tables.
///
/// ```text
/// table[l, indices[l, i]] = source[l, i]
/// ```
///
/// # Shapes
/// `source` is `[n_lists, n_indices, row_len]` and `table` `[n_lists, n_table_rows, row_len]`, both with the
/// plan's strides; `indices` is `[n_lists, n_indices]`. A row whose index is negative or past the table goes nowhere.
///
/// # Numerics
/// No arithmetic: bit for bit [`reference::scatter_rows`](super::reference::scatter_rows), where a list names a
/// row twice and `repeats` says so too.
///
/// # Stream
/// One launch, two with [`Repeats::LastWins`]; no allocation, copy or synchronisation.
///
/// # Errors
/// Those of [`gather_rows`].
pub fn scatter_rows<T: Element>(
    queue: &Queue,
    plan: &RowsPlan,
    source: &View<'_, T>,
    indices: &View<'_, i32>,
    repeats: &mut Repeats<'_>,
    table: &mut ViewMut<'_, T>,
) -> Result<()> {
    check_element::<T>(plan)?;
    let row_stride = plan.shape().table.row;
    check_disjoint("stride between scattered rows", plan.has_disjoint_tables(), row_stride)?;
    let last = match repeats {
        Repeats::Never => None,
        Repeats::LastWins(last) => Some(&*last),
    };
    let unit_bytes = plan.unit_bytes([source.address(), table.address()]);
    let mut arguments = Arguments::new(queue);
    let params = SelectScatterParams {
        rows: rows_params(&mut arguments, plan, indices, unit_bytes)?,
        source: arguments.input("source", source, plan.list_len())?,
        table: arguments.written(Role::InOut, "table", table, plan.table_len())?,
        last: arguments.optional_written(Role::InOut, "last rows", last, plan.last_len())?,
    };
    let grid = plan.grid(params.rows.lane_bits);
    if let Some(last) = last {
        let mut arguments = Arguments::new(queue);
        let params = SelectMarkParams {
            rows: rows_params(&mut arguments, plan, indices, unit_bytes)?,
            last: arguments.written(Role::InOut, "last rows", last, plan.last_len())?,
        };
        // One thread has a row.
        // SAFETY: as below.
        unsafe { arguments.launch(&plan.grid(0), &params) }?;
    }
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&grid, &params) }
}

/// Adds rows to rows of tables, in the order of the list.
///
/// ```text
/// table[l, indices[l, i]] += weights[l, i] * source[l, i],   i ascending
/// ```
///
/// # Shapes
/// Those of [`scatter_rows`]; `weights`, if there are any, are `[n_lists, n_indices]`. A list may name a row any
/// number of times; rows that it does not name are left alone.
///
/// # Numerics
/// A row's sum begins with what it holds, in f32, takes one fused multiply-add for each row that goes there, and is
/// rounded once, NaN to 0x7FFF or 0x7FFFFFFF: bit for bit
/// [`reference::scatter_add_rows`](super::reference::scatter_add_rows). No atomics: nothing depends on the order of
/// blocks.
///
/// # Stream
/// One launch; no allocation, copy or synchronisation, and no workspace. Every block of 32 rows of a table reads the
/// whole list of indices, [`RowsPlan::add_index_bytes`] together: `n_table_rows / 8` bytes for each row listed, little
/// beside rows of 8 KiB added to 4,096, much where a table has a million short rows.
///
/// # Errors
/// Those of [`gather_rows`].
pub fn scatter_add_rows<T: Score>(
    queue: &Queue,
    plan: &RowsPlan,
    source: &View<'_, T>,
    indices: &View<'_, i32>,
    weights: Option<View<'_, f32>>,
    table: &mut ViewMut<'_, T>,
) -> Result<()> {
    check_element::<T>(plan)?;
    let shape = plan.shape();
    let is_disjoint = plan.has_disjoint_tables();
    check_disjoint("stride between scattered rows", is_disjoint, shape.table.row)?;
    let grid = plan.add_grid()?;
    let unit_bytes = plan.unit_bytes([source.address(), table.address()]);
    let unit_bytes = if unit_bytes == 16 { 16 } else { shape.element_bytes };
    let mut arguments = Arguments::new(queue);
    let params = SelectScatterAddParams {
        rows: rows_params(&mut arguments, plan, indices, unit_bytes)?,
        source: arguments.input("source", source, plan.list_len())?,
        weights: arguments.optional_input("weights", weights.as_ref(), plan.weights_len())?,
        table: arguments.written(Role::InOut, "table", table, plan.table_len())?,
        element: T::NUMBER,
        reserved: 0,
    };
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&grid, &params) }
}

/// Rows of keys and values, `[batch, n_heads, n_indices, row_len]`; values where the cache has them.
#[derive(Debug, Clone, Copy)]
pub struct KvRows<'a, T> {
    /// Of keys.
    pub keys: View<'a, T>,
    /// Of values.
    pub values: Option<View<'a, T>>,
}

/// Rows of keys and values to be written, as [`KvRows`].
#[derive(Debug)]
pub struct KvRowsMut<'a, T> {
    /// Of keys.
    pub keys: ViewMut<'a, T>,
    /// Of values.
    pub values: Option<ViewMut<'a, T>>,
}

fn kv_params(
    arguments: &mut Arguments<'_>,
    plan: &KvRowsPlan,
    kv: LacunaKvView,
    indices: &View<'_, i32>,
    element_bytes: usize,
    addresses: [u64; 2],
) -> Result<SelectKvRows> {
    let element_bytes = element_bytes as u64;
    let all = [kv.keys, kv.values, addresses[0], addresses[1]];
    let unit_bytes = plan.unit_bytes(element_bytes, all);
    check_below_unit(unit_bytes)?;
    let shape = plan.layout().shape();
    let (request_stride, head_stride) = match plan.lists() {
        KvLists::PerHead => (shape.n_heads * plan.n_indices(), plan.n_indices()),
        KvLists::PerRequest => (plan.n_indices(), 0),
    };
    Ok(SelectKvRows {
        kv,
        indices: arguments.input("indices", indices, plan.indices_len())?,
        request_stride,
        head_stride,
        n_indices: plan.n_indices() as u32,
        row_bytes: (shape.row_len * element_bytes) as u32,
        unit_bytes,
        lane_bits: plan.lane_bits(element_bytes, unit_bytes),
    })
}

fn check_below_unit(unit_bytes: u32) -> Result<()> {
    let allowed = "8 and more";
    if unit_bytes >= 8 {
        return Ok(());
    }
    let what = "alignment of keys and values, in bytes";
    Err(crate::Error::Range { what, value: unit_bytes.into(), allowed })
}

/// Copies rows of keys and values out of a paged cache.
///
/// ```text
/// keys[b, h, i] = the cache's key of request b, head h and token indices[b, h, i];   values the same
/// ```
///
/// # Shapes
/// [`KvRowsMut`]; lists are those of [`KvLists`]. A negative index, one past the request's tokens, and one whose page
/// is none, is of no row: `absent` says what becomes of it. Addresses are multiples of 8 bytes.
///
/// # Numerics
/// No arithmetic: bit for bit [`reference::gather_kv`](super::reference::gather_kv).
///
/// # Stream
/// One launch for keys and values; no allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Range`](crate::Error::Range),
/// [`Error::WrongQueue`](crate::Error::WrongQueue) and [`Error::WrongStream`](crate::Error::WrongStream) before
/// anything is launched; [`Error::Driver`](crate::Error::Driver) where the launch fails.
pub fn gather_kv<T: Float>(
    queue: &Queue,
    plan: &KvRowsPlan,
    kv: &KvView<'_, T>,
    indices: &View<'_, i32>,
    absent: Absent,
    gathered: &mut KvRowsMut<'_, T>,
) -> Result<()> {
    check_layout(plan, kv)?;
    let KvRowsMut { keys, values } = gathered;
    check_same("pools of values", kv.values.is_some().into(), values.is_some().into())?;
    let role = if absent == Absent::Zeros { Role::Output } else { Role::InOut };
    let mut arguments = Arguments::new(queue);
    let kv = kv.params(&mut arguments)?;
    let addresses = [keys.address(), values.as_ref().map_or(0, ViewMut::address)];
    let params = SelectGatherKvParams {
        rows: kv_params(&mut arguments, plan, kv, indices, size_of::<T>(), addresses)?,
        keys: arguments.written(role, "gathered keys", keys, plan.rows_len())?,
        values: arguments.optional_written(
            role,
            "gathered values",
            values.as_ref(),
            plan.rows_len(),
        )?,
        fills_zeros: u32::from(absent == Absent::Zeros),
        reserved: 0,
    };
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&plan.grid(params.rows.lane_bits), &params) }
}

/// Copies rows of keys and values into a paged cache.
///
/// ```text
/// the cache's key of request b, head h and token indices[b, h, i] = keys[b, h, i];   values the same
/// ```
///
/// # Shapes
/// [`KvRows`]; lists are those of [`KvLists`]. What is of no row, as in [`gather_kv`], goes nowhere. No two rows may
/// go to one place, by a list that repeats an index or by a page of two requests: it would hold bytes of either.
///
/// # Numerics
/// No arithmetic: bit for bit [`reference::scatter_kv`](super::reference::scatter_kv).
///
/// # Stream
/// One launch for keys and values; no allocation, copy or synchronisation.
///
/// # Errors
/// Those of [`gather_kv`].
pub fn scatter_kv<T: Float>(
    queue: &Queue,
    plan: &KvRowsPlan,
    source: &KvRows<'_, T>,
    indices: &View<'_, i32>,
    kv: &mut KvViewMut<'_, T>,
) -> Result<()> {
    check_layout(plan, &kv.as_view())?;
    let KvRows { keys, values } = source;
    check_same("pools of values", kv.values.is_some().into(), values.is_some().into())?;
    let mut arguments = Arguments::new(queue);
    let kv = kv.params(&mut arguments)?;
    let addresses = [keys.address(), values.as_ref().map_or(0, View::address)];
    let params = SelectScatterKvParams {
        rows: kv_params(&mut arguments, plan, kv, indices, size_of::<T>(), addresses)?,
        keys: arguments.input("scattered keys", keys, plan.rows_len())?,
        values: arguments.optional_input("scattered values", values.as_ref(), plan.rows_len())?,
    };
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&plan.grid(params.rows.lane_bits), &params) }
}

fn check_layout<T>(plan: &KvRowsPlan, kv: &KvView<'_, T>) -> Result<()> {
    check_same(
        "elements of the plan's pool",
        plan.layout().pool_len(),
        kv.layout.pool_len() as usize,
    )?;
    if *plan.layout() == kv.layout {
        return Ok(());
    }
    let allowed = "the layout that the plan was made from";
    Err(crate::Error::Range {
        what: "layout of a cache with so many elements",
        value: kv.layout.pool_len(),
        allowed,
    })
}
