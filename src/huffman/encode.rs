//! bf16 weights to the six tensors of a DF11 group.

use super::codebook::Shortest;
use super::pack::{Chunks, Packer, Piece, RUN_WEIGHTS, Start, exponents_of, join};
use super::plan::check_range;
use super::{
    BYTES_PER_BLOCK, Codebook, GAP_BYTES_PER_BLOCK, PUBLISHED_BLOCK_ELEMENTS, RawGroup,
    THREADS_PER_BLOCK, parallel,
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
    let Split { pieces, histograms, histogram, sign_mantissa, split_positions } =
        Split::new(matrices)?;
    let mut chosen = Chosen::new(&histogram)?;
    loop {
        let Measured { book, n_code_bytes } = &chosen.measured;
        let stream = Stream::pack(&pieces, &histograms, book, *n_code_bytes as usize);
        if densest_block(&stream.positions) > PUBLISHED_BLOCK_ELEMENTS
            && let Some(longer) = chosen.lengthen(&histogram)?
        {
            chosen = longer;
            continue;
        }
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

/// A code, and how long a group's stream is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// The code.
    pub book: Codebook,
    /// Bytes of the group's codes.
    pub n_code_bytes: u64,
}

impl Measured {
    /// Bytes of the tensor `gaps`.
    pub fn gaps_len(&self) -> u64 {
        chain_lens(self.n_code_bytes)[0]
    }

    /// Bytes of the tensor `output_positions`.
    pub fn output_positions_len(&self) -> u64 {
        chain_lens(self.n_code_bytes)[1]
    }
}

/// Bytes of the tensors `gaps` and `output_positions`.
pub(super) fn chain_lens(n_code_bytes: u64) -> [u64; 2] {
    let n_blocks = n_code_bytes.div_ceil(BYTES_PER_BLOCK as u64);
    [GAP_BYTES_PER_BLOCK as u64 * n_blocks, 4 * (n_blocks + 1)]
}

/// A code, and how it was limited.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    pub(super) measured: Measured,
    shortest: Shortest,
}

impl Chosen {
    /// The smallest code of a group of at least one weight.
    pub(super) fn new(histogram: &[u64; 256]) -> Result<Self> {
        let first = Self::choose(histogram, Some(Shortest::Unlimited))?;
        Ok(first.expect("two-bit codes hold any histogram of at least one weight"))
    }

    /// The next, whose codes are a little longer; `None` where none is denser than published decoders hold.
    pub(super) fn lengthen(&self, histogram: &[u64; 256]) -> Result<Option<Self>> {
        Self::choose(histogram, self.shortest.next())
    }

    fn choose(histogram: &[u64; 256], mut shortest: Option<Shortest>) -> Result<Option<Self>> {
        while let Some(own) = shortest {
            if let Some(book) = Codebook::with_shortest(histogram, own) {
                let n_code_bytes = book.n_bits(histogram).div_ceil(8);
                check_range("code bytes of a group", n_code_bytes, 1..1 << 31, "1..2^31")?;
                let measured = Measured { book, n_code_bytes };
                return Ok(Some(Self { measured, shortest: own }));
            }
            shortest = own.next();
        }
        Ok(None)
    }
}

/// Weights of the block that has most, by where blocks begin, and the end.
pub(super) fn densest_block(positions: &[u32]) -> u64 {
    positions.windows(2).map(|pair| u64::from(pair[1].saturating_sub(pair[0]))).max().unwrap_or(0)
}

/// A group's weights, apart into what is coded and what is not.
pub(super) struct Split<'a> {
    pub(super) pieces: Vec<Piece<'a>>,
    /// How many weights of each exponent each piece has.
    pub(super) histograms: Vec<[u32; 256]>,
    /// And all of them.
    pub(super) histogram: [u64; 256],
    pub(super) sign_mantissa: Vec<u8>,
    pub(super) split_positions: Vec<u8>,
}

