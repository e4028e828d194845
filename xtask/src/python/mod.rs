//! The Python package's calls: `python/src/table.rs`, by which every C function is called, and
//! `python/lacuna/_calls.py`, their typed and documented wrappers. Both are read off `src/capi`.

mod read;
mod table;
mod wrappers;

use std::collections::BTreeMap;

use crate::{Generated, Result, header};

pub(crate) const PATHS: [&str; 2] = ["python/src/table.rs", "python/lacuna/_calls.py"];

/// Views and the header, which Python sees as tensors and not at all.
const OWN: [&str; 4] = ["lacuna_header", "lacuna_view", "lacuna_view_mut", "lacuna_bytes"];

#[derive(Debug, Default)]
struct Interface {
    structs: BTreeMap<String, Struct>,
    handles: BTreeMap<String, Vec<String>>,
    enums: Vec<Enum>,
    functions: Vec<Function>,
    left_out: Vec<String>,
}

#[derive(Debug)]
struct Struct {
    doc: Vec<String>,
    /// Of parts of others there is none.
    has_header: bool,
    fields: Vec<Field>,
}

/// A field's name, what it is, and what is said of it.
type Field = (String, Kind, Vec<String>);

#[derive(Debug)]
struct Enum {
    name: String,
    doc: Vec<String>,
    numbers: Vec<(String, String, Vec<String>)>,
}

#[derive(Debug)]
struct Function {
    name: String,
    doc: Vec<String>,
    params: Vec<(String, Kind)>,
    needs: &'static str,
}

/// What a field or a parameter is.
#[derive(Debug, Clone, PartialEq)]
enum Kind {
    U32,
    U64,
    F32,
    View,
    ViewMut,
    Bytes,
    Text,
    /// So many numbers of a type.
    Numbers(String, String),
    /// So many tensors.
    Views(String),
    ViewsMut(String),
    /// A struct in its place.
    Value(String),
    /// A pointer to a struct, for reading.
    Struct(String),
    /// The same, to as many as the number after it says.
    Array(String),
    /// A struct that is filled in.
    Filled(String),
    Handle(String),
    NewHandle(String),
    /// As many handles as the number after it says.
    Handles(String),
    /// A number that is written.
    Written(&'static str),
    /// The length of the array before it.
    Count,
}

pub(crate) fn generate() -> Result<Vec<Generated>> {
    let mut interface = Interface::default();
    let mut files = Vec::new();
    for path in header::sources()? {
        let error = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|e| error(&e))?;
        files.push(syn::parse_file(&text).map_err(|e| error(&e))?);
    }
    // What a pointer is of must be known before functions are read.
    let items = || files.iter().flat_map(|file| &file.items);
    items().try_for_each(|item| interface.read_type(item))?;
    loop {
        let fields: Vec<_> = items().filter_map(|item| interface.read_fields(item)).collect();
        let is_known = fields.iter().all(|(_, of_struct)| of_struct.is_some());
        for (name, of_struct) in fields {
            match of_struct {
                Some(of_struct) => interface.structs.insert(name, of_struct),
                // What has it in it is unknown too.
                None => interface.structs.remove(&name),
            };
        }
        if is_known {
            break;
        }
    }
    items().try_for_each(|item| interface.read_function(item))?;
    println!("not called from Python: {}", interface.left_out.join(", "));
    let contents = [interface.table(), interface.wrappers()?];
    Ok(PATHS.into_iter().zip(contents).map(|(path, content)| Generated { path, content }).collect())
}

impl Function {
    /// Whether it makes a handle of a shape alone, as plans are made.
    fn is_of_shape(&self) -> bool {
        matches!(self.params[..], [(_, Kind::Struct(_)), (_, Kind::NewHandle(_))])
    }
}
