//! DF11 checkpoints as they are found: a directory with `config.json`, or one file without.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use regex::{Regex, RegexBuilder};
use safetensors::Dtype;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::tensor_file::{TensorFile, broken, read_config, safetensors_in};
use crate::huffman::{BYTES_PER_THREAD, Group, RawGroup, THREADS_PER_BLOCK, decode};
use crate::{Error, Result};

/// Format versions that checkpoints in the wild say they have, and that hold the same tensors.
pub const VERSIONS: [&str; 4] = ["0.2.0", "0.3.1", "0.3.2", "0.5.0"];
/// Key of a group's facts in the safetensors metadata of files this crate wrote, before its name.
pub(super) const METADATA_PREFIX: &str = "lacuna.group.";
/// Suffix, element type and rank of a group's tensors, in the order of [`RawGroup`].
pub(super) const TENSORS: [(&str, Dtype, usize); 6] = [
    ("encoded_exponent", Dtype::U8, 1),
    ("sign_mantissa", Dtype::U8, 1),
    ("luts", Dtype::U8, 2),
    ("gaps", Dtype::U8, 1),
    ("output_positions", Dtype::U8, 1),
    ("split_positions", Dtype::I64, 1),
];

/// What is wrong with a checkpoint's files, as opposed to one tensor's content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct CheckpointError {
    /// The file or directory.
    pub path: PathBuf,
    /// What is wrong with it, and what to do.
    pub reason: String,
}

/// A matrix of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// Its tensor's name in the uncompressed model, `…weight` included.
    pub name: String,
    /// Its shape, where the file says it.
    pub shape: Option<Vec<usize>>,
}

/// A group of a checkpoint: where it is, and what the files say of it beside its tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointGroup {
    /// Its module path.
    pub name: String,
    /// Its matrices in order; empty where neither `config.json` nor the file names them.
    pub matrices: Vec<Matrix>,
    /// XXH3-64 of the decoded bf16 bytes, where the file carries it.
    pub checksum: Option<u64>,
    /// XXH3-64 of the six tensors one after the other, where the file carries it.
    pub stored_checksum: Option<u64>,
    file: usize,
}

/// Whether decoded weights were held against a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// They have the checksum that the file carries.
    Verified,
    /// The file carries none, as other encoders' do not.
    NoChecksum,
}

/// A DF11 checkpoint, mapped into memory. Nothing is copied: its groups borrow the file.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<TensorFile>,
    groups: Vec<CheckpointGroup>,
    config: Option<Value>,
}

