//! The bundle on a machine without a GPU: on a driver whose kernels run in the SIMT executor, the script
//! and every program do what they will do on a GPU machine, and what they write is read.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::{Result, bundle, capi, root, target};

/// No device is called so: what is written of it never enters the ledger.
pub(crate) const DEVICE: &str = "Rehearsal in the SIMT executor,";
/// Of a room's bench: enough for its first rows, and the rest is left out by name.
const BENCH_SECONDS: &str = "12";

pub(crate) fn run() -> Result<()> {
    let folder = target().join("rehearsal");
    let bundle_folder = folder.join("bundle");
    bundle::make(&bundle_folder)?;
    let drivers = folder.join("drivers");
    make_driver(&drivers)?;

    let check = run_script(&bundle_folder, &drivers, &["--check"])?;
    let rows = read_rows(&check, "check")?;
    require_all(&rows, "bits agree and nothing is skipped", |row| {
        let is_pass = |check: &Value| check["result"] == "pass";
        row["bits"] == "agree"
            && row["why"].is_null()
            && list(&row["checks"]).is_ok_and(|checks| checks.iter().all(is_pass))
    })?;
    for kernel in rows.iter().map(|row| &row["kernel"]) {
        let is_watched = |row: &Value| {
            let name = |check: &Value| check["check"].as_str().unwrap_or_default().to_owned();
            let watched = |check: &Value| name(check).starts_with("compute-sanitizer");
            row["kernel"] == *kernel
                && list(&row["checks"])
                    .is_ok_and(|checks| checks.iter().filter(|c| watched(c)).count() == 4)
        };
        if !rows.iter().any(is_watched) {
            return Err(format!("no sanitizer watched {kernel}"));
        }
    }
    let parts = read(&check.join("summary-check.json"))?;
    require_all(list(&parts["parts"])?, "every part passes", |part| part["result"] == "pass")?;

    // Unpacked by Python this time.
    bundle::write_script(&drivers.join("xz"), "#!/bin/sh\nexit 127\n")?;
    let mut bench = PathBuf::new();
    for room in crate::images::rooms() {
        let arguments = ["--bench", "--only", room, "--seconds", BENCH_SECONDS];
        bench = run_script(&bundle_folder, &drivers, &arguments)?;
    }
    let rows = read_rows(&bench, "bench")?;
    let measured: Vec<_> = rows.iter().filter(|row| row["why"].is_null()).cloned().collect();
    require_all(&measured, "there are times, clocks and a peer's reason", |row| {
        let has_reasons = list(&row["peers"]).is_ok_and(|peers| {
            peers.iter().all(|peer| peer["why"].is_string() || peer["time_us"].is_number())
        });
        row["bits"] == "agree"
            && row["clocks"] == CLOCKS
            && ["time_us", "copy_us", "percent_of_limit"].iter().all(|key| row[key].is_number())
            && has_reasons
    })?;
    rehearse_cub(&bundle_folder, &drivers)?;
    rehearse_model(&bundle_folder, &drivers)?;
    println!("{} rows checked, {} measured: rehearsed", rows.len(), measured.len());
    Ok(())
}

/// A peer that is compiled there, whatever else the bench had time for.
fn rehearse_cub(bundle_folder: &Path, drivers: &Path) -> Result<()> {
    let report = bundle_folder.join("results/cub.json");
    let unpacked = tempfile::tempdir_in(target()).map_err(|error| error.to_string())?;
    bundle::unpack(bundle_folder, unpacked.path())?;
    let mut program = Command::new(unpacked.path().join("programs/bench-select"));
    program.args([
        "kernels",
        "bench",
        "--only",
        "topk_rows, 256 of 4096 in 3 rows, bf16",
        "--json",
    ]);
    program.arg(&report).env("LACUNA_TOPK_PEERS", unpacked.path().join("peers/topk.py"));
    bundle::run(rehearsing(&mut program, drivers)?)?;
    let rows = read(&report)?;
    let peers = list(&rows["rows"])?.first().map(|row| list(&row["peers"])).transpose()?;
    let is_timed = |peer: &Value| peer["name"] == "CUB top-k" && peer["time_us"] == 12.5;
    if peers.is_some_and(|peers| peers.iter().any(is_timed)) {
        return Ok(());
    }
    Err(format!("CUB's top-k has no time: {peers:?}"))
}

