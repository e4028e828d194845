//! What `src/capi` declares.

use syn::{Attribute, Expr, Fields, FnArg, Item, Lit, Meta, Pat, ReturnType, Type, Visibility};

use super::{Enum, Field, Function, Interface, Kind, OWN, Struct};
use crate::Result;

/// What begins so is done by `Queue` and `Device` of the package.
const BY_HAND: [&str; 2] = ["lacuna_queue_", "lacuna_device_"];

impl Interface {
    pub(super) fn read_type(&mut self, item: &Item) -> Result<()> {
        match item {
            Item::Struct(item) if is_public(&item.vis) => {
                let (name, doc) = (item.ident.to_string(), doc_of(&item.attrs));
                if !name.starts_with("lacuna_") {
                    return Ok(());
                }
                if is_c(&item.attrs) {
                    self.structs
                        .insert(name, Struct { doc, has_header: false, fields: Vec::new() });
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
    pub(super) fn read_fields(&self, item: &Item) -> Option<(String, Option<Struct>)> {
        let Item::Struct(item) = item else { return None };
        let name = item.ident.to_string();
        let Fields::Named(named) = &item.fields else { return None };
        if !self.structs.contains_key(&name) || OWN.contains(&name.as_str()) {
            return None;
        }
        let mut fields: Vec<Field> = Vec::new();
        let mut has_header = false;
        for field in &named.named {
            let field_name = field.ident.as_ref().map(ToString::to_string).unwrap_or_default();
            has_header |= field_name == "header";
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
        Some((name, Some(Struct { doc: doc_of(&item.attrs), has_header, fields })))
    }

    pub(super) fn read_function(&mut self, item: &Item) -> Result<()> {
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
                return self.handles.contains_key(&name).then_some(match is_mut {
                    true => Kind::NewHandle(name),
                    false => Kind::Handles(name),
                });
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
        let is_number = |(_, kind, _): &Field| {
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
}

/// A pointer to structs or handles, and after it how many there are.
fn count_arrays(params: &mut [(String, Kind)]) {
    for idx in 1..params.len() {
        let counts = format!("n_{}", params[idx - 1].0);
        if params[idx].0 != counts || params[idx].1 != Kind::U64 {
            continue;
        }
        match params[idx - 1].1.clone() {
            Kind::Struct(name) => params[idx - 1].1 = Kind::Array(name),
            Kind::Handles(_) => {}
            _ => continue,
        }
        params[idx].1 = Kind::Count;
    }
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
