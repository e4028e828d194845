//! Pools of pages, `copy_pages` and `copy_pages_within`.

use crate::Error;
use crate::attention::{
    CopyCheck, CopyInputs, CopyOutputs, CopyPlan, PoolShape, Pools, PoolsLayout,
};
use crate::capi::abi::{
    array, borrow, check_pointer, check_reserved, free, give, lacuna_header, or, read, read_array,
    structs, truth, variable, write,
};
use crate::capi::device::lacuna_queue;
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};

/// The pages of one pool.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_pool_shape {
    pub header: lacuna_header,
    /// Bytes of a page: a multiple of 4.
    pub page_bytes: u64,
    /// Bytes from page to page, no less; a multiple of 4. 0 is those of a page.
    pub stride_bytes: u64,
}

/// Pools whose pages bear the same numbers: of each layer one where keys and values are fused, else two.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_pools_shape {
    pub header: lacuna_header,
    /// 1 to 65,535.
    pub pools: *const lacuna_pool_shape,
    pub n_pools: u64,
    /// Pages of each pool.
    pub n_pages: u64,
    /// 0: each pool is a view of its own. 1: they are in one view, of each page what all pools have of it, in their order and without
    /// gaps, which is what is sent elsewhere; the pools' strides do not matter.
    pub is_packed: u32,
    /// 0.
    pub reserved: u32,
}

/// Sizes of `lacuna_copy_pages` and `lacuna_copy_pages_within`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_copy_pages_shape {
    pub header: lacuna_header,
    /// Where pages are read.
    pub sources: *const lacuna_pools_shape,
    /// Where they are written: as many pools, of as many bytes a page; null for the same pools.
    pub targets: *const lacuna_pools_shape,
    /// Lists of pairs,
    pub n_lists: u64,
    /// and pairs of a list.
    pub n_pairs: u64,
    /// Blocks of 128 threads, at most; 0 is as many as there is work for. A copy over the bus needs few, and leaves the multiprocessors to attention
    /// that runs beside it.
    pub most_blocks: u64,
}

/// Elements of each view of `lacuna_copy_pages_args`, by the same names.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_copy_pages_sizes {
    pub header: lacuna_header,
    pub pairs: u64,
    pub counts: u64,
    pub expected: u64,
    pub checksums: u64,
    pub status: u64,
    pub workspace: u64,
}

/// What `lacuna_copy_pages` and `lacuna_copy_pages_within` read, write and check besides pages.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_copy_pages_args {
    pub header: lacuna_header,
    /// i32 `[n_lists, n_pairs, 2]`: the number of the page that is read, then of the one that is written. A pair with a number of no page,
    /// -1 above all, is passed over.
    pub pairs: lacuna_view,
    /// Optional, u32 `[n_lists]`: how many of each list's pairs count; else all.
    pub counts: lacuna_view,
    /// Optional, together with `status`, u64 `[n_lists, n_pairs]`: what the sender's launch wrote as `checksums`. Pages are written all the same.
    pub expected: lacuna_view,
    /// Optional, u64 `[n_lists, n_pairs]`: the sum of each page as it was read; 0 of pairs that are passed over.
    pub checksums: lacuna_view_mut,
    /// u64 `[1]`: raised where a page differs from what is expected, which `lacuna_copy_pages_check_status` tells; never cleared.
    pub status: lacuna_view_mut,
    /// u64, where sums are asked for: zeros before the first launch.
    pub workspace: lacuna_view_mut,
}

structs! {
    lacuna_pool_shape: 24,
    lacuna_pools_shape: 40,
    lacuna_copy_pages_shape: 48,
    lacuna_copy_pages_sizes: 56,
    lacuna_copy_pages_args: 152,
}

