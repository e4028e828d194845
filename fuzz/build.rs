//! Makes a table of the C interface for the target `capi`: every struct and function of `src/capi`, so that none can be forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use syn::{Attribute, Expr, Fields, FnArg, Item, Lit, Meta, Pat, ReturnType, Type, Visibility};

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate's root");
    let mut files = Vec::new();
    find(&root.join("src/capi"), &mut files);
    files.sort();
    let mut table = Table::default();
    let items: Vec<Item> = files
        .iter()
        .flat_map(|path| {
            syn::parse_file(&fs::read_to_string(path).expect("source")).expect("Rust").items
        })
        .collect();
    items.iter().for_each(|item| table.learn(item));
    items.iter().for_each(|item| table.read(item));
    let header = root.join("include/lacuna.h");
    println!("cargo::rerun-if-changed={}", header.display());
    println!("cargo::rerun-if-changed={}", root.join("src/capi").display());
    let declared = declared(&fs::read_to_string(header).expect("the header"));
    let found: BTreeSet<String> = table.functions.keys().cloned().collect();
    assert_eq!(declared, found, "functions of the header, and of src/capi");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("capi.rs"), table.code()).expect("a table");
}

fn find(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { find(&path, files) } else { files.push(path) }
    }
}

/// Names before a parenthesis, outside comments and macros.
fn declared(header: &str) -> BTreeSet<String> {
    let is_code = |line: &&str| {
        let line = line.trim_start();
        !line.starts_with("//") && !line.starts_with('#')
    };
    let mut names = BTreeSet::new();
    for line in header.lines().filter(is_code) {
        let Some((before, _)) = line.split_once('(') else { continue };
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name = before.rsplit(|c| !is_part(c)).next().unwrap_or_default();
        if name.starts_with("lacuna_") {
            names.insert(name.to_owned());
        }
    }
    names
}

#[derive(Default)]
struct Table {
    /// By name: whether its fields are known.
    types: BTreeMap<String, bool>,
    structs: BTreeMap<String, Vec<(String, String)>>,
    functions: BTreeMap<String, String>,
}

impl Table {
    fn learn(&mut self, item: &Item) {
        let Item::Struct(item) = item else { return };
        if matches!(item.vis, Visibility::Public(_)) {
            let is_c = item.attrs.iter().any(
                |attribute| matches!(&attribute.meta, Meta::List(list) if list.path.is_ident("repr")),
            );
            self.types.insert(item.ident.to_string(), is_c);
        }
    }

    fn read(&mut self, item: &Item) {
        match item {
            Item::Struct(item) if self.types.get(&item.ident.to_string()) == Some(&true) => {
                let Fields::Named(fields) = &item.fields else { return };
                let fields = fields.named.iter().map(|field| {
                    let name = field.ident.as_ref().expect("a name").to_string();
                    (name, self.kind(&field.ty))
                });
                self.structs.insert(item.ident.to_string(), fields.collect());
            }
            Item::Fn(item) if item.sig.abi.is_some() => {
                let name = item.sig.ident.to_string();
                let (mut params, mut values) = (String::new(), String::new());
                for (idx, param) in item.sig.inputs.iter().enumerate() {
                    let FnArg::Typed(param) = param else { panic!("{name} has a receiver") };
                    let Pat::Ident(ident) = &*param.pat else { panic!("{name} has a pattern") };
                    let kind = self.kind(&param.ty);
                    write!(params, "({:?}, {kind}),", ident.ident.to_string()).expect("memory");
                    let value = match kind.as_str() {
                        "Kind::U64" => format!("a[{idx}],"),
                        "Kind::U32" => format!("a[{idx}] as u32,"),
                        "Kind::F32" => format!("f32::from_bits(a[{idx}] as u32),"),
                        _ => match (&*param.ty, kind.strip_prefix("Kind::Struct(\"")) {
                            (Type::Ptr(pointer), _) if pointer.mutability.is_some() => {
                                format!("std::ptr::with_exposed_provenance_mut(a[{idx}] as usize),")
                            }
                            (Type::Ptr(_), _) => {
                                format!("std::ptr::with_exposed_provenance(a[{idx}] as usize),")
                            }
                            (_, Some(of)) => format!(
                                "std::ptr::with_exposed_provenance::<capi::{}>(a[{idx}] as usize).read(),",
                                of.trim_end_matches("\")")
                            ),
                            (_, None) => panic!("{name} takes {kind}"),
                        },
                    };
                    values.push_str(&value);
                }
                let answer = match &item.sig.output {
                    ReturnType::Default => "Answer::Nothing",
                    ReturnType::Type(_, of) => match &**of {
                        Type::Ptr(_) => "Answer::Pointer",
                        of if path_of(of) == "lacuna_status" => "Answer::Status",
                        _ => "Answer::Number",
                    },
                };
                let call = format!("capi::{name}({values})");
                let call = match answer {
                    "Answer::Nothing" => format!("{{ {call}; 0 }}"),
                    "Answer::Pointer" => format!("{call}.expose_provenance() as u64"),
                    "Answer::Status" => format!("{call} as u32 as u64"),
                    _ => format!("u64::from({call})"),
                };
                let (errors, those_of) = errors(&doc_of(&item.attrs));
                let code = format!(
                    "Function {{ name: {name:?}, params: &[{params}], answer: {answer}, errors: &{errors:?}, those_of: {those_of:?}, \
                     call: |a| unsafe {{ {call} }} }},\n"
                );
                self.functions.insert(name, code);
            }
            _ => {}
        }
    }

