//! The driver probe and the CUDA executor's host side, on drivers made for the purpose: each test
//! compiles a library, puts it where the loader looks for libcuda, and runs a child process in
//! which any panic, caught or not, is an abort.
#![cfg(all(feature = "cuda", target_os = "linux"))]
#![allow(unsafe_code)]

#[path = "driver/arena.rs"]
mod arena;
#[path = "driver/calls.rs"]
mod calls;
#[path = "driver/failures.rs"]
mod failures;
#[path = "driver/handover.rs"]
mod handover;

use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::{null_mut, without_provenance_mut};

use lacuna::cudarc::driver::sys;
use lacuna::launch::{self, Grid, Kernel, KernelParams};
use lacuna::{Device, Error, Memory, Queue, View, ViewMut, driver};

/// A folder of fake libraries.
struct Fake {
    folder: tempfile::TempDir,
}

impl Fake {
    /// No library at all.
    fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A library under both names of the driver.
    fn new(source: &str, defines: &[&str]) -> Self {
        Self::empty().with("libcuda.so", source, defines).with("libcuda.so.1", source, defines)
    }

    fn driver(defines: &[&str]) -> Self {
        Self::new("driver.c", defines)
    }

    fn with(self, name: &str, source: &str, defines: &[&str]) -> Self {
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let source: PathBuf =
            [env!("CARGO_MANIFEST_DIR"), "tests", "fake_driver", source].iter().collect();
        let output = Command::new(&compiler)
            .args(["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"])
            .args(defines.iter().map(|define| format!("-D{define}")))
            .arg("-o")
            .arg(self.path().join(name))
            .arg(source)
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", compiler.display()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What a child process says that runs `step` with these libraries.
    fn say(&self, step: &str) -> String {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env("LD_LIBRARY_PATH", self.path())
            .env("LACUNA_DRIVER_STEP", step)
            .env("FAKE_LOG", self.path().join("log"))
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{step}: {}\n{stdout}\n{stderr}", output.status);
        let said: Vec<_> = stdout.lines().filter_map(|line| line.strip_prefix("said: ")).collect();
        assert!(!said.is_empty(), "{step} said nothing\n{stdout}\n{stderr}");
        said.join("\n")
    }

    /// What the fake driver noted: the calls that an engine could notice, and the marks.
    fn calls(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.path().join("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }
}

fn say(line: impl std::fmt::Display) {
    // The test harness has printed the test's name without a line's end.
    println!("\nsaid: {line}");
}

/// Writes a line among the fake driver's calls.
fn mark(line: &str) {
    use std::io::Write;
    let path = std::env::var_os("FAKE_LOG").unwrap();
    let mut log = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    writeln!(log, "{line}").unwrap();
}

#[test]
#[ignore = "the other tests run it, each in a process of its own"]
fn child() {
    let Ok(step) = std::env::var("LACUNA_DRIVER_STEP") else { return };
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        std::process::abort();
    }));
    match step.as_str() {
        "probe" => {
            // Twice: what a failed probe leaves must not change the next one.
            for _ in 0..2 {
                match driver::probe() {
                    Ok(info) => say(format!("{info:?}")),
                    Err(error) => say(error),
                }
            }
        }
        "open 0" | "open 7" => {
            let ordinal = if step == "open 0" { 0 } else { 7 };
            match Device::open(ordinal) {
                Ok(device) => say(device.name()),
                Err(error) => say(format!("{error:?}")),
            }
        }
        "warm up" => match Device::open(0).unwrap().warm_up() {
            Ok(()) => say("warm"),
            Err(error) => say(error),
        },
        "work" => work(),
        "capture" => capture(),
        "threads" => first_launch_from_many_threads(),
        "streams" => buffers_of_two_streams(),
        "clusters" => clusters(),
        step if step.starts_with("arena") => arena::step(step),
        "pinned" => pinned(),
        step if step.starts_with("handover") => handover::step(step),
        step if step.starts_with("failures") => failures::step(step),
        other => panic!("no step {other}"),
    }
}

