//! `doctor`: what this machine can do, and what to do about the rest.

use std::process::ExitCode;

use lacuna::driver::{self, DriverInfo};
use lacuna::{Error, image};
use serde_json::{Value, json};

use crate::Outcome;
use crate::report::{bytes, print};

/// The exit status where a GPU is required and none runs the kernels.
const NO_GPU: u8 = 3;

pub(crate) fn run(as_json: bool, is_gpu_required: bool) -> Outcome {
    let probe = driver::probe();
    let text = if as_json { format!("{:#}\n", to_json(&probe)) } else { render(&probe) };
    print(&text)?;
    // A machine without a GPU is a normal machine: the CPU side works.
    let has_gpu =
        probe.is_ok_and(|driver| driver.devices.iter().any(|d| d.check_supported().is_ok()));
    let is_missing = is_gpu_required && !has_gpu;
    Ok(if is_missing { ExitCode::from(NO_GPU) } else { ExitCode::SUCCESS })
}

fn render(probe: &Result<DriverInfo, Error>) -> String {
    let mut text = String::from("CPU    ok: compress, decompress, verify, inspect\n");
    match probe {
        Ok(driver) => {
            let (major, minor) = driver::ptx_ceiling(driver.version);
            text += &format!(
                "driver ok: {}, CUDA {}.{}, compiles PTX up to {major}.{minor}\n",
                driver.library,
                driver.version / 1000,
                driver.version % 1000 / 10
            );
            for device in &driver.devices {
                text += &format!(
                    "device {}: {}, compute capability {}.{}, {}, {} multiprocessors, {} of L2\n",
                    device.ordinal,
                    device.name,
                    device.capability.0,
                    device.capability.1,
                    bytes(device.memory_bytes),
                    device.n_multiprocessors,
                    bytes(device.l2_bytes)
                );
                if let Err(error) = device.check_supported() {
                    text += &format!("         {error}\n");
                }
                for room in image::rooms() {
                    let targets = targets(room, device.capability, (major, minor));
                    text += &match targets {
                        Ok(targets) => {
                            format!("         {room}: would load {}\n", targets.join(", "))
                        }
                        Err(error) => format!("         {room}: {error}\n"),
                    };
                }
            }
        }
        Err(error) => text += &format!("GPU    missing: {error}\n"),
    }
    for image in image::all() {
        text += &format!(
            "image  {} for {} in PTX {}.{}: {}\n",
            image.room,
            image.target,
            image.ptx_version.0,
            image.ptx_version.1,
            image.entries.join(", ")
        );
    }
    text
}

/// What the images that a device would load are for.
fn targets(
    room: &'static str,
    capability: (u32, u32),
    ptx_ceiling: (u32, u32),
) -> Result<Vec<&'static str>, Error> {
    let images = image::choose_all(room, capability, ptx_ceiling)?;
    Ok(images.into_iter().map(|image| image.target).collect())
}

fn to_json(probe: &Result<DriverInfo, Error>) -> Value {
    let images: Vec<_> = image::all()
        .iter()
        .map(|image| {
            json!({
                "room": image.room,
                "target": image.target,
                "ptx": format!("{}.{}", image.ptx_version.0, image.ptx_version.1),
                "entries": image.entries,
            })
        })
        .collect();
    let driver = match probe {
        Err(error) => json!({ "found": false, "problem": error.to_string() }),
        Ok(driver) => {
            let ceiling = driver::ptx_ceiling(driver.version);
            let devices: Vec<_> = driver
                .devices
                .iter()
                .map(|device| {
                    let chosen = |room| match targets(room, device.capability, ceiling) {
                        Ok(targets) => json!(targets),
                        Err(error) => json!(error.to_string()),
                    };
                    json!({
                        "ordinal": device.ordinal,
                        "name": device.name,
                        "capability": format!("{}.{}", device.capability.0, device.capability.1),
                        "memory_bytes": device.memory_bytes,
                        "multiprocessors": device.n_multiprocessors,
                        "l2_bytes": device.l2_bytes,
                        "shared_bytes_per_block": device.shared_bytes_per_block,
                        "memory_bytes_per_second": device.memory_bytes_per_second,
                        "supported": device.check_supported().is_ok(),
                        "images": image::rooms().map(|room| (room.to_owned(), chosen(room))).collect::<serde_json::Map<_, _>>(),
                    })
                })
                .collect();
            json!({
                "found": true,
                "library": driver.library,
                "cuda": format!("{}.{}", driver.version / 1000, driver.version % 1000 / 10),
                "ptx": format!("{}.{}", ceiling.0, ceiling.1),
                "devices": devices,
            })
        }
    };
    json!({ "cpu": true, "driver": driver, "images": images })
}
