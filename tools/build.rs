//! Tells the tools which compiler built them and for what, so that a report can say it.

use std::process::Command;

fn main() {
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = Command::new(compiler)
        .arg("--version")
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "rustc of unknown version".to_owned(), |text| text.trim().to_owned());
    let target = std::env::var("TARGET").unwrap_or_else(|_| "unknown target".to_owned());
    println!("cargo:rustc-env=TERRACE_BUILT_BY={version}");
    println!("cargo:rustc-env=TERRACE_BUILT_FOR={target}");
    println!("cargo:rerun-if-changed=build.rs");
}
