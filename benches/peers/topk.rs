//! Top-k of PyTorch and FlashInfer, which live in Python, and of CUB, which is compiled where it runs: each has a
//! process of its own, which measures as the house does. `LACUNA_TOPK_PEERS` names the script `topk.py` beside
//! this file, and CUB's `cub_topk.cu` lies beside that; `LACUNA_CCCL` names headers newer than the toolkit's.

use std::io::ErrorKind;
use std::process::Command;
use std::sync::OnceLock;

use super::{path_of, process};
use crate::house::case::{Peer, SelfTimed, Work};
use crate::house::gpu::Gpu;

const VARIABLE: &str = "LACUNA_TOPK_PEERS";

/// A library's top-k of rows of bf16 scores.
pub(crate) struct Topk<'a> {
    /// As the script knows it, or `cub`.
    pub(crate) library: &'static str,
    pub(crate) n_rows: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// `[n_rows, n]`.
    pub(crate) scores: &'a [u8],
}

impl Topk<'_> {
    fn run(&self, n_sets: u64) -> Result<SelfTimed, String> {
        let folder = tempfile::tempdir().map_err(text)?;
        let (program, scores) = (folder.path().join("program"), folder.path().join("scores"));
        let (mut command, name) = if self.library == "cub" {
            write_program(&program, cub_program()?)?;
            (Command::new(program), "CUB's program")
        } else {
            let mut command = Command::new("python3");
            command.arg(path_of(VARIABLE, "script")?).arg(self.library);
            (command, "python3")
        };
        std::fs::write(&scores, self.scores).map_err(text)?;
        let sizes = [self.n_rows, self.n, self.k, n_sets as usize].map(|size| size.to_string());
        process::ask(command.args(sizes).arg(scores), name)
    }
}

/// CUB's, compiled by the first that asks.
fn cub_program() -> Result<&'static [u8], String> {
    static PROGRAM: OnceLock<Result<Vec<u8>, String>> = OnceLock::new();
    PROGRAM.get_or_init(compile_cub).as_deref().map_err(Clone::clone)
}

fn compile_cub() -> Result<Vec<u8>, String> {
    let source = path_of(VARIABLE, "script")?.with_file_name("cub_topk.cu");
    let folder = tempfile::tempdir().map_err(text)?;
    let program = folder.path().join("cub_topk");
    // As in the crate's build, 0 is none.
    let named = path_of("LACUNA_NVCC", "nvcc").ok().filter(|named| named.as_os_str() != "0");
    let mut command = Command::new(named.unwrap_or("nvcc".into()));
    command.args(["-std=c++17", "-O2", "-arch=native", "-o"]).arg(&program).arg(source);
    if let Ok(headers) = path_of("LACUNA_CCCL", "folder") {
        command.arg("-I").arg(headers);
    }
    let output = command.output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => "not here: no nvcc, on the path or as LACUNA_NVCC".to_owned(),
        _ => format!("nvcc: {error}"),
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let is_fault = |line: &&str| line.contains("error") || line.contains("cannot find");
        let fault = said.lines().find(is_fault).or(said.lines().next());
        return Err(format!("nvcc: {}", fault.unwrap_or("it fails and says nothing")));
    }
    std::fs::read(&program).map_err(text)
}

fn write_program(path: &std::path::Path, bytes: &[u8]) -> Result<(), String> {
    std::fs::write(path, bytes).map_err(text)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let permissions = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(path, permissions).map_err(text)?;
    }
    Ok(())
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

impl Peer for Topk<'_> {
    fn name(&self) -> &'static str {
        match self.library {
            "torch" => "torch.topk",
            "cub" => "CUB top-k",
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
