//! What weights would take in each format.

use super::compact::{CompactCode, LENGTHS_BYTES, reference};
use super::indexed::Index;
use super::lane::{LaneShape, count_escapes};
use super::{encode, words};
use crate::Result;

/// Bytes of a group in each format, all tensors counted, by what the encoders would make of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Costs {
    /// As it is.
    pub bf16: u64,
    /// As DF11, of [`encode`].
    pub df11: u64,
    /// As a compact group, of [`compact::encode`](super::compact::encode).
    pub compact: u64,
    /// As matrices of lanes, of [`lane::pack`](super::lane::pack); `None` where a shape is not known.
    pub lane: Option<u64>,
    /// How many weights have each exponent.
    pub histogram: [u64; 256],
}

impl Costs {
    /// Of the matrices of a group, little-endian bf16 in any alignment, each with its shape if that is known.
    ///
    /// # Errors
    /// Those of [`encode`] and [`count_escapes`].
    pub fn new(matrices: &[(&[u8], Option<LaneShape>)]) -> Result<Self> {
        let bytes: Vec<_> = matrices.iter().map(|(bytes, _)| *bytes).collect();
        let df11 = encode(&bytes)?;
        let df11 = df11.as_raw("").tensors().iter().map(|tensor| tensor.len() as u64).sum();
        let mut histogram = [0; 256];
        let mut lane = Some(0);
        for (bytes, shape) in matrices {
            let weights = words::<u16>(bytes);
            for (sum, count) in histogram.iter_mut().zip(reference::count(&weights)) {
                *sum += count;
            }
            lane = match (lane, shape) {
                (Some(sum), Some(shape)) => {
                    let n_escapes = count_escapes(&weights, *shape)?;
                    Some(sum + LaneShape::HEADER_BYTES as u64 + shape.n_bytes(n_escapes))
                }
                _ => None,
            };
        }
        let n_weights = histogram.iter().sum::<u64>();
        let n_code_bytes =
            CompactCode::new(&histogram).map_or(0, |code| code.n_bits(&histogram).div_ceil(8));
        let compact = n_code_bytes
            + n_weights
            + LENGTHS_BYTES as u64
            + 4 * Index::tile_bytes_len(n_weights)
            + 2 * Index::granule_bits_len(n_weights)
            + 8 * (matrices.len() as u64 - 1);
        Ok(Self { bf16: 2 * n_weights, df11, compact, lane, histogram })
    }

    /// Weights.
    pub fn n_weights(&self) -> u64 {
        self.bf16 / 2
    }

    /// Bits that an exponent takes at least, of codes that do not look at other weights.
    pub fn exponent_entropy_bits(&self) -> f64 {
        let n_weights = self.n_weights() as f64;
        let bits = |count: &u64| {
            let p = *count as f64 / n_weights;
            -p * p.log2()
        };
        self.histogram.iter().filter(|count| **count > 0).map(bits).sum()
    }

    /// Exponents that there are.
    pub fn n_exponents(&self) -> usize {
        self.histogram.iter().filter(|count| **count > 0).count()
    }
}
