//! The Python package's calls: `python/src/table.rs`, by which every C function is called, and
//! `python/lacuna/_calls.py`, their typed and documented wrappers. Both are read off `src/capi`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use syn::{Attribute, Expr, Fields, FnArg, Item, Lit, Meta, Pat, ReturnType, Type, Visibility};

use crate::{Generated, Result, header};

pub(crate) const PATHS: [&str; 2] = ["python/src/table.rs", "python/lacuna/_calls.py"];

/// Views and the header, which Python sees as tensors and not at all.
const OWN: [&str; 4] = ["lacuna_header", "lacuna_view", "lacuna_view_mut", "lacuna_bytes"];
/// What begins so is done by `Queue` and `Device` of the package.
const BY_HAND: [&str; 2] = ["lacuna_queue_", "lacuna_device_"];

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
    fields: Vec<(String, Kind, Vec<String>)>,
}

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
    /// A handle that the function takes over.
    TakenHandle(String),
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
    let contents = [interface.table()?, interface.wrappers()?];
    Ok(PATHS.into_iter().zip(contents).map(|(path, content)| Generated { path, content }).collect())
}

impl Interface {
    fn read_type(&mut self, item: &Item) -> Result<()> {
        match item {
            Item::Struct(item) if is_public(&item.vis) => {
                let (name, doc) = (item.ident.to_string(), doc_of(&item.attrs));
                if !name.starts_with("lacuna_") {
                    return Ok(());
                }
                if is_c(&item.attrs) {
                    self.structs.insert(name, Struct { doc, fields: Vec::new() });
                } else {
                    self.handles.insert(name, doc);
                }
            }
            Item::Enum(item) if is_c(&item.attrs) => {
                let mut numbers = Vec::new();
                for variant in &item.variants {
                    let number = match &variant.discriminant {
                        Some((_, Expr::Lit(literal))) => match &literal.lit {
                            Lit::Int(number) => number.base10_digits().to_owned(),
                            _ => String::new(),
                        },
                        _ => String::new(),
                    };
                    let name = variant.ident.to_string();
                    if number.is_empty() {
                        return Err(format!("{}: {name} has no number", item.ident));
                    }
                    numbers.push((name, number, doc_of(&variant.attrs)));
                }
                let (name, doc) = (item.ident.to_string(), doc_of(&item.attrs));
                self.enums.push(Enum { name, doc, numbers });
            }
            _ => {}
        }
        Ok(())
    }

    /// A struct's name, and what it is if Python has a type for each of its fields.
    fn read_fields(&self, item: &Item) -> Option<(String, Option<Struct>)> {
        let Item::Struct(item) = item else { return None };
        let name = item.ident.to_string();
        let Fields::Named(named) = &item.fields else { return None };
        if !self.structs.contains_key(&name) || OWN.contains(&name.as_str()) {
            return None;
        }
        let mut fields: Vec<(String, Kind, Vec<String>)> = Vec::new();
        for field in &named.named {
            let field_name = field.ident.as_ref().map(ToString::to_string).unwrap_or_default();
            if field_name == "header" || field_name.starts_with("reserved") {
                continue;
            }
            let Some(kind) = self.kind(&field.ty) else { return Some((name, None)) };
            let mut kinds: Vec<_> =
                fields.iter().map(|(name, kind, _)| (name.clone(), kind.clone())).collect();
            kinds.push((field_name.clone(), kind));
            count_arrays(&mut kinds);
            fields.push((field_name, Kind::U32, doc_of(&field.attrs)));
            for (field, (_, kind)) in fields.iter_mut().zip(kinds) {
                field.1 = kind;
            }
        }
        Some((name, Some(Struct { doc: doc_of(&item.attrs), fields })))
    }

