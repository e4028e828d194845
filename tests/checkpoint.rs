//! Checkpoints on disk: opened as they are found, refused with a reason, and never believed when
//! damaged.

mod common;

use std::path::{Path, PathBuf};

use lacuna::Error;
use lacuna::huffman::lane;
use lacuna::huffman::{
    self, Checked, Checkpoint, EncodedGroup, Format, GroupPattern, Model, RawGroup, TensorReason,
};
use proptest::prelude::*;

fn compress(output: &Path, format: Format) -> huffman::Converted {
    let input = common::data("minilm-layer0.bf16.safetensors");
    huffman::compress(&[input], output, &GroupPattern::defaults(), format, &|_| {}).unwrap()
}

/// Whether decompressing gives the tensors of the original file, names, shapes and bits.
fn assert_decompressed(checkpoint: &Checkpoint, folder: &Path) {
    let back = folder.join("back.safetensors");
    huffman::decompress(checkpoint, &back, &|_| {}).unwrap();
    let parsed = std::fs::read(&back).unwrap();
    let parsed = safetensors::SafeTensors::deserialize(&parsed).unwrap();
    let expected = std::fs::read(common::data("minilm-layer0.bf16.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&expected).unwrap();
    assert_eq!(parsed.len(), expected.len());
    for (name, view) in expected.tensors() {
        let own = parsed.tensor(&name).unwrap();
        assert_eq!((own.dtype(), own.shape()), (view.dtype(), view.shape()), "{name}");
        assert!(own.data() == view.data(), "{name}");
    }
}

#[test]
fn a_directory_and_a_file_hold_the_same_groups() {
    let folder = tempfile::tempdir().unwrap();
    let original = common::bf16_tensors("minilm-layer0.bf16.safetensors");
    let mut checksums = Vec::new();
    for name in ["df11", "df11.safetensors"] {
        let output = folder.path().join(name);
        let summary = compress(&output, Format::Df11);
        assert_eq!((summary.n_groups, summary.n_plain), (1, 0));
        let checkpoint = Checkpoint::open(&output).unwrap();
        let entry = &checkpoint.entries()[0];
        assert_eq!(entry.name, "encoder.layer.0");
        let names: Vec<_> = entry.matrices.iter().map(|matrix| matrix.name.as_str()).collect();
        assert_eq!(names[0], "encoder.layer.0.attention.self.query.weight");
        assert_eq!(names[5], "encoder.layer.0.output.dense.weight");
        assert_eq!(entry.matrices[5].shape.as_deref(), Some(&[384, 1536][..]));
        let (weights, checked) = checkpoint.decode_group(0).unwrap();
        assert_eq!(checked, Checked::Verified);
        assert!(bytemuck::cast_slice::<u16, u8>(&weights) == original);
        checksums.push(entry.checksum);

        assert_decompressed(&checkpoint, folder.path());
    }
    assert_eq!(checksums[0], checksums[1]);
    assert!(checksums[0].is_some());
    let left: Vec<PathBuf> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left.len(), 3, "no temporary file is left: {left:?}");
}

#[test]
fn every_format_is_written_read_and_turned_into_every_other() {
    let folder = tempfile::tempdir().unwrap();
    for format in Format::ALL {
        for name in [format.name().to_owned(), format!("{format}.safetensors")] {
            let output = folder.path().join(&name);
            let summary = compress(&output, format);
            assert_eq!((summary.n_groups, summary.n_plain), (1, 0));
            let checkpoint = Checkpoint::open(&output).unwrap();
            let entries = checkpoint.entries();
            let is_lane = format == Format::Lane;
            assert_eq!(entries.len(), if is_lane { 6 } else { 1 });
            for (idx, entry) in entries.iter().enumerate() {
                assert_eq!(entry.format, format);
                assert_eq!(checkpoint.decode_group(idx).unwrap().1, Checked::Verified);
                let group = checkpoint.group(idx);
                match format {
                    Format::Df11 => drop(group.unwrap().unwrap()),
                    _ => {
                        let reason = group.unwrap_err().to_string();
                        let word = format!("is in the format {format}, and DF11 was asked for");
                        assert!(reason.contains(&word), "{reason}");
                    }
                }
            }
            let stored: u64 = checkpoint.all_stored().unwrap().iter().map(|g| g.n_bytes()).sum();
            assert_eq!(stored, summary.compressed_bytes);
            assert_decompressed(&checkpoint, folder.path());
            for to in Format::ALL {
                let output = folder.path().join(format!("{name}-{to}.safetensors"));
                match huffman::transcode(&checkpoint, &output, to, &|_| {}) {
                    Ok(_) => {
                        let other = Checkpoint::open(&output).unwrap();
                        assert!(other.entries().iter().all(|entry| entry.format == to));
                        assert_decompressed(&other, folder.path());
                    }
                    Err(reason) => {
                        assert_eq!(to, Format::Df11, "{reason}");
                        assert!(reason.to_string().contains("then `lacuna compress`"), "{reason}");
                    }
                }
            }
        }
        let config = std::fs::read(folder.path().join(format.name()).join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        // A file of the directory is a checkpoint of its own, with what stands beside it.
        let one = folder.path().join(format.name()).join("encoder_layer_0.safetensors");
        assert_eq!(Checkpoint::open(one).unwrap().config(), Some(&config));
        match format {
            Format::Df11 => assert!(config.get("lacuna_config").is_none()),
            _ => {
                assert_eq!(config["lacuna_config"]["format"], format.name());
                assert!(config.get("dfloat11_config").is_none());
            }
        }
    }
}

#[test]
fn costs_are_what_the_encoders_make() {
    let model = huffman::Model::open(&[common::data("minilm-layer0.bf16.safetensors")]).unwrap();
    let groups = model.groups(&GroupPattern::defaults()).unwrap();
    let [group] = &groups[..] else { panic!("one layer") };
    let matrices: Vec<_> = group
        .tensors
        .iter()
        .map(|tensor| {
            let [n_rows, n_columns] = tensor.shape else { panic!("a matrix") };
            let shape = lane::LaneShape::new(*n_rows as u64, *n_columns as u64).unwrap();
            (tensor.bytes, Some(shape))
        })
        .collect();
    let costs = huffman::Costs::new(&matrices).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let bytes = Format::ALL
        .map(|format| compress(&folder.path().join(format.name()), format).compressed_bytes);
    assert_eq!([costs.df11, costs.compact, costs.lane.unwrap()], bytes);
    assert_eq!((costs.bf16, costs.n_weights()), (3_538_944, 1_769_472));
    let without: Vec<_> = matrices.iter().map(|(bytes, _)| (*bytes, None)).collect();
    assert_eq!(huffman::Costs::new(&without).unwrap().lane, None);
}

#[test]
fn lanes_need_shapes_that_others_may_not_say() {
    let bytes = std::fs::read(common::data("minilm-layer0.df11.safetensors")).unwrap();
    let checkpoint = Checkpoint::from_bytes(bytes).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let lanes = folder.path().join("lanes.safetensors");
    let reason = huffman::transcode(&checkpoint, &lanes, Format::Lane, &|_| {}).unwrap_err();
    assert!(reason.to_string().contains("has no shape of rows and columns"), "{reason}");
    let compact = folder.path().join("compact.safetensors");
    huffman::transcode(&checkpoint, &compact, Format::Compact, &|_| {}).unwrap();
    let compact = Checkpoint::open(&compact).unwrap();
    assert!(compact.decode_group(0).unwrap().0 == checkpoint.decode_group(0).unwrap().0);
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 1, "nothing is left of what failed");
}

#[test]
fn the_published_checkpoint_opens_with_its_config_and_without() {
    let with = Checkpoint::open(common::data("minilm-layer0.df11.safetensors")).unwrap();
    assert_eq!(with.entries()[0].matrices.len(), 6);
    assert_eq!(with.decode_group(0).unwrap().1, Checked::NoChecksum);
    let bytes = std::fs::read(common::data("minilm-layer0.df11.safetensors")).unwrap();
    let without = Checkpoint::from_bytes(bytes).unwrap();
    assert!(without.entries()[0].matrices.is_empty());
    assert!(without.decode_group(0).unwrap().0 == with.decode_group(0).unwrap().0);
}

#[test]
fn an_index_says_which_files_a_model_has() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let sample = common::data("minilm-layer0.bf16.safetensors");
    // The same tensors twice, as in repositories that hold a model in shards and in one file.
    std::fs::copy(&sample, file("model-00001-of-00001.safetensors")).unwrap();
    std::fs::copy(&sample, file("consolidated.safetensors")).unwrap();
    let open = || huffman::Model::open(&[folder.path().to_owned()]).map_err(|e| e.to_string());
    assert!(open().unwrap_err().contains("is in another file too"));
    let index = |file_name: &str| {
        let map = format!(r#"{{"weight_map": {{"a": "{file_name}"}}}}"#);
        std::fs::write(file("model.safetensors.index.json"), map).unwrap();
    };
    index("model-00001-of-00001.safetensors");
    let model = open().unwrap();
    assert_eq!(model.tensors().count(), 6);
    let tensor = model.tensor("encoder.layer.0.output.dense.weight").unwrap();
    assert_eq!((tensor.shape, tensor.bytes.len()), (&[384, 1536][..], 2 * 384 * 1536));
    for outside in ["../model.safetensors", "/etc/passwd", "..", ""] {
        index(outside);
        assert!(open().unwrap_err().contains("is not the name of a file"), "{outside}");
    }
    index("model-00002-of-00002.safetensors");
    assert!(open().unwrap_err().contains("open the file"));
    std::fs::write(file("model.safetensors.index.json"), "{}").unwrap();
    assert!(open().unwrap_err().contains("it has no weight_map"));
}

#[test]
fn what_is_not_a_checkpoint_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let empty = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(empty.ends_with("there is no .safetensors file in it"), "{empty}");
    std::fs::write(folder.path().join("decode.ptx"), "").unwrap();
    let old = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(old.contains("before 0.2.0"), "{old}");
    let plain = common::data("minilm-layer0.bf16.safetensors");
    let plain = Checkpoint::open(plain).unwrap_err().to_string();
    assert!(plain.contains("holds no compressed group"), "{plain}");
    let missing = Checkpoint::open(folder.path().join("nothing.safetensors")).unwrap_err();
    assert!(matches!(missing, Error::Io { action: "open the file", .. }), "{missing}");
    let garbage = Checkpoint::from_bytes(vec![0xFF; 100]).unwrap_err().to_string();
    assert!(garbage.contains("not a sound safetensors file"), "{garbage}");
}

