//! Checkpoints on disk: read as they are found, written whole or not at all.

mod checkpoint;
mod convert;
mod layout;
mod model;
mod tensor_file;

pub use checkpoint::{Checked, Checkpoint, CheckpointError, CheckpointGroup, Matrix, VERSIONS};
pub use convert::{Progress, Summary, compress, decompress, temporary_prefix};
pub use layout::GroupPattern;
pub use model::{Model, ModelTensor};
