//! Every call that an operation makes fails once: by a code that says no, and by one that says the context is lost. What
//! is told, what goes on all the same and what stays is a table, `snapshots/driver__failures__*.snap`.

use std::any::Any;
use std::collections::BTreeSet;
use std::ffi::{CStr, c_char, c_int};
use std::ptr::without_provenance_mut;

use half::bf16;
use lacuna::huffman::lane::{DeviceLane, LaneShape};
use lacuna::huffman::{self, DeviceWeights, compact};
use lacuna::kv::KvArena;
use lacuna::launch::Grid;
use lacuna::select::{CompactInputs, CompactOutputs, CompactPlan, CompactShape, compact_rows};
use lacuna::{Device, Error, driver};

use super::arena::{CHUNK, Knobs, SHAPE, SMALL};
use super::{Fake, HopperParams, STRANGER, current, enter_stranger, grid, launch, launch_raw, say};

/// How a call fails.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// It did nothing.
    Once,
    /// The context is lost with it.
    Lost,
    /// It did what it was asked for, and says what an earlier launch did.
    Late,
}

const KINDS: [&str; 10] = [
    "device memory",
    "pinned memory",
    "a stream",
    "an event",
    "a module",
    "the context",
    "addresses",
    "a chunk",
    "a mapping",
    "a context on a stack",
];

impl Knobs {
    /// The nth call of all from now on fails; 0 is none.
    fn fault(&self, nth: i32, code: i32, mode: Mode) {
        type Fault = unsafe extern "C" fn(*const c_char, c_int, c_int, c_int);
        // SAFETY: a function of the fake driver that takes a name, or none, and three ints.
        unsafe {
            self.get::<Fault>(c"fake_fault")(std::ptr::null(), nth, code, mode as i32);
        }
    }

    /// The call that was made to fail.
    fn struck(&self) -> String {
        // SAFETY: a function of the fake driver that returns a terminated text.
        let name = unsafe { self.get::<unsafe extern "C" fn() -> *const c_char>(c"fake_struck")() };
        // SAFETY: as above.
        unsafe { CStr::from_ptr(name) }.to_str().unwrap().to_owned()
    }

    fn alive(&self) -> [i32; KINDS.len()] {
        let mut counts = [0; KINDS.len()];
        // SAFETY: a function of the fake driver that writes so many ints.
        unsafe {
            self.get::<unsafe extern "C" fn(*mut i32)>(c"fake_alive")(counts.as_mut_ptr());
        }
        counts
    }

    /// The names of what is called meanwhile.
    fn record<R>(&self, run: impl FnOnce() -> R) -> (R, Vec<String>) {
        // SAFETY: functions of the fake driver; the text is terminated, and nothing calls while it is read.
        unsafe {
            let record = self.get::<unsafe extern "C" fn(i32)>(c"fake_record");
            record(1);
            let result = run();
            let text = self.get::<unsafe extern "C" fn() -> *const c_char>(c"fake_recorded")();
            let text = CStr::from_ptr(text).to_str().unwrap().to_owned();
            record(0);
            let names = text.lines().map(|line| line.split(' ').next().unwrap().to_owned());
            (result, names.collect())
        }
    }

    /// What copies of so many bytes to the host find.
    fn answer<T: bytemuck::NoUninit>(&self, values: &'static [T]) {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        // SAFETY: a function of the fake driver that takes bytes which live as long as the process.
        unsafe {
            self.get::<unsafe extern "C" fn(*const u8, usize)>(c"fake_answer")(
                bytes.as_ptr(),
                bytes.len(),
            );
        }
    }
}

/// What an operation leaves is dropped under the fault too.
type Made = Result<Box<dyn Any>, Error>;

fn made<T: 'static>(value: T) -> Made {
    Ok(Box::new(value))
}

/// What may go on although a call of it fails; whatever else fails is told.
type Quiet = &'static [&'static str];

