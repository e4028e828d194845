//! Tensors that are none, and pages of anything.

use half::{bf16, f16};
use lacuna::quant::import::{
    ImportedPages, Int4PerToken, Int8PerToken, KiviKeys, KiviValues, RowsShape, ZeroForm,
    ZipCacheKeys, ZipCacheValues,
};
use lacuna::quant::{Part, Tail, Tier};
use lacuna::{Error, Result};
use proptest::prelude::*;

use super::{scheme, shape};
use crate::common::Random;

const WIDE: Tail = Tail::Minimums;

#[track_caller]
fn assert_refused<T>(result: Result<T>, text: &str) {
    match result {
        Ok(_) => panic!("taken, and not: {text}"),
        Err(error) => assert_eq!(error.to_string(), text),
    }
}

#[test]
fn a_tensor_of_another_shape_is_named() {
    let mut random = Random(3);
    let shape = shape(2, 2, 64, 32);
    let (values, _) = scheme::zip_cache_values::<f16>(shape, Tier::T4, &mut random);
    let mut other = values.clone();
    other.codes.to_mut().pop();
    assert_refused(other.import(WIDE), "codes: expected 4096, got 4095");
    let mut other = values.clone();
    other.steps.to_mut().push(f16::ONE);
    assert_refused(other.import(WIDE), "steps: expected 128, got 129");
    let mut other = values.clone();
    other.minimums.to_mut().clear();
    assert_refused(other.import(WIDE), "minimums: expected 128, got 0");
    let mut other = values.clone();
    other.channel_scales.to_mut().pop();
    assert_refused(other.import(WIDE), "scales of channels: expected 64, got 63");
    let other = ZipCacheValues { tier: Tier::T16, ..values };
    assert_refused(other.import(WIDE), "bits of a code: 16 is outside 2, 4 and 8");

    let (keys, _) = scheme::zip_cache_keys::<f16>(shape, Tier::T4, &mut random);
    let mut other = keys.clone();
    other.steps.to_mut().pop();
    assert_refused(other.import(WIDE), "steps: expected 64, got 63");
    let mut other = keys;
    other.minimums.to_mut().pop();
    assert_refused(other.import(WIDE), "minimums: expected 64, got 63");

    let (keys, _) = scheme::kivi_keys::<f16>(shape, Tier::T2, 64, &mut random);
    let groups = "the multiples of 64: a page of 64 tokens has one scale of each channel";
    for group in [0, 32, 96] {
        let other = KiviKeys { group, ..keys.clone() };
        assert_refused(
            other.import(WIDE),
            &format!("tokens of a group: {group} is outside {groups}"),
        );
    }
    let none = RowsShape { n_tokens: 0, ..shape };
    let other = KiviKeys {
        shape: none,
        group: 1 << 40,
        codes: vec![].into(),
        scales: Vec::<f16>::new().into(),
        minimums: vec![].into(),
        ..keys.clone()
    };
    assert_refused(other.import(WIDE), "tokens of a group: 1099511627776 is outside 0..=2^26");
    let other = KiviKeys { group: 1 << 26, ..other };
    other.import(WIDE).unwrap().check().unwrap();
    let other = KiviKeys { group: 128, ..keys.clone() };
    assert_refused(other.import(WIDE), "tokens of a list: 64 is outside whole groups");
    let mut other = keys.clone();
    other.scales.to_mut().pop();
    assert_refused(other.import(WIDE), "scales: expected 128, got 127");
    let mut other = keys;
    other.codes.to_mut().push(0);
    assert_refused(other.import(WIDE), "codes: expected 512, got 513");

    let (values, _) = scheme::kivi_values::<f16>(shape, Tier::T8, 32, &mut random);
    for group in [0, 16, 64] {
        let other = KiviValues { group, ..values.clone() };
        let text = "is outside the multiples of 32 that divide a head's";
        assert_refused(other.import(WIDE), &format!("channels of a group: {group} {text}"));
    }
    let mut other = values;
    other.minimums.to_mut().pop();
    assert_refused(other.import(WIDE), "minimums: expected 256, got 255");

    let (rows, _) = scheme::int8::<f16>(shape, &mut random);
    let mut other = rows.clone();
    other.scales.to_mut().pop();
    assert_refused(other.import(Part::Keys, WIDE), "scales: expected 256, got 255");
    let other = Int8PerToken { shape: RowsShape { head_dim: 80, ..shape }, ..rows };
    let text = "elements of a head: 80 is outside the multiples of 32 up to 256";
    assert_refused(other.import(Part::Keys, WIDE), text);
    let (rows, _) = scheme::int4::<f16>(shape, ZeroForm::Apart, &mut random);
    let other = Int4PerToken { form: ZeroForm::Signed, ..rows.clone() };
    assert_refused(other.import(Part::Keys, WIDE), "zero points: expected 0, got 256");
    let mut other = rows.clone();
    other.zeros.to_mut().pop();
    assert_refused(other.import(Part::Keys, WIDE), "zero points: expected 256, got 255");
    let other = Int4PerToken { form: ZeroForm::InScales, ..rows };
    let text = "bytes of a scale: 2 is outside 4, whose lowest bits hold zero points";
    assert_refused(other.import(Part::Keys, WIDE), text);
}

