//! The tensor-core model against what tensor cores answered, and against those at hand.

mod common;

use std::path::PathBuf;

use lacuna::mma::{self, Factor, Instruction, Model, Operand, Rule};
use lacuna::simt::{self, Checks, Config, FaultKind};
use lacuna::{Error, Queue};
use proptest::prelude::*;

/// Where the answers are: `LACUNA_MMA_VECTORS`, or those of the repository.
fn folder() -> PathBuf {
    let own = || common::data_folder().join("mma");
    std::env::var_os("LACUNA_MMA_VECTORS").map_or_else(own, PathBuf::from)
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

/// Products of matrices of these elements, in `mma::multiply`'s layout.
struct Problem {
    instruction: Instruction,
    a: Vec<u8>,
    b: Vec<u8>,
    c: Vec<u32>,
}

impl Problem {
    fn new(
        instruction: Instruction,
        n: usize,
        seed: u64,
        mut element: impl FnMut(u64) -> [u8; 2],
    ) -> Self {
        let mut state = seed;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state >> 16
        };
        let mut bytes = |n: usize| (0..n / 2).flat_map(|_| element(next())).collect::<Vec<_>>();
        let n_rows = n * instruction.n_rows();
        Self { instruction, a: bytes(n_rows * 32), b: bytes(n * 256), c: vec![0; n_rows * 8] }
    }

    fn multiply(&self, queue: &Queue, factor: Factor) -> Result<Vec<u32>, Error> {
        let a = queue.upload(&self.a)?;
        let b = queue.upload(&self.b)?;
        let c = queue.upload(&self.c)?;
        let mut d = queue.alloc::<u32>(self.c.len())?;
        let (a, b, c) = (a.view(), b.view(), c.view());
        mma::multiply(queue, self.instruction, factor, &a, &b, &c, &mut d.view_mut())?;
        queue.download(&d.view())
    }

    /// Row, column and accumulator of each result, elements widened.
    fn sums(&self, factor: Factor) -> impl Iterator<Item = (Vec<u16>, Vec<u16>, u32)> {
        let widen = move |bytes: &[u8]| -> Vec<u16> {
            match factor.n_products() {
                16 => bytes.as_chunks().0.iter().map(|pair| u16::from_le_bytes(*pair)).collect(),
                _ => bytes.iter().map(|byte| u16::from(*byte)).collect(),
            }
        };
        self.c.iter().enumerate().map(move |(i, c)| {
            let (row, column) = (i / 8, i % 8);
            let product = row / self.instruction.n_rows();
            let a = &self.a[row * 32..][..32];
            let b = &self.b[product * 256 + column * 32..][..32];
            (widen(a), widen(b), *c)
        })
    }
}

/// bf16 or f16 within some powers of two of one: nothing comes below 2^-126.
fn moderate(operand: Operand) -> impl FnMut(u64) -> [u8; 2] {
    let (exponent, n_fraction) = if operand == Operand::Bf16 { (117, 7) } else { (8, 10) };
    move |random| {
        let fraction = random as u16 & ((1 << n_fraction) - 1);
        let exponent = exponent + (random >> 20) as u16 % 16;
        let sign = (random >> 30) as u16 & 1;
        (sign << 15 | exponent << n_fraction | fraction).to_le_bytes()
    }
}

fn simt(model: Model, checks: Checks) -> Queue {
    Queue::simt(Config { mma: model, checks, ..Config::default() })
}

const INSTRUCTIONS: [Instruction; 2] = [Instruction::Mma, Instruction::Wgmma];

#[test]
fn fragments_are_laid_out_as_documented() {
    for instruction in INSTRUCTIONS {
        for operand in [Operand::Bf16, Operand::F16] {
            let mut problem = Problem::new(instruction, 20, 1, moderate(operand));
            for (i, c) in problem.c.iter_mut().enumerate() {
                *c = (i as f32 - 700.5).to_bits();
            }
            for model in [Model::AMPERE, Model::HOPPER] {
                let queue = simt(model, Checks::ALL);
                let d = problem.multiply(&queue, Factor::Float(operand)).unwrap();
                for ((a, b, c), d) in problem.sums(Factor::Float(operand)).zip(d) {
                    assert_eq!(d, model.dot_add(operand, &a, &b, c).bits);
                }
            }
        }
        for operand in [Operand::E4M3, Operand::E5M2] {
            let element = |random| (random as u16 & 0xBFBF).to_le_bytes();
            let problem = Problem::new(instruction, 20, 2, element);
            let queue = simt(Model::HOPPER, Checks::ALL);
            let d = problem.multiply(&queue, Factor::Float(operand)).unwrap();
            for ((a, b, c), d) in problem.sums(Factor::Float(operand)).zip(d) {
                assert_eq!(d, Model::HOPPER.dot_add(operand, &a, &b, c).bits);
            }
        }
    }
}

