//! How `table.rs` is written: structs by their fields, handles by what ends them, functions by their parameters.

macro_rules! structs {
    (@has_header) => { false };
    (@has_header header) => { true };
    ($($name:ident$(($header:ident))? { $($field:ident: $kind:ident$(($($of:tt)*))?,)* })*) => {
        pub(crate) static STRUCTS: &[Struct] = &[$(
            Struct {
                name: stringify!($name),
                n_bytes: size_of::<$name>(),
                has_header: structs!(@has_header $($header)?),
                fields: &[$(
                    Field {
                        name: stringify!($field),
                        offset: std::mem::offset_of!($name, $field),
                        kind: Kind::$kind$(($($of)*))?,
                    },
                )*],
            },
        )*];
    };
}

macro_rules! handles {
    ($($name:ident: $free:ident,)*) => {
        pub(crate) static HANDLES: &[Handle] = &[$(
            Handle {
                name: stringify!($name),
                // SAFETY: the handle is of this type, and ends here.
                free: |handle| unsafe { $free(handle.cast()) },
            },
        )*];
    };
}

macro_rules! functions {
    (@word U64 $word:expr) => { $word };
    (@word Count $word:expr) => { $word };
    (@word U32 $word:expr) => { $word as u32 };
    (@word F32 $word:expr) => { f32::from_bits($word as u32) };
    (@word $kind:ident $word:expr) => { $word as *mut _ };
    ($($(#[$when:meta])? $name:ident($($param:ident: $kind:ident$(($($of:tt)*))?),*);)*) => {
        pub(crate) static FUNCTIONS: &[Function] = &[$(
            $(#[$when])?
            Function {
                name: stringify!($name),
                params: &[$(
                    Param { name: stringify!($param), kind: Kind::$kind$(($($of)*))? },
                )*],
                #[allow(unused_unsafe, reason = "a few functions are safe")]
                run: |words| {
                    let mut words = words.iter().copied();
                    // SAFETY: a word for each parameter, and pointers are to what `params` says.
                    unsafe { $name($(functions!(@word $kind words.next().unwrap_or(0))),*) as u32 }
                },
            },
        )*];
    };
}
