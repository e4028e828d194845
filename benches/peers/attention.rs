//! Attention of PyTorch and FlashInfer, which live in Python: a process of its own that `LACUNA_ATTENTION_PEERS`, the
//! script `attention.py` beside this file, measures as the house does.

use std::cell::OnceCell;
use std::io::Write;
use std::process::Command;
use std::rc::Rc;

use tempfile::NamedTempFile;

use super::{path_of, process};
use crate::house::case::{Peer, SelfTimed, Work};
use crate::house::gpu::Gpu;

const VARIABLE: &str = "LACUNA_ATTENTION_PEERS";

/// A library's attention of one query for each request, or of its last ones.
pub(crate) struct Attention<'a> {
    /// As the script knows it.
    pub(crate) library: &'static str,
    pub(crate) inputs: Rc<Inputs<'a>>,
}

/// What the libraries are given, all the same.
pub(crate) struct Inputs<'a> {
    /// As the script takes them.
    pub(crate) sizes: serde_json::Value,
    /// One after the other, as the script says.
    pub(crate) arrays: Vec<&'a [u8]>,
    /// With the arrays, made when the first library asks.
    pub(crate) file: OnceCell<Result<NamedTempFile, String>>,
}

impl Inputs<'_> {
    fn file(&self) -> Result<&NamedTempFile, String> {
        let write = || -> std::io::Result<NamedTempFile> {
            let mut file = NamedTempFile::new()?;
            self.arrays.iter().try_for_each(|array| file.write_all(array))?;
            Ok(file)
        };
        let file = self.file.get_or_init(|| write().map_err(|error| error.to_string()));
        file.as_ref().map_err(Clone::clone)
    }
}

impl Attention<'_> {
    fn run(&self, n_sets: u64) -> Result<SelfTimed, String> {
        let mut command = Command::new("python3");
        command.arg(path_of(VARIABLE, "script")?).arg(self.library);
        command.arg(self.inputs.sizes.to_string()).arg(n_sets.to_string());
        process::ask(command.arg(self.inputs.file()?.path()), "python3")
    }
}

impl Peer for Attention<'_> {
    fn name(&self) -> &'static str {
        match self.library {
            "torch" => "torch SDPA",
            "torch-causal" => "torch SDPA, causal_lower_right",
            "torch-gather" => "torch gather and SDPA",
            "flashinfer" => "FlashInfer paged decode",
            "flashinfer-fp8" => "FlashInfer paged decode of FP8",
            "flashinfer-fp8-tensor-cores" => "FlashInfer paged decode of FP8, tensor cores",
            _ => "FlashInfer paged decode, tensor cores",
        }
    }

    fn version(&self) -> Option<String> {
        None
    }

    fn time_itself(&self, n_sets: u64) -> Option<Result<SelfTimed, String>> {
        Some(self.run(n_sets))
    }

    fn place(&self, _gpu: &Gpu) -> Result<Box<dyn Work>, String> {
        Err("it is measured by a process of its own".to_owned())
    }
}
