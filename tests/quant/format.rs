//! What the specification says, said again in other words.

use std::collections::HashSet;

use half::{bf16, f16};
use lacuna::quant::reference::{
    Channels, MinimumRow, dequantize, dequantize_minimums, normalize, quantize,
};
use lacuna::quant::{Page, PageShape, Part, Tail, Tier};
use proptest::prelude::*;

const CODED: [Tier; 3] = [Tier::T8, Tier::T4, Tier::T2];

fn shapes() -> impl Iterator<Item = PageShape> {
    (1..=8)
        .flat_map(|n| [Part::Keys, Part::Values].map(|part| PageShape::new(32 * n, part).unwrap()))
}

#[test]
fn each_element_has_bits_of_its_own_and_all_bits_are_some_elements() {
    for shape in shapes() {
        for tier in Tier::ALL {
            let places: HashSet<_> = (0..64)
                .flat_map(|token| (0..shape.head_dim()).map(move |channel| (token, channel)))
                .map(|(token, channel)| shape.place(tier, token, channel))
                .collect();
            assert_eq!(places.len(), 64 * shape.head_dim());
            let bits = tier.bits();
            assert!(places.iter().all(|place| place.byte < shape.code_bytes(tier)
                && (bits == 16 && place.byte % 2 == 0 || place.shift + bits <= 8)
                && place.shift % bits == 0));
            assert_eq!(shape.page_bytes(tier) % 256, 0);
        }
    }
}

/// PTX's table of operand A of `mma.m16n8k32` for 8-bit elements: of a lane, by groups of four and within them, the
/// registers' four elements each: row `group` in the first and third, `group + 8` in the others; columns from 16 on in the last two.
fn element_of_lane(lane: usize, register: usize, byte: usize) -> (usize, usize) {
    let (group, in_group) = (lane >> 2, lane % 4);
    let row = if register == 0 || register == 2 { group } else { group + 8 };
    let first = if register < 2 { 0 } else { 16 };
    (row, first + in_group * 4 + byte)
}

