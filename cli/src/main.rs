//! The command `lacuna`: compressed weights from and to bf16, verified bit for bit.

mod bench;
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
use lacuna::huffman::Format;

/// What a task ends with: an exit status, or a message for people.
type Outcome = Result<ExitCode, String>;

/// Compress, decompress, verify and inspect weights: DFloat11, lanes, compact groups.
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
        /// How weights are kept
        #[arg(long, value_enum, default_value_t = To::Df11)]
        format: To,
    },
    /// Write a compressed checkpoint in another format, without the bf16 model between
    Transcode {
        /// A compressed file or directory, of any format
        checkpoint: PathBuf,
        /// A file if it ends in .safetensors, else a new directory
        #[arg(short, long)]
        output: PathBuf,
        /// How weights are kept
        #[arg(long, value_enum)]
        format: To,
    },
    /// Decompress a checkpoint of any format to one bf16 safetensors file
    Decompress {
        /// A compressed file or directory
        checkpoint: PathBuf,
        /// The file to write
        #[arg(short, long)]
        output: PathBuf,
    },
    /// Hold every bit of a compressed checkpoint against the original; exit status 0 only if all agree
    Verify {
        /// A compressed file or directory, of any format
        checkpoint: PathBuf,
        /// The original: safetensors files, or directories of them
        #[arg(required = true)]
        originals: Vec<PathBuf>,
        /// What decodes
        #[arg(long, value_enum, default_value_t = On::Cpu)]
        on: On,
    },
    /// Show groups, ratios, code lengths, entropy beside bits spent, warnings, and what each format
    /// would take
    Inspect {
        /// A compressed file or directory, or a bf16 one
        checkpoint: PathBuf,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Time a token's pass through a model's matrices, as bf16, DF11 and lanes, beside what memory
    /// allows; without a GPU, what memory would allow
    Bench {
        /// As Llama-3.1-8B or Qwen3-32B, or a model's config.json
        model: String,
        /// Tokens at once
        #[arg(long, default_value_t = 1)]
        inputs: u64,
        /// The driver's number of the device
        #[arg(long, default_value_t = 0)]
        device: usize,
        /// What memory moves, in place of what the driver says
        #[arg(long, value_name = "GB/S")]
        bandwidth: Option<f64>,
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

/// How weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum To {
    /// DFloat11, which other readers know
    Df11,
    /// For multiplying as it lies: a little larger, never expanded
    Lane,
    /// The smallest, for lacuna alone
    Compact,
}

impl From<To> for Format {
    fn from(to: To) -> Self {
        match to {
            To::Df11 => Self::Df11,
            To::Lane => Self::Lane,
            To::Compact => Self::Compact,
        }
    }
}

/// What decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum On {
    /// The CPU decoder
    Cpu,
    /// The CUDA kernels in the SIMT executor, on the CPU
    Simt,
    /// The CUDA kernels on device 0
    Cuda,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Compress { inputs, output, group, format } => {
            convert::compress(&inputs, &output, &group, format.into())
        }
        Task::Transcode { checkpoint, output, format } => {
            convert::transcode(&checkpoint, &output, format.into())
        }
        Task::Decompress { checkpoint, output } => convert::decompress(&checkpoint, &output),
        Task::Verify { checkpoint, originals, on } => verify::run(&checkpoint, &originals, on),
        Task::Inspect { checkpoint, json } => inspect::run(&checkpoint, json),
        Task::Bench { model, inputs, device, bandwidth, json } => {
            bench::run(&bench::Options { model: &model, n_inputs: inputs, device, bandwidth, json })
        }
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