/// These end what there is, when nobody can be told.
const ENDS: Quiet = &[
    "cuCtxPopCurrent",
    "cuStreamDestroy",
    "cuEventDestroy",
    "cuModuleUnload",
    "cuDevicePrimaryCtxRelease",
    "cuMemFree",
    "cuMemFreeAsync",
    "cuMemFreeHost",
    "cuMemUnmap",
    "cuMemRelease",
    "cuMemAddressFree",
];

/// What a probe looks for.
fn symbols() -> impl Iterator<Item = &'static str> {
    let source = include_str!("../../src/driver.rs");
    let list =
        source.split_once("const SYMBOLS: &[&str] = &[").unwrap().1.split_once(']').unwrap().0;
    list.split('"').skip(1).step_by(2)
}

/// Of so many, each fails by fewer codes.
const MANY_CALLS: usize = 250;

struct Sweep<'k> {
    knobs: &'k Knobs,
    n_points: usize,
}

impl Sweep<'_> {
    /// Fails each call of an operation, those of dropping what it makes included.
    fn operation(&mut self, name: &str, quiet: Quiet, mut run: impl FnMut() -> Made) {
        let knobs = self.knobs;
        // Events and the like that are made once.
        drop(run().unwrap());
        let mut before = knobs.alive();
        knobs.fault(0, 0, Mode::Once);
        let (made, calls) = knobs.record(&mut run);
        let (_, ends) = knobs.record(|| drop(made.unwrap()));
        let (n_run, calls) = (calls.len(), [calls, ends].concat());
        for call in &calls {
            assert!(symbols().any(|symbol| symbol.trim_end_matches("_v2") == call), "{call}");
        }
        assert_eq!(knobs.alive(), before, "{name} leaves something");

        let (mut n_told, mut n_swept) = (0, 0);
        let (mut goes_on, mut stays) = (BTreeSet::new(), BTreeSet::new());
        for (idx, call) in calls.iter().enumerate() {
            let mut faults = vec![(2, Mode::Once), (719, Mode::Lost)];
            if calls.len() < MANY_CALLS {
                faults.extend([(1, Mode::Once), (700, Mode::Lost)]);
            }
            if call.starts_with("cuCtx") {
                faults.push((700, Mode::Late));
            }
            for (code, mode) in faults {
                let what = format!("{name}: call {}, {call}, fails by {code}", idx + 1);
                knobs.fault(idx as i32 + 1, code, mode);
                let result = run().map(drop);
                let struck = knobs.struck();
                knobs.fault(0, 0, Mode::Once);
                n_swept += 1;
                assert_eq!(struck, *call, "{what}");
                assert_eq!(current(), STRANGER, "{what}: another context is current");
                match result {
                    Err(error) => {
                        is_told(&error, &struck, code, mode).unwrap_or_else(|why| {
                            panic!("{what}: {why}: {error}");
                        });
                        n_told += 1;
                    }
                    Ok(()) if idx >= n_run => {}
                    Ok(()) => {
                        let may = quiet.contains(&call.as_str()) || is_end(&calls[idx..]);
                        assert!(may, "{what}, and nobody is told");
                        goes_on.insert(call.clone());
                    }
                }
                let after = knobs.alive();
                let left: Vec<_> = std::iter::zip(KINDS, std::iter::zip(after, before))
                    .filter(|(_, (after, before))| after != before)
                    .map(|(kind, (after, before))| (kind, after - before))
                    .collect();
                if mode != Mode::Lost && !left.is_empty() {
                    assert!(ENDS.contains(&call.as_str()), "{what}, and {left:?} stays");
                    let words: Vec<_> = left
                        .iter()
                        .map(
                            |(kind, n)| {
                                if *n == 1 { (*kind).to_owned() } else { format!("{n} {kind}") }
                            },
                        )
                        .collect();
                    let phase = if idx < n_run { "" } else { ", dropping" };
                    stays.insert(format!("{call}{phase}: {}", words.join(", ")));
                }
                assert_eq!(after[9], before[9], "{what}: stacks of contexts are not as before");
                if mode == Mode::Lost {
                    // SAFETY: a function of the fake driver that takes nothing.
                    unsafe { knobs.get::<unsafe extern "C" fn()>(c"fake_bury")() };
                }
                before = knobs.alive();

                let mut again = || {
                    let (made, calls) = knobs.record(&mut run);
                    let made = made.unwrap_or_else(|error| panic!("{what}, and then {error}"));
                    [calls, knobs.record(|| drop(made)).1].concat()
                };
                let mut calls_again = again();
                if mode == Mode::Lost && calls_again != calls {
                    // It has waited for what it could not wait for before.
                    calls_again = again();
                }
                assert_eq!(calls_again, calls, "{what}, and then it is another");
                assert_eq!(knobs.alive(), before, "{what}, and then something is left");
                assert_eq!(knobs.ask("fake_violations"), 0, "{what}");
            }
        }
        let list = |set: BTreeSet<String>| match set.len() {
            0 => "-".to_owned(),
            _ => set.into_iter().collect::<Vec<_>>().join("; "),
        };
        let (n_calls, goes_on, stays) = (calls.len(), list(goes_on), list(stays));
        say(format!("| {name} | {n_calls} | {n_swept} | {n_told} | {goes_on} | {stays} |"));
        self.n_points += n_swept;
    }
}