#[test]
fn a_config_that_cannot_be_followed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = common::data("minilm-layer0.df11.safetensors");
    std::fs::copy(file, folder.path().join("model.safetensors")).unwrap();
    let config = std::fs::read_to_string(common::data("config.json")).unwrap();
    for (from, to, reason) in [
        ("\"0.5.0\"", "\"9.0.0\"", "version 9.0.0 is not one of 0.2.0, 0.3.1, 0.3.2, 0.5.0"),
        ("512", "256", "threads_per_block must be [512]"),
        ("\"bytes_per_thread\": 8", "\"bytes_per_thread\": 4", "bytes_per_thread must be 8"),
        ("encoder\\\\.", "(encoder", "pattern"),
    ] {
        assert!(config.contains(from), "{from}");
        std::fs::write(folder.path().join("config.json"), config.replace(from, to)).unwrap();
        let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    for version in ["0.2.0", "0.3.1", "0.3.2", "0.5.0"] {
        let config = config.replace("0.5.0", version);
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        Checkpoint::open(folder.path()).unwrap();
    }
}

fn small_group() -> EncodedGroup {
    let weights: Vec<u16> = (0..20_000_u32).map(|i| (120 + (i * i % 7) as u16) << 7).collect();
    huffman::encode(&[
        bytemuck::cast_slice(&weights[..9000]),
        bytemuck::cast_slice(&weights[9000..]),
    ])
    .unwrap()
}