/// What a probe says, which must be the same both times.
fn probe(fake: &Fake) -> String {
    let said = fake.say("probe");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[0], lines[1]);
    lines[0].to_owned()
}

/// Whether the machine's loader finds a real driver, which no empty folder hides.
fn has_real_driver() -> bool {
    let has = !probe(&Fake::empty()).starts_with("no CUDA driver");
    if has {
        eprintln!("skipped: this machine has a CUDA driver, and the test needs none");
    }
    has
}

#[test]
fn no_library_is_no_driver() {
    if has_real_driver() {
        return;
    }
    assert_eq!(
        probe(&Fake::empty()),
        "no CUDA driver: looked for libcuda.so, libcuda.so.1; install the NVIDIA driver, or use \
         the CPU decoder"
    );
}

#[test]
fn a_file_that_does_not_load_is_no_driver_and_says_why() {
    let fake = Fake::empty();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::fs::write(fake.path().join(name), "not a library").unwrap();
    }
    let said = probe(&fake);
    assert!(said.starts_with("no CUDA driver: looked for libcuda.so ("), "{said}");
    assert_eq!(said.matches("file too short").count(), 2, "{said}");
    let said = fake.say("open 0");
    assert!(said.starts_with("NoDriver {"), "{said}");
}

#[test]
fn a_library_without_the_drivers_functions_is_a_stub() {
    let said = probe(&Fake::new("unrelated.c", &[]));
    assert!(
        said.starts_with(
            "libcuda.so is a stub, not the CUDA driver (it has no cuDriverGetVersion);"
        ),
        "{said}"
    );
}

#[test]
fn a_library_with_some_of_the_drivers_functions_is_a_stub() {
    let said = probe(&Fake::driver(&["FAKE_IS_TRUNCATED"]));
    assert!(said.contains("(it has no cuDeviceTotalMem_v2)"), "{said}");
    let said = Fake::driver(&["FAKE_IS_TRUNCATED"]).say("open 0");
    assert!(said.starts_with("StubDriver {"), "{said}");
}

#[test]
fn a_toolkits_stub_is_a_stub() {
    let said = probe(&Fake::new("stub.c", &[]));
    assert!(said.contains("is a stub, not the CUDA driver (cuDriverGetVersion says so)"), "{said}");
    let said = probe(&Fake::driver(&["FAKE_INIT_RESULT=34"]));
    assert!(said.contains("is a stub, not the CUDA driver (cuInit says so)"), "{said}");
}

#[test]
fn the_library_probed_is_the_one_cudarc_would_load() {
    let fake =
        Fake::empty().with("libcuda.so", "stub.c", &[]).with("libcuda.so.1", "driver.c", &[]);
    let said = probe(&fake);
    assert!(said.starts_with("libcuda.so is a stub"), "{said}");
    if has_real_driver() {
        return;
    }
    let fake = Fake::empty().with("libcuda.so.1", "driver.c", &[]);
    assert!(probe(&fake).contains("library: \"libcuda.so.1\""));
    assert_eq!(fake.say("open 0"), "Fake 0");
}

#[test]
fn an_old_driver_is_too_old_even_where_functions_are_missing() {
    for defines in [&["FAKE_VERSION=11080"][..], &["FAKE_VERSION=10020", "FAKE_IS_TRUNCATED"]] {
        let said = Fake::driver(defines).say("open 0");
        assert!(said.starts_with("DriverTooOld {"), "{said}");
    }
    assert_eq!(
        probe(&Fake::driver(&["FAKE_VERSION=11080"])),
        "the CUDA driver supports CUDA 11.8, and 12.0 or newer is needed (driver 525 or newer); \
         update the driver"
    );
}

