//! What a C program has: handles, structs of zeros, views of its own memory, a status and a message.

use std::ffi::CStr;
use std::ptr::null;

use lacuna::buffer::{View, ViewMut};
use lacuna::capi::*;
use lacuna::kv::{KvLayout, KvShape, KvView, KvViewMut};
use lacuna::simt::Config;
use lacuna::{Element, Queue};

/// What a function answers that does not do what it is for.
pub(crate) type Refused = (lacuna_status, String);

pub(crate) fn answer(status: lacuna_status) -> Result<(), Refused> {
    if status == lacuna_status::LACUNA_OK {
        return Ok(());
    }
    // SAFETY: a string of this thread's, which nothing replaces meanwhile.
    let message = unsafe { CStr::from_ptr(lacuna_error_message()) };
    Err((status, message.to_str().unwrap().to_owned()))
}

/// A handle, and what ends it.
#[derive(Debug)]
pub(crate) struct Handle<T> {
    pub(crate) address: *mut T,
    free: unsafe extern "C" fn(*mut T),
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        // SAFETY: a handle of the library's, which is not used again.
        unsafe { (self.free)(self.address) }
    }
}

pub(crate) type New<S, T> = unsafe extern "C" fn(*const S, *mut *mut T) -> lacuna_status;
pub(crate) type Sizes<T, S> = unsafe extern "C" fn(*const T, *mut S) -> lacuna_status;
pub(crate) type Launch<T, A> =
    unsafe extern "C" fn(*const lacuna_queue, *const T, *const A) -> lacuna_status;

/// What `make` gives a variable.
pub(crate) fn made<T>(
    free: unsafe extern "C" fn(*mut T),
    make: impl FnOnce(*mut *mut T) -> lacuna_status,
) -> Result<Handle<T>, Refused> {
    let mut address = std::ptr::null_mut();
    let result = answer(make(&raw mut address));
    assert_eq!(address.is_null(), result.is_err(), "a handle where it was made, and only there");
    result.map(|()| Handle { address, free })
}

pub(crate) fn plan<S, T>(
    new: New<S, T>,
    free: unsafe extern "C" fn(*mut T),
    shape: &S,
) -> Result<Handle<T>, Refused> {
    // SAFETY: a struct and a variable of this program's.
    made(free, |address| unsafe { new(shape, address) })
}

/// The executor with all of its checks.
pub(crate) fn queue() -> Handle<lacuna_queue> {
    // SAFETY: a variable of this program's.
    made(lacuna_queue_free, |address| unsafe { lacuna_queue_simt(address) }).unwrap()
}

/// The same for Rust.
pub(crate) fn rust_queue() -> Queue {
    Queue::simt(Config::default())
}

pub(crate) fn sizes<T, S: Struct>(of: Sizes<T, S>, plan: &Handle<T>) -> S {
    let mut sizes = S::zeroed();
    // SAFETY: a handle of the library's and a struct of this program's.
    answer(unsafe { of(plan.address, &raw mut sizes) }).unwrap();
    sizes
}

pub(crate) fn launch<T, A>(
    launch: Launch<T, A>,
    queue: &Handle<lacuna_queue>,
    plan: &Handle<T>,
    args: &A,
) -> Result<(), Refused> {
    // SAFETY: handles of the library's, a struct and memory of this program's.
    answer(unsafe { launch(queue.address, plan.address, args) })
}

/// A struct that begins with a header.
pub(crate) trait Struct: Copy {
    /// As `{LACUNA_HEADER(type)}` makes it: a header, and zeros.
    fn zeroed() -> Self {
        // SAFETY: of the interface's structs, zeros are a value.
        let mut value = unsafe { std::mem::zeroed::<Self>() };
        *header_of(&mut value) =
            lacuna_header { size: size_of::<Self>() as u32, version: LACUNA_ABI_VERSION };
        value
    }
}

fn header_of<S>(value: &mut S) -> &mut lacuna_header {
    // SAFETY: a struct that begins with a header.
    unsafe { &mut *std::ptr::from_mut(value).cast() }
}

