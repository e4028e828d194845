//! Peers that live in processes of their own, which measure as the house does and answer in a line of JSON.

use std::process::Command;

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
