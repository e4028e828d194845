//! Any tensors as a compact group, and sound ones damaged: no panic; what parses is decoded as the
//! reference does, and as a walk of its bits; and what decodes encodes to the same tensors.
#![no_main]

use std::array;

use lacuna::huffman::compact::{self, CompactCode, EncodePlan, RawCompact, reference};
use lacuna_fuzz::{
    Input, check_indexed, check_walked, corrupt_tile, damage, loosened, placed, use_one_thread,
    words,
};
use libfuzzer_sys::fuzz_target;

const MOST_WEIGHTS: usize = 4300;

fuzz_target!(init: use_one_thread(), |bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let mut tensors = match input.byte() % 8 {
        0 => array::from_fn(|_| input.piece().to_vec()),
        1 => return check_code(&mut input),
        _ => encode(&mut input),
    };
    damage(&mut input, &mut tensors);
    check(&mut input, &tensors);
});

/// The tensors of a sound group of up to three matrices.
fn encode(input: &mut Input<'_>) -> [Vec<u8>; 6] {
    let n = 1 + input.number(MOST_WEIGHTS - 1);
    let weights = input.weights(n);
    let mut splits = [input.number(n), input.number(n)];
    splits.sort_unstable();
    let [first, second] = splits;
    let bytes: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
    let matrices = [&bytes[..2 * first], &bytes[2 * first..2 * second], &bytes[2 * second..]];
    let matrices: Vec<_> = matrices.into_iter().filter(|matrix| !matrix.is_empty()).collect();
    let group = compact::encode(&matrices).expect("few weights");

    let code = CompactCode::new(&reference::count(&weights)).expect("some weights");
    let mut expected = reference::encode(&weights, &code);
    expected.split_positions.clone_from(&group.split_positions);
    assert!(group == expected, "the CPU encoder");
    let raw = group.as_raw("group");
    let mut decoded = vec![0; n];
    compact::decode(&raw.parse().expect("a sound group"), &mut decoded).expect("a sound group");
    assert!(decoded == weights);
    let loose = reference::encode(&weights, &loosened(input, code));
    let raw = RawCompact { split_positions: raw.split_positions, ..loose.as_raw("group") };
    raw.tensors().map(<[u8]>::to_vec)
}

fn check(input: &mut Input<'_>, tensors: &[Vec<u8>; 6]) {
    let shift = usize::from(input.byte() % 4);
    let file = placed(shift, tensors);
    let mut rest = &file[shift..];
    let [codes, sign_mantissa, lengths, tile_bytes, granule_bits, split_positions] =
        tensors.each_ref().map(|tensor| rest.split_off(..tensor.len()).expect("it is there"));
    let raw = RawCompact {
        name: "group",
        codes,
        sign_mantissa,
        lengths,
        tile_bytes,
        granule_bits,
        split_positions,
    };
    let Ok(group) = raw.parse() else { return };
    let mut ends = group.matrices().map(|range| (range.start, range.end));
    let end = ends.try_fold(0, |at, (start, end)| (at == start && start < end).then_some(end));
    assert_eq!(end, Some(group.n_elements()));
    assert_eq!(group.code().to_lengths(), *lengths);

    let mut expected = vec![0; sign_mantissa.len()];
    let verdict = reference::decode(&group, &mut expected);
    let mut decoded = vec![1; expected.len()];
    assert_eq!(corrupt_tile(compact::decode(&group, &mut decoded)), verdict);
    assert!(decoded == expected, "the CPU decoder");
    let indexed = group.indexed();
    let (decoded, by_index) = check_indexed(input, &indexed);
    assert!(decoded == expected && by_index == verdict);
    check_walked(&indexed, group.code().codes(), &expected, verdict);
    if verdict.is_ok() {
        let again = reference::encode(&expected, group.code());
        assert!(again.tile_bytes == words(tile_bytes, u32::from_le_bytes), "tile_bytes");
        assert!(again.granule_bits == words(granule_bits, u16::from_le_bytes), "granule_bits");
        assert!(again.sign_mantissa == sign_mantissa);
        // Bits behind the last code are anything.
        let n_whole = codes.len() - 1;
        assert!(again.codes.len() == codes.len() && again.codes[..n_whole] == codes[..n_whole]);
    }
}

/// Codes of any counts, and of any lengths.
fn check_code(input: &mut Input<'_>) {
    let mut histogram = [0; 256];
    for _ in 0..input.byte() {
        let n_bits = u32::from(input.byte() % 64);
        histogram[usize::from(input.byte())] = input.u64() >> n_bits;
    }
    if let Some(code) = CompactCode::new(&histogram) {
        let is_known = |(count, length): (&u64, &u8)| (*count > 0) == (*length > 0);
        assert!(histogram.iter().zip(code.lengths()).all(is_known));
        assert_eq!(CompactCode::of_lengths(&code.to_lengths()).as_ref(), Ok(&code));
        code.n_bits(&histogram);
    }
    let _ = CompactCode::of_lengths(&array::from_fn(|_| input.byte()));
    if let Ok(plan) = EncodePlan::new(input.u64()) {
        assert!(plan.n_zeros() < plan.workspace_len());
        plan.least_bytes(plan.most_code_bytes());
    }
}