#[test]
fn a_driver_without_devices_is_no_device() {
    for define in ["FAKE_DEVICES=0", "FAKE_INIT_RESULT=100"] {
        assert_eq!(
            probe(&Fake::driver(&[define])),
            "no CUDA device 0: the driver sees 0; check nvidia-smi, CUDA_VISIBLE_DEVICES, and the \
             container's GPU access"
        );
        let said = Fake::driver(&[define]).say("open 0");
        assert!(said.starts_with("NoDevice { ordinal: 0, count: 0"), "{said}");
    }
    let said = Fake::driver(&["FAKE_DEVICES=2"]).say("open 7");
    assert!(said.starts_with("NoDevice { ordinal: 7, count: 2"), "{said}");
}

#[test]
fn a_driver_that_does_not_start_says_what_it_said() {
    assert_eq!(
        probe(&Fake::driver(&["FAKE_INIT_RESULT=803"])),
        "cuInit failed: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803); kernel module and libcuda are of \
         different versions: restart the machine"
    );
}

#[test]
fn an_old_device_is_seen_and_refused() {
    let fake = Fake::driver(&["FAKE_MAJOR=7", "FAKE_MINOR=5"]);
    assert!(probe(&fake).contains("capability: (7, 5)"), "a doctor sees it");
    let said = fake.say("open 0");
    assert!(said.starts_with("UnsupportedDevice {"), "{said}");
    assert!(said.contains("found: (7, 5), needed: (8, 0)"), "{said}");
}

#[test]
fn a_working_driver_is_described() {
    assert_eq!(
        probe(&Fake::driver(&["FAKE_MAJOR=9"])),
        "DriverInfo { library: \"libcuda.so\", version: 12040, devices: [DeviceInfo { ordinal: 0, \
         name: \"Fake 0\", capability: (9, 0), memory_bytes: 85899345920, n_multiprocessors: 108, \
         l2_bytes: 41943040, shared_bytes_per_block: 166912, memory_bytes_per_second: 1555200000000 }] }"
    );
}

