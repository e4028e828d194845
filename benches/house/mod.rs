//! What the benches of every room share. A room's bench is one program: its CPU side by criterion, and
//! its kernels, which this measures and checks on a GPU, or checks in the SIMT executor.
//!
//! ```text
//! cargo bench --bench ROOM                         the CPU side, by criterion
//! cargo bench --bench ROOM -- kernels list         every kernel and shape, as JSON lines
//! cargo bench --bench ROOM -- kernels count        what each moves, in the SIMT executor, within budgets
//! cargo bench --bench ROOM -- kernels check        bits, graph replays, 20 runs, other grids and batches
//! cargo bench --bench ROOM -- kernels once KERNEL  one launch, for a sanitizer to watch
//! cargo bench --bench ROOM -- kernels bench        times, beside a copy of the same bytes and peers
//! cargo bench --bench ROOM -- kernels calls        writes what each calls of the driver, by a fake one, to tests/driver/calls
//! ```
//! `--json FILE` writes the rows that `cargo xtask ledger --add` reads; `--until SECONDS` starts no
//! row later than that; `--only TEXT` takes the rows whose kernel and shape hold it.
#![allow(dead_code, reason = "each bench uses its part")]

pub(crate) mod cache;
mod calls;
pub(crate) mod case;
mod check;
mod count;
pub(crate) mod gpu;
mod measure;
mod report;
mod sanitizer;
mod stale;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use case::Case;

/// The folders of golden data: `LACUNA_DATA`, where the repository is not at hand.
pub(crate) fn data_folder() -> PathBuf {
    let own = || [env!("CARGO_MANIFEST_DIR"), "tests", "data"].iter().collect();
    std::env::var_os("LACUNA_DATA").map_or_else(own, PathBuf::from)
}

/// Runs what the command line asks for.
pub(crate) fn run(room: &'static str, cases: Vec<Box<dyn Case>>, cpu: impl FnOnce()) -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).filter(|a| *a != "--bench").collect();
    let Some((&"kernels", words)) = words.split_first() else {
        cpu();
        // Under `cargo test`: no bench rots.
        let is_test = words.len() == arguments.len();
        if !is_test {
            return ExitCode::SUCCESS;
        }
        let are_as_written = calls::are_as_written(room);
        let is_never_stale = stale::is_never_left(room, &cases);
        let checked = check::in_executor(&cases);
        return if are_as_written && is_never_stale { checked } else { ExitCode::FAILURE };
    };
    let options = match Options::parse(words) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::from(2);
        }
    };
    let cases: Vec<_> = cases.into_iter().filter(|case| options.takes(&**case)).collect();
    if options.task == Task::List {
        for case in &cases {
            println!("{}", report::list_line(room, &**case));
        }
        return ExitCode::SUCCESS;
    }
    if options.task == Task::Count {
        return count::in_executor(&cases, &options);
    }
    if options.task == Task::Calls {
        return calls::write(room, &cases);
    }
    let gpu = match gpu::Gpu::open() {
        Ok(gpu) => gpu,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(NO_GPU);
        }
    };
    if options.task == Task::Once {
        return check::once(&cases, &gpu);
    }
    let mut report = report::Report::new(room, &options, &gpu);
    match options.task {
        Task::Bench => measure::on_gpu(&cases, &gpu, &mut report),
        _ => check::on_gpu(&cases, &gpu, &mut report),
    }
    report.finish()
}

/// Nothing ran, since there is no GPU that could: its reason was printed.
const NO_GPU: u8 = 3;

/// What is asked of the kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    List,
    Count,
    Check,
    Once,
    Bench,
    Calls,
}

/// The command line.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) task: Task,
    pub(crate) json: Option<PathBuf>,
    only: Option<String>,
    deadline: Option<Instant>,
}

impl Options {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let mut words = words.iter().copied();
        let mut only = None;
        let task = match words.next() {
            Some("list") => Task::List,
            Some("count") => Task::Count,
            Some("check") => Task::Check,
            Some("once") => {
                only = Some(words.next().ok_or("once which kernel?")?.to_owned());
                Task::Once
            }
            Some("bench") => Task::Bench,
            Some("calls") => Task::Calls,
            other => {
                return Err(format!(
                    "kernels list, count, check, once, bench or calls, and not {other:?}"
                ));
            }
        };
        let mut options = Self { task, json: None, only, deadline: None };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} what?"));
            match word {
                "--json" => options.json = Some(value()?.into()),
                "--only" => options.only = Some(value()?.to_owned()),
                "--until" => {
                    let text = value()?;
                    let seconds = text.parse().map_err(|_| format!("--until {text}"))?;
                    options.deadline = Some(Instant::now() + Duration::from_secs(seconds));
                }
                _ => return Err(format!("unknown: {word}")),
            }
        }
        Ok(options)
    }

    fn takes(&self, case: &dyn Case) -> bool {
        let name = format!("{}, {}", case.kernel(), case.shape());
        self.only.as_ref().is_none_or(|part| name.contains(part))
    }

    /// Why no further row may start.
    pub(crate) fn is_late(&self) -> Option<String> {
        let is_over = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        is_over.then(|| "left out: the time was over".to_owned())
    }
}
