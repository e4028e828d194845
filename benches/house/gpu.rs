//! A device for benches: a stream that can be captured, graphs, events, and the state of its clocks.
#![allow(unsafe_code)]

use std::cell::OnceCell;
use std::ffi::{CStr, c_int};
use std::process::Command;
use std::ptr::null_mut;

use lacuna::device::cudarc::driver::sys;
use lacuna::driver;
use lacuna::image::{self, Image};
use lacuna::{Device, Queue};

/// A device in its context, which stays current on this thread.
pub(crate) struct Gpu {
    pub(crate) device: Device,
    pub(crate) queue: Queue,
    pub(crate) stream: sys::CUstream,
    driver: (u32, u32),
    pci: String,
    /// Who broke the context, and how.
    broken: OnceCell<String>,
}

/// Says which call failed, and how.
#[track_caller]
pub(crate) fn check(call: &str, code: sys::CUresult) {
    assert!(code == sys::CUresult::CUDA_SUCCESS, "{call}: {code:?}");
}

/// What failed, in words, where a peer may fail and we may not.
pub(crate) fn check_peer(call: &str, code: sys::CUresult) -> Result<(), String> {
    if code == sys::CUresult::CUDA_SUCCESS { Ok(()) } else { Err(format!("{call}: {code:?}")) }
}

impl Gpu {
    pub(crate) fn open() -> lacuna::Result<Self> {
        let version = driver::probe()?.version;
        let device = Device::open(0)?;
        let mut stream = null_mut();
        let mut pci = [0; 32];
        // SAFETY: the device keeps its context; one handle and one terminated string are written.
        unsafe {
            check("cuCtxSetCurrent", sys::cuCtxSetCurrent(device.context()));
            let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
            check("cuStreamCreate", sys::cuStreamCreate(&mut stream, flags));
            let mut handle = 0;
            check("cuDeviceGet", sys::cuDeviceGet(&mut handle, 0));
            let n_bytes = pci.len() as c_int;
            check(
                "cuDeviceGetPCIBusId",
                sys::cuDeviceGetPCIBusId(pci.as_mut_ptr(), n_bytes, handle),
            );
        }
        // SAFETY: the stream lives as long as the process.
        let queue = unsafe { device.borrow_stream(stream) };
        device.warm_up()?;
        // SAFETY: the driver terminated it.
        let pci = unsafe { CStr::from_ptr(pci.as_ptr()) }.to_string_lossy().into_owned();
        let driver = ((version / 1000) as u32, (version % 1000 / 10) as u32);
        Ok(Self { device, queue, stream, driver, pci, broken: OnceCell::new() })
    }

    /// The newest CUDA version that the driver supports.
    pub(crate) fn driver(&self) -> String {
        format!("{}.{}", self.driver.0, self.driver.1)
    }

