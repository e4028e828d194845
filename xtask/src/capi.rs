//! The C library: built shared and static, laid out as `cargo cinstall` lays it out, and proven by C programs.
//!
//! cargo-c does the first two as well, and packagers may use it. It is not a tool of ours: it takes ten minutes to build, and
//! gives the shared library no symbol versions.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, header, root, target};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Install for engines (release, CUDA and files, no executor) under this prefix, and run nothing
    #[arg(long, value_name = "PREFIX")]
    install: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.install {
        Some(prefix) => install(prefix, "capi", "release"),
        None => {
            let prefix = target().join("capi");
            install(&prefix, "capi,simt", "dev")?;
            run_examples(&prefix)
        }
    }
}

/// Headers, libraries and `lacuna.pc` under a prefix.
fn install(prefix: &Path, features: &str, profile: &str) -> Result<()> {
    let make = |folder: &Path| {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
    };
    let (include, lib) = (prefix.join("include"), prefix.join("lib"));
    make(&include)?;
    make(&lib.join("pkgconfig"))?;
    let prefix = prefix.canonicalize().map_err(|error| format!("{}: {error}", prefix.display()))?;

    let (archive, native_libraries) = build(features, profile)?;
    copy(&archive, &lib.join("liblacuna.a"))?;
    copy(&root().join(header::PATH), &include.join("lacuna.h"))?;
    let version = header::version()?;
    link_shared(&lib, &version, &native_libraries, features)?;
    let config = format!(
        "prefix={}\nlibdir=${{prefix}}/lib\nincludedir=${{prefix}}/include\n\n\
         Name: lacuna\nDescription: CUDA kernels for dynamic inference of language models\nVersion: {version}\n\
         Libs: -L${{libdir}} -llacuna\nLibs.private: {}\nCflags: -I${{includedir}}\n",
        prefix.display(),
        native_libraries.join(" ")
    );
    write(&lib.join("pkgconfig/lacuna.pc"), &config)?;
    println!("installed under {}", prefix.display());
    Ok(())
}

/// The static library, and what must be linked with it.
fn build(features: &str, profile: &str) -> Result<(PathBuf, Vec<String>)> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(root())
        .args(["rustc", "--package", "lacuna", "--lib", "--crate-type", "staticlib"])
        .args(["--features", features, "--profile", profile])
        .args(["--", "--print", "native-static-libs"]);
    let said = output(&mut cargo)?;
    let libraries = said
        .lines()
        .find_map(|line| line.strip_prefix("note: native-static-libs: "))
        .ok_or("rustc did not say what to link")?;
    // Cargo names a library again for each crate that asks for it.
    let mut unique: Vec<String> = Vec::new();
    for library in libraries.split_whitespace() {
        if !unique.iter().any(|known| known == library) {
            unique.push(library.to_owned());
        }
    }
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok((target().join(folder).join("liblacuna.a"), unique))
}

