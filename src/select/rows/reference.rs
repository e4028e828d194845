//! What gathers and scatters of rows must do, written for reading.

use super::{Absent, KvRowsPlan, RowsShape};
use crate::kv::KvLists;
use crate::select::Score;

/// The list, the row's first element in its list, and in its table if its index is of a row; list by list, in their
/// order.
fn entries<'a>(
    shape: &'a RowsShape,
    indices: &'a [i32],
) -> impl Iterator<Item = (usize, usize, Option<usize>)> + 'a {
    let places = (0..shape.n_lists).flat_map(|l| (0..shape.n_indices).map(move |i| (l, i)));
    places.map(|(l, i)| {
        let row = u64::try_from(indices[(l * shape.index_stride + i) as usize]).ok();
        let of_table = row
            .filter(|row| *row < shape.n_table_rows)
            .map(|row| (l * shape.table.list + row * shape.table.row) as usize);
        let of_list = (l * shape.list.list + i * shape.list.row) as usize;
        ((l * shape.n_indices + i) as usize, of_list, of_table)
    })
}

/// `gathered[l, i] = table[l, indices[l, i]]`.
pub fn gather_rows<T: Copy + Default>(
    shape: &RowsShape,
    table: &[T],
    indices: &[i32],
    absent: Absent,
    gathered: &mut [T],
) {
    let n = shape.row_len as usize;
    for (_, to, from) in entries(shape, indices) {
        match from {
            Some(from) => gathered[to..][..n].copy_from_slice(&table[from..][..n]),
            None if absent == Absent::Zeros => gathered[to..][..n].fill(T::default()),
            None => {}
        }
    }
}

/// `table[l, indices[l, i]] = source[l, i]`, in the order of the list.
pub fn scatter_rows<T: Copy>(shape: &RowsShape, source: &[T], indices: &[i32], table: &mut [T]) {
    let n = shape.row_len as usize;
    for (_, from, to) in entries(shape, indices) {
        let Some(to) = to else { continue };
        table[to..][..n].copy_from_slice(&source[from..][..n]);
    }
}

/// `table[l, indices[l, i]] += weights[l, i] * source[l, i]`, in the order of the list, in f32, and rounded once
/// all are added.
pub fn scatter_add_rows<T: Score>(
    shape: &RowsShape,
    source: &[T],
    indices: &[i32],
    weights: Option<&[f32]>,
    table: &mut [T],
) {
    let mut sums: Vec<f32> = table.iter().map(|value| value.to_f32()).collect();
    let mut is_written = vec![false; table.len()];
    for (entry, from, to) in entries(shape, indices) {
        let Some(to) = to else { continue };
        let weight = weights.map_or(1.0, |weights| weights[entry]);
        for i in 0..shape.row_len as usize {
            sums[to + i] = f32::mul_add(weight, source[from + i].to_f32(), sums[to + i]);
            is_written[to + i] = true;
        }
    }
    for (i, value) in table.iter_mut().enumerate().filter(|(i, _)| is_written[*i]) {
        *value = T::from_f32(sums[i]);
    }
}

/// The row's first element of `[batch, n_heads, n_indices, row_len]`, and of the pool if there is such a row.
fn kv_entries<'a>(
    plan: &'a KvRowsPlan,
    page_table: &'a [i32],
    lengths: &'a [u32],
    indices: &'a [i32],
) -> impl Iterator<Item = (usize, Option<usize>)> + 'a {
    let (layout, n) = (plan.layout(), plan.n_indices());
    let shape = layout.shape();
    let rows = 0..shape.batch * shape.n_heads * n;
    rows.map(move |row| {
        let (b, h, i) = (row / n / shape.n_heads, row / n % shape.n_heads, row % n);
        let at = match plan.lists() {
            KvLists::PerHead => row,
            KvLists::PerRequest => b * n + i,
        };
        let in_pool = u64::try_from(indices[at as usize])
            .ok()
            .filter(|t| *t < layout.rows_of(lengths[b as usize].into()))
            .and_then(|t| layout.locate(page_table, b, t, h));
        ((row * shape.row_len) as usize, in_pool)
    })
}

/// Rows of a pool of keys or values by their indices.
pub fn gather_kv<T: Copy + Default>(
    plan: &KvRowsPlan,
    page_table: &[i32],
    lengths: &[u32],
    pool: &[T],
    indices: &[i32],
    absent: Absent,
    gathered: &mut [T],
) {
    let n = plan.layout().shape().row_len as usize;
    for (to, from) in kv_entries(plan, page_table, lengths, indices) {
        match from {
            Some(from) => gathered[to..][..n].copy_from_slice(&pool[from..][..n]),
            None if absent == Absent::Zeros => gathered[to..][..n].fill(T::default()),
            None => {}
        }
    }
}

/// Rows into a pool of keys or values by their indices.
pub fn scatter_kv<T: Copy>(
    plan: &KvRowsPlan,
    page_table: &[i32],
    lengths: &[u32],
    source: &[T],
    indices: &[i32],
    pool: &mut [T],
) {
    let n = plan.layout().shape().row_len as usize;
    for (from, to) in kv_entries(plan, page_table, lengths, indices) {
        let Some(to) = to else { continue };
        pool[to..][..n].copy_from_slice(&source[from..][..n]);
    }
}
