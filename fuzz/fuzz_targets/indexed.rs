//! DF11 groups, damaged, and decoded by their index where that holds them; and hostile indices,
//! tables and codes: no panic, and what is decoded is what other ways to it give.
#![no_main]

use lacuna::huffman::DecodePlan;
use lacuna::huffman::compact::{self, CompactCode};
use lacuna::huffman::indexed::{
    CodeTable, IndexedRowsPlan, IndexedRowsShape, IndexedShape, RawIndexed, reference,
};
use lacuna::huffman::{self, BYTES_PER_BLOCK, EncodedGroup, GAP_BYTES_PER_BLOCK, RawGroup};
use lacuna_fuzz::{
    Input, check_group, check_indexed, check_walked, damage, damage_bytes, loosened,
    use_one_thread, words,
};
use libfuzzer_sys::fuzz_target;

const MOST_WEIGHTS: usize = 4300;
/// In blocks enough to be decoded four together, which is slow.
const MANY_WEIGHTS: usize = 18_000;

fuzz_target!(init: use_one_thread(), |bytes: &[u8]| {
    let mut input = Input::new(bytes);
    match input.byte() % 8 {
        0 => check_plans(&mut input),
        1 => check_damaged(&mut input, MANY_WEIGHTS),
        2 | 3 => check_damaged(&mut input, MOST_WEIGHTS),
        4 | 5 => check_hostile(&mut input),
        _ => check_hostile_compact(&mut input),
    }
});

/// Up to so many weights as a matrix of a file.
fn weights(input: &mut Input<'_>, most: usize) -> Vec<u8> {
    let n = 1 + input.number(most - 1);
    input.weights(n).iter().flat_map(|weight| weight.to_le_bytes()).collect()
}

fn encode(input: &mut Input<'_>, most: usize) -> EncodedGroup {
    huffman::encode(&[&weights(input, most)]).expect("few weights")
}

/// A group whose tensors are damaged, their lengths too.
fn check_damaged(input: &mut Input<'_>, most: usize) {
    let group = encode(input, most);
    let mut tensors = group.as_raw("group").tensors().map(<[u8]>::to_vec);
    if input.byte() % 8 == 1 {
        add_block(&mut tensors);
    }
    damage(input, &mut tensors);
    let [encoded_exponent, sign_mantissa, luts, gaps, output_positions, split_positions] = &tensors;
    let raw = RawGroup {
        name: "group",
        encoded_exponent,
        sign_mantissa,
        luts,
        gaps,
        output_positions,
        split_positions,
    };
    if let Ok(group) = raw.parse() {
        check_group(input, &group);
    }
}

/// One block more, of no weights.
fn add_block(tensors: &mut [Vec<u8>; 6]) {
    let [codes, sign_mantissa, _, gaps, output_positions, _] = tensors;
    codes.resize(codes.len().next_multiple_of(BYTES_PER_BLOCK) + 1, 0);
    gaps.resize(gaps.len() + GAP_BYTES_PER_BLOCK, 0);
    output_positions.extend((sign_mantissa.len() as u32).to_le_bytes());
}

/// An indexed group, of whose tensors only the lengths are trusted.
fn check_hostile(input: &mut Input<'_>) {
    let group = encode(input, MOST_WEIGHTS);
    let raw = group.as_raw("group");
    let group = raw.parse().expect("a sound group");
    let Some(index) = reference::index(&group).expect("a sound group") else { return };
    let table = CodeTable::of(&group);
    let bytes_of = |entries: &[u32]| entries.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut tensors = [
        index.granule_bits.iter().flat_map(|bits| bits.to_le_bytes()).collect(),
        bytes_of(&index.tile_bytes),
        bytes_of(table.entries()),
        table.lengths().to_vec(),
        raw.luts.to_vec(),
    ];
    let mut codes = [raw.encoded_exponent.to_vec()];
    damage(input, &mut codes);
    damage_bytes(input, &mut tensors);
    let [granule_bits, tile_bytes, entries, lengths, luts] = &tensors;
    let raw = RawIndexed {
        codes: &codes[0],
        sign_mantissa: raw.sign_mantissa,
        tile_bytes: &words(tile_bytes, u32::from_le_bytes),
        granule_bits: &words(granule_bits, u16::from_le_bytes),
        entries: &words(entries, u32::from_le_bytes),
        lengths,
        // Where it says so, codes of more than 12 bits are none.
        luts: if input.byte().is_multiple_of(2) { luts } else { &[] },
    };
    let _ = check_indexed(input, &raw);
}

/// A compact group whose index and codes are damaged as no reader would let them be.
fn check_hostile_compact(input: &mut Input<'_>) {
    let weights: Vec<u16> = words(&weights(input, MOST_WEIGHTS), u16::from_le_bytes);
    let code = CompactCode::new(&compact::reference::count(&weights)).expect("some weights");
    let group = compact::reference::encode(&weights, &loosened(input, code));
    let mut index = [
        group.granule_bits.iter().flat_map(|bits| bits.to_le_bytes()).collect(),
        group.tile_bytes.iter().flat_map(|byte| byte.to_le_bytes()).collect::<Vec<_>>(),
    ];
    let mut codes = [group.codes.clone()];
    damage(input, &mut codes);
    damage_bytes(input, &mut index);
    let sound = group.as_raw("group").parse().expect("a sound group");
    let raw = RawIndexed {
        codes: &codes[0],
        granule_bits: &words(&index[0], u16::from_le_bytes),
        tile_bytes: &words(&index[1], u32::from_le_bytes),
        ..sound.indexed()
    };
    let (decoded, verdict) = check_indexed(input, &raw);
    check_walked(&raw, sound.code().codes(), &decoded, verdict);
}

/// Sizes of any launch.
fn check_plans(input: &mut Input<'_>) {
    let [n_elements, row_len, first_element] = [(); 3].map(|()| size(input));
    let mut shape = IndexedRowsShape {
        n_elements,
        first_element,
        n_matrix_rows: size(input),
        row_len,
        n_rows: size(input),
        output_stride: size(input),
    };
    // Of sizes by chance few would fit each other.
    if !input.byte().is_multiple_of(4) {
        shape.first_element = first_element.min(n_elements);
        let n_left = n_elements - shape.first_element;
        shape.n_matrix_rows = shape.n_matrix_rows.min(n_left / row_len.max(1));
        shape.output_stride = shape.output_stride.max(row_len);
    }
    if let Ok(plan) = IndexedRowsPlan::new(shape) {
        let before_last = u128::from(shape.n_rows.saturating_sub(1));
        let end = before_last * u128::from(shape.output_stride) + u128::from(shape.row_len);
        assert_eq!(u128::from(plan.output_len()), if shape.n_rows == 0 { 0 } else { end });
    }
    let n_groups = input.byte() % 8;
    let groups: Vec<_> = (0..n_groups)
        .map(|_| IndexedShape {
            n_code_bytes: size(input),
            n_elements: size(input),
            n_lut_rows: input.byte().into(),
        })
        .collect();
    let Ok(plan) = DecodePlan::new(&groups) else { return };
    let sizes = groups.iter().map(|group| group.n_elements);
    assert!(plan.output_len() >= sizes.sum() && plan.least_bytes() >= plan.output_len());
    let _ = plan.locate_tile(input.u32());
    let _ = plan.with_block_tiles(input.u32());
}

/// A number of any size.
fn size(input: &mut Input<'_>) -> u64 {
    let n_bits = input.byte() % 64;
    input.u64() >> n_bits
}