/// A model of few and small matrices, whatever else the bench had time for: every way but cuBLAS's has a time.
fn rehearse_model(bundle_folder: &Path, drivers: &Path) -> Result<()> {
    let unpacked = tempfile::tempdir_in(target()).map_err(|error| error.to_string())?;
    bundle::unpack(bundle_folder, unpacked.path())?;
    let mut program = Command::new(unpacked.path().join("programs/lacuna"));
    program.args(["bench", "--json"]).arg(drivers.join(MODEL));
    let output = rehearsing(&mut program, drivers)?.output().map_err(|error| error.to_string())?;
    let report: Value = serde_json::from_slice(&output.stdout).map_err(|error| {
        format!("lacuna bench: {error}: {}", String::from_utf8_lossy(&output.stderr))
    })?;
    let is_timed: Vec<_> =
        list(&report["ways"])?.iter().map(|way| way["seconds"].is_number()).collect();
    let has_reason = report["notes"].to_string().contains("libcublas");
    if is_timed == [false, true, false, true] && has_reason {
        return Ok(());
    }
    Err(format!("lacuna bench has not measured what it can: {report:#}"))
}

/// The `config.json` of a model that the executor gets through.
const MODEL: &str = "tiny.json";
const TINY: &str = r#"{ "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
  "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300 }"#;

/// It compiles whatever source of CUB is there to a program that looks at what it is asked, and answers.
const COMPILER: &str = r#"#!/bin/sh
for word; do
  [ "$last" = -o ] && program=$word
  [ "${word%.cu}" = "$word" ] || grep -q cub::DeviceTopK "$word" || exit 1
  last=$word
done
cat >"$program" <<'PROGRAM'
#!/bin/sh
[ $# = 5 ] && [ "$(wc -c <"$5")" = $((2 * $1 * $2)) ] && echo '{"us": 12.5, "version": "rehearsed"}'
PROGRAM
"#;

/// It says what the real one says of a program without faults, and finds none.
const SANITIZER: &str = r#"#!/bin/sh
# compute-sanitizer --tool TOOL --error-exitcode N PROGRAM ...
tool=$2
shift 4
echo "========= COMPUTE-SANITIZER"
"$@" || exit $?
case "$tool" in
  racecheck) echo "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)" ;;
  *) echo "========= ERROR SUMMARY: 0 errors" ;;
esac
"#;

/// It is an older one, which knows one of the two names, and says that the power cap slows the device.
const MANAGEMENT: &str = r#"#!/bin/sh
case "$*" in
  *clocks_event_reasons*) echo "Field clocks_event_reasons.active is not valid"; exit 2 ;;
  *) echo "1980, 2619, 0x0000000000000004, 45, 300.12" ;;
esac
"#;
const CLOCKS: &str = "SM 1980 MHz, memory 2619 MHz, throttle power cap, 45 C, 300.12 W";

/// libcuda, from the fake driver of the tests, the executor and every kernel.
fn make_driver(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)
            .map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    bundle::write_script(&folder.join("compute-sanitizer"), SANITIZER)?;
    bundle::write_script(&folder.join("nvidia-smi"), MANAGEMENT)?;
    bundle::write_script(&folder.join("nvcc"), COMPILER)?;
    bundle::write_script(&folder.join(MODEL), TINY)?;
    let arguments = ["build", "--profile", "bundle", "--package", "lacuna-cli"];
    link_drivers(folder, &bundle::executor_libraries(&arguments)?)
}

