//! The command `lacuna`: DFloat11 weights from and to bf16, verified bit for bit.

mod convert;
mod demo;
mod doctor;
mod inspect;
mod interrupt;
mod report;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// What a task ends with: an exit status, or a message for people.
type Outcome = Result<ExitCode, String>;

/// Compress, decompress, verify and inspect DFloat11 weights.
#[derive(Debug, Parser)]
#[command(name = "lacuna", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Compress bf16 safetensors: a file, shards, or a directory of them
    Compress {
        /// Safetensors files, or directories of them
        #[arg(required = true)]
        inputs: Vec<PathBuf>,
        /// A file if it ends in .safetensors, else a new directory
        #[arg(short, long)]
        output: PathBuf,
        /// A group: REGEX of its module path = its modules, comma-separated; may be repeated, and
        /// replaces the built-in patterns (Llama, Qwen, Gemma, Mistral, BERT)
        #[arg(long, value_name = "REGEX[=MODULE,...]")]
        group: Vec<String>,
    },
    /// Decompress a DF11 checkpoint to one bf16 safetensors file
    Decompress {
        /// A DF11 file or directory
        checkpoint: PathBuf,
        /// The file to write
        #[arg(short, long)]
        output: PathBuf,
    },
    /// Hold every bit of a DF11 checkpoint against the original; exit status 0 only if all agree
    Verify {
        /// A DF11 file or directory
        checkpoint: PathBuf,
        /// The original: safetensors files, or directories of them
        #[arg(required = true)]
        originals: Vec<PathBuf>,
        /// What decodes
        #[arg(long, value_enum, default_value_t = On::Cpu)]
        on: On,
    },
    /// Show groups, ratios, code lengths, entropy beside bits spent, and warnings
    Inspect {
        /// A DF11 file or directory
        checkpoint: PathBuf,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show the driver, the devices, the images that would load, and what is missing
    Doctor {
        /// For programs
        #[arg(long)]
        json: bool,
        /// Exit with status 3 where no device runs the kernels
        #[arg(long)]
        require_gpu: bool,
    },
    /// Compress, decompress and verify sample weights, and say so with sizes and speed
    Demo {
        /// bf16 safetensors
        #[arg(default_value = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/data/df11/minilm-layer0.bf16.safetensors"
        ), hide_default_value = true)]
        weights: PathBuf,
    },
}

/// What decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum On {
    /// The CPU decoder
    Cpu,
    /// The CUDA kernel in the SIMT executor, on the CPU
    Simt,
    /// The CUDA kernel on device 0
    Cuda,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Compress { inputs, output, group } => convert::compress(&inputs, &output, &group),
        Task::Decompress { checkpoint, output } => convert::decompress(&checkpoint, &output),
        Task::Verify { checkpoint, originals, on } => verify::run(&checkpoint, &originals, on),
        Task::Inspect { checkpoint, json } => inspect::run(&checkpoint, json),
        Task::Doctor { json, require_gpu } => doctor::run(json, require_gpu),
        Task::Demo { weights } => demo::run(&weights),
    };
    match outcome {
        Ok(status) => status,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
