//! What a sound call has, by the names of parameters and fields.

/// A struct's fields, or a call's parameters; what is not named is zeros.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields(Vec<(String, Value)>);

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Number(u64),
    Real(f64),
    /// A struct: where a pointer is, it points to it.
    Struct(Fields),
    Structs(Vec<Fields>),
    Numbers(Vec<u64>),
    View(View),
    Views(Vec<View>),
    /// One of the handles that the bench has.
    Handle(u64),
    Handles(Vec<u64>),
    /// Memory of the host.
    Bytes(Vec<u8>),
    /// So many bytes for what a function writes.
    Room(usize),
    Text(Vec<u8>),
    Texts(Vec<Vec<u8>>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum View {
    None,
    Of(u64),
    /// Memory that the library made, with its mark: address, length, type and mark.
    There([u64; 4]),
}

impl Fields {
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.retain(|(other, _)| other != name);
        self.0.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }
}

macro_rules! from {
    ($($type:ty => |$value:ident| $of:expr),* $(,)?) => {
        $(
            impl From<$type> for Value {
                fn from($value: $type) -> Self {
                    $of
                }
            }
        )*
    };
}

from! {
    i32 => |value| Self::Number(value as u64),
    u64 => |value| Self::Number(value),
    f64 => |value| Self::Real(value),
    Fields => |value| Self::Struct(value),
    Vec<Fields> => |value| Self::Structs(value),
    [u64; 4] => |value| Self::Numbers(value.to_vec()),
    View => |value| Self::View(value),
    Vec<u8> => |value| Self::Bytes(value),
}

/// `fields! { n_rows: 4, kv: kv() }`.
macro_rules! fields {
    ($($name:ident: $value:expr),* $(,)?) => {
        $crate::value::Fields::default()$(.with(stringify!($name), $value))*
    };
}
pub(crate) use fields;