/// The driver by itself, of the executor's libraries, and over it as much of the CUDA runtime as the C examples use: the real one asks more of a
/// driver than this one has.
pub(crate) fn link_drivers(folder: &Path, libraries: &[PathBuf]) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let sources = root().join("tests/fake_driver");
    let object = folder.join("driver.o");
    let mut compile = Command::new("cc");
    compile.args(["-std=c11", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror", "-DFAKE_RUNS"]);
    compile.args(["-DFAKE_MAJOR=9", "-DFAKE_VERSION=13000", "-DFAKE_L2=(1<<20)"]);
    compile.arg(format!("-DFAKE_NAME=\"{DEVICE}\"")).arg("-c").arg("-o").arg(&object);
    bundle::run(compile.arg(sources.join("driver.c")))?;
    let mut link = Command::new("c++");
    link.args(["-std=c++17", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror", "-shared"]);
    link.args(["-Wl,-Bsymbolic", "-o"]).arg(folder.join("libcuda.so.1"));
    link.arg(sources.join("rehearsal.cc")).arg(&object).arg("-Wl,--whole-archive");
    link.args(libraries).args(["-Wl,--no-whole-archive", "-lpthread", "-ldl"]);
    bundle::run(&mut link)?;
    // Programs ask for the names by the real one's version.
    let versions = folder.join("runtime.map");
    std::fs::write(&versions, format!("{} {{ global: cuda*; local: *; }};\n", capi::CUDART))
        .map_err(|error| format!("{}: {error}", versions.display()))?;
    let mut runtime = Command::new("cc");
    runtime.args(["-std=c11", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror", "-shared"]);
    runtime.arg(format!("-Wl,-soname,{}", capi::CUDART));
    runtime.arg(format!("-Wl,--version-script={}", versions.display()));
    runtime.arg("-o").arg(folder.join(capi::CUDART)).arg(sources.join("runtime.c"));
    bundle::run(runtime.arg(folder.join("libcuda.so.1")))
}

/// Where its results are.
fn run_script(bundle_folder: &Path, drivers: &Path, arguments: &[&str]) -> Result<PathBuf> {
    let results = bundle_folder.join("results").join(arguments[0].trim_start_matches('-'));
    let mut script = Command::new(bundle_folder.join("run"));
    script.args(arguments).arg("--out").arg(&results);
    bundle::run(rehearsing(&mut script, drivers)?)?;
    Ok(results)
}

/// The command, where the drivers are the driver and the tools.
fn rehearsing<'a>(command: &'a mut Command, drivers: &Path) -> Result<&'a mut Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = [drivers.to_owned()].into_iter().chain(std::env::split_paths(&path));
    let paths = std::env::join_paths(paths).map_err(|error| error.to_string())?;
    // A GPU's launches are a thousand times faster.
    command.env("LACUNA_LAUNCHES", "10").env_remove("LACUNA_NVCC");
    command.env("LACUNA_MODELS", drivers.join(MODEL));
    Ok(command.env("LD_LIBRARY_PATH", drivers).env("PATH", paths))
}

fn read(path: &Path) -> Result<Value> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn list(value: &Value) -> Result<&[Value]> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| format!("no list: {value}"))
}

/// The rows of every room.
fn read_rows(results: &Path, mode: &str) -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    for room in crate::images::rooms() {
        let report = read(&results.join(format!("{room}-{mode}.json")))?;
        if report["commit"] == "unknown" || report["device"]["name"] != format!("{DEVICE} 0") {
            return Err(format!("{room}-{mode}.json: not of this commit or device"));
        }
        rows.extend_from_slice(list(&report["rows"])?);
    }
    Ok(rows)
}

fn require_all(rows: &[Value], what: &str, is_so: impl Fn(&Value) -> bool) -> Result<()> {
    if rows.is_empty() {
        return Err(format!("no row where {what}"));
    }
    rows.iter().find(|row| !is_so(row)).map_or(Ok(()), |row| Err(format!("not {what}: {row:#}")))
}
