//! The lane format: laws, golden vectors, and the kernels that pack and unpack it.

mod golden;
mod law;

use lacuna::huffman::lane::{self, LaneMatrix, LaneShape, RawLane, reference};

use crate::common::{Random, clustered_weights};

/// By both decoders.
#[track_caller]
fn unpack(raw: &RawLane<'_>) -> Vec<u16> {
    let [mut expected, mut unpacked] =
        [0x5555, 0x2AAA].map(|w| vec![w; raw.shape.n_weights() as usize]);
    reference::unpack(raw, &mut expected);
    lane::unpack(raw, &mut unpacked);
    assert!(unpacked == expected, "the CPU decoder is not the reference");
    unpacked
}

/// ±0, subnormals, the smallest and largest normals, ±inf, quiet and signalling NaNs.
const SPECIALS: [u16; 14] = [
    0x0000, 0x8000, 0x0001, 0x807F, 0x0080, 0x8080, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC0, 0xFFC1,
    0x7F81, 0xFFFF,
];

/// As trained weights, and some that are anything.
fn mixed_weights(n: usize, seed: u64) -> Vec<u16> {
    let mut random = Random(seed);
    let mut weights = clustered_weights(n, seed);
    for weight in &mut weights {
        match random.next() % 64 {
            0 => *weight = SPECIALS[(random.next() % 14) as usize],
            1 => *weight = random.next() as u16,
            _ => {}
        }
    }
    weights
}

/// Random planes. Headers point into the escapes, or anywhere.
fn hostile(shape: LaneShape, n_escapes: usize, is_far: bool, seed: u64) -> LaneMatrix {
    let mut random = Random(seed);
    let mut word = || random.next() << 33 ^ random.next() << 11 ^ random.next();
    LaneMatrix {
        shape,
        palettes: (0..shape.palettes_len()).map(|_| word() as u8).collect(),
        low: (0..shape.low_len()).map(|_| word() as u8).collect(),
        high: (0..shape.high_len()).map(|_| word() as u32).collect(),
        headers: (0..shape.headers_len())
            .map(|_| match is_far {
                true => word(),
                false => {
                    (word() & 0xFF0F << 44)
                        | (word() & 0xFFFF) << 32
                        | word() % (n_escapes as u64 + 9)
                }
            })
            .collect(),
        escapes: (0..n_escapes).map(|_| word() as u32).collect(),
    }
}