impl Checkpoint {
    /// Opens a directory of DF11 safetensors, with or without `config.json`, or one file of them
    /// (with the `config.json` beside it, if that has a `dfloat11_config`). Reads headers only.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Checkpoint`] for files that are not sound safetensors, for groups
    /// that are incomplete, split over files or of wrong element types, for unknown format
    /// versions, and where there is no group at all.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let is_directory = path.is_dir();
        let files = if is_directory { safetensors_in(path)? } else { vec![path.to_owned()] };
        let files = files.iter().map(|file| TensorFile::open(file)).collect::<Result<Vec<_>>>()?;
        let folder = if is_directory { path } else { path.parent().unwrap_or(Path::new("")) };
        // Beside a single file, a config may belong to something else.
        let config = read_config(&folder.join("config.json"))?
            .filter(|config| is_directory || config.get("dfloat11_config").is_some());
        Self::assemble(path.to_owned(), files, config)
    }

    /// A checkpoint in one file's bytes, without `config.json`.
    ///
    /// # Errors
    /// As [`open`](Self::open), but for files.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        let path = PathBuf::from("(memory)");
        let file = TensorFile::from_bytes(path.clone(), bytes)?;
        Self::assemble(path, vec![file], None)
    }

    fn assemble(path: PathBuf, files: Vec<TensorFile>, config: Option<Value>) -> Result<Self> {
        let patterns = match config.as_ref().and_then(|config| config.get("dfloat11_config")) {
            Some(config) => parse_config(&path, config)?,
            None => Vec::new(),
        };
        let mut owners: BTreeMap<String, usize> = BTreeMap::new();
        for (idx, file) in files.iter().enumerate() {
            for (name, _) in file.tensors() {
                if let Some(other) = owners.insert(name.clone(), idx) {
                    let other = files[other].path().display();
                    return Err(broken(file.path(), format!("{name} is in {other} too")));
                }
            }
        }
        let mut groups = Vec::new();
        for (tensor, &file) in &owners {
            let Some(name) = tensor.strip_suffix(".encoded_exponent") else { continue };
            check_group(&files, &owners, name, file)?;
            groups.push(describe_group(&files[file], file, name, &patterns));
        }
        if groups.is_empty() {
            return Err(broken(
                &path,
                "it holds no DF11 group (no tensor ends in .encoded_exponent); `lacuna compress` makes one",
            ));
        }
        Ok(Self { path, files, groups, config })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model's `config.json`, where there is one.
    pub fn config(&self) -> Option<&Value> {
        self.config.as_ref()
    }

    /// The groups, by name.
    pub fn entries(&self) -> &[CheckpointGroup] {
        &self.groups
    }

    /// The tensors of group `idx`, as they are in the file; `None` past the last.
    pub fn raw_group(&self, idx: usize) -> Option<RawGroup<'_>> {
        let entry = self.groups.get(idx)?;
        let file = &self.files[entry.file];
        let [encoded_exponent, sign_mantissa, luts, gaps, output_positions, split_positions] =
            TENSORS.map(|(suffix, _, _)| {
                let name = format!("{}.{suffix}", entry.name);
                file.info(&name).map_or(&[][..], |info| file.data(info))
            });
        Some(RawGroup {
            name: &entry.name,
            encoded_exponent,
            sign_mantissa,
            luts,
            gaps,
            output_positions,
            split_positions,
        })
    }

    /// Group `idx`, checked; `None` past the last.
    ///
    /// # Errors
    /// [`Error::Tensor`]; [`Error::Checkpoint`] where the group's matrices have other names, shapes
    /// or bytes than the files say.
    pub fn group(&self, idx: usize) -> Result<Option<Group<'_>>> {
        let (Some(raw), Some(entry)) = (self.raw_group(idx), self.groups.get(idx)) else {
            return Ok(None);
        };
        let path = self.files[entry.file].path();
        if let Some(expected) = entry.stored_checksum
            && stored_checksum(&raw) != expected
        {
            return Err(broken(
                path,
                format!("{}: its tensors are damaged (checksum); get the file again", entry.name),
            ));
        }
        let group = raw.parse()?;
        if !entry.matrices.is_empty() && entry.matrices.len() != group.n_matrices() {
            return Err(broken(
                path,
                format!(
                    "{}: split_positions give {} matrices, and {} are named",
                    entry.name,
                    group.n_matrices(),
                    entry.matrices.len()
                ),
            ));
        }
        for (matrix, range) in entry.matrices.iter().zip(group.matrices()) {
            let Some(shape) = &matrix.shape else { continue };
            let n_elements = shape.iter().try_fold(1_u64, |n, side| n.checked_mul(*side as u64));
            if n_elements != Some(range.end - range.start) {
                return Err(broken(
                    path,
                    format!(
                        "{}: {} has shape {shape:?} and {} weights",
                        entry.name,
                        matrix.name,
                        range.end - range.start
                    ),
                ));
            }
        }
        Ok(Some(group))
    }

    /// All groups, checked, in the order of [`entries`](Self::entries).
    ///
    /// # Errors
    /// Those of [`group`](Self::group).
    pub fn groups(&self) -> Result<Vec<Group<'_>>> {
        (0..self.groups.len()).filter_map(|idx| self.group(idx).transpose()).collect()
    }

    /// Decodes group `idx` on the CPU, and holds the result against the file's checksum.
    ///
    /// # Errors
    /// Those of [`group`](Self::group) and of [`decode`]; [`Error::Checkpoint`] for another checksum
    /// than the file's; [`Error::Range`] past the last group.
    pub fn decode_group(&self, idx: usize) -> Result<(Vec<u16>, Checked)> {
        let group = self.group(idx)?.ok_or(Error::Range {
            what: "group",
            value: idx as u64,
            allowed: "the checkpoint's groups",
        })?;
        self.decode_checked(idx, &group)
    }

    /// [`decode_group`](Self::decode_group), of a group that [`group`](Self::group) or
    /// [`groups`](Self::groups) gave for `idx`: its tensors are not checked again.
    ///
    /// # Errors
    /// Those of [`decode`] and [`check_decoded`](Self::check_decoded).
    pub fn decode_checked(&self, idx: usize, group: &Group<'_>) -> Result<(Vec<u16>, Checked)> {
        let mut weights = vec![0; group.n_elements() as usize];
        decode(group, &mut weights)?;
        let checked = self.check_decoded(idx, &weights)?;
        Ok((weights, checked))
    }

    /// Holds the decoded weights of group `idx`, from whatever decoder, against the file's checksum.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for another checksum than the file's.
    pub fn check_decoded(&self, idx: usize, weights: &[u16]) -> Result<Checked> {
        let Some(entry) = self.groups.get(idx) else { return Ok(Checked::NoChecksum) };
        match entry.checksum {
            None => Ok(Checked::NoChecksum),
            Some(expected) if xxh3_64(bytemuck::cast_slice(weights)) == expected => {
                Ok(Checked::Verified)
            }
            Some(_) => Err(broken(
                self.files[entry.file].path(),
                format!("{}: its weights are damaged (checksum); get the file again", entry.name),
            )),
        }
    }

    /// The tensors that belong to no group, file by file.
    pub fn plain_tensors(&self) -> Vec<(String, Dtype, Vec<usize>, &[u8])> {
        let mut plain = Vec::new();
        for file in &self.files {
            for (name, info) in file.tensors() {
                let in_group = name.rsplit_once('.').is_some_and(|(group, suffix)| {
                    TENSORS.iter().any(|(tensor, _, _)| *tensor == suffix)
                        && self.groups.iter().any(|entry| entry.name == group)
                });
                if !in_group {
                    plain.push((name, info.dtype, info.shape.clone(), file.data(info)));
                }
            }
        }
        plain
    }
}

