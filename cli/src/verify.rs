//! `verify`: every bit of a checkpoint against the original.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use half::bf16;
use lacuna::huffman::lane::DeviceLane;
use lacuna::huffman::{
    Checkpoint, CheckpointGroup, DeviceWeights, Model, ModelTensor, Progress, Stored,
};
use lacuna::simt::Config;
use lacuna::{Device, Queue};
use safetensors::Dtype;

use crate::report::{Bar, bytes, percent, print, speed};
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
    /// Tensors that are not compressed.
    pub(crate) n_plain: usize,
    pub(crate) differences: Vec<String>,
    /// Tensors of the original that the checkpoint does not have.
    pub(crate) absent: Vec<String>,
}

pub(crate) fn run(checkpoint: &Path, originals: &[PathBuf], on: On) -> Outcome {
    let verdict = verify(checkpoint, originals, on)?;
    let mut text = String::new();
    for difference in &verdict.differences {
        text += &format!("differs: {difference}\n");
    }
    if let Some(first) = verdict.absent.first() {
        let n = verdict.absent.len();
        text +=
            &format!("not compared: {n} tensors of the original are not in it, {first} first\n");
    }
    let n = verdict.n_groups + verdict.n_plain;
    text += &format!(
        "{} of {n} agree in every bit (groups: {}, other tensors: {}): {} as {} ({}), decoded on the {} at {}\n",
        n - verdict.differences.len(),
        verdict.n_groups,
        verdict.n_plain,
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
        On::Cuda => Some(Device::open(0).and_then(|device| device.queue()).map_err(|error| {
            format!("{error}\n`lacuna doctor` says more; --on cpu and --on simt need no GPU")
        })?),
    };
    let original = Model::open(originals).map_err(|error| error.to_string())?;
    let mut verdict = Verdict {
        n_groups: checkpoint.entries().len(),
        bf16_bytes: 0,
        compressed_bytes: 0,
        decode_time: Duration::ZERO,
        executor: queue.as_ref().map_or("CPU".to_owned(), |queue| queue.executor().to_string()),
        n_plain: 0,
        differences: Vec::new(),
        absent: Vec::new(),
    };
    let groups = checkpoint.all_stored().map_err(|error| error.to_string())?;
    let total_bytes = groups.iter().map(|group| 2 * group.n_elements()).sum();
    let bar = Bar::new();
    let mut named = HashSet::new();
    for (idx, (entry, group)) in checkpoint.entries().iter().zip(&groups).enumerate() {
        let start = Instant::now();
        let weights = match &queue {
            None => checkpoint.decode_checked(idx, group).map(|(weights, _)| weights),
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
        named.extend(expected.iter().map(|tensor| tensor.name.to_owned()));
        bar.show(&Progress {
            group: &entry.name,
            done_bytes: verdict.bf16_bytes,
            total_bytes,
            compressed_bytes: verdict.compressed_bytes,
        });
    }
    drop(bar);
    for ModelTensor { name, dtype, shape, bytes } in checkpoint.plain_tensors() {
        verdict.n_plain += 1;
        match original.tensor(name) {
            Some(tensor) if (tensor.dtype, tensor.shape, tensor.bytes) == (dtype, shape, bytes) => {
            }
            Some(_) => verdict.differences.push(format!("{name}: another type, shape or bits")),
            None => verdict.differences.push(format!("{name}: the original does not have it")),
        }
        named.insert(name.to_owned());
    }
    let rest = original.tensors().filter(|tensor| !named.contains(tensor.name));
    verdict.absent = rest.map(|tensor| tensor.name.to_owned()).collect();
    Ok(verdict)
}

fn decode_on(queue: &Queue, group: &Stored<'_>) -> lacuna::Result<Vec<u16>> {
    let mut output = queue.alloc::<bf16>(group.n_elements() as usize)?;
    match group {
        Stored::Lane(matrix) => {
            let planes = DeviceLane::upload(queue, &matrix.planes())?;
            planes.unpack(queue, &mut output.view_mut(), planes.shape().n_columns())?;
        }
        _ => {
            let weights = DeviceWeights::upload(queue, group.source())?;
            let mut workspace = queue.alloc::<u64>(weights.plan().workspace_len() as usize)?;
            weights.decode(queue, &mut workspace.view_mut(), &mut output.view_mut())?;
            weights.check(queue, &workspace.view())?;
        }
    }
    let weights = queue.download(&output.view())?;
    Ok(weights.into_iter().map(bf16::to_bits).collect())
}

/// The original bytes of each matrix: by the names the checkpoint gives, else the only pair.
fn find_original<'a>(
    entry: &CheckpointGroup,
    group: &Stored<'_>,
    n_groups: usize,
    original: &'a Model,
) -> Result<Vec<ModelTensor<'a>>, String> {
    let matrices: Vec<_> =
        original.tensors().filter(|tensor| tensor.dtype == Dtype::BF16).collect();
    if n_groups == 1 && matrices.len() == 1 && group.matrices().len() == 1 {
        return Ok(matrices);
    }
    if entry.matrices.is_empty() {
        // Without names: matrices of this group in the order of the original's names would be a
        // guess, and a guess is no proof.
        let prefix = format!("{}.", entry.name);
        let inside: Vec<_> =
            matrices.into_iter().filter(|tensor| tensor.name.starts_with(&prefix)).collect();
        if let [only] = &inside[..]
            && group.matrices().len() == 1
            && only.bytes.len() as u64 == 2 * group.n_elements()
        {
            return Ok(inside);
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
        .map(|matrix| {
            let tensor = original.tensor(&matrix.name);
            tensor
                .filter(|tensor| tensor.dtype == Dtype::BF16)
                .ok_or_else(|| format!("the original has no bf16 tensor {}", matrix.name))
        })
        .collect()
}

fn first_difference(
    entry: &CheckpointGroup,
    group: &Stored<'_>,
    weights: &[u16],
    expected: &[ModelTensor<'_>],
) -> Option<String> {
    for (ModelTensor { name, bytes, .. }, range) in expected.iter().zip(group.matrices()) {
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
