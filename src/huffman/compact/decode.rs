//! The CPU decoder: what the reference gives, faster.

use super::Compact;
use crate::error::check_same;
use crate::huffman::indexed::{
    CodeTable, CorruptTile, GRANULE_WEIGHTS, RawIndexed, TILE_GRANULES, TILE_WEIGHTS, reference,
};
use crate::huffman::parallel;
use crate::huffman::reference::{CORRUPT_WEIGHT, bf16_bits};

/// Bits of the stream that one lookup sees: 2,048 entries stay in the first cache.
const LOOKUP_BITS: u32 = 11;
/// Codes that one lookup finds at most.
const CODES_PER_LOOKUP: usize = 5;
/// Lookups on one window, which has 57 bits at least.
const LOOKUPS_PER_WINDOW: usize = 5;
/// Granules that one thread decodes at once, so that the lookups of one do not wait for another's.
const N_STREAMS: usize = 4;
/// Each lookup writes eight bytes, whatever it found.
const ROW_BYTES: usize = GRANULE_WEIGHTS + 8;
/// Tiles that a thread takes at once. The result does not depend on it.
const BATCH_TILES: usize = 16;

/// Decodes a group to bf16 bits on all threads of the current rayon pool (feature `files`; else on one).
///
/// # Numerics
/// Bit for bit [`reference::decode`](super::reference::decode), for corrupt groups too.
///
/// # Errors
/// [`Error::CorruptTile`](crate::Error::CorruptTile) with the lowest corrupt tile; [`Error::Shape`](crate::Error::Shape) where
/// `output` has another length than the group has weights, and is left alone.
pub fn decode(group: &Compact<'_>, output: &mut [u16]) -> crate::Result<()> {
    check_same("output", group.n_elements(), output.len())?;
    let (raw, table) = (group.indexed(), Table::new(group.code().table()));
    let batches = output.chunks_mut(BATCH_TILES * TILE_WEIGHTS).enumerate().collect();
    let results = parallel::map(batches, |(batch, weights): (usize, &mut [u16])| {
        let mut result = Ok(());
        for (idx, weights) in weights.chunks_mut(TILE_WEIGHTS).enumerate() {
            let tile = batch * BATCH_TILES + idx;
            result = result.and(decode_tile(&raw, &table, tile, weights));
        }
        result
    });
    Ok(results.into_iter().collect::<Result<(), _>>()?)
}

/// What each 11 bits start with; from bit 0 five exponents, bits of all their codes from 40 on, and from 48 on how many they are.
struct Table {
    entries: Box<[u64; 1 << LOOKUP_BITS]>,
    codes: CodeTable,
}

impl Table {
    fn new(codes: CodeTable) -> Self {
        let entry = |bits: usize| {
            let (mut entry, mut n_codes, mut used) = (0, 0, 0);
            while n_codes < CODES_PER_LOOKUP {
                let rest = (bits as u64) << (64 - LOOKUP_BITS) << used;
                let Some((exponent, length)) = code_in(&codes, rest) else { break };
                if used + length > LOOKUP_BITS {
                    break;
                }
                entry |= u64::from(exponent) << (8 * n_codes);
                n_codes += 1;
                used += length;
            }
            entry | u64::from(used) << 40 | (n_codes as u64) << 48
        };
        Self { entries: Box::new(std::array::from_fn(entry)), codes }
    }

    fn at(&self, window: u64) -> u64 {
        self.entries[(window >> (64 - LOOKUP_BITS)) as usize]
    }
}

/// The code that `window` begins with, and its length; `None` where there is none.
fn code_in(codes: &CodeTable, window: u64) -> Option<(u8, u32)> {
    let entry = codes.entries()[(window >> 52) as usize];
    let exponent = (entry as u8).rotate_left(1);
    (entry != 0).then(|| (exponent, u32::from(codes.lengths()[usize::from(exponent)])))
}

/// A granule on its way.
struct Stream<'a> {
    codes: &'a [u8],
    bit: usize,
    exponents: [u8; ROW_BYTES],
    n_codes: usize,
}