/// XXH3-64 over the six tensors, one after the other.
pub(super) fn stored_checksum(raw: &RawGroup<'_>) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    for tensor in raw.tensors() {
        hasher.update(&(tensor.len() as u64).to_le_bytes());
        hasher.update(tensor);
    }
    hasher.digest()
}

/// A pattern of group names, and the modules each such group holds, in order.
type Pattern = (Regex, Vec<String>);

fn parse_config(path: &Path, config: &Value) -> Result<Vec<Pattern>> {
    let error = |reason: String| broken(path, format!("dfloat11_config: {reason}"));
    let version = config.get("version").and_then(Value::as_str).unwrap_or("none");
    if !VERSIONS.contains(&version) {
        return Err(error(format!("version {version} is not one of {}", VERSIONS.join(", "))));
    }
    let threads = config.get("threads_per_block").and_then(|threads| threads.get(0));
    if threads.and_then(Value::as_u64) != Some(THREADS_PER_BLOCK as u64) {
        return Err(error(format!("threads_per_block must be [{THREADS_PER_BLOCK}]")));
    }
    if config.get("bytes_per_thread").and_then(Value::as_u64) != Some(BYTES_PER_THREAD as u64) {
        return Err(error(format!("bytes_per_thread must be {BYTES_PER_THREAD}")));
    }
    let patterns = config
        .get("pattern_dict")
        .and_then(Value::as_object)
        .ok_or_else(|| error("pattern_dict is missing".to_owned()))?;
    patterns
        .iter()
        .map(|(pattern, modules)| {
            // The pattern comes from a file: its automaton may not grow without bound. Matching is
            // linear in the name by construction.
            let regex = RegexBuilder::new(&format!("^(?:{pattern})$"))
                .size_limit(1 << 20)
                .build()
                .map_err(|reason| error(format!("pattern {pattern:?}: {reason}")))?;
            let modules: Option<Vec<_>> = modules.as_array().and_then(|modules| {
                modules.iter().map(|module| module.as_str().map(str::to_owned)).collect()
            });
            let modules =
                modules.ok_or_else(|| error(format!("pattern {pattern:?} names no modules")))?;
            Ok((regex, modules))
        })
        .collect()
}

