//! PyTorch's linear layers, which are cuBLAS's products of bf16: a process of its own that `LACUNA_LINEAR_PEERS`, the script
//! `linear.py` beside this file, measures as the house does.

use std::rc::Rc;

use super::process::Inputs;
use crate::house::case::{Peer, SelfTimed, Work};
use crate::house::gpu::Gpu;

const VARIABLE: &str = "LACUNA_LINEAR_PEERS";

/// The same matrices, expanded, as one product; of gated ones two, and the gate.
pub(crate) struct Linear<'a> {
    pub(crate) inputs: Rc<Inputs<'a>>,
}

impl Peer for Linear<'_> {
    fn name(&self) -> &'static str {
        "torch linear, cuBLAS"
    }

    fn version(&self) -> Option<String> {
        None
    }

    fn time_itself(&self, n_sets: u64) -> Option<Result<SelfTimed, String>> {
        Some(self.inputs.ask(VARIABLE, "torch", n_sets))
    }

    fn place(&self, _gpu: &Gpu) -> Result<Box<dyn Work>, String> {
        Err("it is measured by a process of its own".to_owned())
    }
}
