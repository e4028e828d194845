//! What the SIMT executor says of the kernels: the test of planted defects, and the benches' counters; and what the fake
//! driver says of the library.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Result, images, root};

/// The table of planted defects.
pub(crate) fn planted() -> Result<()> {
    let mut command = cargo_test();
    wait(command.args(["--test", "planted", "--", "--nocapture"]))
}

/// What each kernel moves, beside the least it could.
pub(crate) fn counters(is_json: bool, only: Option<&str>) -> Result<()> {
    let mut rooms = images::rooms();
    rooms.retain(|room| only.is_none_or(|only| only == *room));
    if rooms.is_empty() {
        return Err(format!("no room is called {}", only.unwrap_or_default()));
    }
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut rows = Vec::new();
    for room in rooms {
        let path = folder.path().join(room);
        let mut command = cargo_test();
        command.args(["--bench", room, "--", "kernels", "count", "--json"]).arg(&path);
        if is_json {
            command.stdout(Stdio::null());
        }
        wait(&mut command)?;
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let found: Vec<Value> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        rows.extend(found);
    }
    if is_json {
        println!("{:#}", Value::Array(rows));
    }
    Ok(())
}

/// Calls of the driver, and failures of them.
pub(crate) fn calls() -> Result<()> {
    let mut command = cargo_test();
    for room in images::rooms() {
        command.args(["--bench", room]);
    }
    wait(command.args(["--", "kernels", "calls"]))?;
    let mut command = cargo_test();
    command.args(["--test", "driver", "failures::"]).env("INSTA_UPDATE", "always");
    wait(&mut command)
}

fn cargo_test() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root()).args(["test", "--quiet", "--package", "lacuna"]);
    command
}

fn wait(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| format!("cargo test: {error}"))?;
    if status.success() { Ok(()) } else { Err("it fails".to_owned()) }
}
