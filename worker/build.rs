//! Lets the worker's programs and tests find libtorch where they were linked against it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The collective crate says where; see its documentation on building.
    if let Ok(lib) = std::env::var("DEP_CAPPA_COLLECTIVE_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
}
