//! Laws of the packer, the reference and the CPU decoder, without a launch.

use std::collections::HashSet;

use lacuna::Error;
use lacuna::huffman::lane::{self, LaneMatrix, LaneShape, RawLane, reference};
use lacuna::mma::Model;
use proptest::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors};

use super::problem::{SPECIALS, hostile, mixed_weights};
use super::unpack;
use crate::common::{GOLDEN, Random, bf16_tensors, clustered_weights, data};

/// Packs, and unpacks by both decoders.
#[track_caller]
fn assert_round_trip(weights: &[u16], n_rows: u64, n_columns: u64) -> LaneMatrix {
    let shape = LaneShape::new(n_rows, n_columns).unwrap();
    let matrix = lane::pack(weights, shape).unwrap();
    assert!(unpack(&matrix.as_raw()) == weights);
    assert_is_packed(&matrix, weights);
    matrix
}

/// What the format says of a packed matrix, said again in other words.
#[track_caller]
fn assert_is_packed(matrix: &LaneMatrix, weights: &[u16]) {
    matrix.as_raw().check().unwrap();
    let [n_rows, n_columns] = [matrix.shape.n_rows(), matrix.shape.n_columns()].map(|n| n as usize);
    let n_tiles = n_columns.div_ceil(128);
    let mut n_escapes = 0;
    for (i, palette) in matrix.palettes.chunks(8).enumerate() {
        let rows = &weights[16 * i * n_columns..n_rows.min(16 * (i + 1)) * n_columns];
        let mut by_count: Vec<(i64, u8)> = (0..128)
            .map(|value| {
                (-(rows.iter().filter(|w| (*w >> 8 & 0x7F) as u8 == value).count() as i64), value)
            })
            .filter(|(count, _)| *count < 0)
            .collect();
        by_count.sort_unstable();
        let mut values: Vec<u8> = by_count.iter().take(8).map(|(_, value)| *value).collect();
        values.sort_unstable();
        values.resize(8, *values.last().unwrap());
        assert_eq!(palette, values);
        for j in 0..n_tiles {
            let tile = n_tiles * i + j;
            let (mut count, mut steps) = (0, 0);
            for step in 0..8 {
                for lane in 0..32 {
                    let word = matrix.high[256 * tile + 128 * (step / 4) + 4 * lane + step % 4];
                    for u in 0..8 {
                        let low = matrix.low
                            [2048 * tile + 512 * (step / 2) + 16 * lane + 8 * (step % 2) + u];
                        let sign = word >> [7, 15, 23, 31, 3, 11, 19, 27][u] & 1;
                        let slot = word >> (4 * u) & 7;
                        let (row, column) = (
                            16 * i + lane / 4 + 8 * (u / 2 % 2),
                            128 * j
                                + 32 * (step / 2)
                                + 8 * (lane % 4)
                                + 4 * (step % 2)
                                + 2 * (u / 4)
                                + u % 2,
                        );
                        let (mut expected, mut is_escape) = ((0, 0, 0), false);
                        if row < n_rows && column < n_columns {
                            let weight = weights[row * n_columns + column];
                            let value = (weight >> 8) as u8 & 0x7F;
                            match values.iter().position(|own| *own == value) {
                                Some(slot) => {
                                    expected = (slot as u32, u32::from(weight >> 15), weight as u8)
                                }
                                None => {
                                    is_escape = true;
                                    let place = (step << 24 | lane << 19 | u << 16) as u32;
                                    assert_eq!(
                                        matrix.escapes[n_escapes + count],
                                        place | u32::from(weight)
                                    );
                                }
                            }
                        }
                        assert_eq!((slot, sign, low), expected);
                        count += usize::from(is_escape);
                        steps |= u64::from(is_escape) << step;
                    }
                }
            }
            assert_eq!(matrix.headers[tile], n_escapes as u64 | (count as u64) << 32 | steps << 48);
            n_escapes += count;
        }
    }
    assert_eq!(matrix.escapes.len(), n_escapes);
}