    fn read_function(&mut self, item: &Item) -> Result<()> {
        let Item::Fn(item) = item else { return Ok(()) };
        let name = item.sig.ident.to_string();
        let answers_status = matches!(&item.sig.output, ReturnType::Type(_, of) if path_of(of).as_deref() == Some("lacuna_status"));
        if !is_public(&item.vis)
            || !answers_status
            || BY_HAND.iter().any(|prefix| name.starts_with(prefix))
        {
            return Ok(());
        }
        let mut params = Vec::new();
        for param in &item.sig.inputs {
            let (FnArg::Typed(typed), Some(param_name)) = (param, name_of(param)) else { continue };
            // Functions that take addresses of the host's arrays, or answer with texts of files, are no business of tensors.
            let Some(kind) = self.kind(&typed.ty).filter(|kind| self.is_of_calls(kind)) else {
                if item.sig.inputs.iter().any(|input| name_of(input).as_deref() == Some("args")) {
                    return Err(format!(
                        "{name}({param_name}): Python knows no type for it; see xtask/src/python.rs"
                    ));
                }
                self.left_out.push(name);
                return Ok(());
            };
            params.push((param_name, kind));
        }
        count_arrays(&mut params);
        // A number that is written, and after it how many: an array of the host's.
        let is_array = |pair: &[(String, Kind)]| {
            matches!(pair[0].1, Kind::Written(_)) && pair[1].0 == format!("n_{}", pair[0].0)
        };
        if params.windows(2).any(is_array) {
            self.left_out.push(name);
            return Ok(());
        }
        // Of two variables of handles, the first is what the second is made of.
        let mut made =
            params.iter_mut().rev().filter(|(_, kind)| matches!(kind, Kind::NewHandle(_)));
        made.next();
        for (_, kind) in made {
            if let Kind::NewHandle(name) = kind {
                *kind = Kind::TakenHandle(name.clone());
            }
        }
        let needs = |feature: &str| {
            item.attrs.iter().any(|attribute| matches!(&attribute.meta, Meta::List(list) if list.path.is_ident("cfg") && list.tokens.to_string().contains(feature)))
        };
        let needs = if needs("simt") { "simt" } else { "" };
        self.functions.push(Function { name, doc: doc_of(&item.attrs), params, needs });
        Ok(())
    }

    fn kind(&self, of: &Type) -> Option<Kind> {
        if let Type::Ptr(pointer) = of {
            let is_mut = pointer.mutability.is_some();
            if let Type::Ptr(inner) = &*pointer.elem {
                let name = path_of(&inner.elem)?;
                return self.handles.contains_key(&name).then_some(Kind::NewHandle(name));
            }
            let name = path_of(&pointer.elem)?;
            return match name.as_str() {
                "u64" if is_mut => Some(Kind::Written("u64")),
                "u32" if is_mut => Some(Kind::Written("u32")),
                "f32" if is_mut => Some(Kind::Written("f32")),
                "c_char" if !is_mut => Some(Kind::Text),
                "lacuna_view" | "lacuna_view_mut" => Some(Kind::Struct(name)),
                _ if self.handles.contains_key(&name) => Some(Kind::Handle(name)),
                _ if self.structs.contains_key(&name) && is_mut => Some(Kind::Filled(name)),
                _ if self.structs.contains_key(&name) => Some(Kind::Struct(name)),
                _ => None,
            };
        }
        if let Type::Array(array) = of {
            let Expr::Lit(len) = &array.len else { return None };
            let Lit::Int(len) = &len.lit else { return None };
            let (of, len) = (path_of(&array.elem)?, len.base10_digits().to_owned());
            return match of.as_str() {
                "u32" | "u64" | "f32" => Some(Kind::Numbers(of, len)),
                "lacuna_view" => Some(Kind::Views(len)),
                "lacuna_view_mut" => Some(Kind::ViewsMut(len)),
                _ => None,
            };
        }
        let name = path_of(of)?;
        match name.as_str() {
            "u64" => Some(Kind::U64),
            "u32" => Some(Kind::U32),
            "f32" => Some(Kind::F32),
            "lacuna_view" => Some(Kind::View),
            "lacuna_view_mut" => Some(Kind::ViewMut),
            "lacuna_bytes" => Some(Kind::Bytes),
            _ if self.structs.contains_key(&name) => Some(Kind::Value(name)),
            _ => None,
        }
    }

    /// Whether a parameter of this kind can be given by Python, or given back to it.
    fn is_of_calls(&self, kind: &Kind) -> bool {
        let is_number = |(_, kind, _): &(String, Kind, Vec<String>)| {
            matches!(kind, Kind::U32 | Kind::U64 | Kind::F32 | Kind::Numbers(..))
        };
        match kind {
            Kind::Filled(name) => {
                self.structs.get(name).is_some_and(|of| of.fields.iter().all(is_number))
            }
            Kind::Bytes
            | Kind::Value(_)
            | Kind::Numbers(..)
            | Kind::View
            | Kind::ViewMut
            | Kind::Views(_)
            | Kind::ViewsMut(_) => false,
            _ => true,
        }
    }

