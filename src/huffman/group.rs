//! One group: the six tensors as they are in the file, and what makes them sound.

use super::compact::LengthsError;
use super::{
    BYTES_PER_BLOCK, FIRST_POINTER, GAP_BYTES_PER_BLOCK, GroupShape, MAX_BLOCK_ELEMENTS,
    MAX_CODE_BITS, MAX_LUT_ROWS,
};

/// Elements of one block that the published kernel's 48 KiB of shared memory hold.
pub const PUBLISHED_BLOCK_ELEMENTS: u64 = 23_550;

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

/// What is wrong with a tensor of a group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{group}.{tensor}{}: {reason}", offset.map_or(String::new(), |at| format!(", byte {at}")))]
pub struct TensorError {
    /// The group's module path.
    pub group: String,
    /// The tensor's suffix.
    pub tensor: &'static str,
    /// Where in the tensor, in bytes.
    pub offset: Option<u64>,
    /// What is wrong.
    pub reason: TensorReason,
}

impl TensorError {
    pub(super) fn new(
        group: &str,
        tensor: &'static str,
        offset: impl Into<Option<usize>>,
        reason: TensorReason,
    ) -> Self {
        let offset = offset.into().map(|at| at as u64);
        Self { group: group.to_owned(), tensor, offset, reason }
    }
}

/// What can be wrong with a tensor before anything is decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorReason {
    /// No bytes where there must be some.
    #[error("it is empty, and a group holds at least one weight")]
    Empty,
    /// More bytes than the format can count.
    #[error("it has {got} bytes, and the format counts fewer than {limit}")]
    TooLarge {
        /// Its bytes.
        got: u64,
        /// The first count that does not fit.
        limit: u64,
    },
    /// A length that does not follow from the other tensors'.
    #[error("it has {got} bytes, and the group's other tensors ask for {expected}")]
    Length {
        /// What the others ask for.
        expected: u64,
        /// Its bytes.
        got: u64,
    },
    /// Not a number of whole rows that the format can address.
    #[error("it has {got} bytes, and decode tables are 2 to 18 rows of 256")]
    Rows {
        /// Its bytes.
        got: u64,
    },
    /// A header that is not of what is read.
    #[error("{what} is {value}, and must be {allowed}")]
    Header {
        /// The number in it.
        what: &'static str,
        /// That number.
        value: u64,
        /// What is read.
        allowed: &'static str,
    },
    /// A pointer to a table that is not there.
    #[error("the entry {entry} points to table {row}, and there are {n_rows}")]
    Pointer {
        /// The entry.
        entry: u8,
        /// The table it points to.
        row: usize,
        /// Decode tables of the group.
        n_rows: usize,
    },
    /// A reachable exponent without a length: a decoder that trusts it never ends.
    #[error(
        "exponent {exponent}, which codes reach, has length {length}, and codes have 1 to 32 bits"
    )]
    CodeLength {
        /// The exponent.
        exponent: u8,
        /// Its length.
        length: u8,
    },
    /// Lengths that no prefix code has.
    #[error("these lengths are those of no prefix code: they overfill the tree")]
    Overfull,
    /// Positions that descend or leave the group.
    #[error("position {got} comes after {previous}, in a group of {n_elements} weights")]
    Position {
        /// The entry.
        got: u64,
        /// The entry before it.
        previous: u64,
        /// Weights of the group.
        n_elements: u64,
    },
    /// A first position that is not 0.
    #[error("the first position is {got}, and it must be 0")]
    FirstPosition {
        /// The entry.
        got: u64,
    },
    /// A last position that is not the number of weights.
    #[error("the last position is {got}, and the group has {n_elements} weights")]
    LastPosition {
        /// The entry.
        got: u64,
        /// Weights of the group.
        n_elements: u64,
    },
    /// More weights in a block than it has bits.
    #[error("a block of {n_bits} bits is said to hold {got} codes")]
    Density {
        /// Weights of the block.
        got: u64,
        /// Bits of the block.
        n_bits: u64,
    },
    /// Lengths of codes of which there is no compact code.
    #[error(transparent)]
    Lengths(LengthsError),
    /// A granule that begins where the codes of the one before it cannot end.
    #[error(
        "a granule begins at bit {got}, after {n_weights} codes of 1 to 12 bits from bit {previous} on"
    )]
    Start {
        /// Where it begins.
        got: u64,
        /// Where the granule before it begins, or 0.
        previous: u64,
        /// That granule's weights; 0 where there is none.
        n_weights: u64,
    },
    /// A split that does not come after the one before it, or is outside.
    #[error("split {got} does not lie after {previous} and before {n_elements}")]
    Split {
        /// The entry.
        got: i64,
        /// The split before it, or 0.
        previous: u64,
        /// Weights of the group.
        n_elements: u64,
    },
}