#[test]
fn a_refused_image_names_driver_image_and_remedy() {
    let said = Fake::driver(&["FAKE_LOAD_RESULT=222"]).say("warm up");
    assert_eq!(
        said,
        "no image of huffman loads on Fake 0 (compute capability 8.0, driver for CUDA 12.4): \
         compute_80 in PTX 8.0: cuModuleLoadDataEx failed: CUDA_ERROR_UNSUPPORTED_PTX_VERSION \
         (222); update the driver; the driver supports PTX up to 8.4; ptxas fatal : the fake says \
         no"
    );
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Params(u64);

unsafe extern "C" fn never_run(_: *const c_void, _: u32) {}

// SAFETY: the fake driver runs nothing, and reads the first eight bytes.
unsafe impl KernelParams for Params {
    const KERNEL: Kernel = Kernel { room: "huffman", entry: "decode_bf16", simt: never_run };
}

/// Not the device's: a stranger's context, current before and after everything.
const STRANGER: usize = 0x2000;

fn current() -> usize {
    let mut context = null_mut();
    // SAFETY: it writes one handle.
    assert_eq!(unsafe { sys::cuCtxGetCurrent(&mut context) } as u32, 0);
    context.addr()
}

#[track_caller]
fn checked<T>(what: &str, run: impl FnOnce() -> T) -> T {
    mark(&format!("# {what}"));
    let value = run();
    assert_eq!(current(), STRANGER, "{what} left another context current");
    value
}

fn grid(blocks: u32) -> Grid {
    Grid {
        blocks: [blocks, 2, 1],
        threads: [512, 1, 1],
        dynamic_shared_bytes: 0,
        cluster_blocks: 1,
    }
}

fn launch(queue: &Queue, grid: &Grid, param: u64) -> Result<(), Error> {
    // SAFETY: the fake driver runs nothing.
    unsafe { launch::launch(queue, grid, &Params(param), |_| {}) }
}

fn launch_raw(device: &Device, stream: sys::CUstream, param: u64) -> Result<(), Error> {
    // SAFETY: the fake driver runs nothing, and takes any number for a stream.
    unsafe { launch::launch_raw(device, stream, &grid(1), &Params(param)) }
}

fn enter_stranger() {
    driver::probe().unwrap();
    // SAFETY: the fake driver takes any number for a context.
    let code = unsafe { sys::cuCtxPushCurrent_v2(without_provenance_mut(STRANGER)) };
    assert_eq!(code as u32, 0);
}

fn work() {
    enter_stranger();
    let device = checked("open", || Device::open(0)).unwrap();
    let again = checked("open again", || Device::open(0)).unwrap();
    assert_eq!(device.context(), again.context());
    drop(again);
    checked("warm up", || device.warm_up()).unwrap();
    checked("warm up again", || device.warm_up()).unwrap();
    let queue = checked("queue", || device.queue()).unwrap();
    assert_eq!(queue.executor().to_string(), "CUDA device 0 (Fake 0)");
    assert_eq!(queue.memory(), Memory::Cuda(0));

    let mut zeros = checked("alloc", || queue.alloc::<u32>(5)).unwrap();
    let fives = checked("upload", || queue.upload(&[5_u32; 3])).unwrap();
    assert_eq!(queue.download(&zeros.view()).unwrap(), [0; 5]);
    let mut view = zeros.view_mut();
    queue.upload_into(&[1, 2], &mut view.slice_mut(3..5).unwrap()).unwrap();
    let ends = checked("download", || queue.download(&zeros.view().slice(2..4).unwrap())).unwrap();
    assert_eq!(ends, [0, 1]);
    checked("fill", || queue.fill_zero(&mut zeros.view_mut())).unwrap();
    checked("synchronize", || queue.synchronize()).unwrap();
    assert_eq!(queue.download(&zeros.view()).unwrap(), [0; 5]);

    checked("launch", || launch(&queue, &grid(7), 0xF00D)).unwrap();
    checked("launch nothing", || launch(&queue, &grid(0), 1)).unwrap();
    let stream = without_provenance_mut(0xE0);
    checked("launch raw", || launch_raw(&device, stream, 0xBEEF)).unwrap();
    let greedy = Grid { dynamic_shared_bytes: 166_001, ..grid(1) };
    let error = checked("refuse", || launch(&queue, &greedy, 0));
    assert!(matches!(error, Err(Error::Range { value: 166_001, .. })), "{error:?}");
    let clusters = Grid { cluster_blocks: 2, ..grid(4) };
    let error = checked("refuse clusters", || launch(&queue, &clusters, 0)).unwrap_err();
    assert!(error.to_string().starts_with("thread blocks of a cluster: 2 is outside 1"), "{error}");
    let error = checked("too much", || queue.alloc::<u64>(1 << 40)).unwrap_err();
    assert!(error.to_string().contains("CUDA_ERROR_OUT_OF_MEMORY"), "{error}");
    let error = queue.alloc::<u64>(usize::MAX).unwrap_err();
    assert!(matches!(error, Error::Range { .. }), "{error}");

    checked("free", || drop((zeros, fives)));
    checked("drop queue", || drop(queue));
    // SAFETY: the fake driver takes any number for a stream.
    let borrowed = checked("borrow", || unsafe { device.borrow_stream(stream) });
    let buffer = checked("borrowed alloc", || borrowed.alloc::<u8>(1)).unwrap();
    drop(device);
    checked("drop borrowed", || drop(borrowed));
    checked("drop last", || drop(buffer));
    say("done");
}

fn pinned() {
    enter_stranger();
    let device = Device::open(0).unwrap();
    let (queue, other) = (device.queue().unwrap(), device.queue().unwrap());
    let mut own = queue.alloc::<u32>(5).unwrap();
    let mut host = checked("pin", || queue.alloc_pinned::<u32>(5)).unwrap();
    assert!(host.is_pinned() && host.memory() == Memory::Cuda(0));
    let slice = checked("slice", || queue.pinned_slice(&mut host)).unwrap();
    assert_eq!(slice, [0; 5]);
    slice[3] = 7;
    // Queues use it as they use their own memory.
    checked("use", || queue.upload_into(&[1, 2], &mut host.view_mut().slice_mut(0..2).unwrap()))
        .unwrap();
    assert_eq!(queue.download(&host.view()).unwrap(), [1, 2, 0, 7, 0]);
    say(checked("elsewhere", || other.pinned_slice(&mut host).map(|_| ())).unwrap_err());
    let error = checked("not pinned", || queue.pinned_slice(&mut own).map(|_| ())).unwrap_err();
    assert!(error.to_string().ends_with("is outside what alloc_pinned gave"), "{error}");
    let error = checked("too much", || queue.alloc_pinned::<u64>(1 << 40)).unwrap_err();
    say(error);
    let error = queue.alloc_pinned::<u64>(usize::MAX).unwrap_err();
    assert!(matches!(error, Error::Range { .. }), "{error}");
    drop(queue);
    // The memory keeps its stream.
    checked("unpin", || drop(host));
    say("done");
}

#[test]
fn pinned_memory_is_allocated_mapped_and_freed_after_its_stream() {
    let fake = Fake::driver(&[]);
    let said = fake.say("pinned");
    let said: Vec<_> = said.lines().collect();
    assert!(said[0].starts_with("pinned memory is in the order of another stream"), "{said:?}");
    assert!(said[1].contains("cuMemHostAlloc failed: CUDA_ERROR_OUT_OF_MEMORY"), "{said:?}");
    let calls = fake.calls();
    let of = |what: &str| {
        let from = calls.iter().position(|call| *call == format!("# {what}")).unwrap() + 1;
        let len = calls[from..].iter().position(|call| call.starts_with("# "));
        &calls[from..][..len.unwrap_or(calls.len() - from)]
    };
    // Portable and mapped.
    assert_eq!(of("pin"), ["cuMemHostAlloc flags 3"]);
    assert_eq!(of("slice"), ["cuStreamSynchronize"]);
    assert_eq!(of("elsewhere"), [""; 0]);
    assert_eq!(of("unpin")[..2], ["cuStreamSynchronize", "cuMemFreeHost"]);
    let count = |name: &str| calls.iter().filter(|call| call.starts_with(name)).count();
    // One was too much.
    assert_eq!(count("cuMemHostAlloc"), count("cuMemFreeHost") + 1);
}

#[repr(C)]
#[derive(Clone, Copy)]
struct HopperParams(u64);

// SAFETY: the fake driver runs nothing, and reads the first eight bytes.
unsafe impl KernelParams for HopperParams {
    const KERNEL: Kernel = Kernel { room: "mma", entry: "wgmma_products", simt: never_run };
}

fn clusters() {
    enter_stranger();
    let device = Device::open(0).unwrap();
    device.warm_up().unwrap();
    let queue = device.queue().unwrap();
    let say_error = |result: Result<(), Error>| {
        if let Err(error) = result {
            say(error);
        }
    };
    for cluster_blocks in [2, 16, 3] {
        let grid = Grid { cluster_blocks, ..grid(32) };
        // SAFETY: the fake driver runs nothing.
        let launch = || unsafe { launch::launch(&queue, &grid, &HopperParams(0xF00D), |_| {}) };
        say_error(checked("clusters", launch));
    }
    say_error(checked("no clusters", || launch(&queue, &Grid { cluster_blocks: 2, ..grid(4) }, 0)));
    say(queue.most_cluster_blocks());
}

#[test]
fn clusters_are_launched_where_the_image_has_them() {
    let fake = Fake::driver(&["FAKE_MAJOR=9"]);
    assert_eq!(
        fake.say("clusters"),
        "thread blocks in x: 32 is outside the multiples of the thread blocks of a cluster\n\
         thread blocks of a cluster: 2 is outside 1: its image for this device has no clusters\n\
         8"
    );
    let calls = fake.calls();
    // One that the driver refuses is none the worse.
    assert!(calls.iter().any(|call| call == "cuFuncSetAttribute 14 1"), "{calls:?}");
    let launches: Vec<_> = calls.iter().filter(|call| call.contains("Launch")).collect();
    assert_eq!(
        launches,
        [
            "cuLaunchKernelEx wgmma_products blocks 32,2,1 threads 512,1,1 shared 0 stream 0x5010 param 0xf00d \
             cluster 2,1,1",
            "cuLaunchKernelEx wgmma_products blocks 32,2,1 threads 512,1,1 shared 0 stream 0x5010 param 0xf00d \
             cluster 16,1,1",
        ]
    );
}

/// What a device loads, room by room.
fn images_for(capability: (u32, u32)) -> Vec<&'static lacuna::image::Image> {
    let of_room = |room| lacuna::image::choose_all(room, capability, (9, 0)).unwrap();
    lacuna::image::rooms().flat_map(of_room).collect()
}

