//! Appending, on CUDA.

use candle_core::{DType, Result, Tensor};
use lacuna::element::Half;
use lacuna::kv::{KvView, KvViewMut};
use lacuna::quant::{self, AppendOutputs, AppendPlan};
use lacuna::{Element, View};

use super::{Lent, Stream, check_aligned, stream_of, workspace};
use crate::Wrap;
use crate::kv::{CacheSource, KvCache, NewTokens, Tables, pool_span};
use crate::storage::{Number, write, write_both};

/// A cache's memory, lent.
pub(crate) struct LentCache<'a, T> {
    source: &'a CacheSource<'a>,
    keys: Lent<'a, T>,
    values: Option<Lent<'a, T>>,
    page_table: Lent<'a, i32>,
    lengths: Lent<'a, u32>,
}

impl<'a, T: Number> LentCache<'a, T> {
    pub(crate) fn new(source: &'a CacheSource<'a>, stream: &'a Stream) -> Result<Self> {
        let stream = &stream.stream;
        let values = source.values.as_ref().map(|values| values.view::<T>(stream)).transpose()?;
        let lent = Self {
            keys: source.keys.view(stream)?,
            values,
            page_table: source.tables.page_table.view(stream)?,
            lengths: source.tables.lengths.view(stream)?,
            source,
        };
        check_aligned("keys of a cache", lent.keys.view.address())?;
        if let Some(values) = &lent.values {
            check_aligned("values of a cache", values.view.address())?;
        }
        Ok(lent)
    }

    pub(crate) fn view(&self) -> KvView<'_, T> {
        KvView {
            layout: self.source.layout,
            keys: self.keys.view,
            values: self.values.as_ref().map(|values| values.view),
            page_table: self.page_table.view,
            lengths: self.lengths.view,
            key_scale: 1.0,
            value_scale: 1.0,
        }
    }
}

/// The view of what may be there.
pub(crate) fn optional<'a, T: Element>(lent: &'a Option<Lent<'a, T>>) -> Option<View<'a, T>> {
    lent.as_ref().map(|lent| lent.view)
}

pub(crate) fn append<T: Half + Number>(
    plan: &AppendPlan,
    cache: &KvCache,
    new: &NewTokens<'_>,
) -> Result<(Tensor, Tensor)> {
    let stream = stream_of(cache.keys.device())?;
    let device = cache.keys.device();
    let layout = plan.shape().layout;
    let zeros = || Tensor::zeros(cache.lengths.dims(), DType::U32, device);
    let (new_lengths, dropped) = (zeros()?, zeros()?);
    let words = workspace(plan.workspace_len(), DType::U32, device)?;
    let tables = Tables::new(cache)?;
    let raw = &stream.stream;
    let lent = (new.keys.view::<T>(raw)?, new.values.view::<T>(raw)?);
    check_aligned("new keys", lent.0.view.address())?;
    check_aligned("new values", lent.1.view.address())?;
    let cos_sin = new.cos_sin.as_ref().map(|own| own.view::<f32>(raw)).transpose()?;
    if let Some(cos_sin) = &cos_sin {
        check_aligned("cos_sin", cos_sin.view.address())?;
    }
    let (page_table, lengths) =
        (tables.page_table.view::<i32>(raw)?, tables.lengths.view::<u32>(raw)?);
    let tokens = quant::NewTokens {
        keys: lent.0.view,
        values: lent.1.view,
        counts: None,
        keeps: None,
        positions: None,
        cos_sin: optional(&cos_sin),
    };
    write_both([&cache.keys, cache.values()?], |[mut keys, mut values]| {
        write_both([&new_lengths, &dropped], |[mut new_lengths, mut dropped]| {
            write(&words, |mut words, span| {
                let all = 0..lengths.view.len();
                let (mut new_lengths, mut dropped) =
                    (new_lengths.view::<u32>(&all, raw)?, dropped.view::<u32>(&all, raw)?);
                let mut words = words.view::<u32>(&(0..span.shape().elem_count()), raw)?;
                let mut keys = keys.view::<T>(&pool_span(&cache.keys, &layout), raw)?;
                let mut values = values.view::<T>(&pool_span(cache.values()?, &layout), raw)?;
                let mut target = KvViewMut {
                    layout,
                    keys: keys.all(),
                    values: Some(values.all()),
                    page_table: page_table.view,
                    lengths: lengths.view,
                };
                let mut outputs = AppendOutputs {
                    new_lengths: new_lengths.all(),
                    dropped: Some(dropped.all()),
                    workspace: Some(words.all()),
                };
                let queue = &stream.queue;
                quant::append_kv(queue, plan, &tokens, &mut target, &mut outputs).w()
            })
        })
    })?;
    Ok((new_lengths, dropped))
}
