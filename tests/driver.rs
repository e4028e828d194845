//! What a machine without a sound driver gets: one typed error for each case, and never a panic.
//!
//! Each case runs in a process of its own, with a driver library built for it; a panic there aborts
//! the process, as it does under `panic = "abort"`.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::Command;

use lacuna::{Device, Error};

const CHILD: &str = "LACUNA_DRIVER_TEST_CHILD";

/// Not a test by itself: what a child process runs.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    std::panic::set_hook(Box::new(|_| std::process::abort()));
    let error = Device::open(0).expect_err("no case has a device that opens");
    let kind = match &error {
        Error::NoDriver { .. } => "NoDriver",
        Error::StubDriver { .. } => "StubDriver",
        Error::DriverTooOld { .. } => "DriverTooOld",
        Error::NoDevice { .. } => "NoDevice",
        Error::UnsupportedDevice { .. } => "UnsupportedDevice",
        Error::Driver { .. } => "Driver",
        _ => "another error",
    };
    println!("\nchild: {kind}: {error}");
}

/// Opens a device in a process that finds `libraries` first, and says what it got.
fn open_with(library: Option<&[&str]>) -> String {
    let folder = tempfile::tempdir().unwrap();
    match library {
        Some(flags) => build(flags, folder.path()),
        // Not a library at all: loading it fails, as where there is none. Both names, so that a
        // real driver of this machine is not found instead.
        None => {
            for name in ["libcuda.so.1", "libcuda.so"] {
                std::fs::write(folder.path().join(name), "").unwrap();
            }
        }
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env(CHILD, "1")
        .env("LD_LIBRARY_PATH", folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {text}", output.status);
    text.lines().find_map(|line| line.strip_prefix("child: ")).unwrap().to_owned()
}

fn build(flags: &[&str], folder: &Path) {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let status = Command::new(&compiler)
        .args(["-shared", "-fPIC", "-w", "-o"])
        .arg(folder.join("libcuda.so.1"))
        .args(flags)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake_driver/driver.c"))
        .status()
        .unwrap();
    assert!(status.success(), "{compiler} builds the driver");
}

#[test]
fn no_driver() {
    assert_eq!(
        open_with(None),
        "NoDriver: no CUDA driver: looked for libcuda.so.1, libcuda.so; install the NVIDIA \
         driver, or use the CPU decoder"
    );
}

#[test]
fn a_stub_without_most_functions() {
    let flags = ["-DSTUB", "-DINIT=0", "-DVERSION=12080"];
    assert_eq!(
        open_with(Some(&flags)),
        "StubDriver: libcuda.so.1 is a stub, not the CUDA driver (it has no cuGetErrorName); put \
         the directory of the real libcuda first in LD_LIBRARY_PATH, or start the container with \
         GPU access"
    );
}

#[test]
fn a_stub_that_says_so() {
    let flags = ["-DINIT=34", "-DVERSION=12080", "-DN_DEVICES=0", "-DMAJOR=9", "-DMINOR=0"];
    let error = open_with(Some(&flags));
    assert!(error.starts_with("StubDriver: libcuda.so.1 is a stub"), "{error}");
}

#[test]
fn a_driver_too_old() {
    let flags = ["-DINIT=0", "-DVERSION=11080", "-DN_DEVICES=1", "-DMAJOR=9", "-DMINOR=0"];
    assert_eq!(
        open_with(Some(&flags)),
        "DriverTooOld: the CUDA driver supports CUDA 11.8, and 12.0 or newer is needed (driver 525 \
         or newer); update the driver"
    );
}

#[test]
fn no_device() {
    for (init, n_devices) in [("-DINIT=100", "-DN_DEVICES=0"), ("-DINIT=0", "-DN_DEVICES=0")] {
        let flags = [init, "-DVERSION=12080", n_devices, "-DMAJOR=9", "-DMINOR=0"];
        assert_eq!(
            open_with(Some(&flags)),
            "NoDevice: no CUDA device 0: the driver sees 0; check nvidia-smi, \
             CUDA_VISIBLE_DEVICES, and the container's GPU access"
        );
    }
}

#[test]
fn an_unsupported_device() {
    let flags = ["-DINIT=0", "-DVERSION=12080", "-DN_DEVICES=1", "-DMAJOR=7", "-DMINOR=5"];
    assert_eq!(
        open_with(Some(&flags)),
        "UnsupportedDevice: device 0 (Fake GPU) has compute capability 7.5; 8.0 or newer is \
         supported"
    );
}

#[test]
fn a_driver_that_fails_is_named_without_asking_it() {
    let flags = ["-DINIT=999", "-DVERSION=12080", "-DN_DEVICES=1", "-DMAJOR=9", "-DMINOR=0"];
    assert_eq!(open_with(Some(&flags)), "Driver: cuInit failed: unknown (999)");
}
