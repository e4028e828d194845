//! The Python package: built as a wheel with the executor, installed into an environment of its own, and tested there.

use std::path::Path;
use std::process::Command;

use crate::capi::output;
use crate::{Result, root, target};

/// What builds, what is tested on, what tests, and what checks types.
const TOOLS: [&str; 4] = ["maturin==1.16.0", "numpy==2.4.6", "pytest==9.2.0", "mypy==2.4.1"];

pub(crate) fn run() -> Result<()> {
    let folder = target();
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let folder = folder.canonicalize().map_err(|error| format!("{}: {error}", folder.display()))?;
    let environment = folder.join("python-venv");
    let python = environment.join("bin/python");
    if !python.exists() {
        output(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    }
    output(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(TOOLS))?;

    let wheels = folder.join("python-wheels");
    let _ = std::fs::remove_dir_all(&wheels);
    let sources = root().join("python");
    let mut maturin = in_environment(&environment, "maturin");
    maturin
        .current_dir(&sources)
        .env("CARGO_TARGET_DIR", &folder)
        .args(["build", "--locked", "--profile", "dev", "--features", "simt", "--out"])
        .arg(&wheels);
    output(&mut maturin)?;
    let wheel = std::fs::read_dir(&wheels)
        .ok()
        .and_then(|mut entries| entries.next()?.ok())
        .ok_or("maturin made no wheel")?
        .path();
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps"]).arg(&wheel);
    output(&mut install)?;

    // From another folder, so that what is imported is what was installed.
    let mut tests = in_environment(&environment, "pytest");
    tests.current_dir(&wheels).args(["-q", "-p", "no:cacheprovider"]).arg(sources.join("tests"));
    let said = output(&mut tests)?;
    println!("{}", said.trim_end());
    let mut types = in_environment(&environment, "mypy");
    types.current_dir(&wheels).args([
        "--strict",
        "--cache-dir",
        "/dev/null",
        "--package",
        "lacuna",
    ]);
    println!("{}", output(&mut types)?.trim_end());
    Ok(())
}

fn in_environment(environment: &Path, program: &str) -> Command {
    let mut command = Command::new(environment.join("bin").join(program));
    command.env("VIRTUAL_ENV", environment);
    command
}
