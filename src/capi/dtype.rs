//! Types of elements, by number.

use super::status::{Failure, lacuna_status};

/// The type of a view's elements. 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_dtype {
    LACUNA_BF16 = 1,
    LACUNA_F16 = 2,
    LACUNA_F32 = 3,
    /// OCP E4M3: 4 bits of exponent, no infinities.
    LACUNA_E4M3 = 4,
    /// OCP E5M2.
    LACUNA_E5M2 = 5,
    LACUNA_U8 = 6,
    LACUNA_U16 = 7,
    LACUNA_U32 = 8,
    LACUNA_U64 = 9,
    LACUNA_I8 = 10,
    LACUNA_I32 = 11,
    LACUNA_I64 = 12,
}

/// The library's name of each number, which is [`Element::NAME`](crate::Element::NAME).
const NAMES: [&str; 13] =
    ["none", "bf16", "f16", "f32", "e4m3", "e5m2", "u8", "u16", "u32", "u64", "i8", "i32", "i64"];

pub(super) fn name(dtype: u32) -> String {
    NAMES.get(dtype as usize).map_or_else(|| format!("{dtype}"), |name| (*name).to_owned())
}

pub(super) fn number<T: crate::Element>() -> u32 {
    NAMES.iter().position(|name| *name == T::NAME).unwrap_or_default() as u32
}

pub(super) fn refuse(what: &str, found: u32, allowed: &str) -> Failure {
    let message = format!("dtype of {what}: {} is not one of {allowed}", name(found));
    Failure::new(lacuna_status::LACUNA_DTYPE, message)
}

/// Runs an expression with a type for each number that is allowed.
macro_rules! with_dtype {
    ($dtype:expr, $what:expr, $T:ident of [$($name:ident => $type:ty),+], $body:expr) => {
        match $dtype {
            $(
                number if number == $crate::capi::lacuna_dtype::$name as u32 => {
                    type $T = $type;
                    $body
                }
            )+
            number => {
                let names: &[&str] = &[$(<$type as $crate::Element>::NAME),+];
                Err($crate::capi::dtype::refuse($what, number, &names.join(", ")))
            }
        }
    };
}

/// bf16 and f16.
macro_rules! with_half {
    ($dtype:expr, $what:expr, $T:ident => $body:expr) => {
        $crate::capi::dtype::with_dtype!(
            $dtype, $what, $T of [LACUNA_BF16 => half::bf16, LACUNA_F16 => half::f16], $body
        )
    };
}

/// bf16, f16 and f32.
macro_rules! with_real {
    ($dtype:expr, $what:expr, $T:ident => $body:expr) => {
        $crate::capi::dtype::with_dtype!(
            $dtype, $what,
            $T of [LACUNA_BF16 => half::bf16, LACUNA_F16 => half::f16, LACUNA_F32 => f32],
            $body
        )
    };
}

/// What caches hold: bf16, f16 and fp8.
macro_rules! with_cached {
    ($dtype:expr, $what:expr, $T:ident => $body:expr) => {
        $crate::capi::dtype::with_dtype!(
            $dtype, $what,
            $T of [
                LACUNA_BF16 => half::bf16, LACUNA_F16 => half::f16,
                LACUNA_E4M3 => $crate::element::E4m3, LACUNA_E5M2 => $crate::element::E5m2
            ],
            $body
        )
    };
}

/// Any type, for what moves elements as they are.
macro_rules! with_any {
    ($dtype:expr, $what:expr, $T:ident => $body:expr) => {
        $crate::capi::dtype::with_dtype!(
            $dtype, $what,
            $T of [
                LACUNA_BF16 => half::bf16, LACUNA_F16 => half::f16, LACUNA_F32 => f32,
                LACUNA_E4M3 => $crate::element::E4m3, LACUNA_E5M2 => $crate::element::E5m2,
                LACUNA_U8 => u8, LACUNA_U16 => u16, LACUNA_U32 => u32, LACUNA_U64 => u64,
                LACUNA_I8 => i8, LACUNA_I32 => i32, LACUNA_I64 => i64
            ],
            $body
        )
    };
}

pub(super) use {with_any, with_cached, with_dtype, with_half, with_real};
