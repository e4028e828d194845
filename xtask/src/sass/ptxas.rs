//! What `ptxas -v` says of each kernel.

use crate::Result;

/// What a kernel takes of a multiprocessor.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// The kernel.
    pub(super) kernel: String,
    /// Of each thread.
    pub(super) registers: u32,
    /// Stores and loads in the code. Those of functions that are not inlined count with every kernel
    /// of the image.
    pub(super) spill_bytes: u32,
    /// Of each thread, with the functions it calls.
    pub(super) stack_bytes: u32,
    /// Static, of each block.
    pub(super) shared_bytes: u32,
    /// Of each block.
    pub(super) barriers: u32,
}

/// Reads the figures of every kernel. A kernel without one of its lines, and a figure that is not
/// known here, is an error: nothing is taken for zero but what `ptxas` leaves out when it is.
pub(super) fn parse(log: &str) -> Result<Vec<Usage>> {
    let mut usages: Vec<Usage> = Vec::new();
    // Lines are of the kernel above them, or of a function that is none; it has no `Used` line.
    let mut function = "";
    let (mut n_frames, mut n_used) = (0, 0);
    let mut spill_bytes_of_functions = 0;
    for line in log.lines() {
        let text = line.strip_prefix("ptxas info    : ").unwrap_or(line).trim();
        let fail = |what: &str| format!("ptxas: {what}: {line}");
        if let Some(rest) = text.strip_prefix("Compiling entry function '") {
            let (kernel, _) = rest.split_once('\'').ok_or_else(|| fail("no name"))?;
            usages.push(Usage { kernel: kernel.to_owned(), ..Usage::default() });
        } else if let Some(name) = text.strip_prefix("Function properties for ") {
            function = name;
        } else if text.contains("bytes stack frame") {
            let [stack, stores, loads] = read_frame(text).ok_or_else(|| fail("not a frame"))?;
            match usages.last_mut().filter(|usage| usage.kernel == function) {
                Some(usage) => {
                    usage.stack_bytes = usage.stack_bytes.max(stack);
                    usage.spill_bytes += stores + loads;
                    n_frames += 1;
                }
                None => spill_bytes_of_functions += stores + loads,
            }
        } else if let Some(items) = text.strip_prefix("Used ") {
            let usage = usages.last_mut().ok_or_else(|| fail("of no kernel"))?;
            read_used(usage, items).map_err(|item| fail(&format!("not known: `{item}`")))?;
            n_used += 1;
        }
    }
    if usages.is_empty() || n_frames != usages.len() || n_used != usages.len() {
        return Err(format!(
            "ptxas: {} kernels, {n_frames} frames and {n_used} lines of registers; another format? \
             It says\n{log}",
            usages.len()
        ));
    }
    for usage in &mut usages {
        usage.spill_bytes += spill_bytes_of_functions;
    }
    Ok(usages)
}

/// `0 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads`.
fn read_frame(text: &str) -> Option<[u32; 3]> {
    let mut parts = text.split(", ");
    let mut read = |what: &str| parts.next()?.strip_suffix(what)?.parse().ok();
    let frame =
        [read(" bytes stack frame")?, read(" bytes spill stores")?, read(" bytes spill loads")?];
    parts.next().is_none().then_some(frame)
}

/// `40 registers, used 1 barriers, 41888 bytes smem, 392 bytes cmem[0]`: or the item that is not
/// known. `ptxas` leaves out memory of which there is none.
fn read_used<'a>(usage: &mut Usage, items: &'a str) -> Result<(), &'a str> {
    let (mut registers, mut barriers) = (None, None);
    for item in items.split(", ") {
        let (n, what) = item.trim_start_matches("used ").split_once(' ').ok_or(item)?;
        let n = n.parse().map_err(|_| item)?;
        match what {
            "registers" => registers = Some(n),
            "barriers" => barriers = Some(n),
            "bytes smem" => usage.shared_bytes = n,
            "bytes cumulative stack size" => usage.stack_bytes = usage.stack_bytes.max(n),
            _ if what.starts_with("bytes cmem[") => {}
            _ => return Err(item),
        }
    }
    usage.registers = registers.ok_or(items)?;
    usage.barriers = barriers.ok_or(items)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
ptxas info    : 346 bytes gmem, 392 bytes cmem[4]
ptxas info    : Compiling entry function 'small' for 'sm_80'
ptxas info    : Function properties for small
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers, 360 bytes cmem[0]
ptxas info    : Compile time = 1.319 ms
ptxas info    : Compiling entry function 'large' for 'sm_80'
ptxas info    : Function properties for large
    80 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 96 bytes cumulative stack size, 512 bytes smem
";

    fn usage(kernel: &str, figures: [u32; 5]) -> Usage {
        let [registers, spill_bytes, stack_bytes, shared_bytes, barriers] = figures;
        let kernel = kernel.to_owned();
        Usage { kernel, registers, spill_bytes, stack_bytes, shared_bytes, barriers }
    }

    #[test]
    fn every_kernel_has_its_figures() {
        let expected = [usage("small", [8, 0, 0, 0, 0]), usage("large", [255, 32, 96, 512, 1])];
        assert_eq!(parse(LOG).unwrap(), expected);
    }

    #[test]
    fn spills_of_a_function_count_with_every_kernel() {
        let function = "ptxas info    : Function properties for f\n    \
                        0 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads\n";
        let usages = parse(&format!("{LOG}{function}")).unwrap();
        assert_eq!([usages[0].spill_bytes, usages[1].spill_bytes], [8, 40]);
    }

    #[test]
    fn another_format_is_an_error() {
        for (what, by) in [
            ("Compiling entry function", "Compiling kernel"),
            ("Used 8 registers", "Uses 8 registers"),
            ("8 registers", "8 vector registers"),
            ("used 0 barriers, ", ""),
            ("512 bytes smem", "512 bytes shared"),
            ("0 bytes spill stores, ", ""),
            ("12 bytes spill stores", "twelve bytes spill stores"),
            ("bytes stack frame", "bytes frame"),
        ] {
            assert!(LOG.contains(what));
            assert!(parse(&LOG.replace(what, by)).is_err(), "`{by}` is taken");
        }
        assert!(parse("").is_err());
    }
}
