//! The C library: built shared and static, laid out as `cargo cinstall` lays it out, and proven by C programs.
//!
//! cargo-c is for the first two as well, and packagers may use it. It is not a tool of ours: it is larger than all else that the gate
//! builds, and gives the shared library no symbol versions.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, bundle, header, rehearsal, root, sass, target, wheels};

/// The CUDA runtime beside which programs called cuda_*.c run.
const RUNTIME: (&str, &str) = ("nvidia-cuda-runtime-cu12", "12.9.79");
pub(crate) const CUDART: &str = "libcudart.so.12";
/// How a program ends that has no device.
const SKIPPED: i32 = 77;
/// What is built here to be run here.
const FEATURES: &str = "capi,simt";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Build what runs beside the CUDA runtime for another machine into this folder, and run nothing
    #[arg(long, value_name = "FOLDER", conflicts_with = "install")]
    programs: Option<PathBuf>,
    /// Install for engines (release, CUDA and files, no executor) under this prefix, and run nothing
    #[arg(long, value_name = "PREFIX")]
    install: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(folder) = &options.programs {
        return build_for_bundle(folder).map(drop);
    }
    match &options.install {
        Some(prefix) => install(prefix, "capi", "release"),
        None => {
            let prefix = target().join("capi");
            install(&prefix, FEATURES, "dev")?;
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
    let programs = programs()?;
    let runtime = Runtime::install()?;
    let mut rehearsed = Vec::new();
    for program in &programs {
        let name = name_of(program);
        let has_runtime = has_runtime(&name);
        let more = |arguments: Vec<String>| if has_runtime { arguments } else { Vec::new() };
        let asked = ["--cflags", "--libs"];
        let shared = compile(prefix, program, &name, &asked, &[], &more(runtime.shared()))?;
        let static_ = compile(
            prefix,
            program,
            &format!("{name}-static"),
            &["--cflags", "--libs", "--static"],
            &["-Wl,-Bstatic", "-llacuna", "-Wl,-Bdynamic"],
            &more(runtime.of_archive()),
        )?;
        for executable in [&shared, &static_] {
            let libraries = [prefix.join("lib"), runtime.lib()];
            run_example(executable, &libraries, has_runtime)?;
        }
        if has_runtime {
            rehearsed.push(shared);
        }
    }
    // Once more beside a runtime and a driver that run kernels in the executor.
    let drivers = prefix.join("drivers");
    let arguments = ["check", "--package", "lacuna", "--lib", "--features", FEATURES];
    rehearsal::link_drivers(&drivers, &bundle::executor_libraries(&arguments)?)?;
    for executable in &rehearsed {
        run_example(executable, &[drivers.clone(), prefix.join("lib")], false)?;
    }
    Ok(())
}

/// The sources of examples/c.
fn programs() -> Result<Vec<PathBuf>> {
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
    Ok(programs)
}

fn name_of(program: &Path) -> String {
    program.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether a program runs beside the CUDA runtime.
fn has_runtime(name: &str) -> bool {
    name.starts_with("cuda_")
}

/// What runs beside the CUDA runtime, built for another machine into `programs`, with the runtime in `lib`; the programs.
pub(crate) fn build_for_bundle(contents: &Path) -> Result<Vec<PathBuf>> {
    let (archive, libraries) = build("capi", "bundle")?;
    let runtime = Runtime::install()?;
    let (target, lib) = (contents.join("programs"), contents.join("lib"));
    for folder in [&target, &lib] {
        std::fs::create_dir_all(folder)
            .map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    copy(&runtime.lib().join(CUDART), &lib.join(CUDART))?;
    let mut built = Vec::new();
    for program in programs()?.iter().filter(|program| has_runtime(&name_of(program))) {
        let executable = target.join(name_of(program));
        let mut cc = compiler();
        cc.args(["-std=c11", "-O1", "-s", "-Wall", "-Wextra", "-Werror", "-Wpedantic", "-I"])
            .arg(root().join("include"))
            .arg("-o")
            .arg(&executable)
            .arg(program)
            .arg(&archive)
            .args(&libraries)
            .args(runtime.shared())
            // After LD_LIBRARY_PATH, in which a rehearsal has its own.
            .args(["-Wl,--gc-sections", "-Wl,--enable-new-dtags", "-Wl,-rpath,$ORIGIN/../lib"]);
        output(&mut cc)?;
        built.push(executable);
    }
    Ok(built)
}

/// Runs a program, which may say that it has no device.
fn run_example(executable: &Path, libraries: &[PathBuf], may_skip: bool) -> Result<()> {
    let paths = std::env::join_paths(libraries).map_err(|error| error.to_string())?;
    let mut run = Command::new(executable);
    run.env("LD_LIBRARY_PATH", paths).current_dir(root());
    let (code, said) = run_to_end(&mut run)?;
    println!("{}:\n{}", executable.display(), said.trim_end());
    match code {
        Some(0) => Ok(()),
        Some(SKIPPED) if may_skip => Ok(()),
        _ => Err(format!("{}: exit status {code:?}", executable.display())),
    }
}

/// The CUDA runtime, and the headers that its own include, of the compiler.
struct Runtime {
    runtime: PathBuf,
    compiler: PathBuf,
}

impl Runtime {
    fn install() -> Result<Self> {
        let (compiler, version, _) = sass::PTXAS;
        let compiler = wheels::install(compiler, version)?.join("nvidia/cuda_nvcc");
        let runtime = wheels::install(RUNTIME.0, RUNTIME.1)?.join("nvidia/cuda_runtime");
        Ok(Self { runtime, compiler })
    }

    fn lib(&self) -> PathBuf {
        self.runtime.join("lib")
    }

    fn headers(&self) -> Vec<String> {
        let folders = [&self.runtime, &self.compiler];
        let flags = folders.map(|folder| format!("-isystem{}", folder.join("include").display()));
        flags.into()
    }

    fn shared(&self) -> Vec<String> {
        let mut flags = self.headers();
        flags.push(self.lib().join(CUDART).display().to_string());
        flags
    }

    fn of_archive(&self) -> Vec<String> {
        let mut flags = self.headers();
        flags.push(self.lib().join("libcudart_static.a").display().to_string());
        flags.extend(["-lrt", "-lpthread", "-ldl"].map(str::to_owned));
        flags
    }
}

fn compile(
    prefix: &Path,
    program: &Path,
    name: &str,
    asked: &[&str],
    before: &[&str],
    more: &[String],
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
    output(cc.args(more))?;
    Ok(executable)
}

fn compiler() -> Command {
    Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
}

/// What a program says, on both of its channels, where it ends well.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    match run_to_end(command)? {
        (Some(0), said) => Ok(said),
        (code, said) => Err(format!("{command:?}: exit status {code:?}\n{said}")),
    }
}

/// Its exit status, where it has one, and what it says, on both of its channels.
fn run_to_end(command: &mut Command) -> Result<(Option<i32>, String)> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok((output.status.code(), said.concat()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).map(drop).map_err(|error| format!("{}: {error}", from.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
