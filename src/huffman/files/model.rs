//! Uncompressed models on disk.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde_json::Value;

use super::layout::{PlannedGroup, plan_groups};
use super::tensor_file::{TensorFile, broken, read_config, safetensors_in};
use super::{Format, GroupPattern};
use crate::Result;

/// The name of a sharded model's index.
const INDEX: &str = "model.safetensors.index.json";

/// An uncompressed model, mapped: safetensors files, whatever their element types.
#[derive(Debug)]
pub struct Model {
    path: PathBuf,
    files: Vec<TensorFile>,
    places: Vec<Place>,
    by_name: HashMap<String, usize>,
    config: Option<Value>,
}

/// Where a tensor is.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) name: String,
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: std::ops::Range<usize>,
}

impl Place {
    pub(super) fn new(name: String, file: usize, info: &TensorInfo) -> Self {
        let range = info.data_offsets.0..info.data_offsets.1;
        Self { name, file, dtype: info.dtype, shape: info.shape.clone(), range }
    }

    /// The tensor, in the files that it was found in.
    pub(super) fn tensor<'a>(&'a self, files: &'a [TensorFile]) -> ModelTensor<'a> {
        ModelTensor {
            name: &self.name,
            dtype: self.dtype,
            shape: &self.shape,
            bytes: files[self.file].data_at(self.range.clone()),
        }
    }
}

/// One tensor of a [`Model`], or of a [`Checkpoint`](super::Checkpoint) one that is not compressed.
#[derive(Debug, Clone, Copy)]
pub struct ModelTensor<'a> {
    /// As the file calls it.
    pub name: &'a str,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its dimensions, the slowest first.
    pub shape: &'a [usize],
    /// Its elements, little-endian.
    pub bytes: &'a [u8],
}

/// Matrices of a [`Model`] that are compressed together.
#[derive(Debug, Clone)]
pub struct ModelGroup<'a> {
    /// Its module path.
    pub name: String,
    /// The matrices, in order.
    pub tensors: Vec<ModelTensor<'a>>,
    /// Index of the pattern that made it.
    pub(super) pattern: usize,
}

impl ModelGroup<'_> {
    /// Bytes of its matrices.
    pub fn n_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes.len() as u64).sum()
    }
}

impl Model {
    /// Opens safetensors files, or directories of them. A directory with an index
    /// (`model.safetensors.index.json`) is the files that the index names, and no others.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io); [`Error::Checkpoint`](crate::Error::Checkpoint) for files
    /// that are not sound safetensors or are compressed already, an index that is not one, and a name that two
    /// tensors have.
    pub fn open(inputs: &[PathBuf]) -> Result<Self> {
        let path = inputs.first().cloned().unwrap_or_default();
        let mut paths = Vec::new();
        for input in inputs {
            match input.is_dir() {
                true => paths.extend(match indexed_files(input)? {
                    Some(indexed) => indexed,
                    None => safetensors_in(input)?,
                }),
                false => paths.push(input.clone()),
            }
        }
        let files = paths.iter().map(|path| TensorFile::open(path)).collect::<Result<Vec<_>>>()?;
        let mut places = Vec::new();
        let mut by_name = HashMap::new();
        for (idx, file) in files.iter().enumerate() {
            for (name, info) in file.tensors() {
                if let Some((format, _)) = Format::marked_by(&name) {
                    let reason = format!(
                        "{name}: it is compressed already, as {format}; `lacuna transcode` gives it another format"
                    );
                    return Err(broken(file.path(), reason));
                }
                if by_name.insert(name.clone(), places.len()).is_some() {
                    return Err(broken(file.path(), format!("{name} is in another file too")));
                }
                places.push(Place::new(name, idx, info));
            }
        }
        let config = match path.is_dir() {
            true => read_config(&path.join("config.json"))?,
            false => None,
        };
        Ok(Self { path, files, places, by_name, config })
    }

    /// The first file or directory it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The `config.json` of the directory, where there is one.
    pub fn config(&self) -> Option<&Value> {
        self.config.as_ref()
    }

    /// All tensors, file by file, in the order of their bytes.
    pub fn tensors(&self) -> impl Iterator<Item = ModelTensor<'_>> {
        self.places.iter().map(|place| place.tensor(&self.files))
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Option<ModelTensor<'_>> {
        self.by_name.get(name).map(|idx| self.places[*idx].tensor(&self.files))
    }

    /// The matrices that are compressed together, by `patterns`: bf16 of two dimensions, not empty. A
    /// matrix is in the group of the first pattern that takes it, or in none.
    ///
    /// # Errors
    /// [`Error::Checkpoint`](crate::Error::Checkpoint) for a pattern that is no regular expression, and a
    /// group that lacks one of its modules.
    pub fn groups(&self, patterns: &[GroupPattern]) -> Result<Vec<ModelGroup<'_>>> {
        let groups = plan_groups(&self.path, &self.matrices(), patterns)?;
        let found = groups.into_iter().map(|PlannedGroup { name, tensors, pattern }| ModelGroup {
            name,
            tensors: tensors.iter().filter_map(|name| self.tensor(name)).collect(),
            pattern,
        });
        Ok(found.collect())
    }

    /// The names of what can be compressed: bf16, two dimensions, not empty.
    fn matrices(&self) -> Vec<String> {
        let is_matrix = |tensor: &ModelTensor<'_>| {
            tensor.dtype == Dtype::BF16 && tensor.shape.len() == 2 && !tensor.bytes.is_empty()
        };
        self.tensors().filter(is_matrix).map(|tensor| tensor.name.to_owned()).collect()
    }
}

/// The files that a directory's index names; `None` where it has no index.
fn indexed_files(folder: &Path) -> Result<Option<Vec<PathBuf>>> {
    let path = folder.join(INDEX);
    let Some(index) = read_config(&path)? else { return Ok(None) };
    let Some(map) = index.get("weight_map").and_then(Value::as_object) else {
        return Err(broken(&path, "it has no weight_map of tensor names to files"));
    };
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        let name = file.as_str().map(Path::new).filter(|name| {
            // A bare name: an index must not lead out of its directory.
            name.file_name() == Some(name.as_os_str())
        });
        let Some(name) = name else {
            return Err(broken(&path, format!("{tensor}: {file} is not the name of a file")));
        };
        names.insert(folder.join(name));
    }
    Ok(Some(names.into_iter().collect()))
}
