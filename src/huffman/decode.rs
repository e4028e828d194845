//! The CPU decoder: what the reference gives, faster.

use super::lookup::{CODES_PER_WINDOW, Stream, Table, WINDOW_BITS};
use super::reference::{self, CORRUPT_WEIGHT};
use super::{
    BYTES_PER_BLOCK, Corruption, GAP_BYTES_PER_BLOCK, Group, RawGroup, THREADS_PER_BLOCK, parallel,
};
use crate::error::check_same;

/// Blocks that one thread decodes at once, so that the lookups of one do not wait for another's.
const N_STREAMS: usize = 4;

/// Decodes a group to bf16 bits on all threads of the current rayon pool (feature `files`; else on
/// one).
///
/// # Numerics
/// Bit for bit [`reference::decode`], for corrupt groups too: on `Err`, all of `output` is 0x7FC0.
///
/// # Errors
/// [`Error::Corrupt`](crate::Error::Corrupt) with the lowest corrupt block and the highest reason found in it;
/// [`Error::Shape`](crate::Error::Shape) where `output` has another length than the group has weights, and is left alone.
pub fn decode(group: &Group<'_>, output: &mut [u16]) -> crate::Result<()> {
    check_same("output", group.n_elements(), output.len())?;
    Ok(decode_raw(group.raw(), output)?)
}

fn decode_raw(raw: &RawGroup<'_>, output: &mut [u16]) -> Result<(), Corruption> {
    let table = Table::new(raw);
    let result = split_blocks(raw, output).and_then(|batches| {
        let new_streams = || Box::new(std::array::from_fn(|_| Stream::new()));
        let results = parallel::map_init(batches, new_streams, |streams, batch| {
            decode_batch(raw, &table, streams, batch)
        });
        results.into_iter().collect()
    });
    if result.is_err() {
        output.fill(CORRUPT_WEIGHT);
    }
    result
}

struct Block<'a> {
    idx: u32,
    /// The group's weights before it.
    start: usize,
    output: &'a mut [u16],
}

/// Up to [`N_STREAMS`] blocks each, with their parts of the output. The positions of a parsed
/// group ascend, so this finds all.
fn split_blocks<'a>(
    raw: &RawGroup<'_>,
    output: &'a mut [u16],
) -> Result<Vec<Vec<Block<'a>>>, Corruption> {
    let mut rest = output;
    let mut batches: Vec<Vec<_>> = Vec::new();
    for idx in 0..reference::n_blocks(raw) {
        let range =
            reference::block_range(raw, idx).map_err(|reason| Corruption { block: idx, reason })?;
        let (output, after) = rest.split_at_mut(range.len());
        let block = Block { idx, start: range.start, output };
        match batches.last_mut() {
            Some(batch) if batch.len() < N_STREAMS => batch.push(block),
            _ => batches.push(vec![block]),
        }
        rest = after;
    }
    Ok(batches)
}

fn decode_batch(
    raw: &RawGroup<'_>,
    table: &Table<'_>,
    streams: &mut [Stream; N_STREAMS],
    mut batch: Vec<Block<'_>>,
) -> Result<(), Corruption> {
    let streams = &mut streams[..batch.len()];
    for (stream, block) in streams.iter_mut().zip(&batch) {
        let gap = reference::gap(raw, block.first_chunk()) as u8;
        stream.begin(&raw.encoded_exponent[block.first_byte()..], gap);
    }
    decode_windows(raw, table, streams, &batch);
    for (stream, block) in streams.iter_mut().zip(&mut batch) {
        if block.finish(raw, table, stream).is_none() {
            // Something is odd: the reference says what, or that it is nothing.
            reference::decode_block(raw, block.idx, block.start, block.output)
                .map_err(|reason| Corruption { block: block.idx, reason })?;
        }
    }
    Ok(())
}

