//! bf16 weights to the six tensors of a DF11 group.

use super::codebook::Shortest;
use super::{
    BYTES_PER_BLOCK, BYTES_PER_THREAD, Codebook, GAP_BYTES_PER_BLOCK, PUBLISHED_BLOCK_ELEMENTS,
    RawGroup,
};
use crate::{Error, Result};

/// The six tensors of a group, as a DF11 file holds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedGroup {
    /// `[n_code_bytes]`.
    pub encoded_exponent: Vec<u8>,
    /// `[n_elements]`.
    pub sign_mantissa: Vec<u8>,
    /// `[n_lut_rows + 1, 256]`.
    pub luts: Vec<u8>,
    /// `[320 * n_blocks]`.
    pub gaps: Vec<u8>,
    /// `[4 * (n_blocks + 1)]`.
    pub output_positions: Vec<u8>,
    /// `[8 * (n_matrices - 1)]`.
    pub split_positions: Vec<u8>,
}

impl EncodedGroup {
    /// The tensors, borrowed.
    pub fn as_raw<'a>(&'a self, name: &'a str) -> RawGroup<'a> {
        RawGroup {
            name,
            encoded_exponent: &self.encoded_exponent,
            sign_mantissa: &self.sign_mantissa,
            luts: &self.luts,
            gaps: &self.gaps,
            output_positions: &self.output_positions,
            split_positions: &self.split_positions,
        }
    }
}

/// Encodes matrices as one group. Each is little-endian bf16, in any alignment; the group is their
/// concatenation in this order.
///
/// The result depends on the weights alone. It is never larger than what the published encoder
/// writes for the same group where that can be decoded; how it differs is in DESIGN.md, "Encoder".
///
/// # Errors
/// [`Error::Range`] for no weights, 2^32 of them, or 2^31 bytes of codes; [`Error::Shape`] for an
/// odd number of bytes.
pub fn encode(matrices: &[&[u8]]) -> Result<EncodedGroup> {
    let mut n_elements = 0_u64;
    let mut split_positions = Vec::new();
    for (idx, matrix) in matrices.iter().enumerate() {
        if matrix.len() % 2 != 0 {
            let got = matrix.len() as u64;
            return Err(Error::Shape { what: "bytes of a bf16 matrix", expected: got + 1, got });
        }
        if matrix.is_empty() {
            return Err(Error::Range { what: "weights of a matrix", value: 0, allowed: "1..2^32" });
        }
        if idx > 0 {
            split_positions.extend((n_elements as i64).to_le_bytes());
        }
        n_elements += matrix.len() as u64 / 2;
    }
    if !(1..1 << 32).contains(&n_elements) {
        let what = "weights of a group";
        return Err(Error::Range { what, value: n_elements, allowed: "1..2^32" });
    }
    let mut histogram = [0; 256];
    let mut sign_mantissa = Vec::with_capacity(n_elements as usize);
    for matrix in matrices {
        split_planes(matrix, &mut sign_mantissa, &mut histogram);
    }
    // Denser blocks than the published kernel can hold are coded again, a little larger.
    for shortest in [Shortest::Unlimited, Shortest::SpareLeaf, Shortest::TwoBits] {
        let Some(book) = Codebook::with_shortest(&histogram, shortest) else { continue };
        let n_code_bytes = book.n_bits(&histogram).div_ceil(8);
        if n_code_bytes >= 1 << 31 {
            let what = "code bytes of a group";
            return Err(Error::Range { what, value: n_code_bytes, allowed: "1..2^31" });
        }
        let stream = Stream::pack(matrices, &book, n_code_bytes as usize, n_elements as u32);
        if stream.densest_block() <= PUBLISHED_BLOCK_ELEMENTS || shortest == Shortest::TwoBits {
            return Ok(EncodedGroup {
                encoded_exponent: stream.codes,
                sign_mantissa,
                luts: book.luts().to_vec(),
                gaps: stream.gaps,
                output_positions: stream.positions.iter().flat_map(|p| p.to_le_bytes()).collect(),
                split_positions,
            });
        }
    }
    unreachable!("two-bit codes hold any histogram of at least one weight")
}

