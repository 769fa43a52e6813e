//! Compiles the CUDA kernels to PTX, where the feature `cuda` asks for them.

#[cfg(feature = "cuda")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/cuda");
    let out = std::env::var("OUT_DIR")?;
    cudaforge::KernelBuilder::new()
        .source_dir("src/cuda")
        .watch(
            ["attention", "attention_tiles", "common"].map(|file| format!("src/cuda/{file}.cuh")),
        )
        .arg("-std=c++17")
        .arg("-O3")
        // Its cache of what is up to date does not notice files that are gone.
        .no_incremental()
        .build_ptx()?
        .write(format!("{out}/ptx.rs"))?;
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
