//! Golden vectors: files for a second implementer, which the tests write and hold themselves to.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// Element type, shape and bytes of each tensor, by its name.
pub(crate) type Vectors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// That `file`, of the folder of golden data, holds these and nothing else; under `LACUNA_WRITE_GOLDEN` it is written before.
#[track_caller]
pub(crate) fn assert_golden(file: &str, vectors: &Vectors) {
    let path = super::data_folder().join(file);
    if std::env::var_os("LACUNA_WRITE_GOLDEN").is_some() {
        let views = vectors.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    }
    let file = std::fs::read(path).expect("the golden vectors");
    let golden = SafeTensors::deserialize(&file).unwrap();
    assert_eq!(golden.len(), vectors.len());
    for (name, (dtype, shape, bytes)) in vectors {
        let tensor = golden.tensor(name).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (*dtype, &shape[..]));
        assert!(tensor.data() == bytes, "{name} is not the golden one");
    }
}
