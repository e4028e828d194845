//! What a launch asks of the driver: each small case by its public call, once warm, on a stream of an engine's while
//! another context is current, on the fake driver of tests/fake_driver, which runs nothing and records every call.

#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::{CStr, c_char};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::ptr::{null_mut, without_provenance_mut};

use lacuna::device::cudarc::driver::sys;
use lacuna::image;
use lacuna::{Device, driver};

use super::case::Case;

/// Set where this process is to look at what it calls.
const CHILD: &str = "LACUNA_CALLS_CHILD";
/// The name by which the driver is looked for first.
const LIBRARY: &str = "libcuda.so";
/// A context and a stream of an engine's; the fake driver takes any numbers.
const ENGINE_CONTEXT: usize = 0x2000;
const ENGINE_STREAM: usize = 0xE0;
/// Compute capabilities, and what the fake driver is told of them: portable images alone, and those of Hopper.
const DEVICES: [(&str, &str); 2] = [("8.0", "-DFAKE_MAJOR=8"), ("9.0", "-DFAKE_MAJOR=9")];
/// A launch is one of these, between what makes the device's context current and what puts the engine's back.
const LAUNCHES: [(&str, &str); 2] = [("cuLaunchKernel", ""), ("cuLaunchKernelEx", ", in clusters")];
const ENTER: [&str; 2] = ["cuCtxGetCurrent", "cuCtxPushCurrent 0x1000"];
const LEAVE: &str = "cuCtxPopCurrent";

/// Whether what a room's kernels call is what is written of them; says where not.
pub(super) fn are_as_written(room: &str) -> bool {
    let path = path(room);
    let found = report(room);
    let is_so = found
        .as_ref()
        .is_ok_and(|found| std::fs::read_to_string(&path).is_ok_and(|written| written == *found));
    match found {
        _ if is_so => println!("ok     calls of the driver"),
        Ok(found) => {
            println!("WRONG  calls of the driver: not those of {}\n{found}", path.display());
            println!("`cargo xtask calls` writes them; look at what differs before committing it");
        }
        Err(error) => println!("WRONG  calls of the driver: {error}"),
    }
    is_so
}