/// The tensor, place and reason that `parse` gives after `damage`.
fn refusal(damage: impl Fn(&mut EncodedGroup)) -> (&'static str, Option<u64>, TensorReason) {
    let mut group = small_group();
    damage(&mut group);
    let error = group.as_raw("group").parse().unwrap_err();
    assert!(error.to_string().starts_with("group."), "{error}");
    (error.tensor, error.offset, error.reason)
}

#[test]
fn every_tensor_that_does_not_fit_is_named() {
    use TensorReason::{
        CodeLength, Density, Empty, FirstPosition, LastPosition, Length, Overfull, Pointer,
        Position, Rows, Split,
    };
    let group = small_group();
    let n_rows = group.luts.len() / 256 - 1;
    let n_gaps = group.gaps.len() as u64;
    let n_positions = group.output_positions.len();
    let last = n_positions - 4;
    let lengths_at = 256 * n_rows;
    let set = |bytes: &mut Vec<u8>, at: usize, value: u32| {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    };

    assert_eq!(refusal(|group| group.encoded_exponent.clear()), ("encoded_exponent", None, Empty));
    assert_eq!(refusal(|group| group.sign_mantissa.clear()), ("sign_mantissa", None, Empty));
    assert_eq!(
        refusal(|group| group.gaps.push(0)),
        ("gaps", None, Length { expected: n_gaps, got: n_gaps + 1 })
    );
    let (expected, got) = (n_positions as u64, n_positions as u64 + 4);
    assert_eq!(
        refusal(|group| group.output_positions.extend([0; 4])),
        ("output_positions", None, Length { expected, got })
    );
    assert_eq!(
        refusal(|group| group.split_positions.push(0)),
        ("split_positions", None, Length { expected: 16, got: 9 })
    );
    assert_eq!(refusal(|group| group.luts.truncate(256)), ("luts", None, Rows { got: 256 }));
    assert_eq!(
        refusal(|group| group.luts[7] = 240),
        ("luts", Some(7), Pointer { entry: 240, row: 16, n_rows })
    );
    let unused = CodeLength { exponent: 9, length: 0 };
    assert_eq!(refusal(|group| group.luts[3] = 9), ("luts", Some(3), unused));
    let long = refusal(|group| group.luts[lengths_at + 200] = 33);
    assert_eq!(long.2, CodeLength { exponent: 200, length: 33 });
    assert_eq!(
        refusal(|group| group.luts[lengths_at..lengths_at + 3].fill(1)),
        ("luts", Some(lengths_at as u64), Overfull)
    );
    assert_eq!(
        refusal(|group| set(&mut group.output_positions, 0, 1)),
        ("output_positions", Some(0), FirstPosition { got: 1 })
    );
    let beyond = Position { got: 20_001, previous: 0, n_elements: 20_000 };
    assert_eq!(
        refusal(|group| set(&mut group.output_positions, 4, 20_001)),
        ("output_positions", Some(4), beyond)
    );
    assert_eq!(
        refusal(|group| set(&mut group.output_positions, last, 19_999)),
        ("output_positions", Some(last as u64), LastPosition { got: 19_999, n_elements: 20_000 })
    );
    let dense = refusal(|group| {
        group.sign_mantissa.resize(60_000, 0);
        set(&mut group.output_positions, last, 60_000);
    });
    assert!(matches!(dense.2, Density { n_bits: 32_768, .. }), "{dense:?}");
    for split in [0_i64, -1, 20_000, i64::MAX] {
        assert_eq!(
            refusal(|group| group.split_positions = split.to_le_bytes().to_vec()),
            ("split_positions", Some(0), Split { got: split, previous: 0, n_elements: 20_000 })
        );
    }
}