#[test]
fn an_element_that_does_not_fit_is_named() {
    let mut random = Random(4);
    let shape = shape(1, 2, 70, 32);
    let (values, _) = scheme::zip_cache_values::<f16>(shape, Tier::T4, &mut random);
    let mut other = values.clone();
    other.steps.to_mut()[69] = f16::NAN;
    assert_refused(other.import(WIDE), "steps[69]: NaN is outside numbers");
    let mut other = values.clone();
    other.channel_scales.to_mut()[33] = f16::NAN;
    assert_refused(other.import(WIDE), "scales of channels[33]: NaN is outside numbers");
    // What is infinite is what it is.
    let mut other = values;
    other.steps.to_mut()[1] = f16::INFINITY;
    other.minimums.to_mut()[2] = f16::NEG_INFINITY;
    let pages = other.import(WIDE).unwrap();
    assert_eq!(ZipCacheValues::export(&pages).unwrap(), other);

    let of_keys = RowsShape { n_tokens: 128, ..shape };
    let (keys, _) = scheme::kivi_keys::<f16>(of_keys, Tier::T4, 64, &mut random);
    let mut other = keys.clone();
    other.scales.to_mut()[65] = f16::NAN;
    assert_refused(other.import(WIDE), "scales[65]: NaN is outside numbers");
    let mut other = keys;
    other.minimums.to_mut()[3] = f16::NAN;
    assert_refused(other.import(WIDE), "minimums[3]: NaN is outside numbers");

    let (rows, _) = scheme::int8::<f32>(shape, &mut random);
    for (scale, text) in [
        (f32::NAN, "scales[5]: NaN is outside numbers"),
        (f32::INFINITY, "scales[5]: inf is outside finite numbers"),
        (3e38, "scales[5]: -inf is outside what a minimum in f32 holds"),
    ] {
        let mut other = rows.clone();
        other.scales.to_mut()[5] = scale;
        assert_refused(other.import(Part::Values, WIDE), text);
    }
    let mut other = rows.clone();
    other.scales.to_mut()[0] = 0.1;
    let text = "scales[0]: 0.1 is outside what a step in bf16 holds";
    assert_refused(other.import(Part::Values, Tail::ZeroPoints), text);

    let (mut rows, _) = scheme::int4::<bf16>(shape, ZeroForm::Apart, &mut random);
    rows.scales.to_mut()[7] = bf16::ZERO;
    rows.zeros.to_mut()[7] = 3;
    let text = "zero points[7]: 3 is outside 0, beside a scale of 0";
    assert_refused(rows.import(Part::Values, WIDE), text);
    // 24 bits and two more.
    let (n, zeros) = (rows.scales.len(), vec![3; rows.scales.len()]);
    let rows = Int4PerToken {
        shape,
        codes: rows.codes,
        scales: vec![0.1_f32; n].into(),
        form: ZeroForm::Apart,
        zeros: zeros.into(),
    };
    let text = "zero points[0]: -0.3 is outside what a minimum in f32 holds";
    assert_refused(rows.import(Part::Values, WIDE), text);

    let (mut values, _) = scheme::kivi_values::<f16>(shape, Tier::T4, 32, &mut random);
    values.scales.to_mut().fill(f16::ONE);
    for (minimum, text) in [
        (0.3, "0.30004883 is outside what a zero point in sixteenths holds"),
        (-0.0, "-0 is outside what a zero point in sixteenths holds"),
        (4096.0, "4096 is outside what a zero point in sixteenths holds"),
    ] {
        values.minimums.to_mut().fill(f16::from_f32(minimum));
        assert_refused(values.import(Tail::ZeroPoints), &format!("minimums[0]: {text}"));
    }
    // No zero point is as far from 0 as that.
    values.scales.to_mut().fill(f16::ZERO);
    values.minimums.to_mut().fill(f16::ONE);
    let text = "minimums[0]: 1 is outside what a zero point in sixteenths holds";
    assert_refused(values.import(Tail::ZeroPoints), text);
}

