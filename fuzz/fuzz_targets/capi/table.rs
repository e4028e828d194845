//! The C interface as `build.rs` reads it in `src/capi`.

use lacuna::capi;

/// What a field or a parameter is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    U8,
    U16,
    U32,
    U64,
    F32,
    F64,
    Char,
    Void,
    Callback,
    Struct(&'static str),
    Handle(&'static str),
    Array(&'static Kind, usize),
    Const(&'static Kind),
    Mut(&'static Kind),
}

pub(crate) struct Struct {
    pub(crate) name: &'static str,
    pub(crate) size: usize,
    /// Name, kind and place of each.
    pub(crate) fields: &'static [(&'static str, Kind, usize)],
}

impl Struct {
    pub(crate) fn has_header(&self) -> bool {
        self.fields.first().is_some_and(|(name, ..)| *name == "header")
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Answer {
    Status,
    Nothing,
    Pointer,
    Number,
}

pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) params: &'static [(&'static str, Kind)],
    pub(crate) answer: Answer,
    /// The statuses that its documentation names, beside those of another function.
    errors: &'static [&'static str],
    those_of: &'static str,
    pub(crate) call: fn(&[u64]) -> u64,
}

impl Function {
    pub(crate) fn documents(&self, status: &str) -> bool {
        self.errors.contains(&status)
            || (!self.those_of.is_empty() && function(self.those_of).documents(status))
    }
}

include!(concat!(env!("OUT_DIR"), "/capi.rs"));

pub(crate) fn function(name: &str) -> &'static Function {
    find_function(name).unwrap_or_else(|| panic!("no function {name}"))
}

pub(crate) fn find_function(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.name == name)
}

pub(crate) fn struct_of(name: &str) -> &'static Struct {
    STRUCTS.iter().find(|found| found.name == name).unwrap_or_else(|| panic!("no struct {name}"))
}

/// Bytes of one, of what has no header of its own.
pub(crate) fn size_of_kind(kind: Kind) -> usize {
    match kind {
        Kind::U8 | Kind::Char | Kind::Void => 1,
        Kind::U16 => 2,
        Kind::U32 | Kind::F32 => 4,
        Kind::Array(of, n) => n * size_of_kind(*of),
        Kind::Struct(name) => struct_of(name).size,
        _ => 8,
    }
}
