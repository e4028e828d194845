//! The tensor-core model against what tensor cores answered.

use std::path::PathBuf;

use lacuna::mma::{Model, Operand};
use lacuna::simt;
use proptest::prelude::*;

/// Where the answers are: `LACUNA_MMA_VECTORS`, or those of the repository.
fn folder() -> PathBuf {
    let own = [env!("CARGO_MANIFEST_DIR"), "tests", "data", "mma"].iter().collect();
    std::env::var_os("LACUNA_MMA_VECTORS").map_or(own, PathBuf::from)
}

/// `<gpu>-<type>-k<products>.bin`; other files are none of these.
fn parse(name: &str) -> Option<(Model, Operand, usize)> {
    let mut parts = name.strip_suffix(".bin")?.split('-');
    let model = match parts.next()? {
        "a100" | "ada" | "l40s" => Model::AMPERE,
        "h100" | "h200" | "b200" => Model::HOPPER,
        _ => return None,
    };
    let operand = match parts.next()? {
        "bf16" => Operand::Bf16,
        "fp16" => Operand::F16,
        _ => return None,
    };
    Some((model, operand, parts.next()?.strip_prefix('k')?.parse().ok()?))
}

#[test]
fn every_recorded_answer_is_reproduced() {
    let mut n_answers = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let Some((model, operand, k)) = parse(&name) else { continue };
        let bytes = std::fs::read(&path).unwrap();
        let records = bytes.chunks_exact(4 * k + 8);
        assert!(records.remainder().is_empty(), "{name}");
        for (idx, record) in records.enumerate() {
            let (operands, words) = record.split_at(4 * k);
            let operands: Vec<_> =
                operands.as_chunks().0.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
            let [c, d] = [0, 1].map(|i| u32::from_le_bytes(words.as_chunks().0[i]));
            let answer = model.dot_add(operand, &operands[..k], &operands[k..], c);
            assert_eq!(answer.bits, d, "{name}, record {idx}: {answer:x?}, and not {d:#x}");
            assert_eq!(simt::dot_add(model, operand, &operands[..k], &operands[k..], c), answer);
            n_answers += 1;
        }
    }
    assert!(n_answers > 0, "no answers in {}", folder().display());
    if std::env::var_os("LACUNA_MMA_VECTORS").is_none() {
        assert_eq!(n_answers, 18_000);
    }
}

#[test]
fn special_values_follow_the_rule() {
    let one = 0x3F80_u16;
    let dot = |a: &[u16], b: &[u16], c: u32| Model::HOPPER.dot_add(Operand::Bf16, a, b, c).bits;
    assert_eq!(dot(&[one], &[one], 1.0_f32.to_bits()), 2.0_f32.to_bits());
    assert_eq!(dot(&[one, one], &[one, 0xBF80], 0x8000_0000), 0, "an exact zero is +0");
    assert_eq!(dot(&[0x7F80], &[one], 0), 0x7F80_0000);
    assert_eq!(dot(&[0x7F80], &[0], 0), 0x7FFF_FFFF, "infinity times zero");
    assert_eq!(dot(&[0x7F80, one], &[one, 0xFF80], 0), 0x7FFF_FFFF, "infinities of both signs");
    assert_eq!(dot(&[0x7FC1], &[one], 0), 0x7FFF_FFFF);
    assert_eq!(dot(&[0x7F00], &[0x7F00], 0), 0x7F80_0000, "too large");
    assert_eq!(dot(&[], &[], 0x3F80_0001), 0x3F80_0001);
    // 2^-25 beside 1 is kept to be truncated; below it, it is lost before the sum.
    let tiny = |exponent: u16| (127 - exponent) << 7;
    let many = |exponent| dot(&[tiny(exponent); 16], &[one; 16], 1.0_f32.to_bits());
    assert_eq!(many(25), 1.0_f32.to_bits() + 4);
    assert_eq!(many(26), 1.0_f32.to_bits());
}

#[test]
fn fp8_is_read_as_its_specification_says() {
    let read = |operand, bits: u16| {
        let one = if operand == Operand::E4M3 { 0x38 } else { 0x3C };
        f32::from_bits(Model::HOPPER.dot_add(operand, &[bits], &[one], 0).bits)
    };
    for (bits, value) in
        [(0x38, 1.0), (0x7E, 448.0), (0x78, 256.0), (0x01, 1.0 / 512.0), (0xB8, -1.0), (0x80, 0.0)]
    {
        assert_eq!(read(Operand::E4M3, bits), value, "{bits:#x}");
    }
    for (bits, value) in
        [(0x3C, 1.0), (0x7B, 57344.0), (0x7C, f32::INFINITY), (0x01, 1.0 / 65536.0)]
    {
        assert_eq!(read(Operand::E5M2, bits), value, "{bits:#x}");
    }
    assert!(read(Operand::E4M3, 0x7F).is_nan() && read(Operand::E5M2, 0x7D).is_nan());
    // 13 bits are kept: of 2^13 + 1/2 the half is lost, and of 2^13 + 1 nothing.
    let sum = |small| Model::HOPPER.dot_add(Operand::E5M2, &[0x70, small], &[0x3C, 0x3C], 0).bits;
    assert_eq!(sum(0x38), 8192.0_f32.to_bits());
    assert_eq!(sum(0x3C), 8193.0_f32.to_bits());
    assert!(!Model::HOPPER.dot_add(Operand::E4M3, &[0x38], &[0x38], 0x3F80_0000).is_settled);
}

#[test]
fn what_no_hardware_answer_settles_is_said() {
    let answer = |a, c| Model::HOPPER.dot_add(Operand::Bf16, &[a], &[0x3F80], c);
    assert!(answer(0x0080, 0).is_settled, "2^-126");
    assert!(answer(0, 0).is_settled);
    // A product of normal numbers below 2^-126.
    let product = Model::HOPPER.dot_add(Operand::Bf16, &[0x1F80], &[0x1F80], 0);
    assert!(!product.is_settled);
    assert_eq!(Model::HOPPER.dot_add(Operand::Bf16, &[1], &[1], 0).bits, 0, "2^-266");
    // Nor is what a later step makes of it.
    let steps = Model::AMPERE.dot_add(Operand::Bf16, &[0x1F80; 16], &[0x1F80; 16], 0);
    assert!(!steps.is_settled);
}

/// Any bits; bits near one exponent, so that terms meet; special values.
fn bits() -> impl Strategy<Value = u16> {
    prop_oneof![
        any::<u16>(),
        (0x3C00_u16..0x4000, any::<bool>()).prop_map(|(bits, sign)| bits | u16::from(sign) << 15),
        prop::sample::select(vec![0, 0x8000, 1, 0x7F80, 0xFF80, 0x7C00, 0x7FFF, 0x0080, 0x0400]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn the_twin_gives_the_same_answers(
        pairs in prop::collection::vec((bits(), bits()), 0..40),
        c in prop_oneof![any::<u32>(), any::<f32>().prop_map(f32::to_bits), Just(0)],
    ) {
        let (a, b): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        for model in [Model::AMPERE, Model::HOPPER] {
            for operand in [Operand::Bf16, Operand::F16, Operand::E4M3, Operand::E5M2] {
                prop_assert_eq!(
                    simt::dot_add(model, operand, &a, &b, c),
                    model.dot_add(operand, &a, &b, c)
                );
            }
        }
    }
}
