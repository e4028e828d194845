//! `ptx/`: one portable image per kernel file, others where kernels need an architecture of their own, all made
//! by the oldest toolkit that compiles them; and the manifest that says from what.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use libloading::Library;
use sha2::{Digest, Sha256};

use crate::{Generated, Result, root, wheels};

/// NVRTC 12.0 writes PTX ISA 8.0, which every driver since 525 compiles.
const NVRTC: (&str, &str) = ("nvidia-cuda-nvrtc-cu12", "12.0.140");
/// No contraction: a multiply and an add stay two roundings, as on the CPU.
const FLAGS: [&str; 3] = ["--std=c++17", "--fmad=false", "-default-device"];

/// An image: the room whose kernels it holds, the one file of kernels it is made from, for what, and
/// where it goes.
pub(crate) struct Image {
    pub(crate) room: &'static str,
    pub(crate) source: &'static str,
    pub(crate) target: &'static str,
    pub(crate) path: &'static str,
}

pub(crate) const IMAGES: &[Image] = &[
    Image {
        room: "huffman",
        source: "csrc/huffman/decode.cu",
        target: "compute_80",
        path: "ptx/huffman.sm80.ptx",
    },
    Image {
        room: "huffman",
        source: "csrc/huffman/indexed.cu",
        target: "compute_80",
        path: "ptx/huffman-indexed.sm80.ptx",
    },
    Image {
        room: "huffman",
        source: "csrc/huffman/index.cu",
        target: "compute_80",
        path: "ptx/huffman-index.sm80.ptx",
    },
    Image {
        room: "huffman",
        source: "csrc/huffman/rows.cu",
        target: "compute_80",
        path: "ptx/huffman-rows.sm80.ptx",
    },
    Image {
        room: "huffman",
        source: "csrc/huffman/multiply_lane.cu",
        target: "compute_80",
        path: "ptx/huffman-multiply-lane.sm80.ptx",
    },
    Image {
        room: "huffman",
        source: "csrc/huffman/unpack_lane.cu",
        target: "compute_80",
        path: "ptx/huffman-unpack-lane.sm80.ptx",
    },
    Image {
        room: "huffman",
        source: "csrc/huffman/measure_lane.cu",
        target: "compute_80",
        path: "ptx/huffman-measure-lane.sm80.ptx",
    },
    Image {
        room: "huffman",
        source: "csrc/huffman/pack_lane.cu",
        target: "compute_80",
        path: "ptx/huffman-pack-lane.sm80.ptx",
    },
    Image {
        room: "huffman",
        source: "csrc/huffman/count.cu",
        target: "compute_80",
        path: "ptx/huffman-count.sm80.ptx",
    },
    Image {
        room: "huffman",
        source: "csrc/huffman/pack_codes.cu",
        target: "compute_80",
        path: "ptx/huffman-pack-codes.sm80.ptx",
    },
    Image {
        room: "huffman",
        source: "csrc/huffman/pack_group.cu",
        target: "compute_80",
        path: "ptx/huffman-pack-group.sm80.ptx",
    },
    Image {
        room: "mma",
        source: "csrc/mma/products.cu",
        target: "compute_80",
        path: "ptx/mma.sm80.ptx",
    },
    Image {
        room: "mma",
        source: "csrc/mma/warpgroup.cu",
        target: "sm_90a",
        path: "ptx/mma.sm90a.ptx",
    },
    Image {
        room: "select",
        source: "csrc/select/score.cu",
        target: "compute_80",
        path: "ptx/select-score.sm80.ptx",
    },
    Image {
        room: "select",
        source: "csrc/select/vote.cu",
        target: "compute_80",
        path: "ptx/select-vote.sm80.ptx",
    },
    Image {
        room: "select",
        source: "csrc/select/mass.cu",
        target: "compute_80",
        path: "ptx/select-mass.sm80.ptx",
    },
    Image {
        room: "select",
        source: "csrc/select/gate.cu",
        target: "compute_80",
        path: "ptx/select-gate.sm80.ptx",
    },
    Image {
        room: "select",
        source: "csrc/select/summarize.cu",
        target: "compute_80",
        path: "ptx/select-summarize.sm80.ptx",
    },
    Image {
        room: "select",
        source: "csrc/select/compact.cu",
        target: "compute_80",
        path: "ptx/select-compact.sm80.ptx",
    },
    Image {
        room: "select",
        source: "csrc/select/gather.cu",
        target: "compute_80",
        path: "ptx/select-gather.sm80.ptx",
    },
    Image {
        room: "select",
        source: "csrc/select/merge.cu",
        target: "compute_80",
        path: "ptx/select-merge.sm80.ptx",
    },
    Image {
        room: "select",
        source: "csrc/select/scatter.cu",
        target: "compute_80",
        path: "ptx/select-scatter.sm80.ptx",
    },
    Image {
        room: "select",
        source: "csrc/select/scatter_add.cu",
        target: "compute_80",
        path: "ptx/select-scatter-add.sm80.ptx",
    },
    Image {
        room: "select",
        source: "csrc/select/topk.cu",
        target: "compute_80",
        path: "ptx/select-topk.sm80.ptx",
    },
    // The same with clusters.
    Image {
        room: "select",
        source: "csrc/select/topk.cu",
        target: "compute_90",
        path: "ptx/select-topk.sm90.ptx",
    },
    Image {
        room: "attention",
        source: "csrc/attention/attend.cu",
        target: "compute_80",
        path: "ptx/attention-attend.sm80.ptx",
    },
    Image {
        room: "attention",
        source: "csrc/attention/attend_low_rank.cu",
        target: "compute_80",
        path: "ptx/attention-low-rank.sm80.ptx",
    },
    Image {
        room: "attention",
        source: "csrc/attention/tiered_64.cu",
        target: "compute_80",
        path: "ptx/attention-tiered-64.sm80.ptx",
    },
    Image {
        room: "attention",
        source: "csrc/attention/tiered_128.cu",
        target: "compute_80",
        path: "ptx/attention-tiered-128.sm80.ptx",
    },
    Image {
        room: "attention",
        source: "csrc/attention/tiered_256.cu",
        target: "compute_80",
        path: "ptx/attention-tiered-256.sm80.ptx",
    },
    Image {
        room: "attention",
        source: "csrc/attention/prefill.cu",
        target: "compute_80",
        path: "ptx/attention-prefill.sm80.ptx",
    },
    Image {
        room: "attention",
        source: "csrc/attention/merge.cu",
        target: "compute_80",
        path: "ptx/attention-merge.sm80.ptx",
    },
    Image {
        room: "attention",
        source: "csrc/attention/copy.cu",
        target: "compute_80",
        path: "ptx/attention-copy.sm80.ptx",
    },
    Image {
        room: "attention",
        source: "csrc/attention/tier.cu",
        target: "compute_80",
        path: "ptx/attention-tier.sm80.ptx",
    },
    Image {
        room: "quant",
        source: "csrc/quant/append.cu",
        target: "compute_80",
        path: "ptx/quant-append.sm80.ptx",
    },
    Image {
        room: "quant",
        source: "csrc/quant/channels.cu",
        target: "compute_80",
        path: "ptx/quant-channels.sm80.ptx",
    },
    Image {
        room: "quant",
        source: "csrc/quant/pages.cu",
        target: "compute_80",
        path: "ptx/quant-pages.sm80.ptx",
    },
    Image {
        room: "quant",
        source: "csrc/quant/retier.cu",
        target: "compute_80",
        path: "ptx/quant-retier.sm80.ptx",
    },
    Image {
        room: "quant",
        source: "csrc/quant/saliency.cu",
        target: "compute_80",
        path: "ptx/quant-saliency.sm80.ptx",
    },
];

