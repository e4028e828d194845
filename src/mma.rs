//! What a tensor core answers, bit for bit: a model of `mma.sync` for bf16, f16 and fp8 operands with
//! f32 accumulators, in integers. (Products of integers need no model: their sums are exact.)
//!
//! One fused step adds up to [`Model::chunk`] products to an accumulator: every product is exact
//! and not normalised, all terms are truncated toward zero to a common number of bits below the
//! largest exponent among them, their sum is exact, and the result is truncated toward zero. After
//! MMA-Sim (arXiv:2511.10909) and Khattak and Mikaitis (arXiv:2512.07004), whose recorded hardware
//! answers it reproduces.

#[cfg(any(feature = "cuda", feature = "simt"))]
mod products;

#[cfg(any(feature = "cuda", feature = "simt"))]
pub use products::{Factor, Instruction, check_supported, multiply};

/// A generation of tensor cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Model {
    half: Unit,
    fp8: Unit,
}

/// How one kind of operand is added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Unit {
    /// Bits kept below the largest exponent.
    fraction_bits: i32,
    chunk: usize,
    /// Fraction bits of the result.
    result_fraction: i32,
}

/// The element type of the operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operand {
    /// bfloat16: 8 bits of exponent, 7 of fraction.
    Bf16,
    /// IEEE binary16: 5 bits of exponent, 10 of fraction.
    F16,
    /// OCP fp8 with 4 bits of exponent and 3 of fraction, in the low byte: no infinities, and NaN is
    /// all ones.
    E4M3,
    /// OCP fp8 with 5 bits of exponent and 2 of fraction, in the low byte.
    E5M2,
}

/// What was published of a step none of whose terms reaches 2^-126. [`Model::dot_add`] aligns such
/// terms to the largest of them; these align them to a fixed power of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// MMA-Sim (arXiv:2511.10909): an accumulator of zero counts as one of 2^-126.
    MmaSim,
    /// Khattak and Mikaitis (arXiv:2512.07004): to 2^-133 on Hopper and Blackwell, 2^-132 on Ampere
    /// and Ada.
    Khattak,
}

/// A result, and whether it is known to be that of the hardware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// f32 bits. NaN is always 0x7FFFFFFF, and an exact zero +0.
    pub bits: u32,
    /// Whether the published models agree on it. They do not where no term of a step reaches
    /// 2^-126, and no hardware answer settles it yet. Of fp8, the answers on record begin with an
    /// accumulator of zero.
    pub is_settled: bool,
}

const NAN: u32 = 0x7FFF_FFFF;
const INFINITY: u32 = 0x7F80_0000;
const SIGN: u32 = 0x8000_0000;
/// Fraction bits of f32, and its smallest normal exponent.
const F32_FRACTION: i32 = 23;
const F32_MIN_EXPONENT: i32 = -126;

impl Model {
    /// sm_80, sm_86 and sm_89 (fp8: sm_89 alone). The answers on record are of 8 products; that 16
    /// are two steps is MMA-Sim's word.
    pub const AMPERE: Self = Self {
        half: Unit { fraction_bits: 24, chunk: 8, result_fraction: F32_FRACTION },
        fp8: Unit { fraction_bits: 13, chunk: 16, result_fraction: 13 },
    };
    /// sm_90 and sm_100: 16 products in one step, of fp8 32 (that is sm_90's; sm_100 has no answers on
    /// record).
    pub const HOPPER: Self = Self {
        half: Unit { fraction_bits: 25, chunk: 16, result_fraction: F32_FRACTION },
        fp8: Unit { fraction_bits: 13, chunk: 32, result_fraction: 13 },
    };

    /// Of devices of this compute capability; `None` where no answers of such a device are on record.
    pub fn of_capability(capability: (u32, u32)) -> Option<Self> {
        match capability {
            (8, _) => Some(Self::AMPERE),
            (9 | 10, 0) => Some(Self::HOPPER),
            _ => None,
        }
    }

    fn unit(self, operand: Operand) -> Unit {
        if operand.is_fp8() { self.fp8 } else { self.half }
    }

    /// Products of one step; more are steps one after the other.
    pub fn chunk(self, operand: Operand) -> usize {
        self.unit(operand).chunk
    }

