//! Checkpoints on disk.

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};

use lacuna::capi::lacuna_status::*;
use lacuna::capi::*;

use super::groups::decode as decode_weights;
use super::weights;
use crate::c::{Handle, Refused, Struct, answer, made, queue, structs};
use crate::common;

structs! {
    lacuna_checkpoint_facts, lacuna_checkpoint_entry, lacuna_plain_tensor, lacuna_stored_facts,
    lacuna_matrix, lacuna_conversion, lacuna_converted,
}

fn refused<T>(status: lacuna_status, message: &str) -> Result<T, Refused> {
    Err((status, message.to_owned()))
}

fn c_path(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

fn open(path: &Path) -> Result<Handle<lacuna_checkpoint>, Refused> {
    let path = c_path(path);
    // SAFETY: a text and a variable of this program's.
    made(lacuna_checkpoint_free, |address| unsafe {
        lacuna_checkpoint_open(path.as_ptr(), address)
    })
}

fn stored(
    checkpoint: &Handle<lacuna_checkpoint>,
    group: u64,
) -> Result<Handle<lacuna_stored>, Refused> {
    // SAFETY: a handle of the library's, and a variable of this program's.
    made(lacuna_stored_free, |address| unsafe {
        lacuna_checkpoint_stored(checkpoint.address, group, address)
    })
}

/// What a function says of a handle in a struct.
fn told<T, S: Struct>(
    handle: &Handle<T>,
    tell: impl FnOnce(*const T, *mut S) -> lacuna_status,
) -> Result<S, Refused> {
    let mut found = S::zeroed();
    answer(tell(handle.address, &raw mut found)).map(|()| found)
}

fn facts(checkpoint: &Handle<lacuna_checkpoint>) -> lacuna_checkpoint_facts {
    // SAFETY: a handle of the library's and a struct of this program's; so below.
    told(checkpoint, |c, found| unsafe { lacuna_checkpoint_describe(c, found) }).unwrap()
}

fn entry(
    checkpoint: &Handle<lacuna_checkpoint>,
    group: u64,
) -> Result<lacuna_checkpoint_entry, Refused> {
    // SAFETY: as above.
    told(checkpoint, |c, found| unsafe { lacuna_checkpoint_group(c, group, found) })
}

fn stored_facts(stored: &Handle<lacuna_stored>) -> lacuna_stored_facts {
    // SAFETY: as above.
    told(stored, |s, found| unsafe { lacuna_stored_describe(s, found) }).unwrap()
}

fn matrix(stored: &Handle<lacuna_stored>, place: u64) -> Result<lacuna_matrix, Refused> {
    // SAFETY: as above.
    told(stored, |s, found| unsafe { lacuna_stored_matrix(s, place, found) })
}

fn text<'a>(text: *const c_char) -> &'a str {
    // SAFETY: a text of a handle that is alive.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap()
}

fn list<'a>(numbers: *const u64, len: u64) -> &'a [u64] {
    // SAFETY: numbers of a handle that is alive.
    unsafe { std::slice::from_raw_parts(numbers, len as usize) }
}

fn decode(stored: &Handle<lacuna_stored>) -> (Vec<u16>, u32) {
    let n = stored_facts(stored).n_elements;
    let (mut weights, mut is_verified) = (vec![0; n as usize], 77);
    let output = weights.as_mut_ptr();
    // SAFETY: a handle of the library's, an array and a variable of this program's.
    let status = unsafe { lacuna_stored_decode(stored.address, output, n, &raw mut is_verified) };
    answer(status).unwrap();
    (weights, is_verified)
}

/// A model of two matrices and a vector, with names of the defaults.
fn write_model(path: &Path) -> [Vec<u16>; 2] {
    let matrices = [weights(41, 24 * 64), weights(42, 8 * 16)];
    let header = r#"{"lm_head.weight":{"dtype":"BF16","shape":[24,64],"data_offsets":[0,3072]},
        "model.embed_tokens.weight":{"dtype":"BF16","shape":[8,16],"data_offsets":[3072,3328]},
        "model.norm.weight":{"dtype":"F32","shape":[2],"data_offsets":[3328,3336]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    matrices.iter().for_each(|matrix| file.extend_from_slice(bytemuck::cast_slice(matrix)));
    file.extend_from_slice(bytemuck::cast_slice(&[1.5_f32, -2.0]));
    std::fs::write(path, file).unwrap();
    matrices
}

unsafe extern "C" fn note(context: *mut c_void, progress: *const lacuna_progress) {
    // SAFETY: this test's list, and the library's struct.
    let (list, progress) = unsafe { (&mut *context.cast::<Vec<(String, u64)>>(), &*progress) };
    assert_eq!(progress.header.size as usize, size_of::<lacuna_progress>());
    list.push((text(progress.group).to_owned(), progress.done_bytes));
}

/// `compress` of one input.
fn compress(
    input: &Path,
    output: &Path,
    options: *const lacuna_conversion,
) -> Result<lacuna_converted, Refused> {
    let (input, output) = (c_path(input), c_path(output));
    let (inputs, mut summary) = ([input.as_ptr()], lacuna_converted::zeroed());
    // SAFETY: texts and structs of this program's.
    let status =
        unsafe { lacuna_compress(inputs.as_ptr(), 1, output.as_ptr(), options, &raw mut summary) };
    answer(status).map(|()| summary)
}

#[test]
fn a_published_group_is_opened_checked_and_decoded() {
    let original = common::bf16_tensors("qwen3-4b-slice.bf16.safetensors");
    let checkpoint = open(&common::data("qwen3-4b-slice.df11.safetensors")).unwrap();
    let found = facts(&checkpoint);
    assert_eq!((found.n_groups, found.n_plain), (1, 0));
    // That of another file is beside it.
    assert!(text(found.config).contains("dfloat11_config"));
    let found = entry(&checkpoint, 0).unwrap();
    assert_eq!(text(found.name), "model.layers.0");
    assert_eq!((found.format, found.has_checksum), (lacuna_format::LACUNA_FORMAT_DF11 as u32, 0));
    let no_group = "group: 1 is outside the groups";
    assert_eq!(entry(&checkpoint, 1).map(drop), refused(LACUNA_RANGE, no_group));
    assert_eq!(stored(&checkpoint, 1).map(drop), refused(LACUNA_RANGE, no_group));

    let group = stored(&checkpoint, 0).unwrap();
    // A group holds the file by itself.
    drop(checkpoint);
    let found = stored_facts(&group);
    assert_eq!((text(found.name), found.n_matrices), ("model.layers.0", 1));
    let warning = "output_positions is one entry short; the published kernel reads past it";
    assert_eq!((found.format, found.has_checksum, text(found.warnings)), (0, 0, warning));
    let (weights, is_verified) = decode(&group);
    assert_eq!(is_verified, 0);
    assert!(bytemuck::cast_slice::<u16, u8>(&weights) == original);
    let found = matrix(&group, 0).unwrap();
    assert_eq!((found.start, found.end), (0, weights.len() as u64));
    assert_eq!((text(found.name), found.n_dimensions), ("model.layers.0.0", 0));
    assert!(found.shape.is_null());
    let message = "matrix: 1 is outside the matrices of the group";
    assert_eq!(matrix(&group, 1).map(drop), refused(LACUNA_RANGE, message));

    let mut raw = lacuna_df11_group::zeroed();
    let mut output = vec![0; weights.len()];
    let n = weights.len() as u64;
    // SAFETY: a handle of the library's, structs and an array of this program's.
    unsafe {
        answer(lacuna_stored_df11(group.address, &raw mut raw)).unwrap();
        answer(lacuna_df11_group_decode(&raw const raw, output.as_mut_ptr(), n)).unwrap();
        let mut other = lacuna_lane_tensors::zeroed();
        let found = answer(lacuna_stored_lane(group.address, &raw mut other));
        let message = "model.layers.0 is in the format df11, and lane was asked for";
        assert_eq!(found, refused(LACUNA_MALFORMED, message));
        let found =
            answer(lacuna_stored_decode(group.address, output.as_mut_ptr(), n - 1, null_mut()));
        assert_eq!(found.unwrap_err().0, LACUNA_SHAPE);
    }
    assert!(output == weights);
}

#[test]
fn a_model_is_compressed_to_every_format_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.safetensors");
    let originals = write_model(&model);
    let mut seen: Vec<(String, u64)> = Vec::new();
    for (format, name) in [(0, "df11"), (1, "compact"), (2, "lane")] {
        let output = folder.path().join(name);
        let options = lacuna_conversion {
            format,
            progress: Some(note),
            context: (&raw mut seen).cast(),
            ..lacuna_conversion::zeroed()
        };
        let summary = compress(&model, &output, &raw const options).unwrap();
        assert_eq!((summary.n_groups, summary.bf16_bytes), (2, 3328));
        assert_eq!((summary.n_plain, summary.plain_bytes), (1, 8));
        seen.sort();
        let names: Vec<_> = seen.drain(..).map(|(name, _)| name).collect();
        assert_eq!(names, ["lm_head", "model.embed_tokens"]);

        let checkpoint = open(&output).unwrap();
        assert!(!facts(&checkpoint).config.is_null());
        for (idx, original) in originals.iter().enumerate() {
            let group = stored(&checkpoint, idx as u64).unwrap();
            assert_eq!(
                (stored_facts(&group).format, stored_facts(&group).has_checksum),
                (format, 1)
            );
            assert_eq!(entry(&checkpoint, idx as u64).unwrap().format, format);
            assert!(decode(&group) == (original.clone(), 1));
            let found = matrix(&group, 0).unwrap();
            let shape = [&[24, 64], &[8, 16]][idx];
            assert_eq!(list(found.shape, found.n_dimensions), shape);
            let n = original.len() as u64;
            let mut wrong = original.clone();
            wrong[3] ^= 1;
            // SAFETY: a handle of the library's, and an array of this program's.
            let verify = |weights: &[u16]| unsafe {
                answer(lacuna_stored_verify(group.address, weights.as_ptr(), n, null_mut()))
            };
            verify(original).unwrap();
            let (status, message) = verify(&wrong).unwrap_err();
            assert_eq!(status, LACUNA_MALFORMED);
            assert!(message.contains("checksum"), "{message}");
            // SAFETY: a handle of the library's, structs and an array of this program's.
            unsafe {
                let (mut compact, mut lane) =
                    (lacuna_compact_group::zeroed(), lacuna_lane_tensors::zeroed());
                let compact =
                    answer(lacuna_stored_compact(group.address, &raw mut compact)).map(|()| {
                        lacuna_compact_group_decode(&raw const compact, wrong.as_mut_ptr(), n)
                    });
                let lane = answer(lacuna_stored_lane(group.address, &raw mut lane))
                    .map(|()| lacuna_lane_tensors_unpack(&raw const lane, wrong.as_mut_ptr(), n));
                assert_eq!((compact.is_ok(), lane.is_ok()), (format == 1, format == 2));
                for status in [compact, lane].into_iter().flatten() {
                    answer(status).unwrap();
                    assert!(wrong == *original);
                }
            }
        }
        // Uploaded from the file as they are, but for matrices of lanes.
        let groups = [0, 1].map(|idx| stored(&checkpoint, idx).unwrap());
        let (queue, handles) = (queue(), groups.each_ref().map(|group| group.address.cast_const()));
        // SAFETY: handles of the library's, and an array and a variable of this program's.
        let weights = made(lacuna_weights_free, |address| unsafe {
            lacuna_weights_upload_stored(queue.address, handles.as_ptr(), 2, address)
        });
        drop(groups);
        match format {
            2 => {
                let message = "lm_head is a matrix of lanes, which is not decoded: lacuna_device_lane_upload takes it";
                assert_eq!(weights.map(drop), refused(LACUNA_MALFORMED, message));
            }
            _ => {
                let (output, statuses, checked) = decode_weights(&queue, &weights.unwrap());
                assert_eq!((statuses, checked), ([0; 2], Ok(())));
                assert!(output[..originals[0].len()] == originals[0]);
                assert!(output[output.len() - originals[1].len()..] == originals[1]);
            }
        }
        let plain: lacuna_plain_tensor =
            // SAFETY: a handle of the library's and a struct of this program's.
            told(&checkpoint, |c, found| unsafe { lacuna_checkpoint_plain(c, 0, found) }).unwrap();
        assert_eq!((text(plain.name), text(plain.dtype_name)), ("model.norm.weight", "F32"));
        assert_eq!((plain.dtype, plain.n_bytes), (lacuna_dtype::LACUNA_F32 as u32, 8));
        assert_eq!(list(plain.shape, plain.n_dimensions), [2]);
        // SAFETY: bytes of a file that is mapped.
        let data = unsafe { std::slice::from_raw_parts(plain.data.cast::<u8>(), 8) };
        assert_eq!(data, bytemuck::bytes_of(&[1.5_f32, -2.0]));
        let other: Result<lacuna_plain_tensor, _> =
            // SAFETY: as above.
            told(&checkpoint, |c, found| unsafe { lacuna_checkpoint_plain(c, 1, found) });
        let message = "plain tensor: 1 is outside the plain tensors";
        assert_eq!(other.map(drop), refused(LACUNA_RANGE, message));

        // And back, from another format too.
        let back = folder.path().join(format!("{name}-back.safetensors"));
        let other = folder.path().join(format!("{name}-transcoded.safetensors"));
        let (back_c, other_c) = (c_path(&back), c_path(&other));
        let mut summary = lacuna_converted::zeroed();
        let options = lacuna_conversion {
            format: lacuna_format::LACUNA_FORMAT_COMPACT as u32,
            ..lacuna_conversion::zeroed()
        };
        // SAFETY: a handle of the library's, texts and structs of this program's.
        unsafe {
            let options = &raw const options;
            let from = checkpoint.address;
            answer(lacuna_transcode(from, other_c.as_ptr(), options, &raw mut summary)).unwrap();
            let found = answer(lacuna_decompress(from, back_c.as_ptr(), options, null_mut()));
            assert_eq!(found, refused(LACUNA_RANGE, "format of bf16: 1 is no format: 0"));
            let found = answer(lacuna_transcode(from, back_c.as_ptr(), null(), null_mut()));
            assert_eq!(found.unwrap_err().0, LACUNA_MALFORMED);
            assert!(!back.exists());
            let transcoded = open(&other).unwrap();
            let from = transcoded.address;
            answer(lacuna_decompress(from, back_c.as_ptr(), null(), null_mut())).unwrap();
        }
        assert_eq!((summary.n_groups, summary.n_plain), (2, 1));
        let read = lacuna::huffman::Model::open(&[back]).unwrap();
        let found = read.tensor("lm_head.weight").unwrap();
        assert!(
            found.shape == [24, 64] && found.bytes == bytemuck::cast_slice::<_, u8>(&originals[0])
        );
        assert_eq!(read.tensors().count(), 3);
    }
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.safetensors");
    write_model(&model);
    let (status, message) = open(&folder.path().join("none")).map(drop).unwrap_err();
    assert_eq!(status, LACUNA_IO, "{message}");
    // More files than memory has addresses for.
    let (c_model, output) = (c_path(&model), c_path(&folder.path().join("output")));
    let inputs = [c_model.as_ptr()];
    // SAFETY: texts of this program's; of so many nothing is read.
    let found = answer(unsafe {
        lacuna_compress(inputs.as_ptr(), u64::MAX, output.as_ptr(), null(), null_mut())
    });
    let message = format!("inputs: {} elements do not fit into memory", u64::MAX);
    assert_eq!(found, refused(LACUNA_RANGE, &message));
    let (status, message) = open(&model).map(drop).unwrap_err();
    assert_eq!(status, LACUNA_MALFORMED);
    assert!(message.contains("it holds no compressed group"), "{message}");
    // SAFETY: null, and a variable of this program's.
    let found =
        made(lacuna_checkpoint_free, |address| unsafe { lacuna_checkpoint_open(null(), address) });
    assert_eq!(found.map(drop), refused(LACUNA_NULL, "path is a null pointer"));

    let output = folder.path().join("out");
    let pattern = c"lm_head";
    let patterns = [pattern.as_ptr()];
    let options = lacuna_conversion {
        patterns: patterns.as_ptr(),
        n_patterns: 1,
        ..lacuna_conversion::zeroed()
    };
    let other = lacuna_conversion { format: 3, ..options };
    let found = compress(&model, &output, &raw const other);
    assert_eq!(found.map(drop), refused(LACUNA_RANGE, "format: 3 is no lacuna_format"));
    let broken = c"(";
    let broken = [broken.as_ptr()];
    let other = lacuna_conversion { patterns: broken.as_ptr(), ..options };
    let (status, message) = compress(&model, &output, &raw const other).map(drop).unwrap_err();
    assert_eq!(status, LACUNA_MALFORMED, "{message}");
    let other = lacuna_conversion { patterns: null(), ..options };
    let found = compress(&model, &output, &raw const other);
    assert_eq!(found.map(drop), refused(LACUNA_NULL, "patterns is a null pointer"));
    assert!(!output.exists());
    assert_eq!(compress(&model, &output, &raw const options).unwrap().n_groups, 1);
    let (status, message) = compress(&model, &output, null()).map(drop).unwrap_err();
    assert_eq!(status, LACUNA_MALFORMED);
    assert!(message.contains("it exists"), "{message}");

    // A file that a byte of is another.
    let file = output.join("lm_head.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    let last = bytes.len() - 100;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let damaged = open(&output).unwrap();
    let (status, message) = stored(&damaged, 0).map(drop).unwrap_err();
    assert_eq!(status, LACUNA_MALFORMED);
    assert!(message.contains("damaged") || message.contains("lm_head"), "{message}");
}
