//! Groups in device memory: DF11, indexed, compact.

use std::ptr::{null, null_mut};

use half::bf16;
use lacuna::capi::lacuna_status::*;
use lacuna::capi::*;
use lacuna::huffman::compact;
use lacuna::huffman::indexed::{CodeTable, Index};

use super::{bytes, df11_group, encoded, weights};
use crate::c::{
    Aligned, Handle, Refused, Struct, answer, check_plan_refusals, check_wrong_views, made, plan,
    queue, sizes, view, view_mut,
};

fn upload_df11(
    queue: &Handle<lacuna_queue>,
    groups: &[lacuna_df11_group],
) -> Result<Handle<lacuna_weights>, Refused> {
    let n = groups.len() as u64;
    // SAFETY: a handle of the library's, structs and a variable of this program's.
    made(lacuna_weights_free, |address| unsafe {
        lacuna_weights_upload_df11(queue.address, groups.as_ptr(), n, address)
    })
}

fn index(queue: &Handle<lacuna_queue>, weights: &Handle<lacuna_weights>) -> Result<(), Refused> {
    // SAFETY: handles of the library's.
    answer(unsafe { lacuna_weights_index(queue.address, weights.address) })
}

/// What launches over weights give, and what their workspace says afterwards.
pub(super) fn decode(
    queue: &Handle<lacuna_queue>,
    weights: &Handle<lacuna_weights>,
) -> (Vec<u16>, [u64; 2], Result<(), Refused>) {
    let sizes: lacuna_decode_weights_sizes = sizes(lacuna_weights_sizes, weights);
    let mut workspace = vec![0_u64; sizes.workspace as usize];
    let mut output = Aligned::<u16>::new(vec![0x5555; sizes.output as usize]);
    let mut output_view = view_mut(&mut output);
    output_view.dtype = lacuna_dtype::LACUNA_BF16 as u32;
    let args = lacuna_decode_weights_args {
        workspace: view_mut(&mut workspace),
        output: output_view,
        ..lacuna_decode_weights_args::zeroed()
    };
    let workspace_view = view(&workspace);
    // SAFETY: handles of the library's, structs and memory of this program's.
    let checked = unsafe {
        answer(lacuna_decode_weights(queue.address, weights.address, &raw const args)).unwrap();
        answer(lacuna_weights_check(queue.address, weights.address, &raw const workspace_view))
    };
    let words = [workspace[0], workspace[1]];
    assert_eq!(answer(lacuna_weights_check_status(words[0], words[1])), checked);
    (output.to_vec(), words, checked)
}

fn range(weights: &Handle<lacuna_weights>, group: u64) -> Result<[u64; 2], Refused> {
    let (mut start, mut end) = (77, 77);
    // SAFETY: a handle of the library's, and variables of this program's.
    let status =
        unsafe { lacuna_weights_range(weights.address, group, &raw mut start, &raw mut end) };
    answer(status).map(|()| [start, end])
}

fn is_indexed(weights: &Handle<lacuna_weights>, group: u64) -> Result<u32, Refused> {
    let mut is_indexed = 77;
    // SAFETY: a handle of the library's, and a variable of this program's.
    let status = unsafe { lacuna_weights_is_indexed(weights.address, group, &raw mut is_indexed) };
    answer(status).map(|()| is_indexed)
}

fn refused<T>(status: lacuna_status, message: &str) -> Result<T, Refused> {
    Err((status, message.to_owned()))
}

