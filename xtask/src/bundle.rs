//! The bundle: test and bench programs and golden data in one archive, and a script that unpacks it,
//! for a machine with a GPU and without Rust, a network or a second try.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Result, capi, images, root, target};

const SCRIPT: &str = include_str!("bundle/run.sh");
const MAX_BYTES: u64 = 48 << 20;
const ARCHIVE: &str = "packed.tar.xz";
/// Programs hold much that others hold: a dictionary that several fit into finds it.
const XZ: &str = "xz --threads=1 --lzma2=preset=1,dict=64MiB";
/// Tests of the house that run on a GPU; each room has one more, of its name.
const HOUSE_TESTS: [&str; 2] = ["queue", "recipes"];

/// Builds it into `folder`, which is made anew.
pub(crate) fn make(folder: &Path) -> Result<()> {
    let rooms = images::rooms();
    let tests = || rooms.iter().copied().chain(HOUSE_TESTS);
    let mut arguments = vec!["test", "--profile", "bundle", "--no-run", "--package", "lacuna"];
    tests().for_each(|test| arguments.extend(["--test", test]));
    rooms.iter().for_each(|room| arguments.extend(["--bench", room]));
    let mut programs: Vec<(String, PathBuf)> = build(&arguments)?
        .into_iter()
        .map(|program| (format!("{}-{}", program.kind, program.name), program.path))
        .collect();
    let command =
        build(&["build", "--profile", "bundle", "--package", "lacuna-cli", "--bin", "lacuna"])?;
    programs.extend(command.into_iter().map(|program| (program.name, program.path)));
    let n_expected = tests().count() + rooms.len() + 1;
    if programs.len() != n_expected {
        return Err(format!("{} programs, and {n_expected} are expected", programs.len()));
    }

    let contents = tempfile::tempdir_in(target()).map_err(|error| error.to_string())?;
    let contents = contents.path();
    create(&contents.join("programs"))?;
    let mut newest = (0, 0);
    for (name, path) in &programs {
        let target = contents.join("programs").join(name);
        copy(path, &target)?;
        newest = newest.max(newest_glibc(&target)?);
    }
    for program in capi::build_for_bundle(contents)? {
        newest = newest.max(newest_glibc(&program)?);
    }
    for set in ["compact", "df11", "lane", "mma", "quant"] {
        let (from, to) = (root().join("tests/data").join(set), contents.join("data").join(set));
        create(&to)?;
        for path in files_in(&from)? {
            copy(&path, &to.join(path.file_name().unwrap_or_default()))?;
        }
    }
    create(&contents.join("peers"))?;
    for name in ["attention.py", "cub_topk.cu", "house.py", "linear.py", "topk.py"] {
        copy(&root().join("benches/peers").join(name), &contents.join("peers").join(name))?;
    }
    let commit = commit();
    let glibc = format!("glibc {}.{}", newest.0, newest.1);
    let script = SCRIPT
        .replace("@rooms@", &rooms.join(" "))
        .replace("@room_names@", &rooms.join(", "))
        .replace("@house_tests@", &HOUSE_TESTS.join(" "))
        .replace("@archive@", ARCHIVE)
        .replace("@commit@", &commit)
        .replace("@glibc@", &glibc);

    if folder.exists() {
        // Only what this task made is thrown away.
        if !folder.join("run").exists() {
            return Err(format!("{} is there, and is no bundle", folder.display()));
        }
        std::fs::remove_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    create(folder)?;
    write_script(&folder.join("run"), &script)?;
    pack(contents, &folder.join(ARCHIVE))?;

    let sizes = measure(contents)?;
    let mut text = String::new();
    for (path, n_bytes) in &sizes {
        let _ = writeln!(text, "{:>9.2} MiB  {}", mebibytes(*n_bytes), path.display());
    }
    print!("{text}");
    let n_bytes = sum(&measure(folder)?);
    println!(
        "{:>9.2} MiB packed, of {} at most; {:.2} MiB unpacked; commit {commit}; {glibc} or newer",
        mebibytes(n_bytes),
        mebibytes(MAX_BYTES),
        mebibytes(sum(&sizes))
    );
    println!("{}", folder.display());
    if n_bytes > MAX_BYTES {
        return Err("the bundle is larger than it may be".to_owned());
    }
    Ok(())
}

/// A program that Cargo built.
struct Program {
    kind: String,
    name: String,
    path: PathBuf,
}

/// What Cargo says it built, the libraries left out.
fn build(arguments: &[&str]) -> Result<Vec<Program>> {
    let messages = build_with_messages(arguments)?;
    Ok(messages
        .iter()
        .filter_map(|message| {
            let path = message["executable"].as_str()?.into();
            let kind = message["target"]["kind"][0].as_str()?.to_owned();
            let name = message["target"]["name"].as_str()?.to_owned();
            Some(Program { kind, name, path })
        })
        .collect())
}

/// The SIMT executor and every kernel, as the crate's build made them for a command of Cargo.
pub(crate) fn executor_libraries(arguments: &[&str]) -> Result<Vec<PathBuf>> {
    let names = ["executor", "kernels", "checked_kernels"];
    let messages = build_with_messages(arguments)?;
    messages
        .iter()
        .filter_map(|message| message["out_dir"].as_str())
        .map(|out| names.map(|name| Path::new(out).join(format!("liblacuna_simt_{name}.a"))))
        .find(|libraries| libraries.iter().all(|library| library.exists()))
        .map(Vec::from)
        .ok_or_else(|| "no build of lacuna has the executor's libraries".to_owned())
}

fn build_with_messages(arguments: &[&str]) -> Result<Vec<Value>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root())
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo {} fails", arguments.join(" ")));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// The newest version of glibc that a program asks for.
fn newest_glibc(program: &Path) -> Result<(u32, u32)> {
    let output = Command::new("objdump")
        .arg("-T")
        .arg(program)
        .output()
        .map_err(|error| format!("objdump (binutils): {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = |word: &str| {
        let (major, rest) = word.split_once('.')?;
        let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let versions = text.split("GLIBC_").skip(1).filter_map(version);
    versions.max().ok_or_else(|| format!("{}: it names no glibc", program.display()))
}

/// The commit that the bundle is of; marked where the tree differs from it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").current_dir(root()).args(arguments).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let hash = git(&["rev-parse", "--short=12", "HEAD"]).filter(|hash| !hash.is_empty());
    let is_clean = git(&["status", "--porcelain"]).is_some_and(|text| text.is_empty());
    let mark = if is_clean { "" } else { "+" };
    hash.map_or("unknown".to_owned(), |hash| hash + mark)
}

fn mebibytes(n_bytes: u64) -> f64 {
    n_bytes as f64 / (1 << 20) as f64
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} fails")) }
}

