//! What `nvdisasm` prints: instructions, labels, and the source lines that each instruction is of.

use std::collections::HashMap;

use crate::Result;

/// The code of one kernel, and of the functions that come with it.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    /// The kernel.
    pub(super) name: String,
    /// In the order of their addresses.
    pub(super) instructions: Vec<Instruction>,
    /// The index of the instruction after each label.
    pub(super) labels: HashMap<String, usize>,
}

/// One instruction.
#[derive(Debug, Clone, Default)]
pub(super) struct Instruction {
    /// `@P0`, `@!UP1`, or nothing.
    pub(super) predicate: String,
    /// `LDG.E.128`.
    pub(super) opcode: String,
    /// `R8, desc[UR8][R2.64]`.
    pub(super) operands: String,
    /// The line it is of, then the line where that was inlined, and so on; nothing without line
    /// information.
    pub(super) place: Vec<Line>,
}

/// A line of a source file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    /// As the compiler spells it.
    pub(super) file: String,
    /// From 1.
    pub(super) number: u32,
}

impl Instruction {
    /// The opcode without its modifiers: `LDG`.
    pub(super) fn base(&self) -> &str {
        self.opcode.split('.').next().unwrap_or_default()
    }

    /// What two instructions of the same code have in common: all but the lines.
    pub(super) fn code(&self) -> [&str; 3] {
        [&self.predicate, &self.opcode, &self.operands]
    }
}

/// Reads a listing of code sections (`nvdisasm -c`), with or without inlined lines (`-gi`). A line
/// that is none of the known kinds is an error.
pub(super) fn parse(listing: &str) -> Result<Vec<Kernel>> {
    let mut kernels: Vec<Kernel> = Vec::new();
    let mut place = Vec::new();
    // Where the last line of `place` was inlined, until a line says so.
    let mut inlined_at: Option<Line> = None;
    for line in listing.lines() {
        let fail = |what: &str| format!("nvdisasm: {what}: {line}");
        let text = line.trim();
        if let Some(rest) = text.strip_prefix(".section\t") {
            let name = rest.trim().split(',').next().and_then(|name| name.strip_prefix(".text."));
            let name = name.ok_or_else(|| fail("not a section of code"))?.to_owned();
            kernels.push(Kernel { name, ..Kernel::default() });
            place.clear();
        } else if let Some(comment) = text.strip_prefix("//##") {
            let (line, next) = read_line_info(comment).ok_or_else(|| fail("not a line"))?;
            match inlined_at.take() {
                Some(expected) if expected != line => return Err(fail("inlined elsewhere")),
                Some(_) => {}
                None => place.clear(),
            }
            place.push(line);
            inlined_at = next;
        } else if text.starts_with("/*") {
            let kernel = kernels.last_mut().ok_or_else(|| fail("in no section"))?;
            let mut instruction = read_instruction(text).ok_or_else(|| fail("no instruction"))?;
            if inlined_at.is_some() {
                return Err(fail("the line before it was inlined nowhere"));
            }
            instruction.place.clone_from(&place);
            kernel.instructions.push(instruction);
        } else if let Some(label) = text.strip_suffix(':').filter(|_| !line.starts_with(' ')) {
            let kernel = kernels.last_mut().ok_or_else(|| fail("in no section"))?;
            kernel.labels.insert(label.to_owned(), kernel.instructions.len());
        } else if !text.is_empty() && !text.starts_with("//") && !text.starts_with('.') {
            return Err(fail("not understood"));
        }
    }
    match kernels.iter().find(|kernel| kernel.instructions.is_empty()) {
        Some(kernel) => Err(format!("nvdisasm: {} has no instructions", kernel.name)),
        None if kernels.is_empty() => Err("nvdisasm: no kernels".to_owned()),
        None => Ok(kernels),
    }
}

/// ` File "a.cuh", line 3 inlined at "b.cu", line 7`.
fn read_line_info(comment: &str) -> Option<(Line, Option<Line>)> {
    let rest = comment.trim().strip_prefix("File ")?;
    let (line, rest) = read_line(rest)?;
    if rest.is_empty() {
        return Some((line, None));
    }
    let (inlined_at, rest) = read_line(rest.strip_prefix(" inlined at ")?)?;
    rest.is_empty().then_some((line, Some(inlined_at)))
}

