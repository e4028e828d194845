//! Checkpoints on disk, which stay, and conversions, whose files do not.

use std::path::Path;

use crate::bench::Bench;
use crate::huffman::{bytes_of, weights};
use crate::value::{Value, fields};

fn path_of(path: &Path) -> Vec<u8> {
    path.to_str().expect("UTF-8").as_bytes().to_vec()
}

/// Two matrices and a vector, with names of the defaults.
fn write_model(path: &Path) {
    let matrices = weights(24 * 64 + 8 * 16);
    let header = r#"{"lm_head.weight":{"dtype":"BF16","shape":[24,64],"data_offsets":[0,3072]},
        "model.embed_tokens.weight":{"dtype":"BF16","shape":[8,16],"data_offsets":[3072,3328]},
        "model.norm.weight":{"dtype":"F32","shape":[2],"data_offsets":[3328,3336]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(bytemuck::cast_slice(&matrices));
    file.extend_from_slice(bytemuck::cast_slice(&[1.5_f32, -2.0]));
    std::fs::write(path, file).expect("a model");
}

pub(crate) fn cases(bench: &mut Bench) {
    // Of the process, which never ends but by the fuzzer's own exit.
    let root = tempfile::Builder::new().prefix("lacuna-capi-").tempdir().expect("a folder").keep();
    let model = root.join("model.safetensors");
    write_model(&model);
    let written = root.join("written");
    std::fs::create_dir(&written).expect("a folder");
    let output = Value::Text(path_of(&written.join("output")));
    for format in 0..3_u64 {
        let options = fields! { format: format };
        let inputs = Value::Texts(vec![path_of(&model)]);
        let values = fields! { inputs: inputs.clone(), output: output.clone(), options: options };
        let compress = bench.call("lacuna_compress", values.clone());
        bench.writes(compress, &written);
        let kept = root.join(format!("{format}"));
        let once =
            bench.call("lacuna_compress", values.with("output", Value::Text(path_of(&kept))));
        bench.told_by(once);
        bench.forget(once);
        let path = Value::Text(path_of(&kept));
        let checkpoint =
            Value::Handle(bench.make("lacuna_checkpoint_open", fields! { path: path }));
        for name in ["lacuna_transcode", "lacuna_decompress"] {
            let to = if name == "lacuna_transcode" { 1 + u64::from(format == 1) } else { 0 };
            let options = fields! { format: to };
            let values = fields! { checkpoint: checkpoint.clone(), output: output.clone(), options: options };
            let case = bench.call(name, values);
            bench.writes(case, &written);
        }
        let stored =
            bench.make("lacuna_checkpoint_stored", fields! { checkpoint: checkpoint.clone() });
        // Of lanes there is nothing to be decoded.
        if format != 2 {
            let groups = Value::Handles(vec![stored; 2]);
            bench.make("lacuna_weights_upload_stored", fields! { groups: groups });
        }
        let of = ["lacuna_stored_df11", "lacuna_stored_compact", "lacuna_stored_lane"];
        bench.call(of[format as usize], fields! { stored: Value::Handle(stored) });
        let n =
            crate::bench::told("lacuna_stored_describe", &[stored]).expect("facts")["n_elements"];
        let output = Value::Room(2 * n as usize);
        bench.call(
            "lacuna_stored_decode",
            fields! { stored: Value::Handle(stored), output: output },
        );
    }
    let weights = bytes_of(&weights(24 * 64));
    bench.call("lacuna_stored_verify", fields! { weights: weights });
}
