//! Codes into bits, and what finds its way in them: the inner loop of the encoder.

use super::indexed::GRANULE_WEIGHTS;
use super::{BYTES_PER_THREAD, THREADS_PER_BLOCK};

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
}

/// A piece, packed.
pub(super) struct Part<N> {
    /// Where `codes` begins in the group's stream, a multiple of 8. Bits of it before the piece are
    /// zeros.
    pub(super) first_byte: usize,
    pub(super) codes: Vec<u8>,
    pub(super) notes: N,
}

/// One stream of `n_bytes` of the pieces' codes, two of which may share a byte; and their notes.
pub(super) fn join<N>(parts: Vec<Part<N>>, n_bytes: usize) -> (Vec<u8>, Vec<N>) {
    let mut codes: Vec<u8> = Vec::with_capacity(n_bytes);
    let mut notes = Vec::with_capacity(parts.len());
    for part in parts {
        let shared = codes.len() - part.first_byte;
        let (first, rest) = part.codes.split_at(shared);
        for (byte, more) in codes[part.first_byte..].iter_mut().zip(first) {
            *byte |= more;
        }
        codes.extend(rest);
        notes.push(part.notes);
    }
    (codes, notes)
}

/// What a format keeps of where codes begin. Bits are counted from the first byte of a part, and
/// the codes of a run from its first weight.
pub(super) trait Notes {
    /// How many weights the next run has at most, whose first is `element`.
    fn run_len(&self, element: u32) -> usize;

    /// A group of `N` codes begins at bit `bit`, of the run's weight `idx`. Until the run is ended
    /// this may be taken back, by another first group.
    fn note_group(&mut self, idx: usize, bit: usize);

