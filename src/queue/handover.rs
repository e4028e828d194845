//! Memory that goes from one queue to another: for good, or while a closure runs.
#![allow(unsafe_code)]

use crate::buffer::{Buffer, Memory, Origin, Storage, View, ViewMut};
use crate::element::Element;
use crate::kv::{KvView, KvViewMut};
use crate::queue::{Inner, Queue};
use crate::{Error, Result};

impl Queue {
    /// What is queued here from now on begins after what is queued on `other` now has ended. The host does not wait,
    /// and `other` may be of another device. In the SIMT executor, what was queued has ended.
    ///
    /// # Stream
    /// An event is recorded on `other`, which this stream waits for; between clones of one queue, nothing is. Inside a
    /// capture these are the fork and the join of CUDA's documentation: waiting for a stream that is being captured
    /// takes this one into the capture, and the first must wait for it again before that ends. A stream that is being
    /// captured cannot wait for one that is not, or is in another capture: the driver's errors are
    /// `CUDA_ERROR_STREAM_CAPTURE_ISOLATION` and `_MERGE`, and its captures are void then.
    ///
    /// # Errors
    /// [`Error::WrongQueue`] between CUDA and the SIMT executor; [`Error::Driver`].
    pub fn wait_for(&self, other: &Self) -> Result<()> {
        match (&self.inner, &other.inner) {
            #[cfg(feature = "cuda")]
            (Inner::Cuda(stream), Inner::Cuda(other)) => stream.wait_for(other),
            #[cfg(feature = "simt")]
            (Inner::Simt(_), Inner::Simt(_)) => Ok(()),
            #[cfg(all(feature = "cuda", feature = "simt"))]
            _ => Err(wrong("work to wait for", self.memory(), other.memory())),
        }
    }

    /// From now on this queue orders a buffer's uses, and its end, in place of the queue that did. Device memory stays
    /// on its device; pinned memory, which is pinned for all devices, may go to another's queue.
    ///
    /// # Stream
    /// This queue [waits for](Self::wait_for) the one before. Neither may be in a capture, whose order ends with it.
    ///
    /// # Errors
    /// [`Error::WrongQueue`] where this queue's kernels cannot reach the memory; [`Error::Driver`]. The buffer then is what
    /// it was, and its queue too.
    pub fn adopt<T: Element>(&self, buffer: &mut Buffer<T>) -> Result<()> {
        #[cfg(feature = "cuda")]
        let found = buffer.memory();
        match (&self.inner, buffer.storage_mut()) {
            #[cfg(feature = "simt")]
            (Inner::Simt(_), Storage::Host(_)) => Ok(()),
            #[cfg(feature = "cuda")]
            (Inner::Cuda(stream), Storage::Cuda(memory)) if self.memory() == found => {
                memory.adopt(stream)
            }
            #[cfg(feature = "cuda")]
            (Inner::Cuda(stream), Storage::Pinned(memory)) => memory.adopt(stream),
            #[cfg(feature = "cuda")]
            _ => Err(wrong("buffer to adopt", self.memory(), found)),
        }
    }