    /// As [`dot_add`](Self::dot_add), by a rule that was published for what it calls unsettled: f32 bits.
    ///
    /// # Panics
    /// Where `a` and `b` have different lengths.
    pub fn dot_add_by(self, rule: Rule, operand: Operand, a: &[u16], b: &[u16], c: u32) -> u32 {
        let floor = match rule {
            Rule::MmaSim => F32_MIN_EXPONENT,
            Rule::Khattak if self == Self::HOPPER => -133,
            Rule::Khattak => -132,
        };
        self.add_steps(floor, operand, a, b, c).bits
    }

    /// `c + a[0] * b[0] + a[1] * b[1] + …`, all of them bit patterns, `c` of an f32.
    ///
    /// # Panics
    /// Where `a` and `b` have different lengths.
    pub fn dot_add(self, operand: Operand, a: &[u16], b: &[u16], c: u32) -> Answer {
        self.add_steps(i32::MIN, operand, a, b, c)
    }

    /// No step's terms are aligned to less than `2^floor`.
    fn add_steps(self, floor: i32, operand: Operand, a: &[u16], b: &[u16], c: u32) -> Answer {
        assert_eq!(a.len(), b.len(), "as many of each operand");
        let chunk = self.chunk(operand);
        let steps = a.chunks(chunk).zip(b.chunks(chunk));
        let is_settled = !operand.is_fp8() || c & !SIGN == 0;
        steps.fold(Answer { bits: c, is_settled }, |sum, (a, b)| {
            let Answer { bits, is_settled } = self.step(floor, operand, a, b, sum.bits);
            Answer { bits, is_settled: is_settled && sum.is_settled }
        })
    }

    fn step(self, floor: i32, operand: Operand, a: &[u16], b: &[u16], c: u32) -> Answer {
        let finite = match operand {
            Operand::Bf16 => self.step_of_finite::<8, 7>(floor, a, b, c),
            Operand::F16 => self.step_of_finite::<5, 10>(floor, a, b, c),
            Operand::E4M3 | Operand::E5M2 => None,
        };
        finite.unwrap_or_else(|| self.step_of_any(floor, operand, a, b, c))
    }

    /// The same of numbers of 16 bits that are all finite, by arithmetic of f64, in which products are exact: what attention on the CPU spends its
    /// time on.
    fn step_of_finite<const N_EXPONENT: u32, const N_FRACTION: u32>(
        self,
        floor: i32,
        a: &[u16],
        b: &[u16],
        c: u32,
    ) -> Option<Answer> {
        const MOST: usize = 16;
        /// Of a product that is zero, whose exponent means nothing.
        const NONE: i16 = i16::MIN;
        let Unit { fraction_bits, result_fraction, .. } = self.half;
        let pad = |operand: &[u16]| {
            let mut padded = [0_u16; MOST];
            padded[..operand.len()].copy_from_slice(operand);
            padded
        };
        let (a, b) = (pad(a), pad(b));
        let greatest_field = (1_i16 << N_EXPONENT) - 1;
        let bias = i32::from(greatest_field / 2);
        let field = |bits: u16| (bits >> N_FRACTION) as i16 & greatest_field;
        let (mut greatest, mut largest) = (0, NONE);
        for (a, b) in a.iter().zip(&b) {
            let (x, y) = (field(*a), field(*b));
            greatest = greatest.max(x).max(y);
            let is_zero = a & 0x7FFF == 0 || b & 0x7FFF == 0;
            largest = largest.max(if is_zero { NONE } else { x.max(1) + y.max(1) });
        }
        if greatest == greatest_field || c & INFINITY == INFINITY {
            return None;
        }
        let c_exponent = ((c >> F32_FRACTION) as i32 & 255).max(1) - 127;
        let of_products = (largest != NONE).then(|| i32::from(largest) - 2 * bias);
        let Some(largest) = of_products.max((c & !SIGN != 0).then_some(c_exponent)) else {
            return Some(Answer { bits: 0, is_settled: true });
        };
        let is_settled = largest >= F32_MIN_EXPONENT;
        let largest = largest.max(floor);
        let power = |exponent: i32| f64::from_bits(((1023 + exponent) as u64) << 52);
        let number = |bits: u16| {
            if N_EXPONENT == 8 {
                return f64::from(f32::from_bits(u32::from(bits) << 16));
            }
            let fraction = i32::from(bits) & ((1 << N_FRACTION) - 1);
            let significand = fraction | i32::from(field(bits) != 0) << N_FRACTION;
            let exponent = i32::from(field(bits).max(1)) - bias - N_FRACTION as i32;
            let magnitude = f64::from(significand) * power(exponent);
            if bits >> 15 == 1 { -magnitude } else { magnitude }
        };
        // In units of the last bit that is kept, of which a term has less than 2^28: what is below is cut off.
        let scale = power(fraction_bits - largest);
        let products = a.iter().zip(&b);
        let products = products.map(|(a, b)| i64::from((number(*a) * number(*b) * scale) as i32));
        let sum = products.sum::<i64>() + (f64::from(f32::from_bits(c)) * scale) as i64;
        let bits = round_toward_zero(sum, largest - fraction_bits, result_fraction);
        Some(Answer { bits, is_settled })
    }