fn check_group(
    files: &[TensorFile],
    owners: &BTreeMap<String, usize>,
    name: &str,
    file: usize,
) -> Result<()> {
    let path = files[file].path();
    for (suffix, dtype, rank) in TENSORS {
        let tensor = format!("{name}.{suffix}");
        match owners.get(&tensor) {
            None => {
                return Err(broken(path, format!("{tensor} is missing; the group is incomplete")));
            }
            Some(owner) if *owner != file => {
                let other = files[*owner].path().display();
                return Err(broken(
                    path,
                    format!("{tensor} is in {other}; a group is in one file"),
                ));
            }
            Some(_) => {}
        }
        let Some(info) = files[file].info(&tensor) else { continue };
        if info.dtype != dtype || info.shape.len() != rank {
            return Err(broken(
                path,
                format!(
                    "{tensor} is {:?} of rank {}, and must be {dtype:?} of rank {rank}",
                    info.dtype,
                    info.shape.len()
                ),
            ));
        }
        if suffix == "luts" && info.shape[1] != 256 {
            return Err(broken(path, format!("{tensor} has rows of {}, not 256", info.shape[1])));
        }
    }
    Ok(())
}

fn describe_group(
    tensors: &TensorFile,
    file: usize,
    name: &str,
    patterns: &[Pattern],
) -> CheckpointGroup {
    let facts: Option<Value> = tensors
        .fact(&format!("{METADATA_PREFIX}{name}"))
        .and_then(|text| serde_json::from_str(text).ok());
    let checksum = |key: &str| {
        let text = facts.as_ref()?.get(key)?.as_str()?;
        u64::from_str_radix(text, 16).ok()
    };
    let mut shapes: HashMap<String, Vec<usize>> = HashMap::new();
    let mut matrices = Vec::new();
    let listed = facts.as_ref().and_then(|facts| facts.get("matrices")?.as_array().cloned());
    for matrix in listed.unwrap_or_default() {
        let shape: Option<Vec<usize>> = matrix
            .get("shape")
            .and_then(Value::as_array)
            .and_then(|sides| sides.iter().map(|side| side.as_u64().map(|n| n as usize)).collect());
        if let (Some(matrix), Some(shape)) = (matrix.get("name").and_then(Value::as_str), shape) {
            shapes.insert(matrix.to_owned(), shape.clone());
            matrices.push(Matrix { name: matrix.to_owned(), shape: Some(shape) });
        }
    }
    // The configuration's word on names counts first: it is what other readers go by.
    if let Some((_, modules)) = patterns.iter().find(|(regex, _)| regex.is_match(name)) {
        let names = match modules.is_empty() {
            true => vec![format!("{name}.weight")],
            false => modules.iter().map(|module| format!("{name}.{module}.weight")).collect(),
        };
        matrices = names
            .into_iter()
            .map(|name| Matrix { shape: shapes.get(&name).cloned(), name })
            .collect();
    }
    CheckpointGroup {
        name: name.to_owned(),
        matrices,
        checksum: checksum("decoded_xxh3_64"),
        stored_checksum: checksum("stored_xxh3_64"),
        file,
    }
}
