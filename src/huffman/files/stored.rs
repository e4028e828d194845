//! The forms in which weights are in a file.

use std::fmt;
use std::ops::Range;

use safetensors::Dtype;

use crate::Result;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::huffman::WeightSource;
use crate::huffman::compact::{self, Compact, RawCompact};
use crate::huffman::decode;
use crate::huffman::group::{Group, RawGroup, TensorError};
use crate::huffman::lane::{self, Lane, LaneTensors};

/// How the weights of a group are kept in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// DFloat11, which other readers know ([`RawGroup`]): about 10.9 bits a weight, decoded to bf16.
    Df11,
    /// [Compact groups](compact): about 10.8 bits a weight, decoded to bf16 by their own index.
    Compact,
    /// [Matrices of lanes](lane): about 12.04 bits a weight, multiplied as they lie.
    Lane,
}

/// A tensor of a group: how its name ends, its elements, and how many are in a row if it has two dimensions.
pub(super) struct TensorKind {
    pub(super) suffix: &'static str,
    pub(super) dtype: Dtype,
    pub(super) row_len: Option<usize>,
}

const fn kind(suffix: &'static str, dtype: Dtype, row_len: Option<usize>) -> TensorKind {
    TensorKind { suffix, dtype, row_len }
}

/// In the order of [`RawGroup`].
const DF11: [TensorKind; 6] = [
    kind("encoded_exponent", Dtype::U8, None),
    kind("sign_mantissa", Dtype::U8, None),
    kind("luts", Dtype::U8, Some(256)),
    kind("gaps", Dtype::U8, None),
    kind("output_positions", Dtype::U8, None),
    kind("split_positions", Dtype::I64, None),
];
/// In the order of [`RawCompact`].
const COMPACT: [TensorKind; 6] = [
    kind("codes", Dtype::U8, None),
    kind("sign_mantissa", Dtype::U8, None),
    kind("lengths", Dtype::U8, None),
    kind("tile_bytes", Dtype::U32, None),
    kind("granule_bits", Dtype::U16, None),
    kind("split_positions", Dtype::I64, None),
];
/// In the order of [`LaneTensors`].
const LANE: [TensorKind; 6] = [
    kind("lane_header", Dtype::U8, None),
    kind("lane_palettes", Dtype::U8, Some(lane::PALETTE_LEN)),
    kind("lane_low", Dtype::U8, Some(lane::TILE_WEIGHTS)),
    kind("lane_high", Dtype::U32, Some(lane::TILE_WORDS)),
    kind("lane_headers", Dtype::U64, None),
    kind("lane_escapes", Dtype::U32, None),
];

