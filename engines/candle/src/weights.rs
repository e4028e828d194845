//! Checkpoints of compressed weights, and what layers read of them.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Error, Result, Shape, Tensor, TensorId, bail};
use half::bf16;
use half::slice::HalfBitsSliceExt;
use lacuna::huffman::{Checkpoint, Model, Stored};

use crate::{Embedding, Linear, Wrap};

/// What is kept of weights that were expanded on the CPU. On CUDA there is one scratch of the largest group, whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// Nothing: every use expands its group, and the seven layers of a block that are one group expand it seven times.
    Nothing,
    /// The group that was used last, as bf16: a step of a model expands each group once. Costs 2 bytes a weight of the largest group.
    #[default]
    Group,
    /// Every matrix that was used, in the type that it was used in: nothing is expanded twice, and no memory is saved. Costs 2
    /// bytes a weight, of f32 4.
    All,
}

/// The weights of a model: a checkpoint of any of lacuna's formats (DF11, compact, lanes), or an uncompressed model. A clone is the
/// same weights.
///
/// Compressed matrices stay as they are in the file, which is mapped; on CUDA they are uploaded so. Layers expand them when they
/// are used, to the very bits that were compressed.
#[derive(Debug, Clone)]
pub struct Weights {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    files: Files,
    /// Compressed matrices by their names.
    places: HashMap<String, Place>,
    device: Device,
    keep: Keep,
    expanded: Mutex<Expanded>,
    #[cfg(feature = "cuda")]
    groups: Option<crate::cuda::weights::Groups>,
}

#[derive(Debug)]
enum Files {
    Checkpoint(Checkpoint),
    Model(Model),
}

/// Where a compressed matrix is.
#[derive(Debug, Clone)]
struct Place {
    group: usize,
    /// Its weights, of the group's.
    range: Range<usize>,
    shape: Option<Vec<usize>>,
}

/// What [`Keep`] keeps.
#[derive(Debug, Default)]
struct Expanded {
    /// All weights of a group, bf16.
    last: Option<(usize, Tensor)>,
    all: HashMap<(Key, DType), Tensor>,
}

/// A matrix: its group and first weight there, or the tensor that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Coded(usize, usize),
    Plain(TensorId),
}

/// A matrix as a layer has it.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    pub(crate) weights: Weights,
    pub(crate) dims: [usize; 2],
    pub(crate) source: Source,
}

#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// Weights of a group.
    Coded {
        group: usize,
        range: Range<usize>,
    },
    Plain(Tensor),
}

impl Weights {
    /// Opens a directory or a file of safetensors, compressed or not, and checks what can be checked without decoding,
    /// checksums of the stored bytes among it.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`], in its words.
    pub fn open(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        match Model::open(&[PathBuf::from(path)]) {
            Ok(model) => Self::of_model(model, device),
            Err(_) => Self::of_checkpoint(Checkpoint::open(path).w()?, device),
        }
    }

    /// Of a checkpoint that is open.
    ///
    /// # Errors
    /// Those of [`Checkpoint::stored`]; on CUDA those of uploads.
    pub fn of_checkpoint(checkpoint: Checkpoint, device: &Device) -> Result<Self> {
        let matrices = checkpoint.matrices().w()?;
        let places = matrices.into_iter().map(|(name, matrix)| {
            let range = matrix.range.start as usize..matrix.range.end as usize;
            (name, Place { group: matrix.group, range, shape: matrix.shape })
        });
        let places = places.collect();
        Self::new(Files::Checkpoint(checkpoint), places, device)
    }

    /// Of a model that is not compressed.
    ///
    /// # Errors
    /// On CUDA, where the device has no queue.
    pub fn of_model(model: Model, device: &Device) -> Result<Self> {
        Self::new(Files::Model(model), HashMap::new(), device)
    }

