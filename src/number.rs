//! The arithmetic of the kernels that Rust's own numbers do not have: in CUDA C++ `csrc/common/number.cuh`.

/// 2^x of x from -125 to 0, within 1.01 units in the last place, 1 of 0 and more; 0 of anything less, and of NaN.
///
/// A polynomial on \[-1/2, 1/2\], where x less its nearest integer is exact: the design's \[0, 1) would round
/// `x - floor(x)` of a small negative x, and need a degree more.
pub fn exp2(x: f32) -> f32 {
    // Also NaN.
    let is_normal = x >= -125.0;
    if !is_normal {
        return 0.0;
    }
    let x = x.min(0.0);
    let n = x.round_ties_even();
    let f = x - n;
    // 0x1.444p-13, 0x1.5f48cp-10, 0x1.3b2a1cp-7, 0x1.c6aeccp-5, 0x1.ebfbep-3, 0x1.62e43p-1.
    let coefficients =
        [0x3922_2000, 0x3AAF_A460, 0x3C1D_950E, 0x3D63_5766, 0x3E75_FDF0, 0x3F31_7218];
    let p = coefficients.map(f32::from_bits).into_iter().fold(0.0, |p, c| f32::mul_add(p, f, c));
    let p = f32::mul_add(p, f, 1.0);
    f32::from_bits(p.to_bits().wrapping_add((n as i32 as u32) << 23))
}

/// The logarithm to base 2 of a normal number above 0, within 2 units in the last place, or 2^-24.
///
/// A series of atanh on \[√½, √2\], after the exponent, in CUDA C++ `log2_of`.
pub fn log2(x: f32) -> f32 {
    // Of the mantissa, from which the nearest power of two is one or the other.
    let n = (x.to_bits().wrapping_sub(0x3F35_04F3) as i32) >> 23;
    let m = f32::from_bits(x.to_bits().wrapping_sub((n as u32) << 23));
    let z = (m - 1.0) / (m + 1.0);
    let z2 = z * z;
    // 2 / ln 2 over 9, 7, 5, 3 and 1.
    let coefficients = [0x3EA4_258A, 0x3ED3_0BB1, 0x3F13_BB63, 0x3F76_384F, 0x4038_AA3B];
    let p = coefficients.map(f32::from_bits).into_iter().fold(0.0, |p, c| f32::mul_add(p, z2, c));
    f32::mul_add(p, z, n as f32)
}

/// The inner product of two rows in the one order in which the kernels multiply rows, in CUDA C++
/// `csrc/common/dot.cuh`: lane l of 8 chains its products over the elements 64 j + 8 l + e, j and then e
/// ascending, each rounded once; then the lanes are added in a tree, 4, 2 and 1 apart.
///
/// Of fused multiplications and additions alone, so that the bits are those of any GPU: tensor cores of two
/// generations give two answers.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        let lane = &mut lanes[i % 64 / 8];
        *lane = a.mul_add(*b, *lane);
    }
    for apart in [4, 2, 1] {
        for i in 0..apart {
            lanes[i] += lanes[i + apart];
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of numbers that are compared with the host's; Miri takes seconds for these few.
    const N: u32 = if cfg!(miri) { 2_000 } else { 2_000_000 };

    #[test]
    fn an_inner_product_adds_lanes_and_then_halves() {
        let ones = [1.0_f32; 136];
        assert_eq!(dot(&ones, &ones), 136.0);
        // Lane 0 holds 2^24, to which a 1 of its own is lost; lane 4's two are not.
        let mut row = [0.0_f32; 72];
        (row[0], row[64], row[32], row[33]) = (f32::from_bits(0x4B80_0000), 1.0, 1.0, 1.0);
        assert_eq!(dot(&row, &ones), 16_777_218.0);
    }

    #[test]
    fn log2_is_right_to_the_last_place() {
        let powers = [1.0, 2.0, 0.5, 1024.0, f32::MIN_POSITIVE].map(log2);
        assert_eq!(powers, [0.0, 1.0, -1.0, 10.0, -126.0]);
        let mut worst: f64 = 0.0;
        for i in 0..N {
            let step = 1060.0 * (2_000_000 / N) as f64;
            let x = f32::from_bits(0x0080_0000 + (i as f64 * step) as u32);
            let exact = f64::from(x).log2();
            let unit = exact.abs().max(0.25).log2().floor().exp2() * 2.0_f64.powi(-23);
            worst = worst.max((f64::from(log2(x)) - exact).abs() / unit);
        }
        assert!(worst < 2.0, "{worst}");
    }

    #[test]
    fn exp2_is_right_to_the_last_place() {
        assert_eq!(exp2(0.0), 1.0);
        assert_eq!(exp2(-0.0), 1.0);
        assert_eq!([exp2(1e-9), exp2(3.0), exp2(1e30), exp2(f32::INFINITY)], [1.0; 4]);
        assert_eq!(exp2(-125.0), 2.0_f32.powi(-125));
        for nothing in [f32::NAN, f32::NEG_INFINITY, -125.000_01, -1e30] {
            assert_eq!(exp2(nothing), 0.0);
        }
        let mut worst: f64 = 0.0;
        for i in 0..=N {
            let x = -125.0 * (i as f32 / N as f32).powi(3);
            let exact = f64::from(x).exp2();
            let unit = exact.log2().floor().exp2() * 2.0_f64.powi(-23);
            worst = worst.max((f64::from(exp2(x)) - exact).abs() / unit);
        }
        assert!(worst < 1.01, "{worst}");
    }
}
