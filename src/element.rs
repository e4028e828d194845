//! The types device memory can hold.

use crate::mma::Operand;

mod sealed {
    pub trait Sealed {}
}

/// A type that device memory can hold: any bytes are a value of it, and it has no padding. Sealed.
pub trait Element: sealed::Sealed + bytemuck::Pod + Send + Sync {
    /// The field's name of the type.
    const NAME: &'static str;
}

macro_rules! elements {
    ($($type:ty => $name:literal),* $(,)?) => {
        $(
            impl sealed::Sealed for $type {}
            impl Element for $type {
                const NAME: &'static str = $name;
            }
        )*
    };
}

elements! {
    u8 => "u8", u16 => "u16", u32 => "u32", u64 => "u64",
    i8 => "i8", i32 => "i32", i64 => "i64",
    f32 => "f32", half::f16 => "f16", half::bf16 => "bf16", E4m3 => "e4m3", E5m2 => "e5m2",
}

/// An fp8 number with 4 bits of exponent and 3 of mantissa, without infinities (OCP E4M3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct E4m3(pub u8);

/// An fp8 number with 5 bits of exponent and 2 of mantissa (OCP E5M2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct E5m2(pub u8);

/// A floating-point element. Sealed: bf16, f16, f32, [`E4m3`] and [`E5m2`].
pub trait Float: Element {
    /// The kernels' number for it: that of `Float` in `csrc/common/number.cuh`.
    const NUMBER: u32;

    /// The same value; of NaN, some NaN.
    fn to_f32(self) -> f32;
}

/// A number that results are rounded to. Sealed: bf16, f16 and f32.
pub trait Real: Float {
    /// The nearest value, ties to even; of NaN 0x7FFF, or 0x7FFFFFFF.
    fn from_f32(value: f32) -> Self;
}

impl Real for half::bf16 {
    fn from_f32(value: f32) -> Self {
        if value.is_nan() { Self::from_bits(0x7FFF) } else { Self::from_f32(value) }
    }
}

impl Real for half::f16 {
    fn from_f32(value: f32) -> Self {
        if value.is_nan() { Self::from_bits(0x7FFF) } else { Self::from_f32(value) }
    }
}

impl Real for f32 {
    fn from_f32(value: f32) -> Self {
        if value.is_nan() { Self::from_bits(0x7FFF_FFFF) } else { value }
    }
}

/// What tensor cores multiply with sums in f32. Sealed: bf16 and f16.
pub trait Half: Real {
    /// How they do.
    const OPERAND: Operand;

    /// Its bits.
    fn bits(self) -> u16;
}

impl Half for half::bf16 {
    const OPERAND: Operand = Operand::Bf16;

    fn bits(self) -> u16 {
        self.to_bits()
    }
}

impl Half for half::f16 {
    const OPERAND: Operand = Operand::F16;

    fn bits(self) -> u16 {
        self.to_bits()
    }
}

macro_rules! floats {
    ($($type:ty => $number:literal, $to_f32:expr;)*) => {
        $(
            impl Float for $type {
                const NUMBER: u32 = $number;

                fn to_f32(self) -> f32 {
                    $to_f32(self)
                }
            }
        )*
    };
}

floats! {
    half::bf16 => 0, half::bf16::to_f32;
    half::f16 => 1, half::f16::to_f32;
    f32 => 2, |value| value;
    E4m3 => 3, |E4m3(bits): E4m3| match bits & 0x7F {
        0x7F => f32::NAN,
        // As f16 with the same mantissa, an exponent's bias of 15 in place of 7.
        magnitude => {
            let sign = u16::from(bits & 0x80) << 8;
            half::f16::from_bits(sign | u16::from(magnitude) << 7).to_f32() * 256.0
        }
    };
    E5m2 => 4, |E5m2(bits): E5m2| half::f16::from_bits(u16::from(bits) << 8).to_f32();
}