/// A group whose tensors fit each other: tables, sizes, positions and splits are sound. What only
/// decoding can tell (the gap chain, the count of each block) is checked while decoding.
#[derive(Debug, Clone)]
pub struct Group<'a> {
    raw: RawGroup<'a>,
    n_lut_rows: u32,
    densest_block: u64,
}

impl<'a> RawGroup<'a> {
    /// The six tensors, in the order of the fields.
    pub fn tensors(&self) -> [&'a [u8]; 6] {
        [
            self.encoded_exponent,
            self.sign_mantissa,
            self.luts,
            self.gaps,
            self.output_positions,
            self.split_positions,
        ]
    }

    /// Checks everything that can be checked without decoding, in time linear in the tables and
    /// positions:
    /// sizes and counts fit the format and each other; every table entry that codes can reach is
    /// an exponent with a length of 1 to 32 or a pointer to an existing table; lengths are those of
    /// a prefix code; positions ascend from 0 to the number of weights, with no more weights in a
    /// block than it has bits; splits ascend inside the group.
    ///
    /// # Errors
    /// [`TensorError`]: the first thing found, in that order.
    pub fn parse(self) -> Result<Group<'a>, TensorError> {
        self.check_sizes()?;
        let n_lut_rows = self.check_tables()?;
        let densest_block = self.check_positions()?;
        check_splits(self.split_positions, self.sign_mantissa.len() as u64)
            .map_err(|(at, reason)| TensorError::new(self.name, "split_positions", at, reason))?;
        Ok(Group { raw: self, n_lut_rows, densest_block })
    }

    fn n_blocks(&self) -> usize {
        self.encoded_exponent.len().div_ceil(BYTES_PER_BLOCK)
    }

    fn check_sizes(&self) -> Result<(), TensorError> {
        check_count(self.name, "encoded_exponent", self.encoded_exponent, 1 << 31)?;
        check_count(self.name, "sign_mantissa", self.sign_mantissa, 1 << 32)?;
        check_len(self.name, "gaps", self.gaps, (self.n_blocks() * GAP_BYTES_PER_BLOCK) as u64)?;
        // The published encoder writes one position too few where the last code crosses into a
        // block of its own and ends on a byte.
        if self.output_positions.len() != 4 * self.n_blocks() {
            let n_bytes = 4 * (self.n_blocks() + 1) as u64;
            check_len(self.name, "output_positions", self.output_positions, n_bytes)?;
        }
        check_split_bytes(self.name, self.split_positions)
    }

    fn check_tables(&self) -> Result<u32, TensorError> {
        let n_rows = self.luts.len() / 256;
        if !self.luts.len().is_multiple_of(256) || !(2..=MAX_LUT_ROWS + 1).contains(&n_rows) {
            let got = self.luts.len() as u64;
            return Err(TensorError::new(self.name, "luts", None, TensorReason::Rows { got }));
        }
        let n_lut_rows = n_rows - 1;
        let (tables, lengths) = self.luts.split_at(n_lut_rows * 256);
        // Unused entries repeat what stands before them, pointers included, so a table may be
        // reached at several levels, and tables may even form a ring: four levels end every walk.
        let mut reached = [[false; 4]; MAX_LUT_ROWS];
        let mut open = vec![(0_usize, 0_usize)];
        while let Some((row, level)) = open.pop() {
            if std::mem::replace(&mut reached[row][level], true) {
                continue;
            }
            for column in 0..256 {
                let at = row * 256 + column;
                let entry = tables[at];
                if entry >= FIRST_POINTER && level < 3 {
                    let next = 256 - usize::from(entry);
                    if next >= n_lut_rows {
                        let reason = TensorReason::Pointer { entry, row: next, n_rows: n_lut_rows };
                        return Err(TensorError::new(self.name, "luts", at, reason));
                    }
                    open.push((next, level + 1));
                    continue;
                }
                let length = lengths[usize::from(entry)];
                if !(1..=MAX_CODE_BITS).contains(&u32::from(length)) {
                    // A filled entry of the last level repeats a pointer; only padding meets it.
                    if level == 3 && entry >= FIRST_POINTER {
                        continue;
                    }
                    let reason = TensorReason::CodeLength { exponent: entry, length };
                    return Err(TensorError::new(self.name, "luts", at, reason));
                }
            }
        }
        let mut leaves = 0_u64;
        for (exponent, length) in lengths.iter().enumerate() {
            if *length == 0 {
                continue;
            }
            if u32::from(*length) > MAX_CODE_BITS {
                let exponent = exponent as u8;
                let reason = TensorReason::CodeLength { exponent, length: *length };
                return Err(TensorError::new(
                    self.name,
                    "luts",
                    tables.len() + usize::from(exponent),
                    reason,
                ));
            }
            leaves += 1 << (MAX_CODE_BITS - u32::from(*length));
        }
        if leaves > 1 << MAX_CODE_BITS {
            return Err(TensorError::new(self.name, "luts", tables.len(), TensorReason::Overfull));
        }
        Ok(n_lut_rows as u32)
    }

    fn check_positions(&self) -> Result<u64, TensorError> {
        let n_elements = self.sign_mantissa.len() as u64;
        let (entries, _) = self.output_positions.as_chunks::<4>();
        let mut previous = 0;
        let mut densest = 0;
        for (idx, bytes) in entries.iter().enumerate() {
            let got = u64::from(u32::from_le_bytes(*bytes));
            let error =
                |reason| Err(TensorError::new(self.name, "output_positions", idx * 4, reason));
            if idx == 0 && got != 0 {
                return error(TensorReason::FirstPosition { got });
            }
            if got < previous || got > n_elements {
                return error(TensorReason::Position { got, previous, n_elements });
            }
            if got - previous > MAX_BLOCK_ELEMENTS as u64 {
                let (got, n_bits) = (got - previous, MAX_BLOCK_ELEMENTS as u64);
                return error(TensorReason::Density { got, n_bits });
            }
            densest = densest.max(got - previous);
            previous = got;
        }
        let at = entries.len().saturating_sub(1) * 4;
        if entries.len() == self.n_blocks() + 1 && previous != n_elements {
            let reason = TensorReason::LastPosition { got: previous, n_elements };
            return Err(TensorError::new(self.name, "output_positions", at, reason));
        }
        let last = n_elements - previous;
        if last > MAX_BLOCK_ELEMENTS as u64 {
            let (got, n_bits) = (last, MAX_BLOCK_ELEMENTS as u64);
            let reason = TensorReason::Density { got, n_bits };
            return Err(TensorError::new(self.name, "output_positions", at, reason));
        }
        Ok(densest.max(last))
    }
}