    fn new(files: Files, places: HashMap<String, Place>, device: &Device) -> Result<Self> {
        if device.is_metal() {
            bail!("weights on Metal: there are kernels for CUDA, and references on the CPU");
        }
        #[cfg(feature = "cuda")]
        let groups = match (&files, device.is_cuda()) {
            (Files::Checkpoint(checkpoint), true) => {
                Some(crate::cuda::weights::Groups::upload(checkpoint, device)?)
            }
            _ => None,
        };
        let inner = Inner {
            #[cfg(feature = "cuda")]
            groups,
            files,
            places,
            device: device.clone(),
            keep: Keep::default(),
            expanded: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The same weights, of which something else is kept: to be said before layers are made.
    ///
    /// # Errors
    /// Where clones or layers have them already.
    pub fn with_keep(self, keep: Keep) -> Result<Self> {
        match Arc::try_unwrap(self.inner) {
            Ok(inner) => Ok(Self { inner: Arc::new(Inner { keep, ..inner }) }),
            Err(_) => bail!("with_keep: layers have these weights already; say it before"),
        }
    }

    /// Where layers compute.
    pub fn device(&self) -> &Device {
        &self.inner.device
    }

    /// The model's `config.json`, where there is one.
    pub fn config(&self) -> Option<String> {
        let config = match &self.inner.files {
            Files::Checkpoint(checkpoint) => checkpoint.config(),
            Files::Model(model) => model.config(),
        };
        config.map(ToString::to_string)
    }

    /// The names of all tensors, compressed and not, ascending.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.inner.places.keys().cloned().collect();
        match &self.inner.files {
            Files::Checkpoint(checkpoint) => {
                names.extend(checkpoint.plain_tensors().map(|tensor| tensor.name.to_owned()));
            }
            Files::Model(model) => {
                names.extend(model.tensors().map(|tensor| tensor.name.to_owned()));
            }
        }
        names.sort_unstable();
        names
    }

    /// Whether a tensor is compressed.
    pub fn is_compressed(&self, name: &str) -> bool {
        self.inner.places.contains_key(name)
    }

    /// Bytes of all compressed matrices, as they are kept.
    pub fn compressed_bytes(&self) -> u64 {
        let Files::Checkpoint(checkpoint) = &self.inner.files else { return 0 };
        let of_group = |idx| checkpoint.raw(idx).map(|raw| raw.tensors());
        let groups = (0..checkpoint.entries().len()).filter_map(of_group).flatten();
        groups.map(|tensor| tensor.len() as u64).sum()
    }

    /// A tensor by its name, expanded if it is compressed, in memory of its own: norms, biases, and what no layer is made of.
    ///
    /// # Errors
    /// Where there is none, or a compressed one has no shape in the file.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        match self.inner.places.get(name) {
            None => self.plain(name)?.ok_or_else(|| no_tensor(name)),
            Some(Place { shape: None, .. }) => bail!(
                "{name}: the file does not say its shape; `linear` and `embedding` are told theirs"
            ),
            Some(Place { group, range, shape: Some(shape) }) => {
                let source = Source::Coded { group: *group, range: range.clone() };
                let dims = [shape.iter().product(), 1];
                let matrix = Matrix { weights: self.clone(), dims, source };
                matrix.with(DType::BF16, |weights| weights.reshape(shape.as_slice())?.copy())
            }
        }
    }

    /// The linear layer of `path`: `path.weight`, `[out_dim, in_dim]`, and `path.bias` where there is one.
    ///
    /// # Errors
    /// Where there is no such tensor, or its shape is another.
    pub fn linear(&self, in_dim: usize, out_dim: usize, path: &str) -> Result<Linear> {
        let weight = self.matrix(out_dim, in_dim, path)?;
        let name = format!("{path}.bias");
        let bias = self.plain(&name)?;
        if let Some(bias) = &bias {
            check_shape(&name, &[out_dim], bias.dims())?;
        }
        Linear::new(weight, bias)
    }

    /// The embedding of `path`: `path.weight`, `[n_rows, row_len]`.
    ///
    /// # Errors
    /// Where there is no such tensor, or its shape is another; of a DF11 group, which is decoded once to index it, where it is
    /// corrupt.
    pub fn embedding(&self, n_rows: usize, row_len: usize, path: &str) -> Result<Embedding> {
        Embedding::new(self.matrix(n_rows, row_len, path)?)
    }

    fn matrix(&self, n_rows: usize, n_columns: usize, path: &str) -> Result<Matrix> {
        let name = format!("{path}.weight");
        let dims = [n_rows, n_columns];
        let source = match self.inner.places.get(&name) {
            Some(Place { group, range, shape }) => {
                if let Some(shape) = shape {
                    check_shape(&name, &dims, shape)?;
                } else if n_rows.checked_mul(n_columns) != Some(range.len()) {
                    bail!("{name}: {dims:?} was asked for, and it has {} weights", range.len());
                }
                Source::Coded { group: *group, range: range.clone() }
            }
            None => {
                let tensor = self.plain(&name)?.ok_or_else(|| no_tensor(&name))?;
                check_shape(&name, &dims, tensor.dims())?;
                Source::Plain(tensor)
            }
        };
        Ok(Matrix { weights: self.clone(), dims, source })
    }

    fn plain(&self, name: &str) -> Result<Option<Tensor>> {
        let found = match &self.inner.files {
            Files::Checkpoint(checkpoint) => checkpoint.plain_tensor(name),
            Files::Model(model) => model.tensor(name),
        };
        let Some(tensor) = found else { return Ok(None) };
        let dtype: DType = tensor.dtype.try_into()?;
        Tensor::from_raw_buffer(tensor.bytes, dtype, tensor.shape, self.device()).map(Some)
    }

    /// A group's tensors, checked when the weights were opened.
    pub(crate) fn stored(&self, group: usize) -> Result<Stored<'_>> {
        match &self.inner.files {
            Files::Checkpoint(checkpoint) => match checkpoint.raw(group) {
                Some(raw) => raw.parse().w(),
                None => bail!("group {group} of {}", checkpoint.entries().len()),
            },
            Files::Model(_) => bail!("group {group} of a model that is not compressed"),
        }
    }

    /// What was uploaded, on CUDA.
    #[cfg(feature = "cuda")]
    pub(crate) fn groups(&self) -> Option<&crate::cuda::weights::Groups> {
        self.inner.groups.as_ref()
    }

    /// Waits for the device, and reports whether anything that was expanded there was corrupt; on the CPU the call that expands it says so.
    ///
    /// # Errors
    /// The lowest corrupt tile of the first group that has one.
    pub fn check(&self) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some(groups) = self.groups() {
            return groups.check();
        }
        Ok(())
    }

    /// A group's weights, bf16, on the CPU.
    fn expand(&self, group: usize) -> Result<Tensor> {
        let lock = || self.inner.expanded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, weights)) = &lock().last
            && *last == group
        {
            return Ok(weights.clone());
        }
        // No lock is held meanwhile: layers of other groups go on.
        let stored = self.stored(group)?;
        let mut bits = vec![0_u16; stored.n_elements() as usize];
        stored.decode(&mut bits).w()?;
        let weights = Tensor::from_slice(
            bits.reinterpret_cast::<bf16>(),
            Shape::from(bits.len()),
            &Device::Cpu,
        )?;
        if self.inner.keep != Keep::Nothing {
            lock().last = Some((group, weights.clone()));
        }
        Ok(weights)
    }
}