/// What one scheme holds another may not.
#[test]
fn pages_of_another_scheme_do_not_come_back_as_one() {
    let mut random = Random(5);
    let shape = shape(1, 2, 64, 64);
    let (values, _) = scheme::zip_cache_values::<f16>(shape, Tier::T4, &mut random);
    let values = values.import(WIDE).unwrap();
    assert_refused(
        KiviValues::<f16>::export(&values, 64),
        "scales of channels: expected 0, got 128",
    );
    assert_refused(KiviKeys::<f16>::export(&values), &first_step(&values));
    let (keys, _) = scheme::kivi_keys::<f16>(shape, Tier::T4, 64, &mut random);
    let keys = ImportedPages { offsets: None, ..keys.import(WIDE).unwrap() };
    assert_refused(KiviKeys::<f16>::export(&keys), "minimums: expected 128, got 0");
    assert_refused(ZipCacheKeys::<f16>::export(&keys), "minimums: expected 128, got 0");
    let (tokens, _) = scheme::int8::<f32>(shape, &mut random);
    let tokens = tokens.import(Part::Keys, WIDE).unwrap();
    assert_refused(ZipCacheKeys::<f32>::export(&tokens), &first_step(&tokens));
    assert_refused(
        Int4PerToken::<f32>::export(&tokens, ZeroForm::Apart),
        "bits of a code: 8 is outside 4",
    );
    // Heads that have steps of their own are not ZipCache's.
    let bare = ImportedPages { scales: Some(vec![1.0; 128]), ..tokens.clone() };
    let error = ZipCacheValues::<f32>::export(&bare).unwrap_err();
    assert!(matches!(error, Error::Element { allowed: "what the first head has", .. }), "{error}");
    // A pool without tokens keeps nothing of its channels.
    let none = RowsShape { n_tokens: 0, ..shape };
    let (keys, _) = scheme::zip_cache_keys::<f16>(none, Tier::T4, &mut random);
    let pages = keys.import(WIDE).unwrap();
    assert!(pages.dequantize().unwrap().is_empty());
    assert_refused(ZipCacheKeys::<f16>::export(&pages), "steps: expected 128, got 0");
    // f16 does not hold what f32 did.
    let error = Int8PerToken::<f16>::export(&tokens).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Element { tensor: "scales", allowed: "what the scheme's type holds", .. }
        ),
        "{error}"
    );
    assert_refused(
        KiviValues::<f32>::export(&tokens, 96),
        "channels of a group: 64 is outside the multiples of 32 that divide a head's",
    );
    assert_refused(
        KiviValues::<f32>::export(&tokens, 192),
        "elements of a head: 192 is outside those whose groups the pages' heads are",
    );
    // Requests have the same channels, and vLLM's scales room for four bits.
    let of_two = RowsShape { batch: 2, ..shape };
    let (keys, _) = scheme::zip_cache_keys::<f16>(of_two, Tier::T4, &mut random);
    let mut keys = keys.import(WIDE).unwrap();
    keys.scales.as_mut().unwrap()[130] = 17.0;
    let text = "steps[130]: 17 is outside what the first request has";
    assert_refused(ZipCacheKeys::<f16>::export(&keys), text);
    let (mut rows, _) = scheme::int4::<bf16>(shape, ZeroForm::Apart, &mut random);
    rows.scales.to_mut().fill(bf16::from_f32(0.75));
    for (zero, scale) in [(16, 0.75), (4, 0.75 + 1.0 / 16_777_216.0)] {
        rows.zeros.to_mut().fill(zero);
        let mut pages = rows.import(Part::Keys, WIDE).unwrap();
        let (page_shape, bytes) = (pages.page_shape().unwrap(), f32::to_le_bytes(scale));
        let at = page_shape.scale_byte(Tier::T4, 0);
        pages.pool[at..at + 4].copy_from_slice(&bytes);
        let at = page_shape.zero_byte(Tier::T4, 0);
        let minimum = -scale * f32::from(zero);
        pages.pool[at..at + 4].copy_from_slice(&minimum.to_le_bytes());
        let text =
            format!("scales[0]: {scale} is outside scales with room for a zero point up to 15");
        assert_refused(Int4PerToken::<f32>::export(&pages, ZeroForm::InScales), &text);
    }
    // Zero is a code, and of signed codes the middle one.
    rows.zeros.to_mut().fill(3);
    let pages = rows.import(Part::Keys, WIDE).unwrap();
    let text = "zero points[0]: 3 is outside that of signed codes, half their number";
    assert_refused(Int4PerToken::<bf16>::export(&pages, ZeroForm::Signed), text);
    for (minimum, zero) in [(0.75, "-1"), (-0.375, "0.5"), (-192.0, "256")] {
        let mut pages = pages.clone();
        let at = pages.page_shape().unwrap().zero_byte(Tier::T4, 0);
        pages.pool[at..at + 4].copy_from_slice(&f32::to_le_bytes(minimum));
        let text = format!("zero points[0]: {zero} is outside integers from 0 to 255");
        assert_refused(Int4PerToken::<bf16>::export(&pages, ZeroForm::Apart), &text);
    }
    // A page less, and more tokens than pages.
    let short = ImportedPages { pool: tokens.pool[1..].to_vec(), ..tokens.clone() };
    assert_refused(short.dequantize(), "pool of pages: expected 9216, got 9215");
    let long = ImportedPages { rows: RowsShape { n_tokens: 65, ..shape }, ..tokens };
    assert_refused(Int8PerToken::<f32>::export(&long), "pool of pages: expected 18432, got 9216");
    assert_refused(long.entries(1 << 30), "pages of a pool: 1073741828 is outside 0..=2^30");
}

