//! Kernels with their own barriers, atomics and bounds taken away, one at a time: each mutation that can
//! change a result is caught, by the executor's checks or by the reference.

#![allow(unsafe_code, reason = "mutants are compiled here, loaded, and launched by their symbol")]

mod append;
#[path = "../quant/append/problem.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod append_problem;
mod attend;
#[path = "../quant/cache.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod cache;
mod channels;
#[path = "../quant/channels/problem.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod channels_problem;
#[path = "../common/mod.rs"]
mod common;
mod compact;
mod copy;
#[path = "../attention/copy/problem.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod copy_problem;
mod encode;
mod gate;
mod huffman;
mod indexed;
#[path = "../huffman/indexed/problem.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod indexed_problem;
mod kv_rows;
mod lane;
#[path = "../huffman/lane/problem.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod lane_problem;
mod low_rank;
mod mass;
#[path = "../select/mass/problem.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod mass_problem;
mod merge;
mod pack_group;
mod pages;
#[path = "../quant/pages/problem.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod pages_problem;
mod partials;
#[path = "../attention/merge/problem.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod partials_problem;
mod prefill;
mod product;
#[path = "../huffman/lane/product/problem.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod product_problem;
mod retier;
#[path = "../quant/retier/problem.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod retier_problem;
mod rows;
mod saliency;
#[path = "../quant/saliency/problem.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod saliency_problem;
mod score;
#[path = "../select/score/problem.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod score_problem;
mod summarize;
mod tier;
#[path = "../attention/tier/problem.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod tier_problem;
mod tiered;
mod topk;

use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use lacuna::Queue;
use lacuna::launch::Grid;
use lacuna::region::{Region, Role};
use lacuna::simt::{self, Checks, Config, Entry, Launch, Schedule, Substitute};
use tempfile::TempDir;

/// What every kernel file includes, and none mutates: compiled once, while any test has mutants to compile.
struct Prelude(TempDir);

impl Prelude {
    const KERNEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/csrc/common/kernel.cuh");

    fn get() -> Arc<Self> {
        static SHARED: Mutex<Weak<Prelude>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let own = Arc::new(Self(tempfile::tempdir().unwrap()));
            std::fs::write(own.header(), format!("#include \"{}\"\n", Self::KERNEL)).unwrap();
            let compiled = own.header().with_extension("h.gch");
            run(compiler().args(["-x", "c++-header", "-c", "-o"]).arg(compiled).arg(own.header()));
            *shared = Arc::downgrade(&own);
            own
        })
    }

    /// Beside it lies what it was compiled to, which compilers look for.
    fn header(&self) -> PathBuf {
        self.0.path().join("prelude.h")
    }
}

/// A kernel file, and one of its entries.
struct Kernel {
    room: &'static str,
    source: &'static str,
    /// Of what it includes from its folder and `csrc/common`, what is mutated too: names as it includes them, and texts.
    headers: &'static [(&'static str, &'static str)],
    entry: &'static str,
    mutations: &'static [Mutation],
}

/// What is replaced, and which of its occurrences.
struct Mutation {
    what: &'static str,
    nth: usize,
    by: &'static str,
}

const fn of(what: &'static str, nth: usize, by: &'static str) -> Mutation {
    Mutation { what, nth, by }
}

impl Kernel {
    fn mutate(&self, mutation: &Mutation) -> String {
        let Self { room, source, headers, entry, .. } = self;
        let mut source = (*source).to_owned();
        for (name, text) in *headers {
            let include = format!("#include \"{name}\"\n");
            assert!(source.contains(&include), "{name} is not included");
            source = source.replacen(&include, text, 1).replace(&include, "");
        }
        let at = source.match_indices(mutation.what).nth(mutation.nth);
        let (at, _) = at.unwrap_or_else(|| panic!("the kernel has no `{}`", mutation.what));
        let (before, after) = source.split_at(at);
        let after = &after[mutation.what.len()..];
        let source = format!("{before}{}{after}", mutation.by);
        let source: String = source.lines().map(|line| find_include(line, room) + "\n").collect();
        // Of other entries of the file no code is made: a macro that is nothing stands for each.
        let others: String = source
            .split("LACUNA_ENTRY(")
            .skip(1)
            .filter_map(|text| text.split_once(','))
            .filter(|(other, _)| other != entry)
            .map(|(other, _)| format!("#define LACUNA_MUTANT_{other}(Params)\n"))
            .collect();
        format!(
            "#undef LACUNA_DEFINE_ENTRY\n\
             #define LACUNA_DEFINE_ENTRY(name, Params) LACUNA_MUTANT_##name(Params)\n\
             #define LACUNA_MUTANT_{entry}(Params) \\\n  \
             extern \"C\" void mutant(const void* params, uint32_t) {{ \\\n    \
             {entry}_begin(); \\\n    \
             {entry}_body(*static_cast<const Params*>(params)); \\\n  }}\n\
             {others}{source}"
        )
    }