macro_rules! structs {
    ($($name:ident),* $(,)?) => { $(impl $crate::c::Struct for $name {})* };
}
pub(crate) use structs;

structs! { lacuna_kv_shape, lacuna_kv_sizes }

fn number<T: Element>() -> u32 {
    use lacuna_dtype::*;
    let dtype = match T::NAME {
        "bf16" => LACUNA_BF16,
        "f16" => LACUNA_F16,
        "f32" => LACUNA_F32,
        "e4m3" => LACUNA_E4M3,
        "e5m2" => LACUNA_E5M2,
        "u8" => LACUNA_U8,
        "u16" => LACUNA_U16,
        "u32" => LACUNA_U32,
        "u64" => LACUNA_U64,
        "i8" => LACUNA_I8,
        "i32" => LACUNA_I32,
        "i64" => LACUNA_I64,
        name => panic!("{name} has no number"),
    };
    dtype as u32
}

pub(crate) fn view<T: Element>(memory: &[T]) -> lacuna_view {
    let data = memory.as_ptr().cast();
    lacuna_view { data, len: memory.len() as u64, dtype: number::<T>(), reserved: 0 }
}

pub(crate) fn view_mut<T: Element>(memory: &mut [T]) -> lacuna_view_mut {
    let (data, len) = (memory.as_mut_ptr().cast(), memory.len() as u64);
    lacuna_view_mut { data, len, dtype: number::<T>(), reserved: 0 }
}

/// The same memory for Rust.
pub(crate) fn read<'a, T: Element>(queue: &Queue, memory: &'a [T]) -> View<'a, T> {
    let address = memory.as_ptr().expose_provenance() as u64;
    // SAFETY: borrowed for as long, in the executor's memory.
    unsafe { View::from_raw(address, memory.len(), queue.memory()) }
}

pub(crate) fn written<'a, T: Element>(queue: &Queue, memory: &'a mut [T]) -> ViewMut<'a, T> {
    let address = memory.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: as above.
    unsafe { ViewMut::from_raw(address, memory.len(), queue.memory()) }
}

/// What bits there are: zeros of two signs differ, and NaN is what it is.
pub(crate) fn bits<T: Element>(memory: &[T]) -> &[u8] {
    bytemuck::cast_slice(memory)
}

/// Memory from a multiple of 16 bytes on, as allocators of devices give it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Aligned<T> {
    words: Vec<u128>,
    len: usize,
    of: std::marker::PhantomData<T>,
}

impl<T: Element> Aligned<T> {
    pub(crate) fn new(elements: impl IntoIterator<Item = T>) -> Self {
        let elements: Vec<T> = elements.into_iter().collect();
        let len = elements.len();
        let words = vec![0; size_of_val(&elements[..]).div_ceil(16).max(1)];
        let mut memory = Self { words, len, of: std::marker::PhantomData };
        memory.copy_from_slice(&elements);
        memory
    }

    pub(crate) fn zeros(len: u64) -> Self {
        Self::new(std::iter::repeat_n(T::zeroed(), len as usize))
    }
}

impl<T: Element> std::ops::Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }
}

impl<T: Element> std::ops::DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
    }
}