#[test]
fn the_published_off_by_one_position_is_read() {
    let mut group = small_group();
    group.output_positions.truncate(group.output_positions.len() - 4);
    let parsed = group.as_raw("group").parse().unwrap();
    assert!(parsed.warnings()[0].contains("one entry short"));
    let (mut short, mut full) = (vec![0; 20_000], vec![0; 20_000]);
    huffman::decode(&parsed, &mut short).unwrap();
    let whole = small_group();
    huffman::decode(&whole.as_raw("group").parse().unwrap(), &mut full).unwrap();
    assert!(short == full);
}

/// A small file of ours, checksums and all, and its weights.
fn small_file(format: Format) -> (Vec<u8>, Vec<u16>) {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) =
        (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let weights: Vec<u16> =
        (0..500_u32).map(|i| (118 + i.trailing_zeros() as u16) << 7 | i as u16 & 0x807F).collect();
    let view = safetensors::tensor::TensorView::new(
        safetensors::Dtype::BF16,
        vec![20, 25],
        bytemuck::cast_slice(&weights),
    )
    .unwrap();
    safetensors::serialize_to_file([("lm_head.weight", view)], None, &input).unwrap();
    huffman::compress(&[input], &output, &GroupPattern::defaults(), format, &|_| {}).unwrap();
    (std::fs::read(output).unwrap(), weights)
}