    fn step_of_any(self, floor: i32, operand: Operand, a: &[u16], b: &[u16], c: u32) -> Answer {
        let products = a.iter().zip(b).map(|(a, b)| operand.read(*a).times(operand.read(*b)));
        let terms: Vec<Number> = products.chain([read_f32(c)]).collect();
        let infinities = |is_negative| terms.contains(&Number::Infinite { is_negative });
        let settled = |bits| Answer { bits, is_settled: true };
        match (terms.contains(&Number::NaN), infinities(false), infinities(true)) {
            (true, ..) | (_, true, true) => return settled(NAN),
            (_, true, false) => return settled(INFINITY),
            (_, false, true) => return settled(SIGN | INFINITY),
            _ => {}
        }
        let exponents = terms.iter().filter_map(|term| term.exponent());
        let Some(largest) = exponents.max() else { return settled(0) };
        let Unit { fraction_bits, result_fraction, .. } = self.unit(operand);
        let is_settled = largest >= F32_MIN_EXPONENT;
        let largest = largest.max(floor);
        let sum = terms.iter().map(|term| term.align(largest, fraction_bits)).sum();
        let bits = round_toward_zero(sum, largest - fraction_bits, result_fraction);
        Answer { bits, is_settled }
    }
}

/// An operand, a product or an accumulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    NaN,
    Infinite {
        is_negative: bool,
    },
    /// `significand * 2^(exponent - n_fraction)`; the exponent is not that of the leading bit
    /// where the number is subnormal or a product.
    Finite {
        is_negative: bool,
        significand: i64,
        exponent: i32,
        n_fraction: i32,
    },
}

impl Operand {
    fn read(self, bits: u16) -> Number {
        match self {
            Self::Bf16 => read(bits.into(), 8, 7),
            Self::F16 => read(bits.into(), 5, 10),
            Self::E4M3 => read_e4m3(bits.into()),
            Self::E5M2 => read((bits & 0xFF).into(), 5, 2),
        }
    }

    fn is_fp8(self) -> bool {
        matches!(self, Self::E4M3 | Self::E5M2)
    }
}

/// The largest exponent holds numbers too; only its last fraction is NaN.
fn read_e4m3(bits: u32) -> Number {
    let is_negative = bits & 0x80 != 0;
    let significand = i64::from(8 | bits & 7);
    match bits & 0x7F {
        0x7F => Number::NaN,
        0x78..0x7F => Number::Finite { is_negative, significand, exponent: 8, n_fraction: 3 },
        _ => read(bits & 0xFF, 4, 3),
    }
}

fn read_f32(bits: u32) -> Number {
    read(bits, 8, F32_FRACTION)
}

/// IEEE's layout of a sign, `n_exponent` and `n_fraction` bits.
fn read(bits: u32, n_exponent: i32, n_fraction: i32) -> Number {
    let is_negative = bits >> (n_exponent + n_fraction) & 1 == 1;
    let largest = (1 << n_exponent) - 1;
    let bias = largest / 2;
    let fraction = i64::from(bits & ((1 << n_fraction) - 1));
    match (bits >> n_fraction) as i32 & largest {
        field if field == largest && fraction != 0 => Number::NaN,
        field if field == largest => Number::Infinite { is_negative },
        0 => Number::Finite { is_negative, significand: fraction, exponent: 1 - bias, n_fraction },
        field => Number::Finite {
            is_negative,
            significand: 1 << n_fraction | fraction,
            exponent: field - bias,
            n_fraction,
        },
    }
}

impl Number {
    fn is_negative(self) -> bool {
        match self {
            Self::NaN => false,
            Self::Infinite { is_negative } | Self::Finite { is_negative, .. } => is_negative,
        }
    }

