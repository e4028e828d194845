//! Static figures of every kernel on every target, without a GPU: what `ptxas` says of the
//! committed images, and what an element costs in the machine code of a kernel's inner loops.
//!
//! **Inner loops.** A comment in the source (`markers`) names a statement that loads, stores or
//! multiplies once for so many elements. For this alone the source is compiled again with line
//! information; the instructions must be those of the committed image. Of their natural loops
//! (`loops`), the innermost around the marked statement, wherever it was inlined, is an inner loop;
//! an unrolled one has several copies of the statement, and does the elements of all of them in one
//! iteration (`inner`). Instructions by elements, summed over the inner loops, are the figure. Where
//! types share a loop, a second comment names what others do alone: no way past that is counted.
//!
//! **Ways.** Where a loop's data say what it does, markers name ways round it, and each has a figure of its own (`ways`).
//!
//! **What it is not.** Each instruction of a loop's body counts once: one that few threads take too,
//! and one of a loop inside, however often that goes round. A function that is called and not
//! inlined is not in it. Several loads that the compiler made one are one copy. The code is that of
//! the `ptxas` named here, and a driver has its own. So it says what changed, not how fast a kernel
//! is.

mod budgets;
mod inner;
mod listing;
mod loops;
mod markers;
mod ptxas;
mod ways;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use crate::images::{self, Compiler, Image};
use crate::{Result, root, wheels};
use inner::{InnerLoop, MarkedLine};
use listing::{Instruction, Kernel};
use ways::Way;

/// The newest of CUDA 12: it knows every target.
pub(crate) const PTXAS: (&str, &str, &str) =
    ("nvidia-cuda-nvcc-cu12", "12.9.86", "nvidia/cuda_nvcc/bin/ptxas");
/// No wheel of CUDA 12 has it.
const NVDISASM: (&str, &str, &str) =
    ("nvidia-cuda-nvdisasm", "13.5.37", "nvidia/cu13/bin/nvdisasm");
/// What portable images are assembled for: every generation from Ampere on.
const TARGETS: [u32; 5] = [80, 86, 89, 90, 120];

/// What is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Rows, for programs
    #[arg(long)]
    json: bool,
    /// Fail where a kernel is over its budget in xtask/budgets.toml
    #[arg(long)]
    check: bool,
    /// One room
    #[arg(long, value_name = "ROOM")]
    only: Option<String>,
}

/// The figures of a kernel on a target.
#[derive(Debug, Serialize)]
struct Row {
    kernel: String,
    target: String,
    registers: u32,
    spill_bytes: u32,
    stack_bytes: u32,
    shared_bytes: u32,
    barriers: u32,
    /// None where no loop is marked.
    instructions_per_element: Option<f64>,
    inner_loops: Vec<InnerLoop>,
    ways: Vec<Way>,
}

impl Row {
    /// What budgets are for, by the names they have there.
    fn figures(&self) -> [(&'static str, Option<f64>); 6] {
        [
            ("registers", Some(self.registers.into())),
            ("spill_bytes", Some(self.spill_bytes.into())),
            ("stack_bytes", Some(self.stack_bytes.into())),
            ("shared_bytes", Some(self.shared_bytes.into())),
            ("inner_loops", Some(self.inner_loops.len() as f64)),
            ("instructions_per_element", self.instructions_per_element),
        ]
    }

    /// `42.75 = 35/1 + 31/4`, or `2 bits: 1.92 = 983/512`.
    fn describe_cost(&self) -> String {
        let of_way = |way: &Way| {
            format!(
                "{}: {:.2} = {}/{}",
                way.name,
                way.per_element(),
                way.instructions,
                way.elements
            )
        };
        let ways: Vec<_> = self.ways.iter().map(of_way).collect();
        let Some(cost) = self.instructions_per_element else {
            return if ways.is_empty() { "-".to_owned() } else { ways.join(", ") };
        };
        let terms: Vec<_> = self
            .inner_loops
            .iter()
            .map(|inner| format!("{}/{}", inner.instructions, inner.elements))
            .collect();
        format!("{cost:.2} = {}", terms.join(" + "))
    }
}

/// Prints the figures, and holds them to their budgets where asked to.
pub(crate) fn run(options: &Options) -> Result<()> {
    let tools = Tools::install()?;
    let is_asked = |room: &str| options.only.as_deref().is_none_or(|asked| asked == room);
    let mut rows = Vec::new();
    for image in images::IMAGES.iter().filter(|image| is_asked(image.room)) {
        rows.extend(tools.measure(image)?);
    }
    if rows.is_empty() {
        return Err(format!("no room is called {}", options.only.as_deref().unwrap_or_default()));
    }
    if options.json {
        print_json(&rows)?;
    } else {
        print_table(&rows);
    }
    if !options.check {
        return Ok(());
    }
    let path = root().join(budgets::PATH);
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", budgets::PATH))?;
    budgets::check(&budgets::parse(&text)?, &rows, |kernel| {
        is_asked(kernel.split('/').next().unwrap_or_default())
    })
}

fn print_json(rows: &[Row]) -> Result<()> {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| serde_json::to_string(row).map(|row| format!("  {row}")))
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    println!("[\n{}\n]", rows.join(",\n"));
    Ok(())
}

