//! Peers that live in processes of their own, which measure as the house does and answer in a line of JSON.

use std::cell::OnceCell;
use std::io::Write;
use std::process::Command;

use tempfile::NamedTempFile;

use super::path_of;
use crate::house::case::SelfTimed;

/// What a process of this name says.
pub(super) fn ask(command: &mut Command, name: &str) -> Result<SelfTimed, String> {
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    let words = String::from_utf8_lossy(&output.stdout);
    let line = words.lines().next_back().unwrap_or_default();
    let answer: serde_json::Value = serde_json::from_str(line).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("no answer of {name}: {}", said.lines().next_back().unwrap_or("silence"))
    })?;
    let version = answer["version"].as_str().map(str::to_owned);
    match answer["us"].as_f64() {
        Some(time_us) => Ok(SelfTimed { time_us, version }),
        None => Err(answer["why"].as_str().unwrap_or("it says no time").to_owned()),
    }
}

/// What the libraries are given, all the same.
pub(crate) struct Inputs<'a> {
    /// As the script takes them.
    pub(crate) sizes: serde_json::Value,
    /// One after the other, as the script says.
    pub(crate) arrays: Vec<&'a [u8]>,
    /// With the arrays, made when the first library asks.
    pub(crate) file: OnceCell<Result<NamedTempFile, String>>,
}

impl Inputs<'_> {
    /// What the Python script that `variable` names says of a library, by its name there.
    pub(super) fn ask(
        &self,
        variable: &str,
        library: &str,
        n_sets: u64,
    ) -> Result<SelfTimed, String> {
        let mut command = Command::new("python3");
        command.arg(path_of(variable, "script")?).arg(library);
        command.arg(self.sizes.to_string()).arg(n_sets.to_string());
        ask(command.arg(self.file()?.path()), "python3")
    }

    fn file(&self) -> Result<&NamedTempFile, String> {
        let write = || -> std::io::Result<NamedTempFile> {
            let mut file = NamedTempFile::new()?;
            self.arrays.iter().try_for_each(|array| file.write_all(array))?;
            Ok(file)
        };
        let file = self.file.get_or_init(|| write().map_err(|error| error.to_string()));
        file.as_ref().map_err(Clone::clone)
    }
}