/// At least one byte, and fewer than the format can count.
pub(super) fn check_count(
    group: &str,
    tensor: &'static str,
    bytes: &[u8],
    limit: u64,
) -> Result<(), TensorError> {
    let reason = match bytes.len() as u64 {
        0 => TensorReason::Empty,
        got if got >= limit => TensorReason::TooLarge { got, limit },
        _ => return Ok(()),
    };
    Err(TensorError::new(group, tensor, None, reason))
}

/// As many bytes as follow from other tensors.
pub(super) fn check_len(
    group: &str,
    tensor: &'static str,
    bytes: &[u8],
    expected: u64,
) -> Result<(), TensorError> {
    let got = bytes.len() as u64;
    if got == expected {
        return Ok(());
    }
    Err(TensorError::new(group, tensor, None, TensorReason::Length { expected, got }))
}

/// Whole splits.
pub(super) fn check_split_bytes(group: &str, split_positions: &[u8]) -> Result<(), TensorError> {
    let expected = (split_positions.len() as u64).next_multiple_of(8);
    check_len(group, "split_positions", split_positions, expected)
}

/// Splits ascend inside a group of so many weights; else which byte is wrong, and how.
pub(super) fn check_splits(
    split_positions: &[u8],
    n_elements: u64,
) -> Result<(), (usize, TensorReason)> {
    let mut previous = 0;
    for (idx, bytes) in split_positions.as_chunks::<8>().0.iter().enumerate() {
        let got = i64::from_le_bytes(*bytes);
        match u64::try_from(got) {
            Ok(split) if split > previous && split < n_elements => previous = split,
            _ => return Err((idx * 8, TensorReason::Split { got, previous, n_elements })),
        }
    }
    Ok(())
}

