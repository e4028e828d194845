//! A call laid down in memory, and its leaves: what a caller may get wrong.

use std::collections::HashMap;
use std::ops::Range;

use crate::memory::{GAP, Memory};
use crate::table::{Function, Kind, size_of_kind, struct_of};
use crate::value::{Fields, Value, View};

/// Types from here on are none: which view asks for what is learned from what is said of them.
pub(crate) const UNKNOWN: u32 = 1000;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    Argument(usize),
    Memory(u64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Part {
    HeaderSize(u32),
    HeaderVersion,
    U32,
    U64,
    F32,
    F64,
    /// How many there are: of what has headers any number may be said, as the next has none.
    Count {
        n: u64,
        may_lie: bool,
    },
    Handle(&'static str),
    /// To what has this alignment.
    Pointer(u64),
    /// A whole view.
    View,
    ViewData,
    ViewLen,
    Text(usize),
}

pub(crate) struct Leaf {
    pub(crate) place: Place,
    pub(crate) part: Part,
}

enum Written {
    Bytes(Range<u64>),
    /// The view there, of this memory.
    View(u64, Range<u64>),
}

#[derive(Default)]
pub(crate) struct Call {
    pub(crate) arguments: Vec<u64>,
    pub(crate) leaves: Vec<Leaf>,
    pub(crate) n_views: usize,
    written: Vec<Written>,
    /// Variables of handles, and of what.
    pub(crate) cells: Vec<(u64, &'static str)>,
    /// Where structs are.
    places: HashMap<String, u64>,
}

impl Call {
    /// The address of a struct, or 0.
    pub(crate) fn at(&self, path: &str) -> u64 {
        self.places.get(path).copied().unwrap_or(0)
    }

    /// What may be written if the call is well. `is_own`: its arguments are of its plan, so that no more of a view is written
    /// than was made for it.
    pub(crate) fn writable(&self, memory: &mut Memory, is_own: bool) -> Vec<Range<u64>> {
        let mut ranges = Vec::new();
        for written in &self.written {
            match written {
                Written::Bytes(range) => ranges.push(range.clone()),
                Written::View(at, slot) => {
                    let [data, len] = [0, 8].map(|offset| memory.read_u64(at + offset));
                    let size = dtype_size(memory.read_u32(at + 16)) as u64;
                    let end = data.saturating_add(len.saturating_mul(size));
                    let (start, end) = if is_own {
                        (data.max(slot.start), end.min(slot.end))
                    } else {
                        (data, end)
                    };
                    ranges.push(start..end);
                }
            }
        }
        ranges
    }
}

pub(crate) fn dtype_size(dtype: u32) -> usize {
    match dtype {
        1 | 2 | 7 => 2,
        3 | 8 | 11 => 4,
        4..=6 | 10 => 1,
        _ => 8,
    }
}

pub(crate) struct Layer<'a> {
    pub(crate) memory: &'a mut Memory,
    /// The first handle of each type.
    pub(crate) handles: &'a HashMap<&'static str, u64>,
    /// Sound structs.
    pub(crate) structs: &'a HashMap<&'static str, Fields>,
    /// Types of the views, in order, as far as they are known.
    pub(crate) dtypes: &'a [u32],
    pub(crate) call: Call,
}

impl Layer<'_> {
    pub(crate) fn lay(mut self, function: &Function, values: &Fields) -> Option<Call> {
        for name in values.names() {
            assert!(
                function.params.iter().any(|(param, _)| *param == name),
                "{}: {name}",
                function.name
            );
        }
        let mut counted = None;
        for (idx, (name, kind)) in function.params.iter().enumerate() {
            self.call.arguments.push(0);
            self.item(name, name, *kind, Place::Argument(idx), values, &mut counted)?;
        }
        Some(self.call)
    }

    fn set(&mut self, place: Place, n_bytes: usize, value: u64) {
        match place {
            Place::Argument(idx) => self.call.arguments[idx] = value,
            Place::Memory(address) => self.memory.put(address, &value.to_le_bytes()[..n_bytes]),
        }
    }

    fn leaf(&mut self, place: Place, part: Part) {
        self.call.leaves.push(Leaf { place, part });
    }

    fn fields(&mut self, path: &str, name: &str, at: u64, values: &Fields) -> Option<()> {
        let of = struct_of(name);
        for name in values.names() {
            assert!(of.fields.iter().any(|(field, ..)| *field == name), "{}: {name}", of.name);
        }
        self.call.places.insert(path.to_owned(), at);
        let mut counted = None;
        for (field, kind, offset) in of.fields {
            let at = at + *offset as u64;
            if *field == "header" {
                let size = of.size as u32;
                self.memory.put(at, &size.to_le_bytes());
                self.memory.put(at + 4, &1_u32.to_le_bytes());
                self.leaf(Place::Memory(at), Part::HeaderSize(size));
                self.leaf(Place::Memory(at + 4), Part::HeaderVersion);
                continue;
            }
            let path = format!("{path}.{field}");
            self.item(&path, field, *kind, Place::Memory(at), values, &mut counted)?;
        }
        Some(())
    }

    fn item(
        &mut self,
        path: &str,
        name: &str,
        kind: Kind,
        place: Place,
        values: &Fields,
        counted: &mut Option<(String, u64, bool)>,
    ) -> Option<()> {
        let value = values.get(name);
        let is_argument = matches!(place, Place::Argument(_));
        let number = match value {
            Some(Value::Number(number)) => *number,
            _ => 0,
        };
        match kind {
            Kind::U32 | Kind::U64 => {
                let n_bytes = size_of_kind(kind);
                // `n_views` of `views`; or of bytes, `n_bytes` of what is before.
                let count = counted.take().filter(|_| name.starts_with("n_") && kind == Kind::U64);
                if let Some((_, n, may_lie)) = count {
                    let n = if value.is_some() { number } else { n };
                    self.set(place, n_bytes, n);
                    self.leaf(place, Part::Count { n, may_lie });
                    return Some(());
                }
                self.set(place, n_bytes, number);
                self.leaf(place, if kind == Kind::U32 { Part::U32 } else { Part::U64 });
            }
            Kind::F32 | Kind::F64 => {
                let real = if let Some(Value::Real(real)) = value { *real } else { 0.0 };
                let bits =
                    if kind == Kind::F32 { (real as f32).to_bits().into() } else { real.to_bits() };
                self.set(place, size_of_kind(kind), bits);
                self.leaf(place, if kind == Kind::F32 { Part::F32 } else { Part::F64 });
            }
            Kind::Struct("lacuna_bytes") => {
                let bytes = if let Some(Value::Bytes(bytes)) = value { &bytes[..] } else { &[] };
                let at = match place {
                    Place::Memory(at) => at,
                    Place::Argument(_) => self.memory.take(16, 8)?,
                };
                if is_argument {
                    self.set(place, 8, at);
                }
                let data = self.memory.take(bytes.len(), 16)?;
                self.memory.put(data, bytes);
                self.memory.put(at, &data.to_le_bytes());
                self.memory.put(at + 8, &(bytes.len() as u64).to_le_bytes());
                self.leaf(Place::Memory(at), Part::Pointer(1));
                let n = bytes.len() as u64;
                self.leaf(Place::Memory(at + 8), Part::Count { n, may_lie: false });
            }
            Kind::Struct(of @ ("lacuna_view" | "lacuna_view_mut")) => {
                let Place::Memory(at) = place else { panic!("{path}: a view as a value") };
                let view = if let Some(Value::View(view)) = value { *view } else { View::None };
                self.view(name, at, view, of == "lacuna_view_mut")?;
            }
            Kind::Struct(of) => {
                let Place::Memory(at) = place else { panic!("{path}: a struct as a value") };
                let none = Fields::default();
                let of_struct = if let Some(Value::Struct(of)) = value { of } else { &none };
                self.fields(path, of, at, of_struct)?;
            }
            Kind::Array(of, n) => {
                let Place::Memory(at) = place else { panic!("{path}: an array as a value") };
                for idx in 0..n {
                    let at = at + (idx * size_of_kind(*of)) as u64;
                    let element = match value {
                        Some(Value::Numbers(all)) => Value::Number(all[idx]),
                        Some(Value::Views(all)) => Value::View(all[idx]),
                        _ => Value::Number(0),
                    };
                    let values = Fields::default().with(name, element);
                    self.item(path, name, *of, Place::Memory(at), &values, &mut None)?;
                }
            }
            Kind::Const(Kind::Handle(of)) | Kind::Mut(Kind::Handle(of)) => {
                let usual = self.handles.get(of).copied().unwrap_or(0);
                let handle = if let Some(Value::Handle(handle)) = value { *handle } else { usual };
                self.set(place, 8, handle);
                self.leaf(place, Part::Handle(of));
            }
            Kind::Mut(Kind::Mut(Kind::Handle(of))) => {
                let at = self.memory.take(8, 8)?;
                let handle = if let Some(Value::Handle(handle)) = value { *handle } else { 0 };
                self.memory.put(at, &handle.to_le_bytes());
                self.call.cells.push((at, of));
                self.pointer(place, 8, at, at..at + 8);
            }
            Kind::Mut(Kind::Struct(of)) => {
                let of = struct_of(of);
                let at = self.memory.take(of.size, 16)?;
                if of.has_header() {
                    let size = of.size as u32;
                    self.memory.put(at, &size.to_le_bytes());
                    self.memory.put(at + 4, &1_u32.to_le_bytes());
                    self.leaf(Place::Memory(at), Part::HeaderSize(size));
                    self.leaf(Place::Memory(at + 4), Part::HeaderVersion);
                }
                let first = if of.has_header() { at + 8 } else { at };
                self.pointer(place, 8, at, first..at + of.size as u64);
            }
            Kind::Const(Kind::Struct("lacuna_view")) if matches!(value, Some(Value::View(_))) => {
                let at = self.memory.take(24, 8)?;
                let Some(Value::View(view)) = value else { return None };
                self.view(name, at, *view, false)?;
                self.pointer(place, 8, at, 0..0);
            }
            Kind::Const(Kind::Struct(of @ ("lacuna_view_mut" | "lacuna_view"))) => {
                let views = if let Some(Value::Views(views)) = value { &views[..] } else { &[] };
                let at = self.memory.take(24 * views.len(), 8)?;
                for (idx, view) in views.iter().enumerate() {
                    self.view(name, at + 24 * idx as u64, *view, *of == "lacuna_view_mut")?;
                }
                self.pointer(place, 8, at, 0..0);
                *counted = Some((name.to_owned(), views.len() as u64, false));
            }
            Kind::Const(Kind::Struct(of)) => {
                let of = struct_of(of);
                let usual = self.structs.get(of.name).filter(|_| is_argument);
                let one;
                let all = match (value, usual) {
                    (Some(Value::Structs(all)), _) => &all[..],
                    (Some(Value::Struct(of)), _) | (None, Some(of)) => {
                        one = [of.clone()];
                        &one
                    }
                    _ if is_argument => {
                        one = [Fields::default()];
                        &one
                    }
                    _ => &[],
                };
                let is_list = matches!(value, Some(Value::Structs(_)));
                let at = self.memory.take(of.size * all.len(), 16)?;
                self.memory.bytes(at, of.size * all.len()).fill(0);
                for (idx, values) in all.iter().enumerate() {
                    let at = at + (idx * of.size) as u64;
                    let path = if is_list { format!("{path}[{idx}]") } else { path.to_owned() };
                    self.fields(&path, of.name, at, values)?;
                }
                self.pointer(place, 8, if all.is_empty() { 0 } else { at }, 0..0);
                *counted = Some((name.to_owned(), all.len() as u64, of.has_header()));
            }
            Kind::Const(Kind::Char) => {
                let Some(Value::Text(text)) = value else { return Some(()) };
                let at = self.text(text)?;
                self.pointer(place, 1, at, 0..0);
            }
            Kind::Const(Kind::Const(Kind::Char)) => {
                let texts = if let Some(Value::Texts(texts)) = value { &texts[..] } else { &[] };
                let at = self.memory.take(8 * texts.len(), 8)?;
                for (idx, text) in texts.iter().enumerate() {
                    let text = self.text(text)?;
                    let place = Place::Memory(at + 8 * idx as u64);
                    self.pointer(place, 1, text, 0..0);
                }
                self.pointer(place, 8, if texts.is_empty() { 0 } else { at }, 0..0);
                *counted = Some((name.to_owned(), texts.len() as u64, false));
            }
            Kind::Const(Kind::Const(Kind::Handle(of))) => {
                let handles = if let Some(Value::Handles(all)) = value { &all[..] } else { &[] };
                let at = self.memory.take(8 * handles.len(), 8)?;
                for (idx, handle) in handles.iter().enumerate() {
                    let place = Place::Memory(at + 8 * idx as u64);
                    self.set(place, 8, *handle);
                    self.leaf(place, Part::Handle(of));
                }
                self.pointer(place, 8, if handles.is_empty() { 0 } else { at }, 0..0);
                *counted = Some((name.to_owned(), handles.len() as u64, false));
            }
            Kind::Const(of @ (Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64)) => {
                let bytes = if let Some(Value::Bytes(bytes)) = value { &bytes[..] } else { &[] };
                let at = self.memory.take(bytes.len(), 16)?;
                self.memory.put(at, bytes);
                self.pointer(place, size_of_kind(*of), at, 0..0);
                *counted = Some((name.to_owned(), (bytes.len() / size_of_kind(*of)) as u64, false));
            }
            Kind::Mut(of @ (Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 | Kind::F32)) => {
                let (n, is_list) = match value {
                    Some(Value::Room(n)) => (*n, true),
                    _ => (size_of_kind(*of), false),
                };
                let at = self.memory.take(n, 16)?;
                self.pointer(place, size_of_kind(*of), at, at..at + n as u64);
                *counted =
                    is_list.then(|| (name.to_owned(), (n / size_of_kind(*of)) as u64, false));
            }
            Kind::Mut(Kind::Const(_)) => {
                let at = self.memory.take(8, 8)?;
                self.pointer(place, 8, at, at..at + 8);
            }
            Kind::Mut(Kind::Void) | Kind::Callback => {}
            kind => panic!("{path}: {kind:?}"),
        }
        Some(())
    }

    fn pointer(&mut self, place: Place, alignment: usize, to: u64, written: Range<u64>) {
        self.set(place, 8, to);
        self.leaf(place, Part::Pointer(alignment as u64));
        if !written.is_empty() {
            self.call.written.push(Written::Bytes(written));
        }
    }

    fn text(&mut self, text: &[u8]) -> Option<u64> {
        let at = self.memory.take(text.len() + 1, 1)?;
        self.memory.put(at, text);
        self.memory.put(at + text.len() as u64, &[0]);
        self.leaf(Place::Memory(at), Part::Text(text.len()));
        Some(at)
    }

    fn view(&mut self, name: &str, at: u64, view: View, is_mut: bool) -> Option<()> {
        let idx = self.call.n_views;
        self.call.n_views += 1;
        let mut parts = [0; 4];
        match view {
            View::None => {}
            View::There(of) => parts = of,
            View::Of(len) => {
                let dtype = self.dtypes.get(idx).copied().unwrap_or(UNKNOWN + idx as u32);
                let n_bytes = usize::try_from(len).ok()?.checked_mul(dtype_size(dtype))?;
                let data = self.memory.take(n_bytes, 256)?;
                fill(name, dtype, self.memory.bytes(data, n_bytes));
                parts = [data, len, dtype.into(), 0];
                if is_mut {
                    let slot = data - GAP as u64..data + (n_bytes + GAP) as u64;
                    self.call.written.push(Written::View(at, slot));
                }
            }
        }
        let [data, len, dtype, reserved] = parts;
        self.memory.put(at, &data.to_le_bytes());
        self.memory.put(at + 8, &len.to_le_bytes());
        self.memory.put(at + 16, &(dtype as u32).to_le_bytes());
        self.memory.put(at + 20, &(reserved as u32).to_le_bytes());
        self.leaf(Place::Memory(at), Part::View);
        // Of memory that the library made nothing else is ours to say, and that a workspace is zeros is the caller's word.
        if !matches!(view, View::There(_)) && name != "workspace" {
            self.leaf(Place::Memory(at), Part::ViewData);
        }
        self.leaf(Place::Memory(at + 8), Part::ViewLen);
        self.leaf(Place::Memory(at + 16), Part::U32);
        self.leaf(Place::Memory(at + 20), Part::U32);
        Some(())
    }
}

/// Numbers that a kernel has something to do with: what they are, nobody trusts.
fn fill(name: &str, dtype: u32, bytes: &mut [u8]) {
    if name == "workspace" || name == "status" || name == "referenced" {
        return bytes.fill(0);
    }
    // Of what names rows, pages and tokens, each once: what is named twice has bytes of either, of which the executor tells.
    let names_once =
        ["indices", "tokens", "table", "entries", "pairs", "_of", "rows", "positions", "pages"];
    if matches!(dtype, 8 | 11 | 9 | 12) && names_once.iter().any(|end| name.ends_with(end)) {
        let numbered = bytes.chunks_mut(dtype_size(dtype)).zip(0_u64..);
        // Pages of 4 bits, keys' and values' by turns; and those that are left, of 2.
        let entry = |n| match name {
            "key_entries" => 2 << 30 | (2 * n),
            "value_entries" => 2 << 30 | (2 * n + 1),
            "old_key_entries" | "old_value_entries" => 3 << 30 | n,
            _ => n,
        };
        return numbered.for_each(|(element, n)| {
            element.copy_from_slice(&entry(n).to_le_bytes()[..element.len()])
        });
    }
    let mut state = name.bytes().fold(0x9E37_79B9_7F4A_7C15_u64, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 16
    };
    for element in bytes.chunks_mut(dtype_size(dtype)) {
        let bits = next();
        let number = match dtype {
            1 => bits & 0x80FF | 0x3F00,
            2 => bits & 0x83FF | 0x3800,
            3 => bits & 0x807F_FFFF | 0x3F00_0000,
            8 | 11 | 9 | 12 if name == "skips" => u64::from(bits % 4 == 0),
            8 | 11 | 9 | 12 => bits % 7,
            _ => bits,
        };
        let n_bytes = element.len();
        element.copy_from_slice(&number.to_le_bytes()[..n_bytes]);
    }
}