/// Pools of pages, and a table of their addresses in device memory. Used by one call at a time.
pub struct lacuna_pools(Pools<'static, u8>);

/// A plan of `lacuna_copy_pages` and `lacuna_copy_pages_within`: for any device, and any number of launches at once, each with a workspace
/// of its own.
pub struct lacuna_copy_pages_plan(CopyPlan);

impl lacuna_pools_shape {
    /// # Safety
    /// The caller's structs.
    unsafe fn layout(&self) -> Outcome<PoolsLayout> {
        check_reserved("lacuna_pools_shape", self.reserved)?;
        // SAFETY: the caller's structs.
        let pools = unsafe { read_array(self.pools, self.n_pools) }?;
        let pool = |pool: lacuna_pool_shape| PoolShape {
            page_len: pool.page_bytes,
            page_stride: or(pool.stride_bytes, pool.page_bytes),
        };
        let layout = PoolsLayout::new(self.n_pages, 1, pools.into_iter().map(pool).collect())?;
        if truth("is_packed", self.is_packed)? {
            return Ok(layout.packed(self.n_pages)?);
        }
        Ok(layout)
    }
}

impl lacuna_copy_pages_plan {
    /// # Safety
    /// The caller's structs.
    unsafe fn new(shape: &lacuna_copy_pages_shape) -> Outcome<Self> {
        // SAFETY: the caller's structs.
        let [sources, targets] = unsafe {
            let sources = read(shape.sources)?.layout()?;
            let targets = if shape.targets.is_null() {
                sources.clone()
            } else {
                read(shape.targets)?.layout()?
            };
            [sources, targets]
        };
        let plan = CopyPlan::new(shape.n_lists, shape.n_pairs, &sources, &targets)?;
        Ok(Self(match shape.most_blocks {
            0 => plan,
            most_blocks => plan.with_blocks(most_blocks),
        }))
    }
}

impl lacuna_copy_pages_args {
    /// # Safety
    /// The memory is the caller's as the header's head says.
    unsafe fn of<'a>(&self, queue: &crate::Queue) -> Outcome<(CopyInputs<'a>, CopyOutputs<'a>)> {
        // SAFETY: the caller's word.
        unsafe {
            let inputs = CopyInputs {
                pairs: self.pairs.of("pairs", queue)?,
                counts: self.counts.optional("counts", queue)?,
            };
            let check = if self.expected.is_none() && self.status.is_none() {
                None
            } else {
                Some(CopyCheck {
                    expected: self.expected.of("expected", queue)?,
                    status: self.status.of("status", queue)?,
                })
            };
            let outputs = CopyOutputs {
                checksums: self.checksums.optional("checksums", queue)?,
                check,
                workspace: self.workspace.optional("workspace", queue)?,
            };
            Ok((inputs, outputs))
        }
    }
}

/// How many views pools are, and how many bytes each of them has: into an array of `n_lens`, as many as fit.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_pools_shape_lens(
    shape: *const lacuna_pools_shape,
    lens: *mut u64,
    n_lens: u64,
    n_views: *mut u64,
) -> lacuna_status {
    // SAFETY: the caller's structs, array and variable.
    answer(|| unsafe {
        let found = read(shape)?.layout()?.lens();
        let n_views = variable("n_views", n_views)?;
        let lens = array("lens", lens, n_lens)?;
        let n_copied = found.len().min(lens.len());
        lens[..n_copied].copy_from_slice(&found[..n_copied]);
        *n_views = found.len() as u64;
        Ok(())
    })
}

/// Uses memory as pools, without a copy, until they are freed: u8 views as `lacuna_pools_shape_lens` says, from a multiple of 4 bytes on, of
/// device memory, or of pinned host memory that the device reads and writes in place.
///
/// One allocation and one copy, for the table of addresses; not for a captured stream.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_pools_borrow(
    queue: *const lacuna_queue,
    shape: *const lacuna_pools_shape,
    views: *const lacuna_view_mut,
    n_views: u64,
    pools: *mut *mut lacuna_pools,
) -> lacuna_status {
    // SAFETY: the caller's handle, structs, memory and variable.
    answer(|| unsafe {
        give("pools", pools, || {
            let queue = &borrow("queue", queue)?.0;
            let layout = read(shape)?.layout()?;
            let expected = layout.lens().len() as u64;
            if n_views != expected {
                let what = "buffers of pools";
                return Err(Error::Shape { what, expected, got: n_views }.into());
            }
            check_pointer("views", views)?;
            let views = std::slice::from_raw_parts(views, n_views as usize);
            let views = views.iter().map(|view| view.of("pool", queue)).collect::<Outcome<_>>()?;
            Ok(lacuna_pools(Pools::borrow(queue, layout, views)?))
        })
    })
}

