//! Result files, as the bench programs write them on a GPU machine; the ledger, which keeps the
//! newest of each kernel, shape, mode and device; and how the ones become the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::room_of;
use crate::Result;
use crate::rehearsal::DEVICE;

/// What a program did with its kernels.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    Check,
    Bench,
}

/// Whether the kernel gave the reference's bits.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Bits {
    Agree,
    Differ,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Pass,
    Fail,
    Skipped,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) capability: String,
    pub(super) driver: String,
    pub(super) multiprocessors: u32,
    pub(super) l2_bytes: u64,
    pub(super) memory_bytes: u64,
}

/// A promise that is not about bits: graph capture, a borrowed stream, two grids.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Check {
    pub(super) check: String,
    pub(super) result: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

/// Somebody else's kernel on the same data, or why it did not run.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Peer {
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) time_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

/// What was found of one kernel at one shape.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Finding {
    pub(super) kernel: String,
    pub(super) shape: String,
    /// First 12 digits of the image's hash; none where no image could be loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bits: Option<Bits>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) checks: Vec<Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) time_us: Option<f64>,
    /// How far apart the middle half of the samples is, in percent of the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) spread_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) least_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) copy_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) percent_of_limit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) clocks: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) peers: Vec<Peer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

impl Finding {
    /// Whether a check failed, bits aside.
    pub(super) fn fails_a_check(&self) -> bool {
        self.checks.iter().any(|check| check.result == Outcome::Fail)
    }

    /// Whether it ran with the image of this hash.
    pub(super) fn is_of(&self, images: &[String]) -> bool {
        self.image.as_ref().is_some_and(|image| images.contains(image))
    }

    /// Why there is nothing to keep, if so. A bench that took no time is kept only as bad news, so that
    /// it takes no figure's place.
    fn says_nothing(&self, mode: Mode) -> Option<&'static str> {
        if self.image.is_none() {
            return Some("no image was loaded");
        }
        let ran = |check: &Check| check.result != Outcome::Skipped;
        let is_bad = self.bits == Some(Bits::Differ) || self.fails_a_check();
        let is_news = match mode {
            Mode::Check => self.bits.is_some() || self.checks.iter().any(ran),
            Mode::Bench => self.time_us.is_some(),
        };
        if is_bad || is_news { None } else { Some("nothing was measured") }
    }

    /// Why something is missing, in the words of the machine.
    fn reasons(&self) -> Vec<&str> {
        let failed = self.checks.iter().filter(|check| check.result == Outcome::Fail);
        self.why
            .iter()
            .chain(failed.filter_map(|check| check.why.as_ref()))
            .map(|why| &**why)
            .collect()
    }

    fn validate(&self) -> Result<()> {
        let names = [("kernel", &self.kernel), ("shape", &self.shape)];
        let checks = self.checks.iter().map(|check| ("check", &check.check));
        let peers = self.peers.iter().map(|peer| ("peer's name", &peer.name));
        for (what, name) in names.into_iter().chain(checks).chain(peers) {
            validate_name(what, name)?;
        }
        let is_digit = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
        let is_hash = |image: &String| image.len() == 12 && image.bytes().all(is_digit);
        if let Some(image) = self.image.as_ref().filter(|image| !is_hash(image)) {
            return Err(format!("image {image:?} is not 12 hexadecimal digits"));
        }
        let peers = self.peers.iter().map(|peer| ("peer's time_us", peer.time_us));
        let figures = [
            ("time_us", self.time_us),
            ("copy_us", self.copy_us),
            ("percent_of_limit", self.percent_of_limit),
        ];
        for (what, figure) in figures.into_iter().chain(peers) {
            if let Some(figure) = figure.filter(|figure| !(1e-3..=1e9).contains(figure)) {
                return Err(format!("{what} is {figure}, which nobody measured"));
            }
        }
        if self.time_us.is_none() && self.percent_of_limit.is_some() {
            return Err("percent_of_limit of no time_us".to_owned());
        }
        if let Some(peer) =
            self.peers.iter().find(|peer| peer.time_us.is_none() && peer.why.is_none())
        {
            return Err(format!("peer {:?} has neither time_us nor why", peer.name));
        }
        Ok(())
    }
}

