//! Compiles the C++ shim against LIBTORCH, and the CUDA plug-in where CUDA's headers are found.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What programs link: the store, the Gloo group, the reducer and the operators.
const SHIM: [&str; 7] = [
    "shim/error.cc",
    "shim/gloo_backend.cc",
    "shim/group.cc",
    "shim/names.cc",
    "shim/ops.cc",
    "shim/reducer.cc",
    "shim/store.cc",
];

const PLUGIN: &str = "libcappa_cuda.so";

fn main() {
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-env-changed=CAPPA_CUDA_INCLUDE");
    let torch = env::var("LIBTORCH").expect("LIBTORCH names the torch folder of the libtorch to build with");
    let torch = std::path::absolute(torch).expect("LIBTORCH is a path");
    let lib = torch.join("lib");

    compiler(&torch).include("shim/gloo").files(SHIM).compile("cappa_shim");
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
    // A build script's link arguments reach only its own package, so dependents read
    // DEP_CAPPA_COLLECTIVE_LIB and add the same search path to their programs.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:lib={}", lib.display());

    if let Some(headers) = cuda_headers(&torch) {
        build_plugin(&torch, &headers);
    }
}

fn compiler(torch: &Path) -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .warnings(false) // libtorch's headers have thousands
        .include("shim")
        .include(torch.join("include"))
        .include(torch.join("include/torch/csrc/api/include"))
        .flag("-fvisibility-inlines-hidden");
    build
}

/// Include folders that together hold what the plug-in needs of CUDA and NCCL, or none.
fn cuda_headers(torch: &Path) -> Option<Vec<PathBuf>> {
    let folders: Vec<PathBuf> = match env::var_os("CAPPA_CUDA_INCLUDE") {
        Some(list) => env::split_paths(&list).collect(),
        None => {
            let wheels = torch.parent()?.join("nvidia");
            let folders = ["cu13/include", "cu13/include/cccl", "nccl/include"];
            folders.iter().map(|folder| wheels.join(folder)).collect()
        }
    };
    let found = |header: &str| folders.iter().any(|folder| folder.join(header).is_file());
    let needed = ["cuda_runtime.h", "crt/host_defines.h", "cuda/std/complex", "nccl.h"];
    needed.into_iter().all(found).then_some(folders)
}

fn build_plugin(torch: &Path, headers: &[PathBuf]) {
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    let built = out.join(PLUGIN);
    let mut build = compiler(torch);
    // Our stand-ins for the mathematical libraries' headers come last: real ones win.
    build.includes(headers).include("shim/cuda_math").pic(true);
    let mut link: Command = build.get_compiler().to_command();
    // What it leaves undefined is in the libtorch that the program has loaded by then.
    link.args(["-shared", "-o"]).arg(&built).arg("shim/cuda.cc");
    let status = link.status().expect("the C++ compiler runs");
    assert!(status.success(), "{PLUGIN} does not compile with the CUDA headers found");
    // OUT_DIR is <profile>/build/<package>/out: programs find the plug-in beside themselves.
    let profile = out.ancestors().nth(3).expect("OUT_DIR is inside the profile's folder");
    std::fs::copy(&built, profile.join(PLUGIN)).expect("the profile's folder is writable");
}