#[test]
fn integer_products_are_exact_on_every_executor() {
    for queue in common::queues() {
        for instruction in INSTRUCTIONS {
            let signed: fn(u16) -> i32 = |byte| i32::from(byte as u8 as i8);
            let unsigned: fn(u16) -> i32 = |byte| i32::from(byte);
            for (factor, widen_a, widen_b) in [
                (Factor::I8, signed, signed),
                (Factor::U8, unsigned, unsigned),
                (Factor::U8I8, unsigned, signed),
            ] {
                if let Err(error) = mma::check_supported(&queue, instruction, factor) {
                    println!("{}, {instruction:?}: {error}", queue.executor());
                    continue;
                }
                let element = |random| (random as u16).to_le_bytes();
                let mut problem = Problem::new(instruction, 20, 3, element);
                problem.c[5] = i32::MAX as u32;
                let d = problem.multiply(&queue, factor).unwrap();
                for ((a, b, c), d) in problem.sums(factor).zip(d) {
                    let sum = a
                        .iter()
                        .zip(&b)
                        .fold(c as i32, |sum, (a, b)| sum.wrapping_add(widen_a(*a) * widen_b(*b)));
                    assert_eq!(d as i32, sum);
                }
            }
        }
    }
}

#[test]
fn a_result_that_nothing_settles_is_refused_where_that_is_asked() {
    let tiny = |_| 0x0C00_u16.to_le_bytes();
    let problem = Problem::new(Instruction::Mma, 1, 4, tiny);
    let bf16 = Factor::Float(Operand::Bf16);
    assert!(problem.multiply(&simt(Model::HOPPER, Checks::NONE), bf16).is_ok());
    let strict = Checks { settled: true, ..Checks::NONE };
    match problem.multiply(&simt(Model::HOPPER, strict), bf16) {
        Err(Error::Simt(fault)) => {
            assert_eq!(fault.kind, FaultKind::Unsettled);
            let (file, _) = fault.location.unwrap();
            assert!(file.ends_with("csrc/mma/products.cu"), "{file}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let queue = simt(Model::HOPPER, Checks::ALL);
    let bf16 = Factor::Float(Operand::Bf16);
    let mut problem = Problem::new(Instruction::Mma, 2, 5, moderate(Operand::Bf16));
    problem.b.pop();
    let error = problem.multiply(&queue, bf16).unwrap_err();
    assert_eq!(
        error.to_string(),
        Error::Shape { what: "b, in bytes", expected: 512, got: 511 }.to_string()
    );
    let words = queue.alloc::<u32>(130).unwrap();
    let bytes = queue.alloc::<u8>(520).unwrap();
    let mut d = queue.alloc::<u32>(128).unwrap();
    let (a, b) = (bytes.view().slice(0..512).unwrap(), bytes.view().slice(0..256).unwrap());
    let c = words.view().slice(1..129).unwrap();
    let refused =
        mma::multiply(&queue, Instruction::Mma, bf16, &a, &b, &c, &mut d.view_mut()).unwrap_err();
    assert!(refused.to_string().contains("address of c"), "{refused}");
    for instruction in INSTRUCTIONS {
        let nothing = Problem::new(instruction, 0, 5, moderate(Operand::Bf16));
        assert!(nothing.multiply(&queue, bf16).unwrap().is_empty());
    }
}

/// Factors of any bits, subnormals, infinities and NaNs among them, and any accumulators; in the first
/// half, such whose sums are below 2^-126, or as small as the type allows: factors of bf16 from 2^-79 to
/// 2^-64, of others small too, and accumulators that small, or zero.
fn questions(instruction: Instruction, operand: Operand) -> Problem {
    let n = 200 * 16 / instruction.n_rows();
    let mut problem = Problem::new(instruction, n, 6, |random| (random as u16).to_le_bytes());
    for (i, c) in problem.c.iter_mut().enumerate() {
        *c = (i as u32).wrapping_mul(0x9E37_79B9);
    }
    let (width, kept, small) = match operand {
        Operand::Bf16 => (2, 0x87, 0x18),
        Operand::F16 => (2, 0x80, 0x07),
        Operand::E4M3 | Operand::E5M2 => (1, 0x80, 0x07),
    };
    for factors in [&mut problem.a, &mut problem.b] {
        let n_bytes = factors.len() / 2;
        for byte in factors[..n_bytes].iter_mut().skip(width - 1).step_by(width) {
            *byte = *byte & kept | small;
        }
    }
    let n_small = problem.c.len() / 2;
    for c in &mut problem.c[..n_small] {
        *c &= if *c & 1 == 0 { 0x807F_FFFF } else { 0 };
    }
    problem
}

/// On a GPU, every settled answer is the model's; and of the unsettled ones it is printed which rule
/// gives them, so that the model can be completed. Without one, the executor stands in, and the model
/// meets itself.
#[test]
fn tensor_cores_at_hand_answer_as_the_model_says() {
    for queue in common::queues_without_checks() {
        let executor = queue.executor();
        let Some(model) = queue.mma_model() else {
            println!("{executor}: no model of its tensor cores");
            continue;
        };
        for instruction in INSTRUCTIONS {
            for operand in [Operand::Bf16, Operand::F16, Operand::E4M3, Operand::E5M2] {
                let factor = Factor::Float(operand);
                match mma::check_supported(&queue, instruction, factor) {
                    Ok(()) => ask(&queue, model, instruction, operand),
                    Err(error) => println!("{executor}, {instruction:?}, {operand:?}: {error}"),
                }
            }
        }
    }
}

fn ask(queue: &Queue, model: Model, instruction: Instruction, operand: Operand) {
    let what = format!("{}, {instruction:?}, {operand:?}", queue.executor());
    let problem = questions(instruction, operand);
    let answers = problem.multiply(queue, Factor::Float(operand)).unwrap();
    let [mut n_unsettled, mut n_disputed] = [0; 2];
    let mut n_of_rule = [0; 3];
    let mut n_of_none = 0;
    for ((a, b, c), d) in problem.sums(Factor::Float(operand)).zip(answers) {
        let answer = model.dot_add(operand, &a, &b, c);
        if answer.is_settled {
            assert_eq!(d, answer.bits, "{what}: {a:x?} {b:x?} {c:#x}");
            continue;
        }
        n_unsettled += 1;
        let by = |rule| model.dot_add_by(rule, operand, &a, &b, c);
        let published = [answer.bits, by(Rule::MmaSim), by(Rule::Khattak)];
        n_disputed += usize::from(published != [published[0]; 3]);
        for (n, bits) in n_of_rule.iter_mut().zip(published) {
            *n += usize::from(d == bits);
        }
        if !published.contains(&d) {
            n_of_none += 1;
            if n_of_none <= 20 {
                println!("{what}: {a:x?} {b:x?} {c:#x}: {d:#x}, and not {published:x?}");
            }
        }
    }
    let [of_model, of_mma_sim, of_khattak] = n_of_rule;
    println!(
        "{what}: of {n_unsettled} unsettled answers ({n_disputed} disputed) {of_model} are the model's, {of_mma_sim} \
         MMA-Sim's, {of_khattak} Khattak's and Mikaitis's, {n_of_none} no one's"
    );
    // Products of f16 are at least 2^-48, and of fp8 only the accumulator's part is open.
    assert_eq!(n_unsettled > 0, operand != Operand::F16, "{what}");
    assert_eq!(n_disputed > 0, operand == Operand::Bf16, "{what}");
}

/// The rules differ where they are said to, and nowhere else.
#[test]
fn published_rules_part_below_the_least_normal_number() {
    // Sixteen products of 2^-152 each: together 2^-148, of which a floor of -126 keeps nothing.
    let tiny = [0x1980_u16; 16];
    let by = |model: Model, rule| model.dot_add_by(rule, Operand::Bf16, &tiny, &tiny, 0);
    assert_eq!(Model::HOPPER.dot_add(Operand::Bf16, &tiny, &tiny, 0).bits, 2);
    assert_eq!(by(Model::HOPPER, Rule::MmaSim), 0);
    assert_eq!(by(Model::HOPPER, Rule::Khattak), 2);
    let one = [0x3F80_u16; 16];
    let settled = Model::AMPERE.dot_add(Operand::Bf16, &one, &tiny, 0);
    assert!(settled.is_settled);
    for rule in [Rule::MmaSim, Rule::Khattak] {
        assert_eq!(Model::AMPERE.dot_add_by(rule, Operand::Bf16, &one, &tiny, 0), settled.bits);
    }
}