#[test]
fn df11_is_indexed_decoded_and_its_index_comes_back() {
    let queue = queue();
    let originals = [weights(1, 5000), weights(2, 300)];
    let groups = originals.each_ref().map(|weights| encoded(weights));
    let raw = groups.each_ref().map(df11_group);
    let weights = upload_df11(&queue, &raw).unwrap();
    let of: lacuna_decode_weights_sizes = sizes(lacuna_weights_sizes, &weights);
    assert_eq!((of.n_groups, of.n_plain_groups, of.workspace), (2, 2, 4));
    assert_eq!(is_indexed(&weights, 1), Ok(0));
    let (output, words, checked) = decode(&queue, &weights);
    assert_eq!((checked, words), (Ok(()), [0; 2]));
    assert!(output == originals.concat());
    index(&queue, &weights).unwrap();
    let of: lacuna_decode_weights_sizes = sizes(lacuna_weights_sizes, &weights);
    assert_eq!((of.n_groups, of.n_plain_groups, of.workspace), (2, 0, 2));
    assert_eq!((range(&weights, 0), range(&weights, 1)), (Ok([0, 5000]), Ok([5000, 5300])));
    assert_eq!((is_indexed(&weights, 1), of.output), (Ok(1), 5300));
    let no_group = "group: 2 is outside the groups";
    assert_eq!(range(&weights, 2), refused(LACUNA_RANGE, no_group));
    assert_eq!(is_indexed(&weights, 2), refused(LACUNA_RANGE, no_group));
    let (output, words, checked) = decode(&queue, &weights);
    assert_eq!((checked, words), (Ok(()), [0; 2]));
    assert!(output == originals.concat());

    // The index that comes back is the reference's, and a host that has it needs no other.
    let mut len = lacuna_index_sizes::zeroed();
    // SAFETY: a struct of this program's.
    answer(unsafe { lacuna_index_len(5000, &raw mut len) }).unwrap();
    let mut tile_bytes = vec![0_u32; len.tile_bytes as usize];
    let mut granule_bits = vec![0_u16; len.granule_bits as usize];
    let mut download = |group, n_tile_bytes| {
        // SAFETY: handles of the library's, and arrays of this program's.
        answer(unsafe {
            lacuna_weights_download_index(
                queue.address,
                weights.address,
                group,
                tile_bytes.as_mut_ptr(),
                n_tile_bytes,
                granule_bits.as_mut_ptr(),
                len.granule_bits,
            )
        })
    };
    let message = "group of an index: 2 is outside the groups that have an index";
    assert_eq!(download(2, len.tile_bytes), refused(LACUNA_RANGE, message));
    let message = format!("tile_bytes: expected {}, got 1", len.tile_bytes);
    assert_eq!(download(0, 1), refused(LACUNA_SHAPE, &message));
    download(0, len.tile_bytes).unwrap();
    let parsed = groups[0].as_raw("").parse().unwrap();
    let expected = lacuna::huffman::indexed::reference::index(&parsed).unwrap().unwrap();
    let own = Index { tile_bytes, granule_bits };
    assert_eq!(own, expected);

    let mut table = vec![0_u8; LACUNA_CODE_TABLE_BYTES as usize];
    // SAFETY: bytes and an array of this program's.
    let code_table = |table: &mut [u8], luts: &[u8]| unsafe {
        answer(lacuna_df11_code_table(bytes(luts), table.as_mut_ptr(), table.len() as u64))
    };
    let message = "luts, in bytes: expected 512, got 100";
    assert_eq!(code_table(&mut table, &groups[0].luts[..100]), refused(LACUNA_SHAPE, message));
    let message = "table, in bytes: expected 16640, got 16";
    assert_eq!(code_table(&mut table[..16], &groups[0].luts), refused(LACUNA_SHAPE, message));
    code_table(&mut table, &groups[0].luts).unwrap();
    assert!(table == CodeTable::of(&parsed).to_bytes());

    // On the host, in no alignment.
    let shifted = [&[0][..], bytemuck::cast_slice(&own.granule_bits)].concat();
    let group = lacuna_indexed_group {
        codes: bytes(&groups[0].encoded_exponent),
        sign_mantissa: bytes(&groups[0].sign_mantissa),
        tile_bytes: bytes(bytemuck::cast_slice(&own.tile_bytes)),
        granule_bits: bytes(&shifted[1..]),
        table: bytes(&table),
        luts: bytes(&groups[0].luts),
        ..lacuna_indexed_group::zeroed()
    };
    let upload = |group: &lacuna_indexed_group| {
        // SAFETY: a handle of the library's, a struct and a variable of this program's.
        made(lacuna_weights_free, |address| unsafe {
            lacuna_weights_upload_indexed(queue.address, group, 1, address)
        })
    };
    let (output, _, checked) = decode(&queue, &upload(&group).unwrap());
    assert_eq!(checked, Ok(()));
    assert!(output == originals[0]);
    let other = lacuna_indexed_group { granule_bits: bytes(&shifted), ..group };
    let message =
        format!("granule_bits, in bytes: expected {}, got {}", shifted.len() + 1, shifted.len());
    assert_eq!(upload(&other).map(drop), refused(LACUNA_SHAPE, &message));

    // In the engine's own memory.
    let [codes, sign_mantissa] =
        [&groups[0].encoded_exponent, &groups[0].sign_mantissa].map(|b| Aligned::new(b.clone()));
    let (table, luts) = (Aligned::new(table), groups[0].luts.clone());
    let views = lacuna_indexed_views {
        codes: view(&codes),
        sign_mantissa: view(&sign_mantissa),
        tile_bytes: view(&own.tile_bytes),
        granule_bits: view(&own.granule_bits),
        table: view(&table),
        luts: view(&luts),
        ..lacuna_indexed_views::zeroed()
    };
    let borrow = |views: &lacuna_indexed_views| {
        // SAFETY: a handle of the library's, a struct, memory and a variable of this program's.
        made(lacuna_weights_free, |address| unsafe {
            lacuna_weights_borrow_indexed(queue.address, views, 1, address)
        })
    };
    let (output, _, checked) = decode(&queue, &borrow(&views).unwrap());
    assert_eq!(checked, Ok(()));
    assert!(output == originals[0]);
    let other = lacuna_indexed_views { tile_bytes: view(&codes), ..views };
    let message = "dtype of tile_bytes: u8 is not one of u32";
    assert_eq!(borrow(&other).map(drop), refused(LACUNA_DTYPE, message));
}

