//! Checkpoints as they are found: a directory with `config.json`, or one file without.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use regex::{Regex, RegexBuilder};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::model::Place;
use super::stored::TensorKind;
use super::tensor_file::{TensorFile, broken, read_config, safetensors_in};
use super::{Format, ModelTensor, RawStored, Stored};
use crate::huffman::lane::Lane;
use crate::huffman::{BYTES_PER_THREAD, Group, THREADS_PER_BLOCK};
use crate::{Error, Result};

/// Format versions that checkpoints in the wild say they have, and that hold the same tensors.
pub const VERSIONS: [&str; 4] = ["0.2.0", "0.3.1", "0.3.2", "0.5.0"];
/// Key of a group's facts in the safetensors metadata of files this crate wrote, before its name.
pub(super) const METADATA_PREFIX: &str = "lacuna.group.";
/// The sections of a `config.json` that tell of compressed weights.
pub(super) const CONFIGS: [&str; 2] = ["dfloat11_config", "lacuna_config"];
/// More patterns than any `config.json` has, more bytes of each one's automaton than models' take, and more
/// modules of one than any group has matrices: by these few bytes of text ask for many of memory.
const MAX_PATTERNS: usize = 256;
const MAX_PATTERN_BYTES: usize = 1 << 18;
const MAX_MODULES: usize = 4096;
/// And more of memory than the names of any model's matrices take.
const MAX_NAMED_BYTES: usize = 64 << 20;
/// Version of the formats of this crate that groups' facts name.
pub(super) const FORMAT_VERSION: u64 = 1;

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

/// Where a matrix is in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatrixPlace {
    /// Its group.
    pub group: usize,
    /// Its weights, of the group's.
    pub range: Range<u64>,
    /// Its shape, where the files say it.
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
    /// How its weights are kept.
    pub format: Format,
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

/// A checkpoint of compressed weights, mapped into memory. Nothing is copied: its groups borrow the file.
///
/// Its groups may have any [`Format`]; DF11, which other encoders write too, has [`groups`](Self::groups) of its own.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<TensorFile>,
    groups: Vec<CheckpointGroup>,
    /// Tensors that are in no group.
    plain: Vec<Place>,
    plain_by_name: HashMap<String, usize>,
    config: Option<Value>,
}