/// What a launch says of nothing, of structs of another interface, and of none at all; the caller looks that outputs stayed
/// what they were.
pub(crate) fn check_refusals<T, A: Struct>(
    of: Launch<T, A>,
    queue: &Handle<lacuna_queue>,
    plan: &Handle<T>,
    args: &A,
) {
    let refused = |status, message: &str| Err((status, message.to_owned()));
    let name = std::any::type_name::<A>().rsplit("::").next().unwrap();
    let (null_status, abi) = (lacuna_status::LACUNA_NULL, lacuna_status::LACUNA_ABI);
    // SAFETY: null, or handles of the library's and structs of this program's.
    unsafe {
        let answers = [
            (answer(of(null(), plan.address, args)), "queue"),
            (answer(of(queue.address, null(), args)), "plan"),
            (answer(of(queue.address, plan.address, null())), name),
        ];
        for (found, what) in answers {
            assert_eq!(found, refused(null_status, &format!("{what} is a null pointer")));
        }
    }
    let mut other = *args;
    header_of(&mut other).size -= 8;
    let (size, n_bytes) = (size_of::<A>() - 8, size_of::<A>());
    let hint = format!("begin the struct with LACUNA_HEADER({name})");
    let message = format!("{name}: header.size is {size}, and it has {n_bytes} bytes; {hint}");
    assert_eq!(launch(of, queue, plan, &other), refused(abi, &message));
    let mut other = *args;
    header_of(&mut other).version = 2;
    let message = format!(
        "{name}: header.version is 2, and this library knows 1 to 1; {hint}, or link the library that the header is of"
    );
    assert_eq!(launch(of, queue, plan, &other), refused(abi, &message));
    check_wrong_views(args, |args| launch(of, queue, plan, args));
}

/// Where a struct of arguments has a view, in words of 8 bytes: a pointer, a length, and a type with a zero above it.
fn views_in<A: Struct>(args: &A) -> Vec<(usize, lacuna_view_mut)> {
    let words = words_of(args);
    // Two scales side by side are no address of a program's.
    let is_address = |word: u64| (1 << 16..1 << 48).contains(&word);
    let is_view = |words: &[u64]| {
        is_address(words[0]) && (1..1 << 24).contains(&words[1]) && (1..=12).contains(&words[2])
    };
    let starts = (1..words.len() - 2).filter(|start| is_view(&words[*start..]));
    starts
        .map(|start| {
            let data = std::ptr::with_exposed_provenance_mut(words[start] as usize);
            let dtype = words[start + 2] as u32;
            (start, lacuna_view_mut { data, len: words[start + 1], dtype, reserved: 0 })
        })
        .collect()
}

fn words_of<A: Struct>(args: &A) -> Vec<u64> {
    assert!(size_of::<A>().is_multiple_of(8) && align_of::<A>() == 8);
    let start = std::ptr::from_ref(args).cast::<u64>();
    // SAFETY: a struct of the interface's, of numbers and pointers without padding.
    (0..size_of::<A>() / 8).map(|idx| unsafe { start.add(idx).read() }).collect()
}

fn bytes_of(view: &lacuna_view_mut) -> Vec<u8> {
    use lacuna_dtype::*;
    let is = |of: &[lacuna_dtype]| of.iter().any(|dtype| *dtype as u32 == view.dtype);
    let n_bytes = match () {
        () if is(&[LACUNA_U64, LACUNA_I64]) => 8,
        () if is(&[LACUNA_F32, LACUNA_U32, LACUNA_I32]) => 4,
        () if is(&[LACUNA_BF16, LACUNA_F16, LACUNA_U16]) => 2,
        () => 1,
    };
    // SAFETY: memory of this program's, which no launch writes meanwhile.
    unsafe { std::slice::from_raw_parts(view.data.cast::<u8>(), view.len as usize * n_bytes) }
        .to_vec()
}

/// Views that a launch has no use for: of keys that are summarised the values.
const UNREAD: [(&str, usize); 1] = [("lacuna_summarize_args", 4)];

/// Workspaces and outputs of weights, which may be larger: those of the largest block serve all.
const ROOMY: [(&str, usize); 3] = [
    ("lacuna_decode_weights_args", 1),
    ("lacuna_decode_weights_args", 4),
    ("lacuna_decode_rows_args", 6),
];

