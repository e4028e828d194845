//! bf16 weights to the six tensors of a DF11 group.

use super::codebook::Shortest;
use super::{
    BYTES_PER_BLOCK, BYTES_PER_THREAD, Codebook, PUBLISHED_BLOCK_ELEMENTS, RawGroup,
    THREADS_PER_BLOCK, parallel,
};
use crate::{Error, Result};

/// Bits of the code stream that one CUDA thread owns.
const CHUNK_BITS: u64 = 8 * BYTES_PER_THREAD as u64;

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

/// Encodes matrices as one group, on all threads of the current rayon pool (feature `files`; else
/// on one). Each is little-endian bf16, in any alignment; the group is their
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
    let pieces: Vec<_> = matrices.iter().flat_map(|matrix| pieces_of(matrix)).collect();
    let mut sign_mantissa = vec![0; n_elements as usize];
    let histograms = split_planes(&pieces, &mut sign_mantissa);
    let mut histogram = [0; 256];
    for piece in &histograms {
        for (total, count) in histogram.iter_mut().zip(piece) {
            *total += u64::from(*count);
        }
    }
    // Denser blocks than the published kernel can hold are coded again, a little larger.
    for shortest in [Shortest::Unlimited, Shortest::SpareLeaf, Shortest::TwoBits] {
        let Some(book) = Codebook::with_shortest(&histogram, shortest) else { continue };
        let n_code_bytes = book.n_bits(&histogram).div_ceil(8);
        if n_code_bytes >= 1 << 31 {
            let what = "code bytes of a group";
            return Err(Error::Range { what, value: n_code_bytes, allowed: "1..2^31" });
        }
        let stream = Stream::pack(&pieces, &histograms, &book, n_code_bytes as usize);
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

/// Weights that a thread codes at once. The result does not depend on it.
const PIECE_WEIGHTS: usize = 1 << 18;

/// Little-endian bf16 weights of one matrix, to be coded by one thread.
type Piece<'a> = &'a [[u8; 2]];

fn pieces_of(matrix: &[u8]) -> impl Iterator<Item = Piece<'_>> {
    matrix.as_chunks::<2>().0.chunks(PIECE_WEIGHTS)
}

fn exponent_of(weight: [u8; 2]) -> usize {
    usize::from(u16::from_le_bytes(weight) >> 7 & 0xFF)
}

/// Writes signs and mantissas, and counts the exponents of each piece.
fn split_planes(pieces: &[Piece<'_>], sign_mantissa: &mut [u8]) -> Vec<[u32; 256]> {
    let mut rest = sign_mantissa;
    let mut work = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let (own, after) = rest.split_at_mut(piece.len());
        work.push((*piece, own));
        rest = after;
    }
    parallel::map(work, |(piece, sign_mantissa)| {
        // Four tables, so that equal neighbours do not wait for each other's count.
        let mut counts = [[0_u32; 256]; 4];
        // Small steps, so that the second pass over the weights finds them in the cache.
        for (weights, bytes) in piece.chunks(4096).zip(sign_mantissa.chunks_mut(4096)) {
            for ([low, high], byte) in weights.iter().zip(bytes) {
                *byte = high & 0x80 | low & 0x7F;
            }
            let (fours, rest) = weights.as_chunks::<4>();
            for four in fours {
                for (count, weight) in counts.iter_mut().zip(four) {
                    count[exponent_of(*weight)] += 1;
                }
            }
            for weight in rest {
                counts[0][exponent_of(*weight)] += 1;
            }
        }
        std::array::from_fn(|exponent| counts.iter().map(|count| count[exponent]).sum())
    })
}

/// The packed codes and what finds its way in them.
struct Stream {
    codes: Vec<u8>,
    gaps: Vec<u8>,
    positions: Vec<u32>,
}

