//! Other people's kernels, on the same data in the same run. Nothing of theirs is in this repository: a
//! peer is what an environment variable names, and a row without one says so.
#![allow(dead_code, reason = "each bench uses its part")]

pub(crate) mod attention;
pub(crate) mod copy;
pub(crate) mod dfloat11;
pub(crate) mod linear;
pub(crate) mod nvcomp;
pub(crate) mod process;
pub(crate) mod topk;

use lacuna::{Buffer, Queue};

use crate::house::case::poison;

/// Where a peer is, by the variable that names it.
fn path_of(variable: &str, what: &str) -> Result<std::path::PathBuf, String> {
    std::env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(std::path::PathBuf::from)
        .ok_or_else(|| format!("not here: {variable} names no {what}"))
}

/// The output of a peer, to be poisoned and compared.
struct Output {
    bytes: Buffer<u8>,
}

impl Output {
    fn new(queue: &Queue, n_bytes: usize) -> Result<Self, String> {
        Ok(Self { bytes: queue.alloc(n_bytes).map_err(|error| error.to_string())? })
    }

    fn address(&self) -> u64 {
        self.bytes.view().address()
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.bytes)
    }

    fn read(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        queue.download(&self.bytes.view())
    }
}

/// What a call of a peer answered, and what its number is.
fn launched(call: &'static str, code: u32, name: &str) -> lacuna::Result<()> {
    if code == 0 {
        return Ok(());
    }
    let (name, hint) = (name.to_owned(), String::new());
    Err(lacuna::Error::Driver { call, code, name, hint })
}
