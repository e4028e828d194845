//! `compress`, `transcode` and `decompress`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use lacuna::huffman::{self, Checkpoint, Converted, Format, GroupPattern};

use crate::Outcome;
use crate::interrupt::leave_nothing_beside;
use crate::report::{Bar, bytes, percent, print, speed};

pub(crate) fn compress(
    inputs: &[PathBuf],
    output: &Path,
    groups: &[String],
    format: Format,
) -> Outcome {
    let patterns = match groups {
        [] => GroupPattern::defaults(),
        groups => groups.iter().map(|text| GroupPattern::parse(text)).collect(),
    };
    let start = Instant::now();
    leave_nothing_beside(output)?;
    let bar = Bar::new();
    let show = |progress: huffman::Progress<'_>| bar.show(&progress);
    let summary = huffman::compress(inputs, output, &patterns, format, &show)
        .map_err(|error| error.to_string())?;
    drop(bar);
    report_compressed(&summary, format, start)
}

pub(crate) fn transcode(checkpoint: &Path, output: &Path, format: Format) -> Outcome {
    let start = Instant::now();
    let checkpoint = Checkpoint::open(checkpoint).map_err(|error| error.to_string())?;
    leave_nothing_beside(output)?;
    let bar = Bar::new();
    let show = |progress: huffman::Progress<'_>| bar.show(&progress);
    let summary = huffman::transcode(&checkpoint, output, format, &show)
        .map_err(|error| error.to_string())?;
    drop(bar);
    report_compressed(&summary, format, start)
}

fn report_compressed(summary: &Converted, format: Format, start: Instant) -> Outcome {
    print(&format!(
        "compressed {} to {} ({}) as {format} at {}\n{}",
        bytes(summary.bf16_bytes),
        bytes(summary.compressed_bytes),
        percent(summary.compressed_bytes, summary.bf16_bytes),
        speed(summary.bf16_bytes, start.elapsed()),
        tail(summary)
    ))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn decompress(checkpoint: &Path, output: &Path) -> Outcome {
    let start = Instant::now();
    let checkpoint = Checkpoint::open(checkpoint).map_err(|error| error.to_string())?;
    leave_nothing_beside(output)?;
    let bar = Bar::new();
    let summary = huffman::decompress(&checkpoint, output, &|progress| bar.show(&progress))
        .map_err(|error| error.to_string())?;
    drop(bar);
    print(&format!(
        "decompressed {} to {} on the CPU at {}\n{}",
        bytes(summary.compressed_bytes),
        bytes(summary.bf16_bytes),
        speed(summary.bf16_bytes, start.elapsed()),
        tail(&summary)
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn tail(summary: &Converted) -> String {
    format!(
        "{} groups; {} other tensors ({}) as they were; in {}\n",
        summary.n_groups,
        summary.n_plain,
        bytes(summary.plain_bytes),
        summary.output.display()
    )
}
