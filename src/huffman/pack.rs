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

/// Codes, left-aligned, with their lengths in the lowest byte.
pub(super) struct Packer {
    singles: [u64; 256],
    /// Of two neighbours among [`N_COMMON`] exponents from `base` on, by both: the first one's place
    /// in the lower bits. A length above [`MOST_BITS`] comes without codes.
    pairs: Box<[u64; N_COMMON * N_COMMON]>,
    base: u8,
}

/// Trained weights rarely have other exponents than these many neighbours.
const N_COMMON: usize = 32;

impl Packer {
    pub(super) fn new(book: &Codebook) -> Self {
        let singles: [u64; 256] = std::array::from_fn(|idx| match u32::from(book.lengths()[idx]) {
            0 => 0,
            length => u64::from(book.codes()[idx]) << (64 - length) | u64::from(length),
        });
        // A code of n bits is for one weight in about 2^n.
        let share = |base: &usize| -> u64 {
            let lengths = book.lengths()[*base..*base + N_COMMON].iter().filter(|l| **l > 0);
            lengths.map(|length| 1 << (32 - length)).sum()
        };
        let base = (0..=256 - N_COMMON).max_by_key(share).unwrap_or(0);
        let pair = |idx: usize| {
            let [first, second] = [idx % N_COMMON, idx / N_COMMON].map(|own| singles[base + own]);
            let [first_length, length] = [first & 0xFF, (first & 0xFF) + (second & 0xFF)];
            // Sums of four stay below 256.
            if length > MOST_BITS as u64 {
                return length.min(63);
            }
            (first & !0xFF) | (second & !0xFF) >> first_length | length
        };
        let pairs = Box::new(std::array::from_fn(pair));
        Self { singles, pairs, base: base as u8 }
    }

    fn at(&self, exponent: u8) -> u64 {
        self.singles[usize::from(exponent)]
    }

    fn length(&self, exponent: u8) -> usize {
        usize::from(self.at(exponent) as u8)
    }

    /// Where each of a run's pairs is in `pairs`, written to `scratch`; `None` where some exponent
    /// is none of the common ones.
    fn pairs_of<'a>(
        &self,
        exponents: &[u8],
        scratch: &'a mut [u16; RUN_WEIGHTS / 2],
    ) -> Option<&'a [u16]> {
        let base = u16::from_le_bytes([self.base; 2]);
        let pairs = &mut scratch[..exponents.len() / 2];
        let mut seen = 0;
        for (pair, both) in pairs.iter_mut().zip(exponents.as_chunks().0) {
            // Where the first is below the base, it is far above it now, and the second is off by 1.
            let places = u16::from_le_bytes(*both).wrapping_sub(base);
            seen |= places;
            *pair = places & 31 | (places >> 3 & 31 << 5);
        }
        (seen & 0xE0E0 == 0).then_some(pairs)
    }

    /// Where each of these codes ends, the first of which begins at bit `bit`.
    #[inline(always)]
    fn ends<const N: usize>(&self, bit: usize, exponents: [u8; N]) -> [usize; N] {
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
    /// For each of the latest chunks, by number modulo their count: the last group of codes of the
    /// run that begins in it, and the bit where.
    latest: [(u32, u32); N_LATEST],
}

/// Bits of codes that go out together: with those that wait, less than a word.
const MOST_BITS: usize = 56;
/// More than the chunks of a run that goes out in groups of four codes or more.
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
            latest: [(0, 0); N_LATEST],
        }
    }

    fn put_run(&mut self, exponents: &[u8]) {
        if !self.put_eights(exponents) && !self.put_fours(exponents) {
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

    /// Says `false`, and does nothing that counts, where it cannot put them so.
    fn put_eights(&mut self, exponents: &[u8]) -> bool {
        let mut scratch = [0; RUN_WEIGHTS / 2];
        let packer = self.packer;
        match packer.pairs_of(exponents, &mut scratch) {
            Some(pairs) if exponents.len().is_multiple_of(8) => {
                self.put_groups::<8, u16>(exponents, pairs.as_chunks().0, |pair| {
                    packer.pairs[usize::from(pair) % (N_COMMON * N_COMMON)]
                })
            }
            _ => false,
        }
    }

    /// Says `false`, and does nothing that counts, where it cannot put them so.
    fn put_fours(&mut self, exponents: &[u8]) -> bool {
        let packer = self.packer;
        let (fours, rest) = exponents.as_chunks();
        rest.is_empty()
            && self.put_groups::<4, u8>(exponents, fours, |exponent| packer.at(exponent))
    }

    /// Puts groups of `N` codes, each from four entries. Says `false`, and does nothing that
    /// counts, where a group is longer than [`MOST_BITS`].
    #[inline(always)]
    fn put_groups<const N: usize, T: Copy>(
        &mut self,
        exponents: &[u8],
        groups: &[[T; 4]],
        entry_of: impl Fn(T) -> u64,
    ) -> bool {
        let mut cursor = self.cursor;
        let mut longest = 0;
        for (idx, group) in groups.iter().enumerate() {
            let bit = cursor.bit();
            self.latest[bit / CHUNK_BITS % N_LATEST] = (idx as u32, bit as u32);
            let [a, b, c, d] = group.map(&entry_of);
            // Shifts see the lowest six bits of these sums, which are those of the lengths' sums.
            let ends = [a, a.wrapping_add(b), a.wrapping_add(b).wrapping_add(c)];
            let word = a | b >> (ends[0] % 64) | c >> (ends[1] % 64) | d >> (ends[2] % 64);
            let end = usize::from(ends[2].wrapping_add(d) as u8);
            // What waits is all that one group needs of the one before it.
            cursor.waiting |= (word & !0xFF) >> cursor.n_waiting;
            longest = longest.max(end);
            cursor.write(&mut self.bytes, end);
        }
        if longest > MOST_BITS {
            return false;
        }
        self.note_groups::<N>(exponents, cursor.bit());
        self.cursor = cursor;
        true
    }

    /// Notes which of the run's codes, which end at bit `end`, are the first of their chunks.
    fn note_groups<const N: usize>(&mut self, exponents: &[u8], end: usize) {
        let Some(last) = exponents.last() else { return };
        self.note_code(self.cursor.bit(), 0);
        let last_code = end - self.packer.length(*last);
        for chunk in self.next_chunk..=last_code / CHUNK_BITS {
            // It begins in the group that began last in the chunk before, or right after it.
            let (group, bit) = self.latest[(chunk - 1) % N_LATEST];
            let (first, chunk_bit) = (N * group as usize, chunk * CHUNK_BITS);
            let codes = exponents[first..].first_chunk().unwrap_or(&[0; N]);
            let starts = self.packer.ends(bit as usize, *codes);
            let n_before = starts[..N - 1].iter().filter(|start| **start < chunk_bit).count();
            self.note_code(starts[n_before], first + n_before + 1);
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