impl Stream {
    fn pack(
        pieces: &[Piece<'_>],
        histograms: &[[u32; 256]],
        book: &Codebook,
        n_code_bytes: usize,
    ) -> Self {
        let packer = Packer::new(book);
        let mut bit = 0;
        let mut element = 0;
        let mut next_chunk = 0;
        let mut work = Vec::with_capacity(pieces.len());
        for (piece, histogram) in pieces.iter().zip(histograms) {
            let n_bits = book.n_bits(&histogram.map(u64::from));
            work.push((*piece, Start { bit, element, next_chunk }, n_bits));
            bit += n_bits;
            element += piece.len() as u32;
            if let Some(last) = piece.last() {
                let last_code_bit = bit - u64::from(book.lengths()[exponent_of(*last)]);
                next_chunk = last_code_bit / CHUNK_BITS + 1;
            }
        }
        let parts = parallel::map(work, |(piece, start, n_bits)| packer.pack(piece, start, n_bits));

        let n_blocks = n_code_bytes.div_ceil(BYTES_PER_BLOCK);
        let mut codes: Vec<u8> = Vec::with_capacity(n_code_bytes);
        let mut gaps = Vec::with_capacity(n_blocks * THREADS_PER_BLOCK);
        let mut positions = Vec::with_capacity(n_blocks + 1);
        for part in parts {
            // Two pieces may share a byte.
            let shared = codes.len() - part.first_byte;
            let (first, rest) = part.codes.split_at(shared);
            for (byte, more) in codes[part.first_byte..].iter_mut().zip(first) {
                *byte |= more;
            }
            codes.extend(rest);
            gaps.extend(part.gaps);
            positions.extend(part.positions);
        }
        // Where the last code crosses into a block of its own, that block holds no first code.
        gaps.resize(n_blocks * THREADS_PER_BLOCK, 0);
        positions.resize(n_blocks + 1, element);
        Self { codes, gaps: pack_gaps(&gaps), positions }
    }

    fn densest_block(&self) -> u64 {
        self.positions.windows(2).map(|pair| u64::from(pair[1] - pair[0])).max().unwrap_or(0)
    }
}

/// 5 bits a chunk, most significant bit first.
fn pack_gaps(gaps: &[u8]) -> Vec<u8> {
    let eights = gaps.as_chunks::<8>().0.iter();
    eights
        .flat_map(|eight| {
            let bits = eight.iter().fold(0, |bits, gap| bits << 5 | u64::from(*gap));
            let [_, _, _, bytes @ ..] = bits.to_be_bytes();
            bytes
        })
        .collect()
}

/// Where in the group a piece begins.
#[derive(Debug, Clone, Copy)]
struct Start {
    bit: u64,
    element: u32,
    /// The first chunk in which no code began yet.
    next_chunk: u64,
}

/// A piece, packed.
struct Part {
    /// Where `codes` begins in the group's stream. Bits of it before the piece are zeros.
    first_byte: usize,
    codes: Vec<u8>,
    /// Where the first code begins, of each chunk whose first code is in the piece.
    gaps: Vec<u8>,
    /// The first weight of each block whose first code is in the piece.
    positions: Vec<u32>,
}

/// Code and length of each exponent in one word: one load a weight.
struct Packer([u64; 256]);

impl Packer {
    fn new(book: &Codebook) -> Self {
        let entry = |idx: usize| u64::from(book.codes()[idx]) << 8 | u64::from(book.lengths()[idx]);
        Self(std::array::from_fn(entry))
    }

    /// Code and length.
    fn at(&self, weight: [u8; 2]) -> (u64, u32) {
        let entry = self.0[exponent_of(weight)];
        (entry >> 8, (entry & 0xFF) as u32)
    }

