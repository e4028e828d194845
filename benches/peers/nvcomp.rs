//! nvCOMP's ANS in its mode for 16-bit floats: the library that `LACUNA_NVCOMP` names, version 6
//! (`libnvcomp.so.6` of the wheel nvidia-libnvcomp-cu12 or -cu13).
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use lacuna::device::cudarc::driver::sys;
use lacuna::{Buffer, Queue};
use libloading::{Library, Symbol};

use super::{Output, launched, path_of};
use crate::house::case::{Peer, Work};
use crate::house::gpu::Gpu;

const VARIABLE: &str = "LACUNA_NVCOMP";
/// What its documentation recommends for speed.
const CHUNK_BYTES: usize = 64 << 10;
/// `NVCOMP_TYPE_FLOAT16`: any half-precision format.
const FLOAT16: c_int = 10;
const DEFAULT_BACKEND: c_int = 0;
const RANS: c_int = 0;

/// Options of compression and of decompression have the same layout in version 6.
#[repr(C)]
#[derive(Clone, Copy)]
struct Options {
    first: c_int,
    data_type: c_int,
    rest: [u8; 56],
}

type Status = c_int;
type MaxOutput = unsafe extern "C" fn(usize, Options, *mut usize) -> Status;
type TempSize =
    unsafe extern "C" fn(usize, usize, Options, *mut usize, usize, sys::CUstream) -> Status;
type Compress = unsafe extern "C" fn(
    *const u64,
    *const usize,
    usize,
    usize,
    *mut c_void,
    usize,
    *const u64,
    *mut usize,
    Options,
    *mut Status,
    sys::CUstream,
) -> Status;
type Decompress = unsafe extern "C" fn(
    *const u64,
    *const usize,
    *const usize,
    *mut usize,
    usize,
    *mut c_void,
    usize,
    *const u64,
    Options,
    *mut Status,
    sys::CUstream,
) -> Status;

/// ANS on these bytes of bf16.
pub(crate) struct Ans<'a>(pub(crate) &'a [u8]);

struct Placed {
    stream: sys::CUstream,
    decompress: Decompress,
    n_chunks: usize,
    /// Addresses of compressed chunks, their sizes, sizes of decompressed ones, where those sizes are
    /// written, addresses of decompressed ones, statuses.
    compressed_at: Buffer<u64>,
    compressed_bytes: Buffer<u64>,
    chunk_bytes: Buffer<u64>,
    written_bytes: Buffer<u64>,
    output_at: Buffer<u64>,
    statuses: Buffer<u32>,
    workspace: Buffer<u8>,
    compressed: Buffer<u8>,
    output: Output,
}

/// The library and its version, as 6.0.1.
fn library() -> Result<&'static (Library, String), String> {
    static LIBRARY: OnceLock<Result<(Library, String), String>> = OnceLock::new();
    let load = || {
        let path = path_of(VARIABLE, "libnvcomp.so.6")?;
        // SAFETY: the user names it as nvCOMP; its initialisers have no preconditions.
        let library = unsafe { Library::new(&path) };
        let library = library.map_err(|error| format!("{}: {error}", path.display()))?;
        let mut properties = [0_u32; 2];
        // SAFETY: the function writes two words.
        unsafe {
            let get: Symbol<'_, unsafe extern "C" fn(*mut [u32; 2]) -> Status> =
                symbol(&library, "nvcompGetProperties")?;
            get(&mut properties);
        }
        let [version, _] = properties;
        let version = format!("{}.{}.{}", version / 1000, version % 1000 / 100, version % 100);
        if !version.starts_with("6.") {
            return Err(format!("its version is {version}, and 6 is known here"));
        }
        Ok((library, version))
    };
    LIBRARY.get_or_init(load).as_ref().map_err(Clone::clone)
}

/// # Safety
/// `T` is the type of the function.
unsafe fn symbol<'a, T>(library: &'a Library, name: &str) -> Result<Symbol<'a, T>, String> {
    // SAFETY: passed on to the caller.
    unsafe { library.get(name.as_bytes()) }.map_err(|error| format!("{name}: {error}"))
}

fn check(call: &str, status: Status) -> Result<(), String> {
    if status == 0 { Ok(()) } else { Err(format!("{call}: nvCOMP's status {status}")) }
}

