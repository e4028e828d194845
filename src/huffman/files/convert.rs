//! Whole models: bf16 safetensors to a checkpoint of compressed weights, from one format to another, and back.
//!
//! One group is in memory at a time; everything else is mapped.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::{Value, json};

use super::checkpoint::{CONFIGS, FORMAT_VERSION};
use super::encoded::{EncodedEntry, Source};
use super::tensor_file::broken;
use super::write::{Sink, Tensor, assemble, spool_beside, write_safetensors};
use super::{Checkpoint, Format, GroupPattern, Model, ModelGroup, ModelTensor};
use crate::Result;
use crate::huffman::{BYTES_PER_THREAD, THREADS_PER_BLOCK};

/// The version of the format that DF11 checkpoints say they have.
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
pub struct Converted {
    /// Groups converted.
    pub n_groups: usize,
    /// Their bytes in bf16.
    pub bf16_bytes: u64,
    /// Their bytes in the checkpoint's format.
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
/// and the model's `config.json`, to which `dfloat11_config` or `lacuna_config` is added. Of
/// [`Format::Lane`] each matrix is a group of its own, in the file of those that `patterns` put
/// together. Tensors that are not bf16 matrices, or that no pattern takes, are copied. Files are
/// written under temporary names and renamed.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io); [`Error::Checkpoint`](crate::Error::Checkpoint) for inputs that
/// are not sound safetensors, are compressed already, name a tensor twice, or hold nothing to compress.
pub fn compress(
    inputs: &[PathBuf],
    output: &Path,
    patterns: &[GroupPattern],
    format: Format,
    progress: &dyn Fn(Progress<'_>),
) -> Result<Converted> {
    let model = Model::open(inputs)?;
    let groups = model.groups(patterns)?;
    if groups.is_empty() {
        return Err(broken(
            model.path(),
            "no bf16 matrix in it belongs to a known group; name its groups with --group",
        ));
    }
    if format == Format::Df11 {
        check_first(&model, &groups, patterns)?;
    }
    let total_bytes = groups.iter().map(ModelGroup::n_bytes).sum();
    let mut work = Work::new(output, format, total_bytes, progress)?;
    for group in &groups {
        let matrices: Vec<_> = group
            .tensors
            .iter()
            .map(|tensor| Source {
                name: tensor.name.to_owned(),
                shape: Some(tensor.shape.to_vec()),
                bytes: tensor.bytes,
            })
            .collect();
        work.put(&group.name, &matrices)?;
    }
    let in_group: HashSet<&str> =
        groups.iter().flat_map(|group| &group.tensors).map(|tensor| tensor.name).collect();
    let plain: Vec<_> =
        model.tensors().filter(|tensor| !in_group.contains(tensor.name)).map(owned).collect();
    let section = match format {
        Format::Df11 => ("dfloat11_config", df11_config(&groups, patterns)),
        _ => ("lacuna_config", lacuna_config(format)),
    };
    work.finish(&plain, with_section(model.config(), section))
}

/// Writes a checkpoint in another format, without the model between: as [`compress`], with the
/// groups as they are.
///
/// Not to DF11, whose groups are what the patterns of `config.json` say, which those of a checkpoint
/// need not be: [`decompress`], then [`compress`].
///
/// # Errors
/// [`Error::Io`](crate::Error::Io); whatever is wrong with the checkpoint;
/// [`Error::Checkpoint`](crate::Error::Checkpoint) for [`Format::Df11`], and for lanes of a matrix whose
/// shape the checkpoint does not say.
pub fn transcode(
    checkpoint: &Checkpoint,
    output: &Path,
    format: Format,
    progress: &dyn Fn(Progress<'_>),
) -> Result<Converted> {
    if format == Format::Df11 {
        return Err(broken(
            checkpoint.path(),
            "only bf16 is turned into DF11, whose groups other readers must find by patterns: `lacuna \
             decompress`, then `lacuna compress`",
        ));
    }
    let groups = checkpoint.all_stored()?;
    let total_bytes = groups.iter().map(|group| 2 * group.n_elements()).sum();
    let mut work = Work::new(output, format, total_bytes, progress)?;
    for (idx, group) in groups.iter().enumerate() {
        let (weights, _) = checkpoint.decode_checked(idx, group)?;
        let mut matrices = Vec::new();
        for (place, range) in group.matrices().into_iter().enumerate() {
            let weights = &weights[range.start as usize..range.end as usize];
            let (name, shape) =
                (checkpoint.name_of(idx, place), checkpoint.shape_of(idx, place, group));
            if format == Format::Lane && shape.as_ref().is_none_or(|sides| sides.len() != 2) {
                return Err(broken(
                    checkpoint.path(),
                    format!(
                        "{name} has no shape of rows and columns, by which lanes lie, and the \
                         checkpoint's encoder did not write one: `lacuna compress` the original"
                    ),
                ));
            }
            matrices.push(Source { name, shape, bytes: bytemuck::cast_slice(weights) });
        }
        work.put(group.name(), &matrices)?;
    }
    let config = with_section(checkpoint.config(), ("lacuna_config", lacuna_config(format)));
    let plain: Vec<_> = checkpoint.plain_tensors().map(owned).collect();
    work.finish(&plain, config)
}

/// Decompresses a checkpoint to one bf16 safetensors file. Matrices whose shape the checkpoint does
/// not say (other encoders') are written flat; matrices it does not name are called
/// `<group>.<index>`.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io), and whatever is wrong with the checkpoint.
pub fn decompress(
    checkpoint: &Checkpoint,
    output: &Path,
    progress: &dyn Fn(Progress<'_>),
) -> Result<Converted> {
    let mut summary = Converted::new(output);
    let groups = checkpoint.all_stored()?;
    let total_bytes = groups.iter().map(|group| group.n_elements() * 2).sum();
    let spool = spool_beside(output)?;
    let mut parts = Vec::new();
    for (idx, group) in groups.iter().enumerate() {
        let (weights, _) = checkpoint.decode_checked(idx, group)?;
        let mut tensors = Vec::new();
        for (place, range) in group.matrices().into_iter().enumerate() {
            let weights = &weights[range.start as usize..range.end as usize];
            let shape = checkpoint.shape_of(idx, place, group);
            let shape = shape.unwrap_or_else(|| vec![weights.len()]);
            let name = checkpoint.name_of(idx, place);
            tensors.push((name, Dtype::BF16, shape, bytemuck::cast_slice(weights)));
        }
        let part = spool.path().join(format!("{idx}.safetensors"));
        write_safetensors(&part, &tensors, Default::default())?;
        parts.push(part);
        summary.add(group.name(), group.n_elements() * 2, group.n_bytes(), total_bytes, progress);
    }
    let plain: Vec<_> = checkpoint.plain_tensors().map(owned).collect();
    summary.add_plain(&plain);
    assemble(output, &parts, &plain, Default::default())?;
    Ok(summary)
}

/// As it is written.
fn owned(tensor: ModelTensor<'_>) -> Tensor<'_> {
    (tensor.name.to_owned(), tensor.dtype, tensor.shape.to_vec(), tensor.bytes)
}

/// A checkpoint that is being written.
struct Work<'a> {
    sink: Sink,
    format: Format,
    summary: Converted,
    total_bytes: u64,
    progress: &'a dyn Fn(Progress<'_>),
}

impl<'a> Work<'a> {
    fn new(
        output: &Path,
        format: Format,
        total_bytes: u64,
        progress: &'a dyn Fn(Progress<'_>),
    ) -> Result<Self> {
        let (sink, summary) = (Sink::create(output)?, Converted::new(output));
        Ok(Self { sink, format, summary, total_bytes, progress })
    }

    fn put(&mut self, name: &str, matrices: &[Source<'_>]) -> Result<()> {
        let entries = EncodedEntry::encode(self.format, name, matrices)?;
        let n_bytes = matrices.iter().map(|matrix| matrix.bytes.len() as u64).sum();
        let n_compressed = self.sink.put(name, &entries)?;
        self.summary.add(name, n_bytes, n_compressed, self.total_bytes, self.progress);
        Ok(())
    }

    fn finish(mut self, plain: &[Tensor<'_>], config: Value) -> Result<Converted> {
        self.summary.add_plain(plain);
        self.sink.finish(plain, &config)?;
        Ok(self.summary)
    }
}

impl Converted {
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

    /// Counts a group that is done, and says so.
    fn add(
        &mut self,
        group: &str,
        bf16_bytes: u64,
        compressed_bytes: u64,
        total_bytes: u64,
        progress: &dyn Fn(Progress<'_>),
    ) {
        self.n_groups += 1;
        self.bf16_bytes += bf16_bytes;
        self.compressed_bytes += compressed_bytes;
        let (done_bytes, compressed_bytes) = (self.bf16_bytes, self.compressed_bytes);
        progress(Progress { group, done_bytes, total_bytes, compressed_bytes });
    }

    fn add_plain(&mut self, plain: &[Tensor<'_>]) {
        self.n_plain = plain.len();
        self.plain_bytes = plain.iter().map(|(_, _, _, bytes)| bytes.len() as u64).sum();
    }
}

/// A model's configuration with a section in place of those that tell of compressed weights.
fn with_section(config: Option<&Value>, section: (&str, Value)) -> Value {
    let mut config = config.cloned().unwrap_or_else(|| json!({}));
    if let Some(fields) = config.as_object_mut() {
        for name in CONFIGS {
            fields.shift_remove(name);
        }
        fields.insert(section.0.to_owned(), section.1);
    }
    config
}

/// Readers of DF11 go by the first pattern of `config.json` that takes a group's name, whatever modules
/// the group has: that must be the one that made it.
fn check_first(model: &Model, groups: &[ModelGroup<'_>], patterns: &[GroupPattern]) -> Result<()> {
    let mut used: Vec<_> = groups.iter().map(|group| group.pattern).collect();
    used.sort_unstable();
    used.dedup();
    let regex = |idx: usize| Ok((idx, patterns[idx].regex(model.path())?));
    let used: Vec<_> = used.into_iter().map(regex).collect::<Result<_>>()?;
    for group in groups {
        let earlier = used.iter().take_while(|(idx, _)| *idx < group.pattern);
        if let Some((idx, _)) = earlier.into_iter().find(|(_, regex)| regex.is_match(&group.name)) {
            return Err(broken(
                model.path(),
                format!(
                    "{} is of the pattern {}, and readers would take it by {}, which is before it; put \
                     narrower patterns first",
                    group.name, patterns[group.pattern].pattern, patterns[*idx].pattern
                ),
            ));
        }
    }
    Ok(())
}

/// What other readers need to find the groups.
fn df11_config(groups: &[ModelGroup<'_>], patterns: &[GroupPattern]) -> Value {
    let used = patterns
        .iter()
        .enumerate()
        .filter(|(idx, _)| groups.iter().any(|group| group.pattern == *idx))
        .map(|(_, pattern)| (pattern.pattern.clone(), json!(pattern.modules)));
    json!({
        "version": VERSION,
        "threads_per_block": [THREADS_PER_BLOCK],
        "bytes_per_thread": BYTES_PER_THREAD,
        "pattern_dict": used.collect::<serde_json::Map<_, _>>(),
    })
}

/// What a person who opens the directory would ask.
fn lacuna_config(format: Format) -> Value {
    json!({ "format": format.name(), "version": FORMAT_VERSION })
}