/// Each matrix's weights, by checked splits.
pub(super) fn matrices_of(
    split_positions: &[u8],
    n_elements: u64,
) -> impl Iterator<Item = std::ops::Range<u64>> + '_ {
    let splits = split_positions.as_chunks::<8>().0;
    let split = move |idx: usize| match idx {
        0 => 0,
        idx if idx <= splits.len() => u64::from_le_bytes(splits[idx - 1]),
        _ => n_elements,
    };
    (0..splits.len() + 1).map(move |idx| split(idx)..split(idx + 1))
}

impl<'a> Group<'a> {
    /// The tensors.
    pub fn raw(&self) -> &RawGroup<'a> {
        &self.raw
    }

    /// Module path of the group.
    pub fn name(&self) -> &'a str {
        self.raw.name
    }

    /// Weights.
    pub fn n_elements(&self) -> u64 {
        self.raw.sign_mantissa.len() as u64
    }

    /// Matrices.
    pub fn n_matrices(&self) -> usize {
        self.raw.split_positions.len() / 8 + 1
    }

    /// Each matrix's weights, as ranges of the decoded group.
    pub fn matrices(&self) -> impl Iterator<Item = std::ops::Range<u64>> + '_ {
        matrices_of(self.raw.split_positions, self.n_elements())
    }

    /// Decode tables, without the row of lengths.
    pub fn n_lut_rows(&self) -> u32 {
        self.n_lut_rows
    }

    /// Bits of each exponent's code; 0 where it has none.
    pub fn code_lengths(&self) -> &'a [u8] {
        &self.raw.luts[self.n_lut_rows as usize * 256..]
    }

    /// Weights of the block that holds most.
    pub fn densest_block(&self) -> u64 {
        self.densest_block
    }

    /// Bytes of all six tensors.
    pub fn n_bytes(&self) -> u64 {
        self.raw.tensors().iter().map(|tensor| tensor.len() as u64).sum()
    }

    /// The sizes a launch is planned with.
    pub fn shape(&self) -> GroupShape {
        GroupShape {
            n_code_bytes: self.raw.encoded_exponent.len() as u64,
            n_elements: self.n_elements(),
            n_lut_rows: self.n_lut_rows,
            n_positions: (self.raw.output_positions.len() / 4) as u32,
        }
    }

    /// What is sound here and would trouble another reader.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.densest_block > PUBLISHED_BLOCK_ELEMENTS {
            warnings.push(format!(
                "a block holds {} weights; the published kernel cannot launch above {}",
                self.densest_block, PUBLISHED_BLOCK_ELEMENTS
            ));
        }
        if self.raw.output_positions.len() / 4 == self.raw.n_blocks() {
            warnings.push(
                "output_positions is one entry short; the published kernel reads past it"
                    .to_owned(),
            );
        }
        warnings
    }
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

impl CorruptionReason {
    fn from_number(number: u32) -> Option<Self> {
        [Self::Positions, Self::CodeLength, Self::Pointer, Self::Gap, Self::Count]
            .into_iter()
            .find(|reason| *reason as u32 == number)
    }
}

impl Corruption {
    /// Reads the status word of a launch; `None` where all groups were sound.
    pub fn from_status(status: u64) -> Option<Self> {
        let reason = CorruptionReason::from_number(status as u32)?;
        Some(Self { block: u32::MAX - (status >> 32) as u32, reason })
    }
}
