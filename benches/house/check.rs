//! Whether kernels do what they must: on a GPU, or in the SIMT executor where there is none.

use std::process::ExitCode;

use lacuna::Queue;
use lacuna::simt::{Checks, Config, Schedule};

use super::case::{Case, Problem, Work};
use super::count;
use super::gpu::Gpu;
use super::report::{Outcome, Report, Row};
use super::sanitizer;

/// Launches whose bits must be the same.
const N_RUNS: usize = 20;

/// Every small case on a GPU: bits, graphs, runs, other grids and batches; and each kernel once under
/// a sanitizer's tools.
pub(crate) fn on_gpu(cases: &[Box<dyn Case>], gpu: &Gpu, report: &mut Report<'_>) {
    let small: Vec<_> = cases.iter().filter(|case| case.is_small()).collect();
    for (idx, case) in small.iter().enumerate() {
        let is_last = small[idx + 1..].iter().all(|other| other.kernel() != case.kernel());
        report.add(&***case, |row| {
            if let Err(error) = check_one(gpu, &*case.prepare(&gpu.queue), row) {
                row.fail("launch", error.to_string());
            }
            if is_last {
                sanitizer::watch(row);
            }
        });
    }
}

fn check_one(gpu: &Gpu, problem: &dyn Problem, row: &mut Row) -> lacuna::Result<()> {
    let queue = &gpu.queue;
    let mut work = problem.place(queue)?;
    let fault = compare(queue, problem, &mut *work)?;
    row.agrees = Some(fault.is_none());
    record(row, "bits of one launch", fault);

    match gpu.capture(|| work.launch(queue)) {
        Err(why) => row.fail("graph capture", why),
        Ok(graph) => {
            let mut fault = None;
            for run in 0..N_RUNS {
                work.poison(queue)?;
                graph.replay();
                let found = difference(problem.expected(), &work.output(queue)?);
                fault = fault.or(found.map(|found| format!("replay {run}: {found}")));
            }
            record(row, &format!("bits of {N_RUNS} graph replays"), fault);
        }
    }
    for (name, mut variant) in problem.variants(queue)? {
        let fault = compare(queue, problem, &mut *variant)?;
        record(row, &format!("bits {name}"), fault);
    }
    Ok(())
}

fn record(row: &mut Row, name: &str, fault: Option<String>) {
    row.add(name, fault.map_or(Outcome::Pass, Outcome::Fail));
}

/// Launches once over poison, and says where the output is not what is expected.
pub(super) fn compare(
    queue: &Queue,
    problem: &dyn Problem,
    work: &mut dyn Work,
) -> lacuna::Result<Option<String>> {
    work.poison(queue)?;
    work.launch(queue)?;
    Ok(difference(problem.expected(), &work.output(queue)?))
}

/// Where two outputs part.
pub(super) fn difference(expected: &[u8], got: &[u8]) -> Option<String> {
    if expected.len() != got.len() {
        return Some(format!("{} bytes, and {} are expected", got.len(), expected.len()));
    }
    let first = expected.iter().zip(got).position(|(expected, got)| expected != got)?;
    let n_bytes = expected.iter().zip(got).filter(|(expected, got)| expected != got).count();
    Some(format!(
        "{n_bytes} of {} bytes differ, the first at {first}: {:#04x}, and {:#04x} is expected",
        expected.len(),
        got[first],
        expected[first]
    ))
}

/// A kernel's largest small case once on the GPU, for a sanitizer to watch; says that it was launched.
pub(crate) fn once(cases: &[Box<dyn Case>], gpu: &Gpu) -> ExitCode {
    let Some(case) = cases.iter().rfind(|case| case.is_small()) else {
        eprintln!("error: no small case of such a kernel");
        return ExitCode::from(2);
    };
    if let Some(why) = case.unsupported(&gpu.queue) {
        println!("unsupported {}: {why}", case.kernel());
        return ExitCode::SUCCESS;
    }
    let problem = case.prepare(&gpu.queue);
    let launched = problem
        .place(&gpu.queue)
        .and_then(|mut work| compare(&gpu.queue, &*problem, &mut *work))
        .and_then(|fault| gpu.synchronize().map(|()| fault));
    match launched {
        Ok(None) => {
            println!("{}", sanitizer::launched(case.kernel()));
            ExitCode::SUCCESS
        }
        Ok(Some(fault)) => {
            println!("launched {}, {}: {fault}", case.kernel(), case.shape());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {}, {}: {error}", case.kernel(), case.shape());
            ExitCode::FAILURE
        }
    }
}

/// Every small case in the SIMT executor under all checks, its variants, and its budget.
pub(crate) fn in_executor(cases: &[Box<dyn Case>]) -> ExitCode {
    let config = Config {
        checks: Checks { settled: false, ..Checks::ALL },
        schedule: Schedule::Random,
        ..Config::default()
    };
    let queue = Queue::simt(config);
    let mut n_wrong = 0;
    for case in cases.iter().filter(|case| case.is_small()) {
        let problem = case.prepare(&queue);
        let found = check_in(&queue, &*problem).and_then(|fault| match fault {
            None => Ok(count::judge(&**case)?.into_iter().next()),
            fault => Ok(fault),
        });
        let what = format!("{}, {}", case.kernel(), case.shape());
        match &found {
            Ok(None) => println!("ok     {what}"),
            Ok(Some(fault)) => println!("WRONG  {what}: {fault}"),
            Err(error) => println!("WRONG  {what}: {error}"),
        }
        n_wrong += usize::from(!matches!(found, Ok(None)));
    }
    if n_wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn check_in(queue: &Queue, problem: &dyn Problem) -> lacuna::Result<Option<String>> {
    let mut fault = compare(queue, problem, &mut *problem.place(queue)?)?;
    for (name, mut variant) in problem.variants(queue)? {
        let found = compare(queue, problem, &mut *variant)?;
        fault = fault.or(found.map(|found| format!("{name}: {found}")));
    }
    Ok(fault)
}
