//! What kernels move, beside the least that any kernel could, and the budgets that hold them to it.
//!
//! The figures are of the SIMT executor, and the same on every machine: 32-byte sectors of warp requests,
//! as if no cache served two of them at once.

use std::process::ExitCode;

use lacuna::Queue;
use lacuna::simt::{Checks, Config, Counters, Recorder, Space};
use serde_json::{Value, json};

use super::Options;
use super::case::{Budget, Case};

/// A kernel at a shape: one launch, or the few that it takes.
struct Row {
    kernel: &'static str,
    shape: String,
    counters: Counters,
    least_bytes: u64,
}

/// Counts every small case, prints the rows, and fails where one is over its budget.
pub(crate) fn in_executor(cases: &[Box<dyn Case>], options: &Options) -> ExitCode {
    let mut rows = Vec::new();
    let mut n_over = 0;
    for case in cases.iter().filter(|case| case.is_small()) {
        let row = match Row::count(&**case) {
            Ok(row) => row,
            Err(error) => {
                println!("{}, {}: {error}", case.kernel(), case.shape());
                n_over += 1;
                continue;
            }
        };
        row.print();
        for over in row.compare(&case.budget()) {
            println!("  OVER ITS BUDGET: {over}");
            n_over += 1;
        }
        rows.push(row.to_json());
    }
    if let Some(path) = &options.json
        && let Err(error) = std::fs::write(path, format!("{:#}\n", Value::Array(rows)))
    {
        eprintln!("error: {}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    if n_over == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What of a case is over its budget.
pub(crate) fn judge(case: &dyn Case) -> lacuna::Result<Vec<String>> {
    Ok(Row::count(case)?.compare(&case.budget()))
}

/// What two launches cost together.
fn add(one: Counters, other: Counters) -> Counters {
    Counters {
        kernel: other.kernel,
        n_blocks: one.n_blocks + other.n_blocks,
        n_barriers: one.n_barriers + other.n_barriers,
        n_collectives: one.n_collectives + other.n_collectives,
        n_atomics: one.n_atomics + other.n_atomics,
        lines: [one.lines, other.lines].concat(),
    }
}

impl Row {
    fn count(case: &dyn Case) -> lacuna::Result<Self> {
        let recorder = Recorder::default();
        let queue = Queue::simt(Config {
            recorder: Some(recorder.clone()),
            checks: Checks { settled: false, ..Checks::ALL },
            ..Config::default()
        });
        let problem = case.prepare(&queue);
        problem.place(&queue)?.launch(&queue)?;
        let launches = recorder.take();
        let counters = launches.into_iter().reduce(add).expect("a launch");
        Ok(Self {
            kernel: case.kernel(),
            shape: case.shape(),
            counters,
            least_bytes: problem.least_bytes(),
        })
    }

    /// Bytes moved, over the least.
    fn ratio(&self) -> f64 {
        let moved = self.counters.read_bytes() + self.counters.write_bytes();
        moved as f64 / self.least_bytes as f64
    }

    /// Bytes of other blocks' shared memory, in sectors as those of global memory.
    fn distributed_bytes(&self) -> u64 {
        let lines = self.counters.lines.iter().filter(|line| line.space == Space::Distributed);
        lines.map(|line| 32 * line.n_units).sum()
    }

    fn compare(&self, budget: &Budget) -> Vec<String> {
        let ratio = self.ratio();
        let barriers = self.counters.n_barriers as f64 / self.counters.n_blocks as f64;
        let mut over = Vec::new();
        if ratio < 0.99 {
            over.push(format!("{ratio:.3} of the least bytes is less than it"));
        }
        for (what, value, most) in [
            ("of the least bytes", ratio, budget.bytes),
            ("sectors a request", self.counters.sectors_per_request(), budget.sectors_per_request),
            (
                "passes over the banks a request",
                self.counters.conflict_ways(),
                budget.conflict_ways,
            ),
            ("barriers a block", barriers, budget.barriers),
        ] {
            if value > most {
                over.push(format!("{value:.3} {what}, of {most} at most"));
            }
        }
        over
    }

    fn print(&self) {
        let Self { kernel, shape, counters, least_bytes } = self;
        let (read, write) = (counters.read_bytes(), counters.write_bytes());
        println!("{kernel}, {shape}");
        println!(
            "  {read} bytes read, {write} written: {:.3} of the least, {least_bytes}",
            self.ratio()
        );
        println!(
            "  {:.2} sectors a request, {:.2} passes over the banks a request",
            counters.sectors_per_request(),
            counters.conflict_ways()
        );
        if self.distributed_bytes() != 0 {
            println!("  {} bytes of other blocks' shared memory", self.distributed_bytes());
        }
        println!(
            "  {} barriers, {} warp collectives, {} atomics",
            counters.n_barriers, counters.n_collectives, counters.n_atomics
        );
        for line in &counters.lines {
            let (file, number) = line.location.as_ref().map_or(("?", 0), |(file, number)| {
                (file.rsplit_once("csrc/").map_or(file.as_str(), |(_, tail)| tail), *number)
            });
            let unit = if line.space == Space::Shared { "passes" } else { "sectors" };
            let what = format!("{:?} {:?}", line.space, line.direction).to_lowercase();
            println!(
                "    {file}:{number:<4} {what:<14} {:>9} requests {:>10} bytes {:>6.2} {unit}, at most {}",
                line.n_requests,
                line.n_bytes,
                line.n_units as f64 / line.n_requests as f64,
                line.most_units,
            );
        }
    }

    fn to_json(&self) -> Value {
        let thousandths = |value: f64| (value * 1000.0).round() / 1000.0;
        json!({
            "kernel": self.kernel,
            "shape": self.shape,
            "read_bytes": self.counters.read_bytes(),
            "write_bytes": self.counters.write_bytes(),
            "distributed_bytes": self.distributed_bytes(),
            "least_bytes": self.least_bytes,
            "sectors_per_request": thousandths(self.counters.sectors_per_request()),
            "conflict_ways": thousandths(self.counters.conflict_ways()),
            "barriers": self.counters.n_barriers,
        })
    }
}