#[test]
fn kernels_of_one_architecture_are_loaded_there_alone() {
    let fake = Fake::driver(&["FAKE_MAJOR=9"]);
    assert_eq!(fake.say("warm up"), "warm");
    let n_loads = fake.calls().iter().filter(|call| *call == "cuModuleLoadDataEx").count();
    assert_eq!(n_loads, images_for((9, 0)).len());
    assert!(n_loads > images_for((8, 0)).len());
}

#[test]
fn each_operation_makes_its_calls_and_leaves_the_context_as_found() {
    let fake = Fake::driver(&[]);
    assert_eq!(fake.say("work"), "done");
    let calls = fake.calls();
    let mut parts = calls.split(|line| line.starts_with("# "));
    parts.next();
    let names = calls.iter().filter_map(|line| line.strip_prefix("# "));
    let of = |what: &str| {
        let idx = names.clone().position(|name| name == what).unwrap();
        parts.clone().nth(idx).unwrap()
    };
    assert_eq!(of("open"), ["cuDevicePrimaryCtxRetain"]);
    assert_eq!(of("open again"), [""; 0]);
    // 166,912 bytes less the 912 that are static.
    let load = |image: &lacuna::image::Image| {
        let attributes = vec!["cuFuncSetAttribute 8 166000"; image.entries.len()];
        [vec!["cuModuleLoadDataEx"], attributes].concat()
    };
    let loads: Vec<_> = images_for((8, 0)).into_iter().flat_map(load).collect();
    assert_eq!(of("warm up"), loads);
    assert_eq!(of("warm up again"), [""; 0]);
    assert_eq!(of("queue"), ["cuStreamCreate non-blocking"]);
    assert_eq!(of("alloc"), ["cuMemAllocAsync", "cuMemsetD8Async"]);
    assert_eq!(of("fill"), ["cuMemsetD8Async"]);
    assert_eq!(
        of("launch"),
        [
            "cuLaunchKernel decode_bf16 blocks 7,2,1 threads 512,1,1 shared 0 stream 0x5010 param 0xf00d"
        ]
    );
    assert_eq!(of("launch nothing"), [""; 0]);
    assert_eq!(
        of("launch raw"),
        [
            "cuLaunchKernel decode_bf16 blocks 1,2,1 threads 512,1,1 shared 0 stream 0xe0 param 0xbeef"
        ]
    );
    assert_eq!(of("refuse"), [""; 0]);
    assert_eq!(of("refuse clusters"), [""; 0]);
    assert_eq!(of("free"), ["cuMemFreeAsync", "cuMemFreeAsync"]);
    assert_eq!(of("drop queue"), ["cuStreamDestroy"]);
    assert_eq!(of("borrow"), [""; 0]);
    assert_eq!(of("drop borrowed"), [""; 0]);
    let mut last = vec!["cuModuleUnload"; images_for((8, 0)).len()];
    last.insert(0, "cuMemFreeAsync");
    last.push("cuDevicePrimaryCtxRelease");
    assert_eq!(of("drop last"), last);
}

