//! Checkpoints on disk: read as they are found, written whole or not at all.

mod checkpoint;
mod convert;
mod encoded;
mod layout;
mod model;
mod stored;
mod tensor_file;
mod write;

pub use checkpoint::{
    Checked, Checkpoint, CheckpointError, CheckpointGroup, Matrix, MatrixPlace, VERSIONS,
};
pub use convert::{Converted, Progress, compress, decompress, transcode};
pub use layout::GroupPattern;
pub use model::{Model, ModelGroup, ModelTensor};
pub use stored::{Format, RawStored, Stored};
pub use write::temporary_prefix;
