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

/// The image of `room` for a device of this compute capability, whose driver compiles PTX up to
/// `ptx_ceiling`: one made for its very architecture, else the newest portable one that is not
/// newer than it.
///
/// # Errors
/// [`Error::Image`] names what there is; where the driver is too old for it, what is needed too.
pub fn choose<'a, I>(
    images: I,
    room: &'static str,
    capability: (u32, u32),
    ptx_ceiling: (u32, u32),
) -> Result<&'a Image>
where
    I: IntoIterator<Item = &'a Image> + Clone,
{
    let of_room = || images.clone().into_iter().filter(|image| image.room == room);
    let runs = |image: &&Image| image.is_for(capability);
    if let Some(image) = of_room()
        .filter(runs)
        .filter(|image| image.ptx_version <= ptx_ceiling)
        .max_by_key(|image| image.runs_on())
    {
        return Ok(image);
    }
    let device = format!("compute capability {}.{}", capability.0, capability.1);
    let oldest_ptx = of_room().filter(runs).map(|image| image.ptx_version).min();
    let reason = match oldest_ptx {
        Some((major, minor)) => format!(
            "the driver supports PTX up to {}.{}, and the oldest image needs PTX {major}.{minor}; \
             update the driver",
            ptx_ceiling.0, ptx_ceiling.1
        ),
        None => {
            let targets: Vec<_> = of_room().map(|image| image.target).collect();
            let there_is = if targets.is_empty() { "none".to_owned() } else { targets.join(", ") };
            format!("there is {there_is}")
        }
    };
    Err(Error::Image { room, device, reason })
}

/// The rooms that have images.
pub fn rooms() -> impl Iterator<Item = &'static str> {
    let is_first = |(idx, image): &(usize, &Image)| {
        all()[..*idx].iter().all(|earlier| earlier.room != image.room)
    };
    all().iter().enumerate().filter(is_first).map(|(_, image)| image.room)
}

/// The image that a device loads for one kernel: what [`choose`] takes of those that hold it.
///
/// # Errors
/// Those of [`choose`].
pub fn choose_for(
    room: &'static str,
    entry: &str,
    capability: (u32, u32),
    ptx_ceiling: (u32, u32),
) -> Result<&'static Image> {
    let holders = all().iter().filter(|image| image.entries.contains(&entry));
    choose(holders, room, capability, ptx_ceiling)
}

/// The images that a device loads for the kernels of `room`: for each kernel of an image that is for
/// such devices, what [`choose_for`] takes.
///
/// # Errors
/// Those of [`choose`], also where there is none at all.
pub fn choose_all(
    room: &'static str,
    capability: (u32, u32),
    ptx_ceiling: (u32, u32),
) -> Result<Vec<&'static Image>> {
    let runs = |image: &&Image| image.room == room && image.is_for(capability);
    let mut chosen = Vec::new();
    for entry in all().iter().filter(runs).flat_map(|image| image.entries) {
        let image = choose_for(room, entry, capability, ptx_ceiling)?;
        if !chosen.contains(&image) {
            chosen.push(image);
        }
    }
    if chosen.is_empty() {
        choose(all(), room, capability, ptx_ceiling)?;
    }
    Ok(chosen)
}

/// The devices that a target runs on, the better fit being the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Architectures {
    /// This compute capability and every newer one.
    From((u32, u32)),
    /// This compute capability alone.
    Only((u32, u32)),
}

impl Image {
    /// Whether devices of this compute capability run it, be their driver new enough.
    pub fn is_for(&self, capability: (u32, u32)) -> bool {
        match self.runs_on() {
            Some(Architectures::From(oldest)) => oldest <= capability,
            Some(Architectures::Only(only)) => only == capability,
            None => false,
        }
    }

    /// Whether it is compiled for clusters of blocks: those of common/cluster.cuh are of one block in
    /// an image for less than 9.0.
    pub fn has_clusters(&self) -> bool {
        match self.runs_on() {
            Some(Architectures::From(found) | Architectures::Only(found)) => found >= (9, 0),
            None => false,
        }
    }

