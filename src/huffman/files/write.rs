//! Files that are whole or not there.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;
use tempfile::TempDir;

use super::checkpoint::METADATA_PREFIX;
use super::encoded::EncodedEntry;
use super::tensor_file::{TensorFile, broken};
use crate::{Error, Result};

/// The file of what is not compressed.
const PLAIN_FILE: &str = "model.safetensors";
/// Characters of a group's name that its file's has, at most: file systems have 255 bytes.
const MOST_NAME: usize = 200;

/// A tensor to write: name, element type, shape, bytes.
pub(super) type Tensor<'a> = (String, Dtype, Vec<usize>, &'a [u8]);

/// Where a compressed checkpoint is written to.
pub(super) struct Sink {
    output: PathBuf,
    /// Groups wait here, a file each, until the last is done.
    spool: TempDir,
    parts: Vec<PathBuf>,
    /// The names of their files.
    taken: HashSet<String>,
    /// And of their tensors.
    names: HashSet<String>,
    facts: HashMap<String, String>,
    is_file: bool,
}

impl Sink {
    pub(super) fn create(output: &Path) -> Result<Self> {
        let is_file = output.extension().is_some_and(|extension| extension == "safetensors");
        if !is_file && output.exists() {
            return Err(broken(output, "it exists; name a new directory"));
        }
        let spool = spool_beside(output)?;
        let (output, facts) = (output.to_owned(), HashMap::new());
        Ok(Self {
            output,
            spool,
            parts: Vec::new(),
            taken: HashSet::new(),
            names: HashSet::new(),
            facts,
            is_file,
        })
    }

    /// Writes groups that share a file, called after `name`; gives their bytes.
    pub(super) fn put(&mut self, name: &str, groups: &[EncodedEntry]) -> Result<u64> {
        let mut tensors: Vec<Tensor<'_>> = Vec::new();
        let mut facts = Vec::new();
        let mut n_bytes = 0;
        for group in groups {
            let raw = group.as_raw();
            for (kind, bytes) in raw.format().tensors().iter().zip(raw.tensors()) {
                let n_elements = bytes.len() * 8 / kind.dtype.bitsize();
                let shape = match kind.row_len {
                    None => vec![n_elements],
                    Some(row_len) => vec![n_elements / row_len, row_len],
                };
                n_bytes += bytes.len() as u64;
                tensors.push((format!("{}.{}", group.name, kind.suffix), kind.dtype, shape, bytes));
            }
            facts.push((format!("{METADATA_PREFIX}{}", group.name), group.facts.clone()));
        }
        if let Some(twice) = tensors.iter().find(|tensor| !self.names.insert(tensor.0.clone())) {
            return Err(broken(&self.output, format!("{} would be of two groups", twice.0)));
        }
        let file = self.file_of(name);
        let part = self.spool.path().join(&file);
        let mut metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        metadata.extend(facts.iter().cloned());
        write_safetensors(&part, &tensors, metadata)?;
        self.facts.extend(facts);
        self.taken.insert(file);
        self.parts.push(part);
        Ok(n_bytes)
    }

    /// A group's file: a name of its own in this directory, whatever the group is called. Names come from
    /// files of others: one that is a path must not lead out of here, and two may differ in what no file
    /// name has.
    fn file_of(&self, name: &str) -> String {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let known = |c| if is_plain(c) { c } else { '_' };
        // What begins with a dot has no extension, and would not be found again.
        let name = if name.is_empty() { "_" } else { name };
        let stem: String = name.chars().take(MOST_NAME).map(known).collect();
        let is_taken = |file: &String| file == PLAIN_FILE || self.taken.contains(file);
        let file = format!("{stem}.safetensors");
        if !is_taken(&file) {
            return file;
        }
        let others = (self.parts.len()..).map(|idx| format!("{stem}-{idx}.safetensors"));
        others.into_iter().find(|file| !is_taken(file)).expect("a number that no part has")
    }

    pub(super) fn finish(self, plain: &[Tensor<'_>], config: &Value) -> Result<()> {
        if let Some((name, ..)) = plain.iter().find(|(name, ..)| self.names.contains(name)) {
            let reason = format!("{name} is not compressed, and has the name of a group's tensor");
            return Err(broken(&self.output, reason));
        }
        let mut metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        if self.is_file {
            metadata.extend(self.facts);
            return assemble(&self.output, &self.parts, plain, metadata);
        }
        if !plain.is_empty() {
            write_safetensors(&self.spool.path().join(PLAIN_FILE), plain, metadata)?;
        }
        let path = self.spool.path().join("config.json");
        std::fs::write(&path, format!("{config:#}\n")).map_err(io(&path, "write the file"))?;
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
pub(super) fn spool_beside(output: &Path) -> Result<TempDir> {
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
pub(super) fn assemble(
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
pub(super) fn write_safetensors(
    output: &Path,
    tensors: &[Tensor<'_>],
    metadata: HashMap<String, String>,
) -> Result<()> {
    let mut names = HashSet::new();
    if let Some((name, ..)) = tensors.iter().find(|(name, ..)| !names.insert(name.as_str())) {
        return Err(broken(output, format!("{name} would be in it twice")));
    }
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
