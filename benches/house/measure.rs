//! How long kernels take on a GPU, beside a copy of the same bytes and beside peers.
//!
//! Each is launched on several sets of inputs and outputs in turn, three times the cache in all, so that
//! none finds its data there; those launches are one graph, and the time is that of its replays by the
//! device's own events. The median of many samples counts.

use lacuna::Queue;

use super::case::{Case, Problem, Work};
use super::check;
use super::gpu::{Gpu, Stopwatch};
use super::report::{PeerTime, Report, Row};
use crate::peers::copy::Copy;

/// Sets of inputs in rotation, at most.
const MAX_SETS: u64 = 64;
/// Samples of one measurement.
const N_SAMPLES: usize = 40;
/// A sample is at least so long, that the events' own steps do not count.
const SAMPLE_US: f64 = 2_000.0;

/// Every case whose time says something.
pub(crate) fn on_gpu(cases: &[Box<dyn Case>], gpu: &Gpu, report: &mut Report<'_>) {
    for case in cases.iter().filter(|case| case.is_timed()) {
        report.add(&**case, |row| {
            if let Err(why) = measure_one(gpu, &*case.prepare(&gpu.queue), row) {
                row.fail("measurement", why);
            }
        });
    }
}

fn measure_one(gpu: &Gpu, problem: &dyn Problem, row: &mut Row) -> Result<(), String> {
    let n_bytes = problem.least_bytes();
    row.least_bytes = Some(n_bytes);
    let place = |queue: &Queue| problem.place(queue).map_err(|error| error.to_string());

    let mut first = place(&gpu.queue)?;
    let fault = check::compare(&gpu.queue, problem, &mut *first).map_err(|e| e.to_string())?;
    row.agrees = Some(fault.is_none());
    if let Some(fault) = fault {
        return Err(format!("not timed, since it is wrong: {fault}"));
    }
    let n_sets = count_sets(gpu, n_bytes);
    let mut sets = vec![first];
    for _ in 1..n_sets {
        sets.push(place(&gpu.queue)?);
    }
    let timing = time(gpu, &mut sets, true)?;
    row.time_us = Some(timing.time_us);
    row.spread_percent = Some(timing.spread_percent);
    row.clocks = Some(timing.clocks);
    drop(sets);

    let copied = || -> Result<f64, String> {
        let copies = (0..n_sets).map(|_| Copy::place(gpu, n_bytes));
        let mut copies: Vec<_> = copies.collect::<Result<_, _>>()?;
        Ok(time(gpu, &mut copies, true)?.time_us)
    };
    match copied() {
        Ok(copy_us) => row.copy_us = Some(copy_us),
        Err(why) => row.why = Some(format!("no copy beside it: {why}")),
    }

    for peer in problem.peers() {
        if let Some(timed) = peer.time_itself(n_sets) {
            let (time_us, version) = match timed {
                Ok(timed) => (Ok(timed.time_us), timed.version),
                Err(why) => (Err(why), None),
            };
            row.peers.push(PeerTime { name: peer.name(), version, time_us });
            continue;
        }
        let measured = (|| {
            if let Some(why) = gpu.is_broken() {
                return Err(why);
            }
            let mut first = peer.place(gpu)?;
            let fault = check::compare(&gpu.queue, problem, &mut *first);
            if let Some(fault) = fault.map_err(|error| error.to_string())? {
                return Err(format!("its bits differ: {fault}"));
            }
            let mut sets = vec![first];
            for _ in 1..n_sets {
                sets.push(peer.place(gpu)?);
            }
            Ok(time(gpu, &mut sets, false)?.time_us)
        })();
        row.peers.push(PeerTime { name: peer.name(), version: peer.version(), time_us: measured });
    }
    Ok(())
}

fn count_sets(gpu: &Gpu, n_bytes: u64) -> u64 {
    let cache = 3 * gpu.device.info().l2_bytes;
    cache.div_ceil(n_bytes.max(1)).clamp(2, MAX_SETS)
}

/// What a measurement says.
struct Timing {
    /// Microseconds of one launch.
    time_us: f64,
    /// The spread of the middle half, in percent of the median.
    spread_percent: f64,
    clocks: String,
}

/// Times graph replays; or, where a peer's launches cannot be captured, the launches themselves.
fn time(gpu: &Gpu, sets: &mut [Box<dyn Work>], must_capture: bool) -> Result<Timing, String> {
    let queue = &gpu.queue;
    let text = |error: lacuna::Error| error.to_string();
    let mut launch_all = || sets.iter_mut().try_for_each(|set| set.launch(queue));
    launch_all().map_err(text)?;
    gpu.synchronize().map_err(text)?;
    let graph = match gpu.capture(&mut launch_all) {
        Ok(graph) => Some(graph),
        Err(why) if must_capture => return Err(why),
        Err(_) => None,
    };
    let mut run = || match &graph {
        Some(graph) => {
            graph.replay();
            Ok(())
        }
        None => launch_all(),
    };
    let stopwatch = Stopwatch::new(gpu);
    run().map_err(text)?;
    let mut failed = Ok(());
    let mut sample = |n_runs: usize| {
        stopwatch.time(|| {
            for _ in 0..n_runs {
                failed = std::mem::replace(&mut failed, Ok(())).and_then(|()| run());
            }
        })
    };
    let once = sample(1);
    let n_runs = (SAMPLE_US / once.max(0.1)).ceil().clamp(1.0, 10_000.0) as usize;
    let mut samples: Vec<_> = (0..N_SAMPLES).map(|_| sample(n_runs)).collect();
    failed.map_err(text)?;
    // Asked while the device works.
    for _ in 0..n_runs {
        run().map_err(text)?;
    }
    let clocks = gpu.clocks();
    gpu.synchronize().map_err(text)?;

    samples.sort_by(f64::total_cmp);
    let quantile = |numerator: usize| samples[(N_SAMPLES - 1) * numerator / 4];
    let median = quantile(2);
    Ok(Timing {
        time_us: median / (n_runs as f64 * sets.len() as f64),
        spread_percent: 100.0 * (quantile(3) - quantile(1)) / median,
        clocks,
    })
}
