//! Compiles `src/model/ops/cuda/source/*.cu` to PTX for feature `cuda`, and has such a program look for CUDA's libraries where
//! Python packages put them.
//!
//! `NVCC` names the compiler (else `nvcc` of the PATH or of `CUDA_HOME`), `CUDA_COMPUTE_CAP` the compute capability
//! (90 for an H100; else the one that nvidia-smi reports, else 80). PTX of one capability runs on that and on later
//! ones: the driver translates it when a kernel is first used.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        find_python_cuda_libraries();
    }
    let sources = Path::new("src/model/ops/cuda/source");
    println!("cargo::rerun-if-changed={}", sources.display());
    for variable in [
        "NVCC",
        "CUDA_HOME",
        "CUDA_COMPUTE_CAP",
        "NVCC_CCBIN",
        "NVCC_APPEND_FLAGS",
    ] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let nvcc = nvcc();
    let capability = compute_capability();
    let arch = format!("compute_{capability}");
    // The program says so where a card refuses its kernels.
    println!("cargo::rustc-env=KERNELS_BUILT_FOR={capability}");
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    for entry in std::fs::read_dir(sources)? {
        let source = entry?.path();
        if source.extension().is_none_or(|extension| extension != "cu") {
            continue;
        }
        let ptx = out_dir.join(source.with_extension("ptx").file_name().unwrap_or_default());
        let status = Command::new(&nvcc)
            .args(["--ptx", "-std=c++17", "-O3", "-arch", &arch, "-o"])
            .args([&ptx, &source])
            .status()
            .map_err(|error| format!("{}: {error} (set NVCC or CUDA_HOME)", nvcc.display()))?;
        if !status.success() {
            return Err(format!("{} does not compile {}", nvcc.display(), source.display()).into());
        }
    }
    Ok(())
}

/// A program in the `bin` of a Python environment finds the CUDA libraries that PyTorch brought into it, after those of
/// `LD_LIBRARY_PATH` and before those of the system.
fn find_python_cuda_libraries() {
    // In a wheel for CUDA 13 all stand together but NCCL; for CUDA 12 each has a folder.
    const FOLDERS: [&str; 6] = [
        "cu13",
        "nccl",
        "cublas",
        "curand",
        "cuda_runtime",
        "cuda_nvrtc",
    ];
    for minor in 9..=15 {
        for folder in FOLDERS {
            let path = format!("$ORIGIN/../lib/python3.{minor}/site-packages/nvidia/{folder}/lib");
            println!("cargo::rustc-link-arg-bins=-Wl,-rpath,{path}");
        }
    }
}

fn nvcc() -> PathBuf {
    if let Some(nvcc) = env::var_os("NVCC") {
        return nvcc.into();
    }
    let in_home = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    in_home
        .filter(|nvcc| nvcc.exists())
        .unwrap_or_else(|| "nvcc".into())
}

/// As two digits or three; a letter behind them (90a) names features of one chip, which these kernels do not use.
fn compute_capability() -> String {
    let asked = env::var("CUDA_COMPUTE_CAP").ok().or_else(|| {
        let output = Command::new("nvidia-smi")
            .args(["--query-gpu=compute_cap", "--format=csv,noheader"])
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        Some(text.lines().next()?.to_owned())
    });
    let digits: String = asked
        .unwrap_or_default()
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    if digits.is_empty() {
        "80".into()
    } else {
        digits
    }
}
