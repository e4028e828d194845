//! A group in a format of files.

use serde_json::json;
use xxhash_rust::xxh3::Xxh3;

use super::checkpoint::FORMAT_VERSION;
use super::{Format, RawStored};
use crate::huffman::compact::{self, CompactGroup};
use crate::huffman::lane::{self, LaneMatrix, LaneShape, LaneTensors};
use crate::huffman::{EncodedGroup, encode, words};
use crate::{Error, Result};

/// A matrix to encode.
pub(super) struct Source<'a> {
    pub(super) name: String,
    pub(super) shape: Option<Vec<usize>>,
    /// bf16, little-endian, in any alignment.
    pub(super) bytes: &'a [u8],
}

/// What becomes a group of a checkpoint.
pub(super) struct EncodedEntry {
    pub(super) name: String,
    /// What the file says of it beside its tensors.
    pub(super) facts: String,
    encoded: Encoded,
}

enum Encoded {
    Df11(EncodedGroup),
    Compact(CompactGroup),
    Lane([u8; LaneShape::HEADER_BYTES], LaneMatrix),
}

impl Encoded {
    fn as_raw<'a>(&'a self, name: &'a str) -> RawStored<'a> {
        match self {
            Self::Df11(group) => RawStored::Df11(group.as_raw(name)),
            Self::Compact(group) => RawStored::Compact(group.as_raw(name)),
            Self::Lane(header, matrix) => RawStored::Lane(LaneTensors::of(name, header, matrix)),
        }
    }
}

impl EncodedEntry {
    /// A group of `matrices` in one entry, or each matrix in its own.
    pub(super) fn encode(format: Format, name: &str, matrices: &[Source<'_>]) -> Result<Vec<Self>> {
        let bytes = || matrices.iter().map(|matrix| matrix.bytes).collect::<Vec<_>>();
        Ok(match format {
            Format::Df11 => vec![Self::new(name, matrices, Encoded::Df11(encode(&bytes())?))],
            Format::Compact => {
                vec![Self::new(name, matrices, Encoded::Compact(compact::encode(&bytes())?))]
            }
            Format::Lane => matrices
                .iter()
                .map(|matrix| {
                    let name = matrix.name.strip_suffix(".weight").unwrap_or(&matrix.name);
                    let planes = lane::pack(&words(matrix.bytes), lane_shape(matrix)?)?;
                    let encoded = Encoded::Lane(planes.shape.header(), planes);
                    Ok(Self::new(name, std::slice::from_ref(matrix), encoded))
                })
                .collect::<Result<_>>()?,
        })
    }

    fn new(name: &str, matrices: &[Source<'_>], encoded: Encoded) -> Self {
        let mut decoded = Xxh3::new();
        for matrix in matrices {
            decoded.update(matrix.bytes);
        }
        let shapes: Vec<_> = matrices
            .iter()
            .map(|matrix| json!({ "name": matrix.name, "shape": matrix.shape }))
            .collect();
        let mut facts = json!({
            "matrices": shapes,
            "decoded_xxh3_64": format!("{:016x}", decoded.digest()),
            "stored_xxh3_64": format!("{:016x}", encoded.as_raw(name).checksum()),
        });
        if !matches!(encoded, Encoded::Df11(_)) {
            facts["version"] = json!(FORMAT_VERSION);
        }
        Self { name: name.to_owned(), facts: facts.to_string(), encoded }
    }

    /// Its tensors.
    pub(super) fn as_raw(&self) -> RawStored<'_> {
        self.encoded.as_raw(&self.name)
    }
}

fn lane_shape(matrix: &Source<'_>) -> Result<LaneShape> {
    match matrix.shape.as_deref() {
        Some([n_rows, n_columns]) => LaneShape::new(*n_rows as u64, *n_columns as u64),
        sides => {
            let got = sides.map_or(0, <[usize]>::len) as u64;
            Err(Error::Shape { what: "dimensions of a matrix of lanes", expected: 2, got })
        }
    }
}