/// Whether a call is one of those, or makes the context current for it.
fn is_end(calls: &[String]) -> bool {
    let is_ours = |call: &&String| ["cuCtxGetCurrent", "cuCtxPushCurrent"].contains(&call.as_str());
    let after = calls.iter().find(|call| !is_ours(call));
    after.is_some_and(|call| ENDS.contains(&call.as_str()))
}

/// Whether an error says which call failed, and how.
fn is_told(error: &Error, struck: &str, code: i32, mode: Mode) -> Result<(), &'static str> {
    let (call, found) = match error {
        Error::Driver { call, code, .. } => ((*call).to_owned(), *code),
        Error::Image { reason, .. } => {
            let is_named = reason.contains(struck) || mode == Mode::Lost;
            let is_so = is_named && reason.contains(&format!("({code})"));
            return is_so.then_some(()).ok_or("it names another call or code");
        }
        // Memory that is short is the arena's own word.
        Error::ArenaFull { .. } if struck == "cuMemCreate" && code == 2 => return Ok(()),
        _ => return Err("no error of the driver's"),
    };
    if found != code as u32 {
        return Err("it has another code");
    }
    // In a lost context what follows fails too, and may be the first that can be told.
    (call == struck || mode == Mode::Lost).then_some(()).ok_or("it names another call")
}

/// Weights of each exponent, as kernels that do not run would have counted them.
static COUNTS: [u64; 256] = {
    let mut counts = [0; 256];
    counts[120] = 500;
    counts[121] = 1500;
    counts[122] = 3000;
    counts
};
const N_WEIGHTS: usize = 5000;

/// A probe of which one call fails; it is looked at anew each time, until all is well.
fn of_the_probe(fault: &str) {
    let numbers: Vec<i32> = fault.split(' ').map(|number| number.parse().unwrap()).collect();
    let [nth, code] = numbers[..] else { panic!("{fault}") };
    let knobs = Knobs::find();
    let mode = if code == 719 { Mode::Lost } else { Mode::Once };
    knobs.fault(nth, code, mode);
    let found = driver::probe();
    let struck = knobs.struck();
    knobs.fault(0, 0, Mode::Once);
    let what = match &found {
        _ if struck.is_empty() => "nothing".to_owned(),
        Ok(_) => format!("goes on {struck}"),
        Err(error) => {
            let names = |symbol: &&str| symbol.trim_end_matches("_v2") == struck;
            let said = match error {
                Error::Driver { call, code, .. } => Error::Driver {
                    call: call.trim_end_matches("_v2"),
                    code: *code,
                    name: String::new(),
                    hint: String::new(),
                },
                other => panic!("{other}"),
            };
            assert!(symbols().any(|symbol| names(&symbol)), "{struck}");
            is_told(&said, &struck, code, Mode::Once).unwrap();
            "told".to_owned()
        }
    };
    assert_eq!(driver::probe().unwrap().devices.len(), 1);
    drop(Device::open(0).unwrap());
    assert_eq!(knobs.alive(), [0; KINDS.len()]);
    say(what);
}

