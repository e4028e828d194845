//! Top-k of PyTorch and FlashInfer, which live in Python: a process of its own that `LACUNA_TOPK_PEERS`, the script
//! `topk.py` beside this file, measures as the house does.

use std::process::Command;

use super::{path_of, process};
use crate::house::case::{Peer, SelfTimed, Work};
use crate::house::gpu::Gpu;

const VARIABLE: &str = "LACUNA_TOPK_PEERS";

/// A library's top-k of rows of bf16 scores.
pub(crate) struct Topk<'a> {
    /// As the script knows it.
    pub(crate) library: &'static str,
    pub(crate) n_rows: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// `[n_rows, n]`.
    pub(crate) scores: &'a [u8],
}

impl Topk<'_> {
    fn run(&self, n_sets: u64) -> Result<SelfTimed, String> {
        let script = path_of(VARIABLE, "script")?;
        let text = |error: std::io::Error| error.to_string();
        let file = tempfile::NamedTempFile::new().map_err(text)?;
        std::fs::write(file.path(), self.scores).map_err(text)?;
        let sizes = [self.n_rows, self.n, self.k, n_sets as usize].map(|size| size.to_string());
        let mut command = Command::new("python3");
        command.arg(script).arg(self.library).args(sizes).arg(file.path());
        process::ask(&mut command, "python3")
    }
}

impl Peer for Topk<'_> {
    fn name(&self) -> &'static str {
        match self.library {
            "torch" => "torch.topk",
            "flashinfer" => "FlashInfer top_k",
            _ => "FlashInfer top_k, deterministic",
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
