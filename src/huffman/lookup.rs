//! Many codes at a time: the tables and the inner loop of the CPU decoder.

use super::{
    BYTES_PER_BLOCK, FIRST_POINTER, MAX_BLOCK_ELEMENTS, MAX_CODE_BITS, RawGroup, THREADS_PER_BLOCK,
    reference,
};

/// Bits of the stream that one lookup sees: 2,048 entries stay in the first cache.
const LOOKUP_BITS: u32 = 11;
/// Codes that one lookup finds at most.
const CODES_PER_LOOKUP: usize = 5;
/// Lookups on one window, which has 57 bits at least.
const LOOKUPS_PER_WINDOW: usize = 5;
/// Bits that a window's lookups take at most.
pub(super) const WINDOW_BITS: usize = LOOKUPS_PER_WINDOW * LOOKUP_BITS as usize;
/// Codes that a window's lookups find at most.
pub(super) const CODES_PER_WINDOW: usize = LOOKUPS_PER_WINDOW * CODES_PER_LOOKUP;
const N_EXPONENTS: usize = MAX_BLOCK_ELEMENTS + WINDOW_EXPONENTS;
/// Each lookup writes eight bytes, whatever it found.
const WINDOW_EXPONENTS: usize = (CODES_PER_WINDOW + 1).next_power_of_two() + 8;

/// What each 11 bits start with, and the group's own tables for longer codes.
pub(super) struct Table<'a> {
    entries: Box<[Entry; 1 << LOOKUP_BITS]>,
    luts: &'a [u8],
}

/// From bit 0: five exponents; the bits of all their codes (6 bits), where a shift by a register
/// finds them; how many they are (7 bits; 0 where the first code is longer than a lookup, or none);
/// where they begin, as a bit for each of their bits, the last of them lowest (11 bits).
#[derive(Debug, Clone, Copy, Default)]
struct Entry(u64);

impl Entry {
    const LENGTH_AT: u32 = 40;
    const N_CODES_AT: u32 = 46;
    const STARTS_AT: u32 = 53;

    /// Length, count and starts; sums of five keep length and count apart.
    fn fields(self) -> u64 {
        self.0 >> Self::LENGTH_AT
    }

    fn length_of(fields: u64) -> u64 {
        fields & 63
    }

    fn n_codes_of(fields: u64) -> usize {
        (fields >> (Self::N_CODES_AT - Self::LENGTH_AT) & 127) as usize
    }

    fn starts(self) -> u64 {
        self.0 >> Self::STARTS_AT
    }

    /// The first code's exponent and length; `None` where it is longer than a lookup.
    fn first(self) -> Option<(u8, u64)> {
        if Self::n_codes_of(self.fields()) == 0 {
            return None;
        }
        // The first code begins at the highest of the lookup's bits, and ends at the next start.
        let length = Self::length_of(self.fields());
        let second = self.starts() & !(1 << (length - 1));
        let n_after = u64::from(64 - second.leading_zeros());
        Some((self.0 as u8, length - n_after))
    }
}

impl<'a> Table<'a> {
    pub(super) fn new(raw: &RawGroup<'a>) -> Self {
        let luts = raw.luts;
        let known = known_codes::<LOOKUP_BITS>(luts);
        let entries = std::array::from_fn(|bits| {
            let mut n_codes = 0;
            let mut used = 0;
            let mut starts = 0_u64;
            let mut fields = 0;
            while n_codes < CODES_PER_LOOKUP && used < LOOKUP_BITS {
                let n_left = LOOKUP_BITS - used;
                let rest = bits & ((1 << n_left) - 1);
                let Some((exponent, length)) = known[n_left as usize][rest] else { break };
                if length > n_left {
                    break;
                }
                starts = (starts << 1 | 1) << (length - 1);
                fields |= u64::from(exponent) << (8 * n_codes);
                n_codes += 1;
                used += length;
            }
            fields |= starts << Entry::STARTS_AT | (n_codes as u64) << Entry::N_CODES_AT;
            Entry(fields | u64::from(used) << Entry::LENGTH_AT)
        });
        Self { entries: Box::new(entries), luts }
    }

    fn at(&self, window: u64) -> Entry {
        self.entries[(window >> (64 - LOOKUP_BITS)) as usize]
    }