/// A lane reads its bytes one after the other and unpacks registers with masks and shifts, as kernels do.
#[test]
fn lanes_find_their_registers_by_masks_and_shifts() {
    for shape in shapes() {
        let is_keys = shape.part() == Part::Keys;
        let (n_rows, n_columns) =
            if is_keys { (64, shape.head_dim()) } else { (shape.head_dim(), 64) };
        for tier in CODED {
            // A code for each element, which names it as far as its bits go.
            let code = |row: usize, column: usize| (row * 7 + column * 3 + column / 32) as u8;
            let mut page = Page::zeroed(shape, tier);
            for token in 0..64 {
                let mut row = page.row(token);
                for (channel, to) in row.codes.iter_mut().enumerate() {
                    *to = if is_keys { code(token, channel) } else { code(channel, token) };
                }
                page.set_row(token, &row);
            }
            let n_words = tier.bits() as usize / 2;
            let n_tiles = n_columns / 32;
            let most = 16 / (4 * n_words);
            let together = (1..=most)
                .rev()
                .find(|n| most.is_multiple_of(*n) && n_tiles.is_multiple_of(*n))
                .unwrap();
            let mut words = page
                .bytes()
                .chunks_exact(4)
                .map(|word| u32::from_le_bytes(word.try_into().unwrap()));
            for strip in 0..n_rows / 16 {
                for first_tile in (0..n_tiles).step_by(together) {
                    for lane in 0..32 {
                        for tile in first_tile..first_tile + together {
                            let own: Vec<u32> = words.by_ref().take(n_words).collect();
                            let registers: [u32; 4] = match tier {
                                Tier::T8 => [own[0], own[1], own[2], own[3]],
                                Tier::T4 => [
                                    own[0] & 0x0F0F_0F0F,
                                    own[1] & 0x0F0F_0F0F,
                                    own[0] >> 4 & 0x0F0F_0F0F,
                                    own[1] >> 4 & 0x0F0F_0F0F,
                                ],
                                _ => [0, 2, 4, 6].map(|shift| own[0] >> shift & 0x0303_0303),
                            };
                            for (register, word) in registers.into_iter().enumerate() {
                                for (byte, found) in word.to_le_bytes().into_iter().enumerate() {
                                    let (row, column) = element_of_lane(lane, register, byte);
                                    let all = code(16 * strip + row, 32 * tile + column);
                                    let mask = tier.greatest_code().unwrap();
                                    assert_eq!(found, all & mask, "{shape:?} {tier}");
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A token's codes, step and minimum have bytes of their own, and a page has no others.
#[test]
fn tails_are_behind_the_codes() {
    for (tail, n_tail) in [(Tail::ZeroPoints, 4), (Tail::Minimums, 8)] {
        for shape in shapes().map(|shape| shape.with_tail(tail)) {
            for tier in CODED {
                let n_bytes = 64 * shape.head_dim() * tier.bits() as usize / 8;
                assert_eq!(shape.page_bytes(tier), n_bytes + 64 * n_tail);
                for token in 0..64 {
                    let steps = n_bytes + n_tail / 2 * token;
                    assert_eq!(shape.scale_byte(tier, token), steps);
                    assert_eq!(shape.zero_byte(tier, token), steps + 32 * n_tail);
                }
                assert_eq!(shape.of_part(Part::Values).tail(), tail);
            }
            // What is not coded ends with nothing.
            assert_eq!(shape.page_bytes(Tier::T16), 128 * shape.head_dim());
        }
    }
}

#[test]
fn minimums_are_read_and_not_written() {
    let shape = PageShape::new(32, Part::Values).unwrap().with_tail(Tail::Minimums);
    let rows = [bf16::ONE; 32];
    let error =
        Page::quantize(shape, Tier::T4, [Some(&rows[..])], &Channels::default()).unwrap_err();
    let text = "bytes of a page after its codes: 512 is outside 256, those of zero points";
    assert_eq!(error.to_string(), text);
    // By hand: 1.5 steps and a minimum that f16 has, then a channel's scale and offset.
    let mut codes: Vec<u8> = (0..32).map(|i| i % 16).collect();
    codes[31] = 200;
    let row = MinimumRow { codes, step: 1.5, minimum: -0.625 };
    let mut page = Page::zeroed(shape, Tier::T4);
    page.set_minimum_row(63, &row);
    let bytes = page.bytes();
    let (steps, minimums) = (64 * 32 / 2, 64 * 32 / 2 + 256);
    assert_eq!(bytes[steps + 252..minimums], 1.5_f32.to_le_bytes());
    assert_eq!(bytes[minimums + 252..], (-0.625_f32).to_le_bytes());
    // A code is as many bits as there are.
    assert_eq!(page.minimum_row(63).codes[30..], [14, 8]);
    let scales = [2.0; 32];
    let mut offsets = [0.0; 32];
    offsets[3] = 0.5;
    let channels = Channels { scales: Some(&scales), offsets: Some(&offsets) };
    let found = page.dequantize::<bf16>(63, &channels);
    assert_eq!(found[..4], [-1.25, 1.75, 4.75, 8.25]);
    assert_eq!(dequantize_minimums(&page.minimum_row(63), &channels), found);
}

#[test]
#[should_panic(expected = "a page of minimums")]
fn a_page_of_zero_points_has_no_minimums() {
    Page::zeroed(PageShape::new(32, Part::Keys).unwrap(), Tier::T2).minimum_row(0);
}

#[test]
fn what_is_no_head_is_refused() {
    for head_dim in [0, 16, 48, 288, u64::MAX] {
        let error = PageShape::new(head_dim, Part::Keys).unwrap_err().to_string();
        assert!(error.contains("the multiples of 32 up to 256"), "{error}");
    }
    let shape = PageShape::new(64, Part::Keys).unwrap();
    assert!(Page::from_bytes(shape, Tier::T4, vec![0; 100]).is_err());
    let rows = vec![bf16::ONE; 65 * 64];
    let quantize = |rows: &[bf16], n| {
        Page::quantize(shape, Tier::T4, rows.chunks(n).map(Some), &Channels::default())
    };
    assert!(quantize(&rows, 64).is_err());
    assert!(quantize(&rows[..63], 63).is_err());
    assert!(quantize(&rows[..64 * 64], 64).is_ok());
}

#[test]
fn rows_of_one_number_and_of_none_stay_what_they_are() {
    for tier in CODED {
        for value in [0.0, -0.0, 1.0, -3.5, 1e-30, -1e30, 1e-40] {
            let row = quantize(tier, &[value; 64]);
            let found = dequantize(&row, &Channels::default());
            let error = (found[0] - value).abs();
            // The least step is the least bf16.
            let least = value.abs() * 2.0_f32.powi(-10) + 5e-41;
            assert!(error <= least, "{tier}: {value} as {}", found[0]);
        }
    }
}

#[test]
fn hostile_rows_are_rows() {
    let rows = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 0.0, 1.0, -1.0];
    let elements: Vec<bf16> = (0..64).map(|i| bf16::from_f32(rows[i * 5 % 8])).collect();
    for tier in CODED {
        for scales in [None, Some([0.0; 64]), Some([f32::NAN; 64]), Some([1e-38; 64])] {
            let channels = Channels { scales: scales.as_ref().map(|s| &s[..]), offsets: None };
            let row = quantize(tier, &normalize(&elements, &channels));
            assert!(row.codes.iter().all(|code| *code <= tier.greatest_code().unwrap()));
            assert!(row.scale.is_finite() && row.zero.unsigned_abs() < 16_600, "{row:?}");
        }
    }
    // Any bytes are read.
    let shape = PageShape::new(64, Part::Values).unwrap();
    let bytes = (0..shape.page_bytes(Tier::T2)).map(|i| (i * 37) as u8 | 0x80).collect();
    let page = Page::from_bytes(shape, Tier::T2, bytes).unwrap();
    assert!((0..64).all(|token| page.dequantize::<bf16>(token, &Channels::default()).len() == 64));
    // A step that is no number makes such of its token alone.
    let shape = shape.with_tail(Tail::Minimums);
    let mut page = Page::zeroed(shape, Tier::T2);
    for (token, step) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().enumerate() {
        page.set_minimum_row(token, &MinimumRow { codes: vec![1; 64], step, minimum: 1.0 });
    }
    let of = |token| page.dequantize::<bf16>(token, &Channels::default())[0];
    assert!(of(0).is_nan());
    assert_eq!([of(1), of(2), of(3)], [f32::INFINITY, f32::NEG_INFINITY, 0.0]);
}

/// By hand: of 4 bits a step is (7.5 + 7.5) / 15 = 1, and zero is 7.5 steps up.
#[test]
fn a_row_by_hand() {
    let mut row = vec![0.0; 32];
    (row[0], row[1], row[2], row[3]) = (-7.5, 7.5, 2.4, -0.3);
    let found = quantize(Tier::T4, &row);
    assert_eq!((found.scale.to_f32(), found.zero), (1.0, 120));
    // A half goes to the even code: 7.5 is 8.
    assert_eq!(found.codes[..5], [0, 15, 10, 7, 8]);
    let scales = [2.0; 32];
    let mut offsets = [0.0; 32];
    offsets[2] = 0.25;
    let channels = Channels { scales: Some(&scales), offsets: Some(&offsets) };
    assert_eq!(dequantize(&found, &channels)[..5], [-15.0, 15.0, 5.25, -1.0, 1.0]);
    // Of 2 bits four levels over all of a range that is 4: a step is 4/3, rounded up.
    let mut row: Vec<f32> = (0..32).map(|i| if i % 2 == 0 { 2.0 } else { -2.0 }).collect();
    let found = quantize(Tier::T2, &row);
    assert_eq!((found.scale.to_bits(), found.zero), (0x3FAB, 24));
    assert_eq!(found.codes[..2], [3, 0]);
    // Or a standard deviation apart, about the mean: (30 + 2 * 25) / 32 is 2.5, and its root 1.58 less than 10/3.
    row.iter_mut().for_each(|x| *x *= 0.5);
    (row[0], row[1]) = (5.0, -5.0);
    let found = quantize(Tier::T2, &row);
    assert_eq!((found.scale.to_bits(), found.zero), (0x3FCB, 24));
    assert_eq!(found.codes[..4], [3, 0, 2, 1]);
}

/// Numbers whose squares f32 does not hold have their levels over their whole range.
#[test]
fn rows_of_tiny_numbers_keep_their_shape() {
    for exponent in [-70, -76, -90, -110] {
        let row: Vec<f32> = (0..32).map(|i| (i as f32 - 15.5) * 2.0_f32.powi(exponent)).collect();
        let found = dequantize(&quantize(Tier::T2, &row), &Channels::default());
        // Half of a third of 31, and what roundings of a step and a zero point cost.
        let most = 6.0 * 2.0_f32.powi(exponent);
        assert!(row.iter().zip(&found).all(|(x, y)| (x - y).abs() < most), "{exponent}: {found:?}");
    }
}

prop_compose! {
    fn any_row()(
        n in 1..=8_usize,
        exponent in -30..30_i32,
        offset in -4.0..4.0_f32,
        seed in any::<u64>(),
    ) -> Vec<f32> {
        let mut state = seed | 1;
        (0..32 * n).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let x = (state >> 40) as f32 / 8_388_608.0 - 1.0;
            (x + offset) * 2.0_f32.powi(exponent)
        }).collect()
    }
}

proptest! {
    /// Of 8 and 4 bits no number is farther off than half a step, and a sixteenth for the zero point's own rounding.
    #[test]
    fn errors_are_half_a_step(row in any_row()) {
        for tier in [Tier::T8, Tier::T4] {
            let codes = quantize(tier, &row);
            let step = codes.scale.to_f32();
            let found = dequantize(&codes, &Channels::default());
            for (x, y) in row.iter().zip(&found) {
                prop_assert!((x - y).abs() <= step * 0.54, "{x} as {y} of {step}");
            }
        }
    }

    /// Quantized again, codes and steps stay, or come to the same numbers but for a step.
    #[test]
    fn pages_are_what_their_rows_are(row in any_row(), is_keys: bool) {
        let part = if is_keys { Part::Keys } else { Part::Values };
        let shape = PageShape::new(row.len() as u64, part).unwrap();
        let elements: Vec<f16> = row.iter().map(|x| f16::from_f32(*x)).collect();
        let two = [elements.clone(), elements.iter().rev().copied().collect()].concat();
        for tier in Tier::ALL {
            let rows = two.chunks(row.len()).map(Some);
            let page = Page::quantize(shape, tier, rows, &Channels::default()).unwrap();
            let found = page.dequantize::<f16>(0, &Channels::default());
            let expected = if tier == Tier::T16 {
                elements.iter().map(|x| x.to_f32()).collect()
            } else {
                let codes = quantize(tier, &normalize(&elements, &Channels::default()));
                prop_assert_eq!(&page.row(0), &codes);
                dequantize(&codes, &Channels::default())
            };
            prop_assert_eq!(&found, &expected);
            let reversed: Vec<f32> = found.into_iter().rev().collect();
            let other = page.dequantize::<f16>(1, &Channels::default());
            if tier != Tier::T2 {
                prop_assert_eq!(other, reversed);
            }
            let bytes = page.bytes().to_vec();
            prop_assert_eq!(&Page::from_bytes(shape, tier, bytes).unwrap(), &page);
            if tier == Tier::T16 {
                continue;
            }
            // A zero point is a minimum where f32 has the product, of 8 bits and 16.
            let codes = page.row(0);
            let step = codes.scale.to_f32();
            let row = MinimumRow {
                codes: codes.codes, step, minimum: step * -f32::from(codes.zero) / 16.0,
            };
            if !row.minimum.is_finite() {
                continue;
            }
            let mut other = Page::zeroed(shape.with_tail(Tail::Minimums), tier);
            other.set_minimum_row(0, &row);
            prop_assert_eq!(&other.minimum_row(0), &row);
            prop_assert_eq!(other.dequantize::<f16>(0, &Channels::default()), expected);
        }
    }
}
