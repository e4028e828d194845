//! Groups encoded where they are.

use std::ptr::null_mut;

use half::bf16;
use lacuna::capi::lacuna_status::*;
use lacuna::capi::*;
use lacuna::huffman::compact;

use super::{encoded, weights};
use crate::c::{
    Aligned, Refused, Struct, answer, check_wrong_views, made, queue, structs, view, view_mut,
};

structs! {
    lacuna_df11_encoder_sizes, lacuna_df11_encoder_pack_args, lacuna_compact_encoder_sizes,
    lacuna_compact_encoder_pack_args,
}

fn refused<T>(status: lacuna_status, message: &str) -> Result<T, Refused> {
    Err((status, message.to_owned()))
}

fn as_bf16(weights: &[u16]) -> Aligned<bf16> {
    Aligned::new(weights.iter().map(|bits| bf16::from_bits(*bits)))
}

const UNMEASURED: &str =
    "encoder: it has measured no group yet, by whose code another could be packed";

/// The group of the device is that of the CPU.
fn check_df11(weights: &[u16], n_lengthened: usize) {
    let (queue, expected) = (queue(), encoded(weights));
    let n_elements = weights.len() as u64;
    // SAFETY: a handle of the library's, and a variable of this program's.
    let encoder = made(lacuna_df11_encoder_free, |address| unsafe {
        lacuna_df11_encoder_new(queue.address, n_elements, address)
    });
    let (encoder, weights) = (encoder.unwrap(), as_bf16(weights));
    let weights_view = view(&weights);
    let mut sizes = lacuna_df11_encoder_sizes::zeroed();
    // SAFETY: handles of the library's, structs, memory and variables of this program's.
    unsafe {
        let args = lacuna_df11_encoder_pack_args::zeroed();
        let found =
            answer(lacuna_df11_encoder_pack(queue.address, encoder.address, &raw const args));
        assert_eq!(found, refused(LACUNA_RANGE, UNMEASURED));
        let found = answer(lacuna_df11_encoder_luts(encoder.address, null_mut(), 0));
        assert_eq!(found, refused(LACUNA_RANGE, UNMEASURED));
        answer(lacuna_df11_encoder_measure(
            queue.address,
            encoder.address,
            &raw const weights_view,
            &raw mut sizes,
        ))
        .unwrap();
        // What cannot be told is not done: the group that was measured stays so.
        let mut short = lacuna_df11_encoder_sizes::zeroed();
        short.header.size = 8;
        let others = as_bf16(&vec![0x3F80; n_elements as usize]);
        let of_others = view(&others);
        let found = answer(lacuna_df11_encoder_measure(
            queue.address,
            encoder.address,
            &raw const of_others,
            &raw mut short,
        ));
        assert_eq!(found.unwrap_err().0, LACUNA_ABI);
        let mut n = 0;
        loop {
            let mut encoded_exponent = Aligned::<u8>::zeros(sizes.encoded_exponent);
            let mut sign_mantissa = Aligned::<u8>::zeros(sizes.sign_mantissa);
            let mut gaps = Aligned::<u8>::zeros(sizes.gaps);
            let mut output_positions = Aligned::<u8>::zeros(sizes.output_positions);
            let args = lacuna_df11_encoder_pack_args {
                weights: weights_view,
                encoded_exponent: view_mut(&mut encoded_exponent),
                sign_mantissa: view_mut(&mut sign_mantissa),
                gaps: view_mut(&mut gaps),
                output_positions: view_mut(&mut output_positions),
                ..lacuna_df11_encoder_pack_args::zeroed()
            };
            let mut other = args;
            other.encoded_exponent.len -= 1;
            let found =
                answer(lacuna_df11_encoder_pack(queue.address, encoder.address, &raw const other));
            assert_eq!(found.unwrap_err().0, LACUNA_SHAPE);
            check_wrong_views(&args, |args| {
                answer(lacuna_df11_encoder_pack(queue.address, encoder.address, args))
            });
            answer(lacuna_df11_encoder_pack(queue.address, encoder.address, &raw const args))
                .unwrap();
            let (positions, mut is_longer) = (view(&output_positions), 77);
            // All of it is copied to the host, where it is looked at.
            let mut other = positions;
            other.len -= 4;
            let found = answer(lacuna_df11_encoder_lengthen(
                queue.address,
                encoder.address,
                &raw const other,
                &raw mut sizes,
                &raw mut is_longer,
            ));
            assert_eq!(found.unwrap_err().0, LACUNA_SHAPE);
            answer(lacuna_df11_encoder_lengthen(
                queue.address,
                encoder.address,
                &raw const positions,
                &raw mut sizes,
                &raw mut is_longer,
            ))
            .unwrap();
            if is_longer == 1 {
                n += 1;
                continue;
            }
            assert_eq!((is_longer, n), (0, n_lengthened));
            assert!(encoded_exponent.to_vec() == expected.encoded_exponent);
            assert!(sign_mantissa.to_vec() == expected.sign_mantissa);
            assert!(gaps.to_vec() == expected.gaps);
            assert!(output_positions.to_vec() == expected.output_positions);
            let mut luts = vec![0; sizes.luts as usize];
            let luts_at = luts.as_mut_ptr();
            answer(lacuna_df11_encoder_luts(encoder.address, luts_at, sizes.luts)).unwrap();
            assert!(luts == expected.luts);
            break;
        }
    }
}

