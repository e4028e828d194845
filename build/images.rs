//! The committed images, as a table in the program; or fresh ones, where the user names an nvcc.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const NVCC: &str = "LACUNA_NVCC";

/// A row of `ptx/MANIFEST`.
struct Row {
    room: String,
    image: PathBuf,
    source: String,
    target: String,
    flags: Vec<String>,
    entries: Vec<String>,
}

pub(crate) fn embed() {
    println!("cargo::rerun-if-changed=ptx");
    println!("cargo::rerun-if-env-changed={NVCC}");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let nvcc = std::env::var(NVCC).ok().filter(|value| !value.is_empty() && value != "0");

    let mut table = String::from("pub(crate) static IMAGES: &[Image] = &[\n");
    for row in read_manifest() {
        let image = match &nvcc {
            Some(nvcc) => compile(nvcc, &row, &out),
            None => Path::new(&env("CARGO_MANIFEST_DIR")).join(&row.image),
        };
        let ptx = std::fs::read_to_string(&image)
            .unwrap_or_else(|error| panic!("{}: {error}", image.display()));
        let _ = writeln!(
            table,
            "Image {{ room: {:?}, target: {:?}, ptx_version: {:?}, entries: &{:?}, text: include_str!({:?}) }},",
            row.room,
            row.target,
            ptx_version(&ptx).unwrap_or_else(|| panic!("{}: no .version", image.display())),
            row.entries,
            image,
        );
    }
    table.push_str("];\n");
    let path = out.join("images.rs");
    std::fs::write(&path, table).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn read_manifest() -> Vec<Row> {
    let text = std::fs::read_to_string("ptx/MANIFEST")
        .unwrap_or_else(|error| panic!("ptx/MANIFEST: {error}"));
    text.lines().filter(|line| !line.starts_with('#')).map(parse_row).collect()
}

fn parse_row(line: &str) -> Row {
    let fields: Vec<_> = line.split(' ').collect();
    let [room, image, source, target, _toolkit, flags, entries, _, _] = fields[..] else {
        panic!("ptx/MANIFEST: not nine fields: {line}");
    };
    let list = |field: &str| field.split(',').map(str::to_owned).collect();
    Row {
        room: room.to_owned(),
        image: image.into(),
        source: source.to_owned(),
        target: target.to_owned(),
        flags: list(flags),
        entries: list(entries),
    }
}

/// `.version 8.0` → (8, 0).
fn ptx_version(ptx: &str) -> Option<(u32, u32)> {
    let version = ptx.lines().find_map(|line| line.strip_prefix(".version "))?;
    let (major, minor) = version.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn compile(nvcc: &str, row: &Row, out: &Path) -> PathBuf {
    println!("cargo::rerun-if-changed=csrc");
    let nvcc = if nvcc == "1" { "nvcc" } else { nvcc };
    let image = out.join(row.image.file_name().expect("an image is a file"));
    let status = Command::new(nvcc)
        .args(["-ptx", &format!("-arch={}", row.target)])
        // NVRTC's flag; nvcc compiles every function for the device that says so.
        .args(row.flags.iter().filter(|flag| *flag != "-default-device"))
        .arg("-o")
        .arg(&image)
        .arg(&row.source)
        .status()
        .unwrap_or_else(|error| {
            panic!("{NVCC} asks for fresh images, and {nvcc} does not run: {error}; unset it to use the committed ones")
        });
    assert!(status.success(), "{nvcc} could not compile {}", row.source);
    image
}