    /// Structs, handles and functions, for `python/src/call.rs`.
    fn table(&self) -> Result<String> {
        let mut text = String::from(
            "//! What the C interface has, for calls by name.\n//!\n//! Generated by `cargo xtask generate`.\n\n\
             use std::mem::offset_of;\n\nuse lacuna::capi::*;\n\nuse crate::call::{Field, Function, Handle, Kind, Param, Struct};\n\n",
        );
        text.push_str("pub(crate) static STRUCTS: &[Struct] = &[\n");
        for (name, of_struct) in
            self.structs.iter().filter(|(name, _)| !OWN.contains(&name.as_str()))
        {
            // Structs without a header are parts of others.
            let has_header = if is_part(name) { "false" } else { "true" };
            let _ = writeln!(
                text,
                "    Struct {{\n        name: {name:?},\n        n_bytes: size_of::<{name}>(),\n        has_header: {has_header},\n        fields: &["
            );
            for (field, kind, _) in &of_struct.fields {
                let kind = kind.of_table();
                let _ = writeln!(
                    text,
                    "            Field {{ name: {field:?}, offset: offset_of!({name}, {field}), kind: {kind} }},"
                );
            }
            text.push_str("        ],\n    },\n");
        }
        text.push_str("];\n\npub(crate) static HANDLES: &[Handle] = &[\n");
        for name in self.handles.keys() {
            let _ = writeln!(
                text,
                "    // SAFETY: the handle is of this type, and ends here.\n    Handle {{ name: {name:?}, free: |handle| unsafe {{ {name}_free(handle.cast()) }} }},"
            );
        }
        text.push_str("];\n\npub(crate) static FUNCTIONS: &[Function] = &[\n");
        for function in &self.functions {
            if !function.needs.is_empty() {
                let _ = writeln!(text, "    #[cfg(feature = {:?})]", function.needs);
            }
            let name = &function.name;
            let _ = writeln!(text, "    Function {{\n        name: {name:?},\n        params: &[");
            for (param, kind) in &function.params {
                let kind = kind.of_table();
                let _ = writeln!(text, "            Param {{ name: {param:?}, kind: {kind} }},");
            }
            let words: Vec<_> = function
                .params
                .iter()
                .enumerate()
                .map(|(idx, (_, kind))| match kind {
                    Kind::U64 | Kind::Count => format!("words[{idx}]"),
                    Kind::U32 => format!("words[{idx}] as u32"),
                    Kind::F32 => format!("f32::from_bits(words[{idx}] as u32)"),
                    _ => format!("words[{idx}] as *mut _"),
                })
                .collect();
            let _ = writeln!(
                text,
                "        ],\n        // SAFETY: a word for each parameter, and pointers are to what `params` says.\n        #[allow(unused_unsafe)]\n        run: |words| unsafe {{ {name}({}) }} as u32,\n    }},",
                words.join(", ")
            );
        }
        text.push_str("];\n");
        Ok(text)
    }

    /// The Python module.
    fn wrappers(&self) -> Result<String> {
        let mut text = String::from(HEAD);
        for of_enum in self.enums.iter().filter(|of_enum| of_enum.name != "lacuna_status") {
            let class = class_of(&of_enum.name);
            let _ = write!(text, "\n\nclass {class}(IntEnum):\n{}\n", doc_string(&of_enum.doc, 4));
            let prefix = common_prefix(
                &of_enum.numbers.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(),
            );
            for (name, number, doc) in &of_enum.numbers {
                if !doc.is_empty() {
                    let _ = writeln!(text, "{}", comment(doc, 4));
                }
                let _ = writeln!(text, "    {} = {number}", &name[prefix.len()..]);
            }
        }
        // Parts, elements of arrays and structs that others point to.
        for name in self.parts() {
            let of_struct = self.structs.get(&name).ok_or("a part is a struct")?;
            let _ = write!(
                text,
                "\n\n@dataclass\nclass {}:\n{}\n\n",
                class_of(&name),
                doc_string(&of_struct.doc, 4)
            );
            for (field, kind, doc) in &of_struct.fields {
                if *kind == Kind::Count {
                    continue;
                }
                let _ = writeln!(text, "{}    {field}: {}", commented(doc), kind.in_python()?);
            }
        }
        for (name, doc) in &self.handles {
            if name == "lacuna_queue" || name == "lacuna_device" {
                continue;
            }
            let class = class_of(name);
            let _ = write!(text, "\n\nclass {class}(Handle):\n{}\n", doc_string(doc, 4));
            let function =
                |suffix: &str| self.functions.iter().find(|f| f.name == format!("{name}{suffix}"));
            match function("_new").filter(|new| new.is_of_shape()) {
                Some(new) => self.constructor(&mut text, new)?,
                None => text.push_str("\n    __slots__ = ()\n"),
            }
            if let Some(sizes) = function("_sizes") {
                let _ = write!(
                    text,
                    "\n    @property\n    def sizes(self) -> dict[str, Any]:\n{}\n        sizes: dict[str, Any] = call({:?}, [self, None])\n        return sizes\n",
                    doc_string(&sizes.doc, 8),
                    sizes.name
                );
            }
        }
        for function in &self.functions {
            let is_method = self.handles.keys().any(|handle| {
                function.name.strip_prefix(handle.as_str()).is_some_and(|rest| {
                    rest == "_sizes" || (rest == "_new" && function.is_of_shape())
                })
            });
            if !is_method {
                self.function(&mut text, function)?;
            }
        }
        Ok(text)
    }