/// Each view of a launch by itself wrong in each way: refused, and all memory of the call is what it was.
pub(crate) fn check_wrong_views<A: Struct>(
    args: &A,
    mut launch: impl FnMut(&A) -> Result<(), Refused>,
) {
    let name = std::any::type_name::<A>().rsplit("::").next().unwrap();
    let views = views_in(args);
    assert!(!views.is_empty(), "{name} has no view");
    let memory = || views.iter().map(|(_, view)| bytes_of(view)).collect::<Vec<_>>();
    let before = memory();
    for (start, view) in views.iter().filter(|(start, _)| !UNREAD.contains(&(name, *start))) {
        let is_bytes = bytes_of(view).len() as u64 == view.len;
        let other_dtype = if view.dtype == lacuna_dtype::LACUNA_I64 as u32 {
            lacuna_dtype::LACUNA_U32
        } else {
            lacuna_dtype::LACUNA_I64
        };
        let address = view.data.addr() as u64;
        let ways = [
            ("one element less", 1, view.len - 1),
            ("one element more", 1, view.len + 1),
            ("more than there can be", 1, u64::MAX),
            ("another type", 2, u64::from(other_dtype as u32)),
            ("no type", 2, 0),
            ("what is reserved", 2, u64::from(view.dtype) | 7 << 32),
            ("no address", 0, 0),
            ("an odd address", 0, address + 1),
        ];
        for (how, word, value) in ways {
            // Of bytes any address is right.
            let is_right = is_bytes && how == "an odd address";
            if is_right || how == "one element more" && ROOMY.contains(&(name, *start)) {
                continue;
            }
            let mut wrong = *args;
            // SAFETY: a word of the struct, which is all numbers and pointers.
            unsafe { std::ptr::from_mut(&mut wrong).cast::<u64>().add(start + word).write(value) };
            let found = launch(&wrong);
            let what = format!("{name}, word {start} ({view:?}): {how}");
            assert!(found.is_err(), "{what}: not refused");
            assert!(memory() == before, "{what}: {found:?}, and memory is not what it was");
        }
    }
}

/// As [`check_refusals`], of what makes a plan.
pub(crate) fn check_plan_refusals<S: Struct, T>(
    new: New<S, T>,
    free: unsafe extern "C" fn(*mut T),
    shape: &S,
) {
    let name = std::any::type_name::<S>().rsplit("::").next().unwrap();
    // SAFETY: null, or a struct and a variable of this program's.
    unsafe {
        let found = made(free, |address| new(null(), address)).map(drop);
        let message = format!("{name} is a null pointer");
        assert_eq!(found, Err((lacuna_status::LACUNA_NULL, message)));
        let found = answer(new(shape, std::ptr::null_mut()));
        assert_eq!(found, Err((lacuna_status::LACUNA_NULL, "plan is a null pointer".to_owned())));
    }
    let mut other = *shape;
    header_of(&mut other).size = 4;
    let (status, message) = plan(new, free, &other).map(drop).unwrap_err();
    assert_eq!(status, lacuna_status::LACUNA_ABI);
    assert!(message.starts_with(&format!("{name}: header.size is 4")), "{message}");
    // SAFETY: nothing is ended.
    unsafe { free(std::ptr::null_mut()) };
}

/// A paged cache, each request's pages in descending order; the last request's last page is none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cache<T> {
    pub(crate) shape: KvShape,
    pub(crate) keys: Aligned<T>,
    pub(crate) values: Aligned<T>,
    pub(crate) page_table: Vec<i32>,
    pub(crate) lengths: Vec<u32>,
}

impl<T: Element> Cache<T> {
    /// Two requests of two heads, three pages of four rows each, one layout of pages or the other.
    pub(crate) fn new(row_len: u64, element: impl FnMut() -> T) -> Self {
        Self::of(2, 2, row_len, 4, 3, element)
    }

    pub(crate) fn of(
        batch: u64,
        n_heads: u64,
        row_len: u64,
        page_size: u64,
        table_stride: u64,
        mut element: impl FnMut() -> T,
    ) -> Self {
        let n_pages = batch * table_stride;
        let shape = KvShape {
            batch,
            n_heads,
            row_len,
            n_pages,
            page_size,
            table_stride,
            ..KvShape::default()
        };
        let shape = shape.hnd();
        let n = KvLayout::new(shape).unwrap().pool_len() as usize;
        let mut pool = || Aligned::new((0..n).map(|_| element()).collect::<Vec<_>>());
        let (keys, values) = (pool(), pool());
        let mut page_table: Vec<i32> = (0..n_pages as i32).rev().collect();
        *page_table.last_mut().unwrap() = -1;
        let n_rows = (table_stride * page_size) as u32;
        let lengths = (0..batch as u32).map(|b| n_rows - b).collect();
        Self { shape, keys, values, page_table, lengths }
    }