impl<'a> Split<'a> {
    pub(super) fn new(matrices: &[&'a [u8]]) -> Result<Self> {
        let mut n_elements = 0_u64;
        let mut split_positions = Vec::new();
        for (idx, matrix) in matrices.iter().enumerate() {
            if matrix.len() % 2 != 0 {
                let got = matrix.len() as u64;
                return Err(Error::Shape {
                    what: "bytes of a bf16 matrix",
                    expected: got + 1,
                    got,
                });
            }
            if matrix.is_empty() {
                let what = "weights of a matrix";
                return Err(Error::Range { what, value: 0, allowed: "1..2^32" });
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
        let pieces: Vec<_> = matrices.iter().copied().flat_map(pieces_of).collect();
        let mut sign_mantissa = vec![0; n_elements as usize];
        let histograms = split_planes(&pieces, &mut sign_mantissa);
        let mut histogram = [0; 256];
        for piece in &histograms {
            for (total, count) in histogram.iter_mut().zip(piece) {
                *total += u64::from(*count);
            }
        }
        Ok(Self { pieces, histograms, histogram, sign_mantissa, split_positions })
    }
}

/// Bits of the codes of so many weights of each exponent.
pub(super) fn count_bits(histogram: &[u32; 256], lengths: &[u8; 256]) -> u64 {
    let bits = |(count, length): (&u32, &u8)| u64::from(*count) * u64::from(*length);
    histogram.iter().zip(lengths).map(bits).sum()
}

/// Weights that a thread codes at once. The result does not depend on it.
const PIECE_WEIGHTS: usize = 1 << 18;

fn pieces_of(matrix: &[u8]) -> impl Iterator<Item = Piece<'_>> {
    matrix.as_chunks::<2>().0.chunks(PIECE_WEIGHTS)
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
        let mut scratch = [0; RUN_WEIGHTS];
        for (run, bytes) in piece.chunks(RUN_WEIGHTS).zip(sign_mantissa.chunks_mut(RUN_WEIGHTS)) {
            for (weight, byte) in run.iter().zip(bytes) {
                let weight = u16::from_le_bytes(*weight);
                *byte = (weight >> 8 & 0x80 | weight & 0x7F) as u8;
            }
            let (fours, rest) = exponents_of(run, &mut scratch).as_chunks::<4>();
            for four in fours {
                for (count, exponent) in counts.iter_mut().zip(four) {
                    count[usize::from(*exponent)] += 1;
                }
            }
            for exponent in rest {
                counts[0][usize::from(*exponent)] += 1;
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
        let packer = Packer::new(book.codes(), book.lengths());
        let (mut start, mut next_chunk) = (Start::default(), 0);
        let mut work = Vec::with_capacity(pieces.len());
        for (piece, histogram) in pieces.iter().zip(histograms) {
            let n_bits = count_bits(histogram, book.lengths());
            work.push((*piece, start, n_bits, next_chunk));
            start.bit += n_bits;
            start.element += piece.len() as u32;
            next_chunk = Chunks::after(start.bit - packer.last_length(piece));
        }
        let parts = parallel::map(work, |(piece, start, n_bits, next_chunk)| {
            packer.pack(piece, start, n_bits, Chunks::new(start.bit, n_bits, next_chunk))
        });

        let n_blocks = n_code_bytes.div_ceil(BYTES_PER_BLOCK);
        let (codes, notes) = join(parts, n_code_bytes);
        let mut gaps = Vec::with_capacity(n_blocks * THREADS_PER_BLOCK);
        let mut positions = Vec::with_capacity(n_blocks + 1);
        for chunks in notes {
            gaps.extend(chunks.gaps);
            positions.extend(chunks.positions);
        }
        // Where the last code crosses into a block of its own, that block holds no first code.
        gaps.resize(n_blocks * THREADS_PER_BLOCK, 0);
        positions.resize(n_blocks + 1, start.element);
        Self { codes, gaps: pack_gaps(&gaps), positions }
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