    /// All codes of a run went out in groups of `N`, the first at bit `begin`; the last ends at `end`.
    fn end_groups<const N: usize>(&mut self, packer: &Packer, run: &Run<'_>, end: usize);

    /// The code of the run's weight `idx`, that went out by itself, begins at bit `bit`.
    fn note_code(&mut self, run: &Run<'_>, idx: usize, bit: usize);
}

/// Weights that are coded in one go.
pub(super) struct Run<'a> {
    exponents: &'a [u8],
    /// Of the first of them.
    element: u32,
    bit: usize,
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
    /// Of codes of up to 32 bits, right-aligned, and their lengths.
    pub(super) fn new(codes: &[u32; 256], lengths: &[u8; 256]) -> Self {
        let singles: [u64; 256] = std::array::from_fn(|idx| match u32::from(lengths[idx]) {
            0 => 0,
            length => u64::from(codes[idx]) << (64 - length) | u64::from(length),
        });
        // A code of n bits is for one weight in about 2^n.
        let share = |base: &usize| -> u64 {
            let lengths = lengths[*base..*base + N_COMMON].iter().filter(|l| **l > 0);
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

    /// Bits of the last code of a piece.
    pub(super) fn last_length(&self, piece: Piece<'_>) -> u64 {
        piece
            .last()
            .map_or(0, |last| self.length(exponents_of(&[*last], &mut [0; RUN_WEIGHTS])[0]) as u64)
    }

    /// Packs a piece whose codes have `n_bits`.
    pub(super) fn pack<N: Notes>(
        &self,
        piece: Piece<'_>,
        start: Start,
        n_bits: u64,
        notes: N,
    ) -> Part<N> {
        let mut writer = Writer::new(self, start, n_bits, notes);
        let mut scratch = [0; RUN_WEIGHTS];
        let mut rest = piece;
        while !rest.is_empty() {
            let n_weights = writer.notes.run_len(writer.element).min(rest.len());
            let (run, after) = rest.split_at(n_weights);
            writer.put_run(exponents_of(run, &mut scratch));
            rest = after;
        }
        writer.finish()
    }
}

/// Writes a piece, and counts bits from the chunk it begins in.
struct Writer<'a, N> {
    packer: &'a Packer,
    first_byte: usize,
    /// With room for the whole word that the last write writes.
    bytes: Vec<u8>,
    n_bytes: usize,
    cursor: Cursor,
    /// The next weight.
    element: u32,
    notes: N,
}

/// Bits of codes that go out together: with those that wait, less than a word.
const MOST_BITS: usize = 56;

impl<'a, N: Notes> Writer<'a, N> {
    fn new(packer: &'a Packer, start: Start, n_bits: u64, notes: N) -> Self {
        let first_chunk = (start.bit / CHUNK_BITS as u64) as usize;
        let bit = (start.bit % CHUNK_BITS as u64) as usize;
        let n_bytes = (bit + n_bits as usize).div_ceil(8);
        Self {
            packer,
            first_byte: first_chunk * BYTES_PER_THREAD,
            bytes: vec![0; n_bytes + 8],
            n_bytes,
            cursor: Cursor { n_bytes: bit / 8, waiting: 0, n_waiting: bit % 8 },
            element: start.element,
            notes,
        }
    }

    fn put_run(&mut self, exponents: &[u8]) {
        let run = Run { exponents, element: self.element, bit: self.cursor.bit() };
        if !self.put_eights(&run) && !self.put_fours(&run) {
            self.put_singly(&run);
        }
        self.element += exponents.len() as u32;
    }

    fn put_singly(&mut self, run: &Run<'_>) {
        for (idx, exponent) in run.exponents.iter().enumerate() {
            self.notes.note_code(run, idx, self.cursor.bit());
            let code = self.packer.at(*exponent) & !0xFF;
            self.cursor.waiting |= code >> self.cursor.n_waiting;
            self.cursor.write(&mut self.bytes, self.packer.length(*exponent));
        }
    }

    /// Says `false`, and does nothing that counts, where it cannot put them so.
    fn put_eights(&mut self, run: &Run<'_>) -> bool {
        let mut scratch = [0; RUN_WEIGHTS / 2];
        let packer = self.packer;
        match packer.pairs_of(run.exponents, &mut scratch) {
            Some(pairs) if run.exponents.len().is_multiple_of(8) => {
                self.put_groups::<8, u16>(run, pairs.as_chunks().0, |pair| {
                    packer.pairs[usize::from(pair) % (N_COMMON * N_COMMON)]
                })
            }
            _ => false,
        }
    }

    /// Says `false`, and does nothing that counts, where it cannot put them so.
    fn put_fours(&mut self, run: &Run<'_>) -> bool {
        let packer = self.packer;
        let (fours, rest) = run.exponents.as_chunks();
        rest.is_empty() && self.put_groups::<4, u8>(run, fours, |exponent| packer.at(exponent))
    }

    /// Puts groups of `LEN` codes, each from four entries. Says `false`, and does nothing that
    /// counts, where a group is longer than [`MOST_BITS`].
    #[inline(always)]
    fn put_groups<const LEN: usize, T: Copy>(
        &mut self,
        run: &Run<'_>,
        groups: &[[T; 4]],
        entry_of: impl Fn(T) -> u64,
    ) -> bool {
        let mut cursor = self.cursor;
        let mut longest = 0;
        for (idx, group) in groups.iter().enumerate() {
            self.notes.note_group(LEN * idx, cursor.bit());
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
        self.notes.end_groups::<LEN>(self.packer, run, cursor.bit());
        self.cursor = cursor;
        true
    }

    fn finish(mut self) -> Part<N> {
        self.bytes.truncate(self.n_bytes);
        Part { first_byte: self.first_byte, codes: self.bytes, notes: self.notes }
    }
}

/// DF11's: the first code of each chunk of 64 bits, and the first weight of each block.
pub(super) struct Chunks {
    /// The number in the group of the chunk that the piece begins in.
    first_chunk: usize,
    /// The first chunk in which no code began yet, counted from there.
    next_chunk: usize,
    /// Where the first code begins, of each chunk whose first code is in the piece.
    pub(super) gaps: Vec<u8>,
    /// The first weight of each block whose first code is in the piece.
    pub(super) positions: Vec<u32>,
    /// For each of the latest chunks, by number modulo their count: the last group of codes of the
    /// run that begins in it, by its first weight, and the bit where.
    latest: [(u32, u32); N_LATEST],
}

/// More than the chunks of a run that goes out in groups of four codes or more.
const N_LATEST: usize = 1024;
const _: () = assert!(RUN_WEIGHTS / 4 * MOST_BITS / CHUNK_BITS + 2 <= N_LATEST);

impl Chunks {
    /// Of a piece whose codes begin at bit `bit` and have `n_bits`, where `next_chunk` is the first
    /// in which no code began yet.
    pub(super) fn new(bit: u64, n_bits: u64, next_chunk: u64) -> Self {
        let first_chunk = bit / CHUNK_BITS as u64;
        Self {
            first_chunk: first_chunk as usize,
            next_chunk: (next_chunk - first_chunk) as usize,
            gaps: Vec::with_capacity(n_bits as usize / CHUNK_BITS + 2),
            positions: Vec::new(),
            latest: [(0, 0); N_LATEST],
        }
    }

    /// The first chunk in which no code begins, up to one that begins at bit `bit`.
    pub(super) fn after(bit: u64) -> u64 {
        bit / CHUNK_BITS as u64 + 1
    }
}

impl Notes for Chunks {
    fn run_len(&self, _: u32) -> usize {
        RUN_WEIGHTS
    }

    #[inline(always)]
    fn note_group(&mut self, idx: usize, bit: usize) {
        self.latest[bit / CHUNK_BITS % N_LATEST] = (idx as u32, bit as u32);
    }

    fn end_groups<const N: usize>(&mut self, packer: &Packer, run: &Run<'_>, end: usize) {
        let Some(last) = run.exponents.last() else { return };
        self.note_code(run, 0, run.bit);
        let last_code = end - packer.length(*last);
        for chunk in self.next_chunk..=last_code / CHUNK_BITS {
            // It begins in the group that began last in the chunk before, or right after it.
            let (first, bit) = self.latest[(chunk - 1) % N_LATEST];
            let (first, chunk_bit) = (first as usize, chunk * CHUNK_BITS);
            let codes = run.exponents[first..].first_chunk().unwrap_or(&[0; N]);
            let starts = packer.ends(bit as usize, *codes);
            let n_before = starts[..N - 1].iter().filter(|start| **start < chunk_bit).count();
            self.note_code(run, first + n_before + 1, starts[n_before]);
        }
    }

    /// Notes the code if it is the first of its chunk.
    #[inline(always)]
    fn note_code(&mut self, run: &Run<'_>, idx: usize, bit: usize) {
        let Some(gap) = bit.checked_sub(self.next_chunk * CHUNK_BITS) else { return };
        self.gaps.push(gap as u8);
        if (self.first_chunk + self.next_chunk).is_multiple_of(THREADS_PER_BLOCK) {
            self.positions.push(run.element + idx as u32);
        }
        self.next_chunk += 1;
    }
}

/// The bits at which granules of 128 weights begin.
pub(super) struct Granules {
    pub(super) starts: Vec<u64>,
    /// The bit that the writer counts from.
    first_bit: u64,
    /// Of the run's granules; before the first of them nothing.
    latest: [u64; RUN_WEIGHTS / GRANULE_WEIGHTS + 1],
}

impl Granules {
    /// Of a piece of `n_weights` whose codes begin at bit `bit`.
    pub(super) fn new(bit: u64, n_weights: usize) -> Self {
        Self {
            starts: Vec::with_capacity(n_weights / GRANULE_WEIGHTS + 2),
            first_bit: bit / CHUNK_BITS as u64 * CHUNK_BITS as u64,
            latest: [0; RUN_WEIGHTS / GRANULE_WEIGHTS + 1],
        }
    }
}

impl Notes for Granules {
    /// Runs begin where granules do, or end where the first one does.
    fn run_len(&self, element: u32) -> usize {
        match element as usize % GRANULE_WEIGHTS {
            0 => RUN_WEIGHTS,
            n_before => GRANULE_WEIGHTS - n_before,
        }
    }

    /// The last group that has a place here is the one that begins where the granule does.
    #[inline(always)]
    fn note_group(&mut self, idx: usize, bit: usize) {
        let place = idx.div_ceil(GRANULE_WEIGHTS) % self.latest.len();
        self.latest[place] = self.first_bit + bit as u64;
    }

    fn end_groups<const N: usize>(&mut self, _: &Packer, run: &Run<'_>, _: usize) {
        if (run.element as usize).is_multiple_of(GRANULE_WEIGHTS) {
            let n_granules = run.exponents.len().div_ceil(GRANULE_WEIGHTS);
            self.starts.extend_from_slice(&self.latest[..n_granules]);
        }
    }

    fn note_code(&mut self, run: &Run<'_>, idx: usize, bit: usize) {
        if (run.element as usize + idx).is_multiple_of(GRANULE_WEIGHTS) {
            self.starts.push(self.first_bit + bit as u64);
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
