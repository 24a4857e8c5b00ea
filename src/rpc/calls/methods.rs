//! The methods that are served, as labels: read off the same descriptors that reflection serves, so
//! that a new one is not forgotten.

use std::{collections::HashMap, sync::Arc};

use prost::Message as _;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};

use crate::{measures::Labels, proto::DESCRIPTORS};

/// What any other path is called.
pub(super) const UNKNOWN: &str = "unknown";

/// What is kept of each method, by its path.
#[derive(Debug)]
pub(super) struct Methods<T> {
    by_path: HashMap<String, Arc<T>>,
    unknown: Arc<T>,
}

impl<T> Methods<T> {
    /// The contract's, and those of health checks and reflection; `kept` makes what is kept of the
    /// one with these labels.
    pub(super) fn served(kept: impl Fn(Labels) -> T) -> Self {
        let mut by_path = HashMap::new();
        for encoded in [
            DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            // They are part of the program; one that could not be read would be `unknown`.
            let files = FileDescriptorSet::decode(encoded).unwrap_or_default().file;
            for file in files {
                for service in &file.service {
                    let service_name = format!("{}.{}", file.package(), service.name());
                    by_path.extend(service.method.iter().map(|method| {
                        let path = format!("/{service_name}/{}", method.name());
                        let labels = labels(&service_name, method.name(), kind(method));
                        (path, Arc::new(kept(labels)))
                    }));
                }
            }
        }
        Self { by_path, unknown: Arc::new(kept(labels(UNKNOWN, UNKNOWN, UNKNOWN))) }
    }

    /// The method at a path.
    pub(super) fn of(&self, path: &str) -> &Arc<T> {
        self.by_path.get(path).unwrap_or(&self.unknown)
    }
}

fn labels(service: &str, method: &str, kind: &str) -> Labels {
    let labels = [("grpc_type", kind), ("grpc_service", service), ("grpc_method", method)];
    labels.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

fn kind(method: &MethodDescriptorProto) -> &'static str {
    match (method.client_streaming(), method.server_streaming()) {
        (false, false) => "unary",
        (true, false) => "client_stream",
        (false, true) => "server_stream",
        (true, true) => "bidi_stream",
    }
}
