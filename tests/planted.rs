//! Small kernels with one planted defect each: the executor names every one as its own kind, at the
//! right line, whatever the schedule; and says nothing of their twins without it.
//! `cargo xtask planted` prints the table.

#![allow(unsafe_code, reason = "a kernel is launched by its symbol")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, c_char, c_void};

use lacuna::region::{Region, Role};
use lacuna::simt::{self, Checks, Config, Entry, Fault, FaultKind, Fibres, Launch};

/// A row of csrc/simt/selftest/planted.cc.
#[repr(C)]
struct Row {
    name: *const c_char,
    kind: *const c_char,
    wrong: Entry,
    right: Entry,
    cluster_blocks: u32,
    n_blocks: u32,
    n_threads: u32,
    n_output: u32,
    dynamic_shared_bytes: u32,
    reserved: u32,
}

unsafe extern "C" {
    fn lacuna_simt_planted(n_planted: *mut usize) -> *const Row;
}

fn rows() -> &'static [Row] {
    let mut n_rows = 0;
    // SAFETY: a static table of so many rows.
    unsafe {
        let first = lacuna_simt_planted(&mut n_rows);
        std::slice::from_raw_parts(first, n_rows)
    }
}

fn text(literal: *const c_char) -> &'static str {
    // SAFETY: a string literal of the table.
    unsafe { CStr::from_ptr(literal) }.to_str().unwrap()
}

const N_INPUT: u32 = 1024;

#[repr(align(256))]
#[derive(Clone)]
struct Line([u32; 64]);

/// As aligned as a device allocation, with as much before and after it that no launch is given.
struct Memory {
    lines: Vec<Line>,
    n: usize,
}

impl Memory {
    const ZONE: usize = 16;

    fn new(n: u32, of: impl Fn(u32) -> u32) -> Self {
        let mut lines = vec![Line([0xDEAD_BEEF; 64]); n.div_ceil(64) as usize + 2 * Self::ZONE];
        let words = lines[Self::ZONE..].iter_mut().flat_map(|line| &mut line.0);
        for (i, word) in (0..n).zip(words) {
            *word = of(i);
        }
        Self { lines, n: n as usize }
    }

    fn start(&mut self) -> *mut u32 {
        self.lines.as_mut_ptr().wrapping_add(Self::ZONE).cast()
    }

    fn region(&mut self, name: &'static str, role: Role) -> Region {
        let address = self.start().expose_provenance() as u64;
        Region { name: name.into(), role, address, n_bytes: self.n as u64 * 4 }
    }
}

fn run(row: &Row, kernel: &str, entry: Entry, config: &Config) -> Result<Vec<u32>, Box<Fault>> {
    let mut input = Memory::new(N_INPUT, |i| i + 1);
    let mut output = Memory::new(row.n_output, |_| 0xDEAD_BEEF);
    let mut state = Memory::new(1024, |_| 0);
    let mut workspace = Memory::new(1024, |_| 0xDEAD_BEEF);
    let params = common::SelfTestParams {
        input: input.start(),
        output: output.start(),
        state: state.start(),
        workspace: workspace.start(),
        n: row.n_output,
        reserved: 0,
    };
    let regions = [
        input.region("input", Role::Input),
        output.region("output", Role::Output),
        state.region("state", Role::InOut),
        workspace.region("workspace", Role::Workspace),
    ];
    let launch = Launch {
        kernel,
        entry,
        grid: [row.n_blocks, 1, 1],
        block: [row.n_threads, 1, 1],
        dynamic_shared_bytes: row.dynamic_shared_bytes,
        cluster_blocks: row.cluster_blocks,
    };
    // SAFETY: the kernel takes this struct, and the regions are memory of this function.
    unsafe {
        let params_bytes = size_of_val(&params);
        simt::launch(
            config,
            &launch,
            (&raw const params).cast::<c_void>(),
            params_bytes,
            &regions,
        )?;
        Ok(std::slice::from_raw_parts(output.start(), row.n_output as usize).to_vec())
    }
}

fn configs() -> Vec<Config> {
    let checks = Checks { most_sectors: 16, most_conflict_ways: 8, ..Checks::ALL };
    let mut configs = Vec::new();
    for schedule in common::SCHEDULES {
        for (fibres, seed) in [(Fibres::Native, 0), (Fibres::Native, 1), (Fibres::Portable, 2)] {
            let step_budget = 10_000;
            let config =
                Config { schedule, fibres, seed, checks, step_budget, ..Config::default() };
            configs.push(config);
        }
    }
    configs
}

const SOURCES: &[(&str, &str)] = &[
    ("barriers.cu", include_str!("../csrc/simt/selftest/barriers.cu")),
    ("blocks.cu", include_str!("../csrc/simt/selftest/blocks.cu")),
    ("bounds.cu", include_str!("../csrc/simt/selftest/bounds.cu")),
    ("clusters.cu", include_str!("../csrc/simt/selftest/clusters.cu")),
    ("copies.cu", include_str!("../csrc/simt/selftest/copies.cu")),
    ("orders.cu", include_str!("../csrc/simt/selftest/orders.cu")),
    ("tensors.cu", include_str!("../csrc/simt/selftest/tensors.cu")),
    ("warps.cu", include_str!("../csrc/simt/selftest/warps.cu")),
];