impl Peer for Ans<'_> {
    fn name(&self) -> &'static str {
        "nvCOMP ANS"
    }

    fn version(&self) -> Option<String> {
        Some(library().ok()?.1.clone())
    }

    fn place(&self, gpu: &Gpu) -> Result<Box<dyn Work>, String> {
        let (library, _) = library()?;
        let (queue, stream) = (&gpu.queue, gpu.stream);
        let text = |error: lacuna::Error| error.to_string();
        let n_bytes = self.0.len();
        let n_chunks = n_bytes.div_ceil(CHUNK_BYTES);
        let sizes: Vec<u64> =
            (0..n_chunks).map(|idx| CHUNK_BYTES.min(n_bytes - idx * CHUNK_BYTES) as u64).collect();
        let at = |base: u64, stride: usize| -> Vec<u64> {
            (0..n_chunks).map(|idx| base + (idx * stride) as u64).collect()
        };
        let compressing = Options { first: RANS, data_type: FLOAT16, rest: [0; 56] };
        let decompressing = Options { first: DEFAULT_BACKEND, data_type: FLOAT16, rest: [0; 56] };

        let input = queue.upload(self.0).map_err(text)?;
        let input_at = queue.upload(&at(input.view().address(), CHUNK_BYTES)).map_err(text)?;
        let chunk_bytes = queue.upload(&sizes).map_err(text)?;
        let mut statuses = queue.alloc::<u32>(n_chunks).map_err(text)?;
        // SAFETY: the types are those of nvcomp/ans.h of version 6.0; every address is a buffer of
        // the size that the library asked for, on the stream that orders it.
        unsafe {
            let mut most = 0;
            let max_output: Symbol<'_, MaxOutput> =
                symbol(library, "nvcompBatchedANSCompressGetMaxOutputChunkSize")?;
            check("max output", max_output(CHUNK_BYTES, compressing, &mut most))?;
            let stride = most.next_multiple_of(256);
            let compressed = queue.alloc::<u8>(stride * n_chunks).map_err(text)?;
            let compressed_at =
                queue.upload(&at(compressed.view().address(), stride)).map_err(text)?;
            let mut compressed_bytes = queue.alloc::<u64>(n_chunks).map_err(text)?;

            let mut size = 0;
            let ask: Symbol<'_, TempSize> = symbol(library, "nvcompBatchedANSCompressGetTempSize")?;
            let status = ask(n_chunks, CHUNK_BYTES, compressing, &mut size, n_bytes, stream);
            check("workspace of compression", status)?;
            let mut workspace = queue.alloc::<u8>(size).map_err(text)?;
            let compress: Symbol<'_, Compress> = symbol(library, "nvcompBatchedANSCompressAsync")?;
            let status = compress(
                pointer(input_at.view().address()),
                pointer(chunk_bytes.view().address()),
                CHUNK_BYTES,
                n_chunks,
                pointer::<c_void>(workspace.view_mut().address()).cast_mut(),
                size,
                pointer(compressed_at.view().address()),
                pointer::<usize>(compressed_bytes.view_mut().address()).cast_mut(),
                compressing,
                pointer::<Status>(statuses.view_mut().address()).cast_mut(),
                stream,
            );
            check("compression", status)?;
            let found = queue.download(&statuses.view()).map_err(text)?;
            if let Some(status) = found.iter().find(|status| **status != 0) {
                return Err(format!("a chunk's compression: nvCOMP's status {status}"));
            }

            let ask: Symbol<'_, TempSize> =
                symbol(library, "nvcompBatchedANSDecompressGetTempSize")?;
            let status = ask(n_chunks, CHUNK_BYTES, decompressing, &mut size, n_bytes, stream);
            check("workspace of decompression", status)?;
            let workspace = queue.alloc::<u8>(size).map_err(text)?;
            let decompress: Symbol<'_, Decompress> =
                symbol(library, "nvcompBatchedANSDecompressAsync")?;
            let output = Output::new(queue, n_bytes)?;
            let output_at = queue.upload(&at(output.address(), CHUNK_BYTES)).map_err(text)?;
            Ok(Box::new(Placed {
                stream,
                decompress: *decompress,
                n_chunks,
                compressed_at,
                compressed_bytes,
                chunk_bytes,
                written_bytes: queue.alloc(n_chunks).map_err(text)?,
                output_at,
                statuses,
                workspace,
                compressed,
                output,
            }))
        }
    }
}

/// An address as C has it.
fn pointer<T>(address: u64) -> *const T {
    std::ptr::with_exposed_provenance(address as usize)
}

impl Work for Placed {
    fn launch(&mut self, _: &Queue) -> lacuna::Result<()> {
        let options = Options { first: DEFAULT_BACKEND, data_type: FLOAT16, rest: [0; 56] };
        // SAFETY: as in `place`.
        let status = unsafe {
            (self.decompress)(
                pointer(self.compressed_at.view().address()),
                pointer(self.compressed_bytes.view().address()),
                pointer(self.chunk_bytes.view().address()),
                pointer::<usize>(self.written_bytes.view_mut().address()).cast_mut(),
                self.n_chunks,
                pointer::<c_void>(self.workspace.view_mut().address()).cast_mut(),
                self.workspace.len(),
                pointer(self.output_at.view().address()),
                options,
                pointer::<Status>(self.statuses.view_mut().address()).cast_mut(),
                self.stream,
            )
        };
        launched("nvcompBatchedANSDecompressAsync", status as u32, "nvcompStatus_t")
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        self.output.poison(queue)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        self.output.read(queue)
    }
}