pub(super) fn step(step: &str) {
    if let Some(fault) = step.strip_prefix("failures probe ") {
        return of_the_probe(fault);
    }
    enter_stranger();
    let device = Device::open(0).unwrap();
    device.warm_up().unwrap();
    let knobs = Knobs::find();
    let mut sweep = Sweep { knobs: &knobs, n_points: 0 };
    match step {
        "failures device" => of_devices(&mut sweep),
        "failures memory" => of_memory(&mut sweep, &device),
        "failures launches" => of_launches(&mut sweep, &device),
        "failures weights" => of_weights(&mut sweep, &device),
        "failures arena" => of_an_arena(&mut sweep, &device),
        other => panic!("no step {other}"),
    }
    say(format!("{} failures", sweep.n_points));
}

/// Of a second device, which nobody else has open.
fn of_devices(sweep: &mut Sweep<'_>) {
    sweep.operation("open", &[], || made(Device::open(1)?));
    sweep.operation("open, make a queue", &[], || made(Device::open(1)?.queue()?));
    // Whether clusters of more than 8 blocks run is the driver's to say of each launch.
    sweep.operation("open, warm up", &["cuFuncSetAttribute"], || {
        let device = Device::open(1)?;
        device.warm_up()?;
        made(device)
    });
    sweep.operation("open, launch once without warming up", &[], || {
        let device = Device::open(1)?;
        launch_raw(&device, without_provenance_mut(0xE0), 7)?;
        made(device)
    });
}

fn of_memory(sweep: &mut Sweep<'_>, device: &Device) {
    let queue = device.queue().unwrap();
    let other = device.queue().unwrap();
    sweep.operation("queue", &[], || made(device.queue()?));
    sweep.operation("alloc", &[], || made(queue.alloc::<u32>(5)?));
    sweep.operation("alloc_pinned", &[], || made(queue.alloc_pinned::<u32>(5)?));
    sweep.operation("upload", &[], || made(queue.upload(&[1_u32, 2])?));
    let mut own = queue.alloc::<u32>(5).unwrap();
    let mut pinned = queue.alloc_pinned::<u32>(5).unwrap();
    sweep.operation("upload_into", &[], || made(queue.upload_into(&[1; 5], &mut own.view_mut())?));
    sweep.operation("download", &[], || made(queue.download(&own.view())?));
    sweep.operation("fill_zero", &[], || made(queue.fill_zero(&mut own.view_mut())?));
    sweep.operation("synchronize", &[], || made(queue.synchronize()?));
    sweep.operation("pinned_slice", &[], || made(queue.pinned_slice(&mut pinned)?[0]));
    sweep.operation("wait_for", &[], || made(other.wait_for(&queue)?));
    let lend = |buffer: &lacuna::Buffer<u32>| {
        queue.lend(&other, buffer.view(), |view| other.download(&view))
    };
    // The host waits where no event can.
    let second = &[
        "cuEventCreate",
        "cuEventRecord",
        "cuStreamWaitEvent",
        "cuCtxGetCurrent",
        "cuCtxPushCurrent",
    ];
    sweep.operation("lend", second, || made(lend(&own)?));
    sweep.operation("alloc, adopt", &[], || {
        let mut buffer = queue.alloc::<u32>(5)?;
        other.adopt(&mut buffer)?;
        made(buffer)
    });
    sweep.operation("alloc_pinned, adopt", &[], || {
        let mut buffer = queue.alloc_pinned::<u32>(5)?;
        other.adopt(&mut buffer)?;
        made(buffer)
    });
}