#[test]
fn a_device_without_memory_pools_allocates_and_frees() {
    let fake = Fake::driver(&["FAKE_POOLS=0"]);
    assert_eq!(fake.say("work"), "done");
    let count = |name: &str| fake.calls().iter().filter(|call| *call == name).count();
    assert_eq!(count("cuMemAllocAsync") + count("cuMemFreeAsync"), 0);
    // The one too large an allocation is a call too.
    assert_eq!(count("cuMemAlloc"), count("cuMemFree") + 1);
}

/// The stream of the fake driver that is being captured.
const CAPTURED: usize = 0xCA;

fn capture() {
    enter_stranger();
    let device = Device::open(0).unwrap();
    let stream = without_provenance_mut(CAPTURED);
    say(checked("cold", || launch_raw(&device, stream, 0)).unwrap_err());
    device.warm_up().unwrap();
    checked("warm", || launch_raw(&device, stream, 0)).unwrap();
}

#[test]
fn a_cold_launch_into_a_capture_is_refused_and_a_warm_one_is_not() {
    let fake = Fake::driver(&[]);
    let said = fake.say("capture");
    assert!(said.contains("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED (900)"), "{said}");
    assert!(said.contains("warm the device up"), "{said}");
    let calls = fake.calls();
    let cold = calls.iter().position(|call| call == "# cold").unwrap();
    assert_eq!(calls[cold + 1], "cuModuleLoadDataEx", "warm_up comes next, and no launch");
    let warm = calls.iter().position(|call| call == "# warm").unwrap();
    assert!(calls[warm + 1].starts_with("cuLaunchKernel"), "{calls:?}");
    assert_eq!(calls[warm + 2], "cuModuleUnload", "one call, then the device is dropped");
}