/// For each kernel, the lines that a fault may name: file and number.
fn marked_lines() -> BTreeMap<String, Vec<(&'static str, u32)>> {
    let mut marked: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (file, source) in SOURCES {
        // A mark alone on its line is of the statement below it.
        let mut pending = Vec::new();
        for (line, number) in source.lines().zip(1..) {
            let (code, names) = line.split_once("// FAULT: ").unwrap_or((line, ""));
            pending.extend(names.split(' ').filter(|name| !name.is_empty()));
            if code.trim().is_empty() {
                continue;
            }
            for name in pending.drain(..) {
                marked.entry(name.to_owned()).or_default().push((*file, number));
            }
        }
    }
    marked
}

/// The kernels of the sources that have a twin.
fn twins() -> BTreeSet<&'static str> {
    let names = |start| {
        SOURCES.iter().flat_map(|(_, source)| source.lines()).filter_map(move |line| {
            Some(line.strip_prefix(start)?.split([',', ')']).next().unwrap_or_default())
        })
    };
    names("LACUNA_TWINS(").chain(names("LACUNA_ENTRY(wrong_")).collect()
}

/// How a fault differs from what the row and the marked lines say.
fn judge(row: &Row, fault: &Fault, marked: &[(&str, u32)]) -> Result<(), String> {
    let kind = format!("{:?}", fault.kind);
    if kind != text(row.kind) {
        return Err(format!("{kind} instead of {}: {fault}", text(row.kind)));
    }
    let Some((file, line)) = &fault.location else { return Err(format!("no line: {fault}")) };
    let is_marked = |file: &str, line: u32| {
        marked.iter().any(|(marked, number)| file.ends_with(marked) && line == *number)
    };
    if !is_marked(file, *line) {
        return Err(format!("another line than {marked:?}: {fault}"));
    }
    match &fault.other {
        None if fault.kind == FaultKind::Race => Err(format!("no other line: {fault}")),
        Some((file, line)) if fault.kind == FaultKind::Race && !is_marked(file, *line) => {
            Err(format!("another other line than {marked:?}: {fault}"))
        }
        _ => Ok(()),
    }
}

#[test]
fn every_defect_is_caught_as_its_kind_at_its_line_and_no_twin_is() {
    let marked = marked_lines();
    let mut failures = Vec::new();
    println!("{:<32} {:<20} {:<16} twin", "defect", "caught as", "line");
    for row in rows() {
        let name = text(row.name);
        let lines = marked.get(name).map_or(&[][..], Vec::as_slice);
        let mut verdict = ("-", String::new(), "passes");
        let mut expected = None;
        for config in configs() {
            let context = format!("{name}, {:?}, seed {}", config.schedule, config.seed);
            match run(row, &format!("wrong_{name}"), row.wrong, &config) {
                Ok(_) => failures.push(format!("{context}: not caught")),
                Err(fault) => {
                    verdict.0 = fault.kind.describe();
                    if let Some((file, line)) = &fault.location {
                        let file = file.rsplit('/').next().unwrap_or_default();
                        verdict.1 = format!("{file}:{line}");
                    }
                    if let Err(failure) = judge(row, &fault, lines) {
                        failures.push(format!("{context}: {failure}"));
                    }
                    let again = run(row, &format!("wrong_{name}"), row.wrong, &config);
                    // Addresses differ from run to run; all else replays.
                    let again = again.map_err(|again| (again.kind, again.location, again.thread));
                    if again != Err((fault.kind, fault.location.clone(), fault.thread)) {
                        failures.push(format!("{context}: {fault}, and then {again:?}"));
                    }
                    for part in [format!("wrong_{name}"), format!("seed {}", config.seed)] {
                        assert!(fault.to_string().contains(&part), "{fault}");
                    }
                }
            }
            match run(row, &format!("right_{name}"), row.right, &config) {
                Ok(output) => {
                    let expected = expected.get_or_insert_with(|| output.clone());
                    if *expected != output {
                        failures.push(format!("{context}: the twin depends on the schedule"));
                    }
                }
                Err(fault) => {
                    verdict.2 = "FALSE ALARM";
                    failures.push(format!("{context}: false alarm: {fault}"));
                }
            }
        }
        println!("{name:<32} {:<20} {:<16} {}", verdict.0, verdict.1, verdict.2);
    }
    let n_schedules = configs().len();
    println!("{} defects under {n_schedules} schedules and their twins", rows().len());
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_twin_has_a_row_and_every_row_its_marks() {
    let names: BTreeSet<_> = rows().iter().map(|row| text(row.name)).collect();
    assert_eq!(names.len(), rows().len());
    assert_eq!(names, twins());
    assert_eq!(names, marked_lines().keys().map(String::as_str).collect());
}