    fn kind(&self, of: &Type) -> String {
        match of {
            Type::Ptr(pointer) => {
                let way = if pointer.mutability.is_some() { "Mut" } else { "Const" };
                format!("Kind::{way}(&{})", self.kind(&pointer.elem))
            }
            Type::Array(array) => {
                let Expr::Lit(len) = &array.len else { panic!("an array's length is a number") };
                let Lit::Int(len) = &len.lit else { panic!("an array's length is a number") };
                format!("Kind::Array(&{}, {})", self.kind(&array.elem), len.base10_digits())
            }
            of => match (path_of(of).as_str(), self.types.get(&path_of(of))) {
                ("u8", _) => "Kind::U8".to_owned(),
                ("u16", _) => "Kind::U16".to_owned(),
                ("u32", _) => "Kind::U32".to_owned(),
                ("u64", _) => "Kind::U64".to_owned(),
                ("f32", _) => "Kind::F32".to_owned(),
                ("f64", _) => "Kind::F64".to_owned(),
                ("c_char", _) => "Kind::Char".to_owned(),
                ("c_void", _) => "Kind::Void".to_owned(),
                ("Option", _) => "Kind::Callback".to_owned(),
                (name, Some(true)) => format!("Kind::Struct({name:?})"),
                (name, Some(false)) => format!("Kind::Handle({name:?})"),
                (name, None) => panic!("no kind for {name}"),
            },
        }
    }

    fn code(&self) -> String {
        let mut code = String::from("pub(crate) const STRUCTS: &[Struct] = &[\n");
        for (name, fields) in &self.structs {
            let fields: String = fields
                .iter()
                .map(|(field, kind)| {
                    format!("({field:?}, {kind}, std::mem::offset_of!(capi::{name}, {field})),")
                })
                .collect();
            let size = format!("size_of::<capi::{name}>()");
            writeln!(code, "Struct {{ name: {name:?}, size: {size}, fields: &[{fields}] }},")
                .expect("memory");
        }
        code.push_str("];\n#[allow(unused_unsafe, unused_variables)]\npub(crate) const FUNCTIONS: &[Function] = &[\n");
        code.extend(self.functions.values().map(String::as_str));
        code.push_str("];\n");
        code
    }
}

/// The statuses that a function's documentation names, and the function whose it has too.
fn errors(doc: &str) -> (Vec<String>, String) {
    let Some((_, errors)) = doc.split_once("Errors:") else { return (Vec::new(), String::new()) };
    let mut words = errors.split('`').skip(1).step_by(2);
    let names: Vec<&str> = words.by_ref().collect();
    let statuses = names.iter().filter(|word| word.starts_with("LACUNA_"));
    let those_of = match errors.split_once("those of `") {
        Some((_, rest)) => rest.split('`').next().unwrap_or_default().to_owned(),
        None => String::new(),
    };
    (statuses.map(|word| (*word).to_owned()).collect(), those_of)
}

fn path_of(of: &Type) -> String {
    match of {
        Type::Path(path) => path.path.segments.last().expect("a name").ident.to_string(),
        _ => String::new(),
    }
}

fn doc_of(attributes: &[Attribute]) -> String {
    let mut doc = String::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("doc")) {
        if let Meta::NameValue(pair) = &attribute.meta
            && let Expr::Lit(literal) = &pair.value
            && let Lit::Str(text) = &literal.lit
        {
            doc.push_str(&text.value());
            doc.push(' ');
        }
    }
    doc
}
