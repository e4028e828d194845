//! Any header, planes of any bytes and lengths, and any weights: no panic, and planes are unpacked as
//! the reference does.
#![no_main]

use std::array;

use lacuna::huffman::lane::{
    self, LaneMatrix, LanePackPlan, LaneShape, LaneUnpackPlan, RawLane, TILE_COLUMNS, TILE_ROWS,
    reference,
};
use lacuna_fuzz::{Input, damage, damage_bytes, use_one_thread, words};
use libfuzzer_sys::fuzz_target;

/// Tiles of a matrix that an input may ask for; and of one that has more than a thread takes at once,
/// which is slow.
const MOST_TILES: [usize; 2] = [4, 36];

fuzz_target!(init: use_one_thread(), |bytes: &[u8]| {
    let mut input = Input::new(bytes);
    match input.byte() % 8 {
        0 => check_header(&mut input),
        kind => {
            let shape = shape(&mut input, MOST_TILES[usize::from(kind == 7)]);
            let matrix = pack(&mut input, shape);
            check_planes(&mut input, kind, &matrix);
        }
    }
});

fn check_header(input: &mut Input<'_>) {
    let header = array::from_fn(|_| input.byte());
    let Ok(shape) = LaneShape::of_header(&header) else { return };
    assert_eq!(shape.header(), header);
    assert_eq!(
        u128::from(shape.n_rows()) * u128::from(shape.n_columns()),
        shape.n_weights().into()
    );
    assert!(shape.n_weights() < 1 << 32 && shape.n_tiles() < 1 << 29);
    let [n_escapes, stride] = [input.u64(), input.u64()];
    assert!(shape.n_bytes(n_escapes) >= shape.n_bytes(0));
    if let Ok(plan) = LaneUnpackPlan::new(shape, stride) {
        assert!(plan.output_len() >= shape.n_weights());
        plan.least_bytes(n_escapes);
    }
    if let Ok(plan) = LanePackPlan::new(shape, stride) {
        assert!(plan.weights_len() >= shape.n_weights());
        assert!(plan.workspace_len() > shape.n_tiles());
        plan.least_packed_bytes(n_escapes);
        plan.least_measured_bytes();
    }
}

/// A shape of up to so many tiles.
fn shape(input: &mut Input<'_>, most_tiles: usize) -> LaneShape {
    let n_rows = 1 + input.number(TILE_ROWS * most_tiles - 1);
    let most_columns = TILE_COLUMNS * (most_tiles / n_rows.div_ceil(TILE_ROWS));
    let n_columns = 1 + input.number(most_columns - 1);
    LaneShape::new(n_rows as u64, n_columns as u64).expect("few weights")
}

fn pack(input: &mut Input<'_>, shape: LaneShape) -> LaneMatrix {
    let weights = input.weights(shape.n_weights() as usize);
    let matrix = lane::pack(&weights, shape).expect("as many weights as the shape has");
    assert!(unpack(&matrix.as_raw()) == weights);
    assert!(lane::pack(&weights[1..], shape).is_err());
    matrix
}

/// The planes of `matrix`, damaged.
fn check_planes(input: &mut Input<'_>, kind: u8, matrix: &LaneMatrix) {
    let mut planes = [
        matrix.palettes.clone(),
        matrix.low.clone(),
        matrix.high.iter().flat_map(|word| word.to_le_bytes()).collect(),
        matrix.headers.iter().flat_map(|word| word.to_le_bytes()).collect(),
        matrix.escapes.iter().flat_map(|word| word.to_le_bytes()).collect(),
    ];
    let escapes = 4;
    if kind.is_multiple_of(2) {
        damage(input, &mut planes);
    } else {
        // Lengths as they should be, but of the list, which has any.
        damage(input, &mut planes[escapes..]);
        damage_bytes(input, &mut planes);
    }
    let [palettes, low, high, headers, escapes] = &planes;
    let raw = RawLane {
        shape: matrix.shape,
        palettes,
        low,
        high: &words(high, u32::from_le_bytes),
        headers: &words(headers, u64::from_le_bytes),
        escapes: &words(escapes, u32::from_le_bytes),
    };
    let has_lengths = palettes.len() == matrix.palettes.len()
        && low.len() == matrix.low.len()
        && raw.high.len() == matrix.high.len()
        && raw.headers.len() == matrix.headers.len();
    assert_eq!(raw.check().is_ok(), has_lengths);
    if !has_lengths {
        return;
    }
    // Any bytes are a matrix, and a matrix has planes.
    let weights = unpack(&raw);
    let again = lane::pack(&weights, matrix.shape).expect("as many weights as the shape has");
    assert!(unpack(&again.as_raw()) == weights);
}

/// By both decoders.
fn unpack(raw: &RawLane<'_>) -> Vec<u16> {
    let mut expected = vec![0; raw.shape.n_weights() as usize];
    reference::unpack(raw, &mut expected);
    let mut unpacked = vec![1; expected.len()];
    lane::unpack(raw, &mut unpacked).expect("as many weights");
    assert!(unpacked == expected, "the CPU decoder");
    unpacked
}
