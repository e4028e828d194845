//! One group: the six tensors as they are in the file, and what makes them sound.

use super::{BYTES_PER_BLOCK, MAX_LUT_ROWS};

/// The six tensors of one group, borrowed as they are in the file and trusted in nothing.
#[derive(Debug, Clone, Copy)]
pub struct RawGroup<'a> {
    /// Module path of the group, for error messages.
    pub name: &'a str,
    /// `[n_code_bytes]`: the exponents, prefix-coded, most significant bit first.
    pub encoded_exponent: &'a [u8],
    /// `[n_elements]`: bit 7 the sign, bits 6..0 the mantissa.
    pub sign_mantissa: &'a [u8],
    /// `[n_lut_rows + 1, 256]`: chained decode tables, then the code length of each exponent.
    pub luts: &'a [u8],
    /// `[320 * n_blocks]`: 5 bits per 8 code bytes, most significant bit first.
    pub gaps: &'a [u8],
    /// `[4 * (n_blocks + 1)]`: little-endian u32, first element of each block, then `n_elements`.
    pub output_positions: &'a [u8],
    /// `[8 * (n_matrices - 1)]`: little-endian i64, first element of each matrix but the first.
    pub split_positions: &'a [u8],
}

/// A group whose tensors fit each other: tables, sizes, positions and splits are sound. What only
/// decoding can tell (the gap chain, the count of each block) is checked while decoding.
#[derive(Debug, Clone)]
pub struct Group<'a> {
    raw: RawGroup<'a>,
    n_elements: u64,
    n_blocks: u32,
    n_lut_rows: u32,
}

/// What decoding a block can find wrong with it. Where several hold, the highest is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[repr(u32)]
#[non_exhaustive]
pub enum CorruptionReason {
    /// The block's positions descend, pass the group's end, or span more codes than it has bits.
    #[error("its output positions are impossible")]
    Positions = 1,
    /// A code reached an exponent whose length is 0 or above 32.
    #[error("a code has a length outside 1..=32")]
    CodeLength = 2,
    /// A code reached a pointer to a table that does not exist.
    #[error("a code points past the decode tables")]
    Pointer = 3,
    /// A code ends elsewhere than the next gap says.
    #[error("a gap disagrees with the code before it")]
    Gap = 4,
    /// The block holds another number of codes than its positions say.
    #[error("it holds another number of codes than its positions say")]
    Count = 5,
}

/// The lowest corrupt block of a launch, and what is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("block {block}: {reason}")]
pub struct Corruption {
    /// Blocks of 4,096 code bytes before it, over all groups of the launch.
    pub block: u32,
    /// What is wrong.
    pub reason: CorruptionReason,
}
