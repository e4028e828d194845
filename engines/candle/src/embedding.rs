//! Embeddings.

use std::sync::Arc;

use candle_core::{DType, Device, Error, Module, Result, Tensor};
use half::bf16;
use half::slice::HalfBitsSliceExt;
use lacuna::huffman::indexed::reference::{RawIndexed, decode_rows};
use lacuna::huffman::indexed::{CodeTable, Index, IndexedRowsPlan, IndexedRowsShape, reference};
use lacuna::huffman::lane::{TILE_COLUMNS, TILE_ROWS, reference::unpack_tile};
use lacuna::huffman::{Group, Stored};
use lacuna::select::Absent;
use rayon::prelude::*;

use crate::Wrap;
use crate::weights::{Matrix, Source};

/// Rows of a matrix by their numbers, of which no others are expanded: [`Weights::embedding`](crate::Weights::embedding).
#[derive(Debug, Clone)]
pub struct Embedding {
    weight: Matrix,
    /// Of a DF11 group on the CPU.
    index: Option<Arc<(Index, CodeTable)>>,
}

impl Embedding {
    pub(crate) fn new(weight: Matrix) -> Result<Self> {
        #[cfg(feature = "cuda")]
        let weight = on_cuda(weight)?;
        let mut index = None;
        if let (Source::Coded { group, .. }, true) = (&weight.source, weight.is_on_cpu())
            && let Stored::Df11(group) = weight.weights.stored(*group)?
        {
            let found = reference::index(&group).w()?;
            index = found.map(|index| Arc::new((index, CodeTable::of(&group))));
        }
        Ok(Self { weight, index })
    }

    /// Rows.
    pub fn n_rows(&self) -> usize {
        self.weight.dims[0]
    }

    /// Elements of a row.
    pub fn row_len(&self) -> usize {
        self.weight.dims[1]
    }

    #[cfg(feature = "cuda")]
    fn rows_on_cuda(&self, ids: &Tensor) -> Result<Tensor> {
        match (&self.weight.source, self.weight.weights.groups()) {
            (Source::Plain(tensor), _) => tensor.index_select(ids, 0),
            (Source::Coded { group, range }, Some(groups)) => {
                groups.rows(*group, range.start, self.weight.dims, ids)
            }
            (Source::Coded { .. }, None) => {
                candle_core::bail!("ids of an embedding are on CUDA, and its weights on the CPU")
            }
        }
    }

    fn rows_on_cpu(&self, ids: &[u32]) -> Result<Tensor> {
        let [n_rows, row_len] = self.weight.dims;
        let (group, first) = match &self.weight.source {
            Source::Plain(tensor) => {
                return tensor.index_select(&Tensor::new(ids, &Device::Cpu)?, 0);
            }
            Source::Coded { group, range } => (*group, range.start),
        };
        let stored = self.weight.weights.stored(group)?;
        let mut bits = vec![0_u16; ids.len() * row_len];
        let plan = || {
            IndexedRowsPlan::new(IndexedRowsShape {
                n_elements: stored.n_elements(),
                first_element: first as u64,
                n_matrix_rows: n_rows as u64,
                row_len: row_len as u64,
                n_rows: 1,
                output_stride: row_len as u64,
            })
        };
        let decode = |raw: RawIndexed<'_>, bits: &mut [u16]| {
            let plan = plan().w()?;
            let each = bits.par_chunks_mut(row_len).zip(ids);
            each.try_for_each(|(row, id)| decode_rows(&raw, &plan, &[*id], Absent::Zeros, row)).w()
        };
        match (&stored, self.index.as_deref()) {
            (Stored::Df11(group), Some((index, table))) => {
                decode(indexed(group, index, table), &mut bits)?;
            }
            (Stored::Compact(group), _) => decode(group.indexed(), &mut bits)?,
            (Stored::Lane(matrix), _) => {
                let planes = matrix.planes();
                bits.par_chunks_mut(row_len).zip(ids).for_each(|(row, id)| {
                    let id = *id as usize;
                    for (tile, row) in row.chunks_mut(TILE_COLUMNS).enumerate() {
                        let tile = unpack_tile(&planes, id / TILE_ROWS, tile);
                        row.copy_from_slice(&tile[id % TILE_ROWS][..row.len()]);
                    }
                });
            }
            // No index holds codes of so many bits: the whole group is expanded.
            (Stored::Df11(_), None) => {
                let ids = Tensor::new(ids, &Device::Cpu)?;
                return self.weight.with(DType::BF16, |weight| weight.index_select(&ids, 0));
            }
        }
        Tensor::from_slice(bits.reinterpret_cast::<bf16>(), (ids.len(), row_len), &Device::Cpu)
    }
}

impl Module for Embedding {
    /// Numbers of any shape, u32, i64 or u8, to their rows, in one dimension more: bf16, or as the tensor is that is not
    /// compressed. A number of no row is an error on the CPU; on CUDA, where nobody looks at it before, its row is of zeros where
    /// weights are compressed.
    fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let dims = [ids.dims(), &[self.row_len()]].concat();
        if !ids.dtype().is_int() {
            candle_core::bail!("ids of an embedding: expected u32, got {:?}", ids.dtype());
        }
        let ids = ids.flatten_all()?.to_dtype(DType::U32)?;
        #[cfg(feature = "cuda")]
        if ids.device().is_cuda() {
            return self.rows_on_cuda(&ids)?.reshape(dims);
        }
        let numbers = ids.to_vec1::<u32>()?;
        let size = self.n_rows();
        if let Some(index) = numbers.iter().find(|id| **id as usize >= size) {
            return Err(Error::InvalidIndex { op: "embedding", index: *index as usize, size }.bt());
        }
        self.rows_on_cpu(&numbers)?.reshape(dims)
    }
}

/// On CUDA, what has no index is expanded once, and kept as bf16.
#[cfg(feature = "cuda")]
fn on_cuda(weight: Matrix) -> Result<Matrix> {
    if let (Source::Coded { group, .. }, Some(groups)) = (&weight.source, weight.weights.groups())
        && !groups.has_rows(*group)?
    {
        let source = Source::Plain(weight.with(DType::BF16, Tensor::copy)?);
        return Ok(Matrix { source, ..weight });
    }
    Ok(weight)
}

fn indexed<'a>(group: &Group<'a>, index: &'a Index, table: &'a CodeTable) -> RawIndexed<'a> {
    let raw = group.raw();
    RawIndexed {
        codes: raw.encoded_exponent,
        sign_mantissa: raw.sign_mantissa,
        tile_bytes: &index.tile_bytes,
        granule_bits: &index.granule_bits,
        entries: table.entries(),
        lengths: table.lengths(),
        luts: raw.luts,
    }
}
