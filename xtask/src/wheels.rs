//! Pinned tools from PyPI wheels, installed by pip into the target directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, tools};

/// Installs one wheel, without what it depends on, and says where.
pub(crate) fn install(package: &str, version: &str) -> Result<PathBuf> {
    install_into(&tools().join(format!("{package}-{version}")), package, version, None)
}

/// Installs one wheel whose file has this SHA-256 and no other, and says where.
#[cfg(feature = "accuracy")]
pub(crate) fn install_exact(package: &str, version: &str, sha256: &str) -> Result<PathBuf> {
    // The hash is part of the name: what an older pin left is not taken for the new one.
    let folder = tools().join(format!("{package}-{version}-{}", &sha256[..12]));
    install_into(&folder, package, version, Some(sha256))
}

fn install_into(
    folder: &Path,
    package: &str,
    version: &str,
    sha256: Option<&str>,
) -> Result<PathBuf> {
    let done = folder.join("installed");
    if done.exists() {
        return Ok(folder.to_owned());
    }
    let requirement = format!("{package}=={version}");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target"]).arg(folder);
    // pip takes hashes from a file alone.
    let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    match sha256 {
        None => pip.arg(&requirement),
        Some(sha256) => {
            let line = format!("{requirement} --hash=sha256:{sha256}\n");
            std::fs::write(file.path(), line).map_err(|error| error.to_string())?;
            pip.args(["--require-hashes", "--requirement"]).arg(file.path())
        }
    };
    let output = pip.output().map_err(|error| {
        format!("python3 is needed to install {requirement} ({error}); install Python and pip")
    })?;
    if !output.status.success() {
        return Err(format!(
            "pip could not install {requirement}; is the package index reachable?\n{}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    std::fs::write(&done, "").map_err(|error| format!("{}: {error}", done.display()))?;
    Ok(folder.to_owned())
}

/// Installs one wheel, and says where the program at `path` in it is.
pub(crate) fn install_program(package: &str, version: &str, path: &str) -> Result<PathBuf> {
    let program = install(package, version)?.join(path);
    allow_to_run(&program).map_err(|error| format!("{}: {error}", program.display()))?;
    Ok(program)
}

/// Some versions of pip forget it.
#[cfg(unix)]
fn allow_to_run(program: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut permissions = std::fs::metadata(program)?.permissions();
    if permissions.mode() & 0o111 != 0 {
        return Ok(());
    }
    permissions.set_mode(permissions.mode() | 0o755);
    std::fs::set_permissions(program, permissions)
}

#[cfg(not(unix))]
fn allow_to_run(program: &Path) -> std::io::Result<()> {
    std::fs::metadata(program).map(drop)
}
