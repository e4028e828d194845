//! Rows for people, and as JSON for the ledger.

use std::process::ExitCode;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::case::Case;
use super::gpu::Gpu;
use super::{Options, Task};

/// What was found of one kernel at one shape.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) kernel: &'static str,
    pub(crate) shape: String,
    /// The first 12 digits of the image's hash, as the manifest has it.
    pub(crate) image: Option<String>,
    /// Whether the bits were those expected.
    pub(crate) agrees: Option<bool>,
    pub(crate) checks: Vec<Check>,
    pub(crate) least_bytes: Option<u64>,
    pub(crate) time_us: Option<f64>,
    /// How far apart the middle half of the samples is, in percent of the median.
    pub(crate) spread_percent: Option<f64>,
    pub(crate) copy_us: Option<f64>,
    pub(crate) clocks: Option<String>,
    pub(crate) peers: Vec<PeerTime>,
    /// Why something is missing.
    pub(crate) why: Option<String>,
}

/// One check of a kernel.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) result: Outcome,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    Pass,
    /// What was wrong.
    Fail(String),
    /// Why it was not tried.
    Skipped(String),
}

impl Outcome {
    fn in_words(&self) -> (&'static str, Option<&str>) {
        match self {
            Self::Pass => ("pass", None),
            Self::Fail(fault) => ("fail", Some(fault)),
            Self::Skipped(why) => ("skipped", Some(why)),
        }
    }
}

/// A peer's time, or why there is none.
#[derive(Debug)]
pub(crate) struct PeerTime {
    pub(crate) name: &'static str,
    pub(crate) version: Option<String>,
    pub(crate) time_us: Result<f64, String>,
}

impl Row {
    fn new(case: &dyn Case, gpu: &Gpu) -> Self {
        let image = gpu.image(case.kernel()).map(|image| short_hash(image.text));
        Self { kernel: case.kernel(), shape: case.shape(), image, ..Self::default() }
    }

    pub(crate) fn fail(&mut self, name: impl Into<String>, fault: impl Into<String>) {
        self.add(name, Outcome::Fail(fault.into()));
    }

    pub(crate) fn add(&mut self, name: impl Into<String>, result: Outcome) {
        self.checks.push(Check { name: name.into(), result });
    }

    fn is_bad(&self) -> bool {
        self.agrees == Some(false)
            || self.checks.iter().any(|check| matches!(check.result, Outcome::Fail(_)))
    }

    /// The device's copy of the same bytes takes so much of this time.
    fn percent_of_limit(&self) -> Option<f64> {
        Some(100.0 * self.copy_us? / self.time_us?)
    }

    fn to_json(&self) -> Value {
        let checks: Vec<_> = self
            .checks
            .iter()
            .map(|check| {
                let (result, why) = check.result.in_words();
                json!({ "check": check.name, "result": result, "why": why })
            })
            .collect();
        let peers: Vec<_> = self
            .peers
            .iter()
            .map(|peer| {
                let (time_us, why) = match &peer.time_us {
                    Ok(time_us) => (Some(round(*time_us)), None),
                    Err(why) => (None, Some(why)),
                };
                json!({
                    "name": peer.name,
                    "version": peer.version,
                    "time_us": time_us,
                    "why": why,
                })
            })
            .collect();
        let bits = self.agrees.map(|agrees| if agrees { "agree" } else { "differ" });
        json!({
            "kernel": self.kernel,
            "shape": self.shape,
            "image": self.image,
            "bits": bits,
            "checks": checks,
            "time_us": self.time_us.map(round),
            "spread_percent": self.spread_percent.map(round),
            "least_bytes": self.least_bytes,
            "copy_us": self.copy_us.map(round),
            "percent_of_limit": self.percent_of_limit().map(round),
            "clocks": self.clocks,
            "peers": peers,
            "why": self.why,
        })
    }