    /// Runs every mutant through `is_caught`, and names those that are not. The kernel itself must not
    /// be caught, neither as it is nor compiled as mutants are.
    fn assert_all_caught(&self, own: Entry, is_caught: impl Fn(Entry) -> bool + Sync) {
        let (prelude, folder) = (Prelude::get(), tempfile::tempdir().unwrap());
        assert!(!is_caught(own), "the kernel itself is caught");
        let library =
            compile(&prelude, folder.path(), self.mutations.len(), &self.mutate(&of("", 0, "")));
        // SAFETY: the source ends with this function.
        let same = unsafe { *library.get::<Entry>(b"mutant").unwrap() };
        assert!(!is_caught(same), "the kernel itself, compiled as a mutant, is caught");
        // Texts that are not there are found before anything is compiled.
        self.mutations.iter().for_each(|mutation| drop(self.mutate(mutation)));
        let survivors = Mutex::new(Vec::new());
        let next = AtomicUsize::new(0);
        let run = || {
            loop {
                let idx = next.fetch_add(1, Ordering::Relaxed);
                let Some(mutation) = self.mutations.get(idx) else { break };
                let library = compile(&prelude, folder.path(), idx, &self.mutate(mutation));
                // SAFETY: as above.
                let entry = unsafe { *library.get::<Entry>(b"mutant").unwrap() };
                if !is_caught(entry) {
                    let Mutation { what, nth, by } = mutation;
                    survivors.lock().unwrap().push(format!("`{what}` ({nth}) by `{by}`"));
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(run);
            run();
        });
        let survivors = survivors.into_inner().unwrap();
        assert!(survivors.is_empty(), "not caught:\n{}", survivors.join("\n"));
    }
}

/// A line of a kernel file that is compiled elsewhere: its includes are of the room's folder, or of `csrc/common`.
fn find_include(line: &str, room: &str) -> String {
    let name = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
    let Some(name) = name else { return line.to_owned() };
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("csrc");
    let folders = [sources.join(room), sources.join("common")];
    let path = folders.iter().map(|folder| folder.join(name)).find(|path| path.exists());
    format!("#include \"{}\"", path.unwrap_or_else(|| panic!("{line}: no such file")).display())
}

/// A queue that runs `by` in place of a kernel, under all checks.
fn queue(kernel: Entry, by: Entry, schedule: Schedule) -> Queue {
    Queue::simt(Config {
        schedule,
        seed: 7,
        step_budget: 400_000,
        checks: Checks::ALL,
        substitute: Some(Substitute { kernel, by }),
        ..Config::default()
    })
}

/// Whether a launch that runs `by` in place of a kernel fails on a schedule, or finds what is not expected.
fn differs<F: PartialEq>(
    kernel: Entry,
    by: Entry,
    expected: &F,
    launch: impl Fn(&Queue) -> lacuna::Result<F>,
) -> bool {
    [Schedule::Random, Schedule::Reverse, Schedule::InOrder].into_iter().any(|schedule| {
        launch(&queue(kernel, by, schedule)).map_or(true, |found| found != *expected)
    })
}

/// Memory of a launch, by its address.
fn region(name: &'static str, role: Role, address: u64, n_bytes: usize) -> Region {
    Region { name: name.into(), role, address, n_bytes: n_bytes as u64 }
}

/// Blocks of so many threads under all checks; whether none of them finds anything.
///
/// # Safety
/// The entry takes `P`, and every region is memory of the caller.
unsafe fn passes<P>(
    entry: Entry,
    [n_blocks, n_threads]: [u32; 2],
    dynamic_shared_bytes: u32,
    schedule: Schedule,
    params: &P,
    regions: &[Region],
) -> bool {
    let grid = Grid {
        blocks: [n_blocks, 1, 1],
        threads: [n_threads, 1, 1],
        dynamic_shared_bytes,
        cluster_blocks: 1,
    };
    // SAFETY: passed on to the caller.
    unsafe { passes_on(entry, &grid, schedule, params, regions) }
}

/// The same on any grid.
///
/// # Safety
/// That of [`passes`].
unsafe fn passes_on<P>(
    entry: Entry,
    grid: &Grid,
    schedule: Schedule,
    params: &P,
    regions: &[Region],
) -> bool {
    let launch = Launch {
        kernel: "mutant",
        entry,
        grid: grid.blocks,
        block: grid.threads,
        dynamic_shared_bytes: grid.dynamic_shared_bytes,
        cluster_blocks: grid.cluster_blocks,
    };
    let config = Config {
        schedule,
        seed: 7,
        step_budget: 100_000,
        checks: Checks::ALL,
        ..Config::default()
    };
    let address = std::ptr::from_ref(params).cast::<c_void>();
    // SAFETY: passed on to the caller.
    unsafe { simt::launch(&config, &launch, address, size_of::<P>(), regions) }.is_ok()
}

/// The library's own compiler and flags, for code that runs once or twice: without lines, and optimized as far as compiling
/// a little longer makes running shorter.
fn compiler() -> Command {
    let mut words = env!("LACUNA_SIMT_COMPILER").split('\t');
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(["-Og", "-g0", "-w", "-fPIC"]);
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn compile(prelude: &Prelude, folder: &Path, idx: usize, source: &str) -> libloading::Library {
    let file = folder.join(format!("mutant{idx}.cu"));
    let library = folder.join(format!("mutant{idx}.so"));
    std::fs::write(&file, source).unwrap();
    let object = folder.join(format!("mutant{idx}.o"));
    run(compiler()
        .arg("-include")
        .arg(prelude.header())
        .args(["-c", "-o"])
        .arg(&object)
        .arg(&file));
    // The hooks are this program's, and no sanitizer's runtime; the kernel is the library's own.
    let linker = env!("LACUNA_SIMT_COMPILER").split('\t').next().unwrap();
    run(Command::new(linker)
        .args(["-shared", "-nostdlib", "-Wl,-Bsymbolic", "-o"])
        .arg(&library)
        .arg(&object)
        .arg("-lgcc"));
    // SAFETY: a library without initialisers.
    unsafe { libloading::Library::new(&library) }.unwrap()
}
