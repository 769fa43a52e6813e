//! With the feature `cuda`: compiles `src/cuda/*.cu` to PTX.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(tensor_sweep)");
    #[cfg(feature = "cuda")]
    if let Err(error) = cuda() {
        panic!("the CUDA kernels of codebook cannot be compiled (see docs/gpu.md): {error}");
    }
}

#[cfg(feature = "cuda")]
fn cuda() -> Result<(), Box<dyn std::error::Error>> {
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    let mut sources = vec!["prepare", "sweep_scalar", "resolve", "argmax", "sums"];
    // wgmma and setmaxnreg are Hopper's alone.
    if cudaforge::detect_compute_cap()?.base() == 90 {
        sources.push("sweep_tensor");
        println!("cargo::rustc-cfg=tensor_sweep");
    }
    println!("cargo::rerun-if-changed=src/cuda");
    cudaforge::KernelBuilder::new()
        .source_files(sources.iter().map(|name| format!("src/cuda/{name}.cu")))
        .watch(["src/cuda"])
        .arg("-std=c++17")
        .arg("-O3")
        // Its cache of what is up to date does not notice files that are gone.
        .no_incremental()
        .build_ptx()?
        .write(out.join("kernels.rs"))?;
    Ok(())
}