fn first_launch_from_many_threads() {
    let device = Device::open(0).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let queue = device.queue().unwrap();
                launch(&queue, &grid(1), 0).unwrap();
            });
        }
    });
    drop(device);
    say("done");
}

#[test]
fn threads_that_launch_first_at_once_share_one_module() {
    let fake = Fake::driver(&[]);
    assert_eq!(fake.say("threads"), "done");
    let count = |name: &str| fake.calls().iter().filter(|call| call.starts_with(name)).count();
    assert_eq!(count("cuLaunchKernel"), 8);
    assert!(count("cuModuleLoadDataEx") >= 1);
    assert_eq!(count("cuModuleLoadDataEx"), count("cuModuleUnload"));
    assert_eq!(count("cuStreamCreate"), count("cuStreamDestroy"));
}

fn buffers_of_two_streams() {
    let device = Device::open(0).unwrap();
    let (first, second) = (device.queue().unwrap(), device.queue().unwrap());
    let mut buffer = first.upload(&[1_u8, 2]).unwrap();
    say(second.download(&buffer.view()).unwrap_err());
    let error = second.fill_zero(&mut buffer.view_mut()).unwrap_err();
    assert!(matches!(error, Error::WrongStream { memory: Memory::Cuda(0), .. }), "{error}");
    assert_eq!(first.clone().download(&buffer.view()).unwrap(), [1, 2]);

    first.synchronize().unwrap();
    let address = buffer.view().address();
    // SAFETY: the memory stays allocated, and the other stream has been waited for.
    let raw = unsafe { View::<u8>::from_raw(address, 2, Memory::Cuda(0)) };
    assert_eq!(second.download(&raw).unwrap(), [1, 2]);
    let simt = Queue::simt(lacuna::simt::Config::default());
    let error = simt.download(&raw).unwrap_err();
    assert!(matches!(error, Error::WrongQueue { .. }), "{error}");
    // SAFETY: never used.
    let mut elsewhere = unsafe { ViewMut::<u8>::from_raw(address, 2, Memory::Cuda(1)) };
    say(second.fill_zero(&mut elsewhere).unwrap_err());
    let host = simt.upload(&[3_u8]).unwrap();
    say(second.download(&host.view()).unwrap_err());
}

#[test]
fn a_queue_refuses_buffers_that_it_does_not_order() {
    assert_eq!(
        Fake::driver(&[]).say("streams"),
        "source of a download is in the order of another stream of the memory of CUDA device 0; use \
         that stream's queue, or have it lend the memory (`Queue::lend`)\n\
         target of a fill is in the memory of CUDA device 1, and the queue works on the memory of \
         CUDA device 0\n\
         source of a download is in the memory of the SIMT executor, and the queue works on the \
         memory of CUDA device 0"
    );
}
