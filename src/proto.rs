//! The types that `build.rs` makes from `proto/`, and the descriptors that
//! reflection serves. Only `rpc` and `client` use them: everything else speaks
//! the domain's own types.

#![cfg_attr(not(test), expect(clippy::too_many_lines, reason = "generated"))]
#![expect(clippy::doc_markdown, reason = "generated; the documentation is in the proto file")]

tonic::include_proto!("sessionpool.v1");

/// The encoded `FileDescriptorSet` of the contract and of what it imports.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The full name of the service, as health checks and error domains use it.
pub const SERVICE_NAME: &str = "sessionpool.v1.SessionPoolService";