/// Every function of the header in one version node, and nothing else.
fn link_shared(lib: &Path, version: &str, libraries: &[String], features: &str) -> Result<()> {
    let functions = header::functions(features.contains("simt"))?;
    let abi = abi_of(version);
    let map = format!(
        "LACUNA_{abi} {{\n  global:\n{}  local: *;\n}};\n",
        functions.iter().map(|name| format!("    {name};\n")).collect::<String>()
    );
    let map_path = target().join("lacuna.map");
    write(&map_path, &map)?;
    let name = format!("liblacuna.so.{version}");
    let soname = format!("liblacuna.so.{abi}");
    let mut cc = compiler();
    cc.arg("-shared")
        .arg("-o")
        .arg(lib.join(&name))
        .args([format!("-Wl,-soname,{soname}"), "-Wl,--gc-sections".to_owned()])
        .arg(format!("-Wl,--version-script={}", map_path.display()))
        .args(["-Wl,--no-undefined", "-Wl,--whole-archive"])
        .arg(lib.join("liblacuna.a"))
        .arg("-Wl,--no-whole-archive")
        .args(libraries);
    output(&mut cc)?;
    for link in [soname.as_str(), "liblacuna.so"] {
        let path = lib.join(link);
        let _ = std::fs::remove_file(&path);
        std::os::unix::fs::symlink(&name, &path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let mut nm = Command::new("nm");
    nm.args(["--dynamic", "--defined-only", "--with-symbol-versions"]).arg(lib.join(&name));
    let listed = output(&mut nm)?;
    let suffix = format!("@@LACUNA_{abi}");
    let mut exported: Vec<_> = listed
        .lines()
        .filter_map(|line| line.rsplit(' ').next()?.strip_suffix(&suffix))
        .map(str::to_owned)
        .collect();
    exported.retain(|name| !name.starts_with("LACUNA_"));
    exported.sort();
    let mut expected = functions;
    expected.sort();
    if exported != expected {
        return Err(format!("{name} exports {exported:?}, and the header has {expected:?}"));
    }
    println!("{name}: {} functions, version LACUNA_{abi}", exported.len());
    Ok(())
}

/// What callers may go on with: before 1.0 the minor release, then the major one.
fn abi_of(version: &str) -> String {
    let mut parts = version.split('.');
    let (major, minor) = (parts.next().unwrap_or("0"), parts.next().unwrap_or("0"));
    if major == "0" { format!("0.{minor}") } else { major.to_owned() }
}

/// Every program of examples/c, with the shared library and with the static one; and the header as C++.
fn run_examples(prefix: &Path) -> Result<()> {
    let mut cxx = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()));
    cxx.args(["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wpedantic"])
        .args(["-DLACUNA_SIMT", "-x", "c++"])
        .arg(prefix.join("include/lacuna.h"));
    output(&mut cxx)?;
    let folder = root().join("examples/c");
    let mut programs: Vec<_> = std::fs::read_dir(&folder)
        .map_err(|error| format!("{}: {error}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
        .collect();
    programs.sort();
    if programs.is_empty() {
        return Err(format!("{}: no programs", folder.display()));
    }
    for program in &programs {
        let name = program.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let shared = compile(prefix, program, &name, &["--cflags", "--libs"], &[])?;
        let static_ = compile(
            prefix,
            program,
            &format!("{name}-static"),
            &["--cflags", "--libs", "--static"],
            &["-Wl,-Bstatic", "-llacuna", "-Wl,-Bdynamic"],
        )?;
        for executable in [shared, static_] {
            let mut run = Command::new(&executable);
            run.env("LD_LIBRARY_PATH", prefix.join("lib")).current_dir(root());
            let said = output(&mut run)?;
            println!("{}:\n{}", executable.display(), said.trim_end());
        }
    }
    Ok(())
}

fn compile(
    prefix: &Path,
    program: &Path,
    name: &str,
    asked: &[&str],
    before: &[&str],
) -> Result<PathBuf> {
    let mut pkg_config = Command::new("pkg-config");
    pkg_config.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")).args(asked).arg("lacuna");
    let flags = output(&mut pkg_config)?;
    let executable = prefix.join(name);
    let mut cc = compiler();
    cc.args([
        "-std=c11",
        "-O1",
        "-g",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wpedantic",
        "-DLACUNA_SIMT",
    ])
    .arg("-o")
    .arg(&executable)
    .arg(program);
    let flags: Vec<_> = flags.split_whitespace().collect();
    if before.is_empty() {
        cc.args(flags);
    } else {
        // The static library in the place of the one that pkg-config names.
        for flag in flags {
            if flag == "-llacuna" {
                cc.args(before);
            } else {
                cc.arg(flag);
            }
        }
    }
    // The programs' own.
    cc.arg("-lm");
    output(&mut cc)?;
    Ok(executable)
}

fn compiler() -> Command {
    Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
}

/// What a program says, on both of its channels, where it ends well.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    let said = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    if output.status.success() {
        return Ok(said);
    }
    Err(format!("{command:?}: {}\n{said}", output.status))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).map(drop).map_err(|error| format!("{}: {error}", from.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