impl Matrix {
    pub(crate) fn is_on_cpu(&self) -> bool {
        self.weights.device().is_cpu()
    }

    /// Lends the matrix, `[n_rows, n_columns]`, in a type. It must not outlive the call: on CUDA the next group takes its memory.
    pub(crate) fn with<R>(
        &self,
        dtype: DType,
        then: impl FnOnce(&Tensor) -> Result<R>,
    ) -> Result<R> {
        #[cfg(feature = "cuda")]
        if let (Source::Coded { group, range }, Some(groups)) =
            (&self.source, self.weights.groups())
        {
            return groups.with(*group, range, self.dims, |matrix| then(&matrix.to_dtype(dtype)?));
        }
        let key = match &self.source {
            Source::Coded { group, range } => Key::Coded(*group, range.start),
            Source::Plain(tensor) => Key::Plain(tensor.id()),
        };
        let inner = &self.weights.inner;
        let lock = || inner.expanded.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = lock().all.get(&(key, dtype)).cloned();
        if let Some(matrix) = kept {
            return then(&matrix.reshape(&self.dims[..])?);
        }
        let matrix = match &self.source {
            Source::Coded { group, range } => {
                self.weights.expand(*group)?.narrow(0, range.start, range.len())?
            }
            Source::Plain(tensor) => tensor.clone(),
        };
        let matrix = matrix.reshape(&self.dims[..])?.to_dtype(dtype)?;
        if inner.keep == Keep::All {
            lock().all.insert((key, dtype), matrix.clone());
        }
        then(&matrix)
    }
}

fn no_tensor(name: &str) -> Error {
    Error::CannotFindTensor { path: name.to_owned() }.bt()
}

fn check_shape(name: &str, expected: &[usize], got: &[usize]) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::UnexpectedShape {
        msg: format!("shape of {name}"),
        expected: Shape::from(expected),
        got: Shape::from(got),
    }
    .bt())
}