#[test]
fn a_corrupt_group_is_told_where_it_is() {
    let queue = queue();
    let mut groups = [weights(3, 4500), weights(4, 4500)].map(|weights| encoded(&weights));
    let sound = groups.each_ref().map(df11_group);
    drop(upload_df11(&queue, &sound).unwrap());
    groups[1].gaps[100] ^= 0x10;
    let raw = groups.each_ref().map(df11_group);
    let weights = upload_df11(&queue, &raw).unwrap();
    let of: lacuna_decode_weights_sizes = sizes(lacuna_weights_sizes, &weights);
    let mut workspace = vec![0_u64; of.workspace as usize];
    let mut output = Aligned::<bf16>::zeros(of.output);
    let args = lacuna_decode_weights_args {
        workspace: view_mut(&mut workspace),
        output: view_mut(&mut output),
        ..lacuna_decode_weights_args::zeroed()
    };
    let mut group = 77;
    // SAFETY: handles of the library's, structs, memory and a variable of this program's.
    unsafe {
        let decode = lacuna_decode_weights;
        check_wrong_views(&args, |args| answer(decode(queue.address, weights.address, args)));
        answer(lacuna_decode_weights(queue.address, weights.address, &raw const args)).unwrap();
        let status = workspace[1];
        let (found, message) = answer(lacuna_weights_check_status(0, status)).unwrap_err();
        assert_eq!(found, LACUNA_CORRUPT, "{message}");
        answer(lacuna_weights_locate(weights.address, 0, status, &raw mut group)).unwrap();
        assert_eq!(group, 1);
        let nothing = answer(lacuna_weights_locate(weights.address, 0, 0, &raw mut group));
        let message = "status: 0 is outside what launches over these weights report";
        assert_eq!(nothing, refused(LACUNA_RANGE, message));
        assert_eq!(
            answer(lacuna_df11_group_decode(&raw[1], null_mut(), 4500)).unwrap_err().0,
            LACUNA_NULL
        );
        let mut decoded = vec![0; 4500];
        let found = answer(lacuna_df11_group_decode(&raw[1], decoded.as_mut_ptr(), 4500));
        assert_eq!(found.unwrap_err().0, LACUNA_CORRUPT);
        assert!(decoded.iter().all(|weight| *weight == 0x7FC0));
        let found = answer(lacuna_df11_group_decode(&raw[0], decoded.as_mut_ptr(), 4499));
        assert_eq!(found, refused(LACUNA_SHAPE, "output: expected 4500, got 4499"));
    }
    // Weights of which an index cannot be made are what they were.
    let before = decode(&queue, &weights);
    let (status, message) = index(&queue, &weights).unwrap_err();
    assert_eq!(status, LACUNA_CORRUPT, "{message}");
    assert!(decode(&queue, &weights) == before);
    // SAFETY: null, or a handle of the library's.
    unsafe {
        let found = answer(lacuna_weights_index(queue.address, null_mut()));
        assert_eq!(found, refused(LACUNA_NULL, "weights is a null pointer"));
        let found = answer(lacuna_weights_index(null(), weights.address));
        assert_eq!(found, refused(LACUNA_NULL, "queue is a null pointer"));
    }
}