impl Checkpoint {
    /// Opens a directory of safetensors, with or without `config.json`, or one file of them
    /// (with the `config.json` beside it, if that has a `dfloat11_config` or `lacuna_config`). Reads
    /// headers only.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Checkpoint`] for files that are not sound safetensors, for groups
    /// that are incomplete, split over files, of wrong element types or in two formats, for unknown
    /// format versions, and where there is no group at all.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let is_directory = path.is_dir();
        let files = if is_directory { safetensors_in(path)? } else { vec![path.to_owned()] };
        let files = files.iter().map(|file| TensorFile::open(file)).collect::<Result<Vec<_>>>()?;
        let folder = if is_directory { path } else { path.parent().unwrap_or(Path::new("")) };
        // Beside a single file, a config may belong to something else.
        let is_ours = |config: &Value| CONFIGS.iter().any(|name| config.get(name).is_some());
        let config = read_config(&folder.join("config.json"))?
            .filter(|config| is_directory || is_ours(config));
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
        let (mut groups, mut n_named) = (Vec::new(), 0);
        for (tensor, &file) in &owners {
            let Some((format, name)) = Format::marked_by(tensor) else { continue };
            check_group(&files, &owners, format, name, file)?;
            // A few modules, each once for every group that a pattern takes.
            n_named += named_bytes(format, name, &patterns);
            if n_named > MAX_NAMED_BYTES {
                let reason = "its patterns name more matrices than models have";
                return Err(broken(&path, format!("dfloat11_config: {reason}")));
            }
            groups.push(describe_group(&files[file], file, format, name, &patterns)?);
        }
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = groups.windows(2).find(|pair| pair[0].name == pair[1].name) {
            let (name, [one, other]) = (&pair[0].name, [pair[0].format, pair[1].format]);
            return Err(broken(&path, format!("{name} is there as {one} and as {other}")));
        }
        if groups.is_empty() {
            return Err(broken(
                &path,
                "it holds no compressed group (no tensor ends in .encoded_exponent, .granule_bits or \
                 .lane_header); `lacuna compress` makes one",
            ));
        }
        let is_plain = |name: &str| {
            let Some((group, suffix)) = name.rsplit_once('.') else { return true };
            let found = groups.binary_search_by(|entry| entry.name.as_str().cmp(group));
            let is_of =
                |idx: usize| groups[idx].format.tensors().iter().any(|kind| kind.suffix == suffix);
            !found.is_ok_and(is_of)
        };
        let (mut plain, mut plain_by_name) = (Vec::new(), HashMap::new());
        for (idx, file) in files.iter().enumerate() {
            for (name, info) in file.tensors().into_iter().filter(|(name, _)| is_plain(name)) {
                plain_by_name.insert(name.clone(), plain.len());
                plain.push(Place::new(name, idx, info));
            }
        }
        Ok(Self { path, files, groups, plain, plain_by_name, config })
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
    pub fn raw(&self, idx: usize) -> Option<RawStored<'_>> {
        let entry = self.groups.get(idx)?;
        let file = &self.files[entry.file];
        let tensors = entry.format.tensors().each_ref().map(|kind| {
            let name = format!("{}.{}", entry.name, kind.suffix);
            file.info(&name).map_or(&[][..], |info| file.data(info))
        });
        Some(RawStored::new(entry.format, &entry.name, tensors))
    }

    /// Group `idx`, in whichever format, checked; `None` past the last.
    ///
    /// # Errors
    /// [`Error::Tensor`]; [`Error::Checkpoint`] where the group's matrices have other names, shapes
    /// or bytes than the files say.
    pub fn stored(&self, idx: usize) -> Result<Option<Stored<'_>>> {
        let (Some(raw), Some(entry)) = (self.raw(idx), self.groups.get(idx)) else {
            return Ok(None);
        };
        let error = |reason: String| {
            Err(broken(self.files[entry.file].path(), format!("{}: {reason}", entry.name)))
        };
        if let Some(expected) = entry.stored_checksum
            && raw.checksum() != expected
        {
            return error("its tensors are damaged (checksum); get the file again".to_owned());
        }
        let stored = raw.parse()?;
        let ranges = stored.matrices();
        if !entry.matrices.is_empty() && entry.matrices.len() != ranges.len() {
            let (n, named) = (ranges.len(), entry.matrices.len());
            return error(format!("split_positions give {n} matrices, and {named} are named"));
        }
        for (matrix, range) in entry.matrices.iter().zip(ranges) {
            let Some(shape) = &matrix.shape else { continue };
            let n_elements = shape.iter().try_fold(1_u64, |n, side| n.checked_mul(*side as u64));
            let n_weights = range.end - range.start;
            if n_elements != Some(n_weights) {
                return error(format!(
                    "{} has shape {shape:?} and {n_weights} weights",
                    matrix.name
                ));
            }
            if let Stored::Lane(lane) = &stored
                && shape[..] != lane_sides(lane)
            {
                return error(format!(
                    "{} has shape {shape:?}, and its lanes {:?}",
                    matrix.name,
                    lane_sides(lane)
                ));
            }
        }
        Ok(Some(stored))
    }

    /// All groups, in whichever formats, checked, in the order of [`entries`](Self::entries).
    ///
    /// # Errors
    /// Those of [`stored`](Self::stored).
    pub fn all_stored(&self) -> Result<Vec<Stored<'_>>> {
        (0..self.groups.len()).filter_map(|idx| self.stored(idx).transpose()).collect()
    }

    /// Group `idx` of DF11, checked; `None` past the last.
    ///
    /// # Errors
    /// Those of [`stored`](Self::stored), and [`Error::Checkpoint`] for a group in another format.
    pub fn group(&self, idx: usize) -> Result<Option<Group<'_>>> {
        match self.stored(idx)? {
            None => Ok(None),
            Some(Stored::Df11(group)) => Ok(Some(group)),
            Some(other) => Err(broken(
                self.files[self.groups[idx].file].path(),
                format!(
                    "{} is in the format {}, and DF11 was asked for: `Checkpoint::stored` reads it",
                    other.name(),
                    other.format()
                ),
            )),
        }
    }

    /// All groups of a checkpoint of DF11, checked, in the order of [`entries`](Self::entries).
    ///
    /// # Errors
    /// Those of [`group`](Self::group).
    pub fn groups(&self) -> Result<Vec<Group<'_>>> {
        (0..self.groups.len()).filter_map(|idx| self.group(idx).transpose()).collect()
    }

    /// The shape of matrix `place` of group `idx`: what the files say of it, or what lanes do themselves.
    ///
    /// # Panics
    /// Where there is no group `idx`.
    pub fn shape_of(&self, idx: usize, place: usize, stored: &Stored<'_>) -> Option<Vec<usize>> {
        let named = self.groups[idx].matrices.get(place).and_then(|matrix| matrix.shape.clone());
        match stored {
            Stored::Lane(lane) => named.or_else(|| Some(lane_sides(lane).to_vec())),
            _ => named,
        }
    }

    /// The name of matrix `place` of group `idx`: the files', or `<group>.<place>`.
    ///
    /// # Panics
    /// Where there is no group `idx`.
    pub fn name_of(&self, idx: usize, place: usize) -> String {
        let entry = &self.groups[idx];
        let named = entry.matrices.get(place).map(|matrix| matrix.name.clone());
        named.unwrap_or_else(|| format!("{}.{place}", entry.name))
    }

    /// Decodes group `idx` on the CPU, and holds the result against the file's checksum.
    ///
    /// # Errors
    /// Those of [`stored`](Self::stored) and [`Stored::decode`]; [`Error::Checkpoint`] for another
    /// checksum than the file's; [`Error::Range`] past the last group.
    pub fn decode_group(&self, idx: usize) -> Result<(Vec<u16>, Checked)> {
        let stored = self.stored(idx)?.ok_or(Error::Range {
            what: "group",
            value: idx as u64,
            allowed: "the checkpoint's groups",
        })?;
        self.decode_checked(idx, &stored)
    }

    /// [`decode_group`](Self::decode_group), of a group that [`stored`](Self::stored) or
    /// [`all_stored`](Self::all_stored) gave for `idx`: its tensors are not checked again.
    ///
    /// # Errors
    /// Those of [`Stored::decode`] and [`check_decoded`](Self::check_decoded).
    pub fn decode_checked(&self, idx: usize, stored: &Stored<'_>) -> Result<(Vec<u16>, Checked)> {
        let mut weights = vec![0; stored.n_elements() as usize];
        stored.decode(&mut weights)?;
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

    /// Tensors that are in no group, file by file, in the order of their bytes.
    pub fn plain_tensors(&self) -> impl ExactSizeIterator<Item = ModelTensor<'_>> {
        self.plain.iter().map(|place| place.tensor(&self.files))
    }

    /// One of them by its name.
    pub fn plain_tensor(&self, name: &str) -> Option<ModelTensor<'_>> {
        self.plain_by_name.get(name).map(|idx| self.plain[*idx].tensor(&self.files))
    }

    /// All matrices by the names that [`name_of`](Self::name_of) gives, and where they are.
    ///
    /// # Errors
    /// Those of [`all_stored`](Self::all_stored).
    pub fn matrices(&self) -> Result<BTreeMap<String, MatrixPlace>> {
        let mut places = BTreeMap::new();
        for (group, stored) in self.all_stored()?.iter().enumerate() {
            for (place, range) in stored.matrices().into_iter().enumerate() {
                let shape = self.shape_of(group, place, stored);
                places.insert(self.name_of(group, place), MatrixPlace { group, range, shape });
            }
        }
        Ok(places)
    }
}

