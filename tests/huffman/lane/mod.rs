//! The lane format: laws, golden vectors, and the kernels that pack and unpack it.

mod golden;
mod kernels;
mod law;
mod problem;
mod product;

use lacuna::huffman::lane::{self, RawLane, reference};

/// By both decoders.
#[track_caller]
fn unpack(raw: &RawLane<'_>) -> Vec<u16> {
    let [mut expected, mut unpacked] =
        [0x5555, 0x2AAA].map(|w| vec![w; raw.shape.n_weights() as usize]);
    reference::unpack(raw, &mut expected);
    lane::unpack(raw, &mut unpacked).unwrap();
    assert!(unpacked == expected, "the CPU decoder is not the reference");
    unpacked
}