impl Stream<'_> {
    /// 57 bits or more from the next code on, left-aligned; past the end of the codes zeros.
    #[inline(always)]
    fn window(&self) -> u64 {
        let rest = self.codes.get(self.bit / 8..).unwrap_or(&[]);
        let word = match rest.first_chunk::<8>() {
            Some(bytes) => u64::from_be_bytes(*bytes),
            None => rest
                .iter()
                .zip(0..8)
                .fold(0, |word, (byte, at)| word | u64::from(*byte) << (56 - 8 * at)),
        };
        word << (self.bit % 8)
    }

    /// What a lookup found, and its bits.
    #[inline(always)]
    fn put(&mut self, entry: u64) -> u32 {
        // The mask changes nothing: it says that the place is in range.
        let place = self.n_codes & (GRANULE_WEIGHTS - 1);
        if let Some(exponents) = self.exponents[place..].first_chunk_mut() {
            *exponents = entry.to_le_bytes();
        }
        let n_bits = (entry >> 40) as u32 & 63;
        self.n_codes += (entry >> 48) as usize;
        self.bit += n_bits as usize;
        n_bits
    }

    /// Decodes what windows left over. `None` where bits are no code.
    fn finish(&mut self, table: &Table, n_weights: usize) -> Option<()> {
        while self.n_codes + CODES_PER_LOOKUP <= n_weights {
            let window = self.window();
            if self.put(table.at(window)) == 0 {
                self.put_code(table, window)?;
            }
        }
        while self.n_codes < n_weights {
            self.put_code(table, self.window())?;
        }
        Some(())
    }

    fn put_code(&mut self, table: &Table, window: u64) -> Option<()> {
        let (exponent, length) = code_in(&table.codes, window)?;
        self.exponents[self.n_codes] = exponent;
        self.n_codes += 1;
        self.bit += length as usize;
        Some(())
    }
}

/// Decodes windows of whole granules until one may be at its end, or one has a code that no lookup finds.
fn run_windows(table: &Table, streams: &mut [Stream<'_>; N_STREAMS]) {
    const MOST_CODES: usize = GRANULE_WEIGHTS - CODES_PER_LOOKUP * LOOKUPS_PER_WINDOW;
    while streams.iter().all(|stream| stream.n_codes <= MOST_CODES) {
        let mut windows = streams.each_ref().map(Stream::window);
        let mut is_stuck = false;
        for _ in 0..LOOKUPS_PER_WINDOW {
            for (stream, window) in streams.iter_mut().zip(&mut windows) {
                let n_bits = stream.put(table.at(*window));
                *window <<= n_bits;
                is_stuck |= n_bits == 0;
            }
        }
        if is_stuck {
            for stream in streams.iter_mut() {
                let is_done = stream.n_codes >= GRANULE_WEIGHTS;
                if !is_done && stream.put_code(table, stream.window()).is_none() {
                    return;
                }
            }
        }
    }
}

fn decode_tile(
    raw: &RawIndexed<'_>,
    table: &Table,
    tile: usize,
    weights: &mut [u16],
) -> Result<(), CorruptTile> {
    let first = tile * TILE_GRANULES;
    let is_sound =
        weights.chunks_mut(N_STREAMS * GRANULE_WEIGHTS).enumerate().all(|(idx, weights)| {
            decode_granules(raw, table, first + idx * N_STREAMS, weights).is_some()
        });
    if is_sound {
        return Ok(());
    }
    // Something is odd: the reference says what, or that it is nothing.
    reference::decode_span(raw, first, weights).map_err(|reason| {
        weights.fill(CORRUPT_WEIGHT);
        CorruptTile { tile: tile as u32, reason }
    })
}

/// Decodes up to [`N_STREAMS`] granules from `first` on. `None` where it is not clear that nothing is wrong with them.
fn decode_granules(
    raw: &RawIndexed<'_>,
    table: &Table,
    first: usize,
    weights: &mut [u16],
) -> Option<()> {
    let n_granules = weights.len().div_ceil(GRANULE_WEIGHTS);
    let start = |granule| reference::start(raw, granule) as usize;
    let mut streams: [_; N_STREAMS] = std::array::from_fn(|idx| Stream {
        codes: raw.codes,
        bit: start(first + idx.min(n_granules)),
        exponents: [0; ROW_BYTES],
        n_codes: 0,
    });
    if weights.len() == N_STREAMS * GRANULE_WEIGHTS {
        run_windows(table, &mut streams);
    }
    for (idx, (stream, weights)) in
        streams.iter_mut().zip(weights.chunks_mut(GRANULE_WEIGHTS)).enumerate()
    {
        stream.finish(table, weights.len())?;
        if stream.bit != start(first + idx + 1) {
            return None;
        }
        let signs = raw.sign_mantissa.get((first + idx) * GRANULE_WEIGHTS..)?;
        for ((weight, exponent), sign_mantissa) in
            weights.iter_mut().zip(&stream.exponents).zip(signs)
        {
            *weight = bf16_bits(*exponent, *sign_mantissa);
        }
    }
    Some(())
}
