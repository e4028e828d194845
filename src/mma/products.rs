//! What the tensor cores of a queue answer.
#![allow(unsafe_code)]

use super::Operand;
use crate::bindings::MmaProductsParams;
use crate::buffer::{View, ViewMut};
use crate::launch::{Arguments, Grid, check_aligned, kernel_params};
use crate::queue::Queue;
use crate::region::Role;
use crate::{Error, Result};

/// Bytes of a row of `a`, and of a column of `b`; columns of a product.
const ROW_BYTES: usize = 32;
const N_COLUMNS: usize = 8;

kernel_params!(MmaProductsParams, "mma", "mma_products");

/// The same struct for the other kernel.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct ByWarpgroup(#[allow(dead_code, reason = "the kernel reads it")] MmaProductsParams);

kernel_params!(ByWarpgroup, "mma", "wgmma_products");

/// What multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Instruction {
    /// `mma.sync`, of one warp: 16 rows of `a`.
    Mma,
    /// `wgmma`, of four warps: 64 rows of `a`. Of CUDA devices, those of compute capability 9.0 have
    /// it.
    Wgmma,
}

impl Instruction {
    /// Rows of `a`, and of the result, in one product.
    pub fn n_rows(self) -> usize {
        match self {
            Self::Mma => 16,
            Self::Wgmma => 64,
        }
    }
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
    /// `a` u8 and `b` i8, the same; of `mma.sync` alone.
    U8I8,
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
            Self::U8I8 => 6,
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

/// Whether [`multiply`] on this queue takes these.
///
/// # Errors
/// [`Error::Range`] where it does not: `wgmma` on a device other than of compute capability 9.0; fp8
/// with `mma.sync` on a CUDA device, of which the portable image has none; factors of two types with
/// `wgmma`.
pub fn check_supported(queue: &Queue, instruction: Instruction, factor: Factor) -> Result<()> {
    if instruction == Instruction::Wgmma && factor == Factor::U8I8 {
        let what = "element type of a product";
        let allowed = "the types of which both factors are: wgmma has no two";
        return Err(Error::Range { what, value: factor.number().into(), allowed });
    }
    let Some(capability) = queue.capability() else { return Ok(()) };
    let is_fp8 = matches!(factor, Factor::Float(Operand::E4M3 | Operand::E5M2));
    match instruction {
        Instruction::Mma if is_fp8 => Err(Error::Range {
            what: "element type of a product",
            value: factor.number().into(),
            allowed: "bf16, f16, i8 and u8: the portable image has no fp8",
        }),
        Instruction::Wgmma if capability != (9, 0) => Err(Error::Range {
            what: "compute capability, in tenths",
            value: (capability.0 * 10 + capability.1).into(),
            allowed: "90 for wgmma",
        }),
        _ => Ok(()),
    }
}

/// `d[i] = a[i] * b[i] + c[i]`, each by one instruction of a tensor core: what [`Model`](super::Model)
/// is held against on a GPU. It is not a way to multiply matrices.
///
/// # Shapes
/// For n products of m rows ([`Instruction::n_rows`]): `a` is `[n, m, 32]` bytes, rows of 16 or 32
/// elements; `b` is `[n, 8, 32]` bytes, columns; `c` and `d` are `[n, m, 8]`, the bits of f32 or
/// i32. `a` and `b` start at multiples of 16 bytes, `c` and `d` at multiples of 8.
///
/// # Stream
/// One launch.
///
/// # Errors
/// Those of [`check_supported`], [`Error::Shape`] and [`Error::Range`] before anything is launched;
/// [`Error::WrongQueue`], [`Error::WrongStream`], [`Error::Driver`].
pub fn multiply(
    queue: &Queue,
    instruction: Instruction,
    factor: Factor,
    a: &View<'_, u8>,
    b: &View<'_, u8>,
    c: &View<'_, u32>,
    d: &mut ViewMut<'_, u32>,
) -> Result<()> {
    check_supported(queue, instruction, factor)?;
    let n_rows = instruction.n_rows();
    let n = d.len() / (n_rows * N_COLUMNS);
    for (what, address, alignment, allowed) in [
        ("address of a", a.address(), 16, "the multiples of 16"),
        ("address of b", b.address(), 16, "the multiples of 16"),
        ("address of c", c.address(), 8, "the multiples of 8"),
        ("address of d", d.address(), 8, "the multiples of 8"),
    ] {
        check_aligned(what, address, alignment, allowed)?;
    }
    let n_products = u32::try_from(n).ok().filter(|n| *n < 1 << 31).ok_or(Error::Range {
        what: "products of a launch",
        value: n as u64,
        allowed: "0..2^31",
    })?;
    let [n_a, n_b, n_c] = [n_rows * ROW_BYTES, N_COLUMNS * ROW_BYTES, n_rows * N_COLUMNS];
    let mut arguments = Arguments::new(queue);
    let params = MmaProductsParams {
        a: arguments.input("a, in bytes", a, (n * n_a) as u64)?,
        b: arguments.input("b, in bytes", b, (n * n_b) as u64)?,
        c: arguments.input("c", c, (n * n_c) as u64)?,
        d: arguments.written(Role::Output, "d", d, (n * n_c) as u64)?,
        n_products,
        operand: factor.number(),
    };
    // A warp for 16 rows.
    let threads = [n_rows as u32 * 2, 1, 1];
    let grid =
        Grid { blocks: [n_products, 1, 1], threads, dynamic_shared_bytes: 0, cluster_blocks: 1 };
    // SAFETY: all lengths were checked against the number of products.
    unsafe {
        match instruction {
            Instruction::Mma => arguments.launch(&grid, &params),
            Instruction::Wgmma => arguments.launch(&grid, &ByWarpgroup(params)),
        }
    }
}