/// The rooms, each once.
pub(crate) fn rooms() -> Vec<&'static str> {
    let mut rooms: Vec<_> = IMAGES.iter().map(|image| image.room).collect();
    rooms.dedup();
    rooms
}

/// The kernel files, each once.
pub(crate) fn sources() -> Vec<&'static str> {
    let mut sources: Vec<_> = IMAGES.iter().map(|image| image.source).collect();
    sources.dedup();
    sources
}

pub(crate) fn generate() -> Result<Vec<Generated>> {
    let compiler = Compiler::load()?;
    let mut manifest = String::from(
        "# Made by `cargo xtask generate`. The inputs' hash is over the kernel file and every header it may\n\
         # include, in the order of their names, as build/images.rs and tests/images.rs compute it.\n\
         # room  image  source  target  toolkit  flags  entries  sha256-of-inputs  sha256-of-image\n",
    );
    let mut files = Vec::new();
    for image in IMAGES {
        let ptx = compiler.compile(image, &[])?;
        let _ = writeln!(
            manifest,
            "{} {} {} {} {}-{} {} {} {} {}",
            image.room,
            image.path,
            image.source,
            image.target,
            NVRTC.0,
            NVRTC.1,
            FLAGS.join(","),
            entries(&ptx).join(","),
            hash_inputs(image.source)?,
            hash(ptx.as_bytes()),
        );
        files.push(Generated { path: image.path, content: ptx });
    }
    files.push(Generated { path: "ptx/MANIFEST", content: manifest });
    Ok(files)
}