#[test]
fn df11_is_encoded_as_the_cpu_does() {
    check_df11(&weights(31, 5000), 0);
}

/// Weights of one exponent: so many in a block that no published decoder holds them.
#[test]
fn a_code_is_lengthened_for_published_decoders() {
    check_df11(&[0x3F80; 40_000], 2);
}

#[test]
fn compact_groups_are_encoded_as_the_cpu_does() {
    let (queue, original) = (queue(), weights(32, 5000));
    let expected = compact::encode(&[bytemuck::cast_slice(&original)]).unwrap();
    // SAFETY: a handle of the library's, and a variable of this program's.
    let new = |n_elements| unsafe {
        made(lacuna_compact_encoder_free, |address| {
            lacuna_compact_encoder_new(queue.address, n_elements, address)
        })
    };
    let message = "weights of a group: 0 is outside 1..2^32";
    assert_eq!(new(0).map(drop), refused(LACUNA_RANGE, message));
    let (encoder, weights) = (new(5000).unwrap(), as_bf16(&original));
    let short = view(&weights[..4992]);
    let weights = view(&weights);
    let mut sizes = lacuna_compact_encoder_sizes::zeroed();
    // SAFETY: handles of the library's, structs, memory and variables of this program's.
    unsafe {
        let args = lacuna_compact_encoder_pack_args::zeroed();
        let pack = lacuna_compact_encoder_pack;
        let found = answer(pack(queue.address, encoder.address, &raw const args));
        assert_eq!(found, refused(LACUNA_RANGE, UNMEASURED));
        let mut measure = |weights: &lacuna_view| {
            let sizes = &raw mut sizes;
            answer(lacuna_compact_encoder_measure(queue.address, encoder.address, weights, sizes))
        };
        let message = "weights: expected 5000, got 4992";
        assert_eq!(measure(&short), refused(LACUNA_SHAPE, message));
        measure(&weights).unwrap();
        let mut codes = Aligned::<u8>::zeros(sizes.codes);
        let mut sign_mantissa = Aligned::<u8>::zeros(sizes.sign_mantissa);
        let mut tile_bytes = Aligned::<u32>::zeros(sizes.tile_bytes);
        let mut granule_bits = Aligned::<u16>::zeros(sizes.granule_bits);
        let args = lacuna_compact_encoder_pack_args {
            weights,
            codes: view_mut(&mut codes),
            sign_mantissa: view_mut(&mut sign_mantissa),
            tile_bytes: view_mut(&mut tile_bytes),
            granule_bits: view_mut(&mut granule_bits),
            ..lacuna_compact_encoder_pack_args::zeroed()
        };
        check_wrong_views(&args, |args| answer(pack(queue.address, encoder.address, args)));
        answer(pack(queue.address, encoder.address, &raw const args)).unwrap();
        assert!(codes.to_vec() == expected.codes);
        assert!(sign_mantissa.to_vec() == expected.sign_mantissa);
        assert!(tile_bytes.to_vec() == expected.tile_bytes);
        assert!(granule_bits.to_vec() == expected.granule_bits);
        let mut lengths = [0; 128];
        let mut table = vec![0; sizes.table as usize];
        answer(lacuna_compact_encoder_code(
            encoder.address,
            lengths.as_mut_ptr(),
            sizes.lengths,
            table.as_mut_ptr(),
            sizes.table,
        ))
        .unwrap();
        assert_eq!(lengths, expected.lengths);
        assert!(table == expected.as_raw("").parse().unwrap().code().table().to_bytes());
        let found = answer(lacuna_compact_encoder_code(
            encoder.address,
            lengths.as_mut_ptr(),
            127,
            null_mut(),
            0,
        ));
        assert_eq!(found, refused(LACUNA_SHAPE, "lengths, in bytes: expected 128, got 127"));
    }
}