/// Ends pools, and frees their table after the work that was queued before; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_pools_free(pools: *mut lacuna_pools) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(pools) }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_SHAPE` where pools do not match; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_copy_pages_plan_new(
    shape: *const lacuna_copy_pages_shape,
    plan: *mut *mut lacuna_copy_pages_plan,
) -> lacuna_status {
    // SAFETY: the caller's structs and variable.
    answer(|| unsafe { give("plan", plan, || lacuna_copy_pages_plan::new(&read(shape)?)) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_copy_pages_plan_free(plan: *mut lacuna_copy_pages_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_copy_pages_plan_sizes(
    plan: *const lacuna_copy_pages_plan,
    sizes: *mut lacuna_copy_pages_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let plan = &borrow("plan", plan)?.0;
        let found = lacuna_copy_pages_sizes {
            header: lacuna_header::NONE,
            pairs: plan.pairs_len(),
            counts: plan.n_lists(),
            expected: plan.n_all_pairs(),
            checksums: plan.n_all_pairs(),
            status: 1,
            workspace: plan.workspace_len(),
        };
        write(sizes, &found)
    })
}

/// Copies pages of all pools, for each pair of page numbers: `targets[pool][pairs[i][1]] = sources[pool][pairs[i][0]]`. For migration,
/// which packs scattered pages into one buffer and unpacks them elsewhere, and for offloading to pinned memory and back what a
/// selection misses. `lacuna::attention::copy_pages` says all of it.
///
/// One launch; pairs and counts are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`; `LACUNA_RANGE` where both pools are the same handle: before anything is
/// launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_copy_pages(
    queue: *const lacuna_queue,
    plan: *const lacuna_copy_pages_plan,
    sources: *const lacuna_pools,
    targets: *mut lacuna_pools,
    args: *const lacuna_copy_pages_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory; the two pools are different ones.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        if std::ptr::eq(sources, targets) && !sources.is_null() {
            let message = "targets are the sources: call lacuna_copy_pages_within".to_owned();
            return Err(Failure::new(lacuna_status::LACUNA_RANGE, message));
        }
        let sources = &borrow("sources", sources)?.0;
        let targets = &mut variable("targets", targets)?.0;
        let (inputs, mut outputs) = args.of(queue)?;
        let plan = &plan.0;
        Ok(crate::attention::copy_pages(queue, plan, sources, targets, &inputs, &mut outputs)?)
    })
}

/// The same within pools: a sequence's pages for another that goes its own way from there. Where one pair writes what another reads, either
/// may be first.
///
/// One launch; pairs and counts are read on the device.
///
/// Errors: those of `lacuna_copy_pages`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_copy_pages_within(
    queue: *const lacuna_queue,
    plan: *const lacuna_copy_pages_plan,
    pools: *mut lacuna_pools,
    args: *const lacuna_copy_pages_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let pools = &mut variable("pools", pools)?.0;
        let (inputs, mut outputs) = args.of(queue)?;
        let plan = &plan.0;
        Ok(crate::attention::copy_pages_within(queue, plan, pools, &inputs, &mut outputs)?)
    })
}

/// What a `status` of `lacuna_copy_pages` says, which the caller has copied to the host.
///
/// Errors: `LACUNA_CORRUPT`, whose message has the first pair whose page differs.
#[unsafe(no_mangle)]
pub extern "C" fn lacuna_copy_pages_check_status(status: u64) -> lacuna_status {
    answer(|| {
        let difference = |pair| {
            let message =
                format!("pair {pair} is the first whose page has not the expected checksum");
            Err(Failure::new(lacuna_status::LACUNA_CORRUPT, message))
        };
        CopyCheck::first_difference(status).map_or(Ok(()), difference)
    })
}
