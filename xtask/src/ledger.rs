//! What is proven and measured on GPUs: result files that a GPU machine hands back, kept as
//! `benches/ledger/`, and what is made from them: a table, the README's section and a picture.

mod plot;
mod readme;
mod record;
mod row;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use self::record::Ledger;
use self::row::{Row, arrange};
use crate::{Generated, Result, root};

const FOLDER: &str = "benches/ledger";
const README: &str = "README.md";
const PLOT: &str = "benches/ledger/percent.svg";
const REMEDY: &str = "cargo xtask ledger --readme --plot";

/// What was asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Rows, for programs
    #[arg(long)]
    json: bool,
    /// One room
    #[arg(long, value_name = "ROOM")]
    only: Option<String>,
    /// Take the result files (*.json) of a folder into benches/ledger/
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["json", "only"])]
    add: Option<PathBuf>,
    /// Write the README's table
    #[arg(long, conflicts_with_all = ["json", "only"])]
    readme: bool,
    /// Write benches/ledger/percent.svg
    #[arg(long, conflicts_with_all = ["json", "only"])]
    plot: bool,
    /// Change nothing; fail where README or picture differ, and name the command to run
    #[arg(long, conflicts_with_all = ["json", "only", "add", "readme", "plot"])]
    check: bool,
}

/// A kernel and the images that hold it, as the manifest has them.
struct Kernel {
    /// `room/entry`.
    name: String,
    /// First 12 digits of each image's hash.
    images: Vec<String>,
}

impl Kernel {
    fn room(&self) -> &str {
        room_of(&self.name)
    }
}

/// A kernel at a shape, as its bench lists them.
#[derive(Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(deny_unknown_fields)]
struct Case {
    room: String,
    kernel: String,
    shape: String,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let root = root();
    let mut ledger = Ledger::read(&root.join(FOLDER))?;
    if let Some(folder) = &options.add {
        print!("{}", ledger.add(folder)?);
        ledger.write(&root.join(FOLDER))?;
        if !options.readme || !options.plot {
            println!("now run `{REMEDY}` and commit the result");
        }
    }
    let makes_files = options.readme || options.plot || options.check;
    if options.add.is_some() && !makes_files {
        return Ok(());
    }
    let mut kernels = read_manifest(&read(root, "ptx/MANIFEST")?)?;
    if let Some(room) = options.only.as_deref() {
        kernels.retain(|kernel| kernel.room() == room);
        if kernels.is_empty() {
            return Err(format!("no room is called {room}"));
        }
    }
    // Of kernels that no GPU has run, files say no shape: the benches need not be built to ask them.
    let cases = if makes_files && ledger.is_empty() { Vec::new() } else { list_cases(&kernels)? };
    let mut rows = arrange(&ledger, &kernels, &cases);
    rows.retain(|row| options.only.as_ref().is_none_or(|room| room_of(row.kernel) == room));
    if options.check {
        check(root, &make_files(root, &rows)?)
    } else if makes_files {
        let mut files = make_files(root, &rows)?;
        files.retain(|file| if file.path == PLOT { options.plot } else { options.readme });
        crate::write(&files)
    } else {
        print!("{}", if options.json { row::to_json(&rows) } else { row::to_table(&rows) });
        Ok(())
    }
}

/// Every kernel and shape that exists: what the benches of these kernels' rooms list.
fn list_cases(kernels: &[Kernel]) -> Result<Vec<Case>> {
    let benches = list_benches()?;
    let rooms: BTreeSet<_> = kernels.iter().map(Kernel::room).collect();
    let mut cases = Vec::new();
    for room in rooms.into_iter().filter(|room| benches.contains(*room)) {
        let question = format!("test --quiet --package lacuna --bench {room} -- kernels list");
        let text = ask_cargo(&question.split(' ').collect::<Vec<_>>())?;
        cases.extend(
            read_cases(&text, room, kernels)
                .map_err(|error| format!("`cargo {question}`: {error}"))?,
        );
    }
    Ok(cases)
}

fn list_benches() -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        targets: Vec<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
        kind: Vec<String>,
    }
    let text = ask_cargo(&["metadata", "--quiet", "--no-deps", "--format-version", "1"])?;
    let metadata: Metadata =
        serde_json::from_str(&text).map_err(|error| format!("cargo metadata: {error}"))?;
    let targets = metadata.packages.into_iter().filter(|package| package.name == "lacuna");
    Ok(targets
        .flat_map(|package| package.targets)
        .filter(|target| target.kind.iter().any(|kind| kind == "bench"))
        .map(|target| target.name)
        .collect())
}

/// What cargo answers on standard output; what it says on standard error is shown.
fn ask_cargo(arguments: &[&str]) -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root())
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("`cargo {}` fails", arguments.join(" ")));
    }
    String::from_utf8(output.stdout)
        .map_err(|error| format!("`cargo {}`: {error}", arguments.join(" ")))
}

fn read_cases(text: &str, room: &str, kernels: &[Kernel]) -> Result<Vec<Case>> {
    let mut seen = BTreeSet::new();
    let mut cases = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let case: Case =
            serde_json::from_str(line).map_err(|error| format!("{error}, in: {line}"))?;
        if case.room != room || kernels.iter().all(|kernel| kernel.name != case.kernel) {
            return Err(format!("ptx/MANIFEST has no such kernel in {room}: {line}"));
        }
        if !seen.insert((case.kernel.clone(), case.shape.clone())) {
            return Err(format!("listed twice: {line}"));
        }
        cases.push(case);
    }
    Ok(cases)
}

/// The kernels of the manifest, in its order.
fn read_manifest(text: &str) -> Result<Vec<Kernel>> {
    let mut kernels: Vec<Kernel> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<_> = line.split(' ').collect();
        let [room, _, _, _, _, _, entries, _, hash] = fields[..] else {
            return Err(format!("ptx/MANIFEST: not nine fields: {line}"));
        };
        let image = hash.get(..12).ok_or_else(|| format!("ptx/MANIFEST: no hash: {line}"))?;
        for entry in entries.split(',') {
            let name = format!("{room}/{entry}");
            match kernels.iter_mut().find(|kernel| kernel.name == name) {
                Some(kernel) => kernel.images.push(image.to_owned()),
                None => kernels.push(Kernel { name, images: vec![image.to_owned()] }),
            }
        }
    }
    Ok(kernels)
}

fn room_of(kernel: &str) -> &str {
    kernel.split('/').next().unwrap_or_default()
}

/// The committed files that are made from the ledger.
fn make_files(root: &Path, rows: &[Row<'_>]) -> Result<Vec<Generated>> {
    let readme = readme::splice(&read(root, README)?, &readme::render(rows))
        .map_err(|error| format!("{README}: {error}"))?;
    Ok(vec![
        Generated { path: README, content: readme },
        Generated { path: PLOT, content: plot::draw(rows) },
    ])
}

fn check(root: &Path, files: &[Generated]) -> Result<()> {
    let is_stale = |file: &&Generated| {
        std::fs::read_to_string(root.join(file.path)).ok().as_ref() != Some(&file.content)
    };
    let stale: Vec<_> = files.iter().filter(is_stale).map(|file| file.path).collect();
    if stale.is_empty() {
        return Ok(());
    }
    Err(format!(
        "differs from what the ledger gives: {}; run `{REMEDY}` and commit the result",
        stale.join(", ")
    ))
}

fn read(root: &Path, path: &str) -> Result<String> {
    std::fs::read_to_string(root.join(path)).map_err(|error| format!("{path}: {error}"))
}

#[cfg(test)]
mod tests;
