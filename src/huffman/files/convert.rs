//! Whole models: bf16 safetensors to a DF11 checkpoint, and back.
//!
//! One group is in memory at a time; everything else is mapped.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tempfile::TempDir;
use xxhash_rust::xxh3::Xxh3;

use super::checkpoint::{METADATA_PREFIX, TENSORS, stored_checksum};
use super::layout::{PlannedGroup, plan_groups};
use super::model::Model;
use super::tensor_file::{TensorFile, broken};
use super::{Checkpoint, GroupPattern};
use crate::huffman::{BYTES_PER_THREAD, EncodedGroup, THREADS_PER_BLOCK, encode};
use crate::{Error, Result};

/// The version of the format that compressed checkpoints say they have.
const VERSION: &str = "0.5.0";

/// How far a conversion is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The group just finished.
    pub group: &'a str,
    /// Bytes of bf16 done.
    pub done_bytes: u64,
    /// Bytes of bf16 in all.
    pub total_bytes: u64,
    /// Bytes that the done ones are compressed.
    pub compressed_bytes: u64,
}

/// What a conversion did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Groups converted.
    pub n_groups: usize,
    /// Their bytes in bf16.
    pub bf16_bytes: u64,
    /// Their bytes in DF11.
    pub compressed_bytes: u64,
    /// Tensors copied as they are.
    pub n_plain: usize,
    /// Bytes of those.
    pub plain_bytes: u64,
    /// Where the result is.
    pub output: PathBuf,
}

/// Compresses a model: `inputs` are its safetensors files, or directories of them.
///
/// `output` is one file if it ends in `.safetensors`, else a new directory with a file per group
/// and the model's `config.json`, its `dfloat11_config` added. Tensors that are not bf16 matrices,
/// or that no pattern takes, are copied. Files are written under temporary names and renamed.
///
/// # Errors
/// [`Error::Io`]; [`Error::Checkpoint`] for inputs that are not sound safetensors, are compressed
/// already, name a tensor twice, or hold nothing to compress.
pub fn compress(
    inputs: &[PathBuf],
    output: &Path,
    patterns: &[GroupPattern],
    progress: &dyn Fn(Progress<'_>),
) -> Result<Summary> {
    let model = Model::open(inputs)?;
    let groups = plan_groups(model.path(), &model.matrices(), patterns)?;
    if groups.is_empty() {
        return Err(broken(
            model.path(),
            "no bf16 matrix in it belongs to a known group; name its groups with --group",
        ));
    }
    let mut summary = Summary::new(output);
    let total_bytes = groups.iter().map(|group| group_bytes(&model, group)).sum();
    let mut sink = Sink::create(output)?;
    for group in &groups {
        let matrices = group_matrices(&model, group);
        let encoded = encode(&matrices)?;
        let facts = describe(&model, group, &encoded, &matrices);
        summary.n_groups += 1;
        summary.bf16_bytes += group_bytes(&model, group);
        summary.compressed_bytes += sink.put_group(&group.name, &encoded, facts)?;
        progress(Progress {
            group: &group.name,
            done_bytes: summary.bf16_bytes,
            total_bytes,
            compressed_bytes: summary.compressed_bytes,
        });
    }
    let in_group: HashSet<&str> =
        groups.iter().flat_map(|group| &group.tensors).map(String::as_str).collect();
    let plain: Vec<_> = model
        .tensors()
        .filter(|tensor| !in_group.contains(tensor.name))
        .map(|tensor| (tensor.name.to_owned(), tensor.dtype, tensor.shape.to_vec(), tensor.bytes))
        .collect();
    summary.n_plain = plain.len();
    summary.plain_bytes = plain.iter().map(|(_, _, _, bytes)| bytes.len() as u64).sum();
    sink.finish(&plain, Some(df11_config(&model, &groups, patterns)))?;
    Ok(summary)
}

/// Decompresses a checkpoint to one bf16 safetensors file. Matrices whose shape the checkpoint does
/// not say (other encoders') are written flat; matrices it does not name are called
/// `<group>.<index>`.
///
/// # Errors
/// [`Error::Io`], and whatever is wrong with the checkpoint.
pub fn decompress(
    checkpoint: &Checkpoint,
    output: &Path,
    progress: &dyn Fn(Progress<'_>),
) -> Result<Summary> {
    let mut summary = Summary::new(output);
    let groups = checkpoint.groups()?;
    let total_bytes = groups.iter().map(|group| group.n_elements() * 2).sum();
    let spool = spool_beside(output)?;
    let mut parts = Vec::new();
    for (idx, group) in groups.iter().enumerate() {
        let (weights, _) = checkpoint.decode_checked(idx, group)?;
        let entry = &checkpoint.entries()[idx];
        let mut tensors = Vec::new();
        for (place, range) in group.matrices().enumerate() {
            let weights = &weights[range.start as usize..range.end as usize];
            let matrix = entry.matrices.get(place);
            let name = matrix.map_or_else(|| format!("{}.{place}", entry.name), |m| m.name.clone());
            let shape = matrix.and_then(|m| m.shape.clone()).unwrap_or_else(|| vec![weights.len()]);
            tensors.push((name, Dtype::BF16, shape, bytemuck::cast_slice(weights)));
        }
        let part = spool.path().join(format!("{idx}.safetensors"));
        write_safetensors(&part, &tensors, HashMap::new())?;
        parts.push(part);
        summary.n_groups += 1;
        summary.bf16_bytes += group.n_elements() * 2;
        summary.compressed_bytes += group.n_bytes();
        progress(Progress {
            group: group.name(),
            done_bytes: summary.bf16_bytes,
            total_bytes,
            compressed_bytes: summary.compressed_bytes,
        });
    }
    let plain = checkpoint.plain_tensors();
    summary.n_plain = plain.len();
    summary.plain_bytes = plain.iter().map(|(_, _, _, bytes)| bytes.len() as u64).sum();
    assemble(output, &parts, &plain, HashMap::new())?;
    Ok(summary)
}

impl Summary {
    fn new(output: &Path) -> Self {
        Self {
            n_groups: 0,
            bf16_bytes: 0,
            compressed_bytes: 0,
            n_plain: 0,
            plain_bytes: 0,
            output: output.to_owned(),
        }
    }
}

/// A tensor to write: name, element type, shape, bytes.
type Tensor<'a> = (String, Dtype, Vec<usize>, &'a [u8]);

/// The model's configuration with what other readers need to find the groups.
fn df11_config(model: &Model, groups: &[PlannedGroup], patterns: &[GroupPattern]) -> Value {
    let used = patterns
        .iter()
        .enumerate()
        .filter(|(idx, _)| groups.iter().any(|group| group.pattern == *idx))
        .map(|(_, pattern)| (pattern.pattern.clone(), json!(pattern.modules)));
    let mut config = model.config().cloned().unwrap_or_else(|| json!({}));
    if let Some(fields) = config.as_object_mut() {
        fields.insert(
            "dfloat11_config".to_owned(),
            json!({
                "version": VERSION,
                "threads_per_block": [THREADS_PER_BLOCK],
                "bytes_per_thread": BYTES_PER_THREAD,
                "pattern_dict": used.collect::<serde_json::Map<_, _>>(),
            }),
        );
    }
    config
}

fn group_matrices<'a>(model: &'a Model, group: &PlannedGroup) -> Vec<&'a [u8]> {
    group.tensors.iter().filter_map(|name| model.tensor(name)).map(|tensor| tensor.bytes).collect()
}