fn create(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = std::fs::copy(from, to);
    copied.map(|_| ()).map_err(|error| format!("{}: {error}", from.display()))
}

/// Writes a program of text.
pub(crate) fn write_script(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    make_executable(path)
}

#[cfg(unix)]
fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let permissions = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, permissions).map_err(|e| format!("{}: {e}", path.display()))
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> Result<()> {
    Err("bundles are made on Linux".to_owned())
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<_> = paths.filter(|path| path.is_file()).collect();
    files.sort();
    Ok(files)
}

/// Makes the archive of what is in a folder.
fn pack(contents: &Path, archive: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    tar.arg(format!("--use-compress-program={XZ}"));
    tar.arg("--create").arg("--file").arg(archive).arg("--directory").arg(contents);
    run(tar.args(["data", "lib", "peers", "programs"]))
}

/// Puts what is in a bundle's archive into a folder.
pub(crate) fn unpack(bundle_folder: &Path, folder: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--xz").arg("--file").arg(bundle_folder.join(ARCHIVE));
    run(tar.arg("--directory").arg(folder))
}

fn sum(sizes: &[(PathBuf, u64)]) -> u64 {
    sizes.iter().map(|(_, n_bytes)| n_bytes).sum()
}

/// Every file under a folder, with its size.
fn measure(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut sizes = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let entries =
            std::fs::read_dir(&next).map_err(|error| format!("{}: {error}", next.display()))?;
        for entry in entries.filter_map(std::result::Result::ok) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let n_bytes = entry.metadata().map_err(|e| format!("{}: {e}", path.display()))?.len();
            let path = path.strip_prefix(folder).map_or(path.clone(), Path::to_owned);
            sizes.push((path, n_bytes));
        }
    }
    sizes.sort();
    Ok(sizes)
}