    /// The code that `window` begins with, and its length; `None` where there is none.
    fn code(&self, window: u64) -> Option<(u8, u64)> {
        let first = self.at(window).first();
        first.or_else(|| reference::code_in(self.luts, (window >> 32) as u32).ok())
    }
}

/// For each count of bits up to `N_BITS`, and each value of theirs: the exponent and length of the
/// code that they begin with, whatever bits follow.
///
/// In tables of a prefix code, a code's own bits decide. Tables of a hostile file may let later ones
/// decide too, and the reference says what they mean.
pub(super) fn known_codes<const N_BITS: u32>(luts: &[u8]) -> Vec<Vec<Option<(u8, u32)>>> {
    const { assert!(N_BITS >= 8 && N_BITS <= 16, "it begins in the root and ends below it") };
    let (tables, lengths) = luts.split_at(luts.len() - 256);
    // A root entry is decided by eight bits; an entry below it by eight more, of which some are here.
    let n_open = 16 - N_BITS;
    let decided = |bits: usize| {
        let mut entries = &tables[bits >> (N_BITS - 8)..][..1];
        if entries[0] >= FIRST_POINTER {
            let row = 256 - usize::from(entries[0]);
            entries = tables.get(256 * row + (bits << n_open & 255)..)?.get(..1 << n_open)?;
        }
        let entry = entries[0];
        let length = u32::from(lengths[usize::from(entry)]);
        let is_code = entry < FIRST_POINTER && (1..=MAX_CODE_BITS).contains(&length);
        (is_code && entries.iter().all(|other| *other == entry)).then_some((entry, length))
    };
    let mut known = vec![(0..1 << N_BITS).map(decided).collect::<Vec<_>>()];
    for _ in 0..N_BITS {
        let longer = &known[known.len() - 1];
        let both =
            longer.as_chunks().0.iter().map(|[zero, one]| if zero == one { *zero } else { None });
        known.push(both.collect());
    }
    known.reverse();
    known
}

/// One block: its codes, the exponents decoded from them, and where in its chunks codes began.
pub(super) struct Stream {
    /// The block's bytes, what follows them in the group, and zeros.
    codes: [u8; BYTES_PER_BLOCK + 8],
    exponents: [u8; N_EXPONENTS],
    /// For each chunk, and the one after the block, the bit that its first code begins at.
    gaps: [u8; THREADS_PER_BLOCK + 1],
    /// The next code's bit.
    bit: usize,
    n_codes: usize,
}

/// No code is known to begin in the chunk. It has 64 bits, so this is none of them.
const NO_GAP: u8 = 64;

impl Stream {
    pub(super) fn new() -> Self {
        Self {
            codes: [0; BYTES_PER_BLOCK + 8],
            exponents: [0; N_EXPONENTS],
            gaps: [NO_GAP; THREADS_PER_BLOCK + 1],
            bit: 0,
            n_codes: 0,
        }
    }

    /// Begins a block whose first code begins at bit `gap`. `codes` is the group's stream from the
    /// block on.
    pub(super) fn begin(&mut self, codes: &[u8], gap: u8) {
        let n_bytes = codes.len().min(self.codes.len());
        self.codes[..n_bytes].copy_from_slice(&codes[..n_bytes]);
        self.codes[n_bytes..].fill(0);
        self.gaps.fill(NO_GAP);
        self.gaps[0] = gap;
        self.bit = usize::from(gap);
        self.n_codes = 0;
    }

    /// The next code's bit, counted from the block's first.
    pub(super) fn bit(&self) -> usize {
        self.bit
    }

    /// Exponents decoded so far.
    pub(super) fn exponents(&self) -> &[u8] {
        &self.exponents[..self.n_codes]
    }

    /// Whether the first code of each chunk begins where the block's gaps say. Chunks that no code
    /// ended before or in are not judged.
    pub(super) fn begins_chunks_at(&self, gaps: &[u8]) -> bool {
        let eights = self.gaps.as_chunks::<8>().0.iter().zip(gaps.as_chunks::<5>().0);
        let mut is_right = true;
        for (found, [first, gaps @ ..]) in eights {
            let gaps = u64::from(*first) << 32 | u64::from(u32::from_be_bytes(*gaps));
            for (idx, found) in found.iter().enumerate() {
                is_right &= *found == NO_GAP || *found == (gaps >> (35 - 5 * idx) & 31) as u8;
            }
        }
        is_right
    }