/// `"a.cuh", line 3`, and what comes after it.
fn read_line(text: &str) -> Option<(Line, &str)> {
    let (file, rest) = text.strip_prefix('"')?.split_once("\", line ")?;
    let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    let (number, rest) = rest.split_at(end);
    Some((Line { file: file.to_owned(), number: number.parse().ok()? }, rest))
}

/// `/*0030*/  @!P0 BRA `(.L_x_1) ;`.
fn read_instruction(text: &str) -> Option<Instruction> {
    let (address, rest) = text.strip_prefix("/*")?.split_once("*/")?;
    u64::from_str_radix(address, 16).ok()?;
    let mut rest = rest.trim().strip_suffix(';')?.trim();
    let mut instruction = Instruction::default();
    if rest.starts_with('@') {
        let (predicate, tail) = rest.split_once(' ')?;
        instruction.predicate = predicate.to_owned();
        rest = tail.trim();
    }
    let (opcode, operands) = rest.split_once(' ').unwrap_or((rest, ""));
    if !opcode.starts_with(|letter: char| letter.is_ascii_uppercase()) {
        return None;
    }
    instruction.opcode = opcode.to_owned();
    instruction.operands = operands.trim().to_owned();
    Some(instruction)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = r#"	.headerflags	@"EF_CUDA_SM90"
//--------------------- .text.copy         --------------------------
	.section	.text.copy,"ax",@progbits
	.sectionflags	@"SHF_BARRIERS=1"
        .global         copy
copy:
.text.copy:
	//## File "/csrc/copy.cu", line 9
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_0:
	//## File "/csrc/a.cuh", line 3 inlined at "/csrc/copy.cu", line 7
	//## File "/csrc/copy.cu", line 7
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/              @!P0 BRA `(.L_x_0) ;
	//## File "/csrc/copy.cu", line 8
        /*0030*/                   EXIT ;
"#;

    #[test]
    fn instructions_have_labels_and_places() {
        let kernels = parse(LISTING).unwrap();
        assert_eq!(kernels.len(), 1);
        let Kernel { name, instructions, labels } = &kernels[0];
        assert_eq!((name.as_str(), labels["copy"], labels[".L_x_0"]), ("copy", 0, 1));
        let code: Vec<_> = instructions.iter().map(Instruction::code).collect();
        let expected = [
            ["", "LDC", "R1, c[0x0][0x28]"],
            ["", "LDG.E.128", "R4, desc[UR4][R2.64]"],
            ["@!P0", "BRA", "`(.L_x_0)"],
            ["", "EXIT", ""],
        ];
        assert_eq!(code, expected);
        assert_eq!(instructions[1].base(), "LDG");
        let numbers = |i: usize| -> Vec<_> {
            instructions[i].place.iter().map(|line| (line.file.as_str(), line.number)).collect()
        };
        assert_eq!(numbers(0), [("/csrc/copy.cu", 9)]);
        assert_eq!(numbers(1), [("/csrc/a.cuh", 3), ("/csrc/copy.cu", 7)]);
        assert_eq!(numbers(2), numbers(1));
        assert_eq!(numbers(3), [("/csrc/copy.cu", 8)]);
    }

    #[test]
    fn another_format_is_an_error() {
        for (what, by) in [
            (".section\t.text.copy", ".section\t.code.copy"),
            (".section\t.text", ".code\t.text"),
            ("/*0020*/", "/*002z*/"),
            ("/*0020*/              @!P0 BRA", "0020: @!P0 BRA"),
            ("[R2.64] ;", "[R2.64]"),
            ("LDG.E.128", "{LDG.E.128"),
            ("//## File", "//## file"),
            (" inlined at ", " called at "),
            ("line 7\n\t", "line 6\n\t"),
            ("\t//## File \"/csrc/copy.cu\", line 7\n", ""),
        ] {
            assert!(LISTING.contains(what), "{what}");
            assert!(parse(&LISTING.replacen(what, by, 1)).is_err(), "`{by}` is taken");
        }
        assert!(parse("").is_err());
        assert!(parse("\t.section\t.text.copy,\"ax\",@progbits\n").is_err());
    }
}