    /// The image that a kernel is loaded from; `None` where there is none.
    pub(crate) fn image(&self, kernel: &str) -> Option<&'static Image> {
        let (room, entry) = kernel.split_once('/')?;
        let room = image::rooms().find(|found| *found == room)?;
        let version = (self.driver.0 * 1000 + self.driver.1 * 10) as i32;
        let ceiling = driver::ptx_ceiling(version);
        image::choose_for(room, entry, self.device.info().capability, ceiling).ok()
    }

    /// Captures what `launch` queues; the error of a launch, or of the driver, says why it cannot be.
    pub(crate) fn capture(
        &self,
        launch: impl FnOnce() -> lacuna::Result<()>,
    ) -> Result<Graph, String> {
        // SAFETY: the stream is ours, and no other thread uses it.
        unsafe {
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            check_peer("cuStreamBeginCapture", sys::cuStreamBeginCapture_v2(self.stream, mode))?;
            let launched = launch();
            let mut graph = null_mut();
            let ended = sys::cuStreamEndCapture(self.stream, &mut graph);
            launched.map_err(|error| error.to_string())?;
            check_peer("cuStreamEndCapture", ended)?;
            let mut executable = null_mut();
            let code = sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0);
            let _ = sys::cuGraphDestroy(graph);
            check_peer("cuGraphInstantiate", code)?;
            Ok(Graph { executable, stream: self.stream })
        }
    }

    pub(crate) fn synchronize(&self) -> lacuna::Result<()> {
        self.queue.synchronize()
    }

    /// Asks whether the context still works after somebody else's kernels: nothing runs in a broken one,
    /// and nothing of ours is to blame.
    pub(crate) fn suspect(&self, who: &str) {
        if let Err(error) = self.synchronize() {
            let _ = self.broken.set(format!("left out: {who} broke the context ({error})"));
        }
    }

    /// Why nothing runs any more.
    pub(crate) fn is_broken(&self) -> Option<String> {
        self.broken.get().cloned()
    }

    /// A kernel of somebody else's PTX.
    pub(crate) fn load(&self, ptx: &CStr, name: &CStr) -> Result<sys::CUfunction, String> {
        let (mut module, mut function) = (null_mut(), null_mut());
        // SAFETY: terminated strings; two handles are written, which live as long as the process.
        unsafe {
            check_peer(
                "cuModuleLoadData",
                sys::cuModuleLoadData(&mut module, ptx.as_ptr().cast()),
            )?;
            let code = sys::cuModuleGetFunction(&mut function, module, name.as_ptr());
            check_peer("cuModuleGetFunction", code)?;
        }
        Ok(function)
    }

    /// Clocks, and what slows them, while the device works; or why nobody knows.
    pub(crate) fn clocks(&self) -> String {
        // Drivers before 535 know only the older name.
        let names = ["clocks_event_reasons.active", "clocks_throttle_reasons.active"];
        let asked = names.map(|reasons| self.ask_clocks(reasons));
        let [newer, older] = &asked;
        let found = newer.as_ref().or(older.as_ref());
        found.map_or_else(|why| format!("unknown: {why}"), Clone::clone)
    }

    fn ask_clocks(&self, reasons: &str) -> Result<String, String> {
        let output = Command::new("nvidia-smi")
            .args(["--format=csv,noheader,nounits", "-i", &self.pci])
            .arg(format!("--query-gpu=clocks.sm,clocks.mem,{reasons},temperature.gpu,power.draw"))
            .output()
            .map_err(|error| format!("nvidia-smi: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let text = text.trim();
        if !output.status.success() {
            return Err(format!("nvidia-smi, {}: {text}", output.status));
        }
        let fields: Vec<_> = text.split(", ").collect();
        let [sm, memory, reasons, celsius, watts] = fields[..] else {
            return Err(format!("nvidia-smi says {text}"));
        };
        let bits = u64::from_str_radix(reasons.trim_start_matches("0x"), 16);
        let slowed = bits.map_or_else(|_| reasons.to_owned(), throttle);
        Ok(format!("SM {sm} MHz, memory {memory} MHz, throttle {slowed}, {celsius} C, {watts} W"))
    }
}

/// NVML's reasons, in words.
fn throttle(bits: u64) -> String {
    let names = [
        (0x1, "idle"),
        (0x2, "application clocks"),
        (0x4, "power cap"),
        (0x8, "hardware slowdown"),
        (0x10, "sync boost"),
        (0x20, "temperature"),
        (0x40, "hardware temperature"),
        (0x80, "power brake"),
        (0x100, "display clocks"),
    ];
    let words: Vec<_> =
        names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    match bits {
        0 => "none".to_owned(),
        _ if words.is_empty() => format!("{bits:#x}"),
        _ => words.join(" and "),
    }
}

/// Launches that are replayed together.
pub(crate) struct Graph {
    executable: sys::CUgraphExec,
    stream: sys::CUstream,
}

impl Graph {
    pub(crate) fn replay(&self) {
        // SAFETY: instantiated by `capture`, on its stream.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(self.executable, self.stream) });
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: destroyed once. Work that is queued ends first.
        let _ = unsafe { sys::cuGraphExecDestroy(self.executable) };
    }
}

/// A stretch of the stream, timed by the device.
pub(crate) struct Stopwatch {
    start: sys::CUevent,
    end: sys::CUevent,
    stream: sys::CUstream,
}

impl Stopwatch {
    pub(crate) fn new(gpu: &Gpu) -> Self {
        let event = || {
            let mut event = null_mut();
            // SAFETY: it writes one handle.
            check("cuEventCreate", unsafe { sys::cuEventCreate(&mut event, 0) });
            event
        };
        Self { start: event(), end: event(), stream: gpu.stream }
    }

    /// Microseconds of what `queue_work` queues.
    pub(crate) fn time(&self, queue_work: impl FnOnce()) -> f64 {
        let mut milliseconds = 0.0;
        // SAFETY: two live events and the stream that they are recorded on.
        unsafe {
            check("cuEventRecord", sys::cuEventRecord(self.start, self.stream));
            queue_work();
            check("cuEventRecord", sys::cuEventRecord(self.end, self.stream));
            check("cuEventSynchronize", sys::cuEventSynchronize(self.end));
            let code = sys::cuEventElapsedTime(&mut milliseconds, self.start, self.end);
            check("cuEventElapsedTime", code);
        }
        f64::from(milliseconds) * 1000.0
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        // SAFETY: each is destroyed once.
        unsafe {
            let _ = sys::cuEventDestroy_v2(self.start);
            let _ = sys::cuEventDestroy_v2(self.end);
        }
    }
}