fn of_launches(sweep: &mut Sweep<'_>, device: &Device) {
    // SAFETY: the fake driver takes any number for a stream.
    let queue = unsafe { device.borrow_stream(without_provenance_mut(0xE0)) };
    sweep.operation("launch", &[], || made(launch(&queue, &grid(7), 1)?));
    sweep.operation("launch of clusters", &[], || {
        let grid = Grid { cluster_blocks: 2, ..grid(8) };
        // SAFETY: the fake driver runs nothing.
        made(unsafe { launch::launch(&queue, &grid, &HopperParams(1), |_| {}) }?)
    });
    let plan = CompactPlan::new(CompactShape::of(2, 80_000, 16)).unwrap();
    let kept = queue.alloc::<u8>(plan.mask_len() as usize).unwrap();
    let mut workspace = queue.alloc(plan.workspace_len() as usize).unwrap();
    let mut indices = queue.alloc(plan.indices_len() as usize).unwrap();
    let mut counts = queue.alloc(2).unwrap();
    sweep.operation("compact_rows, two launches", &[], || {
        let mut outputs = CompactOutputs {
            indices: indices.view_mut(),
            counts: counts.view_mut(),
            offsets: None,
            row_starts: None,
            workspace: workspace.view_mut(),
        };
        let inputs = CompactInputs::whole(kept.view());
        made(compact_rows(&queue, &plan, &inputs, &mut outputs)?)
    });
}

fn of_weights(sweep: &mut Sweep<'_>, device: &Device) {
    let queue = device.queue().unwrap();
    let weights: Vec<u16> =
        (0..N_WEIGHTS as u16).map(|i| ((120 + i % 3) << 7) | (i % 97)).collect();
    let encoded = huffman::encode(&[bytemuck::cast_slice(&weights)]).unwrap();
    let groups = [encoded.as_raw("all").parse().unwrap()];
    let on_device: lacuna::Buffer<bf16> = queue.upload(bytemuck::cast_slice(&weights)).unwrap();
    let view = on_device.view();
    sweep.operation("DeviceWeights: upload, decode, check", &[], || {
        let weights = DeviceWeights::upload(&queue, &groups)?;
        let mut output = queue.alloc(weights.plan().output_len() as usize)?;
        let mut workspace = queue.alloc(weights.plan().workspace_len() as usize)?;
        weights.decode(&queue, &mut workspace.view_mut(), &mut output.view_mut())?;
        weights.check(&queue, &workspace.view())?;
        made(output)
    });
    sweep.operation("DeviceWeights: upload, index, decode, check", &[], || {
        let mut weights = DeviceWeights::upload(&queue, &groups)?;
        weights.index(&queue)?;
        let mut output = queue.alloc(weights.plan().output_len() as usize)?;
        let mut workspace = queue.alloc(weights.plan().workspace_len() as usize)?;
        weights.decode(&queue, &mut workspace.view_mut(), &mut output.view_mut())?;
        weights.check(&queue, &workspace.view())?;
        made(output)
    });
    sweep.knobs.answer(&COUNTS);
    sweep.operation("Encoder: new, encode, download", &[], || {
        let mut encoder = huffman::Encoder::new(&queue, N_WEIGHTS as u64)?;
        let group = encoder.encode(&queue, &view)?;
        made(group.download(&queue)?)
    });
    let mut encoder = huffman::Encoder::new(&queue, N_WEIGHTS as u64).unwrap();
    sweep.operation("Encoder: encode again", &[], || made(encoder.encode(&queue, &view)?));
    let mut encoder = compact::Encoder::new(&queue, N_WEIGHTS as u64).unwrap();
    sweep.operation("compact::Encoder: encode", &[], || {
        made(encoder.encode(&queue, &view)?.download(&queue)?)
    });
    let shape = LaneShape::new(50, 100).unwrap();
    sweep.operation("DeviceLane: pack, download, unpack", &[], || {
        let lane = DeviceLane::pack(&queue, shape, &view, 100)?;
        lane.download(&queue)?;
        let mut output = queue.alloc(N_WEIGHTS)?;
        lane.unpack(&queue, &mut output.view_mut(), 100)?;
        made((lane, output))
    });
}