fn print_table(rows: &[Row]) {
    println!(
        "{:<22} {:<7} {:>9} {:>6} {:>6} {:>7} {:>8}  instructions per element, by inner loop or way",
        "kernel", "target", "registers", "spills", "stack", "shared", "barriers"
    );
    for row in rows {
        println!(
            "{:<22} {:<7} {:>9} {:>6} {:>6} {:>7} {:>8}  {}",
            row.kernel,
            row.target,
            row.registers,
            row.spill_bytes,
            row.stack_bytes,
            row.shared_bytes,
            row.barriers,
            row.describe_cost(),
        );
    }
}

/// What this machine needs: no GPU, no toolkit.
struct Tools {
    compiler: Compiler,
    ptxas: PathBuf,
    nvdisasm: PathBuf,
}

impl Tools {
    fn install() -> Result<Self> {
        let program = |(package, version, path)| wheels::install_program(package, version, path);
        Ok(Self {
            compiler: Compiler::load()?,
            ptxas: program(PTXAS)?,
            nvdisasm: program(NVDISASM)?,
        })
    }

    /// Every kernel of an image on every target.
    fn measure(&self, image: &Image) -> Result<Vec<Row>> {
        let committed = root().join(image.path);
        let committed = std::fs::read_to_string(committed)
            .map_err(|error| format!("{}: {error}", image.path))?;
        let with_lines = self.compiler.compile(image, &["-lineinfo"])?;
        let mut rows = Vec::new();
        for target in list_targets(image)? {
            let (log, code) = self.assemble(&committed, &target)?;
            let (_, code_with_lines) = self.assemble(&with_lines, &target)?;
            assert_same_code(image, &target, &code, &code_with_lines)?;
            rows.extend(make_rows(image, &target, &log, &code_with_lines)?);
        }
        Ok(rows)
    }

    /// What `ptxas` says, and the code that it writes.
    fn assemble(&self, ptx: &str, target: &str) -> Result<(String, Vec<Kernel>)> {
        let folder = tempfile::tempdir().map_err(|error| format!("temporary folder: {error}"))?;
        let (source, cubin) = (folder.path().join("image.ptx"), folder.path().join("image.cubin"));
        std::fs::write(&source, ptx).map_err(|error| format!("{}: {error}", source.display()))?;
        let mut command = Command::new(&self.ptxas);
        command.args(["-v", &format!("--gpu-name={target}"), "-o"]).arg(&cubin).arg(&source);
        let (_, log) = capture(&mut command)?;
        let mut command = Command::new(&self.nvdisasm);
        command.args(["--print-code", "--print-line-info-inline"]).arg(&cubin);
        let (listing, _) = capture(&mut command)?;
        Ok((log, listing::parse(&listing)?))
    }
}

