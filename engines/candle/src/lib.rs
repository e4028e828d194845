#![doc = include_str!("../README.md")]

mod attention;
#[cfg(feature = "cuda")]
mod cuda;
mod embedding;
mod kv;
mod linear;
mod plain;
mod select;
mod storage;
mod tiered;
mod weights;

pub use attention::{AttendOptions, Attended, Segment, attend};
pub use embedding::Embedding;
pub use kv::{KvCache, Rotary, append_kv};
pub use lacuna;
pub use linear::Linear;
pub use select::{
    Picks, ScoreOptions, TopkOptions, VoteOptions, box_cache, score_rows, summarize, topk_rows,
    vote_rows,
};
pub use tiered::{ChannelTensors, TieredPages, attend_tiered, measure_channels, quantize_pages};
pub use weights::{Keep, Weights};

/// Loads every kernel that a CUDA device can run now, so that no later call does: once, before calls are captured in a graph. Nothing
/// on the CPU.
///
/// # Errors
/// Where there is no driver, or no image loads.
pub fn warm_up(device: &candle_core::Device) -> candle_core::Result<()> {
    match device {
        #[cfg(feature = "cuda")]
        candle_core::Device::Cuda(device) => {
            let ordinal = device.cuda_stream().context().ordinal();
            lacuna::Device::open(ordinal).and_then(|device| device.warm_up()).w()
        }
        _ => Ok(()),
    }
}

/// An error of lacuna's as one of candle's, its words unchanged.
pub(crate) trait Wrap<T> {
    fn w(self) -> candle_core::Result<T>;
}

impl<T, E: Into<lacuna::Error>> Wrap<T> for Result<T, E> {
    fn w(self) -> candle_core::Result<T> {
        self.map_err(|error| candle_core::Error::wrap(error.into()))
    }
}
