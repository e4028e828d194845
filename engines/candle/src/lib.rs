//! lacuna on candle.
