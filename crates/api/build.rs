//! Compiles our protos with a Rust compiler for them, so that no `protoc` is needed to build.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

const PROTOS: [&str; 2] = ["gatehouse/authn/v1/authn.proto", "gatehouse/authz/v1/authz.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("gatehouse.binpb"), descriptors.encode_to_vec())?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
