//! The published DFloat11 kernel: the PTX in its wheel, which `LACUNA_DFLOAT11_PTX` names.
#![allow(unsafe_code)]

use std::ffi::{CString, c_void};

use lacuna::device::cudarc::driver::sys;
use lacuna::huffman::{BYTES_PER_BLOCK, EncodedGroup, THREADS_PER_BLOCK};
use lacuna::{Buffer, Queue};

use super::{Output, launched, path_of};
use crate::house::case::{Peer, Work};
use crate::house::gpu::Gpu;

const VARIABLE: &str = "LACUNA_DFLOAT11_PTX";
/// It reads past its inputs by up to four bytes.
const PADDING: usize = 16;

pub(crate) struct Published<'a>(pub(crate) &'a EncodedGroup);

struct Placed {
    function: sys::CUfunction,
    stream: sys::CUstream,
    grid: u32,
    shared_bytes: u32,
    /// Tables, codes, signs and mantissas, positions, gaps: in the order of its parameters.
    inputs: [Buffer<u8>; 5],
    output: Output,
    /// Rows of the tables with the row of lengths, code bytes, weights.
    counts: [i32; 3],
}

/// The wheel's, as what is installed beside it says.
fn version() -> Option<String> {
    let path = path_of(VARIABLE, "").ok()?;
    let installed = std::fs::read_dir(path.parent()?.parent()?).ok()?;
    installed.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).find_map(|name| {
        Some(name.strip_prefix("dfloat11-")?.strip_suffix(".dist-info")?.to_owned())
    })
}

impl Peer for Published<'_> {
    fn name(&self) -> &'static str {
        "DFloat11"
    }

    fn version(&self) -> Option<String> {
        version()
    }

    fn place(&self, gpu: &Gpu) -> Result<Box<dyn Work>, String> {
        let path = path_of(VARIABLE, "decode.ptx of the dfloat11 wheel")?;
        let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let text = CString::new(text).map_err(|error| format!("{}: {error}", path.display()))?;
        let function = gpu.load(&text, c"decode")?;

        let Self(group) = *self;
        let positions = group.output_positions.as_chunks().0.iter().map(|p| u32::from_le_bytes(*p));
        let positions: Vec<_> = positions.collect();
        let densest = positions.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        let shared_bytes = THREADS_PER_BLOCK as u32 * 4 + 4 + 2 * densest;
        let upload = |tensor: &[u8]| {
            let mut padded = tensor.to_vec();
            padded.resize(tensor.len() + PADDING, 0);
            gpu.queue.upload(&padded).map_err(|error| error.to_string())
        };
        let n_codes = group.encoded_exponent.len();
        let count = |n: usize| i32::try_from(n).map_err(|_| format!("{n} is too many for it"));
        Ok(Box::new(Placed {
            function,
            stream: gpu.stream,
            grid: n_codes.div_ceil(BYTES_PER_BLOCK) as u32,
            shared_bytes,
            inputs: [
                upload(&group.luts)?,
                upload(&group.encoded_exponent)?,
                upload(&group.sign_mantissa)?,
                upload(&group.output_positions)?,
                upload(&group.gaps)?,
            ],
            output: Output::new(&gpu.queue, 2 * group.sign_mantissa.len())?,
            counts: [
                count(group.luts.len() / 256)?,
                count(n_codes)?,
                count(group.sign_mantissa.len())?,
            ],
        }))
    }
}

impl Work for Placed {
    fn launch(&mut self, _: &Queue) -> lacuna::Result<()> {
        let mut addresses = self.inputs.each_ref().map(|input| input.view().address()).to_vec();
        addresses.push(self.output.address());
        let pointers = addresses.iter_mut().map(|word| std::ptr::from_mut(word).cast::<c_void>());
        let counts = self.counts.iter_mut().map(|word| std::ptr::from_mut(word).cast::<c_void>());
        let mut arguments: Vec<_> = pointers.chain(counts).collect();
        let threads = THREADS_PER_BLOCK as u32;
        // SAFETY: six addresses and three ints are its parameters, which the driver copies.
        let code = unsafe {
            sys::cuLaunchKernel(
                self.function,
                self.grid,
                1,
                1,
                threads,
                1,
                1,
                self.shared_bytes,
                self.stream,
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        launched("cuLaunchKernel of DFloat11", code as u32, "CUresult")
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        self.output.poison(queue)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        self.output.read(queue)
    }
}
