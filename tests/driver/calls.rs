//! What launches call, kernel by kernel, is in calls/: the benches, which have a case of every kernel, write it and hold
//! it (benches/house/calls.rs). Here it is held that no kernel of the images is left out.

use std::collections::BTreeSet;
use std::path::PathBuf;

use lacuna::image;

#[test]
fn the_calls_of_every_kernel_are_written_down() {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "driver", "calls"].iter().collect();
    let mut rooms = BTreeSet::new();
    for image in image::all() {
        let path = folder.join(format!("{}.md", image.room));
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask calls`", path.display()));
        for entry in image.entries {
            let launch = format!("launch `{entry}`");
            assert!(
                text.contains(&launch),
                "{entry} is not in {}; run `cargo xtask calls`",
                path.display()
            );
        }
        rooms.insert(format!("{}.md", image.room));
    }
    let written = std::fs::read_dir(&folder).unwrap();
    let written: BTreeSet<_> =
        written.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(written, rooms, "rooms that there are");
}