    /// Lends views of this queue's memory to another queue while `work` runs, which queues its work there: beside
    /// this queue's, which may read what is lent for reading too.
    ///
    /// `views` are [`View`]s, [`ViewMut`]s, caches and tuples of them: what [`Lend`] is for. The other queue's work with
    /// them comes after what is queued here now, and what is queued here after `work` comes after that, whether `work` returns
    /// a result, an error or panics.
    ///
    /// ```
    /// use lacuna::Queue;
    ///
    /// let config = lacuna::simt::Config::default();
    /// let (queue, copies) = (Queue::simt(config.clone()), Queue::simt(config));
    /// let (numbers, mut zeros) = (queue.upload(&[1_u32, 2])?, queue.upload(&[3_u32, 4])?);
    /// let found = queue.lend(&copies, (numbers.view(), zeros.view_mut()), |(numbers, mut zeros)| {
    ///     copies.fill_zero(&mut zeros)?;
    ///     copies.download(&numbers)
    /// })?;
    /// assert_eq!(found, [1, 2]);
    /// assert_eq!(queue.download(&zeros.view())?, [0, 0]);
    /// # Ok::<_, lacuna::Error>(())
    /// ```
    ///
    /// It takes a closure and gives no guard, since a guard can be forgotten (`std::mem::forget` is safe), and its buffer
    /// then be written or freed while the other queue still reads. And no view leaves the closure:
    ///
    /// ```compile_fail
    /// use lacuna::Queue;
    ///
    /// let queue = Queue::simt(lacuna::simt::Config::default());
    /// let numbers = queue.upload(&[1_u32, 2])?;
    /// let view = queue.lend(&queue, numbers.view(), |view| Ok(view))?;
    /// # Ok::<_, lacuna::Error>(())
    /// ```
    ///
    /// # Stream
    /// `to` [waits for](Self::wait_for) this queue, and afterwards this queue for `to`; in a capture, a fork and a join. Where
    /// the driver refuses the second, the host waits for `to`; where it refuses that too, as in a context that is broken, memory of this queue's is
    /// not freed, nor lent to the host, before `to` was waited for.
    ///
    /// # Errors
    /// Before `work` runs: [`Error::WrongQueue`] and [`Error::WrongStream`] where a view is not in this queue's order, or out
    /// of the other's reach (device memory goes to queues of its device alone, pinned memory to any CUDA device's); [`Error::Driver`]. Then those of
    /// `work`; and [`Error::Driver`] where the work of `to` could be neither ordered nor waited for.
    pub fn lend<L: Lend, R>(
        &self,
        to: &Self,
        views: L,
        work: impl for<'v> FnOnce(L::Lent<'v>) -> Result<R>,
    ) -> Result<R> {
        // SAFETY: what is lent does not leave `work`, which takes it for any lifetime, and `views` is borrowed for as
        // long as this call takes; the queues are ordered before and after `work`.
        let lent = unsafe { views.lend(Terms { from: self, to }) }?;
        to.wait_for(self)?;
        let loan = Loan { from: self, to };
        let result = work(lent);
        let ended = loan.end();
        std::mem::forget(loan);
        let value = result?;
        ended?;
        Ok(value)
    }
}

fn wrong(what: &'static str, expected: Memory, found: Memory) -> Error {
    Error::WrongQueue { what, expected, found }
}

/// What is out until it is dropped.
struct Loan<'q> {
    from: &'q Queue,
    to: &'q Queue,
}

impl Loan<'_> {
    fn end(&self) -> Result<()> {
        let Err(error) = self.from.wait_for(self.to) else { return Ok(()) };
        if self.to.synchronize().is_ok() {
            return Ok(());
        }
        match (&self.from.inner, &self.to.inner) {
            #[cfg(feature = "cuda")]
            (Inner::Cuda(from), Inner::Cuda(to)) => from.remember(to),
            #[cfg(feature = "simt")]
            _ => {}
        }
        Err(error)
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        // A panic is on its way, which says more.
        let _ = self.end();
    }
}

/// From whom, and to whom.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'q> {
    from: &'q Queue,
    to: &'q Queue,
}

impl Terms<'_> {
    fn origin(self, found: Origin) -> Result<Origin> {
        let what = "memory to lend";
        self.from.check_origin(what, found)?;
        let to = self.to.origin();
        let is_in_reach = found.memory == to.memory || (found.is_pinned && to.memory.is_cuda());
        if !is_in_reach {
            return Err(wrong(what, to.memory, found.memory));
        }
        Ok(Origin { is_pinned: found.is_pinned, ..to })
    }
}

mod sealed {
    /// Whoever could lend by another way could let views out of the closure.
    pub trait Sealed {}
}

/// What [`Queue::lend`] lends: [`View`], [`ViewMut`], [`KvView`] and [`KvViewMut`], and lists, options and tuples of up to
/// eight of what it lends.
pub trait Lend: sealed::Sealed {
    /// The same for the other queue.
    type Lent<'v>;

