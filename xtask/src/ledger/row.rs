//! What the ledger says of each kernel, shape and device, as a table and as JSON.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value, json};

use super::record::{Bits, Finding, Ledger, Mode, Outcome, Record};
use super::{Case, Kernel};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The present image gives the reference's bits, and no check failed.
    Proven,
    /// An older image did; nothing is known of the present one.
    Stale,
    /// The present image gives other bits, or fails a check.
    Failed,
    Unproven,
    /// The kernel or the shape does not exist any more.
    Gone,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Stale => "stale",
            Self::Failed => "failed",
            Self::Unproven => "unproven",
            Self::Gone => "gone",
        }
    }

    fn judge(records: &[&Record], images: &[String]) -> Self {
        let (present, older): (Vec<_>, Vec<_>) =
            records.iter().copied().partition(|record: &&Record| record.row.is_of(images));
        match (holds(&present), holds(&older)) {
            (Some(true), _) => Self::Proven,
            (Some(false), _) => Self::Failed,
            (None, Some(true)) => Self::Stale,
            (None, _) => Self::Unproven,
        }
    }
}

/// Whether the newest records that compared bits saw them agree, and no check failed.
fn holds(records: &[&Record]) -> Option<bool> {
    if records.iter().any(|record| record.row.fails_a_check()) {
        return Some(false);
    }
    let compared = || records.iter().filter(|record| record.row.bits.is_some());
    let newest = compared().map(|record| &record.date).max()?;
    Some(
        compared()
            .filter(|record| record.date == *newest)
            .all(|record| record.row.bits == Some(Bits::Agree)),
    )
}

/// A kernel at a shape on a device; where no device has records of it, on none.
pub(super) struct Row<'a> {
    pub(super) kernel: &'a str,
    /// None where the kernel's room lists no shapes.
    pub(super) shape: Option<&'a str>,
    pub(super) state: State,
    records: Vec<&'a Record>,
    images: &'a [String],
}

impl<'a> Row<'a> {
    /// What was measured.
    pub(super) fn figures(&self) -> Option<&'a Finding> {
        self.measured().map(|record| &record.row)
    }

    pub(super) fn device(&self) -> Option<&'a str> {
        self.shown().map(|record| record.device.name.as_str())
    }

    /// The state, with a word on figures that are of another image than it is.
    pub(super) fn label(&self) -> String {
        let is_old = self.figures().is_some_and(|row| !row.is_of(self.images));
        match self.state {
            State::Proven | State::Failed | State::Unproven if is_old => {
                format!("{}, figures of an older image", self.state.name())
            }
            _ => self.state.name().to_owned(),
        }
    }

    /// Each peer's time, of ours; none where the peer did not run.
    pub(super) fn ratios(&self) -> Vec<(&'a str, Option<f64>)> {
        let Some(row) = self.figures() else { return Vec::new() };
        let ratio = |time_us: Option<f64>| Some(time_us? / row.time_us?);
        row.peers.iter().map(|peer| (peer.name.as_str(), ratio(peer.time_us))).collect()
    }

    pub(super) fn list_ratios(&self) -> String {
        let versions = self.figures().into_iter().flat_map(|row| &row.peers);
        let versions = versions.map(|peer| peer.version.as_deref());
        let ratios = self.ratios().into_iter().zip(versions).map(|((name, ratio), version)| {
            let name = [name, version.unwrap_or_default()].join(" ");
            match ratio {
                Some(ratio) => format!("{}: {ratio:.2}", name.trim_end()),
                None => format!("{}: not run", name.trim_end()),
            }
        });
        ratios.collect::<Vec<_>>().join("; ")
    }

    fn measured(&self) -> Option<&'a Record> {
        let is_measured =
            |record: &&&Record| record.mode == Mode::Bench && record.row.time_us.is_some();
        self.records.iter().find(is_measured).copied()
    }

    /// Whose device, date and image are shown: the figures', or the newest's.
    fn shown(&self) -> Option<&'a Record> {
        let newest = || self.records.iter().max_by_key(|record| &record.date).copied();
        self.measured().or_else(newest)
    }

    fn to_json(&self) -> Value {
        let ratios = self.ratios().into_iter().map(|(name, ratio)| (name.to_owned(), ratio.into()));
        json!({
            "kernel": self.kernel,
            "shape": self.shape,
            "state": self.state.name(),
            "device": self.device(),
            "image": self.shown().map(|record| &record.row.image),
            "time_us": self.figures().and_then(|row| row.time_us),
            "percent_of_limit": self.figures().and_then(|row| row.percent_of_limit),
            "ratio_to": ratios.collect::<Map<_, _>>(),
        })
    }

    fn to_cells(&self) -> [String; 9] {
        let shown = self.shown();
        let cell = |text: Option<&str>| text.unwrap_or("-").to_owned();
        [
            self.kernel.to_owned(),
            cell(self.shape),
            self.label(),
            cell(self.device()),
            cell(shown.map(|record| record.date.as_str())),
            cell(shown.and_then(|record| record.row.image.as_deref())),
            percent(self.figures()),
            time(self.figures()),
            if self.ratios().is_empty() { "-".to_owned() } else { self.list_ratios() },
        ]
    }

    /// What went wrong, or was not tried.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for record in &self.records {
            let row = &record.row;
            let place = format!(
                "{} at {} on {}, {}, image {}",
                row.kernel,
                row.shape,
                record.device.name,
                record.date,
                row.image.as_deref().unwrap_or("-")
            );
            if row.bits == Some(Bits::Differ) {
                notes.push(format!("{place}: bits differ{}", because(row.why.as_deref())));
            }
            for check in &row.checks {
                let outcome = match check.result {
                    Outcome::Pass => continue,
                    Outcome::Fail => "failed",
                    Outcome::Skipped => "was skipped",
                };
                let why = because(check.why.as_deref());
                notes.push(format!("{place}: {} {outcome}{why}", check.check));
            }
        }
        notes
    }
}