    fn times(self, other: Self) -> Self {
        let is_negative = self.is_negative() != other.is_negative();
        match (self, other) {
            (
                Self::Finite {
                    significand: a, exponent: a_exponent, n_fraction: a_fraction, ..
                },
                Self::Finite {
                    significand: b, exponent: b_exponent, n_fraction: b_fraction, ..
                },
            ) => Self::Finite {
                is_negative,
                significand: a * b,
                exponent: a_exponent + b_exponent,
                n_fraction: a_fraction + b_fraction,
            },
            (Self::NaN, _) | (_, Self::NaN) => Self::NaN,
            // Infinity times zero.
            (Self::Finite { significand: 0, .. }, _) | (_, Self::Finite { significand: 0, .. }) => {
                Self::NaN
            }
            _ => Self::Infinite { is_negative },
        }
    }

    /// `None` for zeros, which take no part.
    fn exponent(self) -> Option<i32> {
        match self {
            Self::Finite { significand, exponent, .. } if significand != 0 => Some(exponent),
            _ => None,
        }
    }

    /// In units of `2^(largest - fraction_bits)`, truncated toward zero.
    fn align(self, largest: i32, fraction_bits: i32) -> i64 {
        let Self::Finite { is_negative, significand, exponent, n_fraction } = self else {
            return 0;
        };
        // A zero's exponent means nothing.
        if significand == 0 {
            return 0;
        }
        let n_right = n_fraction - fraction_bits + (largest - exponent);
        let magnitude = match u32::try_from(n_right) {
            Ok(n_right) => significand.checked_shr(n_right).unwrap_or(0),
            Err(_) => significand << -n_right,
        };
        if significand == 0 {
            0
        } else if is_negative {
            -magnitude
        } else {
            magnitude
        }
    }
}

/// `sum * 2^exponent` as an f32 of which `n_fraction` bits are kept, truncated toward zero; too large
/// is infinity.
fn round_toward_zero(sum: i64, exponent: i32, n_fraction: i32) -> u32 {
    if sum == 0 {
        return 0;
    }
    let sign = if sum < 0 { SIGN } else { 0 };
    let magnitude = sum.unsigned_abs();
    let n_bits = 64 - magnitude.leading_zeros() as i32;
    let leading = n_bits - 1 + exponent;
    if leading > 127 {
        return sign | INFINITY;
    }
    // The last bit that an f32 of this size has.
    let last = leading.max(F32_MIN_EXPONENT) - n_fraction;
    let shift = last - exponent;
    let significand = match u32::try_from(shift) {
        Ok(shift) => magnitude.checked_shr(shift).unwrap_or(0),
        Err(_) => magnitude << -shift,
    } as u32;
    // A normal number's leading bit is the lowest of the exponent.
    let field = (leading.max(F32_MIN_EXPONENT) + 126) as u32;
    sign | ((field << F32_FRACTION) + (significand << (F32_FRACTION - n_fraction)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any bits, and often those whose exponents are near each other: then more than one term counts.
    fn half() -> impl Strategy<Value = u16> {
        prop_oneof![
            any::<u16>(),
            Just(0),
            Just(0x8000),
            0x3E00..0x4100_u16,
            0xBE00..0xC100_u16,
            0..0x100_u16
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        #[cfg_attr(miri, ignore = "hundreds of cases")]
        fn finite_numbers_are_added_as_any_are(
            a in prop::collection::vec(half(), 0..=16),
            b in prop::collection::vec(half(), 16),
            c in prop_oneof![any::<u32>(), Just(0), Just(SIGN), 0x3F00_0000..0x4100_0000_u32, 0..0x0100_0000_u32],
            floor in prop_oneof![Just(i32::MIN), Just(F32_MIN_EXPONENT), Just(-133)],
        ) {
            for (model, chunk) in [(Model::AMPERE, 8), (Model::HOPPER, 16)] {
                let a = &a[..a.len().min(chunk)];
                let b = &b[..a.len()];
                let of_bf16 = model.step_of_finite::<8, 7>(floor, a, b, c);
                let of_f16 = model.step_of_finite::<5, 10>(floor, a, b, c);
                for (operand, finite) in [(Operand::Bf16, of_bf16), (Operand::F16, of_f16)] {
                    if let Some(finite) = finite {
                        prop_assert_eq!(finite, model.step_of_any(floor, operand, a, b, c));
                    }
                }
            }
        }
    }
}