    /// # Errors
    /// [`Error::WrongQueue`] and [`Error::WrongStream`].
    ///
    /// # Safety
    /// `'v` ends before any lifetime of `Self` does. The other queue's work with it comes after what is queued on its
    /// own, and before what is done with it after `'v`.
    #[doc(hidden)]
    unsafe fn lend<'v>(self, terms: Terms<'_>) -> Result<Self::Lent<'v>>;
}

macro_rules! lend_view {
    ($view:ident) => {
        impl<T> sealed::Sealed for $view<'_, T> {}

        impl<T: Element> Lend for $view<'_, T> {
            type Lent<'v> = $view<'v, T>;

            unsafe fn lend<'v>(self, terms: Terms<'_>) -> Result<$view<'v, T>> {
                let origin = terms.origin(self.origin())?;
                // SAFETY: passed on to the caller.
                Ok(unsafe { $view::lend(self, origin) })
            }
        }
    };
}

lend_view!(View);
lend_view!(ViewMut);

impl<T> sealed::Sealed for KvView<'_, T> {}

impl<T: Element> Lend for KvView<'_, T> {
    type Lent<'v> = KvView<'v, T>;

    unsafe fn lend<'v>(self, terms: Terms<'_>) -> Result<KvView<'v, T>> {
        let views = (self.keys, self.values, self.page_table, self.lengths);
        // SAFETY: passed on to the caller.
        let (keys, values, page_table, lengths) = unsafe { Lend::lend(views, terms) }?;
        Ok(KvView {
            layout: self.layout,
            keys,
            values,
            page_table,
            lengths,
            key_scale: self.key_scale,
            value_scale: self.value_scale,
        })
    }
}

impl<T> sealed::Sealed for KvViewMut<'_, T> {}

impl<T: Element> Lend for KvViewMut<'_, T> {
    type Lent<'v> = KvViewMut<'v, T>;

    unsafe fn lend<'v>(self, terms: Terms<'_>) -> Result<KvViewMut<'v, T>> {
        let views = (self.keys, self.values, self.page_table, self.lengths);
        // SAFETY: passed on to the caller.
        let (keys, values, page_table, lengths) = unsafe { Lend::lend(views, terms) }?;
        Ok(KvViewMut { layout: self.layout, keys, values, page_table, lengths })
    }
}

impl<L: Lend> sealed::Sealed for Option<L> {}

impl<L: Lend> Lend for Option<L> {
    type Lent<'v> = Option<L::Lent<'v>>;

    unsafe fn lend<'v>(self, terms: Terms<'_>) -> Result<Self::Lent<'v>> {
        // SAFETY: passed on to the caller.
        self.map(|one| unsafe { Lend::lend(one, terms) }).transpose()
    }
}

impl<L: Lend> sealed::Sealed for Vec<L> {}

impl<L: Lend> Lend for Vec<L> {
    type Lent<'v> = Vec<L::Lent<'v>>;

    unsafe fn lend<'v>(self, terms: Terms<'_>) -> Result<Self::Lent<'v>> {
        // SAFETY: passed on to the caller.
        self.into_iter().map(|one| unsafe { Lend::lend(one, terms) }).collect()
    }
}

macro_rules! lend_tuple {
    ($($name:ident)+) => {
        impl<$($name: Lend),+> sealed::Sealed for ($($name,)+) {}

        impl<$($name: Lend),+> Lend for ($($name,)+) {
            type Lent<'v> = ($($name::Lent<'v>,)+);

            #[allow(non_snake_case, reason = "a value has its type's letter")]
            unsafe fn lend<'v>(self, terms: Terms<'_>) -> Result<Self::Lent<'v>> {
                let ($($name,)+) = self;
                // SAFETY: passed on to the caller.
                Ok(unsafe { ($(Lend::lend($name, terms)?,)+) })
            }
        }
    };
}

lend_tuple!(A B);
lend_tuple!(A B C);
lend_tuple!(A B C D);
lend_tuple!(A B C D E);
lend_tuple!(A B C D E F);
lend_tuple!(A B C D E F G);
lend_tuple!(A B C D E F G H);