    fn constructor(&self, text: &mut String, new: &Function) -> Result<()> {
        let [(_, Kind::Struct(shape)), (_, Kind::NewHandle(_))] = &new.params[..] else {
            return Err(format!("{}: a plan is made of a shape", new.name));
        };
        let fields = &self.structs[shape].fields;
        text.push_str("\n    __slots__ = ()\n\n    def __init__(\n        self,\n        *,\n");
        keyword_arguments(text, fields, 8)?;
        let _ = write!(
            text,
            "    ) -> None:\n{}\n        super().__init__(call({:?}, [{}, None]))\n",
            doc_string(&with_arguments(&new.doc, fields), 8),
            new.name,
            fields_of(fields)
        );
        Ok(())
    }

    fn function(&self, text: &mut String, function: &Function) -> Result<()> {
        let name = function.name.trim_start_matches("lacuna_");
        let _ = write!(text, "\n\ndef {name}(\n");
        let flat = function.params.iter().find_map(|(_, kind)| match kind {
            Kind::Struct(name) if name.ends_with("_args") => Some(name),
            _ => None,
        });
        let (mut values, mut results) = (Vec::new(), Vec::new());
        for (param, kind) in &function.params {
            match kind {
                Kind::Count => {
                    values.push("None".to_owned());
                    continue;
                }
                Kind::NewHandle(handle) => results.push(class_of(handle)),
                Kind::Filled(_) => results.push("dict[str, Any]".to_owned()),
                Kind::Written(of) => {
                    results.push(if *of == "f32" { "float" } else { "int" }.to_owned())
                }
                Kind::Struct(of) if Some(of) == flat => {
                    values.push(fields_of(&self.structs[of].fields));
                    continue;
                }
                _ => {
                    let _ = writeln!(
                        text,
                        "    {param}: {},",
                        kind.in_python()?.split(" = ").next().unwrap_or_default()
                    );
                    values.push(param.clone());
                    continue;
                }
            }
            values.push("None".to_owned());
        }
        if let Some(args) = flat {
            text.push_str("    *,\n");
            keyword_arguments(text, &self.structs[args].fields, 4)?;
        }
        let result = match &results[..] {
            [] => "None".to_owned(),
            [one] => one.clone(),
            several => format!("tuple[{}]", several.join(", ")),
        };
        let made = match &function.params[..] {
            params if params.iter().any(|(_, kind)| matches!(kind, Kind::NewHandle(_))) => {
                Some(result.clone())
            }
            _ => None,
        };
        let call = format!("call({:?}, [{}])", function.name, values.join(", "));
        let call = match made {
            Some(class) if results.len() == 1 => format!("return {class}({call})"),
            Some(_) => return Err(format!("{}: makes a handle and more", function.name)),
            None if results.is_empty() => call,
            None => format!("found: {result} = {call}\n    return found"),
        };
        let of_args = flat.map_or(&[][..], |args| &self.structs[args].fields);
        let doc = with_arguments(&function.doc, of_args);
        let _ = write!(text, ") -> {result}:\n{}\n    {call}\n", doc_string(&doc, 4));
        Ok(())
    }