/// A file of the bench programs: one room, one mode, one device.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Results {
    room: String,
    mode: Mode,
    device: Device,
    date: String,
    commit: String,
    rows: Vec<Finding>,
}

/// What the ledger keeps: a finding, and how it came about.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) mode: Mode,
    pub(super) device: Device,
    pub(super) date: String,
    pub(super) commit: String,
    pub(super) row: Finding,
}

impl Record {
    fn key(&self) -> Key {
        Key {
            slug: slug(&self.device.name),
            kernel: self.row.kernel.clone(),
            shape: self.row.shape.clone(),
            mode: self.mode,
        }
    }

    fn validate(&self) -> Result<()> {
        validate_name("device's name", &self.device.name)?;
        if slug(&self.device.name).is_empty() {
            return Err(format!("device's name {:?} has no letter", self.device.name));
        }
        if self.device.name.starts_with(DEVICE) {
            return Err(format!("{:?} is a rehearsal, and no GPU", self.device.name));
        }
        let capability = self.device.capability.split_once('.');
        let is_number = |text: &str| text.parse::<u8>().is_ok();
        if !capability.is_some_and(|(major, minor)| is_number(major) && is_number(minor)) {
            return Err(format!("capability {:?} is no GPU's", self.device.capability));
        }
        if !is_date(&self.date) {
            return Err(format!("date {:?} is not YYYY-MM-DD", self.date));
        }
        validate_name("commit", &self.commit)?;
        self.row.validate()
    }
}

/// A place in the ledger. Devices come first: each has its file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    slug: String,
    kernel: String,
    shape: String,
    mode: Mode,
}

/// The records of one kernel and shape, by device.
pub(super) type Devices<'a> = BTreeMap<&'a str, Vec<&'a Record>>;

/// `benches/ledger/`.
#[derive(Default)]
pub(super) struct Ledger(BTreeMap<Key, Record>);

