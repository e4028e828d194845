//! The types device memory can hold.

mod sealed {
    pub trait Sealed {}
}

/// A type that device memory can hold: any bytes are a value of it, and it has no padding. Sealed.
pub trait Element: sealed::Sealed + bytemuck::Pod + Send + Sync {
    /// The field's name of the type.
    const NAME: &'static str;
}

macro_rules! elements {
    ($($type:ty => $name:literal),* $(,)?) => {
        $(
            impl sealed::Sealed for $type {}
            impl Element for $type {
                const NAME: &'static str = $name;
            }
        )*
    };
}

elements! {
    u8 => "u8", u16 => "u16", u32 => "u32", u64 => "u64",
    i8 => "i8", i32 => "i32", i64 => "i64",
    f32 => "f32", half::f16 => "f16", half::bf16 => "bf16",
}
