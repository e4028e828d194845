//! Safetensors files, mapped, and what lies beside them.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::Value;

use super::CheckpointError;
use crate::{Error, Result};

/// More tensors than any checkpoint has.
const MAX_TENSORS: usize = 1 << 20;
/// More than any `config.json` has.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

/// A safetensors file in memory, its header parsed and its data where it was.
#[derive(Debug)]
pub(super) struct TensorFile {
    path: PathBuf,
    bytes: Bytes,
    data_start: usize,
    metadata: Metadata,
}

impl TensorFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let io = |action| move |source| Error::Io { path: path.to_owned(), action, source };
        // Before it is opened: that would wait for whoever writes to a pipe.
        check_regular(path, &std::fs::metadata(path).map_err(io("open the file"))?)?;
        let file = File::open(path).map_err(io("open the file"))?;
        // SAFETY: the map is only read. A file that someone truncates meanwhile ends the process
        // with a bus error; SECURITY.md says so.
        let map = unsafe { Mmap::map(&file) }.map_err(io("map the file"))?;
        Self::parse(path.to_owned(), Bytes::Mapped(map))
    }

    /// A file that is in memory already, `path` being what errors call it.
    pub(super) fn from_bytes(path: PathBuf, bytes: Vec<u8>) -> Result<Self> {
        Self::parse(path, Bytes::Owned(bytes))
    }

    fn parse(path: PathBuf, bytes: Bytes) -> Result<Self> {
        let (n_header_bytes, metadata) = {
            let bytes = match &bytes {
                Bytes::Mapped(map) => &map[..],
                Bytes::Owned(bytes) => bytes,
            };
            // Reads the header and holds every offset against the file's length.
            SafeTensors::deserialize(bytes)
                .and_then(|_| SafeTensors::read_metadata(bytes))
                .map_err(|error| {
                    broken(
                        &path,
                        format!("it is not a sound safetensors file ({error}); get it again"),
                    )
                })?
        };
        if metadata.tensors().len() > MAX_TENSORS {
            return Err(broken(&path, format!("it has more than {MAX_TENSORS} tensors")));
        }
        Ok(Self { path, bytes, data_start: 8 + n_header_bytes, metadata })
    }

    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn tensors(&self) -> Vec<(String, &TensorInfo)> {
        let mut tensors: Vec<_> = self.metadata.tensors().into_iter().collect();
        tensors.sort_by_key(|(_, info)| info.data_offsets);
        tensors
    }

    pub(super) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.metadata.info(name)
    }

    pub(super) fn data(&self, info: &TensorInfo) -> &[u8] {
        self.data_at(info.data_offsets.0..info.data_offsets.1)
    }

    /// `range` is a tensor's own, held against the file's length when the header was read.
    pub(super) fn data_at(&self, range: std::ops::Range<usize>) -> &[u8] {
        &self.bytes()[self.data_start + range.start..self.data_start + range.end]
    }

    pub(super) fn fact(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }
}

fn check_regular(path: &Path, kind: &std::fs::Metadata) -> Result<()> {
    if kind.is_file() { Ok(()) } else { Err(broken(path, "it is not a regular file")) }
}

pub(super) fn broken(path: &Path, reason: impl Into<String>) -> Error {
    Error::Checkpoint(CheckpointError { path: path.to_owned(), reason: reason.into() })
}

/// Files in a directory by name, so that every run sees them in one order.
pub(super) fn safetensors_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |source| Error::Io { path: folder.to_owned(), action: "list the directory", source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        let reason = match folder.join("decode.ptx").exists() {
            true => "it has the layout of DFloat11 before 0.2.0 (pickle files), which is not read",
            false => "there is no .safetensors file in it",
        };
        return Err(broken(folder, reason));
    }
    Ok(files)
}

pub(super) fn read_config(path: &Path) -> Result<Option<Value>> {
    let io = |source| Error::Io { path: path.to_owned(), action: "read the file", source };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
        // A device says that it has no bytes, and may never end.
        Ok(kind) => check_regular(path, &kind)?,
    }
    let mut text = String::new();
    let file = File::open(path).map_err(io)?;
    file.take(MAX_CONFIG_BYTES + 1).read_to_string(&mut text).map_err(io)?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(broken(path, "it is too large for a model's configuration"));
    }
    let value = serde_json::from_str(&text)
        .map_err(|error| broken(path, format!("it is not JSON ({error})")))?;
    Ok(Some(value))
}
