//! The command as a person at a prompt meets it: what it prints, what it leaves, how it exits.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn data(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "tests", "data", "df11", file].iter().collect()
}

fn lacuna(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lacuna"))
        .args(arguments)
        .current_dir(folder)
        // A real driver of this machine would print other lines.
        .env("LD_LIBRARY_PATH", folder)
        .output()
        .unwrap()
}

/// Exit status and both streams, with speeds and the temporary folder made the same.
fn show(folder: &Path, output: &Output) -> String {
    let text = format!(
        "status {}\n{}{}",
        output.status.code().unwrap(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let text = text.replace(&folder.display().to_string(), "[folder]");
    text.lines().map(|line| mask_speed(line) + "\n").collect()
}

fn mask_speed(line: &str) -> String {
    let Some(end) = line.find("/s of bf16") else { return line.to_owned() };
    let start = line[..end].rfind(" at ").map_or(0, |at| at + 4);
    format!("{}[speed]{}", &line[..start], &line[end + 2..])
}

fn folder_without_a_driver() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["libcuda.so.1", "libcuda.so"] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    std::fs::copy(data("minilm-layer0.bf16.safetensors"), folder.path().join("model.safetensors"))
        .unwrap();
    folder
}

#[test]
fn a_model_is_compressed_verified_and_brought_back() {
    let folder = folder_without_a_driver();
    let run = |arguments: &[&str]| show(folder.path(), &lacuna(folder.path(), arguments));
    insta::assert_snapshot!("compress", run(&["compress", "model.safetensors", "-o", "df11"]));
    insta::assert_snapshot!("verify", run(&["verify", "df11", "model.safetensors"]));
    insta::assert_snapshot!(
        "verify_simt",
        run(&["verify", "df11", "model.safetensors", "--on", "simt"])
    );
    insta::assert_snapshot!("decompress", run(&["decompress", "df11", "-o", "back.safetensors"]));
    insta::assert_snapshot!("inspect", run(&["inspect", "df11"]));
    let tensors = |file: &str| sorted_tensors(&folder.path().join(file));
    assert!(tensors("back.safetensors") == tensors("model.safetensors"));
}

#[test]
fn other_formats_are_verified_and_brought_back_too() {
    let folder = folder_without_a_driver();
    let run = |arguments: &[&str]| show(folder.path(), &lacuna(folder.path(), arguments));
    let original = sorted_tensors(&folder.path().join("model.safetensors"));
    for format in ["lane", "compact"] {
        let compress = ["compress", "model.safetensors", "-o", format, "--format", format];
        insta::assert_snapshot!(format!("compress_{format}"), run(&compress));
        for on in ["cpu", "simt"] {
            let verify = run(&["verify", format, "model.safetensors", "--on", on]);
            insta::assert_snapshot!(format!("verify_{format}_{on}"), verify);
        }
        let back = format!("{format}-back.safetensors");
        run(&["decompress", format, "-o", &back]);
        assert!(sorted_tensors(&folder.path().join(back)) == original);
        insta::assert_snapshot!(format!("inspect_{format}"), run(&["inspect", format]));
    }
    let transcode = ["transcode", "compact", "--format", "lane", "-o", "lane.safetensors"];
    insta::assert_snapshot!("transcode", run(&transcode));
    assert!(run(&["verify", "lane.safetensors", "model.safetensors"]).starts_with("status 0"));
    insta::assert_snapshot!(
        "transcode_df11",
        run(&["transcode", "lane", "--format", "df11", "-o", "df11"])
    );
    insta::assert_snapshot!("inspect_bf16", run(&["inspect", "model.safetensors"]));
}

fn sorted_tensors(file: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = std::fs::read(file).unwrap();
    let parsed = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> =
        parsed.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect();
    tensors.sort();
    tensors
}

#[test]
fn a_difference_is_named_and_fails() {
    let folder = folder_without_a_driver();
    let model = folder.path().join("model.safetensors");
    lacuna(folder.path(), &["compress", "model.safetensors", "-o", "df11"]);
    let mut bytes = std::fs::read(&model).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 0x80;
    std::fs::write(&model, bytes).unwrap();
    let output = lacuna(folder.path(), &["verify", "df11", "model.safetensors"]);
    insta::assert_snapshot!("difference", show(folder.path(), &output));
}

#[test]
fn tensors_that_are_not_compressed_are_compared_too() {
    let folder = tempfile::tempdir().unwrap();
    let model = |norm: u16, extra: &str| {
        let header = format!(
            r#"{{"lm_head.weight":{{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}},"norm.weight":{{"dtype":"BF16","shape":[1],"data_offsets":[8,10]}}{extra}}}"#
        );
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend([0x3F80, 0xBF80, 0, 0x3F00, norm].into_iter().flat_map(u16::to_le_bytes));
        std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    };
    let run = |arguments: &[&str]| show(folder.path(), &lacuna(folder.path(), arguments));
    model(0x3F80, "");
    run(&["compress", "model.safetensors", "-o", "df11"]);
    insta::assert_snapshot!("plain_same", run(&["verify", "df11", "model.safetensors"]));
    let empty = r#","bias":{"dtype":"F32","shape":[0],"data_offsets":[10,10]}"#;
    model(0x3F81, empty);
    insta::assert_snapshot!("plain_differs", run(&["verify", "df11", "model.safetensors"]));
}

#[test]
fn errors_say_what_where_why_and_what_to_do() {
    let folder = folder_without_a_driver();
    let run = |arguments: &[&str]| show(folder.path(), &lacuna(folder.path(), arguments));
    insta::assert_snapshot!("no_such_file", run(&["inspect", "nothing"]));
    insta::assert_snapshot!(
        "not_compressed",
        run(&["verify", "model.safetensors", "model.safetensors"])
    );
    insta::assert_snapshot!("not_safetensors", run(&["compress", "libcuda.so", "-o", "df11"]));
    insta::assert_snapshot!(
        "no_group",
        run(&["compress", "model.safetensors", "-o", "df11", "--group", "x"])
    );
    lacuna(folder.path(), &["compress", "model.safetensors", "-o", "df11"]);
    insta::assert_snapshot!("exists", run(&["compress", "model.safetensors", "-o", "df11"]));
    insta::assert_snapshot!(
        "no_cuda",
        run(&["verify", "df11", "model.safetensors", "--on", "cuda"])
    );
    assert_eq!(lacuna(folder.path(), &["frobnicate"]).status.code(), Some(2));
}

#[test]
fn the_doctor_says_what_works_without_a_gpu() {
    let folder = folder_without_a_driver();
    let output = lacuna(folder.path(), &["doctor"]);
    insta::assert_snapshot!("doctor", show(folder.path(), &output));
    let required = lacuna(folder.path(), &["doctor", "--require-gpu"]);
    assert_eq!(required.status.code(), Some(3));
    assert_eq!(required.stdout, output.stdout);
    let output = lacuna(folder.path(), &["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["driver"]["found"], false);
    assert_eq!(report["images"][0]["room"], "huffman");
}

#[test]
fn inspect_is_for_programs_too() {
    let folder = folder_without_a_driver();
    let file = data("minilm-layer0.df11.safetensors");
    let output = lacuna(folder.path(), &["inspect", "--json", file.to_str().unwrap()]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let group = &report["groups"][0];
    assert_eq!(group["elements"], 1_769_472);
    assert_eq!(group["code_bytes"], 601_497);
    assert_eq!(group["longest_code_bits"], 22);
    assert_eq!(group["checksum"], false);
}

#[test]
fn bench_says_what_memory_would_allow_where_there_is_no_gpu() {
    let folder = folder_without_a_driver();
    let run = |arguments: &[&str]| show(folder.path(), &lacuna(folder.path(), arguments));
    insta::assert_snapshot!("bench", run(&["bench", "llama-3.1-8b"]));
    let wrong = ["bench", "x", "--inputs", "65"];
    assert!(run(&wrong).contains("--inputs 65: 1 to 64"));
    assert!(run(&["bench", "qwen3-8b", "--bandwidth=-1"]).contains("more than 0"));
    insta::assert_snapshot!("bench_unknown", run(&["bench", "gpt-9"]));
    let json = ["bench", "qwen3-32b", "--json", "--bandwidth", "3350"];
    let report: serde_json::Value =
        serde_json::from_slice(&lacuna(folder.path(), &json).stdout).unwrap();
    assert_eq!(report["bytes_per_second"], 3.35e12);
    let ways = report["ways"].as_array().unwrap();
    assert_eq!(ways[0]["bytes"].as_u64().unwrap(), 2 * (64 * 487_587_840 + 151_936 * 5120));
    assert!(ways.iter().all(|way| way["seconds"].is_null()));
}

/// bf16 safetensors of one matrix, large enough that its conversion takes a while.
#[cfg(unix)]
fn large_model(path: &Path) {
    let n_rows = 64 * 1024;
    let mut file = Vec::new();
    let header = format!(
        r#"{{"lm_head.weight":{{"dtype":"BF16","shape":[{n_rows},1024],"data_offsets":[0,{}]}}}}"#,
        n_rows * 2048
    );
    file.extend((header.len() as u64).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend((0..n_rows * 1024_u32).flat_map(|i| (0x3C00 + (i % 509) as u16).to_le_bytes()));
    std::fs::write(path, file).unwrap();
}

#[test]
#[cfg(unix)]
fn an_interrupt_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    large_model(&folder.path().join("model.safetensors"));
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(folder.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    };
    let mut child = Command::new(env!("CARGO_BIN_EXE_lacuna"))
        .args(["compress", "model.safetensors", "-o", "df11"])
        .current_dir(folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !names().iter().any(|name| name.starts_with(".lacuna-")) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be interrupted");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(names(), ["model.safetensors"]);
}
