//! What a row's picks are, and in which order they come.

use crate::{Error, Result};

/// Which candidates of a row are picked. Forced ones come first, then larger scores, then lower indices; a rule
/// says how many of the first by that order it wants, and `k` bounds them.
///
/// A rule's number may also be given row by row, on the device
/// ([`TopkInputs::amounts`](crate::select::TopkInputs)). There, one past an end of what is allowed counts as
/// that end, and NaN as what wants the most; but no score is at least NaN.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Rule {
    /// As many as there are places.
    #[default]
    Largest,
    /// The fewest whose mass is `share` of the row's (ZipVL; top-p over tokens), all forced ones among them.
    ///
    /// Scores are weights: of those of a row whose largest finite one has the exponent `e`, each weighs
    /// `trunc(score * 2^(39 - e))`; what is not above 0 weighs nothing, and +inf 2^40 - 1. The sums are of integers,
    /// so that the cut is exact, and the same in any order.
    Mass {
        /// 0 to 1, rounded up to a multiple of 2^-32 (those from 2^-8 on are multiples).
        share: f32,
    },
    /// All scores that are at least so much, and all forced ones. NaN is not.
    AtLeast {
        /// A score, compared as a number.
        least: f32,
    },
    /// All that are not among the lowest `percent` (LazyLLM): `ceil((1 - percent / 100) * length)`, all forced ones
    /// among them.
    Percentile {
        /// 0 to 100, rounded down to a multiple of 2^-24.
        percent: f32,
    },
}

/// The order of a row's picks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Ascending indices.
    #[default]
    Index,
    /// Forced ones by their indices, then descending scores, of equal ones lower indices first.
    Score,
}

/// What a share is counted in, and a percentage.
const SHARES: f64 = (1_u64 << 32) as f64;
const PERCENTS: f64 = (1_u64 << 24) as f64;

impl Rule {
    /// The kernel's number for it, and what comes with it.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn params(self) -> (u32, f32) {
        match self {
            Self::Largest => (0, 0.0),
            Self::Mass { share } => (1, share),
            Self::AtLeast { least } => (2, least),
            Self::Percentile { percent } => (3, percent),
        }
    }

    /// The same rule with another number.
    #[must_use]
    pub fn with_amount(self, amount: f32) -> Self {
        match self {
            Self::Largest => self,
            Self::Mass { .. } => Self::Mass { share: amount },
            Self::AtLeast { .. } => Self::AtLeast { least: amount },
            Self::Percentile { .. } => Self::Percentile { percent: amount },
        }
    }

    pub(super) fn check(self) -> Result<()> {
        let (what, value, most, allowed) = match self {
            Self::Mass { share } => ("share of a row's mass", share, 1.0, "0..=1"),
            Self::Percentile { percent } => ("percentile", percent, 100.0, "0..=100"),
            Self::AtLeast { least } if least.is_nan() => {
                let (what, allowed) = ("least score", "the numbers and infinities");
                return Err(Error::Number { what, value: least, allowed });
            }
            Self::AtLeast { .. } | Self::Largest => return Ok(()),
        };
        if (0.0..=most).contains(&value) {
            return Ok(());
        }
        Err(Error::Number { what, value, allowed })
    }
}

/// How much of `total` is `share` of it: rounded up, of a share in multiples of 2^-32.
pub(super) fn share_of(total: u64, share: f32) -> u64 {
    let share = if share.is_nan() { 1.0 } else { share.clamp(0.0, 1.0) };
    let share = (f64::from(share) * SHARES).ceil() as u128;
    (u128::from(total) * share).div_ceil(1 << 32) as u64
}

/// How many of `length` are not among the lowest `percent`.
pub(super) fn kept_of(length: u64, percent: f32) -> u64 {
    let percent = if percent.is_nan() { 0.0 } else { percent.clamp(0.0, 100.0) };
    let dropped = (f64::from(percent) * PERCENTS).floor() as u64;
    (length * ((100 << 24) - dropped)).div_ceil(100 << 24)
}

/// What a score weighs where `largest` is the row's largest finite one: see [`Rule::Mass`].
pub(super) fn weight_of(score: f32, largest: f32) -> u64 {
    let is_positive = score > 0.0;
    if !is_positive {
        return 0;
    }
    if score.is_infinite() {
        return (1 << 40) - 1;
    }
    // A number is its mantissa, in units of its exponent's last place; subnormal ones have the least exponent.
    let exponent = |bits: u32| (bits >> 23).max(1);
    let bits = score.to_bits();
    let hidden = if bits >> 23 == 0 { 0 } else { 1 << 23 };
    let mantissa = u64::from(bits & 0x7F_FFFF | hidden);
    let n_below = exponent(largest.to_bits()) - exponent(bits);
    (mantissa << 16).checked_shr(n_below).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_percentages_are_exact() {
        assert_eq!(share_of(10, 0.5), 5);
        assert_eq!(share_of(11, 0.5), 6);
        assert_eq!(share_of(u64::MAX, 1.0), u64::MAX);
        assert_eq!(share_of(u64::MAX, f32::NAN), u64::MAX);
        assert_eq!(share_of(u64::MAX, 0.0), 0);
        assert_eq!(share_of(0, 1.0), 0);
        // The least share is more than nothing.
        assert_eq!(share_of(1, f32::from_bits(1)), 1);
        assert_eq!(share_of(1 << 33, f32::from_bits(1)), 2);
        // 30 % of 10 are 3, whatever 0.3 is in binary.
        assert_eq!(kept_of(10, 30.0), 7);
        assert_eq!(kept_of(10, 30.1), 7);
        assert_eq!(kept_of(10, 29.9), 8);
        assert_eq!(kept_of((1 << 31) - 1, 0.0), (1 << 31) - 1);
        assert_eq!(kept_of((1 << 31) - 1, 100.0), 0);
        assert_eq!(kept_of((1 << 31) - 1, 1e-30), (1 << 31) - 1);
        assert_eq!(kept_of(7, f32::INFINITY), 0);
        assert_eq!(kept_of(7, f32::NAN), 7);
    }

    #[test]
    fn weights_are_what_the_formula_says() {
        for (score, largest) in
            [(1.0, 1.0), (1.999, 1.0), (0.3, 7.5), (1e-9, 0.9), (1e-40, 1e-39), (3e-39, 2e-38)]
        {
            let exponent = f64::from(f32::max(largest, f32::MIN_POSITIVE)).log2().floor();
            let exact = f64::from(score) * (39.0 - exponent).exp2();
            assert_eq!(weight_of(score, largest), exact as u64, "{score} {largest}");
        }
        assert_eq!(weight_of(1e-38, 1e38), 0);
        assert!(weight_of(f32::MAX, f32::MAX) < weight_of(f32::INFINITY, f32::MAX));
        for nothing in [0.0, -0.0, -1.0, f32::NAN, f32::NEG_INFINITY] {
            assert_eq!(weight_of(nothing, 1.0), 0);
        }
        // As many as a row may have.
        assert!(weight_of(f32::INFINITY, 1.0).checked_mul(1 << 24).is_some());
    }
}