    /// Structs that Python makes by name, what they are made of before them.
    fn parts(&self) -> Vec<String> {
        fn add(interface: &Interface, name: &str, found: &mut Vec<String>) {
            let Some(of_struct) = interface.structs.get(name) else { return };
            if OWN.contains(&name) || found.iter().any(|known| known == name) {
                return;
            }
            for (_, kind, _) in &of_struct.fields {
                if let Kind::Value(inner) | Kind::Struct(inner) | Kind::Array(inner) = kind {
                    add(interface, inner, found);
                }
            }
            found.push(name.to_owned());
        }
        let mut found = Vec::new();
        for of_struct in self.structs.values() {
            for (_, kind, _) in &of_struct.fields {
                if let Kind::Value(name) | Kind::Struct(name) | Kind::Array(name) = kind {
                    add(self, name, &mut found);
                }
            }
        }
        // What constructors and launches take is given by keywords.
        let by_name = self.functions.iter().filter(|function| !function.is_of_shape());
        for (_, kind) in by_name.flat_map(|function| &function.params) {
            match kind {
                Kind::Array(name) => add(self, name, &mut found),
                Kind::Struct(name) if !name.ends_with("_args") => add(self, name, &mut found),
                _ => {}
            }
        }
        found
    }
}

impl Function {
    /// Whether it makes a handle of a shape alone, as plans are made.
    fn is_of_shape(&self) -> bool {
        matches!(self.params[..], [(_, Kind::Struct(_)), (_, Kind::NewHandle(_))])
    }
}

/// A pointer to structs, and after it how many there are.
fn count_arrays(params: &mut [(String, Kind)]) {
    for idx in 1..params.len() {
        let counts = format!("n_{}", params[idx - 1].0);
        if let (true, Kind::U64, Kind::Struct(name)) =
            (params[idx].0 == counts, &params[idx].1, params[idx - 1].1.clone())
        {
            params[idx].1 = Kind::Count;
            params[idx - 1].1 = Kind::Array(name);
        }
    }
}

impl Kind {
    fn of_table(&self) -> String {
        match self {
            Self::Numbers(of, len) => format!("Kind::Numbers({of:?}, {len})"),
            Self::Views(len) => format!("Kind::Views({len})"),
            Self::ViewsMut(len) => format!("Kind::ViewsMut({len})"),
            Self::Value(name) => format!("Kind::Value({name:?})"),
            Self::Struct(name) => format!("Kind::Struct({name:?})"),
            Self::Array(name) => format!("Kind::Array({name:?})"),
            Self::Filled(name) => format!("Kind::Filled({name:?})"),
            Self::Handle(name) => format!("Kind::Handle({name:?})"),
            Self::NewHandle(name) => format!("Kind::NewHandle({name:?})"),
            Self::TakenHandle(name) => format!("Kind::TakenHandle({name:?})"),
            Self::Written(of) => format!("Kind::Written({of:?})"),
            simple => format!("Kind::{simple:?}"),
        }
    }

    /// A parameter's type, and its value where it is not given.
    fn in_python(&self) -> Result<String> {
        Ok(match self {
            Self::U32 | Self::U64 => "int = 0".to_owned(),
            Self::F32 => "float = 0.0".to_owned(),
            Self::Numbers(of, _) if of == "f32" => "Sequence[float] | None = None".to_owned(),
            Self::Numbers(..) => "Sequence[int] | None = None".to_owned(),
            Self::Views(_) | Self::ViewsMut(_) => {
                "Sequence[Tensor | None] | None = None".to_owned()
            }
            Self::View | Self::ViewMut => "Tensor | None = None".to_owned(),
            Self::Bytes => "Buffer | str | None = None".to_owned(),
            Self::Text => "str | None = None".to_owned(),
            Self::Struct(name) if OWN.contains(&name.as_str()) => "Tensor | None = None".to_owned(),
            Self::Value(name) | Self::Struct(name) => format!("{} | None = None", class_of(name)),
            Self::Array(name) if OWN.contains(&name.as_str()) => "Sequence[Tensor] = ()".to_owned(),
            Self::Array(name) => format!("Sequence[{}] = ()", class_of(name)),
            Self::Handle(name) | Self::TakenHandle(name) => {
                format!("{} | None = None", class_of(name))
            }
            other => return Err(format!("{other:?} is nothing that Python gives")),
        })
    }
}

fn keyword_arguments(
    text: &mut String,
    fields: &[(String, Kind, Vec<String>)],
    indent: usize,
) -> Result<()> {
    for (name, kind, _) in fields.iter().filter(|(_, kind, _)| *kind != Kind::Count) {
        let _ = writeln!(text, "{:indent$}{name}: {},", "", kind.in_python()?);
    }
    Ok(())
}