#[test]
fn bits_come_back_at_the_edges_of_tiles() {
    for n_rows in [1, 15, 16, 17, 33] {
        for n_columns in [1, 2, 127, 128, 129, 300] {
            let n = (n_rows * n_columns) as usize;
            assert_round_trip(&mixed_weights(n, n_rows ^ n_columns << 8), n_rows, n_columns);
        }
    }
}

#[test]
fn special_values_come_back_bit_for_bit() {
    assert_round_trip(&SPECIALS, 1, 14);
    assert_round_trip(&SPECIALS, 14, 1);
    assert_round_trip(&(0..=u16::MAX).collect::<Vec<_>>(), 256, 256);
    for weight in SPECIALS {
        let matrix = assert_round_trip(&[weight; 1000], 10, 100);
        assert_eq!(matrix.n_escapes(), 0);
    }
    // No value twice as often as another: all but eight of each row tile's are escapes.
    let matrix = assert_round_trip(&(0..=u16::MAX).step_by(32).collect::<Vec<_>>(), 16, 128);
    assert_eq!(matrix.palettes, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(matrix.headers, [0xFF << 48 | (2048 - 8 * 16) << 32]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bits_come_back(
        n_rows in prop_oneof![1_u64..50, Just(15), Just(16), Just(17)],
        n_columns in prop_oneof![1_u64..300, Just(127), Just(128), Just(129)],
        seed: u64,
        is_noise: bool,
    ) {
        let n = (n_rows * n_columns) as usize;
        let mut random = Random(seed);
        let weights = match is_noise {
            true => (0..n).map(|_| random.next() as u16).collect(),
            false => mixed_weights(n, seed),
        };
        assert_round_trip(&weights, n_rows, n_columns);
    }

    /// Planes of random bytes of the right lengths, as hostile as a file can be.
    #[test]
    fn any_bytes_are_a_matrix(
        n_rows in 1_u64..50,
        n_columns in 1_u64..300,
        n_escapes in 0_usize..3000,
        seed: u64,
        is_far: bool,
    ) {
        let matrix = hostile(LaneShape::new(n_rows, n_columns).unwrap(), n_escapes, is_far, seed);
        let weights = unpack(&matrix.as_raw());
        // And what they stand for has an encoding of its own.
        let packed = assert_round_trip(&weights, n_rows, n_columns);
        prop_assert_eq!(lane::pack(&unpack(&packed.as_raw()), packed.shape).unwrap(), packed);
    }
}

#[test]
fn of_escapes_the_later_counts_and_one_of_another_step_does_not() {
    let shape = LaneShape::new(16, 128).unwrap();
    let mut matrix = lane::pack(&[0x3F80; 2048], shape).unwrap();
    let place = 3 << 24 | 5 << 19 | 6 << 16;
    matrix.escapes = vec![place | 0x1111, 4 << 24 | 0x2222, place | 0x3333, place | 0x4444];
    let of = |matrix: &LaneMatrix, first: u64, count: u64, steps: u64| {
        let headers = vec![first | count << 32 | steps << 48];
        let weights = unpack(&LaneMatrix { headers, ..matrix.clone() }.as_raw());
        let (row, column) = reference::place(3, 5, 6);
        assert_eq!((row, column), (9, 46));
        assert!(
            weights
                .iter()
                .enumerate()
                .all(|(idx, w)| *w == 0x3F80 || [128 * 9 + 46, 64].contains(&idx))
        );
        [weights[128 * 9 + 46], weights[64]]
    };
    assert_eq!(of(&matrix, 0, 1, 0xFF), [0x1111, 0x3F80]);
    assert_eq!(of(&matrix, 0, 3, 0xFF), [0x3333, 0x2222]);
    assert_eq!(of(&matrix, 0, 3, 0xF7), [0x3F80, 0x2222]);
    assert_eq!(of(&matrix, 0, 3, 0xEF), [0x3333, 0x3F80]);
    assert_eq!(of(&matrix, 0, 0xFFFF, 0xFF), [0x4444, 0x2222]);
    assert_eq!(of(&matrix, 2, 1, 0xFF), [0x3333, 0x3F80]);
    assert_eq!(of(&matrix, 4, 9, 0xFF), [0x3F80; 2]);
    assert_eq!(of(&matrix, 0xFFFF_FFFF, 0xFFFF, 0xFF), [0x3F80; 2]);
    // No more than a tile has weights.
    matrix.escapes = vec![place | 0x1111; 2048];
    matrix.escapes.push(4 << 24 | 0x2222);
    assert_eq!(of(&matrix, 0, 0xFFFF, 0xFF), [0x1111, 0x3F80]);
    assert_eq!(of(&matrix, 1, 0xFFFF, 0xFF), [0x1111, 0x2222]);
}

#[test]
fn each_weight_has_a_place_of_its_own() {
    let places: HashSet<_> = (0..2048)
        .map(|i| reference::place(i / 256, i / 8 % 32, i % 8))
        .filter(|(row, column)| *row < 16 && *column < 128)
        .collect();
    assert_eq!(places.len(), 2048);
}

/// PTX's `prmt` in its default mode.
fn prmt(a: u32, b: u32, digits: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let byte = |i: usize| {
        let digit = digits >> (4 * i) & 0xF;
        let byte = bytes[(digit & 7) as usize];
        if digit & 8 == 0 { byte } else { 0_u8.wrapping_sub(byte >> 7) }
    };
    u32::from_le_bytes(std::array::from_fn(byte))
}

/// A lane reads its words and unpacks registers as kernels do; PTX's table of operand A says what is in them.
#[test]
fn lanes_find_their_registers_by_permutations() {
    let weights = clustered_weights(2048, 5);
    let matrix = lane::pack(&weights, LaneShape::new(16, 128).unwrap()).unwrap();
    // In no step of a lane is there an escape.
    assert!(matrix.n_escapes() < 64);
    let [a, b] =
        [0, 4].map(|at| u32::from_le_bytes(matrix.palettes[at..at + 4].try_into().unwrap()));
    for step in 0..8 {
        for lane in 0..32 {
            let word = matrix.high[128 * (step / 4) + 4 * lane + step % 4];
            let at = 512 * (step / 2) + 16 * lane + 8 * (step % 2);
            let low = [0, 4]
                .map(|i| u32::from_le_bytes(matrix.low[at + i..at + i + 4].try_into().unwrap()));
            let high = [
                prmt(a, b, word & 0x7777_7777) | word & 0x8080_8080,
                prmt(a, b, (word & 0x7777_7777) >> 16) | (word << 4) & 0x8080_8080,
            ];
            for register in 0..4 {
                let digits = [0x5140, 0x7362][register % 2];
                let pair = prmt(low[register / 2], high[register / 2], digits);
                // Rows `group` and `group + 8`, columns from 2 on in the last two.
                let row = lane / 4 + if register % 2 == 0 { 0 } else { 8 };
                let column = 32 * (step / 2)
                    + 8 * (lane % 4)
                    + 4 * (step % 2)
                    + if register < 2 { 0 } else { 2 };
                for half in 0..2 {
                    let weight = weights[128 * row + column + half];
                    let place = (step << 24 | lane << 19 | (2 * register + half) << 16) as u32;
                    if !matrix.escapes.contains(&(place | u32::from(weight))) {
                        assert_eq!((pair >> (16 * half)) as u16, weight);
                    }
                }
            }
        }
    }
}

#[test]
fn sizes_are_the_planes() {
    for (n_rows, n_columns) in [(1, 1), (16, 128), (17, 129), (100, 300)] {
        let n = (n_rows * n_columns) as usize;
        let matrix =
            lane::pack(&mixed_weights(n, 9), LaneShape::new(n_rows, n_columns).unwrap()).unwrap();
        let n_bytes = matrix.palettes.len()
            + matrix.low.len()
            + 4 * matrix.high.len()
            + 8 * matrix.headers.len()
            + 4 * matrix.escapes.len();
        assert_eq!(matrix.n_bytes(), n_bytes as u64);
        assert_eq!(matrix.bits_per_weight(), 8.0 * n_bytes as f64 / n as f64);
        assert_eq!(LaneShape::of_header(&matrix.shape.header()).unwrap(), matrix.shape);
    }
    let most = LaneShape::new(1, u64::from(u32::MAX)).unwrap();
    assert_eq!((most.n_tiles(), most.low_len()), (1 << 25, 1 << 36));
    assert_eq!(LaneShape::new(u64::from(u32::MAX), 1).unwrap().n_tiles(), 1 << 28);
    assert_eq!(most.n_bytes(u64::MAX), u64::MAX);
}

#[test]
fn what_does_not_fit_is_refused_with_its_sizes() {
    let text = |error: Error| error.to_string();
    for (n_rows, n_columns, value) in
        [(0, 5, 0), (5, 0, 0), (1 << 16, 1 << 16, 1 << 32), (u64::MAX, 2, u64::MAX)]
    {
        assert_eq!(
            text(LaneShape::new(n_rows, n_columns).unwrap_err()),
            format!("weights of a matrix of lanes: {value} is outside 1..2^32")
        );
    }
    let shape = LaneShape::new(2, 3).unwrap();
    assert_eq!(text(lane::pack(&[0; 5], shape).unwrap_err()), "weights: expected 6, got 5");
    let matrix = lane::pack(&[0; 6], shape).unwrap();
    let raw = matrix.as_raw();
    for (raw, expected) in [
        (RawLane { palettes: &[], ..raw }, "palettes: expected 8, got 0"),
        (RawLane { low: &[0; 2049], ..raw }, "low: expected 2048, got 2049"),
        (RawLane { high: &[0; 255], ..raw }, "high: expected 256, got 255"),
        (RawLane { headers: &[0; 2], ..raw }, "headers: expected 1, got 2"),
    ] {
        assert_eq!(text(raw.check().unwrap_err()), expected);
        let mut output = [7; 6];
        assert_eq!(text(lane::unpack(&raw, &mut output).unwrap_err()), expected);
        assert_eq!(output, [7; 6]);
    }
    for n in [0, 5, 7] {
        let mut output = vec![7; n];
        let expected = format!("output: expected 6, got {n}");
        assert_eq!(text(lane::unpack(&raw, &mut output).unwrap_err()), expected);
        assert!(output.iter().all(|bits| *bits == 7));
    }
    let header = shape.header();
    for (at, expected) in [
        (0, "the magic of a matrix of lanes: 19507815752352077 is outside LACLANE"),
        (8, "the version of a matrix of lanes: 0 is outside 1"),
        (12, "the element of a matrix of lanes: 1 is outside 0 (bf16)"),
        (16, "weights of a matrix of lanes: 0 is outside 1..2^32"),
    ] {
        let mut header = header;
        header[at] ^= if at == 16 { 2 } else { 1 };
        assert_eq!(text(LaneShape::of_header(&header).unwrap_err()), expected);
    }
}

#[test]
fn trained_weights_take_little_more_than_12_bits() {
    let file = std::fs::read(data(GOLDEN[0].bf16)).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let (mut n_weights, mut n_bytes) = (0, 0);
    for (name, tensor) in tensors.tensors() {
        assert_eq!(tensor.dtype(), Dtype::BF16);
        let [n_rows, n_columns] = tensor.shape()[..] else { panic!("{name} is no matrix") };
        let weights: Vec<u16> =
            tensor.data().chunks(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
        let matrix = assert_round_trip(&weights, n_rows as u64, n_columns as u64);
        let rate = matrix.n_escapes() as f64 / weights.len() as f64;
        println!(
            "{name} [{n_rows}, {n_columns}]: {:.4} bits, an escape in {:.0} weights ({:.3} %)",
            matrix.bits_per_weight(),
            1.0 / rate,
            100.0 * rate
        );
        assert!(matrix.bits_per_weight() < 12.06, "{name}: {}", matrix.bits_per_weight());
        n_weights += weights.len() as u64;
        n_bytes += matrix.n_bytes();
    }
    println!("all: {:.4} bits", n_bytes as f64 * 8.0 / n_weights as f64);
    // Rows as long as the model's, of a slice that does not say where in them it begins.
    let slice = bf16_tensors(GOLDEN[1].bf16);
    let slice: Vec<u16> =
        slice[..2 * 16 * 2560].chunks(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
    let matrix = assert_round_trip(&slice, 16, 2560);
    println!(
        "qwen3-4b-slice: {:.4} bits, {} escapes",
        matrix.bits_per_weight(),
        matrix.n_escapes()
    );
    assert!(matrix.bits_per_weight() < 12.06);
}

/// A matrix whose first column in each tile is given, else +0, times inputs of ones.
fn sum_of_tiles(model: Model, firsts: &[f32]) -> f32 {
    let n_columns = 128 * firsts.len();
    let mut weights = vec![0; n_columns];
    for (weight, first) in weights.iter_mut().step_by(128).zip(firsts) {
        *weight = (first.to_bits() >> 16) as u16;
    }
    let matrix = lane::pack(&weights, LaneShape::new(1, n_columns as u64).unwrap()).unwrap();
    reference::multiply(model, &matrix.as_raw(), &vec![0x3F80; n_columns], 1)[0]
}

#[test]
fn a_product_adds_chains_in_their_order() {
    const FAR: f32 = 16_777_216.0;
    for model in [Model::AMPERE, Model::HOPPER] {
        // Nine tiles: the last chain has two.
        let sum = |firsts: [f32; 9]| sum_of_tiles(model, &firsts);
        assert_eq!(sum([1.0; 9]), 9.0);
        assert_eq!(sum([FAR, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]), FAR + 2.0);
        assert_eq!(sum([FAR, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0]), FAR);
        assert_eq!(sum([1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, FAR, 0.0]), FAR + 2.0);
        assert_eq!(sum([FAR, 1.0, -FAR, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]), 0.0);
        assert_eq!(sum([1.0, FAR, -FAR, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]), 0.0);
        // Fewer tiles than chains.
        assert_eq!(sum_of_tiles(model, &[1.0, 2.0, 3.0]), 6.0);
        assert_eq!(sum_of_tiles(model, &[-0.0]).to_bits(), 0);
        let [nan, infinite] = [f32::NAN, f32::INFINITY].map(|x| sum_of_tiles(model, &[x, 1.0]));
        assert_eq!((nan.to_bits(), infinite), (0x7FFF_FFFF, f32::INFINITY));
        assert_eq!(sum_of_tiles(model, &[f32::INFINITY, f32::NEG_INFINITY]).to_bits(), 0x7FFF_FFFF);
    }
}

#[test]
fn a_product_is_near_that_of_exact_numbers() {
    let (n_rows, n_columns, n_inputs) = (19, 1100, 3);
    let mut random = Random(8);
    let mut number = || (random.normal().to_bits() >> 16) as u16;
    let weights: Vec<u16> = (0..n_rows * n_columns).map(|_| number()).collect();
    let x: Vec<u16> = (0..n_inputs * n_columns).map(|_| number()).collect();
    let shape = LaneShape::new(n_rows as u64, n_columns as u64).unwrap();
    let matrix = lane::pack(&weights, shape).unwrap();
    let exact = |bits: u16| f64::from(f32::from_bits(u32::from(bits) << 16));
    for model in [Model::AMPERE, Model::HOPPER] {
        let y = reference::multiply(model, &matrix.as_raw(), &x, n_inputs);
        assert_eq!(y.len(), n_inputs * n_rows);
        for (i, y) in y.iter().enumerate() {
            let (input, row) = (i / n_rows, i % n_rows);
            let products =
                weights[row * n_columns..][..n_columns].iter().zip(&x[input * n_columns..]);
            let sum: f64 = products.map(|(w, x)| exact(*w) * exact(*x)).sum();
            assert!((f64::from(*y) - sum).abs() < 1e-3, "{y} for {sum}");
        }
    }
}

#[test]
fn weights_of_padding_are_multiplied_by_zero() {
    let shape = LaneShape::new(2, 127).unwrap();
    let mut matrix = lane::pack(&[0x3F80; 254], shape).unwrap();
    // Of row 0 the column 127.
    matrix.escapes = vec![7 << 24 | 3 << 19 | 5 << 16 | 0x7F80];
    matrix.headers = vec![1 << 32 | 0x80 << 48];
    let y = reference::multiply(Model::HOPPER, &matrix.as_raw(), &[0x3F80; 127], 1);
    assert_eq!([y[0].to_bits(), y[1].to_bits()], [0x7FFF_FFFF, 127.0_f32.to_bits()]);
    assert!(unpack(&matrix.as_raw()) == [0x3F80; 254]);
}
