//! The compiled kernels that the crate carries, and which of them a device takes.

use crate::{Error, Result};

/// One compiled image of one room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// The room whose kernels it holds.
    pub room: &'static str,
    /// What it was compiled for: `compute_80` runs on that and everything newer, `sm_90a` on that
    /// alone.
    pub target: &'static str,
    /// The PTX ISA it is written in.
    pub ptx_version: (u32, u32),
    /// Its kernels.
    pub entries: &'static [&'static str],
    /// The PTX.
    pub text: &'static str,
}

mod embedded {
    use super::Image;
    include!(concat!(env!("OUT_DIR"), "/images.rs"));
}

/// Every image of the crate.
pub fn all() -> &'static [Image] {
    embedded::IMAGES
}

/// The image of `room` for a device: one made for its very architecture, else the newest portable
/// one that is not newer than it.
///
/// # Errors
/// [`Error::Image`], which names what there is, and the driver that is needed where the device's
/// is too old for it.
pub fn choose<'a>(
    images: &'a [Image],
    room: &'static str,
    capability: (u32, u32),
    ptx_ceiling: (u32, u32),
) -> Result<&'a Image> {
    let exact = format!("sm_{}{}a", capability.0, capability.1);
    let fits = |image: &&Image| image.ptx_version <= ptx_ceiling;
    let of_room = || images.iter().filter(|image| image.room == room);
    let runs = |image: &&Image| {
        image.target == exact
            || portable_capability(image.target).is_some_and(|needed| needed <= capability)
    };
    of_room()
        .filter(runs)
        .filter(fits)
        .max_by_key(|image| (image.target == exact, portable_capability(image.target)))
        .ok_or_else(|| {
            let has: Vec<_> = of_room()
                .map(|image| {
                    format!(
                        "{} in PTX {}.{}",
                        image.target, image.ptx_version.0, image.ptx_version.1
                    )
                })
                .collect();
            Error::Image {
                room,
                device: format!("compute capability {}.{}", capability.0, capability.1),
                reason: format!(
                    "the driver compiles PTX up to {}.{}, and there is {}; update the driver",
                    ptx_ceiling.0,
                    ptx_ceiling.1,
                    if has.is_empty() { "none".to_owned() } else { has.join(", ") }
                ),
            }
        })
}

/// `compute_80` → (8, 0); `None` for what is not portable.
fn portable_capability(target: &str) -> Option<(u32, u32)> {
    let number: u32 = target.strip_prefix("compute_")?.parse().ok()?;
    Some((number / 10, number % 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn image(target: &'static str, ptx_version: (u32, u32)) -> Image {
        Image { room: "room", target, ptx_version, entries: &[], text: "" }
    }

    #[test]
    fn the_exact_architecture_comes_before_the_newest_portable_image() {
        let images =
            [image("compute_80", (8, 0)), image("compute_90", (8, 0)), image("sm_90a", (8, 0))];
        let target = |capability| choose(&images, "room", capability, (9, 0)).unwrap().target;
        assert_eq!(target((8, 0)), "compute_80");
        assert_eq!(target((8, 9)), "compute_80");
        assert_eq!(target((9, 0)), "sm_90a");
        assert_eq!(target((12, 0)), "compute_90");
    }

    #[test]
    fn an_old_driver_gets_the_older_image_or_an_error_that_names_both() {
        let images = [image("compute_80", (8, 0)), image("sm_90a", (8, 7))];
        assert_eq!(choose(&images, "room", (9, 0), (8, 4)).unwrap().target, "compute_80");
        let error = choose(&images[1..], "room", (9, 0), (8, 4)).unwrap_err().to_string();
        assert_eq!(
            error,
            "no image of room loads on compute capability 9.0: the driver compiles PTX up to 8.4, \
             and there is sm_90a in PTX 8.7; update the driver"
        );
    }

    #[test]
    fn a_device_older_than_every_image_gets_none() {
        assert!(choose(&[image("compute_80", (8, 0))], "room", (7, 5), (9, 0)).is_err());
        assert!(choose(&[], "room", (9, 0), (9, 0)).is_err());
    }
}
