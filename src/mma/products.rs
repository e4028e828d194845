//! What the tensor cores of a queue answer.
#![allow(unsafe_code)]

use super::Operand;
use crate::bindings::MmaProductsParams;
use crate::buffer::{Memory, View, ViewMut};
use crate::launch::{self, Grid, Kernel, KernelParams};
use crate::queue::Queue;
use crate::region::Role;
use crate::{Error, Result};

/// Bytes of `a`, and of `b`, in one product; elements of `c`, and of `d`.
const A_BYTES: usize = 512;
const B_BYTES: usize = 256;
const N_RESULTS: usize = 128;

#[cfg(feature = "simt")]
unsafe extern "C" {
    fn lacuna_simt_mma_products(params: *const core::ffi::c_void, is_checked: u32);
}

// SAFETY: `MmaProductsParams` is generated from the header that csrc/mma/products.cu takes its
// parameter from, and tests/images.rs holds its size against every image.
unsafe impl KernelParams for MmaProductsParams {
    const KERNEL: Kernel = Kernel {
        room: "mma",
        entry: "mma_products",
        #[cfg(feature = "simt")]
        simt: lacuna_simt_mma_products,
    };
}

/// The element type of the factors of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Factor {
    /// Floating point, with f32 accumulators.
    Float(Operand),
    /// i8, with i32 accumulators that wrap.
    I8,
    /// u8, with i32 accumulators that wrap.
    U8,
}

impl Factor {
    /// The numbers of `MmaProductsParams::operand`.
    fn number(self) -> u32 {
        match self {
            Self::Float(Operand::Bf16) => 0,
            Self::Float(Operand::F16) => 1,
            Self::Float(Operand::E4M3) => 2,
            Self::Float(Operand::E5M2) => 3,
            Self::I8 => 4,
            Self::U8 => 5,
        }
    }

    /// Products that make one element of the result: rows of `a` and columns of `b` are 32 bytes.
    pub fn n_products(self) -> usize {
        match self {
            Self::Float(Operand::Bf16 | Operand::F16) => 16,
            _ => 32,
        }
    }
}

/// `d[i] = a[i] * b[i] + c[i]`, each by one `mma.sync`: what [`Model`](super::Model) is held against
/// on a GPU. It is not a way to multiply matrices.
///
/// # Shapes
/// For n products: `a` is `[n, 16, 32]` bytes, rows of 16 or 32 elements; `b` is `[n, 8, 32]` bytes,
/// columns; `c` and `d` are `[n, 16, 8]`, the bits of f32 or i32. `a` and `b` start at multiples of
/// 16 bytes.
///
/// # Stream
/// One launch.
///
/// # Errors
/// [`Error::Shape`] and [`Error::Range`] before anything is launched, the latter also for fp8 on a
/// CUDA device: the portable image has none. [`Error::WrongQueue`], [`Error::WrongStream`],
/// [`Error::Driver`].
pub fn multiply(
    queue: &Queue,
    factor: Factor,
    a: &View<'_, u8>,
    b: &View<'_, u8>,
    c: &View<'_, u32>,
    d: &mut ViewMut<'_, u32>,
) -> Result<()> {
    queue.check_view("a", a)?;
    queue.check_view("b", b)?;
    queue.check_view("c", c)?;
    queue.check_view_mut("d", d)?;
    let n = d.len() / N_RESULTS;
    for (what, expected, got) in [
        ("a, in bytes", n * A_BYTES, a.len()),
        ("b, in bytes", n * B_BYTES, b.len()),
        ("c", n * N_RESULTS, c.len()),
        ("d", n * N_RESULTS, d.len()),
    ] {
        if got != expected {
            return Err(Error::Shape { what, expected: expected as u64, got: got as u64 });
        }
    }
    for (what, address) in [("address of a", a.address()), ("address of b", b.address())] {
        if address % 16 != 0 {
            return Err(Error::Range { what, value: address, allowed: "the multiples of 16" });
        }
    }
    let is_fp8 = matches!(factor, Factor::Float(Operand::E4M3 | Operand::E5M2));
    if is_fp8 && matches!(queue.memory(), Memory::Cuda(_)) {
        return Err(Error::Range {
            what: "element type of a product",
            value: factor.number().into(),
            allowed: "bf16, f16, i8 and u8: the portable image has no fp8",
        });
    }
    let n_products = u32::try_from(n).ok().filter(|n| *n < 1 << 31).ok_or(Error::Range {
        what: "products of a launch",
        value: n as u64,
        allowed: "0..2^31",
    })?;
    let params = MmaProductsParams {
        a: a.address(),
        b: b.address(),
        c: c.address(),
        d: d.address(),
        n_products,
        operand: factor.number(),
    };
    let grid = Grid { blocks: [n_products, 1, 1], threads: [32, 1, 1], dynamic_shared_bytes: 0 };
    // SAFETY: all lengths were checked against the number of products, and `d` is borrowed mutably.
    unsafe {
        launch::launch(queue, &grid, &params, |regions| {
            regions.input("a", a);
            regions.input("b", b);
            regions.input("c", c);
            regions.written(Role::Output, "d", d);
        })
    }
}
