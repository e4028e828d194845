//! `verify`: every bit of a checkpoint against the original.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use half::bf16;
use lacuna::huffman::{Checkpoint, CheckpointGroup, DeviceWeights, Group};
use lacuna::simt::Config;
use lacuna::{Device, Queue};
use safetensors::{Dtype, SafeTensors};

use crate::report::{bytes, percent, print, speed};
use crate::{On, Outcome};

/// What verifying found.
pub(crate) struct Verdict {
    pub(crate) n_groups: usize,
    pub(crate) bf16_bytes: u64,
    pub(crate) compressed_bytes: u64,
    /// Time spent decoding, without reading and comparing.
    pub(crate) decode_time: Duration,
    /// What decoded.
    pub(crate) executor: String,
    pub(crate) differences: Vec<String>,
}

pub(crate) fn run(checkpoint: &Path, originals: &[PathBuf], on: On) -> Outcome {
    let verdict = verify(checkpoint, originals, on)?;
    let mut text = String::new();
    for difference in &verdict.differences {
        text += &format!("differs: {difference}\n");
    }
    text += &format!(
        "{} of {} groups agree in every bit: {} as {} ({}), decoded on the {} at {}\n",
        verdict.n_groups - verdict.differences.len(),
        verdict.n_groups,
        bytes(verdict.bf16_bytes),
        bytes(verdict.compressed_bytes),
        percent(verdict.compressed_bytes, verdict.bf16_bytes),
        verdict.executor,
        speed(verdict.bf16_bytes, verdict.decode_time)
    );
    print(&text)?;
    Ok(if verdict.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(crate) fn verify(checkpoint: &Path, originals: &[PathBuf], on: On) -> Result<Verdict, String> {
    let checkpoint = Checkpoint::open(checkpoint).map_err(|error| error.to_string())?;
    let queue = match on {
        On::Cpu => None,
        On::Simt => Some(Queue::simt(Config::default())),
        On::Cuda => Some(
            Device::open(0).and_then(|device| device.queue()).map_err(|error| error.to_string())?,
        ),
    };
    let files = read_all(originals)?;
    let original = index(&files)?;
    let mut verdict = Verdict {
        n_groups: checkpoint.entries().len(),
        bf16_bytes: 0,
        compressed_bytes: 0,
        decode_time: Duration::ZERO,
        executor: queue.as_ref().map_or("CPU".to_owned(), |queue| queue.executor().to_string()),
        differences: Vec::new(),
    };
    let groups = checkpoint.groups().map_err(|error| error.to_string())?;
    for (idx, (entry, group)) in checkpoint.entries().iter().zip(&groups).enumerate() {
        let start = Instant::now();
        let weights = match &queue {
            None => checkpoint.decode_group(idx).map(|(weights, _)| weights),
            Some(queue) => decode_on(queue, group),
        }
        .map_err(|error| format!("{}: {error}", entry.name))?;
        verdict.decode_time += start.elapsed();
        verdict.bf16_bytes += 2 * group.n_elements();
        verdict.compressed_bytes += group.n_bytes();
        let expected = find_original(entry, group, checkpoint.entries().len(), &original)?;
        if let Some(difference) = first_difference(entry, group, &weights, &expected) {
            verdict.differences.push(difference);
        }
    }
    Ok(verdict)
}

fn decode_on(queue: &Queue, group: &Group<'_>) -> lacuna::Result<Vec<u16>> {
    let weights = DeviceWeights::upload(queue, std::slice::from_ref(group))?;
    let plan = weights.plan();
    let mut output = queue.alloc::<bf16>(plan.output_len() as usize)?;
    let mut workspace = queue.alloc::<u64>(plan.workspace_len() as usize)?;
    weights.decode(queue, &mut workspace.view_mut(), &mut output.view_mut())?;
    weights.check(queue, &workspace.view())?;
    Ok(queue.download(&output.view())?.into_iter().map(bf16::to_bits).collect())
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<(PathBuf, Vec<u8>)>, String> {
    let mut files = Vec::new();
    for path in paths {
        let mut found = vec![path.clone()];
        if path.is_dir() {
            let entries =
                std::fs::read_dir(path).map_err(|error| format!("{}: {error}", path.display()))?;
            found = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
            found.retain(|file| file.extension().is_some_and(|ending| ending == "safetensors"));
            found.sort();
        }
        for file in found {
            let content =
                std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            files.push((file, content));
        }
    }
    Ok(files)
}

/// The original's bf16 tensors by name.
type Original<'a> = HashMap<String, &'a [u8]>;

fn index(files: &[(PathBuf, Vec<u8>)]) -> Result<Original<'_>, String> {
    let mut tensors = HashMap::new();
    for (path, content) in files {
        let parsed = SafeTensors::deserialize(content)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        for (name, view) in parsed.tensors() {
            if view.dtype() == Dtype::BF16 {
                tensors.insert(name, view.data());
            }
        }
    }
    Ok(tensors)
}

/// The original bytes of each matrix: by the names the checkpoint gives, else the only pair.
fn find_original<'a>(
    entry: &CheckpointGroup,
    group: &Group<'_>,
    n_groups: usize,
    original: &Original<'a>,
) -> Result<Vec<(String, &'a [u8])>, String> {
    let only = (n_groups == 1 && original.len() == 1).then(|| original.iter().next()).flatten();
    if let Some((name, bytes)) = only.filter(|_| group.n_matrices() == 1) {
        return Ok(vec![(name.clone(), bytes)]);
    }
    if entry.matrices.is_empty() {
        // Without names: matrices of this group in the order of the original's names would be a
        // guess, and a guess is no proof.
        let prefix = format!("{}.", entry.name);
        let mut inside: Vec<_> =
            original.iter().filter(|(name, _)| name.starts_with(&prefix)).collect();
        inside.sort();
        let sizes: Vec<_> = group.matrices().map(|range| 2 * (range.end - range.start)).collect();
        if let ([(name, bytes)], [size]) = (&inside[..], &sizes[..])
            && bytes.len() as u64 == *size
        {
            return Ok(vec![((*name).clone(), bytes)]);
        }
        return Err(format!(
            "{}: neither config.json nor the file names its matrices; put the checkpoint's \
             config.json beside it",
            entry.name
        ));
    }
    entry
        .matrices
        .iter()
        .map(|matrix| match original.get(&matrix.name) {
            Some(bytes) => Ok((matrix.name.clone(), *bytes)),
            None => Err(format!("the original has no bf16 tensor {}", matrix.name)),
        })
        .collect()
}

fn first_difference(
    entry: &CheckpointGroup,
    group: &Group<'_>,
    weights: &[u16],
    expected: &[(String, &[u8])],
) -> Option<String> {
    for ((name, bytes), range) in expected.iter().zip(group.matrices()) {
        let decoded = &weights[range.start as usize..range.end as usize];
        if bytes.len() != 2 * decoded.len() {
            return Some(format!(
                "{name} in {}: {} weights, and the original has {}",
                entry.name,
                decoded.len(),
                bytes.len() / 2
            ));
        }
        let pairs = decoded.iter().zip(bytes.chunks_exact(2));
        for (idx, (got, bytes)) in pairs.enumerate() {
            let expected = u16::from_le_bytes([bytes[0], bytes[1]]);
            if *got != expected {
                return Some(format!(
                    "{name} in {}: weight {idx} is {got:#06x}, and the original {expected:#06x}",
                    entry.name
                ));
            }
        }
    }
    None
}