/// Decodes all but the end of each block.
fn decode_windows(
    raw: &RawGroup<'_>,
    table: &Table<'_>,
    streams: &mut [Stream],
    batch: &[Block<'_>],
) {
    if let Ok(together) = <&mut [Stream; N_STREAMS]>::try_from(&mut *streams)
        && run_windows(raw, table, together, batch).is_none()
    {
        return;
    }
    // Where one is at its end, the others have little left.
    for (stream, block) in streams.iter_mut().zip(batch) {
        if run_windows(raw, table, std::array::from_mut(stream), std::slice::from_ref(block))
            .is_none()
        {
            return;
        }
    }
}

/// Decodes windows until one of the blocks may be at its end. `None` where one cannot go on.
fn run_windows<const N: usize>(
    raw: &RawGroup<'_>,
    table: &Table<'_>,
    streams: &mut [Stream; N],
    blocks: &[Block<'_>],
) -> Option<()> {
    loop {
        let windows =
            streams.iter().zip(blocks).map(|(stream, block)| block.n_windows(raw, stream));
        match windows.min() {
            None | Some(0) => return Some(()),
            Some(n_windows) => {
                for _ in 0..n_windows {
                    Stream::decode_windows(streams, table)?;
                }
            }
        }
    }
}

impl Block<'_> {
    fn first_byte(&self) -> usize {
        self.idx as usize * BYTES_PER_BLOCK
    }

    fn first_chunk(&self) -> usize {
        self.idx as usize * THREADS_PER_BLOCK
    }

    /// Its own bits; fewer than 32,768 in the last block only.
    fn n_bits(&self, raw: &RawGroup<'_>) -> usize {
        8 * BYTES_PER_BLOCK.min(raw.encoded_exponent.len() - self.first_byte())
    }

    /// Windows that surely leave it some weight to decode, and end in it.
    fn n_windows(&self, raw: &RawGroup<'_>, stream: &Stream) -> usize {
        let n_bits = self.n_bits(raw).saturating_sub(stream.bit());
        let n_weights = self.output.len().saturating_sub(stream.exponents().len() + 1);
        (n_bits / WINDOW_BITS).min(n_weights / CODES_PER_WINDOW)
    }

    /// Decodes what windows left over, checks all, and writes the weights. `None` where it is not
    /// clear that nothing is wrong with the block.
    fn finish(&mut self, raw: &RawGroup<'_>, table: &Table<'_>, stream: &mut Stream) -> Option<()> {
        let n_bits = self.n_bits(raw);
        let ends_group = self.start + self.output.len() == raw.sign_mantissa.len();
        for n_left in (1..=self.output.len() - stream.exponents().len()).rev() {
            if stream.bit() >= n_bits {
                return None;
            }
            // Bits after the group's last weight are padding, where its last block has some.
            match ends_group && n_left == 1 {
                true => stream.decode_last_code(table)?,
                false => stream.decode_code(table)?,
            };
        }
        let is_last = self.idx + 1 == reference::n_blocks(raw);
        let is_at_end = match (ends_group, is_last) {
            (true, true) => true,
            (true, false) => stream.bit() >= n_bits,
            (false, _) => {
                let next_chunk = self.first_chunk() + THREADS_PER_BLOCK;
                !is_last && stream.next_gap() == Some(reference::gap(raw, next_chunk) as u8)
            }
        };
        let gaps = &raw.gaps[self.idx as usize * GAP_BYTES_PER_BLOCK..][..GAP_BYTES_PER_BLOCK];
        if !is_at_end || !stream.begins_chunks_at(gaps) {
            return None;
        }
        let sign_mantissa = raw.sign_mantissa.get(self.start..self.start + self.output.len())?;
        let weights = self.output.iter_mut().zip(stream.exponents()).zip(sign_mantissa);
        for ((weight, exponent), sign_mantissa) in weights {
            *weight = reference::bf16_bits(*exponent, *sign_mantissa);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{EncodedGroup, encode};
    use super::*;

    /// Five blocks, four of them decoded together, of long codes, so that they hold few weights;
    /// some are longer than a lookup.
    fn group() -> (Vec<u16>, EncodedGroup) {
        let mut state = 1_u64;
        let weights: Vec<u16> = (0..19_000)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let is_rare = state >> 54 == 0;
                let exponent = if is_rare { 200 + (state >> 40) % 30 } else { (state >> 40) % 200 };
                (state >> 20) as u16 & 0x807F | (exponent as u16) << 7
            })
            .collect();
        let encoded = encode(&[bytemuck::cast_slice(&weights)]).unwrap();
        (weights, encoded)
    }

    // Small enough for Miri, which the laws in `tests/` are not.
    #[test]
    fn blocks_are_decoded_together_and_alone() {
        let (weights, encoded) = group();
        let raw = encoded.as_raw("group");
        assert_eq!(reference::n_blocks(&raw), 5);
        let mut decoded = vec![0; weights.len()];
        decode(&raw.parse().unwrap(), &mut decoded).unwrap();
        assert!(decoded == weights);
    }

    #[test]
    fn damage_is_reported_as_the_reference_reports_it() {
        let (weights, mut encoded) = group();
        encoded.encoded_exponent[3 * BYTES_PER_BLOCK + 99] ^= 0x10;
        encoded.gaps[4 * GAP_BYTES_PER_BLOCK] ^= 0x80;
        let raw = encoded.as_raw("group");
        let mut decoded = vec![0; weights.len()];
        let error = decode(&raw.parse().unwrap(), &mut decoded).unwrap_err();
        let expected = reference::decode(&raw, &mut vec![0; weights.len()]).unwrap_err();
        assert!(matches!(error, crate::Error::Corrupt(found) if found == expected), "{error}");
        assert_eq!(expected.block, 3);
        assert!(decoded.iter().all(|weight| *weight == CORRUPT_WEIGHT));
    }
}