    fn pack(&self, weights: Piece<'_>, start: Start, n_bits: u64) -> Part {
        let head_bits = (start.bit % 8) as u32;
        let n_bytes = (u64::from(head_bits) + n_bits).div_ceil(8) as usize;
        let mut bits = BitWriter::new(n_bytes, head_bits);
        let mut map = Map::new(start);
        let mut bit = start.bit;
        let (fours, rest) = weights.as_chunks::<4>();
        for (idx, four) in fours.iter().enumerate() {
            let [(a, a_bits), (b, b_bits), (c, c_bits), (d, d_bits)] = four.map(|w| self.at(w));
            let n_bits = [a_bits + b_bits, c_bits + d_bits];
            if n_bits[0] + n_bits[1] <= BitWriter::MOST_BITS {
                let codes = (a << b_bits | b) << n_bits[1] | c << d_bits | d;
                bits.put(codes, n_bits[0] + n_bits[1]);
            } else {
                bits.put(a << b_bits | b, n_bits[0]);
                bits.put(c << d_bits | d, n_bits[1]);
            }
            let ends = [a_bits, n_bits[0], n_bits[0] + c_bits, n_bits[0] + n_bits[1]];
            let [b, c, d, end] = ends.map(|end| bit + u64::from(end));
            map.put([bit, b, c, d], start.element + 4 * idx as u32);
            bit = end;
        }
        for (idx, weight) in rest.iter().enumerate() {
            let (code, n_bits) = self.at(*weight);
            bits.put(code, n_bits);
            map.put([bit], start.element + (4 * fours.len() + idx) as u32);
            bit += u64::from(n_bits);
        }
        Part {
            first_byte: (start.bit / 8) as usize,
            codes: bits.finish(n_bytes),
            gaps: map.gaps,
            positions: map.positions,
        }
    }
}

/// Bits, most significant first.
struct BitWriter {
    bytes: Vec<u8>,
    n_bytes: usize,
    /// Bits not yet counted in `n_bytes` are its lowest `n_pending`, 0 to 7.
    pending: u64,
    n_pending: u32,
}

impl BitWriter {
    /// What fits a word beside the bits that wait.
    const MOST_BITS: u32 = 57;

    /// For `n_bytes`, the first `head_bits` bits of which are zeros.
    fn new(n_bytes: usize, head_bits: u32) -> Self {
        // Room for the whole word that the last write writes.
        Self { bytes: vec![0; n_bytes + 8], n_bytes: 0, pending: 0, n_pending: head_bits }
    }

    /// The lowest `n_bits` of `bits`, which has no others.
    fn put(&mut self, bits: u64, n_bits: u32) {
        if n_bits > Self::MOST_BITS {
            self.put(bits >> 32, n_bits - 32);
            return self.put(bits & 0xFFFF_FFFF, 32);
        }
        self.pending = self.pending << n_bits | bits;
        self.n_pending += n_bits;
        let word = self.pending << (64 - self.n_pending);
        self.bytes[self.n_bytes..self.n_bytes + 8].copy_from_slice(&word.to_be_bytes());
        self.n_bytes += (self.n_pending / 8) as usize;
        self.n_pending %= 8;
    }

    fn finish(mut self, n_bytes: usize) -> Vec<u8> {
        self.bytes.truncate(n_bytes);
        self.bytes
    }
}

/// Gaps and positions, as codes go by.
struct Map {
    gaps: Vec<u8>,
    positions: Vec<u32>,
    next_chunk: u64,
}

impl Map {
    fn new(start: Start) -> Self {
        Self { gaps: Vec::new(), positions: Vec::new(), next_chunk: start.next_chunk }
    }

    /// Neighbouring codes begin at these bits, the first of them that of weight `element`.
    fn put<const N: usize>(&mut self, code_bits: [u64; N], element: u32) {
        while code_bits[N - 1] >= self.next_chunk * CHUNK_BITS {
            let chunk_bit = self.next_chunk * CHUNK_BITS;
            let n_before = code_bits.iter().filter(|bit| **bit < chunk_bit).count();
            self.gaps.push((code_bits[n_before] - chunk_bit) as u8);
            if self.next_chunk.is_multiple_of(THREADS_PER_BLOCK as u64) {
                self.positions.push(element + n_before as u32);
            }
            self.next_chunk += 1;
        }
    }
}
