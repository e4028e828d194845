//! How many bits, of what.

use std::fmt;

/// Bits that an element of a page has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// 2.
    T2,
    /// 4.
    T4,
    /// 8.
    T8,
    /// 16: the numbers themselves, bf16 or f16.
    T16,
}

impl Tier {
    /// All of them, from the fewest bits on.
    pub const ALL: [Self; 4] = [Self::T2, Self::T4, Self::T8, Self::T16];

    /// All of them by [`tag`](Self::tag), as pools are.
    pub const BY_TAG: [Self; 4] = [Self::T16, Self::T8, Self::T4, Self::T2];

    /// Bits of an element.
    pub const fn bits(self) -> u32 {
        match self {
            Self::T2 => 2,
            Self::T4 => 4,
            Self::T8 => 8,
            Self::T16 => 16,
        }
    }

    /// Whether its elements are codes, with a [`Tail`] beside them.
    pub const fn is_coded(self) -> bool {
        !matches!(self, Self::T16)
    }

    /// The greatest code; none of numbers that are not coded.
    pub const fn greatest_code(self) -> Option<u8> {
        match self {
            Self::T2 => Some(3),
            Self::T4 => Some(15),
            Self::T8 => Some(255),
            Self::T16 => None,
        }
    }

    /// Its number in the upper two bits of a page's entry.
    pub const fn tag(self) -> u32 {
        match self {
            Self::T16 => 0,
            Self::T8 => 1,
            Self::T4 => 2,
            Self::T2 => 3,
        }
    }

    /// That of an entry: any two bits are a tier's.
    pub const fn of_entry(entry: u32) -> Self {
        match entry >> 30 {
            0 => Self::T16,
            1 => Self::T8,
            2 => Self::T4,
            _ => Self::T2,
        }
    }
}

/// What a page of codes ends with, of each token: all pages of a set of pools have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Tail {
    /// A step, bf16, and a zero point, in sixteenths of a step: 256 bytes. What
    /// [`quantize_pages`](crate::quant::quantize_pages) writes.
    #[default]
    ZeroPoints,
    /// A step and a minimum, f32: 512 bytes. What other schemes' steps, zero points and minimums fit without rounding.
    Minimums,
}

impl Tail {
    /// Bytes of a page.
    pub const fn bytes(self) -> usize {
        match self {
            Self::ZeroPoints => 256,
            Self::Minimums => 512,
        }
    }

    /// The kernels' number for it.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::ZeroPoints => 0,
            Self::Minimums => 1,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bits", self.bits())
    }
}

/// What a page is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Keys: products with queries are sums over channels.
    Keys,
    /// Values: products with weights are sums over tokens.
    Values,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_name_tiers() {
        for tier in Tier::ALL {
            assert_eq!(Tier::of_entry(tier.tag() << 30 | 0x3FFF_FFFF), tier);
            assert_eq!(Tier::BY_TAG[tier.tag() as usize], tier);
            let codes = tier.greatest_code().map(u32::from);
            assert_eq!(codes, tier.is_coded().then(|| (1 << tier.bits()) - 1));
        }
    }
}