/// A reason, on one line.
fn because(why: Option<&str>) -> String {
    let why = why.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    if why.is_empty() { why } else { format!(": {why}") }
}

/// `65.9 %` of the copy limit.
pub(super) fn percent(row: Option<&Finding>) -> String {
    let percent = row.and_then(|row| row.percent_of_limit);
    percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.1} %"))
}

/// `12.3 us`.
pub(super) fn time(row: Option<&Finding>) -> String {
    let time_us = row.and_then(|row| row.time_us);
    time_us.map_or_else(|| "-".to_owned(), |time_us| format!("{time_us:.1} us"))
}

/// The kernels in the manifest's order with the shapes in the benches', then what is gone.
pub(super) fn arrange<'a>(
    ledger: &'a Ledger,
    kernels: &'a [Kernel],
    cases: &'a [Case],
) -> Vec<Row<'a>> {
    let mut found = ledger.cases();
    let mut rows = Vec::new();
    for Kernel { name: kernel, images } in kernels {
        let unproven = |shape| {
            let (state, records) = (State::Unproven, Vec::new());
            Row { kernel, shape, state, records, images }
        };
        let mut shapes =
            cases.iter().filter(|case| case.kernel == *kernel).map(|case| &*case.shape).peekable();
        if shapes.peek().is_none() {
            rows.push(unproven(None));
        }
        for shape in shapes {
            let devices = found.remove(&(kernel.as_str(), shape)).unwrap_or_default();
            if devices.is_empty() {
                rows.push(unproven(Some(shape)));
            }
            rows.extend(devices.into_values().map(|records| {
                let state = State::judge(&records, images);
                Row { kernel, shape: Some(shape), state, records, images }
            }));
        }
    }
    for ((kernel, shape), devices) in found {
        rows.extend(devices.into_values().map(|records| {
            let (shape, state) = (Some(shape), State::Gone);
            Row { kernel, shape, state, records, images: &[] }
        }));
    }
    rows
}

/// For people.
pub(super) fn to_table(rows: &[Row<'_>]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "kernel",
        "shape",
        "state",
        "device",
        "date",
        "image",
        "of copy limit",
        "time",
        "peers' time / ours",
    ]);
    table.add_rows(rows.iter().map(Row::to_cells));
    for column in table.column_iter_mut().skip(6).take(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = table.trim_fmt() + "\n";
    if rows.iter().all(|row| row.records.is_empty()) {
        text += "\nnothing has run on a GPU yet\n";
    }
    for note in rows.iter().flat_map(Row::notes) {
        text += &format!("\n{note}");
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// For programs.
pub(super) fn to_json(rows: &[Row<'_>]) -> String {
    let rows: Vec<_> = rows.iter().map(|row| format!("  {}", row.to_json())).collect();
    format!("[\n{}\n]\n", rows.join(",\n"))
}
