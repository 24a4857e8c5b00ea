//! Compiles the contract in `proto/` to Rust, without a `protoc` on the machine.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const PROTO: &str = "sessionpool/v1/session_pool.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile([PROTO], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Reflection serves the same descriptors that the code was made from.
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_transport(true)
        .boxed(".sessionpool.v1.TurnEvent.kind.started")
        .boxed(".sessionpool.v1.QueryResponse.item.event")
        .boxed(".sessionpool.v1.AttachResponse.item.event")
        .boxed(".sessionpool.v1.WatchSessionResponse.item.event")
        .boxed(".sessionpool.v1.WatchSessionResponse.item.session")
        .compile_fds(descriptors)?;
    Ok(())
}