#[test]
fn a_group_that_no_index_holds_is_decoded_as_before() {
    let queue = queue();
    let (first, second) = (weights(5, 300), weights(6, 4500));
    let groups = [encoded(&first), encoded(&second)];
    // In memory that is not aligned to 16 bytes.
    let codes = Aligned::new([&[0_u8; 8][..], &groups[0].encoded_exponent].concat());
    let parts = |group: &lacuna::huffman::EncodedGroup| {
        [&group.encoded_exponent, &group.sign_mantissa, &group.luts, &group.gaps]
            .map(|bytes| Aligned::new(bytes.clone()))
    };
    let tensors = groups.each_ref().map(parts);
    let positions = groups.each_ref().map(|group| Aligned::new(group.output_positions.clone()));
    let mut views = [0, 1].map(|idx| lacuna_df11_views {
        encoded_exponent: view(&tensors[idx][0]),
        sign_mantissa: view(&tensors[idx][1]),
        luts: view(&tensors[idx][2]),
        gaps: view(&tensors[idx][3]),
        output_positions: view(&positions[idx]),
        ..lacuna_df11_views::zeroed()
    });
    views[0].encoded_exponent = view(&codes[8..]);
    // SAFETY: a handle of the library's, structs, memory and a variable of this program's.
    let df11 = made(lacuna_weights_free, |address| unsafe {
        lacuna_weights_borrow_df11(queue.address, views.as_ptr(), 2, address)
    });
    let weights = df11.unwrap();
    index(&queue, &weights).unwrap();
    let of: lacuna_decode_weights_sizes = sizes(lacuna_weights_sizes, &weights);
    assert_eq!((of.n_groups, of.n_plain_groups, of.workspace), (2, 1, 3));
    assert_eq!([is_indexed(&weights, 0), is_indexed(&weights, 1)], [Ok(0), Ok(1)]);
    let (output, words, checked) = decode(&queue, &weights);
    assert_eq!((checked, words), (Ok(()), [0; 2]));
    assert!(output[..300] == first && output[304..] == second);
    let mut group = 77;
    // Of the second word, block 0; `Corruption::from_status` takes the complement of a block, and a reason.
    let status = u64::from(u32::MAX) << 32 | 1;
    // SAFETY: a handle of the library's, and a variable of this program's.
    answer(unsafe { lacuna_weights_locate(weights.address, 0, status, &raw mut group) }).unwrap();
    assert_eq!(group, 0);
    // SAFETY: as above.
    answer(unsafe { lacuna_weights_locate(weights.address, status, 0, &raw mut group) }).unwrap();
    assert_eq!(group, 1);
}