/// What is said of a call, and of each of its keyword arguments.
fn with_arguments(doc: &[String], fields: &[(String, Kind, Vec<String>)]) -> Vec<String> {
    let mut lines = doc.to_vec();
    let documented: Vec<_> = fields.iter().filter(|(.., doc)| !doc.is_empty()).collect();
    if !documented.is_empty() {
        lines.extend([String::new(), "Args:".to_owned()]);
    }
    for (name, _, doc) in documented {
        let mut rest = doc.iter();
        lines.push(format!("    {name}: {}", rest.next().map_or("", String::as_str)));
        lines.extend(rest.map(|line| format!("        {line}")));
    }
    lines
}

fn fields_of(fields: &[(String, Kind, Vec<String>)]) -> String {
    let pairs: Vec<_> = fields
        .iter()
        .filter(|(_, kind, _)| *kind != Kind::Count)
        .map(|(name, ..)| format!("\"{name}\": {name}"))
        .collect();
    format!("{{{}}}", pairs.join(", "))
}

fn is_part(name: &str) -> bool {
    matches!(name, "lacuna_kv" | "lacuna_kv_mut")
}

fn commented(doc: &[String]) -> String {
    if doc.is_empty() { String::new() } else { format!("{}\n", comment(doc, 4)) }
}

fn comment(doc: &[String], indent: usize) -> String {
    doc.iter()
        .map(|line| format!("{:indent$}# {line}", "").trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

fn doc_string(doc: &[String], indent: usize) -> String {
    let lines: Vec<_> =
        doc.iter().map(|line| format!("{:indent$}{line}", "").trim_end().to_owned()).collect();
    let text = lines.join("\n");
    let text = text.trim_start();
    if doc.len() == 1 {
        format!("{:indent$}\"\"\"{text}\"\"\"", "")
    } else {
        format!("{:indent$}\"\"\"{text}\n{:indent$}\"\"\"", "", "")
    }
}

/// `lacuna_topk_rows_plan` is `TopkRowsPlan`.
fn class_of(name: &str) -> String {
    let part = |part: &str| {
        let mut letters = part.chars();
        letters
            .next()
            .map(|first| first.to_uppercase().collect::<String>() + letters.as_str())
            .unwrap_or_default()
    };
    name.trim_start_matches("lacuna_").split('_').map(part).collect()
}

/// What all names begin with, up to an underscore.
fn common_prefix(names: &[&str]) -> String {
    let Some(first) = names.first() else { return String::new() };
    let mut len = first.len();
    for name in names {
        len = len.min(first.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count());
    }
    let mut prefix = &first[..first[..len].rfind('_').map_or(0, |end| end + 1)];
    // No name of Python's begins with a digit: a word more is part of it.
    while names.iter().any(|name| name[prefix.len()..].starts_with(|c: char| c.is_ascii_digit())) {
        prefix = prefix.trim_end_matches('_');
        prefix = &prefix[..prefix.rfind('_').map_or(0, |end| end + 1)];
    }
    prefix.to_owned()
}

fn name_of(param: &FnArg) -> Option<String> {
    match param {
        FnArg::Typed(param) => match &*param.pat {
            Pat::Ident(ident) => Some(ident.ident.to_string()),
            _ => None,
        },
        FnArg::Receiver(_) => None,
    }
}

fn path_of(of: &Type) -> Option<String> {
    match of {
        Type::Path(path) => path.path.segments.last().map(|segment| segment.ident.to_string()),
        _ => None,
    }
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn is_c(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| matches!(&attribute.meta, Meta::List(list) if list.path.is_ident("repr") && list.tokens.to_string() == "C"))
}

fn doc_of(attributes: &[Attribute]) -> Vec<String> {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("doc"))
        .filter_map(|attribute| match &attribute.meta {
            Meta::NameValue(pair) => match &pair.value {
                Expr::Lit(literal) => match &literal.lit {
                    Lit::Str(text) => {
                        Some(text.value().trim().replace("lacuna_", "").replace("`LACUNA_", "`"))
                    }
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        })
        .collect()
}

const HEAD: &str = r#""""Every call of the C interface, on tensors.

Generated by `cargo xtask generate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from ._base import Buffer, Device, Handle, Queue, Tensor, call
"#;
