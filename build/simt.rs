//! The SIMT executor and every kernel, compiled by the host C++ compiler.

use std::path::{Path, PathBuf};

/// Names what the executor and the kernels of launches without checks are sanitized by: `undefined`, of which
/// the first finding ends the process, or `address`, whose runtime a program preloads.
const SANITIZE: &str = "LACUNA_SIMT_SANITIZE";

pub(crate) fn build() {
    println!("cargo::rerun-if-changed=csrc");
    println!("cargo::rerun-if-env-changed={SANITIZE}");
    // The executor's steps are not counted: only a kernel's own.
    let selftest = files_in("csrc/simt/selftest", "cc");
    let executor = [files_in("csrc/simt", "cc"), selftest].concat();
    sanitized(compiler()).files(executor).compile("lacuna_simt_executor");
    sanitized(plain_compiler()).files(kernels()).compile("lacuna_simt_kernels");
    let checked = checked_compiler();
    checked.clone().files(kernels()).compile("lacuna_simt_checked_kernels");
    lend_compiler(&checked);
}

/// tests/mutants compiles more of the same, and loads it beside the executor. A packaged crate has
/// no tests, and Cargo takes no arguments for them there.
fn lend_compiler(checked: &cc::Build) {
    if !Path::new("tests/mutants").exists() {
        return;
    }
    let tool = checked.get_compiler();
    let arguments = tool.args().iter().map(|argument| argument.to_string_lossy());
    let command: Vec<_> = [tool.path().to_string_lossy()].into_iter().chain(arguments).collect();
    println!("cargo::rustc-env=LACUNA_SIMT_COMPILER={}", command.join("\t"));
    println!("cargo::rustc-link-arg-tests=-Wl,--export-dynamic");
}

fn sanitized(mut build: cc::Build) -> cc::Build {
    match std::env::var(SANITIZE).as_deref() {
        // The handlers' names are those of the executor's hooks.
        Ok("undefined") => {
            build.flag("-fsanitize=undefined").flag("-fsanitize-undefined-trap-on-error");
        }
        Ok("address") => {
            println!("cargo::rustc-link-lib=dylib=asan");
            build.flag("-fsanitize=address");
        }
        Ok(other) => panic!("{SANITIZE} is {other}, and may be undefined or address"),
        Err(_) => {}
    }
    build
}

/// With a call before every access. The sanitizers' runtimes are not linked: csrc/simt/hooks.cc is
/// what is called.
fn checked_compiler() -> cc::Build {
    let mut build = kernel_compiler();
    build
        .define("LACUNA_SIMT_CHECKED", None)
        // A variable that nothing wrote is zeros here, and in the plain twin something else.
        .flag_if_supported("-ftrivial-auto-var-init=zero")
        .flag("-fsanitize=thread")
        // Else the linker keeps one of the two twins' copies of a template or inline function.
        .flag("-fno-weak")
        // Else the last call of a function would return to another line.
        .flag("-fno-optimize-sibling-calls")
        .flag("--param=tsan-instrument-func-entry-exit=0")
        .flag("--param=tsan-distinguish-volatile=1")
        // An array on a fibre's stack is overrun into this.
        .flag("-fstack-protector-all")
        .flag("-fsanitize=bounds,alignment,integer-divide-by-zero,float-cast-overflow")
        // Shifting a negative number is what its bits say.
        .flag("-fsanitize=shift-exponent")
        .flag("-fsanitize=signed-integer-overflow");
    build
}

fn plain_compiler() -> cc::Build {
    let mut build = kernel_compiler();
    build.flag_if_supported("-ftrivial-auto-var-init=pattern");
    build
}

fn kernel_compiler() -> cc::Build {
    let mut build = compiler();
    build
        // A kernel reads the same memory as bytes and as vectors, as it does on a GPU.
        .flag("-fno-strict-aliasing")
        // `#pragma unroll` is for the other compiler.
        .flag("-Wno-unknown-pragmas")
        .flag("-fsanitize-coverage=trace-pc")
        // No thread of a GPU has more local memory.
        .flag("-Werror=frame-larger-than=524288")
        .flag("-fstack-clash-protection")
        .flag("-xc++");
    build
}

fn compiler() -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        // The speed of tests is the executor's speed, whatever the profile.
        .opt_level(2)
        .debug(true)
        .flag("-ffp-contract=off")
        .warnings(true)
        .extra_warnings(true);
    build
}

/// The kernels of every room, and those that test the executor itself.
fn kernels() -> Vec<PathBuf> {
    let mut rooms: Vec<_> = std::fs::read_dir("csrc")
        .unwrap_or_else(|error| panic!("csrc: {error}"))
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir() && path != Path::new("csrc/common"))
        .collect();
    rooms.sort();
    let mut kernels: Vec<_> = rooms.iter().flat_map(|room| files_in(room, "cu")).collect();
    kernels.extend(files_in("csrc/simt/selftest", "cu"));
    kernels
}

fn files_in(folder: impl AsRef<Path>, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}
