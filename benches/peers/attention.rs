//! Attention of PyTorch and FlashInfer, which live in Python: a process of its own that `LACUNA_ATTENTION_PEERS`, the
//! script `attention.py` beside this file, measures as the house does.

use std::rc::Rc;

use super::process::Inputs;
use crate::house::case::{Peer, SelfTimed, Work};
use crate::house::gpu::Gpu;

const VARIABLE: &str = "LACUNA_ATTENTION_PEERS";

/// A library's attention of one query for each request, or of its last ones.
pub(crate) struct Attention<'a> {
    /// As the script knows it.
    pub(crate) library: &'static str,
    pub(crate) inputs: Rc<Inputs<'a>>,
}

impl Attention<'_> {
    fn run(&self, n_sets: u64) -> Result<SelfTimed, String> {
        self.inputs.ask(VARIABLE, self.library, n_sets)
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