/// Opens damaged bytes and decodes: whatever comes out as verified is the original.
fn assert_not_fooled(bytes: Vec<u8>, weights: &[u16]) -> bool {
    let Ok(checkpoint) = Checkpoint::from_bytes(bytes) else { return true };
    let Ok((decoded, checked)) = checkpoint.decode_group(0) else { return true };
    if checked == Checked::Verified {
        assert!(decoded == weights, "a wrong result was taken for right");
    }
    checked == Checked::NoChecksum
}

#[test]
fn no_flipped_byte_is_taken_for_right() {
    for format in Format::ALL {
        let (bytes, weights) = small_file(format);
        let n_header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for at in 0..bytes.len() {
            for mask in [0xFF, 1, 0x80] {
                let mut damaged = bytes.clone();
                damaged[at] ^= mask;
                let noticed = assert_not_fooled(damaged, &weights);
                // Past the header every byte is under a checksum.
                assert!(noticed || at < 8 + n_header, "{format}: byte {at} was not missed");
            }
        }
    }
}

/// A small file with another text in its header, of the same length.
fn with_header(format: Format, from: &str, to: &str) -> Vec<u8> {
    let (bytes, _) = small_file(format);
    let n_header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&bytes[8..8 + n_header]).unwrap();
    assert!(header.contains(from) && from.len() == to.len(), "{from} in {header}");
    [&bytes[..8], header.replace(from, to).as_bytes(), &bytes[8 + n_header..]].concat()
}

#[test]
fn headers_of_files_that_do_not_fit_are_refused_with_a_reason() {
    for (format, from, to, reason) in [
        (Format::Compact, r#"version\":1"#, r#"version\":2"#, "version 2 of the format compact"),
        (Format::Lane, r#"version\":1"#, r#"version\":2"#, "version 2 of the format lane"),
        (Format::Lane, "[20,25]", "[25,20]", "has shape [25, 20], and its lanes [20, 25]"),
        (Format::Lane, "[20,25]", "[20,26]", "has shape [20, 26] and 500 weights"),
        (Format::Lane, "lm_head.lane_low", "lm_head.lane_lox", "lm_head.lane_low is missing"),
        (Format::Compact, "lm_head.codes", "lm_head.coden", "lm_head.codes is missing"),
        (Format::Compact, "\"U16\"", "\"I16\"", "is I16 of rank 1, and must be U16 of rank 1"),
        (Format::Lane, "[2,2048]", "[2048,2]", "has rows of 2, not 2048"),
        // Of its tensors the last name stands for a group of another format.
        (
            Format::Lane,
            "lm_head.lane_palettes",
            "lm_head.granule_bits;",
            "lane_palettes is missing",
        ),
    ] {
        let refused = Checkpoint::from_bytes(with_header(format, from, to))
            .and_then(|checkpoint| checkpoint.decode_group(0).map(drop));
        let got = refused.unwrap_err().to_string();
        assert!(got.contains(reason), "{got}");
    }
}

#[test]
fn a_group_in_two_formats_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for format in [Format::Compact, Format::Lane] {
        let file = folder.path().join(format!("{format}.safetensors"));
        std::fs::write(file, small_file(format).0).unwrap();
    }
    let reason = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(reason.contains("lm_head is there as compact and as lane"), "{reason}");
    let reason = huffman::Model::open(&[folder.path().to_owned()]).unwrap_err().to_string();
    assert!(reason.contains("compressed already, as compact; `lacuna transcode`"), "{reason}");
}

/// What `parse` says of the tensors of a matrix of lanes after `damage`.
fn lane_refusal(damage: impl Fn(&mut [Vec<u8>; 6])) -> (&'static str, TensorReason) {
    let shape = lane::LaneShape::new(20, 25).unwrap();
    let matrix = lane::pack(&[0x3F80; 500], shape).unwrap();
    let header = shape.header();
    let raw = lane::LaneTensors::of("matrix", &header, &matrix);
    let mut tensors = raw.tensors().map(<[u8]>::to_vec);
    damage(&mut tensors);
    let [header, palettes, low, high, headers, escapes] = tensors.each_ref().map(Vec::as_slice);
    let raw = lane::LaneTensors { name: "matrix", header, palettes, low, high, headers, escapes };
    let error = raw.parse().unwrap_err();
    assert!(error.to_string().starts_with("matrix.lane_"), "{error}");
    (error.tensor, error.reason)
}

#[test]
fn every_tensor_of_lanes_that_does_not_fit_is_named() {
    use TensorReason::{Header, Length};
    let length = |expected, got| Length { expected, got };
    assert_eq!(lane_refusal(|t| t[0].truncate(31)), ("lane_header", length(32, 31)));
    assert_eq!(lane_refusal(|t| t[1].push(0)), ("lane_palettes", length(16, 17)));
    assert_eq!(lane_refusal(|t| t[2].truncate(2048)), ("lane_low", length(4096, 2048)));
    assert_eq!(lane_refusal(|t| t[3].clear()), ("lane_high", length(2048, 0)));
    assert_eq!(lane_refusal(|t| t[4].truncate(9)), ("lane_headers", length(16, 9)));
    assert_eq!(lane_refusal(|t| t[5].push(1)), ("lane_escapes", length(4, 1)));
    let (what, allowed) = ("the version of a matrix of lanes", "1");
    assert_eq!(lane_refusal(|t| t[0][8] = 2), ("lane_header", Header { what, value: 2, allowed }));
    let huge = lane_refusal(|t| t[0][16..32].fill(0xFF));
    assert!(matches!(huge, ("lane_header", Header { value: u64::MAX, .. })), "{huge:?}");
}

proptest! {
    #[test]
    fn no_random_damage_is_taken_for_right(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..10),
        length in any::<prop::sample::Index>(),
        truncated in any::<bool>(),
        format in prop::sample::select(&Format::ALL),
    ) {
        let (mut bytes, weights) = small_file(format);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if truncated {
            bytes.truncate(length.index(bytes.len()));
        }
        assert_not_fooled(bytes, &weights);
    }

    #[test]
    fn any_bytes_are_parsed_without_a_panic(
        codes in prop::collection::vec(any::<u8>(), 0..5000),
        sign_mantissa in prop::collection::vec(any::<u8>(), 0..5000),
        luts in prop::collection::vec(any::<u8>(), 0..1024),
        n_gaps in 0_usize..700,
        output_positions in prop::collection::vec(any::<u8>(), 0..16),
        split_positions in prop::collection::vec(any::<u8>(), 0..24),
    ) {
        let gaps = vec![0x5A; n_gaps];
        let raw = RawGroup {
            name: "group",
            encoded_exponent: &codes,
            sign_mantissa: &sign_mantissa,
            luts: &luts,
            gaps: &gaps,
            output_positions: &output_positions,
            split_positions: &split_positions,
        };
        if let Ok(group) = raw.parse() {
            let mut decoded = vec![0; sign_mantissa.len()];
            let _ = huffman::decode(&group, &mut decoded);
        }
    }
}