#[test]
fn wrong_calls_write_nothing() {
    let queue = queue();
    let original = weights(8, 300);
    let weights = upload_df11(&queue, &[df11_group(&encoded(&original))]).unwrap();
    index(&queue, &weights).unwrap();
    let mut workspace = [0_u64; 2];
    let mut output = Aligned::new(vec![bf16::from_bits(0x5555); 300]);
    let args = lacuna_decode_weights_args {
        workspace: view_mut(&mut workspace),
        output: view_mut(&mut output),
        ..lacuna_decode_weights_args::zeroed()
    };
    let old = lacuna_header { size: 48, version: LACUNA_ABI_VERSION };
    let new = lacuna_header { size: 56, version: LACUNA_ABI_VERSION + 1 };
    let [mut short, mut few, mut half, mut moved] = [args; 4];
    short.output.len -= 1;
    few.workspace.len = 0;
    half.output.dtype = lacuna_dtype::LACUNA_F16 as u32;
    moved.output.data = moved.output.data.wrapping_byte_add(1);
    let at = moved.output.data;
    for (args, status, message) in [
        (short, LACUNA_SHAPE, "output: expected 300, got 299".to_owned()),
        (few, LACUNA_SHAPE, "workspace: expected 2, got 0".to_owned()),
        (half, LACUNA_DTYPE, "dtype of output: f16 is not one of bf16".to_owned()),
        (moved, LACUNA_RANGE, format!("data of output: {at:p} is no multiple of 2")),
        (
            lacuna_decode_weights_args { header: old, ..args },
            LACUNA_ABI,
            "lacuna_decode_weights_args: header.size is 48, and it has 56 bytes; begin the struct with \
             LACUNA_HEADER(lacuna_decode_weights_args)"
                .to_owned(),
        ),
        (
            lacuna_decode_weights_args { header: new, ..args },
            LACUNA_ABI,
            "lacuna_decode_weights_args: header.version is 2, and this library knows 1 to 1; begin the struct with \
             LACUNA_HEADER(lacuna_decode_weights_args), or link the library that the header is of"
                .to_owned(),
        ),
    ] {
        // SAFETY: handles of the library's, a struct and memory of this program's.
        let found = unsafe {
            answer(lacuna_decode_weights(queue.address, weights.address, &raw const args))
        };
        assert_eq!(found, Err((status, message)));
    }
    // SAFETY: null, handles of the library's, structs and memory of this program's.
    unsafe {
        let found = answer(lacuna_decode_weights(queue.address, null(), &raw const args));
        assert_eq!(found, refused(LACUNA_NULL, "weights is a null pointer"));
        let decode = lacuna_decode_weights;
        check_wrong_views(&args, |args| answer(decode(queue.address, weights.address, args)));
        let found = answer(lacuna_weights_check(queue.address, weights.address, null()));
        assert_eq!(found, refused(LACUNA_NULL, "workspace is a null pointer"));
    }
    assert!(output.iter().all(|weight| weight.to_bits() == 0x5555));
}