fn group_bytes(model: &Model, group: &PlannedGroup) -> u64 {
    group_matrices(model, group).iter().map(|matrix| matrix.len() as u64).sum()
}

/// What the file says of a group beside its tensors.
fn describe(
    model: &Model,
    group: &PlannedGroup,
    encoded: &EncodedGroup,
    matrices: &[&[u8]],
) -> String {
    let mut decoded = Xxh3::new();
    for matrix in matrices {
        decoded.update(matrix);
    }
    let shapes: Vec<_> = group
        .tensors
        .iter()
        .map(|name| json!({ "name": name, "shape": model.tensor(name).map(|tensor| tensor.shape) }))
        .collect();
    json!({
        "matrices": shapes,
        "decoded_xxh3_64": format!("{:016x}", decoded.digest()),
        "stored_xxh3_64": format!("{:016x}", stored_checksum(&encoded.as_raw(&group.name))),
    })
    .to_string()
}

/// Where a compressed checkpoint is written to.
struct Sink {
    output: PathBuf,
    /// Groups wait here, a file each, until the last is done.
    spool: TempDir,
    parts: Vec<(String, PathBuf)>,
    facts: HashMap<String, String>,
    is_file: bool,
}

impl Sink {
    fn create(output: &Path) -> Result<Self> {
        let is_file = output.extension().is_some_and(|extension| extension == "safetensors");
        if !is_file && output.exists() {
            return Err(broken(output, "it exists; name a new directory"));
        }
        let spool = spool_beside(output)?;
        let (output, parts, facts) = (output.to_owned(), Vec::new(), HashMap::new());
        Ok(Self { output, spool, parts, facts, is_file })
    }

