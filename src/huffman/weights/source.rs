//! Groups in host memory, and their way to the device.

use super::tables::Row;
use crate::Result;
use crate::buffer::Buffer;
use crate::huffman::compact::Compact;
use crate::huffman::indexed::{Index, IndexedShape, RawIndexed};
use crate::huffman::{Group, GroupPath};
use crate::launch::check_same;
use crate::queue::Queue;

/// Tensors of one upload start at multiples of this many bytes.
const TENSOR_ALIGNMENT: usize = 256;

/// A group in host memory, in any format that is decoded to bf16.
#[derive(Debug, Clone)]
pub enum WeightSource<'a> {
    /// DF11, as a checkpoint has it.
    Df11(Group<'a>),
    /// With an index: a [compact group](Compact::indexed), or DF11 that was indexed before.
    Indexed(RawIndexed<'a>),
}

impl<'a> From<Group<'a>> for WeightSource<'a> {
    fn from(group: Group<'a>) -> Self {
        Self::Df11(group)
    }
}

impl<'a> From<&Group<'a>> for WeightSource<'a> {
    fn from(group: &Group<'a>) -> Self {
        Self::Df11(group.clone())
    }
}

impl<'a> From<RawIndexed<'a>> for WeightSource<'a> {
    fn from(raw: RawIndexed<'a>) -> Self {
        Self::Indexed(raw)
    }
}

impl<'a> From<&RawIndexed<'a>> for WeightSource<'a> {
    fn from(raw: &RawIndexed<'a>) -> Self {
        Self::Indexed(*raw)
    }
}

impl<'a> From<&'a Compact<'_>> for WeightSource<'a> {
    fn from(group: &'a Compact<'_>) -> Self {
        Self::Indexed(group.indexed())
    }
}

/// A group that was uploaded.
pub(super) struct Uploaded {
    pub(super) row: Row,
    /// What every decoder reads.
    pub(super) stream: Buffer<u8>,
    /// Gaps and positions, which no decoder needs that has an index.
    pub(super) chain: Option<Buffer<u8>>,
}

impl WeightSource<'_> {
    /// How it will be decoded. An error is of lengths that do not fit each other.
    pub(super) fn path(&self) -> Result<GroupPath> {
        Ok(match self {
            Self::Df11(group) => group.shape().into(),
            Self::Indexed(raw) => shape_of(raw)?.into(),
        })
    }

    pub(super) fn upload(&self, queue: &Queue) -> Result<Uploaded> {
        match self {
            Self::Df11(group) => {
                let raw = group.raw();
                let (stream, [codes, sign_mantissa, luts]) =
                    upload_tensors(queue, [raw.encoded_exponent, raw.sign_mantissa, raw.luts])?;
                let (chain, [gaps, positions]) =
                    upload_tensors(queue, [raw.gaps, raw.output_positions])?;
                let row = Row::plain(&group.shape(), [codes, sign_mantissa, luts, gaps, positions]);
                Ok(Uploaded { row, stream, chain: Some(chain) })
            }
            Self::Indexed(raw) => {
                let shape = shape_of(raw)?;
                let table = [bytemuck::cast_slice(raw.entries), raw.lengths].concat();
                let (stream, mut addresses) = upload_tensors(
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
                Ok(Uploaded { row: Row::indexed(&shape, addresses), stream, chain: None })
            }
        }
    }
}

/// Copies tensors into one buffer, each at an aligned place, and says where they are.
fn upload_tensors<const N: usize>(
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