    pub(crate) fn layout(&self) -> KvLayout {
        KvLayout::new(self.shape).unwrap()
    }

    pub(crate) fn c_shape(&self) -> lacuna_kv_shape {
        let KvShape { batch, n_heads, row_len, n_pages, page_size, table_stride, .. } = self.shape;
        lacuna_kv_shape {
            batch,
            n_heads,
            row_len,
            n_pages,
            page_size,
            table_stride,
            tokens_per_row: self.shape.tokens_per_row,
            dtype: number::<T>(),
            order: lacuna_kv_order::LACUNA_KV_HND as u32,
            ..lacuna_kv_shape::zeroed()
        }
    }

    pub(crate) fn c_view(&self) -> lacuna_kv {
        lacuna_kv {
            keys: view(&self.keys),
            values: view(&self.values),
            page_table: view(&self.page_table),
            lengths: view(&self.lengths),
            key_scale: 0.0,
            value_scale: 0.0,
        }
    }

    pub(crate) fn c_view_mut(&mut self) -> lacuna_kv_mut {
        lacuna_kv_mut {
            keys: view_mut(&mut self.keys),
            values: view_mut(&mut self.values),
            page_table: view(&self.page_table),
            lengths: view(&self.lengths),
        }
    }

    pub(crate) fn view(&self, queue: &Queue) -> KvView<'_, T> {
        KvView {
            layout: self.layout(),
            keys: read(queue, &self.keys),
            values: Some(read(queue, &self.values)),
            page_table: read(queue, &self.page_table),
            lengths: read(queue, &self.lengths),
            key_scale: 1.0,
            value_scale: 1.0,
        }
    }

    pub(crate) fn view_mut(&mut self, queue: &Queue) -> KvViewMut<'_, T> {
        KvViewMut {
            layout: KvLayout::new(self.shape).unwrap(),
            keys: written(queue, &mut self.keys),
            values: Some(written(queue, &mut self.values)),
            page_table: read(queue, &self.page_table),
            lengths: read(queue, &self.lengths),
        }
    }
}

#[test]
fn a_caches_sizes_are_those_of_its_layout() {
    let cache = Cache::new(16, || half::f16::ONE);
    let (shape, mut sizes) = (cache.c_shape(), lacuna_kv_sizes::zeroed());
    // SAFETY: structs of this program's.
    answer(unsafe { lacuna_kv_shape_sizes(&raw const shape, &raw mut sizes) }).unwrap();
    let found = [sizes.keys, sizes.values, sizes.page_table, sizes.lengths];
    assert_eq!(found, [6 * 2 * 4 * 16, 6 * 2 * 4 * 16, 6, 2]);

    let check = |change: fn(&mut lacuna_kv_shape), status, message: &str| {
        let (mut shape, mut sizes) = (cache.c_shape(), lacuna_kv_sizes::zeroed());
        change(&mut shape);
        // SAFETY: as above.
        let found = answer(unsafe { lacuna_kv_shape_sizes(&raw const shape, &raw mut sizes) });
        assert_eq!(found, Err((status, message.to_owned())));
        assert_eq!(sizes.keys, 0);
    };
    use lacuna_status::*;
    check(|s| s.order = 3, LACUNA_RANGE, "order of a cache: 3 is no lacuna_kv_order");
    check(|s| s.is_fused = 2, LACUNA_RANGE, "is_fused: 2 is no truth: 0 or 1");
    check(|s| s.reserved = 1, LACUNA_ABI, "reserved of lacuna_kv_shape is 1, and not 0");
    check(|s| s.page_size = 0, LACUNA_RANGE, "rows of a page: 0 is outside 1..=256");
}