impl Ledger {
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let mut ledger = Self::default();
        for path in list(folder)? {
            let text = read(&path)?;
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            ledger.load(&stem, &text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(ledger)
    }

    /// Takes up the file of one device.
    fn load(&mut self, stem: &str, text: &str) -> Result<()> {
        let records: Vec<Record> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        for record in records {
            let place = place(&record.row);
            record.validate().map_err(|error| format!("{place}: {error}"))?;
            if let Some(reason) = record.row.says_nothing(record.mode) {
                return Err(format!("{place}: {reason}"));
            }
            let key = record.key();
            if key.slug != stem {
                return Err(format!("{place}: its device belongs in {}.json", key.slug));
            }
            if self.0.insert(key, record).is_some() {
                return Err(format!("{place}: recorded twice"));
            }
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// By kernel and shape.
    pub(super) fn cases(&self) -> BTreeMap<(&str, &str), Devices<'_>> {
        let mut cases: BTreeMap<_, Devices<'_>> = BTreeMap::new();
        for (key, record) in &self.0 {
            let devices = cases.entry((key.kernel.as_str(), key.shape.as_str())).or_default();
            devices.entry(&key.slug).or_default().push(record);
        }
        cases
    }

    /// Takes in every result file of a folder, in the order of their names, or none if one is
    /// malformed; says what became of the rows.
    pub(super) fn add(&mut self, folder: &Path) -> Result<String> {
        let mut paths = list(folder)?;
        paths.retain(|path| !is_of_the_script(path));
        if paths.is_empty() {
            return Err(format!("{}: no result file (*.json)", folder.display()));
        }
        let mut records = Vec::new();
        for path in &paths {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let found = read_results(&read(path)?)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            records.extend(found.into_iter().map(|record| (file.clone(), record)));
        }
        let mut said = String::new();
        for (file, record) in records {
            let place = place(&record.row);
            let _ = match self.merge(record) {
                Ok(()) => writeln!(said, "kept: {file}: {place}"),
                Err(reason) => writeln!(said, "left out: {file}: {place}: {reason}"),
            };
        }
        Ok(said)
    }

    /// A later date wins; of one date, what comes last. Says why a record is not kept.
    fn merge(&mut self, record: Record) -> Result<()> {
        if let Some(reason) = record.row.says_nothing(record.mode) {
            let reasons: Vec<_> = [reason].into_iter().chain(record.row.reasons()).collect();
            return Err(reasons.join(": "));
        }
        let key = record.key();
        match self.0.get(&key) {
            Some(known) if known.date > record.date => {
                Err(format!("the ledger has one of {}", known.date))
            }
            _ => {
                self.0.insert(key, record);
                Ok(())
            }
        }
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        for (slug, text) in self.render()? {
            let path = folder.join(format!("{slug}.json"));
            std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }

    /// The file of each device: one record a line, in the order of the keys.
    fn render(&self) -> Result<BTreeMap<&str, String>> {
        let mut lines: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (key, record) in &self.0 {
            let line = serde_json::to_string(record).map_err(|error| error.to_string())?;
            lines.entry(key.slug.as_str()).or_default().push(format!("  {line}"));
        }
        let wrap = |lines: Vec<String>| format!("[\n{}\n]\n", lines.join(",\n"));
        Ok(lines.into_iter().map(|(slug, lines)| (slug, wrap(lines))).collect())
    }
}

fn read_results(text: &str) -> Result<Vec<Record>> {
    let results: Results = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut seen = BTreeSet::new();
    let mut records = Vec::new();
    for (idx, row) in results.rows.into_iter().enumerate() {
        let place = format!("rows[{idx}], {}", place(&row));
        if !row.kernel.contains('/') || room_of(&row.kernel) != results.room {
            return Err(format!("{place}: not of the room {:?}", results.room));
        }
        let record = Record {
            mode: results.mode,
            device: results.device.clone(),
            date: results.date.clone(),
            commit: results.commit.clone(),
            row,
        };
        record.validate().map_err(|error| format!("{place}: {error}"))?;
        if !seen.insert(record.key()) {
            return Err(format!("{place}: listed twice"));
        }
        records.push(record);
    }
    Ok(records)
}

/// The JSON files of a folder, by name.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let text = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(text)? {
        paths.push(entry.map_err(text)?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|found| found == "json"));
    paths.sort();
    Ok(paths)
}

/// What the bundle's script writes beside the programs' results.
fn is_of_the_script(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name == "doctor.json" || name.starts_with("summary-")
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn place(row: &Finding) -> String {
    format!("{} at {}", row.kernel, row.shape)
}

/// `NVIDIA H100 80GB HBM3` is `nvidia-h100-80gb-hbm3`.
fn slug(name: &str) -> String {
    let words = name.split(|letter: char| !letter.is_ascii_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    words.join("-").to_ascii_lowercase()
}

/// Names are shown in tables and pictures.
fn validate_name(what: &str, name: &str) -> Result<()> {
    if name.trim().is_empty() || name.chars().any(char::is_control) {
        return Err(format!("{what} {name:?} is no name"));
    }
    Ok(())
}

/// Dates are compared as texts.
fn is_date(text: &str) -> bool {
    let fields: Vec<_> = text.split('-').collect();
    let [year, month, day] = fields[..] else { return false };
    let is_number = |field: &str, n_digits: usize, bound: u32| {
        field.len() == n_digits
            && field.bytes().all(|digit| digit.is_ascii_digit())
            && field.parse().is_ok_and(|number: u32| (1..=bound).contains(&number))
    };
    is_number(year, 4, 9999) && is_number(month, 2, 12) && is_number(day, 2, 31)
}
