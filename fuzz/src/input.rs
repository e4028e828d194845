//! Bytes of the fuzzer as what a target asks for.

use std::array;

use lacuna::huffman::compact::CompactCode;

/// An input, read from the front on; past its end are zeros.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let bytes = self.bytes(N);
        array::from_fn(|idx| bytes.get(idx).copied().unwrap_or(0))
    }

    pub fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// `0..=most`: of any size alike, so that most are small and some as great as they can be.
    pub fn number(&mut self, most: usize) -> usize {
        let [n_bits, number] = [self.byte().into(), self.u16()];
        usize::from(number >> (n_bits % 16)).min(most)
    }

    /// Up to `n` bytes.
    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// A few bytes, whose number comes first.
    pub fn piece(&mut self) -> &'a [u8] {
        let n = self.number(usize::MAX);
        self.bytes(n)
    }

    /// `n` weights: a handful that the input has, over and over, by chance, or as rarely as codes of
    /// every length ask for; or any.
    pub fn weights(&mut self, n: usize) -> Vec<u16> {
        let kind = self.byte() % 4;
        let mut random = Random(self.u64());
        let n_known = usize::from(self.byte()) + 1;
        let known: Vec<u16> = (0..n_known).map(|_| self.u16()).collect();
        let weight = |idx: usize| match kind {
            0 => known[idx % n_known],
            1 => known[random.next() as usize % n_known],
            2 => known[random.next().trailing_zeros() as usize % n_known],
            _ => random.next() as u16,
        };
        (0..n).map(weight).collect()
    }
}

/// xorshift64* (Vigna, 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }
}

/// Changes some tensors in up to eight places: their bytes and their lengths.
pub fn damage(input: &mut Input<'_>, tensors: &mut [Vec<u8>]) {
    for _ in 0..input.byte() % 9 {
        let tensor = usize::from(input.byte()) % tensors.len();
        let tensor = &mut tensors[tensor];
        let kind = input.byte();
        let at = input.u32() as usize % (tensor.len() + 1);
        match kind % 8 {
            0 => tensor.truncate(at),
            1 => drop(tensor.splice(at..at, input.piece().iter().copied())),
            2 => *tensor = input.piece().to_vec(),
            3 => drop(tensor.drain(at..(at + usize::from(input.byte())).min(tensor.len()))),
            kind => damage_at(input, kind, tensor, at),
        }
    }
}

/// Changes some tensors in up to eight places, and no length.
pub fn damage_bytes(input: &mut Input<'_>, tensors: &mut [Vec<u8>]) {
    for _ in 0..input.byte() % 9 {
        let tensor = usize::from(input.byte()) % tensors.len();
        let tensor = &mut tensors[tensor];
        let kind = input.byte();
        let at = input.u32() as usize % (tensor.len() + 1);
        damage_at(input, kind, tensor, at);
    }
}

fn damage_at(input: &mut Input<'_>, kind: u8, tensor: &mut [u8], at: usize) {
    let n_left = tensor.len() - at;
    match kind % 4 {
        0 => tensor[at..].iter_mut().take(1).for_each(|byte| *byte ^= 1 << (input.byte() % 8)),
        1 => tensor[at..].iter_mut().zip(input.piece()).for_each(|(byte, new)| *byte = *new),
        // A number of two bytes, a little off.
        2 => {
            let step = input.byte() as i8;
            if let Some(word) = tensor[at / 2 * 2..].first_chunk_mut() {
                *word = u16::from_le_bytes(*word).wrapping_add_signed(step.into()).to_le_bytes();
            }
        }
        _ => {
            let n = usize::from(input.byte()).min(n_left);
            let from = input.u32() as usize % (tensor.len() - n + 1);
            tensor.copy_within(from..from + n, at);
        }
    }
}

/// Where the input says so, `code` with a bit more for each exponent, so that half of all bits are none.
pub fn loosened(input: &mut Input<'_>, code: CompactCode) -> CompactCode {
    if input.byte().is_multiple_of(2) {
        return code;
    }
    let longer = |byte: u8| match byte {
        0 | 12.. => byte,
        length => length + 1,
    };
    let of_two = |two: u8| longer(two & 15) | longer(two >> 4) << 4;
    CompactCode::of_lengths(&code.to_lengths().map(of_two)).expect("more room than before")
}

/// Tensors one after the other behind `shift` bytes, as a file has them: in any alignment.
pub fn placed(shift: usize, tensors: &[Vec<u8>]) -> Vec<u8> {
    [&vec![0; shift], &tensors.concat()[..]].concat()
}

/// Little-endian words; bytes of none are left out.
pub fn words<T, const N: usize>(bytes: &[u8], word: fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().copied().map(word).collect()
}
