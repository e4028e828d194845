//! Every committed image fits the crate: parameter sizes, versions, and the hashes of its inputs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lacuna::bindings::ENTRIES;
use lacuna::image;
use sha2::{Digest, Sha256};

/// `.param .align 8 .b8 name[40]` of each `.visible .entry`.
fn params(ptx: &str) -> Vec<(String, usize, usize)> {
    ptx.split(".visible .entry ")
        .skip(1)
        .map(|entry| {
            let (name, rest) = entry.split_once('(').unwrap();
            let (param, _) = rest.split_once(')').unwrap();
            assert_eq!(param.matches(".param").count(), 1, "{name} has one parameter");
            let align = param.split(".align ").nth(1).unwrap().split(' ').next().unwrap();
            let size = param.rsplit_once('[').unwrap().1.split(']').next().unwrap();
            (name.to_owned(), size.parse().unwrap(), align.parse().unwrap())
        })
        .collect()
}

#[test]
fn every_entry_takes_the_struct_that_rust_passes() {
    let mut found = BTreeSet::new();
    for image in image::all() {
        let params = params(image.text);
        let names: Vec<_> = params.iter().map(|(name, _, _)| name.as_str()).collect();
        assert_eq!(names, image.entries, "{}", image.target);
        for (name, size, align) in params {
            let (_, size_in_rust, align_in_rust) =
                ENTRIES.iter().find(|(entry, _, _)| *entry == name).unwrap();
            assert_eq!((size, align), (*size_in_rust, *align_in_rust), "{name}");
            found.insert(name);
        }
    }
    // Some are in an image with clusters and in one without.
    assert_eq!(found.len(), ENTRIES.len());
}

#[test]
fn every_room_has_an_image_for_every_device_and_driver_since_525() {
    for image in image::all() {
        assert_eq!(image.ptx_version, (8, 0));
        let target = image.target.replace("compute_", "sm_");
        assert!(image.text.contains(&format!(".target {target}\n")), "{target}");
        assert!(!image.text.contains("trap;"), "a kernel never traps");
        let of_room = |other: &&image::Image| other.room == image.room;
        assert!(image::all().iter().filter(of_room).any(|image| image.target == "compute_80"));
    }
}

#[test]
fn images_are_made_from_the_sources_beside_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = std::fs::read_to_string(root.join("ptx/MANIFEST")).unwrap();
    let mut n_images = 0;
    for row in manifest.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<_> = row.split(' ').collect();
        let [_, image, source, _, _, _, _, inputs, output] = fields[..] else { panic!("{row}") };
        let remedy = "run `cargo xtask generate`";
        assert_eq!(hash([root.join(image)].into()), output, "{image} was edited; {remedy}");
        let mut paths = vec![root.join(source)];
        let room = root.join(source).parent().unwrap().to_owned();
        for folder in [root.join("csrc"), root.join("csrc/common"), room] {
            paths.extend(headers(&folder));
        }
        assert_eq!(hash(paths), inputs, "{image} is older than its sources; {remedy}");
        n_images += 1;
    }
    assert_eq!(n_images, image::all().len());
}

fn headers(folder: &Path) -> Vec<PathBuf> {
    let mut headers: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "h" || ending == "cuh"))
        .collect();
    headers.sort();
    headers
}

fn hash(paths: Vec<PathBuf>) -> String {
    let mut digest = Sha256::new();
    for path in paths {
        digest.update(std::fs::read(path).unwrap());
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