fn of_an_arena(sweep: &mut Sweep<'_>, device: &Device) {
    let queue = device.queue().unwrap();
    sweep.operation("KvArena: reserve", &[], || made(KvArena::<bf16>::reserve(&queue, SHAPE)?));
    // All but growing ahead, which answers nobody.
    sweep.operation("KvArena: reserve, grow, release, grow another, trim, stock", &[], || {
        let mut arena = KvArena::<bf16>::reserve(&queue, SHAPE)?;
        arena.grow(0, 32)?;
        arena.release(0)?;
        arena.grow(1, 32)?;
        arena.shrink(1, 16)?;
        arena.trim(0)?;
        arena.stock(2 * CHUNK)?;
        made(arena)
    });
}

/// A row for each operation.
fn table(defines: &[&str], steps: &[&str]) -> String {
    let mut text = "\n| operation | calls | failures | told | goes on, though this failed | stays, where this failed |\n\
                    |---|---|---|---|---|---|\n"
        .to_owned();
    for step in steps {
        let said = Fake::driver(defines).say(&format!("failures {step}"));
        text += &said;
        text += "\n";
    }
    text
}

#[test]
fn every_call_of_a_probe_fails_once() {
    let fake = Fake::driver(&[]);
    for code in [1, 719] {
        let said: Vec<_> = (1..)
            .map(|nth| fake.say(&format!("failures probe {nth} {code}")))
            .take_while(|said| said != "nothing")
            .collect();
        // What its memory moves is 0 where the driver does not say.
        let goes_on: Vec<_> = said.iter().filter(|said| *said != "told").collect();
        assert!(said.len() == 13, "{said:?}");
        assert_eq!(goes_on, ["goes on cuDeviceGetAttribute"; 2], "{code}");
    }
}

#[test]
fn a_driver_without_any_one_function_is_a_stub() {
    let mut n_symbols = 0;
    let fake = Fake::driver(&[]);
    let library = std::fs::read(fake.path().join("libcuda.so")).unwrap();
    for symbol in symbols() {
        // By another name in the table of names, nobody finds it.
        let (name, other) = (format!("\0{symbol}\0"), format!("\0x{}\0", &symbol[1..]));
        let mut bytes = library.clone();
        while let Some(at) = bytes.windows(name.len()).position(|part| part == name.as_bytes()) {
            bytes[at..at + name.len()].copy_from_slice(other.as_bytes());
        }
        std::fs::write(fake.path().join("libcuda.so"), bytes).unwrap();
        let said = fake.say("probe");
        let expected = format!("libcuda.so is a stub, not the CUDA driver (it has no {symbol})");
        assert!(said.lines().all(|line| line.starts_with(&expected)), "{symbol}: {said}");
        n_symbols += 1;
    }
    assert!(n_symbols > 40, "{n_symbols}");
}

#[test]
fn every_call_of_a_device_fails_once() {
    let hopper = ["FAKE_MAJOR=9", "FAKE_DEVICES=2"];
    insta::assert_snapshot!("device", table(&hopper, &["device"]));
}

#[test]
fn every_call_of_memory_fails_once() {
    insta::assert_snapshot!("memory", table(&[], &["memory"]));
    insta::assert_snapshot!("memory_without_pools", table(&["FAKE_POOLS=0"], &["memory"]));
}

#[test]
fn every_call_of_launches_fails_once() {
    insta::assert_snapshot!("launches", table(&["FAKE_MAJOR=9"], &["launches", "weights"]));
}

#[test]
fn every_call_of_an_arena_fails_once() {
    insta::assert_snapshot!("arena", table(&[SMALL], &["arena"]));
}