/// Names of groups are a file's, and those of files ours: none leads elsewhere, and no two are one.
#[test]
fn names_of_groups_are_no_paths() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let weights = common::clustered_weights(2000, 1);
    let encoded = common::encode(&weights);
    let raw = encoded.as_raw("group");
    let absolute = elsewhere.join("taken").display().to_string();
    let long = "n".repeat(3000);
    let names =
        [&absolute, "../elsewhere/taken", "a.b", "a_b", "a/b", "a:b", "a b", "model", "", &long];
    let suffixes = [
        "encoded_exponent",
        "sign_mantissa",
        "luts",
        "gaps",
        "output_positions",
        "split_positions",
    ];
    let tensors: Vec<_> = names
        .iter()
        .flat_map(|name| {
            suffixes.iter().zip(raw.tensors()).map(move |(suffix, bytes)| {
                let (dtype, shape) = match *suffix {
                    "luts" => (safetensors::Dtype::U8, vec![bytes.len() / 256, 256]),
                    "split_positions" => (safetensors::Dtype::I64, vec![bytes.len() / 8]),
                    _ => (safetensors::Dtype::U8, vec![bytes.len()]),
                };
                let view = safetensors::tensor::TensorView::new(dtype, shape, bytes).unwrap();
                (format!("{name}.{suffix}"), view)
            })
        })
        .collect();
    let bytes = safetensors::serialize(tensors, None).unwrap();
    let checkpoint = Checkpoint::from_bytes(bytes).unwrap();
    assert_eq!(checkpoint.entries().len(), names.len());
    for name in ["turned", "turned.safetensors"] {
        let output = folder.path().join(name);
        huffman::transcode(&checkpoint, &output, Format::Compact, &|_| {}).unwrap();
        let turned = Checkpoint::open(&output).unwrap();
        assert_eq!(turned.entries().len(), names.len());
        for (idx, entry) in turned.entries().iter().enumerate() {
            assert!(names.contains(&entry.name.as_str()), "{}", entry.name);
            assert_eq!(turned.decode_group(idx).unwrap(), (weights.clone(), Checked::Verified));
        }
    }
    assert!(std::fs::read_dir(&elsewhere).unwrap().next().is_none());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    // A usual name is a usual file's.
    let back = folder.path().join("back");
    compress(&back, Format::Compact);
    assert!(back.join("encoder_layer_0.safetensors").exists());
}

