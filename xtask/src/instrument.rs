//! What the SIMT executor says of the kernels: the tests that hold them to it, with their tables
//! printed.

use std::process::{Command, Stdio};

use crate::{Result, root};

/// The table of planted defects.
pub(crate) fn planted() -> Result<()> {
    run_test("planted", &["--nocapture"], &[])
}

/// What each kernel moves, beside the least it could.
pub(crate) fn counters(is_json: bool, room: Option<&str>) -> Result<()> {
    let file = std::env::temp_dir().join(format!("lacuna-counters-{}.jsonl", std::process::id()));
    // One thread: rows in the order of the rooms.
    let mut arguments = vec!["--nocapture", "--test-threads=1"];
    if let Some(room) = room {
        arguments.extend(["--exact", room]);
    }
    let path = file.display().to_string();
    let outcome = if is_json {
        run_test_quietly("counters", &arguments, &[("LACUNA_COUNTERS", &path)])
    } else {
        run_test("counters", &arguments, &[("LACUNA_COUNTERS", &path)])
    };
    let rows = std::fs::read_to_string(&file).unwrap_or_default();
    let _ = std::fs::remove_file(&file);
    if rows.is_empty() && outcome.is_ok() {
        return Err(format!("no room is called {}", room.unwrap_or_default()));
    }
    if is_json {
        let rows: Vec<_> = rows.lines().map(|row| format!("  {row}")).collect();
        println!("[\n{}\n]", rows.join(",\n"));
    }
    outcome
}

fn run_test(test: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    wait(command(test, arguments, environment))
}

fn run_test_quietly(test: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let mut command = command(test, arguments, environment);
    command.stdout(Stdio::null());
    wait(command)
}

fn command(test: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root());
    command.args(["test", "--quiet", "--package", "lacuna", "--test", test, "--"]).args(arguments);
    command.envs(environment.iter().copied());
    command
}

fn wait(mut command: Command) -> Result<()> {
    let status = command.status().map_err(|error| format!("cargo test: {error}"))?;
    if status.success() { Ok(()) } else { Err("the test fails".to_owned()) }
}
