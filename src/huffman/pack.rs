//! Codes into bits, and what finds its way in them: the inner loop of the encoder.

use super::{BYTES_PER_THREAD, Codebook, THREADS_PER_BLOCK};

/// Weights that are coded in one go, few enough that what is known of them stays in the first cache.
pub(super) const RUN_WEIGHTS: usize = 4096;
/// Bits of the code stream that one CUDA thread owns.
const CHUNK_BITS: usize = 8 * BYTES_PER_THREAD;

/// Little-endian bf16 weights of one matrix, to be coded by one thread.
pub(super) type Piece<'a> = &'a [[u8; 2]];

/// The exponents of a run, written to `scratch`.
pub(super) fn exponents_of<'a>(run: Piece<'_>, scratch: &'a mut [u8; RUN_WEIGHTS]) -> &'a [u8] {
    let exponents = &mut scratch[..run.len()];
    for (exponent, weight) in exponents.iter_mut().zip(run) {
        *exponent = (u16::from_le_bytes(*weight) >> 7) as u8;
    }
    exponents
}

/// Where in the group a piece begins.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Start {
    pub(super) bit: u64,
    pub(super) element: u32,
    /// The first chunk in which no code began yet.
    next_chunk: u64,
}

/// A piece, packed.
pub(super) struct Part {
    /// Where `codes` begins in the group's stream. Bits of it before the piece are zeros.
    pub(super) first_byte: usize,
    pub(super) codes: Vec<u8>,
    /// Where the first code begins, of each chunk whose first code is in the piece.
    pub(super) gaps: Vec<u8>,
    /// The first weight of each block whose first code is in the piece.
    pub(super) positions: Vec<u32>,
}

/// Of each exponent, the code, left-aligned, and its length in the lowest byte.
pub(super) struct Packer([u64; 256]);

impl Packer {
    pub(super) fn new(book: &Codebook) -> Self {
        Self(std::array::from_fn(|exponent| match u32::from(book.lengths()[exponent]) {
            0 => 0,
            length => u64::from(book.codes()[exponent]) << (64 - length) | u64::from(length),
        }))
    }

    fn at(&self, exponent: u8) -> u64 {
        self.0[usize::from(exponent)]
    }

    fn length(&self, exponent: u8) -> usize {
        usize::from(self.at(exponent) as u8)
    }

    /// Where each of four codes ends, the first of which begins at bit `bit`.
    #[inline(always)]
    fn ends(&self, bit: usize, exponents: [u8; 4]) -> [usize; 4] {
        let mut end = bit;
        exponents.map(|exponent| {
            end += self.length(exponent);
            end
        })
    }

    /// Where the piece after `piece` begins, which begins at `start` and has codes of `n_bits`.
    pub(super) fn start_after(&self, start: Start, piece: Piece<'_>, n_bits: u64) -> Start {
        let bit = start.bit + n_bits;
        let last_length = piece
            .last()
            .map_or(0, |last| self.length(exponents_of(&[*last], &mut [0; RUN_WEIGHTS])[0]) as u64);
        Start {
            bit,
            element: start.element + piece.len() as u32,
            next_chunk: (bit - last_length) / CHUNK_BITS as u64 + 1,
        }
    }

    /// Packs a piece whose codes have `n_bits`.
    pub(super) fn pack(&self, piece: Piece<'_>, start: Start, n_bits: u64) -> Part {
        let mut writer = Writer::new(self, start, n_bits);
        let mut scratch = [0; RUN_WEIGHTS];
        for run in piece.chunks(RUN_WEIGHTS) {
            writer.put_run(exponents_of(run, &mut scratch));
        }
        writer.finish()
    }
}

/// Writes a piece, and counts bits and chunks from the chunk it begins in.
struct Writer<'a> {
    packer: &'a Packer,
    /// That chunk's number in the group.
    first_chunk: usize,
    /// With room for the whole word that the last write writes.
    bytes: Vec<u8>,
    n_bytes: usize,
    cursor: Cursor,
    /// The next weight.
    element: u32,
    /// The first chunk in which no code began yet.
    next_chunk: usize,
    gaps: Vec<u8>,
    positions: Vec<u32>,
    /// For each of the latest chunks, by number modulo their count: the last four codes of the run
    /// that begin in it together, and the bit where.
    last_fours: [(u32, u32); N_LATEST],
}

/// Bits of four codes that go out together: with those that wait, less than a word.
const MOST_BITS: usize = 56;
/// More than the chunks of a run that goes out four codes at a time.
const N_LATEST: usize = 1024;
const _: () = assert!(RUN_WEIGHTS / 4 * MOST_BITS / CHUNK_BITS + 2 <= N_LATEST);