#[test]
fn compact_groups_are_decoded_whole_and_by_rows() {
    let queue = queue();
    // 64 rows of 96 after 100 weights.
    let original = weights(7, 100 + 64 * 96);
    let group = compact::encode(&[bytemuck::cast_slice(&original)]).unwrap();
    let raw = group.as_raw("embed");
    let c_group = lacuna_compact_group {
        name: bytes(raw.name.as_bytes()),
        codes: bytes(raw.codes),
        sign_mantissa: bytes(raw.sign_mantissa),
        lengths: bytes(raw.lengths),
        tile_bytes: bytes(raw.tile_bytes),
        granule_bits: bytes(raw.granule_bits),
        split_positions: bytes(raw.split_positions),
        ..lacuna_compact_group::zeroed()
    };
    let upload = |group: &lacuna_compact_group| {
        // SAFETY: a handle of the library's, a struct and a variable of this program's.
        made(lacuna_weights_free, |address| unsafe {
            lacuna_weights_upload_compact(queue.address, group, 1, address)
        })
    };
    let weights = upload(&c_group).unwrap();
    let (output, _, checked) = decode(&queue, &weights);
    assert_eq!(checked, Ok(()));
    assert!(output == original);
    let mut decoded = vec![0; original.len()];
    let n = original.len() as u64;
    // SAFETY: a struct and an array of this program's.
    answer(unsafe { lacuna_compact_group_decode(&c_group, decoded.as_mut_ptr(), n) }).unwrap();
    assert!(decoded == original);
    let mut table = vec![0; LACUNA_CODE_TABLE_BYTES as usize];
    // SAFETY: as above.
    let code_table = |lengths: &[u8], table: &mut [u8]| unsafe {
        let n_bytes = table.len() as u64;
        answer(lacuna_compact_code_table(bytes(lengths), table.as_mut_ptr(), n_bytes))
    };
    code_table(raw.lengths, &mut table).unwrap();
    assert!(table == raw.parse().unwrap().code().table().to_bytes());
    let none = "lengths: no exponent has a code";
    assert_eq!(code_table(&[0; 128], &mut table), refused(LACUNA_MALFORMED, none));
    let other = lacuna_compact_group { lengths: bytes(&raw.lengths[1..]), ..c_group };
    let (status, message) = upload(&other).map(drop).unwrap_err();
    assert_eq!(status, LACUNA_MALFORMED);
    assert!(message.contains("embed") && message.contains("lengths"), "{message}");

    let shape = lacuna_decode_rows_shape {
        n_elements: n,
        first_element: 100,
        n_matrix_rows: 64,
        row_len: 96,
        n_rows: 3,
        output_stride: 100,
        ..lacuna_decode_rows_shape::zeroed()
    };
    let (new, free) = (lacuna_decode_rows_plan_new, lacuna_decode_rows_plan_free);
    check_plan_refusals(new, free, &shape);
    let rows_plan = plan(new, free, &shape).unwrap();
    let of: lacuna_decode_rows_sizes = sizes(lacuna_decode_rows_plan_sizes, &rows_plan);
    assert_eq!((of.rows, of.output), (3, 2 * 100 + 96));
    let rows = [63_u32, 64, 0];
    let mut workspace = [0_u64; 2];
    let mut output = Aligned::new(vec![bf16::from_bits(0x5555); of.output as usize]);
    let args = lacuna_decode_rows_args {
        rows: view(&rows),
        workspace: view_mut(&mut workspace),
        output: view_mut(&mut output),
        ..lacuna_decode_rows_args::zeroed()
    };
    let decode_rows = |args: &lacuna_decode_rows_args| {
        // SAFETY: handles of the library's, a struct and memory of this program's.
        answer(unsafe {
            lacuna_decode_rows(queue.address, weights.address, rows_plan.address, args)
        })
    };
    check_wrong_views(&args, decode_rows);
    let is_poisoned = |row: &[bf16]| row.iter().all(|weight| weight.to_bits() == 0x5555);
    for (other, status, message) in [
        (
            lacuna_decode_rows_args { absent: 2, ..args },
            LACUNA_RANGE,
            "absent: 2 is no lacuna_absent",
        ),
        (
            lacuna_decode_rows_args { group: 1, ..args },
            LACUNA_RANGE,
            "group of rows: 1 is outside the groups that have an index",
        ),
        (
            lacuna_decode_rows_args { rows: view(&rows[1..]), ..args },
            LACUNA_SHAPE,
            "rows: expected 3, got 2",
        ),
    ] {
        assert_eq!(decode_rows(&other), refused(status, message));
        assert!(is_poisoned(&output));
    }
    let row = |idx: usize| &original[100 + 96 * idx..][..96];
    let bits = |output: &[bf16]| output.iter().map(|w| w.to_bits()).collect::<Vec<_>>();
    decode_rows(&lacuna_decode_rows_args { absent: 1, ..args }).unwrap();
    assert!(bits(&output[..96]) == row(63) && bits(&output[200..]) == row(0));
    assert!(is_poisoned(&output[96..200]));
    decode_rows(&args).unwrap();
    assert!(bits(&output[100..196]) == [0; 96] && is_poisoned(&output[96..100]));

    // A tile's codes are damaged: the tile is told, and a group that is told so.
    let mut codes = group.codes.clone();
    codes.iter_mut().for_each(|byte| *byte = 0xFF);
    let damaged = lacuna_compact_group { codes: bytes(&codes), ..c_group };
    let damaged = upload(&damaged).unwrap();
    let (output, words, checked) = decode(&queue, &damaged);
    let (status, message) = checked.unwrap_err();
    assert_eq!(status, LACUNA_CORRUPT);
    assert!(message.contains("tile 0"), "{message}");
    assert!(output.iter().all(|weight| *weight == 0x7FC0));
    let mut found = 77;
    // SAFETY: a handle of the library's, and a variable of this program's.
    let located = unsafe { lacuna_weights_locate(damaged.address, words[0], 0, &raw mut found) };
    answer(located).unwrap();
    assert_eq!(found, 0);
}