/// A model of these bf16 matrices of 2 rows.
fn model_of(folder: &Path, names: &[&str]) -> PathBuf {
    let weights = common::clustered_weights(64, 1);
    let view = |name: &&str| {
        let bytes = bytemuck::cast_slice(&weights);
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, vec![2, 32], bytes);
        ((*name).to_owned(), view.unwrap())
    };
    let path = folder.join("model.safetensors");
    let bytes = safetensors::serialize(names.iter().map(view), None).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn tensors_are_found_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let model = model_of(folder.path(), &["a.0.weight", "a.1.weight", "b.weight", "norm"]);
    let patterns = ["a=0,1", "b"].map(GroupPattern::parse);
    for format in [Format::Df11, Format::Compact] {
        let output = folder.path().join(format.name());
        let models = std::slice::from_ref(&model);
        huffman::compress(models, &output, &patterns, format, &|_| {}).unwrap();
        let checkpoint = Checkpoint::open(&output).unwrap();
        let matrices = checkpoint.matrices().unwrap();
        let found: Vec<_> = matrices
            .iter()
            .map(|(name, at)| (name.as_str(), at.group, at.range.clone(), at.shape.clone()))
            .collect();
        let shape = Some(vec![2, 32]);
        assert_eq!(
            found,
            [
                ("a.0.weight", 0, 0..64, shape.clone()),
                ("a.1.weight", 0, 64..128, shape.clone()),
                ("b.weight", 1, 0..64, shape),
            ]
        );
        let original = Model::open(models).unwrap();
        assert_eq!(checkpoint.plain_tensors().len(), 1);
        let (plain, original) =
            (checkpoint.plain_tensor("norm").unwrap(), original.tensor("norm").unwrap());
        assert_eq!((plain.name, plain.dtype), (original.name, original.dtype));
        assert_eq!((plain.shape, plain.bytes), (original.shape, original.bytes));
        assert!(checkpoint.plain_tensor("b.weight").is_none());
        assert!(checkpoint.plain_tensor("a.lengths").is_none());
    }
}

#[test]
fn what_would_have_two_meanings_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let refused = |names: &[&str], patterns: &[&str], format| {
        let model = model_of(folder.path(), names);
        let patterns: Vec<_> = patterns.iter().map(|text| GroupPattern::parse(text)).collect();
        let file = output.with_extension("safetensors");
        let mut reasons = [&output, &file].map(|output| {
            let result =
                huffman::compress(std::slice::from_ref(&model), output, &patterns, format, &|_| {});
            assert!(!output.exists());
            let error = result.unwrap_err().to_string();
            error.split_once(": ").unwrap().1.to_owned()
        });
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        reasons.sort();
        assert_eq!(reasons[0], reasons[1]);
        reasons[0].clone()
    };
    // A tensor that is not of a group has the name of one that is.
    let names = ["a.weight", "a.sign_mantissa"];
    for format in [Format::Df11, Format::Compact] {
        assert_eq!(
            refused(&names, &["a"], format),
            "a.sign_mantissa is not compressed, and has the name of a group's tensor"
        );
    }
    // Two groups of one name, by modules and by itself.
    let names = ["a.b.weight", "a.weight"];
    assert_eq!(refused(&names, &["a=b", "a"], Format::Compact), "a.codes would be of two groups");
    assert_eq!(
        refused(&names, &["a=b", ".*"], Format::Df11),
        "a is of the pattern .*, and readers would take it by a, which is before it; put narrower \
         patterns first"
    );
}