impl<'a> Writer<'a> {
    fn new(packer: &'a Packer, start: Start, n_bits: u64) -> Self {
        let first_chunk = (start.bit / CHUNK_BITS as u64) as usize;
        let bit = (start.bit % CHUNK_BITS as u64) as usize;
        let n_bytes = (bit + n_bits as usize).div_ceil(8);
        Self {
            packer,
            first_chunk,
            bytes: vec![0; n_bytes + 8],
            n_bytes,
            cursor: Cursor { n_bytes: bit / 8, waiting: 0, n_waiting: bit % 8 },
            element: start.element,
            next_chunk: start.next_chunk as usize - first_chunk,
            gaps: Vec::with_capacity(n_bytes / BYTES_PER_THREAD + 1),
            positions: Vec::new(),
            last_fours: [(0, 0); N_LATEST],
        }
    }

    fn put_run(&mut self, exponents: &[u8]) {
        if !self.put_fours(exponents) {
            self.put_singly(exponents);
        }
        self.element += exponents.len() as u32;
    }

    fn put_singly(&mut self, exponents: &[u8]) {
        for (idx, exponent) in exponents.iter().enumerate() {
            self.note_code(self.cursor.bit(), idx);
            let code = self.packer.at(*exponent) & !0xFF;
            self.cursor.waiting |= code >> self.cursor.n_waiting;
            self.cursor.write(&mut self.bytes, self.packer.length(*exponent));
        }
    }

    /// Says `false`, and does nothing that counts, where they are not fours, or four of them are
    /// too long.
    fn put_fours(&mut self, exponents: &[u8]) -> bool {
        let (fours, []) = exponents.as_chunks::<4>() else { return false };
        let packer = self.packer;
        let mut cursor = self.cursor;
        let mut longest = 0;
        for (idx, four) in fours.iter().enumerate() {
            let bit = cursor.bit();
            self.last_fours[bit / CHUNK_BITS % N_LATEST] = (idx as u32, bit as u32);
            let [a, b, c, d] = four.map(|exponent| packer.at(exponent));
            // Shifts see the lowest six bits of these sums, which are those of the lengths' sums.
            let ends = [a, a.wrapping_add(b), a.wrapping_add(b).wrapping_add(c)];
            let word = a | b >> (ends[0] % 64) | c >> (ends[1] % 64) | d >> (ends[2] % 64);
            let end = usize::from(ends[2].wrapping_add(d) as u8);
            // What waits is all that one four needs of the four before it.
            cursor.waiting |= (word & !0xFF) >> cursor.n_waiting;
            longest = longest.max(end);
            cursor.write(&mut self.bytes, end);
        }
        if longest > MOST_BITS {
            return false;
        }
        self.note_fours(exponents, cursor.bit());
        self.cursor = cursor;
        true
    }

    /// Notes which of the run's codes, which end at bit `end`, are the first of their chunks.
    fn note_fours(&mut self, exponents: &[u8], end: usize) {
        let Some(last) = exponents.last() else { return };
        self.note_code(self.cursor.bit(), 0);
        let last_code = end - self.packer.length(*last);
        for chunk in self.next_chunk..=last_code / CHUNK_BITS {
            // It begins in the four that began in the chunk before, or right after them.
            let (four, bit) = self.last_fours[(chunk - 1) % N_LATEST];
            let (four, chunk_bit) = (four as usize, chunk * CHUNK_BITS);
            let codes = exponents[4 * four..].first_chunk().unwrap_or(&[0; 4]);
            let starts = self.packer.ends(bit as usize, *codes);
            let n_before = starts[..3].iter().filter(|start| **start < chunk_bit).count();
            self.note_code(starts[n_before], 4 * four + n_before + 1);
        }
    }

    /// Notes the code that begins at bit `bit`, of the weight `idx` after the run's first, if it is
    /// the first of its chunk.
    #[inline(always)]
    fn note_code(&mut self, bit: usize, idx: usize) {
        let Some(gap) = bit.checked_sub(self.next_chunk * CHUNK_BITS) else { return };
        self.gaps.push(gap as u8);
        if (self.first_chunk + self.next_chunk).is_multiple_of(THREADS_PER_BLOCK) {
            self.positions.push(self.element + idx as u32);
        }
        self.next_chunk += 1;
    }

    fn finish(mut self) -> Part {
        self.bytes.truncate(self.n_bytes);
        Part {
            first_byte: self.first_chunk * BYTES_PER_THREAD,
            codes: self.bytes,
            gaps: self.gaps,
            positions: self.positions,
        }
    }
}

/// Where bits go, most significant first.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    /// Whole bytes written.
    n_bytes: usize,
    /// Bits that wait for a byte of their own, left-aligned, 0 to 7.
    waiting: u64,
    n_waiting: usize,
}

impl Cursor {
    fn bit(&self) -> usize {
        8 * self.n_bytes + self.n_waiting
    }

    /// Writes what waits, to which `n_bits` were added.
    #[inline(always)]
    fn write(&mut self, bytes: &mut [u8], n_bits: usize) {
        let n_waiting = self.n_waiting + n_bits;
        bytes[self.n_bytes..self.n_bytes + 8].copy_from_slice(&self.waiting.to_be_bytes());
        self.n_bytes += n_waiting / 8;
        self.waiting <<= (n_waiting & !7) % 64;
        self.n_waiting = n_waiting % 8;
    }
}
