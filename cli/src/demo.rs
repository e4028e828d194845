//! `demo`: the library's main job on sample weights.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use lacuna::huffman::{self, Checkpoint, Format, GroupPattern};

use crate::report::{bytes, percent, print, speed};
use crate::verify::verify;
use crate::{On, Outcome};

pub(crate) fn run(weights: &Path) -> Outcome {
    let text = |error: lacuna::Error| error.to_string();
    let folder = tempfile::tempdir().map_err(|error| format!("a temporary directory: {error}"))?;
    let (df11, back) = (folder.path().join("df11"), folder.path().join("back.safetensors"));
    let originals = [weights.to_owned()];
    print(&format!("weights    {}\n", weights.display()))?;

    let start = Instant::now();
    let patterns = GroupPattern::defaults();
    let summary =
        huffman::compress(&originals, &df11, &patterns, Format::Df11, &|_| {}).map_err(text)?;
    print(&format!(
        "compress   {} -> {} ({}), {}\n",
        bytes(summary.bf16_bytes),
        bytes(summary.compressed_bytes),
        percent(summary.compressed_bytes, summary.bf16_bytes),
        speed(summary.bf16_bytes, start.elapsed())
    ))?;

    let start = Instant::now();
    let checkpoint = Checkpoint::open(&df11).map_err(text)?;
    huffman::decompress(&checkpoint, &back, &|_| {}).map_err(text)?;
    print(&format!(
        "decompress {} -> {}, {}\n",
        bytes(summary.compressed_bytes),
        bytes(summary.bf16_bytes),
        speed(summary.bf16_bytes, start.elapsed())
    ))?;

    let mut status = ExitCode::SUCCESS;
    for on in [On::Cpu, On::Simt] {
        let verdict = verify(&df11, &originals, on)?;
        let word = if verdict.differences.is_empty() {
            "every bit agrees".to_owned()
        } else {
            status = ExitCode::FAILURE;
            verdict.differences.join("; ")
        };
        print(&format!(
            "verify     {word}: {} groups on the {}, {}\n",
            verdict.n_groups,
            verdict.executor,
            speed(verdict.bf16_bytes, verdict.decode_time)
        ))?;
    }
    let device = lacuna::Device::open(0);
    match device {
        Ok(_) => {
            let verdict = verify(&df11, &originals, On::Cuda)?;
            let agrees = verdict.differences.is_empty();
            if !agrees {
                status = ExitCode::FAILURE;
            }
            let word = if agrees { "every bit agrees" } else { "BITS DIFFER" };
            print(&format!("verify     {word} on the {}\n", verdict.executor))?;
        }
        Err(error) => print(&format!("no GPU     {error}\n"))?,
    }
    Ok(status)
}
