//! What maintainers run: `cargo xtask generate` makes the committed bindings, images and manifest
//! from their sources with pinned tools, and `cargo xtask generate --check` fails where they
//! differ. `cargo xtask counters` and `cargo xtask planted` print what the SIMT executor finds,
//! `cargo xtask sass` what the kernels are in machine code, and `cargo xtask ledger` what is proven
//! and measured on GPUs.

mod bindings;
mod bundle;
mod images;
mod instrument;
mod ledger;
mod rehearsal;
mod sass;
mod wheels;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const HELP: &str = "\
usage: cargo xtask generate [--check] | counters [--json] [--only ROOM] | planted
       | bundle [FOLDER] | rehearse
       | ledger [--json] [--only ROOM] | ledger [--add FOLDER] [--readme] [--plot] | ledger --check
       | sass [--json] [--only ROOM] [--check]

generate          make src/bindings.rs, ptx/*.ptx and ptx/MANIFEST from csrc/, with pinned tools
                  (libclang and NVRTC wheels, installed into the target directory by pip)
generate --check  change nothing; fail where a committed file differs, and name the command to run
counters          bytes, sectors, bank conflicts and barriers of each kernel, by source line, beside the
                  least bytes any kernel could move; --json prints rows; --only takes one room
planted           the table of planted defects and what the SIMT executor says of each
bundle            test and bench programs, data and a script `run`, for a machine with a GPU and without
                  Rust; into the target directory unless a folder is named
rehearse          the bundle and its script on a driver whose kernels run in the SIMT executor
ledger            what is proven and measured on GPUs, by kernel, shape and device; --json prints rows;
                  --only takes one room
ledger --add F    take the result files (*.json) of the folder F into benches/ledger/
ledger --readme   write the README's table from it; --plot: benches/ledger/percent.svg
ledger --check    change nothing; fail where README or picture differ, and name the command to run
sass              registers, spills, stack and shared memory of each kernel on each target, and the
                  instructions of its inner loops by element, from ptxas and nvdisasm wheels
sass --check      the same; fail where a kernel is over its budget in xtask/budgets.toml
";

/// What stops a task, for people to read.
type Result<T, E = String> = std::result::Result<T, E>;

/// A committed file and what it should hold.
struct Generated {
    path: &'static str,
    content: String,
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["generate"] => generate().and_then(|files| write(&files)),
        ["generate", "--check"] => generate().and_then(|files| check(&files)),
        ["bundle"] => bundle::make(&target().join("lacuna-bundle")),
        ["bundle", folder] if !folder.starts_with('-') => bundle::make(Path::new(folder)),
        ["rehearse"] => rehearsal::run(),
        ["planted"] => instrument::planted(),
        ["counters"] => instrument::counters(false, None),
        ["counters", "--json"] => instrument::counters(true, None),
        ["counters", "--only", room] => instrument::counters(false, Some(room)),
        ["counters", "--json", "--only", room] | ["counters", "--only", room, "--json"] => {
            instrument::counters(true, Some(room))
        }
        ["ledger", ref rest @ ..] => ledger::run(rest),
        ["sass", ref options @ ..] => match sass::Options::parse(options) {
            Some(options) => sass::run(&options),
            None => Err(format!("unknown options: {}\n\n{HELP}", options.join(" "))),
        },
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        _ => Err(format!("unknown task: {}\n\n{HELP}", arguments.join(" "))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn generate() -> Result<Vec<Generated>> {
    let mut files = vec![bindings::generate()?];
    files.extend(images::generate()?);
    Ok(files)
}

fn write(files: &[Generated]) -> Result<()> {
    for file in files {
        let path = root().join(file.path);
        std::fs::write(&path, &file.content).map_err(|error| format!("{}: {error}", file.path))?;
        println!("wrote {}", file.path);
    }
    Ok(())
}

fn check(files: &[Generated]) -> Result<()> {
    let mut stale = Vec::new();
    for file in files {
        let committed = std::fs::read_to_string(root().join(file.path)).unwrap_or_default();
        let state = if committed == file.content { "fresh" } else { "stale" };
        println!("{state} {}", file.path);
        if committed != file.content {
            stale.push(file.path);
        }
    }
    let extra = images::strangers(files)?;
    if stale.is_empty() && extra.is_empty() {
        return Ok(());
    }
    Err(format!(
        "differs from what its sources give: {}; run `cargo xtask generate` and commit the result",
        [stale, extra.iter().map(String::as_str).collect()].concat().join(", ")
    ))
}

/// The repository.
fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Where cargo builds.
fn target() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    root().join(target)
}

/// Where tools are kept: beside whatever else cargo builds.
fn tools() -> PathBuf {
    target().join("xtask-wheels")
}