    /// `compute_80` is portable from 8.0, `sm_90a` runs on 9.0; `None` for any other form.
    fn runs_on(&self) -> Option<Architectures> {
        let capability = |number: &str| {
            let number: u32 = number.parse().ok()?;
            Some((number / 10, number % 10))
        };
        match self.target.split_once('_')? {
            ("compute", number) => capability(number).map(Architectures::From),
            ("sm", number) => capability(number.strip_suffix('a')?).map(Architectures::Only),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn image(target: &'static str, ptx_version: (u32, u32)) -> Image {
        Image { room: "room", target, ptx_version, entries: &[], text: "" }
    }

    fn target(
        images: &[Image],
        capability: (u32, u32),
        ptx_ceiling: (u32, u32),
    ) -> Result<&'static str, String> {
        choose(images, "room", capability, ptx_ceiling)
            .map(|image| image.target)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_exact_architecture_comes_before_the_newest_portable_image() {
        let images = [
            image("sm_90a", (8, 0)),
            image("compute_80", (8, 0)),
            image("compute_90", (8, 0)),
            image("sm_100a", (8, 7)),
        ];
        for (capability, expected) in [
            ((8, 0), "compute_80"),
            ((8, 9), "compute_80"),
            ((9, 0), "sm_90a"),
            ((10, 0), "sm_100a"),
            ((10, 3), "compute_90"),
            ((12, 1), "compute_90"),
        ] {
            assert_eq!(target(&images, capability, (9, 0)), Ok(expected), "{capability:?}");
        }
    }

    #[test]
    fn images_for_hopper_and_newer_have_clusters() {
        for (target, expected) in
            [("compute_80", false), ("compute_89", false), ("compute_90", true), ("sm_100a", true)]
        {
            assert_eq!(image(target, (8, 0)).has_clusters(), expected, "{target}");
        }
    }

    #[test]
    fn an_old_driver_gets_the_older_image_or_an_error_that_names_both() {
        let images = [image("compute_80", (8, 0)), image("sm_90a", (8, 7))];
        assert_eq!(target(&images, (9, 0), (8, 4)), Ok("compute_80"));
        assert_eq!(
            target(&images[1..], (9, 0), (8, 4)).unwrap_err(),
            "no image of room loads on compute capability 9.0: the driver supports PTX up to 8.4, \
             and the oldest image needs PTX 8.7; update the driver"
        );
    }

    #[test]
    fn a_device_that_no_image_runs_on_is_told_what_there_is() {
        let images = [image("compute_80", (8, 0)), image("sm_90a", (8, 0))];
        assert_eq!(
            target(&images, (7, 5), (9, 0)).unwrap_err(),
            "no image of room loads on compute capability 7.5: there is compute_80, \
             sm_90a"
        );
        assert_eq!(
            target(&[], (9, 0), (9, 0)).unwrap_err(),
            "no image of room loads on compute capability 9.0: there is none"
        );
    }

    #[test]
    fn another_rooms_image_is_none() {
        let elsewhere = Image { room: "another", ..image("compute_90", (8, 0)) };
        let images = [image("compute_80", (8, 0)), elsewhere];
        assert_eq!(target(&images, (9, 0), (9, 0)), Ok("compute_80"));
        assert!(target(&images[1..], (9, 0), (9, 0)).is_err());
    }

    #[test]
    fn every_embedded_image_says_where_it_runs_and_what_it_holds() {
        assert!(!all().is_empty());
        for image in all() {
            assert!(image.runs_on().is_some(), "{}: target {}", image.room, image.target);
            assert!(!image.text.contains('\0'), "{}: the driver would stop at it", image.room);
            for entry in image.entries {
                assert!(image.text.contains(&format!(".entry {entry}(")), "{entry}");
            }
        }
    }
}