/// The targets that load an image: a portable one is everyone's from its own on, but for those that have a
/// newer one of the same source, and `sm_90a` its own alone.
fn list_targets(image: &Image) -> Result<Vec<String>> {
    let Some(oldest) = read_portable(image.target)? else {
        return Ok(vec![image.target.to_owned()]);
    };
    let mut end = u32::MAX;
    for other in images::IMAGES.iter().filter(|other| other.source == image.source) {
        end = end.min(read_portable(other.target)?.filter(|other| *other > oldest).unwrap_or(end));
    }
    let own = TARGETS.into_iter().filter(|&target| (oldest..end).contains(&target));
    Ok(own.map(|target| format!("sm_{target}")).collect())
}

/// 80 of `compute_80`.
fn read_portable(target: &str) -> Result<Option<u32>> {
    let Some(number) = target.strip_prefix("compute_") else { return Ok(None) };
    number.parse().map(Some).map_err(|error| format!("{target}: {error}"))
}

/// What a program prints to its two outputs; it must succeed.
fn capture(command: &mut Command) -> Result<(String, String)> {
    let name = Path::new(command.get_program()).display().to_string();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        return Err(format!("{name} fails: {}{}", text(&output.stdout), text(&output.stderr)));
    }
    Ok((text(&output.stdout), text(&output.stderr)))
}

/// Lines are only worth reading if the code is that of the image.
fn assert_same_code(
    image: &Image,
    target: &str,
    code: &[Kernel],
    with_lines: &[Kernel],
) -> Result<()> {
    let list = |kernels: &[Kernel]| -> Vec<Vec<String>> {
        let code = |instruction: &Instruction| instruction.code().join(" ");
        let of_kernel = |kernel: &Kernel| {
            let code = kernel.instructions.iter().map(code);
            std::iter::once(kernel.name.clone()).chain(code).collect()
        };
        kernels.iter().map(of_kernel).collect()
    };
    if list(code) == list(with_lines) {
        return Ok(());
    }
    Err(format!(
        "{} on {target}: {} compiled with line information is other code; run `cargo xtask \
         generate`, and if it was fresh, the lines cannot be trusted",
        image.path, image.source
    ))
}

fn make_rows(image: &Image, target: &str, log: &str, kernels: &[Kernel]) -> Result<Vec<Row>> {
    let source = inner::shorten(image.source);
    let lines = kernels.iter().flat_map(|kernel| &kernel.instructions).flat_map(|i| &i.place);
    let mut files: BTreeSet<_> = lines.map(|line| inner::shorten(&line.file)).collect();
    files.insert(source.clone());
    let mut marked_lines = Vec::new();
    for file in &files {
        marked_lines.extend(read_markers(file)?);
    }
    let mut rows = Vec::new();
    for usage in ptxas::parse(log)? {
        let kernel = kernels.iter().find(|kernel| kernel.name == usage.kernel);
        let kernel = kernel.ok_or_else(|| format!("nvdisasm: no kernel {}", usage.kernel))?;
        let inner_loops = inner::find(kernel, &marked_lines)?;
        rows.push(Row {
            kernel: format!("{}/{}", image.room, usage.kernel),
            target: target.to_owned(),
            registers: usage.registers,
            spill_bytes: usage.spill_bytes,
            stack_bytes: usage.stack_bytes,
            shared_bytes: usage.shared_bytes,
            barriers: usage.barriers,
            instructions_per_element: inner::count_per_element(&inner_loops),
            inner_loops,
            ways: ways::find(kernel, &marked_lines)?,
        });
    }
    // A header's statement need not be in every image.
    for marked in marked_lines.iter().filter(|marked| marked.file == source && marked.counts()) {
        let place = marked.place();
        if rows.iter().flat_map(|row| &row.inner_loops).all(|inner| inner.place != place) {
            return Err(format!(
                "{place} is marked, and no kernel of {} does on {target} what the marker says; \
                 does it stand before the line of that statement?",
                image.path
            ));
        }
    }
    Ok(rows)
}

/// The markers of a file of `csrc/`.
fn read_markers(file: &str) -> Result<Vec<MarkedLine>> {
    let path = root().join("csrc").join(file);
    let source =
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let markers = markers::parse(file, &source)?;
    Ok(markers.into_iter().map(|marker| MarkedLine { file: file.to_owned(), marker }).collect())
}