/// Files in `ptx/` that nothing generates.
pub(crate) fn strangers(files: &[Generated]) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(root().join("ptx")).map_err(|error| format!("ptx: {error}"))?;
    let found = entries
        .filter_map(|entry| Some(format!("ptx/{}", entry.ok()?.file_name().to_string_lossy())));
    Ok(found.filter(|path| files.iter().all(|file| file.path != path)).collect())
}

fn entries(ptx: &str) -> Vec<&str> {
    ptx.lines()
        .filter_map(|line| line.trim().strip_prefix(".visible .entry "))
        .filter_map(|rest| rest.split('(').next())
        .collect()
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The source, then every header that is not the SIMT executor's, by name.
fn hash_inputs(source: &str) -> Result<String> {
    let mut paths = vec![root().join(source)];
    for folder in ["csrc", "csrc/common", source.rsplit_once('/').map_or("csrc", |split| split.0)] {
        paths.extend(headers(&root().join(folder))?);
    }
    let mut digest = Sha256::new();
    for path in paths {
        digest
            .update(std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?);
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn headers(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut headers: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|found| found == "h" || found == "cuh"))
        .collect();
    headers.sort();
    Ok(headers)
}

/// NVRTC, loaded from its wheel.
pub(crate) struct Compiler(Library);

type Program = *mut c_void;

impl Compiler {
    pub(crate) fn load() -> Result<Self> {
        let folder = wheels::install(NVRTC.0, NVRTC.1)?;
        let path = folder.join("nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
        // SAFETY: the pinned wheel's library, whose initialisers have no preconditions.
        let library = unsafe { Library::new(&path) }
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(library))
    }

    /// The image's PTX, compiled with its own flags and `extra` ones.
    pub(crate) fn compile(&self, image: &Image, extra: &[&str]) -> Result<String> {
        let source = image.source;
        let path = root().join(source);
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{source}: {error}"))?;
        let include = path.parent().map(Path::to_path_buf).unwrap_or_default();
        let mut options: Vec<_> =
            FLAGS.iter().chain(extra).map(|flag| (*flag).to_owned()).collect();
        options.push(format!("--gpu-architecture={}", image.target));
        options.push(format!("-I{}", include.display()));
        let options: Vec<_> = options.into_iter().map(c_string).collect::<Result<_>>()?;
        let option_pointers: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
        let (text, name) = (c_string(text)?, c_string(source.to_owned())?);

        // SAFETY: the signatures are those of nvrtc.h; every string is terminated and outlives
        // its call, and buffers are as long as NVRTC itself asked for.
        unsafe {
            let mut program: Program = std::ptr::null_mut();
            let create: libloading::Symbol<
                '_,
                unsafe extern "C" fn(
                    *mut Program,
                    *const c_char,
                    *const c_char,
                    c_int,
                    *const *const c_char,
                    *const *const c_char,
                ) -> c_int,
            > = self.symbol("nvrtcCreateProgram")?;
            create(
                &mut program,
                text.as_ptr(),
                name.as_ptr(),
                0,
                std::ptr::null(),
                std::ptr::null(),
            );
            let compile: libloading::Symbol<
                '_,
                unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
            > = self.symbol("nvrtcCompileProgram")?;
            let code = compile(program, option_pointers.len() as c_int, option_pointers.as_ptr());
            if code != 0 {
                let log = self.text(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog")?;
                return Err(format!("{source}: NVRTC says\n{log}"));
            }
            self.text(program, "nvrtcGetPTXSize", "nvrtcGetPTX")
        }
    }

    /// # Safety
    /// `T` is the C type of the function.
    unsafe fn symbol<T>(&self, name: &str) -> Result<libloading::Symbol<'_, T>> {
        // SAFETY: passed on to the caller.
        unsafe { self.0.get(name.as_bytes()) }.map_err(|error| format!("{name}: {error}"))
    }

    /// # Safety
    /// `program` is a live program, and the two functions are a size and a text of it.
    unsafe fn text(&self, program: Program, size: &str, get: &str) -> Result<String> {
        // SAFETY: both functions have these signatures in nvrtc.h.
        unsafe {
            let size: libloading::Symbol<'_, unsafe extern "C" fn(Program, *mut usize) -> c_int> =
                self.symbol(size)?;
            let get: libloading::Symbol<'_, unsafe extern "C" fn(Program, *mut u8) -> c_int> =
                self.symbol(get)?;
            let mut n_bytes = 0;
            size(program, &mut n_bytes);
            let mut bytes = vec![0_u8; n_bytes];
            get(program, bytes.as_mut_ptr());
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
        }
    }
}

fn c_string(text: String) -> Result<CString> {
    CString::new(text).map_err(|error| error.to_string())
}
