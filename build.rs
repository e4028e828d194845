//! Embeds the compiled kernels, and builds the SIMT executor where the feature asks for it. Writes
//! to `OUT_DIR` alone, and looks at nothing of the machine but what it is told of.

#[path = "build/images.rs"]
mod images;
#[cfg(feature = "simt")]
#[path = "build/simt.rs"]
mod simt;

fn main() {
    images::embed();
    #[cfg(feature = "simt")]
    simt::build();
}
