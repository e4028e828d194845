//! What maintainers run: `cargo xtask --help` names the tasks.

#[cfg(feature = "accuracy")]
mod accuracy;
mod bindings;
mod bundle;
mod capi;
mod header;
mod images;
mod instrument;
mod ledger;
mod package;
mod python;
mod rehearsal;
mod sass;
mod wheels;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What maintainers run
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Make src/bindings.rs, ptx/*.ptx and ptx/MANIFEST from csrc/, and include/lacuna.h and the
    /// Python package's calls from src/capi/, with pinned tools (cbindgen; libclang and NVRTC wheels, installed into the target directory by pip)
    Generate {
        /// Change nothing; fail where a committed file differs, and name the command to run
        #[arg(long)]
        check: bool,
        /// Bindings, header or Python alone, by a part of the path
        #[arg(long, value_name = "PART")]
        only: Option<String>,
    },
    /// Build the C library, shared and static, and run the C examples on it, in the SIMT executor
    Capi(capi::Options),
    /// Build the Python package with the executor, and run its tests and the check of its types
    Python,
    /// Print bytes, sectors, bank conflicts and barriers of each kernel, by source line, beside the
    /// least bytes any kernel could move
    Counters {
        /// Rows, for programs
        #[arg(long)]
        json: bool,
        /// One room
        #[arg(long, value_name = "ROOM")]
        only: Option<String>,
    },
    /// Write what calls of the driver each kernel's launches make, and what comes of calls that fail, as a fake driver
    /// records them: tests/driver/{calls,snapshots}. `cargo test` holds them
    Calls,
    /// Print the table of planted defects and what the SIMT executor says of each
    Planted,
    /// Print registers, spills, stack and shared memory of each kernel on each target, and the
    /// instructions of its inner loops by element, from ptxas and nvdisasm wheels
    Sass(sass::Options),
    /// Make a folder of test and bench programs, data and a script `run`, for a machine with a GPU and
    /// without Rust
    Bundle {
        /// Where; else in the target directory
        folder: Option<PathBuf>,
    },
    /// Run the bundle and its script on a driver whose kernels run in the SIMT executor
    Rehearse,
    /// Print what is proven and measured on GPUs, by kernel, shape and device
    Ledger(ledger::Options),
    /// Print the errors of KV cache formats, on synthetic rows and on a trained model's
    #[cfg(feature = "accuracy")]
    Accuracy(accuracy::Options),
}

/// What stops a task, for people to read.
type Result<T, E = String> = std::result::Result<T, E>;

/// A committed file and what it should hold.
struct Generated {
    path: &'static str,
    content: String,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Generate { check: is_check, only } => {
            generate(only.as_deref()).and_then(|files| match (is_check, only) {
                (false, _) => write(&files),
                (true, None) => check(&files, &images::strangers(&files)?),
                (true, Some(_)) => check(&files, &[]),
            })
        }
        Task::Capi(options) => capi::run(&options),
        Task::Python => package::run(),
        Task::Counters { json, only } => instrument::counters(json, only.as_deref()),
        Task::Calls => instrument::calls(),
        Task::Planted => instrument::planted(),
        Task::Sass(options) => sass::run(&options),
        Task::Bundle { folder } => {
            bundle::make(&folder.unwrap_or_else(|| target().join("lacuna-bundle")))
        }
        Task::Rehearse => rehearsal::run(),
        Task::Ledger(options) => ledger::run(&options),
        #[cfg(feature = "accuracy")]
        Task::Accuracy(options) => accuracy::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// All generated files, or those whose path has `only` in it.
fn generate(only: Option<&str>) -> Result<Vec<Generated>> {
    let is_asked = |path: &str| only.is_none_or(|only| path.contains(only));
    let mut files = Vec::new();
    if is_asked(bindings::PATH) {
        files.push(bindings::generate()?);
    }
    if is_asked(header::PATH) {
        files.push(header::generate()?);
    }
    if python::PATHS.into_iter().any(is_asked) {
        files.extend(python::generate()?);
    }
    if only.is_none() {
        files.extend(images::generate()?);
    }
    if files.is_empty() {
        let paths = [&[bindings::PATH, header::PATH][..], &python::PATHS].concat().join(", ");
        return Err(format!("--only takes a part of one of {paths}; images are made together"));
    }
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

/// Fails where committed files differ from what they should hold, or there are `extra` ones.
fn check(files: &[Generated], extra: &[String]) -> Result<()> {
    let mut stale = Vec::new();
    for file in files {
        let committed = std::fs::read_to_string(root().join(file.path)).unwrap_or_default();
        let state = if committed == file.content { "fresh" } else { "stale" };
        println!("{state} {}", file.path);
        if committed != file.content {
            stale.push(file.path);
        }
    }
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