fn first_step(pages: &ImportedPages) -> String {
    let step = pages.page(0, 0, 0).0.minimum_row(0).step;
    format!("steps of tokens[0]: {step} is outside 1: the scheme has none")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_sizes_make_it_panic(
        sizes in prop::array::uniform4(prop_oneof![0..200_u64, any::<u64>()]),
        group: u64,
    ) {
        let [batch, n_heads, n_tokens, head_dim] = sizes;
        let shape = RowsShape { batch, n_heads, n_tokens, head_dim };
        let (codes, words) = (vec![0; 64], vec![0; 64]);
        let one = vec![1.0_f32; 2];
        let bytes: Vec<i8> = vec![0; 64];
        let _ = ZipCacheValues {
            shape, tier: Tier::T4, codes: codes.clone().into(), steps: one.clone().into(),
            minimums: one.clone().into(), channel_scales: one.clone().into(),
        }.import(WIDE);
        let _ = ZipCacheKeys {
            shape, tier: Tier::T4, codes: codes.clone().into(), steps: one.clone().into(),
            minimums: one.clone().into(),
        }.import(WIDE);
        let _ = KiviKeys {
            shape, tier: Tier::T4, group, codes: words.clone().into(), scales: one.clone().into(),
            minimums: one.clone().into(),
        }.import(WIDE);
        let _ = KiviValues {
            shape, tier: Tier::T4, group, codes: words.into(), scales: one.clone().into(),
            minimums: one.clone().into(),
        }.import(WIDE);
        let _ = Int8PerToken { shape, codes: bytes.into(), scales: one.clone().into() }
            .import(Part::Keys, WIDE);
        let (form, zeros) = (ZeroForm::Signed, vec![].into());
        let _ = Int4PerToken { shape, codes: codes.into(), scales: one.into(), form, zeros }
            .import(Part::Keys, WIDE);
        let pages = ImportedPages {
            rows: shape, part: Part::Keys, tier: Tier::T2, tail: WIDE, span_pages: group,
            pool: vec![0; 1024], scales: None, offsets: Some(vec![0.0; 32]),
        };
        prop_assert!(pages.check().is_ok() == pages.dequantize().is_ok());
        let _ = pages.entries(group);
    }

    /// Pages of any bytes are exported or refused, and what is exported comes back as it was.
    #[test]
    fn pages_of_anything_come_back_or_are_refused(
        seed: u64, tier in 0..3_usize, has_minimums: bool, is_tame: bool, has_channels: bool,
    ) {
        let mut random = Random(seed);
        let tier = super::CODED[tier];
        let tail = if has_minimums { Tail::Minimums } else { Tail::ZeroPoints };
        let rows = shape(1, 2, 64, 32);
        let mut pages = ImportedPages {
            rows, part: Part::Keys, tier, tail, span_pages: 1, pool: Vec::new(),
            scales: has_channels.then(|| scheme::parameters::<f32>(64, &mut random)),
            offsets: None,
        };
        let page_bytes = pages.page_shape().unwrap().page_bytes(tier);
        pages.pool = (0..2 * page_bytes).map(|_| random.next() as u8).collect();
        if is_tame {
            // Steps and minimums that are numbers.
            for page in pages.pool.chunks_mut(page_bytes) {
                let n = page.len() - tail.bytes();
                for byte in page[n..].iter_mut().skip(1).step_by(2) {
                    *byte &= 0x3F;
                }
            }
        }
        let numbers = pages.dequantize().unwrap();
        if let Ok(back) = ZipCacheValues::<f32>::export(&pages) {
            super::assert_numbers(&back.import(tail).unwrap(), &numbers);
        }
        let _ = ZipCacheKeys::<f32>::export(&pages);
        let _ = KiviKeys::<f32>::export(&pages);
        if let Ok(back) = KiviValues::<f32>::export(&pages, 32) {
            prop_assert!(!has_channels);
            super::assert_numbers(&back.import(tail).unwrap(), &numbers);
        }
        let _ = Int8PerToken::<f32>::export(&pages);
        for form in [ZeroForm::Signed, ZeroForm::Apart, ZeroForm::InScales] {
            let _ = Int4PerToken::<f32>::export(&pages, form);
        }
    }
}