    fn print(&self) {
        let state = match &self.why {
            _ if self.is_bad() => "WRONG",
            Some(_) => "-",
            None => "ok",
        };
        print!("{state:<6}");
        match (self.percent_of_limit(), self.time_us, self.least_bytes) {
            (Some(percent), Some(time_us), Some(bytes)) => {
                let rate = bytes as f64 / time_us / 1000.0;
                print!(
                    "{percent:5.1} % of copy {time_us:10.2} us {bytes:>12} bytes {rate:8.1} GB/s  "
                );
            }
            (None, Some(time_us), _) => print!("{time_us:10.2} us  "),
            _ => {}
        }
        println!("{}, {}", self.kernel, self.shape);
        for check in &self.checks {
            match check.result.in_words() {
                (result, None) => println!("        {result}  {}", check.name),
                (result, Some(why)) => println!("        {result}  {}: {why}", check.name),
            }
        }
        for peer in &self.peers {
            let name = [peer.name, peer.version.as_deref().unwrap_or_default()].join(" ");
            let name = name.trim_end();
            match (&peer.time_us, self.time_us) {
                (Ok(theirs), Some(ours)) => {
                    let ratio = theirs / ours;
                    println!("        {theirs:10.2} us  {ratio:5.2} times ours  {name}");
                }
                (Ok(theirs), None) => println!("        {theirs:10.2} us  {name}"),
                (Err(why), _) => println!("        {name}: {why}"),
            }
        }
        for line in self.clocks.iter().chain(&self.why) {
            println!("        {line}");
        }
    }
}

/// Four digits are more than any two runs agree on.
fn round(value: f64) -> f64 {
    let unit = 10_f64.powf(value.abs().max(1e-9).log10().floor() - 4.0);
    let rounded = (value / unit).round() * unit;
    // No digits that only binary fractions have.
    format!("{rounded:.6}").parse().unwrap_or(rounded)
}

pub(crate) fn short_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn list_line(room: &str, case: &dyn Case) -> String {
    json!({ "room": room, "kernel": case.kernel(), "shape": case.shape() }).to_string()
}

/// Rows as they come: each is printed, and written at once, so that what ends the program hides none
/// that was before.
pub(crate) struct Report<'a> {
    room: &'static str,
    options: &'a Options,
    gpu: &'a Gpu,
    rows: Vec<Row>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(room: &'static str, options: &'a Options, gpu: &'a Gpu) -> Self {
        let report = Self { room, options, gpu, rows: Vec::new() };
        // Where the first row takes all the time there is, no row is what there is to say.
        report.write();
        report
    }

    /// Adds what `fill` finds of a case; a panic is a finding too.
    pub(crate) fn add(&mut self, case: &dyn Case, fill: impl FnOnce(&mut Row)) {
        let mut row = Row::new(case, self.gpu);
        let unsupported = || case.unsupported(&self.gpu.queue);
        row.why = self.options.is_late().or_else(|| self.gpu.is_broken()).or_else(unsupported);
        if row.why.is_none() {
            let filled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fill(&mut row)));
            if let Err(panic) = filled {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()));
                row.fail("no panic", text.unwrap_or_default());
            }
        }
        row.print();
        self.rows.push(row);
        self.write();
    }

    /// Whether every row is as it must be, and was written.
    pub(crate) fn finish(&self) -> ExitCode {
        let is_good = self.write() && !self.rows.iter().any(Row::is_bad);
        if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn write(&self) -> bool {
        let Some(path) = &self.options.json else { return true };
        let written = std::fs::write(path, format!("{:#}\n", self.to_json()));
        if let Err(error) = &written {
            eprintln!("error: {}: {error}", path.display());
        }
        written.is_ok()
    }

    fn to_json(&self) -> Value {
        let info = self.gpu.device.info();
        let mode = if self.options.task == Task::Bench { "bench" } else { "check" };
        json!({
            "room": self.room,
            "mode": mode,
            "device": {
                "name": info.name,
                "capability": format!("{}.{}", info.capability.0, info.capability.1),
                "driver": self.gpu.driver(),
                "multiprocessors": info.n_multiprocessors,
                "l2_bytes": info.l2_bytes,
                "memory_bytes": info.memory_bytes,
            },
            "date": date(),
            "commit": std::env::var("LACUNA_COMMIT").unwrap_or_else(|_| "unknown".to_owned()),
            "rows": self.rows.iter().map(Row::to_json).collect::<Vec<_>>(),
        })
    }
}

/// Today, by the machine's clock.
fn date() -> String {
    let seconds =
        std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs());
    // Days from the civil calendar's era, as Howard Hinnant's algorithm has them.
    let days = (seconds / 86_400) as i64 + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}