/// Rows and columns of a matrix of lanes.
fn lane_sides(lane: &Lane<'_>) -> [usize; 2] {
    [lane.shape().n_rows(), lane.shape().n_columns()].map(|side| side as usize)
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
    if patterns.len() > MAX_PATTERNS {
        let n = patterns.len();
        return Err(error(format!("pattern_dict has {n} patterns, more than {MAX_PATTERNS}")));
    }
    patterns
        .iter()
        .map(|(pattern, modules)| {
            // The pattern comes from a file: its automaton may not grow without bound, nor what matching
            // remembers. Matching is linear in the name by construction.
            let regex = RegexBuilder::new(&format!("^(?:{pattern})$"))
                .size_limit(MAX_PATTERN_BYTES)
                .dfa_size_limit(MAX_PATTERN_BYTES)
                .build()
                .map_err(|reason| error(format!("pattern {pattern:?}: {reason}")))?;
            let modules = modules.as_array();
            if let Some(n) = modules.map(Vec::len).filter(|n| *n > MAX_MODULES) {
                return Err(error(format!(
                    "pattern {pattern:?} names {n} modules, more than {MAX_MODULES}"
                )));
            }
            let modules: Option<Vec<_>> = modules.and_then(|modules| {
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
    format: Format,
    name: &str,
    file: usize,
) -> Result<()> {
    let path = files[file].path();
    for TensorKind { suffix, dtype, row_len } in format.tensors() {
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
        let rank = 1 + usize::from(row_len.is_some());
        if info.dtype != *dtype || info.shape.len() != rank {
            return Err(broken(
                path,
                format!(
                    "{tensor} is {:?} of rank {}, and must be {dtype:?} of rank {rank}",
                    info.dtype,
                    info.shape.len()
                ),
            ));
        }
        if let Some(row_len) = row_len
            && info.shape[1] != *row_len
        {
            let got = info.shape[1];
            return Err(broken(path, format!("{tensor} has rows of {got}, not {row_len}")));
        }
    }
    Ok(())
}

/// The modules of a group, by the first pattern that takes its name: the configuration's word counts first,
/// as it is what other readers of DF11 go by.
fn modules_of<'a>(format: Format, name: &str, patterns: &'a [Pattern]) -> Option<&'a [String]> {
    let mut patterns = patterns.iter().filter(|_| format == Format::Df11);
    Some(&patterns.find(|(regex, _)| regex.is_match(name))?.1)
}

/// What the names of a group's matrices take in memory, about.
fn named_bytes(format: Format, name: &str, patterns: &[Pattern]) -> usize {
    let modules = modules_of(format, name, patterns).unwrap_or_default();
    modules.iter().map(|module| name.len() + module.len() + size_of::<Matrix>()).sum()
}

fn describe_group(
    tensors: &TensorFile,
    file: usize,
    format: Format,
    name: &str,
    patterns: &[Pattern],
) -> Result<CheckpointGroup> {
    let facts: Option<Value> = tensors
        .fact(&format!("{METADATA_PREFIX}{name}"))
        .and_then(|text| serde_json::from_str(text).ok());
    let version = facts.as_ref().and_then(|facts| facts.get("version")?.as_u64());
    if let Some(version) = version.filter(|version| *version != FORMAT_VERSION) {
        return Err(broken(
            tensors.path(),
            format!(
                "{name} is in version {version} of the format {format}, and {FORMAT_VERSION} is read"
            ),
        ));
    }
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
    if format == Format::Lane && matrices.is_empty() {
        matrices.push(Matrix { name: format!("{name}.weight"), shape: None });
    }
    if let Some(modules) = modules_of(format, name, patterns) {
        let names = match modules.is_empty() {
            true => vec![format!("{name}.weight")],
            false => modules.iter().map(|module| format!("{name}.{module}.weight")).collect(),
        };
        matrices = names
            .into_iter()
            .map(|name| Matrix { shape: shapes.get(&name).cloned(), name })
            .collect();
    }
    Ok(CheckpointGroup {
        name: name.to_owned(),
        matrices,
        checksum: checksum("decoded_xxh3_64"),
        stored_checksum: checksum("stored_xxh3_64"),
        format,
        file,
    })
}