    fn put_group(&mut self, name: &str, encoded: &EncodedGroup, facts: String) -> Result<u64> {
        let raw = encoded.as_raw(name);
        let bytes = raw.tensors();
        let tensors: Vec<Tensor<'_>> = TENSORS
            .iter()
            .zip(bytes)
            .map(|((suffix, dtype, rank), bytes)| {
                let shape = match (*dtype, *rank) {
                    (Dtype::I64, _) => vec![bytes.len() / 8],
                    (_, 2) => vec![bytes.len() / 256, 256],
                    _ => vec![bytes.len()],
                };
                (format!("{name}.{suffix}"), *dtype, shape, bytes)
            })
            .collect();
        let file = format!("{}.safetensors", name.replace('.', "_"));
        let part = self.spool.path().join(&file);
        let fact = (format!("{METADATA_PREFIX}{name}"), facts);
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned()), fact.clone()]);
        write_safetensors(&part, &tensors, metadata)?;
        self.facts.extend([fact]);
        self.parts.push((file, part));
        Ok(bytes.iter().map(|tensor| tensor.len() as u64).sum())
    }

    fn finish(self, plain: &[Tensor<'_>], config: Option<Value>) -> Result<()> {
        let mut metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        if self.is_file {
            metadata.extend(self.facts);
            let parts: Vec<_> = self.parts.into_iter().map(|(_, part)| part).collect();
            return assemble(&self.output, &parts, plain, metadata);
        }
        if !plain.is_empty() {
            write_safetensors(&self.spool.path().join("model.safetensors"), plain, metadata)?;
        }
        if let Some(config) = config {
            let path = self.spool.path().join("config.json");
            std::fs::write(&path, format!("{config:#}\n")).map_err(io(&path, "write the file"))?;
        }
        // The directory appears whole or not at all.
        let spool = self.spool.keep();
        make_readable(&spool, 0o755)?;
        std::fs::rename(&spool, &self.output).map_err(|source| {
            let _ = std::fs::remove_dir_all(&spool);
            io(&self.output, "rename the finished directory")(source)
        })
    }
}

/// How the names begin that this process gives to files and directories that are not finished: for
/// those who clean up after an interrupt. They are beside the output.
pub fn temporary_prefix() -> String {
    format!(".lacuna-{}-", std::process::id())
}

/// A private directory on the same file system as `output`, so that a rename is a rename.
fn spool_beside(output: &Path) -> Result<TempDir> {
    let folder = parent(output);
    tempfile::Builder::new()
        .prefix(&temporary_prefix())
        .tempdir_in(folder)
        .map_err(io(folder, "create a temporary directory"))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Temporary files and directories are private; a finished one is as any other.
fn make_readable(path: &Path, mode: u32) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .map_err(io(path, "set permissions"))?;
    }
    let _ = (path, mode);
    Ok(())
}

/// One file from the tensors of others, without holding them in memory.
fn assemble(
    output: &Path,
    parts: &[PathBuf],
    plain: &[Tensor<'_>],
    metadata: HashMap<String, String>,
) -> Result<()> {
    let files = parts.iter().map(|part| TensorFile::open(part)).collect::<Result<Vec<_>>>()?;
    let mut tensors: Vec<Tensor<'_>> = Vec::new();
    for file in &files {
        for (name, info) in file.tensors() {
            tensors.push((name, info.dtype, info.shape.clone(), file.data(info)));
        }
    }
    tensors.extend(plain.iter().cloned());
    write_safetensors(output, &tensors, metadata)
}

/// Writes under a temporary name and renames: a file is whole or not there.
fn write_safetensors(
    output: &Path,
    tensors: &[Tensor<'_>],
    metadata: HashMap<String, String>,
) -> Result<()> {
    let folder = parent(output);
    let file = tempfile::Builder::new()
        .prefix(&temporary_prefix())
        .tempfile_in(folder)
        .map_err(io(folder, "create a temporary file"))?;
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.clone(), bytes)
                .map_err(|error| broken(output, format!("{name}: {error}")))?;
            Ok((name.as_str(), view))
        })
        .collect::<Result<Vec<_>>>()?;
    let metadata = (!metadata.is_empty()).then_some(metadata);
    safetensors::serialize_to_file(views, metadata, file.path())
        .map_err(|error| broken(output, format!("cannot be written: {error}")))?;
    make_readable(file.path(), 0o644)?;
    file.as_file().sync_all().map_err(io(output, "flush the file to disk"))?;
    file.persist(output).map_err(|error| io(output, "rename the finished file")(error.error))?;
    Ok(())
}

fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, action, source }
}