impl Format {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Df11, Self::Compact, Self::Lane];

    /// As the command calls it: `df11`, `compact`, `lane`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Df11 => "df11",
            Self::Compact => "compact",
            Self::Lane => "lane",
        }
    }

    pub(super) fn tensors(self) -> &'static [TensorKind; 6] {
        match self {
            Self::Df11 => &DF11,
            Self::Compact => &COMPACT,
            Self::Lane => &LANE,
        }
    }

    /// The suffix that no group of another format has, nor a tensor of any known model.
    fn mark(self) -> &'static str {
        match self {
            Self::Df11 => "encoded_exponent",
            Self::Compact => "granule_bits",
            Self::Lane => "lane_header",
        }
    }

    /// The group, and its format, that a tensor's name marks.
    pub(super) fn marked_by(tensor: &str) -> Option<(Self, &str)> {
        let (group, suffix) = tensor.rsplit_once('.')?;
        Self::ALL.into_iter().find(|format| format.mark() == suffix).map(|format| (format, group))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A group's tensors, borrowed as they are in a file, and trusted in nothing.
#[derive(Debug, Clone, Copy)]
pub enum RawStored<'a> {
    /// In the format [`Format::Df11`].
    Df11(RawGroup<'a>),
    /// In the format [`Format::Compact`].
    Compact(RawCompact<'a>),
    /// In the format [`Format::Lane`]: one matrix.
    Lane(LaneTensors<'a>),
}

impl<'a> RawStored<'a> {
    /// `tensors` in the order of [`Format::tensors`].
    pub(super) fn new(format: Format, name: &'a str, tensors: [&'a [u8]; 6]) -> Self {
        match format {
            Format::Df11 => {
                let [
                    encoded_exponent,
                    sign_mantissa,
                    luts,
                    gaps,
                    output_positions,
                    split_positions,
                ] = tensors;
                Self::Df11(RawGroup {
                    name,
                    encoded_exponent,
                    sign_mantissa,
                    luts,
                    gaps,
                    output_positions,
                    split_positions,
                })
            }
            Format::Compact => {
                let [codes, sign_mantissa, lengths, tile_bytes, granule_bits, split_positions] =
                    tensors;
                Self::Compact(RawCompact {
                    name,
                    codes,
                    sign_mantissa,
                    lengths,
                    tile_bytes,
                    granule_bits,
                    split_positions,
                })
            }
            Format::Lane => {
                let [header, palettes, low, high, headers, escapes] = tensors;
                Self::Lane(LaneTensors { name, header, palettes, low, high, headers, escapes })
            }
        }
    }

    /// How the weights are kept.
    pub fn format(&self) -> Format {
        match self {
            Self::Df11(_) => Format::Df11,
            Self::Compact(_) => Format::Compact,
            Self::Lane(_) => Format::Lane,
        }
    }

    /// The six tensors, in the order of the format's fields.
    pub fn tensors(&self) -> [&'a [u8]; 6] {
        match self {
            Self::Df11(raw) => raw.tensors(),
            Self::Compact(raw) => raw.tensors(),
            Self::Lane(raw) => raw.tensors(),
        }
    }

    /// Checks what the format's own `parse` checks.
    ///
    /// # Errors
    /// [`TensorError`]: the first thing found.
    pub fn parse(self) -> Result<Stored<'a>, TensorError> {
        Ok(match self {
            Self::Df11(raw) => Stored::Df11(raw.parse()?),
            Self::Compact(raw) => Stored::Compact(raw.parse()?),
            Self::Lane(raw) => Stored::Lane(raw.parse()?),
        })
    }

    /// XXH3-64 over the six tensors, the length of each before it.
    pub(super) fn checksum(&self) -> u64 {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        for tensor in self.tensors() {
            hasher.update(&(tensor.len() as u64).to_le_bytes());
            hasher.update(tensor);
        }
        hasher.digest()
    }
}

/// A group of a checkpoint, its tensors checked.
#[derive(Debug, Clone)]
pub enum Stored<'a> {
    /// For [`DeviceWeights::upload`](crate::huffman::DeviceWeights::upload).
    Df11(Group<'a>),
    /// For [`DeviceWeights::upload`](crate::huffman::DeviceWeights::upload).
    Compact(Compact<'a>),
    /// One matrix, for [`DeviceLane::upload`](lane::DeviceLane::upload).
    Lane(Lane<'a>),
}

impl<'a> Stored<'a> {
    /// The tensors.
    pub fn raw(&self) -> RawStored<'a> {
        match self {
            Self::Df11(group) => RawStored::Df11(*group.raw()),
            Self::Compact(group) => RawStored::Compact(*group.raw()),
            Self::Lane(matrix) => RawStored::Lane(*matrix.raw()),
        }
    }

    /// What [`DeviceWeights::upload`](crate::huffman::DeviceWeights::upload) takes; `None` of a matrix of lanes, which is not
    /// decoded to be used.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn source(&self) -> Option<WeightSource<'_>> {
        match self {
            Self::Df11(group) => Some(group.into()),
            Self::Compact(group) => Some(group.into()),
            Self::Lane(_) => None,
        }
    }

    /// How the weights are kept.
    pub fn format(&self) -> Format {
        self.raw().format()
    }

    /// Module path of the group, or matrix.
    pub fn name(&self) -> &'a str {
        match self {
            Self::Df11(group) => group.name(),
            Self::Compact(group) => group.name(),
            Self::Lane(matrix) => matrix.name(),
        }
    }

    /// Weights.
    pub fn n_elements(&self) -> u64 {
        match self {
            Self::Df11(group) => group.n_elements(),
            Self::Compact(group) => group.n_elements(),
            Self::Lane(matrix) => matrix.shape().n_weights(),
        }
    }

    /// Each matrix's weights, as ranges of the decoded group.
    pub fn matrices(&self) -> Vec<Range<u64>> {
        match self {
            Self::Df11(group) => group.matrices().collect(),
            Self::Compact(group) => group.matrices().collect(),
            Self::Lane(_) => std::iter::once(0..self.n_elements()).collect(),
        }
    }

    /// Bytes of all six tensors.
    pub fn n_bytes(&self) -> u64 {
        self.raw().tensors().iter().map(|tensor| tensor.len() as u64).sum()
    }

    /// What is sound here and would trouble another reader.
    pub fn warnings(&self) -> Vec<String> {
        match self {
            Self::Df11(group) => group.warnings(),
            Self::Compact(_) | Self::Lane(_) => Vec::new(),
        }
    }

    /// Decodes to bf16 bits on all threads of the current rayon pool: [`decode`], [`compact::decode`] or
    /// [`lane::unpack`].
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) and [`Error::CorruptTile`](crate::Error::CorruptTile); [`Error::Shape`](crate::Error::Shape) where
    /// `output` has another length than the group has weights, which is then left alone.
    pub fn decode(&self, output: &mut [u16]) -> Result<()> {
        match self {
            Self::Df11(group) => decode(group, output)?,
            Self::Compact(group) => compact::decode(group, output)?,
            Self::Lane(matrix) => lane::unpack(&matrix.planes(), output)?,
        }
        Ok(())
    }
}