/// Writes what a room's kernels call; on the fake driver, it is this process that calls.
pub(super) fn write(room: &str, cases: &[Box<dyn Case>]) -> ExitCode {
    let written = match std::env::var_os(CHILD) {
        Some(_) => print(cases),
        None => report(room).and_then(|report| {
            let path = path(room);
            std::fs::write(&path, report).map_err(|error| format!("{}: {error}", path.display()))
        }),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn path(room: &str) -> PathBuf {
    repository().join("tests/driver/calls").join(format!("{room}.md"))
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The fake driver's functions for tests.
struct Recorder(libloading::Library);

impl Recorder {
    fn find() -> Result<Self, String> {
        // SAFETY: it is loaded already.
        unsafe { libloading::Library::new(LIBRARY) }.map(Self).map_err(|e| e.to_string())
    }

    fn record<R>(&self, run: impl FnOnce() -> R) -> Result<(R, Vec<String>), String> {
        // SAFETY: functions of the fake driver; the text is terminated, and nothing is recorded any more while it is read.
        unsafe {
            let record = self.0.get::<unsafe extern "C" fn(i32)>(b"fake_record");
            let record = record.map_err(|error| error.to_string())?;
            let recorded = self.0.get::<unsafe extern "C" fn() -> *const c_char>(b"fake_recorded");
            let recorded = recorded.map_err(|error| error.to_string())?;
            record(1);
            let result = run();
            let text = CStr::from_ptr(recorded()).to_string_lossy().into_owned();
            record(0);
            Ok((result, text.lines().map(str::to_owned).collect()))
        }
    }
}

/// A line for each small case: its kernel, its shape, and what one more launch of it calls.
fn print(cases: &[Box<dyn Case>]) -> Result<(), String> {
    let words = |error: lacuna::Error| error.to_string();
    driver::probe().map_err(words)?;
    let recorder = Recorder::find()?;
    // SAFETY: the fake driver takes any number for a context.
    let code = unsafe { sys::cuCtxPushCurrent_v2(without_provenance_mut(ENGINE_CONTEXT)) };
    super::gpu::check_peer("cuCtxPushCurrent", code)?;
    let device = Device::open(0).map_err(words)?;
    device.warm_up().map_err(words)?;
    // SAFETY: the fake driver takes any number for a stream.
    let queue = unsafe { device.borrow_stream(without_provenance_mut(ENGINE_STREAM)) };
    for case in cases.iter().filter(|case| case.is_small()) {
        if case.unsupported(&queue).is_some() {
            continue;
        }
        let what = format!("{}, {}", case.kernel(), case.shape());
        let fail = |error: lacuna::Error| format!("{what}: {error}");
        let mut work = case.prepare(&queue).place(&queue).map_err(fail)?;
        work.launch(&queue).map_err(fail)?;
        let (launched, calls) = recorder.record(|| work.launch(&queue))?;
        launched.map_err(fail)?;
        let mut current = null_mut();
        // SAFETY: it writes one handle.
        let code = unsafe { sys::cuCtxGetCurrent(&mut current) };
        super::gpu::check_peer("cuCtxGetCurrent", code)?;
        if current.addr() != ENGINE_CONTEXT {
            return Err(format!("{what}: another context is current afterwards"));
        }
        println!("{}\t{}\t{}", case.kernel(), case.shape(), calls.join(";"));
    }
    Ok(())
}

/// What cases have in common that call alike.
struct Row {
    kernel: String,
    shapes: Vec<String>,
    devices: BTreeSet<&'static str>,
    /// What comes between a context and the engine's own, in order.
    steps: Vec<String>,
}

/// A room's table.
fn report(room: &str) -> Result<String, String> {
    let mut rows: Vec<Row> = Vec::new();
    for (capability, define) in DEVICES {
        for line in run_child(define)?.lines() {
            let fields: Vec<_> = line.split('\t').collect();
            let [kernel, shape, calls] = fields[..] else { continue };
            let calls: Vec<_> = calls.split(';').collect();
            let steps = steps_of(&calls).map_err(|why| format!("{kernel}, {shape}: {why}"))?;
            let is_alike = |row: &&mut Row| row.kernel == kernel && row.steps == steps;
            match rows.iter_mut().find(is_alike) {
                Some(row) => {
                    row.devices.insert(capability);
                    if !row.shapes.iter().any(|found| found == shape) {
                        row.shapes.push(shape.to_owned());
                    }
                }
                None => rows.push(Row {
                    kernel: kernel.to_owned(),
                    shapes: vec![shape.to_owned()],
                    devices: [capability].into(),
                    steps,
                }),
            }
        }
    }
    let launched: BTreeSet<_> =
        rows.iter().flat_map(|row| &row.steps).filter_map(|step| kernel_of(step)).collect();
    let images = image::all().iter().filter(|image| image.room == room);
    let entries: BTreeSet<_> = images.flat_map(|image| image.entries).copied().collect();
    if launched != entries {
        let missing: Vec<_> = entries.symmetric_difference(&launched).collect();
        return Err(format!("kernels that no small case launches, or of no image: {missing:?}"));
    }
    Ok(table(room, entries.len(), &rows))
}

fn table(room: &str, n_kernels: usize, rows: &[Row]) -> String {
    let mut text = format!(
        "# Calls of the driver: `{room}`\n\n\
         Written by `cargo xtask calls`, and held by `cargo test`: what each case of the room's bench, launched once more, calls after\n\
         `Device::warm_up`, on a stream of an engine's, with the engine's context current. All {n_kernels} kernels of the room's images are\n\
         launched. Each launch is four calls: `cuCtxGetCurrent`, `cuCtxPushCurrent`, `cuLaunchKernel` on that stream (in clusters\n\
         `cuLaunchKernelEx`) and `cuCtxPopCurrent`. There is no other call, and the engine's context is current again.\n\n\
         | case | compute capability | launches | shapes |\n|---|---|---|---|\n"
    );
    for Row { kernel, shapes, devices, steps } in rows {
        let devices: Vec<_> = devices.iter().copied().collect();
        let shapes = match &shapes[..] {
            [shape] => shape.clone(),
            shapes => format!("{}, as {}", shapes.len(), shapes[0]),
        };
        let (devices, steps) = (devices.join(", "), steps.join("; "));
        let _ = writeln!(text, "| `{kernel}` | {devices} | {steps} | {shapes} |");
    }
    text
}

/// What is between the contexts, or why that is no guest's.
fn steps_of(calls: &[&str]) -> Result<Vec<String>, String> {
    let mut steps = Vec::new();
    for part in calls.chunks(4) {
        let [get, push, call, pop] = *part else { return Err(format!("calls {calls:?}")) };
        if [get, push] != ENTER || pop != LEAVE {
            return Err(format!("calls {calls:?}"));
        }
        let words: Vec<_> = call.split(' ').collect();
        let stream = format!("{ENGINE_STREAM:#x}");
        let step = match words[..] {
            [name, kernel, "stream", found] if found == stream => {
                let launch = LAUNCHES.iter().find(|(launch, _)| *launch == name);
                launch.map(|(_, how)| format!("launch `{kernel}`{how}"))
            }
            _ => None,
        };
        steps.push(step.ok_or_else(|| format!("calls {call}"))?);
    }
    Ok(steps)
}

fn kernel_of(step: &str) -> Option<&str> {
    step.strip_prefix("launch `")?.split('`').next()
}

fn run_child(define: &str) -> Result<String, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let compiled = Command::new(&compiler)
        .args(["-std=c11", "-O1", "-shared", "-fPIC", "-DFAKE_VERSION=13000", define, "-o"])
        .arg(folder.path().join(LIBRARY))
        .arg(repository().join("tests/fake_driver/driver.c"))
        .output()
        .map_err(|error| format!("{}: {error}", compiler.display()))?;
    if !compiled.status.success() {
        return Err(String::from_utf8_lossy(&compiled.stderr).into_owned());
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .args(["kernels", "calls"])
        .env(CHILD, "1")
        .env("LD_LIBRARY_PATH", folder.path())
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