    /// Where in the first chunk of the next block its first code begins, if that is known.
    pub(super) fn next_gap(&self) -> Option<u8> {
        let gap = self.gaps[THREADS_PER_BLOCK];
        (gap != NO_GAP).then_some(gap)
    }

    /// 57 bits or more from the next code on, left-aligned.
    #[inline(always)]
    fn window(&self) -> u64 {
        let place = (self.bit / 8) & (BYTES_PER_BLOCK - 1);
        let bytes = self.codes[place..].first_chunk::<8>();
        u64::from_be_bytes(*bytes.unwrap_or(&[0; 8])) << (self.bit % 8)
    }

    /// Decodes up to [`CODES_PER_WINDOW`] codes of the next [`WINDOW_BITS`] bits of each stream, at
    /// least one, all of which begin in its block. `None` where there is none.
    ///
    /// The lookups of the streams alternate: a processor looks ahead too few instructions to find
    /// those of another stream behind a whole window of this one.
    #[inline(always)]
    pub(super) fn decode_windows<const N: usize>(
        streams: &mut [Self; N],
        table: &Table<'_>,
    ) -> Option<()> {
        let mut passes = streams.each_ref().map(Pass::new);
        for _ in 0..LOOKUPS_PER_WINDOW {
            for (stream, pass) in streams.iter_mut().zip(&mut passes) {
                let entry = table.at(pass.window);
                // This mask, and those below, change nothing: they say that the place is in range.
                let n_codes = Entry::n_codes_of(pass.sum) & (WINDOW_EXPONENTS - 9);
                if let Some(exponents) = stream.exponents[pass.place + n_codes..].first_chunk_mut()
                {
                    *exponents = entry.0.to_le_bytes();
                }
                pass.add(entry);
            }
        }
        for (stream, pass) in streams.iter_mut().zip(&passes) {
            stream.n_codes += Entry::n_codes_of(pass.sum);
            stream.go_on(pass.starts, Entry::length_of(pass.sum));
        }
        for (stream, pass) in streams.iter_mut().zip(&passes) {
            // A lookup that found nothing left the later ones nothing to find.
            if Entry::n_codes_of(pass.last) == 0 {
                stream.decode_code(table)?;
            }
        }
        Some(())
    }

    /// Decodes one code, that begins in the block. `None` where there is none, or no room.
    pub(super) fn decode_code(&mut self, table: &Table) -> Option<()> {
        let length = self.put_code(table)?;
        self.go_on(1 << (length - 1), length);
        Some(())
    }

    /// [`Self::decode_code`], after which no code need begin.
    pub(super) fn decode_last_code(&mut self, table: &Table) -> Option<()> {
        self.bit += self.put_code(table)? as usize;
        Some(())
    }

    fn put_code(&mut self, table: &Table) -> Option<u64> {
        let (exponent, length) = table.code(self.window())?;
        *self.exponents.get_mut(self.n_codes)? = exponent;
        self.n_codes += 1;
        Some(length)
    }

    /// Goes on by `n_bits`, up to 63. Codes begin where `starts` has bits, the last of them lowest,
    /// and one begins after them.
    #[inline(always)]
    fn go_on(&mut self, starts: u64, n_bits: u64) {
        let starts = (starts << 1 | 1) << (63 - n_bits);
        // What begins in the next chunk. Nothing does before the last bits of this one pass.
        let next = starts << 1 << (63 - self.bit % 64);
        let chunk = (self.bit / 64) & (THREADS_PER_BLOCK - 1);
        self.gaps[chunk + 1] = next.leading_zeros() as u8;
        self.bit += n_bits as usize;
    }
}

/// The lookups on one window of a stream.
struct Pass {
    /// What is left of it, left-aligned.
    window: u64,
    /// Where its exponents go.
    place: usize,
    /// Of all lookups so far.
    sum: u64,
    starts: u64,
    /// Of the last lookup.
    last: u64,
}

impl Pass {
    #[inline(always)]
    fn new(stream: &Stream) -> Self {
        let place = stream.n_codes & (MAX_BLOCK_ELEMENTS - 1);
        Self { window: stream.window(), place, sum: 0, starts: 0, last: 0 }
    }

    #[inline(always)]
    fn add(&mut self, entry: Entry) {
        self.last = entry.fields();
        self.window <<= Entry::length_of(self.last);
        self.starts = self.starts << Entry::length_of(self.last) | entry.starts();
        self.sum += self.last;
    }
}