fn exponent_of(weight: &[u8; 2]) -> u8 {
    weight[1] << 1 | weight[0] >> 7
}

fn split_planes(matrix: &[u8], sign_mantissa: &mut Vec<u8>, histogram: &mut [u64; 256]) {
    let weights = matrix.as_chunks::<2>().0;
    sign_mantissa.extend(weights.iter().map(|[low, high]| high & 0x80 | low & 0x7F));
    // Four tables, so that equal neighbours do not wait for each other's count.
    let mut counts = [[0_u64; 256]; 4];
    let (fours, rest) = weights.as_chunks::<4>();
    for four in fours {
        for (count, weight) in counts.iter_mut().zip(four) {
            count[usize::from(exponent_of(weight))] += 1;
        }
    }
    for weight in rest {
        histogram[usize::from(exponent_of(weight))] += 1;
    }
    for (idx, total) in histogram.iter_mut().enumerate() {
        *total += counts.iter().map(|count| count[idx]).sum::<u64>();
    }
}

/// The packed codes and what finds its way in them.
struct Stream {
    codes: Vec<u8>,
    gaps: Vec<u8>,
    positions: Vec<u32>,
}

impl Stream {
    fn pack(matrices: &[&[u8]], book: &Codebook, n_code_bytes: usize, n_elements: u32) -> Self {
        let n_blocks = n_code_bytes.div_ceil(BYTES_PER_BLOCK);
        let mut codes = Vec::with_capacity(n_code_bytes + 8);
        let mut gaps = Gaps::new(n_blocks);
        let mut positions = Vec::with_capacity(n_blocks + 1);
        // Code and length in one word: one load a weight.
        let table: Vec<u64> = book
            .codes()
            .iter()
            .zip(book.lengths())
            .map(|(code, length)| u64::from(*code) << 8 | u64::from(*length))
            .collect();
        let mut pending = 0_u64;
        let mut n_pending = 0_u32;
        let mut bit = 0_u64;
        let mut next_chunk_bit = 0_u64;
        let chunk_bits = 8 * BYTES_PER_THREAD as u64;
        let weights = matrices.iter().flat_map(|matrix| matrix.as_chunks::<2>().0);
        for (element, weight) in weights.enumerate() {
            if bit >= next_chunk_bit {
                let chunk = bit / chunk_bits;
                gaps.set(chunk as usize, (bit % chunk_bits) as u8);
                if chunk.is_multiple_of((BYTES_PER_BLOCK / BYTES_PER_THREAD) as u64) {
                    positions.push(element as u32);
                }
                next_chunk_bit = (chunk + 1) * chunk_bits;
            }
            let entry = table[usize::from(exponent_of(weight))];
            let length = (entry & 0xFF) as u32;
            pending = pending << length | entry >> 8;
            n_pending += length;
            if n_pending >= 32 {
                n_pending -= 32;
                codes.extend(((pending >> n_pending) as u32).to_be_bytes());
            }
            bit += u64::from(length);
        }
        if n_pending > 0 {
            let last = ((pending << (32 - n_pending)) as u32).to_be_bytes();
            codes.extend(&last[..n_pending.div_ceil(8) as usize]);
        }
        // Where the last code crosses into a block of its own, that block holds no first code.
        positions.resize(n_blocks + 1, n_elements);
        Self { codes, gaps: gaps.0, positions }
    }

    fn densest_block(&self) -> u64 {
        self.positions.windows(2).map(|pair| u64::from(pair[1] - pair[0])).max().unwrap_or(0)
    }
}

/// 5 bits a chunk, most significant bit first.
struct Gaps(Vec<u8>);

impl Gaps {
    fn new(n_blocks: usize) -> Self {
        Self(vec![0; n_blocks * GAP_BYTES_PER_BLOCK])
    }

    fn set(&mut self, chunk: usize, gap: u8) {
        let bit = chunk * 5;
        let word = u16::from(gap) << (11 - bit % 8);
        self.0[bit / 8] |= (word >> 8) as u8;
        if let Some(next) = self.0.get_mut(bit / 8 + 1) {
            *next |= word as u8;
        }
    }
}
